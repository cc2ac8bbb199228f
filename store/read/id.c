/* SPDX-License-Identifier: Apache-2.0 */
#include "store/read/id.h"

#include <string.h>

#include "base/hash.h"

enum { SMALL_INPUT_BYTES = 4096 };

static void put_u32(uint8_t *to, uint32_t value)
{
	to[0] = (uint8_t)value;
	to[1] = (uint8_t)(value >> 8);
	to[2] = (uint8_t)(value >> 16);
	to[3] = (uint8_t)(value >> 24);
}

static void put_u64(uint8_t *to, uint64_t value)
{
	put_u32(to, (uint32_t)value);
	put_u32(to + 4, (uint32_t)(value >> 32));
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

struct block_id id_make(
	const uint8_t *secret, struct block_id parent, const struct id_input *in, uint32_t id_bits)
{
	const void *body = in->key ? in->key : in->tokens;
	size_t body_bytes = in->key ? in->key_bytes : (size_t)in->token_count * sizeof(uint32_t);
	uint8_t head[16], tail[4];

	put_u64(head, parent.low);
	put_u64(head + 8, parent.high);
	put_u32(tail, in->extra_bytes);
	if (sizeof(head) + body_bytes + in->extra_bytes + sizeof(tail) <= SMALL_INPUT_BYTES) {
		uint8_t whole[SMALL_INPUT_BYTES];
		size_t used = sizeof(head) + body_bytes;

		memcpy(whole, head, sizeof(head));
		memcpy(whole + sizeof(head), body, body_bytes);
		if (in->extra_bytes) {
			memcpy(whole + used, in->extra, in->extra_bytes);
			memcpy(whole + used + in->extra_bytes, tail, sizeof(tail));
			used += in->extra_bytes + sizeof(tail);
		}
		return id_cut(
			XXH3_128bits_withSecret(whole, used, secret, ID_SECRET_BYTES), id_bits);
	}

	XXH3_state_t state;

	XXH3_INITSTATE(&state);
	XXH3_128bits_reset_withSecret(&state, secret, ID_SECRET_BYTES);
	XXH3_128bits_update(&state, head, sizeof(head));
	XXH3_128bits_update(&state, body, body_bytes);
	if (in->extra_bytes) {
		XXH3_128bits_update(&state, in->extra, in->extra_bytes);
		XXH3_128bits_update(&state, tail, sizeof(tail));
	}
	return id_cut(XXH3_128bits_digest(&state), id_bits);
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
