/* SPDX-License-Identifier: Apache-2.0 */
/* Where tokens lie in a range, and which pages that takes. */
#include <errno.h>

#include "base/bits.h"
#include "engine/arena/arena_priv.h"

/* The rule of arena.h: whole device pages a block, if it fills them, else one. */
static uint64_t page_rule(uint64_t block_bytes, uint64_t device_page_bytes)
{
	return block_bytes % device_page_bytes == 0 ? block_bytes : device_page_bytes;
}

int arena_geometry_of(
	const struct arena_options *options, size_t device_page_bytes, struct arena_geometry *g)
{
	const struct arena_shape *shape = &options->shape;
	uint64_t share = (uint64_t)shape->heads * shape->head_bytes, token, block, range, pages;

	if (!shape->layers || !shape->heads || !shape->head_bytes || !shape->block_tokens ||
		!device_page_bytes || shape->layers > 4096 || shape->heads > 4096 ||
		shape->head_bytes > 1u << 20 || shape->block_tokens > 1u << 16 ||
		options->page_bytes % device_page_bytes)
		return -EINVAL;
	token = share * 2 * shape->layers;
	if (token > 1ull << 32)
		return -EINVAL;
	block = token * shape->block_tokens;
	*g = (struct arena_geometry){.token_bytes = token,
		.block_bytes = block,
		.block_tokens = shape->block_tokens,
		.head_stride = shape->head_bytes};
	g->page_bytes =
		options->page_bytes ? options->page_bytes : page_rule(block, device_page_bytes);
	if (shape->order == ARENA_LAYER_FIRST) {
		g->token_stride = share;
		g->value_stride = share * shape->block_tokens;
	} else {
		g->token_stride = token;
		g->value_stride = share;
	}
	g->layer_stride = 2 * g->value_stride;
	if (g->page_bytes % block == 0)
		g->page_blocks = (uint32_t)(g->page_bytes / block);
	/* Whole blocks, also where tokens_max is none. */
	if (divide_up(options->tokens_max, shape->block_tokens) > (1ull << 40) / block)
		return -EINVAL;
	range = divide_up(options->tokens_max, shape->block_tokens) * block;
	pages = divide_up(range, g->page_bytes);
	if (!pages || pages >= NONE)
		return -EINVAL;
	g->range_pages = (uint32_t)pages;
	g->range_bytes = pages * g->page_bytes;
	return 0;
}

/* Bytes from the range's start to the end of the last one that the tokens use. */
static uint64_t end_of(const struct arena_geometry *g, uint32_t tokens)
{
	if (g->token_stride == g->token_bytes)
		return tokens * g->token_bytes;
	return divide_up(tokens, g->block_tokens) * g->block_bytes;
}

uint32_t geometry_pages(const struct arena_geometry *g, uint32_t tokens)
{
	return (uint32_t)divide_up(end_of(g, tokens), g->page_bytes);
}

uint32_t geometry_written(const struct arena_geometry *g, uint32_t tokens)
{
	/* Layer first, a token lies all over its block. */
	uint64_t at = g->token_stride == g->token_bytes ? tokens * g->token_bytes
							: tokens / g->block_tokens * g->block_bytes;

	return (uint32_t)(at / g->page_bytes);
}

static uint64_t overlap(uint64_t from, uint64_t to, uint64_t a, uint64_t b)
{
	uint64_t low = MAX_OF(from, a), high = MIN_OF(to, b);

	return low < high ? high - low : 0;
}

uint64_t geometry_fill(const struct arena_geometry *g, uint32_t index, uint32_t tokens)
{
	uint64_t from = index * g->page_bytes, to = from + g->page_bytes;
	uint64_t full = tokens / g->block_tokens * g->block_bytes;
	uint64_t rest = tokens % g->block_tokens;

	if (g->token_stride == g->token_bytes)
		return overlap(from, to, 0, tokens * g->token_bytes);
	return overlap(from, to, 0, full) +
	       overlap(from, to, full, full + g->block_bytes) * rest / g->block_tokens;
}

uint32_t arena_pages_of(const struct arena *arena, uint32_t tokens)
{
	return geometry_pages(&arena->geometry, tokens);
}

uint64_t arena_at(
	const struct arena_sequence *sequence, uint32_t token, unsigned layer, unsigned value)
{
	const struct arena_geometry *g = &sequence->arena->geometry;

	return sequence->base + token / g->block_tokens * g->block_bytes +
	       token % g->block_tokens * g->token_stride + layer * g->layer_stride +
	       value * g->value_stride;
}
