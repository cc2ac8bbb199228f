/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_PATTERN_H
#define SKEP_KERNELS_PATTERN_H

#include <stdint.h>

/*
 * Device memory whose content is a function of the place: word i is mix64(seed ^ i). Whatever is
 * moved, mapped or shared can so be checked where it lies, at the speed of the memory. For tests
 * and measurements; plain C, read by the CUDA code too.
 */
struct pattern_fill_args {
	uint64_t at; /* on an 8-byte boundary */
	uint64_t words;
	uint64_t seed, first; /* the number of the first word */
};

/* @found: a struct pattern_found in device memory, set to {0, UINT64_MAX} before. */
struct pattern_check_args {
	uint64_t at;
	uint64_t words;
	uint64_t seed, first;
	uint64_t found;
};

struct pattern_found {
	uint64_t wrong_count, wrong_first; /* words; wrong_first: the lowest number */
};

#ifndef __CUDACC__
#include "kernels/gpu.h"

/*
 * Submits the writing, or the comparison, of @args. -EINVAL for a place off its boundary, else as
 * gpu_launch.
 */
int pattern_fill(struct gpu *gpu, struct gpu_stream *stream, const struct pattern_fill_args *args);
int pattern_check(
	struct gpu *gpu, struct gpu_stream *stream, const struct pattern_check_args *args);

/* The host's side of both (pattern_reference.c). */
uint64_t pattern_word(uint64_t seed, uint64_t number);
void pattern_fill_reference(const void *args);
void pattern_check_reference(const void *args);
#endif

#endif
