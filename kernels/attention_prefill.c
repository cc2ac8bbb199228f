/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/attention_prefill.h"

#include <errno.h>
#include <stdbool.h>

#include "base/bits.h"
#include "kernels/attention_prefill_args.h"
#include "kernels/gpu.h"

#define WORKS_MAX   INT32_MAX /* what a grid takes */
#define QUERIES_MAX (1 << 30) /* so that kernels may count rows in int */

/* The kernels of one variant by dtype and head size (64, 128). */
#define KERNEL(variant, element, head_size)                                                        \
	{                                                                                          \
		"attention_prefill_" #variant "_" #element "_" #head_size,                         \
			attention_prefill_reference                                                \
	}
#define KERNELS(variant)                                                                           \
	{                                                                                          \
		{KERNEL(variant, bf16, 64), KERNEL(variant, bf16, 128)},                           \
			{KERNEL(variant, fp16, 64), KERNEL(variant, fp16, 128)},                   \
	}

const struct attention_prefill_variant attention_prefill_variants[] = {
	{"hopper", 128, 2, 128, 2, 384, 90, 128, true},
	{"tensor", 128, 1, 64, 1, 128, 80, 0, false},
	{NULL, 0, 0, 0, 0, 0, 0, 0, false},
};

static const struct gpu_kernel kernels[][2][2] = {
	KERNELS(hopper),
	KERNELS(tensor),
};

static bool prefill_good(const struct attention_prefill *prefill)
{
	const struct attention_part *part = &prefill->part;

	if (!attention_shape_good(&prefill->shape) || !attention_kv_good(&prefill->kv) ||
		!prefill->queries_max || prefill->queries_max > QUERIES_MAX ||
		!(prefill->scale > 0))
		return false;
	if (!prefill->query || (prefill->query | prefill->query_stride) % 16 || !prefill->starts ||
		!prefill->lengths || (prefill->starts | prefill->lengths) % 4)
		return false;
	if (!prefill->output && !part->values && !part->lse)
		return false;
	return (prefill->output | prefill->output_stride | part->values) % 16 == 0 &&
	       part->lse % 4 == 0;
}

static struct gpu_grid grid_for(const struct gpu_info *info,
	const struct attention_prefill_variant *variant, const struct attention_prefill_args *args)
{
	uint32_t rows = variant->rows * variant->tiles + 2 * variant->stages * variant->keys;
	uint32_t blocks = variant->resident ? MIN_OF(args->works, info->processors) : args->works;

	return (struct gpu_grid){{blocks, 1, 1}, variant->threads,
		rows * args->prefill.shape.head_size * 2 + variant->barrier_bytes};
}

int attention_prefill_by(struct gpu *gpu, struct gpu_stream *stream,
	const struct attention_prefill *prefill, const struct attention_prefill_variant *variant)
{
	const struct attention_shape *shape = &prefill->shape;
	const struct gpu_info *info = gpu_info(gpu);
	const struct gpu_kernel *kernel;
	struct attention_prefill_args args = {.prefill = *prefill};
	struct gpu_grid grid;
	uint64_t works;

	if (!prefill_good(prefill))
		return -EINVAL;
	args.tiles = (uint32_t)divide_up(prefill->queries_max, variant->rows);
	works = (uint64_t)args.tiles * shape->query_heads;
	if (works > WORKS_MAX / shape->sequences)
		return -EINVAL;
	args.works = (uint32_t)works * shape->sequences;
	grid = grid_for(info, variant, &args);
	if (info->back_end == GPU_CUDA && (info->capability < variant->capability ||
						  grid.shared_bytes > info->shared_bytes_max))
		return -ENOTSUP;
	kernel = &kernels[variant - attention_prefill_variants][shape->dtype]
			 [shape->head_size == 128];
	return gpu_launch(stream, kernel, &grid, &args, sizeof(args));
}

int attention_prefill(
	struct gpu *gpu, struct gpu_stream *stream, const struct attention_prefill *prefill)
{
	const struct attention_prefill_variant *variant = attention_prefill_variants;
	int status;

	do
		status = attention_prefill_by(gpu, stream, prefill, variant);
	while (status == -ENOTSUP && (++variant)->name);
	return status;
}
