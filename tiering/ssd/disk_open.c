/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include "tiering/ssd/disk_priv.h"

/* How long the lock of a daemon that was just killed is waited for. */
#define LOCK_WAIT_NS NS_PER_S

#define MIB(bytes) ((unsigned long long)((bytes) >> 20))

int disk_refuse(const struct disk_why *why, int rc, const char *format, ...)
{
	va_list arguments;

	if (!why->text || !why->bytes)
		return rc;
	va_start(arguments, format);
	vsnprintf(why->text, why->bytes, format, arguments);
	va_end(arguments);
	return rc;
}

/* --- open and lock ---------------------------------------------------------------------------- */

static int open_refused(const char *path, bool read_only, int error, const struct disk_why *why)
{
	switch (error) {
	case EACCES:
	case EPERM:
	case EROFS:
		return disk_refuse(why, -EACCES, "%s: %s: %s", path, status_text(-error),
			read_only ? "only who may read it can look at it"
				  : "the daemon must be able to write it");
	case ENOENT:
		if (read_only)
			return disk_refuse(why, -ENOENT, "%s: is not there", path);
		return disk_refuse(why, -ENOENT, "%s: its directory is not there: make it", path);
	case EBUSY:
		return disk_refuse(why, -EBUSY,
			"%s: in use (mounted, or another daemon's): free it or give another", path);
	case EMFILE:
	case ENFILE:
		return disk_refuse(why, -EMFILE,
			"%s: no descriptor is left: raise the limit of open files", path);
	case EINVAL:
		return disk_refuse(why, -EINVAL,
			"%s: the file system does not take O_DIRECT: use ext4, XFS or a device",
			path);
	default:
		return disk_refuse(
			why, -error, "%s: cannot be opened: %s", path, status_text(-error));
	}
}

/* O_EXCL on a block device keeps mounts and other exclusive users away. */
static int disk_open_path(struct disk *disk, const char *path, const struct disk_why *why)
{
	int flags = O_DIRECT | O_CLOEXEC | O_NOCTTY, error;
	struct stat file;

	flags |= disk->read_only ? O_RDONLY : O_RDWR;
	if (!stat(path, &file)) {
		if (!S_ISREG(file.st_mode) && !S_ISBLK(file.st_mode))
			return disk_refuse(
				why, -EINVAL, "%s: neither a file nor a block device", path);
		disk->block = S_ISBLK(file.st_mode);
		flags |= disk->block ? O_EXCL : 0;
	} else if (errno == ENOENT && !disk->read_only) {
		flags |= O_CREAT | O_EXCL;
		disk->made = true;
	} else {
		return open_refused(path, disk->read_only, errno, why);
	}
	disk->fd = open(path, flags, 0600);
	if (disk->fd >= 0)
		return 0;
	error = errno;
	/* O_DIRECT may be refused after the file has been made. */
	if (disk->made && error == EINVAL)
		unlink(path);
	disk->made = false;
	return open_refused(path, disk->read_only, error, why);
}

static int disk_claim(struct disk *disk, const char *path, const struct disk_why *why)
{
	struct statfs system;
	struct stat file;
	uint64_t until_ns;

	if (fstat(disk->fd, &file) || fstatfs(disk->fd, &system))
		return disk_refuse(why, -errno, "%s: %s", path, status_text(-errno));
	if (disk->block ? !S_ISBLK(file.st_mode) : !S_ISREG(file.st_mode))
		return disk_refuse(why, -EBUSY, "%s: was replaced while it was opened", path);
	/* tmpfs takes O_DIRECT nowadays and moves the bytes from memory to memory. */
	if (!disk->block && (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC))
		return disk_refuse(why, -EINVAL,
			"%s: lies in memory (tmpfs), not on a disk: give a path on a disk", path);
	/*
	 * The ring of a daemon that was killed a moment ago holds its files, and so the lock, until
	 * its last transfer has ended: what it still writes must not land on what we write.
	 */
	until_ns = clock_ns() + LOCK_WAIT_NS;
	while (flock(disk->fd, LOCK_EX | LOCK_NB)) {
		if (errno == EWOULDBLOCK && clock_ns() < until_ns) {
			nanosleep(&(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
			continue;
		}
		if (errno != EWOULDBLOCK)
			return disk_refuse(
				why, -errno, "%s: cannot be locked: %s", path, status_text(-errno));
		return disk_refuse(why, -EBUSY,
			"%s: locked by another process: stop that daemon or give another path",
			path);
	}
	return 0;
}

/* --- size ------------------------------------------------------------------------------------- */

static int too_small(const char *path, uint64_t bytes, const struct disk_why *why)
{
	return disk_refuse(why, -EINVAL, "%s: %llu bytes are too small: give %d or more", path,
		(unsigned long long)bytes, DISK_BYTES_MIN);
}

static int block_size(struct disk *disk, const struct disk_path *path, uint64_t *bytes,
	const struct disk_why *why)
{
	uint64_t whole;

	if (ioctl(disk->fd, BLKGETSIZE64, &whole))
		return disk_refuse(
			why, -errno, "%s: tells no size: %s", path->path, status_text(-errno));
	if (path->bytes > whole)
		return disk_refuse(why, -EINVAL,
			"%s: has %llu MiB, less than the %llu MiB asked for: ask for less",
			path->path, MIB(whole), MIB(path->bytes));
	*bytes = path->bytes ? path->bytes : whole;
	return 0;
}

/* Reserves space up to @bytes; what is there stays. */
static int file_reserve(int fd, const struct disk_path *path, uint64_t bytes, uint64_t now_bytes,
	const struct disk_why *why)
{
	struct statfs system;
	int rc;

	do {
		rc = memory_should_fail()		 ? -ENOSPC
		     : fallocate(fd, 0, 0, (off_t)bytes) ? -errno
							 : 0;
	} while (rc == -EINTR);
	/* Without fallocate the file has its space when it has been written through. */
	if (rc == -EOPNOTSUPP)
		rc = now_bytes < bytes && ftruncate(fd, (off_t)bytes) ? -errno : 0;
	if (!rc)
		return 0;
	/* What was reserved until the disk was full is given back. */
	if (now_bytes < bytes && ftruncate(fd, (off_t)now_bytes))
		return disk_refuse(why, rc, "%s: %s, and it cannot be cut back: %s", path->path,
			status_text(rc), status_text(-errno));
	if (rc == -ENOSPC && !fstatfs(fd, &system))
		return disk_refuse(why, rc,
			"%s: no space for %llu MiB (%llu MiB are free): ask for less, or make room",
			path->path, MIB(bytes),
			MIB((uint64_t)system.f_bavail * (uint64_t)system.f_bsize));
	return disk_refuse(
		why, rc, "%s: space cannot be reserved: %s", path->path, status_text(rc));
}

/* A new file's name shall outlive a power cut as its bytes do. */
static int directory_flush(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *name = memory_strdup(slash ? path : ".");
	int fd, rc;

	if (!name)
		return -ENOMEM;
	if (slash)
		name[slash == path ? 1 : slash - path] = '\0';
	fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	memory_free(name);
	if (fd < 0)
		return -errno;
	rc = fsync(fd) ? -errno : 0;
	close(fd);
	return rc == -EINVAL ? 0 : rc; /* a file system that does not do it for directories */
}

static int file_size(struct disk *disk, const struct disk_path *path, uint64_t *bytes,
	const struct disk_why *why)
{
	struct stat file;
	uint64_t want;
	off_t hole;
	int rc;

	if (fstat(disk->fd, &file))
		return disk_refuse(why, -errno, "%s: %s", path->path, status_text(-errno));
	want = path->bytes ? path->bytes : (uint64_t)file.st_size;
	if (disk->read_only)
		want = MIN_OF(want, (uint64_t)file.st_size);
	want -= want % SSD_UNIT_BYTES;
	if (want > INT64_MAX)
		return disk_refuse(why, -EINVAL, "%s: no file has so many bytes", path->path);
	if (want < DISK_BYTES_MIN)
		return too_small(path->path, want, why);
	if (disk->read_only) {
		*bytes = want;
		disk->written_through = want;
		return 0;
	}
	rc = file_reserve(disk->fd, path, want, (uint64_t)file.st_size, why);
	if (rc)
		return rc;
	rc = disk->made ? directory_flush(path->path) : 0;
	if (rc)
		return disk_refuse(why, rc, "%s: its directory cannot be flushed: %s", path->path,
			status_text(rc));
	/*
	 * Extents never written count as holes, so this also finds where an earlier life left off.
	 * A file system that tells nothing calls the whole file written.
	 */
	hole = lseek(disk->fd, 0, SEEK_HOLE);
	if (hole < 0)
		hole = (off_t)want;
	*bytes = want;
	disk->written_through = MIN_OF((uint64_t)hole - (uint64_t)hole % SSD_UNIT_BYTES, want);
	if (disk->written_through == want)
		return 0;
	disk->touched = memory_zalloc(divide_up(divide_up(want, DISK_GRANULE_BYTES), 8));
	return disk->touched ? 0 : disk_refuse(why, -ENOMEM, "%s: no memory", path->path);
}

static int disk_size(struct disk *disk, const struct disk_path *path, uint64_t *bytes,
	const struct disk_why *why)
{
	int rc = disk->block ? block_size(disk, path, bytes, why)
			     : file_size(disk, path, bytes, why);

	if (rc)
		return rc;
	*bytes -= *bytes % SSD_UNIT_BYTES;
	if (*bytes < DISK_BYTES_MIN)
		return too_small(path->path, *bytes, why);
	if (disk->block)
		disk->written_through = *bytes;
	return 0;
}

/* Finds out now whether transfers of one unit are possible at all. */
static int disk_probe(struct disk *disk, const char *path, const struct disk_why *why)
{
	_Alignas(SSD_UNIT_BYTES) char unit[SSD_UNIT_BYTES];
	ssize_t moved;

	do {
		moved = pread(disk->fd, unit, sizeof(unit), 0);
	} while (moved < 0 && errno == EINTR);
	if (moved == sizeof(unit))
		return 0;
	if (moved < 0 && errno == EINVAL)
		return disk_refuse(why, -EINVAL,
			"%s: takes no direct transfers of %d bytes: use a device of smaller blocks",
			path, SSD_UNIT_BYTES);
	return disk_refuse(why, moved < 0 ? -errno : -EIO, "%s: cannot be read: %s", path,
		status_text(moved < 0 ? -errno : -EIO));
}

int disk_open(struct disk *disk, const struct disk_path *path, uint64_t *bytes,
	const struct disk_why *why)
{
	int rc;

	list_init(&disk->held);
	rc = disk_open_path(disk, path->path, why);
	if (rc)
		return rc;
	rc = disk_claim(disk, path->path, why);
	if (!rc)
		rc = disk_size(disk, path, bytes, why);
	if (!rc)
		rc = disk_probe(disk, path->path, why);
	if (!rc)
		return 0;
	if (disk->made)
		unlink(path->path);
	disk_close(disk);
	return rc;
}

void disk_close(struct disk *disk)
{
	if (disk->fd < 0)
		return;
	SKEP_CHECK(list_empty(&disk->held));
	/* A ring lets go of its files some time after its end; the lock must not wait for that. */
	flock(disk->fd, LOCK_UN);
	close(disk->fd);
	disk->fd = -1;
	memory_free(disk->touched);
	disk->touched = NULL;
}
