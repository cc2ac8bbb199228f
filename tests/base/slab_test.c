/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The slab allocator against a model that does the same slowly: every offset it hands out, every
 * window it proposes and every figure it reports must be the model's.
 */
#include <errno.h>

#include "base/memory.h"
#include "base/slab.h"
#include "tests/base/unit.h"

#define KIB 1024ull
#define MIB (KIB << 10)
#define GIB (MIB << 10)

enum {
	MODEL_UNITS = 160,
	MODEL_CLASSES = 5,
	MODEL_OBJECTS = 4096, /* that may fit one slab */
};

struct model_slab {
	unsigned class;
	uint32_t live, fresh, stack_count;
	uint32_t *stack; /* freed numbers, the latest last */
	uint32_t owners[MODEL_OBJECTS];
	uint8_t taken[MODEL_OBJECTS];
	uint64_t recent; /* when it was last freed into or made: the order of the class */
};

struct model_class {
	uint64_t bytes;
	uint32_t units, objects;
};

struct model {
	struct slab *slab;
	struct slab_options options;
	uint32_t units, usable;
	uint64_t now;
	unsigned classes_count;
	struct model_class classes[MODEL_CLASSES];
	int unit_slab[MODEL_UNITS]; /* first unit, or -1 */
	struct model_slab *slabs[MODEL_UNITS];
	uint64_t costs[MODEL_UNITS];
	uint64_t *live; /* offsets of live objects, in no order */
	uint32_t live_count;
	uint64_t random;
};

static uint32_t barrier_units(const struct model *model)
{
	return model->options.barrier_bytes
		       ? (uint32_t)(model->options.barrier_bytes / model->options.unit_bytes)
		       : model->units;
}

static void model_class_add(struct model *model, uint64_t asked)
{
	struct model_class *class = &model->classes[model->classes_count];
	uint64_t granule = model->options.granule_bytes, unit = model->options.unit_bytes;
	double best = 2;
	unsigned number;

	class->bytes = (asked + granule - 1) / granule * granule;
	for (unsigned i = 0; i < model->classes_count; i++)
		if (model->classes[i].bytes == class->bytes)
			return;
	for (uint32_t units = 1; units <= 64 && units <= barrier_units(model); units++) {
		uint64_t objects = units * unit / class->bytes;
		double waste = (double)(units * unit - objects * class->bytes) / (units * unit);

		if (!objects || waste >= best)
			continue;
		best = waste;
		class->units = units;
		class->objects = (uint32_t)objects;
		if (waste <= 0.015)
			break;
	}
	REQUIRE(class->objects <= MODEL_OBJECTS);
	REQUIRE_EQ(slab_class(model->slab, asked, &number), 0);
	REQUIRE_EQ(number, model->classes_count);
	REQUIRE_EQ(slab_object_bytes(model->slab, number), class->bytes);
	model->classes_count++;
}

static int model_run_find(const struct model *model, uint32_t count)
{
	for (uint32_t first = 0; first + count <= model->usable; first++) {
		uint32_t have = 0;

		if (first / barrier_units(model) != (first + count - 1) / barrier_units(model))
			continue;
		while (have < count && model->unit_slab[first + have] < 0)
			have++;
		if (have == count)
			return (int)first;
	}
	return -1;
}

static int64_t model_alloc(struct model *model, unsigned number)
{
	const struct model_class *class = &model->classes[number];
	struct model_slab *slab = NULL;
	int first = -1;
	uint32_t object;

	for (uint32_t i = 0; i < model->usable; i++) {
		struct model_slab *other = model->slabs[i];

		if (other && other->class == number && other->live < class->objects &&
			(!slab || other->recent > slab->recent)) {
			slab = other;
			first = (int)i;
		}
	}
	if (!slab) {
		first = model_run_find(model, class->units);
		if (first < 0)
			return -ENOSPC;
		slab = model->slabs[first] = calloc(1, sizeof(*slab));
		slab->stack = calloc(class->objects, sizeof(*slab->stack));
		slab->class = number;
		slab->recent = ++model->now;
		for (uint32_t i = 0; i < class->units; i++)
			model->unit_slab[(uint32_t)first + i] = first;
	}
	object = slab->stack_count ? slab->stack[--slab->stack_count] : slab->fresh++;
	REQUIRE(object < class->objects && !slab->taken[object]);
	slab->taken[object] = 1;
	slab->owners[object] = 0;
	slab->live++;
	return (int64_t)((uint32_t)first * (uint64_t)model->options.unit_bytes +
			 object * class->bytes);
}

static void model_slab_drop(struct model *model, uint32_t first)
{
	struct model_slab *slab = model->slabs[first];

	for (uint32_t i = 0; i < model->classes[slab->class].units; i++)
		model->unit_slab[first + i] = -1;
	free(slab->stack);
	free(slab);
	model->slabs[first] = NULL;
}

static struct model_slab *model_find(const struct model *model, uint64_t offset, uint32_t *object)
{
	int first = model->unit_slab[offset / model->options.unit_bytes];
	struct model_slab *slab = model->slabs[first];
	uint64_t inside = offset - (uint64_t)first * model->options.unit_bytes;

	*object = (uint32_t)(inside / model->classes[slab->class].bytes);
	return slab;
}

/* Frees the object in both. */
static void both_free(struct model *model, uint32_t at)
{
	uint64_t offset = model->live[at];
	uint32_t object, first = (uint32_t)model->unit_slab[offset / model->options.unit_bytes];
	struct model_slab *slab = model_find(model, offset, &object);

	REQUIRE_EQ(slab_owner_get(model->slab, offset), slab->owners[object]);
	slab_free(model->slab, slab->class, offset);
	slab->taken[object] = 0;
	slab->stack[slab->stack_count++] = object;
	slab->recent = ++model->now;
	if (!--slab->live)
		model_slab_drop(model, first);
	model->live[at] = model->live[--model->live_count];
}

static void both_alloc(struct model *model)
{
	unsigned class = unit_random(&model->random, model->classes_count);
	int64_t is = slab_alloc(model->slab, class);

	REQUIRE_EQ(is, model_alloc(model, class));
	if (is >= 0)
		model->live[model->live_count++] = (uint64_t)is;
}

static void both_own(struct model *model)
{
	uint32_t object;
	uint64_t offset = model->live[unit_random(&model->random, model->live_count)];
	struct model_slab *slab = model_find(model, offset, &object);

	slab->owners[object] = unit_random(&model->random, UINT32_MAX);
	slab_owner_set(model->slab, offset, slab->owners[object]);
}

struct emptying {
	struct model *model;
	uint64_t after; /* ascending order */
	uint32_t seen;
};

static void empty_one(void *context, uint64_t offset, uint32_t owner)
{
	struct emptying *emptying = context;
	struct model *model = emptying->model;
	uint32_t object;

	REQUIRE(!emptying->seen++ || offset > emptying->after);
	emptying->after = offset;
	REQUIRE_EQ(owner, model_find(model, offset, &object)->owners[object]);
	for (uint32_t at = 0; at < model->live_count; at++) {
		if (model->live[at] == offset) {
			both_free(model, at);
			return;
		}
	}
	REQUIRE(!"each_in names a live object");
}

static void both_empty(struct model *model, uint32_t index)
{
	struct emptying emptying = {.model = model};
	struct slab_info info = slab_info(model->slab, index);

	slab_each_in(model->slab, index, empty_one, &emptying);
	REQUIRE_EQ(emptying.seen, info.live);
	REQUIRE_EQ(slab_of(model->slab, info.offset), -ENOENT);
}

static uint64_t model_cost(void *context, uint32_t index)
{
	struct model *model = context;

	REQUIRE(model->slabs[index]);
	REQUIRE_EQ(model->costs[index], 0);
	switch (unit_random(&model->random, 8)) {
	case 0:
		return model->costs[index] = SLAB_NEVER;
	case 1:
		return model->costs[index] = SLAB_NEVER - 1 - unit_random(&model->random, 3);
	default:
		return model->costs[index] = 1 + unit_random(&model->random, 20);
	}
}

/* The cheapest window by trying each; then the window is emptied and must serve the class. */
static void both_window(struct model *model)
{
	unsigned number = unit_random(&model->random, model->classes_count);
	uint32_t count = model->classes[number].units, first = 0, barrier = barrier_units(model);
	unsigned __int128 best = (unsigned __int128)1 << 100;
	struct slab_window window;
	int64_t index;
	int rc;

	memset(model->costs, 0, sizeof(model->costs));
	rc = slab_window(model->slab, number, model_cost, model, &window);
	if (!rc && window.cost == 0) {
		REQUIRE_EQ(window.offset / model->options.unit_bytes, model_run_find(model, count));
		return;
	}
	for (uint32_t i = 0; i + count <= model->usable; i++) {
		unsigned __int128 sum = 0;
		int seen = -1, never = i / barrier != (i + count - 1) / barrier;

		for (uint32_t j = i; j < i + count; j++) {
			if (model->unit_slab[j] != seen && model->unit_slab[j] >= 0) {
				sum += model->costs[model->unit_slab[j]];
				never |= model->costs[model->unit_slab[j]] == SLAB_NEVER;
			}
			seen = model->unit_slab[j];
		}
		if (!never && sum < best) {
			best = sum;
			first = i;
		}
	}
	REQUIRE_EQ(rc, best >> 100 ? -ENOSPC : 0);
	if (rc)
		return;
	REQUIRE_EQ(window.offset, (uint64_t)first * model->options.unit_bytes);
	REQUIRE_EQ(window.bytes, (uint64_t)count * model->options.unit_bytes);
	REQUIRE(window.cost == (best < SLAB_NEVER ? (uint64_t)best : SLAB_NEVER - 1));
	while ((index = slab_in_window(model->slab, &window)) >= 0)
		both_empty(model, (uint32_t)index);
	REQUIRE(model_run_find(model, count) >= 0);
}

static void both_compare(struct model *model)
{
	uint64_t live_bytes = 0, slab_units = 0;
	uint32_t slabs = 0, class_slabs[MODEL_CLASSES] = {0};
	uint64_t class_live[MODEL_CLASSES] = {0};
	struct slab_class_stats class_stats;
	struct slab_stats stats;
	int64_t at = -1;

	for (uint32_t i = 0; i < model->units; i++) {
		struct model_slab *slab = model->slabs[i];
		int first = i < model->usable ? model->unit_slab[i] : -1;
		struct slab_info info;

		REQUIRE_EQ(slab_of(model->slab, i * (uint64_t)model->options.unit_bytes),
			first < 0 ? -ENOENT : first);
		slab_units += first >= 0;
		if (!slab)
			continue;
		at = slab_next(model->slab, (uint32_t)(at + 1));
		REQUIRE_EQ(at, i);
		info = slab_info(model->slab, i);
		REQUIRE_EQ(info.class, slab->class);
		REQUIRE_EQ(info.live, slab->live);
		REQUIRE_EQ(info.objects, model->classes[slab->class].objects);
		REQUIRE_EQ(info.offset, i * (uint64_t)model->options.unit_bytes);
		REQUIRE_EQ(info.bytes,
			model->classes[slab->class].units * (uint64_t)model->options.unit_bytes);
		slabs++;
		class_slabs[slab->class]++;
		class_live[slab->class] += slab->live;
		live_bytes += slab->live * model->classes[slab->class].bytes;
	}
	REQUIRE_EQ(slab_next(model->slab, (uint32_t)(at + 1)), -ENOENT);
	slab_stats_get(model->slab, &stats);
	REQUIRE_EQ(stats.slabs, slabs);
	REQUIRE_EQ(stats.live, model->live_count);
	REQUIRE_EQ(stats.live_bytes, live_bytes);
	REQUIRE_EQ(stats.slab_bytes, slab_units * model->options.unit_bytes);
	REQUIRE_EQ(stats.usable_bytes, model->usable * (uint64_t)model->options.unit_bytes);
	for (unsigned i = 0; i < model->classes_count; i++) {
		slab_class_stats_get(model->slab, i, &class_stats);
		REQUIRE_EQ(class_stats.slabs, class_slabs[i]);
		REQUIRE_EQ(class_stats.live, class_live[i]);
		REQUIRE_EQ(class_stats.run_objects, model->classes[i].objects);
	}
}

static void model_start(struct model *model, uint64_t random)
{
	static const struct slab_options shapes[] = {
		{.unit_bytes = 2 * MIB, .granule_bytes = 4 * KIB},
		{.unit_bytes = 2 * MIB, .granule_bytes = 4 * KIB, .barrier_bytes = 46 * MIB},
		{.unit_bytes = 64 * KIB, .granule_bytes = 64, .barrier_bytes = 1 * MIB},
		{.unit_bytes = 4 * KIB, .granule_bytes = 4 * KIB},
	};
	uint64_t unit;

	*model = (struct model){.random = random};
	model->options = shapes[unit_random(&model->random, ARRAY_COUNT(shapes))];
	unit = model->options.unit_bytes;
	model->units = 1 + unit_random(&model->random, MODEL_UNITS);
	model->options.space_bytes =
		model->units * unit + unit_random(&model->random, (uint32_t)unit);
	model->options.classes_max = MODEL_CLASSES;
	if (model->options.barrier_bytes / unit >= model->units)
		model->options.barrier_bytes = 0;
	memset(model->unit_slab, -1, sizeof(model->unit_slab));
	REQUIRE_EQ(slab_create(&model->options, &model->slab), 0);
	for (int i = 0; i < MODEL_CLASSES; i++) {
		/* From a few objects a unit to several units an object. */
		uint32_t most = (uint32_t)unit * MIN_OF(barrier_units(model), 4);
		uint64_t bytes = unit_random(&model->random, (uint32_t)unit);

		if (unit_random(&model->random, 2))
			bytes = unit_random(&model->random, most);
		bytes = MIN_OF(MAX_OF(bytes, unit / 40), most);
		model_class_add(model, bytes);
	}
	model->live = calloc(model->units * 64ull, sizeof(*model->live));
}

static void random_test(uint64_t seed)
{
	struct model model;
	/* How likely a step allocates: swings, so that the space fills and empties. */
	uint32_t fill = 60;

	model_start(&model, seed);
	for (int step = 0; step < 3000; step++) {
		uint32_t dice = unit_random(&model.random, 100);

		if (unit_random(&model.random, 200) == 0)
			fill = 20 + unit_random(&model.random, 75);
		if (unit_random(&model.random, 100) == 0 && model.usable < model.units) {
			model.usable += 1 + unit_random(&model.random, model.units - model.usable);
			slab_grow(model.slab, model.usable * (uint64_t)model.options.unit_bytes +
						      unit_random(&model.random, 2));
		}
		if (dice < fill)
			both_alloc(&model);
		else if (model.live_count)
			both_free(&model, unit_random(&model.random, model.live_count));
		if (model.live_count && dice % 5 == 0)
			both_own(&model);
		if (unit_random(&model.random, 40) == 0)
			both_window(&model);
		if (step % 50 == 0)
			both_compare(&model);
	}
	while (model.live_count)
		both_free(&model, unit_random(&model.random, model.live_count));
	both_compare(&model);
	free(model.live);
	slab_destroy(model.slab);
}

static struct slab *frames_create(uint64_t space_bytes, uint64_t barrier_bytes)
{
	struct slab_options options = {
		.space_bytes = space_bytes,
		.unit_bytes = 2 * MIB,
		.granule_bytes = 4 * KIB,
		.barrier_bytes = barrier_bytes,
		.classes_max = 4,
	};
	struct slab *slab;

	REQUIRE_EQ(slab_create(&options, &slab), 0);
	return slab;
}

static void slab_lengths_are_the_shortest_that_waste_little(void)
{
	static const struct {
		uint64_t object_bytes;
		uint64_t run_units, objects;
	} wanted[] = {
		{640 * KIB, 5, 16}, {2 * MIB, 1, 1}, {5 * MIB, 5, 2}, {16 * MIB, 8, 1},
		{1300000, 5, 8}, {4 * KIB, 1, 512},
		{66 * MIB + 1, 34, 1}, /* no length up to 64 is within the bound: the least waste */
	};
	struct slab *slab;
	unsigned class;

	for (size_t i = 0; i < ARRAY_COUNT(wanted); i++) {
		struct slab_class_stats stats;

		slab = frames_create(GIB, 0);
		REQUIRE_EQ(slab_class(slab, wanted[i].object_bytes, &class), 0);
		slab_class_stats_get(slab, class, &stats);
		REQUIRE_EQ(stats.run_bytes, wanted[i].run_units * 2 * MIB);
		REQUIRE_EQ(stats.run_objects, wanted[i].objects);
		slab_destroy(slab);
	}
	slab = frames_create(GIB, 64 * MIB);
	REQUIRE_EQ(slab_class(slab, 0, &class), -EINVAL);
	REQUIRE_EQ(slab_class(slab, 64 * MIB + 1, &class), -EFBIG);
	REQUIRE_EQ(slab_class(slab, UINT64_MAX, &class), -EFBIG);
	for (unsigned i = 0; i < 4; i++)
		REQUIRE_EQ(slab_class(slab, (i + 1) * MIB, &class), 0);
	REQUIRE_EQ(slab_class(slab, 5 * MIB, &class), -ENOSPC);
	REQUIRE_EQ(slab_class(slab, 2 * MIB - 1, &class), 0);
	REQUIRE_EQ(class, 1);
	slab_destroy(slab);
}

static void freed_in_descending_order_comes_back_ascending(void)
{
	struct slab *slab = frames_create(GIB, 0);
	uint64_t offsets[160];
	unsigned class;

	slab_grow(slab, GIB);
	REQUIRE_EQ(slab_class(slab, 640 * KIB, &class), 0);
	for (int i = 0; i < 160; i++) {
		offsets[i] = (uint64_t)slab_alloc(slab, class);
		REQUIRE_EQ(offsets[i], i * 640 * KIB);
	}
	/* Over seven slabs that stay: object 0 of each is kept. */
	for (int i = 131; i >= 32 + 5; i--)
		if (i % 16)
			slab_free(slab, class, offsets[i]);
	for (int i = 32 + 5; i <= 131; i++)
		if (i % 16)
			REQUIRE_EQ(slab_alloc(slab, class), offsets[i]);
	/* Over whole slabs. */
	for (int i = 159; i >= 32; i--)
		slab_free(slab, class, offsets[i]);
	for (int i = 32; i < 160; i++)
		REQUIRE_EQ(slab_alloc(slab, class), offsets[i]);
	slab_destroy(slab);
}

static void mixed_sizes_fill_the_space(uint64_t *random)
{
	static const uint64_t mixes[][3] = {
		{640 * KIB, 2 * MIB, 5 * MIB},
		{640 * KIB, 1300000, 5 * MIB},
		{1300000, 777777, 3333333},
	};

	for (size_t mix = 0; mix < ARRAY_COUNT(mixes); mix++) {
		struct slab *slab = frames_create(GIB, GIB);
		struct slab_stats stats;
		unsigned classes[3], refused = 0;

		slab_grow(slab, GIB);
		for (unsigned i = 0; i < 3; i++)
			REQUIRE_EQ(slab_class(slab, mixes[mix][i], &classes[i]), 0);
		while (refused != 7) {
			unsigned class = unit_random(random, 3);

			if (slab_alloc(slab, classes[class]) < 0)
				refused |= 1u << class;
		}
		slab_stats_get(slab, &stats);
		printf("mix %zu: %.1f %% of the space in objects\n", mix,
			100.0 * (double)stats.live_bytes / (double)stats.space_bytes);
		REQUIRE(stats.live_bytes * 100 >= stats.space_bytes * 96);
		slab_destroy(slab);
	}
}

static void failed_allocations_leave_nothing(void)
{
	struct slab_options options = {
		.space_bytes = GIB,
		.unit_bytes = 2 * MIB,
		.granule_bytes = 4 * KIB,
		.classes_max = 4,
	};
	struct slab *slab = NULL;
	unsigned long nth = 1;
	int rc;

	for (;; nth++) {
		memory_fail_after(nth, nth % 2);
		rc = slab_create(&options, &slab);
		memory_fail_after(0, 0);
		if (!rc)
			break;
		REQUIRE_EQ(rc, -ENOMEM);
		REQUIRE(!slab);
	}
	REQUIRE(nth > 5);
	slab_destroy(slab);
	slab_destroy(NULL);
	options.granule_bytes = 3000;
	REQUIRE_EQ(slab_create(&options, &slab), -EINVAL);
	options.granule_bytes = 4 * MIB;
	REQUIRE_EQ(slab_create(&options, &slab), -EINVAL);
	options.granule_bytes = 4 * KIB;
	options.barrier_bytes = 3 * MIB;
	REQUIRE_EQ(slab_create(&options, &slab), -EINVAL);
	options.barrier_bytes = 0;
	options.space_bytes = MIB;
	REQUIRE_EQ(slab_create(&options, &slab), -EINVAL);
}

/* More units than one word of the summary covers. */
static void the_lowest_free_unit_is_found_in_a_large_space(uint64_t *random)
{
	enum { UNITS = 20000 };
	struct slab *slab = frames_create(UNITS * 2 * MIB, 0);
	static uint8_t freed[UNITS];
	unsigned class;

	slab_grow(slab, UNITS * 2 * MIB);
	REQUIRE_EQ(slab_class(slab, 2 * MIB, &class), 0);
	for (uint64_t i = 0; i < UNITS; i++)
		REQUIRE_EQ(slab_alloc(slab, class), i * 2 * MIB);
	for (int round = 0; round < 20; round++) {
		memset(freed, 0, sizeof(freed));
		for (uint32_t i = 0; i < 1u << round / 2; i++)
			freed[unit_random(random, UNITS)] = 1;
		for (uint64_t i = 0; i < UNITS; i++)
			if (freed[i])
				slab_free(slab, class, i * 2 * MIB);
		for (uint64_t i = 0; i < UNITS; i++)
			if (freed[i])
				REQUIRE_EQ(slab_alloc(slab, class), i * 2 * MIB);
		REQUIRE_EQ(slab_alloc(slab, class), -ENOSPC);
	}
	slab_destroy(slab);
}

struct fault {
	struct slab *slab;
	unsigned class, other;
	uint64_t offset;
};

static void free_it(void *context)
{
	struct fault *fault = context;

	slab_free(fault->slab, fault->class, fault->offset);
}

static void free_as_other(void *context)
{
	struct fault *fault = context;

	slab_free(fault->slab, fault->other, fault->offset);
}

static void own_it(void *context)
{
	struct fault *fault = context;

	slab_owner_set(fault->slab, fault->offset, 1);
}

static void shrink(void *context)
{
	struct fault *fault = context;

	slab_grow(fault->slab, GIB / 2 - 2 * MIB);
}

static void faults_of_the_caller_abort(void)
{
	struct fault fault = {.slab = frames_create(GIB, 0)};
	uint64_t first, second;

	slab_grow(fault.slab, GIB / 2);
	REQUIRE_EQ(slab_class(fault.slab, 640 * KIB, &fault.class), 0);
	REQUIRE_EQ(slab_class(fault.slab, 2 * MIB, &fault.other), 0);
	first = (uint64_t)slab_alloc(fault.slab, fault.class);
	second = (uint64_t)slab_alloc(fault.slab, fault.class);
	slab_free(fault.slab, fault.class, second);

	fault.offset = second; /* twice */
	REQUIRE(unit_aborts(free_it, &fault));
	REQUIRE(unit_aborts(own_it, &fault));
	fault.offset = first + 640 * KIB * 3; /* never handed out */
	REQUIRE(unit_aborts(free_it, &fault));
	fault.offset = first + 4 * KIB; /* inside an object */
	REQUIRE(unit_aborts(free_it, &fault));
	fault.offset = first + 1;
	REQUIRE(unit_aborts(free_it, &fault));
	fault.offset = 100 * MIB; /* a free unit */
	REQUIRE(unit_aborts(free_it, &fault));
	fault.offset = GIB / 2; /* not yet usable */
	REQUIRE(unit_aborts(free_it, &fault));
	fault.offset = UINT64_MAX;
	REQUIRE(unit_aborts(free_it, &fault));
	REQUIRE(unit_aborts(shrink, &fault));
	fault.offset = first;
	REQUIRE(unit_aborts(free_as_other, &fault));
	REQUIRE(!unit_aborts(free_it, &fault));
	slab_destroy(fault.slab);
}

#ifndef UNIT_SANITIZED
static uint64_t resident_bytes(void)
{
	unsigned long total, resident;
	FILE *file = fopen("/proc/self/statm", "r");

	REQUIRE(file && fscanf(file, "%lu %lu", &total, &resident) == 2);
	fclose(file);
	return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void books_stay_small(void)
{
	static const struct {
		struct slab_options options;
		uint64_t object_bytes;
	} uses[] = {
		{{.space_bytes = GIB, .unit_bytes = 64 * KIB, .granule_bytes = 64}, 256},
		{{.space_bytes = 64 * GIB, .unit_bytes = 2 * MIB, .granule_bytes = 4096}, 2 * MIB},
	};

	for (size_t i = 0; i < ARRAY_COUNT(uses); i++) {
		struct slab_options options = uses[i].options;
		uint64_t before = resident_bytes(), books, count = 0, start;
		struct slab *slab;
		unsigned class;
		int64_t offset;

		options.classes_max = 4;
		REQUIRE_EQ(slab_create(&options, &slab), 0);
		slab_grow(slab, options.space_bytes);
		REQUIRE_EQ(slab_class(slab, uses[i].object_bytes, &class), 0);
		start = clock_ns();
		while ((offset = slab_alloc(slab, class)) >= 0) {
			slab_owner_set(slab, (uint64_t)offset, 1);
			count++;
		}
		books = resident_bytes() - before;
		printf("%llu objects of %llu bytes: %.1f bytes of books and %.0f ns each\n",
			(unsigned long long)count, (unsigned long long)uses[i].object_bytes,
			(double)books / (double)count,
			(double)(clock_ns() - start) / (double)count);
		REQUIRE_EQ(count, options.space_bytes / uses[i].object_bytes);
		REQUIRE(books <= 8 * count + 128 * (options.space_bytes / options.unit_bytes));
		slab_destroy(slab);
	}
}
#else /* UNIT_SANITIZED */
static void books_stay_small(void)
{
	printf("the sanitizer's own memory hides what the books take: not measured\n");
}
#endif

int main(int argc, char **argv)
{
	uint64_t random = unit_seed(argc, argv);

	slab_lengths_are_the_shortest_that_waste_little();
	freed_in_descending_order_comes_back_ascending();
	mixed_sizes_fill_the_space(&random);
	the_lowest_free_unit_is_found_in_a_large_space(&random);
	failed_allocations_leave_nothing();
	faults_of_the_caller_abort();
	books_stay_small();
	for (int i = 0; i < 100; i++)
		random_test(mix64(random + (uint64_t)i));
	return 0;
}
