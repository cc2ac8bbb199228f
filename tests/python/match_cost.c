/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The C side of match_cost.py: the same match in C, for comparison.
 *
 *	match_cost SOCKET BLOCKS TIMES    prints the median of a match in nanoseconds
 */
#include <skep/skep.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BLOCK_TOKENS = 16, PART_BYTES = 4096 };

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

	return (left > right) - (left < right);
}

static void require(int64_t status, const char *what)
{
	if (status >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, skep_status_text((int)status));
	exit(1);
}

static struct skep_chain *chain_open(struct skep *session)
{
	static const struct skep_part_layout part = {.bytes = PART_BYTES};
	struct skep_space_options options = {.struct_bytes = sizeof(options),
		.name = "cost",
		.block_tokens = BLOCK_TOKENS,
		.part_count = 1,
		.parts = &part};
	struct skep_space *space;
	struct skep_chain *chain;

	require(skep_space_open(session, &options, &space), "space");
	require(skep_chain_create(space, &chain), "chain");
	return chain;
}

int main(int argc, char **argv)
{
	unsigned blocks = argc > 3 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
	unsigned times = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 0;
	uint32_t *tokens = calloc((size_t)blocks * BLOCK_TOKENS + 1, sizeof(*tokens));
	struct skep_ref *refs = calloc(blocks + 1, sizeof(*refs));
	uint64_t *spans = calloc(times + 1, sizeof(*spans));
	struct skep_match match = {.struct_bytes = sizeof(match),
		.flags = SKEP_MATCH_PIN,
		.refs = refs,
		.refs_max = blocks};
	struct skep *session;

	if (!blocks || !times || !tokens || !refs || !spans)
		return 2;
	for (unsigned i = 0; i < blocks * BLOCK_TOKENS; i++)
		tokens[i] = i;
	require(skep_open(argv[1], NULL, &session), "session");
	match.chain = chain_open(session);
	for (unsigned i = 0; i < times; i++) {
		uint64_t began = now_ns();

		skep_chain_truncate(match.chain, 0);
		require(skep_chain_append(match.chain, tokens, (size_t)blocks * BLOCK_TOKENS),
			"append");
		require(skep_match(session, &match, 1), "match");
		skep_release(session, &match.pin);
		spans[i] = now_ns() - began;
		if (match.matched != blocks)
			return 3;
	}
	qsort(spans, times, sizeof(*spans), by_value);
	printf("%llu\n", (unsigned long long)spans[times / 2]);
	skep_close(session);
	free(tokens);
	free(refs);
	free(spans);
	return 0;
}
