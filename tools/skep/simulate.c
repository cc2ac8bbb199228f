/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/simulate.h"

#include <errno.h>
#include <stdbool.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/memory.h"

/* --- least recently used -------------------------------------------------------------------- */

#define LINK_ABSENT UINT32_MAX

struct lru_link {
	uint32_t newer, older; /* newer is LINK_ABSENT for a block that is not cached */
};

/* A circular list over node numbers; the head is the link after the last node. */
struct lru {
	struct lru_link *links;
	uint32_t head;
	size_t count, capacity;
};

static void lru_unlink(struct lru *lru, uint32_t node)
{
	struct lru_link *link = &lru->links[node];

	SKEP_CHECK(link->newer != LINK_ABSENT && lru->count > 0);
	lru->links[link->newer].older = link->older;
	lru->links[link->older].newer = link->newer;
	link->newer = LINK_ABSENT;
	lru->count--;
}

static void lru_touch(struct lru *lru, uint32_t node)
{
	struct lru_link *head = &lru->links[lru->head];

	if (lru->links[node].newer != LINK_ABSENT)
		lru_unlink(lru, node);
	else if (lru->count == lru->capacity)
		lru_unlink(lru,
			head->newer); /* from the head, newer is the oldest: the list is a ring */
	lru->links[node] = (struct lru_link){.newer = lru->head, .older = head->older};
	lru->links[head->older].newer = node;
	head->older = node;
	lru->count++;
}

static int simulate_lru(
	const struct trace *trace, size_t capacity_blocks, bool deepest_first, uint64_t *hit_blocks)
{
	struct lru lru = {.head = (uint32_t)trace->node_count, .capacity = capacity_blocks};
	uint64_t hits = 0;

	lru.links = memory_calloc(trace->node_count + 1, sizeof(*lru.links));
	if (!lru.links)
		return -ENOMEM;
	for (size_t node = 0; node < trace->node_count; node++)
		lru.links[node].newer = LINK_ABSENT;
	lru.links[lru.head] = (struct lru_link){.newer = lru.head, .older = lru.head};
	for (size_t r = 0; r < trace->request_count; r++) {
		const uint32_t *blocks = trace->blocks + trace->requests[r].first_block;
		uint32_t count = trace->requests[r].block_count;
		uint32_t run = 0;

		while (run < count && lru.links[blocks[run]].newer != LINK_ABSENT)
			run++;
		hits += run;
		for (uint32_t i = 0; i < count; i++)
			lru_touch(&lru, blocks[deepest_first ? count - 1 - i : i]);
	}
	memory_free(lru.links);
	*hit_blocks = hits;
	return 0;
}

/* --- the offline optimum -------------------------------------------------------------------- */

/*
 * A set of numbers below a bound, with its maximum, as a tree of bitmaps with 64 children a word:
 * a bit above says that the word below is not empty.
 */
#define SET_LEVELS 6

struct set {
	uint64_t *levels[SET_LEVELS]; /* [0] has a bit a number; the last is one word */
	unsigned level_count;
	size_t count;
};

static void set_destroy(struct set *set)
{
	for (unsigned level = 0; level < SET_LEVELS; level++)
		memory_free(set->levels[level]);
}

static int set_init(struct set *set, size_t bound)
{
	size_t words = bound;

	*set = (struct set){0};
	do {
		SKEP_CHECK(set->level_count < SET_LEVELS);
		words = MAX_OF(divide_up(words, 64), 1);
		set->levels[set->level_count] = memory_calloc(words, sizeof(uint64_t));
		if (!set->levels[set->level_count]) {
			set_destroy(set);
			return -ENOMEM;
		}
		set->level_count++;
	} while (words > 1);
	return 0;
}

static bool set_has(const struct set *set, size_t number)
{
	return set->levels[0][number / 64] >> (number % 64) & 1;
}

static void set_add(struct set *set, size_t number)
{
	SKEP_CHECK(!set_has(set, number));
	set->count++;
	for (unsigned level = 0; level < set->level_count; level++, number /= 64)
		set->levels[level][number / 64] |= 1ull << (number % 64);
}

static void set_drop(struct set *set, size_t number)
{
	SKEP_CHECK(set_has(set, number));
	set->count--;
	for (unsigned level = 0; level < set->level_count; level++, number /= 64) {
		set->levels[level][number / 64] &= ~(1ull << (number % 64));
		if (set->levels[level][number / 64])
			break;
	}
}

/* Only for a set that is not empty. */
static size_t set_max(const struct set *set)
{
	size_t number = 0;

	SKEP_CHECK(set->count > 0);
	for (unsigned level = set->level_count; level-- > 0;)
		number = number * 64 + 63 - (size_t)__builtin_clzll(set->levels[level][number]);
	return number;
}

#define NEVER_USED SIZE_MAX

/*
 * The *use* of the block at @place of trace.blocks: a number that orders all uses in time. Uses of
 * one request fall together in truth; their order decides who goes first when room is short, and
 * the two rules are the two policies.
 */
static size_t use_number(const struct trace_request *request, size_t place, bool keep_roots)
{
	return keep_roots ? place : 2 * request->first_block + request->block_count - 1 - place;
}

/* For each use the next use of the same node, or NEVER_USED. */
static size_t *next_use_list(const struct trace *trace, bool keep_roots)
{
	size_t *next = memory_calloc(trace->block_count, sizeof(*next));
	size_t *latest = memory_calloc(trace->node_count, sizeof(*latest));

	if (!next || !latest) {
		memory_free(next);
		memory_free(latest);
		return NULL;
	}
	for (size_t node = 0; node < trace->node_count; node++)
		latest[node] = NEVER_USED;
	for (size_t r = trace->request_count; r-- > 0;) {
		const struct trace_request *request = &trace->requests[r];

		for (uint32_t i = 0; i < request->block_count; i++) {
			size_t place = request->first_block + i;
			size_t use = use_number(request, place, keep_roots);

			next[use] = latest[trace->blocks[place]];
			latest[trace->blocks[place]] = use;
		}
	}
	memory_free(latest);
	return next;
}

/*
 * A cached block stands in the set as its next use: whether a block is cached when it is asked for
 * is whether this use is in the set, and the victim is the set's maximum.
 */
static int simulate_optimum(
	const struct trace *trace, size_t capacity_blocks, bool keep_roots, uint64_t *hit_blocks)
{
	size_t *next = next_use_list(trace, keep_roots);
	struct set uses;
	uint64_t hits = 0;

	if (!next)
		return -ENOMEM;
	if (set_init(&uses, trace->block_count)) {
		memory_free(next);
		return -ENOMEM;
	}
	for (size_t r = 0; r < trace->request_count; r++) {
		const struct trace_request *request = &trace->requests[r];
		size_t begin = request->first_block, end = begin + request->block_count;
		size_t at = begin;

		while (at < end && set_has(&uses, use_number(request, at, keep_roots)))
			at++;
		hits += at - begin;
		for (at = begin; at < end; at++) {
			size_t use = use_number(request, at, keep_roots);

			if (set_has(&uses, use))
				set_drop(&uses, use);
			if (next[use] == NEVER_USED)
				continue;
			set_add(&uses, next[use]);
			if (uses.count > capacity_blocks)
				set_drop(&uses, set_max(&uses));
		}
	}
	set_destroy(&uses);
	memory_free(next);
	*hit_blocks = hits;
	return 0;
}

int simulate(enum simulate_policy policy, const struct trace *trace, size_t capacity_blocks,
	uint64_t *hit_blocks)
{
	*hit_blocks = 0;
	if (capacity_blocks == 0)
		return 0;
	switch (policy) {
	case SIMULATE_LRU:
	case SIMULATE_LRU_DEEPEST:
		return simulate_lru(
			trace, capacity_blocks, policy == SIMULATE_LRU_DEEPEST, hit_blocks);
	case SIMULATE_OPTIMUM:
	case SIMULATE_OPTIMUM_ROOTS:
		return simulate_optimum(
			trace, capacity_blocks, policy == SIMULATE_OPTIMUM_ROOTS, hit_blocks);
	}
	return -EINVAL;
}
