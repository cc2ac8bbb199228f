/* SPDX-License-Identifier: Apache-2.0 */
/* The form without io_uring: a few threads, each with one request at a time. */
#include <errno.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "tiering/ssd/disk_priv.h"

static void pause_a_little(void)
{
	nanosleep(&(struct timespec){.tv_nsec = DISK_PAUSE_NS}, NULL);
}

static int64_t transfer(const struct disks *disks, const struct ssd_request *request)
{
	int fd = disks->each[request->device].fd;
	struct disk_rest rest;
	ssize_t moved;

	if (request->op == SSD_OP_FLUSH)
		return fdatasync(fd) ? -errno : 0;
	disk_rest_find(request, &rest);
	moved = request->op == SSD_OP_READ
			? preadv(fd, rest.pieces, (int)rest.count, (off_t)rest.offset)
			: pwritev(fd, rest.pieces, (int)rest.count, (off_t)rest.offset);
	return moved < 0 ? -errno : moved;
}

static void serve(struct disks *disks, struct ssd_request *request)
{
	enum disk_next next;
	struct list finished;

	while ((next = disk_rest_moved(request, transfer(disks, request))) != DISK_NEXT_DONE)
		if (next == DISK_NEXT_LATER)
			pause_a_little();
	disks_note_arrival(request, clock_ns());
	disks_check(request);
	list_init(&finished);
	list_append(&finished, &request->link);
	if (!disks_arrive(disks, &finished))
		return;
	/* The other threads serve on, and their arrivals go with this message. */
	for (;;) {
		bool stop;

		pthread_mutex_lock(&disks->lock);
		stop = disks->stop;
		pthread_mutex_unlock(&disks->lock);
		if (stop) { /* the owner is in disks_destroy() and delivers there */
			disks_tell_not(disks);
			return;
		}
		if (!disks_tell(disks))
			return;
		pause_a_little();
	}
}

static void *plain_main(void *argument)
{
	struct disks *disks = argument;

	pthread_mutex_lock(&disks->lock);
	for (;;) {
		struct ssd_request *request;

		while (list_empty(&disks->queued) && !disks->stop) {
			disks->sleepers++;
			pthread_cond_wait(&disks->work, &disks->lock);
		}
		if (list_empty(&disks->queued))
			break;
		request = list_item(disks->queued.next, struct ssd_request, link);
		list_remove(&request->link);
		pthread_mutex_unlock(&disks->lock);
		serve(disks, request);
		pthread_mutex_lock(&disks->lock);
	}
	pthread_mutex_unlock(&disks->lock);
	return NULL;
}

/* Sleepers are counted by who waits and discounted by who wakes; a wake-up without a cause leaves
 * one too many, which costs a signal to nobody. */
static void plain_wake(struct disks *disks)
{
	pthread_cond_signal(&disks->work);
}

static void plain_end(struct disks *disks)
{
	pthread_cond_broadcast(&disks->work);
	for (unsigned i = 0; i < disks->thread_count; i++)
		pthread_join(disks->threads[i], NULL);
}

static int plain_begin(struct disks *disks)
{
	for (unsigned i = 0; i < disks->thread_count; i++) {
		int rc = disks_thread(&disks->threads[i], plain_main, disks, i);

		if (!rc)
			continue;
		pthread_mutex_lock(&disks->lock);
		disks->stop = true;
		pthread_mutex_unlock(&disks->lock);
		disks->thread_count = i;
		plain_end(disks);
		return rc;
	}
	return 0;
}

const struct disks_form disks_plain_form = {
	.begin = plain_begin,
	.wake = plain_wake,
	.end = plain_end,
};
