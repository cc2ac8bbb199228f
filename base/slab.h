/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_SLAB_H
#define SKEP_BASE_SLAB_H

#include <stdint.h>

/*
 * Equal-sized objects inside one large linear space. The space itself is never touched: an object
 * is a byte offset, all bookkeeping lies outside, because the space may be memory that others read
 * or that is not there yet. It is cut in units; a slab is a run of units filled with objects of one
 * class (one object size); a slab belongs to its class from its first object to its last, then its
 * units are free for any class. A slab is named by the number of its first unit (its index), which
 * stays the same while the slab lives.
 *
 * One thread owns an instance; no function blocks, and only slab_create allocates.
 *
 * Bookkeeping: 4 bytes and a bit an object, in lines of 16 objects, and about 50 bytes a unit; the
 * rest of the arrays is virtual and never touched.
 */
struct slab;

struct slab_options {
	uint64_t space_bytes;	/* rounded down to whole units */
	uint32_t unit_bytes;	/* a power of two */
	uint32_t granule_bytes; /* objects are multiples of it; a power of two, at most a unit */
	uint64_t
		barrier_bytes; /* a slab crosses no multiple of it; a multiple of a unit; 0: none */
	unsigned classes_max;
	unsigned run_units_max; /* the longest slab made to save waste; 0: 64 */
	double waste_max;	/* tail of a slab no object fits in, as a share of it; 0: 0.015 */
};

struct slab_info {
	unsigned class;
	uint32_t objects; /* that fit */
	uint32_t live;	  /* of these in use */
	uint64_t offset, bytes;
};

struct slab_stats {
	uint64_t space_bytes, usable_bytes;
	uint64_t slab_bytes; /* in slabs: usable_bytes less the free units */
	uint64_t live_bytes; /* in live objects */
	uint64_t live;	     /* objects */
	uint32_t slabs;
};

struct slab_class_stats {
	uint64_t object_bytes;
	uint64_t run_bytes;   /* of one slab */
	uint32_t run_objects; /* of one slab */
	uint32_t slabs;
	uint64_t live;
};

/* Units that become one free run of a class when every slab that touches them is emptied. */
struct slab_window {
	uint64_t offset, bytes;
	uint64_t cost; /* sum over its slabs */
};

/* Nothing of the space is usable before slab_grow. 0, -EINVAL (options contradict), -ENOMEM. */
int slab_create(const struct slab_options *options, struct slab **slab);

/* Live objects are simply forgotten. NULL is allowed. */
void slab_destroy(struct slab *slab);

/*
 * From now on the first @usable_bytes of the space may be used (rounded down to units); never less
 * than before, never more than the space.
 */
void slab_grow(struct slab *slab, uint64_t usable_bytes);

/*
 * Finds or makes the class of @object_bytes, rounded up to the granule. Classes are never removed.
 * 0; -EINVAL for 0 bytes; -EFBIG where one object passes the space or the barrier; -ENOSPC where
 * classes_max other sizes exist.
 */
int slab_class(struct slab *slab, uint64_t object_bytes, unsigned *class);

/* Bytes from one object of the class to the next: the size asked, rounded up. */
uint64_t slab_object_bytes(const struct slab *slab, unsigned class);

/*
 * Takes an object; returns its offset, or -ENOSPC where no slab of the class has room and no run of
 * units is free. The slab that was freed into last comes first, and in it the object freed last; a
 * fresh slab is handed out in ascending order, at the lowest place that fits. So objects freed in
 * descending order come back ascending, over several slabs too if all of them stayed or all went.
 * The owner word starts as 0.
 */
int64_t slab_alloc(struct slab *slab, unsigned class);

/* @offset and @class must be of a live object: a double or foreign free aborts. */
void slab_free(struct slab *slab, unsigned class, uint64_t offset);

/* A word for the caller's use with each live object. @offset must be the start of one. */
void slab_owner_set(struct slab *slab, uint64_t offset, uint32_t owner);
uint32_t slab_owner_get(const struct slab *slab, uint64_t offset);

/* Index of the slab that holds the byte @offset, or -ENOENT where its unit is free. */
int64_t slab_of(const struct slab *slab, uint64_t offset);

/* Index of the first slab at or after unit @from, or -ENOENT; pass an index + 1 to go on. */
int64_t slab_next(const struct slab *slab, uint32_t from);

/* @index must be of a slab. */
struct slab_info slab_info(const struct slab *slab, uint32_t index);

typedef void slab_visit(void *context, uint64_t offset, uint32_t owner);

/*
 * Calls @visit for each live object of a slab, in ascending order. It may free the object it is
 * given, and may free or allocate nothing else in this slab.
 */
void slab_each_in(struct slab *slab, uint32_t index, slab_visit *visit, void *context);

/* What emptying slab @index would cost; SLAB_NEVER: it cannot be emptied. Must change nothing. */
typedef uint64_t slab_cost(void *context, uint32_t index);

#define SLAB_NEVER UINT64_MAX

/*
 * Finds the cheapest place for a slab of @class: units that are free or lie in slabs that can be
 * emptied; the lowest of equals. A slab counts whole, even where it sticks out of the window. @cost
 * is called at most once for each slab, of every class: the caller rules out @class itself where
 * that is no help. 0, or -ENOSPC where no place can be made. Time: one pass over the units.
 *
 *	while ((index = slab_in_window(slab, &window)) >= 0)
 *		empty slab index, or give up;
 *	slab_alloc(slab, class);
 */
int slab_window(struct slab *slab, unsigned class, slab_cost *cost, void *context,
	struct slab_window *window);

/* Index of a slab that touches the window, or -ENOENT where all its units are free. */
int64_t slab_in_window(const struct slab *slab, const struct slab_window *window);

/*
 * A slab as it stood in another instance of the same options: the objects @numbers of the slab at
 * unit @index are live again, with the words of @owners. Its units must be usable and free.
 */
struct slab_image {
	uint32_t index;
	unsigned class; /* numbers of classes are given in the order of slab_class() calls */
	uint32_t count; /* at least 1 */
	const uint32_t *numbers, *owners; /* ascending, count from 0 in the slab */
};

/* Return: 0; -EINVAL: it does not fit, and nothing was changed. */
int slab_restore(struct slab *slab, const struct slab_image *image);

/* How many classes were made. */
unsigned slab_classes(const struct slab *slab);

void slab_stats_get(const struct slab *slab, struct slab_stats *stats);
void slab_class_stats_get(const struct slab *slab, unsigned class, struct slab_class_stats *stats);

#endif
