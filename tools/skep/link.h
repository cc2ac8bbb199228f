/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_LINK_H
#define SKEP_TOOLS_SKEP_LINK_H

#include <jansson.h>

#include "tools/skep/commands.h"

/* A connection with the daemon for commands (WIRE_COMMAND): one question at a time. */
struct link;

/*
 * Connects and says who we are. What is wrong is printed, with the fix. Return: EXIT_OK;
 * EXIT_UNREACHABLE, EXIT_REFUSED, EXIT_DAEMON, EXIT_USAGE (the token file).
 */
int link_open(const struct arguments *arguments, struct link **out);

/* NULL is nothing. */
void link_close(struct link *link);

/* The daemon's version, major << 16 | minor << 8 | patch. */
unsigned link_version(const struct link *link);

/*
 * Asks @request (which it takes over; NULL counts as out of memory) and waits for the answer.
 * Errors are printed, as text and, with --json, as the daemon's JSON. Return: EXIT_OK and an
 * answer that the caller lets go of; EXIT_NEGATIVE (nothing of that name or id), EXIT_USAGE,
 * EXIT_REFUSED, EXIT_UNREACHABLE (it went away), EXIT_DAEMON.
 */
int link_ask(struct link *link, json_t *request, json_t **answer);

/* Opens, asks one question, closes. */
int link_ask_once(const struct arguments *arguments, json_t *request, json_t **answer);

/* A request for @command, with --realm where it was given. */
json_t *request_of(const struct arguments *arguments, const char *command);

/* Prints JSON and lets go of it. Return: EXIT_OK, or EXIT_DAEMON where it cannot be written. */
int json_print(json_t *value);

#endif
