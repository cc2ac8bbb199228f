/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_NODE_USER_H
#define SKEP_TESTS_NODE_USER_H

/*
 * A client as an engine would write it, over the public interface alone. Its prompts are stories:
 * numbers from which the tokens of each block derive; stories of one family (number / 4) begin with
 * the same two blocks. The bytes of a block derive from the same numbers, so every byte that ever
 * comes back is checked; a wrong one ends the process at once.
 */

#include <skep/skep.h>
#include <stdbool.h>

#include "tests/node/harness.h"
#include "tools/skep/payload.h"

enum { USER_BLOCKS_MAX = 64, USER_SHARED_BLOCKS = 2, USER_FAMILY = 4 };

/* What the blocks of a space are. */
struct shape {
	const char *space;
	uint32_t block_tokens;
	uint32_t parts;
	uint32_t ranges;
	uint64_t part_bytes;
};

struct user {
	struct skep *session;
	struct skep_space *space;
	struct shape shape;
};

/* As who: all may be NULL or 0. */
struct user_who {
	const char *realm, *token, *name;
	uint32_t flags;
};

/* skep_open() and skep_space_open(). Return: their result; what was opened is closed on error. */
int user_try(struct user *user, const char *socket, const struct shape *shape,
	const struct user_who *who);
void user_open(struct user *user, const char *socket, const struct shape *shape);
void user_close(struct user *user);

/* A story as a chain of the user's space. */
struct story {
	uint64_t number;
	uint32_t blocks;
	struct skep_chain *chain;
};
struct story story_open(struct user *user, uint64_t number, uint32_t blocks);
void story_close(struct story *story);

/* The bytes of a part of a block of it. */
struct payload story_payload(const struct story *story, uint32_t block, uint32_t part);

/* Writes a reserved frame as its block and part say. */
void frame_fill(const struct story *story, const struct skep_frame *frame);

/*
 * Reserves part @part of blocks [first, first + count), writes and commits what was reserved, in
 * several steps where frames come in several.
 */
struct putting {
	uint32_t first, count, part;
	uint64_t deadline_ns; /* of each call */
	uint32_t sums;	      /* enum skep_sums */
};
struct put_result {
	int status; /* of the last reserve or commit: negative, why it ended early; else 0 */
	uint32_t committed, existed, pending, stale;
	uint32_t first_missing; /* with SKEP_EPARENT */
};
struct put_result story_put(
	struct user *user, const struct story *story, const struct putting *what);
/* All parts of all blocks, a second each; the test fails unless each was committed or there. */
void story_put_all(struct user *user, const struct story *story);

/* Matches [first, end); 0 … with a pin, or with a peek. */
struct skep_match story_match(
	struct user *user, const struct story *story, uint32_t flags, struct skep_ref *refs);

/* Every byte of every part through pointers, of blocks [first, first + count) pinned as @refs. */
void story_check(struct user *user, const struct story *story, const struct skep_ref *refs,
	uint32_t first, uint32_t count);

/* The same through a pointer got earlier. */
void view_check(const struct story *story, struct skep_view view, uint32_t block, uint32_t part);

/* One part copied out and verified. Return: as skep_copy(); right bytes are checked. */
int64_t story_copy(struct user *user, const struct story *story, const struct skep_ref *ref,
	uint32_t block, uint32_t part);

/* Match, check every byte in place, release. Return: blocks that were there. */
uint32_t story_get(struct user *user, const struct story *story);

/* The same from whatever tier: what is on the ssd is loaded. */
uint32_t story_load(struct user *user, const struct story *story);

/* The realm's counters; the daemon must be there. */
struct skep_stats user_stats(struct user *user);

/* Waits until the counters say so; the test fails after a second. */
void user_wait_idle(struct user *user);

#endif
