/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much memory may still be taken, read from files of our own in place of the system's: no
 * cgroup, version 1, version 2, limits of those around it, the limit of the configuration.
 */
#include <stdio.h>
#include <sys/stat.h>

static FILE *file_open(const char *path, const char *mode);
#define fopen file_open
#include "tiering/dram/headroom.c"
#undef fopen

#include "tests/base/unit.h"

#define MIB (1ull << 20)

static char root[64];

/* The system's files lie in a folder of ours. */
static FILE *file_open(const char *path, const char *mode)
{
	char there[1200];

	snprintf(there, sizeof(there), "%s%s", root, path);
	return fopen(there, mode);
}

static void put(const char *path, const char *text)
{
	char there[600];
	FILE *file;

	snprintf(there, sizeof(there), "%s%s", root, path);
	for (char *at = strchr(there + strlen(root) + 1, '/'); at; at = strchr(at + 1, '/')) {
		*at = 0;
		mkdir(there, 0700);
		*at = '/';
	}
	file = fopen(there, "w");
	REQUIRE(file && fputs(text, file) >= 0);
	fclose(file);
}

static void clear(void)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf '%s'", root);
	REQUIRE_EQ(system(command), 0);
	REQUIRE_EQ(mkdir(root, 0700), 0);
}

static void number(const char *path, uint64_t value)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu\n", (unsigned long long)value);
	put(path, text);
}

/* 8 GiB are available on the machine, and 100 pages are this process's. */
static void machine(void)
{
	char text[64];

	clear();
	put("/proc/meminfo",
		"MemTotal:       16777216 kB\nMemFree:  1 kB\nMemAvailable:    8388608 kB\n");
	snprintf(text, sizeof(text), "5000 %d 20 1 0 30 0\n", 100);
	put("/proc/self/statm", text);
}

static void without_a_cgroup(void)
{
	uint64_t own = 100ull * (uint64_t)sysconf(_SC_PAGESIZE);

	machine();
	REQUIRE_EQ(memory_headroom(0), 8192 * MIB);
	REQUIRE_EQ(memory_headroom(16384 * MIB), 8192 * MIB);
	REQUIRE_EQ(memory_headroom(64 * MIB), 64 * MIB - own);
	REQUIRE_EQ(memory_headroom(4096), 0);
	/* Nothing at all can be read: then nothing is known to be in the way. */
	clear();
	REQUIRE(memory_headroom(0) > 1ull << 60);
}

static void version_1(void)
{
	machine();
	put("/proc/self/cgroup", "12:cpu,cpuacct:/x\n5:memory:/box/skepd\n0::/unified\n");
	number("/sys/fs/cgroup/memory/box/skepd/memory.limit_in_bytes", 1024 * MIB);
	number("/sys/fs/cgroup/memory/box/skepd/memory.usage_in_bytes", 600 * MIB);
	REQUIRE_EQ(memory_headroom(0), 424 * MIB);
	/* Clean page cache does not count. */
	put("/sys/fs/cgroup/memory/box/skepd/memory.stat",
		"cache 1\ninactive_file 7\ntotal_inactive_file 209715200\n");
	REQUIRE_EQ(memory_headroom(0), 624 * MIB);
	REQUIRE_EQ(memory_headroom(500 * MIB), 100 * MIB);
	REQUIRE_EQ(memory_headroom(4096 * MIB), 624 * MIB);
	REQUIRE_EQ(memory_headroom(300 * MIB), 0);
	/* What is around it binds as well. */
	number("/sys/fs/cgroup/memory/box/memory.limit_in_bytes", 2048 * MIB);
	number("/sys/fs/cgroup/memory/box/memory.usage_in_bytes", 2000 * MIB);
	REQUIRE_EQ(memory_headroom(0), 48 * MIB);
	/* "No limit" is a huge number there. */
	number("/sys/fs/cgroup/memory/box/memory.limit_in_bytes", 0x7ffffffffffff000);
	number("/sys/fs/cgroup/memory/box/skepd/memory.limit_in_bytes", 0x7ffffffffffff000);
	REQUIRE_EQ(memory_headroom(0), 8192 * MIB);
}

static void version_2(void)
{
	machine();
	put("/proc/self/cgroup", "0::/a/b\n");
	put("/sys/fs/cgroup/a/b/memory.max", "max\n");
	number("/sys/fs/cgroup/a/b/memory.current", 100 * MIB);
	REQUIRE_EQ(memory_headroom(0), 8192 * MIB);
	REQUIRE_EQ(memory_headroom(256 * MIB), 156 * MIB);
	number("/sys/fs/cgroup/a/b/memory.max", 512 * MIB);
	REQUIRE_EQ(memory_headroom(0), 412 * MIB);
	put("/sys/fs/cgroup/a/b/memory.stat", "anon 5\ninactive_file 52428800\n");
	REQUIRE_EQ(memory_headroom(0), 462 * MIB);
	number("/sys/fs/cgroup/a/memory.max", 300 * MIB);
	number("/sys/fs/cgroup/a/memory.current", 260 * MIB);
	REQUIRE_EQ(memory_headroom(0), 40 * MIB);
	number("/sys/fs/cgroup/a/memory.current", 400 * MIB);
	REQUIRE_EQ(memory_headroom(0), 0);
	/* In a container of its own namespace the path is the root itself. */
	machine();
	put("/proc/self/cgroup", "0::/\n");
	number("/sys/fs/cgroup/memory.max", 512 * MIB);
	number("/sys/fs/cgroup/memory.current", 112 * MIB);
	REQUIRE_EQ(memory_headroom(0), 400 * MIB);
}

/* A root cgroup has no such files: the process's own memory counts against the limit. */
static void a_root_cgroup(void)
{
	uint64_t own = 100ull * (uint64_t)sysconf(_SC_PAGESIZE);

	machine();
	put("/proc/self/cgroup", "0::/\n");
	REQUIRE_EQ(memory_headroom(0), 8192 * MIB);
	REQUIRE_EQ(memory_headroom(64 * MIB), 64 * MIB - own);
}

static void lines_that_say_nothing(void)
{
	machine();
	put("/proc/self/cgroup", "nonsense\n:\n::\n7:memory\n");
	REQUIRE_EQ(memory_headroom(0), 8192 * MIB);
	put("/proc/self/cgroup", "");
	REQUIRE_EQ(memory_headroom(0), 8192 * MIB);
	put("/proc/self/cgroup", "0::/a\n");
	put("/sys/fs/cgroup/a/memory.max", "");
	put("/sys/fs/cgroup/a/memory.current", "many\n");
	REQUIRE_EQ(memory_headroom(0), 8192 * MIB);
	put("/proc/meminfo", "MemAvailable: much\n");
	REQUIRE(memory_headroom(0) > 1ull << 60);
}

int main(void)
{
	snprintf(root, sizeof(root), "/tmp/skep-headroom-XXXXXX");
	REQUIRE(mkdtemp(root));
	without_a_cgroup();
	version_1();
	version_2();
	a_root_cgroup();
	lines_that_say_nothing();
	clear();
	rmdir(root);
	return 0;
}
