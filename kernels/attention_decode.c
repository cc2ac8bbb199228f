/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/attention.h"

#include <errno.h>
#include <stdbool.h>

#include "base/bits.h"
#include "kernels/attention_decode.h"
#include "kernels/gpu.h"

#define WARP	       32
#define SEQUENCES_MAX  65535	  /* what a grid takes */
#define BLOCK_OVERHEAD 1024	  /* of shared memory, that the device takes for itself a block */
#define SHARED_MOST    (1u << 20) /* what the host back end has counts as no more */

/* By dtype, head size (64, 128) and view (contiguous, paged). */
#define KERNEL(name)                                                                               \
	{                                                                                          \
		"attention_decode_" name, attention_decode_reference                               \
	}

static const struct gpu_kernel kernels[2][2][2] = {
	[ATTENTION_BF16] = {{KERNEL("bf16_64_contiguous"), KERNEL("bf16_64_paged")},
		{KERNEL("bf16_128_contiguous"), KERNEL("bf16_128_paged")}},
	[ATTENTION_FP16] = {{KERNEL("fp16_64_contiguous"), KERNEL("fp16_64_paged")},
		{KERNEL("fp16_128_contiguous"), KERNEL("fp16_128_paged")}},
};

static const struct gpu_kernel gather_kernel = {"attention_gather", attention_gather_reference};
static const struct gpu_kernel merge_kernel = {"attention_merge", attention_merge_reference};

/* How a launch is laid out: blocks of @block_heads heads times @ways ranges. */
struct plan {
	uint32_t slices, heads, block_heads, ways, sets, blocks, ranges;
	size_t slots;
	uint32_t shared_bytes;
};

static bool shape_good(const struct attention_shape *shape)
{
	return attention_shape_good(shape) && shape->sequences <= SEQUENCES_MAX;
}

/*
 * As many ranges as there are warps that the device holds at once. More, in several waves, cost
 * more in starts and parts than they even out; measured with two and four. What the host back end
 * takes as one processor still gets ranges enough to be cut up.
 */
static struct plan plan_make(const struct gpu_info *info, const struct attention_shape *shape)
{
	struct plan plan = {0};
	uint32_t held;

	plan.slices = (uint32_t)divide_up(shape->query_heads / shape->kv_heads, ATTENTION_GROUP);
	plan.heads = shape->kv_heads * plan.slices;
	plan.sets = (uint32_t)divide_up(plan.heads, ATTENTION_WARPS);
	plan.block_heads = (uint32_t)divide_up(plan.heads, plan.sets);
	plan.ways = ATTENTION_WARPS / plan.block_heads;
	plan.shared_bytes =
		ATTENTION_WARPS * ATTENTION_STAGES * 2 * ATTENTION_TILE * 2 * shape->head_size;
	held = (uint32_t)((MIN_OF(info->shared_bytes_max, SHARED_MOST) + BLOCK_OVERHEAD) /
			  (plan.shared_bytes + BLOCK_OVERHEAD));
	held = MAX_OF(held, 1);
	plan.blocks = MAX_OF(MAX_OF(info->processors, 4) * held / plan.sets, 1);
	plan.ranges = plan.blocks * plan.ways;
	plan.slots = (size_t)plan.ranges + shape->sequences;
	return plan;
}

static size_t values_bytes(const struct plan *plan, const struct attention_shape *shape)
{
	return align_up(plan->slots * shape->query_heads * shape->head_size * sizeof(float), 256);
}

size_t attention_decode_workspace(const struct gpu_info *info, const struct attention_shape *shape)
{
	struct plan plan;

	if (!shape_good(shape))
		return 0;
	plan = plan_make(info, shape);
	return values_bytes(&plan, shape) + plan.slots * shape->query_heads * sizeof(float);
}

static bool output_good(uint64_t output, uint64_t stride, const struct attention_part *part)
{
	if (!output && !part->values)
		return false;
	if (output % 16 || (output && stride % 16))
		return false;
	return part->values % 16 == 0 && part->lse % 4 == 0 && !part->values == !part->lse;
}

/* Threads of a block that merges about @parts parts: a warp takes up to eight at once. */
static uint32_t merge_threads(uint32_t parts)
{
	uint32_t warps = 4;

	while (warps < ATTENTION_MERGE_WARPS && warps * 8 < parts)
		warps *= 2;
	return warps * WARP;
}

int attention_decode(
	struct gpu *gpu, struct gpu_stream *stream, const struct attention_decode *decode)
{
	const struct attention_shape *shape = &decode->shape;
	const struct gpu_info *info = gpu_info(gpu);
	const struct gpu_kernel *kernel;
	struct attention_decode_args args;
	struct attention_gather_args gather;
	struct gpu_grid grid;
	struct plan plan;
	int status;

	if (!shape_good(shape) || !attention_kv_good(&decode->kv) || decode->query % 16 ||
		decode->query_stride % 16 || !decode->query || !decode->lengths ||
		decode->lengths % 4 || !decode->workspace || decode->workspace % 256 ||
		!output_good(decode->output, decode->output_stride, &decode->part))
		return -EINVAL;
	plan = plan_make(info, shape);
	kernel = &kernels[shape->dtype][shape->head_size == 128][decode->kv.table != 0];
	if (plan.shared_bytes > info->shared_bytes_max)
		return -ENOTSUP;
	args = (struct attention_decode_args){.kv = decode->kv,
		.query = decode->query,
		.query_stride = decode->query_stride,
		.lengths = decode->lengths,
		.slots = {decode->workspace, decode->workspace + values_bytes(&plan, shape)},
		.sequences = shape->sequences,
		.query_heads = shape->query_heads,
		.kv_heads = shape->kv_heads,
		.head_size = shape->head_size,
		.dtype = shape->dtype,
		.slices = plan.slices,
		.ranges = plan.ranges,
		.block_heads = plan.block_heads,
		.ways = plan.ways,
		.scale = decode->scale};
	grid = (struct gpu_grid){
		{plan.sets, plan.blocks, 1}, ATTENTION_WARPS * WARP, plan.shared_bytes};
	status = gpu_launch(stream, kernel, &grid, &args, sizeof(args));
	if (status)
		return status;
	gather = (struct attention_gather_args){decode->lengths, args.slots, decode->output,
		decode->output_stride, decode->part, shape->sequences, shape->query_heads,
		shape->head_size, shape->dtype, plan.ranges};
	grid = (struct gpu_grid){{shape->query_heads, shape->sequences, 1},
		merge_threads(plan.ranges / shape->sequences), 0};
	return gpu_launch(stream, &gather_kernel, &grid, &gather, sizeof(gather));
}

int attention_merge(struct gpu_stream *stream, const struct attention_merge *merge)
{
	const struct attention_shape *shape = &merge->shape;
	struct attention_merge_args args = {.output = merge->output,
		.output_stride = merge->output_stride,
		.part = merge->part,
		.count = merge->count,
		.query_heads = shape->query_heads,
		.head_size = shape->head_size,
		.dtype = shape->dtype,
		.sequences = shape->sequences};
	struct gpu_grid grid = {
		{shape->query_heads, shape->sequences, 1}, merge_threads(merge->count), 0};

	if (!merge->count || merge->count > ATTENTION_PARTS_MAX || !shape->query_heads ||
		!shape->sequences || shape->sequences > SEQUENCES_MAX ||
		(shape->head_size != 64 && shape->head_size != 128) ||
		!output_good(merge->output, merge->output_stride, &merge->part))
		return -EINVAL;
	for (uint32_t n = 0; n < merge->count; n++) {
		args.parts[n] = merge->parts[n];
		if (!args.parts[n].values || args.parts[n].values % 16 || !args.parts[n].lse ||
			args.parts[n].lse % 4)
			return -EINVAL;
	}
	return gpu_launch(stream, &merge_kernel, &grid, &args, sizeof(args));
}
