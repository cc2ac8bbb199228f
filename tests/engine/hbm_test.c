/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skep_hbm_…() against a real node inside this process, and a model: what was announced and not
 * withdrawn is matched, with the number it was announced under, and nothing else is; also when the
 * daemon hears of withdrawals later than they are made.
 *
 *	engine_hbm_test [SEED]
 */
#include <errno.h>
#include <skep/skep_hbm.h>
#include <stdbool.h>

#include "tests/engine/client_unit.h"

enum { CHAINS = 12, BLOCKS = 20, BLOCKS_MAX = 150, STEPS = 20000 };

#define WHERE "embedded:dram=16MiB,realm=unit"

static struct skep *session;
static struct skep_space *space;
static struct skep_hbm *hbm;
static struct skep_chain *chains[CHAINS];
/* Of each block: what it was announced as; generation 0: it is not. */
static struct skep_hbm_block model[CHAINS][BLOCKS];
static uint32_t announced;

static void chains_open(void)
{
	static const struct skep_part_layout part = {.bytes = 4096, .ranges = 1};
	struct skep_space_options options = {.struct_bytes = sizeof(options),
		.name = "hbm",
		.block_tokens = UNIT_BLOCK_TOKENS,
		.part_count = 1,
		.parts = &part};
	uint32_t tokens[UNIT_BLOCK_TOKENS * BLOCKS];

	REQUIRE_EQ(skep_space_open(session, &options, &space), 0);
	for (uint32_t c = 0; c < CHAINS; c++) {
		REQUIRE_EQ(skep_chain_create(space, &chains[c]), 0);
		for (uint32_t i = 0; i < ARRAY_COUNT(tokens); i++)
			tokens[i] = c * 1000 + i;
		REQUIRE_EQ(skep_chain_append(chains[c], tokens, ARRAY_COUNT(tokens)), BLOCKS);
	}
}

static struct skep_hbm *hbm_of(uint32_t blocks_max)
{
	struct skep_hbm_options options = {
		.struct_bytes = sizeof(options), .blocks_max = blocks_max};
	struct skep_hbm *made;

	REQUIRE_EQ(skep_hbm_create(session, &options, &made), 0);
	return made;
}

/* A chain's run from @first on, and from nowhere else. */
static void match_check(uint32_t c, uint32_t first)
{
	struct skep_hbm_block found[BLOCKS];
	struct skep_hbm_match match = {.struct_bytes = sizeof(match),
		.chain = chains[c],
		.first = first,
		.flags = first % 2 ? SKEP_MATCH_PEEK : 0,
		.blocks_max = BLOCKS,
		.blocks = found};
	uint32_t wanted = 0;

	while (first + wanted < BLOCKS && model[c][first + wanted].generation)
		wanted++;
	REQUIRE_EQ(skep_hbm_match(hbm, &match), 0);
	REQUIRE_EQ(match.matched, wanted);
	for (uint32_t i = 0; i < wanted; i++) {
		REQUIRE_EQ(found[i].user, model[c][first + i].user);
		REQUIRE_EQ(found[i].slot, model[c][first + i].slot);
		REQUIRE_EQ(found[i].generation, model[c][first + i].generation);
	}
}

/* From the chain's start, or below what is announced. */
static void announce(uint32_t c, uint32_t count, uint64_t *random)
{
	struct skep_hbm_block blocks[BLOCKS];
	struct skep_hbm_announce ask = {.struct_bytes = sizeof(ask),
		.chain = chains[c],
		.blocks = blocks,
		.deadline_ns = SKEP_FOREVER};
	int got;

	while (ask.first < BLOCKS - 1 && model[c][ask.first].generation)
		ask.first++;
	if (ask.first && !model[c][ask.first - 1].generation)
		ask.first = 0;
	ask.count = MIN_OF(count, BLOCKS - ask.first);
	for (uint32_t i = 0; i < ask.count; i++)
		blocks[i].user = unit_random(random, UINT32_MAX);
	got = skep_hbm_announce(hbm, &ask);
	if (got == -ENOSPC) {
		/* What the daemon has yet to hear of counts. */
		REQUIRE(announced + ask.count > BLOCKS_MAX / 2);
		return;
	}
	REQUIRE(got > 0);
	for (int i = 0; i < got; i++) {
		announced += !model[c][ask.first + (uint32_t)i].generation;
		model[c][ask.first + (uint32_t)i] = blocks[i];
	}
}

/* From the end of the chain on, one call a block or one for all. */
static void withdraw(uint32_t c, uint32_t count, bool singly)
{
	struct skep_hbm_block blocks[BLOCKS];
	uint32_t found = 0;

	for (uint32_t i = BLOCKS; i-- > 0 && found < count;) {
		if (!model[c][i].generation)
			continue;
		blocks[found++] = model[c][i];
		model[c][i].generation = 0;
		announced--;
	}
	if (!singly) {
		REQUIRE_EQ(skep_hbm_withdraw(hbm, blocks, found), found);
		return;
	}
	for (uint32_t i = 0; i < found; i++) {
		REQUIRE_EQ(skep_hbm_withdraw(hbm, &blocks[i], 1), 1);
		REQUIRE_EQ(skep_hbm_withdraw(hbm, &blocks[i], 1), 0);
	}
}

static void what_is_announced_is_matched(uint64_t seed)
{
	uint64_t random = seed;

	hbm = hbm_of(BLOCKS_MAX);
	for (unsigned step = 0; step < STEPS; step++) {
		uint32_t c = unit_random(&random, CHAINS), count = 1 + unit_random(&random, BLOCKS);

		switch (unit_random(&random, 4)) {
		case 0:
			announce(c, count, &random);
			break;
		case 1:
			withdraw(c, count, unit_random(&random, 4) == 0);
			break;
		default:
			match_check(c, unit_random(&random, BLOCKS));
		}
		REQUIRE_EQ(skep_hbm_blocks(hbm), announced);
		REQUIRE(announced <= BLOCKS_MAX);
	}
	skep_hbm_destroy(hbm);
}

static void what_makes_no_sense_is_refused(void)
{
	struct skep_hbm_options options = {.struct_bytes = sizeof(options)};
	struct skep_hbm_block block = {0};
	struct skep_hbm_announce ask = {
		.struct_bytes = sizeof(ask), .chain = chains[0], .count = 1, .blocks = &block};
	struct skep_hbm_match match = {.struct_bytes = sizeof(match), .chain = chains[0]};
	struct skep_hbm *other;

	REQUIRE_EQ(skep_hbm_create(session, &options, &other), -EINVAL);
	REQUIRE_EQ(skep_hbm_create(session, NULL, &other), -EINVAL);
	REQUIRE_EQ(skep_hbm_create(NULL, &options, &other), -EINVAL);
	hbm = hbm_of(4);
	options.blocks_max = 1;
	REQUIRE_EQ(skep_hbm_create(session, &options, &other), -EEXIST);
	ask.first = BLOCKS;
	REQUIRE_EQ(skep_hbm_announce(hbm, &ask), -ERANGE);
	ask.first = 0;
	ask.blocks = NULL;
	REQUIRE_EQ(skep_hbm_announce(hbm, &ask), -EINVAL);
	ask.struct_bytes = 8;
	REQUIRE_EQ(skep_hbm_announce(hbm, &ask), -EINVAL);
	REQUIRE_EQ(skep_hbm_announce(hbm, NULL), -EINVAL);
	REQUIRE_EQ(skep_hbm_announce(NULL, &ask), -EINVAL);
	match.first = BLOCKS + 1;
	REQUIRE_EQ(skep_hbm_match(hbm, &match), -EINVAL);
	match.first = 0;
	match.blocks_max = 1;
	REQUIRE_EQ(skep_hbm_match(hbm, &match), -EINVAL);
	match.blocks_max = 0;
	match.flags = 4;
	REQUIRE_EQ(skep_hbm_match(hbm, &match), -EINVAL);
	REQUIRE_EQ(skep_hbm_withdraw(hbm, NULL, 1), -EINVAL);
	REQUIRE_EQ(skep_hbm_decline(hbm, NULL, 1), -EINVAL);
	REQUIRE_EQ(skep_hbm_asks(hbm, NULL, 1), -EINVAL);
	REQUIRE_EQ(skep_hbm_blocks(NULL), -EINVAL);
	skep_hbm_destroy(NULL);
	/* Not destroyed: it goes with the session. */
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);

	REQUIRE_EQ(skep_open(WHERE, NULL, &session), 0);
	chains_open();
	what_is_announced_is_matched(seed);
	what_makes_no_sense_is_refused();
	skep_close(session);
	return 0;
}
