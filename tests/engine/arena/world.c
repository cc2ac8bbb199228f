/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/engine/arena/world.h"

#include "kernels/pattern.h"

bool world_short(void)
{
	return getenv("SKEP_TEST_SHORT") != NULL;
}

void world_fail_nth(struct world *world, uint64_t nth, int status)
{
	world->fail_left = nth;
	world->fail_said = gpu_calls(world->gpu);
	world->injected = status;
	gpu_fail_nth(world->gpu, nth, status);
}

/* The test's own calls are made between these two. */
static void own_begin(struct world *world)
{
	uint64_t made = gpu_calls(world->gpu) - world->fail_said;

	world->fail_left -= MIN_OF(made, world->fail_left);
	gpu_fail_nth(world->gpu, 0, 0);
}

static void own_end(struct world *world)
{
	world_fail_nth(world, world->fail_left, world->injected);
}

bool world_open(struct world *world, enum gpu_back_end back_end)
{
	void *pinned;

	*world = (struct world){.next_id = 1};
	if (gpu_open(back_end, 0, &world->gpu) != 0)
		return false;
	REQUIRE_EQ(gpu_stream_create(world->gpu, &world->stream), 0);
	REQUIRE_EQ(gpu_alloc(world->gpu, sizeof(*world->pinned), &world->found_at), 0);
	REQUIRE_EQ(gpu_pinned_alloc(world->gpu, sizeof(*world->pinned), &pinned), 0);
	world->pinned = pinned;
	return true;
}

void world_close(struct world *world)
{
	gpu_pinned_free(world->gpu, world->pinned);
	gpu_free(world->gpu, world->found_at);
	gpu_stream_destroy(world->stream);
	REQUIRE(!gpu_broken(world->gpu));
	gpu_close(world->gpu); /* aborts where anything is left */
}

int world_arena(struct world *world, const struct arena_options *options)
{
	world->options = *options;
	world->options.gpu = world->gpu;
	world->options.stream = world->stream;
	return arena_create(&world->options, &world->arena);
}

void world_arena_end(struct world *world)
{
	struct gpu_usage usage;

	world_sync(world);
	arena_destroy(world->arena);
	world->arena = NULL;
	gpu_usage(world->gpu, &usage);
	REQUIRE_EQ(usage.page_bytes, 0);
	REQUIRE_EQ(usage.mapped_bytes, 0);
	REQUIRE_EQ(usage.reserved_bytes, 0);
	REQUIRE_EQ(usage.events, 0);
}

struct arena_options world_options(const struct world *world, enum arena_order order)
{
	return (struct arena_options){
		.shape = {.layers = 2,
			.heads = 2,
			.block_tokens = 4,
			.order = order,
			.head_bytes = (uint32_t)gpu_info(world->gpu)->page_bytes / 32},
		.pages_max = 64,
		.sequences_max = 8,
		.tokens_max = 100,
	};
}

void world_sync(struct world *world)
{
	own_begin(world);
	REQUIRE_EQ(gpu_stream_sync(world->stream), 0);
	own_end(world);
}

uint64_t world_place(const struct world *world, uint32_t token, unsigned layer, unsigned value)
{
	const struct arena_shape *shape = &world->options.shape;
	uint64_t share = (uint64_t)shape->heads * shape->head_bytes;
	uint64_t tokens = shape->block_tokens, block = token / tokens, inside = token % tokens;

	if (shape->order == ARENA_LAYER_FIRST)
		return (((block * shape->layers + layer) * 2 + value) * tokens + inside) * share;
	return ((token * (uint64_t)shape->layers + layer) * 2 + value) * share;
}

/* The same in the window, by the block table. */
static uint64_t window_place(const struct world *world, const struct known *known, uint32_t token,
	unsigned layer, unsigned value)
{
	uint32_t block_tokens = world->options.shape.block_tokens, table[KNOWN_TOKENS_MAX];
	uint32_t block = token / block_tokens;
	uint64_t block_bytes = arena_geometry(world->arena)->block_bytes;

	REQUIRE_EQ(arena_table(known->sequence, block + 1, table), 0);
	return arena_window(world->arena) + table[block] * block_bytes +
	       world_place(world, token, layer, value) - block * block_bytes;
}

int world_grow(struct world *world, struct known *known, uint32_t count)
{
	uint32_t from = known->count;
	int status = AGAIN(world, arena_extend(known->sequence, from + count));

	if (status < 0)
		return status;
	for (uint32_t i = 0; i < count; i++)
		known->ids[known->count++] = world->next_id++;
	REQUIRE_EQ(arena_tokens(known->sequence), known->count);
	world_write(world, known, from);
	return status;
}

struct share {
	uint64_t at, words, seed, first;
};

static struct share share_of(const struct world *world, const struct known *known, uint32_t token,
	unsigned number, bool by_table)
{
	uint64_t words = world->options.shape.heads * (uint64_t)world->options.shape.head_bytes / 8;
	unsigned layer = number / 2, value = number % 2;
	struct share share = {
		.words = words, .seed = mix64(known->ids[token]), .first = number * words};

	if (by_table)
		share.at = window_place(world, known, token, layer, value);
	else
		share.at = arena_base(known->sequence) + world_place(world, token, layer, value);
	return share;
}

void world_write(struct world *world, struct known *known, uint32_t from)
{
	bool by_table = known->sequence->form == ARENA_PAGED;

	own_begin(world);
	for (uint32_t token = from; token < known->count; token++) {
		for (unsigned i = 0; i < 2 * world->options.shape.layers; i++) {
			struct share share = share_of(world, known, token, i, by_table);
			struct pattern_fill_args args = {.at = share.at,
				.words = share.words,
				.seed = share.seed,
				.first = share.first};

			REQUIRE_EQ(pattern_fill(world->gpu, world->stream, &args), 0);
		}
	}
	own_end(world);
}

static void verify(struct world *world, struct known *known, bool by_table)
{
	*world->pinned = (struct pattern_found){.wrong_first = UINT64_MAX};
	REQUIRE_EQ(
		gpu_copy_in(world->stream, world->found_at, world->pinned, sizeof(*world->pinned)),
		0);
	for (uint32_t token = 0; token < known->count; token++) {
		for (unsigned i = 0; i < 2 * world->options.shape.layers; i++) {
			struct share share = share_of(world, known, token, i, by_table);
			struct pattern_check_args args = {.at = share.at,
				.words = share.words,
				.seed = share.seed,
				.first = share.first,
				.found = world->found_at};

			REQUIRE_EQ(pattern_check(world->gpu, world->stream, &args), 0);
		}
	}
	REQUIRE_EQ(
		gpu_copy_out(world->stream, world->pinned, world->found_at, sizeof(*world->pinned)),
		0);
	REQUIRE_EQ(gpu_stream_sync(world->stream), 0);
	if (world->pinned->wrong_count) {
		fprintf(stderr, "%llu words wrong %s, the first is number %llu of its token\n",
			(unsigned long long)world->pinned->wrong_count,
			by_table ? "in the window" : "in the range",
			(unsigned long long)world->pinned->wrong_first);
		exit(1);
	}
}

void world_verify(struct world *world, struct known *known)
{
	REQUIRE_EQ(arena_tokens(known->sequence), known->count);
	REQUIRE_EQ(AGAIN(world, arena_sync(known->sequence)), 0);
	own_begin(world);
	if (known->sequence->form == ARENA_CONTIGUOUS)
		verify(world, known, false);
	if (arena_geometry(world->arena)->page_blocks)
		verify(world, known, true);
	own_end(world);
}
