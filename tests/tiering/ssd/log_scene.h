/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_TIERING_SSD_LOG_SCENE_H
#define SKEP_TESTS_TIERING_SSD_LOG_SCENE_H

/* A log on devices in memory, with an owner that knows what each of its records holds. */

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
	bool moves;   /* the owner moves what is reclaimed; else it drops it */
	bool ignores; /* or lets it lie */
	uint64_t now;
	uint64_t dead_sequence[DEAD_MAX];
	uint32_t dead_unit[DEAD_MAX], dead_count, freed_count;
	bool dead_known;
};

static struct world world;
static uint64_t devices_seed = 1; /* of what a power cut leaves */

/* ---------------------------------------------------------------------------------- owner */

static inline uint64_t word(uint64_t key, uint64_t at)
{
	return mix64(key ^ mix64(at));
}

static inline void put_done(struct ssd_put *put, int status)
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

static inline int get_check(struct ssd_get *get)
{
	struct record *record = (struct record *)((char *)get - offsetof(struct record, get));
	uint64_t key = record->label[0];

	for (uint64_t at = 0; at < record->piece.iov_len; at += 512)
		if (*(uint64_t *)(record->bytes + at) != word(key, at))
			return -EBADMSG;
	return 0;
}

static inline void get_done(struct ssd_get *get, int status)
{
	struct record *record = (struct record *)((char *)get - offsetof(struct record, get));

	REQUIRE(record->reading);
	record->reading = false;
	record->get_status = status;
}

static inline int record_move(struct record *record)
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

static inline void owner_reclaim(void *arg, uint32_t at, uint32_t units)
{
	REQUIRE(arg == &world);
	world.reclaims++;
	if (world.ignores)
		return;
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

static inline void owner_lost(void *arg, uint32_t at, uint32_t units)
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

static inline void owner_room(void *arg)
{
	REQUIRE(arg == &world);
	world.rooms++;
}

static inline void ledger_dead(void *arg, uint64_t sequence, uint32_t unit)
{
	REQUIRE(arg == &world && world.dead_count < DEAD_MAX);
	world.dead_sequence[world.dead_count] = sequence;
	world.dead_unit[world.dead_count++] = unit;
}

static inline void ledger_freed(void *arg, uint64_t sequence)
{
	REQUIRE(arg == &world && sequence);
	world.freed_count++;
}

static inline bool ledger_is_dead(void *arg, uint64_t sequence, uint32_t unit)
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

static inline void devices_make(unsigned count, uint64_t bytes)
{
	struct memory_options options = {.device_count = count, .seed = devices_seed};

	memset(&world, 0, sizeof(world));
	for (unsigned d = 0; d < count; d++)
		options.device_bytes[d] = bytes;
	world.devices = memory_devices_create(&options);
	world.owner = (struct tier_owner){
		.arg = &world, .reclaim = owner_reclaim, .lost = owner_lost, .room = owner_room};
}

static inline int open_status(uint64_t log_bytes)
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

static inline uint32_t recover(bool keep)
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

static inline void begin(unsigned devices, uint64_t device_bytes)
{
	devices_make(devices, device_bytes);
	REQUIRE_EQ(open_status(device_bytes * devices), 0);
	REQUIRE_EQ(recover(true), 0);
}

static inline void settle(void)
{
	do {
		ssd_kick(world.ssd);
	} while (memory_devices_run(world.devices, UINT32_MAX));
	REQUIRE(ssd_idle(world.ssd));
}

/* The daemon starts again on the same devices. */
static inline uint32_t restart(bool keep)
{
	ssd_destroy(world.ssd);
	for (uint32_t i = 0; i < world.record_count; i++)
		world.records[i].live = world.records[i].writing = world.records[i].reading = false;
	REQUIRE_EQ(open_status(memory_devices_io(world.devices)->device_bytes[0]), 0);
	return recover(keep);
}

static inline void end(void)
{
	settle();
	ssd_destroy(world.ssd);
	memory_devices_destroy(world.devices);
	for (uint32_t i = 0; i < world.record_count; i++)
		free(world.records[i].bytes);
}

static inline struct record *record_make(uint32_t units, uint32_t label_bytes)
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

static inline int record_put(struct record *record)
{
	int status = ssd_put(world.log, &record->put);

	if (status == 0)
		record->writing = true;
	return status;
}

static inline int record_get(struct record *record)
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
static inline void put_many(uint32_t count, uint32_t units)
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

/* Those of records [first, end) that live. */
static inline void records_drop(uint32_t first, uint32_t end)
{
	for (uint32_t i = first; i < end; i++) {
		struct record *record = &world.records[i];

		if (!record->live)
			continue;
		record->live = false;
		ssd_drop(world.log, record->at, record->units);
	}
}

static inline uint32_t check_all(void)
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

static inline void sync_done(struct ssd_sync *sync, int status)
{
	((struct waiter *)sync)->status = status;
}

static inline int sync_all(void)
{
	struct waiter waiter = {.sync.done = sync_done, .status = 1};

	ssd_sync(world.log, &waiter.sync);
	REQUIRE_EQ(waiter.status, 1);
	settle();
	return waiter.status;
}

#endif
