/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "tiering/ssd/disk_priv.h"

/*
 * Zeros go only where neither this life nor an earlier one wrote: a granule some of which holds
 * data is passed over, and what is left unwritten in it costs time at its first writing, once.
 */

enum { ZERO_BYTES = 1 << 16, ZERO_PIECES = DISK_GRANULE_BYTES / ZERO_BYTES };

/* Never written: all its pages are the kernel's page of zeros. */
static _Alignas(SSD_UNIT_BYTES) char zeros[ZERO_BYTES];

static bool granule_touched(const struct disk *disk, uint64_t granule)
{
	return disk->touched[granule / 8] >> granule % 8 & 1;
}

bool disk_fill_holds(struct disks *disks, struct ssd_request *request)
{
	struct disk *disk = &disks->each[request->device];
	uint64_t end = request->offset + request->bytes;

	if (!disk->touched ||
		end <= atomic_load_explicit(&disk->written_through, memory_order_relaxed))
		return false;
	for (uint64_t granule = request->offset / DISK_GRANULE_BYTES;
		granule <= (end - 1) / DISK_GRANULE_BYTES; granule++)
		disk->touched[granule / 8] |= (uint8_t)(1u << granule % 8);
	/* Whichever of two writes under way ends last has its bytes stay. */
	if (request->offset >= disk->fill_end || end <= disk->fill_at)
		return false;
	list_append(&disk->held, &request->link);
	return true;
}

static int zeros_write(int fd, uint64_t at, uint64_t end)
{
	while (at < end) {
		struct iovec pieces[ZERO_PIECES];
		uint64_t left = end - at;
		int count = 0;
		ssize_t moved;

		for (; left && count < ZERO_PIECES; count++) {
			pieces[count].iov_base = zeros;
			pieces[count].iov_len = MIN_OF(left, (uint64_t)ZERO_BYTES);
			left -= pieces[count].iov_len;
		}
		moved = pwritev(fd, pieces, count, (off_t)at);
		if (moved < 0 && errno == EINTR)
			continue;
		if (moved < 0)
			return -errno;
		if (moved < SSD_UNIT_BYTES)
			return -EIO;
		at += (uint64_t)moved - (uint64_t)moved % SSD_UNIT_BYTES;
	}
	return 0;
}

static bool holds_data(int fd, uint64_t at, uint64_t end)
{
	off_t data = lseek(fd, (off_t)at, SEEK_DATA);

	return data < 0 ? errno != ENXIO : (uint64_t)data < end;
}

/* Sets the range to fill next; false where it has been written already. */
static bool fill_begin(struct disks *disks, struct disk *disk, uint64_t at, uint64_t end)
{
	bool fill;

	pthread_mutex_lock(&disks->lock);
	fill = !granule_touched(disk, at / DISK_GRANULE_BYTES);
	if (fill) {
		disk->fill_at = at;
		disk->fill_end = end;
	}
	pthread_mutex_unlock(&disks->lock);
	return fill;
}

static void fill_end(struct disks *disks, struct disk *disk, uint64_t reached)
{
	bool wake;

	pthread_mutex_lock(&disks->lock);
	disk->fill_at = disk->fill_end = 0;
	atomic_store_explicit(&disk->written_through, reached, memory_order_relaxed);
	wake = !list_empty(&disk->held) && disks->sleepers;
	list_move_all(&disk->held, &disks->queued);
	if (wake)
		disks->sleepers--;
	pthread_mutex_unlock(&disks->lock);
	if (wake)
		disks->form->wake(disks);
}

uint64_t disks_written_through(const struct ssd_io *io, unsigned device)
{
	const struct disks *disks = list_item(io, const struct disks, io);

	SKEP_CHECK(device < io->device_count);
	return atomic_load_explicit(&disks->each[device].written_through, memory_order_relaxed);
}

int64_t disks_write_through(struct ssd_io *io, unsigned device, uint64_t bytes)
{
	struct disks *disks = disks_of(io);
	struct disk *disk = &disks->each[device];
	uint64_t at = disks_written_through(io, device), whole = io->device_bytes[device];
	uint64_t goal = bytes < whole - at ? at + bytes : whole;

	while (at < goal) {
		uint64_t next =
			MIN_OF(at - at % DISK_GRANULE_BYTES + DISK_GRANULE_BYTES, (uint64_t)whole);
		int rc = 0;

		if (fill_begin(disks, disk, at, next) && !holds_data(disk->fd, at, next))
			rc = zeros_write(disk->fd, at, next);
		fill_end(disks, disk, rc ? at : next);
		if (rc)
			return rc;
		at = next;
	}
	return (int64_t)at;
}
