/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs: their memory, the ring, and what is submitted for them. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/memory.h"
#include "engine/gpu/gpu_priv.h"

/* -------------------------------------------------------------------------------------- memory */

struct gather_block *job_blocks(struct skep_gpu_job *job)
{
	return (struct gather_block *)(void *)(job->memory + job->plan->places.blocks);
}

uint32_t *job_pages(struct skep_gpu_job *job)
{
	return (uint32_t *)(void *)(job->memory + job->plan->places.pages);
}

uint64_t *job_sums(struct skep_gpu_job *job)
{
	return (uint64_t *)(void *)(job->memory + job->plan->places.sums);
}

uint8_t *job_failed(struct skep_gpu_job *job)
{
	return job->memory + job->plan->places.failed;
}

/* What is sent to the device lies together: blocks, pages, sums that are expected. */
static void places_make(struct skep_gpu_plan *plan)
{
	size_t blocks = plan->blocks_max;
	struct places *places = &plan->places;

	places->blocks = 0;
	places->pages = blocks * sizeof(struct gather_block);
	places->sums = align_up(
		places->pages + (size_t)plan->tables * plan->pages_max * sizeof(uint32_t), 16);
	places->failed = places->sums + blocks * plan->gather.layout.ranges * sizeof(uint64_t);
	places->bytes = align_up(places->failed + blocks * plan->gather.layout.ranges, 16);
}

static int job_create(struct skep_gpu_plan *plan, struct skep_gpu_job *job)
{
	struct gpu *device = plan->gpu->device;
	size_t scratch = gather_scratch_bytes(&plan->gather, plan->blocks_max);
	int rc;

	job->plan = plan;
	job->index = memory_calloc(plan->blocks_max, sizeof(*job->index));
	job->statuses = memory_calloc(plan->blocks_max, sizeof(*job->statuses));
	job->frames = memory_calloc(plan->blocks_max, sizeof(*job->frames));
	job->bytes = memory_calloc(plan->blocks_max, sizeof(*job->bytes));
	job->refs = memory_calloc(plan->blocks_max, sizeof(*job->refs));
	job->chunks = memory_calloc(plan->blocks_max, sizeof(*job->chunks));
	job->stages = memory_calloc(
		divide_up(plan->blocks_max, plan->gpu->ring_parts), sizeof(*job->stages));
	if (!job->index || !job->statuses || !job->frames || !job->bytes || !job->refs ||
		!job->chunks || !job->stages)
		return -ENOMEM;
	rc = gpu_pinned_alloc(device, plan->places.bytes, (void **)&job->memory);
	if (!rc)
		rc = gpu_alloc(device, plan->places.bytes, &job->at);
	if (!rc && scratch)
		rc = gpu_alloc(device, scratch, &job->scratch);
	if (!rc && scratch)
		rc = gpu_fill(plan->ring.kernels, job->scratch, 0, scratch);
	if (!rc)
		rc = gpu_event_create(device, &job->began);
	return rc ? rc : gpu_event_create(device, &job->done);
}

int jobs_create(struct skep_gpu_plan *plan)
{
	int rc = 0;

	places_make(plan);
	plan->jobs = memory_calloc(plan->jobs_max, sizeof(*plan->jobs));
	if (!plan->jobs)
		return -ENOMEM;
	for (uint32_t i = 0; i < plan->jobs_max && !rc; i++)
		rc = job_create(plan, &plan->jobs[i]);
	return rc ? rc : gpu_stream_sync(plan->ring.kernels);
}

void jobs_destroy(struct skep_gpu_plan *plan)
{
	struct gpu *device = plan->gpu->device;

	for (uint32_t i = 0; plan->jobs && i < plan->jobs_max; i++) {
		struct skep_gpu_job *job = &plan->jobs[i];

		memory_free(job->index);
		memory_free(job->statuses);
		memory_free(job->frames);
		memory_free(job->bytes);
		memory_free(job->refs);
		memory_free(job->chunks);
		memory_free(job->stages);
		if (job->memory)
			gpu_pinned_free(device, job->memory);
		if (job->at)
			gpu_free(device, job->at);
		if (job->scratch)
			gpu_free(device, job->scratch);
		if (job->began)
			gpu_event_destroy(job->began);
		if (job->done)
			gpu_event_destroy(job->done);
	}
	memory_free(plan->jobs);
	plan->jobs = NULL;
}

int ring_create(struct skep_gpu_plan *plan)
{
	struct gpu *device = plan->gpu->device;
	struct ring *ring = &plan->ring;
	size_t slot = plan->gpu->ring_parts * align_up(plan->gather.part_bytes, 256);
	size_t bytes = plan->gpu->ring_slots * slot;
	int rc = gpu_stream_create(device, &ring->kernels);

	if (!rc)
		rc = gpu_stream_create(device, &ring->copies);
	if (!rc && bytes)
		rc = gpu_alloc(device, bytes, &ring->at);
	if (!rc && bytes)
		rc = gpu_pinned_alloc(device, slot, (void **)&ring->staged);
	for (uint32_t i = 0; i < plan->gpu->ring_slots && !rc; i++) {
		rc = gpu_event_create(device, &ring->kernel_done[i]);
		if (!rc)
			rc = gpu_event_create(device, &ring->copy_done[i]);
	}
	return rc;
}

void ring_destroy(struct skep_gpu_plan *plan)
{
	struct ring *ring = &plan->ring;

	if (ring->kernels)
		gpu_stream_destroy(ring->kernels);
	if (ring->copies)
		gpu_stream_destroy(ring->copies);
	for (uint32_t i = 0; i < RING_SLOTS_MAX; i++) {
		if (ring->kernel_done[i])
			gpu_event_destroy(ring->kernel_done[i]);
		if (ring->copy_done[i])
			gpu_event_destroy(ring->copy_done[i]);
	}
	if (ring->at)
		gpu_free(plan->gpu->device, ring->at);
	if (ring->staged)
		gpu_pinned_free(plan->gpu->device, ring->staged);
}

/* -------------------------------------------------------------------------------- what it moves */

struct skep_gpu_job *job_take(struct skep_gpu_plan *plan)
{
	for (uint32_t i = 0; i < plan->jobs_max; i++) {
		struct skep_gpu_job *job = &plan->jobs[i];

		if (job->busy)
			continue;
		job->busy = true;
		job->count = job->moved = 0;
		job->pin = (struct skep_pin){0};
		return job;
	}
	return NULL;
}

int job_begun(struct skep_gpu_job *job, int got, struct skep_gpu_job **out)
{
	if (got > 0)
		*out = job;
	else
		job->busy = false;
	return got;
}

/* The pages of one table. */
static int table_pages_take(
	struct skep_gpu_job *job, const struct skep_gpu_pages *pages, uint32_t table, uint64_t used)
{
	const struct gather_plan *gather = &job->plan->gather;
	const uint32_t *numbers = pages->numbers + (size_t)table * pages->count;
	uint64_t none = 0;

	while (job->load && none < used && numbers[none] == SKEP_GPU_NO_PAGE)
		none++;
	for (uint64_t i = none; i < used; i++)
		if (numbers[i] >= gather->page_count)
			return -EINVAL;
	job->from[table] = 0;
	if (none)
		job->from[table] = (uint32_t)divide_up(
			none * gather->page_tokens - pages->first_slot, gather->layout.tokens);
	memcpy(job_pages(job) + (size_t)table * job->plan->pages_max, numbers,
		used * sizeof(uint32_t));
	return 0;
}

int job_pages_take(struct skep_gpu_job *job, const struct skep_gpu_pages *pages, uint32_t blocks)
{
	const struct gather_plan *gather = &job->plan->gather;
	uint64_t tokens = (uint64_t)blocks * gather->layout.tokens;
	uint64_t used = divide_up(pages->first_slot + tokens, gather->page_tokens);
	int rc = 0;

	if (!pages->numbers || pages->first_slot >= gather->page_tokens || used > pages->count)
		return -EINVAL;
	SKEP_CHECK(blocks <= job->plan->blocks_max && used <= job->plan->pages_max);
	for (uint32_t table = 0; table < job->plan->tables && !rc; table++)
		rc = table_pages_take(job, pages, table, used);
	return rc;
}

void job_add(
	struct skep_gpu_job *job, const struct skep_gpu_pages *pages, uint32_t index, void *bytes)
{
	const struct gather_plan *gather = &job->plan->gather;
	uint64_t token = pages->first_slot + (uint64_t)index * gather->layout.tokens;

	job->index[job->moved] = index;
	job->bytes[job->moved] = bytes;
	job_blocks(job)[job->moved++] = (struct gather_block){
		.part = (uint64_t)(uintptr_t)bytes,
		.first_page = (uint32_t)(token / gather->page_tokens),
		.first_slot = (uint32_t)(token % gather->page_tokens),
	};
}

/* Moved blocks, side by side. */
struct stretch {
	uint32_t first, count;
};

/* The launch of the layers of @table, from range @range on. */
static int table_launch(
	struct skep_gpu_job *job, struct stretch stretch, uint32_t table, uint32_t range)
{
	struct skep_gpu_plan *plan = job->plan;
	uint32_t first = stretch.first;
	uint64_t sums = job->at + plan->places.sums +
			(uint64_t)first * plan->gather.layout.ranges * sizeof(uint64_t);
	struct gather_work work = {
		.plan = plan->gather,
		.bases = plan->bases,
		.blocks = job->at + plan->places.blocks + first * sizeof(struct gather_block),
		.pages = job->at + plan->places.pages +
			 (uint64_t)table * plan->pages_max * sizeof(uint32_t),
		.scratch = job->scratch,
		.count = stretch.count,
		.range_first = range,
		.range_count = plan->table_ranges[table],
	};

	if (!job->load) {
		work.sums = sums;
		return gather_parts(plan->ring.kernels, &work);
	}
	work.expected = sums;
	work.failed = job->at + plan->places.failed + (uint64_t)first * plan->gather.layout.ranges;
	return scatter_parts(plan->ring.kernels, &work);
}

/* The launches of a stretch, one a table; blocks that have no page in a table are passed over. */
static int launch(struct skep_gpu_job *job, uint32_t first, uint32_t count)
{
	uint32_t range = 0;
	int rc = 0;

	for (uint32_t table = 0; table < job->plan->tables && !rc; table++) {
		struct stretch stretch = {first, count};

		while (stretch.count && job->index[stretch.first] < job->from[table]) {
			stretch.first++;
			stretch.count--;
		}
		if (stretch.count)
			rc = table_launch(job, stretch, table, range);
		range += job->plan->table_ranges[table];
	}
	return rc;
}

static int slot_launch(struct skep_gpu_job *job, uint32_t slot, uint32_t first, uint32_t count)
{
	struct ring *ring = &job->plan->ring;
	int rc = launch(job, first, count);

	return rc ? rc : gpu_event_record(ring->kernel_done[slot], ring->kernels);
}

/* One slot's worth of parts through the ring. */
static int slot_move(struct skep_gpu_job *job, uint32_t first, uint32_t count)
{
	struct ring *ring = &job->plan->ring;
	uint32_t slot = ring->turn % job->plan->gpu->ring_slots;
	bool used = ring->turn >= job->plan->gpu->ring_slots;
	int rc = 0;

	ring->turn++;
	if (job->load) {
		if (used)
			rc = gpu_stream_wait(ring->copies, ring->kernel_done[slot]);
		if (!rc)
			rc = slot_copy(job, slot, first, count);
		if (!rc)
			rc = gpu_stream_wait(ring->kernels, ring->copy_done[slot]);
		return rc ? rc : slot_launch(job, slot, first, count);
	}
	if (used)
		rc = gpu_stream_wait(ring->kernels, ring->copy_done[slot]);
	if (!rc)
		rc = slot_launch(job, slot, first, count);
	if (!rc)
		rc = gpu_stream_wait(ring->copies, ring->kernel_done[slot]);
	return rc ? rc : slot_copy(job, slot, first, count);
}

/* Gives the moved parts their places in the ring, in the turns that they will have. */
static void ring_places(struct skep_gpu_job *job)
{
	const struct skep_gpu *gpu = job->plan->gpu;

	for (uint32_t i = 0; i < job->moved; i++) {
		uint32_t slot = (job->plan->ring.turn + i / gpu->ring_parts) % gpu->ring_slots;

		job_blocks(job)[i].part = ring_part(job->plan, slot, i % gpu->ring_parts);
	}
}

static int send(struct skep_gpu_job *job)
{
	const struct places *places = &job->plan->places;
	/* A save sends no sums; a load the expected ones. */
	int rc = gpu_copy_in(job->plan->ring.kernels, job->at, job->memory,
		job->load ? places->failed : places->sums);

	/* Ranges that no launch looks at have not failed. */
	if (!rc && job_partial(job))
		rc = gpu_fill(job->plan->ring.kernels, job->at + places->failed, 0,
			places->bytes - places->failed);
	return rc;
}

static int fetch(struct skep_gpu_job *job)
{
	const struct places *places = &job->plan->places;
	size_t from = job->load ? places->failed : places->sums;
	size_t to = job->load ? places->bytes : places->failed;

	return gpu_copy_out(job->plan->ring.kernels, job->memory + from, job->at + from, to - from);
}

/* Everything on our own two streams, the end of which is the event done. */
static int move_all(struct skep_gpu_job *job)
{
	const struct skep_gpu *gpu = job->plan->gpu;
	struct ring *ring = &job->plan->ring;
	int rc;

	if (gpu->ring_slots) {
		ring_places(job);
		ways_find(job);
	}
	rc = send(job);
	if (!gpu->ring_slots && !rc)
		rc = launch(job, 0, job->moved);
	for (uint32_t i = 0; gpu->ring_slots && i < job->moved && !rc; i += gpu->ring_parts)
		rc = slot_move(job, i, MIN_OF(gpu->ring_parts, job->moved - i));
	if (!rc)
		rc = fetch(job);
	if (!rc)
		rc = gpu_event_record(job->done, ring->kernels);
	/* The last copies of a save are on the other stream: done is when both are. */
	if (!rc && !job->load && gpu->ring_slots) {
		rc = gpu_stream_wait(ring->copies, job->done);
		if (!rc)
			rc = gpu_event_record(job->done, ring->copies);
	}
	return rc;
}

/* What was submitted before the failure still runs: it is waited for. */
static void settle(struct skep_gpu_plan *plan)
{
	(void)gpu_stream_sync(plan->ring.copies);
	(void)gpu_stream_sync(plan->ring.kernels);
}

int job_submit(struct skep_gpu_job *job, uint64_t stream)
{
	struct skep_gpu_plan *plan = job->plan;
	struct gpu_stream *theirs = NULL;
	int rc = 0;

	if (!job->moved)
		return 0;
	if (plan->gpu->kind == SKEP_GPU_CUDA) {
		rc = gpu_stream_adopt(plan->gpu->device, (uintptr_t)stream, &theirs);
		if (!rc)
			rc = gpu_event_record(job->began, theirs);
		if (!rc)
			rc = gpu_stream_wait(plan->ring.kernels, job->began);
	}
	if (!rc)
		rc = move_all(job);
	if (!rc && theirs && job->load)
		rc = gpu_stream_wait(theirs, job->done);
	if (theirs)
		gpu_stream_destroy(theirs);
	if (rc < 0)
		settle(plan);
	return rc;
}

/* ------------------------------------------------------------------------------------- the end */

int skep_gpu_done(struct skep_gpu_job *job)
{
	if (!gpu_ours(job->plan->gpu))
		return -EOWNERDEAD;
	return job->moved ? gpu_event_done(job->done) : 1;
}

/* A wait that failed says nothing of the streams: neither parts nor memory go while they run. */
static int job_wait(struct skep_gpu_job *job)
{
	int rc = job->moved ? gpu_event_sync(job->done) : 0;

	SKEP_CHECK(job->busy);
	if (rc < 0)
		settle(job->plan);
	return rc;
}

int skep_gpu_end(struct skep_gpu_job *job, int32_t *statuses, uint64_t deadline_ns)
{
	int rc;

	if (!gpu_ours(job->plan->gpu))
		return -EOWNERDEAD;
	rc = job_wait(job);
	rc = job->load ? load_end(job, rc) : save_end(job, rc, deadline_ns);
	if (statuses)
		memcpy(statuses, job->statuses, job->count * sizeof(*statuses));
	job->busy = false;
	return rc;
}

void skep_gpu_abort(struct skep_gpu_job *job)
{
	if (!job || !gpu_ours(job->plan->gpu))
		return;
	(void)job_wait(job);
	if (job->load)
		load_end(job, -ECANCELED);
	else
		save_end(job, -ECANCELED, 0);
	job->busy = false;
}
