/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/memory.h"
#include "tools/skep/commands.h"
#include "tools/skep/json.h"
#include "tools/skep/link.h"
#include "tools/skep/table.h"
#include "tools/text.h"

/* Commands that look and change nothing: status, realms, spaces, sessions, show, where, … */

/* Asks @command and prints JSON where it is wanted; else the answer is for the caller to show. */
static int look(const struct arguments *arguments, const char *command, json_t **answer)
{
	int status = link_ask_once(arguments, request_of(arguments, command), answer);

	if (status == EXIT_OK && arguments->option[OPTION_any_json]) {
		status = json_print(*answer);
		*answer = NULL;
	}
	return status;
}

static int no_words(const struct arguments *arguments)
{
	return arguments->words ? usage_error(arguments, "%s takes no %s", arguments->command,
					  arguments->word[0])
				: EXIT_OK;
}

/* ------------------------------------------------------------------------------- status */

static void status_head(const json_t *answer)
{
	char uptime[TEXT_SHORT_BYTES], pool[TEXT_SHORT_BYTES], ready[TEXT_SHORT_BYTES];
	const json_t *counters = json_object_get(answer, "counters");
	uint64_t wall = json_number(counters, "keeper_wall_ns");

	if (!counters) { /* a realm's own view */
		printf("skepd %s\n", json_text(answer, "version"));
		return;
	}
	text_span(uptime, json_number(answer, "uptime_ns"));
	text_bytes(pool, json_number(answer, "pool_bytes"));
	text_bytes(ready, json_number(answer, "pool_ready_bytes"));
	printf("skepd %s  pid %llu  up %s  %s\n", json_text(answer, "version"),
		(unsigned long long)json_number(answer, "pid"), uptime,
		json_text(answer, "socket"));
	if (json_number(answer, "takeovers"))
		printf("taken over %llu times since its first start\n",
			(unsigned long long)json_number(answer, "takeovers"));
	printf("loop %s%s  movers %llu  sessions %llu  keeper busy %.1f %%\n",
		json_text(answer, "loop"),
		json_is_true(json_object_get(answer, "loop_fallback"))
			? " (io_uring was refused: skep check)"
			: "",
		(unsigned long long)json_number(answer, "movers"),
		(unsigned long long)json_number(answer, "sessions"),
		wall ? 100.0 * (double)json_number(counters, "keeper_busy_ns") / (double)wall
		     : 0.0);
	printf("pool %s", pool);
	if (json_number(answer, "pool_ready_bytes") < json_number(answer, "pool_bytes"))
		printf(", %s ready: the rest is still populated, or waits for memory held "
		       "elsewhere",
			ready);
	printf("\n\n");
}

/* The ssd tier of the node: what fell back or failed is said, not left to be found. */
static void status_ssd(const json_t *answer)
{
	const json_t *ssd = json_object_get(answer, "ssd");
	char bytes[TEXT_SHORT_BYTES];
	uint64_t unwritten = json_number(ssd, "unwritten_bytes");

	if (!ssd)
		return;
	text_bytes(bytes, json_number(ssd, "segments") * json_number(ssd, "segment_bytes"));
	printf("ssd %s on %llu device%s, %llu of %llu segments free, by %s%s\n", bytes,
		(unsigned long long)json_number(ssd, "devices"),
		json_number(ssd, "devices") == 1 ? "" : "s",
		(unsigned long long)json_number(ssd, "segments_free"),
		(unsigned long long)json_number(ssd, "segments"), json_text(ssd, "io"),
		json_number(ssd, "io_fallback") ? " (io_uring was refused: skep check)" : "");
	text_bytes(bytes, unwritten);
	if (unwritten)
		printf("    %s of new files are still written through, and slower until then\n",
			bytes);
	if (json_number(ssd, "wear_bytes_per_day")) {
		text_bytes(bytes, json_number(ssd, "wear_left_bytes"));
		printf("    wear budget: %s may be written now, %llu writes waited for it\n", bytes,
			(unsigned long long)json_number(ssd, "wear_waits"));
	}
	if (json_number(ssd, "devices_fenced"))
		printf("    %llu fenced after repeated errors: see the log, then skep unfence\n",
			(unsigned long long)json_number(ssd, "devices_fenced"));
	if (json_number(ssd, "tables_damaged"))
		printf("    %llu damaged tables were found at the start\n",
			(unsigned long long)json_number(ssd, "tables_damaged"));
	if (json_number(ssd, "moves_given_up"))
		printf("    %llu durable records were not so for a while: tables could not be "
		       "written\n",
			(unsigned long long)json_number(ssd, "moves_given_up"));
	if (!json_is_true(json_object_get(ssd, "manifest")))
		printf("    no manifest (built without RocksDB): removed blocks may come back "
		       "after a restart\n");
	if (json_number(ssd, "manifest_rebuilt"))
		printf("    the manifest was lost and made anew from the tables: blocks that were "
		       "removed by command may be back\n");
	putchar('\n');
}

static int ssd_table(const json_t *answer)
{
	static const char *const headings[] = {"<REALM", "SSD", "LIVE", "OF", "BLOCKS", "UNWRITTEN",
		"WRITTEN", "DEMOTED", "PROMOTED", "MOVED", "SHED", "ERRORS"};
	struct table *table = table_create(headings, ARRAY_COUNT(headings));
	size_t i;
	json_t *realm;

	json_array_foreach(json_object_get(answer, "realms"), i, realm)
	{
		const json_t *counters = json_object_get(realm, "counters");

		table_cell(table, "%s", json_text(realm, "name"));
		table_bytes(table, json_number(realm, "ssd_bytes"));
		table_bytes(table, json_number(realm, "ssd_live_bytes"));
		table_bytes(table, json_number(realm, "ssd_live_max"));
		table_count(table, json_number(realm, "blocks_ssd"));
		table_count(table, json_number(realm, "blocks_unwritten"));
		table_count(table, json_number(counters, "blocks_written"));
		table_count(table, json_number(counters, "blocks_demoted"));
		table_count(table, json_number(counters, "blocks_promoted"));
		table_count(table, json_number(counters, "blocks_moved"));
		table_count(table, json_number(counters, "blocks_shed"));
		table_count(table, json_number(counters, "ssd_read_errors") +
					   json_number(counters, "ssd_write_errors"));
	}
	return table_end(table);
}

/* Does any realm have a share of an ssd tier? */
static bool any_ssd(const json_t *answer)
{
	size_t i;
	json_t *realm;

	json_array_foreach(json_object_get(answer, "realms"), i,
		realm) if (json_number(realm, "ssd_bytes")) return true;
	return false;
}

static int realms_table(const json_t *answer)
{
	static const char *const headings[] = {"<REALM", "POOL", "QUOTA", "USED", "BLOCKS",
		"PENDING", "IN HBM", "SPACES", "SESSIONS", "PINS", "HIT RATIO", "EVICTED",
		"REFUSED"};
	struct table *table = table_create(headings, ARRAY_COUNT(headings));
	size_t i;
	json_t *realm;

	json_array_foreach(json_object_get(answer, "realms"), i, realm)
	{
		const json_t *counters = json_object_get(realm, "counters");

		table_cell(table, "%s", json_text(realm, "name"));
		table_bytes(table, json_number(realm, "dram_bytes"));
		table_bytes(table, json_number(realm, "dram_use_max"));
		table_bytes(table, json_number(realm, "dram_used_bytes"));
		table_count(table, json_number(realm, "blocks_present"));
		table_count(table, json_number(realm, "blocks_pending"));
		table_count(table, json_number(realm, "hbm_blocks"));
		table_count(table, json_number(realm, "spaces"));
		table_count(table, json_number(realm, "sessions"));
		table_count(
			table, json_number(realm, "pins") + json_number(realm, "operator_pins"));
		table_cell(table, "%.4f", json_real_of(realm, "hit_ratio"));
		table_count(table, json_number(counters, "blocks_evicted"));
		table_count(table, json_number(counters, "puts_refused"));
	}
	return table_end(table);
}

int command_status(const struct arguments *arguments)
{
	json_t *answer;
	int status = no_words(arguments);

	if (!status)
		status = look(arguments, "status", &answer);
	if (status || !answer)
		return status;
	status_head(answer);
	status_ssd(answer);
	status = realms_table(answer);
	if (!status && any_ssd(answer)) {
		putchar('\n');
		status = ssd_table(answer);
	}
	json_decref(answer);
	return status;
}

/* One realm, every number with its name; small ones that are 0 are left out of the counters. */
static void realm_print(const json_t *realm)
{
	static const char *const groups[] = {"counters", "misses"};
	const char *key;
	json_t *value;

	printf("%s\n", json_text(realm, "name"));
	json_object_foreach((json_t *)(uintptr_t)realm, key, value)
	{
		char text[TEXT_SHORT_BYTES];
		size_t length = strlen(key);

		if (!json_is_number(value))
			continue;
		if (json_is_real(value))
			snprintf(text, sizeof(text), "%.4f", json_real_value(value));
		else if ((length > 6 && !strcmp(key + length - 6, "_bytes")) ||
			 !strcmp(key, "dram_use_max"))
			text_bytes(text, (uint64_t)json_integer_value(value));
		else
			text_count(text, (uint64_t)json_integer_value(value));
		printf("  %-24s %16s\n", key, text);
	}
	for (unsigned g = 0; g < ARRAY_COUNT(groups); g++) {
		printf("  %s\n", groups[g]);
		json_object_foreach(json_object_get(realm, groups[g]), key, value)
		{
			char text[TEXT_SHORT_BYTES];

			text_count(text, (uint64_t)json_integer_value(value));
			printf("    %-22s %16s\n", key, text);
		}
	}
	printf("  latencies\n");
	json_object_foreach(json_object_get(realm, "latencies"), key, value) printf(
		"    %-22s %16llu times, p50 %.1f us, p99 %.1f us, max %llu us\n", key,
		(unsigned long long)json_number(value, "count"), json_real_of(value, "p50_us"),
		json_real_of(value, "p99_us"), (unsigned long long)json_number(value, "max_us"));
}

int command_realms(const struct arguments *arguments)
{
	json_t *answer, *realm;
	size_t i;
	int status = no_words(arguments);

	if (!status)
		status = look(arguments, "realms", &answer);
	if (status || !answer)
		return status;
	json_array_foreach(json_object_get(answer, "realms"), i, realm) realm_print(realm);
	json_decref(answer);
	return EXIT_OK;
}

/* ---------------------------------------------------------------------- spaces, sessions */

int command_spaces(const struct arguments *arguments)
{
	static const char *const headings[] = {
		"<REALM", "<SPACE", "VERSION", "TOKENS", "PARTS", "BLOCK", "BLOCKS", "<NAMED BY"};
	json_t *answer, *space;
	struct table *table;
	size_t i;
	int status = no_words(arguments);

	if (!status)
		status = look(arguments, "spaces", &answer);
	if (status || !answer)
		return status;
	table = table_create(headings, ARRAY_COUNT(headings));
	json_array_foreach(json_object_get(answer, "spaces"), i, space)
	{
		table_cell(table, "%s", json_text(space, "realm"));
		table_cell(table, "%s", json_text(space, "name"));
		table_count(table, json_number(space, "version"));
		table_count(table, json_number(space, "block_tokens"));
		table_count(table, json_number(space, "parts"));
		table_bytes(table, json_number(space, "block_bytes"));
		table_count(table, json_number(space, "blocks"));
		table_cell(table, "%s",
			json_is_true(json_object_get(space, "opaque")) ? "keys" : "tokens");
	}
	status = table_end(table);
	json_decref(answer);
	return status;
}

int command_sessions(const struct arguments *arguments)
{
	static const char *const headings[] = {"SESSION", "<REALM", "<NAME", "PID", "UID", "AGE",
		"PINS", "RESERVED", "BYTES", "IN HBM", "BYTES", "SUBMITTED", "<STATE"};
	json_t *answer, *session;
	struct table *table;
	size_t i;
	int status = no_words(arguments);

	if (!status)
		status = look(arguments, "sessions", &answer);
	if (status || !answer)
		return status;
	table = table_create(headings, ARRAY_COUNT(headings));
	json_array_foreach(json_object_get(answer, "sessions"), i, session)
	{
		table_cell(table, "%llu", (unsigned long long)json_number(session, "session"));
		table_cell(table, "%s", json_text(session, "realm"));
		table_cell(table, "%s", json_text(session, "name"));
		if (json_number(session, "pid"))
			table_cell(table, "%llu", (unsigned long long)json_number(session, "pid"));
		else
			table_cell(table, "-");
		table_cell(table, "%llu", (unsigned long long)json_number(session, "uid"));
		table_span(table, json_number(session, "age_ns"));
		table_count(table, json_number(session, "pins"));
		table_count(table, json_number(session, "reservations"));
		table_bytes(table, json_number(session, "reserved_bytes"));
		table_count(table, json_number(session, "hbm_blocks"));
		table_bytes(table, json_number(session, "hbm_bytes"));
		table_count(table, json_number(session, "submissions"));
		table_cell(table, "%s",
			json_is_true(json_object_get(session, "dying")) ? "dying" : "open");
	}
	status = table_end(table);
	json_decref(answer);
	return status;
}

/* --------------------------------------------------------------------------------- blocks */

static const char *const block_headings[] = {"<ID", "<SPACE", "<STATE", "DEPTH", "CHILDREN", "SIZE",
	"IDLE", "PINS", "HELD", "<FIRST TOKENS"};

static void block_row(struct table *table, const json_t *block)
{
	char tokens[64] = "";
	size_t used = 0, i;
	json_t *token;

	table_cell(table, "%s", json_text(block, "id"));
	table_cell(table, "%s", json_text(block, "space"));
	table_cell(table, "%s", json_text(block, "state"));
	table_count(table, json_number(block, "depth"));
	table_count(table, json_number(block, "children"));
	table_bytes(table, json_number(block, "bytes"));
	table_span(table, json_number(block, "idle_ns"));
	table_count(table, json_number(block, "pins"));
	table_count(table, json_number(block, "operator_pins"));
	json_array_foreach(json_object_get(block, "tokens"), i, token)
	{
		int wrote = snprintf(tokens + used, sizeof(tokens) - used, "%s%lld", i ? " " : "",
			(long long)json_integer_value(token));

		used += (size_t)wrote;
		if (used >= sizeof(tokens) - 12)
			break;
	}
	table_cell(table, "%s", tokens);
}

/* Asks page after page until @limit blocks are there. @pages gets all of them as one array. */
static int blocks_gather(
	const struct arguments *arguments, json_t *query, uint64_t limit, json_t **blocks)
{
	struct link *link;
	int status = link_open(arguments, &link);

	*blocks = json_array();
	while (!status) {
		json_t *answer, *cursor, *page;

		status = link_ask(link, json_deep_copy(query), &answer);
		if (status)
			break;
		page = json_object_get(answer, "blocks");
		json_array_extend(*blocks, page);
		cursor = json_object_get(answer, "cursor");
		if (!json_is_integer(cursor) || json_array_size(*blocks) >= limit) {
			json_decref(answer);
			break;
		}
		json_object_set(query, "cursor", cursor);
		json_decref(answer);
	}
	if (!status)
		link_close(link);
	while (json_array_size(*blocks) > limit)
		json_array_remove(*blocks, json_array_size(*blocks) - 1);
	return status;
}

static int show_blocks(const struct arguments *arguments, const char *which)
{
	const char *space = arguments->option[OPTION_show_space];
	const char *below = arguments->option[OPTION_show_below];
	json_t *query = request_of(arguments, "blocks"), *blocks, *block;
	uint64_t limit = 100;
	int status;
	size_t i;

	if (!arguments_number(
		    arguments, OPTION_show_limit, (struct number_bounds){1, 10000000}, &limit)) {
		json_decref(query);
		return EXIT_USAGE;
	}
	json_object_set_new(query, "limit", json_integer((json_int_t)MIN_OF(limit, 1000u)));
	if (space)
		json_object_set_new(query, "space", json_string(space));
	if (below)
		json_object_set_new(query, "below", json_string(below));
	if (!strcmp(which, "roots"))
		json_object_set_new(query, "roots", json_true());
	if (!strcmp(which, "pins"))
		json_object_set_new(query, "pinned", json_true());
	status = blocks_gather(arguments, query, limit, &blocks);
	json_decref(query);
	if (status) {
		json_decref(blocks);
		return status;
	}
	if (arguments->option[OPTION_any_json])
		return json_print(json_pack("{s:o}", "blocks", blocks));
	if (json_array_size(blocks)) {
		struct table *table = table_create(block_headings, ARRAY_COUNT(block_headings));

		json_array_foreach(blocks, i, block) block_row(table, block);
		status = table_end(table);
		if (json_array_size(blocks) == limit)
			printf("(the first %llu; --limit shows more)\n", (unsigned long long)limit);
	} else {
		printf("no %s\n", which);
	}
	json_decref(blocks);
	return status;
}

/* A group of numbers, a column for each realm. */
static int show_numbers(const struct arguments *arguments, const char *group)
{
	const char *headings[1 + 22] = {"<"};
	json_t *answer, *realms, *value;
	struct table *table;
	const char *key;
	unsigned count;
	int status = look(arguments, "realms", &answer);

	if (status || !answer)
		return status;
	realms = json_object_get(answer, "realms");
	count = (unsigned)MIN_OF(json_array_size(realms), ARRAY_COUNT(headings) - 1);
	for (unsigned i = 0; i < count; i++)
		headings[1 + i] = json_text(json_array_get(realms, i), "name");
	table = table_create(headings, 1 + count);
	json_object_foreach(json_object_get(json_array_get(realms, 0), group), key, value)
	{
		table_cell(table, "%s", key);
		for (unsigned i = 0; i < count; i++) {
			const json_t *own = json_object_get(json_array_get(realms, i), group);

			if (json_is_object(value)) /* a latency */
				table_cell(table, "%llu x %.1f / %.1f us",
					(unsigned long long)json_number(
						json_object_get(own, key), "count"),
					json_real_of(json_object_get(own, key), "p50_us"),
					json_real_of(json_object_get(own, key), "p99_us"));
			else
				table_count(table, json_number(own, key));
		}
	}
	status = table_end(table);
	if (json_array_size(realms) > count)
		printf("(%u of %zu realms; --realm shows another)\n", count,
			json_array_size(realms));
	json_decref(answer);
	return status;
}

int command_show(const struct arguments *arguments)
{
	static const char *const of_blocks[] = {"blocks", "roots", "pins"};
	static const char *const of_numbers[] = {"counters", "misses", "latencies"};
	const char *what = arguments->words == 1 ? arguments->word[0] : "";

	for (unsigned i = 0; i < ARRAY_COUNT(of_blocks); i++)
		if (!strcmp(what, of_blocks[i]))
			return show_blocks(arguments, what);
	for (unsigned i = 0; i < ARRAY_COUNT(of_numbers); i++)
		if (!strcmp(what, of_numbers[i]))
			return show_numbers(arguments, what);
	return usage_error(
		arguments, "show: say what: blocks, roots, pins, counters, misses or latencies");
}

int command_where(const struct arguments *arguments)
{
	json_t *request = request_of(arguments, "where"), *answer, *value;
	const char *key;
	int status;

	if (arguments->words != 1) {
		json_decref(request);
		return usage_error(arguments, "where: say which block: its id, %d hex digits",
			TEXT_ID_BYTES - 1);
	}
	json_object_set_new(request, "id", json_string(arguments->word[0]));
	status = link_ask_once(arguments, request, &answer);
	if (status)
		return status;
	if (arguments->option[OPTION_any_json])
		return json_print(answer);
	json_object_foreach(json_object_get(answer, "block"), key, value)
	{
		char text[TEXT_SHORT_BYTES];
		size_t i;
		json_t *token;

		printf("%-18s ", key);
		if (!strcmp(key, "bytes")) {
			text_bytes(text, (uint64_t)json_integer_value(value));
			printf("%s", text);
		} else if (!strcmp(key, "idle_ns")) {
			text_span(text, (uint64_t)json_integer_value(value));
			printf("%s", text);
		} else if (json_is_integer(value)) {
			printf("%lld", (long long)json_integer_value(value));
		} else if (json_is_array(value)) {
			json_array_foreach(value, i, token) printf(
				"%s%lld", i ? " " : "", (long long)json_integer_value(token));
		} else {
			text_print_safe(json_string_value(value), stdout);
		}
		printf("\n");
	}
	json_decref(answer);
	return EXIT_OK;
}

/* ---------------------------------------------------------------------- the daemon's own */

/* Settings as lines of the file's form; what is empty is left out. */
static void config_print(const json_t *config, const char *indent)
{
	const char *key;
	json_t *value, *item;
	size_t i;

	json_object_foreach((json_t *)(uintptr_t)config, key, value)
	{
		if (json_is_array(value) && !json_is_object(json_array_get(value, 0))) {
			if (!json_array_size(value))
				continue;
			printf("%s%s:", indent, key);
			json_array_foreach(value, i, item)
			{
				char *text = json_dumps(item, JSON_ENCODE_ANY);

				printf("%s%s", i ? ", " : " [", text ? text : "?");
				memory_free(text);
			}
			printf("]\n");
		} else if (json_is_array(value)) {
			printf("%s%s:\n", indent, key);
			json_array_foreach(value, i, item)
			{
				printf("%s  - name: %s\n", indent, json_text(item, "name"));
				json_object_del(item, "name");
				config_print(item, "    ");
			}
		} else if (json_is_string(value)) {
			if (*json_string_value(value))
				printf("%s%s: %s\n", indent, key, json_string_value(value));
		} else {
			char *text = json_dumps(value, JSON_ENCODE_ANY);

			printf("%s%s: %s\n", indent, key, text ? text : "?");
			memory_free(text);
		}
	}
}

int command_config(const struct arguments *arguments)
{
	json_t *answer;
	int status = no_words(arguments);

	if (!status)
		status = look(arguments, "config", &answer);
	if (status || !answer)
		return status;
	config_print(json_object_get(answer, "config"), "");
	json_decref(answer);
	return EXIT_OK;
}

int command_check(const struct arguments *arguments)
{
	json_t *answer, *row;
	const char *worst;
	int status = no_words(arguments);
	size_t i;

	if (!status)
		status = link_ask_once(arguments, request_of(arguments, "check"), &answer);
	if (status)
		return status;
	worst = json_text(answer, "worst");
	status = !strcmp(worst, "ok") ? EXIT_OK : EXIT_NEGATIVE;
	if (arguments->option[OPTION_any_json])
		return json_print(answer) ? EXIT_DAEMON : status;
	json_array_foreach(json_object_get(answer, "checks"), i, row)
	{
		printf("%-4s  %-16s  %s\n", json_text(row, "verdict"), json_text(row, "name"),
			json_text(row, "found"));
		if (*json_text(row, "advice"))
			printf("%-4s  %-16s  -> %s\n", "", "", json_text(row, "advice"));
	}
	json_decref(answer);
	return status;
}

int command_metrics(const struct arguments *arguments)
{
	json_t *answer;
	int status = no_words(arguments);

	if (!status)
		status = look(arguments, "metrics", &answer);
	if (status || !answer)
		return status;
	fputs(json_text(answer, "text"), stdout);
	json_decref(answer);
	return EXIT_OK;
}
