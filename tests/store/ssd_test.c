/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two tiers of one keeper, promise by promise, on devices that do what they are told. What they
 * do wrong is in ssd_fault_test.c, what happens at the same time in ssd_race_test.c.
 */
#include <errno.h>

#include "base/log.h"
#include "tests/store/play.h"

enum { BLOCK = 64 << 10, MIB = 1 << 20, SINGLES_MAX = 256 };

static struct play play;
static struct play_chain chain, other, single;
static struct play_reserved reserved;

static const struct sim_space one = {
	.name = "one", .block_tokens = 4, .part_count = 1, .bytes = {BLOCK}, .ranges = {4}};

static const uint32_t nine[] = {11, 12, 13, 14, 15, 16, 17, 18, 19, 0};

/* The log holds 4.2 MiB of live bytes: 67 blocks. */
static struct sim_options options_of(uint32_t frames)
{
	return (struct sim_options){.dram_bytes = 16 * MIB,
		.use_max = (uint64_t)frames * BLOCK,
		.index_blocks = 512,
		.age_limit_ns = NS_PER_S,
		.ssd = {.bytes = 8 * MIB, .seed = 5}};
}

static void scene(uint32_t frames, unsigned clients)
{
	struct sim_options options = options_of(frames);

	play_open(&play, &options, &one, clients);
}

static uint32_t put(struct play_chain *of, uint32_t first, uint32_t count)
{
	return play_put_blocks(&play.sim, &play.clients[0], of, (struct probe_want){first, count});
}

/* A chain of one block. */
static void single_put(uint32_t number)
{
	play.sim.keeper->now_ns += 1000; /* stamps differ */
	play_chain(&play, &single, (const uint32_t[]){1000 + number, 0});
	REQUIRE_EQ(put(&single, 0, 1), 1);
}

static enum play_at single_at(uint32_t number)
{
	play_chain(&play, &single, (const uint32_t[]){1000 + number, 0});
	return play_where(&play.clients[0], &single, 0);
}

static enum play_at at(uint32_t block)
{
	return play_where(&play.clients[0], &chain, block);
}

static void demote_all(void)
{
	sim_settle(&play.sim);
	evict_bytes(play.realm, UINT64_MAX);
	play_books_agree(play.realm);
	REQUIRE_EQ(play_used_bytes(&play), 0);
}

/* ----------------------------------------------------------------------------- write-behind */

static void what_is_published_is_written_behind_and_then_its_frame_may_go(void)
{
	scene(16, 1);
	play_chain(&play, &chain, nine);
	REQUIRE_EQ(put(&chain, 0, 4), 4);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_written), 0);
	REQUIRE_EQ(evict_bytes(play.realm, UINT64_MAX), 0);
	play_books_agree(play.realm);
	sim_settle(&play.sim);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_written), 4);
	REQUIRE_EQ(at(3), PLAY_DRAM);
	demote_all();
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_demoted), 4);
	for (uint32_t i = 0; i < 4; i++)
		REQUIRE_EQ(at(i), PLAY_SSD);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_evicted), 0);
	play_close(&play);
}

static void a_put_waits_for_writing(void)
{
	struct play_put ask = {.chain = &other, .count = 1};
	int32_t status;

	scene(4, 1);
	play_chain(&play, &chain, nine);
	play_chain(&play, &other, (const uint32_t[]){5, 0});
	REQUIRE_EQ(put(&chain, 0, 4), 4);
	ask.deadline_ns = play.sim.keeper->now_ns + NS_PER_S;
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[0], &ask, &reserved), PLAY_BLOCKED);
	sim_settle(&play.sim);
	REQUIRE(play_reserve_answered(&play.clients[0], &ask, &reserved, &status));
	REQUIRE_EQ(status, 1);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_shed), 0);
	REQUIRE_EQ(play_named(&play.clients[0], &chain), 4);
	REQUIRE_EQ(at(3), PLAY_SSD);
	play_close(&play);
}

/* A segment takes 15 blocks; until it is open none is begun in the next. */
static void at_its_deadline_a_put_sheds_the_coldest_unwritten_leaf(void)
{
	struct play_put ask = {.chain = &other, .count = 1};
	int32_t status;

	scene(24, 1);
	for (uint32_t i = 0; i < 16; i++)
		single_put(i);
	play_chain(&play, &chain, nine);
	REQUIRE_EQ(put(&chain, 0, 3), 3);
	for (uint32_t i = 16; i < 21; i++)
		single_put(i);
	REQUIRE(play.realm->ssd.dirty.count >= 8);
	for (uint32_t left = 3; left; left--) {
		play_chain(&play, &other, (const uint32_t[]){5 + left, 0});
		ask.deadline_ns = play.sim.keeper->now_ns + NS_PER_MS;
		REQUIRE_EQ(
			play_reserve(&play.sim, &play.clients[0], &ask, &reserved), PLAY_BLOCKED);
		REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_shed), 3 - left);
		play_later(&play, NS_PER_MS);
		REQUIRE(play_reserve_answered(&play.clients[0], &ask, &reserved, &status));
		REQUIRE_EQ(status, 1);
		REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_shed), 4 - left);
		/* From its end, before what came later. */
		if (single_at(15) != PLAY_NOWHERE)
			REQUIRE_EQ(play_named(&play.clients[0], &chain), left - 1);
		play_books_agree(play.realm);
	}
	for (uint32_t i = 16; i < 21; i++)
		REQUIRE_EQ(single_at(i), PLAY_DRAM);
	play_close(&play);
}

/* ----------------------------------------------------------------------------------- loads */

static void a_load_brings_back_right_bytes_and_a_pin_that_protects_them(void)
{
	struct play_load load = {.count = 9, .cell = 2, .deadline_ns = CLOCK_NEVER};

	scene(20, 1);
	play_chain(&play, &chain, nine);
	REQUIRE_EQ(put(&chain, 0, 9), 9);
	demote_all();
	play_load(&play.clients[0], &chain, &load);
	sim_run(&play.sim);
	play_take_none(&play, 0);
	play_books_agree(play.realm);
	sim_settle(&play.sim);
	REQUIRE_EQ(play_take(&play, 0).status, 9);
	play_loaded_holds(&play.clients[0], &chain, &load);
	REQUIRE_EQ(evict_bytes(play.realm, UINT64_MAX), 0);
	play_loaded_holds(&play.clients[0], &chain, &load);
	pin_clear(&sim_pins(&play.clients[0])[2]);
	REQUIRE_EQ(evict_bytes(play.realm, 9 * BLOCK), 9 * BLOCK);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_promoted), 9);
	/* It was not written again. */
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_written), 9);
	play_close(&play);
}

static void a_run_with_gaps_is_loaded_whole(void)
{
	scene(20, 1);
	play_chain(&play, &chain, nine);
	REQUIRE_EQ(put(&chain, 0, 7), 7);
	demote_all();
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 2), 2);
	REQUIRE_EQ(put(&chain, 7, 2), 2); /* below a block that is on the ssd */
	REQUIRE(at(1) == PLAY_DRAM && at(2) == PLAY_SSD && at(6) == PLAY_SSD);
	REQUIRE(at(7) == PLAY_DRAM && at(8) == PLAY_DRAM);
	play_books_agree(play.realm);
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 9), 9);
	play_close(&play);
}

static void a_load_whose_deadline_passes_brings_what_is_there(void)
{
	struct play_load load = {.count = 4, .cell = 1};

	scene(20, 1);
	play_chain(&play, &chain, nine);
	REQUIRE_EQ(put(&chain, 0, 4), 4);
	demote_all();
	load.deadline_ns = play.sim.keeper->now_ns + NS_PER_MS;
	play_load(&play.clients[0], &chain, &load);
	sim_run(&play.sim);
	play_later(&play, NS_PER_MS);
	REQUIRE_EQ(play_take(&play, 0).status, -ETIMEDOUT);
	REQUIRE_EQ(atomic_load(&sim_pins(&play.clients[0])[1].generation), 0);
	play_books_agree(play.realm);
	sim_settle(&play.sim); /* what was read is kept all the same */
	REQUIRE_EQ(at(3), PLAY_DRAM);
	evict_bytes(play.realm, 2 * BLOCK);
	REQUIRE_EQ(play_present(&play.clients[0], &chain), 2);
	load.deadline_ns = play.sim.keeper->now_ns + NS_PER_MS;
	play_load(&play.clients[0], &chain, &load);
	sim_run(&play.sim);
	play_later(&play, NS_PER_MS);
	REQUIRE_EQ(play_take(&play, 0).status, 2);
	load.count = 2;
	play_loaded_holds(&play.clients[0], &chain, &load);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_loads_short), 2);
	play_close(&play);
}

static void a_load_ends_with_its_session(void)
{
	struct play_load load = {.count = 4, .cell = 1, .deadline_ns = CLOCK_NEVER};

	scene(20, 2);
	play_chain(&play, &chain, nine);
	REQUIRE_EQ(put(&chain, 0, 4), 4);
	demote_all();
	play_load(&play.clients[1], &chain, &load);
	sim_run(&play.sim);
	REQUIRE(!list_empty(&play.realm->ssd.loads_live));
	play_client_end(&play, 1, false);
	REQUIRE(list_empty(&play.realm->ssd.loads_live));
	play_books_agree(play.realm);
	sim_settle(&play.sim);
	REQUIRE_EQ(evict_bytes(play.realm, 4 * BLOCK), 4 * BLOCK);
	play_close(&play);
}

static void two_loads_of_a_block_read_it_once(void)
{
	struct play_load load = {.count = 4, .cell = 1, .deadline_ns = CLOCK_NEVER};
	uint64_t bytes;

	scene(20, 2);
	play_chain(&play, &chain, nine);
	REQUIRE_EQ(put(&chain, 0, 4), 4);
	demote_all();
	bytes = memory_devices_counts(play.sim.devices).read_bytes;
	play_load(&play.clients[0], &chain, &load);
	play_load(&play.clients[1], &chain, &load);
	sim_settle(&play.sim);
	for (unsigned i = 0; i < 2; i++) {
		REQUIRE_EQ(play_take(&play, i).status, 4);
		play_loaded_holds(&play.clients[i], &chain, &load);
	}
	REQUIRE_EQ(memory_devices_counts(play.sim.devices).read_bytes - bytes, 4 * BLOCK);
	/* One pin is enough. */
	pin_clear(&sim_pins(&play.clients[0])[1]);
	REQUIRE_EQ(evict_bytes(play.realm, UINT64_MAX), 0);
	play_close(&play);
}

static void a_load_into_a_pool_full_of_pins_is_told_so(void)
{
	struct play_match match;
	struct play_load load = {.count = 2, .cell = 3, .deadline_ns = CLOCK_NEVER};

	scene(8, 1);
	play_chain(&play, &other, (const uint32_t[]){5, 6, 0});
	REQUIRE_EQ(put(&other, 0, 2), 2);
	demote_all();
	play_chain(&play, &chain, nine);
	REQUIRE_EQ(put(&chain, 0, 8), 8);
	sim_settle(&play.sim);
	play_match_pin(&play.clients[0], &chain, 0, &match);
	REQUIRE_EQ(match.count, 8);
	play_load(&play.clients[0], &other, &load);
	sim_settle(&play.sim);
	REQUIRE_EQ(play_take(&play, 0).status, -EAGAIN);
	play_books_agree(play.realm);
	REQUIRE(play_match_holds(&play.clients[0], &chain, &match));
	pin_clear(&sim_pins(&play.clients[0])[0]);
	REQUIRE_EQ(play_load_now(&play, 0, &other, 2), 2);
	play_close(&play);
}

/* Half the pool at most is filled by one load; the rest is the next one. */
static void a_load_larger_than_its_share_brings_the_leading_part(void)
{
	scene(8, 1);
	play_chain(&play, &chain, nine);
	REQUIRE_EQ(put(&chain, 0, 8), 8);
	demote_all();
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 8), 4);
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 8), 8);
	play_close(&play);
}

/* The first block of the run waits in DRAM for a frame for the second, which is being written. */
static void what_a_load_needs_is_held_meanwhile(void)
{
	struct play_load load = {.count = 2, .cell = 1, .deadline_ns = CLOCK_NEVER};

	scene(2, 1);
	play_chain(&play, &chain, nine);
	REQUIRE_EQ(put(&chain, 0, 2), 2);
	demote_all();
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 1), 1);
	single_put(0);
	play_load(&play.clients[0], &chain, &load);
	sim_run(&play.sim);
	play_take_none(&play, 0);
	REQUIRE_EQ(evict_bytes(play.realm, UINT64_MAX), 0);
	play_books_agree(play.realm);
	REQUIRE(at(0) == PLAY_DRAM && at(1) == PLAY_SSD);
	sim_settle(&play.sim);
	REQUIRE_EQ(play_take(&play, 0).status, 2);
	play_loaded_holds(&play.clients[0], &chain, &load);
	REQUIRE_EQ(single_at(0), PLAY_SSD);
	play_close(&play);
}

static void a_load_of_what_is_no_run_is_refused(void)
{
	struct play_load load = {.count = 2, .cell = 1, .deadline_ns = CLOCK_NEVER};
	struct load_part *parts;

	scene(8, 1);
	play_chain(&play, &chain, nine);
	REQUIRE_EQ(put(&chain, 0, 3), 3);
	demote_all();
	play_load(&play.clients[0], &chain, &load);
	parts = sim_scratch(&play.clients[0], 0);
	parts[1].slot = play_slot(&play.clients[0], &chain, 2);
	parts[1].name_generation = atomic_load(
		&play.realm->index.entries[play_slot(&play.clients[0], &chain, 2)].name_generation);
	sim_settle(&play.sim);
	REQUIRE_EQ(play_take(&play, 0).status, 1);
	pin_clear(&sim_pins(&play.clients[0])[1]);
	play_chain(&play, &other, (const uint32_t[]){7, 8, 0});
	play_load(&play.clients[0], &other, &load);
	sim_settle(&play.sim);
	REQUIRE_EQ(play_take(&play, 0).status, -ENOENT);
	play_close(&play);
}

/* ------------------------------------------------------------------------------------ sync */

static void a_sync_waits_for_what_was_published_before(void)
{
	scene(64, 1);
	play_chain(&play, &chain, nine);
	REQUIRE_EQ(put(&chain, 0, 3), 3);
	play_sync(&play.clients[0], CLOCK_NEVER);
	sim_run(&play.sim);
	play_take_none(&play, 0);
	sim_settle(&play.sim);
	REQUIRE_EQ(play_take(&play, 0).status, 0);
	play_restart(&play, true);
	REQUIRE_EQ(play_named(&play.clients[0], &chain), 3);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_recovered), 3);
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 3), 3);
	play_close(&play);
}

static void a_sync_does_not_wait_for_what_came_after(void)
{
	struct completion done;

	scene(64, 1);
	play_chain(&play, &chain, nine);
	REQUIRE_EQ(put(&chain, 0, 3), 3);
	sim_settle(&play.sim);
	play_sync(&play.clients[0], CLOCK_NEVER);
	sim_run(&play.sim);
	/* More than the open segment takes; the keeper does not take its turn any more. */
	for (uint32_t i = 0; i < 30; i++) {
		struct play_put ask = {.chain = &single, .count = 1};

		play_chain(&play, &single, (const uint32_t[]){1000 + i, 0});
		REQUIRE_EQ(play_reserve(&play.sim, &play.clients[0], &ask, &reserved), 1);
		play_fill(play.realm, reserved.written, 1);
		REQUIRE_EQ(play_commit(&play.sim, &play.clients[0], reserved.written, 1), 1);
	}
	REQUIRE(play.realm->ssd.dirty.count > 0);
	for (unsigned i = 0; i < 1000 && !sim_take(&play.clients[0], 0, &done); i++)
		REQUIRE_EQ(sim_devices_run(&play.sim, 1), 1);
	REQUIRE_EQ(done.status, 0);
	REQUIRE(play.realm->ssd.dirty.count > 0);
	play_close(&play);
}

static void a_sync_is_told_that_its_time_is_over(void)
{
	scene(8, 2);
	play_chain(&play, &chain, nine);
	REQUIRE_EQ(put(&chain, 0, 3), 3);
	play_sync(&play.clients[0], play.sim.keeper->now_ns + NS_PER_MS);
	play_sync(&play.clients[1], CLOCK_NEVER);
	sim_run(&play.sim);
	play_later(&play, NS_PER_MS);
	REQUIRE_EQ(play_take(&play, 0).status, -ETIMEDOUT);
	play_client_end(&play, 1, false);
	sim_settle(&play.sim);
	play_take_none(&play, 0);
	REQUIRE(list_empty(&play.realm->ssd.syncs_live));
	play_close(&play);
}

/* ------------------------------------------------------------------------------------- room */

static void live_bytes_never_pass_their_limit_and_the_coldest_leaf_leaves_first(void)
{
	uint64_t max;

	scene(16, 1);
	max = ssd_live_max(play.realm->ssd.log);
	play_chain(&play, &chain, nine);
	REQUIRE_EQ(put(&chain, 0, 9), 9);
	for (uint32_t i = 0; i < 200; i++) {
		uint32_t named = play_named(&play.clients[0], &chain), gone = 0;

		single_put(i);
		sim_settle(&play.sim);
		REQUIRE(play.realm->ssd.live_units * SSD_UNIT_BYTES <= max);
		play_books_agree(play.realm);
		/* Of the chain the last one first, one after the other; then singles as they
		 * came. */
		REQUIRE(named - play_named(&play.clients[0], &chain) <= 1);
		while (gone <= i && single_at(gone) == PLAY_NOWHERE)
			gone++;
		if (gone)
			REQUIRE_EQ(named, 0);
		for (uint32_t k = gone; k <= i; k++)
			REQUIRE(single_at(k) != PLAY_NOWHERE);
	}
	REQUIRE(play_counter(&play, REALM_COUNTER_blocks_evicted) > 100);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_shed), 0);
	/* Whoever is left is right. */
	for (uint32_t i = 0; i < 200; i++)
		if (single_at(i) != PLAY_NOWHERE)
			REQUIRE_EQ(play_load_now(&play, 0, &single, 1), 1);
	play_close(&play);
}

static void reclaim_keeps_what_lives(void)
{
	uint32_t lives = 0, total = 0;

	scene(16, 1);
	for (uint32_t round = 0; round < 12; round++) {
		for (uint32_t i = 0; i < 30; i++) {
			single_put(total);
			/* Three of four go again: segments of some live records each. */
			if (total++ % 4) {
				sim_settle(&play.sim);
				remove_subtree(play.realm, play_slot(&play.clients[0], &single, 0),
					SKEP_REASON_REMOVED);
			}
			play_later(&play, 10 * NS_PER_MS);
			sim_settle(&play.sim);
		}
		play_later(&play, NS_PER_S);
		sim_settle(&play.sim);
		play_books_agree(play.realm);
	}
	REQUIRE(play_counter(&play, REALM_COUNTER_blocks_moved) > 5);
	for (uint32_t i = 0; i < total; i += 4)
		if (single_at(i) != PLAY_NOWHERE) {
			REQUIRE_EQ(play_load_now(&play, 0, &single, 1), 1);
			lives++;
		}
	REQUIRE(lives >= 60);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_shed), 0);
	play_close(&play);
}

static void where_slots_run_out_the_coldest_names_of_every_tier_leave(void)
{
	struct sim_options options = options_of(16);

	options.index_blocks = 40;
	play_open(&play, &options, &one, 1);
	for (uint32_t i = 0; i < 40; i++) {
		single_put(i);
		sim_settle(&play.sim);
	}
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_evicted), 0);
	for (uint32_t i = 40; i < 100; i++) {
		single_put(i);
		sim_settle(&play.sim);
		REQUIRE_EQ(single_at(i - 40), PLAY_NOWHERE);
		REQUIRE(single_at(i - 39) != PLAY_NOWHERE);
	}
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_evicted), 60);
	play_close(&play);
}

static void where_the_heap_of_records_runs_out_names_of_every_tier_leave(void)
{
	static const struct sim_space long_names = {.name = "long",
		.block_tokens = 8,
		.part_count = 1,
		.bytes = {BLOCK},
		.ranges = {16}};
	struct sim_options options = options_of(16);
	struct play_space space;

	options.record_bytes = 256 << 10; /* one slab: of one size at a time */
	play_open(&play, &options, &one, 1);
	play_space_open(&play.clients[0], &long_names, &space);
	for (uint32_t i = 0; i < 30; i++) {
		single_put(i);
		sim_settle(&play.sim);
	}
	play_chain_make(&other, &play.sim, &space, nine, 3);
	REQUIRE_EQ(put(&other, 0, 3), 3);
	sim_settle(&play.sim);
	play_books_agree(play.realm);
	for (uint32_t i = 0; i < 30; i++)
		REQUIRE_EQ(single_at(i), PLAY_NOWHERE);
	REQUIRE_EQ(play_load_now(&play, 0, &other, 3), 3);
	play_close(&play);
}

/* ---------------------------------------------------------------- blocks that are never kept */

static const struct sim_space huge = {
	.name = "huge", .block_tokens = 4, .part_count = 1, .bytes = {5 * MIB}, .ranges = {1}};

static void a_block_no_segment_holds_lives_in_dram_and_harms_nobody(void)
{
	struct sim_options options = options_of(0);
	struct play_space space;

	play_open(&play, &options, &one, 1);
	play_space_open(&play.clients[0], &huge, &space);
	for (uint32_t i = 0; i < 20; i++)
		single_put(i);
	demote_all();
	play_chain_make(&other, &play.sim, &space, nine, 1);
	REQUIRE_EQ(put(&other, 0, 1), 1);
	play_sync(&play.clients[0], CLOCK_NEVER);
	sim_settle(&play.sim);
	REQUIRE_EQ(play_take(&play, 0).status, 0);
	play_books_agree(play.realm);
	for (uint32_t i = 0; i < 20; i++)
		REQUIRE_EQ(single_at(i), PLAY_SSD);
	/* It leaves as if there were no ssd. */
	REQUIRE_EQ(play_where(&play.clients[0], &other, 0), PLAY_DRAM);
	evict_bytes(play.realm, 1);
	REQUIRE_EQ(play_where(&play.clients[0], &other, 0), PLAY_NOWHERE);
	play_close(&play);
}

static void slots_of_unkept_blocks_are_got_one_by_one(void)
{
	static const struct sim_space large = {.name = "large",
		.block_tokens = 4,
		.part_count = 1,
		.bytes = {2 * MIB},
		.ranges = {1}};
	struct sim_options options = options_of(0);

	options.index_blocks = 6;
	options.dram_bytes = 32 * MIB;
	play_open(&play, &options, &large, 1);
	for (uint32_t i = 0; i < 6; i++) {
		single_put(i);
		sim_settle(&play.sim);
	}
	single_put(6);
	sim_settle(&play.sim);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_evicted), 1);
	REQUIRE_EQ(single_at(0), PLAY_NOWHERE);
	for (uint32_t i = 1; i < 7; i++)
		REQUIRE_EQ(single_at(i), PLAY_DRAM);
	play_close(&play);
}

static void records_of_unkept_blocks_leave_with_them(void)
{
	static const struct sim_space large = {.name = "large",
		.block_tokens = 8,
		.part_count = 1,
		.bytes = {2 * MIB},
		.ranges = {16}};
	struct sim_options options = options_of(0);
	struct play_space space;

	options.record_bytes = 256 << 10;
	play_open(&play, &options, &one, 1);
	play_space_open(&play.clients[0], &large, &space);
	play_chain_make(&other, &play.sim, &space, nine, 3);
	REQUIRE_EQ(put(&other, 0, 3), 3);
	sim_settle(&play.sim);
	single_put(0);
	REQUIRE_EQ(play_named(&play.clients[0], &other), 0);
	REQUIRE_EQ(single_at(0), PLAY_DRAM);
	play_close(&play);
}

int main(void)
{
	log_set_level(LOG_LEVEL_ERROR);
	what_is_published_is_written_behind_and_then_its_frame_may_go();
	a_put_waits_for_writing();
	at_its_deadline_a_put_sheds_the_coldest_unwritten_leaf();
	a_load_brings_back_right_bytes_and_a_pin_that_protects_them();
	a_run_with_gaps_is_loaded_whole();
	a_load_whose_deadline_passes_brings_what_is_there();
	a_load_ends_with_its_session();
	two_loads_of_a_block_read_it_once();
	a_load_into_a_pool_full_of_pins_is_told_so();
	a_load_larger_than_its_share_brings_the_leading_part();
	what_a_load_needs_is_held_meanwhile();
	a_load_of_what_is_no_run_is_refused();
	a_sync_waits_for_what_was_published_before();
	a_sync_does_not_wait_for_what_came_after();
	a_sync_is_told_that_its_time_is_over();
	live_bytes_never_pass_their_limit_and_the_coldest_leaf_leaves_first();
	reclaim_keeps_what_lives();
	where_slots_run_out_the_coldest_names_of_every_tier_leave();
	where_the_heap_of_records_runs_out_names_of_every_tier_leave();
	a_block_no_segment_holds_lives_in_dram_and_harms_nobody();
	slots_of_unkept_blocks_are_got_one_by_one();
	records_of_unkept_blocks_leave_with_them();
	return 0;
}
