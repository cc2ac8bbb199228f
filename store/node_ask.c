/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What other threads may ask of the keeper: each question is a message that runs on its thread and
 * leaves the answer in the asker's memory.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "store/node_priv.h"

#define LOAD(field) atomic_load_explicit(&(field), RELAXED)

/* One question; which fields count depends on the function that answers. */
struct question {
	struct node *node;
	mailbox_run *run;
	const char *realm, *space;
	unsigned index, max;
	void *out;
	struct block_query *query;
	const struct block_name *name;
	const struct node_config *config;
	char *why;
	size_t why_bytes;
	uint64_t bytes;
	bool pin;
	int64_t result;
};

static void ask_run(void *argument)
{
	struct question *question = argument;

	/* What is left here after a takeover is not what is. */
	if (atomic_load_explicit(&question->node->handing.gone, memory_order_relaxed))
		question->result = SKEP_STATUS_EDOWN;
	else
		question->run(question);
}

static int64_t ask(struct node *node, mailbox_run *run, struct question *question)
{
	int status;

	question->node = node;
	question->run = run;
	status = mailbox_call(node->mailbox, ask_run, question);
	return status < 0 ? -ETIMEDOUT : question->result;
}

static void status_run(void *argument)
{
	struct question *q = argument;
	struct node *node = q->node;
	struct node_status *out = q->out;

	memset(out, 0, sizeof(*out));
	out->incarnation = node->keeper->incarnation;
	out->takeovers = node->keeper->takeovers;
	out->uptime_ns = clock_ns() - node->started_ns;
	memcpy(out->counters, node->keeper->counters, sizeof(out->counters));
	out->loop_backend = loop_backend_name(node->loop);
	out->loop_fallback = loop_uring_error(node->loop) != 0;
	out->movers = node->config.movers ? node->config.movers : 1;
	out->realm_count = node->keeper->realm_count;
	out->session_count = node->keeper->session_count;
	node_ssd_status(node, &out->ssd);
	for (unsigned i = 0; i < node->keeper->realm_count; i++) {
		struct dram_status dram;

		dram_status_get(node->keeper->realms[i]->dram, &dram);
		out->pool_bytes += dram.bytes;
		out->pool_ready_bytes += dram.ready_bytes;
	}
}

int node_status(struct node *node, struct node_status *out)
{
	struct question q = {.out = out};

	return (int)ask(node, status_run, &q);
}

static void realm_run(void *argument)
{
	struct question *q = argument;

	if (q->index >= q->node->keeper->realm_count)
		q->result = -ENOENT;
	else
		realm_status_fill(q->node->keeper->realms[q->index], q->out);
}

int node_realm(struct node *node, unsigned index, struct realm_status *out)
{
	struct question q = {.index = index, .out = out};

	return (int)ask(node, realm_run, &q);
}

static void sessions_run(void *argument)
{
	struct question *q = argument;
	struct session_status *out = q->out;
	uint64_t now = clock_ns();

	list_each (at, &q->node->keeper->sessions) {
		const struct session *session = list_item(at, struct session, of_keeper);

		if (q->realm && strcmp(q->realm, session->realm->name))
			continue;
		if (q->result == q->max)
			return;
		*out = (struct session_status){.session = session->id,
			.pid = session->pid,
			.uid = session->uid,
			.age_ns = now - session->opened_ns,
			.pins = session->operator_role ? 0 : session_pins(session),
			.reservations = session->reservation_count,
			.reserved_bytes = session->reserved_bytes,
			.submissions = session->submission_count,
			.hbm_blocks = session->hbm_blocks,
			.hbm_bytes = session->hbm_bytes,
			.dying = session->stopped};
		snprintf(out->realm, sizeof(out->realm), "%s", session->realm->name);
		snprintf(out->name, sizeof(out->name), "%s", session->name);
		out++;
		q->result++;
	}
}

int node_sessions(struct node *node, const char *realm, struct session_status *out, unsigned max)
{
	struct question q = {.realm = realm, .out = out, .max = max};

	return (int)ask(node, sessions_run, &q);
}

static void spaces_run(void *argument)
{
	struct question *q = argument;
	struct space_status *out = q->out;

	for (unsigned r = 0; r < q->node->keeper->realm_count; r++) {
		const struct realm *realm = q->node->keeper->realms[r];

		if (q->realm && strcmp(q->realm, realm->name))
			continue;
		for (unsigned i = 0; i < INDEX_SPACES_MAX; i++) {
			const struct space *space = &realm->spaces[i];

			if (!space->used)
				continue;
			if (q->result == q->max)
				return;
			memset(out, 0, sizeof(*out));
			snprintf(out->realm, sizeof(out->realm), "%s", realm->name);
			snprintf(out->name, sizeof(out->name), "%s", space->name);
			snprintf(out->fingerprint, sizeof(out->fingerprint), "%s",
				space->fingerprint);
			out->version = space->version;
			out->generation = space->generation;
			out->block_tokens = space->block_tokens;
			out->part_count = space->part_count;
			out->opaque = space->opaque;
			out->blocks = space->blocks;
			for (uint32_t p = 0; p < space->part_count; p++)
				out->block_bytes += space->part_bytes[p];
			out++;
			q->result++;
		}
	}
}

int node_spaces(struct node *node, const char *realm, struct space_status *out, unsigned max)
{
	struct question q = {.realm = realm, .out = out, .max = max};

	return (int)ask(node, spaces_run, &q);
}

/* Does the block in @slot fit the query? */
static bool query_fits(const struct realm *realm, const struct block_query *query, uint32_t slot)
{
	const struct index_entry *entry = &realm->index.entries[slot];
	uint32_t parent = index_parent(realm, slot);

	if (!LOAD(entry->name_generation))
		return false;
	if (query->space && strcmp(query->space, realm->spaces[LOAD(entry->space)].name))
		return false;
	if (query->roots_only && parent != NONE32)
		return false;
	if (!query->below)
		return true;
	return parent != NONE32 && LOAD(realm->index.entries[parent].id_low) == query->below[0] &&
	       LOAD(realm->index.entries[parent].id_high) == query->below[1];
}

static void blocks_run(void *argument)
{
	enum { SLOTS_A_QUESTION = 65536 }; /* the keeper has other work */
	struct question *q = argument;
	struct block_query *query = q->query;
	struct realm *realm = keeper_realm(q->node->keeper, query->realm);
	struct block_status *out = q->out;
	uint32_t slots, end;

	if (!realm) {
		q->result = -ENOENT;
		return;
	}
	slots = realm->index.head->slot_count;
	end = MIN_OF(slots, (uint64_t)query->cursor + SLOTS_A_QUESTION);
	for (; query->cursor < end && q->result < q->max; query->cursor++) {
		if (!query_fits(realm, query, query->cursor))
			continue;
		block_status_fill(realm, query->cursor, out++);
		q->result++;
	}
	if (query->cursor >= slots)
		query->cursor = UINT32_MAX;
}

int node_blocks(
	struct node *node, struct block_query *query, struct block_status *out, unsigned max)
{
	int64_t found = 0;

	/* A long stretch without a match is walked in several questions. */
	while (found == 0 && query->cursor != UINT32_MAX) {
		struct question q = {.query = query, .out = out, .max = max};

		found = ask(node, blocks_run, &q);
	}
	return (int)found;
}

/* The named block, or NONE32 with the question answered. */
static uint32_t question_block(struct question *q, struct realm **realm)
{
	struct block_id id = {q->name->id_low, q->name->id_high};
	uint32_t slot = NONE32;

	*realm = keeper_realm(q->node->keeper, q->name->realm);
	if (*realm)
		slot = index_id_find(*realm, id, NONE32);
	if (slot == NONE32)
		q->result = -ENOENT;
	return slot;
}

static void block_run(void *argument)
{
	struct question *q = argument;
	struct realm *realm;
	uint32_t slot = question_block(q, &realm);

	if (slot != NONE32)
		block_status_fill(realm, slot, q->out);
}

int node_block(struct node *node, const struct block_name *name, struct block_status *out)
{
	struct question q = {.name = name, .out = out};

	return (int)ask(node, block_run, &q);
}

static void pin_set_run(void *argument)
{
	struct question *q = argument;
	struct realm *realm;
	uint32_t slot = question_block(q, &realm);
	struct slot *own;

	if (slot == NONE32)
		return;
	own = &realm->index.slots[slot];
	if (q->pin && index_state(realm, slot) != ENTRY_PRESENT) {
		q->result = -ENOENT;
		return;
	}
	if (!q->pin && !own->operator_pins) {
		q->result = -EINVAL;
		return;
	}
	if (q->pin && own->operator_pins == UINT16_MAX) {
		q->result = -EOVERFLOW;
		return;
	}
	own->operator_pins = (uint16_t)(own->operator_pins + (q->pin ? 1 : -1));
	realm->operator_pins += q->pin && own->operator_pins == 1;
	realm->operator_pins -= !q->pin && own->operator_pins == 0;
}

int node_pin(struct node *node, const struct block_name *name, bool pin)
{
	struct question q = {.name = name, .pin = pin};

	return (int)ask(node, pin_set_run, &q);
}

static void evict_run(void *argument)
{
	struct question *q = argument;
	struct realm *realm;
	uint32_t slot = question_block(q, &realm);

	if (slot != NONE32)
		q->result = (int64_t)remove_subtree(realm, slot, SKEP_REASON_REMOVED);
}

int64_t node_evict(struct node *node, const struct block_name *name)
{
	struct question q = {.name = name};

	return ask(node, evict_run, &q);
}

static void evict_coldest_run(void *argument)
{
	struct question *q = argument;
	struct realm *realm = keeper_realm(q->node->keeper, q->realm);

	q->result = realm ? (int64_t)evict_bytes(realm, q->bytes) : -ENOENT;
}

int64_t node_evict_coldest(struct node *node, const char *realm, uint64_t bytes)
{
	struct question q = {.realm = realm, .bytes = bytes};

	return ask(node, evict_coldest_run, &q);
}

static void purge_run(void *argument)
{
	struct question *q = argument;
	struct realm *realm = keeper_realm(q->node->keeper, q->realm);

	if (!realm) {
		q->result = -ENOENT;
		return;
	}
	q->result = q->space ? -ENOENT : 0;
	for (uint32_t i = 0; i < INDEX_SPACES_MAX; i++) {
		if (!realm->spaces[i].used || (q->space && strcmp(q->space, realm->spaces[i].name)))
			continue;
		q->result =
			MAX_OF(q->result, 0) + (int64_t)remove_space(realm, i, SKEP_REASON_REMOVED);
	}
}

int64_t node_purge(struct node *node, const char *realm, const char *space)
{
	struct question q = {.realm = realm, .space = space};

	return ask(node, purge_run, &q);
}

/* --------------------------------------------------------------------------------- reload */

static void reload_apply(struct realm *realm, const struct realm_config *from)
{
	struct realm_config *to = &realm->config;

	to->dram_use_max = from->dram_use_max;
	dram_use_max_set(realm->dram, from->dram_use_max);
	if (from->sessions_max)
		to->sessions_max = from->sessions_max;
	if (from->age_limit_ns)
		to->age_limit_ns = from->age_limit_ns;
	memcpy(to->tokens, from->tokens, sizeof(to->tokens));
	to->token_count = from->token_count;
	memcpy(to->uids, from->uids, sizeof(to->uids));
	to->uid_count = from->uid_count;
	realm->room_made = true;
}

/* The first setting that cannot change while the node runs, or NULL. */
static const char *reload_refused(const struct realm *realm, const struct realm_config *config)
{
	if (realm->config.dram_bytes != config->dram_bytes)
		return "dram";
	if (realm->config.secret_bytes != config->secret_bytes ||
		memcmp(realm->config.secret, config->secret, config->secret_bytes))
		return "secret_file";
	if (realm->config.index_blocks != config->index_blocks)
		return "index_blocks";
	if (strcmp(realm->config.socket_path, config->socket_path))
		return "socket";
	return NULL;
}

static void reload_run(void *argument)
{
	struct question *q = argument;
	struct keeper *keeper = q->node->keeper;

	q->result = -EINVAL;
	if (q->config->realm_count != keeper->realm_count) {
		snprintf(q->why, q->why_bytes,
			"realms cannot be added or removed without a restart");
		return;
	}
	for (unsigned i = 0; i < keeper->realm_count; i++) {
		const struct realm_config *config = &q->config->realms[i];
		const struct realm *realm = keeper_realm(keeper, config->name);
		const char *field = realm ? reload_refused(realm, config) : "name";

		if (field) {
			snprintf(q->why, q->why_bytes,
				"realm %s: %s cannot change without a restart", config->name,
				field);
			return;
		}
	}
	for (unsigned i = 0; i < keeper->realm_count; i++)
		reload_apply(
			keeper_realm(keeper, q->config->realms[i].name), &q->config->realms[i]);
	q->result = 0;
}

int node_reload(struct node *node, const struct node_config *config, char *why, size_t why_bytes)
{
	struct question q = {.config = config, .why = why, .why_bytes = why_bytes};

	return (int)ask(node, reload_run, &q);
}
