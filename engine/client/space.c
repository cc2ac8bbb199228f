/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/status.h"
#include "engine/client/client_priv.h"

enum { RANGE_BYTES_MIN = 4096 };

/* --------------------------------------------------------------------------------- checking */

static int refuse(struct skep *session, int status, const char *field)
{
	snprintf(session->field, sizeof(session->field), "%s", field);
	return status;
}

static int refuse_part(struct skep *session, uint32_t part, const char *field)
{
	snprintf(session->field, sizeof(session->field), "parts[%u].%s", part, field);
	return -EINVAL;
}

static int parts_take(struct skep *session, const struct skep_space_options *options,
	struct wire_space_open *request)
{
	if (options->part_count < 1 || options->part_count > SKEP_PARTS_MAX)
		return refuse(session, -EINVAL, "part_count");
	if (!options->parts)
		return refuse(session, -EINVAL, "parts");
	request->part_count = options->part_count;
	for (uint32_t i = 0; i < options->part_count; i++) {
		const struct skep_part_layout *part = &options->parts[i];
		uint32_t ranges = part->ranges ? part->ranges : 1;

		if (!part->bytes || part->bytes > UINT32_MAX)
			return refuse_part(session, i, "bytes");
		if (ranges > SKEP_RANGES_MAX || part->bytes % ranges ||
			(ranges > 1 && part->bytes / ranges < RANGE_BYTES_MIN))
			return refuse_part(session, i, "ranges");
		if (part->rank >= request->ranks)
			return refuse_part(session, i, "rank");
		if (part->group >= request->groups)
			return refuse_part(session, i, "group");
		request->parts[i] = (struct wire_part){.bytes = part->bytes,
			.ranges = ranges,
			.rank = part->rank,
			.group = part->group};
	}
	return 0;
}

static int texts_take(struct skep *session, const struct skep_space_options *options,
	struct wire_space_open *request)
{
	const struct {
		const char *field, *from;
		char *to;
	} texts[] = {{"model", options->model, request->model},
		{"weights", options->weights, request->weights},
		{"rope", options->rope, request->rope},
		{"layout", options->layout, request->layout},
		{"engine", options->engine, request->engine}};
	size_t name = options->name ? strlen(options->name) : 0;

	if (name < 1 || name >= sizeof(request->name))
		return refuse(session, -EINVAL, "name");
	memcpy(request->name, options->name, name);
	for (unsigned i = 0; i < ARRAY_COUNT(texts); i++) {
		size_t length = texts[i].from ? strlen(texts[i].from) : 0;

		if (length >= WIRE_TEXT_MAX)
			return refuse(session, -EINVAL, texts[i].field);
		if (length)
			memcpy(texts[i].to, texts[i].from, length);
	}
	return 0;
}

static int request_fill(struct skep *session, const struct skep_space_options *options,
	struct wire_space_open *request)
{
	int status;

	request->head = local_head(WIRE_SPACE_OPEN, sizeof(*request));
	request->block_tokens = options->block_tokens;
	request->ranks = options->ranks ? options->ranks : 1;
	request->groups = options->groups ? options->groups : 1;
	request->flags = options->flags;
	if (options->block_tokens < 1 || options->block_tokens > INDEX_BLOCK_TOKENS_MAX)
		return refuse(session, -EINVAL, "block_tokens");
	if (request->groups > 1)
		return refuse(session, -ENOTSUP, "groups");
	if (request->ranks > UINT16_MAX)
		return refuse(session, -EINVAL, "ranks");
	if (options->flags & ~(uint32_t)SKEP_SPACE_OPAQUE)
		return refuse(session, -EINVAL, "flags");
	status = texts_take(session, options, request);
	return status ? status : parts_take(session, options, request);
}

/* ---------------------------------------------------------------------------------- binding */

int space_ask(const struct space_ask *ask, struct binding *out)
{
	struct wire_space_answer answer;
	int status;

	memset(out, 0, sizeof(*out));
	memset(&answer, 0, sizeof(answer));
	status = attachment_ask(ask->a, &(struct local_ask){.request = &ask->request->head,
						.answer = &answer.head,
						.answer_bytes = sizeof(answer),
						.wait = ask->wait,
						.deadline_ns = ask->deadline_ns});
	/* Without a head there was no answer: the connection failed. */
	if (status < 0 && answer.head.magic != WIRE_MAGIC)
		return status == -EPROTO ? SKEP_STATUS_EDOWN : status;
	if (!status && answer.space >= INDEX_SPACES_MAX) {
		local_client_shut(&ask->a->local);
		return SKEP_STATUS_EDOWN;
	}
	out->epoch = ask->a->epoch;
	out->status = status;
	out->number = answer.space;
	out->id_bits = ask->a->id_bits;
	out->generation = answer.generation;
	out->version = answer.version;
	memcpy(out->secret, answer.secret, sizeof(out->secret));
	explicit_bzero(answer.secret, sizeof(answer.secret));
	answer.field[WIRE_NAME_MAX - 1] = 0;
	if (ask->field)
		memcpy(ask->field, answer.field, WIRE_NAME_MAX);
	return 0;
}

void space_bind(struct skep_space *space, const struct binding *binding)
{
	struct binding *bound = &space->bound;

	space->names_serial++;
	/* The same secret gives the same ids: chains stay as they are. A refusal has no secret. */
	if (!binding->status &&
		(bound->id_bits != binding->id_bits ||
			memcmp(bound->secret, binding->secret, sizeof(bound->secret)))) {
		space->hash_serial++;
		*bound = *binding;
		return;
	}
	bound->epoch = binding->epoch;
	bound->status = binding->status;
	bound->number = binding->number;
	bound->generation = binding->generation;
	bound->version = binding->version;
}

bool space_look(struct skep_space *space)
{
	struct skep *session = space->session;
	const struct attachment *a = session->current;
	const struct binding *offered = &space->offered;
	bool ready = false, kick = false;

	if (session_away(session))
		return false;
	pthread_mutex_lock(&session->lock);
	if (offered->epoch == a->epoch && !offered->status &&
		offered->generation ==
			atomic_load_explicit(&a->index.head->spaces[offered->number].generation,
				memory_order_acquire)) {
		space_bind(space, offered);
		ready = true;
	} else if (!space->refresh_wanted) {
		space->refresh_wanted = kick = true;
	}
	pthread_mutex_unlock(&session->lock);
	if (kick) {
		atomic_store_explicit(&session->refresh, 1, memory_order_release);
		watcher_kick(session);
	}
	return ready;
}

static int space_refresh(struct skep_space *space, uint64_t deadline_ns)
{
	struct skep *session = space->session;
	struct binding binding;
	int status = space_ask(&(struct space_ask){.a = session->current,
				       .request = &space->request,
				       .wait = &local_wait_plain,
				       .deadline_ns = call_limit(clock_ns(), deadline_ns)},
		&binding);

	if (!status) {
		space_bind(space, &binding);
		status = binding.status;
	}
	explicit_bzero(&binding, sizeof(binding));
	return status;
}

int space_ready_wait(struct skep_space *space, uint64_t deadline_ns)
{
	if (session_away(space->session))
		return SKEP_STATUS_EDOWN;
	return space_ready(space) ? 0 : space_refresh(space, deadline_ns);
}

/* ------------------------------------------------------------------------------ open, close */

static struct skep_space *space_create(
	struct skep *session, const struct wire_space_open *request, unsigned index)
{
	struct skep_space *space = memory_zalloc(sizeof(*space));

	if (!space)
		return NULL;
	space->session = session;
	space->index = index;
	space->request = *request;
	for (uint32_t i = 1; i < request->part_count; i++)
		space->sums_before[i] = space->sums_before[i - 1] + request->parts[i - 1].ranges;
	list_init(&space->chains);
	return space;
}

void space_free(struct skep_space *space)
{
	list_each_safe (node, &space->chains)
		chain_free(list_item(node, struct skep_chain, link));
	explicit_bzero(&space->bound, sizeof(space->bound));
	explicit_bzero(&space->offered, sizeof(space->offered));
	memory_free(space);
}

static int space_open(
	struct skep *session, const struct skep_space_options *options, struct skep_space **out)
{
	struct skep_space_options mine;
	struct wire_space_open request = {0};
	struct skep_space *space;
	struct binding binding;
	unsigned index = 0;
	int status = struct_take(&mine, options, sizeof(mine));

	session->field[0] = 0;
	if (!status)
		status = request_fill(session, &mine, &request);
	if (status < 0)
		return status;
	if (session_away(session))
		return SKEP_STATUS_EDOWN;
	while (index < SPACES_MAX && session->spaces[index])
		index++;
	if (index == SPACES_MAX)
		return -ENOSPC;
	space = space_create(session, &request, index);
	if (!space)
		return -ENOMEM;
	status = space_ask(&(struct space_ask){.a = session->current,
				   .request = &space->request,
				   .wait = &local_wait_plain,
				   .deadline_ns = clock_ns() + CALL_NS,
				   .field = session->field},
		&binding);
	if (!status)
		status = binding.status;
	if (status < 0) {
		space_free(space);
		return status;
	}
	session->field[0] = 0;
	space_bind(space, &binding);
	explicit_bzero(&binding, sizeof(binding));
	pthread_mutex_lock(&session->lock);
	session->spaces[index] = space;
	pthread_mutex_unlock(&session->lock);
	*out = space;
	return 0;
}

int skep_space_open(
	struct skep *session, const struct skep_space_options *options, struct skep_space **out)
{
	int status = session_enter(session);

	if (status)
		return status;
	status = options && out ? space_open(session, options, out) : -EINVAL;
	session_exit(session);
	return status;
}

const char *skep_space_field(struct skep *session)
{
	return session && !session_forked(session) ? session->field : "";
}

void skep_space_close(struct skep_space *space)
{
	struct skep *session = space ? space->session : NULL;

	if (session_enter(session))
		return;
	pthread_mutex_lock(&session->lock);
	session->spaces[space->index] = NULL;
	pthread_mutex_unlock(&session->lock);
	space_free(space);
	session_exit(session);
}

/* SPACE_PURGE and SPACE_STEP: the space's number out, a number back. */
static int64_t space_number(struct skep_space *space, uint16_t op, uint64_t deadline_ns)
{
	struct wire_number request = {0}, answer = {0};
	int status = space_ready_wait(space, deadline_ns);

	if (status < 0)
		return status;
	request.head = local_head(op, sizeof(request));
	request.number = space->bound.number;
	status = attachment_ask(space->session->current,
		&(struct local_ask){.request = &request.head,
			.answer = &answer.head,
			.answer_bytes = sizeof(answer),
			.wait = &local_wait_plain,
			.deadline_ns = call_limit(clock_ns(), deadline_ns)});
	if (status < 0)
		return status == -EPROTO ? SKEP_STATUS_EDOWN : status;
	return (int64_t)MIN_OF(answer.number, (uint64_t)INT64_MAX);
}

/* What was removed must not come back after a crash: where there is an ssd, that is waited for. */
static int64_t space_durable(struct skep_space *space, int64_t result, uint64_t deadline_ns)
{
	int status = result < 0 ? -ENOTSUP : sync_run(space->session, deadline_ns);

	return status < 0 && status != -ENOTSUP ? status : result;
}

int64_t skep_space_purge(struct skep_space *space, uint64_t deadline_ns)
{
	int64_t result = session_enter(space ? space->session : NULL);

	if (result)
		return result;
	result = space_number(space, WIRE_SPACE_PURGE, deadline_ns);
	result = space_durable(space, result, deadline_ns);
	session_exit(space->session);
	return result;
}

int64_t skep_space_step(struct skep_space *space, uint64_t deadline_ns)
{
	int64_t result = session_enter(space ? space->session : NULL);

	if (result)
		return result;
	result = space_number(space, WIRE_SPACE_STEP, deadline_ns);
	/* The step is done whatever comes now; who is told of no answer finds out by itself. */
	if (result >= 0)
		(void)space_refresh(space, deadline_ns);
	result = space_durable(space, result, deadline_ns);
	session_exit(space->session);
	return result;
}
