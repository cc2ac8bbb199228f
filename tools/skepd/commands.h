/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEPD_COMMANDS_H
#define SKEP_TOOLS_SKEPD_COMMANDS_H

#include "tools/skepd/daemon.h"

/*
 * Operators' requests: one JSON object in, one out (docs/operations.md lists them).
 *
 *	{"command": "where", "realm": "default", "id": "…"}
 *	{"error": "no such block", "code": "ENOENT"}
 *
 * X(name, operators, arguments, help): `operators` 1 = not for a realm's own sessions.
 */
#define COMMAND_TABLE(X)                                                                           \
	X(status, 0, "", "node and realms in short")                                               \
	X(realms, 0, "realm", "all that realms count")                                             \
	X(spaces, 0, "realm", "spaces, with what their blocks must agree in")                      \
	X(sessions, 0, "realm", "who is connected")                                                \
	X(blocks, 0, "realm space below roots pinned cursor limit", "a page of blocks")            \
	X(where, 0, "realm id", "the block of an id, and in which tier it rests")                  \
	X(pin, 0, "realm id", "hold a block and its ancestors in DRAM")                            \
	X(unpin, 0, "realm id", "take such a pin back")                                            \
	X(evict, 0, "realm id bytes", "remove a block and all below it, or the coldest blocks")    \
	X(purge, 0, "realm space all", "remove the blocks of a space, or of all spaces")           \
	X(verify, 0, "realm cursor bytes", "read blocks from the ssd again and verify them")       \
	X(unfence, 1, "device", "take a fenced device of the ssd tier into use again")             \
	X(config, 1, "", "what is in force, secrets left out")                                     \
	X(check, 1, "", "what skepd --check says of this host")                                    \
	X(metrics, 0, "", "the metrics page as text")

struct commands;

/* A worker thread that waits for commands. Return: 0, -ENOMEM, -EMFILE, -EAGAIN. */
int commands_create(struct daemon *daemon, struct commands **out);

/*
 * node_config.command, with the struct commands as its argument: hands over, never blocks. Return:
 * 0; -EAGAIN: too many at a time; -ESHUTDOWN: after commands_stop().
 */
int commands_take(void *commands, struct node_command *command);

/* Answers what still waits with an error and ends the thread; later commands are refused at once.
 */
void commands_stop(struct commands *commands);

/* After commands_stop() and node_destroy(). NULL is nothing. */
void commands_destroy(struct commands *commands);

/*
 * What one request is answered, as a JSON object that the caller lets go of; NULL: no memory. For
 * the worker and for tests. @realm: that of the session, NULL for an operator.
 */
json_t *command_answer(struct daemon *daemon, const char *realm, const char *text, size_t bytes);

#endif
