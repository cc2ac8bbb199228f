/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The successor's half of a takeover (node_hand.c is the other). Everything is built before it
 * says READY; until GO comes it has sent nothing to any client and may end without a trace.
 * Afterwards it is the daemon: each session gets the new index, and until it reads that no frame
 * which was ever published is freed, because the old index cannot be written from here. Sessions
 * that take too long have the predecessor empty the old one for them.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/memory.h"
#include "store/hand_priv.h"
#include "transport/local/server_hand.h"

/* How long the predecessor may take for each answer. */
#define ANSWER_NS (20 * NS_PER_S)
/* How long sessions have to read the new index before the old one is emptied. */
#define MOVE_NS	     (500 * NS_PER_MS)
#define MOVE_LOOK_US 500

static int predecessor_connect(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		int status = -errno;

		close(fd);
		return status;
	}
	return fd;
}

static void parcel_close(struct hand_parcel *parcel)
{
	for (uint32_t i = 0; i < parcel->fd_count; i++)
		if (parcel->fds[i] >= 0)
			close(parcel->fds[i]);
	hand_parcel_drop(parcel);
}

/* Receives the state and its descriptors. Return: 0; negative with @why. */
static int parcel_receive(
	const struct hand_line *line, struct hand_parcel *parcel, char *why, size_t why_bytes)
{
	struct hand_message message;
	int fds[WIRE_FDS_MAX], status;
	uint32_t want;
	unsigned count;

	*parcel = (struct hand_parcel){.state_fd = -1};
	status = hand_receive(line, &message, fds, &count);
	if (status == 0 && message.kind == HAND_REFUSE)
		snprintf(why, why_bytes, "%s", message.why);
	if (status == 0 && (message.kind != HAND_STATE || count != 1))
		status = message.head.status < 0 ? message.head.status : -EPROTO;
	if (status < 0) {
		while (count)
			close(fds[--count]);
		return status;
	}
	parcel->state_fd = fds[0];
	want = message.fd_count;
	parcel->fds = memory_calloc(want + 1, sizeof(int));
	if (!parcel->fds)
		status = -ENOMEM;
	while (status == 0 && parcel->fd_count < want) {
		status = hand_receive(line, &message, fds, &count);
		if (status == 0 &&
			(message.kind != HAND_FDS || !count || count > want - parcel->fd_count)) {
			status = -EPROTO;
			while (count)
				close(fds[--count]);
		}
		for (unsigned i = 0; status == 0 && i < count; i++)
			parcel->fds[parcel->fd_count++] = fds[i];
	}
	if (status < 0)
		parcel_close(parcel);
	return status;
}

int node_take_ask(struct node *node, const struct node_config *config, struct hand_head *head,
	char *why, size_t why_bytes)
{
	struct hand_message ask = hand_message(HAND_ASK);
	struct hand_line line = {.deadline_ns = clock_ns() + ANSWER_NS};
	int status;

	node->taking.began_ns = clock_ns();
	node->taking.parcel = memory_zalloc(sizeof(*node->taking.parcel));
	if (!node->taking.parcel)
		return -ENOMEM;
	*node->taking.parcel = (struct hand_parcel){.state_fd = -1};
	line.fd = node->taking.fd = predecessor_connect(config->socket_path);
	if (line.fd < 0) {
		snprintf(why, why_bytes,
			"no daemon whose place could be taken answers on %s (%s): start without "
			"takeover",
			config->socket_path, status_text(line.fd));
		return line.fd;
	}
	ask.version = HAND_VERSION;
	ask.page_version = PAGE_VERSION;
	ask.index_version = INDEX_LAYOUT_VERSION;
	snprintf(
		why, why_bytes, "the running daemon on %s does not hand over", config->socket_path);
	status = hand_send(&line, &ask, NULL, 0);
	if (status == 0)
		status = parcel_receive(&line, node->taking.parcel, why, why_bytes);
	if (status < 0)
		return status;
	status = hand_head_read(node->taking.parcel, head);
	if (status < 0)
		snprintf(why, why_bytes,
			"the running daemon hands over in another form: stop it cleanly, then "
			"start");
	return status;
}

/* Says READY and waits for GO, which is the moment. */
static int place_take(struct node *node, char *why, size_t why_bytes)
{
	struct hand_line line = {.fd = node->taking.fd, .deadline_ns = clock_ns() + ANSWER_NS};
	struct hand_message message = hand_message(HAND_READY);
	int fds[WIRE_FDS_MAX], status;
	unsigned count = 0;

	snprintf(why, why_bytes, "the running daemon took its word back");
	status = hand_send(&line, &message, NULL, 0);
	if (status == 0)
		status = hand_receive(&line, &message, fds, &count);
	while (count)
		close(fds[--count]);
	if (status == 0 && message.kind != HAND_GO)
		status = -EPROTO;
	return status;
}

/* Devices can be opened when the predecessor has closed them, or has ended. */
static void closed_await(const struct node *node)
{
	struct hand_line line = {.fd = node->taking.fd, .deadline_ns = clock_ns() + ANSWER_NS};
	struct hand_message message;
	int fds[WIRE_FDS_MAX];
	unsigned count = 0;

	hand_receive(&line, &message, fds, &count);
	while (count)
		close(fds[--count]);
}

int node_take_build(
	struct node *node, const struct node_config *config, char *why, size_t why_bytes)
{
	struct hand_arrival arrival = {.node = node,
		.config = config,
		.parcel = node->taking.parcel,
		.why = why,
		.why_bytes = why_bytes};
	int status;

	local_server_borrow(node->server, true);
	snprintf(why, why_bytes, "out of memory");
	status = hand_unpack(&arrival);
	if (status < 0) {
		struct hand_message refusal = hand_refusal(status, why);
		struct hand_line line = {.fd = node->taking.fd};

		hand_send(&line, &refusal, NULL, 0);
		return status;
	}
	status = place_take(node, why, why_bytes);
	if (status < 0)
		return status;
	local_server_borrow(node->server, false);
	node->taking.taken = true;
	parcel_close(node->taking.parcel);
	closed_await(node);
	status = node_ssd_rejoin(node, config, why, why_bytes);
	if (status < 0)
		return status;
	return 0;
}

/* ------------------------------------------------------------------------------- afterwards */

struct moved {
	struct keeper *keeper;
	bool all;
	unsigned left;
};

static void moved_run(void *argument)
{
	struct moved *moved = argument;

	moved->left = keeper_moved(moved->keeper, moved->all);
}

/* The predecessor empties the old indexes. Return: 0: nothing is found in them any more. */
static int indexes_hide(const struct node *node)
{
	struct hand_line line = {.fd = node->taking.fd,
		.deadline_ns = clock_ns() + ANSWER_NS,
		.stop = &node->stopping};
	struct hand_message message = hand_message(HAND_HIDE);
	int fds[WIRE_FDS_MAX], status;
	unsigned count = 0;

	status = hand_send(&line, &message, NULL, 0);
	if (status == 0)
		status = hand_receive(&line, &message, fds, &count);
	while (count)
		close(fds[--count]);
	return status == 0 && message.kind != HAND_HIDDEN ? -EPROTO : status;
}

/* Until every session reads the new index, or finds nothing in the old one. */
static void *take_main(void *arg)
{
	struct node *node = arg;
	struct moved moved = {.keeper = node->keeper, .left = 1};
	struct hand_line line = {.fd = node->taking.fd};
	struct hand_message done = hand_message(HAND_DONE);
	uint64_t until = clock_ns() + MOVE_NS;

	while (!atomic_load(&node->stopping) && clock_ns() < until) {
		if (mailbox_call(node->mailbox, moved_run, &moved) == 0 && !moved.left)
			break;
		usleep(MOVE_LOOK_US);
	}
	if (!moved.left) {
		hand_send(&line, &done, NULL, 0);
	} else if (!atomic_load(&node->stopping) && indexes_hide(node) == 0) {
		log_info("takeover", "%u sessions do not read the new index yet", moved.left);
		moved.all = true;
		while (mailbox_call(node->mailbox, moved_run, &moved) < 0)
			usleep(MOVE_LOOK_US);
	} else if (!atomic_load(&node->stopping)) {
		/* The keeper goes on looking. */
		log_warn("takeover",
			"the daemon before ended too early: no block is evicted until %u sessions "
			"read the new index or have ended",
			moved.left);
	}
	close(node->taking.fd);
	node->taking.fd = -1;
	return NULL;
}

void node_take_tell(struct node *node)
{
	struct keeper *keeper = node->keeper;

	list_each (at, &keeper->sessions) {
		struct session *session = list_item(at, struct session, of_keeper);
		struct local_index index = {.incarnation = keeper->incarnation,
			.index_bytes = session->realm->index.file_bytes,
			.number = keeper->takeovers,
			.fd = session->realm->index.fd};

		if (!session->stopped)
			local_index_send(session->link, &index);
	}
	log_info("takeover", "%u sessions are served from here on, %llu ms after the request",
		keeper->session_count,
		(unsigned long long)((clock_ns() - node->taking.began_ns) / NS_PER_MS));
}

int node_take_start(struct node *node)
{
	int status = thread_start(&node->taking.thread, take_main, node, "skep-takeover");
	node->taking.runs = status == 0;
	return status;
}

void node_take_end(struct node *node)
{
	if (node->taking.runs)
		pthread_join(node->taking.thread, NULL);
	node->taking.runs = false;
	/* What was built of it reaches no client. */
	if (node->taking.parcel && !node->taking.taken && node->keeper)
		node_sessions_forget(node);
	if (node->taking.parcel)
		parcel_close(node->taking.parcel);
	memory_free(node->taking.parcel);
	node->taking.parcel = NULL;
	if (node->taking.fd >= 0)
		close(node->taking.fd);
	node->taking.fd = -1;
}
