/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/tokens.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "base/memory.h"

static int token_add(struct tokens *tokens, uint32_t id)
{
	if (tokens->count == TOKENS_MAX)
		return -E2BIG;
	if (tokens->count == tokens->room) {
		size_t room = tokens->room ? tokens->room * 2 : 4096;
		uint32_t *ids = memory_realloc(tokens->ids, room * sizeof(*ids));

		if (!ids)
			return -ENOMEM;
		tokens->ids = ids;
		tokens->room = room;
	}
	tokens->ids[tokens->count++] = id;
	return 0;
}

/* Reads the number that begins with @c and the character after it. Above 32 bits: any such value.
 */
static uint64_t number_read(FILE *file, int *c)
{
	uint64_t value = 0;

	for (; isdigit(*c); *c = getc(file))
		if (value <= UINT32_MAX)
			value = value * 10 + (uint64_t)(*c - '0');
	return value;
}

int tokens_read(FILE *file, struct tokens *tokens, char *why)
{
	unsigned long line = 1;
	int c = getc(file), status;

	while (c != EOF) {
		uint64_t id;

		if (isspace(c) || c == ',' || c == '[' || c == ']') {
			line += c == '\n';
			c = getc(file);
			continue;
		}
		if (!isdigit(c)) {
			snprintf(why, TOKENS_WHY_MAX, ":%lu: '%c' is no part of a token id", line,
				isprint(c) ? c : '?');
			return -EINVAL;
		}
		id = number_read(file, &c);
		if (id > UINT32_MAX) {
			snprintf(why, TOKENS_WHY_MAX, ":%lu: a token id has at most 32 bits", line);
			return -EINVAL;
		}
		status = token_add(tokens, (uint32_t)id);
		if (status) {
			snprintf(why, TOKENS_WHY_MAX, ":%lu: %s", line,
				status == -ENOMEM ? "out of memory" : "too many tokens");
			return status;
		}
	}
	if (!ferror(file))
		return 0;
	status = -errno;
	snprintf(why, TOKENS_WHY_MAX, ": %s", strerror(-status));
	return status;
}

void tokens_drop(struct tokens *tokens)
{
	memory_free(tokens->ids);
	*tokens = (struct tokens){0};
}
