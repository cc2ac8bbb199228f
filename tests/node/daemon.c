/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/uio.h>

#include "base/log.h"
#include "store/node_priv.h"
#include "tests/node/cgroup.h"
#include "tests/node/harness.h"

enum { READY_MS = 20000 };

/* What a test may ask of its daemon. */
enum ask {
	ASK_STOP,
	ASK_NODE,
	ASK_REALM,
	ASK_SESSIONS,
	ASK_DESCRIPTORS,
	ASK_FLIP,
	ASK_AUDIT,
	ASK_PURGE,
	ASK_KEEP,
};

struct request {
	uint32_t ask;
	uint32_t index;
	struct daemon_flip flip;
};

struct sessions_answer {
	uint32_t count;
	struct session_status sessions[DAEMON_SESSIONS_MAX];
};

/* ------------------------------------------------------------------------- the daemon's process */

struct flipping {
	struct node *node;
	const struct daemon_flip *flip;
	int status;
};

/* On the keeper's thread, so that the index stands still. */
static void flip_run(void *argument)
{
	struct flipping *job = argument;
	const struct daemon_flip *flip = job->flip;
	struct realm *realm = job->node->keeper->realms[flip->realm];
	struct block_id id = {flip->id_low, flip->id_high};
	uint32_t slot = index_id_find(realm, id, NONE32), frame;
	uint8_t *byte;

	job->status = -ENOENT;
	if (slot == NONE32)
		return;
	frame = atomic_load_explicit(
		&index_part(&realm->index, slot, flip->part)->frame, memory_order_relaxed);
	if (frame == FRAME_NONE)
		return;
	byte = dram_at(realm->dram, (uint64_t)frame * FRAME_GRANULE_BYTES + flip->offset);
	*byte ^= 0x10;
	job->status = 0;
}

struct auditing {
	struct realm *realm;
	struct daemon_audit books;
};

/* On the keeper's thread as well. */
static void audit_run(void *argument)
{
	struct auditing *job = argument;
	struct realm *realm = job->realm;
	struct daemon_audit *books = &job->books;
	struct ssd_log_status log;

	*books = (struct daemon_audit){.counted_units = realm->ssd.live_units,
		.blocks_counted = realm->ssd.blocks,
		.idle = list_empty(&realm->ssd.jobs_busy) && !realm->ssd.dirty.count &&
			!realm->removed.count};
	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++)
		books->space_units += realm->spaces[i].used && realm->spaces[i].ssd_at != SSD_NONE;
	books->index_units = books->space_units;
	for (uint32_t slot = 0; slot < realm->index.head->slot_count; slot++) {
		if (!slot_on_ssd(realm, slot))
			continue;
		books->index_units += ssd_block_units(realm, slot);
		books->blocks++;
	}
	ssd_log_status_get(realm->ssd.log, &log);
	books->log_units = log.live_bytes / SSD_UNIT_BYTES;
}

static unsigned descriptors_count(void)
{
	DIR *folder = opendir("/proc/self/fd");
	unsigned count = 0;

	REQUIRE(folder != NULL);
	while (readdir(folder))
		count++;
	closedir(folder);
	return count - 3; /* ".", ".." and the folder itself */
}

static void request_answer(struct node *node, int line, const struct request *request)
{
	static struct sessions_answer sessions;
	struct flipping flip = {.node = node, .flip = &request->flip};
	struct auditing audit = {.realm = node->keeper->realms[request->index]};
	struct realm_status realm;
	struct node_status status;
	struct node_kept kept;
	int result;

	switch (request->ask) {
	case ASK_NODE:
		REQUIRE_EQ(node_status(node, &status), 0);
		line_tell(line, &status, sizeof(status));
		return;
	case ASK_REALM:
		REQUIRE_EQ(node_realm(node, request->index, &realm), 0);
		line_tell(line, &realm, sizeof(realm));
		return;
	case ASK_SESSIONS:
		result = node_sessions(node, NULL, sessions.sessions, DAEMON_SESSIONS_MAX);
		REQUIRE(result >= 0);
		sessions.count = (uint32_t)result;
		line_tell(line, &sessions, sizeof(sessions));
		return;
	case ASK_DESCRIPTORS:
		note_tell(line, (struct note){.status = (int32_t)descriptors_count()});
		return;
	case ASK_FLIP:
		REQUIRE_EQ(mailbox_call(node->mailbox, flip_run, &flip), 0);
		note_tell(line, (struct note){.status = flip.status});
		return;
	case ASK_AUDIT:
		REQUIRE_EQ(mailbox_call(node->mailbox, audit_run, &audit), 0);
		line_tell(line, &audit.books, sizeof(audit.books));
		return;
	case ASK_KEEP:
		node_keep(node, &kept);
		line_tell(line, &kept, sizeof(kept));
		return;
	case ASK_PURGE:
		note_tell(line, (struct note){.words = {(uint64_t)node_purge(
						      node, audit.realm->name, NULL)}});
		return;
	default:
		REQUIRE(!"a request that the daemon knows");
	}
}

static void descriptors_limit(uint64_t soft)
{
	struct rlimit limit;

	REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
	limit.rlim_cur = soft;
	REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

/* Goes on as process 1 of a pid namespace; the process that was started waits for it. */
static int namespace_enter(void)
{
	int status;
	pid_t child;

	if (unshare(CLONE_NEWPID) < 0)
		return -errno;
	child = fork();
	REQUIRE(child >= 0);
	if (child) {
		REQUIRE(waitpid(child, &status, 0) == child);
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	return 0;
}

static void daemon_body(int line, const void *arg)
{
	struct daemon daemon = *(const struct daemon *)arg;
	char why[256] = "";
	struct request request;
	struct node *node;
	int status;

	prctl(PR_SET_NAME, "skep-daemon");
	log_set_level(LOG_LEVEL_ERROR);
	if (daemon.cgroup[0])
		cgroup_enter(daemon.cgroup);
	if (daemon.pid_namespace && (status = namespace_enter()) < 0) {
		note_tell(line, (struct note){.status = status});
		return;
	}
	if (daemon.descriptors)
		descriptors_limit(daemon.descriptors);
	daemon.config.realms = daemon.realms;
	daemon.config.ssds = daemon.ssds;
	status = node_create(&daemon.config, &node, why, sizeof(why));
	if (status < 0) {
		fprintf(stderr, "the daemon: %s (%d)\n", why, status);
		exit(1);
	}
	REQUIRE_EQ(node_start(node), 0);
	status = node_wait_ready(node, clock_ns() + READY_MS * NS_PER_MS);
	note_tell(
		line, (struct note){.status = status,
			      .words = {clock_ns(), (uintptr_t)node->keeper->realms[0]->counters}});
	for (;;) {
		while (line_quiet(line, 1000))
			;
		REQUIRE_EQ(line_hear(line, &request, sizeof(request)), sizeof(request));
		if (request.ask == ASK_STOP)
			break;
		request_answer(node, line, &request);
	}
	node_destroy(node);
}

/* ---------------------------------------------------------------------------- the test's side */

struct realm_config *daemon_realm_add(
	struct daemon *daemon, const char *name, const char *token, struct daemon_size size)
{
	struct realm_config *realm;

	REQUIRE(daemon->config.realm_count < DAEMON_REALMS_MAX);
	realm = &daemon->realms[daemon->config.realm_count++];
	memset(realm, 0, sizeof(*realm));
	snprintf(realm->name, sizeof(realm->name), "%s", name);
	realm->secret_bytes = 32;
	for (unsigned i = 0; i < realm->secret_bytes; i++)
		realm->secret[i] = (uint8_t)mix64(i + (uint8_t)name[0]);
	realm->dram_bytes = size.dram_bytes;
	realm->index_blocks = size.blocks;
	realm->record_bytes = 8ull << 20;
	if (token) {
		snprintf(realm->tokens[0], sizeof(realm->tokens[0]), "%s", token);
		realm->token_count = 1;
	}
	return realm;
}

void daemon_init(struct daemon *daemon, struct daemon_size size)
{
	memset(daemon, 0, sizeof(*daemon));
	harness_path("socket", daemon->config.socket_path, sizeof(daemon->config.socket_path));
	daemon->config.chunk_bytes = 16ull << 20;
	daemon->config.loop_backend =
		mix64(harness_seed) % 2 ? LOOP_BACKEND_EPOLL : LOOP_BACKEND_AUTO;
	daemon_realm_add(daemon, "main", NULL, size);
}

void daemon_ssd_add(struct daemon *daemon, const char *name, uint64_t bytes)
{
	struct node_ssd *ssd = &daemon->ssds[daemon->config.ssd_count++];

	REQUIRE(daemon->config.ssd_count <= DAEMON_SSDS_MAX);
	harness_path(name, ssd->path, sizeof(ssd->path));
	ssd->bytes = bytes;
}

void daemon_begin(struct daemon *daemon)
{
	daemon->started_ns = clock_ns();
	child_start(&daemon->child, "the daemon", daemon_body, daemon);
}

int daemon_await(struct daemon *daemon)
{
	struct note note = note_hear(daemon->child.line);

	daemon->ready_ns = note.words[0];
	daemon->counters = (const uint64_t *)(uintptr_t)note.words[1];
	return note.status;
}

int daemon_try(struct daemon *daemon)
{
	daemon_begin(daemon);
	return daemon_await(daemon);
}

void daemon_start(struct daemon *daemon)
{
	REQUIRE_EQ(daemon_try(daemon), 0);
}

uint64_t daemon_stop(struct daemon *daemon)
{
	struct request request = {.ask = ASK_STOP};

	line_tell(daemon->child.line, &request, sizeof(request));
	child_finish(&daemon->child);
	return clock_ns();
}

uint64_t daemon_kill(struct daemon *daemon)
{
	return child_kill(&daemon->child);
}

uint64_t daemon_kill_counting(struct daemon *daemon, enum realm_counter counter)
{
	uint64_t count = UINT64_MAX;
	struct iovec here = {&count, sizeof(count)};
	struct iovec there = {(void *)(uintptr_t)&daemon->counters[counter], sizeof(count)};

	child_stop(&daemon->child);
	if (process_vm_readv(daemon->child.pid, &here, 1, &there, 1, 0) != sizeof(count))
		count = UINT64_MAX;
	child_kill(&daemon->child);
	return count;
}

static void daemon_ask(
	const struct daemon *daemon, struct request request, void *answer, size_t bytes)
{
	line_tell(daemon->child.line, &request, sizeof(request));
	REQUIRE_EQ(line_hear(daemon->child.line, answer, bytes), bytes);
}

void daemon_node(const struct daemon *daemon, struct node_status *out)
{
	daemon_ask(daemon, (struct request){.ask = ASK_NODE}, out, sizeof(*out));
}

void daemon_realm(const struct daemon *daemon, unsigned index, struct realm_status *out)
{
	daemon_ask(daemon, (struct request){.ask = ASK_REALM, .index = index}, out, sizeof(*out));
}

unsigned daemon_sessions(
	const struct daemon *daemon, struct session_status out[DAEMON_SESSIONS_MAX])
{
	static struct sessions_answer answer;

	daemon_ask(daemon, (struct request){.ask = ASK_SESSIONS}, &answer, sizeof(answer));
	memcpy(out, answer.sessions, answer.count * sizeof(out[0]));
	return answer.count;
}

bool daemon_session_of(const struct daemon *daemon, pid_t pid, struct session_status *out)
{
	static struct session_status sessions[DAEMON_SESSIONS_MAX];
	unsigned count = daemon_sessions(daemon, sessions);

	for (unsigned i = 0; i < count; i++) {
		if (sessions[i].pid != pid)
			continue;
		*out = sessions[i];
		return true;
	}
	return false;
}

unsigned daemon_descriptors(const struct daemon *daemon)
{
	struct note note;

	daemon_ask(daemon, (struct request){.ask = ASK_DESCRIPTORS}, &note, sizeof(note));
	return (unsigned)note.status;
}

void daemon_audit(const struct daemon *daemon, unsigned realm, struct daemon_audit *out)
{
	daemon_ask(daemon, (struct request){.ask = ASK_AUDIT, .index = realm}, out, sizeof(*out));
}

struct node_kept daemon_keep(const struct daemon *daemon)
{
	struct node_kept kept;

	daemon_ask(daemon, (struct request){.ask = ASK_KEEP}, &kept, sizeof(kept));
	return kept;
}

uint64_t daemon_purge(const struct daemon *daemon, unsigned realm)
{
	struct note note;

	daemon_ask(daemon, (struct request){.ask = ASK_PURGE, .index = realm}, &note, sizeof(note));
	return note.words[0];
}

uint64_t daemon_wait_gone(const struct daemon *daemon, pid_t pid, uint64_t until_ns)
{
	struct session_status session;

	while (daemon_session_of(daemon, pid, &session)) {
		if (clock_ns() > until_ns) {
			fprintf(stderr,
				"the session of pid %d stays: %llu pins, %llu reservations\n",
				(int)pid, (unsigned long long)session.pins,
				(unsigned long long)session.reservations);
			exit(1);
		}
		usleep(200);
	}
	return clock_ns();
}

int daemon_flip(const struct daemon *daemon, struct daemon_flip flip)
{
	struct note note;

	daemon_ask(daemon, (struct request){.ask = ASK_FLIP, .flip = flip}, &note, sizeof(note));
	return note.status;
}
