/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting: for a block that another writes (single flight), for a frame while everything is in use.
 * Every wait ends exactly once and by its deadline.
 */
#include <errno.h>

#include "tests/store/play.h"

#define AGE_NS	(10 * NS_PER_S)
#define LONG_NS (3600 * NS_PER_S)

static struct play play;
static struct play_chain chain, other;
static struct play_reserved reserved, another;

static const struct sim_space one = {
	.name = "one", .block_tokens = 4, .part_count = 1, .bytes = {4096}, .ranges = {1}};

/* @frames: the quota. */
static void open_with(uint64_t frames, unsigned clients)
{
	struct sim_options options = {.dram_bytes = 2 << 20,
		.use_max = frames * 4096,
		.index_blocks = 64,
		.age_limit_ns = AGE_NS};

	play_open(&play, &options, &one, clients);
}

static uint32_t submit(unsigned client, const struct submission *message)
{
	struct submission copy = *message;
	uint32_t tag = sim_push(&play.clients[client], &copy);

	REQUIRE(tag);
	sim_run(&play.sim);
	return tag;
}

static struct submission wait_message(uint32_t slot, uint64_t ns)
{
	return (struct submission){.op = SUBMIT_WAIT,
		.slot = slot,
		.generation = atomic_load(&play.realm->index.entries[slot].name_generation),
		.deadline_ns = clock_after(play.sim.keeper->now_ns, ns)};
}

/* @count blocks of @of for @client from its start; the answer must be there. */
static void reserve(
	unsigned client, struct play_chain *of, uint32_t count, struct play_reserved *out)
{
	struct play_put put = {.chain = of, .count = count};

	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[client], &put, out), count);
	play_fill(play.realm, out->written, out->count);
}

/* ------------------------------------------------------------------------ pending blocks */

static void a_wait_ends_with_the_block(void)
{
	struct submission message;
	uint32_t tag;

	open_with(32, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 0});
	reserve(0, &chain, 2, &reserved);
	message = wait_message(reserved.written[1].slot, LONG_NS);
	tag = submit(1, &message);
	play_take_none(&play, 1);
	REQUIRE_EQ(play.realm->wait_count, 1);
	REQUIRE_EQ(play_commit(&play.sim, &play.clients[0], &reserved.written[1], 1), 1);
	play_take_none(&play, 1); /* complete, but its parent is not */
	REQUIRE_EQ(play_commit(&play.sim, &play.clients[0], &reserved.written[0], 1), 1);
	REQUIRE_EQ(play_take(&play, 1).tag, tag);
	play_take_none(&play, 1);
	/* For what is there already the answer comes at once; for what is not, too. */
	submit(1, &message);
	REQUIRE_EQ(play_take(&play, 1).status, 0);
	message.generation++;
	submit(1, &message);
	REQUIRE_EQ(play_take(&play, 1).status, -ENOENT);
	message.generation = 0;
	submit(1, &message);
	REQUIRE_EQ(play_take(&play, 1).status, -ENOENT);
	message.slot = UINT32_MAX;
	submit(1, &message);
	REQUIRE_EQ(play_take(&play, 1).status, -ENOENT);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_waits), 1);
	play_close(&play);
}

/* Ranks put their parts in turn: that a part is in and none is reserved is no failure. */
static void a_wait_outlasts_the_pause_between_two_parts(void)
{
	static const struct sim_space two = {.name = "two",
		.block_tokens = 4,
		.part_count = 2,
		.bytes = {4096, 8192},
		.ranges = {1, 2}};
	struct sim_options options = {
		.dram_bytes = 8 << 20, .index_blocks = 64, .age_limit_ns = AGE_NS};
	struct play_put put = {.chain = &chain, .count = 1};
	struct submission message;
	uint32_t tag;

	play_open(&play, &options, &two, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 0});
	reserve(0, &chain, 1, &reserved);
	message = wait_message(reserved.written[0].slot, LONG_NS);
	tag = submit(1, &message);
	REQUIRE_EQ(play_commit(&play.sim, &play.clients[0], reserved.written, 1), 1);
	play_take_none(&play, 1);
	put.part = 1;
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[0], &put, &another), 1);
	play_fill(play.realm, another.written, another.count);
	REQUIRE_EQ(play_commit(&play.sim, &play.clients[0], another.written, 1), 1);
	REQUIRE_EQ(play_take(&play, 1).tag, tag);
	play_close(&play);
}

static void a_wait_ends_by_its_deadline(void)
{
	struct submission message;
	uint32_t soon, late;

	open_with(32, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 0});
	reserve(0, &chain, 1, &reserved);
	message = wait_message(reserved.written[0].slot, 0);
	submit(1, &message);
	REQUIRE_EQ(play_take(&play, 1).status, -ETIMEDOUT);
	message = wait_message(reserved.written[0].slot, 2 * NS_PER_MS);
	late = submit(1, &message);
	message = wait_message(reserved.written[0].slot, NS_PER_MS);
	soon = submit(1, &message);
	play_later(&play, NS_PER_MS - 1);
	play_take_none(&play, 1);
	REQUIRE_EQ(keeper_tick(play.sim.keeper), play.sim.keeper->now_ns + 1);
	play_later(&play, 1);
	REQUIRE_EQ(play_take(&play, 1).tag, soon);
	play_take_none(&play, 1);
	play_later(&play, NS_PER_MS);
	REQUIRE_EQ(play_take(&play, 1).tag, late);
	play_close(&play);
}

static void a_cancelled_wait_ends_once(void)
{
	struct submission message, cancel = {.op = SUBMIT_CANCEL};
	uint32_t tag;

	open_with(32, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 0});
	reserve(0, &chain, 1, &reserved);
	message = wait_message(reserved.written[0].slot, LONG_NS);
	tag = submit(1, &message);
	submit(1, &message);
	/* sim_push() gives each message its own tag: this one must bear the wait's. */
	play.clients[1].next_tag = tag - 1;
	submit(1, &cancel);
	REQUIRE_EQ(play_take(&play, 1).status, -ECANCELED);
	play_take_none(&play, 1);
	play.clients[1].next_tag = tag - 1;
	submit(1, &cancel);
	play_take_none(&play, 1);
	REQUIRE_EQ(play_commit(&play.sim, &play.clients[0], reserved.written, 1), 1);
	REQUIRE_EQ(play_take(&play, 1).tag, tag + 1);
	play_take_none(&play, 1);
	play_close(&play);
}

/* A session that ends takes its waits along, and nobody else's. */
static void waits_end_with_their_session(void)
{
	struct submission message;

	open_with(32, 3);
	play_chain(&play, &chain, (const uint32_t[]){1, 0});
	reserve(0, &chain, 1, &reserved);
	message = wait_message(reserved.written[0].slot, LONG_NS);
	submit(1, &message);
	submit(1, &message);
	submit(2, &message);
	session_stop(play.clients[1].session);
	REQUIRE_EQ(play.realm->wait_count, 1);
	play_client_end(&play, 1, false);
	REQUIRE_EQ(play_commit(&play.sim, &play.clients[0], reserved.written, 1), 1);
	REQUIRE_EQ(play_take(&play, 2).status, 0);
	play_close(&play);
}

/*
 * A client that takes no completions is cut when their ring is full, whatever it was that was
 * answered then: here the end of one of many waits, by cancel, deadline or publication.
 */
static void a_client_that_never_looks_is_cut(void)
{
	for (unsigned how = 0; how < 3; how++) {
		struct submission message, cancel = {.op = SUBMIT_CANCEL};

		open_with(32, 2);
		play_chain(&play, &chain, (const uint32_t[]){1, 0});
		reserve(0, &chain, 1, &reserved);
		message = wait_message(reserved.written[0].slot, NS_PER_S);
		for (unsigned i = 0; i < PAGE_COMPLETIONS + 8; i++) {
			play.clients[1].next_tag = 76; /* all bear one tag */
			submit(1, &message);
		}
		REQUIRE_EQ(play.realm->wait_count, PAGE_COMPLETIONS + 8);
		play.clients[1].next_tag = 76;
		if (how == 0)
			submit(1, &cancel);
		else if (how == 1)
			play_later(&play, NS_PER_S);
		else
			play_commit(&play.sim, &play.clients[0], reserved.written, 1);
		REQUIRE_EQ(play.sim.cuts, 1);
		REQUIRE(play.clients[1].session->stopped);
		REQUIRE_EQ(play.realm->wait_count, 0);
		if (how < 2)
			REQUIRE_EQ(
				play_commit(&play.sim, &play.clients[0], reserved.written, 1), 1);
		play_close(&play);
	}
}

/* The same where the tags differ, so that what comes after the one cancelled must be passed by. */
static void a_cut_in_the_middle_of_a_cancel_ends_well(void)
{
	struct submission message, cancel = {.op = SUBMIT_CANCEL};

	open_with(32, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 0});
	reserve(0, &chain, 1, &reserved);
	message = wait_message(reserved.written[0].slot, LONG_NS);
	for (unsigned i = 0; i < 4; i++)
		submit(1, &message);
	message.deadline_ns = 0;
	for (unsigned i = 0; i < PAGE_COMPLETIONS; i++)
		submit(1, &message); /* each answered at once: the ring is full */
	REQUIRE_EQ(play.sim.cuts, 0);
	play.clients[1].next_tag = 0;
	submit(1, &cancel);
	REQUIRE_EQ(play.sim.cuts, 1);
	REQUIRE_EQ(play.realm->wait_count, 0);
	play_close(&play);
}

/* ------------------------------------------------------------------------- waiting for room */

/* Fills the pool with one pinned run of @count blocks by client 0. */
static void fill_pinned(uint32_t count)
{
	static struct play_match match;
	uint32_t path[PLAY_BLOCKS_MAX + 1];

	for (uint32_t i = 0; i < count; i++)
		path[i] = 1000 + i;
	path[count] = 0;
	play_chain(&play, &other, path);
	REQUIRE_EQ(
		play_put_blocks(&play.sim, &play.clients[0], &other, (struct probe_want){0, count}),
		count);
	play_match_pin(&play.clients[0], &other, 0, &match);
	REQUIRE_EQ(match.count, count);
	sim_run(&play.sim);
}

static int32_t reserve_late(unsigned client, uint32_t path, uint64_t ns)
{
	struct play_put put = {.chain = &chain, .count = 1};

	play_chain(&play, &chain, (const uint32_t[]){path, 0});
	put.deadline_ns = ns ? play.sim.keeper->now_ns + ns : 0;
	return play_reserve(&play.sim, &play.clients[client], &put, &reserved);
}

static void room_is_waited_for(void)
{
	struct play_put put = {.chain = &chain, .count = 1};
	int32_t status;

	open_with(4, 2);
	fill_pinned(4);
	REQUIRE_EQ(reserve_late(1, 7, 0), -EAGAIN);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_puts_refused), 1);
	REQUIRE_EQ(reserve_late(1, 7, LONG_NS), PLAY_BLOCKED);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_puts_waited), 1);
	REQUIRE(keeper_tick(play.sim.keeper) <= play.sim.keeper->now_ns + NS_PER_MS);
	play_take_none(&play, 1);
	/* A pin let go is a store that nobody announces: seen within a millisecond. */
	pin_clear(&sim_pins(&play.clients[0])[0]);
	play_later(&play, NS_PER_MS);
	REQUIRE(play_reserve_answered(&play.clients[1], &put, &reserved, &status));
	REQUIRE_EQ(status, 1);
	REQUIRE_EQ(reserved.count, 1);
	REQUIRE_EQ(play_present(&play.clients[0], &other), 3); /* its deepest block gave way */
	REQUIRE_EQ(play_commit(&play.sim, &play.clients[1], reserved.written, 1), 1);
	play_close(&play);
}

static void room_is_waited_for_until_the_deadline(void)
{
	struct play_put put = {.chain = &chain, .count = 1};
	int32_t status;

	open_with(4, 2);
	fill_pinned(4);
	REQUIRE_EQ(reserve_late(1, 7, 5 * NS_PER_MS), PLAY_BLOCKED);
	play_later(&play, 5 * NS_PER_MS - 1);
	play_take_none(&play, 1);
	play_later(&play, 1);
	REQUIRE(play_reserve_answered(&play.clients[1], &put, &reserved, &status));
	REQUIRE_EQ(status, -EAGAIN);
	pin_clear(&sim_pins(&play.clients[0])[0]);
	play_close(&play);
}

/* Who came first is served first, also before one that came without a deadline. */
static void room_is_given_in_order(void)
{
	struct completion done;

	open_with(4, 4);
	fill_pinned(4);
	REQUIRE_EQ(reserve_late(1, 7, LONG_NS), PLAY_BLOCKED);
	REQUIRE_EQ(reserve_late(2, 8, 5 * NS_PER_MS), PLAY_BLOCKED);
	REQUIRE_EQ(reserve_late(3, 9, LONG_NS), PLAY_BLOCKED);
	play_later(&play, 5 * NS_PER_MS); /* the second gives up; the others stay in their order */
	REQUIRE_EQ(play_take(&play, 2).status, -EAGAIN);
	play_take_none(&play, 1);
	play_take_none(&play, 3);
	/* The pool shrinks so that one frame alone can be had; who comes last goes without. */
	dram_use_max_set(play.realm->dram, 4096);
	REQUIRE_EQ(reserve_late(2, 10, 0), -EAGAIN);
	pin_clear(&sim_pins(&play.clients[0])[0]);
	play_later(&play, NS_PER_MS);
	REQUIRE_EQ(play_take(&play, 1).status, 1);
	play_take_none(&play, 3);
	dram_use_max_set(play.realm->dram, 0);
	play_later(&play, NS_PER_MS);
	REQUIRE_EQ(play_take(&play, 3).status, 1);
	REQUIRE(!sim_take(&play.clients[1], 0, &done));
	play_close(&play);
}

/* What can never fit is said at once, whatever the deadline. */
static void what_never_fits_is_refused(void)
{
	open_with(1, 1);
	dram_use_max_set(play.realm->dram, 4095);
	REQUIRE_EQ(reserve_late(0, 1, LONG_NS), -ENOSPC);
	dram_use_max_set(play.realm->dram, 0);
	REQUIRE_EQ(reserve_late(0, 1, 0), 1);
	play_close(&play);
}

/* A chain longer than the pool: the leading blocks are given, the others refused. */
static void a_chain_longer_than_the_pool(void)
{
	struct play_put put = {.chain = &chain, .count = 9};

	open_with(6, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 4, 5, 6, 7, 8, 9, 0});
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[0], &put, &reserved), 6);
	put.first = 6;
	put.count = 3;
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[0], &put, &another), -EAGAIN);
	REQUIRE_EQ(play_commit(&play.sim, &play.clients[0], reserved.written, 6), 6);
	REQUIRE_EQ(play_present(&play.clients[0], &chain), 6);
	/* Its own parents do not give way to it. */
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[0], &put, &another), -ENOSPC);
	REQUIRE_EQ(play_present(&play.clients[0], &chain), 6);
	play_close(&play);
}

static void one_reservation_waits_at_a_time(void)
{
	open_with(4, 3);
	fill_pinned(4);
	REQUIRE_EQ(reserve_late(1, 7, LONG_NS), PLAY_BLOCKED);
	REQUIRE_EQ(reserve_late(2, 7, LONG_NS), PLAY_BLOCKED);
	REQUIRE_EQ(reserve_late(1, 8, LONG_NS), PLAY_BLOCKED); /* breaks the protocol */
	REQUIRE_EQ(play.sim.cuts, 1);
	REQUIRE(play.clients[1].session->stopped);
	/* Whoever stood behind it goes on. */
	pin_clear(&sim_pins(&play.clients[0])[0]);
	play_later(&play, NS_PER_MS);
	REQUIRE_EQ(play_take(&play, 2).status, 1);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_sessions_broken), 1);
	play_close(&play);
}

/* While it waits, what it laid out is its own to spoil: nonsense ends the session, no more. */
static void a_blocked_request_is_read_again_with_care(void)
{
	struct reserve_block *block;

	open_with(4, 3);
	fill_pinned(4);
	REQUIRE_EQ(reserve_late(1, 7, LONG_NS), PLAY_BLOCKED);
	block = sim_scratch(&play.clients[1], 0);
	block->token_at = UINT32_MAX - 3;
	pin_clear(&sim_pins(&play.clients[0])[0]);
	play_later(&play, NS_PER_MS);
	REQUIRE_EQ(play.sim.cuts, 1);
	REQUIRE_EQ(reserve_late(2, 8, 0), 1);
	play_close(&play);
}

int main(void)
{
	a_wait_ends_with_the_block();
	a_wait_outlasts_the_pause_between_two_parts();
	a_wait_ends_by_its_deadline();
	a_cancelled_wait_ends_once();
	waits_end_with_their_session();
	a_client_that_never_looks_is_cut();
	a_cut_in_the_middle_of_a_cancel_ends_well();
	room_is_waited_for();
	room_is_waited_for_until_the_deadline();
	room_is_given_in_order();
	what_never_fits_is_refused();
	a_chain_longer_than_the_pool();
	one_reservation_waits_at_a_time();
	a_blocked_request_is_read_again_with_care();
	return 0;
}
