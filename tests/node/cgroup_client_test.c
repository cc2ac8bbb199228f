/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client in a memory cgroup of 256 MiB writes and reads through a pool of 2 GiB, all of it: the
 * pool is charged to the daemon that populated it.
 */
#include <errno.h>

#include "tests/node/cgroup.h"
#include "tests/node/user.h"

enum { PART_BYTES = 2 << 20, BLOCKS = 64, TOLD_READY = 1, TOLD_GO };

#define POOL_BYTES  (2ull << 30)
#define LIMIT_BYTES (256ull << 20)

static const struct shape shape = {
	.space = "large", .block_tokens = 16, .parts = 1, .ranges = 1, .part_bytes = PART_BYTES};

struct setting {
	const char *socket, *cgroup;
};

/* The story that fills the @i-th stretch of the pool. */
static struct story stretch(struct user *user, uint64_t i)
{
	return story_open(user, 1 + USER_FAMILY * i, BLOCKS);
}

static void small_client(int line, const void *arg)
{
	const struct setting *setting = arg;
	uint64_t stories = POOL_BYTES / PART_BYTES / BLOCKS, had = 0;
	struct user user;

	cgroup_enter(setting->cgroup);
	user_open(&user, setting->socket, &shape);
	for (uint64_t i = 0; i < stories; i++) {
		struct story story = stretch(&user, i);

		story_put_all(&user, &story);
		story_close(&story);
	}
	REQUIRE_EQ(user_stats(&user).dram_bytes_used, POOL_BYTES);
	for (uint64_t i = 0; i < stories; i++) {
		struct story story = stretch(&user, i);

		had += story_get(&user, &story);
		story_close(&story);
	}
	REQUIRE_EQ(had, stories * BLOCKS);
	note_tell(line, (struct note){.what = TOLD_READY});
	/* All of it is mapped and was touched; the charge is looked at now. */
	REQUIRE_EQ(note_hear(line).what, TOLD_GO);
	user_close(&user);
}

int main(int argc, char **argv)
{
	struct setting setting;
	struct cgroup group;
	struct child client;
	struct daemon daemon;
	const char *why;

	harness_begin(&(struct harness_options){argc, argv, 40, 0});
#if defined(__SANITIZE_THREAD__)
	harness_skip("the shadow of 2 GiB under TSan does not fit 256 MiB");
#endif
	if (!cgroup_make(&group, "client", LIMIT_BYTES, &why))
		harness_skip(why);
	daemon_init(&daemon, (struct daemon_size){POOL_BYTES, 4096});
	daemon.config.chunk_bytes = 256ull << 20;
	daemon_start(&daemon);
	setting = (struct setting){daemon.config.socket_path, group.path};
	child_start(&client, "the client in a cgroup", small_client, &setting);
	REQUIRE_EQ(note_hear(client.line).what, TOLD_READY);
	printf("charged to the client: %llu MiB now, %llu MiB at most, for a pool of %llu MiB\n",
		(unsigned long long)cgroup_bytes(&group) >> 20,
		(unsigned long long)cgroup_bytes_max(&group) >> 20, POOL_BYTES >> 20);
	REQUIRE(cgroup_bytes_max(&group) < LIMIT_BYTES);
	REQUIRE_EQ(cgroup_kills(&group), 0);
	note_tell(client.line, (struct note){.what = TOLD_GO});
	child_finish(&client);
	daemon_stop(&daemon);
	return 0;
}
