/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits: each one, when it is reached, answers clearly, harms nobody else, leaks nothing, and is
 * over when what filled it is given back.
 */
#include <errno.h>

#include "base/memory.h"
#include "tests/store/play.h"

static struct play play;
static struct play_chain chain;
static struct play_reserved reserved;

static const struct sim_space one = {
	.name = "one", .block_tokens = 4, .part_count = 1, .bytes = {4096}, .ranges = {1}};

static struct sim_options options_of(uint64_t dram_bytes, uint32_t blocks)
{
	return (struct sim_options){
		.dram_bytes = dram_bytes, .index_blocks = blocks, .age_limit_ns = NS_PER_S};
}

static void sessions(void)
{
	struct sim_options options = options_of(2 << 20, 64);
	struct sim_client more;

	options.sessions_max = 3;
	play_open(&play, &options, &one, 3);
	REQUIRE_EQ(sim_client_open(&play.sim, play.realm, &more), -EUSERS);
	play_client_end(&play, 1, true);
	REQUIRE_EQ(sim_client_open(&play.sim, play.realm, &more), 0);
	/* One whose socket is closed still counts: its process may still use what it holds. */
	session_stop(more.session);
	REQUIRE_EQ(sim_client_open(&play.sim, play.realm, &play.clients[1]), -EUSERS);
	play.clients[1].session = NULL;
	sim_client_close(&more, false);
	play_close(&play);
}

static void waits(void)
{
	struct sim_options options = options_of(2 << 20, 64);
	struct play_put put = {.chain = &chain, .count = 1};
	struct submission message = {.op = SUBMIT_WAIT, .deadline_ns = CLOCK_NEVER};

	play_open(&play, &options, &one, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 0});
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[0], &put, &reserved), 1);
	message.slot = reserved.written[0].slot;
	message.generation = atomic_load(&play.realm->index.entries[message.slot].name_generation);
	for (unsigned i = 0; i < WAITS_MAX; i++) {
		sim_push(&play.clients[1], &message);
		sim_run(&play.sim);
	}
	play_take_none(&play, 1);
	sim_push(&play.clients[1], &message);
	sim_run(&play.sim);
	REQUIRE_EQ(play_take(&play, 1).status, -EAGAIN);
	play_client_end(&play, 1, false);
	REQUIRE_EQ(play.realm->wait_count, 0);
	play_close(&play);
}

/* More blocks at a time than the index has slots: the leading ones are given. */
static void slots(void)
{
	struct sim_options options = options_of(2 << 20, 64);
	struct play_put put = {.chain = &chain, .count = 70};
	uint32_t path[80];

	play_open(&play, &options, &one, 2);
	for (uint32_t i = 0; i < 79; i++)
		path[i] = i + 1;
	path[79] = 0;
	play_chain(&play, &chain, path);
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[0], &put, &reserved), 64);
	put.first = 64;
	put.count = 1;
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[0], &put, &reserved), -EAGAIN);
	put.first = 0;
	put.count = 64;
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[1], &put, &reserved), 64);
	REQUIRE_EQ(reserved.count, 0);
	play_client_end(&play, 0, false);
	/* Slots of present blocks are got by evicting, frames or no frames. */
	REQUIRE_EQ(play_put_blocks(&play.sim, &play.clients[1], &chain, (struct probe_want){0, 64}),
		64);
	path[0] = 200;
	path[5] = 0;
	play_chain(&play, &chain, path);
	REQUIRE_EQ(
		play_put_blocks(&play.sim, &play.clients[1], &chain, (struct probe_want){0, 5}), 5);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_evicted), 5);
	play_close(&play);
}

/*
 * The heap of records: full of small ones it makes room for large ones and the other way round; a
 * record that never fits is refused.
 */
static void records(void)
{
	static const struct sim_space small = {.name = "small",
		.block_tokens = 1,
		.part_count = 1,
		.bytes = {4096},
		.ranges = {1}};
	struct sim_options options = options_of(64 << 20, 16384);
	static uint32_t tokens[INDEX_BLOCK_TOKENS_MAX];
	struct sim_space large = {.name = "large",
		.block_tokens = INDEX_BLOCK_TOKENS_MAX,
		.part_count = 1,
		.bytes = {4096},
		.ranges = {1}};
	struct wire_space_answer answer;
	struct completion done;

	options.record_bytes = 512 << 10;
	play_open(&play, &options, &small, 1);
	REQUIRE_EQ(sim_space_open(&play.clients[0], &large, &answer), 0);
	for (unsigned round = 0; round < 3; round++) {
		uint32_t path[2] = {0, 0}, made = 0;

		/* Far more small records than the heap holds. */
		for (uint32_t i = 0; i < 20000; i++) {
			path[0] = round * 20000 + i + 1;
			play_chain(&play, &chain, path);
			made += play_put_blocks(
				&play.sim, &play.clients[0], &chain, (struct probe_want){0, 1});
		}
		REQUIRE_EQ(made, 20000);
		for (uint32_t i = 0; i < 12; i++) {
			struct block_id id;
			struct probe_chain probe = {.ids = &id,
				.tokens = tokens,
				.block_tokens = INDEX_BLOCK_TOKENS_MAX,
				.block_count = 1,
				.space = answer.space};
			struct sim_put put = {
				.chain = &probe, .count = 1, .space_generation = answer.generation};
			const struct reserve_block *block = sim_scratch(&play.clients[0], 0);
			struct sim_written written = {.ranges = 1};

			tokens[0] = round * 100 + i;
			REQUIRE(sim_reserve(&play.clients[0], &put));
			sim_run(&play.sim);
			REQUIRE_EQ(play_take(&play, 0).status, 1);
			written.slot = block->slot;
			written.write = block->write;
			REQUIRE(sim_commit_blind(&play.clients[0], &written, 1));
			sim_run(&play.sim);
			REQUIRE(sim_take(&play.clients[0], 0, &done) && done.status == 1);
		}
	}
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_puts_refused), 0);
	play_close(&play);

	/* One block's record is larger than the whole heap. */
	options.record_bytes = 256 << 10;
	large.part_count = 64;
	for (unsigned i = 0; i < 64; i++) {
		large.bytes[i] = 4 << 20;
		large.ranges[i] = 1024;
	}
	play_open(&play, &options, &large, 1);
	{
		struct block_id id;
		struct probe_chain probe = {.ids = &id,
			.tokens = tokens,
			.block_tokens = INDEX_BLOCK_TOKENS_MAX,
			.block_count = 1,
			.space = play.space.answer.space};
		struct sim_put put = {.chain = &probe,
			.count = 1,
			.deadline_ns = CLOCK_NEVER,
			.space_generation = play.space.answer.generation};

		REQUIRE(sim_reserve(&play.clients[0], &put));
		sim_run(&play.sim);
		REQUIRE_EQ(play_take(&play, 0).status, -ENOSPC);
	}
	play_close(&play);
}

/* Whoever waits for a record that nothing gives room for evicts nobody while he waits. */
static void waiting_for_a_record_harms_nobody(void)
{
	static const struct sim_space other = {.name = "other",
		.block_tokens = 8,
		.part_count = 1,
		.bytes = {4096},
		.ranges = {1}};
	struct sim_options options = options_of(64 << 20, 4096);
	struct play_put put = {.chain = &chain, .count = 1};
	struct play_space space;
	static struct play_chain larger;
	uint64_t evicted;

	/* One slab for all records; one of its blocks is being written for long. */
	options.record_bytes = 256 << 10;
	options.age_limit_ns = 3600 * NS_PER_S;
	play_open(&play, &options, &one, 2);
	play_space_open(&play.clients[1], &other, &space);
	play_chain(&play, &chain, (const uint32_t[]){1, 0});
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[0], &put, &reserved), 1);
	for (uint32_t i = 0; i < 500; i++) {
		play_chain(&play, &chain, (const uint32_t[]){i + 2, 0});
		REQUIRE_EQ(play_put_blocks(
				   &play.sim, &play.clients[0], &chain, (struct probe_want){0, 1}),
			1);
	}
	evicted = play_counter(&play, REALM_COUNTER_blocks_evicted);
	play_chain_make(&larger, &play.sim, &space, (const uint32_t[]){7}, 1);
	put.chain = &larger;
	put.deadline_ns = play.sim.keeper->now_ns + NS_PER_S;
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[1], &put, &reserved), PLAY_BLOCKED);
	for (unsigned i = 0; i < 900; i++)
		play_later(&play, NS_PER_MS);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_evicted), evicted);
	play_client_end(&play, 0, false); /* the writer gives up: now there is room */
	play_later(&play, NS_PER_MS);
	REQUIRE_EQ(play_take(&play, 1).status, 1);
	play_close(&play);
}

static void spaces(void)
{
	struct sim_options options = options_of(2 << 20, 64);
	struct wire_space_answer answer;
	struct sim_space kind = one;
	char name[32];

	play_open(&play, &options, &one, 2);
	kind.name = name;
	for (unsigned i = 1; i < INDEX_SPACES_MAX; i++) {
		snprintf(name, sizeof(name), "space %u", i);
		REQUIRE_EQ(sim_space_open(&play.clients[0], &kind, &answer), 0);
		REQUIRE_EQ(answer.space, i);
	}
	snprintf(name, sizeof(name), "one too many");
	REQUIRE_EQ(sim_space_open(&play.clients[0], &kind, &answer), -ENOSPC);
	/* Nobody has it open and it holds nothing: the place can be had. */
	play_chain(&play, &chain, (const uint32_t[]){1, 0});
	play_put_blocks(&play.sim, &play.clients[1], &chain, (struct probe_want){0, 1});
	play_client_end(&play, 0, true);
	REQUIRE_EQ(sim_space_open(&play.clients[1], &kind, &answer), 0);
	REQUIRE_EQ(answer.space, 1); /* "one" holds a block and is open */
	REQUIRE_EQ(play_present(&play.clients[1], &chain), 1);
	snprintf(name, sizeof(name), "space 1");
	REQUIRE_EQ(sim_space_open(&play.clients[1], &kind, &answer), 0);
	REQUIRE_EQ(answer.space, 2); /* made anew, of version 1 again, under another generation */
	play_close(&play);
}

/* More frame sizes than there are classes: the odd ones share the next larger class. */
static void frame_sizes(void)
{
	struct sim_options options = options_of(2ull << 30, 1024);
	struct sim_space kind = {.name = "many", .block_tokens = 4, .part_count = 64};
	struct play_space space;

	for (uint32_t i = 0; i < 64; i++) {
		kind.bytes[i] = 8192 * (i + 1);
		kind.ranges[i] = 1;
	}
	play_open(&play, &options, &kind, 1);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 0});
	REQUIRE_EQ(
		play_put_blocks(&play.sim, &play.clients[0], &chain, (struct probe_want){0, 2}), 2);
	kind = one;
	kind.name = "odd";
	kind.bytes[0] = 12288;
	play_space_open(&play.clients[0], &kind, &space);
	play_chain_make(&chain, &play.sim, &space, (const uint32_t[]){1, 2}, 2);
	REQUIRE_EQ(
		play_put_blocks(&play.sim, &play.clients[0], &chain, (struct probe_want){0, 2}), 2);
	kind.name = "larger than all";
	kind.bytes[0] = 65 * 8192;
	REQUIRE_EQ(sim_space_open(&play.clients[0], &kind, &space.answer), -ENOSPC);
	REQUIRE_TEXT(space.answer.field, "parts[0].bytes");
	/* It leaves no trace: the name is free for a space that fits. */
	kind.bytes[0] = 8192;
	play_space_open(&play.clients[0], &kind, &space);
	play_close(&play);
}

/* A ring whose cursor runs ahead of what it can hold ends that session alone. */
static void a_ring_out_of_bounds(void)
{
	struct sim_options options = options_of(2 << 20, 64);

	play_open(&play, &options, &one, 2);
	atomic_store(&sim_page(&play.clients[0])->submission_tail.value, PAGE_SUBMISSIONS + 1);
	sim_run(&play.sim);
	REQUIRE_EQ(play.sim.cuts, 1);
	REQUIRE(play.clients[0].session->stopped && !play.clients[1].session->stopped);
	play_client_end(&play, 0, false);
	/* A completion ring whose reader claims to be ahead of the writer has no room either. */
	atomic_store(&sim_page(&play.clients[1])->completion_head[0].value, 5);
	sim_push(&play.clients[1], &(struct submission){.op = SUBMIT_WAIT});
	sim_run(&play.sim);
	REQUIRE_EQ(play.sim.cuts, 2);
	play_close(&play);
}

/* Messages that no client of ours sends: unknown op, no such queue, a scratch out of bounds. */
static void messages_out_of_bounds(void)
{
	struct submission wrong[] = {
		{.op = 0},
		{.op = SUBMIT_ASKS + 1},
		{.op = SUBMIT_ANNOUNCE, .count = 0, .scratch_bytes = 64},
		{.op = SUBMIT_ANNOUNCE, .count = 1, .scratch_bytes = 55},
		{.op = SUBMIT_WITHDRAW, .count = 2, .scratch_bytes = 47},
		{.op = SUBMIT_WITHDRAW, .count = HBM_PARTS_MAX + 1, .scratch_bytes = 64 << 10},
		{.op = SUBMIT_WITHDRAW, .count = 1, .scratch_bytes = 64, .u.other.kind = 2},
		{.op = SUBMIT_ASKS, .count = 1, .scratch_at = 4, .scratch_bytes = 64},
		{.op = SUBMIT_TOUCH, .count = 1},
		{.op = SUBMIT_TOUCH, .queue = 1},
		{.op = SUBMIT_TOUCH, .queue = PAGE_QUEUES},
		{.op = SUBMIT_RESERVE, .count = 1, .scratch_at = 4, .scratch_bytes = 64},
		{.op = SUBMIT_RESERVE, .count = 2, .scratch_bytes = 64},
		{.op = SUBMIT_RESERVE, .count = 0, .scratch_bytes = 64},
		{.op = SUBMIT_RESERVE, .count = 1, .scratch_bytes = UINT32_MAX},
		{.op = SUBMIT_RESERVE,
			.count = 1,
			.scratch_at = PAGE_SCRATCH_BYTES - 8,
			.scratch_bytes = 64},
		{.op = SUBMIT_RESERVE,
			.count = 1,
			.scratch_bytes = 64,
			.u.reserve.space = INDEX_SPACES_MAX},
		{.op = SUBMIT_COMMIT, .count = 1, .scratch_bytes = 39},
		{.op = SUBMIT_ABORT, .count = UINT32_MAX, .scratch_bytes = 4096},
		{.op = SUBMIT_EXPLAIN, .scratch_bytes = 64},
		{.op = SUBMIT_EXPLAIN, .scratch_bytes = 512, .u.reserve.space = INDEX_SPACES_MAX},
	};

	for (unsigned i = 0; i < ARRAY_COUNT(wrong); i++) {
		struct sim_options options = options_of(2 << 20, 64);

		play_open(&play, &options, &one, 1);
		sim_push(&play.clients[0], &wrong[i]);
		sim_run(&play.sim);
		REQUIRE_EQ(play.sim.cuts, 1);
		REQUIRE_EQ(play_counter(&play, REALM_COUNTER_sessions_broken), 1);
		play_close(&play);
	}
}

/* What is refused without harm: a part that is not there, a session that may only read. */
static void requests_out_of_place(void)
{
	struct sim_options options = options_of(2 << 20, 64);
	struct play_put put = {.chain = &chain, .count = 1, .part = 1};

	play_open(&play, &options, &one, 1);
	play_chain(&play, &chain, (const uint32_t[]){1, 0});
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[0], &put, &reserved), -ERANGE);
	put.part = 0;
	play.clients[0].session->readonly = true;
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[0], &put, &reserved), -EROFS);
	REQUIRE_EQ(play.sim.cuts, 0);
	play_close(&play);
}

/* Every allocation of a keeper, a realm and a session fails once: said so, and nothing is left. */
static void memory_is_short(void)
{
	struct sim_options options = options_of(4 << 20, 64);
	unsigned failed = 0;
	int status = -ENOMEM;

	for (unsigned long nth = 1; status < 0; nth++) {
		struct sim sim;
		struct sim_client client;

		memory_fail_after(nth, 0);
		status = sim_create(&sim, &options);
		if (status == 0) {
			/* The page is the test's; what the keeper allocates comes after it. */
			status = sim_client_open(&sim, sim.realm, &client);
			memory_fail_after(0, 0);
			if (status == 0)
				sim_client_close(&client, true);
			sim_destroy(&sim);
		}
		memory_fail_after(0, 0);
		REQUIRE(status == 0 || status == -ENOMEM);
		failed += status < 0;
	}
	REQUIRE(failed > 20);
}

int main(void)
{
	memory_is_short();
	sessions();
	waits();
	slots();
	spaces();
	a_ring_out_of_bounds();
	messages_out_of_bounds();
	requests_out_of_place();
	frame_sizes();
	waiting_for_a_record_harms_nobody();
	records();
	return 0;
}
