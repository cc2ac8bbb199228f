/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two parts of a block written by two processes, one of them killed between reserve and commit: no
 * half block is ever matched; another writer of that part completes the block, or it is given up at
 * the age limit and its frames come back.
 */
#include <errno.h>

#include "tests/node/user.h"

enum {
	DRAM_BYTES = 8 << 20,
	PART_BYTES = 64 << 10,
	BLOCKS = 4,
	AGE_LIMIT_MS = 800,
	COMPLETED = 1, /* stories */
	GIVEN_UP = 50,
};

static const struct shape shape = {
	.space = "parts", .block_tokens = 16, .parts = 2, .ranges = 2, .part_bytes = PART_BYTES};

enum { TOLD_READY = 1, TOLD_GO };

struct job {
	const char *socket;
	uint64_t story;
	uint32_t part;
	int first_status; /* what the first frame must say */
};

/* Reserves its part of all blocks, commits when told to. */
static void writer(int line, const void *arg)
{
	const struct job *job = arg;
	struct skep_reserve reserve = {
		.struct_bytes = sizeof(reserve), .count = BLOCKS, .part = job->part};
	uint32_t missing[BLOCKS];
	struct skep_frame frames[BLOCKS];
	struct story story;
	struct user user;

	user_open(&user, job->socket, &shape);
	story = story_open(&user, job->story, BLOCKS);
	REQUIRE_EQ(skep_missing(user.session, story.chain, 0, job->part, missing, BLOCKS),
		job->first_status == 0 ? BLOCKS : 0);
	reserve.chain = story.chain;
	reserve.deadline_ns = skep_deadline_ms(1000);
	REQUIRE_EQ(skep_reserve(user.session, &reserve, frames), BLOCKS);
	for (unsigned i = 0; i < BLOCKS; i++) {
		REQUIRE_EQ(frames[i].status, job->first_status);
		if (frames[i].status == 0)
			frame_fill(&story, &frames[i]);
	}
	note_tell(line, (struct note){.what = TOLD_READY});
	REQUIRE_EQ(note_hear(line).what, TOLD_GO);
	/* Not all at once: the block that lies in between is half there too. */
	for (unsigned i = 0; i < BLOCKS; i++)
		if (job->first_status == 0)
			REQUIRE_EQ(skep_commit(user.session, &frames[i], 1, NULL), 1);
	note_tell(line, (struct note){.what = TOLD_READY});
	story_close(&story);
	user_close(&user);
}

/* Matches all the time; what it matches must be whole. Tells how much it had at last. */
static void reader(int line, const void *arg)
{
	const struct job *job = arg;
	struct note note = {0};
	struct story story;
	struct user user;

	user_open(&user, job->socket, &shape);
	story = story_open(&user, job->story, BLOCKS);
	note_tell(line, note);
	while (!line_told(line)) {
		note.words[0] = story_get(&user, &story);
		note.words[1]++;
	}
	note.words[0] = story_get(&user, &story);
	note_tell(line, note);
	story_close(&story);
	user_close(&user);
}

/* What a second writer of a part is told while the first one lives, and what is missing. */
static void rival(int line, const void *arg)
{
	const struct job *job = arg;
	uint32_t missing[BLOCKS];
	struct putting what = {.count = BLOCKS, .part = job->part};
	struct put_result result;
	struct story story;
	struct user user;

	(void)line;
	user_open(&user, job->socket, &shape);
	story = story_open(&user, job->story, BLOCKS);
	what.deadline_ns = skep_deadline_ms(1000);
	REQUIRE_EQ(skep_missing(user.session, story.chain, 0, job->part, missing, BLOCKS), 0);
	result = story_put(&user, &story, &what);
	REQUIRE_EQ(result.status, 0);
	REQUIRE_EQ(result.pending, BLOCKS);
	story_close(&story);
	user_close(&user);
}

/* ------------------------------------------------------------------------------------- the test */

static struct child start(const char *name, child_body *body, struct job job)
{
	struct child child;

	child_start(&child, name, body, &job);
	note_hear(child.line);
	return child;
}

static void go(struct child *child)
{
	note_tell(child->line, (struct note){.what = TOLD_GO});
	note_hear(child->line);
	child_finish(child);
}

static uint64_t reader_had(struct child *child)
{
	struct note note;

	note_tell(child->line, (struct note){.what = TOLD_GO});
	note = note_hear(child->line);
	REQUIRE(note.words[1] > 0);
	child_finish(child);
	return note.words[0];
}

static void test_completed(const struct daemon *daemon)
{
	struct job job = {.socket = daemon->config.socket_path, .story = COMPLETED};
	struct child zero, one, looks, another;
	struct realm_status realm;
	uint64_t ended;
	pid_t pid;

	looks = start("the reader", reader, job);
	zero = start("the writer of part 0", writer, job);
	job.part = 1;
	one = start("the writer of part 1", writer, job);
	child_start(&another, "a rival", rival, &job);
	child_finish(&another);
	pid = one.pid;
	ended = child_kill(&one);
	daemon_wait_gone(daemon, pid, ended + NS_PER_S * harness_slower());
	go(&zero);
	daemon_realm(daemon, 0, &realm);
	REQUIRE_EQ(realm.blocks_present, 0);
	REQUIRE_EQ(realm.blocks_pending, BLOCKS);
	another = start("another writer of part 1", writer, job);
	daemon_realm(daemon, 0, &realm);
	REQUIRE_EQ(realm.blocks_present, 0);
	go(&another);
	daemon_realm(daemon, 0, &realm);
	REQUIRE_EQ(realm.blocks_present, BLOCKS);
	REQUIRE_EQ(realm.blocks_pending, 0);
	REQUIRE_EQ(reader_had(&looks), BLOCKS);
	/* And a late third one has nothing to do. */
	job.first_status = -EEXIST;
	another = start("a late writer of part 1", writer, job);
	go(&another);
}

static void test_given_up(const struct daemon *daemon)
{
	struct job job = {.socket = daemon->config.socket_path, .story = GIVEN_UP};
	uint64_t used, began, until;
	struct child zero, one, looks;
	struct realm_status realm;

	daemon_realm(daemon, 0, &realm);
	used = realm.dram_used_bytes;
	looks = start("the reader", reader, job);
	zero = start("the writer of part 0", writer, job);
	job.part = 1;
	one = start("the writer of part 1", writer, job);
	child_kill(&one);
	go(&zero);
	began = clock_ns();
	until = began + (AGE_LIMIT_MS + 1000) * NS_PER_MS * harness_slower();
	do {
		daemon_realm(daemon, 0, &realm);
		/* What waits for its other part is kept for as long as was promised. */
		REQUIRE(realm.blocks_pending == BLOCKS ||
			clock_ns() > began + (AGE_LIMIT_MS - 100) * NS_PER_MS);
		REQUIRE(clock_ns() < until);
		sleep_ms(2);
	} while (realm.blocks_pending);
	printf("given up %.0f ms after the last commit, age limit %d ms\n",
		(double)(clock_ns() - began) / 1e6, AGE_LIMIT_MS);
	REQUIRE_EQ(realm.dram_used_bytes, used);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_blocks_given_up], BLOCKS);
	REQUIRE_EQ(reader_had(&looks), 0);
	/* The names are free: both parts can be put anew. */
	zero = start("a new writer of part 1", writer, job);
	go(&zero);
	job.part = 0;
	one = start("a new writer of part 0", writer, job);
	go(&one);
	looks = start("the reader", reader, job);
	sleep_ms(20);
	REQUIRE_EQ(reader_had(&looks), BLOCKS);
}

int main(int argc, char **argv)
{
	struct daemon daemon;

	harness_begin(&(struct harness_options){argc, argv, 25, 0});
	daemon_init(&daemon, (struct daemon_size){DRAM_BYTES, 4096});
	daemon.realms[0].age_limit_ns = AGE_LIMIT_MS * NS_PER_MS;
	daemon_start(&daemon);
	test_completed(&daemon);
	test_given_up(&daemon);
	daemon_stop(&daemon);
	return 0;
}
