/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_TRANSPORT_RAW_H
#define SKEP_TESTS_TRANSPORT_RAW_H

/*
 * A client that is nothing but a socket: it sends whatever bytes it is told to, so that a test can
 * be as rude as it likes to a server.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/base/unit.h"
#include "transport/local/page.h"
#include "transport/local/wire.h"

enum { RAW_WAIT_MS = 10000 };

/* What came in one packet. */
struct raw_packet {
	_Alignas(16) char bytes[WIRE_MESSAGE_MAX];
	ssize_t length; /* 0: the other side hung up */
	int fds[WIRE_FDS_MAX];
	unsigned fd_count;
};

static inline int raw_connect(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	REQUIRE(fd >= 0 && strlen(path) < sizeof(address.sun_path));
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		return -errno;
	}
	return fd;
}

/* Return: false: the other side has hung up already. */
static inline bool raw_send(int fd, const void *message, size_t bytes)
{
	return send(fd, message, bytes, MSG_NOSIGNAL) == (ssize_t)bytes;
}

/* One packet must come in time, or the end of the connection (length 0). */
static inline void raw_receive(int fd, struct raw_packet *packet)
{
	union {
		char room[CMSG_SPACE(WIRE_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec piece = {.iov_base = packet->bytes, .iov_len = sizeof(packet->bytes)};
	struct msghdr header = {.msg_iov = &piece,
		.msg_iovlen = 1,
		.msg_control = control.room,
		.msg_controllen = sizeof(control.room)};
	struct pollfd ready = {.fd = fd, .events = POLLIN};
	struct cmsghdr *cmsg;

	packet->fd_count = 0;
	REQUIRE_EQ(poll(&ready, 1, RAW_WAIT_MS), 1);
	packet->length = recvmsg(fd, &header, MSG_CMSG_CLOEXEC);
	if (packet->length < 0 && errno == ECONNRESET)
		packet->length = 0;
	REQUIRE(packet->length >= 0 && !(header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)));
	cmsg = packet->length ? CMSG_FIRSTHDR(&header) : NULL;
	if (cmsg) {
		packet->fd_count = (unsigned)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(packet->fds, CMSG_DATA(cmsg), packet->fd_count * sizeof(int));
	}
}

static inline void raw_fds_close(struct raw_packet *packet)
{
	while (packet->fd_count)
		close(packet->fds[--packet->fd_count]);
}

/* The connection must end; answers that are still on their way are passed over. */
static inline void raw_hung_up(int fd)
{
	static struct raw_packet packet;

	do {
		raw_receive(fd, &packet);
		raw_fds_close(&packet);
	} while (packet.length);
}

static inline struct wire_head raw_head(uint16_t op, size_t bytes)
{
	return (struct wire_head){
		.magic = WIRE_MAGIC, .version = WIRE_VERSION, .op = op, .bytes = (uint32_t)bytes};
}

/* A hello as a well-behaved client sends it; index_version is the caller's. */
static inline struct wire_hello raw_hello(const char *realm, const char *token, uint32_t flags)
{
	struct wire_hello hello = {.page_version = PAGE_VERSION, .flags = flags};

	hello.head = raw_head(WIRE_HELLO, sizeof(hello));
	snprintf(hello.realm, sizeof(hello.realm), "%s", realm);
	snprintf(hello.token, sizeof(hello.token), "%s", token);
	snprintf(hello.name, sizeof(hello.name), "raw");
	return hello;
}

/* Sends a request and receives its answer into @packet. Return: the answer's status. */
static inline int raw_ask(int fd, const void *request, size_t bytes, struct raw_packet *packet)
{
	struct wire_head head;

	REQUIRE(raw_send(fd, request, bytes));
	raw_receive(fd, packet);
	REQUIRE(packet->length >= (ssize_t)sizeof(head));
	memcpy(&head, packet->bytes, sizeof(head));
	REQUIRE(head.magic == WIRE_MAGIC && head.bytes == (uint32_t)packet->length);
	return head.status;
}

#endif
