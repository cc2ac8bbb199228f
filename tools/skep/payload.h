/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_PAYLOAD_H
#define SKEP_TOOLS_SKEP_PAYLOAD_H

#include <stddef.h>
#include <stdint.h>

/*
 * Payload bytes as a function of identity, so that every byte ever got can be checked without
 * keeping a copy.
 *
 * Word i (8 bytes, little-endian) of a part is f(base + i × G): base is a digest of identity and
 * part number, G an odd constant, f one to one. So no word of a part equals another word of the
 * same part, nor the word at the same place of a part with another base: a shifted, swapped or
 * stale word is always caught, a single byte in 255 of 256 cases.
 */
struct payload {
	uint64_t base;
};

/* Offsets given to payload_fill and payload_check are multiples of this. */
#define PAYLOAD_STEP_BYTES 64

/* The payload of part @part of the block called @identity (128 bits). Any thread; no memory. */
struct payload payload_of(const uint64_t identity[2], uint32_t part);

/* A stretch of a part. */
struct payload_range {
	size_t offset; /* from the part's start, a multiple of PAYLOAD_STEP_BYTES */
	size_t bytes;  /* any number */
};

/* Writes the bytes of @range to @to, which needs no alignment. Any thread; no memory. */
void payload_fill(struct payload payload, struct payload_range range, void *to);

#define PAYLOAD_RIGHT SIZE_MAX

/*
 * Compares @from (no alignment needed) with what the bytes of @range must be.
 * PAYLOAD_RIGHT, or the offset from the part's start of the first wrong byte. Any thread; no
 * memory.
 */
size_t payload_check(struct payload payload, struct payload_range range, const void *from);

#endif
