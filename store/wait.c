/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Single flight: sessions that wait for a block another writer is writing. A wait ends exactly
 * once: the block is published (0), its writer gave up (the waiter may reserve it), the deadline, a
 * cancel, or the end of the session.
 */
#include <errno.h>

#include "base/bits.h"
#include "store/store_priv.h"

static void wait_free(struct realm *realm, struct wait *wait)
{
	list_remove(&wait->of_session);
	list_remove(&wait->of_pending);
	wait->used = false;
	wait->next_free = realm->wait_free;
	realm->wait_free = (uint32_t)(wait - realm->waits);
	realm->wait_count--;
}

void wait_finish(struct realm *realm, struct wait *wait, int status)
{
	struct session *session = wait->session;
	uint32_t tag = wait->tag, slot = wait->slot;
	uint16_t queue = wait->queue;

	SKEP_CHECK(wait->used);
	wait_free(realm, wait);
	session_complete(session, queue, tag, status, slot);
}

int wait_add(struct session *session, const struct submission *message)
{
	struct realm *realm = session->realm;
	struct wait *wait;

	if (realm->wait_free == NONE32)
		return -EAGAIN;
	wait = &realm->waits[realm->wait_free];
	realm->wait_free = wait->next_free;
	realm->wait_count++;
	wait->used = true;
	wait->session = session;
	wait->deadline_ns = message->deadline_ns;
	wait->slot = message->slot;
	wait->tag = message->tag;
	wait->queue = message->queue;
	list_append(&session->waits, &wait->of_session);
	list_append(&realm->pendings[realm->index.slots[message->slot].pending].waits,
		&wait->of_pending);
	realm->wait_next_ns = MIN_OF(realm->wait_next_ns, wait->deadline_ns);
	realm->counters[REALM_COUNTER_waits]++;
	return 0;
}

int wait_submit(struct session *session, const struct submission *message)
{
	struct realm *realm = session->realm;
	struct index *index = &realm->index;
	int status = -ENOENT;

	if (message->slot < index->head->slot_count && message->generation &&
		atomic_load_explicit(&index->entries[message->slot].name_generation, RELAXED) ==
			message->generation) {
		if (index_state(realm, message->slot) == ENTRY_PRESENT)
			status = 0;
		else if (index_state(realm, message->slot) == ENTRY_PENDING)
			status = message->deadline_ns > realm->keeper->now_ns ? -EINPROGRESS
									      : -ETIMEDOUT;
	}
	if (status == -EINPROGRESS && wait_add(session, message) == 0)
		return 0;
	session_complete(session, message->queue, message->tag,
		status == -EINPROGRESS ? -EAGAIN : status, message->slot);
	return 0;
}

int wait_cancel(struct session *session, const struct submission *message)
{
	list_each_safe (node, &session->waits) {
		struct wait *wait = list_item(node, struct wait, of_session);

		if (wait->tag == message->tag && wait->queue == message->queue)
			wait_finish(session->realm, wait, -ECANCELED);
		if (session->stopped)
			break; /* the answer found no room: the session and all its waits ended */
	}
	return 0;
}

void wait_session_gone(struct session *session)
{
	while (!list_empty(&session->waits))
		wait_free(session->realm, list_item(session->waits.next, struct wait, of_session));
}

uint64_t wait_tick(struct realm *realm)
{
	uint64_t now = realm->keeper->now_ns, next = CLOCK_NEVER;

	if (realm->wait_next_ns > now)
		return realm->wait_next_ns;
	for (uint32_t i = 0; i < WAITS_MAX; i++) {
		struct wait *wait = &realm->waits[i];

		if (!wait->used)
			continue;
		if (wait->deadline_ns <= now)
			wait_finish(realm, wait, -ETIMEDOUT);
		else
			next = MIN_OF(next, wait->deadline_ns);
	}
	realm->wait_next_ns = next;
	return next;
}
