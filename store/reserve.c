/* SPDX-License-Identifier: Apache-2.0 */
/* Requests for frames: reserve, and those that wait for room. put_priv.h says what a reservation
 * is. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "store/hbm_priv.h"
#include "store/put_priv.h"

#define LOAD(field)	    atomic_load_explicit(&(field), RELAXED)
#define STORE(field, value) atomic_store_explicit(&(field), (value), RELAXED)

/* -------------------------------------------------------------------------------- reserve */

/* Evicts until @rest frames of the class fit the quota, which may have been lowered meanwhile. */
static bool quota_make_room(struct realm *realm, unsigned class, uint32_t rest)
{
	struct dram_status status;
	uint64_t want;

	dram_status_get(realm->dram, &status);
	want = status.used_bytes + dram_frame_bytes(realm->dram, class) * rest;
	return want > status.use_max && evict_bytes(realm, want - status.use_max);
}

int64_t frame_take(struct realm *realm, unsigned class, uint32_t rest, bool shed)
{
	struct room_want want = {.class = class, .frames = rest};
	int64_t frame = dram_frame_get(realm->dram, class, NONE32);
	bool evicted = false, made;

	/* Each round frees something or ends; a class change may take more than one. */
	for (unsigned round = 0; frame < 0 && round < 4; round++) {
		if (frame == -EDQUOT)
			made = quota_make_room(realm, class, rest);
		else if (evicted) /* in vain: what was coldest had no frame of this class */
			made = evict_slabs_for(realm, class);
		else
			made = evicted = evict_for(realm, &want);
		if (!made && !(shed && evict_shed(realm)))
			break;
		frame = dram_frame_get(realm->dram, class, NONE32);
	}
	return frame;
}

/* Nothing that anybody holds or writes stands in the way: it will never fit. */
static bool hopeless(const struct realm *realm)
{
	struct dram_status status;

	dram_status_get(realm->dram, &status);
	return realm->reservation_count == 0 && !realm->pending_count && realm->pins_seen == 0 &&
	       !realm->operator_pins && !realm->removed.count && !realm->unmoved &&
	       !realm->hbm.count && !realm->ssd.dirty.count && list_empty(&realm->ssd.jobs_busy) &&
	       status.ready_bytes == status.bytes;
}

/* Adds a reservation of the part to a block that stands pending. */
static void part_reserve(
	struct reserving *job, uint32_t slot, uint64_t frame, struct reserve_block *block)
{
	struct realm *realm = job->realm;
	struct pending *pending = pending_of(realm, slot);
	struct reservation *r = reservation_make(realm, job->session);

	r->slot = slot;
	r->part = (uint16_t)job->part;
	r->class = (uint8_t)job->class;
	r->frame = frame;
	r->bytes = job->length;
	job->session->reserved_bytes += r->bytes;
	slab_owner_set(dram_slab(realm->dram), frame, slot);
	realm->lru_of_class[job->class] |= 1ull << realm->index.slots[slot].lru;
	list_append(&pending->reservations, &r->of_pending);
	pending->last_ns = realm->keeper->now_ns;
	pending->give_up_ns = CLOCK_NEVER;
	list_remove(&pending->by_age);
	realm->counters[REALM_COUNTER_parts_reserved]++;
	/* Readers see that somebody writes this part (skep_missing). */
	STORE(index_part(&realm->index, slot, job->part)->write, r->write);
	block->status = 0;
	block->write = r->write;
	block->frame = frame;
	block->bytes = r->bytes;
}

/* The part was reserved or committed by somebody. */
static int part_state(struct reserving *job, uint32_t slot)
{
	struct realm *realm = job->realm;
	struct pending *pending = pending_of(realm, slot);

	if (index_state(realm, slot) == ENTRY_PRESENT ||
		realm->index.slots[slot].committed & 1ull << job->part)
		return -EEXIST;
	if (hbm_state(index_state(realm, slot)))
		return 0;
	SKEP_CHECK(pending != NULL);
	list_each (node, &pending->reservations)
		if (list_item(node, struct reservation, of_pending)->part == job->part)
			return SKEP_STATUS_EPENDING;
	return 0;
}

int naming_block(struct reserving *job, uint32_t i, struct reserve_block *block)
{
	uint64_t area_bytes = job->message->scratch_bytes, token_bytes, blob_bytes;
	struct id_input *proof = &job->name.proof;

	memcpy(block, &job->blocks[i], sizeof(*block));
	token_bytes = (uint64_t)block->token_count * 4;
	blob_bytes = (uint64_t)block->key_bytes + block->extra_bytes;
	if (block->token_count > job->space->block_tokens || block->token_at % 4 ||
		block->token_at > area_bytes || token_bytes > area_bytes - block->token_at ||
		block->blob_at > area_bytes || blob_bytes > area_bytes - block->blob_at ||
		block->extra_bytes > INDEX_EXTRA_BYTES_MAX)
		return -EPROTO;
	if (job->space->opaque ? block->key_bytes < 16 || block->key_bytes > INDEX_KEY_BYTES_MAX
			       : block->key_bytes || block->token_count != job->space->block_tokens)
		return -EPROTO;
	memcpy(job->proof, job->area + block->token_at, token_bytes);
	memcpy(job->proof + token_bytes, job->area + block->blob_at, blob_bytes);
	proof->tokens = (const uint32_t *)(const void *)job->proof;
	proof->token_count = block->token_count;
	proof->key = block->key_bytes ? job->proof + token_bytes : NULL;
	proof->key_bytes = block->key_bytes;
	proof->extra = block->extra_bytes ? job->proof + token_bytes + block->key_bytes : NULL;
	proof->extra_bytes = block->extra_bytes;
	return 0;
}

/* Do records of this class exist, so that evicting may free one? */
static bool record_may_leave(struct realm *realm, int class)
{
	struct slab_class_stats stats;

	slab_class_stats_get(realm->index.records, (unsigned)class, &stats);
	return stats.live > 0;
}

int64_t naming_make(struct reserving *job, uint32_t rest)
{
	struct realm *realm = job->realm;
	int64_t slot = index_name_make(realm, &job->name);
	int class;

	if (slot >= 0)
		return slot;
	class = index_record_class(realm, &job->name);
	if (class < 0)
		return class;
	if (!realm->index.free_count || record_may_leave(realm, class)) {
		if (evict_blocks(realm, MIN_OF(rest, 64)))
			slot = index_name_make(realm, &job->name);
	}
	if (slot < 0 && realm->index.free_count && evict_for_record(realm, (unsigned)class))
		slot = index_name_make(realm, &job->name);
	return slot;
}

/* A name that had no bytes here gets some anew: nothing of those it may have had before counts. */
static void name_revive(struct realm *realm, uint32_t slot)
{
	struct index *index = &realm->index;

	STORE(index->entries[slot].origin, 0);
	for (uint32_t i = 0; i < LOAD(index->entries[slot].parts); i++) {
		struct index_part *part = index_part(index, slot, i);

		SKEP_CHECK(LOAD(part->frame) == FRAME_NONE);
		STORE(part->write, 0);
	}
	index_state_set(realm, slot, ENTRY_PENDING);
}

/* Makes the name, or finds it without bytes in @slot, and reserves its first part. Return: slot, or
 * -EAGAIN: no room. */
static int64_t block_make(
	struct reserving *job, int64_t slot, uint32_t rest, struct reserve_block *block)
{
	struct realm *realm = job->realm;
	int64_t frame;
	uint32_t parent = job->name.parent_slot;

	frame = frame_take(realm, job->class, rest, job->shed);
	if (frame < 0)
		return -EAGAIN;
	if (slot >= 0)
		name_revive(realm, (uint32_t)slot);
	else
		slot = naming_make(job, rest);
	if (slot < 0) {
		dram_frame_put(realm->dram, job->class, (uint64_t)frame);
		return -EAGAIN;
	}
	pending_make(realm, (uint32_t)slot);
	realm->index.slots[slot].flags = SLOT_IN_DRAM;
	/* An opaque block's length is its own: it stands among those it can make room for. */
	realm->index.slots[slot].lru =
		(uint8_t)(job->space->opaque ? job->class : job->space->classes[0]);
	if (parent < realm->index.head->slot_count)
		realm->index.slots[parent].dram_children++;
	part_reserve(job, (uint32_t)slot, (uint64_t)frame, block);
	return slot;
}

/* Handles block @i below job->name.parent_*. Return: its slot, -EAGAIN (no room), -EPROTO. */
static int64_t block_reserve(
	struct reserving *job, uint32_t i, uint32_t rest, struct block_id parent_id)
{
	struct realm *realm = job->realm;
	struct reserve_block block;
	uint32_t parent = job->name.parent_slot, slot;
	bool guarded = parent < realm->index.head->slot_count;
	int64_t result, frame;
	int status = naming_block(job, i, &block);

	if (status < 0)
		return status;
	job->name.id =
		id_make(job->space->secret, parent_id, &job->name.proof, realm->keeper->id_bits);
	slot = index_name_find(realm, &job->name);
	result = slot;
	block.status = slot == NONE32 ? 0 : part_state(job, slot);
	if (block.status == 0) {
		if (realm->reservation_free == NONE32 || realm->pending_free == NONE32)
			return -EAGAIN;
		/* While room is made the parent must not be taken for a leaf. */
		if (guarded) {
			realm->index.slots[parent].dram_children++;
			realm->guarded_slot = parent;
		}
		if (slot == NONE32) {
			result = block_make(job, -1, rest, &block);
		} else if (hbm_state(index_state(realm, slot))) {
			result = block_make(job, slot, rest, &block);
		} else if ((frame = frame_take(realm, job->class, rest, job->shed)) < 0) {
			result = -EAGAIN;
		} else {
			part_reserve(job, slot, (uint64_t)frame, &block);
		}
		realm->guarded_slot = NONE32;
		if (guarded)
			evict_child_left(realm, parent, 0);
		if (result < 0)
			return result;
	} else {
		realm->counters[REALM_COUNTER_parts_existing]++;
	}
	block.slot = (uint32_t)result;
	block.name_generation = LOAD(realm->index.entries[result].name_generation);
	memcpy(&job->blocks[i], &block, sizeof(block));
	return result;
}

int naming_parent(struct reserving *job, struct block_id *id)
{
	const struct submission *message = job->message;
	struct index *index = &job->realm->index;
	struct index_entry *entry;

	*id = (struct block_id){0, 0};
	job->name.parent_slot = message->slot;
	job->name.parent_generation = message->generation;
	if (message->slot == SLOT_ROOT(job->space_index))
		return message->generation == job->space->generation ? 0 : SKEP_STATUS_EPARENT;
	if (message->slot >= index->head->slot_count)
		return SKEP_STATUS_EPARENT;
	entry = &index->entries[message->slot];
	if (LOAD(entry->name_generation) != message->generation || !message->generation ||
		LOAD(entry->space) != job->space_index)
		return SKEP_STATUS_EPARENT;
	if (index_state(job->realm, message->slot) != ENTRY_PRESENT &&
		index_state(job->realm, message->slot) != ENTRY_PENDING &&
		(index_state(job->realm, message->slot) != ENTRY_HBM || !job->announces))
		return SKEP_STATUS_EPARENT;
	id->low = LOAD(entry->id_low);
	id->high = LOAD(entry->id_high);
	return 0;
}

struct block_id naming_below(struct reserving *job, uint32_t slot)
{
	job->name.parent_slot = slot;
	job->name.parent_generation = LOAD(job->realm->index.entries[slot].name_generation);
	return job->name.id;
}

int naming_open(struct reserving *job)
{
	const struct submission *m = job->message;
	struct realm *realm = job->realm;

	job->space_index = m->u.reserve.space;
	job->blocks = page_end_scratch(&job->session->page, m->scratch_at, m->scratch_bytes);
	job->area = (const uint8_t *)job->blocks;
	if (!job->blocks || !m->count || m->count > m->scratch_bytes / sizeof(job->blocks[0]) ||
		job->space_index >= INDEX_SPACES_MAX)
		return -EPROTO;
	job->space = &realm->spaces[job->space_index];
	if (!job->space->used || m->u.reserve.space_generation != job->space->generation)
		return -ESTALE;
	if (job->session->readonly)
		return -EROFS;
	job->name.space = job->space_index;
	job->name.parts = job->space->part_count;
	job->name.range_sums = job->space->ranges;
	return 0;
}

/* Checks the request against the space. Return: 0, an answer (negative), or -EPROTO. */
static int reserving_open(struct reserving *job)
{
	const struct submission *m = job->message;
	int class, status = naming_open(job);

	if (status < 0)
		return status;
	job->part = m->u.reserve.part;
	if (job->part >= job->space->part_count)
		return -ERANGE;
	job->length = (uint32_t)job->space->part_bytes[job->part];
	if (m->u.reserve.length && m->u.reserve.length != job->length) {
		if (!job->space->opaque || m->u.reserve.length > job->length ||
			m->u.reserve.length % job->space->part_ranges[job->part])
			return -EINVAL;
		job->length = m->u.reserve.length;
	}
	class = dram_class(job->realm->dram, job->length);
	if (class < 0)
		return -ENOSPC;
	job->class = (unsigned)class;
	return 0;
}

/* Return: blocks answered, or negative: -EAGAIN (no room for even one), … */
static int reserve_try(struct session *session, const struct submission *message)
{
	static _Thread_local struct reserving job; /* 68 KiB, of the keeper's thread */
	struct block_id parent_id;
	uint32_t done = 0;
	int64_t slot = 0;
	int status;

	job.session = session;
	job.realm = session->realm;
	job.message = message;
	job.shed = message->deadline_ns <= session->realm->keeper->now_ns;
	status = reserving_open(&job);
	if (status == 0)
		status = naming_parent(&job, &parent_id);
	if (status < 0)
		return status;
	for (; done < message->count; done++) {
		slot = block_reserve(&job, done, message->count - done, parent_id);
		if (slot < 0)
			break;
		parent_id = naming_below(&job, (uint32_t)slot);
	}
	if (slot == -EPROTO)
		return -EPROTO;
	if (!done)
		return hopeless(job.realm) ? -ENOSPC : -EAGAIN;
	return (int)done;
}

/* Completes or keeps waiting. Return: 0 or -EPROTO. */
static int reserve_answer(struct session *session, const struct submission *message, int status)
{
	struct realm *realm = session->realm;

	if (status == -EPROTO)
		return status;
	if (status == SKEP_STATUS_EPARENT)
		realm->counters[REALM_COUNTER_orphans_refused] += message->count;
	else if (status < 0)
		realm->counters[REALM_COUNTER_puts_refused] += message->count;
	session_complete(session, message->queue, message->tag, status, 0);
	return 0;
}

int put_reserve(struct session *session, const struct submission *message)
{
	struct realm *realm = session->realm;
	uint64_t began = clock_ns();
	int status;

	if (session->blocked)
		return -EPROTO; /* one at a time */
	/* Who came first is served first, or a small request could starve a waiting one. */
	status = list_empty(&realm->blocked) ? reserve_try(session, message) : -EAGAIN;
	histogram_add(&realm->latencies[REALM_LATENCY_reserve], clock_ns() - began);
	if (status == -EAGAIN && message->deadline_ns > realm->keeper->now_ns) {
		session->blocked = true;
		session->blocked_on = *message;
		session->blocked_at_ns = realm->keeper->now_ns;
		list_append(&realm->blocked, &session->of_blocked);
		realm->counters[REALM_COUNTER_puts_waited]++;
		return 0;
	}
	return reserve_answer(session, message, status);
}

void put_retry_blocked(struct realm *realm)
{
	uint64_t now = realm->keeper->now_ns;
	bool stuck = false;

	realm->room_made = false;
	list_each_safe (node, &realm->blocked) {
		struct session *session = list_item(node, struct session, of_blocked);
		bool late = session->blocked_on.deadline_ns <= now;
		int status = -EAGAIN;

		/* The others stand behind the first that finds no room, but for their deadlines. */
		if (!stuck || (late && realm->ssd.log)) /* late: sheds what is unwritten */
			status = reserve_try(session, &session->blocked_on);
		if (status == -EAGAIN && !late) {
			stuck = true;
			continue;
		}
		list_remove(&session->of_blocked);
		session->blocked = false;
		histogram_add(
			&realm->latencies[REALM_LATENCY_frame_wait], now - session->blocked_at_ns);
		if (reserve_answer(session, &session->blocked_on, status) == -EPROTO)
			realm->keeper->outside.cut(realm->keeper->outside.arg, session);
	}
}
