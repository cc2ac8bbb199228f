/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ids that collide all the time (of 1 to 16 bits, and some more): an id only finds, the parent, the
 * tokens and the keys prove. What is matched is always what was put under these tokens; a colliding
 * block is a miss, and can be put beside the other.
 *
 *	store_collision_test [SEED]
 */
#include "tests/store/play.h"

enum { CHAINS = 300, DEPTH = 6 };

static const struct sim_space kinds[] = {
	{.name = "one", .block_tokens = 4, .part_count = 1, .bytes = {4096}, .ranges = {1}},
	{.name = "other", .block_tokens = 4, .part_count = 1, .bytes = {4096}, .ranges = {1}},
};

static struct play play;
static struct play_space spaces[2];
static struct play_chain chain;
static uint64_t random_state;

static uint32_t pick(uint32_t range)
{
	return unit_random(&random_state, range);
}

/* What lies in the frame of block @i: of the whole path and the space, not of the id. */
static uint64_t identity(const uint32_t *path, uint32_t i, unsigned space)
{
	uint64_t digest = mix64(space + 1);

	for (uint32_t k = 0; k <= i; k++)
		digest = mix64(digest ^ path[k]);
	return digest;
}

static uint64_t *frame_of(uint32_t slot)
{
	const struct index_part *part = probe_part(&play.realm->index.view, slot, 0);

	return dram_at(play.realm->dram, (uint64_t)atomic_load(&part->frame) * FRAME_GRANULE_BYTES);
}

/* Matches, checks every block that is had, puts the rest. Return: blocks had. */
static uint32_t request(const uint32_t *path, uint32_t length, unsigned space)
{
	static struct probe_name names[PLAY_BLOCKS_MAX];
	static struct play_reserved reserved;
	struct play_put put = {.chain = &chain};
	struct pin_cell *cell = &sim_pins(&play.clients[0])[0];
	uint32_t had;

	play_chain_make(&chain, &play.sim, &spaces[space], path, length);
	had = probe_run(
		&play.realm->index.view, &chain.probe, (struct probe_want){0, length}, names, NULL);
	had = pin_run(&play.realm->index.view, cell, names, had);
	for (uint32_t i = 0; i < had; i++)
		REQUIRE(*frame_of(names[i].slot) == identity(path, i, space));
	put.first = had;
	put.count = length - had;
	if (put.count && play_reserve(&play.sim, &play.clients[0], &put, &reserved) > 0) {
		/* Everything that was asked for is new: nothing else is taken for it. */
		REQUIRE_EQ(reserved.count, put.count);
		for (uint32_t i = 0; i < reserved.count; i++)
			*(uint64_t *)dram_at(play.realm->dram, reserved.written[i].frame) =
				identity(path, had + i, space);
		REQUIRE(sim_commit_blind(&play.clients[0], reserved.written, reserved.count));
		sim_run(&play.sim);
		REQUIRE_EQ(play_take(&play, 0).status, reserved.count);
	}
	pin_clear(cell);
	return had;
}

/* Pairs of present blocks of one parent and one id: what only the proof tells apart. */
static uint64_t twins(void)
{
	const struct index_entry *entries = play.realm->index.entries;
	uint32_t slots = play.realm->index.head->slot_count;
	uint64_t found = 0;

	for (uint32_t a = 0; a < slots; a++)
		for (uint32_t b = index_state(play.realm, a) == ENTRY_PRESENT
					  ? atomic_load(&entries[a].next_slot)
					  : SLOT_NONE;
			b < slots; b = atomic_load(&entries[b].next_slot))
			found += atomic_load(&entries[a].id_low) ==
					 atomic_load(&entries[b].id_low) &&
				 atomic_load(&entries[a].id_high) ==
					 atomic_load(&entries[b].id_high) &&
				 atomic_load(&entries[a].parent_slot) ==
					 atomic_load(&entries[b].parent_slot);
	return found;
}

static void live(uint32_t id_bits)
{
	struct sim_options options = {.dram_bytes = 4 << 20,
		.use_max = 700 * 4096,
		.index_blocks = 1024,
		.id_bits = id_bits};
	static uint32_t paths[CHAINS][DEPTH];
	uint64_t had = 0, same = 0, after = 0;

	play_open(&play, &options, &kinds[0], 1);
	atomic_store(&sim_page(&play.clients[0])->pins_used, 1);
	for (unsigned i = 0; i < 2; i++)
		play_space_open(&play.clients[0], &kinds[i], &spaces[i]);
	REQUIRE_EQ(play.realm->index.head->id_bits, id_bits);
	for (unsigned i = 0; i < CHAINS; i++)
		for (unsigned k = 0; k < DEPTH; k++)
			paths[i][k] = 1 + pick(k < 2 ? 4 : 30);
	for (unsigned turn = 0; turn < 1500; turn++) {
		const uint32_t *path = paths[pick(CHAINS)];
		unsigned space = pick(2);

		had += request(path, 1 + pick(DEPTH), space);
		if (turn % 16 == 0) {
			/* Both of a pair of twins can be had, one after the other. */
			request(path, DEPTH, space);
			after += request(path, DEPTH, space) == DEPTH;
		}
		if (turn % 100 == 0)
			same += twins();
		play.sim.keeper->now_ns += NS_PER_MS;
	}
	printf("%3u bits: %llu blocks had, %llu pairs that share parent and id seen\n", id_bits,
		(unsigned long long)had, (unsigned long long)same);
	REQUIRE(had > 500 && after == (1500 + 15) / 16);
	REQUIRE(id_bits > 8 || same > 0);
	REQUIRE(id_bits < 64 || same == 0);
	play_close(&play);
}

int main(int argc, char **argv)
{
	static const uint32_t more[] = {24, 32, 63, 64, 65, 127, 128};

	random_state = mix64(unit_seed(argc, argv));
	for (uint32_t bits = 1; bits <= 16; bits++)
		live(bits);
	for (unsigned i = 0; i < ARRAY_COUNT(more); i++)
		live(more[i]);
	return 0;
}
