/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/status.h"
#include "tools/skepd/check_priv.h"
#include "tools/text.h"

/* Checks of the host: memory, limits, what the kernel offers. */

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

/* Besides pools and index: stacks, buffers, libraries; generous. */
#define DAEMON_BYTES (64ull << 20)

static uint64_t needed_bytes(const struct check_scene *scene)
{
	return scene->memory.pool_bytes + scene->memory.index_bytes + scene->memory.manifest_bytes +
	       DAEMON_BYTES;
}

/* ------------------------------------------------------------------------------ cgroup */

#define LIMIT_NONE UINT64_MAX

/* A number at the start of a file, LIMIT_NONE for "max" or what stands for no limit in version 1.
 */
static uint64_t limit_read(const struct check_scene *scene, const char *folder, const char *file)
{
	char path[SETTINGS_TEXT_MAX + 64], text[64], *end;
	uint64_t limit;

	snprintf(path, sizeof(path), "%s/%s", folder, file);
	if (check_read(scene, path, text, sizeof(text)) <= 0 || *text < '0' || *text > '9')
		return LIMIT_NONE;
	errno = 0;
	limit = strtoull(text, &end, 10);
	/* Version 1 writes "no limit" as the largest whole page below 2^63. */
	return errno || limit >= (uint64_t)INT64_MAX - (1 << 20) ? LIMIT_NONE : limit;
}

struct cgroup {
	char folder[SETTINGS_TEXT_MAX]; /* below the root, where its files are; "" none */
	size_t mount_length;		/* of the part that is the mount point */
	int version;
};

/* Finds the memory cgroup of this process in /proc/self/cgroup. */
static void cgroup_find(const struct check_scene *scene, struct cgroup *out)
{
	char text[4096], *line, *rest = text;

	memset(out, 0, sizeof(*out));
	if (check_read(scene, "/proc/self/cgroup", text, sizeof(text)) <= 0)
		return;
	while ((line = strsep(&rest, "\n"))) {
		char *controllers = strchr(line, ':'), *path;
		const char *mount;

		if (!controllers)
			continue;
		controllers++;
		path = strchr(controllers, ':');
		if (!path)
			continue;
		*path++ = 0;
		if (*controllers && !strstr(controllers, "memory"))
			continue;
		/* With both mounted, version 1 has the memory controller. */
		if (!*controllers && out->version == 1)
			continue;
		mount = *controllers ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup";
		out->version = *controllers ? 1 : 2;
		out->mount_length = strlen(mount);
		snprintf(out->folder, sizeof(out->folder), "%s%s", mount,
			strcmp(path, "/") ? path : "");
	}
}

/* The tightest limit from this cgroup up to the mount point. */
static uint64_t cgroup_limit(const struct check_scene *scene, struct cgroup *cgroup)
{
	const char *file = cgroup->version == 1 ? "memory.limit_in_bytes" : "memory.max";
	uint64_t tightest = LIMIT_NONE;

	if (!cgroup->version)
		return LIMIT_NONE;
	for (;;) {
		uint64_t limit = limit_read(scene, cgroup->folder, file);
		char *slash = strrchr(cgroup->folder, '/');

		tightest = MIN_OF(tightest, limit);
		/* In a container the path may lie outside what is mounted: its root counts. */
		if (strlen(cgroup->folder) <= cgroup->mount_length)
			return tightest;
		*slash = 0;
	}
}

void check_memory_cgroup(const struct check_scene *scene, struct check_result *result)
{
	char limit_text[TEXT_SHORT_BYTES], needed_text[TEXT_SHORT_BYTES];
	uint64_t needed = needed_bytes(scene), limit;
	struct cgroup cgroup;

	cgroup_find(scene, &cgroup);
	limit = cgroup_limit(scene, &cgroup);
	text_bytes(needed_text, needed);
	if (!cgroup.version) {
		check_say(result, CHECK_OK, "no memory cgroup, %s are needed", needed_text);
		return;
	}
	if (limit == LIMIT_NONE) {
		check_say(result, CHECK_OK, "version %d, no limit, %s are needed", cgroup.version,
			needed_text);
		return;
	}
	text_bytes(limit_text, limit);
	check_say(result,
		needed > limit		      ? CHECK_FAIL
		: needed > limit - limit / 16 ? CHECK_WARN
					      : CHECK_OK,
		"version %d, limit %s, %s are needed", cgroup.version, limit_text, needed_text);
	if (result->verdict != CHECK_OK)
		check_advise(result,
			"raise the limit (systemd: MemoryMax=, containers: "
			"resources.limits.memory) "
			"or lower dram of the realms: the kernel kills what passes its limit");
}

/* A line "Name:   123 kB" of /proc/meminfo, in bytes; 0 where it is not there. */
static uint64_t meminfo(const struct check_scene *scene, const char *name)
{
	char text[8192];
	const char *line;

	if (check_read(scene, "/proc/meminfo", text, sizeof(text)) <= 0)
		return 0;
	line = strstr(text, name);
	return line ? strtoull(line + strlen(name), NULL, 10) * 1024 : 0;
}

void check_memory_available(const struct check_scene *scene, struct check_result *result)
{
	uint64_t available = meminfo(scene, "MemAvailable:"), needed = needed_bytes(scene);
	char available_text[TEXT_SHORT_BYTES], needed_text[TEXT_SHORT_BYTES];

	text_bytes(available_text, available);
	text_bytes(needed_text, needed);
	if (scene->running) {
		check_say(result, CHECK_OK, "the daemon holds its memory, %s more are available",
			available_text);
		return;
	}
	check_say(result,
		needed > available		      ? CHECK_FAIL
		: needed > available - available / 16 ? CHECK_WARN
						      : CHECK_OK,
		"%s are available, %s are needed", available_text, needed_text);
	if (result->verdict != CHECK_OK)
		check_advise(result, "lower dram of the realms, or end what holds memory (a client "
				     "of an earlier "
				     "daemon that still maps its pool?)");
}

void check_memlock(const struct check_scene *scene, struct check_result *result)
{
	uint64_t swap = meminfo(scene, "SwapTotal:");
	char limit_text[TEXT_SHORT_BYTES];
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit)) {
		check_say(result, CHECK_WARN, "the limit cannot be read: %s", strerror(errno));
		check_advise(result, "look at the container's profile");
		return;
	}
	text_bytes(limit_text, limit.rlim_max);
	if (limit.rlim_max == RLIM_INFINITY)
		check_say(result, CHECK_OK, "no limit on locked memory");
	else if (limit.rlim_max >= scene->memory.pool_bytes)
		check_say(result, CHECK_OK, "%s can be locked", limit_text);
	else if (swap == 0)
		check_say(result, CHECK_OK, "%s can be locked, less than the pools; no swap is on",
			limit_text);
	else {
		check_say(result, CHECK_WARN,
			"%s can be locked, less than the pools, and swap is on", limit_text);
		check_advise(result,
			"set LimitMEMLOCK=infinity (containers: --ulimit memlock=-1), or turn swap "
			"off: a swapped block is slower than computing it again");
	}
}

void check_descriptors(const struct check_scene *scene, struct check_result *result)
{
	/* A session: socket, page, pidfd, wake-up, eight queues; a pool: its chunks, its index. */
	enum { OF_SESSION = 12, OF_REALM = 24, OF_DAEMON = 64 };
	uint64_t needed = OF_DAEMON;
	struct rlimit limit = {0};

	for (unsigned i = 0; i < scene->settings->realm_count; i++)
		needed += OF_REALM + scene->settings->realms[i].sessions_max * OF_SESSION;
	getrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_max == RLIM_INFINITY || limit.rlim_max >= needed) {
		check_say(result, CHECK_OK, "%" PRIu64 " are allowed, at most %" PRIu64 " are used",
			(uint64_t)limit.rlim_max, needed);
		return;
	}
	check_say(result, CHECK_WARN,
		"%" PRIu64 " are allowed, all sessions with all their queues use %" PRIu64,
		(uint64_t)limit.rlim_max, needed);
	check_advise(result, "set LimitNOFILE=%" PRIu64 " or lower sessions_max", needed);
}

/* ------------------------------------------------------------------------ kernel, clock */

void check_huge_pages(const struct check_scene *scene, struct check_result *result)
{
	static const char file[] = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
	char text[256], *from, *to;

	if (check_read(scene, file, text, sizeof(text)) <= 0 || !(from = strchr(text, '[')) ||
		!(to = strchr(from, ']'))) {
		check_say(result, CHECK_WARN, "this kernel has no transparent huge pages");
		check_advise(
			result, "pools lie on 4 KiB pages: everything works, copies are slower");
		return;
	}
	*to = 0;
	from++;
	/* Pools ask for them by name. */
	if (strcmp(from, "deny") != 0 &&
		(strcmp(from, "never") != 0 || memory_collapse(NULL, 0) == 0)) {
		check_say(result, CHECK_OK, "shared memory: %s", from);
		return;
	}
	check_say(result, CHECK_WARN, "shared memory: %s", from);
	check_advise(result,
		"echo advise > %s: pools lie on 4 KiB pages otherwise, and copies and the ssd "
		"are slower",
		file);
}

void check_memory_files(const struct check_scene *scene, struct check_result *result)
{
	int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE;
	int fd = memfd_create("skep-check", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *map;

	(void)scene;
	if (fd < 0) {
		check_say(result, CHECK_FAIL, "memfd_create: %s", strerror(errno));
		check_advise(result, "allow memfd_create in the container's profile: pools and "
				     "index are memory files");
		return;
	}
	map = ftruncate(fd, 4096) ? MAP_FAILED
				  : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED || fcntl(fd, F_ADD_SEALS, seals)) {
		check_say(result, CHECK_FAIL, "a memory file cannot be mapped and sealed: %s",
			strerror(errno));
		check_advise(result, "Linux 5.1 or newer is needed: without seals a client could "
				     "write the index");
	} else {
		check_say(result, CHECK_OK, "can be made, mapped and sealed");
	}
	if (map != MAP_FAILED)
		munmap(map, 4096);
	close(fd);
}

void check_io_uring(const struct check_scene *scene, struct check_result *result)
{
	struct loop_options options = {LOOP_BACKEND_AUTO, 4, 4};
	char disabled[16] = "";
	struct loop *loop;
	int status, why;

	if (scene->settings->loop == LOOP_BACKEND_EPOLL) {
		check_say(result, CHECK_OK, "not wanted (loop: epoll)");
		return;
	}
	status = loop_create(&options, &loop);
	if (status) {
		check_say(result, CHECK_FAIL, "no event loop can be made: %s", status_text(status));
		check_advise(result, "look at the limits on descriptors and memory");
		return;
	}
	why = loop_uring_error(loop);
	loop_destroy(loop);
	if (!why) {
		check_say(result, CHECK_OK, "allowed");
		return;
	}
	check_read(scene, "/proc/sys/kernel/io_uring_disabled", disabled, sizeof(disabled));
	check_say(result, scene->settings->loop == LOOP_BACKEND_URING ? CHECK_FAIL : CHECK_WARN,
		"refused: %s", status_text(why));
	check_advise(result, "%s; epoll serves in its place",
		*disabled > '0' && *disabled <= '2'
			? "sysctl kernel.io_uring_disabled=0 allows it"
			: "allow io_uring_setup, io_uring_enter and io_uring_register in the "
			  "container's seccomp profile, or set loop: epoll");
}

void check_pidfd(const struct check_scene *scene, struct check_result *result)
{
	int pair[2], pidfd = -1, status = 0;
	socklen_t length = sizeof(pidfd);

	(void)scene;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
		check_say(result, CHECK_FAIL, "no unix socket can be made: %s", strerror(errno));
		check_advise(result, "look at the limit on descriptors");
		return;
	}
	if (getsockopt(pair[0], SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length))
		status = errno;
	else
		close(pidfd);
	close(pair[0]);
	close(pair[1]);
	if (!status) {
		check_say(result, CHECK_OK, "a socket names its process");
		return;
	}
	check_say(result, CHECK_WARN, "a socket does not name its process: %s", strerror(status));
	check_advise(result, "Linux 6.5 or newer: without it, what a killed client held comes back "
			     "after a set time, not at its end");
}

void check_clock(const struct check_scene *scene, struct check_result *result)
{
	/* The sources that the vDSO can read on x86 and ARM, in guests as well. */
	static const char *const quick[] = {
		"tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page"};
	enum { READS = 1000 };
	char source[64] = "";
	uint64_t began, each_ns;

	check_read(scene, "/sys/devices/system/clocksource/clocksource0/current_clocksource",
		source, sizeof(source));
	source[strcspn(source, "\n")] = 0;
	began = clock_ns();
	for (int i = 0; i < READS; i++)
		(void)clock_ns();
	each_ns = (clock_ns() - began) / READS;
	for (unsigned i = 0; i < ARRAY_COUNT(quick); i++)
		if (!strcmp(source, quick[i])) {
			check_say(
				result, CHECK_OK, "%s, %" PRIu64 " ns a reading", source, each_ns);
			return;
		}
	check_say(result, CHECK_WARN, "%s, %" PRIu64 " ns a reading", *source ? source : "unknown",
		each_ns);
	check_advise(result, "boot with clocksource=tsc where the processor's counter is stable: "
			     "each reading is a system call otherwise");
}
