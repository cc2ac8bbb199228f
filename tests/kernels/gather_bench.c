/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gather and scatter beside the device's own copy, and the way between host and device beside a
 * plain page-locked copy. Speeds count bytes read plus bytes written on the device, and bytes moved
 * on the way to the host; ratios are to the ceiling of the same rounds. Pages are shuffled.
 *
 *	gather_bench [--json] [--host]
 *	gather_bench --device	(which device: one line, exit 1 where there is none)
 *
 * On the host back end sizes are small: there it only shows that the program runs.
 */
#include <inttypes.h>

#include "base/bits.h"
#include "kernels/gather.h"
#include "kernels/gather_args.h"
#include "kernels/pattern.h"
#include "tests/kernels/bench.h"

#define MIB	   ((size_t)1 << 20)
#define PLANES_MAX 128
#define RANGES_MAX 64
#define REPEATS	   3 /* launches of one measurement */

/* One layout of tensors with its blocks, on the device. */
struct stage {
	struct bench *bench;
	struct gather_layout layout;
	uint32_t blocks;
	uint64_t tensors, parts, copy, blocks_at, pages_at, bases_at, sums, failed, scratch;
	struct gather_work work;
	size_t part_bytes, bytes;
};

static void send(struct bench *bench, uint64_t to, const void *from, size_t bytes)
{
	BENCH_TRY(gpu_copy_in(bench->stream, to, from, bytes));
	BENCH_TRY(gpu_stream_sync(bench->stream));
}

static void shuffle(uint32_t *numbers, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t j = (uint32_t)(mix64(i) % (i + 1));

		numbers[i] = numbers[j];
		numbers[j] = i;
	}
}

/* Parts of another shape, which are no longer than those the stage was opened for. */
static void stage_shape(struct stage *stage, const struct gather_layout *layout)
{
	stage->layout = *layout;
	stage->part_bytes = gather_part_bytes(layout);
	stage->bytes = stage->part_bytes * stage->blocks;
}

/* Random words in all of the tensors. */
static void stage_fill(struct stage *stage)
{
	BENCH_TRY(pattern_fill(stage->bench->gpu, stage->bench->stream,
		&(struct pattern_fill_args){
			.at = stage->tensors, .words = stage->bytes / 8, .seed = clock_ns()}));
	BENCH_TRY(gpu_stream_sync(stage->bench->stream));
}

/* The work of all blocks: block i has its tokens somewhere in a page of its own or a shared one. */
static void stage_work(struct stage *stage, uint32_t page_tokens, bool heads_first)
{
	const struct gather_layout *layout = &stage->layout;
	struct gather_block *blocks = calloc(stage->blocks, sizeof(*blocks));
	uint32_t *pages = calloc(stage->blocks, sizeof(*pages));
	uint32_t *order = calloc(stage->blocks, sizeof(*order));
	uint32_t page_blocks = page_tokens / layout->tokens;
	uint64_t bases[PLANES_MAX];
	struct gather_tensors tensors = {.bases = bases,
		.page_tokens = page_tokens,
		.page_count = stage->blocks / page_blocks};

	tensors.head_stride = layout->head_bytes;
	tensors.token_stride = (uint64_t)layout->head_bytes * layout->heads;
	tensors.page_stride = tensors.token_stride * page_tokens;
	if (heads_first) {
		tensors.token_stride = layout->head_bytes;
		tensors.head_stride = tensors.token_stride * page_tokens;
	}
	for (uint32_t i = 0; i < layout->layers * layout->kinds; i++)
		bases[i] = stage->tensors + i * tensors.page_stride * tensors.page_count;
	shuffle(order, stage->blocks);
	for (uint32_t i = 0; i < stage->blocks; i++) {
		pages[i] = order[i] / page_blocks;
		blocks[i] = (struct gather_block){stage->parts + i * stage->part_bytes, i,
			order[i] % page_blocks * layout->tokens};
	}
	stage->work = (struct gather_work){.bases = stage->bases_at,
		.blocks = stage->blocks_at,
		.pages = stage->pages_at,
		.sums = stage->sums,
		.scratch = stage->scratch,
		.count = stage->blocks};
	BENCH_TRY(gather_plan_make(&stage->work.plan, layout, &tensors));
	BENCH_TRY(gather_blocks_check(&stage->work.plan, blocks, stage->blocks,
		(struct gather_pages){pages, stage->blocks}, NULL));
	send(stage->bench, stage->bases_at, bases, sizeof(bases));
	send(stage->bench, stage->blocks_at, blocks, stage->blocks * sizeof(*blocks));
	send(stage->bench, stage->pages_at, pages, stage->blocks * sizeof(*pages));
	BENCH_TRY(gpu_fill(stage->bench->stream, stage->scratch, 0, stage->blocks * 8192));
	free(blocks);
	free(pages);
	free(order);
}

static void stage_open(struct stage *stage, struct bench *bench, uint32_t blocks)
{
	*stage = (struct stage){.bench = bench,
		.blocks = blocks,
		.layout = {GATHER_LAYER_MAJOR, 32, 2, 16, 8, 256, 32}};
	if (bench_on_host(bench))
		stage->layout.layers = stage->layout.ranges = 2;
	stage->part_bytes = gather_part_bytes(&stage->layout);
	stage->bytes = stage->part_bytes * blocks;
	BENCH_TRY(gpu_alloc(bench->gpu, stage->bytes, &stage->tensors));
	BENCH_TRY(gpu_alloc(bench->gpu, stage->bytes, &stage->parts));
	BENCH_TRY(gpu_alloc(bench->gpu, stage->bytes, &stage->copy));
	BENCH_TRY(gpu_alloc(bench->gpu, blocks * sizeof(struct gather_block), &stage->blocks_at));
	BENCH_TRY(gpu_alloc(bench->gpu, blocks * sizeof(uint32_t), &stage->pages_at));
	BENCH_TRY(gpu_alloc(bench->gpu, PLANES_MAX * sizeof(uint64_t), &stage->bases_at));
	BENCH_TRY(gpu_alloc(bench->gpu, (size_t)blocks * 128 * 8, &stage->sums));
	BENCH_TRY(gpu_alloc(bench->gpu, (size_t)blocks * RANGES_MAX, &stage->failed));
	BENCH_TRY(gpu_fill(bench->stream, stage->failed, 1, (size_t)blocks * RANGES_MAX));
	BENCH_TRY(gpu_alloc(bench->gpu, (size_t)blocks * 8192, &stage->scratch));
	stage_fill(stage);
}

static void stage_close(struct stage *stage)
{
	const uint64_t areas[] = {stage->tensors, stage->parts, stage->copy, stage->blocks_at,
		stage->pages_at, stage->bases_at, stage->sums, stage->failed, stage->scratch};

	for (size_t i = 0; i < ARRAY_COUNT(areas); i++)
		gpu_free(stage->bench->gpu, areas[i]);
}

/* What is measured: a way, with sums or not, by which variant, on how many blocks. */
struct job {
	const char *what;
	enum gather_way way;
	bool sums;
	bool copies; /* none of it: the device's own copy of as many bytes */
	uint32_t blocks;
	double gb_s[BENCH_ROUNDS];
};

static void job_submit(struct stage *stage, const struct job *job)
{
	struct gather_work work = stage->work;

	if (job->copies) {
		BENCH_TRY(gpu_copy(stage->bench->stream, stage->copy, stage->parts,
			job->blocks * stage->part_bytes));
		return;
	}
	work.count = job->blocks;
	if (!job->sums)
		work.sums = 0;
	else if (job->way == GATHER_OUT) {
		/* What the gather before it has found. */
		work.expected = work.sums;
		work.sums = 0;
		work.failed = stage->failed;
	}
	BENCH_TRY(gather_submit(
		stage->bench->stream, &work, job->way, gather_choose(&work, job->way)));
}

/* Bytes a launch moves on the device. */
static double job_bytes(const struct stage *stage, const struct job *job)
{
	return (double)job->blocks * (double)stage->part_bytes * (job->way == GATHER_SUM ? 1 : 2);
}

/* Takes the time of REPEATS launches, or (@job NULL) of the device's own copy. GB/s. */
static double time_once(struct stage *stage, struct gpu_event *events[2], const struct job *job)
{
	struct gpu_stream *stream = stage->bench->stream;
	uint64_t ns;

	BENCH_TRY(gpu_event_record(events[0], stream));
	for (unsigned i = 0; i < REPEATS; i++) {
		if (job)
			job_submit(stage, job);
		else
			BENCH_TRY(gpu_copy(stream, stage->copy, stage->parts, stage->bytes));
	}
	BENCH_TRY(gpu_event_record(events[1], stream));
	BENCH_TRY(gpu_stream_sync(stream));
	BENCH_TRY(gpu_event_ns(events[0], events[1], &ns));
	return REPEATS * (job ? job_bytes(stage, job) : 2.0 * (double)stage->bytes) /
	       (double)MAX_OF(ns, 1u);
}

/* All jobs and the copy in turn; a row each, with the ratio to the copy. */
static void jobs_measure(struct stage *stage, struct job *jobs, size_t count)
{
	double copies[BENCH_ROUNDS], copy;
	struct gpu_event *events[2];

	for (size_t i = 0; i < 2; i++)
		BENCH_TRY(gpu_event_create(stage->bench->gpu, &events[i]));
	for (size_t round = 0; round < BENCH_ROUNDS + 1; round++) {
		size_t place = round ? round - 1 : 0; /* the first is for warmth */

		copies[place] = time_once(stage, events, NULL);
		for (size_t i = 0; i < count; i++)
			jobs[i].gb_s[place] = time_once(stage, events, &jobs[i]);
	}
	copy = bench_median(copies, BENCH_ROUNDS);
	bench_row(stage->bench, "device copy", stage->bytes, copy, "GB/s", NAN);
	for (size_t i = 0; i < count; i++) {
		double gb_s = bench_median(jobs[i].gb_s, BENCH_ROUNDS);

		bench_row(stage->bench, jobs[i].what, jobs[i].blocks * stage->part_bytes, gb_s,
			"GB/s", gb_s / copy);
	}
	for (size_t i = 0; i < 2; i++)
		gpu_event_destroy(events[i]);
}

/* Every range scattered last had the sum that was gathered. */
static void require_sound(struct stage *stage)
{
	size_t ranges = (size_t)stage->blocks * stage->work.plan.layout.ranges;
	unsigned char *failed = malloc(ranges);

	BENCH_TRY(gpu_copy_out(stage->bench->stream, failed, stage->failed, ranges));
	BENCH_TRY(gpu_fill(stage->bench->stream, stage->failed, 1, ranges));
	BENCH_TRY(gpu_stream_sync(stage->bench->stream));
	for (size_t i = 0; i < ranges; i++)
		if (failed[i]) {
			fprintf(stderr, "range %zu differs\n", i);
			exit(1);
		}
	free(failed);
}

/* Both orders, pages of 16 and 128 tokens, tokens first and heads first. */
static void measure_layouts(struct stage *stage)
{
	for (unsigned i = 0; i < 8; i++) {
		enum gather_order order = i & 1 ? GATHER_TOKEN_MAJOR : GATHER_LAYER_MAJOR;
		uint32_t page_tokens = i & 2 ? 128 : 16;
		struct job jobs[] = {
			{.what = "gather with sums", .way = GATHER_IN, .sums = true},
			{.what = "gather", .way = GATHER_IN},
			{.what = "scatter, verified", .way = GATHER_OUT, .sums = true},
			{.what = "scatter", .way = GATHER_OUT},
			{.what = "sums alone (bytes read)", .way = GATHER_SUM, .sums = true},
		};
		char name[96];

		stage->layout.order = order;
		stage->layout.ranges = order == GATHER_LAYER_MAJOR ? stage->layout.layers : 1;
		for (size_t j = 0; j < ARRAY_COUNT(jobs); j++)
			jobs[j].blocks = stage->blocks;
		snprintf(name, sizeof(name), "Llama-3-8B, %s-major parts, %s pages of %u tokens",
			order == GATHER_LAYER_MAJOR ? "layer" : "token", i & 4 ? "HND" : "NHD",
			page_tokens);
		bench_group(stage->bench, name);
		stage_work(stage, page_tokens, i & 4);
		jobs_measure(stage, jobs, ARRAY_COUNT(jobs));
		require_sound(stage);
	}
}

/* Few blocks: what a launch costs beside what it moves, and beside a copy of the same bytes. */
static void measure_sizes(struct stage *stage)
{
	static const uint32_t counts[] = {1, 4, 16, 64};
	struct job jobs[3 * ARRAY_COUNT(counts)];
	size_t used = 0;

	stage->layout.order = GATHER_LAYER_MAJOR;
	stage->layout.ranges = stage->layout.layers;
	stage_work(stage, 16, false);
	for (size_t i = 0; i < ARRAY_COUNT(counts); i++) {
		uint32_t blocks = MIN_OF(counts[i], stage->blocks);

		jobs[used++] = (struct job){
			.what = "copy of the same bytes", .copies = true, .blocks = blocks};
		jobs[used++] = (struct job){.what = "gather with sums",
			.way = GATHER_IN,
			.sums = true,
			.blocks = blocks};
		jobs[used++] = (struct job){.what = "scatter, verified",
			.way = GATHER_OUT,
			.sums = true,
			.blocks = blocks};
	}
	bench_group(stage->bench, "Llama-3-8B, few blocks a launch (some fit the cache)");
	jobs_measure(stage, jobs, used);
}

/* Runs that are shorter or odd: what else the kernels are made for. */
static void measure_shapes(struct stage *stage)
{
	static const struct {
		const char *what;
		struct gather_layout layout;
	} shapes[] = {
		{"heads of 128 in 8 bits, HND: runs of 128 bytes",
			{GATHER_LAYER_MAJOR, 32, 2, 16, 8, 128, 32}},
		{"heads of 80 in 16 bits, HND: runs of 160 bytes",
			{GATHER_LAYER_MAJOR, 32, 2, 16, 8, 160, 32}},
		{"a latent of 576 in 16 bits: runs of 1,152 bytes",
			{GATHER_LAYER_MAJOR, 61, 1, 16, 1, 1152, 61}},
	};
	const struct gather_layout usual = stage->layout;

	for (size_t i = 0; i < ARRAY_COUNT(shapes); i++) {
		struct job jobs[] = {
			{.what = "gather with sums", .way = GATHER_IN, .sums = true},
			{.what = "scatter, verified", .way = GATHER_OUT, .sums = true},
		};

		for (size_t j = 0; j < ARRAY_COUNT(jobs); j++)
			jobs[j].blocks = stage->blocks;
		stage_shape(stage, &shapes[i].layout);
		bench_group(stage->bench, shapes[i].what);
		stage_work(stage, 16, true);
		jobs_measure(stage, jobs, ARRAY_COUNT(jobs));
		require_sound(stage);
	}
	stage_shape(stage, &usual);
}

/* --------------------------------------------------------------------- between host and device */

#define SLOTS_MAX      4
#define SLOT_PARTS_MAX 8

/* Parts in page-locked memory, and a ring of slots on the device. */
struct ferry {
	struct stage *stage;
	unsigned char *frames;
	uint64_t ring;
	uint32_t slots, slot_parts;
	bool joined; /* frames side by side go as one copy */
	struct gpu_stream *copies, *kernels;
	struct gpu_event *copied[SLOTS_MAX], *done[SLOTS_MAX], *began, *ended;
};

/* Part @index: in the ring, in the slot that its turn has, or (no slots) in its frame itself. */
static uint64_t ferry_part(const struct ferry *ferry, uint32_t index)
{
	uint64_t bytes = ferry->stage->part_bytes;

	if (!ferry->slots)
		return (uint64_t)(uintptr_t)ferry->frames + index * bytes;
	return ferry->ring + index % (ferry->slots * ferry->slot_parts) * bytes;
}

static void ferry_places(struct ferry *ferry)
{
	struct stage *stage = ferry->stage;
	struct gather_block *blocks = calloc(stage->blocks, sizeof(*blocks));

	BENCH_TRY(gpu_copy_out(
		stage->bench->stream, blocks, stage->blocks_at, stage->blocks * sizeof(*blocks)));
	BENCH_TRY(gpu_stream_sync(stage->bench->stream));
	for (uint32_t i = 0; i < stage->blocks; i++)
		blocks[i].part = ferry_part(ferry, i);
	send(stage->bench, stage->blocks_at, blocks, stage->blocks * sizeof(*blocks));
	free(blocks);
}

static struct gather_work ferry_work(const struct ferry *ferry, uint32_t first, bool load)
{
	struct gather_work work = ferry->stage->work;
	uint64_t sums = work.sums + (uint64_t)first * work.plan.layout.ranges * 8;

	work.blocks += first * sizeof(struct gather_block);
	work.count = MIN_OF(ferry->slot_parts, ferry->stage->blocks - first);
	work.sums = load ? 0 : sums;
	work.expected = load ? sums : 0;
	work.failed = load ? ferry->stage->failed + (uint64_t)first * work.plan.layout.ranges : 0;
	return work;
}

/* The copies of one slot's parts: one each, or one for all, whose frames lie side by side. */
static void ferry_copy(
	struct ferry *ferry, uint32_t slot, uint32_t first, uint32_t count, bool load)
{
	size_t part = ferry->stage->part_bytes, step = ferry->joined ? count : 1;

	for (size_t i = 0; i < count; i += step) {
		uint64_t at = ferry->ring + (slot * ferry->slot_parts + i) * part;
		unsigned char *frame = ferry->frames + (first + i) * part;

		if (load)
			BENCH_TRY(gpu_copy_in(ferry->copies, at, frame, step * part));
		else
			BENCH_TRY(gpu_copy_out(ferry->copies, frame, at, step * part));
	}
	BENCH_TRY(gpu_event_record(ferry->copied[slot], ferry->copies));
}

/* One slot's worth of parts: copied, then one kernel; or the other way round. */
static void ferry_slot(struct ferry *ferry, uint32_t first, bool load)
{
	uint32_t turn = first / ferry->slot_parts, slot = turn % ferry->slots;
	struct gather_work work = ferry_work(ferry, first, load);

	if (load) {
		if (turn >= ferry->slots)
			BENCH_TRY(gpu_stream_wait(ferry->copies, ferry->done[slot]));
		ferry_copy(ferry, slot, first, work.count, load);
		BENCH_TRY(gpu_stream_wait(ferry->kernels, ferry->copied[slot]));
		BENCH_TRY(scatter_parts(ferry->kernels, &work));
		BENCH_TRY(gpu_event_record(ferry->done[slot], ferry->kernels));
		return;
	}
	if (turn >= ferry->slots)
		BENCH_TRY(gpu_stream_wait(ferry->kernels, ferry->copied[slot]));
	BENCH_TRY(gather_parts(ferry->kernels, &work));
	BENCH_TRY(gpu_event_record(ferry->done[slot], ferry->kernels));
	BENCH_TRY(gpu_stream_wait(ferry->copies, ferry->done[slot]));
	ferry_copy(ferry, slot, first, work.count, load);
}

static void ferry_sync(struct ferry *ferry)
{
	BENCH_TRY(gpu_stream_sync(ferry->copies));
	BENCH_TRY(gpu_stream_sync(ferry->kernels));
}

/* All blocks once; GB/s from the first submission to the last byte. */
static double ferry_once(struct ferry *ferry, bool load)
{
	struct stage *stage = ferry->stage;
	uint64_t began_ns = clock_ns();

	for (uint32_t i = 0; i < stage->blocks; i += ferry->slot_parts) {
		struct gather_work work = ferry_work(ferry, i, load);

		if (ferry->slots)
			ferry_slot(ferry, i, load);
		else if (load)
			BENCH_TRY(scatter_parts(ferry->kernels, &work));
		else
			BENCH_TRY(gather_parts(ferry->kernels, &work));
	}
	ferry_sync(ferry);
	return (double)stage->bytes / (double)(clock_ns() - began_ns);
}

/* The same bytes by plain copies of @piece bytes each, between frames and device memory. */
static double plain_once(struct ferry *ferry, size_t piece, bool load)
{
	struct stage *stage = ferry->stage;
	uint64_t began_ns = clock_ns();

	for (size_t at = 0; at < stage->bytes; at += piece) {
		if (load)
			BENCH_TRY(gpu_copy_in(
				ferry->copies, stage->copy + at, ferry->frames + at, piece));
		else
			BENCH_TRY(gpu_copy_out(
				ferry->copies, ferry->frames + at, stage->copy + at, piece));
	}
	ferry_sync(ferry);
	return (double)stage->bytes / (double)(clock_ns() - began_ns);
}

static void ferry_open(struct ferry *ferry, struct stage *stage)
{
	struct gpu *gpu = stage->bench->gpu;

	*ferry = (struct ferry){.stage = stage};
	BENCH_TRY(gpu_pinned_alloc(gpu, stage->bytes, (void **)&ferry->frames));
	BENCH_TRY(gpu_alloc(gpu, SLOTS_MAX * SLOT_PARTS_MAX * stage->part_bytes, &ferry->ring));
	BENCH_TRY(gpu_stream_create(gpu, &ferry->copies));
	BENCH_TRY(gpu_stream_create(gpu, &ferry->kernels));
	for (size_t i = 0; i < SLOTS_MAX; i++) {
		BENCH_TRY(gpu_event_create(gpu, &ferry->copied[i]));
		BENCH_TRY(gpu_event_create(gpu, &ferry->done[i]));
	}
}

static void ferry_close(struct ferry *ferry)
{
	struct gpu *gpu = ferry->stage->bench->gpu;

	for (size_t i = 0; i < SLOTS_MAX; i++) {
		gpu_event_destroy(ferry->copied[i]);
		gpu_event_destroy(ferry->done[i]);
	}
	gpu_stream_destroy(ferry->copies);
	gpu_stream_destroy(ferry->kernels);
	gpu_free(gpu, ferry->ring);
	gpu_pinned_free(gpu, ferry->frames);
}

/*
 * A way over: plain copies of @piece bytes (0: of everything), through a ring, or (no slots)
 * kernels that reach into the frames themselves.
 */
struct crossing {
	size_t piece;
	uint32_t slots, slot_parts;
	bool joined;
};

static double cross(struct ferry *ferry, const struct crossing *crossing, bool load)
{
	struct stage *stage = ferry->stage;

	ferry->joined = crossing->joined;
	if (!crossing->slot_parts)
		return plain_once(ferry, crossing->piece ? crossing->piece : stage->bytes, load);
	ferry->slots = crossing->slots;
	ferry->slot_parts = crossing->slot_parts;
	ferry_places(ferry);
	return ferry_once(ferry, load);
}

/*
 * Twice: beside one copy of everything, and the rings beside copies of a part each, which is the
 * most that can be had of a pool whose parts lie anywhere.
 */
static void ferry_rows(struct stage *stage, bool load, const struct crossing *crossings,
	const double *gb_s, size_t count)
{
	char name[64];

	bench_group(stage->bench, load ? "host to device, 16 KiB pieces, verified"
				       : "device to host, 16 KiB pieces, summed");
	bench_row(stage->bench, "one page-locked copy", stage->bytes, gb_s[0], "GB/s", NAN);
	for (size_t i = 1; i < 2 * count - 1; i++) {
		size_t row = i < count ? i : i - count + 1;
		const struct crossing *crossing = &crossings[row];

		if (i == count)
			bench_group(stage->bench,
				load ? "the same, beside copies of a part each, to the device"
				     : "the same, beside copies of a part each, to the host");
		if (!crossing->slot_parts && i >= count)
			continue;
		if (!crossing->slot_parts)
			snprintf(name, sizeof(name), "copies of %zu KiB", crossing->piece >> 10);
		else if (!crossing->slots)
			snprintf(name, sizeof(name), "kernels on the frames, %u parts a launch",
				crossing->slot_parts);
		else
			snprintf(name, sizeof(name), "ring of %u slots of %u, %s", crossing->slots,
				crossing->slot_parts,
				crossing->joined ? "one copy a slot" : "a copy a part");
		bench_row(stage->bench, name, stage->bytes, gb_s[row], "GB/s",
			gb_s[row] / gb_s[i < count ? 0 : 1]);
	}
}

/* Rings of some shapes beside one plain copy, copies a part, and copies a piece of the engine's. */
static void measure_ferry(struct stage *stage)
{
	const size_t part = stage->part_bytes;
	const struct crossing crossings[] = {{.piece = 0}, {.piece = part}, {.piece = 16384},
		{0, 2, 1, false}, {0, 3, 1, false}, {0, 2, 4, false}, {0, 3, 4, false},
		{0, 2, 4, true}, {0, 3, 4, true}, {0, 2, 8, true}, {0, 3, 8, true},
		{0, 0, 32, false}};
	double speeds[2][ARRAY_COUNT(crossings)][BENCH_ROUNDS];
	struct ferry ferry;

	ferry_open(&ferry, stage);
	for (size_t round = 0; round < BENCH_ROUNDS + 1; round++)
		for (size_t i = 0; i < ARRAY_COUNT(crossings); i++) {
			size_t place = round ? round - 1 : 0; /* the first is for warmth */

			/* Out first: what is loaded then is what was saved. */
			speeds[0][i][place] = cross(&ferry, &crossings[i], false);
			speeds[1][i][place] = cross(&ferry, &crossings[i], true);
			if (crossings[i].slot_parts)
				require_sound(stage);
		}
	for (unsigned load = 0; load < 2; load++) {
		double gb_s[ARRAY_COUNT(crossings)];

		for (size_t i = 0; i < ARRAY_COUNT(crossings); i++)
			gb_s[i] = bench_median(speeds[load][i], BENCH_ROUNDS);
		ferry_rows(stage, load, crossings, gb_s, ARRAY_COUNT(crossings));
	}
	ferry_close(&ferry);
}

int main(int argc, char **argv)
{
	struct bench bench;
	struct stage stage;
	bool host;

	if (!bench_begin(&bench, argc, argv)) {
		fprintf(stderr, "gather_bench [--json] [--host] | --device\n");
		return 2;
	}
	host = bench_on_host(&bench);
	stage_open(&stage, &bench, host ? 8 : 256);
	measure_layouts(&stage);
	measure_sizes(&stage);
	if (!host)
		measure_shapes(&stage);
	stage_close(&stage);

	stage_open(&stage, &bench, host ? 16 : 128);
	/* 128 pieces of 16 KiB make a part of 2 MiB. */
	if (!host)
		stage.layout = (struct gather_layout){GATHER_LAYER_MAJOR, 64, 2, 16, 4, 256, 64};
	stage_work(&stage, 16, false);
	measure_ferry(&stage);
	stage_close(&stage);
	bench_end(&bench);
	gpu_stream_destroy(bench.stream);
	gpu_close(bench.gpu);
	return 0;
}
