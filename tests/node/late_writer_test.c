/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A writer stopped past the age limit: who waits goes on, another writer completes the block, and
 * what the late one still writes touches nothing visible; it is told -ESTALE.
 */
#include <errno.h>

#include "tests/node/user.h"

enum {
	DRAM_BYTES = 4 << 20,
	PART_BYTES = 64 << 10,
	FRAMES = DRAM_BYTES / PART_BYTES,
	BLOCKS = 4,
	AGE_LIMIT_MS = 300,
	STORY = 7, /* the one both write */
	LOST = 90, /* the one nobody takes over */
	FILL = 1000,
};

static const struct shape shape = {
	.space = "late", .block_tokens = 16, .parts = 1, .ranges = 1, .part_bytes = PART_BYTES};

enum { TOLD_READY = 1, TOLD_GO };

/* ---------------------------------------------------------------------------------- the writer */

static void reserve(struct user *user, const struct story *story, struct skep_frame *frames)
{
	struct skep_reserve request = {.struct_bytes = sizeof(request),
		.chain = story->chain,
		.count = BLOCKS,
		.deadline_ns = skep_deadline_ms(1000)};

	REQUIRE_EQ(skep_reserve(user->session, &request, frames), BLOCKS);
}

/* Reserves two stories, is stopped half way, writes on when it runs again, and commits. */
static void late_writer(int line, const void *arg)
{
	struct skep_frame frames[2 * BLOCKS], *lost = frames + BLOCKS;
	struct story story, other;
	struct user user;

	user_open(&user, arg, &shape);
	story = story_open(&user, STORY, BLOCKS);
	other = story_open(&user, LOST, BLOCKS);
	reserve(&user, &story, frames);
	reserve(&user, &other, lost);
	memset(frames[0].bytes, 0xee, PART_BYTES);
	note_tell(line, (struct note){.what = TOLD_READY});
	/* Stopped here. The last frame of each is given back unwritten, the others come late. */
	REQUIRE_EQ(note_hear(line).what, TOLD_GO);
	for (unsigned i = 0; i < 2 * BLOCKS; i++)
		memset(frames[i].bytes, 0xee, PART_BYTES);
	REQUIRE_EQ(skep_abort(user.session, &frames[BLOCKS - 1], 1), 0);
	REQUIRE_EQ(skep_abort(user.session, &lost[BLOCKS - 1], 1), 0);
	REQUIRE_EQ(skep_commit(user.session, frames, BLOCKS - 1, NULL), 0);
	REQUIRE_EQ(skep_commit(user.session, lost, BLOCKS - 1, NULL), 0);
	for (unsigned i = 0; i < BLOCKS - 1; i++) {
		REQUIRE_EQ(frames[i].status, -ESTALE);
		REQUIRE_EQ(lost[i].status, -ESTALE);
	}
	/* The session is as good as any: it puts what it lost. */
	story_put_all(&user, &other);
	REQUIRE_EQ(story_get(&user, &other), BLOCKS);
	note_tell(line, (struct note){.what = TOLD_READY});
	REQUIRE_EQ(note_hear(line).what, TOLD_GO);
	user_close(&user);
}

/* --------------------------------------------------------------------------------- the readers */

/* Waits for the last block and takes over when the writer is given up. */
static void heir(int line, const void *arg)
{
	struct skep_wait wait = {.struct_bytes = sizeof(wait), .block = BLOCKS - 1};
	struct user user;
	struct story story;
	struct note note = {.what = TOLD_READY};
	uint64_t began = clock_ns();

	user_open(&user, arg, &shape);
	story = story_open(&user, STORY, BLOCKS);
	wait.chain = story.chain;
	wait.deadline_ns = skep_deadline_ms(5000 * harness_slower());
	REQUIRE_EQ(story_match(&user, &story, SKEP_MATCH_PEEK, NULL).matched, 0);
	note.status = skep_wait(user.session, &wait);
	note.words[0] = clock_ns() - began;
	story_put_all(&user, &story);
	note_tell(line, note);
	/* Reads on while the late one writes. */
	while (line_quiet(line, 1))
		REQUIRE_EQ(story_get(&user, &story), BLOCKS);
	REQUIRE_EQ(note_hear(line).what, TOLD_GO);
	user_close(&user);
}

/* Puts blocks until the pool is full, so that a frame that was taken too early would be used. */
static void filler(int line, const void *arg)
{
	uint32_t stories = (FRAMES - 3 * BLOCKS) / BLOCKS;
	struct story story[FRAMES / BLOCKS];
	struct user user;

	user_open(&user, arg, &shape);
	for (uint32_t i = 0; i < stories; i++) {
		story[i] = story_open(&user, FILL + USER_FAMILY * i, BLOCKS);
		story_put_all(&user, &story[i]);
	}
	note_tell(line, (struct note){.what = TOLD_READY});
	while (line_quiet(line, 1))
		for (uint32_t i = 0; i < stories; i++)
			story_get(&user, &story[i]);
	REQUIRE_EQ(note_hear(line).what, TOLD_GO);
	user_close(&user);
}

/* ------------------------------------------------------------------------------------ the test */

static uint64_t used_bytes(const struct daemon *daemon)
{
	struct realm_status realm;

	daemon_realm(daemon, 0, &realm);
	return realm.dram_used_bytes;
}

static void go(struct child *child)
{
	note_tell(child->line, (struct note){.what = TOLD_GO});
}

int main(int argc, char **argv)
{
	struct child writer, waiter, others;
	struct realm_status realm;
	struct daemon daemon;
	struct note note;

	harness_begin(&(struct harness_options){argc, argv, 25, 0});
	daemon_init(&daemon, (struct daemon_size){DRAM_BYTES, 4096});
	daemon.realms[0].age_limit_ns = AGE_LIMIT_MS * NS_PER_MS;
	daemon_start(&daemon);

	child_start(&writer, "the late writer", late_writer, daemon.config.socket_path);
	REQUIRE_EQ(note_hear(writer.line).what, TOLD_READY);
	child_stop(&writer);
	child_start(&waiter, "the heir", heir, daemon.config.socket_path);
	note = note_hear(waiter.line);
	REQUIRE_EQ(note.status, SKEP_EGIVENUP);
	printf("the heir waited %.0f ms for a writer with %d ms\n", (double)note.words[0] / 1e6,
		AGE_LIMIT_MS);
	REQUIRE(note.words[0] < (AGE_LIMIT_MS + 500) * NS_PER_MS * harness_slower());

	/* What nobody took over is given up; the frames wait for the writer all the same. */
	sleep_ms(AGE_LIMIT_MS + 400);
	daemon_realm(&daemon, 0, &realm);
	REQUIRE_EQ(realm.blocks_pending, 0);
	REQUIRE_EQ(realm.blocks_present, BLOCKS);
	REQUIRE_EQ(realm.dram_used_bytes, 3 * BLOCKS * PART_BYTES);
	REQUIRE_EQ(realm.reservations, 2 * BLOCKS);
	child_start(&others, "the filler", filler, daemon.config.socket_path);
	REQUIRE_EQ(note_hear(others.line).what, TOLD_READY);
	REQUIRE_EQ(used_bytes(&daemon), DRAM_BYTES);

	child_continue(&writer);
	go(&writer);
	REQUIRE_EQ(note_hear(writer.line).what, TOLD_READY);
	daemon_realm(&daemon, 0, &realm);
	REQUIRE_EQ(realm.reservations, 0);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_parts_stale], 2 * (BLOCKS - 1));
	/* Its frames came back: of the eight it has put four again. */
	REQUIRE_EQ(realm.dram_used_bytes, DRAM_BYTES - BLOCKS * PART_BYTES);
	go(&waiter);
	child_finish(&waiter);
	go(&others);
	child_finish(&others);
	go(&writer);
	child_finish(&writer);
	daemon_stop(&daemon);
	return 0;
}
