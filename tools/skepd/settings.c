/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skepd/settings.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/config/config.h"
#include "base/memory.h"
#include "tools/skepd/admin.h"
#include "tools/skepd/option.h"

/*
 * Reading: flags are looked at first, because they name the file; then the file is read; then flags
 * are applied over it; then the whole is checked. Whatever is wrong is said with its place: line
 * and column of the file, or the flag.
 */

/* One flag with its argument, in the order given. */
struct given {
	const struct option *option; /* NULL: --realm */
	bool of_realm;
	const char *text;
};

struct reading {
	struct settings *settings;
	struct actions *actions;
	struct given *given;
	unsigned given_count;
	const char *file; /* --config */
	struct config *config;
	const struct config_node *realm_nodes[NODE_REALMS_MAX]; /* NULL: made by a flag */
	const struct config_node *ssd_nodes[NODE_SSDS_MAX];
	char *why;
};

static int why_say(struct reading *reading, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static int why_say(struct reading *reading, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	vsnprintf(reading->why, SETTINGS_WHY_MAX, format, list);
	va_end(list);
	return -EINVAL;
}

/* ---------------------------------------------------------------------------------- flags */

static const struct action {
	const char *flag, *argument;
} action_rows[] = {
#define X(name, flag, argument, help) {flag, argument},
	ACTION_TABLE(X)
#undef X
};

enum action_number {
#define X(name, flag, argument, help) ACTION_##name,
	ACTION_TABLE(X)
#undef X
};

static int fd_read(struct reading *reading, const char *text)
{
	char *end;
	long fd;

	errno = 0;
	fd = strtol(text, &end, 10);
	if (!isdigit((unsigned char)*text) || *end || errno || fd > INT32_MAX)
		return why_say(
			reading, "--ready-fd: '%.40s' is no descriptor: write a number", text);
	reading->actions->ready_fd = (int)fd;
	return 0;
}

static int action_take(struct reading *reading, enum action_number action, const char *text)
{
	struct actions *actions = reading->actions;

	switch (action) {
	case ACTION_config:
		reading->file = text;
		break;
	case ACTION_realm:
		reading->given[reading->given_count++] = (struct given){NULL, true, text};
		break;
	case ACTION_check:
		actions->check = true;
		break;
	case ACTION_json:
		actions->json = true;
		break;
	case ACTION_foreground:
		actions->foreground = true;
		break;
	case ACTION_ready_fd:
		return fd_read(reading, text);
	case ACTION_parent_death:
		actions->parent_death = true;
		break;
	case ACTION_takeover:
		actions->takeover = true;
		break;
	case ACTION_help_config:
		actions->help_config = true;
		break;
	case ACTION_help:
		actions->help = true;
		break;
	case ACTION_version:
		actions->version = true;
		break;
	}
	return 0;
}

static bool flag_is(const char *flag, const char *typed, size_t length)
{
	return strlen(flag) == length && !memcmp(flag, typed, length);
}

/* What a typed flag is: an option or an action. */
struct flag {
	const struct option *option;
	bool of_realm;
	int action; /* -1: none */
	bool wants; /* an argument */
};

static bool flag_find(const char *typed, size_t length, struct flag *out)
{
	*out = (struct flag){.action = -1};
	for (unsigned i = 0; i < NODE_OPTION_COUNT; i++)
		if (flag_is(node_options[i].flag, typed, length))
			out->option = &node_options[i];
	for (unsigned i = 0; i < REALM_OPTION_COUNT; i++)
		if (flag_is(realm_options[i].flag, typed, length)) {
			out->option = &realm_options[i];
			out->of_realm = true;
		}
	for (unsigned i = 0; i < ARRAY_COUNT(action_rows); i++)
		if (flag_is(action_rows[i].flag, typed, length))
			out->action = (int)i;
	if (out->option)
		out->wants = out->option->kind != OPTION_FLAG;
	else if (out->action >= 0)
		out->wants = *action_rows[out->action].argument;
	return out->option || out->action >= 0;
}

static int flags_read(struct reading *reading, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		const char *typed = argv[i] + 2, *equals = strchr(argv[i], '='), *text;
		size_t length;
		struct flag flag;
		int status = 0;

		if (!strcmp(argv[i], "-h")) {
			reading->actions->help = true;
			continue;
		}
		if (strncmp(argv[i], "--", 2) || !*typed)
			return why_say(
				reading, "'%.80s' is no flag; skepd --help lists them", argv[i]);
		length = equals ? (size_t)(equals - typed) : strlen(typed);
		if (!flag_find(typed, length, &flag))
			return why_say(reading, "there is no flag --%.*s; skepd --help lists them",
				(int)MIN_OF(length, 80u), typed);
		text = equals ? equals + 1 : NULL;
		if (flag.wants && !text)
			text = i + 1 < argc ? argv[++i] : NULL;
		if (flag.wants && !text)
			return why_say(reading, "--%.*s needs an argument", (int)length, typed);
		if (!flag.wants && equals && flag.action >= 0)
			return why_say(reading, "--%.*s takes no argument", (int)length, typed);
		if (flag.option)
			reading->given[reading->given_count++] =
				(struct given){flag.option, flag.of_realm, text ? text : "true"};
		else
			status = action_take(reading, (enum action_number)flag.action, text);
		if (status)
			return status;
	}
	return 0;
}

/* --------------------------------------------------------------------------------- realms */

static struct realm_settings *realm_find(struct settings *settings, const char *name)
{
	for (unsigned i = 0; i < settings->realm_count; i++)
		if (!strcmp(settings->realms[i].name, name))
			return &settings->realms[i];
	return NULL;
}

static bool name_good(const char *name)
{
	size_t length = strlen(name);

	/* The name is part of file names and of a metric's label. */
	return length > 0 && length < NODE_NAME_MAX && name[0] != '.' && name[0] != '-' &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
		       length;
}

/* Adds a realm with what holds where nothing is set. NULL: -EINVAL was said. */
static struct realm_settings *realm_add(struct reading *reading, const char *name)
{
	struct settings *settings = reading->settings;
	struct realm_settings *realm;
	char why[OPTION_WHY_MAX];

	if (!name_good(name)) {
		why_say(reading,
			"'%.80s' is no name for a realm: 1 to %d letters, digits, '.', '_', '-'",
			name, NODE_NAME_MAX - 1);
		return NULL;
	}
	if (settings->realm_count == NODE_REALMS_MAX) {
		why_say(reading, "more than %d realms", NODE_REALMS_MAX);
		return NULL;
	}
	realm = &settings->realms[settings->realm_count++];
	memcpy(realm->name, name, strlen(name) + 1);
	for (unsigned i = 0; i < REALM_OPTION_COUNT; i++)
		if (!option_is_list(&realm_options[i]))
			SKEP_CHECK(*realm_options[i].standard == 0 ||
				   option_set(&realm_options[i], realm, realm_options[i].standard,
					   why) == 0);
	return realm;
}

/* ----------------------------------------------------------------------------------- file */

/* Everything of a mapping as the file has it; rows of the tables, then what is no option. */
struct node_texts {
	const char *text[NODE_OPTION_COUNT];
	const struct config_node *list[NODE_OPTION_COUNT];
	const struct config_node *realms;
};
struct realm_texts {
	const char *text[REALM_OPTION_COUNT];
	const struct config_node *list[REALM_OPTION_COUNT];
	const char *name;
};

#define NODE_TEXT(name)                                                                            \
	{                                                                                          \
		.key = #name, .type = CONFIG_STRING,                                               \
		.offset = offsetof(struct node_texts, text[NODE_OPTION_##name])                    \
	}
#define NODE_DEVICES(name)                                                                         \
	{                                                                                          \
		.key = #name, .type = CONFIG_MAPPINGS,                                             \
		.offset = offsetof(struct node_texts, list[NODE_OPTION_##name])                    \
	}
#define NODE_SIZE  NODE_TEXT
#define NODE_COUNT NODE_TEXT
#define NODE_SPAN  NODE_TEXT
#define NODE_FLAG  NODE_TEXT
#define NODE_MODE  NODE_TEXT
#define NODE_WORD  NODE_TEXT

static const struct config_option node_keys[] = {
#define X(name, flag, kind, ...) NODE_##kind(name),
	NODE_OPTION_TABLE(X)
#undef X
		{.key = "realms",
			.type = CONFIG_MAPPINGS,
			.offset = offsetof(struct node_texts, realms)},
};

#define KEY_TEXT(name)                                                                             \
	{                                                                                          \
		.key = #name, .type = CONFIG_STRING,                                               \
		.offset = offsetof(struct realm_texts, text[REALM_OPTION_##name])                  \
	}
#define KEY_LIST(name)                                                                             \
	{                                                                                          \
		.key = #name, .type = CONFIG_STRINGS,                                              \
		.offset = offsetof(struct realm_texts, list[REALM_OPTION_##name])                  \
	}
#define KEY_SIZE   KEY_TEXT
#define KEY_COUNT  KEY_TEXT
#define KEY_SPAN   KEY_TEXT
#define KEY_BLOCKS KEY_TEXT
#define KEY_TEXTS  KEY_LIST
#define KEY_UIDS   KEY_LIST

static const struct config_option realm_keys[] = {
#define X(name, flag, kind, ...) KEY_##kind(name),
	REALM_OPTION_TABLE(X)
#undef X
		{.key = "name",
			.type = CONFIG_STRING,
			.offset = offsetof(struct realm_texts, name),
			.default_text = config_required},
};

static int config_say(struct reading *reading, const struct config_error *error)
{
	return why_say(reading, "%s", error->text);
}

/* Sets one option from its key. */
static int key_set(struct reading *reading, const struct config_node *mapping,
	const struct option *option, void *base, const char *text)
{
	struct config_error error;
	char why[OPTION_WHY_MAX];

	if (option_set(option, base, text, why) == 0)
		return 0;
	config_fail(&error, config_find(mapping, option->key), "%s: %s", option->key, why);
	return config_say(reading, &error);
}

static int list_set(struct reading *reading, const struct config_node *list,
	const struct option *option, void *base)
{
	const struct config_node *item = NULL;
	struct config_error error;
	char why[OPTION_WHY_MAX];

	while ((item = config_next(list, item)))
		if (option_set(option, base, config_text(item), why)) {
			config_fail(&error, item, "%s: %s", option->key, why);
			return config_say(reading, &error);
		}
	return 0;
}

static int file_realm_read(struct reading *reading, const struct config_node *mapping)
{
	static const struct config_table table = {realm_keys, ARRAY_COUNT(realm_keys)};
	struct realm_settings *realm;
	struct config_error error;
	struct realm_texts texts;
	int status;

	memset(&texts, 0, sizeof(texts));
	if (config_fill(mapping, &table, &texts, &error))
		return config_say(reading, &error);
	if (realm_find(reading->settings, texts.name)) {
		config_fail(&error, config_find(mapping, "name"), "a second realm called %s",
			texts.name);
		return config_say(reading, &error);
	}
	realm = realm_add(reading, texts.name);
	if (!realm) {
		config_fail(&error, config_find(mapping, "name"), "%s", reading->why);
		return config_say(reading, &error);
	}
	reading->realm_nodes[realm - reading->settings->realms] = mapping;
	for (unsigned i = 0; i < REALM_OPTION_COUNT; i++) {
		status = 0;
		if (texts.text[i])
			status = key_set(reading, mapping, &realm_options[i], realm, texts.text[i]);
		if (!status && texts.list[i])
			status = list_set(reading, texts.list[i], &realm_options[i], realm);
		if (status)
			return status;
		if (texts.text[i] || texts.list[i])
			realm->origins[i] = ORIGIN_FILE;
	}
	return 0;
}

static int devices_set(
	struct reading *reading, const struct config_node *list, const struct option *option)
{
	static const struct config_option keys[] = {
		{.key = "path",
			.type = CONFIG_STRING,
			.offset = offsetof(struct device_text, path),
			.default_text = config_required},
		{.key = "size",
			.type = CONFIG_STRING,
			.offset = offsetof(struct device_text, size)},
	};
	static const struct config_table table = {keys, ARRAY_COUNT(keys)};
	const struct config_node *item = NULL;
	struct config_error error;

	while ((item = config_next(list, item))) {
		struct device_text device = {0};
		char why[OPTION_WHY_MAX];
		const char *key;

		if (config_fill(item, &table, &device, &error))
			return config_say(reading, &error);
		if (option_device_add(option, reading->settings, &device, &key, why)) {
			config_fail(&error, config_find(item, key), "%s: %s", option->key, why);
			return config_say(reading, &error);
		}
		reading->ssd_nodes[reading->settings->ssd.count - 1] = item;
	}
	return 0;
}

static int file_read(struct reading *reading)
{
	static const struct config_table table = {node_keys, ARRAY_COUNT(node_keys)};
	struct settings *settings = reading->settings;
	const struct config_node *root, *mapping = NULL;
	struct config_error error;
	struct node_texts texts;
	int status = config_read_file(settings->file, &reading->config, &error);

	if (status) {
		config_say(reading, &error);
		return status;
	}
	memset(&texts, 0, sizeof(texts));
	root = config_root(reading->config);
	if (config_fill(root, &table, &texts, &error))
		return config_say(reading, &error);
	for (unsigned i = 0; i < NODE_OPTION_COUNT; i++) {
		if (texts.text[i])
			status = key_set(reading, root, &node_options[i], settings, texts.text[i]);
		if (texts.list[i])
			status = devices_set(reading, texts.list[i], &node_options[i]);
		if (status)
			return status;
		if (texts.text[i] || texts.list[i])
			settings->origins[i] = ORIGIN_FILE;
	}
	while (texts.realms && (mapping = config_next(texts.realms, mapping))) {
		status = file_realm_read(reading, mapping);
		if (status)
			return status;
	}
	return 0;
}

/* -------------------------------------------------------------------- flags over the file */

/* The realm that a realm's flag is for: the one named last, or the only one there is. */
static struct realm_settings *flag_realm(
	struct reading *reading, const struct given *given, struct realm_settings *named)
{
	struct settings *settings = reading->settings;

	if (named)
		return named;
	if (settings->realm_count == 0)
		return realm_add(reading, "default");
	if (settings->realm_count == 1)
		return &settings->realms[0];
	why_say(reading, "--%s: there are %u realms: say --realm NAME before it",
		given->option->flag, settings->realm_count);
	return NULL;
}

static int flags_apply(struct reading *reading)
{
	struct settings *settings = reading->settings;
	struct realm_settings *named = NULL, *realm;
	char why[OPTION_WHY_MAX];

	for (unsigned i = 0; i < reading->given_count; i++) {
		const struct given *given = &reading->given[i];
		uint32_t *origin;
		void *base;

		if (!given->option) {
			named = realm_find(settings, given->text);
			if (!named)
				named = realm_add(reading, given->text);
			if (!named)
				return -EINVAL;
			continue;
		}
		if (given->of_realm) {
			realm = flag_realm(reading, given, named);
			if (!realm)
				return -EINVAL;
			base = realm;
			origin = &realm->origins[given->option - realm_options];
		} else {
			base = settings;
			origin = &settings->origins[given->option - node_options];
		}
		/* The first of a list's flags ends what the file had; further ones add. */
		if (*origin != ORIGIN_FLAG)
			option_clear(given->option, base);
		*origin = ORIGIN_FLAG;
		if (option_set(given->option, base, given->text, why))
			return why_say(reading, "--%s: %s", given->option->flag, why);
	}
	return 0;
}

/* --------------------------------------------------------------------------------- checks */

/* Says what is wrong with an option of a realm (or, with @realm NULL, of the node), and where. */
static int option_fail(struct reading *reading, const struct realm_settings *realm,
	const struct option *option, const char *what)
{
	const struct config_node *mapping = NULL;
	struct config_error error;
	uint32_t origin;

	if (realm) {
		origin = realm->origins[option - realm_options];
		mapping = reading->realm_nodes[realm - reading->settings->realms];
	} else {
		origin = reading->settings->origins[option - node_options];
		mapping = reading->config ? config_root(reading->config) : NULL;
	}
	if (origin == ORIGIN_FILE && mapping && config_find(mapping, option->key)) {
		config_fail(&error, config_find(mapping, option->key), "%s: %s", option->key, what);
		return config_say(reading, &error);
	}
	return why_say(reading, "--%s%s%s: %s", option->flag, realm ? " of realm " : "",
		realm ? realm->name : "", what);
}

static int realm_check(struct reading *reading, const struct realm_settings *realm)
{
	const struct settings *settings = reading->settings;
	bool counted = realm->dram_blocks_of.count;

	if (counted && (realm->origins[REALM_OPTION_dram] || realm->origins[REALM_OPTION_quota]))
		return option_fail(reading, realm, &realm_options[REALM_OPTION_dram_blocks_of],
			"it stands in place of dram and quota: take those out");
	if (!counted && realm->quota > realm->dram)
		return option_fail(reading, realm, &realm_options[REALM_OPTION_quota],
			"it is larger than dram");
	if (realm->tokens.count + realm->token_files.count > NODE_TOKENS_MAX)
		return option_fail(reading, realm, &realm_options[REALM_OPTION_token_files],
			"a realm has at most 8 tokens");
	if (!*realm->socket)
		return 0;
	if (!strcmp(realm->socket, settings->socket))
		return option_fail(reading, realm, &realm_options[REALM_OPTION_socket],
			"it is the common socket: a realm's own is another one");
	for (const struct realm_settings *other = settings->realms; other < realm; other++)
		if (!strcmp(realm->socket, other->socket))
			return option_fail(reading, realm, &realm_options[REALM_OPTION_socket],
				"another realm has the same");
	return 0;
}

/* Says what is wrong with an ssd, and where it was named. */
static int ssd_fail(struct reading *reading, const struct node_ssd *ssd, const char *what)
{
	const struct settings *settings = reading->settings;
	const struct config_node *node = reading->ssd_nodes[ssd - settings->ssd.each];
	struct config_error error;

	if (settings->origins[NODE_OPTION_ssd] == ORIGIN_FILE) {
		config_fail(&error, config_find(node, "path"), "ssd: %.200s: %s", ssd->path, what);
		return config_say(reading, &error);
	}
	return why_say(reading, "--ssd: %.200s: %s", ssd->path, what);
}

/* Sizes that were left out, and the place of the manifest. */
static int ssds_check(struct reading *reading)
{
	struct settings *settings = reading->settings;

	for (unsigned i = 0; i < settings->ssd.count; i++) {
		struct node_ssd *ssd = &settings->ssd.each[i];

		if (!ssd->bytes && !settings_device_bytes(ssd->path, &ssd->bytes))
			return ssd_fail(reading, ssd,
				"only a block device that is there has a size of its own: name one "
				"(100GiB)");
	}
	if (*settings->manifest && *settings->manifest != '/')
		return option_fail(reading, NULL, &node_options[NODE_OPTION_manifest],
			"it does not begin at the root");
	if (!settings_manifest_place(settings))
		return option_fail(reading, NULL, &node_options[NODE_OPTION_manifest],
			"the ssd is a device and there is no state directory: name a directory");
	for (unsigned i = 0; i < settings->ssd.count; i++)
		if (!strcmp(settings->manifest_path, settings->ssd.each[i].path))
			return option_fail(reading, NULL, &node_options[NODE_OPTION_manifest],
				"it is an ssd: name a directory beside it");
	return 0;
}

/* Every realm has what it asks for, and those that do not ask get something. */
static int shares_check(struct reading *reading)
{
	const struct settings *settings = reading->settings;
	uint64_t left = settings_ssd_bytes(settings);

	for (unsigned i = 0; i < settings->realm_count; i++) {
		const struct realm_settings *realm = &settings->realms[i];
		const struct option *option = &realm_options[REALM_OPTION_ssd];

		if (realm->ssd && !settings->ssd.count)
			return option_fail(
				reading, realm, option, "there is no ssd: name one (ssd:, --ssd)");
		if (realm->ssd > left)
			return option_fail(reading, realm, option,
				"together with the realms before it that is more than the ssds "
				"have");
		left -= realm->ssd;
	}
	for (unsigned i = 0; settings->ssd.count && i < settings->realm_count; i++)
		if (!settings->realms[i].origins[REALM_OPTION_ssd] &&
			!settings_ssd_share(settings, &settings->realms[i]))
			return option_fail(reading, &settings->realms[i],
				&realm_options[REALM_OPTION_ssd],
				"the other realms leave nothing of the ssds: give them less, or "
				"this one 0");
	return 0;
}

static int settings_check(struct reading *reading)
{
	const struct settings *settings = reading->settings;
	struct admin_address address;
	int status = 0;

	if (!*settings->socket)
		return option_fail(reading, NULL, &node_options[NODE_OPTION_socket],
			"a daemon needs a socket");
	if (strcmp(settings->admin, "off") && admin_address_read(settings->admin, &address))
		return option_fail(reading, NULL, &node_options[NODE_OPTION_admin],
			"no address of a host: write 127.0.0.1:7420, [::1]:7420, or off");
	for (unsigned i = 0; i < settings->realm_count && !status; i++)
		status = realm_check(reading, &settings->realms[i]);
	if (!status)
		status = ssds_check(reading);
	return status ? status : shares_check(reading);
}

/* ------------------------------------------------------------------------------ the whole */

/* What holds where nothing is set; the environment stands between the table and the file. */
static int standards_set(struct reading *reading)
{
	const char *socket = getenv("SKEP_SOCKET");
	char why[OPTION_WHY_MAX];

	for (unsigned i = 0; i < NODE_OPTION_COUNT; i++)
		if (!option_is_list(&node_options[i]))
			SKEP_CHECK(option_set(&node_options[i], reading->settings,
					   node_options[i].standard, why) == 0);
	if (!socket || !*socket)
		return 0;
	if (!strncmp(socket, "unix:", 5))
		socket += 5;
	if (option_set(&node_options[NODE_OPTION_socket], reading->settings, socket, why))
		return why_say(reading, "$SKEP_SOCKET: %s", why);
	return 0;
}

static int settings_read(struct reading *reading)
{
	struct settings *settings = reading->settings;
	const char *file = reading->file;
	int status = standards_set(reading);

	if (status)
		return status;
	if (!file && access(SETTINGS_FILE_STANDARD, F_OK) == 0)
		file = SETTINGS_FILE_STANDARD;
	if (file && strlen(file) >= sizeof(settings->file))
		return why_say(reading, "--config: the path is too long");
	if (file) {
		memcpy(settings->file, file, strlen(file) + 1);
		status = file_read(reading);
	}
	if (!status)
		status = flags_apply(reading);
	if (!status && settings->realm_count == 0 && !realm_add(reading, "default"))
		status = -EINVAL;
	return status ? status : settings_check(reading);
}

int settings_create(
	int argc, char **argv, struct settings **out, struct actions *actions, char *why)
{
	struct reading reading = {.actions = actions, .why = why};
	int status = -ENOMEM;

	*out = NULL;
	*actions = (struct actions){.ready_fd = -1};
	snprintf(why, SETTINGS_WHY_MAX, "out of memory");
	reading.settings = memory_zalloc(sizeof(*reading.settings));
	reading.given = memory_calloc((size_t)argc + 1, sizeof(*reading.given));
	if (reading.settings && reading.given)
		status = flags_read(&reading, argc, argv);
	if (!status && !actions->help && !actions->help_config && !actions->version)
		status = settings_read(&reading);
	config_free(reading.config);
	memory_free(reading.given);
	if (status)
		settings_destroy(reading.settings);
	else
		*out = reading.settings;
	return status;
}

void settings_destroy(struct settings *settings)
{
	/* Secrets do not stay behind in freed memory; realms that were never made hold none. */
	for (unsigned i = 0; settings && i < settings->realm_count; i++)
		explicit_bzero(&settings->realms[i], sizeof(settings->realms[i]));
	if (settings)
		explicit_bzero(&settings->admin_tokens, sizeof(settings->admin_tokens));
	memory_free(settings);
}
