/* SPDX-License-Identifier: Apache-2.0 */
/* The log of segments where devices fail, hold what is not theirs, or memory ends. */
#include "tiering/ssd/format.h"
#include "tests/tiering/ssd/log_scene.h"

static void failing_devices_are_fenced(void)
{
	struct ssd_status status;
	uint32_t live;

	begin(2, 17 * MIB);
	put_many(60, 40);
	live = check_all();
	REQUIRE_EQ(live, 60);
	for (unsigned op = 0; op < 3; op++)
		memory_devices_fault(world.devices, 0, op, MEMORY_FAULT_ERROR, 1000000);
	for (uint32_t i = 0; i < 60; i++)
		if (world.records[i].live && record_get(&world.records[i]) == 0)
			settle();
	REQUIRE(ssd_device_fenced(world.ssd, 0) && !ssd_device_fenced(world.ssd, 1));
	REQUIRE(world.losts > 0);
	live = check_all();
	REQUIRE(live > 0 && live < 60);
	put_many(20, 40);
	REQUIRE(check_all() >= live);
	ssd_status_get(world.ssd, &status);
	REQUIRE_EQ(status.devices_fenced, 1);
	for (unsigned op = 0; op < 3; op++)
		memory_devices_fault(world.devices, 1, op, MEMORY_FAULT_ERROR, 1000000);
	for (unsigned i = 0; i < 20 && !ssd_device_fenced(world.ssd, 1); i++) {
		struct record *record = record_make(1, 8);

		if (record_put(record))
			continue;
		settle();
		REQUIRE(record->put_status == -EIO && !record->live);
	}
	REQUIRE_EQ(record_put(record_make(1, 8)), -EROFS);
	REQUIRE_EQ(check_all(), 0);
	memory_devices_faults_end(world.devices);
	REQUIRE_EQ(ssd_device_unfence(world.ssd, 0), 0);
	REQUIRE_EQ(ssd_device_unfence(world.ssd, 1), 0);
	REQUIRE_EQ(ssd_device_unfence(world.ssd, 2), -ENODEV);
	ssd_status_get(world.ssd, &status);
	REQUIRE_EQ(status.segments_free, status.segments);
	put_many(10, 40);
	REQUIRE_EQ(check_all(), 10);
	end();
}

static void a_table_that_cannot_be_written_is_told(void)
{
	begin(1, 17 * MIB);
	world.moves = true;
	put_many(5, 4);
	memory_devices_fault(world.devices, 0, SSD_OP_FLUSH, MEMORY_FAULT_ERROR, 1000000);
	REQUIRE_EQ(sync_all(), -EIO);
	memory_devices_faults_end(world.devices);
	/* The records can be read, and are asked for so that they go where they are safe. */
	ssd_tick(world.ssd, world.now += NS_PER_S);
	settle();
	REQUIRE_EQ(check_all(), 5);
	REQUIRE(world.reclaims > 0);
	REQUIRE_EQ(sync_all(), 0);
	REQUIRE_EQ(restart(true), 5);
	REQUIRE_EQ(check_all(), 5);
	end();
}

/* A table was written, but not flushed, when the daemon ended: what its successor finds in it, and
 * calls durable, must outlast a loss of power. */
static void what_a_restart_has_found_is_durable(void)
{
	struct waiter waiter = {.sync.done = sync_done, .status = 1};
	uint64_t writes;

	begin(1, 17 * MIB);
	put_many(5, 4);
	writes = memory_devices_counts(world.devices).writes;
	ssd_sync(world.log, &waiter.sync);
	while (memory_devices_counts(world.devices).writes == writes) {
		ssd_kick(world.ssd);
		REQUIRE(memory_devices_step(world.devices));
	}
	memory_devices_fault(world.devices, 0, SSD_OP_FLUSH, MEMORY_FAULT_ERROR, 1000000);
	settle();
	REQUIRE_EQ(waiter.status, -EIO);
	memory_devices_faults_end(world.devices);
	REQUIRE_EQ(restart(true), 5);
	REQUIRE_EQ(sync_all(), 0);
	memory_devices_power_cut(world.devices);
	settle();
	memory_devices_power_on(world.devices);
	REQUIRE_EQ(restart(true), 5);
	REQUIRE_EQ(check_all(), 5);
	end();
}

/* Puts and drops until every segment that could be reused has been. */
static void log_turn(void)
{
	for (unsigned i = 0; i < 8; i++) {
		uint32_t first = world.record_count;

		put_many(30, 20);
		records_drop(first, world.record_count);
	}
	settle();
}

/* Record 0 is durable, was moved, and the table of its new place could not be written. */
static void move_unsafely(void)
{
	begin(1, 17 * MIB);
	put_many(20, 20); /* the first twelve fill the first segment */
	REQUIRE_EQ(sync_all(), 0);
	REQUIRE_EQ(record_move(&world.records[0]), 0);
	settle();
	records_drop(1, 20);
	memory_devices_fault(world.devices, 0, SSD_OP_FLUSH, MEMORY_FAULT_ERROR, 1000000);
	world.ignores = true;
	REQUIRE_EQ(sync_all(), -EIO);
	memory_devices_faults_end(world.devices);
}

static void the_old_place_is_kept_where_the_new_one_failed(void)
{
	move_unsafely();
	log_turn();
	world.dead_known = true;
	memory_devices_power_cut(world.devices);
	settle();
	memory_devices_power_on(world.devices);
	restart(true);
	REQUIRE(world.records[0].live);
	REQUIRE(check_all() > 0);
	end();
}

static void the_old_place_is_given_up_for_the_last_room(void)
{
	struct ssd_status status;
	int put;

	move_unsafely();
	while ((put = record_put(record_make(50, 8))) == 0 || put == -EAGAIN)
		settle();
	REQUIRE_EQ(put, -ENOSPC);
	ssd_status_get(world.ssd, &status);
	REQUIRE_EQ(status.moves_given_up, 0);
	/* The reserve of the moves is taken, and then what was kept. */
	world.ignores = false;
	world.moves = true;
	for (uint32_t i = 1; i < world.record_count; i++)
		if (world.records[i].live && record_move(&world.records[i]) == 0)
			settle();
	ssd_status_get(world.ssd, &status);
	REQUIRE_EQ(status.moves_given_up, 1);
	check_all();
	end();
}

static void the_old_place_goes_when_the_record_is_safe(void)
{
	struct ssd_status before, after;

	move_unsafely();
	ssd_status_get(world.ssd, &before);
	world.ignores = false;
	world.moves = true;
	ssd_tick(world.ssd, world.now += NS_PER_S);
	settle();
	REQUIRE_EQ(sync_all(), 0);
	ssd_status_get(world.ssd, &after);
	/* The old place and the one that broke; one was taken for the new one. */
	REQUIRE_EQ(after.segments_free, before.segments_free + 1);
	REQUIRE_EQ(after.moves_given_up, 0);
	REQUIRE_EQ(check_all(), 1);
	end();
}

static void a_foreign_set_is_not_touched(void)
{
	uint8_t unit[UNIT], before[UNIT];
	uint32_t version = 2;

	begin(2, 17 * MIB);
	ssd_destroy(world.ssd);
	memory_devices_peek(world.devices, 0, 0, before, UNIT);
	memcpy(unit, before, UNIT);
	memcpy(unit + 8, &version, 4);
	memory_devices_poke(world.devices, 0, 0, unit, UNIT);
	REQUIRE_EQ(open_status(34 * MIB), -EMEDIUMTYPE);
	memory_devices_peek(world.devices, 0, 0, before, UNIT);
	REQUIRE(memcmp(unit, before, UNIT) == 0);
	memcpy(unit + 8, &(uint32_t){1}, 4);
	unit[40] ^= 1;
	memory_devices_poke(world.devices, 0, 0, unit, UNIT);
	REQUIRE_EQ(open_status(34 * MIB), -EIO);
	memset(unit, 0, UNIT);
	memory_devices_poke(world.devices, 0, 0, unit, UNIT);
	REQUIRE_EQ(open_status(34 * MIB), -EXDEV);
	memory_devices_poke(world.devices, 1, 0, unit, UNIT);
	REQUIRE_EQ(open_status(34 * MIB), 0);
	REQUIRE_EQ(recover(true), 0);
	end();
}

/* Whatever lies before the first segment is somebody's. */
static void what_is_not_empty_is_not_taken(void)
{
	static const uint64_t places[] = {0, 1024, 64 << 10, SSD_SEGMENTS_AT - 1};
	uint8_t unit[UNIT] = {0}, after[UNIT];

	devices_make(2, 17 * MIB);
	for (unsigned i = 0; i < ARRAY_COUNT(places); i++) {
		uint64_t at = places[i] - places[i] % UNIT;

		unit[places[i] % UNIT] = 0x53;
		memory_devices_poke(world.devices, 1, at, unit, UNIT);
		REQUIRE_EQ(open_status(34 * MIB), -ENOTEMPTY);
		memory_devices_peek(world.devices, 1, at, after, UNIT);
		REQUIRE(memcmp(unit, after, UNIT) == 0);
		memory_devices_peek(world.devices, 0, 0, after, UNIT);
		unit[places[i] % UNIT] = 0;
		REQUIRE(memcmp(unit, after, UNIT) == 0);
		memory_devices_poke(world.devices, 1, at, unit, UNIT);
	}
	REQUIRE_EQ(open_status(34 * MIB), 0);
	REQUIRE_EQ(recover(true), 0);
	end();
}

static void no_memory_leaks_nothing(void)
{
	devices_make(1, 17 * MIB);
	for (unsigned nth = 1;; nth++) {
		const struct ssd_found *found;
		int64_t count = -ENOMEM;
		int status;

		memory_fail_after(nth, 0);
		status = open_status(17 * MIB);
		if (status == 0) {
			count = ssd_recover(world.ssd, &found);
			if (count < 0)
				ssd_destroy(world.ssd);
		}
		memory_fail_after(0, 0);
		REQUIRE(status == 0 || status == -ENOMEM);
		REQUIRE(count >= 0 || count == -ENOMEM);
		if (count >= 0) {
			REQUIRE(nth > 10);
			ssd_recover_end(world.ssd);
			put_many(3, 3);
			REQUIRE_EQ(sync_all(), 0);
			break;
		}
	}
	end();
}

int main(void)
{
	log_set_level(LOG_LEVEL_ERROR);
	failing_devices_are_fenced();
	a_table_that_cannot_be_written_is_told();
	for (devices_seed = 16; devices_seed > 0; devices_seed--)
		what_a_restart_has_found_is_durable();
	devices_seed = 1;
	the_old_place_is_kept_where_the_new_one_failed();
	the_old_place_is_given_up_for_the_last_room();
	the_old_place_goes_when_the_record_is_safe();
	a_foreign_set_is_not_touched();
	what_is_not_empty_is_not_taken();
	no_memory_leaks_nothing();
	return 0;
}
