/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEPD_ADMIN_H
#define SKEP_TOOLS_SKEPD_ADMIN_H

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "tools/skepd/daemon.h"

/*
 * The HTTP page: GET /metrics (Prometheus text), /healthz (200 while the keeper answers, else 503),
 * / (a page for people). Totals alone, unless the request carries a token of admin_token_file as
 * "Authorization: Bearer TOKEN"; a wrong token is refused. A bounded number of connections, each
 * bounded in time and memory, served by one thread.
 */
struct admin;

struct admin_address {
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} socket;
	socklen_t bytes;
	bool loopback;
};

/* Reads "127.0.0.1:7420", "localhost:7420", "[::1]:7420"; -EINVAL for anything else. May look up.
 */
int admin_address_read(const char *text, struct admin_address *out);

/*
 * Listens and starts the thread. Return: 0; -EADDRINUSE, -EADDRNOTAVAIL, -EINVAL, … with @why
 * (SETTINGS_WHY_MAX).
 */
int admin_create(struct daemon *daemon, const char *address, struct admin **out, char *why);

/* Ends the thread and its connections. NULL is nothing. */
void admin_destroy(struct admin *admin);

/* Is @header "Bearer " and one of @tokens? Takes the same time whatever is wrong. */
bool admin_token_right(const char *header, const struct text_list *tokens);

#endif
