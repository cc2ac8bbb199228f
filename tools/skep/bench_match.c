/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include "engine/include/skep/skep.h"
#include "store/read/probe.h"
#include "tools/skep/bench.h"
#include "tools/skep/bench_index.h"
#include "tools/skep/commands.h"
#include "tools/skep/replay_daemon.h"

/*
 * `skep bench match`. Fills an index with conversations as an engine would: several at a time, a
 * batch of each in turn, and then a share of the index once more, so that the newest conversations
 * lie where evicted ones were. Then chains are picked at random and matched, and after each match
 * the same number of lines is read at random from the entries of the same mapping.
 */

/* The smallest frames there are: it is the index that shall be large. */
#define FRAME_BYTES	  4096
#define TOKEN_KINDS	  131072 /* about as many as vocabularies have */
#define TRIES_OF_DISTANCE 200
#define PUT_WAIT_MS	  10000

struct match_bench {
	const struct bench_options *options;
	struct replay_daemon daemon;
	struct skep *session;
	struct skep_space *space;
	struct index_view index;    /* as libskep maps it in this process */
	uint64_t live;		    /* conversations that stand: the newest */
	uint64_t put;		    /* conversations put so far */
	uint64_t random;	    /* state of the choices */
	uint32_t lines_used;	    /* entries in use lie below */
	struct skep_chain **chains; /* of the conversations being put; the first one matches */
	uint32_t *tokens;	    /* of one conversation */
	struct skep_ref *refs;
	struct skep_frame *frames;
	uint64_t *sums;
	uint32_t *lines; /* to be read: one for each block, and the distance's more */
	unsigned char *payload;
	unsigned distance;
	uint64_t read; /* what was read, so that it is not optimised away */
	struct samples hashed_us, probed_us, ceiling_us;
	double hashed_seconds;
};

static uint64_t next_random(struct match_bench *bench)
{
	return mix64(bench->random++);
}

/* ------------------------------------------------------------------------------ conversations */

static size_t conversation_tokens(const struct match_bench *bench)
{
	return bench->options->blocks * bench->options->block_tokens;
}

/* The tokens [first, end) of a conversation. */
struct token_range {
	size_t first, end;
};

static void tokens_make(struct match_bench *bench, uint64_t conversation, struct token_range range)
{
	uint64_t base = mix64(bench->options->seed ^ mix64(conversation + 1));

	for (size_t i = range.first; i < range.end; i++)
		bench->tokens[i] = (uint32_t)(mix64(base + i) % TOKEN_KINDS);
}

/* Puts the blocks [first, first + count) of @chain. */
struct block_range {
	uint32_t first, count;
};

static int frames_commit(struct match_bench *bench, unsigned count)
{
	struct skep_commit commit = {
		.struct_bytes = sizeof(commit),
		.sums = SKEP_SUMS_GIVEN,
		.given = bench->sums,
		.deadline_ns = skep_deadline_ms(PUT_WAIT_MS),
	};
	int status;

	for (unsigned i = 0; i < count; i++) {
		struct skep_frame *frame = &bench->frames[i];

		/* Nobody else puts here, and each conversation is put once. */
		if (frame->status)
			return frame->status;
		bench->sums[i] = skep_copy_sum(frame->bytes, bench->payload, frame->length);
	}
	status = skep_commit(bench->session, bench->frames, count, &commit);
	if (status < 0)
		return status;
	return (unsigned)status == count ? 0 : -EIO;
}

static int blocks_put(struct match_bench *bench, struct skep_chain *chain, struct block_range range)
{
	while (range.count) {
		struct skep_reserve reserve = {
			.struct_bytes = sizeof(reserve),
			.chain = chain,
			.first = range.first,
			.count = range.count,
			.deadline_ns = skep_deadline_ms(PUT_WAIT_MS),
		};
		int answered = skep_reserve(bench->session, &reserve, bench->frames);
		int status;

		if (answered < 0)
			return answered;
		SKEP_CHECK(answered > 0 && (uint32_t)answered <= range.count);
		status = frames_commit(bench, (unsigned)answered);
		if (status)
			return status;
		range.first += (uint32_t)answered;
		range.count -= (uint32_t)answered;
	}
	return 0;
}

/* Puts the next conversations side by side, a batch of each in turn. */
static int conversations_put(struct match_bench *bench, uint64_t count)
{
	const struct bench_options *options = bench->options;
	struct block_range range = {0};

	for (uint64_t i = 0; i < count; i++)
		skep_chain_truncate(bench->chains[i], 0);
	for (; range.first < options->blocks; range.first += range.count) {
		struct token_range tokens;

		range.count = (uint32_t)MIN_OF(options->batch, options->blocks - range.first);
		tokens.first = range.first * options->block_tokens;
		tokens.end = tokens.first + range.count * options->block_tokens;
		for (uint64_t i = 0; i < count; i++) {
			int status;

			tokens_make(bench, bench->put + i, tokens);
			status = skep_chain_append(bench->chains[i], bench->tokens + tokens.first,
				tokens.end - tokens.first);
			if (status >= 0)
				status = blocks_put(bench, bench->chains[i], range);
			if (status < 0)
				return status;
		}
	}
	bench->put += count;
	return 0;
}

static int index_fill(struct match_bench *bench)
{
	uint64_t all = bench->live + bench->live * bench->options->turnover / 100;

	while (bench->put < all && !bench_interrupted()) {
		uint64_t count = MIN_OF(bench->options->interleaved, all - bench->put);
		int status = conversations_put(bench, count);

		if (status)
			return bench_complain(EXIT_DAEMON, "conversation %" PRIu64 ": %s",
				bench->put, skep_status_text(status));
	}
	return bench_interrupted() ? BENCH_EXIT_INTERRUPTED : 0;
}

/* ------------------------------------------------------------------------------------ matches */

/* Nanoseconds of the clock at the steps of one match. */
struct match_times {
	uint64_t began, hashed, ended;
};

/* Matches one conversation from its tokens and lets it go. Return: 0 or how the command ends. */
static int conversation_match(
	struct match_bench *bench, uint64_t conversation, struct match_times *times)
{
	struct skep_match match = {
		.struct_bytes = sizeof(match),
		.chain = bench->chains[0],
		.flags = SKEP_MATCH_PIN,
		.refs = bench->refs,
		.refs_max = (uint32_t)bench->options->blocks,
	};
	int appended, status;

	tokens_make(bench, conversation, (struct token_range){.end = conversation_tokens(bench)});
	times->began = clock_ns();
	skep_chain_truncate(match.chain, 0);
	appended = skep_chain_append(match.chain, bench->tokens, conversation_tokens(bench));
	times->hashed = clock_ns();
	status = skep_match(bench->session, &match, 1);
	skep_release(bench->session, &match.pin);
	times->ended = clock_ns();
	if (appended < 0 || status)
		return bench_complain(
			EXIT_DAEMON, "match: %s", skep_status_text(MIN_OF(appended, status)));
	if (match.matched != bench->options->blocks)
		return bench_complain(EXIT_DAEMON,
			"of conversation %" PRIu64 " %" PRIu32 " blocks were matched, not %" PRIu64
			" (%s)",
			conversation, match.matched, bench->options->blocks,
			skep_reason_text(match.reason));
	return 0;
}

/* ------------------------------------------------------------------------------------ ceiling */

/*
 * Reads all of so many lines at random places: what a match would cost if every block were one
 * line that is known beforehand. Return: nanoseconds.
 */
static uint64_t ceiling_read(struct match_bench *bench)
{
	const uint32_t *lines = bench->lines;
	const struct index_entry *entries = bench->index.entries;
	uint64_t count = bench->options->blocks, began, sum[8] = {0};
	unsigned distance = bench->distance;

	for (uint64_t i = 0; i < count + distance; i++)
		bench->lines[i] = (uint32_t)(next_random(bench) % bench->lines_used);
	began = clock_ns();
	for (unsigned i = 0; i < distance; i++)
		__builtin_prefetch(&entries[lines[i]]);
	for (uint64_t i = 0; i < count; i++) {
		const _Atomic uint64_t *line = (const void *)&entries[lines[i]];

		if (distance)
			__builtin_prefetch(&entries[lines[i + distance]]);
		for (unsigned word = 0; word < 8; word++)
			sum[word] += atomic_load_explicit(&line[word], memory_order_relaxed);
	}
	for (unsigned word = 0; word < 8; word++)
		bench->read += sum[word];
	return clock_ns() - began;
}

/* How far ahead this machine wants to be asked: the best of some. */
static const unsigned distances[] = {0, 8, 12, 16, 24, 32, 48, 64};
#define DISTANCE_MAX 64

static int distance_choose(struct match_bench *bench)
{
	struct samples tries;
	unsigned best = 0;
	double best_ns = 0;

	if (samples_create(&tries, TRIES_OF_DISTANCE))
		return bench_complain(EXIT_DAEMON, "out of memory");
	for (unsigned i = 0; i < ARRAY_COUNT(distances); i++) {
		double ns;

		tries.count = 0;
		bench->distance = distances[i];
		while (tries.count < TRIES_OF_DISTANCE)
			samples_add(&tries, (double)ceiling_read(bench));
		ns = samples_quantile(&tries, 0.5);
		if (i == 0 || ns < best_ns) {
			best = distances[i];
			best_ns = ns;
		}
	}
	samples_free(&tries);
	bench->distance = best;
	return 0;
}

/* ------------------------------------------------------------------------------------- running */

static int measure(struct match_bench *bench)
{
	uint64_t oldest = bench->put - bench->live;
	struct match_times times;
	int status = 0;

	/* Each once: that all of them stand, and page tables do. */
	for (uint64_t i = 0; !status && i < bench->live; i++)
		status = conversation_match(bench, oldest + i, &times);
	if (!status)
		status = distance_choose(bench);
	for (uint64_t i = 0; !status && i < bench->options->matches; i++) {
		if (bench_interrupted())
			return BENCH_EXIT_INTERRUPTED;
		status = conversation_match(
			bench, oldest + next_random(bench) % bench->live, &times);
		samples_add(&bench->hashed_us, (double)(times.ended - times.began) / NS_PER_US);
		samples_add(&bench->probed_us, (double)(times.ended - times.hashed) / NS_PER_US);
		bench->hashed_seconds += (double)(times.ended - times.began) / NS_PER_S;
		samples_add(&bench->ceiling_us, (double)ceiling_read(bench) / NS_PER_US);
	}
	return status;
}

static int report(struct match_bench *bench)
{
	const struct bench_options *options = bench->options;
	double probed = samples_quantile(&bench->probed_us, 0.5);
	double ceiling = samples_quantile(&bench->ceiling_us, 0.5);
	double matches = (double)options->matches;
	const struct figure figures[] = {
		{"hashed_p50_us", samples_quantile(&bench->hashed_us, 0.5),
			"a match from its tokens: hashed, matched, pinned, released", "hashed_us",
			&bench->hashed_us},
		FIGURE("hashed_p99_us", samples_quantile(&bench->hashed_us, 0.99), ""),
		{"probed_p50_us", probed,
			"of it, without hashing: proof compared, pinned, read again", "probed_us",
			&bench->probed_us},
		FIGURE("probed_p99_us", samples_quantile(&bench->probed_us, 0.99), ""),
		{"ceiling_p50_us", ceiling, "as many random lines of the index's entries read",
			"ceiling_us", &bench->ceiling_us},
		FIGURE("ceiling_p99_us", samples_quantile(&bench->ceiling_us, 0.99), ""),
		FIGURE("ceiling_distance", bench->distance,
			"lines asked for ahead: the fastest of some"),
		FIGURE("probe_ratio", probed / ceiling, "probed over ceiling, medians"),
		FIGURE("blocks_per_s", matches * (double)options->blocks / bench->hashed_seconds,
			"matched from their tokens, one thread"),
		FIGURE("blocks", (double)options->blocks, "of a chain"),
		FIGURE("block_tokens", (double)options->block_tokens, "of a block"),
		FIGURE("index_blocks", (double)(bench->live * options->blocks), "in the index"),
		FIGURE("matches", matches, "measured"),
		FIGURE("", 0, ""),
	};

	return figures_print(figures, options->json);
}

/* ------------------------------------------------------------------------------- making, ending */

static void bench_close(struct match_bench *bench)
{
	for (uint64_t i = 0; bench->chains && i < bench->options->interleaved; i++)
		skep_chain_destroy(bench->chains[i]);
	skep_space_close(bench->space);
	skep_close(bench->session);
	replay_daemon_stop(&bench->daemon);
	memory_free(bench->chains);
	memory_free(bench->tokens);
	memory_free(bench->refs);
	memory_free(bench->frames);
	memory_free(bench->sums);
	memory_free(bench->lines);
	memory_free(bench->payload);
	samples_free(&bench->hashed_us);
	samples_free(&bench->probed_us);
	samples_free(&bench->ceiling_us);
}

static int arrays_create(struct match_bench *bench)
{
	const struct bench_options *options = bench->options;
	size_t matches = options->matches;

	bench->chains = memory_calloc(options->interleaved, sizeof(struct skep_chain *));
	bench->tokens = memory_calloc(conversation_tokens(bench), sizeof(*bench->tokens));
	bench->refs = memory_calloc(options->blocks, sizeof(*bench->refs));
	bench->frames = memory_calloc(options->batch, sizeof(*bench->frames));
	bench->sums = memory_calloc(options->batch, sizeof(*bench->sums));
	bench->lines = memory_calloc(options->blocks + DISTANCE_MAX, sizeof(*bench->lines));
	bench->payload = memory_zalloc(FRAME_BYTES);
	if (!bench->chains || !bench->tokens || !bench->refs || !bench->frames || !bench->sums ||
		!bench->lines || !bench->payload || samples_create(&bench->hashed_us, matches) ||
		samples_create(&bench->probed_us, matches) ||
		samples_create(&bench->ceiling_us, matches))
		return bench_complain(EXIT_DAEMON, "out of memory");
	for (size_t i = 0; i < FRAME_BYTES; i++)
		bench->payload[i] = (unsigned char)mix64(options->seed + i);
	return 0;
}

/* Room for those that stand and for those being put while the oldest leave. */
static int daemon_start(struct match_bench *bench)
{
	const struct bench_options *options = bench->options;
	struct replay_pool pool = {
		.blocks = (bench->live + options->interleaved) * options->blocks,
		.payload_bytes = FRAME_BYTES,
		.block_tokens = (uint32_t)options->block_tokens,
	};
	char why[REPLAY_WHY_BYTES];
	int status;

	/* A frame, what the index has of the block, and page tables of both. */
	status = bench_memory_check(
		pool.blocks * (FRAME_BYTES + 512 + sizeof(uint32_t) * options->block_tokens));
	if (!status && replay_daemon_start(&bench->daemon, &pool, why))
		status = bench_complain(EXIT_UNREACHABLE, "%s", why);
	bench->lines_used = (uint32_t)(bench->live * options->blocks);
	return status;
}

static int session_open(struct match_bench *bench)
{
	struct skep_open_options session = {.struct_bytes = sizeof(session), .name = "skep bench"};
	struct skep_part_layout part = {.bytes = FRAME_BYTES};
	struct skep_space_options space = {
		.struct_bytes = sizeof(space),
		.name = "bench",
		.block_tokens = (uint32_t)bench->options->block_tokens,
		.part_count = 1,
		.parts = &part,
	};
	int status = skep_open(bench->daemon.socket, &session, &bench->session);

	if (!status)
		status = skep_space_open(bench->session, &space, &bench->space);
	for (uint64_t i = 0; !status && i < bench->options->interleaved; i++)
		status = skep_chain_create(bench->space, &bench->chains[i]);
	if (status)
		return bench_complain(
			EXIT_UNREACHABLE, "%s: %s", bench->daemon.socket, skep_status_text(status));
	if (bench_index_find(&bench->index))
		return bench_complain(
			EXIT_DAEMON, "no mapping of the index is found in this process");
	return 0;
}

int bench_match(const struct bench_options *options)
{
	struct match_bench bench = {
		.options = options,
		.live = divide_up(options->index_blocks, options->blocks),
		.random = mix64(options->seed),
	};
	int status = arrays_create(&bench);

	if (!status)
		status = daemon_start(&bench);
	if (!status)
		status = session_open(&bench);
	if (!status)
		status = index_fill(&bench);
	if (!status)
		status = measure(&bench);
	if (!status)
		status = report(&bench);
	bench_close(&bench);
	return status;
}
