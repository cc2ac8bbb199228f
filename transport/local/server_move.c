/* SPDX-License-Identifier: Apache-2.0 */
/* Listening sockets and links on their way from one daemon to the next: read out of a server that
 * stands still, and restored in another process. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "transport/local/server_priv.h"

bool local_listener_read(
	const struct local_server *server, unsigned index, struct local_listener_image *out)
{
	const struct listener *listener = &server->listeners[index];

	if (index >= server->listener_count)
		return false;
	out->fd = listener->fd;
	memcpy(out->path, listener->path, sizeof(out->path));
	memcpy(out->realm, listener->realm, sizeof(out->realm));
	return true;
}

int local_listener_restore(struct local_server *server, const struct local_listener_image *image)
{
	return listener_add(server, image->fd, image->path, image->realm);
}

bool local_server_busy(const struct local_server *server)
{
	list_each (node, &server->links) {
		const struct local_link *link = list_item(node, struct local_link, of_server);

		if (link->text || (link->cut && link->fd >= 0))
			return true;
	}
	return false;
}

/* An operator's session has no page; it is a tool that asks again. */
static bool link_worth(const struct local_link *link)
{
	return link->page_memory ? link->session != NULL : !link->session && link->fd >= 0;
}

uint64_t local_link_read(
	const struct local_server *server, uint64_t after, struct local_link_image *out)
{
	bool passed = !after;

	list_each (node, &server->links) {
		const struct local_link *link = list_item(node, struct local_link, of_server);

		if (passed && link_worth(link)) {
			*out = (struct local_link_image){.id = link->id,
				.fd = link->fd,
				.pidfd = link->pidfd,
				.page_fd = link->page_fd,
				.kick_fd = link->kick_fd,
				.peer = link->peer,
				.session = link->session,
				.bye = link->bye};
			memcpy(out->queue_fds, link->page.queue_fds, sizeof(out->queue_fds));
			memcpy(out->bound_realm, link->bound_realm, sizeof(out->bound_realm));
			return link->id;
		}
		passed |= link->id == after;
	}
	return 0;
}

/* Descriptors are the link's from here on: what fails below closes them with it. */
static void link_fds_forget(struct local_link *link)
{
	link->fd = link->pidfd = link->page_fd = link->kick_fd = -1;
	for (unsigned i = 0; i < PAGE_QUEUES; i++)
		link->page.queue_fds[i] = -1;
}

int local_link_restore(
	struct local_server *server, const struct local_link_image *image, struct local_link **out)
{
	struct local_link *link;
	int status = 0;

	if (server->link_count >= server->links_max)
		return -EUSERS;
	link = link_make(server, image->fd, image->bound_realm);
	if (!link)
		return -ENOMEM;
	link->pidfd = image->pidfd;
	link->page_fd = image->page_fd;
	link->peer = image->peer;
	link->bye = image->bye;
	if (link->page_fd >= 0)
		status = link_page_map(link);
	if (status == 0)
		link->page.base = link->page_memory;
	memcpy(link->page.queue_fds, image->queue_fds, sizeof(link->page.queue_fds));
	if (status == 0)
		status = link_watch(link);
	if (status == 0 && image->kick_fd >= 0) {
		link->kick_fd = image->kick_fd;
		status = link_kick_watch(link);
	}
	if (status < 0) {
		/* The caller's again. A watch that was set goes with the link. */
		struct loop *loop = server->loop;

		loop_watch_remove(loop, &link->socket);
		loop_watch_remove(loop, &link->process);
		loop_watch_remove(loop, &link->kick);
		link_fds_forget(link);
		link_free(link);
		return status;
	}
	/* Its process runs on, unseen: as long as before, from now. */
	if (link->fd < 0 && link->pidfd < 0)
		loop_timer_set(server->loop, &link->orphan, clock_ns() + server->orphan_ns);
	*out = link;
	return 0;
}

void local_link_session_set(struct local_link *link, void *session)
{
	SKEP_CHECK(!link->session);
	link->session = session;
}

void local_index_send(struct local_link *link, const struct local_index *index)
{
	struct wire_index message = {.head = {.op = WIRE_INDEX},
		.incarnation = index->incarnation,
		.index_bytes = index->index_bytes,
		.number = index->number};

	local_answer(link, &message, sizeof(message), index->fd);
}

void local_server_borrow(struct local_server *server, bool borrowed)
{
	server->borrowed = borrowed;
}
