/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The block hashes are those of the engines (hash_vectors.h, made by their own code), whether a
 * prompt is hashed at once or as it grows; what does not fit is refused before anything is written.
 */
#include <errno.h>

#include "tests/engine/hash_unit.h"
#include "tests/engine/hash_vectors.h"

enum { TOKENS_MAX = 131072, BLOCKS_MAX = TOKENS_MAX };

static uint32_t tokens[TOKENS_MAX];
static uint64_t tokens_wide[TOKENS_MAX];
static uint8_t digests[BLOCKS_MAX][SKEP_HASH_BYTES], again[BLOCKS_MAX][SKEP_HASH_BYTES];

/* As tokens_of() of tests/doors/vectors.py. */
static void tokens_make(const struct hash_case *row)
{
	static const uint32_t edges[] = {0, 1, 23, 24, 255, 256, 65535, 65536, UINT32_MAX};

	REQUIRE(row->count <= TOKENS_MAX);
	for (size_t i = 0; i < row->count; i++) {
		uint64_t drawn = mix64(((uint64_t)row->number << 32) + i);

		tokens_wide[i] = i % 13 == 0 ? edges[i / 13 % ARRAY_COUNT(edges)]
					     : drawn >> (row->wide && i / 64 % 2 ? 1 : 32);
		tokens[i] = (uint32_t)tokens_wide[i];
	}
}

static struct skep_hash_options options_of(const struct hash_case *row)
{
	return (struct skep_hash_options){.struct_bytes = sizeof(struct skep_hash_options),
		.kind = row->kind,
		.block_tokens = row->block_tokens,
		.seed = row->seed,
		.salt = row->salt,
		.extra_key = row->extra_key,
		.lora_name = row->lora_name,
		.lora_path = row->lora_path,
		.items = row->item_count ? row->items : NULL,
		.item_count = row->item_count};
}

/* The next blocks of the case, from token @at on. */
static int64_t hash_from(const struct hash_case *row, const struct skep_hash_options *options,
	size_t count, void *out)
{
	size_t at = options->first_token;

	return row->wide ? skep_hash_blocks_wide(options, tokens_wide + at, count, out, BLOCKS_MAX)
			 : skep_hash_blocks(options, tokens + at, count, out, BLOCKS_MAX);
}

static void require_start(const uint8_t digest[SKEP_HASH_BYTES], const char *hex)
{
	char text[HASH_HEX_BYTES];

	hash_hex(digest, text);
	REQUIRE(strlen(hex) >= 16 && strlen(hex) < sizeof(text));
	text[strlen(hex)] = '\0';
	REQUIRE_TEXT(text, hex);
}

static void as_the_engine(const struct hash_case *row)
{
	struct skep_hash_options options = options_of(row);

	puts(row->name);
	fflush(stdout);
	tokens_make(row);
	REQUIRE_EQ(hash_from(row, &options, row->count, digests), row->blocks);
	require_start(digests[0], row->first);
	require_start(digests[row->blocks - 1], row->last);
	if (row->wide)
		return;
	/* Narrow tokens give the same by the wide call. */
	REQUIRE_EQ(skep_hash_blocks_wide(&options, tokens_wide, row->count, again, BLOCKS_MAX),
		row->blocks);
	REQUIRE(!memcmp(digests, again, row->blocks * SKEP_HASH_BYTES));
}

/* A prompt that grows: each call goes on from the last digest of the one before, in its place. */
static void grown_is_whole(const struct hash_case *row, uint64_t *seed)
{
	struct skep_hash_options options = options_of(row);
	size_t behind = row->kind == SKEP_HASH_SGLANG_PAIRS;
	uint8_t place[64][SKEP_HASH_BYTES];

	for (size_t done = 0, step; done < row->blocks; done += step) {
		step = 1 + unit_random(seed, 63);
		step = MIN_OF(step, row->blocks - done);
		options.first_token = done * row->block_tokens;
		options.parent = done ? memcpy(place, digests[done - 1], SKEP_HASH_BYTES) : NULL;
		REQUIRE_EQ(
			hash_from(row, &options, step * row->block_tokens + behind, place), step);
		REQUIRE(!memcmp(place, digests[done], step * SKEP_HASH_BYTES));
	}
}

static int64_t try(struct skep_hash_options options)
{
	return skep_hash_blocks(&options, tokens, 64, digests, 4);
}

static const struct skep_hash_text a_text = HASH_TEXT("x");

/* Whatever is wrong with the options: an error, and no digest is touched. */
static void nonsense_is_refused(void)
{
	static const struct skep_hash_item disordered[] = {{HASH_TEXT("a"), 20, 4},
		{HASH_TEXT("b"), 10, 4}},
					   endless[] = {{HASH_TEXT("a"), 20, UINT64_MAX}},
					   nameless[] = {{{NULL, 0}, 20, 4}};
	struct skep_hash_options good = {
		.struct_bytes = sizeof(good), .kind = SKEP_HASH_VLLM, .block_tokens = 16};
	struct skep_hash_options bad[] = {
		good, good, good, good, good, good, good, good, good, good, good, good, good, good};
	uint8_t before[4][SKEP_HASH_BYTES];
	unsigned i = 0;

	REQUIRE_EQ(try(good), 4);
	memcpy(before, digests, sizeof(before));
	bad[i++].struct_bytes = sizeof(good) - 1;
	bad[i++].kind = 0;
	bad[i++].kind = SKEP_HASH_LMCACHE_CBOR + 1;
	bad[i++].kind = UINT32_MAX;
	bad[i++].block_tokens = 0;
	bad[i++].parent = before[0];
	bad[i++].first_token = 16;
	bad[i].parent = before[0];
	bad[i++].first_token = 17;
	bad[i++].lora_path = a_text;
	bad[i++].seed.bytes = 1;
	bad[i++].item_count = 1;
	bad[i].items = disordered;
	bad[i++].item_count = 2;
	bad[i].items = endless;
	bad[i++].item_count = 1;
	bad[i].items = nameless;
	bad[i++].item_count = 1;
	REQUIRE_EQ(i, ARRAY_COUNT(bad));
	for (i = 0; i < ARRAY_COUNT(bad); i++)
		REQUIRE_EQ(try(bad[i]), -EINVAL);
	REQUIRE_EQ(skep_hash_blocks(NULL, tokens, 64, digests, 4), -EINVAL);
	REQUIRE_EQ(skep_hash_blocks(&good, NULL, 64, digests, 4), -EINVAL);
	REQUIRE_EQ(skep_hash_blocks(&good, tokens, 64, NULL, 4), -EINVAL);
	REQUIRE_EQ(skep_hash_blocks(&good, tokens, 64, digests, 3), -ENOSPC);
	REQUIRE(!memcmp(before, digests, sizeof(before)));
	/* Nothing to hash is no error. */
	REQUIRE_EQ(skep_hash_blocks(&good, tokens, 15, NULL, 0), 0);
	REQUIRE_EQ(skep_hash_blocks(&good, NULL, 0, NULL, 0), 0);
}

/* An option that a kind does not hash is refused: a lost salt shows a tenant's prompt to others. */
static void nothing_is_left_out_silently(void)
{
	enum { SEED = 1, SALT = 2, KEY = 4, LORA = 8, ITEMS = 16, OPTIONS = 5 };
	static const unsigned takes[] = {[SKEP_HASH_VLLM] = SEED | SALT | LORA | ITEMS,
		[SKEP_HASH_SGLANG] = SALT | KEY,
		[SKEP_HASH_SGLANG_PAIRS] = SALT | KEY,
		[SKEP_HASH_LMCACHE] = 0,
		[SKEP_HASH_LMCACHE_CBOR] = SEED};
	static const struct skep_hash_item item[] = {{HASH_TEXT("a"), 20, 4}};

	for (unsigned kind = SKEP_HASH_VLLM; kind < ARRAY_COUNT(takes); kind++) {
		for (unsigned bit = 0; bit < OPTIONS; bit++) {
			struct skep_hash_options options = {
				.struct_bytes = sizeof(options), .kind = kind, .block_tokens = 8};
			struct skep_hash_text *texts[] = {&options.seed, &options.salt,
				&options.extra_key, &options.lora_name};

			if (bit < ARRAY_COUNT(texts))
				*texts[bit] = a_text;
			else
				options.items = item, options.item_count = 1;
			REQUIRE_EQ(skep_hash_blocks(&options, tokens, 32, digests, 4),
				takes[kind] & 1U << bit ? kind == SKEP_HASH_SGLANG_PAIRS ? 3 : 4
							: -EINVAL);
		}
	}
}

/* What an engine raises an error for has no hash. */
static void tokens_out_of_range(void)
{
	static const struct {
		uint32_t kind;
		uint64_t max;
	} rows[] = {{SKEP_HASH_VLLM, UINT64_MAX}, {SKEP_HASH_SGLANG, INT64_MAX},
		{SKEP_HASH_SGLANG_PAIRS, INT64_MAX}, {SKEP_HASH_LMCACHE, UINT32_MAX},
		{SKEP_HASH_LMCACHE_CBOR, UINT64_MAX}};

	for (unsigned i = 0; i < ARRAY_COUNT(rows); i++) {
		struct skep_hash_options options = {
			.struct_bytes = sizeof(options), .kind = rows[i].kind, .block_tokens = 4};
		uint64_t few[5] = {1, 2, 3, rows[i].max, 4};

		REQUIRE_EQ(skep_hash_blocks_wide(&options, few, 5, digests, 1), 1);
		if (rows[i].max == UINT64_MAX)
			continue;
		few[3]++;
		REQUIRE_EQ(skep_hash_blocks_wide(&options, few, 5, digests, 1), -ERANGE);
	}
}

/* A caller built against a later header: fine while he asks for nothing that is not known here. */
static void later_callers(void)
{
	struct {
		struct skep_hash_options options;
		uint64_t more;
	} later = {.options = {.struct_bytes = sizeof(later),
			   .kind = SKEP_HASH_LMCACHE,
			   .block_tokens = 16}};

	REQUIRE_EQ(skep_hash_blocks(&later.options, tokens, 64, digests, 4), 4);
	later.more = 1;
	REQUIRE_EQ(skep_hash_blocks(&later.options, tokens, 64, digests, 4), -E2BIG);
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);

	for (size_t i = 0; i < ARRAY_COUNT(hash_cases); i++) {
		as_the_engine(&hash_cases[i]);
		grown_is_whole(&hash_cases[i], &seed);
	}
	nonsense_is_refused();
	nothing_is_left_out_silently();
	tokens_out_of_range();
	later_callers();
	return 0;
}
