/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_CHECKSUM_H
#define SKEP_KERNELS_CHECKSUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The sums that go with a part through every tier and hop (design section 6, byte order in
 * docs/formats/checksum.md). Bytes are summed in leaves of 4 KiB, leaf sums make a range sum, range
 * sums make a part's root. Everything here runs on any thread, allocates nothing, takes no lock and
 * never fails.
 */
#define CHECKSUM_LEAF_BYTES	4096
#define CHECKSUM_BLOCK_ID_BYTES 16

/*
 * The sum of a range of @length bytes at @bytes, of any alignment and length; a range of 0 bytes
 * has a sum too (that of no leaves). checksum_range_reference says the same by a plain loop that
 * can be read against the format page; it is what the fast one is tested with.
 */
uint64_t checksum_range(const void *bytes, size_t length);
uint64_t checksum_range_reference(const void *bytes, size_t length);

/*
 * How the bytes of a copy are stored. CACHED is right where the copy is soon read again by this
 * processor. BYPASS writes around the cache: half as fast again for large cold copies, slower where
 * both sides lie in the core's own cache; it needs a destination on a 64-byte boundary and is taken
 * as CACHED elsewhere.
 */
enum checksum_stores { CHECKSUM_STORES_CACHED, CHECKSUM_STORES_BYPASS };

/*
 * What suits a copy of @total bytes. Who copies a part range by range asks for the whole part,
 * since one range alone looks small.
 */
enum checksum_stores checksum_stores_for(size_t total);

/*
 * Copies @length bytes and returns the range sum of what was stored in @to: to verify a get, copy,
 * then compare. The two must not overlap. If another thread or process changes the source
 * meanwhile, the copy may mix old and new bytes, but the sum is that of the copy: each source byte
 * is loaded once, and the sum is taken from that load or from the destination, never from a second
 * look at the source. BYPASS stores are fenced before the return: publishing the copy takes no more
 * than the release store that ordinary stores take. checksum_copy chooses the stores by @length.
 */
uint64_t checksum_copy(void *to, const void *from, size_t length);
uint64_t checksum_copy_as(enum checksum_stores stores, void *to, const void *from, size_t length);

/*
 * Gathers leaf sums into a range sum. Private to checksum.c, here so that the caller can own the
 * memory. @state is the XXH3 state, valid once @spilled.
 */
#define CHECKSUM_RUN_LEAVES  64
#define CHECKSUM_STATE_BYTES 576

struct checksum_fold {
	uint64_t sums[CHECKSUM_RUN_LEAVES];
	size_t sum_count;
	bool spilled;
	unsigned char state[CHECKSUM_STATE_BYTES];
};

/*
 * The sum of a range whose bytes come in pieces. Plain memory of the caller (about 5 KiB), with no
 * pointer into itself. Pieces that begin and end on leaf boundaries are summed where they lie;
 * others are gathered in @partial first. One thread at a time.
 */
struct checksum_stream {
	struct checksum_fold fold;
	size_t partial_bytes;
	unsigned char partial[CHECKSUM_LEAF_BYTES];
};

void checksum_stream_init(struct checksum_stream *stream);
void checksum_stream_update(struct checksum_stream *stream, const void *bytes, size_t length);

/* The range sum of all pieces. The stream is spent and may be initialised again. */
uint64_t checksum_stream_final(struct checksum_stream *stream);

/*
 * Everything the root of a part speaks for. @length is the part's in bytes; @incarnation and
 * @generation are the two halves of its write generation; @range_sums (the caller's, @range_count
 * of them, in the order of the ranges) are numbers of this host, whatever its byte order.
 */
struct checksum_root_input {
	unsigned char block_id[CHECKSUM_BLOCK_ID_BYTES];
	uint32_t part;
	uint64_t length;
	uint64_t incarnation;
	uint64_t generation;
	const uint64_t *range_sums;
	size_t range_count;
};

/* Where a root is stored or sent: @low then @high, each little-endian. */
struct checksum_root {
	uint64_t low, high;
};

struct checksum_root checksum_root_make(const struct checksum_root_input *input);

static inline bool checksum_root_equal(struct checksum_root a, struct checksum_root b)
{
	return a.low == b.low && a.high == b.high;
}

/* The code that this processor runs: "avx512", "avx2", "sse2", "neon" or "plain". A static text. */
const char *kernels_variant_name(void);

#endif
