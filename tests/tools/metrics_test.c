/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metrics page holds every number of the tables, in a form Prometheus reads, with realms named
 * only where they may be.
 */
#include "tools/skepd/metrics.c"

#include <stdlib.h>

#include "tests/base/unit.h"
#include "tests/tools/node_stub.h"
#include "tools/skepd/page.h"

static char *page_of(enum metrics_scope scope,
	void (*write)(const struct metrics_snapshot *, enum metrics_scope, FILE *))
{
	struct metrics_snapshot snapshot;
	char *text = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&text, &bytes);

	REQUIRE(out);
	REQUIRE_EQ(metrics_take(stub_node(), &snapshot), 0);
	if (scope == METRICS_REALM)
		snapshot.realm_count = 1;
	write(&snapshot, scope, out);
	metrics_drop(&snapshot);
	REQUIRE_EQ(fclose(out), 0);
	return text;
}

/* The value of the sample whose name and labels are @sample, or -1. */
static double sample_of(const char *page, const char *sample)
{
	size_t length = strlen(sample);

	for (const char *line = page; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, sample, length) && line[length] == ' ')
			return strtod(line + length, NULL);
	}
	return -1;
}

/* Each sample belongs to the family announced last; no family comes twice. */
static void form_check(const char *page)
{
	char *copy = strdup(page), *rest = copy, *line, family[160] = "", seen[64 << 10] = "";

	while ((line = strsep(&rest, "\n"))) {
		char word[160];

		if (!*line)
			continue;
		if (sscanf(line, "# HELP %127s", word) == 1) {
			char mark[164];

			snprintf(mark, sizeof(mark), " %s ", word);
			REQUIRE(!strstr(seen, mark));
			snprintf(seen + strlen(seen), sizeof(seen) - strlen(seen), "%s", mark);
			snprintf(family, sizeof(family), "%s", word);
		} else if (sscanf(line, "# TYPE %127s", word) == 1) {
			REQUIRE_TEXT(word, family);
		} else {
			char *end = strpbrk(line, " {"), *value = strrchr(line, ' ');

			REQUIRE(end && value && !strncmp(line, family, strlen(family)));
			strtod(value + 1, &end);
			REQUIRE(end != value + 1 && *end == 0);
		}
	}
	free(copy);
}

static void numbers_set(void)
{
	stub_reset();
	for (unsigned r = 0; r < 2; r++) {
		struct realm_status *realm = &stub.realms[r];

		for (unsigned i = 0; i < ARRAY_COUNT(gauge_rows); i++)
			memcpy((char *)realm + gauge_rows[i].offset, &(uint64_t){100 + i * 10 + r},
				sizeof(uint64_t));
		for (unsigned i = 0; i < REALM_COUNTER_COUNT; i++)
			realm->counters[i] = 1000 + i * 10 + r;
		for (unsigned i = 0; i < SKEP_REASON_COUNT; i++)
			realm->misses[i] = 5000 + i * 10 + r;
		histogram_add(&realm->latencies[REALM_LATENCY_commit], 100 + r);
		histogram_add(&realm->latencies[REALM_LATENCY_commit], 3 * NS_PER_US);
		histogram_add(&realm->latencies[REALM_LATENCY_commit], 100 * NS_PER_S);
	}
}

static void every_number_is_there(void)
{
	char *page = page_of(METRICS_REALMS, metrics_write), sample[160];

	form_check(page);
	for (unsigned i = 0; i < ARRAY_COUNT(gauge_rows); i++) {
		snprintf(sample, sizeof(sample), "skep_%s{realm=\"b\"}", gauge_rows[i].name);
		REQUIRE_EQ(sample_of(page, sample), 100 + i * 10 + 1);
	}
	for (unsigned i = 0; i < REALM_COUNTER_COUNT; i++) {
		snprintf(
			sample, sizeof(sample), "skep_%s_total{realm=\"a\"}", counter_rows[i].name);
		REQUIRE_EQ(sample_of(page, sample), 1000 + i * 10);
	}
	for (unsigned i = 1; i < SKEP_REASON_COUNT; i++) {
		snprintf(sample, sizeof(sample),
			"skep_missed_blocks_total{realm=\"b\",reason=\"%s\"}", reason_word(i));
		REQUIRE_EQ(sample_of(page, sample), 5000 + i * 10 + 1);
	}
	REQUIRE(sample_of(page, "skep_keeper_busy_seconds_total") == 1.5);
	REQUIRE(strstr(page, "# HELP skep_keeper_busy_seconds_total seconds in which"));
	REQUIRE_EQ(sample_of(page, "skep_uptime_seconds"), 90);
	free(page);
}

static void totals_name_no_realm(void)
{
	char *page = page_of(METRICS_TOTALS, metrics_write), sample[160];

	form_check(page);
	REQUIRE(!strstr(page, "realm="));
	for (unsigned i = 0; i < REALM_COUNTER_COUNT; i++) {
		snprintf(sample, sizeof(sample), "skep_%s_total", counter_rows[i].name);
		REQUIRE_EQ(sample_of(page, sample), 2 * (1000 + i * 10) + 1);
	}
	REQUIRE_EQ(sample_of(page, "skep_dram_bytes"), 201);
	REQUIRE_EQ(sample_of(page, "skep_missed_blocks_total{reason=\"evicted\"}"),
		2 * (5000 + SKEP_REASON_EVICTED * 10) + 1);
	free(page);
}

static void a_realm_sees_nothing_of_the_node(void)
{
	char *page = page_of(METRICS_REALM, metrics_write);

	form_check(page);
	REQUIRE(!strstr(page, "\"b\"") && !strstr(page, "keeper") && !strstr(page, "uptime"));
	REQUIRE_EQ(sample_of(page, "skep_dram_bytes{realm=\"a\"}"), 100);
	free(page);
}

static void buckets_add_up(void)
{
	char *page = page_of(METRICS_TOTALS, metrics_write);
	double before = 0;

	for (unsigned power = 8; power <= 34; power += 2) {
		char sample[96];
		double now;

		snprintf(sample, sizeof(sample), "skep_commit_seconds_bucket{le=\"%.12g\"}",
			(double)(1ull << power) / 1e9);
		now = sample_of(page, sample);
		REQUIRE(now >= before);
		/* 100 and 101 ns, then twice 3 us; 100 s lie above all. */
		REQUIRE_EQ(now, power < 12 ? 2 : 4);
		before = now;
	}
	REQUIRE_EQ(sample_of(page, "skep_commit_seconds_bucket{le=\"+Inf\"}"), 6);
	REQUIRE_EQ(sample_of(page, "skep_commit_seconds_count"), 6);
	REQUIRE(sample_of(page, "skep_commit_seconds_sum") > 200);
	REQUIRE_EQ(sample_of(page, "skep_evict_seconds_count"), 0);
	free(page);
}

static void odd_names_are_escaped(void)
{
	char *page;

	stub_reset();
	snprintf(stub.realms[1].name, NODE_NAME_MAX, "q\"\\<\n");
	page = page_of(METRICS_REALMS, metrics_write);
	REQUIRE(strstr(page, "{realm=\"q\\\"\\\\<\\n\"}"));
	form_check(page);
	free(page);
	page = page_of(METRICS_REALMS, page_write);
	REQUIRE(strstr(page, "<th>q\"\\&lt;\n</th>"));
	free(page);
	page = page_of(METRICS_TOTALS, page_write);
	REQUIRE(strstr(page, "all realms") && !strstr(page, "q\""));
	free(page);
}

static void a_silent_keeper_is_an_error(void)
{
	struct metrics_snapshot snapshot;

	stub.status = -ETIMEDOUT;
	REQUIRE_EQ(metrics_take(stub_node(), &snapshot), -ETIMEDOUT);
	metrics_drop(&snapshot);
	stub.status = 0;
	memory_fail_after(1, 0);
	REQUIRE_EQ(metrics_take(stub_node(), &snapshot), -ENOMEM);
	memory_fail_after(0, 0);
	metrics_drop(&snapshot);
}

static void the_hit_ratio_is_tokens_had_over_asked(void)
{
	struct realm_status realm = {0};

	REQUIRE(metrics_hit_ratio(&realm) == 0);
	realm.counters[REALM_COUNTER_tokens_asked] = 8;
	realm.counters[REALM_COUNTER_tokens_had] = 2;
	REQUIRE(metrics_hit_ratio(&realm) == 0.25);
}

int main(void)
{
	numbers_set();
	every_number_is_there();
	totals_name_no_realm();
	a_realm_sees_nothing_of_the_node();
	buckets_add_up();
	odd_names_are_escaped();
	a_silent_keeper_is_an_error();
	the_hit_ratio_is_tokens_had_over_asked();
	return 0;
}
