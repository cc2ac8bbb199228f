/* SPDX-License-Identifier: Apache-2.0 */
/* Slabs of one instance made again in another, as between a daemon and its successor. */
#include <errno.h>

#include "base/slab.h"
#include "tests/base/unit.h"

#define KIB 1024ull
#define MIB (KIB << 10)

enum { RUN_OBJECTS_MAX = 4096 };

struct image_gather {
	uint32_t numbers[RUN_OBJECTS_MAX], owners[RUN_OBJECTS_MAX];
	uint64_t offset, object_bytes;
	uint32_t count;
};

static void image_note(void *context, uint64_t offset, uint32_t owner)
{
	struct image_gather *image = context;

	REQUIRE(image->count < RUN_OBJECTS_MAX);
	image->numbers[image->count] = (uint32_t)((offset - image->offset) / image->object_bytes);
	image->owners[image->count++] = owner;
}

static void slabs_restore(const struct slab *from, struct slab *to)
{
	static struct image_gather gather;

	for (int64_t at = slab_next(from, 0); at >= 0; at = slab_next(from, (uint32_t)at + 1)) {
		struct slab_info info = slab_info(from, (uint32_t)at);
		struct slab_image image = {
			(uint32_t)at, info.class, 0, gather.numbers, gather.owners};

		gather.offset = info.offset;
		gather.object_bytes = slab_object_bytes(from, info.class);
		gather.count = 0;
		slab_each_in((struct slab *)(uintptr_t)from, (uint32_t)at, image_note, &gather);
		image.count = gather.count;
		REQUIRE_EQ(slab_restore(to, &image), 0);
		/* A second time its units are taken. */
		REQUIRE_EQ(slab_restore(to, &image), -EINVAL);
	}
}

/* Objects with their owners stand in another instance, which goes on as the first would: it has
 * room for as many, and every one can be freed. */
static void what_is_restored_goes_on(uint64_t *random)
{
	enum { CLASSES = 3, OBJECTS = 3000 };
	static uint64_t offsets[OBJECTS];
	static unsigned classes[OBJECTS];
	struct slab_options options = {.space_bytes = 64 * MIB,
		.unit_bytes = 256 * KIB,
		.granule_bytes = 4 * KIB,
		.barrier_bytes = 8 * MIB,
		.classes_max = CLASSES};
	const uint64_t sizes[CLASSES] = {4 * KIB, 20 * KIB, 200 * KIB};
	struct slab *slabs[2];
	struct slab_stats stats[2];
	unsigned class, live = 0;

	for (unsigned i = 0; i < 2; i++) {
		REQUIRE_EQ(slab_create(&options, &slabs[i]), 0);
		slab_grow(slabs[i], 48 * MIB);
		for (unsigned k = 0; k < CLASSES; k++)
			REQUIRE(slab_class(slabs[i], sizes[k], &class) == 0 && class == k);
	}
	for (unsigned i = 0; i < 4 * OBJECTS; i++) {
		class = (unsigned)unit_random(random, CLASSES);
		if (live < OBJECTS && unit_random(random, 3)) {
			int64_t at = slab_alloc(slabs[0], class);

			if (at < 0)
				continue;
			slab_owner_set(slabs[0], (uint64_t)at, (uint32_t)at ^ 0x55u);
			offsets[live] = (uint64_t)at;
			classes[live++] = class;
		} else if (live) {
			unsigned gone = (unsigned)unit_random(random, live--);

			slab_free(slabs[0], classes[gone], offsets[gone]);
			offsets[gone] = offsets[live];
			classes[gone] = classes[live];
		}
	}
	slabs_restore(slabs[0], slabs[1]);
	for (unsigned i = 0; i < 2; i++)
		slab_stats_get(slabs[i], &stats[i]);
	REQUIRE_EQ(stats[0].space_bytes, stats[1].space_bytes);
	REQUIRE_EQ(stats[0].usable_bytes, stats[1].usable_bytes);
	REQUIRE_EQ(stats[0].slab_bytes, stats[1].slab_bytes);
	REQUIRE_EQ(stats[0].live_bytes, stats[1].live_bytes);
	REQUIRE_EQ(stats[0].live, stats[1].live);
	REQUIRE_EQ(stats[0].slabs, stats[1].slabs);
	for (unsigned i = 0; i < live; i++)
		REQUIRE_EQ(slab_owner_get(slabs[1], offsets[i]), (uint32_t)offsets[i] ^ 0x55u);
	for (class = 0; class < CLASSES; class ++) {
		unsigned counts[2] = {0, 0};

		for (unsigned i = 0; i < 2; i++)
			while (slab_alloc(slabs[i], class) >= 0)
				counts[i]++;
		REQUIRE_EQ(counts[0], counts[1]);
	}
	for (unsigned i = 0; i < live; i++)
		slab_free(slabs[1], classes[i], offsets[i]);
	slab_destroy(slabs[0]);
	slab_destroy(slabs[1]);
}

static void what_does_not_fit_is_not_restored(void)
{
	struct slab_options options = {.space_bytes = 4 * MIB,
		.unit_bytes = 256 * KIB,
		.granule_bytes = 4 * KIB,
		.barrier_bytes = 1 * MIB,
		.classes_max = 2};
	const uint32_t numbers[] = {0, 1, 64}, backwards[] = {1, 0}, owners[3] = {0};
	struct slab_image wrong[] = {
		{0, 1, 1, numbers, owners},   /* no such class */
		{8, 0, 1, numbers, owners},   /* not usable yet */
		{0, 0, 3, numbers, owners},   /* more than the slab has */
		{0, 0, 2, backwards, owners}, /* not in order */
		{0, 0, 0, numbers, owners},
	};
	struct slab_stats stats;
	struct slab *slab;
	unsigned class;

	REQUIRE_EQ(slab_create(&options, &slab), 0);
	slab_grow(slab, 2 * MIB);
	REQUIRE_EQ(slab_class(slab, 4 * KIB, &class), 0);
	for (unsigned i = 0; i < ARRAY_COUNT(wrong); i++)
		REQUIRE_EQ(slab_restore(slab, &wrong[i]), -EINVAL);
	slab_stats_get(slab, &stats);
	REQUIRE(stats.live == 0 && stats.slabs == 0 && stats.slab_bytes == 0);
	slab_destroy(slab);
}

int main(int argc, char **argv)
{
	uint64_t random = unit_seed(argc, argv);

	for (int i = 0; i < 20; i++)
		what_is_restored_goes_on(&random);
	what_does_not_fit_is_not_restored();
	return 0;
}
