/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/status.h"
#include "engine/client/area_priv.h"
#include "engine/client/client_priv.h"

#define LOAD(field) atomic_load_explicit(&(field), memory_order_relaxed)

static bool chain_of(const struct skep_chain *chain, const struct skep *session)
{
	return chain && chain->space->session == session;
}

/* ----------------------------------------------------------------------------------- missing */

/* Does a pending block lack a part that nobody has reserved? A part that somebody has carries the
 * number of that writing. */
static bool pending_lacks(const struct attachment *a, const struct probe_name *name, uint32_t part)
{
	const struct index_entry *entry = &a->index.entries[name->slot];
	uint32_t first = part, last = part;
	bool lacks = false;

	if (part == UINT32_MAX) {
		first = 0;
		last = LOAD(entry->parts) - 1u;
	}
	for (uint32_t i = first; i <= last && i < INDEX_PARTS_MAX && !lacks; i++) {
		const struct index_part *at = probe_part(&a->index, name->slot, i);

		lacks = !at || !LOAD(at->write);
	}
	/* If the name went meanwhile, what was read is another's, and the block is missing. */
	atomic_thread_fence(memory_order_acquire);
	return lacks || LOAD(entry->name_generation) != name->name_generation;
}

static bool block_missing(const struct attachment *a, const struct probe_name *name, uint32_t part)
{
	if (name->state == ENTRY_PRESENT)
		return false;
	return name->state != ENTRY_PENDING || pending_lacks(a, name, part);
}

static int missing(struct skep_chain *chain, uint32_t first, uint32_t part, uint32_t *blocks,
	unsigned blocks_max)
{
	const struct attachment *a = chain->space->session->current;
	uint32_t total = chain->probe.block_count, known;
	unsigned count = 0;

	if (first > total || (part != UINT32_MAX && part >= chain->space->request.part_count))
		return -ERANGE;
	/* A space that was stepped a moment ago is being looked up: as if the daemon were away. */
	if (session_away(chain->space->session) || !space_ready(chain->space))
		return SKEP_STATUS_EDOWN;
	chain_freshen(chain);
	known = chain_names(chain, total);
	for (uint32_t i = first; i < total && count < blocks_max; i++)
		if (i >= known || block_missing(a, &chain->names[i], part))
			blocks[count++] = i;
	return (int)count;
}

int skep_missing(struct skep *session, struct skep_chain *chain, uint32_t first, uint32_t part,
	uint32_t *blocks, unsigned blocks_max)
{
	int status = session_enter(session);

	if (status)
		return status;
	if (chain_of(chain, session) && (blocks || !blocks_max))
		status = missing(chain, first, part, blocks, blocks_max);
	else
		status = -EINVAL;
	session_exit(session);
	return status;
}

/* -------------------------------------------------------------------------------------- hint */

static int hint(struct skep *session, struct skep_chain *chain, uint32_t block, uint32_t kind)
{
	struct submission submission = {.op = SUBMIT_HINT};

	if (block >= chain->probe.block_count)
		return -ERANGE;
	if (session_away(session) || !space_ready(chain->space))
		return SKEP_STATUS_EDOWN;
	chain_freshen(chain);
	if (chain->names_count <= block && chain_names(chain, block + 1) <= block)
		return -ENOENT;
	submission.slot = chain->names[block].slot;
	submission.generation = chain->names[block].name_generation;
	submission.u.other.kind = kind;
	return local_client_push(&session->current->local, &submission, LOCAL_PUSH_QUIET) < 0
		       ? -EAGAIN
		       : 0;
}

int skep_hint(struct skep *session, struct skep_chain *chain, uint32_t block, uint32_t kind)
{
	int status = session_enter(session);

	if (status)
		return status;
	if (chain_of(chain, session) && (kind == SKEP_HINT_OPEN || kind == SKEP_HINT_DONE))
		status = hint(session, chain, block, kind);
	else
		status = -EINVAL;
	session_exit(session);
	return status;
}

/* ----------------------------------------------------------------------------------- explain */

/* What the keeper remembers of the first block that was not had. */
static int explain_ask(struct skep *session, struct skep_chain *chain, uint64_t deadline_ns,
	struct skep_explanation *out)
{
	const struct binding *bound = &chain->space->bound;
	struct area_blocks blocks = {.chain = chain, .first = out->matched, .count = 1};
	struct submission submission = {.op = SUBMIT_EXPLAIN,
		.slot = SLOT_ROOT(bound->number),
		.generation = bound->generation,
		.count = 1,
		.deadline_ns = deadline_ns};
	struct call *call = call_open(session, SUBMIT_EXPLAIN, area_blocks_fit(&blocks));
	struct explain_answer answer;
	struct completion completion;
	int status;

	if (!call)
		return session_away(session) ? SKEP_STATUS_EDOWN : -ETIMEDOUT;
	if (out->matched) {
		submission.slot = chain->names[out->matched - 1].slot;
		submission.generation = chain->names[out->matched - 1].name_generation;
	}
	submission.u.reserve.space = (uint16_t)bound->number;
	submission.u.reserve.space_generation = bound->generation;
	area_blocks_write(&blocks, call_area(session->current, call));
	status = call_run(session, &submission, call, &completion);
	if (status < 0)
		return status;
	memcpy(&answer, call_area(session->current, call), sizeof(answer));
	call_close(call);
	if (completion.status < 0)
		return completion.status;
	out->reason = answer.reason;
	out->seconds_ago = (double)answer.ago_ns / 1e9;
	memcpy(out->space, answer.space, sizeof(out->space));
	memcpy(out->field, answer.field, sizeof(out->field));
	out->space[sizeof(out->space) - 1] = out->field[sizeof(out->field) - 1] = 0;
	return 0;
}

static int explain(struct skep *session, struct skep_chain *chain, uint64_t deadline_ns,
	struct skep_explanation *out)
{
	uint32_t total = chain->probe.block_count, missing_state;
	int status = space_ready_wait(chain->space, deadline_ns);

	if (status < 0)
		return status;
	chain_freshen(chain);
	out->matched = probe_run(&session->current->index, &chain->probe,
		(struct probe_want){.count = total}, chain->names, &missing_state);
	chain->names_count = out->matched;
	out->reason = SKEP_REASON_NONE;
	if (out->matched == total)
		return 0;
	out->reason = SKEP_REASON_PENDING;
	return missing_state == ENTRY_PENDING ? 0 : explain_ask(session, chain, deadline_ns, out);
}

int skep_explain(struct skep *session, struct skep_chain *chain, uint64_t deadline_ns,
	struct skep_explanation *out)
{
	struct skep_explanation mine = {.struct_bytes = sizeof(mine)};
	int status = session_enter(session);

	if (status)
		return status;
	if (chain_of(chain, session) && out && out->struct_bytes >= sizeof(mine)) {
		status = explain(session, chain, deadline_ns, &mine);
		mine.struct_bytes = out->struct_bytes;
		if (!status)
			*out = mine;
	} else {
		status = -EINVAL;
	}
	session_exit(session);
	return status;
}

/* ------------------------------------------------------------------------------------- stats */

static int stats(struct skep *session, uint64_t deadline_ns, struct skep_stats *out)
{
	struct wire_head request = local_head(WIRE_STATS, sizeof(request));
	struct wire_stats answer = {0};
	int status;

	/* What is counted as this session's is what it still wants. */
	if (session_away(session) || calls_tidy(session) < 0)
		return SKEP_STATUS_EDOWN;
	status = attachment_ask(
		session->current, &(struct local_ask){.request = &request,
					  .answer = &answer.head,
					  .answer_bytes = sizeof(answer),
					  .wait = &local_wait_plain,
					  .deadline_ns = call_limit(clock_ns(), deadline_ns)});
	if (status < 0)
		return status == -EPROTO ? SKEP_STATUS_EDOWN : status;
	*out = (struct skep_stats){.struct_bytes = out->struct_bytes,
		.dram_bytes = answer.dram_bytes,
		.dram_bytes_used = answer.dram_bytes_used,
		.blocks = answer.blocks,
		.blocks_pending = answer.blocks_pending,
		.tokens_asked = answer.tokens_asked,
		.tokens_had = answer.tokens_had,
		.puts = answer.puts,
		.puts_refused = answer.puts_refused,
		.evicted = answer.evicted,
		.pins = answer.pins,
		.sessions = answer.sessions,
		.checksum_failures = answer.checksum_failures};
	return 0;
}

int skep_stats(struct skep *session, uint64_t deadline_ns, struct skep_stats *out)
{
	int status = session_enter(session);

	if (status)
		return status;
	status = out && out->struct_bytes >= sizeof(*out) ? stats(session, deadline_ns, out)
							  : -EINVAL;
	session_exit(session);
	return status;
}
