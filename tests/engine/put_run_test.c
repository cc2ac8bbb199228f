/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skep_put() against a real node inside this process: what lay in memory is what is had, whatever
 * its pieces; a put goes on where frames come in several; what fails does so alone, and nothing
 * stays reserved.
 */
#include "base/status.h"
#include "engine/client/client_priv.h"
#include "tests/engine/client_unit.h"

enum {
	RANGES = UNIT_LAYERS,
	PART_BYTES = UNIT_LAYERED_BYTES,
	BLOCKS = 100, /* more than one reservation takes */
	PIECES_MAX = 7,
};

#define WHERE "embedded:dram=64MiB,realm=unit"
/* Room for some 30 of these blocks. */
#define SMALL "embedded:dram=2MiB,realm=small"

static struct skep *session;
static struct skep_space *space;
static uint8_t memory[BLOCKS * PART_BYTES], copy[BLOCKS * PART_BYTES];

static struct skep_put put_of(struct skep_chain *chain, const struct iovec *from, int32_t *statuses)
{
	return (struct skep_put){.struct_bytes = sizeof(struct skep_put),
		.chain = chain,
		.count = skep_chain_blocks(chain),
		.from = from,
		.statuses = statuses,
		.deadline_ns = skep_deadline_ms(5000)};
}

static void whole_blocks(struct iovec *from)
{
	for (unsigned i = 0; i < BLOCKS; i++)
		from[i] = (struct iovec){memory + (size_t)i * PART_BYTES, PART_BYTES};
}

/* Leading blocks of the chain, each verified and copied to where it lies in memory[]. */
static uint32_t read_back(struct skep *of, struct skep_space *in, struct skep_chain *chain)
{
	struct skep_copy copies[BLOCKS];
	struct iovec to[BLOCKS];
	struct skep_ref refs[BLOCKS];
	int64_t results[BLOCKS];
	struct skep_match match = {.struct_bytes = sizeof(match),
		.chain = chain,
		.flags = SKEP_MATCH_PIN,
		.refs = refs,
		.refs_max = BLOCKS};

	REQUIRE_EQ(skep_match(of, &match, 1), 0);
	memset(copy, 0, sizeof(copy));
	for (unsigned i = 0; i < match.matched; i++) {
		to[i] = (struct iovec){copy + (size_t)i * PART_BYTES, PART_BYTES};
		copies[i] = (struct skep_copy){.struct_bytes = sizeof(copies[i]),
			.space = in,
			.ref = refs[i],
			.to = &to[i],
			.to_count = 1};
	}
	REQUIRE_EQ(skep_copies(of, copies, results, match.matched), (int)match.matched);
	skep_release(of, &match.pin);
	return match.matched;
}

static void memory_is_had(void)
{
	struct skep_chain *chain = unit_chain(space, BLOCKS, 1);
	struct iovec from[BLOCKS];
	int32_t statuses[BLOCKS];
	struct skep_put put = put_of(chain, from, statuses);

	whole_blocks(from);
	memset(statuses, 1, sizeof(statuses));
	REQUIRE_EQ(skep_put(session, &put), BLOCKS);
	for (unsigned i = 0; i < BLOCKS; i++)
		REQUIRE_EQ(statuses[i], 0);
	REQUIRE_EQ(read_back(session, space, chain), BLOCKS);
	REQUIRE_EQ(memcmp(copy, memory, sizeof(memory)), 0);
	/* What is there is passed over. */
	REQUIRE_EQ(skep_put(session, &put), 0);
	for (unsigned i = 0; i < BLOCKS; i++)
		REQUIRE_EQ(statuses[i], -EEXIST);
	REQUIRE_EQ(session->current->holds, 0);
	skep_chain_destroy(chain);
}

/* A block's bytes lie in pieces of any length, across the bounds of ranges. */
static void pieces_of_any_length_make_up_blocks(uint64_t seed)
{
	enum { COUNT = 20 };
	struct skep_chain *chain = unit_chain(space, COUNT, 2);
	struct iovec from[COUNT * PIECES_MAX];
	int32_t statuses[COUNT];
	struct skep_put put = put_of(chain, from, statuses);
	uint64_t state = seed;

	put.pieces = PIECES_MAX;
	for (unsigned i = 0; i < COUNT; i++) {
		size_t at = 0;

		for (unsigned k = 0; k < PIECES_MAX; k++) {
			size_t rest = PART_BYTES - at, step = unit_random(&state, PART_BYTES / 3);

			step = k == PIECES_MAX - 1 ? rest : MIN_OF(step, rest);
			from[i * PIECES_MAX + k] =
				(struct iovec){memory + i * PART_BYTES + at, step};
			at += step;
		}
	}
	REQUIRE_EQ(skep_put(session, &put), COUNT);
	REQUIRE_EQ(read_back(session, space, chain), COUNT);
	REQUIRE_EQ(memcmp(copy, memory, COUNT * PART_BYTES), 0);
	skep_chain_destroy(chain);
}

static void one_that_fits_no_part_fails_alone(void)
{
	struct skep_chain *chain = unit_chain(space, 10, 3);
	struct iovec from[BLOCKS];
	int32_t statuses[10];
	struct skep_put put = put_of(chain, from, statuses);

	whole_blocks(from);
	put.count = 5;
	REQUIRE_EQ(skep_put(session, &put), 5);
	/* Too short, too long, nowhere: those that stand are passed over all the same. */
	put.count = 10;
	from[1].iov_len--;
	from[2].iov_len++;
	from[3].iov_base = NULL;
	REQUIRE_EQ(skep_put(session, &put), 5);
	for (unsigned i = 0; i < 10; i++)
		REQUIRE_EQ(statuses[i], i >= 5 ? 0 : i >= 1 && i <= 3 ? -EMSGSIZE : -EEXIST);
	skep_chain_destroy(chain);
	/* What is put behind it has no parent. */
	chain = unit_chain(space, 10, 4);
	put = put_of(chain, from, statuses);
	REQUIRE_EQ(skep_put(session, &put), 1);
	REQUIRE_EQ(statuses[0], 0);
	REQUIRE_EQ(statuses[3], -EMSGSIZE);
	for (unsigned i = 4; i < 10; i++)
		REQUIRE_EQ(statuses[i], SKEP_EPARENT);
	REQUIRE_EQ(put.first_missing, 1);
	put.first = 9;
	put.count = 1;
	REQUIRE_EQ(skep_put(session, &put), SKEP_EPARENT);
	REQUIRE_EQ(put.first_missing, 1);
	REQUIRE_EQ(session->current->holds, 0);
	skep_chain_destroy(chain);
}

static void keys_have_parts_of_any_length(void)
{
	struct skep_space *opaque = unit_layered_space(session, "opaque", SKEP_SPACE_OPAQUE);
	uint8_t keys[12 * 32];
	struct skep_keys run = {
		.struct_bytes = sizeof(run), .keys = keys, .key_bytes = 32, .count = 12};
	struct skep_chain *chain;
	struct iovec from[BLOCKS];
	int32_t statuses[12];
	struct skep_put put;

	for (unsigned i = 0; i < sizeof(keys); i++)
		keys[i] = (uint8_t)(i / 3);
	REQUIRE_EQ(skep_chain_create(opaque, &chain), 0);
	REQUIRE_EQ(skep_chain_append_keys(chain, &run), 12);
	put = put_of(chain, from, statuses);
	whole_blocks(from);
	for (unsigned i = 8; i < 12; i++)
		from[i].iov_len = (i / 2) * RANGES * 100;
	REQUIRE_EQ(skep_put(session, &put), 12);
	REQUIRE_EQ(read_back(session, opaque, chain), 12);
	for (unsigned i = 0; i < 12; i++)
		REQUIRE_EQ(
			memcmp(copy + i * PART_BYTES, memory + i * PART_BYTES, from[i].iov_len), 0);
	skep_chain_destroy(chain);
	skep_space_close(opaque);
}

/* A small pool, half of it pinned: what fits is in, the rest is told, and is in once it can be. */
static void put_ends_with_the_deadline(void)
{
	enum { HALF = 12, FULL = 26 };
	struct skep *small = unit_open(SMALL, 0);
	struct skep_space *in = unit_layered_space(small, "space", 0);
	struct skep_chain *other = unit_chain(in, HALF, 5), *chain = unit_chain(in, FULL, 6);
	struct iovec from[BLOCKS];
	int32_t statuses[BLOCKS];
	struct skep_put put = put_of(other, from, statuses);
	struct skep_match match = {
		.struct_bytes = sizeof(match), .chain = other, .flags = SKEP_MATCH_PIN};
	int stored;

	whole_blocks(from);
	REQUIRE_EQ(skep_put(small, &put), HALF);
	REQUIRE_EQ(skep_match(small, &match, 1), 0);
	put = put_of(chain, from, statuses);
	put.deadline_ns = skep_deadline_ms(50);
	stored = skep_put(small, &put);
	REQUIRE(stored > 0 && stored < FULL);
	for (int i = 0; i < FULL; i++)
		REQUIRE_EQ(statuses[i], i < stored ? 0 : -EAGAIN);
	REQUIRE_EQ(small->current->holds, 1);
	REQUIRE_EQ(read_back(small, in, chain), stored);
	REQUIRE_EQ(memcmp(copy, memory, (size_t)stored * PART_BYTES), 0);
	put.deadline_ns = 0;
	REQUIRE_EQ(skep_put(small, &put), 0);
	put.first = (uint32_t)stored;
	put.count = FULL - put.first;
	REQUIRE_EQ(skep_put(small, &put), -EAGAIN);
	skep_release(small, &match.pin);
	put.from = from + stored;
	put.deadline_ns = skep_deadline_ms(5000);
	REQUIRE_EQ(skep_put(small, &put), FULL - stored);
	REQUIRE_EQ(read_back(small, in, chain), FULL);
	skep_close(small);
}

static void malformed_is_refused(void)
{
	struct skep_chain *chain = unit_chain(space, 4, 6), *its;
	struct skep *other = unit_open(WHERE, 0);
	struct iovec from[BLOCKS];
	int32_t statuses[4] = {7, 7, 7, 7};
	struct skep_put good = put_of(chain, from, statuses), bad = good;

	whole_blocks(from);
	its = unit_chain(unit_layered_space(other, "space", 0), 4, 6);
	bad.chain = its;
	REQUIRE_EQ(skep_put(session, &bad), -EINVAL);
	bad.chain = NULL;
	REQUIRE_EQ(skep_put(session, &bad), -EINVAL);
	bad = good;
	bad.from = NULL;
	REQUIRE_EQ(skep_put(session, &bad), -EINVAL);
	bad = good;
	bad.statuses = NULL;
	REQUIRE_EQ(skep_put(session, &bad), -EINVAL);
	bad = good;
	bad.count = 0;
	REQUIRE_EQ(skep_put(session, &bad), -EINVAL);
	bad = good;
	bad.count = 5;
	REQUIRE_EQ(skep_put(session, &bad), -ERANGE);
	bad = good;
	bad.part = 1;
	REQUIRE_EQ(skep_put(session, &bad), -ERANGE);
	bad = good;
	bad.struct_bytes = 8;
	REQUIRE_EQ(skep_put(session, &bad), -EINVAL);
	REQUIRE_EQ(skep_put(session, NULL), -EINVAL);
	REQUIRE_EQ(skep_put(NULL, &good), -EINVAL);
	for (unsigned i = 0; i < 4; i++)
		REQUIRE_EQ(statuses[i], 7);
	REQUIRE_EQ(skep_put(session, &good), 4);
	skep_close(other);
	other = unit_open(WHERE, SKEP_OPEN_READONLY);
	good.chain = unit_chain(unit_layered_space(other, "space", 0), 4, 6);
	REQUIRE_EQ(skep_put(other, &good), -EROFS);
	skep_close(other);
	skep_chain_destroy(chain);
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);

	for (size_t i = 0; i < sizeof(memory); i += 8) {
		uint64_t word = mix64(seed + i);

		memcpy(memory + i, &word, sizeof(word));
	}
	session = unit_open(WHERE, 0);
	space = unit_layered_space(session, "space", 0);
	memory_is_had();
	pieces_of_any_length_make_up_blocks(seed);
	one_that_fits_no_part_fails_alone();
	keys_have_parts_of_any_length();
	put_ends_with_the_deadline();
	malformed_is_refused();
	skep_close(session);
	return 0;
}
