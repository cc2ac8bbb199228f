/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/gather.h"

#include <errno.h>

#include "base/bits.h"
#include "base/check.h"
#include "kernels/checksum.h"
#include "kernels/gather_args.h"
#include "kernels/gpu.h"

/* The usual chunk: a layer of a Llama-3-8B block, 64 KiB. */
#define CHUNK_LEAVES 16

#define PART_BYTES_MAX 0x7fffffffu

_Static_assert(sizeof(struct gather_block) == 16, "blocks lie side by side in device memory");
_Static_assert(sizeof(struct gather_args) <= 4096, "a launch takes 4 KiB of arguments");

/*
 * Granlund and Montgomery's: value / by = (high half of value × multiplier, + value) >> shift, for
 * all values below 2^31, where nothing overflows.
 */
static struct gather_divisor divisor_make(uint32_t by)
{
	struct gather_divisor divisor = {.by = by};
	uint64_t excess;

	while ((uint64_t)1 << divisor.shift < by)
		divisor.shift++;
	excess = ((uint64_t)1 << divisor.shift) - by;
	divisor.multiplier = (uint32_t)((excess << 32) / by + 1);
	return divisor;
}

/* The product, or 0 where it passes PART_BYTES_MAX or one of the two is 0. */
static uint32_t part_product(uint32_t a, uint32_t b)
{
	uint64_t product = (uint64_t)a * b;

	return product > PART_BYTES_MAX ? 0 : (uint32_t)product;
}

uint32_t gather_part_bytes(const struct gather_layout *layout)
{
	uint32_t bytes = part_product(layout->layers, layout->kinds);

	bytes = part_product(bytes, layout->tokens);
	bytes = part_product(bytes, layout->heads);
	return part_product(bytes, layout->head_bytes);
}

/* Whether the last byte of the tensor at @base has an address. */
static bool tensor_ends(
	const struct gather_layout *layout, const struct gather_tensors *tensors, uint64_t base)
{
	const uint64_t terms[][2] = {
		{tensors->page_count - 1, tensors->page_stride},
		{tensors->page_tokens - 1, tensors->token_stride},
		{layout->heads - 1, tensors->head_stride},
		{layout->head_bytes, 1},
	};
	uint64_t end = base;

	for (size_t i = 0; i < ARRAY_COUNT(terms); i++) {
		uint64_t term;

		if (__builtin_mul_overflow(terms[i][0], terms[i][1], &term) ||
			__builtin_add_overflow(end, term, &end))
			return false;
	}
	return true;
}

/* The widest vector that never crosses a run and always lies on a multiple of itself. */
static uint32_t vector_bytes(const struct gather_plan *plan, const uint64_t *bases)
{
	uint64_t all = plan->run_bytes | plan->range_bytes | plan->page_stride | plan->token_stride;

	if (plan->runs > 1)
		all |= plan->head_stride;
	for (uint32_t i = 0; i < plan->planes; i++)
		all |= bases[i];
	return all % 16 == 0 ? 16 : all % 4 == 0 ? 4 : 1;
}

int gather_plan_make(struct gather_plan *plan, const struct gather_layout *layout,
	const struct gather_tensors *tensors)
{
	uint32_t bytes = gather_part_bytes(layout);

	if (!layout->layers || !layout->kinds || !layout->tokens || !layout->heads ||
		!layout->head_bytes || !layout->ranges || !tensors->page_tokens ||
		!tensors->page_count)
		return -EINVAL;
	if (layout->order != GATHER_LAYER_MAJOR && layout->order != GATHER_TOKEN_MAJOR)
		return -EINVAL;
	if (!bytes)
		return -E2BIG;
	if (bytes % layout->ranges || tensors->page_tokens > PART_BYTES_MAX - layout->tokens)
		return -EINVAL;
	*plan = (struct gather_plan){
		.layout = *layout,
		.page_stride = tensors->page_stride,
		.token_stride = tensors->token_stride,
		.head_stride = tensors->head_stride,
		.page_tokens = tensors->page_tokens,
		.page_count = tensors->page_count,
		.planes = layout->layers * layout->kinds,
		.part_bytes = bytes,
		.range_bytes = bytes / layout->ranges,
		.run_bytes = layout->head_bytes,
		.runs = layout->heads,
	};
	for (uint32_t i = 0; i < plan->planes; i++)
		if (!tensor_ends(layout, tensors, tensors->bases[i]))
			return -EINVAL;
	if (layout->heads == 1 || tensors->head_stride == layout->head_bytes) {
		plan->run_bytes = layout->heads * layout->head_bytes;
		plan->runs = 1;
	}
	plan->range_leaves = (uint32_t)divide_up(plan->range_bytes, CHECKSUM_LEAF_BYTES);
	plan->vector_bytes = vector_bytes(plan, tensors->bases);
	plan->by_run = divisor_make(plan->run_bytes);
	plan->by_runs = divisor_make(plan->runs);
	plan->by_inner =
		divisor_make(layout->order == GATHER_LAYER_MAJOR ? layout->tokens : plan->planes);
	plan->by_page = divisor_make(plan->page_tokens);
	return 0;
}

int gather_plan_make_flat(struct gather_plan *plan, uint32_t ranges, uint32_t range_bytes)
{
	static const uint64_t nowhere;
	const struct gather_layout layout = {.layers = 1,
		.kinds = 1,
		.tokens = ranges,
		.heads = 1,
		.head_bytes = range_bytes,
		.ranges = ranges};
	const struct gather_tensors tensors = {
		.bases = &nowhere, .page_tokens = 1, .page_count = 1};

	return gather_plan_make(plan, &layout, &tensors);
}

int gather_blocks_check(const struct gather_plan *plan, const struct gather_block *blocks,
	uint32_t count, struct gather_pages pages, uint32_t *bad)
{
	for (uint32_t i = 0; i < count; i++) {
		const struct gather_block *block = &blocks[i];
		uint64_t slots = (uint64_t)block->first_slot + plan->layout.tokens;
		uint64_t end = block->first_page + divide_up(slots, plan->page_tokens);
		bool sound = block->part && block->part % plan->vector_bytes == 0 &&
			     block->first_slot < plan->page_tokens && end <= pages.count;

		for (uint64_t page = block->first_page; sound && page < end; page++)
			sound = pages.numbers[page] < plan->page_count;
		if (sound)
			continue;
		if (bad)
			*bad = i;
		return -EINVAL;
	}
	return 0;
}

size_t gather_scratch_bytes(const struct gather_plan *plan, uint32_t blocks)
{
	if (plan->range_leaves <= CHUNK_LEAVES)
		return 0;
	return (size_t)blocks * plan->layout.ranges * (1 + (size_t)plan->range_leaves) *
	       sizeof(uint64_t);
}

#define VARIANT(text, lanes_, width_, step_, threads_, blocks_)                                    \
	{#text, lanes_, width_, threads_, step_},
const struct gather_variant gather_variants[] = {GATHER_VARIANTS(VARIANT)};
#undef VARIANT
const uint32_t gather_variant_count = ARRAY_COUNT(gather_variants);

/* The kernels by way and variant, as gather.cu names them. */
#define KERNEL(symbol, work)	     {.name = #symbol, .host = work},
#define VARIANT_IN(text, ...)	     KERNEL(gather_##text, gather_host)
#define VARIANT_IN_PLAIN(text, ...)  KERNEL(gather_plain_##text, gather_host)
#define VARIANT_OUT(text, ...)	     KERNEL(scatter_##text, scatter_host)
#define VARIANT_OUT_PLAIN(text, ...) KERNEL(scatter_plain_##text, scatter_host)
#define VARIANT_SUM(text, ...)	     KERNEL(sum_##text, sum_host)
static const struct gpu_kernel kernels[][2][ARRAY_COUNT(gather_variants)] = {
	[GATHER_IN] = {{GATHER_VARIANTS(VARIANT_IN_PLAIN)}, {GATHER_VARIANTS(VARIANT_IN)}},
	[GATHER_OUT] = {{GATHER_VARIANTS(VARIANT_OUT_PLAIN)}, {GATHER_VARIANTS(VARIANT_OUT)}},
	[GATHER_SUM] = {{GATHER_VARIANTS(VARIANT_SUM)}, {GATHER_VARIANTS(VARIANT_SUM)}},
};

bool gather_variant_fits(
	const struct gather_variant *variant, const struct gather_plan *plan, enum gather_way way)
{
	uint32_t step = variant->lanes * variant->width;

	if (plan->vector_bytes % variant->width)
		return false;
	return way == GATHER_SUM || !variant->step ||
	       (plan->run_bytes % step == 0 && plan->range_bytes % step == 0);
}

/*
 * The longest steps that fit: on an H200 all come within 7 % of each other. Who works out each
 * vector's address does better with long chunks (scatter, 0.90 of a copy, not 0.82), as long as
 * they are many times what is at work at once.
 */
struct gather_choice gather_choose(const struct gather_work *work, enum gather_way way)
{
	const struct gather_plan *plan = &work->plan;
	uint64_t leaves = (uint64_t)work->count * plan->layout.ranges * plan->range_leaves;
	struct gather_choice choice = {NULL, CHUNK_LEAVES};

	for (uint32_t i = 0; i < gather_variant_count && !choice.variant; i++)
		if (gather_variant_fits(&gather_variants[i], plan, way))
			choice.variant = &gather_variants[i];
	SKEP_CHECK(choice.variant); /* the last of the table does everything */
	if (!choice.variant->step && leaves / GATHER_CHUNK_LEAVES_MAX >= 1024)
		choice.chunk_leaves = GATHER_CHUNK_LEAVES_MAX;
	return choice;
}

int gather_work_check(const struct gather_work *work, enum gather_way way)
{
	uint32_t ranges = work->plan.layout.ranges;

	if (!work->count || !work->blocks || work->range_first > ranges ||
		work->range_count > ranges - work->range_first ||
		(work->range_first && !work->range_count))
		return -EINVAL;
	if (way != GATHER_SUM && (!work->bases || !work->pages))
		return -EINVAL;
	if (way == GATHER_SUM && !work->sums && !work->expected)
		return -EINVAL;
	return way != GATHER_IN && work->expected && !work->failed ? -EINVAL : 0;
}

/* Cuts the parts into chunks; returns how many those of one part are. */
static uint32_t args_make(
	struct gather_args *args, const struct gather_work *work, uint32_t chunk_leaves)
{
	uint32_t leaves = work->plan.range_leaves;

	*args = (struct gather_args){.work = *work, .chunk_leaves = chunk_leaves};
	if (!work->range_count)
		args->work.range_count = work->plan.layout.ranges;
	if (leaves <= chunk_leaves) {
		args->chunk_ranges = chunk_leaves / leaves;
		args->part_chunks = (uint32_t)divide_up(args->work.range_count, args->chunk_ranges);
	} else {
		args->range_chunks = (uint32_t)divide_up(leaves, chunk_leaves);
		args->part_chunks = args->work.range_count * args->range_chunks;
	}
	args->by_part_chunks = divisor_make(args->part_chunks);
	args->by_range_chunks = divisor_make(MAX_OF(args->range_chunks, 1u));
	args->by_range_leaves = divisor_make(leaves);
	return args->part_chunks;
}

int gather_submit(struct gpu_stream *stream, const struct gather_work *work, enum gather_way way,
	struct gather_choice choice)
{
	bool sums = work->sums || (way != GATHER_IN && work->expected);
	struct gather_args args;
	struct gpu_grid grid = {.threads = choice.variant->threads};
	int rc = gather_work_check(work, way);

	if (rc < 0)
		return rc;
	SKEP_CHECK(choice.chunk_leaves >= CHUNK_LEAVES &&
		   choice.chunk_leaves <= GATHER_CHUNK_LEAVES_MAX);
	SKEP_CHECK(gather_variant_fits(choice.variant, &work->plan, way));
	if (__builtin_mul_overflow(
		    args_make(&args, work, choice.chunk_leaves), work->count, &grid.blocks[0]) ||
		grid.blocks[0] > INT32_MAX)
		return -EINVAL;
	if (sums && args.range_chunks && !work->scratch)
		return -EINVAL;
	return gpu_launch(stream, &kernels[way][sums][choice.variant - gather_variants], &grid,
		&args, sizeof(args));
}

int gather_parts(struct gpu_stream *stream, const struct gather_work *work)
{
	return gather_submit(stream, work, GATHER_IN, gather_choose(work, GATHER_IN));
}

int scatter_parts(struct gpu_stream *stream, const struct gather_work *work)
{
	return gather_submit(stream, work, GATHER_OUT, gather_choose(work, GATHER_OUT));
}

int sum_parts(struct gpu_stream *stream, const struct gather_work *work)
{
	return gather_submit(stream, work, GATHER_SUM, gather_choose(work, GATHER_SUM));
}

static int on_host(
	const struct gather_work *work, enum gather_way way, void (*host)(const void *args))
{
	struct gather_args args;
	int rc = gather_work_check(work, way);

	if (rc < 0)
		return rc;
	args_make(&args, work, CHUNK_LEAVES);
	host(&args);
	return 0;
}

int gather_parts_on_host(const struct gather_work *work)
{
	return on_host(work, GATHER_IN, gather_host);
}

int scatter_parts_on_host(const struct gather_work *work)
{
	return on_host(work, GATHER_OUT, scatter_host);
}

int sum_parts_on_host(const struct gather_work *work)
{
	return on_host(work, GATHER_SUM, sum_host);
}
