/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parts between the pool and the ring. What lies in a registered chunk is copied by the device
 * where it lies. What does not passes through page-locked memory, by one more copy that the stream
 * itself calls for: so no call of the engine waits for it, and all that holds of a job (its end,
 * its failures, what it is aborted by) holds of these parts too.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "engine/gpu/gpu_priv.h"

/*
 * The page-locked memory has room for one slot. It is enough: all copies of a plan are made on one
 * stream, so the next slot's come when this one's are done.
 */
static unsigned char *staged_part(const struct skep_gpu_plan *plan, uint32_t part)
{
	return plan->ring.staged + (size_t)part * align_up(plan->gather.part_bytes, 256);
}

uint64_t ring_part(const struct skep_gpu_plan *plan, uint32_t slot, uint32_t part)
{
	return plan->ring.at + ((uint64_t)slot * plan->gpu->ring_parts + part) *
				       align_up(plan->gather.part_bytes, 256);
}

void ways_find(struct skep_gpu_job *job)
{
	struct skep_gpu *gpu = job->plan->gpu;
	const struct registrar_pieces pieces = {
		.places = job->bytes, .bytes = job->plan->gather.part_bytes, .count = job->moved};

	if (gpu->registrar)
		registrar_find(gpu->registrar, &pieces, job->chunks);
	else
		memset(job->chunks, 0, job->moved * sizeof(*job->chunks));
	for (uint32_t i = 0; i < job->moved; i++) {
		struct moved *moved = job->chunks[i] ? &gpu->direct : &gpu->staged;

		moved->parts++;
		moved->bytes += pieces.bytes;
	}
}

/* How many moved parts from @first on go as one copy: side by side in the ring and, in one chunk of
 * the pool, there, or else in the page-locked memory. */
static uint32_t joined(const struct skep_gpu_job *job, uint32_t first, uint32_t end)
{
	size_t bytes = job->plan->gather.part_bytes;
	uint32_t count = 1, chunk = job->chunks[first];

	if (bytes != align_up(bytes, 256))
		return 1;
	while (first + count < end && job->chunks[first + count] == chunk &&
		(!chunk || job->bytes[first + count] == job->bytes[first] + count * bytes))
		count++;
	return count;
}

/* What is copied of a part. */
struct span {
	size_t at, bytes;
};

/* Of a moved part: all of it, but where tables lack pages what lies between the first range of a
 * table that has some for it and the last. */
static struct span span_of(const struct skep_gpu_job *job, uint32_t moved)
{
	const struct skep_gpu_plan *plan = job->plan;
	uint32_t range = 0, first = 0, past = 0;

	if (!job_partial(job))
		return (struct span){0, plan->gather.part_bytes};
	for (uint32_t table = 0; table < plan->tables; table++) {
		if (job->index[moved] >= job->from[table]) {
			first = past ? first : range;
			past = range + plan->table_ranges[table];
		}
		range += plan->table_ranges[table];
	}
	return (struct span){
		first * plan->gather.range_bytes, (past - first) * plan->gather.range_bytes};
}

/* The copies of this machine's processor: called by the stream. */
static void stage_work(void *argument)
{
	const struct stage *stage = argument;
	const struct skep_gpu_job *job = stage->job;

	for (uint32_t i = 0; i < stage->count; i++) {
		struct span span = span_of(job, stage->first + i);
		unsigned char *staged = staged_part(job->plan, i) + span.at;
		uint8_t *pool = job->bytes[stage->first + i] + span.at;

		if (job->chunks[stage->first + i])
			continue;
		if (job->load)
			memcpy(staged, pool, span.bytes);
		else
			memcpy(pool, staged, span.bytes);
	}
}

int slot_copy(struct skep_gpu_job *job, uint32_t slot, uint32_t first, uint32_t count)
{
	struct skep_gpu_plan *plan = job->plan;
	struct gpu_stream *copies = plan->ring.copies;
	struct stage *stage = &job->stages[first / plan->gpu->ring_parts];
	uint64_t ring[RING_PARTS_MAX], host[RING_PARTS_MAX];
	size_t bytes[RING_PARTS_MAX];
	struct gpu_batch batch = {
		.to = job->load ? ring : host, .from = job->load ? host : ring, .bytes = bytes};
	bool staged = false, partial = job_partial(job);
	uint32_t together;
	int rc = 0;

	SKEP_CHECK(count <= RING_PARTS_MAX);
	for (uint32_t i = 0; i < count; i += together) {
		struct span span = span_of(job, first + i);
		bool direct = job->chunks[first + i];

		together = partial ? 1 : joined(job, first + i, first + count);
		if (!span.bytes)
			continue;
		ring[batch.count] = ring_part(plan, slot, i) + span.at;
		host[batch.count] = (uint64_t)(uintptr_t)(direct ? job->bytes[first + i]
								 : staged_part(plan, i)) +
				    span.at;
		bytes[batch.count++] = together * span.bytes;
		staged |= !direct;
	}
	*stage = (struct stage){.job = job, .first = first, .count = count};
	if (staged && job->load)
		rc = gpu_call(copies, stage_work, stage);
	if (!rc)
		rc = gpu_copy_batch(copies, &batch);
	if (!rc && staged && !job->load)
		rc = gpu_call(copies, stage_work, stage);
	return rc ? rc : gpu_event_record(plan->ring.copy_done[slot], copies);
}

int skep_gpu_stats(struct skep_gpu *gpu, struct skep_gpu_stats *stats)
{
	struct skep_gpu_stats mine;
	struct registrar_counts counts = {0};

	if (!gpu || !stats || stats->struct_bytes < sizeof(stats->struct_bytes))
		return -EINVAL;
	if (!gpu_ours(gpu))
		return -EOWNERDEAD;
	if (gpu->registrar)
		registrar_counts(gpu->registrar, &counts);
	mine = (struct skep_gpu_stats){.struct_bytes = stats->struct_bytes,
		.parts_direct = gpu->direct.parts,
		.bytes_direct = gpu->direct.bytes,
		.parts_staged = gpu->staged.parts,
		.bytes_staged = gpu->staged.bytes,
		.bytes_registered = counts.registered_bytes,
		.chunks_registered = counts.registered,
		.chunks_waiting = counts.waiting,
		.chunks_refused = counts.refused,
		.refusal = counts.refusal};
	memcpy(stats, &mine, MIN_OF(mine.struct_bytes, sizeof(mine)));
	return 0;
}
