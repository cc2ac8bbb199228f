/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program skepd with clients at work: a second one on its socket is refused and disturbs
 * nobody; SIGTERM ends it in time whatever its clients hold, and what they hold stays right; it
 * comes back on its socket after a clean end and after kill -9; another one takes its place.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "tests/node/user.h"

enum { PART_BYTES = 64 << 10, BLOCKS = 8, WORKERS = 2, TAKEN = 3 };

static const struct shape shape = {
	.space = "program", .block_tokens = 16, .parts = 1, .ranges = 1, .part_bytes = PART_BYTES};

enum { TOLD_READY = 1, TOLD_CHECK, TOLD_STOP };

static char state_dir[PATH_MAX], admin_address[32];
static unsigned admin_port;

/* ---------------------------------------------------------------------------------- the program */

static void successor(int line, const void *socket)
{
	char ready[16];

	snprintf(ready, sizeof(ready), "%d", line);
	REQUIRE(fcntl(line, F_SETFD, 0) == 0);
	execl(SKEPD_PATH, "skepd", "--socket", socket, "--dram", "32MiB", "--admin", admin_address,
		"--state-dir", state_dir, "--parent-death", "--log-level", "error", "--ready-fd",
		ready, "--takeover", (char *)NULL);
	_exit(126);
}

static void program(int line, const void *socket)
{
	char ready[16];

	snprintf(ready, sizeof(ready), "%d", line);
	REQUIRE(fcntl(line, F_SETFD, 0) == 0);
	execl(SKEPD_PATH, "skepd", "--socket", socket, "--dram", "32MiB", "--admin", admin_address,
		"--state-dir", state_dir, "--parent-death", "--log-level", "error", "--ready-fd",
		ready, (char *)NULL);
	_exit(126);
}

static struct child program_start(child_body *body, const char *socket)
{
	struct child child;
	char byte;

	child_start(&child, "skepd", body, socket);
	REQUIRE_EQ(line_hear(child.line, &byte, 1), 1);
	return child;
}

/* One that must not start: how it ends. */
static int program_refused(const char *socket)
{
	struct child child;
	siginfo_t info;

	child_start(&child, "a second skepd", program, socket);
	REQUIRE(waitid(P_PID, (id_t)child.pid, &info, WEXITED | WNOWAIT) == 0);
	REQUIRE_EQ(info.si_code, CLD_EXITED);
	return info.si_status;
}

/* ---------------------------------------------------------------------------------- the clients */

/* Puts and gets all the time; tells how many of its calls found a daemon. */
static void worker(int line, const void *socket)
{
	uint64_t state = harness_seed + (uint64_t)getpid(), had = 0;
	struct user user;
	struct note note;

	user_open(&user, socket, &shape);
	note_tell(line, (struct note){.what = TOLD_READY});
	for (;;) {
		struct story story = story_open(&user, unit_random(&state, 256), BLOCKS);

		story_put(&user, &story,
			&(struct putting){.count = BLOCKS, .deadline_ns = skep_deadline_ms(100)});
		had += story_get(&user, &story);
		story_close(&story);
		if (!skep_attached(user.session))
			usleep(500);
		if (line_quiet(line, 0))
			continue;
		note = note_hear(line);
		note.words[0] = had;
		note_tell(line, note);
		if (note.what == TOLD_STOP)
			break;
		had = 0;
	}
	user_close(&user);
}

/* Holds pointers, and reserved frames that it never gives back. */
static void holder(int line, const void *socket)
{
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve), .count = BLOCKS};
	struct skep_frame frames[BLOCKS];
	struct skep_view views[BLOCKS];
	struct skep_ref refs[BLOCKS];
	struct story story, other;
	struct skep_match match;
	struct user user;
	struct note note;

	user_open(&user, socket, &shape);
	story = story_open(&user, 1000, BLOCKS);
	other = story_open(&user, 1004, BLOCKS);
	story_put_all(&user, &story);
	match = story_match(&user, &story, SKEP_MATCH_PIN, refs);
	REQUIRE_EQ(match.matched, BLOCKS);
	for (unsigned i = 0; i < BLOCKS; i++)
		REQUIRE_EQ(skep_view(user.session, &refs[i], 0, &views[i]), 0);
	reserve.chain = other.chain;
	reserve.deadline_ns = skep_deadline_ms(1000);
	REQUIRE_EQ(skep_reserve(user.session, &reserve, frames), BLOCKS);
	note_tell(line, (struct note){.what = TOLD_READY});
	while ((note = note_hear(line)).what == TOLD_CHECK) {
		for (unsigned i = 0; i < BLOCKS; i++) {
			view_check(&story, views[i], i, 0);
			/* The other holder has the same ones in hand. */
			if (frames[i].status == 0)
				frame_fill(&other, &frames[i]);
		}
		note_tell(line, note);
	}
	story_close(&story);
	story_close(&other);
	user_close(&user);
}

/* ------------------------------------------------------------------------------------- the test */

static struct sockaddr_in page_address(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address.sin_port = htons((uint16_t)admin_port);
	return address;
}

/* One that nobody has now. */
static unsigned free_port(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t bytes = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	REQUIRE(fd >= 0 && bind(fd, (struct sockaddr *)&address, bytes) == 0);
	REQUIRE(getsockname(fd, (struct sockaddr *)&address, &bytes) == 0);
	close(fd);
	return ntohs(address.sin_port);
}

static void page_answers(void)
{
	uint64_t until = clock_ns() + 5 * NS_PER_S;
	struct sockaddr_in address = page_address();
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	REQUIRE(fd >= 0);
	while (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		REQUIRE(errno == ECONNREFUSED && clock_ns() < until);
		sleep_ms(20);
	}
	close(fd);
}

static struct child one_more(const char *name, child_body *body, const char *socket)
{
	struct child child;

	child_start(&child, name, body, socket);
	REQUIRE_EQ(note_hear(child.line).what, TOLD_READY);
	return child;
}

static struct note order(const struct child *child, uint32_t what)
{
	note_tell(child->line, (struct note){.what = what});
	return note_hear(child->line);
}

/* Every worker has had blocks again; what they had before is not counted. */
static void workers_work(const struct child *workers)
{
	uint64_t until = clock_ns() + 3 * NS_PER_S * harness_slower();

	for (unsigned i = 0; i < WORKERS; i++) {
		order(&workers[i], TOLD_CHECK);
		while (!order(&workers[i], TOLD_CHECK).words[0])
			REQUIRE(clock_ns() < until);
	}
}

int main(int argc, char **argv)
{
	struct child daemon, next, workers[WORKERS], holds, stopped;
	char socket[NODE_PATH_MAX];
	struct stat there;
	uint64_t began;

	harness_begin(&(struct harness_options){argc, argv, 25, 0});
	harness_path("socket", socket, sizeof(socket));
	harness_path("state", state_dir, sizeof(state_dir));
	admin_port = free_port();
	snprintf(admin_address, sizeof(admin_address), "127.0.0.1:%u", admin_port);
	daemon = program_start(program, socket);
	for (unsigned i = 0; i < WORKERS; i++)
		workers[i] = one_more("a worker", worker, socket);
	holds = one_more("the holder", holder, socket);
	stopped = one_more("the stopped client", holder, socket);
	child_stop(&stopped);
	workers_work(workers);
	REQUIRE_EQ(program_refused(socket), TAKEN);
	workers_work(workers);
	order(&holds, TOLD_CHECK);

	/* Another one takes its place, and its HTTP page, under everybody's eyes. */
	next = program_start(successor, socket);
	child_finish(&daemon);
	daemon = next;
	page_answers();
	workers_work(workers);
	order(&holds, TOLD_CHECK);
	order(&holds, TOLD_CHECK);

	began = clock_ns();
	REQUIRE(kill(daemon.pid, SIGTERM) == 0);
	child_finish(&daemon);
	printf("SIGTERM under load: ended after %.0f ms\n", (double)(clock_ns() - began) / 1e6);
	REQUIRE(clock_ns() - began < 2 * NS_PER_S * harness_slower());
	REQUIRE(stat(socket, &there) < 0 && errno == ENOENT);
	order(&holds, TOLD_CHECK);

	daemon = program_start(program, socket);
	workers_work(workers);
	child_kill(&daemon);
	daemon = program_start(program, socket);
	workers_work(workers);
	order(&holds, TOLD_CHECK);
	child_continue(&stopped);
	order(&stopped, TOLD_CHECK);

	for (unsigned i = 0; i < WORKERS; i++) {
		order(&workers[i], TOLD_STOP);
		child_finish(&workers[i]);
	}
	note_tell(holds.line, (struct note){.what = TOLD_STOP});
	child_finish(&holds);
	note_tell(stopped.line, (struct note){.what = TOLD_STOP});
	child_finish(&stopped);
	REQUIRE(kill(daemon.pid, SIGTERM) == 0);
	child_finish(&daemon);
	return 0;
}
