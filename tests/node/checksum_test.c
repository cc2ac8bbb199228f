/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A byte turned over in a frame: a verified copy of its range misses, the block is quarantined with
 * what lies below it, the next match stops there and explain says why; put again it is right.
 */
#include <errno.h>

#include "tests/node/user.h"

enum {
	DRAM_BYTES = 8 << 20,
	RANGES = 4,
	PART_BYTES = 64 << 10,
	BLOCKS = 6,
	WRONG = 2, /* the block and its range */
	WRONG_RANGE = 1,
	STORY = 11,
	TOLD_FLIP = 1,
};

static const struct shape shape = {.space = "checksum",
	.block_tokens = 16,
	.parts = 2,
	.ranges = RANGES,
	.part_bytes = PART_BYTES};

static int64_t copy_range(struct user *user, const struct skep_ref *ref, uint32_t range)
{
	static uint8_t room[PART_BYTES];
	struct iovec to = {.iov_base = room, .iov_len = sizeof(room)};
	struct skep_copy copy = {.struct_bytes = sizeof(copy),
		.space = user->space,
		.ref = *ref,
		.part = 1,
		.first_range = range,
		.range_count = 1,
		.to = &to,
		.to_count = 1};

	return skep_copy(user->session, &copy);
}

static void client(int line, const void *arg)
{
	struct skep_explanation why = {.struct_bytes = sizeof(why)};
	struct note note = {.what = TOLD_FLIP};
	struct skep_ref refs[BLOCKS];
	struct skep_match match;
	struct story story;
	struct user user;
	uint64_t until;

	user_open(&user, arg, &shape);
	story = story_open(&user, STORY, BLOCKS);
	story_put_all(&user, &story);
	match = story_match(&user, &story, SKEP_MATCH_PIN, refs);
	REQUIRE_EQ(match.matched, BLOCKS);
	REQUIRE_EQ(skep_chain_id(story.chain, WRONG, (uint8_t *)note.words), 0);
	note_tell(line, note);
	note_hear(line);

	/* Ranges are verified alone: the others are as good as before. */
	for (uint32_t range = 0; range < RANGES; range++)
		if (range != WRONG_RANGE)
			REQUIRE_EQ(copy_range(&user, &refs[WRONG], range), PART_BYTES / RANGES);
	REQUIRE_EQ(story_copy(&user, &story, &refs[WRONG], WRONG, 0), PART_BYTES);
	REQUIRE_EQ(user_stats(&user).checksum_failures, 0);
	REQUIRE_EQ(copy_range(&user, &refs[WRONG], WRONG_RANGE), SKEP_ECHECKSUM);
	until = clock_ns() + NS_PER_S * harness_slower();
	while (!user_stats(&user).checksum_failures)
		REQUIRE(clock_ns() < until);
	REQUIRE_EQ(user_stats(&user).checksum_failures, 1);

	/* A miss from there on, for everybody; what was pinned before stays where it is. */
	REQUIRE_EQ(copy_range(&user, &refs[WRONG], 0), -ESTALE);
	REQUIRE_EQ(story_get(&user, &story), WRONG);
	story_check(&user, &story, refs, 0, WRONG);
	skep_release(user.session, &match.pin);
	REQUIRE_EQ(skep_explain(user.session, story.chain, skep_deadline_ms(1000), &why), 0);
	REQUIRE_EQ(why.matched, WRONG);
	REQUIRE_TEXT(skep_reason_text(why.reason), "checksum");
	REQUIRE(why.seconds_ago >= 0 && why.seconds_ago < 60);

	story_put_all(&user, &story);
	REQUIRE_EQ(story_get(&user, &story), BLOCKS);
	REQUIRE_EQ(user_stats(&user).checksum_failures, 1);
	story_close(&story);
	user_close(&user);
}

int main(int argc, char **argv)
{
	struct daemon_flip flip = {.part = 1};
	struct realm_status realm;
	struct child child;
	struct daemon daemon;
	struct note note;

	harness_begin(&(struct harness_options){argc, argv, 25, 0});
	daemon_init(&daemon, (struct daemon_size){DRAM_BYTES, 4096});
	daemon_start(&daemon);
	child_start(&child, "the client", client, daemon.config.socket_path);
	note = note_hear(child.line);
	flip.id_low = note.words[0];
	flip.id_high = note.words[1];
	flip.offset = WRONG_RANGE * (PART_BYTES / RANGES) +
		      unit_random(&harness_seed, PART_BYTES / RANGES);
	REQUIRE_EQ(daemon_flip(&daemon, flip), 0);
	note_tell(child.line, note);
	child_finish(&child);
	daemon_realm(&daemon, 0, &realm);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_blocks_quarantined], 1);
	REQUIRE(realm.misses[SKEP_REASON_CHECKSUM] > 0);
	REQUIRE_EQ(realm.blocks_removed, 0);
	REQUIRE_EQ(realm.dram_used_bytes, BLOCKS * 2 * PART_BYTES);
	daemon_stop(&daemon);
	return 0;
}
