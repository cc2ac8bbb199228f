/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_STORE_PLAY_H
#define SKEP_TESTS_STORE_PLAY_H

/*
 * Clients of the simulation that play by the book: chains made of numbers, payloads that are a
 * function of identity, whole puts and matches. A test ends (unit.h) where an answer is not one of
 * those its name promises.
 */

#include "tests/base/unit.h"
#include "tests/store/sim.h"

enum {
	PLAY_BLOCKS_MAX = 256,
	PLAY_TOKENS_MAX = 8,
	PLAY_BLOCKED = 1, /* no completion came: the reservation waits for a frame */
};

/* ------------------------------------------------------------------------------- payload */

static inline uint64_t payload_word(struct block_id id, uint32_t part, uint64_t at)
{
	return mix64(id.low ^ mix64(id.high + part) ^ at);
}

/* Every word of @bytes (a multiple of 8) by plain stores. */
static inline void payload_fill(void *to, uint64_t bytes, struct block_id id, uint32_t part)
{
	uint64_t *words = to;

	for (uint64_t i = 0; i < bytes / 8; i++)
		words[i] = payload_word(id, part, i);
}

/* The bytes of a block that has frames are right: @ranges of each part, from the first on. */
void play_block_check(struct realm *realm, uint32_t slot, const struct sim_space *kind,
	struct block_id id, uint32_t ranges);

/* Return: are all of them what payload_fill() wrote? */
static inline bool payload_holds(
	const void *from, uint64_t bytes, struct block_id id, uint32_t part)
{
	const uint64_t *words = from;
	uint64_t differs = 0;

	for (uint64_t i = 0; i < bytes / 8; i++)
		differs |= words[i] ^ payload_word(id, part, i);
	return !differs;
}

/* -------------------------------------------------------------------------------- chains */

struct play_space {
	struct wire_space_answer answer;
	const struct sim_space *kind;
};

/* Opens the space for @client; must succeed. */
void play_space_open(
	struct sim_client *client, const struct sim_space *kind, struct play_space *space);

struct play_chain {
	const struct play_space *space;
	struct probe_chain probe;
	uint32_t tokens[PLAY_BLOCKS_MAX * PLAY_TOKENS_MAX];
	struct block_id ids[PLAY_BLOCKS_MAX];
};

/* The chain whose block i holds tokens made of @path[i]. */
void play_chain_make(struct play_chain *chain, const struct sim *sim,
	const struct play_space *space, const uint32_t *path, uint32_t count);

/* ------------------------------------------------------------------------------- putting */

/* What is asked for; @part of blocks [first, first + count). */
struct play_put {
	struct play_chain *chain;
	uint32_t first, count, part, length;
	uint64_t deadline_ns;
};

/* Blocks as a reservation was answered. */
struct play_reserved {
	uint32_t count; /* that were reserved for us */
	struct sim_written written[PLAY_BLOCKS_MAX];
	int32_t status[PLAY_BLOCKS_MAX]; /* of each block answered */
};

/* Pushes the reservation and runs the keeper. Return: blocks answered, negative, PLAY_BLOCKED with
 * @reserved->count = UINT32_MAX where no answer came. */
int32_t play_reserve(struct sim *sim, struct sim_client *client, const struct play_put *put,
	struct play_reserved *reserved);

/* The same for an answer that comes later: true and *@status if it is there now. */
bool play_reserve_answered(struct sim_client *client, const struct play_put *put,
	struct play_reserved *reserved, int32_t *status);

/* Fills the frames with their payload. */
void play_fill(const struct realm *realm, const struct sim_written *written, uint32_t count);

/* Commits with sums given and runs the keeper. Return: parts committed. */
int32_t play_commit(struct sim *sim, struct sim_client *client, const struct sim_written *written,
	uint32_t count);

/* The status the commit of part @i was answered with, by the last play_commit() of @client. */
int32_t play_commit_status(const struct sim_client *client, uint32_t i);

/* All parts of blocks [first, first + count): reserved, filled, committed. Return: blocks. */
uint32_t play_put_blocks(struct sim *sim, struct sim_client *client, struct play_chain *chain,
	struct probe_want want);

/* ------------------------------------------------------------------------------- matching */

struct play_match {
	uint32_t count; /* blocks pinned */
	struct probe_name names[PLAY_BLOCKS_MAX];
};

/* Matches from the chain's start, pins by @cell, checks every byte, pushes the match record. */
void play_match_pin(struct sim_client *client, const struct play_chain *chain, unsigned cell,
	struct play_match *match);

/* Are all bytes of a pinned match right? */
bool play_match_holds(const struct sim_client *client, const struct play_chain *chain,
	const struct play_match *match);

/* Blocks of the chain that stand now, present or not (names), and present from its start. */
uint32_t play_named(const struct sim_client *client, const struct play_chain *chain);
uint32_t play_present(const struct sim_client *client, const struct play_chain *chain);

/* -------------------------------------------------------------------------------- the ssd */

/*
 * Pushes a load of blocks [first, first + count) as their names stand now; those that have no name
 * are asked for with generation 0. @cell is where the pin goes. Return: its tag.
 */
struct play_load {
	uint32_t first, count, cell;
	uint64_t deadline_ns;
	bool asks; /* sessions that have blocks in their GPU memory alone */
};
uint32_t play_load(
	struct sim_client *client, const struct play_chain *chain, const struct play_load *load);
/* All blocks of a load that was answered with load->count are in DRAM below its pin, and right. */
void play_loaded_holds(const struct sim_client *client, const struct play_chain *chain,
	const struct play_load *load);
uint32_t play_sync(struct sim_client *client, uint64_t deadline_ns);

/* How one block of a chain stands. */
enum play_at { PLAY_NOWHERE, PLAY_PENDING, PLAY_DRAM, PLAY_SSD, PLAY_HBM, PLAY_EMPTY };
enum play_at play_where(
	const struct sim_client *client, const struct play_chain *chain, uint32_t i);
uint32_t play_slot(const struct sim_client *client, const struct play_chain *chain, uint32_t i);

/* ----------------------------------------------------------------------------- GPU memory */

/* Announces blocks [first, first + count) and runs the keeper. Return: its answer. No other answer
 * may be under way on the client's queue 0. */
int32_t play_announce(struct sim *sim, struct sim_client *client, const struct play_chain *chain,
	struct probe_want want);
/* Block @i of the last play_announce(). */
struct hbm_part play_announced(const struct sim_client *client, uint32_t i);
/* Pushes a SUBMIT_WITHDRAW of @count blocks. Return: its tag. */
uint32_t play_withdraw(struct sim_client *client, const struct hbm_part *parts, uint32_t count,
	enum withdraw_kind kind);
/* How block @i of it was answered. */
int32_t play_withdrawn(const struct sim_client *client, uint32_t i);
/* Listens for at most @room asks at once. Return: the tag. */
uint32_t play_asks(struct sim_client *client, uint32_t room);
/* Ask @i of those that came. */
struct hbm_part play_asked(const struct sim_client *client, uint32_t i);

/*
 * Counts what the realm believes against what it has, slot by slot: children, holds, records, live
 * units, unwritten blocks, names on lists. Whatever has no children and may leave is on the list it
 * leaves from, so that nothing is unreachable for ever.
 */
void play_books_agree(struct realm *realm);

/* Nothing is under way and nothing was lost: every slot, record and frame comes back. */
void play_nothing_leaks(struct sim *sim, struct realm *realm);

/* ------------------------------------------------------------------------------- a stage */

enum { PLAY_CLIENTS_MAX = 8 };

/* One realm, some clients, one space that all of them opened. */
struct play {
	struct sim sim;
	struct realm *realm;
	struct sim_client clients[PLAY_CLIENTS_MAX];
	unsigned client_count;
	struct play_space space;
};

void play_open(struct play *play, const struct sim_options *options, const struct sim_space *kind,
	unsigned clients);

/* Ends the clients that are still open, lets every age pass, and requires that nothing leaked. */
void play_close(struct play *play);

/*
 * The keeper begins anew on the same devices (sim_restart()), and so do the clients; chains stay
 * good while the space keeps its place and version.
 */
void play_restart(struct play *play, bool cut);

/* Loads the chain's start by cell 1, looks at every byte, releases. Return: the load's answer. */
int32_t play_load_now(
	struct play *play, unsigned client, const struct play_chain *chain, uint32_t count);

/* Ends one client's process, with or without a goodbye. */
void play_client_end(struct play *play, unsigned client, bool bye);

/* Time passes; the keeper looks at its ages until it has nothing more to do now. */
void play_later(struct play *play, uint64_t ns);

/* A chain of the stage's space; @path ends with a 0. */
void play_chain(struct play *play, struct play_chain *chain, const uint32_t *path);

/* The next completion of queue 0 must be there: its tag and status. */
struct completion play_take(struct play *play, unsigned client);
/* None may be there. */
void play_take_none(struct play *play, unsigned client);

uint64_t play_counter(const struct play *play, enum realm_counter counter);
uint64_t play_used_bytes(const struct play *play);

/* What a load in steps has told of its blocks, while it was not answered, is there, and never less
 * than before (@told, of each) but for what could not be read on. Return: of how many more was
 * told. */
uint64_t play_told_check(const struct sim_client *client, uint32_t tag,
	const struct load_part *parts, const struct probe_name *names,
	const struct play_chain *chain, uint32_t *told, uint32_t count);

#endif
