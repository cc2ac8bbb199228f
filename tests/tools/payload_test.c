/* SPDX-License-Identifier: Apache-2.0 */
/* Payload bytes tell identity, part and offset: what is shifted, swapped or stale is caught. */
#include "tools/skep/payload.c"

#include "tests/base/unit.h"

#define PART_BYTES 20003 /* not a multiple of a word */

static struct payload random_payload(uint64_t *state)
{
	const uint64_t identity[2] = { *state = mix64(*state), *state = mix64(*state)};

	return payload_of(identity, unit_random(state, 64));
}

static void test_what_is_filled_is_right(uint64_t *state)
{
	static unsigned char bytes[PART_BYTES + 64];

	for (unsigned round = 0; round < 2000; round++) {
		struct payload payload = random_payload(state);
		struct payload_range range = {
			.offset = 64 * (size_t)unit_random(state, 1000),
			.bytes = unit_random(state, PART_BYTES),
		};
		unsigned skew = unit_random(state, 16);

		memset(bytes, 0xa5, sizeof(bytes));
		payload_fill(payload, range, bytes + skew);
		REQUIRE(payload_check(payload, range, bytes + skew) == PAYLOAD_RIGHT);
		/* Nothing was written before or behind. */
		for (unsigned i = 0; i < skew; i++)
			REQUIRE_EQ(bytes[i], 0xa5);
		for (unsigned i = 0; i < 16; i++)
			REQUIRE_EQ(bytes[skew + range.bytes + i], 0xa5);
	}
}

static void test_pieces_make_the_whole(uint64_t *state)
{
	static unsigned char whole[PART_BYTES], pieces[PART_BYTES];
	struct payload payload = random_payload(state);

	payload_fill(payload, (struct payload_range){0, PART_BYTES}, whole);
	for (size_t at = 0; at < PART_BYTES;) {
		size_t bytes = 64 * (size_t)(1 + unit_random(state, 40));

		bytes = MIN_OF(bytes, PART_BYTES - at);
		payload_fill(payload, (struct payload_range){at, bytes}, pieces + at);
		REQUIRE(payload_check(payload, (struct payload_range){at, bytes}, whole + at) ==
			PAYLOAD_RIGHT);
		at += bytes;
	}
	REQUIRE(!memcmp(whole, pieces, PART_BYTES));
}

static void test_each_wrong_byte_is_found(uint64_t *state)
{
	static unsigned char bytes[PART_BYTES];
	struct payload payload = random_payload(state);
	struct payload_range range = {.offset = 640, .bytes = PART_BYTES};

	payload_fill(payload, range, bytes);
	for (size_t i = 0; i < PART_BYTES; i++) {
		unsigned char flip = (unsigned char)(1 + unit_random(state, 255));

		bytes[i] ^= flip;
		REQUIRE_EQ(payload_check(payload, range, bytes), 640 + i);
		bytes[i] ^= flip;
	}
	/* Of several the first is named. */
	bytes[PART_BYTES - 1] ^= 1;
	bytes[5000] ^= 1;
	REQUIRE_EQ(payload_check(payload, range, bytes), 5640);
}

/* No word of @a stands at the same place in @b: not even eight stale bytes go unseen. */
static void require_words_differ(const unsigned char *a, const unsigned char *b, size_t bytes)
{
	for (size_t i = 0; i + 8 <= bytes; i += 8)
		REQUIRE(memcmp(a + i, b + i, 8));
}

static void test_shifted_bytes_are_caught(uint64_t *state)
{
	static unsigned char bytes[PART_BYTES];
	struct payload payload = random_payload(state);

	payload_fill(payload, (struct payload_range){0, PART_BYTES}, bytes);
	for (size_t shift = 1; shift < 10000; shift++) {
		struct payload_range range = {.offset = 0, .bytes = PART_BYTES - shift};

		REQUIRE(payload_check(payload, range, bytes + shift) < 8);
		if (shift % 8 == 0)
			require_words_differ(bytes, bytes + shift, PART_BYTES - shift);
	}
}

static void test_swapped_and_stale_blocks_are_caught(uint64_t *state)
{
	static unsigned char bytes[PART_BYTES], other[PART_BYTES];
	const struct payload_range range = {.offset = 0, .bytes = PART_BYTES};
	uint64_t equal_bytes = 0, compared = 0;

	for (unsigned round = 0; round < 400; round++) {
		uint64_t identity[2] = { *state = mix64(*state), *state = mix64(*state)};
		uint32_t part = unit_random(state, 64);
		struct payload payload = payload_of(identity, part);

		payload_fill(payload, range, bytes);
		/* Another part, or one bit of the identity: neighbours are the likeliest mix-up. */
		if (round % 2)
			part ^= 1u << unit_random(state, 6);
		else
			identity[round / 2 % 2] ^= 1ull << unit_random(state, 64);
		payload_fill(payload_of(identity, part), range, other);
		REQUIRE(payload_check(payload, range, other) < 8);
		require_words_differ(bytes, other, PART_BYTES);
		for (size_t i = 0; i < PART_BYTES; i++, compared++)
			equal_bytes += bytes[i] == other[i];
		/* A block that is half the new one and half the stale one. */
		memcpy(other, bytes, 8000);
		REQUIRE(payload_check(payload, range, other) >= 8000);
		REQUIRE(payload_check(payload, range, other) < 8008);
	}
	printf("bytes equal by chance: 1 in %.0f\n", (double)compared / (double)equal_bytes);
	REQUIRE(equal_bytes < compared / 128 && equal_bytes > compared / 512);
}

static void test_every_byte_value_comes_at_every_place(uint64_t *state)
{
	static unsigned char bytes[1 << 16];
	struct payload payload = random_payload(state);
	unsigned counts[8][256] = {0};

	payload_fill(payload, (struct payload_range){0, sizeof(bytes)}, bytes);
	for (size_t i = 0; i < sizeof(bytes); i++)
		counts[i % 8][bytes[i]]++;
	for (unsigned lane = 0; lane < 8; lane++)
		for (unsigned value = 0; value < 256; value++)
			REQUIRE(counts[lane][value] > 4 && counts[lane][value] < 100);
}

/* Both vector widths give the same bytes: a replay may be checked on another machine. */
static void test_plain_and_wide_code_agree(uint64_t *state)
{
	static loose_word plain[3000], best[3000];

	for (size_t count = 0; count < ARRAY_COUNT(plain); count += 1 + count / 3) {
		uint64_t counter = *state = mix64(*state);

		words_fill(counter, plain, count);
		fill_best(counter, best, count);
		REQUIRE(!memcmp(plain, best, count * sizeof(*plain)));
		REQUIRE(!words_differ(counter, best, count) && !differ_best(counter, plain, count));
	}
}

/* Figures for whoever looks; what they must be depends on the machine. */
static void print_speed(void)
{
	static unsigned char bytes[128 << 10];
	const struct payload_range range = {.offset = 0, .bytes = sizeof(bytes)};
	struct payload payload = payload_of((const uint64_t[2]){1, 2}, 3);
	uint64_t fill_ns = UINT64_MAX, check_ns = UINT64_MAX, copy_ns = UINT64_MAX;
	static unsigned char copy[sizeof(bytes)];

	for (unsigned i = 0; i < 200; i++) {
		uint64_t began_ns = clock_ns();

		payload_fill(payload, range, bytes);
		fill_ns = MIN_OF(fill_ns, clock_ns() - began_ns);
		began_ns = clock_ns();
		REQUIRE(payload_check(payload, range, bytes) == PAYLOAD_RIGHT);
		check_ns = MIN_OF(check_ns, clock_ns() - began_ns);
		began_ns = clock_ns();
		memcpy(copy, bytes, sizeof(bytes));
		__asm__ volatile("" ::"r"(copy) : "memory");
		copy_ns = MIN_OF(copy_ns, clock_ns() - began_ns);
	}
	printf("128 KiB in cache, GB/s: fill %.1f, check %.1f, memcpy %.1f\n",
		(double)sizeof(bytes) / (double)fill_ns, (double)sizeof(bytes) / (double)check_ns,
		(double)sizeof(bytes) / (double)copy_ns);
}

int main(int argc, char **argv)
{
	uint64_t state = unit_seed(argc, argv);

	test_what_is_filled_is_right(&state);
	test_pieces_make_the_whole(&state);
	test_each_wrong_byte_is_found(&state);
	test_shifted_bytes_are_caught(&state);
	test_swapped_and_stale_blocks_are_caught(&state);
	test_every_byte_value_comes_at_every_place(&state);
	test_plain_and_wide_code_agree(&state);
	print_speed();
	return 0;
}
