/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/replay_daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "tiering/ssd/ssd.h"

/* How long a daemon may take to populate its pool, and to end. */
#define START_WAIT_MS 300000
#define STOP_WAIT_MS  10000

/* skepd lies in the directory of this program. */
static int program_find(char *path, size_t path_bytes, char *why)
{
	ssize_t bytes = readlink("/proc/self/exe", path, path_bytes - 1);
	char *slash;

	if (bytes < 0) {
		int status = -errno;

		snprintf(why, REPLAY_WHY_BYTES, "/proc/self/exe: %s", strerror(-status));
		return status;
	}
	path[bytes] = '\0';
	slash = strrchr(path, '/');
	if (!slash || (size_t)(slash - path) + sizeof("/skepd") > path_bytes) {
		snprintf(why, REPLAY_WHY_BYTES, "the path of this program is too long");
		return -ENAMETOOLONG;
	}
	memcpy(slash, "/skepd", sizeof("/skepd"));
	if (access(path, X_OK)) {
		int status = -errno;

		snprintf(why, REPLAY_WHY_BYTES, "%.250s: %s", path, strerror(-status));
		return status;
	}
	return 0;
}

static int directory_make(struct replay_daemon *daemon, char *why)
{
	const char *root = getenv("XDG_RUNTIME_DIR");
	int status;

	if (!root || access(root, W_OK) || strlen(root) > 60)
		root = "/tmp"; /* a socket's path must be short */
	snprintf(daemon->directory, sizeof(daemon->directory), "%s/skep-replay-XXXXXX", root);
	if (!mkdtemp(daemon->directory)) {
		status = -errno;
		snprintf(why, REPLAY_WHY_BYTES, "%s: %s", daemon->directory, strerror(-status));
		daemon->directory[0] = '\0';
		return status;
	}
	snprintf(daemon->socket, sizeof(daemon->socket), "%s/socket", daemon->directory);
	return 0;
}

static uint64_t ssd_bytes(const struct replay_pool *pool)
{
	return pool->ssd_blocks
		       ? ssd_bytes_for(pool->ssd_blocks * align_up(pool->payload_bytes, 4096))
		       : 0;
}

/* Is there room for it, on a disk? */
static int ssd_root_check(const char *root, const char *path, uint64_t bytes, char *why)
{
	struct statfs system;
	uint64_t room;

	if (statfs(path, &system)) {
		int status = -errno;

		snprintf(why, REPLAY_WHY_BYTES, "%.200s: %s", root, strerror(-status));
		return status;
	}
	if (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC) {
		snprintf(why, REPLAY_WHY_BYTES,
			"%.200s lies in memory (tmpfs), not on a disk: give another --ssd-path",
			root);
		return -EINVAL;
	}
	room = (uint64_t)system.f_bavail * (uint64_t)system.f_bsize;
	if (room < bytes + bytes / 50) {
		snprintf(why, REPLAY_WHY_BYTES,
			"%.200s has %" PRIu64 " MiB free and the ssd tier takes %" PRIu64
			" MiB: give another --ssd-path, or ask for less",
			root, room >> 20, bytes >> 20);
		return -ENOSPC;
	}
	return 0;
}

int replay_ssd_directory_make(const char *root, uint64_t bytes, char *path, char *why)
{
	char *real = realpath(root ? root : ".", NULL);
	int status;

	root = root ? root : ".";
	path[0] = '\0';
	if (!real) {
		status = -errno;
		snprintf(why, REPLAY_WHY_BYTES, "%.200s: %s", root, strerror(-status));
		return status;
	}
	status = ssd_root_check(root, real, bytes, why);
	if (!status && snprintf(path, REPLAY_SSD_BYTES, "%s/skep-replay-ssd-XXXXXX", real) >=
			       REPLAY_SSD_BYTES)
		status = -ENAMETOOLONG;
	else if (!status && !mkdtemp(path))
		status = -errno;
	else
		goto end;
	snprintf(why, REPLAY_WHY_BYTES, "%.200s: no directory can be made there: %s", root,
		strerror(-status));
	path[0] = '\0';
end:
	free(real);
	return status;
}

/* The numbers of the command line, written before fork. */
struct words {
	char pool[48], index[24], records[24], ready[16];
	char ssd[REPLAY_SSD_BYTES + 64]; /* "": no ssd tier */
};

/*
 * Room in the index and for tokens for every frame of the pool and some in passing: it is the
 * frames that shall be short in a replay.
 */
static void words_write(struct words *words, const struct replay_daemon *daemon,
	const struct replay_pool *pool, int ready_fd)
{
	uint64_t blocks = pool->blocks + pool->ssd_blocks + pool->ssd_blocks / 16;
	uint64_t slots = blocks + blocks / 4 + 4096;
	uint64_t record_bytes = slots * (pool->block_tokens * sizeof(uint32_t) + 256) + (16 << 20);

	snprintf(words->pool, sizeof(words->pool), "%" PRIu64 ":%" PRIu64, pool->payload_bytes,
		pool->blocks);
	snprintf(words->index, sizeof(words->index), "%" PRIu64, slots);
	snprintf(words->records, sizeof(words->records), "%" PRIu64, record_bytes);
	snprintf(words->ready, sizeof(words->ready), "%d", ready_fd);
	if (pool->ssd_file)
		snprintf(words->ssd, sizeof(words->ssd), "%s:%" PRIu64, pool->ssd_file,
			pool->ssd_bytes);
	else if (daemon->ssd_directory[0])
		snprintf(words->ssd, sizeof(words->ssd), "%s/ssd:%" PRIu64, daemon->ssd_directory,
			ssd_bytes(pool));
}

/* In the child. Between fork and exec only calls that a signal handler may make. */
static _Noreturn void child_exec(
	const char *program, const struct replay_daemon *daemon, struct words *words, int ready_fd)
{
	char *const argv[] = {"skepd", "--socket", (char *)daemon->socket, "--state-dir",
		(char *)daemon->directory, "--admin", "off", "--private", "--volatile-secret",
		"--parent-death", "--ready-fd", words->ready, "--dram-blocks-of", words->pool,
		"--index-blocks", words->index, "--record-bytes", words->records, "--age-limit",
		"never", "--log-level", "warn", words->ssd[0] ? "--ssd" : NULL, words->ssd, NULL};

	/* A group of its own: an interrupt from the terminal is for the replay, which then ends it.
	 */
	setpgid(0, 0);
	fcntl(ready_fd, F_SETFD, 0);
	execv(program, argv);
	_exit(127);
}

/* Waits for the byte that says "serving". */
static int ready_wait(int fd, char *why)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	char byte;
	int ready;

	do
		ready = poll(&wait, 1, START_WAIT_MS);
	while (ready < 0 && errno == EINTR);
	if (ready == 0) {
		snprintf(why, REPLAY_WHY_BYTES, "skepd did not serve within %d s",
			START_WAIT_MS / 1000);
		return -ETIMEDOUT;
	}
	if (ready < 0 || read(fd, &byte, 1) != 1) {
		snprintf(why, REPLAY_WHY_BYTES,
			"skepd ended before it served; its last words stand above");
		return -ECHILD;
	}
	return 0;
}

int replay_daemon_start(struct replay_daemon *daemon, const struct replay_pool *pool, char *why)
{
	char program[4096];
	struct words words = {0};
	int ready[2], status;

	*daemon = (struct replay_daemon){0};
	status = program_find(program, sizeof(program), why);
	if (status)
		return status;
	status = directory_make(daemon, why);
	if (!status && pool->ssd_blocks && !pool->ssd_file)
		status = replay_ssd_directory_make(
			pool->ssd_path, ssd_bytes(pool), daemon->ssd_directory, why);
	if (status) {
		replay_daemon_stop(daemon);
		return status;
	}
	if (pipe2(ready, O_CLOEXEC)) {
		status = -errno;
		snprintf(why, REPLAY_WHY_BYTES, "pipe: %s", strerror(-status));
		replay_daemon_stop(daemon);
		return status;
	}
	words_write(&words, daemon, pool, ready[1]);
	daemon->pid = fork();
	if (daemon->pid == 0)
		child_exec(program, daemon, &words, ready[1]);
	close(ready[1]);
	if (daemon->pid < 0) {
		status = -errno;
		snprintf(why, REPLAY_WHY_BYTES, "fork: %s", strerror(-status));
		daemon->pid = 0;
	} else {
		status = ready_wait(ready[0], why);
	}
	close(ready[0]);
	if (status)
		replay_daemon_stop(daemon);
	return status;
}

static bool child_gone(pid_t pid)
{
	pid_t done = waitpid(pid, NULL, WNOHANG);

	return done == pid || (done < 0 && errno == ECHILD);
}

static int entry_remove(const char *path, const struct stat *is, int kind, struct FTW *at)
{
	(void)is;
	(void)kind;
	(void)at;
	return remove(path) ? -errno : 0;
}

void replay_ssd_directory_remove(const char *path)
{
	int status = nftw(path, entry_remove, 8, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);

	if (status)
		fprintf(stderr, "skep replay: %s: %s\n", path, strerror(-status));
}

void replay_daemon_stop(struct replay_daemon *daemon)
{
	if (daemon->pid) {
		kill(daemon->pid, SIGTERM);
		for (unsigned waited_ms = 0; !child_gone(daemon->pid); waited_ms += 10) {
			if (waited_ms == STOP_WAIT_MS)
				kill(daemon->pid, SIGKILL);
			poll(NULL, 0, 10);
		}
		daemon->pid = 0;
	}
	if (daemon->ssd_directory[0]) {
		replay_ssd_directory_remove(daemon->ssd_directory);
		daemon->ssd_directory[0] = '\0';
	}
	if (daemon->directory[0]) {
		unlink(daemon->socket);
		if (rmdir(daemon->directory))
			fprintf(stderr, "skep replay: %s: %s\n", daemon->directory,
				strerror(errno));
		daemon->directory[0] = '\0';
	}
}

uint64_t replay_process_bytes(pid_t pid)
{
	char path[64], line[256];
	unsigned long long kib = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "VmRSS: %llu kB", &kib) == 1)
			break;
	fclose(file);
	return kib * 1024;
}
