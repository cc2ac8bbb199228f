/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flags, file and defaults make one configuration; what is wrong is said with its place; secrets
 * are made once and stay.
 */
#include "tools/skepd/settings_use.c"

#include <fcntl.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/memory.h"
#include "tests/base/unit.h"

enum { ARGUMENTS_MAX = 40 };

static char folder[64];
static char why[SETTINGS_WHY_MAX];
static struct actions actions;

static const char *in_folder(const char *name)
{
	static char paths[4][128];
	static unsigned turn;
	char *path = paths[turn++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

static const char *file_make(const char *name, const char *text)
{
	const char *path = in_folder(name);
	FILE *file = fopen(path, "w");

	REQUIRE(file);
	fputs(text, file);
	fclose(file);
	chmod(path, 0600);
	return path;
}

/* Reads a command line given as words parted by blanks. */
static int status_of(const char *line, struct settings **settings)
{
	char text[4096], *rest = text, *argv[ARGUMENTS_MAX] = {"skepd"}, *word;
	int argc = 1;

	snprintf(text, sizeof(text), "%s", line);
	while ((word = strsep(&rest, " ")))
		if (*word)
			argv[argc++] = word;
	return settings_create(argc, argv, settings, &actions, why);
}

static struct settings *read_line(const char *line)
{
	struct settings *settings;
	int status = status_of(line, &settings);

	if (status)
		fprintf(stderr, "%s: %s\n", line, why);
	REQUIRE_EQ(status, 0);
	return settings;
}

/* The line is refused with a text that holds @part. */
static void refused(const char *line, const char *part)
{
	struct settings *settings;

	REQUIRE_EQ(status_of(line, &settings), -EINVAL);
	REQUIRE(settings == NULL);
	if (!strstr(why, part))
		fprintf(stderr, "%s: '%s' does not say '%s'\n", line, why, part);
	REQUIRE(strstr(why, part));
	REQUIRE(!strchr(why, '\n'));
}

static void refused_file(const char *text, const char *part)
{
	char line[256];

	snprintf(line, sizeof(line), "--config %s", file_make("bad.yaml", text));
	refused(line, part);
}

/* Nothing set: what the table says. */
static void defaults_come_from_the_table(void)
{
	struct settings *settings = read_line("");

	REQUIRE_TEXT(settings->socket, "/run/skep/skepd.sock");
	REQUIRE_EQ(settings->socket_mode, 0660);
	REQUIRE_TEXT(settings->admin, "127.0.0.1:7420");
	REQUIRE_EQ(settings->log_level, LOG_LEVEL_INFO);
	REQUIRE_EQ(settings->spin, 50 * NS_PER_US);
	REQUIRE_EQ(settings->realm_count, 1);
	REQUIRE_TEXT(settings->realms[0].name, "default");
	REQUIRE_EQ(settings->realms[0].dram, 1ull << 30);
	REQUIRE_EQ(settings->realms[0].age_limit, 30 * NS_PER_S);
	settings_destroy(settings);
	setenv("SKEP_SOCKET", "unix:/tmp/env.sock", 1);
	settings = read_line("");
	REQUIRE_TEXT(settings->socket, "/tmp/env.sock");
	settings_destroy(settings);
	settings = read_line("--socket=/tmp/flag.sock");
	REQUIRE_TEXT(settings->socket, "/tmp/flag.sock");
	settings_destroy(settings);
	unsetenv("SKEP_SOCKET");
}

static const char file_text[] = "socket: /tmp/file.sock\n"
				"socket_mode: 0600\n"
				"spin: 10us\n"
				"log_level: debug\n"
				"realms:\n"
				"  - name: one\n"
				"    dram: 64MiB\n"
				"    quota: 32MiB\n"
				"    tokens: [x, y]\n"
				"    uids: [1000, 1001]\n"
				"    age_limit: never\n"
				"  - name: two\n"
				"    dram: 128MiB\n"
				"    socket: /tmp/two.sock\n";

static void flags_override_the_file(void)
{
	char line[512];
	struct settings *settings;

	snprintf(line, sizeof(line), "--config %s", file_make("good.yaml", file_text));
	settings = read_line(line);
	REQUIRE_TEXT(settings->socket, "/tmp/file.sock");
	REQUIRE_EQ(settings->socket_mode, 0600);
	REQUIRE_EQ(settings->realm_count, 2);
	REQUIRE_EQ(settings->realms[0].quota, 32 << 20);
	REQUIRE_EQ(settings->realms[0].tokens.count, 2);
	REQUIRE_EQ(settings->realms[0].uids.uid[1], 1001);
	REQUIRE_EQ(settings->realms[0].age_limit, CLOCK_NEVER);
	REQUIRE_TEXT(settings->realms[1].socket, "/tmp/two.sock");
	settings_destroy(settings);
	snprintf(line, sizeof(line),
		"--config %s --spin 0s --realm two --dram 256MiB --realm three --realm one "
		"--token z --uid 5 --uid 6 --log-level error --private --volatile-secret=false",
		in_folder("good.yaml"));
	settings = read_line(line);
	REQUIRE_EQ(settings->spin, 0);
	REQUIRE_EQ(settings->log_level, LOG_LEVEL_ERROR);
	REQUIRE(settings->private && !settings->volatile_secret);
	REQUIRE_EQ(settings->realm_count, 3);
	REQUIRE_EQ(settings->realms[1].dram, 256 << 20);
	REQUIRE_TEXT(settings->realms[2].name, "three");
	/* A list's flags stand in place of the file's list; what no flag names stays. */
	REQUIRE_EQ(settings->realms[0].tokens.count, 1);
	REQUIRE_TEXT(settings->realms[0].tokens.text[0], "z");
	REQUIRE_EQ(settings->realms[0].uids.count, 2);
	REQUIRE_EQ(settings->realms[0].dram, 64 << 20);
	settings_destroy(settings);
}

static void errors_name_their_place(void)
{
	refused_file("socket: /tmp/x\nsokcet_mode: 0600\n", "bad.yaml:2:1: unknown key");
	refused_file("realms:\n  - name: a\n    dran: 1GiB\n", "bad.yaml:3:5: unknown key 'dran'");
	refused_file("realms:\n  - name: a\n    dram: 1GB\n", "bad.yaml:3:11: dram: '1GB'");
	refused_file("realms:\n  - name: a\n    dram: 1GiB\n    quota: 2GiB\n",
		"bad.yaml:4:12: quota: it is larger than dram");
	refused_file("realms:\n  - name: a\n  - name: a\n", "bad.yaml:3:11: a second realm");
	refused_file("realms:\n  - name: a/b\n", "bad.yaml:2:11: 'a/b' is no name");
	refused_file("realms:\n  - dram: 1GiB\n", "name");
	refused_file("realms:\n  - name: a\n    uids: [-5]\n", "bad.yaml:3:12: uids: '-5'");
	refused_file("realms:\n  - name: a\n    tokens: x\n", "bad.yaml:3:13");
	refused_file("admin: nowhere\n", "bad.yaml:1:8: admin: no address");
	refused_file("log_level: loud\n", "error|warn|info|debug");
	refused_file("movers: 0\n", "1 to 64");
	refused_file("private: yes\n", "neither true nor false");
	refused_file("socket_mode: 0988\n", "octal");
	refused_file("spin: 50\n", "a time");
	refused_file("realms:\n  - name: a\n    dram_blocks_of: 4096:10\n    dram: 1GiB\n",
		"dram_blocks_of");
	refused_file("realms:\n  - name: a\n    socket: /run/skep/skepd.sock\n", "common socket");
	refused("--movers nine", "--movers: 'nine'");
	refused("--movers", "needs an argument");
	refused("--check=1", "takes no argument");
	refused("--nothing", "no flag --nothing");
	refused("words", "no flag");
	refused("--ready-fd x", "--ready-fd");
	refused("--realm .a", "no name");
	refused("--realm a --realm b --config /dev/null --dram-blocks-of 0:5", "BYTES:COUNT");
	refused("--socket "
		"/tmp/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
		"too long");
}

static void a_flag_of_a_realm_needs_its_name_where_there_are_several(void)
{
	char line[256];

	snprintf(line, sizeof(line), "--config %s --quota 1MiB", file_make("good.yaml", file_text));
	refused(line, "say --realm NAME");
	/* What the text says is how it works. */
	snprintf(
		line, sizeof(line), "--config %s --realm one --quota 1MiB", in_folder("good.yaml"));
	settings_destroy(read_line(line));
}

/* --- the ssds --------------------------------------------------------------------------------- */

static const char ssd_text[] = "ssd:\n"
			       "  - path: /data/one.ssd\n"
			       "    size: 10GiB\n"
			       "  - {path: /data/two.ssd, size: 6GiB}\n"
			       "manifest_memory: 32MiB\n"
			       "ssd_wear: 2TiB\n"
			       "stop_seconds: 9\n"
			       "realms:\n"
			       "  - name: named\n"
			       "    ssd: 4GiB\n"
			       "  - name: silent\n"
			       "  - name: quiet\n"
			       "  - name: none\n"
			       "    ssd: 0\n";

static void ssds_go_to_the_node_with_their_shares(void)
{
	static const uint64_t shares[] = {4ull << 30, 6ull << 30, 6ull << 30, 0};
	struct realm_config *realms = calloc(4, sizeof(*realms));
	struct node_config config;
	struct settings *settings;
	char line[512];

	REQUIRE(realms);
	snprintf(line, sizeof(line), "--config %s", file_make("ssd.yaml", ssd_text));
	settings = read_line(line);
	settings_node(settings, &config, realms);
	REQUIRE_EQ(config.ssd_count, 2);
	REQUIRE_TEXT(config.ssds[0].path, "/data/one.ssd");
	REQUIRE_EQ(config.ssds[0].bytes, 10ull << 30);
	REQUIRE_EQ(config.ssds[1].bytes, 6ull << 30);
	REQUIRE_TEXT(config.manifest_path, "/data/one.ssd.manifest");
	REQUIRE_EQ(config.manifest_bytes, 32 << 20);
	REQUIRE_EQ(config.ssd_wear_bytes_per_day, 2ull << 40);
	REQUIRE_EQ(config.stop_ns, 9 * NS_PER_S);
	for (unsigned i = 0; i < 4; i++)
		REQUIRE_EQ(realms[i].ssd_bytes, shares[i]);
	REQUIRE_EQ(settings_memory(settings).manifest_bytes, 32 << 20);
	settings_destroy(settings);
	/* Flags stand in place of the file's list. */
	snprintf(line, sizeof(line),
		"--config %s --ssd /x:1GiB --ssd /y:z:512MiB --manifest /m --stop-seconds 0 "
		"--realm named --realm-ssd 512MiB",
		in_folder("ssd.yaml"));
	settings = read_line(line);
	settings_node(settings, &config, realms);
	REQUIRE_EQ(config.ssd_count, 2);
	REQUIRE_TEXT(config.ssds[1].path, "/y:z");
	REQUIRE_TEXT(config.manifest_path, "/m");
	REQUIRE_EQ(config.stop_ns, 1); /* 0 is the node's own choice */
	REQUIRE_EQ(realms[0].ssd_bytes, 512 << 20);
	REQUIRE_EQ(realms[1].ssd_bytes, 512 << 20);
	settings_destroy(settings);
	/* None. */
	settings = read_line("");
	settings_node(settings, &config, realms);
	REQUIRE(!config.ssds && !config.ssd_count && !config.manifest_path);
	REQUIRE_EQ(realms[0].ssd_bytes, 0);
	REQUIRE_EQ(config.stop_ns, 5 * NS_PER_S);
	REQUIRE_EQ(settings_memory(settings).manifest_bytes, 0);
	settings_destroy(settings);
	free(realms);
}

/* Names below /dev have colons of their own, and nothing that lasts lies there. */
static void devices_are_told_from_their_sizes(void)
{
	struct settings *settings = read_line(
		"--ssd /dev/disk/by-path/pci-0000:03:00.0-nvme-1:1TiB --state-dir /state");

	REQUIRE_TEXT(settings->ssd.each[0].path, "/dev/disk/by-path/pci-0000:03:00.0-nvme-1");
	REQUIRE_EQ(settings->ssd.each[0].bytes, 1ull << 40);
	REQUIRE_TEXT(settings->manifest_path, "/state/ssd.manifest");
	settings_destroy(settings);
	refused("--ssd /dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:1:0",
		"--ssd: /dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:1:0: only a block device");
	refused("--ssd /dev/null", "only a block device");
}

static void wrong_ssds_are_said(void)
{
	char line[1024] = "";

	refused_file("ssd:\n  - path: data\n    size: 1GiB\n",
		"bad.yaml:2:11: ssd: 'data' does not begin at the root: write /data");
	refused_file("ssd:\n  - path: /data\n    size: 1GB\n", "bad.yaml:3:11: ssd: '1GB' is not");
	refused_file("ssd:\n  - path: /data\n    size: 1MiB\n", "bad.yaml:3:11: ssd: 1MiB is out");
	refused_file(
		"ssd:\n  - path: /nowhere/data\n", "bad.yaml:2:11: ssd: /nowhere/data: only a");
	refused_file("ssd:\n  - size: 1GiB\n", "path");
	refused_file("ssd:\n  - path: /data\n    sise: 1GiB\n", "bad.yaml:3:5: unknown key 'sise'");
	refused_file("ssd: /data:1GiB\n", "bad.yaml:1:6");
	refused_file("ssd:\n  - {path: /a, size: 1GiB}\n  - {path: /a, size: 1GiB}\n",
		"bad.yaml:3:12: ssd: /a is named twice");
	refused_file("ssd:\n  - {path: /a, size: 1GiB}\nmanifest: m\n",
		"bad.yaml:3:11: manifest: it does not begin at the root");
	refused_file("ssd:\n  - {path: /a, size: 1GiB}\nmanifest: /a\n", "it is an ssd");
	refused_file(
		"realms:\n  - name: a\n    ssd: 1GiB\n", "bad.yaml:3:10: ssd: there is no ssd");
	refused_file("ssd:\n  - {path: /a, size: 1GiB}\nrealms:\n  - name: a\n    ssd: 600MiB\n"
		     "  - name: b\n    ssd: 600MiB\n",
		"bad.yaml:7:10: ssd: together");
	refused_file("ssd:\n  - {path: /a, size: 1GiB}\nrealms:\n  - name: a\n    ssd: 1GiB\n"
		     "  - name: b\n",
		"--realm-ssd of realm b: the other realms leave nothing");
	refused_file("manifest_memory: 1MiB\n", "bad.yaml:1:18: manifest_memory: 1MiB is out");
	refused("--ssd data:1GiB", "--ssd: 'data' does not begin at the root");
	refused("--ssd /data", "--ssd: /data: only a block device");
	refused("--ssd /data:1apple", "--ssd: '1apple' is not a size");
	refused("--stop-seconds soon", "--stop-seconds: 'soon'");
	for (unsigned i = 0; i < NODE_SSDS_MAX + 1; i++)
		snprintf(line + strlen(line), sizeof(line) - strlen(line), "--ssd /%u:1GiB ", i);
	refused(line, "--ssd: more than 16");
}

static void ssds_are_shown_and_need_a_restart(void)
{
	char line[256];
	struct settings *running, *fresh;
	json_t *shown;
	char *text;

	snprintf(line, sizeof(line), "--config %s", in_folder("ssd.yaml"));
	running = read_line(line);
	shown = settings_json(running, NULL);
	text = json_dumps(shown, 0);
	REQUIRE(text && strstr(text, "{\"path\": \"/data/one.ssd\", \"size\": \"10GiB\"}"));
	REQUIRE(strstr(text, "\"manifest\": \"/data/one.ssd.manifest\""));
	REQUIRE(strstr(text, "\"ssd\": \"6GiB\""));
	free(text);
	json_decref(shown);
	fresh = read_line(line);
	REQUIRE_EQ(settings_reloadable(fresh, running, why), 0);
	settings_destroy(fresh);
	snprintf(
		line, sizeof(line), "--config %s --ssd /data/one.ssd:16GiB", in_folder("ssd.yaml"));
	fresh = read_line(line);
	REQUIRE_EQ(settings_reloadable(fresh, running, why), -EINVAL);
	REQUIRE_TEXT(why, "ssd cannot change without a restart");
	settings_destroy(fresh);
	settings_destroy(running);
}

static void a_missing_file_is_said(void)
{
	struct settings *settings;

	REQUIRE_EQ(status_of("--config /nowhere/skepd.yaml", &settings), -ENOENT);
	REQUIRE(strstr(why, "/nowhere/skepd.yaml"));
}

static void what_is_printed_can_be_read(void)
{
	const char *path = in_folder("help.yaml");
	FILE *file = fopen(path, "w");
	char line[256];
	struct settings *from_help, *standard;

	REQUIRE(file);
	settings_help_config(file);
	fclose(file);
	snprintf(line, sizeof(line), "--config %s", path);
	from_help = read_line(line);
	standard = read_line("");
	for (unsigned i = 0; i < NODE_OPTION_COUNT; i++)
		REQUIRE(option_same(&node_options[i], from_help, standard));
	for (unsigned i = 0; i < REALM_OPTION_COUNT; i++)
		REQUIRE(option_same(
			&realm_options[i], &from_help->realms[0], &standard->realms[0]));
	settings_destroy(from_help);
	settings_destroy(standard);
}

static void the_example_loads(void)
{
	char line[512];
	struct settings *settings;

	snprintf(line, sizeof(line), "--config %s", SKEP_SOURCE_DIR "/tools/skepd/skepd.yaml");
	settings = read_line(line);
	REQUIRE(settings->realm_count >= 1);
	settings_destroy(settings);
}

static void a_counted_pool_has_room_for_its_count(void)
{
	struct settings *settings = read_line("--dram-blocks-of 5000:1000");
	struct node_config config;
	struct realm_config realm;

	settings_node(settings, &config, &realm);
	REQUIRE_EQ(realm.dram_use_max, 1000 * 8192); /* frames are multiples of 4 KiB */
	REQUIRE(realm.dram_bytes >= realm.dram_use_max + realm.dram_use_max / 32);
	REQUIRE_EQ(realm.dram_bytes % UNIT_BYTES, 0);
	REQUIRE(realm.index_blocks >= 2000);
	settings_destroy(settings);
	settings = read_line("--dram 100MiB --index-blocks 77 --spin 0s");
	settings_node(settings, &config, &realm);
	REQUIRE_EQ(realm.dram_use_max, 100 << 20);
	REQUIRE_EQ(realm.index_blocks, 77);
	REQUIRE_EQ(config.spin_ns, 1); /* 0 is the node's own choice */
	REQUIRE_EQ(config.id_bits, 128);
	settings_destroy(settings);
}

static void a_secret_is_made_once(void)
{
	char line[256], path[SETTINGS_TEXT_MAX];
	struct settings *first, *second;
	struct stat made;

	snprintf(line, sizeof(line), "--state-dir %s --realm r", in_folder("state"));
	first = read_line(line);
	REQUIRE_EQ(settings_load(first, NULL, why), 0);
	settings_secret_path(first, &first->realms[0], path);
	REQUIRE_EQ(stat(path, &made), 0);
	REQUIRE_EQ(made.st_mode & 07777, 0600);
	REQUIRE_EQ(made.st_size, 65);
	second = read_line(line);
	REQUIRE_EQ(settings_load(second, NULL, why), 0);
	REQUIRE_EQ(second->realms[0].secret_bytes, 65);
	REQUIRE(!memcmp(first->realms[0].secret, second->realms[0].secret, NODE_SECRET_MAX));
	settings_destroy(second);
	settings_destroy(first);
	/* In a folder that cannot be made it fails and says what to do. */
	first = read_line("--state-dir /proc/nowhere/deep");
	REQUIRE(settings_load(first, NULL, why) < 0);
	REQUIRE(strstr(why, "--volatile-secret"));
	settings_destroy(first);
}

static void a_volatile_secret_lasts_over_a_reload(void)
{
	struct settings *running = read_line("--volatile-secret"), *fresh, *other;

	REQUIRE_EQ(settings_load(running, NULL, why), 0);
	fresh = read_line("--volatile-secret");
	REQUIRE_EQ(settings_load(fresh, running, why), 0);
	REQUIRE(!memcmp(running->realms[0].secret, fresh->realms[0].secret, 32));
	other = read_line("--volatile-secret");
	REQUIRE_EQ(settings_load(other, NULL, why), 0);
	REQUIRE(memcmp(running->realms[0].secret, other->realms[0].secret, 32));
	settings_destroy(running);
	settings_destroy(fresh);
	settings_destroy(other);
}

static void tokens_come_from_files(void)
{
	char line[512];
	struct settings *settings;

	snprintf(line, sizeof(line), "--volatile-secret --token here --token-file %s",
		file_make("tokens", "# comment\nfirst\r\n\nsecond\n"));
	settings = read_line(line);
	REQUIRE_EQ(settings_load(settings, NULL, why), 0);
	REQUIRE_EQ(settings->realms[0].all_tokens.count, 3);
	REQUIRE_TEXT(settings->realms[0].all_tokens.text[0], "here");
	REQUIRE_TEXT(settings->realms[0].all_tokens.text[1], "first");
	REQUIRE_TEXT(settings->realms[0].all_tokens.text[2], "second");
	settings_destroy(settings);
	/* An empty one must not open the realm to everybody. */
	snprintf(line, sizeof(line), "--volatile-secret --token-file %s",
		file_make("tokens", "# nothing\n"));
	settings = read_line(line);
	REQUIRE_EQ(settings_load(settings, NULL, why), -EINVAL);
	settings_destroy(settings);
	snprintf(line, sizeof(line), "--secret-file %s", file_make("short", "short"));
	settings = read_line(line);
	REQUIRE_EQ(settings_load(settings, NULL, why), -EINVAL);
	REQUIRE(strstr(why, "16 to"));
	settings_destroy(settings);
}

static void a_reload_takes_what_is_live_alone(void)
{
	static const struct {
		const char *line, *refused;
	} rows[] = {
		{"--dram 64MiB --quota 32MiB --token x --age-limit 1s --sessions-max 9", NULL},
		{"--dram 64MiB --log-level debug --uid 7", NULL},
		{"--dram 128MiB", "dram"},
		{"--dram 64MiB --socket /tmp/other", "socket"},
		{"--dram 64MiB --record-bytes 1MiB", "record_bytes"},
		{"--dram 64MiB --admin off", "admin"},
		{"--realm other --dram 64MiB", "realms"},
		{"--dram 64MiB --realm other", "realms"},
	};
	struct settings *running = read_line("--dram 64MiB");

	for (unsigned i = 0; i < ARRAY_COUNT(rows); i++) {
		struct settings *fresh = read_line(rows[i].line);
		int status = settings_reloadable(fresh, running, why);

		REQUIRE_EQ(status, rows[i].refused ? -EINVAL : 0);
		REQUIRE(!rows[i].refused || strstr(why, rows[i].refused));
		settings_destroy(fresh);
	}
	settings_destroy(running);
}

static void secrets_are_not_shown(void)
{
	struct settings *settings = read_line("--token hunter2 --volatile-secret --uid 3");
	json_t *shown;
	char *text;

	REQUIRE_EQ(settings_load(settings, NULL, why), 0);
	shown = settings_json(settings, NULL);
	text = json_dumps(shown, 0);
	REQUIRE(text && !strstr(text, "hunter2") && strstr(text, "(hidden)"));
	REQUIRE(strstr(text, "\"uids\": [3]"));
	free(text);
	json_decref(shown);
	settings_destroy(settings);
}

/* Every n-th allocation fails once: an error is said, and nothing leaks or breaks. */
static void memory_may_fail(void)
{
	char line[256];
	unsigned long nth;

	snprintf(line, sizeof(line), "--config %s", file_make("good.yaml", file_text));
	for (nth = 1;; nth++) {
		struct settings *settings;
		int status;

		memory_fail_after(nth, 0);
		status = status_of(line, &settings);
		memory_fail_after(0, 0);
		if (status == 0) {
			settings_destroy(settings);
			break;
		}
		REQUIRE_EQ(status, -ENOMEM);
	}
	REQUIRE(nth > 10);
}

static void actions_are_read(void)
{
	settings_destroy(
		read_line("--check --json --foreground --ready-fd 5 --parent-death --takeover"));
	REQUIRE(actions.check && actions.json && actions.foreground && actions.parent_death);
	REQUIRE(actions.takeover);
	REQUIRE_EQ(actions.ready_fd, 5);
	settings_destroy(read_line("-h"));
	REQUIRE(actions.help && actions.ready_fd == -1);
}

int main(void)
{
	snprintf(folder, sizeof(folder), "/tmp/skep-settings-XXXXXX");
	REQUIRE(mkdtemp(folder));
	unsetenv("SKEP_SOCKET");
	unsetenv("STATE_DIRECTORY");
	defaults_come_from_the_table();
	flags_override_the_file();
	errors_name_their_place();
	a_flag_of_a_realm_needs_its_name_where_there_are_several();
	ssds_go_to_the_node_with_their_shares();
	devices_are_told_from_their_sizes();
	wrong_ssds_are_said();
	ssds_are_shown_and_need_a_restart();
	a_missing_file_is_said();
	what_is_printed_can_be_read();
	the_example_loads();
	a_counted_pool_has_room_for_its_count();
	a_secret_is_made_once();
	a_volatile_secret_lasts_over_a_reload();
	tokens_come_from_files();
	a_reload_takes_what_is_live_alone();
	secrets_are_not_shown();
	memory_may_fail();
	actions_are_read();
	for (unsigned i = 0; i < 8; i++) {
		static const char *const made[] = {"state/r.secret", "state", "bad.yaml",
			"good.yaml", "help.yaml", "tokens", "short", "ssd.yaml"};

		REQUIRE_EQ(remove(in_folder(made[i])), 0);
	}
	REQUIRE_EQ(rmdir(folder), 0);
	return 0;
}
