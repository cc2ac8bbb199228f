/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes on their way out. */
#include <errno.h>

#include "base/bits.h"
#include "base/check.h"
#include "tiering/ssd/ssd_priv.h"

/* On the I/O thread, which owns the gets of a request while it is under way. */
static int read_check(struct ssd_request *request)
{
	struct ssd_transfer *transfer = list_item(request, struct ssd_transfer, request);
	struct ssd_get *part_of = transfer->part_of;

	if (part_of) {
		/* The last one sees the bytes of the others: release here, acquire there. */
		if (atomic_fetch_sub_explicit(&part_of->unread, 1, memory_order_acq_rel) == 1 &&
			part_of->check)
			part_of->status = part_of->check(part_of);
		return 0;
	}
	list_each (at, &transfer->gets) {
		struct ssd_get *get = list_item(at, struct ssd_get, link);

		if (get->check)
			get->status = get->check(get);
	}
	return 0;
}

static void read_finish(struct ssd_transfer *transfer, int status)
{
	struct ssd *ssd = transfer->ssd;
	struct ssd_segment *segment = transfer->segment;
	struct ssd_get *part_of = transfer->part_of;

	if (status)
		status = -EIO;
	while (!list_empty(&transfer->gets)) {
		struct ssd_get *get = list_item(transfer->gets.next, struct ssd_get, link);

		list_remove(&get->link);
		get->done(get, status ? status : get->status);
	}
	ssd_read_give(ssd, transfer);
	segment->reads--;
	ssd_segment_check(ssd, segment);
	if (!part_of)
		return;
	/* No check runs, or has run, where one part has failed. */
	if (status)
		part_of->status = status;
	if (--part_of->parts == 0)
		part_of->done(part_of, part_of->status);
}

static struct ssd_transfer *read_begin(struct ssd *ssd, struct ssd_segment *segment, uint32_t unit)
{
	struct ssd_transfer *transfer = ssd_read_take(ssd);

	SKEP_CHECK(transfer); /* counted before */
	transfer->segment = segment;
	transfer->finish = read_finish;
	transfer->request.op = SSD_OP_READ;
	transfer->request.check = read_check;
	transfer->request.offset = ssd_segment_offset(ssd, segment, unit);
	segment->reads++;
	return transfer;
}

void ssd_get_gather_send(struct ssd *ssd)
{
	struct ssd_transfer *transfer = ssd->gather;

	ssd->gather = NULL;
	if (transfer)
		ssd_send(transfer);
}

/* A long get, in requests of its own. */
static void get_parts(struct ssd *ssd, struct ssd_segment *segment, struct ssd_get *get,
	uint64_t bytes, uint32_t parts_max)
{
	struct ssd_cut cut = {.pieces = get->pieces, .piece_count = get->piece_count};
	struct ssd_transfer *parts[SSD_READS_MAX];
	uint32_t unit = get->at % ssd->segment_units, count = 0;

	for (uint64_t at = 0; at < bytes; count++) {
		SKEP_CHECK(count < parts_max);
		parts[count] = read_begin(ssd, segment, unit + (uint32_t)(at / SSD_UNIT_BYTES));
		parts[count]->part_of = get;
		at += ssd_cut_take(&cut, &parts[count]->request, ssd_split_bytes(bytes));
	}
	get->parts = count;
	atomic_store_explicit(&get->unread, count, memory_order_relaxed);
	for (uint32_t i = 0; i < count; i++)
		ssd_send(parts[i]);
}

int ssd_get(struct ssd_log *log, struct ssd_get *get)
{
	struct ssd *ssd = log->ssd;
	struct ssd_cut cut = {.pieces = get->pieces, .piece_count = get->piece_count};
	struct ssd_transfer *gather = ssd->gather;
	struct ssd_segment *segment;
	uint32_t unit = get->at % ssd->segment_units, requests;
	uint64_t bytes = 0;

	SKEP_CHECK(get->piece_count > 0 && get->piece_count <= SSD_GET_PIECES_MAX);
	for (uint32_t i = 0; i < get->piece_count; i++) {
		SKEP_CHECK(get->pieces[i].iov_len && get->pieces[i].iov_len % SSD_UNIT_BYTES == 0);
		bytes += get->pieces[i].iov_len;
	}
	SKEP_CHECK(bytes <= ssd->segment_bytes);
	segment = ssd_segment_at(log, get->at, (uint32_t)(bytes / SSD_UNIT_BYTES));
	if (segment->lost)
		return -EIO;
	get->status = 0;
	requests = ssd_split_count(bytes, get->piece_count);
	if (gather && gather->segment == segment && requests == 1 &&
		gather->request.offset + gather->request.bytes ==
			ssd_segment_offset(ssd, segment, unit) &&
		gather->request.bytes + bytes <= SSD_MERGE_BYTES &&
		gather->request.piece_count + get->piece_count <= SSD_PIECES_MAX) {
		ssd_cut_take(&cut, &gather->request, bytes);
		list_append(&gather->gets, &get->link);
		return 0;
	}
	if (ssd->reads_free < requests) {
		log->waits_io = true;
		return -EAGAIN;
	}
	ssd_get_gather_send(ssd);
	if (requests > 1) {
		get_parts(ssd, segment, get, bytes, requests);
		return 0;
	}
	ssd->gather = read_begin(ssd, segment, unit);
	ssd_cut_take(&cut, &ssd->gather->request, bytes);
	list_append(&ssd->gather->gets, &get->link);
	return 0;
}
