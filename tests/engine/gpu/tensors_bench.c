/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks saved from an engine's pages on a device and loaded into others, through libskep-gpu and a
 * node inside this process, beside one page-locked copy of as many bytes in the same rounds. What
 * was loaded is compared with what was saved, byte for byte, and a byte turned over in the pool
 * must be told as that block's.
 *
 *	tensors_bench [--json] [--host] | --device | --check
 *
 * --check: a few rounds of few bytes on a CUDA device; 77 where there is none.
 */
#include <errno.h>
#include <skep/skep_gpu.h>

#include "base/bits.h"
#include "tests/base/unit.h"
#include "tests/kernels/bench.h"

/* K or V of a layer, of a block: what lies together in an engine's tensors. */
enum { KINDS = 2, HEADS = 4, HEAD_BYTES = 256, BLOCK_TOKENS = 16, BLOCKS_MAX = 128 };
#define PIECE_BYTES ((size_t)HEADS * HEAD_BYTES * BLOCK_TOKENS)

/* How much is moved. */
struct shape {
	uint32_t layers, blocks, rounds;
	const char *where;
};

/* 256 MiB in parts of 2 MiB: a job of an engine that saves 2,048 tokens. */
static const struct shape on_device = {64, BLOCKS_MAX, BENCH_ROUNDS, "embedded:dram=1GiB"};
static const struct shape to_check = {8, 32, 2, "embedded:dram=64MiB"};
static const struct shape on_host = {4, 8, 2, "embedded:dram=64MiB"};

enum road { REGISTERED, STAGED, ROADS };

static const char *const road_words[ROADS] = {
	"the pool registered", "the pool not registered, through page-locked memory"};

/* Two engines' tensors, one after the other on the device, and their bytes here. */
struct world {
	struct bench *bench;
	const struct shape *shape;
	size_t bytes; /* of the tensors of one engine */
	uint64_t from, to;
	unsigned char *truth, *back;
	uint32_t pages[2][BLOCKS_MAX]; /* of the two, in an order of its own each */
	struct skep *session;
	struct skep_space *space;
	struct skep_gpu *gpu;
	struct skep_gpu_plan *save, *load;
	struct skep_ref refs[BLOCKS_MAX];
	uint32_t stories;
};

enum row { COPY_OUT, SAVE, COPY_IN, LOAD, ROWS };

/* ------------------------------------------------------------------------------------ the world */

static void pages_shuffle(uint32_t *pages, uint32_t count, uint64_t salt)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t j = (uint32_t)(mix64(salt + i) % (i + 1));

		pages[i] = pages[j];
		pages[j] = i;
	}
}

static struct skep_gpu_tensors tensors_of(const struct world *world, uint64_t at, uint64_t *bases)
{
	const struct shape *shape = world->shape;

	for (uint32_t i = 0; i < shape->layers * KINDS; i++)
		bases[i] = at + i * shape->blocks * PIECE_BYTES;
	return (struct skep_gpu_tensors){.struct_bytes = sizeof(struct skep_gpu_tensors),
		.layers = shape->layers,
		.kinds = KINDS,
		.block_tokens = BLOCK_TOKENS,
		.heads = HEADS,
		.head_bytes = HEAD_BYTES,
		.page_tokens = BLOCK_TOKENS,
		.page_count = shape->blocks,
		.blocks_max = shape->blocks,
		.jobs = 1,
		.bases = bases,
		.page_stride = PIECE_BYTES,
		.token_stride = HEADS * HEAD_BYTES,
		.head_stride = HEAD_BYTES};
}

static void memory_make(struct world *world)
{
	struct gpu *gpu = world->bench->gpu;

	BENCH_TRY(gpu_alloc(gpu, world->bytes, &world->from));
	BENCH_TRY(gpu_alloc(gpu, world->bytes, &world->to));
	BENCH_TRY(gpu_pinned_alloc(gpu, world->bytes, (void **)&world->truth));
	BENCH_TRY(gpu_pinned_alloc(gpu, world->bytes, (void **)&world->back));
	for (size_t i = 0; i < world->bytes / 8; i++) {
		uint64_t word = mix64(i);

		memcpy(world->truth + 8 * i, &word, sizeof(word));
	}
	BENCH_TRY(gpu_copy_in(world->bench->stream, world->from, world->truth, world->bytes));
	BENCH_TRY(gpu_stream_sync(world->bench->stream));
	pages_shuffle(world->pages[0], world->shape->blocks, 1);
	pages_shuffle(world->pages[1], world->shape->blocks, 1000);
}

static void world_make(struct world *world, struct bench *bench, const struct shape *shape)
{
	uint64_t bases[128];
	struct skep_part_layout part = {0};
	struct skep_space_options space = {.struct_bytes = sizeof(space),
		.name = "tensors",
		.model = "bench",
		.block_tokens = BLOCK_TOKENS,
		.part_count = 1,
		.parts = &part};
	struct skep_gpu_tensors tensors;

	*world = (struct world){.bench = bench,
		.shape = shape,
		.bytes = shape->layers * KINDS * shape->blocks * PIECE_BYTES};
	REQUIRE(shape->layers * KINDS <= ARRAY_COUNT(bases) && shape->blocks <= BLOCKS_MAX);
	memory_make(world);
	tensors = tensors_of(world, world->from, bases);
	REQUIRE_EQ(skep_gpu_part(&tensors, &part), 0);
	REQUIRE_EQ(skep_open(shape->where, NULL, &world->session), 0);
	REQUIRE_EQ(skep_space_open(world->session, &space, &world->space), 0);
}

static void world_end(struct world *world)
{
	struct gpu *gpu = world->bench->gpu;

	skep_close(world->session);
	gpu_free(gpu, world->from);
	gpu_free(gpu, world->to);
	gpu_pinned_free(gpu, world->truth);
	gpu_pinned_free(gpu, world->back);
}

static struct skep_gpu_stats stats_of(struct world *world)
{
	struct skep_gpu_stats stats = {.struct_bytes = sizeof(stats)};

	REQUIRE_EQ(skep_gpu_stats(world->gpu, &stats), 0);
	return stats;
}

/* With plans over both engines' tensors. Return: how long it took to register the pool, in ns. */
static uint64_t road_open(struct world *world, enum road road)
{
	bool host = bench_on_host(world->bench);
	struct skep_gpu_options options = {.struct_bytes = sizeof(options),
		.kind = host ? SKEP_GPU_HOST : SKEP_GPU_CUDA,
		.ring_slots = host ? 2 : 0,
		.flags = road == STAGED ? SKEP_GPU_UNREGISTERED : 0};
	uint64_t bases[128], began_ns = clock_ns(), took_ns;
	struct skep_gpu_tensors tensors = tensors_of(world, world->from, bases);
	struct skep_stats pool = {.struct_bytes = sizeof(pool)};
	struct skep_gpu_stats stats;

	REQUIRE_EQ(skep_stats(world->session, skep_deadline_ms(1000), &pool), 0);
	REQUIRE_EQ(skep_gpu_open(world->session, &options, &world->gpu), 0);
	do {
		stats = stats_of(world);
		took_ns = clock_ns() - began_ns;
		REQUIRE(took_ns < 60 * NS_PER_S);
		REQUIRE_EQ(stats.chunks_refused, 0);
	} while (road == REGISTERED && stats.bytes_registered < pool.dram_bytes);
	REQUIRE_EQ(skep_gpu_plan_create(world->gpu, world->space, &tensors, &world->save), 0);
	tensors = tensors_of(world, world->to, bases);
	REQUIRE_EQ(skep_gpu_plan_create(world->gpu, world->space, &tensors, &world->load), 0);
	return took_ns;
}

static void road_close(struct world *world, enum road road)
{
	struct skep_gpu_stats stats = stats_of(world);

	REQUIRE(road == REGISTERED ? stats.parts_direct && !stats.parts_staged
				   : stats.parts_staged && !stats.parts_direct);
	skep_gpu_plan_destroy(world->save);
	skep_gpu_plan_destroy(world->load);
	skep_gpu_close(world->gpu);
}

/* --------------------------------------------------------------------------------- what is done */

static double copy_out(struct world *world)
{
	uint64_t began_ns = clock_ns();

	BENCH_TRY(gpu_copy_out(world->bench->stream, world->back, world->from, world->bytes));
	BENCH_TRY(gpu_stream_sync(world->bench->stream));
	return (double)(clock_ns() - began_ns);
}

static double copy_in(struct world *world)
{
	uint64_t began_ns = clock_ns();

	BENCH_TRY(gpu_copy_in(world->bench->stream, world->to, world->truth, world->bytes));
	BENCH_TRY(gpu_stream_sync(world->bench->stream));
	return (double)(clock_ns() - began_ns);
}

/* Saves a chain that is not there yet; its references are those of the world afterwards. */
static double save(struct world *world)
{
	uint32_t tokens[BLOCKS_MAX * BLOCK_TOKENS], blocks = world->shape->blocks;
	struct skep_gpu_save wanted = {.struct_bytes = sizeof(wanted),
		.count = blocks,
		.pages = {world->pages[0], blocks, 0}};
	struct skep_match asked = {.struct_bytes = sizeof(asked),
		.flags = SKEP_MATCH_PEEK,
		.refs = world->refs,
		.refs_max = BLOCKS_MAX};
	struct skep_gpu_job *job;
	uint64_t began_ns;
	double took_ns;

	for (uint32_t i = 0; i < blocks * BLOCK_TOKENS; i++)
		tokens[i] = world->stories * 100000 + i;
	world->stories++;
	REQUIRE_EQ(skep_chain_create(world->space, &wanted.chain), 0);
	REQUIRE_EQ(skep_chain_append(wanted.chain, tokens, blocks * BLOCK_TOKENS), (int)blocks);
	began_ns = clock_ns();
	wanted.deadline_ns = skep_deadline_ms(5000);
	REQUIRE_EQ(skep_gpu_save_begin(world->save, &wanted, &job), (int)blocks);
	REQUIRE_EQ(skep_gpu_end(job, NULL, skep_deadline_ms(5000)), (int)blocks);
	took_ns = (double)(clock_ns() - began_ns);
	asked.chain = wanted.chain;
	REQUIRE_EQ(skep_match(world->session, &asked, 1), 0);
	REQUIRE_EQ(asked.matched, blocks);
	skep_chain_destroy(wanted.chain);
	return took_ns;
}

/* Loads it; block @bad (or none of them) must be told as bad. */
static double load(struct world *world, uint32_t bad)
{
	uint32_t blocks = world->shape->blocks;
	struct skep_gpu_load wanted = {.struct_bytes = sizeof(wanted),
		.refs = world->refs,
		.count = blocks,
		.pages = {world->pages[1], blocks, 0}};
	int32_t statuses[BLOCKS_MAX];
	struct skep_gpu_job *job;
	uint64_t began_ns = clock_ns();
	double took_ns;

	REQUIRE_EQ(skep_gpu_load_begin(world->load, &wanted, &job), (int)blocks);
	REQUIRE_EQ(skep_gpu_end(job, statuses, 0), (int)blocks - (bad < blocks));
	took_ns = (double)(clock_ns() - began_ns);
	for (uint32_t i = 0; i < blocks; i++)
		REQUIRE_EQ(statuses[i], i == bad ? SKEP_ECHECKSUM : 0);
	return took_ns;
}

/* What lies in the pages that were loaded is what lies in those that were saved. */
static void loaded_check(struct world *world)
{
	uint32_t blocks = world->shape->blocks;

	BENCH_TRY(gpu_copy_out(world->bench->stream, world->back, world->to, world->bytes));
	BENCH_TRY(gpu_stream_sync(world->bench->stream));
	for (uint32_t plane = 0; plane < world->shape->layers * KINDS; plane++)
		for (uint32_t i = 0; i < blocks; i++) {
			size_t first = plane * blocks;

			REQUIRE(memcmp(world->back + (first + world->pages[1][i]) * PIECE_BYTES,
					world->truth + (first + world->pages[0][i]) * PIECE_BYTES,
					PIECE_BYTES) == 0);
		}
	BENCH_TRY(gpu_fill(world->bench->stream, world->to, 0x5a, world->bytes));
	BENCH_TRY(gpu_stream_sync(world->bench->stream));
}

/* The pool of a node inside this process is mapped here to be written. */
static void flip_check(struct world *world)
{
	uint32_t bad = world->shape->blocks / 2;
	struct skep_view view;

	save(world);
	REQUIRE_EQ(skep_view(world->session, &world->refs[bad], 0, &view), 0);
	((unsigned char *)(uintptr_t)view.bytes)[view.length / 3] ^= 0x10;
	load(world, bad);
}

/* The first round only makes everything warm. */
static void measure(struct world *world, enum road road)
{
	static const char *const words[ROWS] = {"one page-locked copy, from the device", "save",
		"one page-locked copy, to it", "load"};
	uint32_t rounds = world->shape->rounds;
	double ns[ROWS][BENCH_ROUNDS], gbs[ROWS];
	double registered_ms = (double)road_open(world, road) / 1e6;

	for (uint32_t round = 0; round <= rounds; round++) {
		uint32_t at = round ? round - 1 : 0;

		ns[COPY_OUT][at] = copy_out(world);
		ns[SAVE][at] = save(world);
		ns[COPY_IN][at] = copy_in(world);
		ns[LOAD][at] = load(world, UINT32_MAX);
		loaded_check(world);
	}
	flip_check(world);
	bench_group(world->bench, road_words[road]);
	if (road == REGISTERED)
		bench_row(world->bench, "until the pool was there and registered",
			stats_of(world).bytes_registered, registered_ms, "ms", NAN);
	for (unsigned row = 0; row < ROWS; row++) {
		gbs[row] = (double)world->bytes / bench_median(ns[row], rounds);
		bench_row(world->bench, words[row], world->bytes, gbs[row], "GB/s",
			row == SAVE   ? gbs[SAVE] / gbs[COPY_OUT]
			: row == LOAD ? gbs[LOAD] / gbs[COPY_IN]
				      : NAN);
	}
	road_close(world, road);
}

int main(int argc, char **argv)
{
	bool check = argc == 2 && !strcmp(argv[1], "--check");
	const struct shape *shape = check ? &to_check : &on_device;
	struct bench bench;
	struct world world;

	if (!bench_begin(&bench, check ? 1 : argc, argv)) {
		fprintf(stderr, "tensors_bench [--json] [--host] | --device | --check\n");
		return 2;
	}
	if (bench_on_host(&bench) && check) {
		printf("skip: no CUDA device\n");
		gpu_stream_destroy(bench.stream);
		gpu_close(bench.gpu);
		return 77;
	}
	world_make(&world, &bench, bench_on_host(&bench) ? &on_host : shape);
	for (unsigned road = 0; road < ROADS; road++)
		measure(&world, (enum road)road);
	bench_end(&bench);
	world_end(&world);
	gpu_stream_destroy(bench.stream);
	gpu_close(bench.gpu);
	return 0;
}
