/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_FSCK_PRIV_H
#define SKEP_STORE_FSCK_PRIV_H

#include "store/chains.h"
#include "store/fsck.h"
#include "store/ledger.h"

/* What is known of one realm's log. */
struct fsck_realm {
	struct fsck_log *log;	 /* of the report */
	struct ssd_found *found; /* its live records, in the order of the log */
	int64_t count, room;
	struct chains chains;
	struct chains_space *spaces; /* INDEX_SPACES_MAX */
	unsigned space_count;
	/* Keys of spaces that had a record here once, living or dead: of versions before. */
	uint64_t *keys;
	size_t key_count, key_room;
};

struct fsck {
	const struct fsck_options *options;
	struct fsck_report *report;
	char manifest[4096]; /* its path, without slashes at the end */
	struct ssd_io *io;
	struct ssd *ssd;
	struct ssd_survey survey;
	struct ledger_rows rows;
	struct fsck_realm *realms; /* FSCK_LOGS_MAX */
	bool *segment_live;	   /* of the survey: a record lives there */
	char *why;
	size_t why_bytes;
};

void fsck_say(struct fsck *fsck, enum fsck_finding finding, const struct ssd_found *record);

/* Takes in what the manifest knows; with options.rebuild also what can be saved of a damaged one.
 * Return: 0, whatever its state; -EBUSY, -EACCES, … with fsck->why. */
int fsck_manifest_read(struct fsck *fsck);

/* Makes the manifest anew and puts it in the place of the old one. */
int fsck_manifest_rebuild(struct fsck *fsck);

/* Which of the realm's records are blocks that the next start finds. Return: 0 or -ENOMEM. */
int fsck_realm_judge(struct fsck *fsck, struct fsck_realm *realm);
void fsck_realm_free(struct fsck_realm *realm);

/* Reads and verifies the bytes of all blocks. @bytes_all: of all realms, for who watches. */
int fsck_realm_payloads(struct fsck *fsck, struct fsck_realm *realm, uint64_t bytes_all);

#endif
