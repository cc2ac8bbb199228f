/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_HASH_PLAIN_H
#define SKEP_BASE_HASH_PLAIN_H

#include <stdint.h>
#include <string.h>

#include "base/check.h"

/*
 * XXH3 in plain C, under xxHash's names, for a build on a machine that has nvcc and CMake and not
 * xxhash.h (SKEP_HASH_PLAIN; the preset gpu). Written from the published description of XXH3; only
 * what checksums, ids and the store use: secrets as long as the standard one, seeds of the 64-bit
 * form at once, and, of the 128-bit form, inputs of more than 16 bytes (a root's head alone has 44,
 * an id's parent 16). Little-endian machines. The test base_hash_plain holds it against xxHash.
 */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are read as they lie");

#define XXH_ALIGN(bytes) __attribute__((aligned(bytes)))
#define XXH_PRIME32_1	 0x9E3779B1u
#define XXH_PRIME32_2	 0x85EBCA77u
#define XXH_PRIME32_3	 0xC2B2AE3Du
#define XXH_PRIME64_1	 0x9E3779B185EBCA87ull
#define XXH_PRIME64_2	 0xC2B2AE3D27D4EB4Full
#define XXH_PRIME64_3	 0x165667B19E3779F9ull
#define XXH_PRIME64_4	 0x85EBCA77C2B2AE63ull
#define XXH_PRIME64_5	 0x27D4EB2F165667C5ull
#define XXH3_INIT_ACC                                                                              \
	{                                                                                          \
		XXH_PRIME32_3, XXH_PRIME64_1, XXH_PRIME64_2, XXH_PRIME64_3, XXH_PRIME64_4,         \
			XXH_PRIME32_2, XXH_PRIME64_5, XXH_PRIME32_1                                \
	}

/* The width of a stripe, stripes between two scramblings, the lengths of the short forms. */
enum { XXH_STRIPE = 64, XXH_STRIPES = 16, XXH_SHORT = 240, XXH_BUFFER = 256, XXH_SECRET = 192 };

#define xxh_u64 uint64_t /* as xxHash has it; checksum_x86_leaf.h uses the name */

struct xxh_pair {
	uint64_t low64, high64;
};
#define XXH128_hash_t struct xxh_pair

/* @bytes holds what was not summed yet, behind the XXH_STRIPE bytes that came before it. */
struct xxh_state {
	uint64_t acc[8];
	const unsigned char *key;
	uint64_t total;
	size_t stripes, buffered;
	unsigned char bytes[XXH_STRIPE + XXH_BUFFER];
};
#define XXH3_state_t	      struct xxh_state
#define XXH3_INITSTATE(state) ((void)(state))

static const unsigned char XXH3_kSecret[XXH_SECRET] XXH_ALIGN(64) = {0xb8, 0xfe, 0x6c, 0x39, 0x23,
	0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4, 0x6d, 0xe9,
	0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79, 0xe6,
	0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21, 0xb8, 0x08,
	0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c, 0x3c,
	0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
	0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac,
	0xd8, 0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b,
	0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9,
	0x78, 0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff,
	0xfa, 0x13, 0x63, 0xeb, 0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55,
	0x26, 0x29, 0xd4, 0x68, 0x9e, 0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8,
	0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf,
	0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e};

static inline uint32_t xxh_read32(const unsigned char *at)
{
	uint32_t word;

	memcpy(&word, at, sizeof(word));
	return word;
}

static inline uint64_t xxh_read64(const unsigned char *at)
{
	uint64_t word;

	memcpy(&word, at, sizeof(word));
	return word;
}

static inline uint64_t xxh_rotate(uint64_t x, unsigned bits)
{
	return (x << bits) | (x >> (64 - bits));
}

static inline uint64_t xxh_fold(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t xxh_avalanche(uint64_t x)
{
	x = (x ^ (x >> 37)) * 0x165667919E3779F9ull;
	return x ^ (x >> 32);
}

static inline uint64_t xxh_avalanche_64(uint64_t x)
{
	x = (x ^ (x >> 33)) * XXH_PRIME64_2;
	x = (x ^ (x >> 29)) * XXH_PRIME64_3;
	return x ^ (x >> 32);
}

static inline uint64_t xxh_mix(const unsigned char *in, const unsigned char *key, uint64_t seed)
{
	return xxh_fold(xxh_read64(in) ^ (xxh_read64(key) + seed),
		xxh_read64(in + 8) ^ (xxh_read64(key + 8) - seed));
}

/* ---------------------------------------------------------------------------- up to 240 bytes */

static inline uint64_t xxh_64_tiny(const unsigned char *in, size_t length, uint64_t seed)
{
	const unsigned char *key = XXH3_kSecret;

	if (length > 8) {
		uint64_t low = (xxh_read64(key + 24) ^ xxh_read64(key + 32)) + seed;
		uint64_t high = (xxh_read64(key + 40) ^ xxh_read64(key + 48)) - seed;

		low ^= xxh_read64(in);
		high ^= xxh_read64(in + length - 8);
		return xxh_avalanche(length + __builtin_bswap64(low) + high + xxh_fold(low, high));
	}
	if (length >= 4) {
		uint64_t x = xxh_read32(in + length - 4) + ((uint64_t)xxh_read32(in) << 32);

		seed ^= (uint64_t)__builtin_bswap32((uint32_t)seed) << 32;
		x ^= (xxh_read64(key + 8) ^ xxh_read64(key + 16)) - seed;
		x ^= xxh_rotate(x, 49) ^ xxh_rotate(x, 24);
		x *= 0x9FB21C651E98DF25ull;
		x = (x ^ ((x >> 35) + length)) * 0x9FB21C651E98DF25ull;
		return x ^ (x >> 28);
	}
	if (length) {
		uint32_t x = ((uint32_t)in[0] << 16) | ((uint32_t)in[length >> 1] << 24) |
			     in[length - 1] | ((uint32_t)length << 8);

		return xxh_avalanche_64(
			x ^ ((uint64_t)(xxh_read32(key) ^ xxh_read32(key + 4)) + seed));
	}
	return xxh_avalanche_64(seed ^ xxh_read64(key + 56) ^ xxh_read64(key + 64));
}

static inline uint64_t xxh_64_short(const unsigned char *in, size_t length, uint64_t seed)
{
	uint64_t acc = length * XXH_PRIME64_1;

	if (length <= 16)
		return xxh_64_tiny(in, length, seed);
	if (length <= 128) {
		/* Pairs from both ends towards the middle. */
		for (size_t i = (length - 1) / 32 + 1; i-- > 0;) {
			acc += xxh_mix(in + 16 * i, XXH3_kSecret + 32 * i, seed);
			acc += xxh_mix(
				in + length - 16 * (i + 1), XXH3_kSecret + 32 * i + 16, seed);
		}
		return xxh_avalanche(acc);
	}
	for (size_t i = 0; i < 8; i++)
		acc += xxh_mix(in + 16 * i, XXH3_kSecret + 16 * i, seed);
	acc = xxh_avalanche(acc);
	for (size_t i = 8; i < length / 16; i++)
		acc += xxh_mix(in + 16 * i, XXH3_kSecret + 16 * (i - 8) + 3, seed);
	return xxh_avalanche(acc + xxh_mix(in + length - 16, XXH3_kSecret + 136 - 17, seed));
}

static inline void xxh_mix_pair(struct xxh_pair *acc, const unsigned char *a,
	const unsigned char *b, const unsigned char *key)
{
	acc->low64 += xxh_mix(a, key, 0);
	acc->low64 ^= xxh_read64(b) + xxh_read64(b + 8);
	acc->high64 += xxh_mix(b, key + 16, 0);
	acc->high64 ^= xxh_read64(a) + xxh_read64(a + 8);
}

static inline struct xxh_pair xxh_128_short(
	const unsigned char *in, size_t length, const unsigned char *key)
{
	struct xxh_pair acc = {.low64 = length * XXH_PRIME64_1};
	struct xxh_pair sum;

	SKEP_CHECK(length > 16);
	if (length <= 128) {
		for (size_t i = (length - 1) / 32 + 1; i-- > 0;)
			xxh_mix_pair(&acc, in + 16 * i, in + length - 16 * (i + 1), key + 32 * i);
	} else {
		for (size_t i = 0; i < 4; i++)
			xxh_mix_pair(&acc, in + 32 * i, in + 32 * i + 16, key + 32 * i);
		acc.low64 = xxh_avalanche(acc.low64);
		acc.high64 = xxh_avalanche(acc.high64);
		for (size_t i = 4; i < length / 32; i++)
			xxh_mix_pair(&acc, in + 32 * i, in + 32 * i + 16, key + 3 + 32 * (i - 4));
		xxh_mix_pair(&acc, in + length - 16, in + length - 32, key + 136 - 17 - 16);
	}
	sum.low64 = xxh_avalanche(acc.low64 + acc.high64);
	sum.high64 = 0 - xxh_avalanche(acc.low64 * XXH_PRIME64_1 + acc.high64 * XXH_PRIME64_4 +
				       length * XXH_PRIME64_2);
	return sum;
}

/* ------------------------------------------------------------------------- more than 240 bytes */

static inline void xxh_stripe(uint64_t *acc, const unsigned char *in, const unsigned char *key)
{
	for (size_t i = 0; i < 8; i++) {
		uint64_t word = xxh_read64(in + 8 * i), keyed = word ^ xxh_read64(key + 8 * i);

		acc[i ^ 1] += word;
		acc[i] += (keyed & 0xffffffffu) * (keyed >> 32);
	}
}

/* Takes @count stripes; *@stripes counts those of the block so far. */
static inline void xxh_stripes(uint64_t *acc, size_t *stripes, const unsigned char *in,
	size_t count, const unsigned char *key)
{
	for (size_t i = 0; i < count; i++) {
		xxh_stripe(acc, in + XXH_STRIPE * i, key + 8 * *stripes);
		if (++*stripes < XXH_STRIPES)
			continue;
		*stripes = 0;
		for (size_t j = 0; j < 8; j++) {
			acc[j] ^= acc[j] >> 47;
			acc[j] = (acc[j] ^ xxh_read64(key + 128 + 8 * j)) * XXH_PRIME32_1;
		}
	}
}

static inline uint64_t XXH3_mergeAccs(const uint64_t *acc, const unsigned char *key, uint64_t start)
{
	for (size_t i = 0; i < 4; i++)
		start += xxh_fold(acc[2 * i] ^ xxh_read64(key + 16 * i),
			acc[2 * i + 1] ^ xxh_read64(key + 16 * i + 8));
	return xxh_avalanche(start);
}

/* All of a long input's stripes. */
static inline void xxh_long(
	uint64_t *acc, const unsigned char *in, size_t length, const unsigned char *key)
{
	size_t stripes = 0;

	xxh_stripes(acc, &stripes, in, (length - 1) / XXH_STRIPE, key);
	xxh_stripe(acc, in + length - XXH_STRIPE, key + XXH_SECRET - 64 - 7);
}

static inline uint64_t xxh_64_end(const uint64_t *acc, uint64_t length, const unsigned char *key)
{
	return XXH3_mergeAccs(acc, key + 11, length * XXH_PRIME64_1);
}

static inline struct xxh_pair xxh_128_end(
	const uint64_t *acc, uint64_t length, const unsigned char *key)
{
	return (struct xxh_pair){
		.low64 = XXH3_mergeAccs(acc, key + 11, length * XXH_PRIME64_1),
		.high64 =
			XXH3_mergeAccs(acc, key + XXH_SECRET - 64 - 11, ~(length * XXH_PRIME64_2)),
	};
}

static inline uint64_t XXH3_64bits(const void *bytes, size_t length)
{
	uint64_t acc[8] = XXH3_INIT_ACC;

	if (length <= XXH_SHORT)
		return xxh_64_short(bytes, length, 0);
	xxh_long(acc, bytes, length, XXH3_kSecret);
	return xxh_64_end(acc, length, XXH3_kSecret);
}

static inline uint64_t XXH3_64bits_withSeed(const void *bytes, size_t length, uint64_t seed)
{
	uint64_t acc[8] = XXH3_INIT_ACC, key[XXH_SECRET / 8];

	if (length <= XXH_SHORT)
		return xxh_64_short(bytes, length, seed);
	for (size_t i = 0; i < XXH_SECRET / 8; i++)
		key[i] = xxh_read64(XXH3_kSecret + 8 * i) + (i % 2 ? 0 - seed : seed);
	xxh_long(acc, bytes, length, (const unsigned char *)key);
	return xxh_64_end(acc, length, (const unsigned char *)key);
}

static inline struct xxh_pair XXH3_128bits_withSecret(
	const void *bytes, size_t length, const void *key, size_t key_bytes)
{
	uint64_t acc[8] = XXH3_INIT_ACC;

	SKEP_CHECK(key_bytes == XXH_SECRET);
	if (length <= XXH_SHORT)
		return xxh_128_short(bytes, length, key);
	xxh_long(acc, bytes, length, key);
	return xxh_128_end(acc, length, key);
}

static inline struct xxh_pair XXH3_128bits(const void *bytes, size_t length)
{
	return XXH3_128bits_withSecret(bytes, length, XXH3_kSecret, XXH_SECRET);
}

/* ------------------------------------------------------------------------------------- streams */

static inline void XXH3_64bits_reset(struct xxh_state *state)
{
	const uint64_t acc[8] = XXH3_INIT_ACC;

	memcpy(state->acc, acc, sizeof(acc));
	state->key = XXH3_kSecret;
	state->total = state->stripes = state->buffered = 0;
}

/* The buffer is summed only when more comes: the end of the input is summed in another way. */
static inline void XXH3_64bits_update(struct xxh_state *state, const void *bytes, size_t length)
{
	const unsigned char *in = bytes;

	state->total += length;
	while (length) {
		size_t take = XXH_BUFFER - state->buffered;

		if (!take) {
			xxh_stripes(state->acc, &state->stripes, state->bytes + XXH_STRIPE,
				XXH_BUFFER / XXH_STRIPE, state->key);
			memcpy(state->bytes, state->bytes + XXH_BUFFER, XXH_STRIPE);
			state->buffered = 0;
			continue;
		}
		take = take < length ? take : length;
		memcpy(state->bytes + XXH_STRIPE + state->buffered, in, take);
		state->buffered += take;
		in += take;
		length -= take;
	}
}

static inline void xxh_finish(const struct xxh_state *state, uint64_t *acc)
{
	size_t stripes = state->stripes;

	memcpy(acc, state->acc, sizeof(state->acc));
	xxh_stripes(acc, &stripes, state->bytes + XXH_STRIPE, (state->buffered - 1) / XXH_STRIPE,
		state->key);
	xxh_stripe(acc, state->bytes + state->buffered, state->key + XXH_SECRET - 64 - 7);
}

static inline uint64_t XXH3_64bits_digest(const struct xxh_state *state)
{
	uint64_t acc[8];

	if (state->total <= XXH_SHORT)
		return xxh_64_short(state->bytes + XXH_STRIPE, state->total, 0);
	xxh_finish(state, acc);
	return xxh_64_end(acc, state->total, XXH3_kSecret);
}

#define XXH3_128bits_reset  XXH3_64bits_reset
#define XXH3_128bits_update XXH3_64bits_update

/* @key stays as it is until the digest. */
static inline void XXH3_128bits_reset_withSecret(
	struct xxh_state *state, const void *key, size_t key_bytes)
{
	SKEP_CHECK(key_bytes == XXH_SECRET);
	XXH3_128bits_reset(state);
	state->key = key;
}

static inline struct xxh_pair XXH3_128bits_digest(const struct xxh_state *state)
{
	uint64_t acc[8];

	if (state->total <= XXH_SHORT)
		return xxh_128_short(state->bytes + XXH_STRIPE, state->total, state->key);
	xxh_finish(state, acc);
	return xxh_128_end(acc, state->total, state->key);
}

/* ------------------------------------------------------------------------------------- secrets */

/* The 128-bit sum of 16 bytes with a seed. */
static inline struct xxh_pair xxh_128_of_16(const unsigned char *in, uint64_t seed)
{
	uint64_t low = xxh_read64(in), high = xxh_read64(in + 8);
	unsigned __int128 product;
	struct xxh_pair sum;

	low ^= high ^ ((xxh_read64(XXH3_kSecret + 32) ^ xxh_read64(XXH3_kSecret + 40)) - seed);
	high ^= (xxh_read64(XXH3_kSecret + 48) ^ xxh_read64(XXH3_kSecret + 56)) + seed;
	product = (unsigned __int128)low * XXH_PRIME64_1;
	low = (uint64_t)product + (15ull << 54);
	high += (uint64_t)(product >> 64) + (high & 0xffffffffu) * (XXH_PRIME32_2 - 1ull);
	product = (unsigned __int128)(low ^ __builtin_bswap64(high)) * XXH_PRIME64_2;
	sum.low64 = xxh_avalanche((uint64_t)product);
	sum.high64 = xxh_avalanche((uint64_t)(product >> 64) + high * XXH_PRIME64_2);
	return sum;
}

static inline void xxh_combine(unsigned char *at, struct xxh_pair with)
{
	uint64_t words[2] = {xxh_read64(at) ^ with.low64, xxh_read64(at + 8) ^ with.high64};

	memcpy(at, words, sizeof(words));
}

/* A secret of @bytes, a multiple of 16, from a seed of more than 16. */
static inline void XXH3_generateSecret(
	void *secret, size_t bytes, const void *seed, size_t seed_bytes)
{
	struct xxh_pair start = XXH3_128bits(seed, seed_bytes);
	uint64_t words[2] = {__builtin_bswap64(start.high64), __builtin_bswap64(start.low64)};
	unsigned char *out = secret, scrambler[16];

	memcpy(scrambler, words, sizeof(words));
	for (size_t at = 0; at < bytes; at += seed_bytes)
		memcpy(out + at, seed, seed_bytes < bytes - at ? seed_bytes : bytes - at);
	for (size_t i = 0; i < bytes / 16; i++)
		xxh_combine(out + 16 * i, xxh_128_of_16(scrambler, i));
	xxh_combine(out + bytes - 16, start);
}

#endif
