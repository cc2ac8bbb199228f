/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several processes match, pin, read, copy, put, wait, peek, purge on a pool far smaller than what
 * they want, for a while: never a wrong byte, and at the end nothing is held.
 *
 *	race_processes_test [SECONDS] [--seed N]
 */
#include <errno.h>

#include "tests/node/user.h"

enum {
	CLIENTS = 4,
	DRAM_BYTES = 2 << 20,
	PART_BYTES = 16 << 10,
	BLOCKS_MAX = 12,
	STORIES = 40, /* four times what the pool holds */
	HELD = 3,     /* runs that a client keeps pinned */
	TOLD_READY = 1,
};

static const struct shape shape = {
	.space = "race", .block_tokens = 16, .parts = 2, .ranges = 2, .part_bytes = PART_BYTES};

struct racing {
	const char *socket;
	uint64_t seed;
	bool purges;
};

/* What one client did. */
struct tally {
	uint64_t matched, put, copied, stale_copies, refs_pinned, refs_lost, waits, refused, purges;
};

/* A run that stays pinned while other things go on, and the pointers into it. */
struct hold {
	struct story story;
	struct skep_pin pin;
	uint32_t count;
	struct skep_view views[BLOCKS_MAX][2];
};

struct racer {
	struct user user;
	uint64_t state;
	struct hold holds[HELD];
	struct tally tally;
};

static struct story random_story(struct racer *racer)
{
	return story_open(&racer->user, unit_random(&racer->state, STORIES),
		1 + unit_random(&racer->state, BLOCKS_MAX));
}

/* Pointers to a pinned run. A block that a purge took out by force gives none any more; those that
 * were given stay right until the release. */
static void hold_begin(struct racer *racer, struct hold *hold, const struct skep_ref *refs)
{
	for (uint32_t i = 0; i < hold->count; i++) {
		for (uint32_t part = 0; part < shape.parts; part++) {
			int status = skep_view(
				racer->user.session, &refs[i], part, &hold->views[i][part]);

			REQUIRE(status == 0 || status == -ESTALE);
			if (status < 0)
				hold->views[i][part].bytes = NULL;
		}
	}
}

static void hold_end(struct racer *racer, struct hold *hold)
{
	for (uint32_t i = 0; i < hold->count; i++)
		for (uint32_t part = 0; part < shape.parts; part++)
			if (hold->views[i][part].bytes)
				view_check(&hold->story, hold->views[i][part], i, part);
	skep_release(racer->user.session, &hold->pin);
	story_close(&hold->story);
}

static void hold_match(struct racer *racer, struct hold *hold)
{
	struct skep_ref refs[BLOCKS_MAX];
	struct skep_match match;

	hold->story = random_story(racer);
	match = story_match(&racer->user, &hold->story, SKEP_MATCH_PIN, refs);
	hold->pin = match.pin;
	hold->count = match.matched;
	hold_begin(racer, hold, refs);
	racer->tally.matched += match.matched;
}

/* Ends an old run, after a last look at its bytes, and pins a new one. */
static void turn_hold(struct racer *racer)
{
	struct hold *hold = &racer->holds[unit_random(&racer->state, HELD)];

	if (hold->story.chain)
		hold_end(racer, hold);
	hold_match(racer, hold);
}

static void turn_get(struct racer *racer)
{
	struct hold hold;

	hold_match(racer, &hold);
	hold_end(racer, &hold);
}

static void turn_put(struct racer *racer)
{
	struct story story = random_story(racer);

	for (uint32_t part = 0; part < shape.parts; part++) {
		struct put_result result = story_put(&racer->user, &story,
			&(struct putting){.count = story.blocks,
				.part = part,
				.deadline_ns = skep_deadline_ms(unit_random(&racer->state, 5)),
				.sums = part ? SKEP_SUMS_MOVER : SKEP_SUMS_HERE});

		/* Too little room, a parent that left, a writer of the same: all in the game. */
		if (result.status != -EAGAIN && result.status != SKEP_EPARENT &&
			result.status != -ETIMEDOUT)
			REQUIRE_EQ(result.status, 0);
		racer->tally.put += result.committed;
		racer->tally.refused += result.status < 0;
	}
	story_close(&story);
}

/* Reserves and gives back, half written. */
static void turn_abort(struct racer *racer)
{
	struct story story = random_story(racer);
	struct skep_frame frames[BLOCKS_MAX];
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve),
		.chain = story.chain,
		.count = story.blocks,
		.part = unit_random(&racer->state, 2)};
	int answered = skep_reserve(racer->user.session, &reserve, frames);

	for (int i = 0; i < answered; i++)
		if (frames[i].status == 0)
			memset(frames[i].bytes, 0xcc, frames[i].length / 2);
	if (answered > 0)
		skep_abort(racer->user.session, frames, (unsigned)answered);
	story_close(&story);
}

/* References without a pin: copied, or pinned later by somebody, or gone. */
static void turn_peek(struct racer *racer)
{
	struct story story = random_story(racer);
	struct skep_ref refs[BLOCKS_MAX];
	struct skep_match match = story_match(&racer->user, &story, SKEP_MATCH_PEEK, refs);
	struct hold hold = {.story = story};
	int pinned;

	if (unit_random(&racer->state, 4) == 0)
		usleep(unit_random(&racer->state, 500));
	for (uint32_t i = 0; i < match.matched; i++) {
		int64_t copied = story_copy(
			&racer->user, &story, &refs[i], i, unit_random(&racer->state, 2));

		REQUIRE(copied == PART_BYTES || copied == -ESTALE);
		racer->tally.copied += copied > 0;
		racer->tally.stale_copies += copied < 0;
	}
	pinned = skep_pin_refs(racer->user.session, refs, match.matched, &hold.pin);
	REQUIRE(pinned >= 0 && (uint32_t)pinned <= match.matched);
	hold.count = (uint32_t)pinned;
	racer->tally.refs_pinned += (uint64_t)pinned;
	racer->tally.refs_lost += match.matched - (uint64_t)pinned;
	hold_begin(racer, &hold, refs);
	hold_end(racer, &hold);
}

static void turn_wait(struct racer *racer)
{
	struct story story = random_story(racer);
	struct skep_wait wait = {.struct_bytes = sizeof(wait),
		.chain = story.chain,
		.block = story.blocks - 1,
		.deadline_ns = skep_deadline_ms(5)};

	if (skep_wait(racer->user.session, &wait) == 0)
		racer->tally.waits++;
	skep_hint(racer->user.session, story.chain, 0,
		unit_random(&racer->state, 2) ? SKEP_HINT_OPEN : SKEP_HINT_DONE);
	story_close(&story);
}

/* Everything goes by force; what others hold must stay until they let go. */
static void turn_purge(struct racer *racer)
{
	if (unit_random(&racer->state, 2))
		REQUIRE(skep_space_purge(racer->user.space, skep_deadline_ms(5000)) >= 0);
	else
		REQUIRE(skep_space_step(racer->user.space, skep_deadline_ms(5000)) >= 0);
	racer->tally.purges++;
}

static void racer_body(int line, const void *arg)
{
	const struct racing *racing = arg;
	struct racer racer = {.state = racing->seed};

	user_open(&racer.user, racing->socket, &shape);
	note_tell(line, (struct note){.what = TOLD_READY});
	while (!line_told(line)) {
		uint32_t dice = unit_random(&racer.state, 1000);

		if (dice < 250)
			turn_hold(&racer);
		else if (dice < 400)
			turn_get(&racer);
		else if (dice < 650)
			turn_put(&racer);
		else if (dice < 750)
			turn_abort(&racer);
		else if (dice < 900)
			turn_peek(&racer);
		else if (dice < 998 || !racing->purges)
			turn_wait(&racer);
		else
			turn_purge(&racer);
	}
	for (unsigned i = 0; i < HELD; i++)
		if (racer.holds[i].story.chain)
			hold_end(&racer, &racer.holds[i]);
	line_tell(line, &racer.tally, sizeof(racer.tally));
	user_close(&racer.user);
}

int main(int argc, char **argv)
{
	struct child racers[CLIENTS];
	struct tally all = {0}, one;
	struct realm_status realm;
	struct racing racing;
	struct daemon daemon;

	harness_begin(&(struct harness_options){argc, argv, 25, 5});
	daemon_init(&daemon, (struct daemon_size){DRAM_BYTES, 512});
	/* Blocks of which one part found no room hold the other's frames no longer than this. */
	daemon.realms[0].age_limit_ns = 100 * NS_PER_MS;
	daemon_start(&daemon);
	racing.socket = daemon.config.socket_path;
	for (unsigned i = 0; i < CLIENTS; i++) {
		racing.seed = mix64(harness_seed + i);
		racing.purges = i == 0;
		child_start(&racers[i], "a racer", racer_body, &racing);
		REQUIRE_EQ(note_hear(racers[i].line).what, TOLD_READY);
	}
	for (uint64_t until = clock_ns() + harness_count * NS_PER_S; clock_ns() < until;) {
		/* A racer that found wrong bytes has gone. */
		for (unsigned i = 0; i < CLIENTS; i++)
			REQUIRE(waitpid(racers[i].pid, NULL, WNOHANG) == 0);
		sleep_ms(50);
	}
	for (unsigned i = 0; i < CLIENTS; i++) {
		uint64_t *sum = (uint64_t *)&all, *add = (uint64_t *)&one;

		note_tell(racers[i].line, (struct note){0});
		REQUIRE_EQ(line_hear(racers[i].line, &one, sizeof(one)), sizeof(one));
		child_finish(&racers[i]);
		for (unsigned k = 0; k < sizeof(one) / sizeof(*sum); k++)
			sum[k] += add[k];
	}
	daemon_realm(&daemon, 0, &realm);
	daemon_stop(&daemon);
	printf("%llu blocks matched, %llu parts put (%llu puts refused), %llu copied, %llu copies "
	       "stale, %llu references pinned, %llu lost, %llu waits, %llu purges; %llu evicted, "
	       "%llu withdrawn\n",
		(unsigned long long)all.matched, (unsigned long long)all.put,
		(unsigned long long)all.refused, (unsigned long long)all.copied,
		(unsigned long long)all.stale_copies, (unsigned long long)all.refs_pinned,
		(unsigned long long)all.refs_lost, (unsigned long long)all.waits,
		(unsigned long long)all.purges,
		(unsigned long long)realm.counters[REALM_COUNTER_blocks_evicted],
		(unsigned long long)realm.counters[REALM_COUNTER_evictions_withdrawn]);
	REQUIRE(all.matched && all.put && all.copied && all.refs_pinned && all.purges);
	REQUIRE_EQ(realm.pins, 0);
	REQUIRE_EQ(realm.reservations, 0);
	REQUIRE_EQ(realm.sessions, 0);
	REQUIRE_EQ(realm.blocks_removed, 0);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_sessions_broken], 0);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_blocks_quarantined], 0);
	return 0;
}
