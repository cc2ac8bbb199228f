/* SPDX-License-Identifier: Apache-2.0 */
#include <stdbool.h>

#include "engine/hash/hash_priv.h"
#include "engine/hash/sha256.h"

/*
 * SGLang: SHA-256 of the parent's digest (none for the first page) and the page's tokens as
 * little-endian words of 32 bits. A page with a token that does not fit has a tag of one byte and
 * words of 64 bits instead. Where the request has a namespace the first page's parent is a digest
 * of that.
 */

enum { WORD_BYTES = 4, WIDE_BYTES = 8, WIDE_TAG = 0xff, BUFFER_BYTES = 512 };

/* Words on their way to the hash, many a call. */
struct words {
	struct sha256 hash;
	size_t used, word_bytes;
	uint8_t buffer[BUFFER_BYTES];
};

static void word_add(struct words *words, uint64_t word)
{
	if (words->used == BUFFER_BYTES) {
		sha256_add(&words->hash, words->buffer, BUFFER_BYTES);
		words->used = 0;
	}
	for (size_t i = 0; i < words->word_bytes; i++)
		words->buffer[words->used++] = (uint8_t)(word >> (8 * i));
}

static void namespace_part(struct sha256 *hash, const struct skep_hash_text *text)
{
	uint8_t head[9] = {text->text != NULL};

	for (unsigned i = 0; i < 8; i++)
		head[1 + i] = (uint8_t)((uint64_t)text->bytes >> (8 * i));
	sha256_add(hash, head, text->text ? sizeof(head) : 1);
	sha256_add(hash, text->text, text->bytes);
}

/* Return: the digest of the namespace in @out, or NULL where there is none. */
static const void *root_make(const struct skep_hash_options *options, uint8_t out[SKEP_HASH_BYTES])
{
	static const char name[] = "sglang-cache-namespace-v1";
	struct sha256 hash;

	if (!options->extra_key.text && !options->salt.text)
		return NULL;
	sha256_begin(&hash);
	sha256_add(&hash, name, sizeof(name) - 1);
	namespace_part(&hash, &options->extra_key);
	namespace_part(&hash, &options->salt);
	sha256_end(&hash, out);
	return out;
}

static bool page_is_wide(const struct hash_work *work, size_t from, size_t to)
{
	for (size_t i = from; work->tokens_wide && i < to; i++)
		if (work->tokens_wide[i] > UINT32_MAX)
			return true;
	return false;
}

void hash_sglang(const struct hash_work *work)
{
	static const uint8_t tag = WIDE_TAG;
	const struct skep_hash_options *options = work->options;
	bool pairs = options->kind == SKEP_HASH_SGLANG_PAIRS;
	const void *parent = options->parent;
	uint8_t root[SKEP_HASH_BYTES];

	if (!parent)
		parent = root_make(options, root);
	for (size_t block = 0; block < work->blocks; block++) {
		size_t from = block * options->block_tokens, to = from + options->block_tokens;
		struct words words = {.word_bytes = WORD_BYTES};

		sha256_begin(&words.hash);
		if (parent)
			sha256_add(&words.hash, parent, SKEP_HASH_BYTES);
		if (page_is_wide(work, from, to + pairs)) {
			sha256_add(&words.hash, &tag, sizeof(tag));
			words.word_bytes = WIDE_BYTES;
		}
		for (size_t i = from; i < to; i++) {
			word_add(&words, hash_token(work, i));
			if (pairs)
				word_add(&words, hash_token(work, i + 1));
		}
		sha256_add(&words.hash, words.buffer, words.used);
		sha256_end(&words.hash, hash_digest(work, block));
		parent = hash_digest(work, block);
	}
}
