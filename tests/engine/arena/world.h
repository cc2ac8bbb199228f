/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_ARENA_WORLD_H
#define SKEP_TESTS_ARENA_WORLD_H

#include "engine/arena/arena.h"
#include "engine/arena/arena_priv.h"
#include "tests/base/unit.h"

/*
 * A device, an arena on it, and sequences whose every token is known by a number, its identity:
 * what lies in its K and V is a function of that number alone, written and checked by the device
 * where it lies. What the test expects of a sequence is the plain list of identities.
 */
enum { KNOWN_TOKENS_MAX = 128 };

struct known {
	struct arena_sequence *sequence; /* NULL: not open */
	uint32_t count;
	uint64_t ids[KNOWN_TOKENS_MAX];
};

struct world {
	struct gpu *gpu;
	struct gpu_stream *stream;
	uint64_t found_at;	      /* a struct pattern_found on the device */
	struct pattern_found *pinned; /* and here */
	struct arena *arena;
	struct arena_options options;
	uint64_t next_id;
	/* A failure that is to come: so many calls of the device from now on, the test's own not
	 * counted; and the count of calls when that was said. */
	uint64_t fail_left, fail_said;
	int injected;
};

/* The @nth call from now that is not the test's own fails with @status; 0: none. */
void world_fail_nth(struct world *world, uint64_t nth, int status);

/* SKEP_TEST_SHORT is set: fewer lives, for tools that make each launch slow. */
bool world_short(void);

/* Calls once more after a failure that was ordered. */
#define AGAIN(world, call)                                                                         \
	__extension__({                                                                            \
		int again_ = (call);                                                               \
                                                                                                   \
		if (again_ < 0 && again_ == (world)->injected)                                     \
			again_ = (call);                                                           \
		again_;                                                                            \
	})

/* false: the back end is not here. */
bool world_open(struct world *world, enum gpu_back_end back_end);
void world_close(struct world *world); /* and nothing is left */

/* @options without device and stream. */
int world_arena(struct world *world, const struct arena_options *options);

/* Ends the arena; the device has nothing of it any more. */
void world_arena_end(struct world *world);

/* Heads of 1/32 of a share of a page: a token of two layers and two heads is a quarter page. */
struct arena_options world_options(const struct world *world, enum arena_order order);

/* Where the test itself, by its own arithmetic, expects the K or V of a token in the range. */
uint64_t world_place(const struct world *world, uint32_t token, unsigned layer, unsigned value);

/* Extends by @count tokens and writes them; the status of arena_extend. */
int world_grow(struct world *world, struct known *known, uint32_t count);

/* Writes tokens [from, count) through the range, or through the window by block table. */
void world_write(struct world *world, struct known *known, uint32_t from);

/* Every byte of every token is what it must be, read through the range and through the window. */
void world_verify(struct world *world, struct known *known);

void world_sync(struct world *world);

#endif
