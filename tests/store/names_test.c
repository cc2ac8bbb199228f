/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What names a block: tokens, extra keys, opaque keys, the space and its version; and what the
 * keeper says of a block that is not there.
 */
#include <errno.h>

#include "tests/store/play.h"

enum { EXTRA_BLOCKS = 4 };

static struct play play;

static const struct sim_options usual = {
	.dram_bytes = 8 << 20, .index_blocks = 256, .age_limit_ns = NS_PER_S};
static const struct sim_space tokens = {
	.name = "tokens", .block_tokens = 4, .part_count = 1, .bytes = {8192}, .ranges = {1}};
static const struct sim_space opaque = {.name = "opaque",
	.block_tokens = 8,
	.part_count = 1,
	.bytes = {65536},
	.ranges = {2},
	.opaque = true};

/* A chain whose blocks have keys of their own. */
struct keyed {
	struct probe_chain probe;
	struct block_id ids[EXTRA_BLOCKS];
	uint32_t tokens[EXTRA_BLOCKS * 8];
	struct probe_extra extras[EXTRA_BLOCKS];
	uint8_t blob[EXTRA_BLOCKS * (INDEX_KEY_BYTES_MAX + INDEX_EXTRA_BYTES_MAX + 1)];
	uint32_t blob_used, token_used;
};

static void keyed_begin(struct keyed *keyed)
{
	memset(keyed, 0, sizeof(*keyed));
	keyed->probe = (struct probe_chain){.ids = keyed->ids,
		.tokens = keyed->tokens,
		.blob = keyed->blob,
		.extras = keyed->extras,
		.block_tokens = play.space.kind->block_tokens,
		.space = play.space.answer.space};
}

/* What one more block is made of: @key_bytes of @key, @extra_bytes of @extra, tokens from @token.
 */
struct keyed_block {
	uint8_t key, extra;
	uint32_t key_bytes, extra_bytes, token, token_count;
};

static void keyed_add(struct keyed *keyed, struct keyed_block block)
{
	uint32_t i = keyed->probe.block_count++;
	struct block_id parent = i ? keyed->ids[i - 1] : (struct block_id){0, 0};
	struct id_input in;

	keyed->extras[i] = (struct probe_extra){.blob_at = keyed->blob_used,
		.key_bytes = (uint16_t)block.key_bytes,
		.extra_bytes = (uint16_t)block.extra_bytes,
		.token_at = keyed->token_used,
		.token_count = block.token_count};
	memset(keyed->blob + keyed->blob_used, block.key, block.key_bytes);
	memset(keyed->blob + keyed->blob_used + block.key_bytes, block.extra, block.extra_bytes);
	keyed->blob_used += block.key_bytes + block.extra_bytes;
	for (uint32_t t = 0; t < block.token_count; t++)
		keyed->tokens[keyed->token_used++] = block.token + t;
	in = probe_input(&keyed->probe, i);
	keyed->ids[i] = id_make(play.space.answer.secret, parent, &in, play.sim.keeper->id_bits);
}

/* Reserves and commits all of it. Return: blocks answered, or negative; PLAY_BLOCKED: cut. */
static int32_t keyed_put(struct keyed *keyed, uint32_t length)
{
	struct sim_put put = {.chain = &keyed->probe,
		.count = keyed->probe.block_count,
		.length = length,
		.space_generation = play.space.answer.generation};
	const struct reserve_block *blocks = sim_scratch(&play.clients[0], 0);
	struct sim_written written[EXTRA_BLOCKS];
	struct completion done;
	uint32_t count = 0;

	REQUIRE(sim_reserve(&play.clients[0], &put));
	sim_run(&play.sim);
	if (!sim_take(&play.clients[0], 0, &done))
		return PLAY_BLOCKED;
	for (int32_t i = 0; i < done.status; i++) {
		if (blocks[i].status)
			continue;
		REQUIRE_EQ(blocks[i].bytes, length ? length : play.space.kind->bytes[0]);
		written[count++] = (struct sim_written){.id = keyed->ids[i],
			.slot = blocks[i].slot,
			.ranges = play.space.kind->ranges[0],
			.write = blocks[i].write,
			.frame = blocks[i].frame,
			.bytes = blocks[i].bytes};
	}
	play_fill(play.realm, written, count);
	REQUIRE_EQ(play_commit(&play.sim, &play.clients[0], written, count), count);
	return done.status;
}

/* Blocks of the chain that are present. */
static uint32_t keyed_present(const struct keyed *keyed)
{
	struct probe_name names[EXTRA_BLOCKS];

	return probe_run(&play.realm->index.view, &keyed->probe,
		(struct probe_want){0, EXTRA_BLOCKS}, names, NULL);
}

/* ----------------------------------------------------------------------------- extra keys */

/* The same tokens with another adapter, or an adapter of another length, are other blocks. */
static void extra_keys_part_names(void)
{
	static const struct keyed_block kinds[] = {
		{.token = 1, .token_count = 4},
		{.token = 1, .token_count = 4, .extra = 0, .extra_bytes = 1},
		{.token = 1, .token_count = 4, .extra = 0, .extra_bytes = 2},
		{.token = 1, .token_count = 4, .extra = 9, .extra_bytes = 2},
		{.token = 1, .token_count = 4, .extra = 9, .extra_bytes = 1},
		{.token = 1, .token_count = 4, .extra = 9, .extra_bytes = INDEX_EXTRA_BYTES_MAX},
		{.token = 2, .token_count = 4},
	};
	static struct keyed chains[ARRAY_COUNT(kinds)];

	play_open(&play, &usual, &tokens, 1);
	for (unsigned i = 0; i < ARRAY_COUNT(kinds); i++) {
		keyed_begin(&chains[i]);
		keyed_add(&chains[i], kinds[i]);
		keyed_add(&chains[i], (struct keyed_block){.token = 50, .token_count = 4});
		for (unsigned k = 0; k < i; k++)
			REQUIRE(chains[k].ids[0].low != chains[i].ids[0].low &&
				chains[k].ids[1].low != chains[i].ids[1].low);
		REQUIRE_EQ(keyed_present(&chains[i]), 0);
		REQUIRE_EQ(keyed_put(&chains[i], 0), 2);
		for (unsigned k = 0; k < ARRAY_COUNT(kinds); k++)
			REQUIRE_EQ(k <= i ? keyed_present(&chains[k]) : 2, 2);
	}
	play_close(&play);
}

static void extra_keys_are_bounded(void)
{
	static struct keyed keyed;

	play_open(&play, &usual, &tokens, 1);
	keyed_begin(&keyed);
	keyed_add(&keyed,
		(struct keyed_block){
			.token = 1, .token_count = 4, .extra_bytes = INDEX_EXTRA_BYTES_MAX + 1});
	REQUIRE_EQ(keyed_put(&keyed, 0), PLAY_BLOCKED);
	REQUIRE_EQ(play.sim.cuts, 1);
	play_close(&play);
	/* A space of tokens takes no opaque keys, and whole blocks alone. */
	play_open(&play, &usual, &tokens, 1);
	keyed_begin(&keyed);
	keyed_add(&keyed, (struct keyed_block){.token = 1, .token_count = 4, .key_bytes = 16});
	REQUIRE_EQ(keyed_put(&keyed, 0), PLAY_BLOCKED);
	play_close(&play);
	play_open(&play, &usual, &tokens, 1);
	keyed_begin(&keyed);
	keyed_add(&keyed, (struct keyed_block){.token = 1, .token_count = 3});
	REQUIRE_EQ(keyed_put(&keyed, 0), PLAY_BLOCKED);
	play_close(&play);
}

/* ---------------------------------------------------------------------------- opaque keys */

/* Keys of 16 to 64 bytes, compared whole; tokens beside them are stored and compared, not hashed.
 */
static void opaque_keys_name_blocks(void)
{
	static struct keyed chains[INDEX_KEY_BYTES_MAX + 1], twin;

	play_open(&play, &usual, &opaque, 1);
	for (uint32_t bytes = 16; bytes <= INDEX_KEY_BYTES_MAX; bytes++) {
		keyed_begin(&chains[bytes]);
		keyed_add(&chains[bytes], (struct keyed_block){.key = 5, .key_bytes = bytes});
		keyed_add(&chains[bytes],
			(struct keyed_block){
				.key = 6, .key_bytes = 16, .token = 3, .token_count = bytes % 9});
		REQUIRE_EQ(keyed_put(&chains[bytes], 4096), 2);
	}
	for (uint32_t bytes = 16; bytes <= INDEX_KEY_BYTES_MAX; bytes++)
		REQUIRE_EQ(keyed_present(&chains[bytes]), 2);

	/* Same key, other tokens beside it: same id, and not proven. */
	keyed_begin(&twin);
	keyed_add(&twin, (struct keyed_block){.key = 5, .key_bytes = 20});
	keyed_add(&twin,
		(struct keyed_block){.key = 6, .key_bytes = 16, .token = 4, .token_count = 2});
	REQUIRE(twin.ids[1].low == chains[20].ids[1].low);
	REQUIRE_EQ(keyed_present(&twin), 1);
	/* The same key as a chain of one and inside a chain are two names. */
	keyed_begin(&twin);
	keyed_add(&twin, (struct keyed_block){.key = 6, .key_bytes = 16});
	REQUIRE_EQ(keyed_present(&twin), 0);
	play_close(&play);
}

static void opaque_keys_are_bounded(void)
{
	static const struct keyed_block wrong[] = {
		{.key_bytes = 15},
		{.key_bytes = INDEX_KEY_BYTES_MAX + 1},
		{.token = 1, .token_count = 8},
		{.key_bytes = 16, .token = 1, .token_count = 9},
	};
	static struct keyed keyed;

	for (unsigned i = 0; i < ARRAY_COUNT(wrong); i++) {
		play_open(&play, &usual, &opaque, 1);
		keyed_begin(&keyed);
		keyed_add(&keyed, wrong[i]);
		REQUIRE_EQ(keyed_put(&keyed, 0), PLAY_BLOCKED);
		REQUIRE_EQ(play.sim.cuts, 1);
		play_close(&play);
	}
}

/* Payloads of any length up to the layout's; the length stands in the index. */
static void opaque_payloads_have_their_own_length(void)
{
	static const uint32_t lengths[] = {2, 4096, 4098, 20000, 65534, 65536};
	static const uint32_t refused[] = {65538, 4097};
	static struct keyed keyed;
	struct probe_name name;

	play_open(&play, &usual, &opaque, 1);
	for (uint32_t i = 0; i < ARRAY_COUNT(lengths); i++) {
		keyed_begin(&keyed);
		keyed_add(&keyed, (struct keyed_block){.key = (uint8_t)(i + 1), .key_bytes = 32});
		REQUIRE_EQ(keyed_put(&keyed, lengths[i]), 1);
		REQUIRE_EQ(probe_names(&play.realm->index.view, &keyed.probe, 1, &name), 1);
		REQUIRE_EQ(atomic_load(&probe_part(&play.realm->index.view, name.slot, 0)->bytes),
			lengths[i]);
	}
	for (uint32_t i = 0; i < ARRAY_COUNT(refused); i++) {
		keyed_begin(&keyed);
		keyed_add(&keyed, (struct keyed_block){.key = (uint8_t)(i + 90), .key_bytes = 32});
		REQUIRE_EQ(keyed_put(&keyed, refused[i]), -EINVAL);
	}
	play_close(&play);
	/* A space of tokens has one length. */
	play_open(&play, &usual, &tokens, 1);
	keyed_begin(&keyed);
	keyed_add(&keyed, (struct keyed_block){.token = 1, .token_count = 4});
	REQUIRE_EQ(keyed_put(&keyed, 4096), -EINVAL);
	REQUIRE_EQ(keyed_put(&keyed, 8192), 1);
	play_close(&play);
}

/*
 * A pool full of short payloads makes room for a long one at once, and the other way round: a put
 * is refused only if everything is pinned or pending.
 */
static void opaque_lengths_give_way_to_each_other(void)
{
	struct sim_options options = usual;
	static struct keyed keyed;

	options.dram_bytes = 4 << 20;
	options.index_blocks = 2048;
	play_open(&play, &options, &opaque, 1);
	for (uint32_t round = 0; round < 4; round++)
		for (uint32_t length = 4096; length <= 65536; length *= 2) {
			for (uint32_t i = 0; i < (6 << 20) / length; i++) {
				keyed_begin(&keyed);
				keyed_add(&keyed, (struct keyed_block){.key_bytes = 16});
				memcpy(keyed.blob, &i, sizeof(i));
				memcpy(keyed.blob + 4, &length, sizeof(length));
				memcpy(keyed.blob + 8, &round, sizeof(round));
				keyed.ids[0] = id_make(play.space.answer.secret,
					(struct block_id){0, 0},
					&(struct id_input){.key = keyed.blob, .key_bytes = 16},
					128);
				REQUIRE_EQ(keyed_put(&keyed, length), 1);
				REQUIRE_EQ(keyed_present(&keyed), 1);
				play.sim.keeper->now_ns += NS_PER_MS;
			}
			/* The pool is two slabs: one may just have changed hands. */
			REQUIRE(play_used_bytes(&play) > 2 << 20);
		}
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_puts_refused), 0);
	play_close(&play);
}

/* ---------------------------------------------------------------------------- spaces */

static struct wire_space_open request;
static struct wire_space_answer answer;

static int space_ask(void)
{
	memset(&answer, 0, sizeof(answer));
	return space_open(play.clients[0].session, &request, &answer);
}

static void request_reset(void)
{
	memset(&request, 0, sizeof(request));
	snprintf(request.name, sizeof(request.name), "%s", "a space");
	snprintf(request.model, sizeof(request.model), "%s", "model");
	snprintf(request.weights, sizeof(request.weights), "%s", "weights");
	snprintf(request.rope, sizeof(request.rope), "%s", "rope");
	snprintf(request.layout, sizeof(request.layout), "%s", "layout");
	snprintf(request.engine, sizeof(request.engine), "%s", "engine");
	request.block_tokens = 16;
	request.ranks = 2;
	request.groups = 1;
	request.part_count = 2;
	request.parts[0] = (struct wire_part){.bytes = 8192, .ranges = 2};
	request.parts[1] = (struct wire_part){.bytes = 8192, .ranges = 2, .rank = 1};
}

/* Every field of the fingerprint that differs is named. */
static void a_space_that_differs_is_refused_by_field(void)
{
	uint64_t generation;

	play_open(&play, &usual, &tokens, 1);
	request_reset();
	REQUIRE_EQ(space_ask(), 0);
	generation = answer.generation;
	REQUIRE_EQ(space_ask(), 0);
	REQUIRE(answer.generation == generation && answer.version == 1);
#define DIFFERS(change, name)                                                                      \
	do {                                                                                       \
		request_reset();                                                                   \
		change;                                                                            \
		REQUIRE_EQ(space_ask(), SKEP_STATUS_EDIFFERS);                                     \
		REQUIRE_TEXT(answer.field, name);                                                  \
	} while (0)
	DIFFERS(snprintf(request.model, sizeof(request.model), "other"), "model");
	DIFFERS(request.weights[0] = 0, "weights");
	DIFFERS(snprintf(request.rope, sizeof(request.rope), "rope2"), "rope");
	DIFFERS(snprintf(request.layout, sizeof(request.layout), "x"), "layout");
	DIFFERS(snprintf(request.engine, sizeof(request.engine), "x"), "engine");
	DIFFERS(request.block_tokens = 32, "block_tokens");
	DIFFERS(request.ranks = 1, "ranks");
	DIFFERS(request.flags = 1, "kind");
	DIFFERS(request.part_count = 1, "part_count");
	DIFFERS(request.parts[1].bytes = 16384, "parts[1]");
	DIFFERS(request.parts[0].ranges = 1, "parts[0]");
	DIFFERS(request.parts[1].rank = 0, "parts[1]");
#undef DIFFERS
	play_close(&play);
}

static void nonsense_spaces_are_refused(void)
{
	play_open(&play, &usual, &tokens, 1);
#define REFUSED(change, status, name)                                                              \
	do {                                                                                       \
		request_reset();                                                                   \
		change;                                                                            \
		REQUIRE_EQ(space_ask(), status);                                                   \
		REQUIRE_TEXT(answer.field, name);                                                  \
	} while (0)
	REFUSED(request.name[0] = 0, -EINVAL, "name");
	REFUSED(memset(request.name, 'x', sizeof(request.name)), -EINVAL, "name");
	REFUSED(memset(request.engine, 'x', sizeof(request.engine)), -EINVAL, "engine");
	REFUSED(snprintf(request.model, sizeof(request.model), "a\nblock_tokens=1"), -EINVAL,
		"model");
	REFUSED(request.groups = 2, -ENOTSUP, "groups");
	REFUSED(request.flags = 2, -EINVAL, "flags");
	REFUSED(request.block_tokens = 0, -EINVAL, "block_tokens");
	REFUSED(request.block_tokens = INDEX_BLOCK_TOKENS_MAX + 1, -EINVAL, "block_tokens");
	REFUSED(request.part_count = 0, -EINVAL, "part_count");
	REFUSED(request.part_count = 65, -EINVAL, "part_count");
	REFUSED(request.ranks = 65537, -EINVAL, "ranks");
	REFUSED(request.parts[1].bytes = 0, -EINVAL, "parts[1].bytes");
	REFUSED(request.parts[1].bytes = 1ull << 40, -EINVAL, "parts[1].bytes");
	REFUSED(request.parts[0].ranges = 3, -EINVAL, "parts[0].ranges");
	REFUSED(request.parts[0].ranges = 4, -EINVAL, "parts[0].ranges");
	REFUSED(request.parts[0].ranges = 1025, -EINVAL, "parts[0].ranges");
	REFUSED(request.parts[1].group = 1, -EINVAL, "parts[1].group");
#undef REFUSED
	play_close(&play);
}

/* A step of the version: what was named before is never found again, by nobody. */
static void a_version_step_forgets(void)
{
	static struct play_chain chain;
	struct play_put put = {.chain = &chain, .count = 3};
	struct wire_space_answer before;
	static struct play_reserved reserved;

	play_open(&play, &usual, &tokens, 2);
	before = play.space.answer;
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 0});
	REQUIRE_EQ(
		play_put_blocks(&play.sim, &play.clients[0], &chain, (struct probe_want){0, 2}), 2);
	REQUIRE_EQ(play_present(&play.clients[0], &chain), 2);
	REQUIRE_EQ(space_step(play.realm, play.space.answer.space), 2);
	REQUIRE_EQ(play_present(&play.clients[0], &chain), 0);
	REQUIRE_EQ(play_used_bytes(&play), 0);
	/* A putter that has not heard of it is told. */
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[1], &put, &reserved), -ESTALE);
	play_space_open(&play.clients[1], &tokens, &play.space);
	REQUIRE_EQ(play.space.answer.version, 2);
	REQUIRE(play.space.answer.generation != before.generation);
	REQUIRE(memcmp(play.space.answer.secret, before.secret, sizeof(before.secret)));
	REQUIRE_EQ(
		play_put_blocks(&play.sim, &play.clients[1], &chain, (struct probe_want){0, 3}), 3);
	/* The old ids, new generation: found by nobody. */
	REQUIRE_EQ(play_present(&play.clients[0], &chain), 0);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 0});
	REQUIRE_EQ(play_present(&play.clients[0], &chain), 3);
	REQUIRE_EQ(play_counter(&play, REALM_COUNTER_blocks_removed), 2);
	play_close(&play);
}

/* -------------------------------------------------------------------------------- explain */

static struct explain_answer explain(const struct play_chain *chain, uint32_t block)
{
	struct reserve_block *ask = sim_scratch(&play.clients[0], 0);
	struct submission message = {.op = SUBMIT_EXPLAIN,
		.slot = SLOT_ROOT(chain->probe.space),
		.generation = chain->space->answer.generation,
		.scratch_bytes = 512,
		.u.reserve.space = (uint16_t)chain->probe.space};
	struct id_input in = probe_input(&chain->probe, block);
	static struct probe_name names[PLAY_BLOCKS_MAX];
	struct explain_answer out;
	struct completion done;

	if (block) {
		REQUIRE(probe_names(&play.realm->index.view, &chain->probe, block, names) == block);
		message.slot = names[block - 1].slot;
		message.generation = names[block - 1].name_generation;
	}
	memset(ask, 0, sizeof(*ask));
	ask->token_at = ask->blob_at = sizeof(*ask);
	ask->token_count = in.token_count;
	memcpy((uint8_t *)ask + sizeof(*ask), in.tokens, in.token_count * 4);
	REQUIRE(sim_push(&play.clients[0], &message));
	sim_run(&play.sim);
	done = play_take(&play, 0);
	REQUIRE_EQ(done.status, 0);
	memcpy(&out, ask, sizeof(out));
	return out;
}

/* Every reason that the keeper knows, each from the act that causes it. */
static void a_miss_has_its_reason(void)
{
	static struct play_chain chain, elsewhere;
	struct play_put put = {.chain = &chain, .first = 2, .count = 1};
	static struct play_reserved reserved;
	struct sim_space other = tokens;
	struct play_space space;
	struct explain_answer out;

	other.name = "other model";
	other.bytes[0] = 16384;
	play_open(&play, &usual, &tokens, 1);
	play_space_open(&play.clients[0], &other, &space);
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 0});
	REQUIRE_EQ(explain(&chain, 0).reason, SKEP_REASON_NEVER_SEEN);
	REQUIRE_EQ(
		play_put_blocks(&play.sim, &play.clients[0], &chain, (struct probe_want){0, 2}), 2);
	REQUIRE_EQ(explain(&chain, 1).reason, SKEP_REASON_NONE);
	REQUIRE_EQ(play_reserve(&play.sim, &play.clients[0], &put, &reserved), 1);
	REQUIRE_EQ(explain(&chain, 2).reason, SKEP_REASON_PENDING);
	sim_abort(&play.clients[0], reserved.written, 1);
	sim_run(&play.sim);
	REQUIRE_EQ(explain(&chain, 2).reason, SKEP_REASON_GIVEN_UP);

	play_later(&play, 7 * NS_PER_S);
	evict_blocks(play.realm, 1);
	play_later(&play, 5 * NS_PER_S);
	out = explain(&chain, 1);
	REQUIRE_EQ(out.reason, SKEP_REASON_EVICTED);
	REQUIRE_EQ(out.ago_ns / NS_PER_S, 5);
	remove_space(play.realm, play.space.answer.space, SKEP_REASON_REMOVED);
	REQUIRE_EQ(explain(&chain, 0).reason, SKEP_REASON_REMOVED);

	/* The other space was asked for by mistake: it is named, and what it differs in. */
	play_chain_make(&elsewhere, &play.sim, &space, (const uint32_t[]){70, 71}, 2);
	REQUIRE_EQ(
		play_put_blocks(&play.sim, &play.clients[0], &elsewhere, (struct probe_want){0, 2}),
		2);
	play_chain(&play, &chain, (const uint32_t[]){70, 71, 0});
	out = explain(&chain, 0);
	REQUIRE_EQ(out.reason, SKEP_REASON_OTHER_SPACE);
	REQUIRE_TEXT(out.space, "other model");
	REQUIRE_TEXT(out.field, "parts[0]");
	play_close(&play);
}

/* In spaces of keys the tokens beside them tell, also where the blocks are of another size. */
static void keys_of_another_space_are_told_by_their_tokens(void)
{
	static const uint32_t sizes[] = {8, 4};

	for (unsigned i = 0; i < ARRAY_COUNT(sizes); i++) {
		struct sim_space other = opaque;
		struct play_space space;
		struct play_chain asked = {.space = &space};
		struct explain_answer out;
		static struct keyed chain;

		other.name = "other";
		other.block_tokens = sizes[i];
		other.ranges[0] = 1;
		play_open(&play, &usual, &opaque, 1);
		keyed_begin(&chain);
		keyed_add(&chain, (struct keyed_block){
					  .key = 5, .key_bytes = 16, .token = 3, .token_count = 8});
		REQUIRE_EQ(keyed_put(&chain, 4096), 1);
		play_space_open(&play.clients[0], &other, &space);
		asked.probe = chain.probe;
		asked.probe.space = space.answer.space;
		out = explain(&asked, 0);
		REQUIRE_EQ(out.reason, SKEP_REASON_OTHER_SPACE);
		REQUIRE_TEXT(out.space, "opaque");
		REQUIRE_TEXT(out.field, i ? "block_tokens" : "parts[0]");
		chain.tokens[0]++;
		REQUIRE_EQ(explain(&asked, 0).reason, SKEP_REASON_NEVER_SEEN);
		play_close(&play);
	}
}

static void explain_takes_no_nonsense(void)
{
	struct submission message = {.op = SUBMIT_EXPLAIN, .scratch_bytes = 512};
	struct reserve_block *ask;

	play_open(&play, &usual, &tokens, 1);
	message.u.reserve.space = 5; /* not opened by anybody */
	sim_push(&play.clients[0], &message);
	sim_run(&play.sim);
	REQUIRE_EQ(play_take(&play, 0).status, -ENOENT);
	ask = sim_scratch(&play.clients[0], 0);
	ask->token_at = 510;
	ask->token_count = 1;
	sim_push(&play.clients[0], &message);
	sim_run(&play.sim);
	REQUIRE_EQ(play.sim.cuts, 1);
	play_close(&play);
}

/* The list of what left is bounded: the newest records stand, and the oldest are forgotten. */
static void the_list_of_the_gone_comes_round(void)
{
	struct gone_list *list;
	uint64_t ago;

	play_open(&play, &usual, &tokens, 1);
	list = &play.realm->gone;
	REQUIRE_EQ(list->size, 4 * 256);
	for (uint64_t id = 1; id <= 3 * list->size; id++)
		gone_add(play.realm, id * 77, SKEP_REASON_EVICTED);
	play.sim.keeper->now_ns += 2 * NS_PER_S;
	gone_add(play.realm, 3 * list->size * 77, SKEP_REASON_CHECKSUM);
	for (uint64_t id = 1; id <= 3 * list->size; id++) {
		enum skep_reason want =
			id > 2 * list->size + 1 ? SKEP_REASON_EVICTED : SKEP_REASON_NEVER_SEEN;

		if (id == 3 * list->size)
			want = SKEP_REASON_CHECKSUM; /* the latest word counts */
		REQUIRE_EQ(gone_find(play.realm, id * 77, &ago), want);
	}
	REQUIRE_EQ(ago, 0);
	REQUIRE_EQ(gone_find(play.realm, (3 * list->size - 1) * 77, &ago), SKEP_REASON_EVICTED);
	REQUIRE_EQ(ago, 2 * NS_PER_S);
	play_close(&play);
}

/* ------------------------------------------------------------------------ touches and hints */

static void match_records_are_counted(void)
{
	static struct play_chain chain;
	static struct play_match match;
	struct submission late = {.op = SUBMIT_TOUCH,
		.slot = 3,
		.generation = 99,
		.u.touch = {.asked = 2, .matched = 2}};
	const uint64_t *counters;

	play_open(&play, &usual, &tokens, 1);
	counters = play.realm->counters;
	play_chain(&play, &chain, (const uint32_t[]){1, 2, 3, 4, 5, 0});
	play_put_blocks(&play.sim, &play.clients[0], &chain, (struct probe_want){0, 3});
	play_match_pin(&play.clients[0], &chain, 0, &match);
	sim_run(&play.sim);
	REQUIRE_EQ(counters[REALM_COUNTER_matches], 1);
	REQUIRE_EQ(counters[REALM_COUNTER_blocks_asked], 5);
	REQUIRE_EQ(counters[REALM_COUNTER_blocks_had], 3);
	REQUIRE_EQ(counters[REALM_COUNTER_tokens_asked], 20);
	REQUIRE_EQ(counters[REALM_COUNTER_tokens_had], 12);
	REQUIRE_EQ(play.realm->misses[SKEP_REASON_NEVER_SEEN], 2);
	late.u.touch.space = (uint16_t)play.space.answer.space;
	sim_push(&play.clients[0], &late);
	sim_run(&play.sim);
	REQUIRE_EQ(counters[REALM_COUNTER_touches_late], 1);
	pin_clear(&sim_pins(&play.clients[0])[0]);
	play_close(&play);

	for (unsigned i = 0; i < 3;
		i++) { /* more matched than asked; no such space; no such reason */
		struct submission wrong = {.op = SUBMIT_TOUCH};

		play_open(&play, &usual, &tokens, 1);
		wrong.u.touch.matched = i == 0;
		wrong.u.touch.space = i == 1 ? INDEX_SPACES_MAX : 0;
		wrong.u.touch.reason = i == 2 ? SKEP_REASON_COUNT : 0;
		sim_push(&play.clients[0], &wrong);
		sim_run(&play.sim);
		REQUIRE_EQ(play.sim.cuts, 1);
		play_close(&play);
	}
}

/* A hint moves a block to either end of its list; it promises and harms nothing. */
static void hints_move_blocks(void)
{
	static struct play_chain chains[3];
	struct submission hint = {.op = SUBMIT_HINT};
	struct probe_name name;

	for (unsigned kind = 1; kind <= 2; kind++) {
		play_open(&play, &usual, &tokens, 1);
		for (uint32_t i = 0; i < 3; i++) {
			play_chain(&play, &chains[i], (const uint32_t[]){10 + i, 0});
			play_put_blocks(
				&play.sim, &play.clients[0], &chains[i], (struct probe_want){0, 1});
			play.sim.keeper->now_ns += NS_PER_MS;
		}
		/* Warm the coldest, or cool the hottest. */
		REQUIRE_EQ(probe_names(&play.realm->index.view, &chains[kind == 1 ? 0 : 2].probe, 1,
				   &name),
			1);
		hint.slot = name.slot;
		hint.generation = name.name_generation;
		hint.u.other.kind = kind;
		sim_push(&play.clients[0], &hint);
		hint.generation = 1234567; /* of a block that left: no harm */
		sim_push(&play.clients[0], &hint);
		hint.slot = UINT32_MAX;
		sim_push(&play.clients[0], &hint);
		sim_run(&play.sim);
		REQUIRE_EQ(evict_blocks(play.realm, 1), 1);
		for (uint32_t i = 0; i < 3; i++)
			REQUIRE_EQ(play_present(&play.clients[0], &chains[i]),
				i != (kind == 1 ? 1 : 2));
		play_close(&play);
	}
}

int main(void)
{
	extra_keys_part_names();
	extra_keys_are_bounded();
	opaque_keys_name_blocks();
	opaque_keys_are_bounded();
	opaque_payloads_have_their_own_length();
	a_space_that_differs_is_refused_by_field();
	nonsense_spaces_are_refused();
	a_version_step_forgets();
	a_miss_has_its_reason();
	keys_of_another_space_are_told_by_their_tokens();
	explain_takes_no_nonsense();
	the_list_of_the_gone_comes_round();
	match_records_are_counted();
	hints_move_blocks();
	opaque_lengths_give_way_to_each_other();
	return 0;
}
