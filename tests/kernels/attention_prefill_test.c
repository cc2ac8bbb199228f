/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prefill attention over both back ends: the reference on the host, every variant on the device,
 * each against a plain double-precision loop (answer_row) over seeded shapes. KV that no row sees
 * is NaN, results are NaN before each run, and the rows behind the batch stay so.
 *
 * What a result may be away from the plain loop's, with u half a unit in the last place of the
 * type relative to the value (2^-8 in bf16, 2^-11 in fp16):
 *
 * - the reference computes in double and rounds once: u times the value, and half the least
 *   subnormal of fp16;
 * - the kernels round each weight to the type before it meets V: u times the mean of V's
 *   magnitudes ("sizes"), and, as fp16 weights below 2^-14 of the greatest are subnormal, 2^-25 a
 *   token times the greatest magnitude of V, which is 1 here;
 * - scores are sums of exact products in fp32. Tensor cores align and cut the 16 products of a
 *   step, so 8 steps lose at most 8 x 2^-22 of the products' magnitudes, here at most 4 x 128 x
 *   scale: 1e-4, as the lse may differ. A weight is off by that factor, for which 2^-12 stands,
 *   with room for ex2.approx and the fp32 sums;
 * - then they round once as well.
 */
#include "kernels/attention_prefill.h"

#include <errno.h>

#include "kernels/attention_prefill_args.h"
#include "tests/kernels/attention_unit.h"

#define SEQUENCES_MAX 5
#define GUARD	      3 /* query tokens behind the batch, that nobody may write */

struct back {
	struct gpu *gpu;
	struct gpu_stream *stream;
	bool cuda;
	bool brief; /* SKEP_TEST_SHORT: for tools that make the device slow */
};

struct sizes {
	uint32_t sequences;
	int32_t queries[SEQUENCES_MAX], contexts[SEQUENCES_MAX];
};

struct problem {
	struct batch batch; /* its queries and lengths are what answer_row looks at next */
	struct attention_prefill prefill;
	struct sizes sizes;
	uint32_t tokens;
	float sharpness;
	uint16_t *queries;	/* [tokens][query_heads][head_size] */
	struct answer *answers; /* the plain loop's, [tokens][query_heads] */
};

static size_t rows_of(const struct problem *problem, uint32_t tokens)
{
	return (size_t)tokens * problem->batch.shape.query_heads;
}

/* The plain loop's answer to all that is computed. The context is cut to what each row sees. */
static void problem_solve(struct problem *problem)
{
	struct batch *batch = &problem->batch;
	uint32_t heads = batch->shape.query_heads, size = batch->shape.head_size, token = 0;
	double *scores = unit_memory(batch->tokens_max * sizeof(double));

	for (uint32_t s = 0; s < problem->sizes.sequences; s++)
		for (int32_t i = 0; i < problem->sizes.queries[s]; i++, token++)
			for (uint32_t head = 0; head < heads; head++) {
				int32_t n = problem->sizes.contexts[s];
				int32_t seen = n - problem->sizes.queries[s] + i + 1;
				size_t row = (size_t)token * heads + head;

				batch->lengths[s] = problem->prefill.whole ? n : MAX_OF(seen, 0);
				memcpy(batch->query + ((size_t)s * heads + head) * size,
					problem->queries + row * size, size * 2);
				answer_row(batch, s, head, (double)problem->prefill.scale, scores,
					&problem->answers[row]);
			}
	free(scores);
}

static void problem_create(struct problem *problem, const struct back *back, uint64_t *state)
{
	struct batch *batch = &problem->batch;
	struct attention_prefill *prefill = &problem->prefill;
	int32_t starts[SEQUENCES_MAX + 1] = {0}, longest = 1;
	size_t row = (size_t)batch->shape.query_heads * batch->shape.head_size, bytes;

	batch->shape.sequences = problem->sizes.sequences;
	batch_create(batch, back->gpu, back->stream, problem->sizes.contexts, 1, state);
	for (uint32_t s = 0; s < problem->sizes.sequences; s++) {
		starts[s + 1] = starts[s] + problem->sizes.queries[s];
		longest = MAX_OF(longest, problem->sizes.queries[s]);
	}
	problem->tokens = (uint32_t)starts[problem->sizes.sequences];
	bytes = rows_of(problem, problem->tokens + GUARD) * batch->shape.head_size;
	problem->queries = unit_memory(bytes * 2);
	codes_fill(problem->queries, bytes, batch, problem->sharpness, state);
	problem->answers =
		unit_memory(rows_of(problem, problem->tokens) * sizeof(*problem->answers));
	prefill->shape = batch->shape;
	prefill->kv = batch->kv;
	prefill->query_stride = row * 2;
	prefill->output_stride = row * 2 + 16;
	prefill->queries_max = (uint32_t)longest;
	prefill->scale = 1 / sqrtf((float)batch->shape.head_size);
	prefill->query = unit_upload(back->gpu, back->stream, problem->queries, bytes * 2);
	prefill->starts = unit_upload(back->gpu, back->stream, starts, sizeof(starts));
	prefill->lengths = batch->lengths_at;
	bytes = (problem->tokens + GUARD) * prefill->output_stride;
	REQUIRE_EQ(gpu_alloc(back->gpu, bytes, &prefill->output), 0);
	bytes = rows_of(problem, problem->tokens + GUARD) * sizeof(float);
	REQUIRE_EQ(gpu_alloc(back->gpu, bytes * batch->shape.head_size, &prefill->part.values), 0);
	REQUIRE_EQ(gpu_alloc(back->gpu, bytes, &prefill->part.lse), 0);
	problem_solve(problem);
}

static void problem_destroy(struct problem *problem, const struct back *back)
{
	const struct attention_prefill *prefill = &problem->prefill;

	gpu_free(back->gpu, prefill->query);
	gpu_free(back->gpu, prefill->starts);
	gpu_free(back->gpu, prefill->output);
	gpu_free(back->gpu, prefill->part.values);
	gpu_free(back->gpu, prefill->part.lse);
	batch_destroy(&problem->batch, back->gpu);
	free(problem->queries);
	free(problem->answers);
}

/* Results as they came back; rows behind the batch included. */
struct results {
	unsigned char *output;
	float *values, *lse;
};

static void *fetch(const struct back *back, uint64_t at, size_t bytes)
{
	void *memory = unit_memory(bytes);

	if (at)
		REQUIRE_EQ(gpu_copy_out(back->stream, memory, at, bytes), 0);
	return memory;
}

static struct results results_fetch(const struct problem *problem, const struct back *back,
	const struct attention_prefill *prefill)
{
	size_t rows = rows_of(problem, problem->tokens + GUARD) * sizeof(float);
	struct results results;

	results.output =
		fetch(back, prefill->output, (problem->tokens + GUARD) * prefill->output_stride);
	results.values = fetch(back, prefill->part.values, rows * prefill->shape.head_size);
	results.lse = fetch(back, prefill->part.lse, rows);
	REQUIRE_EQ(gpu_stream_sync(back->stream), 0);
	return results;
}

static void poison(const struct problem *problem, const struct back *back,
	const struct attention_prefill *prefill)
{
	size_t rows = rows_of(problem, problem->tokens + GUARD) * sizeof(float);
	const struct {
		uint64_t at;
		size_t bytes;
	} places[] = {{prefill->output, (problem->tokens + GUARD) * prefill->output_stride},
		{prefill->part.values, rows * prefill->shape.head_size}, {prefill->part.lse, rows}};

	for (size_t n = 0; n < ARRAY_COUNT(places); n++)
		if (places[n].at)
			REQUIRE_EQ(gpu_fill(back->stream, places[n].at, 0xff, places[n].bytes), 0);
}

static struct results run(const struct problem *problem, const struct back *back,
	const struct attention_prefill *prefill, const struct attention_prefill_variant *variant)
{
	poison(problem, back, prefill);
	if (variant)
		REQUIRE_EQ(attention_prefill_by(back->gpu, back->stream, prefill, variant), 0);
	else
		REQUIRE_EQ(attention_prefill(back->gpu, back->stream, prefill), 0);
	return results_fetch(problem, back, prefill);
}

static void results_free(struct results *results)
{
	free(results->output);
	free(results->values);
	free(results->lse);
}

struct place {
	const struct problem *problem;
	const char *variant;
	uint32_t token, head, column;
};

static void compare(struct place place, const char *what, double got, double want, double allowed)
{
	const struct batch *batch = &place.problem->batch;
	const struct sizes *sizes = &place.problem->sizes;

	if (fabs(got - want) <= allowed || (isinf(want) && got == want))
		return;
	fprintf(stderr,
		"%s: %s of token %u head %u column %u is %.9g, not %.9g within %.3g\n"
		"  heads %u/%u of %u, dtype %d, layout %d, blocks of %u, whole %u\n",
		place.variant, what, place.token, place.head, place.column, got, want, allowed,
		batch->shape.query_heads, batch->shape.kv_heads, batch->shape.head_size,
		(int)batch->shape.dtype, (int)batch->layout, batch->block_tokens,
		place.problem->prefill.whole);
	for (uint32_t s = 0; s < sizes->sequences; s++)
		fprintf(stderr, "  sequence %u: %d queries, context %d\n", s, sizes->queries[s],
			sizes->contexts[s]);
	exit(1);
}

static void check_row(const struct problem *problem, const struct results *results,
	struct place place, bool exact)
{
	const struct attention_shape *shape = &problem->batch.shape;
	const struct attention_prefill *prefill = &problem->prefill;
	size_t row = (size_t)place.token * shape->query_heads + place.head;
	const uint16_t *codes =
		(const uint16_t *)(results->output + place.token * prefill->output_stride) +
		(size_t)place.head * shape->head_size;
	double unit = shape->dtype == ATTENTION_BF16 ? 0x1p-8 : 0x1p-11;
	const struct answer *answer = &problem->answers[row];
	double fixed = 0;

	if (shape->dtype == ATTENTION_FP16 && !exact)
		fixed = problem->batch.tokens_max * 0x1p-25;
	for (uint32_t n = 0; n < shape->head_size; n++) {
		double want = answer->values[n];
		double sizes = answer->sizes[n];
		double allowed = fixed + (exact ? 0x1p-23 : unit + 0x1p-12) * sizes;

		place.column = n;
		compare(place, "value", (double)results->values[row * shape->head_size + n], want,
			allowed);
		compare(place, "output", (double)code_float(shape->dtype, codes[n]), want,
			allowed + unit * (fabs(want) + allowed) + 0x1p-25);
	}
	compare(place, "lse", (double)results->lse[row], answer->lse, exact ? 1e-5 : 1e-4);
}

static void check(const struct problem *problem, const struct results *results, const char *variant,
	bool exact)
{
	const struct attention_prefill *prefill = &problem->prefill;
	size_t rows = rows_of(problem, problem->tokens);
	size_t guarded = rows_of(problem, GUARD);

	for (uint32_t token = 0; token < problem->tokens; token++)
		for (uint32_t head = 0; head < prefill->shape.query_heads; head++)
			check_row(problem, results,
				(struct place){problem, variant, token, head, 0}, exact);
	for (size_t row = rows; row < rows + guarded; row++)
		REQUIRE(isnan(results->lse[row]));
	for (size_t n = 0; n < guarded * prefill->shape.head_size; n++)
		REQUIRE(isnan(results->values[rows * prefill->shape.head_size + n]));
	for (size_t n = 0; n < GUARD * prefill->output_stride; n++)
		REQUIRE_EQ(results->output[problem->tokens * prefill->output_stride + n], 0xff);
}

/* Every variant that the back end has; on the host all are the reference, so one is enough. */
static void problem_run(struct problem *problem, const struct back *back, uint64_t *state)
{
	const struct attention_prefill_variant *variant = attention_prefill_variants;
	struct results results;

	problem_create(problem, back, state);
	results = run(problem, back, &problem->prefill, NULL);
	check(problem, &results, back->cuda ? "chosen" : "reference", !back->cuda);
	results_free(&results);
	for (; back->cuda && variant->name; variant++) {
		if (gpu_info(back->gpu)->capability < variant->capability) {
			REQUIRE_EQ(attention_prefill_by(
					   back->gpu, back->stream, &problem->prefill, variant),
				-ENOTSUP);
			continue;
		}
		results = run(problem, back, &problem->prefill, variant);
		check(problem, &results, variant->name, false);
		results_free(&results);
	}
	problem_destroy(problem, back);
}

static void draw_shape(struct problem *problem, uint64_t *state)
{
	static const uint32_t heads[][2] = {{32, 8}, {32, 4}, {56, 8}, {8, 8}, {4, 1}};
	struct batch *batch = &problem->batch;
	uint32_t n = unit_random(state, ARRAY_COUNT(heads));

	batch->shape.query_heads = heads[n][0];
	batch->shape.kv_heads = heads[n][1];
	batch->shape.head_size = unit_random(state, 4) ? 128 : 64;
	batch->shape.dtype = unit_random(state, 2) ? ATTENTION_BF16 : ATTENTION_FP16;
	batch->layout = unit_random(state, KV_LAYOUTS);
	batch->block_tokens = 16u << unit_random(state, 3);
	problem->sharpness = unit_random(state, 2) ? 1 : 4;
	problem->prefill.whole = unit_random(state, 5) == 0;
}

/* Small ragged batches: prefixes of none, one, odd, whole blocks; sequences of no query, of one. */
static void shapes_agree(const struct back *back, uint64_t *state, uint32_t rounds)
{
	static const int32_t prefixes[] = {0, 1, 7, 16, 33, 64, 127, 150};
	static const int32_t queries[] = {0, 1, 1, 2, 5, 9, 17};

	for (uint32_t round = 0; round < rounds; round++) {
		struct problem problem = {0};

		draw_shape(&problem, state);
		problem.sizes.sequences = 1 + unit_random(state, 3);
		for (uint32_t s = 0; s < problem.sizes.sequences; s++) {
			int32_t prefix = prefixes[unit_random(state, ARRAY_COUNT(prefixes))];

			problem.sizes.queries[s] =
				queries[unit_random(state, ARRAY_COUNT(queries))];
			problem.sizes.contexts[s] = prefix + problem.sizes.queries[s];
		}
		problem_run(&problem, back, state);
	}
	printf("%s: %u seeded ragged batches agree\n", back->cuda ? "cuda" : "host", rounds);
}

/* Contexts of several tiles both ways, around their edges. */
static void tiles_agree(const struct back *back, uint64_t *state)
{
	static const struct sizes sizes[] = {
		{1, {128}, {128}},
		{1, {129}, {129}},
		{2, {127, 300}, {127, 300}},
		{2, {260, 1}, {515, 1025}},
		{3, {64, 0, 191}, {2100, 40, 192}},
		{2, {97, 130}, {97 + 1031, 130 + 256}},
	};

	for (size_t n = 0; n < ARRAY_COUNT(sizes) * 2; n += back->brief ? 5 : 1) {
		struct problem problem = {.sizes = sizes[n / 2]};

		draw_shape(&problem, state);
		problem.batch.shape.query_heads = n % 2 ? 4 : 2;
		problem.batch.shape.kv_heads = n % 3 ? 2 : 1;
		problem.batch.shape.head_size = n % 4 == 3 ? 64 : 128;
		problem_run(&problem, back, state);
	}
	printf("%s: contexts of many tiles agree\n", back->cuda ? "cuda" : "host");
}

/* More queries than context: rows before its start see nothing. Behind queries_max is no work. */
static void odd_lengths_hold(const struct back *back, uint64_t *state)
{
	struct problem problem = {.sizes = {2, {9, 6}, {4, 0}}};
	struct results results;

	draw_shape(&problem, state);
	problem.prefill.whole = 0;
	problem_run(&problem, back, state);

	problem = (struct problem){.sizes = {1, {200}, {210}}};
	draw_shape(&problem, state);
	problem.batch.shape.query_heads = problem.batch.shape.kv_heads = 1;
	problem_create(&problem, back, state);
	problem.prefill.queries_max = 128;
	results = run(&problem, back, &problem.prefill, NULL);
	for (uint32_t token = 0; token < problem.tokens; token++)
		if (token < 128)
			check_row(&problem, &results,
				(struct place){&problem, "first", token, 0, 0}, !back->cuda);
		else
			REQUIRE(isnan(results.lse[token]));
	results_free(&results);
	problem_destroy(&problem, back);
	printf("%s: rows that see nothing are zeros; queries_max bounds the work\n",
		back->cuda ? "cuda" : "host");
}

/* Each result alone is the same as with the others, and those left out are not written. */
static void results_are_optional(const struct back *back, uint64_t *state)
{
	struct problem problem = {.sizes = {1, {70}, {90}}};
	struct attention_prefill prefill;
	struct results all, one;
	size_t rows;

	draw_shape(&problem, state);
	problem_create(&problem, back, state);
	rows = rows_of(&problem, problem.tokens);
	all = run(&problem, back, &problem.prefill, NULL);
	for (unsigned kept = 0; kept < 3; kept++) {
		prefill = problem.prefill;
		prefill.output = kept == 0 ? prefill.output : 0;
		prefill.part.values = kept == 1 ? prefill.part.values : 0;
		prefill.part.lse = kept == 2 ? prefill.part.lse : 0;
		one = run(&problem, back, &prefill, NULL);
		if (kept == 0)
			REQUIRE(!memcmp(
				one.output, all.output, problem.tokens * prefill.output_stride));
		if (kept == 1)
			REQUIRE(!memcmp(one.values, all.values,
				rows * prefill.shape.head_size * sizeof(float)));
		if (kept == 2)
			REQUIRE(!memcmp(one.lse, all.lse, rows * sizeof(float)));
		results_free(&one);
	}
	results_free(&all);
	problem_destroy(&problem, back);
	printf("%s: each result can be had alone\n", back->cuda ? "cuda" : "host");
}

/* A view of the same sequence from a block's begin on. */
static struct attention_kv kv_behind(
	const struct back *back, const struct problem *problem, uint32_t blocks, uint64_t *bases)
{
	struct attention_kv kv = problem->prefill.kv;

	*bases = 0;
	if (kv.table) {
		kv.table += blocks * sizeof(int32_t);
		return kv;
	}
	REQUIRE_EQ(gpu_copy_out(back->stream, bases, kv.bases, sizeof(*bases)), 0);
	REQUIRE_EQ(gpu_stream_sync(back->stream), 0);
	*bases += blocks * (uint64_t)kv.block_stride;
	*bases = kv.bases = unit_upload(back->gpu, back->stream, bases, sizeof(*bases));
	return kv;
}

/* Some of the prefix attended to as a whole, the rest causally, as if in two memories. */
static void parts_merge(const struct back *back, uint64_t *state)
{
	struct problem problem = {.sizes = {1, {35}, {35 + 160 + 9}}};
	struct attention_prefill prefill;
	struct attention_part parts[2];
	struct attention_merge merge = {.parts = parts, .count = 2};
	struct results results;
	uint64_t bases = 0, lengths;
	int32_t length;

	draw_shape(&problem, state);
	problem.prefill.whole = 0;
	problem_create(&problem, back, state);
	for (int n = 0; n < 2; n++) {
		uint32_t prefix = 2 * problem.batch.block_tokens;

		prefill = problem.prefill;
		prefill.whole = n == 0;
		length = n == 0 ? (int32_t)prefix : problem.sizes.contexts[0] - (int32_t)prefix;
		lengths = unit_upload(back->gpu, back->stream, &length, sizeof(length));
		prefill.lengths = lengths;
		if (n == 1)
			prefill.kv = kv_behind(back, &problem, 2, &bases);
		results = run(&problem, back, &prefill, NULL);
		parts[n].values = unit_upload(back->gpu, back->stream, results.values,
			rows_of(&problem, problem.tokens) * prefill.shape.head_size *
				sizeof(float));
		parts[n].lse = unit_upload(back->gpu, back->stream, results.lse,
			rows_of(&problem, problem.tokens) * sizeof(float));
		results_free(&results);
		gpu_free(back->gpu, lengths);
	}
	results =
		run(&problem, back, &problem.prefill, NULL); /* guards; the rest is written anew */
	results_free(&results);
	merge.shape = problem.prefill.shape;
	merge.shape.sequences = problem.tokens;
	merge.output = problem.prefill.output;
	merge.output_stride = problem.prefill.output_stride;
	merge.part = problem.prefill.part;
	REQUIRE_EQ(attention_merge(back->stream, &merge), 0);
	results = results_fetch(&problem, back, &problem.prefill);
	check(&problem, &results, "merged", false);
	results_free(&results);
	for (int n = 0; n < 2; n++) {
		gpu_free(back->gpu, parts[n].values);
		gpu_free(back->gpu, parts[n].lse);
	}
	if (bases)
		gpu_free(back->gpu, bases);
	problem_destroy(&problem, back);
	printf("%s: parts of a context merge into the whole\n", back->cuda ? "cuda" : "host");
}

static void bad_arguments_are_refused(const struct back *back, uint64_t *state)
{
	struct problem problem = {.sizes = {1, {3}, {5}}};
	struct attention_prefill good, bad;

	draw_shape(&problem, state);
	problem_create(&problem, back, state);
	good = problem.prefill;
#define REFUSED(field, value)                                                                      \
	do {                                                                                       \
		bad = good;                                                                        \
		bad.field = (value);                                                               \
		REQUIRE_EQ(attention_prefill(back->gpu, back->stream, &bad), -EINVAL);             \
	} while (0)
	REFUSED(shape.head_size, 96);
	REFUSED(shape.kv_heads, 3);
	REFUSED(shape.kv_heads, 0);
	REFUSED(shape.sequences, 0);
	REFUSED(shape.dtype, (enum attention_dtype)2);
	REFUSED(kv.block_tokens, 24);
	REFUSED(kv.block_tokens, 8);
	REFUSED(kv.token_stride, good.kv.token_stride + 8);
	REFUSED(kv.value_offset, good.kv.value_offset + 2);
	REFUSED(query, 0);
	REFUSED(query, good.query + 8);
	REFUSED(output_stride, good.output_stride + 8);
	REFUSED(starts, 0);
	REFUSED(lengths, good.lengths + 2);
	REFUSED(queries_max, 0);
	REFUSED(queries_max, UINT32_MAX);
	REFUSED(scale, 0.0f);
	bad = good;
	bad.output = bad.part.values = bad.part.lse = 0;
	REQUIRE_EQ(attention_prefill(back->gpu, back->stream, &bad), -EINVAL);
	REQUIRE_EQ(attention_prefill(back->gpu, back->stream, &good), 0);
	REQUIRE_EQ(gpu_stream_sync(back->stream), 0);
	problem_destroy(&problem, back);
	printf("%s: bad arguments are refused\n", back->cuda ? "cuda" : "host");
}

static void run_back(enum gpu_back_end which, uint64_t seed)
{
	struct back back = {.cuda = which == GPU_CUDA, .brief = getenv("SKEP_TEST_SHORT") != NULL};
	int status = gpu_open(which, 0, &back.gpu);
	uint64_t state = seed;

	if (status < 0 && back.cuda) {
		printf("skip: no CUDA device here (%s)\n", strerror(-status));
		return;
	}
	REQUIRE_EQ(status, 0);
	REQUIRE_EQ(gpu_stream_create(back.gpu, &back.stream), 0);
	bad_arguments_are_refused(&back, &state);
	odd_lengths_hold(&back, &state);
	results_are_optional(&back, &state);
	parts_merge(&back, &state);
	shapes_agree(&back, &state, back.brief ? 3 : back.cuda ? 40 : 24);
	if (back.cuda)
		tiles_agree(&back, &state);
	gpu_stream_destroy(back.stream);
	gpu_close(back.gpu);
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);

	run_back(GPU_HOST, seed);
	run_back(GPU_CUDA, seed);
	return 0;
}
