/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A realm's own view does not depend on its neighbours: one scripted client is run twice, alone and
 * beside a neighbour that puts, evicts, removes, waits and dies all the time; every answer, every
 * counter and the whole index are the same.
 *
 *	store_realm_test [SEED [COUNT]]
 */
#include <errno.h>

#include "tests/store/play.h"

enum { STEPS = 3000, SPACES = 2, MINE = 2, THEIRS = 3, DEPTH = 8, LOG_MAX = 1 << 18 };

static const struct sim_space kinds[SPACES] = {
	{.name = "one", .block_tokens = 4, .part_count = 1, .bytes = {4096}, .ranges = {1}},
	{.name = "two",
		.block_tokens = 4,
		.part_count = 2,
		.bytes = {65536, 8192},
		.ranges = {2, 1}},
};

/* A client that acts at random, by its own seed alone. */
struct actor {
	struct sim_client client;
	struct play_space spaces[SPACES];
	uint64_t random;
	struct sim_written written[4 * DEPTH];
	uint32_t written_count;
	/* The reservation that is under way. */
	uint32_t tag, part, first;
	struct play_chain chain;
};

/* All that the scripted clients were told, in order. */
struct record {
	uint64_t log[LOG_MAX];
	uint32_t count;
	struct realm_status status;
	uint64_t index_digest;
};

static struct sim sim;
static struct actor mine[MINE], theirs[THEIRS];

static uint32_t pick(struct actor *actor, uint32_t range)
{
	return unit_random(&actor->random, range);
}

static void note(struct record *record, uint64_t value)
{
	if (!record)
		return;
	REQUIRE(record->count < LOG_MAX);
	record->log[record->count++] = value;
}

static void actor_open(struct actor *actor, struct realm *realm, uint64_t seed)
{
	memset(actor, 0, sizeof(*actor));
	actor->random = mix64(seed);
	REQUIRE_EQ(sim_client_open(&sim, realm, &actor->client), 0);
	/* As a memory file is; sums that a writer has not written are read there. */
	memset(sim_scratch(&actor->client, 0), 0, PAGE_SCRATCH_BYTES);
	for (unsigned i = 0; i < SPACES; i++)
		play_space_open(&actor->client, &kinds[i], &actor->spaces[i]);
	atomic_store(&sim_page(&actor->client)->pins_used, 4);
}

static void chain_pick(struct actor *actor)
{
	uint32_t path[DEPTH], length = 1 + pick(actor, DEPTH);

	for (uint32_t i = 0; i < length; i++)
		path[i] = 1 + pick(actor, i < 3 ? 2 : 3);
	play_chain_make(&actor->chain, &sim, &actor->spaces[pick(actor, SPACES)], path, length);
}

static void act_match(struct actor *actor, struct record *record)
{
	static struct play_match match;
	unsigned cell = pick(actor, 4);

	pin_clear(&sim_pins(&actor->client)[cell]);
	chain_pick(actor);
	match.count = probe_run(actor->client.view, &actor->chain.probe,
		(struct probe_want){0, DEPTH}, match.names, NULL);
	match.count = pin_run(
		actor->client.view, &sim_pins(&actor->client)[cell], match.names, match.count);
	note(record, match.count);
	for (uint32_t i = 0; i < match.count; i++) {
		note(record, match.names[i].slot);
		note(record, match.names[i].name_generation);
		note(record, match.names[i].frame_generation);
		note(record,
			atomic_load(
				&probe_part(actor->client.view, match.names[i].slot, 0)->frame));
	}
	if (match.count) {
		struct submission touch = {.op = SUBMIT_TOUCH,
			.slot = match.names[match.count - 1].slot,
			.generation = match.names[match.count - 1].frame_generation,
			.u.touch = {.asked = DEPTH,
				.matched = match.count,
				.space = (uint16_t)actor->chain.probe.space}};

		sim_push(&actor->client, &touch);
	}
}

static void act_reserve(struct actor *actor)
{
	struct sim_put put;

	if (actor->tag || actor->written_count > 2 * DEPTH)
		return;
	chain_pick(actor);
	actor->part = pick(actor, actor->chain.space->kind->part_count);
	actor->first = MIN_OF(
		play_named(&actor->client, &actor->chain), actor->chain.probe.block_count - 1);
	put = (struct sim_put){.chain = &actor->chain.probe,
		.first = actor->first,
		.count = actor->chain.probe.block_count - actor->first,
		.part = actor->part,
		.space_generation = actor->chain.space->answer.generation,
		.deadline_ns = sim.keeper->now_ns + pick(actor, 3) * 20 * NS_PER_MS};
	actor->tag = sim_reserve(&actor->client, &put);
}

static void act_commit(struct actor *actor)
{
	struct commit_part *parts = sim_scratch(&actor->client, PAGE_SCRATCH_BYTES / 2);
	struct submission message = {.op = SUBMIT_COMMIT,
		.scratch_at = PAGE_SCRATCH_BYTES / 2,
		.u.other.kind = COMMIT_SUMS_MOVER};
	uint32_t count = actor->written_count;

	if (!count)
		return;
	actor->written_count = 0;
	switch (pick(actor, 8)) {
	case 0:
		sim_abort(&actor->client, actor->written, count);
		return;
	case 1:
	case 2:
		for (uint32_t i = 0; i < count; i++)
			parts[i] = (struct commit_part){.slot = actor->written[i].slot,
				.part = (uint16_t)actor->written[i].part,
				.write = actor->written[i].write};
		message.count = count;
		message.scratch_bytes = (uint32_t)(count * sizeof(*parts));
		sim_push(&actor->client, &message);
		return;
	default:
		sim_commit_blind(&actor->client, actor->written, count);
	}
}

static void act_other(struct actor *actor)
{
	struct submission message = {
		.op = SUBMIT_WAIT, .deadline_ns = sim.keeper->now_ns + 30 * NS_PER_MS};
	static struct probe_name names[PLAY_BLOCKS_MAX];
	uint32_t named;

	chain_pick(actor);
	named = probe_names(actor->client.view, &actor->chain.probe, DEPTH, names);
	if (!named)
		return;
	message.slot = names[named - 1].slot;
	message.generation = names[named - 1].name_generation;
	if (pick(actor, 4) == 0) {
		message.op = SUBMIT_QUARANTINE;
		message.generation = names[named - 1].frame_generation;
	}
	sim_push(&actor->client, &message);
}

static void collect(struct actor *actor, struct record *record)
{
	const struct reserve_block *blocks = sim_scratch(&actor->client, 0);
	struct completion done;

	while (sim_take(&actor->client, 0, &done)) {
		note(record, (uint64_t)done.tag << 32 | (uint32_t)done.status);
		note(record, done.value);
		if (done.tag != actor->tag)
			continue;
		actor->tag = 0;
		for (int32_t i = 0; i < done.status; i++) {
			const struct sim_space *kind = actor->chain.space->kind;

			note(record, (uint32_t)blocks[i].status);
			note(record, blocks[i].slot);
			note(record, blocks[i].name_generation);
			if (blocks[i].status)
				continue;
			note(record, blocks[i].write);
			note(record, blocks[i].frame);
			actor->written[actor->written_count++] =
				(struct sim_written){.slot = blocks[i].slot,
					.part = actor->part,
					.ranges = kind->ranges[actor->part],
					.write = blocks[i].write,
					.frame = blocks[i].frame,
					.bytes = blocks[i].bytes};
		}
	}
}

static void act(struct actor *actor, struct record *record)
{
	switch (pick(actor, 8)) {
	case 0 ... 1:
		act_match(actor, record);
		break;
	case 2 ... 4:
		act_reserve(actor);
		break;
	case 5 ... 6:
		act_commit(actor);
		break;
	default:
		if (pick(actor, 3) == 0)
			act_other(actor);
	}
}

/* What the neighbour does besides: purges, deaths, version steps. */
static void neighbour_rage(struct actor *actor, struct realm *realm, uint64_t *random)
{
	switch (unit_random(random, 12)) {
	case 0:
		remove_space(realm, unit_random(random, SPACES), SKEP_REASON_REMOVED);
		return;
	case 1:
		if (unit_random(random, 12))
			return;
		sim_client_close(&actor->client, unit_random(random, 2));
		actor_open(actor, realm, *random);
		return;
	case 2:
		evict_blocks(realm, 1 + unit_random(random, 20));
		return;
	default:
		return;
	}
}

static uint64_t index_digest(const struct realm *realm)
{
	const uint64_t *words = (const uint64_t *)(const void *)realm->index.base;
	uint64_t digest = 0;

	for (uint64_t i = 0; i < realm->index.file_bytes / 8; i++)
		digest = mix64(digest ^ words[i]);
	return digest;
}

/* The same script, with or without neighbours. */
static void live(uint64_t seed, bool neighbours, struct record *record)
{
	/* Records of both kinds of blocks have slabs of their own: one slab for all would let the
	 * pins of one kind starve the other, and little would happen in such a life. */
	struct sim_options options = {.dram_bytes = 4 << 20,
		.index_blocks = 128,
		.record_bytes = 1 << 20,
		.age_limit_ns = 100 * NS_PER_MS,
		.realms = 2,
		.movers = true};
	uint64_t script = mix64(seed), theirs_random = mix64(seed + 1);

	memset(record, 0, sizeof(*record));
	REQUIRE_EQ(sim_create(&sim, &options), 0);
	for (unsigned i = 0; neighbours && i < THEIRS; i++)
		actor_open(&theirs[i], sim.realms[1], seed * 77 + i);
	for (unsigned i = 0; i < MINE; i++) {
		actor_open(&mine[i], sim.realms[0], seed * 99 + i);
		note(record, mine[i].client.session->id);
		for (unsigned k = 0; k < SPACES; k++) {
			note(record, mine[i].spaces[k].answer.generation);
			note(record, mine[i].spaces[k].answer.secret[7]);
		}
	}
	for (unsigned step = 0; step < STEPS; step++) {
		struct actor *actor = &mine[unit_random(&script, MINE)];

		for (unsigned i = 0; neighbours && i < 4; i++) {
			struct actor *other = &theirs[unit_random(&theirs_random, THEIRS)];

			act(other, NULL);
			collect(other, NULL);
			neighbour_rage(other, sim.realms[1], &theirs_random);
		}
		act(actor, record);
		/* All that was pushed is taken, all that can be summed is summed: time is the same
		 * for both, the load is not. */
		sim_run(&sim);
		while (sim.job_count)
			sim_sums_run(&sim, 1 + unit_random(&theirs_random, 3));
		sim_run(&sim);
		for (unsigned i = 0; i < MINE; i++)
			collect(&mine[i], record);
		for (unsigned i = 0; neighbours && i < THEIRS; i++)
			collect(&theirs[i], NULL);
		sim.keeper->now_ns += unit_random(&script, 8) * NS_PER_MS;
	}
	realm_status_fill(sim.realms[0], &record->status);
	/* How long things took is wall time, of which nobody can promise anything. */
	memset(record->status.latencies, 0, sizeof(record->status.latencies));
	record->index_digest = index_digest(sim.realms[0]);
	for (unsigned i = 0; i < MINE; i++)
		sim_client_close(&mine[i].client, true);
	for (unsigned i = 0; neighbours && i < THEIRS; i++)
		sim_client_close(&theirs[i].client, false);
	sim_destroy(&sim);
}

static void same(const struct record *alone, const struct record *beside)
{
	REQUIRE_EQ(alone->count, beside->count);
	for (uint32_t i = 0; i < alone->count; i++)
		REQUIRE_EQ(alone->log[i], beside->log[i]);
	for (unsigned i = 0; i < REALM_COUNTER_COUNT; i++)
		REQUIRE_EQ(alone->status.counters[i], beside->status.counters[i]);
	for (unsigned i = 0; i < SKEP_REASON_COUNT; i++)
		REQUIRE_EQ(alone->status.misses[i], beside->status.misses[i]);
	REQUIRE(!memcmp(&alone->status, &beside->status, sizeof(alone->status)));
	REQUIRE(alone->index_digest == beside->index_digest);
}

int main(int argc, char **argv)
{
	static struct record alone, beside, other;
	uint64_t seed = unit_seed(argc, argv), count = argc > 2 ? strtoull(argv[2], NULL, 0) : 12;
	uint64_t puts = 0, evicted = 0;

	for (uint64_t i = 0; i < count; i++) {
		live(seed + i, false, &alone);
		live(seed + i, true, &beside);
		same(&alone, &beside);
		puts += alone.status.counters[REALM_COUNTER_blocks_published];
		evicted += alone.status.counters[REALM_COUNTER_blocks_evicted];
	}
	/* A comparison that finds nothing different in different lives compares nothing. */
	live(seed + count, false, &other);
	REQUIRE(other.index_digest != alone.index_digest && other.count != alone.count);
	printf("%llu lives, alone and beside neighbours: %llu blocks put, %llu evicted\n",
		(unsigned long long)count, (unsigned long long)puts, (unsigned long long)evicted);
	REQUIRE(puts > 50 * count && evicted > 10 * count);
	return 0;
}
