/* SPDX-License-Identifier: Apache-2.0 */
#include "base/loop/worker.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/thread.h"

enum {
	WORKERS_MAX = 1024,
	THREAD_NAME_BYTES = 16, /* the kernel's bound */
};

struct worker {
	struct loop *loop;
	struct mailbox *jobs;
	pthread_t thread;
	bool started;
	bool stop; /* set by a message, so by the thread itself */
};

struct workers {
	unsigned count;
	struct worker each[];
};

static void *worker_main(void *argument)
{
	struct worker *worker = argument;

	while (!worker->stop)
		SKEP_CHECK(loop_run_once(worker->loop, CLOCK_NEVER) >= 0);
	return NULL;
}

static void worker_stop(void *argument)
{
	struct worker **worker = argument;

	(*worker)->stop = true;
}

/* The message comes after all jobs taken. */
static void worker_tell_stop(struct worker *worker)
{
	/* A full queue empties by itself. */
	while (mailbox_post(worker->jobs, worker_stop, &worker, sizeof(worker)) == -EAGAIN)
		sched_yield();
}

static int worker_begin(
	struct worker *worker, const struct workers_options *options, unsigned number)
{
	struct loop_options loop_options = {.backend = options->backend};
	char name[THREAD_NAME_BYTES];
	int rc;

	rc = loop_create(&loop_options, &worker->loop);
	if (rc)
		return rc;
	rc = mailbox_create(worker->loop, options->queue_capacity, &worker->jobs);
	if (rc)
		return rc;
	snprintf(name, sizeof(name), "%s-%u", options->name, number);
	rc = thread_start(&worker->thread, worker_main, worker, name);
	worker->started = !rc;
	return rc;
}

int workers_create(const struct workers_options *options, struct workers **made)
{
	struct workers *workers;
	int rc;

	if (!options->count || options->count > WORKERS_MAX || !options->name)
		return -EINVAL;
	workers = memory_zalloc(sizeof(*workers) + options->count * sizeof(struct worker));
	if (!workers)
		return -ENOMEM;
	workers->count = options->count;
	for (unsigned i = 0; i < options->count; i++) {
		rc = worker_begin(&workers->each[i], options, i);
		if (rc) {
			workers_destroy(workers);
			return rc;
		}
	}
	*made = workers;
	return 0;
}

void workers_destroy(struct workers *workers)
{
	if (!workers)
		return;
	for (unsigned i = 0; i < workers->count; i++)
		if (workers->each[i].started)
			worker_tell_stop(&workers->each[i]);
	for (unsigned i = 0; i < workers->count; i++) {
		struct worker *worker = &workers->each[i];

		if (worker->started)
			pthread_join(worker->thread, NULL);
		mailbox_destroy(worker->jobs);
		loop_destroy(worker->loop);
	}
	memory_free(workers);
}

int workers_post(
	struct workers *workers, mailbox_run *run, const void *argument, size_t argument_bytes)
{
	struct worker *best = NULL;
	uint32_t fewest = UINT32_MAX;

	for (unsigned i = 0; i < workers->count && fewest; i++) {
		struct worker *worker = &workers->each[i];
		uint32_t waiting = mailbox_waiting(worker->jobs);

		if (waiting < fewest) {
			fewest = waiting;
			best = worker;
		}
	}
	SKEP_CHECK(best);
	return mailbox_post(best->jobs, run, argument, argument_bytes);
}
