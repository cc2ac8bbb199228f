/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_GPU_PRIV_H
#define SKEP_KERNELS_GPU_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "kernels/gpu.h"

/*
 * What a back end brings. gpu.c has looked at the arguments, injected failures and counted before
 * it calls here, so that both back ends refuse the same things; sizes of what is given back come
 * from its books. Of a struct a back end allocates itself, the common head is filled by gpu.c.
 */
struct gpu_calls {
	void (*close)(struct gpu *gpu);

	int (*alloc)(struct gpu *gpu, size_t bytes, uint64_t *at);
	void (*free)(struct gpu *gpu, uint64_t at);
	int (*pinned_alloc)(struct gpu *gpu, size_t bytes, void **memory);
	void (*pinned_free)(struct gpu *gpu, void *memory, size_t bytes);
	int (*enroll)(struct gpu *gpu, void *memory, size_t bytes, bool read_only);
	void (*dismiss)(struct gpu *gpu, void *memory);

	int (*reserve)(struct gpu *gpu, size_t bytes, uint64_t *at);
	void (*unreserve)(struct gpu *gpu, uint64_t at, size_t bytes);
	int (*page_create)(struct gpu *gpu, struct gpu_page *page);
	void (*page_destroy)(struct gpu *gpu, struct gpu_page *page);
	int (*map)(struct gpu *gpu, uint64_t at, struct gpu_page *page);
	void (*unmap)(struct gpu *gpu, uint64_t at, size_t bytes);

	int (*stream_create)(struct gpu *gpu, struct gpu_stream **stream);
	int (*stream_adopt)(struct gpu *gpu, uintptr_t native, struct gpu_stream **stream);
	void (*stream_destroy)(struct gpu_stream *stream);
	int (*stream_sync)(struct gpu_stream *stream);
	int (*stream_wait)(struct gpu_stream *stream, struct gpu_event *event);
	int (*event_create)(struct gpu *gpu, struct gpu_event **event);
	void (*event_destroy)(struct gpu_event *event);
	int (*event_record)(struct gpu_event *event, struct gpu_stream *stream);
	int (*event_done)(struct gpu_event *event);
	int (*event_sync)(struct gpu_event *event);
	int (*event_ns)(struct gpu_event *from, struct gpu_event *to, uint64_t *ns);

	int (*copy_in)(struct gpu_stream *stream, uint64_t to, const void *from, size_t bytes);
	int (*copy_out)(struct gpu_stream *stream, void *to, uint64_t from, size_t bytes);
	int (*copy)(struct gpu_stream *stream, uint64_t to, uint64_t from, size_t bytes);
	int (*copy_batch)(struct gpu_stream *stream, const struct gpu_batch *batch);
	int (*call)(struct gpu_stream *stream, void (*work)(void *argument), void *argument);
	int (*fill)(struct gpu_stream *stream, uint64_t at, unsigned char byte, size_t bytes);
	int (*launch)(struct gpu_stream *stream, const struct gpu_kernel *kernel,
		const struct gpu_grid *grid, const void *args, size_t args_bytes);
};

/* The head of each back end's device. The lock guards lists and @usage; no driver call is made
 * under it. */
struct gpu {
	const struct gpu_calls *call;
	struct gpu_info info;
	pthread_mutex_t lock;
	struct list held[3]; /* of struct held, by enum held_kind */
	struct list reserved;
	struct gpu_usage usage;
	_Atomic uint64_t calls, fail_at; /* fail_at: 0, or the number of the call that fails */
	_Atomic int fail_status;
	atomic_bool broken;
};

/* @backing is the back end's: a handle of the driver, or an offset in the memory file. */
struct gpu_page {
	size_t bytes;
	unsigned maps; /* how many places it is mapped at; under gpu->lock */
	uint64_t backing;
};

struct gpu_stream {
	struct gpu *gpu;
};

struct gpu_event {
	struct gpu *gpu;
	atomic_bool recorded;
};

/* The launch argument's limit: what CUDA promises for a kernel's parameters everywhere. */
#define GPU_ARGS_BYTES_MAX 4096

/* Whether all of @memory is page-locked through @gpu. */
bool gpu_pinned_whole(struct gpu *gpu, const void *memory, size_t bytes);

/* Each answers the opened device with its own fields and @info filled, or what went wrong. */
int gpu_host_open(unsigned device, struct gpu **gpu);
int gpu_cuda_open(unsigned device, struct gpu **gpu);

/* The compiled CUDA code: one fatbin a file of kernels/cuda; ends with a NULL name. */
struct gpu_image {
	const char *name;
	const void *bytes;
};

extern const struct gpu_image gpu_images[];

#endif
