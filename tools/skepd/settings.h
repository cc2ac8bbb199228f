/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEPD_SETTINGS_H
#define SKEP_TOOLS_SKEPD_SETTINGS_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "store/node.h"
#include "tools/skepd/options.h"

/*
 * The configuration as a whole: what flags and file said, checked, with defaults in place of what
 * they did not say. Plain data made once and then read; a reload makes a second one.
 */

enum {
	SETTINGS_TEXT_MAX = 1024,
	SETTINGS_WHY_MAX = 768,
	SETTINGS_TOKEN_MAX = NODE_NAME_MAX * 4,
};

#define SETTINGS_FILE_STANDARD "/etc/skep/skepd.yaml"

/* Numbers of the options, in the order of the tables. */
enum node_option {
#define X(key, ...) NODE_OPTION_##key,
	NODE_OPTION_TABLE(X)
#undef X
		NODE_OPTION_COUNT
};
enum realm_option {
#define X(key, ...) REALM_OPTION_##key,
	REALM_OPTION_TABLE(X)
#undef X
		REALM_OPTION_COUNT
};

/* Where a setting was made. */
enum { ORIGIN_NONE, ORIGIN_FILE, ORIGIN_FLAG };

struct text_list {
	unsigned count;
	char text[NODE_TOKENS_MAX][SETTINGS_TOKEN_MAX];
};

struct uid_list {
	unsigned count;
	uid_t uid[NODE_UIDS_MAX];
};

/* In the form the node takes. */
struct device_list {
	unsigned count;
	struct node_ssd each[NODE_SSDS_MAX];
};

struct block_count {
	uint64_t bytes, count;
};

struct realm_settings {
	char name[NODE_NAME_MAX];
	uint64_t dram, quota, index_blocks, record_bytes, sessions_max, age_limit;
	uint64_t ssd; /* counts where it was set; else settings_ssd_share() */
	struct block_count dram_blocks_of;
	char secret_file[SETTINGS_TEXT_MAX];
	char socket[NODE_PATH_MAX];
	struct text_list tokens, token_files;
	struct uid_list uids;
	uint32_t origins[REALM_OPTION_COUNT];
	/* Read from the files by settings_load(): */
	uint8_t secret[NODE_SECRET_MAX];
	uint32_t secret_bytes;
	struct text_list all_tokens; /* those given here and those of the files */
};

struct settings {
	char file[SETTINGS_TEXT_MAX]; /* "": none was read */
	char socket[NODE_PATH_MAX];
	uint64_t socket_mode; /* permission bits */
	char state_dir[SETTINGS_TEXT_MAX];
	char admin[SETTINGS_TEXT_MAX];
	char admin_token_file[SETTINGS_TEXT_MAX];
	uint64_t log_level;  /* enum log_level */
	uint64_t log_format; /* 0 text, 1 JSON */
	uint64_t memory_max, chunk, movers, spin;
	uint64_t loop; /* enum loop_backend */
	bool volatile_secret, private;
	uint64_t id_bits;
	struct device_list ssd; /* no size is 0 once all is read */
	char manifest[SETTINGS_TEXT_MAX];
	uint64_t manifest_memory, ssd_wear, stop_seconds;
	uint32_t origins[NODE_OPTION_COUNT];
	unsigned realm_count;
	struct realm_settings realms[NODE_REALMS_MAX];
	struct text_list admin_tokens; /* read by settings_load() */
	char manifest_path[sizeof(((struct node_ssd *)NULL)->path) + 16]; /* "": no ssds */
};

/* What the command line asks for besides settings. */
struct actions {
	bool check, json, foreground, parent_death, takeover, help_config, help, version;
	int ready_fd; /* -1: none */
};

/*
 * Reads flags and file. @why (SETTINGS_WHY_MAX) names file and line, or the flag, and what would be
 * right. With help, help_config or version asked for, no file is read. The caller frees with
 * settings_destroy(). Return: 0; -EINVAL (wrong words: exit status 2), -ENOENT and other errnos of
 * the file, -ENOMEM.
 */
int settings_create(
	int argc, char **argv, struct settings **out, struct actions *actions, char *why);

void settings_destroy(struct settings *settings);

/*
 * Reads secrets and token files, and makes the secrets that are to be made
 * (settings.volatile_secret, or a file of mode 0600 in the state directory). @running, or NULL: the
 * settings now in force, whose volatile secrets go on. Return: 0; a negative errno with @why.
 */
int settings_load(struct settings *settings, const struct settings *running, char *why);

/* Does it differ from @running in what needs a restart and the node does not see? -EINVAL and @why.
 */
int settings_reloadable(const struct settings *settings, const struct settings *running, char *why);

/*
 * Fills @config but for command and command_arg; @realms has room for settings->realm_count and
 * must live as long as @config is used.
 */
void settings_node(
	const struct settings *settings, struct node_config *config, struct realm_config *realms);

/* Bytes of pools, of the index and records beside them, that the node will populate; and of the
 * manifest, which grows to it. */
struct settings_memory {
	uint64_t pool_bytes, index_bytes, manifest_bytes;
};
struct settings_memory settings_memory(const struct settings *settings);

/* The path of a realm's secret: the one named, or the one in the state directory. */
void settings_secret_path(const struct settings *settings, const struct realm_settings *realm,
	char path[SETTINGS_TEXT_MAX]);

/* The directory of the state: as set, or what the environment says. "" where there is none. */
void settings_state_dir(const struct settings *settings, char path[SETTINGS_TEXT_MAX]);

/* Size of a block device; false: there is none, or it has none. */
bool settings_device_bytes(const char *path, uint64_t *bytes);

/* Bytes of all ssds. */
uint64_t settings_ssd_bytes(const struct settings *settings);

/* Fills manifest_path. False: no directory is known that it could lie in. */
bool settings_manifest_place(struct settings *settings);

/* The realm's share of the ssds in bytes, said or left to it. */
uint64_t settings_ssd_share(const struct settings *settings, const struct realm_settings *realm);

/* What is in force, secrets and tokens left out; with @realm, only that realm. NULL: no memory. */
json_t *settings_json(const struct settings *settings, const char *realm);

/* The texts of --help and --help-config. */
void settings_help(FILE *out);
void settings_help_config(FILE *out);

#endif
