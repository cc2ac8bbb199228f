/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_SIMULATE_H
#define SKEP_TOOLS_SKEP_SIMULATE_H

#include <stddef.h>
#include <stdint.h>

#include "tools/skep/trace.h"

/*
 * What a cache of a given number of blocks would have had, from a cold start, one request after
 * another. A request's hits are the leading run of its blocks that are cached when it comes.
 *
 * The optimum is Belady's, block by block: when room is short, the block whose next use lies
 * farthest goes, the newcomer included (bypass). No policy finds more blocks cached, each counted
 * alone. Blocks that are next used by the same request are the question: SIMULATE_OPTIMUM_ROOTS
 * takes a request's blocks as used one after the other, root first, so the deepest goes; this is
 * the exact optimum. SIMULATE_OPTIMUM takes them as used at once and lets the one nearest the root
 * go; this is what published tables hold. They part only where room is very small.
 */
enum simulate_policy {
	SIMULATE_LRU,	      /* least recently used; a request touches its blocks root first */
	SIMULATE_LRU_DEEPEST, /* the same, deepest block first, so that leaves go before their root
			       */
	SIMULATE_OPTIMUM,     /* Belady as published */
	SIMULATE_OPTIMUM_ROOTS, /* Belady exactly */
};

/*
 * Simulates @policy with @capacity_blocks blocks over all requests of @trace.
 * @hit_blocks: set to the sum of all leading runs.
 * Context: any thread; allocates; O(n) for LRU, O(n log n) for the optimum (n: blocks asked for).
 * 0; -ENOMEM; -EINVAL for a policy that is none of the above.
 */
int simulate(enum simulate_policy policy, const struct trace *trace, size_t capacity_blocks,
	uint64_t *hit_blocks);

#endif
