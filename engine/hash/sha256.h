/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_ENGINE_HASH_SHA256_H
#define SKEP_ENGINE_HASH_SHA256_H

#include <stddef.h>
#include <stdint.h>

/* SHA-256 (FIPS 180-4) in pieces: begin, add any number of times, end. Any thread. */

enum { SHA256_BYTES = 32, SHA256_BLOCK_BYTES = 64 };

struct sha256 {
	uint32_t state[8];
	uint64_t bytes;			  /* added so far */
	uint8_t tail[SHA256_BLOCK_BYTES]; /* of an unfinished block: the first bytes % 64 */
};

void sha256_begin(struct sha256 *hash);
void sha256_add(struct sha256 *hash, const void *data, size_t bytes);
/* Afterwards @hash must be begun again. */
void sha256_end(struct sha256 *hash, uint8_t out[SHA256_BYTES]);

#endif
