/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_ENGINE_HASH_BLAKE3_H
#define SKEP_ENGINE_HASH_BLAKE3_H

#include <stddef.h>
#include <stdint.h>

/* BLAKE3 (its specification of 2020), the plain hash of 256 bits, in pieces. Any thread. */

enum {
	BLAKE3_BYTES = 32,
	BLAKE3_BLOCK_BYTES = 64,
	BLAKE3_CHUNK_BYTES = 1024,
	BLAKE3_DEPTH_MAX = 54, /* of the tree over 2^64 bytes */
};

struct blake3 {
	uint32_t chain[8]; /* of the chunk that is being filled, before its open block */
	uint64_t chunk;	   /* its index */
	uint32_t blocks;   /* of it, whole and in chain */
	uint32_t held;	   /* bytes in the open block */
	uint8_t block[BLAKE3_BLOCK_BYTES];
	/* Roots of whole subtrees to the left, the largest first: one for each 1 bit of chunk. */
	uint32_t roots[BLAKE3_DEPTH_MAX][8];
	uint32_t root_count;
};

void blake3_begin(struct blake3 *hash);
void blake3_add(struct blake3 *hash, const void *data, size_t bytes);
/* Afterwards @hash must be begun again. */
void blake3_end(struct blake3 *hash, uint8_t out[BLAKE3_BYTES]);

#endif
