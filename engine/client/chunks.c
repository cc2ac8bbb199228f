/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pool's chunks, for who registers them with a device. These calls come from a thread beside
 * the session's: they hold its lock, under which attachments come and go, and enter no call.
 */
#include "base/check.h"
#include "engine/client/client_priv.h"

/* An id is (epoch, number of the chunk): epochs are never used again. */
static uint64_t chunk_id(const struct attachment *a, uint32_t number)
{
	return (uint64_t)a->epoch << 32 | number;
}

static enum skep_chunk_state state_of(struct skep *session, struct attachment *a)
{
	bool busy;

	/* Sequentially consistent, in this order: pairs with session_enter(). Who is in no call now
	 * sees `down` in his next one and takes nothing of the attachment any more; what calls
	 * before took is seen. */
	if (!atomic_load_explicit(&a->down, memory_order_seq_cst))
		return SKEP_CHUNK_LIVE;
	busy = atomic_load_explicit(&session->busy, memory_order_seq_cst);
	/* Of one that is not the current one a call under way can only give something back. */
	if ((busy && a == session->current) ||
		atomic_load_explicit(&a->holds, memory_order_relaxed))
		return SKEP_CHUNK_OLD;
	return SKEP_CHUNK_LEAVING;
}

/* Where the chunk ends, in the pool. */
static uint64_t chunk_end(const struct attachment *a, uint32_t number)
{
	return MIN_OF((number + 1) * a->chunk_bytes, a->pool_bytes);
}

/* Session lock. How many chunks of the attachment the daemon has populated: they come in order, and
 * one that was told stays told, whatever the daemon says later. */
static uint32_t chunks_ready(struct attachment *a)
{
	uint64_t ready;

	if (a->gone)
		return 0;
	/* Acquire pairs with the keeper's release: the pages are there. */
	ready = atomic_load_explicit(&a->index.head->pool_ready_bytes, memory_order_acquire);
	while (a->chunks_ready < a->chunk_count && chunk_end(a, a->chunks_ready) <= ready)
		a->chunks_ready++;
	return a->chunks_ready;
}

struct listing {
	struct skep_chunk *chunks;
	unsigned max, count;
};

static void chunks_list(struct skep *session, struct attachment *a, struct listing *to)
{
	bool readonly = session->hello.flags & WIRE_HELLO_READONLY;
	uint32_t ready = chunks_ready(a);
	enum skep_chunk_state state = ready ? state_of(session, a) : SKEP_CHUNK_LIVE;

	for (uint32_t i = 0; i < ready; i++, to->count++) {
		uint64_t at = i * a->chunk_bytes;

		if (to->count < to->max)
			to->chunks[to->count] = (struct skep_chunk){.id = chunk_id(a, i),
				.memory = a->pool + at,
				.bytes = chunk_end(a, i) - at,
				.state = state,
				.readonly = readonly};
	}
}

int skep_chunks(struct skep *session, struct skep_chunk *chunks, unsigned max)
{
	struct listing to = {.chunks = chunks, .max = max};

	if (!session || (max && !chunks))
		return -EINVAL;
	if (session_forked(session))
		return -EOWNERDEAD;
	pthread_mutex_lock(&session->lock);
	list_each (node, &session->old)
		chunks_list(session, list_item(node, struct attachment, link), &to);
	chunks_list(session, session->current, &to);
	if (session->next)
		chunks_list(session, session->next, &to);
	pthread_mutex_unlock(&session->lock);
	return (int)to.count;
}

/* Session lock. The attachment that the id is of, or NULL; *@number: which of its chunks. */
static struct attachment *chunk_find(struct skep *session, uint64_t id, uint32_t *number)
{
	struct attachment *found = NULL;
	uint32_t epoch = (uint32_t)(id >> 32);

	list_each (node, &session->old) {
		struct attachment *a = list_item(node, struct attachment, link);

		if (a->epoch == epoch)
			found = a;
	}
	if (session->current->epoch == epoch)
		found = session->current;
	if (session->next && session->next->epoch == epoch)
		found = session->next;
	*number = (uint32_t)id;
	return found && *number < chunks_ready(found) ? found : NULL;
}

/* Counts a hold of a chunk up or down. Return: 0; -ENOENT: it is not there to be held, or not held;
 * -EINVAL, -EOWNERDEAD. */
static int chunk_count(struct skep *session, uint64_t id, bool hold)
{
	struct attachment *a;
	uint32_t number;

	if (!session || !id)
		return -EINVAL;
	if (session_forked(session))
		return -EOWNERDEAD;
	pthread_mutex_lock(&session->lock);
	a = chunk_find(session, id, &number);
	if (a && (hold ? state_of(session, a) == SKEP_CHUNK_LEAVING : !a->chunk_holds[number]))
		a = NULL;
	if (a && hold) {
		a->chunk_holds[number]++;
		a->chunks_held++;
	} else if (a) {
		SKEP_CHECK(a->chunks_held);
		a->chunk_holds[number]--;
		/* The watcher looks again soon: it does so as long as anything old is left. */
		a->chunks_held--;
	}
	pthread_mutex_unlock(&session->lock);
	return a ? 0 : -ENOENT;
}

int skep_chunk_hold(struct skep *session, uint64_t id)
{
	return chunk_count(session, id, true);
}

int skep_chunk_release(struct skep *session, uint64_t id)
{
	return chunk_count(session, id, false);
}
