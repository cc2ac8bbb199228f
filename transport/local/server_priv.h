/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TRANSPORT_LOCAL_SERVER_PRIV_H
#define SKEP_TRANSPORT_LOCAL_SERVER_PRIV_H

/* What server.c (sockets, hello, requests) and server_move.c (to another process and from it)
 * share. */

#include "transport/local/server.h"

enum { LISTENERS_MAX = 65 };

struct listener {
	struct loop_watch watch;
	struct loop_timer retry; /* set while descriptors or memory are short */
	struct local_server *server;
	int fd;
	bool starved;
	char realm[WIRE_NAME_MAX];
	char path[108];
};

struct local_server {
	struct loop *loop;
	struct link_owner owner;
	struct listener listeners[LISTENERS_MAX];
	unsigned listener_count, link_count, links_max;
	bool borrowed; /* another process answers: the paths are not ours to remove */
	uint32_t daemon_version;
	uint64_t orphan_ns, next_id;
	struct list links;
};

struct local_link {
	struct list of_server;
	struct local_server *server;
	struct loop_watch socket, process, kick;
	struct loop_timer orphan;
	struct local_peer peer;
	uint64_t id;
	int fd, pidfd, kick_fd, page_fd;
	void *page_memory;
	struct page_end page;
	void *session; /* the owner's; NULL before hello */
	bool bye, cut;
	int refusal; /* what a hello is told: its process could not be watched; 0: welcome */
	char bound_realm[WIRE_NAME_MAX];
	char *text; /* of a COMMAND's answer that is being sent */
	size_t text_bytes, text_sent;
	int text_status;
};

/* A link without watches, in the server's list. Return: NULL: no memory, or too many. */
struct local_link *link_make(struct local_server *server, int fd, const char *realm);
/* Watches its socket and process where there are any. Return: 0 or negative. */
int link_watch(struct local_link *link);
/* Maps the session page behind link.page_fd. Return: 0 or negative. */
int link_page_map(struct local_link *link);
/* Watches the eventfd link.kick_fd. */
int link_kick_watch(struct local_link *link);
void link_free(struct local_link *link);
/* The next free listener of the server takes @fd, which listens. Return: 0 or negative. */
int listener_add(struct local_server *server, int fd, const char *path, const char *realm);

#endif
