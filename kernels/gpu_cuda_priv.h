/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_GPU_CUDA_PRIV_H
#define SKEP_KERNELS_GPU_CUDA_PRIV_H

#include "kernels/gpu_driver_priv.h"

/* A power of two well above the number of kernels. */
#define CUDA_FUNCTIONS_MAX 1024

/*
 * A kernel that was looked up. @kernel is stored last and never changes then, so readers take no
 * lock. @shared_bytes is what blocks may ask for so far; it only grows, under the lock.
 */
struct cuda_function {
	_Atomic(const struct gpu_kernel *) kernel;
	CUfunction function;
	size_t args_bytes;
	_Atomic unsigned shared_bytes;
};

struct cuda {
	struct gpu gpu;
	CUdevice device;
	CUcontext context;
	bool registers_read_only;
	size_t module_count;
	CUmodule *modules;
	pthread_mutex_t functions_lock;
	unsigned function_count;
	struct cuda_function
		functions[CUDA_FUNCTIONS_MAX]; /* a hash table by the kernel's address */
};

static inline struct cuda *cuda_of(struct gpu *gpu)
{
	return (struct cuda *)gpu;
}

/*
 * Makes the device's context the thread's own, if it is not: threads of the engine have a context,
 * maybe another one, and find it again after cuda_leave(what cuda_enter answered).
 */
static inline bool cuda_enter(struct gpu *gpu)
{
	CUcontext now = NULL;

	driver.cuCtxGetCurrent(&now);
	if (__builtin_expect(now == cuda_of(gpu)->context, 1))
		return false;
	return driver.cuCtxPushCurrent(cuda_of(gpu)->context) == CUDA_SUCCESS;
}

static inline void cuda_leave(bool entered)
{
	CUcontext own;

	if (entered)
		driver.cuCtxPopCurrent(&own);
}

/* Streams, events, copies and launches (gpu_cuda_stream.c), as struct gpu_calls has them. */
int cuda_stream_create(struct gpu *gpu, struct gpu_stream **stream);
int cuda_stream_adopt(struct gpu *gpu, uintptr_t native, struct gpu_stream **stream);
void cuda_stream_destroy(struct gpu_stream *stream);
int cuda_stream_sync(struct gpu_stream *stream);
int cuda_stream_wait(struct gpu_stream *stream, struct gpu_event *event);
int cuda_event_create(struct gpu *gpu, struct gpu_event **event);
void cuda_event_destroy(struct gpu_event *event);
int cuda_event_record(struct gpu_event *event, struct gpu_stream *stream);
int cuda_event_done(struct gpu_event *event);
int cuda_event_sync(struct gpu_event *event);
int cuda_event_ns(struct gpu_event *from, struct gpu_event *to, uint64_t *ns);
int cuda_copy_in(struct gpu_stream *stream, uint64_t to, const void *from, size_t bytes);
int cuda_copy_out(struct gpu_stream *stream, void *to, uint64_t from, size_t bytes);
int cuda_copy(struct gpu_stream *stream, uint64_t to, uint64_t from, size_t bytes);
int cuda_copy_batch(struct gpu_stream *stream, const struct gpu_batch *batch);
int cuda_call(struct gpu_stream *stream, void (*work)(void *argument), void *argument);
int cuda_fill(struct gpu_stream *stream, uint64_t at, unsigned char byte, size_t bytes);
int cuda_launch(struct gpu_stream *stream, const struct gpu_kernel *kernel,
	const struct gpu_grid *grid, const void *args, size_t args_bytes);

#endif
