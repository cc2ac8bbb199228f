/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/checksum.h"

#include <endian.h>
#include <stdatomic.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/hash.h"
#include "kernels/checksum_priv.h"

/*
 * From this size on a copy is stored around the cache. Measured on Zen 4 (1 MiB of second-level
 * cache a core): cold, such stores won in every size tried (64 KiB and more); with both sides in
 * the second-level cache they lose. From 256 KiB on source and copy together fill half of that
 * cache, so what is larger is rarely all there.
 */
#define BYPASS_BYTES_MIN (256u << 10)

_Static_assert(sizeof(XXH3_state_t) <= CHECKSUM_STATE_BYTES, "the fold holds the state of xxHash");

/* The variant for any processor: xxHash as it was compiled for this architecture. */

static bool supported_plain(void)
{
	return true;
}

static void leaves_sum_plain(const struct leaf_run *run, uint64_t *sums)
{
	for (size_t i = 0; i < run->count; i++)
		sums[i] = XXH3_64bits(run->from + i * CHECKSUM_LEAF_BYTES, CHECKSUM_LEAF_BYTES);
}

/*
 * Copies up to a leaf and sums what was stored. The barrier makes the compiler read it from @to: it
 * knows that both hold the same and might otherwise look at the source twice.
 */
static uint64_t leaf_copy_plain(void *to, const void *from, size_t length)
{
	memcpy(to, from, length);
	__asm__ __volatile__("" ::: "memory");
	return XXH3_64bits(to, length);
}

static void leaves_copy_plain(const struct leaf_run *run, uint64_t *sums)
{
	for (size_t i = 0; i < run->count; i++) {
		size_t at = i * CHECKSUM_LEAF_BYTES;

		sums[i] = leaf_copy_plain(run->to + at, run->from + at, CHECKSUM_LEAF_BYTES);
	}
}

static const struct checksum_variant variant_plain = {
#if defined(__aarch64__)
	.name = "neon",
#else
	.name = "plain",
#endif
	.supported = supported_plain,
	.sum = leaves_sum_plain,
	.copy = leaves_copy_plain,
};

const struct checksum_variant *const checksum_variants[] = {
#if defined(__x86_64__)
	&checksum_variant_avx512,
	&checksum_variant_avx2,
	&checksum_variant_sse2,
#endif
	&variant_plain,
	NULL,
};

/* Written with the same value by whoever comes first, so relaxed is enough: it points to constants.
 */
static _Atomic(const struct checksum_variant *) variant_chosen;

static const struct checksum_variant *variant(void)
{
	const struct checksum_variant *chosen =
		atomic_load_explicit(&variant_chosen, memory_order_relaxed);

	if (__builtin_expect(!chosen, 0)) {
		size_t i = 0;

		while (!checksum_variants[i]->supported())
			i++;
		chosen = checksum_variants[i];
		atomic_store_explicit(&variant_chosen, chosen, memory_order_relaxed);
	}
	return chosen;
}

void checksum_variant_use(const struct checksum_variant *use)
{
	SKEP_CHECK(use->supported());
	atomic_store_explicit(&variant_chosen, use, memory_order_relaxed);
}

const char *kernels_variant_name(void)
{
	return variant()->name;
}

/*
 * The second level. Leaf sums wait in the fold and are hashed a run at a time. The state of xxHash
 * wants a 64-byte boundary: it is worked on in a local one and kept as bytes between. That is
 * nothing beside a run of leaves, most ranges never need it, and a stream may lie anywhere.
 */

static void fold_init(struct checksum_fold *fold)
{
	fold->sum_count = 0;
	fold->spilled = false;
}

/* The state after the waiting sums, which it takes as little-endian words. */
static void fold_hash(const struct checksum_fold *fold, XXH3_state_t *state)
{
	uint64_t words[CHECKSUM_RUN_LEAVES];

	SKEP_CHECK(fold->sum_count <= CHECKSUM_RUN_LEAVES);
	for (size_t i = 0; i < fold->sum_count; i++)
		words[i] = htole64(fold->sums[i]);
	if (fold->spilled)
		memcpy(state, fold->state, sizeof(*state));
	else
		XXH3_64bits_reset(state);
	XXH3_64bits_update(state, words, fold->sum_count * sizeof(words[0]));
}

/* How many sums can be added, at least one, at fold->sums + fold->sum_count. */
static size_t fold_room(struct checksum_fold *fold)
{
	XXH3_state_t state;

	if (fold->sum_count == CHECKSUM_RUN_LEAVES) {
		fold_hash(fold, &state);
		memcpy(fold->state, &state, sizeof(state));
		fold->spilled = true;
		fold->sum_count = 0;
	}
	return CHECKSUM_RUN_LEAVES - fold->sum_count;
}

/* Does @work on all leaves of @whole, as many at a time as the fold has room for. */
static void fold_leaves(struct checksum_fold *fold, const struct leaf_run *whole, leaves_work *work)
{
	struct leaf_run run = *whole;

	for (size_t left = whole->count; left; left -= run.count) {
		size_t room = fold_room(fold);

		run.count = MIN_OF(left, room);
		work(&run, fold->sums + fold->sum_count);
		fold->sum_count += run.count;
		run.from += run.count * CHECKSUM_LEAF_BYTES;
		if (run.to)
			run.to += run.count * CHECKSUM_LEAF_BYTES;
	}
}

/* Adds the sum of the last leaf, when that is shorter. */
static void fold_tail(struct checksum_fold *fold, uint64_t sum)
{
	SKEP_CHECK(fold_room(fold) > 0);
	fold->sums[fold->sum_count++] = sum;
}

static uint64_t fold_final(const struct checksum_fold *fold)
{
	XXH3_state_t state;

	fold_hash(fold, &state);
	return XXH3_64bits_digest(&state);
}

uint64_t checksum_range(const void *bytes, size_t length)
{
	const struct leaf_run run = {.from = bytes, .count = length / CHECKSUM_LEAF_BYTES};
	size_t tail = length % CHECKSUM_LEAF_BYTES;
	struct checksum_fold fold;

	fold_init(&fold);
	fold_leaves(&fold, &run, variant()->sum);
	if (tail)
		fold_tail(&fold, XXH3_64bits(run.from + length - tail, tail));
	return fold_final(&fold);
}

enum checksum_stores checksum_stores_for(size_t total)
{
	return total >= BYPASS_BYTES_MIN ? CHECKSUM_STORES_BYPASS : CHECKSUM_STORES_CACHED;
}

uint64_t checksum_copy(void *to, const void *from, size_t length)
{
	return checksum_copy_as(checksum_stores_for(length), to, from, length);
}

/*
 * Why the sum can be trusted: whole leaves are summed from the very registers that were stored
 * (checksum_x86_leaf.h), the tail and the plain variant from the destination after the copy.
 * Hashing the source and copying it afterwards would look at it twice, and a source that changed
 * between would verify bytes that nobody has.
 */
uint64_t checksum_copy_as(enum checksum_stores stores, void *to, const void *from, size_t length)
{
	const struct leaf_run run = {
		.from = from,
		.to = to,
		.count = length / CHECKSUM_LEAF_BYTES,
	};
	const struct checksum_variant *use = variant();
	bool bypass = stores == CHECKSUM_STORES_BYPASS && use->bypass &&
		      (uintptr_t)to % CHECKSUM_BYPASS_ALIGN == 0;
	size_t tail = length % CHECKSUM_LEAF_BYTES;
	struct checksum_fold fold;

	fold_init(&fold);
	fold_leaves(&fold, &run, bypass ? use->bypass : use->copy);
	if (tail)
		fold_tail(&fold,
			leaf_copy_plain(run.to + length - tail, run.from + length - tail, tail));
	return fold_final(&fold);
}

void checksum_stream_init(struct checksum_stream *stream)
{
	fold_init(&stream->fold);
	stream->partial_bytes = 0;
}

void checksum_stream_update(struct checksum_stream *stream, const void *bytes, size_t length)
{
	struct leaf_run run = {.from = bytes};

	SKEP_CHECK(stream->partial_bytes < CHECKSUM_LEAF_BYTES);
	if (stream->partial_bytes) {
		const struct leaf_run gathered = {.from = stream->partial, .count = 1};
		size_t take = MIN_OF(length, CHECKSUM_LEAF_BYTES - stream->partial_bytes);

		memcpy(stream->partial + stream->partial_bytes, run.from, take);
		stream->partial_bytes += take;
		run.from += take;
		length -= take;
		if (stream->partial_bytes < CHECKSUM_LEAF_BYTES)
			return;
		fold_leaves(&stream->fold, &gathered, variant()->sum);
	}
	run.count = length / CHECKSUM_LEAF_BYTES;
	fold_leaves(&stream->fold, &run, variant()->sum);
	stream->partial_bytes = length % CHECKSUM_LEAF_BYTES;
	if (stream->partial_bytes)
		memcpy(stream->partial, run.from + run.count * CHECKSUM_LEAF_BYTES,
			stream->partial_bytes);
}

uint64_t checksum_stream_final(struct checksum_stream *stream)
{
	if (stream->partial_bytes)
		fold_tail(&stream->fold, XXH3_64bits(stream->partial, stream->partial_bytes));
	stream->partial_bytes = 0;
	return fold_final(&stream->fold);
}

/* What the root's hash runs over before the range sums, byte by byte. */
#define ROOT_HEAD_BYTES (CHECKSUM_BLOCK_ID_BYTES + 4 + 8 + 8 + 8)

static void root_head(const struct checksum_root_input *input, unsigned char *head)
{
	const uint32_t part = htole32(input->part);
	const uint64_t words[3] = {
		htole64(input->length),
		htole64(input->incarnation),
		htole64(input->generation),
	};

	_Static_assert(ROOT_HEAD_BYTES == 44, "the format page says so");
	memcpy(head, input->block_id, CHECKSUM_BLOCK_ID_BYTES);
	memcpy(head + CHECKSUM_BLOCK_ID_BYTES, &part, sizeof(part));
	memcpy(head + CHECKSUM_BLOCK_ID_BYTES + sizeof(part), words, sizeof(words));
}

struct checksum_root checksum_root_make(const struct checksum_root_input *input)
{
	unsigned char head[ROOT_HEAD_BYTES];
	uint64_t words[CHECKSUM_RUN_LEAVES];
	XXH3_state_t state;
	XXH128_hash_t hash;
	size_t done = 0;

	SKEP_CHECK(input->range_count == 0 || input->range_sums);
	root_head(input, head);
	XXH3_128bits_reset(&state);
	XXH3_128bits_update(&state, head, sizeof(head));
	while (done < input->range_count) {
		size_t run = MIN_OF(input->range_count - done, ARRAY_COUNT(words));

		for (size_t i = 0; i < run; i++)
			words[i] = htole64(input->range_sums[done + i]);
		XXH3_128bits_update(&state, words, run * sizeof(words[0]));
		done += run;
	}
	hash = XXH3_128bits_digest(&state);
	return (struct checksum_root){.low = hash.low64, .high = hash.high64};
}
