/* SPDX-License-Identifier: Apache-2.0 */
/* BLAKE3 gives what its reference does for the lengths of its published vectors, in pieces too. */
#include "engine/hash/blake3.c"
#include "tests/engine/hash_unit.h"
#include "tests/engine/hash_vectors.h"

enum { LONGEST = 102400 };

static uint8_t bytes[LONGEST];

static void require_hash(const struct blake3_case *want, size_t step_max, uint64_t *seed)
{
	struct blake3 hash;
	uint8_t digest[BLAKE3_BYTES];
	char text[HASH_HEX_BYTES];

	blake3_begin(&hash);
	for (size_t at = 0, step; at < want->bytes; at += step) {
		step = 1 + unit_random(seed, (uint32_t)step_max);
		step = MIN_OF(step, want->bytes - at);
		blake3_add(&hash, bytes + at, step);
	}
	blake3_end(&hash, digest);
	REQUIRE_TEXT(hash_hex(digest, text), want->hex);
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);

	for (size_t i = 0; i < LONGEST; i++)
		bytes[i] = (uint8_t)(i % 251);
	/* The published hash of nothing: the others stand on a package's word. */
	REQUIRE_TEXT(blake3_cases[0].hex,
		"af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
	for (size_t i = 0; i < ARRAY_COUNT(blake3_cases); i++) {
		require_hash(&blake3_cases[i], LONGEST, &seed);
		require_hash(&blake3_cases[i], 130, &seed);
		require_hash(&blake3_cases[i], 3000, &seed);
	}
	return 0;
}
