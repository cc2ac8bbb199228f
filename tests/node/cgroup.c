/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/node/cgroup.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>

#include "tests/node/harness.h"

enum { GROUPS_MAX = 4, REMOVE_TRIES = 200 };

static struct cgroup groups[GROUPS_MAX];

static bool file_write(const char *folder, const char *name, const char *text)
{
	char path[512];
	bool done;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	done = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return done;
}

/* The number after @key, or the first one where @key is "". */
static uint64_t file_number(const struct cgroup *group, const char *name, const char *key)
{
	char path[512], line[256];
	uint64_t number = UINT64_MAX;
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", group->path, name);
	file = fopen(path, "re");
	if (!file)
		return UINT64_MAX;
	while (fgets(line, sizeof(line), file)) {
		if (!strncmp(line, key, strlen(key)) &&
			sscanf(line + strlen(key), "%" SCNu64, &number) == 1)
			break;
	}
	fclose(file);
	return number;
}

/* The folder of the memory cgroup that this process is in. Return: version, 0 = none. */
static int own_folder(char *out, size_t room)
{
	char line[512], v2[512] = "";
	FILE *file = fopen("/proc/self/cgroup", "re");
	int version = 0;

	while (file && !version && fgets(line, sizeof(line), file)) {
		char *path = strchr(line, ':');

		path = path ? strchr(path + 1, ':') : NULL;
		if (!path)
			continue;
		path[strcspn(path, "\n")] = 0;
		if (strstr(line, ":memory:")) {
			snprintf(out, room, "/sys/fs/cgroup/memory%s", path + 1);
			version = 1;
		} else if (!strncmp(line, "0::", 3)) {
			snprintf(v2, sizeof(v2), "/sys/fs/cgroup%s", path + 1);
		}
	}
	if (file)
		fclose(file);
	if (!version && v2[0]) {
		snprintf(out, room, "%s", v2);
		version = 2;
	}
	return version;
}

bool cgroup_make(struct cgroup *group, const char *name, uint64_t limit, const char **why)
{
	char folder[512], number[32];
	unsigned place = 0;

	memset(group, 0, sizeof(*group));
	while (place < GROUPS_MAX && groups[place].version)
		place++;
	REQUIRE(place < GROUPS_MAX);
	group->version = own_folder(folder, sizeof(folder));
	*why = "no memory cgroup is mounted";
	if (!group->version)
		return false;
	REQUIRE((size_t)snprintf(group->path, sizeof(group->path), "%s/skep-%s-%d", folder, name,
			(int)getpid()) < sizeof(group->path));
	*why = "this user may not make a memory cgroup";
	if (mkdir(group->path, 0755) < 0)
		return false;
	groups[place] = *group;
	snprintf(number, sizeof(number), "%" PRIu64, limit);
	*why = "the memory controller is not delegated to this cgroup";
	return file_write(
		group->path, group->version == 1 ? "memory.limit_in_bytes" : "memory.max", number);
}

void cgroup_enter(const char *path)
{
	char pid[32];

	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	REQUIRE(file_write(path, "cgroup.procs", pid));
}

uint64_t cgroup_bytes(const struct cgroup *group)
{
	return file_number(
		group, group->version == 1 ? "memory.usage_in_bytes" : "memory.current", "");
}

uint64_t cgroup_bytes_max(const struct cgroup *group)
{
	return file_number(
		group, group->version == 1 ? "memory.max_usage_in_bytes" : "memory.peak", "");
}

uint64_t cgroup_kills(const struct cgroup *group)
{
	return file_number(
		group, group->version == 1 ? "memory.oom_control" : "memory.events", "oom_kill ");
}

void cgroup_remove_all(void)
{
	for (unsigned i = 0; i < GROUPS_MAX; i++) {
		if (!groups[i].version)
			continue;
		/* The last process may still be on its way out. */
		for (unsigned tries = 0; tries < REMOVE_TRIES && rmdir(groups[i].path) < 0; tries++)
			sleep_ms(10);
	}
}
