/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A seeded life of several clients over the two tiers in one thread: puts by parts, matches, loads,
 * pins, syncs, purges, version steps, quarantines, evictions, operator's pins, clients that die,
 * devices that fail or lie, fences, power cuts and restarts. Promises checked: never wrong bytes;
 * what a sync called durable is found after a cut (ssd_model.h); nothing leaves uncounted; memory
 * and live bytes stay within their limits; every request is answered once, by its deadline; what
 * the realm believes is what it has (play_books_agree()); at the end all is removed and nothing has
 * leaked; the same seed gives the same run.
 *
 *	store_ssd_sim_test [SEED [COUNT]]
 */
#include <errno.h>

#include "base/log.h"
#include "tests/store/play.h"
#include "tests/store/sim_ssd.h"
#include "tests/store/ssd_model.h"

enum {
	CLIENTS = 4,
	REALMS = 2,
	DEPTH = 8,
	PINS = 4,
	LOAD_CELL = PINS,
	STEPS = 1800,
	OPERATOR_PINS = 4,
	LOAD_SCRATCH = PAGE_SCRATCH_BYTES / 4,
};

/* What happened in a life: one in which nothing did would prove nothing. */
#define COUNT_TABLE(X)                                                                             \
	X(puts)                                                                                    \
	X(had)                                                                                     \
	X(loaded)                                                                                  \
	X(steps) X(synced) X(cuts) X(fences) X(moved) X(evicted) X(shed) X(durables) X(bad)

enum weather { FAIR, ERRORS, LIES, WEATHERS };

/* A run that a client holds pinned. */
struct held {
	bool used;
	uint32_t count;
	struct play_chain chain;
	struct probe_name names[DEPTH];
};

struct player {
	struct sim_client client;
	unsigned realm;
	bool open, stopped;
	struct play_space spaces[MODEL_SPACES];
	struct held pins[PINS], load;
	/* A put under way: part after part of some blocks of a chain. */
	struct play_chain chain;
	struct play_put put;
	struct play_reserved reserved;
	bool putting;
	uint32_t reserve_tag, commit_tag, load_tag, sync_tag;
	uint32_t told[DEPTH]; /* ranges of the load's blocks that are there */
	uint64_t reserve_deadline, load_deadline, sync_deadline;
	uint64_t sync_look, sync_versions[MODEL_SPACES];
};

struct operator_pin {
	unsigned realm;
	uint32_t slot;
	uint64_t generation; /* 0: none */
};

struct world {
	struct sim sim;
	struct sim_options options;
	struct player players[CLIENTS];
	struct model models[REALMS];
	struct operator_pin operator_pins[OPERATOR_PINS];
	uint64_t random, digest;
	enum weather weather;
	unsigned realm_count;
	uint32_t slots;
	struct counts {
#define X(name) uint64_t name;
		COUNT_TABLE(X)
#undef X
	} counts;
};

#ifdef UNIT_SANITIZED
enum { LIVES = 100 };
#else
enum { LIVES = 500 };
#endif

static struct world world;
static uint64_t last_seed;

static uint32_t pick(uint32_t range)
{
	return unit_random(&world.random, range);
}

static void note(uint64_t value)
{
	world.digest = mix64(world.digest ^ value);
}

static struct realm *realm_of(const struct player *player)
{
	return world.sim.realms[player->realm];
}

/* --------------------------------------------------------------------------------- chains */

/* A random path in a narrow tree; chains share heads and are asked for again. */
static void chain_draw(struct player *player, struct play_chain *chain)
{
	uint32_t path[DEPTH], at = 0, length = 1 + pick(DEPTH), space = pick(MODEL_SPACES);

	for (uint32_t i = 0; i < length; i++)
		path[i] = at = at * 3 + pick(i < 3 ? 3 : 2) + 1;
	play_chain_make(chain, &world.sim, &player->spaces[space], path, length);
	for (uint32_t i = 0; i < length; i++)
		model_know(&world.models[player->realm], chain->ids[i]);
}

/* -------------------------------------------------------------------------------- reading */

static void held_check(const struct player *player, const struct held *held)
{
	const struct sim_space *kind = held->chain.space->kind;

	for (uint32_t i = 0; i < held->count; i++)
		play_block_check(realm_of(player), held->names[i].slot, kind, held->chain.ids[i],
			UINT32_MAX);
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

static void keeper_between(void)
{
	switch (pick(8)) {
	case 0:
		keeper_round(world.sim.keeper, 1 + pick(4));
		break;
	case 1:
		evict_bytes(world.sim.realms[pick(world.realm_count)], 4096 * (1 + pick(40)));
		break;
	case 2:
		sim_devices_run(&world.sim, pick(4));
		break;
	default:
		break;
	}
}

static void act_match(struct player *player)
{
	struct submission message = {.op = SUBMIT_TOUCH};
	unsigned at = pick(PINS);
	struct held *held = &player->pins[at];
	struct play_chain *chain = &held->chain;
	uint32_t run;

	release(player, at);
	chain_draw(player, chain);
	run = probe_run(&realm_of(player)->index.view, &chain->probe,
		(struct probe_want){0, chain->probe.block_count}, held->names, NULL);
	note(run);
	keeper_between();
	held->count = pin_run(
		&realm_of(player)->index.view, &sim_pins(&player->client)[at], held->names, run);
	held->used = held->count > 0;
	keeper_between();
	if (!held->used)
		return;
	held_check(player, held);
	world.counts.had += held->count;
	message.u.touch.asked = chain->probe.block_count;
	message.u.touch.matched = held->count;
	message.u.touch.reason = SKEP_REASON_ABSENT;
	message.u.touch.space = (uint16_t)chain->probe.space;
	message.slot = held->names[held->count - 1].slot;
	message.generation = held->names[held->count - 1].frame_generation;
	sim_push(&player->client, &message);
}

static void act_load(struct player *player)
{
	struct load_part *parts = sim_scratch(&player->client, LOAD_SCRATCH);
	struct held *load = &player->load;
	struct submission message = {
		.op = SUBMIT_LOAD, .scratch_at = LOAD_SCRATCH, .u.other.kind = LOAD_CELL};

	if (player->load_tag)
		return;
	memset(player->told, 0, sizeof(player->told));
	message.u.other.part = pick(2) ? 0 : 1 + pick(3);
	chain_draw(player, &load->chain);
	message.count = probe_names(&realm_of(player)->index.view, &load->chain.probe,
		load->chain.probe.block_count, load->names);
	if (!message.count)
		return;
	for (uint32_t i = 0; i < message.count; i++)
		parts[i] = (struct load_part){.slot = load->names[i].slot,
			.name_generation = load->names[i].name_generation};
	message.scratch_bytes = (uint32_t)(message.count * sizeof(*parts));
	player->load_deadline = world.sim.keeper->now_ns + pick(4) * 100 * NS_PER_MS;
	message.deadline_ns = player->load_deadline;
	load->count = message.count;
	player->load_tag = sim_push(&player->client, &message);
}

static void load_answered(struct player *player, int32_t status)
{
	struct held *load = &player->load;
	struct pin_cell *cell = &sim_pins(&player->client)[LOAD_CELL];

	player->load_tag = 0;
	note((uint64_t)(int64_t)status);
	if (status <= 0) {
		REQUIRE(status == -ENOENT || status == -EIO || status == -ETIMEDOUT ||
			status == -EAGAIN || status == -ENOSPC);
		REQUIRE_EQ(atomic_load(&cell->generation), 0);
		return;
	}
	REQUIRE((uint32_t)status <= load->count);
	load->count = (uint32_t)status;
	world.counts.loaded += load->count;
	/* Its names are those that were asked for, unless they went by force since the answer. */
	for (uint32_t i = 0; i < load->count; i++) {
		const struct index_entry *entry =
			&realm_of(player)->index.entries[load->names[i].slot];

		if (atomic_load(&entry->name_generation) != load->names[i].name_generation) {
			load->count = i;
			break;
		}
		REQUIRE(atomic_load(&entry->frame_generation) != 0);
		if (i + 1 == load->count)
			REQUIRE_EQ(atomic_load(&cell->generation),
				atomic_load(&entry->frame_generation));
	}
	held_check(player, load);
	pin_clear(cell);
}

/* -------------------------------------------------------------------------------- putting */

static void put_reserve_part(struct player *player)
{
	struct play_put *put = &player->put;
	struct sim_put ask = {.chain = &player->chain.probe,
		.first = put->first,
		.count = put->count,
		.part = put->part,
		.space_generation = player->chain.space->answer.generation,
		.deadline_ns = put->deadline_ns};

	player->reserve_deadline = put->deadline_ns;
	player->reserve_tag = sim_reserve(&player->client, &ask);
	player->putting = player->reserve_tag != 0;
}

static void act_put(struct player *player)
{
	struct play_put *put = &player->put;
	uint32_t named, length;

	if (player->reserve_tag || player->commit_tag)
		return;
	if (player->reserved.count) { /* written or given back, now or later */
		uint32_t count = player->reserved.count;

		player->reserved.count = 0;
		play_fill(realm_of(player), player->reserved.written, count);
		if (pick(12) == 0) {
			sim_abort(&player->client, player->reserved.written, count);
			player->putting = false;
		} else {
			player->commit_tag =
				sim_commit(&player->client, player->reserved.written, count);
		}
		return;
	}
	if (!player->putting) {
		chain_draw(player, &player->chain);
		length = player->chain.probe.block_count;
		named = play_named(&player->client, &player->chain);
		*put = (struct play_put){
			.chain = &player->chain, .first = pick(4) ? MIN_OF(named, length - 1) : 0};
		put->count = length - put->first;
	}
	put->deadline_ns = world.sim.keeper->now_ns + pick(4) * 50 * NS_PER_MS;
	put_reserve_part(player);
}

static void reserve_answered(struct player *player, const struct completion *done)
{
	const struct reserve_block *blocks = sim_scratch(&player->client, 0);
	const struct sim_space *kind = player->chain.space->kind;

	player->reserve_tag = 0;
	note((uint64_t)(int64_t)done->status);
	player->reserved.count = 0;
	if (done->status <= 0) {
		player->putting = false;
		return;
	}
	player->put.count = (uint32_t)done->status;
	for (int32_t i = 0; i < done->status; i++) {
		uint32_t part = player->put.part;

		note((uint64_t)(int64_t)blocks[i].status);
		if (blocks[i].status)
			continue;
		player->reserved.written[player->reserved.count++] = (struct sim_written){
			.id = player->chain.ids[player->put.first + (uint32_t)i],
			.slot = blocks[i].slot,
			.part = part,
			.ranges = kind->ranges[part],
			.write = blocks[i].write,
			.frame = blocks[i].frame,
			.bytes = blocks[i].bytes};
	}
	if (!player->reserved.count && ++player->put.part == kind->part_count)
		player->putting = false;
}

static void commit_answered(struct player *player, int32_t status)
{
	player->commit_tag = 0;
	REQUIRE(status >= 0);
	note((uint64_t)status);
	world.counts.puts += (uint64_t)status;
	if (++player->put.part == player->chain.space->kind->part_count)
		player->putting = false;
}

/* ------------------------------------------------------------------------------ the others */

static void act_sync(struct player *player)
{
	struct submission message = {.op = SUBMIT_SYNC};

	if (player->sync_tag)
		return;
	player->sync_look = model_look(&world.models[player->realm], realm_of(player));
	for (unsigned i = 0; i < MODEL_SPACES; i++)
		player->sync_versions[i] = player->spaces[i].answer.version;
	player->sync_deadline = world.sim.keeper->now_ns + (1 + pick(20)) * 100 * NS_PER_MS;
	message.deadline_ns = player->sync_deadline;
	player->sync_tag = sim_push(&player->client, &message);
}

static void sync_answered(struct player *player, int32_t status)
{
	struct model *model = &world.models[player->realm];

	player->sync_tag = 0;
	note((uint64_t)(int64_t)status);
	REQUIRE(status == 0 || status == -ETIMEDOUT || status == -EAGAIN ||
		(status == -EIO && model->has_failed));
	if (status)
		return;
	world.counts.synced++;
	model_durable(model, realm_of(player), player->sync_look, player->sync_versions);
}

static void spaces_open(struct player *player)
{
	for (unsigned i = 0; i < MODEL_SPACES; i++) {
		uint64_t generation = player->spaces[i].answer.generation;

		play_space_open(&player->client, &model_kinds[i], &player->spaces[i]);
		/* What was begun under the old version is not gone on with. */
		if (generation != player->spaces[i].answer.generation)
			player->putting = false;
	}
}

/* Chains of the old version are found by nobody who opened the new one. */
static void space_changes(struct realm *realm)
{
	uint32_t space = pick(MODEL_SPACES); /* some three are used */

	if (!realm->spaces[space].used)
		return;
	if (pick(3))
		remove_space(realm, space, SKEP_REASON_REMOVED);
	else
		space_step(realm, space);
	for (unsigned i = 0; i < CLIENTS; i++)
		if (world.players[i].open && !world.players[i].stopped)
			spaces_open(&world.players[i]);
}

/* A present block of the realm, or NONE32. */
static uint32_t slot_draw(const struct realm *realm)
{
	for (unsigned i = 0; i < 16; i++) {
		uint32_t slot = pick(world.slots);

		if (index_state(realm, slot) == ENTRY_PRESENT)
			return slot;
	}
	return NONE32;
}

static void operator_pin(struct operator_pin *pin)
{
	struct realm *realm = world.sim.realms[pin->realm];
	struct index_entry *entry = &realm->index.entries[pin->slot];

	if (pin->generation && atomic_load(&entry->name_generation) == pin->generation)
		if (!--realm->index.slots[pin->slot].operator_pins)
			realm->operator_pins--;
	*pin = (struct operator_pin){.realm = pick(world.realm_count)};
	realm = world.sim.realms[pin->realm];
	pin->slot = slot_draw(realm);
	if (pin->slot == NONE32 || pick(2)) {
		pin->slot = 0;
		return;
	}
	pin->generation = atomic_load(&realm->index.entries[pin->slot].name_generation);
	if (!realm->index.slots[pin->slot].operator_pins++)
		realm->operator_pins++;
}

/* By force: what happens to it must be survived wherever it is in its life. */
static void act_force(struct player *player)
{
	struct realm *realm = realm_of(player);
	struct submission message = {.op = SUBMIT_QUARANTINE};
	uint32_t slot = slot_draw(realm);

	switch (pick(8)) {
	case 0:
		if (pick(6) == 0)
			space_changes(realm);
		break;
	case 1:
		message.slot = slot == NONE32 ? 0 : slot;
		message.generation =
			atomic_load(&realm->index.entries[message.slot].frame_generation);
		sim_push(&player->client, &message);
		break;
	case 2:
		if (slot != NONE32)
			remove_subtree(realm, slot, SKEP_REASON_REMOVED);
		break;
	case 3:
		dram_use_max_set(realm->dram, 400000 + pick(1 << 20));
		break;
	case 4:
		evict_blocks(realm, 1 + pick(8));
		evict_bytes(realm, pick(8) ? 4096 * pick(40) : UINT64_MAX);
		break;
	case 5:
		operator_pin(&world.operator_pins[pick(OPERATOR_PINS)]);
		break;
	default:
		world.sim.keeper->now_ns += pick(20) * NS_PER_MS * (pick(8) ? 1 : 30);
	}
}

static void player_open(struct player *player)
{
	unsigned realm = player->realm;

	memset(player, 0, sizeof(*player));
	player->realm = realm;
	REQUIRE_EQ(sim_client_open(&world.sim, realm_of(player), &player->client), 0);
	atomic_store(&sim_page(&player->client)->pins_used, PINS + 1);
	player->open = true;
	spaces_open(player);
}

static void act_die(struct player *player)
{
	if (!player->stopped && pick(2)) {
		session_stop(player->client.session);
		player->stopped = true;
		player->reserve_tag = player->commit_tag = player->load_tag = player->sync_tag = 0;
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

	if (player->open && !player->stopped && player->load_tag)
		world.counts.steps += play_told_check(&player->client, player->load_tag,
			sim_scratch(&player->client, LOAD_SCRATCH), player->load.names,
			&player->load.chain, player->told, player->load.count);
	while (player->open && !player->stopped && sim_take(&player->client, 0, &done)) {
		if (done.tag == player->reserve_tag)
			reserve_answered(player, &done);
		else if (done.tag == player->commit_tag)
			commit_answered(player, done.status);
		else if (done.tag == player->load_tag)
			load_answered(player, done.status);
		else if (done.tag == player->sync_tag)
			sync_answered(player, done.status);
		else
			REQUIRE(!"an answer to a question");
	}
}

static void act(struct player *player)
{
	if (!player->open) {
		player_open(player);
		return;
	}
	if (player->stopped) {
		/* A late write must touch nothing that anybody can see. */
		play_fill(realm_of(player), player->reserved.written, player->reserved.count);
		act_die(player);
		return;
	}
	switch (pick(24)) {
	case 0 ... 9:
		act_put(player);
		break;
	case 10 ... 13:
		act_match(player);
		break;
	case 14 ... 18:
		act_load(player);
		break;
	case 19:
		act_sync(player);
		break;
	case 20:
		if (pick(16) == 0)
			act_die(player);
		break;
	default:
		act_force(player);
	}
}

/* -------------------------------------------------------------------------------- devices */

static void devices_change(void)
{
	unsigned device = pick(world.options.ssd.devices);
	enum ssd_op op = (enum ssd_op)pick(3);
	enum memory_fault what = MEMORY_FAULT_ERROR + pick(2);

	if (world.weather == FAIR)
		return;
	if (pick(3) == 0) {
		memory_devices_faults_end(world.sim.devices);
		return;
	}
	if (world.weather == LIES && pick(2))
		what = MEMORY_FAULT_LOST + pick(4);
	for (unsigned i = 0; i < world.realm_count; i++) {
		world.models[i].has_failed = true;
		world.models[i].has_lied |= what >= MEMORY_FAULT_LOST;
	}
	memory_devices_fault(
		world.sim.devices, device, op, what, pick(20) ? 1000 + pick(200000) : 1000000);
}

static void devices_unfence(void)
{
	for (unsigned d = 0; d < world.options.ssd.devices; d++)
		if (ssd_device_fenced(world.sim.keeper->ssd, d)) {
			world.counts.fences++;
			memory_devices_faults_end(world.sim.devices);
			for (unsigned i = 0; i < world.realm_count; i++)
				model_fenced(&world.models[i]);
			REQUIRE_EQ(ssd_device_unfence(world.sim.keeper->ssd, d), 0);
		}
}

static void restart(void)
{
	bool cut = pick(4);

	/* Transfers that still fail may cost a device and what lay there. */
	if (!cut)
		sim_ssd_dry(&world.sim);
	for (unsigned i = 0; i < world.realm_count; i++)
		model_look(&world.models[i], world.sim.realms[i]);
	world.counts.cuts++;
	REQUIRE_EQ(sim_restart(&world.sim, cut), 0);
	memset(world.operator_pins, 0, sizeof(world.operator_pins));
	for (unsigned i = 0; i < CLIENTS; i++) {
		if (world.players[i].open)
			sim_client_forget(&world.players[i].client);
		world.players[i].open = false;
	}
	for (unsigned i = 0; i < world.realm_count; i++) {
		play_books_agree(world.sim.realms[i]);
		model_restarted(&world.models[i], world.sim.realms[i], world.options.ssd.ledger);
		note(world.sim.realms[i]->ssd.blocks);
	}
}

/* ----------------------------------------------------------------------------------- lives */

/* Nothing under way is older than its deadline. */
static void deadlines_check(void)
{
	uint64_t now = world.sim.keeper->now_ns;

	for (unsigned i = 0; i < CLIENTS; i++) {
		const struct player *player = &world.players[i];

		if (!player->open)
			continue;
		REQUIRE(!player->reserve_tag || player->reserve_deadline > now);
		REQUIRE(!player->load_tag || player->load_deadline > now);
		REQUIRE(!player->sync_tag || player->sync_deadline > now);
	}
}

static void ages_run(void)
{
	do
		sim_run(&world.sim);
	while (keeper_tick(world.sim.keeper) <= world.sim.keeper->now_ns);
}

static void look(void)
{
	ages_run();
	for (unsigned i = 0; i < CLIENTS; i++)
		collect(&world.players[i]);
	deadlines_check();
	for (unsigned i = 0; i < world.realm_count; i++) {
		play_books_agree(world.sim.realms[i]);
		model_limits(&world.models[i], world.sim.realms[i], world.options.ssd.ledger);
		model_look(&world.models[i], world.sim.realms[i]);
	}
}

static void step(void)
{
	act(&world.players[pick(CLIENTS)]);
	if (pick(3) == 0) {
		keeper_round(world.sim.keeper, 1 + pick(8));
		if (pick(3) == 0)
			keeper_tick(world.sim.keeper);
		for (unsigned i = 0; i < CLIENTS; i++)
			collect(&world.players[i]);
	}
	if (pick(2))
		sim_devices_run(&world.sim, pick(8));
	switch (pick(100)) {
	case 0 ... 1:
		look();
		break;
	case 2:
		devices_change();
		break;
	case 3:
		devices_unfence();
		break;
	case 4:
		if (pick(4) == 0)
			restart();
	}
}

/* All is dropped: what the devices still hold is a segment a log, and the records of spaces. */
static void end_check(void)
{
	struct ssd_status ssd;

	memory_devices_faults_end(world.sim.devices);
	devices_unfence();
	for (unsigned i = 0; i < OPERATOR_PINS; i++) {
		struct realm *realm = world.sim.realms[world.operator_pins[i].realm];

		realm->index.slots[world.operator_pins[i].slot].operator_pins = 0;
	}
	for (unsigned i = 0; i < world.realm_count; i++)
		world.sim.realms[i]->operator_pins = 0;
	for (unsigned i = 0; i < CLIENTS; i++) {
		collect(&world.players[i]);
		if (world.players[i].open)
			sim_client_close(&world.players[i].client, true);
	}
	sim_settle(&world.sim);
	for (unsigned i = 0; i < 8; i++) {
		world.sim.keeper->now_ns += 600 * NS_PER_S;
		ages_run();
		sim_settle(&world.sim);
	}
	for (unsigned i = 0; i < world.realm_count; i++) {
		struct realm *realm = world.sim.realms[i];

		world.counts.moved += realm->counters[REALM_COUNTER_blocks_moved];
		world.counts.evicted += realm->counters[REALM_COUNTER_blocks_evicted];
		world.counts.shed += realm->counters[REALM_COUNTER_blocks_shed];
		world.counts.durables += world.models[i].durables;
		world.counts.bad += realm->misses[SKEP_REASON_CHECKSUM];
		play_nothing_leaks(&world.sim, realm);
	}
	for (unsigned i = 0; i < 8; i++) {
		world.sim.keeper->now_ns += 2 * NS_PER_S;
		sim_settle(&world.sim);
	}
	ssd_status_get(world.sim.keeper->ssd, &ssd);
	REQUIRE_EQ(ssd.in_flight, 0);
	REQUIRE(ssd.segments_free + world.realm_count * (1 + MODEL_SPACES) >= ssd.segments);
	REQUIRE_EQ(world.sim.cuts, 0);
}

static uint64_t life(uint64_t seed)
{
	struct sim_options *options = &world.options;

	memset(&world, 0, sizeof(world));
	world.random = mix64(seed);
	world.weather = (enum weather)(seed % WEATHERS);
	world.realm_count = 1 + pick(REALMS);
	world.slots = pick(3) ? 400 : 50 + pick(50); /* or names run out */
	*options = (struct sim_options){.dram_bytes = 8 << 20,
		.use_max = 400000 + pick(1 << 20),
		.index_blocks = world.slots,
		.age_limit_ns = 200 * NS_PER_MS,
		.realms = world.realm_count,
		.id_bits = 128};
	options->ssd = (struct sim_ssd_options){.bytes = 8 << 20,
		.devices = 1 + pick(2),
		.depth = pick(2) ? 0 : 1 + pick(20),
		.errors_max = 4,
		.seed = seed,
		.ledger = pick(2)};
	REQUIRE_EQ(sim_create(&world.sim, options), 0);
	for (unsigned i = 0; i < REALMS; i++)
		model_begin(&world.models[i]);
	for (unsigned i = 0; i < CLIENTS; i++)
		world.players[i].realm = i % world.realm_count;
	for (unsigned i = 0; i < STEPS; i++)
		step();
	end_check();
	sim_destroy(&world.sim);
	return world.digest;
}

static void seed_print(void)
{
	if (last_seed)
		fprintf(stderr, "at seed %llu\n", (unsigned long long)last_seed);
}

int main(int argc, char **argv)
{
	uint64_t first = unit_seed(argc, argv);
	uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 0) : LIVES;
	struct counts sum = {0};

	atexit(seed_print);
	/* What the devices are made to do would fill the screen. */
	log_set_level(LOG_LEVEL_ERROR);
	for (uint64_t seed = first; seed < first + count; seed++) {
		uint64_t digest = life(last_seed = seed);

#define X(name) sum.name += world.counts.name;
		COUNT_TABLE(X)
#undef X
		if (seed % 32 == 0)
			REQUIRE(life(seed) == digest);
	}
	last_seed = 0;
	printf("%llu lives:", (unsigned long long)count);
#define X(name) printf(" %llu " #name, (unsigned long long)sum.name);
	COUNT_TABLE(X)
#undef X
	printf("\n");
	REQUIRE(count < 20 || (sum.puts > 50 * count && sum.loaded > 10 * count));
	REQUIRE(count < 20 || (sum.durables > 10 * count && sum.evicted > count));
	return 0;
}
