/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "engine/client/client_priv.h"

enum { KEY_BYTES_MIN = 16, ROOM_MIN = 64 };

/* In a child of fork() a chain of the parent is not touched. */
static bool chain_usable(const struct skep_chain *chain)
{
	return chain && !session_forked(chain->space->session);
}

static bool chain_opaque(const struct skep_chain *chain)
{
	return chain->space->request.flags & SKEP_SPACE_OPAQUE;
}

/* ------------------------------------------------------------------------------------- room */

static size_t room_next(size_t have, size_t want)
{
	return MAX_OF(MAX_OF(want, have + have / 2), (size_t)ROOM_MIN);
}

static int room_blocks(struct skep_chain *chain, size_t want)
{
	size_t room = room_next(chain->room.blocks, want);
	void *grown;

	if (want <= chain->room.blocks)
		return 0;
	grown = memory_realloc(chain->ids, room * sizeof(*chain->ids));
	if (!grown)
		return -ENOMEM;
	chain->ids = grown;
	grown = memory_realloc(chain->names, room * sizeof(*chain->names));
	if (!grown)
		return -ENOMEM;
	chain->names = grown;
	if (chain->extras) {
		grown = memory_realloc(chain->extras, room * sizeof(*chain->extras));
		if (!grown)
			return -ENOMEM;
		chain->extras = grown;
	}
	chain->room.blocks = room;
	return 0;
}

/*
 * Makes room before anything is changed, so that a chain is as before when memory runs out. Tokens
 * and blob are bounded by what a place in them (32 bits) can name.
 */
static int chain_room_make(struct skep_chain *chain, struct chain_room want)
{
	int status;
	size_t room;
	void *grown;

	if (want.blocks > CHAIN_BLOCKS_MAX || want.blob_bytes > UINT32_MAX ||
		(chain->extras && want.tokens > UINT32_MAX))
		return -E2BIG;
	status = room_blocks(chain, want.blocks);
	if (!status && want.tokens > chain->room.tokens) {
		room = room_next(chain->room.tokens, want.tokens);
		grown = memory_realloc(chain->tokens, room * sizeof(*chain->tokens));
		if (!grown)
			return -ENOMEM;
		chain->tokens = grown;
		chain->room.tokens = room;
	}
	if (!status && want.blob_bytes > chain->room.blob_bytes) {
		room = room_next(chain->room.blob_bytes, want.blob_bytes);
		grown = memory_realloc(chain->blob, room);
		if (!grown)
			return -ENOMEM;
		chain->blob = grown;
		chain->room.blob_bytes = room;
	}
	chain->probe.ids = chain->ids;
	chain->probe.tokens = chain->tokens;
	chain->probe.blob = chain->blob;
	chain->probe.extras = chain->extras;
	return status;
}

/* From the first extra key on, and where keys name blocks, each block says what it is made of. */
static int extras_make(struct skep_chain *chain)
{
	uint32_t each = chain->space->request.block_tokens;

	if (chain->extras)
		return 0;
	if (chain->token_count > UINT32_MAX)
		return -E2BIG;
	chain->extras =
		memory_calloc(MAX_OF(chain->room.blocks, (size_t)1), sizeof(*chain->extras));
	if (!chain->extras)
		return -ENOMEM;
	for (uint32_t i = 0; i < chain->probe.block_count; i++)
		chain->extras[i] = (struct probe_extra){.token_at = i * each, .token_count = each};
	chain->probe.extras = chain->extras;
	return 0;
}

/* ---------------------------------------------------------------------------------- hashing */

static void chain_hash(struct skep_chain *chain, uint32_t from)
{
	const struct binding *bound = &chain->space->bound;
	struct block_id parent = {0, 0};

	if (from)
		parent = chain->ids[from - 1];
	for (uint32_t i = from; i < chain->probe.block_count; i++) {
		struct id_input in = probe_input(&chain->probe, i);

		chain->ids[i] = id_make(bound->secret, parent, &in, bound->id_bits);
		parent = chain->ids[i];
	}
}

void chain_freshen_slow(struct skep_chain *chain)
{
	struct skep_space *space = chain->space;

	chain->names_count = 0;
	chain->probe.space = space->bound.number;
	if (chain->hash_serial != space->hash_serial)
		chain_hash(chain, 0);
	chain->hash_serial = space->hash_serial;
	chain->names_serial = space->names_serial;
}

uint32_t chain_names(struct skep_chain *chain, uint32_t count)
{
	chain->names_count = probe_names(
		&chain->space->session->current->index, &chain->probe, count, chain->names);
	return chain->names_count;
}

/* Closes the open block: its extra keys, its tokens from open_at up to @token_end, its @key. */
static void block_close(
	struct skep_chain *chain, size_t token_end, const void *key, size_t key_bytes)
{
	uint32_t i = chain->probe.block_count++;

	SKEP_CHECK(chain->probe.block_count <= chain->room.blocks);
	if (chain->extras) {
		struct probe_extra *extra = &chain->extras[i];

		*extra = (struct probe_extra){.blob_at = (uint32_t)chain->blob_bytes,
			.key_bytes = (uint16_t)key_bytes,
			.extra_bytes = (uint16_t)chain->open_extra_bytes,
			.token_at = (uint32_t)chain->open_at,
			.token_count = (uint32_t)(token_end - chain->open_at)};
		if (key_bytes)
			memcpy(chain->blob + chain->blob_bytes, key, key_bytes);
		if (chain->open_extra_bytes)
			memcpy(chain->blob + chain->blob_bytes + key_bytes, chain->open_extra,
				chain->open_extra_bytes);
		chain->blob_bytes += key_bytes + chain->open_extra_bytes;
	}
	chain->open_extra_bytes = 0;
	chain->open_at = token_end;
}

/* ----------------------------------------------------------------------------------- public */

int skep_chain_create(struct skep_space *space, struct skep_chain **out)
{
	struct skep_chain *chain;

	if (!space || !out)
		return -EINVAL;
	if (session_forked(space->session))
		return -EOWNERDEAD;
	chain = memory_zalloc(sizeof(*chain));
	if (!chain)
		return -ENOMEM;
	chain->space = space;
	chain->probe.block_tokens = space->request.block_tokens;
	chain->probe.space = space->bound.number;
	chain->hash_serial = space->hash_serial;
	chain->names_serial = space->names_serial;
	if (chain_opaque(chain) && extras_make(chain)) {
		memory_free(chain);
		return -ENOMEM;
	}
	list_append(&space->chains, &chain->link);
	*out = chain;
	return 0;
}

void chain_free(struct skep_chain *chain)
{
	list_remove(&chain->link);
	memory_free(chain->ids);
	memory_free(chain->names);
	memory_free(chain->extras);
	memory_free(chain->tokens);
	memory_free(chain->blob);
	memory_free(chain->open_extra);
	memory_free(chain);
}

void skep_chain_destroy(struct skep_chain *chain)
{
	if (chain_usable(chain))
		chain_free(chain);
}

/* Room for @count more tokens and the blocks that they fill. Return: these blocks, or negative. */
static int tokens_room(struct skep_chain *chain, size_t count)
{
	uint32_t each;
	size_t whole;
	int status;

	if (!chain_usable(chain))
		return -EOWNERDEAD;
	each = chain->space->request.block_tokens;
	if (count > (size_t)CHAIN_BLOCKS_MAX * each)
		return -E2BIG;
	whole = (chain->token_count - chain->open_at + count) / each;
	status = chain_room_make(chain,
		(struct chain_room){.blocks = chain->probe.block_count + whole,
			.tokens = chain->token_count + count,
			.blob_bytes = chain->blob_bytes + (whole ? chain->open_extra_bytes : 0)});
	if (status < 0)
		return status;
	chain_freshen(chain);
	return (int)whole;
}

/* @count tokens more lie behind the chain's, where they fill @whole blocks. */
static int tokens_close(struct skep_chain *chain, size_t count, int whole)
{
	uint32_t from = chain->probe.block_count;

	chain->token_count += count;
	while (whole--)
		block_close(chain, chain->open_at + chain->space->request.block_tokens, NULL, 0);
	chain_hash(chain, from);
	return (int)chain->probe.block_count;
}

int skep_chain_append(struct skep_chain *chain, const uint32_t *tokens, size_t count)
{
	int whole;

	if (!chain || (count && !tokens) || chain_opaque(chain))
		return -EINVAL;
	whole = tokens_room(chain, count);
	if (whole < 0)
		return whole;
	if (count)
		memcpy(chain->tokens + chain->token_count, tokens, count * sizeof(*tokens));
	return tokens_close(chain, count, whole);
}

int skep_chain_append64(struct skep_chain *chain, const uint64_t *tokens, size_t count)
{
	uint64_t any = 0;
	int whole;

	if (!chain || (count && !tokens) || chain_opaque(chain))
		return -EINVAL;
	whole = tokens_room(chain, count);
	if (whole < 0)
		return whole;
	/* What lies behind the chain's tokens is nobody's until they are closed. */
	for (size_t i = 0; i < count; i++) {
		any |= tokens[i];
		chain->tokens[chain->token_count + i] = (uint32_t)tokens[i];
	}
	return any > UINT32_MAX ? -ERANGE : tokens_close(chain, count, whole);
}

int skep_chain_extra(struct skep_chain *chain, const void *bytes, size_t length)
{
	int status;

	if (!chain || !bytes || length < 1 || length > SKEP_EXTRA_BYTES_MAX)
		return -EINVAL;
	if (!chain_usable(chain))
		return -EOWNERDEAD;
	if (chain->open_extra_bytes)
		return -EEXIST;
	status = extras_make(chain);
	if (status < 0)
		return status;
	if (!chain->open_extra)
		chain->open_extra = memory_zalloc(SKEP_EXTRA_BYTES_MAX);
	if (!chain->open_extra)
		return -ENOMEM;
	memcpy(chain->open_extra, bytes, length);
	chain->open_extra_bytes = (uint32_t)length;
	return 0;
}

static int keys_append(struct skep_chain *chain, const struct skep_keys *keys)
{
	size_t tokens = (size_t)keys->token_count * keys->count;
	const uint8_t *key = keys->keys;
	uint32_t from;
	int status;

	if (!keys->keys || keys->key_bytes < KEY_BYTES_MIN ||
		keys->key_bytes > INDEX_KEY_BYTES_MAX || (keys->token_count && !keys->tokens) ||
		keys->token_count > chain->space->request.block_tokens)
		return -EINVAL;
	if (!chain_usable(chain))
		return -EOWNERDEAD;
	from = chain->probe.block_count;
	status = chain_room_make(chain,
		(struct chain_room){.blocks = (size_t)from + keys->count,
			.tokens = chain->token_count + tokens,
			.blob_bytes = chain->blob_bytes + (size_t)keys->key_bytes * keys->count +
				      chain->open_extra_bytes});
	if (status < 0)
		return status;
	chain_freshen(chain);
	if (tokens)
		memcpy(chain->tokens + chain->token_count, keys->tokens,
			tokens * sizeof(*chain->tokens));
	chain->token_count += tokens;
	for (uint32_t i = 0; i < keys->count; i++, key += keys->key_bytes)
		block_close(chain, chain->open_at + keys->token_count, key, keys->key_bytes);
	chain_hash(chain, from);
	return (int)chain->probe.block_count;
}

int skep_chain_append_key(struct skep_chain *chain, const void *key, size_t key_bytes,
	const uint32_t *tokens, size_t count)
{
	struct skep_keys one = {
		.keys = key, .count = 1, .tokens = tokens, .key_bytes = (uint32_t)key_bytes};

	if (!chain || !chain_opaque(chain) || key_bytes > INDEX_KEY_BYTES_MAX ||
		count > chain->space->request.block_tokens)
		return -EINVAL;
	one.token_count = (uint32_t)count;
	return keys_append(chain, &one);
}

int skep_chain_append_keys(struct skep_chain *chain, const struct skep_keys *keys)
{
	struct skep_keys mine;
	int status;

	if (!chain || !keys || !chain_opaque(chain))
		return -EINVAL;
	status = struct_take(&mine, keys, sizeof(mine));
	return status ? status : keys_append(chain, &mine);
}

void skep_chain_truncate(struct skep_chain *chain, uint32_t blocks)
{
	if (!chain_usable(chain))
		return;
	blocks = MIN_OF(blocks, chain->probe.block_count);
	chain->probe.block_count = blocks;
	chain->names_count = MIN_OF(chain->names_count, blocks);
	chain->open_extra_bytes = 0;
	chain->token_count = (size_t)blocks * chain->space->request.block_tokens;
	chain->blob_bytes = 0;
	if (chain->extras) {
		const struct probe_extra *last = blocks ? &chain->extras[blocks - 1] : NULL;

		chain->token_count = last ? (size_t)last->token_at + last->token_count : 0;
		chain->blob_bytes =
			last ? (size_t)last->blob_at + last->key_bytes + last->extra_bytes : 0;
	}
	chain->open_at = chain->token_count;
}

uint32_t skep_chain_blocks(const struct skep_chain *chain)
{
	return chain_usable(chain) ? chain->probe.block_count : 0;
}

int skep_chain_id(const struct skep_chain *chain, uint32_t block, uint8_t id[16])
{
	if (!chain)
		return -EINVAL;
	if (!chain_usable(chain))
		return -EOWNERDEAD;
	if (block >= chain->probe.block_count)
		return -ERANGE;
	id_bytes(id, chain->ids[block]);
	return 0;
}
