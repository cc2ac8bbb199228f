/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_KERNELS_GPU_TEST_H
#define SKEP_TESTS_KERNELS_GPU_TEST_H

#include "kernels/gpu.h"

/* All that gpu.h promises, on one device. */
void gpu_everything(struct gpu *gpu);

/* What it promises of memory and copies; part of the former. */
void gpu_memory(struct gpu *gpu, uint64_t seed);

/*
 * Takes one of each thing, works with it, and gives all back, whatever fails; the first failure.
 * @chunk: GPU_LIVE_BYTES of memory, whole pages.
 */
#define GPU_LIVE_BYTES (64u << 10)

int gpu_live(struct gpu *gpu, void *chunk);

/* The CUDA back end over a libcuda that fails (fake_cuda.h), which LD_LIBRARY_PATH must name. */
int gpu_driver(void);

#endif
