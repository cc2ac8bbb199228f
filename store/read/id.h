/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_READ_ID_H
#define SKEP_STORE_READ_ID_H

#include <stddef.h>
#include <stdint.h>

enum { ID_SECRET_BYTES = 192 };

/* Name of a block. A root's parent is {0, 0}. */
struct block_id {
	uint64_t low, high;
};

/* What an id is made of besides its parent. All pointers are read during the call alone. */
struct id_input {
	const uint32_t *tokens;
	uint32_t token_count;
	const void *key; /* opaque key, or NULL */
	uint32_t key_bytes;
	const void *extra; /* extra keys, or NULL */
	uint32_t extra_bytes;
};

/*
 * XXH3-128 under @secret (ID_SECRET_BYTES, of the realm's secret and the space's fingerprint) over
 *   - the parent's id (16 bytes, low word first),
 *   - the tokens, little-endian; of a block named by a key, the key alone,
 *   - where there are extra keys, these and their length as 4 bytes.
 * (DESIGN section 6.) @id_bits < 128 keeps that many low bits: the collision test alone does that.
 * Any thread, no allocation.
 */
struct block_id id_make(
	const uint8_t *secret, struct block_id parent, const struct id_input *in, uint32_t id_bits);

/*
 * The secret of a space: XXH3's secret generator over the realm's secret, the space's fingerprint
 * text and its version. @out has ID_SECRET_BYTES. Allocates nothing; any thread.
 */
struct id_secret_input {
	const void *realm_secret;
	size_t realm_secret_bytes;
	const char *fingerprint; /* canonical text of the space */
	uint64_t version;
};
void id_secret_make(uint8_t *out, const struct id_secret_input *in);

#endif
