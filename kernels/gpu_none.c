/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "kernels/gpu_priv.h"

/* Stands in for the CUDA back end in a build without it (SKEP_CUDA). */
int gpu_cuda_open(unsigned device, struct gpu **gpu)
{
	(void)device;
	(void)gpu;
	return -ENOTSUP;
}
