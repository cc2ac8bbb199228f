/* SPDX-License-Identifier: Apache-2.0 */
/* Pages with several holders: forks, holds, attached prefixes, and the copy before a write. */
#include <errno.h>

#include "base/check.h"
#include "engine/arena/arena_priv.h"

/* -------------------------------------------------------------------------- copy before a write */

static uint32_t refs_of(const struct arena *arena, uint32_t page)
{
	return arena->pages[page].refs;
}

/* After a failure with @status: no copy into a page that is given back is under way. */
static int copies_end(struct arena *arena, int status)
{
	int ended;

	pthread_mutex_unlock(&arena->lock);
	ended = gpu_stream_sync(arena->stream);
	pthread_mutex_lock(&arena->lock);
	return ended ? ended : status;
}

/* Whether @other holds @page at @index, not yet in its range, so that a copy can take its place
 * without a device call for the range. */
static bool can_be_given(const struct arena_sequence *other, uint32_t index, uint32_t page)
{
	return other->state == SEQUENCE_OPEN && other->form == ARENA_CONTIGUOUS && !other->busy &&
	       other->lazy <= index && sequence_mapped(other) <= index && index < other->filled &&
	       index < sequence_keep(other) && other->pages[index] == page;
}

/* Whoever writes first keeps a page that stands in its range already; the copies go to the
 * others. */
static int split_to_others(struct arena_sequence *s, uint32_t index)
{
	struct arena *arena = s->arena;
	uint32_t page = s->pages[index], copy;
	int status;

	for (uint32_t i = 0; i < arena->options.sequences_max && refs_of(arena, page) > 1; i++) {
		struct arena_sequence *other = &arena->sequences[i];

		if (other == s || !can_be_given(other, index, page))
			continue;
		status = page_take(arena, &copy);
		if (status)
			return status;
		/* @other still has it: only the owner changes what is lazy, and is here. */
		status = page_copy(arena, copy, page, 1);
		if (status) {
			page_put(arena, copy, 0);
			return status;
		}
		other->pages[index] = copy;
		other->exchanged = true;
		page_put(arena, page, 0);
		arena->counters.cow_copies++;
	}
	return 0;
}

/*
 * Exchanges the page under a range in use, once the stream has come to an end: neither the old
 * addresses nor the copy are in use then.
 */
static int split_in_range(struct arena_sequence *s, uint32_t index, uint32_t copy)
{
	struct arena *arena = s->arena;
	uint64_t page_bytes = arena->geometry.page_bytes, at = s->base + index * page_bytes, fence;
	uint32_t mapped = sequence_mapped(s);
	struct gpu_page *from = arena->pages[s->pages[index]].handle;
	struct gpu_page *to = arena->pages[copy].handle;
	int status, back = 0;

	status = fence_take(arena, &fence);
	if (!status)
		status = fence_sync(arena, fence);
	if (status)
		return status;
	pthread_mutex_unlock(&arena->lock);
	gpu_unmap(arena->gpu, at, page_bytes);
	status = gpu_map(arena->gpu, at, to);
	if (status)
		back = gpu_map(arena->gpu, at, from);
	if (back && index + 1 < mapped)
		gpu_unmap(arena->gpu, at + page_bytes, (mapped - index - 1) * page_bytes);
	pthread_mutex_lock(&arena->lock);
	if (back) /* no hole: the mapper puts all from here on back */
		atomic_store_explicit(&s->mapped, index, memory_order_release);
	arena->counters.failures += status != 0;
	arena->counters.cow_remaps += status == 0;
	return status;
}

static int split_one(struct arena_sequence *s, uint32_t index)
{
	struct arena *arena = s->arena;
	bool in_range = s->form == ARENA_CONTIGUOUS && index < sequence_mapped(s);
	uint32_t page = s->pages[index], copy;
	int status;

	status = in_range ? split_to_others(s, index) : 0;
	if (status || refs_of(arena, page) == 1)
		return status;
	status = page_take(arena, &copy);
	if (status)
		return status;
	if (refs_of(arena, page) == 1) { /* the others let go of it meanwhile */
		page_put(arena, copy, 0);
		return 0;
	}
	status = page_copy(arena, copy, page, 1);
	if (!status && in_range) {
		status = split_in_range(s, index, copy);
		if (status)
			status = copies_end(arena, status);
	}
	if (status) {
		page_put(arena, copy, 0);
		return status;
	}
	s->pages[index] = copy;
	s->exchanged = true;
	/* The last holder's reference only where the stream has come to an end in between. */
	page_put(arena, page, 0);
	arena->counters.cow_copies++;
	return 0;
}

int share_split(struct arena_sequence *s, uint32_t from, uint32_t to)
{
	int status = 0;

	if (from >= s->shared_to)
		return 0;
	mapper_leave(s);
	for (uint32_t i = from; !status && i < to && i < s->filled; i++) {
		if (refs_of(s->arena, s->pages[i]) == 1)
			continue;
		s->busy = true;
		status = split_one(s, i);
		s->busy = false;
	}
	mapper_wake(s->arena); /* it passed over a busy sequence */
	return status;
}

/* --------------------------------------------------------------------------------- by reference */

/* @s, which is empty, has pages[0, filled), all shared. Lock held. */
static void share_begin(struct arena_sequence *s, uint32_t filled, uint32_t tokens)
{
	uint32_t written = geometry_written(&s->arena->geometry, tokens);

	s->filled = s->want = s->asked = s->shared_to = filled;
	s->lazy = written < filled ? written : NONE;
	atomic_store_explicit(&s->tokens, tokens, memory_order_relaxed);
	if (s->form == ARENA_PAGED)
		atomic_store_explicit(&s->mapped, filled, memory_order_release);
	else
		mapper_queue(s, false);
}

int arena_fork(struct arena_sequence *s, struct arena_sequence **child)
{
	struct arena *arena = s->arena;
	uint32_t tokens = sequence_tokens(s), count = arena_pages_of(arena, tokens);
	int status = arena_open(arena, s->form, child);

	if (status)
		return status;
	pthread_mutex_lock(&arena->lock);
	SKEP_CHECK(s->state == SEQUENCE_OPEN && count <= s->filled && count <= sequence_keep(s));
	for (uint32_t i = 0; i < count; i++) {
		page_get(arena, s->pages[i]);
		(*child)->pages[i] = s->pages[i];
	}
	if (s->shared_to < count)
		s->shared_to = count;
	share_begin(*child, count, tokens);
	pthread_mutex_unlock(&arena->lock);
	return 0;
}

int arena_hold(struct arena_sequence *s, uint32_t from, uint32_t count, uint32_t *pages)
{
	struct arena *arena = s->arena;
	uint32_t has = arena_pages_of(arena, sequence_tokens(s));

	if (from > has || count > has - from)
		return -EINVAL;
	pthread_mutex_lock(&arena->lock);
	for (uint32_t i = 0; i < count; i++) {
		page_get(arena, s->pages[from + i]);
		pages[i] = s->pages[from + i];
	}
	if (count && s->shared_to < from + count)
		s->shared_to = from + count;
	pthread_mutex_unlock(&arena->lock);
	return 0;
}

/* Whether the sequence is as arena_open made it, and @count pages are what the tokens need. Lock
 * held. */
static int attach_check(const struct arena_sequence *s, uint32_t count, uint32_t tokens)
{
	SKEP_CHECK(s->state == SEQUENCE_OPEN);
	if (tokens > s->arena->options.tokens_max)
		return -EFBIG;
	if (sequence_tokens(s) || s->asked || s->filled || sequence_keep(s) != NONE)
		return -EINVAL;
	return count != arena_pages_of(s->arena, tokens) ? -EINVAL : 0;
}

int arena_attach(struct arena_sequence *s, const uint32_t *pages, uint32_t count, uint32_t tokens)
{
	int status;

	pthread_mutex_lock(&s->arena->lock);
	status = attach_check(s, count, tokens);
	for (uint32_t i = 0; !status && i < count; i++) {
		page_get(s->arena, pages[i]);
		s->pages[i] = pages[i];
	}
	if (!status)
		share_begin(s, count, tokens);
	pthread_mutex_unlock(&s->arena->lock);
	return status;
}

/* Pages from @from on that lie side by side in the window, here and there: one copy. */
static uint32_t run_of(const uint32_t *to, const uint32_t *from, uint32_t count)
{
	uint32_t run = 1;

	while (run < count && to[run] == to[0] + run && from[run] == from[0] + run)
		run++;
	return run;
}

/* Copies of @pages in the sequence's places, not yet its own. Lock held, let go in between. */
static int copy_all(struct arena_sequence *s, const uint32_t *pages, uint32_t count)
{
	struct arena *arena = s->arena;
	uint32_t taken = 0, run;
	int status = 0;

	while (!status && taken < count) {
		SKEP_CHECK(pages[taken] < arena->options.pages_max && refs_of(arena, pages[taken]));
		status = page_take(arena, &s->pages[taken]);
		taken += status == 0;
	}
	for (uint32_t i = 0; !status && i < count; i += run) {
		run = run_of(s->pages + i, pages + i, count - i);
		status = page_copy(arena, s->pages[i], pages[i], run);
	}
	if (!status || !taken)
		return status;
	status = copies_end(arena, status);
	while (taken > 0)
		page_put(arena, s->pages[--taken], 0);
	return status;
}

int arena_attach_copy(
	struct arena_sequence *s, const uint32_t *pages, uint32_t count, uint32_t tokens)
{
	struct arena *arena = s->arena;
	int status;

	pthread_mutex_lock(&arena->lock);
	status = attach_check(s, count, tokens);
	if (!status)
		status = copy_all(s, pages, count);
	if (!status) {
		arena->counters.attach_copies += count;
		share_begin(s, count, tokens);
		s->shared_to = 0;
		s->lazy = NONE;
	}
	pthread_mutex_unlock(&arena->lock);
	return status;
}
