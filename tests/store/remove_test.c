/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Removal by force: purge, quarantine, a version step. What a reader holds stays put until he lets
 * go, the frame generation never comes back, and what an operator pinned is not evicted.
 */
#include <errno.h>
#include <pthread.h>

#include "tests/store/play.h"

static struct play play;
static struct play_chain chain, branch;
static struct play_match match, second;
static struct play_reserved reserved;

static const struct sim_options usual = {
	.dram_bytes = 2 << 20, .use_max = 8 * 4096, .index_blocks = 64, .age_limit_ns = NS_PER_S};
static const struct sim_space one = {
	.name = "one", .block_tokens = 4, .part_count = 1, .bytes = {4096}, .ranges = {1}};
static const struct sim_space two = {
	.name = "two", .block_tokens = 4, .part_count = 2, .bytes = {4096, 4096}, .ranges = {1, 1}};

static void put(struct play_chain *of, uint32_t first)
{
	uint32_t count = of->probe.block_count - first;

	REQUIRE_EQ(
		play_put_blocks(&play.sim, &play.clients[0], of, (struct probe_want){first, count}),
		count);
}

static void pin(unsigned client, const struct play_chain *of, unsigned cell, struct play_match *out)
{
	play_match_pin(&play.clients[client], of, cell, out);
	sim_run(&play.sim);
}

static void unpin(unsigned client, unsigned cell)
{
	pin_clear(&sim_pins(&play.clients[client])[cell]);
}

static struct realm_status status_of(void)
{
	static struct realm_status status;

	realm_status_fill(play.realm, &status);
	return status;
}

/* A purge under a reader: nobody finds the blocks, the reader's bytes stay until he lets go. */
static void a_purge_leaves_readers_their_bytes(void)
{
	play_open(&play, &usual, &one, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 4, 0});
	put(&chain, 0);
	pin(1, &chain, 0, &match);
	REQUIRE_EQ(match.count, 4);
	REQUIRE_EQ(remove_space(play.realm, play.space.answer.space, SKEP_REASON_REMOVED), 4);
	REQUIRE_EQ(play_present(&play.clients[0], &chain), 0);
	REQUIRE_EQ(play_used_bytes(&play), 4 * 4096);
	REQUIRE_EQ(status_of().blocks_removed, 4);
	REQUIRE_EQ(status_of().pins, 1);
	play_later(&play, 3600 * NS_PER_S); /* time does not part a reader from his bytes */
	REQUIRE(play_match_holds(&play.clients[1], &chain, &match));
	/* The space can be used meanwhile, the frames cannot. */
	put(&chain, 0);
	REQUIRE_EQ(play_used_bytes(&play), 8 * 4096);
	REQUIRE(play_match_holds(&play.clients[1], &chain, &match));
	unpin(1, 0);
	play_later(&play, NS_PER_MS);
	REQUIRE_EQ(play_used_bytes(&play), 4 * 4096);
	REQUIRE_EQ(status_of().blocks_removed, 0);
	play_close(&play);
}

/* Pins on different depths: each holds what lies above it, no more. */
static void a_removed_block_waits_for_what_is_below(void)
{
	play_open(&play, &usual, &one, 3);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 4, 0});
	put(&chain, 0);
	pin(1, &chain, 0, &match);
	play_chain(&play, &branch, (const uint32_t[]){1, 2, 0});
	pin(2, &branch, 0, &second);
	remove_space(play.realm, play.space.answer.space, SKEP_REASON_REMOVED);
	unpin(1, 0);
	play_later(&play, NS_PER_MS);
	REQUIRE_EQ(play_used_bytes(&play), 2 * 4096);
	REQUIRE(play_match_holds(&play.clients[2], &branch, &second));
	play_client_end(&play, 2, false); /* the holder's process ends */
	REQUIRE_EQ(play_used_bytes(&play), 0);
	play_close(&play);
}

/* A reader between probe and pin finds that his block was removed, whatever came in its place. */
static void a_late_pin_of_a_removed_block_fails(void)
{
	struct probe_name names[4];
	const struct index_view *view;

	play_open(&play, &usual, &one, 2);
	view = &play.realm->index.view;
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 0});
	put(&chain, 0);
	REQUIRE_EQ(probe_run(view, &chain.probe, (struct probe_want){0, 3}, names, NULL), 3);
	remove_space(play.realm, play.space.answer.space, SKEP_REASON_REMOVED);
	REQUIRE_EQ(pin_run(view, &sim_pins(&play.clients[1])[0], names, 3), 0);
	put(&chain, 0); /* the same slots, other generations */
	REQUIRE_EQ(pin_run(view, &sim_pins(&play.clients[1])[0], names, 3), 0);
	REQUIRE_EQ(atomic_load(&sim_pins(&play.clients[1])[0].generation), 0);

	/* A part of the run that still stands is pinned. */
	REQUIRE_EQ(probe_run(view, &chain.probe, (struct probe_want){0, 3}, names, NULL), 3);
	remove_subtree(play.realm, names[2].slot, SKEP_REASON_REMOVED);
	REQUIRE_EQ(pin_run(view, &sim_pins(&play.clients[1])[0], names, 3), 2);
	/* A reference without a generation names no block. */
	names[1].frame_generation = 0;
	REQUIRE_EQ(pin_run(view, &sim_pins(&play.clients[1])[0], names, 2), 1);
	unpin(1, 0);
	play_close(&play);
}

/* Wrong bytes: the block leaves with all that rests on it, and is told apart in the counters. */
static void a_quarantine_takes_the_subtree(void)
{
	struct submission message = {.op = SUBMIT_QUARANTINE};

	play_open(&play, &usual, &one, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 4, 0});
	play_chain(&play, &branch, (const uint32_t[]){1, 9, 0});
	put(&chain, 0);
	put(&branch, 1);
	pin(1, &chain, 0, &match);
	message.slot = match.names[1].slot;
	message.generation = match.names[1].frame_generation;
	sim_push(&play.clients[1], &message);
	sim_push(&play.clients[1], &message); /* once more: it is gone already */
	message.slot = UINT32_MAX;
	sim_push(&play.clients[1], &message);
	sim_run(&play.sim);
	REQUIRE_EQ(play_present(&play.clients[0], &chain), 1);
	REQUIRE_EQ(play_present(&play.clients[0], &branch), 2);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_quarantined), 1);
	REQUIRE_EQ(play.realm->misses[SKEP_REASON_CHECKSUM], 1);
	REQUIRE_EQ(gone_find(play.realm, chain.ids[1].low, NULL), SKEP_REASON_CHECKSUM);
	REQUIRE_EQ(play_used_bytes(&play), 5 * 4096);
	/* What was removed may be put again at once: it gets frames of its own. */
	put(&chain, 1);
	REQUIRE(play_match_holds(&play.clients[1], &chain, &match));
	unpin(1, 0);
	play_later(&play, NS_PER_MS);
	REQUIRE_EQ(play_used_bytes(&play), 5 * 4096);
	play_close(&play);
}

/* A removed parent whose children are being put: the writers are told at commit. */
static void a_removal_ends_puts_below(void)
{
	struct play_put ask = {.chain = &chain, .first = 2, .count = 2};
	struct submission wait = {.op = SUBMIT_WAIT, .deadline_ns = CLOCK_NEVER};

	play_open(&play, &usual, &two, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 4, 0});
	REQUIRE_EQ(
		play_put_blocks(&play.sim, &play.clients[0], &chain, (struct probe_want){0, 2}), 2);
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[0], &ask, &reserved), 2);
	play_fill(play.realm, reserved.written, 2);
	REQUIRE_EQ(play_commit(&play.sim, &play.clients[0], reserved.written, 1), 1);
	wait.slot = reserved.written[1].slot;
	wait.generation = atomic_load(&play.realm->index.entries[wait.slot].name_generation);
	sim_push(&play.clients[1], &wait);
	sim_run(&play.sim);
	remove_space(play.realm, play.space.answer.space, SKEP_REASON_REMOVED);
	REQUIRE_EQ(play_take(&play, 1).status, SKEP_STATUS_EGIVENUP);
	/* The frame that is still written stays away from everybody. */
	REQUIRE_EQ(play_used_bytes(&play), 4096);
	REQUIRE_EQ(play_commit(&play.sim, &play.clients[0], &reserved.written[1], 1), 0);
	REQUIRE_EQ(play_commit_status(&play.clients[0], 0), SKEP_STATUS_EPARENT);
	REQUIRE_EQ(play_used_bytes(&play), 0);
	play_close(&play);
}

/* Pinned by command: neither pressure nor another size takes it or what it rests on. */
static void an_operators_pin_holds(void)
{
	struct block_status block;
	uint32_t slot;

	play_open(&play, &usual, &one, 1);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 0});
	put(&chain, 0);
	pin(0, &chain, 0, &match);
	unpin(0, 0);
	slot = match.names[1].slot;
	play.realm->index.slots[slot].operator_pins = 1;
	play.realm->operator_pins = 1;
	REQUIRE_EQ(evict_blocks(play.realm, 64), 1);
	REQUIRE_EQ(evict_bytes(play.realm, 1 << 20), 0);
	REQUIRE_EQ(play_present(&play.clients[0], &chain), 2);
	block_status_fill(play.realm, slot, &block);
	REQUIRE(block.operator_pins == 1 && block.depth == 1 && block.pins == 0 && !block.root);
	REQUIRE_EQ(block.parent_low, chain.ids[0].low);
	REQUIRE_EQ(block.children, 0);
	REQUIRE_EQ(block.bytes, 4096);
	REQUIRE_EQ(block.tokens[0], 2 * 64);
	/* By force it goes all the same, and its pin with it. */
	remove_space(play.realm, play.space.answer.space, SKEP_REASON_REMOVED);
	REQUIRE_EQ(play.realm->operator_pins, 0);
	REQUIRE_EQ(play_used_bytes(&play), 0);
	play_close(&play);
}

/* Eviction under readers: a victim that is named after all stands again, as it was. */
static void a_pinned_run_is_never_evicted(void)
{
	play_open(&play, &usual, &one, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 4, 0});
	play_chain(&play, &branch, (const uint32_t[]){1, 2, 8, 9, 0});
	put(&chain, 0);
	put(&branch, 2);
	pin(1, &chain, 0, &match);
	REQUIRE_EQ(evict_blocks(play.realm, 64), 2); /* the other branch alone */
	REQUIRE_EQ(evict_blocks(play.realm, 64), 0);
	REQUIRE(play_match_holds(&play.clients[1], &chain, &match));
	REQUIRE_EQ(play_present(&play.clients[0], &branch), 2);
	unpin(1, 0);
	REQUIRE_EQ(evict_blocks(play.realm, 64), 4);
	play_close(&play);
}

/* A reader that pins one run over and over, whether it still stands or not. */
struct reader {
	const struct index_view *view;
	struct pin_cell *cell;
	struct probe_name names[4];
	_Atomic bool stop;
	_Atomic uint64_t pinned, missed;
};

static void *reader_run(void *arg)
{
	struct reader *reader = arg;

	while (!atomic_load_explicit(&reader->stop, memory_order_relaxed)) {
		uint32_t count = pin_run(reader->view, reader->cell, reader->names, 4);

		if (count)
			pin_clear(reader->cell);
		atomic_fetch_add(count ? &reader->pinned : &reader->missed, 1);
	}
	return NULL;
}

/*
 * A pin that comes between the choice of victims and the second look at the tables: the block and
 * what it rests on stand again under their old generations, and the reader's references are good.
 */
static void a_victim_that_is_named_after_all_stands_again(void)
{
	struct sim_options options = {.dram_bytes = 4 << 20, .index_blocks = 1024};
	uint64_t until = clock_ns() + 20 * NS_PER_S, rounds = 0;
	static struct reader reader;
	pthread_t thread;
	uint32_t path[5] = {1, 2, 3, 4, 0};

	play_open(&play, &options, &one, 2);
	play_chain(&play, &chain, path);
	put(&chain, 0);
	atomic_store(&sim_page(&play.clients[1])->pins_used, 1);
	reader.view = &play.realm->index.view;
	reader.cell = sim_pins(&play.clients[1]);
	REQUIRE_EQ(
		probe_run(reader.view, &chain.probe, (struct probe_want){0, 4}, reader.names, NULL),
		4);
	REQUIRE_EQ(pthread_create(&thread, NULL, reader_run, &reader), 0);
	while (play_counter(&play, REALM_COUNTER_evictions_withdrawn) < 8) {
		REQUIRE(clock_ns() < until);
		rounds++;
		/* Many others are chosen after it, so that the choice takes a while. */
		for (uint32_t i = 0; i < 4; i++) {
			uint32_t others[101];

			for (uint32_t k = 0; k < 100; k++)
				others[k] = 1000 + 100 * i + k;
			others[100] = 0;
			play_chain(&play, &branch, others);
			put(&branch, 0);
		}
		evict_blocks(play.realm, 404);
		REQUIRE(play_used_bytes(&play) <= 4 * 4096);
		if (play_present(&play.clients[0], &chain) == 4)
			continue; /* as it was, or the reader would not pin it */
		atomic_store(&reader.stop, true);
		REQUIRE_EQ(pthread_join(thread, NULL), 0);
		evict_blocks(play.realm, 404);
		put(&chain, 0);
		REQUIRE_EQ(probe_run(reader.view, &chain.probe, (struct probe_want){0, 4},
				   reader.names, NULL),
			4);
		atomic_store(&reader.stop, false);
		REQUIRE_EQ(pthread_create(&thread, NULL, reader_run, &reader), 0);
	}
	atomic_store(&reader.stop, true);
	REQUIRE_EQ(pthread_join(thread, NULL), 0);
	printf("%llu victims stood again in %llu rounds; pinned %llu times, missed %llu times\n",
		(unsigned long long)play_counter(&play, REALM_COUNTER_evictions_withdrawn),
		(unsigned long long)rounds, (unsigned long long)reader.pinned,
		(unsigned long long)reader.missed);
	play_close(&play);
}

/* Cells that hold nonsense pin nothing and harm nothing. */
static void nonsense_in_a_pin_table(void)
{
	struct pin_cell *cells;

	play_open(&play, &usual, &one, 2);
	cells = sim_pins(&play.clients[1]);
	atomic_store(&sim_page(&play.clients[1])->pins_used, UINT32_MAX);
	for (uint32_t i = 0; i < PAGE_PINS; i++) {
		atomic_store(&cells[i].slot, i % 3 ? UINT32_MAX - i : i % 64);
		atomic_store(&cells[i].generation, mix64(i));
	}
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 0});
	put(&chain, 0);
	REQUIRE_EQ(status_of().pins, PAGE_PINS);
	REQUIRE_EQ(evict_blocks(play.realm, 64), 3);
	REQUIRE_EQ(play_used_bytes(&play), 0);
	play_close(&play);
}

int main(void)
{
	a_purge_leaves_readers_their_bytes();
	a_removed_block_waits_for_what_is_below();
	a_late_pin_of_a_removed_block_fails();
	a_quarantine_takes_the_subtree();
	a_removal_ends_puts_below();
	an_operators_pin_holds();
	a_pinned_run_is_never_evicted();
	nonsense_in_a_pin_table();
	a_victim_that_is_named_after_all_stands_again();
	return 0;
}
