/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tensors of which groups of layers have tables of pages of their own, over a node inside this
 * process: what is loaded lies where its table says, what a table lacks pages for is not touched,
 * and whatever call of the device fails, nothing is left behind.
 */
#include "tests/engine/gpu/tensors_unit.h"

static const uint32_t table_layers[LAYERS] = {1, 1};
/* Of each table: where blocks are saved from, and where they are loaded to. */
static const uint32_t from[LAYERS * BLOCKS] = {3, 0, 5, 1, 4, 2, 5, 4, 3, 2, 1, 0};
static const uint32_t to[LAYERS * BLOCKS] = {
	5, 3, 1, 0, 2, 4, SKEP_GPU_NO_PAGE, SKEP_GPU_NO_PAGE, 2, 5, 0, 1};
static const uint32_t neither[LAYERS * BLOCKS] = {
	SKEP_GPU_NO_PAGE, SKEP_GPU_NO_PAGE, 2, 5, 0, 1, SKEP_GPU_NO_PAGE, 3, 1, 0, 2, 4};

static struct skep_gpu *device_open(uint32_t ring_slots)
{
	/* Calls are counted: nobody else makes any. */
	struct skep_gpu_options options = {.struct_bytes = sizeof(options),
		.ring_slots = ring_slots,
		.ring_parts = 2,
		.flags = SKEP_GPU_UNREGISTERED};
	struct skep_gpu *gpu;

	REQUIRE_EQ(skep_gpu_open(session, &options, &gpu), 0);
	return gpu;
}

/* The bytes of one block in the tensors of a layer, K or V, where it lies in page @page. */
static unsigned char *block_at(uint32_t plane, uint32_t page)
{
	return copy + plane * sizeof(keys[0]) + page * PAGE_BYTES;
}

/*
 * Two tables, a layer each, whose pages are others; of the second the first two blocks are not
 * wanted. What is loaded lies where its table says, and what is not wanted is not touched.
 */
static void tables_check(const uint32_t *lists)
{
	static unsigned char untouched[PAGE_BYTES];

	memset(untouched, 0xa5, sizeof(untouched));
	for (uint32_t plane = 0; plane < LAYERS * 2; plane++) {
		const uint32_t *list = lists + plane / 2 * BLOCKS;
		bool filled[BLOCKS] = {false};

		for (uint32_t i = 0; i < BLOCKS; i++) {
			if (list[i] == SKEP_GPU_NO_PAGE)
				continue;
			filled[list[i]] = true;
			REQUIRE_EQ(memcmp(block_at(plane, list[i]),
					   &keys[plane][from[plane / 2 * BLOCKS + i] * PAGE_BYTES],
					   PAGE_BYTES),
				0);
		}
		for (uint32_t page = 0; page < BLOCKS; page++)
			if (!filled[page])
				REQUIRE_EQ(memcmp(block_at(plane, page), untouched, PAGE_BYTES), 0);
	}
}

/* Turns over a byte of range @range of the second block, where it lies in the pool. */
static void flip(const struct skep_ref *refs, uint32_t range)
{
	struct skep_pin pin;
	struct skep_view view;

	REQUIRE_EQ(skep_pin_refs(session, refs, BLOCKS, &pin), BLOCKS);
	REQUIRE_EQ(skep_view(session, &refs[1], 0, &view), 0);
	((uint8_t *)(uintptr_t)view.bytes)[range * (PART_BYTES / LAYERS) + 7] ^= 1;
	skep_release(session, &pin);
}

static int save(struct skep_gpu_plan *plan, struct skep_chain *chain, const uint32_t *lists)
{
	struct skep_gpu_save asked = {.struct_bytes = sizeof(asked),
		.chain = chain,
		.count = BLOCKS,
		.pages = {lists, BLOCKS, 0},
		.deadline_ns = skep_deadline_ms(1000)};
	struct skep_gpu_job *job;
	int rc = skep_gpu_save_begin(plan, &asked, &job);

	return rc < 0 ? rc : skep_gpu_end(job, NULL, skep_deadline_ms(1000));
}

static int load(struct skep_gpu_plan *plan, const struct skep_ref *refs, const uint32_t *lists,
	int32_t *statuses)
{
	struct skep_gpu_load asked = {.struct_bytes = sizeof(asked),
		.refs = refs,
		.count = BLOCKS,
		.pages = {lists, BLOCKS, 0}};
	struct skep_gpu_job *job;
	int rc;

	memset(copy, 0xa5, sizeof(copy));
	rc = skep_gpu_load_begin(plan, &asked, &job);
	return rc <= 0 ? rc : skep_gpu_end(job, statuses, 0);
}

static struct skep_gpu_tensors tables_of(unsigned char *memory, uint64_t *bases)
{
	struct skep_gpu_tensors tensors = tensors_of(memory, bases);

	tensors.tables = LAYERS;
	tensors.table_layers = table_layers;
	return tensors;
}

static int plans_make(
	struct skep_gpu *gpu, struct skep_gpu_plan **source, struct skep_gpu_plan **target)
{
	uint64_t bases[LAYERS * 2];
	struct skep_gpu_tensors tensors = tables_of(keys[0], bases);
	int rc = skep_gpu_plan_create(gpu, space, &tensors, source);

	tensors = tables_of(copy, bases);
	return rc ? rc : skep_gpu_plan_create(gpu, space, &tensors, target);
}

static void tables_have_pages_of_their_own(uint32_t ring_slots)
{
	struct skep_gpu *gpu = device_open(ring_slots);
	struct skep_chain *chain = chain_of(5000 + ring_slots);
	struct skep_gpu_plan *source, *target;
	struct skep_ref refs[BLOCKS];
	int32_t statuses[BLOCKS];

	REQUIRE_EQ(plans_make(gpu, &source, &target), 0);
	REQUIRE_EQ(save(source, chain, to), -EINVAL); /* nothing to save there */
	REQUIRE_EQ(save(source, chain, from), BLOCKS);
	REQUIRE_EQ(match(chain, refs).matched, BLOCKS);
	REQUIRE_EQ(load(target, refs, neither, NULL), BLOCKS);
	tables_check(neither);

	/* A stray byte in what is not wanted is not looked at; in what is it is found. */
	for (uint32_t range = LAYERS; range-- > 0;) {
		REQUIRE_EQ(load(target, refs, to, NULL), BLOCKS);
		tables_check(to);
		flip(refs, range);
	}
	REQUIRE_EQ(load(target, refs, to, statuses), BLOCKS - 1);
	REQUIRE_EQ(statuses[1], SKEP_ECHECKSUM);
	skep_gpu_plan_destroy(source);
	skep_gpu_plan_destroy(target);
	skep_chain_destroy(chain);
	device_close(gpu, 0);
}

/* From nothing to nothing with one call of the device failing. Return: 0, or -EIO where it did. */
static int life(uint32_t ring_slots, uint64_t nth, uint32_t story)
{
	struct skep_gpu *gpu = device_open(ring_slots);
	struct skep_gpu_plan *source = NULL, *target = NULL;
	struct skep_chain *chain = chain_of(story);
	struct skep_ref refs[BLOCKS];
	int rc;

	gpu_fail_nth(gpu->device, nth, -EIO);
	rc = plans_make(gpu, &source, &target);
	if (!rc) {
		rc = save(source, chain, from);
		/* All of it or nothing; what failed can be saved at once. */
		REQUIRE_EQ(match(chain, refs).matched, rc < 0 ? 0 : BLOCKS);
		if (rc < 0)
			REQUIRE_EQ(save(source, chain, from), BLOCKS);
	}
	if (rc > 0) {
		rc = load(target, refs, to, NULL);
		if (rc < 0)
			REQUIRE_EQ(load(target, refs, to, NULL), BLOCKS);
		tables_check(to);
	}
	skep_gpu_plan_destroy(source);
	skep_gpu_plan_destroy(target);
	device_close(gpu, 0);
	skep_chain_destroy(chain);
	REQUIRE(rc == -EIO || rc == BLOCKS);
	return rc < 0 ? rc : 0;
}

static void each_failure_leaves_nothing(uint32_t ring_slots)
{
	uint64_t nth = 1;

	while (life(ring_slots, nth, (uint32_t)(nth + 500 * ring_slots)) < 0)
		nth++;
	printf("ring of %u slots: %llu calls failed in turn\n", ring_slots,
		(unsigned long long)nth - 1);
	REQUIRE(nth > 20);
}

static void malformed_tables_are_refused(void)
{
	static const uint32_t few[] = {1}, none[] = {2, 0}, many[] = {1, 2};
	struct skep_gpu *gpu = device_open(0);
	struct skep_gpu_plan *plan;
	uint64_t bases[LAYERS * 2];
	struct skep_gpu_tensors tensors = tables_of(keys[0], bases);
	const struct {
		const uint32_t *layers;
		uint32_t count, ranges, order;
	} wrong[] = {
		{few, 1, LAYERS, SKEP_GPU_LAYER_MAJOR},
		{none, 2, LAYERS, SKEP_GPU_LAYER_MAJOR},
		{many, 2, LAYERS, SKEP_GPU_LAYER_MAJOR},
		{NULL, 1, LAYERS, SKEP_GPU_LAYER_MAJOR},
		{few, SKEP_GPU_TABLES_MAX + 1, LAYERS, SKEP_GPU_LAYER_MAJOR},
		{table_layers, 2, 1, SKEP_GPU_LAYER_MAJOR}, /* half a range */
		{table_layers, 2, LAYERS, SKEP_GPU_TOKEN_MAJOR},
	};

	for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
		tensors.tables = wrong[i].count;
		tensors.table_layers = wrong[i].layers;
		tensors.ranges = wrong[i].ranges;
		tensors.order = wrong[i].order;
		REQUIRE_EQ(skep_gpu_plan_create(gpu, space, &tensors, &plan), -EINVAL);
	}
	device_close(gpu, 0);
}

int main(void)
{
	tensors_begin();
	malformed_tables_are_refused();
	tables_have_pages_of_their_own(0);
	tables_have_pages_of_their_own(2);
	each_failure_leaves_nothing(0);
	each_failure_leaves_nothing(2);
	skep_close(session);
	return 0;
}
