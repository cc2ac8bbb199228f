/* SPDX-License-Identifier: Apache-2.0 */
#include "store/read/id.h"

#include <endian.h>
#include <string.h>

#include "base/hash.h"

enum { SMALL_INPUT_BYTES = 4096 };

static void put_u32(uint8_t *to, uint32_t value)
{
	value = htole32(value);
	memcpy(to, &value, sizeof(value));
}

static void put_u64(uint8_t *to, uint64_t value)
{
	value = htole64(value);
	memcpy(to, &value, sizeof(value));
}

/* As memcpy, for some tens of bytes whose number the compiler does not know: no call. */
static inline void copy_short(uint8_t *to, const uint8_t *from, size_t bytes)
{
	size_t at = 0;

	for (; at + 16 <= bytes; at += 16)
		memcpy(to + at, from + at, 16);
	for (; at < bytes; at++)
		to[at] = from[at];
}

static struct block_id id_cut(XXH128_hash_t hash, uint32_t id_bits)
{
	struct block_id id = {hash.low64, hash.high64};

	if (id_bits < 64) {
		id.low &= (1ull << id_bits) - 1;
		id.high = 0;
	} else if (id_bits < 128) {
		id.high &= (1ull << (id_bits - 64)) - 1;
	}
	return id;
}

/* What an id is made of, in order: the parent, then tokens or key, then extra keys. */
struct body {
	const void *bytes;
	size_t length;
};

static struct body body_of(const struct id_input *in)
{
	if (in->key)
		return (struct body){in->key, in->key_bytes};
	return (struct body){in->tokens, (size_t)in->token_count * sizeof(uint32_t)};
}

/* Long inputs, piece by piece. Out of line: it would cost the short ones their registers. */
static __attribute__((noinline)) XXH128_hash_t hash_pieces(
	const uint8_t *secret, struct block_id parent, const struct id_input *in)
{
	struct body body = body_of(in);
	uint8_t head[16], tail[4];
	XXH3_state_t state;

	put_u64(head, parent.low);
	put_u64(head + 8, parent.high);
	put_u32(tail, in->extra_bytes);
	XXH3_INITSTATE(&state);
	XXH3_128bits_reset_withSecret(&state, secret, ID_SECRET_BYTES);
	XXH3_128bits_update(&state, head, sizeof(head));
	XXH3_128bits_update(&state, body.bytes, body.length);
	if (in->extra_bytes) {
		XXH3_128bits_update(&state, in->extra, in->extra_bytes);
		XXH3_128bits_update(&state, tail, sizeof(tail));
	}
	return XXH3_128bits_digest(&state);
}

struct block_id id_make(
	const uint8_t *secret, struct block_id parent, const struct id_input *in, uint32_t id_bits)
{
	struct body body = body_of(in);
	uint8_t whole[SMALL_INPUT_BYTES];
	size_t used = sizeof(parent) + body.length;

	if (used + in->extra_bytes + sizeof(uint32_t) > sizeof(whole))
		return id_cut(hash_pieces(secret, parent, in), id_bits);
	/*
	 * Each id waits for its parent's. Compilers like to take its two words from the stack as
	 * one, right after they were put there as two: a wait half as long as the hash. What they
	 * cannot see through they leave in registers.
	 */
	__asm__("" : "+r"(parent.low), "+r"(parent.high));
	put_u64(whole, parent.low);
	put_u64(whole + 8, parent.high);
	copy_short(whole + 16, body.bytes, body.length);
	if (in->extra_bytes) {
		memcpy(whole + used, in->extra, in->extra_bytes);
		put_u32(whole + used + in->extra_bytes, in->extra_bytes);
		used += in->extra_bytes + sizeof(uint32_t);
	}
	return id_cut(XXH3_128bits_withSecret(whole, used, secret, ID_SECRET_BYTES), id_bits);
}

void id_secret_make(uint8_t *out, const struct id_secret_input *in)
{
	uint8_t seed[48], version[8];
	XXH3_state_t state;
	XXH128_hash_t hash;

	/* Three digests that differ in a counter, so that the generator starts from 384 bits. */
	for (uint8_t round = 0; round < 3; round++) {
		XXH3_INITSTATE(&state);
		XXH3_128bits_reset(&state);
		XXH3_128bits_update(&state, &round, 1);
		put_u64(version, in->realm_secret_bytes);
		XXH3_128bits_update(&state, version, sizeof(version));
		XXH3_128bits_update(&state, in->realm_secret, in->realm_secret_bytes);
		put_u64(version, in->version);
		XXH3_128bits_update(&state, version, sizeof(version));
		XXH3_128bits_update(&state, in->fingerprint, strlen(in->fingerprint));
		hash = XXH3_128bits_digest(&state);
		put_u64(seed + 16 * round, hash.low64);
		put_u64(seed + 16 * round + 8, hash.high64);
	}
	XXH3_generateSecret(out, ID_SECRET_BYTES, seed, sizeof(seed));
}
