/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TRANSPORT_LOCAL_SERVER_H
#define SKEP_TRANSPORT_LOCAL_SERVER_H

/*
 * The daemon's end of local sessions: listening sockets, hello, requests, the watch on a client's
 * process. Carries and knows no names; the owner decides (struct link_owner). The loop's thread
 * alone.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/loop/loop.h"
#include "transport/local/server_page.h"
#include "transport/local/wire.h"

struct local_server;
struct local_link;

/* Who connected, from the kernel. */
struct local_peer {
	pid_t pid; /* 0: in another pid namespace */
	uid_t uid;
	gid_t gid;
};

/* What a session is given. Descriptors stay the owner's. */
struct local_offer {
	void *session; /* the owner's */
	uint64_t incarnation, session_id;
	bool operator_role; /* no memory is offered */
	int index_fd;
	uint64_t index_bytes, pool_bytes, chunk_bytes;
	unsigned chunk_count;
	int (*chunk_fd)(void *session, unsigned chunk);
	char realm[WIRE_NAME_MAX];
};

/* What the store implements. Every call comes on the loop's thread. */
struct link_owner {
	void *arg;
	/* Decides on a hello (texts are zero-ended). Return: 0 with @offer, or negative. */
	int (*hello)(void *arg, struct local_link *link, const struct wire_hello *hello,
		struct local_offer *offer);
	/* A request other than hello and bye: answers with local_answer() or later. */
	void (*request)(void *arg, struct local_link *link, const void *message, size_t bytes);
	/* The socket is closed: nothing more comes. @bye: the client let go of everything. */
	void (*closed)(void *arg, void *session, bool bye);
	/* The process has ended, or it said bye: what it held is free. The session is gone. */
	void (*ended)(void *arg, void *session);
	/* A process asks to take everything over (WIRE_TAKEOVER, @message of @bytes as it came).
	 * @fd is a connection of its own, the owner's from here on. NULL: nobody may. */
	void (*takeover)(void *arg, int fd, const struct local_peer *peer, const void *message,
		size_t bytes);
};

struct local_server_options {
	struct loop *loop;
	struct link_owner owner;
	unsigned links_max;
	uint32_t daemon_version;
	uint64_t orphan_ns; /* where the process cannot be watched: how long its pins count on */
};

int local_server_create(const struct local_server_options *options, struct local_server **out);

/* Closes every socket; the owner has ended its sessions. */
void local_server_destroy(struct local_server *server);

/*
 * Listens on @path; a stale socket is replaced. Sessions that come in there have @realm bound.
 * Return: 0; -EADDRINUSE: another daemon answers there; -EEXIST: something that is no socket is
 * there; or what the system said.
 */
int local_server_listen(
	struct local_server *server, const char *path, mode_t mode, const char *realm);

/* Takes one end of a socketpair as a connection (a client in this process). */
int local_server_adopt(struct local_server *server, int fd);

const struct local_peer *local_link_peer(const struct local_link *link);
const char *local_link_bound_realm(const struct local_link *link);
void *local_link_session(const struct local_link *link);
struct page_end *local_link_page(struct local_link *link);
uint64_t local_link_id(const struct local_link *link);
struct local_link *local_link_find(struct local_server *server, uint64_t id);

/* Answers a request; @fd < 0: none. A client that does not read is cut. */
void local_answer(struct local_link *link, void *message, size_t bytes, int fd);

/* Answers a COMMAND with text of any length; copied. Return: 0, -ENOMEM, -EBUSY. */
int local_answer_text(struct local_link *link, int status, const char *text, size_t bytes);

/* Ends the connection of a session that broke the protocol: closed() follows at the next turn. */
void local_link_cut(struct local_link *link);

/* ------------------------------------------------------------------------- to another process */

/* A listening socket and a session's connection, as they are handed from process to process. The
 * descriptors of an image that was read stay the server's; those of one that is restored become
 * its own on success. -1: there is none. */
struct local_listener_image {
	int fd;
	char path[108], realm[WIRE_NAME_MAX];
};
struct local_link_image {
	uint64_t id;
	int fd;	   /* -1: closed, but its process runs */
	int pidfd; /* -1: its process cannot be watched */
	int page_fd, kick_fd;
	int queue_fds[PAGE_QUEUES];
	struct local_peer peer;
	void *session; /* the owner's; NULL before hello */
	bool bye;
	char bound_realm[WIRE_NAME_MAX];
};

/* Return: false: there is no listener @index. */
bool local_listener_read(
	const struct local_server *server, unsigned index, struct local_listener_image *out);
int local_listener_restore(struct local_server *server, const struct local_listener_image *image);

/* Something is being sent to a session in pieces, or a session's connection is to be ended: not
 * now. */
bool local_server_busy(const struct local_server *server);
/* The link behind @after (0: the first) that is worth handing over: no operator's. Return: its
 * id, 0: there is none. */
uint64_t local_link_read(
	const struct local_server *server, uint64_t after, struct local_link_image *out);
/* The page is mapped and its cursors are the owner's to set; image.session is not looked at.
 * Return: 0, -ENOMEM, -EUSERS, …. */
int local_link_restore(
	struct local_server *server, const struct local_link_image *image, struct local_link **out);
void local_link_session_set(struct local_link *link, void *session);

/* Sends a session the index that its realm has from now on (WIRE_INDEX). One whose socket takes
 * nothing is cut. */
struct local_index {
	uint64_t incarnation, index_bytes;
	uint32_t number;
	int fd;
};
void local_index_send(struct local_link *link, const struct local_index *index);

/* Another process answers at the paths (@borrowed), or this one does again: they are removed at the
 * end only where they are ours. */
void local_server_borrow(struct local_server *server, bool borrowed);

#endif
