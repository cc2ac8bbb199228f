/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gather_test [seed] [layouts]: parts hold what docs/formats/part.md says, for any layout of the
 * tensors, and scattering brings it back. Over the host back end always, over CUDA where there is a
 * device. What is right is computed here, element by element, from the words of the format page;
 * sums are compared with checksum_range(). With SKEP_TEST_SHORT in the environment it is
 * short enough for tools that watch every access.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"
#include "kernels/checksum.h"
#include "kernels/gather.h"
#include "kernels/gather_args.h"
#include "kernels/gpu.h"

#define TENSOR_BYTES_MAX (48u << 20)
#define PARTS_BYTES_MAX	 (8u << 20)
#define BLOCKS_MAX	 8
#define RANGES_MAX	 4096
#define PLANES_MAX	 128
#define PAGES_MAX	 4096
#define SCRATCH_BYTES	 (1u << 20)
#define POISON		 0xa5

static uint64_t seed, random_state;
static unsigned layout_index;
static const char *where = "";

#define EXPECT(condition, ...)                                                                     \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);                     \
			printf(__VA_ARGS__);                                                       \
			printf(" (%s, layout %u, seed %" PRIu64 ")\n", where, layout_index, seed); \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static uint64_t random_word(void)
{
	return mix64(random_state++);
}

static uint32_t random_below(uint32_t end)
{
	return (uint32_t)(random_word() % end);
}

static uint32_t random_of(const uint32_t *values, size_t count)
{
	return values[random_below((uint32_t)count)];
}

static void random_fill(unsigned char *bytes, size_t count)
{
	for (size_t i = 0; i + 8 <= count; i += 8) {
		uint64_t word = random_word();

		memcpy(bytes + i, &word, 8);
	}
	for (size_t i = count / 8 * 8; i < count; i++)
		bytes[i] = (unsigned char)random_word();
}

/* A layout of the engine's tensors inside one run of TENSOR_BYTES_MAX. */
struct scene {
	struct gather_layout layout;
	struct gather_tensors tensors;
	uint64_t bases[PLANES_MAX]; /* from the beginning of the run */
	uint64_t tensor_bytes;
	uint32_t blocks, page_entries;
	struct gather_block block[BLOCKS_MAX]; /* the part from the beginning of the parts */
	uint32_t pages[PAGES_MAX];
	uint32_t part_bytes, part_stride;
};

/* Memory of the device and of this program, made once. */
struct desk {
	struct gpu *gpu;
	struct gpu_stream *stream;
	uint64_t tensors, parts, blocks, pages, bases, sums, expected, failed, scratch;
	unsigned char *tensors_before, *tensors_after, *tensors_wanted, *parts_after, *parts_wanted;
	uint64_t sums_wanted[BLOCKS_MAX * RANGES_MAX], sums_after[BLOCKS_MAX * RANGES_MAX];
	uint8_t failed_after[BLOCKS_MAX * RANGES_MAX];
};

static void must(int rc, const char *what)
{
	EXPECT(rc >= 0, "%s: %d", what, rc);
}

/* Everything is as on the format page: where an element lies in its part. */
static uint64_t part_at(const struct gather_layout *layout, uint32_t layer, uint32_t kind,
	uint32_t token, uint32_t head)
{
	uint64_t row = layout->order == GATHER_LAYER_MAJOR
			       ? ((uint64_t)layer * layout->kinds + kind) * layout->tokens + token
			       : ((uint64_t)token * layout->layers + layer) * layout->kinds + kind;

	return (row * layout->heads + head) * layout->head_bytes;
}

static uint64_t tensor_at(
	const struct scene *scene, uint32_t block, uint32_t plane, uint32_t token, uint32_t head)
{
	uint32_t slot = scene->block[block].first_slot + token;
	uint64_t page =
		scene->pages[scene->block[block].first_page + slot / scene->tensors.page_tokens];

	return scene->bases[plane] + page * scene->tensors.page_stride +
	       slot % scene->tensors.page_tokens * scene->tensors.token_stride +
	       head * scene->tensors.head_stride;
}

/* Copies all elements of a block: to the part, or (@back) to the tensors. */
static void model_move(const struct scene *scene, uint32_t block, unsigned char *part,
	unsigned char *tensors, bool back)
{
	const struct gather_layout *layout = &scene->layout;

	for (uint32_t layer = 0; layer < layout->layers; layer++)
		for (uint32_t kind = 0; kind < layout->kinds; kind++)
			for (uint32_t token = 0; token < layout->tokens; token++)
				for (uint32_t head = 0; head < layout->heads; head++) {
					unsigned char *at =
						part + part_at(layout, layer, kind, token, head);
					unsigned char *element =
						tensors + tensor_at(scene, block,
								  layer * layout->kinds + kind,
								  token, head);

					memcpy(back ? element : at, back ? at : element,
						layout->head_bytes);
				}
}

/* Bytes beside an element that nothing may touch: a multiple of @unit. */
static uint64_t padding(uint32_t unit)
{
	return random_below(3) ? 0 : (uint64_t)unit * random_below(4);
}

/* Strides: NHD or HND, with K and V apart, side by side in a page, or in the last dimension. */
static void scene_strides(struct scene *scene, uint32_t unit)
{
	struct gather_tensors *tensors = &scene->tensors;
	uint32_t packing = scene->layout.kinds == 2 ? random_below(3) : 0;
	uint64_t element = (uint64_t)scene->layout.head_bytes * (packing == 2 ? 2 : 1), inner;
	uint64_t kind_stride, layer_stride;

	if (random_below(2)) {
		tensors->head_stride = element + padding(unit);
		tensors->token_stride = tensors->head_stride * scene->layout.heads + padding(unit);
		inner = tensors->token_stride * tensors->page_tokens;
	} else {
		tensors->token_stride = element + padding(unit);
		tensors->head_stride = tensors->token_stride * tensors->page_tokens + padding(unit);
		inner = tensors->head_stride * scene->layout.heads;
	}
	inner += padding(unit);
	tensors->page_stride = packing == 1 ? 2 * inner : inner;
	kind_stride = packing == 1   ? inner
		      : packing == 2 ? scene->layout.head_bytes
				     : tensors->page_stride * tensors->page_count;
	layer_stride =
		tensors->page_stride * tensors->page_count * (packing ? 1 : scene->layout.kinds) +
		padding(unit);
	for (uint32_t layer = 0; layer < scene->layout.layers; layer++)
		for (uint32_t kind = 0; kind < scene->layout.kinds; kind++)
			scene->bases[layer * scene->layout.kinds + kind] =
				layer * layer_stride + kind * kind_stride + unit;
	scene->tensor_bytes = scene->layout.layers * layer_stride + unit;
}

/* A sequence of tokens in shuffled pages, cut into blocks from somewhere on. */
static void scene_blocks(struct scene *scene)
{
	uint32_t page_tokens = scene->tensors.page_tokens;
	uint32_t start = random_below(2) ? 0 : random_below(page_tokens);
	uint32_t spare = random_below(3), first = random_below(3);
	uint32_t used = (uint32_t)divide_up(
		start + (uint64_t)scene->blocks * scene->layout.tokens, page_tokens);

	scene->page_entries = first + used;
	scene->tensors.page_count = used + spare;
	for (uint32_t i = 0; i < first; i++)
		scene->pages[i] = UINT32_MAX; /* nobody looks at these */
	for (uint32_t i = 0; i < scene->tensors.page_count; i++) {
		uint32_t j = random_below(i + 1);

		scene->pages[first + i] = scene->pages[first + j];
		scene->pages[first + j] = i;
	}
	for (uint32_t i = 0; i < scene->blocks; i++) {
		uint32_t token = start + i * scene->layout.tokens;

		scene->block[i].first_page = first + token / page_tokens;
		scene->block[i].first_slot = token % page_tokens;
		scene->block[i].part = (uint64_t)i * scene->part_stride;
	}
}

/* Some number of ranges that divides the part: layers, if they do, or any. */
static uint32_t scene_ranges(const struct gather_layout *layout, uint32_t part_bytes)
{
	uint32_t ranges = random_below(2) ? layout->layers : 1 + random_below(40);

	while (part_bytes % ranges || ranges > RANGES_MAX)
		ranges--;
	return ranges;
}

static bool scene_fits(struct scene *scene)
{
	return scene->layout.layers * scene->layout.kinds <= PLANES_MAX &&
	       scene->tensors.page_count + 3 <= PAGES_MAX &&
	       scene->tensor_bytes <= TENSOR_BYTES_MAX &&
	       (uint64_t)scene->part_stride * scene->blocks <= PARTS_BYTES_MAX;
}

/* Makes a layout from the seed; again and again until one is small enough. */
static void scene_random(struct scene *scene, uint64_t bytes_max)
{
	static const uint32_t sizes[] = {1, 3, 8, 16, 20, 32, 64, 80, 96, 128, 192, 576};
	static const uint32_t page_sizes[] = {1, 8, 16, 32, 64, 128, 256};
	static const uint32_t units[] = {16, 16, 16, 64, 4, 1};
	static const uint32_t counts[] = {1, 4, 8, 16, 16, 32, 64};

	do {
		struct gather_layout *layout = &scene->layout;
		uint32_t unit = random_of(units, ARRAY_COUNT(units));
		uint32_t gap = random_of(units, ARRAY_COUNT(units));

		*layout = (struct gather_layout){
			.order = random_below(2) ? GATHER_LAYER_MAJOR : GATHER_TOKEN_MAJOR,
			.layers = 1 + random_below(random_below(4) ? 4 : 40),
			.kinds = 1 + (random_below(4) > 0),
			.tokens = random_below(4) ? random_of(counts, ARRAY_COUNT(counts))
						  : 1 + random_below(40),
			.heads = 1 + random_below(9),
			.head_bytes = random_of(sizes, ARRAY_COUNT(sizes)) << random_below(3),
		};
		scene->part_bytes = gather_part_bytes(layout);
		layout->ranges = scene_ranges(layout, scene->part_bytes);
		scene->blocks = 1 + random_below(BLOCKS_MAX);
		scene->part_stride = (uint32_t)align_up(scene->part_bytes, 16) + 16 * gap;
		scene->tensors.page_tokens =
			random_below(4) ? random_of(page_sizes, ARRAY_COUNT(page_sizes))
					: 1 + random_below(600);
		scene->tensors.page_count = 0;
		if ((uint64_t)scene->part_stride * scene->blocks > bytes_max ||
			scene->layout.tokens * scene->blocks > PAGES_MAX - 600)
			continue;
		scene_blocks(scene);
		scene_strides(scene, unit);
	} while (!scene->tensors.page_count || !scene_fits(scene));
}

/* The layouts of real models, as large as they are. */
static void scene_model(struct scene *scene, unsigned which)
{
	static const struct gather_layout models[] = {
		{GATHER_LAYER_MAJOR, 32, 2, 16, 8, 256, 32}, /* Llama-3-8B, 16 bits */
		{GATHER_TOKEN_MAJOR, 32, 2, 16, 8, 256, 1},
		{GATHER_LAYER_MAJOR, 61, 1, 16, 1, 1152, 61}, /* a latent of 576 in 16 bits */
		{GATHER_LAYER_MAJOR, 32, 2, 16, 4, 128, 32},  /* Yi-6B, 8 bits */
		{GATHER_TOKEN_MAJOR, 60, 2, 16, 1, 256, 16},  /* Yi-34B, a rank of 8 */
	};

	scene->layout = models[which % ARRAY_COUNT(models)];
	scene->part_bytes = gather_part_bytes(&scene->layout);
	scene->part_stride = (scene->part_bytes + 15) / 16 * 16;
	scene->tensors.page_tokens = which % 2 ? 64 : 16;
	do {
		scene->blocks = 1 + random_below(3);
		scene_blocks(scene);
		scene_strides(scene, 16);
	} while (!scene_fits(scene));
}

static void *room(size_t bytes)
{
	void *memory = malloc(bytes);

	EXPECT(memory, "no memory");
	return memory;
}

static void desk_open(struct desk *desk, struct gpu *gpu)
{
	struct {
		uint64_t *at;
		size_t bytes;
	} areas[] = {
		{&desk->tensors, TENSOR_BYTES_MAX},
		{&desk->parts, PARTS_BYTES_MAX},
		{&desk->blocks, sizeof(struct gather_block) * BLOCKS_MAX},
		{&desk->pages, sizeof(uint32_t) * PAGES_MAX},
		{&desk->bases, sizeof(uint64_t) * PLANES_MAX},
		{&desk->sums, sizeof(desk->sums_wanted)},
		{&desk->expected, sizeof(desk->sums_wanted)},
		{&desk->failed, sizeof(desk->failed_after)},
		{&desk->scratch, SCRATCH_BYTES},
	};

	desk->gpu = gpu;
	must(gpu_stream_create(gpu, &desk->stream), "stream");
	for (size_t i = 0; i < ARRAY_COUNT(areas); i++)
		must(gpu_alloc(gpu, areas[i].bytes, areas[i].at), "alloc");
	desk->tensors_before = room(TENSOR_BYTES_MAX);
	desk->tensors_after = room(TENSOR_BYTES_MAX);
	desk->tensors_wanted = room(TENSOR_BYTES_MAX);
	desk->parts_after = room(PARTS_BYTES_MAX);
	desk->parts_wanted = room(PARTS_BYTES_MAX);
}

static void desk_close(struct desk *desk)
{
	const uint64_t areas[] = {desk->tensors, desk->parts, desk->blocks, desk->pages,
		desk->bases, desk->sums, desk->expected, desk->failed, desk->scratch};
	struct gpu_usage usage;

	gpu_stream_destroy(desk->stream);
	for (size_t i = 0; i < ARRAY_COUNT(areas); i++)
		gpu_free(desk->gpu, areas[i]);
	gpu_usage(desk->gpu, &usage);
	EXPECT(usage.allocated_bytes == 0, "%" PRIu64 " bytes", usage.allocated_bytes);
	free(desk->tensors_before);
	free(desk->tensors_after);
	free(desk->tensors_wanted);
	free(desk->parts_after);
	free(desk->parts_wanted);
}

static void send(struct desk *desk, uint64_t to, const void *from, size_t bytes)
{
	must(gpu_copy_in(desk->stream, to, from, bytes), "copy in");
}

static void fetch(struct desk *desk, void *to, uint64_t from, size_t bytes)
{
	must(gpu_copy_out(desk->stream, to, from, bytes), "copy out");
	must(gpu_stream_sync(desk->stream), "sync");
}

/* Says where two areas differ first. */
static void compare(
	const unsigned char *got, const unsigned char *want, size_t bytes, const char *what)
{
	size_t at = 0;

	if (memcmp(got, want, bytes) == 0)
		return;
	while (got[at] == want[at])
		at++;
	EXPECT(false, "%s: byte %zu of %zu is %02x, not %02x", what, at, bytes, got[at], want[at]);
}

/* Uploads the scene and makes the work of it, with sums and nothing expected. */
static void work_make(struct desk *desk, const struct scene *scene, struct gather_work *work)
{
	struct gather_block blocks[BLOCKS_MAX];
	uint64_t bases[PLANES_MAX];
	struct gather_tensors tensors = scene->tensors;
	const struct gather_pages pages = {scene->pages, scene->page_entries};

	for (uint32_t i = 0; i < scene->layout.layers * scene->layout.kinds; i++)
		bases[i] = desk->tensors + scene->bases[i];
	tensors.bases = bases;
	*work = (struct gather_work){
		.bases = desk->bases,
		.blocks = desk->blocks,
		.pages = desk->pages,
		.sums = desk->sums,
		.scratch = desk->scratch,
		.count = scene->blocks,
	};
	must(gather_plan_make(&work->plan, &scene->layout, &tensors), "plan");
	for (uint32_t i = 0; i < scene->blocks; i++) {
		blocks[i] = scene->block[i];
		blocks[i].part += desk->parts;
	}
	must(gather_blocks_check(&work->plan, blocks, scene->blocks, pages, NULL), "blocks");
	EXPECT(gather_scratch_bytes(&work->plan, scene->blocks) <= SCRATCH_BYTES, "scratch");
	send(desk, desk->bases, bases, sizeof(bases));
	send(desk, desk->blocks, blocks, sizeof(blocks));
	send(desk, desk->pages, scene->pages, scene->page_entries * sizeof(uint32_t));
	must(gpu_fill(desk->stream, desk->scratch, 0, SCRATCH_BYTES), "fill");
	must(gpu_stream_sync(desk->stream), "sync");
}

/* One of the variants that can do it, and some size of a chunk. */
static struct gather_choice any_choice(const struct gather_work *work, enum gather_way way)
{
	struct gather_choice choice = gather_choose(work, way);

	choice.chunk_leaves = 16 + random_below(GATHER_CHUNK_LEAVES_MAX - 15);
	for (unsigned tries = 0; tries < 8; tries++) {
		const struct gather_variant *other =
			&gather_variants[random_below(gather_variant_count)];

		if (gather_variant_fits(other, &work->plan, way))
			choice.variant = other;
	}
	return choice;
}

/* Submits as a caller does, or with a choice of its own. */
static void submit(struct desk *desk, const struct gather_work *work, enum gather_way way)
{
	static int (*const usual[])(struct gpu_stream *, const struct gather_work *) = {
		[GATHER_IN] = gather_parts,
		[GATHER_OUT] = scatter_parts,
		[GATHER_SUM] = sum_parts,
	};
	static char text[64];
	struct gather_choice choice = any_choice(work, way);

	if (random_below(3) == 0) {
		where = "usual";
		must(usual[way](desk->stream, work), "submit");
	} else {
		snprintf(text, sizeof(text), "variant %s, chunks of %u", choice.variant->name,
			choice.chunk_leaves);
		where = text;
		must(gather_submit(desk->stream, work, way, choice), "submit");
	}
}

/* The sums of @parts, range by range, or, outside of the ranges of @work, poison. */
static void sums_of(struct desk *desk, const struct scene *scene, const struct gather_work *work,
	const unsigned char *parts)
{
	uint32_t ranges = scene->layout.ranges, range_bytes = scene->part_bytes / ranges;
	uint32_t count = work->range_count ? work->range_count : ranges;

	memset(desk->sums_wanted, POISON, sizeof(desk->sums_wanted));
	for (uint32_t block = 0; block < scene->blocks; block++)
		for (uint32_t i = work->range_first; i < work->range_first + count; i++)
			desk->sums_wanted[block * ranges + i] =
				checksum_range(parts + (size_t)block * scene->part_stride +
						       (size_t)i * range_bytes,
					range_bytes);
}

static void sums_compare(struct desk *desk, const struct scene *scene)
{
	size_t count = (size_t)scene->blocks * scene->layout.ranges;

	fetch(desk, desk->sums_after, desk->sums, count * sizeof(uint64_t));
	for (size_t i = 0; i < count; i++)
		EXPECT(desk->sums_after[i] == desk->sums_wanted[i],
			"range %zu of block %zu, %u bytes in it: 0x%" PRIx64 ", not 0x%" PRIx64,
			i % scene->layout.ranges, i / scene->layout.ranges,
			scene->part_bytes / scene->layout.ranges, desk->sums_after[i],
			desk->sums_wanted[i]);
}

/* Range @bad, counted through all blocks, differs, and no other. */
static void failed_compare(struct desk *desk, const struct scene *scene, uint32_t bad)
{
	fetch(desk, desk->failed_after, desk->failed, sizeof(desk->failed_after));
	for (uint32_t i = 0; i < scene->blocks * scene->layout.ranges; i++)
		EXPECT(desk->failed_after[i] == (i == bad), "range %u, bad is %u: %u", i, bad,
			desk->failed_after[i]);
}

static void poison(struct desk *desk, uint64_t at, size_t bytes)
{
	must(gpu_fill(desk->stream, at, POISON, bytes), "fill");
}

/* Tensors to parts: every byte of the parts, none beside them, and the sums. */
static void gather_once(struct desk *desk, const struct scene *scene, struct gather_work *work)
{
	size_t bytes = (size_t)scene->part_stride * scene->blocks;

	memset(desk->parts_wanted, POISON, bytes);
	for (uint32_t i = 0; i < scene->blocks; i++)
		model_move(scene, i, desk->parts_wanted + (size_t)i * scene->part_stride,
			desk->tensors_before, false);
	send(desk, desk->tensors, desk->tensors_before, scene->tensor_bytes);
	poison(desk, desk->parts, bytes);
	poison(desk, desk->sums, sizeof(desk->sums_wanted));
	submit(desk, work, GATHER_IN);
	fetch(desk, desk->parts_after, desk->parts, bytes);
	compare(desk->parts_after, desk->parts_wanted, bytes, "parts");
	sums_of(desk, scene, work, desk->parts_wanted);
	sums_compare(desk, scene);
}

/* Some ranges alone, without sums or with them: the others stay as they were. */
static void gather_ranges(struct desk *desk, const struct scene *scene, struct gather_work *work)
{
	uint32_t ranges = scene->layout.ranges, range_bytes = scene->part_bytes / ranges;
	struct gather_work some = *work;
	bool sums = random_below(2);

	some.range_first = random_below(ranges);
	some.range_count = 1 + random_below(ranges - some.range_first);
	some.sums = sums ? work->sums : 0;
	poison(desk, desk->parts, (size_t)scene->part_stride * scene->blocks);
	poison(desk, desk->sums, sizeof(desk->sums_wanted));
	submit(desk, &some, GATHER_IN);
	fetch(desk, desk->parts_after, desk->parts, (size_t)scene->part_stride * scene->blocks);
	for (uint32_t i = 0; i < scene->blocks; i++) {
		size_t part = (size_t)i * scene->part_stride;
		size_t first = part + (size_t)some.range_first * range_bytes;
		size_t end = first + (size_t)some.range_count * range_bytes;

		for (size_t at = part; at < part + scene->part_stride; at++) {
			unsigned want = at >= first && at < end ? desk->parts_wanted[at] : POISON;

			EXPECT(desk->parts_after[at] == want, "ranges %u+%u: byte %zu is %02x",
				some.range_first, some.range_count, at, desk->parts_after[at]);
		}
	}
	if (!sums)
		some.range_first = ranges, some.range_count = 0;
	sums_of(desk, scene, &some, desk->parts_wanted);
	if (!sums)
		memset(desk->sums_wanted, POISON, sizeof(desk->sums_wanted));
	sums_compare(desk, scene);
}

/* Parts to tensors: every byte of the blocks, none beside them. */
static void scatter_once(struct desk *desk, const struct scene *scene, struct gather_work *work)
{
	struct gather_work plain = *work;
	bool sums = random_below(4) != 0;

	if (!sums)
		plain.sums = plain.expected = plain.failed = 0;
	else if (random_below(2))
		plain.sums = 0;
	memset(desk->tensors_wanted, POISON, scene->tensor_bytes);
	for (uint32_t i = 0; i < scene->blocks; i++)
		model_move(scene, i, desk->parts_wanted + (size_t)i * scene->part_stride,
			desk->tensors_wanted, true);
	poison(desk, desk->tensors, scene->tensor_bytes);
	poison(desk, desk->failed, sizeof(desk->failed_after));
	poison(desk, desk->sums, sizeof(desk->sums_wanted));
	submit(desk, &plain, GATHER_OUT);
	fetch(desk, desk->tensors_after, desk->tensors, scene->tensor_bytes);
	compare(desk->tensors_after, desk->tensors_wanted, scene->tensor_bytes, "tensors");
	if (plain.sums)
		sums_compare(desk, scene);
	if (sums)
		failed_compare(desk, scene, UINT32_MAX);
}

/* One byte of one part is wrong: that block is reported, and the others' bytes are right. */
static void flipped_byte(struct desk *desk, const struct scene *scene, struct gather_work *work)
{
	uint32_t bad = random_below(scene->blocks), at = random_below(scene->part_bytes);
	unsigned char *byte = desk->parts_after + (size_t)bad * scene->part_stride + at;
	enum gather_way way = random_below(3) ? GATHER_OUT : GATHER_SUM;
	uint64_t part = desk->parts + (uint64_t)bad * scene->part_stride;

	*byte = desk->parts_wanted[(size_t)bad * scene->part_stride + at] ^
		(unsigned char)(1u << random_below(8));
	send(desk, part + at, byte, 1);
	poison(desk, desk->tensors, scene->tensor_bytes);
	poison(desk, desk->failed, sizeof(desk->failed_after));
	submit(desk, work, way);
	failed_compare(desk, scene,
		bad * scene->layout.ranges + at / (scene->part_bytes / scene->layout.ranges));
	if (way == GATHER_SUM)
		return;
	/* The bad block's own destination got what the part holds. */
	desk->parts_wanted[(size_t)bad * scene->part_stride + at] = *byte;
	model_move(scene, bad, desk->parts_wanted + (size_t)bad * scene->part_stride,
		desk->tensors_wanted, true);
	fetch(desk, desk->tensors_after, desk->tensors, scene->tensor_bytes);
	compare(desk->tensors_after, desk->tensors_wanted, scene->tensor_bytes, "tensors");
}

/* The sums of parts without tensors. */
static void flat_sums(struct desk *desk, const struct scene *scene, const struct gather_work *work)
{
	struct gather_work flat = {.blocks = work->blocks,
		.sums = work->sums,
		.scratch = work->scratch,
		.count = work->count};

	must(gather_plan_make_flat(
		     &flat.plan, scene->layout.ranges, scene->part_bytes / scene->layout.ranges),
		"flat plan");
	poison(desk, desk->sums, sizeof(desk->sums_wanted));
	submit(desk, &flat, GATHER_SUM);
	sums_of(desk, scene, work, desk->parts_wanted);
	sums_compare(desk, scene);
}

static void scene_check(struct desk *desk, const struct scene *scene)
{
	struct gather_work work;
	size_t sums_bytes = (size_t)scene->blocks * scene->layout.ranges * sizeof(uint64_t);

	random_fill(desk->tensors_before, scene->tensor_bytes);
	work_make(desk, scene, &work);
	gather_once(desk, scene, &work);
	flat_sums(desk, scene, &work);
	gather_ranges(desk, scene, &work);
	send(desk, desk->parts, desk->parts_wanted, (size_t)scene->part_stride * scene->blocks);
	sums_of(desk, scene, &work, desk->parts_wanted);
	send(desk, desk->expected, desk->sums_wanted, sums_bytes);
	work.expected = desk->expected;
	work.failed = desk->failed;
	scatter_once(desk, scene, &work);
	flipped_byte(desk, scene, &work);
}

/* @bytes_max: of the parts of random layouts. Without @models those of real models are left out. */
static void layouts_check(struct gpu *gpu, unsigned layouts, uint64_t bytes_max, bool models)
{
	struct desk *desk = room(sizeof(*desk));
	struct scene *scene = room(sizeof(*scene));

	memset(desk, 0, sizeof(*desk));
	desk_open(desk, gpu);
	for (layout_index = 0; layout_index < layouts; layout_index++) {
		memset(scene, 0, sizeof(*scene));
		if (models && layout_index % 64 == 5)
			scene_model(scene, layout_index / 64);
		else
			scene_random(scene, bytes_max);
		scene_check(desk, scene);
	}
	desk_close(desk);
	free(scene);
	free(desk);
}

int main(int argc, char **argv)
{
	bool few = getenv("SKEP_TEST_SHORT") != NULL;
	unsigned layouts = few ? 60 : 1100, cuda_layouts = few ? 24 : 400;
	struct gpu *gpu;
	uint64_t start_ns;
	int rc;

	seed = argc > 1 ? strtoull(argv[1], NULL, 0) : clock_ns();
	if (argc > 2)
		layouts = cuda_layouts = (unsigned)strtoul(argv[2], NULL, 0);
	random_state = mix64(seed);
	printf("seed %" PRIu64 "\n", seed);
	must(gpu_open(GPU_HOST, 0, &gpu), "host back end");
	layouts_check(gpu, layouts, 256u << 10, !few);
	gpu_close(gpu);
	printf("host: %u layouts\n", layouts);
	rc = gpu_open(GPU_CUDA, 0, &gpu);
	if (rc < 0) {
		printf("skip: the cuda half, there is no device (%d)\n", rc);
		return 0;
	}
	start_ns = clock_ns();
	layouts_check(gpu, cuda_layouts, few ? 64u << 10 : 2u << 20, !few);
	printf("cuda: %u layouts on %s, %.1f s\n", cuda_layouts, gpu_info(gpu)->name,
		(double)(clock_ns() - start_ns) / 1e9);
	gpu_close(gpu);
	return 0;
}
