/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "engine/hash/cbor.h"
#include "engine/hash/hash_priv.h"

/*
 * vLLM: SHA-256 of CBOR of [parent's digest, [tokens], extra keys]. Extra keys are null, or an
 * array of arrays that each begin with the name of their sort: the adapter, the items that the
 * block holds a part of, and in a prompt's first block the salt. The first block's parent is the
 * digest of a text, the seed.
 *
 * LMCache inside vLLM takes the same function and root, goes on with the first 8 bytes of each
 * digest as a number, and leaves the extra keys empty.
 */

static void text_add(struct cbor *cbor, const struct skep_hash_text *text)
{
	cbor_text(cbor, text->text, text->bytes);
}

static void name_add(struct cbor *cbor, const char *name)
{
	cbor_text(cbor, name, strlen(name));
}

static void tokens_add(struct cbor *cbor, const struct hash_work *work, size_t block)
{
	uint32_t each = work->options->block_tokens;

	cbor_array(cbor, each);
	for (uint32_t i = 0; i < each; i++)
		cbor_number(cbor, hash_token(work, block * each + i));
}

static void root_make(const struct skep_hash_options *options, uint8_t out[SKEP_HASH_BYTES])
{
	struct cbor cbor;

	cbor_begin(&cbor);
	if (options->seed.text)
		text_add(&cbor, &options->seed);
	else
		name_add(&cbor, "vllm-none-hash");
	cbor_end(&cbor, out);
}

/* Of the prompt: where a block's tokens begin and end. */
struct span {
	uint64_t begin, end;
};

/*
 * The items of which a block holds a part, from @first on, added to @cbor unless that is NULL. An
 * item that goes on behind the block hides those behind it, as in the engine.
 * Return: how many; @first: the first one that the next block must look at.
 */
static size_t items_add(struct cbor *cbor, const struct skep_hash_options *options,
	struct span block, size_t *first)
{
	const struct skep_hash_item *item = options->items;
	size_t i = *first, found = 0, last = options->item_count - 1;

	if (!options->item_count || item[last].at + item[last].count <= block.begin)
		return 0;
	for (; i <= last && item[i].at < block.end; i++) {
		uint64_t end = item[i].at + item[i].count;

		if (end <= block.begin)
			continue;
		found++;
		if (cbor) {
			cbor_array(cbor, 3);
			name_add(cbor, "mm");
			text_add(cbor, &item[i].identifier);
			cbor_signed(cbor, (int64_t)(item[i].at - block.begin));
		}
		if (end > block.end)
			break;
	}
	*first = i;
	return found;
}

static void extras_add(struct cbor *cbor, const struct skep_hash_options *options,
	struct span block, size_t *first_item)
{
	/* The engine takes an empty salt for none. */
	size_t salted = !block.begin && options->salt.bytes,
	       has_lora = options->lora_name.text != 0;
	size_t next = *first_item, count = items_add(NULL, options, block, &next);

	if (!(count + salted + has_lora)) {
		*first_item = next;
		cbor_null(cbor);
		return;
	}
	cbor_array(cbor, count + salted + has_lora);
	if (has_lora) {
		cbor_array(cbor, 3);
		name_add(cbor, "lora");
		text_add(cbor, &options->lora_name);
		text_add(cbor, &options->lora_path);
	}
	items_add(cbor, options, block, first_item);
	if (salted) {
		cbor_array(cbor, 2);
		name_add(cbor, "cache_salt");
		text_add(cbor, &options->salt);
	}
}

void hash_vllm(const struct hash_work *work)
{
	const struct skep_hash_options *options = work->options;
	uint8_t root[SKEP_HASH_BYTES];
	const void *parent = options->parent;
	size_t first_item = 0;

	if (!parent) {
		root_make(options, root);
		parent = root;
	}
	for (size_t i = 0; i < work->blocks; i++) {
		struct span block = {.begin = options->first_token + i * options->block_tokens};
		struct cbor cbor;

		block.end = block.begin + options->block_tokens;
		cbor_begin(&cbor);
		cbor_array(&cbor, 3);
		cbor_bytes(&cbor, parent, SKEP_HASH_BYTES);
		tokens_add(&cbor, work, i);
		extras_add(&cbor, options, block, &first_item);
		parent = hash_digest(work, i);
		cbor_end(&cbor, hash_digest(work, i));
	}
}

void hash_lmcache_cbor(const struct hash_work *work)
{
	uint8_t root[SKEP_HASH_BYTES];
	const uint8_t *parent = work->options->parent;

	if (!parent) {
		root_make(work->options, root);
		parent = root;
	}
	for (size_t i = 0; i < work->blocks; i++) {
		struct cbor cbor;
		uint64_t number;

		memcpy(&number, parent, sizeof(number));
		cbor_begin(&cbor);
		cbor_array(&cbor, 3);
		cbor_number(&cbor, __builtin_bswap64(number));
		tokens_add(&cbor, work, i);
		cbor_array(&cbor, 0);
		parent = hash_digest(work, i);
		cbor_end(&cbor, hash_digest(work, i));
	}
}
