/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skepd/option.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/config/units.h"

enum { START = 0, LIVE = 1 };

#define ROW(owner, key, flag, kind, least, most, argument, standard, live, help)                   \
	{                                                                                          \
#key, flag, OPTION_##kind, least, most, argument, standard, help, live,            \
			offsetof(owner, key), sizeof(((owner *)NULL)->key)                         \
	}

const struct option node_options[NODE_OPTION_COUNT] = {
#define X(...) ROW(struct settings, __VA_ARGS__),
	NODE_OPTION_TABLE(X)
#undef X
};

const struct option realm_options[REALM_OPTION_COUNT] = {
#define X(...) ROW(struct realm_settings, __VA_ARGS__),
	REALM_OPTION_TABLE(X)
#undef X
};

bool option_is_list(const struct option *option)
{
	return option->kind == OPTION_TEXTS || option->kind == OPTION_UIDS ||
	       option->kind == OPTION_DEVICES;
}

/* -------------------------------------------------------------------------------- reading */

static int whole_read(const char *text, int base, uint64_t *value)
{
	char *end;

	/* strtoull takes signs and blanks, which are no part of a number here. */
	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	*value = strtoull(text, &end, base);
	return *end ? -EINVAL : errno ? -ERANGE : 0;
}

/* SIZE, COUNT, SPAN, MODE. Return: 0, -EINVAL (not one), -ERANGE. */
static int amount_read(enum option_kind kind, const char *text, uint64_t *value)
{
	switch (kind) {
	case OPTION_SIZE:
		return size_parse(text, value);
	case OPTION_SPAN:
		if (strcmp(text, "never"))
			return duration_parse(text, value);
		*value = CLOCK_NEVER;
		return 0;
	case OPTION_MODE:
		return whole_read(text, 8, value);
	default:
		return whole_read(text, 10, value);
	}
}

struct amount_text {
	char text[48];
};

static struct amount_text amount_show(enum option_kind kind, uint64_t value)
{
	struct amount_text shown;

	if (kind == OPTION_SIZE)
		snprintf(shown.text, sizeof(shown.text), "%s", size_format(value).text);
	else if (kind == OPTION_SPAN && value == CLOCK_NEVER)
		snprintf(shown.text, sizeof(shown.text), "never");
	else if (kind == OPTION_SPAN)
		snprintf(shown.text, sizeof(shown.text), "%s", duration_format(value).text);
	else
		snprintf(shown.text, sizeof(shown.text),
			kind == OPTION_MODE ? "%04" PRIo64 : "%" PRIu64, value);
	return shown;
}

static const char *kind_example(enum option_kind kind)
{
	switch (kind) {
	case OPTION_SIZE:
		return "a size: write 4096, 64KiB, 2GiB";
	case OPTION_SPAN:
		return "a time: write 50us, 30s, 5m, never";
	case OPTION_MODE:
		return "a mode: write octal digits, 0660";
	default:
		return "a whole number";
	}
}

static int amount_set(const struct option *option, uint64_t *field, const char *text, char *why)
{
	uint64_t value = 0;
	int status = amount_read(option->kind, text, &value);

	if (status == -EINVAL) {
		snprintf(
			why, OPTION_WHY_MAX, "'%.80s' is not %s", text, kind_example(option->kind));
		return -EINVAL;
	}
	if (status || value < option->least || value > option->most) {
		snprintf(why, OPTION_WHY_MAX, "%.80s is out of bounds: %s to %s", text,
			amount_show(option->kind, option->least).text,
			amount_show(option->kind, option->most).text);
		return -EINVAL;
	}
	*field = value;
	return 0;
}

/* Number of @text among "a|b|c", or -1. */
static int word_number(const char *words, const char *text)
{
	size_t length = strlen(text);

	for (int number = 0;; number++) {
		size_t here = strcspn(words, "|");

		if (here == length && !memcmp(words, text, length))
			return number;
		words += here;
		if (!*words)
			return -1;
		words++;
	}
}

static int word_set(const struct option *option, uint64_t *field, const char *text, char *why)
{
	int number = word_number(option->argument, text);

	if (number < 0) {
		snprintf(why, OPTION_WHY_MAX, "'%.80s' is not one of %s", text, option->argument);
		return -EINVAL;
	}
	*field = (uint64_t)number;
	return 0;
}

static int flag_set(bool *field, const char *text, char *why)
{
	*field = !strcmp(text, "true");
	if (*field || !strcmp(text, "false"))
		return 0;
	snprintf(why, OPTION_WHY_MAX, "'%.80s' is neither true nor false", text);
	return -EINVAL;
}

static int text_set(char *field, size_t room, const char *text, char *why)
{
	if (strlen(text) >= room) {
		snprintf(why, OPTION_WHY_MAX, "'%.40s...' is too long: at most %zu characters",
			text, room - 1);
		return -EINVAL;
	}
	memcpy(field, text, strlen(text) + 1);
	return 0;
}

static int blocks_set(struct block_count *field, const char *text, char *why)
{
	const char *colon = strchr(text, ':');
	char bytes[32] = "";

	if (colon && (size_t)(colon - text) < sizeof(bytes))
		memcpy(bytes, text, (size_t)(colon - text));
	if (!colon || size_parse(bytes, &field->bytes) ||
		whole_read(colon + 1, 10, &field->count) || !field->bytes != !field->count ||
		field->bytes > 1u << 30 || field->count > 1u << 30) {
		snprintf(
			why, OPTION_WHY_MAX, "'%.80s' is not BYTES:COUNT: write 16KiB:10000", text);
		return -EINVAL;
	}
	return 0;
}

static int texts_add(struct text_list *list, const char *text, char *why)
{
	if (!*text) {
		snprintf(why, OPTION_WHY_MAX, "an empty text is of no use here");
		return -EINVAL;
	}
	if (list->count == NODE_TOKENS_MAX) {
		snprintf(why, OPTION_WHY_MAX, "more than %d", NODE_TOKENS_MAX);
		return -EINVAL;
	}
	return text_set(list->text[list->count], SETTINGS_TOKEN_MAX, text, why)
		       ? -EINVAL
		       : (list->count++, 0);
}

static int uids_add(struct uid_list *list, const char *text, char *why)
{
	uint64_t uid = 0;

	/* The largest uid means "none" to the system. */
	if (whole_read(text, 10, &uid) || uid >= (uid_t)-1) {
		snprintf(why, OPTION_WHY_MAX, "'%.80s' is no uid: write a number", text);
		return -EINVAL;
	}
	if (list->count == NODE_UIDS_MAX) {
		snprintf(why, OPTION_WHY_MAX, "more than %d uids", NODE_UIDS_MAX);
		return -EINVAL;
	}
	list->uid[list->count++] = (uid_t)uid;
	return 0;
}

int option_device_add(const struct option *option, void *base, const struct device_text *device,
	const char **key, char *why)
{
	struct device_list *list = (struct device_list *)((char *)base + option->offset);
	struct option size = {.kind = OPTION_SIZE, .least = option->least, .most = option->most};
	uint64_t bytes = 0; /* the whole device */

	*key = "path";
	if (list->count == NODE_SSDS_MAX) {
		snprintf(why, OPTION_WHY_MAX, "more than %d", NODE_SSDS_MAX);
		return -EINVAL;
	}
	/* A daemon started in another folder would make other files. */
	if (*device->path != '/') {
		snprintf(why, OPTION_WHY_MAX, "'%.80s' does not begin at the root: write /%.80s",
			device->path, *device->path ? device->path : "data/skep.ssd");
		return -EINVAL;
	}
	for (unsigned i = 0; i < list->count; i++)
		if (!strcmp(list->each[i].path, device->path)) {
			snprintf(why, OPTION_WHY_MAX, "%.80s is named twice", device->path);
			return -EINVAL;
		}
	if (device->size) {
		*key = "size";
		if (amount_set(&size, &bytes, device->size, why))
			return -EINVAL;
		*key = "path";
	}
	if (text_set(list->each[list->count].path, sizeof(list->each->path), device->path, why))
		return -EINVAL;
	list->each[list->count++].bytes = bytes;
	return 0;
}

/*
 * "PATH:SIZE", or "PATH" alone. Names below /dev have colons of their own
 * (/dev/disk/by-path/pci-0000:03:00.0-nvme-1): there a size is what ends in its unit.
 */
static int device_add(const struct option *option, void *base, const char *text, char *why)
{
	const char *colon = strrchr(text, ':'), *key;
	struct device_text device = {text, NULL};
	char path[sizeof(((struct node_ssd *)NULL)->path)];
	uint64_t bytes;

	if (colon && !strncmp(text, "/dev/", 5) &&
		(text[strlen(text) - 1] != 'B' || size_parse(colon + 1, &bytes) == -EINVAL))
		colon = NULL;
	if (colon && (size_t)(colon - text) < sizeof(path)) {
		memcpy(path, text, (size_t)(colon - text));
		path[colon - text] = 0;
		device = (struct device_text){path, colon + 1};
	}
	return option_device_add(option, base, &device, &key, why);
}

int option_set(const struct option *option, void *base, const char *text, char *why)
{
	void *field = (char *)base + option->offset;

	switch (option->kind) {
	case OPTION_SIZE:
	case OPTION_COUNT:
	case OPTION_SPAN:
	case OPTION_MODE:
		return amount_set(option, field, text, why);
	case OPTION_WORD:
		return word_set(option, field, text, why);
	case OPTION_FLAG:
		return flag_set(field, text, why);
	case OPTION_TEXT:
		return text_set(field, option->bytes, text, why);
	case OPTION_BLOCKS:
		return blocks_set(field, text, why);
	case OPTION_TEXTS:
		return texts_add(field, text, why);
	case OPTION_UIDS:
		return uids_add(field, text, why);
	case OPTION_DEVICES:
		return device_add(option, base, text, why);
	}
	SKEP_CHECK(!"a kind");
	return -EINVAL;
}

void option_clear(const struct option *option, void *base)
{
	if (option_is_list(option))
		memset((char *)base + option->offset, 0, option->bytes);
}

bool option_same(const struct option *option, const void *one, const void *other)
{
	const char *a = (const char *)one + option->offset;
	const char *b = (const char *)other + option->offset;

	/* What lies behind the end of a text does not count. Lists are zero there. */
	if (option->kind == OPTION_TEXT)
		return !strcmp(a, b);
	return !memcmp(a, b, option->bytes);
}

/* -------------------------------------------------------------------------------- showing */

static json_t *texts_json(const struct text_list *list, bool hide)
{
	json_t *out = json_array();

	for (unsigned i = 0; i < list->count; i++)
		json_array_append_new(out, json_string(hide ? "(hidden)" : list->text[i]));
	return out;
}

static json_t *uids_json(const struct uid_list *list)
{
	json_t *out = json_array();

	for (unsigned i = 0; i < list->count; i++)
		json_array_append_new(out, json_integer(list->uid[i]));
	return out;
}

static json_t *devices_json(const struct device_list *list)
{
	json_t *out = json_array();

	for (unsigned i = 0; i < list->count; i++)
		json_array_append_new(out, json_pack("{s:s s:s}", "path", list->each[i].path,
						   "size", size_format(list->each[i].bytes).text));
	return out;
}

static json_t *word_json(const char *words, uint64_t number)
{
	for (; number; number--)
		words = strchr(words, '|') + 1;
	return json_stringn(words, strcspn(words, "|"));
}

json_t *option_json(const struct option *option, const void *base, bool hide)
{
	const void *field = (const char *)base + option->offset;
	const struct block_count *blocks = field;
	uint64_t amount = 0;

	switch (option->kind) {
	case OPTION_SIZE:
	case OPTION_SPAN:
	case OPTION_MODE:
		memcpy(&amount, field, sizeof(amount));
		return json_string(amount_show(option->kind, amount).text);
	case OPTION_COUNT:
		memcpy(&amount, field, sizeof(amount));
		return json_integer((json_int_t)amount);
	case OPTION_WORD:
		memcpy(&amount, field, sizeof(amount));
		return word_json(option->argument, amount);
	case OPTION_FLAG:
		return json_boolean(*(const bool *)field);
	case OPTION_TEXT:
		return json_string(field);
	case OPTION_BLOCKS:
		return json_sprintf("%s:%" PRIu64, size_format(blocks->bytes).text, blocks->count);
	case OPTION_TEXTS:
		return texts_json(field, hide);
	case OPTION_UIDS:
		return uids_json(field);
	case OPTION_DEVICES:
		return devices_json(field);
	}
	SKEP_CHECK(!"a kind");
	return NULL;
}
