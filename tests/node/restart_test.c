/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon is killed -9 and started again under load. Every call ends in time, as a miss; the
 * death is noticed within 100 ms; pointers that were handed out stay right until they are released,
 * and then the old pool goes; sessions come back by themselves.
 *
 *	restart_test [RESTARTS] [--seed N]
 */
#include <errno.h>

#include "tests/node/user.h"

enum {
	DRAM_BYTES = 16 << 20,
	PART_BYTES = 64 << 10,
	BLOCKS = 8,
	STORIES = 64, /* four times what the pool holds */
	WORKERS = 2,
	CALL_MS = 200,
	/* A call may take its deadline, or the tenth of a second in which a death is noticed. */
	SLACK_MS = 150,
	QUICK_RESTARTS = 20,
};

static const struct shape shape = {
	.space = "restart", .block_tokens = 16, .parts = 1, .ranges = 2, .part_bytes = PART_BYTES};

enum { TOLD_READY = 1, TOLD_WATCH, TOLD_CHECK, TOLD_RELEASE, TOLD_STOP };

/* -------------------------------------------------------------------------------- the workers */

struct tally {
	uint64_t slowest_ns; /* past the deadline of its call */
	uint64_t calls, had, put, down;
};

/* How a call ended, and when. */
static void call_ended(struct tally *tally, uint64_t began, uint64_t deadline_ms, int64_t status)
{
	uint64_t took = clock_ns() - began, allowed = deadline_ms * NS_PER_MS;

	tally->calls++;
	tally->slowest_ns = MAX_OF(tally->slowest_ns, took > allowed ? took - allowed : 0);
	tally->down += status == SKEP_EDOWN;
	if (status < 0 && status != SKEP_EDOWN && status != -ETIMEDOUT && status != -EAGAIN &&
		status != -ENOENT && status != SKEP_EPARENT) {
		fprintf(stderr, "a call says %lld\n", (long long)status);
		exit(1);
	}
}

static void worker_put(struct user *user, const struct story *story, struct tally *tally)
{
	struct skep_frame frames[BLOCKS];
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve),
		.chain = story->chain,
		.count = BLOCKS,
		.deadline_ns = skep_deadline_ms(CALL_MS)};
	struct skep_commit commit = {.struct_bytes = sizeof(commit),
		.sums = story->number % 2 ? SKEP_SUMS_MOVER : SKEP_SUMS_HERE};
	uint64_t began = clock_ns();
	int status = skep_reserve(user->session, &reserve, frames);

	call_ended(tally, began, CALL_MS, status);
	if (status < 0)
		return;
	for (int i = 0; i < status; i++)
		if (frames[i].status == 0)
			frame_fill(story, &frames[i]);
	began = clock_ns();
	commit.deadline_ns = skep_deadline_ms(CALL_MS);
	status = skep_commit(user->session, frames, (unsigned)status, &commit);
	call_ended(tally, began, CALL_MS, status);
	tally->put += status > 0 ? (uint64_t)status : 0;
}

static void worker_turn(struct user *user, const struct story *story, struct tally *tally)
{
	struct skep_wait wait = {.struct_bytes = sizeof(wait), .chain = story->chain};
	struct skep_explanation why = {.struct_bytes = sizeof(why)};
	struct skep_ref refs[BLOCKS];
	struct skep_match match;
	uint32_t missing[BLOCKS];
	uint64_t began = clock_ns();

	match = story_match(user, story, SKEP_MATCH_PIN, refs);
	call_ended(tally, began, 0, 0);
	story_check(user, story, refs, 0, match.matched);
	tally->had += match.matched;
	if (match.matched) {
		int64_t copied = story_copy(user, story, &refs[0], 0, 0);

		/* A pinned block can be copied, of whichever daemon it is. */
		REQUIRE_EQ(copied, PART_BYTES);
	}
	skep_release(user->session, &match.pin);
	worker_put(user, story, tally);
	began = clock_ns();
	call_ended(tally, began, 0,
		skep_missing(user->session, story->chain, 0, UINT32_MAX, missing, BLOCKS));
	began = clock_ns();
	wait.deadline_ns = skep_deadline_ms(CALL_MS);
	call_ended(tally, began, CALL_MS, skep_wait(user->session, &wait));
	began = clock_ns();
	call_ended(tally, began, CALL_MS,
		skep_explain(user->session, story->chain, skep_deadline_ms(CALL_MS), &why));
}

static void worker(int line, const void *arg)
{
	uint64_t state = harness_seed + (uint64_t)getpid();
	struct tally tally = {0};
	struct user user;

	user_open(&user, arg, &shape);
	note_tell(line, (struct note){.what = TOLD_READY});
	while (!line_told(line)) {
		struct story story = story_open(&user, unit_random(&state, STORIES), BLOCKS);

		worker_turn(&user, &story, &tally);
		/* An engine computes meanwhile; there is little else to do in this loop. */
		if (!skep_attached(user.session))
			usleep(200);
		story_close(&story);
	}
	line_tell(line, &tally, sizeof(tally));
	user_close(&user);
}

/* ----------------------------------------------------------------------------- the others */

/* Notes when the daemon is seen to have gone, to be back, and when a put can be had again. */
static void watcher(int line, const void *arg)
{
	struct user user;
	struct note note;

	user_open(&user, arg, &shape);
	note_tell(line, (struct note){.what = TOLD_READY});
	while ((note = note_hear(line)).what == TOLD_WATCH) {
		struct story story = story_open(&user, 1000 + note.words[0], BLOCKS);
		struct putting what = {.count = BLOCKS};

		note_tell(line, (struct note){.what = TOLD_READY});
		while (skep_attached(user.session))
			usleep(100);
		note.words[0] = clock_ns();
		REQUIRE_EQ(story_match(&user, &story, SKEP_MATCH_PIN, NULL).matched, 0);
		while (!skep_attached(user.session))
			usleep(100);
		note.words[1] = clock_ns();
		do {
			what.deadline_ns = skep_deadline_ms(CALL_MS);
			story_put(&user, &story, &what);
		} while (story_get(&user, &story) < BLOCKS);
		note.words[2] = clock_ns();
		note_tell(line, note);
		story_close(&story);
	}
	user_close(&user);
}

/* Waits for a block that never comes, without a deadline. */
static void waiter(int line, const void *arg)
{
	struct user user;

	user_open(&user, arg, &shape);
	note_tell(line, (struct note){.what = TOLD_READY});
	while (note_hear(line).what == TOLD_WATCH) {
		struct story story = story_open(&user, 2000, 1);
		struct skep_reserve reserve = {.struct_bytes = sizeof(reserve),
			.chain = story.chain,
			.count = 1,
			.deadline_ns = skep_deadline_ms(5000)};
		struct skep_wait wait = {.struct_bytes = sizeof(wait),
			.chain = story.chain,
			.deadline_ns = SKEP_FOREVER};
		struct skep_frame frame;
		struct note note = {.what = TOLD_WATCH};

		while (!skep_attached(user.session))
			usleep(100);
		REQUIRE_EQ(skep_reserve(user.session, &reserve, &frame), 1);
		REQUIRE_EQ(frame.status, 0);
		note_tell(line, (struct note){.what = TOLD_READY});
		note.status = skep_wait(user.session, &wait);
		note.words[0] = clock_ns();
		/* The frame of a dead daemon can still be written, and counts for nothing. */
		frame_fill(&story, &frame);
		REQUIRE_EQ(skep_commit(user.session, &frame, 1, NULL), SKEP_EDOWN);
		note_tell(line, note);
		story_close(&story);
	}
	user_close(&user);
}

/* Chunks, indices and pages that this process maps. */
static unsigned mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512];
	unsigned count = 0;

	REQUIRE(maps != NULL);
	while (fgets(line, sizeof(line), maps))
		count += strstr(line, "memfd:skep-") != NULL;
	fclose(maps);
	return count;
}

/* Holds pointers over the restart. */
static void holder(int line, const void *arg)
{
	unsigned before;
	struct user user;
	struct note note = {.what = TOLD_READY};

	user_open(&user, arg, &shape);
	before = mappings();
	for (uint64_t turn = 0; note.what != TOLD_STOP; turn++) {
		struct story story = story_open(&user, 3000 + turn, BLOCKS);
		struct skep_view views[BLOCKS];
		struct skep_ref refs[BLOCKS];
		struct skep_match match;

		do {
			story_put(&user, &story,
				&(struct putting){
					.count = BLOCKS, .deadline_ns = skep_deadline_ms(CALL_MS)});
			match = story_match(&user, &story, SKEP_MATCH_PIN, refs);
			if (match.matched < BLOCKS)
				skep_release(user.session, &match.pin);
		} while (match.matched < BLOCKS);
		for (unsigned i = 0; i < BLOCKS; i++)
			REQUIRE_EQ(skep_view(user.session, &refs[i], 0, &views[i]), 0);
		note_tell(line, (struct note){.what = TOLD_READY});
		while ((note = note_hear(line)).what == TOLD_CHECK) {
			/* Pointers of before, and the calls that give them. */
			for (unsigned i = 0; i < BLOCKS; i++)
				REQUIRE_EQ(payload_check(story_payload(&story, i, 0),
						   (struct payload_range){.bytes = PART_BYTES},
						   views[i].bytes),
					PAYLOAD_RIGHT);
			story_check(&user, &story, refs, 0, BLOCKS);
			REQUIRE_EQ(story_copy(&user, &story, &refs[1], 1, 0), PART_BYTES);
			note_tell(line, note);
		}
		skep_release(user.session, &match.pin);
		note.words[0] = clock_ns();
		while (mappings() > before && clock_ns() < note.words[0] + 5 * NS_PER_S)
			sleep_ms(1);
		REQUIRE(mappings() <= before);
		note.words[1] = clock_ns();
		note_tell(line, note);
		story_close(&story);
	}
	user_close(&user);
}

/* ------------------------------------------------------------------------------------- the test */

struct cast {
	struct child workers[WORKERS], watcher, waiter, holder;
};

struct figures {
	uint64_t noticed_ns, ended_ns, back_ns, unmapped_ns;
};

static struct child one_more(const char *name, child_body *body, const struct daemon *daemon)
{
	struct child child;

	child_start(&child, name, body, daemon->config.socket_path);
	REQUIRE_EQ(note_hear(child.line).what, TOLD_READY);
	return child;
}

static struct note order(const struct child *child, struct note note)
{
	note_tell(child->line, note);
	return note_hear(child->line);
}

/* One death and what follows. */
static void restart(struct daemon *daemon, struct cast *cast, uint64_t turn, struct figures *worst)
{
	/* Away for a moment, or for so long that the library tries but once a second. */
	uint64_t away_ms = turn % 4 == 1 ? 2200 : unit_random(&harness_seed, 100), died;
	struct note note;

	order(&cast->watcher, (struct note){.what = TOLD_WATCH, .words = {turn}});
	order(&cast->waiter, (struct note){.what = TOLD_WATCH});
	sleep_ms(unit_random(&harness_seed, 100));
	died = turn % 3 == 2 ? daemon_stop(daemon) : daemon_kill(daemon);
	order(&cast->holder, (struct note){.what = TOLD_CHECK});
	note = note_hear(cast->waiter.line);
	REQUIRE_EQ(note.status, SKEP_EDOWN);
	worst->ended_ns = MAX_OF(worst->ended_ns, note.words[0] - MIN_OF(died, note.words[0]));
	sleep_ms(away_ms);
	daemon_start(daemon);
	note = note_hear(cast->watcher.line);
	worst->noticed_ns = MAX_OF(worst->noticed_ns, note.words[0] - MIN_OF(died, note.words[0]));
	worst->back_ns =
		MAX_OF(worst->back_ns, note.words[2] - MIN_OF(daemon->ready_ns, note.words[2]));
	order(&cast->holder, (struct note){.what = TOLD_CHECK});
	note = order(&cast->holder, (struct note){.what = TOLD_RELEASE});
	worst->unmapped_ns = MAX_OF(worst->unmapped_ns, note.words[1] - note.words[0]);
	/* It holds pointers of the new daemon now. */
	REQUIRE_EQ(note_hear(cast->holder.line).what, TOLD_READY);
}

static void workers_end(struct cast *cast)
{
	struct tally all = {0}, one;

	for (unsigned i = 0; i < WORKERS; i++) {
		note_tell(cast->workers[i].line, (struct note){.what = TOLD_STOP});
		REQUIRE_EQ(line_hear(cast->workers[i].line, &one, sizeof(one)), sizeof(one));
		child_finish(&cast->workers[i]);
		all.slowest_ns = MAX_OF(all.slowest_ns, one.slowest_ns);
		all.calls += one.calls;
		all.had += one.had;
		all.put += one.put;
		all.down += one.down;
		REQUIRE(one.had && one.put && one.down);
	}
	printf("%llu calls, %llu blocks had, %llu put, %llu calls found the daemon away; the "
	       "slowest ended %.1f ms past its deadline\n",
		(unsigned long long)all.calls, (unsigned long long)all.had,
		(unsigned long long)all.put, (unsigned long long)all.down,
		(double)all.slowest_ns / 1e6);
	REQUIRE(all.slowest_ns < SLACK_MS * NS_PER_MS * harness_slower());
}

/* The socket of a daemon that has just been killed may answer for a while longer (its ring of
 * io_uring is taken down behind its end); that is no daemon. */
static void test_quick_restarts(struct daemon *daemon)
{
	for (unsigned i = 0; i < QUICK_RESTARTS; i++) {
		daemon_start(daemon);
		if (i % 4 == 3)
			daemon_stop(daemon);
		else
			daemon_kill(daemon);
	}
}

int main(int argc, char **argv)
{
	struct figures worst = {0};
	struct daemon daemon;
	struct cast cast;

	harness_begin(&(struct harness_options){argc, argv, 25, 5});
	daemon_init(&daemon, (struct daemon_size){DRAM_BYTES, 4096});
	daemon_start(&daemon);
	for (unsigned i = 0; i < WORKERS; i++)
		cast.workers[i] = one_more("a worker", worker, &daemon);
	cast.watcher = one_more("the watcher", watcher, &daemon);
	cast.waiter = one_more("the waiter", waiter, &daemon);
	cast.holder = one_more("the holder", holder, &daemon);
	for (uint64_t turn = 0; turn < harness_count; turn++)
		restart(&daemon, &cast, turn, &worst);
	workers_end(&cast);
	order(&cast.holder, (struct note){.what = TOLD_STOP});
	note_tell(cast.watcher.line, (struct note){.what = TOLD_STOP});
	note_tell(cast.waiter.line, (struct note){.what = TOLD_STOP});
	child_finish(&cast.holder);
	child_finish(&cast.watcher);
	child_finish(&cast.waiter);
	daemon_stop(&daemon);
	test_quick_restarts(&daemon);
	printf("%llu restarts: death noticed after %.1f ms at most, a call under way ended after "
	       "%.1f ms, puts and hits %.0f ms after the daemon was ready, the old pool unmapped "
	       "%.0f ms after its last release\n",
		(unsigned long long)harness_count, (double)worst.noticed_ns / 1e6,
		(double)worst.ended_ns / 1e6, (double)worst.back_ns / 1e6,
		(double)worst.unmapped_ns / 1e6);
	REQUIRE(worst.noticed_ns < 100 * NS_PER_MS * harness_slower());
	REQUIRE(worst.ended_ns < 100 * NS_PER_MS * harness_slower());
	REQUIRE(worst.back_ns < 2 * NS_PER_S * harness_slower());
	REQUIRE(worst.unmapped_ns < 2 * NS_PER_S * harness_slower());
	return 0;
}
