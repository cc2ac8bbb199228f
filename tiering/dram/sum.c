/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/dram/sum.h"

#include <string.h>

#include "base/check.h"

struct checksum_root part_root_make(const struct part_sums *part, const uint64_t *range_sums)
{
	struct checksum_root_input root = {.part = part->part,
		.length = part->length,
		.incarnation = part->incarnation,
		.generation = part->write,
		.range_sums = range_sums,
		.range_count = part->range_count};

	/* The id's bytes are its words, low first, little-endian, as docs/formats/checksum.md. */
	for (unsigned i = 0; i < 8; i++) {
		root.block_id[i] = (unsigned char)(part->id_low >> (8 * i));
		root.block_id[8 + i] = (unsigned char)(part->id_high >> (8 * i));
	}
	return checksum_root_make(&root);
}

struct checksum_root part_sums_make(const struct part_sums *part, uint64_t *range_sums)
{
	uint64_t share;

	SKEP_CHECK(part->range_count > 0 && part->length % part->range_count == 0);
	share = part->length / part->range_count;
	for (uint32_t i = 0; i < part->range_count; i++)
		range_sums[i] = checksum_range((const uint8_t *)part->bytes + i * share, share);
	return part_root_make(part, range_sums);
}
