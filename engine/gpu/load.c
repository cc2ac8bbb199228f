/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "engine/gpu/gpu_priv.h"

/* Finds the parts of the pinned blocks and the sums they must have. */
static int parts_find(struct skep_gpu_job *job, const struct skep_gpu_load *load)
{
	struct skep_gpu_plan *plan = job->plan;
	uint32_t ranges = plan->gather.layout.ranges;

	for (uint32_t i = 0; i < job->count; i++) {
		uint64_t *sums = job_sums(job) + (size_t)job->moved * ranges;
		struct skep_view view;
		int rc = skep_sums(
			plan->gpu->session, plan->space, &job->refs[i], job->part, sums, ranges);

		/* A space of other parts than the plan's is the caller's mistake. */
		if (rc == -EMSGSIZE || (rc > 0 && rc != (int)ranges))
			return -EINVAL;
		if (rc > 0)
			rc = skep_view(plan->gpu->session, &job->refs[i], job->part, &view);
		if (!rc && view.length != plan->gather.part_bytes)
			return -EINVAL;
		job->statuses[i] = rc;
		if (rc == -EINVAL || rc == -ERANGE)
			return rc;
		if (!rc)
			/* Only read: the pool is mapped so that a write would fault. */
			job_add(job, &load->pages, i, (void *)(uintptr_t)view.bytes);
	}
	return 0;
}

int skep_gpu_load_begin(
	struct skep_gpu_plan *plan, const struct skep_gpu_load *load, struct skep_gpu_job **out)
{
	struct skep_gpu_load mine;
	struct skep_gpu_job *job;
	int rc = plan && load && out ? options_take(&mine, load, sizeof(mine)) : -EINVAL, got;

	if (!rc && (!mine.count || !mine.refs))
		rc = -EINVAL;
	if (!rc && !gpu_ours(plan->gpu))
		rc = -EOWNERDEAD;
	if (rc < 0)
		return rc;
	job = job_take(plan);
	if (!job)
		return -EAGAIN;
	job->load = true;
	job->part = mine.part;
	mine.count = MIN_OF(mine.count, plan->blocks_max);
	memcpy(job->refs, mine.refs, mine.count * sizeof(*job->refs));
	got = job_pages_take(job, &mine.pages, mine.count);
	if (!got)
		got = skep_pin_refs(plan->gpu->session, job->refs, mine.count, &job->pin);
	if (got > 0) {
		job->count = (uint32_t)got;
		rc = parts_find(job, &mine);
		if (!rc)
			rc = job_submit(job, mine.stream);
		if (rc < 0) {
			skep_release(plan->gpu->session, &job->pin);
			got = rc;
		}
	}
	return job_begun(job, got, out);
}

/*
 * A block did not have its sums on the way. The library looks again, at the pool itself: if it
 * finds the same it quarantines the block, so that nobody matches it any more.
 */
static void report(struct skep_gpu_job *job, uint32_t index)
{
	const struct iovec to = {job->plan->scratch_part, job->plan->gather.part_bytes};
	struct skep_copy copy = {
		.struct_bytes = sizeof(copy),
		.space = job->plan->space,
		.ref = job->refs[index],
		.part = job->part,
		.to = &to,
		.to_count = 1,
	};

	(void)skep_copy(job->plan->gpu->session, &copy);
}

/* Whether any range of the moved block @moved differs. */
static bool differs(struct skep_gpu_job *job, uint32_t moved)
{
	uint32_t ranges = job->plan->gather.layout.ranges;

	return memchr(job_failed(job) + (size_t)moved * ranges, 1, ranges) != NULL;
}

int load_end(struct skep_gpu_job *job, int device_status)
{
	int good = 0;

	for (uint32_t i = 0; i < job->moved; i++) {
		uint32_t index = job->index[i];

		job->statuses[index] = device_status;
		if (!device_status && differs(job, i)) {
			job->statuses[index] = SKEP_ECHECKSUM;
			report(job, index);
		}
		good += job->statuses[index] == 0;
	}
	skep_release(job->plan->gpu->session, &job->pin);
	return device_status < 0 ? device_status : good;
}
