/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session that is closed while its process lives on is gone with all it held, also when the
 * daemon was too slow to answer its last request; one that outlives such a time loses nothing and
 * leaves nothing. And a session for reading alone.
 */
#include <errno.h>

#include "tests/node/user.h"

enum {
	DRAM_BYTES = 8 << 20,
	PART_BYTES = 64 << 10,
	BLOCKS = 8,
	TOLD_READY = 1,
	TOLD_HELD,
	TOLD_SLOW,
	TOLD_STOP,
};

static const struct shape shape = {
	.space = "close", .block_tokens = 16, .parts = 1, .ranges = 2, .part_bytes = PART_BYTES};

/* Everything that a session can hold. */
static void hold_all(struct user *user, uint64_t number)
{
	struct story there = story_open(user, number, BLOCKS);
	struct story mine = story_open(user, number + USER_FAMILY, BLOCKS);
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve), .chain = mine.chain};
	struct skep_frame frames[BLOCKS];
	struct skep_queue *queue;

	story_put_all(user, &there);
	for (unsigned i = 0; i < 3; i++)
		REQUIRE_EQ(story_match(user, &there, SKEP_MATCH_PIN, NULL).matched, BLOCKS);
	reserve.count = BLOCKS;
	reserve.deadline_ns = skep_deadline_ms(1000);
	REQUIRE_EQ(skep_reserve(user->session, &reserve, frames), BLOCKS);
	REQUIRE_EQ(skep_queue_create(user->session, &queue), 0);
	for (unsigned i = 0; i < BLOCKS; i++) {
		struct skep_wait wait = {.struct_bytes = sizeof(wait),
			.chain = mine.chain,
			.block = i,
			.queue = queue,
			.deadline_ns = SKEP_FOREVER};

		REQUIRE_EQ(skep_wait(user->session, &wait), 0);
	}
	/* Half of it is on its way to a mover. */
	for (unsigned i = 0; i < BLOCKS; i++)
		frame_fill(&mine, &frames[i]);
	REQUIRE_EQ(skep_commit(user->session, frames, BLOCKS / 2,
			   &(struct skep_commit){.struct_bytes = sizeof(struct skep_commit),
				   .sums = SKEP_SUMS_MOVER,
				   .queue = queue,
				   .deadline_ns = SKEP_FOREVER}),
		BLOCKS / 2);
}

static void closing_client(int line, const void *socket)
{
	struct note note;

	for (uint64_t turn = 1; (note = note_hear(line)).what != TOLD_STOP; turn++) {
		struct skep_stats stats = {.struct_bytes = sizeof(stats)};
		struct user user;

		user_open(&user, socket, &shape);
		hold_all(&user, 100 * turn);
		if (note.what == TOLD_SLOW) {
			/* The daemon is stopped now. */
			note_tell(line, (struct note){.what = TOLD_READY});
			note_hear(line);
			REQUIRE_EQ(skep_stats(user.session, 0, &stats), -ETIMEDOUT);
		}
		skep_close(user.session);
		note_tell(line, (struct note){.what = TOLD_READY});
	}
}

/* All is back although the process lives. What a mover was summing is finished. */
static void wait_closed(const struct daemon *daemon)
{
	uint64_t until = clock_ns() + NS_PER_S * harness_slower();
	struct realm_status realm;

	do {
		sleep_ms(1);
		daemon_realm(daemon, 0, &realm);
	} while (clock_ns() < until &&
		 (realm.sessions || realm.reservations || realm.blocks_pending));
	REQUIRE_EQ(realm.sessions, 0);
	REQUIRE_EQ(realm.reservations, 0);
	REQUIRE_EQ(realm.blocks_pending, 0);
	REQUIRE_EQ(realm.pins, 0);
	REQUIRE_EQ(realm.waiters, 0);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_sessions_died], 0);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_sessions_broken], 0);
	REQUIRE_EQ(realm.dram_used_bytes, realm.blocks_present * PART_BYTES);
}

static void test_close(const struct daemon *daemon)
{
	struct child client;

	child_start(&client, "the closing client", closing_client, daemon->config.socket_path);
	for (unsigned turn = 0; turn < 4; turn++) {
		bool slow = turn % 2;

		note_tell(client.line, (struct note){.what = slow ? TOLD_SLOW : TOLD_HELD});
		REQUIRE_EQ(note_hear(client.line).what, TOLD_READY);
		if (slow) {
			child_stop(&daemon->child);
			note_tell(client.line, (struct note){.what = TOLD_SLOW});
			REQUIRE_EQ(note_hear(client.line).what, TOLD_READY);
			child_continue(&daemon->child);
		}
		wait_closed(daemon);
	}
	note_tell(client.line, (struct note){.what = TOLD_STOP});
	child_finish(&client);
}

/* Opens while nobody answers, gives up each time, and lives on. */
static void impatient_client(int line, const void *socket)
{
	struct skep_open_options options = {.struct_bytes = sizeof(options)};
	struct skep *session;

	note_tell(line, (struct note){.what = TOLD_READY});
	note_hear(line);
	for (unsigned i = 0; i < 4; i++) {
		options.deadline_ns = skep_deadline_ms(50);
		REQUIRE_EQ(skep_open(socket, &options, &session), -ETIMEDOUT);
	}
	note_tell(line, (struct note){.what = TOLD_READY});
	note_hear(line);
}

static void test_given_up(const struct daemon *daemon)
{
	unsigned before = daemon_descriptors(daemon);
	struct child client;

	child_start(&client, "the impatient client", impatient_client, daemon->config.socket_path);
	note_hear(client.line);
	child_stop(&daemon->child);
	note_tell(client.line, (struct note){.what = TOLD_SLOW});
	note_hear(client.line);
	child_continue(&daemon->child);
	sleep_ms(20);
	wait_closed(daemon);
	REQUIRE_EQ(daemon_descriptors(daemon), before);
	note_tell(client.line, (struct note){.what = TOLD_STOP});
	child_finish(&client);
}

/* Asks while nobody answers, and goes on with the same session afterwards. */
static void patient_client(int line, const void *socket)
{
	struct user user;

	user_open(&user, socket, &shape);
	for (uint64_t turn = 0; note_hear(line).what != TOLD_STOP; turn++) {
		struct story first = story_open(&user, 5000 + 10 * turn, BLOCKS);
		struct story second = story_open(&user, 5004 + 10 * turn, BLOCKS);
		struct skep_reserve reserve = {.struct_bytes = sizeof(reserve),
			.chain = first.chain,
			.count = BLOCKS,
			.deadline_ns = skep_deadline_ms(1000)};
		struct skep_commit commit = {.struct_bytes = sizeof(commit)};
		struct skep_frame frames[BLOCKS], late[BLOCKS];
		uint64_t began;

		REQUIRE_EQ(skep_reserve(user.session, &reserve, frames), BLOCKS);
		for (unsigned i = 0; i < BLOCKS; i++)
			frame_fill(&first, &frames[i]);
		note_tell(line, (struct note){.what = TOLD_READY});
		note_hear(line);
		began = clock_ns();
		reserve.chain = second.chain;
		reserve.deadline_ns = skep_deadline_ms(20);
		REQUIRE_EQ(skep_reserve(user.session, &reserve, late), -ETIMEDOUT);
		commit.deadline_ns = skep_deadline_ms(20);
		REQUIRE_EQ(skep_commit(user.session, frames, BLOCKS / 2, &commit), -ETIMEDOUT);
		REQUIRE_EQ(skep_abort(user.session, frames + BLOCKS / 2, BLOCKS / 2), 0);
		/* What is there can be had without the daemon. */
		REQUIRE_EQ(story_match(&user, &second, SKEP_MATCH_PEEK, NULL).matched, 0);
		REQUIRE(clock_ns() - began < 500 * NS_PER_MS * harness_slower());
		note_tell(line, (struct note){.what = TOLD_READY});
		note_hear(line);
		/* The daemon goes on. What came too late is given back by the next call. */
		story_put_all(&user, &first);
		REQUIRE_EQ(story_get(&user, &first), BLOCKS);
		note_tell(line, (struct note){.what = TOLD_READY});
		story_close(&first);
		story_close(&second);
	}
	user_close(&user);
}

static void test_stalled(const struct daemon *daemon)
{
	struct realm_status realm;
	struct child client;
	uint64_t until;

	child_start(&client, "the patient client", patient_client, daemon->config.socket_path);
	for (unsigned turn = 0; turn < 4; turn++) {
		for (unsigned step = 0; step < 3; step++) {
			note_tell(client.line, (struct note){.what = TOLD_SLOW});
			REQUIRE_EQ(note_hear(client.line).what, TOLD_READY);
			if (step == 0)
				child_stop(&daemon->child);
			else if (step == 1)
				child_continue(&daemon->child);
		}
		/* Nothing is left reserved although the session lives on. */
		until = clock_ns() + NS_PER_S * harness_slower();
		do {
			daemon_realm(daemon, 0, &realm);
			REQUIRE(clock_ns() < until);
		} while (realm.reservations || realm.blocks_pending);
		REQUIRE_EQ(realm.sessions, 1);
	}
	note_tell(client.line, (struct note){.what = TOLD_STOP});
	child_finish(&client);
}

static void reading_client(int line, const void *socket)
{
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve), .count = 1};
	struct skep_ref refs[BLOCKS];
	struct skep_frame frame;
	struct skep_match match;
	struct skep_view view;
	struct story story;
	struct user user;

	(void)line;
	REQUIRE_EQ(user_try(&user, socket, &shape, &(struct user_who){.flags = SKEP_OPEN_READONLY}),
		0);
	story = story_open(&user, 100, BLOCKS);
	match = story_match(&user, &story, SKEP_MATCH_PIN, refs);
	REQUIRE_EQ(match.matched, BLOCKS);
	story_check(&user, &story, refs, 0, BLOCKS);
	REQUIRE_EQ(story_copy(&user, &story, &refs[0], 0, 0), PART_BYTES);
	reserve.chain = story.chain;
	REQUIRE_EQ(skep_reserve(user.session, &reserve, &frame), -EROFS);
	REQUIRE_EQ(skep_view(user.session, &refs[0], 0, &view), 0);
	/* The last thing that this process does. */
	signal(SIGSEGV, SIG_DFL);
	*(volatile uint8_t *)(uintptr_t)view.bytes = 1;
}

static void test_readonly(const struct daemon *daemon)
{
	struct child client;
	siginfo_t info;

	child_start(&client, "the reading client", reading_client, daemon->config.socket_path);
	REQUIRE(waitid(P_PID, (id_t)client.pid, &info, WEXITED | WNOWAIT) == 0);
	REQUIRE(info.si_code == CLD_KILLED || info.si_code == CLD_DUMPED);
	REQUIRE_EQ(info.si_status, SIGSEGV);
}

int main(int argc, char **argv)
{
	struct daemon daemon;

	harness_begin(&(struct harness_options){argc, argv, 25, 0});
	daemon_init(&daemon, (struct daemon_size){DRAM_BYTES, 4096});
	daemon_start(&daemon);
	test_given_up(&daemon);
	test_close(&daemon);
	test_stalled(&daemon);
	test_readonly(&daemon);
	daemon_stop(&daemon);
	return 0;
}
