/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/check.h"
#include "engine/client/area_priv.h"

/* Tokens must be 4-aligned and blobs need not be, so each block's share is a multiple of 4. */
static uint64_t block_bytes(const struct id_input *in)
{
	return (uint64_t)in->token_count * sizeof(uint32_t) +
	       align_up((uint64_t)in->key_bytes + in->extra_bytes, sizeof(uint32_t));
}

_Static_assert(sizeof(struct reserve_block) + INDEX_BLOCK_TOKENS_MAX * sizeof(uint32_t) +
			       INDEX_KEY_BYTES_MAX + INDEX_EXTRA_BYTES_MAX <
		       BATCH_BYTES_MAX,
	"one block always fits");

uint32_t area_blocks_fit(struct area_blocks *blocks)
{
	uint64_t bytes = 0;
	uint32_t count = 0;

	for (; count < blocks->count; count++) {
		struct id_input in = probe_input(&blocks->chain->probe, blocks->first + count);
		uint64_t more = sizeof(struct reserve_block) + block_bytes(&in);

		if (bytes + more > BATCH_BYTES_MAX)
			break;
		bytes += more;
	}
	SKEP_CHECK(count);
	blocks->count = count;
	/* EXPLAIN is answered in the same place. */
	return (uint32_t)MAX_OF(bytes, sizeof(struct explain_answer));
}

void area_blocks_write(const struct area_blocks *blocks, uint8_t *area)
{
	uint32_t at = blocks->count * (uint32_t)sizeof(struct reserve_block);

	for (uint32_t i = 0; i < blocks->count; i++) {
		struct id_input in = probe_input(&blocks->chain->probe, blocks->first + i);
		uint32_t token_bytes = in.token_count * (uint32_t)sizeof(uint32_t);
		struct reserve_block block = {.token_at = at,
			.token_count = in.token_count,
			.blob_at = at + token_bytes,
			.key_bytes = (uint16_t)in.key_bytes,
			.extra_bytes = (uint16_t)in.extra_bytes};

		memcpy(area + i * sizeof(block), &block, sizeof(block));
		if (token_bytes)
			memcpy(area + at, in.tokens, token_bytes);
		if (in.key_bytes)
			memcpy(area + block.blob_at, in.key, in.key_bytes);
		if (in.extra_bytes)
			memcpy(area + block.blob_at + in.key_bytes, in.extra, in.extra_bytes);
		at += (uint32_t)block_bytes(&in);
	}
}
