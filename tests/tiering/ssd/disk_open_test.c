/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening devices: one owner each, what is no disk is refused, files are reserved, and new ones are
 * written through without harm to what was written meanwhile.
 */
#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "tests/tiering/ssd/disks.h"

/* --- opening ---------------------------------------------------------------------------------- */

static void a_device_has_one_owner(void)
{
	struct ssd_io *io = disks_make(1, 0, NULL), *other;
	struct disk_path twice[] = {{.path = at("c"), .bytes = MIB}, {.path = at("c")}};
	struct disks_options options = {.paths = twice, .count = 2, .backend = backend};

	REQUIRE_EQ(one_create(at("a"), 0, &other), -EBUSY);
	disks_destroy(io);
	for (int i = 0; i < 20; i++) { /* free as soon as destroy has returned */
		REQUIRE_EQ(one_create(at("a"), 0, &io), 0);
		disks_destroy(io);
	}
	REQUIRE_EQ(disks_create(&options, &other, why, sizeof(why)), -EBUSY);
	unlink(at("c"));
}

static void what_is_no_disk_is_refused(void)
{
	struct statfs system;
	struct ssd_io *io;
	char path[64];

	REQUIRE_EQ(one_create(folder, MIB, &io), -EINVAL);
	REQUIRE_EQ(one_create("/dev/null", MIB, &io), -EINVAL);
	REQUIRE_EQ(one_create(at("no/where"), MIB, &io), -ENOENT);
	REQUIRE_EQ(one_create(at("small"), 4096, &io), -EINVAL);
	REQUIRE(strstr(why, "too small"));
	REQUIRE_EQ(one_create(at("small"), 0, &io), -EINVAL);
	REQUIRE(access(at("small"), F_OK) < 0);
	REQUIRE_EQ(one_create(at("huge"), UINT64_MAX, &io), -EINVAL);
	REQUIRE(one_create(at("huge"), 1ull << 42, &io) < 0); /* -ENOSPC, or -EFBIG */
	printf("%s\n", why);
	REQUIRE(access(at("huge"), F_OK) < 0);
	if (statfs("/dev/shm", &system) || system.f_type != 0x01021994) {
		printf("/dev/shm is no tmpfs: its refusal is not tried\n");
		return;
	}
	snprintf(path, sizeof(path), "/dev/shm/%s", folder);
	REQUIRE_EQ(one_create(path, MIB, &io), -EINVAL);
	REQUIRE(strstr(why, "tmpfs"));
	REQUIRE(access(path, F_OK) < 0);
}

static void options_are_looked_at(void)
{
	struct disk_path path = {.path = at("a")};
	struct disks_options options = {.paths = &path, .backend = backend};
	struct ssd_io *io;

	REQUIRE_EQ(disks_create(&options, &io, why, sizeof(why)), -EINVAL);
	options.count = SSD_DEVICES_MAX + 1;
	REQUIRE_EQ(disks_create(&options, &io, why, sizeof(why)), -EINVAL);
	options.count = 1;
	options.depth = DISK_DEPTH_MAX + 1;
	REQUIRE_EQ(disks_create(&options, &io, NULL, 0), -EINVAL);
	options.depth = DISK_DEPTH_MAX;
	REQUIRE_EQ(disks_create(&options, &io, NULL, 0), 0);
	disks_destroy(io);
	disks_destroy(NULL);
}

/* Who only looks makes and reserves nothing, and locks all the same. */
static void what_is_looked_at_stays_as_it_is(void)
{
	struct disk_path path = {.path = at("e"), .bytes = 8 * MIB};
	struct disks_options options = {
		.paths = &path, .count = 1, .backend = backend, .read_only = true};
	static _Alignas(SSD_UNIT_BYTES) uint8_t unit[SSD_UNIT_BYTES];
	struct ssd_io *io, *other;
	struct stat file;
	int fd;

	REQUIRE_EQ(disks_create(&options, &io, why, sizeof(why)), -ENOENT);
	REQUIRE(access(at("e"), F_OK) < 0);
	fd = open(at("e"), O_RDWR | O_CREAT | O_CLOEXEC, 0400);
	REQUIRE(fd >= 0 && ftruncate(fd, 2 * MIB + 100) == 0);
	REQUIRE_EQ(pwrite(fd, "here", 4, SSD_UNIT_BYTES), 4);
	REQUIRE_EQ(fsync(fd), 0);
	REQUIRE_EQ(disks_create(&options, &io, why, sizeof(why)), 0);
	REQUIRE_EQ(io->device_bytes[0], 2 * MIB);
	REQUIRE_EQ(io->ops->read_now(io, 0, SSD_UNIT_BYTES, unit, sizeof(unit)), 0);
	REQUIRE(!memcmp(unit, "here", 4));
	REQUIRE(io->ops->write_now(io, 0, 0, unit, sizeof(unit)) < 0);
	REQUIRE_EQ(disks_create(&options, &other, why, sizeof(why)), -EBUSY);
	REQUIRE(strstr(why, "stop that daemon"));
	REQUIRE(fstat(fd, &file) == 0 && file.st_size == 2 * MIB + 100 &&
		file.st_blocks * 512 < 2 << 20);
	disks_destroy(io);
	close(fd);
	unlink(at("e"));
}

static void files_are_kept_or_grown(void)
{
	struct stat file;
	struct ssd_io *io;

	REQUIRE_EQ(one_create(at("d"), 4 * MIB + 100, &io), 0);
	REQUIRE_EQ(io->device_bytes[0], 4 * MIB);
	REQUIRE(stat(at("d"), &file) == 0 && file.st_size == 4 << 20);
	REQUIRE_EQ(file.st_mode & 0777, 0600);
	REQUIRE_EQ(file.st_blocks * 512 >= 4 << 20, 1); /* reserved */
	disks_destroy(io);
	REQUIRE_EQ(one_create(at("d"), 2 * MIB, &io), 0); /* bigger than asked */
	REQUIRE_EQ(io->device_bytes[0], 2 * MIB);
	REQUIRE(stat(at("d"), &file) == 0 && file.st_size == 4 << 20);
	disks_destroy(io);
	REQUIRE_EQ(one_create(at("d"), 0, &io), 0);
	REQUIRE_EQ(io->device_bytes[0], 4 * MIB);
	REQUIRE_EQ(disks_write_through(io, 0, UINT64_MAX), 4 * MIB);
	disks_destroy(io);
	REQUIRE_EQ(one_create(at("d"), 6 * MIB, &io), 0);
	REQUIRE_EQ(disks_written_through(io, 0), 4 * MIB);
	disks_destroy(io);
	unlink(at("d"));
}

static void failed_creates_leave_nothing(void)
{
	unsigned before = descriptors();
	struct disk_path paths[] = {
		{.path = at("e"), .bytes = MIB},
		{.path = at("f"), .bytes = MIB},
	};
	struct disks_options options = {.paths = paths, .count = 2, .backend = backend};
	struct ssd_io *io = NULL;
	unsigned long nth = 1;
	int rc;

	for (;; nth++) {
		why[0] = '\0';
		memory_fail_after(nth, 0);
		rc = disks_create(&options, &io, why, sizeof(why));
		memory_fail_after(0, 0);
		if (!rc)
			break;
		REQUIRE(rc == -ENOMEM || rc == -EAGAIN || rc == -EMFILE || rc == -ENOSPC);
		REQUIRE(!io && why[0]);
		REQUIRE_EQ(descriptors(), before);
	}
	REQUIRE(nth > 8);
	disks_destroy(io);
	REQUIRE_EQ(descriptors(), before);
	unlink(at("e"));
	unlink(at("f"));
}

/* What is chosen by itself falls back on threads, and says why. */
static void threads_serve_where_a_ring_cannot_be_had(void)
{
	struct disk_path path = {.path = at("a"), .bytes = DEVICE_BYTES};
	struct disks_options options = {.paths = &path, .count = 1};
	struct disks_status status;
	char *memory = aligned(4096);
	struct ssd_io *io;
	struct job job;

	REQUIRE_EQ(one_create(path.path, path.bytes, &io), 0);
	REQUIRE_EQ(disks_write_through(io, 0, UINT64_MAX), DEVICE_BYTES);
	disks_destroy(io);
	/* disks, post, reserving, then what begins a ring; "a" is written through. */
	for (unsigned long nth = 4; nth < 10; nth++) {
		memory_fail_after(nth, 0);
		REQUIRE_EQ(disks_create(&options, &io, why, sizeof(why)), 0);
		memory_fail_after(0, 0);
		disks_status_get(io, &status);
		REQUIRE_EQ(!status.uring, status.uring_error != 0);
		if (nth == 4)
			REQUIRE(!status.uring);
		job_set(&job, SSD_OP_READ, 0, memory, 4096);
		REQUIRE_EQ(job_run(io, &job), 0);
		disks_destroy(io);
		if (status.uring)
			break;
	}
	free(memory);
}

/* --- writing through -------------------------------------------------------------------------- */

static void *write_through(void *argument)
{
	struct ssd_io *io = argument;
	int64_t reached;

	do {
		reached = disks_write_through(io, 0, 3 * MIB + 4096);
		REQUIRE(reached > 0);
	} while (reached < (int64_t)io->device_bytes[0]);
	return NULL;
}

/* Zeros never land on what this or an earlier life wrote. */
static void a_new_file_is_written_through(uint64_t *random)
{
	enum { UNITS = (int)(DEVICE_BYTES / SSD_UNIT_BYTES), WRITES = 300 };
	static uint64_t written[UNITS];
	char *memory = aligned(DEVICE_BYTES);
	struct ssd_io *io;
	pthread_t thread;
	struct job job;

	memset(written, 0, sizeof(written));
	REQUIRE_EQ(one_create(at("g"), DEVICE_BYTES, &io), 0);
	REQUIRE_EQ(disks_written_through(io, 0), 0);
	for (uint64_t i = 1; i <= 2 * WRITES; i++) {
		uint32_t unit = unit_random(random, UNITS);

		if (i == WRITES / 4) {
			disks_destroy(io);
			REQUIRE_EQ(one_create(at("g"), DEVICE_BYTES, &io), 0);
			REQUIRE(disks_written_through(io, 0) < DEVICE_BYTES);
			REQUIRE_EQ(pthread_create(&thread, NULL, write_through, io), 0);
		}
		/* Close ahead of where it writes now and then. */
		if (i > WRITES / 4 && unit_random(random, 2))
			unit = (uint32_t)MIN_OF(
				UNITS - 1u, disks_written_through(io, 0) / SSD_UNIT_BYTES +
						    unit_random(random, 600));
		written[unit] = *(uint64_t *)memory = i;
		job_set(&job, SSD_OP_WRITE, (uint64_t)unit * SSD_UNIT_BYTES, memory,
			SSD_UNIT_BYTES);
		REQUIRE_EQ(job_run(io, &job), 0);
	}
	pthread_join(thread, NULL);
	REQUIRE_EQ(disks_written_through(io, 0), DEVICE_BYTES);
	REQUIRE_EQ(io->ops->read_now(io, 0, 0, memory, DEVICE_BYTES), 0);
	for (uint64_t i = 0; i < UNITS; i++)
		REQUIRE_EQ(*(uint64_t *)(memory + i * SSD_UNIT_BYTES), written[i]);
	disks_destroy(io);
	unlink(at("g"));
	free(memory);
}

/* ---------------------------------------------------------------------------------------------- */

static void over_one_form(uint64_t *random)
{
	a_device_has_one_owner();
	what_is_no_disk_is_refused();
	options_are_looked_at();
	what_is_looked_at_stays_as_it_is();
	files_are_kept_or_grown();
	failed_creates_leave_nothing();
	a_new_file_is_written_through(random);
}

int main(int argc, char **argv)
{
	uint64_t random = unit_seed(argc, argv);

	over_both_forms(over_one_form, &random);
	if (backend == LOOP_BACKEND_URING)
		threads_serve_where_a_ring_cannot_be_had();
	return 0;
}
