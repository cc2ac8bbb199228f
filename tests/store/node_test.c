/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node with its threads, asked over a private socket by raw messages and by other threads: who
 * comes in, what each request answers, what a configuration is refused for, and that it stops at
 * any moment.
 */
#include <dirent.h>
#include <pthread.h>
#include <signal.h>

#include "base/memory.h"
#include "store/node.h"
#include "store/read/probe.h"
#include "tests/store/play.h"
#include "tests/transport/raw.h"

#define POOL_BYTES (16ull << 20)

static char folder[64], common_path[96], bound_path[96];
static struct realm_config realms[3];
static struct node_config config;
static struct raw_packet packet;
static char why[256];

/* Realm "open" lets everybody in; "token" by token; "bound" by its own socket and by token. */
static void config_reset(void)
{
	static const char *const names[] = {"open", "token", "bound"};

	memset(realms, 0, sizeof(realms));
	for (unsigned i = 0; i < 3; i++) {
		snprintf(realms[i].name, sizeof(realms[i].name), "%s", names[i]);
		memset(realms[i].secret, 'a' + (int)i, 32);
		realms[i].secret_bytes = 32;
		realms[i].dram_bytes = POOL_BYTES;
		realms[i].index_blocks = 512;
		realms[i].record_bytes = 1 << 20;
		if (i) {
			realms[i].token_count = 2;
			snprintf(realms[i].tokens[0], sizeof(realms[i].tokens[0]), "%s",
				"first token");
			snprintf(realms[i].tokens[1], sizeof(realms[i].tokens[1]), "%s", names[i]);
		}
	}
	snprintf(realms[2].socket_path, sizeof(realms[2].socket_path), "%s", bound_path);
	config = (struct node_config){.realms = realms, .realm_count = 3, .spin_ns = 1000};
	snprintf(config.socket_path, sizeof(config.socket_path), "%s", common_path);
}

static struct node *node_open(void)
{
	struct node *node;

	REQUIRE_EQ(node_create(&config, &node, why, sizeof(why)), 0);
	REQUIRE_EQ(node_start(node), 0);
	return node;
}

static struct realm_status realm_now(struct node *node, unsigned index)
{
	static struct realm_status status;

	REQUIRE_EQ(node_realm(node, index, &status), 0);
	return status;
}

static unsigned descriptors(void)
{
	DIR *open_now = opendir("/proc/self/fd");
	unsigned count = 0;

	REQUIRE(open_now);
	while (readdir(open_now))
		count++;
	closedir(open_now);
	return count;
}

/* ------------------------------------------------------------------------ what is refused */

/* Each fault is named in one line, and nothing is left behind. */
static void a_wrong_configuration_is_named(void)
{
	unsigned before = descriptors();
	struct node *node, *other;

#define REFUSED(change, wanted, words)                                                             \
	do {                                                                                       \
		config_reset();                                                                    \
		why[0] = 0;                                                                        \
		change;                                                                            \
		REQUIRE_EQ(node_create(&config, &node, why, sizeof(why)), wanted);                 \
		if (!strstr(why, words))                                                           \
			REQUIRE_TEXT(why, words);                                                  \
	} while (0)
	REFUSED(config.realm_count = 0, -EINVAL, "0 realms");
	REFUSED(config.realm_count = NODE_REALMS_MAX + 1, -EINVAL, "65 realms");
	REFUSED(realms[1].name[0] = 0, -EINVAL, "no name");
	REFUSED(realms[1].secret_bytes = 15, -EINVAL, "realm token: its secret has 15 bytes");
	REFUSED(realms[0].dram_bytes = 4096, -EINVAL, "at least 2 MiB");
	REFUSED(snprintf(realms[1].name, sizeof(realms[1].name), "open"), -EINVAL,
		"realm open is configured twice");
	REFUSED(config.chunk_bytes = 12345, -EINVAL, "realm open: cannot make its pool");
	REFUSED(snprintf(config.socket_path, sizeof(config.socket_path), "%s/none/s", folder),
		-ENOENT, "cannot listen on");
#undef REFUSED
	config_reset();
	node = node_open();
	REQUIRE_EQ(node_create(&config, &other, why, sizeof(why)), -EADDRINUSE);
	REQUIRE(strstr(why, "another daemon answers on"));
	node_destroy(node);
	REQUIRE_EQ(descriptors(), before);
	REQUIRE(access(common_path, F_OK) < 0 && access(bound_path, F_OK) < 0);
}

/* Was the failure that was asked for never come to? Ends it. */
static bool failure_left(void)
{
	for (unsigned i = 0; i < 10000; i++)
		if (memory_should_fail())
			return true;
	return false;
}

/* Every allocation of node_create and node_start fails once: named, nothing left behind, or done
 * without. */
static void nothing_leaks_when_memory_is_short(void)
{
	unsigned before = descriptors(), refused = 0, done_without = 0;
	bool more = true;

	for (unsigned long nth = 1; more; nth++) {
		struct node *node;
		int status;

		REQUIRE(nth < 1000);
		config_reset();
		why[0] = 0;
		memory_fail_after(nth, 0);
		status = node_create(&config, &node, why, sizeof(why));
		if (status == 0) {
			status = node_start(node);
			more = !failure_left();
			done_without += status == 0 && more;
			node_destroy(node);
		} else {
			REQUIRE(why[0]);
		}
		memory_fail_after(0, 0);
		refused += status < 0;
		REQUIRE_EQ(descriptors(), before);
	}
	printf("of the allocations of a node %u failed it and %u were done without\n", refused,
		done_without);
	REQUIRE(refused > 40 && done_without < 10);
}

/* ---------------------------------------------------------------------------------- hello */

static int hello(const char *path, const char *realm, const char *token, uint32_t flags, int *fd)
{
	struct wire_hello message = raw_hello(realm, token, flags);

	message.index_version = INDEX_LAYOUT_VERSION;
	*fd = raw_connect(path);
	REQUIRE(*fd >= 0);
	return raw_ask(*fd, &message, sizeof(message), &packet);
}

static int hello_status(const char *path, const char *realm, const char *token, uint32_t flags)
{
	int fd, status = hello(path, realm, token, flags, &fd);

	REQUIRE_EQ(packet.fd_count > 0, status == 0 && !(flags & WIRE_HELLO_OPERATOR));
	raw_fds_close(&packet);
	close(fd);
	return status;
}

static void a_realm_is_entered_by_what_was_agreed(void)
{
	const struct wire_hello_answer *answer = (void *)packet.bytes;
	struct node_status status;
	struct wire_hello old = raw_hello("open", "", 0);
	struct node *node;
	int fd;

	config_reset();
	node = node_open();
	REQUIRE_EQ(hello_status(common_path, "", "", 0), 0);
	REQUIRE_TEXT(answer->realm, "open");
	REQUIRE_EQ(hello_status(common_path, "token", "token", 0), 0);
	REQUIRE_TEXT(answer->realm, "token");
	REQUIRE_EQ(hello_status(common_path, "token", "first token", 0), 0);
	REQUIRE_EQ(hello_status(bound_path, "", "", 0), 0); /* the socket stands for it */
	REQUIRE_TEXT(answer->realm, "bound");
	REQUIRE_EQ(hello_status(common_path, "bound", "bound", 0), 0);
	/* Refused and not there look alike. */
	REQUIRE_EQ(hello_status(common_path, "token", "tokem", 0), -EACCES);
	REQUIRE_EQ(hello_status(common_path, "token", "", 0), -EACCES);
	REQUIRE_EQ(hello_status(common_path, "token", "token and more", 0), -EACCES);
	REQUIRE_EQ(hello_status(common_path, "nobody", "token", 0), -EACCES);
	REQUIRE_EQ(hello_status(bound_path, "open", "", 0), -EACCES);
	REQUIRE_EQ(node_status(node, &status), 0);
	REQUIRE_EQ(status.counters[NODE_COUNTER_hellos_refused], 5);
	/* A layout of the index that the client does not know. */
	old.index_version = INDEX_LAYOUT_VERSION + 1;
	fd = raw_connect(common_path);
	REQUIRE_EQ(raw_ask(fd, &old, sizeof(old), &packet), SKEP_STATUS_EVERSION);
	close(fd);
	/* An operator is let in where no realm lets him: the daemon's own uid. */
	realms[0].uid_count = 1;
	realms[0].uids[0] = getuid() + 1;
	REQUIRE_EQ(node_reload(node, &config, why, sizeof(why)), 0);
	REQUIRE_EQ(hello_status(common_path, "", "", 0), -EACCES);
	REQUIRE_EQ(hello_status(common_path, "", "", WIRE_HELLO_OPERATOR), 0);
	realms[0].uids[0] = getuid();
	REQUIRE_EQ(node_reload(node, &config, why, sizeof(why)), 0);
	REQUIRE_EQ(hello_status(common_path, "", "", 0), 0);
	node_destroy(node);
}

static void sessions_are_bounded(void)
{
	struct session_status sessions[8];
	struct node *node;
	int fds[3];

	config_reset();
	realms[0].sessions_max = 2;
	node = node_open();
	for (unsigned i = 0; i < 3; i++) {
		REQUIRE_EQ(hello(common_path, "open", "", 0, &fds[i]), i < 2 ? 0 : -EUSERS);
		raw_fds_close(&packet);
	}
	REQUIRE_EQ(node_sessions(node, "open", sessions, 8), 2);
	REQUIRE_EQ(sessions[1].pid, getpid());
	REQUIRE_EQ(sessions[1].uid, getuid());
	REQUIRE_TEXT(sessions[0].realm, "open");
	REQUIRE_TEXT(sessions[0].name, "raw");
	REQUIRE_EQ(node_sessions(node, NULL, sessions, 1), 1);
	REQUIRE_EQ(node_sessions(node, "token", sessions, 8), 0);
	for (unsigned i = 0; i < 3; i++)
		close(fds[i]);
	node_destroy(node);
}

/* ------------------------------------------------------------------------------ a client */

/* A session over the wire that plays by the book: page, index and pool mapped. */
struct member {
	int fd;
	struct raw_packet offer;
	struct sim_client client; /* its page alone */
	struct index_view view;
	void *index;
	uint8_t *pool;
	struct wire_hello_answer hello;
	struct wire_space_answer space;
};

static const struct sim_space kind = {
	.name = "a space", .block_tokens = 4, .part_count = 1, .bytes = {8192}, .ranges = {2}};

static int space_ask(int fd, const char *name, struct wire_space_answer *answer)
{
	struct wire_space_open request = {.block_tokens = 4, .part_count = 1};
	int status;

	request.head = raw_head(WIRE_SPACE_OPEN, sizeof(request));
	request.parts[0] = (struct wire_part){.bytes = 8192, .ranges = 2};
	snprintf(request.name, sizeof(request.name), "%s", name);
	status = raw_ask(fd, &request, sizeof(request), &packet);
	REQUIRE_EQ(packet.length, sizeof(*answer));
	memcpy(answer, packet.bytes, sizeof(*answer));
	return status;
}

static void member_open(struct member *member, const char *realm, const char *token)
{
	memset(member, 0, sizeof(*member));
	REQUIRE_EQ(hello(common_path, realm, token, 0, &member->fd), 0);
	member->offer = packet;
	memcpy(&member->hello, packet.bytes, sizeof(member->hello));
	REQUIRE_EQ(packet.fd_count, 3 + member->hello.chunk_count);
	member->client.page =
		mmap(NULL, page_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, packet.fds[0], 0);
	member->index =
		mmap(NULL, member->hello.index_bytes, PROT_READ, MAP_SHARED, packet.fds[1], 0);
	member->pool = mmap(NULL, member->hello.pool_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
		packet.fds[3], 0);
	REQUIRE(member->client.page != MAP_FAILED && member->index != MAP_FAILED &&
		member->pool != MAP_FAILED);
	REQUIRE_EQ(index_view_open(&member->view, member->index, member->hello.index_bytes), 0);
	REQUIRE_EQ(space_ask(member->fd, kind.name, &member->space), 0);
}

static void member_close(struct member *member)
{
	munmap(member->client.page, page_bytes());
	munmap(member->index, member->hello.index_bytes);
	munmap(member->pool, member->hello.pool_bytes);
	raw_fds_close(&member->offer);
	if (member->fd >= 0)
		close(member->fd);
}

/* The daemon may sleep. */
static void member_kick(const struct member *member)
{
	uint64_t one = 1;

	REQUIRE_EQ(write(member->offer.fds[2], &one, sizeof(one)), sizeof(one));
}

static struct completion member_take(struct member *member)
{
	uint64_t until = clock_ns() + RAW_WAIT_MS * NS_PER_MS;
	struct completion done;

	while (!sim_take(&member->client, 0, &done)) {
		REQUIRE(clock_ns() < until);
		usleep(50);
	}
	return done;
}

/* A chain of @count blocks of this member's space, in realm memory of its own. */
struct member_chain {
	struct probe_chain probe;
	struct block_id ids[16];
	uint32_t tokens[64];
};

static void member_chain(
	const struct member *member, struct member_chain *chain, uint32_t path, uint32_t count)
{
	struct block_id parent = {0, 0};

	chain->probe = (struct probe_chain){.ids = chain->ids,
		.tokens = chain->tokens,
		.block_tokens = 4,
		.block_count = count,
		.space = member->space.space};
	for (uint32_t i = 0; i < count; i++) {
		struct id_input in;

		for (uint32_t t = 0; t < 4; t++)
			chain->tokens[i * 4 + t] = (path + i) * 4 + t;
		in = probe_input(&chain->probe, i);
		chain->ids[i] = parent =
			id_make(member->space.secret, parent, &in, member->view.head->id_bits);
	}
}

/* Puts the whole chain, sums by the daemon's mover or by us. Return: blocks acknowledged. */
static uint32_t member_put(
	struct member *member, const struct member_chain *chain, enum commit_sums sums)
{
	const struct reserve_block *blocks = sim_scratch(&member->client, 0);
	struct commit_part *parts = sim_scratch(&member->client, PAGE_SCRATCH_BYTES / 2);
	struct sim_written written[16];
	struct sim_put put = {.chain = &chain->probe,
		.count = chain->probe.block_count,
		.space_generation = member->space.generation};
	struct submission commit = {
		.op = SUBMIT_COMMIT, .scratch_at = PAGE_SCRATCH_BYTES / 2, .u.other.kind = sums};
	struct completion done;
	uint32_t count = 0, good = 0;

	REQUIRE(sim_reserve(&member->client, &put));
	member_kick(member);
	done = member_take(member);
	for (int32_t i = 0; i < done.status; i++) {
		if (blocks[i].status)
			continue;
		payload_fill(member->pool + blocks[i].frame, blocks[i].bytes, chain->ids[i], 0);
		written[count] = (struct sim_written){
			.slot = blocks[i].slot, .write = blocks[i].write, .ranges = 2};
		parts[count] =
			(struct commit_part){.slot = blocks[i].slot, .write = blocks[i].write};
		count++;
	}
	if (sums == COMMIT_SUMS_GIVEN) {
		REQUIRE(sim_commit_blind(&member->client, written, count));
		member_kick(member);
		return (uint32_t)member_take(member).status;
	}
	commit.count = count;
	commit.scratch_bytes = (uint32_t)(count * sizeof(*parts));
	REQUIRE(sim_push(&member->client, &commit));
	member_kick(member);
	for (uint32_t i = 0; i < count; i++)
		good += member_take(member).status == 0;
	return good;
}

static uint32_t member_present(const struct member *member, const struct member_chain *chain)
{
	struct probe_name names[16];

	return probe_run(&member->view, &chain->probe, (struct probe_want){0, 16}, names, NULL);
}

/* Neither index nor chunks nor page can be changed in size, and the index not in content, whatever
 * way its descriptor is opened again. */
static void the_index_cannot_be_written(void)
{
	struct member member;
	struct node *node;

	config_reset();
	node = node_open();
	member_open(&member, "open", "");
	for (unsigned i = 0; i < member.offer.fd_count; i++) {
		int fd = member.offer.fds[i], again;
		bool index = i == 1;
		char path[64];
		void *at;

		if (i == 2)
			continue; /* the eventfd */
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		again = open(path, O_RDWR | O_CLOEXEC);
		REQUIRE(again >= 0);
		REQUIRE(ftruncate(again, 0) < 0);
		REQUIRE(ftruncate(again, 1ll << 40) < 0);
		REQUIRE(fcntl(again, F_ADD_SEALS, F_SEAL_WRITE) < 0);
		REQUIRE_EQ(write(again, "x", 1), index ? -1 : 1);
		at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0);
		REQUIRE_EQ(at == MAP_FAILED, index);
		if (!index)
			munmap(at, 4096);
		at = mmap(NULL, 4096, PROT_READ, MAP_SHARED, again, 0);
		REQUIRE(at != MAP_FAILED);
		REQUIRE_EQ(mprotect(at, 4096, PROT_READ | PROT_WRITE), index ? -1 : 0);
		munmap(at, 4096);
		close(again);
	}
	member_close(&member);
	node_destroy(node);
}

/* --------------------------------------------------------------------------------- requests */

static int number_ask(int fd, uint16_t op, uint64_t number, uint64_t *out)
{
	struct wire_number request = {.number = number};
	int status;

	request.head = raw_head(op, sizeof(request));
	status = raw_ask(fd, &request, sizeof(request), &packet);
	REQUIRE_EQ(packet.length, sizeof(request));
	*out = ((struct wire_number *)(void *)packet.bytes)->number;
	return status;
}

static void requests_are_answered(void)
{
	struct wire_head ask_stats = raw_head(WIRE_STATS, sizeof(ask_stats));
	struct member_chain chain, other;
	struct wire_stats stats;
	struct member member, reader;
	struct node *node;
	uint64_t number;

	config_reset();
	node = node_open();
	REQUIRE_EQ(node_wait_ready(node, clock_ns() + 10 * NS_PER_S), 0);
	member_open(&member, "open", "");
	member_open(&reader, "open", "");
	REQUIRE_EQ(member.space.space, reader.space.space);
	REQUIRE(!memcmp(member.space.secret, reader.space.secret, WIRE_SECRET_BYTES));
	member_chain(&member, &chain, 1, 10);
	member_chain(&member, &other, 500, 3);
	REQUIRE_EQ(member_put(&member, &chain, COMMIT_SUMS_GIVEN), 10);
	REQUIRE_EQ(member_put(&member, &other, COMMIT_SUMS_MOVER), 3);
	REQUIRE_EQ(member_present(&reader, &chain), 10);
	REQUIRE_EQ(member_present(&reader, &other), 3);

	REQUIRE_EQ(raw_ask(reader.fd, &ask_stats, sizeof(ask_stats), &packet), 0);
	memcpy(&stats, packet.bytes, sizeof(stats));
	REQUIRE(stats.blocks == 13 && stats.puts == 13 && stats.sessions == 2);
	REQUIRE_EQ(stats.dram_bytes, POOL_BYTES);
	REQUIRE_EQ(stats.dram_bytes_used, 13 * 8192);

	/* A queue has one eventfd, made once. */
	REQUIRE_EQ(number_ask(member.fd, WIRE_QUEUE, 1, &number), 0);
	REQUIRE_EQ(packet.fd_count, 1);
	{
		struct submission wait = {.op = SUBMIT_WAIT, .queue = 1};
		struct pollfd ready = {.fd = packet.fds[0], .events = POLLIN};
		struct completion done;

		REQUIRE(sim_push(&member.client, &wait));
		member_kick(&member);
		REQUIRE_EQ(poll(&ready, 1, RAW_WAIT_MS), 1);
		REQUIRE(sim_take(&member.client, 1, &done) && done.status == -ENOENT);
	}
	raw_fds_close(&packet);
	REQUIRE_EQ(number_ask(member.fd, WIRE_QUEUE, 1, &number), -EINVAL);
	REQUIRE_EQ(number_ask(member.fd, WIRE_QUEUE, 0, &number), -EINVAL);
	REQUIRE_EQ(number_ask(member.fd, WIRE_QUEUE, PAGE_QUEUES, &number), -EINVAL);

	/* Spaces that the session did not open are not there for it. */
	REQUIRE_EQ(number_ask(member.fd, WIRE_SPACE_PURGE, 1, &number), -ENOENT);
	REQUIRE_EQ(number_ask(member.fd, WIRE_SPACE_PURGE, UINT64_MAX, &number), -ENOENT);
	REQUIRE_EQ(number_ask(member.fd, WIRE_SPACE_STEP, 64, &number), -ENOENT);
	REQUIRE_EQ(number_ask(member.fd, WIRE_SPACE_PURGE, 0, &number), 0);
	REQUIRE_EQ(number, 13);
	REQUIRE_EQ(member_present(&reader, &chain), 0);
	REQUIRE_EQ(number_ask(member.fd, WIRE_SPACE_STEP, 0, &number), 0);
	REQUIRE_EQ(number, 2);
	REQUIRE(atomic_load(&reader.view.head->spaces[0].generation) != reader.space.generation);
	REQUIRE_EQ(space_ask(reader.fd, kind.name, &reader.space), 0);
	REQUIRE_EQ(reader.space.version, 2);
	member_close(&member);
	member_close(&reader);
	node_destroy(node);
}

/* A session that said it would only read is held to it. */
static void a_reader_changes_nothing(void)
{
	struct member member;
	struct member_chain chain;
	struct wire_space_answer answer;
	struct node *node;
	uint64_t number;
	int fd;

	config_reset();
	node = node_open();
	REQUIRE_EQ(node_wait_ready(node, clock_ns() + 10 * NS_PER_S), 0);
	member_open(&member, "open", "");
	member_chain(&member, &chain, 1, 2);
	REQUIRE_EQ(member_put(&member, &chain, COMMIT_SUMS_GIVEN), 2);
	REQUIRE_EQ(hello(common_path, "open", "", WIRE_HELLO_READONLY, &fd), 0);
	raw_fds_close(&packet);
	REQUIRE_EQ(space_ask(fd, kind.name, &answer), 0);
	REQUIRE_EQ(number_ask(fd, WIRE_SPACE_PURGE, 0, &number), -EROFS);
	REQUIRE_EQ(number_ask(fd, WIRE_SPACE_STEP, 0, &number), -EROFS);
	REQUIRE_EQ(member_present(&member, &chain), 2);
	close(fd);
	member_close(&member);
	node_destroy(node);
}

/* What a purge follows, it follows: what the ring held came before. */
static void a_request_does_not_overtake_the_ring(void)
{
	struct member member;
	struct member_chain chain;
	struct node *node;
	uint64_t number;

	config_reset();
	node = node_open();
	REQUIRE_EQ(node_wait_ready(node, clock_ns() + 10 * NS_PER_S), 0);
	member_open(&member, "open", "");
	for (uint32_t round = 0; round < 50; round++) {
		struct sim_put put = {.chain = &chain.probe,
			.count = 4,
			.space_generation = member.space.generation};

		member_chain(&member, &chain, round * 10, 4);
		REQUIRE(sim_reserve(&member.client, &put));
		REQUIRE_EQ(number_ask(member.fd, WIRE_SPACE_PURGE, 0, &number), 0);
		REQUIRE_EQ(number, 4);
		REQUIRE_EQ(member_take(&member).status, 4);
	}
	member_close(&member);
	node_destroy(node);
}

static void wrong_requests_end_the_session(void)
{
	struct wire_head head = raw_head(WIRE_STATS, sizeof(head));
	struct wire_number number = {.number = 0};
	const struct {
		uint16_t op;
		size_t bytes;
		bool operator_role;
	} wrong[] = {
		{WIRE_SPACE_OPEN, sizeof(struct wire_space_open) - 1, false},
		{WIRE_SPACE_PURGE, sizeof(head), false},
		{WIRE_QUEUE, sizeof(number) + 8, false},
		{WIRE_STATS, sizeof(number), false},
		{WIRE_CHUNKS, sizeof(head), false},
		{99, sizeof(head), false},
		{WIRE_STATS, sizeof(head), true},
		{WIRE_SPACE_OPEN, sizeof(struct wire_space_open), true},
	};
	static _Alignas(8) char message[sizeof(struct wire_space_open) + 64];
	struct node *node;

	config_reset();
	node = node_open();
	for (unsigned i = 0; i < ARRAY_COUNT(wrong); i++) {
		int fd;

		REQUIRE_EQ(hello(common_path, "open", "",
				   wrong[i].operator_role ? WIRE_HELLO_OPERATOR : 0, &fd),
			0);
		raw_fds_close(&packet);
		head = raw_head(wrong[i].op, wrong[i].bytes);
		memcpy(message, &head, sizeof(head));
		REQUIRE(raw_send(fd, message, wrong[i].bytes));
		raw_hung_up(fd);
		close(fd);
		REQUIRE_EQ(realm_now(node, 0).counters[REALM_COUNTER_sessions_broken], i + 1);
	}
	node_destroy(node);
}

/* --------------------------------------------------------------------------------- operators */

/* An operator looks on, without memory of its own, while blocks are put, evicted, purged. */
static void an_operator_may_look_on(void)
{
	struct wire_head ask_stats = raw_head(WIRE_STATS, sizeof(ask_stats));
	struct session_status sessions[4];
	struct member member;
	struct member_chain chain;
	struct node *node;
	int fd;

	config_reset();
	realms[0].dram_use_max = 20 * 8192;
	node = node_open();
	REQUIRE_EQ(node_wait_ready(node, clock_ns() + 10 * NS_PER_S), 0);
	REQUIRE_EQ(hello(common_path, "open", "", WIRE_HELLO_OPERATOR, &fd), 0);
	member_open(&member, "open", "");
	for (uint32_t i = 0; i < 20; i++) {
		member_chain(&member, &chain, i * 100, 5);
		REQUIRE_EQ(member_put(&member, &chain, COMMIT_SUMS_GIVEN), 5);
	}
	REQUIRE_EQ(realm_now(node, 0).blocks_present, 20);
	REQUIRE_EQ(raw_ask(member.fd, &ask_stats, sizeof(ask_stats), &packet), 0);
	REQUIRE_EQ(node_sessions(node, NULL, sessions, 4), 2);
	REQUIRE_EQ(node_purge(node, "open", NULL), 20);
	close(fd);
	member_close(&member);
	node_destroy(node);
}

static struct node_command *commanded;
static pthread_mutex_t command_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t command_came = PTHREAD_COND_INITIALIZER;

static int command_take(void *arg, struct node_command *command)
{
	size_t bytes;

	REQUIRE(arg == &commanded);
	if (node_command_text(command, &bytes)[0] == 'f')
		return -EAGAIN; /* too many at a time */
	pthread_mutex_lock(&command_lock);
	commanded = command;
	pthread_cond_signal(&command_came);
	pthread_mutex_unlock(&command_lock);
	return 0;
}

static struct node_command *command_wait(void)
{
	struct node_command *command;

	pthread_mutex_lock(&command_lock);
	while (!commanded)
		pthread_cond_wait(&command_came, &command_lock);
	command = commanded;
	commanded = NULL;
	pthread_mutex_unlock(&command_lock);
	return command;
}

static void command_send(int fd, const char *text)
{
	struct {
		struct wire_head head;
		char text[64];
	} message;

	message.head = raw_head(WIRE_COMMAND, sizeof(message.head) + strlen(text));
	snprintf(message.text, sizeof(message.text), "%s", text);
	REQUIRE(raw_send(fd, &message, message.head.bytes));
}

static void commands_are_handed_on(void)
{
	const char *realm, *text;
	struct node_command *command;
	struct wire_piece *piece = (void *)packet.bytes;
	struct node *node;
	size_t bytes;
	int fd;

	/* A node that takes none says so. */
	config_reset();
	node = node_open();
	REQUIRE_EQ(hello(common_path, "open", "", WIRE_HELLO_OPERATOR, &fd), 0);
	command_send(fd, "{}");
	raw_receive(fd, &packet);
	REQUIRE(piece->last &&
		memmem(packet.bytes, (size_t)packet.length, "takes no commands", 17));
	close(fd);
	node_destroy(node);

	config_reset();
	config.command = command_take;
	config.command_arg = &commanded;
	node = node_open();
	REQUIRE_EQ(hello(common_path, "open", "", WIRE_HELLO_OPERATOR, &fd), 0);
	command_send(fd, "{\"do\":1}");
	command = command_wait();
	text = node_command_text(command, &bytes);
	REQUIRE(bytes == 8 && !memcmp(text, "{\"do\":1}", 8));
	REQUIRE(node_command_operator(command, &realm));
	REQUIRE_TEXT(realm, "open");
	node_command_answer(command, "done", 4);
	raw_receive(fd, &packet);
	REQUIRE(piece->head.status == 0 && piece->last && piece->text_bytes == 4);
	REQUIRE(!memcmp(packet.bytes + sizeof(*piece), "done", 4));
	command_send(fd, "full");
	raw_receive(fd, &packet);
	REQUIRE(piece->last && memmem(packet.bytes, (size_t)packet.length, "EAGAIN", 6));
	/* Who asked has gone meanwhile: the answer goes nowhere. */
	command_send(fd, "again");
	command = command_wait();
	close(fd);
	node_command_answer(command, "late", 4);
	/* A plain session is no operator. */
	REQUIRE_EQ(hello(common_path, "token", "token", 0, &fd), 0);
	raw_fds_close(&packet);
	command_send(fd, "x");
	command = command_wait();
	REQUIRE(!node_command_operator(command, &realm));
	REQUIRE_TEXT(realm, "token");
	/* One at a time: who asks on without waiting is cut. */
	command_send(fd, "y");
	raw_hung_up(fd);
	node_command_answer(command, "", 0);
	close(fd);
	node_destroy(node);
}

/* ----------------------------------------------------------------------------------- insight */

static void a_node_says_what_it_holds(void)
{
	static struct block_status blocks[64], block;
	static struct space_status spaces[4];
	struct block_query query = {.realm = "open"};
	struct block_name name = {.realm = "open"};
	struct node_status status;
	struct realm_status realm;
	struct member member;
	struct member_chain chain;
	struct node *node;
	unsigned seen;
	uint64_t below[2];

	config_reset();
	node = node_open();
	REQUIRE_EQ(node_wait_ready(node, clock_ns() + 10 * NS_PER_S), 0);
	member_open(&member, "open", "");
	for (uint32_t i = 0; i < 3; i++) {
		member_chain(&member, &chain, 1000 * i, 8);
		REQUIRE_EQ(member_put(&member, &chain, COMMIT_SUMS_GIVEN), 8);
	}
	REQUIRE_EQ(node_status(node, &status), 0);
	REQUIRE(status.realm_count == 3 && status.session_count == 1 && status.movers == 1);
	REQUIRE(status.pool_bytes == 3 * POOL_BYTES && status.pool_ready_bytes == 3 * POOL_BYTES);
	REQUIRE(!strcmp(status.loop_backend, "io_uring") || !strcmp(status.loop_backend, "epoll"));
	REQUIRE(status.counters[NODE_COUNTER_submissions] >= 6 &&
		status.counters[NODE_COUNTER_keeper_busy_ns] > 0 &&
		status.counters[NODE_COUNTER_keeper_busy_ns] <
			status.counters[NODE_COUNTER_keeper_wall_ns]);
	REQUIRE_EQ(status.incarnation, member.hello.incarnation);

	realm = realm_now(node, 0);
	REQUIRE_TEXT(realm.name, "open");
	REQUIRE(realm.blocks_present == 24 && realm.slots == 512 && realm.slots_used == 24);
	REQUIRE(realm.dram_used_bytes == 24 * 8192 && realm.sessions == 1 && realm.spaces == 1);
	REQUIRE(realm.record_used_bytes > 0 && realm.index_bytes > 512 * 168);
	REQUIRE_EQ(node_realm(node, 3, &realm), -ENOENT);

	REQUIRE_EQ(node_spaces(node, "open", spaces, 4), 1);
	REQUIRE(spaces[0].blocks == 24 && spaces[0].block_bytes == 8192);
	REQUIRE_TEXT(spaces[0].name, kind.name);
	REQUIRE(strstr(spaces[0].fingerprint, "block_tokens=4\n"));
	REQUIRE_EQ(node_spaces(node, "token", spaces, 4), 0);
	REQUIRE_EQ(node_spaces(node, NULL, spaces, 0), 0);

	/* Pages of blocks: a few at a time, each once. */
	seen = 0;
	while (query.cursor != UINT32_MAX) {
		int got = node_blocks(node, &query, blocks, 7);

		REQUIRE(got > 0 || query.cursor == UINT32_MAX);
		seen += (unsigned)got;
	}
	REQUIRE_EQ(seen, 24);
	query = (struct block_query){.realm = "open", .space = kind.name, .roots_only = true};
	REQUIRE_EQ(node_blocks(node, &query, blocks, 64), 3);
	REQUIRE(blocks[0].root && blocks[0].children == 1 && blocks[0].depth == 0);
	below[0] = blocks[0].id_low;
	below[1] = blocks[0].id_high;
	query = (struct block_query){.realm = "open", .below = below};
	REQUIRE_EQ(node_blocks(node, &query, &block, 1), 1);
	REQUIRE(block.parent_low == below[0] && block.depth == 1);
	query = (struct block_query){.realm = "open", .space = "none"};
	REQUIRE_EQ(node_blocks(node, &query, blocks, 64), 0);
	query = (struct block_query){.realm = "none"};
	REQUIRE_EQ(node_blocks(node, &query, blocks, 64), -ENOENT);

	name.id_low = block.id_low;
	name.id_high = block.id_high;
	REQUIRE_EQ(node_block(node, &name, &block), 0);
	REQUIRE(block.state == ENTRY_PRESENT && block.bytes == 8192 && block.token_count == 4);
	REQUIRE_EQ(node_pin(node, &name, false), -EINVAL);
	REQUIRE_EQ(node_pin(node, &name, true), 0);
	REQUIRE_EQ(node_pin(node, &name, true), 0);
	REQUIRE(realm_now(node, 0).operator_pins == 1);
	REQUIRE_EQ(node_evict_coldest(node, "open", POOL_BYTES), 22 * 8192);
	REQUIRE_EQ(node_block(node, &name, &block), 0);
	REQUIRE_EQ(block.operator_pins, 2);
	REQUIRE_EQ(node_pin(node, &name, false), 0);
	REQUIRE_EQ(node_pin(node, &name, false), 0);
	REQUIRE(realm_now(node, 0).operator_pins == 0);
	name.id_low = below[0];
	name.id_high = below[1];
	REQUIRE_EQ(node_evict(node, &name), 2);
	REQUIRE_EQ(node_evict(node, &name), -ENOENT);
	REQUIRE_EQ(node_block(node, &name, &block), -ENOENT);
	REQUIRE_EQ(node_pin(node, &name, true), -ENOENT);
	name.realm = "none";
	REQUIRE_EQ(node_block(node, &name, &block), -ENOENT);
	REQUIRE_EQ(node_evict_coldest(node, "none", 1), -ENOENT);
	REQUIRE_EQ(node_purge(node, "none", NULL), -ENOENT);
	REQUIRE_EQ(node_purge(node, "open", "none"), -ENOENT);
	REQUIRE_EQ(node_purge(node, "open", kind.name), 0);
	member_close(&member);
	node_destroy(node);
}

/* How long ago something happened is counted from then also where the keeper slept meanwhile. */
static void a_keeper_that_slept_knows_the_time(void)
{
	static struct session_status session;
	struct member member;
	struct member_chain chain;
	struct block_status block;
	struct block_name name = {.realm = "open"};
	struct node *node;
	int fd;

	config_reset();
	node = node_open();
	REQUIRE_EQ(node_wait_ready(node, clock_ns() + 10 * NS_PER_S), 0);
	usleep(300000); /* nobody is there: nothing wakes it */
	REQUIRE_EQ(hello(common_path, "open", "", 0, &fd), 0);
	raw_fds_close(&packet);
	REQUIRE_EQ(node_sessions(node, NULL, &session, 1), 1);
	REQUIRE(session.age_ns < 200 * NS_PER_MS);
	close(fd);
	member_open(&member, "open", "");
	member_chain(&member, &chain, 1, 1);
	REQUIRE_EQ(member_put(&member, &chain, COMMIT_SUMS_GIVEN), 1);
	name.id_low = chain.ids[0].low;
	name.id_high = chain.ids[0].high;
	usleep(300000);
	REQUIRE_EQ(node_block(node, &name, &block), 0);
	REQUIRE(block.idle_ns > 250 * NS_PER_MS);
	member_close(&member);
	node_destroy(node);
}

/* ----------------------------------------------------------------------------------- reload */

static void a_reload_takes_what_it_may(void)
{
	struct node *node;

	config_reset();
	node = node_open();
	realms[0].dram_use_max = 1 << 20;
	realms[1].token_count = 1;
	snprintf(realms[1].tokens[0], sizeof(realms[1].tokens[0]), "%s", "new");
	REQUIRE_EQ(node_reload(node, &config, why, sizeof(why)), 0);
	REQUIRE_EQ(realm_now(node, 0).dram_use_max, 1 << 20);
	REQUIRE_EQ(hello_status(common_path, "token", "token", 0), -EACCES);
	REQUIRE_EQ(hello_status(common_path, "token", "new", 0), 0);
#define REFUSED(change, words)                                                                     \
	do {                                                                                       \
		config_reset();                                                                    \
		change;                                                                            \
		REQUIRE_EQ(node_reload(node, &config, why, sizeof(why)), -EINVAL);                 \
		if (!strstr(why, words))                                                           \
			REQUIRE_TEXT(why, words);                                                  \
	} while (0)
	REFUSED(config.realm_count = 2, "cannot be added or removed");
	REFUSED(snprintf(realms[1].name, sizeof(realms[1].name), "other"), "realm other: name");
	REFUSED(realms[1].dram_bytes *= 2, "realm token: dram");
	REFUSED(realms[1].secret[3] = 0, "realm token: secret_file");
	REFUSED(realms[1].index_blocks = 77, "realm token: index_blocks");
	REFUSED(realms[2].socket_path[0] = 0, "realm bound: socket");
#undef REFUSED
	/* Refused as a whole: the first realm's new quota did not come in. */
	REQUIRE_EQ(realm_now(node, 0).dram_use_max, 1 << 20);
	node_destroy(node);
}

/* ---------------------------------------------------------------------------------- the end */

/* A node stops at any moment: while it starts, while pools are populated, with clients there. */
static void a_node_stops_at_any_moment(uint64_t seed)
{
	for (unsigned round = 0; round < 60; round++) {
		struct node *node;
		int fd = -1;

		config_reset();
		realms[1].dram_bytes = 192 << 20;
		node = node_open();
		usleep(unit_random(&seed, 20000));
		if (round % 3 == 0)
			REQUIRE_EQ(hello(common_path, "open", "", 0, &fd), 0);
		if (round % 3 == 0)
			raw_fds_close(&packet);
		node_destroy(node);
		if (fd >= 0) {
			raw_hung_up(fd);
			close(fd);
		}
	}
}

static void pools_wait_for_memory(void)
{
	struct node *node;

	config_reset();
	config.memory_max = 1 << 20; /* not enough for anything */
	node = node_open();
	REQUIRE_EQ(node_wait_ready(node, clock_ns() + 10 * NS_PER_S), -EAGAIN);
	REQUIRE_EQ(realm_now(node, 0).dram_ready_bytes, 0);
	node_destroy(node);
	config_reset();
	REQUIRE_EQ(node_create(&config, &node, why, sizeof(why)), 0);
	REQUIRE_EQ(node_wait_ready(node, clock_ns() + NS_PER_MS), -ETIMEDOUT);
	node_destroy(node); /* never started */
}

/* A client in this process, over a pair of sockets. */
static void a_client_inside_the_process(void)
{
	struct wire_hello message = raw_hello("open", "", 0);
	struct node *node;
	int fd;

	config_reset();
	config.socket_path[0] = 0;
	realms[2].socket_path[0] = 0;
	config.private_to_uid = true;
	node = node_open();
	message.index_version = INDEX_LAYOUT_VERSION;
	fd = node_connect(node);
	REQUIRE(fd >= 0);
	REQUIRE_EQ(raw_ask(fd, &message, sizeof(message), &packet), 0);
	raw_fds_close(&packet);
	REQUIRE_EQ(realm_now(node, 0).sessions, 1);
	node_destroy(node);
	raw_hung_up(fd);
	close(fd);
}

/* A session that breaks the protocol of its page is ended, and told in the counters. */
static void a_broken_page_ends_the_session(void)
{
	struct member member;
	struct submission nonsense = {.op = 99};
	struct node *node;

	config_reset();
	node = node_open();
	member_open(&member, "open", "");
	REQUIRE(sim_push(&member.client, &nonsense));
	member_kick(&member);
	raw_hung_up(member.fd);
	REQUIRE_EQ(realm_now(node, 0).counters[REALM_COUNTER_sessions_broken], 1);
	REQUIRE_EQ(realm_now(node, 0).sessions, 1); /* until its process, this one, ends */
	member_close(&member);
	node_destroy(node);
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);

	snprintf(folder, sizeof(folder), "/tmp/skep-node-XXXXXX");
	REQUIRE(mkdtemp(folder));
	snprintf(common_path, sizeof(common_path), "%s/common", folder);
	snprintf(bound_path, sizeof(bound_path), "%s/bound", folder);
	alarm(120); /* a node that does not stop must not stop the tests */
	a_wrong_configuration_is_named();
	nothing_leaks_when_memory_is_short();
	a_realm_is_entered_by_what_was_agreed();
	sessions_are_bounded();
	the_index_cannot_be_written();
	requests_are_answered();
	a_reader_changes_nothing();
	a_request_does_not_overtake_the_ring();
	wrong_requests_end_the_session();
	an_operator_may_look_on();
	commands_are_handed_on();
	a_node_says_what_it_holds();
	a_keeper_that_slept_knows_the_time();
	a_reload_takes_what_it_may();
	pools_wait_for_memory();
	a_client_inside_the_process();
	a_broken_page_ends_the_session();
	a_node_stops_at_any_moment(seed);
	rmdir(folder);
	return 0;
}
