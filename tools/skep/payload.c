/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/payload.h"

#include <stdbool.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/hash.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "payload words are written as they lie");

/* Odd, with bits all over: consecutive words differ in the high half too. */
#define PAYLOAD_STRIDE 0x9e3779b97f4a7c15u

/* How much is compared before the answer is looked at: small against a block, large against a test.
 */
#define CHECK_BYTES ((size_t)4096)

/* A word at any address: frames are aligned, buffers of users need not be. */
typedef uint64_t loose_word __attribute__((aligned(1), may_alias));

/*
 * One to one, so that distinct counters give distinct words. Shifts and xor alone: every vector
 * unit has them for 64-bit lanes.
 */
static inline uint64_t word_mix(uint64_t x)
{
	x ^= x >> 29;
	x ^= x << 23;
	return x ^ (x >> 33);
}

struct payload payload_of(const uint64_t identity[2], uint32_t part)
{
	const uint64_t hashed[3] = {identity[0], identity[1], part};

	return (struct payload){.base = XXH3_64bits(hashed, sizeof(hashed))};
}

static uint64_t counter_at(struct payload payload, size_t offset)
{
	return payload.base + offset / sizeof(uint64_t) * PAYLOAD_STRIDE;
}

/*
 * The two loops, plain so that compilers make vectors of them; once for any processor and once for
 * those with wider vectors.
 */
static inline __attribute__((always_inline)) void words_fill(
	uint64_t counter, loose_word *to, size_t count)
{
	for (size_t i = 0; i < count; i++, counter += PAYLOAD_STRIDE)
		to[i] = word_mix(counter);
}

static inline __attribute__((always_inline)) bool words_differ(
	uint64_t counter, const loose_word *from, size_t count)
{
	uint64_t differ = 0;

	for (size_t i = 0; i < count; i++, counter += PAYLOAD_STRIDE)
		differ |= from[i] ^ word_mix(counter);
	return differ != 0;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void words_fill_avx2(
	uint64_t counter, loose_word *to, size_t count)
{
	words_fill(counter, to, count);
}

__attribute__((target("avx2"))) static bool words_differ_avx2(
	uint64_t counter, const loose_word *from, size_t count)
{
	return words_differ(counter, from, count);
}
#endif

static void fill_best(uint64_t counter, loose_word *to, size_t count)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx2")) {
		words_fill_avx2(counter, to, count);
		return;
	}
#endif
	words_fill(counter, to, count);
}

static bool differ_best(uint64_t counter, const loose_word *from, size_t count)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx2"))
		return words_differ_avx2(counter, from, count);
#endif
	return words_differ(counter, from, count);
}

void payload_fill(struct payload payload, struct payload_range range, void *to)
{
	size_t count = range.bytes / sizeof(uint64_t);
	uint64_t last;

	SKEP_CHECK(range.offset % PAYLOAD_STEP_BYTES == 0);
	fill_best(counter_at(payload, range.offset), to, count);
	last = word_mix(counter_at(payload, range.offset + count * sizeof(last)));
	memcpy((loose_word *)to + count, &last, range.bytes % sizeof(last));
}

/* The slow way, for a stretch that is known to be wrong or is shorter than a word. */
static size_t first_wrong(struct payload payload, struct payload_range range, const char *from)
{
	for (size_t i = 0; i < range.bytes; i++) {
		size_t offset = range.offset + i;
		uint64_t word = word_mix(counter_at(payload, offset));

		if ((unsigned char)from[i] != (unsigned char)(word >> offset % 8 * 8))
			return offset;
	}
	return PAYLOAD_RIGHT;
}

size_t payload_check(struct payload payload, struct payload_range range, const void *from)
{
	const loose_word *at = from;

	SKEP_CHECK(range.offset % PAYLOAD_STEP_BYTES == 0);
	while (range.bytes >= sizeof(*at)) {
		size_t count = MIN_OF(range.bytes, CHECK_BYTES) / sizeof(*at);
		size_t bytes = count * sizeof(*at);

		if (differ_best(counter_at(payload, range.offset), at, count))
			return first_wrong(payload, (struct payload_range){range.offset, bytes},
				(const char *)at);
		range.offset += bytes;
		range.bytes -= bytes;
		at += count;
	}
	return first_wrong(payload, range, (const char *)at);
}
