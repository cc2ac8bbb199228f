/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "base/check.h"
#include "base/status.h"
#include "engine/client/client_priv.h"

enum { LOAD_BLOCKS_MAX = 4096 }; /* of one submission, as the daemon takes them */

/* Leading blocks of the request that some tier holds, as the index says now. */
static uint32_t load_names(const struct skep_load *load, uint32_t count)
{
	struct skep_chain *chain = load->chain;
	uint32_t stand = chain_names(chain, load->first + count), blocks = 0;

	while (load->first + blocks < stand &&
		chain->names[load->first + blocks].state == ENTRY_PRESENT)
		blocks++;
	return blocks;
}

/* The run is pinned: what its names say of frames is read again, and holds. */
static void load_refs(const struct attachment *a, struct skep_load *load)
{
	struct probe_name *names = load->chain->names + load->first;

	for (uint32_t i = 0; i < load->loaded; i++) {
		names[i].frame_generation = atomic_load_explicit(
			&a->index.entries[names[i].slot].frame_generation, memory_order_acquire);
		if (i < load->refs_max)
			load->refs[i] = (struct skep_ref){.incarnation = a->incarnation,
				.frame_generation = names[i].frame_generation,
				.slot = names[i].slot};
	}
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

/* Asks the daemon for @count blocks. Return: blocks that are pinned in DRAM now, or negative. */
static int load_ask(struct skep *session, struct skep_load *load, uint32_t count)
{
	struct attachment *a = session->current;
	uint32_t cell = pin_cell_take(a);
	struct call *call =
		cell ? call_open(session, SUBMIT_LOAD, count * (uint32_t)sizeof(struct load_part))
		     : NULL;
	struct submission submission = {.op = SUBMIT_LOAD,
		.count = count,
		.deadline_ns = load->deadline_ns,
		.u.other.kind = cell};
	struct load_part *parts;
	struct completion answer;
	int status;

	if (!call) {
		if (cell)
			pin_cell_give(a, cell);
		return cell ? -EAGAIN : -EMFILE;
	}
	call->cell = cell;
	parts = call_area(a, call);
	for (uint32_t i = 0; i < count; i++)
		parts[i] = (struct load_part){.slot = load->chain->names[load->first + i].slot,
			.name_generation = load->chain->names[load->first + i].name_generation};
	status = call_run(session, &submission, call, &answer);
	if (call->state == CALL_ORPHAN)
		return status; /* the cell too belongs to the late answer */
	if (status == 0) {
		call_close(call);
		status = answer.status;
	}
	if (status <= 0 || (uint32_t)status > count) {
		pin_clear(&a->pins[cell]);
		pin_cell_give(a, cell);
		return status > 0 ? call_nonsense(session) : status;
	}
	attachment_hold(a);
	load->pin = (struct skep_pin){.cell = cell, .epoch = a->epoch};
	return status;
}

static int load_run(struct skep *session, struct skep_load *load)
{
	struct skep_chain *chain = load->chain;
	uint32_t count;
	int status;

	if (!chain || chain->space->session != session || load->first > chain->probe.block_count ||
		(load->refs_max && !load->refs))
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
	if (!count)
		return 0;
	status = load_ask(session, load, count);
	if (status < 0) {
		load_reason(load, status);
		/* The block left, or cannot be read: a miss is a result. */
		return status == -ENOENT || status == -EIO || status == SKEP_STATUS_ECHECKSUM
			       ? 0
			       : status;
	}
	load->loaded = (uint32_t)status;
	load_refs(session->current, load);
	return 0;
}

int skep_load(struct skep *session, struct skep_load *load)
{
	struct skep_load mine;
	int status = session_enter(session);

	if (status)
		return status;
	status = load ? struct_take(&mine, load, sizeof(mine)) : -EINVAL;
	if (!status) {
		mine.loaded = 0;
		mine.reason = SKEP_REASON_NONE;
		mine.pin = (struct skep_pin){0};
		status = load_run(session, &mine);
		load->loaded = mine.loaded;
		load->reason = mine.reason;
		load->pin = mine.pin;
	}
	session_exit(session);
	return status;
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
