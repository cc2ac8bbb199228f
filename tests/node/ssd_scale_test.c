/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many small blocks: after a sync and kill -9 the next daemon serves within two seconds of its
 * start and has every one of them, and its memory grows with them by no more than was promised.
 *
 *	ssd_scale_test [BLOCKS] [--seed N]
 */
#include "tests/node/user.h"
#include "tiering/ssd/ssd.h"

enum {
	WRITERS = 2,
	RESTARTS = 3,
	TOKENS = 16,
	STORY_BLOCKS = USER_BLOCKS_MAX,
	PART_BYTES = 4096,
	FEWER = 4, /* memory is measured between this part of the blocks and all of them */
#ifdef UNIT_SANITIZED
	BLOCKS = 50000,
#else
	BLOCKS = 100000, /* a million in ./dev campaign ssd-scale */
#endif
	DEADLINE_MS = 60000,
};

/* Besides 192 bytes: tokens, a sum, heads of the list of the evicted (16 bytes a slot). */
#define BYTES_BESIDE  (TOKENS * 4 + 8 + 16.0)
#define BYTES_A_BLOCK 192.0
/* What two lives of a process differ by anyway: buffers of one size, as far as they were used. With
 * fewer blocks it would outweigh them. */
#define NOISE_BYTES    (1536 << 10)
#define MEASURE_BLOCKS 500000

static const struct shape shape = {.space = "scale",
	.block_tokens = TOKENS,
	.parts = 1,
	.ranges = 1,
	.part_bytes = PART_BYTES};

struct share {
	const char *socket;
	uint64_t from, stories;
};

static struct story story_alone(struct user *user, uint64_t i)
{
	return story_open(user, i * USER_FAMILY, STORY_BLOCKS);
}

static void writer(int line, const void *arg)
{
	const struct share *share = arg;
	struct user user;

	(void)line;
	user_open(&user, share->socket, &shape);
	for (uint64_t i = share->from; i < share->stories; i += WRITERS) {
		struct story story = story_alone(&user, i);
		struct putting what = {
			.count = STORY_BLOCKS, .deadline_ns = skep_deadline_ms(DEADLINE_MS)};
		struct put_result result = story_put(&user, &story, &what);

		REQUIRE_EQ(result.status, 0);
		REQUIRE_EQ(result.committed, STORY_BLOCKS);
		story_close(&story);
	}
	user_close(&user);
}

static void stories_put(const struct daemon *daemon, uint64_t stories)
{
	struct child writers[WRITERS];

	for (unsigned i = 0; i < WRITERS; i++) {
		struct share share = {daemon->config.socket_path, i, stories};

		child_start(&writers[i], "a writer", writer, &share);
	}
	for (unsigned i = 0; i < WRITERS; i++) {
		while (child_runs(&writers[i]))
			sleep_ms(10);
		child_finish(&writers[i]);
	}
}

/* Of the daemon, pool and index among it. */
static uint64_t resident(const struct daemon *daemon)
{
	unsigned long all, pages = 0;
	char path[64];
	FILE *statm;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)daemon->child.pid);
	statm = fopen(path, "re");
	REQUIRE(statm && fscanf(statm, "%lu %lu", &all, &pages) == 2);
	fclose(statm);
	return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Processor time that the daemon took since its start; a machine that is busy with others shows. */
static double processor_ms(const struct daemon *daemon)
{
	unsigned long user = 0, system = 0;
	char path[64];
	FILE *stat;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)daemon->child.pid);
	stat = fopen(path, "re");
	REQUIRE(stat &&
		fscanf(stat, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
			&user, &system) == 2);
	fclose(stat);
	return (double)(user + system) * 1000 / (double)sysconf(_SC_CLK_TCK);
}

/* The test itself uses no client: it forks. */
enum visit { VISIT_SYNC, VISIT_FIRST, VISIT_SOME };

struct visiting {
	const char *socket;
	enum visit what;
	uint64_t stories, seed;
};

static void story_had(struct user *user, uint64_t number)
{
	struct story story = story_alone(user, number);

	REQUIRE_EQ(story_load(user, &story), STORY_BLOCKS);
	story_close(&story);
}

static void visitor(int line, const void *arg)
{
	struct visiting visit = *(const struct visiting *)arg;
	struct user user;

	while (user_try(&user, visit.socket, &shape, NULL) < 0)
		usleep(1000);
	if (visit.what == VISIT_SYNC)
		REQUIRE_EQ(skep_sync(user.space, skep_deadline_ms(DEADLINE_MS)), 0);
	else if (visit.what == VISIT_FIRST)
		story_had(&user, visit.stories - 1);
	else
		for (unsigned i = 0; i < 200; i++)
			story_had(&user, unit_random(&visit.seed, (uint32_t)visit.stories));
	note_tell(line, (struct note){.words = {clock_ns()}});
	user_close(&user);
}

/* Return: when it was done. With VISIT_FIRST: a story was found on the ssd and had, as soon as
 * anybody answered. */
static uint64_t visited(const struct daemon *daemon, enum visit what, uint64_t stories)
{
	struct visiting visit = {daemon->config.socket_path, what, stories, harness_seed};
	struct child child;
	struct note note;

	child_start(&child, "a visitor", visitor, &visit);
	note = note_hear(child.line);
	child_finish(&child);
	return note.words[0];
}

struct figures {
	uint64_t resident_before, resident_after; /* the kill */
	uint64_t served_ns;
};

/* What was to be kept is there, to the block. */
static void counts_are(const struct daemon *daemon, uint64_t blocks)
{
	struct realm_status realm;

	daemon_realm(daemon, 0, &realm);
	REQUIRE_EQ(realm.blocks_ssd, blocks);
	REQUIRE_EQ(realm.blocks_present, blocks);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_blocks_evicted], 0);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_blocks_quarantined], 0);
	REQUIRE_EQ(realm.ssd_live_bytes, blocks * PART_BYTES + 4096); /* the space's record */
}

static void restart(struct daemon *daemon, uint64_t stories, struct figures *figures)
{
	uint64_t blocks = stories * STORY_BLOCKS, served_ns;

	daemon_kill(daemon);
	daemon_begin(daemon);
	served_ns = visited(daemon, VISIT_FIRST, stories) - daemon->started_ns;
	printf("%llu blocks found again, served %.0f ms after the start (%.0f ms of a processor)\n",
		(unsigned long long)blocks, (double)served_ns / 1e6, processor_ms(daemon));
	REQUIRE_EQ(daemon_await(daemon), 0);
	counts_are(daemon, blocks);
	figures->served_ns = MIN_OF(figures->served_ns, served_ns);
	figures->resident_after = resident(daemon);
}

static void scale(uint64_t stories, uint64_t ssd_bytes, struct figures *figures)
{
	uint64_t blocks = stories * STORY_BLOCKS, began = clock_ns();
	struct daemon daemon;

	daemon_init(
		&daemon, (struct daemon_size){.dram_bytes = 128 << 20, .blocks = (uint32_t)blocks});
	daemon.realms[0].record_bytes = blocks * 96 + (8 << 20);
	daemon.realms[0].ssd_bytes = ssd_bytes;
	daemon_ssd_add(&daemon, "ssd", ssd_bytes + (1 << 20));
	daemon_start(&daemon);
	stories_put(&daemon, stories);
	visited(&daemon, VISIT_SYNC, stories);
	printf("%llu blocks put and synced in %.1f s\n", (unsigned long long)blocks,
		(double)(clock_ns() - began) / 1e9);
	counts_are(&daemon, blocks);
	figures->resident_before = resident(&daemon);
	/* The quickest counts: what else the machine does is not the daemon's. */
	figures->served_ns = UINT64_MAX;
	for (unsigned i = 0; i < RESTARTS; i++)
		restart(&daemon, stories, figures);
	visited(&daemon, VISIT_SOME, stories);
	counts_are(&daemon, blocks);
	daemon_stop(&daemon);
	unlink(daemon.ssds[0].path);
	fflush(stdout);
}

static void memory_is_as_promised(
	uint64_t more, uint64_t few_bytes, uint64_t many_bytes, const char *when)
{
	double measured = ((double)many_bytes - (double)few_bytes) / (double)more - BYTES_BESIDE;

	if (more < MEASURE_BLOCKS) /* so it is with a sanitizer, which has its own beside it */
		return;
	printf("%.1f bytes of memory a block %s\n", measured, when);
	REQUIRE(measured <= BYTES_A_BLOCK + NOISE_BYTES / (double)more);
	REQUIRE(measured > 150); /* else it was not measured */
}

int main(int argc, char **argv)
{
	uint64_t stories, fewer, ssd_bytes;
	struct figures few, many;

	harness_begin(&(struct harness_options){
		.argc = argc, .argv = argv, .seconds = 60, .count = BLOCKS});
	stories = divide_up(harness_count, STORY_BLOCKS);
	fewer = stories / FEWER;
	ssd_bytes = ssd_bytes_for(stories * STORY_BLOCKS * PART_BYTES + (1 << 20));
	harness_need_disk(ssd_bytes + (512ull << 20));
	scale(fewer, ssd_bytes, &few);
	scale(stories, ssd_bytes, &many);
	REQUIRE(many.served_ns < 2 * NS_PER_S * harness_slower());
	memory_is_as_promised((stories - fewer) * STORY_BLOCKS, few.resident_before,
		many.resident_before, "that was put");
	memory_is_as_promised((stories - fewer) * STORY_BLOCKS, few.resident_after,
		many.resident_after, "that was found again");
	return 0;
}
