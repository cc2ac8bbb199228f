/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_TRACE_STATS_H
#define SKEP_TOOLS_SKEP_TRACE_STATS_H

#include <stdint.h>

#include "tools/skep/trace.h"

/*
 * What a trace is like, in the figures by which published traces are described. A *use* of a block
 * is one request asking for it; each use after the first is a *reuse*.
 */
struct trace_stats {
	uint64_t requests;
	uint64_t blocks;	/* uses of all blocks */
	uint64_t unique_blocks; /* blocks with at least one use */
	double requests_an_hour;
	double reused_share;	/* of the unique blocks, those used more than once */
	double top_tenth_share; /* of all reuses, those of the most reused tenth of unique blocks */
	double shared_share;	/* of all uses, those a cache without limit has in leading runs */
	struct {
		uint64_t p50, p80, p95;
	} reuse_gap_ms; /* from one use of a block to its next */
	struct {
		uint64_t p50, p90, p99;
	} request_blocks;
};

/* Fills @stats. Any thread; allocates for the time of the call. 0 or -ENOMEM. */
int trace_describe(const struct trace *trace, struct trace_stats *stats);

#endif
