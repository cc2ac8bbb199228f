/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread with a ring of its own. A turn takes what was queued, makes it ready, enters the
 * kernel once for all of it, and collects what has come. Checks run between entering and
 * collecting, a bounded share a turn, so that the devices have work meanwhile.
 */
#include <errno.h>
#include <liburing.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"
#include "tiering/ssd/disk_priv.h"

enum {
	ENTRIES_MAX = 1024,    /* requests made ready before the kernel is called */
	BATCH = 64,	       /* completions taken at once */
	CHECK_BYTES = 1 << 20, /* after so many checked bytes the ring is looked at */
	REGIONS_MAX = 1024,
};

/* A registered buffer. */
struct region {
	uintptr_t base;
	uint64_t bytes;
	unsigned number;
};

/* All but the set-up is the ring's thread's alone. */
struct disks_uring {
	struct io_uring ring;
	struct disks *disks;
	pthread_t thread;
	bool disabled; /* until the thread that is to own it enables it */

	int wake_fd;
	uint64_t wakes; /* what is read from it */
	bool wake_armed;
	bool stopping; /* the read is not armed again */

	unsigned under_way;			      /* in the kernel */
	struct list todo, later, unchecked, finished; /* later: the kernel said -EAGAIN */
	bool owes;				      /* a message to the mailbox that was full */

	struct region regions[REGIONS_MAX]; /* ascending */
	unsigned region_count;
};

/* --- the ring --------------------------------------------------------------------------------- */

/*
 * A ring of one thread whose completions are worked off when that thread asks for them (6.1), else
 * one that does not interrupt it (5.19), else a plain one.
 */
static int ring_init(struct disks_uring *uring, unsigned requests)
{
	static const unsigned flags[] = {
#ifdef IORING_SETUP_DEFER_TASKRUN
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_R_DISABLED,
#endif
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		0,
	};
	/* RSRC_TAGS (5.13) came with the calls that change registered buffers. */
	unsigned needed = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_RSRC_TAGS |
			  IORING_FEAT_SUBMIT_STABLE;
	struct io_uring_params params;
	int rc = memory_should_fail() ? -ENOMEM : -EINVAL;

	for (size_t i = 0; i < ARRAY_COUNT(flags) && rc == -EINVAL; i++) {
		params = (struct io_uring_params){
			.flags = flags[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
			/* Room for all that can be under way: the queue never overflows. */
			.cq_entries = 2 * MAX_OF(requests, (unsigned)BATCH),
		};
		rc = io_uring_queue_init_params(
			MIN_OF(requests, (unsigned)ENTRIES_MAX), &uring->ring, &params);
		uring->disabled = flags[i] & IORING_SETUP_R_DISABLED;
	}
	if (rc)
		return rc;
	if ((params.features & needed) == needed && params.cq_entries >= requests)
		return 0;
	io_uring_queue_exit(&uring->ring);
	return -EOPNOTSUPP;
}

static int ring_register_files(struct disks_uring *uring)
{
	const struct disks *disks = uring->disks;
	int files[SSD_DEVICES_MAX + 1];
	unsigned count = disks->io.device_count;

	for (unsigned i = 0; i < count; i++)
		files[i] = disks->each[i].fd;
	files[count] = uring->wake_fd;
	return io_uring_register_files(&uring->ring, files, count + 1);
}

/* --- registered memory ------------------------------------------------------------------------ */

/* How many regions begin at or below @base. */
static unsigned regions_below(const struct disks_uring *uring, uintptr_t base)
{
	unsigned low = 0, high = uring->region_count;

	while (low < high) {
		unsigned middle = (low + high) / 2;

		if (uring->regions[middle].base <= base)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The number of the buffer that holds all of @piece, or -1. */
static int region_find(const struct disks_uring *uring, const struct iovec *piece)
{
	uintptr_t base = (uintptr_t)piece->iov_base;
	unsigned below = regions_below(uring, base);
	const struct region *region;

	if (!below)
		return -1;
	region = &uring->regions[below - 1];
	if (base - region->base >= region->bytes ||
		piece->iov_len > region->bytes - (base - region->base))
		return -1;
	return (int)region->number;
}

static int buffer_set(struct disks_uring *uring, unsigned number, char *base, uint64_t bytes)
{
	struct iovec buffer = {.iov_base = base, .iov_len = bytes};
	__u64 tag = 0;
	int rc = io_uring_register_buffers_update_tag(&uring->ring, number, &buffer, &tag, 1);

	return MIN_OF(rc, 0);
}

static void region_insert(struct disks_uring *uring, char *base, uint64_t bytes)
{
	unsigned at = regions_below(uring, (uintptr_t)base), count = uring->region_count++;

	memmove(&uring->regions[at + 1], &uring->regions[at], (count - at) * sizeof(struct region));
	uring->regions[at] = (struct region){
		.base = (uintptr_t)base,
		.bytes = bytes,
		.number = count,
	};
}

/* The regions of a registration that failed half-way; transfers under way keep their pages. */
static void regions_drop(struct disks_uring *uring, unsigned first)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < uring->region_count; i++) {
		if (uring->regions[i].number < first)
			uring->regions[kept++] = uring->regions[i];
		else
			buffer_set(uring, uring->regions[i].number, NULL, 0);
	}
	uring->region_count = kept;
}

int disks_uring_register(struct disks_uring *uring, char *base, uint64_t bytes)
{
	unsigned first = uring->region_count;
	unsigned below = regions_below(uring, (uintptr_t)base + bytes - 1);
	int rc = 0;

	if (!bytes || (uintptr_t)base % SSD_UNIT_BYTES || bytes % SSD_UNIT_BYTES)
		return -EINVAL;
	if (below &&
		uring->regions[below - 1].base + uring->regions[below - 1].bytes > (uintptr_t)base)
		return -EEXIST;
	if (divide_up(bytes, DISK_PART_BYTES) > REGIONS_MAX - first)
		return -ENOSPC;
	if (!first) { /* an empty table, again where the first registration failed before */
		rc = io_uring_register_buffers_sparse(&uring->ring, REGIONS_MAX);
		rc = rc == -EBUSY ? 0 : rc;
	}
	while (!rc && bytes) {
		uint64_t part = MIN_OF(bytes, (uint64_t)DISK_PART_BYTES);

		rc = buffer_set(uring, uring->region_count, base, part);
		if (rc)
			break;
		region_insert(uring, base, part);
		base += part;
		bytes -= part;
	}
	if (rc)
		regions_drop(uring, first);
	return rc;
}

/* --- making ready ----------------------------------------------------------------------------- */

static void prepare(
	struct disks_uring *uring, struct io_uring_sqe *sqe, const struct ssd_request *request)
{
	bool read = request->op == SSD_OP_READ;
	int device = request->device, buffer;
	struct disk_rest rest;

	if (request->op == SSD_OP_FLUSH) {
		io_uring_prep_fsync(sqe, device, IORING_FSYNC_DATASYNC);
		return;
	}
	disk_rest_find(request, &rest);
	if (rest.count > 1) {
		io_uring_prep_rw(read ? IORING_OP_READV : IORING_OP_WRITEV, sqe, device,
			rest.pieces, rest.count, rest.offset);
		return;
	}
	buffer = region_find(uring, &rest.part);
	if (buffer < 0) {
		io_uring_prep_rw(read ? IORING_OP_READ : IORING_OP_WRITE, sqe, device,
			rest.part.iov_base, (unsigned)rest.part.iov_len, rest.offset);
		return;
	}
	io_uring_prep_rw(read ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED, sqe, device,
		rest.part.iov_base, (unsigned)rest.part.iov_len, rest.offset);
	sqe->buf_index = (uint16_t)buffer;
}

/* NULL where the kernel takes nothing now: it wants completions to be taken first. */
static struct io_uring_sqe *entry(struct disks_uring *uring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);

	if (sqe)
		return sqe;
	io_uring_submit(&uring->ring);
	return io_uring_get_sqe(&uring->ring);
}

static void wake_arm(struct disks_uring *uring)
{
	struct io_uring_sqe *sqe = uring->wake_armed || uring->stopping ? NULL : entry(uring);

	if (!sqe)
		return;
	io_uring_prep_read(
		sqe, (int)uring->disks->io.device_count, &uring->wakes, sizeof(uring->wakes), 0);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data(sqe, NULL);
	uring->wake_armed = true;
}

static void prepare_all(struct disks_uring *uring)
{
	wake_arm(uring);
	while (!list_empty(&uring->todo)) {
		struct ssd_request *request = list_item(uring->todo.next, struct ssd_request, link);
		struct io_uring_sqe *sqe = entry(uring);

		if (!sqe)
			return;
		list_remove(&request->link);
		prepare(uring, sqe, request);
		io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
		io_uring_sqe_set_data(sqe, request);
		uring->under_way++;
	}
}

/* --- a turn ----------------------------------------------------------------------------------- */

/* Takes what was queued. False: asked to stop, and nothing is left to be done. */
static bool take(struct disks_uring *uring, struct registration **registering)
{
	struct disks *disks = uring->disks;
	bool idle, go_on;

	pthread_mutex_lock(&disks->lock);
	list_move_all(&disks->queued, &uring->todo);
	*registering = disks->registering;
	idle = list_empty(&uring->todo) && list_empty(&uring->later) &&
	       list_empty(&uring->unchecked);
	go_on = !disks->stop || !idle || uring->under_way;
	/* This turn waits in the kernel, unless there are checks to run: whoever has work from now
	 * on writes the eventfd. */
	disks->sleepers = list_empty(&uring->unchecked);
	uring->stopping = disks->stop;
	/* In disks_destroy() the owner delivers, and does not look into its mailbox. */
	if (disks->stop && uring->owes)
		disks->told = uring->owes = false;
	pthread_mutex_unlock(&disks->lock);
	return go_on;
}

static void registration_answer(struct disks_uring *uring, struct registration *registration)
{
	struct disks *disks = uring->disks;
	int rc = disks_uring_register(uring, registration->base, registration->bytes);

	pthread_mutex_lock(&disks->lock);
	disks->registering = NULL;
	registration->rc = rc;
	registration->done = true;
	pthread_cond_signal(&disks->registered);
	pthread_mutex_unlock(&disks->lock);
}

/* Hands in what is ready and waits for a completion, or for a little while, or not at all. */
static void enter(struct disks_uring *uring)
{
	struct __kernel_timespec pause = {.tv_nsec = DISK_PAUSE_NS};
	struct io_uring_cqe *cqe;
	int rc;

	if (!list_empty(&uring->unchecked))
		rc = io_uring_submit_and_get_events(&uring->ring);
	else if (uring->owes || !list_empty(&uring->later) || !list_empty(&uring->todo) ||
		 (!uring->wake_armed && !uring->stopping))
		rc = io_uring_submit_and_wait_timeout(&uring->ring, &cqe, 1, &pause, NULL);
	else
		rc = io_uring_submit_and_wait(&uring->ring, 1);
	/* -EBUSY: completions wait to be taken. Memory may be short for a while. */
	SKEP_CHECK(rc >= 0 || rc == -ETIME || rc == -EINTR || rc == -EBUSY || rc == -EAGAIN ||
		   rc == -ENOMEM);
	if (rc == -EAGAIN || rc == -ENOMEM)
		nanosleep(&(struct timespec){.tv_nsec = DISK_PAUSE_NS}, NULL);
}

static void completed(
	struct disks_uring *uring, struct ssd_request *request, int result, uint64_t now_ns)
{
	SKEP_CHECK(uring->under_way);
	uring->under_way--;
	switch (disk_rest_moved(request, result)) {
	case DISK_NEXT_MORE:
		list_append(&uring->todo, &request->link);
		return;
	case DISK_NEXT_LATER:
		list_append(&uring->later, &request->link);
		return;
	case DISK_NEXT_DONE:
		disks_note_arrival(request, now_ns);
		if (request->check && !request->status)
			list_append(&uring->unchecked, &request->link);
		else
			list_append(&uring->finished, &request->link);
	}
}

static void collect(struct disks_uring *uring)
{
	struct io_uring_cqe *ready[BATCH];
	uint64_t now_ns = clock_ns();
	unsigned found;

	/* Peeking also fetches what overflowed, which the size of the queue forbids. */
	while ((found = io_uring_peek_batch_cqe(&uring->ring, ready, BATCH))) {
		for (unsigned i = 0; i < found; i++) {
			struct ssd_request *request = io_uring_cqe_get_data(ready[i]);

			if (request)
				completed(uring, request, ready[i]->res, now_ns);
			else
				uring->wake_armed = false;
		}
		io_uring_cq_advance(&uring->ring, found);
	}
}

static void check_some(struct disks_uring *uring)
{
	uint64_t bytes = 0;

	while (!list_empty(&uring->unchecked) && bytes < CHECK_BYTES) {
		struct ssd_request *request =
			list_item(uring->unchecked.next, struct ssd_request, link);

		list_remove(&request->link);
		disks_check(request);
		bytes += request->bytes;
		list_append(&uring->finished, &request->link);
	}
}

static bool turn(struct disks_uring *uring)
{
	struct registration *registering;

	if (!take(uring, &registering))
		return false;
	if (registering)
		registration_answer(uring, registering);
	prepare_all(uring);
	enter(uring);
	list_move_all(&uring->later, &uring->todo);
	check_some(uring);
	collect(uring);
	if (uring->owes)
		uring->owes = disks_tell(uring->disks) == -EAGAIN;
	if (disks_arrive(uring->disks, &uring->finished))
		uring->owes = true;
	return true;
}

static void *uring_main(void *argument)
{
	struct disks *disks = argument;
	struct disks_uring *uring = disks->uring;

	/* io_uring_enable_rings() is declared by liburing 2.3, but its library lacks it. */
	if (uring->disabled)
		SKEP_CHECK(!io_uring_register(
			(unsigned)uring->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0));
	while (turn(uring))
		;
	/* uring_end() writes once after stop was set. A read left armed would hold the files. */
	while (uring->wake_armed) {
		io_uring_submit_and_wait(&uring->ring, 1);
		collect(uring);
	}
	/* The kernel ends a ring some time after its closing; devices and memory are free now. */
	io_uring_unregister_files(&uring->ring);
	io_uring_unregister_buffers(&uring->ring);
	return NULL;
}

/* --- make and end ----------------------------------------------------------------------------- */

static void uring_wake(struct disks *disks)
{
	uint64_t one = 1;

	while (write(disks->uring->wake_fd, &one, sizeof(one)) < 0)
		SKEP_CHECK(errno == EINTR);
}

static void uring_end(struct disks *disks)
{
	struct disks_uring *uring = disks->uring;

	uring_wake(disks);
	pthread_join(uring->thread, NULL);
	io_uring_queue_exit(&uring->ring);
	close(uring->wake_fd);
	memory_free(uring);
	disks->uring = NULL;
}

static int uring_begin(struct disks *disks)
{
	struct disks_uring *uring = memory_zalloc(sizeof(*uring));
	int rc;

	if (!uring)
		return -ENOMEM;
	uring->disks = disks;
	list_init(&uring->todo);
	list_init(&uring->later);
	list_init(&uring->unchecked);
	list_init(&uring->finished);
	uring->wake_fd = memory_should_fail() ? -1 : eventfd(0, EFD_CLOEXEC);
	rc = -EMFILE;
	if (uring->wake_fd < 0)
		goto free_uring;
	/* One more for the read of the eventfd. */
	rc = ring_init(uring, disks->io.device_count * disks->depth + 1);
	if (rc)
		goto close_wake;
	rc = ring_register_files(uring);
	if (rc)
		goto exit_ring;
	disks->uring = uring;
	rc = disks_thread(&uring->thread, uring_main, disks, 0);
	if (!rc)
		return 0;
	disks->uring = NULL;
exit_ring:
	io_uring_queue_exit(&uring->ring);
close_wake:
	close(uring->wake_fd);
free_uring:
	memory_free(uring);
	return rc;
}

const struct disks_form disks_uring_form = {
	.begin = uring_begin,
	.wake = uring_wake,
	.end = uring_end,
};
