/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cached prefixes of an arena beside a real node in this process, on the host back end: pages are
 * shared by who begins alike, go to the store under pressure and come back out of it, are put for
 * another session that asks, and whatever a sequence is given are the bytes of its tokens.
 *
 *	engine_prefix_test [SEED]
 */
#include "engine/prefix/prefix.h"

#include <errno.h>
#include <skep/skep_hbm.h>
#include <stdbool.h>

#include "tests/base/unit.h"

enum {
	BLOCK_TOKENS = 4,
	PAGES = 48,
	PROMPT_BLOCKS = 10,
	PROMPTS = 9,
	LIVES = 400,
};

#define WHERE "embedded:dram=64MiB,realm=unit"

static struct gpu *gpu;
static struct gpu_stream *stream;
static struct arena *arena;
static struct skep *session, *other;
static struct skep_space *space, *other_space;
static struct prefix *prefix;
static uint64_t block_bytes;
static unsigned char *bytes, *wanted;

static struct skep_space *space_of(struct skep *of)
{
	struct skep_part_layout part = {.bytes = block_bytes, .ranges = 1};
	struct skep_space_options options = {.struct_bytes = sizeof(options),
		.name = "prefix",
		.block_tokens = BLOCK_TOKENS,
		.part_count = 1,
		.parts = &part};
	struct skep_space *made;

	REQUIRE_EQ(skep_space_open(of, &options, &made), 0);
	return made;
}

static void world_open(uint32_t blocks_max)
{
	struct arena_options options = {.pages_max = PAGES,
		.sequences_max = 8,
		.tokens_max = 16 * BLOCK_TOKENS,
		.shape = {.layers = 2, .heads = 2, .block_tokens = BLOCK_TOKENS}};
	struct prefix_options keeping = {.blocks_max = blocks_max};

	REQUIRE_EQ(gpu_open(GPU_HOST, 0, &gpu), 0);
	REQUIRE_EQ(gpu_stream_create(gpu, &stream), 0);
	options.gpu = gpu;
	options.stream = stream;
	options.shape.head_bytes = (uint32_t)gpu_info(gpu)->page_bytes / 32;
	REQUIRE_EQ(arena_create(&options, &arena), 0);
	block_bytes = arena_geometry(arena)->block_bytes;
	REQUIRE_EQ(arena_geometry(arena)->page_blocks, 1);
	bytes = malloc(block_bytes);
	wanted = malloc(block_bytes);
	REQUIRE(bytes && wanted);
	REQUIRE_EQ(skep_open(WHERE, NULL, &session), 0);
	REQUIRE_EQ(skep_open(WHERE, NULL, &other), 0);
	space = space_of(session);
	other_space = space_of(other);
	keeping.arena = arena;
	keeping.stream = stream;
	keeping.session = session;
	keeping.space = space;
	REQUIRE_EQ(prefix_create(&keeping, &prefix), 0);
}

static void world_close(void)
{
	struct arena_usage usage;
	struct arena_counters counters;

	prefix_destroy(prefix);
	arena_usage_get(arena, &usage, &counters);
	REQUIRE_EQ(usage.pages_held, 0);
	skep_close(other);
	skep_close(session);
	arena_destroy(arena);
	gpu_stream_destroy(stream);
	gpu_close(gpu);
	free(bytes);
	free(wanted);
}

/* ----------------------------------------------------------------------------------- prompts */

/* Three families, which begin alike for some blocks. */
struct prompt {
	uint32_t tokens[PROMPT_BLOCKS * BLOCK_TOKENS + 2];
	struct prefix_tokens as;
	uint32_t blocks;
};

static struct prompt prompt_of(uint32_t number, uint32_t blocks)
{
	struct prompt prompt = {.blocks = blocks};

	for (uint32_t i = 0; i < ARRAY_COUNT(prompt.tokens); i++) {
		bool shared = i / BLOCK_TOKENS < 4;

		prompt.tokens[i] = (shared ? number % 3 : 100 + number) * 1000 + i;
	}
	prompt.as.count = blocks * BLOCK_TOKENS + 2; /* and a piece of one more */
	return prompt;
}

static struct prefix_tokens *as_tokens(struct prompt *prompt)
{
	prompt->as.tokens = prompt->tokens;
	return &prompt->as;
}

/* The bytes of a block follow from all tokens up to its end. */
static void block_bytes_make(const struct prompt *prompt, uint32_t block, unsigned char *to)
{
	uint64_t seed = 1;

	for (uint32_t i = 0; i < (block + 1) * BLOCK_TOKENS; i++)
		seed = mix64(seed ^ prompt->tokens[i]);
	for (uint64_t at = 0; at < block_bytes; at += 8) {
		uint64_t word = mix64(seed + at);

		memcpy(to + at, &word, 8);
	}
}

static uint64_t block_at(struct arena_sequence *sequence, uint32_t block)
{
	return arena_base(sequence) + block * block_bytes;
}

/* As a prefill would: the blocks that the sequence has not. */
static void prompt_compute(
	struct arena_sequence *sequence, const struct prompt *prompt, uint32_t from)
{
	REQUIRE(arena_extend(sequence, prompt->as.count) >= 0);
	for (uint32_t i = from; i < prompt->blocks; i++) {
		block_bytes_make(prompt, i, bytes);
		REQUIRE_EQ(gpu_copy_in(stream, block_at(sequence, i), bytes, block_bytes), 0);
	}
	REQUIRE_EQ(gpu_stream_sync(stream), 0);
}

static void prompt_check(
	struct arena_sequence *sequence, const struct prompt *prompt, uint32_t blocks)
{
	REQUIRE_EQ(arena_sync(sequence), 0);
	for (uint32_t i = 0; i < blocks; i++) {
		block_bytes_make(prompt, i, wanted);
		REQUIRE_EQ(gpu_copy_out(stream, bytes, block_at(sequence, i), block_bytes), 0);
		REQUIRE_EQ(gpu_stream_sync(stream), 0);
		REQUIRE(!memcmp(bytes, wanted, block_bytes));
	}
}

/* Attaches what can be had, computes the rest, keeps it all. Return: tokens that were attached. */
static int64_t prompt_run(struct prompt *prompt)
{
	struct arena_sequence *sequence;
	int64_t had;

	REQUIRE_EQ(arena_open(arena, ARENA_CONTIGUOUS, &sequence), 0);
	had = prefix_attach(prefix, sequence, as_tokens(prompt), skep_deadline_ms(2000));
	REQUIRE(had >= 0 && had % BLOCK_TOKENS == 0 && had <= prompt->blocks * BLOCK_TOKENS);
	prompt_check(sequence, prompt, (uint32_t)had / BLOCK_TOKENS);
	prompt_compute(sequence, prompt, (uint32_t)had / BLOCK_TOKENS);
	REQUIRE(prefix_keep(prefix, sequence, as_tokens(prompt), skep_deadline_ms(2000)) >= 0);
	prompt_check(sequence, prompt, prompt->blocks);
	arena_free(sequence, 0);
	arena_settle(arena);
	return had;
}

static struct prefix_status status_now(void)
{
	struct prefix_status status;

	prefix_status_get(prefix, &status);
	return status;
}

/* ---------------------------------------------------------------------------------- scenarios */

static void who_begins_alike_shares_pages(void)
{
	struct prompt one = prompt_of(0, 6), two = prompt_of(3, 8);
	struct arena_usage usage;
	struct arena_counters counters;

	world_open(64);
	REQUIRE_EQ(prompt_run(&one), 0);
	REQUIRE_EQ(status_now().kept, 6);
	REQUIRE_EQ(prompt_run(&one), 6 * BLOCK_TOKENS);
	REQUIRE_EQ(prompt_run(&two), 4 * BLOCK_TOKENS);
	REQUIRE_EQ(status_now().blocks, 10);
	arena_usage_get(arena, &usage, &counters);
	REQUIRE_EQ(usage.pages_held, 10); /* none twice */
	REQUIRE_EQ(status_now().promoted, 0);
	world_close();
}

static void pages_go_to_the_store_and_come_back(void)
{
	struct prompt one = prompt_of(0, 8);
	struct skep_stats stats = {.struct_bytes = sizeof(stats)};

	world_open(64);
	REQUIRE_EQ(prompt_run(&one), 0);
	REQUIRE_EQ(prefix_reclaim(prefix, 3, skep_deadline_ms(2000)), 3);
	REQUIRE_EQ(status_now().demoted, 3);
	REQUIRE_EQ(status_now().blocks, 5);
	/* What is above them is in both. */
	REQUIRE_EQ(skep_stats(session, skep_deadline_ms(2000), &stats), 0);
	REQUIRE_EQ(stats.blocks, 8);
	REQUIRE_EQ(prompt_run(&one), 8 * BLOCK_TOKENS);
	REQUIRE_EQ(status_now().promoted, 3);
	REQUIRE_EQ(prefix_reclaim(prefix, 100, skep_deadline_ms(2000)), 8);
	REQUIRE_EQ(status_now().blocks, 0);
	REQUIRE_EQ(prompt_run(&one), 8 * BLOCK_TOKENS);
	REQUIRE_EQ(status_now().lost, 0);
	world_close();
}

/* What a sequence has gives no room, so it stays. */
static void what_is_in_use_stays(void)
{
	struct prompt one = prompt_of(0, 6);
	struct arena_sequence *sequence;

	world_open(64);
	REQUIRE_EQ(prompt_run(&one), 0);
	REQUIRE_EQ(arena_open(arena, ARENA_CONTIGUOUS, &sequence), 0);
	REQUIRE_EQ(prefix_attach(prefix, sequence, as_tokens(&one), 0), 6 * BLOCK_TOKENS);
	REQUIRE_EQ(prefix_attach(prefix, sequence, as_tokens(&one), 0), -EINVAL);
	REQUIRE_EQ(prefix_reclaim(prefix, 100, skep_deadline_ms(2000)), 0);
	prompt_check(sequence, &one, 6);
	arena_free(sequence, 0);
	arena_settle(arena);
	REQUIRE_EQ(prefix_reclaim(prefix, 100, skep_deadline_ms(2000)), 6);
	world_close();
}

static void another_session_gets_what_it_asks_for(void)
{
	struct prompt one = prompt_of(0, 8);
	struct skep_ref refs[8];
	struct skep_queue *queue;
	struct skep_event event;
	struct skep_load load = {
		.struct_bytes = sizeof(load), .refs = refs, .refs_max = 8, .flags = SKEP_LOAD_ASK};
	struct skep_stats stats = {.struct_bytes = sizeof(stats)};
	uint64_t until = clock_ns() + 20 * NS_PER_S;
	unsigned tries = 5;

	world_open(64);
	REQUIRE_EQ(prompt_run(&one), 0);
	REQUIRE_EQ(prefix_step(prefix), 0);
	/* It listens from now on: the daemon has taken what it said before this question. */
	REQUIRE_EQ(skep_stats(session, skep_deadline_ms(2000), &stats), 0);
	REQUIRE_EQ(skep_queue_create(other, &queue), 0);
	REQUIRE_EQ(skep_chain_create(other_space, &load.chain), 0);
	REQUIRE_EQ(skep_chain_append(load.chain, one.tokens, 8 * BLOCK_TOKENS), 8);
	load.queue = queue;
	/* Where a machine stands still for a tenth of a second a put is given up, and declined. */
	do {
		load.deadline_ns = skep_deadline_ms(10000);
		REQUIRE_EQ(skep_load(other, &load), 0);
		while (skep_queue_take(queue, &event, 1) == 0) {
			REQUIRE(clock_ns() < until);
			REQUIRE(prefix_step(prefix) >= 0);
		}
		REQUIRE_EQ(skep_load_end(other, &load), 0);
		REQUIRE(load.loaded == 8 || --tries);
		if (load.loaded < 8)
			skep_release(other, &load.pin);
	} while (load.loaded < 8);
	for (uint32_t i = 0; i < 8; i++) {
		struct skep_view view;

		REQUIRE_EQ(skep_view(other, &refs[i], 0, &view), 0);
		REQUIRE_EQ(view.length, block_bytes);
		block_bytes_make(&one, i, wanted);
		REQUIRE(!memcmp(view.bytes, wanted, block_bytes));
	}
	skep_release(other, &load.pin);
	REQUIRE(status_now().asked >= 8);
	world_close();
}

/* Blocks that were removed by command are not had, whatever lies in the pages. */
static void what_was_purged_is_computed_again(void)
{
	struct prompt one = prompt_of(0, 6);

	world_open(64);
	REQUIRE_EQ(prompt_run(&one), 0);
	REQUIRE(skep_space_purge(space, skep_deadline_ms(2000)) >= 0);
	REQUIRE_EQ(prompt_run(&one), 0);
	REQUIRE_EQ(prompt_run(&one), 6 * BLOCK_TOKENS);
	world_close();
}

/* One call of the device fails, whichever: what is attached is right all the same, and nothing is
 * left behind. Return: false: it was never made. */
static bool a_failure_costs_a_miss(uint64_t nth)
{
	struct prompt one = prompt_of(0, 6);
	struct arena_sequence *sequence;
	uint64_t before;
	bool made;

	world_open(64);
	REQUIRE_EQ(prompt_run(&one), 0);
	before = gpu_calls(gpu);
	gpu_fail_nth(gpu, nth, -EIO);
	prefix_reclaim(prefix, 4, skep_deadline_ms(2000));
	for (unsigned i = 0; i < 2; i++) {
		int64_t had;

		if (arena_open(arena, ARENA_PAGED, &sequence))
			continue;
		had = prefix_attach(prefix, sequence, as_tokens(&one), skep_deadline_ms(2000));
		REQUIRE(had <= 6 * BLOCK_TOKENS);
		arena_free(sequence, 0);
		arena_settle(arena);
	}
	made = gpu_calls(gpu) - before >= nth;
	gpu_fail_nth(gpu, 0, 0);
	/* What is kept is what it should be. */
	REQUIRE(prompt_run(&one) >= 0);
	world_close();
	return made;
}

static void failures_cost_misses(void)
{
	uint64_t nth = 1;

	while (a_failure_costs_a_miss(nth))
		nth++;
	REQUIRE(nth > 8);
}

/* More prompts than there are pages for, in any order, with pressure from all sides. */
static void a_busy_life(uint64_t random)
{
	uint64_t had = 0;

	world_open(24);
	for (unsigned i = 0; i < LIVES; i++) {
		struct prompt prompt = prompt_of(
			unit_random(&random, PROMPTS), 1 + unit_random(&random, PROMPT_BLOCKS));

		had += (uint64_t)prompt_run(&prompt);
		if (unit_random(&random, 4) == 0)
			prefix_reclaim(prefix, 1 + unit_random(&random, 20),
				unit_random(&random, 3) ? skep_deadline_ms(2000) : 0);
		REQUIRE(prefix_step(prefix) >= 0);
		REQUIRE(status_now().blocks <= 24);
	}
	REQUIRE(had > LIVES && status_now().promoted > 100 && status_now().demoted > 100);
	world_close();
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);

	who_begins_alike_shares_pages();
	pages_go_to_the_store_and_come_back();
	what_is_in_use_stays();
	another_session_gets_what_it_asks_for();
	what_was_purged_is_computed_again();
	failures_cost_misses();
	a_busy_life(seed);
	return 0;
}
