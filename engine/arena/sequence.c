/* SPDX-License-Identifier: Apache-2.0 */
/* The life of one sequence, as its owner sees it. */
#include <errno.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "engine/arena/arena_priv.h"

/* Without a mapper, what can be done now is done by the calls that may take their time. */
static void help(struct arena *arena)
{
	while (!arena->threaded && mapper_step(arena))
		;
}

int arena_open(struct arena *arena, enum arena_form form, struct arena_sequence **sequence)
{
	struct arena_sequence *s;

	if (form == ARENA_PAGED && !arena->geometry.page_blocks)
		return -ENOTSUP;
	pthread_mutex_lock(&arena->lock);
	if (list_empty(&arena->empty))
		help(arena);
	if (list_empty(&arena->empty)) {
		int status = arena->closing ? -EAGAIN : -ENOSPC;

		pthread_mutex_unlock(&arena->lock);
		return status;
	}
	s = sequence_of(arena->empty.next);
	list_remove(&s->node);
	SKEP_CHECK(s->state == SEQUENCE_FREE && !s->filled && !sequence_mapped(s));
	s->state = SEQUENCE_OPEN;
	s->form = form;
	s->shared_to = s->asked = s->want = 0;
	s->exchanged = s->waiting = false;
	s->failed = 0;
	s->lazy = NONE;
	s->keep_fence = 0;
	atomic_store_explicit(&s->tokens, 0, memory_order_relaxed);
	arena->open++;
	pthread_mutex_unlock(&arena->lock);
	*sequence = s;
	return 0;
}

/* Pages from @keep on go once @fence has passed. Lock held. */
static void drop(struct arena_sequence *s, uint32_t keep, uint64_t fence)
{
	SKEP_CHECK(fence <= s->arena->fence_last);
	s->arena->dropped += sequence_keep(s) == NONE;
	s->keep_fence = MAX_OF(s->keep_fence, fence);
	atomic_store_explicit(&s->keep, keep, memory_order_release);
	mapper_queue(s, false);
}

void arena_free(struct arena_sequence *s, uint64_t fence)
{
	struct arena *arena = s->arena;

	pthread_mutex_lock(&arena->lock);
	SKEP_CHECK(s->state == SEQUENCE_OPEN);
	s->state = SEQUENCE_CLOSING;
	s->want = 0;
	arena->open--;
	arena->closing++;
	drop(s, 0, fence);
	help(arena);
	pthread_mutex_unlock(&arena->lock);
}

/* Pages to have placed where a sequence has, or soon will have, @tokens. */
static uint32_t want_of(const struct arena *arena, uint32_t tokens)
{
	const struct arena_options *options = &arena->options;
	uint64_t end = tokens;

	if (options->background)
		end += options->ahead_tokens;
	return arena_pages_of(arena, (uint32_t)MIN_OF(end, options->tokens_max));
}

void arena_expect(struct arena_sequence *s, uint32_t tokens)
{
	struct arena *arena = s->arena;
	uint32_t want;

	if (!arena->options.background)
		return;
	want = want_of(arena, tokens);
	if (want <= s->asked)
		return;
	pthread_mutex_lock(&arena->lock);
	SKEP_CHECK(s->state == SEQUENCE_OPEN);
	s->failed = 0;
	s->asked = s->want = want;
	mapper_queue(s, false);
	pthread_mutex_unlock(&arena->lock);
}

/* -------------------------------------------------------------------------------------- growing */

static void count_wait(struct arena *arena, uint64_t began_ns)
{
	uint64_t took_ns = clock_ns() - began_ns;

	arena->counters.waits++;
	arena->counters.wait_ns += took_ns;
	arena->counters.wait_ns_max = MAX_OF(arena->counters.wait_ns_max, took_ns);
}

/* Waits until [0, need) stand in the range and nothing of it is to be dropped. Lock held. */
static int wait_placed(struct arena_sequence *s, uint32_t need)
{
	struct arena *arena = s->arena;
	bool ready = false;
	int status;

	mapper_queue(s, true);
	s->waiting = true;
	while (!s->failed) {
		ready = need <= sequence_keep(s) && need <= sequence_mapped(s);
		if (ready)
			break;
		status = mapper_wait(arena);
		if (status)
			s->failed = status;
	}
	s->waiting = false;
	/* It may have failed further on, where nobody needs it yet. */
	return ready || need <= MIN_OF(sequence_keep(s), sequence_mapped(s)) ? 0 : s->failed;
}

/* Waits until dropped pages are gone from where pages are wanted again. Lock held. */
static int wait_dropped(struct arena_sequence *s, uint32_t need)
{
	int status = 0;

	if (need <= sequence_keep(s))
		return 0;
	mapper_queue(s, true);
	s->waiting = true;
	while (!status && need > sequence_keep(s))
		status = mapper_wait(s->arena);
	s->waiting = false;
	return status;
}

static int extend_slowly(struct arena_sequence *s, uint32_t tokens, uint32_t need)
{
	struct arena *arena = s->arena;
	uint32_t old = sequence_tokens(s), want = want_of(arena, tokens), want_before;
	uint64_t began_ns = clock_ns(), remaps;
	bool waited;
	int status;

	pthread_mutex_lock(&arena->lock);
	SKEP_CHECK(s->state == SEQUENCE_OPEN);
	s->failed = 0;
	want_before = s->want;
	remaps = arena->counters.cow_remaps;
	waited = need > sequence_keep(s);
	status = wait_dropped(s, need);
	if (!status && tokens > old)
		status = share_split(s, geometry_written(&arena->geometry, old), need);
	if (!status) {
		s->lazy = NONE;
		s->want = s->asked = MAX_OF(s->want, want);
		if (need <= sequence_mapped(s)) {
			mapper_queue(s, false);
		} else {
			waited = true;
			status = wait_placed(s, need);
		}
	}
	if (status)
		s->want = s->asked = want_before;
	else
		atomic_store_explicit(&s->tokens, tokens, memory_order_relaxed);
	if (waited || arena->counters.cow_remaps != remaps)
		count_wait(arena, began_ns);
	pthread_mutex_unlock(&arena->lock);
	return status;
}

bool arena_ready(struct arena_sequence *s, uint32_t tokens)
{
	const struct arena_geometry *g = &s->arena->geometry;
	uint32_t need = geometry_pages(g, tokens), old = sequence_tokens(s);

	/* `keep` first: when it reads as cleared, `mapped` is as the mapper left it. */
	return need <= sequence_keep(s) && need <= sequence_mapped(s) &&
	       (tokens == old || geometry_written(g, old) >= s->shared_to);
}

int arena_extend(struct arena_sequence *s, uint32_t tokens)
{
	struct arena *arena = s->arena;
	uint32_t need;
	int status;

	SKEP_ASSERT(s->state == SEQUENCE_OPEN);
	if (tokens > arena->options.tokens_max)
		return -EFBIG;
	if (tokens < sequence_tokens(s))
		return -EINVAL;
	need = arena_pages_of(arena, tokens);
	/* The usual step: no lock, no call. */
	if (arena_ready(s, tokens) && want_of(arena, tokens) <= s->asked) {
		atomic_store_explicit(&s->tokens, tokens, memory_order_relaxed);
	} else {
		status = extend_slowly(s, tokens, need);
		if (status)
			return status;
	}
	status = s->exchanged;
	s->exchanged = false;
	return status;
}

int arena_sync(struct arena_sequence *s)
{
	struct arena *arena = s->arena;
	uint32_t need = arena_pages_of(arena, sequence_tokens(s));
	uint64_t began_ns = clock_ns();
	int status;

	if (arena_ready(s, sequence_tokens(s)))
		return 0;
	pthread_mutex_lock(&arena->lock);
	SKEP_CHECK(s->state == SEQUENCE_OPEN);
	s->failed = 0;
	s->lazy = NONE;
	status = wait_placed(s, need);
	count_wait(arena, began_ns);
	pthread_mutex_unlock(&arena->lock);
	return status;
}

void arena_truncate(struct arena_sequence *s, uint32_t tokens, uint64_t fence)
{
	struct arena *arena = s->arena;
	uint32_t need = arena_pages_of(arena, tokens), cut = need, limit, written;

	SKEP_CHECK(tokens <= sequence_tokens(s));
	pthread_mutex_lock(&arena->lock);
	SKEP_CHECK(s->state == SEQUENCE_OPEN);
	mapper_leave(s);
	atomic_store_explicit(&s->tokens, tokens, memory_order_relaxed);
	s->want = s->asked = MIN_OF(s->want, want_of(arena, tokens));
	/* What stands ready behind the new end may stay, but not what others hold as well. */
	limit = MIN_OF(MIN_OF(s->want, s->filled), sequence_keep(s));
	while (cut < limit && arena->pages[s->pages[cut]].refs == 1)
		cut++;
	written = geometry_written(&arena->geometry, tokens);
	s->lazy = written < need && sequence_mapped(s) <= written &&
				  arena->pages[s->pages[written]].refs > 1
			  ? written
			  : NONE;
	if (cut < MIN_OF(s->filled, sequence_keep(s)))
		drop(s, cut, fence);
	help(arena);
	pthread_mutex_unlock(&arena->lock);
}

/* -------------------------------------------------------------------------------------- reading */

uint32_t arena_tokens(const struct arena_sequence *s)
{
	return sequence_tokens(s);
}

uint64_t arena_base(const struct arena_sequence *s)
{
	return s->form == ARENA_CONTIGUOUS ? s->base : 0;
}

int arena_table(struct arena_sequence *s, uint32_t count, uint32_t *table)
{
	struct arena *arena = s->arena;
	uint32_t each = arena->geometry.page_blocks;
	int status = 0;

	if (!each)
		return -ENOTSUP;
	pthread_mutex_lock(&arena->lock);
	if (divide_up(count, each) > MIN_OF(s->filled, sequence_keep(s)))
		status = -EINVAL;
	for (uint32_t i = 0; !status && i < count; i++)
		table[i] = s->pages[i / each] * each + i % each;
	pthread_mutex_unlock(&arena->lock);
	return status;
}
