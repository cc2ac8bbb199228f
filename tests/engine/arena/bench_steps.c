/* SPDX-License-Identifier: Apache-2.0 */
/* Time: decode steps while pages are mapped, prefixes attached, single calls. */
#include "kernels/pattern.h"
#include "tests/engine/arena/bench.h"

/* --------------------------------------------------------------------------------- decode steps */

enum { BATCH_MAX = 32, ROUNDS = 9 };

/* One run: @batch sequences grow a token a step; each step also moves @work_bytes. */
struct decode {
	struct bench *bench;
	unsigned batch, steps;
	uint32_t prompt;
	uint64_t work_bytes, from, to;
};

/* MODE_MAPPED: pages are created before, and mapped by the step that needs them. */
enum mode { MODE_BEFORE, MODE_AHEAD, MODE_MAPPED, MODE_CREATED, MODES };

static const char *const mode_names[] = {
	"all mapped before", "mapped ahead", "mapped in time", "created and mapped in time"};

static struct arena *decode_arena(const struct decode *decode, enum mode mode)
{
	struct arena_options options = bench_llama(decode->bench);
	uint32_t pages = decode->batch * ((decode->prompt + 64 + decode->steps) / 16 + 2);
	struct arena *arena;

	options.background = mode == MODE_BEFORE || mode == MODE_AHEAD;
	options.ahead_tokens = mode == MODE_AHEAD ? options.ahead_tokens : 0;
	options.shape.order = ARENA_TOKEN_FIRST;
	options.tokens_max = 4096;
	if (!decode->bench->cuda) {
		options.shape.layers = 1;
		options.page_bytes = 0;
	}
	arena = bench_arena(&options);
	if (mode == MODE_MAPPED)
		REQUIRE_EQ(arena_warm(arena, pages), 0);
	return arena;
}

static void decode_prepare(const struct decode *decode, struct arena *arena, enum mode mode,
	struct arena_sequence **sequences, uint32_t *lengths)
{
	uint64_t random = 5;

	for (unsigned i = 0; i < decode->batch; i++) {
		/* Of different lengths, so that they do not all cross a page in one step. */
		lengths[i] = decode->prompt + unit_random(&random, 64);
		REQUIRE_EQ(arena_open(arena, ARENA_CONTIGUOUS, &sequences[i]), 0);
		REQUIRE_EQ(arena_extend(sequences[i], lengths[i]), 0);
		if (mode == MODE_BEFORE)
			arena_expect(sequences[i], lengths[i] + decode->steps);
	}
	arena_settle(arena);
}

static double decode_step(
	const struct decode *decode, struct arena_sequence **sequences, const uint32_t *lengths)
{
	struct bench *bench = decode->bench;
	uint64_t began_ns = clock_ns(), share;

	for (unsigned i = 0; i < decode->batch; i++)
		REQUIRE_EQ(arena_extend(sequences[i], lengths[i]), 0);
	for (unsigned i = 0; i < decode->batch; i++) {
		struct pattern_fill_args args = {.seed = i, .first = lengths[i]};

		share = arena_at(sequences[i], 1, 0, 0) - arena_at(sequences[i], 0, 0, 0);
		args.words = share / 8;
		args.at = arena_at(sequences[i], lengths[i] - 1, 0, 0);
		REQUIRE_EQ(pattern_fill(bench->gpu, bench->stream, &args), 0);
	}
	REQUIRE_EQ(gpu_copy(bench->stream, decode->to, decode->from, decode->work_bytes), 0);
	return (double)(bench_sync(bench) - began_ns) / 1e3;
}

static void decode_run(const struct decode *decode, enum mode mode, struct samples *all,
	struct arena_counters *counters)
{
	struct arena_sequence *sequences[BATCH_MAX];
	struct arena *arena = decode_arena(decode, mode);
	uint32_t lengths[BATCH_MAX];
	struct arena_usage usage;
	struct arena_counters before;

	decode_prepare(decode, arena, mode, sequences, lengths);
	arena_usage_get(arena, &usage, &before);
	bench_sync(decode->bench);
	for (unsigned step = 0; step < decode->steps; step++) {
		double took_us;

		for (unsigned i = 0; i < decode->batch; i++)
			lengths[i]++;
		took_us = decode_step(decode, sequences, lengths);
		if (step >= 8) /* the first few find nothing in caches */
			samples_add(all, took_us);
	}
	arena_usage_get(arena, &usage, counters);
	counters->waits -= before.waits;
	counters->maps_ahead -= before.maps_ahead;
	counters->maps_in_time -= before.maps_in_time;
	arena_destroy(arena);
}

/* What a run of a mode gave, one sample a round. */
struct figures {
	struct samples *p50_us, *p99_us, *most_us, *p99_ratio, *waits, *ahead, *in_time;
};

static void figures_new(struct figures *figures)
{
	*figures = (struct figures){samples_new(), samples_new(), samples_new(), samples_new(),
		samples_new(), samples_new(), samples_new()};
}

static void figures_end(struct figures *figures)
{
	free(figures->p50_us);
	free(figures->p99_us);
	free(figures->most_us);
	free(figures->p99_ratio);
	free(figures->waits);
	free(figures->ahead);
	free(figures->in_time);
}

/* All modes once, the @round-th in turn first, so that none always is. */
static void decode_round(const struct decode *decode, unsigned round, struct figures *figures)
{
	double p99[MODES];

	for (unsigned i = 0; i < MODES; i++) {
		unsigned mode = (i + round) % MODES;
		struct samples *one = samples_new();
		struct arena_counters counters;

		decode_run(decode, mode, one, &counters);
		p99[mode] = samples_at(one, 0.99);
		samples_add(figures[mode].p50_us, samples_at(one, 0.5));
		samples_add(figures[mode].p99_us, p99[mode]);
		samples_add(figures[mode].most_us, samples_at(one, 1));
		samples_add(figures[mode].waits, (double)counters.waits);
		samples_add(figures[mode].ahead, (double)counters.maps_ahead);
		samples_add(figures[mode].in_time, (double)counters.maps_in_time);
		free(one);
	}
	for (unsigned mode = 0; mode < MODES; mode++)
		samples_add(figures[mode].p99_ratio, p99[mode] / p99[MODE_BEFORE]);
}

void bench_decode(struct bench *bench)
{
	struct decode decode = {.bench = bench,
		.batch = bench->cuda ? 32 : 8,
		.prompt = 512,
		/* As many as make a 99th percentile more than a step or two. */
		.steps = bench->cuda ? 500 : 1500,
		.work_bytes = bench->cuda ? 3ull << 29 : 4 << 20};
	struct figures figures[MODES];

	REQUIRE_EQ(gpu_alloc(bench->gpu, decode.work_bytes, &decode.from), 0);
	REQUIRE_EQ(gpu_alloc(bench->gpu, decode.work_bytes, &decode.to), 0);
	REQUIRE_EQ(gpu_fill(bench->stream, decode.from, 0x5a, decode.work_bytes), 0);
	for (unsigned mode = 0; mode < MODES; mode++)
		figures_new(&figures[mode]);
	for (unsigned round = 0; round < ROUNDS; round++)
		decode_round(&decode, round, figures);
	for (unsigned mode = 0; mode < MODES; mode++) {
		const char *name = mode_names[mode];
		struct figures *of = &figures[mode];

		row("decode", "us", of->p50_us, "step p50, batch %u, %s", decode.batch, name);
		row("decode", "us", of->p99_us, "step p99, %s", name);
		row("decode", "us", of->most_us, "longest step, %s", name);
		row("decode", "a run", of->waits, "calls that waited, %s", name);
		row("decode", "a run", of->ahead, "pages mapped ahead, %s", name);
		row("decode", "a run", of->in_time, "pages mapped in time, %s", name);
	}
	for (unsigned mode = MODE_AHEAD; mode < MODES; mode++)
		row("decode", "x", figures[mode].p99_ratio,
			"p99 over that with all mapped before, %s", mode_names[mode]);
	for (unsigned mode = 0; mode < MODES; mode++)
		figures_end(&figures[mode]);
	gpu_free(bench->gpu, decode.to);
	gpu_free(bench->gpu, decode.from);
}

/* ------------------------------------------------------------------------------ attach a prefix */

enum { ATTACH_BLOCKS = 2048, ATTACH_TOKENS = ATTACH_BLOCKS * 16 };

enum how { HOW_MAP, HOW_TABLE, HOW_COPY, HOWS };

struct attach {
	struct bench *bench;
	struct arena *arena;
	uint32_t pages; /* of the prefix */
	double bytes;
};

/* One attaching, until the prefix can be read; then the sequence goes. */
static void attach_once(const struct attach *attach, const uint32_t *pages, enum how how,
	struct samples *us, struct samples *free_us)
{
	static uint32_t table[ATTACH_BLOCKS];
	struct arena *arena = attach->arena;
	struct arena_sequence *sequence;
	uint64_t began_ns, done_ns;

	REQUIRE_EQ(
		arena_open(arena, how == HOW_MAP ? ARENA_CONTIGUOUS : ARENA_PAGED, &sequence), 0);
	bench_sync(attach->bench);
	began_ns = clock_ns();
	if (how == HOW_COPY)
		REQUIRE_EQ(arena_attach_copy(sequence, pages, attach->pages, ATTACH_TOKENS), 0);
	else
		REQUIRE_EQ(arena_attach(sequence, pages, attach->pages, ATTACH_TOKENS), 0);
	REQUIRE_EQ(arena_sync(sequence), 0);
	if (how != HOW_MAP)
		REQUIRE_EQ(arena_table(sequence, ATTACH_BLOCKS, table), 0);
	done_ns = bench_sync(attach->bench);
	samples_add(us, (double)(done_ns - began_ns) / 1e3);
	began_ns = clock_ns();
	arena_free(sequence, 0);
	arena_settle(arena);
	samples_add(free_us, (double)(clock_ns() - began_ns) / 1e3);
}

static void attach_rows(const struct attach *attach, struct samples **us, struct samples **free_us)
{
	static const char *const names[] = {"mapped into a range", "by block table", "copied"};
	unsigned kib = (unsigned)(arena_geometry(attach->arena)->page_bytes >> 10);

	for (unsigned how = 0; how < HOWS; how++) {
		row("attach", "us", us[how], "2048 blocks, %.0f MiB, pages of %u KiB, %s",
			attach->bytes / (1 << 20), kib, names[how]);
		row("attach", "us", free_us[how], "the same let go, %s", names[how]);
	}
	row_single("attach", "x", samples_at(us[HOW_COPY], 0.5) / samples_at(us[HOW_MAP], 0.5),
		"copying over mapping, pages of %u KiB", kib);
	row_single("attach", "x", samples_at(us[HOW_COPY], 0.5) / samples_at(us[HOW_TABLE], 0.5),
		"copying over block table, pages of %u KiB", kib);
	row_single("attach", "GB/s", 2 * attach->bytes / samples_at(us[HOW_COPY], 0.5) / 1e3,
		"read and written by copying, pages of %u KiB", kib);
}

/* Pages of @page_bytes; 0: one a block. */
static void attach_of(struct bench *bench, size_t page_bytes)
{
	struct arena_options options = bench_llama(bench);
	uint32_t *pages = calloc(ATTACH_BLOCKS, sizeof(*pages));
	struct attach attach = {.bench = bench};
	struct samples *us[HOWS], *free_us[HOWS];
	struct arena_sequence *prefix;

	options.spare_pages = 0;
	options.ahead_tokens = 0;
	options.page_bytes = page_bytes;
	if (!bench->cuda) /* 512 MiB a copy in place of 4 GiB */
		options.shape.layers = 4;
	attach.arena = bench_arena(&options);
	REQUIRE(pages && arena_geometry(attach.arena)->page_blocks);
	attach.pages = arena_pages_of(attach.arena, ATTACH_TOKENS);
	attach.bytes = (double)attach.pages * (double)arena_geometry(attach.arena)->page_bytes;
	REQUIRE_EQ(arena_warm(attach.arena, 2 * attach.pages), 0);
	REQUIRE_EQ(arena_open(attach.arena, ARENA_PAGED, &prefix), 0);
	REQUIRE_EQ(arena_extend(prefix, ATTACH_TOKENS), 0);
	REQUIRE_EQ(arena_hold(prefix, 0, attach.pages, pages), 0);
	for (uint32_t i = 0; i < attach.pages; i++)
		REQUIRE_EQ(
			gpu_fill(bench->stream, arena_page_at(attach.arena, pages[i]),
				(unsigned char)(i + 1), arena_geometry(attach.arena)->page_bytes),
			0);
	for (unsigned how = 0; how < HOWS; how++) {
		us[how] = samples_new();
		free_us[how] = samples_new();
	}
	for (unsigned round = 0; round < 9; round++)
		for (unsigned how = 0; how < HOWS; how++)
			attach_once(&attach, pages, how, us[how], free_us[how]);
	attach_rows(&attach, us, free_us);
	for (unsigned how = 0; how < HOWS; how++) {
		free(us[how]);
		free(free_us[how]);
	}
	arena_release(attach.arena, pages, attach.pages, 0);
	arena_destroy(attach.arena);
	free(pages);
}

void bench_attach(struct bench *bench)
{
	attach_of(bench, 0);
	if (!bench->cuda)
		return;
	attach_of(bench, 8 << 20);
	attach_of(bench, 32 << 20);
}

/* --------------------------------------------------------------------------------- single calls */

static void costs_of_pages(struct bench *bench, size_t page_bytes)
{
	struct arena_options options = bench_llama(bench);
	struct samples *us[4] = {samples_new(), samples_new(), samples_new(), samples_new()};
	enum { PAGES = 64 };
	struct arena *arena;

	options.page_bytes = page_bytes;
	options.background = false;
	options.pages_max = PAGES;
	if (!bench->cuda)
		options.shape.layers = 1;
	arena = bench_arena(&options);
	for (unsigned round = 0; round < 9; round++) {
		uint32_t tokens =
			(uint32_t)(PAGES * page_bytes / arena_geometry(arena)->token_bytes);
		struct arena_sequence *sequence;
		uint64_t at_ns[5];

		REQUIRE_EQ(arena_open(arena, ARENA_CONTIGUOUS, &sequence), 0);
		at_ns[0] = clock_ns();
		REQUIRE_EQ(arena_warm(arena, PAGES), 0);
		at_ns[1] = clock_ns();
		REQUIRE_EQ(arena_extend(sequence, tokens), 0);
		at_ns[2] = clock_ns();
		arena_free(sequence, 0);
		at_ns[3] = clock_ns();
		REQUIRE_EQ(arena_shrink(arena, 0), PAGES);
		at_ns[4] = clock_ns();
		for (unsigned i = 0; i < 4; i++)
			samples_add(us[i], (double)(at_ns[i + 1] - at_ns[i]) / 1e3 / PAGES);
	}
	for (unsigned i = 0; i < 4; i++) {
		static const char *const names[] = {"created and put in the window",
			"mapped into a range", "taken out of a range, 64 at once",
			"taken out of the window and destroyed"};

		row("cost", "us", us[i], "a page of %zu KiB %s", page_bytes >> 10, names[i]);
		free(us[i]);
	}
	arena_destroy(arena);
}

/* Calls that touch no device, in nanoseconds. */
static void costs_of_calls(struct bench *bench)
{
	struct arena_options options = bench_llama(bench);
	struct samples *extend_ns = samples_new(), *fork_ns = samples_new(),
		       *fence_ns = samples_new();
	struct arena *arena;
	struct arena_sequence *sequence, *child;
	uint64_t fence, began_ns;

	if (!bench->cuda) {
		options.shape.layers = 1;
		options.page_bytes = 0;
	}
	arena = bench_arena(&options);
	REQUIRE_EQ(arena_open(arena, ARENA_PAGED, &sequence), 0);
	REQUIRE_EQ(arena_extend(sequence, 1024), 0);
	for (unsigned round = 0; round < 101; round++) {
		arena_truncate(sequence, 1024, 0);
		REQUIRE_EQ(arena_extend(sequence, 1025), 0); /* a page begins */
		began_ns = clock_ns();
		for (uint32_t i = 0; i < 15; i++)
			REQUIRE_EQ(arena_extend(sequence, 1026 + i), 0);
		samples_add(extend_ns, (double)(clock_ns() - began_ns) / 15);
		began_ns = clock_ns();
		REQUIRE_EQ(arena_fork(sequence, &child), 0);
		samples_add(fork_ns, (double)(clock_ns() - began_ns));
		arena_free(child, 0);
		began_ns = clock_ns();
		REQUIRE_EQ(arena_fence(arena, &fence), 0);
		samples_add(fence_ns, (double)(clock_ns() - began_ns));
		bench_sync(bench);
		arena_settle(arena);
	}
	row("cost", "ns", extend_ns, "arena_extend inside a page");
	row("cost", "ns", fork_ns, "arena_fork, paged, 65 pages");
	row("cost", "ns", fence_ns, "arena_fence");
	free(extend_ns);
	free(fork_ns);
	free(fence_ns);
	arena_destroy(arena);
}

void bench_costs(struct bench *bench)
{
	static const size_t host[] = {64 << 10, 2 << 20}, cuda[] = {2 << 20, 8 << 20, 32 << 20};

	for (unsigned i = 0; i < (bench->cuda ? ARRAY_COUNT(cuda) : ARRAY_COUNT(host)); i++)
		costs_of_pages(bench, bench->cuda ? cuda[i] : host[i]);
	costs_of_calls(bench);
}
