/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seeded lives of an arena against a model that only knows lists of tokens: sequences are opened,
 * grown, forked, cut, held, attached and freed in any order, with and without a mapper, in roomy
 * and in small pools, over five relations of block and page and both orders. After each step the
 * references of every page are counted anew from all that hold it; every byte of every sequence is
 * read again and again; at the end nothing is left.
 *
 * model_test [seed] [seeds, default 500 on the host and 40 on a GPU; with SKEP_TEST_SHORT 4]
 */
#include <errno.h>

#include "tests/engine/arena/world.h"

enum { KNOWN = 8, HELD = 3, STEPS = 100, PAGES_MAX = 128 };

/* A prefix that is held beside all sequences. */
struct held {
	uint32_t pages_count, pages[KNOWN_TOKENS_MAX];
	struct known tokens; /* without a sequence */
};

struct model {
	struct world *world;
	struct known known[KNOWN];
	struct held held[HELD];
	uint64_t random, fence;
	bool loose; /* a call failed: pages may stand ready beyond what is needed */
};

static uint32_t draw(struct model *model, uint32_t range)
{
	return unit_random(&model->random, range);
}

static struct known *draw_open(struct model *model)
{
	unsigned first = draw(model, KNOWN);

	for (unsigned i = 0; i < KNOWN; i++)
		if (model->known[(first + i) % KNOWN].sequence)
			return &model->known[(first + i) % KNOWN];
	return NULL;
}

/* A fence behind all that was submitted; or none, after all has been done. */
static uint64_t draw_fence(struct model *model)
{
	uint64_t fence = 0;

	if (draw(model, 3) == 0 || arena_fence(model->world->arena, &fence) == -EAGAIN)
		world_sync(model->world);
	return fence;
}

static uint64_t met_full;

/* Whether a call may fail so: the pool or the places are few. */
static bool full(struct model *model, int status)
{
	if (status >= 0)
		return false;
	REQUIRE(status == -ENOMEM || status == -EAGAIN || status == -ENOSPC);
	model->loose = true;
	met_full++;
	return true;
}

/* --------------------------------------------------------------------------------------- checks */

/* By the test's own arithmetic: bytes from the start of the range to the end of the tokens. */
static uint32_t pages_needed(const struct world *world, uint32_t tokens)
{
	const struct arena_geometry *g = arena_geometry(world->arena);
	uint64_t end = tokens * g->token_bytes;

	if (world->options.shape.order == ARENA_LAYER_FIRST)
		end = (tokens + g->block_tokens - 1) / g->block_tokens * g->block_bytes;
	return (uint32_t)((end + g->page_bytes - 1) / g->page_bytes);
}

static void check_references(const struct model *model, uint32_t *unique)
{
	struct arena *arena = model->world->arena;
	uint32_t refs[PAGES_MAX] = {0}, held = 0;

	for (uint32_t i = 0; i < arena->options.sequences_max; i++)
		for (uint32_t j = 0; j < arena->sequences[i].filled; j++)
			refs[arena->sequences[i].pages[j]]++;
	for (unsigned i = 0; i < HELD; i++)
		for (uint32_t j = 0; j < model->held[i].pages_count; j++)
			refs[model->held[i].pages[j]]++;
	for (uint32_t i = 0; i < arena->options.pages_max; i++) {
		REQUIRE_EQ(arena_page_holders(arena, i), refs[i]);
		REQUIRE(!refs[i] || arena->pages[i].handle);
		held += refs[i] != 0;
	}
	REQUIRE_EQ(held + arena->unused.count + arena->fenced.count + arena->blank.count,
		arena->options.pages_max);
	*unique = held;
}

/* Each page's bytes of tokens, counted token by token; only where a block lies in one page. */
static uint64_t count_token_bytes(const struct model *model)
{
	const struct world *world = model->world;
	const struct arena_geometry *g = arena_geometry(world->arena);
	uint64_t fill[PAGES_MAX] = {0}, sum = 0;
	uint32_t page_tokens = g->page_blocks * g->block_tokens;

	for (unsigned i = 0; i < KNOWN; i++) {
		const struct known *known = &model->known[i];

		for (uint32_t j = 0; known->sequence && j < known->count; j += page_tokens) {
			uint32_t page = known->sequence->pages[j / page_tokens];
			uint64_t here = MIN_OF(page_tokens, known->count - j) * g->token_bytes;

			fill[page] = MAX_OF(fill[page], here);
		}
	}
	for (unsigned i = 0; i < PAGES_MAX; i++)
		sum += fill[i];
	return sum;
}

static void check(struct model *model)
{
	struct world *world = model->world;
	struct arena *arena = world->arena;
	struct arena_usage usage;
	uint64_t unshared = 0;
	uint32_t unique;

	if (world->options.background) {
		/* Looked at only where the mapper rests, with no fence that could wake it. */
		if (draw(model, 4))
			return;
		world_sync(world);
	}
	arena_settle(arena);
	check_references(model, &unique);
	arena_usage_get(arena, &usage, NULL);
	REQUIRE(usage.pages == usage.pages_free + usage.pages_fenced + usage.pages_held +
				       usage.mapped_bytes / arena->geometry.page_bytes);
	REQUIRE_EQ(arena->options.pages_max, usage.pages + arena->blank.count);
	for (unsigned i = 0; i < KNOWN; i++) {
		const struct known *known = &model->known[i];
		uint32_t need;

		if (!known->sequence)
			continue;
		need = pages_needed(world, known->count);
		REQUIRE_EQ(arena_pages_of(arena, known->count), need);
		REQUIRE(need <= MIN_OF(known->sequence->filled, sequence_keep(known->sequence)));
		unshared += need * arena->geometry.page_bytes;
	}
	/* With nothing ahead the pages are those that the tokens need, and no others. */
	if (!world->options.background && !model->loose)
		REQUIRE_EQ(usage.unshared_bytes, unshared);
	REQUIRE(usage.unshared_bytes >= unshared);
	REQUIRE(usage.token_bytes <= usage.mapped_bytes);
	if (arena->geometry.page_blocks)
		REQUIRE_EQ(usage.token_bytes, count_token_bytes(model));
}

/* ---------------------------------------------------------------------------------------- steps */

static struct known *act_open_one(struct model *model)
{
	struct world *world = model->world;
	bool paged = arena_geometry(world->arena)->page_blocks && draw(model, 3) == 0;
	struct known *known = &model->known[draw(model, KNOWN)];

	if (known->sequence ||
		full(model, arena_open(world->arena, paged ? ARENA_PAGED : ARENA_CONTIGUOUS,
				    &known->sequence)))
		return NULL;
	known->count = 0;
	REQUIRE_EQ(arena_base(known->sequence) == 0, paged);
	return known;
}

static void act_open(struct model *model)
{
	struct known *known = act_open_one(model);

	if (known && draw(model, 3) == 0)
		arena_expect(known->sequence, draw(model, 30));
}

/* What the others see must stay, and what is written must be the writer's alone. */
static void act_grow(struct model *model)
{
	struct world *world = model->world;
	struct known *known = draw_open(model);
	uint32_t before[KNOWN][KNOWN_TOKENS_MAX], old, count, written, shared = 0;
	struct arena_counters from, to;
	struct arena_usage usage;
	int status;

	if (!known)
		return;
	count = draw(model, 3) ? 1 + draw(model, 3) : 1 + draw(model, 16);
	old = known->count;
	if (old + count > world->options.tokens_max) {
		REQUIRE_EQ(arena_extend(known->sequence, world->options.tokens_max + 1), -EFBIG);
		return;
	}
	arena_settle(world->arena);
	arena_usage_get(world->arena, &usage, &from);
	written = geometry_written(&world->arena->geometry, old);
	for (uint32_t i = written; i < pages_needed(world, old); i++)
		shared += arena_page_holders(world->arena, known->sequence->pages[i]) - 1;
	/* What its tokens need; beyond that the mapper may be at work. */
	for (unsigned i = 0; i < KNOWN; i++)
		if (model->known[i].sequence)
			memcpy(before[i], model->known[i].sequence->pages,
				pages_needed(world, model->known[i].count) * sizeof(uint32_t));
	status = world_grow(world, known, count);
	arena_usage_get(world->arena, &usage, &to);
	REQUIRE(to.cow_copies - from.cow_copies <= shared);
	for (unsigned i = 0; i < KNOWN; i++) {
		const struct known *other = &model->known[i];
		uint32_t stays = other->sequence ? geometry_written(&world->arena->geometry,
							   other == known ? old : other->count)
						 : 0;

		REQUIRE(!stays ||
			!memcmp(before[i], other->sequence->pages, stays * sizeof(uint32_t)));
	}
	if (full(model, status)) {
		REQUIRE_EQ(arena_tokens(known->sequence), old);
		return;
	}
	for (uint32_t i = written; i < pages_needed(world, known->count); i++)
		REQUIRE_EQ(arena_page_holders(world->arena, known->sequence->pages[i]), 1);
}

static void act_fork(struct model *model)
{
	struct known *known = draw_open(model), *child = &model->known[draw(model, KNOWN)];

	if (!known || child->sequence)
		return;
	*child = *known;
	if (full(model, arena_fork(known->sequence, &child->sequence))) {
		child->sequence = NULL;
		return;
	}
	REQUIRE(!memcmp(child->sequence->pages, known->sequence->pages,
		pages_needed(model->world, known->count) * sizeof(uint32_t)));
}

static void act_truncate(struct model *model)
{
	struct known *known = draw_open(model);
	uint32_t few = draw(model, 4);

	if (!known)
		return;
	known->count =
		few ? known->count - MIN_OF(known->count, few) : draw(model, known->count + 1);
	arena_truncate(known->sequence, known->count, draw_fence(model));
}

static void act_free(struct model *model)
{
	struct known *known = draw_open(model);

	if (!known)
		return;
	arena_free(known->sequence, draw_fence(model));
	known->sequence = NULL;
}

static void act_hold(struct model *model)
{
	struct held *held = &model->held[draw(model, HELD)];
	struct known *known = draw_open(model);

	if (held->pages_count) {
		arena_release(
			model->world->arena, held->pages, held->pages_count, draw_fence(model));
		held->pages_count = 0;
		return;
	}
	if (!known || !known->count)
		return;
	held->tokens = *known;
	held->tokens.count = 1 + draw(model, known->count);
	held->pages_count = pages_needed(model->world, held->tokens.count);
	REQUIRE_EQ(arena_hold(known->sequence, 0, held->pages_count, held->pages), 0);
}

static void act_attach(struct model *model)
{
	const struct held *held = &model->held[draw(model, HELD)];
	struct known *known = draw(model, 4) ? act_open_one(model) : draw_open(model);
	int status;

	if (!known || !held->pages_count)
		return;
	if (draw(model, 2))
		status = arena_attach(
			known->sequence, held->pages, held->pages_count, held->tokens.count);
	else
		status = arena_attach_copy(
			known->sequence, held->pages, held->pages_count, held->tokens.count);
	if (known->count || status == -EINVAL) { /* not empty, or pages were expected */
		REQUIRE_EQ(status, -EINVAL);
		return;
	}
	if (full(model, status))
		return;
	memcpy(known->ids, held->tokens.ids, sizeof(known->ids));
	known->count = held->tokens.count;
}

static void act_verify(struct model *model)
{
	struct known *known = draw_open(model);

	if (known)
		world_verify(model->world, known);
}

static void act_pool(struct model *model)
{
	struct arena *arena = model->world->arena;
	int status;

	if (draw(model, 2)) {
		arena_shrink(arena, draw(model, arena->options.pages_max));
		return;
	}
	status = arena_warm(arena, draw(model, arena->options.pages_max));
	REQUIRE_EQ(status, 0);
}

static void step(struct model *model)
{
	static void (*const acts[])(struct model * model) = {act_open, act_open, act_grow, act_grow,
		act_grow, act_grow, act_fork, act_fork, act_truncate, act_free, act_hold,
		act_attach, act_attach, act_verify, act_pool};

	acts[draw(model, ARRAY_COUNT(acts))](model);
}

/* ---------------------------------------------------------------------------------------- lives */

static void choose(struct model *model, struct arena_options *options)
{
	struct world *world = model->world;
	size_t page = gpu_info(world->gpu)->page_bytes;

	*options = world_options(world, draw(model, 2) ? ARENA_LAYER_FIRST : ARENA_TOKEN_FIRST);
	switch (draw(model, 5)) {
	case 0: /* a block is a page */
		break;
	case 1: /* four blocks share a page */
		options->shape.head_bytes /= 4;
		break;
	case 2: /* two device pages a block */
		options->shape.block_tokens = 8;
		break;
	case 3: /* one page and a half: blocks lie across page ends */
		options->shape.layers = 3;
		break;
	default: /* the same, with pages that hold two blocks */
		options->shape.layers = 3;
		options->page_bytes = 3 * page;
		break;
	}
	options->background = draw(model, 2);
	options->ahead_tokens = draw(model, 12);
	options->spare_pages = draw(model, 4);
	options->pages_max = draw(model, 3) ? PAGES_MAX : 12 + draw(model, 12);
	options->sequences_max = draw(model, 3) ? KNOWN + 2 : 3;
}

/* What all lives together met: a path that none of them takes is not tested. */
static struct arena_counters met;
static uint64_t met_tokens;

static void add_met(struct world *world)
{
	struct arena_counters counters;
	struct arena_usage usage;

	uint64_t longest = met.wait_ns_max;

	arena_usage_get(world->arena, &usage, &counters);
#define X(name, text) met.name += counters.name;
	ARENA_COUNTERS(X)
#undef X
	met.wait_ns_max = MAX_OF(longest, counters.wait_ns_max);
	met_tokens += world->next_id - 1;
	world->next_id = 1;
}

static void show_met(enum gpu_back_end back_end)
{
	printf("%s: %llu tokens, %llu calls found the pool full", back_end ? "cuda" : "host",
		(unsigned long long)met_tokens, (unsigned long long)met_full);
#define X(name, text) printf(", %s %llu", #name, (unsigned long long)met.name);
	ARENA_COUNTERS(X)
#undef X
	printf("\n");
	REQUIRE(met.pages_destroyed && met.pages_recycled && met.maps_ahead && met.maps_in_time);
	REQUIRE(met.maps_shared && met.unmaps && met.waits && met.cow_copies && met.cow_remaps);
	REQUIRE(met.attach_copies && met_full);
	met = (struct arena_counters){0};
	met_full = met_tokens = 0;
}

static void live(struct world *world, uint64_t seed)
{
	struct model *model = calloc(1, sizeof(*model));
	struct arena_options options;
	struct arena_usage usage;

	REQUIRE(model);
	model->world = world;
	model->random = seed;
	choose(model, &options);
	REQUIRE_EQ(world_arena(world, &options), 0);
	for (unsigned i = 0; i < STEPS; i++) {
		step(model);
		check(model);
	}
	for (unsigned i = 0; i < KNOWN; i++) {
		if (!model->known[i].sequence)
			continue;
		world_verify(world, &model->known[i]);
		arena_free(model->known[i].sequence, draw_fence(model));
		model->known[i].sequence = NULL;
		check(model);
	}
	for (unsigned i = 0; i < HELD; i++)
		arena_release(world->arena, model->held[i].pages, model->held[i].pages_count, 0);
	world_sync(world);
	arena_settle(world->arena);
	arena_usage_get(world->arena, &usage, NULL);
	REQUIRE_EQ(usage.pages, usage.pages_free);
	REQUIRE_EQ(usage.sequences + usage.sequences_closing, 0);
	add_met(world);
	REQUIRE_EQ(arena_shrink(world->arena, 0), usage.pages);
	world_arena_end(world);
	free(model);
}

/* Which life it was, when a promise does not hold: REQUIRE ends the process. */
static uint64_t current;
static bool passed;

static void say_current(void)
{
	if (!passed)
		fprintf(stderr, "in the life of seed %llu\n", (unsigned long long)current);
}

static bool lives(enum gpu_back_end back_end, uint64_t seed, uint64_t count)
{
	struct world world;

	if (!world_open(&world, back_end))
		return false;
	for (uint64_t i = 0; i < count; i++) {
		current = seed + i;
		live(&world, mix64(current));
	}
	world_close(&world);
	if (count >= 40)
		show_met(back_end);
	return true;
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);
	uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 0) : 0;

	REQUIRE_EQ(atexit(say_current), 0);
	if (!count && world_short())
		count = 4;
	REQUIRE(lives(GPU_HOST, seed, count ? count : 500));
	if (!lives(GPU_CUDA, seed, count ? count : 40))
		printf("skip: no CUDA device opens, the host half has run\n");
	passed = true;
	return 0;
}
