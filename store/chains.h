/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_CHAINS_H
#define SKEP_STORE_CHAINS_H

/*
 * Which records of the ssd stand below which. A block is known by the write generation of its first
 * part; its label names its parent by that. Used at the start, where records become the index
 * again, and by fsck, which only looks.
 *
 * There are a million records or more, so every pass goes through memory in order and asks ahead
 * for what lies elsewhere.
 */

#include "store/label.h"
#include "tiering/ssd/ssd.h"

/* In place of a parent. */
enum { CHAINS_ROOT = UINT32_MAX, CHAINS_LOST = UINT32_MAX - 1 };

enum chains_state { CHAINS_NEW, CHAINS_IN, CHAINS_OUT };

struct chains_record {
	uint32_t key, parent_key; /* hashes of the write generations */
	uint32_t found;		  /* index */
	uint32_t parent; /* record, CHAINS_ROOT or CHAINS_LOST: no record of it was found */
	uint32_t next;	 /* of its hash chain */
	uint32_t slot;	 /* the caller's */
	uint8_t space;	 /* the caller's */
	uint8_t state;	 /* the caller's, but for CHAINS_OUT from chains_link() */
	bool placed;	 /* in the order */
};

struct chains {
	const struct ssd_found *found;
	struct chains_record *records; /* in the order of the log */
	uint32_t *order;	       /* records: each after its parent, the newest first */
	uint32_t *heads;
	uint32_t count, order_count, head_count;
	uint32_t moved; /* records of which a later place was found */
};

/* For at most @count records of @found, which must stay. Return: 0 or -ENOMEM. */
int chains_create(struct chains *chains, const struct ssd_found *found, int64_t count);
void chains_destroy(struct chains *chains);

/* Adds found record @number, whose label is sound (label_block_read()), in the order of the log. */
void chains_add(struct chains *chains, uint32_t number, uint8_t space);

/*
 * All were added: finds the parents and the order. Of two places of one block (it was moved, and
 * the daemon ended before it had said so) the later counts; the other is CHAINS_OUT and in no
 * order. Records that stand in a circle are in the order, one of them before its parent.
 */
void chains_link(struct chains *chains);

/* The newest record of each space's name. */
struct chains_space {
	struct label_space label;
	uint32_t found; /* index */
};

/* Fills @spaces, with room for INDEX_SPACES_MAX, from the records of @log. Return: how many. */
unsigned chains_spaces(const struct ssd_found *found, int64_t count, const struct ssd_log *log,
	struct chains_space *spaces);

#endif
