/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 is the standard's, in plain C and by the processor's instructions, and in pieces. */
#include "engine/hash/sha256.c"
#include "tests/engine/hash_unit.h"

enum { LONGEST = 700 };

static uint8_t bytes[1000000];

static void require_hash(const void *data, size_t length, const char *hex)
{
	struct sha256 hash;
	uint8_t digest[SHA256_BYTES];
	char text[HASH_HEX_BYTES];

	sha256_begin(&hash);
	sha256_add(&hash, data, length);
	sha256_end(&hash, digest);
	REQUIRE_TEXT(hash_hex(digest, text), hex);
}

/* The examples published with FIPS 180-4: one block, two blocks, a million letters; and nothing. */
static void standard_examples(void)
{
	static const char two[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";

	require_hash("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	require_hash(two, sizeof(two) - 1,
		"248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
	require_hash("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	memset(bytes, 'a', sizeof(bytes));
	require_hash(bytes, sizeof(bytes),
		"cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/* However it is cut, around every length at which the padding changes. */
static void pieces_are_one(uint64_t seed)
{
	for (size_t length = 0; length <= LONGEST; length++) {
		struct sha256 whole, pieces;
		uint8_t a[SHA256_BYTES], b[SHA256_BYTES];

		sha256_begin(&whole);
		sha256_add(&whole, bytes, length);
		sha256_end(&whole, a);
		sha256_begin(&pieces);
		for (size_t at = 0, step; at < length; at += step) {
			step = unit_random(&seed, 150);
			step = MIN_OF(length - at, step);
			sha256_add(&pieces, bytes + at, step);
		}
		sha256_end(&pieces, b);
		REQUIRE(!memcmp(a, b, sizeof(a)));
	}
}

static void instructions_agree(void)
{
#if defined(__x86_64__)
	uint32_t a[8] = {1, 2, 3, 4, 5, 6, 7, 8}, b[8] = {1, 2, 3, 4, 5, 6, 7, 8};

	if (!cpu_has_sha()) {
		puts("this processor has no SHA instructions: plain C alone was tested");
		return;
	}
	for (size_t count = 0; count < 40; count++) {
		blocks_plain(a, bytes + count, count);
		blocks_sha(b, bytes + count, count);
		REQUIRE(!memcmp(a, b, sizeof(a)));
	}
#endif
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);

	standard_examples();
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)unit_random(&seed, 256);
	instructions_agree();
	pieces_are_one(seed);
	return 0;
}
