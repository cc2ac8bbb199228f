/* SPDX-License-Identifier: Apache-2.0 */
/*
 * XXH3-64 of leaves of exactly 4 KiB, summed and copied in one pass over the registers. Included by
 * checksum_x86.c once a register width, hence no include guard; the VECTOR_ macros say the width.
 *
 * Why not call xxHash: a leaf that is copied and then hashed goes through the load ports twice, and
 * the memory waits while it is hashed. Loading each stripe once, storing it and adding it to the
 * sum costs no more than the copy. It also settles what the sum speaks for: the very bytes that
 * were stored, even while somebody changes the source.
 *
 * XXH3 of more than 240 bytes: eight 64-bit accumulators; stripes of 64 bytes, each under a key
 * that moves on by 8 bytes; after 16 stripes a scramble, and the keys begin again. The last stripe
 * of the input has a key of its own. 4,096 bytes are 64 stripes: three blocks of 16 with a scramble
 * after each, 15 more stripes and the last.
 */

enum { LEAF_NAME(leaf_lanes) = 64 / sizeof(VECTOR) };

/* The stripe @at bytes into the run: load, store if this is a copy, accumulate under @key. */
LEAF_INLINE LEAF_TARGET void LEAF_NAME(leaf_stripe)(
	VECTOR *sums, struct leaf_run run, size_t at, const unsigned char *key, enum leaf_way way)
{
	for (size_t i = 0; i < LEAF_NAME(leaf_lanes); i++) {
		size_t offset = i * sizeof(VECTOR);
		VECTOR data = VECTOR_LOAD(run.from + at + offset);
		VECTOR keyed, product;

		/* From here on the value is the register's: the compiler may not load it again. */
		__asm__("" : "+x"(data));
		if (way == LEAF_BYPASS)
			VECTOR_STREAM(run.to + at + offset, data);
		else if (way == LEAF_COPY)
			VECTOR_STORE(run.to + at + offset, data);
		keyed = VECTOR_XOR(data, VECTOR_LOAD(key + offset));
		product = VECTOR_MULTIPLY(keyed, VECTOR_SHIFT_RIGHT(keyed, 32));
		sums[i] = VECTOR_ADD(sums[i], VECTOR_ADD(product, VECTOR_SWAP(data)));
	}
	/*
	 * Only for these stores: the processor's own read-ahead stays too close before them, while
	 * elsewhere asking costs more than it brings. Reaching past the end of the source is
	 * harmless, a prefetch cannot fault.
	 */
	if (way == LEAF_BYPASS)
		__builtin_prefetch((const void *)((uintptr_t)run.from + at + LEAF_AHEAD_BYTES));
}

LEAF_INLINE LEAF_TARGET void LEAF_NAME(leaf_scramble)(VECTOR *sums)
{
	const unsigned char *key = XXH3_kSecret + sizeof(XXH3_kSecret) - 64;
	const VECTOR prime = VECTOR_FILL(XXH_PRIME32_1);

	for (size_t i = 0; i < LEAF_NAME(leaf_lanes); i++) {
		VECTOR mixed = VECTOR_XOR(sums[i], VECTOR_SHIFT_RIGHT(sums[i], 47));
		VECTOR high;

		mixed = VECTOR_XOR(mixed, VECTOR_LOAD(key + i * sizeof(VECTOR)));
		high = VECTOR_MULTIPLY(VECTOR_SHIFT_RIGHT(mixed, 32), prime);
		sums[i] = VECTOR_ADD(VECTOR_MULTIPLY(mixed, prime), VECTOR_SHIFT_LEFT(high, 32));
	}
}

/* The sum of the leaf @at bytes into the run, which is stored as well if @way says so. */
LEAF_INLINE LEAF_TARGET uint64_t LEAF_NAME(leaf)(struct leaf_run run, size_t at, enum leaf_way way)
{
	XXH_ALIGN(64) xxh_u64 words[8] = XXH3_INIT_ACC;
	VECTOR sums[LEAF_NAME(leaf_lanes)];

	for (size_t i = 0; i < LEAF_NAME(leaf_lanes); i++)
		sums[i] = VECTOR_LOAD((unsigned char *)words + i * sizeof(VECTOR));
	for (size_t block = 0; block < 4; block++) {
		const unsigned char *key = XXH3_kSecret;

		for (size_t i = 0; i < 15; i++) {
			LEAF_NAME(leaf_stripe)(sums, run, at, key, way);
			at += 64;
			key += 8;
		}
		if (block == 3)
			key = XXH3_kSecret + sizeof(XXH3_kSecret) - 64 - 7;
		LEAF_NAME(leaf_stripe)(sums, run, at, key, way);
		at += 64;
		if (block < 3)
			LEAF_NAME(leaf_scramble)(sums);
	}
	for (size_t i = 0; i < LEAF_NAME(leaf_lanes); i++)
		VECTOR_STORE((unsigned char *)words + i * sizeof(VECTOR), sums[i]);
	return XXH3_mergeAccs(words, XXH3_kSecret + 11, CHECKSUM_LEAF_BYTES * XXH_PRIME64_1);
}

LEAF_INLINE LEAF_TARGET void LEAF_NAME(leaves)(
	const struct leaf_run *run, uint64_t *sums, enum leaf_way way)
{
	for (size_t i = 0; i < run->count; i++)
		sums[i] = LEAF_NAME(leaf)(*run, i * CHECKSUM_LEAF_BYTES, way);
}

LEAF_TARGET static void LEAF_NAME(leaves_sum)(const struct leaf_run *run, uint64_t *sums)
{
	LEAF_NAME(leaves)(run, sums, LEAF_SUM);
}

LEAF_TARGET static void LEAF_NAME(leaves_copy)(const struct leaf_run *run, uint64_t *sums)
{
	LEAF_NAME(leaves)(run, sums, LEAF_COPY);
}

LEAF_TARGET static void LEAF_NAME(leaves_bypass)(const struct leaf_run *run, uint64_t *sums)
{
	LEAF_NAME(leaves)(run, sums, LEAF_BYPASS);
	_mm_sfence();
}

#undef LEAF_NAME
#undef LEAF_TARGET
#undef VECTOR
#undef VECTOR_LOAD
#undef VECTOR_STORE
#undef VECTOR_STREAM
#undef VECTOR_XOR
#undef VECTOR_ADD
#undef VECTOR_MULTIPLY
#undef VECTOR_SHIFT_RIGHT
#undef VECTOR_SHIFT_LEFT
#undef VECTOR_SWAP
#undef VECTOR_FILL
