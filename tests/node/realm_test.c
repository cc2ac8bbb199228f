/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two realms on one node: who may come in, what quotas hold, and that a realm sees the same
 * whatever the other holds or does. The index cannot be mapped for writing by a client, by no way
 * round.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "store/read/layout.h"
#include "tests/node/user.h"
#include "transport/local/client.h"

enum {
	DRAM_BYTES = 4 << 20,
	QUOTA_BYTES = 1 << 20,
	PART_BYTES = 32 << 10,
	BLOCKS = 8,
	SESSIONS_MAX = 3,
	ALPHA = 0,
	BETA = 1,
	TOLD_READY = 1,
	TOLD_GO,
};

static const struct shape shape = {
	.space = "realm", .block_tokens = 16, .parts = 1, .ranges = 1, .part_bytes = PART_BYTES};

static const struct user_who alpha = {.realm = "alpha", .token = "the token of alpha"};
static const struct user_who beta = {.realm = "beta", .token = "the token of beta"};

static void daemon_of_two(struct daemon *daemon)
{
	struct daemon_size size = {DRAM_BYTES, 1024};

	daemon_init(daemon, size);
	daemon->config.realm_count = 0;
	daemon_realm_add(daemon, alpha.realm, alpha.token, size)->dram_use_max = QUOTA_BYTES;
	daemon->realms[ALPHA].sessions_max = SESSIONS_MAX;
	daemon_realm_add(daemon, beta.realm, beta.token, size);
}

/* ---------------------------------------------------------------------------------- coming in */

static int try_as(const char *socket, const char *realm, const char *token)
{
	struct user user;
	int status =
		user_try(&user, socket, &shape, &(struct user_who){.realm = realm, .token = token});

	if (status == 0)
		user_close(&user);
	return status;
}

static void coming_in(int line, const void *socket)
{
	(void)line;
	REQUIRE_EQ(try_as(socket, "alpha", alpha.token), 0);
	REQUIRE_EQ(try_as(socket, "beta", beta.token), 0);
	/* The token alone says which. */
	REQUIRE_EQ(try_as(socket, NULL, beta.token), 0);
	/* A wrong token, no token, another's token, a realm that is not there: all look alike. */
	REQUIRE_EQ(try_as(socket, "alpha", "the token of alphb"), -EACCES);
	REQUIRE_EQ(try_as(socket, "alpha", "the token of alpha "), -EACCES);
	REQUIRE_EQ(try_as(socket, "alpha", "the token of alph"), -EACCES);
	REQUIRE_EQ(try_as(socket, "alpha", NULL), -EACCES);
	REQUIRE_EQ(try_as(socket, "alpha", beta.token), -EACCES);
	REQUIRE_EQ(try_as(socket, "gamma", alpha.token), -EACCES);
	REQUIRE_EQ(try_as(socket, "gamma", "the token of gamma"), -EACCES);
	REQUIRE_EQ(try_as(socket, NULL, NULL), -EACCES);
}

/* -------------------------------------------------------------------------------------- quotas */

static void quotas(int line, const void *socket)
{
	struct skep_match held[QUOTA_BYTES / PART_BYTES / BLOCKS];
	struct user users[SESSIONS_MAX], more, *user = &users[0];
	struct putting what = {.count = 1};
	uint64_t until = clock_ns() + 5 * NS_PER_S;
	int status;

	(void)line;
	for (unsigned i = 0; i < SESSIONS_MAX; i++)
		REQUIRE_EQ(user_try(&users[i], socket, &shape, &alpha), 0);
	REQUIRE_EQ(user_try(&more, socket, &shape, &alpha), -EUSERS);
	/* Another realm has its own. */
	REQUIRE_EQ(user_try(&more, socket, &shape, &beta), 0);
	user_close(&more);
	user_close(&users[2]);
	/* Closing does not wait for the daemon, which may hear of the new one first. */
	do {
		status = user_try(&users[2], socket, &shape, &alpha);
		REQUIRE(clock_ns() < until);
	} while (status == -EUSERS);
	REQUIRE_EQ(status, 0);

	REQUIRE_EQ(user_stats(user).dram_bytes, QUOTA_BYTES);
	for (unsigned i = 0; i < 4 * ARRAY_COUNT(held); i++) {
		struct story story = story_open(user, USER_FAMILY * i, BLOCKS);

		story_put_all(user, &story);
		REQUIRE(user_stats(user).dram_bytes_used <= QUOTA_BYTES);
		if (i >= 3 * ARRAY_COUNT(held)) {
			struct skep_match *match = &held[i - 3 * ARRAY_COUNT(held)];

			*match = story_match(user, &story, SKEP_MATCH_PIN, NULL);
			REQUIRE_EQ(match->matched, BLOCKS);
		}
		story_close(&story);
	}
	/* Everything is pinned: refused when the deadline has come, not before, not for good. */
	for (unsigned turn = 0; turn < 2; turn++) {
		struct story story = story_open(user, 4000, 1);
		uint64_t began = clock_ns();
		struct put_result result;

		what.deadline_ns = skep_deadline_ms(100);
		result = story_put(user, &story, &what);
		REQUIRE_EQ(result.status, turn ? 0 : -EAGAIN);
		REQUIRE(turn || clock_ns() - began >= 95 * NS_PER_MS);
		REQUIRE(clock_ns() - began < 500 * NS_PER_MS * harness_slower());
		for (unsigned i = 0; i < ARRAY_COUNT(held); i++)
			skep_release(user->session, &held[i].pin);
		story_close(&story);
	}
	REQUIRE_EQ(user_stats(user).puts_refused, 1);
	for (unsigned i = 0; i < SESSIONS_MAX; i++)
		user_close(&users[i]);
}

/* --------------------------------------------------------------------------------- neighbours */

static void purging(int line, const void *socket)
{
	struct skep_stats before, after;
	struct user mine, theirs;
	struct story own, other;

	(void)line;
	REQUIRE_EQ(user_try(&mine, socket, &shape, &alpha), 0);
	REQUIRE_EQ(user_try(&theirs, socket, &shape, &beta), 0);
	own = story_open(&mine, 8, BLOCKS);
	other = story_open(&theirs, 8, BLOCKS);
	story_put_all(&mine, &own);
	/* The same tokens in another realm are another block. */
	REQUIRE_EQ(story_get(&theirs, &other), 0);
	story_put_all(&theirs, &other);
	REQUIRE_EQ(story_get(&theirs, &other), BLOCKS);
	before = user_stats(&theirs);
	REQUIRE(skep_space_purge(mine.space, skep_deadline_ms(1000)) >= BLOCKS);
	REQUIRE_EQ(skep_space_step(mine.space, skep_deadline_ms(1000)), 2);
	REQUIRE_EQ(user_stats(&mine).blocks, 0);
	after = user_stats(&theirs);
	REQUIRE(!memcmp(&before, &after, sizeof(before)));
	REQUIRE_EQ(story_get(&mine, &own), 0);
	REQUIRE_EQ(story_get(&theirs, &other), BLOCKS);
	story_close(&own);
	story_close(&other);
	user_close(&mine);
	user_close(&theirs);
}

/* One line of what a realm saw. Compared bytewise, so there is no padding in it. */
struct seen {
	int64_t status;
	uint64_t matched, reason, generation, slot;
	struct skep_stats stats;
};

enum { SEEN_MAX = 600 };

static void see_turn(struct user *user, uint64_t *state, struct seen *seen)
{
	struct story story = story_open(user, unit_random(state, 64), BLOCKS);
	struct skep_explanation why = {.struct_bytes = sizeof(why)};
	struct skep_ref refs[BLOCKS] = {0};
	struct skep_match match = story_match(user, &story, SKEP_MATCH_PIN, refs);
	uint32_t missing[BLOCKS];

	seen->matched = match.matched;
	seen->reason = match.reason;
	seen->slot = refs[0].slot;
	seen->generation = refs[0].frame_generation;
	switch (unit_random(state, 5)) {
	case 0:
		seen->status =
			skep_missing(user->session, story.chain, 0, UINT32_MAX, missing, BLOCKS);
		break;
	case 1:
		seen->status =
			skep_explain(user->session, story.chain, skep_deadline_ms(5000), &why);
		seen->reason |= why.reason << 8;
		seen->matched |= why.matched << 8;
		break;
	case 2:
		seen->status = skep_hint(user->session, story.chain, 0, SKEP_HINT_DONE);
		break;
	default:
		story_put_all(user, &story);
	}
	skep_release(user->session, &match.pin);
	seen->stats = user_stats(user);
	story_close(&story);
}

/* A fixed run of calls in beta; sends what it saw. */
static void observer(int line, const void *socket)
{
	static struct seen seen[SEEN_MAX];
	uint64_t state = harness_seed;
	struct user user;

	REQUIRE_EQ(user_try(&user, socket, &shape, &beta), 0);
	for (unsigned i = 0; i < SEEN_MAX; i++)
		see_turn(&user, &state, &seen[i]);
	for (unsigned i = 0; i < SEEN_MAX; i++)
		line_tell(line, &seen[i], sizeof(seen[i]));
	user_close(&user);
}

/* Fills alpha and goes on putting, pinning, purging in it. */
static void neighbour(int line, const void *socket)
{
	uint64_t state = harness_seed ^ 1;
	struct user user;

	REQUIRE_EQ(user_try(&user, socket, &shape, &alpha), 0);
	note_tell(line, (struct note){.what = TOLD_READY});
	for (unsigned turn = 0; !line_told(line); turn++) {
		struct story story = story_open(&user, unit_random(&state, 256), BLOCKS);
		struct skep_match match;

		story_put_all(&user, &story);
		match = story_match(&user, &story, SKEP_MATCH_PIN, NULL);
		if (turn % 3 == 0)
			skep_release(user.session, &match.pin);
		if (turn % 64 == 63)
			REQUIRE(skep_space_purge(user.space, skep_deadline_ms(5000)) >= 0);
		skep_release(user.session, &match.pin);
		story_close(&story);
	}
	user_close(&user);
}

static void observe(struct daemon *daemon, bool alone, struct seen *seen)
{
	const char *socket = daemon->config.socket_path;
	struct child watches, acts;

	daemon_start(daemon);
	if (!alone) {
		child_start(&acts, "the neighbour", neighbour, socket);
		REQUIRE_EQ(note_hear(acts.line).what, TOLD_READY);
		sleep_ms(20);
	}
	child_start(&watches, "the observer", observer, socket);
	for (unsigned i = 0; i < SEEN_MAX; i++)
		REQUIRE_EQ(line_hear(watches.line, &seen[i], sizeof(seen[i])), sizeof(seen[i]));
	child_finish(&watches);
	if (!alone) {
		note_tell(acts.line, (struct note){.what = TOLD_GO});
		child_finish(&acts);
	}
	daemon_stop(daemon);
}

static void test_same_with_neighbour(struct daemon *daemon)
{
	static struct seen alone[SEEN_MAX], beside[SEEN_MAX];

	observe(daemon, true, alone);
	observe(daemon, false, beside);
	for (unsigned i = 0; i < SEEN_MAX; i++) {
		REQUIRE_EQ(beside[i].status, alone[i].status);
		REQUIRE_EQ(beside[i].matched, alone[i].matched);
		REQUIRE_EQ(beside[i].reason, alone[i].reason);
		REQUIRE_EQ(beside[i].slot, alone[i].slot);
		REQUIRE_EQ(beside[i].generation, alone[i].generation);
		REQUIRE(!memcmp(&beside[i].stats, &alone[i].stats, sizeof(alone[i].stats)));
	}
	REQUIRE(alone[SEEN_MAX - 1].stats.evicted && alone[SEEN_MAX - 1].stats.tokens_had);
}

/* ------------------------------------------------------------------------------ what is mapped */

/* What a client is given, by the wire itself. */
static void welcome_get(const char *socket, int *fd, struct local_welcome *welcome)
{
	static struct wire_hello hello;
	uint64_t deadline_ns = clock_ns() + 5 * NS_PER_S;

	hello.head = local_head(WIRE_HELLO, sizeof(hello));
	hello.index_version = INDEX_LAYOUT_VERSION;
	hello.page_version = PAGE_VERSION;
	snprintf(hello.token, sizeof(hello.token), "%s", alpha.token);
	*fd = local_connect(socket, deadline_ns);
	REQUIRE(*fd >= 0);
	REQUIRE_EQ(local_hello(&(struct local_hello){.fd = *fd,
				       .hello = &hello,
				       .wait = &local_wait_plain,
				       .deadline_ns = deadline_ns},
			   welcome),
		0);
}

/* Every way to the bytes of the index that a client might try. */
static void index_try(int fd, uint64_t bytes)
{
	char path[64];
	void *map;
	int again;

	map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	REQUIRE(map == MAP_FAILED && (errno == EPERM || errno == EACCES));
	REQUIRE(pwrite(fd, "x", 1, 0) < 0);
	REQUIRE(ftruncate(fd, 0) < 0);
	REQUIRE(ftruncate(fd, (off_t)bytes * 2) < 0);
	REQUIRE(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) < 0);
	REQUIRE(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0);
	map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	REQUIRE(map != MAP_FAILED);
	REQUIRE(mprotect(map, bytes, PROT_READ | PROT_WRITE) < 0);
	munmap(map, bytes);
	/* Opened anew through /proc the descriptor may write, for all its file lets it. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDWR | O_CLOEXEC);
	if (again < 0)
		return;
	map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0);
	REQUIRE(map == MAP_FAILED && (errno == EPERM || errno == EACCES));
	REQUIRE(pwrite(again, "x", 1, 0) < 0);
	REQUIRE(ftruncate(again, 0) < 0);
	REQUIRE(fallocate(again, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) < 0);
	close(again);
}

/* The mapping of the library itself, opened through /proc/self/map_files where that is allowed. */
static void index_try_mapped(const char *socket)
{
	char line[512], path[128];
	unsigned tried = 0;
	struct user user;
	FILE *maps;

	REQUIRE_EQ(user_try(&user, socket, &shape, &alpha), 0);
	maps = fopen("/proc/self/maps", "re");
	REQUIRE(maps != NULL);
	while (fgets(line, sizeof(line), maps)) {
		unsigned long from, to;
		char rights[8];
		int fd;

		if (!strstr(line, "memfd:skep-alpha-index"))
			continue;
		REQUIRE_EQ(sscanf(line, "%lx-%lx %7s", &from, &to, rights), 3);
		REQUIRE_TEXT(rights, "r--s");
		tried++;
		REQUIRE(mprotect((void *)from, to - from, PROT_READ | PROT_WRITE) < 0);
		snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", from, to);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			continue;
		index_try(fd, to - from);
		close(fd);
	}
	fclose(maps);
	REQUIRE_EQ(tried, 1);
	user_close(&user);
}

static void mapping(int line, const void *socket)
{
	struct local_welcome welcome;
	int fd;

	(void)line;
	welcome_get(socket, &fd, &welcome);
	index_try(welcome.index_fd, welcome.answer.index_bytes);
	/* Memory that is written by both sides keeps its size: nobody can make the other fault. */
	for (unsigned i = 0; i < welcome.answer.chunk_count; i++) {
		REQUIRE(ftruncate(welcome.chunk_fds[i], 0) < 0);
		REQUIRE(ftruncate(welcome.chunk_fds[i], 1ll << 32) < 0);
	}
	REQUIRE(ftruncate(welcome.page_fd, 0) < 0);
	local_welcome_drop(&welcome);
	close(fd);
	index_try_mapped(socket);
}

/* ------------------------------------------------------------------------------------ the tests */

static void run(const char *name, child_body *body, const struct daemon *daemon)
{
	struct child child;

	child_start(&child, name, body, daemon->config.socket_path);
	child_finish(&child);
}

int main(int argc, char **argv)
{
	struct node_status node;
	struct daemon daemon;

	harness_begin(&(struct harness_options){argc, argv, 25, 0});
	daemon_of_two(&daemon);
	daemon_start(&daemon);
	run("coming in", coming_in, &daemon);
	daemon_node(&daemon, &node);
	REQUIRE_EQ(node.counters[NODE_COUNTER_hellos_refused], 8);
	run("quotas", quotas, &daemon);
	run("purging", purging, &daemon);
	run("mapping", mapping, &daemon);
	daemon_stop(&daemon);
	test_same_with_neighbour(&daemon);
	return 0;
}
