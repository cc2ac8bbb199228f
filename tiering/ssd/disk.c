/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/ssd/disk.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/status.h"
#include "tiering/ssd/disk_priv.h"

enum { THREAD_NAME_BYTES = 16 /* the kernel's bound */ };

/* --- a request's progress --------------------------------------------------------------------- */

void disk_rest_find(const struct ssd_request *request, struct disk_rest *rest)
{
	uint64_t skip = request->moved;
	unsigned i = 0;

	SKEP_ASSERT(request->moved < request->bytes);
	rest->offset = request->offset + request->moved;
	for (; skip >= request->pieces[i].iov_len; i++)
		skip -= request->pieces[i].iov_len;
	rest->pieces = &request->pieces[i];
	rest->count = request->piece_count - i;
	/* A whole run of pieces is used where it lies; the rest of one piece goes alone. */
	if (!skip && rest->count > 1)
		return;
	rest->part.iov_base = (char *)request->pieces[i].iov_base + skip;
	rest->part.iov_len = MIN_OF(request->pieces[i].iov_len - skip, (size_t)DISK_PART_BYTES);
	rest->pieces = &rest->part;
	rest->count = 1;
}

enum disk_next disk_rest_moved(struct ssd_request *request, int64_t result)
{
	if (result == -EINTR)
		return DISK_NEXT_MORE;
	if (result == -EAGAIN && clock_ns() - request->began_ns < DISK_PATIENCE_NS)
		return DISK_NEXT_LATER;
	request->status = (int32_t)(result == -EAGAIN ? -EIO : MIN_OF(result, 0));
	if (result < 0 || request->op == SSD_OP_FLUSH)
		return DISK_NEXT_DONE;
	/* The rest of a unit that was moved in part is moved again with its beginning: offsets stay
	 * aligned. Nothing at all is the end of a file that somebody cut. */
	result -= result % SSD_UNIT_BYTES;
	if (!result) {
		request->status = -EIO;
		return DISK_NEXT_DONE;
	}
	request->moved += (uint64_t)result;
	SKEP_CHECK(request->moved <= request->bytes);
	return request->moved == request->bytes ? DISK_NEXT_DONE : DISK_NEXT_MORE;
}

void disks_note_arrival(struct ssd_request *request, uint64_t now_ns)
{
	request->began_ns = now_ns - request->began_ns;
}

void disks_check(struct ssd_request *request)
{
	if (!request->status && request->check)
		request->status = request->check(request);
}

/* --- submit ----------------------------------------------------------------------------------- */

static bool range_is_sound(
	const struct ssd_io *io, unsigned device, uint64_t offset, uint64_t bytes)
{
	return device < io->device_count && bytes && !(offset % SSD_UNIT_BYTES) &&
	       !(bytes % SSD_UNIT_BYTES) && offset <= io->device_bytes[device] &&
	       bytes <= io->device_bytes[device] - offset;
}

static bool request_is_sound(const struct ssd_io *io, const struct ssd_request *request)
{
	uint64_t bytes = 0;

	if (request->op == SSD_OP_FLUSH)
		return request->device < io->device_count;
	if (request->op > SSD_OP_FLUSH || request->piece_count > SSD_PIECES_MAX ||
		!range_is_sound(io, request->device, request->offset, request->bytes))
		return false;
	for (unsigned i = 0; i < request->piece_count; i++) {
		const struct iovec *piece = &request->pieces[i];

		if (((uintptr_t)piece->iov_base | piece->iov_len) % SSD_UNIT_BYTES ||
			piece->iov_len > request->bytes - bytes)
			return false;
		bytes += piece->iov_len;
	}
	return bytes == request->bytes;
}

static int disks_submit(struct ssd_io *io, struct ssd_request *request)
{
	struct disks *disks = disks_of(io);
	struct disk *disk;
	bool wake;
	int rc = 0;

	SKEP_CHECK(request->done);
	if (!request_is_sound(io, request))
		return -EINVAL;
	disk = &disks->each[request->device];
	pthread_mutex_lock(&disks->lock);
	if (disks->stop)
		rc = -ESHUTDOWN;
	else if (disk->under_way == disks->depth)
		rc = -EAGAIN;
	if (rc) {
		pthread_mutex_unlock(&disks->lock);
		return rc;
	}
	disk->under_way++;
	request->moved = 0;
	request->status = 0;
	request->began_ns = clock_ns();
	if (request->op != SSD_OP_WRITE || !disk_fill_holds(disks, request))
		list_append(&disks->queued, &request->link);
	wake = disks->sleepers && !list_empty(&disks->queued);
	if (wake)
		disks->sleepers--;
	pthread_mutex_unlock(&disks->lock);
	if (wake)
		disks->form->wake(disks);
	return 0;
}

/* --- blocking forms --------------------------------------------------------------------------- */

static int move_now(struct ssd_io *io, unsigned device, struct ssd_request *request)
{
	int fd = disks_of(io)->each[device].fd;
	enum disk_next next;

	request->bytes = request->pieces[0].iov_len;
	request->began_ns = clock_ns();
	if (!request_is_sound(io, request))
		return -EINVAL;
	do {
		struct disk_rest rest;
		ssize_t moved;

		disk_rest_find(request, &rest);
		moved = request->op == SSD_OP_READ
				? preadv(fd, rest.pieces, (int)rest.count, (off_t)rest.offset)
				: pwritev(fd, rest.pieces, (int)rest.count, (off_t)rest.offset);
		next = disk_rest_moved(request, moved < 0 ? -errno : moved);
		if (next == DISK_NEXT_LATER)
			nanosleep(&(struct timespec){.tv_nsec = DISK_PAUSE_NS}, NULL);
	} while (next != DISK_NEXT_DONE);
	return request->status;
}

static int disks_read_now(
	struct ssd_io *io, unsigned device, uint64_t offset, void *to, uint64_t bytes)
{
	struct ssd_request request = {
		.op = SSD_OP_READ,
		.device = (uint8_t)device,
		.offset = offset,
		.piece_count = 1,
		.pieces = {{.iov_base = to, .iov_len = bytes}},
	};

	SKEP_CHECK(device < io->device_count);
	return move_now(io, device, &request);
}

static int disks_write_now(
	struct ssd_io *io, unsigned device, uint64_t offset, const void *from, uint64_t bytes)
{
	struct ssd_request request = {
		.op = SSD_OP_WRITE,
		.device = (uint8_t)device,
		.offset = offset,
		.piece_count = 1,
		.pieces = {{.iov_base = (void *)(uintptr_t)from, .iov_len = bytes}},
	};

	SKEP_CHECK(device < io->device_count);
	return move_now(io, device, &request);
}

static int disks_flush_now(struct ssd_io *io, unsigned device)
{
	SKEP_CHECK(device < io->device_count);
	return fdatasync(disks_of(io)->each[device].fd) ? -errno : 0;
}

static const struct ssd_io_ops disks_ops = {
	.submit = disks_submit,
	.read_now = disks_read_now,
	.write_now = disks_write_now,
	.flush_now = disks_flush_now,
};

/* --- delivery --------------------------------------------------------------------------------- */

static void arrival_count(struct disks_status *status, const struct ssd_request *request)
{
	/* What a check said of bytes that came is no error of a device. */
	bool moved =
		request->op == SSD_OP_FLUSH ? !request->status : request->moved == request->bytes;

	status->errors += !moved;
	if (request->op == SSD_OP_FLUSH) {
		status->flushes++;
	} else if (request->op == SSD_OP_READ) {
		status->reads++;
		status->read_bytes += moved ? request->bytes : 0;
		histogram_add(&status->read_ns, request->began_ns);
	} else {
		status->writes++;
		status->written_bytes += moved ? request->bytes : 0;
		histogram_add(&status->write_ns, request->began_ns);
	}
}

/* Calls done() of all that has arrived; the owner's thread. Returns how many. */
static unsigned deliver(struct disks *disks)
{
	unsigned count = 0;
	struct list here;

	list_init(&here);
	pthread_mutex_lock(&disks->lock);
	list_move_all(&disks->arrived, &here);
	list_each (node, &here) {
		struct ssd_request *request = list_item(node, struct ssd_request, link);
		struct disk *disk = &disks->each[request->device];

		SKEP_CHECK(disk->under_way);
		disk->under_way--;
	}
	pthread_mutex_unlock(&disks->lock);
	while (!list_empty(&here)) {
		struct ssd_request *request = list_item(here.next, struct ssd_request, link);

		list_remove(&request->link);
		count++;
		request->done(request, request->status); /* frees it, or submits it again */
	}
	return count;
}

static void post_run(void *argument)
{
	struct disks_post *post = *(struct disks_post **)argument;
	struct disks *disks = post->disks;

	if (!disks) {
		memory_free(post);
		return;
	}
	/* Before the list is taken: what arrives from now on sends a message of its own. */
	pthread_mutex_lock(&disks->lock);
	disks->told = false;
	pthread_mutex_unlock(&disks->lock);
	deliver(disks);
}

int disks_tell(struct disks *disks)
{
	return mailbox_post(disks->mailbox, post_run, &disks->post, sizeof(struct disks_post *));
}

void disks_tell_not(struct disks *disks)
{
	pthread_mutex_lock(&disks->lock);
	disks->told = false;
	pthread_mutex_unlock(&disks->lock);
}

int disks_arrive(struct disks *disks, struct list *finished)
{
	bool tell;

	if (list_empty(finished))
		return 0;
	pthread_mutex_lock(&disks->lock);
	list_each (node, finished)
		arrival_count(&disks->status, list_item(node, struct ssd_request, link));
	list_move_all(finished, &disks->arrived);
	tell = disks->mailbox && !disks->told;
	disks->told |= tell;
	if (disks->pollers)
		pthread_cond_broadcast(&disks->arrival);
	pthread_mutex_unlock(&disks->lock);
	return tell ? disks_tell(disks) : 0;
}

static void arrival_wait(struct disks *disks, uint64_t until_ns)
{
	struct timespec until = {
		.tv_sec = (time_t)(until_ns / NS_PER_S),
		.tv_nsec = (long)(until_ns % NS_PER_S),
	};
	int rc = 0;

	pthread_mutex_lock(&disks->lock);
	disks->pollers++;
	while (!rc && list_empty(&disks->arrived))
		rc = until_ns == CLOCK_NEVER
			     ? pthread_cond_wait(&disks->arrival, &disks->lock)
			     : pthread_cond_timedwait(&disks->arrival, &disks->lock, &until);
	disks->pollers--;
	pthread_mutex_unlock(&disks->lock);
}

unsigned disks_poll(struct ssd_io *io, uint64_t wait_ns)
{
	struct disks *disks = disks_of(io);

	if (wait_ns)
		arrival_wait(disks, clock_after(clock_ns(), wait_ns));
	return deliver(disks);
}

void disks_status_get(struct ssd_io *io, struct disks_status *status)
{
	struct disks *disks = disks_of(io);

	pthread_mutex_lock(&disks->lock);
	*status = disks->status;
	for (unsigned i = 0; i < io->device_count; i++)
		status->in_flight += disks->each[i].under_way;
	pthread_mutex_unlock(&disks->lock);
	status->uring = disks->uring;
	status->uring_error = disks->uring_error;
}

int disks_register(struct ssd_io *io, void *base, uint64_t bytes)
{
	struct disks *disks = disks_of(io);
	struct registration registration = {.base = base, .bytes = bytes};
	bool wake;

	if (!disks->uring)
		return -ENOTSUP;
	/* A ring belongs to one thread, registering included. */
	pthread_mutex_lock(&disks->lock);
	SKEP_CHECK(!disks->registering);
	disks->registering = &registration;
	wake = disks->sleepers;
	disks->sleepers = 0;
	pthread_mutex_unlock(&disks->lock);
	if (wake)
		disks->form->wake(disks);
	pthread_mutex_lock(&disks->lock);
	while (!registration.done)
		pthread_cond_wait(&disks->registered, &disks->lock);
	pthread_mutex_unlock(&disks->lock);
	return registration.rc;
}

/* --- make and end ----------------------------------------------------------------------------- */

int disks_thread(pthread_t *thread, void *(*run)(void *), struct disks *disks, unsigned number)
{
	char name[THREAD_NAME_BYTES];
	sigset_t all, old;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = memory_should_fail() ? EAGAIN : pthread_create(thread, NULL, run, disks);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc)
		return -rc;
	snprintf(name, sizeof(name), "disk-%u", number);
	pthread_setname_np(*thread, name);
	return 0;
}

static int form_begin(
	struct disks *disks, const struct disks_options *options, const struct disk_why *why)
{
	int rc = -ENOSYS;

	if (options->backend != LOOP_BACKEND_EPOLL) {
#ifdef SKEP_HAVE_URING
		disks->form = &disks_uring_form;
		rc = disks->form->begin(disks);
#endif
		if (!rc)
			return 0;
		if (options->backend == LOOP_BACKEND_URING)
			return disk_refuse(why, rc,
				"io_uring cannot be had: %s: allow it, or let "
				"the back end be chosen",
				status_text(rc));
		disks->uring_error = rc;
		log_info("ssd", "io_uring is not to be had (%s): threads of pread and pwrite serve",
			status_text(rc));
	}
	disks->form = &disks_plain_form;
	rc = disks->form->begin(disks);
	return rc ? disk_refuse(why, rc, "no thread for the devices: %s", status_text(rc)) : 0;
}

static int disks_init(struct disks *disks, const struct disks_options *options)
{
	pthread_condattr_t monotonic;

	disks->io.ops = &disks_ops;
	disks->depth = options->depth ? options->depth : DISK_DEPTH;
	disks->thread_count = options->plain_threads ? options->plain_threads : DISK_THREADS;
	disks->mailbox = options->mailbox;
	list_init(&disks->queued);
	list_init(&disks->arrived);
	for (unsigned i = 0; i < SSD_DEVICES_MAX; i++)
		disks->each[i].fd = -1;
	pthread_mutex_init(&disks->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&disks->arrival, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_cond_init(&disks->registered, NULL);
	pthread_cond_init(&disks->work, NULL);
	disks->post = memory_zalloc(sizeof(*disks->post));
	if (!disks->post)
		return -ENOMEM;
	disks->post->disks = disks;
	return 0;
}

/* The threads have ended, or never began. */
static void disks_free(struct disks *disks)
{
	for (unsigned i = 0; i < SSD_DEVICES_MAX; i++)
		disk_close(&disks->each[i]);
	pthread_mutex_destroy(&disks->lock);
	pthread_cond_destroy(&disks->arrival);
	pthread_cond_destroy(&disks->registered);
	pthread_cond_destroy(&disks->work);
	if (disks->told)
		disks->post->disks = NULL;
	else
		memory_free(disks->post);
	memory_free(disks);
}

int disks_create(
	const struct disks_options *options, struct ssd_io **out, char *text, size_t text_bytes)
{
	const struct disk_why why = {.text = text, .bytes = text_bytes};
	struct disks *disks;
	int rc;

	if (!options->count || options->count > SSD_DEVICES_MAX)
		return disk_refuse(
			&why, -EINVAL, "%u devices: give 1 to %d", options->count, SSD_DEVICES_MAX);
	if (options->depth > DISK_DEPTH_MAX || options->plain_threads > DISK_THREADS_MAX ||
		options->backend > LOOP_BACKEND_EPOLL)
		return disk_refuse(&why, -EINVAL, "a depth goes up to %d, plain threads up to %d",
			DISK_DEPTH_MAX, DISK_THREADS_MAX);
	disks = memory_zalloc(sizeof(*disks));
	if (!disks)
		return disk_refuse(&why, -ENOMEM, "no memory for the devices");
	rc = disks_init(disks, options);
	if (rc)
		disk_refuse(&why, rc, "no memory for the devices");
	for (unsigned i = 0; i < options->count && !rc; i++) {
		disks->each[i].read_only = options->read_only;
		rc = disk_open(
			&disks->each[i], &options->paths[i], &disks->io.device_bytes[i], &why);
		disks->io.device_count += !rc;
	}
	if (!rc)
		rc = form_begin(disks, options, &why);
	if (rc) {
		disks_free(disks);
		return rc;
	}
	*out = &disks->io;
	return 0;
}

void disks_destroy(struct ssd_io *io)
{
	struct disks *disks;

	if (!io)
		return;
	disks = disks_of(io);
	pthread_mutex_lock(&disks->lock);
	disks->stop = true;
	pthread_mutex_unlock(&disks->lock);
	disks->form->end(disks);
	deliver(disks);
	SKEP_CHECK(list_empty(&disks->queued) && list_empty(&disks->arrived));
	disks_free(disks);
}
