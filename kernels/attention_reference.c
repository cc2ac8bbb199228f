/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the attention kernels compute, one head and one token after the other: the host side of each
 * kernel and what the device is compared with. Plain softmax in two passes over the scores, in
 * double precision up to what is stored.
 */
#include <math.h>

#include "kernels/attention_decode.h"
#include "kernels/half.h"

static double element(uint64_t at, uint32_t index, uint32_t dtype)
{
	uint16_t code = ((const uint16_t *)(uintptr_t)at)[index];

	return (double)(dtype == ATTENTION_BF16 ? half_bf16_to_float(code)
						: half_fp16_to_float(code));
}

static uint16_t code_of(double value, uint32_t dtype)
{
	return dtype == ATTENTION_BF16 ? half_bf16_from_float((float)value)
				       : half_fp16_from_float((float)value);
}

/* The greater one; NaN where either is. */
static double greater(double a, double b)
{
	return a >= b || isnan(a) ? a : b;
}

/* Where K of a token lies for one head. */
static uint64_t key_at(
	const struct attention_kv *kv, uint32_t sequence, uint32_t token, uint32_t head)
{
	uint32_t n = token / kv->block_tokens;
	uint64_t block;

	if (kv->table) {
		const int32_t *table = (const int32_t *)(uintptr_t)kv->table;

		block = kv->base + (uint64_t)(table[(size_t)sequence * kv->table_stride + n] *
					      kv->block_stride);
	} else {
		block = kv->base + ((const uint64_t *)(uintptr_t)kv->bases)[sequence] +
			(uint64_t)(n * kv->block_stride);
	}
	return block + (uint64_t)(token % kv->block_tokens * kv->token_stride) +
	       (uint64_t)(head * kv->head_stride);
}

/* The part of one query head over tokens [first, last) of a sequence, into row @row of @part. */
static void row_attend(const struct attention_decode_args *args, uint32_t sequence, uint32_t head,
	uint32_t first, uint32_t last, size_t row)
{
	uint32_t kv_head = head / (args->query_heads / args->kv_heads), size = args->head_size;
	uint64_t query = args->query + sequence * args->query_stride + (uint64_t)head * size * 2;
	float *values = (float *)(uintptr_t)args->slots.values + row * size;
	double sums[128] = {0}, top = -INFINITY, total = 0;

	for (int pass = 0; pass < 2; pass++) {
		for (uint32_t token = first; token < last; token++) {
			uint64_t key = key_at(&args->kv, sequence, token, kv_head);
			double score = 0, weight;

			for (uint32_t n = 0; n < size; n++)
				score += element(query, n, args->dtype) *
					 element(key, n, args->dtype);
			score *= (double)args->scale;
			if (pass == 0) {
				top = greater(top, score);
				continue;
			}
			weight = exp(score - top);
			total += weight;
			for (uint32_t n = 0; n < size; n++)
				sums[n] += weight * element(key + (uint64_t)args->kv.value_offset,
							    n, args->dtype);
		}
	}
	for (uint32_t n = 0; n < size; n++)
		values[n] = total == 0 ? 0 : (float)(sums[n] / total);
	((float *)(uintptr_t)args->slots.lse)[row] =
		total == 0 ? -INFINITY : (float)(top + log(total));
}

static uint64_t tiles_of(const int32_t *lengths, uint32_t sequences)
{
	uint64_t tiles = 0;

	for (uint32_t n = 0; n < sequences; n++)
		tiles += attention_tiles(lengths[n]);
	return tiles;
}

void attention_decode_reference(const void *from)
{
	const struct attention_decode_args *args = from;
	const int32_t *lengths = (const int32_t *)(uintptr_t)args->lengths;
	uint64_t tiles = tiles_of(lengths, args->sequences), begin = 0;
	uint32_t ranges = attention_ranges(tiles, args->ranges);

	for (uint32_t n = 0; n < args->sequences; n++) {
		uint64_t end = begin + attention_tiles(lengths[n]);

		for (uint64_t tile = begin; tile < end;) {
			uint32_t range = attention_range_of(tiles, ranges, tile);
			uint64_t next = attention_range_begin(tiles, ranges, range + 1);
			uint32_t first = (uint32_t)(tile - begin) * ATTENTION_TILE, last;

			next = next < end ? next : end;
			last = (uint32_t)(next - begin) * ATTENTION_TILE;
			if (last > (uint32_t)lengths[n])
				last = (uint32_t)lengths[n];
			for (uint32_t head = 0; head < args->query_heads; head++)
				row_attend(args, n, head, first, last,
					(size_t)(range + n) * args->query_heads + head);
			tile = next;
		}
		begin = end;
	}
}

/* Where one row of a result goes. */
struct target {
	uint64_t output, output_stride;
	struct attention_part part;
	uint32_t query_heads, head_size, dtype;
};

/*
 * Merges row @first, @first + @step, … (@count of them) of @slots, or, where @list is given, row
 * @first of each of its parts. Weights are relative to the greatest logarithm.
 */
struct sources {
	const struct attention_part *list;
	struct attention_part slots;
	size_t first, step;
	uint32_t count;
};

static const float *source_values(const struct sources *sources, uint32_t n, uint32_t head_size)
{
	if (sources->list)
		return (const float *)(uintptr_t)sources->list[n].values +
		       sources->first * head_size;
	return (const float *)(uintptr_t)sources->slots.values +
	       (sources->first + n * sources->step) * head_size;
}

static double source_lse(const struct sources *sources, uint32_t n)
{
	if (sources->list)
		return (double)((const float *)(uintptr_t)sources->list[n].lse)[sources->first];
	return (double)((
		const float *)(uintptr_t)sources->slots.lse)[sources->first + n * sources->step];
}

static void row_merge(
	const struct sources *sources, const struct target *to, uint32_t sequence, uint32_t head)
{
	size_t row = (size_t)sequence * to->query_heads + head;
	double sums[128] = {0}, top = -INFINITY, total = 0;

	for (uint32_t n = 0; n < sources->count; n++)
		top = greater(top, source_lse(sources, n));
	for (uint32_t n = 0; n < sources->count && top != -INFINITY; n++) {
		const float *values = source_values(sources, n, to->head_size);
		double weight = exp(source_lse(sources, n) - top);

		total += weight;
		for (uint32_t column = 0; column < to->head_size; column++)
			sums[column] += weight * (double)values[column];
	}
	for (uint32_t column = 0; column < to->head_size; column++) {
		double value = total == 0 ? 0 : sums[column] / total;

		if (to->output)
			((uint16_t *)(uintptr_t)(to->output + sequence * to->output_stride))
				[(size_t)head * to->head_size + column] = code_of(value, to->dtype);
		if (to->part.values)
			((float *)(uintptr_t)to->part.values)[row * to->head_size + column] =
				(float)value;
	}
	if (to->part.values)
		((float *)(uintptr_t)to->part.lse)[row] =
			total == 0 ? -INFINITY : (float)(top + log(total));
}

void attention_gather_reference(const void *from)
{
	const struct attention_gather_args *args = from;
	const int32_t *lengths = (const int32_t *)(uintptr_t)args->lengths;
	struct target to = {args->output, args->output_stride, args->part, args->query_heads,
		args->head_size, args->dtype};
	uint64_t tiles = tiles_of(lengths, args->sequences), begin = 0;
	uint32_t ranges = attention_ranges(tiles, args->ranges);

	for (uint32_t n = 0; n < args->sequences; n++) {
		uint64_t own = attention_tiles(lengths[n]);

		for (uint32_t head = 0; head < args->query_heads; head++) {
			struct sources sources = {NULL, args->slots, 0, args->query_heads, 0};

			if (own) {
				uint32_t first = attention_range_of(tiles, ranges, begin);
				uint32_t last = attention_range_of(tiles, ranges, begin + own - 1);

				sources.first = (size_t)(first + n) * args->query_heads + head;
				sources.count = last - first + 1;
			}
			row_merge(&sources, &to, n, head);
		}
		begin += own;
	}
}

void attention_merge_reference(const void *from)
{
	const struct attention_merge_args *args = from;
	struct target to = {args->output, args->output_stride, args->part, args->query_heads,
		args->head_size, args->dtype};

	for (uint32_t n = 0; n < args->sequences; n++)
		for (uint32_t head = 0; head < args->query_heads; head++) {
			struct sources sources = {args->parts, {0, 0},
				(size_t)n * args->query_heads + head, 0, args->count};

			row_merge(&sources, &to, n, head);
		}
}
