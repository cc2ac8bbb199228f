/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client that refuses to let go of the old pool while the daemon restarts in a memory cgroup: the
 * new daemon starts with what fits and grows when the client lets go. Nobody is killed.
 */
#include <errno.h>

#include "tests/node/cgroup.h"
#include "tests/node/user.h"

enum {
	PART_BYTES = 256 << 10,
	BLOCKS = 16,
	STORIES = 16,
	TOLD_READY = 1,
	TOLD_CHECK,
	TOLD_PUT,
	TOLD_RELEASE,
	TOLD_STOP,
};

#define POOL_BYTES  (192ull << 20)
#define LIMIT_BYTES (352ull << 20) /* one pool and much of a second */
#define LEAST_BYTES (32ull << 20)  /* what a daemon beside an old pool has at least */

static const struct shape shape = {
	.space = "memory", .block_tokens = 16, .parts = 1, .ranges = 1, .part_bytes = PART_BYTES};

/* Holds one run; puts and gets when told to. */
static void clinging_client(int line, const void *arg)
{
	struct skep_ref refs[BLOCKS];
	struct skep_match match;
	struct story held;
	struct user user;
	struct note note;

	user_open(&user, arg, &shape);
	held = story_open(&user, 1, BLOCKS);
	story_put_all(&user, &held);
	match = story_match(&user, &held, SKEP_MATCH_PIN, refs);
	REQUIRE_EQ(match.matched, BLOCKS);
	note_tell(line, (struct note){.what = TOLD_READY});
	while ((note = note_hear(line)).what != TOLD_STOP) {
		if (note.what == TOLD_CHECK)
			story_check(&user, &held, refs, 0, BLOCKS);
		if (note.what == TOLD_RELEASE)
			skep_release(user.session, &match.pin);
		for (uint64_t i = 0; note.what == TOLD_PUT && i < STORIES; i++) {
			struct story story = story_open(&user, 100 + USER_FAMILY * i, BLOCKS);

			while (!skep_attached(user.session))
				usleep(500);
			story_put_all(&user, &story);
			REQUIRE_EQ(story_get(&user, &story), BLOCKS);
			story_close(&story);
		}
		note_tell(line, note);
	}
	story_close(&held);
	user_close(&user);
}

static void order(const struct child *child, uint32_t what)
{
	note_tell(child->line, (struct note){.what = what});
	REQUIRE_EQ(note_hear(child->line).what, what);
}

static uint64_t ready_bytes(const struct daemon *daemon)
{
	struct realm_status realm;

	daemon_realm(daemon, 0, &realm);
	REQUIRE(realm.dram_used_bytes <= realm.dram_ready_bytes);
	return realm.dram_ready_bytes;
}

/* The old pool goes within two seconds, and the daemon looks twice a second. */
static void wait_ready(const struct daemon *daemon, uint64_t bytes)
{
	uint64_t until = clock_ns() + 4 * NS_PER_S * harness_slower();

	while (ready_bytes(daemon) < bytes) {
		REQUIRE(clock_ns() < until);
		sleep_ms(5);
	}
}

static void tell(const struct cgroup *group, const struct daemon *daemon, const char *when)
{
	printf("%s: pool %llu MiB of %llu, cgroup %llu MiB of %llu\n", when,
		(unsigned long long)ready_bytes(daemon) >> 20, POOL_BYTES >> 20,
		(unsigned long long)cgroup_bytes(group) >> 20, LIMIT_BYTES >> 20);
}

int main(int argc, char **argv)
{
	struct child client;
	struct cgroup group;
	struct daemon daemon;
	const char *why;
	uint64_t released, first;

	harness_begin(&(struct harness_options){argc, argv, 25, 0});
	if (!cgroup_make(&group, "restart", LIMIT_BYTES, &why))
		harness_skip(why);
	daemon_init(&daemon, (struct daemon_size){POOL_BYTES, 4096});
	daemon.config.chunk_bytes = 64ull << 20;
	snprintf(daemon.cgroup, sizeof(daemon.cgroup), "%s", group.path);
	daemon_start(&daemon);
	tell(&group, &daemon, "at first");
	child_start(&client, "the clinging client", clinging_client, daemon.config.socket_path);
	REQUIRE_EQ(note_hear(client.line).what, TOLD_READY);

	daemon_kill(&daemon);
	REQUIRE_EQ(daemon_try(&daemon), -EAGAIN);
	first = ready_bytes(&daemon);
	tell(&group, &daemon, "beside the old pool");
	REQUIRE(first >= LEAST_BYTES && first < POOL_BYTES);
	order(&client, TOLD_CHECK);
	order(&client, TOLD_PUT);
	order(&client, TOLD_CHECK);
	/* It tries again twice a second; nothing has changed. */
	sleep_ms(1200);
	REQUIRE(ready_bytes(&daemon) <= first + (8ull << 20));

	/* Once more: two old pools, of which the second is held by nobody for long. */
	daemon_kill(&daemon);
	REQUIRE_EQ(daemon_try(&daemon), -EAGAIN);
	wait_ready(&daemon, LEAST_BYTES);
	order(&client, TOLD_PUT);
	order(&client, TOLD_CHECK);
	tell(&group, &daemon, "after a second restart");

	order(&client, TOLD_RELEASE);
	released = clock_ns();
	wait_ready(&daemon, POOL_BYTES);
	printf("whole again %.0f ms after the release\n", (double)(clock_ns() - released) / 1e6);
	tell(&group, &daemon, "at last");
	order(&client, TOLD_PUT);
	REQUIRE_EQ(cgroup_kills(&group), 0);
	printf("most ever charged: %llu MiB\n", (unsigned long long)cgroup_bytes_max(&group) >> 20);
	note_tell(client.line, (struct note){.what = TOLD_STOP});
	child_finish(&client);
	daemon_stop(&daemon);
	return 0;
}
