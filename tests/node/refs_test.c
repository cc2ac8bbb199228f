/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A scheduler process matches, a worker process pins the references it was given and reads. Under
 * eviction in between, and with either one killed: references of a pinned match hold, those of a
 * peek may fail, and what is pinned has the right bytes.
 */
#include <errno.h>

#include "tests/node/user.h"

enum {
	DRAM_BYTES = 8 << 20,
	PART_BYTES = 64 << 10,
	FRAMES = DRAM_BYTES / PART_BYTES,
	BLOCKS = 16,
	STORY = 5,
	FILL = 1000,
};

static const struct shape shape = {
	.space = "refs", .block_tokens = 16, .parts = 1, .ranges = 2, .part_bytes = PART_BYTES};

enum {
	TOLD_PUT = 1,
	TOLD_MATCH,
	TOLD_PEEK,
	TOLD_RELEASE,
	TOLD_PIN,
	TOLD_CHECK,
	TOLD_PRESS,
	TOLD_STOP
};

/* What goes from one process to the other. */
struct refs_message {
	uint32_t count;
	struct skep_ref refs[BLOCKS];
};

static struct child scheduler, worker, presser;

/* --------------------------------------------------------------------------------- the clients */

static void scheduler_body(int line, const void *arg)
{
	struct skep_match match = {0};
	struct refs_message message;
	struct story story;
	struct user user;
	struct note note;

	user_open(&user, arg, &shape);
	story = story_open(&user, STORY, BLOCKS);
	while ((note = note_hear(line)).what != TOLD_STOP) {
		switch (note.what) {
		case TOLD_PUT:
			story_put_all(&user, &story);
			note_tell(line, note);
			break;
		case TOLD_MATCH:
		case TOLD_PEEK:
			match = story_match(&user, &story,
				note.what == TOLD_MATCH ? SKEP_MATCH_PIN : SKEP_MATCH_PEEK,
				message.refs);
			message.count = match.matched;
			line_tell(line, &message, sizeof(message));
			break;
		default:
			skep_release(user.session, &match.pin);
			note_tell(line, note);
		}
	}
	story_close(&story);
	user_close(&user);
}

static void worker_body(int line, const void *arg)
{
	struct refs_message message = {0};
	struct skep_pin pin = {0};
	struct story story;
	struct user user;
	struct note note;

	user_open(&user, arg, &shape);
	story = story_open(&user, STORY, BLOCKS);
	while ((note = note_hear(line)).what != TOLD_STOP) {
		if (note.what == TOLD_PIN) {
			REQUIRE_EQ(line_hear(line, &message, sizeof(message)), sizeof(message));
			note.status =
				skep_pin_refs(user.session, message.refs, message.count, &pin);
			REQUIRE(note.status >= 0 && (note.status > 0) == (pin.cell != 0));
			message.count = (uint32_t)note.status;
		} else if (note.what == TOLD_RELEASE) {
			skep_release(user.session, &pin);
		}
		if (note.what != TOLD_RELEASE) {
			story_check(&user, &story, message.refs, 0, message.count);
			for (uint32_t i = 0; i < message.count; i++)
				REQUIRE_EQ(story_copy(&user, &story, &message.refs[i], i, 0),
					PART_BYTES);
		}
		note_tell(line, note);
	}
	story_close(&story);
	user_close(&user);
}

/* Puts twice what the pool holds: whatever is not pinned leaves. */
static void presser_body(int line, const void *arg)
{
	uint64_t number = FILL;
	struct user user;
	struct note note;

	user_open(&user, arg, &shape);
	while ((note = note_hear(line)).what != TOLD_STOP) {
		for (unsigned i = 0; i < 2 * FRAMES / BLOCKS; i++, number += USER_FAMILY) {
			struct story story = story_open(&user, number, BLOCKS);

			story_put_all(&user, &story);
			story_close(&story);
		}
		note_tell(line, note);
	}
	user_close(&user);
}

/* ------------------------------------------------------------------------------------ the test */

static struct note order(const struct child *child, uint32_t what)
{
	note_tell(child->line, (struct note){.what = what});
	return note_hear(child->line);
}

static void refs_ask(uint32_t what, struct refs_message *message)
{
	note_tell(scheduler.line, (struct note){.what = what});
	REQUIRE_EQ(line_hear(scheduler.line, message, sizeof(*message)), sizeof(*message));
}

/* Return: how many the worker could pin; it has checked every byte of them. */
static int refs_pin(const struct refs_message *message)
{
	note_tell(worker.line, (struct note){.what = TOLD_PIN});
	line_tell(worker.line, message, sizeof(*message));
	return note_hear(worker.line).status;
}

static void press(void)
{
	order(&presser, TOLD_PRESS);
}

/* The first pin holds while the references travel, the second one from then on. */
static void test_pinned(void)
{
	struct refs_message message;

	order(&scheduler, TOLD_PUT);
	refs_ask(TOLD_MATCH, &message);
	REQUIRE_EQ(message.count, BLOCKS);
	press();
	REQUIRE_EQ(refs_pin(&message), BLOCKS);
	order(&scheduler, TOLD_RELEASE);
	press();
	order(&worker, TOLD_CHECK);
	order(&worker, TOLD_RELEASE);
	press();
	/* Nobody holds them any more: they have left, and the references say so. */
	REQUIRE_EQ(refs_pin(&message), 0);
}

/* References of a peek are hints: all, or a leading count, or none. */
static void test_peeked(void)
{
	struct refs_message message, head;

	order(&scheduler, TOLD_PUT);
	refs_ask(TOLD_PEEK, &message);
	REQUIRE_EQ(message.count, BLOCKS);
	REQUIRE_EQ(refs_pin(&message), BLOCKS);
	order(&worker, TOLD_RELEASE);
	/* A head that somebody holds stays, what lies below it goes. */
	head = message;
	head.count = BLOCKS / 4;
	REQUIRE_EQ(refs_pin(&head), BLOCKS / 4);
	press();
	refs_ask(TOLD_PEEK, &head);
	REQUIRE_EQ(head.count, BLOCKS / 4);
	order(&worker, TOLD_RELEASE);
	REQUIRE_EQ(refs_pin(&message), BLOCKS / 4);
	order(&worker, TOLD_RELEASE);
	press();
	REQUIRE_EQ(refs_pin(&message), 0);
	/* Put again they are other frames, whatever stands in the same slots. */
	order(&scheduler, TOLD_PUT);
	REQUIRE_EQ(refs_pin(&message), 0);
}

/* References that no match gave: refused, whatever they say. */
static void test_nonsense(void)
{
	struct refs_message good, bad;

	refs_ask(TOLD_MATCH, &good);
	REQUIRE_EQ(good.count, BLOCKS);
	bad = good;
	bad.refs[0].incarnation++;
	REQUIRE_EQ(refs_pin(&bad), 0);
	bad = good;
	bad.refs[3].slot = UINT32_MAX - 1;
	REQUIRE_EQ(refs_pin(&bad), 3);
	order(&worker, TOLD_RELEASE);
	bad = good;
	bad.refs[5].frame_generation ^= 1;
	REQUIRE_EQ(refs_pin(&bad), 5);
	order(&worker, TOLD_RELEASE);
	/* Not a run: one pin would not protect the second. */
	bad = good;
	bad.refs[2] = good.refs[9];
	bad.count = 3;
	REQUIRE_EQ(refs_pin(&bad), 2);
	order(&worker, TOLD_RELEASE);
	bad.count = 0;
	REQUIRE_EQ(refs_pin(&bad), 0);
	order(&scheduler, TOLD_RELEASE);
}

static void test_killed(const struct daemon *daemon)
{
	struct refs_message message;
	struct session_status session;
	uint64_t ended;
	pid_t pid;

	/* The one that matched: what the other one pinned stays. */
	order(&scheduler, TOLD_PUT);
	refs_ask(TOLD_MATCH, &message);
	REQUIRE_EQ(refs_pin(&message), BLOCKS);
	pid = scheduler.pid;
	ended = child_kill(&scheduler);
	daemon_wait_gone(daemon, pid, ended + NS_PER_S * harness_slower());
	press();
	order(&worker, TOLD_CHECK);
	/* The one that reads: its pin goes with it, and nobody else's. */
	child_start(&scheduler, "the scheduler", scheduler_body, daemon->config.socket_path);
	refs_ask(TOLD_MATCH, &message);
	REQUIRE_EQ(message.count, BLOCKS);
	pid = worker.pid;
	ended = child_kill(&worker);
	daemon_wait_gone(daemon, pid, ended + NS_PER_S * harness_slower());
	press();
	REQUIRE(daemon_session_of(daemon, scheduler.pid, &session) && session.pins == 1);
	child_start(&worker, "the worker", worker_body, daemon->config.socket_path);
	REQUIRE_EQ(refs_pin(&message), BLOCKS);
	order(&worker, TOLD_RELEASE);
	order(&scheduler, TOLD_RELEASE);
}

int main(int argc, char **argv)
{
	struct realm_status realm;
	struct daemon daemon;

	harness_begin(&(struct harness_options){argc, argv, 25, 0});
	daemon_init(&daemon, (struct daemon_size){DRAM_BYTES, 4096});
	daemon_start(&daemon);
	child_start(&scheduler, "the scheduler", scheduler_body, daemon.config.socket_path);
	child_start(&worker, "the worker", worker_body, daemon.config.socket_path);
	child_start(&presser, "the presser", presser_body, daemon.config.socket_path);
	test_pinned();
	test_peeked();
	test_nonsense();
	test_killed(&daemon);
	daemon_realm(&daemon, 0, &realm);
	REQUIRE_EQ(realm.pins, 0);
	note_tell(scheduler.line, (struct note){.what = TOLD_STOP});
	note_tell(worker.line, (struct note){.what = TOLD_STOP});
	note_tell(presser.line, (struct note){.what = TOLD_STOP});
	child_finish(&scheduler);
	child_finish(&worker);
	child_finish(&presser);
	daemon_stop(&daemon);
	printf("%llu blocks evicted, %llu evictions withdrawn\n",
		(unsigned long long)realm.counters[REALM_COUNTER_blocks_evicted],
		(unsigned long long)realm.counters[REALM_COUNTER_evictions_withdrawn]);
	return 0;
}
