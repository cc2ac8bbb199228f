/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lies on a device: the byte tables are those of docs/formats/ssd.md, and a table that was
 * damaged anywhere is not believed.
 *
 *	tiering_ssd_format_test docs/formats/ssd.md
 */
#include <errno.h>
#include <stddef.h>

#include "tests/base/unit.h"
#include "tiering/ssd/format.h"
#include "tiering/ssd/ssd.h"

struct field {
	const char *of, *name;
	size_t offset, bytes;
};

#define ROW(type, field)                                                                           \
	{                                                                                          \
#type, #field, offsetof(struct type, field), sizeof(((struct type *)0)->field)     \
	}

static const struct field fields[] = {
	ROW(ssd_device_head, magic),
	ROW(ssd_device_head, version),
	ROW(ssd_device_head, head_bytes),
	ROW(ssd_device_head, set),
	ROW(ssd_device_head, device),
	ROW(ssd_device_head, device_count),
	ROW(ssd_device_head, segment_bytes),
	ROW(ssd_device_head, segments_at),
	ROW(ssd_device_head, sum),
	ROW(ssd_table_head, magic),
	ROW(ssd_table_head, set),
	ROW(ssd_table_head, sequence),
	ROW(ssd_table_head, device),
	ROW(ssd_table_head, segment),
	ROW(ssd_table_head, table),
	ROW(ssd_table_head, units),
	ROW(ssd_table_head, entry_count),
	ROW(ssd_table_head, entry_bytes),
	ROW(ssd_table_head, log),
	ROW(ssd_table_head, sum),
	ROW(ssd_table_entry, first),
	ROW(ssd_table_entry, units),
	ROW(ssd_table_entry, label_bytes),
	ROW(ssd_table_entry, reserved),
};

static const struct {
	const char *name;
	size_t bytes;
} sizes[] = {
	{"ssd_device_head", sizeof(struct ssd_device_head)},
	{"ssd_table_head", sizeof(struct ssd_table_head)},
	{"ssd_table_entry", sizeof(struct ssd_table_entry)},
};

/* "### … `struct name`, 16 bytes": whose table follows; NULL: another heading. */
static const char *heading_of(const char *line)
{
	const char *at = strstr(line, "`struct ");
	char name[64];
	size_t bytes;

	if (strncmp(line, "### ", 4) || !at)
		return NULL;
	REQUIRE_EQ(sscanf(at, "`struct %63[a-z_]`, %zu bytes", name, &bytes), 2);
	for (unsigned i = 0; i < ARRAY_COUNT(sizes); i++)
		if (!strcmp(sizes[i].name, name)) {
			REQUIRE_EQ(bytes, sizes[i].bytes);
			return sizes[i].name;
		}
	fprintf(stderr, "%s is not known here\n", name);
	exit(1);
}

static void row_check(const char *of, const char *line, const struct field *field)
{
	char name[64];
	size_t offset, bytes;

	REQUIRE_EQ(sscanf(line, "| %zu | %zu | %63[a-z_]", &offset, &bytes, name), 3);
	REQUIRE_TEXT(of, field->of);
	REQUIRE_TEXT(name, field->name);
	REQUIRE_EQ(offset, field->offset);
	REQUIRE_EQ(bytes, field->bytes);
}

static void the_page_says_what_is(const char *path)
{
	FILE *page = fopen(path, "r");
	const char *of = NULL;
	unsigned rows = 0, tables = 0;
	char line[512];

	REQUIRE(page != NULL);
	while (fgets(line, sizeof(line), page)) {
		size_t offset, bytes;

		if (line[0] == '#') {
			of = heading_of(line);
			tables += of != NULL;
		} else if (of && sscanf(line, "| %zu | %zu |", &offset, &bytes) == 2) {
			REQUIRE(rows < ARRAY_COUNT(fields));
			row_check(of, line, &fields[rows++]);
		}
	}
	fclose(page);
	REQUIRE_EQ(tables, ARRAY_COUNT(sizes));
	REQUIRE_EQ(rows, ARRAY_COUNT(fields));
	printf("%u tables, %u fields\n", tables, rows);
}

/* Numbers that the page says in words. */
static void constants_stand(void)
{
	REQUIRE_EQ(SSD_FORMAT_VERSION, 1);
	REQUIRE_EQ(SSD_UNIT_BYTES, 4096);
	REQUIRE_EQ(SSD_SEGMENTS_AT, 1048576);
	REQUIRE_EQ(SSD_TABLE_UNITS_MAX, 256);
	REQUIRE_EQ(SSD_LABEL_MAX, 16384);
	REQUIRE_EQ(SSD_DEVICES_MAX, 16);
	REQUIRE_EQ(SSD_HEAD_MAGIC, 0x6473736470656b73);
	REQUIRE_EQ(SSD_TABLE_MAGIC, 0x6c62617470656b73);
	REQUIRE(!memcmp(&(uint64_t){SSD_HEAD_MAGIC}, "skepdssd", 8));
	REQUIRE(!memcmp(&(uint64_t){SSD_TABLE_MAGIC}, "skeptabl", 8));
}

static uint8_t table[2 * SSD_UNIT_BYTES];
static const struct ssd_table_place place = {.sequence = 7, .table = 1, .end = 255};

static struct ssd_table_head table_make(void)
{
	struct ssd_table_head head = {.magic = SSD_TABLE_MAGIC,
		.sequence = 7,
		.table = 1,
		.entry_count = 150,
		.entry_bytes = 150 * 32,
		.log = "one"};

	for (uint32_t i = 0; i < head.entry_count; i++) {
		struct ssd_table_entry entry = {.first = i, .units = 1, .label_bytes = 9};

		memcpy(table + i * 32, &entry, sizeof(entry));
		memset(table + i * 32 + 16, 0, 16);
		memcpy(table + i * 32 + 16, "labelled", 9);
	}
	head.units = ssd_table_units(head.entry_bytes);
	REQUIRE_EQ(head.units, 2);
	ssd_table_seal(table, &head);
	return head;
}

/* Return: entries, or what is wrong. */
static int table_read(void)
{
	struct ssd_table_head head;
	struct ssd_table_entry entry;
	const uint8_t *label;
	int status = ssd_table_head_read(table + SSD_UNIT_BYTES, &place, &head), count = 0;
	struct ssd_table_walk walk = {.entries = table};

	if (status)
		return status;
	REQUIRE(head.units <= 2);
	if (head.units != 2 || !ssd_table_sum_right(table, &head))
		return -EBADMSG;
	walk.bytes = head.entry_bytes;
	walk.left = head.entry_count;
	walk.below = place.end - head.units;
	while ((status = ssd_table_next(&walk, &entry, &label)) > 0) {
		REQUIRE(label >= table && label + entry.label_bytes <= table + sizeof(table));
		count++;
	}
	return status ? status : count;
}

static void a_damaged_table_is_not_believed(void)
{
	table_make();
	REQUIRE_EQ(table_read(), 150);
	for (uint32_t bit = 0; bit < sizeof(table) * 8; bit += 3) {
		int status;

		/* A head says how long its table is: that is followed within what is there. */
		table[bit / 8] ^= (uint8_t)(1u << bit % 8);
		if (((struct ssd_table_head *)(table + sizeof(table) -
					       sizeof(struct ssd_table_head)))
				->units <= 2) {
			status = table_read();
			REQUIRE(status == -EBADMSG || status == -ENOENT);
		}
		table[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	REQUIRE_EQ(table_read(), 150);
}

/* A right sum over numbers that cannot be: still nothing is followed. */
static void a_forged_entry_leads_nowhere(void)
{
	static const struct ssd_table_entry forged[] = {
		{.first = 3, .units = 0, .label_bytes = 9},
		{.first = 3, .units = UINT32_MAX, .label_bytes = 9},
		{.first = UINT32_MAX, .units = 2, .label_bytes = 9},
		{.first = 2, .units = 1, .label_bytes = 9},
		{.first = 3, .units = 251, .label_bytes = 9},
		{.first = 3, .units = 1, .label_bytes = UINT32_MAX},
		{.first = 3, .units = 1, .label_bytes = SSD_LABEL_MAX},
		{.first = 3, .units = 1, .label_bytes = 17},
	};

	for (unsigned i = 0; i < ARRAY_COUNT(forged); i++) {
		struct ssd_table_head head = table_make();

		memcpy(table + 3 * 32, &forged[i], sizeof(forged[i]));
		ssd_table_seal(table, &head);
		REQUIRE_EQ(table_read(), -EBADMSG);
	}
	for (uint32_t count = 0; count < 400; count += 7) {
		struct ssd_table_head head = table_make();

		head.entry_count = count;
		ssd_table_seal(table, &head);
		REQUIRE_EQ(table_read(), -EBADMSG);
	}
}

static void a_table_of_elsewhere_is_not_this_one(void)
{
	struct ssd_table_head head, read;

	table_make();
	for (unsigned i = 0; i < 5; i++) {
		struct ssd_table_place other = place;

		other.sequence += i == 0;
		other.table += i == 1;
		other.device += i == 2;
		other.segment += i == 3;
		other.set.bytes[5] = i == 4;
		REQUIRE(ssd_table_head_read(table + SSD_UNIT_BYTES, &other, &read) < 0);
	}
	head = table_make();
	head.log[0] = 0;
	ssd_table_seal(table, &head);
	REQUIRE_EQ(ssd_table_head_read(table + SSD_UNIT_BYTES, &place, &read), -EBADMSG);
	memset(head.log, 'x', sizeof(head.log));
	ssd_table_seal(table, &head);
	REQUIRE_EQ(ssd_table_head_read(table + SSD_UNIT_BYTES, &place, &read), -EBADMSG);
}

int main(int argc, char **argv)
{
	REQUIRE(argc == 2);
	the_page_says_what_is(argv[1]);
	constants_stand();
	a_damaged_table_is_not_believed();
	a_forged_entry_leads_nowhere();
	a_table_of_elsewhere_is_not_this_one();
	return 0;
}
