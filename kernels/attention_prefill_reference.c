/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prefill attention as plain as it can be written: one row after the other, in double. It reads
 * memory through the same addresses as the kernels, so that views, tables and strides are held to
 * the same contract, and rounds once, where a result is stored.
 */
#include <math.h>

#include "base/check.h"
#include "kernels/attention_prefill_args.h"
#include "kernels/half.h"

enum { HEAD_SIZE_MAX = 128 };

static const void *memory_at(uint64_t at)
{
	return (const void *)(uintptr_t)at;
}

static void read_row(enum attention_dtype dtype, uint64_t at, uint32_t head_size, float *row)
{
	const uint16_t *codes = memory_at(at);

	for (uint32_t i = 0; i < head_size; i++)
		row[i] = dtype == ATTENTION_BF16 ? half_bf16_to_float(codes[i])
						 : half_fp16_to_float(codes[i]);
}

/* Where K of @token of @sequence stands, of KV head @head (attention.h). */
static uint64_t key_at(
	const struct attention_kv *kv, uint32_t sequence, uint32_t token, uint32_t head)
{
	uint32_t number = token / kv->block_tokens;
	uint64_t block;

	if (kv->table) {
		const int32_t *table = memory_at(kv->table);
		size_t row = (size_t)sequence * kv->table_stride;

		block = kv->base + (uint64_t)(table[row + number] * kv->block_stride);
	} else {
		const uint64_t *bases = memory_at(kv->bases);

		block = kv->base + bases[sequence] + (uint64_t)(number * kv->block_stride);
	}
	return block +
	       (uint64_t)(token % kv->block_tokens * kv->token_stride + head * kv->head_stride);
}

struct row {
	uint32_t sequence, head, seen; /* tokens 0 up to but not @seen */
	uint64_t token;		       /* of the batch */
};

/* Softmax(scale q.k) v over the tokens seen, with a running maximum. Returns the lse. */
static double attend(const struct attention_prefill *prefill, struct row row, double *out)
{
	const struct attention_shape *shape = &prefill->shape;
	uint32_t size = shape->head_size;
	uint32_t kv_head = row.head / (shape->query_heads / shape->kv_heads);
	float query[HEAD_SIZE_MAX], other[HEAD_SIZE_MAX];
	double top = -INFINITY, sum = 0;

	for (uint32_t i = 0; i < size; i++)
		out[i] = 0;
	read_row(shape->dtype,
		prefill->query + row.token * prefill->query_stride + (uint64_t)row.head * size * 2,
		size, query);
	for (uint32_t token = 0; token < row.seen; token++) {
		uint64_t at = key_at(&prefill->kv, row.sequence, token, kv_head);
		double score = 0, weight, shrink;

		read_row(shape->dtype, at, size, other);
		for (uint32_t i = 0; i < size; i++)
			score += (double)query[i] * other[i];
		score *= prefill->scale;
		shrink = score > top ? exp(top - score) : 1;
		top = score > top ? score : top;
		weight = exp(score - top);
		sum = sum * shrink + weight;
		read_row(shape->dtype, at + (uint64_t)prefill->kv.value_offset, size, other);
		for (uint32_t i = 0; i < size; i++)
			out[i] = out[i] * shrink + weight * other[i];
	}
	if (!row.seen)
		return -INFINITY;
	for (uint32_t i = 0; i < size; i++)
		out[i] /= sum;
	return top + log(sum);
}

static void store(
	const struct attention_prefill *prefill, struct row row, const double *out, double lse)
{
	const struct attention_shape *shape = &prefill->shape;
	size_t place = row.token * shape->query_heads + row.head;
	uint16_t *codes =
		(uint16_t *)(uintptr_t)(prefill->output + row.token * prefill->output_stride +
					(uint64_t)row.head * shape->head_size * 2);
	float *values = (float *)(uintptr_t)prefill->part.values + place * shape->head_size;

	for (uint32_t i = 0; i < shape->head_size; i++) {
		if (prefill->output)
			codes[i] = shape->dtype == ATTENTION_BF16
					   ? half_bf16_from_float((float)out[i])
					   : half_fp16_from_float((float)out[i]);
		if (prefill->part.values)
			values[i] = (float)out[i];
	}
	if (prefill->part.lse)
		((float *)(uintptr_t)prefill->part.lse)[place] = (float)lse;
}

void attention_prefill_reference(const void *args)
{
	const struct attention_prefill *prefill =
		&((const struct attention_prefill_args *)args)->prefill;
	const int32_t *starts = memory_at(prefill->starts);
	const int32_t *lengths = memory_at(prefill->lengths);
	double out[HEAD_SIZE_MAX];

	SKEP_CHECK(prefill->shape.head_size <= HEAD_SIZE_MAX);
	for (uint32_t s = 0; s < prefill->shape.sequences; s++) {
		int64_t queries = starts[s + 1] - starts[s];
		int64_t computed =
			queries < prefill->queries_max ? queries : (int64_t)prefill->queries_max;

		for (int64_t i = 0; i < computed; i++) {
			int64_t seen = prefill->whole ? lengths[s] : lengths[s] - queries + i + 1;

			for (uint32_t head = 0; head < prefill->shape.query_heads; head++) {
				struct row row = {s, head, seen > 0 ? (uint32_t)seen : 0,
					(uint64_t)(starts[s] + i)};

				store(prefill, row, out, attend(prefill, row, out));
			}
		}
	}
}
