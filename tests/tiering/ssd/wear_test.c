/* SPDX-License-Identifier: Apache-2.0 */
/* The wear budget: an hour's share at once, then the rate of the day, whatever is written. */
#include <errno.h>

#include "tests/base/unit.h"
#include "tests/tiering/ssd/memory_device.h"
#include "tiering/ssd/ssd.h"

enum { MIB = 1 << 20, RECORD_BYTES = 64 << 10, HOURS = 12, SHARE = 2 * MIB };

#define HOUR_NS (3600 * NS_PER_S)

static unsigned rooms, done;

static void room(void *arg)
{
	(void)arg;
	rooms++;
}

static void put_done(struct ssd_put *put, int status)
{
	(void)put;
	REQUIRE_EQ(status, 0);
	done++;
}

static void settle(struct ssd *ssd, struct memory_devices *devices)
{
	do {
		ssd_kick(ssd);
	} while (memory_devices_run(devices, UINT32_MAX));
	REQUIRE(ssd_idle(ssd));
}

/* Puts one record after the other until one has to wait. Return: how many. */
static unsigned put_all(struct ssd *ssd, struct ssd_log *log, struct memory_devices *devices)
{
	static _Alignas(4096) uint8_t bytes[RECORD_BYTES];
	static uint64_t label;
	struct iovec piece = {bytes, sizeof(bytes)};
	struct ssd_put put = {.pieces = &piece,
		.piece_count = 1,
		.label = &label,
		.label_bytes = sizeof(label),
		.done = put_done};
	unsigned count = 0;

	for (; ssd_put(log, &put) == 0; count++, label++)
		settle(ssd, devices);
	return count;
}

static void budget_holds(uint64_t bytes_per_day)
{
	struct memory_options memory = {.device_count = 1, .device_bytes = {64 * MIB}, .seed = 1};
	struct memory_devices *devices = memory_devices_create(&memory);
	struct ssd_options options = {.io = memory_devices_io(devices),
		.segment_bytes = MIB,
		.wear_bytes_per_day = bytes_per_day};
	struct tier_owner owner = {.room = room};
	const struct ssd_found *found;
	struct ssd_log_status counts;
	struct ssd_status status;
	uint64_t written, puts = 0;
	struct ssd_log *log;
	struct ssd *ssd;
	char why[256];

	REQUIRE_EQ(ssd_create(&options, &ssd, why, sizeof(why)), 0);
	REQUIRE_EQ(ssd_log_open(ssd, "one", 64 * MIB, &owner, &log), 0);
	REQUIRE_EQ(ssd_recover(ssd, &found), 0);
	ssd_recover_end(ssd);
	ssd_tick(ssd, 1);
	for (uint64_t hour = 0; hour < HOURS; hour++) {
		unsigned before = rooms;

		puts += put_all(ssd, log, devices);
		ssd_status_get(ssd, &status);
		REQUIRE_EQ(status.wear_left_bytes, 0);
		REQUIRE(status.wear_waits > hour);
		/* A moment brings something, and the owner is told once it is enough to go on. */
		ssd_tick(ssd, 1 + hour * HOUR_NS + NS_PER_MS);
		ssd_tick(ssd, 1 + (hour + 1) * HOUR_NS);
		settle(ssd, devices);
		REQUIRE_EQ(rooms, before + 1);
	}
	ssd_log_status_get(log, &counts);
	written = counts.put_bytes + counts.moved_bytes + counts.table_bytes;
	REQUIRE_EQ(done, puts);
	REQUIRE(written <= (HOURS + 1) * (uint64_t)SHARE);
	REQUIRE(written >= (HOURS - 1) * (uint64_t)SHARE);
	ssd_destroy(ssd);
	memory_devices_destroy(devices);
}

int main(void)
{
	budget_holds(24ull * SHARE);
	return 0;
}
