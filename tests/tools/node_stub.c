/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/tools/node_stub.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "store/read/layout.h"

struct node_stub stub = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct node {
	int unused;
};

struct node_command {
	char *text;
	char realm[NODE_NAME_MAX];
	bool trusted;
};

static struct node only;

struct node *stub_node(void)
{
	return &only;
}

void stub_reset(void)
{
	pthread_mutex_t lock = stub.lock;

	memset(&stub, 0, sizeof(stub));
	stub.lock = lock;
	stub.realm_count = 2;
	snprintf(stub.realms[0].name, NODE_NAME_MAX, "a");
	snprintf(stub.realms[1].name, NODE_NAME_MAX, "b");
}

static int realm_index(const char *name)
{
	for (unsigned i = 0; i < stub.realm_count; i++)
		if (!strcmp(stub.realms[i].name, name))
			return (int)i;
	return -ENOENT;
}

int node_status(struct node *node, struct node_status *out)
{
	(void)node;
	*out = (struct node_status){.incarnation = 0x1234,
		.uptime_ns = 90 * NS_PER_S,
		.loop_backend = "epoll",
		.loop_fallback = true,
		.movers = 2,
		.realm_count = stub.realm_count,
		.session_count = 3};
	out->counters[NODE_COUNTER_keeper_busy_ns] = 1500000000;
	out->counters[NODE_COUNTER_keeper_wall_ns] = 3000000000;
	return stub.status;
}

int node_realm(struct node *node, unsigned index, struct realm_status *out)
{
	(void)node;
	if (index >= stub.realm_count)
		return -ENOENT;
	*out = stub.realms[index];
	return stub.status;
}

int node_sessions(struct node *node, const char *realm, struct session_status *out, unsigned max)
{
	(void)node;
	if (stub.status || max < 1)
		return stub.status;
	*out = (struct session_status){.session = 7, .pid = 99, .uid = 5, .pins = 2};
	snprintf(out->realm, sizeof(out->realm), "%s", realm);
	snprintf(out->name, sizeof(out->name), "engine \x1b[31m");
	return 1;
}

int node_spaces(struct node *node, const char *realm, struct space_status *out, unsigned max)
{
	(void)node;
	if (stub.status || max < 1)
		return stub.status;
	*out = (struct space_status){.version = 1, .block_tokens = 16, .part_count = 1};
	snprintf(out->realm, sizeof(out->realm), "%s", realm);
	snprintf(out->name, sizeof(out->name), "llama");
	snprintf(out->fingerprint, sizeof(out->fingerprint), "model=m\nblock_tokens=16\n");
	return 1;
}

static void block_make(struct block_status *out, uint32_t slot)
{
	*out = (struct block_status){.id_low = 1,
		.in_dram = true,
		.id_high = 2,
		.root = true,
		.state = ENTRY_PRESENT,
		.slot = slot,
		.bytes = 4096,
		.operator_pins = slot % 2,
		.token_count = 16};
	snprintf(out->realm, sizeof(out->realm), "a");
	snprintf(out->space, sizeof(out->space), "llama");
}

/* Ten blocks in slots 0 to 9. */
int node_blocks(
	struct node *node, struct block_query *query, struct block_status *out, unsigned max)
{
	unsigned count = 0;

	(void)node;
	if (stub.status)
		return stub.status;
	if (query->space && strcmp(query->space, "llama"))
		return -ENOENT;
	for (; query->cursor < 10 && count < max; query->cursor++)
		block_make(&out[count++], query->cursor);
	if (query->cursor >= 10)
		query->cursor = UINT32_MAX;
	return (int)count;
}

static int known(const struct block_name *name)
{
	if (stub.status)
		return stub.status;
	return !strcmp(name->realm, "a") && name->id_low == 1 && name->id_high == 2 ? 0 : -ENOENT;
}

int node_block(struct node *node, const struct block_name *name, struct block_status *out)
{
	(void)node;
	block_make(out, 3);
	return known(name);
}

int node_pin(struct node *node, const struct block_name *name, bool pin)
{
	(void)node;
	if (known(name) == 0)
		stub.pins += pin ? 1 : -1u;
	return known(name);
}

int64_t node_evict(struct node *node, const struct block_name *name)
{
	(void)node;
	return known(name) ? known(name) : 4;
}

int64_t node_evict_coldest(struct node *node, const char *realm, uint64_t bytes)
{
	(void)node;
	if (realm_index(realm) < 0)
		return -ENOENT;
	stub.bytes = bytes;
	return stub.status ? stub.status : (int64_t)bytes + 1;
}

int node_verify(struct node *node, struct node_verify *verify)
{
	(void)node;
	if (realm_index(verify->realm) < 0)
		return -ENOENT;
	verify->slots = 100;
	verify->blocks = 3;
	verify->bytes = verify->bytes_max;
	verify->bad = verify->cursor == 7;
	verify->unreadable = 0;
	verify->cursor = verify->cursor == 7 ? UINT32_MAX : 7;
	return stub.status;
}

int node_unfence(struct node *node, unsigned device)
{
	(void)node;
	if (device)
		return -ENODEV;
	return stub.status;
}

int64_t node_purge(struct node *node, const char *realm, const char *space)
{
	(void)node;
	snprintf(stub.purged, sizeof(stub.purged), "%s/%s", realm, space ? space : "*");
	if (space && strcmp(space, "llama"))
		return -ENOENT;
	return stub.status ? stub.status : 9;
}

struct node_command *stub_command(const char *text, bool trusted, const char *realm)
{
	struct node_command *command = calloc(1, sizeof(*command));

	if (!command)
		abort();
	command->text = strdup(text);
	command->trusted = trusted;
	snprintf(command->realm, sizeof(command->realm), "%s", realm);
	return command;
}

void stub_command_free(struct node_command *command)
{
	free(command->text);
	free(command);
}

const char *node_command_text(const struct node_command *command, size_t *bytes)
{
	*bytes = strlen(command->text);
	return command->text;
}

bool node_command_operator(const struct node_command *command, const char **realm)
{
	*realm = command->realm;
	return command->trusted;
}

void node_command_answer(struct node_command *command, const char *text, size_t bytes)
{
	pthread_mutex_lock(&stub.lock);
	stub.answers++;
	snprintf(stub.answer, sizeof(stub.answer), "%.*s", (int)bytes, text);
	pthread_mutex_unlock(&stub.lock);
	stub_command_free(command);
}
