/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEPD_CHECK_H
#define SKEP_TOOLS_SKEPD_CHECK_H

#include "tools/skepd/settings.h"

/*
 * `skepd --check`: what is wrong with this host and this configuration, before users find out. Each
 * row says what was found and, where that is not well, what to do.
 *
 * X(name, help)
 */
#define CHECK_TABLE(X)                                                                             \
	X(memory_cgroup, "the limit of the memory cgroup holds the pools")                         \
	X(memory_available, "the host has memory to populate the pools")                           \
	X(memlock, "pools can be locked, or are not swapped")                                      \
	X(descriptors, "there are descriptors for all sessions")                                   \
	X(huge_pages, "pools can lie on huge pages")                                               \
	X(memory_files, "memory files can be made and sealed")                                     \
	X(io_uring, "io_uring is allowed")                                                         \
	X(pidfd, "the end of a client's process can be seen")                                      \
	X(clock, "the clock is read without a system call")                                        \
	X(socket, "the socket's directory is there, is ours, and no daemon serves it")             \
	X(secrets, "secrets and tokens are there and are read by their owner alone")               \
	X(admin, "the address of the HTTP page is free")                                           \
	X(manifest, "the manifest's directory is there or can be made")

/* The same, looked at once for each ssd. */
#define CHECK_SSD_TABLE(X)                                                                         \
	X(ssd, "it is there or can be made, has room, and takes direct I/O by io_uring")

enum check_verdict { CHECK_OK, CHECK_WARN, CHECK_FAIL };

struct check_result {
	enum check_verdict verdict;
	char found[256];
	char advice[320]; /* "" where all is well */
};

/*
 * Runs all checks. @running: of the daemon that asks, whose pools are populated and whose socket
 * and address are taken by itself.
 * {"checks": [{"name", "verdict", "found", "advice"}], "worst": "ok" | "warn" | "fail"}
 * Any thread; tries small things out (a memory file, a loop, a socket). NULL: no memory.
 */
json_t *check_json(const struct settings *settings, bool running);

/* The same for people. */
void check_print(const json_t *checks, FILE *out);

/* 0 all well, 1 warnings, 2 faults: the exit status. */
int check_status(const json_t *checks);

#endif
