/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A seeded life of several sessions that have blocks in GPU memory of their own, over DRAM with and
 * without an ssd, in one thread: announced, let go, put, evicted, asked for, put for others,
 * declined, forgotten, removed by force, ended with their session. Beside the keeper stands a
 * model: what each session announced and did not take back. Promises checked: the keeper knows of
 * exactly that, but for what was removed by force; what a child in hbm holds stays in DRAM whatever
 * is evicted; counts agree slot by slot (play_books_agree()); bytes are right; every load and every
 * listening is answered once, by its deadline; at the end nothing has leaked; the same seed gives
 * the same run.
 *
 *	store_hbm_sim_test [SEED [COUNT]]
 */
#include <errno.h>

#include "store/hbm_priv.h"
#include "tests/store/play.h"

enum {
	CLIENTS = 4,
	DEPTH = 8,
	STEPS = 600,
	HELD_MAX = 64, /* of a session, as the model counts */
	ASKS_ROOM = 6,
};

#ifdef UNIT_SANITIZED
enum { LIVES = 60 };
#else
enum { LIVES = 400 };
#endif

/* What happened in a life: one in which nothing did would prove nothing. */
#define COUNT_TABLE(X)                                                                             \
	X(announced)                                                                               \
	X(withdrawn)                                                                               \
	X(forced)                                                                                  \
	X(asked) X(put_for) X(declined) X(loaded) X(short_loads) X(kept) X(evicted) X(died) X(had)

static const struct sim_space two = {
	.name = "two", .block_tokens = 4, .part_count = 2, .bytes = {8192, 4096}, .ranges = {2, 1}};

/* A block that the session announced, and the chain it announced it in. */
struct have {
	bool used;
	struct hbm_part part;
	uint32_t path[DEPTH], at;
};

struct player {
	struct sim_client client;
	bool open;
	struct play_space space;
	struct have have[HELD_MAX];
	uint32_t asks_tag, load_tag;
	struct play_chain loading;
	struct play_load load;
	/* Parts that were reserved and not committed yet. */
	struct sim_written written[DEPTH];
	uint32_t written_count;
};

static struct {
	struct sim sim;
	struct player players[CLIENTS];
	uint64_t random, digest;
	struct counts {
#define X(name) uint64_t name;
		COUNT_TABLE(X)
#undef X
	} counts;
} world;

static uint32_t pick(uint32_t range)
{
	return unit_random(&world.random, range);
}

static void note(uint64_t value)
{
	world.digest = mix64(world.digest ^ value);
}

static struct realm *realm_now(void)
{
	return world.sim.realm;
}

/* ---------------------------------------------------------------------------------- chains */

/* A random path in a narrow tree; chains share heads and are asked for again. */
static uint32_t path_draw(uint32_t path[DEPTH])
{
	uint32_t at = 0, length = 1 + pick(DEPTH);

	for (uint32_t i = 0; i < length; i++)
		path[i] = at = at * 3 + pick(i < 2 ? 3 : 2) + 1;
	return length;
}

static void chain_make(
	const struct player *player, struct play_chain *chain, const uint32_t *path, uint32_t count)
{
	play_chain_make(chain, &world.sim, &player->space, path, count);
}

static bool stands(const struct hbm_part *part)
{
	return atomic_load(&realm_now()->index.entries[part->slot].name_generation) ==
	       part->name_generation;
}

/* --------------------------------------------------------------------------------- answers */

static void collect(struct player *player);

/* The answer to @tag; others that come are taken as they come. */
static int32_t answer_of(struct player *player, uint32_t tag);

static struct have *have_find(struct player *player, const struct hbm_part *part)
{
	for (unsigned i = 0; i < HELD_MAX; i++)
		if (player->have[i].used && player->have[i].part.slot == part->slot &&
			player->have[i].part.name_generation == part->name_generation)
			return &player->have[i];
	return NULL;
}

/* Parts as a reservation of @count blocks from @ask->first on was answered. */
static uint32_t written_take(const struct player *player, const struct play_chain *chain,
	const struct sim_put *ask, int32_t count, struct sim_written *out)
{
	const struct reserve_block *blocks = sim_scratch(&player->client, 0);
	uint32_t taken = 0;

	for (int32_t i = 0; i < count; i++)
		if (!blocks[i].status)
			out[taken++] =
				(struct sim_written){.id = chain->ids[ask->first + (uint32_t)i],
					.slot = blocks[i].slot,
					.part = ask->part,
					.ranges = two.ranges[ask->part],
					.write = blocks[i].write,
					.frame = blocks[i].frame,
					.bytes = blocks[i].bytes};
	play_fill(realm_now(), out, taken);
	return taken;
}

/* All that is not in DRAM of the chain. Return: parts committed. */
static uint32_t put_whole(struct player *player, struct play_chain *chain)
{
	struct sim_written written[DEPTH];
	uint32_t first = play_present(&player->client, chain), committed = 0;
	struct sim_put ask = {.chain = &chain->probe,
		.first = first,
		.count = chain->probe.block_count - first,
		.space_generation = chain->space->answer.generation};

	for (; ask.count && ask.part < two.part_count; ask.part++) {
		uint32_t tag = sim_reserve(&player->client, &ask), count;

		sim_run(&world.sim);
		count = written_take(player, chain, &ask, answer_of(player, tag), written);
		if (!count)
			continue;
		tag = sim_commit(&player->client, written, count);
		sim_run(&world.sim);
		committed += (uint32_t)answer_of(player, tag);
	}
	return committed;
}

/* What the session says of a block that it was asked for. */
static void ask_answer(struct player *player, const struct hbm_part *part)
{
	struct have *have = have_find(player, part);
	static struct play_chain chain;

	REQUIRE(have != NULL || !stands(part));
	if (!have || !stands(part))
		return;
	REQUIRE(part->deadline_ns > 0);
	chain_make(player, &chain, have->path, have->at + 1);
	switch (pick(6)) {
	case 0:
		play_withdraw(&player->client, part, 1, WITHDRAW_DECLINED);
		world.counts.declined++;
		break;
	case 1: /* says nothing */
		break;
	default: /* with all that the chain lacks, so that this one has a parent */
		world.counts.put_for += put_whole(player, &chain);
	}
}

static void asked(struct player *player, int32_t count)
{
	struct hbm_part parts[ASKS_ROOM];

	REQUIRE(count == -ECANCELED || (count > 0 && count <= ASKS_ROOM));
	player->asks_tag = 0;
	for (int32_t i = 0; i < count; i++)
		parts[i] = play_asked(&player->client, (uint32_t)i);
	for (int32_t i = 0; i < count; i++) {
		world.counts.asked++;
		ask_answer(player, &parts[i]);
	}
}

static void loaded(struct player *player, int32_t count)
{
	struct play_load run = player->load;

	player->load_tag = 0;
	note((uint64_t)(int64_t)count);
	REQUIRE(count <= (int32_t)run.count);
	if (count > 0) {
		const struct pin_cell *cell = &sim_pins(&player->client)[run.cell];
		const struct index_entry *deepest =
			&realm_now()->index.entries[atomic_load(&cell->slot)];

		run.count = (uint32_t)count;
		/* Unless it was removed by force since then. */
		if (atomic_load(&deepest->frame_generation) == atomic_load(&cell->generation))
			play_loaded_holds(&player->client, &player->loading, &run);
		world.counts.loaded += run.count;
		pin_clear(&sim_pins(&player->client)[run.cell]);
	}
	world.counts.short_loads += count < (int32_t)player->load.count;
}

static void dispatch(struct player *player, const struct completion *done)
{
	if (done->tag == player->asks_tag)
		asked(player, done->status);
	else if (done->tag == player->load_tag)
		loaded(player, done->status);
	else
		note((uint64_t)(int64_t)done->status);
}

static int32_t answer_of(struct player *player, uint32_t tag)
{
	struct completion done;

	REQUIRE(tag != 0);
	while (sim_take(&player->client, 0, &done)) {
		if (done.tag == tag)
			return done.status;
		/* Later: it may want to answer while this is under way. */
		if (done.tag == player->asks_tag)
			player->asks_tag = 0;
		else
			dispatch(player, &done);
	}
	REQUIRE(!"the answer is there");
	return 0;
}

static void collect(struct player *player)
{
	struct completion done;

	while (player->open && sim_take(&player->client, 0, &done))
		dispatch(player, &done);
}

/* ---------------------------------------------------------------------------------- actions */

static void act_announce(struct player *player)
{
	static struct play_chain chain;
	uint32_t path[DEPTH], count = path_draw(path), named, room = 0, tag;
	struct sim_put ask;
	int32_t got;

	chain_make(player, &chain, path, count);
	named = play_named(&player->client, &chain);
	ask = (struct sim_put){.chain = &chain.probe,
		.first = pick(2) ? 0 : MIN_OF(named, count - 1),
		.space_generation = player->space.answer.generation};
	ask.count = 1 + pick(count - ask.first);
	for (unsigned i = 0; i < HELD_MAX; i++)
		room += !player->have[i].used;
	if (room < ask.count)
		return;
	tag = sim_announce(&player->client, &ask);
	sim_run(&world.sim);
	got = answer_of(player, tag);
	note((uint64_t)(int64_t)got);
	REQUIRE(got > 0 || got == -ENOSPC || got == SKEP_STATUS_EPARENT);
	for (int32_t i = 0; i < got; i++) {
		struct hbm_part part = play_announced(&player->client, (uint32_t)i);
		struct have *have = have_find(player, &part);

		for (unsigned k = 0; !have; k++)
			if (!player->have[k].used)
				have = &player->have[k];
		*have = (struct have){.used = true, .part = part, .at = ask.first + (uint32_t)i};
		memcpy(have->path, path, sizeof(path));
		world.counts.announced++;
	}
}

static void act_withdraw(struct player *player)
{
	struct have *have = &player->have[pick(HELD_MAX)];
	bool stood;
	uint32_t tag;
	int32_t got;

	if (!have->used)
		return;
	stood = stands(&have->part);
	have->used = false;
	tag = play_withdraw(&player->client, &have->part, 1, WITHDRAW_GONE);
	sim_run(&world.sim);
	got = answer_of(player, tag);
	REQUIRE_EQ(got, stood);
	world.counts.withdrawn += stood;
	world.counts.forced += !stood;
}

/* Reserves one part of some blocks, and may leave it at that for a while. */
static void act_put(struct player *player)
{
	static struct play_chain chain;
	uint32_t path[DEPTH], count = path_draw(path), first, tag;
	struct sim_put ask;
	int32_t got;

	if (player->written_count) {
		play_fill(realm_now(), player->written, player->written_count);
		if (pick(6))
			sim_commit(&player->client, player->written, player->written_count);
		else
			sim_abort(&player->client, player->written, player->written_count);
		player->written_count = 0;
		sim_run(&world.sim);
		return;
	}
	chain_make(player, &chain, path, count);
	first = play_present(&player->client, &chain);
	ask = (struct sim_put){.chain = &chain.probe,
		.first = MIN_OF(first, count - 1),
		.part = pick(two.part_count),
		.space_generation = player->space.answer.generation};
	ask.count = 1 + pick(count - ask.first);
	tag = sim_reserve(&player->client, &ask);
	sim_run(&world.sim);
	got = answer_of(player, tag);
	note((uint64_t)(int64_t)got);
	player->written_count = written_take(player, &chain, &ask, got, player->written);
}

static void act_put_whole(struct player *player)
{
	static struct play_chain chain;
	uint32_t path[DEPTH], count = path_draw(path);

	chain_make(player, &chain, path, count);
	note(put_whole(player, &chain));
}

static void act_match(struct player *player)
{
	static struct play_chain chain;
	static struct play_match match;
	uint32_t path[DEPTH], count = path_draw(path);

	chain_make(player, &chain, path, count);
	play_match_pin(&player->client, &chain, 2, &match);
	world.counts.had += match.count;
	pin_clear(&sim_pins(&player->client)[2]);
}

static void act_load(struct player *player)
{
	uint32_t path[DEPTH], count = path_draw(path);

	if (player->load_tag)
		return;
	chain_make(player, &player->loading, path, count);
	count = play_named(&player->client, &player->loading);
	if (!count)
		return;
	player->load = (struct play_load){.count = count,
		.cell = 1,
		.asks = pick(4),
		.deadline_ns = world.sim.keeper->now_ns + (1 + pick(100)) * NS_PER_MS};
	player->load_tag = play_load(&player->client, &player->loading, &player->load);
	sim_run(&world.sim); /* before its area is used for something else */
}

/* Blocks in DRAM that a child in hbm rests on. */
static uint32_t kept_note(uint64_t *names, bool *kept)
{
	const struct realm *realm = realm_now();
	uint32_t count = 0;

	for (uint32_t slot = 0; slot < realm->index.head->slot_count; slot++) {
		names[slot] = atomic_load(&realm->index.entries[slot].name_generation);
		kept[slot] = names[slot] && index_state(realm, slot) == ENTRY_PRESENT &&
			     realm->index.slots[slot].flags & SLOT_IN_DRAM &&
			     !(realm->index.slots[slot].flags & SLOT_LOADING) &&
			     realm->index.slots[slot].hbm_children && !hbm_held(realm, slot);
		count += kept[slot];
	}
	return count;
}

static void act_evict(void)
{
	static uint64_t names[4096];
	static bool kept[4096];
	struct realm *realm = realm_now();
	uint64_t before = realm->counters[REALM_COUNTER_blocks_evicted] +
			  realm->counters[REALM_COUNTER_blocks_demoted];

	world.counts.kept += kept_note(names, kept);
	switch (pick(4)) {
	case 0:
		evict_blocks(realm, 1 + pick(20));
		break;
	case 1:
		evict_shed(realm);
		break;
	case 2:
		evict_slabs_for(realm, 0);
		break;
	default:
		evict_bytes(realm, 4096 * (1 + pick(60)));
	}
	for (uint32_t slot = 0; slot < realm->index.head->slot_count; slot++)
		if (kept[slot]) {
			REQUIRE_EQ(atomic_load(&realm->index.entries[slot].name_generation),
				names[slot]);
			REQUIRE(atomic_load(&realm->index.entries[slot].frame_generation) != 0);
		}
	world.counts.evicted += realm->counters[REALM_COUNTER_blocks_evicted] +
				realm->counters[REALM_COUNTER_blocks_demoted] - before;
}

static void act_force(void)
{
	struct realm *realm = realm_now();
	uint32_t slot = pick(realm->index.head->slot_count);

	if (pick(40) == 0)
		remove_space(realm, world.players[0].space.answer.space, SKEP_REASON_REMOVED);
	else if (atomic_load(&realm->index.entries[slot].name_generation))
		remove_subtree(realm, slot, SKEP_REASON_REMOVED);
}

static void player_open(struct player *player)
{
	memset(player, 0, sizeof(*player));
	REQUIRE_EQ(sim_client_open(&world.sim, realm_now(), &player->client), 0);
	player->open = true;
	play_space_open(&player->client, &two, &player->space);
}

/* Its end takes all that it had. */
static void player_end(struct player *player)
{
	sim_client_close(&player->client, pick(2));
	player->open = false;
	for (unsigned i = 0; i < HELD_MAX; i++)
		player->have[i].used = false;
	world.counts.died++;
}

static void act(struct player *player)
{
	if (!player->open) {
		player_open(player);
		return;
	}
	switch (pick(24)) {
	case 0 ... 3:
		act_announce(player);
		break;
	case 4 ... 6:
		act_withdraw(player);
		break;
	case 7 ... 8:
		act_put(player);
		break;
	case 9 ... 12:
		act_put_whole(player);
		break;
	case 13:
		act_match(player);
		break;
	case 14 ... 16:
		act_load(player);
		break;
	case 17 ... 18:
		if (!player->asks_tag)
			player->asks_tag = play_asks(&player->client, 1 + pick(ASKS_ROOM));
		break;
	case 19 ... 20:
		act_evict();
		break;
	case 21:
		if (pick(8) == 0)
			act_force();
		break;
	case 22:
		if (pick(12) == 0)
			player_end(player);
		break;
	default:
		world.sim.keeper->now_ns += pick(40) * NS_PER_MS;
	}
}

/* ----------------------------------------------------------------------------------- checks */

/* The keeper knows of what was announced and stands, and of nothing else. */
static void model_check(void)
{
	uint64_t all = 0;

	for (unsigned i = 0; i < CLIENTS; i++) {
		struct player *player = &world.players[i];
		uint64_t own = 0;

		for (unsigned k = 0; player->open && k < HELD_MAX; k++)
			own += player->have[k].used && stands(&player->have[k].part);
		if (player->open)
			REQUIRE_EQ(player->client.session->hbm_blocks, own);
		all += own;
	}
	REQUIRE_EQ(realm_now()->hbm.count, all);
	play_books_agree(realm_now());
}

static void settle(void)
{
	uint64_t next;

	do {
		sim_settle(&world.sim);
		next = keeper_tick(world.sim.keeper);
		for (unsigned i = 0; i < CLIENTS; i++)
			collect(&world.players[i]);
	} while (next <= world.sim.keeper->now_ns);
}

static void deadlines_check(void)
{
	for (unsigned i = 0; i < CLIENTS; i++)
		if (world.players[i].open && world.players[i].load_tag)
			REQUIRE(world.players[i].load.deadline_ns > world.sim.keeper->now_ns);
}

static uint64_t run_seed(uint64_t seed)
{
	struct sim_options options = {
		.dram_bytes = 8 << 20, .index_blocks = 256, .age_limit_ns = 200 * NS_PER_MS};
	struct counts counts = world.counts;

	memset(&world, 0, sizeof(world));
	world.counts = counts;
	world.random = mix64(seed);
	options.use_max = (40 + pick(200)) * 4096;
	if (pick(2))
		options.ssd = (struct sim_ssd_options){.bytes = 16 << 20, .seed = seed};
	if (pick(4) == 0)
		options.id_bits = 2 + pick(6); /* ids collide all the time */
	if (pick(4) == 0)
		options.index_blocks = 64;
	REQUIRE_EQ(sim_create(&world.sim, &options), 0);
	for (unsigned step = 0; step < STEPS; step++) {
		act(&world.players[pick(CLIENTS)]);
		if (pick(3) == 0)
			keeper_round(world.sim.keeper, 1 + pick(8));
		if (options.ssd.bytes && pick(3) == 0)
			sim_devices_run(&world.sim, 1 + pick(8));
		if (pick(8) == 0)
			for (unsigned i = 0; i < CLIENTS; i++)
				collect(&world.players[i]);
		if (pick(20) == 0) {
			settle();
			model_check();
			deadlines_check();
		}
	}
	for (unsigned i = 0; i < CLIENTS; i++)
		if (world.players[i].open)
			player_end(&world.players[i]);
	world.sim.keeper->now_ns += 3600 * NS_PER_S;
	settle();
	play_nothing_leaks(&world.sim, realm_now());
	REQUIRE_EQ(world.sim.cuts, 0);
	sim_destroy(&world.sim);
	return world.digest;
}

int main(int argc, char **argv)
{
	uint64_t first = unit_seed(argc, argv);
	uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 0) : LIVES;

	for (uint64_t seed = first; seed < first + count; seed++) {
		uint64_t digest = run_seed(seed);

		if (seed % 16 == 0)
			REQUIRE(run_seed(seed) == digest);
	}
#define X(name) printf("%s %llu\n", #name, (unsigned long long)world.counts.name);
	COUNT_TABLE(X)
#undef X
#define X(name) REQUIRE(count<10 || world.counts.name> 0);
	COUNT_TABLE(X)
#undef X
	return 0;
}
