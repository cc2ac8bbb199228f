/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_GPU_HOST_PRIV_H
#define SKEP_KERNELS_GPU_HOST_PRIV_H

#include "kernels/gpu_priv.h"

/* Streams and events of the host back end (gpu_host_stream.c), as struct gpu_calls has them. */
int host_stream_create(struct gpu *gpu, struct gpu_stream **stream);
int host_stream_adopt(struct gpu *gpu, uintptr_t native, struct gpu_stream **stream);
void host_stream_destroy(struct gpu_stream *stream);
int host_stream_sync(struct gpu_stream *stream);
int host_stream_wait(struct gpu_stream *stream, struct gpu_event *event);
int host_event_create(struct gpu *gpu, struct gpu_event **event);
void host_event_destroy(struct gpu_event *event);
int host_event_record(struct gpu_event *event, struct gpu_stream *stream);
int host_event_done(struct gpu_event *event);
int host_event_sync(struct gpu_event *event);
int host_event_ns(struct gpu_event *from, struct gpu_event *to, uint64_t *ns);
int host_copy_in(struct gpu_stream *stream, uint64_t to, const void *from, size_t bytes);
int host_copy_out(struct gpu_stream *stream, void *to, uint64_t from, size_t bytes);
int host_copy(struct gpu_stream *stream, uint64_t to, uint64_t from, size_t bytes);
int host_copy_batch(struct gpu_stream *stream, const struct gpu_batch *batch);
int host_call(struct gpu_stream *stream, void (*work)(void *argument), void *argument);
int host_fill(struct gpu_stream *stream, uint64_t at, unsigned char byte, size_t bytes);
int host_launch(struct gpu_stream *stream, const struct gpu_kernel *kernel,
	const struct gpu_grid *grid, const void *args, size_t args_bytes);

#endif
