/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/status.h"
#include "engine/client/client_priv.h"
#include "engine/client/pieces_priv.h"
#include "engine/client/put_priv.h"
#include "kernels/checksum.h"

/* Of one reservation: room on the stack. One part's sums always fit. */
enum { PUT_FRAMES_MAX = 64, PUT_SUMS_MAX = 2048 };

_Static_assert((int)PUT_SUMS_MAX >= (int)SKEP_RANGES_MAX, "the sums of one part");

static const struct iovec *block_from(const struct storing *job, uint32_t i)
{
	return job->put->from + (size_t)storing_place(job, i) * job->pieces;
}

/* The length of block @i's part; 0: its pieces make up none. */
static uint64_t block_bytes(const struct storing *job, uint32_t i)
{
	const struct iovec *from = block_from(job, i);
	uint64_t bytes = 0;

	for (uint32_t k = 0; k < job->pieces; k++) {
		if (from[k].iov_len > job->layout->bytes - bytes ||
			(from[k].iov_len && !from[k].iov_base))
			return 0;
		bytes += from[k].iov_len;
	}
	if (bytes == job->layout->bytes)
		return bytes;
	return job->put->chain->space->request.flags & SKEP_SPACE_OPAQUE &&
			       bytes % job->layout->ranges == 0
		       ? bytes
		       : 0;
}

/* Copies one range and sums what then stands in the frame. */
static uint64_t range_fill(
	struct pieces *pieces, uint8_t *to, uint64_t bytes, enum checksum_stores stores)
{
	struct iovec room = pieces_room(pieces);
	uint64_t at = 0;

	if (room.iov_len >= bytes) {
		pieces->used += bytes;
		return checksum_copy_as(stores, to, room.iov_base, bytes);
	}
	while (at < bytes) {
		size_t step = MIN_OF(room.iov_len, bytes - at);

		memcpy(to + at, room.iov_base, step);
		pieces->used += step;
		at += step;
		room = pieces_room(pieces);
	}
	return checksum_range(to, bytes);
}

static void frame_fill(
	const struct storing *job, const struct skep_frame *frame, uint32_t i, uint64_t *sums)
{
	enum checksum_stores stores = checksum_stores_for(frame->length);
	struct pieces pieces = {.next = block_from(job, i), .left = job->pieces};

	for (uint32_t r = 0; r < frame->ranges; r++) {
		struct span span = range_span(frame->length, frame->ranges, r);

		sums[r] =
			range_fill(&pieces, (uint8_t *)frame->bytes + span.at, span.bytes, stores);
	}
}

/* Fills and commits what was reserved of @count frames. Return: as skep_commit(). */
static int frames_store(struct storing *job, struct skep_frame *frames, unsigned count)
{
	uint64_t sums[PUT_SUMS_MAX];
	struct skep_commit commit = {.struct_bytes = sizeof(commit),
		.sums = SKEP_SUMS_GIVEN,
		.given = sums,
		.deadline_ns = job->put->deadline_ns};
	int status;

	for (unsigned i = 0; i < count; i++)
		if (!frames[i].status)
			frame_fill(job, &frames[i], job->done + i, sums + i * frames[i].ranges);
	status = skep_commit(job->session, frames, count, &commit);
	for (unsigned i = 0; i < count; i++) {
		bool left = !frames[i].status && frames[i].bytes;

		job->put->statuses[storing_place(job, job->done + i)] =
			left ? status : frames[i].status;
		job->stored += !frames[i].status && !left;
		job->passed |= frames[i].status == -EEXIST || frames[i].status == SKEP_EPENDING;
	}
	if (status < 0)
		(void)skep_abort(job->session, frames, count);
	return status;
}

/* The next blocks, all of one length: as many as frames can be had for. Return: 0 or negative. */
static int batch_store(struct storing *job)
{
	struct skep_frame frames[PUT_FRAMES_MAX];
	uint64_t bytes = block_bytes(job, job->done);
	uint32_t most = MIN_OF((uint32_t)PUT_FRAMES_MAX, PUT_SUMS_MAX / job->layout->ranges);
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve),
		.chain = job->put->chain,
		.first = job->put->first + job->done,
		.count = 1,
		.part = job->put->part,
		.length = bytes,
		.deadline_ns = job->put->deadline_ns};
	int count, status;

	if (!bytes) {
		job->put->statuses[storing_place(job, job->done++)] = -EMSGSIZE;
		return 0;
	}
	most = MIN_OF(most, job->put->count - job->done);
	while (reserve.count < most && block_bytes(job, job->done + reserve.count) == bytes)
		reserve.count++;
	count = job->reserve(job, &reserve, frames);
	if (count < 0) {
		job->put->first_missing = reserve.first_missing;
		return count;
	}
	status = frames_store(job, frames, (unsigned)count);
	job->done += (uint32_t)count;
	return MIN_OF(status, 0);
}

static int put_check(struct storing *job)
{
	const struct skep_put *put = job->put;
	const struct wire_space_open *space;
	int status;

	if (!job->session || !put)
		return -EINVAL;
	status = struct_check(put, (struct struct_shape){put->struct_bytes, sizeof(*put)});
	if (status < 0)
		return status;
	if (session_forked(job->session))
		return -EOWNERDEAD;
	if (!put->chain || put->chain->space->session != job->session || !put->count ||
		!put->from || !put->statuses)
		return -EINVAL;
	space = &put->chain->space->request;
	if (put->part >= space->part_count || put->first > put->chain->probe.block_count ||
		put->count > put->chain->probe.block_count - put->first)
		return -ERANGE;
	return job->session->flags & SKEP_OPEN_READONLY ? -EROFS : 0;
}

int storing_run(struct storing *job)
{
	const struct skep_put *put = job->put;
	int status = 0;

	job->pieces = put->pieces ? put->pieces : 1;
	job->layout = &put->chain->space->request.parts[put->part];
	while (!status && job->done < put->count)
		status = batch_store(job);
	if (status == -EBUSY && !job->done)
		return status;
	while (job->done < put->count)
		put->statuses[storing_place(job, job->done++)] = status;
	return job->stored || job->passed ? job->stored : put->statuses[0];
}

static int run_reserve(struct storing *job, struct skep_reserve *request, struct skep_frame *frames)
{
	return skep_reserve(job->session, request, frames);
}

int skep_put(struct skep *session, struct skep_put *put)
{
	struct storing job = {.session = session, .put = put, .reserve = run_reserve};
	int status = put_check(&job);

	return status < 0 ? status : storing_run(&job);
}
