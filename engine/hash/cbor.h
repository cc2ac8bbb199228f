/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_ENGINE_HASH_CBOR_H
#define SKEP_ENGINE_HASH_CBOR_H

#include "engine/hash/sha256.h"

/*
 * The SHA-256 of one item in CBOR (RFC 8949), written piece by piece in its core deterministic
 * form: every number as short as it can be, every length known before.
 */

enum { CBOR_BUFFER_BYTES = 256 };

struct cbor {
	struct sha256 hash;
	size_t used;
	/* Gathered here, so that the hash is given whole blocks. */
	uint8_t buffer[CBOR_BUFFER_BYTES];
};

void cbor_begin(struct cbor *cbor);
void cbor_number(struct cbor *cbor, uint64_t number);
void cbor_signed(struct cbor *cbor, int64_t number);
void cbor_bytes(struct cbor *cbor, const void *bytes, size_t length);
/* UTF-8, which is not looked at. */
void cbor_text(struct cbor *cbor, const char *text, size_t bytes);
/* The head of an array; its @items items follow. */
void cbor_array(struct cbor *cbor, uint64_t items);
void cbor_null(struct cbor *cbor);
void cbor_end(struct cbor *cbor, uint8_t out[SHA256_BYTES]);

#endif
