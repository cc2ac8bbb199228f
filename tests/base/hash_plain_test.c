/* SPDX-License-Identifier: Apache-2.0 */
/* XXH3 as base/hash_plain.h has it equals xxHash's, at once and in pieces. */
#include "tests/base/hash_plain.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "tests/base/unit.h"

enum { LONGEST = 5000 };

static unsigned char bytes[LONGEST];

static void require_pair(size_t length, struct plain_sums is)
{
	XXH128_hash_t wide = XXH3_128bits(bytes, length);

	REQUIRE_EQ(is.sum, XXH3_64bits(bytes, length));
	if (length > 16) {
		REQUIRE_EQ(is.low, wide.low64);
		REQUIRE_EQ(is.high, wide.high64);
	}
}

/* Every length around which the algorithm takes another way, and many between. */
static void lengths_agree(void)
{
	for (size_t length = 0; length <= LONGEST; length += length < 1400 ? 1 : 37)
		require_pair(length, plain_sums(bytes, length, length));
}

static void pieces_agree(uint64_t seed)
{
	for (size_t i = 0; i < 2000; i++) {
		size_t length = unit_random(&seed, LONGEST + 1);

		require_pair(length, plain_sums(bytes, length, 1 + unit_random(&seed, 600)));
	}
}

/* With seeds and secrets too, and the secrets themselves. */
static void keys_agree(uint64_t seed)
{
	for (size_t i = 0; i < 2000; i++) {
		struct plain_key key = {.seed = i ? mix64(seed + i) : 0};
		unsigned char start[48], secret[sizeof(key.secret)];
		size_t length = unit_random(&seed, i % 2 ? 300 : LONGEST + 1);
		struct plain_sums is;
		XXH128_hash_t wide;

		for (size_t j = 0; j < sizeof(key.more); j++)
			key.more[j] = (unsigned char)unit_random(&seed, 256);
		memcpy(start, &key.seed, 8);
		memcpy(start + 8, key.more, sizeof(key.more));
		XXH3_generateSecret(secret, sizeof(secret), start, sizeof(start));
		plain_secret(&key);
		REQUIRE(memcmp(key.secret, secret, sizeof(secret)) == 0);
		is = plain_keyed_sums(&key, bytes, length, 1 + unit_random(&seed, 600));
		REQUIRE_EQ(is.sum, XXH3_64bits_withSeed(bytes, length, key.seed));
		if (length <= 16)
			continue;
		wide = XXH3_128bits_withSecret(bytes, length, secret, sizeof(secret));
		REQUIRE_EQ(is.low, wide.low64);
		REQUIRE_EQ(is.high, wide.high64);
	}
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);

	for (size_t i = 0; i < LONGEST; i++)
		bytes[i] = (unsigned char)unit_random(&seed, 256);
	lengths_agree();
	pieces_agree(seed);
	keys_agree(seed);
	return 0;
}
