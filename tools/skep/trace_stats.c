/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/trace_stats.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/memory.h"

/* What is gathered in one pass over the trace. */
struct survey {
	uint64_t *uses;	     /* a node */
	uint64_t *latest_ms; /* a node */
	uint64_t *gaps_ms;
	size_t gap_count;
	uint64_t *request_blocks;
};

static int survey_init(struct survey *survey, const struct trace *trace)
{
	survey->uses = memory_calloc(trace->node_count, sizeof(uint64_t));
	survey->latest_ms = memory_calloc(trace->node_count, sizeof(uint64_t));
	survey->gaps_ms = memory_calloc(trace->block_count, sizeof(uint64_t));
	survey->request_blocks = memory_calloc(trace->request_count, sizeof(uint64_t));
	if (survey->uses && survey->latest_ms && survey->gaps_ms && survey->request_blocks)
		return 0;
	return -ENOMEM;
}

static void survey_free(struct survey *survey)
{
	memory_free(survey->uses);
	memory_free(survey->latest_ms);
	memory_free(survey->gaps_ms);
	memory_free(survey->request_blocks);
}

/* Returns how many blocks stood in leading runs of blocks seen before. */
static uint64_t survey_run(struct survey *survey, const struct trace *trace)
{
	uint64_t shared = 0;

	for (size_t r = 0; r < trace->request_count; r++) {
		const struct trace_request *request = &trace->requests[r];
		const uint32_t *blocks = trace->blocks + request->first_block;
		uint32_t run = 0;

		while (run < request->block_count && survey->uses[blocks[run]])
			run++;
		shared += run;
		for (uint32_t i = 0; i < request->block_count; i++) {
			uint32_t node = blocks[i];

			SKEP_CHECK(node < trace->node_count);
			if (survey->uses[node]++)
				survey->gaps_ms[survey->gap_count++] =
					request->timestamp_ms - survey->latest_ms[node];
			survey->latest_ms[node] = request->timestamp_ms;
		}
		survey->request_blocks[r] = request->block_count;
	}
	return shared;
}

static int number_compare(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

	return left < right ? -1 : left > right;
}

/* The value that @percent of the @count sorted @numbers do not exceed; 0 of none. */
static uint64_t percentile(const uint64_t *numbers, size_t count, unsigned percent)
{
	return count ? numbers[MIN_OF(count * percent / 100, count - 1)] : 0;
}

static double share(uint64_t part, uint64_t whole)
{
	return whole ? (double)part / (double)whole : 0;
}

static void stats_reuse(struct trace_stats *stats, struct survey *survey, size_t node_count)
{
	size_t top = node_count / 10;
	uint64_t reused = 0, top_reuses = 0;

	qsort(survey->uses, node_count, sizeof(uint64_t), number_compare);
	for (size_t i = 0; i < node_count; i++) {
		reused += survey->uses[i] > 1;
		top_reuses += i >= node_count - top ? survey->uses[i] - 1 : 0;
	}
	stats->reused_share = share(reused, node_count);
	stats->top_tenth_share = share(top_reuses, survey->gap_count);
}

int trace_describe(const struct trace *trace, struct trace_stats *stats)
{
	struct survey survey = {0};
	uint64_t span_ms = 0, shared;

	*stats = (struct trace_stats){
		.requests = trace->request_count,
		.blocks = trace->block_count,
		.unique_blocks = trace->node_count,
	};
	if (survey_init(&survey, trace)) {
		survey_free(&survey);
		return -ENOMEM;
	}
	shared = survey_run(&survey, trace);
	stats_reuse(stats, &survey, trace->node_count);
	stats->shared_share = share(shared, trace->block_count);
	if (trace->request_count)
		span_ms = trace->requests[trace->request_count - 1].timestamp_ms -
			  trace->requests[0].timestamp_ms;
	if (span_ms)
		stats->requests_an_hour = (double)trace->request_count * 3600e3 / (double)span_ms;
	qsort(survey.gaps_ms, survey.gap_count, sizeof(uint64_t), number_compare);
	stats->reuse_gap_ms.p50 = percentile(survey.gaps_ms, survey.gap_count, 50);
	stats->reuse_gap_ms.p80 = percentile(survey.gaps_ms, survey.gap_count, 80);
	stats->reuse_gap_ms.p95 = percentile(survey.gaps_ms, survey.gap_count, 95);
	qsort(survey.request_blocks, trace->request_count, sizeof(uint64_t), number_compare);
	stats->request_blocks.p50 = percentile(survey.request_blocks, trace->request_count, 50);
	stats->request_blocks.p90 = percentile(survey.request_blocks, trace->request_count, 90);
	stats->request_blocks.p99 = percentile(survey.request_blocks, trace->request_count, 99);
	survey_free(&survey);
	return 0;
}
