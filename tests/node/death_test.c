/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A daemon with a large pool is killed. The kernel takes its memory apart before it closes its
 * sockets; clients know of its death long before that. Pages are small, as on old kernels: a pool
 * of that many is a hundred times as large otherwise.
 *
 *	death_test [TIMES] [--seed N]
 */
#include <sys/prctl.h>

#include "tests/node/user.h"

enum { NOTICED_MS = 100 };

static const struct shape shape = {
	.space = "death", .block_tokens = 16, .parts = 1, .ranges = 1, .part_bytes = 64 << 10};

enum { TOLD_READY = 1, TOLD_GONE };

/* Two sessions of one process; says when both know that the daemon has gone. */
static void client(int line, const void *arg)
{
	struct user users[2];

	for (unsigned i = 0; i < 2; i++)
		user_open(&users[i], arg, &shape);
	note_tell(line, (struct note){.what = TOLD_READY});
	for (unsigned i = 0; i < 2; i++)
		while (skep_attached(users[i].session))
			usleep(100);
	note_tell(line, (struct note){.what = TOLD_GONE, .words = {clock_ns()}});
	for (unsigned i = 0; i < 2; i++)
		user_close(&users[i]);
}

int main(int argc, char **argv)
{
	uint64_t noticed_ns = 0, ended_ns = 0;
	struct daemon daemon;

	harness_begin(&(struct harness_options){argc, argv, 40, 3});
	REQUIRE_EQ(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0); /* children have it too */
	daemon_init(&daemon, (struct daemon_size){1 << 30, 4096});
	for (uint64_t turn = 0; turn < harness_count; turn++) {
		struct child one;
		uint64_t began, ended;
		struct note note;

		daemon_start(&daemon);
		child_start(&one, "a client", client, daemon.config.socket_path);
		REQUIRE_EQ(note_hear(one.line).what, TOLD_READY);
		began = clock_ns();
		ended = daemon_kill(&daemon);
		ended_ns = MAX_OF(ended_ns, ended - began);
		note = note_hear(one.line);
		REQUIRE_EQ(note.what, TOLD_GONE);
		noticed_ns = MAX_OF(noticed_ns, note.words[0] - began);
		child_finish(&one);
	}
	printf("%llu deaths: noticed after %.1f ms at most, processes ended after %.1f ms\n",
		(unsigned long long)harness_count, (double)noticed_ns / 1e6,
		(double)ended_ns / 1e6);
	REQUIRE(noticed_ns < NOTICED_MS * NS_PER_MS * harness_slower());
	return 0;
}
