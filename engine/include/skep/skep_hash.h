/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_SKEP_HASH_H
#define SKEP_SKEP_HASH_H

/**
 * DOC: libskep, the block hashes of inference engines
 *
 * Engines name the blocks of a prompt by hashes of their own. These calls make the same ones, bit
 * for bit, from the tokens alone: for a router that asks who holds a prefix, for an engine's keys
 * in a space with SKEP_SPACE_OPAQUE (skep_chain_append_key()), for reading an engine's events. They
 * are those of vLLM 0.32, SGLang 0.5.23 and LMCache 0.5.6.
 *
 * Every hash here is a chain: a block's digest depends on all tokens before it, and whole blocks
 * alone have one. A digest has SKEP_HASH_BYTES bytes.
 *
 * Threads: any. Nothing here blocks, allocates, or needs a session.
 *
 * Results and struct_bytes: as in skep.h.
 */

#include <skep/skep.h>

#ifdef __cplusplus
extern "C" {
#endif

/** SKEP_HASH_BYTES - the length of a digest. */
#define SKEP_HASH_BYTES 32

/**
 * enum skep_hash_kind - which engine's hash
 * @SKEP_HASH_VLLM: vLLM with `--prefix-caching-hash-algo sha256_cbor`; its other algorithms hash
 *	Python's own form of an object, or begin at a number drawn at start. LMCache's server in its
 *	own process makes the same with `sha256_cbor`, without extra keys. Events show the last 8
 *	bytes as a big-endian number
 * @SKEP_HASH_SGLANG: SGLang's pages (`--page-size` is the block); a key is the digest in hex.
 *	Events show the first 8 bytes as a big-endian number with a sign; they leave extra_key out
 *	and seed the chain in another way where there is a salt
 * @SKEP_HASH_SGLANG_PAIRS: the same with EAGLE: a page holds pairs of neighbours, so the last block
 *	needs one token more than it holds
 * @SKEP_HASH_LMCACHE: LMCache's server in its own process (chunks of 256 tokens by default), which
 *	hashes by BLAKE3
 * @SKEP_HASH_LMCACHE_CBOR: LMCache inside vLLM with `pre_caching_hash_algorithm: sha256_cbor`; its
 *	keys show the first 8 bytes as a big-endian number
 */
enum skep_hash_kind {
	SKEP_HASH_VLLM = 1,
	SKEP_HASH_SGLANG = 2,
	SKEP_HASH_SGLANG_PAIRS = 3,
	SKEP_HASH_LMCACHE = 4,
	SKEP_HASH_LMCACHE_CBOR = 5,
};

/**
 * struct skep_hash_text - a text in UTF-8, or none
 * @text: NULL = none, which is not the same as an empty one
 * @bytes: its length; it may hold zeros
 */
struct skep_hash_text {
	const char *text;
	size_t bytes;
};

/**
 * struct skep_hash_item - an image, sound or film in a prompt
 * @identifier: the engine's name for its content
 * @at: the first of the tokens that stand for it, counted from the start of the prompt
 * @count: tokens that stand for it
 */
struct skep_hash_item {
	struct skep_hash_text identifier;
	uint64_t at;
	uint64_t count;
};

/**
 * struct skep_hash_options - which chain
 * @struct_bytes: sizeof(struct skep_hash_options)
 * @kind: of enum skep_hash_kind
 * @block_tokens: tokens of a block
 * @parent: the digest of the block before the first of this call; NULL at the start of a prompt
 * @first_token: where in the prompt the tokens of this call begin: a multiple of @block_tokens, 0
 *	exactly where @parent is NULL
 * @seed: VLLM, LMCACHE_CBOR: what the engine's PYTHONHASHSEED holds; none = it is not set
 * @salt: VLLM, SGLANG, SGLANG_PAIRS: the request's cache_salt
 * @extra_key: SGLANG, SGLANG_PAIRS: the request's extra_key (its LoRA adapter is a part of that)
 * @lora_name: VLLM: of the request's adapter
 * @lora_path: VLLM: of the request's adapter; none = empty
 * @items: VLLM: what of the prompt is not text, in the order of @at. (SGLang puts wide numbers in
 *	the place of such tokens: skep_hash_blocks_wide())
 * @item_count: how many
 *
 * What a kind does not hash must not be given. Prompts given as embeddings are not covered.
 */
struct skep_hash_options {
	size_t struct_bytes;
	uint32_t kind;
	uint32_t block_tokens;
	const void *parent;
	uint64_t first_token;
	struct skep_hash_text seed;
	struct skep_hash_text salt;
	struct skep_hash_text extra_key;
	struct skep_hash_text lora_name;
	struct skep_hash_text lora_path;
	const struct skep_hash_item *items;
	size_t item_count;
};

/**
 * skep_hash_blocks() - the digests of all whole blocks of a prompt
 * @options: which chain
 * @tokens: @count token ids
 * @count: tokens; those behind the last whole block are not hashed
 * @digests: gets SKEP_HASH_BYTES bytes a block, in order; may be @options->parent's memory
 * @digests_max: blocks that @digests has room for
 *
 * A prompt that grows is hashed on from where it was: give the last digest as parent and the tokens
 * behind it.
 *
 * Return: whole blocks; -EINVAL (the options, or they do not fit the kind), -E2BIG (an option that
 * this library does not know), -ENOSPC (@digests is too small; nothing was written).
 */
SKEP_API int64_t skep_hash_blocks(const struct skep_hash_options *options, const uint32_t *tokens,
	size_t count, void *digests, size_t digests_max);

/**
 * skep_hash_blocks_wide() - the same for token ids of 64 bits
 * @options: which chain
 * @tokens: @count token ids
 * @count: tokens
 * @digests: as for skep_hash_blocks()
 * @digests_max: as for skep_hash_blocks()
 * Return: as skep_hash_blocks(); -ERANGE (a token that the engine itself would refuse: LMCACHE from
 * 2^32 on, the SGLANG kinds from 2^63 on; nothing was written).
 */
SKEP_API int64_t skep_hash_blocks_wide(const struct skep_hash_options *options,
	const uint64_t *tokens, size_t count, void *digests, size_t digests_max);

#ifdef __cplusplus
}
#endif

#endif
