/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_TENSORS_UNIT_H
#define SKEP_TESTS_TENSORS_UNIT_H

/*
 * Tensors of two layers and six pages, over a node inside this process: @keys are saved, and loaded
 * into @copy.
 */

#include "engine/gpu/gpu_priv.h"
#include "tests/engine/client_unit.h"

enum {
	LAYERS = 2,
	BLOCKS = 6,
	BLOCK_TOKENS = 16,
	TOKEN_BYTES = 256,
	PAGE_BYTES = BLOCK_TOKENS * TOKEN_BYTES,
	PART_BYTES = LAYERS * 2 * PAGE_BYTES,
};

static struct skep *session;
static struct skep_space *space;
static unsigned char keys[LAYERS * 2][BLOCKS * PAGE_BYTES], copy[sizeof(keys)];

static inline struct skep_gpu_tensors tensors_of(unsigned char *memory, uint64_t *bases)
{
	for (uint32_t i = 0; i < LAYERS * 2; i++)
		bases[i] = (uint64_t)(uintptr_t)memory + i * sizeof(keys[0]);
	return (struct skep_gpu_tensors){.struct_bytes = sizeof(struct skep_gpu_tensors),
		.layers = LAYERS,
		.kinds = 2,
		.block_tokens = BLOCK_TOKENS,
		.heads = 1,
		.head_bytes = TOKEN_BYTES,
		.page_tokens = BLOCK_TOKENS,
		.page_count = BLOCKS,
		.blocks_max = BLOCKS,
		.jobs = 2,
		.bases = bases,
		.page_stride = PAGE_BYTES,
		.token_stride = TOKEN_BYTES,
		.head_stride = TOKEN_BYTES};
}

static inline void tensors_begin(void)
{
	struct skep_gpu_tensors tensors = tensors_of(keys[0], (uint64_t[LAYERS * 2]){0});
	struct skep_part_layout part = {0};
	struct skep_space_options options = {.struct_bytes = sizeof(options),
		.name = "tensors",
		.model = "model",
		.block_tokens = BLOCK_TOKENS,
		.part_count = 1,
		.parts = &part};

	REQUIRE_EQ(skep_gpu_part(&tensors, &part), 0);
	REQUIRE_EQ(part.bytes, PART_BYTES);
	REQUIRE_EQ(part.ranges, LAYERS);
	for (size_t i = 0; i < sizeof(keys); i++)
		((unsigned char *)keys)[i] = (unsigned char)mix64(i);
	REQUIRE_EQ(skep_open("embedded:dram=64MiB,realm=unit", NULL, &session), 0);
	REQUIRE_EQ(skep_space_open(session, &options, &space), 0);
}

/* Nothing of the device is held but @registered_bytes of the pool. */
static inline void device_close(struct skep_gpu *gpu, uint64_t registered_bytes)
{
	struct gpu_usage usage, none = {.registered_bytes = registered_bytes};

	gpu_fail_nth(gpu->device, 0, 0);
	gpu_usage(gpu->device, &usage);
	REQUIRE_EQ(memcmp(&usage, &none, sizeof(usage)), 0);
	skep_gpu_close(gpu);
}

static inline struct skep_chain *chain_of(uint32_t story)
{
	uint32_t tokens[BLOCKS * BLOCK_TOKENS];
	struct skep_chain *chain;

	for (uint32_t i = 0; i < BLOCKS * BLOCK_TOKENS; i++)
		tokens[i] = story * 1000 + i;
	REQUIRE_EQ(skep_chain_create(space, &chain), 0);
	REQUIRE_EQ(skep_chain_append(chain, tokens, BLOCKS * BLOCK_TOKENS), BLOCKS);
	return chain;
}

static inline struct skep_match match(struct skep_chain *chain, struct skep_ref *refs)
{
	struct skep_match asked = {.struct_bytes = sizeof(asked),
		.chain = chain,
		.flags = SKEP_MATCH_PEEK,
		.refs = refs,
		.refs_max = BLOCKS};

	REQUIRE_EQ(skep_match(session, &asked, 1), 0);
	return asked;
}

#endif
