/* SPDX-License-Identifier: Apache-2.0 */
#include "base/slab.h"

#include <errno.h>
#include <stdbool.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/list.h"
#include "base/memory.h"

enum {
	WORD_BITS = 64,
	LINE_OBJECTS = 16,	/* object words share lines of one cache line */
	RUN_UNITS_DEFAULT = 64, /* unless the options say otherwise */
};

#define WASTE_DEFAULT 0.015

/* A slab, at the index of its first unit. Zero while no slab begins there. */
struct run {
	struct list partial; /* in class_of.partial while live < objects */
	uint64_t cost;	     /* scratch of slab_window */
	uint32_t class;
	uint32_t live;
	uint32_t fresh; /* objects from here on were never handed out by this slab */
	uint32_t freed; /* top of the stack of freed objects, as number + 1; 0: empty */
};

struct class_of {
	uint64_t object_bytes;
	uint32_t object_granules;
	uint32_t units, objects; /* of a slab */
	uint32_t slabs;
	uint64_t live;
	struct list partial; /* slabs with a free object, the one freed into last first */
};

/*
 * Words of objects: the owner while the object is live, else the number + 1 of the next freed
 * object. They lie in lines of 16; line l of a slab of n units is in column first + l % n, row
 * l / n, and rows lie one after the other. So slabs of few objects share pages, those of many
 * objects have neighbours in one cache line, and no slab needs memory of its own.
 */
struct slab {
	uint32_t units, usable_units, barrier_units;
	unsigned unit_shift, granule_shift;
	uint32_t run_units_max;
	double waste_max;
	uint32_t free_units, slabs;
	uint32_t run_refused; /* no run of so many units is free; UINT32_MAX: not known */
	uint64_t live_bytes, live;
	unsigned classes_max, classes_count;
	struct class_of *classes;
	struct run *runs;
	uint32_t *unit_slabs;	/* index + 1 of the slab a unit is in; 0: none */
	uint64_t *free_map;	/* a bit a unit: usable and in no slab */
	uint64_t *free_summary; /* a bit a word of free_map: not zero */
	uint32_t *words;
	uint16_t *live_map; /* a bit an object, one entry a line */
};

struct object_place {
	uint32_t first;	 /* the slab */
	uint32_t number; /* in it */
	uint64_t line;
	unsigned column; /* in the line */
};

static bool power_of_two(uint64_t value)
{
	return value && !(value & (value - 1));
}

static int options_check(const struct slab_options *options)
{
	if (!power_of_two(options->unit_bytes) || !power_of_two(options->granule_bytes) ||
		options->granule_bytes > options->unit_bytes || !options->classes_max)
		return -EINVAL;
	if (options->barrier_bytes % options->unit_bytes || options->waste_max < 0 ||
		options->waste_max >= 1)
		return -EINVAL;
	if (options->space_bytes / options->unit_bytes == 0 ||
		options->space_bytes / options->unit_bytes >= UINT32_MAX ||
		options->space_bytes > INT64_MAX)
		return -EINVAL;
	return 0;
}

int slab_create(const struct slab_options *options, struct slab **made)
{
	uint64_t lines, words;
	struct slab *slab;

	if (options_check(options))
		return -EINVAL;
	slab = memory_zalloc(sizeof(*slab));
	if (!slab)
		return -ENOMEM;
	slab->units = (uint32_t)(options->space_bytes / options->unit_bytes);
	slab->barrier_units = slab->units;
	if (options->barrier_bytes && options->barrier_bytes / options->unit_bytes < slab->units)
		slab->barrier_units = (uint32_t)(options->barrier_bytes / options->unit_bytes);
	slab->unit_shift = (unsigned)__builtin_ctz(options->unit_bytes);
	slab->granule_shift = (unsigned)__builtin_ctz(options->granule_bytes);
	slab->run_units_max = options->run_units_max ? options->run_units_max : RUN_UNITS_DEFAULT;
	slab->waste_max = options->waste_max > 0 ? options->waste_max : WASTE_DEFAULT;
	slab->classes_max = options->classes_max;
	slab->run_refused = UINT32_MAX;

	words = divide_up(slab->units, WORD_BITS);
	lines = slab->units * divide_up(options->unit_bytes / options->granule_bytes, LINE_OBJECTS);
	slab->classes = memory_calloc(slab->classes_max, sizeof(*slab->classes));
	slab->runs = memory_calloc(slab->units, sizeof(*slab->runs));
	slab->unit_slabs = memory_calloc(slab->units, sizeof(*slab->unit_slabs));
	slab->free_map = memory_calloc(words, sizeof(*slab->free_map));
	slab->free_summary =
		memory_calloc(divide_up(words, WORD_BITS), sizeof(*slab->free_summary));
	slab->words = memory_calloc(lines, LINE_OBJECTS * sizeof(*slab->words));
	slab->live_map = memory_calloc(lines, sizeof(*slab->live_map));
	if (!slab->classes || !slab->runs || !slab->unit_slabs || !slab->free_map ||
		!slab->free_summary || !slab->words || !slab->live_map) {
		slab_destroy(slab);
		return -ENOMEM;
	}
	*made = slab;
	return 0;
}

void slab_destroy(struct slab *slab)
{
	if (!slab)
		return;
	memory_free(slab->live_map);
	memory_free(slab->words);
	memory_free(slab->free_summary);
	memory_free(slab->free_map);
	memory_free(slab->unit_slabs);
	memory_free(slab->runs);
	memory_free(slab->classes);
	memory_free(slab);
}

/* --- units ------------------------------------------------------------------------------------ */

static void units_release(struct slab *slab, uint32_t first, uint32_t count)
{
	for (uint32_t unit = first; unit < first + count; unit++) {
		uint32_t word = unit / WORD_BITS;

		SKEP_CHECK(!(slab->free_map[word] & 1ull << unit % WORD_BITS));
		slab->free_map[word] |= 1ull << unit % WORD_BITS;
		slab->free_summary[word / WORD_BITS] |= 1ull << word % WORD_BITS;
		slab->unit_slabs[unit] = 0;
	}
	slab->free_units += count;
	slab->run_refused = UINT32_MAX;
}

static void units_take(struct slab *slab, uint32_t first, uint32_t count)
{
	for (uint32_t unit = first; unit < first + count; unit++) {
		uint32_t word = unit / WORD_BITS;

		SKEP_CHECK(slab->free_map[word] & 1ull << unit % WORD_BITS);
		slab->free_map[word] &= ~(1ull << unit % WORD_BITS);
		if (!slab->free_map[word])
			slab->free_summary[word / WORD_BITS] &= ~(1ull << word % WORD_BITS);
		slab->unit_slabs[unit] = first + 1;
	}
	slab->free_units -= count;
}

/* The first set bit at or after @from of a map of @bits, or @bits. */
static uint32_t map_next(const uint64_t *map, uint32_t bits, uint32_t from)
{
	uint32_t word = from / WORD_BITS;
	uint64_t rest;

	if (from >= bits)
		return bits;
	rest = map[word] & UINT64_MAX << from % WORD_BITS;
	while (!rest) {
		if (++word >= divide_up(bits, WORD_BITS))
			return bits;
		rest = map[word];
	}
	return word * WORD_BITS + (uint32_t)__builtin_ctzll(rest);
}

/* The first free unit at or after @from, or slab->units. */
static uint32_t unit_next_free(const struct slab *slab, uint32_t from)
{
	uint32_t words = (uint32_t)divide_up(slab->units, WORD_BITS);
	uint32_t word = from / WORD_BITS;
	uint64_t rest;

	if (from >= slab->units)
		return slab->units;
	rest = slab->free_map[word] & UINT64_MAX << from % WORD_BITS;
	if (!rest) {
		word = map_next(slab->free_summary, words, word + 1);
		if (word >= words)
			return slab->units;
		rest = slab->free_map[word];
		SKEP_CHECK(rest);
	}
	return word * WORD_BITS + (uint32_t)__builtin_ctzll(rest);
}

/* How many free units follow one another from @first on, counted up to @enough. */
static uint32_t units_free_from(const struct slab *slab, uint32_t first, uint32_t enough)
{
	uint32_t count = 0;

	while (count < enough && first + count < slab->usable_units) {
		uint32_t unit = first + count, shift = unit % WORD_BITS;
		uint64_t taken = ~(slab->free_map[unit / WORD_BITS] >> shift);
		uint32_t run = taken ? (uint32_t)__builtin_ctzll(taken) : WORD_BITS;

		count += run;
		if (run < WORD_BITS - shift)
			break;
	}
	return MIN_OF(count, enough);
}

/* First fit; slab->units where no run of @count is free between two barriers. */
static uint32_t run_find(struct slab *slab, uint32_t count)
{
	uint32_t first = 0;

	if (count > slab->free_units || count >= slab->run_refused)
		return slab->units;
	while ((first = unit_next_free(slab, first)) < slab->usable_units) {
		uint32_t room = slab->barrier_units - first % slab->barrier_units;
		uint32_t run = units_free_from(slab, first, MIN_OF(room, count));

		if (run == count)
			return first;
		first += run;
	}
	slab->run_refused = count;
	return slab->units;
}

void slab_grow(struct slab *slab, uint64_t usable_bytes)
{
	uint64_t units = usable_bytes >> slab->unit_shift;
	uint32_t old = slab->usable_units;

	SKEP_CHECK(units >= old && units <= slab->units);
	slab->usable_units = (uint32_t)units;
	units_release(slab, old, (uint32_t)units - old);
}

/* --- classes ---------------------------------------------------------------------------------- */

/*
 * The shortest slab whose tail wastes no more than waste_max; where none up to the bound does, the
 * one that wastes least.
 */
static void class_shape(const struct slab *slab, struct class_of *class)
{
	unsigned shift = slab->unit_shift - slab->granule_shift; /* granules to units */
	uint64_t least = divide_up(class->object_granules, 1ull << shift);
	uint64_t most = MIN_OF(MAX_OF(least, slab->run_units_max), slab->barrier_units);
	double best = 1;

	most = MIN_OF(most, UINT32_MAX >> shift); /* granules of a slab fit 32 bits */
	for (uint64_t units = least; units <= most; units++) {
		uint64_t granules = units << shift;
		double waste = (double)(granules % class->object_granules) / (double)granules;

		if (waste < best) {
			best = waste;
			class->units = (uint32_t)units;
			class->objects = (uint32_t)(granules / class->object_granules);
		}
		if (waste <= slab->waste_max)
			break;
	}
	SKEP_CHECK(class->units && class->objects);
}

int slab_class(struct slab *slab, uint64_t object_bytes, unsigned *found)
{
	uint64_t granules = divide_up(object_bytes, 1ull << slab->granule_shift);
	unsigned shift = slab->unit_shift - slab->granule_shift; /* granules to units */
	struct class_of *class;

	if (!object_bytes)
		return -EINVAL;
	if (divide_up(granules, 1ull << shift) > MIN_OF(slab->barrier_units, UINT32_MAX >> shift))
		return -EFBIG;
	for (unsigned i = 0; i < slab->classes_count; i++) {
		if (slab->classes[i].object_granules == granules) {
			*found = i;
			return 0;
		}
	}
	if (slab->classes_count == slab->classes_max)
		return -ENOSPC;
	class = &slab->classes[slab->classes_count];
	class->object_granules = (uint32_t)granules;
	class->object_bytes = granules << slab->granule_shift;
	class_shape(slab, class);
	list_init(&class->partial);
	*found = slab->classes_count++;
	return 0;
}

static struct class_of *class_get(const struct slab *slab, unsigned class)
{
	SKEP_CHECK(class < slab->classes_count);
	return &slab->classes[class];
}

uint64_t slab_object_bytes(const struct slab *slab, unsigned class)
{
	return class_get(slab, class)->object_bytes;
}

/* --- objects ---------------------------------------------------------------------------------- */

static void place_set(
	const struct slab *slab, const struct class_of *class, struct object_place *place)
{
	uint32_t line = place->number / LINE_OBJECTS;

	place->column = place->number % LINE_OBJECTS;
	place->line =
		(uint64_t)(line / class->units) * slab->units + place->first + line % class->units;
}

static uint32_t *place_word(const struct slab *slab, const struct object_place *place)
{
	return &slab->words[place->line * LINE_OBJECTS + place->column];
}

static bool place_live(const struct slab *slab, const struct object_place *place)
{
	return slab->live_map[place->line] >> place->column & 1;
}

static void place_live_flip(struct slab *slab, const struct object_place *place)
{
	slab->live_map[place->line] ^= (uint16_t)(1u << place->column);
}

/* Finds the live object that starts at @offset; anything else is a fault of the caller. */
static struct object_place object_find(const struct slab *slab, uint64_t offset)
{
	int64_t first = slab_of(slab, offset);
	struct object_place place;
	const struct class_of *class;
	uint64_t granules;

	SKEP_CHECK(first >= 0);
	place.first = (uint32_t)first;
	class = class_get(slab, slab->runs[first].class);
	offset -= (uint64_t)first << slab->unit_shift;
	granules = offset >> slab->granule_shift;
	SKEP_CHECK(granules << slab->granule_shift == offset);
	/* A slab has fewer than 2^32 granules, and 32-bit division is the cheap one. */
	place.number = (uint32_t)granules / class->object_granules;
	SKEP_CHECK((uint32_t)granules % class->object_granules == 0);
	SKEP_CHECK(place.number < class->objects);
	place_set(slab, class, &place);
	SKEP_CHECK(place_live(slab, &place));
	return place;
}

static struct run *run_make(struct slab *slab, unsigned number)
{
	struct class_of *class = &slab->classes[number];
	uint32_t first = run_find(slab, class->units);
	struct run *run;

	if (first == slab->units)
		return NULL;
	units_take(slab, first, class->units);
	run = &slab->runs[first];
	SKEP_CHECK(run->live == 0);
	run->class = number;
	run->fresh = run->freed = 0;
	list_add_before(class->partial.next, &run->partial);
	class->slabs++;
	slab->slabs++;
	return run;
}

static void run_end(struct slab *slab, struct run *run)
{
	struct class_of *class = &slab->classes[run->class];

	SKEP_CHECK(run->live == 0 && class->slabs > 0);
	list_remove(&run->partial);
	class->slabs--;
	slab->slabs--;
	units_release(slab, (uint32_t)(run - slab->runs), class->units);
}

int64_t slab_alloc(struct slab *slab, unsigned number)
{
	struct class_of *class = class_get(slab, number);
	struct object_place place;
	struct run *run;

	if (!list_empty(&class->partial))
		run = list_item(class->partial.next, struct run, partial);
	else
		run = run_make(slab, number);
	if (!run)
		return -ENOSPC;
	SKEP_CHECK(run->class == number && run->live < class->objects);
	place.first = (uint32_t)(run - slab->runs);
	place.number = run->freed ? run->freed - 1 : run->fresh;
	place_set(slab, class, &place);
	if (run->freed)
		run->freed = *place_word(slab, &place);
	else
		run->fresh++;
	SKEP_CHECK(place.number < class->objects && !place_live(slab, &place));
	place_live_flip(slab, &place);
	*place_word(slab, &place) = 0;
	if (++run->live == class->objects)
		list_remove(&run->partial);
	class->live++;
	slab->live++;
	slab->live_bytes += class->object_bytes;
	return (int64_t)(((uint64_t)place.first << slab->unit_shift) +
			 place.number * class->object_bytes);
}

void slab_free(struct slab *slab, unsigned number, uint64_t offset)
{
	struct object_place place = object_find(slab, offset);
	struct run *run = &slab->runs[place.first];
	struct class_of *class = &slab->classes[run->class];

	SKEP_CHECK(run->class == number);
	place_live_flip(slab, &place);
	*place_word(slab, &place) = run->freed;
	run->freed = place.number + 1;
	if (class->partial.next != &run->partial) {
		list_remove(&run->partial);
		list_add_before(class->partial.next, &run->partial);
	}
	run->live--;
	class->live--;
	slab->live--;
	slab->live_bytes -= class->object_bytes;
	/* At once: making a slab again costs a search of a bitmap, keeping it may starve a class.
	 */
	if (!run->live)
		run_end(slab, run);
}

void slab_owner_set(struct slab *slab, uint64_t offset, uint32_t owner)
{
	struct object_place place = object_find(slab, offset);

	*place_word(slab, &place) = owner;
}

uint32_t slab_owner_get(const struct slab *slab, uint64_t offset)
{
	struct object_place place = object_find(slab, offset);

	return *place_word(slab, &place);
}

/* --- slabs ------------------------------------------------------------------------------------ */

int64_t slab_of(const struct slab *slab, uint64_t offset)
{
	uint64_t unit = offset >> slab->unit_shift;

	if (unit >= slab->usable_units || !slab->unit_slabs[unit])
		return -ENOENT;
	return (int64_t)slab->unit_slabs[unit] - 1;
}

static struct run *run_get(const struct slab *slab, uint32_t index)
{
	SKEP_CHECK(index < slab->usable_units && slab->unit_slabs[index] == index + 1);
	return &slab->runs[index];
}

int64_t slab_next(const struct slab *slab, uint32_t from)
{
	for (uint32_t unit = from; unit < slab->usable_units; unit++)
		if (slab->unit_slabs[unit] == unit + 1)
			return unit;
	return -ENOENT;
}

struct slab_info slab_info(const struct slab *slab, uint32_t index)
{
	const struct run *run = run_get(slab, index);
	const struct class_of *class = &slab->classes[run->class];

	return (struct slab_info){
		.class = run->class,
		.objects = class->objects,
		.live = run->live,
		.offset = (uint64_t)index << slab->unit_shift,
		.bytes = (uint64_t) class->units << slab->unit_shift,
	};
}

void slab_each_in(struct slab *slab, uint32_t index, slab_visit *visit, void *context)
{
	struct run *run = run_get(slab, index);
	const struct class_of *class = &slab->classes[run->class];
	uint64_t offset = (uint64_t)index << slab->unit_shift;
	struct object_place place = {.first = index};

	/* The count, not the slab, ends the loop: the last free took the slab away. */
	for (uint32_t left = run->live; left; place.number++, offset += class->object_bytes) {
		SKEP_CHECK(place.number < class->objects);
		place_set(slab, class, &place);
		if (!place_live(slab, &place))
			continue;
		left--;
		visit(context, offset, *place_word(slab, &place));
	}
}

int slab_window(struct slab *slab, unsigned number, slab_cost *cost, void *context,
	struct slab_window *window)
{
	uint32_t count = class_get(slab, number)->units, first = 0;
	/* Wide enough for the exact sum of any costs, so that units can leave it again. */
	unsigned __int128 sum = 0, best = SLAB_NEVER;
	bool found = false;

	for (uint32_t unit = 0; unit < slab->usable_units && (!found || best); unit++) {
		uint32_t in = slab->unit_slabs[unit];
		struct run *run = in ? &slab->runs[in - 1] : NULL;

		if (in == unit + 1)
			run->cost = cost(context, unit);
		if (unit % slab->barrier_units == 0) {
			first = unit;
			sum = 0;
		}
		if (run && run->cost == SLAB_NEVER) {
			first = unit + 1;
			sum = 0;
			continue;
		}
		if (in == unit + 1)
			sum += run->cost;
		if (unit - first == count) {
			uint32_t left = slab->unit_slabs[first];

			/* A slab counts until its last unit leaves. */
			if (left && slab->unit_slabs[first + 1] != left)
				sum -= slab->runs[left - 1].cost;
			first++;
		}
		if (unit + 1 - first == count && (!found || sum < best)) {
			found = true;
			best = sum;
			window->offset = (uint64_t)first << slab->unit_shift;
		}
	}
	if (!found)
		return -ENOSPC;
	window->bytes = (uint64_t)count << slab->unit_shift;
	window->cost = best < SLAB_NEVER ? (uint64_t)best : SLAB_NEVER - 1;
	return 0;
}

int64_t slab_in_window(const struct slab *slab, const struct slab_window *window)
{
	uint64_t end = window->offset + window->bytes;
	int64_t index = -ENOENT;

	for (uint64_t offset = window->offset; offset < end && index < 0;
		offset += 1ull << slab->unit_shift)
		index = slab_of(slab, offset);
	return index;
}

/* --- handed over ------------------------------------------------------------------------------ */

static bool image_fits(const struct slab *slab, const struct slab_image *image)
{
	const struct class_of *class;

	if (image->class >= slab->classes_count)
		return false;
	class = &slab->classes[image->class];
	if (image->index >= slab->usable_units ||
		class->units > slab->usable_units - image->index ||
		image->index % slab->barrier_units + class->units > slab->barrier_units ||
		!image->count || image->count > class->objects)
		return false;
	for (uint32_t unit = image->index; unit < image->index + class->units; unit++)
		if (slab->unit_slabs[unit])
			return false;
	for (uint32_t i = 0; i < image->count; i++)
		if (image->numbers[i] >= class->objects ||
			(i && image->numbers[i] <= image->numbers[i - 1]))
			return false;
	return true;
}

/* What lies between live objects was freed; it comes back in ascending order. */
static void image_gaps(struct slab *slab, struct run *run, const struct slab_image *image)
{
	const struct class_of *class = &slab->classes[run->class];
	uint32_t left = image->count;

	for (uint32_t number = run->fresh; number-- > 0;) {
		struct object_place place = {.first = image->index, .number = number};

		if (left && image->numbers[left - 1] == number) {
			left--;
			continue;
		}
		place_set(slab, class, &place);
		*place_word(slab, &place) = run->freed;
		run->freed = number + 1;
	}
}

int slab_restore(struct slab *slab, const struct slab_image *image)
{
	struct class_of *class;
	struct run *run;

	if (!image_fits(slab, image))
		return -EINVAL;
	class = &slab->classes[image->class];
	run = &slab->runs[image->index];
	units_take(slab, image->index, class->units);
	SKEP_CHECK(run->live == 0);
	run->class = image->class;
	run->fresh = image->numbers[image->count - 1] + 1;
	run->freed = 0;
	list_init(&run->partial);
	for (uint32_t i = 0; i < image->count; i++) {
		struct object_place place = {.first = image->index, .number = image->numbers[i]};

		place_set(slab, class, &place);
		place_live_flip(slab, &place);
		*place_word(slab, &place) = image->owners[i];
	}
	image_gaps(slab, run, image);
	run->live = image->count;
	if (run->live < class->objects)
		list_add_before(class->partial.next, &run->partial);
	class->slabs++;
	class->live += run->live;
	slab->slabs++;
	slab->live += run->live;
	slab->live_bytes += run->live * class->object_bytes;
	return 0;
}

unsigned slab_classes(const struct slab *slab)
{
	return slab->classes_count;
}

/* --- figures ---------------------------------------------------------------------------------- */

void slab_stats_get(const struct slab *slab, struct slab_stats *stats)
{
	uint64_t used = slab->usable_units - slab->free_units;

	*stats = (struct slab_stats){
		.space_bytes = (uint64_t)slab->units << slab->unit_shift,
		.usable_bytes = (uint64_t)slab->usable_units << slab->unit_shift,
		.slab_bytes = used << slab->unit_shift,
		.live_bytes = slab->live_bytes,
		.live = slab->live,
		.slabs = slab->slabs,
	};
}

void slab_class_stats_get(const struct slab *slab, unsigned number, struct slab_class_stats *stats)
{
	const struct class_of *class = class_get(slab, number);

	*stats = (struct slab_class_stats){
		.object_bytes = class->object_bytes,
		.run_bytes = (uint64_t) class->units << slab->unit_shift,
		.run_objects = class->objects,
		.slabs = class->slabs,
		.live = class->live,
	};
}
