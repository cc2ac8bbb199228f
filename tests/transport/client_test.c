/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client's end of a session against the daemon's end of the same page, and against sockets that
 * answer late, wrongly or in pieces.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/memory.h"
#include "base/status.h"
#include "tests/base/unit.h"
#include "transport/local/client.h"
#include "transport/local/server_page.h"

static struct local_client client;
static struct page_end daemon_end;
static int socket_far, wake_fd;

/* A page in a memory file, mapped once by each end, and a pair of sockets. */
static void ends_open(void)
{
	struct local_welcome welcome = {.index_fd = -1};
	int fd = memfd_create("page", MFD_CLOEXEC), pair[2];
	void *memory;

	REQUIRE(fd >= 0 && ftruncate(fd, page_bytes()) == 0);
	memory = mmap(NULL, page_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	REQUIRE(memory != MAP_FAILED);
	page_end_init(&daemon_end, memory);
	REQUIRE_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	socket_far = pair[1];
	wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	welcome.page_fd = fd;
	welcome.wake_fd = dup(wake_fd);
	REQUIRE_EQ(local_client_open(&client, pair[0], &welcome), 0);
	REQUIRE(welcome.page_fd == -1 && welcome.wake_fd == -1);
}

static void ends_close(void)
{
	for (unsigned i = 0; i < PAGE_QUEUES; i++)
		if (daemon_end.queue_fds[i] >= 0)
			close(daemon_end.queue_fds[i]);
	munmap(daemon_end.base, page_bytes());
	local_client_close(&client);
	close(socket_far);
	close(wake_fd);
}

static bool kicked(void)
{
	uint64_t count;

	return read(wake_fd, &count, sizeof(count)) == sizeof(count);
}

/* --------------------------------------------------------------------------------------- rings */

static void submissions_come_in_order(void)
{
	struct submission out;

	for (uint32_t i = 0; i < 5 * PAGE_SUBMISSIONS; i++) {
		struct submission in = {.op = SUBMIT_TOUCH, .tag = i, .generation = i * 7};

		REQUIRE_EQ(local_client_push(&client, &in, LOCAL_PUSH_QUIET), i);
		if (i % 3)
			continue;
		while (page_end_take(&daemon_end, &out) > 0)
			REQUIRE_EQ(out.generation, out.tag * 7);
		REQUIRE_EQ(out.tag, i);
	}
	while (page_end_take(&daemon_end, &out) > 0)
		;
}

static void full_ring_refuses_and_counts_quiet_ones(void)
{
	struct submission in = {.op = SUBMIT_TOUCH}, out;
	uint64_t dropped = client.touches_dropped;

	for (uint32_t i = 0; i < PAGE_SUBMISSIONS; i++)
		REQUIRE(local_client_push(&client, &in, LOCAL_PUSH_QUIET) >= 0);
	REQUIRE_EQ(local_client_push(&client, &in, LOCAL_PUSH_QUIET), -EAGAIN);
	REQUIRE_EQ(local_client_push(&client, &in, LOCAL_PUSH_WAKE), -EAGAIN);
	REQUIRE_EQ(client.touches_dropped, dropped + 1);
	REQUIRE_EQ(page_end_take(&daemon_end, &out), 1);
	REQUIRE(local_client_push(&client, &in, LOCAL_PUSH_QUIET) >= 0);
	while (page_end_take(&daemon_end, &out) > 0)
		;
}

static void sleeping_daemon_is_woken_when_it_matters(void)
{
	struct submission in = {.op = SUBMIT_TOUCH}, out;
	unsigned pushed = 0;

	REQUIRE(!page_end_asleep(&daemon_end));
	while (!kicked()) {
		REQUIRE(local_client_push(&client, &in, LOCAL_PUSH_QUIET) >= 0);
		pushed++;
	}
	REQUIRE(pushed > PAGE_SUBMISSIONS / 2 && pushed <= PAGE_SUBMISSIONS / 2 + 2);
	while (page_end_take(&daemon_end, &out) > 0)
		;
	REQUIRE(local_client_push(&client, &in, LOCAL_PUSH_QUIET) >= 0);
	REQUIRE(!kicked());
	REQUIRE(local_client_push(&client, &in, LOCAL_PUSH_WAKE) >= 0);
	REQUIRE(kicked());
	/* It must not sleep over what is there. */
	REQUIRE(page_end_asleep(&daemon_end));
	page_end_awake(&daemon_end);
	REQUIRE(local_client_push(&client, &in, LOCAL_PUSH_WAKE) >= 0);
	REQUIRE(!kicked());
	while (page_end_take(&daemon_end, &out) > 0)
		;
}

static void submission_is_done_with_when_a_later_one_is_taken(void)
{
	struct submission in = {.op = SUBMIT_ABORT}, out;
	int64_t first = local_client_push(&client, &in, LOCAL_PUSH_QUIET);

	REQUIRE(!local_client_handled(&client, first));
	REQUIRE_EQ(page_end_take(&daemon_end, &out), 1);
	REQUIRE(!local_client_handled(&client, first));
	REQUIRE(local_client_push(&client, &in, LOCAL_PUSH_QUIET) >= 0);
	REQUIRE_EQ(page_end_take(&daemon_end, &out), 1);
	REQUIRE(local_client_handled(&client, first));
}

static void completions_come_by_queue(void)
{
	struct completion in = {0}, out;
	uint64_t count;

	daemon_end.queue_fds[3] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	for (uint32_t i = 0; i < 3 * PAGE_COMPLETIONS; i++) {
		in.tag = i;
		REQUIRE_EQ(page_end_complete(&daemon_end, i % 2 ? 3 : 0, &in), 0);
		REQUIRE_EQ(local_client_take(&client, i % 2 ? 0 : 3, &out), 0);
		REQUIRE_EQ(local_client_take(&client, i % 2 ? 3 : 0, &out), 1);
		REQUIRE_EQ(out.tag, i);
	}
	REQUIRE_EQ(read(daemon_end.queue_fds[3], &count, sizeof(count)), sizeof(count));
	REQUIRE_EQ(count, 3 * PAGE_COMPLETIONS / 2);
	for (uint32_t i = 0; i < PAGE_COMPLETIONS; i++)
		REQUIRE_EQ(page_end_complete(&daemon_end, 3, &in), 0);
	REQUIRE_EQ(page_end_complete(&daemon_end, 3, &in), -EPROTO);
	for (uint32_t i = 0; i < PAGE_COMPLETIONS; i++)
		REQUIRE_EQ(local_client_take(&client, 3, &out), 1);
	/* A cursor that makes no sense. */
	atomic_fetch_add(&client.page->completion_tail[5].value, PAGE_COMPLETIONS + 1);
	REQUIRE_EQ(local_client_take(&client, 5, &out), -EPROTO);
}

/* ------------------------------------------------------------------------------------ sleeping */

static _Atomic uint32_t down;

static void *complete_later(void *arg)
{
	struct completion in = {.tag = 77};

	usleep(*(unsigned *)arg);
	REQUIRE_EQ(page_end_complete(&daemon_end, 0, &in), 0);
	return NULL;
}

static void *down_later(void *arg)
{
	usleep(*(unsigned *)arg);
	atomic_store(&down, 1);
	local_client_wake(&client);
	return NULL;
}

static void sleeper_is_woken(void)
{
	for (unsigned round = 0; round < 60; round++) {
		unsigned delay_us = round * 10;
		uint64_t deadline = clock_ns() + 10 * NS_PER_S;
		struct completion out;
		pthread_t thread;

		atomic_store(&down, 0);
		REQUIRE_EQ(pthread_create(&thread, NULL, round % 2 ? complete_later : down_later,
				   &delay_us),
			0);
		while (!local_client_take(&client, 0, &out) && !atomic_load(&down))
			REQUIRE_EQ(local_client_sleep(&client, &down, deadline), 0);
		REQUIRE_EQ(pthread_join(thread, NULL), 0);
		REQUIRE_EQ(client.page->waiters, 0);
	}
	atomic_store(&down, 0);
}

static void sleeper_ends_at_its_deadline(void)
{
	uint64_t began = clock_ns();

	while (local_client_sleep(&client, &down, began + 20 * NS_PER_MS) == 0)
		;
	REQUIRE(clock_ns() - began >= 20 * NS_PER_MS);
	REQUIRE(clock_ns() - began < 5 * NS_PER_S);
	REQUIRE_EQ(local_client_sleep(&client, &down, 0), -ETIMEDOUT);
}

/* ------------------------------------------------------------------------------------- asking */

static void answer(uint16_t op, uint64_t number, int32_t status, int fd)
{
	struct wire_number message = {.head = local_head(op, sizeof(message)), .number = number};
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec body = {.iov_base = &message, .iov_len = sizeof(message)};
	struct msghdr header = {.msg_iov = &body, .msg_iovlen = 1};

	message.head.status = status;
	if (fd >= 0) {
		header.msg_control = control.bytes;
		header.msg_controllen = sizeof(control.bytes);
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.align), &fd, sizeof(fd));
	}
	REQUIRE_EQ(sendmsg(socket_far, &header, 0), sizeof(message));
}

static int ask(uint64_t deadline_ns, uint64_t *number, int *fd)
{
	struct wire_number request = {.head = local_head(WIRE_QUEUE, sizeof(request))}, got = {0};
	int status = local_client_ask(&client, &(struct local_ask){.request = &request.head,
						       .answer = &got.head,
						       .answer_bytes = sizeof(got),
						       .fd = fd,
						       .wait = &local_wait_plain,
						       .deadline_ns = deadline_ns});

	*number = got.number;
	return status;
}

static unsigned descriptors(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static void late_answer_is_not_taken_for_the_next(void)
{
	unsigned before = descriptors();
	uint64_t number;

	REQUIRE_EQ(ask(clock_ns() + NS_PER_MS, &number, NULL), -ETIMEDOUT);
	REQUIRE_EQ(ask(clock_ns() + NS_PER_MS, &number, NULL), -ETIMEDOUT);
	answer(WIRE_QUEUE, 1, 0, wake_fd); /* with something nobody wants */
	answer(WIRE_QUEUE, 2, 0, -1);
	answer(WIRE_QUEUE, 3, 0, -1);
	REQUIRE_EQ(ask(clock_ns() + NS_PER_S, &number, NULL), 0);
	REQUIRE_EQ(number, 3);
	REQUIRE_EQ(descriptors(), before);
}

static void refusal_and_descriptor_are_handed_on(void)
{
	uint64_t number;
	int fd = -1;

	answer(WIRE_QUEUE, 0, -ENOSPC, -1);
	REQUIRE_EQ(ask(clock_ns() + NS_PER_S, &number, &fd), -ENOSPC);
	REQUIRE_EQ(fd, -1);
	answer(WIRE_QUEUE, 9, 0, wake_fd);
	REQUIRE_EQ(ask(clock_ns() + NS_PER_S, &number, &fd), 0);
	REQUIRE(number == 9 && fd >= 0);
	REQUIRE(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
}

static bool far_end_sees_the_end(void)
{
	struct pollfd one = {.fd = socket_far, .events = POLLRDHUP};

	return poll(&one, 1, 1000) == 1;
}

/* A wrong answer ends the connection: nothing after it can be trusted. */
static void nonsense_ends_the_connection(void)
{
	unsigned before;
	uint64_t number;
	int fd = -1;

	for (unsigned i = 0; i < 5; i++) {
		ends_open();
		before = descriptors();
		if (i == 0)
			answer(WIRE_STATS, 0, 0, -1); /* of another kind */
		else if (i == 1)
			answer(WIRE_QUEUE, 0, 0, -1); /* without its descriptor */
		else if (i == 2)
			answer(WIRE_QUEUE, 0, -ENOSPC, wake_fd); /* a refusal with one */
		else if (i == 3)
			answer(WIRE_QUEUE, 0, 1, wake_fd); /* a status that is none */
		else
			REQUIRE_EQ(send(socket_far, "short", 5, 0), 5);
		REQUIRE_EQ(ask(clock_ns() + NS_PER_S, &number, &fd), -EPROTO);
		REQUIRE_EQ(descriptors(), before);
		REQUIRE(far_end_sees_the_end());
		REQUIRE_EQ(ask(clock_ns() + NS_PER_S, &number, &fd), SKEP_STATUS_EDOWN);
		ends_close();
	}
}

/* ----------------------------------------------------------------------------------- operator */

static void piece(const char *text, uint32_t last, int32_t status)
{
	union {
		struct wire_piece piece;
		char bytes[256];
	} message = {.piece = {.last = last, .text_bytes = (uint32_t)strlen(text)}};
	size_t bytes = sizeof(message.piece) + strlen(text);

	message.piece.head = local_head(WIRE_COMMAND, (uint32_t)bytes);
	message.piece.head.status = status;
	memcpy(message.bytes + sizeof(message.piece), text, strlen(text));
	REQUIRE_EQ(send(socket_far, &message, bytes, 0), bytes);
}

static void command_gathers_its_pieces(void)
{
	struct local_command command = {.fd = client.socket_fd,
		.json = "{\"command\":\"status\"}",
		.wait = &local_wait_plain,
		.deadline_ns = clock_ns() + NS_PER_S};
	char request[256], *text = NULL;
	size_t bytes = 0;

	piece("{\"a\":", 0, 0);
	piece("", 0, 0);
	piece("1}", 1, 0);
	REQUIRE_EQ(local_command(&command, &text, &bytes), 0);
	REQUIRE_TEXT(text, "{\"a\":1}");
	REQUIRE_EQ(bytes, 7);
	memory_free(text);
	REQUIRE_EQ(recv(socket_far, request, sizeof(request), 0),
		sizeof(struct wire_head) + strlen(command.json));
	piece("", 1, -EACCES);
	REQUIRE_EQ(local_command(&command, &text, &bytes), -EACCES);
	command.deadline_ns = clock_ns() + NS_PER_MS;
	REQUIRE_EQ(local_command(&command, &text, &bytes), -ETIMEDOUT);
}

/* ------------------------------------------------------------------------------------ connect */

static void connecting_does_not_wait_for_ever(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char long_path[200];
	int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), fds[8];
	unsigned count = 0;
	uint64_t began;

	memset(long_path, 'x', sizeof(long_path));
	long_path[sizeof(long_path) - 1] = 0;
	REQUIRE_EQ(local_connect(long_path, CLOCK_NEVER), -ENAMETOOLONG);
	REQUIRE_EQ(local_connect("", CLOCK_NEVER), -ENAMETOOLONG);
	snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/skep-full-%d.sock", getpid());
	REQUIRE_EQ(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	REQUIRE_EQ(listen(listener, 1), 0);
	/* Nobody accepts: the queue of connections fills. */
	for (;;) {
		int fd;

		began = clock_ns();
		fd = local_connect(address.sun_path, clock_ns() + 20 * NS_PER_MS);
		if (fd < 0) {
			REQUIRE_EQ(fd, -ETIMEDOUT);
			break;
		}
		REQUIRE(count < ARRAY_COUNT(fds));
		fds[count++] = fd;
	}
	REQUIRE(clock_ns() - began >= 20 * NS_PER_MS);
	while (count)
		close(fds[--count]);
	close(listener);
	REQUIRE_EQ(local_connect(address.sun_path, CLOCK_NEVER), -ECONNREFUSED);
	unlink(address.sun_path);
	REQUIRE_EQ(local_connect(address.sun_path, CLOCK_NEVER), -ENOENT);
}

int main(int argc, char **argv)
{
	unit_seed(argc, argv);
	ends_open();
	submissions_come_in_order();
	full_ring_refuses_and_counts_quiet_ones();
	sleeping_daemon_is_woken_when_it_matters();
	submission_is_done_with_when_a_later_one_is_taken();
	completions_come_by_queue();
	sleeper_is_woken();
	sleeper_ends_at_its_deadline();
	late_answer_is_not_taken_for_the_next();
	refusal_and_descriptor_are_handed_on();
	ends_close();
	nonsense_ends_the_connection();
	ends_open();
	command_gathers_its_pieces();
	ends_close();
	connecting_does_not_wait_for_ever();
	return 0;
}
