/* SPDX-License-Identifier: Apache-2.0 */
#include "transport/local/server_hand.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/status.h"

/* How often a wait looks whether it is called off. */
#define LOOK_NS (20 * NS_PER_MS)

struct hand_message hand_message(enum hand_kind kind)
{
	return (struct hand_message){.head = {.magic = WIRE_MAGIC,
					     .version = WIRE_VERSION,
					     .op = WIRE_TAKEOVER,
					     .bytes = sizeof(struct hand_message)},
		.kind = kind};
}

struct hand_message hand_refusal(int status, const char *why)
{
	struct hand_message message = hand_message(HAND_REFUSE);

	message.head.status = status;
	snprintf(message.why, sizeof(message.why), "%s", why);
	return message;
}

static int line_wait(const struct hand_line *line, short events)
{
	struct pollfd waited = {.fd = line->fd, .events = events};
	uint64_t now = clock_ns();

	if (line->stop && atomic_load(line->stop))
		return -ECANCELED;
	if (now >= line->deadline_ns)
		return -ETIMEDOUT;
	poll(&waited, 1, (int)divide_up(MIN_OF(line->deadline_ns - now, LOOK_NS), NS_PER_MS));
	return 0;
}

int hand_send(const struct hand_line *line, const struct hand_message *message, const int *fds,
	unsigned count)
{
	union {
		char room[CMSG_SPACE(WIRE_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct hand_message copy = *message;
	struct iovec piece = {.iov_base = &copy, .iov_len = sizeof(copy)};
	struct msghdr header = {.msg_iov = &piece, .msg_iovlen = 1};
	int status;

	SKEP_CHECK(count <= WIRE_FDS_MAX);
	if (count) {
		struct cmsghdr *cmsg;

		memset(&control, 0, sizeof(control));
		header.msg_control = control.room;
		header.msg_controllen = CMSG_SPACE(count * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&header);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, count * sizeof(int));
	}
	while (sendmsg(line->fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
		if (errno == EPIPE || errno == ECONNRESET)
			return SKEP_STATUS_EDOWN;
		/* Too many descriptors on their way: the other end has to take some first. */
		if (errno != EAGAIN && errno != EINTR && errno != ETOOMANYREFS)
			return -errno;
		status = line_wait(line, POLLOUT);
		if (status < 0)
			return status;
	}
	return 0;
}

static void fds_gather(struct msghdr *header, int *fds, unsigned *count)
{
	struct cmsghdr *cmsg;

	for (cmsg = CMSG_FIRSTHDR(header); cmsg; cmsg = CMSG_NXTHDR(header, cmsg)) {
		unsigned more = (unsigned)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));

		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		SKEP_CHECK(*count + more <= WIRE_FDS_MAX);
		memcpy(fds + *count, CMSG_DATA(cmsg), more * sizeof(int));
		*count += more;
	}
}

int hand_receive(
	const struct hand_line *line, struct hand_message *message, int *fds, unsigned *count)
{
	union {
		char room[CMSG_SPACE(WIRE_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec piece = {.iov_base = message, .iov_len = sizeof(*message)};
	struct msghdr header;
	ssize_t got;
	int status;

	*count = 0;
	for (;;) {
		header = (struct msghdr){.msg_iov = &piece,
			.msg_iovlen = 1,
			.msg_control = control.room,
			.msg_controllen = sizeof(control.room)};
		got = recvmsg(line->fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (got > 0)
			break;
		if (got == 0 || errno == ECONNRESET)
			return SKEP_STATUS_EDOWN;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		status = line_wait(line, POLLIN);
		if (status < 0)
			return status;
	}
	fds_gather(&header, fds, count);
	status = header.msg_flags & MSG_CTRUNC ? -EMFILE : 0;
	if (got < (ssize_t)sizeof(message->head) || message->head.magic != WIRE_MAGIC ||
		message->head.version != WIRE_VERSION || message->head.op != WIRE_TAKEOVER ||
		got != (ssize_t)sizeof(*message) || header.msg_flags & MSG_TRUNC)
		status = -EPROTO;
	message->why[sizeof(message->why) - 1] = 0;
	while (status < 0 && *count)
		close(fds[--*count]);
	return status;
}
