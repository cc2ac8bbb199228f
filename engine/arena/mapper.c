/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happens behind the owner's back: pages are placed ahead of need, attached pages are mapped,
 * dropped ones taken away once their fence has passed. One step does one thing, so that what is
 * urgent waits for one device call at most. Without a mapper the owner does the same steps itself.
 */
#include <errno.h>
#include <time.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "engine/arena/arena_priv.h"

/* How often fences are looked at while something waits for one: rarely enough to cost nothing. */
#define POLL_NS		(200 * NS_PER_US)
#define POLL_AWAITED_NS (20 * NS_PER_US)

bool mapper_fenced(const struct arena *arena)
{
	return arena->dropped || arena->fenced.count;
}

void mapper_wake(struct arena *arena)
{
	if (arena->threaded && arena->idle)
		pthread_cond_signal(&arena->work);
	arena->idle = false;
}

void mapper_queue(struct arena_sequence *s, bool urgent)
{
	struct arena *arena = s->arena;

	list_remove(&s->node);
	if (urgent)
		list_add_before(arena->todo.next, &s->node);
	else
		list_append(&arena->todo, &s->node);
	mapper_wake(arena);
}

/* ---------------------------------------------------------------------------------------- steps */

/* The device calls of a step are made between these two. */
static void step_begin(struct arena_sequence *s)
{
	SKEP_CHECK(!s->busy);
	s->busy = true;
	pthread_mutex_unlock(&s->arena->lock);
}

static void step_end(struct arena_sequence *s)
{
	pthread_mutex_lock(&s->arena->lock);
	s->busy = false;
}

static void step_failed(struct arena_sequence *s, int status)
{
	s->failed = status;
	list_remove(&s->node);
}

/* Takes away the pages from `keep` on. The owner may drop more of them meanwhile. */
static void step_drop(struct arena_sequence *s)
{
	struct arena *arena = s->arena;
	uint64_t page_bytes = arena->geometry.page_bytes;
	uint32_t keep = sequence_keep(s), mapped = sequence_mapped(s);

	if (s->form == ARENA_CONTIGUOUS && keep < mapped) {
		step_begin(s);
		gpu_unmap(arena->gpu, s->base + keep * page_bytes, (mapped - keep) * page_bytes);
		step_end(s);
		arena->counters.unmaps += mapped - keep;
	}
	/* From the end on: what comes out of the pool next comes in ascending order. */
	while (s->filled > keep)
		page_put(arena, s->pages[--s->filled], 0);
	atomic_store_explicit(&s->mapped, MIN_OF(mapped, keep), memory_order_release);
	if (sequence_keep(s) < keep)
		return; /* dropped further while the device worked: that is a step of its own */
	/* Pairs with sequence_keep: who sees it cleared sees `mapped` as it is now. */
	atomic_store_explicit(&s->keep, NONE, memory_order_release);
	arena->dropped--;
	if (s->state == SEQUENCE_CLOSING) {
		s->state = SEQUENCE_FREE;
		arena->closing--;
		list_remove(&s->node);
		list_append(&arena->empty, &s->node);
	}
}

static void count_map(struct arena_sequence *s, uint32_t page)
{
	struct arena_counters *counters = &s->arena->counters;

	if (s->waiting)
		counters->maps_in_time++;
	else
		counters->maps_ahead++;
	counters->maps_shared += s->arena->pages[page].refs > 1;
}

/* Puts pages[mapped] at its place. */
static int step_map(struct arena_sequence *s)
{
	struct arena *arena = s->arena;
	uint32_t index = sequence_mapped(s), page = s->pages[index];
	struct gpu_page *handle = arena->pages[page].handle;
	int status;

	step_begin(s);
	status = gpu_map(arena->gpu, s->base + index * arena->geometry.page_bytes, handle);
	step_end(s);
	if (status) {
		arena->counters.failures++;
		return status;
	}
	count_map(s, page);
	atomic_store_explicit(&s->mapped, index + 1, memory_order_release);
	return 0;
}

/* One more page at the end. */
static void step_place(struct arena_sequence *s)
{
	struct arena *arena = s->arena;
	uint32_t page;
	int status;

	/* Taking may create one: busy, so that nobody else fills the same place. */
	s->busy = true;
	status = page_take(arena, &page);
	s->busy = false;
	if (status) {
		step_failed(s, status);
		return;
	}
	s->pages[s->filled++] = page;
	if (s->form == ARENA_PAGED) {
		atomic_store_explicit(&s->mapped, s->filled, memory_order_release);
		return;
	}
	status = step_map(s);
	if (status) {
		page_put(arena, s->pages[--s->filled], 0);
		step_failed(s, status);
	}
}

/* What can be done for the sequence now is done, one thing; false: nothing. */
static bool step_sequence(struct arena_sequence *s)
{
	struct arena *arena = s->arena;
	uint32_t keep = sequence_keep(s), mapped = sequence_mapped(s);
	int status;

	if (s->busy)
		return false;
	if (keep != NONE && fence_passed(arena, s->keep_fence)) {
		step_drop(s);
		return true;
	}
	if (s->state == SEQUENCE_OPEN && mapped < MIN_OF(MIN_OF(s->filled, keep), s->lazy)) {
		status = step_map(s);
		if (status)
			step_failed(s, status);
		return true;
	}
	if (keep == NONE && mapped == s->filled && s->filled < s->want) {
		step_place(s);
		return true;
	}
	if (keep == NONE)
		list_remove(&s->node);
	return false;
}

bool mapper_step(struct arena *arena)
{
	/* The list may change in a step, so each step begins at its head. */
	list_each_safe (node, &arena->todo) {
		struct arena_sequence *s = sequence_of(node);

		if (!step_sequence(s))
			continue;
		/* In turn, but for the one that somebody waits for. */
		if (s->state != SEQUENCE_FREE && !s->waiting && !s->failed) {
			list_remove(&s->node);
			list_append(&arena->todo, &s->node);
		}
		return true;
	}
	if (arena->fenced.count)
		fences_poll(arena);
	if (arena->threaded && !arena->spare_failed && arena->blank.count &&
		arena->unused.count < arena->options.spare_pages) {
		arena->spare_failed = page_create(arena) != 0;
		return true;
	}
	return false;
}

/* -------------------------------------------------------------------------------------- waiting */

/* Waits for the mapper to have done something. */
static void wait_done(struct arena *arena)
{
	arena->awaited = true;
	pthread_cond_wait(&arena->done, &arena->lock);
	arena->awaited = false;
}

int mapper_wait(struct arena *arena)
{
	if (arena->threaded) {
		wait_done(arena);
		return 0;
	}
	if (mapper_step(arena))
		return 0;
	if (!arena->dropped || arena->fence_passed == arena->fence_last)
		return -EAGAIN;
	return fence_sync(arena, arena->fence_passed + 1);
}

void mapper_leave(struct arena_sequence *s)
{
	while (s->busy)
		wait_done(s->arena);
}

void arena_settle(struct arena *arena)
{
	pthread_mutex_lock(&arena->lock);
	if (arena->threaded) {
		mapper_wake(arena);
		while (!arena->idle)
			wait_done(arena);
	} else {
		while (mapper_step(arena))
			;
	}
	pthread_mutex_unlock(&arena->lock);
}

/* --------------------------------------------------------------------------------------- thread */

static void wait_work(struct arena *arena)
{
	struct timespec until;
	uint64_t at_ns;

	if (!mapper_fenced(arena)) {
		pthread_cond_wait(&arena->work, &arena->lock);
		return;
	}
	at_ns = clock_ns() + (arena->awaited ? POLL_AWAITED_NS : POLL_NS);
	until.tv_sec = (time_t)(at_ns / NS_PER_S);
	until.tv_nsec = (long)(at_ns % NS_PER_S);
	pthread_cond_timedwait(&arena->work, &arena->lock, &until);
}

static void *mapper_run(void *context)
{
	struct arena *arena = context;

	pthread_mutex_lock(&arena->lock);
	while (!arena->stop) {
		bool did = mapper_step(arena);

		if (!did)
			arena->idle = true;
		if (arena->awaited)
			pthread_cond_signal(&arena->done);
		if (!did && !arena->stop)
			wait_work(arena);
	}
	pthread_mutex_unlock(&arena->lock);
	return NULL;
}

int mapper_start(struct arena *arena)
{
	int status;

	arena->threaded = true; /* before the thread that reads it */
	status = pthread_create(&arena->thread, NULL, mapper_run, arena);
	if (status) {
		arena->threaded = false;
		log_error("arena", "no thread for mapping: error %d", status);
	}
	return -status;
}

void mapper_stop(struct arena *arena)
{
	if (!arena->threaded)
		return;
	pthread_mutex_lock(&arena->lock);
	arena->stop = true;
	pthread_cond_signal(&arena->work);
	pthread_mutex_unlock(&arena->lock);
	pthread_join(arena->thread, NULL);
	arena->threaded = false;
}
