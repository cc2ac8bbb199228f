/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/status.h"
#include "engine/client/area_priv.h"
#include "engine/client/client_priv.h"

/* A reservation as it is worked off, batch by batch. */
struct putting {
	struct skep *session;
	struct skep_chain *chain;
	struct skep_reserve *request;
	struct skep_frame *frames;
	uint32_t length; /* of the part in an opaque space, else 0 */
	uint32_t ranges;
	uint32_t done; /* frames answered */
};

static int reserve_check(struct putting *job)
{
	const struct skep_reserve *request = job->request;
	const struct wire_space_open *space = &job->chain->space->request;
	const struct wire_part *layout;

	if (job->session->flags & SKEP_OPEN_READONLY)
		return -EROFS;
	if (request->first > job->chain->probe.block_count ||
		request->count > job->chain->probe.block_count - request->first ||
		request->part >= space->part_count)
		return -ERANGE;
	if (!request->count || !job->frames)
		return -EINVAL;
	layout = &space->parts[request->part];
	job->ranges = layout->ranges;
	if (!request->length || request->length == layout->bytes)
		return 0;
	if (!(space->flags & SKEP_SPACE_OPAQUE) || request->length > layout->bytes ||
		request->length % layout->ranges)
		return -EINVAL;
	job->length = (uint32_t)request->length;
	return 0;
}

/* The first block from which the chain must be put: nobody has or writes it. */
static uint32_t chain_lacks(struct skep_chain *chain, uint32_t count)
{
	uint32_t known = chain_names(chain, count);

	for (uint32_t i = 0; i < known; i++)
		if (chain->names[i].state != ENTRY_PRESENT &&
			chain->names[i].state != ENTRY_PENDING)
			return i;
	return known;
}

/* One frame's answer. The daemon's word is read once and must lie inside the pool. */
static int frame_take(struct putting *job, struct attachment *a, const struct reserve_block *block,
	struct skep_frame *frame)
{
	uint32_t index = job->request->first + job->done;
	struct probe_name *name = &job->chain->names[index];

	*frame = (struct skep_frame){.status = block->status,
		.block = index,
		.part = job->request->part,
		.slot = block->slot,
		.epoch = a->epoch,
		.ranges = job->ranges,
		.length = block->bytes,
		.write = block->write};
	id_bytes(frame->id, job->chain->ids[index]);
	if (block->name_generation && block->slot < a->index.head->slot_count) {
		*name = (struct probe_name){.slot = block->slot,
			.name_generation = block->name_generation,
			.state = ENTRY_PENDING};
		if (job->chain->names_count == index)
			job->chain->names_count = index + 1;
	}
	if (block->status) {
		frame->length = 0;
		return block->status < 0 ? 0 : -EPROTO;
	}
	if (block->frame > a->pool_bytes || block->bytes > a->pool_bytes - block->frame)
		return -EPROTO;
	frame->bytes = a->pool + block->frame;
	attachment_hold(a);
	return 0;
}

static int batch_take(struct putting *job, const uint8_t *area, uint32_t answered)
{
	for (uint32_t i = 0; i < answered; i++) {
		struct reserve_block block;

		memcpy(&block, area + i * sizeof(block), sizeof(block));
		if (frame_take(job, job->session->current, &block, &job->frames[job->done]))
			return call_nonsense(job->session);
		job->done++;
	}
	return 0;
}

/* Who holds frames of this call already does not wait for more: they might be all there are. */
static uint64_t reserve_deadline(const struct putting *job)
{
	return job->done ? 0 : job->request->deadline_ns;
}

/* Asks for the next blocks below @parent. Return: how many were asked for and answered. */
static int reserve_batch(struct putting *job, const struct probe_name *parent, uint32_t *asked)
{
	struct skep_chain *chain = job->chain;
	struct area_blocks blocks = {.chain = chain,
		.first = job->request->first + job->done,
		.count = job->request->count - job->done};
	uint32_t bytes = area_blocks_fit(&blocks);
	struct call *call;
	struct submission submission = {.op = SUBMIT_RESERVE,
		.slot = parent->slot,
		.generation = parent->name_generation,
		.count = blocks.count,
		.deadline_ns = reserve_deadline(job)};
	struct completion answer;
	int status;

	*asked = blocks.count;
	status = call_reserve_ready(job->session, call_limit(clock_ns(), submission.deadline_ns));
	if (status < 0)
		return status;
	call = call_open(job->session, SUBMIT_RESERVE, bytes);
	if (!call)
		return session_away(job->session) ? SKEP_STATUS_EDOWN : -ETIMEDOUT;
	call->part = (uint16_t)job->request->part;
	submission.u.reserve.space = (uint16_t)chain->space->bound.number;
	submission.u.reserve.part = (uint16_t)job->request->part;
	submission.u.reserve.length = job->length;
	submission.u.reserve.space_generation = chain->space->bound.generation;
	area_blocks_write(&blocks, call_area(job->session->current, call));
	status = call_run(job->session, &submission, call, &answer);
	if (status < 0)
		return status;
	status = answer.status;
	if (status == 0 || (status > 0 && (uint32_t)status > blocks.count))
		status = call_nonsense(job->session);
	else if (status > 0)
		status = batch_take(job, call_area(job->session->current, call), (uint32_t)status)
				 ? SKEP_STATUS_EDOWN
				 : status;
	call_close(call);
	return status;
}

/* The name below which block @first is put. Return: 0; SKEP_EPARENT. */
static int parent_find(struct putting *job, uint32_t first, struct probe_name *parent)
{
	struct skep_chain *chain = job->chain;

	if (!first) {
		const struct binding *bound = &chain->space->bound;

		*parent = (struct probe_name){
			.slot = SLOT_ROOT(bound->number), .name_generation = bound->generation};
		return 0;
	}
	/* A name found earlier will do: the keeper compares its generation. */
	if (chain->names_count < first && chain_names(chain, first) < first)
		return SKEP_STATUS_EPARENT;
	*parent = chain->names[first - 1];
	return 0;
}

/* A parent that the keeper refused: looked up anew, it may be another. Return: true = try it. */
static bool parent_moved(struct putting *job, const struct probe_name *refused)
{
	uint32_t first = job->request->first + job->done;
	const struct probe_name *parent;

	if (!first || chain_names(job->chain, first) < first)
		return false;
	parent = &job->chain->names[first - 1];
	return parent->slot != refused->slot || parent->name_generation != refused->name_generation;
}

static int reserve_run(struct putting *job)
{
	uint32_t first = job->request->first, asked;
	struct probe_name parent = {0};
	bool again = true;
	int status;

	while (job->done < job->request->count) {
		status = parent_find(job, first + job->done, &parent);
		if (!status)
			status = reserve_batch(job, &parent, &asked);
		if (status == SKEP_STATUS_EPARENT && again && parent_moved(job, &parent)) {
			again = false;
			continue;
		}
		if (status < 0)
			return job->done ? (int)job->done : status;
		if ((uint32_t)status < asked)
			break;
	}
	return (int)job->done;
}

static int reserve(struct putting *job)
{
	uint64_t deadline_ns = job->request->deadline_ns;
	int status = reserve_check(job);

	if (!status)
		status = space_ready_wait(job->chain->space, deadline_ns);
	if (!status) {
		chain_freshen(job->chain);
		status = reserve_run(job);
	}
	/* The space was stepped meanwhile: once more under its new version. */
	if (status == -ESTALE) {
		status = space_ready_wait(job->chain->space, deadline_ns);
		chain_freshen(job->chain);
		if (!status)
			status = reserve_run(job);
	}
	if (status == SKEP_STATUS_EPARENT) {
		uint32_t lacks = chain_lacks(job->chain, job->request->first);

		/* All there by now: what the keeper missed was the block before. */
		if (lacks == job->request->first && lacks)
			lacks--;
		job->request->first_missing = lacks;
	}
	return status;
}

int skep_reserve(struct skep *session, struct skep_reserve *request, struct skep_frame *frames)
{
	struct putting job = {.session = session, .request = request, .frames = frames};
	int status = session_enter(session);

	if (status)
		return status;
	status = request ? struct_check(request,
				   (struct struct_shape){request->struct_bytes, sizeof(*request)})
			 : -EINVAL;
	if (!status && (!request->chain || request->chain->space->session != session))
		status = -EINVAL;
	if (!status) {
		job.chain = request->chain;
		status = reserve(&job);
	}
	session_exit(session);
	return status;
}
