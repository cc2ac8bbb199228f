/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork() in a client: the handles of the parent are dead in the child and touch nothing, the child
 * may open a session of its own, and neither end disturbs the other. What is shared is in no core
 * file. And clients or daemons in pid namespaces of their own: they work, and the end of the
 * process is seen.
 */
#include <errno.h>
#include <sched.h>
#include <sys/prctl.h>

#include "tests/node/user.h"

enum { DRAM_BYTES = 4 << 20, PART_BYTES = 64 << 10, BLOCKS = 8, STORY = 3, FILL = 1000 };

static const struct shape shape = {
	.space = "fork", .block_tokens = 16, .parts = 1, .ranges = 1, .part_bytes = PART_BYTES};

enum { TOLD_READY = 1, TOLD_GO };

/* ---------------------------------------------------------------------------- inside one client */

/* What the client has when it forks. */
struct held {
	struct user user;
	struct story story;
	struct skep_ref refs[BLOCKS];
	struct skep_match match;
	struct skep_queue *queue;
	struct skep_frame frame;
	const char *socket;
};

/* Mappings of pools, indices and session pages in this process. */
static unsigned mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512];
	unsigned count = 0;

	REQUIRE(maps != NULL);
	while (fgets(line, sizeof(line), maps))
		count += strstr(line, "skep-") && strstr(line, "memfd:");
	fclose(maps);
	return count;
}

/* Every call on a handle of the parent says so. */
static void child_calls(struct held *held)
{
	struct skep *session = held->user.session;
	struct skep_match match = {
		.struct_bytes = sizeof(match), .chain = held->story.chain, .flags = SKEP_MATCH_PIN};
	struct skep_reserve reserve = {
		.struct_bytes = sizeof(reserve), .chain = held->story.chain, .count = 1};
	struct skep_wait wait = {.struct_bytes = sizeof(wait), .chain = held->story.chain};
	struct skep_copy copy = {
		.struct_bytes = sizeof(copy), .space = held->user.space, .ref = held->refs[0]};
	struct skep_stats stats = {.struct_bytes = sizeof(stats)};
	struct skep_explanation why = {.struct_bytes = sizeof(why)};
	struct iovec from = {0};
	int32_t put_status;
	struct skep_put put = {.struct_bytes = sizeof(put),
		.chain = held->story.chain,
		.count = 1,
		.from = &from,
		.statuses = &put_status};
	struct skep_frame frame = held->frame;
	int64_t copied;
	struct skep_pin pin = {0};
	struct skep_queue *queue;
	struct skep_event event;
	struct skep_view view;
	uint32_t missing;

	REQUIRE_EQ(mappings(), 0);
	REQUIRE_EQ(skep_match(session, &match, 1), -EOWNERDEAD);
	REQUIRE_EQ(skep_pin_refs(session, held->refs, BLOCKS, &pin), -EOWNERDEAD);
	REQUIRE_EQ(skep_chunks(session, NULL, 0), -EOWNERDEAD);
	REQUIRE_EQ(skep_chunk_hold(session, 1), -EOWNERDEAD);
	REQUIRE_EQ(skep_chunk_release(session, 1), -EOWNERDEAD);
	REQUIRE_EQ(skep_view(session, &held->refs[0], 0, &view), -EOWNERDEAD);
	REQUIRE_EQ(skep_copy(session, &copy), -EOWNERDEAD);
	REQUIRE_EQ(skep_views(session, 0, held->refs, &view, 1), -EOWNERDEAD);
	REQUIRE_EQ(skep_copies(session, &copy, &copied, 1), -EOWNERDEAD);
	REQUIRE_EQ(skep_put(session, &put), -EOWNERDEAD);
	REQUIRE_EQ(skep_reserve(session, &reserve, &frame), -EOWNERDEAD);
	REQUIRE_EQ(skep_commit(session, &frame, 1, NULL), -EOWNERDEAD);
	REQUIRE_EQ(skep_abort(session, &frame, 1), -EOWNERDEAD);
	REQUIRE_EQ(skep_missing(session, held->story.chain, 0, 0, &missing, 1), -EOWNERDEAD);
	REQUIRE_EQ(skep_wait(session, &wait), -EOWNERDEAD);
	REQUIRE_EQ(skep_hint(session, held->story.chain, 0, SKEP_HINT_OPEN), -EOWNERDEAD);
	REQUIRE_EQ(skep_explain(session, held->story.chain, SKEP_FOREVER, &why), -EOWNERDEAD);
	REQUIRE_EQ(skep_stats(session, SKEP_FOREVER, &stats), -EOWNERDEAD);
	REQUIRE_EQ(skep_queue_create(session, &queue), -EOWNERDEAD);
	REQUIRE_EQ(skep_queue_fd(held->queue), -EOWNERDEAD);
	REQUIRE_EQ(skep_queue_take(held->queue, &event, 1), -EOWNERDEAD);
	REQUIRE_EQ(skep_attached(session), -EOWNERDEAD);
	REQUIRE_EQ(skep_space_purge(held->user.space, SKEP_FOREVER), -EOWNERDEAD);
	REQUIRE_EQ(skep_space_step(held->user.space, SKEP_FOREVER), -EOWNERDEAD);
	skep_release(session, &held->match.pin);
	skep_queue_destroy(held->queue);
	skep_chain_destroy(held->story.chain);
	skep_space_close(held->user.space);
	skep_close(session);
}

/* A session of its own in the child of fork(). */
static void child_session(const char *socket)
{
	struct story story;
	struct user user;

	user_open(&user, socket, &shape);
	story = story_open(&user, STORY, BLOCKS);
	REQUIRE_EQ(story_get(&user, &story), BLOCKS);
	REQUIRE_EQ(user_stats(&user).sessions, 2);
	story_close(&story);
	story = story_open(&user, FILL - USER_FAMILY, BLOCKS);
	story_put_all(&user, &story);
	story_close(&story);
	user_close(&user);
}

static void fork_once(struct held *held, bool own_session)
{
	pid_t child = fork();
	int status;

	REQUIRE(child >= 0);
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		child_calls(held);
		if (own_session)
			child_session(held->socket);
		_exit(0);
	}
	REQUIRE(waitpid(child, &status, 0) == child);
	REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Puts more than the pool holds: what is not pinned goes. */
static void pressure(struct user *user)
{
	for (uint64_t i = 0; i < 2 * DRAM_BYTES / PART_BYTES / BLOCKS; i++) {
		struct story story = story_open(user, FILL + USER_FAMILY * i, BLOCKS);

		story_put_all(user, &story);
		story_close(&story);
	}
}

static void forking_client(int line, const void *arg)
{
	struct held held = {.socket = arg};
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve), .count = 1};
	struct story fresh;
	uint64_t until;

	user_open(&held.user, arg, &shape);
	held.story = story_open(&held.user, STORY, BLOCKS);
	story_put_all(&held.user, &held.story);
	held.match = story_match(&held.user, &held.story, SKEP_MATCH_PIN, held.refs);
	REQUIRE_EQ(held.match.matched, BLOCKS);
	REQUIRE_EQ(skep_queue_create(held.user.session, &held.queue), 0);
	fresh = story_open(&held.user, 100, 1);
	reserve.chain = fresh.chain;
	reserve.deadline_ns = skep_deadline_ms(1000);
	REQUIRE_EQ(skep_reserve(held.user.session, &reserve, &held.frame), 1);
	frame_fill(&fresh, &held.frame);

	fork_once(&held, false);
#if defined(__SANITIZE_THREAD__)
	printf("no session in the child: TSan starts no threads there\n");
#else
	fork_once(&held, true);
#endif
	/* Nothing of ours ended with them: pin, reservation, queue, session. */
	until = clock_ns() + NS_PER_S * harness_slower();
	while (user_stats(&held.user).sessions > 1)
		REQUIRE(clock_ns() < until);
	REQUIRE_EQ(user_stats(&held.user).pins, 1);
	pressure(&held.user);
	story_check(&held.user, &held.story, held.refs, 0, BLOCKS);
	REQUIRE_EQ(skep_commit(held.user.session, &held.frame, 1, NULL), 1);
	REQUIRE_EQ(story_get(&held.user, &fresh), 1);
	REQUIRE(skep_queue_fd(held.queue) >= 0);
	skep_release(held.user.session, &held.match.pin);
	user_wait_idle(&held.user);
	(void)line;
	skep_queue_destroy(held.queue);
	story_close(&fresh);
	story_close(&held.story);
	user_close(&held.user);
}

/* Pins, then forks a child that lives on: it has copies of all our descriptors. */
static void abandoning_client(int line, const void *arg)
{
	struct held held = {0};
	pid_t child;

	user_open(&held.user, arg, &shape);
	held.story = story_open(&held.user, STORY, BLOCKS);
	story_put_all(&held.user, &held.story);
	held.match = story_match(&held.user, &held.story, SKEP_MATCH_PIN, held.refs);
	REQUIRE_EQ(held.match.matched, BLOCKS);
	child = fork();
	REQUIRE(child >= 0);
	if (child == 0) {
		/* Ends with the test, when its end of the line goes. */
		while (line_quiet(line, 1000))
			;
		_exit(0);
	}
	note_tell(line, (struct note){.what = TOLD_READY, .words = {(uint64_t)child}});
	for (;;)
		pause();
}

/* ------------------------------------------------------------------------------ pid namespaces */

/* Puts, pins and waits to be killed. */
static void pinning_client(int line, const void *socket)
{
	struct skep_ref refs[BLOCKS];
	struct story story;
	struct user user;

	user_open(&user, socket, &shape);
	story = story_open(&user, STORY, BLOCKS);
	story_put_all(&user, &story);
	REQUIRE_EQ(story_match(&user, &story, SKEP_MATCH_PIN, refs).matched, BLOCKS);
	story_check(&user, &story, refs, 0, BLOCKS);
	REQUIRE_EQ(user_stats(&user).pins, 1);
	note_tell(line, (struct note){.what = TOLD_READY});
	for (;;)
		pause();
}

/* A client that is process 1 of a namespace; told when it is to end, and tells when it has. */
static void namespace_client(int line, const void *arg)
{
	struct note note;
	pid_t child;

	if (unshare(CLONE_NEWPID) < 0) {
		note_tell(line, (struct note){.status = -errno});
		_exit(0);
	}
	child = fork();
	REQUIRE(child >= 0);
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pinning_client(line, arg);
	}
	note = note_hear(line);
	REQUIRE_EQ(note.what, TOLD_GO);
	REQUIRE(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
	note_tell(line, (struct note){.what = TOLD_GO, .words = {clock_ns()}});
	/* No thread can be made here any more, which the search for leaks would do. */
	_exit(0);
}

/* ------------------------------------------------------------------------------------ the tests */

static void wait_unpinned(const struct daemon *daemon, uint64_t ended, const char *whose)
{
	uint64_t until = ended + NS_PER_S * harness_slower();
	struct realm_status realm;

	daemon_realm(daemon, 0, &realm);
	while (realm.pins || realm.sessions) {
		REQUIRE(clock_ns() < until);
		usleep(200);
		daemon_realm(daemon, 0, &realm);
	}
	printf("%s: back %.1f ms after its end\n", whose, (double)(clock_ns() - ended) / 1e6);
}

static void test_parent_dies(const struct daemon *daemon)
{
	struct child client;
	struct note note;
	uint64_t ended;

	child_start(&client, "a client that leaves a child", abandoning_client,
		daemon->config.socket_path);
	note = note_hear(client.line);
	REQUIRE_EQ(note.what, TOLD_READY);
	ended = child_kill(&client);
	wait_unpinned(daemon, ended, "a client that left a child");
	kill((pid_t)note.words[0], SIGKILL);
}

/* Return: false where namespaces are not permitted. */
static bool test_client_namespace(const struct daemon *daemon)
{
	struct realm_status realm;
	struct child client;
	struct note note;

	child_start(&client, "a client in a pid namespace", namespace_client,
		daemon->config.socket_path);
	note = note_hear(client.line);
	if (note.status) {
		child_finish(&client);
		printf("no pid namespace: unshare says %s\n", strerror(-note.status));
		return false;
	}
	daemon_realm(daemon, 0, &realm);
	REQUIRE_EQ(realm.sessions, 1);
	REQUIRE_EQ(realm.pins, 1);
	note_tell(client.line, (struct note){.what = TOLD_GO});
	note = note_hear(client.line);
	wait_unpinned(daemon, note.words[0], "a client in a pid namespace");
	child_finish(&client);
	return true;
}

/* Whether all pools, indices and session pages of a process are left out of its core files. */
static void require_no_dump(pid_t pid)
{
	char path[64], line[512];
	unsigned shared = 0;
	bool ours = false;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	maps = fopen(path, "re");
	REQUIRE(maps != NULL);
	while (fgets(line, sizeof(line), maps)) {
		if (strstr(line, "memfd:")) {
			ours = strstr(line, "skep-");
		} else if (ours && !strncmp(line, "VmFlags:", 8)) {
			REQUIRE(strstr(line, " dd"));
			shared++;
			ours = false;
		}
	}
	fclose(maps);
	REQUIRE(shared >= 3);
}

static void test_core_files(const struct daemon *daemon)
{
	struct child client;

	child_start(
		&client, "a client that would crash", pinning_client, daemon->config.socket_path);
	REQUIRE_EQ(note_hear(client.line).what, TOLD_READY);
	require_no_dump(client.pid);
	require_no_dump(daemon->child.pid);
	child_kill(&client);
}

/* The daemon in a container of its own: it cannot name its clients, and sees them end all the same.
 */
static bool test_daemon_namespace(struct daemon *daemon)
{
	struct realm_status realm;
	struct child client;
	uint64_t ended;
	int status;

	daemon->pid_namespace = true;
	status = daemon_try(daemon);
	if (status < 0) {
		printf("no pid namespace for the daemon: %s\n", strerror(-status));
		child_finish(&daemon->child);
		return false;
	}
	child_start(&client, "a client outside", pinning_client, daemon->config.socket_path);
	REQUIRE_EQ(note_hear(client.line).what, TOLD_READY);
	daemon_realm(daemon, 0, &realm);
	REQUIRE_EQ(realm.pins, 1);
	ended = child_kill(&client);
	wait_unpinned(daemon, ended, "a client of a daemon in a pid namespace");
	daemon_stop(daemon);
	return true;
}

int main(int argc, char **argv)
{
	struct child client;
	struct daemon daemon;
	bool whole;

	harness_begin(&(struct harness_options){argc, argv, 25, 0});
	daemon_init(&daemon, (struct daemon_size){DRAM_BYTES, 4096});
	daemon_start(&daemon);
	child_start(&client, "the forking client", forking_client, daemon.config.socket_path);
	child_finish(&client);
	test_parent_dies(&daemon);
	test_core_files(&daemon);
	whole = test_client_namespace(&daemon);
	daemon_stop(&daemon);
	whole = test_daemon_namespace(&daemon) && whole;
	if (!whole)
		harness_skip("the part with pid namespaces: this user may not make one");
	return 0;
}
