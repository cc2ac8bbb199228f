/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/dram/headroom.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

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

/* A memory cgroup: its directory, and where those end that it lies in. */
struct cgroup {
	int version; /* 1, 2; 0: none */
	size_t root_length;
	char directory[PATH_BYTES];
};

static void cgroup_set(struct cgroup *cgroup, int version, const char *root, const char *path)
{
	cgroup->version = version;
	cgroup->root_length = strlen(root);
	snprintf(cgroup->directory, sizeof(cgroup->directory), "%s%.400s", root, path);
}

/* The memory cgroup of this process: of version 1 where there is one, else of version 2. */
static struct cgroup cgroup_find(void)
{
	struct cgroup cgroup = {0};
	char line[PATH_BYTES], *path, *end;
	FILE *file = fopen("/proc/self/cgroup", "re");

	if (!file)
		return cgroup;
	while (cgroup.version != 1 && fgets(line, sizeof(line), file)) {
		path = strchr(line, ':');
		path = path ? strchr(path + 1, ':') : NULL;
		if (!path)
			continue;
		end = strchr(path, '\n');
		if (end)
			*end = 0;
		if (strstr(line, ":memory:"))
			cgroup_set(&cgroup, 1, "/sys/fs/cgroup/memory", path + 1);
		else if (line[0] == '0' && line[1] == ':')
			cgroup_set(&cgroup, 2, "/sys/fs/cgroup", path + 1);
	}
	fclose(file);
	return cgroup;
}

/* What one cgroup leaves; UINT64_MAX where it does not limit or cannot be read. */
static uint64_t cgroup_room(const struct cgroup *cgroup, uint64_t limit)
{
	bool old = cgroup->version == 1;
	uint64_t most = file_number(
			 cgroup->directory, old ? "memory.limit_in_bytes" : "memory.max"),
		 used = file_number(
			 cgroup->directory, old ? "memory.usage_in_bytes" : "memory.current"),
		 clean;
	char stat[PATH_BYTES + 16];

	if (limit)
		most = MIN_OF(most, limit);
	if (used == UINT64_MAX || most == UINT64_MAX)
		return UINT64_MAX;
	/* Clean page cache is given back before anything fails. */
	snprintf(stat, sizeof(stat), "%s/memory.stat", cgroup->directory);
	clean = file_key(stat, old ? "total_inactive_file " : "inactive_file ", 0);
	used -= MIN_OF(used, clean);
	return most > used ? most - used : 0;
}

/* Where no cgroup counts, the limit holds for what this process itself has in memory. */
static uint64_t process_room(uint64_t limit)
{
	unsigned long all, resident = 0;
	FILE *file = fopen("/proc/self/statm", "re");
	uint64_t used;

	if (!limit || !file || fscanf(file, "%lu %lu", &all, &resident) != 2)
		limit = UINT64_MAX;
	if (file)
		fclose(file);
	used = (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
	return limit == UINT64_MAX ? limit : limit > used ? limit - used : 0;
}

uint64_t memory_headroom(uint64_t limit)
{
	uint64_t room = file_key("/proc/meminfo", "MemAvailable:", UINT64_MAX / 2048) * 1024;
	struct cgroup cgroup = cgroup_find();
	uint64_t own = cgroup.version ? cgroup_room(&cgroup, limit) : UINT64_MAX;
	char *end;

	if (own == UINT64_MAX)
		own = process_room(limit);
	room = MIN_OF(room, own);
	/* A cgroup is bound by all that it lies in as well. */
	while (cgroup.version && (end = strrchr(cgroup.directory, '/')) &&
		(size_t)(end - cgroup.directory) >= cgroup.root_length) {
		*end = 0;
		room = MIN_OF(room, cgroup_room(&cgroup, 0));
	}
	return room;
}
