/* SPDX-License-Identifier: Apache-2.0 */
/* Segments: who has which, which is opened next, which is reclaimed, which is lost. */
#include <errno.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/log.h"
#include "tiering/ssd/ssd_priv.h"

/* Of a segment: when so much of it is taken the next one is opened. */
enum { NEXT_SHARE = 16 };

struct ssd_segment *ssd_segment_at(struct ssd_log *log, uint32_t at, uint32_t units)
{
	struct ssd *ssd = log->ssd;
	uint32_t index = at / ssd->segment_units, unit = at % ssd->segment_units;
	struct ssd_segment *segment = &ssd->segments[index];

	SKEP_CHECK(index < ssd->segment_count && segment->log == log);
	SKEP_CHECK(units > 0 && units <= segment->fill && unit <= segment->fill - units);
	return segment;
}

uint64_t ssd_segment_offset(const struct ssd *ssd, const struct ssd_segment *segment, uint32_t unit)
{
	return SSD_SEGMENTS_AT + segment->slot * ssd->segment_bytes +
	       (uint64_t)unit * SSD_UNIT_BYTES;
}

uint32_t ssd_log_reserve(uint32_t quota)
{
	return SSD_RESERVE + quota / 64;
}

uint32_t ssd_log_free(const struct ssd_log *log)
{
	return log->held < log->quota_now ? log->quota_now - log->held : 0;
}

bool ssd_log_crowded(const struct ssd_log *log)
{
	return !log->ssd->has_ledger && ssd_log_free(log) < SSD_RESERVE_MOVES;
}

/* Of what has failed the logs bear their share, so that none takes what is another's. */
void ssd_quotas_set(struct ssd *ssd)
{
	for (unsigned i = 0; i < ssd->log_count; i++) {
		struct ssd_log *log = ssd->logs[i];

		log->quota_now = (uint32_t)((uint64_t)log->quota * ssd->segments_healthy /
					    ssd->segment_count);
		log->reclaim_due = true;
		log->moves_earned = log->live;
	}
	ssd->space_freed = true;
}

/* ------------------------------------------------------------------------------ free lists */

void ssd_free_push(struct ssd *ssd, struct ssd_segment *segment)
{
	struct ssd_device *device = &ssd->devices[segment->device];
	uint32_t index = ssd_segment_index(ssd, segment);

	segment->next_free = SSD_NONE;
	if (device->free_count++ == 0)
		device->free_first = index;
	else
		ssd->segments[device->free_last].next_free = index;
	device->free_last = index;
}

/* The segment that was freed first on the next device that has one: wear and load are spread. */
static struct ssd_segment *free_take(struct ssd *ssd)
{
	for (unsigned i = 0; i < ssd->io->device_count; i++) {
		struct ssd_device *device = &ssd->devices[ssd->next_device];
		struct ssd_segment *segment;

		ssd->next_device = (ssd->next_device + 1) % ssd->io->device_count;
		if (device->fenced || device->free_count == 0)
			continue;
		segment = &ssd->segments[device->free_first];
		device->free_first = segment->next_free;
		device->free_count--;
		SKEP_CHECK(segment->state == SEGMENT_FREE && !segment->log);
		return segment;
	}
	return NULL;
}

static void segment_free(struct ssd *ssd, struct ssd_segment *segment)
{
	struct ssd_log *log = segment->log;

	SKEP_CHECK(segment->unwritten == 0 && segment->reads == 0);
	if (!segment->lost) {
		SKEP_CHECK(log->held > 0);
		log->held--;
	}
	if (segment->reclaiming)
		log->reclaims--;
	if (segment->broken)
		log->broken--;
	if (!segment->unopened)
		segment->sequence_before = segment->sequence;
	segment->log = NULL;
	segment->state = SEGMENT_FREE;
	segment->lost = segment->broken = segment->unopened = segment->reclaiming = false;
	if (!ssd->devices[segment->device].fenced)
		ssd_free_push(ssd, segment);
	log->reclaim_due = true;
	ssd->space_freed = true;
}

void ssd_segment_check(struct ssd *ssd, struct ssd_segment *segment)
{
	if (segment->state == SEGMENT_CLOSING && segment->unwritten == 0) {
		segment->state = SEGMENT_CLOSED;
		segment->log->closing--;
		segment->log->reclaim_due = true;
		ssd->io_freed = true;
	}
	/* Nothing more is to be moved away; it may have to wait for what can be reclaimed in its
	 * place alone. */
	if (segment->reclaiming && segment->live == 0 && segment->moves_unsafe) {
		segment->reclaiming = false;
		segment->log->reclaims--;
		segment->log->reclaim_due = true;
	}
	if (segment->state == SEGMENT_CLOSED && segment->live == 0 && segment->reads == 0 &&
		segment->moves == 0 && segment->moving_units == 0)
		segment_free(ssd, segment);
}

/* -------------------------------------------------------------------------------- the open */

uint32_t ssd_table_room(uint64_t entry_bytes)
{
	if (entry_bytes == 0)
		return 0;
	/* A table that is full holds more than half of its most bytes; each may waste a unit, and
	 * its head may need one. */
	return (uint32_t)(divide_up(entry_bytes, SSD_UNIT_BYTES) +
			  2 * (1 + entry_bytes / (SSD_TABLE_BYTES_MAX / 2)));
}

static bool segment_fits(const struct ssd_segment *segment, uint32_t units, uint32_t entry_bytes)
{
	return (uint64_t)segment->fill + units +
		       ssd_table_room((uint64_t)segment->pending_bytes + entry_bytes) <=
	       segment->table_begin;
}

void ssd_segment_close(struct ssd_log *log)
{
	struct ssd_segment *segment = log->open;

	SKEP_CHECK(segment->state == SEGMENT_OPEN || segment->state == SEGMENT_OPENING);
	if (log->gather && log->gather->segment == segment)
		ssd_gather_send(log);
	log->open = NULL;
	log->closing++;
	if (segment->state == SEGMENT_OPEN)
		segment->state = SEGMENT_CLOSING;
	ssd_table_want(log, segment->entries_end);
	ssd_segment_check(log->ssd, segment);
}

static void segment_open(struct ssd_log *log, struct ssd_segment *segment)
{
	struct ssd *ssd = log->ssd;

	SKEP_CHECK(!log->next);
	segment->log = log;
	segment->sequence = ssd->next_sequence++;
	segment->state = SEGMENT_OPENING;
	segment->entries_end = log->put_count;
	segment->live = segment->fill = segment->pending_bytes = segment->unwritten = 0;
	segment->table_begin = ssd->segment_units - 1;
	segment->table_count = 1;
	segment->reads = segment->moves = segment->moves_unsafe = segment->moving_units = 0;
	segment->lost = segment->broken = segment->unopened = segment->reclaiming = false;
	log->held++;
	log->next = segment;
	log->reclaim_due = true;
	ssd_opening_begin(log, segment);
}

/*
 * An opening is written behind all that is under way, and flushed: payload that had to wait for it
 * would leave the device idle at each change of segments. So the next one is opened soon after the
 * last one was taken in use, while there is no want of segments.
 */
static void next_prepare(struct ssd_log *log)
{
	struct ssd_segment *segment;

	if (log->next || log->opening.segment || log->open->state != SEGMENT_OPEN ||
		log->open->fill < log->ssd->segment_units / NEXT_SHARE ||
		ssd_log_free(log) <= ssd_log_reserve(log->quota_now) + 1)
		return;
	segment = free_take(log->ssd);
	if (segment)
		segment_open(log, segment);
}

void ssd_segment_next_drop(struct ssd_log *log)
{
	struct ssd_segment *segment = log->next;

	SKEP_CHECK(segment->state == SEGMENT_OPEN || segment->state == SEGMENT_OPENING);
	log->next = NULL;
	log->closing++;
	if (segment->state == SEGMENT_OPEN)
		segment->state = SEGMENT_CLOSING;
	ssd_segment_check(log->ssd, segment);
}

/*
 * A record that was durable and was moved stays so where the table of its new place fails: the old
 * place is kept until it has been moved on from there, and that is durable.
 */
static void moves_release(struct ssd_log *log)
{
	for (uint32_t i = 0; i < log->ssd->segment_count; i++) {
		struct ssd_segment *segment = &log->ssd->segments[i];

		if (segment->log != log || !segment->moves_unsafe)
			continue;
		segment->moves -= segment->moves_unsafe;
		segment->moves_unsafe = 0;
		ssd_segment_check(log->ssd, segment);
	}
	log->moves_unsafe = 0;
}

void ssd_moves_settle(struct ssd_log *log)
{
	if (!log->moves_unsafe)
		return;
	for (uint32_t i = 0; i < log->ssd->segment_count; i++) {
		const struct ssd_segment *segment = &log->ssd->segments[i];

		if (segment->log == log && segment->broken &&
			(segment->live || segment->moves > segment->moves_unsafe))
			return;
	}
	moves_release(log);
}

static int segment_find(struct ssd_log *log, uint32_t units, uint32_t entry_bytes, bool move)
{
	struct ssd *ssd = log->ssd;
	/* The one that was opened ahead holds nothing yet: it counts as free. */
	uint32_t held = log->held - (log->next != NULL);
	uint32_t left = held < log->quota_now ? log->quota_now - held : 0;
	struct ssd_segment *free;

	if (ssd->segments_healthy == 0)
		return -EROFS;
	if (log->open && left > SSD_RESERVE_MOVES)
		log->open->for_moves = false;
	if (log->open && segment_fits(log->open, units, entry_bytes)) {
		next_prepare(log);
		return log->open->for_moves && !move ? -ENOSPC : 0;
	}
	if (left <= (move ? 0 : SSD_RESERVE_MOVES))
		return -ENOSPC;
	if ((!log->next && log->opening.segment) || log->closing >= SSD_CLOSING_MAX)
		return -EAGAIN;
	if (!log->next) {
		free = free_take(ssd);
		if (!free)
			return -ENOSPC;
		segment_open(log, free);
	}
	if (log->open)
		ssd_segment_close(log);
	log->open = log->next;
	log->next = NULL;
	log->open->entries_end = log->put_count;
	log->open->for_moves = left <= SSD_RESERVE_MOVES;
	return 0;
}

int ssd_segment_find(struct ssd_log *log, uint32_t units, uint32_t entry_bytes, bool move)
{
	int status = segment_find(log, units, entry_bytes, move);

	if (status != -ENOSPC || !move || !log->moves_unsafe)
		return status;
	/* Or nothing could ever be moved to where it is safe. */
	log_warn("ssd", "log %s: no segment is free: the old places of %u records are given up",
		log->name, log->moves_unsafe);
	log->ssd->moves_given_up += log->moves_unsafe;
	moves_release(log);
	return segment_find(log, units, entry_bytes, move);
}

/* --------------------------------------------------------------------------------- reclaim */

/*
 * The segment that gives the most room for the least work. Those that are empty and wait for the
 * tables of what was moved away count as free already.
 */
static struct ssd_segment *victim_find(struct ssd_log *log)
{
	struct ssd *ssd = log->ssd;
	uint32_t soon = ssd_log_free(log);
	struct ssd_segment *best = NULL, *broken = NULL;

	for (uint32_t i = 0; i < ssd->segment_count; i++) {
		struct ssd_segment *segment = &ssd->segments[i];

		if (segment->log != log || segment->state != SEGMENT_CLOSED || segment->lost)
			continue;
		if (segment->live == 0) {
			soon++;
		} else if (!segment->reclaiming) {
			if (segment->broken)
				broken = segment;
			if (!best || segment->live < best->live ||
				(segment->live == best->live && segment->sequence < best->sequence))
				best = segment;
		}
	}
	if (broken)
		return broken;
	return soon < ssd_log_reserve(log->quota_now) ? best : NULL;
}

static void reclaim_ask(struct ssd_log *log, struct ssd_segment *segment)
{
	uint32_t units = log->ssd->segment_units;

	log->owner.reclaim(log->owner.arg, ssd_segment_index(log->ssd, segment) * units, units);
}

void ssd_reclaim_earn(struct ssd_log *log, uint32_t units)
{
	log->moves_earned =
		MIN_OF(log->moves_earned + (uint64_t)SSD_MOVES_EARNED * units, log->live);
}

/*
 * Near its limit a small log with large records may never have its reserve, however they lie: what
 * is left over at the ends of segments is too small for any of them. So they are moved for what was
 * put and dropped, and where a put waits, but not in circles while nothing happens.
 */
static bool reclaim_pays(const struct ssd_log *log, const struct ssd_segment *victim)
{
	return victim->broken || log->waits_space || victim->live <= log->moves_earned;
}

void ssd_reclaim(struct ssd_log *log)
{
	if (!log->ssd->ready || !log->owner.reclaim)
		return;
	while (log->reclaim_due && log->reclaims < SSD_RECLAIM_MAX) {
		struct ssd_segment *victim = victim_find(log);

		if (!victim || !reclaim_pays(log, victim)) {
			log->reclaim_due = false;
			return;
		}
		log->moves_earned -= MIN_OF(log->moves_earned, (uint64_t)victim->live);
		victim->reclaiming = true;
		log->reclaims++;
		reclaim_ask(log, victim);
	}
}

void ssd_reclaim_again(struct ssd *ssd)
{
	uint32_t asked = 0;

	for (unsigned i = 0; i < ssd->log_count; i++) {
		ssd->logs[i]->reclaim_due = true;
		asked += ssd->logs[i]->reclaims;
	}
	for (uint32_t i = 0; i < ssd->segment_count && asked; i++) {
		struct ssd_segment *segment = &ssd->segments[i];

		if (!segment->reclaiming)
			continue;
		asked--;
		if (segment->live > segment->moving_units)
			reclaim_ask(segment->log, segment);
	}
}

/* ----------------------------------------------------------------------------------- fence */

void ssd_fence(struct ssd *ssd, unsigned d)
{
	struct ssd_device *device = &ssd->devices[d];

	log_error(
		"ssd", "device %u is fenced after %u failed transfers in a row", d, device->errors);
	device->fenced = device->lost_due = true;
	device->free_count = 0;
	ssd->segments_healthy -= device->segments;
	for (uint32_t i = 0; i < ssd->segment_count; i++) {
		struct ssd_segment *segment = &ssd->segments[i];
		struct ssd_log *log = segment->log;

		if (segment->device != d || !log || segment->state == SEGMENT_UNKNOWN)
			continue;
		segment->lost = true;
		log->held--;
		if (segment->broken) {
			segment->broken = false;
			log->broken--;
		}
		if (segment->reclaiming) {
			segment->reclaiming = false;
			log->reclaims--;
		}
		if (log->open == segment)
			ssd_segment_close(log);
		if (log->next == segment)
			ssd_segment_next_drop(log);
	}
	ssd_quotas_set(ssd);
}

void ssd_tell_lost(struct ssd *ssd)
{
	for (unsigned d = 0; d < ssd->io->device_count; d++) {
		if (!ssd->devices[d].lost_due)
			continue;
		ssd->devices[d].lost_due = false;
		for (uint32_t i = 0; i < ssd->segment_count; i++) {
			struct ssd_segment *segment = &ssd->segments[i];
			struct ssd_log *log = segment->log;

			if (segment->device == d && log && segment->lost && segment->live &&
				log->owner.lost)
				log->owner.lost(
					log->owner.arg, i * ssd->segment_units, segment->fill);
		}
	}
}

bool ssd_device_fenced(const struct ssd *ssd, unsigned device)
{
	SKEP_CHECK(device < ssd->io->device_count);
	return ssd->devices[device].fenced;
}

int ssd_device_unfence(struct ssd *ssd, unsigned d)
{
	struct ssd_device *device = &ssd->devices[d];

	if (d >= ssd->io->device_count)
		return -ENODEV;
	device->errors = 0;
	if (!device->fenced)
		return 0;
	/* Those that hold records stay lost until the owner has dropped these. A segment takes its
	 * first payload after its new opening alone, so what lies there is not found again. */
	device->fenced = false;
	ssd->segments_healthy += device->segments;
	for (uint32_t i = 0; i < ssd->segment_count; i++)
		if (ssd->segments[i].device == d && ssd->segments[i].state == SEGMENT_FREE)
			ssd_free_push(ssd, &ssd->segments[i]);
	ssd_quotas_set(ssd);
	return 0;
}
