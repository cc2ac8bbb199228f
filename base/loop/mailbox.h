/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_LOOP_MAILBOX_H
#define SKEP_BASE_LOOP_MAILBOX_H

#include <stddef.h>
#include <stdint.h>

#include "base/loop/loop.h"

/*
 * Messages from any thread into the thread of a loop: a function and a copied block of arguments. A
 * bounded ring that allocates nothing after mailbox_create and wakes the loop only when it sleeps.
 * Messages of one thread are run in the order posted.
 */
struct mailbox;

enum { MAILBOX_ARGUMENT_BYTES = 96 };

/* Runs on the loop's thread. @argument is a copy aligned to 8 bytes, gone after the return. */
typedef void mailbox_run(void *argument);

/*
 * @capacity: messages, rounded up to a power of two, at least 2. The loop's thread, or before the
 * loop runs. 0, -ENOMEM, -EINVAL (0, or above 2^24).
 */
int mailbox_create(struct loop *loop, uint32_t capacity, struct mailbox **mailbox);

/*
 * Runs what is still in it, then frees it. The loop's thread or any after that ended, not from
 * within a callback; no thread may post any more. NULL is allowed.
 */
void mailbox_destroy(struct mailbox *mailbox);

/*
 * Any thread, the loop's own included; never blocks. @argument_bytes up to MAILBOX_ARGUMENT_BYTES.
 * 0: @run will be called once. -EAGAIN: full, nothing was taken.
 */
int mailbox_post(
	struct mailbox *mailbox, mailbox_run *run, const void *argument, size_t argument_bytes);

/*
 * Runs @run(@argument) on the loop's thread and returns when it has: @argument is the caller's own
 * memory, where answers can be left. Blocks for as long as the loop takes to come by. Any thread
 * but the loop's. 0, or -EAGAIN: full, nothing was taken.
 */
int mailbox_call(struct mailbox *mailbox, mailbox_run *run, void *argument);

/* Messages waiting or being run, as of a moment ago. Any thread. */
uint32_t mailbox_waiting(const struct mailbox *mailbox);

#endif
