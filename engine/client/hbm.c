/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <skep/skep_hbm.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/status.h"
#include "engine/client/area_priv.h"
#include "engine/client/client_priv.h"

/*
 * Blocks in the GPU memory of this process. The daemon is told of them and asks for them; what
 * finds them is a table of this process by slot, where the name generation says that the slot is
 * still the block's. Names are looked up in the index as ever, so what proves a block is compared,
 * and what was removed by command is not found.
 *
 * What is withdrawn is owed to the daemon until there is room to tell it: the entry stays, and
 * finds nothing. A block that the daemon asks for and the table does not know (an announcement
 * whose answer came too late) is withdrawn the same way.
 */

enum { HBM_BLOCKS_MAX = 1 << 24, ASKS_ROOM = 64, PARTS_BATCH = 256 };

struct entry {
	uint64_t generation; /* 0: free */
	uint64_t user;
	uint32_t slot;
	bool owed; /* withdrawn; the daemon has yet to hear it */
};

struct skep_hbm {
	struct skep *session;
	uint32_t epoch; /* of the attachment that all of it holds for */
	uint32_t blocks_max;
	uint32_t blocks, owed; /* entries of the two kinds */
	uint32_t mask;
	struct skep_queue *queue; /* told of asks, or NULL */
	uint64_t queue_user;
	/* Listening: its area, and what of it the application has had. */
	struct call *asks;
	uint32_t asks_had;
	struct entry entries[];
};

/* ------------------------------------------------------------------------------------ table */

static uint32_t entry_home(const struct skep_hbm *hbm, uint32_t slot)
{
	return (uint32_t)mix64(slot) & hbm->mask;
}

/* The entry of a slot, whatever its generation, or the free one where it would stand. */
static struct entry *entry_at(struct skep_hbm *hbm, uint32_t slot)
{
	uint32_t at = entry_home(hbm, slot);

	while (hbm->entries[at].generation && hbm->entries[at].slot != slot)
		at = (at + 1) & hbm->mask;
	return &hbm->entries[at];
}

static struct entry *entry_find(struct skep_hbm *hbm, uint32_t slot, uint64_t generation)
{
	struct entry *entry = entry_at(hbm, slot);

	return generation && entry->generation == generation ? entry : NULL;
}

static void entry_count(struct skep_hbm *hbm, const struct entry *entry, uint32_t by)
{
	if (entry->owed)
		hbm->owed += by;
	else
		hbm->blocks += by;
}

/* Those behind it move up, so that no search ends too early. */
static void entry_drop(struct skep_hbm *hbm, struct entry *entry)
{
	uint32_t hole = (uint32_t)(entry - hbm->entries), at = hole;

	entry_count(hbm, entry, -1u);
	for (;;) {
		uint32_t home;

		at = (at + 1) & hbm->mask;
		if (!hbm->entries[at].generation)
			break;
		home = entry_home(hbm, hbm->entries[at].slot);
		if (((at - home) & hbm->mask) < ((at - hole) & hbm->mask))
			continue;
		hbm->entries[hole] = hbm->entries[at];
		hole = at;
	}
	hbm->entries[hole] = (struct entry){0};
}

static void entry_put(struct skep_hbm *hbm, const struct entry *from)
{
	struct entry *entry = entry_at(hbm, from->slot);

	/* The slot was another block's: that one was removed. */
	if (entry->generation)
		entry_count(hbm, entry, -1u);
	*entry = *from;
	entry_count(hbm, entry, 1);
}

/* ------------------------------------------------------------------------------ to the daemon */

/* Says something of @count blocks, answered to nobody. Return: 0, -EAGAIN, SKEP_EDOWN. */
static int parts_send(
	struct skep *session, const struct hbm_part *parts, uint32_t count, enum withdraw_kind kind)
{
	struct submission submission = {
		.op = SUBMIT_WITHDRAW, .count = count, .u.other.kind = kind};
	struct call *call = call_open(session, SUBMIT_WITHDRAW, count * (uint32_t)sizeof(*parts));
	int status;

	if (!call)
		return session_away(session) ? SKEP_STATUS_EDOWN : -EAGAIN;
	memcpy(call_area(session->current, call), parts, count * sizeof(*parts));
	status = call_start(session, &submission, call, 0);
	if (status < 0)
		return status == -ETIMEDOUT ? -EAGAIN : status;
	call->state = CALL_ORPHAN;
	return 0;
}

/* Tells the daemon what is owed to it, as far as there is room for that. */
static void owed_send(struct skep_hbm *hbm)
{
	struct hbm_part parts[PARTS_BATCH];

	while (hbm->owed) {
		uint32_t count = 0;

		for (uint32_t i = 0; i <= hbm->mask && count < ARRAY_COUNT(parts); i++)
			if (hbm->entries[i].owed)
				parts[count++] = (struct hbm_part){.slot = hbm->entries[i].slot,
					.name_generation = hbm->entries[i].generation};
		SKEP_CHECK(count > 0);
		if (parts_send(hbm->session, parts, count, WITHDRAW_GONE) < 0)
			return;
		for (uint32_t i = 0; i < count; i++)
			entry_drop(hbm, entry_at(hbm, parts[i].slot));
	}
}

/* The way into each call, after session_enter(): what was said to another daemon is forgotten. */
static void hbm_enter(struct skep_hbm *hbm)
{
	const struct attachment *a = hbm->session->current;

	if (session_away(hbm->session))
		return;
	if (hbm->epoch != a->epoch) {
		memset(hbm->entries, 0, ((size_t)hbm->mask + 1) * sizeof(hbm->entries[0]));
		hbm->blocks = hbm->owed = 0;
		hbm->asks = NULL; /* it went with its attachment */
		hbm->asks_had = 0;
		hbm->epoch = a->epoch;
	}
	owed_send(hbm);
}

/* ----------------------------------------------------------------------------- create, destroy */

static int hbm_create(
	struct skep *session, const struct skep_hbm_options *options, struct skep_hbm **out)
{
	uint32_t room = 2;
	struct skep_hbm *hbm;

	if (!options->blocks_max || options->blocks_max > HBM_BLOCKS_MAX ||
		(options->queue && options->queue->session != session))
		return -EINVAL;
	if (session->hbm)
		return -EEXIST;
	/* At most half of the table is taken, with what is owed. */
	while (room < options->blocks_max * 2)
		room *= 2;
	hbm = memory_zalloc(sizeof(*hbm) + room * sizeof(hbm->entries[0]));
	if (!hbm)
		return -ENOMEM;
	hbm->session = session;
	hbm->blocks_max = options->blocks_max;
	hbm->mask = room - 1;
	hbm->queue = options->queue;
	hbm->queue_user = options->user;
	hbm->epoch = session->current->epoch;
	*out = session->hbm = hbm;
	return 0;
}

int skep_hbm_create(
	struct skep *session, const struct skep_hbm_options *options, struct skep_hbm **out)
{
	struct skep_hbm_options mine;
	int status = session_enter(session);

	if (status)
		return status;
	status = options && out ? struct_take(&mine, options, sizeof(mine)) : -EINVAL;
	if (!status)
		status = hbm_create(session, &mine, out);
	session_exit(session);
	return status;
}

/* Listens no more: what still comes is nobody's. */
static void asks_end(struct skep_hbm *hbm)
{
	struct submission cancel = {.op = SUBMIT_CANCEL};
	struct call *call = hbm->asks;

	hbm->asks = NULL;
	if (!call)
		return;
	if (call->state == CALL_DONE) {
		call_close(call);
		return;
	}
	call->op = SUBMIT_CANCEL;
	cancel.tag = call->tag;
	cancel.queue = call->queue;
	/* Where the ring is full, it listens on for nobody: what is asked costs a deadline. */
	local_client_push(&hbm->session->current->local, &cancel, LOCAL_PUSH_WAKE);
}

void hbm_queue_gone(struct skep *session, const struct skep_queue *queue)
{
	struct skep_hbm *hbm = session->hbm;

	if (!hbm || hbm->queue != queue)
		return;
	if (!session_away(session) && hbm->epoch == session->current->epoch)
		asks_end(hbm);
	hbm->queue = NULL;
}

void skep_hbm_destroy(struct skep_hbm *hbm)
{
	struct skep *session;

	if (!hbm || session_enter(hbm->session))
		return;
	session = hbm->session;
	hbm_enter(hbm);
	if (!session_away(session) && hbm->epoch == session->current->epoch) {
		struct submission all = {.op = SUBMIT_WITHDRAW};

		asks_end(hbm);
		/* Where the daemon does not take it in time, it ends with the session. */
		(void)call_start(session, &all, NULL, call_limit(clock_ns(), 0));
	}
	session->hbm = NULL;
	memory_free(hbm);
	session_exit(session);
}

/* --------------------------------------------------------------------------------- announce */

struct announcing {
	struct skep_hbm *hbm;
	struct skep *session;
	struct skep_hbm_announce *request;
	struct skep_chain *chain;
	uint32_t done;
};

static bool state_bears(uint32_t state)
{
	return state == ENTRY_PRESENT || state == ENTRY_PENDING || state == ENTRY_HBM;
}

/* Takes the answer for @count blocks. Return: 0, SKEP_EDOWN. */
static int batch_take(struct announcing *job, const uint8_t *area, uint32_t count)
{
	const struct attachment *a = job->session->current;

	for (uint32_t i = 0; i < count; i++, job->done++) {
		struct skep_hbm_block *out = &job->request->blocks[job->done];
		struct reserve_block block;

		memcpy(&block, area + i * sizeof(block), sizeof(block));
		if (block.status || !block.name_generation ||
			block.slot >= a->index.head->slot_count)
			return call_nonsense(job->session);
		out->slot = block.slot;
		out->generation = block.name_generation;
		out->status = 0;
		entry_put(job->hbm, &(struct entry){.generation = block.name_generation,
					    .user = out->user,
					    .slot = block.slot});
	}
	return 0;
}

/* The next blocks, as many as one submission takes. Return: blocks announced, or negative. */
static int batch_announce(struct announcing *job, uint32_t *asked)
{
	struct skep_chain *chain = job->chain;
	const struct binding *bound = &chain->space->bound;
	struct area_blocks blocks = {.chain = chain,
		.first = job->request->first + job->done,
		.count = MIN_OF(
			job->request->count - job->done, job->hbm->blocks_max - job->hbm->blocks)};
	struct submission submission = {.op = SUBMIT_ANNOUNCE,
		.slot = SLOT_ROOT(bound->number),
		.generation = bound->generation};
	struct completion answer;
	struct call *call;
	uint32_t bytes;
	int status;

	/* One that is announced already is not counted twice, but for this. */
	if (!blocks.count)
		return -ENOSPC;
	if (blocks.first) {
		if (chain_names(chain, blocks.first) < blocks.first)
			return SKEP_STATUS_EPARENT;
		submission.slot = chain->names[blocks.first - 1].slot;
		submission.generation = chain->names[blocks.first - 1].name_generation;
	}
	bytes = area_blocks_fit(&blocks);
	call = call_open(job->session, SUBMIT_ANNOUNCE, bytes);
	if (!call)
		return session_away(job->session) ? SKEP_STATUS_EDOWN : -ETIMEDOUT;
	*asked = submission.count = blocks.count;
	submission.deadline_ns = job->request->deadline_ns;
	submission.u.reserve.space = (uint16_t)bound->number;
	submission.u.reserve.space_generation = bound->generation;
	area_blocks_write(&blocks, call_area(job->session->current, call));
	status = call_run(job->session, &submission, call, &answer);
	if (status < 0)
		return status;
	status = answer.status;
	if (status == 0 || (status > 0 && (uint32_t)status > blocks.count))
		status = call_nonsense(job->session);
	else if (status > 0 &&
		 batch_take(job, call_area(job->session->current, call), (uint32_t)status))
		status = SKEP_STATUS_EDOWN;
	call_close(call);
	return status;
}

static int announce_run(struct announcing *job)
{
	struct skep_hbm_announce *request = job->request;
	uint32_t asked = 0, lacks = 0;
	int status;

	while (job->done < request->count) {
		status = batch_announce(job, &asked);
		if (status < 0 && job->done)
			return (int)job->done;
		if (status == SKEP_STATUS_EPARENT) {
			uint32_t known = chain_names(job->chain, request->first);

			while (lacks < known && state_bears(job->chain->names[lacks].state))
				lacks++;
			request->first_missing = lacks;
		}
		if (status < 0)
			return status;
		if ((uint32_t)status < asked)
			break;
	}
	return (int)job->done;
}

static int announce_check(const struct skep_hbm *hbm, const struct skep_hbm_announce *request)
{
	const struct skep_chain *chain = request->chain;
	int status = struct_check(
		request, (struct struct_shape){request->struct_bytes, sizeof(*request)});

	if (status < 0)
		return status;
	if (!chain || chain->space->session != hbm->session || !request->count || !request->blocks)
		return -EINVAL;
	if (request->first > chain->probe.block_count ||
		request->count > chain->probe.block_count - request->first)
		return -ERANGE;
	return hbm->session->flags & SKEP_OPEN_READONLY ? -EROFS : 0;
}

int skep_hbm_announce(struct skep_hbm *hbm, struct skep_hbm_announce *announce)
{
	struct announcing job = {.hbm = hbm, .request = announce};
	int status = session_enter(hbm ? hbm->session : NULL);

	if (status)
		return status;
	job.session = hbm->session;
	status = announce ? announce_check(hbm, announce) : -EINVAL;
	if (!status) {
		job.chain = announce->chain;
		status = space_ready_wait(job.chain->space, announce->deadline_ns);
	}
	if (!status) {
		hbm_enter(hbm);
		chain_freshen(job.chain);
		status = announce_run(&job);
	}
	session_exit(job.session);
	return status;
}

/* ------------------------------------------------------------------------------------ match */

static void match_touch(struct skep *session, const struct skep_hbm_match *match)
{
	const struct skep_chain *chain = match->chain;
	const struct probe_name *deepest = &chain->names[match->first + match->matched - 1];
	struct submission touch = {.op = SUBMIT_TOUCH,
		.slot = deepest->slot,
		.generation = deepest->name_generation,
		.count = match->matched,
		.u.touch = {
			.asked = match->matched, .space = (uint16_t)chain->space->bound.number}};

	local_client_push(&session->current->local, &touch, LOCAL_PUSH_QUIET);
}

static void match_run(struct skep_hbm *hbm, struct skep_hbm_match *match)
{
	struct skep *session = hbm->session;
	struct skep_chain *chain = match->chain;
	uint32_t wanted = chain->probe.block_count - match->first, stand;

	match->matched = 0;
	hbm_enter(hbm);
	if (session_away(session) || !hbm->blocks ||
		(index_emptied(session) && !session_await_index(session)) ||
		!space_ready(chain->space))
		return;
	chain_freshen(chain);
	if (match->count)
		wanted = MIN_OF(wanted, match->count);
	stand = chain_names(chain, match->first + wanted);
	while (match->first + match->matched < stand) {
		const struct probe_name *name = &chain->names[match->first + match->matched];
		const struct entry *entry = entry_find(hbm, name->slot, name->name_generation);

		if (!entry || entry->owed)
			break;
		if (match->matched < match->blocks_max)
			match->blocks[match->matched] = (struct skep_hbm_block){.user = entry->user,
				.generation = entry->generation,
				.slot = entry->slot};
		match->matched++;
	}
	if (match->matched && match->flags != SKEP_MATCH_PEEK)
		match_touch(session, match);
}

int skep_hbm_match(struct skep_hbm *hbm, struct skep_hbm_match *match)
{
	int status = session_enter(hbm ? hbm->session : NULL);

	if (status)
		return status;
	status = match ? struct_check(
				 match, (struct struct_shape){match->struct_bytes, sizeof(*match)})
		       : -EINVAL;
	if (!status && (!match->chain || match->chain->space->session != hbm->session ||
			       match->first > match->chain->probe.block_count ||
			       (match->flags && match->flags != SKEP_MATCH_PEEK) ||
			       (match->blocks_max && !match->blocks)))
		status = -EINVAL;
	if (!status)
		match_run(hbm, match);
	session_exit(hbm->session);
	return status;
}

/* ------------------------------------------------------------------------- withdraw, decline */

/* Takes up to a batch of @count blocks out of the table, and tells the daemon. Return: blocks
 * looked at; @withdrawn counts those that were there. */
static uint32_t batch_withdraw(
	struct skep_hbm *hbm, const struct skep_hbm_block *blocks, uint32_t count, int *withdrawn)
{
	struct hbm_part parts[PARTS_BATCH];
	uint32_t looked = 0, found = 0;
	bool told;

	for (; looked < count && found < PARTS_BATCH; looked++) {
		struct entry *entry =
			entry_find(hbm, blocks[looked].slot, blocks[looked].generation);

		if (!entry || entry->owed)
			continue;
		entry->owed = true; /* and found no more, should it be named twice */
		hbm->blocks--;
		hbm->owed++;
		parts[found++] = (struct hbm_part){
			.slot = entry->slot, .name_generation = entry->generation};
	}
	*withdrawn += (int)found;
	told = found && !session_away(hbm->session) &&
	       parts_send(hbm->session, parts, found, WITHDRAW_GONE) == 0;
	for (uint32_t i = 0; told && i < found; i++)
		entry_drop(hbm, entry_at(hbm, parts[i].slot));
	return looked;
}

int skep_hbm_withdraw(struct skep_hbm *hbm, const struct skep_hbm_block *blocks, uint32_t count)
{
	int status = session_enter(hbm ? hbm->session : NULL), withdrawn = 0;

	if (status)
		return status;
	if (count && !blocks) {
		session_exit(hbm->session);
		return -EINVAL;
	}
	hbm_enter(hbm);
	for (uint32_t i = 0; i < count;)
		i += batch_withdraw(hbm, blocks + i, count - i, &withdrawn);
	session_exit(hbm->session);
	return withdrawn;
}

static int decline(struct skep_hbm *hbm, const struct skep_hbm_block *blocks, uint32_t count)
{
	struct hbm_part parts[HBM_PARTS_MAX];

	if (count > HBM_PARTS_MAX || (count && !blocks))
		return -EINVAL;
	hbm_enter(hbm);
	if (session_away(hbm->session))
		return SKEP_STATUS_EDOWN;
	for (uint32_t i = 0; i < count; i++)
		parts[i] = (struct hbm_part){
			.slot = blocks[i].slot, .name_generation = blocks[i].generation};
	return count ? parts_send(hbm->session, parts, count, WITHDRAW_DECLINED) : 0;
}

int skep_hbm_decline(struct skep_hbm *hbm, const struct skep_hbm_block *blocks, uint32_t count)
{
	int status = session_enter(hbm ? hbm->session : NULL);

	if (status)
		return status;
	status = decline(hbm, blocks, count);
	session_exit(hbm->session);
	return status;
}

/* ------------------------------------------------------------------------------------- asks */

/* Posts it with a queue. Return: 0, or negative: @call is free again. */
static int asks_submit(struct skep_hbm *hbm, struct submission *submission, struct call *call)
{
	struct event_want want = {.user = hbm->queue_user, .limit_ns = CLOCK_NEVER};
	int status = queue_room(hbm->queue) ? 0 : -EAGAIN;

	if (!status)
		status = call_submit(hbm->session, submission, call, hbm->queue);
	if (status < 0) {
		call_close(call);
		return status;
	}
	call->queue = submission->queue;
	want.tag = call->tag;
	queue_expect(hbm->queue, &want);
	return 0;
}

/* Listens, unless it does. Where there is no room for that now, the next call does. */
static void asks_begin(struct skep_hbm *hbm)
{
	struct submission submission = {.op = SUBMIT_ASKS, .count = ASKS_ROOM};
	struct call *call;
	int status;

	if (hbm->asks)
		return;
	call = call_open(hbm->session, SUBMIT_ASKS, ASKS_ROOM * (uint32_t)sizeof(struct hbm_part));
	if (!call)
		return;
	status = hbm->queue ? asks_submit(hbm, &submission, call)
			    : call_start(hbm->session, &submission, call, 0);
	if (status < 0)
		return;
	/* Its answer comes while nobody waits: asks_done(). */
	call->state = CALL_ORPHAN;
	hbm->asks = call;
	hbm->asks_had = 0;
}

void asks_done(struct call *call, int status)
{
	call->status = status;
	call->state = CALL_DONE;
}

/* What the daemon answered, as far as it fits. */
static uint32_t asks_take(struct skep_hbm *hbm, struct skep_hbm_block *blocks, uint32_t room)
{
	struct call *call = hbm->asks;
	const struct hbm_part *parts;
	uint32_t count, taken = 0;

	if (!call || call->state != CALL_DONE)
		return 0;
	parts = call_area(hbm->session->current, call);
	count = (uint32_t)MIN_OF(MAX_OF(call->status, 0), (int32_t)ASKS_ROOM);
	for (; hbm->asks_had < count && taken < room; hbm->asks_had++) {
		struct hbm_part part;
		const struct entry *entry;

		memcpy(&part, &parts[hbm->asks_had], sizeof(part));
		entry = entry_find(hbm, part.slot, part.name_generation);
		if (entry && !entry->owed)
			blocks[taken++] = (struct skep_hbm_block){.user = entry->user,
				.generation = part.name_generation,
				.deadline_ns = part.deadline_ns,
				.slot = part.slot};
		else if (!entry && part.name_generation &&
			 hbm->blocks + hbm->owed < hbm->mask / 4 * 3)
			entry_put(hbm, &(struct entry){.generation = part.name_generation,
					       .slot = part.slot,
					       .owed = true});
	}
	if (hbm->asks_had == count) {
		call_close(call);
		hbm->asks = NULL;
	}
	return taken;
}

static int asks(struct skep_hbm *hbm, struct skep_hbm_block *blocks, uint32_t count)
{
	uint32_t taken;

	hbm_enter(hbm);
	if (session_away(hbm->session) || calls_tidy(hbm->session) < 0)
		return SKEP_STATUS_EDOWN;
	if (hbm->queue)
		queues_drain(hbm->session);
	taken = asks_take(hbm, blocks, count);
	asks_begin(hbm);
	owed_send(hbm);
	return (int)taken;
}

int skep_hbm_asks(struct skep_hbm *hbm, struct skep_hbm_block *blocks, uint32_t count)
{
	int status = session_enter(hbm ? hbm->session : NULL);

	if (status)
		return status;
	status = blocks || !count ? asks(hbm, blocks, count) : -EINVAL;
	session_exit(hbm->session);
	return status;
}

int skep_hbm_blocks(struct skep_hbm *hbm)
{
	int status = session_enter(hbm ? hbm->session : NULL);

	if (status)
		return status;
	hbm_enter(hbm);
	status = session_away(hbm->session) ? 0 : (int)hbm->blocks;
	session_exit(hbm->session);
	return status;
}
