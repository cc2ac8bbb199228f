/* SPDX-License-Identifier: Apache-2.0 */
/* The log of segments, promise by promise, on devices in memory. */
#include <errno.h>

#include "base/memory.h"
#include "base/log.h"
#include "tests/base/unit.h"
#include "tests/tiering/ssd/memory_device.h"
#include "tiering/ssd/ssd.h"

enum {
	MIB = 1 << 20,
	RECORDS_MAX = 4096,
	UNIT = SSD_UNIT_BYTES,
	DEAD_MAX = 65536,
};

/* A record of the test's: its bytes are a function of the key in its label. */
struct record {
	struct ssd_put put;
	struct ssd_get get;
	struct iovec piece;
	uint64_t label[8];
	uint32_t label_bytes;
	uint8_t *bytes;
	uint32_t at, units;
	bool live, writing, reading;
	int put_status, get_status;
};

struct world {
	struct memory_devices *devices;
	struct ssd *ssd;
	struct ssd_log *log;
	struct tier_owner owner;
	struct record records[RECORDS_MAX];
	uint32_t record_count;
	unsigned rooms, reclaims, losts;
	bool moves; /* the owner moves what is reclaimed; else it drops it */
	uint64_t now;
	uint64_t dead_sequence[DEAD_MAX];
	uint32_t dead_unit[DEAD_MAX], dead_count, freed_count;
	bool dead_known;
};

static struct world world;

/* ---------------------------------------------------------------------------------- owner */

static uint64_t word(uint64_t key, uint64_t at)
{
	return mix64(key ^ mix64(at));
}

static void put_done(struct ssd_put *put, int status)
{
	struct record *record = (struct record *)((char *)put - offsetof(struct record, put));

	REQUIRE(record->writing);
	record->writing = false;
	record->put_status = status;
	if (status == 0) {
		if (record->live)
			ssd_drop(world.log, record->at, record->units);
		record->at = put->at;
		record->units = put->units;
		record->live = true;
	}
}

static int get_check(struct ssd_get *get)
{
	struct record *record = (struct record *)((char *)get - offsetof(struct record, get));
	uint64_t key = record->label[0];

	for (uint64_t at = 0; at < record->piece.iov_len; at += 512)
		if (*(uint64_t *)(record->bytes + at) != word(key, at))
			return -EBADMSG;
	return 0;
}

static void get_done(struct ssd_get *get, int status)
{
	struct record *record = (struct record *)((char *)get - offsetof(struct record, get));

	REQUIRE(record->reading);
	record->reading = false;
	record->get_status = status;
}

static int record_move(struct record *record)
{
	int status;

	record->put.label = record->label;
	record->put.label_bytes = record->label_bytes;
	record->put.done = put_done;
	status = ssd_move(world.log, record->at, record->units, &record->put);
	if (status == 0)
		record->writing = true;
	return status;
}

static void owner_reclaim(void *arg, uint32_t at, uint32_t units)
{
	REQUIRE(arg == &world);
	world.reclaims++;
	for (uint32_t i = 0; i < world.record_count; i++) {
		struct record *record = &world.records[i];

		if (!record->live || record->writing || record->at < at || record->at >= at + units)
			continue;
		if (world.moves) {
			record_move(record);
		} else {
			record->live = false;
			ssd_drop(world.log, record->at, record->units);
		}
	}
}

static void owner_lost(void *arg, uint32_t at, uint32_t units)
{
	REQUIRE(arg == &world);
	world.losts++;
	for (uint32_t i = 0; i < world.record_count; i++) {
		struct record *record = &world.records[i];

		if (!record->live || record->at < at || record->at >= at + units)
			continue;
		record->live = false;
		ssd_drop(world.log, record->at, record->units);
	}
}

static void owner_room(void *arg)
{
	REQUIRE(arg == &world);
	world.rooms++;
}

static void ledger_dead(void *arg, uint64_t sequence, uint32_t unit)
{
	REQUIRE(arg == &world && world.dead_count < DEAD_MAX);
	world.dead_sequence[world.dead_count] = sequence;
	world.dead_unit[world.dead_count++] = unit;
}

static void ledger_freed(void *arg, uint64_t sequence)
{
	REQUIRE(arg == &world && sequence);
	world.freed_count++;
}

static bool ledger_is_dead(void *arg, uint64_t sequence, uint32_t unit)
{
	REQUIRE(arg == &world);
	for (uint32_t i = 0; i < world.dead_count && world.dead_known; i++)
		if (world.dead_sequence[i] == sequence && world.dead_unit[i] == unit)
			return true;
	return false;
}

/* --------------------------------------------------------------------------------- set-up */

static const struct ssd_ledger ledger = {
	.arg = &world, .dead = ledger_dead, .freed = ledger_freed, .is_dead = ledger_is_dead};

static void devices_make(unsigned count, uint64_t bytes)
{
	struct memory_options options = {.device_count = count, .seed = 1};

	memset(&world, 0, sizeof(world));
	for (unsigned d = 0; d < count; d++)
		options.device_bytes[d] = bytes;
	world.devices = memory_devices_create(&options);
	world.owner = (struct tier_owner){
		.arg = &world, .reclaim = owner_reclaim, .lost = owner_lost, .room = owner_room};
}

static int open_status(uint64_t log_bytes)
{
	struct ssd_options options = {.io = memory_devices_io(world.devices),
		.segment_bytes = MIB,
		.ledger = &ledger,
		.errors_max = 4};
	char why[256] = "";
	int status = ssd_create(&options, &world.ssd, why, sizeof(why));

	if (status) {
		REQUIRE(why[0]);
		return status;
	}
	status = ssd_log_open(world.ssd, "one", log_bytes, &world.owner, &world.log);
	if (status)
		ssd_destroy(world.ssd);
	return status;
}

static uint32_t recover(bool keep)
{
	const struct ssd_found *found;
	int64_t count = ssd_recover(world.ssd, &found);

	REQUIRE(count >= 0);
	for (int64_t i = 0; i < count; i++) {
		uint64_t key;
		struct record *record;

		REQUIRE(found[i].label_bytes >= 8);
		memcpy(&key, found[i].label, 8);
		REQUIRE(key < world.record_count);
		record = &world.records[key];
		if (i)
			REQUIRE(found[i].sequence > found[i - 1].sequence ||
				(found[i].sequence == found[i - 1].sequence &&
					found[i].at > found[i - 1].at));
		if (!keep)
			continue;
		REQUIRE(!record->live);
		record->live = true;
		record->at = found[i].at;
		record->units = found[i].units;
		ssd_keep(world.ssd, &found[i]);
	}
	ssd_recover_end(world.ssd);
	return (uint32_t)count;
}

static void begin(unsigned devices, uint64_t device_bytes)
{
	devices_make(devices, device_bytes);
	REQUIRE_EQ(open_status(device_bytes * devices), 0);
	REQUIRE_EQ(recover(true), 0);
}

static void settle(void)
{
	do {
		ssd_kick(world.ssd);
	} while (memory_devices_run(world.devices, UINT32_MAX));
	REQUIRE(ssd_idle(world.ssd));
}

/* The daemon starts again on the same devices. */
static uint32_t restart(bool keep)
{
	ssd_destroy(world.ssd);
	for (uint32_t i = 0; i < world.record_count; i++)
		world.records[i].live = world.records[i].writing = world.records[i].reading = false;
	REQUIRE_EQ(open_status(memory_devices_io(world.devices)->device_bytes[0]), 0);
	return recover(keep);
}

static void end(void)
{
	settle();
	ssd_destroy(world.ssd);
	memory_devices_destroy(world.devices);
	for (uint32_t i = 0; i < world.record_count; i++)
		free(world.records[i].bytes);
}

static struct record *record_make(uint32_t units, uint32_t label_bytes)
{
	struct record *record = &world.records[world.record_count];

	REQUIRE(world.record_count < RECORDS_MAX && label_bytes <= sizeof(record->label));
	*record = (struct record){.units = units, .label_bytes = label_bytes};
	record->label[0] = world.record_count++;
	record->bytes = aligned_alloc(UNIT, (size_t)units * UNIT);
	REQUIRE(record->bytes != NULL);
	record->piece = (struct iovec){record->bytes, (size_t)units * UNIT};
	for (uint64_t at = 0; at < record->piece.iov_len; at += 512)
		*(uint64_t *)(record->bytes + at) = word(record->label[0], at);
	record->put = (struct ssd_put){.pieces = &record->piece,
		.piece_count = 1,
		.label = record->label,
		.label_bytes = label_bytes,
		.done = put_done};
	record->get = (struct ssd_get){
		.piece_count = 1, .pieces = &record->piece, .check = get_check, .done = get_done};
	return record;
}

static int record_put(struct record *record)
{
	int status = ssd_put(world.log, &record->put);

	if (status == 0)
		record->writing = true;
	return status;
}

static int record_get(struct record *record)
{
	int status;

	memset(record->bytes, 0, record->piece.iov_len);
	record->get.at = record->at;
	status = ssd_get(world.log, &record->get);
	if (status == 0)
		record->reading = true;
	return status;
}

/* Puts records until @count are done, going on when there is room. */
static void put_many(uint32_t count, uint32_t units)
{
	for (uint32_t i = 0; i < count; i++) {
		struct record *record = record_make(units, 16);
		int status = record_put(record);

		for (unsigned tries = 0; status && tries < 1000; tries++) {
			REQUIRE(status == -EAGAIN || status == -ENOSPC);
			ssd_tick(world.ssd, world.now += 10 * NS_PER_MS);
			settle();
			status = record_put(record);
		}
		REQUIRE_EQ(status, 0);
	}
	settle();
}

static uint32_t check_all(void)
{
	uint32_t live = 0, units = 0;
	struct ssd_log_status status;

	for (uint32_t i = 0; i < world.record_count; i++) {
		struct record *record = &world.records[i];

		if (!record->live)
			continue;
		live++;
		units += record->units;
		REQUIRE_EQ(record_get(record), 0);
		settle();
		REQUIRE(!record->reading);
		REQUIRE_EQ(record->get_status, 0);
	}
	ssd_log_status_get(world.log, &status);
	REQUIRE_EQ(status.live_bytes, (uint64_t)units * UNIT);
	return live;
}

struct waiter {
	struct ssd_sync sync;
	int status;
};

static void sync_done(struct ssd_sync *sync, int status)
{
	((struct waiter *)sync)->status = status;
}

static int sync_all(void)
{
	struct waiter waiter = {.sync.done = sync_done, .status = 1};

	ssd_sync(world.log, &waiter.sync);
	REQUIRE_EQ(waiter.status, 1);
	settle();
	return waiter.status;
}

/* ---------------------------------------------------------------------------------- tests */

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
	failing_devices_are_fenced();
	a_table_that_cannot_be_written_is_told();
	a_foreign_set_is_not_touched();
	no_memory_leaks_nothing();
	return 0;
}
