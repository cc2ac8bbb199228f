/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions' sockets: who may come in, what they are given, and the rare requests (spaces, queues,
 * counters, operators' commands). Implements struct link_owner for the local transport.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/memory.h"
#include "store/node_priv.h"

enum { DAEMON_VERSION = 0 << 16 | 1 << 8 | 0, ORPHAN_SECONDS = 60 };

/* Compares without telling by its time where the two differ. */
static bool token_equal(const char *a, const char *b)
{
	size_t length_a = strlen(a), length_b = strlen(b);
	unsigned char differs = length_a != length_b;

	for (size_t i = 0; i < length_b; i++)
		differs |= (unsigned char)(a[length_a ? i % length_a : 0] ^ b[i]);
	return !differs;
}

bool node_realm_allows(const struct realm *realm, const struct local_peer *peer, const char *token)
{
	const struct realm_config *config = &realm->config;
	bool allowed = !config->token_count && !config->uid_count;

	for (uint32_t i = 0; i < config->uid_count; i++)
		allowed |= config->uids[i] == peer->uid;
	for (uint32_t i = 0; i < config->token_count; i++)
		allowed |= token_equal(config->tokens[i], token);
	return allowed;
}

static bool is_operator(const struct local_peer *peer)
{
	return peer->uid == geteuid() || peer->uid == 0;
}

/* The realm of a hello: what the socket stands for, what is named, or the first that lets it in. A
 * realm that does not exist and one that refuses look alike. */
static struct realm *hello_realm(
	struct node *node, struct local_link *link, const struct wire_hello *hello)
{
	const struct local_peer *peer = local_link_peer(link);
	const char *bound = local_link_bound_realm(link);
	struct realm *found = NULL;

	for (unsigned i = 0; i < node->keeper->realm_count; i++) {
		struct realm *realm = node->keeper->realms[i];
		bool named = !hello->realm[0] || !strcmp(hello->realm, realm->name);
		bool allowed = bound[0] ? !strcmp(bound, realm->name)
					: node_realm_allows(realm, peer, hello->token);

		if (named && allowed && !found)
			found = realm;
	}
	return found;
}

static int offer_chunk_fd(void *session, unsigned chunk)
{
	return dram_chunk_fd(((struct session *)session)->realm->dram, chunk);
}

static int link_hello(void *arg, struct local_link *link, const struct wire_hello *hello,
	struct local_offer *offer)
{
	struct node *node = arg;
	const struct local_peer *peer = local_link_peer(link);
	bool wants_operator = hello->flags & WIRE_HELLO_OPERATOR;
	struct session *session;
	struct realm *realm;
	int status;

	if (node->config.private_to_uid && peer->uid != geteuid())
		goto refused;
	realm = hello_realm(node, link, hello);
	if (!realm && wants_operator && is_operator(peer))
		realm = node->keeper->realms[0];
	if (!realm)
		goto refused;
	if (!wants_operator && hello->index_version != INDEX_LAYOUT_VERSION) {
		/* Asking by ring instead of probing comes when there is a second layout. */
		node->keeper->counters[NODE_COUNTER_hellos_refused]++;
		return SKEP_STATUS_EVERSION;
	}
	status = session_create(realm, local_link_page(link), &session);
	if (status < 0) {
		node->keeper->counters[NODE_COUNTER_hellos_refused]++;
		return status;
	}
	session->link = link;
	session->readonly = hello->flags & WIRE_HELLO_READONLY;
	session->pid = peer->pid;
	session->uid = peer->uid;
	snprintf(session->name, sizeof(session->name), "%s", hello->name);
	offer->session = session;
	offer->session_id = session->id;
	offer->incarnation = node->keeper->incarnation;
	offer->operator_role = wants_operator;
	offer->index_fd = realm->index.fd;
	offer->index_bytes = realm->index.file_bytes;
	offer->pool_bytes = dram_bytes(realm->dram);
	offer->chunk_bytes = dram_chunk_bytes(realm->dram);
	offer->chunk_count = dram_chunk_count(realm->dram);
	offer->chunk_fd = offer_chunk_fd;
	memcpy(offer->realm, realm->name, sizeof(offer->realm));
	return 0;

refused:
	node->keeper->counters[NODE_COUNTER_hellos_refused]++;
	log_info("local", "a session of uid %u pid %d is refused: realm, token or uid",
		(unsigned)peer->uid, (int)peer->pid);
	return -EACCES;
}

/* ------------------------------------------------------------------------------ requests */

static void request_space_open(
	struct local_link *link, struct session *session, const struct wire_space_open *request)
{
	struct wire_space_answer answer = {.head = {.op = WIRE_SPACE_OPEN}};

	answer.head.status = space_open(session, request, &answer);
	local_answer(link, &answer, sizeof(answer), -1);
}

static void request_number(
	struct local_link *link, struct session *session, const struct wire_number *request)
{
	struct wire_number answer = {.head = {.op = request->head.op}};
	uint64_t number = request->number;
	int fd = -1;

	if (request->head.op == WIRE_QUEUE) {
		struct page_end *page = local_link_page(link);

		if (number < 1 || number >= PAGE_QUEUES || page->queue_fds[number] >= 0) {
			answer.head.status = -EINVAL;
		} else {
			fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
			answer.head.status = fd < 0 ? -errno : 0;
			page->queue_fds[number] = session->page.queue_fds[number] = fd;
		}
	} else if (number >= INDEX_SPACES_MAX || !(session->spaces & 1ull << number)) {
		answer.head.status = -ENOENT;
	} else if (session->readonly) {
		answer.head.status = -EROFS;
	} else if (request->head.op == WIRE_SPACE_PURGE) {
		answer.number = remove_space(session->realm, (uint32_t)number, SKEP_REASON_REMOVED);
	} else {
		answer.number = (uint64_t)space_step(session->realm, (uint32_t)number);
	}
	local_answer(link, &answer, sizeof(answer), fd);
}

static void request_stats(struct local_link *link, struct session *session)
{
	struct realm *realm = session->realm;
	struct wire_stats answer = {
		.head = {.op = WIRE_STATS},
		.blocks = realm->slot_count_by_state[ENTRY_PRESENT],
		.blocks_pending = realm->slot_count_by_state[ENTRY_PENDING],
		.tokens_asked = realm->counters[REALM_COUNTER_tokens_asked],
		.tokens_had = realm->counters[REALM_COUNTER_tokens_had],
		.puts = realm->counters[REALM_COUNTER_parts_committed],
		.puts_refused = realm->counters[REALM_COUNTER_puts_refused],
		.evicted = realm->counters[REALM_COUNTER_blocks_evicted],
		.sessions = realm->session_count,
		.checksum_failures = realm->counters[REALM_COUNTER_blocks_quarantined],
	};
	struct dram_status dram;

	dram_status_get(realm->dram, &dram);
	answer.dram_bytes = dram.use_max < dram.bytes ? dram.use_max : dram.bytes;
	answer.dram_bytes_used = dram.used_bytes;
	list_each (node, &realm->sessions)
		answer.pins += session_pins(list_item(node, struct session, of_realm));
	local_answer(link, &answer, sizeof(answer), -1);
}

static void command_refuse(struct local_link *link, int status)
{
	char text[256];
	int bytes = snprintf(text, sizeof(text), "{\"error\":\"%s\",\"code\":\"%s\"}",
		status == -ENOTSUP ? "this node takes no commands" : status_text(status),
		status_name(status));

	if (local_answer_text(link, 0, text, (size_t)bytes) < 0)
		local_link_cut(link);
}

static void request_command(struct node *node, struct local_link *link, struct session *session,
	const struct wire_head *head, size_t bytes)
{
	size_t text_bytes = bytes - sizeof(*head);
	struct node_command *command;
	int status = -ENOTSUP;

	/* One request at a time: who does not wait for its answer could fill our memory. */
	if (session->commanding) {
		session->realm->counters[REALM_COUNTER_sessions_broken]++;
		local_link_cut(link);
		return;
	}
	if (!node->config.command) {
		command_refuse(link, status);
		return;
	}
	command = memory_zalloc(sizeof(*command) + text_bytes + 1);
	if (!command) {
		command_refuse(link, -ENOMEM);
		return;
	}
	command->node = node;
	command->link_id = local_link_id(link);
	command->operator_role = session->operator_role && is_operator(local_link_peer(link));
	memcpy(command->realm, session->realm->name, sizeof(command->realm));
	command->bytes = text_bytes;
	memcpy(command->text, (const char *)head + sizeof(*head), text_bytes);
	session->commanding = true;
	status = node->config.command(node->config.command_arg, command);
	if (status < 0) {
		session->commanding = false;
		memory_free(command);
		command_refuse(link, status);
	}
}

static void link_request(void *arg, struct local_link *link, const void *message, size_t bytes)
{
	struct session *session = local_link_session(link);
	const struct wire_head *head = message;
	size_t want = 0;

	switch (head->op) {
	case WIRE_SPACE_OPEN:
		want = sizeof(struct wire_space_open);
		break;
	case WIRE_SPACE_PURGE:
	case WIRE_SPACE_STEP:
	case WIRE_QUEUE:
		want = sizeof(struct wire_number);
		break;
	case WIRE_STATS:
		want = sizeof(struct wire_head);
		break;
	case WIRE_COMMAND:
		request_command(arg, link, session, head, bytes);
		return;
	default:
		break;
	}
	if (!want || bytes != want || session->operator_role || session->stopped) {
		session->realm->counters[REALM_COUNTER_sessions_broken]++;
		local_link_cut(link);
		return;
	}
	/* What the ring holds came before this request: a purge must not overtake a put. */
	keeper_session_drain(session);
	if (head->op == WIRE_SPACE_OPEN)
		request_space_open(link, session, message);
	else if (head->op == WIRE_STATS)
		request_stats(link, session);
	else
		request_number(link, session, message);
}

static void link_closed(void *arg, void *owned, bool bye)
{
	struct session *session = owned;

	(void)arg;
	/* Match records and commits that were pushed before the goodbye still count. */
	if (bye)
		keeper_session_drain(session);
	session->said_bye = bye;
	session_stop(session);
}

static void link_ended(void *arg, void *owned)
{
	(void)arg;
	session_end(owned);
}

int node_server_create(struct node *node)
{
	struct local_server_options options = {
		.loop = node->loop,
		.owner = {.arg = node,
			.hello = link_hello,
			.request = link_request,
			.closed = link_closed,
			.ended = link_ended,
			.takeover = node_hand_asked},
		.links_max = 4096,
		.daemon_version = DAEMON_VERSION,
		.orphan_ns = ORPHAN_SECONDS * NS_PER_S,
	};

	return local_server_create(&options, &node->server);
}

/* ------------------------------------------------------------------------------- commands */

const char *node_command_text(const struct node_command *command, size_t *bytes)
{
	*bytes = command->bytes;
	return command->text;
}

bool node_command_operator(const struct node_command *command, const char **realm)
{
	*realm = command->realm;
	return command->operator_role;
}

struct command_answer {
	struct node_command *command;
	const char *text;
	size_t bytes;
};

static void command_answer_run(void *argument)
{
	struct command_answer *answer = argument;
	struct node_command *command = answer->command;
	/* Without a server: a successor has the sessions, and the tool has been cut. */
	struct local_link *link = command->node->server
					  ? local_link_find(command->node->server, command->link_id)
					  : NULL;
	struct session *session = link ? local_link_session(link) : NULL;

	if (session)
		session->commanding = false;
	if (link && local_answer_text(link, 0, answer->text, answer->bytes) < 0)
		local_link_cut(link);
}

void node_command_answer(struct node_command *command, const char *text, size_t bytes)
{
	struct command_answer answer = {command, text, bytes};

	/* A full mailbox is worked off; the asker waits for this answer alone. */
	while (mailbox_call(command->node->mailbox, command_answer_run, &answer) == -EAGAIN &&
		!atomic_load(&command->node->stopping))
		usleep(1000);
	memory_free(command);
}
