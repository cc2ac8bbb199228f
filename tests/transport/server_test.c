/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's end of local sessions: who may come in, what is asked of the owner and when, what
 * becomes of clients that are rude, slow, or die. The owner here notes what it is asked.
 */
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/status.h"
#include "tests/transport/raw.h"
#include "transport/local/server.h"

enum { CHUNKS = 450, LINKS = 6 };

/* What the owner saw. */
struct note {
	unsigned hellos, requests, closed, byes, ended;
	int session_value; /* what our "session" points to */
	int refuse;	   /* status of the next hellos; 0: welcome */
	struct wire_hello hello;
	struct local_link *link;
	char message[WIRE_MESSAGE_MAX];
	size_t bytes;
};

static struct note note;
static struct loop *loop;
static struct local_server *server;
static int index_fd;
static unsigned chunk_count;
static char folder[64], path[96];
static struct raw_packet packet;

static int offer_chunk(void *session, unsigned chunk)
{
	REQUIRE(session == &note.session_value && chunk < chunk_count);
	return index_fd;
}

static int on_hello(void *arg, struct local_link *link, const struct wire_hello *hello,
	struct local_offer *offer)
{
	REQUIRE(arg == &note);
	note.hellos++;
	note.hello = *hello;
	note.link = link;
	if (note.refuse)
		return note.refuse;
	*offer = (struct local_offer){.session = &note.session_value,
		.incarnation = 77,
		.session_id = 5,
		.operator_role = hello->flags & WIRE_HELLO_OPERATOR,
		.index_fd = index_fd,
		.index_bytes = 4096,
		.pool_bytes = 1 << 20,
		.chunk_bytes = 4096,
		.chunk_count = chunk_count,
		.chunk_fd = offer_chunk};
	snprintf(offer->realm, sizeof(offer->realm), "%s", "a realm");
	return 0;
}

static void on_request(void *arg, struct local_link *link, const void *message, size_t bytes)
{
	REQUIRE(arg == &note && local_link_session(link) == &note.session_value);
	note.requests++;
	note.link = link;
	note.bytes = bytes;
	memcpy(note.message, message, bytes);
}

static void on_closed(void *arg, void *session, bool bye)
{
	REQUIRE(arg == &note && session == &note.session_value);
	note.closed++;
	note.byes += bye;
}

static void on_ended(void *arg, void *session)
{
	REQUIRE(arg == &note && session == &note.session_value);
	REQUIRE(note.ended < note.closed);
	note.ended++;
}

static void server_open(void)
{
	struct loop_options options = {
		.backend = LOOP_BACKEND_EPOLL, .watches_max = 64, .timers_max = 64};
	struct local_server_options local = {
		.owner = {&note, on_hello, on_request, on_closed, on_ended, NULL},
		.links_max = LINKS,
		.daemon_version = 0x102,
		.orphan_ns = 50 * NS_PER_MS};

	memset(&note, 0, sizeof(note));
	chunk_count = 3;
	REQUIRE_EQ(loop_create(&options, &loop), 0);
	local.loop = loop;
	REQUIRE_EQ(local_server_create(&local, &server), 0);
	REQUIRE_EQ(local_server_listen(server, path, 0600, ""), 0);
}

static void server_close(void)
{
	local_server_destroy(server);
	loop_destroy(loop);
	REQUIRE(access(path, F_OK) < 0);
}

/* Turns until nothing more happens for a moment. */
static void turn(void)
{
	for (unsigned quiet = 0; quiet < 3;)
		quiet = loop_run_once(loop, clock_ns() + NS_PER_MS) > 0 ? 0 : quiet + 1;
}

static int connected(void)
{
	int fd = raw_connect(path);

	REQUIRE(fd >= 0);
	turn();
	return fd;
}

/* A session that was let in; its descriptors are in @packet. */
static int welcomed(uint32_t flags)
{
	struct wire_hello hello = raw_hello("r", "t", flags);
	int fd = connected();

	REQUIRE(raw_send(fd, &hello, sizeof(hello)));
	turn();
	raw_receive(fd, &packet);
	REQUIRE_EQ(packet.length, sizeof(struct wire_hello_answer));
	return fd;
}

/* ---------------------------------------------------------------------------------- hello */

static void a_hello_is_answered_with_descriptors(void)
{
	struct wire_hello_answer answer;
	unsigned fds;
	int fd;

	server_open();
	chunk_count = CHUNKS;
	fd = welcomed(0);
	memcpy(&answer, packet.bytes, sizeof(answer));
	REQUIRE_EQ(answer.head.status, 0);
	REQUIRE(answer.incarnation == 77 && answer.session == 5 && answer.chunk_count == CHUNKS);
	REQUIRE_EQ(answer.page_bytes, page_bytes());
	REQUIRE_EQ(answer.daemon_version, 0x102);
	REQUIRE_TEXT(answer.realm, "a realm");
	REQUIRE_TEXT(note.hello.realm, "r");
	REQUIRE_TEXT(note.hello.token, "t");
	REQUIRE_EQ(local_link_peer(note.link)->pid, getpid());
	REQUIRE_EQ(local_link_peer(note.link)->uid, getuid());
	REQUIRE_TEXT(local_link_bound_realm(note.link), "");
	REQUIRE(local_link_find(server, local_link_id(note.link)) == note.link);
	REQUIRE(!local_link_find(server, local_link_id(note.link) + 1));
	/* Page, index, eventfd, then chunks, as many to a packet as fit. */
	for (fds = packet.fd_count; fds < CHUNKS + 3; fds += packet.fd_count) {
		raw_fds_close(&packet);
		raw_receive(fd, &packet);
		REQUIRE_EQ(packet.length, sizeof(struct wire_head));
		REQUIRE(packet.fd_count > 0);
	}
	REQUIRE_EQ(fds, CHUNKS + 3);
	raw_fds_close(&packet);
	close(fd);
	server_close();
}

/* The page that a client is given: laid out, zeroed, of a size that nobody can change. */
static void a_page_cannot_be_cut_short(void)
{
	struct page_head *page;
	int fd;

	server_open();
	fd = welcomed(0);
	REQUIRE_EQ(packet.fd_count, 6);
	REQUIRE(ftruncate(packet.fds[0], 4096) < 0 && errno == EPERM);
	REQUIRE(ftruncate(packet.fds[0], 64 << 20) < 0 && errno == EPERM);
	REQUIRE(fcntl(packet.fds[0], F_ADD_SEALS, F_SEAL_WRITE) < 0);
	page = mmap(NULL, page_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, packet.fds[0], 0);
	REQUIRE(page != MAP_FAILED);
	REQUIRE(page->magic == PAGE_MAGIC && page->version == PAGE_VERSION);
	REQUIRE_EQ(page->bytes, page_bytes());
	REQUIRE_EQ(page->submissions_at, page_submissions_at());
	REQUIRE_EQ(page->completions_at, page_completions_at());
	REQUIRE_EQ(page->pins_at, page_pins_at());
	REQUIRE_EQ(page->scratch_at, page_scratch_at());
	/* What the client writes there the server's end sees. */
	atomic_store(&page->submission_tail.value, 1);
	REQUIRE(page_end_waiting(local_link_page(note.link)));
	munmap(page, page_bytes());
	raw_fds_close(&packet);
	close(fd);
	server_close();
}

static void an_operator_gets_no_memory(void)
{
	int fd;

	server_open();
	fd = welcomed(WIRE_HELLO_OPERATOR);
	REQUIRE_EQ(packet.fd_count, 0);
	close(fd);
	turn();
	REQUIRE(note.closed == 1 && note.ended == 0); /* its process, this one, lives on */
	server_close();
}

static void a_hello_is_refused_with_a_reason(void)
{
	struct wire_hello hello;
	int fd;

	server_open();
	fd = connected();
	hello = raw_hello("r", "", 0);
	note.refuse = -EACCES;
	REQUIRE(raw_send(fd, &hello, sizeof(hello)));
	turn();
	raw_receive(fd, &packet);
	REQUIRE_EQ(((struct wire_head *)(void *)packet.bytes)->status, -EACCES);
	REQUIRE_EQ(packet.fd_count, 0);
	raw_hung_up(fd);
	close(fd);
	/* Another page layout, another hello: told so, and the owner is not asked. */
	for (unsigned how = 0; how < 2; how++) {
		fd = connected();
		hello = raw_hello("r", "", 0);
		hello.page_version += how == 0;
		hello.head.bytes -= 4 * how;
		REQUIRE(raw_send(fd, &hello, hello.head.bytes));
		turn();
		raw_receive(fd, &packet);
		REQUIRE_EQ(
			((struct wire_head *)(void *)packet.bytes)->status, SKEP_STATUS_EVERSION);
		raw_hung_up(fd);
		close(fd);
	}
	REQUIRE(note.hellos == 1 && note.closed == 0);
	server_close();
}

/* Texts without an end are given one. */
static void texts_of_a_hello_end(void)
{
	struct wire_hello hello;
	int fd;

	server_open();
	hello = raw_hello("", "", 0);
	memset(hello.realm, 'r', sizeof(hello.realm));
	memset(hello.token, 't', sizeof(hello.token));
	memset(hello.name, 'n', sizeof(hello.name));
	fd = connected();
	REQUIRE(raw_send(fd, &hello, sizeof(hello)));
	turn();
	REQUIRE_EQ(strnlen(note.hello.realm, sizeof(hello.realm)), sizeof(hello.realm) - 1);
	REQUIRE_EQ(strnlen(note.hello.token, sizeof(hello.token)), sizeof(hello.token) - 1);
	REQUIRE_EQ(strnlen(note.hello.name, sizeof(hello.name)), sizeof(hello.name) - 1);
	close(fd);
	server_close();
}

/* ------------------------------------------------------------------------------ rude clients */

static void nonsense_ends_the_connection(void)
{
	struct wire_head head = raw_head(WIRE_STATS, sizeof(head));
	struct wire_hello hello = raw_hello("", "", 0);
	static char large[WIRE_MESSAGE_MAX + 1];
	const struct {
		bool welcome; /* after a hello */
		const void *bytes;
		size_t length;
	} rude[] = {
		{false, &head, sizeof(head)},	       /* a request before hello */
		{false, "abc", 3}, {false, large, 64}, /* no magic */
		{false, large, sizeof(large)},	       /* longer than any message */
		{true, "abc", 3}, {true, large, 64}, {true, large, sizeof(large)},
		{true, &hello, sizeof(hello)}, /* a second hello */
	};

	for (unsigned i = 0; i < ARRAY_COUNT(rude); i++) {
		int fd;

		server_open();
		fd = rude[i].welcome ? welcomed(0) : connected();
		raw_fds_close(&packet);
		REQUIRE(raw_send(fd, rude[i].bytes, rude[i].length));
		turn();
		raw_hung_up(fd);
		REQUIRE_EQ(note.closed, rude[i].welcome);
		REQUIRE_EQ(note.requests, 0);
		close(fd);
		server_close();
	}
	/* A length that lies, a version that is not ours. */
	for (unsigned how = 0; how < 2; how++) {
		int fd;

		server_open();
		fd = welcomed(0);
		raw_fds_close(&packet);
		head = raw_head(WIRE_STATS, sizeof(head));
		head.bytes += how == 0;
		head.version += how == 1;
		REQUIRE(raw_send(fd, &head, sizeof(head)));
		turn();
		raw_hung_up(fd);
		close(fd);
		server_close();
	}
}

/* Descriptors sent to the daemon are not taken. */
static void descriptors_are_not_taken(void)
{
	struct wire_head head = raw_head(WIRE_STATS, sizeof(head));
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec piece = {.iov_base = &head, .iov_len = sizeof(head)};
	struct msghdr message = {.msg_iov = &piece,
		.msg_iovlen = 1,
		.msg_control = control.room,
		.msg_controllen = sizeof(control.room)};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
	int fd, ends[2], one = 1;
	char byte;

	REQUIRE_EQ(pipe(ends), 0);
	server_open();
	fd = welcomed(0);
	raw_fds_close(&packet);
	memset(&control, 0, sizeof(control));
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &ends[1], sizeof(int));
	REQUIRE(sendmsg(fd, &message, 0) == sizeof(head));
	turn();
	REQUIRE_EQ(note.requests, 1);
	close(ends[1]);
	/* Were it open anywhere else, this would wait for ever. */
	REQUIRE_EQ(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
	REQUIRE_EQ(read(ends[0], &byte, 1), 0);
	close(ends[0]);
	close(fd);
	server_close();
	(void)one;
}

/* More connections than there is room for: the newest are closed, the others live on. */
static void links_are_bounded(void)
{
	int fds[LINKS + 2];
	struct wire_head head = raw_head(WIRE_STATS, sizeof(head));

	server_open();
	for (unsigned i = 0; i < LINKS; i++)
		fds[i] = connected();
	for (unsigned i = LINKS; i < LINKS + 2; i++) {
		fds[i] = connected();
		raw_hung_up(fds[i]);
	}
	close(fds[0]);
	turn();
	close(fds[LINKS]);
	fds[LINKS] = welcomed(0);
	raw_fds_close(&packet);
	REQUIRE(raw_send(fds[LINKS], &head, sizeof(head)));
	turn();
	REQUIRE_EQ(note.requests, 1);
	for (unsigned i = 1; i < LINKS + 2; i++)
		close(fds[i]);
	server_close();
}

/* A client that asks much and reads nothing is cut; it does not hold the daemon up. */
static void a_client_that_does_not_read_is_cut(void)
{
	struct wire_number answer = {.number = 1};
	unsigned answers = 0;
	int fd;

	server_open();
	fd = welcomed(0);
	raw_fds_close(&packet);
	while (!note.closed && answers < 100000) {
		local_answer(note.link, &answer, sizeof(answer), -1);
		answers++;
		if (answers % 64 == 0)
			turn();
	}
	REQUIRE(note.closed == 1 && answers > 8);
	close(fd);
	server_close();
}

/* ------------------------------------------------------------------------------ long answers */

/* A text longer than any socket holds goes out piece by piece as the client reads. */
static void a_long_text_is_sent_in_pieces(void)
{
	enum { BYTES = 3 << 20 };
	char *text = malloc(BYTES), *got = malloc(BYTES);
	struct wire_piece piece;
	size_t have = 0;
	int fd;

	REQUIRE(text && got);
	for (size_t i = 0; i < BYTES; i++)
		text[i] = (char)mix64(i);
	server_open();
	fd = welcomed(WIRE_HELLO_OPERATOR);
	REQUIRE_EQ(local_answer_text(note.link, -5, text, BYTES), 0);
	REQUIRE_EQ(local_answer_text(note.link, 0, text, BYTES), -EBUSY);
	do {
		turn();
		raw_receive(fd, &packet);
		memcpy(&piece, packet.bytes, sizeof(piece));
		REQUIRE_EQ(piece.head.status, -5);
		REQUIRE_EQ(packet.length, sizeof(piece) + piece.text_bytes);
		REQUIRE(have + piece.text_bytes <= BYTES);
		memcpy(got + have, packet.bytes + sizeof(piece), piece.text_bytes);
		have += piece.text_bytes;
	} while (!piece.last);
	REQUIRE(have == BYTES && !memcmp(text, got, BYTES));
	/* The next one, of no bytes at all, comes through as well. */
	REQUIRE_EQ(local_answer_text(note.link, 0, "", 0), 0);
	raw_receive(fd, &packet);
	memcpy(&piece, packet.bytes, sizeof(piece));
	REQUIRE(piece.last == 1 && piece.text_bytes == 0);
	/* And one that is never read goes with its connection. */
	REQUIRE_EQ(local_answer_text(note.link, 0, text, BYTES), 0);
	memory_fail_after(1, 0);
	REQUIRE_EQ(local_answer_text(note.link, 0, text, BYTES), -EBUSY);
	memory_fail_after(0, 0);
	close(fd);
	turn();
	REQUIRE_EQ(note.closed, 1);
	REQUIRE_EQ(local_answer_text(note.link, 0, text, BYTES), 0); /* nobody to send it to */
	server_close();
	free(text);
	free(got);
}

/* ---------------------------------------------------------------------------------- the end */

/* A child that says hello on @path and then does what it is told by a byte on the line. */
static pid_t child_client(int line[2], bool bye)
{
	pid_t child;

	REQUIRE_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, line), 0);
	child = fork();
	REQUIRE(child >= 0);
	if (child == 0) {
		struct wire_hello hello = raw_hello("r", "", 0);
		struct wire_head head = raw_head(WIRE_BYE, sizeof(head));
		int fd = raw_connect(path);
		char byte;

		close(line[0]);
		if (!raw_send(fd, &hello, sizeof(hello)))
			_exit(1);
		raw_receive(fd, &packet);
		if (write(line[1], "h", 1) != 1)
			_exit(1);
		while (read(line[1], &byte, 1) == 1) {
			if (byte == 'c')
				close(fd);
			if (byte == 'x')
				break;
			if (write(line[1], "d", 1) != 1)
				break;
		}
		if (bye)
			raw_send(fd, &head, sizeof(head));
		_exit(0);
	}
	close(line[1]);
	return child;
}

static void child_heard(int line, char what)
{
	struct pollfd ready = {.fd = line, .events = POLLIN};
	uint64_t until = clock_ns() + RAW_WAIT_MS * NS_PER_MS;
	char byte;

	while (poll(&ready, 1, 0) == 0) {
		REQUIRE(clock_ns() < until);
		turn();
	}
	REQUIRE(read(line, &byte, 1) == 1 && byte == what);
}

/* Socket closed: closed() at once; ended() only when the process has ended. */
static void a_session_ends_with_its_process(void)
{
	int line[2], status;
	pid_t child;

	server_open();
	child = child_client(line, false);
	child_heard(line[0], 'h');
	REQUIRE_EQ(note.hellos, 1);
	REQUIRE(write(line[0], "c", 1) == 1);
	child_heard(line[0], 'd');
	turn();
	REQUIRE_EQ(note.closed, 1);
	REQUIRE_EQ(note.ended, 0);
	for (unsigned i = 0; i < 20; i++) { /* longer than an orphan's time: it is watched */
		usleep(5000);
		turn();
	}
	REQUIRE_EQ(note.ended, 0);
	kill(child, SIGKILL);
	REQUIRE(waitpid(child, &status, 0) == child);
	turn();
	REQUIRE(note.ended == 1 && note.byes == 0);
	close(line[0]);
	server_close();
}

/* A goodbye ends the session at once, also where the process ends in the same moment. */
static void a_goodbye_is_heard_from_a_process_that_ends(void)
{
	for (unsigned round = 0; round < 20; round++) {
		int line[2], status;
		pid_t child;

		server_open();
		child = child_client(line, true);
		child_heard(line[0], 'h');
		REQUIRE(write(line[0], "x", 1) == 1);
		/* Both have happened before the server looks again. */
		REQUIRE(waitpid(child, &status, 0) == child && status == 0);
		turn();
		REQUIRE_EQ(note.closed, 1);
		REQUIRE_EQ(note.ended, 1);
		REQUIRE_EQ(note.byes, 1);
		close(line[0]);
		server_close();
	}
}

static void a_goodbye_ends_a_session(void)
{
	struct wire_head head = raw_head(WIRE_BYE, sizeof(head));
	int fd;

	server_open();
	fd = welcomed(0);
	raw_fds_close(&packet);
	REQUIRE(raw_send(fd, &head, sizeof(head)));
	close(fd);
	turn();
	REQUIRE(note.closed == 1 && note.byes == 1 && note.ended == 1);
	/* Cut by the owner: as if the client had hung up. */
	fd = welcomed(0);
	raw_fds_close(&packet);
	local_link_cut(note.link);
	turn();
	REQUIRE(note.closed == 2 && note.byes == 1);
	raw_hung_up(fd);
	close(fd);
	server_close();
}

/* ------------------------------------------------------------------------------- listening */

static void a_socket_has_one_daemon(void)
{
	struct loop_options options = {
		.backend = LOOP_BACKEND_EPOLL, .watches_max = 8, .timers_max = 8};
	struct local_server_options local = {
		.owner = {&note, on_hello, on_request, on_closed, on_ended, NULL},
		.links_max = LINKS};
	struct local_server *other;
	struct loop *other_loop;
	struct stat status;
	char longer[200], file[96];
	int fd;

	server_open();
	REQUIRE_EQ(loop_create(&options, &other_loop), 0);
	local.loop = other_loop;
	REQUIRE_EQ(local_server_create(&local, &other), 0);
	/* The listener's process is this one, and lives. */
	REQUIRE_EQ(local_server_listen(other, path, 0600, ""), -EADDRINUSE);
	REQUIRE_EQ(stat(path, &status), 0);
	REQUIRE_EQ(status.st_mode & 0777, 0600);
	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = 0;
	REQUIRE_EQ(local_server_listen(other, longer, 0600, ""), -ENAMETOOLONG);
	snprintf(file, sizeof(file), "%s/none/socket", folder);
	REQUIRE_EQ(local_server_listen(other, file, 0600, ""), -ENOENT);

	/* What is no socket is not taken for the rest of a dead daemon. */
	snprintf(file, sizeof(file), "%s/file", folder);
	fd = open(file, O_CREAT | O_RDWR, 0600);
	REQUIRE(fd >= 0 && write(fd, "precious", 8) == 8);
	close(fd);
	REQUIRE_EQ(local_server_listen(other, file, 0600, ""), -EEXIST);
	REQUIRE(stat(file, &status) == 0 && status.st_size == 8);
	unlink(file);

	/* What is left of a daemon that died is. */
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	{
		struct sockaddr_un address = {.sun_family = AF_UNIX};

		snprintf(address.sun_path, sizeof(address.sun_path), "%s", file);
		REQUIRE_EQ(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
	}
	close(fd);
	REQUIRE_EQ(local_server_listen(other, file, 0660, "bound"), 0);
	REQUIRE_EQ(stat(file, &status), 0);
	REQUIRE_EQ(status.st_mode & 0777, 0660);
	local_server_destroy(other);
	loop_destroy(other_loop);
	REQUIRE(access(file, F_OK) < 0);
	server_close();
}

static void a_socket_may_stand_for_a_realm(void)
{
	char bound[96];
	struct wire_hello hello = raw_hello("", "", 0);
	int fd, ends[2];

	server_open();
	snprintf(bound, sizeof(bound), "%s/bound", folder);
	REQUIRE_EQ(local_server_listen(server, bound, 0600, "mine"), 0);
	fd = raw_connect(bound);
	REQUIRE(raw_send(fd, &hello, sizeof(hello)));
	turn();
	REQUIRE_TEXT(local_link_bound_realm(note.link), "mine");
	close(fd);
	/* One end of a pair serves as well: a client in this process. */
	REQUIRE_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, ends), 0);
	REQUIRE_EQ(local_server_adopt(server, ends[1]), 0);
	REQUIRE(raw_send(ends[0], &hello, sizeof(hello)));
	turn();
	REQUIRE_EQ(note.hellos, 2);
	close(ends[0]);
	turn();
	server_close();
}

/* Every allocation and system object that can be missing: refused, nothing leaks, others go on. */
static void nothing_leaks_when_memory_is_short(void)
{
	unsigned welcome = 0;

	for (unsigned nth = 1; nth < 8; nth++) {
		struct wire_hello hello = raw_hello("r", "", 0);
		int fd;

		server_open();
		fd = raw_connect(path);
		REQUIRE(raw_send(fd, &hello, sizeof(hello)));
		memory_fail_after(nth, 0);
		turn();
		memory_fail_after(0, 0);
		raw_receive(fd, &packet);
		welcome += packet.fd_count > 0;
		REQUIRE(packet.length == 0 || packet.fd_count > 0 ||
			((struct wire_head *)(void *)packet.bytes)->status == -ENOMEM);
		raw_fds_close(&packet);
		close(fd);
		fd = welcomed(0);
		raw_fds_close(&packet);
		close(fd);
		server_close();
	}
	REQUIRE(welcome > 0 && welcome < 7);
}

int main(void)
{
	snprintf(folder, sizeof(folder), "/tmp/skep-server-XXXXXX");
	REQUIRE(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/socket", folder);
	index_fd = memfd_create("index", MFD_CLOEXEC);
	a_hello_is_answered_with_descriptors();
	a_page_cannot_be_cut_short();
	an_operator_gets_no_memory();
	a_hello_is_refused_with_a_reason();
	texts_of_a_hello_end();
	nonsense_ends_the_connection();
	descriptors_are_not_taken();
	links_are_bounded();
	a_client_that_does_not_read_is_cut();
	a_long_text_is_sent_in_pieces();
	a_session_ends_with_its_process();
	a_goodbye_is_heard_from_a_process_that_ends();
	a_goodbye_ends_a_session();
	a_socket_has_one_daemon();
	a_socket_may_stand_for_a_realm();
	nothing_leaks_when_memory_is_short();
	close(index_fd);
	rmdir(folder);
	return 0;
}
