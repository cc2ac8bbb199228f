/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_LABEL_H
#define SKEP_STORE_LABEL_H

/*
 * What goes with a record to the ssd: who the block is, what proves it, and the sums of its bytes.
 * To the tier it is opaque; docs/formats/label.md has the byte table. Two kinds: a block, and a
 * space (a record of one unit that says what the blocks' spaces are, so that tables alone rebuild
 * the index).
 *
 * A block's parent is named by its write generation besides its id: the very block that the child
 * was proved against, not one that happens to have its id.
 */

#include <stdint.h>

#include "store/store_priv.h"

enum label_kind { LABEL_BLOCK = 1, LABEL_SPACE = 2 };

/* Little-endian, followed by @parts of struct label_part, the tokens (padded to 8 bytes), key and
 * extra keys (together padded to 8) and the range sums. */
struct label_head {
	uint16_t kind, version;
	uint32_t bytes; /* of the label */
	uint64_t space_key;
	uint64_t id_low, id_high;
	uint64_t parent_low, parent_high;	   /* 0, 0: a first block */
	uint64_t incarnation;			   /* of the writers of this block */
	uint64_t parent_incarnation, parent_write; /* of part 0 of the parent; 0: a first block */
	uint32_t token_count, range_sums;
	uint16_t parts, key_bytes, extra_bytes, reserved;
};

struct label_part {
	uint64_t bytes, write, root_low, root_high;
};

/* LABEL_SPACE: this, then the request that opened it. */
struct label_space {
	uint16_t kind, version;
	uint32_t bytes;
	uint64_t space_key;
	uint64_t space_version;
	struct wire_space_open request;
};

enum { LABEL_VERSION = 1 };

_Static_assert(sizeof(struct label_head) == 88, "docs/formats/label.md");
_Static_assert(sizeof(struct label_part) == 32, "docs/formats/label.md");
_Static_assert(sizeof(struct label_space) == 2432, "docs/formats/label.md");

/* A label taken apart; points into it. */
struct label_block {
	struct label_head head;
	const struct label_part *parts;
	struct id_input proof;
	const uint64_t *sums;
};

/* About what the record of a block with such a label takes in the index. */
static inline uint32_t label_record_bytes(uint32_t label_bytes)
{
	/* The head is shorter there, and part 0 lies elsewhere. */
	uint32_t less =
		sizeof(struct label_head) + sizeof(struct label_part) - sizeof(struct record_head);

	return label_bytes > less ? (label_bytes - less + 15u) & ~15u : 0;
}

/* Every number is checked against @bytes. Return: 0 or -EBADMSG. */
int label_block_read(const void *label, uint32_t bytes, struct label_block *out);
int label_space_read(const void *label, uint32_t bytes, struct label_space *out);

#endif
