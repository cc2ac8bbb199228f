/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_SKEP_GPU_H
#define SKEP_SKEP_GPU_H

/**
 * DOC: libskep-gpu, between an engine's KV tensors and the store
 *
 * For the process that holds the tensors: a plan says once where they lie, then blocks are saved
 * from their pages and loaded into them, many in one call. Tensors lie in the memory of a GPU, or
 * in this process's own (SKEP_GPU_HOST), through the same calls. Bytes are moved, never converted.
 *
 * A save or a load is a job: begun, asked about, ended. What the job moves belongs to it until it
 * has ended: pages being saved must not be overwritten, pages being loaded must not be read or
 * given away. To take pages back (a request is cancelled or preempted) end the job by
 * skep_gpu_abort().
 *
 * Threads: as the session that it was opened with, one at a time. In a child of fork() every call
 * answers -EOWNERDEAD, or does nothing.
 *
 * Results, deadlines and struct_bytes: as in skep.h.
 */

#include <skep/skep.h>

#ifdef __cplusplus
extern "C" {
#endif

/** SKEP_GPU_TABLES_MAX - the most tables of pages that tensors can have. */
#define SKEP_GPU_TABLES_MAX 64

/** SKEP_GPU_NO_PAGE - in pages to load into: these tokens are not wanted in this table. */
#define SKEP_GPU_NO_PAGE UINT32_MAX

struct skep_gpu;
struct skep_gpu_plan;
struct skep_gpu_job;

/**
 * enum skep_gpu_kind - where the tensors lie
 * @SKEP_GPU_HOST: in this process's memory; addresses are pointers
 * @SKEP_GPU_CUDA: in the memory of a GPU; addresses are the device's
 */
enum skep_gpu_kind {
	SKEP_GPU_HOST,
	SKEP_GPU_CUDA,
};

/**
 * enum skep_gpu_flag - how a device is used
 * @SKEP_GPU_UNREGISTERED: the pool's memory is not registered with the device: for who may lock no
 *	memory. All parts are copied once more on their way.
 */
enum skep_gpu_flag {
	SKEP_GPU_UNREGISTERED = 1 << 0,
};

/**
 * struct skep_gpu_options - what to open
 * @struct_bytes: sizeof(struct skep_gpu_options)
 * @kind: of enum skep_gpu_kind
 * @device: number of the GPU as CUDA counts
 * @ring_slots: slots of the ring through which parts pass; 0 = 3, and none with SKEP_GPU_HOST,
 *	where parts need no way station. With slots this machine's memory is used as a device's
 *	would be, registration included: for tests.
 * @ring_parts: parts of a slot; 0 = 4
 * @flags: of enum skep_gpu_flag
 *
 * Where there is a ring, a thread of the library registers the chunks of the session's pool with
 * the device, one by one, those of its NUMA node first. What lies in a chunk that is not registered
 * yet, or that the device refuses, passes through page-locked memory by one more copy, which the
 * device's stream asks for: no call here waits for it. skep_gpu_stats() tells. A chunk can be
 * registered once in a session: open one for each device.
 */
struct skep_gpu_options {
	size_t struct_bytes;
	uint32_t kind;
	uint32_t device;
	uint32_t ring_slots;
	uint32_t ring_parts;
	uint32_t flags;
};

/**
 * skep_gpu_open() - open a device for a session
 * @session: the session; closed after the device
 * @options: what
 * @out: the device
 * Return: 0; -ENODEV (no such device), -ENOTSUP (a build without CUDA), -ENOMEM, -EIO, -EINVAL.
 */
SKEP_API int skep_gpu_open(
	struct skep *session, const struct skep_gpu_options *options, struct skep_gpu **out);

/**
 * skep_gpu_close() - close a device; its plans must be gone
 * @gpu: NULL is nothing
 */
SKEP_API void skep_gpu_close(struct skep_gpu *gpu);

/**
 * struct skep_gpu_stats - how parts pass between the pool and the device
 * @struct_bytes: sizeof(struct skep_gpu_stats), set by the caller
 * @parts_direct: parts that the device copied where they lie, since it was opened. Counted when the
 *	copies are submitted, whatever comes of the job; 0 without a ring, as the next three
 * @bytes_direct: of these
 * @parts_staged: parts that passed through page-locked memory
 * @bytes_staged: of these
 * @bytes_registered: of the chunks that are registered now
 * @chunks_registered: how many these are
 * @chunks_waiting: chunks whose turn has not come
 * @chunks_refused: chunks of the pool that the device did not register; they are not tried again
 * @refusal: with what result the last of them, or 0
 */
struct skep_gpu_stats {
	size_t struct_bytes;
	uint64_t parts_direct;
	uint64_t bytes_direct;
	uint64_t parts_staged;
	uint64_t bytes_staged;
	uint64_t bytes_registered;
	uint32_t chunks_registered;
	uint32_t chunks_waiting;
	uint32_t chunks_refused;
	int32_t refusal;
};

/**
 * skep_gpu_stats() - what was counted; does not wait
 * @gpu: the device
 * @stats: out
 * Return: 0; -EINVAL, -EOWNERDEAD.
 */
SKEP_API int skep_gpu_stats(struct skep_gpu *gpu, struct skep_gpu_stats *stats);

/**
 * enum skep_gpu_order - how the bytes of a part follow each other (docs/formats/part.md)
 * @SKEP_GPU_LAYER_MAJOR: layer, K/V, token, head
 * @SKEP_GPU_TOKEN_MAJOR: token, layer, K/V, head
 */
enum skep_gpu_order {
	SKEP_GPU_LAYER_MAJOR,
	SKEP_GPU_TOKEN_MAJOR,
};

/**
 * struct skep_gpu_tensors - an engine's tensors and the parts that are made of them
 * @struct_bytes: sizeof(struct skep_gpu_tensors)
 * @order: of enum skep_gpu_order
 * @layers: of the model that this rank and group keeps
 * @kinds: 2 for K and V, 1 where one tensor is all
 * @block_tokens: tokens of a block
 * @heads: KV heads of this rank
 * @head_bytes: head size times the bytes of an element
 * @ranges: equal shares of a part that are verified alone; 0 = layers, or 1 with
 *	SKEP_GPU_TOKEN_MAJOR
 * @bases: layers × kinds addresses, layer by layer, K before V; read during the call alone
 * @page_stride: bytes from page to page of the engine's tensors
 * @token_stride: bytes from token to token in a page
 * @head_stride: bytes from head to head
 * @page_tokens: tokens of a page; for contiguous tensors as many as there is room for
 * @page_count: pages that the tensors have
 * @blocks_max: blocks of a job at most; 0 = 128
 * @jobs: jobs under way at once; 0 = 4
 * @tables: lists of pages that a run of blocks has, where groups of layers are paged apart, at most
 *	SKEP_GPU_TABLES_MAX; 0 = 1
 * @table_layers: with @tables, the layers of each, which follow each other: whole ranges, and all
 *	@layers together; with SKEP_GPU_LAYER_MAJOR alone. Read during the call alone
 */
struct skep_gpu_tensors {
	size_t struct_bytes;
	uint32_t order;
	uint32_t layers;
	uint32_t kinds;
	uint32_t block_tokens;
	uint32_t heads;
	uint32_t head_bytes;
	uint32_t ranges;
	uint32_t page_tokens;
	uint32_t page_count;
	uint32_t blocks_max;
	uint32_t jobs;
	const uint64_t *bases;
	uint64_t page_stride;
	uint64_t token_stride;
	uint64_t head_stride;
	const uint32_t *table_layers;
	uint32_t tables;
};

/**
 * skep_gpu_part() - what a part made of these tensors is, for skep_space_open()
 * @tensors: bases and strides are not looked at
 * @part: out: bytes and ranges; rank and group are left as they are
 * Return: 0; -EINVAL, -E2BIG (2 GiB or more).
 */
SKEP_API int skep_gpu_part(const struct skep_gpu_tensors *tensors, struct skep_part_layout *part);

/**
 * skep_gpu_plan_create() - make ready to save and load
 * @gpu: the device
 * @space: the space whose parts these are
 * @tensors: where they lie
 * @out: the plan; all memory that jobs need is taken here
 * Return: 0; -EINVAL, -E2BIG, -ENOMEM.
 */
SKEP_API int skep_gpu_plan_create(struct skep_gpu *gpu, struct skep_space *space,
	const struct skep_gpu_tensors *tensors, struct skep_gpu_plan **out);

/**
 * skep_gpu_plan_destroy() - let go of a plan; jobs still under way are aborted
 * @plan: NULL is nothing
 */
SKEP_API void skep_gpu_plan_destroy(struct skep_gpu_plan *plan);

/**
 * struct skep_gpu_pages - where the tokens of a run of blocks lie in the engine's pages
 * @numbers: page numbers in the order of the tokens, those of one table after those of another;
 *	read during the call alone
 * @count: of them, of each table
 * @first_slot: the slot, in the first page, of the run's first token
 */
struct skep_gpu_pages {
	const uint32_t *numbers;
	uint32_t count;
	uint32_t first_slot;
};

/**
 * struct skep_gpu_save - blocks to save
 * @struct_bytes: sizeof(struct skep_gpu_save)
 * @chain: the chain
 * @first: first block; the one before it must be present or pending
 * @count: blocks; a job takes a leading part of them
 * @part: which part this process writes
 * @pages: where the tokens of block @first and of those after it lie
 * @stream: with SKEP_GPU_CUDA, the engine's stream that computes the tensors (a CUstream): they are
 *	read after what was submitted there before
 * @deadline_ns: how long to wait when not even one frame can be had
 * @first_missing: out with SKEP_EPARENT, the block from which the chain must be saved
 */
struct skep_gpu_save {
	size_t struct_bytes;
	struct skep_chain *chain;
	uint32_t first;
	uint32_t count;
	uint32_t part;
	uint32_t first_missing;
	struct skep_gpu_pages pages;
	uint64_t stream;
	uint64_t deadline_ns;
};

/**
 * skep_gpu_save_begin() - reserve frames and begin to fill them from the tensors
 * @plan: the plan
 * @save: what
 * @out: the job; none where the result is negative
 *
 * Blocks that are there already, or that another writer writes, are passed over; the job's statuses
 * say so.
 *
 * Return: leading blocks that the job is about; what skep_reserve() answers, -EAGAIN also where all
 * jobs are under way; -EINVAL (pages outside of the tensors, a space of other parts), -EIO.
 */
SKEP_API int skep_gpu_save_begin(
	struct skep_gpu_plan *plan, struct skep_gpu_save *save, struct skep_gpu_job **out);

/**
 * struct skep_gpu_load - blocks to load
 * @struct_bytes: sizeof(struct skep_gpu_load)
 * @refs: a run as skep_match() gave it, in order
 * @count: of them; a job takes a leading part
 * @part: which part this process reads
 * @pages: where the tokens of the first block and of those after it go. The first pages of a table
 *	may be SKEP_GPU_NO_PAGE (they lie before a sliding window): of a block in such a page the
 *	layers of that table are neither written nor verified
 * @stream: with SKEP_GPU_CUDA, the engine's stream: pages are written after what was submitted
 *	there before, and what is submitted there afterwards runs after they are filled. Whether the
 *	bytes are right is known when the job has ended.
 */
struct skep_gpu_load {
	size_t struct_bytes;
	const struct skep_ref *refs;
	uint32_t count;
	uint32_t part;
	struct skep_gpu_pages pages;
	uint64_t stream;
};

/**
 * skep_gpu_load_begin() - pin blocks and begin to fill the tensors from them
 * @plan: the plan
 * @load: what
 * @out: the job; none where the result is negative or 0
 *
 * The blocks are pinned until the job has ended, whoever else holds them. Each is verified on the
 * way.
 *
 * Return: leading blocks that the job is about, 0 = none of them is there any more; -EAGAIN (all
 * jobs are under way), -EMFILE (no free pin), -EINVAL, -EIO.
 */
SKEP_API int skep_gpu_load_begin(
	struct skep_gpu_plan *plan, const struct skep_gpu_load *load, struct skep_gpu_job **out);

/**
 * skep_gpu_done() - would skep_gpu_end() find the bytes moved?
 * @job: the job
 * Return: 1, 0 not yet, -EIO. Never waits.
 */
SKEP_API int skep_gpu_done(struct skep_gpu_job *job);

/**
 * skep_gpu_end() - wait for a job and end it
 * @job: gone afterwards, whatever the result
 * @statuses: out, one for each of the job's blocks, or NULL. Save: 0 committed, else as
 *	struct skep_frame. Load: 0 the tensors hold the block; SKEP_ECHECKSUM its bytes are not what
 *	was put: its own pages hold nothing of use, those of the other blocks are right; -ESTALE
 * @deadline_ns: for the daemon's answer to the commit
 * Return: blocks whose status is 0; -EIO (the device: no block is good), and of the commit
 * -ETIMEDOUT, SKEP_EDOWN.
 */
SKEP_API int skep_gpu_end(struct skep_gpu_job *job, int32_t *statuses, uint64_t deadline_ns);

/**
 * skep_gpu_abort() - wait until nothing of a job touches the pages any more, and drop it
 * @job: NULL is nothing; gone afterwards. Reserved frames are given back unwritten; loaded pages
 *	hold nothing of use.
 */
SKEP_API void skep_gpu_abort(struct skep_gpu_job *job);

#ifdef __cplusplus
}
#endif

#endif
