/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include "store/fsck.h"
#include "tools/skep/commands.h"
#include "tools/skep/link.h"
#include "tools/skep/progress.h"
#include "tools/skepd/settings.h"
#include "tools/text.h"

/* `skep fsck`: the ssd tier while no daemon has it. Which ssds and which manifest, it is told in
 * the words of skepd, or by skepd's configuration. */

enum {
	PLACES_SHOWN = 20,    /* of each kind of finding */
	PLACES_LISTED = 1000, /* in JSON */
	SHOW_EVERY_NS = 100 * NS_PER_MS,
};

static const struct {
	const char *name, *one, *more;
} findings[FSCK_FINDING_COUNT] = {
#define X(name, one, more) {#name, one, more},
	FSCK_FINDING_TABLE(X)
#undef X
};

static const char *const manifests[] = {"sound", "absent", "damaged"};

struct look {
	struct progress progress;
	uint64_t shown_ns;
	bool json;
	json_t *places;
	unsigned listed[FSCK_FINDING_COUNT];
};

/* ------------------------------------------------------------------------------------- watching */

static void place_found(void *arg, const struct fsck_place *place)
{
	struct look *look = arg;
	uint64_t id[2] = {place->id_low, place->id_high};
	char text[TEXT_ID_BYTES] = "";

	if (look->listed[place->finding]++ >= (look->json ? PLACES_LISTED : PLACES_SHOWN))
		return;
	if (id[0] || id[1])
		text_id_write(text, id);
	if (look->json)
		json_array_append_new(
			look->places, json_pack("{s:s s:i s:i s:i s:s*}", "finding",
					      findings[place->finding].name, "device",
					      (int)place->device, "segment", (int)place->segment,
					      "unit", (int)place->unit, "id", *text ? text : NULL));
	else if (place->finding != FSCK_row_unknown)
		printf("device %u, segment %u, unit %u: %s%s%s\n", place->device, place->segment,
			place->unit, findings[place->finding].one, *text ? ": block " : "", text);
}

static void payloads_watch(void *arg, const struct fsck_report *report, uint64_t bytes_all)
{
	struct look *look = arg;
	struct progress *progress = &look->progress;

	progress->blocks = report->payload_blocks;
	progress->bytes = report->payload_bytes;
	progress->bad =
		report->findings[FSCK_payload_bad] + report->findings[FSCK_payload_unreadable];
	progress->percent = (unsigned)(100 * progress->bytes / MAX_OF(bytes_all, 1u));
	progress_pace(progress);
	if (clock_ns() - look->shown_ns < SHOW_EVERY_NS && progress->percent < 100)
		return;
	look->shown_ns = clock_ns();
	progress_show(progress);
}

/* ------------------------------------------------------------------------------------- settings */

/* The words that skepd would be started with. */
struct words {
	char *argv[2 * NODE_SSDS_MAX + 8];
	int count;
	char *list; /* the ssds, cut at their commas */
};

static bool words_make(const struct arguments *arguments, struct words *words)
{
	static char skepd[] = "skepd", config[] = "--config", ssd[] = "--ssd",
		    manifest[] = "--manifest";
	const char *list = arguments->option[OPTION_fsck_ssd];
	char *rest = NULL;

	words->argv[words->count++] = skepd;
	if (arguments->option[OPTION_fsck_config]) {
		words->argv[words->count++] = config;
		/* Lies in argv, which may be written. */
		words->argv[words->count++] =
			(char *)(uintptr_t)arguments->option[OPTION_fsck_config];
	}
	if (arguments->option[OPTION_fsck_manifest]) {
		words->argv[words->count++] = manifest;
		words->argv[words->count++] =
			(char *)(uintptr_t)arguments->option[OPTION_fsck_manifest];
	}
	if (!list)
		return true;
	words->list = memory_strdup(list);
	if (!words->list)
		return false;
	for (char *each = strtok_r(words->list, ",", &rest); each;
		each = strtok_r(NULL, ",", &rest)) {
		if (words->count + 2 > (int)ARRAY_COUNT(words->argv) - 1)
			break; /* skepd refuses so many as well */
		words->argv[words->count++] = ssd;
		words->argv[words->count++] = each;
	}
	return true;
}

/* Return: how skep ends; EXIT_OK with @out. */
static int settings_find(const struct arguments *arguments, struct settings **out)
{
	struct words words = {0};
	char why[SETTINGS_WHY_MAX] = "out of memory";
	struct actions actions;
	int status = -ENOMEM;

	if (words_make(arguments, &words))
		status = settings_create(words.count, words.argv, out, &actions, why);
	memory_free(words.list);
	if (status == -EINVAL)
		return usage_error(arguments, "fsck: %s", why);
	if (status) {
		fprintf(stderr, "skep: %s\n", why);
		return EXIT_DAEMON;
	}
	if ((*out)->ssd.count)
		return EXIT_OK;
	settings_destroy(*out);
	return usage_error(arguments, "fsck: say which ssds: --ssd PATH:SIZE, or --config FILE");
}

/* --------------------------------------------------------------------------------------- report */

static uint64_t findings_all(const struct fsck_report *report)
{
	uint64_t all = 0;

	for (unsigned i = 0; i < FSCK_FINDING_COUNT; i++)
		all += report->findings[i];
	return all;
}

static bool sound(const struct fsck_report *report)
{
	return !findings_all(report) &&
	       (report->rebuilt || report->manifest == FSCK_MANIFEST_SOUND);
}

static void set_text(char text[33], const struct fsck_report *report)
{
	for (unsigned i = 0; i < sizeof(report->set); i++)
		snprintf(text + 2 * i, 3, "%02x", report->set[i]);
}

static int report_json(const struct look *look, const struct fsck_report *report, const char *path)
{
	json_t *out, *logs = json_array(), *found = json_object();
	char set[33];

	set_text(set, report);
	for (unsigned i = 0; i < report->log_count; i++) {
		const struct fsck_log *log = &report->logs[i];

		json_array_append_new(
			logs, json_pack("{s:s% s:I s:I s:I s:I}", "realm", log->name,
				      strnlen(log->name, sizeof(log->name)), "segments",
				      (json_int_t)log->segments, "spaces", (json_int_t)log->spaces,
				      "blocks", (json_int_t)log->blocks, "bytes",
				      (json_int_t)log->bytes));
	}
	for (unsigned i = 0; i < FSCK_FINDING_COUNT; i++)
		json_object_set_new(
			found, findings[i].name, json_integer((json_int_t)report->findings[i]));
	out = json_pack("{s:b s:s s:i s:I s:I s:I s:I s:I s:I s:I s:I s:I s:I s:I}", "sound",
		sound(report), "set", set, "devices", (int)report->device_count, "device_bytes",
		(json_int_t)report->device_bytes, "segment_bytes",
		(json_int_t)report->segment_bytes, "segments", (json_int_t)report->segments,
		"segments_live", (json_int_t)report->segments_live, "segments_free",
		(json_int_t)report->segments_free, "tables", (json_int_t)report->tables, "records",
		(json_int_t)report->records, "blocks", (json_int_t)report->blocks, "spaces",
		(json_int_t)report->spaces, "dead", (json_int_t)report->dead, "superseded",
		(json_int_t)report->superseded);
	json_object_set_new(out, "realms", logs);
	json_object_set_new(out, "manifest",
		json_pack("{s:s s:s s:I s:I s:I}", "path", path, "state",
			manifests[report->manifest], "rows", (json_int_t)report->rows, "rows_past",
			(json_int_t)report->rows_past, "rows_stray",
			(json_int_t)report->rows_stray));
	json_object_set_new(out, "payloads",
		json_pack("{s:I s:I}", "blocks", (json_int_t)report->payload_blocks, "bytes",
			(json_int_t)report->payload_bytes));
	json_object_set_new(out, "rebuilt",
		json_pack("{s:b s:b s:I s:s*}", "done", report->rebuilt, "rows_lost",
			report->rows_lost, "rows", (json_int_t)report->rows_written, "old",
			*report->old_path ? report->old_path : NULL));
	json_object_set_new(out, "findings", found);
	json_object_set(out, "places", look->places);
	return json_print(out);
}

static void numbers_print(const struct fsck_report *report)
{
	char set[33], one[TEXT_SHORT_BYTES], two[TEXT_SHORT_BYTES];

	set_text(set, report);
	text_bytes(one, report->device_bytes);
	printf("set %s: %u device%s, %s\n", set, report->device_count,
		report->device_count == 1 ? "" : "s", one);
	text_bytes(one, report->segment_bytes);
	printf("segments: %llu of %s, %llu live, %llu free\n", (unsigned long long)report->segments,
		one, (unsigned long long)report->segments_live,
		(unsigned long long)report->segments_free);
	text_count(one, report->records);
	text_count(two, report->blocks);
	printf("tables: %llu with %s records: %s blocks, %llu space%s, %llu dead, %llu "
	       "superseded\n",
		(unsigned long long)report->tables, one, two, (unsigned long long)report->spaces,
		report->spaces == 1 ? "" : "s", (unsigned long long)report->dead,
		(unsigned long long)report->superseded);
	for (unsigned i = 0; i < report->log_count; i++) {
		const struct fsck_log *log = &report->logs[i];

		text_count(one, log->blocks);
		text_bytes(two, log->bytes);
		printf("realm %s: %s blocks (%s), %llu space%s, %llu segments\n", log->name, one,
			two, (unsigned long long)log->spaces, log->spaces == 1 ? "" : "s",
			(unsigned long long)log->segments);
	}
}

static void manifest_print(const struct fsck_report *report, const char *path)
{
	if (report->manifest == FSCK_MANIFEST_SOUND)
		printf("manifest %s: sound, %llu rows (%llu of segments that went on, %llu of no "
		       "record)\n",
			path, (unsigned long long)report->rows,
			(unsigned long long)report->rows_past,
			(unsigned long long)report->rows_stray);
	else
		printf("%s\n", report->manifest_why);
	if (!report->rebuilt) {
		if (report->manifest != FSCK_MANIFEST_SOUND)
			printf("manifest: all records count as live; --rebuild makes it anew, and "
			       "so does skepd at its next start\n");
		return;
	}
	printf("manifest: made anew with %llu rows%s%s\n", (unsigned long long)report->rows_written,
		*report->old_path ? "; the old one is kept as " : "", report->old_path);
	if (report->rows_lost)
		printf("manifest: what else it knew could not be recovered: blocks that were "
		       "removed by command may be back; remove them again\n");
}

static void report_print(const struct fsck_report *report, const struct settings *settings)
{
	char bytes[TEXT_SHORT_BYTES];

	numbers_print(report);
	manifest_print(report, settings->manifest_path);
	text_bytes(bytes, report->payload_bytes);
	if (report->payload_blocks)
		printf("payloads: %llu blocks, %s read\n",
			(unsigned long long)report->payload_blocks, bytes);
	for (unsigned i = 0; i < FSCK_FINDING_COUNT; i++)
		if (report->findings[i])
			printf("%llu %s\n", (unsigned long long)report->findings[i],
				report->findings[i] == 1 ? findings[i].one : findings[i].more);
	puts(sound(report) ? "sound" : "not sound");
}

static int refused(int status, const char *why)
{
	fprintf(stderr, "skep: %s\n", why);
	switch (status) {
	case -EBUSY:
	case -EACCES:
	case -EPERM:
	case -EMEDIUMTYPE:
		return EXIT_REFUSED;
	default:
		return EXIT_DAEMON;
	}
}

int command_fsck(const struct arguments *arguments)
{
	struct look look = {.progress = {.began_ns = clock_ns(), .rate = RATE_STANDARD},
		.json = arguments->option[OPTION_any_json] != NULL};
	struct fsck_options options = {.payloads = arguments->option[OPTION_fsck_payloads],
		.rebuild = arguments->option[OPTION_fsck_rebuild],
		.found = place_found,
		.progress = payloads_watch,
		.arg = &look};
	struct settings *settings = NULL;
	struct fsck_report *report;
	char why[SETTINGS_WHY_MAX];
	int status;

	if (arguments->words)
		return usage_error(arguments, "fsck takes no words");
	if (!arguments_size(arguments, OPTION_fsck_rate, (struct number_bounds){0, INT64_MAX},
		    &look.progress.rate))
		return EXIT_USAGE;
	status = settings_find(arguments, &settings);
	if (status)
		return status;
	options.ssds = settings->ssd.each;
	options.ssd_count = settings->ssd.count;
	options.manifest_path = settings->manifest_path;
	options.manifest_bytes = settings->manifest_memory;
	look.places = json_array();
	report = memory_zalloc(sizeof(*report));
	status = report ? fsck_run(&options, report, why, sizeof(why)) : -ENOMEM;
	progress_end(&look.progress);
	if (status)
		status = refused(status, report ? why : "out of memory");
	else if (look.json)
		status = report_json(&look, report, settings->manifest_path);
	else
		report_print(report, settings);
	if (status == EXIT_OK && !sound(report))
		status = EXIT_NEGATIVE;
	json_decref(look.places);
	memory_free(report);
	settings_destroy(settings);
	return status;
}
