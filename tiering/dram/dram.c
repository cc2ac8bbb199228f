/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/dram/dram.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "tiering/dram/headroom.h"

/* Population goes in steps, so that the limit is looked at again and stopping is quick. */
#define STEP_BYTES (64ull << 20)
/* What stays free for everything else when the pool grows near a limit. */
#define SPARE_BYTES (24ull << 20)

struct dram {
	struct slab *slab;
	uint8_t *base; /* bytes of addresses, chunk after chunk */
	uint64_t bytes, chunk_bytes;
	uint64_t populated; /* populating thread */
	uint64_t ready;	    /* keeper */
	uint64_t use_max, used;
	unsigned chunk_count;
	int fds[];
};

/* Addresses with nothing there yet, on a boundary of huge pages. */
static int range_reserve(struct dram *dram)
{
	uint8_t *base = mmap(NULL, dram->bytes + DRAM_UNIT_BYTES, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t before;

	if (base == MAP_FAILED)
		return -errno;
	before = align_up((uintptr_t)base, DRAM_UNIT_BYTES) - (uintptr_t)base;
	if (before)
		munmap(base, before);
	dram->base = base + before;
	munmap(dram->base + dram->bytes, DRAM_UNIT_BYTES - before);
	return 0;
}

static int chunk_map(int fd, void *at, uint64_t bytes)
{
	if (mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		return -errno;
	/* Where the system gives huge pages to shared memory on advice; elsewhere it says no. */
	madvise(at, bytes, MADV_HUGEPAGE);
	return memory_seclude(at, bytes);
}

/* A memory file that another process has made and sealed. */
static int chunk_take(int fd, void *at, uint64_t bytes)
{
	struct stat file;

	if (memory_should_fail())
		return -ENOMEM;
	if (fstat(fd, &file) < 0)
		return -errno;
	if (file.st_size < 0 || (uint64_t)file.st_size != bytes)
		return -EINVAL;
	return chunk_map(fd, at, bytes);
}

/* One sealed memory file, mapped at its place in the pool. Return: its descriptor or negative. */
static int chunk_create(const char *name, void *at, uint64_t bytes)
{
	char label[64];
	int fd, status;

	snprintf(label, sizeof(label), "skep-%.40s-chunk", name);
	if (memory_should_fail())
		return -ENOMEM;
	fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)bytes) < 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		status = -errno;
	else
		status = chunk_map(fd, at, bytes);
	if (status < 0) {
		close(fd);
		return status;
	}
	return fd;
}

int dram_create(const struct dram_options *options, struct dram **out)
{
	uint64_t bytes = align_up(options->bytes, DRAM_UNIT_BYTES);
	uint64_t chunk = MIN_OF(options->chunk_bytes, bytes);
	struct slab_options slab = {.space_bytes = bytes,
		.unit_bytes = DRAM_UNIT_BYTES,
		.granule_bytes = DRAM_FRAME_GRANULE,
		.barrier_bytes = chunk,
		.classes_max = DRAM_CLASSES_MAX};
	unsigned count;
	struct dram *dram;
	int status;

	if (!bytes || !chunk || chunk % DRAM_UNIT_BYTES || chunk > 1ull << 30 ||
		divide_up(bytes, chunk) > 16384)
		return -EINVAL;
	count = (unsigned)divide_up(bytes, chunk);
	dram = memory_zalloc(sizeof(*dram) + count * sizeof(dram->fds[0]));
	if (!dram)
		return -ENOMEM;
	dram->bytes = bytes;
	dram->chunk_bytes = chunk;
	dram->use_max = options->use_max ? options->use_max : bytes;
	status = slab_create(&slab, &dram->slab);
	if (status < 0)
		goto free_dram;
	status = range_reserve(dram);
	if (status < 0)
		goto free_slab;
	for (; dram->chunk_count < count; dram->chunk_count++) {
		uint64_t at = dram->chunk_count * chunk;

		if (options->chunk_fds)
			status = chunk_take(options->chunk_fds[dram->chunk_count], dram->base + at,
				MIN_OF(chunk, bytes - at));
		else
			status = chunk_create(
				options->name, dram->base + at, MIN_OF(chunk, bytes - at));
		if (status < 0)
			goto close_chunks;
		dram->fds[dram->chunk_count] =
			options->chunk_fds ? options->chunk_fds[dram->chunk_count] : status;
	}
	dram->populated = options->chunk_fds ? MIN_OF(options->ready_bytes, bytes) : 0;
	dram_ready(dram, dram->populated);
	*out = dram;
	return 0;

close_chunks:
	while (dram->chunk_count && !options->chunk_fds)
		close(dram->fds[--dram->chunk_count]);
	munmap(dram->base, bytes);
free_slab:
	slab_destroy(dram->slab);
free_dram:
	memory_free(dram);
	return status;
}

void dram_destroy(struct dram *dram)
{
	if (!dram)
		return;
	while (dram->chunk_count)
		close(dram->fds[--dram->chunk_count]);
	munmap(dram->base, dram->bytes);
	slab_destroy(dram->slab);
	memory_free(dram);
}

/*
 * Huge pages, which shared memory has by default on few systems: they are had several times faster
 * than small ones, save page tables and TLB misses in all processes, and let a device take a frame
 * in one segment. What cannot be had so is populated with small pages after this.
 */
static void huge_pages_make(uint8_t *at, uint64_t bytes)
{
	for (uint64_t unit = 0; unit < bytes; unit += DRAM_UNIT_BYTES)
		if (madvise(at + unit, 1, MADV_POPULATE_WRITE) < 0)
			return;
	memory_collapse(at, bytes);
}

int64_t dram_populate(struct dram *dram, uint64_t memory_max)
{
	uint64_t step = MIN_OF(STEP_BYTES, dram->bytes - dram->populated);
	uint64_t room;

	if (!step)
		return (int64_t)dram->populated;
	room = memory_headroom(memory_max);
	if (room < step + SPARE_BYTES)
		step = room > SPARE_BYTES ? (room - SPARE_BYTES) & ~(uint64_t)(DRAM_UNIT_BYTES - 1)
					  : 0;
	if (!step)
		return -EAGAIN;
	huge_pages_make(dram->base + dram->populated, step);
	if (madvise(dram->base + dram->populated, step, MADV_POPULATE_WRITE) < 0) {
		log_error("dram", "cannot populate %llu bytes of the pool: %m",
			(unsigned long long)step);
		return errno == ENOMEM || errno == EFAULT ? -EAGAIN : -errno;
	}
	dram->populated += step;
	return (int64_t)dram->populated;
}

void dram_ready(struct dram *dram, uint64_t bytes)
{
	SKEP_CHECK(bytes <= dram->bytes && bytes >= dram->ready);
	dram->ready = bytes;
	slab_grow(dram->slab, bytes);
}

int dram_class(struct dram *dram, uint64_t bytes)
{
	unsigned class;
	int status = slab_class(dram->slab, bytes, &class), best = -ENOSPC;

	if (status == 0)
		return (int)class;
	if (status != -ENOSPC)
		return status;
	/* All classes are taken: the next larger one serves, always the same for one size. */
	for (unsigned i = 0; i < DRAM_CLASSES_MAX; i++)
		if (slab_object_bytes(dram->slab, i) >= bytes &&
			(best < 0 || slab_object_bytes(dram->slab, i) <
					     slab_object_bytes(dram->slab, (unsigned)best)))
			best = (int)i;
	return best;
}

int64_t dram_frame_get(struct dram *dram, unsigned class, uint32_t owner)
{
	uint64_t bytes = slab_object_bytes(dram->slab, class);
	int64_t offset;

	if (dram->used + bytes > dram->use_max)
		return -EDQUOT;
	offset = slab_alloc(dram->slab, class);
	if (offset < 0)
		return offset;
	SKEP_CHECK((uint64_t)offset + bytes <= dram->ready);
	dram->used += bytes;
	slab_owner_set(dram->slab, (uint64_t)offset, owner);
	return offset;
}

void dram_frame_put(struct dram *dram, unsigned class, uint64_t offset)
{
	uint64_t bytes = slab_object_bytes(dram->slab, class);

	SKEP_CHECK(dram->used >= bytes);
	slab_free(dram->slab, class, offset);
	dram->used -= bytes;
}

uint64_t dram_frame_bytes(const struct dram *dram, unsigned class)
{
	return slab_object_bytes(dram->slab, class);
}

void *dram_at(const struct dram *dram, uint64_t offset)
{
	SKEP_ASSERT(offset < dram->bytes);
	return dram->base + offset;
}

struct slab *dram_slab(struct dram *dram)
{
	return dram->slab;
}

void dram_status_get(const struct dram *dram, struct dram_status *status)
{
	struct slab_stats stats;

	slab_stats_get(dram->slab, &stats);
	status->bytes = dram->bytes;
	status->ready_bytes = dram->ready;
	status->use_max = dram->use_max;
	status->used_bytes = dram->used;
	status->slab_bytes = stats.slab_bytes;
}

void dram_use_max_set(struct dram *dram, uint64_t use_max)
{
	dram->use_max = use_max ? use_max : dram->bytes;
}

int dram_frames_restore(struct dram *dram, const struct slab_image *image)
{
	int status = slab_restore(dram->slab, image);

	if (status == 0)
		dram->used += image->count * slab_object_bytes(dram->slab, image->class);
	return status;
}

uint64_t dram_bytes(const struct dram *dram)
{
	return dram->bytes;
}

uint64_t dram_chunk_bytes(const struct dram *dram)
{
	return dram->chunk_bytes;
}

unsigned dram_chunk_count(const struct dram *dram)
{
	return dram->chunk_count;
}

int dram_chunk_fd(const struct dram *dram, unsigned chunk)
{
	SKEP_CHECK(chunk < dram->chunk_count);
	return dram->fds[chunk];
}
