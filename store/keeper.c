/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper: owner of every name. This file is its whole turn, without threads, sockets or clocks:
 * node.c runs it in a thread, the simulation runs it from a seed.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/memory.h"
#include "store/hbm_priv.h"
#include "store/store_priv.h"

/* How often what nobody announces is looked at: released pins, removed blocks, blocked puts. */
#define LOOK_AGAIN_NS NS_PER_MS

int keeper_create(uint64_t incarnation, uint32_t id_bits, const struct keeper_outside *outside,
	struct keeper **out)
{
	struct keeper *keeper = memory_zalloc(sizeof(*keeper));

	if (!keeper)
		return -ENOMEM;
	keeper->sum_jobs = memory_calloc(SUM_JOBS_MAX, sizeof(*keeper->sum_jobs));
	if (!keeper->sum_jobs) {
		memory_free(keeper);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < SUM_JOBS_MAX; i++)
		keeper->sum_jobs[i].next_free = i + 1 == SUM_JOBS_MAX ? NONE32 : i + 1;
	keeper->incarnation = incarnation;
	keeper->id_bits = id_bits ? id_bits : 128;
	keeper->outside = *outside;
	list_init(&keeper->sessions);
	list_init(&keeper->sum_waiting);
	*out = keeper;
	return 0;
}

void keeper_destroy(struct keeper *keeper)
{
	if (!keeper)
		return;
	while (!list_empty(&keeper->sessions)) {
		struct session *session =
			list_item(keeper->sessions.next, struct session, of_keeper);

		session->said_bye = true;
		session_end(session);
	}
	while (keeper->realm_count)
		realm_destroy(keeper->realms[--keeper->realm_count]);
	ssd_destroy(keeper->ssd);
	memory_free(keeper->sum_jobs);
	memory_free(keeper);
}

struct realm *keeper_realm(struct keeper *keeper, const char *name)
{
	for (unsigned i = 0; i < keeper->realm_count; i++)
		if (!strcmp(keeper->realms[i]->name, name))
			return keeper->realms[i];
	return NULL;
}

static unsigned session_round(struct session *session, unsigned budget)
{
	struct submission message;
	unsigned taken = 0;
	int status = 0;

	while (taken < budget && !session->stopped && !session->operator_role) {
		status = page_end_take(&session->page, &message);
		if (status <= 0)
			break;
		taken++;
		status = session_submit(session, &message);
		if (status < 0)
			break;
	}
	if (status < 0) {
		session->realm->counters[REALM_COUNTER_sessions_broken]++;
		session->realm->keeper->outside.cut(session->realm->keeper->outside.arg, session);
	}
	return taken;
}

void keeper_session_drain(struct session *session)
{
	session_round(session, PAGE_SUBMISSIONS);
}

unsigned keeper_round(struct keeper *keeper, unsigned budget)
{
	unsigned taken = 0;

	list_each_safe (node, &keeper->sessions) {
		struct session *session = list_item(node, struct session, of_keeper);

		/* It would not find what it puts. */
		if (!session->unmoved)
			taken += session_round(session, budget);
	}
	for (unsigned i = 0; i < keeper->realm_count; i++)
		if (keeper->realms[i]->room_made && !list_empty(&keeper->realms[i]->blocked))
			put_retry_blocked(keeper->realms[i]);
	for (unsigned i = 0; i < keeper->realm_count; i++) {
		ssd_pump(keeper->realms[i]);
		hbm_pump(keeper->realms[i]);
	}
	if (keeper->ssd)
		ssd_kick(keeper->ssd);
	keeper->counters[NODE_COUNTER_submissions] += taken;
	return taken;
}

bool keeper_sums_idle(const struct keeper *keeper)
{
	unsigned count = 0;

	for (uint32_t i = keeper->sum_free; i != NONE32; i = keeper->sum_jobs[i].next_free)
		count++;
	return count == SUM_JOBS_MAX && list_empty(&keeper->sum_waiting);
}

unsigned keeper_moved(struct keeper *keeper, bool all)
{
	unsigned left = 0;

	list_each (node, &keeper->sessions) {
		struct session *session = list_item(node, struct session, of_keeper);

		if (!session->unmoved)
			continue;
		/* Acquire: a pin that it took by the old index is seen by the scans from here on.
		 */
		if (!all && page_end_index(&session->page) != keeper->takeovers) {
			left++;
			continue;
		}
		session->unmoved = false;
		session->realm->unmoved--;
		session->realm->room_made = true;
	}
	return left;
}

uint64_t keeper_tick(struct keeper *keeper)
{
	uint64_t next = CLOCK_NEVER, look = keeper->now_ns + LOOK_AGAIN_NS;
	bool unmoved = false;

	for (unsigned i = 0; i < keeper->realm_count; i++)
		unmoved |= keeper->realms[i]->unmoved;
	if (unmoved && keeper_moved(keeper, false))
		next = look;

	for (unsigned i = 0; i < keeper->realm_count; i++) {
		struct realm *realm = keeper->realms[i];

		next = MIN_OF(next, put_tick(realm));
		next = MIN_OF(next, wait_tick(realm));
		next = MIN_OF(next, load_tick(realm));
		next = MIN_OF(next, sync_tick(realm));
		if (remove_settle(realm))
			next = MIN_OF(next, look);
		if (!list_empty(&realm->blocked)) {
			/* A pin released is a store in shared memory that nobody announces. */
			put_retry_blocked(realm);
			next = MIN_OF(next, look);
		}
	}
	if (keeper->ssd)
		next = MIN_OF(next, ssd_tick(keeper->ssd, keeper->now_ns));
	return next;
}

void keeper_summed(struct keeper *keeper, struct sum_job *job)
{
	put_summed(job->realm, job);
	job->next_free = keeper->sum_free;
	keeper->sum_free = (uint32_t)(job - keeper->sum_jobs);
	put_sums_start(keeper);
}
