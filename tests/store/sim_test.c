/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper under a seeded life of many clients in one thread: puts by parts, matches whose pin
 * protocol is cut open between its steps, touches, waits, late writers, stopped and dead clients,
 * purges, version steps, quarantine, class changes of slabs, time that jumps. Promises checked:
 * never wrong bytes while a pin holds; every request answered exactly once; the quota holds; after
 * the end nothing is leaked; the same seed gives the same run.
 *
 *	sim_test [SEED [COUNT]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "tests/base/unit.h"
#include "tests/store/sim.h"

enum {
	CLIENTS = 4,
	SPACES = 3,
	DEPTH = 10,
	PINS = 6,
	WRITTEN_MAX = 24,
	STEPS = 1200,
	TOKENS = 4,
};

static const struct sim_space space_kinds[SPACES] = {
	{.name = "one", .block_tokens = TOKENS, .part_count = 1, .bytes = {4096}, .ranges = {1}},
	{.name = "three",
		.block_tokens = TOKENS,
		.part_count = 3,
		.bytes = {8192, 4096, 16384},
		.ranges = {2, 1, 4}},
	{.name = "large",
		.block_tokens = TOKENS,
		.part_count = 1,
		.bytes = {300000},
		.ranges = {1}},
};

/* A run that a client holds pinned, with what it saw. */
struct held {
	bool used;
	uint32_t space, count;
	struct probe_name names[DEPTH];
	struct block_id ids[DEPTH];
};

struct player {
	struct sim_client client;
	bool open, stopped;
	struct wire_space_answer spaces[SPACES];
	struct held pins[PINS];
	struct sim_written written[WRITTEN_MAX];
	uint32_t written_count;
	/* What is under way: at most one of these two. */
	uint32_t reserve_tag, reserve_space, reserve_part;
	struct block_id reserve_ids[DEPTH];
	uint64_t reserve_deadline;
	uint32_t commit_tag;
	uint32_t waits, wait_answers;
	uint64_t wait_deadline;
};

struct world {
	struct sim sim;
	struct player players[CLIENTS];
	uint64_t random, digest;
	uint64_t had, puts, lost_pins;
};

static struct world world;

static uint32_t pick(uint32_t range)
{
	return unit_random(&world.random, range);
}

static void note(uint64_t value)
{
	world.digest = mix64(world.digest ^ value);
}

/* ------------------------------------------------------------------------------- payload */

/* The first, the last and some words between are a function of identity and part. */
static uint64_t payload_word(struct block_id id, uint32_t part, uint64_t at)
{
	return mix64(id.low ^ mix64(id.high + part) ^ at);
}

static void payload_write(uint8_t *to, uint64_t bytes, struct block_id id, uint32_t part)
{
	for (uint64_t at = 0; at + 8 <= bytes; at += 1024) {
		uint64_t word = payload_word(id, part, at);

		memcpy(to + at, &word, 8);
	}
}

static void payload_check(const uint8_t *from, uint64_t bytes, struct block_id id, uint32_t part)
{
	for (uint64_t at = 0; at + 8 <= bytes; at += 1024) {
		uint64_t word = payload_word(id, part, at), is;

		memcpy(&is, from + at, 8);
		REQUIRE(is == word);
	}
}

/* --------------------------------------------------------------------------------- chains */

struct chain {
	uint32_t tokens[DEPTH * TOKENS];
	struct block_id ids[DEPTH];
	struct probe_chain probe;
	uint32_t space;
};

/* A random path in a narrow tree, so that chains share heads and are asked for again. */
static void chain_make(struct player *player, struct chain *chain)
{
	struct block_id parent = {0, 0};
	uint32_t path = 0, length = 1 + pick(DEPTH);

	chain->space = pick(SPACES);
	for (uint32_t i = 0; i < length; i++) {
		path = path * 3 + pick(i < 2 ? 3 : 2) + 1;
		for (uint32_t t = 0; t < TOKENS; t++)
			chain->tokens[i * TOKENS + t] = path * 7 + t;
	}
	chain->probe = (struct probe_chain){.ids = chain->ids,
		.tokens = chain->tokens,
		.block_tokens = TOKENS,
		.block_count = length,
		.space = player->spaces[chain->space].space};
	for (uint32_t i = 0; i < length; i++) {
		struct id_input in = probe_input(&chain->probe, i);

		chain->ids[i] = id_make(player->spaces[chain->space].secret, parent, &in,
			world.sim.keeper->id_bits);
		parent = chain->ids[i];
	}
}

/* -------------------------------------------------------------------------------- reading */

static void held_check(struct player *player, const struct held *held)
{
	const struct index_view *view = &player->client.session->realm->index.view;
	const struct sim_space *kind = &space_kinds[held->space];

	for (uint32_t i = 0; i < held->count; i++)
		for (uint32_t p = 0; p < kind->part_count; p++) {
			const struct index_part *part = probe_part(view, held->names[i].slot, p);

			REQUIRE(part != NULL && atomic_load(&part->frame) != FRAME_NONE);
			REQUIRE_EQ(atomic_load(&part->bytes), kind->bytes[p]);
			payload_check(
				dram_at(player->client.session->realm->dram,
					(uint64_t)atomic_load(&part->frame) * FRAME_GRANULE_BYTES),
				kind->bytes[p], held->ids[i], p);
		}
}

static void release(struct player *player, unsigned at)
{
	struct held *held = &player->pins[at];

	if (!held->used)
		return;
	held_check(player, held);
	pin_clear(&sim_pins(&player->client)[at]);
	held->used = false;
}

static void touch(struct player *player, const struct chain *chain, const struct held *held)
{
	struct submission message = {.op = SUBMIT_TOUCH,
		.u.touch = {.asked = chain->probe.block_count,
			.matched = held->count,
			.reason = SKEP_REASON_ABSENT,
			.space = (uint16_t)chain->probe.space}};

	if (held->count) {
		message.slot = held->names[held->count - 1].slot;
		message.generation = held->names[held->count - 1].frame_generation;
	}
	if (held->count < chain->probe.block_count)
		message.u.touch.missing_low = chain->ids[held->count].low;
	sim_push(&player->client, &message);
}

/* Something of the keeper's between two steps of a client. */
static void keeper_between(void)
{
	switch (pick(6)) {
	case 0:
		keeper_round(world.sim.keeper, 1 + pick(4));
		break;
	case 1:
		evict_bytes(world.sim.realm, 4096 * (1 + pick(40)));
		break;
	case 2:
		evict_blocks(world.sim.realm, 1 + pick(8));
		break;
	case 3:
		keeper_tick(world.sim.keeper);
		break;
	default:
		break;
	}
}

static void act_match(struct player *player)
{
	const struct index_view *view = &player->client.session->realm->index.view;
	unsigned at = pick(PINS);
	struct held *held = &player->pins[at];
	struct chain chain;
	uint32_t run, missing;

	release(player, at);
	held->count = 0;
	chain_make(player, &chain);
	held->space = chain.space;
	memcpy(held->ids, chain.ids, sizeof(held->ids));
	run = probe_run(view, &chain.probe, (struct probe_want){0, chain.probe.block_count},
		held->names, &missing);
	note(run);
	if (!run)
		return;
	keeper_between();
	held->count = pin_run(view, &sim_pins(&player->client)[at], held->names, run);
	world.lost_pins += run - held->count;
	held->used = held->count > 0;
	keeper_between();
	if (!held->used)
		return;
	world.had += held->count;
	held_check(player, held);
	touch(player, &chain, held);
}

/* Another player pins references of a run that the first one holds or held. */
static void act_pin_refs(struct player *player)
{
	struct player *other = &world.players[pick(CLIENTS)];
	const struct held *from = &other->pins[pick(PINS)];
	unsigned at = pick(PINS);
	struct held *held = &player->pins[at];
	struct probe_name deepest;
	bool was_used;

	if (!other->open || !from->count || from == held)
		return;
	release(player, at);
	*held = *from;
	deepest = from->names[from->count - 1];
	was_used = from->used;
	keeper_between();
	held->count = pin_run(&player->client.session->realm->index.view,
		&sim_pins(&player->client)[at], held->names, from->count);
	/* Removal by force alone may take what a pinned match found. */
	if (was_used &&
		atomic_load(&world.sim.realm->index.entries[deepest.slot].frame_generation) ==
			deepest.frame_generation)
		REQUIRE_EQ(held->count, from->count);
	held->used = held->count > 0;
	if (held->used)
		held_check(player, held);
}

/* -------------------------------------------------------------------------------- putting */

static void act_reserve(struct player *player)
{
	struct sim_put put;
	struct chain chain;
	struct probe_name names[DEPTH];
	uint32_t named;

	if (player->reserve_tag || player->commit_tag)
		return;
	chain_make(player, &chain);
	named = probe_names(&player->client.session->realm->index.view, &chain.probe, DEPTH, names);
	put = (struct sim_put){.chain = &chain.probe,
		.first = pick(4) ? MIN_OF(named, chain.probe.block_count - 1) : 0,
		.part = pick(space_kinds[chain.space].part_count),
		.space_generation = player->spaces[chain.space].generation,
		.deadline_ns = world.sim.keeper->now_ns + pick(3) * 50 * NS_PER_MS};
	put.count = 1 + pick(chain.probe.block_count - put.first);
	if (player->written_count + put.count > WRITTEN_MAX)
		return;
	player->reserve_space = chain.space;
	player->reserve_part = put.part;
	player->reserve_deadline = put.deadline_ns;
	memcpy(player->reserve_ids, chain.ids + put.first, put.count * sizeof(chain.ids[0]));
	player->reserve_tag = sim_reserve(&player->client, &put);
}

static void reserve_answered(struct player *player, const struct completion *done)
{
	const struct reserve_block *blocks = sim_scratch(&player->client, 0);
	const struct sim_space *kind = &space_kinds[player->reserve_space];

	player->reserve_tag = 0;
	note((uint64_t)(int64_t)done->status);
	for (int32_t i = 0; i < done->status; i++) {
		struct sim_written *written = &player->written[player->written_count];

		note((uint64_t)(int64_t)blocks[i].status);
		if (blocks[i].status)
			continue;
		REQUIRE(player->written_count < WRITTEN_MAX);
		*written = (struct sim_written){.id = player->reserve_ids[i],
			.slot = blocks[i].slot,
			.part = player->reserve_part,
			.ranges = kind->ranges[player->reserve_part],
			.write = blocks[i].write,
			.frame = blocks[i].frame,
			.bytes = blocks[i].bytes};
		REQUIRE_EQ(written->bytes, kind->bytes[player->reserve_part]);
		player->written_count++;
	}
}

/* Writes into frames it was given, whether the keeper still counts on it or not: a late write must
 * touch nothing that anybody can see. */
static void act_write(struct player *player)
{
	for (uint32_t i = 0; i < player->written_count; i++) {
		const struct sim_written *written = &player->written[i];

		payload_write(dram_at(world.sim.realm->dram, written->frame), written->bytes,
			written->id, written->part);
	}
}

static void act_commit(struct player *player)
{
	uint32_t count;

	if (!player->written_count || player->commit_tag || player->reserve_tag)
		return;
	count = 1 + pick(player->written_count);
	act_write(player);
	if (pick(8) == 0)
		sim_abort(&player->client, player->written, count);
	else
		player->commit_tag = sim_commit(&player->client, player->written, count);
	memmove(player->written, player->written + count,
		(player->written_count - count) * sizeof(player->written[0]));
	player->written_count -= count;
}

static void act_wait(struct player *player)
{
	struct chain chain;
	struct probe_name names[DEPTH];
	struct submission message = {.op = SUBMIT_WAIT};
	uint32_t named;

	chain_make(player, &chain);
	named = probe_names(&player->client.session->realm->index.view, &chain.probe, DEPTH, names);
	if (!named || player->waits - player->wait_answers > 64)
		return;
	message.slot = names[named - 1].slot;
	message.generation = names[named - 1].name_generation;
	message.deadline_ns = world.sim.keeper->now_ns + 100 * NS_PER_MS;
	player->wait_deadline = message.deadline_ns;
	player->waits += sim_push(&player->client, &message) != 0;
}

/* ------------------------------------------------------------------------------ the others */

static void act_odd(struct player *player)
{
	struct submission message = {.op = SUBMIT_HINT};
	struct held *held = &player->pins[pick(PINS)];
	struct realm *realm = world.sim.realm;
	struct probe_name *deepest = &held->names[held->count ? held->count - 1 : 0];
	uint32_t space;

	switch (pick(16)) {
	case 0:
		if (!held->used)
			return;
		message.op = SUBMIT_QUARANTINE;
		message.slot = deepest->slot;
		message.generation = deepest->frame_generation;
		sim_push(&player->client, &message);
		return;
	case 1:
		space = pick(SPACES);
		if (pick(4))
			remove_space(realm, player->spaces[space].space, SKEP_REASON_REMOVED);
		else
			space_step(realm, player->spaces[space].space);
		for (unsigned i = 0; i < CLIENTS; i++)
			if (world.players[i].open && !world.players[i].stopped)
				REQUIRE_EQ(sim_space_open(&world.players[i].client,
						   &space_kinds[space],
						   &world.players[i].spaces[space]),
					0);
		return;
	case 2:
		dram_use_max_set(realm->dram, pick(2) ? 0 : 30 * 4096 + pick(4 << 20));
		return;
	case 3:
	case 4:
		if (!held->used)
			return;
		message.slot = deepest->slot;
		message.generation = deepest->name_generation;
		message.u.other.kind = 1 + pick(2);
		sim_push(&player->client, &message);
		return;
	default:
		world.sim.keeper->now_ns += pick(20) * NS_PER_MS;
		if (pick(12) == 0)
			world.sim.keeper->now_ns += 300 * NS_PER_MS;
	}
}

static void player_open(struct player *player)
{
	memset(player, 0, sizeof(*player));
	REQUIRE_EQ(sim_client_open(&world.sim, world.sim.realm, &player->client), 0);
	atomic_store(&sim_page(&player->client)->pins_used, PINS);
	player->open = true;
	for (unsigned i = 0; i < SPACES; i++)
		REQUIRE_EQ(sim_space_open(&player->client, &space_kinds[i], &player->spaces[i]), 0);
}

/* Its socket closes; its process lives on and still writes and reads; then it ends. */
static void act_die(struct player *player)
{
	if (!player->stopped && pick(2)) {
		session_stop(player->client.session);
		player->stopped = true;
		player->reserve_tag = player->commit_tag = 0;
		return;
	}
	for (unsigned i = 0; i < PINS; i++)
		if (player->pins[i].used)
			held_check(player, &player->pins[i]);
	sim_client_close(&player->client, false);
	player->open = false;
}

static void collect(struct player *player)
{
	struct completion done;

	while (!player->stopped && sim_take(&player->client, 0, &done)) {
		if (done.tag == player->reserve_tag) {
			reserve_answered(player, &done);
		} else if (done.tag == player->commit_tag) {
			player->commit_tag = 0;
			world.puts += (uint64_t)done.status;
			note((uint64_t)done.status);
		} else {
			player->wait_answers++;
			REQUIRE(player->wait_answers <= player->waits);
			note((uint64_t)(int64_t)done.status);
		}
	}
}

static void act(struct player *player)
{
	if (!player->open) {
		player_open(player);
		return;
	}
	if (player->stopped) {
		act_write(player);
		act_die(player);
		return;
	}
	switch (pick(20)) {
	case 0 ... 5:
		act_match(player);
		break;
	case 6 ... 10:
		act_reserve(player);
		break;
	case 11 ... 14:
		act_commit(player);
		break;
	case 15:
		act_wait(player);
		break;
	case 16:
		act_pin_refs(player);
		break;
	case 17:
		if (pick(20) == 0)
			act_die(player);
		break;
	default:
		act_odd(player);
	}
}

/* Nothing under way may be older than its deadline once the keeper has looked at its ages. */
static void deadlines_check(void)
{
	for (unsigned i = 0; i < CLIENTS; i++) {
		struct player *player = &world.players[i];

		if (!player->open || player->stopped)
			continue;
		if (player->reserve_tag)
			REQUIRE(player->reserve_deadline > world.sim.keeper->now_ns);
		if (player->waits != player->wait_answers)
			REQUIRE(player->wait_deadline > world.sim.keeper->now_ns);
	}
}

static void end_check(void)
{
	struct realm *realm = world.sim.realm;
	struct dram_status dram;
	struct slab_stats records;

	for (unsigned i = 0; i < CLIENTS; i++)
		if (world.players[i].open)
			sim_client_close(&world.players[i].client, true);
	sim_run(&world.sim);
	world.sim.keeper->now_ns += 3600 * NS_PER_S;
	for (unsigned i = 0; i < 64; i++)
		sim_run(&world.sim);
	REQUIRE_EQ(realm->reservation_count, 0);
	REQUIRE_EQ(realm->pending_count, 0);
	REQUIRE_EQ(realm->wait_count, 0);
	REQUIRE_EQ(realm->slot_count_by_state[ENTRY_PENDING], 0);
	REQUIRE_EQ(realm->slot_count_by_state[ENTRY_REMOVED], 0);
	evict_blocks(realm, UINT32_MAX);
	dram_status_get(realm->dram, &dram);
	slab_stats_get(realm->index.records, &records);
	REQUIRE_EQ(dram.used_bytes, 0);
	REQUIRE_EQ(records.live, 0);
	REQUIRE_EQ(realm->index.free_count, realm->index.head->slot_count);
	REQUIRE_EQ(world.sim.cuts, 0);
}

static uint64_t run_seed(uint64_t seed)
{
	struct sim_options options = {
		.dram_bytes = 8 << 20, .index_blocks = 256, .age_limit_ns = 200 * NS_PER_MS};

	memset(&world, 0, sizeof(world));
	world.random = mix64(seed);
	if (pick(2))
		options.use_max = 30 * 4096 + pick(6 << 20);
	if (pick(4) == 0)
		options.id_bits = 2 + pick(6); /* ids collide all the time */
	REQUIRE_EQ(sim_create(&world.sim, &options), 0);
	for (unsigned step = 0; step < STEPS; step++) {
		struct dram_status dram;

		act(&world.players[pick(CLIENTS)]);
		if (pick(3) == 0) {
			keeper_round(world.sim.keeper, 1 + pick(8));
			if (pick(3) == 0) {
				keeper_tick(world.sim.keeper);
				for (unsigned i = 0; i < CLIENTS; i++)
					if (world.players[i].open)
						collect(&world.players[i]);
			}
		}
		if (pick(50) == 0) {
			sim_run(&world.sim);
			sim_run(&world.sim);
			for (unsigned i = 0; i < CLIENTS; i++)
				if (world.players[i].open)
					collect(&world.players[i]);
			deadlines_check();
		}
		dram_status_get(world.sim.realm->dram, &dram);
		REQUIRE(dram.used_bytes <= dram.bytes);
	}
	end_check();
	sim_destroy(&world.sim);
	return world.digest;
}

int main(int argc, char **argv)
{
	uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
	uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 0) : 500;
	uint64_t had = 0, puts = 0, lost = 0;

	for (uint64_t seed = first; seed < first + count; seed++) {
		uint64_t digest;

		if (seed % 100 == 0 && isatty(2))
			fprintf(stderr, "\rseed %llu", (unsigned long long)seed);
		digest = run_seed(seed);
		had += world.had;
		puts += world.puts;
		lost += world.lost_pins;
		if (seed % 16 == 0)
			REQUIRE(run_seed(seed) == digest);
	}
	/* A life in which nothing happened would prove nothing. */
	printf("\n%llu seeds: %llu blocks put, %llu had, %llu lost between probe and pin\n",
		(unsigned long long)count, (unsigned long long)puts, (unsigned long long)had,
		(unsigned long long)lost);
	REQUIRE(puts > 20 * count && had > 20 * count && lost > 0);
	return 0;
}
