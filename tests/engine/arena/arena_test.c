/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of arena.h one by one, on both back ends; and each call to the device failing
 * once. */
#include <errno.h>
#include <stdatomic.h>

#include "base/memory.h"
#include "kernels/pattern.h"
#include "tests/engine/arena/world.h"

static struct arena_counters counters_of(struct world *world)
{
	struct arena_counters counters;
	struct arena_usage usage;

	arena_usage_get(world->arena, &usage, &counters);
	return counters;
}

static struct arena_usage usage_of(struct world *world)
{
	struct arena_usage usage;

	arena_usage_get(world->arena, &usage, NULL);
	return usage;
}

static void begin(struct world *world, struct arena_options options)
{
	REQUIRE_EQ(world_arena(world, &options), 0);
}

static void open_and_grow(struct world *world, struct known *known, uint32_t tokens)
{
	*known = (struct known){0};
	REQUIRE_EQ(arena_open(world->arena, ARENA_CONTIGUOUS, &known->sequence), 0);
	REQUIRE_EQ(world_grow(world, known, tokens), 0);
}

/* ------------------------------------------------------------------------------------- geometry */

static void block_of_llama_is_one_page(void)
{
	struct arena_options options = {.tokens_max = 131072,
		.shape = {.layers = 32, .heads = 8, .head_bytes = 256, .block_tokens = 16}};
	struct arena_geometry g;

	REQUIRE_EQ(arena_geometry_of(&options, 2 << 20, &g), 0);
	REQUIRE_EQ(g.block_bytes, 2 << 20);
	REQUIRE_EQ(g.page_bytes, 2 << 20);
	REQUIRE_EQ(g.page_blocks, 1);
	REQUIRE_EQ(g.range_pages, 8192);
	REQUIRE_EQ(g.layer_stride, 64 << 10);
	REQUIRE_EQ(g.token_stride, 2048);
	options.shape.order = ARENA_TOKEN_FIRST;
	REQUIRE_EQ(arena_geometry_of(&options, 2 << 20, &g), 0);
	REQUIRE_EQ(g.token_stride, g.token_bytes);
	REQUIRE_EQ(g.layer_stride, 4096);
}

static void pages_follow_the_rule(void)
{
	/* Yi-6B: 1 MiB a block, two share a page. Yi-34B: 3.75 MiB, across pages; 30 MiB hold 8. */
	struct arena_options options = {.tokens_max = 32768,
		.shape = {.layers = 32, .heads = 4, .head_bytes = 256, .block_tokens = 16}};
	struct arena_geometry g;

	REQUIRE_EQ(arena_geometry_of(&options, 2 << 20, &g), 0);
	REQUIRE_EQ(g.page_blocks, 2);
	options.shape.layers = 60;
	options.shape.heads = 8;
	REQUIRE_EQ(arena_geometry_of(&options, 2 << 20, &g), 0);
	REQUIRE_EQ(g.page_bytes, 2 << 20);
	REQUIRE_EQ(g.page_blocks, 0);
	options.page_bytes = 30 << 20;
	REQUIRE_EQ(arena_geometry_of(&options, 2 << 20, &g), 0);
	REQUIRE_EQ(g.page_blocks, 8);
	/* Two device pages a block. */
	options = (struct arena_options){.tokens_max = 1024,
		.shape = {.layers = 32, .heads = 8, .head_bytes = 512, .block_tokens = 16}};
	REQUIRE_EQ(arena_geometry_of(&options, 2 << 20, &g), 0);
	REQUIRE_EQ(g.page_bytes, 4 << 20);
	options.page_bytes = (2 << 20) + 1;
	REQUIRE_EQ(arena_geometry_of(&options, 2 << 20, &g), -EINVAL);
	options.page_bytes = 0;
	options.shape.layers = 0;
	REQUIRE_EQ(arena_geometry_of(&options, 2 << 20, &g), -EINVAL);
	options.shape.layers = 32;
	options.tokens_max = 0;
	REQUIRE_EQ(arena_geometry_of(&options, 2 << 20, &g), -EINVAL);
}

/* -------------------------------------------------------------------------------------- growing */

static void mapped_ahead_never_waits(struct world *world)
{
	struct arena_options options = world_options(world, ARENA_LAYER_FIRST);
	struct known known;
	struct arena_counters before;

	options.background = true;
	options.ahead_tokens = 8;
	begin(world, options);
	open_and_grow(world, &known, 4);
	arena_settle(world->arena);
	before = counters_of(world);
	for (unsigned i = 0; i < 40; i++) {
		REQUIRE(arena_ready(known.sequence, known.count + 1));
		REQUIRE_EQ(world_grow(world, &known, 1), 0);
		arena_settle(world->arena);
	}
	REQUIRE_EQ(counters_of(world).waits, before.waits);
	REQUIRE_EQ(counters_of(world).maps_in_time, before.maps_in_time);
	REQUIRE_EQ(counters_of(world).maps_ahead, before.maps_ahead + 10);
	/* 11 pages hold 44 tokens, 2 stand ready. */
	REQUIRE_EQ(usage_of(world).mapped_bytes, 13 * arena_geometry(world->arena)->page_bytes);
	world_verify(world, &known);
	/* Told of a long prompt, it stands ready before the first token of it comes. */
	arena_expect(known.sequence, 80);
	arena_settle(world->arena);
	REQUIRE(arena_ready(known.sequence, 80));
	REQUIRE(!arena_ready(known.sequence, 89));
	world_arena_end(world);
}

static void limits_hold(struct world *world)
{
	struct arena_options options = world_options(world, ARENA_TOKEN_FIRST);
	struct known known[2];
	struct arena_sequence *third;

	options.pages_max = 6;
	options.sequences_max = 2;
	begin(world, options);
	open_and_grow(world, &known[0], 16);
	open_and_grow(world, &known[1], 4);
	REQUIRE_EQ(arena_open(world->arena, ARENA_PAGED, &third), -ENOSPC);
	REQUIRE_EQ(arena_extend(known[0].sequence, 101), -EFBIG);
	REQUIRE_EQ(arena_extend(known[0].sequence, 3), -EINVAL);
	REQUIRE_EQ(arena_extend(known[0].sequence, 32), -ENOMEM);
	REQUIRE_EQ(arena_tokens(known[0].sequence), 16);
	world_verify(world, &known[0]);
	arena_truncate(known[0].sequence, 0, 0);
	known[0].count = 0;
	REQUIRE_EQ(world_grow(world, &known[1], 16), 0);
	world_verify(world, &known[1]);
	arena_free(known[0].sequence, 0);
	REQUIRE_EQ(arena_open(world->arena, ARENA_PAGED, &third), 0);
	world_arena_end(world);
}

/* -------------------------------------------------------------------------------------- sharing */

/* A fork shares; the child's copy of the partial page is made when its parent writes, so that the
 * parent's range stays as it is. */
static void forks_share_and_copy_once(struct world *world)
{
	struct known known, child;
	uint64_t base;

	begin(world, world_options(world, ARENA_LAYER_FIRST));
	open_and_grow(world, &known, 18); /* four pages and a half */
	child = known;
	REQUIRE_EQ(arena_fork(known.sequence, &child.sequence), 0);
	REQUIRE_EQ(usage_of(world).pages_shared, 5);
	REQUIRE_EQ(usage_of(world).unshared_bytes, 2 * usage_of(world).mapped_bytes);
	base = arena_base(known.sequence);
	REQUIRE_EQ(world_grow(world, &known, 1), 0);
	REQUIRE_EQ(counters_of(world).cow_copies, 1);
	REQUIRE_EQ(counters_of(world).cow_remaps, 0);
	REQUIRE_EQ(arena_base(known.sequence), base);
	/* The child is told that a page changed below its tokens; it has nothing to copy any
	 * more. */
	REQUIRE_EQ(world_grow(world, &child, 1), 1);
	REQUIRE_EQ(world_grow(world, &child, 1), 0);
	REQUIRE_EQ(counters_of(world).cow_copies, 1);
	REQUIRE_EQ(usage_of(world).pages_shared, 4);
	world_verify(world, &known);
	world_verify(world, &child);
	world_arena_end(world);
}

/* Where both ranges stand already, the page is exchanged under the writer's. */
static void page_is_exchanged_under_a_range(struct world *world)
{
	struct known known, child;

	begin(world, world_options(world, ARENA_TOKEN_FIRST));
	open_and_grow(world, &known, 18);
	child = known;
	REQUIRE_EQ(arena_fork(known.sequence, &child.sequence), 0);
	world_verify(world, &child); /* maps all of it */
	REQUIRE_EQ(world_grow(world, &known, 1), 1);
	REQUIRE_EQ(counters_of(world).cow_remaps, 1);
	REQUIRE_EQ(world_grow(world, &child, 1), 0);
	world_verify(world, &known);
	world_verify(world, &child);
	world_arena_end(world);
}

static void attached_prefix_outlives_its_maker(struct world *world)
{
	struct known known, reader, copy;
	uint32_t pages[5];

	begin(world, world_options(world, ARENA_LAYER_FIRST));
	open_and_grow(world, &known, 20);
	REQUIRE_EQ(arena_hold(known.sequence, 0, 6, pages), -EINVAL);
	REQUIRE_EQ(arena_hold(known.sequence, 0, 5, pages), 0);
	world_sync(world);
	arena_free(known.sequence, 0);
	REQUIRE_EQ(usage_of(world).pages_held, 5);
	reader = copy = known;
	reader.count = 18;
	REQUIRE_EQ(arena_open(world->arena, ARENA_CONTIGUOUS, &reader.sequence), 0);
	REQUIRE_EQ(arena_attach(reader.sequence, pages, 4, 18), -EINVAL);
	REQUIRE_EQ(arena_attach(reader.sequence, pages, 5, 18), 0);
	REQUIRE_EQ(arena_attach(reader.sequence, pages, 5, 18), -EINVAL);
	REQUIRE_EQ(arena_open(world->arena, ARENA_PAGED, &copy.sequence), 0);
	REQUIRE_EQ(arena_attach_copy(copy.sequence, pages, 5, 20), 0);
	REQUIRE_EQ(counters_of(world).attach_copies, 5);
	REQUIRE_EQ(usage_of(world).mapped_bytes, 10 * arena_geometry(world->arena)->page_bytes);
	REQUIRE_EQ(world_grow(world, &reader, 7), 1);
	world_verify(world, &reader);
	world_verify(world, &copy);
	arena_release(world->arena, pages, 5, 0);
	world_verify(world, &reader);
	world_arena_end(world);
}

/* Bytes that come from elsewhere are put into a page of nobody's, which then is a prefix. */
static void taken_page_becomes_a_prefix(struct world *world)
{
	struct known known = {0}, reader = {0};
	uint64_t page_bytes;
	uint32_t page;

	begin(world, world_options(world, ARENA_LAYER_FIRST));
	page_bytes = arena_geometry(world->arena)->page_bytes;
	open_and_grow(world, &known, 4);
	REQUIRE_EQ(arena_take(world->arena, &page), 0);
	REQUIRE_EQ(gpu_copy(world->stream, arena_page_at(world->arena, page),
			   arena_base(known.sequence), page_bytes),
		0);
	reader = known;
	REQUIRE_EQ(arena_open(world->arena, ARENA_CONTIGUOUS, &reader.sequence), 0);
	REQUIRE_EQ(arena_attach(reader.sequence, &page, 1, 4), 0);
	arena_release(world->arena, &page, 1, 0);
	REQUIRE_EQ(arena_page_holders(world->arena, page), 1);
	world_verify(world, &reader);
	world_arena_end(world);
}

/* --------------------------------------------------------------------------------------- fences */

static _Atomic int gate;

static void wait_at_gate(const void *args)
{
	(void)args;
	while (!atomic_load(&gate))
		usleep(100);
}

/* Host alone: a stream that stands still for as long as the test wants. */
static void pages_in_flight_stay(struct world *world, bool background)
{
	static const struct gpu_kernel kernel = {"wait_at_gate", wait_at_gate};
	struct arena_options options = world_options(world, ARENA_LAYER_FIRST);
	const struct gpu_grid grid = {.threads = 1};
	struct known known[2];
	struct arena_sequence *third;
	uint64_t fence;
	int nothing = 0;

	options.pages_max = 6;
	options.sequences_max = 2;
	options.background = background;
	begin(world, options);
	open_and_grow(world, &known[0], 16);
	open_and_grow(world, &known[1], 8);
	world_sync(world);
	atomic_store(&gate, 0);
	REQUIRE_EQ(gpu_launch(world->stream, &kernel, &grid, &nothing, sizeof(nothing)), 0);
	REQUIRE_EQ(arena_fence(world->arena, &fence), 0);
	arena_free(known[0].sequence, fence);
	arena_settle(world->arena);
	REQUIRE_EQ(usage_of(world).pages_fenced, 4);
	REQUIRE_EQ(usage_of(world).sequences_closing, 1);
	REQUIRE_EQ(arena_open(world->arena, ARENA_CONTIGUOUS, &third), -EAGAIN);
	REQUIRE_EQ(arena_extend(known[1].sequence, 12), -EAGAIN);
	atomic_store(&gate, 1);
	world_sync(world);
	arena_settle(world->arena);
	REQUIRE_EQ(usage_of(world).pages_free, 4);
	REQUIRE_EQ(world_grow(world, &known[1], 16), 0);
	world_verify(world, &known[1]);
	REQUIRE_EQ(arena_open(world->arena, ARENA_CONTIGUOUS, &third), 0);
	world_arena_end(world);
}

static void fences_are_few(struct world *world)
{
	uint64_t fence = 0;

	begin(world, world_options(world, ARENA_LAYER_FIRST));
	for (unsigned i = 1; i <= 64; i++) {
		REQUIRE_EQ(arena_fence(world->arena, &fence), 0);
		REQUIRE_EQ(fence, i);
	}
	world_sync(world);
	REQUIRE_EQ(arena_fence(world->arena, &fence), 0);
	world_arena_end(world);
}

static void pool_shrinks_and_warms(struct world *world)
{
	struct known known;

	begin(world, world_options(world, ARENA_LAYER_FIRST));
	REQUIRE_EQ(arena_warm(world->arena, 10), 0);
	REQUIRE_EQ(usage_of(world).pages_free, 10);
	open_and_grow(world, &known, 16);
	REQUIRE_EQ(counters_of(world).pages_created, 10);
	REQUIRE_EQ(arena_shrink(world->arena, 7), 3);
	REQUIRE_EQ(arena_shrink(world->arena, 0), 3); /* four are in use */
	world_verify(world, &known);
	world_arena_end(world);
}

/* ------------------------------------------------------------------------------------- failures */

/* Calls again what failed by order, and only that. */
#define DONE(world, call) REQUIRE(AGAIN(world, call) >= 0)

/* A life with everything in it. Every call that fails by order is made once more, and then
 * holds. */
static void eventful(struct world *world)
{
	struct known a = {0}, b = {0}, c = {0}, d = {0};
	uint64_t fence = 0;
	uint32_t pages[3], taken;

	DONE(world, arena_warm(world->arena, 2));
	DONE(world, arena_open(world->arena, ARENA_CONTIGUOUS, &a.sequence));
	arena_expect(a.sequence, 12);
	DONE(world, world_grow(world, &a, 10));
	b = a;
	DONE(world, arena_fork(a.sequence, &b.sequence));
	DONE(world, world_grow(world, &a, 1)); /* the copy goes to b */
	world_verify(world, &b);
	c = b;
	DONE(world, arena_fork(b.sequence, &c.sequence));
	world_verify(world, &c);
	DONE(world, world_grow(world, &b, 3)); /* exchanged under the range */
	DONE(world, arena_hold(a.sequence, 0, 3, pages));
	d.count = 9;
	memcpy(d.ids, a.ids, sizeof(a.ids));
	DONE(world, arena_open(world->arena, ARENA_PAGED, &d.sequence));
	DONE(world, arena_attach_copy(d.sequence, pages, 3, 9));
	world_verify(world, &d);
	DONE(world, world_grow(world, &d, 5));
	DONE(world, arena_fence(world->arena, &fence));
	arena_truncate(d.sequence, 6, fence);
	d.count = 6;
	DONE(world, world_grow(world, &d, 9));
	DONE(world, arena_take(world->arena, &taken));
	arena_release(world->arena, &taken, 1, fence);
	arena_free(a.sequence, fence);
	DONE(world, arena_open(world->arena, ARENA_CONTIGUOUS, &a.sequence));
	a.count = 9;
	DONE(world, arena_attach(a.sequence, pages, 3, 9));
	DONE(world, world_grow(world, &a, 2));
	arena_release(world->arena, pages, 3, 0);
	world_verify(world, &a);
	world_verify(world, &b);
	world_verify(world, &c);
	world_verify(world, &d);
	arena_shrink(world->arena, 0);
	world_verify(world, &d);
}

static void each_device_call_fails_once(struct world *world, bool background, int injected)
{
	struct arena_options options = world_options(world, ARENA_LAYER_FIRST);
	/* Under a tool that makes launches slow, every eleventh. */
	uint64_t nth = 0, failures = 0, lives = 0, step = world_short() ? 11 : 1;
	bool reached;

	options.background = background;
	options.ahead_tokens = 4;
	options.spare_pages = 1;
	do {
		struct gpu_usage held;

		nth += step;
		world_fail_nth(world, nth, injected);
		if (world_arena(world, &options) != 0) {
			gpu_usage(world->gpu, &held);
			REQUIRE_EQ(held.reserved_bytes + held.page_bytes + held.events, 0);
			REQUIRE_EQ(world_arena(world, &options), 0);
		}
		eventful(world);
		failures += counters_of(world).failures;
		lives++;
		world_arena_end(world);
		reached = world->fail_left == 0;
	} while (reached);
	world_fail_nth(world, 0, 0);
	printf("%llu calls of the device failed, one a life; %llu after the arena was made\n",
		(unsigned long long)lives - 1, (unsigned long long)failures);
	REQUIRE(nth > 100 && failures >= 20 / step);
}

static void each_allocation_fails_once(struct world *world)
{
	struct arena_options options = world_options(world, ARENA_LAYER_FIRST);
	unsigned nth = 0;
	int status;

	do {
		struct gpu_usage held;

		memory_fail_after(++nth, 0);
		status = world_arena(world, &options);
		memory_fail_after(0, 0);
		if (status) {
			REQUIRE_EQ(status, -ENOMEM);
			gpu_usage(world->gpu, &held);
			REQUIRE_EQ(held.reserved_bytes + held.page_bytes + held.events, 0);
		}
	} while (status);
	REQUIRE(nth > 4);
	world_arena_end(world);
}

static bool promises(enum gpu_back_end back_end)
{
	struct world world;

	if (!world_open(&world, back_end))
		return false;
	mapped_ahead_never_waits(&world);
	limits_hold(&world);
	forks_share_and_copy_once(&world);
	page_is_exchanged_under_a_range(&world);
	attached_prefix_outlives_its_maker(&world);
	taken_page_becomes_a_prefix(&world);
	fences_are_few(&world);
	pool_shrinks_and_warms(&world);
	if (back_end == GPU_HOST) {
		pages_in_flight_stay(&world, false);
		pages_in_flight_stay(&world, true);
		each_allocation_fails_once(&world);
	}
	each_device_call_fails_once(&world, false, -ENOMEM);
	each_device_call_fails_once(&world, true, -EIO);
	world_close(&world);
	return true;
}

int main(void)
{
	block_of_llama_is_one_page();
	pages_follow_the_rule();
	REQUIRE(promises(GPU_HOST));
	if (!promises(GPU_CUDA))
		printf("skip: no CUDA device opens, the host half has run\n");
	return 0;
}
