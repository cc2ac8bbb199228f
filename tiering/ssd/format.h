/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TIERING_SSD_FORMAT_H
#define SKEP_TIERING_SSD_FORMAT_H

/*
 * What lies on a device, byte by byte (docs/formats/ssd.md). Numbers are little-endian; the code
 * uses them as they lie.
 */

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "tiering/ssd/io.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "devices are read as they lie");

#define SSD_HEAD_MAGIC	0x6473736470656b73ull /* "skepdssd" */
#define SSD_TABLE_MAGIC 0x6c62617470656b73ull /* "skeptabl" */

enum {
	SSD_FORMAT_VERSION = 1,
	SSD_SEGMENTS_AT = 1 << 20, /* the first segment of each device */
	SSD_TABLE_UNITS_MAX = 256,
};

struct ssd_sum {
	uint64_t low, high;
};

struct ssd_set_id {
	uint8_t bytes[16];
};

/* The start of a device's first unit; the rest of that unit is zero. */
struct ssd_device_head {
	uint64_t magic;
	uint32_t version;
	uint32_t head_bytes;
	struct ssd_set_id set;
	uint32_t device; /* which one of the set */
	uint32_t device_count;
	uint64_t segment_bytes;
	uint64_t segments_at;
	struct ssd_sum sum; /* XXH3-128 of all before it */
};
_Static_assert(sizeof(struct ssd_device_head) == 72, "format");

/* The last bytes of a table's last unit. The opening of a segment is table 0: one unit, no entry.
 */
struct ssd_table_head {
	uint64_t magic;
	struct ssd_set_id set;
	uint64_t sequence;	  /* of the segment's life */
	uint32_t device, segment; /* where it lies: device of the set, segment of the device */
	uint32_t table;		  /* 0, 1, … downwards */
	uint32_t units;
	uint32_t entry_count;
	uint32_t entry_bytes; /* from the start of the table's first unit */
	char log[64];
	struct ssd_sum sum; /* XXH3-128 of all the table's units before it */
};
_Static_assert(sizeof(struct ssd_table_head) == 136, "format");

/* Followed by the label, padded with zeros to a multiple of 8. */
struct ssd_table_entry {
	uint32_t first, units; /* of the segment */
	uint32_t label_bytes;
	uint32_t reserved;
};
_Static_assert(sizeof(struct ssd_table_entry) == 16, "format");

/* What a table must say to be believed at its place. */
struct ssd_table_place {
	struct ssd_set_id set;
	uint64_t sequence; /* 0: any; an opening says it */
	uint32_t device, segment, table;
	uint32_t end; /* the unit after its last one */
};

void ssd_head_seal(struct ssd_device_head *head);
bool ssd_head_sum_right(const struct ssd_device_head *head);

/* Is nothing on this unit? */
static inline bool ssd_unit_blank(const uint8_t unit[SSD_UNIT_BYTES])
{
	return unit[0] == 0 && !memcmp(unit, unit + 1, SSD_UNIT_BYTES - 1);
}

/* Units of a table with so many bytes of entries. */
uint32_t ssd_table_units(uint64_t entry_bytes);

/* Writes @head to the end of the table of @head->units units at @table, and its sum. */
void ssd_table_seal(void *table, struct ssd_table_head *head);

/*
 * The head of the table whose last unit is @unit. Return: 0; -ENOENT (another life's, or no table),
 * -EBADMSG (this life's, and it cannot be right).
 */
int ssd_table_head_read(
	const void *unit, const struct ssd_table_place *place, struct ssd_table_head *head);

/* Whether the table of @head lies whole at @table. */
bool ssd_table_sum_right(const void *table, const struct ssd_table_head *head);

/* The entries of a table that is whole, one after the other; still nothing is taken on trust. */
struct ssd_table_walk {
	const uint8_t *entries;
	uint32_t at, bytes, left;
	uint32_t from, below; /* units: the next record lies at or after @from, ends up to @below */
};

/* Return: 1, with @entry and @label; 0 at the end; -EBADMSG. */
int ssd_table_next(
	struct ssd_table_walk *walk, struct ssd_table_entry *entry, const uint8_t **label);

#endif
