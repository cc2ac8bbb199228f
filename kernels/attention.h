/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_ATTENTION_H
#define SKEP_KERNELS_ATTENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Attention over KV that lies where the engine keeps it: decode (one query token a sequence), and
 * the merge of parts. Plain C, included by CUDA C++ as well. Addresses are those of the device,
 * strides are bytes. All matrices hold elements of one type; arithmetic inside is fp32, products of
 * two elements are exact.
 *
 * Grouped queries: query head h reads KV head h / (query_heads / kv_heads).
 */
enum attention_dtype { ATTENTION_BF16, ATTENTION_FP16 };

/* @kv_heads divides @query_heads. @head_size is 64 or 128. */
struct attention_shape {
	uint32_t sequences, query_heads, kv_heads, head_size;
	enum attention_dtype dtype;
};

/*
 * Where K and V of one layer lie. Tokens stand in blocks of @block_tokens (a power of two, 16 at
 * least), blocks either one after the other or by a table:
 *
 *	contiguous (@table is 0): block(s, n) = base + bases[s] + n * block_stride
 *	paged:                    block(s, n) = base + table[s * table_stride + n] * block_stride
 *
 *	K of (sequence s, token t, head h) = block(s, t / block_tokens) +
 *		(t % block_tokens) * token_stride + h * head_stride, V at value_offset from it
 *
 * The head_size elements there are dense. Everything is a multiple of 16 bytes. Contiguous memory
 * with one token stride throughout has block_stride = block_tokens * token_stride. Where the layers
 * of a sequence lie at fixed distances, one array of bases serves them all and @base tells the
 * layer: a launch then finds the array in the cache. Nothing is read of tokens at or behind a
 * sequence's length, nor of table entries behind its last block.
 */
struct attention_kv {
	uint64_t bases; /* contiguous: uint64_t[sequences] in device memory */
	uint64_t base;	/* contiguous: added to all of them; paged: where block 0 begins */
	uint64_t table; /* paged: int32_t[sequences][table_stride] in device memory */
	uint32_t table_stride;
	uint32_t block_tokens;
	int64_t block_stride, token_stride, head_stride, value_offset;
};

/* What decode and prefill both ask of a shape: whole groups, sizes and types that have kernels. */
static inline bool attention_shape_good(const struct attention_shape *shape)
{
	return shape->sequences && shape->kv_heads && shape->query_heads &&
	       shape->query_heads % shape->kv_heads == 0 &&
	       (shape->head_size == 64 || shape->head_size == 128) &&
	       (shape->dtype == ATTENTION_BF16 || shape->dtype == ATTENTION_FP16);
}

/* … and of KV: everything that is loaded in pieces of 16 bytes lies on 16 bytes. */
static inline bool attention_kv_good(const struct attention_kv *kv)
{
	uint64_t strides = (uint64_t)(kv->block_stride | kv->token_stride | kv->head_stride |
				      kv->value_offset);

	if (kv->block_tokens < 16 || (kv->block_tokens & (kv->block_tokens - 1)))
		return false;
	if (kv->token_stride < INT32_MIN || kv->token_stride > INT32_MAX)
		return false;
	if (kv->table ? kv->table % 4 : !kv->bases || kv->bases % 8)
		return false;
	return strides % 16 == 0 && kv->base % 16 == 0;
}

/*
 * What attention over some of a context gives: @values, float[sequences][query_heads][head_size],
 * each row already divided by its sum, and @lse, float[sequences][query_heads], the natural
 * logarithm of that sum of exp(scale * q.k). Over no tokens: zeros, and minus infinity. Parts over
 * disjoint sets of tokens merge into the part of their union, in any order and grouping. A NaN
 * among what is attended to makes the rows it touches NaN, in every part they are merged into.
 */
struct attention_part {
	uint64_t values, lse;
};

struct gpu;
struct gpu_info;
struct gpu_stream;

/*
 * One step of decode for a batch. @query is [sequences][query_heads][head_size], its sequences
 * @query_stride apart, so is @output; heads are dense. @lengths is int32_t[sequences] in device
 * memory, the tokens of each sequence that are attended to, 0 or more: the launch does not depend
 * on them, so a captured graph replays while contexts grow. The result goes to @output, to @part,
 * or to both; 0 leaves one out.
 * @workspace is scratch of attention_decode_workspace() bytes, on 256 bytes, that no other launch
 * in flight uses; it needs no preparation.
 */
struct attention_decode {
	struct attention_shape shape;
	struct attention_kv kv;
	uint64_t query, query_stride;
	uint64_t lengths;
	uint64_t output, output_stride;
	struct attention_part part;
	uint64_t workspace;
	float scale; /* of q.k before the softmax: usually 1 / sqrt(head_size) */
};

size_t attention_decode_workspace(const struct gpu_info *info, const struct attention_shape *shape);

/*
 * Submits the step to @stream. -EINVAL for a shape, stride or address that the above does not
 * allow; -ENOTSUP where a block cannot have the 96 KiB of shared memory that it takes; else what
 * gpu_launch() says. Does not block or allocate.
 */
int attention_decode(
	struct gpu *gpu, struct gpu_stream *stream, const struct attention_decode *decode);

/*
 * Merges @count parts (1 to ATTENTION_PARTS_MAX), for instance of a context of which one stretch
 * lies in this memory and another in that. The result goes to @output, to @part, or both; @part may
 * be one of @parts. Submits to @stream; -EINVAL, or what gpu_launch() says.
 */
#define ATTENTION_PARTS_MAX 32

struct attention_merge {
	struct attention_shape shape; /* kv_heads is not looked at */
	const struct attention_part *parts;
	uint32_t count;
	uint64_t output, output_stride;
	struct attention_part part;
};

int attention_merge(struct gpu_stream *stream, const struct attention_merge *merge);

#endif
