/* SPDX-License-Identifier: Apache-2.0 */
/* ssd_bytes_for() and ssd_live_max() agree from 64 MiB to 13 TiB, on devices that hold nothing. */
#include <errno.h>

#include "tests/base/unit.h"
#include "tiering/ssd/ssd.h"

enum { MIB = 1 << 20, UNIT = SSD_UNIT_BYTES };

static int zeros_read(struct ssd_io *io, unsigned device, uint64_t offset, void *to, uint64_t bytes)
{
	REQUIRE(device == 0 && offset + bytes <= io->device_bytes[0]);
	memset(to, 0, bytes);
	return 0;
}

static int nothing_write(
	struct ssd_io *io, unsigned device, uint64_t offset, const void *from, uint64_t bytes)
{
	REQUIRE(device == 0 && from && offset + bytes <= io->device_bytes[0]);
	return 0;
}

static int nothing_flush(struct ssd_io *io, unsigned device)
{
	return io->device_count > device ? 0 : -EIO;
}

static void what_is_asked_for_fits(void)
{
	static const struct ssd_io_ops ops = {
		.read_now = zeros_read, .write_now = nothing_write, .flush_now = nothing_flush};
	struct ssd_io io = {.ops = &ops, .device_count = 1};
	struct ssd_options options = {.io = &io};
	struct tier_owner owner = {0};
	uint64_t random = 1;

	for (uint64_t live = 64 * MIB; live < 13ull << 40; live += live / 9 + random % live / 7) {
		uint64_t bytes = ssd_bytes_for(live);
		struct ssd_log *log;
		struct ssd *ssd;
		char why[256];

		random = mix64(random);
		io.device_bytes[0] = bytes;
		REQUIRE_EQ(bytes % UNIT, 0);
		REQUIRE_EQ(ssd_create(&options, &ssd, why, sizeof(why)), 0);
		REQUIRE_EQ(ssd_log_open(ssd, "one", bytes, &owner, &log), 0);
		REQUIRE(ssd_live_max(log) >= live);
		/* Not more than three tenths and some segments above what is asked for. */
		REQUIRE(bytes <= live + live / 10 * 3 + 32 * MIB);
		ssd_destroy(ssd);
	}
}

int main(void)
{
	what_is_asked_for_fits();
	return 0;
}
