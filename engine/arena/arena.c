/* SPDX-License-Identifier: Apache-2.0 */
/* The arena as a whole: made, ended, counted. */
#include "engine/arena/arena.h"

#include <errno.h>
#include <time.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/memory.h"
#include "engine/arena/arena_priv.h"

static int options_check(const struct arena_options *options)
{
	return !options->gpu || !options->stream || !options->pages_max ||
			       options->pages_max == NONE || !options->sequences_max ||
			       !options->tokens_max
		       ? -EINVAL
		       : 0;
}

static int arena_allocate(struct arena *arena)
{
	const struct arena_options *options = &arena->options;
	uint32_t range_pages = arena->geometry.range_pages;

	if (options->sequences_max > (1ull << 63) / arena->geometry.range_bytes ||
		options->pages_max > (1ull << 63) / arena->geometry.page_bytes)
		return -EINVAL;
	arena->pages = memory_calloc(options->pages_max, sizeof(*arena->pages));
	arena->sequences = memory_calloc(options->sequences_max, sizeof(*arena->sequences));
	arena->sequence_pages = memory_calloc(
		(size_t)options->sequences_max * range_pages, sizeof(*arena->sequence_pages));
	if (!arena->pages || !arena->sequences || !arena->sequence_pages)
		return -ENOMEM;
	list_init(&arena->todo);
	list_init(&arena->empty);
	for (uint32_t i = 0; i < options->sequences_max; i++) {
		struct arena_sequence *s = &arena->sequences[i];

		s->arena = arena;
		s->pages = arena->sequence_pages + (size_t)i * range_pages;
		atomic_init(&s->keep, NONE);
		list_append(&arena->empty, &s->node);
	}
	return 0;
}

static int locks_open(struct arena *arena)
{
	pthread_condattr_t attributes;
	int status = pthread_condattr_init(&attributes);

	if (status)
		return -status;
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	/* On Linux none of these fails once its arguments are right. */
	SKEP_CHECK(pthread_mutex_init(&arena->lock, NULL) == 0 &&
		   pthread_cond_init(&arena->work, &attributes) == 0 &&
		   pthread_cond_init(&arena->done, NULL) == 0);
	pthread_condattr_destroy(&attributes);
	return 0;
}

static int ranges_open(struct arena *arena)
{
	uint64_t each = arena->geometry.range_bytes, bytes = arena->options.sequences_max * each;
	int status = gpu_reserve(arena->gpu, bytes, &arena->ranges_at);

	if (status)
		return status;
	arena->ranges_bytes = bytes;
	for (uint32_t i = 0; i < arena->options.sequences_max; i++)
		arena->sequences[i].base = arena->ranges_at + i * each;
	return 0;
}

int arena_create(const struct arena_options *options, struct arena **made)
{
	struct arena *arena;
	int status = options_check(options);

	if (status)
		return status;
	arena = memory_zalloc(sizeof(*arena));
	if (!arena)
		return -ENOMEM;
	arena->gpu = options->gpu;
	arena->stream = options->stream;
	arena->options = *options;
	status = locks_open(arena);
	if (status) {
		memory_free(arena);
		return status;
	}
	status = arena_geometry_of(options, gpu_info(arena->gpu)->page_bytes, &arena->geometry);
	if (!status)
		status = arena_allocate(arena);
	if (!status)
		status = ranges_open(arena);
	if (!status)
		status = pool_open(arena);
	if (!status && options->background)
		status = mapper_start(arena);
	if (status)
		arena_destroy(arena);
	else
		*made = arena;
	return status;
}

void arena_destroy(struct arena *arena)
{
	if (!arena)
		return;
	mapper_stop(arena);
	for (uint32_t i = 0; arena->sequences && i < arena->options.sequences_max; i++) {
		struct arena_sequence *s = &arena->sequences[i];
		uint32_t mapped = sequence_mapped(s);

		if (mapped && s->form == ARENA_CONTIGUOUS)
			gpu_unmap(arena->gpu, s->base, mapped * arena->geometry.page_bytes);
	}
	pool_close(arena);
	if (arena->ranges_bytes)
		gpu_unreserve(arena->gpu, arena->ranges_at, arena->ranges_bytes);
	pthread_cond_destroy(&arena->done);
	pthread_cond_destroy(&arena->work);
	pthread_mutex_destroy(&arena->lock);
	memory_free(arena->sequence_pages);
	memory_free(arena->sequences);
	memory_free(arena->pages);
	memory_free(arena);
}

const struct arena_geometry *arena_geometry(const struct arena *arena)
{
	return &arena->geometry;
}

/* What usage_of_sequence saw a page as; the greater one stands. */
enum { SEEN_NOT, SEEN_DROPPED, SEEN_HELD };

static void usage_of_sequence(
	struct arena *arena, const struct arena_sequence *s, struct arena_usage *usage)
{
	uint32_t held = MIN_OF(s->filled, sequence_keep(s)), tokens = sequence_tokens(s);

	for (uint32_t i = 0; i < s->filled; i++) {
		struct page *page = &arena->pages[s->pages[i]];

		if (i >= held) {
			page->seen = MAX_OF(page->seen, SEEN_DROPPED);
			continue;
		}
		page->seen = SEEN_HELD;
		page->fill = MAX_OF(page->fill, geometry_fill(&arena->geometry, i, tokens));
	}
	usage->unshared_bytes += held * arena->geometry.page_bytes;
}

static void usage_of_page(
	const struct arena *arena, const struct page *page, struct arena_usage *usage)
{
	usage->pages_shared += page->refs > 1;
	if (page->seen == SEEN_HELD) {
		usage->mapped_bytes += arena->geometry.page_bytes;
		usage->token_bytes += page->fill;
	}
	usage->pages_fenced += page->seen == SEEN_DROPPED;
	usage->pages_held += page->refs && page->seen == SEEN_NOT;
}

void arena_usage_get(
	struct arena *arena, struct arena_usage *usage, struct arena_counters *counters)
{
	*usage = (struct arena_usage){0};
	pthread_mutex_lock(&arena->lock);
	fences_poll(arena);
	for (uint32_t i = 0; i < arena->options.pages_max; i++) {
		arena->pages[i].seen = SEEN_NOT;
		arena->pages[i].fill = 0;
	}
	for (uint32_t i = 0; i < arena->options.sequences_max; i++)
		usage_of_sequence(arena, &arena->sequences[i], usage);
	for (uint32_t i = 0; i < arena->options.pages_max; i++)
		usage_of_page(arena, &arena->pages[i], usage);
	usage->pages = arena->options.pages_max - arena->blank.count;
	usage->pages_free = arena->unused.count;
	usage->pages_fenced += arena->fenced.count;
	usage->sequences = arena->open;
	usage->sequences_closing = arena->closing;
	if (counters)
		*counters = arena->counters;
	pthread_mutex_unlock(&arena->lock);
}
