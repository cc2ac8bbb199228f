/* SPDX-License-Identifier: Apache-2.0 */
#include "transport/local/client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"

enum { CONNECT_STEP_NS = 1000000, STATUS_LOWEST = -8192, SPIN_NS = 20000 };

/* ---------------------------------------------------------------------------------- waiting */

static int wait_plain(const struct local_wait *wait, int fd, short events, uint64_t deadline_ns)
{
	struct pollfd one = {.fd = fd, .events = events};

	(void)wait;
	for (;;) {
		uint64_t now = clock_ns(), left = deadline_ns > now ? deadline_ns - now : 0;
		struct timespec span = {
			.tv_sec = (time_t)(left / NS_PER_S), .tv_nsec = (long)(left % NS_PER_S)};
		int ready = ppoll(&one, 1, deadline_ns == CLOCK_NEVER ? NULL : &span, NULL);

		if (ready > 0)
			return 0;
		if (ready < 0 && errno != EINTR)
			return -errno;
		if (ready == 0 && clock_ns() >= deadline_ns)
			return -ETIMEDOUT;
	}
}

const struct local_wait local_wait_plain = {.ready = wait_plain};

/* ---------------------------------------------------------------------------------- packets */

/* One message as it came. The descriptors are ours until somebody takes them (then -1). */
struct packet {
	union {
		struct wire_head head;
		uint8_t bytes[WIRE_MESSAGE_MAX];
	} u;
	uint32_t length;
	unsigned fd_count;
	int fds[WIRE_FDS_MAX];
};

static void packet_drop(struct packet *packet)
{
	for (unsigned i = 0; i < packet->fd_count; i++)
		if (packet->fds[i] >= 0)
			close(packet->fds[i]);
	packet->fd_count = 0;
}

static int packet_send(
	int fd, const struct wire_head *head, const struct local_wait *wait, uint64_t deadline_ns)
{
	for (;;) {
		int status;

		if (send(fd, head, head->bytes, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
			return 0;
		if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN)
			return SKEP_STATUS_EDOWN;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		status = wait->ready(wait, fd, POLLOUT, deadline_ns);
		if (status < 0)
			return status;
	}
}

/* Gathers the descriptors of a received message. */
static void packet_fds(struct packet *packet, struct msghdr *message)
{
	struct cmsghdr *control;

	for (control = CMSG_FIRSTHDR(message); control; control = CMSG_NXTHDR(message, control)) {
		unsigned count = (unsigned)((control->cmsg_len - CMSG_LEN(0)) / sizeof(int));

		if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS)
			continue;
		SKEP_CHECK(packet->fd_count + count <= WIRE_FDS_MAX);
		memcpy(packet->fds + packet->fd_count, CMSG_DATA(control), count * sizeof(int));
		packet->fd_count += count;
	}
}

/* Is what came a message of this protocol? */
static int packet_check(const struct packet *packet)
{
	const struct wire_head *head = &packet->u.head;

	if (packet->length < sizeof(*head) || head->magic != WIRE_MAGIC)
		return -EPROTO;
	if (head->version != WIRE_VERSION)
		return SKEP_STATUS_EVERSION;
	if (head->bytes != packet->length || head->status > 0 || head->status < STATUS_LOWEST)
		return -EPROTO;
	return 0;
}

/* Receives one message. On error nothing is kept. */
static int packet_receive(
	int fd, struct packet *packet, const struct local_wait *wait, uint64_t deadline_ns)
{
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(sizeof(int) * WIRE_FDS_MAX)];
	} control;
	struct iovec body = {.iov_base = packet->u.bytes, .iov_len = sizeof(packet->u.bytes)};
	struct msghdr message;
	ssize_t got;
	int status;

	packet->fd_count = 0;
	for (;;) {
		memset(&message, 0, sizeof(message));
		message.msg_iov = &body;
		message.msg_iovlen = 1;
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
		got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (got > 0)
			break;
		if (got == 0 || errno == ECONNRESET)
			return SKEP_STATUS_EDOWN;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		status = wait->ready(wait, fd, POLLIN, deadline_ns);
		if (status < 0)
			return status;
	}
	packet->length = (uint32_t)got;
	packet_fds(packet, &message);
	status = packet_check(packet);
	if (message.msg_flags & MSG_TRUNC)
		status = -EPROTO;
	/* The kernel cuts the list where this process has no descriptor left, or where it is longer
	 * than any that the protocol allows. */
	if (!status && message.msg_flags & MSG_CTRUNC)
		status = packet->fd_count == WIRE_FDS_MAX ? -EPROTO : -EMFILE;
	if (status)
		packet_drop(packet);
	return status;
}

/* ---------------------------------------------------------------------------------- opening */

int local_connect(const char *path, uint64_t deadline_ns)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t length = strlen(path);
	int fd, status;

	if (length == 0 || length >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path, length);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	while (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		struct timespec step = {.tv_nsec = CONNECT_STEP_NS};

		status = -errno;
		/* A full queue of connections gives no event to poll for. */
		if (status == -EAGAIN && clock_ns() >= deadline_ns)
			status = -ETIMEDOUT;
		if (status != -EAGAIN && status != -EINTR) {
			close(fd);
			return status;
		}
		nanosleep(&step, NULL);
	}
	return fd;
}

void local_welcome_drop(struct local_welcome *welcome)
{
	int *fds[] = {&welcome->page_fd, &welcome->index_fd, &welcome->wake_fd};

	for (unsigned i = 0; i < ARRAY_COUNT(fds); i++) {
		if (*fds[i] >= 0)
			close(*fds[i]);
		*fds[i] = -1;
	}
	if (!welcome->chunk_fds)
		return;
	for (uint32_t i = 0; i < welcome->answer.chunk_count; i++)
		if (welcome->chunk_fds[i] >= 0)
			close(welcome->chunk_fds[i]);
	memory_free(welcome->chunk_fds);
	welcome->chunk_fds = NULL;
}

/* The sizes must fit each other before anything is mapped or allocated by them. */
static bool answer_sound(const struct wire_hello_answer *answer)
{
	uint64_t chunks = answer->chunk_count, chunk = answer->chunk_bytes;

	if (chunks < 1 || chunks > LOCAL_CHUNKS_MAX || !chunk || chunk % 4096 ||
		chunk > LOCAL_CHUNK_BYTES_MAX || answer->index_bytes > LOCAL_INDEX_BYTES_MAX)
		return false;
	return answer->pool_bytes > (chunks - 1) * chunk && answer->pool_bytes <= chunks * chunk &&
	       answer->page_bytes == page_bytes() && answer->index_bytes >= 4096 &&
	       answer->incarnation;
}

/* Takes a packet's descriptors, the welcome's next ones from @have on. Return: how many it has. */
static int welcome_fill(struct local_welcome *welcome, unsigned have, struct packet *packet)
{
	if (packet->fd_count > LOCAL_WELCOME_FDS + welcome->answer.chunk_count - have)
		return -EPROTO;
	for (unsigned i = 0; i < packet->fd_count; i++, have++) {
		int *at = have == 0   ? &welcome->page_fd
			  : have == 1 ? &welcome->index_fd
			  : have == 2 ? &welcome->wake_fd
				      : &welcome->chunk_fds[have - LOCAL_WELCOME_FDS];

		*at = packet->fds[i];
		packet->fds[i] = -1;
	}
	return (int)have;
}

/* The answer's packet is there: its descriptors, then those of the packets that follow. */
static int welcome_gather(
	const struct local_hello *hello, struct local_welcome *welcome, struct packet *packet)
{
	uint32_t chunks = welcome->answer.chunk_count;
	int have, status;

	welcome->chunk_fds = memory_calloc(chunks, sizeof(int));
	if (!welcome->chunk_fds) {
		packet_drop(packet);
		return -ENOMEM;
	}
	memset(welcome->chunk_fds, 0xff, chunks * sizeof(int));
	have = welcome_fill(welcome, 0, packet);
	packet_drop(packet);
	if (have >= 0 && have < LOCAL_WELCOME_FDS)
		have = -EPROTO;
	while (have >= 0 && (uint32_t)have < LOCAL_WELCOME_FDS + chunks) {
		status = packet_receive(hello->fd, packet, hello->wait, hello->deadline_ns);
		if (status < 0)
			return status;
		if (packet->u.head.op != WIRE_CHUNKS || !packet->fd_count)
			have = -EPROTO;
		else
			have = welcome_fill(welcome, (unsigned)have, packet);
		packet_drop(packet);
	}
	return have < 0 ? have : 0;
}

int local_hello(const struct local_hello *hello, struct local_welcome *welcome)
{
	struct packet packet;
	int status;

	memset(welcome, 0, sizeof(*welcome));
	welcome->page_fd = welcome->index_fd = welcome->wake_fd = -1;
	status = packet_send(hello->fd, &hello->hello->head, hello->wait, hello->deadline_ns);
	if (status < 0)
		return status;
	status = packet_receive(hello->fd, &packet, hello->wait, hello->deadline_ns);
	if (status < 0)
		return status;
	status = packet.u.head.status;
	if (packet.u.head.op != WIRE_HELLO)
		status = -EPROTO;
	else if (!status && packet.length != sizeof(welcome->answer))
		status = -EPROTO;
	if (status < 0) {
		packet_drop(&packet);
		return status;
	}
	memcpy(&welcome->answer, packet.u.bytes, sizeof(welcome->answer));
	welcome->answer.realm[WIRE_NAME_MAX - 1] = 0;
	if (hello->hello->flags & WIRE_HELLO_OPERATOR) {
		packet_drop(&packet);
		return 0;
	}
	if (!answer_sound(&welcome->answer)) {
		packet_drop(&packet);
		return -EPROTO;
	}
	status = welcome_gather(hello, welcome, &packet);
	if (status < 0)
		local_welcome_drop(welcome);
	return status;
}

/* ---------------------------------------------------------------------------------- session */

static bool page_sound(const struct page_head *page)
{
	return page->magic == PAGE_MAGIC && page->version == PAGE_VERSION &&
	       page->bytes == page_bytes() && page->submissions_at == page_submissions_at() &&
	       page->completions_at == page_completions_at() && page->pins_at == page_pins_at() &&
	       page->scratch_at == page_scratch_at() && page->scratch_bytes == PAGE_SCRATCH_BYTES &&
	       page->pin_count == PAGE_PINS;
}

int local_client_open(struct local_client *client, int socket_fd, struct local_welcome *welcome)
{
	struct stat file;
	uint8_t *base;

	if (fstat(welcome->page_fd, &file) < 0 || file.st_size < (off_t)page_bytes())
		return -EPROTO;
	if (memory_should_fail())
		return -ENOMEM;
	base = mmap(NULL, page_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, welcome->page_fd, 0);
	if (base == MAP_FAILED)
		return errno == ENOMEM ? -ENOMEM : -EPROTO;
	memory_seclude(base, page_bytes());
	if (!page_sound((const struct page_head *)(const void *)base)) {
		munmap(base, page_bytes());
		return -EPROTO;
	}
	memset(client, 0, sizeof(*client));
	client->page = (struct page_head *)(void *)base;
	client->submissions = (struct submission *)(void *)(base + page_submissions_at());
	client->completions = (const struct completion *)(void *)(base + page_completions_at());
	client->pins = base + page_pins_at();
	client->scratch = base + page_scratch_at();
	client->socket_fd = socket_fd;
	client->wake_fd = welcome->wake_fd;
	client->index_fd = -1;
	/* Looking while the daemon has no processor to run on only keeps it from answering. */
	client->spin_ns = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? SPIN_NS : 0;
	close(welcome->page_fd);
	welcome->page_fd = welcome->wake_fd = -1;
	return 0;
}

void local_client_close(struct local_client *client)
{
	munmap(client->page, page_bytes());
	close(client->socket_fd);
	close(client->wake_fd);
	if (client->index_fd >= 0)
		close(client->index_fd);
	memset(client, 0, sizeof(*client));
	client->socket_fd = client->wake_fd = client->index_fd = -1;
}

void local_bye(int fd)
{
	struct wire_head bye = local_head(WIRE_BYE, sizeof(bye));

	/* A full socket or a dead daemon: the end of file says it as well, only later. */
	(void)send(fd, &bye, sizeof(bye), MSG_DONTWAIT | MSG_NOSIGNAL);
}

void local_client_bye(struct local_client *client)
{
	local_bye(client->socket_fd);
}

void local_client_shut(const struct local_client *client)
{
	shutdown(client->socket_fd, SHUT_RDWR);
}

/* An answer of the right kind: its body, its descriptor, its status. */
static int answer_take(const struct local_ask *ask, struct packet *packet)
{
	uint32_t fds = ask->fd ? 1 : 0;

	if (packet->u.head.op != ask->request->op)
		return -EPROTO;
	/* A refusal may be a bare head. */
	if (packet->u.head.status < 0) {
		memset(ask->answer, 0, ask->answer_bytes);
		memcpy(ask->answer, packet->u.bytes, MIN_OF(packet->length, ask->answer_bytes));
		return packet->fd_count ? -EPROTO : packet->u.head.status;
	}
	if (packet->length != ask->answer_bytes || packet->fd_count != fds)
		return -EPROTO;
	memcpy(ask->answer, packet->u.bytes, ask->answer_bytes);
	if (ask->fd) {
		*ask->fd = packet->fds[0];
		packet->fds[0] = -1;
	}
	return 0;
}

/* Another daemon is there now, with the index in another file. Return: 0 or -EPROTO. */
static int index_take(struct local_client *client, struct packet *packet)
{
	if (packet->length != sizeof(client->index) || packet->fd_count != 1) {
		packet_drop(packet);
		return -EPROTO;
	}
	memcpy(&client->index, packet->u.bytes, sizeof(client->index));
	if (client->index_fd >= 0)
		close(client->index_fd);
	client->index_fd = packet->fds[0];
	return 0;
}

int local_client_news(struct local_client *client)
{
	struct packet packet;
	int status;

	for (;;) {
		status = packet_receive(client->socket_fd, &packet, &local_wait_plain, 0);
		if (status == -ETIMEDOUT)
			return 0;
		if (status == 0 && packet.u.head.op == WIRE_INDEX) {
			status = index_take(client, &packet);
		} else if (status == 0) {
			packet_drop(&packet);
			status = client->answers_owed ? 0 : -EPROTO;
			client->answers_owed -= client->answers_owed != 0;
		}
		if (status < 0)
			break;
	}
	if (status != SKEP_STATUS_EDOWN)
		local_client_shut(client);
	return status;
}

int local_client_ask(struct local_client *client, const struct local_ask *ask)
{
	struct packet packet;
	int status;

	SKEP_CHECK(ask->request->bytes <= WIRE_MESSAGE_MAX &&
		   ask->answer_bytes <= WIRE_MESSAGE_MAX &&
		   ask->answer_bytes >= sizeof(struct wire_head));
	status = packet_send(client->socket_fd, ask->request, ask->wait, ask->deadline_ns);
	if (status < 0)
		return status;
	/* Answers come in order, so those we owe a look come first. */
	client->answers_owed++;
	do {
		status = packet_receive(client->socket_fd, &packet, ask->wait, ask->deadline_ns);
		if (status == -EPROTO || status == SKEP_STATUS_EVERSION)
			goto nonsense;
		/* With -EMFILE an answer came, its descriptor did not. */
		if (status < 0 && status != -EMFILE)
			return status;
		if (packet.u.head.op == WIRE_INDEX) {
			if (status < 0 || index_take(client, &packet) < 0)
				goto nonsense;
			continue;
		}
		client->answers_owed--;
		if (client->answers_owed)
			packet_drop(&packet);
	} while (client->answers_owed);
	if (status < 0)
		return status;
	status = answer_take(ask, &packet);
	packet_drop(&packet);
	if (status != -EPROTO || packet.u.head.status == -EPROTO)
		return status;
nonsense:
	/* Nothing that follows can be trusted to belong to what is asked next. */
	local_client_shut(client);
	return -EPROTO;
}

/* --------------------------------------------------------------------------------- operator */

static int command_send(const struct local_command *command)
{
	union {
		struct wire_head head;
		uint8_t bytes[WIRE_MESSAGE_MAX];
	} message;
	size_t length = strlen(command->json);

	if (length > sizeof(message) - sizeof(message.head))
		return -EMSGSIZE;
	message.head = local_head(WIRE_COMMAND, (uint32_t)(sizeof(message.head) + length));
	memcpy(message.bytes + sizeof(message.head), command->json, length);
	return packet_send(command->fd, &message.head, command->wait, command->deadline_ns);
}

/* Appends a piece to the text. Return: 1 it was the last, 0 more follow, negative. */
static int command_piece(const struct packet *packet, char **text, size_t *text_bytes)
{
	struct wire_piece piece;
	char *grown;

	if (packet->u.head.op != WIRE_COMMAND || packet->fd_count)
		return -EPROTO;
	if (packet->u.head.status < 0)
		return packet->u.head.status;
	if (packet->length < sizeof(piece))
		return -EPROTO;
	memcpy(&piece, packet->u.bytes, sizeof(piece));
	if (piece.text_bytes != packet->length - sizeof(piece))
		return -EPROTO;
	grown = memory_realloc(*text, *text_bytes + piece.text_bytes + 1);
	if (!grown)
		return -ENOMEM;
	memcpy(grown + *text_bytes, packet->u.bytes + sizeof(piece), piece.text_bytes);
	*text = grown;
	*text_bytes += piece.text_bytes;
	grown[*text_bytes] = 0;
	return piece.last ? 1 : 0;
}

int local_command(const struct local_command *command, char **text, size_t *text_bytes)
{
	struct packet packet;
	char *gathered = NULL;
	size_t bytes = 0;
	int status = command_send(command);

	while (status == 0) {
		status = packet_receive(command->fd, &packet, command->wait, command->deadline_ns);
		if (status < 0)
			break;
		status = command_piece(&packet, &gathered, &bytes);
		packet_drop(&packet);
	}
	if (status < 0) {
		memory_free(gathered);
		return status;
	}
	*text = gathered;
	*text_bytes = bytes;
	return 0;
}
