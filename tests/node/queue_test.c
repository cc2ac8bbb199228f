/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting over processes: of several clients that want the same blocks one writes each of them, and
 * the others get it; what is submitted to a queue completes exactly once and in time, whether the
 * block comes, its writer dies, the deadline passes or the daemon dies.
 */
#include <errno.h>
#include <poll.h>

#include "tests/node/user.h"

enum {
	DRAM_BYTES = 8 << 20,
	PART_BYTES = 64 << 10,
	FRAMES = DRAM_BYTES / PART_BYTES,
	BLOCKS = 8,
	FLYERS = 4,
	FLIGHTS = 12,
	SUBMITS = 200,
	SHORT_MS = 60,
};

static const struct shape shape = {
	.space = "queue", .block_tokens = 16, .parts = 1, .ranges = 2, .part_bytes = PART_BYTES};

enum {
	TOLD_READY = 1,
	TOLD_HOLD,
	TOLD_COMMIT,
	TOLD_ASK,
	TOLD_MOVE,
	TOLD_FILL,
	TOLD_FLY,
	TOLD_STOP
};

/* ------------------------------------------------------------------------------- single flight */

struct flight {
	uint32_t written, waited, given_up;
};

/* Computes what nobody computes, waits for the rest on a queue. */
static void fly(struct user *user, struct skep_queue *queue, const struct story *story,
	struct flight *flight)
{
	struct skep_reserve reserve = {
		.struct_bytes = sizeof(reserve), .chain = story->chain, .count = BLOCKS};
	struct skep_frame frames[BLOCKS];
	struct pollfd ready = {.fd = skep_queue_fd(queue), .events = POLLIN};
	uint32_t waits = 0;
	int answered;

	reserve.deadline_ns = skep_deadline_ms(1000);
	answered = skep_reserve(user->session, &reserve, frames);
	REQUIRE_EQ(answered, BLOCKS);
	for (unsigned i = 0; i < BLOCKS; i++) {
		struct skep_wait wait = {.struct_bytes = sizeof(wait),
			.chain = story->chain,
			.block = i,
			.queue = queue,
			.user = i,
			.deadline_ns = skep_deadline_ms(5000)};
		int status;

		if (frames[i].status == 0) {
			frame_fill(story, &frames[i]);
			flight->written++;
		} else if (frames[i].status == SKEP_EPENDING) {
			status = skep_wait(user->session, &wait);
			/* Its writer may have gone since. */
			REQUIRE(status == 0 || status == -ENOENT);
			waits += status == 0;
		}
	}
	REQUIRE(skep_commit(user->session, frames, BLOCKS, NULL) >= 0);
	while (waits) {
		struct skep_event events[BLOCKS];
		int taken;

		REQUIRE(poll(&ready, 1, 10000) == 1);
		taken = skep_queue_take(queue, events, BLOCKS);
		REQUIRE(taken >= 0 && (uint32_t)taken <= waits);
		for (int i = 0; i < taken; i++) {
			/* Gone before the daemon heard of the wait is gone all the same. */
			REQUIRE(events[i].status == 0 || events[i].status == SKEP_EGIVENUP ||
				events[i].status == -ENOENT);
			flight->given_up += events[i].status != 0;
			flight->waited += events[i].status == 0;
		}
		waits -= (uint32_t)taken;
	}
}

static void flyer(int line, const void *socket)
{
	struct skep_queue *queue;
	struct user user;
	struct note note;

	user_open(&user, socket, &shape);
	REQUIRE_EQ(skep_queue_create(user.session, &queue), 0);
	note_tell(line, (struct note){.what = TOLD_READY});
	while ((note = note_hear(line)).what == TOLD_FLY) {
		struct story story = story_open(&user, note.words[0], BLOCKS);
		struct flight flight = {0};

		/* Until all of it is there, whoever wrote it. */
		while (story_get(&user, &story) < BLOCKS)
			fly(&user, queue, &story, &flight);
		line_tell(line, &flight, sizeof(flight));
		story_close(&story);
	}
	skep_queue_destroy(queue);
	user_close(&user);
}

/* ---------------------------------------------------------------------------------- the holder */

/* Reserves a story and keeps it, until it is told to commit or killed. */
static void holder(int line, const void *socket)
{
	struct skep_frame frames[BLOCKS];
	struct user user;
	struct note note;

	user_open(&user, socket, &shape);
	note_tell(line, (struct note){.what = TOLD_READY});
	while ((note = note_hear(line)).what == TOLD_HOLD) {
		struct story story = story_open(&user, note.words[0], BLOCKS);
		struct skep_reserve reserve = {
			.struct_bytes = sizeof(reserve), .chain = story.chain, .count = BLOCKS};

		while (!skep_attached(user.session))
			usleep(500);
		reserve.deadline_ns = skep_deadline_ms(1000);
		REQUIRE_EQ(skep_reserve(user.session, &reserve, frames), BLOCKS);
		for (unsigned i = 0; i < BLOCKS; i++)
			frame_fill(&story, &frames[i]);
		note_tell(line, note);
		note = note_hear(line);
		note.status = skep_commit(user.session, frames, BLOCKS, NULL);
		note_tell(line, note);
		story_close(&story);
	}
	user_close(&user);
}

/* ----------------------------------------------------------------------------------- the asker */

/* Events by their user number, each at most once. */
struct events {
	bool came[SUBMITS];
	int32_t status[SUBMITS];
	uint64_t at_ns[SUBMITS];
	unsigned count;
};

/* Takes what comes until @count events are there or the time is over. */
static void events_take(
	struct skep_queue *queue, struct events *all, unsigned count, uint64_t until_ns)
{
	struct pollfd ready = {.fd = skep_queue_fd(queue), .events = POLLIN};

	while (all->count < count && clock_ns() < until_ns) {
		struct skep_event events[7];
		int taken;

		if (poll(&ready, 1, 20) <= 0)
			continue;
		taken = skep_queue_take(queue, events, ARRAY_COUNT(events));
		REQUIRE(taken >= 0);
		for (int i = 0; i < taken; i++) {
			uint64_t user = events[i].user;

			REQUIRE(user < SUBMITS && !all->came[user]);
			all->came[user] = true;
			all->status[user] = events[i].status;
			all->at_ns[user] = clock_ns();
			all->count++;
		}
	}
}

/* Nothing of an earlier submit comes again. */
static void events_none(struct skep_queue *queue, struct events *all)
{
	unsigned before = all->count;

	events_take(queue, all, before + 1, clock_ns() + 200 * NS_PER_MS);
	REQUIRE_EQ(all->count, before);
}

/* Submits waits, half of them with a short deadline; tells how they ended. */
static void ask(struct user *user, struct skep_queue *queue, int line, struct note order)
{
	struct story story = story_open(user, order.words[0], BLOCKS);
	struct events all = {0};
	uint64_t began, last = 0;

	while (!skep_attached(user->session))
		usleep(500);
	began = clock_ns();

	for (unsigned i = 0; i < SUBMITS; i++) {
		struct skep_wait wait = {.struct_bytes = sizeof(wait),
			.chain = story.chain,
			.block = i % BLOCKS,
			.queue = queue,
			.user = i,
			.deadline_ns = i % 2 ? SKEP_FOREVER : skep_deadline_ms(SHORT_MS)};

		REQUIRE_EQ(skep_wait(user->session, &wait), 0);
	}
	events_take(queue, &all, SUBMITS / 2, clock_ns() + 5 * NS_PER_S);
	REQUIRE_EQ(all.count, SUBMITS / 2);
	for (unsigned i = 0; i < SUBMITS; i++) {
		REQUIRE_EQ(all.came[i], i % 2 == 0);
		if (i % 2)
			continue;
		REQUIRE_EQ(all.status[i], -ETIMEDOUT);
		REQUIRE(all.at_ns[i] - began >= SHORT_MS * NS_PER_MS);
		last = MAX_OF(last, all.at_ns[i] - began);
	}
	REQUIRE(last < (SHORT_MS + 150) * NS_PER_MS * harness_slower());
	note_tell(line, order);
	events_take(queue, &all, SUBMITS, clock_ns() + 10 * NS_PER_S);
	REQUIRE_EQ(all.count, SUBMITS);
	for (unsigned i = 1; i < SUBMITS; i += 2)
		REQUIRE_EQ(all.status[i], order.status);
	last = clock_ns();
	events_none(queue, &all);
	note_tell(line, (struct note){.what = TOLD_ASK, .words = {last}});
	story_close(&story);
}

/* Commits by movers, completing on the queue; the daemon may die before it answers. */
static void move(struct user *user, struct skep_queue *queue, int line, struct note order)
{
	struct story story = story_open(user, order.words[0], BLOCKS);
	struct skep_reserve reserve = {
		.struct_bytes = sizeof(reserve), .chain = story.chain, .count = BLOCKS};
	struct skep_commit commit = {
		.struct_bytes = sizeof(commit), .sums = SKEP_SUMS_MOVER, .queue = queue, .user = 3};
	struct skep_event events[BLOCKS + 1];
	struct skep_frame frames[BLOCKS];
	unsigned count = 0, right = 0, seen = 0;
	uint64_t until;

	while (!skep_attached(user->session))
		usleep(500);
	reserve.deadline_ns = skep_deadline_ms(1000);
	REQUIRE_EQ(skep_reserve(user->session, &reserve, frames), BLOCKS);
	for (unsigned i = 0; i < BLOCKS; i++)
		frame_fill(&story, &frames[i]);
	note_tell(line, order);
	commit.deadline_ns = skep_deadline_ms(2000);
	order.status = skep_commit(user->session, frames, BLOCKS, &commit);
	REQUIRE(order.status == BLOCKS || order.status == SKEP_EDOWN);
	for (until = clock_ns() + 3 * NS_PER_S; clock_ns() < until;) {
		int taken = skep_queue_take(queue, events, BLOCKS + 1);

		REQUIRE(taken >= 0);
		for (int i = 0; i < taken; i++) {
			REQUIRE_EQ(events[i].user, 3);
			REQUIRE(events[i].block < BLOCKS && !(seen & 1u << events[i].block));
			REQUIRE(events[i].status == 0 || events[i].status == SKEP_EDOWN);
			seen |= 1u << events[i].block;
			right += events[i].status == 0;
			count++;
		}
		/* A while longer, for one that came twice. */
		if (count == BLOCKS)
			until = MIN_OF(until, clock_ns() + 50 * NS_PER_MS);
		usleep(200);
	}
	REQUIRE_EQ(count, order.status < 0 ? 0 : BLOCKS);
	note_tell(line, (struct note){.what = TOLD_MOVE, .words = {right}});
	story_close(&story);
}

/* Fills the pool and pins all of it; a reserve that waits for room ends with the daemon. */
static void fill(struct user *user, int line, struct note order)
{
	struct skep_match held[FRAMES / BLOCKS];
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve), .count = 1};
	struct skep_frame frame;
	struct story story;
	uint64_t began;

	while (!skep_attached(user->session))
		usleep(500);
	for (unsigned i = 0; i < ARRAY_COUNT(held); i++) {
		story = story_open(user, order.words[0] + USER_FAMILY * i, BLOCKS);
		story_put_all(user, &story);
		held[i] = story_match(user, &story, SKEP_MATCH_PIN, NULL);
		REQUIRE_EQ(held[i].matched, BLOCKS);
		story_close(&story);
	}
	story = story_open(user, order.words[0] + 400, 1);
	reserve.chain = story.chain;
	began = clock_ns();
	reserve.deadline_ns = skep_deadline_ms(SHORT_MS);
	REQUIRE_EQ(skep_reserve(user->session, &reserve, &frame), -EAGAIN);
	REQUIRE(clock_ns() - began >= SHORT_MS * NS_PER_MS);
	REQUIRE(clock_ns() - began < (SHORT_MS + 150) * NS_PER_MS * harness_slower());
	note_tell(line, order);
	reserve.deadline_ns = skep_deadline_ms(10000);
	order.status = skep_reserve(user->session, &reserve, &frame);
	order.words[1] = clock_ns();
	note_tell(line, order);
	for (unsigned i = 0; i < ARRAY_COUNT(held); i++)
		skep_release(user->session, &held[i].pin);
	story_close(&story);
}

static void asker(int line, const void *socket)
{
	struct skep_queue *queue;
	struct user user;
	struct note note;

	user_open(&user, socket, &shape);
	REQUIRE_EQ(skep_queue_create(user.session, &queue), 0);
	note_tell(line, (struct note){.what = TOLD_READY});
	while ((note = note_hear(line)).what != TOLD_STOP) {
		if (note.what == TOLD_ASK)
			ask(&user, queue, line, note);
		else if (note.what == TOLD_MOVE)
			move(&user, queue, line, note);
		else
			fill(&user, line, note);
	}
	skep_queue_destroy(queue);
	user_close(&user);
}

/* ------------------------------------------------------------------------------------ the tests */

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

static void test_single_flight(const struct daemon *daemon)
{
	struct child flyers[FLYERS], late;
	struct flight flight, all = {0};

	for (unsigned i = 0; i < FLYERS; i++)
		flyers[i] = one_more("a flyer", flyer, daemon);
	for (uint64_t story = 0; story < FLIGHTS; story++) {
		uint64_t number = 1000 + USER_FAMILY * story;
		bool died = story % 3 == 2;

		/* Somebody else was first and dies with it half done. */
		if (died) {
			late = one_more("the first writer", holder, daemon);
			order(&late, (struct note){.what = TOLD_HOLD, .words = {number}});
		}
		for (unsigned i = 0; i < FLYERS; i++)
			note_tell(
				flyers[i].line, (struct note){.what = TOLD_FLY, .words = {number}});
		if (died) {
			usleep(unit_random(&harness_seed, 20000));
			child_kill(&late);
		}
		all.written = 0;
		for (unsigned i = 0; i < FLYERS; i++) {
			REQUIRE_EQ(
				line_hear(flyers[i].line, &flight, sizeof(flight)), sizeof(flight));
			all.written += flight.written;
			all.waited += flight.waited;
			all.given_up += flight.given_up;
		}
		/* Each block was computed once, whoever did it. */
		REQUIRE_EQ(all.written, BLOCKS);
	}
	printf("%u flights of %u clients: %u blocks got by waiting, %u waits taken over\n", FLIGHTS,
		FLYERS, all.waited, all.given_up);
	for (unsigned i = 0; i < FLYERS; i++) {
		note_tell(flyers[i].line, (struct note){.what = TOLD_STOP});
		child_finish(&flyers[i]);
	}
}

static void test_waits(struct daemon *daemon, const struct child *asks)
{
	struct child holds = one_more("the holder", holder, daemon);
	uint64_t died;
	struct note note;

	order(&holds, (struct note){.what = TOLD_HOLD, .words = {2000}});
	order(asks, (struct note){.what = TOLD_ASK, .words = {2000}});
	REQUIRE_EQ(order(&holds, (struct note){.what = TOLD_COMMIT}).status, BLOCKS);
	note_hear(asks->line);

	order(&holds, (struct note){.what = TOLD_HOLD, .words = {2004}});
	order(asks, (struct note){.what = TOLD_ASK, .status = SKEP_EGIVENUP, .words = {2004}});
	died = child_kill(&holds);
	note = note_hear(asks->line);
	printf("the writer died: all waits ended after %.1f ms\n",
		(double)(note.words[0] - MIN_OF(died, note.words[0])) / 1e6);

	holds = one_more("the holder", holder, daemon);
	order(&holds, (struct note){.what = TOLD_HOLD, .words = {2008}});
	order(asks, (struct note){.what = TOLD_ASK, .status = SKEP_EDOWN, .words = {2008}});
	died = daemon_kill(daemon);
	note = note_hear(asks->line);
	printf("the daemon died: all waits ended after %.1f ms\n",
		(double)(note.words[0] - MIN_OF(died, note.words[0])) / 1e6);
	REQUIRE(note.words[0] < died + 200 * NS_PER_MS * harness_slower());
	daemon_start(daemon);
	REQUIRE_EQ(order(&holds, (struct note){.what = TOLD_COMMIT}).status, SKEP_EDOWN);
	order(&holds, (struct note){.what = TOLD_HOLD, .words = {2012}});
	order(asks, (struct note){.what = TOLD_ASK, .words = {2012}});
	REQUIRE_EQ(order(&holds, (struct note){.what = TOLD_COMMIT}).status, BLOCKS);
	note_hear(asks->line);
	note_tell(holds.line, (struct note){.what = TOLD_STOP});
	child_finish(&holds);
}

static void test_movers(struct daemon *daemon, const struct child *asks)
{
	unsigned right = 0;
	struct note note;

	order(asks, (struct note){.what = TOLD_MOVE, .words = {3000}});
	REQUIRE_EQ(note_hear(asks->line).words[0], BLOCKS);
	for (uint64_t i = 1; i < 5; i++) {
		order(asks, (struct note){.what = TOLD_MOVE, .words = {3000 + USER_FAMILY * i}});
		usleep(unit_random(&harness_seed, 400));
		daemon_kill(daemon);
		note = note_hear(asks->line);
		right += (unsigned)note.words[0];
		daemon_start(daemon);
	}
	printf("commits under way when the daemon died: %u of %u done\n", right, 4 * BLOCKS);
}

static void test_blocked(struct daemon *daemon, const struct child *asks)
{
	uint64_t died;
	struct note note;

	order(asks, (struct note){.what = TOLD_FILL, .words = {4000}});
	sleep_ms(20);
	died = daemon_kill(daemon);
	note = note_hear(asks->line);
	REQUIRE_EQ(note.status, SKEP_EDOWN);
	REQUIRE(note.words[1] < died + 200 * NS_PER_MS * harness_slower());
	daemon_start(daemon);
}

int main(int argc, char **argv)
{
	struct daemon daemon;
	struct child asks;

	harness_begin(&(struct harness_options){argc, argv, 25, 0});
	daemon_init(&daemon, (struct daemon_size){DRAM_BYTES, 4096});
	daemon_start(&daemon);
	test_single_flight(&daemon);
	asks = one_more("the asker", asker, &daemon);
	test_waits(&daemon, &asks);
	test_movers(&daemon, &asks);
	test_blocked(&daemon, &asks);
	note_tell(asks.line, (struct note){.what = TOLD_STOP});
	child_finish(&asks);
	daemon_stop(&daemon);
	return 0;
}
