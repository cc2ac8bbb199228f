/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks in the GPU memory of one process, wanted by another: found by their owner alone, told of
 * to everybody, put when they are asked for, gone with the process, and never wrong. (What is in
 * GPU memory here is what its owner can make at any time: the bytes of a story.)
 *
 *	hbm_test [ROUNDS] [--seed N]
 */
#include <errno.h>
#include <skep/skep_hbm.h>

#include "tests/node/user.h"

enum {
	DRAM_BYTES = 16 << 20,
	PART_BYTES = 64 << 10,
	INDEX_BLOCKS = 512,
	BLOCKS = 16,
	PUT = 4, /* of a story, the first ones, in DRAM as well */
	STORY = 4,
	QUEUE_USER = 77,
	ANY = UINT16_MAX,
};

static const struct shape shape = {
	.space = "hbm", .block_tokens = 16, .parts = 2, .ranges = 2, .part_bytes = PART_BYTES};

/* What the owner is told, and answers. */
enum what {
	TOLD_READY = 1,
	TOLD_SERVE,
	TOLD_DECLINE,
	TOLD_LISTEN,
	TOLD_COUNT,
	TOLD_WITHDRAW,
	TOLD_AGAIN,
	TOLD_STOP
};

struct owner {
	struct user user;
	struct skep_hbm *hbm;
	struct skep_queue *queue; /* NULL: it looks for asks in each step */
	bool due;		  /* an event has come and not all was taken */
	struct story story;
	struct skep_hbm_block blocks[BLOCKS];
	uint64_t asked, put;
};

/* Do owners that are started now wait for events? */
static bool queued;

static struct daemon daemons[2];
static unsigned current;

static struct daemon *serving(void)
{
	return &daemons[current];
}

/* ---------------------------------------------------------------------------------- the owner */

/* Where a block lies, as its owner numbers it. */
static uint64_t place_of(uint32_t block)
{
	return 1000 + block;
}

static void owner_announce(struct owner *owner)
{
	struct skep_hbm_announce announce = {.struct_bytes = sizeof(announce),
		.chain = owner->story.chain,
		.count = BLOCKS,
		.blocks = owner->blocks,
		.deadline_ns = skep_deadline_ms(1000)};

	for (uint32_t i = 0; i < BLOCKS; i++)
		owner->blocks[i].user = place_of(i);
	REQUIRE_EQ(skep_hbm_announce(owner->hbm, &announce), BLOCKS);
	REQUIRE_EQ(skep_hbm_blocks(owner->hbm), BLOCKS);
}

/* Blocks that its own memory has, each where it was said to be. */
static uint32_t owner_matches(struct owner *owner)
{
	struct skep_hbm_block found[BLOCKS];
	struct skep_hbm_match match = {.struct_bytes = sizeof(match),
		.chain = owner->story.chain,
		.blocks_max = BLOCKS,
		.blocks = found};

	REQUIRE_EQ(skep_hbm_match(owner->hbm, &match), 0);
	for (uint32_t i = 0; i < match.matched; i++) {
		REQUIRE_EQ(found[i].user, place_of(i));
		REQUIRE_EQ(found[i].slot, owner->blocks[i].slot);
		REQUIRE_EQ(found[i].generation, owner->blocks[i].generation);
	}
	return match.matched;
}

/* One step of an engine: puts what others ask for, or will not. */
static void owner_step(struct owner *owner, bool declines)
{
	struct skep_hbm_block asked[3]; /* less than come at once */
	struct skep_event event;
	int count;

	if (owner->queue && skep_queue_take(owner->queue, &event, 1) == 1) {
		REQUIRE_EQ(event.user, QUEUE_USER);
		REQUIRE_EQ(event.status, 0);
		owner->due = true;
	}
	if (owner->queue && !owner->due)
		return;
	count = skep_hbm_asks(owner->hbm, asked, 3);
	owner->due = count == 3;
	REQUIRE(count >= 0 || count == SKEP_EDOWN);
	for (int i = 0; i < count; i++) {
		struct putting what = {.first = (uint32_t)(asked[i].user - place_of(0)),
			.count = 1,
			.deadline_ns = asked[i].deadline_ns};

		REQUIRE(what.first < BLOCKS && asked[i].deadline_ns > clock_ns() - NS_PER_S);
		owner->asked++;
		if (declines) {
			REQUIRE_EQ(skep_hbm_decline(owner->hbm, &asked[i], 1), 0);
			continue;
		}
		for (; what.part < shape.parts; what.part++)
			owner->put += story_put(&owner->user, &owner->story, &what).committed == 1;
	}
}

static void owner_withdraw(struct owner *owner)
{
	REQUIRE_EQ(
		skep_hbm_withdraw(owner->hbm, owner->blocks + BLOCKS / 2, BLOCKS / 2), BLOCKS / 2);
	REQUIRE_EQ(skep_hbm_withdraw(owner->hbm, owner->blocks + BLOCKS / 2, BLOCKS / 2), 0);
	REQUIRE_EQ(owner_matches(owner), BLOCKS / 2);
}

static void owner_body(int line, const void *arg)
{
	struct skep_hbm_options options = {
		.struct_bytes = sizeof(options), .blocks_max = 2 * BLOCKS};
	static struct owner owner;
	struct putting first = {.count = PUT, .deadline_ns = skep_deadline_ms(1000)};
	struct note note = {0};

	user_open(&owner.user, arg, &shape);
	if (queued) {
		REQUIRE_EQ(skep_queue_create(owner.user.session, &owner.queue), 0);
		options.queue = owner.queue;
		options.user = QUEUE_USER;
	}
	REQUIRE_EQ(skep_hbm_create(owner.user.session, &options, &owner.hbm), 0);
	REQUIRE_EQ(skep_hbm_create(owner.user.session, &options, &owner.hbm), -EEXIST);
	owner.story = story_open(&owner.user, STORY, BLOCKS);
	for (; first.part < shape.parts; first.part++)
		REQUIRE_EQ(story_put(&owner.user, &owner.story, &first).status, 0);
	owner_announce(&owner);
	REQUIRE_EQ(skep_hbm_asks(owner.hbm, NULL, 0), 0);
	note_tell(line, (struct note){.what = TOLD_READY, .words = {owner_matches(&owner)}});
	while ((note = note_hear(line)).what != TOLD_STOP) {
		if (note.what == TOLD_SERVE || note.what == TOLD_DECLINE) {
			note_tell(line, note);
			while (!line_told(line)) {
				owner_step(&owner, note.what == TOLD_DECLINE);
				usleep(500);
			}
		}
		if (note.what == TOLD_WITHDRAW)
			owner_withdraw(&owner);
		if (note.what == TOLD_AGAIN) {
			for (unsigned i = 0; i < 5000 && !skep_attached(owner.user.session); i++)
				sleep_ms(2);
			owner_announce(&owner);
		}
		note.words[0] = owner_matches(&owner);
		note.words[1] = owner.asked;
		note.words[2] = owner.put;
		note.words[3] = (uint64_t)skep_hbm_blocks(owner.hbm);
		note_tell(line, note);
	}
	if (owner.queue) /* it listens on without one */
		skep_queue_destroy(owner.queue);
	REQUIRE_EQ(skep_hbm_asks(owner.hbm, NULL, 0), 0);
	skep_hbm_destroy(owner.hbm);
	story_close(&owner.story);
	user_close(&owner.user);
}

static struct note owner_told(const struct child *owner, enum what what)
{
	note_tell(owner->line, (struct note){.what = what});
	return note_hear(owner->line);
}

static void owner_start(struct child *owner)
{
	struct note note;

	child_start(owner, "the owner", owner_body, serving()->config.socket_path);
	note = note_hear(owner->line);
	REQUIRE_EQ(note.words[0], BLOCKS);
}

/* The daemon has heard of the end of a process, too. */
static void gone_await(pid_t pid)
{
	daemon_wait_gone(serving(), pid, clock_ns() + 10 * NS_PER_S);
}

static void owner_stop(struct child *owner)
{
	pid_t pid = owner->pid;

	note_tell(owner->line, (struct note){.what = TOLD_STOP});
	child_finish(owner);
	gone_await(pid);
}

/* ---------------------------------------------------------------------------------- the other */

struct other {
	const char *socket;
	uint32_t expect; /* blocks that it gets */
	uint64_t wait_ms;
	bool in_time; /* it is answered by the deadline and no sooner */
};

/* What another process sees, and what it gets by asking. */
static void other_body(int line, const void *arg)
{
	const struct other *other = arg;
	struct skep_explanation why = {.struct_bytes = sizeof(why)};
	struct skep_ref refs[BLOCKS];
	struct skep_load load = {.struct_bytes = sizeof(load),
		.refs = refs,
		.refs_max = BLOCKS,
		.flags = SKEP_LOAD_ASK};
	struct skep_match match;
	struct story story;
	struct user user;
	uint64_t began_ns;
	int status;

	user_open(&user, other->socket, &shape);
	story = story_open(&user, STORY, BLOCKS);
	match = story_match(&user, &story, SKEP_MATCH_PIN, refs);
	REQUIRE(match.matched >= PUT && match.stored == match.matched);
	if (match.matched < BLOCKS && other->expect != ANY) {
		REQUIRE_TEXT(skep_reason_text(match.reason), "hbm");
		REQUIRE_EQ(
			skep_explain(user.session, story.chain, skep_deadline_ms(1000), &why), 0);
		REQUIRE_TEXT(skep_reason_text(why.reason), "hbm");
		REQUIRE(why.space[0] && strtoull(why.field, NULL, 10) > 0);
	}
	skep_release(user.session, &match.pin);
	/* Who does not ask is not kept waiting. */
	if (other->expect != ANY)
		REQUIRE_EQ(story_load(&user, &story), match.matched);
	load.chain = story.chain;
	load.deadline_ns = skep_deadline_ms(other->wait_ms);
	began_ns = clock_ns();
	status = skep_load(user.session, &load);
	REQUIRE_EQ(status, 0);
	if (other->expect != ANY)
		REQUIRE_EQ(load.loaded, other->expect);
	REQUIRE(load.loaded >= PUT);
	REQUIRE(clock_ns() < load.deadline_ns + NS_PER_S);
	if (other->in_time)
		REQUIRE(clock_ns() - began_ns > other->wait_ms * NS_PER_MS / 2);
	story_check(&user, &story, refs, 0, load.loaded);
	skep_release(user.session, &load.pin);
	note_tell(line, (struct note){.words = {match.matched}});
	story_close(&story);
	user_close(&user);
}

static void other_runs(struct other other)
{
	struct child child;

	other.socket = serving()->config.socket_path;
	child_start(&child, "the other", other_body, &other);
	note_hear(child.line);
	child_finish(&child);
}

/* ---------------------------------------------------------------------------------- scenarios */

static struct realm_status realm_now(void)
{
	struct realm_status realm;

	daemon_realm(serving(), 0, &realm);
	return realm;
}

static void daemon_begins(void)
{
	current = 0;
	daemon_init(&daemons[0], (struct daemon_size){DRAM_BYTES, INDEX_BLOCKS});
	daemons[1] = daemons[0];
	daemon_start(serving());
}

/* @before: so often it was done before, by the daemon's counters. */
static void what_is_asked_for_is_put(uint64_t before)
{
	struct session_status session;
	struct realm_status realm;
	struct child owner;
	struct note note;

	owner_start(&owner);
	realm = realm_now();
	REQUIRE_EQ(realm.hbm_blocks, BLOCKS);
	REQUIRE_EQ(realm.blocks_hbm, BLOCKS - PUT);
	REQUIRE_EQ(realm.hbm_max, INDEX_BLOCKS / 4);
	REQUIRE(daemon_session_of(serving(), owner.pid, &session));
	REQUIRE_EQ(session.hbm_blocks, BLOCKS);
	REQUIRE_EQ(session.hbm_bytes, BLOCKS * 2 * PART_BYTES);
	owner_told(&owner, TOLD_SERVE);
	other_runs((struct other){.expect = BLOCKS, .wait_ms = 10000});
	note = owner_told(&owner, TOLD_COUNT); /* ends the serving */
	REQUIRE_EQ(note.words[0], BLOCKS);
	REQUIRE_EQ(note.words[1], BLOCKS - PUT);
	REQUIRE_EQ(note.words[2], (BLOCKS - PUT) * shape.parts);
	realm = realm_now();
	REQUIRE_EQ(realm.blocks_hbm, 0);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_hbm_asks], (before + 1) * (BLOCKS - PUT));
	REQUIRE(realm.counters[REALM_COUNTER_blocks_had_hbm] >= BLOCKS);
	REQUIRE(realm.misses[SKEP_REASON_HBM] >= BLOCKS - PUT);
	/* Removed by command, it is not matched though its memory is untouched. */
	REQUIRE(daemon_purge(serving(), 0) == BLOCKS);
	REQUIRE_EQ(owner_told(&owner, TOLD_COUNT).words[0], 0);
	REQUIRE_EQ(owner_told(&owner, TOLD_AGAIN).words[0], BLOCKS);
	owner_stop(&owner);
	REQUIRE_EQ(realm_now().hbm_blocks, 0);
	daemon_purge(serving(), 0);
}

static void what_is_withdrawn_is_gone(void)
{
	struct child owner;

	owner_start(&owner);
	REQUIRE_EQ(owner_told(&owner, TOLD_WITHDRAW).words[3], BLOCKS / 2);
	while (realm_now().hbm_blocks != BLOCKS / 2)
		sleep_ms(1);
	REQUIRE_EQ(realm_now().blocks_hbm, BLOCKS / 2 - PUT);
	owner_told(&owner, TOLD_SERVE);
	other_runs((struct other){.expect = BLOCKS / 2, .wait_ms = 10000});
	owner_told(&owner, TOLD_COUNT);
	owner_stop(&owner);
	daemon_purge(serving(), 0);
}

static void who_declines_keeps_nobody_waiting(void)
{
	struct child owner;
	struct note note;
	uint64_t began_ns;

	owner_start(&owner);
	owner_told(&owner, TOLD_DECLINE);
	began_ns = clock_ns();
	other_runs((struct other){.expect = PUT, .wait_ms = 60000});
	REQUIRE(clock_ns() - began_ns < 30 * NS_PER_S);
	note = owner_told(&owner, TOLD_COUNT);
	REQUIRE(note.words[1] > 0 && note.words[2] == 0);
	owner_stop(&owner);
	daemon_purge(serving(), 0);
}

/* It stands still, or is killed while somebody waits: a miss by the deadline, or at once. */
static void an_owner_that_fails_costs_a_miss(void)
{
	struct realm_status realm;
	struct child owner;
	pid_t pid;

	owner_start(&owner);
	pid = owner.pid;
	child_stop(&owner);
	other_runs((struct other){.expect = PUT, .wait_ms = 300, .in_time = true});
	REQUIRE_EQ(realm_now().hbm_blocks, BLOCKS);
	child_kill(&owner);
	gone_await(pid);
	realm = realm_now();
	REQUIRE_EQ(realm.hbm_blocks, 0);
	REQUIRE_EQ(realm.hbm_bytes, 0);
	REQUIRE_EQ(realm.blocks_hbm, 0);
	REQUIRE_EQ(realm.blocks_present, PUT);
	/* And while it puts what was asked for. */
	daemon_purge(serving(), 0);
	for (uint64_t i = 0; i < harness_count; i++) {
		struct other other = {
			.socket = serving()->config.socket_path, .expect = ANY, .wait_ms = 2000};
		struct child asking;
		uint64_t random = harness_seed + i;

		owner_start(&owner);
		pid = owner.pid;
		owner_told(&owner, TOLD_SERVE);
		child_start(&asking, "the other", other_body, &other);
		sleep_ms(unit_random(&random, 20));
		child_kill(&owner);
		note_hear(asking.line);
		child_finish(&asking);
		gone_await(pid);
		REQUIRE_EQ(realm_now().hbm_blocks, 0);
		daemon_purge(serving(), 0);
	}
}

static void a_successor_knows_what_is_where(void)
{
	struct daemon *before = serving();
	struct child owner;

	owner_start(&owner);
	current ^= 1;
	*serving() = *before;
	serving()->config.takeover = true;
	daemon_start(serving());
	daemon_stop(before);
	REQUIRE_EQ(realm_now().hbm_blocks, BLOCKS);
	REQUIRE_EQ(realm_now().blocks_hbm, BLOCKS - PUT);
	REQUIRE_EQ(owner_told(&owner, TOLD_COUNT).words[0], BLOCKS);
	/* It listened to the one before, and is heard and asked by this one. */
	owner_told(&owner, TOLD_SERVE);
	other_runs((struct other){.expect = BLOCKS, .wait_ms = 10000});
	REQUIRE_EQ(owner_told(&owner, TOLD_COUNT).words[1], BLOCKS - PUT);
	owner_stop(&owner);
	REQUIRE_EQ(realm_now().hbm_blocks, 0);
	daemon_purge(serving(), 0);
	serving()->config.takeover = false;
}

static void another_daemon_is_told_again(void)
{
	struct child owner;
	struct note note;

	owner_start(&owner);
	daemon_kill(serving());
	daemon_start(serving());
	for (unsigned i = 0; i < 5000; i++) { /* until it has reconnected */
		struct session_status session;

		if (daemon_session_of(serving(), owner.pid, &session))
			break;
		sleep_ms(2);
	}
	note = owner_told(&owner, TOLD_COUNT);
	REQUIRE_EQ(note.words[0], 0);
	REQUIRE_EQ(note.words[3], 0);
	REQUIRE_EQ(owner_told(&owner, TOLD_AGAIN).words[0], BLOCKS);
	REQUIRE_EQ(realm_now().blocks_hbm, BLOCKS);
	owner_stop(&owner);
}

/* ------------------------------------------------------------------------------------- limits */

static void limits_body(int line, const void *arg)
{
	struct skep_hbm_options options = {.struct_bytes = sizeof(options), .blocks_max = 8};
	struct skep_hbm_block blocks[USER_BLOCKS_MAX] = {{0}};
	struct skep_hbm_announce announce = {.struct_bytes = sizeof(announce),
		.count = 12,
		.blocks = blocks,
		.deadline_ns = SKEP_FOREVER};
	struct skep_hbm *hbm;
	struct story story;
	struct user user;
	uint32_t announced = 0;

	user_open(&user, arg, &shape);
	REQUIRE_EQ(skep_hbm_create(user.session, &options, &hbm), 0);
	story = story_open(&user, 100, 16);
	announce.chain = story.chain;
	REQUIRE_EQ(skep_hbm_announce(hbm, &announce), 8);
	announce.first = 8;
	REQUIRE_EQ(skep_hbm_announce(hbm, &announce), -ERANGE);
	announce.count = 4;
	REQUIRE_EQ(skep_hbm_announce(hbm, &announce), -ENOSPC);
	announce.first = 10;
	skep_hbm_destroy(hbm);
	options.blocks_max = 4096;
	REQUIRE_EQ(skep_hbm_create(user.session, &options, &hbm), 0);
	REQUIRE_EQ(skep_hbm_announce(hbm, &announce), SKEP_EPARENT);
	REQUIRE(announce.first_missing <= 8); /* 8 until the daemon has heard of the end */
	story_close(&story);
	/* Until the daemon takes no more. */
	for (uint64_t number = 1000;; number += USER_FAMILY) {
		int count;

		story = story_open(&user, number, 40);
		announce.chain = story.chain;
		announce.first = 0;
		announce.count = 40;
		count = skep_hbm_announce(hbm, &announce);
		story_close(&story);
		if (count == -ENOSPC)
			break;
		REQUIRE(count > 0);
		announced += (uint32_t)count;
	}
	REQUIRE_EQ(announced, INDEX_BLOCKS / 4);
	note_tell(line, (struct note){.words = {announced}});
	note_hear(line);
	user_close(&user); /* with all that it announced */
}

static void announcing_has_limits(void)
{
	struct child child;
	pid_t pid;

	child_start(&child, "one that announces much", limits_body, serving()->config.socket_path);
	pid = child.pid;
	REQUIRE_EQ(note_hear(child.line).words[0], INDEX_BLOCKS / 4);
	REQUIRE_EQ(realm_now().hbm_blocks, INDEX_BLOCKS / 4);
	REQUIRE(realm_now().counters[REALM_COUNTER_announces_refused] > 0);
	note_tell(child.line, (struct note){.what = TOLD_STOP});
	child_finish(&child);
	gone_await(pid);
	REQUIRE_EQ(realm_now().hbm_blocks, 0);
	REQUIRE_EQ(realm_now().slots_used, 0);
}

int main(int argc, char **argv)
{
	harness_begin(
		&(struct harness_options){.argc = argc, .argv = argv, .seconds = 60, .count = 4});
	daemon_begins();
	what_is_asked_for_is_put(0);
	queued = true;
	what_is_asked_for_is_put(1);
	queued = false;
	what_is_withdrawn_is_gone();
	who_declines_keeps_nobody_waiting();
	an_owner_that_fails_costs_a_miss();
	announcing_has_limits();
	a_successor_knows_what_is_where();
	another_daemon_is_told_again();
	daemon_stop(serving());
	return 0;
}
