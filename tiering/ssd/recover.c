/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The start: what the tables on the devices say, of which nothing is taken on trust. Segments are
 * read by a few threads: a device answers many reads at once, and sums are made meanwhile.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "tiering/ssd/ssd_priv.h"

enum {
	OPENING_UNITS = 16,    /* that are read of each segment first */
	TABLES_PART = 16,      /* of a segment that has tables so much is read in one go */
	CHUNK_BYTES = 4 << 20, /* two large pages */
	SCANS_MAX = SSD_RECOVER_THREADS_MAX,
	/* Lives whose openings could not be read get no second segment of their number. */
	SEQUENCE_STEP = 1 << 20,
};

/* Labels, one behind the other. */
struct chunk {
	struct chunk *before;
	size_t used, bytes;
	uint8_t labels[];
};

/* What one thread finds. */
struct scan {
	struct ssd *ssd;
	pthread_t thread;
	int status;
	struct ssd_found *found;
	size_t count, room;
	struct chunk *chunks;
	uint64_t tables_damaged;
	void *memory;
	/* The part of the segment that was read last: [begin, end) in units. */
	uint8_t *window;
	uint32_t begin, end;
};

struct ssd_recovery {
	struct scan scans[SCANS_MAX];
	unsigned scan_count;
	_Atomic uint32_t next_segment;
	pthread_mutex_t errors_lock; /* devices' errors and fences while threads read */
	/* Of all. */
	struct ssd_found *found;
	uint8_t *kept;
	size_t count;
	struct span { /* of each segment: where its records are */
		size_t first;
		uint32_t count;
		uint32_t scan;
	} * spans;
	uint32_t *order; /* segments by sequence */
};

static void scan_free(struct scan *scan)
{
	while (scan->chunks) {
		struct chunk *chunk = scan->chunks;

		scan->chunks = chunk->before;
		memory_free(chunk);
	}
	memory_free(scan->found);
	memory_free(scan->memory);
}

void ssd_recovery_free(struct ssd *ssd)
{
	struct ssd_recovery *recovery = ssd->recovery;

	ssd->recovery = NULL;
	if (!recovery)
		return;
	for (unsigned i = 0; i < recovery->scan_count; i++)
		scan_free(&recovery->scans[i]);
	memory_free(recovery->found);
	memory_free(recovery->kept);
	memory_free(recovery->spans);
	memory_free(recovery->order);
	pthread_mutex_destroy(&recovery->errors_lock);
	memory_free(recovery);
}

static int recovery_make(struct ssd *ssd)
{
	struct ssd_recovery *recovery = memory_zalloc(sizeof(*recovery));

	ssd->recovery = recovery;
	if (!recovery)
		return -ENOMEM;
	pthread_mutex_init(&recovery->errors_lock, NULL);
	recovery->scan_count = ssd->recover_threads;
	recovery->spans = memory_calloc(ssd->segment_count, sizeof(*recovery->spans));
	recovery->order = memory_calloc(ssd->segment_count, sizeof(*recovery->order));
	if (!recovery->spans || !recovery->order)
		return -ENOMEM;
	for (unsigned i = 0; i < recovery->scan_count; i++) {
		struct scan *scan = &recovery->scans[i];

		scan->ssd = ssd;
		scan->memory = memory_zalloc(SSD_TABLE_BYTES_MAX + SSD_UNIT_BYTES);
		if (!scan->memory)
			return -ENOMEM;
		scan->window = ssd_aligned(scan->memory);
	}
	return 0;
}

static const uint8_t *label_copy(struct scan *scan, const uint8_t *label, uint32_t bytes)
{
	struct chunk *chunk = scan->chunks;
	size_t room = align_up(bytes, 8);
	uint8_t *to;

	if (!chunk || chunk->bytes - chunk->used < room) {
		chunk = memory_zalloc(CHUNK_BYTES);
		if (!chunk)
			return NULL;
		memory_large_pages(chunk, CHUNK_BYTES);
		chunk->bytes = CHUNK_BYTES - sizeof(*chunk);
		chunk->before = scan->chunks;
		scan->chunks = chunk;
	}
	to = chunk->labels + chunk->used;
	chunk->used += room;
	memcpy(to, label, bytes);
	return to;
}

static int found_add(struct scan *scan, const struct ssd_found *found)
{
	if (scan->count == scan->room) {
		size_t room = scan->room ? scan->room * 2 : 1024;
		struct ssd_found *grown = memory_realloc(scan->found, room * sizeof(*scan->found));

		if (!grown)
			return -ENOMEM;
		scan->found = grown;
		scan->room = room;
	}
	scan->found[scan->count++] = *found;
	return 0;
}

/* -------------------------------------------------------------------------------- segments */

/* A read of @device ended so. */
static void read_note(struct ssd *ssd, unsigned device, int status)
{
	pthread_mutex_lock(&ssd->recovery->errors_lock);
	if (status == 0) {
		ssd->devices[device].errors = 0;
	} else {
		ssd->read_errors++;
		if (++ssd->devices[device].errors >= ssd->errors_max)
			ssd_fence(ssd, device);
	}
	pthread_mutex_unlock(&ssd->recovery->errors_lock);
}

static bool device_fenced(struct ssd *ssd, unsigned device)
{
	bool fenced;

	pthread_mutex_lock(&ssd->recovery->errors_lock);
	fenced = ssd->devices[device].fenced;
	pthread_mutex_unlock(&ssd->recovery->errors_lock);
	return fenced;
}

/* Units [begin, end) of a segment, at most those of one table. NULL: they cannot be read. */
static const uint8_t *window_read(
	struct scan *scan, const struct ssd_segment *segment, uint32_t begin, uint32_t end)
{
	struct ssd *ssd = scan->ssd;
	uint32_t units =
		end == ssd->segment_units ? OPENING_UNITS : ssd->segment_units / TABLES_PART;
	uint32_t from;
	int status;

	units = MIN_OF(MAX_OF(units, (uint32_t)OPENING_UNITS), (uint32_t)SSD_TABLE_UNITS_MAX);
	from = MIN_OF(begin, end > units ? end - units : 0);
	if (begin >= scan->begin && end <= scan->end)
		return scan->window + (size_t)(begin - scan->begin) * SSD_UNIT_BYTES;
	if (device_fenced(ssd, segment->device))
		return NULL;
	scan->begin = scan->end = 0;
	status = ssd->io->ops->read_now(ssd->io, segment->device,
		ssd_segment_offset(ssd, segment, from), scan->window,
		(uint64_t)(end - from) * SSD_UNIT_BYTES);
	read_note(ssd, segment->device, status);
	if (status)
		return NULL;
	scan->begin = from;
	scan->end = end;
	return scan->window + (size_t)(begin - from) * SSD_UNIT_BYTES;
}

/* Return: 0 and the table, which is whole; -ENOENT: there is none; -EBADMSG, -EIO. */
static int table_read(struct scan *scan, const struct ssd_segment *segment,
	const struct ssd_table_place *place, struct ssd_table_head *head, const uint8_t **table)
{
	const uint8_t *unit = window_read(scan, segment, place->end - 1, place->end);
	int status;

	if (!unit)
		return -EIO;
	status = ssd_table_head_read(unit, place, head);
	if (status)
		return status;
	*table = window_read(scan, segment, place->end - head->units, place->end);
	if (!*table)
		return -EIO;
	return ssd_table_sum_right(*table, head) ? 0 : -EBADMSG;
}

/* The records of one table. The walk goes on where the table before it ended. */
static int table_take(struct scan *scan, struct ssd_segment *segment, struct ssd_table_walk *walk)
{
	struct ssd *ssd = scan->ssd;
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
		found.label = label_copy(scan, label, entry.label_bytes);
		if (!found.label)
			return -ENOMEM;
		status = found_add(scan, &found);
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

/* What a survey says of a segment whose tables were read until one of them said @status. */
static void segment_seen(struct scan *scan, const struct ssd_segment *segment,
	struct ssd_table_place *place, int status)
{
	struct ssd_seen *seen = &scan->ssd->seen[segment - scan->ssd->segments];
	struct ssd_table_head head;
	const uint8_t *table;

	/* An opening is written over by the next one alone: without one there is no table. */
	if (status == -ENOENT && place->table == 0 && place->end > 1) {
		place->table = 1;
		place->end--;
		if (table_read(scan, segment, place, &head, &table) == 0)
			status = -EBADMSG;
	}
	seen->sequence = segment->sequence;
	seen->device = place->device;
	seen->slot = place->segment;
	seen->status = status == -ENOENT ? 0 : status;
}

/* Return: 0 or -ENOMEM; what the device says wrongly ends the segment's records alone. */
static int segment_scan(struct scan *scan, struct ssd_segment *segment)
{
	struct ssd *ssd = scan->ssd;
	struct ssd_seen *seen = ssd->seen ? &ssd->seen[segment - ssd->segments] : NULL;
	struct ssd_table_place place = {.set = ssd->set,
		.device = ssd->devices[segment->device].set_index,
		.segment = segment->slot,
		.end = ssd->segment_units};
	struct ssd_table_head head;
	struct ssd_table_walk walk = {0};
	const uint8_t *table;
	int status;

	scan->begin = scan->end = 0;
	segment->table_begin = ssd->segment_units;
	status = table_read(scan, segment, &place, &head, &table);
	if (status == 0) {
		segment->sequence = head.sequence;
		segment->log = log_called(ssd, head.log);
		segment->table_begin = place.end - 1;
		if (seen)
			memcpy(seen->log, head.log, sizeof(seen->log));
	}
	while (status == 0 && (segment->log || seen)) {
		place.sequence = segment->sequence;
		place.end = segment->table_begin;
		place.table++;
		if (place.end == 0)
			break;
		status = table_read(scan, segment, &place, &head, &table);
		if (status)
			break;
		walk.entries = table;
		walk.at = 0;
		walk.bytes = head.entry_bytes;
		walk.left = head.entry_count;
		walk.below = place.end - head.units;
		status = table_take(scan, segment, &walk);
		segment->table_begin = walk.below;
		if (seen)
			seen->tables++;
	}
	if (status == -EBADMSG || status == -EIO)
		scan->tables_damaged++;
	if (seen)
		segment_seen(scan, segment, &place, status);
	return status == -ENOMEM ? status : 0;
}

static void *scan_run(void *argument)
{
	struct scan *scan = argument;
	struct ssd_recovery *recovery = scan->ssd->recovery;

	while (!scan->status) {
		uint32_t i =
			atomic_fetch_add_explicit(&recovery->next_segment, 1, memory_order_relaxed);
		struct span *span = &recovery->spans[i];

		if (i >= scan->ssd->segment_count)
			break;
		span->scan = (uint32_t)(scan - recovery->scans);
		span->first = scan->count;
		scan->status = segment_scan(scan, &scan->ssd->segments[i]);
		span->count = (uint32_t)(scan->count - span->first);
	}
	return NULL;
}

/* All segments. A thread that cannot be had is done without. */
static int segments_scan(struct ssd *ssd)
{
	struct ssd_recovery *recovery = ssd->recovery;
	unsigned threads = 1;
	sigset_t signals, before;
	int status = 0;

	sigfillset(&signals);
	pthread_sigmask(SIG_SETMASK, &signals, &before);
	while (threads < recovery->scan_count && !pthread_create(&recovery->scans[threads].thread,
							 NULL, scan_run, &recovery->scans[threads]))
		threads++;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	scan_run(&recovery->scans[0]);
	for (unsigned i = 0; i < threads; i++) {
		struct scan *scan = &recovery->scans[i];

		if (i)
			pthread_join(scan->thread, NULL);
		status = status ? status : scan->status;
		ssd->tables_damaged += scan->tables_damaged;
		recovery->count += scan->count;
	}
	for (uint32_t i = 0; i < ssd->segment_count; i++) {
		uint64_t sequence = ssd->segments[i].sequence;

		if (sequence < UINT64_MAX / 2)
			ssd->next_sequence = MAX_OF(ssd->next_sequence, sequence + 1);
	}
	return status;
}

static int by_sequence(const void *a, const void *b, void *arg)
{
	const struct ssd *ssd = arg;
	uint32_t one = *(const uint32_t *)a, two = *(const uint32_t *)b;
	uint64_t x = ssd->segments[one].sequence, y = ssd->segments[two].sequence;

	return x != y ? (x < y ? -1 : 1) : (one > two) - (one < two);
}

/* The spans of the segments in the order of their sequences, without the dead. */
static int found_sort(struct ssd *ssd)
{
	struct ssd_recovery *recovery = ssd->recovery;
	struct ssd_found *sorted = memory_calloc(recovery->count, sizeof(*sorted));
	size_t at = 0;

	if (!sorted)
		return -ENOMEM;
	memory_large_pages(sorted, recovery->count * sizeof(*sorted));
	recovery->found = sorted;
	for (uint32_t i = 0; i < ssd->segment_count; i++)
		recovery->order[i] = i;
	qsort_r(recovery->order, ssd->segment_count, sizeof(*recovery->order), by_sequence, ssd);
	for (uint32_t i = 0; i < ssd->segment_count; i++) {
		const struct span *span = &recovery->spans[recovery->order[i]];
		const struct ssd_found *from = recovery->scans[span->scan].found + span->first;

		for (uint32_t k = 0; k < span->count; k++)
			if (!ssd->has_ledger ||
				!ssd->ledger.is_dead(ssd->ledger.arg, from[k].sequence,
					from[k].at % ssd->segment_units))
				sorted[at++] = from[k];
	}
	SKEP_CHECK(at <= recovery->count);
	recovery->count = at;
	for (unsigned i = 0; i < recovery->scan_count; i++) {
		memory_free(recovery->scans[i].found);
		recovery->scans[i].found = NULL;
	}
	recovery->kept = memory_zalloc(recovery->count);
	return recovery->kept ? 0 : -ENOMEM;
}

/*
 * What was written before is made durable before it is read: an earlier daemon may have ended
 * between a table and its flush, and what is found counts as durable from now on.
 */
static void devices_flush(struct ssd *ssd)
{
	for (unsigned d = 0; d < ssd->io->device_count; d++) {
		struct ssd_device *device = &ssd->devices[d];

		while (ssd->io->ops->flush_now(ssd->io, d) && ++device->errors < ssd->errors_max)
			;
		ssd->write_errors += device->errors;
		if (device->errors >= ssd->errors_max)
			ssd_fence(ssd, d);
		else
			device->errors = 0;
	}
}

/* Reads all there is. */
static int tables_read(struct ssd *ssd)
{
	int status = recovery_make(ssd);

	SKEP_CHECK(!ssd->ready);
	if (!status && !ssd->survey)
		devices_flush(ssd);
	if (!status)
		status = segments_scan(ssd);
	if (!status)
		status = found_sort(ssd);
	if (!status && ssd->segments_healthy == 0)
		status = -EIO;
	if (status)
		ssd_recovery_free(ssd);
	return status;
}

int64_t ssd_recover(struct ssd *ssd, const struct ssd_found **found)
{
	int status = tables_read(ssd);

	SKEP_CHECK(!ssd->survey);
	if (status)
		return status;
	if (ssd->next_sequence > 1)
		ssd->next_sequence += SEQUENCE_STEP;
	if (ssd->tables_damaged)
		log_warn("ssd", "%llu tables are damaged; the records in them are lost",
			(unsigned long long)ssd->tables_damaged);
	*found = ssd->recovery->found;
	return (int64_t)ssd->recovery->count;
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
	for (unsigned i = 0; i < ssd->log_count; i++) {
		ssd->logs[i]->reclaim_due = true;
		ssd->logs[i]->moves_earned = ssd->logs[i]->live;
	}
	ssd->ready = true;
}

/* ---------------------------------------------------------------------------------- survey */

int ssd_survey(struct ssd *ssd, struct ssd_survey *out)
{
	int status;

	SKEP_CHECK(ssd->survey && !ssd->seen && !ssd->has_ledger);
	ssd->seen = memory_calloc(ssd->segment_count, sizeof(*ssd->seen));
	status = ssd->seen ? tables_read(ssd) : -ENOMEM;
	if (status)
		return status;
	for (uint32_t i = 0; i < ssd->segment_count; i++)
		ssd->seen[i].records = ssd->recovery->spans[i].count;
	*out = (struct ssd_survey){.segment_bytes = ssd->segment_bytes,
		.segment_units = ssd->segment_units,
		.segment_count = ssd->segment_count,
		.segments = ssd->seen,
		.found = ssd->recovery->found,
		.count = (int64_t)ssd->recovery->count};
	memcpy(out->set, ssd->set.bytes, sizeof(out->set));
	return 0;
}

int ssd_survey_read(struct ssd *ssd, uint32_t at, void *to, uint32_t units)
{
	const struct ssd_segment *segment = &ssd->segments[at / ssd->segment_units];

	SKEP_CHECK(ssd->survey && at / ssd->segment_units < ssd->segment_count &&
		   units <= ssd->segment_units - at % ssd->segment_units);
	return ssd->io->ops->read_now(ssd->io, segment->device,
		ssd_segment_offset(ssd, segment, at % ssd->segment_units), to,
		(uint64_t)units * SSD_UNIT_BYTES);
}
