/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_KERNELS_DEVICE_H
#define SKEP_TESTS_KERNELS_DEVICE_H

#include <errno.h>
#include <string.h>

#include "kernels/gpu.h"
#include "tests/base/unit.h"

static inline void device_close(struct gpu *gpu)
{
	struct gpu_usage usage;

	gpu_usage(gpu, &usage);
	if (memcmp(&usage, &(struct gpu_usage){0}, sizeof(usage)) != 0) {
		fprintf(stderr,
			"left behind: %llu allocated, %llu reserved, %llu in pages, %llu mapped, "
			"%llu registered, %llu pinned, %u streams, %u events\n",
			(unsigned long long)usage.allocated_bytes,
			(unsigned long long)usage.reserved_bytes,
			(unsigned long long)usage.page_bytes,
			(unsigned long long)usage.mapped_bytes,
			(unsigned long long)usage.registered_bytes,
			(unsigned long long)usage.pinned_bytes, usage.streams, usage.events);
		exit(1);
	}
	gpu_close(gpu);
}

/*
 * Runs @body over each back end: the host always, CUDA where a device opens, else one line says
 * that that half was skipped. What @body took must be given back when it returns.
 */
static inline void device_each(void (*body)(struct gpu *gpu))
{
	struct gpu *gpu;
	int rc;

	REQUIRE_EQ(gpu_open(GPU_HOST, 0, &gpu), 0);
	body(gpu);
	device_close(gpu);
	rc = gpu_open(GPU_CUDA, 0, &gpu);
	if (rc == -ENODEV || rc == -ENOTSUP) {
		printf("skip: the CUDA half: %s\n",
			rc == -ENODEV ? "there is no device" : "this build has none of it");
		return;
	}
	REQUIRE_EQ(rc, 0);
	printf("device: %s\n", gpu_info(gpu)->name);
	fflush(stdout);
	body(gpu);
	device_close(gpu);
}

#endif
