/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"
#include "store/read/layout.h"
#include "tools/skepd/answers_priv.h"
#include "tools/skepd/check.h"
#include "tools/skepd/commands.h"
#include "tools/skepd/metrics.h"
#include "tools/text.h"

/* The commands themselves. Worker thread; each may wait for the keeper, two seconds at most. */

enum {
	LIST_MAX = 1024,     /* sessions or spaces shown of one realm */
	PAGE_STANDARD = 100, /* blocks a page */
	PAGE_MAX = 1000,
};

int request_fail(struct request *request, int status, const char *format, ...)
{
	char text[512];
	va_list list;

	va_start(list, format);
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
	json_object_clear(request->answer);
	json_object_set_new(request->answer, "error", json_string(text));
	json_object_set_new(request->answer, "code", json_string(status_name(status)));
	return status;
}

int request_status(struct request *request, int status)
{
	if (status == -ETIMEDOUT)
		return request_fail(request, status,
			"the keeper did not answer within two seconds: is the machine overloaded?");
	return request_fail(request, status, "%s", status_text(status));
}

static void set_id(json_t *object, const char *key, uint64_t low, uint64_t high)
{
	char text[TEXT_ID_BYTES];

	text_id_write(text, (const uint64_t[2]){low, high});
	set_text(object, key, text);
}

/* ------------------------------------------------------------------------------- realms */

/* The names of all realms, as of the settings in force: they cannot change while the node runs. */
struct realm_names {
	unsigned count;
	char name[NODE_REALMS_MAX][NODE_NAME_MAX];
};

static void realm_names_get(struct daemon *daemon, struct realm_names *names)
{
	pthread_mutex_lock(&daemon->lock);
	names->count = daemon->settings->realm_count;
	for (unsigned i = 0; i < names->count; i++)
		memcpy(names->name[i], daemon->settings->realms[i].name, NODE_NAME_MAX);
	pthread_mutex_unlock(&daemon->lock);
}

/* Keeps of @names those the request is about: its realm, or all an operator sees. */
static int request_realms(struct request *request, struct realm_names *names)
{
	const char *wanted = request->own ? request->own : request->realm;

	realm_names_get(request->daemon, names);
	if (!wanted)
		return 0;
	for (unsigned i = 0; i < names->count; i++)
		if (!strcmp(names->name[i], wanted)) {
			memmove(names->name[0], names->name[i], NODE_NAME_MAX);
			names->count = 1;
			return 0;
		}
	return request_fail(request, -ENOENT, "no realm is called %s", wanted);
}

int request_realm(struct request *request, const char **realm)
{
	static _Thread_local struct realm_names names;
	int status = request_realms(request, &names);

	if (status)
		return status;
	if (names.count != 1)
		return request_fail(request, -EINVAL,
			"there are %u realms: say which one (\"realm\")", names.count);
	*realm = names.name[0];
	return 0;
}

static json_t *misses_json(const struct realm_status *realm)
{
	json_t *misses = json_object();

	for (unsigned i = SKEP_REASON_NONE + 1; i < SKEP_REASON_COUNT; i++)
		set_number(misses, reason_word(i), realm->misses[i]);
	return misses;
}

static json_t *realm_json(const struct realm_status *realm)
{
	json_t *out = json_object(), *counters = json_object(), *latencies = json_object();

	set_text(out, "name", realm->name);
#define X(name, help) set_number(out, #name, realm->name);
	REALM_GAUGE_TABLE(X)
#undef X
	json_object_set_new(out, "hit_ratio", json_real(metrics_hit_ratio(realm)));
#define X(name, help) set_number(counters, #name, realm->counters[REALM_COUNTER_##name]);
	REALM_COUNTER_TABLE(X)
#undef X
	json_object_set_new(out, "counters", counters);
	json_object_set_new(out, "misses", misses_json(realm));
#define X(name, help)                                                                              \
	json_object_set_new(                                                                       \
		latencies, #name, latency_json(&realm->latencies[REALM_LATENCY_##name]));
	REALM_LATENCY_TABLE(X)
#undef X
	json_object_set_new(out, "latencies", latencies);
	return out;
}

/* Takes a snapshot and leaves in it the realms of the request. */
static int request_snapshot(struct request *request, struct metrics_snapshot *snapshot)
{
	const char *wanted = request->own ? request->own : request->realm;
	int status = metrics_take(request->daemon->node, snapshot);

	if (status)
		return request_status(request, status);
	if (!wanted)
		return 0;
	for (unsigned i = 0; i < snapshot->realm_count; i++)
		if (!strcmp(snapshot->realms[i].name, wanted)) {
			memmove(&snapshot->realms[0], &snapshot->realms[i],
				sizeof(snapshot->realms[0]));
			snapshot->realm_count = 1;
			return 0;
		}
	return request_fail(request, -ENOENT, "no realm is called %s", wanted);
}

static int run_realms(struct request *request)
{
	struct metrics_snapshot snapshot;
	int status = request_snapshot(request, &snapshot);

	if (status == 0) {
		json_t *realms = json_array();

		for (unsigned i = 0; i < snapshot.realm_count; i++)
			json_array_append_new(realms, realm_json(&snapshot.realms[i]));
		json_object_set_new(request->answer, "realms", realms);
	}
	metrics_drop(&snapshot);
	return status;
}

/* A realm's own session sees nothing here that another realm could move. */
static void status_node(struct request *request, const struct metrics_snapshot *snapshot)
{
	const struct node_status *node = &snapshot->node;
	json_t *counters = json_object(), *out = request->answer;
	struct daemon *daemon = request->daemon;

	set_number(out, "pid", (uint64_t)getpid());
	set_number(out, "uptime_ns", node->uptime_ns);
	set_number(out, "takeovers", node->takeovers);
	set_text(out, "loop", node->loop_backend);
	json_object_set_new(out, "loop_fallback", json_boolean(node->loop_fallback));
	set_number(out, "movers", node->movers);
	set_number(out, "sessions", node->session_count);
	set_number(out, "pool_bytes", node->pool_bytes);
	set_number(out, "pool_ready_bytes", node->pool_ready_bytes);
	if (node->ssd.devices)
		json_object_set_new(out, "ssd", ssd_json(&node->ssd));
#define X(name, help) set_number(counters, #name, node->counters[NODE_COUNTER_##name]);
	NODE_COUNTER_TABLE(X)
#undef X
	json_object_set_new(out, "counters", counters);
	pthread_mutex_lock(&daemon->lock);
	set_text(out, "socket", daemon->settings->socket);
	set_text(out, "admin", daemon->settings->admin);
	pthread_mutex_unlock(&daemon->lock);
}

static int run_status(struct request *request)
{
	struct metrics_snapshot snapshot;
	int status = request_snapshot(request, &snapshot);

	if (status == 0) {
		char incarnation[17];
		json_t *realms = json_array();

		snprintf(
			incarnation, sizeof(incarnation), "%016" PRIx64, snapshot.node.incarnation);
		set_text(request->answer, "version", SKEP_VERSION);
		set_text(request->answer, "incarnation", incarnation);
		if (!request->own)
			status_node(request, &snapshot);
		for (unsigned i = 0; i < snapshot.realm_count; i++)
			json_array_append_new(realms, realm_json(&snapshot.realms[i]));
		json_object_set_new(request->answer, "realms", realms);
	}
	metrics_drop(&snapshot);
	return status;
}

static int run_metrics(struct request *request)
{
	struct metrics_snapshot snapshot;
	char *text = NULL;
	size_t bytes = 0;
	int status = request_snapshot(request, &snapshot);

	if (status == 0) {
		FILE *out = open_memstream(&text, &bytes);

		if (out)
			metrics_write(
				&snapshot, request->own ? METRICS_REALM : METRICS_REALMS, out);
		if (!out || fclose(out))
			status = request_status(request, -ENOMEM);
		else
			set_text(request->answer, "text", text);
		free(text);
	}
	metrics_drop(&snapshot);
	return status;
}

/* ---------------------------------------------------------------------- spaces, sessions */

static json_t *space_json(const struct space_status *space)
{
	json_t *out = json_object();

	set_text(out, "realm", space->realm);
	set_text(out, "name", space->name);
	set_number(out, "version", space->version);
	set_number(out, "block_tokens", space->block_tokens);
	set_number(out, "parts", space->part_count);
	json_object_set_new(out, "opaque", json_boolean(space->opaque));
	set_number(out, "block_bytes", space->block_bytes);
	set_number(out, "blocks", space->blocks);
	set_text(out, "fingerprint", space->fingerprint);
	return out;
}

static json_t *session_json(const struct session_status *session)
{
	json_t *out = json_object();

	set_number(out, "session", session->session);
	set_text(out, "realm", session->realm);
	set_text(out, "name", session->name);
	set_number(out, "pid", (uint64_t)session->pid);
	set_number(out, "uid", session->uid);
	set_number(out, "age_ns", session->age_ns);
	set_number(out, "pins", session->pins);
	set_number(out, "reservations", session->reservations);
	set_number(out, "reserved_bytes", session->reserved_bytes);
	set_number(out, "submissions", session->submissions);
	set_number(out, "hbm_blocks", session->hbm_blocks);
	set_number(out, "hbm_bytes", session->hbm_bytes);
	json_object_set_new(out, "dying", json_boolean(session->dying));
	return out;
}

static int spaces_of(struct request *request, const char *realm, json_t *list)
{
	struct space_status *spaces = memory_calloc(INDEX_SPACES_MAX, sizeof(*spaces));
	int count;

	if (!spaces)
		return request_status(request, -ENOMEM);
	count = node_spaces(request->daemon->node, realm, spaces, INDEX_SPACES_MAX);
	for (int i = 0; i < count; i++)
		json_array_append_new(list, space_json(&spaces[i]));
	memory_free(spaces);
	return count < 0 ? request_status(request, count) : 0;
}

static int sessions_of(struct request *request, const char *realm, json_t *list)
{
	struct session_status *sessions = memory_calloc(LIST_MAX, sizeof(*sessions));
	int count;

	if (!sessions)
		return request_status(request, -ENOMEM);
	count = node_sessions(request->daemon->node, realm, sessions, LIST_MAX);
	for (int i = 0; i < count; i++)
		json_array_append_new(list, session_json(&sessions[i]));
	memory_free(sessions);
	return count < 0 ? request_status(request, count) : 0;
}

/* Collects what each realm of the request has, under @key. */
static int run_list(struct request *request, const char *key,
	int (*list_of)(struct request *, const char *, json_t *))
{
	struct realm_names names;
	json_t *list;
	int status = request_realms(request, &names);

	if (status)
		return status;
	list = json_array();
	for (unsigned i = 0; i < names.count && status == 0; i++)
		status = list_of(request, names.name[i], list);
	if (status == 0)
		json_object_set(request->answer, key, list);
	json_decref(list);
	return status;
}

static int run_spaces(struct request *request)
{
	return run_list(request, "spaces", spaces_of);
}

static int run_sessions(struct request *request)
{
	return run_list(request, "sessions", sessions_of);
}

/* ------------------------------------------------------------------------------- blocks */

static json_t *block_json(const struct block_status *block)
{
	static const char *const states[] = {
		"free", "pending", "present", "empty", "removed", "hbm"};
	json_t *out = json_object(), *tokens = json_array();

	set_id(out, "id", block->id_low, block->id_high);
	if (!block->root)
		set_id(out, "parent", block->parent_low, block->parent_high);
	set_text(out, "realm", block->realm);
	set_text(out, "space", block->space);
	set_text(out, "state", block->state < ARRAY_COUNT(states) ? states[block->state] : "?");
	/* The fastest tier that everybody can have it from, and whether the ssd has it as well. */
	set_text(out, "tier",
		block->in_dram	     ? "dram"
		: block->on_ssd	     ? "ssd"
		: block->hbm_holders ? "hbm"
				     : "none");
	json_object_set_new(out, "on_ssd", json_boolean(block->on_ssd));
	/* Sessions that have it in their GPU memory, and one of them. */
	set_number(out, "hbm_holders", block->hbm_holders);
	if (block->hbm_holders)
		set_number(out, "hbm_session", block->hbm_session);
	set_number(out, "depth", block->depth);
	set_number(out, "children", block->children);
	set_number(out, "parts", block->parts);
	set_number(out, "bytes", block->bytes);
	set_number(out, "idle_ns", block->idle_ns);
	set_number(out, "slot", block->slot);
	set_number(out, "frame_generation", block->frame_generation);
	set_number(out, "pins", block->pins);
	set_number(out, "operator_pins", block->operator_pins);
	set_number(out, "token_count", block->token_count);
	for (unsigned i = 0; i < ARRAY_COUNT(block->tokens) && i < block->token_count; i++)
		json_array_append_new(tokens, json_integer(block->tokens[i]));
	json_object_set_new(out, "tokens", tokens);
	return out;
}

static int run_blocks(struct request *request)
{
	unsigned limit = (unsigned)(request->limit ? request->limit : PAGE_STANDARD);
	struct block_query query = {.space = request->space,
		.below = request->has_below ? request->below : NULL,
		.roots_only = request->roots,
		.cursor = (uint32_t)request->cursor};
	struct block_status *blocks;
	json_t *list;
	int count = request_realm(request, &query.realm);

	if (count)
		return count;
	blocks = memory_calloc(limit, sizeof(*blocks));
	if (!blocks)
		return request_status(request, -ENOMEM);
	count = node_blocks(request->daemon->node, &query, blocks, limit);
	if (count < 0) {
		memory_free(blocks);
		if (count == -ENOENT)
			return request_fail(request, count, "no such %s in realm %s",
				request->space ? "space" : "block", query.realm);
		return request_status(request, count);
	}
	list = json_array();
	for (int i = 0; i < count; i++)
		if (!request->pinned || blocks[i].pins || blocks[i].operator_pins)
			json_array_append_new(list, block_json(&blocks[i]));
	memory_free(blocks);
	json_object_set_new(request->answer, "blocks", list);
	/* null ends the listing; anything else is the next page's "cursor". */
	json_object_set_new(request->answer, "cursor",
		query.cursor == UINT32_MAX ? json_null() : json_integer(query.cursor));
	return 0;
}

static int id_missing(struct request *request)
{
	return request_fail(
		request, -EINVAL, "say which block: \"id\", %d hex digits", TEXT_ID_BYTES - 1);
}

static int run_where(struct request *request)
{
	struct realm_names names;
	struct block_status block;
	int status = request_realms(request, &names);

	if (status)
		return status;
	if (!request->has_id)
		return id_missing(request);
	for (unsigned i = 0; i < names.count; i++) {
		struct block_name name = {names.name[i], request->id[0], request->id[1]};

		status = node_block(request->daemon->node, &name, &block);
		if (status == 0) {
			json_object_set_new(request->answer, "block", block_json(&block));
			return 0;
		}
		if (status != -ENOENT)
			return request_status(request, status);
	}
	return request_fail(request, -ENOENT, "no block of this id is known");
}

/* The realm and block a change names; the answer repeats both. */
static int request_block(struct request *request, struct block_name *name)
{
	int status;

	if (!request->has_id)
		return id_missing(request);
	status = request_realm(request, &name->realm);
	if (status)
		return status;
	name->id_low = request->id[0];
	name->id_high = request->id[1];
	return 0;
}

static int pin_or_unpin(struct request *request, bool pin)
{
	struct block_name name;
	int status = request_block(request, &name);

	if (status)
		return status;
	status = node_pin(request->daemon->node, &name, pin);
	if (status == -ENOENT)
		return request_fail(request, status, "no block of this id %s in realm %s",
			pin ? "is present" : "is pinned by command", name.realm);
	if (status < 0)
		return request_status(request, status);
	set_text(request->answer, "realm", name.realm);
	set_id(request->answer, "id", name.id_low, name.id_high);
	json_object_set_new(request->answer, "pinned", json_boolean(pin));
	return 0;
}

static int run_pin(struct request *request)
{
	return pin_or_unpin(request, true);
}

static int run_unpin(struct request *request)
{
	return pin_or_unpin(request, false);
}

static int run_evict(struct request *request)
{
	struct block_name name;
	int64_t done;
	int status;

	if (request->has_id == request->has_bytes)
		return request_fail(request, -EINVAL, "say what to evict: \"id\" or \"bytes\"");
	if (request->has_id) {
		status = request_block(request, &name);
		if (status)
			return status;
		done = node_evict(request->daemon->node, &name);
		if (done == -ENOENT)
			return request_fail(request, (int)done,
				"no block of this id is in realm %s", name.realm);
	} else {
		status = request_realm(request, &name.realm);
		if (status)
			return status;
		done = node_evict_coldest(request->daemon->node, name.realm, request->bytes);
	}
	if (done < 0)
		return request_status(request, (int)done);
	set_text(request->answer, "realm", name.realm);
	set_number(request->answer, request->has_id ? "blocks" : "bytes", (uint64_t)done);
	return 0;
}

static int run_purge(struct request *request)
{
	const char *realm;
	int64_t blocks;
	int status;

	if (request->all == (request->space != NULL))
		return request_fail(
			request, -EINVAL, "say what to purge: \"space\" or \"all\": true");
	status = request_realm(request, &realm);
	if (status)
		return status;
	blocks = node_purge(request->daemon->node, realm, request->space);
	if (blocks == -ENOENT)
		return request_fail(request, -ENOENT, "realm %s has no space called %s", realm,
			request->space ? request->space : "");
	if (blocks < 0)
		return request_status(request, (int)blocks);
	set_text(request->answer, "realm", realm);
	set_number(request->answer, "blocks", (uint64_t)blocks);
	return 0;
}

/* -------------------------------------------------------------------- the daemon's own */

static int run_config(struct request *request)
{
	json_t *config;

	pthread_mutex_lock(&request->daemon->lock);
	config = settings_json(request->daemon->settings, NULL);
	pthread_mutex_unlock(&request->daemon->lock);
	if (!config)
		return request_status(request, -ENOMEM);
	json_object_set_new(request->answer, "config", config);
	return 0;
}

static int run_check(struct request *request)
{
	json_t *checks;

	/* A reload waits as long as the checks take: some milliseconds. */
	pthread_mutex_lock(&request->daemon->lock);
	checks = check_json(request->daemon->settings, true);
	pthread_mutex_unlock(&request->daemon->lock);
	if (!checks)
		return request_status(request, -ENOMEM);
	json_object_update(request->answer, checks);
	json_decref(checks);
	return 0;
}

/* --------------------------------------------------------------------------- requests */

static const struct command {
	const char *name;
	bool operators;
	const char *arguments;
	int (*run)(struct request *request);
} command_rows[] = {
#define X(name, operators, arguments, help) {#name, operators, arguments, run_##name},
	COMMAND_TABLE(X)
#undef X
};

/* Is @word one of the words of @list? */
static bool word_among(const char *word, const char *list)
{
	size_t length = strlen(word);

	while (*list) {
		size_t here = strcspn(list, " ");

		if (here == length && !memcmp(word, list, length))
			return true;
		list += here;
		list += *list == ' ';
	}
	return false;
}

static int argument_text(
	struct request *request, const char *key, const json_t *value, const char **out)
{
	if (!json_is_string(value))
		return request_fail(request, -EINVAL, "\"%s\" must be a text", key);
	*out = json_string_value(value);
	return 0;
}

static int argument_flag(struct request *request, const char *key, const json_t *value, bool *out)
{
	if (!json_is_boolean(value))
		return request_fail(request, -EINVAL, "\"%s\" must be true or false", key);
	*out = json_is_true(value);
	return 0;
}

struct bounds {
	uint64_t least, most;
};

static int argument_number(struct request *request, const char *key, const json_t *value,
	struct bounds bounds, uint64_t *out)
{
	json_int_t number = json_integer_value(value);

	if (!json_is_integer(value) || number < 0 || (uint64_t)number < bounds.least ||
		(uint64_t)number > bounds.most)
		return request_fail(request, -EINVAL,
			"\"%s\" must be a whole number from %" PRIu64 " to %" PRIu64, key,
			bounds.least, bounds.most);
	*out = (uint64_t)number;
	return 0;
}

static int argument_id(
	struct request *request, const char *key, const json_t *value, uint64_t out[2])
{
	if (!json_is_string(value) || !text_id_read(json_string_value(value), out))
		return request_fail(
			request, -EINVAL, "\"%s\" must be %d hex digits", key, TEXT_ID_BYTES - 1);
	return 0;
}

static int request_argument(struct request *request, const char *key, const json_t *value)
{
	if (!strcmp(key, "realm"))
		return argument_text(request, key, value, &request->realm);
	if (!strcmp(key, "space"))
		return argument_text(request, key, value, &request->space);
	if (!strcmp(key, "roots"))
		return argument_flag(request, key, value, &request->roots);
	if (!strcmp(key, "pinned"))
		return argument_flag(request, key, value, &request->pinned);
	if (!strcmp(key, "all"))
		return argument_flag(request, key, value, &request->all);
	if (!strcmp(key, "cursor"))
		return argument_number(
			request, key, value, (struct bounds){0, UINT32_MAX - 1}, &request->cursor);
	if (!strcmp(key, "limit"))
		return argument_number(
			request, key, value, (struct bounds){1, PAGE_MAX}, &request->limit);
	if (!strcmp(key, "bytes")) {
		request->has_bytes = true;
		return argument_number(
			request, key, value, (struct bounds){1, INT64_MAX}, &request->bytes);
	}
	if (!strcmp(key, "below")) {
		request->has_below = true;
		return argument_id(request, key, value, request->below);
	}
	if (!strcmp(key, "device"))
		return argument_number(request, key, value, (struct bounds){0, NODE_SSDS_MAX - 1},
			&request->device);
	SKEP_CHECK(!strcmp(key, "id")); /* the table names no others */
	request->has_id = true;
	return argument_id(request, key, value, request->id);
}

static int request_run(struct request *request, json_t *object)
{
	const char *name = json_string_value(json_object_get(object, "command"));
	const struct command *command = NULL;
	const char *key;
	json_t *value;

	for (unsigned i = 0; name && i < ARRAY_COUNT(command_rows); i++)
		if (!strcmp(name, command_rows[i].name))
			command = &command_rows[i];
	if (!name)
		return request_fail(request, -EINVAL, "no \"command\" is given");
	if (!command)
		return request_fail(request, -EOPNOTSUPP, "no command is called %s", name);
	if (command->operators && request->own)
		return request_fail(request, -EACCES,
			"%s is for operators: root, or the user skepd runs as", name);
	json_object_foreach(object, key, value)
	{
		int status = 0;

		if (!strcmp(key, "command"))
			continue;
		if (!word_among(key, command->arguments))
			return request_fail(
				request, -EINVAL, "%s takes no argument \"%s\"", name, key);
		status = request_argument(request, key, value);
		if (status)
			return status;
	}
	/* The same words whether that other realm exists or not. */
	if (request->own && request->realm && strcmp(request->own, request->realm))
		return request_fail(
			request, -EACCES, "this session sees realm %s alone", request->own);
	return command->run(request);
}

json_t *command_answer(struct daemon *daemon, const char *realm, const char *text, size_t bytes)
{
	struct request request = {.daemon = daemon, .own = realm, .answer = json_object()};
	json_error_t error;
	json_t *object;

	if (!request.answer)
		return NULL;
	object = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
	if (!object)
		request_fail(&request, -EINVAL, "the request is not JSON: %s", error.text);
	else if (!json_is_object(object))
		request_fail(&request, -EINVAL, "the request must be a JSON object");
	else
		request_run(&request, object);
	json_decref(object);
	return request.answer;
}
