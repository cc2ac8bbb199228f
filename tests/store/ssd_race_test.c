/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happens to a block while a transfer of it is under way: its first write, its move to another
 * segment, its load. Removed, evicted, shed, demoted, lost with its device: the transfer ends well,
 * nothing of it stays behind, and the block can be put again.
 */
#include <errno.h>

#include "base/log.h"
#include "tests/store/play.h"

enum { BLOCK = 64 << 10, MIB = 1 << 20 };

static struct play play;
static struct play_chain chain, single;

static const struct sim_space one = {
	.name = "one", .block_tokens = 4, .part_count = 1, .bytes = {BLOCK}, .ranges = {4}};

static const uint32_t nine[] = {11, 12, 13, 14, 15, 16, 17, 18, 19, 0};

static void scene(unsigned devices)
{
	struct sim_options options = {.dram_bytes = 16 * MIB,
		.use_max = 40 * BLOCK,
		.index_blocks = 512,
		.age_limit_ns = NS_PER_S,
		.ssd = {.bytes = devices * 8 * MIB, .devices = devices, .errors_max = 1}};

	play_open(&play, &options, &one, 2);
	play_chain(&play, &chain, nine);
	sim_settle(&play.sim);
}

static uint32_t put(struct play_chain *of, uint32_t first, uint32_t count)
{
	return play_put_blocks(&play.sim, &play.clients[0], of, (struct probe_want){first, count});
}

static uint32_t slot_of(uint32_t block)
{
	return play_slot(&play.clients[0], &chain, block);
}

static bool has(uint32_t block, unsigned flag)
{
	return play.realm->index.slots[slot_of(block)].flags & flag;
}

static void demote_all(void)
{
	sim_settle(&play.sim);
	evict_bytes(play.realm, UINT64_MAX);
	play_books_agree(play.realm);
}

/* The log asks for the segment of the block to be emptied. */
static void move_begin(uint32_t block)
{
	uint32_t units = MIB / SSD_UNIT_BYTES, at = play.realm->index.ssd_at[slot_of(block)];

	play.realm->ssd.owner.reclaim(play.realm, at / units * units, units);
	REQUIRE(has(block, SLOT_WRITING));
	play_books_agree(play.realm);
}

static void remove_from(uint32_t block)
{
	remove_subtree(play.realm, slot_of(block), SKEP_REASON_REMOVED);
	play_books_agree(play.realm);
	REQUIRE_EQ(play_named(&play.clients[0], &chain), block);
}

/* Whatever is left is right, and the rest can be put again. */
static void ends_well(uint32_t named)
{
	sim_settle(&play.sim);
	play_books_agree(play.realm);
	REQUIRE_EQ(play_named(&play.clients[0], &chain), named);
	REQUIRE_EQ(play.realm->removed.count, 0);
	REQUIRE_EQ(put(&chain, 0, 9), 9);
	demote_all();
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 9), 9);
	play_close(&play);
}

/* A device that fails at its next transfer and is fenced at once. */
static void device_fails(unsigned device)
{
	for (enum ssd_op op = SSD_OP_READ; op <= SSD_OP_FLUSH; op++)
		memory_devices_fault(play.sim.devices, device, op, MEMORY_FAULT_ERROR, 1000000);
}

static unsigned device_of(uint32_t block)
{
	/* Segments are counted device after device. */
	struct ssd_status status;
	uint32_t units = MIB / SSD_UNIT_BYTES;

	ssd_status_get(play.sim.keeper->ssd, &status);
	return play.realm->index.ssd_at[slot_of(block)] / units / (status.segments / 2);
}

/* ------------------------------------------------------------------------------ first write */

static void a_block_is_removed_while_it_is_written(void)
{
	scene(1);
	REQUIRE_EQ(put(&chain, 0, 4), 4);
	REQUIRE(has(2, SLOT_WRITING));
	remove_from(2);
	REQUIRE_EQ(play.realm->removed.count, 2); /* the device still reads their frames */
	ends_well(2);
}

static void a_block_is_removed_and_put_again_while_it_is_written(void)
{
	scene(1);
	REQUIRE_EQ(put(&chain, 0, 4), 4);
	remove_from(2);
	REQUIRE_EQ(put(&chain, 2, 2), 2);
	play_books_agree(play.realm);
	ends_well(4);
}

static void a_block_whose_write_fails_is_removed(void)
{
	scene(2);
	REQUIRE_EQ(put(&chain, 0, 4), 4);
	remove_from(1);
	device_fails(0);
	device_fails(1);
	sim_devices_run(&play.sim, 1);
	memory_devices_faults_end(play.sim.devices);
	ends_well(1);
}

static void what_is_being_written_is_not_shed(void)
{
	struct play_put ask = {.chain = &single, .count = 1};
	static struct play_reserved reserved;
	int32_t status;

	scene(1);
	dram_use_max_set(play.realm->dram, 9 * BLOCK);
	REQUIRE_EQ(put(&chain, 0, 9), 9);
	play_chain(&play, &single, (const uint32_t[]){7, 0});
	ask.deadline_ns = play.sim.keeper->now_ns + NS_PER_MS;
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[0], &ask, &reserved), PLAY_BLOCKED);
	REQUIRE_EQ(reserved.count, UINT32_MAX);
	play_later(&play, NS_PER_MS);
	/* All frames are being read by the device: it is refused, and nothing is lost. */
	REQUIRE(play_reserve_answered(&play.clients[0], &ask, &reserved, &status));
	REQUIRE_EQ(status, -EAGAIN);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_shed), 0);
	dram_use_max_set(play.realm->dram, 0);
	ends_well(9);
}

/* ------------------------------------------------------------------------------------- move */

static void moving(unsigned devices)
{
	scene(devices);
	REQUIRE_EQ(put(&chain, 0, 5), 5);
	sim_settle(&play.sim);
	play_sync(&play.clients[0], CLOCK_NEVER);
	sim_settle(&play.sim);
	REQUIRE_EQ(play_take(&play, 0).status, 0);
}

static void a_block_is_demoted_while_it_is_moved(void)
{
	moving(1);
	move_begin(2);
	evict_bytes(play.realm, UINT64_MAX);
	REQUIRE_EQ(play_used_bytes(&play), 0);
	play_books_agree(play.realm);
	sim_settle(&play.sim);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_moved), 5);
	ends_well(5);
}

static void a_block_is_removed_while_it_is_moved(void)
{
	for (unsigned stage = 0; stage < 4; stage++) {
		moving(1);
		evict_bytes(play.realm, stage % 2 ? UINT64_MAX : 1);
		move_begin(2);
		sim_devices_run(&play.sim, stage);
		remove_from(2);
		if (stage / 2)
			REQUIRE_EQ(put(&chain, 2, 2), 2);
		ends_well(stage / 2 ? 4 : 2);
	}
}

static void a_block_is_not_evicted_while_it_is_moved(void)
{
	moving(1);
	demote_all();
	move_begin(4);
	REQUIRE_EQ(evict_blocks(play.realm, UINT32_MAX), 0);
	play_books_agree(play.realm);
	sim_settle(&play.sim);
	REQUIRE_EQ(evict_blocks(play.realm, 1), 1);
	ends_well(4);
}

static void a_block_is_loaded_while_it_is_moved(void)
{
	struct play_load load = {.count = 5, .cell = 1, .deadline_ns = CLOCK_NEVER};

	moving(1);
	demote_all();
	move_begin(0);
	play_load(&play.clients[0], &chain, &load);
	sim_run(&play.sim);
	REQUIRE(has(0, SLOT_WRITING) && has(0, SLOT_LOADING));
	play_books_agree(play.realm);
	sim_settle(&play.sim);
	REQUIRE_EQ(play_take(&play, 0).status, 5);
	play_loaded_holds(&play.clients[0], &chain, &load);
	pin_clear(&sim_pins(&play.clients[0])[1]);
	ends_well(5);
}

static void a_block_is_moved_and_removed_while_it_is_loaded(void)
{
	struct play_load load = {.count = 5, .cell = 1, .deadline_ns = CLOCK_NEVER};

	moving(1);
	demote_all();
	play_load(&play.clients[0], &chain, &load);
	sim_run(&play.sim);
	move_begin(3);
	remove_from(2);
	sim_settle(&play.sim);
	REQUIRE_EQ(play_take(&play, 0).status, 2);
	load.count = 2;
	play_loaded_holds(&play.clients[0], &chain, &load);
	pin_clear(&sim_pins(&play.clients[0])[1]);
	ends_well(2);
}

/* In DRAM it is to be written again, which waits for the end of the move. */
static void the_record_of_a_block_is_lost_while_it_is_moved(void)
{
	for (unsigned demoted = 0; demoted < 2; demoted++) {
		unsigned device;

		moving(2);
		if (demoted)
			demote_all();
		device = device_of(2);
		REQUIRE_EQ(device_of(0), device);
		move_begin(2);
		device_fails(device);
		while (!ssd_device_fenced(play.sim.keeper->ssd, device))
			REQUIRE_EQ(sim_devices_run(&play.sim, 1), 1);
		memory_devices_faults_end(play.sim.devices);
		play_books_agree(play.realm);
		sim_run(&play.sim);
		play_books_agree(play.realm);
		ends_well(demoted ? 0 : 5);
	}
}

/* A leaf that is unwritten again and still moved is not shed before the move has ended. */
static void a_block_whose_record_was_lost_is_not_shed_while_it_is_moved(void)
{
	uint32_t tried = 0;

	for (unsigned seed = 0; seed < 12; seed++) {
		unsigned device;

		moving(2);
		device = device_of(4);
		move_begin(4);
		/* Read, and on its way to its new place. */
		sim_devices_run(&play.sim, 1 + seed);
		device_fails(device);
		for (unsigned i = 0; i < 100 && !ssd_device_fenced(play.sim.keeper->ssd, device);
			i++) {
			play_chain(&play, &single, (const uint32_t[]){100 + i, 0});
			REQUIRE_EQ(put(&single, 0, 1), 1);
			sim_devices_run(&play.sim, 1);
		}
		memory_devices_faults_end(play.sim.devices);
		if (has(4, SLOT_WRITING) && has(4, SLOT_DIRTY)) {
			REQUIRE(play.realm->ssd.dirty.count > 0);
			while (evict_shed(play.realm))
				play_books_agree(play.realm);
			REQUIRE(has(4, SLOT_WRITING));
			tried++;
		}
		sim_settle(&play.sim);
		ends_well(play_named(&play.clients[0], &chain));
	}
	REQUIRE(tried > 0);
}

/* ------------------------------------------------------------------------------------- load */

static void a_block_is_removed_while_it_is_loaded(void)
{
	for (unsigned parent = 0; parent < 3; parent++) {
		struct play_load load = {.count = 5, .cell = 1, .deadline_ns = CLOCK_NEVER};

		moving(1);
		demote_all();
		play_load(&play.clients[0], &chain, &load);
		play_load(&play.clients[1], &chain, &load);
		sim_run(&play.sim);
		REQUIRE(has(2, SLOT_LOADING));
		remove_from(parent);
		if (parent == 2)
			REQUIRE_EQ(put(&chain, 2, 2), 2);
		sim_settle(&play.sim);
		load.count = parent;
		for (unsigned i = 0; i < 2; i++) {
			REQUIRE_EQ(play_take(&play, i).status, parent ? (int)parent : -ENOENT);
			if (parent)
				play_loaded_holds(&play.clients[i], &chain, &load);
			pin_clear(&sim_pins(&play.clients[i])[1]);
		}
		ends_well(parent == 2 ? 4 : parent);
	}
}

/* The first blocks of the run have come, the load waits for the last: then the second goes. */
static void a_block_that_came_is_removed_while_the_load_goes_on(void)
{
	struct play_load load = {.count = 5, .cell = 1, .deadline_ns = CLOCK_NEVER};

	moving(1);
	demote_all();
	REQUIRE_EQ(play_load_now(&play, 0, &chain, 4), 4);
	play_load(&play.clients[1], &chain, &load);
	sim_run(&play.sim);
	REQUIRE(has(4, SLOT_LOADING));
	remove_from(1);
	/* Its slot may be another's by the time of the answer. */
	play_chain(&play, &single, (const uint32_t[]){7, 8, 9, 0});
	REQUIRE_EQ(put(&single, 0, 3), 3);
	sim_settle(&play.sim);
	REQUIRE_EQ(play_take(&play, 1).status, 1);
	load.count = 1;
	play_loaded_holds(&play.clients[1], &chain, &load);
	pin_clear(&sim_pins(&play.clients[1])[1]);
	ends_well(1);
}

static void the_device_of_a_block_fails_while_it_is_loaded(void)
{
	struct play_load load = {.count = 5, .cell = 1, .deadline_ns = CLOCK_NEVER};
	unsigned device;

	moving(2);
	demote_all();
	device = device_of(0);
	play_load(&play.clients[0], &chain, &load);
	sim_run(&play.sim);
	device_fails(device);
	while (!ssd_device_fenced(play.sim.keeper->ssd, device))
		REQUIRE_EQ(sim_devices_run(&play.sim, 1), 1);
	memory_devices_faults_end(play.sim.devices);
	play_books_agree(play.realm);
	sim_settle(&play.sim);
	REQUIRE(play_take(&play, 0).status < 0);
	ends_well(0);
}

int main(void)
{
	log_set_level(LOG_LEVEL_ERROR);
	a_block_is_removed_while_it_is_written();
	a_block_is_removed_and_put_again_while_it_is_written();
	a_block_whose_write_fails_is_removed();
	what_is_being_written_is_not_shed();
	a_block_is_demoted_while_it_is_moved();
	a_block_is_removed_while_it_is_moved();
	a_block_is_not_evicted_while_it_is_moved();
	a_block_is_loaded_while_it_is_moved();
	a_block_is_moved_and_removed_while_it_is_loaded();
	the_record_of_a_block_is_lost_while_it_is_moved();
	a_block_whose_record_was_lost_is_not_shed_while_it_is_moved();
	a_block_is_removed_while_it_is_loaded();
	the_device_of_a_block_fails_while_it_is_loaded();
	a_block_that_came_is_removed_while_the_load_goes_on();
	return 0;
}
