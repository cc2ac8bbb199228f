/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skep_keyed_…() against a real node inside this process: a key names the same block as a chain of
 * it alone, one that fails does so alone, and what is removed is had by nobody but its readers.
 */
#include "base/hash.h"
#include "base/status.h"
#include "engine/client/client_priv.h"
#include "tests/engine/client_unit.h"

enum {
	PART_BYTES = UNIT_LAYERED_BYTES,
	KEYS = 200, /* more than one reservation takes */
	KEY_BYTES = 32,
};

#define WHERE "embedded:dram=64MiB,realm=unit"
/* Room for some 30 of these blocks. */
#define SMALL "embedded:dram=2MiB,realm=small"

static struct skep *session;
static struct skep_space *space;
static uint8_t memory[KEYS * PART_BYTES], copy[KEYS * PART_BYTES], keys[KEYS * KEY_BYTES];
static struct iovec from[KEYS], to[KEYS];
static int32_t statuses[KEYS];

/* Keys [first, first + count) and the memory that goes with them. */
static struct skep_keyed some(const struct iovec *bytes, uint32_t first, uint32_t count)
{
	memset(statuses, 0x55, sizeof(statuses));
	return (struct skep_keyed){.struct_bytes = sizeof(struct skep_keyed),
		.space = space,
		.keys = keys + (size_t)first * KEY_BYTES,
		.key_bytes = KEY_BYTES,
		.count = count,
		.bytes = bytes ? bytes + first : NULL,
		.statuses = statuses,
		.deadline_ns = skep_deadline_ms(5000)};
}

static void memory_of_keys(void)
{
	for (unsigned i = 0; i < KEYS; i++) {
		from[i] = (struct iovec){memory + (size_t)i * PART_BYTES, PART_BYTES};
		to[i] = (struct iovec){copy + (size_t)i * PART_BYTES, PART_BYTES};
	}
}

static void all_are(int status, uint32_t count)
{
	for (unsigned i = 0; i < count; i++)
		REQUIRE_EQ(statuses[i], status);
}

static void what_is_put_is_found_and_had(void)
{
	struct skep_keyed job = some(from, 0, KEYS);

	REQUIRE_EQ(skep_keyed_find(&job), 0);
	all_are(-ENOENT, KEYS);
	REQUIRE_EQ(skep_keyed_get(&job), 0);
	all_are(-ENOENT, KEYS);
	REQUIRE_EQ(skep_keyed_put(&job), KEYS);
	all_are(0, KEYS);
	REQUIRE_EQ(skep_keyed_put(&job), 0);
	all_are(-EEXIST, KEYS);
	job = some(to, 0, KEYS);
	REQUIRE_EQ(skep_keyed_find(&job), KEYS);
	all_are(SKEP_KEYED_HERE, KEYS);
	REQUIRE_EQ(skep_keyed_get(&job), KEYS);
	all_are(0, KEYS);
	REQUIRE_EQ(memcmp(copy, memory, sizeof(memory)), 0);
	REQUIRE_EQ(session->current->holds, 0);
}

/* A key alone is a chain of one, also for who uses chains. */
static void chains_of_one_are_the_same_blocks(void)
{
	struct skep_chain *chain;
	struct skep_match match = {.struct_bytes = sizeof(match), .flags = SKEP_MATCH_PEEK};

	REQUIRE_EQ(skep_chain_create(space, &chain), 0);
	REQUIRE_EQ(skep_chain_append_key(chain, keys + 7 * KEY_BYTES, KEY_BYTES, NULL, 0), 1);
	REQUIRE_EQ(skep_chain_append_key(chain, keys + 8 * KEY_BYTES, KEY_BYTES, NULL, 0), 2);
	match.chain = chain;
	REQUIRE_EQ(skep_match(session, &match, 1), 0);
	REQUIRE_EQ(match.matched, 1); /* the next key in a chain is another name */
	skep_chain_destroy(chain);
}

/* Another length than its place, no part at all, not there: the others are had. */
static void one_that_fails_does_so_alone(void)
{
	struct skep_keyed job = some(to, 0, 10);

	memset(copy, 0, sizeof(copy));
	to[1].iov_len--;
	to[2].iov_len++;
	to[3].iov_len = 0;
	keys[4 * KEY_BYTES]++;
	REQUIRE_EQ(skep_keyed_get(&job), 6);
	REQUIRE_EQ(statuses[1], -EMSGSIZE);
	REQUIRE_EQ(statuses[2], -EMSGSIZE);
	REQUIRE_EQ(statuses[3], -EMSGSIZE);
	REQUIRE_EQ(statuses[4], -ENOENT);
	for (unsigned i = 0; i < 10; i++) {
		bool had = i < 1 || i > 4;

		REQUIRE_EQ(memcmp(copy + i * PART_BYTES, memory + i * PART_BYTES, PART_BYTES) == 0,
			had);
		REQUIRE_EQ(copy[i * PART_BYTES + 9] == 0, !had);
	}
	keys[4 * KEY_BYTES]--;
	memory_of_keys();

	job = some(NULL, 0, 10);
	REQUIRE_EQ(skep_keyed_remove(&job), 10);
	job = some(from, 0, 10);
	from[1].iov_len++;
	from[2].iov_len = 0;
	from[3].iov_base = NULL;
	from[4].iov_len = PART_BYTES / 2; /* of any length up to the layout's */
	REQUIRE_EQ(skep_keyed_put(&job), 7);
	for (unsigned i = 0; i < 10; i++)
		REQUIRE_EQ(statuses[i], i >= 1 && i <= 3 ? -EMSGSIZE : 0);
	memory_of_keys();
	job = some(to, 4, 1);
	REQUIRE_EQ(skep_keyed_get(&job), 0);
	REQUIRE_EQ(statuses[0], -EMSGSIZE);
	to[4].iov_len = PART_BYTES / 2;
	REQUIRE_EQ(skep_keyed_get(&job), 1);
	memory_of_keys();
}

static void what_is_removed_stays_with_its_readers_alone(void)
{
	struct skep_chain *chain;
	struct skep_ref ref;
	struct skep_view view;
	struct skep_match match = {.struct_bytes = sizeof(match),
		.flags = SKEP_MATCH_PIN,
		.refs = &ref,
		.refs_max = 1};
	struct skep_keyed job = some(NULL, 20, 30);

	REQUIRE_EQ(skep_chain_create(space, &chain), 0);
	REQUIRE_EQ(skep_chain_append_key(chain, keys + 20 * KEY_BYTES, KEY_BYTES, NULL, 0), 1);
	match.chain = chain;
	REQUIRE_EQ(skep_match(session, &match, 1), 0);
	REQUIRE_EQ(match.matched, 1);
	keys[25 * KEY_BYTES]++;
	REQUIRE_EQ(skep_keyed_remove(&job), 29);
	for (unsigned i = 0; i < 30; i++)
		REQUIRE_EQ(statuses[i], i == 5 ? -ENOENT : 0);
	keys[25 * KEY_BYTES]--;
	REQUIRE_EQ(skep_view(session, &ref, 0, &view), -ESTALE);
	skep_release(session, &match.pin);
	job = some(NULL, 19, 32);
	REQUIRE_EQ(skep_keyed_find(&job), 3);
	for (unsigned i = 0; i < 32; i++)
		REQUIRE_EQ(statuses[i], i == 0 || i == 6 || i == 31 ? SKEP_KEYED_HERE : -ENOENT);
	job = some(from, 20, 30);
	REQUIRE_EQ(skep_keyed_put(&job), 29);
	job = some(to, 0, KEYS);
	REQUIRE(skep_keyed_get(&job) > KEYS - 10);
	skep_chain_destroy(chain);
}

/* What does not fit drives out the end of what was put, or had, before. */
static void a_full_pool_keeps_the_begin_of_a_sequence(bool had)
{
	struct skep *small = unit_open(SMALL, 0);
	struct skep_space *wide = space;
	struct skep_keyed job;
	int kept;

	space = unit_layered_space(small, "space", SKEP_SPACE_OPAQUE);
	job = some(from, 0, 20);
	REQUIRE_EQ(skep_keyed_put(&job), 20);
	job = some(to, 0, 20);
	if (had)
		REQUIRE_EQ(skep_keyed_get(&job), 20);
	job = some(from, 100, 16);
	REQUIRE_EQ(skep_keyed_put(&job), 16);
	job = some(NULL, 0, 20);
	kept = skep_keyed_find(&job);
	REQUIRE(kept > 0 && kept < 20);
	for (int i = 0; i < 20; i++)
		REQUIRE_EQ(statuses[i], i < kept ? SKEP_KEYED_HERE : -ENOENT);
	skep_close(small);
	space = wide;
}

static void malformed_is_refused(void)
{
	struct skep_keyed good = some(from, 0, 4), bad = good;
	struct skep *other;

	bad.space = NULL;
	REQUIRE_EQ(skep_keyed_put(&bad), -EINVAL);
	bad.space = unit_layered_space(session, "tokens", 0);
	REQUIRE_EQ(skep_keyed_find(&bad), -EINVAL);
	bad = good;
	bad.keys = NULL;
	REQUIRE_EQ(skep_keyed_find(&bad), -EINVAL);
	bad = good;
	bad.statuses = NULL;
	REQUIRE_EQ(skep_keyed_remove(&bad), -EINVAL);
	bad = good;
	bad.bytes = NULL;
	REQUIRE_EQ(skep_keyed_get(&bad), -EINVAL);
	REQUIRE_EQ(skep_keyed_put(&bad), -EINVAL);
	bad = good;
	bad.key_bytes = 15;
	REQUIRE_EQ(skep_keyed_find(&bad), -EINVAL);
	bad.key_bytes = 65;
	REQUIRE_EQ(skep_keyed_find(&bad), -EINVAL);
	bad = good;
	bad.part = 1;
	REQUIRE_EQ(skep_keyed_find(&bad), -ERANGE);
	bad = good;
	bad.struct_bytes = 8;
	REQUIRE_EQ(skep_keyed_find(&bad), -EINVAL);
	REQUIRE_EQ(skep_keyed_find(NULL), -EINVAL);
	all_are(0x55555555, 4);
	bad = good;
	bad.count = 0;
	REQUIRE_EQ(skep_keyed_find(&bad), 0);
	REQUIRE_EQ(skep_keyed_get(&bad), 0);
	REQUIRE_EQ(skep_keyed_put(&bad), 0);
	REQUIRE_EQ(skep_keyed_remove(&bad), 0);
	other = unit_open(WHERE, SKEP_OPEN_READONLY);
	good.space = unit_layered_space(other, "keys", SKEP_SPACE_OPAQUE);
	REQUIRE_EQ(skep_keyed_put(&good), -EROFS);
	REQUIRE_EQ(skep_keyed_remove(&good), -EROFS);
	REQUIRE(skep_keyed_find(&good) > 0);
	skep_close(other);
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);

	for (size_t i = 0; i < sizeof(memory); i += 8) {
		uint64_t word = mix64(seed + i);

		memcpy(memory + i, &word, sizeof(word));
	}
	for (size_t i = 0; i < sizeof(keys); i += 8) {
		uint64_t word = mix64(~seed + i);

		memcpy(keys + i, &word, sizeof(word));
	}
	memory_of_keys();
	session = unit_open(WHERE, 0);
	space = unit_layered_space(session, "keys", SKEP_SPACE_OPAQUE);
	what_is_put_is_found_and_had();
	chains_of_one_are_the_same_blocks();
	one_that_fails_does_so_alone();
	what_is_removed_stays_with_its_readers_alone();
	a_full_pool_keeps_the_begin_of_a_sequence(false);
	a_full_pool_keeps_the_begin_of_a_sequence(true);
	malformed_is_refused();
	skep_close(session);
	return 0;
}
