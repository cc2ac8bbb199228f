/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bits.h"
#include "base/hash.h"
#include "kernels/checksum.h"

/*
 * The definition, as the format page has it: xxHash's own functions, a leaf at a time, and the leaf
 * sums handed to the second level as eight bytes each, lowest first.
 */
uint64_t checksum_range_reference(const void *bytes, size_t length)
{
	const unsigned char *at = bytes;
	unsigned char words[64 * 8];
	size_t used = 0;
	XXH3_state_t range;

	XXH3_64bits_reset(&range);
	while (length) {
		size_t leaf_bytes = MIN_OF(length, (size_t)CHECKSUM_LEAF_BYTES);
		uint64_t sum = XXH3_64bits(at, leaf_bytes);

		for (int i = 0; i < 8; i++)
			words[used++] = (unsigned char)(sum >> (8 * i));
		at += leaf_bytes;
		length -= leaf_bytes;
		if (used == sizeof(words) || !length) {
			XXH3_64bits_update(&range, words, used);
			used = 0;
		}
	}
	return XXH3_64bits_digest(&range);
}
