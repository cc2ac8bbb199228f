/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pools: sealed chunks that lie one after the other, populated step by step within a limit; frames
 * within quota; and the sums that a mover makes over them.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "tests/base/unit.h"
#include "tiering/dram/dram.h"
#include "tiering/dram/headroom.h"
#include "tiering/dram/sum.h"

#define MIB (1ull << 20)

static struct dram *pool(uint64_t bytes, uint64_t chunk_bytes, uint64_t use_max)
{
	struct dram_options options = {
		.name = "test", .bytes = bytes, .chunk_bytes = chunk_bytes, .use_max = use_max};
	struct dram *dram;

	REQUIRE_EQ(dram_create(&options, &dram), 0);
	return dram;
}

static unsigned descriptors(void)
{
	DIR *open_now = opendir("/proc/self/fd");
	unsigned count = 0;

	REQUIRE(open_now);
	while (readdir(open_now))
		count++;
	closedir(open_now);
	return count;
}

static uint64_t chunk_resident(const struct dram *dram, unsigned chunk)
{
	struct stat status;

	REQUIRE_EQ(fstat(dram_chunk_fd(dram, chunk), &status), 0);
	return (uint64_t)status.st_blocks * 512;
}

/* A place in the pool is the same byte in the chunk's file, for every chunk. */
static void chunks_lie_one_after_the_other(void)
{
	struct dram *dram = pool(11 * MIB, 4 * MIB, 0); /* rounded up to 12 */
	struct stat status;

	REQUIRE_EQ(dram_bytes(dram), 12 * MIB);
	REQUIRE_EQ(dram_chunk_bytes(dram), 4 * MIB);
	REQUIRE_EQ(dram_chunk_count(dram), 3);
	for (uint64_t at = 0; at < 12 * MIB; at += MIB / 2)
		*(uint64_t *)dram_at(dram, at) = mix64(at);
	for (unsigned i = 0; i < 3; i++) {
		int fd = dram_chunk_fd(dram, i);
		uint64_t *file = mmap(NULL, 4 * MIB, PROT_READ, MAP_SHARED, fd, 0);

		REQUIRE(file != MAP_FAILED);
		for (uint64_t at = 0; at < 4 * MIB; at += MIB / 2)
			REQUIRE(file[at / 8] == mix64(i * 4 * MIB + at));
		munmap(file, 4 * MIB);
		REQUIRE(fstat(fd, &status) == 0 && status.st_size == 4 << 20);
		REQUIRE_EQ(fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
		REQUIRE(ftruncate(fd, 0) < 0 && errno == EPERM);
		REQUIRE(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	}
	dram_destroy(dram);
	/* The last chunk is as long as the rest. */
	dram = pool(10 * MIB, 4 * MIB, 0);
	REQUIRE(fstat(dram_chunk_fd(dram, 2), &status) == 0 && status.st_size == 2 << 20);
	dram_destroy(dram);
	dram_destroy(NULL);
}

static void wrong_pools_are_refused(void)
{
	static const struct dram_options wrong[] = {
		{.name = "x", .bytes = 0, .chunk_bytes = 4 << 20},
		{.name = "x", .bytes = 8 << 20, .chunk_bytes = 0},
		{.name = "x", .bytes = 8 << 20, .chunk_bytes = 3 << 20},
		{.name = "x", .bytes = 8ull << 30, .chunk_bytes = 2ull << 30},
		{.name = "x", .bytes = 1ull << 40, .chunk_bytes = 2 << 20},
	};
	unsigned before = descriptors();
	struct dram *dram;

	for (unsigned i = 0; i < ARRAY_COUNT(wrong); i++)
		REQUIRE_EQ(dram_create(&wrong[i], &dram), -EINVAL);
	REQUIRE_EQ(descriptors(), before);
}

/* Every step that can fail, fails once: nothing stays open. */
static void nothing_leaks_when_memory_is_short(void)
{
	struct dram_options options = {.name = "test", .bytes = 12 << 20, .chunk_bytes = 4 << 20};
	unsigned before = descriptors(), failed = 0;
	struct dram *dram;
	int status = -ENOMEM;

	for (unsigned long nth = 1; status < 0; nth++, failed += status < 0) {
		memory_fail_after(nth, 0);
		status = dram_create(&options, &dram);
		memory_fail_after(0, 0);
		REQUIRE(status == 0 || status == -ENOMEM);
		if (status < 0)
			REQUIRE_EQ(descriptors(), before);
	}
	dram_destroy(dram);
	REQUIRE_EQ(descriptors(), before);
	REQUIRE(failed > 10);
}

/* Memory is taken by populating alone, step by step, from the pool's start. */
static void populating_goes_in_steps(void)
{
	struct dram *dram = pool(160 * MIB, 128 * MIB, 0);
	int64_t at = 0;

	REQUIRE_EQ(chunk_resident(dram, 0), 0);
	for (uint64_t step = 0; step < 3; step++) {
		at = dram_populate(dram, 0);
		REQUIRE_EQ(at, MIN_OF((step + 1) * 64 * MIB, 160 * MIB));
		REQUIRE_EQ(chunk_resident(dram, 0) + chunk_resident(dram, 1), at);
	}
	REQUIRE_EQ(dram_populate(dram, 0), 160 * MIB); /* all is there: nothing more to do */
	dram_destroy(dram);
}

/* Bytes from @at on that this process maps by pages of 2 MiB. */
static uint64_t mapped_huge(const void *at)
{
	FILE *file = fopen("/proc/self/smaps", "r");
	char line[512];
	uint64_t kib = 0;
	bool here = false;

	REQUIRE(file);
	while (fgets(line, sizeof(line), file)) {
		unsigned long begin, end, found;

		if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
			here = begin == (uintptr_t)at;
		else if (here && sscanf(line, "ShmemPmdMapped: %lu kB", &found) == 1)
			kib = found;
	}
	fclose(file);
	return kib << 10;
}

/* Can shared memory have them here? Old kernels, "deny" and scattered memory say no. */
static bool huge_pages_are_had(void)
{
	struct dram *dram = pool(2 * MIB, 2 * MIB, 0);
	bool had;

	*(uint8_t *)dram_at(dram, 0) = 1;
	had = memory_collapse(dram_at(dram, 0), 2 * MIB) == 0;
	dram_destroy(dram);
	return had;
}

/* Also where the system gives none by itself. */
static void a_pool_lies_on_huge_pages(void)
{
	struct dram *dram;
	uint64_t huge;

	if (!huge_pages_are_had()) {
		printf("skip: no huge pages for shared memory here\n");
		return;
	}
	dram = pool(96 * MIB, 96 * MIB, 0);
	for (int i = 0; i < 2; i++)
		REQUIRE(dram_populate(dram, 0) > 0);
	REQUIRE_EQ(dram_populate(dram, 0), 96 * MIB);
	huge = mapped_huge(dram_at(dram, 0));
	printf("%llu of 96 MiB lie on huge pages\n", (unsigned long long)(huge >> 20));
	/* Free memory may be scattered here and there. */
	REQUIRE(huge >= 48 * MIB);
	dram_destroy(dram);
}

/* Populates within a limit that leaves about 16 MiB. Return: bytes. */
static uint64_t limited_bytes(void)
{
	struct dram *dram = pool(64 * MIB, 64 * MIB, 0);
	uint64_t resident = 0, used = 0;
	int64_t at = 0;

	REQUIRE_EQ(dram_populate(dram, 1), -EAGAIN);
	REQUIRE_EQ(chunk_resident(dram, 0), 0);
	/* What counts as used now: the greatest limit that leaves nothing. */
	for (uint64_t step = 1ull << 45; step >= MIB; step /= 2)
		if (memory_headroom(used + step) == 0)
			used += step;
	/* 24 MiB stay free for everything else. */
	while (at >= 0 && resident < 64 * MIB) {
		at = dram_populate(dram, used + 24 * MIB + 16 * MIB);
		resident = chunk_resident(dram, 0);
		if (at > 0)
			REQUIRE_EQ(resident, at);
	}
	printf("populated %llu MiB within a limit that left about 16\n",
		(unsigned long long)(resident >> 20));
	REQUIRE(at == -EAGAIN || resident == 64 * MIB);
	dram_destroy(dram);
	return resident;
}

/* A limit is kept: what it does not leave room for is not taken, and asked for again later. Where
 * others take or give back memory meanwhile it is tried again. */
static void a_limit_is_kept(void)
{
	unsigned tries = 5;
	uint64_t bytes;

	while ((bytes = limited_bytes()) == 0 || bytes > 24 * MIB)
		REQUIRE(--tries);
}

/* Frames come from what is ready, within the quota, and know their owner. */
static void frames_are_bounded(void)
{
	struct dram *dram = pool(8 * MIB, 4 * MIB, 6 * MIB);
	int64_t frames[8], more;
	struct dram_status status;
	int class = dram_class(dram, MIB - 1000);

	REQUIRE(class >= 0);
	REQUIRE_EQ(dram_frame_bytes(dram, (unsigned)class), MIB);
	REQUIRE_EQ(dram_frame_get(dram, (unsigned)class, 1), -ENOSPC); /* nothing is ready */
	dram_ready(dram, 4 * MIB);
	for (unsigned i = 0; i < 4; i++) {
		frames[i] = dram_frame_get(dram, (unsigned)class, 70 + i);
		REQUIRE_EQ(frames[i], i * MIB);
		REQUIRE_EQ(slab_owner_get(dram_slab(dram), (uint64_t)frames[i]), 70 + i);
	}
	REQUIRE_EQ(dram_frame_get(dram, (unsigned)class, 1), -ENOSPC);
	dram_ready(dram, 8 * MIB);
	frames[4] = dram_frame_get(dram, (unsigned)class, 1);
	frames[5] = dram_frame_get(dram, (unsigned)class, 1);
	REQUIRE(frames[4] == 4 * MIB && frames[5] == 5 * MIB);
	REQUIRE_EQ(dram_frame_get(dram, (unsigned)class, 1), -EDQUOT);
	dram_status_get(dram, &status);
	REQUIRE(status.bytes == 8 * MIB && status.ready_bytes == 8 * MIB);
	REQUIRE(status.used_bytes == 6 * MIB && status.use_max == 6 * MIB);
	REQUIRE_EQ(status.slab_bytes, 6 * MIB);
	/* A quota that is raised, and one that is put below what is used. */
	dram_use_max_set(dram, 7 * MIB);
	more = dram_frame_get(dram, (unsigned)class, 1);
	REQUIRE_EQ(more, 6 * MIB);
	dram_use_max_set(dram, 2 * MIB);
	dram_frame_put(dram, (unsigned)class, (uint64_t)more);
	REQUIRE_EQ(dram_frame_get(dram, (unsigned)class, 1), -EDQUOT);
	dram_use_max_set(dram, 0); /* the whole pool */
	REQUIRE_EQ(dram_frame_get(dram, (unsigned)class, 1), 6 * MIB);
	dram_destroy(dram);
}

/* Sizes: whole pages, at most a chunk, at most so many kinds; then the next larger serves. */
static void classes_are_bounded(void)
{
	struct dram *dram = pool(8 * MIB, 4 * MIB, 0);

	REQUIRE_EQ(dram_class(dram, 0), -EINVAL);
	REQUIRE_EQ(dram_class(dram, 4 * MIB + 1), -EFBIG);
	for (int i = 0; i < DRAM_CLASSES_MAX; i++)
		REQUIRE_EQ(dram_class(dram, 8192ull * (uint64_t)(i + 1)), i);
	REQUIRE_EQ(dram_class(dram, 8192), 0);
	REQUIRE_EQ(dram_class(dram, 12288), 1); /* 16 KiB serves */
	REQUIRE_EQ(dram_class(dram, 100), 0);
	REQUIRE_EQ(dram_class(dram, 64 * 8192 + 1), -ENOSPC);
	dram_destroy(dram);
}

/* A mover's sums are those of the format: ranges apart, the root over identity and length. */
static void sums_are_those_of_the_format(void)
{
	enum { BYTES = 40960 };
	static unsigned char bytes[BYTES];
	struct part_sums part = {.bytes = bytes,
		.length = BYTES,
		.range_count = 5,
		.part = 3,
		.id_low = 0x1122334455667788,
		.id_high = 0x99aabbccddeeff00,
		.incarnation = 7,
		.write = 8};
	uint64_t sums[5], other[5];
	struct checksum_root root, changed;
	struct checksum_root_input by_hand = {
		.block_id = {0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x00, 0xff, 0xee, 0xdd,
			0xcc, 0xbb, 0xaa, 0x99},
		.part = 3,
		.length = BYTES,
		.incarnation = 7,
		.generation = 8,
		.range_sums = other,
		.range_count = 5};

	for (unsigned i = 0; i < BYTES; i++)
		bytes[i] = (unsigned char)mix64(i);
	root = part_sums_make(&part, sums);
	for (unsigned i = 0; i < 5; i++) {
		other[i] = checksum_range(bytes + i * BYTES / 5, BYTES / 5);
		REQUIRE(sums[i] == other[i]);
	}
	changed = checksum_root_make(&by_hand);
	REQUIRE(root.low == changed.low && root.high == changed.high);
	/* Every field of the identity counts. */
	for (unsigned i = 0; i < 6; i++) {
		struct part_sums else_part = part;

		else_part.part += i == 0;
		else_part.id_low += i == 1;
		else_part.id_high += i == 2;
		else_part.incarnation += i == 3;
		else_part.write += i == 4;
		bytes[BYTES - 1] ^= i == 5;
		changed = part_sums_make(&else_part, other);
		REQUIRE(root.low != changed.low || root.high != changed.high);
		REQUIRE_EQ(sums[4] != other[4], i == 5);
		REQUIRE(sums[0] == other[0]);
	}
}

int main(void)
{
	chunks_lie_one_after_the_other();
	wrong_pools_are_refused();
	nothing_leaks_when_memory_is_short();
	populating_goes_in_steps();
	a_pool_lies_on_huge_pages();
	a_limit_is_kept();
	frames_are_bounded();
	classes_are_bounded();
	sums_are_those_of_the_format();
	return 0;
}
