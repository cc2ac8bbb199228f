/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_LEDGER_H
#define SKEP_STORE_LEDGER_H

/*
 * The rows of the manifest (docs/formats/ssd.md): which records of the tables are dead. Rows are
 * read whole at the start, by the daemon and by fsck, and looked up while the tables are read.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct manifest;

enum { LEDGER_KEY_BYTES = 13 };

/* The record that began at @unit of the segment with this sequence number is dead. */
struct ledger_row {
	uint64_t sequence;
	uint32_t unit;
};

/* All of them, ordered. */
struct ledger_rows {
	struct ledger_row *rows;
	size_t count, room;
	bool made;	  /* the manifest says that it was used before */
	uint64_t foreign; /* rows that this program does not know: of a later version */
};

void ledger_key_write(uint8_t key[LEDGER_KEY_BYTES], struct ledger_row row);

/* Gathers the row that says that the manifest was used; see manifest_put(). */
int ledger_made_put(struct manifest *manifest);

/* Reads all rows; blocks. ledger_rows_free() whatever it returns. Return: 0, -ENOMEM, -EIO,
 * -EBADMSG. */
int ledger_rows_read(struct manifest *manifest, struct ledger_rows *out);
void ledger_rows_free(struct ledger_rows *rows);

bool ledger_rows_have(const struct ledger_rows *rows, struct ledger_row row);

#endif
