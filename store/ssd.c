/* SPDX-License-Identifier: Apache-2.0 */
/*
 * To the ssd and out of it (DESIGN section 7). A published block waits on the dirty list until its
 * record is written; before that it is on no LRU list, so what is evicted from DRAM is always
 * written already and stays on the ssd under its name. Blocks that are on the ssd alone stand, once
 * they are leaves, in the order of their last use; the coldest are dropped where live bytes reach
 * their limit. Which segments are emptied is the log's choice (tiering/ssd); what lives there is
 * moved.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/memory.h"
#include "store/hbm_priv.h"
#include "store/label.h"

#define LOAD(field)	    atomic_load_explicit(&(field), RELAXED)
#define STORE(field, value) atomic_store_explicit(&(field), (value), RELAXED)

/* ---------------------------------------------------------------------------------- records */

uint32_t ssd_block_units(struct realm *realm, uint32_t slot)
{
	struct index *index = &realm->index;
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < LOAD(index->entries[slot].parts); i++)
		bytes += align_up(LOAD(index_part(index, slot, i)->bytes), SSD_UNIT_BYTES);
	return (uint32_t)(bytes / SSD_UNIT_BYTES);
}

static void record_drop(struct realm *realm, uint32_t at, uint32_t units)
{
	ssd_drop(realm->ssd.log, at, units);
	realm->ssd.live_units -= units;
}

void ssd_forget(struct realm *realm, uint32_t slot)
{
	SKEP_CHECK(slot_on_ssd(realm, slot));
	record_drop(realm, realm->index.ssd_at[slot], ssd_block_units(realm, slot));
	realm->index.ssd_at[slot] = SSD_NONE;
	realm->ssd.blocks--;
}

void ssd_leaf_drop(struct realm *realm, uint32_t slot)
{
	uint32_t parent = index_parent(realm, slot);

	SKEP_CHECK(!(realm->index.slots[slot].flags &
		     (SLOT_IN_DRAM | SLOT_WRITING | SLOT_LOADING | SLOT_DIRTY)));
	lru_remove(realm, slot);
	ssd_forget(realm, slot);
	realm->counters[REALM_COUNTER_blocks_evicted]++;
	if (hbm_stays(realm, slot))
		return;
	gone_add(realm, LOAD(realm->index.entries[slot].id_low), SKEP_REASON_EVICTED);
	index_name_hide(realm, slot);
	index_slot_free(realm, slot);
	if (parent != NONE32 && !(realm->index.slots[parent].flags & SLOT_ON_LRU)) {
		struct slot *own = &realm->index.slots[parent];

		own->stamp_ns = MAX_OF(own->stamp_ns, realm->index.slots[slot].stamp_ns);
		lru_leaf_check(realm, parent);
	}
}

unsigned ssd_leaves_drop(struct realm *realm, unsigned count)
{
	struct slot *slots = realm->index.slots;
	struct lru_list *list = &realm->ssd.lru;
	uint64_t left = list->count;
	unsigned dropped = 0;

	while (dropped < count && list->cold != NONE32 && left--) {
		uint32_t slot = list->cold;

		if (slots[slot].first_child != NONE32 || slots[slot].dram_children) {
			lru_remove(realm, slot); /* it is put back when its last child goes */
			continue;
		}
		if (slots[slot].holds || slots[slot].operator_pins ||
			slots[slot].flags & SLOT_WRITING) {
			lru_touch(realm, slot);
			continue;
		}
		ssd_leaf_drop(realm, slot);
		dropped++;
		left = list->count;
	}
	return dropped;
}

/* ------------------------------------------------------------------------------------- jobs */

struct ssd_job *ssd_job_take(struct realm *realm, uint32_t slot)
{
	struct ssd_job *job;

	if (list_empty(&realm->ssd.jobs_free))
		return NULL;
	job = list_item(realm->ssd.jobs_free.next, struct ssd_job, link);
	list_remove(&job->link);
	list_append(&realm->ssd.jobs_busy, &job->link);
	job->slot = slot;
	job->of_space = false;
	job->is_step = false;
	job->from = SSD_NONE;
	return job;
}

void ssd_job_give(struct ssd_job *job)
{
	list_remove(&job->link);
	list_append(&job->realm->ssd.jobs_free, &job->link);
}

/* ----------------------------------------------------------------------------- write-behind */

/* The block has a record at @at from now on. */
static void record_set(struct realm *realm, uint32_t slot, uint32_t at)
{
	SKEP_CHECK(!slot_on_ssd(realm, slot));
	realm->index.ssd_at[slot] = at;
	realm->ssd.blocks++;
	realm->counters[REALM_COUNTER_blocks_written]++;
	if (!(realm->index.slots[slot].flags & SLOT_ON_LRU))
		lru_link_ordered(realm, slot);
}

static void write_done(struct ssd_put *put, int status)
{
	struct ssd_job *job = list_item(put, struct ssd_job, put);
	struct realm *realm = job->realm;
	uint32_t slot = job->slot;

	realm->index.slots[slot].flags &= (uint8_t)~SLOT_WRITING;
	ssd_job_give(job);
	realm->room_made = true; /* it may leave DRAM now */
	if (status < 0) {
		realm->ssd.live_units -= put->units;
		realm->counters[REALM_COUNTER_ssd_write_errors]++;
	}
	if (index_state(realm, slot) == ENTRY_REMOVED) {
		ssd_settled(realm, slot);
		if (status == 0)
			record_drop(realm, put->at, put->units);
	} else if (status == 0) {
		ssd_settled(realm, slot);
		record_set(realm, slot, put->at);
	} else {
		lru_dirty(realm, slot);
	}
}

static _Thread_local _Alignas(8) uint8_t label_room[SSD_LABEL_MAX]; /* of the keeper's thread */

void space_record_drop(struct realm *realm, uint32_t index)
{
	struct space *space = &realm->spaces[index];

	if (!realm->ssd.log)
		return;
	if (space->ssd_at != SSD_NONE)
		record_drop(realm, space->ssd_at, 1);
	space->ssd_at = SSD_NONE;
	realm->ssd.spaces_unwritten = true;
}

/* What a space is, in a record of one unit: tables alone must say what their blocks belong to. */
static void space_done(struct ssd_put *put, int status)
{
	struct ssd_job *job = list_item(put, struct ssd_job, put);
	struct realm *realm = job->realm;
	uint32_t index = job->slot;
	struct space *space = &realm->spaces[index];
	uint64_t made = job->space_made, version = job->space_version;
	uint32_t from = job->from;

	ssd_job_give(job);
	if (status < 0)
		realm->ssd.live_units -= put->units;
	if (space->made != made) { /* another space has the place */
		if (status == 0)
			record_drop(realm, put->at, put->units);
		return;
	}
	space->ssd_writing = false;
	if (space->ssd_at != SSD_NONE) { /* moved, and not lost meanwhile */
		SKEP_CHECK(space->ssd_at == from);
		if (status == 0)
			record_drop(realm, from, put->units);
		else if (!space_written(space))
			space_record_drop(realm, index); /* then a new one is put */
	}
	if (status == 0) {
		space->ssd_at = put->at;
		space->ssd_version = version;
	}
	realm->ssd.spaces_unwritten |= !space_written(space);
}

/* Its first record, or another one for that at space->ssd_at (which has to move, or tells an older
 * version): the log keeps that until the new one is durable. */
static bool space_write(struct realm *realm, uint32_t index)
{
	static _Alignas(SSD_UNIT_BYTES) uint8_t zeros[SSD_UNIT_BYTES];
	struct space *space = &realm->spaces[index];
	struct label_space label = {.kind = LABEL_SPACE,
		.version = LABEL_VERSION,
		.bytes = sizeof(label),
		.space_key = space->key,
		.space_version = space->version,
		.request = space->request};
	struct ssd_job *job = ssd_job_take(realm, NONE32);
	int status;

	if (!job)
		return false;
	job->slot = index;
	job->of_space = true;
	job->space_made = space->made;
	job->space_version = space->version;
	job->pieces[0] = (struct iovec){zeros, sizeof(zeros)};
	job->put = (struct ssd_put){.pieces = job->pieces,
		.piece_count = 1,
		.label = &label,
		.label_bytes = sizeof(label),
		.done = space_done};
	job->from = space->ssd_at;
	status = job->from == SSD_NONE ? ssd_put(realm->ssd.log, &job->put)
				       : ssd_move(realm->ssd.log, job->from, 1, &job->put);
	if (status < 0) {
		ssd_job_give(job);
		return false;
	}
	space->ssd_writing = true;
	realm->ssd.live_units += 1;
	return true;
}

static void spaces_write(struct realm *realm)
{
	bool all = true;

	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++) {
		const struct space *space = &realm->spaces[i];

		if (space->used && !space_written(space) && !space->ssd_writing)
			all &= space_write(realm, i);
	}
	realm->ssd.spaces_unwritten = !all;
}

static uint64_t live_units_max(const struct realm *realm)
{
	return ssd_live_max(realm->ssd.log) / SSD_UNIT_BYTES;
}

/* Drops the coldest until @units more fit. */
static bool live_room(struct realm *realm, uint32_t units)
{
	uint64_t max = live_units_max(realm);

	while (realm->ssd.live_units + units > max)
		if (!ssd_leaves_drop(realm, 1))
			return false;
	return true;
}

/* Its bytes never reach the ssd: the block lives in DRAM alone, and is evicted as if there were
 * none. */
static void write_never(struct realm *realm, uint32_t slot, int status)
{
	struct space *space = &realm->spaces[LOAD(realm->index.entries[slot].space)];

	if (status == -EROFS && !realm->ssd.down) {
		realm->ssd.down = true;
		log_error("ssd",
			"realm %s: every device of the ssd tier is fenced after repeated errors; "
			"blocks are kept in DRAM alone",
			realm->name);
	} else if (status != -EROFS && !space->unkept) {
		space->unkept = true;
		log_warn("ssd", "realm %s: blocks of space %s are not kept on the ssd: %s",
			realm->name, space->name,
			status == -E2BIG ? "their tokens, keys and sums take more than 16 KiB"
					 : "they are larger than a segment");
	}
	lru_remove(realm, slot);
	realm->index.slots[slot].flags &= (uint8_t)~SLOT_DIRTY;
	ssd_settled(realm, slot);
	lru_link_ordered(realm, slot);
	realm->room_made = true;
}

/* Begins to write one block. Return: false: nothing more can be written now. */
static bool write_begin(struct realm *realm, uint32_t slot)
{
	struct index *index = &realm->index;
	uint32_t units = ssd_block_units(realm, slot), parts = LOAD(index->entries[slot].parts);
	struct ssd_job *job;
	int status;

	/* For what never fits nobody is dropped. */
	if (units >= realm->ssd.segment_units || units > live_units_max(realm)) {
		write_never(realm, slot, live_units_max(realm) ? -EFBIG : -EROFS);
		return true;
	}
	if (!live_room(realm, units))
		return false;
	job = ssd_job_take(realm, slot);
	if (!job)
		return false;
	for (uint32_t i = 0; i < parts; i++) {
		const struct index_part *part = index_part(index, slot, i);

		job->pieces[i] = (struct iovec){
			dram_at(realm->dram, (uint64_t)LOAD(part->frame) * FRAME_GRANULE_BYTES),
			align_up(LOAD(part->bytes), SSD_UNIT_BYTES)};
	}
	job->put = (struct ssd_put){.pieces = job->pieces,
		.piece_count = parts,
		.label = label_room,
		.done = write_done};
	status = label_make(realm, slot, label_room);
	if (status > 0) {
		job->put.label_bytes = (uint32_t)status;
		status = ssd_put(realm->ssd.log, &job->put);
	}
	if (status < 0) {
		ssd_job_give(job);
		realm->ssd.stuck = status == -EAGAIN || status == -ENOSPC;
		if (!realm->ssd.stuck)
			write_never(realm, slot, status);
		return !realm->ssd.stuck;
	}
	lru_remove(realm, slot);
	realm->index.slots[slot].flags &= (uint8_t)~SLOT_DIRTY;
	realm->index.slots[slot].flags |= SLOT_WRITING;
	realm->ssd.live_units += units;
	return true;
}

/* A device was brought back: what is in DRAM alone is written after all. */
static void ssd_up(struct realm *realm)
{
	const struct index *index = &realm->index;

	realm->ssd.down = realm->ssd.stuck = false;
	realm->ssd.spaces_unwritten = true;
	for (uint32_t slot = 0; slot < index->head->slot_count; slot++) {
		unsigned flags = index->slots[slot].flags;

		if (index_state(realm, slot) == ENTRY_PRESENT && flags & SLOT_IN_DRAM &&
			!(flags & (SLOT_LOADING | SLOT_DIRTY | SLOT_WRITING)) &&
			!slot_on_ssd(realm, slot) &&
			ssd_keeps(realm, LOAD(index->entries[slot].space)))
			ssd_dirty(realm, slot);
	}
}

/* ------------------------------------------------------------------- what is to be written */

void ssd_dirty(struct realm *realm, uint32_t slot)
{
	realm->index.slots[slot].epoch = realm->ssd.epoch;
	realm->ssd.unwritten[realm->ssd.epoch % SYNC_EPOCHS]++;
	realm->ssd.dirtied++;
	lru_dirty(realm, slot);
}

void ssd_settled(struct realm *realm, uint32_t slot)
{
	uint64_t *count = &realm->ssd.unwritten[realm->index.slots[slot].epoch % SYNC_EPOCHS];

	SKEP_CHECK(*count > 0);
	--*count;
}

/* Its record was lost with a device, perhaps before it was durable: every sync that still waits for
 * blocks waits for this one too. */
static void ssd_dirty_again(struct realm *realm, uint32_t slot)
{
	struct realm_ssd *ssd = &realm->ssd;
	uint16_t epoch = ssd->epoch;

	list_each (node, &ssd->syncs_live) {
		const struct sync *sync = list_item(node, struct sync, link);

		if (sync->stage == SYNC_WRITING &&
			(uint16_t)(ssd->epoch - sync->epoch) < SYNC_EPOCHS - 1) {
			epoch = sync->epoch;
			break;
		}
	}
	if ((int16_t)(ssd->epoch_oldest - epoch) > 0)
		ssd->epoch_oldest = epoch;
	realm->index.slots[slot].epoch = epoch;
	ssd->unwritten[epoch % SYNC_EPOCHS]++;
	ssd->dirtied++;
	lru_dirty(realm, slot);
}

/* -------------------------------------------------------------------------------- each round */

void ssd_pump(struct realm *realm)
{
	if (!realm->ssd.log) {
		load_pump(realm);
		return;
	}
	if (realm->ssd.down && ssd_live_max(realm->ssd.log))
		ssd_up(realm);
	if (realm->ssd.spaces_unwritten)
		spaces_write(realm);
	while (!realm->ssd.stuck && realm->ssd.dirty.cold != NONE32) {
		uint32_t slot = realm->ssd.dirty.cold;

		/* Its old record was lost while it was being moved: the move must end first. */
		if (realm->index.slots[slot].flags & SLOT_WRITING || !write_begin(realm, slot))
			break;
	}
	load_pump(realm);
	if (!list_empty(&realm->ssd.syncs_live))
		syncs_pump(realm);
}

/* ------------------------------------------------------------------------- what the log asks */

static void move_done(struct ssd_put *put, int status)
{
	struct ssd_job *job = list_item(put, struct ssd_job, put);
	struct realm *realm = job->realm;
	uint32_t slot = job->slot, from = job->from;

	realm->index.slots[slot].flags &= (uint8_t)~SLOT_WRITING;
	ssd_job_give(job);
	if (status < 0) {
		realm->ssd.live_units -= put->units;
		realm->counters[REALM_COUNTER_ssd_write_errors]++;
		return; /* it stays where it is; the log asks again */
	}
	if (realm->index.ssd_at[slot] != from) { /* forgotten meanwhile */
		record_drop(realm, put->at, put->units);
		return;
	}
	record_drop(realm, from, put->units);
	realm->index.ssd_at[slot] = put->at;
	realm->counters[REALM_COUNTER_blocks_moved]++;
}

/* Return: false: no more can be moved now. */
static bool move_begin(struct realm *realm, uint32_t slot)
{
	uint32_t units = ssd_block_units(realm, slot);
	struct ssd_job *job = ssd_job_take(realm, slot);
	int status;

	if (!job)
		return false;
	job->from = realm->index.ssd_at[slot];
	job->put = (struct ssd_put){.label = label_room, .done = move_done};
	status = label_make(realm, slot, label_room);
	SKEP_CHECK(status > 0); /* it had a label when it was written */
	job->put.label_bytes = (uint32_t)status;
	status = ssd_move(realm->ssd.log, job->from, units, &job->put);
	if (status < 0) {
		ssd_job_give(job);
		return false;
	}
	realm->index.slots[slot].flags |= SLOT_WRITING;
	realm->ssd.live_units += units;
	return true;
}

static void log_reclaim(void *arg, uint32_t at, uint32_t units)
{
	struct realm *realm = arg;
	uint32_t slots = realm->index.head->slot_count;

	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++)
		if (realm->spaces[i].ssd_at - at < units && !realm->spaces[i].ssd_writing)
			space_write(realm, i);

	for (uint32_t slot = 0; slot < slots; slot++) {
		if (!slot_on_ssd(realm, slot) || realm->index.ssd_at[slot] - at >= units ||
			realm->index.slots[slot].flags & SLOT_WRITING)
			continue;
		if (!move_begin(realm, slot))
			return;
	}
}

static void log_lost(void *arg, uint32_t at, uint32_t units)
{
	struct realm *realm = arg;
	uint32_t slots = realm->index.head->slot_count;

	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++)
		if (realm->spaces[i].ssd_at - at < units)
			space_record_drop(realm, i);

	for (uint32_t slot = 0; slot < slots; slot++) {
		struct slot *own = &realm->index.slots[slot];

		if (!slot_on_ssd(realm, slot) || realm->index.ssd_at[slot] - at >= units)
			continue;
		realm->counters[REALM_COUNTER_blocks_lost]++;
		if (own->flags & SLOT_IN_DRAM && !(own->flags & SLOT_LOADING)) {
			ssd_forget(realm, slot);
			ssd_dirty_again(realm, slot);
		} else {
			remove_subtree(realm, slot, SKEP_REASON_LOST);
		}
	}
}

void ssd_record_bad(struct realm *realm, uint32_t slot, uint32_t at)
{
	struct slot *own = &realm->index.slots[slot];

	if (!slot_on_ssd(realm, slot) || realm->index.ssd_at[slot] != at)
		return;
	realm->counters[REALM_COUNTER_blocks_quarantined]++;
	if (own->flags & SLOT_IN_DRAM && !(own->flags & SLOT_LOADING)) {
		ssd_forget(realm, slot);
		ssd_dirty(realm, slot);
		return;
	}
	realm->misses[SKEP_REASON_CHECKSUM]++;
	remove_subtree(realm, slot, SKEP_REASON_CHECKSUM);
}

static void log_room(void *arg)
{
	struct realm *realm = arg;

	realm->ssd.stuck = false;
}

void ssd_status_fill(struct realm *realm, struct realm_status *out)
{
	struct ssd_log_status log;

	if (!realm->ssd.log)
		return;
	ssd_log_status_get(realm->ssd.log, &log);
	out->ssd_bytes = log.bytes;
	out->ssd_live_bytes = realm->ssd.live_units * SSD_UNIT_BYTES;
	out->ssd_live_max = log.live_max;
	out->ssd_segments = log.segments;
	out->ssd_segments_free = log.segments_free;
	out->ssd_put_bytes = log.put_bytes;
	out->ssd_moved_bytes = log.moved_bytes;
	out->ssd_table_bytes = log.table_bytes;
	out->blocks_ssd = realm->ssd.blocks;
	for (unsigned i = 0; i < SYNC_EPOCHS; i++)
		out->blocks_unwritten += realm->ssd.unwritten[i];
}

/* ----------------------------------------------------------------------------------- create */

int ssd_realm_create(struct realm *realm)
{
	struct realm_ssd *ssd = &realm->ssd;
	struct ssd_status status;

	list_init(&ssd->jobs_free);
	list_init(&ssd->jobs_busy);
	list_init(&ssd->syncs_free);
	list_init(&ssd->syncs_live);
	ssd->lru = ssd->dirty = (struct lru_list){NONE32, NONE32, 0};
	if (!realm->keeper->ssd || !realm->config.ssd_bytes)
		return 0;
	ssd->owner = (struct tier_owner){
		.arg = realm, .reclaim = log_reclaim, .lost = log_lost, .room = log_room};
	ssd->jobs = memory_calloc(SSD_JOBS_MAX, sizeof(*ssd->jobs));
	ssd->origins = memory_calloc(UINT16_MAX + 1, sizeof(*ssd->origins));
	ssd->syncs = memory_calloc(SYNCS_MAX, sizeof(*ssd->syncs));
	if (!ssd->jobs || !ssd->syncs || !ssd->origins)
		return -ENOMEM;
	ssd->origins[0] = realm->keeper->incarnation;
	ssd->origin_count = 1;
	for (unsigned i = 0; i < SSD_JOBS_MAX; i++) {
		ssd->jobs[i].realm = realm;
		list_append(&ssd->jobs_free, &ssd->jobs[i].link);
	}
	ssd->mark.realm = realm;
	ssd->dirtied = 1; /* what is recovered is to be marked too */
	for (unsigned i = 0; i < SYNCS_MAX; i++) {
		ssd->syncs[i].realm = realm;
		list_append(&ssd->syncs_free, &ssd->syncs[i].link);
	}
	ssd_status_get(realm->keeper->ssd, &status);
	ssd->segment_units = (uint32_t)(status.segment_bytes / SSD_UNIT_BYTES);
	return ssd_log_open(
		realm->keeper->ssd, realm->name, realm->config.ssd_bytes, &ssd->owner, &ssd->log);
}

int ssd_realm_reopen(struct realm *realm)
{
	struct realm_ssd *ssd = &realm->ssd;
	struct lru_list lru = ssd->lru, dirty = ssd->dirty;
	uint64_t *origins = ssd->origins;
	uint32_t count = ssd->origin_count;
	int status;

	ssd->origins = NULL;
	status = ssd_realm_create(realm);
	ssd->lru = lru;
	ssd->dirty = dirty;
	if (status == 0 && ssd->origins && origins) {
		memcpy(ssd->origins, origins, count * sizeof(*origins));
		ssd->origin_count = count;
	}
	memory_free(origins);
	return status;
}

void ssd_realm_leave(struct realm *realm)
{
	realm->ssd.log = NULL;
	memory_free(realm->index.ssd_at);
	realm->index.ssd_at = NULL;
}

bool ssd_realm_idle(const struct realm *realm)
{
	return list_empty(&realm->ssd.jobs_busy) && list_empty(&realm->ssd.loads_live) &&
	       list_empty(&realm->ssd.syncs_live);
}

void ssd_realm_destroy(struct realm *realm)
{
	memory_free(realm->ssd.jobs);
	memory_free(realm->ssd.syncs);
	memory_free(realm->ssd.origins);
}
