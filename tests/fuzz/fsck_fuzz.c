/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The labels of a realm's log as a forged device would give them, in the eyes of fsck: whatever
 * they say, each record is counted once, and the bytes of what is taken for a block can be summed.
 *
 * The input is a list of labels: two bytes of length, then the label.
 */
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

#include "store/fsck_realm.c"

enum { RECORDS_MAX = 64, UNITS_MAX = 64, SEGMENT_UNITS = RECORDS_MAX * UNITS_MAX };

static struct ssd_found records[RECORDS_MAX];
static uint64_t labels[RECORDS_MAX][SSD_LABEL_MAX / 8];
static uint8_t payload[UNITS_MAX * SSD_UNIT_BYTES];

/* As fsck.c has it, less the telling. */
void fsck_say(struct fsck *fsck, enum fsck_finding finding, const struct ssd_found *record)
{
	if (record < fsck->realms[0].found ||
		record >= fsck->realms[0].found + fsck->realms[0].count)
		abort();
	fsck->report->findings[finding]++;
}

/* How long the record is that the label speaks of: what it says, where that can be. */
static uint32_t units_of(const struct ssd_found *record)
{
	struct label_block label;
	uint64_t units = 0;

	if (label_block_read(record->label, record->label_bytes, &label) < 0)
		return 1;
	for (uint32_t i = 0; i < label.head.parts; i++) {
		if (label.parts[i].bytes > sizeof(payload))
			return 1;
		units += divide_up(label.parts[i].bytes, SSD_UNIT_BYTES);
	}
	return units >= 1 && units <= UNITS_MAX ? (uint32_t)units : 1;
}

static int64_t records_take(const uint8_t *data, size_t bytes)
{
	int64_t count = 0;

	while (bytes >= 2 && count < RECORDS_MAX) {
		size_t length = data[0] | (size_t)data[1] << 8;

		data += 2;
		bytes -= 2;
		length = MIN_OF(MIN_OF(length, bytes), SSD_LABEL_MAX);
		memcpy(labels[count], data, length);
		data += length;
		bytes -= length;
		records[count] = (struct ssd_found){.label = labels[count],
			.label_bytes = (uint32_t)length,
			.at = (uint32_t)count * UNITS_MAX,
			.sequence = 1};
		records[count].units = units_of(&records[count]);
		count++;
	}
	return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static struct fsck_report report;
	struct fsck_options options = {0};
	struct fsck_realm realm = {.log = &report.logs[0]};
	bool live[1] = {false};
	struct fsck fsck = {.options = &options,
		.report = &report,
		.realms = &realm,
		.segment_live = live,
		.survey = {.segment_units = SEGMENT_UNITS, .segment_count = 1}};
	uint64_t all = 0;

	report = (struct fsck_report){0};
	realm.count = records_take(data, bytes);
	/* Memory of its own, so that ASan sees its ends. */
	realm.found = memory_calloc((size_t)realm.count, sizeof(records[0]));
	if (!realm.found)
		abort();
	memcpy(realm.found, records, (size_t)realm.count * sizeof(records[0]));
	if (realm.count && fsck_realm_judge(&fsck, &realm) < 0)
		abort();
	for (unsigned i = 0; i < FSCK_FINDING_COUNT; i++)
		all += report.findings[i];
	if (all + report.superseded + realm.log->blocks + realm.log->spaces !=
		(uint64_t)realm.count)
		abort();
	for (uint32_t i = 0; i < realm.chains.count; i++) {
		const struct chains_record *record = &realm.chains.records[i];

		if (record->state == CHAINS_IN)
			bytes_right(&realm.spaces[record->space].label.request,
				&realm.found[record->found], payload);
	}
	fsck_realm_free(&realm);
	return 0;
}
