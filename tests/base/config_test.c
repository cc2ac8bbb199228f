/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration reader: what it takes, and the one line it says about everything else. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>

#include "base/config/config.h"
#include "base/config/units.h"
#include "base/memory.h"
#include "tests/base/unit.h"

#define DAEMON_OPTIONS(X)                                                                          \
	X(listen, "listen", STRING, "/run/skep.sock", 0, 0, "Path of the socket.")                 \
	X(json, "log_json", BOOL, "false", 0, 0, "Log lines as JSON.")                             \
	X(movers, "movers", INTEGER, "2", 1, 64, "Threads that move bytes.")                       \
	X(any, "any_number", INTEGER, NULL, 0, 0, "A number without a bound.")                     \
	X(dram_bytes, "dram", SIZE, "1GiB", 1 << 20, 1ull << 40, "Memory for blocks.")             \
	X(wait_ns, "wait", DURATION, "250ms", 1000000, 60000000000, "How long a call may take.")   \
	X(ssd, "ssd", MAPPING, NULL, 0, 0, "The disk.")                                            \
	X(disks, "disks", STRINGS, NULL, 0, 0, "Paths of segments.")                               \
	X(realms, "realms", MAPPINGS, NULL, 0, 0, "The tenants.")

#define REALM_OPTIONS(X)                                                                           \
	X(name, "name", STRING, config_required, 0, 0, "Name of the realm.")                       \
	X(dram_bytes, "dram", SIZE, "64MiB", 0, 0, "Its share.")

struct daemon_options {
#define X(field, key, type, ...) CONFIG_FIELD_##type field;
	DAEMON_OPTIONS(X)
#undef X
};

struct realm_options {
#define X(field, key, type, ...) CONFIG_FIELD_##type field;
	REALM_OPTIONS(X)
#undef X
};

static const struct config_option daemon_rows[] = {
#define X(field, ...) CONFIG_OPTION(struct daemon_options, field, __VA_ARGS__),
	DAEMON_OPTIONS(X)
#undef X
};

static const struct config_option realm_rows[] = {
#define X(field, ...) CONFIG_OPTION(struct realm_options, field, __VA_ARGS__),
	REALM_OPTIONS(X)
#undef X
};

static const struct config_table daemon_table = {daemon_rows, ARRAY_COUNT(daemon_rows)};
static const struct config_table realm_table = {realm_rows, ARRAY_COUNT(realm_rows)};

/* Reads and fills all levels; the text of the error, or "". */
static int fill_all(const char *text, size_t text_bytes, struct config_error *error)
{
	struct config *config = NULL;
	struct daemon_options options;
	struct realm_options realm;
	const struct config_node *each = NULL;
	int rc = config_read_memory("skepd.yaml", text, text_bytes, &config, error);

	if (rc)
		return rc;
	rc = config_fill(config_root(config), &daemon_table, &options, error);
	while (!rc && options.realms && (each = config_next(options.realms, each)))
		rc = config_fill(each, &realm_table, &realm, error);
	config_free(config);
	return rc;
}

static void good_files_are_read(void)
{
	static const char text[] = "# a comment\n"
				   "listen: /tmp/a b.sock   # with a blank\n"
				   "log_json: true\n"
				   "movers: 7\n"
				   "any_number: 18446744073709551615\n"
				   "dram: 1.5 GiB\n"
				   "wait: \"30s\"\n"
				   "ssd: {path: /dev/nvme0n1, bytes: 0}\n"
				   "disks: [/a, '']\n"
				   "realms:\n"
				   "  - name: 'it''s'\n"
				   "    dram: 4096\n"
				   "  - {name: 007}\n";
	struct config *config;
	struct config_error error;
	struct daemon_options options;
	struct realm_options realm;
	const struct config_node *each;

	REQUIRE_EQ(config_read_memory("skepd.yaml", text, strlen(text), &config, &error), 0);
	REQUIRE_EQ(config_fill(config_root(config), &daemon_table, &options, &error), 0);
	REQUIRE_TEXT(options.listen, "/tmp/a b.sock");
	REQUIRE(options.json);
	REQUIRE_EQ(options.movers, 7);
	REQUIRE(options.any == UINT64_MAX);
	REQUIRE_EQ(options.dram_bytes, 3ull << 29);
	REQUIRE_EQ(options.wait_ns, 30 * NS_PER_S);
	REQUIRE(config_find(options.ssd, "path") && config_find(options.ssd, "bytes"));
	REQUIRE(!config_find(options.ssd, "realms"));
	REQUIRE(!config_text(options.ssd));
	each = config_next(options.disks, NULL);
	REQUIRE_TEXT(config_text(each), "/a");
	each = config_next(options.disks, each);
	REQUIRE_TEXT(config_text(each), "");
	REQUIRE(!config_next(options.disks, each));
	each = config_next(options.realms, NULL);
	REQUIRE_EQ(config_fill(each, &realm_table, &realm, &error), 0);
	REQUIRE_TEXT(realm.name, "it's");
	REQUIRE_EQ(realm.dram_bytes, 4096);
	each = config_next(options.realms, each);
	REQUIRE_EQ(config_fill(each, &realm_table, &realm, &error), 0);
	REQUIRE_TEXT(realm.name, "007");
	REQUIRE_EQ(realm.dram_bytes, 64 << 20);
	REQUIRE(!config_next(options.realms, each));
	config_free(config);
}

static void what_is_not_there_gets_its_default(void)
{
	static const char *const empty[] = {"", "\n# nothing\n", "---\n", "{}", "\xef\xbb\xbf"};
	struct config_error error;
	struct daemon_options options;
	struct realm_options realm;

	for (size_t i = 0; i < ARRAY_COUNT(empty); i++) {
		struct config *config;

		REQUIRE_EQ(config_read_memory("e", empty[i], strlen(empty[i]), &config, &error), 0);
		memset(&options, 0xa5, sizeof(options));
		REQUIRE_EQ(config_fill(config_root(config), &daemon_table, &options, &error), 0);
		REQUIRE_TEXT(options.listen, "/run/skep.sock");
		REQUIRE(!options.json && !options.ssd && !options.disks && !options.realms);
		REQUIRE_EQ(options.movers, 2);
		REQUIRE_EQ(options.any, 0);
		REQUIRE_EQ(options.dram_bytes, 1 << 30);
		REQUIRE_EQ(options.wait_ns, 250 * NS_PER_MS);
		config_free(config);
	}
	REQUIRE_EQ(config_fill(NULL, &realm_table, &realm, &error), 0);
	REQUIRE(!realm.name);
	REQUIRE_EQ(realm.dram_bytes, 64 << 20);
}

/* File, line, column, what stands there, why not, and what to do. */
static const struct {
	const char *text, *error;
} faults[] = {
	{"movers: 3\ndramm: 1GiB\n",
		"skepd.yaml:2:1: unknown key 'dramm' in the file; did you mean 'dram'?"},
	{"realms:\n  - name: a\n    darm: 1GiB\n",
		"skepd.yaml:3:5: unknown key 'darm' in realms[0]; did you mean 'dram'?"},
	{"realms:\n  - name: a\n  - {name: b, colour: red}\n",
		"skepd.yaml:3:15: unknown key 'colour' in realms[1]; known there: name, dram"},
	{"realms:\n  - dram: 1GiB\n",
		"skepd.yaml:2:5: key 'name' is missing in realms[0]; add 'name: ...'"},
	{"movers: 3\nwait: 1s\nmovers: 4\n",
		"skepd.yaml:3:1: key 'movers' in the file stands already in line 1; keep one of "
		"the two"},
	{"ssd:\n  a: 1\n  a: 2\n",
		"skepd.yaml:3:3: key 'a' in ssd stands already in line 2; keep one of the two"},
	{"movers: many\n", "skepd.yaml:1:9: 'movers' must be a whole number, not 'many'"},
	{"movers: 010\n", "skepd.yaml:1:9: 'movers' must be a whole number, not '010'"},
	{"movers: 2.5\n", "skepd.yaml:1:9: 'movers' must be a whole number, not '2.5'"},
	{"movers: '2'\n",
		"skepd.yaml:1:9: 'movers' must be a whole number, not \"2\"; remove the quotes"},
	{"movers: [1, 2]\n", "skepd.yaml:1:9: 'movers' must be a whole number, not a list"},
	{"movers:\n", "skepd.yaml:1:8: 'movers' has no value; write a whole number, or remove the "
		      "line for the default"},
	{"movers: 0\n", "skepd.yaml:1:9: 'movers' is 0; it must be between 1 and 64"},
	{"movers: 65\n", "skepd.yaml:1:9: 'movers' is 65; it must be between 1 and 64"},
	{"movers: -1\n", "skepd.yaml:1:9: 'movers' is -1; it must be between 1 and 64"},
	{"any_number: 18446744073709551616\n",
		"skepd.yaml:1:13: 'any_number' is 18446744073709551616; it must be between 0 and "
		"18446744073709551615"},
	{"log_json: yes\n", "skepd.yaml:1:11: 'log_json' must be true or false, not 'yes'"},
	{"log_json: \"true\"\n", "skepd.yaml:1:11: 'log_json' must be true or false, not \"true\"; "
				 "remove the quotes"},
	{"dram: 2GB\n", "skepd.yaml:1:7: 'dram' must be a byte size such as 4096 or 512MiB (B, "
			"KiB, MiB, GiB, TiB, PiB), not '2GB'"},
	{"dram: 512KiB\n", "skepd.yaml:1:7: 'dram' is 512KiB; it must be between 1MiB and 1TiB"},
	{"dram: -1GiB\n", "skepd.yaml:1:7: 'dram' is -1GiB; it must be between 1MiB and 1TiB"},
	{"wait: 5\n", "skepd.yaml:1:7: 'wait' must be a span of time such as 250ms or 30s (ns, us, "
		      "ms, s, m, h, d), not '5'"},
	{"wait: 2h\n", "skepd.yaml:1:7: 'wait' is 2h; it must be between 1ms and 1m"},
	{"listen: {}\n", "skepd.yaml:1:9: 'listen' must be text, not a mapping"},
	{"ssd: none\n", "skepd.yaml:1:6: 'ssd' must be a mapping, not 'none'"},
	{"realms: {name: a}\n",
		"skepd.yaml:1:9: 'realms' must be a list of mappings, not a mapping"},
	{"disks: /a\n", "skepd.yaml:1:8: 'disks' must be a list of texts, not '/a'"},
	{"disks: [a, {}]\n", "skepd.yaml:1:12: 'disks[1]' must be text"},
	{"disks:\n-\n", "skepd.yaml:2:2: 'disks[0]' must be text"},
	{"realms: [a]\n", "skepd.yaml:1:10: 'realms[0]' must be a mapping, lines of 'key: value' "
			  "behind the '-'"},
	{"movers: 3\n\tdram: 1GiB\n", "skepd.yaml:2:1: a tab in the indentation; use spaces"},
	{"ssd:\n  \tpath: a\n", "skepd.yaml:2:3: a tab in the indentation; use spaces"},
	{"ssd:\n  path: a\n wear: 1\n",
		"skepd.yaml:3:2: did not find expected key, while parsing a block mapping that "
		"began in line 1; check the indentation, the quotes and the blank after each ':'"},
	{"listen: \"a\n", "skepd.yaml:2:1: found unexpected end of stream, while scanning a quoted "
			  "scalar that began in line 1; check the indentation, the quotes and the "
			  "blank after each ':'"},
	{"listen: a: b\n", "skepd.yaml:1:10: mapping values are not allowed in this context; check "
			   "the indentation, the quotes and the blank after each ':'"},
	{"movers: &m 3\n",
		"skepd.yaml:1:9: anchor '&m' is not taken; write the value out where it is used"},
	{"ssd: &s {}\nlisten: x\n",
		"skepd.yaml:1:6: anchor '&s' is not taken; write the value out where it is used"},
	{"movers: *m\n", "skepd.yaml:1:9: alias '*m' is not taken; write the value out"},
	{"movers: !!int 3\n",
		"skepd.yaml:1:9: tag 'tag:yaml.org,2002:int' is not taken; remove it, "
		"each option knows its type"},
	{"realms: !x []\n", "skepd.yaml:1:9: tag '!x' is not taken; remove it, each option knows "
			    "its type"},
	{"? [a]\n: b\n", "skepd.yaml:1:3: a list or mapping stands where a key should; keys are "
			 "plain words"},
	{"- a\n", "skepd.yaml:1:1: the file must be a mapping, lines of 'key: value', not a list"},
	{"hello\n", "skepd.yaml:1:1: the file must be a mapping, lines of 'key: value', not a "
		    "single value"},
	{"movers: 3\n---\nmovers: 4\n",
		"skepd.yaml:2:1: a second document begins here; remove the '---' or the rest"},
	{"listen: \"a\\0b\"\n",
		"skepd.yaml:1:9: a value has a zero byte in it; remove the \\0 or \\x00"},
	{"listen: a\nwait: \x01\n", "skepd.yaml:2:7: control characters are not allowed; the file "
				    "must be UTF-8 text without control characters"},
	{"\xff\xfe-", "skepd.yaml:1:1: invalid leading UTF-8 octet; the file must be UTF-8 text "
		      "without control characters"},
	{"listen: \xff\n", "skepd.yaml:1:9: invalid leading UTF-8 octet; the file must be UTF-8 "
			   "text without control characters"},
	{"\"mo\\nvers\\e\": 3\n",
		"skepd.yaml:1:1: unknown key 'mo?vers?' in the file; did you mean 'movers'?"},
	{"a123456789b123456789c123456789d123456789e123456789f123456789g123456789: 3\n",
		"skepd.yaml:1:1: unknown key "
		"'a123456789b123456789c123456789d123456789e123456789f123456789...' in the file; "
		"known there: listen, log_json, movers, any_number, dram, wait, ssd, disks, "
		"realms"},
	{"a: {b: {c: {d: {e: {f: {g: {h: {i: {j: {k: {l: {m: {n: {o: {p: {q: 1}}}}}}}}}}}}}}}}\n",
		"skepd.yaml:1:64: more than 16 lists and mappings inside one another; no option "
		"lies so deep"},
};

static void each_fault_is_said_in_one_line(void)
{
	for (size_t i = 0; i < ARRAY_COUNT(faults); i++) {
		struct config_error error = {.text = ""};

		REQUIRE_EQ(fill_all(faults[i].text, strlen(faults[i].text), &error), -EINVAL);
		REQUIRE_TEXT(error.text, faults[i].error);
	}
}

static void an_owner_can_add_its_own_errors(void)
{
	static const char text[] = "ssd:\n  wear: fast\n";
	struct config *config;
	struct config_error error;
	const struct config_node *ssd;

	REQUIRE_EQ(config_read_memory("f.yaml", text, strlen(text), &config, &error), 0);
	ssd = config_find(config_root(config), "ssd");
	REQUIRE_EQ(config_fail(&error, config_find(ssd, "wear"), "'%s' is no %s", "fast", "budget"),
		-EINVAL);
	REQUIRE_TEXT(error.text, "f.yaml:2:9: 'fast' is no budget");
	config_free(config);
}

/* --- files ------------------------------------------------------------------------------------ */

static void file_write(const char *path, const char *text, size_t bytes)
{
	FILE *file = fopen(path, "w");

	REQUIRE(file && fwrite(text, 1, bytes, file) == bytes && !fclose(file));
}

static void files_are_bounded(void)
{
	char directory[] = "/tmp/skep-config-XXXXXX", path[64], wanted[256];
	size_t most = CONFIG_FILE_BYTES_MAX;
	char *large = calloc(1, most + 2);
	struct config_error error;
	struct config *config;

	REQUIRE(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/skepd.yaml", directory);
	REQUIRE_EQ(config_read_file(path, &config, &error), -ENOENT);
	snprintf(wanted, sizeof(wanted), "%s: cannot be read: No such file or directory", path);
	REQUIRE_TEXT(error.text, wanted);
	REQUIRE_EQ(config_read_file(directory, &config, &error), -EISDIR);

	file_write(path, "movers: 3", 9);
	REQUIRE_EQ(config_read_file(path, &config, &error), 0);
	REQUIRE(config_find(config_root(config), "movers"));
	config_free(config);

	memset(large, '#', most + 1);
	file_write(path, large, most);
	REQUIRE_EQ(config_read_file(path, &config, &error), 0);
	config_free(config);
	file_write(path, large, most + 1);
	REQUIRE_EQ(config_read_file(path, &config, &error), -E2BIG);
	snprintf(wanted, sizeof(wanted),
		"%s: larger than 1048576 bytes; a file of settings should be far smaller", path);
	REQUIRE_TEXT(error.text, wanted);
	unlink(path);
	rmdir(directory);
	free(large);
}

/* Neither many keys (each is compared with those before it) nor deep nesting takes long. */
static void hostile_files_are_refused_soon(void)
{
	size_t room = CONFIG_FILE_BYTES_MAX, used = 0;
	char *text = malloc(room);
	uint64_t start = clock_ns();
	struct config_error error;
	struct config *config;

	for (unsigned i = 0; used + 20 < room; i++)
		used += (size_t)snprintf(text + used, room - used, "k%x: 1\n", i);
	REQUIRE_EQ(config_read_memory("many", text, used, &config, &error), -EINVAL);
	REQUIRE_TEXT(error.text, "many:8192:8: more than 8192 values in one file; a file of "
				 "settings should have far fewer");
	memset(text, '[', room);
	REQUIRE_EQ(config_read_memory("deep", text, room, &config, &error), -EINVAL);
	memset(text, '{', room);
	REQUIRE_EQ(config_read_memory("deep", text, room, &config, &error), -EINVAL);
	for (size_t i = 0; i < room; i++)
		text[i] = "- "[i % 2];
	REQUIRE_EQ(config_read_memory("deep", text, room, &config, &error), -EINVAL);
	printf("hostile files: %llu ms\n", (unsigned long long)((clock_ns() - start) / NS_PER_MS));
	REQUIRE(clock_ns() - start < 20 * NS_PER_S);
	free(text);
}

static void failed_allocations_are_said_and_leave_nothing(void)
{
	static const char text[] = "movers: 3\nrealms: [{name: a}, {name: b, dram: 1MiB}]\n";
	struct config_error error = {.text = ""};
	unsigned long nth = 1;
	int rc;

	for (;; nth++) {
		memory_fail_after(nth, 0);
		rc = fill_all(text, strlen(text), &error);
		memory_fail_after(0, 0);
		if (!rc)
			break;
		REQUIRE_EQ(rc, -ENOMEM);
		REQUIRE_TEXT(error.text, "skepd.yaml: out of memory");
	}
	REQUIRE(nth > 15);
}

/* Whatever is cut off or changed, an answer comes and an error is one line. */
static void damaged_files_never_harm(uint64_t *random)
{
	static const char text[] = "listen: \"/tmp/x\"\nlog_json: true\nmovers: 7\ndram: 1.5 GiB\n"
				   "ssd: {path: a, list: [1, {b: c}]}\nrealms:\n  - name: |\n"
				   "      text\n    dram: 4096\n  - {name: 007}\n";
	char damaged[sizeof(text)];

	for (int i = 0; i < 20000; i++) {
		size_t bytes = sizeof(text) - 1;
		struct config_error error = {.text = ""};

		memcpy(damaged, text, sizeof(text));
		for (uint32_t n = 1 + unit_random(random, 4); n; n--)
			damaged[unit_random(random, sizeof(text) - 1)] =
				"\n\t \"'{}[]:-&*!|>%@`#,?x\\0\xff"[unit_random(random, 26)];
		if (unit_random(random, 2))
			bytes = unit_random(random, sizeof(text));
		if (fill_all(damaged, bytes, &error)) {
			REQUIRE(!strncmp(error.text, "skepd.yaml:", 11));
			REQUIRE(!strpbrk(error.text, "\n\t\r\x1b"));
		}
	}
}

/* --- sizes and spans -------------------------------------------------------------------------- */

static void sizes_and_spans_are_parsed(void)
{
	static const struct {
		const char *text;
		int rc;
		uint64_t value;
	} sizes[] =
		{
			{"0", 0, 0},
			{"4096", 0, 4096},
			{"4096B", 0, 4096},
			{"2GiB", 0, 2ull << 30},
			{"512 MiB", 0, 512 << 20},
			{"1.5TiB", 0, 3ull << 39},
			{"0.5KiB", 0, 512},
			{"3PiB", 0, 3ull << 50},
			{"18446744073709551615", 0, UINT64_MAX},
			{"18446744073709551616", -ERANGE, 0},
			{"16384PiB", -ERANGE, 0},
			{"99999999999999999999999", -ERANGE, 0},
			{"0.1B", -EINVAL, 0},
			{"0.1KiB", -EINVAL, 0},
			{"", -EINVAL, 0},
			{" 1", -EINVAL, 0},
			{"1 ", -EINVAL, 0},
			{"1.", -EINVAL, 0},
			{".5GiB", -EINVAL, 0},
			{"1.2.3KiB", -EINVAL, 0},
			{"1e3", -EINVAL, 0},
			{"+1", -EINVAL, 0},
			{"-1", -EINVAL, 0},
			{"0x10", -EINVAL, 0},
			{"2GB", -EINVAL, 0},
			{"2G", -EINVAL, 0},
			{"2gib", -EINVAL, 0},
			{"GiB", -EINVAL, 0},
			{"2GiBs", -EINVAL, 0},
			{"1.0000000000000000000000KiB", -EINVAL, 0},
		},
	  spans[] = {
		  {"0", 0, 0},
		  {"30s", 0, 30 * NS_PER_S},
		  {"250ms", 0, 250 * NS_PER_MS},
		  {"5m", 0, 300 * NS_PER_S},
		  {"1.5 h", 0, 5400 * NS_PER_S},
		  {"7us", 0, 7 * NS_PER_US},
		  {"9ns", 0, 9},
		  {"2d", 0, 172800 * NS_PER_S},
		  {"30", -EINVAL, 0},
		  {"s", -EINVAL, 0},
		  {"1.5ns", -EINVAL, 0},
		  {"1m30s", -EINVAL, 0},
		  {"1 min", -EINVAL, 0},
		  {"999999999d", -ERANGE, 0},
	  };
	uint64_t value;

	for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
		value = 0;
		REQUIRE_EQ(size_parse(sizes[i].text, &value), sizes[i].rc);
		REQUIRE(value == sizes[i].value);
	}
	for (size_t i = 0; i < ARRAY_COUNT(spans); i++) {
		value = 0;
		REQUIRE_EQ(duration_parse(spans[i].text, &value), spans[i].rc);
		REQUIRE(value == spans[i].value);
	}
}

static void what_is_printed_is_read_back(uint64_t *random)
{
	REQUIRE_TEXT(size_format(0).text, "0B");
	REQUIRE_TEXT(size_format(4095).text, "4095B");
	REQUIRE_TEXT(size_format(3ull << 29).text, "1536MiB");
	REQUIRE_TEXT(size_format(1ull << 60).text, "1024PiB");
	REQUIRE_TEXT(size_format(UINT64_MAX).text, "18446744073709551615B");
	REQUIRE_TEXT(duration_format(0).text, "0s");
	REQUIRE_TEXT(duration_format(250 * NS_PER_MS).text, "250ms");
	REQUIRE_TEXT(duration_format(90 * NS_PER_S).text, "90s");
	REQUIRE_TEXT(duration_format(300 * NS_PER_S).text, "5m");
	REQUIRE_TEXT(duration_format(86400 * NS_PER_S).text, "1d");
	REQUIRE_TEXT(duration_format(UINT64_MAX).text, "18446744073709551615ns");
	for (int i = 0; i < 100000; i++) {
		uint64_t value = mix64(*random + (uint64_t)i) >> unit_random(random, 64);
		uint64_t again = 0;

		value <<= unit_random(random, (uint32_t)__builtin_clzll(value | 1) + 1);
		REQUIRE_EQ(size_parse(size_format(value).text, &again), 0);
		REQUIRE(again == value);
		REQUIRE_EQ(duration_parse(duration_format(value).text, &again), 0);
		REQUIRE(again == value);
	}
}

int main(int argc, char **argv)
{
	uint64_t random = unit_seed(argc, argv);

	good_files_are_read();
	what_is_not_there_gets_its_default();
	each_fault_is_said_in_one_line();
	an_owner_can_add_its_own_errors();
	files_are_bounded();
	hostile_files_are_refused_soon();
	failed_allocations_are_said_and_leave_nothing();
	damaged_files_never_harm(&random);
	sizes_and_spans_are_parsed();
	what_is_printed_is_read_back(&random);
	return 0;
}
