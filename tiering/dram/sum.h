/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TIERING_DRAM_SUM_H
#define SKEP_TIERING_DRAM_SUM_H

#include <stdint.h>

#include "kernels/checksum.h"

/*
 * Range sums and root of a part that lies in a frame: the work a mover does when a writer left its
 * checksum to the daemon. Plain computation: any thread; the frame must stay put meanwhile.
 */
struct part_sums {
	const void *bytes;
	uint64_t length;
	uint32_t range_count;
	uint32_t part;
	uint64_t id_low, id_high;
	uint64_t incarnation, write; /* the write generation */
};

/* The root that a part with such range sums has; its bytes are not looked at. */
struct checksum_root part_root_make(const struct part_sums *part, const uint64_t *range_sums);

/* @range_sums has room for range_count. Return: the root. */
struct checksum_root part_sums_make(const struct part_sums *part, uint64_t *range_sums);

#endif
