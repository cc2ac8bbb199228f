/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_LOOP_LOOP_H
#define SKEP_BASE_LOOP_LOOP_H

#include <stdint.h>

#include "base/list.h"

/*
 * The event loop of one thread: descriptors, timers, and wake-ups from other threads. Two back
 * ends, io_uring and epoll, behave alike; where a container profile forbids io_uring, epoll serves.
 *
 * Before the first loop_run_once any one thread may set the loop up; from then on everything but
 * loop_wake and the two that only read belongs to the thread that runs it. Nothing but loop_create
 * allocates.
 */
struct loop;
struct loop_watch;
struct loop_timer;

enum loop_backend { LOOP_BACKEND_AUTO, LOOP_BACKEND_URING, LOOP_BACKEND_EPOLL };

struct loop_options {
	enum loop_backend backend;
	uint32_t watches_max;
	uint32_t timers_max;
};

/* What a descriptor is ready for. A hang-up or an error is told whether asked for or not. */
enum {
	LOOP_READABLE = 1,
	LOOP_WRITABLE = 2,
	LOOP_HANGUP = 4,
};

/*
 * Called once when the descriptor is ready and once more whenever something new happens to it, not
 * for as long as it stays ready: take until -EAGAIN, or ask to be called again (loop_watch_again).
 * A call may find nothing to take. It may add, change and remove any watch and timer, free the
 * memory of removed ones, and not run the loop.
 */
typedef void loop_ready(struct loop_watch *watch, uint32_t events);

/* Lies in the caller's own struct (list_item finds that); all zero but @ready before it is added.
 */
struct loop_watch {
	loop_ready *ready;
	int fd;
	uint32_t events; /* asked for */
	/* The loop's own: */
	uint32_t slot;	/* number + 1 in the loop's table; 0: not watched */
	uint32_t again; /* events to call with at the next turn */
	struct list again_link;
};

typedef void loop_due(struct loop_timer *timer);

/* Lies in the caller's own struct; all zero but @due before it is set. One shot. */
struct loop_timer {
	loop_due *due;
	uint64_t due_ns;
	uint32_t place; /* the loop's own: number + 1 in its heap; 0: not set */
};

/*
 * 0; -ENOMEM, -EINVAL, -EMFILE; and where LOOP_BACKEND_URING was asked for and cannot be had, what
 * io_uring said: -EPERM (forbidden), -ENOSYS (not in this kernel or build), -EOPNOTSUPP (too old).
 */
int loop_create(const struct loop_options *options, struct loop **loop);

/* Watches and timers still set are forgotten. The thread that ran the loop, or any after it ended.
 */
void loop_destroy(struct loop *loop);

/* "io_uring" or "epoll". Any thread. */
const char *loop_backend_name(const struct loop *loop);

/* Why LOOP_BACKEND_AUTO took epoll, as a negative errno; 0 where it did not. Any thread. */
int loop_uring_error(const struct loop *loop);

/*
 * Watches @fd, which must stay open until the watch is removed, and be removed before it is closed.
 * With io_uring the kernel lets go of a removed descriptor at the next loop_run_once.
 * A descriptor has one watch at most.
 * 0; -ENOSPC: watches_max are there; -EBADF; -EPERM: a file, which is always ready.
 */
int loop_watch_add(struct loop *loop, struct loop_watch *watch, int fd, uint32_t events);

/* Asks for other events; what is ready now is told afresh. 0 or a negative errno as above. */
int loop_watch_change(struct loop *loop, struct loop_watch *watch, uint32_t events);

/* After it @ready is not called, not even for what the loop had already collected. Harmless twice.
 */
void loop_watch_remove(struct loop *loop, struct loop_watch *watch);

/* Calls @ready with @events at the next turn, which does not sleep: for a callback that leaves off.
 */
void loop_watch_again(struct loop *loop, struct loop_watch *watch, uint32_t events);

/*
 * Calls @timer->due at or after @due_ns of clock_ns; a timer that is set moves. 0, or -ENOSPC:
 * timers_max are set.
 */
int loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t due_ns);

/* Harmless where the timer is not set. */
void loop_timer_cancel(struct loop *loop, struct loop_timer *timer);

/*
 * The present or the next loop_run_once does not sleep (further). Any thread, also a signal
 * handler; a system call only where the loop sleeps.
 */
void loop_wake(struct loop *loop);

/*
 * One turn: sleeps until something happens or until @until_ns of clock_ns (0: does not sleep;
 * CLOCK_NEVER), then calls what is ready and due. Returns how many callbacks it made, 0 after a
 * bare wake-up or a signal, or a negative errno where the kernel refuses to wait.
 */
int loop_run_once(struct loop *loop, uint64_t until_ns);

#endif
