/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/bits.h"
#include "engine/hash/blake3.h"

/*
 * A tree of chunks of 1,024 bytes. A chunk is compressed block by block into a chaining value; two
 * of these are the block of a parent. The last compression, of the tree's root, gives the hash.
 * Because of that every compression is held back until it is known that something follows it.
 */

enum { CHUNK_START = 1, CHUNK_END = 2, PARENT = 4, ROOT = 8, ROUNDS = 7 };

static const uint32_t first_chain[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f,
	0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

/* What is to be compressed: a chaining value, a block of so many bytes, and where it stands. */
struct node {
	uint32_t chain[8];
	uint32_t words[16];
	uint64_t counter;
	uint32_t bytes;
	uint32_t flags;
};

static uint32_t rotate(uint32_t x, unsigned by)
{
	return x >> by | x << (32 - by);
}

/* Four words of the state, mixed with two of the message. */
struct quarter {
	uint8_t a, b, c, d;
};

static inline void quarter_mix(uint32_t v[16], struct quarter at, const uint32_t words[2])
{
	v[at.a] += v[at.b] + words[0];
	v[at.d] = rotate(v[at.d] ^ v[at.a], 16);
	v[at.c] += v[at.d];
	v[at.b] = rotate(v[at.b] ^ v[at.c], 12);
	v[at.a] += v[at.b] + words[1];
	v[at.d] = rotate(v[at.d] ^ v[at.a], 8);
	v[at.c] += v[at.d];
	v[at.b] = rotate(v[at.b] ^ v[at.c], 7);
}

/* Compresses @node to a new chaining value. @out may be its own chain. */
static void node_compress(const struct node *node, uint32_t out[8])
{
	/* Columns, then diagonals. */
	static const struct quarter quarters[8] = {{0, 4, 8, 12}, {1, 5, 9, 13}, {2, 6, 10, 14},
		{3, 7, 11, 15}, {0, 5, 10, 15}, {1, 6, 11, 12}, {2, 7, 8, 13}, {3, 4, 9, 14}};
	static const uint8_t order[16] = {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8};
	uint32_t v[16], words[16], next[16];

	memcpy(v, node->chain, sizeof(node->chain));
	memcpy(v + 8, first_chain, 4 * sizeof(v[0]));
	v[12] = (uint32_t)node->counter;
	v[13] = (uint32_t)(node->counter >> 32);
	v[14] = node->bytes;
	v[15] = node->flags;
	memcpy(words, node->words, sizeof(words));
	for (unsigned round = 0; round < ROUNDS; round++) {
#pragma GCC unroll 8
		for (unsigned i = 0; i < 8; i++)
			quarter_mix(v, quarters[i], words + 2 * i);
#pragma GCC unroll 16
		for (unsigned i = 0; i < 16; i++)
			next[i] = words[order[i]];
		memcpy(words, next, sizeof(words));
	}
	for (unsigned i = 0; i < 8; i++)
		out[i] = v[i] ^ v[i + 8];
}

/* The open block of the chunk; bytes that are not there count as 0. */
static void node_of_block(struct node *node, const struct blake3 *hash)
{
	uint8_t bytes[BLAKE3_BLOCK_BYTES] = {0};

	memcpy(bytes, hash->block, hash->held);
	memcpy(node->chain, hash->chain, sizeof(node->chain));
	for (unsigned i = 0; i < 16; i++)
		node->words[i] = (uint32_t)bytes[4 * i] | (uint32_t)bytes[4 * i + 1] << 8 |
				 (uint32_t)bytes[4 * i + 2] << 16 |
				 (uint32_t)bytes[4 * i + 3] << 24;
	node->counter = hash->chunk;
	node->bytes = hash->held;
	node->flags = hash->blocks ? 0 : CHUNK_START;
}

static void node_of_parent(struct node *node, const uint32_t left[8], const uint32_t right[8])
{
	memcpy(node->chain, first_chain, sizeof(node->chain));
	memcpy(node->words, left, 8 * sizeof(left[0]));
	memcpy(node->words + 8, right, 8 * sizeof(right[0]));
	node->counter = 0;
	node->bytes = BLAKE3_BLOCK_BYTES;
	node->flags = PARENT;
}

static void chunk_begin(struct blake3 *hash)
{
	memcpy(hash->chain, first_chain, sizeof(hash->chain));
	hash->blocks = 0;
	hash->held = 0;
}

/* The chunk is whole, and more comes: it joins the subtrees of its size to the left. */
static void chunk_close(struct blake3 *hash)
{
	struct node node;
	uint32_t value[8];

	node_of_block(&node, hash);
	node.flags |= CHUNK_END;
	node_compress(&node, value);
	for (uint64_t index = ++hash->chunk; !(index & 1); index >>= 1) {
		node_of_parent(&node, hash->roots[--hash->root_count], value);
		node_compress(&node, value);
	}
	memcpy(hash->roots[hash->root_count++], value, sizeof(value));
	chunk_begin(hash);
}

void blake3_begin(struct blake3 *hash)
{
	hash->chunk = 0;
	hash->root_count = 0;
	chunk_begin(hash);
}

void blake3_add(struct blake3 *hash, const void *data, size_t bytes)
{
	const uint8_t *from = data;

	while (bytes) {
		size_t step;

		if (hash->held == BLAKE3_BLOCK_BYTES) {
			if (hash->blocks + 1 == BLAKE3_CHUNK_BYTES / BLAKE3_BLOCK_BYTES) {
				chunk_close(hash);
			} else {
				struct node node;

				node_of_block(&node, hash);
				node_compress(&node, hash->chain);
				hash->blocks++;
				hash->held = 0;
			}
		}
		step = MIN_OF(bytes, (size_t)(BLAKE3_BLOCK_BYTES - hash->held));
		memcpy(hash->block + hash->held, from, step);
		hash->held += (uint32_t)step;
		from += step;
		bytes -= step;
	}
}

void blake3_end(struct blake3 *hash, uint8_t out[BLAKE3_BYTES])
{
	struct node node;
	uint32_t value[8];

	node_of_block(&node, hash);
	node.flags |= CHUNK_END;
	while (hash->root_count) {
		node_compress(&node, value);
		node_of_parent(&node, hash->roots[--hash->root_count], value);
	}
	node.flags |= ROOT;
	node_compress(&node, value);
	for (unsigned i = 0; i < BLAKE3_BYTES; i++)
		out[i] = (uint8_t)(value[i / 4] >> (8 * (i % 4)));
}
