/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_ENGINE_PREFIX_H
#define SKEP_ENGINE_PREFIX_H

/*
 * Cached prefixes of a KV arena, known to the store. Blocks of finished prompts stay in the arena's
 * pages and are announced (skep_hbm.h); a new sequence of the same tokens gets these pages mapped,
 * and what the store has besides is copied into pages and announced too. Under pressure the coldest
 * blocks are put into the store and their pages given back; what other sessions ask for is put
 * when prefix_step() is called.
 *
 * A block fills one page of the arena (geometry.page_blocks is 1), is one part of the space, and
 * its bytes are those of the arena's block, in the arena's order.
 *
 * One thread, that of the arena's owner and of the session. Copies go to the arena's stream, and
 * calls that make some wait for it; what went wrong in it before is told to who waits first.
 */

#include "engine/arena/arena.h"

struct skep;
struct skep_space;
struct prefix;

struct prefix_options {
	struct arena *arena;
	struct gpu_stream *stream; /* the arena's */
	struct skep *session;
	struct skep_space
		*space;	     /* one part of arena_geometry.block_bytes, the arena's block_tokens */
	uint32_t blocks_max; /* kept at most */
};

/* -EINVAL: a block does not fill a page; else as skep_hbm_create(). */
int prefix_create(const struct prefix_options *options, struct prefix **out);

/* All pages are given back, and nothing is put. Before the session and the arena go. */
void prefix_destroy(struct prefix *prefix);

/* A prompt. */
struct prefix_tokens {
	const uint32_t *tokens;
	uint32_t count;
};

/*
 * Gives an empty sequence the longest prefix of @prompt that can be had, in whole blocks: pages
 * that are here by reference, then what the store has, until @deadline_ns. Return: tokens that the
 * sequence has now, 0 where there is nothing; -EINVAL (it is not empty), or what arena_attach()
 * says.
 */
int64_t prefix_attach(struct prefix *prefix, struct arena_sequence *sequence,
	const struct prefix_tokens *prompt, uint64_t deadline_ns);

/*
 * Keeps the whole blocks of @prompt, which are the first tokens of @sequence and have been written,
 * or their writing was submitted to the stream. Return: blocks that are kept now and were not
 * before; -EINVAL (the sequence has fewer tokens), SKEP_EDOWN, ….
 */
int prefix_keep(struct prefix *prefix, struct arena_sequence *sequence,
	const struct prefix_tokens *prompt, uint64_t deadline_ns);

/*
 * Gives up to @pages pages back that no sequence has, the coldest ones, after their bytes were put
 * into the store as far as it takes them until @deadline_ns: for when the arena is full, or soon
 * will be. Return: how many.
 */
uint32_t prefix_reclaim(struct prefix *prefix, uint32_t pages, uint64_t deadline_ns);

/* Puts what other sessions ask for. Return: blocks, 0 if nobody does. */
int prefix_step(struct prefix *prefix);

struct prefix_status {
	uint32_t blocks;
	uint64_t attached, promoted, kept, demoted, lost, asked; /* blocks, since the start */
};
void prefix_status_get(const struct prefix *prefix, struct prefix_status *out);

#endif
