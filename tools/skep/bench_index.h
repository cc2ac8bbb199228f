/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_BENCH_INDEX_H
#define SKEP_TOOLS_SKEP_BENCH_INDEX_H

#include "store/read/probe.h"

/* Where a mapping of this process lies. */
struct bench_mapping {
	uintptr_t base;
	uint64_t bytes;
};

/*
 * Reads a line of /proc/self/maps. Return: is it that of an index (store/index.c names the memory
 * file)? @mapping is written if so.
 */
bool bench_mapping_read(const char *line, struct bench_mapping *mapping);

/*
 * Finds the index where libskep has mapped it in this process: a ceiling over another mapping would
 * have page tables of its own. Return: 0, -ENOENT.
 */
int bench_index_find(struct index_view *view);

#endif
