/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_WORKLOAD_H
#define SKEP_TOOLS_SKEP_WORKLOAD_H

#include <stddef.h>
#include <stdint.h>

#include "tools/skep/trace.h"

/*
 * Chat traffic made from a seed, in the form of a parsed trace. Sessions of three kinds arrive at
 * random (Poisson):
 *
 * - *single*: one request with a shared system prompt and a prompt of its own;
 * - *chat*: the same, then turn by turn the answer and a new message are appended, after a time in
 *   which a person thinks; now and then a turn goes back to an earlier point and goes on from
 * there;
 * - *agent*: a shared prompt that names its tools and a task, then many steps, each appending the
 *   answer and what a tool returned, a few seconds apart.
 *
 * A prompt of n tokens asks for n / 512 whole blocks and, for what is left, one block of its own
 * that nothing later shares. The defaults give traffic like an hour of a published chat trace;
 * docs/workload.md compares the two.
 */

/* Median and shape (standard deviation of the logarithm) of a log-normal quantity. */
struct workload_size {
	double median, sigma;
};

struct workload_config {
	uint64_t seed;
	size_t requests; /* how many are made */
	double sessions_an_hour;
	double single_share, agent_share; /* of sessions; the rest are chats */

	unsigned system_prompts; /* shared by singles and chats; the i-th is 1 / i as frequent */
	struct workload_size system_tokens;
	struct workload_size prompt_tokens; /* what a session brings in its first request */
	struct workload_size message_tokens;
	struct workload_size output_tokens;
	struct workload_size think_ms; /* from one request of a chat to its next */
	double turn_chance;	       /* that a chat goes on after an answer */
	double branch_chance;	       /* that it then goes on from an earlier point */

	unsigned agent_prompts; /* shared by agents, as system_prompts */
	struct workload_size agent_system_tokens;
	struct workload_size agent_prompt_tokens;
	struct workload_size agent_result_tokens;
	struct workload_size agent_step_ms;
	double agent_step_chance;

	uint32_t context_tokens; /* a session that outgrows this ends; no prompt is longer */
};

/* The defaults with @seed. */
struct workload_config workload_default(uint64_t seed);

/*
 * Makes config->requests requests.
 * @trace: set to the trace (the caller destroys it) on 0, to NULL otherwise.
 * Context: any thread; allocates. The same config gives the same trace on the same machine.
 * 0; -EINVAL: a share or a chance outside [0, 1], or no session ever comes; -ENOMEM.
 */
int workload_make(struct trace **trace, const struct workload_config *config);

#endif
