/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "base/check.h"
#include "base/status.h"
#include "engine/client/client_priv.h"

/* Where the awaited block stands. Return: 0 and its name, -ENOENT (neither present nor pending). */
static int wait_find(struct skep_chain *chain, uint32_t block, const struct probe_name **name)
{
	*name = &chain->names[block];
	if (chain_names(chain, block + 1) <= block)
		return -ENOENT;
	return (*name)->state == ENTRY_PRESENT || (*name)->state == ENTRY_PENDING ? 0 : -ENOENT;
}

/* Asks to be told on a queue. */
static int wait_submit(
	struct skep *session, const struct skep_wait *wait, const struct probe_name *name)
{
	struct event_want want = {.tag = call_tag(session),
		.block = wait->block,
		.user = wait->user,
		.limit_ns = call_limit(clock_ns(), wait->deadline_ns)};
	struct submission submission = {.op = SUBMIT_WAIT,
		.queue = (uint16_t)(wait->queue->index + 1),
		.tag = want.tag,
		.slot = name->slot,
		.generation = name->name_generation,
		.deadline_ns = wait->deadline_ns};

	if (!queue_room(wait->queue))
		return -EAGAIN;
	if (name->state == ENTRY_PRESENT) {
		queue_give(wait->queue, &want, 0);
		return 0;
	}
	if (local_client_push(&session->current->local, &submission, LOCAL_PUSH_WAKE) < 0)
		return -EAGAIN;
	queue_expect(wait->queue, &want);
	return 0;
}

/* Asks and waits for the answer. */
static int wait_here(
	struct skep *session, const struct skep_wait *wait, const struct probe_name *name)
{
	struct submission submission = {.op = SUBMIT_WAIT,
		.slot = name->slot,
		.generation = name->name_generation,
		.deadline_ns = wait->deadline_ns};
	struct completion answer;
	int status;

	if (name->state == ENTRY_PRESENT)
		return 0;
	if (!wait->deadline_ns)
		return -ETIMEDOUT;
	status = call_run(session, &submission, NULL, &answer);
	return status < 0 ? status : MIN_OF(answer.status, 0);
}

static int wait_run(struct skep *session, const struct skep_wait *wait)
{
	struct skep_chain *chain = wait->chain;
	const struct probe_name *name;
	int status;

	if (!chain || chain->space->session != session ||
		(wait->queue && wait->queue->session != session))
		return -EINVAL;
	if (wait->block >= chain->probe.block_count)
		return -ERANGE;
	if (wait->first_range || wait->range_count)
		return -ENOTSUP;
	status = space_ready_wait(chain->space, wait->deadline_ns);
	if (status < 0)
		return status;
	chain_freshen(chain);
	status = wait_find(chain, wait->block, &name);
	if (status < 0)
		return status;
	return wait->queue ? wait_submit(session, wait, name) : wait_here(session, wait, name);
}

int skep_wait(struct skep *session, const struct skep_wait *wait)
{
	struct skep_wait mine;
	int status = session_enter(session);

	if (status)
		return status;
	status = wait ? struct_take(&mine, wait, sizeof(mine)) : -EINVAL;
	if (!status)
		status = wait_run(session, &mine);
	session_exit(session);
	return status;
}
