/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/status.h"
#include "engine/client/client_priv.h"

/*
 * Calls that need the daemon: a submission, sometimes with an area of the scratch, and its
 * completion. An area is free again when the daemon cannot write there any more: after its
 * completion, or, where the caller has given up waiting, when the completion comes late.
 */

enum { AREA_ALIGN = 64, PUSH_STEP_NS = 50000 };

uint32_t call_tag(struct skep *session)
{
	if (++session->last_tag == 0)
		++session->last_tag;
	return session->last_tag;
}

int call_nonsense(struct skep *session)
{
	local_client_shut(&session->current->local);
	return SKEP_STATUS_EDOWN;
}

struct call *call_find(struct attachment *a, uint32_t tag)
{
	for (unsigned i = 0; i < CALLS_MAX; i++)
		if (a->calls[i].state != CALL_FREE && a->calls[i].tag == tag)
			return &a->calls[i];
	return NULL;
}

/* ------------------------------------------------------------------------------------- areas */

/* Nobody wants the frames of this late answer: its area becomes the ABORT that gives them back.
 * In place: a commit_part is shorter than a reserve_block. */
static void reserve_unwanted(struct skep *session, struct call *call, uint32_t answered)
{
	uint8_t *area = call_area(session->current, call);
	uint32_t count = 0;

	for (uint32_t i = 0; i < MIN_OF(answered, call->count); i++) {
		struct reserve_block block;
		struct commit_part part = {.part = call->part};

		memcpy(&block, area + i * sizeof(block), sizeof(block));
		if (block.status)
			continue;
		part.slot = block.slot;
		part.write = block.write;
		memcpy(area + count++ * sizeof(part), &part, sizeof(part));
	}
	call->count = count;
	call->state = count ? CALL_GIVING : CALL_FREE;
}

/* A completion on queue 0 whose caller has gone. */
static void call_late(struct skep *session, const struct completion *completion)
{
	struct call *call = call_find(session->current, completion->tag);

	if (!call || call->state != CALL_ORPHAN || --call->remaining)
		return;
	if (call->op == SUBMIT_RESERVE && completion->status > 0)
		reserve_unwanted(session, call, (uint32_t)completion->status);
	else if (call->op == SUBMIT_LOAD)
		load_done(session->current, call, completion->status);
	else if (call->op == SUBMIT_ASKS)
		asks_done(call, completion->status);
	else
		call_close(call);
}

static void call_give_now(struct skep *session, struct call *call)
{
	struct submission abort = {.op = SUBMIT_ABORT,
		.scratch_at = call->at,
		.scratch_bytes = call->count * (uint32_t)sizeof(struct commit_part),
		.count = call->count};

	call->position = local_client_push(&session->current->local, &abort, LOCAL_PUSH_WAKE);
	if (call->position >= 0)
		call->state = CALL_GIVEN;
}

void call_give(struct skep *session, struct call *call)
{
	call->state = CALL_GIVING;
	call_give_now(session, call);
}

/* Takes a completion of queue 0. */
static int answer_take(struct attachment *a, struct completion *out)
{
	int got = local_client_take(&a->local, 0, out);

	if (got > 0 && a->answers_owed)
		a->answers_owed--;
	return got;
}

int calls_tidy(struct skep *session)
{
	struct attachment *a = session->current;
	struct completion late;
	int got;

	while ((got = answer_take(a, &late)) > 0)
		call_late(session, &late);
	if (got < 0)
		return call_nonsense(session);
	queues_reap(session);
	for (unsigned i = 0; i < CALLS_MAX; i++) {
		struct call *call = &a->calls[i];

		if (call->state == CALL_GIVING)
			call_give_now(session, call);
		if (call->state == CALL_GIVEN && local_client_handled(&a->local, call->position))
			call_close(call);
	}
	return 0;
}

/* The call whose area lies in [at, at + bytes), or NULL. */
static const struct call *area_taken(const struct attachment *a, uint32_t at, uint32_t bytes)
{
	for (unsigned i = 0; i < CALLS_MAX; i++) {
		const struct call *call = &a->calls[i];

		if (call->state != CALL_FREE && call->at < at + bytes &&
			at < call->at + call->bytes)
			return call;
	}
	return NULL;
}

struct call *call_open(struct skep *session, uint16_t op, uint32_t bytes)
{
	struct attachment *a = session->current;
	const struct call *taken;
	struct call *call = NULL;
	uint32_t at = 0;

	SKEP_CHECK(bytes && bytes <= PAGE_SCRATCH_BYTES);
	if (calls_tidy(session) < 0)
		return NULL;
	for (unsigned i = 0; i < CALLS_MAX && !call; i++)
		if (a->calls[i].state == CALL_FREE)
			call = &a->calls[i];
	bytes = (uint32_t)align_up(bytes, AREA_ALIGN);
	while (at + bytes <= PAGE_SCRATCH_BYTES && (taken = area_taken(a, at, bytes)))
		at = taken->at + taken->bytes;
	if (!call || at + bytes > PAGE_SCRATCH_BYTES)
		return NULL;
	*call = (struct call){
		.state = CALL_OPEN, .op = op, .at = at, .bytes = bytes, .remaining = 1};
	return call;
}

/* --------------------------------------------------------------------------------------- run */

int64_t call_push(struct skep *session, const struct submission *submission, uint64_t limit_ns)
{
	struct attachment *a = session->current;

	for (;;) {
		int64_t position = local_client_push(&a->local, submission, LOCAL_PUSH_WAKE);
		struct timespec step = {.tv_nsec = PUSH_STEP_NS};

		if (position >= 0)
			return position;
		session_move(session);
		if (session_away(session))
			return SKEP_STATUS_EDOWN;
		if (clock_ns() >= limit_ns)
			return -ETIMEDOUT;
		nanosleep(&step, NULL);
	}
}

int call_answer(struct skep *session, uint32_t tag, uint64_t limit_ns, struct completion *out)
{
	struct attachment *a = session->current;

	for (;;) {
		int got;

		/* Who waits for room waits for it, as the daemon takes nothing of a session that
		 * reads the index of the daemon before. */
		session_move(session);
		got = answer_take(a, out);
		if (got < 0)
			return call_nonsense(session);
		if (got && out->tag == tag)
			return 0;
		if (got)
			call_late(session, out);
		else if (session_away(session))
			return SKEP_STATUS_EDOWN;
		else if (local_client_sleep(&a->local, &a->down, limit_ns) < 0)
			return -ETIMEDOUT;
	}
}

void call_bind(struct skep *session, struct submission *submission, struct call *call)
{
	call->tag = submission->tag = call_tag(session);
	call->count = submission->count;
	submission->scratch_at = call->at;
	submission->scratch_bytes = call->bytes;
}

int call_submit(struct skep *session, struct submission *submission, struct call *call,
	const struct skep_queue *queue)
{
	int64_t pushed;

	call_bind(session, submission, call);
	submission->queue = (uint16_t)(queue->index + 1);
	pushed = call_push(session, submission, call_limit(clock_ns(), 0));
	if (pushed >= 0)
		return 0;
	return pushed == -ETIMEDOUT ? -EAGAIN : (int)pushed;
}

int call_start(
	struct skep *session, struct submission *submission, struct call *call, uint64_t limit_ns)
{
	struct attachment *a = session->current;
	uint32_t answers = call ? call->remaining : 1;
	int64_t pushed;

	/* Each may still be answered, and the ring must hold all answers. */
	if (a->answers_owed + answers > PAGE_COMPLETIONS && calls_tidy(session) < 0)
		return SKEP_STATUS_EDOWN;
	submission->queue = 0;
	if (call)
		call_bind(session, submission, call);
	else
		submission->tag = call_tag(session);
	pushed = a->answers_owed + answers > PAGE_COMPLETIONS
			 ? -ETIMEDOUT
			 : call_push(session, submission, limit_ns);
	if (pushed >= 0) {
		a->answers_owed += answers;
		return 0;
	}
	/* The daemon never heard of it. */
	if (call)
		call_close(call);
	return (int)pushed;
}

int call_run(struct skep *session, struct submission *submission, struct call *call,
	struct completion *out)
{
	uint64_t limit_ns = call_limit(clock_ns(), submission->deadline_ns);
	int status = call_start(session, submission, call, limit_ns);

	if (status < 0)
		return status;
	status = call_answer(session, submission->tag, limit_ns, out);
	if (call && status == -ETIMEDOUT)
		call->state = CALL_ORPHAN;
	return status;
}

static bool reserve_orphaned(const struct attachment *a)
{
	for (unsigned i = 0; i < CALLS_MAX; i++)
		if (a->calls[i].state == CALL_ORPHAN && a->calls[i].op == SUBMIT_RESERVE)
			return true;
	return false;
}

int call_reserve_ready(struct skep *session, uint64_t limit_ns)
{
	struct attachment *a = session->current;

	for (;;) {
		if (calls_tidy(session) < 0 || session_away(session))
			return SKEP_STATUS_EDOWN;
		if (!reserve_orphaned(a))
			return 0;
		session_move(session);
		if (local_client_sleep(&a->local, &a->down, limit_ns) < 0)
			return -ETIMEDOUT;
	}
}
