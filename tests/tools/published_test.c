/* SPDX-License-Identifier: Apache-2.0 */
/* Reader and simulations give the figures published for the conversation trace. */
#include "tools/skep/simulate.h"
#include "tools/skep/trace.h"
#include "tools/skep/trace_stats.h"

#include <math.h>

#include "tests/base/unit.h"
#include "tests/tools/published.h"

static const struct {
	size_t capacity;
	double lru, lru_deepest, optimum;
} table[] = {
	{1000, .0445, .0445, .1792},
	{3000, .0650, .0653, .2904},
	{10000, .2112, .2116, .3664},
	{30000, .3257, .3257, .3664},
	{50000, .3546, .3546, .3664},
	{100000, .3637, .3637, .3664},
	{SIZE_MAX, .3664, .3664, .3664},
};

static double ratio_of(enum simulate_policy policy, const struct trace *trace, size_t capacity)
{
	uint64_t hits, began_ns = clock_ns();

	REQUIRE_EQ(simulate(policy, trace, capacity, &hits), 0);
#ifndef UNIT_SANITIZED
	REQUIRE(clock_ns() - began_ns < NS_PER_S);
#else
	(void)began_ns;
#endif
	return (double)hits / (double)trace->block_count;
}

static void require_near(double is, double wanted)
{
	if (fabs(is - wanted) > 0.00005001) {
		fprintf(stderr, "%.6f is not %.4f\n", is, wanted);
		exit(1);
	}
}

static void test_counts(const struct trace *trace)
{
	struct trace_stats stats;

	REQUIRE_EQ(trace_describe(trace, &stats), 0);
	REQUIRE_EQ(stats.requests, 12031);
	REQUIRE_EQ(stats.blocks, 288500);
	REQUIRE_EQ(stats.unique_blocks, 182790);
	REQUIRE_EQ(round(100 * stats.reused_share), 24);
	REQUIRE_EQ(round(100 * stats.top_tenth_share), 75);
	REQUIRE_EQ(round(1e-3 * (double)stats.reuse_gap_ms.p50), 114);
	REQUIRE_EQ(round(1e-3 * (double)stats.reuse_gap_ms.p80), 324);
	REQUIRE_EQ(round(1e-3 * (double)stats.reuse_gap_ms.p95), 627);
	require_near(stats.shared_share, .3664);
}

static void test_table(const struct trace *trace)
{
	for (size_t i = 0; i < ARRAY_COUNT(table); i++) {
		size_t capacity = table[i].capacity;
		double optimum = ratio_of(SIMULATE_OPTIMUM, trace, capacity);
		double roots = ratio_of(SIMULATE_OPTIMUM_ROOTS, trace, capacity);

		require_near(ratio_of(SIMULATE_LRU, trace, capacity), table[i].lru);
		require_near(ratio_of(SIMULATE_LRU_DEEPEST, trace, capacity), table[i].lru_deepest);
		require_near(optimum, table[i].optimum);
		REQUIRE(roots >= optimum);
		printf("%zu blocks: optimum %.4f, roots kept %.4f\n", capacity, optimum, roots);
	}
}

int main(void)
{
	const char *path = published_path();
	char error[TRACE_ERROR_BYTES];
	uint64_t began_ns = clock_ns();
	struct trace *trace;

	if (!path)
		return 77;
	if (trace_load(&trace, path, error)) {
		fprintf(stderr, "%s\n", error);
		return 1;
	}
	printf("read in %.0f ms\n", (double)(clock_ns() - began_ns) / 1e6);
	test_counts(trace);
	test_table(trace);
	trace_destroy(trace);
	return 0;
}
