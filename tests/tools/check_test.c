/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skepd --check tells what is wrong from what it reads: hosts are trees of files made here.
 */
#include "tools/skepd/check_host.c"

#include <stdio.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "tests/base/unit.h"
#include "tests/tools/node_stub.h"

static char root[64];
static struct settings settings;
static struct check_scene scene = {.settings = &settings, .root = root};
static struct check_result result;

/* Makes a file below the root, with its folders. */
static void file_make(const char *path, const char *text)
{
	char full[512];
	FILE *file;

	snprintf(full, sizeof(full), "%s%s", root, path);
	for (char *slash = full + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
		*slash = 0;
		mkdir(full, 0755);
		*slash = '/';
	}
	file = fopen(full, "w");
	REQUIRE(file);
	fputs(text, file);
	fclose(file);
}

static void verdict(void (*check)(const struct check_scene *, struct check_result *),
	enum check_verdict wanted, const char *part)
{
	memset(&result, 0, sizeof(result));
	check(&scene, &result);
	if (result.verdict != wanted || !strstr(result.found, part))
		fprintf(stderr, "found: %s\nadvice: %s\n", result.found, result.advice);
	REQUIRE_EQ(result.verdict, wanted);
	REQUIRE(strstr(result.found, part));
	/* Whatever is not well comes with what to do, and only that does. */
	REQUIRE_EQ(*result.advice != 0, wanted != CHECK_OK);
}

static void cgroups(void)
{
	scene.memory = (struct settings_memory){.pool_bytes = 1ull << 30};
	file_make("/proc/self/cgroup", "0::/a/b\n");
	file_make("/sys/fs/cgroup/a/b/memory.max", "max\n");
	file_make("/sys/fs/cgroup/a/memory.max", "max\n");
	verdict(check_memory_cgroup, CHECK_OK, "version 2, no limit");
	/* The tightest on the way up counts. */
	file_make("/sys/fs/cgroup/a/memory.max", "1073741824\n");
	verdict(check_memory_cgroup, CHECK_FAIL, "limit 1.00 GiB, 1.06 GiB are needed");
	file_make("/sys/fs/cgroup/a/memory.max", "1150000000\n");
	verdict(check_memory_cgroup, CHECK_WARN, "limit 1.07 GiB");
	file_make("/sys/fs/cgroup/a/memory.max", "2147483648\n");
	verdict(check_memory_cgroup, CHECK_OK, "limit 2.00 GiB");
	/* Version 1, also where version 2 is mounted beside it without the memory controller. */
	file_make("/proc/self/cgroup", "5:cpu:/x\n4:memory:/deep/box\n0::/a/b\n");
	file_make("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
	verdict(check_memory_cgroup, CHECK_OK, "version 1, no limit");
	file_make("/sys/fs/cgroup/memory/deep/box/memory.limit_in_bytes", "1000000\n");
	verdict(check_memory_cgroup, CHECK_FAIL, "version 1, limit 977 KiB");
	/* In a container the path may not be there: the mount's root counts. */
	file_make("/proc/self/cgroup", "4:memory:/not/there\n");
	file_make("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000\n");
	verdict(check_memory_cgroup, CHECK_FAIL, "version 1, limit 977 KiB");
	file_make("/proc/self/cgroup", "");
	verdict(check_memory_cgroup, CHECK_OK, "no memory cgroup");
}

static void memory(void)
{
	file_make("/proc/meminfo", "MemTotal:  9 kB\nMemAvailable:  1048576 kB\nSwapTotal: 5 kB\n");
	verdict(check_memory_available, CHECK_FAIL, "1.00 GiB are available, 1.06 GiB");
	scene.running = true;
	verdict(check_memory_available, CHECK_OK, "holds its memory");
	scene.running = false;
	file_make("/proc/meminfo", "MemAvailable:  9999999 kB\nSwapTotal:  1000 kB\n");
	verdict(check_memory_available, CHECK_OK, "9.54 GiB");
	if (setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){4096, 4096}) == 0)
		verdict(check_memlock, CHECK_WARN, "swap is on");
	file_make("/proc/meminfo", "SwapTotal:  0 kB\n");
	verdict(check_memlock, CHECK_OK, "");
}

static void kernel(void)
{
	static const char thp[] = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
	static const char clock_file[] =
		"/sys/devices/system/clocksource/clocksource0/current_clocksource";

	verdict(check_huge_pages, CHECK_WARN, "no transparent huge pages");
	file_make(thp, "always within_size advise never [deny] force\n");
	verdict(check_huge_pages, CHECK_WARN, "deny");
	file_make(thp, "always within_size advise [never] deny force\n");
	verdict(check_huge_pages, memory_collapse(NULL, 0) ? CHECK_WARN : CHECK_OK, "never");
	file_make(thp, "always within_size [advise] never deny force\n");
	verdict(check_huge_pages, CHECK_OK, "advise");
	file_make(thp, "always [within_size] advise never deny force\n");
	verdict(check_huge_pages, CHECK_OK, "within_size");
	file_make(clock_file, "hpet\n");
	verdict(check_clock, CHECK_WARN, "hpet");
	file_make(clock_file, "tsc\n");
	verdict(check_clock, CHECK_OK, "tsc");
	settings.loop = LOOP_BACKEND_EPOLL;
	verdict(check_io_uring, CHECK_OK, "not wanted");
	verdict(check_memory_files, CHECK_OK, "sealed");
}

static void descriptors(void)
{
	settings.realm_count = 1;
	settings.realms[0].sessions_max = 4;
	verdict(check_descriptors, CHECK_OK, "at most 136");
	settings.realms[0].sessions_max = 1ull << 40;
	if (setrlimit(RLIMIT_NOFILE, &(struct rlimit){256, 256}) == 0)
		verdict(check_descriptors, CHECK_WARN, "256 are allowed");
}

static void ssd_is(const char *path, uint64_t bytes)
{
	settings.ssd.count = 1;
	settings.ssd.each[0].bytes = bytes;
	snprintf(settings.ssd.each[0].path, sizeof(settings.ssd.each[0].path), "%s", path);
	REQUIRE(settings_manifest_place(&settings));
}

/* A folder on a file system that takes direct I/O, or "": then there is none to try on. */
static const char *direct_folder(void)
{
	static const char *const folders[] = {"/var/tmp", "/tmp", "."};
	static char path[128];

	for (unsigned i = 0; i < ARRAY_COUNT(folders); i++) {
		int fd;

		snprintf(path, sizeof(path), "%s/skep-direct-XXXXXX", folders[i]);
		fd = mkstemp(path);
		if (fd < 0)
			continue;
		unlink(path);
		if (fcntl(fd, F_SETFL, O_DIRECT) == 0) {
			close(fd);
			snprintf(path, sizeof(path), "%s/skep-ssd-XXXXXX", folders[i]);
			REQUIRE(mkdtemp(path));
			return path;
		}
		close(fd);
	}
	return "";
}

static void ssds_on_a_disk(const char *folder)
{
	enum check_verdict well;
	struct statfs system;
	char path[512];
	int fd;

	/* What the file system below is may be worth a warning; it must not be a fault. */
	snprintf(path, sizeof(path), "%s/new.ssd", folder);
	ssd_is(path, 16 << 20);
	memset(&result, 0, sizeof(result));
	check_ssd(&scene, &result);
	well = result.verdict;
	REQUIRE(well == CHECK_OK || (well == CHECK_WARN && *result.advice));
	verdict(check_ssd, well, path);
	verdict(check_manifest, CHECK_OK, "made at start");
	REQUIRE(access(path, F_OK)); /* nothing was made */
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	REQUIRE(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
	verdict(check_ssd, well, path);
	/* Somebody's: a file system begins there. */
	REQUIRE(pwrite(fd, "\x53\xef", 2, 1080) == 2);
	verdict(check_ssd, CHECK_FAIL, "holds something else");
	REQUIRE(pwrite(fd, "\0\0", 2, 1080) == 2 && close(fd) == 0);
	verdict(check_ssd, well, path);
	/* More than there is; and two that have no room together. */
	ssd_is(path, 1ull << 50);
	verdict(check_ssd, CHECK_FAIL, "are free there");
	REQUIRE_EQ(statfs(folder, &system), 0);
	ssd_is(path, (uint64_t)system.f_bavail * (uint64_t)system.f_frsize / 5 * 3);
	verdict(check_ssd, well, path);
	settings.ssd.each[1] = settings.ssd.each[0];
	settings.ssd.each[1].path[strlen(path) - 1] = 'e';
	settings.ssd.count = 2;
	verdict(check_ssd, CHECK_FAIL, "are free there");
	/* The manifest may not be a file. */
	snprintf(settings.manifest, sizeof(settings.manifest), "%s", path);
	ssd_is(path, 16 << 20);
	verdict(check_manifest, CHECK_FAIL, "not a directory");
	snprintf(settings.manifest, sizeof(settings.manifest), "%s", folder);
	ssd_is(path, 16 << 20);
	verdict(check_manifest, CHECK_OK, "is there");
	settings.volatile_secret = true;
	verdict(check_manifest, CHECK_WARN, "do not outlive");
	settings.volatile_secret = false;
	*settings.manifest = 0;
	REQUIRE_EQ(unlink(path), 0);
}

static void ssds(void)
{
	const char *folder = direct_folder();

	settings.loop = LOOP_BACKEND_EPOLL;
	settings.ssd.count = 0;
	REQUIRE(settings_manifest_place(&settings));
	verdict(check_manifest, CHECK_OK, "not wanted");
	if (*folder) {
		ssds_on_a_disk(folder);
		REQUIRE_EQ(rmdir(folder), 0);
	} else {
		printf("no file system here takes direct I/O: checks of a good ssd are left out\n");
	}
	ssd_is("/dev/shm/new.ssd", 16 << 20);
	if (access("/dev/shm", W_OK) == 0) {
		verdict(check_ssd, CHECK_FAIL, "lies on tmpfs");
		snprintf(settings.manifest, sizeof(settings.manifest), "/dev/shm/manifest");
		ssd_is("/dev/shm/new.ssd", 16 << 20);
		verdict(check_manifest, CHECK_FAIL, "lies on tmpfs");
		*settings.manifest = 0;
	}
	ssd_is("/nowhere/at/all.ssd", 16 << 20);
	verdict(check_ssd, CHECK_FAIL, "/nowhere/at");
	verdict(check_manifest, CHECK_FAIL, "/nowhere/at");
	ssd_is("/dev/null", 16 << 20);
	verdict(check_ssd, CHECK_FAIL, "neither a file nor a block device");
	settings.ssd.count = 0;
}

/* All checks on this host: whatever they find, the form holds. */
static void the_whole_has_its_form(void)
{
	char *words[] = {"skepd", "--volatile-secret", "--socket", "/tmp/no-skepd.sock", "--ssd",
		"/nowhere/a:1GiB", "--ssd", "/nowhere/b:1GiB", NULL};
	char why[SETTINGS_WHY_MAX];
	struct settings *real;
	struct actions actions;
	json_t *checks, *row;
	size_t count = 0, i;

	REQUIRE_EQ(settings_create(8, words, &real, &actions, why), 0);
	checks = check_json(real, false);
	json_array_foreach(json_object_get(checks, "checks"), i, row)
	{
		REQUIRE_EQ(json_object_size(row), 4);
		count++;
	}
#define X(name, help) count--;
	CHECK_TABLE(X)
	/* Of each of the two. */
	CHECK_SSD_TABLE(X)
	CHECK_SSD_TABLE(X)
#undef X
	REQUIRE_EQ(count, 0);
	REQUIRE_EQ(check_status(checks), 2);
	REQUIRE(check_status(checks) >= 0 && check_status(checks) <= 2);
	json_decref(checks);
	settings_destroy(real);
}

static void clean(const char *path)
{
	char command[128];

	/* Only what this test made: the name came from mkdtemp(). */
	snprintf(command, sizeof(command), "rm -r '%s'", path);
	REQUIRE_EQ(system(command), 0);
}

int main(void)
{
	unsetenv("SKEP_SOCKET");
	snprintf(root, sizeof(root), "/tmp/skep-check-XXXXXX");
	REQUIRE(mkdtemp(root));
	the_whole_has_its_form();
	cgroups();
	memory();
	kernel();
	ssds();
	descriptors();
	clean(root);
	return 0;
}
