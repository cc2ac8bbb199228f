/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/status.h"
#include "engine/client/client_priv.h"
#include "engine/client/embedded.h"

#define DEFAULT_SOCKET "/run/skep/skepd.sock"
#define OPEN_NS	       (5 * NS_PER_S)
/* This process stood still while a daemon took another's place: the watcher needs a moment. */
#define INDEX_NS      (100 * NS_PER_MS)
#define INDEX_STEP_NS (50 * NS_PER_US)

/* The public header spells the same numbers as base/status.h. */
#define X(name, number, text) _Static_assert((int)SKEP_##name == (int)SKEP_STATUS_##name, #name);
SKEP_STATUS_TABLE(X)
#undef X

_Static_assert(
	(int)SKEP_PARTS_MAX == (int)INDEX_PARTS_MAX && (int)SKEP_PARTS_MAX == (int)WIRE_PARTS_MAX,
	"parts");
_Static_assert(SKEP_EXTRA_BYTES_MAX == INDEX_EXTRA_BYTES_MAX, "extra keys");
_Static_assert(sizeof(struct pin_cell) == PAGE_PIN_BYTES, "the page's pin table");
_Static_assert((int)ID_SECRET_BYTES == (int)WIRE_SECRET_BYTES, "a space's secret");
_Static_assert(SKEP_FOREVER == CLOCK_NEVER, "deadlines");

/* ------------------------------------------------------------------------------------- words */

const char *skep_version(void)
{
	return SKEP_VERSION_TEXT;
}

const char *skep_status_text(int status)
{
	return status_text(status);
}

const char *skep_reason_text(unsigned reason)
{
	return reason_word(reason);
}

uint64_t skep_deadline_ms(uint64_t ms)
{
	return ms > CLOCK_NEVER / NS_PER_MS ? CLOCK_NEVER : clock_after(clock_ns(), ms * NS_PER_MS);
}

int struct_check_longer(const void *from, struct struct_shape shape)
{
	const uint8_t *bytes = from;

	if (shape.theirs < shape.mine)
		return -EINVAL;
	for (size_t i = shape.mine; i < shape.theirs; i++)
		if (bytes[i])
			return -E2BIG;
	return 0;
}

int struct_take(void *to, const void *from, size_t bytes)
{
	struct struct_shape shape = {.mine = bytes};
	int status;

	memcpy(&shape.theirs, from, sizeof(shape.theirs));
	status = struct_check(from, shape);
	if (!status)
		memcpy(to, from, bytes);
	return status;
}

void id_bytes(uint8_t out[16], struct block_id id)
{
	for (unsigned i = 0; i < 8; i++) {
		out[i] = (uint8_t)(id.low >> (8 * i));
		out[8 + i] = (uint8_t)(id.high >> (8 * i));
	}
}

/* ------------------------------------------------------------------- attachments of a session */

void session_move_slow(struct skep *session)
{
	struct attachment *a = session->current;

	pthread_mutex_lock(&session->lock);
	/* The watcher may have done it meanwhile. */
	if (atomic_load_explicit(&a->moved, memory_order_relaxed))
		attachment_move(a);
	pthread_mutex_unlock(&session->lock);
}

bool session_await_index(struct skep *session)
{
	uint64_t until = clock_ns() + INDEX_NS;
	struct timespec step = {.tv_nsec = INDEX_STEP_NS};

	while (index_emptied(session)) {
		if (session_away(session) || clock_ns() >= until)
			return false;
		nanosleep(&step, NULL);
		session_move(session);
	}
	return true;
}

/*
 * The index lies in another file: reads it there from now on. Or the attachment is down: takes up
 * the one that the watcher has made meanwhile, if any. What the
 * old daemon still answered is taken first; all else that was under way ends.
 */
void session_turn(struct skep *session)
{
	struct attachment *a = session->current;
	bool moved;

	session_move(session);
	if (!atomic_load_explicit(&a->down, memory_order_relaxed))
		return;

	pthread_mutex_lock(&session->lock);
	if (!a->gone)
		queues_drain(session);
	queues_fail(session);
	moved = session->next;
	if (moved) {
		/* The watcher frees it once nothing of it is held. */
		if (a != &attachment_nowhere)
			list_append(&session->old, &a->link);
		session->current = session->next;
		session->next = NULL;
		for (unsigned i = 0; i < SPACES_MAX; i++) {
			struct skep_space *space = session->spaces[i];

			if (space && space->offered.epoch == session->current->epoch)
				space_bind(space, &space->offered);
		}
	}
	pthread_mutex_unlock(&session->lock);
	if (moved) {
		atomic_store_explicit(&session->retire, 1, memory_order_relaxed);
		watcher_kick(session);
	}
}

static struct attachment *session_old(struct skep *session, uint32_t epoch, uint64_t incarnation)
{
	struct attachment *found = NULL;

	/* What is found stays: the watcher unmaps nothing while the session is busy. */
	pthread_mutex_lock(&session->lock);
	list_each (node, &session->old) {
		struct attachment *a = list_item(node, struct attachment, link);

		if (!a->gone && ((epoch && a->epoch == epoch) ||
					(incarnation && a->incarnation == incarnation)))
			found = a;
	}
	pthread_mutex_unlock(&session->lock);
	return found;
}

struct attachment *session_epoch(struct skep *session, uint32_t epoch)
{
	struct attachment *a = session->current;

	if (__builtin_expect(a->epoch == epoch, 1))
		return a->gone ? NULL : a;
	return epoch ? session_old(session, epoch, 0) : NULL;
}

struct attachment *session_incarnation(struct skep *session, uint64_t incarnation)
{
	struct attachment *a = session->current;

	if (__builtin_expect(a->incarnation == incarnation, 1))
		return a->gone ? NULL : a;
	return incarnation ? session_old(session, 0, incarnation) : NULL;
}

/* -------------------------------------------------------------------------------- open, close */

static int text_copy(char *to, size_t room, const char *from)
{
	size_t length = from ? strlen(from) : 0;

	if (length >= room)
		return -ENAMETOOLONG;
	if (length)
		memcpy(to, from, length);
	return 0;
}

static int hello_fill(struct wire_hello *hello, const struct skep_open_options *options)
{
	const char *name = options->name ? options->name : program_invocation_short_name;
	size_t name_bytes = MIN_OF(strlen(name), sizeof(hello->name) - 1);

	if (options->flags & ~(uint32_t)(SKEP_OPEN_READONLY | SKEP_OPEN_NO_WAIT))
		return -EINVAL;
	hello->head = local_head(WIRE_HELLO, sizeof(*hello));
	hello->index_version = INDEX_LAYOUT_VERSION;
	hello->page_version = PAGE_VERSION;
	hello->flags = options->flags & SKEP_OPEN_READONLY ? WIRE_HELLO_READONLY : 0;
	hello->pid_hint = (uint32_t)getpid();
	memcpy(hello->name, name, name_bytes);
	if (text_copy(hello->realm, sizeof(hello->realm), options->realm) ||
		text_copy(hello->token, sizeof(hello->token), options->token))
		return -ENAMETOOLONG;
	return 0;
}

/* Where the daemon is: a path, or a node in this process. */
static int where_take(struct skep *session, const char *where)
{
	if (!where)
		where = secure_getenv("SKEP_SOCKET");
	if (!where || !*where)
		where = DEFAULT_SOCKET;
	if (!strncmp(where, "embedded:", 9))
		return embedded_open(where + 9, &session->embedded);
	if (!strncmp(where, "unix:", 5))
		where += 5;
	return text_copy(session->path, sizeof(session->path), where);
}

/* No daemon is there now, but one may come: not so where it is there and says no. */
static bool may_come(int status)
{
	return status == -ENOENT || status == -ECONNREFUSED || status == -ETIMEDOUT ||
	       status == SKEP_STATUS_EDOWN;
}

static struct skep *session_create(void)
{
	struct skep *session = memory_zalloc(sizeof(*session));

	if (!session)
		return NULL;
	pthread_mutex_init(&session->lock, NULL);
	list_init(&session->old);
	list_init(&session->link);
	session->current = &attachment_nowhere;
	session->queue_limit_ns = CLOCK_NEVER;
	return session;
}

/* Frees everything. Nobody else knows of the session any more. */
void session_free(struct skep *session)
{
	for (unsigned i = 0; i < QUEUES_MAX; i++) {
		if (session->queues[i])
			queue_free(session->queues[i]);
		session->queues[i] = NULL;
	}
	for (unsigned i = 0; i < SPACES_MAX; i++)
		if (session->spaces[i])
			space_free(session->spaces[i]);
	list_each_safe (node, &session->old)
		attachment_destroy(session, list_item(node, struct attachment, link));
	attachment_destroy(session, session->next);
	attachment_destroy(session, session->current);
	embedded_close(session->embedded);
	pthread_mutex_destroy(&session->lock);
	memory_free(session->ref_names);
	memory_free(session->hbm);
	explicit_bzero(session->hello.token, sizeof(session->hello.token));
	memory_free(session);
}

static int session_connect(struct skep *session, uint64_t deadline_ns)
{
	struct attach_input input = {.session = session,
		.wait = &local_wait_plain,
		.connect_deadline_ns = deadline_ns,
		.deadline_ns = deadline_ns,
		.epoch = ++session->epochs};
	struct attachment *fresh;
	int status = attachment_create(&input, &fresh);

	if (status < 0)
		return session->flags & SKEP_OPEN_NO_WAIT && may_come(status) ? 0 : status;
	session->current = session->watched = fresh;
	return 0;
}

int skep_open(const char *where, const struct skep_open_options *options, struct skep **out)
{
	struct skep_open_options mine = {0};
	struct library *library;
	struct skep *session;
	int status;

	if (!out)
		return -EINVAL;
	status = options ? struct_take(&mine, options, sizeof(mine)) : 0;
	if (!status)
		status = library_get(&library);
	if (status < 0)
		return status;
	session = session_create();
	if (!session)
		return -ENOMEM;
	session->flags = mine.flags;
	session->alive = library_alive(library);
	status = hello_fill(&session->hello, &mine);
	if (!status)
		status = where_take(session, where);
	if (!status)
		status = session_connect(
			session, mine.deadline_ns ? mine.deadline_ns : clock_ns() + OPEN_NS);
	if (!status)
		status = library_add(library, session);
	if (status < 0) {
		session_free(session);
		return status;
	}
	*out = session;
	return 0;
}

void skep_close(struct skep *session)
{
	struct attachment *a;

	if (session_enter(session))
		return;
	a = session->current;
	if (!session_away(session)) {
		for (uint32_t i = 0; i < a->pins_used; i++)
			pin_clear(&a->pins[i]);
		local_client_bye(&a->local);
	}
	/* Stays busy: nothing of it may be used any more. */
	library_remove(session);
}

int skep_attached(struct skep *session)
{
	int status = session_enter(session);

	if (status)
		return status;
	status = !session_away(session);
	session_exit(session);
	return status;
}
