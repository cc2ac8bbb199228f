/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests on their way: from the pools, cut to size, held for an opening, not taken by a full back
 * end, failed before they were sent; and what is done after each of them came back.
 */
#include <errno.h>

#include "base/bits.h"
#include "base/check.h"
#include "tiering/ssd/ssd_priv.h"

static void transfer_end(struct ssd_transfer *transfer, int status)
{
	struct ssd *ssd = transfer->ssd;

	SKEP_CHECK(ssd->in_flight > 0);
	ssd->in_flight--;
	transfer->finish(transfer, status);
}

static void transfer_done(struct ssd_request *request, int status)
{
	struct ssd_transfer *transfer = list_item(request, struct ssd_transfer, request);
	struct ssd *ssd = transfer->ssd;
	struct ssd_device *device = &ssd->devices[request->device];

	if (status == 0) {
		device->errors = 0;
	} else {
		if (request->op == SSD_OP_READ)
			ssd->read_errors++;
		else
			ssd->write_errors++;
		if (++device->errors >= ssd->errors_max && !device->fenced)
			ssd_fence(ssd, request->device);
	}
	/* An owner that kicks from inside a done() is served when that has come back. */
	ssd->settling = true;
	transfer_end(transfer, status < 0 ? status : status ? -EIO : 0);
	ssd->settling = false;
	ssd_settle(ssd);
}

void ssd_transfer_init(struct ssd *ssd, struct ssd_transfer *transfer)
{
	transfer->ssd = ssd;
	transfer->request.done = transfer_done;
	list_init(&transfer->link);
	list_init(&transfer->gets);
}

static struct ssd_transfer *pool_take(struct list *pool, unsigned *count)
{
	struct ssd_transfer *transfer;

	if (list_empty(pool))
		return NULL;
	transfer = list_item(pool->next, struct ssd_transfer, link);
	list_remove(&transfer->link);
	(*count)--;
	transfer->request.piece_count = 0;
	transfer->request.bytes = 0;
	transfer->request.check = NULL;
	transfer->entry_count = 0;
	transfer->part_of = NULL;
	transfer->log = NULL;
	return transfer;
}

struct ssd_transfer *ssd_write_take(struct ssd *ssd)
{
	return pool_take(&ssd->writes, &ssd->writes_free);
}

struct ssd_transfer *ssd_read_take(struct ssd *ssd)
{
	return pool_take(&ssd->reads, &ssd->reads_free);
}

void ssd_write_give(struct ssd *ssd, struct ssd_transfer *transfer)
{
	list_append(&ssd->writes, &transfer->link);
	ssd->writes_free++;
	ssd->io_freed = true;
}

void ssd_read_give(struct ssd *ssd, struct ssd_transfer *transfer)
{
	SKEP_CHECK(list_empty(&transfer->gets));
	list_append(&ssd->reads, &transfer->link);
	ssd->reads_free++;
	ssd->io_freed = true;
}

/* ---------------------------------------------------------------------------------- pieces */

uint64_t ssd_split_bytes(uint64_t bytes)
{
	return MAX_OF((uint64_t)SSD_MERGE_BYTES,
		align_up(divide_up(bytes, SSD_SPLIT_MAX), SSD_UNIT_BYTES));
}

uint32_t ssd_split_count(uint64_t bytes, uint32_t pieces)
{
	if (bytes <= SSD_MERGE_BYTES && pieces <= SSD_PIECES_MAX)
		return 1;
	/* A request ends because its bytes or its pieces are full; a cut makes one piece more. */
	return (uint32_t)divide_up(bytes, ssd_split_bytes(bytes)) +
	       (pieces + SSD_SPLIT_MAX) / SSD_PIECES_MAX + 1;
}

uint64_t ssd_cut_take(struct ssd_cut *cut, struct ssd_request *request, uint64_t bytes_max)
{
	uint64_t taken = 0;

	while (cut->piece_count && taken < bytes_max && request->piece_count < SSD_PIECES_MAX) {
		const struct iovec *piece = cut->pieces;
		uint64_t bytes = MIN_OF(piece->iov_len - cut->offset, bytes_max - taken);

		request->pieces[request->piece_count++] =
			(struct iovec){(uint8_t *)piece->iov_base + cut->offset, bytes};
		taken += bytes;
		cut->offset += bytes;
		if (cut->offset == piece->iov_len) {
			cut->pieces++;
			cut->piece_count--;
			cut->offset = 0;
		}
	}
	request->bytes += taken;
	return taken;
}

/* --------------------------------------------------------------------------------- sending */

static void fail_later(struct ssd_transfer *transfer, int status)
{
	transfer->failure = status;
	list_append(&transfer->ssd->failed, &transfer->link);
}

/* Return: false where the back end is full. */
static bool try_submit(struct ssd_transfer *transfer)
{
	struct ssd *ssd = transfer->ssd;
	int status = ssd->io->ops->submit(ssd->io, &transfer->request);

	if (status == -EAGAIN)
		return false;
	if (status)
		fail_later(transfer, status);
	return true;
}

static void send_now(struct ssd_transfer *transfer)
{
	struct ssd_device *device = &transfer->ssd->devices[transfer->request.device];

	if (device->fenced)
		fail_later(transfer, -EIO);
	else if (!list_empty(&device->unsent) || !try_submit(transfer))
		list_append(&device->unsent, &transfer->link);
}

void ssd_send(struct ssd_transfer *transfer)
{
	struct ssd_segment *segment = transfer->segment;
	struct ssd_log *log = transfer->log;

	transfer->ssd->in_flight++;
	transfer->request.device = segment->device;
	if (transfer->request.op == SSD_OP_WRITE && transfer->ssd->wear.bytes_per_day)
		transfer->ssd->wear.left -= (int64_t)transfer->request.bytes;
	if (transfer->request.op == SSD_OP_WRITE && segment->state == SEGMENT_OPENING &&
		transfer != &log->opening.transfer)
		list_append(&log->waiting, &transfer->link);
	else if (transfer->request.op == SSD_OP_WRITE && segment->unopened)
		fail_later(transfer, -EIO);
	else
		send_now(transfer);
}

void ssd_held_release(struct ssd_log *log, int status)
{
	list_each_safe (at, &log->waiting) {
		struct ssd_transfer *transfer = list_item(at, struct ssd_transfer, link);

		list_remove(at);
		if (status)
			fail_later(transfer, status);
		else
			send_now(transfer);
	}
}

static void unsent_push(struct ssd *ssd)
{
	for (unsigned d = 0; d < ssd->io->device_count; d++) {
		struct ssd_device *device = &ssd->devices[d];

		while (!list_empty(&device->unsent)) {
			struct ssd_transfer *transfer =
				list_item(device->unsent.next, struct ssd_transfer, link);

			list_remove(&transfer->link);
			if (device->fenced) {
				fail_later(transfer, -EIO);
			} else if (!try_submit(transfer)) {
				list_add_before(device->unsent.next, &transfer->link);
				break;
			}
		}
	}
}

static void failed_finish(struct ssd *ssd)
{
	while (!list_empty(&ssd->failed)) {
		struct ssd_transfer *transfer =
			list_item(ssd->failed.next, struct ssd_transfer, link);

		list_remove(&transfer->link);
		transfer_end(transfer, transfer->failure);
	}
}

static void tell_room(struct ssd *ssd)
{
	bool io = ssd->io_freed, space = ssd->space_freed;

	ssd->io_freed = ssd->space_freed = false;
	for (unsigned i = 0; i < ssd->log_count; i++) {
		struct ssd_log *log = ssd->logs[i];

		if ((log->waits_io && io) || (log->waits_space && space)) {
			log->waits_io = log->waits_space = false;
			if (log->owner.room)
				log->owner.room(log->owner.arg);
		}
	}
}

void ssd_settle(struct ssd *ssd)
{
	if (ssd->settling) {
		ssd->settle_again = true;
		return;
	}
	ssd->settling = true;
	do {
		ssd->settle_again = false;
		unsent_push(ssd);
		failed_finish(ssd);
		ssd_tell_lost(ssd);
		for (unsigned i = 0; i < ssd->log_count; i++) {
			ssd_table_step(ssd->logs[i]);
			ssd_reclaim(ssd->logs[i]);
		}
		tell_room(ssd);
	} while (ssd->settle_again || !list_empty(&ssd->failed));
	ssd->settling = false;
}
