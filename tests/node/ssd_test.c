/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ssd tier through daemon and library: nothing that was acknowledged is lost while there is
 * room, what left DRAM comes back right, and a daemon that starts again serves what was durable,
 * after a clean stop and after kill -9.
 *
 *	ssd_test [STORIES] [--seed N]
 */
#include <errno.h>
#include <fcntl.h>

#include "tests/node/user.h"

enum {
	DRAM_BYTES = 16 << 20,
	PART_BYTES = 64 << 10,
	BLOCKS = 8,
	STORIES = 100, /* 50 MiB: three times the pool */
};

#define SSD_BYTES (192ull << 20)

static const struct shape shape = {
	.space = "ssd", .block_tokens = 16, .parts = 1, .ranges = 2, .part_bytes = PART_BYTES};

static struct daemon keeper;

static void daemon_make(void)
{
	daemon_init(&keeper, (struct daemon_size){.dram_bytes = DRAM_BYTES, .blocks = 8192});
	keeper.realms[0].ssd_bytes = SSD_BYTES;
	daemon_ssd_add(&keeper, "ssd", SSD_BYTES + (16 << 20));
	daemon_start(&keeper);
}

static void stories_put(struct user *user, uint64_t from, uint64_t to)
{
	for (uint64_t i = from; i < to; i++) {
		struct story story = story_open(user, i, BLOCKS);
		struct putting what = {.count = BLOCKS,
			.deadline_ns = skep_deadline_ms(20000)}; /* long: it waits for writing */
		struct put_result result = story_put(user, &story, &what);

		REQUIRE_EQ(result.status, 0);
		REQUIRE_EQ(result.committed + result.existed, BLOCKS);
		story_close(&story);
	}
}

/* Return: blocks that were had, every byte of them right. */
static uint64_t stories_get(struct user *user, uint64_t from, uint64_t to)
{
	uint64_t had = 0;

	for (uint64_t i = from; i < to; i++) {
		struct story story = story_open(user, i, BLOCKS);

		had += story_load(user, &story);
		story_close(&story);
	}
	return had;
}

static void nothing_is_lost(struct user *user)
{
	struct realm_status realm;

	stories_put(user, 0, harness_count);
	REQUIRE_EQ(stories_get(user, 0, harness_count), harness_count * BLOCKS);
	daemon_realm(&keeper, 0, &realm);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_blocks_shed], 0);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_puts_refused], 0);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_blocks_evicted], 0);
	REQUIRE(realm.counters[REALM_COUNTER_blocks_demoted] > 0);
	REQUIRE(realm.counters[REALM_COUNTER_blocks_promoted] > 0);
	REQUIRE(realm.blocks_ssd > DRAM_BYTES / PART_BYTES);
}

/* Blocks of an earlier daemon can be copied out and verified like any other. */
static void copied_right(struct user *user)
{
	struct story story = story_open(user, harness_count - 1, BLOCKS);
	struct skep_ref refs[USER_BLOCKS_MAX];
	struct skep_match match = story_match(user, &story, SKEP_MATCH_PIN, refs);

	REQUIRE_EQ(match.matched, BLOCKS);
	for (uint32_t i = 0; i < BLOCKS; i++)
		REQUIRE_EQ(story_copy(user, &story, &refs[i], i, 0), PART_BYTES);
	skep_release(user->session, &match.pin);
	story_close(&story);
}

static void found_after(struct user *user, const char *what)
{
	struct realm_status realm;
	uint64_t had;

	daemon_realm(&keeper, 0, &realm);
	printf("after %s: %llu blocks were found\n", what,
		(unsigned long long)realm.counters[REALM_COUNTER_blocks_recovered]);
	user_open(user, keeper.config.socket_path, &shape);
	had = stories_get(user, 0, harness_count);
	REQUIRE_EQ(had, harness_count * BLOCKS);
	copied_right(user);
	user_close(user);
}

/* A byte of every block's payload is changed in the file: nothing wrong is ever had. */
static void flipped_bytes_are_misses(struct user *user)
{
	struct realm_status realm;
	int file;

	daemon_stop(&keeper);
	file = open(keeper.ssds[0].path, O_RDWR | O_CLOEXEC);
	REQUIRE(file >= 0);
	/* Every 16 units: one unit of each record, headers and tables apart from that. */
	for (uint64_t at = 1 << 20; at < 9 << 20; at += 16 * 4096) {
		uint8_t byte;

		REQUIRE_EQ(pread(file, &byte, 1, (off_t)at + 4097), 1);
		byte ^= 0x40;
		REQUIRE_EQ(pwrite(file, &byte, 1, (off_t)at + 4097), 1);
	}
	close(file);
	daemon_start(&keeper);
	user_open(user, keeper.config.socket_path, &shape);
	printf("with flipped bytes: %llu of %llu blocks\n",
		(unsigned long long)stories_get(user, 0, harness_count),
		(unsigned long long)harness_count * BLOCKS);
	daemon_realm(&keeper, 0, &realm);
	REQUIRE(realm.counters[REALM_COUNTER_blocks_quarantined] > 0);
	REQUIRE(realm.misses[SKEP_REASON_CHECKSUM] > 0);
	/* What was lost can be put again, and is had then. */
	stories_put(user, 0, harness_count);
	REQUIRE_EQ(stories_get(user, 0, harness_count), harness_count * BLOCKS);
	user_close(user);
}

static uint64_t recovered(void)
{
	struct realm_status realm;

	daemon_realm(&keeper, 0, &realm);
	REQUIRE_EQ(realm.blocks_ssd, realm.counters[REALM_COUNTER_blocks_recovered]);
	return realm.counters[REALM_COUNTER_blocks_recovered];
}

/* What was removed by command, and made durable, stays away; so does an older version. */
static void removed_stays_removed(struct user *user)
{
	daemon_start(&keeper);
	user_open(user, keeper.config.socket_path, &shape);
	REQUIRE(skep_space_purge(user->space, skep_deadline_ms(10000)) > 0);
	REQUIRE_EQ(skep_sync(user->space, skep_deadline_ms(10000)), 0);
	user_close(user);
	daemon_kill(&keeper);
	daemon_start(&keeper);
	REQUIRE_EQ(recovered(), 0);

	user_open(user, keeper.config.socket_path, &shape);
	stories_put(user, 0, 10);
	REQUIRE_EQ(skep_sync(user->space, skep_deadline_ms(10000)), 0);
	REQUIRE_EQ(skep_space_step(user->space, skep_deadline_ms(10000)), 2);
	REQUIRE_EQ(skep_sync(user->space, skep_deadline_ms(10000)), 0);
	user_close(user);
	daemon_kill(&keeper);
	daemon_start(&keeper);
	REQUIRE_EQ(recovered(), 0);
	user_open(user, keeper.config.socket_path, &shape);
	REQUIRE_EQ(stories_get(user, 0, 10), 0);
	REQUIRE_EQ(skep_space_step(user->space, skep_deadline_ms(10000)), 3);
	stories_put(user, 0, 10);
	REQUIRE_EQ(stories_get(user, 0, 10), 10 * BLOCKS);
	user_close(user);
	daemon_stop(&keeper);
}

/* Without its manifest the daemon takes all that the tables name, and says so. */
static void a_lost_manifest_is_told(struct user *user)
{
	struct node_status node;
	char path[4200], away[4300];

	snprintf(path, sizeof(path), "%s.manifest", keeper.ssds[0].path);
	snprintf(away, sizeof(away), "%s.away", path);
	REQUIRE_EQ(rename(path, away), 0);
	daemon_start(&keeper);
	daemon_node(&keeper, &node);
	REQUIRE(node.ssd.manifest && node.ssd.manifest_rebuilt);
	REQUIRE(recovered() > 0);
	user_open(user, keeper.config.socket_path, &shape);
	REQUIRE_EQ(stories_get(user, 0, 10), 10 * BLOCKS);
	user_close(user);
	daemon_stop(&keeper);
	daemon_start(&keeper);
	daemon_node(&keeper, &node);
	REQUIRE(node.ssd.manifest && !node.ssd.manifest_rebuilt);
}

int main(int argc, char **argv)
{
	struct user user;

	harness_begin(&(struct harness_options){
		.argc = argc, .argv = argv, .seconds = 40, .count = STORIES});
	daemon_make();
	user_open(&user, keeper.config.socket_path, &shape);
	nothing_is_lost(&user);
	REQUIRE_EQ(skep_sync(user.space, skep_deadline_ms(10000)), 0);
	user_close(&user);
	daemon_kill(&keeper);
	daemon_start(&keeper);
	found_after(&user, "kill -9");
	daemon_stop(&keeper);
	daemon_start(&keeper);
	found_after(&user, "a clean stop");
	flipped_bytes_are_misses(&user);
	daemon_stop(&keeper);
	removed_stays_removed(&user);
	a_lost_manifest_is_told(&user);
	daemon_stop(&keeper);
	return 0;
}
