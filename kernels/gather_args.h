/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_GATHER_ARGS_H
#define SKEP_KERNELS_GATHER_ARGS_H

#include <stdbool.h>

#include "kernels/gather.h"

/* A block of threads works on this many leaves at most; their sums meet in shared memory. */
#define GATHER_CHUNK_LEAVES_MAX 64

/*
 * What a kernel is given. A part's leaves are cut into chunks, one a block of threads: several
 * whole ranges where ranges are short, else a piece of one range.
 */
struct gather_args {
	struct gather_work work;
	uint32_t chunk_leaves; /* of a chunk; the last of a range or part may have less */
	uint32_t range_chunks; /* chunks of a range, where a range is longer than a chunk; else 0 */
	uint32_t chunk_ranges; /* ranges of a chunk, where it has several or one; else 0 */
	uint32_t part_chunks;  /* chunks of a part: those of the ranges of this launch */
	struct gather_divisor by_part_chunks, by_range_chunks, by_range_leaves;
};

/*
 * The kernels. @lanes of a warp share a leaf; @width is the bytes of a vector. With @step the
 * address of lanes × 16 bytes is worked out once, which needs runs and ranges in multiples of that.
 */
enum gather_way { GATHER_IN, GATHER_OUT, GATHER_SUM };

/*
 * name, lanes, width, step, threads, blocks: of threads, a multiprocessor holds at least (it bounds
 * the registers). The first that fits a plan is what runs.
 */
#define GATHER_VARIANTS(X)                                                                         \
	X(step32, 32, 16, 1, 256, 3)                                                               \
	X(step16, 16, 16, 1, 256, 2)                                                               \
	X(step8, 8, 16, 1, 128, 4)                                                                 \
	X(each32, 32, 16, 0, 256, 2)                                                               \
	X(words, 32, 4, 0, 256, 2)                                                                 \
	X(bytes, 32, 1, 0, 256, 2)

struct gather_variant {
	const char *name;
	uint32_t lanes, width, threads;
	bool step;
};

/* All of them, in the order of the table; and how many. */
extern const struct gather_variant gather_variants[];
extern const uint32_t gather_variant_count;

/* Whether @variant does the work of @plan at all. A sum looks at parts alone. */
bool gather_variant_fits(
	const struct gather_variant *variant, const struct gather_plan *plan, enum gather_way way);

/* What a launch takes unless told otherwise. For tests and measurements the rest may be chosen. */
struct gather_choice {
	const struct gather_variant *variant;
	uint32_t chunk_leaves; /* 16 to GATHER_CHUNK_LEAVES_MAX */
};
struct gather_choice gather_choose(const struct gather_work *work, enum gather_way way);
int gather_submit(struct gpu_stream *stream, const struct gather_work *work, enum gather_way way,
	struct gather_choice choice);

/* -EINVAL where the work cannot be what the caller meant. */
int gather_work_check(const struct gather_work *work, enum gather_way way);

/* What runs in place of the kernels: the argument is a struct gather_args. */
void gather_host(const void *args);
void scatter_host(const void *args);
void sum_host(const void *args);

#endif
