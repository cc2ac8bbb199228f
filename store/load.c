/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the ssd into frames. A session names a run of a chain; what of it is not in DRAM is read
 * there, each block is verified against its root and published as it arrives. When all of it (or
 * what could be had by the deadline, or before a cancel) is there, the keeper writes the pin into
 * the session's table and answers; a load without a cell is a prefetch and pins nothing. Until then
 * the run is held: a block that loads need is not evicted. A load can bring its blocks step by
 * step, in the order of their ranges (load_step.c). What lies in the GPU memory of another session
 * alone is asked of it and waited for, where the load says so (hbm.c).
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/memory.h"
#include "store/hbm_priv.h"
#include "store/store_priv.h"

#define LOAD(field)	    atomic_load_explicit(&(field), RELAXED)
#define STORE(field, value) atomic_store_explicit(&(field), (value), RELAXED)

/* ------------------------------------------------------------------------------- one block */

/* On an I/O thread. */
int load_check(struct ssd_get *get)
{
	struct ssd_job *job = list_item(get, struct ssd_job, get);
	uint64_t sums[1024]; /* SKEP_RANGES_MAX */

	for (uint32_t i = 0; i < job->part_count; i++)
		if (!checksum_root_equal(
			    part_sums_make(&job->parts[i].sums, sums), job->parts[i].root))
			return SKEP_STATUS_ECHECKSUM;
	return 0;
}

/* Gives the frames back; the block is on the ssd alone again. */
static void block_unframe(struct realm *realm, uint32_t slot)
{
	struct slot *own = &realm->index.slots[slot];

	put_frames_free(realm, slot);
	own->flags &= (uint8_t) ~(SLOT_IN_DRAM | SLOT_LOADING);
	evict_child_left(realm, index_parent(realm, slot), 0);
	lru_leaf_check(realm, slot);
}

void load_block_end(struct realm *realm, uint32_t slot, int status)
{
	struct slot *own = &realm->index.slots[slot];

	if (index_state(realm, slot) == ENTRY_REMOVED) {
		own->flags &= (uint8_t)~SLOT_LOADING; /* remove_settle() frees it */
		return;
	}
	if (status == 0) {
		own->flags &= (uint8_t)~SLOT_LOADING;
		realm->counters[REALM_COUNTER_blocks_promoted]++;
		/* Release: part fields are in place before the block can be had (probe.c). */
		atomic_store_explicit(&realm->index.entries[slot].frame_generation,
			realm_draw(realm), memory_order_release);
		lru_touch(realm, slot);
		return;
	}
	realm->counters[REALM_COUNTER_ssd_read_errors] += status != -ECANCELED;
	if (status != SKEP_STATUS_ECHECKSUM) {
		block_unframe(realm, slot);
		return;
	}
	realm->counters[REALM_COUNTER_blocks_quarantined]++;
	realm->misses[SKEP_REASON_CHECKSUM]++;
	own->flags &= (uint8_t)~SLOT_LOADING;
	remove_subtree(realm, slot, SKEP_REASON_CHECKSUM);
}

static void block_done(struct ssd_get *get, int status)
{
	struct ssd_job *job = list_item(get, struct ssd_job, get);

	ssd_job_give(job);
	load_block_end(job->realm, job->slot, status);
}

/* Takes a frame for every part. Return: 0, -EAGAIN: none are to be had now. */
static int frames_take(struct realm *realm, uint32_t slot)
{
	struct index *index = &realm->index;
	struct slot *own = &index->slots[slot];
	uint32_t parts = LOAD(index->entries[slot].parts);

	for (uint32_t i = 0; i < parts; i++) {
		unsigned class = put_part_class(realm, slot, i);
		int64_t frame = frame_take(realm, class, 1, false);

		if (frame < 0) {
			put_frames_free(realm, slot);
			return -EAGAIN;
		}
		slab_owner_set(dram_slab(realm->dram), (uint64_t)frame, slot);
		realm->lru_of_class[class] |= 1ull << own->lru;
		STORE(index_part(index, slot, i)->frame,
			(uint32_t)((uint64_t)frame / FRAME_GRANULE_BYTES));
		own->committed |= 1ull << i;
	}
	return 0;
}

struct part_expected load_expect_part(
	struct realm *realm, uint32_t slot, uint32_t number, void *into)
{
	const struct index_entry *entry = &realm->index.entries[slot];
	const struct space *space = &realm->spaces[LOAD(entry->space)];
	const struct index_part *part = index_part(&realm->index, slot, number);
	uint64_t frame = (uint64_t)LOAD(part->frame) * FRAME_GRANULE_BYTES;

	return (struct part_expected){
		.sums = {.bytes = into ? into : dram_at(realm->dram, frame),
			.length = LOAD(part->bytes),
			.range_count = space->part_ranges[number],
			.part = number,
			.id_low = LOAD(entry->id_low),
			.id_high = LOAD(entry->id_high),
			.incarnation = realm->ssd.origins[LOAD(entry->origin)],
			.write = LOAD(part->write)},
		.root = {.low = LOAD(part->root_low), .high = LOAD(part->root_high)}};
}

void load_expect(struct realm *realm, uint32_t slot, uint8_t *into, struct ssd_job *job)
{
	job->part_count = LOAD(realm->index.entries[slot].parts);
	for (uint32_t i = 0; i < job->part_count; i++) {
		const struct part_sums *sums = &job->parts[i].sums;

		job->parts[i] = load_expect_part(realm, slot, i, into);
		job->pieces[i] = (struct iovec){
			(void *)(uintptr_t)sums->bytes, align_up(sums->length, SSD_UNIT_BYTES)};
		if (into)
			into += job->pieces[i].iov_len;
	}
}

/* Reads it in one go. Return: 0, -EAGAIN (no place now), -EIO. */
static int block_read(struct realm *realm, uint32_t slot)
{
	struct ssd_job *job = ssd_job_take(realm, slot);
	int status;

	if (!job)
		return -EAGAIN;
	load_expect(realm, slot, NULL, job);
	job->get = (struct ssd_get){.at = realm->index.ssd_at[slot],
		.piece_count = job->part_count,
		.pieces = job->pieces,
		.check = load_check,
		.done = block_done};
	status = ssd_get(realm->ssd.log, &job->get);
	if (status < 0)
		ssd_job_give(job);
	return status;
}

/* Begins to read a block that is held. Return: 0, -EAGAIN (no frame or no place now), -EIO. */
static int block_start(struct realm *realm, struct load *load, struct load_block *block)
{
	uint32_t slot = block->slot, parent = index_parent(realm, slot);
	int status;

	/* It counts at its parent from now on, and is on no list: nobody takes it for a leaf. */
	lru_remove(realm, slot);
	realm->index.slots[slot].flags |= SLOT_IN_DRAM | SLOT_LOADING;
	if (parent != NONE32)
		realm->index.slots[parent].dram_children++;
	status = frames_take(realm, slot);
	if (status == 0) {
		block->steps = load_has_steps(realm, load, slot);
		if (!block->steps)
			status = block_read(realm, slot);
	}
	block->mine = status == 0;
	if (status < 0)
		block_unframe(realm, slot);
	return status;
}

/* --------------------------------------------------------------------------------- a load */

int loads_create(struct realm *realm)
{
	struct realm_ssd *ssd = &realm->ssd;

	list_init(&ssd->loads_free);
	list_init(&ssd->loads_live);
	ssd->loads = memory_calloc(LOADS_MAX, sizeof(*ssd->loads));
	ssd->load_blocks =
		memory_calloc((size_t)LOADS_MAX * LOAD_BLOCKS_MAX, sizeof(*ssd->load_blocks));
	if (!ssd->loads || !ssd->load_blocks)
		return -ENOMEM;
	for (unsigned i = 0; i < LOADS_MAX; i++) {
		ssd->loads[i].blocks = ssd->load_blocks + (size_t)i * LOAD_BLOCKS_MAX;
		list_append(&ssd->loads_free, &ssd->loads[i].link);
	}
	return 0;
}

void loads_destroy(struct realm *realm)
{
	memory_free(realm->ssd.loads);
	memory_free(realm->ssd.load_blocks);
}

bool load_block_stands(const struct realm *realm, const struct load_block *block)
{
	return LOAD(realm->index.entries[block->slot].name_generation) == block->name_generation;
}

static bool block_in_dram(const struct realm *realm, uint32_t slot)
{
	return LOAD(realm->index.entries[slot].frame_generation) != 0;
}

/* Holds the next block of the run and begins to read it where that is needed. Return: 0; -EAGAIN:
 * not now; -EINPROGRESS: a session was asked for it; else why the run ends here. */
static int load_step(struct realm *realm, struct load *load)
{
	struct load_block *block = &load->blocks[load->started];
	struct slot *own;
	int status = 0;

	if (block->slot >= realm->index.head->slot_count || !block->name_generation ||
		!load_block_stands(realm, block))
		return -ENOENT;
	if (index_state(realm, block->slot) != ENTRY_PRESENT)
		return hbm_await(realm, load);
	if (load->started && index_parent(realm, block->slot) != block[-1].slot)
		return -EINVAL;
	own = &realm->index.slots[block->slot];
	own->holds++;
	if (!(own->flags & SLOT_IN_DRAM)) {
		uint64_t bytes = (uint64_t)ssd_block_units(realm, block->slot) * SSD_UNIT_BYTES;
		struct dram_status dram;

		/* No run may fill the pool: what does not fit is the caller's next one. */
		dram_status_get(realm->dram, &dram);
		if (load->bytes && load->bytes + bytes > dram.use_max / 2)
			status = -ENOSPC;
		else
			status = block_start(realm, load, block);
		if (status == 0)
			load->bytes += bytes;
	}
	if (status < 0)
		own->holds--;
	else
		load->started++;
	return status;
}

static void load_free(struct realm *realm, struct load *load)
{
	if (load->step_ranges)
		load_steps_drop(realm, load);
	for (uint32_t i = 0; i < load->started; i++)
		if (load_block_stands(realm, &load->blocks[i])) {
			SKEP_CHECK(realm->index.slots[load->blocks[i].slot].holds > 0);
			realm->index.slots[load->blocks[i].slot].holds--;
		}
	list_remove(&load->link);
	list_append(&realm->ssd.loads_free, &load->link);
	realm->room_made = true;
}

static void load_finish(struct realm *realm, struct load *load, int status)
{
	struct session *session = load->session;
	uint32_t count, tag = load->tag;
	uint16_t queue = load->queue;
	struct pin_cell *cells =
		(struct pin_cell *)(uintptr_t)page_end_pins(&session->page, &count);

	/* Held, but for those that were removed by force: whatever is below them went as well. */
	while (load->ready && !load_block_stands(realm, &load->blocks[load->ready - 1]))
		load->ready--;
	if (load->ready) {
		uint32_t slot = load->blocks[load->ready - 1].slot;

		/* What the cell names stands. Order as in pin_store(). */
		if (load->cell) {
			STORE(cells[load->cell].slot, slot);
			atomic_store_explicit(&cells[load->cell].generation,
				LOAD(realm->index.entries[slot].frame_generation),
				memory_order_release);
		}
		status = (int)load->ready;
	}
	if (load->ready < load->count)
		realm->counters[REALM_COUNTER_loads_short]++;
	histogram_add(
		&realm->latencies[REALM_LATENCY_load], realm->keeper->now_ns - load->began_ns);
	load_free(realm, load);
	session_complete(session, queue, tag, status, 0);
}

/* Will anything that is under way give room? A pool is being populated after a start, or sessions
 * have not moved after a takeover. */
static bool room_may_come(const struct realm *realm)
{
	struct dram_status dram;

	dram_status_get(realm->dram, &dram);
	return realm->ssd.dirty.count || !list_empty(&realm->ssd.jobs_busy) ||
	       dram.ready_bytes < dram.bytes || realm->unmoved;
}

/* Is it there? Return: 0; -EAGAIN: not yet; -ENOENT: it was removed; -EIO: it could not be read. */
static int block_look(struct realm *realm, struct load *load, struct load_block *block)
{
	const struct slot *own = &realm->index.slots[block->slot];
	int status;

	if (!load_block_stands(realm, block))
		return -ENOENT;
	if (block_in_dram(realm, block->slot))
		return 0;
	if (own->flags & SLOT_LOADING)
		return -EAGAIN;
	if (block->mine)
		return -EIO;
	/* Another load read it, and gave it up. */
	status = block_start(realm, load, block);
	return status ? status : -EAGAIN;
}

/* Return: true: it was answered. */
static bool load_go_on(struct realm *realm, struct load *load)
{
	while (!load->stop && load->started < load->count) {
		int status = load_step(realm, load);

		if (status == -EINPROGRESS || (status == -EAGAIN && room_may_come(realm)))
			break;
		load->stop = status;
	}
	if (load->step_ranges)
		load_steps_send(realm, load);
	for (; load->ready < load->started; load->ready++) {
		int status = block_look(realm, load, &load->blocks[load->ready]);

		if (status == -EAGAIN)
			break;
		if (status < 0) {
			load_finish(realm, load, status);
			return true;
		}
		load_tell(load, load->ready, UINT32_MAX);
	}
	if (load->told_more)
		session_wake(load->session, load->queue);
	load->told_more = false;
	if (load->ready < load->started || (!load->stop && load->started < load->count))
		return false;
	load_finish(realm, load, load->stop);
	return true;
}

void load_pump(struct realm *realm)
{
	bool answered;

	do { /* an answer may end its session, and with it other loads */
		answered = false;
		list_each (node, &realm->ssd.loads_live)
			if ((answered = load_go_on(realm, list_item(node, struct load, link))))
				break;
	} while (answered);
}

int load_submit(struct session *session, const struct submission *message)
{
	struct realm *realm = session->realm;
	struct load_part *parts =
		page_end_scratch(&session->page, message->scratch_at, message->scratch_bytes);
	struct load *load;
	uint32_t cells;
	int status = 0;

	page_end_pins(&session->page, &cells);
	if (!parts || message->count > message->scratch_bytes / sizeof(*parts) ||
		message->u.other.kind >= cells)
		return -EPROTO;
	if (!message->count || message->count > LOAD_BLOCKS_MAX)
		status = -EINVAL;
	else if (list_empty(&realm->ssd.loads_free))
		status = -EAGAIN;
	if (status < 0) {
		session_complete(session, message->queue, message->tag, status, 0);
		return 0;
	}
	load = list_item(realm->ssd.loads_free.next, struct load, link);
	list_remove(&load->link);
	list_append(&realm->ssd.loads_live, &load->link);
	*load = (struct load){.link = load->link,
		.blocks = load->blocks,
		.session = session,
		.deadline_ns = message->deadline_ns,
		.began_ns = realm->keeper->now_ns,
		.tag = message->tag,
		.queue = message->queue,
		.cell = message->u.other.kind,
		.asks = message->u.other.flags & LOAD_ASK,
		.step_ranges = message->u.other.part,
		.told = message->u.other.part ? parts : NULL,
		.count = message->count};
	for (uint32_t i = 0; i < load->count; i++) {
		struct load_part part;

		memcpy(&part, &parts[i], sizeof(part)); /* read once */
		load->blocks[i] = (struct load_block){
			.slot = part.slot, .name_generation = part.name_generation};
	}
	realm->counters[REALM_COUNTER_loads]++;
	load_go_on(realm, load);
	return 0;
}

int load_cancel(struct session *session, const struct submission *message)
{
	struct realm *realm = session->realm;

	list_each (node, &realm->ssd.loads_live) {
		struct load *load = list_item(node, struct load, link);

		if (load->session != session || load->tag != message->tag ||
			load->queue != message->queue)
			continue;
		/* Reads under way go on: their blocks are published when they come, for others. */
		load->stop = -ECANCELED;
		if (!load_go_on(realm, load))
			load_finish(realm, load, -ECANCELED);
		break; /* the answer may have ended the session, and its other loads */
	}
	return 0;
}

void load_session_gone(struct session *session)
{
	struct realm *realm = session->realm;

	list_each_safe (node, &realm->ssd.loads_live) {
		struct load *load = list_item(node, struct load, link);

		if (load->session == session)
			load_free(realm, load);
	}
}

uint64_t load_tick(struct realm *realm)
{
	uint64_t now = realm->keeper->now_ns, next = CLOCK_NEVER;

	list_each (node, &realm->ssd.loads_live) {
		struct load *load = list_item(node, struct load, link);

		if (load->deadline_ns > now) {
			next = MIN_OF(next, load->deadline_ns);
			continue;
		}
		if (!load_go_on(realm, load))
			load_finish(realm, load, -ETIMEDOUT);
		return now; /* the answer may have ended others: look again */
	}
	return next;
}
