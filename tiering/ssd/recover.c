/* SPDX-License-Identifier: Apache-2.0 */
/* The start: what the tables on the devices say, of which nothing is taken on trust. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "tiering/ssd/ssd_priv.h"

enum {
	WINDOW_UNITS = 16, /* that are read of each segment in one go */
	CHUNK_BYTES = 1 << 20,
	/* Lives whose openings could not be read get no second segment of their number. */
	SEQUENCE_STEP = 1 << 20,
};

/* Labels, one behind the other. */
struct chunk {
	struct chunk *before;
	size_t used, bytes;
	uint8_t labels[];
};

struct ssd_recovery {
	struct ssd_found *found;
	uint8_t *kept;
	size_t count, room;
	struct chunk *chunks;
	struct { /* of each segment, in @found before it is sorted */
		size_t first, count;
	} * spans;
	uint32_t *order; /* segments by sequence */
	void *memory;
	/* The part of the segment that was read last: [begin, end) in units. */
	uint8_t *window;
	uint32_t begin, end;
};

void ssd_recovery_free(struct ssd *ssd)
{
	struct ssd_recovery *recovery = ssd->recovery;

	ssd->recovery = NULL;
	if (!recovery)
		return;
	while (recovery->chunks) {
		struct chunk *chunk = recovery->chunks;

		recovery->chunks = chunk->before;
		memory_free(chunk);
	}
	memory_free(recovery->found);
	memory_free(recovery->kept);
	memory_free(recovery->spans);
	memory_free(recovery->order);
	memory_free(recovery->memory);
	memory_free(recovery);
}

static int recovery_make(struct ssd *ssd)
{
	struct ssd_recovery *recovery = memory_zalloc(sizeof(*recovery));

	ssd->recovery = recovery;
	if (!recovery)
		return -ENOMEM;
	recovery->spans = memory_calloc(ssd->segment_count, sizeof(*recovery->spans));
	recovery->order = memory_calloc(ssd->segment_count, sizeof(*recovery->order));
	recovery->memory = memory_zalloc(SSD_TABLE_BYTES_MAX + SSD_UNIT_BYTES);
	if (!recovery->spans || !recovery->order || !recovery->memory)
		return -ENOMEM;
	recovery->window = ssd_aligned(recovery->memory);
	return 0;
}

static const uint8_t *label_copy(
	struct ssd_recovery *recovery, const uint8_t *label, uint32_t bytes)
{
	struct chunk *chunk = recovery->chunks;
	size_t room = align_up(bytes, 8);
	uint8_t *to;

	if (!chunk || chunk->bytes - chunk->used < room) {
		chunk = memory_zalloc(sizeof(*chunk) + CHUNK_BYTES);
		if (!chunk)
			return NULL;
		chunk->bytes = CHUNK_BYTES;
		chunk->before = recovery->chunks;
		recovery->chunks = chunk;
	}
	to = chunk->labels + chunk->used;
	chunk->used += room;
	memcpy(to, label, bytes);
	return to;
}

static int found_add(struct ssd_recovery *recovery, const struct ssd_found *found)
{
	if (recovery->count == recovery->room) {
		size_t room = recovery->room ? recovery->room * 2 : 1024;
		struct ssd_found *grown =
			memory_realloc(recovery->found, room * sizeof(*recovery->found));

		if (!grown)
			return -ENOMEM;
		recovery->found = grown;
		recovery->room = room;
	}
	recovery->found[recovery->count++] = *found;
	return 0;
}

/* -------------------------------------------------------------------------------- segments */

/* Units [begin, end) of a segment, at most those of one table. NULL: they cannot be read. */
static const uint8_t *window_read(
	struct ssd *ssd, struct ssd_segment *segment, uint32_t begin, uint32_t end)
{
	struct ssd_recovery *recovery = ssd->recovery;
	struct ssd_device *device = &ssd->devices[segment->device];
	uint32_t from = MIN_OF(begin, end > WINDOW_UNITS ? end - WINDOW_UNITS : 0);
	int status;

	if (begin >= recovery->begin && end <= recovery->end)
		return recovery->window + (size_t)(begin - recovery->begin) * SSD_UNIT_BYTES;
	if (device->fenced)
		return NULL;
	recovery->begin = recovery->end = 0;
	status = ssd->io->ops->read_now(ssd->io, segment->device,
		ssd_segment_offset(ssd, segment, from), recovery->window,
		(uint64_t)(end - from) * SSD_UNIT_BYTES);
	if (status) {
		ssd->read_errors++;
		if (++device->errors >= ssd->errors_max)
			ssd_fence(ssd, segment->device);
		return NULL;
	}
	device->errors = 0;
	recovery->begin = from;
	recovery->end = end;
	return recovery->window + (size_t)(begin - from) * SSD_UNIT_BYTES;
}

/* Return: 0 and the table, which is whole; -ENOENT: there is none; -EBADMSG, -EIO. */
static int table_read(struct ssd *ssd, struct ssd_segment *segment,
	const struct ssd_table_place *place, struct ssd_table_head *head, const uint8_t **table)
{
	const uint8_t *unit = window_read(ssd, segment, place->end - 1, place->end);
	int status;

	if (!unit)
		return -EIO;
	status = ssd_table_head_read(unit, place, head);
	if (status)
		return status;
	*table = window_read(ssd, segment, place->end - head->units, place->end);
	if (!*table)
		return -EIO;
	return ssd_table_sum_right(*table, head) ? 0 : -EBADMSG;
}

/* The records of one table. The walk goes on where the table before it ended. */
static int table_take(struct ssd *ssd, struct ssd_segment *segment, struct ssd_table_walk *walk)
{
	struct ssd_recovery *recovery = ssd->recovery;
	struct ssd_table_entry entry;
	const uint8_t *label;
	int status;

	while ((status = ssd_table_next(walk, &entry, &label)) > 0) {
		struct ssd_found found = {.log = segment->log,
			.at = ssd_segment_index(ssd, segment) * ssd->segment_units + entry.first,
			.units = entry.units,
			.sequence = segment->sequence,
			.label_bytes = entry.label_bytes};

		segment->fill = entry.first + entry.units;
		if (ssd->has_ledger &&
			ssd->ledger.is_dead(ssd->ledger.arg, segment->sequence, entry.first))
			continue;
		found.label = label_copy(recovery, label, entry.label_bytes);
		if (!found.label)
			return -ENOMEM;
		status = found_add(recovery, &found);
		if (status)
			return status;
	}
	return status;
}

static struct ssd_log *log_called(struct ssd *ssd, const char *name)
{
	for (unsigned i = 0; i < ssd->log_count; i++)
		if (!strcmp(ssd->logs[i]->name, name))
			return ssd->logs[i];
	return NULL;
}

/* Return: 0 or -ENOMEM; what the device says wrongly ends the segment's records alone. */
static int segment_scan(struct ssd *ssd, struct ssd_segment *segment)
{
	struct ssd_recovery *recovery = ssd->recovery;
	struct ssd_table_place place = {.set = ssd->set,
		.device = ssd->devices[segment->device].set_index,
		.segment = segment->slot,
		.end = ssd->segment_units};
	struct ssd_table_head head;
	struct ssd_table_walk walk = {0};
	const uint8_t *table;
	int status;

	recovery->begin = recovery->end = 0;
	segment->table_begin = ssd->segment_units;
	status = table_read(ssd, segment, &place, &head, &table);
	if (status == 0) {
		segment->sequence = head.sequence;
		segment->log = log_called(ssd, head.log);
		segment->table_begin = place.end - 1;
		ssd->next_sequence = MAX_OF(
			ssd->next_sequence, head.sequence < UINT64_MAX / 2 ? head.sequence + 1 : 0);
	}
	while (status == 0 && segment->log) {
		place.sequence = segment->sequence;
		place.end = segment->table_begin;
		place.table++;
		if (place.end == 0)
			return 0;
		status = table_read(ssd, segment, &place, &head, &table);
		if (status)
			break;
		walk.entries = table;
		walk.at = 0;
		walk.bytes = head.entry_bytes;
		walk.left = head.entry_count;
		walk.below = place.end - head.units;
		status = table_take(ssd, segment, &walk);
		segment->table_begin = walk.below;
	}
	if (status == -EBADMSG || status == -EIO)
		ssd->tables_damaged++;
	return status == -ENOMEM ? status : 0;
}

static int by_sequence(const void *a, const void *b, void *arg)
{
	const struct ssd *ssd = arg;
	uint32_t one = *(const uint32_t *)a, two = *(const uint32_t *)b;
	uint64_t x = ssd->segments[one].sequence, y = ssd->segments[two].sequence;

	return x != y ? (x < y ? -1 : 1) : (one > two) - (one < two);
}

/* The spans of the segments in the order of their sequences. */
static int found_sort(struct ssd *ssd)
{
	struct ssd_recovery *recovery = ssd->recovery;
	struct ssd_found *sorted = memory_calloc(recovery->count, sizeof(*sorted));
	size_t at = 0;

	if (!sorted)
		return -ENOMEM;
	for (uint32_t i = 0; i < ssd->segment_count; i++)
		recovery->order[i] = i;
	qsort_r(recovery->order, ssd->segment_count, sizeof(*recovery->order), by_sequence, ssd);
	for (uint32_t i = 0; i < ssd->segment_count; i++) {
		uint32_t segment = recovery->order[i];

		if (recovery->spans[segment].count)
			memcpy(sorted + at, recovery->found + recovery->spans[segment].first,
				recovery->spans[segment].count * sizeof(*sorted));
		at += recovery->spans[segment].count;
	}
	SKEP_CHECK(at == recovery->count);
	memory_free(recovery->found);
	recovery->found = sorted;
	recovery->room = recovery->count;
	recovery->kept = memory_zalloc(recovery->count);
	return recovery->kept ? 0 : -ENOMEM;
}

int64_t ssd_recover(struct ssd *ssd, const struct ssd_found **found)
{
	struct ssd_recovery *recovery;
	int status = recovery_make(ssd);

	SKEP_CHECK(!ssd->ready);
	recovery = ssd->recovery;
	for (uint32_t i = 0; i < ssd->segment_count && !status; i++) {
		recovery->spans[i].first = recovery->count;
		status = segment_scan(ssd, &ssd->segments[i]);
		recovery->spans[i].count = recovery->count - recovery->spans[i].first;
	}
	if (!status)
		status = found_sort(ssd);
	if (!status && ssd->segments_healthy == 0)
		status = -EIO;
	if (status) {
		ssd_recovery_free(ssd);
		return status;
	}
	if (ssd->next_sequence > 1)
		ssd->next_sequence += SEQUENCE_STEP;
	if (ssd->tables_damaged)
		log_warn("ssd", "%llu tables are damaged; the records in them are lost",
			(unsigned long long)ssd->tables_damaged);
	*found = recovery->found;
	return (int64_t)recovery->count;
}

void ssd_keep(struct ssd *ssd, const struct ssd_found *found)
{
	struct ssd_recovery *recovery = ssd->recovery;
	size_t number = (size_t)(found - recovery->found);

	SKEP_CHECK(number < recovery->count && !recovery->kept[number]);
	recovery->kept[number] = 1;
	ssd->segments[found->at / ssd->segment_units].live += found->units;
	found->log->live += found->units;
}

static void segment_begin(struct ssd *ssd, struct ssd_segment *segment)
{
	bool fenced = ssd->devices[segment->device].fenced;

	if (segment->log && segment->live) {
		segment->state = SEGMENT_CLOSED;
		segment->lost = fenced;
		segment->log->held += !fenced;
		return;
	}
	segment->log = NULL;
	segment->state = SEGMENT_FREE;
	segment->sequence_before = segment->sequence;
	if (!fenced)
		ssd_free_push(ssd, segment);
}

void ssd_recover_end(struct ssd *ssd)
{
	struct ssd_recovery *recovery = ssd->recovery;

	SKEP_CHECK(recovery && !ssd->ready);
	for (size_t i = 0; i < recovery->count && ssd->has_ledger; i++)
		if (!recovery->kept[i])
			ssd->ledger.dead(ssd->ledger.arg, recovery->found[i].sequence,
				recovery->found[i].at % ssd->segment_units);
	for (uint32_t i = 0; i < ssd->segment_count; i++)
		segment_begin(ssd, &ssd->segments[i]);
	ssd_recovery_free(ssd);
	for (unsigned i = 0; i < ssd->log_count; i++)
		ssd->logs[i]->reclaim_due = true;
	ssd->ready = true;
}
