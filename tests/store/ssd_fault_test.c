/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two tiers of one keeper where something goes: blocks removed in the middle of chains that lie
 * on both, devices that fail or lie, power cuts, other secrets and versions. Every time: a miss and
 * a counter, never wrong bytes; nothing is unreachable for ever; what is put again stands again.
 */
#include <errno.h>

#include "base/log.h"
#include "store/label.h"
#include "tests/store/play.h"
#include "tiering/ssd/format.h"

enum { BLOCK = 64 << 10, MIB = 1 << 20, SEGMENT_UNITS = MIB / SSD_UNIT_BYTES };

static struct play play;
static struct play_chain chain, single;

static const struct sim_space one = {
	.name = "one", .block_tokens = 4, .part_count = 1, .bytes = {BLOCK}, .ranges = {4}};

static const uint32_t nine[] = {11, 12, 13, 14, 15, 16, 17, 18, 19, 0};

static void scene(const struct sim_ssd_options *ssd)
{
	struct sim_options options = {.dram_bytes = 16 * MIB,
		.use_max = 40 * BLOCK,
		.index_blocks = 512,
		.age_limit_ns = NS_PER_S};

	if (ssd)
		options.ssd = *ssd;
	if (!options.ssd.bytes)
		options.ssd.bytes = 8 * MIB;
	play_open(&play, &options, &one, 1);
	play_chain(&play, &chain, nine);
}

static uint32_t put(struct play_chain *of, uint32_t first, uint32_t count)
{
	return play_put_blocks(&play.sim, &play.clients[0], of, (struct probe_want){first, count});
}

static void single_make(uint32_t number)
{
	play_chain(&play, &single, (const uint32_t[]){1000 + number, 0});
}

static void chain_copy(struct play_chain *to)
{
	*to = chain;
	to->probe.ids = to->ids;
	to->probe.tokens = to->tokens;
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

static int32_t sync_now(void)
{
	play_sync(&play.clients[0], CLOCK_NEVER);
	sim_settle(&play.sim);
	return play_take(&play, 0).status;
}

static void fault(unsigned device, enum ssd_op op, enum memory_fault what)
{
	memory_devices_fault(play.sim.devices, device, op, what, 1000000);
}

static void faults_end(void)
{
	memory_devices_faults_end(play.sim.devices);
}

/* Fails until it is fenced; then it is well again, but fenced. */
static void device_fence(unsigned device)
{
	fault(device, SSD_OP_READ, MEMORY_FAULT_ERROR);
	fault(device, SSD_OP_WRITE, MEMORY_FAULT_ERROR);
	fault(device, SSD_OP_FLUSH, MEMORY_FAULT_ERROR);
	for (uint32_t i = 0; i < 100 && !ssd_device_fenced(play.sim.keeper->ssd, device); i++) {
		single_make(500 + i);
		REQUIRE_EQ(put(&single, 0, 1), 1);
		sim_settle(&play.sim);
	}
	REQUIRE(ssd_device_fenced(play.sim.keeper->ssd, device));
	faults_end();
	sim_settle(&play.sim);
	play_books_agree(play.realm);
}

/* ----------------------------------------------------------- an inner block of a mixed chain */

/* Blocks 0 and 1 in both tiers, 2 to 4 on the ssd alone, 5 and 6 in DRAM, not yet written. */
static void mixed_chain(void)
{
	REQUIRE_EQ(put(&chain, 0, 5), 5);
	demote_all();
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 2), 2);
	REQUIRE_EQ(put(&chain, 5, 2), 2);
	REQUIRE(at(1) == PLAY_DRAM && at(2) == PLAY_SSD && at(4) == PLAY_SSD && at(5) == PLAY_DRAM);
}

static void subtree_is_gone_and_put_again(uint32_t from)
{
	sim_settle(&play.sim);
	play_books_agree(play.realm);
	REQUIRE_EQ(play_named(&play.clients[0], &chain), from);
	REQUIRE_EQ(put(&chain, from, 9 - from), 9 - from);
	demote_all();
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 9), 9);
	play_close(&play);
}

static void an_inner_block_is_quarantined(void)
{
	struct submission message = {.op = SUBMIT_QUARANTINE};

	scene(NULL);
	mixed_chain();
	message.slot = play_slot(&play.clients[0], &chain, 1);
	message.generation = atomic_load(&play.realm->index.entries[message.slot].frame_generation);
	REQUIRE(sim_push(&play.clients[0], &message));
	sim_run(&play.sim);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_quarantined), 1);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_removed), 6);
	subtree_is_gone_and_put_again(1);
}

static void an_inner_block_on_the_ssd_is_removed_by_command(void)
{
	for (uint32_t i = 0; i < 7; i++) {
		scene(NULL);
		mixed_chain();
		REQUIRE_EQ(remove_subtree(play.realm, play_slot(&play.clients[0], &chain, i),
				   SKEP_REASON_REMOVED),
			7 - i);
		subtree_is_gone_and_put_again(i);
	}
}

static void a_space_is_purged(void)
{
	scene(NULL);
	mixed_chain();
	REQUIRE_EQ(remove_space(play.realm, 0, SKEP_REASON_REMOVED), 7);
	subtree_is_gone_and_put_again(0);
}

/* On two devices segments alternate: one of the two holds some of a long chain. */
static void inner_blocks_are_lost_with_a_device(void)
{
	uint32_t left[2];

	for (unsigned device = 0; device < 2; device++) {
		scene(&(struct sim_ssd_options){.bytes = 32 * MIB, .devices = 2, .errors_max = 3});
		for (uint32_t i = 0; i < 6; i++) {
			REQUIRE_EQ(put(&chain, i, 1), 1);
			/* Much of the segment is another's. */
			for (uint32_t k = 0; k < 12; k++) {
				single_make(20 * i + k);
				REQUIRE_EQ(put(&single, 0, 1), 1);
				sim_settle(&play.sim);
			}
		}
		REQUIRE_EQ(sync_now(), 0);
		demote_all();
		REQUIRE_EQ(play_load_now(&play, 0, &chain, 1), 1);
		device_fence(device);
		left[device] = play_named(&play.clients[0], &chain);
		/* What was in DRAM was written again. */
		REQUIRE(left[device] >= 1 && left[device] < 6);
		REQUIRE(play_counter(&play, REALM_COUNTER_blocks_lost) > 0);
		subtree_is_gone_and_put_again(left[device]);
	}
	REQUIRE(left[0] != left[1]);
}

static void a_device_is_brought_back_by_command(void)
{
	scene(&(struct sim_ssd_options){.bytes = 16 * MIB, .devices = 2, .errors_max = 3});
	REQUIRE_EQ(put(&chain, 0, 9), 9);
	REQUIRE_EQ(sync_now(), 0);
	device_fence(0);
	REQUIRE_EQ(sync_now(), 0);
	REQUIRE_EQ(ssd_device_unfence(play.sim.keeper->ssd, 0), 0);
	for (uint32_t i = 0; i < 100; i++) {
		single_make(i);
		REQUIRE_EQ(put(&single, 0, 1), 1);
		sim_settle(&play.sim);
	}
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_shed), 0);
	REQUIRE_EQ(sync_now(), 0);
	play_restart(&play, true);
	REQUIRE_EQ(play_load_now(&play, 0, &single, 1), 1);
	play_close(&play);
}

static void without_a_device_dram_alone_serves(void)
{
	scene(&(struct sim_ssd_options){.errors_max = 3});
	REQUIRE_EQ(put(&chain, 0, 5), 5);
	REQUIRE_EQ(sync_now(), 0);
	evict_bytes(play.realm, 2 * BLOCK);
	device_fence(0);
	/* Of the chain what was in DRAM stands. */
	REQUIRE_EQ(play_named(&play.clients[0], &chain), 3);
	REQUIRE_EQ(sync_now(), -EIO);
	for (uint32_t i = 0; i < 100; i++) {
		single_make(i);
		REQUIRE_EQ(put(&single, 0, 1), 1); /* at once: nothing is waited for */
		sim_settle(&play.sim);
		play_books_agree(play.realm);
	}
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_shed), 0);
	/* Brought back, it is written what DRAM holds. */
	REQUIRE_EQ(ssd_device_unfence(play.sim.keeper->ssd, 0), 0);
	sim_run(&play.sim);
	REQUIRE_EQ(sync_now(), 0);
	play_books_agree(play.realm);
	REQUIRE_EQ(play_where(&play.clients[0], &single, 0), PLAY_DRAM);
	play_restart(&play, true);
	REQUIRE_EQ(play_load_now(&play, 0, &single, 1), 1);
	play_close(&play);
}

/* The frames of a block that is being written are in use, whether the ssd still serves or not. */
static void a_block_on_its_way_stays_when_the_last_device_fails(void)
{
	scene(NULL);
	single_make(0);
	REQUIRE_EQ(put(&single, 0, 1), 1);
	play.realm->ssd.down = true;
	lru_touch(play.realm, play_slot(&play.clients[0], &single, 0));
	REQUIRE_EQ(evict_blocks(play.realm, 1), 0);
	sim_settle(&play.sim);
	REQUIRE_EQ(sync_now(), 0);
	REQUIRE_EQ(evict_blocks(play.realm, 1), 1);
	play_close(&play);
}

/* It waits for a write when the last device fails: no success may be told. */
static void a_sync_under_way_is_told_when_the_last_device_fails(void)
{
	scene(&(struct sim_ssd_options){.errors_max = 2});
	sim_settle(&play.sim);
	REQUIRE_EQ(put(&chain, 0, 5), 5);
	play_sync(&play.clients[0], CLOCK_NEVER);
	sim_run(&play.sim);
	fault(0, SSD_OP_WRITE, MEMORY_FAULT_ERROR);
	sim_settle(&play.sim);
	REQUIRE(ssd_device_fenced(play.sim.keeper->ssd, 0));
	REQUIRE_EQ(play_take(&play, 0).status, -EIO);
	play_close(&play);
}

/* Runs keeper and device by turns until the sync is answered, and no further. */
static int32_t sync_wait(void)
{
	struct completion done;

	for (unsigned i = 0; i < 10000; i++) {
		if (sim_take(&play.clients[0], 0, &done))
			return done.status;
		if (!sim_devices_run(&play.sim, 1) || i % 4 == 0)
			sim_run(&play.sim);
	}
	return -ETIME;
}

/* Written, and the device gone before it was durable: the sync waits until it is so elsewhere. */
static void a_sync_waits_for_what_was_lost_before_it_was_durable(void)
{
	uint32_t tried = 0;

	for (uint32_t seed = 0; seed < 16; seed++) {
		scene(&(struct sim_ssd_options){
			.bytes = 16 * MIB, .devices = 2, .errors_max = 1, .seed = seed});
		sim_settle(&play.sim);
		single_make(1);
		REQUIRE_EQ(put(&single, 0, 1), 1);
		play_sync(&play.clients[0], CLOCK_NEVER);
		sim_run(&play.sim);
		/* More than a segment takes stands before it when it is unwritten again. */
		REQUIRE_EQ(put(&chain, 0, 9), 9);
		for (uint32_t i = 2; i < 25; i++) {
			single_make(i);
			REQUIRE_EQ(put(&single, 0, 1), 1);
		}
		single_make(1);
		while (play_counter(&play, REALM_COUNTER_blocks_written) == 0)
			REQUIRE_EQ(sim_devices_run(&play.sim, 1), 1);
		if (slot_on_ssd(play.realm, play_slot(&play.clients[0], &single, 0)) &&
			memory_devices_counts(play.sim.devices).waiting) {
			for (unsigned d = 0; d < 2; d++)
				fault(d, SSD_OP_WRITE, MEMORY_FAULT_ERROR);
			REQUIRE_EQ(sim_devices_run(&play.sim, 1), 1);
			faults_end();
			tried += play_counter(&play, REALM_COUNTER_blocks_lost) == 1;
		}
		REQUIRE_EQ(sync_wait(), 0);
		play_restart(&play, true);
		REQUIRE_EQ(play_named(&play.clients[0], &single), 1);
		play_close(&play);
	}
	REQUIRE(tried > 0);
}

/* A space's own record says what its blocks are: without it none of them is found. */
static void a_sync_waits_for_the_record_of_the_space(void)
{
	uint32_t tried = 0;

	for (uint32_t seed = 0; seed < 16; seed++) {
		scene(&(struct sim_ssd_options){.seed = seed});
		sim_run(&play.sim);
		single_make(1);
		REQUIRE_EQ(put(&single, 0, 1), 1);
		while (play_counter(&play, REALM_COUNTER_blocks_written) == 0)
			REQUIRE_EQ(sim_devices_run(&play.sim, 1), 1);
		play_sync(&play.clients[0], CLOCK_NEVER);
		sim_run(&play.sim);
		if (play.realm->spaces[0].ssd_at == SSD_NONE) {
			fault(0, SSD_OP_WRITE, MEMORY_FAULT_ERROR);
			REQUIRE_EQ(sim_devices_run(&play.sim, 1), 1);
			faults_end();
			tried++;
		}
		REQUIRE_EQ(sync_wait(), 0);
		play_restart(&play, true);
		REQUIRE_EQ(play_named(&play.clients[0], &single), 1);
		play_close(&play);
	}
	REQUIRE(tried > 0);
}

/* ------------------------------------------------------------------------------- restarts */

static void a_clean_restart_finds_all_that_was_durable(void)
{
	scene(NULL);
	REQUIRE_EQ(put(&chain, 0, 9), 9);
	REQUIRE_EQ(sync_now(), 0);
	play_restart(&play, false);
	REQUIRE_EQ(play_named(&play.clients[0], &chain), 9);
	play_books_agree(play.realm);
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 9), 9);
	/* Written in another life, a child put in this one: both are found in the next. */
	single_make(1);
	play_restart(&play, true);
	play_restart(&play, true);
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 9), 9);
	play_close(&play);
}

static void a_chain_of_several_lives_is_found(void)
{
	scene(NULL);
	for (uint32_t i = 0; i < 9; i++) {
		REQUIRE_EQ(put(&chain, i, 1), 1);
		REQUIRE_EQ(sync_now(), 0);
		play_restart(&play, i % 2);
		REQUIRE_EQ(play_named(&play.clients[0], &chain), i + 1);
	}
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 9), 9);
	play_close(&play);
}

static void a_stepped_space_finds_nothing_of_its_old_version(void)
{
	static struct play_chain old;
	uint64_t version;

	scene(NULL);
	REQUIRE_EQ(put(&chain, 0, 5), 5);
	REQUIRE_EQ(sync_now(), 0);
	chain_copy(&old);
	REQUIRE_EQ(space_step(play.realm, 0), 2);
	play_space_open(&play.clients[0], &one, &play.space);
	REQUIRE_EQ(sync_now(), 0);
	for (unsigned life = 0; life < 3; life++) {
		play_restart(&play, true);
		version = play.space.answer.version;
		REQUIRE_EQ(version, 2);
		REQUIRE_EQ(play_named(&play.clients[0], &old), 0);
		play_chain(&play, &chain, nine);
		REQUIRE_EQ(play_named(&play.clients[0], &chain), life ? 3 : 0);
		if (!life)
			REQUIRE_EQ(put(&chain, 0, 3), 3);
		REQUIRE_EQ(sync_now(), 0);
	}
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 3), 3);
	play_close(&play);
}

/* The power goes between a step and the record that tells of it: the space is known all the same,
 * by the version before or after. */
static void a_space_that_is_being_stepped_is_not_forgotten(void)
{
	unsigned stepped = 0;

	for (uint32_t seed = 0; seed < 20; seed++) {
		scene(&(struct sim_ssd_options){.seed = seed, .ledger = seed % 2});
		for (unsigned i = 2; i < 5; i++) {
			REQUIRE_EQ(space_step(play.realm, 0), i);
			play_space_open(&play.clients[0], &one, &play.space);
			play_chain(&play, &chain, nine);
			REQUIRE_EQ(put(&chain, 0, 2), 2);
			REQUIRE_EQ(sync_now(), 0);
		}
		REQUIRE_EQ(space_step(play.realm, 0), 5);
		sim_run(&play.sim);
		sim_devices_run(&play.sim, seed);
		play_restart(&play, true);
		REQUIRE(play.space.answer.version == 4 || play.space.answer.version == 5);
		stepped += play.space.answer.version == 5;
		play_close(&play);
	}
	REQUIRE(stepped < 20);
}

static void under_another_secret_nothing_is_found(void)
{
	static struct play_chain old;

	scene(NULL);
	REQUIRE_EQ(put(&chain, 0, 5), 5);
	REQUIRE_EQ(sync_now(), 0);
	chain_copy(&old);
	play.sim.options.secret = 7;
	play_restart(&play, false);
	REQUIRE_EQ(play.realm->ssd.blocks, 0);
	REQUIRE_EQ(play_named(&play.clients[0], &old), 0);
	play_chain(&play, &chain, nine);
	REQUIRE_EQ(play_named(&play.clients[0], &chain), 0);
	REQUIRE_EQ(put(&chain, 0, 5), 5);
	demote_all();
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 5), 5);
	play_close(&play);
}

/* A full log's segments hold what is live and what is dead; after a restart that remembers no
 * death, puts still find room. */
static void a_restart_without_a_ledger_leaves_room_for_puts(void)
{
	scene(NULL);
	for (unsigned life = 0; life < 4; life++) {
		for (uint32_t i = 0; i < 150; i++) {
			single_make(200 * life + i);
			play.sim.keeper->now_ns += NS_PER_MS;
			REQUIRE_EQ(put(&single, 0, 1), 1);
			sim_settle(&play.sim);
		}
		REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_shed), 0);
		REQUIRE_EQ(sync_now(), 0);
		play_restart(&play, true);
		REQUIRE_EQ(play_load_now(&play, 0, &single, 1), 1);
	}
	play_close(&play);
}

/* Records of blocks that were removed and put again lie beside those of their second life. */
static void of_two_lives_of_a_block_the_later_is_found(void)
{
	scene(NULL);
	REQUIRE_EQ(put(&chain, 0, 1), 1);
	REQUIRE_EQ(sync_now(), 0);
	remove_subtree(play.realm, play_slot(&play.clients[0], &chain, 0), SKEP_REASON_REMOVED);
	sim_settle(&play.sim);
	for (uint32_t i = 0; i < 3; i++) {
		REQUIRE_EQ(put(&chain, 3 * i, 3), 3);
		REQUIRE_EQ(sync_now(), 0);
		play_restart(&play, true);
		REQUIRE_EQ(play_named(&play.clients[0], &chain), 3 * i + 3);
	}
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 9), 9);
	play_close(&play);
}

/* The record of a space is moved when its segment is reclaimed; whenever the power goes, it is
 * found. */
static void a_space_is_found_whenever_the_power_goes(void)
{
	for (uint32_t when = 60; when < 180; when += 3) {
		scene(&(struct sim_ssd_options){.ledger = true, .seed = when});
		for (uint32_t i = 0; i < when; i++) {
			single_make(i);
			play.sim.keeper->now_ns += NS_PER_MS;
			REQUIRE_EQ(put(&single, 0, 1), 1);
			sim_run(&play.sim);
			sim_devices_run(&play.sim, 8);
			if (i % 16 == 15)
				REQUIRE_EQ(sync_now(), 0);
		}
		single_make(when - 1 - when % 16);
		play_restart(&play, true);
		REQUIRE_EQ(play_named(&play.clients[0], &single), 1);
		REQUIRE_EQ(play_load_now(&play, 0, &single, 1), 1);
		play_close(&play);
	}
}

/* ---------------------------------------------------------------------- what devices do wrong */

/* Blocks of the chain that are loaded right; others are missed. */
static uint32_t right_blocks(void)
{
	uint32_t named = play_named(&play.clients[0], &chain);
	int32_t loaded = named ? play_load_now(&play, 0, &chain, named) : 0;

	play_books_agree(play.realm);
	return loaded > 0 ? (uint32_t)loaded : 0;
}

static uint64_t trouble(void)
{
	struct ssd_status status;

	ssd_status_get(play.sim.keeper->ssd, &status);
	return play_counter(&play, REALM_COUNTER_blocks_quarantined) +
	       play_counter(&play, REALM_COUNTER_ssd_read_errors) +
	       play_counter(&play, REALM_COUNTER_ssd_write_errors) + status.tables_damaged +
	       status.read_errors + status.write_errors;
}

/* A write that lies: right bytes or a counted miss, at once and after a restart. */
static void a_lying_write_is_a_miss(enum memory_fault what)
{
	uint64_t counted = 0, missed = 0;

	for (uint32_t seed = 0; seed < 24; seed++) {
		scene(&(struct sim_ssd_options){.seed = seed});
		sim_settle(&play.sim);
		REQUIRE_EQ(put(&chain, 0, 2), 2);
		sim_settle(&play.sim);
		fault(0, SSD_OP_WRITE, what);
		REQUIRE_EQ(put(&chain, 2, 3), 3);
		sim_settle(&play.sim);
		faults_end();
		if (seed % 2)
			REQUIRE_EQ(sync_now(), 0);
		evict_bytes(play.realm, UINT64_MAX);
		if (seed % 3) {
			missed += 5 - right_blocks();
			counted += trouble();
		}
		play_restart(&play, seed % 2);
		missed += 5 - right_blocks();
		counted += trouble();
		/* What is missed can be put again. */
		REQUIRE_EQ(put(&chain, 0, 5), 5);
		demote_all();
		REQUIRE_EQ(right_blocks(), 5);
		play_close(&play);
	}
	REQUIRE(missed > 0 && counted > 0);
}

/* The cache of the device is written in any order: the cut shows which. */
static void reordered_writes_are_a_miss(void)
{
	uint32_t found = 0;

	for (uint32_t seed = 0; seed < 40; seed++) {
		uint32_t before;

		scene(&(struct sim_ssd_options){.seed = seed});
		REQUIRE_EQ(put(&chain, 0, 3), 3);
		REQUIRE_EQ(sync_now(), 0);
		REQUIRE_EQ(put(&chain, 3, 6), 6);
		sim_run(&play.sim);
		play_sync(&play.clients[0], CLOCK_NEVER);
		sim_run(&play.sim);
		for (uint32_t i = 0; i < seed % 12; i++) {
			sim_devices_run(&play.sim, 1);
			sim_run(&play.sim);
		}
		play_restart(&play, true);
		before = right_blocks();
		REQUIRE(before >= 3);
		found += before - 3;
		REQUIRE_EQ(put(&chain, 0, 9), 9);
		demote_all();
		REQUIRE_EQ(right_blocks(), 9);
		play_close(&play);
	}
	REQUIRE(found > 0 && found < 40 * 6);
}

static void a_failing_read_is_a_miss_and_no_more(void)
{
	scene(NULL);
	REQUIRE_EQ(put(&chain, 0, 5), 5);
	demote_all();
	fault(0, SSD_OP_READ, MEMORY_FAULT_ERROR);
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 5), -EIO);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_ssd_read_errors), 5);
	play_books_agree(play.realm);
	REQUIRE_EQ(play_used_bytes(&play), 0);
	fault(0, SSD_OP_READ, MEMORY_FAULT_PARTIAL);
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 5), -EIO);
	faults_end();
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 5), 5);
	play_close(&play);
}

static void a_flipped_read_is_a_miss(void)
{
	scene(NULL);
	REQUIRE_EQ(put(&chain, 0, 5), 5);
	demote_all();
	fault(0, SSD_OP_READ, MEMORY_FAULT_FLIPPED);
	REQUIRE(play_load_now(&play, 0, &chain, 5) < 5);
	faults_end();
	REQUIRE(play_counter(&play, REALM_COUNTER_blocks_quarantined) >= 1);
	REQUIRE(play.realm->misses[SKEP_REASON_CHECKSUM] >= 1);
	REQUIRE_EQ(put(&chain, 0, 5), 5);
	demote_all();
	REQUIRE_EQ(right_blocks(), 5);
	play_close(&play);
}

static void a_failing_write_is_done_again(void)
{
	scene(&(struct sim_ssd_options){.errors_max = 1000});
	sim_settle(&play.sim);
	REQUIRE_EQ(put(&chain, 0, 5), 5);
	fault(0, SSD_OP_WRITE, MEMORY_FAULT_PARTIAL);
	play_sync(&play.clients[0], CLOCK_NEVER);
	for (unsigned i = 0; i < 3; i++) {
		sim_run(&play.sim);
		sim_devices_run(&play.sim, 1);
	}
	REQUIRE(play_counter(&play, REALM_COUNTER_ssd_write_errors) >= 5);
	play_take_none(&play, 0);
	faults_end();
	sim_settle(&play.sim);
	REQUIRE_EQ(play_take(&play, 0).status, 0);
	play_restart(&play, true);
	REQUIRE_EQ(right_blocks(), 5);
	play_close(&play);
}

/* --------------------------------------------------------------------- tables that are damaged */

struct table_place {
	uint64_t offset; /* of its first byte on device 0 */
	uint64_t bytes;
	struct ssd_table_head head;
};

static uint8_t table_bytes[SSD_TABLE_UNITS_MAX * SSD_UNIT_BYTES];

/* The first table with entries of any segment. */
static void table_find(struct table_place *place, uint32_t entries_min)
{
	for (uint32_t segment = 0; segment < 8; segment++) {
		uint64_t end = SSD_SEGMENTS_AT + (segment + 1ull) * MIB - SSD_UNIT_BYTES;
		uint8_t unit[SSD_UNIT_BYTES];

		memory_devices_peek(
			play.sim.devices, 0, end - SSD_UNIT_BYTES, unit, SSD_UNIT_BYTES);
		memcpy(&place->head, unit + SSD_UNIT_BYTES - sizeof(place->head),
			sizeof(place->head));
		if (place->head.magic != SSD_TABLE_MAGIC || place->head.entry_count < entries_min)
			continue;
		place->bytes = (uint64_t)place->head.units * SSD_UNIT_BYTES;
		place->offset = end - place->bytes;
		memory_devices_peek(play.sim.devices, 0, place->offset, table_bytes, place->bytes);
		return;
	}
	REQUIRE(!"a table");
}

static void a_damaged_table_loses_its_records_and_is_counted(void)
{
	struct table_place place;
	struct ssd_status status;

	scene(NULL);
	REQUIRE_EQ(put(&chain, 0, 5), 5);
	REQUIRE_EQ(sync_now(), 0);
	table_find(&place, 5);
	table_bytes[100] ^= 1;
	memory_devices_poke(play.sim.devices, 0, place.offset, table_bytes, place.bytes);
	play_restart(&play, false);
	ssd_status_get(play.sim.keeper->ssd, &status);
	REQUIRE_EQ(status.tables_damaged, 1);
	REQUIRE_EQ(play_named(&play.clients[0], &chain), 0);
	REQUIRE_EQ(put(&chain, 0, 5), 5);
	demote_all();
	REQUIRE_EQ(right_blocks(), 5);
	play_close(&play);
}

/* Two labels change places and the table's sum is made anew: each record says that it is another
 * block. */
static void a_label_of_another_block_is_a_miss(void)
{
	struct table_place place;
	uint8_t *labels[16], copy[SSD_LABEL_MAX];
	uint32_t count = 0, bytes = 0;

	scene(NULL);
	sim_settle(&play.sim);
	REQUIRE_EQ(put(&chain, 0, 5), 5);
	REQUIRE_EQ(sync_now(), 0);
	table_find(&place, 5);
	for (uint32_t i = 0, at_byte = 0; i < place.head.entry_count; i++) {
		struct ssd_table_entry entry;
		struct label_head label;

		memcpy(&entry, table_bytes + at_byte, sizeof(entry));
		memcpy(&label, table_bytes + at_byte + sizeof(entry), sizeof(label));
		if (label.kind == LABEL_BLOCK && count < 16) {
			labels[count++] = table_bytes + at_byte + sizeof(entry);
			bytes = entry.label_bytes;
		}
		at_byte += (uint32_t)sizeof(entry) + (uint32_t)align_up(entry.label_bytes, 8);
	}
	REQUIRE_EQ(count, 5);
	memcpy(copy, labels[3], bytes);
	memcpy(labels[3], labels[1], bytes);
	memcpy(labels[1], copy, bytes);
	ssd_table_seal(table_bytes, &place.head);
	memory_devices_poke(play.sim.devices, 0, place.offset, table_bytes, place.bytes);
	play_restart(&play, false);
	/* It stands: only its bytes can tell. */
	REQUIRE_EQ(play_named(&play.clients[0], &chain), 5);
	REQUIRE_EQ(right_blocks(), 1);
	REQUIRE(play_counter(&play, REALM_COUNTER_blocks_quarantined) >= 1);
	REQUIRE_EQ(play_named(&play.clients[0], &chain), 1);
	REQUIRE_EQ(put(&chain, 1, 4), 4);
	demote_all();
	REQUIRE_EQ(right_blocks(), 5);
	play_close(&play);
}

int main(void)
{
	log_set_level(LOG_LEVEL_ERROR);
	an_inner_block_is_quarantined();
	an_inner_block_on_the_ssd_is_removed_by_command();
	a_space_is_purged();
	inner_blocks_are_lost_with_a_device();
	a_clean_restart_finds_all_that_was_durable();
	a_chain_of_several_lives_is_found();
	a_stepped_space_finds_nothing_of_its_old_version();
	a_space_that_is_being_stepped_is_not_forgotten();
	under_another_secret_nothing_is_found();
	a_lying_write_is_a_miss(MEMORY_FAULT_TORN);
	a_lying_write_is_a_miss(MEMORY_FAULT_LOST);
	a_lying_write_is_a_miss(MEMORY_FAULT_MISDIRECTED);
	a_lying_write_is_a_miss(MEMORY_FAULT_FLIPPED);
	reordered_writes_are_a_miss();
	a_failing_read_is_a_miss_and_no_more();
	a_flipped_read_is_a_miss();
	a_failing_write_is_done_again();
	a_damaged_table_loses_its_records_and_is_counted();
	a_label_of_another_block_is_a_miss();
	a_device_is_brought_back_by_command();
	a_restart_without_a_ledger_leaves_room_for_puts();
	without_a_device_dram_alone_serves();
	a_block_on_its_way_stays_when_the_last_device_fails();
	a_sync_under_way_is_told_when_the_last_device_fails();
	a_sync_waits_for_what_was_lost_before_it_was_durable();
	a_space_is_found_whenever_the_power_goes();
	of_two_lives_of_a_block_the_later_is_found();
	a_sync_waits_for_the_record_of_the_space();
	return 0;
}
