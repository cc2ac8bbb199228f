/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_TIERING_SSD_DISKS_H
#define SKEP_TESTS_TIERING_SSD_DISKS_H

/* Devices in files of a new folder, and requests that count how often they end. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include "base/memory.h"
#include "tests/base/unit.h"
#include "tiering/ssd/disk_priv.h"

#define MIB (1ull << 20)

enum { DEVICE_BYTES = 24 << 20 };

static enum loop_backend backend;
static char folder[] = "disk_test.XXXXXX";
static char why[256];

static inline const char *at(const char *name)
{
	static char paths[8][64];
	static unsigned next;
	char *path = paths[next++ % ARRAY_COUNT(paths)];

	snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

static inline void folder_remove(void)
{
	DIR *open_now = opendir(folder);
	struct dirent *entry;

	while (open_now && (entry = readdir(open_now)))
		unlinkat(dirfd(open_now), entry->d_name, 0);
	if (open_now)
		closedir(open_now);
	rmdir(folder);
}

static inline unsigned descriptors(void)
{
	DIR *open_now = opendir("/proc/self/fd");
	unsigned count = 0;

	REQUIRE(open_now);
	while (readdir(open_now))
		count++;
	closedir(open_now);
	return count;
}

static inline void *aligned(uint64_t bytes)
{
	void *memory = aligned_alloc(SSD_UNIT_BYTES, bytes);

	REQUIRE(memory);
	memset(memory, 0, bytes);
	return memory;
}

static inline struct ssd_io *disks_make(unsigned count, unsigned depth, struct mailbox *mailbox)
{
	struct disk_path paths[] = {
		{.path = at("a"), .bytes = DEVICE_BYTES},
		{.path = at("b"), .bytes = DEVICE_BYTES},
	};
	struct disks_options options = {
		.paths = paths,
		.count = count,
		.depth = depth,
		.backend = backend,
		.mailbox = mailbox,
	};
	struct ssd_io *io;
	int rc = disks_create(&options, &io, why, sizeof(why));

	if (rc)
		printf("why: %s\n", why);
	REQUIRE_EQ(rc, 0);
	return io;
}

static inline int one_create(const char *path, uint64_t bytes, struct ssd_io **io)
{
	struct disk_path paths[] = {{.path = path, .bytes = bytes}};
	struct disks_options options = {.paths = paths, .count = 1, .backend = backend};
	int rc;

	why[0] = '\0';
	*io = NULL;
	rc = disks_create(&options, io, why, sizeof(why));
	REQUIRE(!rc == !!*io && !rc == !why[0]);
	REQUIRE(!rc || strstr(why, path));
	return rc;
}

/* A request that counts its ends. */
struct job {
	struct ssd_request request;
	int done, status;
	unsigned *left;
};

static inline void job_done(struct ssd_request *request, int status)
{
	struct job *job = list_item(request, struct job, request);

	job->done++;
	job->status = status;
	if (job->left)
		--*job->left;
}

static inline void job_set(
	struct job *job, enum ssd_op op, uint64_t offset, void *memory, uint64_t bytes)
{
	*job = (struct job){
		.request =
			{
				.op = (uint8_t)op,
				.piece_count = op != SSD_OP_FLUSH,
				.offset = offset,
				.bytes = bytes,
				.pieces = {{.iov_base = memory, .iov_len = bytes}},
				.done = job_done,
			},
	};
}

static inline int job_run(struct ssd_io *io, struct job *job)
{
	int rc = io->ops->submit(io, &job->request);

	if (rc)
		return rc;
	while (!job->done)
		disks_poll(io, CLOCK_NEVER);
	REQUIRE_EQ(job->done, 1);
	return job->status;
}

/* Runs @tests with plain threads, then with io_uring where that can be had; in a new folder. */
static inline void over_both_forms(void (*tests)(uint64_t *random), uint64_t *random)
{
	struct ssd_io *io;

	REQUIRE(mkdtemp(folder));
	atexit(folder_remove);
	backend = LOOP_BACKEND_EPOLL;
	tests(random);
	backend = LOOP_BACKEND_URING;
	if (one_create(at("try"), DEVICE_BYTES, &io)) {
		printf("io_uring is not tried: %s\n", why);
		return;
	}
	disks_destroy(io);
	tests(random);
}

#endif
