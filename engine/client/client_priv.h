/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_ENGINE_CLIENT_PRIV_H
#define SKEP_ENGINE_CLIENT_PRIV_H

/*
 * What the files of the client library share.
 *
 * Two threads touch a session: the application's, one at a time, and the library's watcher. What
 * belongs to whom is said at each field. Three rules hold it together:
 *
 * - A session's thread enters each call by session_enter(): it marks the session busy, then looks
 *   whether its attachment is down. The watcher marks an attachment down, then looks whether the
 *   session is busy. Both are sequentially consistent, so one sees the other.
 * - An attachment that is down is unmapped by the watcher alone, under the session's lock, when the
 *   session is not busy and the application holds nothing of it, no chunk either.
 * - The calls about chunks (chunks.c) come from a third thread. They read under the session's lock
 *   what the others write under it, and enter no call.
 * - Order of locks: the library's, then a session's. An attachment's ask lock is taken with neither
 *   held.
 */

#include <errno.h>
#include <pthread.h>
#include <skep/skep.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/last_words.h"
#include "base/list.h"
#include "store/read/pin.h"
#include "store/read/probe.h"
#include "transport/local/client.h"

enum {
	SESSIONS_MAX = 1024, /* of a process */
	SPACES_MAX = INDEX_SPACES_MAX,
	QUEUES_MAX = PAGE_QUEUES - 1,
	QUEUE_EVENTS_MAX = PAGE_COMPLETIONS, /* under way or not taken, of a queue */
	CALLS_MAX = 64,			     /* areas of the scratch in use */
	CHAIN_BLOCKS_MAX = 1 << 20,
	PATH_BYTES = 108, /* of a unix socket */
	/* Of one submission: a batch that does not fit goes in several. */
	BATCH_BYTES_MAX = PAGE_SCRATCH_BYTES / 4,
	/* Cell of the pin table that skep_copy() uses for itself. */
	PIN_CELL_COPY = 0,
};

/* An answer is given this long after the call began, however short the deadline was … */
#define ANSWER_NS (100 * NS_PER_MS)
/* … and this long after the deadline, up to which the daemon itself may wait. */
#define GRACE_NS (10 * NS_PER_MS)
/* Calls without a deadline of their own. */
#define CALL_NS (2 * NS_PER_S)

/* ------------------------------------------------------------------------------ attachment */

enum call_state {
	CALL_FREE = 0,
	CALL_OPEN,   /* somebody waits for its answer */
	CALL_ORPHAN, /* nobody does any more, but the daemon may still write there */
	CALL_DONE,   /* LOAD with a queue: answered, skep_load_end() has yet to ask; so ASKS */
	CALL_GIVING, /* holds an ABORT that found no room in the ring yet */
	CALL_GIVEN,  /* an ABORT on its way; free once the daemon has read it */
};

/* An area of the scratch and what it is used for. */
struct call {
	uint8_t state;
	bool statuses_in_place; /* a commit whose one completion stands for all its parts */
	uint16_t op;
	uint16_t part;	/* RESERVE: to give back what comes too late */
	uint16_t queue; /* LOAD: where its event goes, from 1; 0: somebody waits, or a prefetch */
	uint32_t cell;	/* LOAD: the pin cell that the daemon fills, or 0 */
	int32_t status; /* LOAD, ASKS, done: the answer */
	uint32_t tag;
	uint32_t at, bytes;
	uint32_t count;
	uint32_t remaining; /* completions that are still to come */
	int64_t position;   /* in the ring */
};

/*
 * Everything of one incarnation of the daemon. The session's thread uses it while it is up; see the
 * rules above for afterwards.
 */
struct attachment {
	_Atomic uint32_t down; /* set by the watcher, once */
	/* Set by the watcher: @moved_index is to be read from now on. Who makes the change clears
	 * it: the session's thread in a call, or the watcher while that is in none. */
	_Atomic uint32_t moved;
	_Atomic uint32_t holds; /* pins and reserved frames that the application has. Its thread
				 * writes, the watcher reads while the session is not busy */
	_Atomic uint32_t told;	/* a question brought local.index along: for the watcher */
	struct skep *session;
	uint32_t epoch;
	bool gone; /* unmapped; session lock */
	uint64_t incarnation;
	uint64_t born_ns; /* when it could first be used */
	uint32_t id_bits;
	struct index_view index, moved_index;
	uint32_t moved_number; /* wire_index.number of moved_index */
	uint8_t *pool;
	uint64_t pool_bytes;
	/* The pool's chunks; how many of them were found populated, how often each is held, and the
	 * sum of that. Session lock. */
	uint64_t chunk_bytes;
	uint32_t chunk_count, chunks_ready, chunks_held;
	uint32_t *chunk_holds;
	struct local_client local;
	struct pin_cell *pins;
	uint32_t pins_used; /* cells from this one on were never used */
	uint32_t pin_free_count;
	uint16_t pin_free[PAGE_PINS];
	struct call calls[CALLS_MAX];
	uint32_t answers_owed;	   /* completions still to come on queue 0 */
	pthread_mutex_t ask_lock;  /* one request on the socket at a time */
	int queue_fds[QUEUES_MAX]; /* the daemon's eventfds; session lock */
	struct list link;	   /* in session.old */
	struct mapping {
		void *base;
		uint64_t bytes;
	} index_map, moved_map, pool_map;
	uint64_t prepared_bytes; /* of the pool, page tables set up; watcher */
};

/* Stands where there is no daemon yet: down and gone. */
extern struct attachment attachment_nowhere;

struct attach_input {
	struct skep *session;
	const struct local_wait *wait;
	uint64_t connect_deadline_ns, deadline_ns;
	uint32_t epoch;
};
int attachment_create(const struct attach_input *input, struct attachment **out);

/* Unmaps and closes; the struct stays, with `gone` set by the caller. Any thread that owns it. */
void attachment_unmap(struct skep *session, struct attachment *a);
/* … and frees. */
void attachment_destroy(struct skep *session, struct attachment *a);

/* Sets up page tables for a step of what the daemon has populated. Return: true = more to do. */
bool attachment_prepare(struct skep *session, struct attachment *a);

/* Maps the index that a.local.index tells of as a.moved_index. Ask lock. Return: 0 or negative. */
int attachment_move_prepare(struct attachment *a);
/* Reads that one from now on, and says so. Session lock; nobody is in a call of the session. */
void attachment_move(struct attachment *a);

/* --------------------------------------------------------------------------------- session */

/* What the daemon says of a space in one incarnation and version. */
struct binding {
	uint32_t epoch; /* of the attachment it holds for; 0: none */
	int32_t status; /* 0, or why the daemon refused */
	uint32_t number;
	uint32_t id_bits;
	uint64_t generation;
	uint64_t version;
	uint8_t secret[WIRE_SECRET_BYTES];
};

struct skep_space {
	struct skep *session;
	unsigned index; /* in session.spaces */
	struct wire_space_open request;
	uint32_t sums_before[SKEP_PARTS_MAX]; /* range sums of the parts before */
	struct list chains;
	/* The session's thread. */
	struct skep_chain *lone; /* of one block, for keys that form no chain; or NULL */
	struct binding bound;
	uint64_t hash_serial;  /* steps when the same tokens get other ids */
	uint64_t names_serial; /* steps when names found earlier mean nothing any more */
	/* Session lock: what the watcher found out. */
	struct binding offered;
	bool refresh_wanted;
};

struct skep_chain {
	struct list link;
	struct skep_space *space;
	struct probe_chain probe; /* points to the arrays below */
	struct block_id *ids;
	struct probe_name *names; /* where blocks were found last: hints */
	struct probe_extra *extras;
	uint32_t *tokens;
	uint8_t *blob;
	struct chain_room {
		size_t blocks, tokens, blob_bytes;
	} room;
	size_t token_count, blob_bytes;
	size_t open_at;	     /* first token of the open block */
	uint8_t *open_extra; /* INDEX_EXTRA_BYTES_MAX, or NULL */
	uint32_t open_extra_bytes;
	uint32_t names_count;
	uint64_t names_serial, hash_serial;
};

enum cell_state {
	CELL_FREE = 0,
	CELL_PENDING, /* the daemon will complete it */
	CELL_READY,   /* an event for the application */
	CELL_LATE,    /* its event was given at the deadline; the completion is still to come */
};

/* One event that will be. */
struct cell {
	uint8_t state;
	int32_t status;
	uint32_t tag, value; /* as the completion names it */
	uint32_t block;
	uint64_t user;
	uint64_t limit_ns;
};

struct skep_queue {
	struct skep *session;
	unsigned index;	    /* in session.queues; the daemon counts from 1 */
	bool closed;	    /* destroyed, but completions are still to come */
	int epoll_fd;	    /* what the application polls: the two below are in it */
	int event_fd;	    /* ours: the daemon is away, a deadline has passed, events are left */
	unsigned counts[4]; /* cells by state */
	uint64_t limit_ns;  /* the earliest of pending cells */
	struct cell cells[QUEUE_EVENTS_MAX];
};

struct library;
struct embedded;

struct skep {
	/* Entered by the session's thread; read by the watcher. */
	_Atomic uint32_t busy;
	const _Atomic uint32_t *alive; /* 0 in a child of fork() */
	struct attachment *current;
	struct library *library;
	int kick_fd; /* of the watcher */
	uint32_t flags;
	uint32_t last_tag;
	struct probe_name *ref_names; /* skep_pin_refs(): grows, never shrinks */
	unsigned ref_names_room;
	char field[WIRE_NAME_MAX];
	struct skep_hbm *hbm; /* what it has in GPU memory, or NULL */

	/* Set by skep_open(). */
	char path[PATH_BYTES];
	struct embedded *embedded;
	struct wire_hello hello;

	/* The watcher's earliest duty for queues; written by the session's thread. */
	_Atomic uint64_t queue_limit_ns;
	_Atomic uint32_t refresh; /* some space wants its binding looked up */
	_Atomic uint32_t retire;  /* an attachment became an old one */

	pthread_mutex_t lock;
	/* Session lock. */
	struct attachment *next; /* made by the watcher, not yet taken up */
	struct list old;	 /* attachments of which something is still held */
	struct skep_space *spaces[SPACES_MAX];
	struct skep_queue *queues[QUEUES_MAX];

	/* Library lock. */
	struct list link;
	struct attachment *watched; /* whose socket is polled; NULL: to be connected */
	unsigned poll_index;
	bool closed;	 /* the watcher frees it when its work on it is done */
	bool retiring;	 /* has attachments that may have to be unmapped */
	bool news;	 /* its daemon may have said something unasked */
	uint32_t epochs; /* the last one given */
	uint64_t news_at_ns;
	uint64_t retry_at_ns, retry_span_ns, retire_at_ns, prepare_at_ns, refresh_at_ns;
};

/* The way into each call; see the rules at the top. */
void session_turn(struct skep *session);

/* Reads the daemon's new index from now on, if there is one: inside a call, where no pointer into
 * the old one is kept. */
void session_move_slow(struct skep *session);
static inline void session_move(struct skep *session)
{
	if (__builtin_expect(
		    atomic_load_explicit(&session->current->moved, memory_order_relaxed), 0))
		session_move_slow(session);
}

/* Is nothing found in the index any more, as another daemon serves from another file? Inside a
 * call, the daemon not away. */
static inline bool index_emptied(const struct skep *session)
{
	return __builtin_expect(
		atomic_load_explicit(&session->current->index.head->emptied, memory_order_acquire),
		0);
}
/* Then it waits for the new one, which is on its way. Return: it is there now. */
bool session_await_index(struct skep *session);

static inline bool session_forked(const struct skep *session)
{
	return !atomic_load_explicit(session->alive, memory_order_relaxed);
}

/* Return: 0; -EINVAL, -EOWNERDEAD (after fork), -EBUSY (another thread is in a call). */
static inline int session_enter(struct skep *session)
{
	if (__builtin_expect(!session, 0))
		return -EINVAL;
	if (__builtin_expect(session_forked(session), 0))
		return -EOWNERDEAD;
	/* Sequentially consistent: pairs with the watcher's store to `down` or `moved` and load of
	 * `busy`. */
	if (__builtin_expect(atomic_exchange_explicit(&session->busy, 1, memory_order_seq_cst), 0))
		return -EBUSY;
	if (__builtin_expect(
		    atomic_load_explicit(&session->current->down, memory_order_seq_cst) |
			    atomic_load_explicit(&session->current->moved, memory_order_seq_cst),
		    0))
		session_turn(session);
	return 0;
}

static inline void session_exit(struct skep *session)
{
	/* Release: what the call did to its attachment is seen by the watcher that reads 0. */
	atomic_store_explicit(&session->busy, 0, memory_order_release);
}

/* Is the daemon away? Inside a call. */
static inline bool session_away(const struct skep *session)
{
	const struct attachment *a = session->current;

	/* The watcher may not have looked at the keeper's last word yet. What is down may be
	 * unmapped. */
	return atomic_load_explicit(&a->down, memory_order_relaxed) ||
	       last_word_spoken(&a->index.head->keeper);
}

void session_free(struct skep *session);

/* The attachment of an epoch or an incarnation, the current one or an older one that is still
 * held; NULL: it is gone. Inside a call. */
struct attachment *session_epoch(struct skep *session, uint32_t epoch);
struct attachment *session_incarnation(struct skep *session, uint64_t incarnation);

/* Counts what the application holds of an attachment: pins and reserved frames. */
static inline void attachment_hold(struct attachment *a)
{
	atomic_store_explicit(&a->holds, atomic_load_explicit(&a->holds, memory_order_relaxed) + 1,
		memory_order_relaxed);
}
static inline void attachment_unhold(struct attachment *a)
{
	uint32_t holds = atomic_load_explicit(&a->holds, memory_order_relaxed);

	if (holds)
		atomic_store_explicit(&a->holds, holds - 1, memory_order_relaxed);
}

/* The sizes of a struct that the caller fills: as he knows it, and as this library does. */
struct struct_shape {
	size_t theirs, mine;
};
int struct_check_longer(const void *from, struct struct_shape shape);
/* Return: 0; -EINVAL (too short), -E2BIG (asks for something that this library does not know). */
static inline int struct_check(const void *from, struct struct_shape shape)
{
	return __builtin_expect(shape.theirs == shape.mine, 1) ? 0
							       : struct_check_longer(from, shape);
}

/* Copies such a struct, of which the first field is struct_bytes. Return: as struct_check(). */
int struct_take(void *to, const void *from, size_t bytes);

/* One request on the socket of @a; see struct local_ask. Takes the ask lock. */
int attachment_ask(struct attachment *a, const struct local_ask *ask);

/* ---------------------------------------------------------------------------------- watcher */

int library_get(struct library **out);
const _Atomic uint32_t *library_alive(const struct library *library);
/* Registers a session and starts the watcher where there is none. -EUSERS, -ENOMEM, …. */
int library_add(struct library *library, struct skep *session);
/* Ends the watching of a session and frees it; the last one ends the watcher. */
void library_remove(struct skep *session);
void watcher_kick(const struct skep *session);

/* ------------------------------------------------------------------------------------ spaces */

/*
 * Asks the daemon of @a what it says of a space; @id_bits and @epoch are filled from @a.
 * @field: room for WIRE_NAME_MAX, the field that was refused; or NULL.
 * Return: 0, @out->status says more; negative: no answer.
 */
struct space_ask {
	struct attachment *a;
	const struct wire_space_open *request;
	const struct local_wait *wait;
	uint64_t deadline_ns;
	char *field;
};
int space_ask(const struct space_ask *ask, struct binding *out);
/* Makes it the space's binding. The session's thread, or who opens. */
void space_bind(struct skep_space *space, const struct binding *binding);

/* With its chains. */
void space_free(struct skep_space *space);

bool space_look(struct skep_space *space);

/* Does the binding of the space stand now? If not, the watcher is asked to look it up, and the
 * space misses until then. Never waits. */
static inline bool space_ready(struct skep_space *space)
{
	const struct attachment *a = space->session->current;
	const struct binding *bound = &space->bound;

	if (__builtin_expect(
		    bound->epoch == a->epoch && !bound->status &&
			    atomic_load_explicit(&a->index.head->spaces[bound->number].generation,
				    memory_order_acquire) == bound->generation,
		    1))
		return true;
	return space_look(space);
}

/* As space_ready(), but asks the daemon itself. Return: 0; the daemon's refusal, SKEP_EDOWN,
 * -ETIMEDOUT. */
int space_ready_wait(struct skep_space *space, uint64_t deadline_ns);

/* ------------------------------------------------------------------------------------ chains */

/* Hashes anew what was hashed under another secret, forgets names that mean nothing any more. */
void chain_freshen_slow(struct skep_chain *chain);
static inline void chain_freshen(struct skep_chain *chain)
{
	if (__builtin_expect(chain->names_serial != chain->space->names_serial, 0))
		chain_freshen_slow(chain);
}

void chain_free(struct skep_chain *chain);

/* Finds names of the leading @count blocks, what was found before being trusted as a hint alone.
 * Return: how many stand. */
uint32_t chain_names(struct skep_chain *chain, uint32_t count);

/* --------------------------------------------------------------------------------------- pins */

/* A free cell of the table, or 0. */
uint32_t pin_cell_take(struct attachment *a);
void pin_cell_give(struct attachment *a, uint32_t cell);

/* -------------------------------------------------------------------------------------- calls */

/* Nanoseconds until which a call that began at @now waits for the daemon's answer. */
static inline uint64_t call_limit(uint64_t now_ns, uint64_t deadline_ns)
{
	return MAX_OF(clock_after(now_ns, ANSWER_NS), clock_after(deadline_ns, GRACE_NS));
}

/* Takes an area of the scratch. NULL: there is none, calls that timed out still occupy it. */
struct call *call_open(struct skep *session, uint16_t op, uint32_t bytes);
/* The area's address. */
static inline void *call_area(const struct attachment *a, const struct call *call)
{
	return a->local.scratch + call->at;
}
static inline void call_close(struct call *call)
{
	call->state = CALL_FREE;
}
/* Takes late completions and frees what the daemon has done with, pins of nobody's loads too.
 * Return: 0, SKEP_EDOWN. */
int calls_tidy(struct skep *session);
struct call *call_find(struct attachment *a, uint32_t tag);
uint32_t call_tag(struct skep *session);

/* Pushes, waiting for room up to the limit. Return: position; SKEP_EDOWN, -ETIMEDOUT. */
int64_t call_push(struct skep *session, const struct submission *submission, uint64_t limit_ns);

/*
 * Pushes a submission on queue 0. @call (may be NULL) is its area. Return: 0; SKEP_EDOWN,
 * -ETIMEDOUT: the area is free again.
 */
int call_start(
	struct skep *session, struct submission *submission, struct call *call, uint64_t limit_ns);

/* Gives both a tag, the area to @submission and its count to @call. */
void call_bind(struct skep *session, struct submission *submission, struct call *call);

/* Submits with an area; completions come on @queue. @call stays open, whatever comes of it. Return:
 * 0; SKEP_EDOWN, -EAGAIN: the daemon never hears of it. */
int call_submit(struct skep *session, struct submission *submission, struct call *call,
	const struct skep_queue *queue);

/* Waits for a completion of @tag. Return: 0 and @out, SKEP_EDOWN, -ETIMEDOUT. */
int call_answer(struct skep *session, uint32_t tag, uint64_t limit_ns, struct completion *out);

/*
 * Both, for a submission with one completion, up to call_limit(). @call stays open, except that
 * -ETIMEDOUT leaves it to whoever tidies up. Return: 0 and @out, SKEP_EDOWN, -ETIMEDOUT.
 */
int call_run(struct skep *session, struct submission *submission, struct call *call,
	struct completion *out);

/* Waits until no RESERVE that was given up on is under way: the daemon takes one at a time of a
 * session. Return: 0, SKEP_EDOWN, -ETIMEDOUT. */
int call_reserve_ready(struct skep *session, uint64_t limit_ns);

/* Gives the area's ABORT to the daemon and the area to whoever tidies up. */
void call_give(struct skep *session, struct call *call);

/* Waits until all that was published or removed before is durable. Return: as skep_sync(). */
int sync_run(struct skep *session, uint64_t deadline_ns);

/* The ring holds nonsense: ends the connection. Return: SKEP_EDOWN. */
int call_nonsense(struct skep *session);

/* ------------------------------------------------------------------------------------- queues */

/* Takes what is in the completion rings of all queues. Session's thread; session_turn() too. */
void queues_drain(struct skep *session);
/* Completes all that is pending with SKEP_EDOWN. */
void queues_fail(struct skep *session);
void queue_free(struct skep_queue *queue);
/* Frees destroyed queues whose last completion has come. */
void queues_reap(struct skep *session);
/* The daemon's eventfd for queue @index (from 0). Return: 0 or negative. */
int queue_fd_ask(struct attachment *a, unsigned index, const struct local_wait *wait,
	uint64_t deadline_ns, int *fd);

/* Is an event of @tag still to come? */
bool queue_awaits(struct skep_queue *queue, uint32_t tag);

/* A LOAD was answered. Frees it where nobody asks for it any more. */
void load_done(struct attachment *a, struct call *call, int status);
/* Queue @queue (from 1) is destroyed: its loads are cancelled and what they brought is let go. */
void loads_forget(struct skep *session, uint16_t queue);

/* ASKS was answered: skep_hbm_asks() tells what others want. */
void asks_done(struct call *call, int status);
/* A queue is destroyed: asks come without one. */
void hbm_queue_gone(struct skep *session, const struct skep_queue *queue);

static inline unsigned queue_room(const struct skep_queue *queue)
{
	return queue->counts[CELL_FREE];
}

/* An event that will come with the completion (tag, value). The caller has seen that there is
 * room. */
struct event_want {
	uint32_t tag, value;
	uint32_t block;
	uint64_t user;
	uint64_t limit_ns; /* if nothing has come by then, the event says -ETIMEDOUT */
};
void queue_expect(struct skep_queue *queue, const struct event_want *want);

/* An event that is there at once. */
void queue_give(struct skep_queue *queue, const struct event_want *want, int status);

/* -------------------------------------------------------------------------------------- parts */

/* Where range @i of a part lies: ranges are equal, the last ones shorter or empty where the length
 * is no multiple (opaque spaces). */
struct span {
	uint64_t at, bytes;
};
static inline struct span range_span(uint64_t part_bytes, uint32_t ranges, uint32_t i)
{
	uint64_t each = divide_up(part_bytes, ranges), at = MIN_OF(i * each, part_bytes);

	return (struct span){.at = at, .bytes = MIN_OF(each, part_bytes - at)};
}

/* What the daemon tells of block @block of a load with a queue that has not been ended. Return: the
 * blocks of the run from there on; -ENOENT, -ERANGE, SKEP_EDOWN. */
int load_find_block(
	struct skep *session, uint64_t handle, uint32_t block, const struct load_part **out);

/* A block's id as 16 bytes: low word first, little-endian. */
void id_bytes(uint8_t out[16], struct block_id id);

#endif
