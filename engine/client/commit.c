/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/status.h"
#include "engine/client/client_priv.h"
#include "kernels/checksum.h"

/* Of one submission: each part has a completion of its own, and the ring must hold them all beside
 * those that come late. */
enum { MOVER_PARTS_MAX = PAGE_COMPLETIONS / 4 };

/* A commit as it is worked off, batch by batch. */
struct committing {
	struct skep *session;
	struct skep_frame *frames;
	unsigned count;
	const struct skep_commit *commit;
	const uint64_t *given; /* sums of the frames from here on */
	uint64_t deadline_ns;
	bool lost; /* some were of a daemon that has gone */
};

/* Frames [begin, end) of which @parts are reserved, and the bytes they take in the scratch. */
struct batch {
	unsigned begin, end;
	uint32_t parts, bytes;
};

static bool frame_reserved(const struct skep_frame *frame)
{
	return frame->status == 0 && frame->bytes && frame->ranges &&
	       frame->ranges <= SKEP_RANGES_MAX;
}

/* The application has let go of a frame, however it went. */
static void frame_end(struct skep *session, struct skep_frame *frame, int status)
{
	struct attachment *a = session_epoch(session, frame->epoch);

	if (a)
		attachment_unhold(a);
	frame->status = status;
	frame->bytes = NULL;
}

static uint32_t part_bytes(const struct skep_frame *frame, uint32_t sums)
{
	return (uint32_t)sizeof(struct commit_part) +
	       (sums == SKEP_SUMS_MOVER ? 0 : frame->ranges * (uint32_t)sizeof(uint64_t));
}

/* The next frames of this daemon that fit one submission. Those of an older one end here. */
static struct batch batch_next(struct committing *job, unsigned begin)
{
	struct batch batch = {.begin = begin, .end = begin};

	for (; batch.end < job->count; batch.end++) {
		struct skep_frame *frame = &job->frames[batch.end];
		uint32_t more;

		if (!frame_reserved(frame))
			continue;
		if (frame->epoch != job->session->current->epoch || session_away(job->session)) {
			frame_end(job->session, frame, SKEP_STATUS_EDOWN);
			job->lost = true;
			continue;
		}
		more = part_bytes(frame, job->commit->sums);
		if (batch.bytes + more > BATCH_BYTES_MAX ||
			(job->commit->sums == SKEP_SUMS_MOVER && batch.parts == MOVER_PARTS_MAX))
			break;
		batch.bytes += more;
		batch.parts++;
	}
	return batch;
}

/* The range sums of a frame, into @sums; and the root over them. */
static struct checksum_root frame_sums(
	struct committing *job, const struct skep_frame *frame, uint64_t *sums)
{
	struct checksum_root_input input = {.part = frame->part,
		.length = frame->length,
		.incarnation = job->session->current->incarnation,
		.generation = frame->write,
		.range_sums = sums,
		.range_count = frame->ranges};

	memcpy(input.block_id, frame->id, sizeof(input.block_id));
	if (job->commit->sums == SKEP_SUMS_GIVEN) {
		memcpy(sums, job->given, frame->ranges * sizeof(*sums));
		job->given += frame->ranges;
		return checksum_root_make(&input);
	}
	for (uint32_t i = 0; i < frame->ranges; i++) {
		struct span span = range_span(frame->length, frame->ranges, i);

		sums[i] = checksum_range((const uint8_t *)frame->bytes + span.at, span.bytes);
	}
	return checksum_root_make(&input);
}

/* Parts in a row, then their sums in a row. */
static void batch_write(struct committing *job, const struct batch *batch, uint8_t *area)
{
	uint64_t *sums = (uint64_t *)(void *)(area + batch->parts * sizeof(struct commit_part));
	uint32_t i = 0;

	for (unsigned at = batch->begin; at < batch->end; at++) {
		const struct skep_frame *frame = &job->frames[at];
		struct commit_part part = {
			.slot = frame->slot, .part = (uint16_t)frame->part, .write = frame->write};

		/* Sums of frames that are passed over are given as well. */
		if (!frame_reserved(frame)) {
			if (job->commit->sums == SKEP_SUMS_GIVEN)
				job->given += frame->ranges;
			continue;
		}
		if (job->commit->sums != SKEP_SUMS_MOVER) {
			struct checksum_root root = frame_sums(job, frame, sums);

			part.ranges = (uint16_t)frame->ranges;
			part.root_low = root.low;
			part.root_high = root.high;
			sums += frame->ranges;
		}
		memcpy(area + i++ * sizeof(part), &part, sizeof(part));
	}
	SKEP_CHECK(i == batch->parts);
}

/* Ends every frame of the batch as @answer says. Return: how many were committed. */
static int batch_end(
	struct committing *job, const struct batch *batch, const uint8_t *area, int status)
{
	int committed = 0;
	uint32_t i = 0;

	for (unsigned at = batch->begin; at < batch->end; at++) {
		struct commit_part part = {.status = status};

		if (!frame_reserved(&job->frames[at]))
			continue;
		if (status >= 0) {
			memcpy(&part, area + i * sizeof(part), sizeof(part));
			committed += part.status == 0;
		}
		i++;
		frame_end(job->session, &job->frames[at], part.status);
	}
	return committed;
}

static struct submission batch_submission(const struct committing *job, const struct batch *batch)
{
	struct submission submission = {
		.op = SUBMIT_COMMIT, .count = batch->parts, .deadline_ns = job->deadline_ns};

	submission.u.other.kind =
		job->commit->sums == SKEP_SUMS_MOVER ? COMMIT_SUMS_MOVER : COMMIT_SUMS_GIVEN;
	return submission;
}

/*
 * A mover answers each part by itself: its status is put into the area, as the keeper does where
 * the sums are given. Return: 0; SKEP_EDOWN, -ETIMEDOUT (parts without an answer say so).
 */
static int mover_wait(
	struct skep *session, struct submission *submission, struct call *call, uint8_t *area)
{
	uint64_t limit_ns = call_limit(clock_ns(), submission->deadline_ns);
	const int unanswered = -ETIMEDOUT;
	struct completion answer;
	int status;

	for (uint32_t i = 0; i < submission->count; i++)
		memcpy(area + i * sizeof(struct commit_part) + offsetof(struct commit_part, status),
			&unanswered, sizeof(unanswered));
	call->remaining = submission->count;
	status = call_start(session, submission, call, limit_ns);
	while (!status && call->remaining) {
		status = call_answer(session, submission->tag, limit_ns, &answer);
		if (status < 0)
			break;
		call->remaining--;
		if (answer.value < submission->count)
			memcpy(area + answer.value * sizeof(struct commit_part) +
					offsetof(struct commit_part, status),
				&answer.status, sizeof(answer.status));
	}
	if (status == -ETIMEDOUT && call->state == CALL_OPEN)
		call->state = CALL_ORPHAN;
	return status;
}

/* Commits a batch and waits for it. Return: frames committed, SKEP_EDOWN, -ETIMEDOUT. */
static int batch_wait(struct committing *job, const struct batch *batch)
{
	struct skep *session = job->session;
	struct submission submission = batch_submission(job, batch);
	struct call *call = call_open(session, SUBMIT_COMMIT, batch->bytes);
	struct completion answer = {0};
	int status, committed;
	uint8_t *area;

	if (!call) {
		status = session_away(session) ? SKEP_STATUS_EDOWN : -ETIMEDOUT;
		batch_end(job, batch, NULL, status);
		return status;
	}
	area = call_area(session->current, call);
	batch_write(job, batch, area);
	if (job->commit->sums == SKEP_SUMS_MOVER)
		status = mover_wait(session, &submission, call, area);
	else
		status = call_run(session, &submission, call, &answer);
	/* With a mover's parts each says for itself whether it was answered in time. */
	if (status == -ETIMEDOUT && job->commit->sums == SKEP_SUMS_MOVER)
		committed = batch_end(job, batch, area, 0);
	else
		committed =
			batch_end(job, batch, area, status < 0 ? status : MIN_OF(answer.status, 0));
	if (status < 0)
		return status;
	call_close(call);
	return committed;
}

/* Submits a batch whose events come on the queue. Return: frames submitted, or negative. */
static int batch_submit(struct committing *job, const struct batch *batch)
{
	struct skep *session = job->session;
	struct skep_queue *queue = job->commit->queue;
	struct submission submission = batch_submission(job, batch);
	struct call *call = call_open(session, SUBMIT_COMMIT, batch->bytes);
	uint64_t now = clock_ns();
	uint32_t value = 0;
	int status;

	if (!call)
		return session_away(session) ? SKEP_STATUS_EDOWN : -EAGAIN;
	batch_write(job, batch, call_area(session->current, call));
	call->remaining = batch->parts;
	call->statuses_in_place = job->commit->sums != SKEP_SUMS_MOVER;
	status = call_submit(session, &submission, call, queue);
	if (status < 0) {
		call_close(call);
		return status;
	}
	for (unsigned at = batch->begin; at < batch->end; at++) {
		struct event_want want = {.tag = call->tag,
			.value = value,
			.block = at,
			.user = job->commit->user,
			.limit_ns = call_limit(now, job->deadline_ns)};

		if (!frame_reserved(&job->frames[at]))
			continue;
		queue_expect(queue, &want);
		frame_end(session, &job->frames[at], SKEP_STATUS_EPENDING);
		value++;
	}
	return (int)value;
}

/* ------------------------------------------------------------------------------------- abort */

/* The next reserved frames that fit an area, as an ABORT. Return: where the next batch begins. */
static unsigned abort_write(
	struct skep *session, struct skep_frame *frames, struct batch batch, struct call *call)
{
	uint8_t *area = call_area(session->current, call);
	uint32_t room = BATCH_BYTES_MAX / sizeof(struct commit_part);

	for (; batch.begin < batch.end && call->count < room; batch.begin++) {
		struct skep_frame *frame = &frames[batch.begin];
		struct commit_part part = {
			.slot = frame->slot, .part = (uint16_t)frame->part, .write = frame->write};

		if (!frame_reserved(frame))
			continue;
		if (frame->epoch == session->current->epoch)
			memcpy(area + call->count++ * sizeof(part), &part, sizeof(part));
		frame_end(session, frame, -ECANCELED);
	}
	return batch.begin;
}

/* Gives back what of the frames [begin, end) is still reserved. Return: 0; SKEP_EDOWN; -EAGAIN
 * (no room in the scratch: the rest is still reserved). */
static int frames_give(struct skep *session, struct skep_frame *frames, struct batch batch)
{
	bool away = session_away(session);

	while (!away && batch.begin < batch.end) {
		uint32_t bytes = (batch.end - batch.begin) * (uint32_t)sizeof(struct commit_part);
		struct call *call =
			call_open(session, SUBMIT_ABORT, MIN_OF(bytes, (uint32_t)BATCH_BYTES_MAX));

		if (!call)
			return -EAGAIN;
		batch.begin = abort_write(session, frames, batch, call);
		if (call->count)
			call_give(session, call);
		else
			call_close(call);
	}
	for (; batch.begin < batch.end; batch.begin++)
		if (frame_reserved(&frames[batch.begin]))
			frame_end(session, &frames[batch.begin], SKEP_STATUS_EDOWN);
	return away ? SKEP_STATUS_EDOWN : 0;
}

int skep_abort(struct skep *session, struct skep_frame *frames, unsigned count)
{
	int status = session_enter(session);

	if (status)
		return status;
	status = frames || !count ? frames_give(session, frames, (struct batch){.end = count})
				  : -EINVAL;
	session_exit(session);
	return status;
}

/* ------------------------------------------------------------------------------------ commit */

static int commit_run(struct committing *job)
{
	int total = 0, status = 0;
	unsigned at = 0;

	while (at < job->count && status >= 0) {
		struct batch batch = batch_next(job, at);

		at = batch.end;
		if (!batch.parts)
			continue;
		status = job->commit->queue ? batch_submit(job, &batch) : batch_wait(job, &batch);
		total += MAX_OF(status, 0);
	}
	/* What was not tried is not left half way; with -EAGAIN the caller tries again. */
	if (status < 0 && status != -EAGAIN)
		(void)frames_give(
			job->session, job->frames, (struct batch){.begin = at, .end = job->count});
	if (!total && !status && job->lost)
		status = SKEP_STATUS_EDOWN;
	return status < 0 && !total ? status : total;
}

static int commit_check(const struct committing *job)
{
	const struct skep_commit *commit = job->commit;
	unsigned reserved = 0;

	if ((job->count && !job->frames) || commit->sums > SKEP_SUMS_MOVER ||
		(commit->sums == SKEP_SUMS_GIVEN && !commit->given))
		return -EINVAL;
	if (!commit->queue)
		return 0;
	if (commit->queue->session != job->session)
		return -EINVAL;
	for (unsigned i = 0; i < job->count; i++)
		reserved += frame_reserved(&job->frames[i]);
	return reserved > queue_room(commit->queue) ? -EAGAIN : 0;
}

int skep_commit(struct skep *session, struct skep_frame *frames, unsigned count,
	const struct skep_commit *commit)
{
	struct skep_commit mine = {.sums = SKEP_SUMS_HERE};
	struct committing job = {
		.session = session, .frames = frames, .count = count, .commit = &mine};
	int status = session_enter(session);

	if (status)
		return status;
	if (commit)
		status = struct_take(&mine, commit, sizeof(mine));
	else
		mine.deadline_ns = clock_ns() + CALL_NS;
	job.given = mine.given;
	job.deadline_ns = mine.deadline_ns;
	if (!status)
		status = commit_check(&job);
	if (!status)
		status = commit_run(&job);
	session_exit(session);
	return status;
}
