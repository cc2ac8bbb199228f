/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TRANSPORT_LOCAL_CLIENT_H
#define SKEP_TRANSPORT_LOCAL_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "transport/local/page.h"
#include "transport/local/wire.h"

/*
 * The client's end of a session: its socket (wire.h) and its page (page.h). It moves messages and
 * descriptors and knows nothing of what they mean. One thread at a time uses a client, except where
 * a function says otherwise.
 *
 * Deadlines are nanoseconds of CLOCK_MONOTONIC; CLOCK_NEVER has no end. All descriptors are
 * close-on-exec and no mapping is inherited by fork().
 */
enum {
	LOCAL_CHUNKS_MAX = 4096, /* of a pool */
	LOCAL_WELCOME_FDS = 3,	 /* session page, index, eventfd: before the chunks */
};

/* Nothing larger is mapped, whatever the daemon says. */
#define LOCAL_CHUNK_BYTES_MAX (1ull << 40)
#define LOCAL_INDEX_BYTES_MAX (1ull << 42)

/*
 * How a thread waits for a descriptor. The plain way polls; a thread that has other things to look
 * after while it waits brings its own. Return: 0 when @fd is ready for @events or was hung up,
 * -ETIMEDOUT, -ECANCELED (the wait was called off) or another negative errno.
 */
struct local_wait {
	int (*ready)(const struct local_wait *wait, int fd, short events, uint64_t deadline_ns);
};
extern const struct local_wait local_wait_plain;

/*
 * Connects to the daemon's socket. Return: a descriptor; -ENOENT, -ECONNREFUSED, -EACCES,
 * -ENAMETOOLONG, -ETIMEDOUT (its queue of connections stayed full), -EMFILE, ….
 */
int local_connect(const char *path, uint64_t deadline_ns);

/* ---------------------------------------------------------------------------------- opening */

/* What came with the daemon's answer to hello. */
struct local_welcome {
	struct wire_hello_answer answer;
	int page_fd, index_fd, wake_fd;
	int *chunk_fds; /* answer.chunk_count of them */
};

/*
 * Says hello on a fresh connection and receives what the daemon offers, the answer's bounds
 * checked. @welcome is filled only on success and then owns descriptors (local_welcome_drop()); on
 * error all that came are closed. @fd stays the caller's.
 * Return: 0; the daemon's refusal; SKEP_STATUS_EVERSION; -EPROTO (the answer makes no sense or its
 * descriptors are too few), -EMFILE (no descriptors left here), -ENOMEM, -ETIMEDOUT,
 * SKEP_STATUS_EDOWN (it hung up).
 */
struct local_hello {
	int fd;
	const struct wire_hello *hello;
	const struct local_wait *wait;
	uint64_t deadline_ns;
};
int local_hello(const struct local_hello *hello, struct local_welcome *welcome);

/*
 * Says on a connection that nothing that came over it is used (any more). To be said before it is
 * closed also where hello failed: the daemon may have made a session of it, and would keep that
 * until this process ends. Does not wait.
 */
void local_bye(int fd);

/* Closes the descriptors that nobody has taken (set to -1 when taken). */
void local_welcome_drop(struct local_welcome *welcome);

/* ---------------------------------------------------------------------------------- session */

struct local_client {
	int socket_fd, wake_fd;
	struct page_head *page;
	struct submission *submissions;
	const struct completion *completions;
	void *pins; /* PAGE_PINS cells of PAGE_PIN_BYTES, laid out by store/read */
	uint8_t *scratch;
	/* Our own cursors; what the page says of them is for the daemon. */
	uint32_t submission_tail;
	uint32_t submission_head; /* the daemon's, as last read */
	uint32_t completion_head[PAGE_QUEUES];
	uint64_t touches_dropped; /* quiet messages that found the ring full */
	uint32_t answers_owed;	  /* answers to requests that we gave up waiting for */
	/* The index that the daemon has told of unasked, not taken yet; index_fd -1: none. */
	int index_fd;
	struct wire_index index;
	uint32_t spin_ns; /* how long local_sleep() looks before it sleeps */
};

/*
 * Maps the session page and takes over @socket_fd, the page's and the wake-up descriptor of
 * @welcome. On error nothing was taken. Return: 0; -EPROTO (not a page of this version), -ENOMEM.
 */
int local_client_open(struct local_client *client, int socket_fd, struct local_welcome *welcome);

/* Closes descriptors and unmaps the page. */
void local_client_close(struct local_client *client);

/* Tells the daemon that this session has let go of everything. Does not wait, asks no answer. */
void local_client_bye(struct local_client *client);

/* Ends the connection, as if the daemon had hung up; nothing is unmapped. Any thread. */
void local_client_shut(const struct local_client *client);

/*
 * One request and its answer. @answer receives exactly @answer_bytes with the head checked, and
 * @fd (if not NULL) the one descriptor that must come along. An answer to an earlier request that
 * was given up on is passed over. The caller sees to it that one thread asks at a time.
 * Return: the answer's status (0 or negative); -ETIMEDOUT, SKEP_STATUS_EDOWN, -EPROTO: the
 * connection is of no use any more and was shut.
 */
struct local_ask {
	const struct wire_head *request; /* its magic, version and bytes are set by the caller */
	struct wire_head *answer;
	uint32_t answer_bytes;
	int *fd;
	const struct local_wait *wait;
	uint64_t deadline_ns;
};
int local_client_ask(struct local_client *client, const struct local_ask *ask);

/*
 * Takes what the daemon said unasked: client.index. Does not wait. The caller sees to it that
 * nobody asks meanwhile. Return: 0; SKEP_STATUS_EDOWN; -EPROTO, -EMFILE: the connection is of no
 * use any more and was shut.
 */
int local_client_news(struct local_client *client);

/* Head of a request. */
static inline struct wire_head local_head(uint16_t op, uint32_t bytes)
{
	return (struct wire_head){
		.magic = WIRE_MAGIC, .version = WIRE_VERSION, .op = op, .bytes = bytes};
}

/* ------------------------------------------------------------------------------------- page */

enum local_push { LOCAL_PUSH_WAKE, LOCAL_PUSH_QUIET };

/*
 * Pushes a submission. QUIET is for match records: it wakes the daemon only when the ring is more
 * than half full, and one that finds no room is dropped and counted. WAKE wakes a daemon that
 * sleeps. Return: the submission's position in the ring's count (for local_client_handled());
 * -EAGAIN: the ring is full.
 */
int64_t local_client_push(
	struct local_client *client, const struct submission *submission, enum local_push push);

/*
 * Has the daemon done with the submission at @position? True once it took a later one: it handles
 * each before it takes the next.
 */
bool local_client_handled(struct local_client *client, int64_t position);

/* Takes the next completion of a queue. Return: 1, 0 (none), -EPROTO (cursors out of bounds). */
int local_client_take(struct local_client *client, unsigned queue, struct completion *out);

/*
 * Waits until queue 0 has a completion, *@down is set or the deadline has passed; looks for a few
 * microseconds before it sleeps. Whoever sets *@down calls local_client_wake() afterwards.
 * Return: 0 (look again), -ETIMEDOUT.
 */
int local_client_sleep(
	struct local_client *client, const _Atomic uint32_t *down, uint64_t deadline_ns);

/* Wakes who sleeps in local_client_sleep(). Any thread. */
void local_client_wake(const struct local_client *client);

/* ---------------------------------------------------------------------------------- operator */

/*
 * Sends an operator's request, JSON text, on a connection that has said hello, and gathers the
 * answer. @text: set on success, ended by a zero, freed by the caller with memory_free().
 * Return: 0; the daemon's refusal; -EMSGSIZE (the request is longer than a packet), -EPROTO,
 * -ENOMEM, -ETIMEDOUT, SKEP_STATUS_EDOWN.
 */
struct local_command {
	int fd;
	const char *json;
	const struct local_wait *wait;
	uint64_t deadline_ns;
};
int local_command(const struct local_command *command, char **text, size_t *text_bytes);

#endif
