/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine whose own cache outlived the daemon: skep_missing() lists what the new one lacks, and
 * after one pass over its prompts the hit ratio is what it was.
 */
#include <errno.h>

#include "tests/node/user.h"

enum { DRAM_BYTES = 16 << 20, PART_BYTES = 32 << 10, BLOCKS = 16, STORIES = 24, TOLD_READY = 1 };

static const struct shape shape = {
	.space = "missing", .block_tokens = 16, .parts = 1, .ranges = 1, .part_bytes = PART_BYTES};

/* The stories of two families and their shared heads. */
static uint64_t number(unsigned i)
{
	return 40 + i;
}

/* Saves what the store lacks of a story, in runs. Return: blocks saved. */
static uint32_t save_missing(struct user *user, const struct story *story)
{
	uint32_t blocks[BLOCKS], saved = 0;
	int count = skep_missing(user->session, story->chain, 0, UINT32_MAX, blocks, BLOCKS);

	REQUIRE(count >= 0);
	for (int i = 0; i < count;) {
		struct putting what = {.first = blocks[i], .deadline_ns = skep_deadline_ms(1000)};
		struct put_result result;

		while (i < count && blocks[i] == what.first + what.count)
			what.count++, i++;
		result = story_put(user, story, &what);
		REQUIRE_EQ(result.status, 0);
		saved += result.committed;
	}
	REQUIRE_EQ(skep_missing(user->session, story->chain, 0, UINT32_MAX, blocks, BLOCKS), 0);
	return saved;
}

static uint32_t pass(struct user *user, struct story *stories, bool save, uint32_t *saved)
{
	uint32_t had = 0;

	*saved = 0;
	for (unsigned i = 0; i < STORIES; i++) {
		had += story_get(user, &stories[i]);
		if (save)
			*saved += save_missing(user, &stories[i]);
	}
	return had;
}

/* An engine that knows only what it matched last puts the tail: refused, and told from where. */
static void tail_alone(struct user *user, const struct story *story)
{
	struct putting what = {
		.first = BLOCKS - 2, .count = 2, .deadline_ns = skep_deadline_ms(1000)};
	struct put_result result = story_put(user, story, &what);

	REQUIRE_EQ(result.status, SKEP_EPARENT);
	REQUIRE_EQ(result.first_missing, 0);
}

static void engine(int line, const void *arg)
{
	struct story stories[STORIES];
	uint32_t unique, before, lost, after, saved;
	struct user user;

	user_open(&user, arg, &shape);
	for (unsigned i = 0; i < STORIES; i++)
		stories[i] = story_open(&user, number(i), BLOCKS);
	pass(&user, stories, true, &unique);
	REQUIRE_EQ(unique, STORIES * (BLOCKS - USER_SHARED_BLOCKS) +
				   STORIES / USER_FAMILY * USER_SHARED_BLOCKS);
	before = pass(&user, stories, false, &saved);
	REQUIRE_EQ(before, STORIES * BLOCKS);
	note_tell(line, (struct note){.what = TOLD_READY});
	note_hear(line);
	while (!skep_attached(user.session))
		usleep(500);
	tail_alone(&user, &stories[0]);
	lost = pass(&user, stories, true, &saved);
	REQUIRE_EQ(saved, unique);
	after = pass(&user, stories, false, &saved);
	printf("blocks had of %u: %u before, %u in the pass after the restart, %u in the next\n",
		STORIES * BLOCKS, before, lost, after);
	REQUIRE_EQ(after, before);
	for (unsigned i = 0; i < STORIES; i++)
		story_close(&stories[i]);
	user_close(&user);
}

int main(int argc, char **argv)
{
	struct child child;
	struct daemon daemon;

	harness_begin(&(struct harness_options){argc, argv, 25, 0});
	daemon_init(&daemon, (struct daemon_size){DRAM_BYTES, 4096});
	daemon_start(&daemon);
	child_start(&child, "the engine", engine, daemon.config.socket_path);
	REQUIRE_EQ(note_hear(child.line).what, TOLD_READY);
	daemon_kill(&daemon);
	daemon_start(&daemon);
	note_tell(child.line, (struct note){.what = TOLD_READY});
	child_finish(&child);
	daemon_stop(&daemon);
	return 0;
}
