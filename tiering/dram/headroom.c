/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/dram/headroom.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"

enum { PATH_BYTES = 512 };

/* First number of a file; UINT64_MAX for "max" or where it cannot be read. */
static uint64_t file_number(const char *directory, const char *name)
{
	char path[2 * PATH_BYTES];
	uint64_t number = UINT64_MAX;
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	file = fopen(path, "re");
	if (!file)
		return UINT64_MAX;
	if (fscanf(file, "%" SCNu64, &number) != 1)
		number = UINT64_MAX;
	fclose(file);
	return number;
}

/* The value that follows @key in a file of "key value" lines; @missing where there is none. */
static uint64_t file_key(const char *path, const char *key, uint64_t missing)
{
	char line[256];
	size_t length = strlen(key);
	FILE *file = fopen(path, "re");

	if (!file)
		return missing;
	while (fgets(line, sizeof(line), file)) {
		if (strncmp(line, key, length) == 0 &&
			sscanf(line + length, "%" SCNu64, &missing) == 1)
			break;
	}
	fclose(file);
	return missing;
}

/* Directory of this process's memory cgroup. Returns 1, 2 (version) or 0: none. */
static int cgroup_directory(char *out)
{
	char line[PATH_BYTES], v2[PATH_BYTES] = "", *path, *end;
	FILE *file = fopen("/proc/self/cgroup", "re");

	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file)) {
		path = strchr(line, ':');
		path = path ? strchr(path + 1, ':') : NULL;
		if (!path)
			continue;
		end = strchr(path, '\n');
		if (end)
			*end = 0;
		if (strstr(line, ":memory:")) {
			snprintf(out, PATH_BYTES, "/sys/fs/cgroup/memory%.400s", path + 1);
			fclose(file);
			return 1;
		}
		if (line[0] == '0' && line[1] == ':')
			snprintf(v2, sizeof(v2), "/sys/fs/cgroup%.400s", path + 1);
	}
	fclose(file);
	snprintf(out, PATH_BYTES, "%s", v2);
	return v2[0] ? 2 : 0;
}

uint64_t memory_headroom(uint64_t limit)
{
	char directory[PATH_BYTES], stat[PATH_BYTES + 16];
	uint64_t available = file_key("/proc/meminfo", "MemAvailable:", UINT64_MAX / 2048) * 1024;
	int version = cgroup_directory(directory);
	uint64_t most = UINT64_MAX, used = UINT64_MAX, clean;

	if (version == 1) {
		most = file_number(directory, "memory.limit_in_bytes");
		used = file_number(directory, "memory.usage_in_bytes");
	} else if (version == 2) {
		most = file_number(directory, "memory.max");
		used = file_number(directory, "memory.current");
	}
	if (limit)
		most = MIN_OF(most, limit);
	if (used == UINT64_MAX || most == UINT64_MAX)
		return available;
	/* Clean page cache is given back before anything fails. */
	snprintf(stat, sizeof(stat), "%s/memory.stat", directory);
	clean = file_key(stat, version == 1 ? "total_inactive_file " : "inactive_file ", 0);
	used -= MIN_OF(used, clean);
	return MIN_OF(available, most > used ? most - used : 0);
}
