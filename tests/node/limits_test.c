/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Too few descriptors, too little address space, in a client and in the daemon: clear errors, and
 * nothing is left behind by what failed.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>

#include "tests/node/user.h"

enum {
	DRAM_BYTES = 24 << 20,
	CHUNK_BYTES = 2 << 20, /* twelve descriptors a session */
	PART_BYTES = 32 << 10,
	BLOCKS = 8,
	FDS_LOOKED_AT = 1024,
	TOLD_READY = 1,
	TOLD_OPEN,
	TOLD_STOP,
};

static const struct shape shape = {
	.space = "limits", .block_tokens = 16, .parts = 1, .ranges = 1, .part_bytes = PART_BYTES};

/* Descriptors of this process, counted without one; @unused: the first number that is free. */
static unsigned descriptors(rlim_t *unused)
{
	unsigned count = 0;

	*unused = FDS_LOOKED_AT;
	for (int fd = 0; fd < FDS_LOOKED_AT; fd++) {
		if (fcntl(fd, F_GETFD) >= 0)
			count++;
		else
			*unused = MIN_OF(*unused, (rlim_t)fd);
	}
	return count;
}

static void limit_set(int resource, rlim_t soft)
{
	struct rlimit limit;

	REQUIRE(getrlimit(resource, &limit) == 0);
	limit.rlim_cur = MIN_OF(soft, limit.rlim_max);
	REQUIRE(setrlimit(resource, &limit) == 0);
}

/* Mappings of pools, indices and pages. */
static unsigned mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512];
	unsigned count = 0;

	REQUIRE(maps != NULL);
	while (fgets(line, sizeof(line), maps))
		count += strstr(line, "memfd:skep-") != NULL;
	fclose(maps);
	return count;
}

/* ------------------------------------------------------------------------------------- clients */

/* A session with a space and a queue, used once. Return: what the first call that failed said. */
static int session_use(const char *socket)
{
	struct skep_queue *queue;
	struct story story;
	struct user user;
	int status = user_try(&user, socket, &shape, NULL);

	if (status < 0)
		return status;
	status = skep_queue_create(user.session, &queue);
	if (status == 0) {
		story = story_open(&user, 1, BLOCKS);
		story_put_all(&user, &story);
		REQUIRE_EQ(story_get(&user, &story), BLOCKS);
		story_close(&story);
		skep_queue_destroy(queue);
	}
	user_close(&user);
	return status;
}

/* The daemon keeps nothing of attempts that failed here, although the process lives. */
static void sessions_none(const char *socket)
{
	uint64_t until = clock_ns() + NS_PER_S * harness_slower();
	struct user user;

	user_open(&user, socket, &shape);
	while (user_stats(&user).sessions > 1 && clock_ns() < until)
		sleep_ms(1);
	REQUIRE_EQ(user_stats(&user).sessions, 1);
	user_close(&user);
}

static void client_descriptors(int line, const void *socket)
{
	unsigned before, refused = 0;
	int status = -1;
	rlim_t unused;

	(void)line;
	/* What the C library keeps after a first use is not ours. */
	REQUIRE_EQ(session_use(socket), 0);
	sleep_ms(100);
	before = descriptors(&unused);
	for (int spare = 0; status < 0; spare++) {
		REQUIRE(spare < 64);
		limit_set(RLIMIT_NOFILE, unused + (rlim_t)spare);
		status = session_use(socket);
		limit_set(RLIMIT_NOFILE, FDS_LOOKED_AT);
		if (status < 0)
			REQUIRE_EQ(status, -EMFILE);
		refused += status < 0;
		/* The watcher ends behind the last session. */
		for (unsigned tries = 0; descriptors(&unused) != before && tries < 100; tries++)
			sleep_ms(10);
		REQUIRE_EQ(descriptors(&unused), before);
		REQUIRE_EQ(mappings(), 0);
	}
	printf("a client with too few descriptors: %u refusals\n", refused);
	REQUIRE(refused > 12);
	sessions_none(socket);
}

#ifndef UNIT_SANITIZED
static rlim_t address_space(void)
{
	unsigned long pages = 0;
	FILE *file = fopen("/proc/self/statm", "re");

	REQUIRE(file && fscanf(file, "%lu", &pages) == 1);
	fclose(file);
	return (rlim_t)pages * 4096;
}

static void client_memory(int line, const void *socket)
{
	unsigned refused = 0;
	int status = -1;

	(void)line;
	REQUIRE_EQ(session_use(socket), 0);
	sleep_ms(100);
	for (rlim_t spare = 0; status < 0; spare += 1 << 20) {
		REQUIRE(spare < 512ull << 20);
		limit_set(RLIMIT_AS, address_space() + spare);
		status = session_use(socket);
		limit_set(RLIMIT_AS, RLIM_INFINITY);
		/* No thread can be made either. */
		if (status < 0 && status != -EAGAIN)
			REQUIRE_EQ(status, -ENOMEM);
		refused += status < 0;
		REQUIRE_EQ(mappings(), 0);
	}
	printf("a client with too little address space: %u refusals\n", refused);
	REQUIRE(refused > 10);
	sessions_none(socket);
}
#endif

/* ------------------------------------------------------------------------------------ daemons */

/* Nodes that cannot be made for want of descriptors. */
static void daemon_descriptors_few(int line, const void *arg)
{
	struct daemon daemon = *(const struct daemon *)arg;
	unsigned before, refused = 0;
	int status = -1;
	rlim_t unused;
	struct node *node;
	char why[256];

	(void)line;
	harness_path("few", daemon.config.socket_path, sizeof(daemon.config.socket_path));
	daemon.config.realms = daemon.realms;
	before = descriptors(&unused);
	for (int spare = 0; status < 0; spare++) {
		REQUIRE(spare < 64);
		why[0] = 0;
		limit_set(RLIMIT_NOFILE, unused + (rlim_t)spare);
		status = node_create(&daemon.config, &node, why, sizeof(why));
		if (status == 0)
			node_destroy(node);
		limit_set(RLIMIT_NOFILE, FDS_LOOKED_AT);
		if (status < 0) {
			REQUIRE_EQ(status, -EMFILE);
			REQUIRE(why[0]);
		}
		refused += status < 0;
		REQUIRE_EQ(descriptors(&unused), before);
		REQUIRE_EQ(mappings(), 0);
	}
	printf("a daemon with too few descriptors: %u refusals\n", refused);
	REQUIRE(refused > 12);
}

/* Opens when told to, with the time it may take; tells how it went. */
static void opener(int line, const void *socket)
{
	struct note note;

	while ((note = note_hear(line)).what == TOLD_OPEN) {
		struct skep_open_options options = {.struct_bytes = sizeof(options),
			.deadline_ns = skep_deadline_ms(note.words[0])};
		struct skep *session;

		note.status = skep_open(socket, &options, &session);
		if (note.status == 0)
			skep_close(session);
		note.words[1] = clock_ns();
		note_tell(line, note);
	}
}

/* Has a session before the limit is reached, and goes on with it. */
static void resident(int line, const void *socket)
{
	struct story story;
	struct user user;

	user_open(&user, socket, &shape);
	story = story_open(&user, 77, BLOCKS);
	note_tell(line, (struct note){.what = TOLD_READY});
	while (note_hear(line).what == TOLD_OPEN) {
		REQUIRE(skep_space_purge(user.space, skep_deadline_ms(1000)) >= 0);
		story_put_all(&user, &story);
		REQUIRE_EQ(story_get(&user, &story), BLOCKS);
		note_tell(line, (struct note){.what = TOLD_READY});
	}
	story_close(&story);
	user_close(&user);
}

static void daemon_limit(const struct daemon *daemon, rlim_t soft)
{
	struct rlimit limit;

	REQUIRE(prlimit(daemon->child.pid, RLIMIT_NOFILE, NULL, &limit) == 0);
	limit.rlim_cur = soft;
	REQUIRE(prlimit(daemon->child.pid, RLIMIT_NOFILE, &limit, NULL) == 0);
}

static struct note order(const struct child *child, struct note note)
{
	note_tell(child->line, note);
	return note_hear(child->line);
}

/* The first number that is free in the daemon: with this limit it gets no descriptor more. */
static rlim_t daemon_unused(const struct daemon *daemon)
{
	char path[64];
	rlim_t fd = 0;

	do {
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)daemon->child.pid, (int)fd++);
	} while (readlink(path, (char[8]){0}, 8) > 0);
	return fd - 1;
}

/* The daemon's last descriptors are taken while it runs. */
static void test_daemon_runs_out(const struct daemon *daemon)
{
	unsigned alone = daemon_descriptors(daemon), refused = 0;
	struct note note = {.status = -1};
	struct child stays, comes;
	uint64_t freed;
	rlim_t unused;

	child_start(&stays, "the resident", resident, daemon->config.socket_path);
	note_hear(stays.line);
	child_start(&comes, "the opener", opener, daemon->config.socket_path);
	unused = daemon_unused(daemon);
	for (unsigned spare = 0; note.status < 0; spare++) {
		daemon_limit(daemon, unused + spare);
		note = order(&comes, (struct note){.what = TOLD_OPEN, .words = {200}});
		printf("a daemon with %u free descriptors: %s\n", spare,
			skep_status_text(note.status));
		REQUIRE(note.status == 0 || note.status == -EMFILE || note.status == -ETIMEDOUT);
		refused += note.status < 0;
		/* Who is there already is not disturbed. */
		REQUIRE_EQ(order(&stays, (struct note){.what = TOLD_OPEN}).what, TOLD_READY);
	}
	REQUIRE(refused > 1 && refused < 8);
	/* Who waits when there is room again comes in. */
	daemon_limit(daemon, unused);
	note_tell(comes.line, (struct note){.what = TOLD_OPEN, .words = {5000}});
	sleep_ms(200);
	REQUIRE(line_quiet(comes.line, 0));
	daemon_limit(daemon, FDS_LOOKED_AT);
	freed = clock_ns();
	note = note_hear(comes.line);
	REQUIRE_EQ(note.status, 0);
	printf("came in %.0f ms after there was room\n", (double)(note.words[1] - freed) / 1e6);
	REQUIRE(note.words[1] - freed < NS_PER_S * harness_slower());
	note_tell(comes.line, (struct note){.what = TOLD_STOP});
	child_finish(&comes);
	note_tell(stays.line, (struct note){.what = TOLD_STOP});
	child_finish(&stays);
	for (unsigned tries = 0; daemon_descriptors(daemon) != alone && tries < 100; tries++)
		sleep_ms(10);
	REQUIRE_EQ(daemon_descriptors(daemon), alone);
}

static void run(const char *name, child_body *body, const void *arg)
{
	struct child child;

	child_start(&child, name, body, arg);
	child_finish(&child);
}

int main(int argc, char **argv)
{
	struct daemon daemon;

	harness_begin(&(struct harness_options){argc, argv, 25, 0});
	limit_set(RLIMIT_NOFILE, FDS_LOOKED_AT);
	daemon_init(&daemon, (struct daemon_size){DRAM_BYTES, 1024});
	daemon.config.chunk_bytes = CHUNK_BYTES;
	daemon_start(&daemon);
	run("a client with few descriptors", client_descriptors, daemon.config.socket_path);
#ifdef UNIT_SANITIZED
	printf("address space is not limited under a sanitizer, which takes most of it\n");
#else
	run("a client with little memory", client_memory, daemon.config.socket_path);
#endif
	run("a daemon with few descriptors", daemon_descriptors_few, &daemon);
	test_daemon_runs_out(&daemon);
	daemon_stop(&daemon);
	return 0;
}
