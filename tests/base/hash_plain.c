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
