/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TIERING_SSD_DISK_H
#define SKEP_TIERING_SSD_DISK_H

/*
 * Files and block devices behind struct ssd_io: opened O_DIRECT, locked, reserved, written through
 * once in the background, and served by one thread with an io_uring of its own, or by a few threads
 * of pread/pwrite where io_uring is forbidden.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/histogram.h"
#include "base/loop/loop.h"
#include "base/loop/mailbox.h"
#include "tiering/ssd/io.h"

struct disk_path {
	const char *path; /* a file (made where it is not there) or a block device */
	/* 0: the whole block device, or the file as it is. A file that is bigger stays as it is,
	 * and only so much of it is used. */
	uint64_t bytes;
};

struct disks_options {
	const struct disk_path *paths;
	unsigned count;
	unsigned depth;		   /* requests under way on each device; 0 = 64, up to 1024 */
	enum loop_backend backend; /* AUTO: io_uring where it is allowed; EPOLL: plain threads */
	unsigned plain_threads;	   /* of the plain form; 0 = 4, up to 64 */
	/* done() is called on the thread of this mailbox's loop. NULL: disks_poll() calls it. */
	struct mailbox *mailbox;
	/* Only looked at: nothing is made, reserved or written, and a file that is shorter than
	 * was said is taken as it is. They are locked all the same. */
	bool read_only;
};

struct disks_status {
	bool uring;
	int uring_error;    /* why AUTO took the plain form; 0 where it did not */
	unsigned in_flight; /* from submit to done() */
	/* Of transfers that ended; errors: those a device failed, not what a check said. */
	uint64_t reads, writes, flushes, read_bytes, written_bytes, errors;
	struct histogram read_ns, write_ns; /* from submit to arrival, check excluded */
};

/*
 * Opens, locks (flock and, for a block device, O_EXCL) and sizes the devices; a new file is made of
 * mode 0600 and its space is reserved with fallocate. @why (room for @why_bytes) names the cause
 * and the fix in one line. Return: 0; -EBUSY (another daemon has it), -ENOSPC, -EACCES, -EINVAL
 * (tmpfs or another file system without O_DIRECT; below 1 MiB; a directory), -ENOENT (no directory
 * for it), -ENOMEM, -EMFILE, -EAGAIN (no thread), -EPERM / -ENOSYS where LOOP_BACKEND_URING was
 * asked for and cannot be had, or what the system said. With @read_only -ENOENT: it is not there.
 *
 * submit() may be called by any thread; it answers -EINVAL for what lies outside the device or is
 * not aligned, and -ESHUTDOWN within disks_destroy().
 */
int disks_create(
	const struct disks_options *options, struct ssd_io **out, char *why, size_t why_bytes);

/*
 * Waits for what is under way (its done() is called), ends the threads, closes. The owner's thread,
 * not from within done(); a message that is still in the mailbox does nothing when it is run, so
 * the mailbox may be destroyed after this or go on. NULL is nothing.
 */
void disks_destroy(struct ssd_io *io);

/*
 * Extents of a file that were never written are slow at their first writing. Return: bytes from the
 * start that were written (all: nothing to do): none of a new file, the old part of a grown one, or
 * what an earlier life reached. Any thread.
 */
uint64_t disks_written_through(const struct ssd_io *io, unsigned device);

/*
 * Writes zeros to the next @bytes that nobody has written, by steps of 1 MiB; a step in which there
 * is data of this life or an earlier one is passed over. Writes submitted meanwhile are safe: one
 * into the very step that is being written waits for its end. (write_now() is not: it is for
 * starting up.) A thread of the caller's, one at a time; blocks. Return: bytes written through so
 * far, or negative: it can be called again.
 */
int64_t disks_write_through(struct ssd_io *io, unsigned device, uint64_t bytes);

/* Calls done() of what has arrived; for callers without a loop. Waits up to @wait_ns for one (0:
 * does not wait; CLOCK_NEVER). Return: how many. */
unsigned disks_poll(struct ssd_io *io, uint64_t wait_ns);

void disks_status_get(struct ssd_io *io, struct disks_status *status);

/*
 * Memory that requests will use often: registered with io_uring in pieces of at most 1 GiB, so that
 * a transfer of one piece (of the request, within one of these) needs no page look-ups. Before it
 * is used or any time later; the owner's thread; blocks while the kernel looks its pages up, which
 * it then holds until disks_destroy(). Return: 0; -ENOTSUP (plain form), -EINVAL (not aligned),
 * -EEXIST (a part of it is registered), -ENOSPC (1,024 pieces), or what the kernel said (memlock):
 * then transfers go on without.
 */
int disks_register(struct ssd_io *io, void *base, uint64_t bytes);

#endif
