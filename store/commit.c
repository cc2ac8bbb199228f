/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes are there: commit with sums given or left to a mover, abort. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "store/put_priv.h"

#define LOAD(field)	    atomic_load_explicit(&(field), RELAXED)
#define STORE(field, value) atomic_store_explicit(&(field), (value), RELAXED)

static void part_write(struct realm *realm, const struct reservation *r,
	const struct commit_part *how, const uint64_t *sums)
{
	struct index *index = &realm->index;
	const struct space *space = &realm->spaces[LOAD(index->entries[r->slot].space)];
	struct index_part *part = index_part(index, r->slot, r->part);
	uint32_t before = 0;
	_Atomic uint64_t *to;

	for (uint32_t i = 0; i < r->part; i++)
		before += space->part_ranges[i];
	to = index_sums(index, r->slot, before);
	for (uint32_t i = 0; i < space->part_ranges[r->part]; i++)
		STORE(to[i], sums[i]);
	STORE(part->bytes, (uint32_t)r->bytes);
	STORE(part->root_low, how->root_low);
	STORE(part->root_high, how->root_high);
	STORE(part->write, r->write);
	STORE(part->frame, (uint32_t)(r->frame / FRAME_GRANULE_BYTES));
}

/* --------------------------------------------------------------------------------- commit */

/* A reservation of this session by its write number, or what a late writer is told. */
static struct reservation *commit_find(
	struct session *session, const struct commit_part *part, int *verdict)
{
	struct realm *realm = session->realm;
	struct reservation *r = part->write ? reservation_find(realm, part->write) : NULL;

	*verdict = -ESTALE;
	if (!r || r->session != session || r->state == RESERVATION_SUMMING)
		return NULL;
	if (r->state == RESERVATION_LIVE) {
		if (r->slot != part->slot || r->part != part->part) {
			*verdict = -EINVAL;
			return NULL;
		}
		return r;
	}
	*verdict = r->verdict;
	realm->counters[REALM_COUNTER_parts_stale]++;
	reservation_drop(realm, r);
	return NULL;
}

/* The sums are made or will never be: commits or drops the part and tells its writer. */
static void sum_finish(struct realm *realm, struct reservation *r, const struct sum_job *job)
{
	struct session *session = r->session;
	uint32_t tag = r->sum_tag, index = r->sum_index;
	uint16_t queue = r->sum_queue;
	int status = 0;

	SKEP_CHECK(r->state == RESERVATION_SUMMING);
	if (r->slot == NONE32) { /* the block was given up or removed meanwhile */
		status = r->verdict;
		reservation_drop(realm, r);
	} else {
		struct commit_part how = {.root_low = job->root_low, .root_high = job->root_high};

		part_write(realm, r, &how, job->sums);
		part_committed(realm, r);
	}
	if (session)
		session_complete(session, queue, tag, status, index);
}

void put_sums_start(struct keeper *keeper)
{
	while (keeper->sum_free != NONE32 && !list_empty(&keeper->sum_waiting)) {
		struct reservation *r =
			list_item(keeper->sum_waiting.next, struct reservation, by_age);
		struct sum_job *job = &keeper->sum_jobs[keeper->sum_free];
		struct realm *realm = r->realm;
		const struct index_entry *entry;
		const struct space *space;

		if (r->slot == NONE32) {
			sum_finish(realm, r, NULL);
			continue;
		}
		entry = &realm->index.entries[r->slot];
		space = &realm->spaces[LOAD(entry->space)];
		job->realm = realm;
		job->write = r->write;
		job->in = (struct part_sums_input){.bytes = dram_at(realm->dram, r->frame),
			.length = r->bytes,
			.id_low = LOAD(entry->id_low),
			.id_high = LOAD(entry->id_high),
			.incarnation = keeper->incarnation,
			.write = r->write,
			.ranges = space->part_ranges[r->part],
			.part = r->part};
		if (keeper->outside.sum(keeper->outside.arg, job) < 0)
			return; /* the movers are full: the next that ends starts this one */
		keeper->sum_free = job->next_free;
		list_remove(&r->by_age);
	}
}

void put_summed(struct realm *realm, struct sum_job *job)
{
	struct reservation *r = reservation_find(realm, job->write);

	SKEP_CHECK(r != NULL);
	sum_finish(realm, r, job);
}

/* Leaves a part to the movers; its writer is answered when it is summed. */
static void sum_want(struct keeper *keeper, struct reservation *r, const struct submission *message,
	uint32_t index)
{
	r->state = RESERVATION_SUMMING;
	r->sum_tag = message->tag;
	r->sum_queue = message->queue;
	r->sum_index = index;
	list_remove(&r->by_age);
	list_append(&keeper->sum_waiting, &r->by_age);
}

/* Commits with sums given. Return: the part's status. */
static int commit_given(struct session *session, const struct commit_part *part,
	const uint64_t *sums, uint64_t sums_left)
{
	struct realm *realm = session->realm;
	struct reservation *r;
	const struct space *space;
	int verdict;

	r = commit_find(session, part, &verdict);
	if (!r)
		return verdict;
	space = &realm->spaces[LOAD(realm->index.entries[r->slot].space)];
	if (part->ranges != space->part_ranges[r->part] || part->ranges > sums_left)
		return -EINVAL;
	part_write(realm, r, part, sums);
	part_committed(realm, r);
	return 0;
}

int put_commit(struct session *session, const struct submission *message)
{
	struct realm *realm = session->realm;
	struct commit_part *parts =
		page_end_scratch(&session->page, message->scratch_at, message->scratch_bytes);
	uint64_t began = clock_ns(), words;
	const uint64_t *sums;
	int committed = 0;

	if (!parts || message->count > message->scratch_bytes / sizeof(*parts))
		return -EPROTO;
	sums = (const uint64_t *)(const void *)(parts + message->count);
	words = (message->scratch_bytes - message->count * sizeof(*parts)) / 8;
	for (uint32_t i = 0; i < message->count; i++) {
		struct commit_part part;
		int status;

		memcpy(&part, &parts[i], sizeof(part)); /* read once */
		if (message->u.other.kind == COMMIT_SUMS_MOVER) {
			struct reservation *r = commit_find(session, &part, &status);

			if (r)
				sum_want(realm->keeper, r, message, i);
			else
				session_complete(session, message->queue, message->tag, status, i);
			continue;
		}
		status = commit_given(session, &part, sums, words);
		if (part.ranges > words)
			words = 0;
		else
			words -= part.ranges, sums += part.ranges;
		parts[i].status = status;
		committed += status == 0;
	}
	if (message->u.other.kind == COMMIT_SUMS_MOVER)
		put_sums_start(realm->keeper);
	else
		session_complete(session, message->queue, message->tag, committed, 0);
	histogram_add(&realm->latencies[REALM_LATENCY_commit], clock_ns() - began);
	return 0;
}

int put_abort(struct session *session, const struct submission *message)
{
	const struct commit_part *parts =
		page_end_scratch(&session->page, message->scratch_at, message->scratch_bytes);

	if (!parts || message->count > message->scratch_bytes / sizeof(*parts))
		return -EPROTO;
	for (uint32_t i = 0; i < message->count; i++) {
		uint64_t write;
		struct reservation *r;

		memcpy(&write, &parts[i].write, sizeof(write));
		r = write ? reservation_find(session->realm, write) : NULL;
		if (r && r->session == session && r->state != RESERVATION_SUMMING)
			reservation_abort(session->realm, r);
	}
	return 0;
}
