/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_GPU_H
#define SKEP_KERNELS_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * One plain C face for a device: its memory, pages, copies, launches. Two back ends stand behind
 * it. `cuda` is the CUDA driver, opened at run time, so that nothing links against it. `host` does
 * the same on this machine (memory files, mmap, a thread a stream), so that whatever is built on
 * this face is tested everywhere; its device addresses are ordinary pointers.
 *
 * A device address is a uint64_t, here always called `at`. Calls answer 0 or a negative errno:
 * -ENOMEM where the device is full, -EINVAL for arguments, -ENODEV for a device that is not there,
 * -ENOTSUP for a back end or a kernel that was not built, -EIO for whatever the driver says besides
 * (its words go to the log, once). Unless a call says otherwise it may come from any thread and may
 * block. What ends a thing (free, destroy, unmap) does not fail: a driver that refuses is logged,
 * and the device is `broken` from then on.
 */
enum gpu_back_end { GPU_HOST, GPU_CUDA };

struct gpu;
struct gpu_stream;
struct gpu_event;
struct gpu_page;

struct gpu_info {
	enum gpu_back_end back_end;
	char name[96];
	size_t page_bytes; /* the least physical page; sizes of pages are multiples of it */
	uint64_t memory_bytes;
	unsigned processors;	 /* multiprocessors; host: 1 */
	unsigned capability;	 /* 90 for 9.0; host: 0 */
	size_t shared_bytes_max; /* dynamic shared memory a block may ask for */
	int numa_node;		 /* of this machine's memory, the nearest; -1: not known */
};

/* What is held now: all 0 again when everything was given back. For tests and status. */
struct gpu_usage {
	uint64_t allocated_bytes, reserved_bytes, page_bytes, mapped_bytes, registered_bytes;
	uint64_t pinned_bytes;
	unsigned streams, events;
};

/*
 * Opens device @device (host: any number). Takes its memory only as asked. CUDA: its primary
 * context, which the engine's runtime uses too; no call leaves a thread with another context than
 * before.
 */
int gpu_open(enum gpu_back_end back_end, unsigned device, struct gpu **gpu);

/* Everything taken through it must have been given back (checked). No call may be under way. */
void gpu_close(struct gpu *gpu);

const struct gpu_info *gpu_info(const struct gpu *gpu);
void gpu_usage(const struct gpu *gpu, struct gpu_usage *usage);
bool gpu_broken(const struct gpu *gpu);

/*
 * Fails the @nth call from now that can fail (1 is the next) with @status, without doing anything
 * of it; 0 disarms. gpu_calls counts such calls, so that a test can fail each in turn.
 */
void gpu_fail_nth(struct gpu *gpu, uint64_t nth, int status);
uint64_t gpu_calls(const struct gpu *gpu);

/* ------------------------------------------------------------------------------------- memory */

/* Plain device memory, aligned to 256 bytes at least. */
int gpu_alloc(struct gpu *gpu, size_t bytes, uint64_t *at);
void gpu_free(struct gpu *gpu, uint64_t at);

/* Memory of this machine that copies reach at full speed (page-locked). */
int gpu_pinned_alloc(struct gpu *gpu, size_t bytes, void **memory);
void gpu_pinned_free(struct gpu *gpu, void *memory);

/*
 * Makes memory that exists (a chunk of the pool) page-locked, whole pages. A read-only
 * mapping can be registered with @read_only where the device has it, else -ENOTSUP. -EEXIST where
 * any of it is page-locked already, by whomever.
 */
int gpu_register(struct gpu *gpu, void *memory, size_t bytes, bool read_only);
void gpu_unregister(struct gpu *gpu, void *memory);

/* A range of addresses with nothing behind it. @bytes is a multiple of page_bytes. Given back
 * whole, when nothing is mapped in it. */
int gpu_reserve(struct gpu *gpu, size_t bytes, uint64_t *at);
void gpu_unreserve(struct gpu *gpu, uint64_t at, size_t bytes);

/* Physical memory with no address. One page may be mapped at several places at once. */
int gpu_page_create(struct gpu *gpu, size_t bytes, struct gpu_page **page);
void gpu_page_destroy(struct gpu *gpu, struct gpu_page *page); /* mapped nowhere */

/*
 * Puts the whole of @page at @at, which lies in a reserved range where nothing is mapped (else
 * -EINVAL), readable and writable by the device. Or takes whole pages that lie side by side away:
 * the caller knows that no work in flight uses them.
 */
int gpu_map(struct gpu *gpu, uint64_t at, struct gpu_page *page);
void gpu_unmap(struct gpu *gpu, uint64_t at, size_t bytes);

/* --------------------------------------------------------------------------- streams and events */

/* Work submitted to a stream runs in order. One thread at a time uses a stream. An event is
 * recorded by one thread at a time; an event that was never recorded counts as done. */
int gpu_stream_create(struct gpu *gpu, struct gpu_stream **stream);
void gpu_stream_destroy(
	struct gpu_stream *stream); /* waits for its work; not for an adopted one's */

/*
 * A stream of somebody else (a CUstream of the engine; 0 is the default one) seen as one of ours;
 * destroying it leaves theirs alone. Host: -ENOTSUP.
 */
int gpu_stream_adopt(struct gpu *gpu, uintptr_t native, struct gpu_stream **stream);

/* Blocks until all is done; answers what went wrong in any of it since the last call. */
int gpu_stream_sync(struct gpu_stream *stream);

int gpu_event_create(struct gpu *gpu, struct gpu_event **event);
void gpu_event_destroy(struct gpu_event *event); /* also while work that names it is under way */
int gpu_event_record(struct gpu_event *event, struct gpu_stream *stream);
int gpu_event_done(struct gpu_event *event); /* 1, 0 not yet, or negative; does not block */
int gpu_event_sync(struct gpu_event *event);

/* Device time between two recorded events, in nanoseconds; -EAGAIN while one is not done, -EINVAL
 * where one was never recorded. */
int gpu_event_ns(struct gpu_event *from, struct gpu_event *to, uint64_t *ns);

/* What is submitted to @stream from now on waits for the last record of @event before this call. */
int gpu_stream_wait(struct gpu_stream *stream, struct gpu_event *event);

/* ------------------------------------------------------------------------- copies and launches */

/*
 * Submitted to the stream and done in its order. Host memory that is not page-locked makes the call
 * itself wait for the copy.
 */
int gpu_copy_in(struct gpu_stream *stream, uint64_t to, const void *from, size_t bytes);
int gpu_copy_out(struct gpu_stream *stream, void *to, uint64_t from, size_t bytes);
int gpu_copy(struct gpu_stream *stream, uint64_t to, uint64_t from, size_t bytes);
int gpu_fill(struct gpu_stream *stream, uint64_t at, unsigned char byte, size_t bytes);

/*
 * Many copies by one submission, with no order among them: batch.from[i] → batch.to[i]. Addresses
 * are the device's, or pointers into page-locked memory. The arrays are read during the call; no
 * copy is empty. -EINVAL on an adopted default stream. Copies of 2 MiB in a batch are as fast as
 * one large copy, where a call for each loses a twentieth; for 16 KiB the device's copy engine is
 * slow in a batch too.
 */
struct gpu_batch {
	const uint64_t *to, *from;
	const size_t *bytes;
	size_t count;
};

int gpu_copy_batch(struct gpu_stream *stream, const struct gpu_batch *batch);

/*
 * Calls @work with @argument in the stream's order, on a thread of the back end, which makes no
 * other call meanwhile: it should be short, and must not call anything of this header. Not called
 * once the device is lost. @argument stays the caller's.
 */
int gpu_call(struct gpu_stream *stream, void (*work)(void *argument), void *argument);

/*
 * A kernel is one function with one argument: a struct, declared in a plain C header that both
 * sides include, passed by value. @name is its symbol in the CUDA code:
 *
 *	extern "C" __global__ void NAME(const __grid_constant__ struct NAME_args args)
 *
 * @host does the same work on this machine, given the struct; a stream's thread calls it once a
 * launch, whatever the grid. It is the kernel's reference too.
 */
struct gpu_kernel {
	const char *name;
	void (*host)(const void *args);
};

struct gpu_grid {
	unsigned blocks[3];    /* 0 stands for 1 */
	unsigned threads;      /* a block */
	unsigned shared_bytes; /* dynamic, a block; more than 48 KiB is asked for where needed */
};

/*
 * @args (@args_bytes ≤ 4096) is copied. @kernel is a constant: it stays valid, at its address, as
 * long as the device is open. -EINVAL for a grid that the device cannot run.
 */
int gpu_launch(struct gpu_stream *stream, const struct gpu_kernel *kernel,
	const struct gpu_grid *grid, const void *args, size_t args_bytes);

#endif
