/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/loop/loop.h"
#include "base/status.h"
#include "tiering/ssd/format.h"
#include "tools/skepd/check_priv.h"
#include "tools/skepd/secret.h"
#include "tools/text.h"

/* Checks of the ssd tier: each of its files and devices, and the manifest. Nothing is written to a
 * file or device that is there. */

enum { BLOCK_BYTES = 4096, PATH_BYTES = sizeof(((struct node_ssd *)NULL)->path) + 16 };

/* -------------------------------------------------------------------------- file systems */

static const struct file_system {
	uint64_t magic;
	const char *name;
	enum check_verdict verdict;
	const char *advice;
} file_systems[] = {
	{0xef53, "ext4", CHECK_OK, ""},
	{0x58465342, "xfs", CHECK_OK, ""},
	{0x2011bab0, "exfat", CHECK_WARN, "use ext4 or xfs: it reserves no space"},
	{0x01021994, "tmpfs", CHECK_FAIL,
		"it lies in memory and is gone after a restart: give a path on a disk"},
	{0x858458f6, "ramfs", CHECK_FAIL,
		"it lies in memory and is gone after a restart: give a path on a disk"},
	{0x9123683e, "btrfs", CHECK_WARN,
		"it copies on write: chattr +C on the empty folder, or use ext4 or xfs"},
	{0x2fc12fc1, "zfs", CHECK_WARN, "it copies on write and caches by itself: use ext4 or xfs"},
	{0x794c7630, "overlay", CHECK_WARN,
		"the container's own layer is slow and goes with it: mount a volume"},
	{0x6969, "nfs", CHECK_WARN, "another host's disk: give a path on a local one"},
	{0x65735546, "fuse", CHECK_WARN, "a file system of another process: use ext4 or xfs"},
};

static const struct file_system *file_system_find(const struct statfs *found)
{
	static const struct file_system other = {0, "another file system", CHECK_OK, ""};

	for (unsigned i = 0; i < ARRAY_COUNT(file_systems); i++)
		if (file_systems[i].magic == (uint64_t)(uint32_t)found->f_type)
			return &file_systems[i];
	return &other;
}

/* -------------------------------------------------------------------------------- one ssd */

/* What is known of the ssd that is looked at. */
struct ssd_scene {
	const struct check_scene *scene;
	const struct node_ssd *ssd;
	char folder[PATH_BYTES];
	struct stat now; /* of the file or device, or of the folder */
	bool exists, block;
};

/* Is it there, or can it be made, and of a kind that serves? */
static void ssd_place(struct ssd_scene *of, struct check_result *result)
{
	const char *path = of->ssd->path;

	of->exists = stat(path, &of->now) == 0;
	if (!of->exists && errno != ENOENT) {
		check_say(result, CHECK_FAIL, "%.160s: %s", path, strerror(errno));
		check_advise(result, "let skepd's user reach it");
	} else if (!of->exists && stat(of->folder, &of->now)) {
		check_say(result, CHECK_FAIL, "%.160s: %s", of->folder, strerror(errno));
		check_advise(result, "make the directory and chown it to skepd's user");
	} else if (!of->exists && access(of->folder, W_OK | X_OK)) {
		check_say(result, CHECK_FAIL, "%.160s: no file can be made there: %s", of->folder,
			strerror(errno));
		check_advise(result, "chown it to skepd's user (systemd: ReadWritePaths=), or make "
				     "the file");
	} else if (of->exists && !S_ISREG(of->now.st_mode) && !S_ISBLK(of->now.st_mode)) {
		check_say(result, CHECK_FAIL, "%.160s: neither a file nor a block device", path);
		check_advise(result, "give another path; a file is made where none is");
	} else if (of->exists && access(path, R_OK | W_OK)) {
		check_say(result, CHECK_FAIL, "%.160s: %s", path, strerror(errno));
		check_advise(result, "let skepd's user read and write it (systemd: "
				     "ReadWritePaths=, DeviceAllow=)");
	} else {
		of->block = of->exists && S_ISBLK(of->now.st_mode);
	}
}

/* Bytes that all ssds on the file system with this number have still to reserve on it. */
static uint64_t reserve_bytes(const struct settings *settings, dev_t device)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < settings->ssd.count; i++) {
		const struct node_ssd *ssd = &settings->ssd.each[i];
		char folder[PATH_BYTES];
		uint64_t held = 0;
		struct stat now;

		path_folder(ssd->path, folder, sizeof(folder));
		if (stat(ssd->path, &now) == 0)
			held = S_ISREG(now.st_mode) ? (uint64_t)now.st_blocks * 512 : ssd->bytes;
		else if (stat(folder, &now))
			continue;
		if (now.st_dev == device)
			bytes += ssd->bytes - MIN_OF(held, ssd->bytes);
	}
	return bytes;
}

/* File system and room of a file; size of a device, and whether somebody else has it. */
static void ssd_room(const struct ssd_scene *of, struct check_result *result)
{
	const char *path = of->ssd->path;
	const struct file_system *type;
	struct statfs system;
	char free_text[TEXT_SHORT_BYTES], needed_text[TEXT_SHORT_BYTES];
	uint64_t available, needed;

	if (statfs(of->exists ? path : of->folder, &system)) {
		check_say(result, CHECK_FAIL, "%.160s: %s", path, strerror(errno));
		check_advise(result, "let skepd's user reach it");
		return;
	}
	type = file_system_find(&system);
	if (type->verdict != CHECK_OK) {
		check_say(result, type->verdict, "%.160s: lies on %s", path, type->name);
		check_advise(result, "%s", type->advice);
		if (type->verdict == CHECK_FAIL)
			return;
	}
	available = (uint64_t)system.f_bavail * (uint64_t)system.f_frsize;
	needed = reserve_bytes(of->scene->settings, of->now.st_dev);
	text_bytes(free_text, available);
	text_bytes(needed_text, needed);
	if (needed > available) {
		check_say(result, CHECK_FAIL, "%.160s: %s are free there, the ssds need %s more",
			path, free_text, needed_text);
		check_advise(result, "make room, or name a smaller size");
	} else if (type->verdict == CHECK_OK) {
		check_say(result, CHECK_OK, "%.160s: %s on %s, %s free, %s still to reserve", path,
			of->exists ? "a file" : "is made at start", type->name, free_text,
			needed_text);
	}
}

static void ssd_device(const struct ssd_scene *of, struct check_result *result)
{
	const char *path = of->ssd->path;
	char size_text[TEXT_SHORT_BYTES];
	uint64_t bytes = 0;
	int fd;

	if (settings_device_bytes(path, &bytes) && bytes < of->ssd->bytes) {
		text_bytes(size_text, bytes);
		check_say(result, CHECK_FAIL, "%.160s: the device has %s", path, size_text);
		check_advise(result, "name no more, or leave the size out: all of it");
		return;
	}
	/* Exclusive: a device with a file system in use is refused. The daemon holds its own so. */
	fd = open(path, O_RDONLY | O_CLOEXEC | (of->scene->running ? 0 : O_EXCL));
	if (fd < 0) {
		check_say(result, CHECK_FAIL, "%.160s: %s", path,
			errno == EBUSY ? "in use: mounted, or another daemon's" : strerror(errno));
		check_advise(result, "unmount it, or give another: whatever it holds is lost");
		return;
	}
	close(fd);
	text_bytes(size_text, of->ssd->bytes);
	check_say(result, CHECK_OK, "%.160s: a block device, %s", path, size_text);
}

/* Reads a block past the page cache, or, where there is no file yet, writes one to another. */
static int direct_try(const struct ssd_scene *of)
{
	_Alignas(BLOCK_BYTES) unsigned char block[BLOCK_BYTES] = {0};
	char path[PATH_BYTES + 32];
	int fd, status = 0;

	if (of->exists) {
		fd = open(of->ssd->path, O_RDONLY | O_DIRECT | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		if (pread(fd, block, sizeof(block), 0) < 0)
			status = -errno;
		close(fd);
		return status;
	}
	snprintf(path, sizeof(path), "%s/.skep-check-XXXXXX", of->folder);
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	unlink(path);
	if (fcntl(fd, F_SETFL, O_DIRECT) || pwrite(fd, block, sizeof(block), 0) < 0)
		status = -errno;
	close(fd);
	return status;
}

static void ssd_direct(const struct ssd_scene *of, struct check_result *result)
{
	int status = direct_try(of);

	if (!status)
		return;
	check_say(result, CHECK_FAIL, "%.160s: no direct I/O (O_DIRECT): %s", of->ssd->path,
		status_text(status));
	check_advise(result, "%s",
		status == -EINVAL ? "give a path on ext4 or xfs: blocks would lie in the page "
				    "cache a second time"
				  : "look at the disk and its permissions");
}

/* Is what lies there ours, or nothing? Where it cannot be read others have said so. */
static bool ssd_ours(const struct ssd_scene *of)
{
	_Alignas(SSD_UNIT_BYTES) uint8_t unit[SSD_UNIT_BYTES];
	struct ssd_device_head head;
	bool ours = true, head_is_ours = false;
	int fd = open(of->ssd->path, O_RDONLY | O_DIRECT | O_CLOEXEC);

	if (fd < 0)
		return true;
	for (off_t at = 0; ours && !head_is_ours && at < SSD_SEGMENTS_AT; at += SSD_UNIT_BYTES) {
		if (pread(fd, unit, sizeof(unit), at) != sizeof(unit))
			break;
		memcpy(&head, unit, sizeof(head));
		head_is_ours = at == 0 && head.magic == SSD_HEAD_MAGIC;
		ours = head_is_ours || ssd_unit_blank(unit);
	}
	close(fd);
	return ours;
}

static void ssd_content(const struct ssd_scene *of, struct check_result *result)
{
	if (!of->exists || ssd_ours(of))
		return;
	check_say(result, CHECK_FAIL, "%.160s: holds something else, and skepd leaves it alone",
		of->ssd->path);
	check_advise(result, "give another path; or, if that is of no use any more, clear its "
			     "first MiB");
}

static void ssd_ring(const struct ssd_scene *of, struct check_result *result)
{
	struct loop_options options = {LOOP_BACKEND_AUTO, 4, 4};
	struct loop *loop;
	int why;

	/* That no loop can be made is said by the check of io_uring. */
	if (of->scene->settings->loop == LOOP_BACKEND_EPOLL || loop_create(&options, &loop))
		return;
	why = loop_uring_error(loop);
	loop_destroy(loop);
	if (!why)
		return;
	check_say(result, CHECK_WARN, "%.160s: io_uring is refused: %s", of->ssd->path,
		status_text(why));
	check_advise(result, "threads read and write in its place, at less than the device gives: "
			     "allow io_uring (see the check of that name), or set loop: epoll");
}

void check_ssd(const struct check_scene *scene, struct check_result *result)
{
	struct ssd_scene of = {.scene = scene, .ssd = &scene->settings->ssd.each[scene->ssd]};
	struct check_result other = {0};

	path_folder(of.ssd->path, of.folder, sizeof(of.folder));
	ssd_place(&of, result);
	if (result->verdict == CHECK_FAIL)
		return;
	if (of.block)
		ssd_device(&of, result);
	else
		ssd_room(&of, result);
	/* A device in use is not read; what lies in memory has said all. */
	if (result->verdict == CHECK_FAIL)
		return;
	ssd_direct(&of, &other);
	check_worsen(result, &other);
	ssd_content(&of, &other);
	check_worsen(result, &other);
	ssd_ring(&of, &other);
	check_worsen(result, &other);
}

/* ------------------------------------------------------------------------------ manifest */

void check_manifest(const struct check_scene *scene, struct check_result *result)
{
	const struct settings *settings = scene->settings;
	const char *path = settings->manifest_path;
	const struct file_system *type;
	char folder[PATH_BYTES];
	struct statfs system;
	struct stat now;
	bool exists = stat(path, &now) == 0;

	if (!settings->ssd.count) {
		check_say(result, CHECK_OK, "not wanted (no ssd)");
		return;
	}
	path_folder(path, folder, sizeof(folder));
	if (exists && !S_ISDIR(now.st_mode)) {
		check_say(result, CHECK_FAIL, "%.160s: not a directory", path);
		check_advise(result, "name another one (manifest:)");
	} else if (access(exists ? path : folder, W_OK | X_OK)) {
		check_say(
			result, CHECK_FAIL, "%.160s: %s", exists ? path : folder, strerror(errno));
		check_advise(result, "make it and chown it to skepd's user (systemd: "
				     "ReadWritePaths=), or name another one (manifest:)");
	} else if (statfs(exists ? path : folder, &system)) {
		check_say(result, CHECK_FAIL, "%.160s: %s", path, strerror(errno));
		check_advise(result, "let skepd's user reach it");
	} else if ((type = file_system_find(&system))->verdict == CHECK_FAIL) {
		check_say(result, CHECK_FAIL, "%.160s: lies on %s", path, type->name);
		check_advise(result, "%s", type->advice);
	} else if (settings->volatile_secret) {
		check_say(result, CHECK_WARN, "%.160s: ids do not outlive the daemon", path);
		check_advise(result, "with volatile_secret nothing on the ssds is found again "
				     "after a restart: leave it out");
	} else {
		check_say(result, CHECK_OK, "%.160s: %s, on %s", path,
			exists ? "is there" : "is made at start", type->name);
	}
}
