/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_TOKENS_H
#define SKEP_TOOLS_SKEP_TOKENS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Token ids of a prompt as people and programs write them. */

enum { TOKENS_WHY_MAX = 128 };

#define TOKENS_MAX ((size_t)1 << 28)

/* All zero before the first use. */
struct tokens {
	uint32_t *ids;
	size_t count, room;
};

/*
 * Reads whole numbers to the end of @file and appends them: blanks, line ends, commas or the
 * brackets of a JSON list stand between them. Return: 0; -EINVAL, -E2BIG (more than TOKENS_MAX),
 * -ENOMEM or the errno of reading, with @why (TOKENS_WHY_MAX) to follow the file's name: ":3: …".
 */
int tokens_read(FILE *file, struct tokens *tokens, char *why);

void tokens_drop(struct tokens *tokens);

#endif
