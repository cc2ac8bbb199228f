/* SPDX-License-Identifier: Apache-2.0 */
/* Records on their way in: appended, or moved from an older segment. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "tiering/ssd/ssd_priv.h"

/* --------------------------------------------------------------------------------- entries */

/* Labels lie in one piece each: what is too short at the end of the ring is left out. */
static uint64_t label_place(const struct ssd_log *log, uint32_t bytes)
{
	uint64_t at = log->labels_end;
	uint32_t offset = (uint32_t)(at % log->labels_bytes);

	return offset + bytes > log->labels_bytes ? at + log->labels_bytes - offset : at;
}

bool ssd_entry_room(const struct ssd_log *log, uint32_t label_bytes)
{
	return log->put_count - log->retired < log->entries_max &&
	       label_place(log, label_bytes) + label_bytes - log->labels_begin <= log->labels_bytes;
}

uint64_t ssd_entry_add(struct ssd_log *log, struct ssd_put *put)
{
	struct ssd *ssd = log->ssd;
	struct ssd_segment *segment = log->open;
	uint64_t label_at = label_place(log, put->label_bytes);
	uint64_t number = log->put_count++;
	struct ssd_entry *entry = ssd_entry_at(log, number);

	log->labels_end = label_at + put->label_bytes;
	SKEP_CHECK(log->labels_end - log->labels_begin <= log->labels_bytes);
	*entry = (struct ssd_entry){.put = put,
		.label_at = (uint32_t)(label_at % log->labels_bytes),
		.label_end = log->labels_end,
		.label_bytes = put->label_bytes,
		.segment = ssd_segment_index(ssd, segment),
		.first = segment->fill,
		.units = put->units,
		.from = SSD_NONE};
	if (put->label_bytes)
		memcpy(log->labels + entry->label_at, put->label, put->label_bytes);
	put->at = entry->segment * ssd->segment_units + segment->fill;
	segment->fill += put->units;
	segment->pending_bytes += ssd_entry_bytes(put->label_bytes);
	segment->live += put->units;
	segment->unwritten++;
	segment->entries_end = log->put_count;
	log->live += put->units;
	if (!log->dirty) {
		log->dirty = true;
		log->dirty_ns = ssd->now_ns;
	}
	/* A table in time, so that the rings do not fill while it is written. */
	if ((log->put_count - log->retired > log->entries_max / 2 ||
		    log->labels_end - log->labels_begin > log->labels_bytes / 2) &&
		log->table_upto <= log->retired)
		ssd_table_want(log, log->put_count);
	return number;
}

void ssd_entry_complete(struct ssd_log *log, uint64_t number)
{
	struct ssd *ssd = log->ssd;
	struct ssd_entry *entry = ssd_entry_at(log, number);
	struct ssd_segment *segment = &ssd->segments[entry->segment];
	struct ssd_put *put = entry->put;
	int status;

	SKEP_CHECK(number < log->put_count && !entry->complete && entry->parts == 0);
	/* Its owner is not told of it by lost(), which may have been called already. */
	if (segment->lost && !entry->status)
		entry->status = -EIO;
	status = entry->status;
	if (status) {
		segment->live -= entry->units;
		log->live -= entry->units;
		if (entry->from != SSD_NONE) {
			struct ssd_segment *from = &ssd->segments[entry->from];

			entry->from = SSD_NONE;
			from->moves--;
			ssd_segment_check(ssd, from);
		}
	} else {
		log->puts++;
		if (entry->from != SSD_NONE)
			log->moved_bytes += (uint64_t)entry->units * SSD_UNIT_BYTES;
		else
			log->put_bytes += (uint64_t)entry->units * SSD_UNIT_BYTES;
	}
	entry->put = NULL;
	entry->complete = true;
	while (log->complete < log->put_count && ssd_entry_at(log, log->complete)->complete)
		log->complete++;
	log->moved = entry->from == SSD_NONE ? NULL : entry;
	put->done(put, status);
	log->moved = NULL;
}

/* ------------------------------------------------------------------------------------ puts */

static void write_finish(struct ssd_transfer *transfer, int status)
{
	struct ssd *ssd = transfer->ssd;
	struct ssd_log *log = transfer->log;
	uint64_t first = transfer->entry_first, end = first + transfer->entry_count;

	ssd->write_bytes -= transfer->request.bytes;
	ssd_write_give(ssd, transfer);
	for (uint64_t number = first; number < end; number++) {
		struct ssd_entry *entry = ssd_entry_at(log, number);

		if (status)
			entry->status = status;
		SKEP_CHECK(entry->parts > 0);
		if (--entry->parts == 0)
			ssd_entry_complete(log, number);
	}
}

static struct ssd_transfer *write_begin(struct ssd_log *log, uint64_t number, uint32_t unit)
{
	struct ssd *ssd = log->ssd;
	struct ssd_transfer *transfer = ssd_write_take(ssd);

	SKEP_CHECK(transfer); /* counted before */
	transfer->log = log;
	transfer->segment = log->open;
	transfer->finish = write_finish;
	transfer->entry_first = number;
	transfer->request.op = SSD_OP_WRITE;
	transfer->request.offset = ssd_segment_offset(ssd, log->open, unit);
	return transfer;
}

void ssd_gather_send(struct ssd_log *log)
{
	struct ssd_transfer *transfer = log->gather;

	log->gather = NULL;
	if (transfer)
		ssd_send(transfer);
}

static bool gathers(const struct ssd_log *log, uint32_t unit, uint64_t bytes, uint32_t piece_count)
{
	const struct ssd_request *request = log->gather ? &log->gather->request : NULL;

	return request && log->gather->segment == log->open &&
	       request->offset + request->bytes == ssd_segment_offset(log->ssd, log->open, unit) &&
	       request->bytes + bytes <= SSD_MERGE_BYTES &&
	       request->piece_count + piece_count <= SSD_PIECES_MAX;
}

static void write_out(struct ssd_log *log, struct ssd_put *put, uint64_t number)
{
	struct ssd *ssd = log->ssd;
	struct ssd_entry *entry = ssd_entry_at(log, number);
	struct ssd_cut cut = {.pieces = put->pieces, .piece_count = put->piece_count};
	uint64_t bytes = (uint64_t)put->units * SSD_UNIT_BYTES, at = 0;

	ssd->write_bytes += bytes;
	if (!gathers(log, entry->first, bytes, put->piece_count))
		ssd_gather_send(log);
	while (at < bytes) {
		struct ssd_transfer *transfer = log->gather;

		if (!transfer)
			transfer = write_begin(
				log, number, entry->first + (uint32_t)(at / SSD_UNIT_BYTES));
		log->gather = transfer;
		transfer->entry_count++;
		entry->parts++;
		at += ssd_cut_take(&cut, &transfer->request, ssd_split_bytes(bytes));
		if (at < bytes)
			ssd_gather_send(log);
	}
	if (log->gather->request.bytes >= SSD_MERGE_BYTES)
		ssd_gather_send(log);
}

/* The checks that puts and moves share, and a place for the record. */
static int put_begin(struct ssd_log *log, struct ssd_put *put, bool move)
{
	uint32_t entry_bytes = ssd_entry_bytes(put->label_bytes);
	int status;

	if ((uint64_t)put->units + ssd_table_room(entry_bytes) > log->ssd->segment_units - 1)
		return -EFBIG;
	if (!ssd_entry_room(log, put->label_bytes)) {
		ssd_table_want(log, log->put_count);
		status = -EAGAIN;
	} else {
		status = ssd_segment_find(log, put->units, entry_bytes, move);
	}
	if (status == -EAGAIN)
		log->waits_io = true;
	if (status == -ENOSPC || status == -EROFS) {
		log->waits_space = true;
		log->reclaim_due = true;
	}
	return status;
}

int ssd_put(struct ssd_log *log, struct ssd_put *put)
{
	struct ssd *ssd = log->ssd;
	uint64_t bytes = 0;
	int status;

	SKEP_CHECK(ssd->ready);
	SKEP_CHECK(put->piece_count > 0 && put->piece_count <= SSD_PIECES_MAX);
	for (uint32_t i = 0; i < put->piece_count; i++) {
		SKEP_CHECK(put->pieces[i].iov_len && put->pieces[i].iov_len % SSD_UNIT_BYTES == 0);
		bytes += put->pieces[i].iov_len;
	}
	if (put->label_bytes > SSD_LABEL_MAX)
		return -E2BIG;
	if (bytes > ssd->segment_bytes)
		return -EFBIG;
	put->units = (uint32_t)(bytes / SSD_UNIT_BYTES);
	if (ssd->wear.bytes_per_day && ssd->wear.left <= 0) {
		ssd->wear.waits++;
		log->waits_io = true;
		return -EAGAIN;
	}
	if ((ssd->write_bytes && ssd->write_bytes + bytes >
					 (uint64_t)SSD_WRITE_BYTES_MAX * ssd->io->device_count) ||
		ssd->writes_free < ssd_split_count(bytes, put->piece_count)) {
		log->waits_io = true;
		return -EAGAIN;
	}
	status = put_begin(log, put, false);
	if (status)
		return status;
	write_out(log, put, ssd_entry_add(log, put));
	ssd_reclaim_earn(log, put->units);
	return 0;
}

/* ----------------------------------------------------------------------------------- moves */

static void move_step(struct ssd_mover *mover);

static void move_end(struct ssd_mover *mover, int status)
{
	struct ssd_segment *from = mover->from;
	struct ssd_log *log = mover->transfer.log;
	struct ssd_entry *entry = ssd_entry_at(log, mover->entry);

	entry->parts = 0;
	entry->status = status;
	ssd_entry_complete(log, mover->entry);
	/* The owner has dropped the old place by now, if it wanted the move. */
	from->moving_units -= mover->units;
	mover->busy = false;
	log->ssd->io_freed = true;
	ssd_segment_check(log->ssd, from);
}

static void move_write_finish(struct ssd_transfer *transfer, int status)
{
	struct ssd_mover *mover = list_item(transfer, struct ssd_mover, transfer);

	mover->moved += (uint32_t)(transfer->request.bytes / SSD_UNIT_BYTES);
	if (status || mover->moved == mover->units)
		move_end(mover, status);
	else
		move_step(mover);
}

static void move_read_finish(struct ssd_transfer *transfer, int status)
{
	struct ssd_mover *mover = list_item(transfer, struct ssd_mover, transfer);

	if (status) {
		move_end(mover, status);
		return;
	}
	transfer->segment = mover->to;
	transfer->finish = move_write_finish;
	transfer->request.op = SSD_OP_WRITE;
	transfer->request.offset =
		ssd_segment_offset(transfer->ssd, mover->to, mover->to_unit + mover->moved);
	ssd_send(transfer);
}

static void move_step(struct ssd_mover *mover)
{
	struct ssd_transfer *transfer = &mover->transfer;
	uint64_t bytes = MIN_OF(
		(uint64_t)(mover->units - mover->moved) * SSD_UNIT_BYTES, (uint64_t)SSD_MOVE_BYTES);

	transfer->segment = mover->from;
	transfer->finish = move_read_finish;
	transfer->request.op = SSD_OP_READ;
	transfer->request.check = NULL;
	transfer->request.offset =
		ssd_segment_offset(transfer->ssd, mover->from, mover->from_unit + mover->moved);
	transfer->request.bytes = bytes;
	transfer->request.piece_count = 1;
	transfer->request.pieces[0] = (struct iovec){mover->buffer, bytes};
	ssd_send(transfer);
}

int ssd_move(struct ssd_log *log, uint32_t from, uint32_t units, struct ssd_put *put)
{
	struct ssd *ssd = log->ssd;
	struct ssd_segment *segment = ssd_segment_at(log, from, units);
	struct ssd_mover *mover = ssd->movers;
	struct ssd_entry *entry;
	int status;

	SKEP_CHECK(ssd->ready);
	if (put->label_bytes > SSD_LABEL_MAX)
		return -E2BIG;
	if (segment->lost)
		return -EIO;
	while (mover < ssd->movers + SSD_MOVES_MAX && mover->busy)
		mover++;
	if (mover == ssd->movers + SSD_MOVES_MAX) {
		log->waits_io = true;
		return -EAGAIN;
	}
	put->units = units;
	status = put_begin(log, put, true);
	if (status)
		return status;
	mover->busy = true;
	mover->from = segment;
	mover->from_unit = from % ssd->segment_units;
	mover->units = units;
	mover->moved = 0;
	mover->to = log->open;
	mover->to_unit = log->open->fill;
	mover->transfer.log = log;
	mover->entry = ssd_entry_add(log, put);
	entry = ssd_entry_at(log, mover->entry);
	entry->parts = 1;
	entry->from = ssd_segment_index(ssd, segment);
	entry->from_unit = mover->from_unit;
	segment->moves++;
	segment->moving_units += units;
	move_step(mover);
	return 0;
}

/* The entry of a record that is in no table yet, or NULL. A segment's entries follow each other. */
static struct ssd_entry *entry_find(struct ssd_segment *segment, uint32_t unit)
{
	struct ssd_log *log = segment->log;
	uint64_t low = segment->entries_end - segment->unwritten, high = segment->entries_end;

	while (low < high) {
		uint64_t middle = low + (high - low) / 2;
		struct ssd_entry *entry = ssd_entry_at(log, middle);

		if (entry->first == unit)
			return entry;
		if (entry->first < unit)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

void ssd_tell_dead(struct ssd *ssd, struct ssd_segment *segment, uint32_t unit)
{
	while (segment && ssd->has_ledger) {
		struct ssd_entry *entry = entry_find(segment, unit);

		ssd->ledger.dead(ssd->ledger.arg, segment->sequence, unit);
		segment = NULL;
		if (entry && entry->from_dead) {
			entry->from_dead = false;
			segment = &ssd->segments[entry->from];
			unit = entry->from_unit;
		}
	}
}

void ssd_drop(struct ssd_log *log, uint32_t at, uint32_t units)
{
	struct ssd *ssd = log->ssd;
	struct ssd_segment *segment = ssd_segment_at(log, at, units);
	struct ssd_entry *moved = log->moved;

	SKEP_CHECK(segment->live >= units && log->live >= units);
	segment->live -= units;
	log->live -= units;
	if (moved && moved->from == ssd_segment_index(ssd, segment) &&
		moved->from_unit == at % ssd->segment_units) {
		moved->from_dead = true;
	} else {
		ssd_tell_dead(ssd, segment, at % ssd->segment_units);
		ssd_reclaim_earn(log, units);
	}
	/* It is reused when what was moved away is durable; nobody else may ask for that. */
	if (segment->live == 0 && segment->moves && segment->reclaiming)
		ssd_table_want(log, log->put_count);
	ssd_segment_check(ssd, segment);
}
