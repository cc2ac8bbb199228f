/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skep fsck: what it says of a disk is what the next daemon finds there, block by block; it changes
 * nothing; and a manifest that it makes anew is as good as the old one, as far as that could be
 * read.
 *
 *	ssd_fsck_test [KILLS] [--seed N]
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>

#include "store/fsck.h"
#include "tests/node/user.h"
#include "tiering/ssd/format.h"

enum {
	DRAM_BYTES = 16 << 20,
	PART_BYTES = 64 << 10,
	BLOCKS = 8,
	STORIES =
		220, /* more than the ssd holds: some are evicted, so that there are dead records */
	TOUCHED = 60,
	KILLS = 12,
};

#define SSD_BYTES (64ull << 20)

static const struct shape shape = {
	.space = "fsck", .block_tokens = 16, .parts = 1, .ranges = 2, .part_bytes = PART_BYTES};

static struct daemon keeper;

/* -------------------------------------------------------------------------------- what is there */

/* What a daemon finds, story by story. */
struct sight {
	uint64_t blocks;
	uint32_t had[STORIES];
	bool rebuilt;
};

static void daemon_sees(struct sight *sight)
{
	struct realm_status realm;
	struct node_status node;
	struct user user;

	daemon_start(&keeper);
	daemon_realm(&keeper, 0, &realm);
	daemon_node(&keeper, &node);
	sight->blocks = realm.blocks_ssd;
	sight->rebuilt = node.ssd.manifest_rebuilt;
	user_open(&user, keeper.config.socket_path, &shape);
	for (unsigned i = 0; i < STORIES; i++) {
		struct story story = story_open(&user, i, BLOCKS);

		sight->had[i] = story_load(&user, &story);
		story_close(&story);
	}
	user_close(&user);
	daemon_kill(&keeper);
}

static void sights_equal(const struct sight *one, const struct sight *other)
{
	REQUIRE_EQ(one->blocks, other->blocks);
	for (unsigned i = 0; i < STORIES; i++)
		REQUIRE_EQ(one->had[i], other->had[i]);
}

static void story_put_or_have(struct user *user, uint64_t number, bool put)
{
	struct story story = story_open(user, number, BLOCKS);
	struct putting what = {.count = BLOCKS, .deadline_ns = skep_deadline_ms(20000)};

	if (put)
		REQUIRE_EQ(story_put(user, &story, &what).status, 0);
	else
		story_load(user, &story);
	story_close(&story);
}

static void disk_fill(void)
{
	struct user user;

	daemon_init(&keeper, (struct daemon_size){.dram_bytes = DRAM_BYTES, .blocks = 8192});
	keeper.realms[0].ssd_bytes = SSD_BYTES;
	daemon_ssd_add(&keeper, "ssd", SSD_BYTES + (1 << 20));
	daemon_start(&keeper);
	user_open(&user, keeper.config.socket_path, &shape);
	for (unsigned i = 0; i < STORIES; i++) {
		/* Every other one stays warm, so that the dead lie among the living. */
		if (i == TOUCHED)
			for (unsigned k = 0; k < TOUCHED; k += 2)
				story_put_or_have(&user, k, false);
		story_put_or_have(&user, i, true);
	}
	REQUIRE_EQ(skep_sync(user.space, skep_deadline_ms(20000)), 0);
	user_close(&user);
	daemon_kill(&keeper);
}

/* ---------------------------------------------------------------------------------------- disk */

static void shell(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void shell(const char *format, ...)
{
	char command[16384];
	va_list list;

	va_start(list, format);
	vsnprintf(command, sizeof(command), format, list);
	va_end(list);
	REQUIRE_EQ(system(command), 0);
}

/* Device and manifest, to and from a place aside. */
static void disk_keep(const char *as)
{
	const char *path = keeper.ssds[0].path;

	shell("cp -p --sparse=always %s %s.%s && cp -rp %s.manifest %s.%s.manifest", path, path, as,
		path, path, as);
}

static void disk_restore(const char *from)
{
	const char *path = keeper.ssds[0].path;

	shell("rm -rf %s.manifest* && cp -rp %s.%s.manifest %s.manifest && "
	      "cp -p --sparse=always %s.%s %s",
		path, path, from, path, path, from, path);
}

/* Sums, sizes and times of all there is. */
static void disk_list(const char *to)
{
	const char *path = keeper.ssds[0].path;

	shell("{ ls -lR --time-style=full-iso %s %s.manifest && "
	      "sha256sum %s $(find %s.manifest -type f | sort); } > %s.%s",
		path, path, path, path, path, to);
}

static void disk_is_as_listed(const char *in)
{
	disk_list("now");
	shell("cmp %s.%s %s.now", keeper.ssds[0].path, in, keeper.ssds[0].path);
}

/* Makes the manifest one that was shut by a crash: cut short in its log. */
static void manifest_cut(void)
{
	const char *path = keeper.ssds[0].path;

	shell("for f in $(find %s.manifest -name 'MANIFEST-*'); do truncate -s 20 $f; done", path);
}

/* ---------------------------------------------------------------------------------------- fsck */

struct answer {
	int status;
	char why[512];
	struct fsck_report report;
	unsigned places;
	struct fsck_place place; /* the last one */
};

static void place_see(void *arg, const struct fsck_place *place)
{
	struct answer *answer = arg;

	answer->places++;
	answer->place = *place;
}

/* A child's: threads stay behind in who has opened a RocksDB. */
static void fsck_body(int line, const void *arg)
{
	static struct answer answer;
	struct fsck_options options = *(const struct fsck_options *)arg;

	options.found = place_see;
	options.arg = &answer;
	answer.status = fsck_run(&options, &answer.report, answer.why, sizeof(answer.why));
	line_tell(line, &answer, sizeof(answer));
}

static struct fsck_options options_of(bool rebuild, bool payloads)
{
	static char manifest[4200];

	snprintf(manifest, sizeof(manifest), "%s.manifest/", keeper.ssds[0].path);
	return (struct fsck_options){.ssds = keeper.ssds,
		.ssd_count = 1,
		.manifest_path = manifest,
		.rebuild = rebuild,
		.payloads = payloads};
}

static struct answer *fsck(bool rebuild, bool payloads)
{
	static struct answer answer;
	struct fsck_options options = options_of(rebuild, payloads);
	struct child child;

	child_start(&child, "fsck", fsck_body, &options);
	REQUIRE_EQ(line_hear(child.line, &answer, sizeof(answer)), sizeof(answer));
	child_finish(&child);
	if (answer.status)
		printf("fsck: %s\n", answer.why);
	return &answer;
}

static uint64_t findings(const struct fsck_report *report)
{
	uint64_t all = 0;

	for (unsigned i = 0; i < FSCK_FINDING_COUNT; i++)
		all += report->findings[i];
	return all;
}

/* --------------------------------------------------------------------------------------- cases */

static void a_sound_disk_is_told_and_left_alone(const struct sight *sight)
{
	struct fsck_report *report;
	struct answer *answer;

	disk_list("before");
	answer = fsck(false, true);
	report = &answer->report;
	disk_is_as_listed("before");
	REQUIRE_EQ(answer->status, 0);
	printf("%llu records: %llu blocks, %llu dead, %llu superseded; %llu rows, %llu past, %llu "
	       "stray\n",
		(unsigned long long)report->records, (unsigned long long)report->blocks,
		(unsigned long long)report->dead, (unsigned long long)report->superseded,
		(unsigned long long)report->rows, (unsigned long long)report->rows_past,
		(unsigned long long)report->rows_stray);
	REQUIRE_EQ(findings(report), 0);
	REQUIRE_EQ(answer->places, 0);
	REQUIRE_EQ(report->manifest, FSCK_MANIFEST_SOUND);
	REQUIRE_EQ(report->blocks, sight->blocks);
	REQUIRE_EQ(report->records,
		report->blocks + report->spaces + report->dead + report->superseded);
	REQUIRE_EQ(report->rows, report->dead + report->rows_past + report->rows_stray);
	REQUIRE(report->dead > 0);
	REQUIRE_EQ(report->payload_blocks, report->blocks);
	REQUIRE_EQ(report->payload_bytes, report->blocks * PART_BYTES);
	REQUIRE_EQ(report->log_count, 1);
	REQUIRE(!strcmp(report->logs[0].name, "main"));
	REQUIRE_EQ(report->logs[0].bytes, report->payload_bytes);
	REQUIRE_EQ(report->segments, report->segments_live + report->segments_free);
	REQUIRE(report->segments_live > 0 && report->segments_live < report->segments);
}

static void a_daemons_disk_is_refused(void)
{
	daemon_start(&keeper);
	REQUIRE_EQ(fsck(false, false)->status, -EBUSY);
	REQUIRE_EQ(fsck(true, false)->status, -EBUSY);
	daemon_kill(&keeper);
}

/* The rows that mean something go over; the index is what it was. */
static void a_sound_manifest_is_made_anew(const struct sight *sight, uint64_t dead)
{
	struct answer *answer = fsck(true, false);
	struct sight now;

	REQUIRE_EQ(answer->status, 0);
	REQUIRE(answer->report.rebuilt && !answer->report.rows_lost);
	REQUIRE_EQ(answer->report.rows_written, dead);
	REQUIRE(access(answer->report.old_path, F_OK) == 0);
	answer = fsck(false, false);
	REQUIRE_EQ(answer->report.manifest, FSCK_MANIFEST_SOUND);
	REQUIRE_EQ(answer->report.rows, dead);
	REQUIRE_EQ(answer->report.dead, dead);
	REQUIRE_EQ(answer->report.blocks, sight->blocks);
	daemon_sees(&now);
	REQUIRE(!now.rebuilt);
	sights_equal(&now, sight);
}

/* The same as the daemon does by itself, which says so. */
static void a_lost_manifest_is_made_anew(void)
{
	const char *path = keeper.ssds[0].path;
	struct answer *answer;
	struct sight alone, now;

	shell("rm -rf %s.manifest", path);
	daemon_sees(&alone);
	REQUIRE(alone.rebuilt);
	disk_restore("kept");
	shell("rm -rf %s.manifest", path);
	answer = fsck(false, false);
	REQUIRE_EQ(answer->status, 0);
	REQUIRE_EQ(answer->report.manifest, FSCK_MANIFEST_ABSENT);
	REQUIRE(strstr(answer->report.manifest_why, "not there"));
	REQUIRE_EQ(answer->report.blocks, alone.blocks);
	answer = fsck(true, false);
	REQUIRE_EQ(answer->status, 0);
	REQUIRE(answer->report.rebuilt && answer->report.rows_lost);
	REQUIRE_EQ(answer->report.rows_written, 0);
	REQUIRE_EQ(answer->report.old_path[0], 0);
	daemon_sees(&now);
	REQUIRE(!now.rebuilt);
	sights_equal(&now, &alone);
}

/* What RocksDB's repair brings back of a damaged one counts. */
static void a_damaged_manifest_is_saved(const struct sight *sight, uint64_t dead)
{
	struct answer *answer;
	struct sight now;

	/* Of a clean stop there is a table with rows, which the file that was cut named. */
	daemon_start(&keeper);
	daemon_stop(&keeper);
	manifest_cut();
	disk_list("before");
	answer = fsck(false, false);
	disk_is_as_listed("before");
	REQUIRE_EQ(answer->status, 0);
	REQUIRE_EQ(answer->report.manifest, FSCK_MANIFEST_DAMAGED);
	REQUIRE_EQ(answer->report.dead, 0);
	answer = fsck(true, false);
	REQUIRE_EQ(answer->status, 0);
	REQUIRE(answer->report.rebuilt && answer->report.rows_lost);
	printf("of a damaged manifest %llu of %llu rows were saved\n",
		(unsigned long long)answer->report.rows_written, (unsigned long long)dead);
	REQUIRE_EQ(answer->report.rows_written, dead);
	REQUIRE(access(answer->report.old_path, F_OK) == 0);
	daemon_sees(&now);
	sights_equal(&now, sight);
}

/* -------------------------------------------------------------------------- damage on devices */

/* Of the first tables of segments one of many records, none of them of a space. */
struct table {
	int file;
	uint64_t at; /* in the file */
	struct ssd_table_head head;
	uint8_t bytes[SSD_TABLE_UNITS_MAX * SSD_UNIT_BYTES];
};

static bool blocks_alone(const struct table *table)
{
	struct ssd_table_walk walk = {.entries = table->bytes,
		.bytes = table->head.entry_bytes,
		.left = table->head.entry_count,
		.below = UINT32_MAX};
	struct ssd_table_entry entry;
	const uint8_t *label;

	while (ssd_table_next(&walk, &entry, &label) > 0)
		if (label[0] != 1) /* docs/formats/label.md */
			return false;
	return true;
}

static void table_read(struct table *table)
{
	REQUIRE_EQ(pread(table->file, table->bytes, (size_t)table->head.units * SSD_UNIT_BYTES,
			   (off_t)table->at),
		table->head.units * SSD_UNIT_BYTES);
}

static void table_find(struct table *table)
{
	struct ssd_device_head device;
	struct ssd_table_place place = {.table = 0};
	static uint8_t unit[SSD_UNIT_BYTES];
	static struct table best;
	uint32_t most = 0;

	table->file = open(keeper.ssds[0].path, O_RDWR | O_CLOEXEC);
	REQUIRE(table->file >= 0);
	REQUIRE_EQ(pread(table->file, &device, sizeof(device), 0), sizeof(device));
	place.set = device.set;
	for (uint64_t at = device.segments_at; at + device.segment_bytes <= SSD_BYTES;
		at += device.segment_bytes, place.segment++) {
		uint64_t end = at + device.segment_bytes - SSD_UNIT_BYTES;
		struct ssd_table_head head;

		place.table = 0;
		place.sequence = 0;
		place.end = (uint32_t)(device.segment_bytes / SSD_UNIT_BYTES);
		REQUIRE_EQ(pread(table->file, unit, sizeof(unit), (off_t)end), sizeof(unit));
		if (ssd_table_head_read(unit, &place, &head))
			continue;
		place.table = 1;
		place.sequence = head.sequence;
		place.end--;
		REQUIRE_EQ(pread(table->file, unit, sizeof(unit), (off_t)(end - sizeof(unit))),
			sizeof(unit));
		if (ssd_table_head_read(unit, &place, &head) || head.entry_count <= most)
			continue;
		best = *table;
		table->head = head;
		table->at = end - (uint64_t)head.units * SSD_UNIT_BYTES;
		table_read(table);
		if (blocks_alone(table))
			most = head.entry_count;
		else
			*table = best;
	}
	REQUIRE(most > 4);
}

static void table_write(struct table *table)
{
	REQUIRE_EQ(pwrite(table->file, table->bytes, (size_t)table->head.units * SSD_UNIT_BYTES,
			   (off_t)table->at),
		table->head.units * SSD_UNIT_BYTES);
	close(table->file);
}

/* Records are lost and no others; fsck and the daemon agree on which. */
static void a_damaged_table_is_told(const struct sight *sight)
{
	static struct table table;
	struct answer *answer;
	struct sight now;

	table_find(&table);
	table.bytes[200] ^= 0x10;
	table_write(&table);
	answer = fsck(false, false);
	REQUIRE_EQ(answer->status, 0);
	REQUIRE_EQ(answer->report.findings[FSCK_table_damaged], 1);
	REQUIRE_EQ(answer->report.manifest, FSCK_MANIFEST_SOUND);
	REQUIRE(answer->report.blocks < sight->blocks);
	REQUIRE_EQ(answer->report.findings[FSCK_space_missing], 0);
	printf("a damaged table: %llu blocks of %llu, %llu without their parent\n",
		(unsigned long long)answer->report.blocks, (unsigned long long)sight->blocks,
		(unsigned long long)answer->report.findings[FSCK_parent_missing]);
	answer = fsck(true, false);
	REQUIRE_EQ(answer->status, 0);
	REQUIRE(answer->report.rebuilt);
	daemon_sees(&now);
	REQUIRE_EQ(now.blocks, answer->report.blocks);
	for (unsigned i = 0; i < STORIES; i++)
		REQUIRE(now.had[i] <= sight->had[i]);
}

static void unknown_versions_stay_as_they_are(void)
{
	static struct table table;
	static uint8_t unit[SSD_UNIT_BYTES];
	struct ssd_device_head *head = (void *)unit;
	struct answer *answer;
	uint16_t version = 9;

	/* A label: looked at, but a manifest that leaves it out is not made. */
	table_find(&table);
	memcpy(table.bytes + sizeof(struct ssd_table_entry) + 2, &version, sizeof(version));
	ssd_table_seal(table.bytes, &table.head);
	table_write(&table);
	disk_list("before");
	answer = fsck(false, false);
	REQUIRE_EQ(answer->status, 0);
	/* It may be one of the dead, which nobody looks at. */
	if (answer->report.findings[FSCK_label_unknown]) {
		REQUIRE_EQ(fsck(true, false)->status, -EMEDIUMTYPE);
		disk_is_as_listed("before");
	} else {
		printf("the label was that of a dead record\n");
	}
	disk_restore("kept");

	/* A device. */
	table_find(&table);
	REQUIRE_EQ(pread(table.file, unit, sizeof(unit), 0), sizeof(unit));
	head->version = 2;
	ssd_head_seal(head);
	REQUIRE_EQ(pwrite(table.file, unit, sizeof(unit), 0), sizeof(unit));
	close(table.file);
	disk_list("before");
	REQUIRE_EQ(fsck(false, false)->status, -EMEDIUMTYPE);
	answer = fsck(true, false);
	REQUIRE_EQ(answer->status, -EMEDIUMTYPE);
	REQUIRE(strstr(answer->why, "version 2"));
	disk_is_as_listed("before");
}

static void a_changed_payload_is_told(void)
{
	static struct table table;
	struct ssd_table_entry entry;
	struct answer *answer;
	uint64_t segment;
	uint8_t byte;

	table_find(&table);
	segment = (table.at - (1 << 20)) / (4 << 20) * (4 << 20) + (1 << 20);
	/* The last record: the first ones may be dead. */
	for (uint32_t i = 0, at = 0; i < table.head.entry_count; i++) {
		memcpy(&entry, table.bytes + at, sizeof(entry));
		at += (uint32_t)sizeof(entry) + ((entry.label_bytes + 7u) & ~7u);
		REQUIRE_EQ(pread(table.file, &byte, 1,
				   (off_t)(segment + (uint64_t)entry.first * SSD_UNIT_BYTES + 7)),
			1);
		byte ^= 1;
		REQUIRE_EQ(pwrite(table.file, &byte, 1,
				   (off_t)(segment + (uint64_t)entry.first * SSD_UNIT_BYTES + 7)),
			1);
	}
	close(table.file);
	answer = fsck(false, false);
	REQUIRE_EQ(answer->status, 0);
	REQUIRE_EQ(findings(&answer->report), 0);
	answer = fsck(false, true);
	printf("%llu changed payloads were found\n",
		(unsigned long long)answer->report.findings[FSCK_payload_bad]);
	REQUIRE(answer->report.findings[FSCK_payload_bad] > 0);
	REQUIRE_EQ(answer->place.finding, FSCK_payload_bad);
	REQUIRE(answer->place.id_low || answer->place.id_high);
}

static void what_is_no_skep_disk_is_left_alone(void)
{
	const char *path = keeper.ssds[0].path;

	shell("rm %s && truncate -s 64M %s", path, path);
	REQUIRE_EQ(fsck(false, false)->status, -ENODATA);
	REQUIRE_EQ(fsck(true, false)->status, -ENODATA);
	shell("test $(du -k %s | cut -f1) = 0 && rm %s", path, path);
	REQUIRE_EQ(fsck(false, false)->status, -ENOENT);
	REQUIRE(access(path, F_OK) < 0);
}

/* --------------------------------------------------------------------------------------- kills */

static void rebuilds(int line, const void *arg)
{
	static struct fsck_report report;
	char why[512];

	note_tell(line, (struct note){0});
	for (;;)
		REQUIRE_EQ(fsck_run(arg, &report, why, sizeof(why)), 0);
}

/* Whoever looks afterwards finds a whole manifest: the one before, or the new one. */
static void a_killed_rebuild_leaves_one_whole(const struct sight *sight, uint64_t dead)
{
	struct fsck_options options = options_of(true, false);
	struct sight now;

	for (unsigned i = 0; i < harness_count; i++) {
		struct answer *answer;
		struct child child;

		child_start(&child, "rebuilds", rebuilds, &options);
		note_hear(child.line);
		usleep(unit_random(&harness_seed, 200000 * harness_slower()));
		child_kill(&child);
		answer = fsck(false, false);
		REQUIRE_EQ(answer->status, 0);
		REQUIRE_EQ(answer->report.manifest, FSCK_MANIFEST_SOUND);
		REQUIRE_EQ(answer->report.dead, dead);
		REQUIRE_EQ(answer->report.blocks, sight->blocks);
		shell("rm -rf %s.manifest.old-*", keeper.ssds[0].path);
	}
	REQUIRE_EQ(fsck(true, false)->status, 0);
	daemon_sees(&now);
	sights_equal(&now, sight);
	/* What was left of the killed ones is gone. */
	shell("! ls -d %s.manifest.new 2>/dev/null", keeper.ssds[0].path);
}

int main(int argc, char **argv)
{
	static struct sight sight;
	uint64_t dead;

	harness_begin(&(struct harness_options){
		.argc = argc, .argv = argv, .seconds = 60, .count = KILLS});
	harness_need_disk(4 * SSD_BYTES);
	disk_fill();
	/* A start tells the manifest of what it drops: from here on nothing changes. */
	daemon_sees(&sight);
	printf("%llu blocks\n", (unsigned long long)sight.blocks);
	if (fsck(false, false)->report.manifest == FSCK_MANIFEST_ABSENT)
		harness_skip("built without RocksDB");
	disk_keep("kept");
	a_sound_disk_is_told_and_left_alone(&sight);
	dead = fsck(false, false)->report.dead;
	a_daemons_disk_is_refused();
	disk_restore("kept");
	a_sound_manifest_is_made_anew(&sight, dead);
	disk_restore("kept");
	a_lost_manifest_is_made_anew();
	disk_restore("kept");
	a_damaged_manifest_is_saved(&sight, dead);
	disk_restore("kept");
	a_damaged_table_is_told(&sight);
	disk_restore("kept");
	unknown_versions_stay_as_they_are();
	disk_restore("kept");
	a_changed_payload_is_told();
	disk_restore("kept");
	a_killed_rebuild_leaves_one_whole(&sight, dead);
	what_is_no_skep_disk_is_left_alone();
	return 0;
}
