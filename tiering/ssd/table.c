/* SPDX-License-Identifier: Apache-2.0 */
/* What is written beside records: openings, tables, and the flush that makes them durable. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/log.h"
#include "tiering/ssd/ssd_priv.h"

static void writer_send(struct ssd_writer *writer)
{
	struct ssd_transfer *transfer = &writer->transfer;
	uint64_t bytes = (uint64_t)writer->units * SSD_UNIT_BYTES;

	writer->stage = WRITER_WRITES;
	transfer->segment = writer->segment;
	transfer->request.op = SSD_OP_WRITE;
	transfer->request.offset = ssd_segment_offset(transfer->ssd, writer->segment, writer->unit);
	transfer->request.bytes = bytes;
	transfer->request.piece_count = 1;
	transfer->request.pieces[0] = (struct iovec){writer->buffer, bytes};
	ssd_send(transfer);
}

static void writer_flush(struct ssd_writer *writer, enum ssd_writer_stage stage)
{
	writer->stage = stage;
	writer->flush_complete = writer->transfer.log->complete;
	writer->transfer.segment = writer->segment;
	writer->transfer.request.op = SSD_OP_FLUSH;
	writer->transfer.request.offset = writer->transfer.request.bytes = 0;
	writer->transfer.request.piece_count = 0;
	ssd_send(&writer->transfer);
}

static void writer_seal(
	struct ssd_writer *writer, struct ssd_log *log, uint32_t entry_count, uint64_t entry_bytes)
{
	struct ssd *ssd = log->ssd;
	struct ssd_segment *segment = writer->segment;
	struct ssd_table_head head = {.magic = SSD_TABLE_MAGIC,
		.set = ssd->set,
		.sequence = segment->sequence,
		.device = ssd->devices[segment->device].set_index,
		.segment = segment->slot,
		.table = writer == &log->opening ? 0 : segment->table_count,
		.units = writer->units,
		.entry_count = entry_count,
		.entry_bytes = (uint32_t)entry_bytes};

	_Static_assert(sizeof(head.log) == sizeof(log->name), "names fit");
	memcpy(head.log, log->name, sizeof(head.log));
	ssd_table_seal(writer->buffer, &head);
}

/* -------------------------------------------------------------------------------- openings */

static void opening_failed(struct ssd_log *log, struct ssd_segment *segment)
{
	log_warn("ssd", "log %s: the opening of a segment of device %u cannot be written",
		log->name, segment->device);
	log->opening.segment = NULL;
	segment->unopened = true;
	if (log->open == segment)
		ssd_segment_close(log);
	if (log->next == segment)
		ssd_segment_next_drop(log);
	segment->state = SEGMENT_CLOSING;
	ssd_held_release(log, -EIO);
	ssd_segment_check(log->ssd, segment);
}

static void opening_finish(struct ssd_transfer *transfer, int status)
{
	struct ssd_writer *writer = list_item(transfer, struct ssd_writer, transfer);
	struct ssd_log *log = transfer->log;
	struct ssd *ssd = log->ssd;
	struct ssd_segment *segment = writer->segment;

	ssd->io_freed = true;
	if (status || segment->lost) {
		if (segment->lost || ++writer->tries >= SSD_TRIES_MAX)
			opening_failed(log, segment);
		else
			writer_send(writer);
		return;
	}
	if (writer->stage == WRITER_WRITES) {
		writer_flush(writer, WRITER_FLUSHES);
		return;
	}
	writer->segment = NULL;
	segment->state =
		log->open == segment || log->next == segment ? SEGMENT_OPEN : SEGMENT_CLOSING;
	if (segment->sequence_before && ssd->has_ledger)
		ssd->ledger.freed(ssd->ledger.arg, segment->sequence_before);
	segment->sequence_before = 0;
	ssd_held_release(log, 0);
	ssd_segment_check(ssd, segment);
}

void ssd_opening_begin(struct ssd_log *log, struct ssd_segment *segment)
{
	struct ssd_writer *writer = &log->opening;

	SKEP_CHECK(!writer->segment && segment->state == SEGMENT_OPENING);
	SKEP_CHECK(list_empty(&log->waiting));
	writer->segment = segment;
	writer->unit = log->ssd->segment_units - 1;
	writer->units = 1;
	writer->tries = 0;
	writer->transfer.log = log;
	writer->transfer.finish = opening_finish;
	writer_seal(writer, log, 0, 0);
	writer_send(writer);
}

/* ---------------------------------------------------------------------------------- tables */

void ssd_table_want(struct ssd_log *log, uint64_t upto)
{
	/* A mark that is waited for is not pushed on, or new puts would put it off for ever. */
	if (log->table_upto <= log->retired)
		log->table_upto = upto;
	else
		log->table_next = MAX_OF(log->table_next, upto);
}

void ssd_syncs_finish(struct ssd_log *log)
{
	while (!list_empty(&log->syncs)) {
		struct ssd_sync *sync = list_item(log->syncs.next, struct ssd_sync, link);

		if (sync->put_count > log->retired)
			return;
		list_remove(&sync->link);
		sync->done(sync, sync->status);
	}
}

/* Records that are in no table and never will be, until the owner has moved or dropped them. */
static bool holds_undurable(const struct ssd_log *log)
{
	const struct ssd *ssd = log->ssd;

	for (uint32_t i = 0; i < ssd->segment_count && log->broken; i++)
		if (ssd->segments[i].log == log && ssd->segments[i].broken && ssd->segments[i].live)
			return true;
	return false;
}

void ssd_sync(struct ssd_log *log, struct ssd_sync *sync)
{
	SKEP_CHECK(log->ssd->ready);
	sync->put_count = log->put_count;
	sync->status = holds_undurable(log) ? -EIO : 0;
	list_append(&log->syncs, &sync->link);
	ssd_table_want(log, log->put_count);
}

/* The entries before @upto are in a table (@status 0), or in none for ever. */
static void retire(struct ssd_log *log, uint64_t upto, int status)
{
	struct ssd *ssd = log->ssd;
	struct ssd_segment *segment = &ssd->segments[ssd_entry_at(log, log->retired)->segment];
	bool failed = false;

	SKEP_CHECK(upto > log->retired && upto <= log->complete);
	while (log->retired < upto) {
		struct ssd_entry *entry = ssd_entry_at(log, log->retired++);

		SKEP_CHECK(&ssd->segments[entry->segment] == segment);
		segment->unwritten--;
		log->labels_begin = entry->label_end;
		if (entry->from != SSD_NONE) {
			struct ssd_segment *from = &ssd->segments[entry->from];

			if (entry->from_dead && !status)
				ssd_tell_dead(ssd, from, entry->from_unit);
			if (status && segment->broken) {
				from->moves_unsafe++;
				log->moves_unsafe++;
			} else {
				from->moves--;
			}
			ssd_segment_check(ssd, from);
		}
		if (entry->status == 0 && status)
			failed = true;
		else if (entry->status == 0)
			log->puts_durable++;
	}
	if (failed)
		list_each (at, &log->syncs)
			list_item(at, struct ssd_sync, link)->status = status;
	log->dirty_ns = ssd->now_ns;
	log->dirty = log->retired < log->put_count;
	ssd->io_freed = true;
	ssd_segment_check(ssd, segment);
}

static void table_failed(struct ssd_log *log, struct ssd_segment *segment)
{
	if (!segment->lost) {
		log_warn("ssd", "log %s: a table of device %u cannot be written", log->name,
			segment->device);
		segment->broken = true;
		log->broken++;
	}
	if (log->open == segment)
		ssd_segment_close(log);
	log->reclaim_due = true;
}

static void table_finish(struct ssd_transfer *transfer, int status)
{
	struct ssd_writer *writer = list_item(transfer, struct ssd_writer, transfer);
	struct ssd_log *log = transfer->log;
	struct ssd_segment *segment = writer->segment;

	if (segment->lost)
		status = -EIO;
	/* A flush that fails may have lost what was written before it: all is done again. */
	if (status && !segment->lost && ++writer->tries < SSD_TRIES_MAX) {
		writer_flush(writer, WRITER_SETTLES);
		return;
	}
	if (status == 0 && writer->stage != WRITER_WRITES)
		log->settled[segment->device] = writer->flush_complete;
	if (status == 0 && writer->stage != WRITER_FLUSHES) {
		if (writer->stage == WRITER_SETTLES)
			writer_send(writer);
		else
			writer_flush(writer, WRITER_FLUSHES);
		return;
	}
	writer->segment = NULL;
	if (status) {
		table_failed(log, segment);
	} else {
		segment->table_count++;
		log->table_bytes += (uint64_t)writer->units * SSD_UNIT_BYTES;
	}
	retire(log, writer->upto, status);
}

/* What of the complete entries of @segment goes in one table. */
struct table_content {
	uint64_t upto, bytes;
	uint32_t count, consumed;
};

static struct table_content table_fill(struct ssd_log *log, struct ssd_segment *segment)
{
	struct table_content content = {.upto = log->retired};
	uint64_t end = MIN_OF(log->complete, segment->entries_end);
	uint64_t most = SSD_TABLE_BYTES_MAX - sizeof(struct ssd_table_head);

	for (; content.upto < end; content.upto++) {
		struct ssd_entry *entry = ssd_entry_at(log, content.upto);
		uint32_t bytes = ssd_entry_bytes(entry->label_bytes);
		struct ssd_table_entry stored = {.first = entry->first,
			.units = entry->units,
			.label_bytes = entry->label_bytes};
		uint8_t *to = log->table.buffer + content.bytes;

		if (entry->status == 0) {
			if (content.bytes + bytes > most)
				break;
			memcpy(to, &stored, sizeof(stored));
			memset(to + bytes - 8, 0, entry->label_bytes ? 8 : 0);
			memcpy(to + sizeof(stored), log->labels + entry->label_at,
				entry->label_bytes);
			content.bytes += bytes;
			content.count++;
		}
		content.consumed += bytes;
	}
	return content;
}

/* Return: false where it must wait for more of the segment's records. */
static bool table_begin(struct ssd_log *log, struct ssd_segment *segment)
{
	struct ssd_writer *writer = &log->table;
	struct table_content content = table_fill(log, segment);
	uint32_t units = ssd_table_units(content.bytes);
	uint32_t rest = ssd_table_room(segment->pending_bytes - content.consumed);

	if (content.bytes == 0) {
		segment->pending_bytes -= content.consumed;
		retire(log, content.upto, 0);
		return true;
	}
	if ((uint64_t)segment->fill + units + rest > segment->table_begin) {
		/* No room for one more table than what was counted on: then all in one. */
		if (log->open == segment)
			ssd_segment_close(log);
		if (log->complete < segment->entries_end)
			return false;
	}
	SKEP_CHECK(segment->fill + units <= segment->table_begin);
	segment->pending_bytes -= content.consumed;
	segment->table_begin -= units;
	writer->segment = segment;
	writer->upto = content.upto;
	writer->unit = segment->table_begin;
	writer->units = units;
	writer->tries = 0;
	writer->transfer.log = log;
	writer->transfer.finish = table_finish;
	writer_seal(writer, log, content.count, content.bytes);
	/* The payloads first: a table that is found after a power cut speaks for bytes that are
	 * there, or a moved record could lose to its own newer copy. The flush of the table before
	 * may have taken them along. */
	if (content.upto <= log->settled[segment->device])
		writer_send(writer);
	else
		writer_flush(writer, WRITER_SETTLES);
	return true;
}

void ssd_table_step(struct ssd_log *log)
{
	ssd_syncs_finish(log);
	while (!log->table.segment && log->retired < log->put_count) {
		struct ssd_segment *segment =
			&log->ssd->segments[ssd_entry_at(log, log->retired)->segment];

		if (segment->lost || segment->broken || segment->unopened) {
			if (log->complete == log->retired)
				break;
			retire(log, MIN_OF(log->complete, segment->entries_end), -EIO);
			continue;
		}
		if (log->table_upto <= log->retired)
			log->table_upto = log->table_next;
		if (log->table_upto <= log->retired ||
			log->complete < MIN_OF(log->table_upto, segment->entries_end) ||
			!table_begin(log, segment))
			break;
	}
	ssd_moves_settle(log);
	ssd_syncs_finish(log);
}
