/* SPDX-License-Identifier: Apache-2.0 */
#include "base/loop/mailbox.h"

#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "base/check.h"
#include "base/loop/loop_priv.h"
#include "base/memory.h"

enum { CAPACITY_MAX = 1 << 24 };

/*
 * A slot's sequence says whose turn it is. For the message at position p (slot p % capacity):
 * p: free for a producer; p + 1: holds the message; p + capacity: free for the next round.
 */
struct slot {
	_Atomic uint64_t sequence;
	mailbox_run *run;
	_Alignas(8) unsigned char argument[MAILBOX_ARGUMENT_BYTES];
};

struct mailbox {
	struct loop_source source;
	struct loop *loop;
	struct slot *slots;
	uint64_t mask;
	_Atomic uint64_t
		head;	/* written by the loop's thread; relaxed readers want a rough count */
	char apart[64]; /* the tail is fought over by producers */
	_Atomic uint64_t tail;
};

/* Takes the message at the head and runs it; false where none is there. Loop's thread. */
static bool message_run(struct mailbox *mailbox)
{
	uint64_t at = atomic_load_explicit(&mailbox->head, memory_order_relaxed);
	struct slot *slot = &mailbox->slots[at & mailbox->mask];
	_Alignas(8) unsigned char argument[MAILBOX_ARGUMENT_BYTES];
	mailbox_run *run;

	/* L2 of loop_wake; also acquires what mailbox_post wrote before its store of at + 1. */
	if (atomic_load_explicit(&slot->sequence, memory_order_seq_cst) != at + 1)
		return false;
	run = slot->run;
	memcpy(argument, slot->argument, sizeof(argument));
	/* Pairs with the acquire in mailbox_post: the slot is read before it is written again. */
	atomic_store_explicit(&slot->sequence, at + mailbox->mask + 1, memory_order_release);
	run(argument);
	/* Pairs with mailbox_waiting. After the run: who picks the idlest counts what is running.
	 */
	atomic_store_explicit(&mailbox->head, at + 1, memory_order_release);
	return true;
}

/*
 * A ring full at most, so that messages which post messages do not hold the loop up. What is left
 * then was posted since this began (before, there was no room for it), so after the loop cleared
 * woken: the post set it again, and the next turn does not sleep.
 */
static int mailbox_source_run(struct loop_source *source)
{
	struct mailbox *mailbox = list_item(source, struct mailbox, source);
	uint64_t count = 0;

	while (count <= mailbox->mask && message_run(mailbox))
		count++;
	return (int)count;
}

int mailbox_create(struct loop *loop, uint32_t capacity, struct mailbox **made)
{
	struct mailbox *mailbox;
	uint64_t slots = 2; /* with one, a slot that is full looks free for the next round */

	if (!capacity || capacity > CAPACITY_MAX)
		return -EINVAL;
	while (slots < capacity)
		slots *= 2;
	mailbox = memory_zalloc(sizeof(*mailbox));
	if (!mailbox)
		return -ENOMEM;
	mailbox->slots = memory_calloc(slots, sizeof(*mailbox->slots));
	if (!mailbox->slots) {
		memory_free(mailbox);
		return -ENOMEM;
	}
	for (uint64_t i = 0; i < slots; i++)
		atomic_init(&mailbox->slots[i].sequence, i);
	mailbox->mask = slots - 1;
	mailbox->loop = loop;
	mailbox->source.run = mailbox_source_run;
	loop_source_add(loop, &mailbox->source);
	*made = mailbox;
	return 0;
}

void mailbox_destroy(struct mailbox *mailbox)
{
	if (!mailbox)
		return;
	while (message_run(mailbox))
		;
	SKEP_CHECK(!mailbox_waiting(mailbox)); /* nobody is in the middle of a post */
	loop_source_remove(mailbox->loop, &mailbox->source);
	memory_free(mailbox->slots);
	memory_free(mailbox);
}

int mailbox_post(
	struct mailbox *mailbox, mailbox_run *run, const void *argument, size_t argument_bytes)
{
	uint64_t at = atomic_load_explicit(&mailbox->tail, memory_order_relaxed);
	struct slot *slot;

	SKEP_CHECK(argument_bytes <= MAILBOX_ARGUMENT_BYTES);
	for (;;) {
		uint64_t sequence;

		slot = &mailbox->slots[at & mailbox->mask];
		/* Pairs with the release in message_run. */
		sequence = atomic_load_explicit(&slot->sequence, memory_order_acquire);
		if (sequence < at)
			return -EAGAIN;
		if (sequence > at) /* another producer was faster */
			at = atomic_load_explicit(&mailbox->tail, memory_order_relaxed);
		/* Relaxed: the slot's sequence carries all order, the tail only parts the slots. */
		else if (atomic_compare_exchange_weak_explicit(&mailbox->tail, &at, at + 1,
				 memory_order_relaxed, memory_order_relaxed))
			break;
	}
	slot->run = run;
	if (argument_bytes)
		memcpy(slot->argument, argument, argument_bytes);
	/* W1 of loop_wake; also releases the two writes above to message_run. */
	atomic_store_explicit(&slot->sequence, at + 1, memory_order_seq_cst);
	loop_wake(mailbox->loop);
	return 0;
}

struct call {
	mailbox_run *run;
	void *argument;
	sem_t *done;
};

static void call_run(void *argument)
{
	struct call *call = argument;

	call->run(call->argument);
	sem_post(call->done);
}

int mailbox_call(struct mailbox *mailbox, mailbox_run *run, void *argument)
{
	sem_t done;
	struct call call = {.run = run, .argument = argument, .done = &done};
	int rc;

	SKEP_CHECK(!loop_is_here(mailbox->loop));
	sem_init(&done, 0, 0);
	rc = mailbox_post(mailbox, call_run, &call, sizeof(call));
	while (!rc && sem_wait(&done))
		SKEP_CHECK(errno == EINTR);
	sem_destroy(&done);
	return rc;
}

uint32_t mailbox_waiting(const struct mailbox *mailbox)
{
	/*
	 * The head first: whoever sees a head (acquire, pairs with the release in message_run) sees
	 * the tail at or past it, so the difference is never negative.
	 */
	uint64_t head = atomic_load_explicit(&mailbox->head, memory_order_acquire);

	return (uint32_t)(atomic_load_explicit(&mailbox->tail, memory_order_relaxed) - head);
}
