/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/config/units.h"
#include "store/read/layout.h"
#include "tools/skepd/option.h"
#include "tools/skepd/secret.h"

/* What is made of settings once they are read: secrets, the node's own configuration, texts. */

#define UNIT_BYTES (2ull << 20) /* pools are multiples of it */

/* ------------------------------------------------------------------------- secrets, tokens */

void settings_state_dir(const struct settings *settings, char path[SETTINGS_TEXT_MAX])
{
	const char *given = getenv("STATE_DIRECTORY"), *home = getenv("HOME");
	const char *state = getenv("XDG_STATE_HOME");

	*path = 0;
	if (*settings->state_dir)
		snprintf(path, SETTINGS_TEXT_MAX, "%s", settings->state_dir);
	else if (given && *given) /* the service manager may name several */
		snprintf(path, SETTINGS_TEXT_MAX, "%.*s", (int)strcspn(given, ":"), given);
	else if (geteuid() == 0)
		snprintf(path, SETTINGS_TEXT_MAX, "/var/lib/skep");
	else if (state && *state == '/')
		snprintf(path, SETTINGS_TEXT_MAX, "%s/skep", state);
	else if (home && *home == '/')
		snprintf(path, SETTINGS_TEXT_MAX, "%s/.local/state/skep", home);
}

void settings_secret_path(const struct settings *settings, const struct realm_settings *realm,
	char path[SETTINGS_TEXT_MAX])
{
	char folder[SETTINGS_TEXT_MAX];

	if (*realm->secret_file) {
		snprintf(path, SETTINGS_TEXT_MAX, "%s", realm->secret_file);
		return;
	}
	settings_state_dir(settings, folder);
	/* Cut short it names no file, and says so when it is opened. */
	if (snprintf(path, SETTINGS_TEXT_MAX, "%s/%s.secret", folder, realm->name) >=
		SETTINGS_TEXT_MAX)
		*path = 0;
}

static const struct realm_settings *realm_called(const struct settings *settings, const char *name)
{
	for (unsigned i = 0; settings && i < settings->realm_count; i++)
		if (!strcmp(settings->realms[i].name, name))
			return &settings->realms[i];
	return NULL;
}

static int secret_load(const struct settings *settings, struct realm_settings *realm,
	const struct settings *running, char *why)
{
	const struct realm_settings *before = realm_called(running, realm->name);
	char path[SETTINGS_TEXT_MAX];
	int got;

	if (settings->volatile_secret) {
		realm->secret_bytes = 32;
		if (before) {
			memcpy(realm->secret, before->secret, sizeof(realm->secret));
			return 0;
		}
		got = secret_draw(realm->secret, realm->secret_bytes);
		if (got)
			snprintf(why, SETTINGS_WHY_MAX, "no random bytes for a secret");
		return got;
	}
	settings_secret_path(settings, realm, path);
	got = *realm->secret_file ? secret_read(path, realm->secret, sizeof(realm->secret), why)
				  : secret_make(path, realm->secret, sizeof(realm->secret), why);
	if (got < 0)
		return got;
	realm->secret_bytes = (uint32_t)got;
	return 0;
}

int settings_load(struct settings *settings, const struct settings *running, char *why)
{
	for (unsigned i = 0; i < settings->realm_count; i++) {
		struct realm_settings *realm = &settings->realms[i];
		int status = secret_load(settings, realm, running, why);

		realm->all_tokens = realm->tokens;
		for (unsigned f = 0; f < realm->token_files.count && !status; f++)
			status = secret_tokens_read(
				realm->token_files.text[f], &realm->all_tokens, why);
		/* A token file that holds no token would open the realm to everybody. */
		if (!status && realm->token_files.count && !realm->all_tokens.count) {
			snprintf(why, SETTINGS_WHY_MAX, "realm %s: its token files hold no token",
				realm->name);
			status = -EINVAL;
		}
		if (status)
			return status;
	}
	if (!*settings->admin_token_file)
		return 0;
	return secret_tokens_read(settings->admin_token_file, &settings->admin_tokens, why);
}

/* --------------------------------------------------------------------------------- reload */

/* The first option that needs a restart and differs, or NULL. */
static const struct option *start_differs(
	const struct option *options, unsigned count, const void *one, const void *other)
{
	for (unsigned i = 0; i < count; i++)
		if (!options[i].live && !option_same(&options[i], one, other))
			return &options[i];
	return NULL;
}

int settings_reloadable(const struct settings *settings, const struct settings *running, char *why)
{
	const struct option *differs =
		start_differs(node_options, NODE_OPTION_COUNT, settings, running);

	if (differs) {
		snprintf(why, SETTINGS_WHY_MAX, "%s cannot change without a restart", differs->key);
		return -EINVAL;
	}
	for (unsigned i = 0; i < settings->realm_count; i++) {
		const struct realm_settings *realm = &settings->realms[i];
		const struct realm_settings *before = realm_called(running, realm->name);

		if (!before || settings->realm_count != running->realm_count) {
			snprintf(why, SETTINGS_WHY_MAX,
				"realms cannot be added or removed without a restart");
			return -EINVAL;
		}
		differs = start_differs(realm_options, REALM_OPTION_COUNT, realm, before);
		if (differs) {
			snprintf(why, SETTINGS_WHY_MAX,
				"realm %s: %s cannot change without a restart", realm->name,
				differs->key);
			return -EINVAL;
		}
	}
	return 0;
}

/* -------------------------------------------------------------------------------- the ssds */

bool settings_device_bytes(const char *path, uint64_t *bytes)
{
	char file[64], text[32] = "", *end;
	struct stat device;
	ssize_t got;
	int fd;

	if (stat(path, &device) || !S_ISBLK(device.st_mode))
		return false;
	/* In place of an ioctl: who looks at a configuration may not open the device. */
	snprintf(file, sizeof(file), "/sys/dev/block/%u:%u/size", major(device.st_rdev),
		minor(device.st_rdev));
	fd = open(file, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (got <= 0)
		return false;
	*bytes = strtoull(text, &end, 10) * 512; /* always in sectors of 512 bytes */
	return *bytes > 0;
}

uint64_t settings_ssd_bytes(const struct settings *settings)
{
	uint64_t bytes = 0;

	/* At most sixteen of at most 2^50: no overflow. */
	for (unsigned i = 0; i < settings->ssd.count; i++)
		bytes += settings->ssd.each[i].bytes;
	return bytes;
}

bool settings_manifest_place(struct settings *settings)
{
	const char *first = settings->ssd.each[0].path;
	char folder[SETTINGS_TEXT_MAX];
	size_t room = sizeof(settings->manifest_path);

	*settings->manifest_path = 0;
	if (!settings->ssd.count)
		return true;
	if (*settings->manifest) {
		snprintf(settings->manifest_path, room, "%s", settings->manifest);
	} else if (strncmp(first, "/dev/", 5)) {
		snprintf(settings->manifest_path, room, "%s.manifest", first);
	} else {
		/* What lies below /dev is gone after a restart of the host. */
		settings_state_dir(settings, folder);
		if (!*folder)
			return false;
		snprintf(settings->manifest_path, room, "%s/ssd.manifest", folder);
	}
	return true;
}

uint64_t settings_ssd_share(const struct settings *settings, const struct realm_settings *realm)
{
	uint64_t left = settings_ssd_bytes(settings);
	unsigned silent = 0;

	if (realm->origins[REALM_OPTION_ssd])
		return realm->ssd;
	for (unsigned i = 0; i < settings->realm_count; i++) {
		left -= MIN_OF(left, settings->realms[i].ssd);
		silent += !settings->realms[i].origins[REALM_OPTION_ssd];
	}
	/* Whole MiB, as segments are. */
	return left / silent & ~(uint64_t)((1 << 20) - 1);
}

/* -------------------------------------------------------------------------------- the node */

static uint64_t frame_bytes(const struct realm_settings *realm)
{
	return align_up(realm->dram_blocks_of.bytes, FRAME_GRANULE_BYTES);
}

/*
 * Size of a pool. One that is to hold an exact count of frames gets more than these take: the tail
 * of each slab (1.5 % at most) and of each chunk lies idle; the quota is exact.
 */
static uint64_t pool_bytes(const struct realm_settings *realm)
{
	uint64_t frames, chunks;

	if (!realm->dram_blocks_of.count)
		return align_up(realm->dram, UNIT_BYTES);
	frames = frame_bytes(realm) * realm->dram_blocks_of.count;
	chunks = MAX_OF(8u, frames >> 30) + 1;
	return align_up(
		frames + frames / 32 + chunks * (frame_bytes(realm) + UNIT_BYTES), UNIT_BYTES);
}

static uint64_t quota_bytes(const struct realm_settings *realm)
{
	if (realm->dram_blocks_of.count)
		return frame_bytes(realm) * realm->dram_blocks_of.count;
	return realm->quota ? realm->quota : pool_bytes(realm);
}

static uint64_t slots(const struct realm_settings *realm)
{
	uint64_t standard = MAX_OF(pool_bytes(realm) / (32 << 10), 4096u);

	if (realm->index_blocks)
		return realm->index_blocks;
	/* Small frames need more slots than the usual share. */
	return MIN_OF(MAX_OF(standard, 2 * realm->dram_blocks_of.count), 1ull << 31);
}

static void realm_node(const struct realm_settings *realm, struct realm_config *out)
{
	memset(out, 0, sizeof(*out));
	memcpy(out->name, realm->name, sizeof(out->name));
	memcpy(out->secret, realm->secret, sizeof(out->secret));
	out->secret_bytes = realm->secret_bytes;
	out->dram_bytes = pool_bytes(realm);
	out->dram_use_max = quota_bytes(realm);
	out->index_blocks = (uint32_t)slots(realm);
	out->record_bytes = realm->record_bytes;
	out->sessions_max = (uint32_t)realm->sessions_max;
	out->age_limit_ns = realm->age_limit;
	memcpy(out->socket_path, realm->socket, sizeof(out->socket_path));
	memcpy(out->tokens, realm->all_tokens.text, sizeof(out->tokens));
	out->token_count = realm->all_tokens.count;
	memcpy(out->uids, realm->uids.uid, sizeof(out->uids));
	out->uid_count = realm->uids.count;
}

void settings_node(
	const struct settings *settings, struct node_config *config, struct realm_config *realms)
{
	_Static_assert(sizeof(realms->tokens) == sizeof(settings->realms->all_tokens.text),
		"tokens are copied whole");
	_Static_assert(sizeof(realms->uids) == sizeof(settings->realms->uids.uid),
		"uids are copied whole");
	*config = (struct node_config){
		.socket_mode = (mode_t)settings->socket_mode,
		.chunk_bytes = settings->chunk,
		.memory_max = settings->memory_max,
		.movers = (unsigned)settings->movers,
		/* 0 would be the node's own choice. */
		.spin_ns = MAX_OF(settings->spin, 1u),
		.loop_backend = (unsigned)settings->loop,
		.id_bits = (uint32_t)settings->id_bits,
		.private_to_uid = settings->private,
		.realms = realms,
		.realm_count = settings->realm_count,
		.ssds = settings->ssd.count ? settings->ssd.each : NULL,
		.ssd_count = settings->ssd.count,
		.manifest_path = settings->ssd.count ? settings->manifest_path : NULL,
		.manifest_bytes = settings->manifest_memory,
		.ssd_wear_bytes_per_day = settings->ssd_wear,
		/* 0 would be the node's own choice. */
		.stop_ns = MAX_OF(settings->stop_seconds * NS_PER_S, 1u),
	};
	memcpy(config->socket_path, settings->socket, sizeof(config->socket_path));
	for (unsigned i = 0; i < settings->realm_count; i++) {
		realm_node(&settings->realms[i], &realms[i]);
		realms[i].ssd_bytes = settings_ssd_share(settings, &settings->realms[i]);
		/* A frame lies in one chunk. */
		if (!settings->chunk && frame_bytes(&settings->realms[i]) > 16u << 20)
			config->chunk_bytes = 1ull << 30;
	}
}

struct settings_memory settings_memory(const struct settings *settings)
{
	/* Entry, part, the keeper's half, bucket, free list, list of the evicted: 192 and some. */
	enum { SLOT_BYTES = 256 };
	struct settings_memory memory = {
		.manifest_bytes = settings->ssd.count ? settings->manifest_memory : 0};

	for (unsigned i = 0; i < settings->realm_count; i++) {
		const struct realm_settings *realm = &settings->realms[i];
		uint64_t records = realm->record_bytes;

		if (!records)
			records = pool_bytes(realm) / 16 + (64 << 20);
		memory.pool_bytes += pool_bytes(realm);
		memory.index_bytes += slots(realm) * SLOT_BYTES + records;
	}
	return memory;
}

/* ---------------------------------------------------------------------------------- texts */

static json_t *realm_json(const struct settings *settings, const struct realm_settings *realm)
{
	json_t *out = json_pack("{s:s}", "name", realm->name);
	char path[SETTINGS_TEXT_MAX];

	for (unsigned i = 0; i < REALM_OPTION_COUNT; i++)
		json_object_set_new(out, realm_options[i].key,
			option_json(&realm_options[i], realm, i == REALM_OPTION_tokens));
	/* The file that is read in fact, where none was named. */
	settings_secret_path(settings, realm, path);
	json_object_set_new(
		out, "secret_file", json_string(settings->volatile_secret ? "(volatile)" : path));
	json_object_set_new(
		out, "ssd", json_string(size_format(settings_ssd_share(settings, realm)).text));
	return out;
}

json_t *settings_json(const struct settings *settings, const char *realm)
{
	json_t *out = json_object(), *realms = json_array();

	json_object_set_new(out, "file", json_string(settings->file));
	for (unsigned i = 0; i < NODE_OPTION_COUNT; i++)
		json_object_set_new(
			out, node_options[i].key, option_json(&node_options[i], settings, false));
	json_object_set_new(out, "manifest", json_string(settings->manifest_path));
	for (unsigned i = 0; i < settings->realm_count; i++)
		if (!realm || !strcmp(realm, settings->realms[i].name))
			json_array_append_new(realms, realm_json(settings, &settings->realms[i]));
	json_object_set_new(out, "realms", realms);
	return out;
}

/* Prints a text in lines of @width columns, each begun with @lead but the first. */
static void wrapped(FILE *out, const char *text, const char *lead, size_t width)
{
	size_t column = 0;

	while (*text) {
		size_t word = strcspn(text, " ");

		if (column && column + word + 1 > width) {
			fprintf(out, "\n%s", lead);
			column = 0;
		} else if (column) {
			fputc(' ', out);
			column++;
		}
		fprintf(out, "%.*s", (int)word, text);
		column += word;
		text += word;
		text += strspn(text, " ");
	}
	fputc('\n', out);
}

static void flag_help(FILE *out, const char *flag, const char *argument, const char *help)
{
	fprintf(out, "  --%s%s%s\n        ", flag, *argument ? " " : "", argument);
	wrapped(out, help, "        ", 72);
}

static void options_help(FILE *out, const struct option *options, unsigned count)
{
	char help[OPTION_WHY_MAX];

	for (unsigned i = 0; i < count; i++) {
		const struct option *option = &options[i];

		snprintf(help, sizeof(help), "%s%s%s%s", option->help,
			*option->standard ? " (" : "",
			option->kind == OPTION_FLAG ? "" : option->standard,
			*option->standard ? ")" : "");
		flag_help(out, option->flag, option->argument,
			option->kind == OPTION_FLAG ? option->help : help);
	}
}

void settings_help(FILE *out)
{
	fprintf(out, "usage: skepd [FLAG]...\n\n"
		     "The daemon of skep: keeps KV blocks in the memory of this host for the "
		     "engines beside it.\n\nWhat it does:\n");
#define X(name, flag, argument, help) flag_help(out, flag, argument, help);
	ACTION_TABLE(X)
#undef X
	fprintf(out, "\nThe node:\n");
	options_help(out, node_options, NODE_OPTION_COUNT);
	fprintf(out, "\nRealms (the one --realm named before; else the only one):\n");
	options_help(out, realm_options, REALM_OPTION_COUNT);
	fprintf(out, "\nFlags override the file. SIGHUP reads the file again; skepd(8) says what "
		     "takes effect then.\n");
}

static void option_help_config(FILE *out, const struct option *option, const char *indent)
{
	char lead[16];
	const char *value = *option->standard ? option->standard : option->argument;
	/* What is set nowhere by default, or excludes others, is shown as a comment. */
	bool comment = !*option->standard || option->kind == OPTION_BLOCKS;

	snprintf(lead, sizeof(lead), "%s# ", indent);
	fprintf(out, "\n%s", lead);
	wrapped(out, option->help, lead, 96);
	if (*option->argument && option->kind == OPTION_WORD)
		fprintf(out, "%s%s\n", lead, option->argument);
	if (!option->live)
		fprintf(out, "%s(needs a restart)\n", lead);
	if (option->kind == OPTION_DEVICES) {
		fprintf(out, "%s#%s: [{path: PATH, size: SIZE}]\n", indent, option->key);
		return;
	}
	fprintf(out, "%s%s%s: %s%s%s\n", indent, comment ? "#" : "", option->key,
		option_is_list(option) ? "[" : "", comment ? option->argument : value,
		option_is_list(option) ? "]" : "");
}

void settings_help_config(FILE *out)
{
	fprintf(out, "# Settings of skepd, each with what holds where it is not set.\n");
	for (unsigned i = 0; i < NODE_OPTION_COUNT; i++)
		option_help_config(out, &node_options[i], "");
	fprintf(out, "\n# Tenants. Each has its own secret, index, pool and quota.\nrealms:\n"
		     "  - name: default\n");
	for (unsigned i = 0; i < REALM_OPTION_COUNT; i++)
		option_help_config(out, &realm_options[i], "    ");
}
