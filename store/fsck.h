/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_FSCK_H
#define SKEP_STORE_FSCK_H

/*
 * Looks at the devices of an ssd tier and at its manifest while no daemon has them: what a daemon
 * would find at its next start, and what of it does not hold together. Nothing is ever written to a
 * device. The manifest alone can be made anew.
 *
 * It reads tables, labels and rows by the code that the daemon starts with. What it cannot say,
 * since that takes a realm's secret, is whether ids follow from what they name.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/node.h"

/* What does not hold together. X(name, one of them, more) */
#define FSCK_FINDING_TABLE(X)                                                                      \
	X(table_damaged, "damaged table: what it and those behind it say is lost",                 \
		"damaged tables: what they and those behind them say is lost")                     \
	X(segment_unreadable, "segment cannot be read", "segments cannot be read")                 \
	X(label_damaged, "label makes no sense", "labels make no sense")                           \
	X(label_unknown, "label is of a version that this program does not know",                  \
		"labels are of a version that this program does not know")                         \
	X(row_unknown, "row of the manifest is not known to this program",                         \
		"rows of the manifest are not known to this program")                              \
	X(space_missing, "block belongs to a space of which there is no record",                   \
		"blocks belong to spaces of which there is no record")                             \
	X(parent_missing, "block's parent is nowhere", "blocks' parents are nowhere")              \
	X(payload_bad, "payload does not have its sums", "payloads do not have their sums")        \
	X(payload_unreadable, "payload cannot be read", "payloads cannot be read")

enum fsck_finding {
#define X(name, one, more) FSCK_##name,
	FSCK_FINDING_TABLE(X)
#undef X
		FSCK_FINDING_COUNT
};

/* Where it was found; SSD units and segments as docs/formats/ssd.md counts them. */
struct fsck_place {
	enum fsck_finding finding;
	uint32_t device, segment; /* which one of the set; segment of the device */
	uint32_t unit;		  /* of the segment, where a record begins; else 0 */
	uint64_t id_low, id_high; /* of the block; 0, 0 where none is known */
};

enum fsck_manifest { FSCK_MANIFEST_SOUND, FSCK_MANIFEST_ABSENT, FSCK_MANIFEST_DAMAGED };

/* The log of a realm. */
struct fsck_log {
	char name[NODE_NAME_MAX];
	uint64_t segments, spaces, blocks, bytes; /* bytes: of the blocks */
};

enum { FSCK_LOGS_MAX = NODE_REALMS_MAX };

struct fsck_report {
	uint8_t set[16];
	uint64_t segment_bytes, device_bytes; /* of all devices */
	unsigned device_count;
	uint64_t segments, segments_live, segments_free; /* live: a record lives there */
	uint64_t tables, records;
	/* Of the records: those that live and can be had, those the manifest calls dead, and those
	 * that the next start drops without harm: earlier places of blocks that were moved, and
	 * blocks and spaces of which there is a later life or version. */
	uint64_t blocks, spaces, dead, superseded;
	unsigned log_count;
	struct fsck_log logs[FSCK_LOGS_MAX];
	enum fsck_manifest manifest;
	char manifest_why[512]; /* where it is not sound */
	/* Rows of the manifest, those of segments that have had another life since, and those that
	 * name no record of a table (both mean nothing any more). */
	uint64_t rows, rows_past, rows_stray;
	uint64_t payload_blocks, payload_bytes;
	uint64_t findings[FSCK_FINDING_COUNT];
	/* Where it was made anew: rows that the new one has, and the name of the old one ("": there
	 * was none). @rows_lost: not all rows of the old one could be read. */
	bool rebuilt, rows_lost;
	uint64_t rows_written;
	char old_path[4200];
};

struct fsck_options {
	const struct node_ssd *ssds;
	unsigned ssd_count;
	const char *manifest_path;
	uint64_t manifest_bytes; /* of memory for it; 0 = 16 MiB */
	bool payloads;		 /* reads the bytes of all blocks and verifies them */
	bool rebuild;		 /* makes the manifest anew */
	/* Either may be NULL. @found: each finding as it is made. @progress: between two payloads,
	 * with what was read and what there is; it may sleep. */
	void (*found)(void *arg, const struct fsck_place *place);
	void (*progress)(void *arg, const struct fsck_report *so_far, uint64_t payload_bytes_all);
	void *arg;
};

/*
 * Blocks for as long as it takes. @why says cause and fix in one line. Return: 0, whatever was
 * found; -EBUSY (a daemon has a device or the manifest), -EMEDIUMTYPE (a version that this program
 * does not know: of a device, or, to make the manifest anew, of a label or a row), -ENODATA (the
 * devices are new), -EXDEV (they do not belong together), -ENOENT, -EACCES, -EIO, -ENOMEM, -ENOTSUP
 * (to make it anew: built without RocksDB), or what the system said. Where the manifest could not
 * be made anew the old one stands.
 */
int fsck_run(const struct fsck_options *options, struct fsck_report *report, char *why,
	size_t why_bytes);

#endif
