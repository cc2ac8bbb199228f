/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attention_decode_test [seed]: decode attention and the merge of parts are what a plain loop in
 * double precision says, over seeded shapes, layouts and lengths; on this machine, and on a GPU
 * where there is one.
 */
#include "tests/kernels/attention_unit.h"

#include <errno.h>

struct bench {
	struct gpu *gpu;
	struct gpu_stream *stream;
	uint64_t state;
	bool device;
};

/*
 * How far a result may be off. Values and logarithms of parts are stored as float: 2^-24 of their
 * size, and an error of a logarithm is one of the part's weight, relative to the mean of |V|. A
 * logarithm is at most the greatest score (here ≤ head_size * sharpness * scale) plus that of the
 * tokens. The device besides rounds every weight to the element type before it is multiplied with
 * V, half a unit in the last place: 2^-8 (bf16) or 2^-11 (fp16) of the mean of |V|, an upper bound
 * that random signs keep far away. fp16 weights below 2^-14 lose up to 2^-25 each, and the sum they
 * are divided by is 1 or more. A score sums head_size exact products in float: it is off by less
 * than head_size * 2^-24 of the greatest, and a weight is off by as much relatively; ex2.approx
 * adds 2^-22.
 */
struct tolerance {
	double of_sizes, absolute, lse;
};

static struct tolerance tolerance_for(
	const struct bench *bench, const struct batch *batch, double sharpness, double scale)
{
	double score = batch->shape.head_size * sharpness * scale;
	double logarithm = score + log(batch->tokens_max);
	struct tolerance tolerance = {
		ldexp(4 * (1 + logarithm), -24), ldexp(1, -24), ldexp(1, -18)};

	if (bench->device) {
		bool wide = batch->shape.dtype == ATTENTION_BF16;

		score *= ldexp(batch->shape.head_size, -24);
		tolerance.of_sizes += ldexp(1, wide ? -8 : -11) + 2 * score + ldexp(1, -20);
		tolerance.absolute += wide ? 0 : ldexp(batch->tokens_max, -25);
		tolerance.lse += score;
	}
	return tolerance;
}

/* What a launch fills: poisoned before. */
struct result {
	size_t rows, head_size;
	uint64_t output, values, lse;
	uint16_t *output_is;
	float *values_are, *lse_is;
};

#define ROW_GAP 32 /* bytes behind each sequence of the output, which stay as they are */

static size_t result_output_bytes(const struct batch *batch)
{
	return batch->shape.sequences *
	       ((size_t)batch->shape.query_heads * batch->shape.head_size * 2 + ROW_GAP);
}

static void result_create(struct result *result, struct bench *bench, const struct batch *batch)
{
	size_t bytes = result_output_bytes(batch);

	result->rows = (size_t)batch->shape.sequences * batch->shape.query_heads;
	result->head_size = batch->shape.head_size;
	result->output_is = unit_memory(bytes);
	result->values_are = unit_memory(result->rows * result->head_size * sizeof(float));
	result->lse_is = unit_memory(result->rows * sizeof(float));
	REQUIRE_EQ(gpu_alloc(bench->gpu, bytes, &result->output), 0);
	REQUIRE_EQ(gpu_alloc(bench->gpu, result->rows * result->head_size * sizeof(float),
			   &result->values),
		0);
	REQUIRE_EQ(gpu_alloc(bench->gpu, result->rows * sizeof(float), &result->lse), 0);
	REQUIRE_EQ(gpu_fill(bench->stream, result->output, 0xff, bytes), 0);
	REQUIRE_EQ(gpu_fill(bench->stream, result->values, 0xff,
			   result->rows * result->head_size * sizeof(float)),
		0);
	REQUIRE_EQ(gpu_fill(bench->stream, result->lse, 0xff, result->rows * sizeof(float)), 0);
}

static void result_fetch(struct result *result, struct bench *bench, const struct batch *batch)
{
	REQUIRE_EQ(gpu_copy_out(bench->stream, result->output_is, result->output,
			   result_output_bytes(batch)),
		0);
	REQUIRE_EQ(gpu_copy_out(bench->stream, result->values_are, result->values,
			   result->rows * result->head_size * sizeof(float)),
		0);
	REQUIRE_EQ(gpu_copy_out(bench->stream, result->lse_is, result->lse,
			   result->rows * sizeof(float)),
		0);
	REQUIRE_EQ(gpu_stream_sync(bench->stream), 0);
}

static void result_destroy(struct result *result, struct bench *bench)
{
	gpu_free(bench->gpu, result->output);
	gpu_free(bench->gpu, result->values);
	gpu_free(bench->gpu, result->lse);
	free(result->output_is);
	free(result->values_are);
	free(result->lse_is);
}

static void wrong(const struct batch *batch, uint32_t sequence, uint32_t head, const char *what,
	double is, double wanted)
{
	fprintf(stderr,
		"sequence %u (%d tokens), head %u: %s is %.9g, not %.9g; layout %d, blocks of %u, "
		"heads %u/%u of %u, dtype %d\n",
		sequence, batch->lengths[sequence], head, what, is, wanted, batch->layout,
		batch->block_tokens, batch->shape.query_heads, batch->shape.kv_heads,
		batch->shape.head_size, batch->shape.dtype);
	exit(1);
}

/* The part is within the tolerance; the output is the part rounded, and nothing but it. */
static void result_is_right(const struct result *result, const struct batch *batch,
	const struct answer *answers, const struct tolerance *allowed)
{
	size_t size = result->head_size;
	size_t stride = batch->shape.query_heads * size + ROW_GAP / 2;

	for (uint32_t s = 0; s < batch->shape.sequences; s++) {
		for (uint32_t h = 0; h < batch->shape.query_heads; h++) {
			size_t row = (size_t)s * batch->shape.query_heads + h;
			const struct answer *answer = &answers[row];
			double lse = answer->lse;
			double lse_is = (double)result->lse_is[row];

			if (!(lse_is == lse ||
				    fabs(lse_is - lse) <= allowed->lse * (1 + fabs(lse))))
				wrong(batch, s, h, "logarithm", lse_is, lse);
			for (size_t n = 0; n < size; n++) {
				float is = result->values_are[row * size + n];
				uint16_t code = result->output_is[s * stride + h * size + n];

				if (!(fabs((double)is - answer->values[n]) <=
					    allowed->of_sizes * answer->sizes[n] +
						    allowed->absolute))
					wrong(batch, s, h, "value", (double)is, answer->values[n]);
				if (code != float_code(batch->shape.dtype, is))
					wrong(batch, s, h, "output",
						(double)code_float(batch->shape.dtype, code),
						(double)is);
			}
		}
		for (size_t n = stride - ROW_GAP / 2; n < stride; n++)
			REQUIRE_EQ(result->output_is[s * stride + n], 0xffff);
	}
}

static struct attention_decode decode_of(const struct batch *batch, const struct result *result)
{
	const struct attention_shape *shape = &batch->shape;
	uint64_t row = (uint64_t)shape->query_heads * shape->head_size * 2;
	struct attention_decode decode = {.shape = *shape,
		.kv = batch->kv,
		.query = batch->queries,
		.query_stride = row,
		.lengths = batch->lengths_at,
		.output = result->output,
		.output_stride = row + ROW_GAP,
		.part = {result->values, result->lse},
		.scale = 1 / sqrtf((float)shape->head_size)};

	return decode;
}

static void decode_is_right(struct bench *bench, const struct batch *batch, double sharpness)
{
	struct answer *answers = batch_answers(batch);
	size_t bytes = attention_decode_workspace(gpu_info(bench->gpu), &batch->shape);
	struct attention_decode decode;
	struct tolerance allowed;
	struct result result;

	result_create(&result, bench, batch);
	decode = decode_of(batch, &result);
	REQUIRE_EQ(gpu_alloc(bench->gpu, bytes, &decode.workspace), 0);
	REQUIRE_EQ(gpu_fill(bench->stream, decode.workspace, 0xff, bytes), 0);
	REQUIRE_EQ(attention_decode(bench->gpu, bench->stream, &decode), 0);
	result_fetch(&result, bench, batch);
	allowed = tolerance_for(bench, batch, sharpness, (double)decode.scale);
	result_is_right(&result, batch, answers, &allowed);
	gpu_free(bench->gpu, decode.workspace);
	result_destroy(&result, bench);
	free(answers);
}

/* ---------------------------------------------------------------------------------- batches */

static const uint32_t heads[][2] = {{32, 8}, {32, 4}, {56, 8}, {7, 7}, {12, 1}, {20, 2}, {1, 1}};
static const int32_t lengths_edge[] = {0, 1, 15, 16, 17, 31, 33, 255, 256, 257};

/* A seeded batch; lengths up to @tokens_max, some of them 0, some at the edges of tiles. */
static float batch_draw(struct batch *batch, struct bench *bench, uint32_t tokens_max)
{
	int32_t lengths[8];
	uint32_t heads_kind = unit_random(&bench->state, ARRAY_COUNT(heads));
	float sharpness = unit_random(&bench->state, 2) ? 1 : 8;

	memset(batch, 0, sizeof(*batch));
	batch->shape.sequences = 1 + unit_random(&bench->state, ARRAY_COUNT(lengths));
	batch->shape.query_heads = heads[heads_kind][0];
	batch->shape.kv_heads = heads[heads_kind][1];
	batch->shape.head_size = unit_random(&bench->state, 3) ? 128 : 64;
	batch->shape.dtype = unit_random(&bench->state, 2) ? ATTENTION_BF16 : ATTENTION_FP16;
	batch->layout = (enum kv_layout)unit_random(&bench->state, KV_LAYOUTS);
	batch->block_tokens = 16u << unit_random(&bench->state, 5);
	for (uint32_t n = 0; n < batch->shape.sequences; n++)
		lengths[n] = unit_random(&bench->state, 2)
				     ? lengths_edge[unit_random(
					       &bench->state, ARRAY_COUNT(lengths_edge))]
				     : (int32_t)unit_random(&bench->state, tokens_max + 1);
	batch_create(batch, bench->gpu, bench->stream, lengths, sharpness, &bench->state);
	return sharpness;
}

static void seeded_batches_are_right(struct bench *bench, int count)
{
	for (int n = 0; n < count; n++) {
		struct batch batch;
		float sharpness = batch_draw(&batch, bench, n % 8 ? 150 : 700);

		decode_is_right(bench, &batch, (double)sharpness);
		batch_destroy(&batch, bench->gpu);
	}
}

/* A whole batch without a token, and one sequence far longer than all others together. */
static void skewed_batches_are_right(struct bench *bench)
{
	static const int32_t none[4] = {0}, skewed[] = {3, 0, 2500, 17, 1};

	for (int n = 0; n < 2; n++) {
		struct batch batch = {.shape = {n ? 5 : 4, 8, 2, 128, ATTENTION_BF16},
			.layout = n ? PAGED_TOKENS : TOKEN_MAJOR,
			.block_tokens = 16};

		batch_create(
			&batch, bench->gpu, bench->stream, n ? skewed : none, 4, &bench->state);
		decode_is_right(bench, &batch, 4);
		batch_destroy(&batch, bench->gpu);
	}
}

/* Enough tokens for many tiles a range, in each layout. */
static void long_contexts_are_right(struct bench *bench)
{
	static const int32_t lengths[] = {900, 1, 0, 333, 4096};

	for (int layout = 0; layout < KV_LAYOUTS; layout++) {
		struct batch batch = {.shape = {5, 32, 8, 128, ATTENTION_BF16},
			.layout = (enum kv_layout)layout,
			.block_tokens = 16};

		/* The plain loop is what takes time here. */
		batch.shape.sequences = layout == PAGED_TOKENS && bench->device ? 5 : 4;
		batch_create(&batch, bench->gpu, bench->stream, lengths, 2, &bench->state);
		decode_is_right(bench, &batch, 2);
		batch_destroy(&batch, bench->gpu);
	}
}

/* ------------------------------------------------------------------------------------ parts */

#define PIECES 3

/* The stretch of blocks from @first to @last of every context as a batch of its own. */
struct piece {
	struct attention_kv kv;
	uint64_t bases, lengths;
};

static void piece_create(struct piece *piece, struct bench *bench, const struct batch *batch,
	uint32_t first, uint32_t last)
{
	uint32_t sequences = batch->shape.sequences;
	uint64_t *bases = unit_memory(sequences * sizeof(*bases));
	int32_t *lengths = unit_memory(sequences * sizeof(*lengths));

	for (uint32_t s = 0; s < sequences; s++) {
		int32_t from = MIN_OF(batch->lengths[s], (int32_t)(first * batch->block_tokens));
		int32_t to = MIN_OF(batch->lengths[s], (int32_t)(last * batch->block_tokens));

		lengths[s] = to - from;
		bases[s] = batch->pool + ((uint64_t)s * batch->blocks_max + first) *
						 (uint64_t)batch->kv.block_stride;
	}
	piece->kv = batch->kv;
	piece->bases = unit_upload(bench->gpu, bench->stream, bases, sequences * sizeof(*bases));
	piece->lengths =
		unit_upload(bench->gpu, bench->stream, lengths, sequences * sizeof(*lengths));
	if (piece->kv.table)
		piece->kv.table += first * sizeof(int32_t);
	else
		piece->kv.bases = piece->bases;
	free(bases);
	free(lengths);
}

/* Parts of three stretches, one of them empty for some sequences, merge into the whole. */
static void parts_of_a_context_merge_into_it(struct bench *bench, int count)
{
	for (int round = 0; round < count; round++) {
		struct batch batch;
		float sharpness = batch_draw(&batch, bench, 400);
		uint32_t cut = unit_random(&bench->state, batch.blocks_max + 1);
		uint32_t cuts[PIECES + 1] = {0, cut / 2, cut, batch.blocks_max};
		struct attention_part parts[PIECES];
		struct result results[PIECES], result;
		struct attention_merge merge = {
			.shape = batch.shape, .parts = parts, .count = PIECES};
		struct attention_decode decode;
		struct tolerance allowed;
		struct answer *answers;

		for (int n = 0; n < PIECES; n++) {
			struct piece piece;

			piece_create(&piece, bench, &batch, cuts[n], cuts[n + 1]);
			result_create(&results[n], bench, &batch);
			parts[n] = (struct attention_part){results[n].values, results[n].lse};
			decode = decode_of(&batch, &results[n]);
			decode.kv = piece.kv;
			decode.lengths = piece.lengths;
			decode.output = 0;
			REQUIRE_EQ(gpu_alloc(bench->gpu,
					   attention_decode_workspace(
						   gpu_info(bench->gpu), &batch.shape),
					   &decode.workspace),
				0);
			REQUIRE_EQ(attention_decode(bench->gpu, bench->stream, &decode), 0);
			REQUIRE_EQ(gpu_stream_sync(bench->stream), 0);
			gpu_free(bench->gpu, decode.workspace);
			gpu_free(bench->gpu, piece.bases);
			gpu_free(bench->gpu, piece.lengths);
		}
		result_create(&result, bench, &batch);
		decode = decode_of(&batch, &result);
		merge.output = decode.output;
		merge.output_stride = decode.output_stride;
		merge.part = round % 2 ? decode.part : parts[1]; /* in place as well */
		REQUIRE_EQ(attention_merge(bench->stream, &merge), 0);
		if (round % 2 == 0) {
			size_t rows = result.rows * sizeof(float);

			REQUIRE_EQ(gpu_copy(bench->stream, result.values, parts[1].values,
					   rows * result.head_size),
				0);
			REQUIRE_EQ(gpu_copy(bench->stream, result.lse, parts[1].lse, rows), 0);
		}
		result_fetch(&result, bench, &batch);
		allowed = tolerance_for(bench, &batch, (double)sharpness, (double)decode.scale);
		allowed.of_sizes += ldexp(1, -22); /* once more stored and merged */
		answers = batch_answers(&batch);
		result_is_right(&result, &batch, answers, &allowed);
		free(answers);
		result_destroy(&result, bench);
		for (int n = 0; n < PIECES; n++)
			result_destroy(&results[n], bench);
		batch_destroy(&batch, bench->gpu);
	}
}

/* A NaN in one key, in a context that is cut into ranges: its rows are NaN, all others right. */
static void a_nan_reaches_its_rows(struct bench *bench)
{
	static const int32_t lengths[] = {300, 40};
	static const uint16_t nan = 0x7fff;
	struct batch batch = {.shape = {2, 8, 2, 128, ATTENTION_BF16}, .block_tokens = 16};
	struct attention_decode decode;
	struct result result;
	struct answer *answers;

	batch_create(&batch, bench->gpu, bench->stream, lengths, 1, &bench->state);
	REQUIRE_EQ(gpu_copy_in(bench->stream,
			   batch.pool + batch_start(&batch) + 77 * (size_t)batch.kv.token_stride,
			   &nan, sizeof(nan)),
		0);
	result_create(&result, bench, &batch);
	decode = decode_of(&batch, &result);
	REQUIRE_EQ(gpu_alloc(bench->gpu,
			   attention_decode_workspace(gpu_info(bench->gpu), &batch.shape),
			   &decode.workspace),
		0);
	REQUIRE_EQ(attention_decode(bench->gpu, bench->stream, &decode), 0);
	result_fetch(&result, bench, &batch);
	answers = batch_answers(&batch);
	for (size_t row = 0; row < result.rows; row++)
		for (size_t n = 0; n < result.head_size; n++) {
			double is = (double)result.values_are[row * result.head_size + n];

			/* KV head 0 of sequence 0 has query heads 0 to 3. */
			if (row < 4)
				REQUIRE(isnan(is) && isnan(result.lse_is[row]));
			else
				REQUIRE(fabs(is - answers[row].values[n]) < 0.01);
		}
	free(answers);
	gpu_free(bench->gpu, decode.workspace);
	result_destroy(&result, bench);
	batch_destroy(&batch, bench->gpu);
}

/* --------------------------------------------------------------------------------- refusals */

#define REFUSED(field, value)                                                                      \
	do {                                                                                       \
		struct attention_decode bad = good;                                                \
                                                                                                   \
		bad.field = (value);                                                               \
		REQUIRE_EQ(attention_decode(bench->gpu, bench->stream, &bad), -EINVAL);            \
	} while (0)

static void what_cannot_be_is_refused(struct bench *bench)
{
	static const int32_t lengths[] = {20};
	struct batch batch = {.shape = {1, 8, 2, 64, ATTENTION_FP16}, .block_tokens = 16};
	struct attention_merge merge = {.shape = batch.shape};
	struct attention_decode good;
	struct result result;

	batch_create(&batch, bench->gpu, bench->stream, lengths, 1, &bench->state);
	result_create(&result, bench, &batch);
	good = decode_of(&batch, &result);
	REQUIRE_EQ(gpu_alloc(bench->gpu,
			   attention_decode_workspace(gpu_info(bench->gpu), &batch.shape),
			   &good.workspace),
		0);
	REQUIRE_EQ(attention_decode(bench->gpu, bench->stream, &good), 0);
	REFUSED(shape.sequences, 0);
	REFUSED(shape.head_size, 80);
	REFUSED(shape.kv_heads, 3);
	REFUSED(shape.dtype, (enum attention_dtype)2);
	REFUSED(kv.block_tokens, 8);
	REFUSED(kv.block_tokens, 24);
	REFUSED(kv.token_stride, good.kv.token_stride + 8);
	REFUSED(kv.token_stride, (int64_t)1 << 31);
	REFUSED(kv.value_offset, 2);
	REFUSED(kv.bases, 0);
	REFUSED(kv.base, good.kv.base + 8);
	REFUSED(query, good.query + 8);
	REFUSED(lengths, 0);
	REFUSED(workspace, 0);
	REFUSED(output_stride, good.output_stride + 2);
	REFUSED(part.lse, 0);
	REQUIRE_EQ(attention_merge(bench->stream, &merge), -EINVAL);
	REQUIRE_EQ(gpu_stream_sync(bench->stream), 0);
	gpu_free(bench->gpu, good.workspace);
	result_destroy(&result, bench);
	batch_destroy(&batch, bench->gpu);
}

static int run(enum gpu_back_end back_end, uint64_t seed)
{
	struct bench bench = {.state = seed, .device = back_end == GPU_CUDA};
	struct gpu_usage usage, none = {0};
	bool brief = getenv("SKEP_TEST_SHORT") != NULL; /* under a checker of the device */
	int status = gpu_open(back_end, 0, &bench.gpu);

	if (status < 0)
		return status;
	printf("%s: %s\n", back_end == GPU_CUDA ? "cuda" : "host", gpu_info(bench.gpu)->name);
	REQUIRE_EQ(gpu_stream_create(bench.gpu, &bench.stream), 0);
	skewed_batches_are_right(&bench);
	seeded_batches_are_right(&bench, brief ? 6 : bench.device ? 60 : 16);
	parts_of_a_context_merge_into_it(&bench, brief ? 3 : bench.device ? 16 : 6);
	a_nan_reaches_its_rows(&bench);
	what_cannot_be_is_refused(&bench);
	if (!brief)
		long_contexts_are_right(&bench);
	gpu_stream_destroy(bench.stream);
	gpu_usage(bench.gpu, &usage);
	REQUIRE(memcmp(&usage, &none, sizeof(usage)) == 0);
	gpu_close(bench.gpu);
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);
	int status;

	REQUIRE_EQ(run(GPU_HOST, seed), 0);
	status = run(GPU_CUDA, seed);
	if (status < 0)
		printf("skip: the cuda half, there is no device (%d)\n", status);
	return 0;
}
