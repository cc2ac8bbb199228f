/* SPDX-License-Identifier: Apache-2.0 */
/* Devices and plans. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/memory.h"
#include "engine/gpu/gpu_priv.h"

#define RING_SLOTS_USUAL 3
#define RING_PARTS_USUAL 4
#define BLOCKS_USUAL	 128
#define BLOCKS_LIMIT	 16384
#define JOBS_USUAL	 4
#define JOBS_LIMIT	 64

int options_take(void *to, const void *from, size_t bytes)
{
	const unsigned char *theirs = from;
	size_t length;

	memcpy(&length, from, sizeof(length));
	if (length < sizeof(length))
		return -EINVAL;
	for (size_t i = bytes; i < length; i++)
		if (theirs[i])
			return -E2BIG;
	memset(to, 0, bytes);
	memcpy(to, from, MIN_OF(bytes, length));
	return 0;
}

bool gpu_ours(const struct skep_gpu *gpu)
{
	return gpu->owner == getpid();
}

int skep_gpu_open(
	struct skep *session, const struct skep_gpu_options *options, struct skep_gpu **out)
{
	struct skep_gpu_options mine;
	struct skep_gpu *gpu;
	int rc = session && options && out ? options_take(&mine, options, sizeof(mine)) : -EINVAL;

	if (rc < 0)
		return rc;
	if (mine.kind > SKEP_GPU_CUDA || mine.ring_slots > RING_SLOTS_MAX ||
		mine.ring_parts > RING_PARTS_MAX || mine.flags & ~(uint32_t)SKEP_GPU_UNREGISTERED)
		return -EINVAL;
	gpu = memory_zalloc(sizeof(*gpu));
	if (!gpu)
		return -ENOMEM;
	gpu->session = session;
	gpu->owner = getpid();
	gpu->kind = mine.kind;
	gpu->ring_slots = mine.ring_slots;
	if (!gpu->ring_slots && gpu->kind == SKEP_GPU_CUDA)
		gpu->ring_slots = RING_SLOTS_USUAL;
	gpu->ring_parts = mine.ring_parts ? mine.ring_parts : RING_PARTS_USUAL;
	rc = gpu_open(mine.kind == SKEP_GPU_CUDA ? GPU_CUDA : GPU_HOST, mine.device, &gpu->device);
	if (rc < 0) {
		memory_free(gpu);
		return rc;
	}
	if (gpu->ring_slots && !(mine.flags & SKEP_GPU_UNREGISTERED))
		rc = registrar_create(session, gpu->device, true, &gpu->registrar);
	if (rc < 0) {
		skep_gpu_close(gpu);
		return rc;
	}
	*out = gpu;
	return 0;
}

void skep_gpu_close(struct skep_gpu *gpu)
{
	if (!gpu || !gpu_ours(gpu))
		return;
	registrar_destroy(gpu->registrar);
	gpu_close(gpu->device);
	memory_free(gpu);
}

static struct gather_layout layout_of(const struct skep_gpu_tensors *tensors)
{
	struct gather_layout layout = {
		.order = tensors->order == SKEP_GPU_TOKEN_MAJOR ? GATHER_TOKEN_MAJOR
								: GATHER_LAYER_MAJOR,
		.layers = tensors->layers,
		.kinds = tensors->kinds,
		.tokens = tensors->block_tokens,
		.heads = tensors->heads,
		.head_bytes = tensors->head_bytes,
		.ranges = tensors->ranges,
	};

	if (!layout.ranges)
		layout.ranges = layout.order == GATHER_LAYER_MAJOR ? layout.layers : 1;
	return layout;
}

/* The kinds of layouts that a space can have, without looking at where tensors lie. */
static int layout_check(const struct skep_gpu_tensors *tensors, struct gather_layout *layout)
{
	uint32_t bytes;

	*layout = layout_of(tensors);
	if (tensors->order > SKEP_GPU_TOKEN_MAJOR || !layout->layers || !layout->kinds ||
		!layout->tokens || !layout->heads || !layout->head_bytes ||
		layout->ranges > SKEP_RANGES_MAX)
		return -EINVAL;
	bytes = gather_part_bytes(layout);
	if (!bytes)
		return -E2BIG;
	return bytes % layout->ranges ? -EINVAL : 0;
}

int skep_gpu_part(const struct skep_gpu_tensors *tensors, struct skep_part_layout *part)
{
	struct skep_gpu_tensors mine;
	struct gather_layout layout;
	int rc = tensors && part ? options_take(&mine, tensors, sizeof(mine)) : -EINVAL;

	if (!rc)
		rc = layout_check(&mine, &layout);
	if (rc < 0)
		return rc;
	part->bytes = gather_part_bytes(&layout);
	part->ranges = layout.ranges;
	return 0;
}

/* Which ranges each table has: @plan's layout is known. */
static int tables_make(struct skep_gpu_plan *plan, const struct skep_gpu_tensors *tensors)
{
	const struct gather_layout *layout = &plan->gather.layout;
	uint64_t layers = 0;

	plan->tables = 1;
	plan->table_ranges[0] = layout->ranges;
	if (!tensors->tables)
		return 0;
	if (tensors->tables > SKEP_GPU_TABLES_MAX || !tensors->table_layers ||
		layout->order != GATHER_LAYER_MAJOR)
		return -EINVAL;
	plan->tables = tensors->tables;
	for (uint32_t i = 0; i < plan->tables; i++) {
		uint64_t ranges = (uint64_t)tensors->table_layers[i] * layout->ranges;

		if (!ranges || ranges % layout->layers)
			return -EINVAL;
		layers += tensors->table_layers[i];
		plan->table_ranges[i] = (uint32_t)(ranges / layout->layers);
	}
	return layers == layout->layers ? 0 : -EINVAL;
}

/* Sends the addresses of the planes to the device, and waits: they are the caller's. */
static int bases_send(struct skep_gpu_plan *plan, const uint64_t *bases)
{
	size_t bytes = plan->gather.planes * sizeof(*bases);
	int rc = gpu_alloc(plan->gpu->device, bytes, &plan->bases);

	if (!rc)
		rc = gpu_copy_in(plan->ring.kernels, plan->bases, bases, bytes);
	return rc ? rc : gpu_stream_sync(plan->ring.kernels);
}

static void plan_free(struct skep_gpu_plan *plan)
{
	jobs_destroy(plan);
	ring_destroy(plan);
	if (plan->bases)
		gpu_free(plan->gpu->device, plan->bases);
	memory_free(plan->scratch_part);
	memory_free(plan);
}

/* Everything that jobs will need. */
static int plan_fill(struct skep_gpu_plan *plan, const struct skep_gpu_tensors *tensors)
{
	struct gather_tensors places = {
		.bases = tensors->bases,
		.page_stride = tensors->page_stride,
		.token_stride = tensors->token_stride,
		.head_stride = tensors->head_stride,
		.page_tokens = tensors->page_tokens,
		.page_count = tensors->page_count,
	};
	struct gather_layout layout;
	int rc = layout_check(tensors, &layout);

	if (!rc)
		rc = gather_plan_make(&plan->gather, &layout, &places);
	if (!rc)
		rc = tables_make(plan, tensors);
	if (rc < 0)
		return rc;
	plan->blocks_max = tensors->blocks_max ? tensors->blocks_max : BLOCKS_USUAL;
	plan->jobs_max = tensors->jobs ? tensors->jobs : JOBS_USUAL;
	if (plan->blocks_max > BLOCKS_LIMIT || plan->jobs_max > JOBS_LIMIT)
		return -EINVAL;
	plan->pages_max =
		(uint32_t)((uint64_t)plan->blocks_max * layout.tokens / tensors->page_tokens + 2);
	plan->scratch_part = memory_zalloc(plan->gather.part_bytes);
	if (!plan->scratch_part)
		return -ENOMEM;
	rc = ring_create(plan);
	if (!rc)
		rc = bases_send(plan, tensors->bases);
	return rc ? rc : jobs_create(plan);
}

int skep_gpu_plan_create(struct skep_gpu *gpu, struct skep_space *space,
	const struct skep_gpu_tensors *tensors, struct skep_gpu_plan **out)
{
	struct skep_gpu_tensors mine;
	struct skep_gpu_plan *plan;
	int rc = gpu && space && tensors && out ? options_take(&mine, tensors, sizeof(mine))
						: -EINVAL;

	if (!rc && !mine.bases)
		rc = -EINVAL;
	if (!rc && !gpu_ours(gpu))
		rc = -EOWNERDEAD;
	if (rc < 0)
		return rc;
	plan = memory_zalloc(sizeof(*plan));
	if (!plan)
		return -ENOMEM;
	plan->gpu = gpu;
	plan->space = space;
	rc = plan_fill(plan, &mine);
	if (rc < 0) {
		plan_free(plan);
		return rc;
	}
	*out = plan;
	return 0;
}

void skep_gpu_plan_destroy(struct skep_gpu_plan *plan)
{
	if (!plan || !gpu_ours(plan->gpu))
		return;
	for (uint32_t i = 0; i < plan->jobs_max; i++)
		if (plan->jobs[i].busy)
			skep_gpu_abort(&plan->jobs[i]);
	plan_free(plan);
}
