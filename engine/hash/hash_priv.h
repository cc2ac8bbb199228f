/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_ENGINE_HASH_HASH_PRIV_H
#define SKEP_ENGINE_HASH_HASH_PRIV_H

#include <skep/skep_hash.h>

/* One call: checked options, whole blocks, room for their digests. */
struct hash_work {
	const struct skep_hash_options *options;
	/* One of the two. */
	const uint32_t *tokens;
	const uint64_t *tokens_wide;
	size_t blocks;
	uint8_t *digests;
};

static inline uint64_t hash_token(const struct hash_work *work, size_t at)
{
	return work->tokens ? work->tokens[at] : work->tokens_wide[at];
}

/* Where the digest of a block goes. */
static inline uint8_t *hash_digest(const struct hash_work *work, size_t block)
{
	return work->digests + block * SKEP_HASH_BYTES;
}

void hash_vllm(const struct hash_work *work);
void hash_sglang(const struct hash_work *work);
void hash_lmcache(const struct hash_work *work);
void hash_lmcache_cbor(const struct hash_work *work);

#endif
