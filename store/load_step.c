/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks in steps: some ranges of every part of every block, then the next ones, so that an engine
 * can begin with its first layers while the others are on their way. A block is one step ahead of
 * the slowest at most. The ranges of a step are verified as they come, and the session is told how
 * many of each block it may copy; whole blocks are published as ever. What is not whole when the
 * load ends is on the ssd alone again; other loads that waited for it read it themselves.
 */
#include <errno.h>

#include "base/bits.h"
#include "store/store_priv.h"

#define LOAD(field) atomic_load_explicit(&(field), RELAXED)

/* ---------------------------------------------------------------------------- what is a step */

/* Of one part: ranges [first, end), for which the bytes [from, to) are read. A unit that holds the
 * end of one step and the begin of the next is read with the former. */
struct span {
	uint32_t first, end;
	uint64_t from, to;
};

static struct span span_of(uint64_t bytes, uint32_t ranges, uint32_t each, uint32_t step)
{
	uint64_t share = bytes / ranges, first = (uint64_t)step * each;
	struct span span = {.first = (uint32_t)MIN_OF(first, (uint64_t)ranges)};

	span.end = (uint32_t)MIN_OF((uint64_t)span.first + each, (uint64_t)ranges);
	span.from = align_up(span.first * share, SSD_UNIT_BYTES);
	span.to = align_up(span.end * share, SSD_UNIT_BYTES);
	return span;
}

static uint32_t ranges_most(const struct realm *realm, uint32_t slot)
{
	const struct index_entry *entry = &realm->index.entries[slot];
	const struct space *space = &realm->spaces[LOAD(entry->space)];
	uint32_t most = 0;

	for (uint32_t i = 0; i < LOAD(entry->parts); i++)
		most = MAX_OF(most, (uint32_t)space->part_ranges[i]);
	return most;
}

static uint32_t steps_of(const struct realm *realm, const struct load *load, uint32_t slot)
{
	return (uint32_t)divide_up(ranges_most(realm, slot), load->step_ranges);
}

bool load_has_steps(const struct realm *realm, const struct load *load, uint32_t slot)
{
	const struct index_entry *entry = &realm->index.entries[slot];
	const struct space *space = &realm->spaces[LOAD(entry->space)];

	if (!load->step_ranges || steps_of(realm, load, slot) < 2)
		return false;
	/* Ranges shorter than a unit (opaque keys have parts of any length) are not worth it. */
	for (uint32_t i = 0; i < LOAD(entry->parts); i++) {
		const struct index_part *part =
			index_part((struct index *)(uintptr_t)&realm->index, slot, i);

		if (LOAD(part->bytes) / space->part_ranges[i] < SSD_UNIT_BYTES)
			return false;
	}
	return true;
}

void load_tell(struct load *load, uint32_t at, uint32_t ranges)
{
	if (!load->told)
		return;
	/* Release pairs with the client's acquire: frames and bytes are in place. */
	atomic_store_explicit(&load->told[at].ranges, ranges, memory_order_release);
	load->told_more = true;
}

/* -------------------------------------------------------------------------------- one block */

/* On an I/O thread: with the first step that the sums are those of the block, then the bytes. */
static int step_check(struct ssd_get *get)
{
	struct ssd_job *job = list_item(get, struct ssd_job, get);
	const struct part_sums *sums = &job->parts[0].sums;
	const uint8_t *bytes = sums->bytes;
	uint64_t share = sums->length / sums->range_count, expected[1024]; /* SKEP_RANGES_MAX */

	for (uint32_t i = 0; i < sums->range_count; i++)
		expected[i] = LOAD(job->range_sums[i]);
	if (!job->range_first &&
		!checksum_root_equal(part_root_make(sums, expected), job->parts[0].root))
		return SKEP_STATUS_ECHECKSUM;
	for (uint32_t i = job->range_first; i < job->range_end; i++)
		if (checksum_range(bytes + i * share, share) != expected[i])
			return SKEP_STATUS_ECHECKSUM;
	return 0;
}

/* Nothing of a step is under way. Is it the end of one, or of the block? */
static void block_step_end(struct realm *realm, struct load *load, uint32_t at)
{
	struct load_block *block = &load->blocks[at];
	uint32_t slot = block->slot;
	bool removed = index_state(realm, slot) == ENTRY_REMOVED;

	if (!removed && !block->bad) {
		if (block->sent < LOAD(realm->index.entries[slot].parts))
			return;
		block->step++;
		block->sent = 0;
		load_tell(load, at, block->step * load->step_ranges);
		if (block->step < steps_of(realm, load, slot))
			return;
	}
	block->steps = false;
	if (removed || block->bad)
		load_tell(load, at, 0);
	load_block_end(realm, slot, block->bad);
}

/* Of a block whose load has been dropped. */
static bool steps_under_way(struct realm *realm, uint32_t slot)
{
	list_each (node, &realm->ssd.jobs_busy) {
		const struct ssd_job *job = list_item(node, struct ssd_job, link);

		if (job->is_step && job->slot == slot)
			return true;
	}
	return false;
}

static void step_done(struct ssd_get *get, int status)
{
	struct ssd_job *job = list_item(get, struct ssd_job, get);
	struct realm *realm = job->realm;
	struct load *load = job->load;
	uint32_t at = job->load_at, slot = job->slot;
	struct load_block *block;

	ssd_job_give(job);
	if (!load) {
		if (!steps_under_way(realm, slot))
			load_block_end(realm, slot, -ECANCELED);
		return;
	}
	block = &load->blocks[at];
	if (status < 0)
		block->bad = status;
	if (--block->gets == 0)
		block_step_end(realm, load, at);
}

/* Asks for the ranges that part @number has in the block's step. Return: 0, -EAGAIN, -EIO. */
static int part_send(struct realm *realm, struct load *load, uint32_t at, uint32_t number)
{
	struct load_block *block = &load->blocks[at];
	struct index *index = &realm->index;
	uint64_t before = 0;
	uint32_t sums_before = 0;
	struct part_expected part = load_expect_part(realm, block->slot, number, NULL);
	struct span span =
		span_of(part.sums.length, part.sums.range_count, load->step_ranges, block->step);
	struct ssd_job *job;
	int status;

	if (span.first == span.end)
		return 0;
	job = ssd_job_take(realm, block->slot);
	if (!job)
		return -EAGAIN;
	for (uint32_t i = 0; i < number; i++) {
		const struct part_sums sums = load_expect_part(realm, block->slot, i, NULL).sums;

		before += align_up(sums.length, SSD_UNIT_BYTES);
		sums_before += sums.range_count;
	}
	job->is_step = true;
	job->load = load;
	job->load_at = at;
	job->range_first = span.first;
	job->range_end = span.end;
	job->range_sums = index_sums(index, block->slot, sums_before);
	job->part_count = 1;
	job->parts[0] = part;
	job->pieces[0] = (struct iovec){
		(uint8_t *)(uintptr_t)part.sums.bytes + span.from, span.to - span.from};
	job->get = (struct ssd_get){.at = index->ssd_at[block->slot] +
					  (uint32_t)((before + span.from) / SSD_UNIT_BYTES),
		.piece_count = 1,
		.pieces = job->pieces,
		.check = step_check,
		.done = step_done};
	status = ssd_get(realm->ssd.log, &job->get);
	if (status < 0)
		ssd_job_give(job);
	else
		block->gets++;
	return status;
}

/* Return: false: nothing more can be asked for now. */
static bool block_send(struct realm *realm, struct load *load, uint32_t at)
{
	struct load_block *block = &load->blocks[at];
	uint32_t parts = LOAD(realm->index.entries[block->slot].parts);
	int status = 0;

	while (block->sent < parts && !status) {
		status = part_send(realm, load, at, block->sent);
		if (!status)
			block->sent++;
	}
	if (status && status != -EAGAIN)
		block->bad = status;
	if (!block->gets)
		block_step_end(realm, load, at);
	return status != -EAGAIN;
}

void load_steps_send(struct realm *realm, struct load *load)
{
	uint32_t slowest = UINT32_MAX;
	bool room = true;

	for (uint32_t i = 0; i < load->started; i++) {
		struct load_block *block = &load->blocks[i];

		if (!block->steps)
			continue;
		/* What was removed by force while nothing of it was under way. */
		if (!block->gets && index_state(realm, block->slot) == ENTRY_REMOVED)
			block_step_end(realm, load, i);
		else
			slowest = MIN_OF(slowest, (uint32_t)block->step);
	}
	for (uint32_t i = 0; i < load->started && room; i++) {
		struct load_block *block = &load->blocks[i];

		if (block->steps && !block->bad && block->step <= slowest + 1 &&
			index_state(realm, block->slot) != ENTRY_REMOVED)
			room = block_send(realm, load, i);
	}
}

void load_steps_drop(struct realm *realm, struct load *load)
{
	list_each (node, &realm->ssd.jobs_busy) {
		struct ssd_job *job = list_item(node, struct ssd_job, link);

		if (job->is_step && job->load == load)
			job->load = NULL;
	}
	for (uint32_t i = 0; i < load->started; i++) {
		struct load_block *block = &load->blocks[i];

		if (block->steps && !block->gets)
			load_block_end(realm, block->slot, -ECANCELED);
		block->steps = false;
	}
}
