/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "base/check.h"
#include "base/status.h"
#include "engine/client/client_priv.h"

enum { LOAD_BLOCKS_MAX = 4096 }; /* of one submission, as the daemon takes them */

/* Blocks that others have in GPU memory, or put for who asks, count where they are asked for. */
static bool state_wanted(const struct skep_load *load, uint32_t state)
{
	return state == ENTRY_PRESENT ||
	       (load->flags & SKEP_LOAD_ASK && (state == ENTRY_HBM || state == ENTRY_PENDING));
}

/* Leading blocks of the request that some tier holds, as the index says now. */
static uint32_t load_names(const struct skep_load *load, uint32_t count)
{
	struct skep_chain *chain = load->chain;
	uint32_t stand = chain_names(chain, load->first + count), blocks = 0;

	while (load->first + blocks < stand &&
		state_wanted(load, chain->names[load->first + blocks].state))
		blocks++;
	return blocks;
}

/* The run is pinned: what the index says of its frames holds. */
static void load_refs(const struct attachment *a, struct call *call, struct skep_load *load)
{
	const struct load_part *parts = call_area(a, call);

	for (uint32_t i = 0; i < MIN_OF(load->loaded, load->refs_max); i++)
		load->refs[i] = (struct skep_ref){.incarnation = a->incarnation,
			.frame_generation = pin_generation(&a->index, parts[i].slot),
			.slot = parts[i].slot};
}

static void load_reason(struct skep_load *load, int status)
{
	switch (status) {
	case -ETIMEDOUT:
		load->reason = SKEP_REASON_DEADLINE;
		break;
	case SKEP_STATUS_EDOWN:
		load->reason = SKEP_REASON_DAEMON_DOWN;
		break;
	default:
		load->reason = SKEP_REASON_ABSENT;
	}
}

/*
 * An area with the names of @count blocks, and a pin cell unless nothing is to be pinned. Return:
 * 0; -EMFILE, -EAGAIN, SKEP_EDOWN.
 */
static int load_open(
	struct skep *session, struct skep_load *load, uint32_t count, struct call **out)
{
	const struct probe_name *names = load->chain->names + load->first;
	bool pins = !(load->flags & SKEP_LOAD_PREFETCH);
	struct attachment *a = session->current;
	uint32_t cell = pins ? pin_cell_take(a) : 0;
	struct load_part *parts;
	struct call *call;

	if (pins && !cell)
		return -EMFILE;
	call = call_open(session, SUBMIT_LOAD, count * (uint32_t)sizeof(*parts));
	if (!call) {
		if (cell)
			pin_cell_give(a, cell);
		return session_away(session) ? SKEP_STATUS_EDOWN : -EAGAIN;
	}
	*out = call;
	call->cell = cell;
	call->count = count;
	parts = call_area(a, call);
	for (uint32_t i = 0; i < count; i++)
		parts[i] = (struct load_part){
			.slot = names[i].slot, .name_generation = names[i].name_generation};
	return 0;
}

static void load_close(struct attachment *a, struct call *call)
{
	if (call->cell) {
		pin_clear(&a->pins[call->cell]);
		pin_cell_give(a, call->cell);
	}
	call_close(call);
}

/* The daemon has answered @status. Fills in @load and closes the call. Return: as skep_load(). */
static int load_answer(struct skep *session, struct skep_load *load, struct call *call, int status)
{
	struct attachment *a = session->current;

	if (status > 0 && (uint32_t)status > call->count)
		status = call_nonsense(session);
	if (status <= 0) {
		load_close(a, call);
		load_reason(load, status);
		/* The block left, or cannot be read: a miss is a result. */
		return status == -ENOENT || status == -EIO || status == SKEP_STATUS_ECHECKSUM
			       ? 0
			       : status;
	}
	load->loaded = (uint32_t)status;
	if (load->loaded < call->count)
		load_reason(load, clock_ns() >= load->deadline_ns ? -ETIMEDOUT : -ENOENT);
	load_refs(a, call, load);
	attachment_hold(a);
	load->pin = (struct skep_pin){.cell = call->cell, .epoch = a->epoch};
	call_close(call);
	return 0;
}

static struct submission load_submission(const struct skep_load *load, const struct call *call)
{
	return (struct submission){.op = SUBMIT_LOAD,
		.count = call->count,
		.deadline_ns = load->deadline_ns,
		.u.other.kind = call->cell,
		.u.other.part = load->step_ranges,
		.u.other.flags = load->flags & SKEP_LOAD_ASK ? LOAD_ASK : 0};
}

/* Asks the daemon for @count blocks and waits. */
static int load_here(struct skep *session, struct skep_load *load, uint32_t count)
{
	struct submission submission;
	struct completion answer;
	struct call *call = NULL;
	int status = load_open(session, load, count, &call);

	if (status == 0) {
		submission = load_submission(load, call);
		status = call_run(session, &submission, call, &answer);
		if (status == 0)
			return load_answer(session, load, call, answer.status);
		/* After a timeout the cell too belongs to the late answer. */
		if (call->state != CALL_ORPHAN)
			load_close(session->current, call);
	}
	load_reason(load, status);
	return status;
}

static uint64_t load_handle(const struct attachment *a, uint32_t tag)
{
	return (uint64_t)a->epoch << 32 | tag;
}

/* Its answer is nobody's: whoever tidies up takes it. */
static int prefetch_start(struct skep *session, struct skep_load *load, uint32_t count)
{
	struct submission submission;
	struct call *call = NULL;
	int status = load_open(session, load, count, &call);

	if (status < 0)
		return status;
	submission = load_submission(load, call);
	status = call_start(session, &submission, call, call_limit(clock_ns(), 0));
	if (status < 0)
		return status == -ETIMEDOUT ? -EAGAIN : status;
	call->state = CALL_ORPHAN;
	load->handle = load_handle(session->current, call->tag);
	return 0;
}

static int load_submit(struct skep *session, struct skep_load *load, uint32_t count)
{
	struct event_want want = {.block = load->first,
		.user = load->user,
		.limit_ns = call_limit(clock_ns(), load->deadline_ns)};
	struct submission submission;
	struct call *call = NULL;
	int status;

	if (!queue_room(load->queue))
		return -EAGAIN;
	status = load_open(session, load, count, &call);
	if (status < 0)
		return status;
	submission = load_submission(load, call);
	status = call_submit(session, &submission, call, load->queue);
	if (status < 0) {
		load_close(session->current, call);
		return status;
	}
	call->queue = submission.queue;
	want.tag = call->tag;
	queue_expect(load->queue, &want);
	load->handle = load_handle(session->current, call->tag);
	return 0;
}

static int load_run(struct skep *session, struct skep_load *load)
{
	struct skep_chain *chain = load->chain;
	uint32_t count;
	int status;

	if (!chain || chain->space->session != session || load->first > chain->probe.block_count ||
		(load->refs_max && !load->refs) ||
		load->flags & ~(unsigned)(SKEP_LOAD_PREFETCH | SKEP_LOAD_ASK) ||
		(load->queue &&
			(load->flags & SKEP_LOAD_PREFETCH || load->queue->session != session)) ||
		(load->step_ranges && !load->queue))
		return -EINVAL;
	count = chain->probe.block_count - load->first;
	if (load->count)
		count = MIN_OF(count, load->count);
	status = space_ready_wait(chain->space, load->deadline_ns);
	if (status < 0)
		return status;
	chain_freshen(chain);
	count = MIN_OF(load_names(load, count), LOAD_BLOCKS_MAX);
	load->reason = count ? SKEP_REASON_NONE : SKEP_REASON_ABSENT;
	if (load->queue)
		return count ? load_submit(session, load, count) : -ENOENT;
	if (!count)
		return 0;
	return load->flags & SKEP_LOAD_PREFETCH ? prefetch_start(session, load, count)
						: load_here(session, load, count);
}

static void load_results(struct skep_load *to, const struct skep_load *from)
{
	to->loaded = from->loaded;
	to->reason = from->reason;
	to->pin = from->pin;
}

/* The caller's struct, with no results yet. */
static int load_take(struct skep_load *mine, const struct skep_load *load)
{
	int status = load ? struct_take(mine, load, sizeof(*mine)) : -EINVAL;

	if (!status) {
		mine->loaded = 0;
		mine->reason = SKEP_REASON_NONE;
		mine->pin = (struct skep_pin){0};
	}
	return status;
}

int skep_load(struct skep *session, struct skep_load *load)
{
	struct skep_load mine;
	int status = session_enter(session);

	if (status)
		return status;
	status = load_take(&mine, load);
	if (!status) {
		mine.handle = 0;
		status = load_run(session, &mine);
		load_results(load, &mine);
		/* Who has no room for a handle can ask for none. */
		if (mine.handle)
			load->handle = mine.handle;
	}
	session_exit(session);
	return status;
}

/* The call of a load with a queue; NULL: none of that name. */
static struct call *load_find(struct attachment *a, uint64_t handle)
{
	struct call *call = call_find(a, (uint32_t)handle);

	return call && call->op == SUBMIT_LOAD && call->queue && call->state != CALL_ORPHAN ? call
											    : NULL;
}

static int load_end(struct skep *session, struct skep_load *load)
{
	struct attachment *a = session->current;
	struct call *call;

	if ((uint32_t)(load->handle >> 32) != a->epoch || session_away(session)) {
		load->reason = SKEP_REASON_DAEMON_DOWN;
		return load->handle ? SKEP_STATUS_EDOWN : -ENOENT;
	}
	queues_drain(session);
	call = load_find(a, load->handle);
	if (!call)
		return -ENOENT;
	if (call->state == CALL_DONE)
		return load_answer(session, load, call, call->status);
	if (queue_awaits(session->queues[call->queue - 1], call->tag))
		return -EAGAIN;
	/* Its event said that the deadline has passed; what still comes is nobody's. */
	call->state = CALL_ORPHAN;
	load->reason = SKEP_REASON_DEADLINE;
	return -ETIMEDOUT;
}

int skep_load_end(struct skep *session, struct skep_load *load)
{
	struct skep_load mine;
	int status = session_enter(session);

	if (status)
		return status;
	status = load_take(&mine, load);
	if (!status && mine.refs_max && !mine.refs)
		status = -EINVAL;
	if (!status) {
		status = load_end(session, &mine);
		load_results(load, &mine);
	}
	session_exit(session);
	return status;
}

int load_find_block(
	struct skep *session, uint64_t handle, uint32_t block, const struct load_part **out)
{
	struct attachment *a = session->current;
	const struct load_part *parts;
	struct call *call;

	if ((uint32_t)(handle >> 32) != a->epoch || session_away(session))
		return handle ? SKEP_STATUS_EDOWN : -ENOENT;
	call = load_find(a, handle);
	if (!call)
		return -ENOENT;
	if (block >= call->count)
		return -ERANGE;
	parts = call_area(a, call);
	*out = &parts[block];
	return (int)(call->count - block);
}

int skep_load_reach(struct skep *session, uint64_t handle, uint32_t ranges)
{
	const struct load_part *parts;
	int status = session_enter(session), count, blocks = 0;

	if (status)
		return status;
	count = load_find_block(session, handle, 0, &parts);
	/* Acquire pairs with the daemon's release: frames and bytes are in place. */
	while (blocks < count && atomic_load_explicit(&parts[blocks].ranges,
					 memory_order_acquire) >= MAX_OF(ranges, 1u))
		blocks++;
	session_exit(session);
	return count < 0 ? count : blocks;
}

static int load_cancel(struct skep *session, uint64_t handle)
{
	struct attachment *a = session->current;
	struct call *call = call_find(a, (uint32_t)handle);
	struct submission cancel = {.op = SUBMIT_CANCEL, .tag = (uint32_t)handle};

	if (session_away(session))
		return SKEP_STATUS_EDOWN;
	if ((uint32_t)(handle >> 32) != a->epoch || !call || call->op != SUBMIT_LOAD ||
		call->state == CALL_DONE)
		return 0;
	cancel.queue = call->queue;
	return local_client_push(&a->local, &cancel, LOCAL_PUSH_WAKE) < 0 ? -EAGAIN : 0;
}

int skep_load_cancel(struct skep *session, uint64_t handle)
{
	int status = session_enter(session);

	if (status)
		return status;
	status = load_cancel(session, handle);
	session_exit(session);
	return status;
}

void load_done(struct attachment *a, struct call *call, int status)
{
	if (call->state == CALL_ORPHAN) {
		load_close(a, call);
		return;
	}
	call->status = status;
	call->state = CALL_DONE;
}

void loads_forget(struct skep *session, uint16_t queue)
{
	struct attachment *a = session->current;

	for (unsigned i = 0; i < CALLS_MAX; i++) {
		struct call *call = &a->calls[i];

		if (call->state == CALL_FREE || call->op != SUBMIT_LOAD || call->queue != queue)
			continue;
		if (call->state == CALL_DONE) {
			load_close(a, call);
			continue;
		}
		if (call->state == CALL_OPEN)
			load_cancel(session, load_handle(a, call->tag));
		call->state = CALL_ORPHAN;
	}
}

/* -------------------------------------------------------------------------------------- sync */

int sync_run(struct skep *session, uint64_t deadline_ns)
{
	struct submission submission = {.op = SUBMIT_SYNC, .deadline_ns = deadline_ns};
	struct completion answer;
	int status = session_away(session) ? SKEP_STATUS_EDOWN
					   : call_run(session, &submission, NULL, &answer);

	return status < 0 ? status : answer.status;
}

int skep_sync(struct skep_space *space, uint64_t deadline_ns)
{
	int status = session_enter(space ? space->session : NULL);

	if (status)
		return status;
	status = sync_run(space->session, deadline_ns);
	session_exit(space->session);
	return status;
}

int skep_durable(struct skep *session, uint64_t at_ns)
{
	const struct attachment *a;
	int status = session_enter(session);

	if (status)
		return status;
	a = session->current;
	if (session_away(session))
		status = SKEP_STATUS_EDOWN;
	else if (at_ns < a->born_ns)
		status = -ESTALE;
	else
		status = atomic_load_explicit(&a->local.page->durable_ns, memory_order_acquire) >=
			 at_ns;
	session_exit(session);
	return status;
}
