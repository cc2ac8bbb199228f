/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients killed -9 at random points: what they held is back within a second of the end of the
 * process, who waited for their blocks wakes and takes over, and nobody else notices.
 *
 *	kill_client_test [KILLS] [--seed N]
 */
#include <errno.h>

#include "tests/node/user.h"

enum {
	DRAM_BYTES = 8 << 20,
	PART_BYTES = 64 << 10,
	BLOCKS = 4, /* of a story */
	BASE_STORIES = 4,
	PINS_HELD = 16,
};

/* Where in its work a client is killed. */
enum role { RESERVING, WRITING, COMMITTING, PINNED, WAITING, OPENING, ROLES };

static const char *const role_names[ROLES] = {
	"reserving", "writing", "committing", "pinned", "waiting", "opening"};

static const struct shape shape = {
	.space = "kill", .block_tokens = 16, .parts = 1, .ranges = 4, .part_bytes = PART_BYTES};

/* What a client is to do; handed over at its start. */
struct part_in_it {
	const char *socket;
	enum role role;
	uint64_t story; /* of its own */
	uint64_t awaited;
};

enum { TOLD_READY = 1, TOLD_WORK, TOLD_STOP };

/* ------------------------------------------------------------------------------------- victims */

static void ready(int line)
{
	note_tell(line, (struct note){.what = TOLD_READY});
}

static int reserve_all(struct user *user, const struct story *story, struct skep_frame *frames)
{
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve),
		.chain = story->chain,
		.count = story->blocks,
		.deadline_ns = skep_deadline_ms(1000)};

	return skep_reserve(user->session, &reserve, frames);
}

static void victim_reserving(struct user *user, int line, uint64_t number)
{
	struct skep_frame frames[BLOCKS];

	for (bool told = false;; number++) {
		struct story story = story_open(user, number, BLOCKS);
		int reserved = reserve_all(user, &story, frames);

		REQUIRE(reserved > 0);
		if (!told)
			ready(line);
		told = true;
		skep_abort(user->session, frames, (unsigned)reserved);
		story_close(&story);
	}
}

static void victim_writing(struct user *user, int line, uint64_t number)
{
	struct story story = story_open(user, number, BLOCKS);
	struct skep_frame frames[BLOCKS];

	REQUIRE_EQ(reserve_all(user, &story, frames), BLOCKS);
	ready(line);
	for (unsigned i = 0;; i = (i + 1) % BLOCKS)
		memset(frames[i].bytes, 0x5a, frames[i].length);
}

static void victim_committing(struct user *user, int line, uint64_t number)
{
	for (bool told = false;; number++) {
		struct story story = story_open(user, number, BLOCKS);
		struct putting what = {.count = BLOCKS,
			.deadline_ns = skep_deadline_ms(1000),
			.sums = number % 2 ? SKEP_SUMS_MOVER : SKEP_SUMS_HERE};

		story_put(user, &story, &what);
		if (!told)
			ready(line);
		told = true;
		story_close(&story);
	}
}

static void victim_pinned(struct user *user, int line, uint64_t number)
{
	struct skep_pin pins[PINS_HELD] = {0};
	struct story stories[BASE_STORIES];
	uint64_t state = number;

	for (unsigned i = 0; i < BASE_STORIES; i++)
		stories[i] = story_open(user, i, BLOCKS);
	for (unsigned turn = 0;; turn++) {
		struct skep_pin *pin = &pins[turn % PINS_HELD];
		struct story *story = &stories[unit_random(&state, BASE_STORIES)];
		struct skep_ref refs[BLOCKS];
		struct skep_match match;

		skep_release(user->session, pin);
		match = story_match(user, story, SKEP_MATCH_PIN, refs);
		story_check(user, story, refs, 0, match.matched);
		*pin = match.pin;
		if (turn == PINS_HELD)
			ready(line);
	}
}

static void victim_waiting(struct user *user, int line, uint64_t awaited)
{
	struct story story = story_open(user, awaited, BLOCKS);

	ready(line);
	for (;;) {
		struct skep_wait wait = {.struct_bytes = sizeof(wait),
			.chain = story.chain,
			.block = 0,
			.deadline_ns = SKEP_FOREVER};

		REQUIRE_EQ(skep_wait(user->session, &wait), SKEP_EGIVENUP);
	}
}

static void victim_opening(const struct part_in_it *part, int line)
{
	for (bool told = false;; told = true) {
		struct user user;

		user_open(&user, part->socket, &shape);
		if (!told)
			ready(line);
		user_close(&user);
	}
}

static void victim(int line, const void *arg)
{
	const struct part_in_it *part = arg;
	struct user user;

	if (part->role == OPENING)
		victim_opening(part, line);
	user_open(&user, part->socket, &shape);
	if (part->role == RESERVING)
		victim_reserving(&user, line, part->story);
	else if (part->role == WRITING)
		victim_writing(&user, line, part->story);
	else if (part->role == COMMITTING)
		victim_committing(&user, line, part->story);
	else if (part->role == PINNED)
		victim_pinned(&user, line, part->story);
	else
		victim_waiting(&user, line, part->awaited);
}

/* ---------------------------------------------------------------------------------- the others */

/* Matches, reads and puts throughout; nothing of it may fail. */
static void bystander(int line, const void *arg)
{
	const struct part_in_it *part = arg;
	uint64_t number = part->story, slowest = 0, turns = 0, had = 0;
	struct user user;

	user_open(&user, part->socket, &shape);
	ready(line);
	for (; !line_told(line); number++, turns++) {
		uint64_t began = clock_ns();
		struct story fresh = story_open(&user, number, BLOCKS);
		struct story base = story_open(&user, number % BASE_STORIES, BLOCKS);

		story_put_all(&user, &base);
		story_put_all(&user, &fresh);
		had += story_get(&user, &base);
		had += story_get(&user, &fresh);
		slowest = MAX_OF(slowest, clock_ns() - began);
		story_close(&fresh);
		story_close(&base);
	}
	note_tell(line, (struct note){.words = {turns, had, slowest}});
	user_close(&user);
}

/* Waits for blocks of others and takes over when they give up. */
static void heir(int line, const void *arg)
{
	const struct part_in_it *part = arg;
	struct note note;
	struct user user;

	user_open(&user, part->socket, &shape);
	ready(line);
	while ((note = note_hear(line)).what == TOLD_WORK) {
		struct story story = story_open(&user, note.words[0], BLOCKS);
		struct skep_wait wait = {.struct_bytes = sizeof(wait),
			.chain = story.chain,
			.block = (uint32_t)note.words[1],
			.deadline_ns = skep_deadline_ms(5000 * harness_slower())};
		struct note answer = {.what = TOLD_WORK};

		ready(line);
		answer.status = skep_wait(user.session, &wait);
		answer.words[0] = clock_ns();
		/* Others fill a pool of some hundred blocks: it may be evicted before it is looked
		 * at, where this process has to wait for a processor. */
		do {
			story_put_all(&user, &story);
			answer.words[1] = story_get(&user, &story);
		} while (answer.words[1] < BLOCKS && clock_ns() < wait.deadline_ns);
		note_tell(line, answer);
		story_close(&story);
	}
	user_close(&user);
}

/* Holds a block pending for the whole test. */
static void dawdler(int line, const void *arg)
{
	const struct part_in_it *part = arg;
	struct skep_frame frames[BLOCKS];
	struct story story;
	struct user user;

	user_open(&user, part->socket, &shape);
	story = story_open(&user, part->awaited, BLOCKS);
	REQUIRE_EQ(reserve_all(&user, &story, frames), BLOCKS);
	ready(line);
	note_hear(line);
	skep_abort(user.session, frames, BLOCKS);
	user_close(&user);
}

/* When all is over: nothing is held, and the whole pool can be put anew. */
static void auditor(int line, const void *arg)
{
	const struct part_in_it *part = arg;
	struct user user;

	(void)line;
	user_open(&user, part->socket, &shape);
	user_wait_idle(&user);
	REQUIRE_EQ(user_stats(&user).sessions, 1);
	for (uint64_t i = 0; i < DRAM_BYTES / PART_BYTES / BLOCKS; i++) {
		struct story story = story_open(&user, part->story + i, BLOCKS);

		story_put_all(&user, &story);
		REQUIRE_EQ(story_get(&user, &story), BLOCKS);
		story_close(&story);
	}
	user_close(&user);
}

/* ----------------------------------------------------------------------------------- the test */

static struct child one_more(const char *name, child_body *body, const struct part_in_it *part)
{
	struct child child;

	child_start(&child, name, body, part);
	REQUIRE_EQ(note_hear(child.line).what, TOLD_READY);
	return child;
}

struct worst {
	uint64_t gone_ns, woken_ns;
	unsigned kills[ROLES];
};

/* The heir waits for a block that the victim writes; returns when the daemon knows of it. */
static void heir_wait(const struct daemon *daemon, const struct child *waiter, struct note note)
{
	uint64_t until = clock_ns() + NS_PER_S * harness_slower(), before;
	struct realm_status realm;

	daemon_realm(daemon, 0, &realm);
	before = realm.waiters;
	note_tell(waiter->line, note);
	REQUIRE_EQ(note_hear(waiter->line).what, TOLD_READY);
	while (realm.waiters == before) {
		REQUIRE(clock_ns() < until);
		usleep(100);
		daemon_realm(daemon, 0, &realm);
	}
}

static void kill_one(const struct daemon *daemon, const struct child *waiter,
	struct part_in_it part, struct worst *worst)
{
	uint64_t limit_ns = NS_PER_S * harness_slower(), ended, gone;
	struct child child = one_more(role_names[part.role], victim, &part);
	pid_t pid = child.pid;

	if (part.role == WRITING)
		heir_wait(daemon, waiter,
			(struct note){.what = TOLD_WORK,
				.words = {part.story, unit_random(&harness_seed, BLOCKS)}});
	usleep(unit_random(&harness_seed, 4000));
	ended = child_kill(&child);
	gone = daemon_wait_gone(daemon, pid, ended + limit_ns);
	worst->gone_ns = MAX_OF(worst->gone_ns, gone - ended);
	worst->kills[part.role]++;
	if (part.role == WRITING) {
		struct note note = note_hear(waiter->line);

		REQUIRE_EQ(note.status, SKEP_EGIVENUP);
		REQUIRE_EQ(note.words[1], BLOCKS);
		REQUIRE(note.words[0] < ended + limit_ns);
		if (note.words[0] > ended)
			worst->woken_ns = MAX_OF(worst->woken_ns, note.words[0] - ended);
	}
}

int main(int argc, char **argv)
{
	struct part_in_it part = {.story = 1000};
	struct child checker, waiter, holder, last;
	struct worst worst = {0};
	struct daemon daemon;
	struct note note;

	harness_begin(&(struct harness_options){argc, argv, 25, 25});
	daemon_init(&daemon, (struct daemon_size){DRAM_BYTES, 4096});
	daemon_start(&daemon);
	part.socket = daemon.config.socket_path;
	part.awaited = 500;
	holder = one_more("the dawdler", dawdler, &part);
	checker = one_more("the bystander", bystander, &part);
	waiter = one_more("the heir", heir, &part);
	for (uint64_t i = 0; i < harness_count; i++) {
		part.role = (enum role)(i % ROLES);
		part.story = 1000000 * (i + 2);
		kill_one(&daemon, &waiter, part, &worst);
	}
	note_tell(checker.line, (struct note){.what = TOLD_STOP});
	note = note_hear(checker.line);
	child_finish(&checker);
	note_tell(waiter.line, (struct note){.what = TOLD_STOP});
	child_finish(&waiter);
	note_tell(holder.line, (struct note){.what = TOLD_STOP});
	child_finish(&holder);
	part.story = 1;
	child_start(&last, "the auditor", auditor, &part);
	child_finish(&last);
	daemon_stop(&daemon);
	printf("%llu kills", (unsigned long long)harness_count);
	for (unsigned i = 0; i < ROLES; i++)
		printf(", %u %s", worst.kills[i], role_names[i]);
	printf("\nback after %.1f ms at most, waiters awake after %.1f ms\n",
		(double)worst.gone_ns / 1e6, (double)worst.woken_ns / 1e6);
	printf("the bystander: %llu turns, %llu blocks had, slowest turn %.1f ms\n",
		(unsigned long long)note.words[0], (unsigned long long)note.words[1],
		(double)note.words[2] / 1e6);
	REQUIRE(note.words[0] > 0 && note.words[1] > 0);
	return 0;
}
