/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/hash/blake3.h"
#include "engine/hash/hash_priv.h"

/*
 * LMCache's own server: BLAKE3 of the parent's digest and the chunk's tokens as big-endian words of
 * 32 bits. The first chunk's parent is the digest of the same form with the number 0 in 8 bytes as
 * parent and one token, 0.
 */

_Static_assert(BLAKE3_BYTES == SKEP_HASH_BYTES, "one length of digests");

enum { ROOT_BYTES = 12, WORDS_AT_ONCE = 64 };

static void tokens_add(struct blake3 *hash, const struct hash_work *work, size_t block)
{
	uint32_t each = work->options->block_tokens, words[WORDS_AT_ONCE];
	size_t from = block * each;

	for (uint32_t i = 0; i < each; i++) {
		words[i % WORDS_AT_ONCE] = __builtin_bswap32((uint32_t)hash_token(work, from + i));
		if (i % WORDS_AT_ONCE == WORDS_AT_ONCE - 1)
			blake3_add(hash, words, sizeof(words));
	}
	blake3_add(hash, words, each % WORDS_AT_ONCE * sizeof(words[0]));
}

void hash_lmcache(const struct hash_work *work)
{
	static const uint8_t zeros[ROOT_BYTES];
	const void *parent = work->options->parent;
	uint8_t root[SKEP_HASH_BYTES];
	struct blake3 hash;

	if (!parent) {
		blake3_begin(&hash);
		blake3_add(&hash, zeros, sizeof(zeros));
		blake3_end(&hash, root);
		parent = root;
	}
	for (size_t i = 0; i < work->blocks; i++) {
		blake3_begin(&hash);
		blake3_add(&hash, parent, SKEP_HASH_BYTES);
		tokens_add(&hash, work, i);
		blake3_end(&hash, hash_digest(work, i));
		parent = hash_digest(work, i);
	}
}
