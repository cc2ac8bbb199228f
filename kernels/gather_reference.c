/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gather and scatter in plain C: what the kernels are compared with, and what CPU engines run. It
 * goes leaf by leaf through a copy of its own that stays in the first-level cache, so that sum and
 * destination speak of the same bytes even while somebody changes the source.
 */
#include <string.h>

#include "base/bits.h"
#include "kernels/checksum.h"
#include "kernels/gather_args.h"

/* Bytes of a part: from @at on, and where they are on this side. */
struct stretch {
	uint32_t at, bytes;
	unsigned char *memory;
};

/* The address in the tensors of run @run of @block. */
static unsigned char *run_at(
	const struct gather_work *work, const struct gather_block *block, uint32_t run)
{
	const struct gather_plan *plan = &work->plan;
	const uint64_t *bases = (const uint64_t *)(uintptr_t)work->bases;
	const uint32_t *pages = (const uint32_t *)(uintptr_t)work->pages;
	uint32_t head = run % plan->runs, row = run / plan->runs, plane, slot;
	uint64_t page;

	if (plan->layout.order == GATHER_LAYER_MAJOR) {
		plane = row / plan->layout.tokens;
		slot = row % plan->layout.tokens;
	} else {
		slot = row / plan->planes;
		plane = row % plan->planes;
	}
	slot += block->first_slot;
	page = pages[block->first_page + slot / plan->page_tokens];
	slot %= plan->page_tokens;
	return (unsigned char *)(uintptr_t)(bases[plane] + page * plan->page_stride +
					    slot * plan->token_stride + head * plan->head_stride);
}

/* Copies a stretch of a part between its memory and the tensors, run by run. */
static void stretch_move(const struct gather_work *work, const struct gather_block *block,
	struct stretch stretch, enum gather_way way)
{
	uint32_t run_bytes = work->plan.run_bytes, done = 0;

	while (done < stretch.bytes) {
		uint32_t run = (stretch.at + done) / run_bytes;
		uint32_t byte = (stretch.at + done) % run_bytes;
		uint32_t bytes = MIN_OF(run_bytes - byte, stretch.bytes - done);
		unsigned char *tensor = run_at(work, block, run) + byte;

		if (way == GATHER_IN)
			memcpy(stretch.memory + done, tensor, bytes);
		else
			memcpy(tensor, stretch.memory + done, bytes);
		done += bytes;
	}
}

/* One range of one block, with its sum. */
static uint64_t range_move(const struct gather_work *work, const struct gather_block *block,
	uint32_t range, enum gather_way way)
{
	unsigned char copy[CHECKSUM_LEAF_BYTES];
	struct checksum_stream stream;
	uint32_t first = range * work->plan.range_bytes;

	checksum_stream_init(&stream);
	for (uint32_t done = 0; done < work->plan.range_bytes; done += CHECKSUM_LEAF_BYTES) {
		struct stretch leaf = {.at = first + done, .memory = copy};
		unsigned char *part = (unsigned char *)(uintptr_t)block->part + leaf.at;

		leaf.bytes = MIN_OF(work->plan.range_bytes - done, (uint32_t)CHECKSUM_LEAF_BYTES);
		if (way == GATHER_IN)
			stretch_move(work, block, leaf, way);
		else
			memcpy(copy, part, leaf.bytes);
		checksum_stream_update(&stream, copy, leaf.bytes);
		if (way == GATHER_IN)
			memcpy(part, copy, leaf.bytes);
		else if (way == GATHER_OUT)
			stretch_move(work, block, leaf, way);
	}
	return checksum_stream_final(&stream);
}

static void range_work(
	const struct gather_work *work, uint32_t index, uint32_t range, enum gather_way way)
{
	const struct gather_block *block =
		(const struct gather_block *)(uintptr_t)work->blocks + index;
	const uint64_t *expected = (const uint64_t *)(uintptr_t)work->expected;
	uint64_t *sums = (uint64_t *)(uintptr_t)work->sums;
	size_t at = (size_t)index * work->plan.layout.ranges + range;
	bool compare = way != GATHER_IN && expected;
	uint64_t sum;

	if (!sums && !compare) {
		uint32_t first = range * work->plan.range_bytes;
		struct stretch whole = {first, work->plan.range_bytes,
			(unsigned char *)(uintptr_t)block->part + first};

		stretch_move(work, block, whole, way);
		return;
	}
	sum = range_move(work, block, range, way);
	if (sums)
		sums[at] = sum;
	if (compare)
		((uint8_t *)(uintptr_t)work->failed)[at] = sum != expected[at];
}

static void all_ranges(const struct gather_args *args, enum gather_way way)
{
	const struct gather_work *work = &args->work;

	for (uint32_t index = 0; index < work->count; index++)
		for (uint32_t i = 0; i < work->range_count; i++)
			range_work(work, index, work->range_first + i, way);
}

void gather_host(const void *args)
{
	all_ranges(args, GATHER_IN);
}

void scatter_host(const void *args)
{
	all_ranges(args, GATHER_OUT);
}

void sum_host(const void *args)
{
	all_ranges(args, GATHER_SUM);
}
