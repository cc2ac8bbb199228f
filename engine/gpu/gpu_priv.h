/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_ENGINE_GPU_PRIV_H
#define SKEP_ENGINE_GPU_PRIV_H

#include <skep/skep_gpu.h>
#include <stdbool.h>

#include "engine/gpu/registrar_priv.h"
#include "kernels/gather.h"
#include "kernels/gpu.h"

#define RING_SLOTS_MAX 8
#define RING_PARTS_MAX 64

/* A device for one session. */
struct skep_gpu {
	struct skep *session;
	struct gpu *device;
	enum skep_gpu_kind kind;
	uint32_t ring_slots, ring_parts; /* no slots: parts are moved where they lie */
	pid_t owner;			 /* in a child of fork() nothing of it is touched */
	struct registrar *registrar;	 /* or NULL: nothing is registered */
	struct moved {
		uint64_t parts, bytes;
	} direct, staged; /* how parts passed between pool and ring */
};

/* Is this the process that opened it? */
bool gpu_ours(const struct skep_gpu *gpu);

/*
 * The ring: parts on their way between pool and tensors. Kernels run on one stream, copies on the
 * other. A slot is taken again when its last kernel (of a load) or its last copy (of a save) is
 * done; what used it on the same stream is before it anyway.
 */
struct ring {
	uint64_t at;
	unsigned char *staged; /* page-locked, as long as a slot; for copies alone (stage.c) */
	uint32_t turn;	       /* slots used so far */
	struct gpu_stream *kernels, *copies;
	struct gpu_event *kernel_done[RING_SLOTS_MAX], *copy_done[RING_SLOTS_MAX];
};

/* Where in a job's memory, here and on the device, its arrays begin. */
struct places {
	size_t blocks, pages, sums, failed, bytes;
};

struct skep_gpu_plan {
	struct skep_gpu *gpu;
	struct skep_space *space;
	struct gather_plan gather;
	uint64_t bases;				  /* on the device */
	uint32_t blocks_max, pages_max, jobs_max; /* pages: of each table */
	uint32_t tables;
	uint32_t table_ranges[SKEP_GPU_TABLES_MAX];
	struct places places;
	struct ring ring;
	struct skep_gpu_job *jobs;
	void *scratch_part; /* of a part's bytes, for the second look at a bad one */
};

/* A save or a load. Its arrays are as long as blocks_max. */
struct skep_gpu_job {
	struct skep_gpu_plan *plan;
	bool busy, load;
	uint32_t part;
	uint32_t count;	 /* blocks it is about */
	uint32_t moved;	 /* of them, those whose bytes are moved */
	uint32_t *index; /* of each moved one: which of the blocks it is */
	/* Of each table: the blocks before this one have no pages there. */
	uint32_t from[SKEP_GPU_TABLES_MAX];
	int32_t *statuses;
	struct skep_frame *frames; /* save: those that are moved */
	uint8_t **bytes;	   /* of each moved part, in the pool */
	uint32_t *chunks;	   /* of each, with a ring: the registered chunk, or 0 */
	struct skep_ref *refs;	   /* load */
	struct skep_pin pin;
	unsigned char *memory; /* page-locked: what goes to the device and comes back */
	uint64_t at;	       /* the same on the device */
	uint64_t scratch;
	struct gpu_event *began, *done;
	/* What stage_work() is called with, for each slot's worth of parts. */
	struct stage {
		struct skep_gpu_job *job;
		uint32_t first, count; /* of the moved parts */
	} * stages;
};

/* One of the plan's jobs that is not under way, or NULL. */
struct skep_gpu_job *job_take(struct skep_gpu_plan *plan);

/* The end of a begin: with blocks to move (@got) the job is the caller's, else free again. Return:
 * @got. */
int job_begun(struct skep_gpu_job *job, int got, struct skep_gpu_job **out);

/* The arrays of a job on this side. */
struct gather_block *job_blocks(struct skep_gpu_job *job);
uint32_t *job_pages(struct skep_gpu_job *job);
uint64_t *job_sums(struct skep_gpu_job *job);
uint8_t *job_failed(struct skep_gpu_job *job);

/* Takes over the engine's pages. -EINVAL where the first @blocks blocks reach past them, or lack
 * some that they must have. */
int job_pages_take(struct skep_gpu_job *job, const struct skep_gpu_pages *pages, uint32_t blocks);

/* The next block that is moved: block @index of the run, whose part lies at @bytes. */
void job_add(
	struct skep_gpu_job *job, const struct skep_gpu_pages *pages, uint32_t index, void *bytes);

/*
 * Submits the movement of all that was added, after what @stream holds (CUDA), and for a load makes
 * @stream wait for it. On failure nothing of it is under way any more.
 */
int job_submit(struct skep_gpu_job *job, uint64_t stream);

int jobs_create(struct skep_gpu_plan *plan);
void jobs_destroy(struct skep_gpu_plan *plan);
int ring_create(struct skep_gpu_plan *plan);
void ring_destroy(struct skep_gpu_plan *plan);

/* Where part @part of slot @slot of the ring lies on the device. */
uint64_t ring_part(const struct skep_gpu_plan *plan, uint32_t slot, uint32_t part);

/* Decides for each moved part how it passes between pool and ring; pins and reservations stand. */
void ways_find(struct skep_gpu_job *job);

/* Does a table lack pages, so that launches pass over some of its ranges? */
static inline bool job_partial(const struct skep_gpu_job *job)
{
	for (uint32_t table = 0; table < job->plan->tables; table++)
		if (job->from[table])
			return true;
	return false;
}

/* Submits the copies of a slot's parts between pool and ring, the end of which is the slot's event
 * copy_done. @first is a multiple of ring_parts. */
int slot_copy(struct skep_gpu_job *job, uint32_t slot, uint32_t first, uint32_t count);

/* What the two kinds of jobs do at their end, when the device is done with @device_status. */
int save_end(struct skep_gpu_job *job, int device_status, uint64_t deadline_ns);
int load_end(struct skep_gpu_job *job, int device_status);

/* Reads a struct of the caller's, of whatever length it is. As in libskep. */
int options_take(void *to, const void *from, size_t bytes);

#endif
