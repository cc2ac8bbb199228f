/* SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "tools/skep/commands.h"
#include "tools/skep/json.h"
#include "tools/skep/link.h"
#include "tools/skep/table.h"
#include "tools/text.h"

/* `skep top`: what each realm does a second, from the counters of two looks. */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
	(void)signal_number;
	interrupted = 1;
}

/* One look at the daemon. */
struct look {
	json_t *answer;
	uint64_t at_ns;
};

/* The same realm in the look before, or NULL (a restart in between has other realms' counters). */
static const json_t *realm_before(const struct look *before, const char *name)
{
	json_t *realm;
	size_t i;

	json_array_foreach(json_object_get(before->answer, "realms"), i,
		realm) if (!strcmp(json_text(realm, "name"), name)) return realm;
	return NULL;
}

/* Growth of a counter between two looks; 0 where the daemon was started anew. */
static uint64_t grown(const json_t *now, const json_t *before, const char *key)
{
	uint64_t a = json_number(json_object_get(before, "counters"), key);
	uint64_t b = json_number(json_object_get(now, "counters"), key);

	return b > a ? b - a : 0;
}

/* What a realm did in the span between two looks. */
struct rates {
	double seconds;
	double matches, tokens_asked, hit_ratio, puts, put_bytes, evicted, refused;
};

static struct rates rates_of(const json_t *now, const json_t *before, uint64_t span_ns)
{
	double seconds = (double)MAX_OF(span_ns, 1u) / (double)NS_PER_S;
	uint64_t asked = grown(now, before, "tokens_asked");

	return (struct rates){
		.seconds = seconds,
		.matches = (double)grown(now, before, "matches") / seconds,
		.tokens_asked = (double)asked / seconds,
		.hit_ratio = asked ? (double)grown(now, before, "tokens_had") / (double)asked : 0,
		.puts = (double)grown(now, before, "parts_committed") / seconds,
		.put_bytes = (double)grown(now, before, "bytes_committed") / seconds,
		.evicted = (double)grown(now, before, "blocks_evicted") / seconds,
		.refused = (double)grown(now, before, "puts_refused") / seconds,
	};
}

static int rates_print_json(const struct look *now, const struct look *before)
{
	json_t *out = json_array(), *realm;
	size_t i;

	json_array_foreach(json_object_get(now->answer, "realms"), i, realm)
	{
		struct rates rates = rates_of(realm, realm_before(before, json_text(realm, "name")),
			now->at_ns - before->at_ns);

		json_array_append_new(out,
			json_pack("{s:s s:f s:f s:f s:f s:f s:f s:f s:I s:I s:I s:I}", "name",
				json_text(realm, "name"), "matches_per_s", rates.matches,
				"tokens_asked_per_s", rates.tokens_asked, "hit_ratio",
				rates.hit_ratio, "puts_per_s", rates.puts, "put_bytes_per_s",
				rates.put_bytes, "evicted_per_s", rates.evicted, "refused_per_s",
				rates.refused, "dram_used_bytes",
				(json_int_t)json_number(realm, "dram_used_bytes"), "blocks_present",
				(json_int_t)json_number(realm, "blocks_present"), "hbm_blocks",
				(json_int_t)json_number(realm, "hbm_blocks"), "sessions",
				(json_int_t)json_number(realm, "sessions")));
	}
	return json_print(json_pack("{s:f s:o}", "seconds",
		(double)(now->at_ns - before->at_ns) / (double)NS_PER_S, "realms", out));
}

static void head_print(const struct look *now, const struct look *before)
{
	uint64_t wall = grown(now->answer, before->answer, "keeper_wall_ns");
	char uptime[TEXT_SHORT_BYTES];

	text_span(uptime, json_number(now->answer, "uptime_ns"));
	printf("skepd %s", json_text(now->answer, "version"));
	if (json_object_get(now->answer, "counters"))
		printf("  up %s  sessions %llu  keeper busy %.1f %%", uptime,
			(unsigned long long)json_number(now->answer, "sessions"),
			wall ? 100.0 *
					(double)grown(
						now->answer, before->answer, "keeper_busy_ns") /
					(double)wall
			     : 0.0);
	printf("\n\n");
}

static int rates_print(const struct look *now, const struct look *before)
{
	static const char *const headings[] = {"<REALM", "USED", "BLOCKS", "IN HBM", "MATCHES/s",
		"TOKENS/s", "HIT RATIO", "PUTS/s", "PUT BYTES/s", "EVICTED/s", "REFUSED/s"};
	struct table *table = table_create(headings, ARRAY_COUNT(headings));
	json_t *realm;
	size_t i;

	head_print(now, before);
	json_array_foreach(json_object_get(now->answer, "realms"), i, realm)
	{
		struct rates rates = rates_of(realm, realm_before(before, json_text(realm, "name")),
			now->at_ns - before->at_ns);

		table_cell(table, "%s", json_text(realm, "name"));
		table_bytes(table, json_number(realm, "dram_used_bytes"));
		table_count(table, json_number(realm, "blocks_present"));
		table_count(table, json_number(realm, "hbm_blocks"));
		table_count(table, (unsigned long long)rates.matches);
		table_count(table, (unsigned long long)rates.tokens_asked);
		table_cell(table, "%.4f", rates.hit_ratio);
		table_count(table, (unsigned long long)rates.puts);
		table_bytes(table, (unsigned long long)rates.put_bytes);
		table_count(table, (unsigned long long)rates.evicted);
		table_count(table, (unsigned long long)rates.refused);
	}
	return table_end(table);
}

static int look(const struct arguments *arguments, struct link *link, struct look *out)
{
	int status = link_ask(link, request_of(arguments, "status"), &out->answer);

	out->at_ns = clock_ns();
	return status;
}

static int top_run(const struct arguments *arguments, struct link *link, uint64_t seconds)
{
	bool once = arguments->option[OPTION_top_once], json = arguments->option[OPTION_any_json];
	bool clear = !once && !json && isatty(STDOUT_FILENO);
	struct timespec span = {.tv_sec = (time_t)seconds};
	struct look before = {0}, now = {0};
	int status = look(arguments, link, &before);

	while (!status && !interrupted) {
		if (nanosleep(&span, NULL))
			continue;
		status = look(arguments, link, &now);
		if (status)
			break;
		if (clear)
			fputs("\033[H\033[2J", stdout);
		status = json ? rates_print_json(&now, &before) : rates_print(&now, &before);
		fflush(stdout);
		json_decref(before.answer);
		before = now;
		now.answer = NULL;
		if (once)
			break;
	}
	json_decref(before.answer);
	return status;
}

int command_top(const struct arguments *arguments)
{
	struct sigaction act = {.sa_handler = on_interrupt};
	uint64_t seconds = 1;
	struct link *link;
	int status;

	if (arguments->words)
		return usage_error(arguments, "top takes no %s", arguments->word[0]);
	if (!arguments_number(
		    arguments, OPTION_top_interval, (struct number_bounds){1, 3600}, &seconds))
		return EXIT_USAGE;
	status = link_open(arguments, &link);
	if (status)
		return status;
	sigaction(SIGINT, &act, NULL);
	status = top_run(arguments, link, seconds);
	link_close(link);
	return status;
}
