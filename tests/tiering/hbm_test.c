/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks in pages against a model by brute force: chains stand as they were added, leaves alone
 * leave, the coldest first, each is offered for demotion before it goes, and pages that others hold
 * stay.
 *
 *	tiering_hbm_test [SEED]
 */
#include "tiering/hbm/hbm.h"

#include <errno.h>

#include "tests/base/unit.h"

enum { BLOCKS = 96, STEPS = 60000 };

/* What must be: of each number. */
static struct {
	bool used, held; /* held: somebody else has its page */
	bool demoted;	 /* offered, and not gone yet */
	uint32_t parent, page;
	uint64_t stamp;
} model[BLOCKS];
static uint32_t count;
static uint64_t clock_now, left_total, demoted_total;
static bool reclaiming;

static struct hbm_tier *hbm;

static uint32_t children_of(uint32_t number)
{
	uint32_t children = 0;

	for (uint32_t i = 0; i < BLOCKS; i++)
		children += model[i].used && model[i].parent == number;
	return children;
}

static bool leaves_room(void *arg, uint32_t number)
{
	REQUIRE(arg == model && model[number].used);
	return !model[number].held;
}

static void demote(void *arg, const uint32_t *numbers, uint32_t demoted)
{
	REQUIRE(arg == model && reclaiming && demoted > 0 && demoted <= HBM_BATCH_MAX);
	for (uint32_t i = 0; i < demoted; i++) {
		REQUIRE(model[numbers[i]].used && !model[numbers[i]].held);
		REQUIRE(!model[numbers[i]].demoted);
		model[numbers[i]].demoted = true;
		demoted_total++;
	}
}

static void left(void *arg, uint32_t number)
{
	uint32_t parent = model[number].parent;

	REQUIRE(arg == model && model[number].used && !children_of(number));
	REQUIRE_EQ(model[number].demoted, reclaiming);
	REQUIRE_EQ(hbm_tier_page(hbm, number), model[number].page);
	model[number].used = model[number].demoted = false;
	count--;
	left_total++;
	if (parent != HBM_NONE)
		model[parent].stamp = MAX_OF(model[parent].stamp, model[number].stamp);
}

static uint32_t one_of(uint64_t *random)
{
	uint32_t at = unit_random(random, BLOCKS);

	for (uint32_t i = 0; i < BLOCKS; i++, at = (at + 1) % BLOCKS)
		if (model[at].used)
			return at;
	return HBM_NONE;
}

static void act_add(uint64_t *random)
{
	uint32_t parent = unit_random(random, 4) ? one_of(random) : HBM_NONE;
	uint32_t page = unit_random(random, 1u << 30);
	int64_t number = hbm_tier_add(hbm, parent, page);
	struct hbm_label label = {.generation = ++clock_now, .slot = page};

	REQUIRE_EQ(number < 0, count == BLOCKS);
	if (number < 0) {
		REQUIRE_EQ(number, -ENOSPC);
		return;
	}
	REQUIRE(number < BLOCKS && !model[number].used);
	model[number].used = true;
	model[number].held = unit_random(random, 4) == 0;
	model[number].parent = parent;
	model[number].page = page;
	model[number].stamp = clock_now;
	hbm_tier_label_set(hbm, (uint32_t)number, label);
	REQUIRE(hbm_tier_is(hbm, (uint32_t)number, label));
	label.slot++;
	REQUIRE(!hbm_tier_is(hbm, (uint32_t)number, label));
	count++;
}

/* The oldest leaf that may leave, or HBM_NONE. */
static uint32_t oldest(void)
{
	uint32_t best = HBM_NONE;

	for (uint32_t i = 0; i < BLOCKS; i++)
		if (model[i].used && !model[i].held && !children_of(i) &&
			(best == HBM_NONE || model[i].stamp < model[best].stamp))
			best = i;
	return best;
}

static void act_reclaim(uint32_t wanted)
{
	uint32_t first = oldest(), before = count;
	uint64_t stamp = first == HBM_NONE ? 0 : model[first].stamp;
	uint32_t got;

	reclaiming = true;
	got = hbm_tier_reclaim(hbm, wanted);
	reclaiming = false;
	REQUIRE_EQ(before - count, got);
	REQUIRE(got <= wanted);
	/* The oldest went, if any could; and fewer than wanted only where no leaf could go. */
	if (got)
		REQUIRE(!model[first].used || model[first].stamp != stamp);
	if (got < wanted)
		REQUIRE_EQ(oldest(), HBM_NONE);
}

static void a_life_agrees_with_the_model(uint64_t random)
{
	struct hbm_options options = {.blocks_max = BLOCKS,
		.owner = {
			.arg = model, .leaves_room = leaves_room, .demote = demote, .left = left}};

	REQUIRE_EQ(hbm_tier_create(&options, &hbm), 0);
	for (unsigned step = 0; step < STEPS; step++) {
		uint32_t at = one_of(&random);

		switch (unit_random(&random, 16)) {
		case 0 ... 8:
			act_add(&random);
			break;
		case 9 ... 11:
			if (at == HBM_NONE)
				break;
			hbm_tier_touch(hbm, at);
			model[at].stamp = ++clock_now;
			break;
		case 12:
			if (at != HBM_NONE)
				model[at].held = !model[at].held;
			break;
		case 13:
			if (at != HBM_NONE && !children_of(at))
				hbm_tier_remove(hbm, at);
			break;
		default:
			act_reclaim(1 + unit_random(&random, 6));
		}
		REQUIRE_EQ(hbm_tier_blocks(hbm), count);
	}
	hbm_tier_destroy(hbm);
	REQUIRE_EQ(count, 0);
	REQUIRE(demoted_total > 1000 && left_total > demoted_total);
}

/* A chain that nothing used since goes from its end on, before one that is used. */
static void a_chain_goes_from_its_end(void)
{
	struct hbm_options options = {.blocks_max = BLOCKS,
		.owner = {
			.arg = model, .leaves_room = leaves_room, .demote = demote, .left = left}};
	uint32_t chain[2][20];

	memset(model, 0, sizeof(model));
	REQUIRE_EQ(hbm_tier_create(&options, &hbm), 0);
	for (uint32_t c = 0; c < 2; c++)
		for (uint32_t i = 0; i < 20; i++) {
			uint32_t parent = i ? chain[c][i - 1] : HBM_NONE;

			chain[c][i] = (uint32_t)hbm_tier_add(hbm, parent, i);
			model[chain[c][i]].used = true;
			model[chain[c][i]].parent = parent;
			model[chain[c][i]].page = i;
			count++;
		}
	hbm_tier_touch(hbm, chain[0][19]); /* the first one was of use last */
	reclaiming = true;
	REQUIRE_EQ(hbm_tier_reclaim(hbm, 25), 25);
	reclaiming = false;
	for (uint32_t i = 0; i < 20; i++) {
		REQUIRE(!model[chain[1][i]].used);
		REQUIRE_EQ(model[chain[0][i]].used, i < 15);
	}
	hbm_tier_destroy(hbm);
}

int main(int argc, char **argv)
{
	a_life_agrees_with_the_model(unit_seed(argc, argv));
	a_chain_goes_from_its_end();
	return 0;
}
