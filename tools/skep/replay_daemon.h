/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_REPLAY_DAEMON_H
#define SKEP_TOOLS_SKEP_REPLAY_DAEMON_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define REPLAY_WHY_BYTES  320
#define REPLAY_PATH_BYTES 108  /* of a unix socket */
#define REPLAY_SSD_BYTES  4096 /* of the path of a directory for an ssd tier */

/* A private skepd: the program beside this one, in a directory of its own, gone with its parent. */
struct replay_daemon {
	pid_t pid; /* 0: none runs */
	char directory[REPLAY_PATH_BYTES - 8];
	char socket[REPLAY_PATH_BYTES];
	char ssd_directory[REPLAY_SSD_BYTES]; /* of its own; "": none */
};

/* A pool of exactly so many parts of so many bytes. */
struct replay_pool {
	uint64_t blocks;
	uint64_t payload_bytes;
	uint32_t block_tokens;
	uint64_t ssd_blocks;  /* live ones; 0: no ssd tier */
	const char *ssd_path; /* directory in which a private one is made; NULL: the current one */
	/* A file that is there already, instead, and stays; NULL: none. @ssd_blocks says how many
	 * the index shall have room for. */
	const char *ssd_file;
	uint64_t ssd_bytes; /* of it that are used */
};

/*
 * Starts a daemon and waits until it serves. @why: on error, what was wrong (REPLAY_WHY_BYTES); the
 * daemon's own words went to stderr. 0; -ENOENT (no skepd beside this program), -ECHILD (it ended
 * before it served), or another negative errno. End it with replay_daemon_stop().
 */
int replay_daemon_start(struct replay_daemon *daemon, const struct replay_pool *pool, char *why);

/* Ends the daemon and removes its directory. Nothing for one that was not started. */
void replay_daemon_stop(struct replay_daemon *daemon);

/*
 * Makes a directory for files of an ssd tier in @root (NULL: the current one), which is on a disk
 * and has room for @bytes. @path: REPLAY_SSD_BYTES, absolute; "" on error, with @why as above.
 * Return: 0; -EINVAL (in memory), -ENOSPC, -ENAMETOOLONG, or what the system said.
 */
int replay_ssd_directory_make(const char *root, uint64_t bytes, char *path, char *why);

/* Removes it with all that is in it, and says on stderr what stays. */
void replay_ssd_directory_remove(const char *path);

/* Resident memory of a process in bytes; 0 when it cannot be read. */
uint64_t replay_process_bytes(pid_t pid);

#endif
