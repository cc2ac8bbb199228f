/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_STORE_H
#define SKEP_TOOLS_SKEP_STORE_H

#include "engine/include/skep/skep.h"
#include "tools/skep/commands.h"

/* For commands that use the store as an engine does, through libskep. */

/*
 * Opens a session in @realm (NULL: --realm, or what the daemon gives) with the token of
 * --token-file. What is wrong is printed. Return: EXIT_OK; EXIT_UNREACHABLE, EXIT_REFUSED, …
 */
int store_open(const struct arguments *arguments, const char *realm, uint32_t flags,
	struct skep **session);

/* Prints "skep: WHAT: …" for a result of libskep. Return: how skep ends. */
int store_error(const char *what, int status);

#endif
