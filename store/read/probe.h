/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_READ_PROBE_H
#define SKEP_STORE_READ_PROBE_H

#include <stdbool.h>
#include <stddef.h>

#include "store/read/id.h"
#include "store/read/layout.h"

/* An index mapped into this process; plain data, may be copied. */
struct index_view {
	const struct index_head *head;
	const struct index_bucket *buckets;
	const struct index_entry *entries;
	const struct index_part *parts;
	const uint8_t *heap;
};

/*
 * Checks the head of an index mapped at @base over @file_bytes and points into it.
 * Return: 0; SKEP_STATUS_EVERSION (another layout version), -EINVAL (an offset out of bounds).
 */
int index_view_open(struct index_view *view, const void *base, uint64_t file_bytes);

/* What names one block besides its tokens' place in the chain; see struct probe_chain. */
struct probe_extra {
	uint32_t blob_at; /* key, then extra keys, in the chain's blob */
	uint16_t key_bytes;
	uint16_t extra_bytes;
	uint32_t token_at; /* first token; block_tokens × i where blocks are named by tokens */
	uint32_t token_count;
};

/* A chain of names as the prober and the putter need it. Arrays of @block_count. */
struct probe_chain {
	const struct block_id *ids;
	const uint32_t *tokens;
	const uint8_t *blob;
	const struct probe_extra *extras; /* NULL: every block is block_tokens tokens and no more */
	uint32_t block_tokens;
	uint32_t block_count;
	uint32_t space;
};

/* The tokens, key and extra keys of block @i as an input for id_make() or a comparison. */
struct id_input probe_input(const struct probe_chain *chain, uint32_t i);

/* Where a block of the chain was found; a hint unless it was just read. */
struct probe_name {
	uint64_t name_generation;
	uint64_t frame_generation;
	uint32_t slot;
	uint32_t state; /* enum entry_state */
};

/*
 * The block with this id below @parent (slot and name generation; SLOT_ROOT and the space's
 * generation for a first block) with this proof, by its bucket. Id, parent and
 * proof are compared. Return: true and @name, or false: nothing of that name stands. No lock, no
 * system call, no allocation; may run against the keeper's changes.
 */
bool probe_find(const struct index_view *view, const struct block_id *id,
	const struct probe_name *parent, const struct id_input *in, struct probe_name *name);

/*
 * Walks names from block 0 as far as they stand, at most @count blocks, whatever their state.
 * @names: room for @count. Return: how many stand.
 */
uint32_t probe_names(const struct index_view *view, const struct probe_chain *chain, uint32_t count,
	struct probe_name *names);

/* What is wanted of a chain: blocks [first, first + count). */
struct probe_want {
	uint32_t first, count;
};

/*
 * Walks from block 0; blocks before @want.first need a name, the others must be in DRAM.
 * @names: room for first + count. Return: blocks of the run, counted from want.first; @missing (may
 * be NULL) is the state of the first block that is not part of it (ENTRY_FREE: no name; or the run
 * is complete).
 */
uint32_t probe_run(const struct index_view *view, const struct probe_chain *chain,
	struct probe_want want, struct probe_name *names, uint32_t *missing);

/* Part @part of the block in @slot; the slot is bounds-checked. NULL: no such part. */
const struct index_part *probe_part(const struct index_view *view, uint32_t slot, uint32_t part);

/*
 * The range sums of part @part: @ranges_before sums of the earlier parts are passed over.
 * NULL: no such part. Stable while the block is pinned.
 */
const _Atomic uint64_t *probe_range_sums(
	const struct index_view *view, uint32_t slot, uint32_t ranges_before);

/* Sizes and places inside a record. */
struct record_shape {
	uint32_t parts, token_count, key_bytes, extra_bytes, range_sums;
};
uint32_t record_bytes(const struct record_shape *shape);
uint32_t record_head_at(const struct record_shape *shape);
uint32_t record_sums_at(const struct record_shape *shape);

#endif
