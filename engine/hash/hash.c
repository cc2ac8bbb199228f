/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/bits.h"
#include "engine/hash/hash_priv.h"
#include "engine/hash/sha256.h"

_Static_assert(SHA256_BYTES == SKEP_HASH_BYTES, "one length of digests");

/* What a kind hashes beside tokens, and which tokens its engine takes. */
struct hash_rule {
	void (*run)(const struct hash_work *work);
	bool seed, salt, extra_key, lora, items;
	/* Tokens that the last block needs behind it. */
	uint32_t behind;
	uint64_t token_max;
};

static const struct hash_rule rules[] = {
	[SKEP_HASH_VLLM] = {.run = hash_vllm,
		.seed = true,
		.salt = true,
		.lora = true,
		.items = true,
		.token_max = UINT64_MAX},
	[SKEP_HASH_SGLANG] = {.run = hash_sglang,
		.salt = true,
		.extra_key = true,
		.token_max = INT64_MAX},
	[SKEP_HASH_SGLANG_PAIRS] = {.run = hash_sglang,
		.salt = true,
		.extra_key = true,
		.behind = 1,
		.token_max = INT64_MAX},
	[SKEP_HASH_LMCACHE] = {.run = hash_lmcache, .token_max = UINT32_MAX},
	[SKEP_HASH_LMCACHE_CBOR] = {.run = hash_lmcache_cbor,
		.seed = true,
		.token_max = UINT64_MAX},
};

/* A text that is there must be allowed; none has no length. */
static bool text_fits(const struct skep_hash_text *text, bool allowed)
{
	return text->text ? allowed : !text->bytes;
}

static bool items_fit(const struct skep_hash_options *options)
{
	if (!options->item_count || !options->items)
		return !options->item_count;
	for (size_t i = 0; i < options->item_count; i++) {
		const struct skep_hash_item *item = &options->items[i];

		/* Positions are hashed relative to a block, as numbers with a sign. */
		if (!item->identifier.text || item->at > INT64_MAX ||
			item->count > INT64_MAX - item->at)
			return false;
		if (i && item->at < options->items[i - 1].at)
			return false;
	}
	return true;
}

static const struct hash_rule *rule_of(const struct skep_hash_options *options)
{
	const struct hash_rule *rule =
		&rules[options->kind < ARRAY_COUNT(rules) ? options->kind : 0];

	if (!rule->run || !options->block_tokens || !options->first_token != !options->parent ||
		options->first_token % options->block_tokens || options->first_token > INT64_MAX)
		return NULL;
	if (!text_fits(&options->seed, rule->seed) || !text_fits(&options->salt, rule->salt) ||
		!text_fits(&options->extra_key, rule->extra_key) ||
		!text_fits(&options->lora_name, rule->lora) ||
		!text_fits(&options->lora_path, options->lora_name.text != NULL))
		return NULL;
	return items_fit(options) && (rule->items || !options->item_count) ? rule : NULL;
}

/* The caller's struct, as this library knows it. */
static int options_take(struct skep_hash_options *mine, const struct skep_hash_options *theirs)
{
	const uint8_t *bytes = (const uint8_t *)theirs;

	if (!theirs || theirs->struct_bytes < sizeof(*mine))
		return -EINVAL;
	for (size_t i = sizeof(*mine); i < theirs->struct_bytes; i++)
		if (bytes[i])
			return -E2BIG;
	memcpy(mine, theirs, sizeof(*mine));
	return 0;
}

static int64_t work_run(struct hash_work *work, const struct skep_hash_options *options,
	size_t count, size_t digests_max)
{
	struct skep_hash_options mine;
	uint8_t parent[SKEP_HASH_BYTES];
	const struct hash_rule *rule;
	int status = options_take(&mine, options);

	if (status)
		return status;
	rule = rule_of(&mine);
	if (!rule || (count && !work->tokens && !work->tokens_wide))
		return -EINVAL;
	work->options = &mine;
	work->blocks = count > rule->behind ? (count - rule->behind) / mine.block_tokens : 0;
	if (work->blocks > digests_max)
		return -ENOSPC;
	if (work->blocks && !work->digests)
		return -EINVAL;
	for (size_t i = 0; work->tokens_wide && i < count; i++)
		if (work->tokens_wide[i] > rule->token_max)
			return -ERANGE;
	/* Copied: the digests may be written over it. */
	if (mine.parent)
		mine.parent = memcpy(parent, mine.parent, sizeof(parent));
	rule->run(work);
	return (int64_t)work->blocks;
}

int64_t skep_hash_blocks(const struct skep_hash_options *options, const uint32_t *tokens,
	size_t count, void *digests, size_t digests_max)
{
	struct hash_work work = {.tokens = tokens, .digests = digests};

	return work_run(&work, options, count, digests_max);
}

int64_t skep_hash_blocks_wide(const struct skep_hash_options *options, const uint64_t *tokens,
	size_t count, void *digests, size_t digests_max)
{
	struct hash_work work = {.tokens_wide = tokens, .digests = digests};

	return work_run(&work, options, count, digests_max);
}
