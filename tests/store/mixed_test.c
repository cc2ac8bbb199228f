/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of several sizes in one pool: what they leave unused, and how one size gives way to
 * another, without taking what is pinned, being put or written below.
 *
 *	store_mixed_test [SEED]
 */
#include "tests/store/play.h"

enum { KINDS = 3, CHATS = 64, CHAT_BLOCKS_MAX = 24 };

struct chat {
	uint32_t path[CHAT_BLOCKS_MAX], length;
};

struct world {
	struct sim sim;
	struct sim_client client;
	struct play_space spaces[KINDS];
	struct chat chats[KINDS][CHATS];
	uint64_t random, refused, asked, had;
	uint32_t next_path;
};

static uint32_t pick(struct world *world, uint32_t range)
{
	return unit_random(&world->random, range);
}

/* Puts blocks without touching a frame. Return: blocks put. */
static uint32_t put_blind(struct world *world, struct play_chain *chain, struct probe_want want)
{
	static struct play_reserved reserved;
	struct play_put put = {.chain = chain, .first = want.first, .count = want.count};
	struct completion done;
	int32_t answered;

	for (; put.part < chain->space->kind->part_count; put.part++) {
		answered = play_reserve(&world->sim, &world->client, &put, &reserved);
		if (answered < 0) {
			world->refused++;
			return 0;
		}
		world->refused += (uint32_t)answered < put.count;
		put.count = (uint32_t)answered;
		REQUIRE(sim_commit_blind(&world->client, reserved.written, reserved.count));
		sim_run(&world->sim);
		REQUIRE(sim_take(&world->client, 0, &done));
		REQUIRE_EQ(done.status, reserved.count);
	}
	return put.count;
}

/* One request of a random chat of this kind: matched, touched, the rest put. */
static void request(struct world *world, unsigned kind)
{
	struct chat *chat = &world->chats[kind][pick(world, 1 + pick(world, CHATS))];
	static struct play_chain chain;
	struct submission touch = {.op = SUBMIT_TOUCH};
	static struct probe_name names[CHAT_BLOCKS_MAX];
	uint32_t more = 1 + pick(world, 6), had;

	if (chat->length + more > CHAT_BLOCKS_MAX || pick(world, 20) == 0)
		chat->length = 0;
	if (!chat->length)
		chat->path[chat->length++] = 1 + pick(world, 4); /* a shared prompt */
	while (more--)
		chat->path[chat->length++] = world->next_path++;
	play_chain_make(&chain, &world->sim, &world->spaces[kind], chat->path, chat->length);
	had = probe_run(&world->sim.realm->index.view, &chain.probe,
		(struct probe_want){0, chat->length}, names, NULL);
	if (had) {
		touch.slot = names[had - 1].slot;
		touch.generation = names[had - 1].frame_generation;
		touch.u.touch.matched = touch.u.touch.asked = had;
		touch.u.touch.space = (uint16_t)chain.probe.space;
		REQUIRE(sim_push(&world->client, &touch));
	}
	world->asked += chat->length;
	world->had += had;
	if (had < chat->length)
		put_blind(world, &chain, (struct probe_want){had, chat->length - had});
	sim_run(&world->sim);
	world->sim.keeper->now_ns += NS_PER_MS;
}

static void world_open(struct world *world, const struct sim_space *kinds, uint64_t dram_bytes)
{
	struct sim_options options = {.dram_bytes = dram_bytes, .index_blocks = 4096};

	memset(world->chats, 0, sizeof(world->chats));
	world->refused = world->asked = world->had = 0;
	world->next_path = 100;
	REQUIRE_EQ(sim_create(&world->sim, &options), 0);
	REQUIRE_EQ(sim_client_open(&world->sim, world->sim.realm, &world->client), 0);
	for (unsigned i = 0; i < KINDS; i++)
		play_space_open(&world->client, &kinds[i], &world->spaces[i]);
}

static void world_close(struct world *world)
{
	sim_client_close(&world->client, true);
	play_nothing_leaks(&world->sim, world->sim.realm);
	sim_destroy(&world->sim);
}

static uint64_t payload_bytes(const struct world *world)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < KINDS; i++) {
		const struct sim_space *kind = world->spaces[i].kind;

		for (uint32_t p = 0; p < kind->part_count; p++)
			bytes += kind->bytes[p] *
				 world->sim.realm->spaces[world->spaces[i].answer.space].blocks;
	}
	return bytes;
}

/* How the sizes come: evenly mixed, or in waves in which slabs must change hands all the time. */
enum pressure { EVEN, WAVES };

/* The share of a 1 GiB pool that holds payload, on average once it is full. */
static double live_share(struct world *world, const uint64_t *sizes, enum pressure pressure)
{
	struct sim_space kinds[KINDS] = {
		{.name = "a", .block_tokens = 4, .part_count = 1, .ranges = {1}},
		{.name = "b", .block_tokens = 4, .part_count = 1, .ranges = {1}},
		{.name = "c", .block_tokens = 4, .part_count = 1, .ranges = {1}}};
	const uint64_t dram_bytes = 1ull << 30;
	double sum = 0, least = 1;
	unsigned samples = 0;

	for (unsigned k = 0; k < KINDS; k++)
		kinds[k].bytes[0] = sizes[k];
	world_open(world, kinds, dram_bytes);
	for (unsigned turn = 0; turn < 6000; turn++) {
		unsigned wave = turn / 200 % KINDS;

		request(world, pressure == WAVES && pick(world, 2) ? wave : pick(world, KINDS));
		if (turn > 1500) {
			double share = (double)payload_bytes(world) / (double)dram_bytes;

			sum += share;
			least = MIN_OF(least, share);
			samples++;
		}
	}
	printf("%s of %7llu %7llu %7llu bytes: live %.4f (least %.4f), %llu slabs changed hands, "
	       "%.2f had\n",
		pressure == WAVES ? "waves" : "a mix", (unsigned long long)sizes[0],
		(unsigned long long)sizes[1], (unsigned long long)sizes[2], sum / samples, least,
		(unsigned long long)world->sim.realm->counters[REALM_COUNTER_slabs_emptied],
		(double)world->had / (double)world->asked);
	REQUIRE_EQ(world->refused, 0);
	world_close(world);
	return sum / samples;
}

static void waste_stays_small(struct world *world)
{
	static const uint64_t sizes[][KINDS] = {
		{640 << 10, 2 << 20, 5 << 20},
		{512 << 10, 2560 << 10, 2 << 20},
		{16 << 10, 1 << 20, 3 << 20},
		{700000, 1500000, 4100000},
	};
	/* Sizes that only slabs of 16 to 40 MiB hold well leave gaps between slabs in a pool of
	 * 512 units: that is what the second number allows for. */
	static const uint64_t odd[KINDS] = {999936, 3333336, 2200000};

	for (unsigned i = 0; i < ARRAY_COUNT(sizes); i++) {
		REQUIRE(live_share(world, sizes[i], EVEN) >= 0.96);
		REQUIRE(live_share(world, sizes[i], WAVES) >= 0.93);
	}
	REQUIRE(live_share(world, odd, EVEN) >= 0.90);
}

static const struct sim_space plain[KINDS] = {
	{.name = "a", .block_tokens = 4, .part_count = 1, .bytes = {640 << 10}, .ranges = {1}},
	{.name = "b", .block_tokens = 4, .part_count = 1, .bytes = {2 << 20}, .ranges = {1}},
	{.name = "c", .block_tokens = 4, .part_count = 1, .bytes = {5 << 20}, .ranges = {1}},
};

/* A pool full of one size, then only another one is put: it takes the pool over. What the old one
 * keeps are slabs between which no longer run of units is left. */
static void one_size_gives_way(struct world *world)
{
	const uint64_t bytes = 256 << 20;

	for (unsigned from = 0; from < KINDS; from++)
		for (unsigned to = 0; to < KINDS; to++) {
			uint64_t held, left;

			if (from == to)
				continue;
			world_open(world, plain, bytes);
			for (unsigned turn = 0; turn < 400; turn++)
				request(world, from);
			for (unsigned turn = 0; turn < 2000; turn++)
				request(world, to);
			held = world->sim.realm->spaces[to].blocks * plain[to].bytes[0];
			left = world->sim.realm->spaces[from].blocks * plain[from].bytes[0];
			printf("%llu bytes after %llu: %.3f of the pool\n",
				(unsigned long long)plain[to].bytes[0],
				(unsigned long long)plain[from].bytes[0],
				(double)held / (double)bytes);
			REQUIRE_EQ(world->refused, 0);
			REQUIRE(held >= bytes / 100 * 70 && left <= bytes / 100 * 10);
			world_close(world);
		}
}

/* ------------------------------------------------------------- what a class change leaves alone */

enum { HELD = 6 };

/* Pinned runs and parts being written, while slabs change hands around them. */
struct hold {
	struct play_chain chain;
	struct play_match match;
	struct play_reserved reserved;
	bool pinned, reserving;
};

static void chain_random(struct world *world, struct play_chain *chain)
{
	uint32_t path[CHAT_BLOCKS_MAX], length = 1 + pick(world, 8);

	for (uint32_t i = 0; i < length; i++)
		path[i] = 1 + pick(world, i < 2 ? 2 : 6);
	play_chain_make(chain, &world->sim, &world->spaces[pick(world, KINDS)], path, length);
}

static void hold_end(struct world *world, struct hold *hold, unsigned cell)
{
	struct completion done;

	if (hold->reserving) {
		REQUIRE(sim_commit_blind(
			&world->client, hold->reserved.written, hold->reserved.count));
		sim_run(&world->sim);
		REQUIRE(sim_take(&world->client, 0, &done));
		/* No writer loses its block, or what that rests on, to another size. */
		REQUIRE_EQ(done.status, hold->reserved.count);
	}
	if (hold->pinned)
		for (uint32_t i = 0; i < hold->match.count; i++)
			REQUIRE_EQ(atomic_load(&world->sim.realm->index
							.entries[hold->match.names[i].slot]
							.frame_generation),
				hold->match.names[i].frame_generation);
	pin_clear(&sim_pins(&world->client)[cell]);
	hold->pinned = hold->reserving = false;
}

static void hold_begin(struct world *world, struct hold *hold, unsigned cell)
{
	struct play_put put = {.chain = &hold->chain};
	const struct index_view *view = &world->sim.realm->index.view;
	uint32_t count;

	chain_random(world, &hold->chain);
	count = hold->chain.probe.block_count;
	hold->match.count = probe_run(
		view, &hold->chain.probe, (struct probe_want){0, count}, hold->match.names, NULL);
	hold->match.count = pin_run(
		view, &sim_pins(&world->client)[cell], hold->match.names, hold->match.count);
	hold->pinned = hold->match.count > 0;
	put.first = MIN_OF(play_named(&world->client, &hold->chain), count - 1);
	put.count = count - put.first;
	hold->reserving = play_reserve(&world->sim, &world->client, &put, &hold->reserved) > 0 &&
			  hold->reserved.count > 0;
	/* A pin is of no help where a writer lives long: sometimes it goes at once. */
	if (pick(world, 2)) {
		pin_clear(&sim_pins(&world->client)[cell]);
		hold->pinned = false;
	}
}

static void class_change_respects_users(struct world *world)
{
	static const struct sim_space small[KINDS] = {
		{.name = "a", .block_tokens = 4, .part_count = 1, .bytes = {64 << 10}},
		{.name = "b", .block_tokens = 4, .part_count = 1, .bytes = {256 << 10}},
		{.name = "c", .block_tokens = 4, .part_count = 1, .bytes = {600 << 10}}};
	static struct hold holds[HELD];
	uint64_t emptied = 0, withdrawn = 0;

	for (unsigned round = 0; round < 60; round++) {
		world_open(world, small, 16 << 20);
		atomic_store(&sim_page(&world->client)->pins_used, HELD);
		for (unsigned turn = 0; turn < 200; turn++) {
			unsigned at = pick(world, HELD);

			hold_end(world, &holds[at], at);
			if (pick(world, 4))
				hold_begin(world, &holds[at], at);
			world->sim.keeper->now_ns += pick(world, 40) * NS_PER_MS;
		}
		for (unsigned at = 0; at < HELD; at++)
			hold_end(world, &holds[at], at);
		emptied += world->sim.realm->counters[REALM_COUNTER_slabs_emptied];
		withdrawn += world->sim.realm->counters[REALM_COUNTER_blocks_given_up];
		REQUIRE_EQ(world->sim.realm->counters[REALM_COUNTER_blocks_removed], 0);
		world_close(world);
	}
	printf("%llu slabs changed hands between writers and readers\n",
		(unsigned long long)emptied);
	REQUIRE(emptied > 100 && withdrawn == 0);
}

/* Two slabs full of small frames; what a large one may not have is named one by one. */
static void a_slab_in_use_is_left_alone(struct world *world)
{
	enum { BLOCKS = 64 }; /* 32 in each slab, one chain */
	static const struct sim_space sizes[KINDS] = {
		{.name = "a", .block_tokens = 4, .part_count = 1, .bytes = {64 << 10}},
		{.name = "b", .block_tokens = 4, .part_count = 1, .bytes = {1 << 20}},
		{.name = "c", .block_tokens = 4, .part_count = 1, .bytes = {600 << 10}}};
	static struct play_chain first, second, large;
	static struct play_match match;
	static struct play_reserved reserved;
	struct realm *realm;

	for (unsigned how = 0; how < 4; how++) {
		uint32_t path[BLOCKS / 2];
		struct play_put put = {.chain = &large, .count = 1};
		struct slot *slots;
		uint32_t slot;

		world_open(world, sizes, 4 << 20);
		realm = world->sim.realm;
		slots = realm->index.slots;
		for (uint32_t i = 0; i < BLOCKS / 2; i++)
			path[i] = i + 1;
		play_chain_make(&first, &world->sim, &world->spaces[0], path, BLOCKS / 2);
		path[0] = 99;
		play_chain_make(&second, &world->sim, &world->spaces[0], path, BLOCKS / 2);
		put_blind(world, &first, (struct probe_want){0, BLOCKS / 2});
		world->sim.keeper->now_ns += NS_PER_S;
		put_blind(world, &second, (struct probe_want){0, BLOCKS / 2});
		/* The older chain is used, each time in another way. */
		match.count = probe_run(&realm->index.view, &first.probe,
			(struct probe_want){0, BLOCKS / 2}, match.names, NULL);
		REQUIRE_EQ(match.count, BLOCKS / 2);
		slot = match.names[BLOCKS / 2 - 1].slot;
		atomic_store(&sim_page(&world->client)->pins_used, 1);
		if (how == 0) {
			slots[slot].operator_pins = 1;
			realm->operator_pins = 1;
		} else if (how < 3) {
			REQUIRE_EQ(pin_run(&realm->index.view, sim_pins(&world->client),
					   match.names, match.count),
				match.count);
		}
		if (how == 2) /* taken out under its reader, but for what is above it */
			remove_subtree(realm, slot, SKEP_REASON_CHECKSUM);
		play_chain_make(&large, &world->sim, &world->spaces[1], (const uint32_t[]){5}, 1);
		REQUIRE_EQ(play_reserve(&world->sim, &world->client, &put, &reserved), 1);
		REQUIRE_EQ(play_present(&world->client, &first),
			how == 3 ? 0 : BLOCKS / 2 - (how == 2));
		REQUIRE_EQ(play_present(&world->client, &second), how == 3 ? BLOCKS / 2 : 0);
		pin_clear(sim_pins(&world->client));
		slots[slot].operator_pins = 0;
		realm->operator_pins = 0;
		world_close(world);
	}
}

/*
 * Blocks whose main part has one size, and a second part of another that only some have: it finds
 * room although what is coldest gives none of its size, and little is evicted for it.
 */
static void a_second_part_finds_room(struct world *world)
{
	enum { BLOCKS = 60 };
	static const struct sim_space sizes[KINDS] = {
		{.name = "plain", .block_tokens = 4, .part_count = 1, .bytes = {64 << 10}},
		{.name = "with more",
			.block_tokens = 4,
			.part_count = 2,
			.bytes = {64 << 10, 8 << 10}},
		{.name = "unused", .block_tokens = 4, .part_count = 1, .bytes = {64 << 10}}};
	static struct play_chain chain;
	const uint64_t *evicted;

	world_open(world, sizes, 4 << 20);
	evicted = &world->sim.realm->counters[REALM_COUNTER_blocks_evicted];
	for (uint32_t i = 0; i < BLOCKS + 10; i++) {
		play_chain_make(
			&chain, &world->sim, &world->spaces[0], (const uint32_t[]){i + 1}, 1);
		REQUIRE_EQ(put_blind(world, &chain, (struct probe_want){0, 1}), 1);
		world->sim.keeper->now_ns += NS_PER_MS;
	}
	for (uint32_t i = 0; i < 8; i++) {
		uint64_t before = *evicted;

		play_chain_make(
			&chain, &world->sim, &world->spaces[1], (const uint32_t[]){i + 1}, 1);
		REQUIRE_EQ(put_blind(world, &chain, (struct probe_want){0, 1}), 1);
		REQUIRE(*evicted - before <= (i ? 2 : 40)); /* once: one slab and some */
		world->sim.keeper->now_ns += NS_PER_MS;
	}
	REQUIRE_EQ(world->refused, 0);
	world_close(world);
}

int main(int argc, char **argv)
{
	static struct world world;

	world.random = mix64(unit_seed(argc, argv));
	a_slab_in_use_is_left_alone(&world);
	a_second_part_finds_room(&world);
	class_change_respects_users(&world);
	one_size_gives_way(&world);
	waste_stays_small(&world);
	return 0;
}
