/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skepd/admin.h"

#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <microhttpd.h>

#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/status.h"
#include "tools/skepd/metrics.h"
#include "tools/skepd/page.h"

enum {
	CONNECTIONS_MAX = 32,
	CONNECTION_SECONDS = 10,
	CONNECTION_BYTES = 32 << 10,
	BACKLOG = 32,
};

struct admin {
	struct daemon *daemon;
	struct MHD_Daemon *http;
};

/* ----------------------------------------------------------------------------- address */

static bool loopback(const struct admin_address *address)
{
	if (address->socket.any.sa_family == AF_INET)
		return ntohl(address->socket.v4.sin_addr.s_addr) >> 24 == 127;
	return IN6_IS_ADDR_LOOPBACK(&address->socket.v6.sin6_addr);
}

int admin_address_read(const char *text, struct admin_address *out)
{
	struct addrinfo hints = {
		.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | AI_PASSIVE};
	const char *colon = strrchr(text, ':'), *from = text;
	struct addrinfo *found;
	size_t length = colon ? (size_t)(colon - text) : 0;
	char host[256], *end;
	unsigned long port;

	if (!colon || length == 0 || length >= sizeof(host))
		return -EINVAL;
	errno = 0;
	port = strtoul(colon + 1, &end, 10);
	if (colon[1] < '0' || colon[1] > '9' || errno || *end || port > 65535)
		return -EINVAL;
	if (*text == '[' && text[length - 1] == ']') {
		from++;
		length -= 2;
	}
	memcpy(host, from, length);
	host[length] = 0;
	if (getaddrinfo(host, colon + 1, &hints, &found))
		return -EINVAL;
	if (found->ai_addrlen > sizeof(out->socket)) {
		freeaddrinfo(found);
		return -EINVAL;
	}
	memset(out, 0, sizeof(*out));
	memcpy(&out->socket, found->ai_addr, found->ai_addrlen);
	out->bytes = found->ai_addrlen;
	out->loopback = loopback(out);
	freeaddrinfo(found);
	return 0;
}

/* ------------------------------------------------------------------------------- token */

/* Reads all of @token whatever is wrong, so that the time tells nothing of how much was right. */
static bool same_text(const char *text, const char *token)
{
	size_t length = strlen(text), wanted = strlen(token);
	unsigned differ = length != wanted;

	for (size_t i = 0; i < wanted; i++)
		differ |= (unsigned char)token[i] ^ (unsigned char)text[i < length ? i : length];
	return !differ;
}

bool admin_token_right(const char *header, const struct text_list *tokens)
{
	static const char scheme[] = "Bearer ";
	unsigned right = 0;

	if (strncasecmp(header, scheme, sizeof(scheme) - 1))
		return false;
	header += sizeof(scheme) - 1;
	for (unsigned i = 0; i < tokens->count; i++)
		right |= same_text(header, tokens->text[i]);
	return right;
}

/* ------------------------------------------------------------------------------ answers */

struct answer {
	unsigned status;
	const char *type; /* of the body */
	const char *body; /* a static text, or NULL: @made */
	char *made;	  /* of malloc(), handed on to the response */
	size_t bytes;
};

static void answer_text(struct answer *answer, unsigned status, const char *body)
{
	answer->status = status;
	answer->type = "text/plain; charset=utf-8";
	answer->body = body;
	answer->bytes = strlen(body);
}

/* Writes a page from a snapshot of the node; @write is metrics or the page for people. */
static void answer_snapshot(struct admin *admin, bool trusted, struct answer *answer,
	void (*write)(const struct metrics_snapshot *, enum metrics_scope, FILE *))
{
	struct metrics_snapshot snapshot;
	FILE *out = NULL;

	if (metrics_take(admin->daemon->node, &snapshot) == 0)
		out = open_memstream(&answer->made, &answer->bytes);
	if (!out) {
		metrics_drop(&snapshot);
		answer_text(answer, MHD_HTTP_SERVICE_UNAVAILABLE, "the keeper does not answer\n");
		return;
	}
	write(&snapshot, trusted ? METRICS_REALMS : METRICS_TOTALS, out);
	metrics_drop(&snapshot);
	if (fclose(out)) {
		free(answer->made);
		answer->made = NULL;
		answer_text(answer, MHD_HTTP_SERVICE_UNAVAILABLE, "out of memory\n");
	}
}

static void answer_health(struct admin *admin, struct answer *answer)
{
	struct node_status status;

	if (node_status(admin->daemon->node, &status) == 0)
		answer_text(answer, MHD_HTTP_OK, "ok\n");
	else
		answer_text(answer, MHD_HTTP_SERVICE_UNAVAILABLE, "the keeper does not answer\n");
}

static void answer_make(
	struct admin *admin, const char *url, const char *authorization, struct answer *answer)
{
	bool trusted = false;

	if (authorization) {
		pthread_mutex_lock(&admin->daemon->lock);
		trusted = admin_token_right(authorization, &admin->daemon->settings->admin_tokens);
		pthread_mutex_unlock(&admin->daemon->lock);
		if (!trusted) {
			answer_text(answer, MHD_HTTP_UNAUTHORIZED,
				"this is no token of admin_token_file; without one, totals are "
				"shown\n");
			return;
		}
	}
	answer->status = MHD_HTTP_OK;
	if (!strcmp(url, "/metrics")) {
		answer->type = "text/plain; version=0.0.4; charset=utf-8";
		answer_snapshot(admin, trusted, answer, metrics_write);
	} else if (!strcmp(url, "/healthz")) {
		answer_health(admin, answer);
	} else if (!strcmp(url, "/")) {
		answer->type = "text/html; charset=utf-8";
		answer_snapshot(admin, trusted, answer, page_write);
	} else {
		answer_text(answer, MHD_HTTP_NOT_FOUND, "there are /, /metrics and /healthz\n");
	}
}

static enum MHD_Result answer_send(struct MHD_Connection *connection, struct answer *answer)
{
	struct MHD_Response *response;
	enum MHD_Result result;

	if (answer->made)
		response = MHD_create_response_from_buffer(
			answer->bytes, answer->made, MHD_RESPMEM_MUST_FREE);
	else /* only read, whatever the parameter's type says */
		response = MHD_create_response_from_buffer(
			answer->bytes, (void *)(uintptr_t)answer->body, MHD_RESPMEM_PERSISTENT);
	if (!response) {
		free(answer->made);
		return MHD_NO;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, answer->type);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
	MHD_add_response_header(response, "Content-Security-Policy",
		"default-src 'none'; style-src 'unsafe-inline'");
	if (answer->status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, MHD_HTTP_METHOD_GET);
	if (answer->status == MHD_HTTP_UNAUTHORIZED)
		MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
	result = MHD_queue_response(connection, answer->status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url,
	const char *method, const char *version, const char *body, size_t *body_bytes, void **state)
{
	static char begun; /* its address marks a request whose head was seen */
	struct answer answer = {0};

	(void)version;
	(void)body;
	if (strcmp(method, MHD_HTTP_METHOD_GET)) {
		answer_text(&answer, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET\n");
		return answer_send(connection, &answer);
	}
	if (*state != &begun) {
		*state = &begun;
		return MHD_YES;
	}
	if (*body_bytes) /* nobody wants it */
		return MHD_NO;
	answer_make(arg, url,
		MHD_lookup_connection_value(
			connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION),
		&answer);
	return answer_send(connection, &answer);
}

/* --------------------------------------------------------------------------- life cycle */

/* A listening socket of our own: the library would not say why it has none. */
static int admin_listen(const struct admin_address *address)
{
	int one = 1, status;
	int fd = socket(
		address->socket.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, &address->socket.any, address->bytes) || listen(fd, BACKLOG)) {
		status = -errno;
		close(fd);
		return status;
	}
	return fd;
}

int admin_create(struct daemon *daemon, const char *text, struct admin **out, char *why)
{
	struct admin_address address;
	struct admin *admin;
	int fd, status = admin_address_read(text, &address);

	if (status) {
		snprintf(why, SETTINGS_WHY_MAX, "admin: %s is no address of this host", text);
		return status;
	}
	fd = admin_listen(&address);
	if (fd < 0) {
		snprintf(why, SETTINGS_WHY_MAX,
			"admin: %s: %s: give another address with --admin, or --admin off", text,
			status_text(fd));
		return fd;
	}
	admin = memory_zalloc(sizeof(*admin));
	if (!admin)
		goto close_fd;
	admin->daemon = daemon;
	admin->http = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL, 0, NULL,
		NULL, on_request, admin, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
		(unsigned)CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
		(unsigned)CONNECTION_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		(size_t)CONNECTION_BYTES, MHD_OPTION_END);
	if (!admin->http)
		goto free_admin;
	if (!address.loopback)
		log_warn("admin",
			"%s can be reached from other hosts: it shows totals to all of them", text);
	*out = admin;
	return 0;
free_admin:
	memory_free(admin);
close_fd:
	close(fd);
	snprintf(why, SETTINGS_WHY_MAX, "admin: no memory, or no thread, for the HTTP page");
	return -ENOMEM;
}

void admin_destroy(struct admin *admin)
{
	if (!admin)
		return;
	MHD_stop_daemon(admin->http); /* closes the socket as well */
	memory_free(admin);
}
