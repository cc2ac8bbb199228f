/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chains: the same tokens give the same ids however they were appended; what differs in tokens,
 * order, extra keys or key gives others.
 */
#include "store/read/id.h"
#include "tests/engine/client_unit.h"
#include "tests/engine/fake.h"

enum { BLOCKS = 12, TOKENS = BLOCKS * UNIT_BLOCK_TOKENS };

static struct fake fake = {.secret = 7};
static struct skep *session;
static struct skep_space *space, *opaque;
static uint32_t tokens[TOKENS];

static struct skep_chain *chain_new(struct skep_space *of)
{
	struct skep_chain *chain;

	REQUIRE_EQ(skep_chain_create(of, &chain), 0);
	return chain;
}

static bool same_id(const struct skep_chain *a, const struct skep_chain *b, uint32_t block)
{
	uint8_t id_a[16], id_b[16];

	REQUIRE_EQ(skep_chain_id(a, block, id_a), 0);
	REQUIRE_EQ(skep_chain_id(b, block, id_b), 0);
	return !memcmp(id_a, id_b, sizeof(id_a));
}

static void incremental_is_one_shot(uint64_t seed)
{
	struct skep_chain *whole = chain_new(space), *pieces = chain_new(space);
	uint64_t state = seed;
	size_t at = 0;

	REQUIRE_EQ(skep_chain_append(whole, tokens, TOKENS), BLOCKS);
	while (at < TOKENS) {
		size_t step = unit_random(&state, 40);

		step = MIN_OF(step, TOKENS - at);
		at += step;
		REQUIRE_EQ(skep_chain_append(pieces, tokens + at - step, step),
			at / UNIT_BLOCK_TOKENS);
	}
	for (uint32_t i = 0; i < BLOCKS; i++)
		REQUIRE(same_id(whole, pieces, i));
	skep_chain_destroy(whole);
	skep_chain_destroy(pieces);
}

/* The ids are those of id_make(), by the space's secret, each over the one before. */
static void ids_are_the_formats(void)
{
	struct skep_chain *chain = chain_new(space);
	uint8_t secret[ID_SECRET_BYTES], id[16];
	struct block_id parent = {0, 0};

	memset(secret, 7, sizeof(secret));
	REQUIRE_EQ(skep_chain_append(chain, tokens, TOKENS), BLOCKS);
	for (uint32_t i = 0; i < BLOCKS; i++) {
		struct id_input in = {
			.tokens = tokens + i * UNIT_BLOCK_TOKENS, .token_count = UNIT_BLOCK_TOKENS};

		parent = id_make(secret, parent, &in, 128);
		REQUIRE_EQ(skep_chain_id(chain, i, id), 0);
		REQUIRE(!memcmp(id, &parent.low, 8) && !memcmp(id + 8, &parent.high, 8));
	}
	REQUIRE_EQ(skep_chain_id(chain, BLOCKS, id), -ERANGE);
	skep_chain_destroy(chain);
}

static void truncated_goes_on_as_fresh(void)
{
	struct skep_chain *fresh = chain_new(space), *cut = chain_new(space);

	REQUIRE_EQ(skep_chain_append(fresh, tokens, TOKENS), BLOCKS);
	REQUIRE_EQ(skep_chain_append(cut, tokens, 5 * UNIT_BLOCK_TOKENS), 5);
	REQUIRE_EQ(skep_chain_append(cut, tokens, 3), 5); /* another prompt, unfinished */
	REQUIRE_EQ(skep_chain_extra(cut, "lora", 4), 0);
	skep_chain_truncate(cut, 3);
	REQUIRE_EQ(skep_chain_blocks(cut), 3);
	REQUIRE_EQ(skep_chain_append(
			   cut, tokens + 3 * UNIT_BLOCK_TOKENS, TOKENS - 3 * UNIT_BLOCK_TOKENS),
		BLOCKS);
	for (uint32_t i = 0; i < BLOCKS; i++)
		REQUIRE(same_id(fresh, cut, i));
	skep_chain_truncate(cut, 100);
	REQUIRE_EQ(skep_chain_blocks(cut), BLOCKS);
	skep_chain_truncate(cut, 0);
	REQUIRE_EQ(skep_chain_blocks(cut), 0);
	skep_chain_destroy(fresh);
	skep_chain_destroy(cut);
}

static void extra_keys_make_other_names(void)
{
	struct skep_chain *plain = chain_new(space), *lora = chain_new(space),
			  *again = chain_new(space), *other = chain_new(space);
	uint8_t long_key[SKEP_EXTRA_BYTES_MAX + 1] = {1};

	REQUIRE_EQ(skep_chain_append(plain, tokens, TOKENS), BLOCKS);
	/* Bound to block 2, of whatever was appended before it in the same block. */
	REQUIRE_EQ(skep_chain_append(lora, tokens, 2 * UNIT_BLOCK_TOKENS + 5), 2);
	REQUIRE_EQ(skep_chain_extra(lora, "lora", 4), 0);
	REQUIRE_EQ(skep_chain_extra(lora, "lora", 4), -EEXIST);
	REQUIRE_EQ(skep_chain_append(lora, tokens + 2 * UNIT_BLOCK_TOKENS + 5,
			   TOKENS - 2 * UNIT_BLOCK_TOKENS - 5),
		BLOCKS);
	REQUIRE_EQ(skep_chain_append(again, tokens, 2 * UNIT_BLOCK_TOKENS), 2);
	REQUIRE_EQ(skep_chain_extra(again, "lora", 4), 0);
	REQUIRE_EQ(skep_chain_append(
			   again, tokens + 2 * UNIT_BLOCK_TOKENS, TOKENS - 2 * UNIT_BLOCK_TOKENS),
		BLOCKS);
	REQUIRE_EQ(skep_chain_append(other, tokens, 2 * UNIT_BLOCK_TOKENS), 2);
	REQUIRE_EQ(skep_chain_extra(other, "lorb", 4), 0);
	REQUIRE_EQ(skep_chain_append(
			   other, tokens + 2 * UNIT_BLOCK_TOKENS, TOKENS - 2 * UNIT_BLOCK_TOKENS),
		BLOCKS);
	for (uint32_t i = 0; i < BLOCKS; i++) {
		REQUIRE_EQ(same_id(plain, lora, i), i < 2);
		REQUIRE_EQ(same_id(other, lora, i), i < 2);
		REQUIRE(same_id(lora, again, i));
	}
	REQUIRE_EQ(skep_chain_extra(plain, long_key, sizeof(long_key)), -EINVAL);
	REQUIRE_EQ(skep_chain_extra(plain, long_key, 0), -EINVAL);
	REQUIRE_EQ(skep_chain_extra(plain, long_key, sizeof(long_key) - 1), 0);
	REQUIRE_EQ(skep_chain_append(plain, tokens, UNIT_BLOCK_TOKENS), BLOCKS + 1);
	skep_chain_destroy(plain);
	skep_chain_destroy(lora);
	skep_chain_destroy(again);
	skep_chain_destroy(other);
}

static void opaque_keys_are_a_chain(void)
{
	struct skep_chain *a = chain_new(opaque), *b = chain_new(opaque);
	uint8_t key[64];

	memset(key, 1, sizeof(key));
	REQUIRE_EQ(skep_chain_append_key(a, key, 16, NULL, 0), 1);
	REQUIRE_EQ(skep_chain_append_key(a, key, 64, tokens, 5), 2);
	REQUIRE_EQ(skep_chain_append_key(a, key, 16, NULL, 0), 3);
	/* The same key in another place is another name; tokens beside a key are no part of it. */
	REQUIRE_EQ(skep_chain_append_key(b, key, 16, tokens, 3), 1);
	REQUIRE_EQ(skep_chain_append_key(b, key, 16, NULL, 0), 2);
	REQUIRE(same_id(a, b, 0) && !same_id(a, b, 1));
	skep_chain_truncate(b, 1);
	REQUIRE_EQ(skep_chain_append_key(b, key, 64, NULL, 0), 2);
	REQUIRE(same_id(a, b, 1));
	REQUIRE_EQ(skep_chain_append_key(b, key, 15, NULL, 0), -EINVAL);
	REQUIRE_EQ(skep_chain_append_key(b, key, 65, NULL, 0), -EINVAL);
	REQUIRE_EQ(skep_chain_append_key(b, key, 16, tokens, UNIT_BLOCK_TOKENS + 1), -EINVAL);
	REQUIRE_EQ(skep_chain_append_key(b, NULL, 16, NULL, 0), -EINVAL);
	REQUIRE_EQ(skep_chain_append(b, tokens, 1), -EINVAL);
	REQUIRE_EQ(skep_chain_extra(b, "salt", 4), 0);
	REQUIRE_EQ(skep_chain_append_key(b, key, 16, NULL, 0), 3);
	REQUIRE(!same_id(a, b, 2));
	skep_chain_destroy(a);
	skep_chain_destroy(b);
}

/* Many in one call are what they are one by one; a call that is refused changes nothing. */
static void keys_of_a_run_are_one_by_one(void)
{
	enum { COUNT = 100, KEY = 32, EACH = 5 };
	struct skep_chain *run = chain_new(opaque), *single = chain_new(opaque);
	static uint8_t bytes[COUNT * KEY];
	struct skep_keys keys = {.struct_bytes = sizeof(keys),
		.keys = bytes,
		.key_bytes = KEY,
		.count = COUNT,
		.tokens = tokens,
		.token_count = 1};
	struct skep_keys bad = keys;

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)mix64(i);
	REQUIRE_EQ(skep_chain_extra(run, "salt", 4), 0);
	REQUIRE_EQ(skep_chain_extra(single, "salt", 4), 0);
	REQUIRE_EQ(skep_chain_append_keys(run, &keys), COUNT);
	for (unsigned i = 0; i < COUNT; i++)
		REQUIRE_EQ(
			skep_chain_append_key(single, bytes + i * KEY, KEY, tokens + i, 1), i + 1);
	keys.tokens = NULL;
	keys.token_count = 0;
	REQUIRE_EQ(skep_chain_append_keys(run, &keys), 2 * COUNT);
	skep_chain_truncate(run, COUNT + 1);
	REQUIRE_EQ(skep_chain_append_key(single, bytes, KEY, NULL, 0), COUNT + 1);
	bad.keys = NULL;
	REQUIRE_EQ(skep_chain_append_keys(run, &bad), -EINVAL);
	bad = keys;
	bad.key_bytes = 15;
	REQUIRE_EQ(skep_chain_append_keys(run, &bad), -EINVAL);
	bad.key_bytes = 65;
	REQUIRE_EQ(skep_chain_append_keys(run, &bad), -EINVAL);
	bad = keys;
	bad.token_count = EACH;
	REQUIRE_EQ(skep_chain_append_keys(run, &bad), -EINVAL);
	bad.tokens = tokens;
	bad.token_count = UNIT_BLOCK_TOKENS + 1;
	REQUIRE_EQ(skep_chain_append_keys(run, &bad), -EINVAL);
	bad = keys;
	bad.count = UINT32_MAX;
	REQUIRE_EQ(skep_chain_append_keys(run, &bad), -E2BIG);
	bad = keys;
	bad.struct_bytes = 8;
	REQUIRE_EQ(skep_chain_append_keys(run, &bad), -EINVAL);
	REQUIRE_EQ(skep_chain_append_keys(run, NULL), -EINVAL);
	REQUIRE_EQ(skep_chain_append_keys(NULL, &keys), -EINVAL);
	keys.count = 0;
	REQUIRE_EQ(skep_chain_append_keys(run, &keys), COUNT + 1);
	for (unsigned i = 0; i <= COUNT; i++)
		REQUIRE(same_id(run, single, i));
	skep_chain_destroy(run);
	run = chain_new(space);
	keys.count = 1;
	REQUIRE_EQ(skep_chain_append_keys(run, &keys), -EINVAL);
	skep_chain_destroy(run);
	skep_chain_destroy(single);
}

static void wide_tokens_are_the_same_tokens(void)
{
	struct skep_chain *plain = chain_new(space), *wide = chain_new(space);
	uint64_t words[TOKENS];

	for (unsigned i = 0; i < TOKENS; i++)
		words[i] = tokens[i];
	REQUIRE_EQ(skep_chain_append(plain, tokens, TOKENS), BLOCKS);
	REQUIRE_EQ(skep_chain_append64(wide, words, 3), 0);
	words[TOKENS - 1] = 1ull << 32;
	REQUIRE_EQ(skep_chain_append64(wide, words + 3, TOKENS - 3), -ERANGE);
	words[TOKENS - 1] = UINT64_MAX; /* -1 */
	REQUIRE_EQ(skep_chain_append64(wide, words + 3, TOKENS - 3), -ERANGE);
	words[TOKENS - 1] = tokens[TOKENS - 1];
	REQUIRE_EQ(skep_chain_append64(wide, words + 3, TOKENS - 3), BLOCKS);
	for (uint32_t i = 0; i < BLOCKS; i++)
		REQUIRE(same_id(plain, wide, i));
	REQUIRE_EQ(skep_chain_append64(wide, NULL, 1), -EINVAL);
	REQUIRE_EQ(skep_chain_append64(NULL, words, 1), -EINVAL);
	skep_chain_destroy(wide);
	wide = chain_new(opaque);
	REQUIRE_EQ(skep_chain_append64(wide, words, 1), -EINVAL);
	skep_chain_destroy(wide);
	skep_chain_destroy(plain);
}

static void limits_hold(void)
{
	struct skep_chain *chain = chain_new(space);
	size_t most = ((size_t)1 << 20) * UNIT_BLOCK_TOKENS;
	uint32_t *many = calloc(most + 1, sizeof(*many));

	REQUIRE(many != NULL);
	REQUIRE_EQ(skep_chain_append(chain, many, most + 1), -E2BIG);
	REQUIRE_EQ(skep_chain_append(chain, many, most), 1 << 20);
	REQUIRE_EQ(skep_chain_append(chain, many, UNIT_BLOCK_TOKENS - 1), 1 << 20);
	REQUIRE_EQ(skep_chain_append(chain, many, 1), -E2BIG);
	REQUIRE_EQ(skep_chain_blocks(chain), 1 << 20);
	REQUIRE_EQ(skep_chain_append(chain, NULL, 1), -EINVAL);
	REQUIRE_EQ(skep_chain_append(NULL, many, 1), -EINVAL);
	REQUIRE_EQ(skep_chain_append_key(chain, many, 16, NULL, 0), -EINVAL);
	free(many);
	skep_chain_destroy(chain);
	skep_chain_destroy(NULL);
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);

	for (uint32_t i = 0; i < TOKENS; i++)
		tokens[i] = (uint32_t)mix64(seed + i);
	fake_start(&fake);
	session = unit_open(fake.path, 0);
	space = unit_space(session, 0);
	opaque = unit_space(session, SKEP_SPACE_OPAQUE);
	for (unsigned i = 0; i < 50; i++)
		incremental_is_one_shot(seed + i);
	ids_are_the_formats();
	truncated_goes_on_as_fresh();
	extra_keys_make_other_names();
	opaque_keys_are_a_chain();
	keys_of_a_run_are_one_by_one();
	wide_tokens_are_the_same_tokens();
	limits_hold();
	skep_close(session);
	fake_end(&fake);
	return 0;
}
