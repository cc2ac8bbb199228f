/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TIERING_SSD_DISK_PRIV_H
#define SKEP_TIERING_SSD_DISK_PRIV_H

/*
 * What the parts of disk.h share. disk_open.c opens and sizes; disk.c queues, delivers and counts;
 * disk_fill.c writes new files through; disk_uring.c and disk_plain.c are the two forms of threads
 * that move bytes.
 *
 * A request's way: queued (or held back) -> taken by a thread of the form -> arrived -> done(). It
 * is in at most one list all along, by its own link, so nothing is allocated.
 */

#include <pthread.h>

#include "tiering/ssd/disk.h"

enum {
	DISK_DEPTH = 64,
	DISK_DEPTH_MAX = 1024,
	DISK_THREADS = 4,
	DISK_THREADS_MAX = 64,
	DISK_BYTES_MIN = 1 << 20,
	DISK_GRANULE_BYTES = 1 << 20, /* what is written through at once */
	DISK_PAUSE_NS = 1000000,      /* until what the kernel refused is tried again */
	DISK_PART_BYTES = 1 << 30,    /* a registered buffer, and one transfer of a single piece */
};

/* A kernel that has no memory for a transfer for so long has failed it. */
#define DISK_PATIENCE_NS (10 * NS_PER_S)

struct disk {
	int fd; /* -1: not open */
	bool block, read_only;
	bool made; /* by this open: removed again when the open fails later on */

	unsigned under_way; /* under the lock */

	/*
	 * A file's extents are written through from its start. A granule that a request was to
	 * write is never written by us (touched, a bit each, set under the lock at submit); writes
	 * into the one being filled wait in held. What an earlier life wrote the file system knows.
	 */
	_Atomic uint64_t
		written_through;    /* written under the lock; relaxed readers want a figure */
	uint8_t *touched;	    /* NULL: nothing to write through */
	uint64_t fill_at, fill_end; /* equal: nothing is being filled */
	struct list held;
};

struct disks;

/* How bytes are moved. */
struct disks_form {
	/* Starts the threads. 0 or a negative errno: nothing is left. */
	int (*begin)(struct disks *disks);
	/* Somebody sleeps (disks->sleepers) and there is work. Without the lock. */
	void (*wake)(struct disks *disks);
	/* disks->stop is set: returns when all that was queued has arrived, the threads ended. */
	void (*end)(struct disks *disks);
};

/* The mailbox's message points here, so that one that outlives the disks finds them gone. */
struct disks_post {
	struct disks *disks; /* NULL: gone; the message frees this */
};

struct disks_uring;

struct registration {
	char *base;
	uint64_t bytes;
	int rc;
	bool done;
};

struct disks {
	struct ssd_io io;
	const struct disks_form *form;
	struct disk each[SSD_DEVICES_MAX];
	unsigned depth, thread_count;
	struct mailbox *mailbox;
	struct disks_post *post;
	int uring_error;

	/* Threads of the plain form. */
	pthread_t threads[DISK_THREADS_MAX];
	pthread_cond_t work;
	/* Of the other; NULL in the plain form. */
	struct disks_uring *uring;

	/* The lock guards all below; it is held for a few instructions at a time. */
	pthread_mutex_t lock;
	pthread_cond_t arrival, registered;
	struct list queued, arrived;
	unsigned sleepers; /* threads of the form that wait for work and were not woken yet */
	unsigned pollers;
	bool told; /* a message is in the mailbox, or its poster tries to get it in */
	bool stop;
	struct registration *registering;
	struct disks_status
		status; /* uring, uring_error and in_flight are filled in by the getter */
};

/* --- disk_open.c --- */

struct disk_why {
	char *text;
	size_t bytes;
};

/* Writes the reason and returns @rc. */
__attribute__((format(printf, 3, 4))) int disk_refuse(
	const struct disk_why *why, int rc, const char *format, ...);

/* Opens, locks, sizes, probes. On failure the disk is closed, and a file that was made is gone. */
int disk_open(struct disk *disk, const struct disk_path *path, uint64_t *bytes,
	const struct disk_why *why);
void disk_close(struct disk *disk);

/* --- disk_fill.c --- */

/* Under the lock: notes that @request writes there; true where it has been put into held. */
bool disk_fill_holds(struct disks *disks, struct ssd_request *request);

/* --- disk.c --- */

static inline struct disks *disks_of(struct ssd_io *io)
{
	return list_item(io, struct disks, io);
}

static inline void list_move_all(struct list *from, struct list *to)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

/* The part of a request that is still to be moved: whole pieces, or the rest of one. */
struct disk_rest {
	uint64_t offset;
	const struct iovec *pieces;
	unsigned count;
	struct iovec part; /* what pieces points to where count is 1 */
};

void disk_rest_find(const struct ssd_request *request, struct disk_rest *rest);

enum disk_next { DISK_NEXT_DONE, DISK_NEXT_MORE, DISK_NEXT_LATER };

/* What is to be done after the kernel answered @result. DONE: request->status is set. */
enum disk_next disk_rest_moved(struct ssd_request *request, int64_t result);

/*
 * A request has come to its end: from now on began_ns holds how long it took. One whose check is
 * still to run has arrived as well.
 */
void disks_note_arrival(struct ssd_request *request, uint64_t now_ns);
void disks_check(struct ssd_request *request);

/*
 * Hands @finished over to the owner. 0, or -EAGAIN: the mailbox is full, and the calling thread
 * has to call disks_tell() until that returns 0, or disks_tell_not().
 */
int disks_arrive(struct disks *disks, struct list *finished);
int disks_tell(struct disks *disks);
void disks_tell_not(struct disks *disks);

/* Starts a thread that takes no signals. 0 or a negative errno. */
int disks_thread(pthread_t *thread, void *(*run)(void *), struct disks *disks, unsigned number);

extern const struct disks_form disks_plain_form;
#ifdef SKEP_HAVE_URING
extern const struct disks_form disks_uring_form;
/* On the thread of the ring. */
int disks_uring_register(struct disks_uring *uring, char *base, uint64_t bytes);
#endif

#endif
