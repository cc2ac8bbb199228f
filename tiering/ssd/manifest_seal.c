/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/ssd/manifest_priv.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"

enum {
	READ_BYTES = 16384,
	SEAL_BYTES = 64,
};

static const char seal_form[] = "skep manifest seal 1 %016" PRIx64 "\n";

static bool ends(const char *name, const char *ending)
{
	size_t length = strlen(name), part = strlen(ending);

	return length >= part && !strcmp(name + length - part, ending);
}

/* Tables have sums of their own, which are checked where they are read: their size is enough. */
static bool summed_whole(const char *name)
{
	return !strcmp(name, "CURRENT") || !strncmp(name, "MANIFEST-", 9) || ends(name, ".log");
}

static bool summed(const char *name)
{
	return summed_whole(name) || ends(name, ".sst");
}

/* Adds one file to @sum. */
static int file_sum(int folder, const char *name, uint64_t *sum)
{
	char buffer[READ_BYTES];
	uint64_t size;
	XXH3_state_t state;
	struct stat found;
	ssize_t got = 0;
	int status = 0;
	int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return -errno;
	if (fstat(fd, &found)) {
		status = -errno;
		goto close_file;
	}
	size = (uint64_t)found.st_size;
	XXH3_64bits_reset(&state);
	XXH3_64bits_update(&state, name, strlen(name) + 1);
	XXH3_64bits_update(&state, &size, sizeof(size));
	while (summed_whole(name) && (got = read(fd, buffer, sizeof(buffer))) > 0)
		XXH3_64bits_update(&state, buffer, (size_t)got);
	if (got < 0)
		status = -errno;
	/* A sum of sums: files come in any order. */
	*sum += XXH3_64bits_digest(&state);
close_file:
	close(fd);
	return status;
}

static int folder_sum(int folder, uint64_t *sum)
{
	struct dirent *entry;
	int status = 0, fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *directory = fd < 0 ? NULL : fdopendir(fd);

	*sum = 0;
	if (!directory) {
		status = -errno;
		if (fd >= 0)
			close(fd);
		return status;
	}
	while (!status && (entry = readdir(directory)))
		if (summed(entry->d_name))
			status = file_sum(folder, entry->d_name, sum);
	closedir(directory);
	return status;
}

static int seal_put(int folder, const char *text)
{
	size_t length = strlen(text);
	int status = 0;
	int fd = openat(folder, SEAL_NAME ".new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	if (write(fd, text, length) != (ssize_t)length)
		status = errno ? -errno : -EIO;
	if (!status && fsync(fd))
		status = -errno;
	close(fd);
	if (!status && renameat(folder, SEAL_NAME ".new", folder, SEAL_NAME))
		status = -errno;
	if (!status && fsync(folder))
		status = -errno;
	return status;
}

int seal_write(const char *path)
{
	char text[SEAL_BYTES];
	uint64_t sum;
	int status, folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (folder < 0)
		return -errno;
	errno = 0;
	status = folder_sum(folder, &sum);
	if (!status) {
		snprintf(text, sizeof(text), seal_form, sum);
		status = seal_put(folder, text);
	}
	close(folder);
	return status;
}

static int seal_compare(int folder)
{
	char text[SEAL_BYTES] = "", wanted[SEAL_BYTES];
	uint64_t sum;
	int status, fd = openat(folder, SEAL_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return -errno;
	if (read(fd, text, sizeof(text) - 1) < 0) {
		status = -errno;
		close(fd);
		return status;
	}
	close(fd);
	status = folder_sum(folder, &sum);
	if (status && status != -ENOENT)
		return status;
	snprintf(wanted, sizeof(wanted), seal_form, sum);
	return status || strcmp(text, wanted) ? -EBADMSG : 0;
}

static int seal_see(const char *path, bool take)
{
	int status, folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (folder < 0)
		return -errno;
	status = seal_compare(folder);
	/* Another process that has just opened it took the seal off: RocksDB's lock refuses us. */
	if (status == -ENOENT || (status == -EBADMSG && faccessat(folder, SEAL_NAME, F_OK, 0)))
		status = 0;
	else if (!status && take && unlinkat(folder, SEAL_NAME, 0) && errno != ENOENT)
		status = -errno;
	if (!status && take && fsync(folder))
		status = -errno;
	close(folder);
	return status;
}

int seal_take(const char *path)
{
	return seal_see(path, true);
}

int seal_look(const char *path)
{
	return seal_see(path, false);
}

void seal_drop(const char *path)
{
	int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (folder < 0)
		return;
	if (unlinkat(folder, SEAL_NAME, 0) == 0)
		fsync(folder);
	close(folder);
}
