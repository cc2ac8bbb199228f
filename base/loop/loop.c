/* SPDX-License-Identifier: Apache-2.0 */
#include "base/loop/loop.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/loop/loop_priv.h"
#include "base/memory.h"
#include "base/status.h"

enum {
	WATCHES_MAX = 1 << 24, /* a slot number fits 24 bits of a tag */
};

/* Its address tells threads apart without a system call. */
static _Thread_local char thread_mark;

/* --- make and end ----------------------------------------------------------------------------- */

static int backend_create(struct loop *loop, enum loop_backend backend)
{
	int rc = -ENOSYS;

	if (backend != LOOP_BACKEND_EPOLL) {
#ifdef SKEP_HAVE_URING
		loop->ops = &loop_uring_ops;
		rc = loop->ops->create(loop);
#endif
		if (!rc || backend == LOOP_BACKEND_URING)
			return rc;
		loop->uring_error = rc;
		log_info("loop", "io_uring is not to be had (%s): epoll serves", status_text(rc));
	}
	loop->ops = &loop_epoll_ops;
	return loop->ops->create(loop);
}

/* The wake-up is edge-triggered: each write counts, and nothing needs to be read. */
static void wake_ready(struct loop_watch *watch, uint32_t events)
{
	(void)watch;
	(void)events;
}

static void slots_init(struct loop *loop, uint32_t count)
{
	loop->slots_count = count;
	for (uint32_t i = 0; i < count; i++)
		loop->slots[i].next = i + 1 < count ? i + 2 : 0;
	loop->free_slot = 1;
}

int loop_create(const struct loop_options *options, struct loop **made)
{
	struct loop *loop;
	int rc;

	if (options->watches_max >= WATCHES_MAX || options->backend > LOOP_BACKEND_EPOLL)
		return -EINVAL;
	loop = memory_zalloc(sizeof(*loop));
	if (!loop)
		return -ENOMEM;
	rc = -ENOMEM;
	list_init(&loop->again);
	list_init(&loop->sources);
	loop->slots = memory_calloc(options->watches_max + 1, sizeof(*loop->slots));
	loop->heap_max = options->timers_max;
	loop->heap = memory_calloc(loop->heap_max, sizeof(struct loop_timer *));
	if (!loop->slots || !loop->heap)
		goto free_loop;
	slots_init(loop, options->watches_max + 1); /* one more for the wake-up */
	loop->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (loop->wake_fd < 0) {
		rc = -errno;
		goto free_loop;
	}
	rc = backend_create(loop, options->backend);
	if (rc)
		goto close_wake;
	loop->wake_watch.ready = wake_ready;
	rc = loop_watch_add(loop, &loop->wake_watch, loop->wake_fd, LOOP_READABLE);
	if (rc)
		goto destroy_backend;
	*made = loop;
	return 0;

destroy_backend:
	loop->ops->destroy(loop);
close_wake:
	close(loop->wake_fd);
free_loop:
	memory_free(loop->heap);
	memory_free(loop->slots);
	memory_free(loop);
	return rc;
}

void loop_destroy(struct loop *loop)
{
	if (!loop)
		return;
	SKEP_CHECK(!loop->running && list_empty(&loop->sources));
	loop_watch_remove(loop, &loop->wake_watch);
	loop->ops->destroy(loop);
	close(loop->wake_fd);
	memory_free(loop->heap);
	memory_free(loop->slots);
	memory_free(loop);
}

const char *loop_backend_name(const struct loop *loop)
{
	return loop->ops->name;
}

int loop_uring_error(const struct loop *loop)
{
	return loop->uring_error;
}

/* --- watches ---------------------------------------------------------------------------------- */

int loop_watch_add(struct loop *loop, struct loop_watch *watch, int fd, uint32_t events)
{
	uint32_t number = loop->free_slot;
	struct loop_slot *slot;
	int rc;

	SKEP_CHECK(!watch->slot && watch->ready);
	if (!number)
		return -ENOSPC;
	slot = &loop->slots[number - 1];
	SKEP_CHECK(!slot->watch);
	watch->fd = fd;
	watch->events = events;
	watch->again = 0;
	slot->watch = watch;
	slot->generation++;
	rc = loop->ops->arm(loop, number - 1);
	if (rc) {
		slot->watch = NULL;
		return rc;
	}
	loop->free_slot = slot->next;
	watch->slot = number;
	return 0;
}

static struct loop_slot *slot_of(struct loop *loop, const struct loop_watch *watch)
{
	SKEP_CHECK(watch->slot && watch->slot <= loop->slots_count);
	SKEP_CHECK(loop->slots[watch->slot - 1].watch == watch);
	return &loop->slots[watch->slot - 1];
}

int loop_watch_change(struct loop *loop, struct loop_watch *watch, uint32_t events)
{
	struct loop_slot *slot = slot_of(loop, watch);

	watch->events = events;
	slot->generation++;
	return loop->ops->arm(loop, watch->slot - 1);
}

static void again_cancel(struct loop_watch *watch)
{
	if (watch->again)
		list_remove(&watch->again_link);
	watch->again = 0;
}

void loop_watch_remove(struct loop *loop, struct loop_watch *watch)
{
	struct loop_slot *slot;

	if (!watch->slot)
		return;
	slot = slot_of(loop, watch);
	again_cancel(watch);
	loop->ops->disarm(loop, watch->slot - 1);
	slot->watch = NULL;
	slot->generation++;
	slot->next = loop->free_slot;
	loop->free_slot = watch->slot;
	watch->slot = 0;
}

void loop_watch_again(struct loop *loop, struct loop_watch *watch, uint32_t events)
{
	SKEP_CHECK(slot_of(loop, watch)->watch == watch && events);
	if (!watch->again)
		list_append(&loop->again, &watch->again_link);
	watch->again |= events;
}

int loop_dispatch(struct loop *loop, uint64_t tag, uint32_t events)
{
	uint32_t number = (uint32_t)tag;
	struct loop_watch *watch;

	SKEP_CHECK(number < loop->slots_count);
	watch = loop->slots[number].watch;
	if (!watch || loop_tag(loop, number) != tag)
		return 0;
	events |= watch->again;
	again_cancel(watch);
	watch->ready(watch, events);
	return watch != &loop->wake_watch;
}

/* Calls those who asked in an earlier turn; who asks anew now waits for the next. */
static int again_run(struct loop *loop)
{
	struct list now;
	int count = 0;

	list_init(&now);
	if (list_empty(&loop->again))
		return 0;
	list_add_before(&loop->again, &now);
	list_remove(&loop->again);
	while (!list_empty(&now)) {
		struct loop_watch *watch = list_item(now.next, struct loop_watch, again_link);
		uint32_t events = watch->again;

		again_cancel(watch);
		watch->ready(watch, events);
		count++;
	}
	return count;
}

/* --- timers: a binary heap, the next due on top ----------------------------------------------- */

static void heap_put(struct loop *loop, uint32_t at, struct loop_timer *timer)
{
	loop->heap[at] = timer;
	timer->place = at + 1;
}

/* Puts @timer at @at or where it belongs above or below it. */
static void heap_sift(struct loop *loop, uint32_t at, struct loop_timer *timer)
{
	while (at && loop->heap[(at - 1) / 2]->due_ns > timer->due_ns) {
		heap_put(loop, at, loop->heap[(at - 1) / 2]);
		at = (at - 1) / 2;
	}
	for (;;) {
		uint32_t child = 2 * at + 1;

		if (child + 1 < loop->heap_count &&
			loop->heap[child + 1]->due_ns < loop->heap[child]->due_ns)
			child++;
		if (child >= loop->heap_count || loop->heap[child]->due_ns >= timer->due_ns)
			break;
		heap_put(loop, at, loop->heap[child]);
		at = child;
	}
	heap_put(loop, at, timer);
}

int loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t due_ns)
{
	SKEP_CHECK(timer->due);
	if (!timer->place && loop->heap_count == loop->heap_max)
		return -ENOSPC;
	if (!timer->place)
		heap_put(loop, loop->heap_count++, timer);
	SKEP_CHECK(timer->place <= loop->heap_count && loop->heap[timer->place - 1] == timer);
	timer->due_ns = due_ns;
	heap_sift(loop, timer->place - 1, timer);
	return 0;
}

void loop_timer_cancel(struct loop *loop, struct loop_timer *timer)
{
	uint32_t at = timer->place - 1;
	struct loop_timer *last;

	if (!timer->place)
		return;
	SKEP_CHECK(timer->place <= loop->heap_count && loop->heap[at] == timer);
	timer->place = 0;
	last = loop->heap[--loop->heap_count];
	if (last != timer)
		heap_sift(loop, at, last);
}

/* At most as many as were set, so that timers which set themselves anew do not hold the loop up. */
static int timers_run(struct loop *loop, uint64_t now_ns)
{
	uint32_t most = loop->heap_count;
	int count = 0;

	while (most-- && loop->heap_count && loop->heap[0]->due_ns <= now_ns) {
		struct loop_timer *timer = loop->heap[0];

		loop_timer_cancel(loop, timer);
		timer->due(timer);
		count++;
	}
	return count;
}

/* --- wake-ups and turns ----------------------------------------------------------------------- */

void loop_source_add(struct loop *loop, struct loop_source *source)
{
	list_append(&loop->sources, &source->link);
}

void loop_source_remove(struct loop *loop, struct loop_source *source)
{
	SKEP_CHECK(!loop->running); /* or the walk over the list would lose its place */
	list_remove(&source->link);
}

bool loop_is_here(const struct loop *loop)
{
	return atomic_load_explicit(&loop->thread, memory_order_relaxed) == &thread_mark;
}

/*
 * Dekker's pattern twice over, in one total order because every access below is sequentially
 * consistent:
 *
 *   waker: publish work (W1), read woken (W2), set woken (W3), read sleeping (W4)
 *   loop:  clear woken (L1), look for work (L2), set sleeping (L3), read woken (L4)
 *
 * W3-W4 against L3-L4: either the waker sees the sleeper and writes to the descriptor, or the loop
 * sees woken and does not sleep. W1-W2 against L1-L2: a waker that finds woken set already leaves
 * it at that, and the loop clears it before it looks for work, so it finds what was published
 * before. W1 and L2 are the caller's, and must be sequentially consistent too (mailbox.c:
 * slot->sequence).
 */
void loop_wake(struct loop *loop)
{
	uint64_t one = 1;
	int saved = errno;

	if (atomic_load_explicit(&loop->woken, memory_order_seq_cst))
		return;
	if (atomic_exchange_explicit(&loop->woken, 1, memory_order_seq_cst))
		return;
	if (!atomic_load_explicit(&loop->sleeping, memory_order_seq_cst))
		return;
	if (write(loop->wake_fd, &one, sizeof(one)) < 0) {
		/* Only -EAGAIN after 2^64 wake-ups: the descriptor is readable then. */
		SKEP_CHECK(errno == EAGAIN);
		errno = saved;
	}
}

static int sources_run(struct loop *loop)
{
	int count = 0;

	list_each (node, &loop->sources) {
		struct loop_source *source = list_item(node, struct loop_source, link);

		count += source->run(source);
	}
	return count;
}

/* How long the back end may sleep; the loop counts as sleeping from here on where that is not 0. */
static uint64_t sleep_begin(struct loop *loop, uint64_t until_ns)
{
	uint64_t now_ns;

	if (loop->heap_count)
		until_ns = MIN_OF(until_ns, loop->heap[0]->due_ns);
	if (!until_ns || !list_empty(&loop->again))
		return 0;
	now_ns = clock_ns();
	if (until_ns <= now_ns)
		return 0;
	atomic_store_explicit(&loop->sleeping, 1, memory_order_seq_cst); /* L3 of loop_wake */
	if (atomic_load_explicit(&loop->woken, memory_order_seq_cst)) {	 /* L4 */
		atomic_store_explicit(&loop->sleeping, 0, memory_order_relaxed);
		return 0;
	}
	return until_ns == CLOCK_NEVER ? CLOCK_NEVER : until_ns - now_ns;
}

int loop_run_once(struct loop *loop, uint64_t until_ns)
{
	uint64_t span_ns;
	int count, again;

	SKEP_CHECK(!loop->running);
	loop->running = true;
	atomic_store_explicit(&loop->thread, &thread_mark, memory_order_relaxed);
	span_ns = sleep_begin(loop, until_ns);
	again = again_run(loop); /* before the wait, whose callbacks ask for the next turn */
	count = loop->ops->wait(loop, span_ns);
	/* Relaxed: a waker that still sees the sleeper writes once too often, no more. */
	atomic_store_explicit(&loop->sleeping, 0, memory_order_relaxed);
	if (count >= 0) {
		count += again;
		/* The load spares the line where nothing came; L1 of loop_wake, then L2. */
		if (atomic_load_explicit(&loop->woken, memory_order_relaxed) &&
			atomic_exchange_explicit(&loop->woken, 0, memory_order_seq_cst))
			count += sources_run(loop);
		if (loop->heap_count)
			count += timers_run(loop, clock_ns());
	}
	loop->running = false;
	return count;
}
