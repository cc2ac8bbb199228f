/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions that wait until all that was published before is durable: its blocks are written, then
 * the log makes their tables durable, then the ledger what was told of dead records. Once in a
 * while the realm syncs by itself and tells its sessions: the durable mark.
 */
#include <errno.h>

#include "base/bits.h"
#include "store/store_priv.h"

#define MARK_NS NS_PER_S

static void sync_free(struct sync *sync)
{
	list_remove(&sync->link);
	if (sync->mark_ns)
		sync->realm->ssd.mark_live = false;
	else
		list_append(&sync->realm->ssd.syncs_free, &sync->link);
}

/* Is it known to the log or the ledger, which will call back? */
static bool sync_is_away(const struct sync *sync)
{
	return sync->stage == SYNC_LOG || sync->stage == SYNC_LEDGER;
}

static void mark_tell(struct realm *realm, uint64_t mark_ns)
{
	realm->ssd.marked_ns = mark_ns;
	list_each (node, &realm->sessions)
		page_end_durable(&list_item(node, struct session, of_realm)->page, mark_ns);
}

static void sync_finish(struct sync *sync, int status)
{
	struct session *session = sync->session;
	uint32_t tag = sync->tag;
	uint16_t queue = sync->queue;

	if (sync->mark_ns && status == 0) {
		sync->realm->ssd.marked = sync->dirtied;
		mark_tell(sync->realm, sync->mark_ns);
	}
	sync->session = NULL;
	if (!sync_is_away(sync))
		sync_free(sync);
	if (session)
		session_complete(session, queue, tag, status, 0);
}

static void sync_ledger_done(struct manifest_done *ledger, int status)
{
	struct sync *sync = list_item(ledger, struct sync, ledger);

	sync->stage = SYNC_WAITING;
	sync_finish(sync, status);
}

/* What died before is durable too: a block that was purged stays away. */
static void sync_settle(struct sync *sync)
{
	struct keeper_outside *outside = &sync->realm->keeper->outside;

	if (!outside->settle) {
		sync_finish(sync, 0);
		return;
	}
	sync->stage = SYNC_LEDGER;
	sync->ledger.done = sync_ledger_done;
	if (outside->settle(outside->arg, &sync->ledger) < 0)
		sync->stage = SYNC_WAITING;
}

static void sync_log_done(struct ssd_sync *log, int status)
{
	struct sync *sync = list_item(log, struct sync, log);

	sync->stage = SYNC_WAITING;
	if (status < 0)
		sync_finish(sync, status);
	else
		sync_settle(sync);
}

/* Is all of the sync's epoch written, and of all before it? */
static bool sync_written(struct realm *realm, const struct sync *sync)
{
	struct realm_ssd *ssd = &realm->ssd;

	while (ssd->epoch_oldest != ssd->epoch && !ssd->unwritten[ssd->epoch_oldest % SYNC_EPOCHS])
		ssd->epoch_oldest++;
	/* Epochs wrap around; those in use lie close together. */
	return (int16_t)(ssd->epoch_oldest - sync->epoch) > 0;
}

/* Without the record of its space no block is found. */
static bool spaces_written(const struct realm *realm)
{
	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++)
		if (realm->spaces[i].used && !space_written(&realm->spaces[i]))
			return false;
	return true;
}

void syncs_pump(struct realm *realm)
{
	list_each (node, &realm->ssd.syncs_live) {
		struct sync *sync = list_item(node, struct sync, link);

		if (sync_is_away(sync))
			continue;
		if (sync->stage == SYNC_WAITING) {
			sync_settle(sync);
			return; /* the next one at the next turn: the list may have changed */
		}
		if (realm->ssd.down) {
			sync_finish(sync, -EIO);
			return;
		}
		if (!sync_written(realm, sync) || !spaces_written(realm))
			return;
		sync->stage = SYNC_LOG;
		sync->log.done = sync_log_done;
		ssd_sync(realm->ssd.log, &sync->log);
	}
}

static bool epochs_left(const struct realm *realm)
{
	return (uint16_t)(realm->ssd.epoch - realm->ssd.epoch_oldest) < SYNC_EPOCHS - 1;
}

static void sync_begin(struct sync *sync)
{
	struct realm *realm = sync->realm;

	sync->stage = SYNC_WRITING;
	sync->epoch = realm->ssd.epoch++;
	list_append(&realm->ssd.syncs_live, &sync->link);
}

int sync_submit(struct session *session, const struct submission *message)
{
	struct realm *realm = session->realm;
	struct sync *sync;
	int status = 0;

	if (!realm->ssd.log || realm->ssd.down)
		status = realm->ssd.log ? -EIO : -ENOTSUP;
	else if (list_empty(&realm->ssd.syncs_free) || !epochs_left(realm))
		status = -EAGAIN;
	if (status < 0) {
		session_complete(session, message->queue, message->tag, status, 0);
		return 0;
	}
	sync = list_item(realm->ssd.syncs_free.next, struct sync, link);
	list_remove(&sync->link);
	sync->session = session;
	sync->deadline_ns = message->deadline_ns;
	sync->tag = message->tag;
	sync->queue = message->queue;
	sync_begin(sync);
	return 0;
}

/* When it is time for the next mark. Return: when to look again. */
static uint64_t mark_tick(struct realm *realm)
{
	struct realm_ssd *ssd = &realm->ssd;
	uint64_t now = realm->keeper->now_ns;

	if (!ssd->log || ssd->mark_live || list_empty(&realm->sessions))
		return CLOCK_NEVER;
	if (!ssd->mark_next_ns)
		ssd->mark_next_ns = now + MARK_NS;
	if (now < ssd->mark_next_ns)
		return ssd->mark_next_ns;
	ssd->mark_next_ns = now + MARK_NS;
	if (ssd->dirtied == ssd->marked) {
		mark_tell(realm, now);
	} else if (!ssd->down && epochs_left(realm)) {
		ssd->mark = (struct sync){.realm = realm, .mark_ns = now, .dirtied = ssd->dirtied};
		ssd->mark_live = true;
		sync_begin(&ssd->mark);
		syncs_pump(realm);
	}
	return ssd->mark_next_ns;
}

void sync_mark_drop(struct realm *realm)
{
	if (realm->ssd.mark_live && !sync_is_away(&realm->ssd.mark))
		sync_free(&realm->ssd.mark);
}

void sync_session_gone(struct session *session)
{
	list_each_safe (node, &session->realm->ssd.syncs_live) {
		struct sync *sync = list_item(node, struct sync, link);

		if (sync->session == session) {
			sync->session = NULL;
			if (!sync_is_away(sync))
				sync_free(sync);
		}
	}
}

uint64_t sync_tick(struct realm *realm)
{
	uint64_t now = realm->keeper->now_ns, next = mark_tick(realm);

	list_each (node, &realm->ssd.syncs_live) {
		struct sync *sync = list_item(node, struct sync, link);

		if (!sync->session)
			continue;
		if (sync->deadline_ns <= now) {
			sync_finish(sync, -ETIMEDOUT);
			return now; /* the list has changed: look again */
		}
		next = MIN_OF(next, sync->deadline_ns);
	}
	return next;
}
