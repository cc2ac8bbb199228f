/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_ENGINE_HASH_UNIT_H
#define SKEP_TESTS_ENGINE_HASH_UNIT_H

#include <stdbool.h>

#include <skep/skep_hash.h>

#include "tests/base/unit.h"

enum { HASH_HEX_BYTES = 2 * SKEP_HASH_BYTES + 1, HASH_ITEMS_MAX = 8 };

#define HASH_TEXT(literal)                                                                         \
	{                                                                                          \
		literal, sizeof(literal) - 1                                                       \
	}

/* A prompt, what is hashed beside it, and what the engine made of it. */
struct hash_case {
	const char *name;
	uint32_t kind, number; /* tokens are a function of number (hash_test.c) */
	uint32_t block_tokens;
	size_t count;
	bool wide;
	struct skep_hash_text seed, salt, extra_key, lora_name, lora_path;
	struct skep_hash_item items[HASH_ITEMS_MAX];
	size_t item_count;
	size_t blocks;
	const char *first, *last; /* hex; a digest may be told by its first bytes alone */
};

/* The bytes 0, 1, … 250, 0, 1, … and their hash. */
struct blake3_case {
	size_t bytes;
	const char *hex;
};

static inline const char *hash_hex(const uint8_t digest[SKEP_HASH_BYTES], char out[HASH_HEX_BYTES])
{
	for (unsigned i = 0; i < SKEP_HASH_BYTES; i++)
		snprintf(out + 2 * i, 3, "%02x", digest[i]);
	return out;
}

#endif
