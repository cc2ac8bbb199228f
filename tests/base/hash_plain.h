/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_BASE_HASH_PLAIN_H
#define SKEP_TESTS_BASE_HASH_PLAIN_H

#include <stddef.h>
#include <stdint.h>

/* The 64-bit sum of @length bytes and, where there are more than 16, both words of the 128-bit one;
 * @piece_bytes at a time go to the streams. Ends the process if a sum at once differs from it. */
struct plain_sums {
	uint64_t sum, low, high;
};

struct plain_sums plain_sums(const unsigned char *bytes, size_t length, size_t piece_bytes);

/* The same, with a seed and with a secret of 192 bytes that is made of it and 40 more bytes. */
struct plain_key {
	uint64_t seed;
	unsigned char more[40], secret[192];
};

/* Fills @key->secret. */
void plain_secret(struct plain_key *key);
struct plain_sums plain_keyed_sums(
	const struct plain_key *key, const unsigned char *bytes, size_t length, size_t piece_bytes);

#endif
