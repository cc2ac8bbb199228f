/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks in the GPU memory of sessions: announced, found by name and had by nobody else, kept track
 * of above and below, asked for, gone with their session.
 */
#include <errno.h>

#include "store/hbm_priv.h"
#include "tests/store/play.h"

#define LONG_NS (3600 * NS_PER_S)

static struct play play;
static struct play_chain chain, other;
static struct play_reserved reserved;

static const struct sim_space one = {
	.name = "one", .block_tokens = 4, .part_count = 1, .bytes = {4096}, .ranges = {1}};

/* @frames: the quota. */
static void open_with(uint64_t frames, uint32_t slots, unsigned clients)
{
	struct sim_options options = {.dram_bytes = 8 << 20, /* four slabs */
		.use_max = frames * 4096,
		.index_blocks = slots,
		.age_limit_ns = 10 * NS_PER_S};

	play_open(&play, &options, &one, clients);
}

static int32_t announce(
	unsigned client, const struct play_chain *of, uint32_t first, uint32_t count)
{
	return play_announce(
		&play.sim, &play.clients[client], of, (struct probe_want){first, count});
}

static uint32_t put(unsigned client, struct play_chain *of, uint32_t first, uint32_t count)
{
	return play_put_blocks(
		&play.sim, &play.clients[client], of, (struct probe_want){first, count});
}

static struct hbm_part part_of(const struct play_chain *of, uint32_t i)
{
	uint32_t slot = play_slot(&play.clients[0], of, i);

	return (struct hbm_part){.slot = slot,
		.name_generation = atomic_load(&play.realm->index.entries[slot].name_generation)};
}

/* Return: how many of them were withdrawn or declined. */
static int32_t withdraw(
	unsigned client, const struct play_chain *of, uint32_t i, enum withdraw_kind kind)
{
	struct hbm_part part = part_of(of, i);

	play_withdraw(&play.clients[client], &part, 1, kind);
	sim_run(&play.sim);
	return play_take(&play, client).status;
}

static enum play_at where(const struct play_chain *of, uint32_t i)
{
	return play_where(&play.clients[0], of, i);
}

static uint32_t load(unsigned client, const struct play_chain *of, uint32_t count, uint64_t ns)
{
	struct play_load ask = {.count = count,
		.cell = 1,
		.deadline_ns = clock_after(play.sim.keeper->now_ns, ns),
		.asks = true};
	uint32_t tag = play_load(&play.clients[client], of, &ask);

	sim_run(&play.sim);
	return tag;
}

static struct explain_answer explain(unsigned client, const struct play_chain *of, uint32_t i)
{
	struct sim_client *c = &play.clients[client];
	struct sim_put ask = {.chain = &of->probe,
		.first = i,
		.count = 1,
		.space_generation = of->space->answer.generation};
	struct explain_answer answer;
	struct submission *last;

	/* Laid out as an announcement is, and as long as its answer. */
	REQUIRE(sim_announce(c, &ask));
	last = (void *)(c->page + page_submissions_at() +
			(size_t)((c->tail - 1) % PAGE_SUBMISSIONS) * PAGE_MESSAGE_BYTES);
	last->op = SUBMIT_EXPLAIN;
	last->scratch_bytes = sizeof(answer);
	sim_run(&play.sim);
	REQUIRE_EQ(play_take(&play, client).status, 0);
	memcpy(&answer, sim_scratch(c, 0), sizeof(answer));
	return answer;
}

/* ------------------------------------------------------------------------------- announcing */

static void what_is_announced_has_a_name_and_nobody_has_it(void)
{
	static struct play_match match;

	open_with(32, 64, 2);
	snprintf(play.clients[0].session->name, NODE_NAME_MAX, "engine");
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 0});
	REQUIRE_EQ(put(0, &chain, 0, 1), 1);
	REQUIRE_EQ(announce(0, &chain, 1, 2), 2);
	REQUIRE_EQ(where(&chain, 1), PLAY_HBM);
	REQUIRE_EQ(where(&chain, 2), PLAY_HBM);
	REQUIRE_EQ(
		play_announced(&play.clients[0], 1).slot, play_slot(&play.clients[0], &chain, 2));
	play_match_pin(&play.clients[1], &chain, 0, &match);
	REQUIRE_EQ(match.count, 1);
	pin_clear(&sim_pins(&play.clients[1])[0]);
	sim_run(&play.sim);
	play_books_agree(play.realm);
	{
		struct explain_answer why = explain(1, &chain, 1);

		REQUIRE_EQ(why.reason, SKEP_REASON_HBM);
		REQUIRE_TEXT(why.space, "engine");
		REQUIRE_EQ(strtoull(why.field, NULL, 10), play.clients[0].session->id);
	}
	/* Said twice it is had once. */
	REQUIRE_EQ(announce(0, &chain, 0, 3), 3);
	REQUIRE_EQ(play.clients[0].session->hbm_blocks, 3);
	REQUIRE_EQ(play.clients[0].session->hbm_bytes, 3 * 4096);
	REQUIRE_EQ(where(&chain, 0), PLAY_DRAM);
	play_close(&play);
}

static void what_rests_on_nothing_is_refused(void)
{
	open_with(32, 64, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 0});
	REQUIRE_EQ(announce(0, &chain, 1, 2), SKEP_STATUS_EPARENT);
	REQUIRE_EQ(announce(0, &chain, 0, 3), 3);
	/* The one in the middle is let go: what is below it has no way up. */
	REQUIRE_EQ(withdraw(0, &chain, 1, WITHDRAW_GONE), 1);
	REQUIRE_EQ(where(&chain, 1), PLAY_EMPTY);
	REQUIRE_EQ(where(&chain, 2), PLAY_HBM);
	REQUIRE_EQ(announce(1, &chain, 2, 1), SKEP_STATUS_EPARENT);
	REQUIRE_EQ(withdraw(1, &chain, 0, WITHDRAW_GONE), 0);
	REQUIRE_EQ(play_withdrawn(&play.clients[1], 0), -ENOENT);
	play_books_agree(play.realm);
	/* The last one below goes, and the empty name with it. */
	REQUIRE_EQ(withdraw(0, &chain, 2, WITHDRAW_GONE), 1);
	REQUIRE_EQ(where(&chain, 1), PLAY_NOWHERE);
	REQUIRE_EQ(where(&chain, 0), PLAY_HBM);
	play_close(&play);
}

static void the_number_of_announced_blocks_has_a_limit(void)
{
	open_with(32, 64, 2);
	play_chain(&play, &chain,
		(const uint32_t[]){
			1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 0});
	REQUIRE_EQ(announce(0, &chain, 0, 20), 16);
	REQUIRE_EQ(announce(1, &chain, 0, 1), -ENOSPC);
	REQUIRE_EQ(announce(1, &chain, 16, 1), -ENOSPC);
	REQUIRE_EQ(where(&chain, 16), PLAY_NOWHERE);
	REQUIRE_EQ(withdraw(0, &chain, 15, WITHDRAW_GONE), 1);
	REQUIRE_EQ(announce(1, &chain, 15, 1), 1);
	play_books_agree(play.realm);
	play_close(&play);
}

static void what_a_session_had_goes_with_it(void)
{
	open_with(32, 64, 3);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 0});
	play_chain(&play, &other, (const uint32_t[]){1, 2, 4, 0});
	REQUIRE_EQ(put(2, &chain, 0, 1), 1);
	REQUIRE_EQ(announce(0, &chain, 0, 3), 3);
	REQUIRE_EQ(announce(1, &other, 1, 2), 2);
	REQUIRE_EQ(play.realm->hbm.count, 5);
	/* Its socket closes: nothing is matched by it any more, though its process may run. */
	session_stop(play.clients[0].session);
	REQUIRE_EQ(play.realm->hbm.count, 2);
	REQUIRE_EQ(play_where(&play.clients[2], &chain, 0), PLAY_DRAM);
	REQUIRE_EQ(play_where(&play.clients[2], &chain, 1), PLAY_HBM); /* the other has it too */
	REQUIRE_EQ(play_where(&play.clients[2], &chain, 2), PLAY_NOWHERE);
	play_books_agree(play.realm);
	play_client_end(&play, 1, false);
	REQUIRE_EQ(play_where(&play.clients[2], &chain, 1), PLAY_NOWHERE);
	REQUIRE_EQ(play.realm->hbm.count, 0);
	play_close(&play);
}

/* --------------------------------------------------------------------------------- by tier */

static void a_child_in_hbm_holds_its_parent_in_dram(void)
{
	open_with(32, 64, 1);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 0});
	REQUIRE_EQ(put(0, &chain, 0, 2), 2);
	REQUIRE_EQ(announce(0, &chain, 2, 1), 1);
	REQUIRE_EQ(evict_blocks(play.realm, UINT32_MAX), 0);
	REQUIRE_EQ(where(&chain, 1), PLAY_DRAM);
	play_books_agree(play.realm);
	/* In hbm itself it may go, and its name stays. */
	REQUIRE_EQ(announce(0, &chain, 1, 1), 1);
	play_books_agree(play.realm);
	evict_bytes(play.realm, 4096);
	REQUIRE_EQ(where(&chain, 1), PLAY_HBM);
	REQUIRE_EQ(where(&chain, 0), PLAY_DRAM); /* held by that one now */
	REQUIRE_EQ(evict_bytes(play.realm, 4096), 0);
	play_books_agree(play.realm);
	/* Let go, all of it can be had again. */
	REQUIRE_EQ(withdraw(0, &chain, 1, WITHDRAW_GONE), 1);
	REQUIRE_EQ(where(&chain, 1), PLAY_EMPTY);
	REQUIRE_EQ(evict_bytes(play.realm, 4096), 4096);
	REQUIRE_EQ(where(&chain, 0), PLAY_EMPTY);
	REQUIRE_EQ(where(&chain, 2), PLAY_HBM);
	play_books_agree(play.realm);
	play_close(&play);
}

static void a_name_without_bytes_is_put_again(void)
{
	struct play_put ask;
	uint64_t name;

	open_with(32, 64, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 0});
	REQUIRE_EQ(announce(0, &chain, 0, 3), 3);
	name = part_of(&chain, 1).name_generation;
	/* Not below one that nobody has here. */
	ask = (struct play_put){.chain = &chain, .first = 1, .count = 1};
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[1], &ask, &reserved), SKEP_STATUS_EPARENT);
	/* A writer that gives up leaves it as it was. */
	ask = (struct play_put){.chain = &chain, .count = 2};
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[1], &ask, &reserved), 2);
	REQUIRE_EQ(where(&chain, 0), PLAY_PENDING);
	REQUIRE_EQ(where(&chain, 1), PLAY_PENDING);
	play_books_agree(play.realm);
	play_client_end(&play, 1, false);
	play_later(&play, NS_PER_S);
	REQUIRE_EQ(where(&chain, 0), PLAY_HBM);
	REQUIRE_EQ(where(&chain, 1), PLAY_HBM);
	REQUIRE_EQ(play_used_bytes(&play), 0);
	play_books_agree(play.realm);
	/* Put whole it is what it was, under the name that it had. */
	REQUIRE_EQ(put(0, &chain, 0, 2), 2);
	REQUIRE_EQ(where(&chain, 1), PLAY_DRAM);
	REQUIRE_EQ(part_of(&chain, 1).name_generation, name);
	REQUIRE_EQ(play_present(&play.clients[0], &chain), 2);
	play_block_check(play.realm, part_of(&chain, 1).slot, &one, chain.ids[1], UINT32_MAX);
	play_books_agree(play.realm);
	play_close(&play);
}

static void a_writer_and_its_session_may_go_while_another_has_the_block(void)
{
	struct play_put ask;

	open_with(32, 64, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 0});
	REQUIRE_EQ(announce(0, &chain, 0, 2), 2);
	ask = (struct play_put){.chain = &chain, .count = 1};
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[1], &ask, &reserved), 1);
	/* The holder goes first: what it had below goes, what is being put goes on. */
	play_client_end(&play, 0, false);
	REQUIRE_EQ(play_where(&play.clients[1], &chain, 0), PLAY_PENDING);
	REQUIRE_EQ(play_where(&play.clients[1], &chain, 1), PLAY_NOWHERE);
	play_fill(play.realm, reserved.written, 1);
	REQUIRE_EQ(play_commit(&play.sim, &play.clients[1], reserved.written, 1), 1);
	REQUIRE_EQ(play_present(&play.clients[1], &chain), 1);
	play_books_agree(play.realm);
	play_close(&play);
}

static void removal_by_force_takes_it_from_its_holders(void)
{
	open_with(32, 64, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 0});
	REQUIRE_EQ(put(0, &chain, 0, 2), 2);
	REQUIRE_EQ(announce(0, &chain, 1, 2), 2);
	REQUIRE_EQ(remove_subtree(
			   play.realm, play_slot(&play.clients[0], &chain, 1), SKEP_REASON_REMOVED),
		2);
	REQUIRE_EQ(play.realm->hbm.count, 0);
	REQUIRE_EQ(where(&chain, 1), PLAY_NOWHERE);
	play_books_agree(play.realm);
	REQUIRE_EQ(announce(0, &chain, 0, 3), 3);
	REQUIRE_EQ(remove_space(play.realm, play.space.answer.space, SKEP_REASON_REMOVED), 3);
	REQUIRE_EQ(play.realm->hbm.count, 0);
	play_close(&play);
}

/* Slabs of another frame size are made of blocks that nothing in hbm rests on. */
static void room_of_another_size_is_made_around_it(void)
{
	static const struct sim_space large = {.name = "large",
		.block_tokens = 4,
		.part_count = 1,
		.bytes = {65536},
		.ranges = {1}};
	struct play_space space;
	static struct play_chain big;
	uint32_t path[9], blocks = 0;

	open_with(0, 4096, 1);
	for (uint32_t i = 0; i < 256; i++) { /* fills the pool of 2048 frames */
		for (uint32_t k = 0; k < 8; k++)
			path[k] = i * 8 + k + 1;
		path[8] = 0;
		play_chain(&play, &chain, path);
		REQUIRE_EQ(put(0, &chain, 0, 8), 8);
		if (i < 15) /* of these the leaf is in hbm, its parent is not */
			REQUIRE_EQ(announce(0, &chain, 7, 1), 1);
	}
	play_space_open(&play.clients[0], &large, &space);
	for (uint32_t i = 0; i < 12; i++) {
		play_chain_make(&big, &play.sim, &space, &(uint32_t){1000 + i}, 1);
		blocks += put(0, &big, 0, 1);
		play_books_agree(play.realm);
	}
	REQUIRE_EQ(blocks, 12);
	REQUIRE_EQ(play.realm->hbm.count, 15);
	play_close(&play);
}

/* Nor are slabs of records emptied that names in hbm lie in, or rest on. */
static void records_that_names_need_stay(void)
{
	static const struct sim_space eight = {.name = "eight",
		.block_tokens = 4,
		.part_count = 8,
		.bytes = {4096, 4096, 4096, 4096, 4096, 4096, 4096, 4096},
		.ranges = {1, 1, 1, 1, 1, 1, 1, 1}};
	/* Two units of records: one is full of blocks in DRAM, the other begun. */
	struct sim_options options = {.dram_bytes = 64 << 20,
		.index_blocks = 4096,
		.record_bytes = 512 << 10,
		.age_limit_ns = NS_PER_S};
	struct play_space space;
	static struct play_chain small;

	play_open(&play, &options, &eight, 1);
	for (uint32_t i = 900; i > 1; i--) {
		play_chain(&play, &chain, (const uint32_t[]){i, 0});
		REQUIRE_EQ(put(0, &chain, 0, 1), 1);
	}
	play_chain(&play, &chain, (const uint32_t[]){900, 2000, 0}); /* of the full one */
	REQUIRE_EQ(announce(0, &chain, 0, 2), 2);
	play_space_open(&play.clients[0], &one, &space);
	play_chain_make(&small, &play.sim, &space, (const uint32_t[]){1}, 1);
	REQUIRE_EQ(put(0, &small, 0, 1), 0);
	REQUIRE_EQ(where(&chain, 0), PLAY_DRAM);
	REQUIRE_EQ(where(&chain, 1), PLAY_HBM);
	play_books_agree(play.realm);
	REQUIRE_EQ(withdraw(0, &chain, 1, WITHDRAW_GONE), 1);
	REQUIRE_EQ(withdraw(0, &chain, 0, WITHDRAW_GONE), 1);
	REQUIRE_EQ(put(0, &small, 0, 1), 1);
	play_books_agree(play.realm);
	play_close(&play);
}

/* ----------------------------------------------------------------------------------- asking */

static void who_asks_gets_it_when_its_holder_has_put_it(void)
{
	struct completion done;
	struct hbm_part asked;

	open_with(32, 64, 3);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 4, 0});
	REQUIRE_EQ(put(0, &chain, 0, 1), 1);
	REQUIRE_EQ(announce(0, &chain, 1, 3), 3);
	play_asks(&play.clients[0], 8);
	sim_run(&play.sim);
	play_take_none(&play, 0);
	load(1, &chain, 4, LONG_NS);
	load(2, &chain, 3, LONG_NS); /* asks for nothing that was not asked for */
	play_take_none(&play, 1);
	done = play_take(&play, 0);
	REQUIRE_EQ(done.status, 3);
	for (uint32_t i = 0; i < 3; i++) {
		asked = play_asked(&play.clients[0], i);
		REQUIRE_EQ(asked.slot, part_of(&chain, 1 + i).slot);
		REQUIRE_EQ(asked.name_generation, part_of(&chain, 1 + i).name_generation);
		REQUIRE_EQ(asked.deadline_ns, play.sim.keeper->now_ns + LONG_NS);
	}
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_hbm_asks), 3);
	REQUIRE_EQ(put(0, &chain, 1, 2), 2);
	REQUIRE_EQ(play_take(&play, 2).status, 3);
	play_take_none(&play, 1);
	REQUIRE_EQ(put(0, &chain, 3, 1), 1);
	REQUIRE_EQ(play_take(&play, 1).status, 4);
	play_loaded_holds(&play.clients[1], &chain, &(struct play_load){.count = 4, .cell = 1});
	pin_clear(&sim_pins(&play.clients[1])[1]);
	pin_clear(&sim_pins(&play.clients[2])[1]);
	play_books_agree(play.realm);
	play_close(&play);
}

static void who_does_not_ask_is_not_kept_waiting(void)
{
	struct play_load plain = {.count = 2, .cell = 1, .deadline_ns = CLOCK_NEVER};

	open_with(32, 64, 2);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 0});
	REQUIRE_EQ(put(0, &chain, 0, 1), 1);
	REQUIRE_EQ(announce(0, &chain, 1, 1), 1);
	play_load(&play.clients[1], &chain, &plain);
	sim_run(&play.sim);
	REQUIRE_EQ(play_take(&play, 1).status, 1);
	pin_clear(&sim_pins(&play.clients[1])[1]);
	/* Nor who asks somebody that never listens, or himself. */
	load(1, &chain, 2, LONG_NS);
	REQUIRE_EQ(play_take(&play, 1).status, 1);
	pin_clear(&sim_pins(&play.clients[1])[1]);
	play_asks(&play.clients[0], 8);
	load(0, &chain, 2, LONG_NS);
	REQUIRE_EQ(play_take(&play, 0).status, 1);
	pin_clear(&sim_pins(&play.clients[0])[1]);
	play_close(&play);
}

static void a_holder_that_declines_or_goes_ends_the_wait(void)
{
	open_with(32, 64, 3);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 0});
	REQUIRE_EQ(announce(0, &chain, 0, 2), 2);
	REQUIRE_EQ(announce(1, &chain, 0, 2), 2);
	play_asks(&play.clients[0], 8);
	play_asks(&play.clients[1], 8);
	load(2, &chain, 2, LONG_NS);
	/* One of the two is asked; when it declines, the other is. */
	REQUIRE_EQ(play_take(&play, 1).status, 2);
	play_take_none(&play, 0);
	REQUIRE_EQ(withdraw(1, &chain, 0, WITHDRAW_DECLINED), 1);
	REQUIRE_EQ(play_take(&play, 0).status, 1); /* for the second one the first was asked */
	play_take_none(&play, 2);
	REQUIRE_EQ(withdraw(0, &chain, 0, WITHDRAW_DECLINED), 1);
	REQUIRE_EQ(play_take(&play, 2).status, -ENOENT);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_hbm_declined), 2);
	REQUIRE_EQ(where(&chain, 0), PLAY_HBM);
	/* Later it is asked again. */
	play_later(&play, NS_PER_MS);
	play_asks(&play.clients[0], 1);
	play_asks(&play.clients[1], 1);
	load(2, &chain, 1, LONG_NS);
	REQUIRE_EQ(play_take(&play, 1).status, 1);
	REQUIRE_EQ(withdraw(1, &chain, 0, WITHDRAW_GONE), 1);
	REQUIRE_EQ(play_take(&play, 0).status, 1);
	play_client_end(&play, 0, false);
	REQUIRE_EQ(play_take(&play, 2).status, -ENOENT);
	play_books_agree(play.realm);
	play_close(&play);
}

static void a_holder_that_says_nothing_costs_the_deadline(void)
{
	open_with(32, 64, 3);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 0});
	REQUIRE_EQ(put(0, &chain, 0, 1), 1);
	REQUIRE_EQ(announce(0, &chain, 1, 2), 2);
	play_asks(&play.clients[0], 8);
	load(1, &chain, 3, NS_PER_S);
	REQUIRE_EQ(play_take(&play, 0).status, 2);
	play_later(&play, NS_PER_S / 2);
	play_take_none(&play, 1);
	play_later(&play, NS_PER_S / 2);
	REQUIRE_EQ(play_take(&play, 1).status, 1); /* what there is of it */
	pin_clear(&sim_pins(&play.clients[1])[1]);
	/* While it is putting the block it is waited for; when it gives up, no more. */
	play_asks(&play.clients[0], 8);
	load(1, &chain, 2, LONG_NS);
	REQUIRE_EQ(play_take(&play, 0).status, 1);
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[0],
			   &(struct play_put){.chain = &chain, .first = 1, .count = 1}, &reserved),
		1);
	play_take_none(&play, 1);
	REQUIRE(sim_abort(&play.clients[0], reserved.written, 1));
	sim_run(&play.sim);
	play_later(&play, NS_PER_S);
	play_take_none(&play, 1); /* it has it still, and was asked until then */
	REQUIRE_EQ(withdraw(0, &chain, 2, WITHDRAW_GONE), 1);
	REQUIRE_EQ(withdraw(0, &chain, 1, WITHDRAW_GONE), 1);
	REQUIRE_EQ(play_take(&play, 1).status, 1);
	pin_clear(&sim_pins(&play.clients[1])[1]);
	/* An ask for which nobody waits any more is not told. */
	REQUIRE_EQ(announce(0, &chain, 1, 1), 1);
	load(2, &chain, 2, NS_PER_S); /* not listening now: told when it does */
	play_later(&play, 2 * NS_PER_S);
	REQUIRE_EQ(play_take(&play, 2).status, 1);
	pin_clear(&sim_pins(&play.clients[2])[1]);
	play_asks(&play.clients[0], 8);
	sim_run(&play.sim);
	play_take_none(&play, 0);
	play_books_agree(play.realm);
	play_close(&play);
}

static void listening_ends_when_it_is_cancelled(void)
{
	struct submission cancel = {.op = SUBMIT_CANCEL};
	uint32_t tag, seen;

	open_with(32, 64, 2);
	tag = play_asks(&play.clients[0], 4);
	sim_run(&play.sim);
	REQUIRE(sim_push(&play.clients[0], &cancel));
	/* sim_push() gives each its own tag: a cancel names another's. */
	seen = (play.clients[0].tail - 1) % PAGE_SUBMISSIONS;
	((struct submission *)(void *)(play.clients[0].page + page_submissions_at()))[seen].tag =
		tag;
	sim_run(&play.sim);
	REQUIRE_EQ(play_take(&play, 0).status, -ECANCELED);
	/* Two at a time, none, or more than there may be are no messages of ours. */
	play_asks(&play.clients[0], 4);
	play_asks(&play.clients[0], 4);
	sim_run(&play.sim);
	REQUIRE_EQ(play.sim.cuts, 1);
	play_asks(&play.clients[1], 0);
	sim_run(&play.sim);
	REQUIRE_EQ(play.sim.cuts, 2);
	play_client_end(&play, 0, false);
	play_client_end(&play, 1, false);
	play_close(&play);
}

int main(void)
{
	what_is_announced_has_a_name_and_nobody_has_it();
	what_rests_on_nothing_is_refused();
	the_number_of_announced_blocks_has_a_limit();
	what_a_session_had_goes_with_it();
	a_child_in_hbm_holds_its_parent_in_dram();
	a_name_without_bytes_is_put_again();
	a_writer_and_its_session_may_go_while_another_has_the_block();
	removal_by_force_takes_it_from_its_holders();
	room_of_another_size_is_made_around_it();
	records_that_names_need_stay();
	who_asks_gets_it_when_its_holder_has_put_it();
	who_does_not_ask_is_not_kept_waiting();
	a_holder_that_declines_or_goes_ends_the_wait();
	a_holder_that_says_nothing_costs_the_deadline();
	listening_ends_when_it_is_cancelled();
	return 0;
}
