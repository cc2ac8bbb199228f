/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_SKEP_HBM_H
#define SKEP_SKEP_HBM_H

/**
 * DOC: libskep, blocks in the GPU memory of an engine
 *
 * An engine that keeps KV in GPU memory of its own announces the blocks there. It finds them again
 * by skep_hbm_match(): which they are, proved by tokens and parent as any block, is in the index,
 * where they lie is in this process. To everybody else such a block reads "in the GPU memory of
 * another session" (reason "hbm"), and a load with SKEP_LOAD_ASK asks for it: skep_hbm_asks() tells
 * the engine, which puts the block as any other (skep_reserve(), skep_commit()) or declines.
 *
 * The daemon never touches GPU memory: it knows that a block is there because the engine says so,
 * until the engine withdraws it, the block is removed by command or found damaged, or the session
 * ends. After the death of a daemon all is forgotten, and is announced anew. A takeover keeps it.
 *
 * A block is announced below one that is in DRAM, on the ssd or announced. While a block that is
 * announced has a parent in DRAM that is not, the parent stays in DRAM, as if it were pinned.
 *
 * Threads, results and struct_bytes: as in skep.h; all of it is of the session's thread.
 */

#include <skep/skep.h>

#ifdef __cplusplus
extern "C" {
#endif

struct skep_hbm;

/**
 * struct skep_hbm_options - what a session may announce
 * @struct_bytes: sizeof(struct skep_hbm_options)
 * @blocks_max: at most so many blocks, 1 to 2^24; memory for them is taken at once. The daemon has
 *	a limit of its own for all sessions of the realm: a quarter of the blocks of its index.
 * @queue: NULL, or one of the session that is given an event when skep_hbm_asks() has something to
 *	tell, with @user and status 0; SKEP_EDOWN: the daemon went away, call skep_hbm_asks() again
 *	when it is back. Destroying the queue leaves skep_hbm_asks() as without one.
 * @user: comes back with the event
 */
struct skep_hbm_options {
	size_t struct_bytes;
	uint32_t blocks_max;
	struct skep_queue *queue;
	uint64_t user;
};

/**
 * struct skep_hbm_block - a block in GPU memory
 * @user: any number of the caller's: where the block lies
 * @generation: of the block's name; with @slot what the block is called from its announcement on
 * @deadline_ns: of an ask: until then somebody waits for the block
 * @slot: of the index
 * @status: of an announcement: 0
 */
struct skep_hbm_block {
	uint64_t user;
	uint64_t generation;
	uint64_t deadline_ns;
	uint32_t slot;
	int32_t status;
};

/**
 * skep_hbm_create() - begin to announce blocks
 * @session: the session; it can have one of these
 * @options: how many, and who is told of asks
 * @out: set only on success
 * Return: 0; -EEXIST (it has one), -ENOMEM, -EINVAL, -EOWNERDEAD.
 */
SKEP_API int skep_hbm_create(
	struct skep *session, const struct skep_hbm_options *options, struct skep_hbm **out);

/**
 * skep_hbm_destroy() - withdraw all and end it; skep_close() does it too
 * @hbm: NULL is nothing
 */
SKEP_API void skep_hbm_destroy(struct skep_hbm *hbm);

/**
 * struct skep_hbm_announce - blocks that are in GPU memory now
 * @struct_bytes: sizeof(struct skep_hbm_announce)
 * @chain: the chain
 * @first: first block
 * @count: blocks
 * @blocks: @count of them, @user set; of those that are announced the rest is filled
 * @deadline_ns: for the daemon's answer
 * @first_missing: out with SKEP_EPARENT, the block from which the chain must be put or announced
 */
struct skep_hbm_announce {
	size_t struct_bytes;
	struct skep_chain *chain;
	uint32_t first;
	uint32_t count;
	struct skep_hbm_block *blocks;
	uint64_t deadline_ns;
	uint32_t first_missing;
};

/**
 * skep_hbm_announce() - say that blocks are in GPU memory of this process
 * @hbm: of the session of the chain
 * @announce: which
 *
 * Their bytes are whole and stay as they are until skep_hbm_withdraw(). One that was announced
 * before gets the new @user. Asks the daemon and waits for its answer.
 *
 * Return: how many, from the first on, are announced now (at least 1); SKEP_EPARENT (the block
 * before @first is nowhere: @first_missing), -ENOSPC (blocks_max, or the daemon's limit, is
 * reached), -EROFS, SKEP_EDOWN, -ETIMEDOUT, -EINVAL, -ERANGE.
 */
SKEP_API int skep_hbm_announce(struct skep_hbm *hbm, struct skep_hbm_announce *announce);

/**
 * struct skep_hbm_match - which blocks of a chain are in GPU memory of this session?
 * @struct_bytes: sizeof(struct skep_hbm_match)
 * @chain: the chain asked for
 * @first: the first block wanted; the engine has those before it
 * @count: at most so many blocks, 0 = to the chain's end
 * @flags: 0, or SKEP_MATCH_PEEK: not counted, and nothing is kept longer for it
 * @blocks_max: blocks that fit; the first that many of the run are given
 * @blocks: room for them, or NULL
 * @matched: out, blocks from @first on that are there, without a gap
 */
struct skep_hbm_match {
	size_t struct_bytes;
	struct skep_chain *chain;
	uint32_t first;
	uint32_t count;
	uint32_t flags;
	uint32_t blocks_max;
	struct skep_hbm_block *blocks;
	uint32_t matched;
};

/**
 * skep_hbm_match() - find the longest run that this session has in GPU memory
 * @hbm: of the session of the chain
 * @match: what
 *
 * Asks nobody and never waits. What lies behind the run may be in DRAM: skep_match() with @first
 * moved on by @matched. A block that was removed by command is not matched, though its bytes are
 * there. Nothing is pinned: what this session announced goes when this session says so.
 *
 * Return: 0, also for a miss; -EINVAL, -EOWNERDEAD.
 */
SKEP_API int skep_hbm_match(struct skep_hbm *hbm, struct skep_hbm_match *match);

/**
 * skep_hbm_withdraw() - blocks are not in GPU memory any more
 * @hbm: the session's
 * @blocks: @slot and @generation of each, as they were announced
 * @count: blocks
 *
 * They are not matched from this call on, so that their memory may be used for something else; the
 * daemon hears of it now or with the next call here. What it does not know is nothing. Of a chain
 * the last ones go first. Never waits for the daemon.
 *
 * Return: how many of them were announced; -EINVAL, -EOWNERDEAD.
 */
SKEP_API int skep_hbm_withdraw(
	struct skep_hbm *hbm, const struct skep_hbm_block *blocks, uint32_t count);

/**
 * skep_hbm_asks() - which blocks are others waiting for?
 * @hbm: the session's
 * @blocks: room for @count; all but @status is filled
 * @count: how many fit; what is left over comes with the next call
 *
 * The first call tells the daemon that this session listens; without one it is never asked. Call
 * it from time to time, in a scheduler's step for example: it costs a look into shared memory.
 * (With a queue in struct skep_hbm_options: after each event.) For each block: put it until its
 * deadline, in the order of the chain, for its parent must be there too; or decline it, or withdraw
 * it. Who says nothing makes the other side wait until then. Never waits.
 *
 * Return: how many; SKEP_EDOWN, -EINVAL, -EOWNERDEAD.
 */
SKEP_API int skep_hbm_asks(struct skep_hbm *hbm, struct skep_hbm_block *blocks, uint32_t count);

/**
 * skep_hbm_decline() - blocks that were asked for will not be put now
 * @hbm: the session's
 * @blocks: @slot and @generation of each, as they were asked for
 * @count: blocks, at most 1,024
 * They stay announced, and may be asked for by others later. Never waits.
 *
 * Return: 0; -EAGAIN (the daemon is behind; who waits does so until his deadline), SKEP_EDOWN,
 * -EINVAL, -EOWNERDEAD.
 */
SKEP_API int skep_hbm_decline(
	struct skep_hbm *hbm, const struct skep_hbm_block *blocks, uint32_t count);

/**
 * skep_hbm_blocks() - how many blocks this session has announced
 * @hbm: the session's
 * Return: the count; 0 while the daemon is away and after it was another one: announce again.
 * -EINVAL, -EOWNERDEAD.
 */
SKEP_API int skep_hbm_blocks(struct skep_hbm *hbm);

#ifdef __cplusplus
}
#endif

#endif
