/* SPDX-License-Identifier: Apache-2.0 */
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "base/bits.h"
#include "engine/hash/sha256.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

/* The first 32 bits of the fractions of the cube roots of the first 64 primes. */
static const uint32_t round_words[64] = {0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b,
	0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3,
	0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6,
	0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d,
	0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
	0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585,
	0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
	0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa,
	0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate(uint32_t x, unsigned by)
{
	return x >> by | x << (32 - by);
}

static uint32_t load_big(const uint8_t *from)
{
	return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

static void store_big(uint8_t *to, uint32_t word)
{
	for (unsigned i = 0; i < 4; i++)
		to[i] = (uint8_t)(word >> (24 - 8 * i));
}

/* Section 6.2.2 of the standard, as written there. */
static void blocks_plain(uint32_t state[8], const uint8_t *data, size_t count)
{
	for (; count--; data += SHA256_BLOCK_BYTES) {
		uint32_t w[64], v[8];

		for (unsigned t = 0; t < 16; t++)
			w[t] = load_big(data + 4 * t);
		for (unsigned t = 16; t < 64; t++) {
			uint32_t a = w[t - 15], b = w[t - 2];

			w[t] = w[t - 16] + w[t - 7] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) +
			       (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
		}
		memcpy(v, state, sizeof(v));
		for (unsigned t = 0; t < 64; t++) {
			uint32_t e = v[4], a = v[0];
			uint32_t one = v[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
				       ((e & v[5]) ^ (~e & v[6])) + round_words[t] + w[t];
			uint32_t two = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) +
				       ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));

			memmove(v + 1, v, 7 * sizeof(v[0]));
			v[4] += one;
			v[0] = one + two;
		}
		for (unsigned i = 0; i < 8; i++)
			state[i] += v[i];
	}
}

#if defined(__x86_64__)
/*
 * The same by the processor's SHA instructions, four rounds a step. They want the state as two
 * vectors, (f, e, b, a) and (h, g, d, c) from the lowest lane up.
 */
__attribute__((target("sha,sse4.1"))) static void blocks_sha(
	uint32_t state[8], const uint8_t *data, size_t count)
{
	const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
	__m128i badc = _mm_shuffle_epi32(_mm_loadu_si128((__m128i *)(void *)state), 0xb1);
	__m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128((__m128i *)(void *)(state + 4)), 0x1b);
	__m128i abef = _mm_alignr_epi8(badc, hgfe, 8);
	__m128i cdgh = _mm_blend_epi16(hgfe, badc, 0xf0);

	for (; count--; data += SHA256_BLOCK_BYTES) {
		__m128i w[4], abef_before = abef, cdgh_before = cdgh;

#pragma GCC unroll 16
		for (unsigned t = 0; t < 16; t++) {
			__m128i *now = &w[t & 3], with;

			if (t < 4) {
				*now = _mm_loadu_si128((const __m128i *)(const void *)data + t);
				*now = _mm_shuffle_epi8(*now, swap);
			} else {
				__m128i *last = &w[(t + 3) & 3];

				*now = _mm_sha256msg1_epu32(*now, w[(t + 1) & 3]);
				*now = _mm_add_epi32(
					*now, _mm_alignr_epi8(*last, w[(t + 2) & 3], 4));
				*now = _mm_sha256msg2_epu32(*now, *last);
			}
			with = _mm_loadu_si128((const __m128i *)(const void *)round_words + t);
			with = _mm_add_epi32(with, *now);
			cdgh = _mm_sha256rnds2_epu32(cdgh, abef, with);
			abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(with, 0x0e));
		}
		abef = _mm_add_epi32(abef, abef_before);
		cdgh = _mm_add_epi32(cdgh, cdgh_before);
	}
	abef = _mm_shuffle_epi32(abef, 0x1b);
	cdgh = _mm_shuffle_epi32(cdgh, 0xb1);
	_mm_storeu_si128((__m128i *)(void *)state, _mm_blend_epi16(abef, cdgh, 0xf0));
	_mm_storeu_si128((__m128i *)(void *)(state + 4), _mm_alignr_epi8(cdgh, abef, 8));
}

static bool cpu_has_sha(void)
{
	unsigned a, b, c, d;

	return __get_cpuid(1, &a, &b, &c, &d) && c & bit_SSE4_1 &&
	       __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & bit_SHA;
}

static void blocks_add(uint32_t state[8], const uint8_t *data, size_t count)
{
	/* Asked once: in a virtual machine the question costs more than a prompt. Relaxed: every
	 * thread that asks is told the same. */
	static _Atomic uint32_t known; /* 0 = not yet asked, 1 = no, 2 = yes */
	uint32_t has = atomic_load_explicit(&known, memory_order_relaxed);

	if (!has) {
		has = cpu_has_sha() ? 2 : 1;
		atomic_store_explicit(&known, has, memory_order_relaxed);
	}
	(has == 2 ? blocks_sha : blocks_plain)(state, data, count);
}
#else
static void blocks_add(uint32_t state[8], const uint8_t *data, size_t count)
{
	blocks_plain(state, data, count);
}
#endif

void sha256_begin(struct sha256 *hash)
{
	/* The first 32 bits of the fractions of the square roots of the first 8 primes. */
	static const uint32_t first[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
		0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

	memcpy(hash->state, first, sizeof(first));
	hash->bytes = 0;
}

void sha256_add(struct sha256 *hash, const void *data, size_t bytes)
{
	const uint8_t *from = data;
	size_t held = hash->bytes % SHA256_BLOCK_BYTES;

	if (!bytes)
		return;
	hash->bytes += bytes;
	if (held) {
		size_t more = MIN_OF(bytes, SHA256_BLOCK_BYTES - held);

		memcpy(hash->tail + held, from, more);
		if (held + more < SHA256_BLOCK_BYTES)
			return;
		blocks_add(hash->state, hash->tail, 1);
		from += more;
		bytes -= more;
	}
	blocks_add(hash->state, from, bytes / SHA256_BLOCK_BYTES);
	memcpy(hash->tail, from + bytes - bytes % SHA256_BLOCK_BYTES, bytes % SHA256_BLOCK_BYTES);
}

void sha256_end(struct sha256 *hash, uint8_t out[SHA256_BYTES])
{
	static const uint8_t padding[SHA256_BLOCK_BYTES] = {0x80};
	uint64_t bits = hash->bytes * 8;
	size_t held = hash->bytes % SHA256_BLOCK_BYTES;
	uint8_t length[8];

	sha256_add(hash, padding, held < 56 ? 56 - held : 120 - held);
	store_big(length, (uint32_t)(bits >> 32));
	store_big(length + 4, (uint32_t)bits);
	sha256_add(hash, length, sizeof(length));
	for (unsigned i = 0; i < 8; i++)
		store_big(out + 4 * i, hash->state[i]);
}
