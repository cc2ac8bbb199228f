/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TIERING_DRAM_DRAM_H
#define SKEP_TIERING_DRAM_DRAM_H

/*
 * The DRAM pool of one realm: a row of chunks, each one memory file, sealed against shrinking and
 * growing and mapped one after the other, so that a frame is an offset in the pool for the daemon
 * and for every client. Memory is populated here, before it is offered, so that the daemon's
 * memory cgroup pays for it and no client faults. No hole is ever punched (facts: nothing comes
 * back and reads land in orphan pages).
 *
 * Frames are slab objects (base/slab.h): multiples of 4 KiB, one class a size. Creating, populating
 * and destroying may block; the rest is the keeper's alone and never does.
 */

#include <stdint.h>

#include "base/slab.h"

enum { DRAM_FRAME_GRANULE = 4096, DRAM_UNIT_BYTES = 2 << 20, DRAM_CLASSES_MAX = 64 };

struct dram;

struct dram_options {
	const char *name;     /* of the realm: shown in /proc/PID/maps as skep-NAME-chunk */
	uint64_t bytes;	      /* of the pool; rounded up to units of 2 MiB */
	uint64_t use_max;     /* most bytes in frames at a time; 0 = bytes */
	uint64_t chunk_bytes; /* a multiple of 2 MiB, at most 1 GiB */
	/* Memory files of a pool of the same sizes that another process has built, one a chunk,
	 * populated up to @ready_bytes; NULL: to be made. They become the pool's on success. */
	const int *chunk_fds;
	uint64_t ready_bytes;
};

/* Reserves addresses and makes the memory files; populates nothing.
 * Return: 0, -ENOMEM, -EMFILE, -EINVAL (also where a given file is shorter than its chunk). */
int dram_create(const struct dram_options *options, struct dram **out);

/* The mappings go; memory that a client still maps stays with it. NULL is nothing. */
void dram_destroy(struct dram *dram);

/*
 * Populates the next stretch of the pool (64 MiB at most), if the memory limit leaves room for it
 * (headroom.h). Context: one thread at a time; blocks for milliseconds.
 * Return: bytes populated from the pool's start; -EAGAIN: no room now, ask later; -ENOMEM.
 */
int64_t dram_populate(struct dram *dram, uint64_t memory_max);

/* Frames may now come from the first @bytes. Keeper. */
void dram_ready(struct dram *dram, uint64_t bytes);

/*
 * The class of a frame size; of a size beyond DRAM_CLASSES_MAX others that of the next larger.
 * Keeper. Return: class, -ENOSPC (too many sizes, none larger), -EFBIG (no chunk holds it),
 * -EINVAL.
 */
int dram_class(struct dram *dram, uint64_t bytes);

/*
 * Takes a frame. Keeper. @owner comes back from dram_owner() and when a slab is emptied.
 * Return: its offset in the pool; -EDQUOT (use_max is reached), -ENOSPC (no frame of that class).
 */
int64_t dram_frame_get(struct dram *dram, unsigned class, uint32_t owner);
void dram_frame_put(struct dram *dram, unsigned class, uint64_t offset);

uint64_t dram_frame_bytes(const struct dram *dram, unsigned class);
void *dram_at(const struct dram *dram, uint64_t offset);

/* The allocator itself, for emptying slabs (slab_window() and its kin). Keeper. */
struct slab *dram_slab(struct dram *dram);

/* Frames of a pool that was taken over are in use again; see slab_restore(). Keeper. */
int dram_frames_restore(struct dram *dram, const struct slab_image *image);

struct dram_status {
	uint64_t bytes, ready_bytes, use_max, used_bytes, slab_bytes;
};
void dram_status_get(const struct dram *dram, struct dram_status *status);
void dram_use_max_set(struct dram *dram, uint64_t use_max);

uint64_t dram_bytes(const struct dram *dram);
uint64_t dram_chunk_bytes(const struct dram *dram);
unsigned dram_chunk_count(const struct dram *dram);
int dram_chunk_fd(const struct dram *dram, unsigned chunk);

#endif
