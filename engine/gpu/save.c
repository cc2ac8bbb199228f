/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "engine/gpu/gpu_priv.h"

/* Reserved frames that will not be written: the keeper may be behind for a moment. */
static void frames_drop(struct skep_gpu_job *job)
{
	uint64_t until_ns = skep_deadline_ms(100);

	/* What is not given back so is taken back by the age limit. */
	while (skep_abort(job->plan->gpu->session, job->frames, job->moved) == -EAGAIN &&
		skep_deadline_ms(0) < until_ns)
		cpu_relax();
}

/* Sorts the answered frames: those to write go together, of the others the status is kept. */
static int frames_sort(struct skep_gpu_job *job, const struct skep_gpu_save *save, int count)
{
	int rc = 0;

	job->count = (uint32_t)count;
	for (uint32_t i = 0; i < job->count; i++) {
		struct skep_frame frame = job->frames[i];

		job->statuses[i] = frame.status;
		if (frame.status)
			continue;
		if (frame.length != job->plan->gather.part_bytes ||
			frame.ranges != job->plan->gather.layout.ranges)
			rc = -EINVAL;
		job->frames[job->moved] = frame;
		job_add(job, &save->pages, i, frame.bytes);
	}
	return rc;
}

int skep_gpu_save_begin(
	struct skep_gpu_plan *plan, struct skep_gpu_save *save, struct skep_gpu_job **out)
{
	struct skep_gpu_save mine;
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve)};
	struct skep_gpu_job *job;
	int rc = plan && save && out ? options_take(&mine, save, sizeof(mine)) : -EINVAL, got;

	if (!rc && !mine.count)
		rc = -EINVAL;
	if (!rc && !gpu_ours(plan->gpu))
		rc = -EOWNERDEAD;
	if (rc < 0)
		return rc;
	job = job_take(plan);
	if (!job)
		return -EAGAIN;
	job->load = false;
	job->part = mine.part;
	reserve.chain = mine.chain;
	reserve.first = mine.first;
	reserve.count = MIN_OF(mine.count, plan->blocks_max);
	reserve.part = mine.part;
	reserve.deadline_ns = mine.deadline_ns;
	got = job_pages_take(job, &mine.pages, reserve.count);
	if (!got)
		got = skep_reserve(plan->gpu->session, &reserve, job->frames);
	if (got == SKEP_EPARENT)
		save->first_missing = reserve.first_missing;
	if (got > 0) {
		rc = frames_sort(job, &mine, got);
		if (!rc)
			rc = job_submit(job, mine.stream);
		if (rc < 0) {
			frames_drop(job);
			got = rc;
		}
	}
	return job_begun(job, got, out);
}

int save_end(struct skep_gpu_job *job, int device_status, uint64_t deadline_ns)
{
	struct skep_commit commit = {
		.struct_bytes = sizeof(commit),
		.sums = SKEP_SUMS_GIVEN,
		.given = job_sums(job),
		.deadline_ns = deadline_ns,
	};
	int rc = device_status, good = 0;

	if (!job->moved)
		return 0;
	if (rc < 0)
		frames_drop(job);
	else
		rc = skep_commit(job->plan->gpu->session, job->frames, job->moved, &commit);
	for (uint32_t i = 0; i < job->moved; i++) {
		int32_t status = device_status < 0 ? device_status : job->frames[i].status;

		/* A commit that failed as a whole says nothing of its frames. */
		if (!status && rc < 0)
			status = rc;
		job->statuses[job->index[i]] = status;
		good += status == 0;
	}
	return rc < 0 ? rc : good;
}
