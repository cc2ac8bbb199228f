/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The session page in the hands of a client that writes whatever it likes: submissions, cursors,
 * scratch, pin cells. The daemon must not crash, must end such a session at worst, and another
 * session of the realm must keep what it pinned, byte for byte.
 *
 * The input is a row of steps: an operation, an argument, then what that operation takes.
 */
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/hash.h"
#include "tests/fuzz/fuzz.h"
#include "tests/store/sim.h"

enum { TOKENS = 4, HONEST_BLOCKS = 3, STEPS_MAX = 200 };

struct input {
	const uint8_t *at;
	size_t left;
};

/* The next bytes; zeros where the input has ended. */
static void take(struct input *in, void *to, size_t bytes)
{
	size_t now = MIN_OF(bytes, in->left);

	memset(to, 0, bytes);
	memcpy(to, in->at, now);
	in->at += now;
	in->left -= now;
}

static const struct sim_space kind = {.name = "s",
	.block_tokens = TOKENS,
	.part_count = 2,
	.bytes = {8192, 4096},
	.ranges = {2, 1}};

/* A session that behaves: it puts a chain, pins it, and looks at its bytes. */
struct honest {
	struct sim_client client;
	uint32_t tokens[HONEST_BLOCKS * TOKENS];
	struct block_id ids[HONEST_BLOCKS];
	struct probe_chain chain;
	struct probe_name names[HONEST_BLOCKS];
	uint64_t sums[HONEST_BLOCKS];
	struct wire_space_answer space;
};

static uint64_t block_sum(struct sim *sim, uint32_t slot)
{
	const struct index_part *part = probe_part(&sim->realm->index.view, slot, 0);
	uint64_t frame = (uint64_t)atomic_load(&part->frame) * FRAME_GRANULE_BYTES;

	return XXH3_64bits(dram_at(sim->realm->dram, frame), kind.bytes[0]);
}

static void honest_put(struct sim *sim, struct honest *honest)
{
	const struct reserve_block *blocks = sim_scratch(&honest->client, 0);
	struct sim_written written[HONEST_BLOCKS];
	struct sim_put put = {.chain = &honest->chain,
		.count = HONEST_BLOCKS,
		.space_generation = honest->space.generation};

	for (put.part = 0; put.part < kind.part_count; put.part++) {
		sim_reserve(&honest->client, &put);
		sim_run(sim);
		for (uint32_t i = 0; i < HONEST_BLOCKS; i++) {
			SKEP_CHECK(blocks[i].status == 0);
			written[i] = (struct sim_written){.id = honest->ids[i],
				.slot = blocks[i].slot,
				.part = put.part,
				.ranges = kind.ranges[put.part],
				.write = blocks[i].write,
				.frame = blocks[i].frame,
				.bytes = blocks[i].bytes};
			memset(dram_at(sim->realm->dram, written[i].frame), (int)(65 + i),
				written[i].bytes);
		}
		sim_commit(&honest->client, written, HONEST_BLOCKS);
		sim_run(sim);
	}
}

static void honest_open(struct sim *sim, struct honest *honest)
{
	struct block_id parent = {0, 0};

	memset(honest, 0, sizeof(*honest));
	SKEP_CHECK(sim_client_open(sim, sim->realm, &honest->client) == 0);
	SKEP_CHECK(sim_space_open(&honest->client, &kind, &honest->space) == 0);
	honest->chain = (struct probe_chain){.ids = honest->ids,
		.tokens = honest->tokens,
		.block_tokens = TOKENS,
		.block_count = HONEST_BLOCKS,
		.space = honest->space.space};
	for (uint32_t i = 0; i < HONEST_BLOCKS; i++) {
		struct id_input in = probe_input(&honest->chain, i);

		honest->ids[i] = id_make(honest->space.secret, parent, &in, 128);
		parent = honest->ids[i];
	}
	honest_put(sim, honest);
	atomic_store(&sim_page(&honest->client)->pins_used, 1);
	SKEP_CHECK(probe_run(&sim->realm->index.view, &honest->chain,
			   (struct probe_want){0, HONEST_BLOCKS}, honest->names,
			   NULL) == HONEST_BLOCKS);
	SKEP_CHECK(pin_run(&sim->realm->index.view, sim_pins(&honest->client), honest->names,
			   HONEST_BLOCKS) == HONEST_BLOCKS);
	for (uint32_t i = 0; i < HONEST_BLOCKS; i++)
		honest->sums[i] = block_sum(sim, honest->names[i].slot);
}

/* A message: raw, or with an operation and places that are likely to be read further. */
static void push(struct input *in, struct sim_client *client, uint8_t how)
{
	struct submission message;

	take(in, &message, sizeof(message));
	if (how & 1) {
		message.op = (uint16_t)(1 + message.op % 10);
		message.queue = (uint16_t)(message.queue % (how & 2 ? 1 : PAGE_QUEUES + 1));
		message.scratch_at = message.scratch_at % 4096 & ~7u;
		message.scratch_bytes %= 8192;
		message.count %= 70;
		message.slot = how & 4 ? message.slot % 8 : SLOT_ROOT(message.slot % 2);
		if (how & 8)
			message.generation %= 64;
		message.deadline_ns %= 1u << 31;
	}
	sim_push(client, &message);
}

static void step(struct input *in, struct sim *sim, struct sim_client *client)
{
	struct page_head *head = sim_page(client);
	uint8_t op, how, bytes[256];
	uint32_t at;

	take(in, &op, 1);
	take(in, &how, 1);
	take(in, &at, sizeof(at));
	switch (op % 8) {
	case 0:
	case 1:
		push(in, client, how);
		break;
	case 2: /* the scratch, near its start or anywhere */
		take(in, bytes, sizeof(bytes));
		at = how & 1 ? at % 4096 : at % (PAGE_SCRATCH_BYTES - sizeof(bytes));
		memcpy(sim_scratch(client, at), bytes, sizeof(bytes));
		break;
	case 3:
		sim_run(sim);
		break;
	case 4:
		sim->keeper->now_ns += (uint64_t)at << (how % 12);
		break;
	case 5:
		atomic_store(&head->pins_used, at);
		take(in, &sim_pins(client)[at % 64], sizeof(struct pin_cell));
		break;
	case 6: /* a cursor */
		if (how & 1)
			atomic_store(&head->submission_tail.value, at);
		else
			atomic_store(&head->completion_head[at % PAGE_QUEUES].value, at);
		break;
	default:
		evict_bytes(sim->realm, at);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static struct sim sim;
	static struct honest honest;
	struct sim_options options = {.dram_bytes = 4 << 20,
		.use_max = 40 * 4096,
		.index_blocks = 64,
		.age_limit_ns = NS_PER_S};
	struct input in = {data, bytes};
	struct sim_client client;
	struct wire_space_answer space;

	SKEP_CHECK(sim_create(&sim, &options) == 0);
	honest_open(&sim, &honest);
	SKEP_CHECK(sim_client_open(&sim, sim.realm, &client) == 0);
	SKEP_CHECK(sim_space_open(&client, &kind, &space) == 0);
	for (unsigned i = 0; in.left && i < STEPS_MAX; i++)
		step(&in, &sim, &client);
	sim_run(&sim);
	/* Quarantine and removal unpublish what any session of the realm names; bytes stay. */
	for (uint32_t i = 0; i < HONEST_BLOCKS; i++)
		SKEP_CHECK(block_sum(&sim, honest.names[i].slot) == honest.sums[i]);
	sim_client_close(&client, false);
	sim_client_close(&honest.client, true);
	sim.keeper->now_ns += 3600 * NS_PER_S;
	sim_run(&sim);
	sim_destroy(&sim);
	return 0;
}
