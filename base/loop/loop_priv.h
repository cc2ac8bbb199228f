/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_LOOP_LOOP_PRIV_H
#define SKEP_BASE_LOOP_LOOP_PRIV_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/loop/loop.h"

/* Work that other threads leave for the loop's (a mailbox): looked at after each wake-up. */
struct loop_source {
	struct list link;
	/*
	 * Does a bounded share of the work; returns how many. What it leaves must be such that
	 * loop_wake was or will be called for it after this call began.
	 */
	int (*run)(struct loop_source *source);
};

/*
 * A place for one watch. The generation changes whenever the watch is added, changed or removed, so
 * that an event collected under an older one is known as stale.
 */
struct loop_slot {
	struct loop_watch *watch; /* NULL: free */
	uint32_t generation;
	uint32_t next; /* number + 1 of the next free slot; 0: the last */
};

struct loop_state;

/* What a back end does. Times are spans here: the loop has already looked at the clock. */
struct loop_ops {
	const char *name;
	int (*create)(struct loop *loop);
	void (*destroy)(struct loop *loop);
	/* The slot's watch is new or its events changed: from now on events carry the slot's tag.
	 */
	int (*arm)(struct loop *loop, uint32_t slot);
	/* The slot's watch has gone. */
	void (*disarm)(struct loop *loop, uint32_t slot);
	/* Waits and calls loop_dispatch for each event. Returns calls made or a negative errno. */
	int (*wait)(struct loop *loop, uint64_t span_ns);
};

struct loop {
	const struct loop_ops *ops;
	struct loop_state *state; /* the back end's own */
	int uring_error;

	struct loop_slot *slots;
	uint32_t slots_count, free_slot; /* number + 1; 0: none */
	struct list again;

	struct loop_timer **heap;
	uint32_t heap_count, heap_max;

	struct list sources;
	struct loop_watch wake_watch;
	int wake_fd;
	bool running; /* inside loop_run_once */

	/*
	 * The thread that ran the loop last, as the address of a thread-local; written by it and
	 * read by others relaxed, for a check only.
	 */
	_Atomic(const void *) thread;

	/* Written by every thread that wakes: apart from what the loop alone uses. See loop_wake.
	 */
	char apart[64];
	_Atomic uint32_t woken;
	_Atomic uint32_t sleeping;
};

extern const struct loop_ops loop_epoll_ops;
extern const struct loop_ops loop_uring_ops;

/* What an event carries: slot and generation. */
static inline uint64_t loop_tag(const struct loop *loop, uint32_t slot)
{
	return (uint64_t)loop->slots[slot].generation << 32 | slot;
}

/* Calls the watch of @tag, unless it has gone or changed since. Returns the calls made: 0 or 1. */
int loop_dispatch(struct loop *loop, uint64_t tag, uint32_t events);

/* The loop's thread, or before it runs. */
void loop_source_add(struct loop *loop, struct loop_source *source);

/* Not from within a callback. */
void loop_source_remove(struct loop *loop, struct loop_source *source);

/* Whether the calling thread is the one that runs the loop. Any thread. */
bool loop_is_here(const struct loop *loop);

#endif
