/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions as the keeper sees them: messages from the ring, touches, and what happens when a client
 * stops, breaks the protocol, or dies.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/memory.h"
#include "store/hbm_priv.h"
#include "store/store_priv.h"

#define LOAD(field) atomic_load_explicit(&(field), RELAXED)

struct session *session_add(struct realm *realm, const struct page_end *page)
{
	struct session *session = memory_zalloc(sizeof(*session));
	struct keeper *keeper = realm->keeper;

	if (!session)
		return NULL;
	session->realm = realm;
	session->page = *page;
	session->operator_role = !page->base;
	session->opened_ns = keeper->now_ns;
	list_init(&session->reservations);
	list_init(&session->waits);
	list_init(&session->of_blocked);
	list_init(&session->of_realm);
	list_init(&session->hbm_holds);
	list_init(&session->hbm_wanted);
	list_append(&keeper->sessions, &session->of_keeper);
	keeper->session_count++;
	if (!session->operator_role) {
		list_append(&realm->sessions, &session->of_realm);
		realm->session_count++;
	}
	return session;
}

/* Operators come and go unseen by the realm: its counters and limits are its own sessions'. */
int session_create(struct realm *realm, const struct page_end *page, struct session **out)
{
	bool operator_role = !page->base;
	struct session *session;

	if (!operator_role && realm->session_count >= realm->config.sessions_max)
		return -EUSERS;
	session = session_add(realm, page);
	if (!session)
		return -ENOMEM;
	if (!operator_role) {
		session->id = ++realm->next_session;
		realm->counters[REALM_COUNTER_sessions_opened]++;
	}
	*out = session;
	return 0;
}

void session_stop(struct session *session)
{
	struct realm *realm = session->realm;

	if (session->stopped)
		return;
	session->stopped = true;
	wait_session_gone(session);
	load_session_gone(session);
	sync_session_gone(session);
	hbm_session_gone(session);
	if (session->blocked) {
		/* What it waited for was never told to it; nothing was reserved. */
		list_remove(&session->of_blocked);
		session->blocked = false;
		realm->room_made = true; /* whoever stood behind it may go on */
	}
}

void session_end(struct session *session)
{
	struct realm *realm = session->realm;

	session_stop(session);
	if (!session->said_bye && !session->operator_role)
		realm->counters[REALM_COUNTER_sessions_died]++;
	put_session_gone(session);
	space_session_gone(session);
	SKEP_CHECK(list_empty(&session->reservations) && list_empty(&session->waits));
	list_remove(&session->of_realm);
	list_remove(&session->of_keeper);
	realm->unmoved -= session->unmoved;
	realm->session_count -= !session->operator_role;
	realm->keeper->session_count--;
	realm->room_made = true; /* its pins are gone */
	memory_free(session);
}

void session_drop(struct session *session)
{
	struct realm *realm = session->realm;

	list_remove(&session->of_realm);
	list_remove(&session->of_keeper);
	realm->session_count -= !session->operator_role;
	realm->keeper->session_count--;
	memory_free(session);
}

void session_complete(
	struct session *session, uint16_t queue, uint32_t tag, int32_t status, uint32_t value)
{
	struct completion completion = {.tag = tag, .status = status, .value = value};

	if (session->stopped)
		return;
	if (page_end_complete(&session->page, queue, &completion) < 0)
		session->realm->keeper->outside.cut(session->realm->keeper->outside.arg, session);
}

void session_wake(struct session *session, uint16_t queue)
{
	if (!session->stopped && queue)
		page_end_wake(&session->page, queue);
}

uint64_t session_pins(const struct session *session)
{
	uint32_t count;
	const struct pin_cell *cells = page_end_pins(&session->page, &count);
	uint64_t pins = 0;

	for (uint32_t i = 0; i < count; i++)
		pins += LOAD(cells[i].generation) != 0;
	return pins;
}

/* The block a message names by slot and name generation, or NONE32. */
static uint32_t named_slot(const struct realm *realm, const struct submission *message)
{
	if (message->slot >= realm->index.head->slot_count || !message->generation ||
		LOAD(realm->index.entries[message->slot].name_generation) != message->generation ||
		index_state(realm, message->slot) != ENTRY_PRESENT)
		return NONE32;
	return message->slot;
}

/* The block a message names by slot and frame generation, or NONE32. */
static uint32_t framed_slot(const struct realm *realm, const struct submission *message)
{
	if (message->slot >= realm->index.head->slot_count || !message->generation ||
		LOAD(realm->index.entries[message->slot].frame_generation) != message->generation)
		return NONE32;
	return message->slot;
}

static int touch_submit(struct session *session, const struct submission *message)
{
	struct realm *realm = session->realm;
	uint32_t had = message->u.touch.matched + message->u.touch.stored;
	uint32_t from_hbm = message->count; /* by a session that has them itself */
	uint32_t slot, missed, tokens = 1;
	enum skep_reason reason;

	if (message->u.touch.matched > message->u.touch.asked ||
		message->u.touch.stored > message->u.touch.asked - message->u.touch.matched ||
		from_hbm > message->u.touch.asked - had ||
		message->u.touch.space >= INDEX_SPACES_MAX ||
		message->u.touch.reason >= SKEP_REASON_COUNT)
		return -EPROTO;
	if (realm->spaces[message->u.touch.space].used)
		tokens = realm->spaces[message->u.touch.space].block_tokens;
	had += from_hbm;
	missed = message->u.touch.asked - had;
	realm->counters[REALM_COUNTER_matches]++;
	realm->counters[REALM_COUNTER_blocks_asked] += message->u.touch.asked;
	realm->counters[REALM_COUNTER_blocks_had] += had;
	realm->counters[REALM_COUNTER_blocks_had_ssd] += message->u.touch.stored;
	realm->counters[REALM_COUNTER_blocks_had_hbm] += from_hbm;
	realm->counters[REALM_COUNTER_tokens_asked] += (uint64_t)message->u.touch.asked * tokens;
	realm->counters[REALM_COUNTER_tokens_had] += (uint64_t)had * tokens;
	if (missed) {
		reason = (enum skep_reason)message->u.touch.reason;
		if (reason == SKEP_REASON_ABSENT || reason == SKEP_REASON_NONE)
			reason = gone_find(realm, message->u.touch.missing_low, NULL);
		realm->misses[reason] += missed;
	}
	if (!had)
		return 0;
	slot = message->u.touch.stored || from_hbm ? named_slot(realm, message)
						   : framed_slot(realm, message);
	if (slot != NONE32)
		lru_touch(realm, slot);
	else if (!from_hbm) /* what is in hbm alone is on no list */
		realm->counters[REALM_COUNTER_touches_late]++;
	return 0;
}

static int hint_submit(struct session *session, const struct submission *message)
{
	struct realm *realm = session->realm;
	uint32_t slot = named_slot(realm, message);

	if (slot == NONE32)
		return 0; /* it left meanwhile: a hint promises nothing */
	if (message->u.other.kind == 1)
		lru_touch(realm, slot);
	else if (message->u.other.kind == 2)
		lru_cool(realm, slot);
	return 0;
}

static int quarantine_submit(struct session *session, const struct submission *message)
{
	struct realm *realm = session->realm;
	uint32_t slot = framed_slot(realm, message);

	if (slot != NONE32) {
		realm->counters[REALM_COUNTER_blocks_quarantined]++;
		realm->misses[SKEP_REASON_CHECKSUM]++;
		remove_subtree(realm, slot, SKEP_REASON_CHECKSUM);
	}
	return 0;
}

int session_submit(struct session *session, const struct submission *message)
{
	session->submission_count++;
	if (message->queue >= PAGE_QUEUES ||
		(message->queue && session->page.queue_fds[message->queue] < 0))
		return -EPROTO;
	switch (message->op) {
	case SUBMIT_TOUCH:
		return touch_submit(session, message);
	case SUBMIT_RESERVE:
		return put_reserve(session, message);
	case SUBMIT_COMMIT:
		return put_commit(session, message);
	case SUBMIT_ABORT:
		return put_abort(session, message);
	case SUBMIT_WAIT:
		return wait_submit(session, message);
	case SUBMIT_CANCEL:
		wait_cancel(session, message);
		hbm_asks_cancel(session, message);
		return session->stopped ? 0 : load_cancel(session, message);
	case SUBMIT_HINT:
		return hint_submit(session, message);
	case SUBMIT_QUARANTINE:
		return quarantine_submit(session, message);
	case SUBMIT_EXPLAIN:
		return explain_submit(session, message);
	case SUBMIT_LOAD:
		return load_submit(session, message);
	case SUBMIT_SYNC:
		return sync_submit(session, message);
	case SUBMIT_REMOVE:
		return remove_submit(session, message);
	case SUBMIT_ANNOUNCE:
		return hbm_announce(session, message);
	case SUBMIT_WITHDRAW:
		return hbm_withdraw(session, message);
	case SUBMIT_ASKS:
		return hbm_asks(session, message);
	default:
		return -EPROTO;
	}
}
