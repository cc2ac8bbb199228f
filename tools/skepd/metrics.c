/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skepd/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"

#ifndef SKEP_VERSION
#error "SKEP_VERSION comes from the build"
#endif

struct number_row {
	const char *name, *help;
	size_t offset; /* of a uint64_t in struct realm_status */
};

static const struct number_row gauge_rows[] = {
#define X(name, help) {#name, help, offsetof(struct realm_status, name)},
	REALM_GAUGE_TABLE(X)
#undef X
};

static const struct number_row counter_rows[] = {
#define X(name, help)                                                                              \
	{#name, help,                                                                              \
		offsetof(struct realm_status, counters) +                                          \
			REALM_COUNTER_##name * sizeof(uint64_t)},
	REALM_COUNTER_TABLE(X)
#undef X
};

static const struct number_row node_rows[] = {
#define X(name, help)                                                                              \
	{#name, help,                                                                              \
		offsetof(struct node_status, counters) + NODE_COUNTER_##name * sizeof(uint64_t)},
	NODE_COUNTER_TABLE(X)
#undef X
};

static const struct number_row latency_rows[] = {
#define X(name, help)                                                                              \
	{#name, help,                                                                              \
		offsetof(struct realm_status, latencies) +                                         \
			REALM_LATENCY_##name * sizeof(struct histogram)},
	REALM_LATENCY_TABLE(X)
#undef X
};

static uint64_t number_at(const void *base, const struct number_row *row)
{
	uint64_t value;

	memcpy(&value, (const char *)base + row->offset, sizeof(value));
	return value;
}

int metrics_take(struct node *node, struct metrics_snapshot *out)
{
	int status;

	out->realms = NULL;
	out->realm_count = 0;
	status = node_status(node, &out->node);
	if (status < 0)
		return status;
	out->realms = memory_calloc(MAX_OF(out->node.realm_count, 1u), sizeof(*out->realms));
	if (!out->realms)
		return -ENOMEM;
	for (unsigned i = 0; i < out->node.realm_count; i++) {
		status = node_realm(node, i, &out->realms[i]);
		if (status < 0)
			return status;
		out->realm_count++;
	}
	return 0;
}

void metrics_drop(struct metrics_snapshot *snapshot)
{
	memory_free(snapshot->realms);
	snapshot->realms = NULL;
	snapshot->realm_count = 0;
}

static void number_add(void *to, const void *from, const struct number_row *row)
{
	uint64_t sum = number_at(to, row) + number_at(from, row);

	memcpy((char *)to + row->offset, &sum, sizeof(sum));
}

void metrics_total(const struct metrics_snapshot *snapshot, struct realm_status *total)
{
	memset(total, 0, sizeof(*total));
	for (unsigned r = 0; r < snapshot->realm_count; r++) {
		const struct realm_status *realm = &snapshot->realms[r];

		for (unsigned i = 0; i < ARRAY_COUNT(gauge_rows); i++)
			number_add(total, realm, &gauge_rows[i]);
		for (unsigned i = 0; i < ARRAY_COUNT(counter_rows); i++)
			number_add(total, realm, &counter_rows[i]);
		for (unsigned i = 0; i < SKEP_REASON_COUNT; i++)
			total->misses[i] += realm->misses[i];
		for (unsigned i = 0; i < REALM_LATENCY_COUNT; i++)
			histogram_merge(&total->latencies[i], &realm->latencies[i]);
	}
}

double metrics_hit_ratio(const struct realm_status *realm)
{
	uint64_t asked = realm->counters[REALM_COUNTER_tokens_asked];

	return asked ? (double)realm->counters[REALM_COUNTER_tokens_had] / (double)asked : 0;
}

/* ------------------------------------------------------------------------------ one family */

static void label_write(FILE *out, const char *name, const char *value)
{
	fprintf(out, "%s=\"", name);
	for (; *value; value++) {
		if (*value == '\n') {
			fputs("\\n", out);
			continue;
		}
		if (*value == '"' || *value == '\\')
			fputc('\\', out);
		fputc(*value, out);
	}
	fputc('"', out);
}

/* Opens a sample: its name, and the realm's label where one is shown. */
static void sample_open(FILE *out, const char *name, const char *realm)
{
	fputs(name, out);
	if (realm) {
		fputc('{', out);
		label_write(out, "realm", realm);
		fputc('}', out);
	}
	fputc(' ', out);
}

static void family_open(FILE *out, const char *name, const char *kind, const char *help)
{
	fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind);
}

/* Their help says "nanoseconds …" then, which becomes "seconds …". */
static const char *counter_help(const char *help, bool time)
{
	return time && !strncmp(help, "nanoseconds", 11) ? help + 4 : help;
}

/* Names of counters say their unit last: "…_ns" is shown in seconds, as the format's users want. */
static bool counter_name(char *to, size_t room, const char *name)
{
	size_t length = strlen(name);
	bool time = length > 3 && !strcmp(name + length - 3, "_ns");

	if (time)
		snprintf(to, room, "skep_%.*s_seconds_total", (int)(length - 3), name);
	else
		snprintf(to, room, "skep_%s_total", name);
	return time;
}

static void counter_sample(
	FILE *out, const char *name, const char *realm, uint64_t value, bool time)
{
	sample_open(out, name, realm);
	if (time)
		fprintf(out, "%.9f\n", (double)value / (double)NS_PER_S);
	else
		fprintf(out, "%" PRIu64 "\n", value);
}

/* The realms a page shows: the snapshot's own, or one that stands for all and has no name. */
struct shown {
	const struct realm_status *realms;
	unsigned count;
	bool named;
};

static const char *shown_name(const struct shown *shown, unsigned i)
{
	return shown->named ? shown->realms[i].name : NULL;
}

static void realm_numbers_write(const struct shown *shown, FILE *out)
{
	char name[96];

	for (unsigned g = 0; g < ARRAY_COUNT(gauge_rows); g++) {
		snprintf(name, sizeof(name), "skep_%s", gauge_rows[g].name);
		family_open(out, name, "gauge", gauge_rows[g].help);
		for (unsigned i = 0; i < shown->count; i++) {
			sample_open(out, name, shown_name(shown, i));
			fprintf(out, "%" PRIu64 "\n", number_at(&shown->realms[i], &gauge_rows[g]));
		}
	}
	for (unsigned c = 0; c < ARRAY_COUNT(counter_rows); c++) {
		bool time = counter_name(name, sizeof(name), counter_rows[c].name);

		family_open(out, name, "counter", counter_help(counter_rows[c].help, time));
		for (unsigned i = 0; i < shown->count; i++)
			counter_sample(out, name, shown_name(shown, i),
				number_at(&shown->realms[i], &counter_rows[c]), time);
	}
}

static void misses_write(const struct shown *shown, FILE *out)
{
	family_open(out, "skep_missed_blocks_total", "counter",
		"blocks asked for in matches and not had, by reason");
	for (unsigned i = 0; i < shown->count; i++)
		for (unsigned r = SKEP_REASON_NONE + 1; r < SKEP_REASON_COUNT; r++) {
			fputs("skep_missed_blocks_total{", out);
			if (shown->named) {
				label_write(out, "realm", shown->realms[i].name);
				fputc(',', out);
			}
			label_write(out, "reason", reason_word(r));
			fprintf(out, "} %" PRIu64 "\n", shown->realms[i].misses[r]);
		}
}

/*
 * Upper bounds of the buckets: 256 ns to 17 s, four times wider each. They lie on bounds of the
 * histogram's own cells, so no count is split (a value of exactly a bound counts above it).
 */
enum { BUCKET_POWER_FIRST = 8, BUCKET_POWER_LAST = 34, BUCKET_POWER_STEP = 2 };

static void histogram_write(
	FILE *out, const char *name, const char *realm, const struct histogram *h)
{
	uint64_t below = 0;
	unsigned cell = 0;

	for (unsigned power = BUCKET_POWER_FIRST; power <= BUCKET_POWER_LAST;
		power += BUCKET_POWER_STEP) {
		for (; cell < HISTOGRAM_CELLS && histogram_bound(cell) <= 1ull << power; cell++)
			below += h->cells[cell];
		fprintf(out, "%s_bucket{", name);
		if (realm) {
			label_write(out, "realm", realm);
			fputc(',', out);
		}
		fprintf(out, "le=\"%.12g\"} %" PRIu64 "\n",
			(double)(1ull << power) / (double)NS_PER_S, below);
	}
	fprintf(out, "%s_bucket{", name);
	if (realm) {
		label_write(out, "realm", realm);
		fputc(',', out);
	}
	fprintf(out, "le=\"+Inf\"} %" PRIu64 "\n", h->count);
	for (unsigned sum = 0; sum < 2; sum++) {
		fprintf(out, "%s_%s", name, sum ? "sum" : "count");
		sample_open(out, "", realm);
		if (sum)
			fprintf(out, "%.9f\n", (double)h->sum / (double)NS_PER_S);
		else
			fprintf(out, "%" PRIu64 "\n", h->count);
	}
}

static void latencies_write(const struct shown *shown, FILE *out)
{
	char name[96];

	for (unsigned l = 0; l < ARRAY_COUNT(latency_rows); l++) {
		snprintf(name, sizeof(name), "skep_%s_seconds", latency_rows[l].name);
		family_open(out, name, "histogram", latency_rows[l].help);
		for (unsigned i = 0; i < shown->count; i++)
			histogram_write(
				out, name, shown_name(shown, i), &shown->realms[i].latencies[l]);
	}
}

static void ssd_write(const struct node_ssd_status *ssd, FILE *out)
{
	static const struct {
		const char *name, *help;
		bool counter;
		size_t offset;
	} rows[] = {
#define X(name, counter, help)                                                                     \
	{"skep_ssd_" #name, help, counter, offsetof(struct node_ssd_status, name)},
		SSD_NUMBER_TABLE(X)
#undef X
	};

	for (unsigned i = 0; i < ARRAY_COUNT(rows); i++) {
		const char *suffix = rows[i].counter ? "_total" : "";
		char name[96];
		uint64_t value;

		memcpy(&value, (const char *)ssd + rows[i].offset, sizeof(value));
		snprintf(name, sizeof(name), "%s%s", rows[i].name, suffix);
		family_open(out, name, rows[i].counter ? "counter" : "gauge", rows[i].help);
		fprintf(out, "%s %" PRIu64 "\n", name, value);
	}
	family_open(out, "skep_ssd_read_seconds", "histogram",
		"a read of the devices, from its submission to its bytes");
	histogram_write(out, "skep_ssd_read_seconds", NULL, &ssd->read_ns);
	family_open(out, "skep_ssd_write_seconds", "histogram", "a write to the devices");
	histogram_write(out, "skep_ssd_write_seconds", NULL, &ssd->write_ns);
}

static void node_write(const struct node_status *node, FILE *out)
{
	char name[96];

	family_open(out, "skep_info", "gauge", "version, incarnation and event loop; always 1");
	fprintf(out,
		"skep_info{version=\"" SKEP_VERSION "\",incarnation=\"%016" PRIx64
		"\",loop=\"%s\"} 1\n",
		node->incarnation, node->loop_backend);
	family_open(out, "skep_uptime_seconds", "gauge", "seconds since the daemon started");
	fprintf(out, "skep_uptime_seconds %.3f\n", (double)node->uptime_ns / (double)NS_PER_S);
	family_open(out, "skep_loop_fallback", "gauge",
		"1 where io_uring was wanted and refused: slower, see skepd --check");
	fprintf(out, "skep_loop_fallback %d\n", node->loop_fallback);
	family_open(out, "skep_movers", "gauge", "mover threads");
	fprintf(out, "skep_movers %u\n", node->movers);
	for (unsigned i = 0; i < ARRAY_COUNT(node_rows); i++) {
		bool time = counter_name(name, sizeof(name), node_rows[i].name);

		family_open(out, name, "counter", counter_help(node_rows[i].help, time));
		counter_sample(out, name, NULL, number_at(node, &node_rows[i]), time);
	}
	if (node->ssd.devices)
		ssd_write(&node->ssd, out);
}

void metrics_write(const struct metrics_snapshot *snapshot, enum metrics_scope scope, FILE *out)
{
	struct shown shown = {snapshot->realms, snapshot->realm_count, true};
	/* Of some 20 KiB: the threads that come here have stacks for it. */
	struct realm_status total;

	SKEP_CHECK(scope != METRICS_REALM || snapshot->realm_count == 1);
	if (scope != METRICS_REALM)
		node_write(&snapshot->node, out);
	if (scope == METRICS_TOTALS) {
		metrics_total(snapshot, &total);
		shown = (struct shown){&total, 1, false};
	}
	realm_numbers_write(&shown, out);
	misses_write(&shown, out);
	latencies_write(&shown, out);
}
