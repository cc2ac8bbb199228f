/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Puts by parts (DESIGN section 5): who may write which part, when a block becomes visible, what a
 * late writer is told and cannot touch, what becomes of blocks whose writers never come back.
 *
 *	store_put_test [SEED]
 */
#include <errno.h>

#include "kernels/checksum.h"
#include "tests/store/play.h"
#include "tiering/dram/sum.h"

#define AGE_NS NS_PER_S

static struct play play;
static struct play_chain chain;
static struct play_reserved first, second;

static const struct sim_options usual = {
	.dram_bytes = 8 << 20, .index_blocks = 256, .age_limit_ns = AGE_NS, .movers = true};
static const struct sim_space one = {
	.name = "one", .block_tokens = 4, .part_count = 1, .bytes = {8192}, .ranges = {2}};
static const struct sim_space two = {.name = "two",
	.block_tokens = 4,
	.part_count = 2,
	.bytes = {8192, 12288},
	.ranges = {1, 3}};

/* Part @part of blocks [from, from + count) for @client: how many were reserved. */
static uint32_t reserve(
	unsigned client, uint32_t part, struct probe_want want, struct play_reserved *reserved)
{
	struct play_put put = {
		.chain = &chain, .first = want.first, .count = want.count, .part = part};

	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[client], &put, reserved), want.count);
	play_fill(play.realm, reserved->written, reserved->count);
	return reserved->count;
}

static int32_t commit(unsigned client, const struct sim_written *written, uint32_t count)
{
	return play_commit(&play.sim, &play.clients[client], written, count);
}

/* Status of the only part of a commit. */
static int32_t commit_one(unsigned client, const struct sim_written *written)
{
	int32_t committed = commit(client, written, 1);
	int32_t status = play_commit_status(&play.clients[client], 0);

	REQUIRE_EQ(committed, status == 0);
	return status;
}

static uint32_t present(void)
{
	static struct play_match match;

	play_match_pin(&play.clients[0], &chain, 0, &match);
	pin_clear(&sim_pins(&play.clients[0])[0]);
	sim_run(&play.sim);
	return match.count;
}

static uint32_t wait_for(unsigned client, uint32_t slot, uint64_t ns)
{
	struct submission message = {.op = SUBMIT_WAIT,
		.slot = slot,
		.generation = atomic_load(&play.realm->index.entries[slot].name_generation),
		.deadline_ns = clock_after(play.sim.keeper->now_ns, ns)};
	uint32_t tag = sim_push(&play.clients[client], &message);

	sim_run(&play.sim);
	return tag;
}

/* ------------------------------------------------------------------------------- by parts */

/* 64 parts by eight writers in any order: visible with the last one, never before. */
static void a_block_is_visible_with_its_last_part(uint64_t seed)
{
	struct sim_space kind = {.name = "many", .block_tokens = 4, .part_count = 64};
	struct sim_options options = usual;
	struct sim_written written[64];
	uint32_t order[64];

	options.dram_bytes = 16 << 20;
	for (uint32_t p = 0; p < 64; p++) {
		kind.bytes[p] = 4096 * (1 + p % 3);
		kind.ranges[p] = 1 + p % 3;
		order[p] = p;
	}
	play_open(&play, &options, &kind, 8);
	play_chain(&play, &chain, (const uint32_t[]){7, 8, 0});
	for (uint32_t p = 63; p > 0; p--) {
		uint32_t other = unit_random(&seed, p + 1), was = order[p];

		order[p] = order[other];
		order[other] = was;
	}
	for (uint32_t block = 0; block < 2; block++) {
		for (uint32_t i = 0; i < 64; i++) {
			REQUIRE_EQ(reserve(order[i] % 8, order[i], (struct probe_want){block, 1},
					   &first),
				1);
			written[order[i]] = first.written[0];
		}
		for (uint32_t i = 0; i < 64; i++) {
			uint32_t p = order[63 - i];

			REQUIRE_EQ(present(), block);
			REQUIRE_EQ(commit_one(p % 8, &written[p]), 0);
		}
		REQUIRE_EQ(present(), block + 1);
	}
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_parts_committed), 128);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_published), 2);
	play_close(&play);
}

/* A part has one writer; who comes second is told so at once and is given no frame. */
static void a_part_has_one_writer(void)
{
	uint64_t used;

	play_open(&play, &usual, &two, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 0});
	REQUIRE_EQ(reserve(0, 0, (struct probe_want){0, 3}, &first), 3);
	used = play_used_bytes(&play);
	REQUIRE_EQ(reserve(1, 0, (struct probe_want){0, 3}, &second), 0);
	REQUIRE_EQ(second.status[0], SKEP_STATUS_EPENDING);
	REQUIRE_EQ(play_used_bytes(&play), used);
	REQUIRE_EQ(reserve(1, 1, (struct probe_want){0, 3}, &second), 3);
	REQUIRE_EQ(second.written[1].slot, first.written[1].slot);
	REQUIRE_EQ(second.written[1].bytes, 12288);

	REQUIRE_EQ(commit(0, first.written, 3), 3);
	REQUIRE_EQ(reserve(1, 0, (struct probe_want){0, 3}, &first), 0);
	REQUIRE_EQ(first.status[2], -EEXIST); /* that part is there, the block is not */
	REQUIRE_EQ(present(), 0);
	REQUIRE_EQ(commit(1, second.written, 3), 3);
	REQUIRE_EQ(present(), 3);
	REQUIRE_EQ(reserve(1, 1, (struct probe_want){0, 3}, &first), 0);
	REQUIRE_EQ(first.status[0], -EEXIST);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_parts_existing), 9);
	play_close(&play);
}

/* What was written comes back: sums, lengths, write generations stand in the index as given. */
static void the_index_holds_what_the_writer_gave(void)
{
	const struct index_part *part;
	const _Atomic uint64_t *sums;
	struct part_sums sum = {.incarnation = 1};
	uint64_t range_sums[3];
	struct checksum_root root;

	play_open(&play, &usual, &two, 1);
	play_chain(&play, &chain, (const uint32_t[]){1, 0});
	REQUIRE_EQ(reserve(0, 1, (struct probe_want){0, 1}, &first), 1);
	REQUIRE_EQ(commit(0, first.written, 1), 1);
	REQUIRE_EQ(reserve(0, 0, (struct probe_want){0, 1}, &second), 1);
	REQUIRE_EQ(commit(0, second.written, 1), 1);
	REQUIRE_EQ(present(), 1);

	part = probe_part(&play.realm->index.view, first.written[0].slot, 1);
	REQUIRE_EQ(atomic_load(&part->bytes), 12288);
	REQUIRE_EQ(atomic_load(&part->write), first.written[0].write);
	REQUIRE_EQ(atomic_load(&part->frame), first.written[0].frame / FRAME_GRANULE_BYTES);
	sum.bytes = dram_at(play.realm->dram, first.written[0].frame);
	sum.length = 12288;
	sum.range_count = 3;
	sum.part = 1;
	sum.id_low = chain.ids[0].low;
	sum.id_high = chain.ids[0].high;
	sum.write = first.written[0].write;
	root = part_sums_make(&sum, range_sums);
	REQUIRE(atomic_load(&part->root_low) == root.low &&
		atomic_load(&part->root_high) == root.high);
	sums = probe_range_sums(&play.realm->index.view, first.written[0].slot, 1);
	for (unsigned i = 0; i < 3; i++)
		REQUIRE(atomic_load(&sums[i]) == range_sums[i]);
	REQUIRE(!probe_part(&play.realm->index.view, first.written[0].slot, 2));
	REQUIRE(!probe_part(&play.realm->index.view, UINT32_MAX, 0));
	REQUIRE(!probe_range_sums(&play.realm->index.view, UINT32_MAX, 0));
	play_close(&play);
}

/* -------------------------------------------------------------------------------- parents */

/* A child that is complete waits for its parent, and is visible in the same act. */
static void children_wait_for_their_parents(void)
{
	const struct index_entry *entries;

	play_open(&play, &usual, &one, 3);
	entries = play.realm->index.entries;
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 4, 5, 0});
	REQUIRE_EQ(reserve(1, 0, (struct probe_want){0, 2}, &first), 2);
	REQUIRE_EQ(reserve(2, 0, (struct probe_want){2, 3}, &second), 3);
	REQUIRE_EQ(commit(2, second.written, 2), 2); /* 2 and 3; 4 stays open */
	REQUIRE_EQ(commit(1, &first.written[1], 1), 1);
	REQUIRE_EQ(present(), 0);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_published), 0);
	REQUIRE_EQ(commit(1, &first.written[0], 1), 1);
	REQUIRE_EQ(present(), 4);
	/* Parents first, so that no reader finds a gap. */
	REQUIRE(atomic_load(&entries[first.written[0].slot].frame_generation) <
		atomic_load(&entries[first.written[1].slot].frame_generation));
	REQUIRE(atomic_load(&entries[first.written[1].slot].frame_generation) <
		atomic_load(&entries[second.written[0].slot].frame_generation));
	REQUIRE_EQ(commit(2, &second.written[2], 1), 1);
	REQUIRE_EQ(present(), 5);
	play_close(&play);
}

/* Several branches below one pending parent are all published with it. */
static void branches_are_published_together(void)
{
	static struct play_chain branches[3];
	struct play_put put = {.first = 1, .count = 2};

	play_open(&play, &usual, &one, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 0});
	REQUIRE_EQ(reserve(0, 0, (struct probe_want){0, 1}, &first), 1);
	for (uint32_t i = 0; i < 3; i++) {
		play_chain(&play, &branches[i], (const uint32_t[]){1, 10 + i, 20, 0});
		put.chain = &branches[i];
		REQUIRE_EQ(play_reserve(&play.sim, &play.clients[1], &put, &second), 2);
		play_fill(play.realm, second.written, 2);
		REQUIRE_EQ(commit(1, second.written, 2), 2);
	}
	REQUIRE_EQ(commit(0, first.written, 1), 1);
	for (uint32_t i = 0; i < 3; i++)
		REQUIRE_EQ(play_present(&play.clients[0], &branches[i]), 3);
	play_close(&play);
}

static void a_missing_parent_refuses(void)
{
	struct play_put put = {.chain = &chain, .first = 1, .count = 2};
	struct submission message = {.op = SUBMIT_RESERVE,
		.count = 1,
		.scratch_bytes = sizeof(struct reserve_block) + 16,
		.u.reserve.space = 0};
	struct reserve_block *block;

	play_open(&play, &usual, &one, 1);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 0});
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[0], &put, &first), SKEP_STATUS_EPARENT);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_orphans_refused), 2);

	/* A root of another version of the space, and a slot of no name. */
	block = sim_scratch(&play.clients[0], 0);
	*block = (struct reserve_block){.token_at = sizeof(*block), .token_count = 4};
	message.u.reserve.space_generation = play.space.answer.generation;
	message.slot = SLOT_ROOT(0);
	message.generation = play.space.answer.generation + 1;
	sim_push(&play.clients[0], &message);
	message.slot = 5;
	message.generation = 0;
	sim_push(&play.clients[0], &message);
	message.slot = UINT32_MAX - 65536;
	sim_push(&play.clients[0], &message);
	sim_run(&play.sim);
	for (unsigned i = 0; i < 3; i++)
		REQUIRE_EQ(play_take(&play, 0).status, SKEP_STATUS_EPARENT);
	/* The space as it was before a version step. */
	message.u.reserve.space_generation--;
	sim_push(&play.clients[0], &message);
	sim_run(&play.sim);
	REQUIRE_EQ(play_take(&play, 0).status, -ESTALE);
	REQUIRE_EQ(play_used_bytes(&play), 0);
	play_close(&play);
}

/* A parent in another space does not serve, though its slot and generation are right. */
static void a_parent_of_another_space_refuses(void)
{
	struct sim_space other = one;
	struct play_space space;
	struct submission message = {.op = SUBMIT_RESERVE,
		.count = 1,
		.scratch_bytes = sizeof(struct reserve_block) + 16};
	struct reserve_block *block;

	other.name = "other";
	play_open(&play, &usual, &one, 1);
	play_space_open(&play.clients[0], &other, &space);
	play_chain(&play, &chain, (const uint32_t[]){1, 0});
	REQUIRE_EQ(reserve(0, 0, (struct probe_want){0, 1}, &first), 1);
	REQUIRE_EQ(commit(0, first.written, 1), 1);
	block = sim_scratch(&play.clients[0], 0);
	*block = (struct reserve_block){.token_at = sizeof(*block), .token_count = 4};
	message.slot = first.written[0].slot;
	message.generation = atomic_load(&play.realm->index.entries[message.slot].name_generation);
	message.u.reserve.space = (uint16_t)space.answer.space;
	message.u.reserve.space_generation = space.answer.generation;
	sim_push(&play.clients[0], &message);
	sim_run(&play.sim);
	REQUIRE_EQ(play_take(&play, 0).status, SKEP_STATUS_EPARENT);
	play_close(&play);
}

/* --------------------------------------------------------------------------- late writers */

/* Past the age limit another may write; the late writer's bytes go to a frame nobody sees. */
static void a_late_writer_touches_nothing(void)
{
	static struct play_match match;
	uint64_t used;

	play_open(&play, &usual, &one, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 0});
	REQUIRE_EQ(reserve(0, 0, (struct probe_want){0, 1}, &first), 1);
	play_later(&play, AGE_NS - 1);
	REQUIRE_EQ(reserve(1, 0, (struct probe_want){0, 1}, &second), 0);
	play_later(&play, 2);
	REQUIRE_EQ(reserve(1, 0, (struct probe_want){0, 1}, &second), 1);
	REQUIRE(second.written[0].frame != first.written[0].frame);
	used = play_used_bytes(&play);
	REQUIRE_EQ(used, 2 * 8192); /* the old frame waits for its writer */

	/* It writes before, between and after its successor's commit and under a reader's eyes. */
	memset(dram_at(play.realm->dram, first.written[0].frame), 0xee, 8192);
	REQUIRE_EQ(commit(1, second.written, 1), 1);
	play_match_pin(&play.clients[1], &chain, 0, &match);
	REQUIRE_EQ(match.count, 1);
	memset(dram_at(play.realm->dram, first.written[0].frame), 0xdd, 8192);
	REQUIRE(play_match_holds(&play.clients[1], &chain, &match));
	REQUIRE_EQ(commit_one(0, first.written), -ESTALE);
	REQUIRE(play_match_holds(&play.clients[1], &chain, &match));
	REQUIRE_EQ(play_used_bytes(&play), 8192);	   /* and comes back with its word */
	REQUIRE_EQ(commit_one(0, first.written), -ESTALE); /* told so once and for all */
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_parts_stale), 1);
	pin_clear(&sim_pins(&play.clients[1])[0]);
	play_close(&play);
}

/* The quarantined frame comes back by an abort, and by the writer's end. */
static void a_stale_frame_comes_back(void)
{
	play_open(&play, &usual, &one, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 0});
	REQUIRE_EQ(reserve(0, 0, (struct probe_want){0, 3}, &first), 3);
	play_later(&play, AGE_NS + 1);
	play_later(&play, GIVE_UP_GRACE_NS + 1);
	REQUIRE_EQ(play_named(&play.clients[1], &chain), 0);
	REQUIRE_EQ(play_used_bytes(&play), 3 * 8192);
	sim_abort(&play.clients[0], first.written, 1);
	sim_run(&play.sim);
	REQUIRE_EQ(play_used_bytes(&play), 2 * 8192);
	play_client_end(&play, 0, false);
	REQUIRE_EQ(play_used_bytes(&play), 0);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_given_up), 3);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_sessions_died), 1);
	play_close(&play);
}

/* Nobody commits what is another's, or under a wrong name. */
static void a_commit_must_name_its_own(void)
{
	struct sim_written wrong;

	play_open(&play, &usual, &two, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 0});
	REQUIRE_EQ(reserve(0, 0, (struct probe_want){0, 2}, &first), 2);
	REQUIRE_EQ(commit_one(1, &first.written[0]), -ESTALE);
	wrong = first.written[0];
	wrong.slot = first.written[1].slot;
	REQUIRE_EQ(commit_one(0, &wrong), -EINVAL);
	wrong = first.written[0];
	wrong.part = 1;
	REQUIRE_EQ(commit_one(0, &wrong), -EINVAL);
	wrong = first.written[0];
	wrong.ranges = 2;
	REQUIRE_EQ(commit_one(0, &wrong), -EINVAL);
	wrong = first.written[0];
	wrong.write = 0;
	REQUIRE_EQ(commit_one(0, &wrong), -ESTALE);
	wrong.write = UINT64_MAX;
	REQUIRE_EQ(commit_one(0, &wrong), -ESTALE);
	/* Another's abort is not heard. */
	sim_abort(&play.clients[1], first.written, 2);
	sim_run(&play.sim);
	REQUIRE_EQ(play_named(&play.clients[0], &chain), 2);
	REQUIRE_EQ(commit(0, first.written, 2), 2);
	REQUIRE_EQ(commit_one(0, first.written), -ESTALE);
	play_close(&play);
}

/* ------------------------------------------------------------------------------- giving up */

/* Committed parts wait until the age limit has passed since the last reserve or commit. */
static void half_a_block_is_given_up_in_time(void)
{
	play_open(&play, &usual, &two, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 0});
	REQUIRE_EQ(reserve(0, 0, (struct probe_want){0, 1}, &first), 1);
	play_later(&play, AGE_NS / 2);
	REQUIRE_EQ(commit(0, first.written, 1), 1);
	play_later(&play, AGE_NS - 1); /* nobody writes the other part */
	REQUIRE_EQ(play_named(&play.clients[0], &chain), 1);
	REQUIRE_EQ(present(), 0);
	play_later(&play, GIVE_UP_GRACE_NS + 2);
	REQUIRE_EQ(play_named(&play.clients[0], &chain), 0);
	REQUIRE_EQ(play_used_bytes(&play), 0);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_given_up), 1);

	/* A new writer of the missing part saves the first one's work. */
	REQUIRE_EQ(reserve(0, 0, (struct probe_want){0, 1}, &first), 1);
	REQUIRE_EQ(commit(0, first.written, 1), 1);
	play_later(&play, AGE_NS - 1);
	REQUIRE_EQ(reserve(1, 1, (struct probe_want){0, 1}, &second), 1);
	play_later(&play, AGE_NS / 2);
	REQUIRE_EQ(commit(1, second.written, 1), 1);
	REQUIRE_EQ(present(), 1);
	play_close(&play);
}

/* Two parts by two processes, one killed between reserve and commit: never half a block; another
 * writer of that part completes it. */
static void a_killed_writer_is_replaced(void)
{
	play_open(&play, &usual, &two, 3);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 0});
	REQUIRE_EQ(reserve(1, 0, (struct probe_want){0, 2}, &first), 2);
	REQUIRE_EQ(reserve(2, 1, (struct probe_want){0, 2}, &second), 2);
	REQUIRE_EQ(commit(1, first.written, 2), 2);
	play_client_end(&play, 2, false);
	REQUIRE_EQ(present(), 0);
	REQUIRE_EQ(play_named(&play.clients[0], &chain), 2);
	REQUIRE_EQ(reserve(1, 1, (struct probe_want){0, 2}, &second), 2);
	REQUIRE_EQ(present(), 0);
	REQUIRE_EQ(commit(1, second.written, 2), 2);
	REQUIRE_EQ(present(), 2);
	play_close(&play);
}

/* What hangs below a block that is given up goes with it; its writers are told. */
static void giving_up_takes_what_is_below(void)
{
	play_open(&play, &usual, &one, 3);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 4, 0});
	REQUIRE_EQ(reserve(0, 0, (struct probe_want){0, 2}, &first), 2);
	REQUIRE_EQ(reserve(1, 0, (struct probe_want){2, 2}, &second), 2);
	REQUIRE_EQ(commit(0, &first.written[1], 1), 1);
	REQUIRE_EQ(commit(1, &second.written[0], 1), 1);
	REQUIRE(wait_for(2, second.written[1].slot, 3600 * NS_PER_S));
	play_take_none(&play, 2);
	sim_abort(&play.clients[0], &first.written[0], 1);
	sim_run(&play.sim);
	/* Others may still take it over; then their time is up. */
	REQUIRE_EQ(play_named(&play.clients[2], &chain), 4);
	play_later(&play, GIVE_UP_GRACE_NS + 1);
	REQUIRE_EQ(play_named(&play.clients[2], &chain), 0);
	REQUIRE_EQ(play_take(&play, 2).status, SKEP_STATUS_EGIVENUP);
	REQUIRE_EQ(commit_one(1, &second.written[1]), SKEP_STATUS_EPARENT);
	REQUIRE_EQ(play_used_bytes(&play), 0);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_given_up), 4);
	play_close(&play);
}

/* A waiter takes the place of a writer that gave up; what others put below stays. */
static void a_waiter_takes_over(void)
{
	uint32_t tag;

	play_open(&play, &usual, &one, 3);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 0});
	REQUIRE_EQ(reserve(0, 0, (struct probe_want){0, 1}, &first), 1);
	REQUIRE_EQ(reserve(1, 0, (struct probe_want){1, 1}, &second), 1);
	REQUIRE_EQ(commit(1, second.written, 1), 1); /* held */
	tag = wait_for(2, first.written[0].slot, 3600 * NS_PER_S);
	play_client_end(&play, 0, false);
	REQUIRE_EQ(play_take(&play, 2).status, SKEP_STATUS_EGIVENUP);
	play_later(&play, GIVE_UP_GRACE_NS / 2);
	REQUIRE_EQ(reserve(2, 0, (struct probe_want){0, 1}, &first), 1);
	play_later(&play, AGE_NS / 2);
	REQUIRE_EQ(play_named(&play.clients[2], &chain), 2);
	tag = wait_for(1, second.written[0].slot, 3600 * NS_PER_S);
	REQUIRE_EQ(commit(2, first.written, 1), 1);
	REQUIRE_EQ(play_present(&play.clients[2], &chain), 2);
	REQUIRE_EQ(play_take(&play, 1).tag, tag);
	play_close(&play);
}

/* A block that nobody waits for and nothing rests on goes at once. */
static void an_unwanted_block_goes_at_once(void)
{
	play_open(&play, &usual, &one, 1);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 0});
	REQUIRE_EQ(reserve(0, 0, (struct probe_want){0, 2}, &first), 2);
	sim_abort(&play.clients[0], &first.written[1], 1);
	sim_run(&play.sim);
	REQUIRE_EQ(play_named(&play.clients[0], &chain), 1);
	sim_abort(&play.clients[0], &first.written[0], 1);
	sim_run(&play.sim);
	REQUIRE_EQ(play_named(&play.clients[0], &chain), 0);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_parts_aborted), 2);
	REQUIRE_EQ(play_used_bytes(&play), 0);
	play_close(&play);
}

/* A session that dies with a whole chain reserved leaves nothing, at once. */
static void a_dead_writer_leaves_nothing(void)
{
	play_open(&play, &usual, &two, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 4, 5, 0});
	REQUIRE_EQ(reserve(0, 0, (struct probe_want){0, 5}, &first), 5);
	REQUIRE_EQ(reserve(0, 1, (struct probe_want){0, 5}, &second), 5);
	play_client_end(&play, 0, false);
	REQUIRE_EQ(play_named(&play.clients[1], &chain), 0);
	REQUIRE_EQ(play_used_bytes(&play), 0);
	play_close(&play);
}

/* --------------------------------------------------------------------------------- movers */

static uint32_t commit_mover(unsigned client, const struct sim_written *written, uint32_t count)
{
	struct commit_part *parts = sim_scratch(&play.clients[client], PAGE_SCRATCH_BYTES / 2);
	struct submission message = {.op = SUBMIT_COMMIT,
		.scratch_at = PAGE_SCRATCH_BYTES / 2,
		.count = count,
		.scratch_bytes = (uint32_t)(count * sizeof(*parts)),
		.u.other.kind = COMMIT_SUMS_MOVER};
	uint32_t tag;

	for (uint32_t i = 0; i < count; i++)
		parts[i] = (struct commit_part){.slot = written[i].slot,
			.part = (uint16_t)written[i].part,
			.write = written[i].write};
	tag = sim_push(&play.clients[client], &message);
	sim_run(&play.sim);
	return tag;
}

/* A mover's sums are those the writer would have given; each part has its own completion. */
static void a_mover_sums(void)
{
	uint64_t sums[2];
	const struct index_part *part;
	struct part_sums sum = {.length = 8192, .range_count = 2, .incarnation = 1};
	struct checksum_root root;
	uint32_t tag, seen = 0;

	play_open(&play, &usual, &one, 1);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 0});
	REQUIRE_EQ(reserve(0, 0, (struct probe_want){0, 3}, &first), 3);
	tag = commit_mover(0, first.written, 3);
	REQUIRE_EQ(play.sim.job_count, 3);
	REQUIRE_EQ(present(), 0);
	/* While the mover reads, neither age nor a second commit nor an abort takes the frame. */
	play_later(&play, 2 * AGE_NS);
	REQUIRE_EQ(commit_one(0, first.written), -ESTALE);
	sim_abort(&play.clients[0], first.written, 1);
	sim_sums_run(&play.sim, 3);
	for (unsigned i = 0; i < 3; i++) {
		struct completion done = play_take(&play, 0);

		REQUIRE_EQ(done.tag, tag);
		REQUIRE_EQ(done.status, 0);
		seen |= 1u << done.value;
	}
	REQUIRE_EQ(seen, 7);
	REQUIRE_EQ(present(), 3);
	part = probe_part(&play.realm->index.view, first.written[2].slot, 0);
	sum.bytes = dram_at(play.realm->dram, first.written[2].frame);
	sum.id_low = chain.ids[2].low;
	sum.id_high = chain.ids[2].high;
	sum.write = first.written[2].write;
	root = part_sums_make(&sum, sums);
	REQUIRE(atomic_load(&part->root_low) == root.low &&
		atomic_load(&part->root_high) == root.high);
	play_close(&play);
}

/* More than the movers take: the rest waits its turn; what was removed meanwhile is not summed. */
static void sums_wait_for_movers(void)
{
	enum { PARTS = SUM_JOBS_MAX + 4 };
	uint32_t path[PARTS + 1], statuses[2] = {0, 0};

	for (uint32_t i = 0; i < PARTS; i++)
		path[i] = i + 1;
	path[PARTS] = 0;
	play_open(&play, &usual, &one, 1);
	play_chain(&play, &chain, path);
	REQUIRE_EQ(reserve(0, 0, (struct probe_want){0, PARTS}, &first), PARTS);
	commit_mover(0, first.written, PARTS);
	play_take_none(&play, 0);
	REQUIRE_EQ(play.sim.job_count, SUM_JOBS_MAX);
	remove_subtree(play.realm, first.written[PARTS - 2].slot, SKEP_REASON_REMOVED);
	play_later(&play, 2 * AGE_NS); /* no age ends what the daemon itself is late with */
	sim_sums_run(&play.sim, PARTS);
	for (uint32_t i = 0; i < PARTS; i++) {
		struct completion done = play_take(&play, 0);

		REQUIRE_EQ(done.status, done.value < PARTS - 2 ? 0 : SKEP_STATUS_EPARENT);
		statuses[done.status != 0]++;
	}
	REQUIRE_EQ(statuses[1], 2);
	REQUIRE_EQ(present(), PARTS - 2);
	play_close(&play);
}

/* While a mover sums: the session ends (the block stands), the block is removed (it does not). */
static void a_mover_outlives_its_session(void)
{
	struct completion done;

	play_open(&play, &usual, &one, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 0});
	REQUIRE_EQ(reserve(1, 0, (struct probe_want){0, 2}, &first), 2);
	commit_mover(1, first.written, 2);
	play_client_end(&play, 1, false);
	sim_sums_run(&play.sim, 2);
	REQUIRE_EQ(present(), 2);

	remove_space(play.realm, play.space.answer.space, SKEP_REASON_REMOVED);
	REQUIRE_EQ(reserve(0, 0, (struct probe_want){0, 2}, &first), 2);
	commit_mover(0, first.written, 2);
	remove_space(play.realm, play.space.answer.space, SKEP_REASON_REMOVED);
	REQUIRE_EQ(play_used_bytes(&play), 2 * 8192); /* the mover still reads */
	sim_sums_run(&play.sim, 2);
	REQUIRE_EQ(play_used_bytes(&play), 0);
	done = play_take(&play, 0);
	REQUIRE_EQ(done.status, SKEP_STATUS_EPARENT);
	REQUIRE_EQ(play_take(&play, 0).status, SKEP_STATUS_EPARENT);
	REQUIRE_EQ(present(), 0);

	/* And both: the session is gone and its block removed. */
	REQUIRE_EQ(reserve(0, 0, (struct probe_want){0, 2}, &first), 2);
	commit_mover(0, first.written, 2);
	play_client_end(&play, 0, false);
	remove_space(play.realm, play.space.answer.space, SKEP_REASON_REMOVED);
	sim_sums_run(&play.sim, 2);
	REQUIRE_EQ(play_used_bytes(&play), 0);
	play_close(&play);
}

int main(int argc, char **argv)
{
	a_block_is_visible_with_its_last_part(unit_seed(argc, argv));
	a_part_has_one_writer();
	the_index_holds_what_the_writer_gave();
	children_wait_for_their_parents();
	branches_are_published_together();
	a_missing_parent_refuses();
	a_parent_of_another_space_refuses();
	a_late_writer_touches_nothing();
	a_stale_frame_comes_back();
	a_commit_must_name_its_own();
	half_a_block_is_given_up_in_time();
	a_killed_writer_is_replaced();
	giving_up_takes_what_is_below();
	a_waiter_takes_over();
	an_unwanted_block_goes_at_once();
	a_dead_writer_leaves_nothing();
	a_mover_sums();
	sums_wait_for_movers();
	a_mover_outlives_its_session();
	return 0;
}
