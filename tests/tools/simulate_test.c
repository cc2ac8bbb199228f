/* SPDX-License-Identifier: Apache-2.0 */
/* Each simulated policy does what its definition says, seen by the plainest code for it. */
#include "tools/skep/simulate.c"

#include <string.h>

#include "tests/base/unit.h"

#define NODES_MAX 64
#define USES_MAX  400
#define NEVER	  UINT32_MAX

/* A small trace whose prompts share prefixes: ids are drawn from few, so that the tree is bushy. */
static struct trace *random_trace(uint64_t *state, unsigned requests)
{
	struct trace *trace = trace_create();

	REQUIRE(trace);
	for (unsigned r = 0; r < requests; r++) {
		unsigned count = unit_random(state, 6);
		uint64_t ids[6];

		for (unsigned i = 0; i < count; i++)
			ids[i] = unit_random(state, 2);
		REQUIRE_EQ(
			trace_add(trace, &(struct trace_head){.timestamp_ms = r}, ids, count), 0);
	}
	REQUIRE(trace->node_count <= NODES_MAX && trace->block_count <= USES_MAX);
	return trace;
}

/* What the plain caches keep of each node. */
struct plain {
	bool cached;
	unsigned stamp;	       /* LRU: of the last touch */
	uint32_t next_request; /* optimum: when it is asked for again */
	uint32_t next_order;   /* and in what order within that request */
};

static uint32_t leading_run(const struct plain *nodes, const uint32_t *blocks, uint32_t count)
{
	uint32_t run = 0;

	while (run < count && nodes[blocks[run]].cached)
		run++;
	return run;
}

static unsigned cached_count(const struct plain *nodes, size_t count)
{
	unsigned cached = 0;

	for (size_t i = 0; i < count; i++)
		cached += nodes[i].cached;
	return cached;
}

static uint64_t plain_lru(const struct trace *trace, unsigned capacity, bool deepest_first)
{
	struct plain nodes[NODES_MAX] = {0};
	unsigned clock = 0;
	uint64_t hits = 0;

	for (size_t r = 0; r < trace->request_count; r++) {
		const uint32_t *blocks = trace->blocks + trace->requests[r].first_block;
		uint32_t count = trace->requests[r].block_count;

		hits += leading_run(nodes, blocks, count);
		for (uint32_t i = 0; i < count; i++) {
			struct plain *node = &nodes[blocks[deepest_first ? count - 1 - i : i]];
			struct plain *oldest = NULL;

			node->cached = true;
			node->stamp = ++clock;
			if (cached_count(nodes, trace->node_count) <= capacity)
				continue;
			for (size_t n = 0; n < trace->node_count; n++)
				if (nodes[n].cached && (!oldest || nodes[n].stamp < oldest->stamp))
					oldest = &nodes[n];
			oldest->cached = false;
		}
	}
	return hits;
}

/* Looks ahead from request @r for the next use of @node, and which of its request it is. */
static void look_ahead(
	const struct trace *trace, size_t r, uint32_t node, bool keep_roots, struct plain *plain)
{
	plain->next_request = NEVER;
	for (size_t later = r + 1; later < trace->request_count; later++) {
		const struct trace_request *request = &trace->requests[later];

		for (uint32_t i = 0; i < request->block_count; i++) {
			if (trace->blocks[request->first_block + i] != node)
				continue;
			plain->next_request = (uint32_t)later;
			plain->next_order = keep_roots ? i : request->block_count - 1 - i;
			return;
		}
	}
}

static bool plain_later(const struct plain *a, const struct plain *b)
{
	if (a->next_request != b->next_request)
		return a->next_request > b->next_request;
	return a->next_order > b->next_order;
}

/* @single_hits: also each block alone, as Belady counts. */
static uint64_t plain_optimum(
	const struct trace *trace, unsigned capacity, bool keep_roots, uint64_t *single_hits)
{
	struct plain nodes[NODES_MAX] = {0};
	uint64_t hits = 0;

	*single_hits = 0;
	for (size_t r = 0; r < trace->request_count; r++) {
		const uint32_t *blocks = trace->blocks + trace->requests[r].first_block;
		uint32_t count = trace->requests[r].block_count;

		hits += leading_run(nodes, blocks, count);
		for (uint32_t i = 0; i < count; i++) {
			struct plain *node = &nodes[blocks[i]], *latest = NULL;

			*single_hits += node->cached;
			node->cached = true;
			look_ahead(trace, r, blocks[i], keep_roots, node);
			for (size_t n = 0; n < trace->node_count; n++)
				if (nodes[n].cached && (!latest || plain_later(&nodes[n], latest)))
					latest = &nodes[n];
			if (cached_count(nodes, trace->node_count) > capacity)
				latest->cached = false;
		}
	}
	return hits;
}

/*
 * The most single hits any cache of @capacity can have, by trying every choice: best[set] is the
 * most hits so far among ways that end with the blocks of @set cached.
 */
static int exhaustive_optimum(const struct trace *trace, unsigned capacity)
{
	static int best[1 << 12], next[1 << 12];
	unsigned sets = 1u << trace->node_count;
	int most = 0;

	REQUIRE(trace->node_count <= 12);
	memset(best, -1, sizeof(best));
	best[0] = 0;
	for (size_t i = 0; i < trace->block_count; i++) {
		unsigned block = 1u << trace->blocks[i];

		memset(next, -1, sizeof(next));
		for (unsigned set = 0; set < sets; set++) {
			int hits = best[set] + !!(set & block);
			unsigned with = set | block;

			if (best[set] < 0)
				continue;
			next[set] = MAX_OF(next[set], hits);
			if ((unsigned)__builtin_popcount(with) <= capacity)
				next[with] = MAX_OF(next[with], hits);
			for (unsigned n = 0; n < trace->node_count; n++)
				if (with >> n & 1 && with != set)
					next[with & ~(1u << n)] =
						MAX_OF(next[with & ~(1u << n)], hits);
		}
		memcpy(best, next, sizeof(best));
	}
	for (unsigned set = 0; set < sets; set++)
		most = MAX_OF(most, best[set]);
	return most;
}

static uint64_t hits_of(enum simulate_policy policy, const struct trace *trace, size_t capacity)
{
	uint64_t hits = UINT64_MAX;

	REQUIRE_EQ(simulate(policy, trace, capacity, &hits), 0);
	return hits;
}

static void test_policies_are_those_defined(uint64_t *state)
{
	for (unsigned round = 0; round < 300; round++) {
		struct trace *trace = random_trace(state, 1 + unit_random(state, 60));

		for (unsigned capacity = 0; capacity <= 20; capacity++) {
			uint64_t single;

			REQUIRE_EQ(hits_of(SIMULATE_LRU, trace, capacity),
				plain_lru(trace, capacity, false));
			REQUIRE_EQ(hits_of(SIMULATE_LRU_DEEPEST, trace, capacity),
				plain_lru(trace, capacity, true));
			REQUIRE_EQ(hits_of(SIMULATE_OPTIMUM, trace, capacity),
				plain_optimum(trace, capacity, false, &single));
			REQUIRE_EQ(hits_of(SIMULATE_OPTIMUM_ROOTS, trace, capacity),
				plain_optimum(trace, capacity, true, &single));
		}
		trace_destroy(trace);
	}
}

static void test_optimum_is_optimal(uint64_t *state)
{
	unsigned tried = 0;

	while (tried < 40) {
		struct trace *trace = random_trace(state, 12);

		for (unsigned capacity = 1; trace->node_count <= 12 && capacity <= 4; capacity++) {
			uint64_t plain, roots;

			plain_optimum(trace, capacity, false, &plain);
			plain_optimum(trace, capacity, true, &roots);
			REQUIRE_EQ(roots, exhaustive_optimum(trace, capacity));
			REQUIRE(plain <= roots);
		}
		tried += trace->node_count <= 12;
		trace_destroy(trace);
	}
}

static void test_room_for_all_is_the_same_for_all(uint64_t *state)
{
	struct trace *trace = random_trace(state, 80);
	uint64_t all = hits_of(SIMULATE_LRU, trace, trace->node_count);

	REQUIRE(all > 0);
	for (int policy = SIMULATE_LRU; policy <= SIMULATE_OPTIMUM_ROOTS; policy++) {
		REQUIRE_EQ(hits_of((enum simulate_policy)policy, trace, trace->node_count), all);
		REQUIRE_EQ(hits_of((enum simulate_policy)policy, trace, SIZE_MAX), all);
		REQUIRE_EQ(hits_of((enum simulate_policy)policy, trace, 0), 0);
	}
	trace_destroy(trace);
}

static void test_maximum_of_a_large_set(uint64_t *state)
{
	size_t bound = 300000, numbers[100], most = 0;
	struct set set;

	REQUIRE_EQ(set_init(&set, bound), 0);
	for (unsigned i = 0; i < ARRAY_COUNT(numbers); i++) {
		do
			numbers[i] = unit_random(state, (uint32_t)bound);
		while (set_has(&set, numbers[i]));
		set_add(&set, numbers[i]);
		most = MAX_OF(most, numbers[i]);
		REQUIRE_EQ(set_max(&set), most);
	}
	for (unsigned i = 0; i + 1 < ARRAY_COUNT(numbers); i++) {
		set_drop(&set, numbers[i]);
		most = 0;
		for (unsigned j = i + 1; j < ARRAY_COUNT(numbers); j++)
			most = MAX_OF(most, numbers[j]);
		REQUIRE_EQ(set_max(&set), most);
	}
	set_destroy(&set);
}

static void test_failing_allocations_are_told(uint64_t *state)
{
	struct trace *trace = random_trace(state, 30);

	for (int policy = SIMULATE_LRU; policy <= SIMULATE_OPTIMUM_ROOTS; policy++) {
		unsigned long nth = 0;
		uint64_t hits;
		int status;

		do {
			memory_fail_after(++nth, 0);
			status = simulate((enum simulate_policy)policy, trace, 5, &hits);
			memory_fail_after(0, 0);
			REQUIRE(status == 0 || (status == -ENOMEM && hits == 0));
		} while (status);
		REQUIRE(nth > 1);
	}
	trace_destroy(trace);
}

int main(int argc, char **argv)
{
	uint64_t state = unit_seed(argc, argv);

	test_policies_are_those_defined(&state);
	test_optimum_is_optimal(&state);
	test_room_for_all_is_the_same_for_all(&state);
	test_maximum_of_a_large_set(&state);
	test_failing_allocations_are_told(&state);
	return 0;
}
