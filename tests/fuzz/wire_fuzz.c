/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets on a session's socket, against a node whose loop turns in this thread. The first byte of
 * a packet says how much of its head is made right, so that what lies behind the first checks is
 * reached too.
 */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "store/node_priv.h"
#include "tests/fuzz/fuzz.h"

enum { PACKETS_MAX = 16 };

static struct node *node_make(void)
{
	static struct realm_config realm = {.name = "r",
		.secret = "0123456789abcdef",
		.secret_bytes = 16,
		.dram_bytes = 2 << 20,
		.index_blocks = 64,
		.record_bytes = 1 << 20,
		.sessions_max = 8};
	struct node_config config = {.realms = &realm, .realm_count = 1, .loop_backend = 2};
	struct node *node;
	char why[256];

	SKEP_CHECK(node_create(&config, &node, why, sizeof(why)) == 0);
	realm_ready(node->keeper->realms[0], dram_bytes(node->keeper->realms[0]->dram));
	return node;
}

/* A packet of the input, its head made right as far as @how says. Return: its bytes. */
static size_t packet_make(
	char packet[WIRE_MESSAGE_MAX], const uint8_t *body, size_t bytes, uint8_t how)
{
	static const size_t sizes[] = {sizeof(struct wire_hello), sizeof(struct wire_space_open),
		sizeof(struct wire_number), sizeof(struct wire_head)};
	size_t whole = how & 1 ? sizes[how >> 6] : MAX_OF(bytes, sizeof(struct wire_head));
	struct wire_head *head = (void *)packet;

	memset(packet, 0, WIRE_MESSAGE_MAX);
	memcpy(packet, body, MIN_OF(bytes, whole));
	if (how & 2) {
		head->magic = WIRE_MAGIC;
		head->version = WIRE_VERSION;
		head->bytes = (uint32_t)whole;
		head->op = (uint16_t)(1 + head->op % 9);
	}
	if (how & 4 && how & 1 && how >> 6 == 0) {
		struct wire_hello *hello = (void *)packet;

		hello->head.op = WIRE_HELLO;
		hello->index_version = INDEX_LAYOUT_VERSION;
		hello->page_version = PAGE_VERSION;
		hello->realm[0] = hello->token[0] = 0;
	}
	if (how & 8 && how & 1 && how >> 6 == 1) {
		struct wire_space_open *space = (void *)packet;

		space->head.op = WIRE_SPACE_OPEN;
		space->part_count = 1 + space->part_count % 4;
		space->groups %= 3;
	}
	return whole;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static _Alignas(16) char packet[WIRE_MESSAGE_MAX];
	static struct node *node;
	int ends[2];

	/* One node for all inputs: sessions come and go, the rest of it must stay as it was. */
	if (!node)
		node = node_make();
	node->keeper->now_ns = clock_ns();
	SKEP_CHECK(
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
	SKEP_CHECK(local_server_adopt(node->server, ends[1]) == 0);
	for (unsigned i = 0; bytes >= 3 && i < PACKETS_MAX; i++) {
		size_t body = MIN_OF((size_t)(data[1] | data[2] << 8) % 4096, bytes - 3);
		size_t whole = packet_make(packet, data + 3, body, data[0]);

		if (send(ends[0], packet, whole, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			break;
		data += 3 + body;
		bytes -= 3 + body;
		while (loop_run_once(node->loop, 0) > 0)
			;
		keeper_round(node->keeper, 16);
	}
	/* A goodbye, so that the session ends although this process goes on. */
	*(struct wire_head *)(void *)packet = (struct wire_head){.magic = WIRE_MAGIC,
		.version = WIRE_VERSION,
		.op = WIRE_BYE,
		.bytes = sizeof(struct wire_head)};
	(void)!send(ends[0], packet, sizeof(struct wire_head), MSG_NOSIGNAL | MSG_DONTWAIT);
	close(ends[0]);
	while (loop_run_once(node->loop, 0) > 0)
		;
	return 0;
}
