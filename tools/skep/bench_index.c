/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/bench_index.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

bool bench_mapping_read(const char *line, struct bench_mapping *mapping)
{
	uint64_t begin, end;
	const char *name = strstr(line, "/memfd:skep-");

	if (!name || !strstr(name, "-index") ||
		sscanf(line, "%" SCNx64 "-%" SCNx64, &begin, &end) != 2 || end <= begin)
		return false;
	*mapping = (struct bench_mapping){.base = begin, .bytes = end - begin};
	return true;
}

int bench_index_find(struct index_view *view)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	struct bench_mapping mapping;
	int status = -ENOENT;
	char line[512];

	if (!maps)
		return -errno;
	while (status && fgets(line, sizeof(line), maps))
		/* The kernel told the address of a mapping that stays while the session is open. */
		if (bench_mapping_read(line, &mapping))
			status = index_view_open(view, (const void *)mapping.base, mapping.bytes);
	fclose(maps);
	return status;
}
