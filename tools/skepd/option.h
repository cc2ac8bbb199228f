/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEPD_OPTION_H
#define SKEP_TOOLS_SKEPD_OPTION_H

#include "tools/skepd/settings.h"

/* One option as a row: where its field lies, how its text is read and shown. */

enum option_kind {
	OPTION_TEXT,
	OPTION_SIZE,
	OPTION_COUNT,
	OPTION_SPAN,
	OPTION_FLAG,
	OPTION_MODE,
	OPTION_WORD,
	OPTION_BLOCKS,
	OPTION_TEXTS,
	OPTION_UIDS,
	OPTION_DEVICES,
};

struct option {
	const char *key, *flag; /* in the file; on the command line, without its dashes */
	enum option_kind kind;
	uint64_t least, most;
	const char *argument, *standard, *help;
	bool live;
	size_t offset, bytes; /* of the field */
};

extern const struct option node_options[NODE_OPTION_COUNT];   /* of struct settings */
extern const struct option realm_options[REALM_OPTION_COUNT]; /* of struct realm_settings */

enum { OPTION_WHY_MAX = 320 };

/*
 * Reads @text into the field of @base (the struct that the offsets are of). A list gets one more.
 * Return: 0, or -EINVAL with @why (OPTION_WHY_MAX): "'5 apples' is no size: write 4096, …".
 */
int option_set(const struct option *option, void *base, const char *text, char *why);

/*
 * The same for one device of a list, of which the file tells path and size (NULL: none) apart. On
 * -EINVAL @key is the one that is wrong.
 */
struct device_text {
	const char *path, *size;
};
int option_device_add(const struct option *option, void *base, const struct device_text *device,
	const char **key, char *why);

/* Empties a list, so that flags replace what the file says; other kinds stay. */
void option_clear(const struct option *option, void *base);

bool option_is_list(const struct option *option);

/* Do two structs hold the same? */
bool option_same(const struct option *option, const void *one, const void *other);

/* The value in the form of the file, as JSON. @hide: of secrets only how many there are. */
json_t *option_json(const struct option *option, const void *base, bool hide);

#endif
