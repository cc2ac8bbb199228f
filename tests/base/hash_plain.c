/* SPDX-License-Identifier: Apache-2.0 */
/* The side of hash_plain_test.c that knows xxHash's names as ours: a file of its own. */
#include "base/bits.h"
#include "base/hash_plain.h"
#include "tests/base/hash_plain.h"

struct plain_sums plain_sums(const unsigned char *bytes, size_t length, size_t piece_bytes)
{
	struct plain_sums sums = {0};
	XXH3_state_t narrow, wide;
	XXH128_hash_t pair = {0};

	XXH3_64bits_reset(&narrow);
	XXH3_128bits_reset(&wide);
	for (size_t at = 0, take; at < length; at += take) {
		take = MIN_OF(piece_bytes, length - at);
		XXH3_64bits_update(&narrow, bytes + at, take);
		XXH3_128bits_update(&wide, bytes + at, take);
	}
	if (length > 16)
		pair = XXH3_128bits_digest(&wide);
	sums.sum = XXH3_64bits_digest(&narrow);
	SKEP_CHECK(sums.sum == XXH3_64bits(bytes, length));
	sums.low = pair.low64;
	sums.high = pair.high64;
	return sums;
}

void plain_secret(struct plain_key *key)
{
	unsigned char seed[48];

	memcpy(seed, &key->seed, 8);
	memcpy(seed + 8, key->more, sizeof(key->more));
	XXH3_generateSecret(key->secret, sizeof(key->secret), seed, sizeof(seed));
}

struct plain_sums plain_keyed_sums(
	const struct plain_key *key, const unsigned char *bytes, size_t length, size_t piece_bytes)
{
	struct plain_sums sums = {.sum = XXH3_64bits_withSeed(bytes, length, key->seed)};
	XXH128_hash_t pair, once;
	XXH3_state_t wide;

	if (length <= 16)
		return sums;
	XXH3_INITSTATE(&wide);
	XXH3_128bits_reset_withSecret(&wide, key->secret, sizeof(key->secret));
	for (size_t at = 0, take; at < length; at += take) {
		take = MIN_OF(piece_bytes, length - at);
		XXH3_128bits_update(&wide, bytes + at, take);
	}
	pair = XXH3_128bits_digest(&wide);
	once = XXH3_128bits_withSecret(bytes, length, key->secret, sizeof(key->secret));
	SKEP_CHECK(pair.low64 == once.low64 && pair.high64 == once.high64);
	sums.low = pair.low64;
	sums.high = pair.high64;
	return sums;
}
