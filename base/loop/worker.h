/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_LOOP_WORKER_H
#define SKEP_BASE_LOOP_WORKER_H

#include "base/loop/mailbox.h"

/*
 * Threads that do the heavy work (copying, checksums, I/O) and own no names. Each runs a loop of
 * its own with a mailbox for its jobs; a job is a message. How a job tells that it is done is its
 * own business: it posts to the mailbox of whoever asked.
 */
struct workers;

struct workers_options {
	unsigned count;
	uint32_t queue_capacity; /* jobs that may wait for each */
	const char *name;	 /* of the threads, with their number behind it; up to 11 letters */
	enum loop_backend backend;
};

/* The threads take no signals. 0, -EINVAL, -ENOMEM, -EAGAIN (no thread to be had), or as
 * loop_create. */
int workers_create(const struct workers_options *options, struct workers **workers);

/*
 * Waits until every job taken has run, then ends the threads. Nobody may post any more, jobs
 * neither. NULL is allowed.
 */
void workers_destroy(struct workers *workers);

/*
 * Has @run(@argument) done by the first worker of those with the fewest jobs; as mailbox_post. Any
 * thread; never blocks. 0: it runs exactly once. -EAGAIN: every queue is full.
 */
int workers_post(
	struct workers *workers, mailbox_run *run, const void *argument, size_t argument_bytes);

#endif
