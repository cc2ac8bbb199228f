/* SPDX-License-Identifier: Apache-2.0 */
/* The log of segments, promise by promise, on devices in memory. */
#include "tests/tiering/ssd/log_scene.h"

static void bytes_come_back(void)
{
	begin(1, 32 * MIB);
	put_many(50, 3);
	REQUIRE_EQ(check_all(), 50);
	REQUIRE_EQ(sync_all(), 0);
	REQUIRE_EQ(restart(true), 50);
	REQUIRE_EQ(check_all(), 50);
	end();
}

static void neighbours_travel_together(void)
{
	struct memory_counts before, after;

	begin(1, 32 * MIB);
	put_many(1, 1); /* the opening is written */
	before = memory_devices_counts(world.devices);
	for (uint32_t i = 0; i < 100; i++)
		REQUIRE_EQ(record_put(record_make(1, 8)), 0);
	settle();
	after = memory_devices_counts(world.devices);
	/* 64 pieces, 36 pieces, and the opening of the next segment. */
	REQUIRE_EQ(after.writes - before.writes, 3);
	for (uint32_t i = 0; i < 101; i++)
		REQUIRE_EQ(record_get(&world.records[i]), 0);
	settle();
	before = memory_devices_counts(world.devices);
	REQUIRE_EQ(before.reads - after.reads, 2);
	for (uint32_t i = 0; i < 101; i++)
		REQUIRE_EQ(world.records[i].get_status, 0);
	end();
}

static void a_long_record_is_cut(void)
{
	struct iovec pieces[128];
	struct record *record;

	devices_make(1, 129 * MIB);
	REQUIRE_EQ(open_status(129 * MIB), 0);
	REQUIRE_EQ(recover(true), 0);
	record = record_make(250, 64);
	REQUIRE_EQ(record_put(record), 0);
	settle();
	REQUIRE_EQ(record->put_status, 0);
	for (unsigned i = 0; i < 125; i++)
		pieces[i] = (struct iovec){record->bytes + (size_t)i * 2 * UNIT, 2 * UNIT};
	record->get.pieces = pieces;
	record->get.piece_count = 125;
	REQUIRE_EQ(check_all(), 1);
	REQUIRE_EQ(record_put(record_make(256, 8)), -EFBIG);
	end();
}

static void reclaim_keeps_what_lives(void)
{
	begin(1, 17 * MIB);
	world.moves = true;
	/* Twenty times the device, of which a quarter lives at any time. */
	for (unsigned round = 0; round < 40; round++) {
		uint32_t first = world.record_count;

		put_many(80, 16);
		for (uint32_t i = first; i < world.record_count; i++)
			if (i % 40) {
				world.records[i].live = false;
				ssd_drop(world.log, world.records[i].at, 16);
			}
		if (world.record_count > RECORDS_MAX - 80)
			break;
	}
	REQUIRE(world.reclaims > 0 && world.freed_count > 0);
	REQUIRE_EQ(check_all(), world.record_count / 40);
	REQUIRE_EQ(sync_all(), 0);
	world.dead_known = true;
	REQUIRE_EQ(restart(true), world.record_count / 40);
	REQUIRE_EQ(check_all(), world.record_count / 40);
	end();
}

/* One record a segment, however often it is moved: there is nothing to be gained. */
static void idle_records_are_not_moved_in_circles(void)
{
	struct ssd_log_status status;

	begin(1, 9 * MIB);
	world.moves = true;
	put_many(6, 150); /* of eight segments; three are to be free */
	for (unsigned i = 0; i < 100; i++) {
		world.now += NS_PER_S;
		ssd_tick(world.ssd, world.now);
		settle();
	}
	ssd_log_status_get(world.log, &status);
	REQUIRE_EQ(status.segments_max, 8);
	REQUIRE(world.reclaims > 0 && status.moved_bytes <= 2 * status.live_bytes);
	REQUIRE_EQ(check_all(), 6);
	end();
}

/* Many tables a segment, some of several units, each as full as the payloads let it be. */
static void tables_and_payloads_share_a_segment(void)
{
	static uint8_t label[SSD_LABEL_MAX + 1];
	unsigned records = 0;

	begin(1, 33 * MIB);
	for (unsigned i = 0; i < 900; i++) {
		struct record *record = record_make(1 + i % 3, 8);
		int status;

		memcpy(label, record->label, 8);
		record->put.label = label;
		record->put.label_bytes = i % 5 ? 8 + i % 3000 : SSD_LABEL_MAX;
		while ((status = record_put(record)) == -EAGAIN)
			settle();
		REQUIRE_EQ(status, 0);
		records++;
		if (i % 37 == 0)
			REQUIRE_EQ(sync_all(), 0);
	}
	REQUIRE_EQ(sync_all(), 0);
	REQUIRE_EQ(check_all(), records);
	REQUIRE_EQ(restart(true), records);
	REQUIRE_EQ(check_all(), records);
	end();
}

static void limits_are_told(void)
{
	static uint8_t label[SSD_LABEL_MAX + 1];
	struct record *record;

	begin(1, 32 * MIB);
	record = record_make(1, 8);
	record->put.label = label;
	record->put.label_bytes = SSD_LABEL_MAX + 1;
	REQUIRE_EQ(record_put(record), -E2BIG);
	/* A segment of 256 units, less its opening and the table that the record needs. */
	REQUIRE_EQ(record_put(record_make(256, 8)), -EFBIG);
	REQUIRE_EQ(record_put(record_make(253, 8)), -EFBIG);
	REQUIRE_EQ(record_put(record_make(252, 8)), 0);
	end();
}

static void too_much_under_way_is_refused_until_room(void)
{
	unsigned taken = 0;

	devices_make(1, 129 * MIB);
	REQUIRE_EQ(open_status(129 * MIB), 0);
	REQUIRE_EQ(recover(true), 0);
	for (;; taken++) {
		int status = record_put(record_make(64, 8));

		if (status) {
			REQUIRE_EQ(status, -EAGAIN);
			break;
		}
	}
	REQUIRE(taken >= 3 && world.rooms == 0);
	settle();
	REQUIRE(world.rooms > 0);
	REQUIRE_EQ(record_put(record_make(64, 8)), 0);
	settle();
	REQUIRE_EQ(check_all(), taken + 1);
	end();
}

/* Nobody drops anything: puts end before moves do, and go on when something was dropped. */
static void a_full_log_refuses_until_room(void)
{
	struct ssd_log_status status;
	int put;

	begin(1, 17 * MIB);
	world.owner.reclaim = NULL;
	ssd_destroy(world.ssd);
	world.owner = (struct tier_owner){.arg = &world, .room = owner_room};
	REQUIRE_EQ(open_status(17 * MIB), 0);
	REQUIRE_EQ(recover(true), 0);
	while ((put = record_put(record_make(50, 8))) == 0 || put == -EAGAIN)
		settle();
	REQUIRE_EQ(put, -ENOSPC);
	REQUIRE_EQ(sync_all(), 0);
	ssd_log_status_get(world.log, &status);
	REQUIRE_EQ(status.segments_free, 2);
	REQUIRE(status.live_bytes > status.live_max);
	REQUIRE_EQ(record_move(&world.records[0]), 0);
	settle();
	REQUIRE_EQ(world.records[0].put_status, 0);
	world.rooms = 0;
	for (uint32_t i = 0; i < 20; i++)
		if (world.records[i].live) {
			world.records[i].live = false;
			ssd_drop(world.log, world.records[i].at, 50);
		}
	REQUIRE_EQ(sync_all(), 0);
	REQUIRE(world.rooms > 0);
	REQUIRE_EQ(record_put(record_make(50, 8)), 0);
	end();
}

static void what_was_moved_is_durable_before_its_old_place_is_free(void)
{
	struct ssd_status before, after;
	uint32_t old;

	begin(1, 17 * MIB);
	put_many(20, 20); /* the first twelve fill the first segment */
	REQUIRE_EQ(sync_all(), 0);
	ssd_status_get(world.ssd, &before);
	old = world.records[0].at / 256;
	REQUIRE_EQ(record_move(&world.records[0]), 0);
	settle();
	REQUIRE(world.records[0].at / 256 != old);
	for (uint32_t i = 1; i < 20; i++)
		if (world.records[i].at / 256 == old) {
			world.records[i].live = false;
			ssd_drop(world.log, world.records[i].at, 20);
		}
	settle();
	ssd_status_get(world.ssd, &after);
	REQUIRE_EQ(after.segments_free, before.segments_free);
	REQUIRE_EQ(sync_all(), 0);
	ssd_status_get(world.ssd, &after);
	REQUIRE_EQ(after.segments_free, before.segments_free + 1);
	end();
}

static void a_log_has_its_own_and_no_more(void)
{
	struct ssd_options options;
	struct ssd_log *logs[3];
	struct ssd_log_status status;
	char why[256];

	devices_make(1, 25 * MIB);
	options =
		(struct ssd_options){.io = memory_devices_io(world.devices), .segment_bytes = MIB};
	world.owner = (struct tier_owner){.arg = &world, .room = owner_room};
	REQUIRE_EQ(ssd_create(&options, &world.ssd, why, sizeof(why)), 0);
	REQUIRE_EQ(ssd_log_open(world.ssd, "one", 12 * MIB, &world.owner, &logs[0]), 0);
	REQUIRE_EQ(ssd_log_open(world.ssd, "one", 8 * MIB, &world.owner, &logs[1]), -EEXIST);
	REQUIRE_EQ(ssd_log_open(world.ssd, "two", 14 * MIB, &world.owner, &logs[1]), -ENOSPC);
	REQUIRE_EQ(ssd_log_open(world.ssd, "two", 13 * MIB, &world.owner, &logs[1]), 0);
	REQUIRE_EQ(ssd_log_open(world.ssd, "three", 0, &world.owner, &logs[2]), -ENOSPC);
	REQUIRE_EQ(recover(true), 0);
	world.log = logs[0];
	for (int put = 0; put != -ENOSPC; settle())
		put = record_put(record_make(100, 8));
	ssd_log_status_get(logs[1], &status);
	REQUIRE_EQ(status.segments_free, 12);
	REQUIRE_EQ(status.segments_max, 12);
	world.log = logs[1];
	REQUIRE_EQ(record_put(record_make(100, 8)), 0);
	REQUIRE_EQ(sync_all(), 0);
	/* The first log is not opened any more: what it had is free. */
	ssd_destroy(world.ssd);
	REQUIRE_EQ(ssd_create(&options, &world.ssd, why, sizeof(why)), 0);
	REQUIRE_EQ(ssd_log_open(world.ssd, "two", 25 * MIB, &world.owner, &world.log), 0);
	for (uint32_t i = 0; i < world.record_count; i++)
		world.records[i].live = false;
	REQUIRE_EQ(recover(true), 1);
	ssd_log_status_get(world.log, &status);
	REQUIRE_EQ(status.segments_free, 23);
	REQUIRE_EQ(check_all(), 1);
	end();
}

int main(void)
{
	log_set_level(LOG_LEVEL_ERROR);
	bytes_come_back();
	neighbours_travel_together();
	a_long_record_is_cut();
	tables_and_payloads_share_a_segment();
	reclaim_keeps_what_lives();
	idle_records_are_not_moved_in_circles();
	limits_are_told();
	too_much_under_way_is_refused_until_room();
	a_full_log_refuses_until_room();
	what_was_moved_is_durable_before_its_old_place_is_free();
	a_log_has_its_own_and_no_more();
	return 0;
}
