/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prefill attention beside cuBLAS: every variant on one layer of Llama-3-8B (32 query heads, 8 KV
 * heads, head size 128, bf16), causal, batch 1, over the layouts that engines and the arena have;
 * and a bf16 matrix product of 8192 x 8192 x 8192 in turn with them. Medians of device time.
 * Operations are counted causally: 4 x head size for each pair of a query and a token that it sees.
 * Some rows of each result are compared with a plain loop in double.
 *
 * attention_prefill_bench [--json] [--rounds N, default 9] [--host]
 *
 * --host is the reference on short contexts: it shows that the program runs, no figure.
 */
#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "kernels/attention_prefill_args.h"
#include "kernels/gpu.h"
#include "kernels/half.h"

#define QUERY_HEADS  32
#define KV_HEADS     8
#define HEAD_SIZE    128
#define LAYERS	     32
#define TOKEN_BYTES  (KV_HEADS * HEAD_SIZE * 2) /* of K, or of V, of one layer */
#define BLOCK_TOKENS 16
#define TOKENS_MAX   16384
#define MATRIX	     8192
#define ROUNDS_MAX   99
#define ROWS_CHECKED 4

#define MUST(call)                                                                                 \
	do {                                                                                       \
		int status_ = (call);                                                              \
                                                                                                   \
		if (status_) {                                                                     \
			fprintf(stderr, "%s: %s\n", #call, strerror(-status_));                    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* Where one layer's K and V lie. ARENA_*: blocks of 16 tokens of all layers, 2 MiB. */
enum layout { DENSE, ARENA_LAYER, ARENA_TOKEN, PAGED, LAYOUTS };

static const char *const layout_names[] = {
	"dense", "arena, layer first", "arena, token first", "paged 16"};

static struct {
	uint32_t queries, context;
	unsigned launches; /* a measurement */
} lengths[] = {{2048, 2048, 8}, {8192, 8192, 1}, {16384, 16384, 1}, {8192, 12288, 1}};

struct bench {
	struct gpu *gpu;
	struct gpu_stream *stream;
	struct gpu_event *from, *to;
	unsigned rounds;
	bool json, host;
	uint32_t tokens;		 /* room for */
	uint16_t *query, *keys, *values; /* logical: [token][head][head_size] */
	uint64_t query_at, output_at, pool, dense, table, base_at[LAYOUTS], starts, context;
	uint64_t matrices[3];
};

struct row {
	size_t length;
	enum layout layout;
	const struct attention_prefill_variant *variant;
	double ns[ROUNDS_MAX], error; /* greatest of the rows compared, of their tolerance */
};

/* ------------------------------------------------------------------------------------- cuBLAS */

/* What is used of its interface (cublas_api.h 13). */
struct cublas {
	void *library, *handle;
	int (*create)(void **handle);
	int (*destroy)(void *handle);
	int (*product)(void *handle, int transposed_a, int transposed_b, int m, int n, int k,
		const void *alpha, const void *a, int a_type, int lda, const void *b, int b_type,
		int ldb, const void *beta, void *c, int c_type, int ldc, int compute,
		int algorithm);
	double ns[ROUNDS_MAX];
};

enum { CUDA_R_16BF = 14, CUBLAS_COMPUTE_32F = 68, CUBLAS_GEMM_DEFAULT = -1 };

static bool cublas_open(struct cublas *cublas)
{
	const char *names[] = {
		getenv("SKEP_CUBLAS"), "libcublas.so.13", "/usr/local/cuda/lib64/libcublas.so.13"};

	for (size_t n = 0; n < ARRAY_COUNT(names) && !cublas->library; n++)
		if (names[n])
			cublas->library = dlopen(names[n], RTLD_NOW);
	if (!cublas->library)
		return false;
	*(void **)&cublas->create = dlsym(cublas->library, "cublasCreate_v2");
	*(void **)&cublas->destroy = dlsym(cublas->library, "cublasDestroy_v2");
	*(void **)&cublas->product = dlsym(cublas->library, "cublasGemmEx");
	return cublas->create && cublas->destroy && cublas->product &&
	       cublas->create(&cublas->handle) == 0;
}

static double event_ns(struct bench *bench)
{
	uint64_t ns;

	MUST(gpu_event_record(bench->to, bench->stream));
	MUST(gpu_event_sync(bench->to));
	MUST(gpu_event_ns(bench->from, bench->to, &ns));
	return (double)ns;
}

/* On the default stream, as everything here is. */
static double cublas_ns(struct bench *bench, struct cublas *cublas)
{
	const float one = 1, zero = 0;
	int status;

	MUST(gpu_event_record(bench->from, bench->stream));
	status = cublas->product(cublas->handle, 1, 0, MATRIX, MATRIX, MATRIX, &one,
		(const void *)(uintptr_t)bench->matrices[0], CUDA_R_16BF, MATRIX,
		(const void *)(uintptr_t)bench->matrices[1], CUDA_R_16BF, MATRIX, &zero,
		(void *)(uintptr_t)bench->matrices[2], CUDA_R_16BF, MATRIX, CUBLAS_COMPUTE_32F,
		CUBLAS_GEMM_DEFAULT);
	if (status) {
		fprintf(stderr, "cublasGemmEx: %d\n", status);
		exit(1);
	}
	return event_ns(bench);
}

/* --------------------------------------------------------------------------------------- data */

static uint64_t random_state = 1;

/* Sums of four even numbers: near enough to normal, deviation 1. */
static uint16_t *random_codes(size_t count)
{
	uint16_t *codes = malloc(count * 2);

	if (!codes)
		exit(1);
	for (size_t n = 0; n < count; n++) {
		uint64_t word = mix64(random_state++);
		float sum = 0;

		for (unsigned i = 0; i < 4; i++)
			sum += (float)(word >> (16 * i) & 0xffff) * (1.0f / 65536) - 0.5f;
		codes[n] = half_bf16_from_float(sum * 1.7320508f);
	}
	return codes;
}

static uint64_t upload(struct bench *bench, const void *from, size_t bytes)
{
	uint64_t at;

	MUST(gpu_alloc(bench->gpu, bytes, &at));
	if (from)
		MUST(gpu_copy_in(bench->stream, at, from, bytes));
	return at;
}

/* Some order of @blocks, a power of two. */
static int32_t block_number(uint32_t n, uint32_t blocks, bool paged)
{
	return (int32_t)(paged ? (n * 389 + 7) % blocks : n);
}

/* A layer's place in the pool of all layers; @paged is the same blocks in another order. */
static void pool_write(struct bench *bench, enum layout layout)
{
	for (uint32_t token = 0; token < bench->tokens; token++) {
		uint64_t block = (uint64_t)block_number(
			token / BLOCK_TOKENS, bench->tokens / BLOCK_TOKENS, layout == PAGED);
		uint64_t at = bench->pool + block * 2 * LAYERS * BLOCK_TOKENS * TOKEN_BYTES;
		size_t from = (size_t)token * KV_HEADS * HEAD_SIZE;
		uint64_t row = token % BLOCK_TOKENS, apart = BLOCK_TOKENS;

		if (layout == ARENA_TOKEN) {
			row *= 2 * LAYERS;
			apart = 1;
		}
		at += row * TOKEN_BYTES;
		MUST(gpu_copy_in(bench->stream, at, bench->keys + from, TOKEN_BYTES));
		MUST(gpu_copy_in(bench->stream, at + apart * TOKEN_BYTES, bench->values + from,
			TOKEN_BYTES));
	}
}

static void bench_create(struct bench *bench)
{
	size_t tokens = (size_t)bench->tokens * KV_HEADS * HEAD_SIZE, codes;
	int32_t table[TOKENS_MAX / BLOCK_TOKENS];
	uint16_t *matrix;

	bench->keys = random_codes(tokens);
	bench->values = random_codes(tokens);
	codes = (size_t)bench->tokens * QUERY_HEADS * HEAD_SIZE;
	bench->query = random_codes(codes);
	bench->query_at = upload(bench, bench->query, codes * 2);
	bench->output_at = upload(bench, NULL, codes * 2);
	bench->dense = upload(bench, NULL, 2 * tokens * 2);
	MUST(gpu_copy_in(bench->stream, bench->dense, bench->keys, tokens * 2));
	MUST(gpu_copy_in(bench->stream, bench->dense + tokens * 2, bench->values, tokens * 2));
	bench->pool = upload(bench, NULL, tokens * 2 * 2 * LAYERS);
	for (uint32_t n = 0; n < bench->tokens / BLOCK_TOKENS; n++)
		table[n] = block_number(n, bench->tokens / BLOCK_TOKENS, true);
	bench->table = upload(bench, table, sizeof(table));
	for (enum layout layout = 0; layout < LAYOUTS; layout++)
		bench->base_at[layout] = upload(
			bench, layout == DENSE ? &bench->dense : &bench->pool, sizeof(uint64_t));
	bench->starts = upload(bench, NULL, 2 * sizeof(int32_t));
	bench->context = upload(bench, NULL, sizeof(int32_t));
	matrix = bench->host ? NULL : random_codes((size_t)MATRIX * MATRIX);
	for (unsigned n = 0; matrix && n < 3; n++)
		bench->matrices[n] = upload(bench, matrix, (size_t)MATRIX * MATRIX * 2);
	MUST(gpu_stream_sync(bench->stream));
	free(matrix);
}

static struct attention_prefill prefill_of(const struct bench *bench, const struct row *row)
{
	struct attention_prefill prefill = {
		.shape = {1, QUERY_HEADS, KV_HEADS, HEAD_SIZE, ATTENTION_BF16},
		.kv = {.bases = bench->base_at[row->layout],
			.block_tokens = BLOCK_TOKENS,
			.block_stride = 2 * LAYERS * BLOCK_TOKENS * TOKEN_BYTES,
			.token_stride = TOKEN_BYTES,
			.head_stride = HEAD_SIZE * 2,
			.value_offset = BLOCK_TOKENS * TOKEN_BYTES},
		.query = bench->query_at,
		.query_stride = QUERY_HEADS * HEAD_SIZE * 2,
		.starts = bench->starts,
		.lengths = bench->context,
		.queries_max = lengths[row->length].queries,
		.output = bench->output_at,
		.output_stride = QUERY_HEADS * HEAD_SIZE * 2,
		.scale = 1 / sqrtf(HEAD_SIZE)};

	if (row->layout == DENSE) {
		prefill.kv.block_stride = BLOCK_TOKENS * TOKEN_BYTES;
		prefill.kv.value_offset = (int64_t)bench->tokens * TOKEN_BYTES;
	} else if (row->layout == ARENA_TOKEN) {
		prefill.kv.token_stride = 2 * LAYERS * TOKEN_BYTES;
		prefill.kv.value_offset = TOKEN_BYTES;
	} else if (row->layout == PAGED) {
		prefill.kv.bases = 0;
		prefill.kv.base = bench->pool;
		prefill.kv.table = bench->table;
		prefill.kv.table_stride = TOKENS_MAX / BLOCK_TOKENS;
	}
	return prefill;
}

static double row_ns(struct bench *bench, const struct row *row)
{
	struct attention_prefill prefill = prefill_of(bench, row);
	unsigned launches = lengths[row->length].launches;

	MUST(gpu_event_record(bench->from, bench->stream));
	for (unsigned n = 0; n < launches; n++)
		MUST(attention_prefill_by(bench->gpu, bench->stream, &prefill, row->variant));
	return event_ns(bench) / launches;
}

static void lengths_set(struct bench *bench, size_t length)
{
	int32_t starts[] = {0, (int32_t)lengths[length].queries};
	int32_t context = (int32_t)lengths[length].context;

	MUST(gpu_copy_in(bench->stream, bench->starts, starts, sizeof(starts)));
	MUST(gpu_copy_in(bench->stream, bench->context, &context, sizeof(context)));
	MUST(gpu_stream_sync(bench->stream));
}

/* ------------------------------------------------------------------------------------ results */

/* How far one row of the output is from a plain loop, as a share of what bf16 explains. */
static double row_error(const struct bench *bench, uint32_t seen, uint32_t token, uint32_t head,
	const uint16_t *got)
{
	static double scores[TOKENS_MAX];
	const uint16_t *query = bench->query + ((size_t)token * QUERY_HEADS + head) * HEAD_SIZE;
	size_t kv_head = head / (QUERY_HEADS / KV_HEADS);
	double top = -INFINITY, sum = 0, worst = 0;

	for (uint32_t t = 0; t < seen; t++) {
		const uint16_t *key = bench->keys + (t * KV_HEADS + kv_head) * HEAD_SIZE;
		double score = 0;

		for (uint32_t n = 0; n < HEAD_SIZE; n++)
			score += (double)half_bf16_to_float(query[n]) *
				 (double)half_bf16_to_float(key[n]);
		scores[t] = score / sqrt(HEAD_SIZE);
		top = fmax(top, scores[t]);
	}
	for (uint32_t t = 0; t < seen; t++)
		sum += scores[t] = exp(scores[t] - top);
	for (uint32_t n = 0; n < HEAD_SIZE; n++) {
		double value = 0, size = 0;

		for (uint32_t t = 0; t < seen; t++) {
			double is = (double)half_bf16_to_float(
				bench->values[(t * KV_HEADS + kv_head) * HEAD_SIZE + n]);

			value += scores[t] / sum * is;
			size += scores[t] / sum * fabs(is);
		}
		value = fabs((double)half_bf16_to_float(got[n]) - value) / (size * 0x1.2p-7);
		worst = value <= worst ? worst : value; /* a NaN stays */
	}
	return worst;
}

/* Runs once into a poisoned output and looks at some rows of it: the first, the last, others. */
static void row_check(struct bench *bench, struct row *row)
{
	uint32_t queries = lengths[row->length].queries, context = lengths[row->length].context;
	size_t bytes = (size_t)queries * QUERY_HEADS * HEAD_SIZE * 2;
	uint16_t got[HEAD_SIZE];

	MUST(gpu_fill(bench->stream, bench->output_at, 0xff, bytes));
	row_ns(bench, row);
	for (uint32_t n = 0; n < ROWS_CHECKED; n++) {
		uint32_t token = n ? (uint32_t)(mix64(n) % queries) : queries - 1;
		uint32_t head = (uint32_t)mix64(n + 100) % QUERY_HEADS;
		double error;

		if (n == 1)
			token = 0;
		MUST(gpu_copy_out(bench->stream, got,
			bench->output_at + ((uint64_t)token * QUERY_HEADS + head) * HEAD_SIZE * 2,
			sizeof(got)));
		MUST(gpu_stream_sync(bench->stream));
		error = row_error(bench, context - queries + token + 1, token, head, got);
		row->error = error <= row->error ? row->error : error;
	}
}

static int order(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *ns, unsigned count)
{
	qsort(ns, count, sizeof(*ns), order);
	return count % 2 ? ns[count / 2] : (ns[count / 2 - 1] + ns[count / 2]) / 2;
}

static double row_operations(const struct row *row)
{
	double q = lengths[row->length].queries, n = lengths[row->length].context;

	return 4.0 * HEAD_SIZE * QUERY_HEADS * (q * (n - q) + q * (q + 1) / 2);
}

static int report(struct bench *bench, struct row *rows, size_t count, struct cublas *cublas)
{
	double product = 0;
	int wrong = 0;

	if (cublas->handle)
		product = 2.0 * MATRIX * MATRIX * MATRIX / median(cublas->ns, bench->rounds) / 1e3;
	if (bench->json)
		printf("{\"device\": \"%s\", \"rounds\": %u, \"cublas_bf16_tflops\": %.1f, "
		       "\"prefill\": [",
			gpu_info(bench->gpu)->name, bench->rounds, product);
	else
		printf("%s, %u rounds; cuBLAS bf16 %d^3: %.1f TFLOP/s\n"
		       "%7s %7s  %-18s %-8s %9s %8s %7s %6s\n",
			gpu_info(bench->gpu)->name, bench->rounds, MATRIX, product, "queries",
			"context", "layout", "variant", "ms", "TFLOP/s", "share", "error");
	for (size_t n = 0; n < count; n++) {
		struct row *row = &rows[n];
		double ns = median(row->ns, bench->rounds), rate = row_operations(row) / ns / 1e3;

		printf(bench->json ? "%s\n{\"queries\": %u, \"context\": %u, \"layout\": \"%s\", "
				     "\"variant\": \"%s\", \"ms\": %.4f, \"tflops\": %.1f, "
				     "\"share\": %.3f, \"error\": %.3f}"
				   : "%s%7u %7u  %-18s %-8s %9.4f %8.1f %7.3f %6.3f\n",
			bench->json && n ? "," : "", lengths[row->length].queries,
			lengths[row->length].context, layout_names[row->layout], row->variant->name,
			ns / 1e6, rate, product > 0 ? rate / product : 0, row->error);
		wrong += !(row->error <= 1);
	}
	if (bench->json)
		printf("\n]}\n");
	if (wrong)
		fprintf(stderr, "%d rows of the table are wrong: error above 1\n", wrong);
	return wrong ? 1 : 0;
}

/* Every variant over dense memory; the layouts at one length. */
static size_t rows_make(struct row *rows)
{
	const struct attention_prefill_variant *variant = attention_prefill_variants;
	size_t count = 0;

	for (; variant->name; variant++) {
		for (size_t length = 0; length < ARRAY_COUNT(lengths); length++)
			rows[count++] = (struct row){.length = length, .variant = variant};
		for (enum layout layout = ARENA_LAYER; layout < LAYOUTS; layout++)
			rows[count++] =
				(struct row){.length = 1, .layout = layout, .variant = variant};
	}
	return count;
}

/* Leaves out what this device has not got. */
static size_t rows_keep(struct bench *bench, struct row *rows, size_t count)
{
	size_t kept = 0;

	for (size_t n = 0; n < count; n++) {
		struct attention_prefill prefill = prefill_of(bench, &rows[n]);
		int status;

		lengths_set(bench, rows[n].length);
		status = attention_prefill_by(bench->gpu, bench->stream, &prefill, rows[n].variant);
		if (status == -ENOTSUP)
			continue;
		MUST(status);
		rows[kept++] = rows[n];
	}
	return kept;
}

/* The pool holds one layout at a time; in a layout, rows and the product take turns. */
static void rows_measure(struct bench *bench, struct row *rows, size_t count, struct cublas *cublas)
{
	for (enum layout layout = 0; layout < LAYOUTS; layout++) {
		if (layout != DENSE)
			pool_write(bench, layout);
		for (unsigned round = 0; round <= bench->rounds; round++) {
			for (size_t n = 0; n < count; n++) {
				if (rows[n].layout != layout)
					continue;
				lengths_set(bench, rows[n].length);
				if (round == 0) /* the first run of each is not timed */
					row_check(bench, &rows[n]);
				else
					rows[n].ns[round - 1] = row_ns(bench, &rows[n]);
			}
			if (cublas->handle && layout == DENSE)
				for (unsigned n = 0; n < 3; n++) /* the last: clocks settled */
					cublas->ns[round ? round - 1 : 0] =
						cublas_ns(bench, cublas);
		}
	}
}

static void options(struct bench *bench, int argc, char **argv)
{
	bench->rounds = 9;
	bench->tokens = TOKENS_MAX;
	for (int n = 1; n < argc; n++) {
		if (!strcmp(argv[n], "--json"))
			bench->json = true;
		else if (!strcmp(argv[n], "--host"))
			bench->host = true;
		else if (!strcmp(argv[n], "--rounds") && n + 1 < argc)
			bench->rounds = (unsigned)strtoul(argv[++n], NULL, 10);
	}
	bench->rounds = MIN_OF(MAX_OF(bench->rounds, 1), ROUNDS_MAX);
	if (!bench->host)
		return;
	bench->rounds = 1;
	bench->tokens = 32;
	for (size_t n = 0; n < ARRAY_COUNT(lengths); n++) {
		lengths[n].queries = 4 + (uint32_t)n;
		lengths[n].context = lengths[n].queries + 16 * (uint32_t)(n % 2);
		lengths[n].launches = 1;
	}
}

static int bench_open(struct bench *bench)
{
	int status = gpu_open(bench->host ? GPU_HOST : GPU_CUDA, 0, &bench->gpu);

	if (status)
		return status;
	if (bench->host)
		MUST(gpu_stream_create(bench->gpu, &bench->stream));
	else
		MUST(gpu_stream_adopt(bench->gpu, 0, &bench->stream));
	MUST(gpu_event_create(bench->gpu, &bench->from));
	MUST(gpu_event_create(bench->gpu, &bench->to));
	return 0;
}

static void bench_close(struct bench *bench)
{
	const uint64_t places[] = {bench->query_at, bench->output_at, bench->pool, bench->dense,
		bench->table, bench->starts, bench->context};

	for (size_t n = 0; n < ARRAY_COUNT(places); n++)
		gpu_free(bench->gpu, places[n]);
	for (size_t n = 0; n < ARRAY_COUNT(bench->base_at); n++)
		gpu_free(bench->gpu, bench->base_at[n]);
	for (size_t n = 0; n < ARRAY_COUNT(bench->matrices) && bench->matrices[n]; n++)
		gpu_free(bench->gpu, bench->matrices[n]);
	free(bench->query);
	free(bench->keys);
	free(bench->values);
	gpu_event_destroy(bench->from);
	gpu_event_destroy(bench->to);
	gpu_stream_destroy(bench->stream);
	gpu_close(bench->gpu);
}

int main(int argc, char **argv)
{
	static struct row rows[32];
	struct bench bench = {0};
	struct cublas cublas = {0};
	size_t count;
	int status;

	options(&bench, argc, argv);
	status = bench_open(&bench);
	if (status) {
		printf("skip: no CUDA device here (%s)\n", strerror(-status));
		return 77;
	}
	bench_create(&bench);
	if (!bench.host && !cublas_open(&cublas)) {
		const char *reason = dlerror();

		fprintf(stderr, "skip: no cuBLAS (%s): no shares\n", reason ? reason : "no handle");
		cublas.handle = NULL;
	}
	count = rows_keep(&bench, rows, rows_make(rows));
	rows_measure(&bench, rows, count, &cublas);
	status = report(&bench, rows, count, &cublas);
	if (cublas.handle)
		cublas.destroy(cublas.handle);
	bench_close(&bench);
	return status;
}
