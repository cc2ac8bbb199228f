/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A daemon whose place another one takes: clients notice nothing. Hits go on without one miss, what
 * was pinned, reserved, referred to or waited for before is so afterwards, and every byte is right;
 * a successor that fails leaves everything as it was; one that is killed is a daemon's death.
 *
 *	takeover_test [TAKEOVERS] [--seed N]
 */
#include <errno.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "tests/node/user.h"
#include "transport/local/page.h"
#include "store/read/layout.h"
#include "transport/local/server_hand.h"

enum {
	DRAM_BYTES = 8 << 20,
	PART_BYTES = 64 << 10,
	FRAMES = DRAM_BYTES / PART_BYTES,
	BLOCKS = 8, /* of a story */
	HELD = 4,   /* story that a pin holds all along */
	FIRST_LOAD = 1000,
	LOADERS = 3,
	READERS = 2,
	KILLS = 12,
	STORED = 500000,
	STORED_STORIES = 60, /* 30 MiB: almost four times the pool */
};

#define SSD_BYTES (256ull << 20)

static const struct shape shape = {
	.space = "takeover", .block_tokens = 16, .parts = 1, .ranges = 2, .part_bytes = PART_BYTES};

enum { TOLD_READY = 1, TOLD_GO, TOLD_PUT, TOLD_GET, TOLD_STOP };

struct role {
	const char *socket;
	uint64_t number;
};

static struct daemon daemons[2];
static unsigned current; /* which of them serves */

static struct daemon *serving(void)
{
	return &daemons[current];
}

static void daemons_start(void)
{
	struct daemon_size size = {DRAM_BYTES, 4 * FRAMES};

	current = 0;
	daemon_init(&daemons[0], size);
	daemons[0].config.socket_mode = 0666;
	daemons[1] = daemons[0];
	daemon_start(serving());
}

/* The other one takes the place, and the one before ends. */
static void takeover(void)
{
	struct daemon *before = serving();

	current ^= 1;
	*serving() = *before;
	serving()->config.takeover = true;
	daemon_start(serving());
	daemon_stop(before);
}

static void daemons_stop(void)
{
	daemon_stop(serving());
}

/* ------------------------------------------------------------------------------- the clients */

/* Puts a story, pins it, and lets it go when told. */
static void holder_body(int line, const void *arg)
{
	const struct role *role = arg;
	struct skep_ref refs[BLOCKS];
	struct skep_match match;
	struct story story;
	struct user user;

	user_open(&user, role->socket, &shape);
	story = story_open(&user, role->number, BLOCKS);
	story_put_all(&user, &story);
	match = story_match(&user, &story, SKEP_MATCH_PIN, refs);
	REQUIRE_EQ(match.matched, BLOCKS);
	note_tell(line, (struct note){.what = TOLD_READY});
	/* Looks at it through the old references all the while. */
	while (!line_told(line)) {
		story_check(&user, &story, refs, 0, BLOCKS);
		REQUIRE_EQ(skep_attached(user.session), 1);
		usleep(2000);
	}
	skep_release(user.session, &match.pin);
	story_close(&story);
	user_close(&user);
}

/* Reads what is held, again and again: each time all of it is there, or (role.number) all but once.
 */
static void reader_body(int line, const void *arg)
{
	const struct role *role = arg;
	struct story story;
	struct user user;
	uint64_t hits = 0, misses = 0;

	user_open(&user, role->socket, &shape);
	story = story_open(&user, HELD, BLOCKS);
	note_tell(line, (struct note){.what = TOLD_READY});
	while (!line_told(line)) {
		struct skep_ref refs[BLOCKS];
		struct skep_match match = story_match(&user, &story, SKEP_MATCH_PIN, refs);

		/* One that is stopped may be so between finding and pinning. */
		if (match.matched < BLOCKS && role->number && !misses++) {
			skep_release(user.session, &match.pin);
			continue;
		}
		REQUIRE_EQ(match.matched, BLOCKS);
		if (++hits % 16 == 0)
			story_check(&user, &story, refs, 0, BLOCKS);
		if (hits % 64 == 0)
			REQUIRE_EQ(story_copy(&user, &story, &refs[3], 3, 0), PART_BYTES);
		skep_release(user.session, &match.pin);
	}
	note_tell(line, (struct note){.words = {hits}});
	story_close(&story);
	user_close(&user);
}

/* Puts more than there is room for, and reads what is left of it. */
static void loader_body(int line, const void *arg)
{
	const struct role *role = arg;
	uint64_t put = 0, got = 0, number = role->number, longest_ns = 0, began_ns;
	struct user user;

	user_open(&user, role->socket, &shape);
	note_tell(line, (struct note){.what = TOLD_READY});
	for (; !line_told(line); number += USER_FAMILY) {
		struct putting what = {.count = BLOCKS,
			.deadline_ns = skep_deadline_ms(5000),
			.sums = number / USER_FAMILY % 2 ? SKEP_SUMS_MOVER : SKEP_SUMS_HERE};
		struct story story = story_open(&user, number, BLOCKS);
		struct story old = story_open(
			&user, number - MIN_OF(number - role->number, 3 * USER_FAMILY), BLOCKS);
		struct put_result result;

		began_ns = clock_ns();
		result = story_put(&user, &story, &what);
		longest_ns = MAX_OF(longest_ns, clock_ns() - began_ns);
		REQUIRE_EQ(result.status, 0);
		REQUIRE_EQ(result.stale, 0);
		put += result.committed;
		got += story_get(&user, &story) + story_get(&user, &old);
		story_close(&old);
		story_close(&story);
	}
	printf("a loader: %llu blocks put, the longest put of %d took %.1f ms\n",
		(unsigned long long)put, BLOCKS, (double)longest_ns / 1e6);
	note_tell(line, (struct note){.words = {got, put}});
	user_close(&user);
}

static unsigned index_maps(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned count = 0;
	char text[512];

	REQUIRE(maps != NULL);
	while (fgets(text, sizeof(text), maps))
		count += strstr(text, "skep-main-index") != NULL;
	fclose(maps);
	return count;
}

/* Says how many indexes it has mapped whenever asked; in no call meanwhile. */
static void idler_body(int line, const void *arg)
{
	const struct role *role = arg;
	struct story story;
	struct user user;

	user_open(&user, role->socket, &shape);
	story = story_open(&user, HELD, BLOCKS);
	note_tell(line, (struct note){.what = TOLD_READY});
	while (note_hear(line).what != TOLD_STOP)
		note_tell(line, (struct note){.words = {index_maps(), story_get(&user, &story)}});
	story_close(&story);
	user_close(&user);
}

/* Reserves, and commits when told; so a reservation may be of the daemon before. */
static void writer_body(int line, const void *arg)
{
	const struct role *role = arg;
	struct skep_frame frames[BLOCKS];
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve),
		.count = BLOCKS,
		.deadline_ns = skep_deadline_ms(1000)};
	struct skep_commit commit = {.struct_bytes = sizeof(commit), .sums = SKEP_SUMS_MOVER};
	struct story story;
	struct user user;

	user_open(&user, role->socket, &shape);
	story = story_open(&user, role->number, BLOCKS);
	reserve.chain = story.chain;
	REQUIRE_EQ(skep_reserve(user.session, &reserve, frames), BLOCKS);
	for (unsigned i = 0; i < BLOCKS / 2; i++)
		frame_fill(&story, &frames[i]);
	note_tell(line, (struct note){.what = TOLD_READY});
	note_hear(line);
	for (unsigned i = BLOCKS / 2; i < BLOCKS; i++)
		frame_fill(&story, &frames[i]);
	commit.deadline_ns = skep_deadline_ms(2000 * harness_slower());
	REQUIRE_EQ(skep_commit(user.session, frames, BLOCKS, &commit), BLOCKS);
	REQUIRE_EQ(story_get(&user, &story), BLOCKS);
	note_tell(line, (struct note){.what = TOLD_READY});
	note_hear(line);
	story_close(&story);
	user_close(&user);
}

/* Waits for the writer's first block, across the takeover. */
static void waiter_body(int line, const void *arg)
{
	const struct role *role = arg;
	struct skep_wait wait = {.struct_bytes = sizeof(wait),
		.deadline_ns = skep_deadline_ms(20000 * harness_slower())};
	struct story story;
	struct user user;

	user_open(&user, role->socket, &shape);
	story = story_open(&user, role->number, BLOCKS);
	wait.chain = story.chain;
	note_tell(line, (struct note){.what = TOLD_READY});
	REQUIRE_EQ(skep_wait(user.session, &wait), 0);
	REQUIRE(story_get(&user, &story) >= 1);
	story_close(&story);
	user_close(&user);
}

static void role_start(
	struct child *child, const char *name, child_body *body, const struct role *role)
{
	child_start(child, name, body, role);
	REQUIRE_EQ(note_hear(child->line).what, TOLD_READY);
}

static void role_stop(struct child *child)
{
	note_tell(child->line, (struct note){.what = TOLD_STOP});
	child_finish(child);
}

static uint64_t role_stop_counted(struct child *child)
{
	uint64_t count;

	note_tell(child->line, (struct note){.what = TOLD_STOP});
	count = note_hear(child->line).words[0];
	child_finish(child);
	return count;
}

/* --------------------------------------------------------------------------- a false successor */

/* Another program that asks; @until: the last of the talk that it takes part in. Return: kind of
 * the message that came last, or negative. */
static int false_successor(const char *path, enum hand_kind until)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct hand_message message = hand_message(HAND_ASK);
	struct hand_line line = {.deadline_ns = clock_ns() + 5 * NS_PER_S};
	int fds[WIRE_FDS_MAX], kind;
	uint32_t have = 0, want;
	unsigned count;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	line.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	REQUIRE(line.fd >= 0);
	if (connect(line.fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	message.version = HAND_VERSION;
	message.page_version = PAGE_VERSION;
	message.index_version = INDEX_LAYOUT_VERSION;
	REQUIRE_EQ(hand_send(&line, &message, NULL, 0), 0);
	REQUIRE_EQ(hand_receive(&line, &message, fds, &count), 0);
	want = message.fd_count;
	/* Descriptors are kept: the end of this process closes them, as a successor's would. */
	while (message.kind != HAND_REFUSE && have < want) {
		REQUIRE_EQ(hand_receive(&line, &message, fds, &count), 0);
		have += count;
	}
	kind = (int)message.kind;
	if (kind == HAND_REFUSE)
		fprintf(stderr, "refused, as it should be: %s\n", message.why);
	if (kind != HAND_REFUSE && until >= HAND_READY) {
		message = hand_message(HAND_READY);
		REQUIRE_EQ(hand_send(&line, &message, NULL, 0), 0);
		REQUIRE_EQ(hand_receive(&line, &message, fds, &count), 0);
		kind = (int)message.kind;
	}
	return kind;
}

struct falsehood {
	const char *socket;
	enum hand_kind until;
	unsigned uid;
	int want;
};

static void false_body(int line, const void *arg)
{
	const struct falsehood *what = arg;

	(void)line;
	if (what->uid)
		REQUIRE_EQ(setuid(what->uid), 0);
	REQUIRE_EQ(false_successor(what->socket, what->until), what->want);
}

static void false_run(const struct falsehood *what)
{
	struct child child;

	child_start(&child, "a false successor", false_body, what);
	child_finish(&child);
}

/* A real one whose configuration is another. */
static void other_body(int line, const void *arg)
{
	struct daemon other = *(const struct daemon *)arg;
	char why[256] = "";
	struct node *node;

	(void)line;
	other.config.realms = other.realms;
	other.config.ssds = other.ssds;
	REQUIRE(node_create(&other.config, &node, why, sizeof(why)) < 0);
	fprintf(stderr, "failed, as it should: %s\n", why);
	REQUIRE(strstr(why, "takeover") || strstr(why, "socket") || strstr(why, "realms"));
}

static void other_run(const struct daemon *other)
{
	struct child child;

	child_start(&child, "another daemon", other_body, other);
	child_finish(&child);
}

/* --------------------------------------------------------------------------------- the tests */

static void load_does_not_notice(void)
{
	const char *socket = serving()->config.socket_path;
	struct role held = {socket, HELD}, all = {socket, 0}, roles[LOADERS];
	struct child holder, readers[READERS], loaders[LOADERS], idler;
	unsigned descriptors = 0;
	struct node_status node;
	struct note note;

	role_start(&holder, "the holder", holder_body, &held);
	role_start(&idler, "the idler", idler_body, &held);
	for (unsigned i = 0; i < READERS; i++)
		role_start(&readers[i], "a reader", reader_body, &all);
	for (unsigned i = 0; i < LOADERS; i++) {
		roles[i] = (struct role){socket, FIRST_LOAD + i * (1u << 20)};
		role_start(&loaders[i], "a loader", loader_body, &roles[i]);
	}
	for (uint64_t i = 0; i < harness_count; i++) {
		sleep_ms(200);
		takeover();
		daemon_node(serving(), &node);
		REQUIRE_EQ(node.takeovers, i + 1);
		REQUIRE_EQ(node.session_count, 2 + READERS + LOADERS);
		/* In no call, it has let go of the old index all the same. */
		sleep_ms(100 * harness_slower());
		note_tell(idler.line, (struct note){.what = TOLD_GO});
		note = note_hear(idler.line);
		REQUIRE_EQ(note.words[0], 1);
		REQUIRE_EQ(note.words[1], BLOCKS);
		if (descriptors)
			REQUIRE_EQ(daemon_descriptors(serving()), descriptors);
		descriptors = daemon_descriptors(serving());
	}
	sleep_ms(200);
	for (unsigned i = 0; i < LOADERS; i++)
		REQUIRE(role_stop_counted(&loaders[i]) > 0);
	for (unsigned i = 0; i < READERS; i++) {
		uint64_t hits = role_stop_counted(&readers[i]);

		printf("a reader: %llu matches, no miss\n", (unsigned long long)hits);
		REQUIRE(hits > 0);
	}
	role_stop(&idler);
	role_stop(&holder);
}

static void puts_and_waits_go_on(void)
{
	struct role role = {serving()->config.socket_path, 77};
	struct child writer, waiter;

	role_start(&writer, "the writer", writer_body, &role);
	role_start(&waiter, "the waiter", waiter_body, &role);
	sleep_ms(50);
	takeover();
	note_tell(writer.line, (struct note){.what = TOLD_GO});
	REQUIRE_EQ(note_hear(writer.line).what, TOLD_READY);
	child_finish(&waiter);
	role_stop(&writer);
}

/* A client that stands still reads the old index until it is emptied; then what it knew is gone
 * from there, and when it goes on it finds everything by the new one. */
static void a_client_that_stands_still(bool predecessor_dies)
{
	struct role held = {serving()->config.socket_path, HELD};
	struct role load = {held.socket, FIRST_LOAD + (7u << 20)};
	struct child holder, reader, loader;
	struct daemon *before = serving();
	struct realm_status realm;
	uint64_t evicted;

	role_start(&holder, "the holder", holder_body, &held);
	role_start(&reader, "a reader", reader_body, &held);
	role_start(&loader, "a loader", loader_body, &load);
	sleep_ms(100 * harness_slower());
	child_stop(&reader);
	current ^= 1;
	*serving() = *before;
	serving()->config.takeover = true;
	daemon_start(serving());
	daemon_realm(serving(), 0, &realm);
	evicted = realm.counters[REALM_COUNTER_blocks_evicted];
	if (predecessor_dies)
		daemon_kill(before);
	else
		daemon_stop(before);
	sleep_ms(300);
	daemon_realm(serving(), 0, &realm);
	/* Nothing that it may be reading is given away. */
	if (predecessor_dies)
		REQUIRE_EQ(realm.counters[REALM_COUNTER_blocks_evicted], evicted);
	else
		REQUIRE(realm.counters[REALM_COUNTER_blocks_evicted] > evicted);
	child_continue(&reader);
	sleep_ms(100 * harness_slower());
	daemon_realm(serving(), 0, &realm);
	REQUIRE(realm.counters[REALM_COUNTER_blocks_evicted] > evicted);
	role_stop_counted(&loader);
	REQUIRE(role_stop_counted(&reader) > 0);
	role_stop(&holder);
}

/* ------------------------------------------------------------------------------------ an ssd */

static void ssd_daemons_start(void)
{
	struct daemon_size size = {DRAM_BYTES, 64 * FRAMES};

	current = 0;
	daemon_init(&daemons[0], size);
	daemons[0].realms[0].ssd_bytes = SSD_BYTES;
	daemon_ssd_add(&daemons[0], "ssd", SSD_BYTES + (16 << 20));
	daemon_start(serving());
}

static uint64_t stored_stories_get(struct user *user, uint64_t first, unsigned count)
{
	uint64_t had = 0;

	for (unsigned i = 0; i < count; i++) {
		struct story story = story_open(user, first + i * USER_FAMILY, BLOCKS);

		had += story_load(user, &story);
		story_close(&story);
	}
	return had;
}

static void stored_stories_put(struct user *user, uint64_t first, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct story story = story_open(user, first + i * USER_FAMILY, BLOCKS);
		struct putting what = {.count = BLOCKS, .deadline_ns = skep_deadline_ms(20000)};

		REQUIRE_EQ(story_put(user, &story, &what).status, 0);
		story_close(&story);
	}
}

/* The realm's books, added up anew, once nothing is under way. */
static void books_agree(void)
{
	uint64_t until = clock_ns() + 20 * NS_PER_S * harness_slower();
	struct daemon_audit books;

	do {
		REQUIRE(clock_ns() < until);
		sleep_ms(5);
		daemon_audit(serving(), 0, &books);
	} while (!books.idle);
	REQUIRE_EQ(books.index_units, books.counted_units);
	REQUIRE_EQ(books.index_units, books.log_units);
	REQUIRE_EQ(books.blocks, books.blocks_counted);
}

/* Puts and loads what is on the ssd alone, all the time. */
static void ssd_loader_body(int line, const void *arg)
{
	const struct role *role = arg;
	uint64_t number = role->number, first = number, got = 0;
	struct user user;

	user_open(&user, role->socket, &shape);
	note_tell(line, (struct note){.what = TOLD_READY});
	for (; !line_told(line); number += USER_FAMILY) {
		uint64_t old = number - MIN_OF(number - first, 40ull * USER_FAMILY);

		stored_stories_put(&user, number, 1);
		/* Room is there for all of it: nothing may be lost. */
		REQUIRE_EQ(stored_stories_get(&user, old, 1), BLOCKS);
		got += BLOCKS;
		if (number - first > 150ull * USER_FAMILY)
			number = first;
	}
	note_tell(line, (struct note){.words = {got}});
	user_close(&user);
}

/* Does it when told, and tells how many blocks it had. */
static void storer_body(int line, const void *arg)
{
	const struct role *role = arg;
	struct user user;
	struct note note;

	user_open(&user, role->socket, &shape);
	note_tell(line, (struct note){.what = TOLD_READY});
	while ((note = note_hear(line)).what != TOLD_STOP) {
		if (note.what == TOLD_PUT)
			stored_stories_put(&user, STORED, STORED_STORIES);
		note.words[0] = stored_stories_get(&user, STORED, STORED_STORIES);
		note_tell(line, note);
	}
	user_close(&user);
}

static void storer_has_all(const struct child *storer, uint32_t told)
{
	note_tell(storer->line, (struct note){.what = told});
	REQUIRE_EQ(note_hear(storer->line).words[0], STORED_STORIES * BLOCKS);
}

/* What is in DRAM alone, on both, and on the ssd alone: all of it is had from the successor, by
 * clients that load meanwhile, and what was durable by the one that starts after it. */
static void an_ssd_goes_along(void)
{
	const char *socket = serving()->config.socket_path;
	struct role held = {socket, HELD}, all = {socket, 0};
	struct role loads[2] = {{socket, FIRST_LOAD}, {socket, FIRST_LOAD + (1u << 20)}};
	struct child holder, reader, storer, loaders[2];
	struct realm_status realm;
	struct daemon other;

	role_start(&holder, "the holder", holder_body, &held);
	role_start(&reader, "a reader", reader_body, &all);
	role_start(&storer, "the storer", storer_body, &all);
	storer_has_all(&storer, TOLD_PUT);
	takeover();
	storer_has_all(&storer, TOLD_GET);
	books_agree();
	for (unsigned i = 0; i < 2; i++)
		role_start(&loaders[i], "a loader", ssd_loader_body, &loads[i]);
	for (uint64_t i = 0; i < harness_count; i++) {
		sleep_ms(300);
		takeover();
	}
	sleep_ms(300);
	for (unsigned i = 0; i < 2; i++)
		REQUIRE(role_stop_counted(&loaders[i]) > 0);
	REQUIRE(role_stop_counted(&reader) > 0);
	role_stop(&holder);
	storer_has_all(&storer, TOLD_GET);
	books_agree();
	daemon_realm(serving(), 0, &realm);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_blocks_lost], 0);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_blocks_shed], 0);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_blocks_quarantined], 0);
	REQUIRE(realm.counters[REALM_COUNTER_blocks_promoted] > 0);
	/* A start finds it as well. */
	role_stop(&storer);
	daemon_stop(serving());
	serving()->config.takeover = false;
	daemon_start(serving());
	role_start(&storer, "the storer", storer_body, &all);
	storer_has_all(&storer, TOLD_GET);
	/* Other ssds are another matter. */
	other = *serving();
	other.config.takeover = true;
	harness_path("another", other.ssds[0].path, sizeof(other.ssds[0].path));
	other_run(&other);
	storer_has_all(&storer, TOLD_GET);
	role_stop(&storer);
}

static void who_fails_changes_nothing(void)
{
	const char *socket = serving()->config.socket_path;
	struct role held = {socket, HELD};
	struct child holder, reader;
	struct node_status node;
	struct daemon other;

	role_start(&holder, "the holder", holder_body, &held);
	role_start(&reader, "a reader", reader_body, &held);
	/* Ends with the whole state in its hands. */
	false_run(&(struct falsehood){.socket = socket, .until = HAND_STATE, .want = HAND_FDS});
	if (geteuid() == 0) {
		char folder[PATH_MAX];

		/* It shall be the daemon that says no. */
		harness_path("", folder, sizeof(folder));
		REQUIRE_EQ(chmod(folder, 0711), 0);
		false_run(&(struct falsehood){
			.socket = socket, .until = HAND_GO, .uid = 65534, .want = HAND_REFUSE});
	} else {
		printf("another user's takeover was not tried: that takes root\n");
	}
	other = *serving();
	other.config.takeover = true;
	other.realms[0].dram_bytes *= 2;
	other_run(&other);
	other = *serving();
	other.config.takeover = true;
	other.realms[0].secret[0] ^= 1;
	other_run(&other);
	REQUIRE(snprintf(other.config.socket_path, sizeof(other.config.socket_path), "%s.none",
			socket) < (int)sizeof(other.config.socket_path));
	other_run(&other);
	REQUIRE(role_stop_counted(&reader) > 0);
	role_stop(&holder);
	daemon_node(serving(), &node);
	REQUIRE_EQ(node.takeovers, 0);
	/* And one that is in order still may. */
	takeover();
}

/* What clients see of the death of a successor that had taken over: misses, then a new daemon. */
static void survivor_body(int line, const void *arg)
{
	const struct role *role = arg;
	uint64_t number = role->number, got = 0;
	struct user user;

	user_open(&user, role->socket, &shape);
	note_tell(line, (struct note){.what = TOLD_READY});
	for (; !line_told(line); number += USER_FAMILY) {
		struct putting what = {.count = BLOCKS, .deadline_ns = skep_deadline_ms(20)};
		struct story story = story_open(&user, number, BLOCKS);

		/* Whatever comes of it: the bytes that it reads are checked. */
		story_put(&user, &story, &what);
		got += story_get(&user, &story);
		story_close(&story);
	}
	note_tell(line, (struct note){.words = {got}});
	user_close(&user);
}

/* A process of its own, as all clients are: the test itself has no threads. */
static void asker_body(int line, const void *arg)
{
	const struct role *role = arg;
	struct user user;
	int status = user_try(&user, role->socket, &shape, NULL);

	if (status == 0)
		user_close(&user);
	note_tell(line, (struct note){.status = status});
}

static bool somebody_serves(void)
{
	struct role role = {serving()->config.socket_path, 0};
	struct child child;
	int status;

	child_start(&child, "one who asks", asker_body, &role);
	status = note_hear(child.line).status;
	child_finish(&child);
	return status == 0;
}

static void a_killed_successor_is_a_death(uint64_t *random)
{
	struct role role = {serving()->config.socket_path, FIRST_LOAD + (9u << 20)};
	unsigned deaths = 0, survived = 0;
	struct child client;

	role_start(&client, "a survivor", survivor_body, &role);
	for (unsigned i = 0; i < KILLS; i++) {
		struct daemon *next = &daemons[current ^ 1];

		sleep_ms(20);
		*next = *serving();
		next->config.takeover = true;
		if (i == 0) {
			/* In any case once just after it has become the daemon. */
			false_run(&(struct falsehood){
				.socket = role.socket, .until = HAND_READY, .want = HAND_GO});
		} else {
			daemon_begin(next);
			usleep((useconds_t)unit_random(random, 40000 * harness_slower()));
			daemon_kill(next);
		}
		if (somebody_serves()) {
			survived++;
			continue;
		}
		deaths++;
		daemon_stop(serving());
		serving()->config.takeover = false;
		daemon_start(serving());
	}
	printf("%u deaths, %u times the one before served on\n", deaths, survived);
	REQUIRE(deaths > 0);
	sleep_ms(200);
	REQUIRE(role_stop_counted(&client) > 0);
}

int main(int argc, char **argv)
{
	uint64_t random;

	harness_begin(
		&(struct harness_options){.argc = argc, .argv = argv, .seconds = 60, .count = 3});
	random = harness_seed;
	daemons_start();
	load_does_not_notice();
	daemons_stop();
	daemons_start();
	puts_and_waits_go_on();
	a_client_that_stands_still(false);
	a_client_that_stands_still(true);
	daemons_stop();
	daemons_start();
	who_fails_changes_nothing();
	daemons_stop();
	ssd_daemons_start();
	an_ssd_goes_along();
	daemons_stop();
	daemons_start();
	a_killed_successor_is_a_death(&random);
	daemons_stop();
	return 0;
}
