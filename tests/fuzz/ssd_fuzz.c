/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables of a segment as a forged device would give them: sums are right wherever the input
 * lets them be, so that what is behind them is reached.
 *
 * Input, again and again until it ends: a head of 12 bytes (struct forged), then what stands at the
 * start of the table's units. Table 0 is the opening.
 */
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/hash.h"
#include "base/log.h"
#include "tiering/ssd/ssd_priv.h"

enum {
	MIB = 1 << 20,
	UNIT = SSD_UNIT_BYTES,
	SEGMENTS = 8,
	TAIL_UNITS = 64, /* of segment 0, the only one that is not empty */
};

struct forged {
	uint8_t flags; /* 1: a wrong sum; 2: units follow from entry_bytes; 4: another sequence */
	uint8_t units;
	uint16_t body_bytes;
	uint32_t entry_count, entry_bytes;
};
_Static_assert(sizeof(struct forged) == 12, "seeds are written with it");

static uint8_t tail[TAIL_UNITS * UNIT];

static int fuzz_read(struct ssd_io *io, unsigned device, uint64_t offset, void *to, uint64_t bytes)
{
	uint64_t tail_at = 2 * MIB - sizeof(tail);

	(void)device;
	if (offset + bytes > io->device_bytes[0])
		abort();
	memset(to, 0, bytes);
	if (offset < 2 * MIB && offset + bytes > tail_at) {
		uint64_t from = MAX_OF(offset, tail_at);
		uint64_t end = MIN_OF(offset + bytes, (uint64_t)2 * MIB);

		memcpy((uint8_t *)to + (from - offset), tail + (from - tail_at), end - from);
	}
	return 0;
}

/* Return: the unit of the tail where the table begins, -1 at the end. */
static int table_forge(
	const uint8_t **data, size_t *bytes, const struct ssd_set_id *set, uint32_t table, int end)
{
	struct forged forged;
	struct ssd_table_head made = {
		.magic = SSD_TABLE_MAGIC, .set = *set, .table = table, .log = "one"};
	uint32_t body, units;
	uint8_t *at;
	XXH128_hash_t sum;

	if (*bytes < sizeof(forged))
		return -1;
	memcpy(&forged, *data, sizeof(forged));
	*data += sizeof(forged);
	*bytes -= sizeof(forged);
	made.sequence = forged.flags & 4 ? 8 : 7;
	made.entry_count = forged.entry_count;
	made.entry_bytes = forged.entry_bytes;
	made.units = forged.units;
	if (forged.flags & 2 && forged.entry_bytes < sizeof(tail))
		made.units = ssd_table_units(forged.entry_bytes);
	units = made.units ? made.units : 1;
	if (units > (uint32_t)end)
		return -1;
	at = tail + (size_t)(end - (int)units) * UNIT;
	body = (uint32_t)MIN_OF((size_t)forged.body_bytes, *bytes);
	body = MIN_OF(body, units * UNIT);
	memcpy(at, *data, body);
	*data += body;
	*bytes -= body;
	memcpy(at + units * UNIT - sizeof(made), &made, sizeof(made));
	sum = XXH3_128bits(at, units * UNIT - sizeof(made.sum));
	made.sum = (struct ssd_sum){sum.low64 ^ (forged.flags & 1), sum.high64};
	memcpy(at + units * UNIT - sizeof(made), &made, sizeof(made));
	return end - (int)units;
}

static int fuzz_flush(struct ssd_io *io, unsigned device)
{
	return io->device_count > device ? 0 : -EIO;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static const struct ssd_io_ops ops = {.read_now = fuzz_read, .flush_now = fuzz_flush};
	static struct ssd_segment segments[SEGMENTS];
	static struct ssd_log log;
	static struct ssd ssd;
	struct ssd_io io = {.ops = &ops, .device_count = 1, .device_bytes = {9 * MIB}};
	const struct ssd_found *found;
	int end = TAIL_UNITS;
	int64_t count;

	/* What ssd_create() and ssd_log_open() make of an empty device, less all that recovery does
	 * not touch: they take megabytes, which would make each input slow. */
	log_set_level(LOG_LEVEL_ERROR);
	memset(tail, 0, sizeof(tail));
	memset(segments, 0, sizeof(segments));
	log = (struct ssd_log){
		.ssd = &ssd, .name = "one", .quota = SEGMENTS, .quota_now = SEGMENTS};
	ssd = (struct ssd){.io = &io,
		.errors_max = 8,
		.segment_bytes = MIB,
		.segment_units = MIB / UNIT,
		.segment_count = SEGMENTS,
		.segments_healthy = SEGMENTS,
		.recover_threads = 1,
		.segments = segments,
		.devices = {{.segments = SEGMENTS}},
		.next_sequence = 1,
		.logs = {&log},
		.log_count = 1};
	for (uint32_t i = 0; i < SEGMENTS; i++)
		segments[i].slot = i;
	for (uint32_t table = 0; end >= 0; table++)
		end = table_forge(&data, &bytes, &ssd.set, table, end);
	count = ssd_recover(&ssd, &found);
	if (count < 0)
		abort();
	for (int64_t i = 0; i < count; i++) {
		uint32_t sum = 0;

		if (found[i].units == 0 || found[i].at + found[i].units > MIB / UNIT - 1 ||
			(i && found[i].at < found[i - 1].at + found[i - 1].units))
			abort();
		for (uint32_t b = 0; b < found[i].label_bytes; b++)
			sum += ((const uint8_t *)found[i].label)[b];
		if (sum % 3)
			ssd_keep(&ssd, &found[i]);
	}
	ssd_recover_end(&ssd);
	return 0;
}
