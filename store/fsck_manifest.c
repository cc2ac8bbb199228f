/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The manifest in the eyes of fsck, and how it is made anew: beside the old one, closed and sealed,
 * and put in its place by one rename, so that whoever looks finds the old one whole or the new one.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "store/fsck_priv.h"
#include "tiering/ssd/manifest.h"

enum {
	COMMIT_ROWS = 1024, /* gathered at a time */
	MAILBOX_ROOM = 64,
	FTW_DESCRIPTORS = 16,
	COPY_BYTES = 65536,
	PATH_ROOM = 4200,
	OLD_MAX = 1000, /* kept in one second; a rename onto one that is there fails */
};

static int say(struct fsck *fsck, int status, const char *what, const char *path)
{
	snprintf(fsck->why, fsck->why_bytes, "%s: %s: %s", path, what, status_text(status));
	return status;
}

static bool path_make(char path[PATH_ROOM], const struct fsck *fsck, const char *ending)
{
	return snprintf(path, PATH_ROOM, "%s%s", fsck->manifest, ending) < PATH_ROOM;
}

/* ------------------------------------------------------------------------------------- folders */

static int entry_remove(const char *path, const struct stat *info, int type, struct FTW *where)
{
	(void)info, (void)type, (void)where;
	return remove(path) ? -1 : 0;
}

/* Return: 0 (also where there is none) or a negative errno. */
static int folder_remove(const char *path)
{
	if (nftw(path, entry_remove, FTW_DESCRIPTORS, FTW_DEPTH | FTW_PHYS) && errno != ENOENT)
		return -errno;
	return 0;
}

static int file_copy(int from_folder, int to_folder, const char *name)
{
	char bytes[COPY_BYTES];
	ssize_t got = 0;
	int status = 0, to = -1;
	int from = openat(from_folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	if (from < 0)
		return -errno;
	to = openat(to_folder, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (to < 0)
		status = -errno;
	while (!status && (got = read(from, bytes, sizeof(bytes))) > 0)
		if (write(to, bytes, (size_t)got) != got)
			status = errno ? -errno : -EIO;
	if (got < 0)
		status = -errno;
	if (to >= 0)
		close(to);
	close(from);
	return status;
}

/* The files of one folder to another, which is made. */
static int folder_copy(const char *from, const char *to)
{
	DIR *directory = opendir(from);
	struct dirent *entry;
	struct stat file;
	int status = 0, into;

	if (!directory)
		return -errno;
	into = mkdir(to, 0700) ? -1 : open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (into < 0)
		status = -errno;
	while (!status && (entry = readdir(directory)))
		if (!fstatat(dirfd(directory), entry->d_name, &file, AT_SYMLINK_NOFOLLOW) &&
			S_ISREG(file.st_mode))
			status = file_copy(dirfd(directory), into, entry->d_name);
	if (into >= 0)
		close(into);
	closedir(directory);
	return status;
}

static struct stat owner; /* nftw() passes nothing on */

static int entry_own(const char *path, const struct stat *info, int type, struct FTW *where)
{
	(void)info, (void)type, (void)where;
	return lchown(path, owner.st_uid, owner.st_gid);
}

/* Root repairs what the daemon's user must be able to write: it gets the owner of @like. */
static int folder_own(const char *path, const char *like)
{
	if (geteuid() != 0 || stat(like, &owner))
		return 0;
	return nftw(path, entry_own, FTW_DESCRIPTORS, FTW_PHYS) ? -errno : 0;
}

/* Makes the names of the folder above last. */
static int folder_flush(const char *path)
{
	char above[PATH_ROOM];
	char *slash;
	int status = 0, fd;

	snprintf(above, sizeof(above), "%s", path);
	slash = strrchr(above, '/');
	if (!slash)
		snprintf(above, sizeof(above), ".");
	else
		slash[slash == above] = '\0';
	fd = open(above, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fsync(fd) && errno != EINVAL)
		status = -errno;
	close(fd);
	return status;
}

/* ------------------------------------------------------------------------------------- reading */

/* A manifest that is written, and the loop that it tells on. */
struct writing {
	struct loop *loop;
	struct mailbox *mailbox;
	struct manifest *manifest;
};

static void writing_end(struct writing *writing)
{
	manifest_close(writing->manifest);
	mailbox_destroy(writing->mailbox);
	loop_destroy(writing->loop);
}

static int writing_begin(struct fsck *fsck, struct writing *writing, const char *path, bool repair)
{
	struct loop_options loop = {.backend = LOOP_BACKEND_EPOLL};
	struct manifest_options options = {
		.path = path, .memory_bytes = fsck->options->manifest_bytes, .repair = repair};
	int status = loop_create(&loop, &writing->loop);

	if (status == 0)
		status = mailbox_create(writing->loop, MAILBOX_ROOM, &writing->mailbox);
	if (status == 0) {
		options.mailbox = writing->mailbox;
		status = manifest_open(&options, &writing->manifest, fsck->why, fsck->why_bytes);
	}
	if (status < 0) {
		mailbox_destroy(writing->mailbox);
		loop_destroy(writing->loop);
	}
	return status;
}

/* What RocksDB's own repair brings back of a copy: a row that is there is true, whatever else is
 * gone, since a death is final. */
static void rows_save(struct fsck *fsck)
{
	struct writing writing = {0};
	char copy[PATH_ROOM];

	if (!path_make(copy, fsck, ".saved") || folder_remove(copy) < 0)
		return;
	if (folder_copy(fsck->manifest, copy) == 0 &&
		writing_begin(fsck, &writing, copy, true) == 0) {
		/* As far as it goes. */
		ledger_rows_read(writing.manifest, &fsck->rows);
		writing_end(&writing);
	}
	folder_remove(copy);
}

int fsck_manifest_read(struct fsck *fsck)
{
	struct fsck_report *report = fsck->report;
	struct manifest_options options = {.path = fsck->manifest,
		.memory_bytes = fsck->options->manifest_bytes,
		.read_only = true};
	struct manifest *manifest = NULL;
	int status = manifest_open(&options, &manifest, fsck->why, fsck->why_bytes);

	if (status == 0) {
		status = ledger_rows_read(manifest, &fsck->rows);
		manifest_close(manifest);
		if (status == -EBADMSG || status == -EIO)
			say(fsck, status, "its rows cannot be read", options.path);
	}
	if (status == 0 && fsck->rows.made)
		return 0;
	if (status == 0)
		say(fsck, -ENOENT, "it was never used", options.path);
	report->manifest =
		status == 0 || status == -ENOENT ? FSCK_MANIFEST_ABSENT : FSCK_MANIFEST_DAMAGED;
	snprintf(report->manifest_why, sizeof(report->manifest_why), "%s", fsck->why);
	if (report->manifest == FSCK_MANIFEST_ABSENT)
		return 0;
	if (status != -EBADMSG && status != -EIO)
		return status;
	ledger_rows_free(&fsck->rows);
	if (fsck->options->rebuild)
		rows_save(fsck);
	return 0;
}

/* ------------------------------------------------------------------------------------- anew */

/* Hands over what was gathered, once there is a place for it. */
static int rows_commit(struct writing *writing)
{
	int status;

	while ((status = manifest_commit(writing->manifest, false, NULL)) == -EAGAIN)
		loop_run_once(writing->loop, clock_ns() + NS_PER_S);
	return status;
}

/* The row of every record that is dead and still in a table. */
static int rows_write(struct fsck *fsck, struct writing *writing)
{
	const struct ssd_survey *survey = &fsck->survey;
	uint64_t *count = &fsck->report->rows_written;
	int status = ledger_made_put(writing->manifest);

	for (int64_t i = 0; i < survey->count && status == 0; i++) {
		const struct ssd_found *record = &survey->found[i];
		struct ledger_row row = {record->sequence, record->at % survey->segment_units};
		uint8_t key[LEDGER_KEY_BYTES];

		if (!ledger_rows_have(&fsck->rows, row))
			continue;
		ledger_key_write(key, row);
		status = manifest_put(writing->manifest, key, sizeof(key), "", 0);
		if (status == 0 && ++*count % COMMIT_ROWS == 0)
			status = rows_commit(writing);
	}
	return status == 0 ? rows_commit(writing) : status;
}

/* Makes it and sees what became of it: a close tells of no error. */
static int manifest_make(struct fsck *fsck, const char *path)
{
	struct manifest_options options = {.path = path, .read_only = true};
	struct ledger_rows rows = {0};
	struct writing writing = {0};
	struct manifest *manifest;
	int status = writing_begin(fsck, &writing, path, false);

	if (status < 0)
		return status;
	status = rows_write(fsck, &writing);
	writing_end(&writing);
	if (status < 0)
		return say(fsck, status, "rows cannot be written", path);
	status = manifest_open(&options, &manifest, fsck->why, fsck->why_bytes);
	if (status < 0)
		return status;
	status = ledger_rows_read(manifest, &rows);
	manifest_close(manifest);
	if (status == 0 && (!rows.made || rows.count != fsck->report->rows_written))
		status = -EIO;
	ledger_rows_free(&rows);
	return status < 0 ? say(fsck, status, "what was written is not what is read", path) : 0;
}

/*
 * One step for who looks: the two change their names. For that the new one first takes the name
 * that the old one is to be kept under, so that nothing is ever called new but what is not whole
 * yet. Where a file system cannot do that, there is a moment with neither, and a daemon that starts
 * then makes one for itself.
 */
static int folders_swap(struct fsck *fsck, const char *fresh, const char *path)
{
	char *old = fsck->report->old_path;

	if (access(path, F_OK))
		return rename(fresh, path) ? say(fsck, -errno, "cannot be made", path) : 0;
	for (unsigned i = 0; i == 0 || (i < OLD_MAX && !access(old, F_OK)); i++)
		snprintf(old, sizeof(fsck->report->old_path), "%s.old-%lld.%u", path,
			(long long)time(NULL), i);
	if (rename(fresh, old))
		return say(fsck, -errno, "cannot be made", old);
	if (renameat2(AT_FDCWD, old, AT_FDCWD, path, RENAME_EXCHANGE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return say(fsck, -errno, "cannot be replaced", path);
	if (rename(old, fresh) || rename(path, old) || rename(fresh, path))
		return say(fsck, -errno, "cannot be replaced", path);
	return 0;
}

int fsck_manifest_rebuild(struct fsck *fsck)
{
	struct fsck_report *report = fsck->report;
	const char *path = fsck->manifest;
	bool there = access(path, F_OK) == 0;
	char fresh[PATH_ROOM];
	int status;

	if (report->findings[FSCK_label_unknown] || report->findings[FSCK_row_unknown]) {
		snprintf(fsck->why, fsck->why_bytes,
			"labels or rows are of a version that this program does not know: use the "
			"program that wrote them; nothing was changed");
		return -EMEDIUMTYPE;
	}
	if (!path_make(fresh, fsck, ".new"))
		return say(fsck, -ENAMETOOLONG, "cannot be made anew", path);
	/* Of a rebuild that was cut short. */
	status = folder_remove(fresh);
	if (status < 0)
		return say(fsck, status, "is in the way", fresh);
	status = manifest_make(fsck, fresh);
	if (status == 0 && (status = folder_own(fresh, there ? path : fsck->options->ssds[0].path)))
		say(fsck, status, "cannot be given to the daemon's user", fresh);
	if (status == 0)
		status = folders_swap(fsck, fresh, path);
	if (status < 0) {
		folder_remove(fresh);
		return status;
	}
	status = folder_flush(path);
	if (status < 0)
		return say(fsck, status, "its new name may not last", path);
	report->rebuilt = true;
	report->rows_lost = report->manifest != FSCK_MANIFEST_SOUND;
	return 0;
}
