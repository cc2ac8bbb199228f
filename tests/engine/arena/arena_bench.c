/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the arena costs and saves: KV wasted on chat traffic, memory saved by beam search, attaching
 * a prefix by mapping against copying, decode steps with pages mapped before, ahead and in time.
 *
 * arena_bench [--back-end host|cuda] [--json] [--seed N]
 *
 * Without a word on the back end it is a GPU where one opens.
 */
#include <math.h>
#include <stdarg.h>

#include "tests/engine/arena/bench.h"

/* ----------------------------------------------------------------------------------------- rows */

enum { ROWS_MAX = 128 };

static struct row {
	char section[24], unit[12], what[80];
	double median, low, high;
	bool single; /* one figure, nothing around it */
} rows[ROWS_MAX];
static unsigned rows_count;

struct samples *samples_new(void)
{
	struct samples *samples = calloc(1, sizeof(*samples));

	REQUIRE(samples);
	return samples;
}

void samples_add(struct samples *samples, double value)
{
	REQUIRE(samples->count < SAMPLES_MAX);
	samples->values[samples->count++] = value;
}

static int order(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double samples_at(struct samples *samples, double share)
{
	REQUIRE(samples->count > 0);
	qsort(samples->values, samples->count, sizeof(double), order);
	return samples->values[(uint32_t)(share * (samples->count - 1) + 0.5)];
}

static struct row *row_new(const char *section, const char *unit, const char *format, va_list more)
{
	struct row *made = &rows[rows_count++];

	REQUIRE(rows_count <= ROWS_MAX);
	snprintf(made->section, sizeof(made->section), "%s", section);
	snprintf(made->unit, sizeof(made->unit), "%s", unit);
	vsnprintf(made->what, sizeof(made->what), format, more);
	return made;
}

void row(const char *section, const char *unit, struct samples *samples, const char *format, ...)
{
	struct row *made;
	va_list more;

	va_start(more, format);
	made = row_new(section, unit, format, more);
	va_end(more);
	made->median = samples_at(samples, 0.5);
	made->low = samples_at(samples, 0);
	made->high = samples_at(samples, 1);
}

void row_single(const char *section, const char *unit, double value, const char *format, ...)
{
	struct row *made;
	va_list more;

	va_start(more, format);
	made = row_new(section, unit, format, more);
	va_end(more);
	made->median = value;
	made->single = true;
}

static void row_print(const struct row *r, bool json, bool more)
{
	if (json)
		printf("{\"section\":\"%s\",\"what\":\"%s\",\"unit\":\"%s\",\"median\":%.6g",
			r->section, r->what, r->unit, r->median);
	else
		printf("%-7s %-66s %9.4g", r->section, r->what, r->median);
	if (json && !r->single)
		printf(",\"low\":%.6g,\"high\":%.6g", r->low, r->high);
	else if (!r->single)
		printf(" %9.4g %9.4g", r->low, r->high);
	else if (!json)
		printf(" %9s %9s", "", "");
	if (json)
		printf("}%s\n", more ? "," : "");
	else
		printf(" %s\n", r->unit);
}

void rows_print(const struct bench *bench, bool json)
{
	if (json)
		printf("{\"bench\":\"arena\",\"device\":\"%s\",\"rows\":[\n",
			gpu_info(bench->gpu)->name);
	else
		printf("arena on %s\n%-74s %9s %9s %9s\n", gpu_info(bench->gpu)->name, "", "median",
			"lowest", "highest");
	for (unsigned i = 0; i < rows_count; i++)
		row_print(&rows[i], json, i + 1 < rows_count);
	if (json)
		printf("]}\n");
}

/* -------------------------------------------------------------------------------------- helpers */

struct arena_options bench_llama(const struct bench *bench)
{
	return (struct arena_options){
		.gpu = bench->gpu,
		.stream = bench->stream,
		.shape = {.layers = 32,
			.heads = 8,
			.head_bytes = 256,
			.block_tokens = 16,
			.order = ARENA_LAYER_FIRST},
		.page_bytes = 2 << 20,
		.pages_max = 8192,
		.sequences_max = 64,
		.tokens_max = 32768,
		.ahead_tokens = 8,
		.spare_pages = 8,
		.background = true,
	};
}

struct arena *bench_arena(const struct arena_options *options)
{
	struct arena *arena;

	REQUIRE_EQ(arena_create(options, &arena), 0);
	return arena;
}

uint64_t bench_sync(const struct bench *bench)
{
	REQUIRE_EQ(gpu_stream_sync(bench->stream), 0);
	return clock_ns();
}

/* -------------------------------------------------------------------------------- waste on chat */

enum { CHATS = 32 };

/* A length of the given mean, lognormal: most are short, some very long. */
static uint32_t chat_length(struct bench *bench, double mean, double sigma, uint32_t most)
{
	double u = (unit_random(&bench->random, 1u << 30) + 0.5) / (1u << 30);
	double v = (unit_random(&bench->random, 1u << 30) + 0.5) / (1u << 30);
	double normal = sqrt(-2 * log(u)) * cos(2 * M_PI * v);
	double length = exp(log(mean) - sigma * sigma / 2 + sigma * normal);

	return (uint32_t)MAX_OF(1, MIN_OF(length, most));
}

struct chat {
	struct arena_sequence *sequence;
	uint32_t tokens, end;
};

/* One decode step of all chats; those at their end are followed by new ones. */
static void chat_step(struct bench *bench, struct arena *arena, struct chat *chats)
{
	for (unsigned i = 0; i < CHATS; i++) {
		struct chat *chat = &chats[i];

		if (chat->sequence && chat->tokens == chat->end) {
			arena_free(chat->sequence, 0);
			chat->sequence = NULL;
		}
		if (!chat->sequence) {
			REQUIRE_EQ(arena_open(arena, ARENA_CONTIGUOUS, &chat->sequence), 0);
			chat->tokens = chat_length(bench, 1000, 0.9, 16000);
			chat->end = chat->tokens + chat_length(bench, 200, 0.8, 4000);
		} else {
			chat->tokens++;
		}
		REQUIRE_EQ(arena_extend(chat->sequence, chat->tokens), 0);
	}
}

/* The share of mapped bytes that hold no token, over a run in which each chat ends several
 * times. */
static void waste_of(
	struct bench *bench, const struct arena_options *options, unsigned steps, const char *what)
{
	struct arena *arena = bench_arena(options);
	struct chat chats[CHATS] = {{0}};
	struct samples *waste = samples_new();

	for (unsigned i = 0; i < steps; i++) {
		struct arena_usage usage;

		chat_step(bench, arena, chats);
		/* Not before the first chats have ended: they begin all at once. */
		if (i % 16 || i < steps / 4)
			continue;
		arena_settle(arena);
		arena_usage_get(arena, &usage, NULL);
		samples_add(
			waste, 100 - 100 * (double)usage.token_bytes / (double)usage.mapped_bytes);
	}
	row("waste", "%", waste, "%s, %u tokens ahead", what, options->ahead_tokens);
	free(waste);
	arena_destroy(arena);
}

static void bench_waste(struct bench *bench)
{
	struct arena_options options = bench_llama(bench);
	unsigned steps = bench->cuda ? 600 : 2000;

	options.pages_max = 16384; /* a limit; what is used is created */
	waste_of(bench, &options, steps, "chat, Llama-3-8B, block 16");
	options.ahead_tokens = 32;
	waste_of(bench, &options, steps / 2, "chat, Llama-3-8B, block 16");
	options.ahead_tokens = 8;
	options.page_bytes = 8 << 20;
	waste_of(bench, &options, steps / 2, "chat, Llama-3-8B, pages of 8 MiB");
	options.page_bytes = 2 << 20;
	options.shape.heads = 4;
	waste_of(bench, &options, steps / 2, "chat, Yi-6B, block 16");
	options.shape.heads = 8;
	options.shape.layers = 60;
	waste_of(bench, &options, steps / 2, "chat, Yi-34B, block 16, layer first");
	options.shape.order = ARENA_TOKEN_FIRST;
	waste_of(bench, &options, steps / 2, "chat, Yi-34B, block 16, token first");
}

/* ---------------------------------------------------------------------------------- beam search */

enum { BEAMS = 4, BEAM_PROMPT = 512, BEAM_TOKENS = 256 };

/* Whose continuation each beam is: most go on, some are dropped for a second one of a better. */
static void beam_parents(struct bench *bench, unsigned *parents)
{
	for (unsigned i = 0; i < BEAMS; i++)
		parents[i] =
			unit_random(&bench->random, 4) ? i : unit_random(&bench->random, BEAMS);
}

static void beam_step(struct bench *bench, struct arena_sequence **beams, uint32_t tokens)
{
	struct arena_sequence *next[BEAMS] = {NULL};
	bool goes_on[BEAMS] = {false};
	unsigned parents[BEAMS];

	beam_parents(bench, parents);
	for (unsigned i = 0; i < BEAMS; i++) {
		unsigned parent = parents[i];

		if (goes_on[parent])
			REQUIRE_EQ(arena_fork(beams[parent], &next[i]), 0);
		else
			next[i] = beams[parent];
		goes_on[parent] = true;
	}
	for (unsigned i = 0; i < BEAMS; i++)
		if (!goes_on[i])
			arena_free(beams[i], 0);
	for (unsigned i = 0; i < BEAMS; i++) {
		beams[i] = next[i];
		REQUIRE(arena_extend(beams[i], tokens) >= 0);
	}
}

static void beams_of(struct bench *bench, enum arena_form form, const char *name)
{
	struct arena_options options = bench_llama(bench);
	struct arena *arena;
	struct arena_sequence *beams[BEAMS];
	struct samples *step_us = samples_new(), *saved = samples_new();
	struct arena_counters counters;
	struct arena_usage usage;

	/* On the host copies are of real memory: a page of 64 KiB stands for one of 2 MiB. */
	if (!bench->cuda) {
		options.shape.layers = 1;
		options.page_bytes = 0;
	}
	arena = bench_arena(&options);
	REQUIRE_EQ(arena_warm(arena, 256), 0);
	REQUIRE_EQ(arena_open(arena, form, &beams[0]), 0);
	REQUIRE_EQ(arena_extend(beams[0], BEAM_PROMPT), 0);
	for (unsigned i = 1; i < BEAMS; i++)
		REQUIRE_EQ(arena_fork(beams[0], &beams[i]), 0);
	for (uint32_t i = 1; i <= BEAM_TOKENS; i++) {
		uint64_t began_ns = clock_ns();

		beam_step(bench, beams, BEAM_PROMPT + i);
		samples_add(step_us, (double)(clock_ns() - began_ns) / 1e3);
		bench_sync(bench); /* what is freed next is not in flight */
		arena_settle(arena);
		arena_usage_get(arena, &usage, &counters);
		samples_add(saved,
			100 - 100 * (double)usage.mapped_bytes / (double)usage.unshared_bytes);
	}
	row("beam", "%", saved, "saved against copies, width 4 over 512 tokens, %s", name);
	row("beam", "us", step_us, "books of one step of four beams, %s", name);
	row_single("beam", "a step", (double)counters.cow_copies / BEAM_TOKENS, "pages copied, %s",
		name);
	row_single("beam", "a step", (double)counters.cow_remaps / BEAM_TOKENS,
		"pages exchanged in a range in use, %s", name);
	row_single("beam", "a step", (double)counters.maps_shared / BEAM_TOKENS,
		"pages mapped that others hold, %s", name);
	free(step_us);
	free(saved);
	arena_destroy(arena);
}

/* ----------------------------------------------------------------------------------------- main */

/* What was gathered before a promise did not hold is shown too: REQUIRE ends the process. */
static struct at_end {
	const struct bench *bench;
	bool json;
} at_end;

static void print_at_end(void)
{
	if (at_end.bench)
		rows_print(at_end.bench, at_end.json);
}

static int usage_error(void)
{
	fprintf(stderr, "arena_bench [--back-end host|cuda] [--json] [--seed N]\n");
	return 2;
}

int main(int argc, char **argv)
{
	struct bench bench = {.random = 1};
	bool json = false, host = false, cuda = false;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--json")) {
			json = true;
		} else if (!strcmp(argv[i], "--back-end") && i + 1 < argc) {
			host = !strcmp(argv[++i], "host");
			cuda = !strcmp(argv[i], "cuda");
			if (!host && !cuda)
				return usage_error();
		} else if (!strcmp(argv[i], "--seed") && i + 1 < argc) {
			bench.random = strtoull(argv[++i], NULL, 0);
		} else {
			return usage_error();
		}
	}
	bench.cuda = !host && gpu_open(GPU_CUDA, 0, &bench.gpu) == 0;
	if (!bench.cuda && cuda) {
		printf("skip: no CUDA device opens\n");
		return 77;
	}
	if (!bench.cuda)
		REQUIRE_EQ(gpu_open(GPU_HOST, 0, &bench.gpu), 0);
	REQUIRE_EQ(gpu_stream_create(bench.gpu, &bench.stream), 0);
	at_end = (struct at_end){&bench, json};
	REQUIRE_EQ(atexit(print_at_end), 0);
	bench_decode(&bench);
	bench_waste(&bench);
	beams_of(&bench, ARENA_PAGED, "paged");
	beams_of(&bench, ARENA_CONTIGUOUS, "contiguous");
	bench_attach(&bench);
	bench_costs(&bench);
	rows_print(&bench, json);
	at_end.bench = NULL;
	gpu_stream_destroy(bench.stream);
	gpu_close(bench.gpu);
	return 0;
}
