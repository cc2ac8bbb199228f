/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attention_bench [--json] [--host]: decode attention as a share of what a copy on the
 * device moves, both measured in the same run, one after the other, medians. KV bytes are counted
 * once, the copy's bytes are counted read and written. Each launch reads another layer, so nothing
 * is found in a cache; and between a copy and the launch that is measured another one passes: the
 * copy leaves a cache full of lines to be written back, while decode follows kernels that read.
 *
 * --host runs tiny sizes on this machine, to try the program itself.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "kernels/attention.h"
#include "kernels/gpu.h"
#include "kernels/half.h"

#define SAMPLES	      11
#define WARM_UPS      2
#define HEAD_SIZE     128
#define MEMORY_SHARE  0.84 /* of the device's, for KV */
#define SEQUENCES_MAX 32

struct model {
	const char *name;
	uint32_t query_heads, kv_heads, layers;
};

static const struct model models[] = {
	{"Llama-3-8B", 32, 8, 32},
	{"Yi-6B", 32, 4, 32},
	{"Yi-34B", 56, 8, 60},
};

/* The arena's two orders inside a block, contiguous and by table, and a pool a layer as engines
 * have it. */
enum layout { TOKEN_MAJOR, LAYER_MAJOR, PAGED_TOKEN_MAJOR, PAGED_16, PAGED_128, POOL_16, LAYOUTS };

static const struct {
	const char *name;
	bool paged, token_major, pool;
	uint32_t block_tokens;
} layouts[] = {
	[TOKEN_MAJOR] = {"contiguous, token-major", false, true, false, 16},
	[LAYER_MAJOR] = {"contiguous, layer-major", false, false, false, 16},
	[PAGED_TOKEN_MAJOR] = {"paged 16, token-major", true, true, false, 16},
	[PAGED_16] = {"paged 16, layer-major", true, false, false, 16},
	[PAGED_128] = {"paged 128, layer-major", true, false, false, 128},
	[POOL_16] = {"paged 16, pool a layer", true, false, true, 16},
};

struct bench {
	struct gpu *gpu;
	struct gpu_stream *stream;
	struct gpu_event *events[4];
	bool json, host, first;
	uint64_t memory;
	size_t memory_bytes, copy_bytes;
	uint64_t queries, output, workspace, tables, bases, lengths;
	size_t table_entries, workspace_bytes;
};

/* One row of the table. */
struct job {
	const struct model *model;
	enum layout layout;
	uint32_t sequences, layers;
	const char *lengths_name;
	int32_t lengths[SEQUENCES_MAX];
	uint64_t tokens;
};

struct figures {
	double decode_us, decode_tb, copy_tb;
};

static void must(int status, const char *what)
{
	if (status < 0) {
		fprintf(stderr, "%s: %s\n", what, strerror(-status));
		exit(1);
	}
}

static uint64_t allocate(struct bench *bench, size_t bytes)
{
	uint64_t at;

	must(gpu_alloc(bench->gpu, bytes, &at), "gpu_alloc");
	return at;
}

/* Random bf16 in (-2, 2) without subnormals: upload some, then copy it over the rest. */
static void fill(struct bench *bench, uint64_t at, size_t bytes)
{
	size_t piece = MIN_OF(bytes, (size_t)64 << 20);
	uint16_t *codes = malloc(piece);
	uint64_t state = 1;

	if (!codes)
		exit(1);
	for (size_t n = 0; n < piece / 2; n++) {
		state = state * 6364136223846793005u + 1442695040888963407u;
		/* A sign, one of eight exponents, seven bits of mantissa. */
		codes[n] = (uint16_t)(((state >> 63) << 15) | ((120 + (state >> 60 & 7)) << 7) |
				      (state >> 40 & 0x7f));
	}
	must(gpu_copy_in(bench->stream, at, codes, piece), "gpu_copy_in");
	for (size_t done = piece; done < bytes;) {
		size_t more = MIN_OF(done, bytes - done);

		must(gpu_copy(bench->stream, at + done, at, more), "gpu_copy");
		done += more;
	}
	must(gpu_stream_sync(bench->stream), "fill");
	free(codes);
}

static void bench_open(struct bench *bench, size_t tokens_max)
{
	const struct gpu_info *info;
	int status = gpu_open(bench->host ? GPU_HOST : GPU_CUDA, 0, &bench->gpu);

	if (status < 0) {
		printf("skip: there is no device (%s)\n", strerror(-status));
		exit(0);
	}
	info = gpu_info(bench->gpu);
	must(gpu_stream_create(bench->gpu, &bench->stream), "gpu_stream_create");
	for (size_t n = 0; n < ARRAY_COUNT(bench->events); n++)
		must(gpu_event_create(bench->gpu, &bench->events[n]), "gpu_event_create");
	bench->memory_bytes = (size_t)64 << 30;
	if (bench->host)
		bench->memory_bytes = (size_t)8 << 20;
	else if (bench->memory_bytes > (double)info->memory_bytes * MEMORY_SHARE)
		bench->memory_bytes =
			(size_t)((double)info->memory_bytes * MEMORY_SHARE) >> 30 << 30;
	while (gpu_alloc(bench->gpu, bench->memory_bytes, &bench->memory) == -ENOMEM)
		bench->memory_bytes /= 2;
	bench->copy_bytes = MIN_OF(bench->memory_bytes / 2, (size_t)1 << 30);
	fill(bench, bench->memory, bench->memory_bytes);
	bench->queries = allocate(bench, SEQUENCES_MAX * 64 * HEAD_SIZE * 2);
	fill(bench, bench->queries, SEQUENCES_MAX * 64 * HEAD_SIZE * 2);
	bench->output = allocate(bench, SEQUENCES_MAX * 64 * HEAD_SIZE * 2);
	bench->workspace_bytes = bench->host ? 16 << 20 : 64 << 20;
	bench->workspace = allocate(bench, bench->workspace_bytes);
	bench->table_entries = tokens_max / 16 * SEQUENCES_MAX;
	bench->tables = allocate(bench, bench->table_entries * sizeof(int32_t));
	bench->bases = allocate(bench, SEQUENCES_MAX * sizeof(uint64_t));
	bench->lengths = allocate(bench, SEQUENCES_MAX * sizeof(int32_t));
}

static void bench_close(struct bench *bench)
{
	const uint64_t places[] = {bench->memory, bench->queries, bench->output, bench->workspace,
		bench->tables, bench->bases, bench->lengths};

	for (size_t n = 0; n < ARRAY_COUNT(places); n++)
		gpu_free(bench->gpu, places[n]);
	for (size_t n = 0; n < ARRAY_COUNT(bench->events); n++)
		gpu_event_destroy(bench->events[n]);
	gpu_stream_destroy(bench->stream);
	gpu_close(bench->gpu);
}

/* Bytes from one layer to the next. */
static uint64_t layer_bytes(const struct job *job)
{
	uint64_t bytes = 2 * (uint64_t)job->model->kv_heads * HEAD_SIZE * 2;

	if (layouts[job->layout].pool)
		return bytes * job->tokens;
	return layouts[job->layout].token_major ? bytes : bytes * layouts[job->layout].block_tokens;
}

/* A place for every block of every sequence, shuffled. */
static void table_place(struct bench *bench, const struct job *job, const struct attention_kv *kv)
{
	size_t blocks = job->tokens / kv->block_tokens, next = 0;
	size_t entries = (size_t)kv->table_stride * job->sequences;
	int32_t *shuffled = malloc(blocks * sizeof(int32_t));
	int32_t *table = calloc(entries, sizeof(int32_t));
	uint64_t state = 7;

	if (!shuffled || !table || entries > bench->table_entries)
		exit(1);
	for (size_t n = 0; n < blocks; n++)
		shuffled[n] = (int32_t)n;
	for (size_t n = blocks; n > 1; n--) {
		size_t other = (size_t)((state = mix64(state)) % n);
		int32_t block = shuffled[n - 1];

		shuffled[n - 1] = shuffled[other];
		shuffled[other] = block;
	}
	for (uint32_t s = 0; s < job->sequences; s++)
		for (uint32_t n = 0; n < (uint32_t)job->lengths[s] / kv->block_tokens; n++)
			table[s * kv->table_stride + n] = shuffled[next++];
	must(gpu_copy_in(bench->stream, bench->tables, table, entries * sizeof(int32_t)), "tables");
	free(shuffled);
	free(table);
}

/* Where every sequence begins, from the first one: one after the other. */
static void bases_place(struct bench *bench, const struct job *job, const struct attention_kv *kv)
{
	uint64_t bases[SEQUENCES_MAX] = {0}, at = 0;

	for (uint32_t s = 0; s < job->sequences; s++) {
		bases[s] = at;
		at += (uint64_t)job->lengths[s] / kv->block_tokens * (uint64_t)kv->block_stride;
	}
	must(gpu_copy_in(bench->stream, bench->bases, bases, sizeof(bases)), "bases");
}

static struct attention_kv kv_place(struct bench *bench, const struct job *job)
{
	int64_t row = job->model->kv_heads * HEAD_SIZE * 2;
	uint32_t block_tokens = layouts[job->layout].block_tokens, longest = 0;
	int64_t layers = layouts[job->layout].pool ? 1 : job->layers;
	struct attention_kv kv = {.block_tokens = block_tokens, .head_stride = HEAD_SIZE * 2};

	kv.block_stride = layers * 2 * block_tokens * row;
	kv.token_stride = layouts[job->layout].token_major ? layers * 2 * row : row;
	kv.value_offset = layouts[job->layout].token_major ? row : block_tokens * row;
	for (uint32_t s = 0; s < job->sequences; s++)
		longest = MAX_OF(longest, (uint32_t)job->lengths[s]);
	kv.table_stride = longest / block_tokens;
	table_place(bench, job, &kv);
	bases_place(bench, job, &kv);
	must(gpu_copy_in(bench->stream, bench->lengths, job->lengths, sizeof(job->lengths)),
		"lengths");
	must(gpu_stream_sync(bench->stream), "tables");
	return kv;
}

static void submit(struct bench *bench, const struct job *job, struct attention_decode *decode,
	uint32_t number)
{
	decode->kv.base = bench->memory + number % job->layers * layer_bytes(job);
	if (layouts[job->layout].paged)
		decode->kv.table = bench->tables;
	else
		decode->kv.bases = bench->bases;
	must(attention_decode(bench->gpu, bench->stream, decode), "attention_decode");
}

static int by_size(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

	return left < right ? -1 : left > right;
}

static double median_us(uint64_t *ns, size_t count)
{
	qsort(ns, count, sizeof(*ns), by_size);
	return (double)ns[count / 2] / 1000;
}

static struct attention_decode decode_of(struct bench *bench, const struct job *job)
{
	const struct model *model = job->model;
	uint64_t row = (uint64_t)model->query_heads * HEAD_SIZE * 2;
	struct attention_decode decode = {.shape = {job->sequences, model->query_heads,
						  model->kv_heads, HEAD_SIZE, ATTENTION_BF16},
		.kv = kv_place(bench, job),
		.query = bench->queries,
		.query_stride = row,
		.lengths = bench->lengths,
		.output = bench->output,
		.output_stride = row,
		.workspace = bench->workspace,
		.scale = 0.0883883476f};

	return decode;
}

/* Copy and decode in turn. */
static void measure(struct bench *bench, const struct job *job, struct figures *figures)
{
	struct attention_decode decode = decode_of(bench, job);
	uint64_t copy_ns[SAMPLES], decode_ns[SAMPLES];
	int samples = bench->host ? 1 : SAMPLES;
	double bytes = (double)job->tokens * 4 * job->model->kv_heads * HEAD_SIZE;

	for (int n = -WARM_UPS; n < samples; n++) {
		uint32_t number = 2 * (uint32_t)(n + WARM_UPS);

		must(gpu_event_record(bench->events[0], bench->stream), "event");
		must(gpu_copy(bench->stream, bench->memory + bench->copy_bytes, bench->memory,
			     bench->copy_bytes),
			"gpu_copy");
		must(gpu_event_record(bench->events[1], bench->stream), "event");
		submit(bench, job, &decode, number);
		must(gpu_event_record(bench->events[2], bench->stream), "event");
		submit(bench, job, &decode, number + 1);
		must(gpu_event_record(bench->events[3], bench->stream), "event");
		must(gpu_stream_sync(bench->stream), "decode");
		if (n < 0)
			continue;
		must(gpu_event_ns(bench->events[0], bench->events[1], &copy_ns[n]), "event");
		must(gpu_event_ns(bench->events[2], bench->events[3], &decode_ns[n]), "event");
	}
	figures->decode_us = median_us(decode_ns, (size_t)samples);
	figures->decode_tb = bytes / figures->decode_us / 1e6;
	figures->copy_tb =
		2 * (double)bench->copy_bytes / median_us(copy_ns, (size_t)samples) / 1e6;
}

/* A row of the table; answers TB/s. */
static double report(struct bench *bench, const struct job *job)
{
	struct figures figures;

	measure(bench, job, &figures);
	if (bench->json) {
		printf("%s\n\t{\"model\": \"%s\", \"layout\": \"%s\", \"sequences\": %u, "
		       "\"lengths\": \"%s\", \"layers\": %u, "
		       "\"us\": %.1f, \"tb_s\": %.3f, \"copy_tb_s\": %.3f, \"ratio\": %.3f}",
			bench->first ? "" : ",", job->model->name, layouts[job->layout].name,
			job->sequences, job->lengths_name, job->layers, figures.decode_us,
			figures.decode_tb, figures.copy_tb, figures.decode_tb / figures.copy_tb);
	} else {
		printf("%-11s %-24s %2u x %-6s %2u layers %8.1f us %6.3f TB/s  copy %6.3f  "
		       "%.3f\n",
			job->model->name, layouts[job->layout].name, job->sequences,
			job->lengths_name, job->layers, figures.decode_us, figures.decode_tb,
			figures.copy_tb, figures.decode_tb / figures.copy_tb);
	}
	bench->first = false;
	fflush(stdout);
	return figures.decode_tb;
}

/*
 * @sequences of @context tokens, or as many tokens unevenly: each sequence half of what is left.
 * As many layers as fit stand around the one that is read.
 */
static struct job job_make(struct bench *bench, const struct model *model, uint32_t sequences,
	int32_t context, bool even)
{
	struct job job = {.model = model, .sequences = sequences, .tokens = 0};
	int64_t left = (int64_t)sequences * context;

	job.lengths_name = !even ? "uneven" : context == 16384 ? "16384" : "short";
	for (uint32_t s = 0; s < sequences; s++) {
		int64_t length = even ? context : s + 1 == sequences ? left : left / 2;

		length = MAX_OF(length / 128 * 128, 128);
		job.lengths[s] = (int32_t)length;
		job.tokens += (uint64_t)length;
		left -= length;
	}
	job.layers = (uint32_t)MIN_OF(model->layers,
		bench->memory_bytes / (job.tokens * 4 * model->kv_heads * HEAD_SIZE));
	if (!job.layers)
		exit(1);
	return job;
}

/* All layouts, and what they are beside each other. */
static void report_layouts(struct bench *bench, struct job *job)
{
	double tb[LAYOUTS], ratios[3];

	for (int layout = 0; layout < LAYOUTS; layout++) {
		job->layout = (enum layout)layout;
		tb[layout] = report(bench, job);
	}
	ratios[0] = tb[TOKEN_MAJOR] / tb[PAGED_TOKEN_MAJOR];
	ratios[1] = tb[LAYER_MAJOR] / tb[PAGED_16];
	ratios[2] = tb[PAGED_16] / tb[PAGED_128];
	if (bench->json)
		printf(",\n\t{\"model\": \"%s\", \"sequences\": %u, \"lengths\": \"%s\", "
		       "\"contiguous_to_paged_token_major\": %.3f, "
		       "\"contiguous_to_paged_layer_major\": %.3f, \"block_16_to_128\": %.3f}",
			job->model->name, job->sequences, job->lengths_name, ratios[0], ratios[1],
			ratios[2]);
	else
		printf("%-11s contiguous / paged: token-major %.3f, layer-major %.3f; "
		       "block 16 / 128: %.3f\n",
			job->model->name, ratios[0], ratios[1], ratios[2]);
}

static void run_layouts(struct bench *bench, int32_t context)
{
	static const uint32_t batches[] = {1, 4, 8, 16, 32};
	size_t batch_count = bench->host ? 1 : ARRAY_COUNT(batches);
	size_t model_count = bench->host ? 1 : ARRAY_COUNT(models);
	struct job job;

	for (size_t m = 0; m < model_count; m++)
		for (size_t b = 0; b < batch_count; b++) {
			job = job_make(bench, &models[m], batches[b], context, true);
			report_layouts(bench, &job);
		}
	job = job_make(bench, &models[0], bench->host ? 2 : 8, context, false);
	report_layouts(bench, &job);
}

int main(int argc, char **argv)
{
	struct bench bench = {.first = true};
	int32_t context;

	for (int n = 1; n < argc; n++) {
		if (!strcmp(argv[n], "--json")) {
			bench.json = true;
		} else if (!strcmp(argv[n], "--host")) {
			bench.host = true;
		} else {
			fprintf(stderr, "attention_bench [--json] [--host]\n");
			return 2;
		}
	}
	context = bench.host ? 128 : 16384;
	bench_open(&bench, (size_t)context * 8);
	printf(bench.json ? "{\"device\": \"%s\", \"kv_bytes\": %zu, \"rows\": ["
			  : "%s, KV in %zu bytes; median of %d\n",
		gpu_info(bench.gpu)->name, bench.memory_bytes, SAMPLES);
	run_layouts(&bench, context);
	if (bench.json)
		printf("\n]}\n");
	bench_close(&bench);
	return 0;
}
