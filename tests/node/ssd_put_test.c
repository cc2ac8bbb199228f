/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Far more than DRAM holds is put as fast as it goes, by writers that wait: everything comes back
 * right, nothing is refused, nothing is shed.
 *
 *	ssd_put_test [STORIES] [--seed N]
 */
#include "tests/node/user.h"

enum {
	WRITERS = 2,
	PART_BYTES = 1 << 20,
#ifdef UNIT_SANITIZED
	/* A sanitizer's daemon is slow: a sixth of it all. */
	DRAM_MIB = 84,
	SSD_MIB = 700,
	NEEDED_MIB = 1024,
	BLOCKS = 30, /* one load takes half of the pool at most */
	STORIES = 8,
#else
	DRAM_MIB = 512,
	SSD_MIB = 4096,
	NEEDED_MIB = 6144,
	BLOCKS = 60,
	STORIES = 25, /* 1,500 blocks */
#endif
	DEADLINE_MS = 120000,
};

static const struct shape shape = {
	.space = "put", .block_tokens = 16, .parts = 1, .ranges = 2, .part_bytes = PART_BYTES};

struct share {
	const char *socket;
	uint64_t from, step;
};

/* Stories of one number share their beginning with nobody. */
static struct story story_alone(struct user *user, uint64_t i)
{
	return story_open(user, i * USER_FAMILY, BLOCKS);
}

static void writer(int line, const void *arg)
{
	const struct share *share = arg;
	struct user user;

	user_open(&user, share->socket, &shape);
	note_hear(line);
	for (uint64_t i = share->from; i < harness_count; i += share->step) {
		struct story story = story_alone(&user, i);
		struct putting what = {
			.count = BLOCKS, .deadline_ns = skep_deadline_ms(DEADLINE_MS)};
		struct put_result result = story_put(&user, &story, &what);

		REQUIRE_EQ(result.status, 0);
		REQUIRE_EQ(result.committed, BLOCKS);
		story_close(&story);
	}
	user_close(&user);
}

static double mib_a_second(uint64_t began_ns)
{
	return (double)(harness_count * BLOCKS) / ((double)(clock_ns() - began_ns) / 1e9);
}

static void all_comes_back(const struct daemon *daemon)
{
	uint64_t had = 0, began = clock_ns();
	struct user user;

	user_open(&user, daemon->config.socket_path, &shape);
	for (uint64_t i = 0; i < harness_count; i++) {
		struct story story = story_alone(&user, i);

		had += story_load(&user, &story);
		story_close(&story);
	}
	user_close(&user);
	printf("%llu of %llu blocks came back right, %.0f MiB/s\n", (unsigned long long)had,
		(unsigned long long)(harness_count * BLOCKS), mib_a_second(began));
	REQUIRE_EQ(had, harness_count * BLOCKS);
}

static void nothing_was_in_the_way(const struct daemon *daemon)
{
	struct realm_status realm;

	daemon_realm(daemon, 0, &realm);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_puts_refused], 0);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_blocks_shed], 0);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_blocks_evicted], 0);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_blocks_given_up], 0);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_blocks_published], harness_count * BLOCKS);
}

int main(int argc, char **argv)
{
	struct child writers[WRITERS];
	struct daemon daemon;
	uint64_t began;

	harness_begin(&(struct harness_options){
		.argc = argc, .argv = argv, .seconds = 100, .count = STORIES});
	harness_need_disk((uint64_t)NEEDED_MIB << 20);
	daemon_init(&daemon,
		(struct daemon_size){.dram_bytes = (uint64_t)DRAM_MIB << 20, .blocks = 8192});
	daemon.realms[0].ssd_bytes = (uint64_t)SSD_MIB << 20;
	daemon_ssd_add(&daemon, "ssd", ((uint64_t)SSD_MIB + 16) << 20);
	daemon_start(&daemon);
	for (unsigned i = 0; i < WRITERS; i++) {
		struct share share = {daemon.config.socket_path, i, WRITERS};

		child_start(&writers[i], "a writer", writer, &share);
	}
	began = clock_ns();
	for (unsigned i = 0; i < WRITERS; i++)
		note_tell(writers[i].line, (struct note){0});
	for (unsigned i = 0; i < WRITERS; i++) {
		/* As long as it takes; the test's own end is the limit. */
		while (child_runs(&writers[i]))
			sleep_ms(10);
		child_finish(&writers[i]);
	}
	printf("%llu blocks of 1 MiB were put through %d MiB of DRAM, %.0f MiB/s\n",
		(unsigned long long)(harness_count * BLOCKS), DRAM_MIB, mib_a_second(began));
	nothing_was_in_the_way(&daemon);
	all_comes_back(&daemon);
	nothing_was_in_the_way(&daemon);
	daemon_stop(&daemon);
	return 0;
}
