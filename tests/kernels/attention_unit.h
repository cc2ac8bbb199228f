/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_KERNELS_ATTENTION_UNIT_H
#define SKEP_TESTS_KERNELS_ATTENTION_UNIT_H

#include <math.h>
#include <stdbool.h>

#include "kernels/attention.h"
#include "kernels/gpu.h"
#include "kernels/half.h"
#include "tests/base/unit.h"

/*
 * A batch in every layout that engines have, and what attention over it gives by a plain loop in
 * double precision over the logical tokens. Device memory that belongs to no attended token is NaN,
 * and so are results before a run: whatever reads too far or writes too little shows.
 */
enum kv_layout {
	TOKEN_MAJOR,  /* contiguous; token, layer, K/V, head */
	LAYER_MAJOR,  /* contiguous blocks of 16; layer, K/V, token, head */
	PAGED_TOKENS, /* pool of K, pool of V: block, token, head */
	PAGED_HEADS,  /* block, K/V, head, token */
	PAGED_ARENA,  /* blocks as in TOKEN_MAJOR, by table */
	KV_LAYOUTS
};

#define BATCH_LAYERS 3
#define BATCH_LAYER  1 /* the one looked at */

struct batch {
	struct attention_shape shape;
	enum kv_layout layout;
	uint32_t block_tokens, blocks_max, pool_blocks; /* a sequence; of all */
	int32_t *lengths;
	int32_t *table;		 /* [sequences][blocks_max], or the number in a row if contiguous */
	uint16_t *keys, *values; /* [sequences][tokens_max][kv_heads][head_size], logical */
	uint16_t *query;	 /* [sequences][query_heads][head_size] */
	uint32_t tokens_max;
	size_t pool_bytes;
	/* on the device */
	uint64_t pool, queries, bases, tables, lengths_at;
	struct attention_kv kv;
};

static inline float code_float(enum attention_dtype dtype, uint16_t code)
{
	return dtype == ATTENTION_BF16 ? half_bf16_to_float(code) : half_fp16_to_float(code);
}

static inline uint16_t float_code(enum attention_dtype dtype, float value)
{
	return dtype == ATTENTION_BF16 ? half_bf16_from_float(value) : half_fp16_from_float(value);
}

static inline void *unit_memory(size_t bytes)
{
	void *memory = calloc(1, bytes ? bytes : 1);

	REQUIRE(memory);
	return memory;
}

static inline uint64_t unit_upload(
	struct gpu *gpu, struct gpu_stream *stream, const void *from, size_t bytes)
{
	uint64_t at;

	REQUIRE_EQ(gpu_alloc(gpu, bytes ? bytes : 1, &at), 0);
	REQUIRE_EQ(gpu_copy_in(stream, at, from, bytes), 0);
	REQUIRE_EQ(gpu_stream_sync(stream), 0);
	return at;
}

/* The strides of the layout; bases and pool are filled in later. */
static inline void batch_strides(struct batch *batch)
{
	int64_t row = batch->shape.head_size * 2, token = row * batch->shape.kv_heads;
	struct attention_kv *kv = &batch->kv;

	kv->block_tokens = batch->block_tokens;
	kv->table_stride = batch->blocks_max;
	kv->head_stride = row;
	switch (batch->layout) {
	case TOKEN_MAJOR:
	case PAGED_ARENA:
		kv->token_stride = BATCH_LAYERS * 2 * token;
		kv->block_stride = batch->block_tokens * kv->token_stride;
		kv->value_offset = token;
		break;
	case LAYER_MAJOR:
		kv->token_stride = token;
		kv->block_stride = BATCH_LAYERS * 2 * batch->block_tokens * token;
		kv->value_offset = batch->block_tokens * token;
		break;
	case PAGED_TOKENS:
		kv->token_stride = token;
		kv->block_stride = batch->block_tokens * token;
		kv->value_offset = batch->pool_blocks * kv->block_stride;
		break;
	default:
		kv->token_stride = row;
		kv->head_stride = batch->block_tokens * row;
		kv->block_stride = 2 * batch->block_tokens * token;
		kv->value_offset = batch->block_tokens * token;
	}
}

/* Bytes from the pool's start to K of block 0, token 0, head 0. */
static inline size_t batch_start(const struct batch *batch)
{
	size_t token = (size_t)batch->shape.head_size * 2 * batch->shape.kv_heads;

	if (batch->layout == TOKEN_MAJOR || batch->layout == PAGED_ARENA)
		return BATCH_LAYER * 2 * token;
	if (batch->layout == LAYER_MAJOR)
		return BATCH_LAYER * 2 * batch->block_tokens * token;
	return 0;
}

static inline bool batch_paged(const struct batch *batch)
{
	return batch->layout >= PAGED_TOKENS;
}

static inline size_t logical_at(
	const struct batch *batch, uint32_t sequence, uint32_t token, uint32_t head)
{
	return (((size_t)sequence * batch->tokens_max + token) * batch->shape.kv_heads + head) *
	       batch->shape.head_size;
}

/* The pool's bytes as the device shall have them. */
static inline unsigned char *batch_image(const struct batch *batch)
{
	const struct attention_shape *shape = &batch->shape;
	unsigned char *image = unit_memory(batch->pool_bytes);

	memset(image, 0xff, batch->pool_bytes); /* NaN in both types */
	for (uint32_t s = 0; s < shape->sequences; s++)
		for (uint32_t t = 0; t < (uint32_t)batch->lengths[s]; t++)
			for (uint32_t h = 0; h < shape->kv_heads; h++) {
				int64_t block = batch->table[s * batch->blocks_max +
							     t / batch->block_tokens];
				int64_t at = (int64_t)batch_start(batch) +
					     block * batch->kv.block_stride +
					     t % batch->block_tokens * batch->kv.token_stride +
					     h * batch->kv.head_stride;
				size_t from = logical_at(batch, s, t, h);

				memcpy(image + at, batch->keys + from, shape->head_size * 2);
				memcpy(image + at + batch->kv.value_offset, batch->values + from,
					shape->head_size * 2);
			}
	return image;
}

/* Blocks of a sequence in a row, or scattered over the pool. */
static inline void batch_place(struct batch *batch, uint64_t *state)
{
	uint32_t sequences = batch->shape.sequences;

	batch->pool_blocks = sequences * batch->blocks_max;
	batch->table = unit_memory(batch->pool_blocks * sizeof(int32_t));
	for (uint32_t n = 0; n < batch->pool_blocks; n++)
		batch->table[n] = (int32_t)n;
	for (uint32_t n = batch->pool_blocks; batch_paged(batch) && n > 1; n--) {
		uint32_t other = unit_random(state, n);
		int32_t block = batch->table[n - 1];

		batch->table[n - 1] = batch->table[other];
		batch->table[other] = block;
	}
}

static inline void codes_fill(
	uint16_t *codes, size_t count, const struct batch *batch, float greatest, uint64_t *state)
{
	for (size_t n = 0; n < count; n++) {
		float share = (float)unit_random(state, 1 << 24) / (float)(1 << 23) - 1;

		codes[n] = float_code(batch->shape.dtype, share * greatest);
	}
}

/*
 * Makes the batch of @shape, @layout, @block_tokens and @lengths (copied) and puts it on the
 * device. Queries reach up to @sharpness, keys and values up to 1.
 */
static inline void batch_create(struct batch *batch, struct gpu *gpu, struct gpu_stream *stream,
	const int32_t *lengths, float sharpness, uint64_t *state)
{
	const struct attention_shape *shape = &batch->shape;
	size_t bytes = shape->sequences * sizeof(int32_t), tokens;
	uint64_t *bases = unit_memory(shape->sequences * sizeof(uint64_t));
	unsigned char *image;

	batch->lengths = unit_memory(bytes);
	memcpy(batch->lengths, lengths, bytes);
	batch->tokens_max = 1;
	for (uint32_t s = 0; s < shape->sequences; s++)
		batch->tokens_max = MAX_OF(batch->tokens_max, (uint32_t)lengths[s]);
	batch->blocks_max = (batch->tokens_max + batch->block_tokens - 1) / batch->block_tokens;
	batch_place(batch, state);
	batch_strides(batch);
	tokens = (size_t)shape->sequences * batch->tokens_max * shape->kv_heads * shape->head_size;
	batch->keys = unit_memory(tokens * 2);
	batch->values = unit_memory(tokens * 2);
	codes_fill(batch->keys, tokens, batch, 1, state);
	codes_fill(batch->values, tokens, batch, 1, state);
	tokens = (size_t)shape->sequences * shape->query_heads * shape->head_size;
	batch->query = unit_memory(tokens * 2);
	codes_fill(batch->query, tokens, batch, sharpness, state);

	batch->pool_bytes = (size_t)batch->pool_blocks * (size_t)batch->kv.block_stride;
	if (batch->layout == PAGED_TOKENS)
		batch->pool_bytes *= 2;
	image = batch_image(batch);
	batch->pool = unit_upload(gpu, stream, image, batch->pool_bytes);
	free(image);
	batch->queries = unit_upload(gpu, stream, batch->query, tokens * 2);
	batch->lengths_at = unit_upload(gpu, stream, batch->lengths, bytes);
	for (uint32_t s = 0; s < shape->sequences; s++)
		bases[s] = batch->pool +
			   (uint64_t)s * batch->blocks_max * (uint64_t)batch->kv.block_stride;
	batch->bases = unit_upload(gpu, stream, bases, shape->sequences * sizeof(uint64_t));
	/* What stands behind a sequence's last block must not be followed. */
	for (uint32_t s = 0; s < shape->sequences; s++)
		for (uint32_t n = ((uint32_t)lengths[s] + batch->block_tokens - 1) /
				  batch->block_tokens;
			n < batch->blocks_max; n++)
			batch->table[s * batch->blocks_max + n] = INT32_MAX;
	batch->tables =
		unit_upload(gpu, stream, batch->table, batch->pool_blocks * sizeof(int32_t));
	if (batch_paged(batch)) {
		batch->kv.table = batch->tables;
		batch->kv.base = batch->pool + batch_start(batch);
	} else {
		batch->kv.bases = batch->bases;
		batch->kv.base = batch_start(batch);
	}
	free(bases);
}

static inline void batch_destroy(struct batch *batch, struct gpu *gpu)
{
	const uint64_t places[] = {
		batch->pool, batch->queries, batch->bases, batch->tables, batch->lengths_at};

	for (size_t n = 0; n < ARRAY_COUNT(places); n++)
		gpu_free(gpu, places[n]);
	free(batch->lengths);
	free(batch->table);
	free(batch->keys);
	free(batch->values);
	free(batch->query);
}

/*
 * One row of the answer: values, the logarithm of the sum of weights, and the same mean over the
 * magnitudes of V, which errors of weights are relative to.
 */
struct answer {
	double values[128], sizes[128], lse;
};

static inline void answer_row(const struct batch *batch, uint32_t sequence, uint32_t head,
	double scale, double *scores, struct answer *answer)
{
	const struct attention_shape *shape = &batch->shape;
	uint32_t size = shape->head_size, kv_head = head / (shape->query_heads / shape->kv_heads);
	uint32_t tokens = (uint32_t)batch->lengths[sequence];
	const uint16_t *query =
		batch->query + ((size_t)sequence * shape->query_heads + head) * size;
	double top = -INFINITY, total = 0;

	for (uint32_t t = 0; t < tokens; t++) {
		const uint16_t *key = batch->keys + logical_at(batch, sequence, t, kv_head);

		scores[t] = 0;
		for (uint32_t n = 0; n < size; n++)
			scores[t] += (double)code_float(shape->dtype, query[n]) *
				     (double)code_float(shape->dtype, key[n]);
		scores[t] *= scale;
		top = fmax(top, scores[t]);
	}
	for (uint32_t t = 0; t < tokens; t++) {
		const uint16_t *value = batch->values + logical_at(batch, sequence, t, kv_head);
		double weight = exp(scores[t] - top);

		total += weight;
		for (uint32_t n = 0; n < size; n++) {
			double is = (double)code_float(shape->dtype, value[n]);

			answer->values[n] += weight * is;
			answer->sizes[n] += weight * fabs(is);
		}
	}
	for (uint32_t n = 0; n < size && tokens; n++) {
		answer->values[n] /= total;
		answer->sizes[n] /= total;
	}
	answer->lse = tokens ? top + log(total) : -INFINITY;
}

/* By sequence and query head, with the usual scale. The caller frees. */
static inline struct answer *batch_answers(const struct batch *batch)
{
	const struct attention_shape *shape = &batch->shape;
	struct answer *answers =
		unit_memory((size_t)shape->sequences * shape->query_heads * sizeof(*answers));
	double *scores = unit_memory(batch->tokens_max * sizeof(double));
	double scale = (double)(1 / sqrtf((float)shape->head_size));

	for (uint32_t s = 0; s < shape->sequences; s++)
		for (uint32_t h = 0; h < shape->query_heads; h++)
			answer_row(batch, s, h, scale, scores,
				&answers[(size_t)s * shape->query_heads + h]);
	free(scores);
	return answers;
}

#endif
