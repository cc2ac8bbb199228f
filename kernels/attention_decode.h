/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_ATTENTION_DECODE_H
#define SKEP_KERNELS_ATTENTION_DECODE_H

#include "kernels/attention.h"

#ifdef __CUDACC__
#define ATTENTION_BOTH __host__ __device__
#else
#define ATTENTION_BOTH
#endif

/*
 * How decode is cut up. The contexts of the batch, each rounded up to tiles of 16 tokens, are laid
 * end to end; that line of tiles is cut into @ranges of equal length, so every worker gets the same
 * number of bytes however the lengths differ. A range that touches several sequences yields a part
 * for each. Walking along the line, each step goes on to the next range or to the next sequence:
 * range + sequence grows by one a step, hence it numbers the parts without a gap, and both the
 * worker and the merge know a part's slot without asking anybody.
 */
#define ATTENTION_TILE	16
#define ATTENTION_GROUP 8 /* query heads that one pass over a KV head serves */

/*
 * Warps of a block of decode, and tiles of a warp's ring: 96 KiB of shared memory at head size 128,
 * so two blocks at a time on a multiprocessor of Hopper, one on older ones. That keeps 128 KiB on
 * their way there, far more than the latency of memory asks for; blocks of eight, rings of two and
 * six were no faster, and rows by the copy engine (cp.async.bulk) a twentieth slower.
 */
#define ATTENTION_WARPS	 4
#define ATTENTION_STAGES 3

#define ATTENTION_MERGE_WARPS 16 /* at most, of a block that merges one row */

static inline ATTENTION_BOTH uint64_t attention_tiles(int32_t length)
{
	return length > 0 ? ((uint64_t)length + ATTENTION_TILE - 1) / ATTENTION_TILE : 0;
}

/* How many of @ranges there are to a line of @tiles: none is empty, so no slot is. */
static inline ATTENTION_BOTH uint32_t attention_ranges(uint64_t tiles, uint32_t ranges)
{
	return tiles < ranges ? (uint32_t)tiles : ranges;
}

/* Where range @n of @ranges begins, in tiles; it ends where the next one begins. */
static inline ATTENTION_BOTH uint64_t attention_range_begin(
	uint64_t tiles, uint32_t ranges, uint32_t n)
{
	return tiles * n / ranges;
}

/* The range in which @tile lies: the last one that begins at or before it. */
static inline ATTENTION_BOTH uint32_t attention_range_of(
	uint64_t tiles, uint32_t ranges, uint64_t tile)
{
	return (uint32_t)(((tile + 1) * ranges - 1) / tiles);
}

/*
 * One warp works on one head of one range; a head here is a KV head with ATTENTION_GROUP of its
 * query heads (a larger group is several heads). A block has @block_heads times @ways warps:
 * neighbouring heads of the same range, since their bytes are neighbours, and @ways ranges.
 */
struct attention_decode_args {
	struct attention_kv kv;
	uint64_t query, query_stride, lengths;
	struct attention_part slots; /* [ranges + sequences], sequences of part, in its form */
	uint32_t sequences, query_heads, kv_heads, head_size, dtype;
	uint32_t slices; /* heads that share a KV head */
	uint32_t ranges, block_heads, ways;
	float scale;
};

/* One block for each query head of each sequence. */
struct attention_gather_args {
	uint64_t lengths;
	struct attention_part slots;
	uint64_t output, output_stride;
	struct attention_part part;
	uint32_t sequences, query_heads, head_size, dtype, ranges;
};

struct attention_merge_args {
	struct attention_part parts[ATTENTION_PARTS_MAX];
	uint64_t output, output_stride;
	struct attention_part part;
	uint32_t count, query_heads, head_size, dtype, sequences;
};

/* The host side of the three kernels (attention_reference.c). */
void attention_decode_reference(const void *args);
void attention_gather_reference(const void *args);
void attention_merge_reference(const void *args);

#endif
