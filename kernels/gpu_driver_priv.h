/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_GPU_DRIVER_PRIV_H
#define SKEP_KERNELS_GPU_DRIVER_PRIV_H

#include <cuda.h>

#include "kernels/gpu_priv.h"

/*
 * The calls of the CUDA driver that skep makes. cuda.h gives most of them a version by a macro
 * (cuMemAlloc is cuMemAlloc_v2); the rows are expanded, so that field and symbol carry it too.
 */
#define DRIVER_TABLE(X)                                                                            \
	X(cuCtxGetCurrent)                                                                         \
	X(cuCtxPopCurrent)                                                                         \
	X(cuCtxPushCurrent)                                                                        \
	X(cuDeviceGet)                                                                             \
	X(cuDeviceGetAttribute)                                                                    \
	X(cuDeviceGetName)                                                                         \
	X(cuDevicePrimaryCtxRelease)                                                               \
	X(cuDevicePrimaryCtxRetain)                                                                \
	X(cuDeviceTotalMem)                                                                        \
	X(cuEventCreate)                                                                           \
	X(cuEventDestroy)                                                                          \
	X(cuEventElapsedTime)                                                                      \
	X(cuEventQuery)                                                                            \
	X(cuEventRecord)                                                                           \
	X(cuEventSynchronize)                                                                      \
	X(cuFuncGetAttribute)                                                                      \
	X(cuFuncGetParamInfo)                                                                      \
	X(cuFuncSetAttribute)                                                                      \
	X(cuGetErrorName)                                                                          \
	X(cuGetErrorString)                                                                        \
	X(cuInit)                                                                                  \
	X(cuLaunchHostFunc)                                                                        \
	X(cuLaunchKernel)                                                                          \
	X(cuMemAddressFree)                                                                        \
	X(cuMemAddressReserve)                                                                     \
	X(cuMemAlloc)                                                                              \
	X(cuMemCreate)                                                                             \
	X(cuMemFree)                                                                               \
	X(cuMemFreeHost)                                                                           \
	X(cuMemGetAllocationGranularity)                                                           \
	X(cuMemHostAlloc)                                                                          \
	X(cuMemHostRegister)                                                                       \
	X(cuMemHostUnregister)                                                                     \
	X(cuMemMap)                                                                                \
	X(cuMemRelease)                                                                            \
	X(cuMemSetAccess)                                                                          \
	X(cuMemUnmap)                                                                              \
	X(cuMemcpyBatchAsync)                                                                      \
	X(cuMemcpyDtoDAsync)                                                                       \
	X(cuMemcpyDtoHAsync)                                                                       \
	X(cuMemcpyHtoDAsync)                                                                       \
	X(cuMemsetD8Async)                                                                         \
	X(cuModuleGetFunction)                                                                     \
	X(cuModuleLoadData)                                                                        \
	X(cuModuleUnload)                                                                          \
	X(cuStreamCreate)                                                                          \
	X(cuStreamDestroy)                                                                         \
	X(cuStreamSynchronize)                                                                     \
	X(cuStreamWaitEvent)                                                                       \
	X(cuThreadExchangeStreamCaptureMode)

struct driver {
#define X(name) __typeof__(name) *name;
	DRIVER_TABLE(X)
#undef X
};

/* Valid once driver_open() has answered 0; constant from then on. */
extern struct driver driver;

/* Opens libcuda, once a process. -ENODEV where there is none, -ENOTSUP where it lacks a call. */
int driver_open(void);

/*
 * What @result of the call named @call is as a status. Failures that are faults (not a full memory,
 * not a device that is absent) are logged, and those that the context does not survive make @gpu
 * (may be NULL) broken; of a broken device nothing more is logged.
 */
int driver_status(struct gpu *gpu, CUresult result, const char *call);

/* The same for a call that ends something: any failure makes the device broken. */
void driver_ended(struct gpu *gpu, CUresult result, const char *call);

#define DRIVER(gpu, name, ...)	   driver_status((gpu), driver.name(__VA_ARGS__), #name)
#define DRIVER_END(gpu, name, ...) driver_ended((gpu), driver.name(__VA_ARGS__), #name)

#endif
