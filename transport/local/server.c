/* SPDX-License-Identifier: Apache-2.0 */
#include "transport/local/server_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/status.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define ACCEPT_RETRY_NS (100 * NS_PER_MS)

enum { BACKLOG = 64, HELLO_FIXED_FDS = 3, REQUESTS_A_TURN = 16 };

static void link_text_send(struct local_link *link);

/* ------------------------------------------------------------------------------ a link ends */

/* The process is gone (or said goodbye): nothing of it can touch our memory any more. */
static void link_ended(struct local_link *link)
{
	struct local_server *server = link->server;

	if (link->session)
		server->owner.ended(server->owner.arg, link->session);
	link->session = NULL;
	link_free(link);
}

static void link_socket_close(struct local_link *link)
{
	if (link->fd < 0)
		return;
	loop_watch_remove(link->server->loop, &link->socket);
	close(link->fd);
	link->fd = -1;
}

/* End of file, an error, or cut. */
static void link_closed(struct local_link *link)
{
	struct local_server *server = link->server;

	if (link->fd < 0)
		return;
	link_socket_close(link);
	if (link->session)
		server->owner.closed(server->owner.arg, link->session, link->bye);
	if (!link->session || link->bye) {
		link_ended(link);
		return;
	}
	/* Pins count until the process has ended: a GPU may still be writing for it. */
	if (link->pidfd < 0)
		loop_timer_set(server->loop, &link->orphan, clock_ns() + server->orphan_ns);
}

static void process_ready(struct loop_watch *watch, uint32_t events)
{
	struct local_link *link = list_item(watch, struct local_link, process);

	if (!(events & (LOOP_READABLE | LOOP_HANGUP)))
		return;
	if (link->fd >= 0) {
		link_socket_close(link);
		if (link->session)
			link->server->owner.closed(
				link->server->owner.arg, link->session, link->bye);
	}
	link_ended(link);
}

static void orphan_due(struct loop_timer *timer)
{
	link_ended(list_item(timer, struct local_link, orphan));
}

void local_link_cut(struct local_link *link)
{
	link->cut = true;
	if (link->fd >= 0)
		shutdown(link->fd, SHUT_RDWR); /* wakes the watch; the rest happens there */
}

void link_free(struct local_link *link)
{
	struct loop *loop = link->server->loop;

	link_socket_close(link);
	loop_timer_cancel(loop, &link->orphan);
	if (link->pidfd >= 0) {
		loop_watch_remove(loop, &link->process);
		close(link->pidfd);
	}
	if (link->kick_fd >= 0) {
		loop_watch_remove(loop, &link->kick);
		close(link->kick_fd);
	}
	for (unsigned i = 0; link->page_memory && i < PAGE_QUEUES; i++)
		if (link->page.queue_fds[i] >= 0)
			close(link->page.queue_fds[i]);
	if (link->page_memory)
		munmap(link->page_memory, page_bytes());
	if (link->page_fd >= 0)
		close(link->page_fd);
	memory_free(link->text);
	list_remove(&link->of_server);
	link->server->link_count--;
	memory_free(link);
}

/* ------------------------------------------------------------------------------- answering */

/* Sends one packet with descriptors. Return: 0 or a negative errno. */
static int packet_send(int fd, const void *message, size_t bytes, const int *fds, unsigned fd_count)
{
	union {
		char room[CMSG_SPACE(WIRE_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec piece = {.iov_base = (void *)(uintptr_t)message, .iov_len = bytes};
	struct msghdr header = {.msg_iov = &piece, .msg_iovlen = 1};

	SKEP_CHECK(fd_count <= WIRE_FDS_MAX);
	if (fd_count) {
		struct cmsghdr *cmsg;

		memset(&control, 0, sizeof(control));
		header.msg_control = control.room;
		header.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&header);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, fd_count * sizeof(int));
	}
	while (sendmsg(fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

/* An answer did not go out. Where the other side has closed, what it said before (its goodbye, it
 * may be) is still to be read, and the end of file behind it. */
static void answer_failed(struct local_link *link, int status)
{
	if (status != -EPIPE && status != -ECONNRESET)
		local_link_cut(link);
}

void local_answer(struct local_link *link, void *message, size_t bytes, int fd)
{
	struct wire_head *head = message;
	int status = 0;

	head->magic = WIRE_MAGIC;
	head->version = WIRE_VERSION;
	head->bytes = (uint32_t)bytes;
	if (link->fd >= 0)
		status = packet_send(link->fd, message, bytes, &fd, fd >= 0);
	if (status < 0)
		answer_failed(link, status);
}

int local_answer_text(struct local_link *link, int status, const char *text, size_t bytes)
{
	if (link->fd < 0)
		return 0;
	if (link->text)
		return -EBUSY;
	link->text = memory_calloc(1, bytes + 1);
	if (!link->text)
		return -ENOMEM;
	memcpy(link->text, text, bytes);
	link->text_bytes = bytes;
	link->text_sent = 0;
	link->text_status = status;
	link_text_send(link);
	return 0;
}

/* As much of the text as the socket takes; the rest when it is writable. */
static void link_text_send(struct local_link *link)
{
	enum { ROOM = WIRE_MESSAGE_MAX - sizeof(struct wire_piece) };
	union {
		struct wire_piece piece;
		char bytes[WIRE_MESSAGE_MAX];
	} message;
	int status;

	do {
		size_t now = MIN_OF(link->text_bytes - link->text_sent, (size_t)ROOM);

		memset(&message.piece, 0, sizeof(message.piece));
		message.piece.head = (struct wire_head){.magic = WIRE_MAGIC,
			.version = WIRE_VERSION,
			.op = WIRE_COMMAND,
			.bytes = (uint32_t)(sizeof(message.piece) + now),
			.status = link->text_status};
		message.piece.text_bytes = (uint32_t)now;
		message.piece.last = link->text_sent + now == link->text_bytes;
		memcpy(message.bytes + sizeof(message.piece), link->text + link->text_sent, now);
		status = packet_send(link->fd, &message, sizeof(message.piece) + now, NULL, 0);
		if (status == -EAGAIN) {
			loop_watch_change(
				link->server->loop, &link->socket, LOOP_READABLE | LOOP_WRITABLE);
			return;
		}
		link->text_sent += now;
	} while (status == 0 && link->text_sent < link->text_bytes);
	memory_free(link->text);
	link->text = NULL;
	if (status < 0)
		answer_failed(link, status);
	else
		loop_watch_change(link->server->loop, &link->socket, LOOP_READABLE);
}

/* --------------------------------------------------------------------------------- hello */

int link_page_map(struct local_link *link)
{
	link->page_memory = mmap(NULL, page_bytes(), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_POPULATE, link->page_fd, 0);
	if (link->page_memory == MAP_FAILED) {
		link->page_memory = NULL;
		return -errno;
	}
	return memory_seclude(link->page_memory, page_bytes());
}

static int link_page_create(struct local_link *link)
{
	int status;

	if (memory_should_fail())
		return -ENOMEM;
	link->page_fd = memfd_create("skep-session", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (link->page_fd < 0 || ftruncate(link->page_fd, page_bytes()) < 0 ||
		fcntl(link->page_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	status = link_page_map(link);
	if (status == 0)
		page_end_init(&link->page, link->page_memory);
	return status;
}

static void kick_ready(struct loop_watch *watch, uint32_t events)
{
	uint64_t count;

	(void)events;
	if (read(watch->fd, &count, sizeof(count)) < 0) {
		/* Nothing there: another turn took it. The rings are looked at anyway. */
	}
}

int link_kick_watch(struct local_link *link)
{
	link->kick.ready = kick_ready;
	return loop_watch_add(link->server->loop, &link->kick, link->kick_fd, LOOP_READABLE);
}

static int link_kick_create(struct local_link *link)
{
	link->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return link->kick_fd < 0 ? -errno : link_kick_watch(link);
}

/* Sends the answer with its descriptors, further chunks in further messages. */
static int hello_answer(struct local_link *link, const struct local_offer *offer)
{
	struct wire_hello_answer answer = {
		.head = {.magic = WIRE_MAGIC,
			.version = WIRE_VERSION,
			.op = WIRE_HELLO,
			.bytes = sizeof(answer)},
		.incarnation = offer->incarnation,
		.session = offer->session_id,
		.page_bytes = page_bytes(),
		.index_bytes = offer->index_bytes,
		.pool_bytes = offer->pool_bytes,
		.chunk_bytes = offer->chunk_bytes,
		.chunk_count = offer->chunk_count,
		.daemon_version = link->server->daemon_version,
	};
	struct wire_head more = {.magic = WIRE_MAGIC,
		.version = WIRE_VERSION,
		.op = WIRE_CHUNKS,
		.bytes = sizeof(more)};
	int fds[WIRE_FDS_MAX], status;
	unsigned count = 0, chunk = 0;

	memcpy(answer.realm, offer->realm, sizeof(answer.realm));
	if (!offer->operator_role) {
		fds[count++] = link->page_fd;
		fds[count++] = offer->index_fd;
		fds[count++] = link->kick_fd;
		while (chunk < offer->chunk_count && count < WIRE_FDS_MAX)
			fds[count++] = offer->chunk_fd(offer->session, chunk++);
	}
	status = packet_send(link->fd, &answer, sizeof(answer), fds, count);
	while (status == 0 && !offer->operator_role && chunk < offer->chunk_count) {
		for (count = 0; chunk < offer->chunk_count && count < WIRE_FDS_MAX;)
			fds[count++] = offer->chunk_fd(offer->session, chunk++);
		status = packet_send(link->fd, &more, sizeof(more), fds, count);
	}
	return status;
}

static void hello_refuse(struct local_link *link, int status)
{
	struct wire_hello_answer answer = {
		.head = {.op = WIRE_HELLO, .status = status},
		.daemon_version = link->server->daemon_version,
	};

	local_answer(link, &answer, sizeof(answer), -1);
	local_link_cut(link);
}

static void hello_take(struct local_link *link, const void *message, size_t bytes)
{
	struct local_server *server = link->server;
	struct wire_hello hello;
	struct local_offer offer = {.index_fd = -1};
	int status = link->refusal;

	if (bytes != sizeof(hello)) {
		hello_refuse(link, SKEP_STATUS_EVERSION);
		return;
	}
	memcpy(&hello, message, sizeof(hello));
	hello.realm[sizeof(hello.realm) - 1] = 0;
	hello.token[sizeof(hello.token) - 1] = 0;
	hello.name[sizeof(hello.name) - 1] = 0;
	if (!(hello.flags & WIRE_HELLO_OPERATOR)) {
		if (hello.page_version != PAGE_VERSION)
			status = SKEP_STATUS_EVERSION;
		if (status == 0)
			status = link_page_create(link);
		if (status == 0)
			status = link_kick_create(link);
	}
	if (status == 0)
		status = server->owner.hello(server->owner.arg, link, &hello, &offer);
	if (status < 0) {
		hello_refuse(link, status);
		return;
	}
	link->session = offer.session;
	status = hello_answer(link, &offer);
	if (status < 0)
		answer_failed(link, status);
}

/* ------------------------------------------------------------------------------- requests */

/* A successor asks for everything: the owner gets a descriptor of its own for the talk, which may
 * last; this link is no session and ends. */
static void takeover_take(struct local_link *link, const void *message, size_t bytes)
{
	struct local_server *server = link->server;
	int fd = fcntl(link->fd, F_DUPFD_CLOEXEC, 0);

	if (fd < 0)
		log_warn("local", "a takeover is refused: %m");
	else if (server->owner.takeover)
		server->owner.takeover(server->owner.arg, fd, &link->peer, message, bytes);
	else
		close(fd);
	link_closed(link);
}

/* Return: false: the link is gone. */
static bool message_take(struct local_link *link, const void *message, size_t bytes)
{
	struct local_server *server = link->server;
	struct wire_head head;

	memcpy(&head, message, sizeof(head));
	if (head.magic != WIRE_MAGIC || head.bytes != bytes) {
		local_link_cut(link);
	} else if (!link->session) {
		if (head.op == WIRE_TAKEOVER) {
			takeover_take(link, message, bytes);
			return false;
		}
		if (head.op == WIRE_HELLO)
			hello_take(link, message, bytes);
		else
			local_link_cut(link);
	} else if (head.version != WIRE_VERSION || head.op == WIRE_HELLO) {
		local_link_cut(link);
	} else if (head.op == WIRE_BYE) {
		link->bye = true;
	} else {
		server->owner.request(server->owner.arg, link, message, bytes);
	}
	return true;
}

static void socket_ready(struct loop_watch *watch, uint32_t events)
{
	struct local_link *link = list_item(watch, struct local_link, socket);
	/* Aligned for the structs that are copied or read out of it. */
	static _Thread_local _Alignas(16) char message[WIRE_MESSAGE_MAX];

	if (link->text && events & LOOP_WRITABLE)
		link_text_send(link);
	for (unsigned i = 0; i < REQUESTS_A_TURN; i++) {
		/* MSG_TRUNC tells the true length: an oversized packet is refused. No control
		 * buffer: descriptors sent here are closed by the kernel. */
		ssize_t got = recv(link->fd, message, sizeof(message), MSG_DONTWAIT | MSG_TRUNC);

		/* Reset: closed with an answer of ours unread; what it sent before is here. */
		if (got < 0 && (errno == EINTR || errno == ECONNRESET))
			continue;
		if (got < 0 && errno == EAGAIN)
			return;
		if (got < (ssize_t)sizeof(struct wire_head) || got > (ssize_t)sizeof(message) ||
			link->cut) {
			link_closed(link);
			return;
		}
		if (!message_take(link, message, (size_t)got))
			return;
	}
	loop_watch_again(link->server->loop, watch, LOOP_READABLE);
}

static void link_peer_read(struct local_link *link)
{
	struct ucred credentials;
	socklen_t length = sizeof(credentials);

	if (getsockopt(link->fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0)
		link->peer = (struct local_peer){credentials.pid, credentials.uid, credentials.gid};
	else
		link->peer.uid = (uid_t)-1;
	length = sizeof(link->pidfd);
	if (getsockopt(link->fd, SOL_SOCKET, SO_PEERPIDFD, &link->pidfd, &length) == 0)
		return;
	link->pidfd = -1;
	/* A kernel that has no such thing is one matter, a want of descriptors another. */
	if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
		link->refusal = -errno;
}

struct local_link *link_make(struct local_server *server, int fd, const char *realm)
{
	struct local_link *link = memory_zalloc(sizeof(*link));

	if (!link)
		return NULL;
	link->server = server;
	link->fd = fd;
	link->pidfd = link->kick_fd = link->page_fd = -1;
	for (unsigned i = 0; i < PAGE_QUEUES; i++)
		link->page.queue_fds[i] = -1;
	link->id = ++server->next_id;
	link->socket.ready = socket_ready;
	link->process.ready = process_ready;
	link->orphan.due = orphan_due;
	snprintf(link->bound_realm, sizeof(link->bound_realm), "%s", realm);
	list_append(&server->links, &link->of_server);
	server->link_count++;
	return link;
}

int link_watch(struct local_link *link)
{
	struct loop *loop = link->server->loop;
	int status = 0;

	if (link->fd >= 0)
		status = loop_watch_add(loop, &link->socket, link->fd, LOOP_READABLE);
	if (status == 0 && link->pidfd >= 0)
		status = loop_watch_add(loop, &link->process, link->pidfd, LOOP_READABLE);
	return status;
}

/* Takes a connected socket; closes it on error. */
static int link_create(struct local_server *server, int fd, const char *realm)
{
	struct local_link *link;
	int status = -EUSERS;

	if (server->link_count >= server->links_max)
		goto close_fd;
	link = link_make(server, fd, realm);
	status = -ENOMEM;
	if (!link)
		goto close_fd;
	link_peer_read(link);
	status = link_watch(link);
	if (status < 0)
		link_free(link);
	return status;

close_fd:
	close(fd);
	return status;
}

static void listener_ready(struct loop_watch *watch, uint32_t events)
{
	struct listener *listener = list_item(watch, struct listener, watch);

	(void)events;
	for (;;) {
		int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), status;

		if (fd < 0 && errno == EINTR)
			continue;
		if (fd < 0 && errno == EAGAIN)
			return;
		if (fd < 0) {
			/* Out of descriptors: those who wait stay in the backlog. Nothing new tells
			 * when there is room again. */
			if (!listener->starved)
				log_warn("local", "cannot accept a session: %m");
			listener->starved = true;
			loop_timer_set(listener->server->loop, &listener->retry,
				clock_ns() + ACCEPT_RETRY_NS);
			return;
		}
		listener->starved = false;
		status = link_create(listener->server, fd, listener->realm);
		if (status < 0)
			log_warn("local", "a session is refused: %s", strerror(-status));
	}
}

static void listener_retry(struct loop_timer *timer)
{
	struct listener *listener = list_item(timer, struct listener, retry);

	listener_ready(&listener->watch, LOOP_READABLE);
}

/* --------------------------------------------------------------------------------- server */

int local_server_create(const struct local_server_options *options, struct local_server **out)
{
	struct local_server *server = memory_zalloc(sizeof(*server));

	if (!server)
		return -ENOMEM;
	server->loop = options->loop;
	server->owner = options->owner;
	server->links_max = options->links_max;
	server->daemon_version = options->daemon_version;
	server->orphan_ns = options->orphan_ns;
	list_init(&server->links);
	*out = server;
	return 0;
}

void local_server_destroy(struct local_server *server)
{
	if (!server)
		return;
	while (!list_empty(&server->links))
		link_free(list_item(server->links.next, struct local_link, of_server));
	for (unsigned i = 0; i < server->listener_count; i++) {
		loop_watch_remove(server->loop, &server->listeners[i].watch);
		loop_timer_cancel(server->loop, &server->listeners[i].retry);
		close(server->listeners[i].fd);
		if (!server->borrowed)
			unlink(server->listeners[i].path);
	}
	memory_free(server);
}

/* Has the process at the other end ended? A socket may outlive its process for a few milliseconds:
 * a ring of io_uring that watched it is taken down afterwards. Unknown counts as no. */
static bool listener_ended(int fd)
{
	struct pollfd process = {.events = POLLIN};
	socklen_t length = sizeof(process.fd);
	bool ended;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &process.fd, &length) < 0)
		return errno == ESRCH || errno == EINVAL;
	ended = poll(&process, 1, 0) > 0;
	close(process.fd);
	return ended;
}

/* Does somebody answer at this address? */
static bool address_answers(const struct sockaddr_un *address)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool answers;

	if (fd < 0)
		return false;
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0)
		answers = !listener_ended(fd);
	else
		answers = errno == EAGAIN;
	close(fd);
	return answers;
}

int listener_add(struct local_server *server, int fd, const char *path, const char *realm)
{
	struct listener *listener = &server->listeners[server->listener_count];
	int status;

	if (server->listener_count == LISTENERS_MAX)
		return -EMFILE;
	memset(listener, 0, sizeof(*listener));
	listener->watch.ready = listener_ready;
	listener->retry.due = listener_retry;
	status = loop_watch_add(server->loop, &listener->watch, fd, LOOP_READABLE);
	if (status < 0)
		return status;
	listener->server = server;
	listener->fd = fd;
	snprintf(listener->path, sizeof(listener->path), "%s", path);
	snprintf(listener->realm, sizeof(listener->realm), "%s", realm);
	server->listener_count++;
	return 0;
}

int local_server_listen(
	struct local_server *server, const char *path, mode_t mode, const char *realm)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct stat there;
	mode_t mask;
	int fd, status;

	if (server->listener_count == LISTENERS_MAX)
		return -EMFILE;
	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path, strlen(path) + 1);
	if (lstat(path, &there) == 0 && !S_ISSOCK(there.st_mode))
		return -EEXIST; /* somebody's file, not what a daemon left behind */
	if (address_answers(&address))
		return -EADDRINUSE;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	unlink(path); /* nobody answers: what is left of a daemon that died */
	mask = umask(0777 & ~mode);
	status = bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
	umask(mask);
	if (status == 0 && listen(fd, BACKLOG) < 0)
		status = -errno;
	if (status == 0)
		status = listener_add(server, fd, path, realm);
	if (status < 0)
		close(fd);
	return status;
}

int local_server_adopt(struct local_server *server, int fd)
{
	return link_create(server, fd, "");
}

const struct local_peer *local_link_peer(const struct local_link *link)
{
	return &link->peer;
}

const char *local_link_bound_realm(const struct local_link *link)
{
	return link->bound_realm;
}

void *local_link_session(const struct local_link *link)
{
	return link->session;
}

struct page_end *local_link_page(struct local_link *link)
{
	return &link->page;
}

uint64_t local_link_id(const struct local_link *link)
{
	return link->id;
}

struct local_link *local_link_find(struct local_server *server, uint64_t id)
{
	list_each (node, &server->links) {
		struct local_link *link = list_item(node, struct local_link, of_server);

		if (link->id == id)
			return link;
	}
	return NULL;
}
