/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/node/harness.h"

#include <errno.h>
#include <ftw.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statvfs.h>

#include "base/log.h"
#include "tests/node/cgroup.h"

enum { CHILDREN_MAX = 64, SILENCE_MS = 20000, FINISH_MS = 20000 };

uint64_t harness_seed, harness_count;

static struct {
	pid_t pid; /* of the test itself; the children inherit this struct */
	char folder[64];
	struct child children[CHILDREN_MAX];
} harness;

unsigned harness_slower(void)
{
#if defined(__SANITIZE_THREAD__)
	return 8;
#elif defined(UNIT_SANITIZED)
	return 4;
#else
	return 1;
#endif
}

void sleep_ms(uint64_t ms)
{
	struct timespec span = {
		.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000 * NS_PER_MS)};

	while (nanosleep(&span, &span) < 0 && errno == EINTR)
		;
}

/* ------------------------------------------------------------------------------- begin and end */

/* Runs in signal handlers too. */
static void children_kill(void)
{
	for (unsigned i = 0; i < CHILDREN_MAX; i++)
		if (harness.children[i].pid > 0)
			kill(harness.children[i].pid, SIGKILL);
}

static int entry_remove(const char *path, const struct stat *info, int type, struct FTW *where)
{
	(void)info, (void)type, (void)where;
	remove(path);
	return 0;
}

static void folder_remove(void)
{
	/* A manifest is a folder of its own. */
	nftw(harness.folder, entry_remove, 16, FTW_DEPTH | FTW_PHYS);
}

static void harness_end(void)
{
	/* The children inherit this call. */
	if (getpid() != harness.pid)
		return;
	children_kill();
	for (unsigned i = 0; i < CHILDREN_MAX; i++)
		if (harness.children[i].pid > 0)
			waitpid(harness.children[i].pid, NULL, 0);
	/* What a child of ours left behind came to us. */
	while (waitpid(-1, NULL, 0) > 0)
		;
	cgroup_remove_all();
	folder_remove();
}

/* A test that takes too long stands in a wait, not in the middle of an allocation. */
static void too_long(int signal)
{
	(void)signal;
	fprintf(stderr, "the test took too long\n");
	harness_end();
	_exit(1);
}

static void arguments_read(const struct harness_options *options)
{
	harness_count = options->count;
	harness_seed = unit_seed_standard();
	/* Each test its own, so that all of them together run over both back ends. */
	for (const char *c = program_invocation_short_name; *c; c++)
		harness_seed += (uint8_t)*c;
	for (int i = 1; i < options->argc; i++) {
		if (!strcmp(options->argv[i], "--seed") && i + 1 < options->argc)
			harness_seed = strtoull(options->argv[++i], NULL, 0);
		else
			harness_count = strtoull(options->argv[i], NULL, 0);
	}
	printf("seed %llu\n", (unsigned long long)harness_seed);
	fflush(stdout);
}

void harness_begin(const struct harness_options *options)
{
	uint64_t times = 1;

	arguments_read(options);
	if (options->count && harness_count > options->count)
		times = harness_count / options->count + 1;
	harness.pid = getpid();
	snprintf(harness.folder, sizeof(harness.folder), "/tmp/skep-node-XXXXXX");
	REQUIRE(mkdtemp(harness.folder) != NULL);
	/* Children of children that die come to us and are waited for. */
	REQUIRE(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	atexit(harness_end);
	signal(SIGALRM, too_long);
	signal(SIGPIPE, SIG_IGN);
	alarm((unsigned)(options->seconds * harness_slower() * times));
}

void harness_path(const char *name, char *path, size_t room)
{
	REQUIRE((size_t)snprintf(path, room, "%s/%s", harness.folder, name) < room);
}

void harness_skip(const char *why)
{
	printf("skipped: %s\n", why);
	fflush(stdout);
	exit(77);
}

void harness_need_disk(uint64_t bytes)
{
	struct statvfs disk;
	char why[128];
	uint64_t there;

	REQUIRE(statvfs(harness.folder, &disk) == 0);
	there = (uint64_t)disk.f_bavail * disk.f_frsize;
	if (there >= bytes)
		return;
	snprintf(why, sizeof(why), "%llu MiB are free in /tmp, %llu MiB are needed",
		(unsigned long long)there >> 20, (unsigned long long)bytes >> 20);
	harness_skip(why);
}

/* ---------------------------------------------------------------------------------- children */

static struct child *child_place(pid_t pid)
{
	for (unsigned i = 0; i < CHILDREN_MAX; i++)
		if (harness.children[i].pid == pid)
			return &harness.children[i];
	fprintf(stderr, "no place for a child\n");
	exit(1);
}

/* The child's side. Lines to other children would keep them from seeing their end. */
static _Noreturn void child_run(int line, child_body *body, const void *arg, pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	signal(SIGALRM, SIG_DFL);
	for (unsigned i = 0; i < CHILDREN_MAX; i++)
		if (harness.children[i].pid > 0)
			close(harness.children[i].line);
	memset(harness.children, 0, sizeof(harness.children));
	body(line, arg);
	/* exit() and not _exit(): what leaks is told under ASan. */
	exit(0);
}

void child_start(struct child *child, const char *name, child_body *body, const void *arg)
{
	struct child *place = child_place(0);
	pid_t parent = getpid();
	int ends[2];

	REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
	fflush(stdout);
	child->pid = fork();
	REQUIRE(child->pid >= 0);
	if (child->pid == 0) {
		close(ends[0]);
		child_run(ends[1], body, arg, parent);
	}
	close(ends[1]);
	child->line = ends[0];
	child->name = name;
	*place = *child;
}

static int child_reaped(struct child *child)
{
	int status;

	while (waitpid(child->pid, &status, 0) < 0)
		REQUIRE_EQ(errno, EINTR);
	child_place(child->pid)->pid = 0;
	close(child->line);
	child->pid = 0;
	child->line = -1;
	return status;
}

uint64_t child_kill(struct child *child)
{
	int status;

	REQUIRE(child->pid > 0);
	kill(child->pid, SIGKILL);
	status = child_reaped(child);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
		fprintf(stderr, "%s ended by itself before it was killed (%#x)\n", child->name,
			(unsigned)status);
		exit(1);
	}
	return clock_ns();
}

void child_stop(const struct child *child)
{
	siginfo_t info;

	REQUIRE(kill(child->pid, SIGSTOP) == 0);
	REQUIRE(waitid(P_PID, (id_t)child->pid, &info, WSTOPPED) == 0);
}

void child_continue(const struct child *child)
{
	REQUIRE(kill(child->pid, SIGCONT) == 0);
}

bool child_runs(const struct child *child)
{
	siginfo_t info = {0};

	REQUIRE(child->pid > 0);
	REQUIRE(waitid(P_PID, (id_t)child->pid, &info, WEXITED | WNOWAIT | WNOHANG) == 0);
	return info.si_pid == 0;
}

void child_finish(struct child *child)
{
	uint64_t until = clock_ns() + FINISH_MS * NS_PER_MS * harness_slower();
	int status;

	while (child_runs(child)) {
		if (clock_ns() > until) {
			fprintf(stderr, "%s does not end\n", child->name);
			exit(1);
		}
		sleep_ms(1);
	}
	status = child_reaped(child);
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		fprintf(stderr, "%s failed (%#x)\n", child->name, (unsigned)status);
		exit(1);
	}
}

/* Before a failure is told: which children ended, and how. A crash says nothing of itself. */
static void children_report(void)
{
	for (unsigned i = 0; i < CHILDREN_MAX; i++) {
		int status;

		if (harness.children[i].pid <= 0 ||
			waitpid(harness.children[i].pid, &status, WNOHANG) <= 0)
			continue;
		fprintf(stderr, "%s (pid %d) ended: %s %d\n", harness.children[i].name,
			(int)harness.children[i].pid, WIFSIGNALED(status) ? "signal" : "exit",
			WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		harness.children[i].pid = 0;
	}
}

void line_tell(int line, const void *message, size_t bytes)
{
	ssize_t sent;

	do {
		sent = send(line, message, bytes, MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	REQUIRE_EQ(sent, bytes);
}

bool line_quiet(int line, uint64_t ms)
{
	struct pollfd one = {.fd = line, .events = POLLIN};
	uint64_t now = clock_ns(), until = now + ms * NS_PER_MS;
	int ready;

	do {
		ready = poll(&one, 1, (int)((until - now) / NS_PER_MS));
		REQUIRE(ready >= 0 || errno == EINTR);
		now = MIN_OF(clock_ns(), until);
	} while (ready < 0);
	return ready == 0;
}

size_t line_hear(int line, void *message, size_t room)
{
	ssize_t got;

	if (line_quiet(line, (uint64_t)SILENCE_MS * harness_slower())) {
		fprintf(stderr, "pid %d waits for a message that does not come\n", (int)getpid());
		children_report();
		exit(1);
	}
	do {
		got = recv(line, message, room, MSG_TRUNC);
	} while (got < 0 && errno == EINTR);
	if (got <= 0) {
		fprintf(stderr, "pid %d: the other side of the line has gone\n", (int)getpid());
		sleep_ms(100);
		children_report();
		exit(1);
	}
	REQUIRE((size_t)got <= room);
	return (size_t)got;
}

bool line_told(int line)
{
	struct note note;

	if (line_quiet(line, 0))
		return false;
	line_hear(line, &note, sizeof(note));
	return true;
}
