/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_ATTENTION_PREFILL_ARGS_H
#define SKEP_KERNELS_ATTENTION_PREFILL_ARGS_H

#include <stdbool.h>

#include "kernels/attention_prefill.h"

/* The argument of every variant, checked by attention_prefill(). */
struct attention_prefill_args {
	struct attention_prefill prefill;
	uint32_t tiles; /* of query rows, that the longest sequence has */
	uint32_t works; /* tiles x query heads x sequences: pieces of work */
};

/*
 * The kernels, which differ in speed alone: "tensor" by mma.sync (cuda/attention_prefill.cu),
 * "hopper" by wgmma (cuda/attention_prefill_hopper.cu). A block takes @rows query tokens of one
 * head, and @keys tokens of the context a step; in shared memory it has @tiles of these rows, each
 * of K and V @stages times, and @barrier_bytes. The first that the device can run is the one that
 * attention_prefill() takes; the others are for tests and benches.
 */
struct attention_prefill_variant {
	const char *name; /* NULL ends the table */
	uint32_t rows, tiles, keys, stages, threads;
	uint32_t capability; /* of the device, at least */
	uint32_t barrier_bytes;
	bool resident; /* a block a processor, that takes one piece of work after the other */
};

extern const struct attention_prefill_variant attention_prefill_variants[];

/* As attention_prefill(); -ENOTSUP for a device without the variant too. Host: the reference. */
int attention_prefill_by(struct gpu *gpu, struct gpu_stream *stream,
	const struct attention_prefill *prefill, const struct attention_prefill_variant *variant);

/* The reference (attention_prefill_reference.c): @args is struct attention_prefill_args. */
void attention_prefill_reference(const void *args);

#endif
