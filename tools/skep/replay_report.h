/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_REPLAY_REPORT_H
#define SKEP_TOOLS_SKEP_REPLAY_REPORT_H

#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "tools/skep/replay_client.h"
#include "tools/skep/trace_stats.h"

/* A simulated policy: field of the JSON, name in the table. The order is that of the table. */
#define REPLAY_POLICY_TABLE(X)                                                                     \
	X(SIMULATE_LRU, lru, "exact LRU")                                                          \
	X(SIMULATE_LRU_DEEPEST, lru_deepest, "LRU, deepest block first")                           \
	X(SIMULATE_OPTIMUM, optimum, "offline optimum")                                            \
	X(SIMULATE_OPTIMUM_ROOTS, optimum_roots, "offline optimum, roots kept")

/* Everything the report says. */
struct replay_result {
	const char *source; /* path of the trace, or "generated" */
	struct replay_tally tally;
	struct trace_stats traffic;
	uint64_t capacity_blocks, ssd_blocks, payload_bytes, clients;
	uint64_t began_ns;
	struct {
#define X(policy, field, name) uint64_t field;
		REPLAY_POLICY_TABLE(X)
#undef X
	} simulated_hit_blocks;
	json_t *before, *after; /* the daemon's status around the requests */
	uint64_t daemon_rss_bytes, client_rss_bytes;
};

/* The report as one JSON object with the fields that docs/benchmarks.md names; NULL: no memory. */
json_t *replay_report_json(const struct replay_result *result);

/* The report for people. */
void replay_report_print(const struct replay_result *result, FILE *out);

#endif
