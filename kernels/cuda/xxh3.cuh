/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_CUDA_XXH3_CUH
#define SKEP_KERNELS_CUDA_XXH3_CUH

#include <stdint.h>

/*
 * XXH3-64 with seed 0 and the default secret, for threads of a warp (the format page is
 * docs/formats/checksum.md; kernels/checksum_x86_leaf.h tells the algorithm).
 *
 * Two facts make it suit a warp. An accumulator takes from each stripe of 64 bytes the data word of
 * its own place and the one beside it, so a thread that has loaded 16 bytes has all that two
 * accumulators need of them. And between two scrambles (every 1,024 bytes) accumulators are plain
 * sums, so the stripes of such a block can be added up by different threads and then together.
 */
#define XXH3_PRIME32_1 0x9E3779B1u
#define XXH3_PRIME32_2 0x85EBCA77u
#define XXH3_PRIME32_3 0xC2B2AE3Du
#define XXH3_PRIME64_1 0x9E3779B185EBCA87ull
#define XXH3_PRIME64_2 0xC2B2AE3D27D4EB4Full
#define XXH3_PRIME64_3 0x165667B19E3779F9ull
#define XXH3_PRIME64_4 0x85EBCA77C2B2AE63ull
#define XXH3_PRIME64_5 0x27D4EB2F165667C5ull
#define XXH3_PRIME_MX1 0x165667919E3779F9ull
#define XXH3_PRIME_MX2 0x9FB21C651E98DF25ull

#define XXH3_STRIPE_BYTES 64
#define XXH3_BLOCK_BYTES  1024 /* 16 stripes between two scrambles */
#define XXH3_SHORT_MAX	  240  /* longer inputs are summed by stripes */
#define XXH3_LAST_AT	  121  /* where in the secret the keys of the last stripe begin */
#define XXH3_SCRAMBLE_AT  128
#define XXH3_MERGE_AT	  11

#define WARP_ALL 0xffffffffu

/* The secret as little-endian words. */
static __constant__ uint64_t xxh3_secret[24] = {
	0xbe4ba423396cfeb8ull,
	0x1cad21f72c81017cull,
	0xdb979083e96dd4deull,
	0x1f67b3b7a4a44072ull,
	0x78e5c0cc4ee679cbull,
	0x2172ffcc7dd05a82ull,
	0x8e2443f7744608b8ull,
	0x4c263a81e69035e0ull,
	0xcb00c391bb52283cull,
	0xa32e531b8b65d088ull,
	0x4ef90da297486471ull,
	0xd8acdea946ef1938ull,
	0x3f349ce33f76faa8ull,
	0x1d4f0bc7c7bbdcf9ull,
	0x3159b4cd4be0518aull,
	0x647378d9c97e9fc8ull,
	0xc3ebd33483acc5eaull,
	0xeb6313faffa081c5ull,
	0x49daf0b751dd0d17ull,
	0x9e68d429265516d3ull,
	0xfca1477d58be162bull,
	0xce31d07ad1b8f88full,
	0x280416958f3acb45ull,
	0x7e404bbbcafbd7afull,
};

static __constant__ uint64_t xxh3_start[8] = {
	XXH3_PRIME32_3,
	XXH3_PRIME64_1,
	XXH3_PRIME64_2,
	XXH3_PRIME64_3,
	XXH3_PRIME64_4,
	XXH3_PRIME32_2,
	XXH3_PRIME64_5,
	XXH3_PRIME32_1,
};

/* Eight bytes of the secret from byte @at on, which need not be a multiple of 8. */
static __device__ inline uint64_t xxh3_secret_word(uint32_t at)
{
	uint32_t shift = at % 8 * 8;
	uint64_t word = xxh3_secret[at / 8] >> shift;

	return shift ? word | xxh3_secret[at / 8 + 1] << (64 - shift) : word;
}

static __device__ inline uint64_t xxh3_fold(uint64_t a, uint64_t b)
{
	return a * b ^ __umul64hi(a, b);
}

static __device__ inline uint64_t xxh3_avalanche(uint64_t hash)
{
	hash ^= hash >> 37;
	hash *= XXH3_PRIME_MX1;
	return hash ^ hash >> 32;
}

static __device__ inline uint64_t xxh3_rotate(uint64_t word, uint32_t by)
{
	return word << by | word >> (64 - by);
}

/* What one data word adds to its accumulator: it is keyed, and its halves are multiplied. */
static __device__ inline uint64_t xxh3_product(uint64_t word, uint64_t key)
{
	uint64_t keyed = word ^ key;

	return (uint64_t)(uint32_t)keyed * (uint32_t)(keyed >> 32);
}

static __device__ inline uint64_t xxh3_scramble(uint64_t sum, uint64_t key)
{
	return (sum ^ sum >> 47 ^ key) * XXH3_PRIME32_1;
}

static __device__ inline uint64_t warp_xor(uint64_t value, uint32_t mask)
{
	return __shfl_xor_sync(WARP_ALL, (unsigned long long)value, mask);
}

/*
 * Where the bytes of a sum that is not taken on the fly are read. word() is 8 bytes, little-endian,
 * from any byte on.
 */
struct xxh3_bytes {
	const unsigned char *from;

	__device__ uint64_t byte(uint32_t at) const
	{
		return from[at];
	}
	__device__ uint64_t word(uint32_t at) const
	{
		const unsigned char *first = from + at;
		uint64_t word = 0;

		if ((uintptr_t)first % 8 == 0)
			return *(const uint64_t *)first;
		for (uint32_t i = 0; i < 8; i++)
			word |= (uint64_t)first[i] << 8 * i;
		return word;
	}
};

/* Leaf sums. They may come from other multiprocessors: read where those meet, in L2. */
struct xxh3_words {
	const uint64_t *from;
	bool far;

	__device__ uint64_t word(uint32_t at) const
	{
		const uint64_t *word = from + at / 8;

		return far ? __ldcg((const unsigned long long *)word) : *word;
	}
	__device__ uint64_t byte(uint32_t at) const
	{
		return word(at) >> at % 8 * 8 & 0xff;
	}
};

template <typename READER> static __device__ uint64_t xxh3_half(const READER &input, uint32_t at)
{
	return input.byte(at) | input.byte(at + 1) << 8 | input.byte(at + 2) << 16 |
	       input.byte(at + 3) << 24;
}

/* 1 to 16 bytes. */
template <typename READER> static __device__ uint64_t xxh3_tiny(const READER &input, uint32_t bytes)
{
	uint64_t hash;

	if (bytes > 8) {
		uint64_t low = input.word(0) ^ xxh3_secret[3] ^ xxh3_secret[4];
		uint64_t high = input.word(bytes - 8) ^ xxh3_secret[5] ^ xxh3_secret[6];
		uint64_t turned = (uint64_t)__byte_perm((uint32_t)low, 0, 0x0123) << 32 |
				  __byte_perm((uint32_t)(low >> 32), 0, 0x0123);

		return xxh3_avalanche(bytes + turned + high + xxh3_fold(low, high));
	}
	if (bytes >= 4) {
		hash = xxh3_half(input, bytes - 4) + (xxh3_half(input, 0) << 32);
		hash ^= xxh3_secret[1] ^ xxh3_secret[2];
		hash ^= xxh3_rotate(hash, 49) ^ xxh3_rotate(hash, 24);
		hash *= XXH3_PRIME_MX2;
		hash ^= (hash >> 35) + bytes;
		hash *= XXH3_PRIME_MX2;
		return hash ^ hash >> 28;
	}
	hash = input.byte(0) << 16 | input.byte(bytes >> 1) << 24 | input.byte(bytes - 1) |
	       bytes << 8;
	hash ^= (uint32_t)xxh3_secret[0] ^ (uint32_t)(xxh3_secret[0] >> 32);
	hash ^= hash >> 33;
	hash *= XXH3_PRIME64_2;
	hash ^= hash >> 29;
	hash *= XXH3_PRIME64_3;
	return hash ^ hash >> 32;
}

template <typename READER>
static __device__ uint64_t xxh3_mix(const READER &input, uint32_t at, uint32_t secret_at)
{
	return xxh3_fold(input.word(at) ^ xxh3_secret_word(secret_at),
		input.word(at + 8) ^ xxh3_secret_word(secret_at + 8));
}

/* 1 to XXH3_SHORT_MAX bytes, by one thread. */
template <typename READER>
static __device__ uint64_t xxh3_short(const READER &input, uint32_t bytes)
{
	uint64_t sum = bytes * XXH3_PRIME64_1, end;

	if (bytes <= 16)
		return xxh3_tiny(input, bytes);
	if (bytes <= 128) {
		/* From both ends towards the middle, which may be mixed twice. */
		for (uint32_t i = 0; i <= (bytes - 1) / 32; i++) {
			sum += xxh3_mix(input, 16 * i, 32 * i);
			sum += xxh3_mix(input, bytes - 16 * (i + 1), 32 * i + 16);
		}
		return xxh3_avalanche(sum);
	}
	for (uint32_t i = 0; i < 8; i++)
		sum += xxh3_mix(input, 16 * i, 16 * i);
	end = xxh3_mix(input, bytes - 16, 136 - 17);
	for (uint32_t i = 8; i < bytes / 16; i++)
		end += xxh3_mix(input, 16 * i, 16 * (i - 8) + 3);
	return xxh3_avalanche(xxh3_avalanche(sum) + end);
}

/*
 * More than XXH3_SHORT_MAX bytes, by a whole warp, every thread of which gets the sum. Eight
 * threads have an accumulator each, four such groups take every fourth stripe.
 */
template <typename READER> static __device__ uint64_t xxh3_long(const READER &input, uint32_t bytes)
{
	uint32_t thread = threadIdx.x % 32, place = thread % 8, group = thread / 8;
	uint32_t blocks = (bytes - 1) / XXH3_BLOCK_BYTES;
	uint64_t sum = xxh3_start[place], pair;

	for (uint32_t block = 0; block <= blocks; block++) {
		uint32_t at = block * XXH3_BLOCK_BYTES;
		uint32_t stripes = block < blocks ? 16 : (bytes - 1 - at) / XXH3_STRIPE_BYTES;
		uint64_t added = 0;

		for (uint32_t stripe = group; stripe < stripes; stripe += 4) {
			uint32_t first = at + stripe * XXH3_STRIPE_BYTES;

			added += xxh3_product(
				input.word(first + place * 8), xxh3_secret[stripe + place]);
			added += input.word(first + (place ^ 1) * 8);
		}
		added += warp_xor(added, 8);
		added += warp_xor(added, 16);
		sum += added;
		if (block < blocks)
			sum = xxh3_scramble(sum, xxh3_secret[XXH3_SCRAMBLE_AT / 8 + place]);
	}
	sum += xxh3_product(input.word(bytes - XXH3_STRIPE_BYTES + place * 8),
		xxh3_secret_word(XXH3_LAST_AT + place * 8));
	sum += input.word(bytes - XXH3_STRIPE_BYTES + (place ^ 1) * 8);

	sum ^= xxh3_secret_word(XXH3_MERGE_AT + place * 8);
	pair = xxh3_fold(sum, warp_xor(sum, 1));
	pair += warp_xor(pair, 2);
	pair += warp_xor(pair, 4);
	return xxh3_avalanche(bytes * XXH3_PRIME64_1 + pair);
}

/*
 * Any number of bytes but 0, by a whole warp, every thread of which gets the sum. Never inlined: it
 * runs once a range, and its registers would be held by those who stream.
 */
template <typename READER>
static __device__ __noinline__ uint64_t xxh3_warp(const READER input, uint32_t bytes)
{
	return bytes > XXH3_SHORT_MAX ? xxh3_long(input, bytes) : xxh3_short(input, bytes);
}

/*
 * A sum taken on the fly, by LANES threads of a warp (8, 16 or 32) over the same input, which is
 * more than XXH3_SHORT_MAX bytes and whole stripes. Thread n has in each step the 16 bytes at
 * n × 16 of the LANES × 16 that the step covers; a block is STEPS steps. All that
 * has to do with places is worked out once, here, and then used for many inputs.
 */
template <int LANES> struct xxh3_flow {
	enum { STEPS = XXH3_BLOCK_BYTES / (LANES * 16) };
	uint64_t key[STEPS][2], last[2], scramble[2], merge[2], start[2];
	uint64_t sum[2], added[2];

	__device__ void init()
	{
		uint32_t thread = threadIdx.x % LANES, place = thread % 4 * 2, stripe = thread / 4;

		for (uint32_t i = 0; i < 2; i++) {
#pragma unroll
			for (uint32_t step = 0; step < STEPS; step++)
				key[step][i] = xxh3_secret[step * (LANES / 4) + stripe + place + i];
			last[i] = xxh3_secret_word(XXH3_LAST_AT + (place + i) * 8);
			scramble[i] = xxh3_secret[XXH3_SCRAMBLE_AT / 8 + place + i];
			merge[i] = xxh3_secret_word(XXH3_MERGE_AT + (place + i) * 8);
			start[i] = xxh3_start[place + i];
		}
	}
	__device__ void begin()
	{
		sum[0] = start[0];
		sum[1] = start[1];
		added[0] = added[1] = 0;
	}
	/* The 16 bytes of step @step of a block; @is_last where they are of the last stripe. */
	__device__ void add(uint32_t step, uint64_t low, uint64_t high, bool is_last)
	{
		added[0] += xxh3_product(low, is_last ? last[0] : key[step][0]) + high;
		added[1] += xxh3_product(high, is_last ? last[1] : key[step][1]) + low;
	}
	/* After the steps of a block, by all threads; @more where there is another block. */
	__device__ void block_end(bool more)
	{
		for (uint32_t i = 0; i < 2; i++) {
#pragma unroll
			for (uint32_t mask = 4; mask < LANES; mask *= 2)
				added[i] += warp_xor(added[i], mask);
			sum[i] += added[i];
			added[i] = 0;
			if (more)
				sum[i] = xxh3_scramble(sum[i], scramble[i]);
		}
	}
	__device__ uint64_t end(uint32_t bytes)
	{
		uint64_t pair = xxh3_fold(sum[0] ^ merge[0], sum[1] ^ merge[1]);

		pair += warp_xor(pair, 1);
		pair += warp_xor(pair, 2);
		return xxh3_avalanche(bytes * XXH3_PRIME64_1 + pair);
	}
};

#endif
