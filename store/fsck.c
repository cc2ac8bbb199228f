/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "store/fsck_priv.h"
#include "tiering/ssd/disk.h"

/* Reads of tables under way at once. */
enum { READ_THREADS = 4 };

static void place_say(struct fsck *fsck, const struct fsck_place *place)
{
	fsck->report->findings[place->finding]++;
	if (fsck->options->found)
		fsck->options->found(fsck->options->arg, place);
}

void fsck_say(struct fsck *fsck, enum fsck_finding finding, const struct ssd_found *record)
{
	struct fsck_place place = {.finding = finding};
	struct label_head head;

	if (record) {
		uint32_t units = fsck->survey.segment_units;
		const struct ssd_seen *seen = &fsck->survey.segments[record->at / units];

		place.device = seen->device;
		place.segment = seen->slot;
		place.unit = record->at % units;
		if (record->label_bytes >= sizeof(head)) {
			memcpy(&head, record->label, sizeof(head));
			if (head.kind == LABEL_BLOCK && head.version == LABEL_VERSION) {
				place.id_low = head.id_low;
				place.id_high = head.id_high;
			}
		}
	}
	place_say(fsck, &place);
}

/* ----------------------------------------------------------------------------------- devices */

static int devices_open(struct fsck *fsck)
{
	const struct fsck_options *options = fsck->options;
	struct disk_path paths[NODE_SSDS_MAX];
	struct disks_options disks = {.paths = paths,
		.count = options->ssd_count,
		.backend = LOOP_BACKEND_EPOLL, /* nothing but read_now() is asked for */
		.plain_threads = 1,
		.read_only = true};
	struct ssd_options ssd = {.recover_threads = READ_THREADS, .survey = true};
	int status;

	if (!options->ssd_count || options->ssd_count > NODE_SSDS_MAX) {
		snprintf(fsck->why, fsck->why_bytes, "%u ssds: give 1 to %d", options->ssd_count,
			NODE_SSDS_MAX);
		return -EINVAL;
	}
	for (unsigned i = 0; i < options->ssd_count; i++)
		paths[i] = (struct disk_path){options->ssds[i].path, options->ssds[i].bytes};
	status = disks_create(&disks, &fsck->io, fsck->why, fsck->why_bytes);
	if (status < 0)
		return status;
	ssd.io = fsck->io;
	return ssd_create(&ssd, &fsck->ssd, fsck->why, fsck->why_bytes);
}

static void segments_report(struct fsck *fsck)
{
	const struct ssd_survey *survey = &fsck->survey;
	struct fsck_report *report = fsck->report;

	memcpy(report->set, survey->set, sizeof(report->set));
	report->segment_bytes = survey->segment_bytes;
	report->segments = survey->segment_count;
	report->records = (uint64_t)survey->count;
	report->device_count = fsck->io->device_count;
	for (unsigned i = 0; i < fsck->io->device_count; i++)
		report->device_bytes += fsck->io->device_bytes[i];
	for (uint32_t i = 0; i < survey->segment_count; i++) {
		const struct ssd_seen *seen = &survey->segments[i];
		struct fsck_place place = {.finding = seen->status == -EIO ? FSCK_segment_unreadable
									   : FSCK_table_damaged,
			.device = seen->device,
			.segment = seen->slot};

		report->tables += seen->tables;
		if (seen->status)
			place_say(fsck, &place);
	}
}

/* ------------------------------------------------------------------------------------ records */

static struct fsck_realm *realm_of(struct fsck *fsck, const char *name)
{
	struct fsck_report *report = fsck->report;
	struct fsck_log *log;

	for (unsigned i = 0; i < report->log_count; i++)
		if (!strcmp(report->logs[i].name, name))
			return &fsck->realms[i];
	if (report->log_count == FSCK_LOGS_MAX)
		return NULL;
	log = &report->logs[report->log_count];
	snprintf(log->name, sizeof(log->name), "%s", name);
	fsck->realms[report->log_count].log = log;
	return &fsck->realms[report->log_count++];
}

static int key_add(struct fsck_realm *realm, uint64_t key)
{
	if (realm->key_count == realm->key_room) {
		size_t room = realm->key_room ? 2 * realm->key_room : 64;
		uint64_t *grown = memory_realloc(realm->keys, room * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		realm->keys = grown;
		realm->key_room = room;
	}
	realm->keys[realm->key_count++] = key;
	return 0;
}

static int record_add(struct fsck_realm *realm, const struct ssd_found *record)
{
	if (realm->count == realm->room) {
		int64_t room = realm->room ? 2 * realm->room : 1024;
		struct ssd_found *grown =
			memory_realloc(realm->found, (size_t)room * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		realm->found = grown;
		realm->room = room;
	}
	realm->found[realm->count++] = *record;
	return 0;
}

/* Each record goes to its realm; the dead are left out. */
static int records_sort(struct fsck *fsck)
{
	const struct ssd_survey *survey = &fsck->survey;
	int status = 0;

	for (int64_t i = 0; i < survey->count && !status; i++) {
		const struct ssd_found *record = &survey->found[i];
		const struct ssd_seen *seen = &survey->segments[record->at / survey->segment_units];
		struct fsck_realm *realm = realm_of(fsck, seen->log);
		struct ledger_row row = {record->sequence, record->at % survey->segment_units};
		struct label_space space;

		if (!realm) /* more names than a node can have: no daemon takes them in */
			continue;
		if (label_space_read(record->label, record->label_bytes, &space) == 0)
			status = key_add(realm, space.space_key);
		if (ledger_rows_have(&fsck->rows, row))
			fsck->report->dead++;
		else if (!status)
			status = record_add(realm, record);
	}
	return status;
}

static int by_number(const void *a, const void *b)
{
	uint64_t one = *(const uint64_t *)a, two = *(const uint64_t *)b;

	return (one > two) - (one < two);
}

/* What the rows of the manifest are good for. */
static int rows_report(struct fsck *fsck)
{
	const struct ssd_survey *survey = &fsck->survey;
	struct fsck_report *report = fsck->report;
	uint64_t *sequences = memory_calloc(survey->segment_count, sizeof(*sequences));

	if (!sequences)
		return -ENOMEM;
	for (uint32_t i = 0; i < survey->segment_count; i++)
		sequences[i] = survey->segments[i].sequence;
	qsort(sequences, survey->segment_count, sizeof(*sequences), by_number);
	report->rows = fsck->rows.count;
	for (size_t i = 0; i < fsck->rows.count; i++)
		if (!bsearch(&fsck->rows.rows[i].sequence, sequences, survey->segment_count,
			    sizeof(*sequences), by_number))
			report->rows_past++;
	/* A record has a row or none: what is left over names none. */
	report->rows_stray = report->rows - report->rows_past - report->dead;
	for (uint64_t i = 0; i < fsck->rows.foreign; i++)
		fsck_say(fsck, FSCK_row_unknown, NULL);
	memory_free(sequences);
	return 0;
}

/* -------------------------------------------------------------------------------------- whole */

static int all_judge(struct fsck *fsck)
{
	struct fsck_report *report = fsck->report;
	uint64_t bytes_all = 0;
	int status = 0;

	for (unsigned i = 0; i < report->log_count && !status; i++) {
		status = fsck_realm_judge(fsck, &fsck->realms[i]);
		report->blocks += report->logs[i].blocks;
		report->spaces += report->logs[i].spaces;
		bytes_all += report->logs[i].bytes;
	}
	for (uint32_t i = 0; i < fsck->survey.segment_count; i++) {
		struct fsck_realm *realm;

		report->segments_live += fsck->segment_live[i];
		report->segments_free += !fsck->segment_live[i];
		if (fsck->segment_live[i] && (realm = realm_of(fsck, fsck->survey.segments[i].log)))
			realm->log->segments++;
	}
	for (unsigned i = 0; i < report->log_count && fsck->options->payloads && !status; i++)
		status = fsck_realm_payloads(fsck, &fsck->realms[i], bytes_all);
	return status;
}

static int all_look(struct fsck *fsck)
{
	int status = ssd_survey(fsck->ssd, &fsck->survey);

	if (status < 0) {
		snprintf(fsck->why, fsck->why_bytes, "the tables cannot be read: %s",
			status_text(status));
		return status;
	}
	segments_report(fsck);
	fsck->realms = memory_calloc(FSCK_LOGS_MAX, sizeof(*fsck->realms));
	fsck->segment_live = memory_calloc(fsck->survey.segment_count, sizeof(bool));
	status = fsck->realms && fsck->segment_live ? fsck_manifest_read(fsck) : -ENOMEM;
	if (status == 0)
		status = records_sort(fsck);
	if (status == 0)
		status = rows_report(fsck);
	if (status == 0)
		status = all_judge(fsck);
	return status;
}

int fsck_run(
	const struct fsck_options *options, struct fsck_report *report, char *why, size_t why_bytes)
{
	struct fsck fsck = {
		.options = options, .report = report, .why = why, .why_bytes = why_bytes};
	size_t length = strlen(options->manifest_path);
	int status;

	while (length > 1 && options->manifest_path[length - 1] == '/')
		length--;
	*report = (struct fsck_report){0};
	if (length >= sizeof(fsck.manifest)) {
		snprintf(why, why_bytes, "the manifest's path is too long");
		return -ENAMETOOLONG;
	}
	memcpy(fsck.manifest, options->manifest_path, length);
	snprintf(why, why_bytes, "out of memory");
	status = devices_open(&fsck);
	if (status == 0)
		status = all_look(&fsck);
	if (status == 0 && options->rebuild)
		status = fsck_manifest_rebuild(&fsck);
	for (unsigned i = 0; fsck.realms && i < report->log_count; i++)
		fsck_realm_free(&fsck.realms[i]);
	memory_free(fsck.realms);
	memory_free(fsck.segment_live);
	ledger_rows_free(&fsck.rows);
	ssd_destroy(fsck.ssd);
	disks_destroy(fsck.io);
	return status;
}
