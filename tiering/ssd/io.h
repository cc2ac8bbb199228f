/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TIERING_SSD_IO_H
#define SKEP_TIERING_SSD_IO_H

/*
 * Reads and writes of devices, below the log (ssd.h). One face, several back ends: io_uring, plain
 * threads where io_uring is forbidden (disk.h), and devices in memory with faults (tests).
 *
 * Offsets, lengths and memory are multiples of SSD_UNIT_BYTES: everything is O_DIRECT.
 */

#include <stdint.h>
#include <sys/uio.h>

#include "base/list.h"

enum {
	SSD_UNIT_BYTES = 4096,
	SSD_DEVICES_MAX = 16,
	SSD_PIECES_MAX = 64, /* of one request */
};

enum ssd_op { SSD_OP_READ, SSD_OP_WRITE, SSD_OP_FLUSH };

/*
 * One transfer. The submitter owns the memory of it; from a submit that returned 0 until @done it
 * must not be touched.
 */
struct ssd_request {
	uint8_t op; /* enum ssd_op; FLUSH: what was done() before the submit survives a power cut */
	uint8_t device;
	uint16_t piece_count;
	uint64_t offset, bytes; /* bytes: of all pieces */
	struct iovec pieces[SSD_PIECES_MAX];
	/* May be NULL. Runs on the back end's thread when all bytes have come, before @done. */
	int (*check)(struct ssd_request *request);
	/* Exactly once, on the thread that owns the log. @status: 0 (all bytes were moved), what
	 * @check said, or a negative errno. Short transfers are gone on with below this face. */
	void (*done)(struct ssd_request *request, int status);
	/* The back end's own while it is under way. */
	struct list link;
	uint64_t moved, began_ns;
	int32_t status;
};

struct ssd_io;

struct ssd_io_ops {
	/* Never blocks. 0: done() will come. -EAGAIN: too many are under way; nothing was taken. */
	int (*submit)(struct ssd_io *io, struct ssd_request *request);
	/* Blocking forms for starting up, before the first submit. 0 or a negative errno. */
	int (*read_now)(
		struct ssd_io *io, unsigned device, uint64_t offset, void *to, uint64_t bytes);
	int (*write_now)(struct ssd_io *io, unsigned device, uint64_t offset, const void *from,
		uint64_t bytes);
	int (*flush_now)(struct ssd_io *io, unsigned device);
};

/* First member of a back end's own struct. */
struct ssd_io {
	const struct ssd_io_ops *ops;
	unsigned device_count;
	uint64_t device_bytes[SSD_DEVICES_MAX]; /* usable, multiples of SSD_UNIT_BYTES */
};

#endif
