/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_NODE_HARNESS_H
#define SKEP_TESTS_NODE_HARNESS_H

/*
 * Tests of a daemon and its clients over processes. The test itself is a process without threads
 * that starts a daemon and clients as children, each at the other end of a line (a socketpair of
 * packets), tells them what to do, kills them and looks at what the daemon says of itself.
 *
 * A child runs a function of the test. Whatever fails, in whichever process, ends the test: a child
 * that fails exits 1, which its parent sees at child_finish(). Every wait here has an end; children
 * die with the test; the folder of the sockets is removed.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "store/node.h"
#include "tests/base/unit.h"

/* Arguments of every test here: [COUNT] [--seed N]. Prints the seed. */
struct harness_options {
	int argc;
	char **argv;
	unsigned seconds; /* it ends by then; stretched for larger counts, under sanitizers */
	uint64_t count;	  /* where none is given */
};
void harness_begin(const struct harness_options *options);

/* As given or chosen; the state from which unit_random() draws. */
extern uint64_t harness_seed;
extern uint64_t harness_count;

/* How much longer things may take under a sanitizer. */
unsigned harness_slower(void);

/* A path in the test's own folder. */
void harness_path(const char *name, char *path, size_t room);

/* Ends the test as skipped, saying why. */
_Noreturn void harness_skip(const char *why);

/* Ends the test as skipped unless so much is free where its files go. */
void harness_need_disk(uint64_t bytes);

void sleep_ms(uint64_t ms);

/* ---------------------------------------------------------------------------------- children */

/* The small message of a line; what the words mean is the test's. */
struct note {
	uint32_t what;
	int32_t status;
	uint64_t words[4];
};

struct child {
	pid_t pid; /* 0: none */
	int line;
	const char *name;
};

/* What a child runs: its end of the line and the argument as it was at the start. Returning from it
 * is success. */
typedef void child_body(int line, const void *arg);

void child_start(struct child *child, const char *name, child_body *body, const void *arg);

/* Kills it if it runs; the time at which the process had ended. */
uint64_t child_kill(struct child *child);

/* Stops it, and returns when all its threads stand still; lets it go on. */
void child_stop(const struct child *child);
void child_continue(const struct child *child);

/* Has it not ended yet? child_finish() alone waits for a few seconds. */
bool child_runs(const struct child *child);

/* Waits until it ends by itself, with success. */
void child_finish(struct child *child);

/* Messages. line_hear() gives the bytes it took; the test fails after ten seconds of silence or
 * when the other side has gone. line_quiet(): nothing is there to hear. */
void line_tell(int line, const void *message, size_t bytes);
size_t line_hear(int line, void *message, size_t room);
bool line_quiet(int line, uint64_t ms);

static inline void note_tell(int line, struct note note)
{
	line_tell(line, &note, sizeof(note));
}

/* A loop that goes on until it is told something: has that come? Takes it: a socket that is closed
 * with something unread destroys what it sent before. */
bool line_told(int line);

static inline struct note note_hear(int line)
{
	struct note note = {0};

	REQUIRE_EQ(line_hear(line, &note, sizeof(note)), sizeof(note));
	return note;
}

/* ------------------------------------------------------------------------------------ daemon */

enum { DAEMON_REALMS_MAX = 3, DAEMON_SESSIONS_MAX = 64, DAEMON_SSDS_MAX = 2 };

/* A child that runs a node. Fill config and realms between init and start. */
struct daemon {
	struct child child;
	struct node_config config;
	struct realm_config realms[DAEMON_REALMS_MAX];
	struct node_ssd ssds[DAEMON_SSDS_MAX];
	char cgroup[256];     /* a memory cgroup it enters first (cgroup.h), or "" */
	bool pid_namespace;   /* it runs as process 1 of its own */
	uint64_t descriptors; /* soft limit it sets before it makes the node; 0: none */
	uint64_t started_ns;  /* when it was started last, and when it was ready */
	uint64_t ready_ns;
	const uint64_t *counters; /* of realm 0, in the daemon's memory */
};

/* A private socket, one realm "main" of @dram_bytes whose index has room for @blocks; the seed
 * chooses the back end of the event loop. */
struct daemon_size {
	uint64_t dram_bytes;
	uint32_t blocks;
};
void daemon_init(struct daemon *daemon, struct daemon_size size);
/* One more realm, with a token. */
struct realm_config *daemon_realm_add(
	struct daemon *daemon, const char *name, const char *token, struct daemon_size size);

/* Gives it a file of the ssd tier, in the test's folder. Realms say how much of it is theirs. */
void daemon_ssd_add(struct daemon *daemon, const char *name, uint64_t bytes);

/* Starts it and waits until its pools are ready, or as ready as memory allows. Return: what
 * node_wait_ready() said; -EPERM: no pid namespace may be made here. */
int daemon_try(struct daemon *daemon);
/* The same where nothing may go wrong. */
void daemon_start(struct daemon *daemon);
/* The halves of daemon_try(), for who does something before it is ready. */
void daemon_begin(struct daemon *daemon);
int daemon_await(struct daemon *daemon);
/* What it says that a stop keeps, after which it is to be stopped. */
struct node_kept daemon_keep(const struct daemon *daemon);
/* A clean stop, or kill -9. The time at which the process had ended. */
uint64_t daemon_stop(struct daemon *daemon);
uint64_t daemon_kill(struct daemon *daemon);
/* The same, and what a counter of realm 0 stood at in that moment; UINT64_MAX: its memory may not
 * be read here. */
uint64_t daemon_kill_counting(struct daemon *daemon, enum realm_counter counter);

/* What it says of itself. */
void daemon_node(const struct daemon *daemon, struct node_status *out);
void daemon_realm(const struct daemon *daemon, unsigned index, struct realm_status *out);
/* Return: how many. */
unsigned daemon_sessions(
	const struct daemon *daemon, struct session_status out[DAEMON_SESSIONS_MAX]);
/* The session of a process; false: it has none any more. */
bool daemon_session_of(const struct daemon *daemon, pid_t pid, struct session_status *out);
/* Open descriptors of the daemon's process. */
unsigned daemon_descriptors(const struct daemon *daemon);

/* Waits until the process has no session there any more. Return: when that was seen. */
uint64_t daemon_wait_gone(const struct daemon *daemon, pid_t pid, uint64_t until_ns);

/* The books of a realm's ssd tier, added up anew, in units of 4 KiB. While it is idle all three of
 * the units are one number. */
struct daemon_audit {
	uint64_t index_units;	/* of all records that blocks and spaces have */
	uint64_t counted_units; /* what the realm thinks that these are */
	uint64_t log_units;	/* what the log thinks is live */
	uint64_t space_units;	/* those of spaces alone */
	uint64_t blocks, blocks_counted;
	bool idle; /* nothing is to be written, under way or waits for a pin */
};
void daemon_audit(const struct daemon *daemon, unsigned realm, struct daemon_audit *out);

/* Removes all blocks of a realm. Return: how many. */
uint64_t daemon_purge(const struct daemon *daemon, unsigned realm);

/* Turns a byte of a frame in the pool over, behind everybody's back. Return: 0 or -ENOENT. */
struct daemon_flip {
	uint32_t realm;
	uint32_t part;
	uint64_t id_low, id_high;
	uint64_t offset; /* in the part */
};
int daemon_flip(const struct daemon *daemon, struct daemon_flip flip);

#endif
