/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_GATHER_H
#define SKEP_KERNELS_GATHER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Between an engine's KV tensors and skep's parts. A part is one run of bytes in an order that
 * docs/formats/part.md tells byte by byte; the tensors are the engine's, in pages that lie
 * anywhere. Gathering copies the tokens of many blocks into their parts, scattering copies parts
 * back, and both take the range sums of checksum.h on the way: each byte is read once and written
 * once. Bytes are moved, never converted, so an element has any size and any type.
 *
 * All of it works through gpu.h on device memory, and on this machine's memory as well, where an
 * address is a pointer: on the host back end, or by the functions that end in _on_host, which need
 * no device at all. Names: `kind` 0 is K, 1 is V; `plane` is layer × kinds + kind.
 */
enum gather_order {
	GATHER_LAYER_MAJOR, /* layer, kind, token, head: a layer is one run */
	GATHER_TOKEN_MAJOR, /* token, layer, kind, head: a constant stride from token to token */
};

/* What the bytes of a part are. */
struct gather_layout {
	enum gather_order order;
	uint32_t layers;
	uint32_t kinds;	     /* 2 for K and V; 1 where one tensor is all (latent attention) */
	uint32_t tokens;     /* of a block */
	uint32_t heads;	     /* KV heads of this rank */
	uint32_t head_bytes; /* head size × bytes an element */
	uint32_t ranges;     /* equal shares with a sum of their own; GATHER_LAYER_MAJOR: layers */
};

/*
 * Where the engine keeps them. Element (page, slot, head) of a plane lies at the plane's base
 * + page × page_stride + slot × token_stride + head × head_stride, all in bytes.
 *
 *	K and V packed in one tensor: two bases into it, one K/V stride apart
 *	NHD [page][slot][head][size]: head_stride = head_bytes, token_stride = heads × head_bytes
 *	HND [page][head][slot][size]: token_stride = head_bytes, head_stride = page_tokens × that
 *	contiguous [row][head][token][size] or [row][token][head][size]: a row is a page that is as
 *	long as the tensor has room for tokens
 */
struct gather_tensors {
	const uint64_t *bases; /* layers × kinds addresses, plane by plane; read during the call */
	uint64_t page_stride, token_stride, head_stride;
	uint32_t page_tokens; /* slots of a page, 1 or more */
	uint32_t page_count;  /* pages of a plane */
};

/* One block: its part, and its tokens in the engine's pages. */
struct gather_block {
	uint64_t part;	     /* address of the part's first byte, aligned to plan.vector_bytes */
	uint32_t first_page; /* index, in the list of pages, of the page of the first token */
	uint32_t first_slot; /* the slot there, below page_tokens; later pages begin at slot 0 */
};

/* Division by a number known beforehand, as a multiplication. */
struct gather_divisor {
	uint32_t by, multiplier, shift;
};

/*
 * Layout and tensors made ready for the kernels. Plain data, made by one of the two functions
 * below, good for any number of launches.
 */
struct gather_plan {
	struct gather_layout layout;
	uint64_t page_stride, token_stride, head_stride;
	uint32_t page_tokens, page_count;
	uint32_t planes;
	uint32_t part_bytes, range_bytes, range_leaves;
	uint32_t vector_bytes; /* 16, 4 or 1: what all addresses and strides are multiples of */
	uint32_t run_bytes; /* bytes of one token that lie together: of a head, or of all heads */
	uint32_t runs;	    /* such runs in a token of a plane */
	struct gather_divisor by_run, by_runs, by_inner, by_page;
};

/*
 * Makes @plan. -EINVAL where a count is 0, where the ranges do not divide the part, or where
 * the tensors reach past the end of 64 bits; -E2BIG for a part of 2 GiB or more. Whether elements
 * overlap is not looked at. Nothing is kept of @tensors.
 */
int gather_plan_make(struct gather_plan *plan, const struct gather_layout *layout,
	const struct gather_tensors *tensors);

/* A plan of parts whose bytes mean nothing here: for sum_parts alone. Errors as above. */
int gather_plan_make_flat(struct gather_plan *plan, uint32_t ranges, uint32_t range_bytes);

/* The bytes of a part, 0 where that is 2 GiB or more or a count is 0. */
uint32_t gather_part_bytes(const struct gather_layout *layout);

/*
 * Whether blocks that came from elsewhere stay inside the tensors: 0, or -EINVAL with the first bad
 * one in @bad, if that is not NULL. The kernels believe what they are given.
 */
struct gather_pages {
	const uint32_t *numbers;
	uint32_t count;
};
int gather_blocks_check(const struct gather_plan *plan, const struct gather_block *blocks,
	uint32_t count, struct gather_pages pages, uint32_t *bad);

/*
 * One launch. All addresses are the device's, and what lies there stays as it is until the launch
 * is done. Sums and expected sums are of @count × ranges, block by block.
 */
struct gather_work {
	struct gather_plan plan;
	uint64_t bases;	   /* layers × kinds uint64_t: those the plan was made of */
	uint64_t blocks;   /* @count struct gather_block */
	uint64_t pages;	   /* uint32_t page numbers, each below page_count */
	uint64_t sums;	   /* out: uint64_t range sums; 0 = none are taken */
	uint64_t expected; /* scatter_parts: uint64_t range sums that the bytes must have */
	uint64_t failed;   /* with @expected, out: uint8_t a range: 0 it agrees, 1 it differs */
	uint64_t scratch;  /* gather_scratch_bytes(), zero before the first launch */
	uint32_t count;	   /* blocks, 1 or more */
	uint32_t range_first, range_count; /* the ranges this launch is for; 0, 0 = all */
};

/*
 * What a launch of @blocks blocks that takes sums needs at @scratch: 0 bytes where ranges are
 * short, as a layer's are. A launch leaves the words it counts with as it found them, zero, so
 * scratch is cleared once. One launch at a time and one plan use it.
 */
size_t gather_scratch_bytes(const struct gather_plan *plan, uint32_t blocks);

/*
 * Submit one launch to @stream, which may not block for it; the plan and the struct are copied.
 *
 * gather_parts: tensors to parts. Sums are taken if @sums is given.
 *
 * scatter_parts: parts to tensors. If @expected is given, the sums of what was read are compared
 * with it, and @failed is set for every range moved; @sums may be given besides. What is
 * summed is what is stored: each byte is loaded once. A block that fails has been written all the
 * same, for a sum is known only after its last byte: its destination holds nothing of use and is
 * the caller's to refill. No other block's bytes are touched.
 *
 * sum_parts: the range sums of parts, to @sums; @failed as above if @expected is given.
 *
 * -EINVAL for a range outside the part, no blocks, or addresses that are missing; else as
 * gpu_launch().
 */
struct gpu_stream;
int gather_parts(struct gpu_stream *stream, const struct gather_work *work);
int scatter_parts(struct gpu_stream *stream, const struct gather_work *work);
int sum_parts(struct gpu_stream *stream, const struct gather_work *work);

/* The same at once, in this thread, on this machine's memory. The references of the kernels. */
int gather_parts_on_host(const struct gather_work *work);
int scatter_parts_on_host(const struct gather_work *work);
int sum_parts_on_host(const struct gather_work *work);

#ifdef __cplusplus
}
#endif

#endif
