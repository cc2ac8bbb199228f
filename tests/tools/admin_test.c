/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP page over real connections: what it shows to whom, and what it refuses.
 */
#include "tools/skepd/admin.c"

#include <arpa/inet.h>

#include "tests/base/unit.h"
#include "tests/tools/node_stub.h"

static struct daemon the_daemon = {.lock = PTHREAD_MUTEX_INITIALIZER};
static char reply[1 << 20];
static uint16_t port;

static int connect_to(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
	struct timeval limit = {.tv_sec = 20};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	REQUIRE(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	REQUIRE_EQ(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* Sends a request and reads the reply to the connection's end. Return: its status. */
static int get(const char *method, const char *path, const char *headers)
{
	char request[4096];
	int fd = connect_to(), status = 0;
	size_t used = 0;
	ssize_t got;

	snprintf(request, sizeof(request),
		"%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n", method, path, headers);
	REQUIRE_EQ(send(fd, request, strlen(request), MSG_NOSIGNAL), strlen(request));
	while ((got = recv(fd, reply + used, sizeof(reply) - 1 - used, 0)) > 0)
		used += (size_t)got;
	reply[used] = 0;
	close(fd);
	REQUIRE(sscanf(reply, "HTTP/1.1 %d", &status) == 1);
	return status;
}

static void totals_are_for_everybody(void)
{
	REQUIRE_EQ(get("GET", "/metrics", ""), 200);
	REQUIRE(strstr(reply, "text/plain; version=0.0.4"));
	REQUIRE(strstr(reply, "\nskep_sessions 0\n") && !strstr(reply, "realm="));
	REQUIRE_EQ(get("GET", "/", ""), 200);
	REQUIRE(strstr(reply, "text/html") && strstr(reply, "all realms"));
	REQUIRE(strstr(reply, "Content-Security-Policy: default-src 'none'"));
	REQUIRE_EQ(get("GET", "/healthz", ""), 200);
}

static void realms_are_for_the_token(void)
{
	REQUIRE_EQ(get("GET", "/metrics", "Authorization: Bearer first\r\n"), 200);
	REQUIRE(strstr(reply, "skep_sessions{realm=\"a\"} 0\n"));
	REQUIRE_EQ(get("GET", "/", "Authorization: bearer second\r\n"), 200);
	REQUIRE(strstr(reply, "<th>b</th>"));
	REQUIRE_EQ(get("GET", "/metrics", "Authorization: Bearer firs\r\n"), 401);
	REQUIRE(strstr(reply, "WWW-Authenticate: Bearer") && !strstr(reply, "skep_"));
	REQUIRE_EQ(get("GET", "/metrics", "Authorization: Bearer firstt\r\n"), 401);
	REQUIRE_EQ(get("GET", "/metrics", "Authorization: Basic first\r\n"), 401);
	REQUIRE_EQ(get("GET", "/metrics", "Authorization: Bearer \r\n"), 401);
}

static void only_get_and_three_paths(void)
{
	REQUIRE_EQ(get("POST", "/metrics", "Content-Length: 0\r\n"), 405);
	REQUIRE(strstr(reply, "Allow: GET"));
	REQUIRE_EQ(get("DELETE", "/", ""), 405);
	REQUIRE_EQ(get("HEAD", "/", ""), 405);
	REQUIRE_EQ(get("GET", "/metrics/", ""), 404);
	REQUIRE_EQ(get("GET", "/../etc/passwd", ""), 404);
}

static void a_silent_keeper_is_seen(void)
{
	stub.status = -ETIMEDOUT;
	REQUIRE_EQ(get("GET", "/healthz", ""), 503);
	REQUIRE_EQ(get("GET", "/metrics", ""), 503);
	stub.status = 0;
	REQUIRE_EQ(get("GET", "/healthz", ""), 200);
}

/* More connections than are served: those beyond are closed, and room comes back. */
static void connections_are_bounded(void)
{
	int fds[CONNECTIONS_MAX + 16];
	unsigned open_ones = 0;
	char byte;

	for (unsigned i = 0; i < ARRAY_COUNT(fds); i++)
		fds[i] = connect_to();
	usleep(200000);
	for (unsigned i = 0; i < ARRAY_COUNT(fds); i++)
		open_ones += recv(fds[i], &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
	REQUIRE(open_ones <= CONNECTIONS_MAX + BACKLOG);
	for (unsigned i = 0; i < ARRAY_COUNT(fds); i++)
		close(fds[i]);
	usleep(200000);
	REQUIRE_EQ(get("GET", "/healthz", ""), 200);
}

static void a_header_without_end_is_refused(void)
{
	static char big[CONNECTION_BYTES + 4096];
	int fd = connect_to();
	char byte;

	memset(big, 'a', sizeof(big));
	memcpy(big, "GET / HTTP/1.1\r\nA: ", 19);
	/* It may be cut off in the middle of this: both are a refusal. */
	if (send(fd, big, sizeof(big), MSG_NOSIGNAL) > 0 && recv(fd, reply, 64, 0) > 0)
		REQUIRE(strstr(reply, " 4"));
	while (recv(fd, &byte, 1, 0) > 0)
		;
	close(fd);
	REQUIRE_EQ(get("GET", "/healthz", ""), 200);
}

static void addresses_are_read(void)
{
	static const struct {
		const char *text;
		int status, loopback;
	} rows[] = {{"127.0.0.1:80", 0, 1}, {"127.9.9.9:0", 0, 1}, {"0.0.0.0:7420", 0, 0},
		{"[::1]:7420", 0, 1}, {"[::]:7420", 0, 0}, {"127.0.0.1", -EINVAL, 0},
		{":7420", -EINVAL, 0}, {"127.0.0.1:", -EINVAL, 0}, {"127.0.0.1:65536", -EINVAL, 0},
		{"127.0.0.1:7x", -EINVAL, 0}, {"127.0.0.1:-1", -EINVAL, 0},
		{"300.1.1.1:80", -EINVAL, 0}, {"", -EINVAL, 0}};

	for (unsigned i = 0; i < ARRAY_COUNT(rows); i++) {
		struct admin_address address;
		int status = admin_address_read(rows[i].text, &address);

		if (status != rows[i].status)
			fprintf(stderr, "%s\n", rows[i].text);
		REQUIRE_EQ(status, rows[i].status);
		REQUIRE(status || address.loopback == rows[i].loopback);
	}
}

static void a_taken_address_is_said(struct admin *first)
{
	char text[64], why[SETTINGS_WHY_MAX];
	struct admin *second;

	REQUIRE(first);
	snprintf(text, sizeof(text), "127.0.0.1:%u", port);
	REQUIRE_EQ(admin_create(&the_daemon, text, &second, why), -EADDRINUSE);
	REQUIRE(strstr(why, text) && strstr(why, "--admin"));
}

int main(void)
{
	char *words[] = {"skepd", "--volatile-secret", "--realm", "a", "--realm", "b", NULL};
	char why[SETTINGS_WHY_MAX], text[64];
	struct actions actions;
	struct admin *admin = NULL;
	int status = -EADDRINUSE;

	unsetenv("SKEP_SOCKET");
	REQUIRE_EQ(settings_create(6, words, &the_daemon.settings, &actions, why), 0);
	the_daemon.settings->admin_tokens = (struct text_list){2, {"first", "second"}};
	the_daemon.node = stub_node();
	stub_reset();
	addresses_are_read();
	/* Any free port. */
	for (unsigned i = 0; i < 100 && status == -EADDRINUSE; i++) {
		port = (uint16_t)(20000 + (unsigned)getpid() % 20000 + i);
		snprintf(text, sizeof(text), "127.0.0.1:%u", port);
		status = admin_create(&the_daemon, text, &admin, why);
	}
	REQUIRE_EQ(status, 0);
	totals_are_for_everybody();
	realms_are_for_the_token();
	only_get_and_three_paths();
	a_silent_keeper_is_seen();
	connections_are_bounded();
	a_header_without_end_is_refused();
	a_taken_address_is_said(admin);
	admin_destroy(admin);
	settings_destroy(the_daemon.settings);
	return 0;
}
