/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/memory.h"
#include "kernels/gpu_cuda_priv.h"

/*
 * The CUDA back end: the device's primary context, which the engine's runtime uses too, so that
 * addresses, streams and events of one are good in the other. Streams, copies and launches are in
 * gpu_cuda_stream.c.
 */

/* ------------------------------------------------------------------------------------- memory */

static int cuda_alloc(struct gpu *gpu, size_t bytes, uint64_t *at)
{
	bool entered = cuda_enter(gpu);
	CUdeviceptr made = 0;
	int rc = DRIVER(gpu, cuMemAlloc, &made, bytes);

	cuda_leave(entered);
	*at = made;
	return rc;
}

static void cuda_free(struct gpu *gpu, uint64_t at)
{
	bool entered = cuda_enter(gpu);

	DRIVER_END(gpu, cuMemFree, at);
	cuda_leave(entered);
}

static int cuda_pinned_alloc(struct gpu *gpu, size_t bytes, void **memory)
{
	bool entered = cuda_enter(gpu);
	int rc = DRIVER(gpu, cuMemHostAlloc, memory, bytes,
		CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP);

	cuda_leave(entered);
	return rc;
}

static void cuda_pinned_free(struct gpu *gpu, void *memory, size_t bytes)
{
	bool entered = cuda_enter(gpu);

	(void)bytes;
	DRIVER_END(gpu, cuMemFreeHost, memory);
	cuda_leave(entered);
}

/*
 * Memory is registered while the engine may be capturing a graph on another thread. That would make
 * the capture invalid, unless this thread says that it has nothing to do with it.
 */
static CUstreamCaptureMode capture_mode(CUstreamCaptureMode mode)
{
	(void)driver.cuThreadExchangeStreamCaptureMode(&mode);
	return mode;
}

static int cuda_enroll(struct gpu *gpu, void *memory, size_t bytes, bool read_only)
{
	unsigned flags = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP;
	CUstreamCaptureMode before;
	bool entered;
	int rc;

	if (read_only && !cuda_of(gpu)->registers_read_only)
		return -ENOTSUP;
	if (read_only)
		flags |= CU_MEMHOSTREGISTER_READ_ONLY;
	entered = cuda_enter(gpu);
	before = capture_mode(CU_STREAM_CAPTURE_MODE_RELAXED);
	rc = DRIVER(gpu, cuMemHostRegister, memory, bytes, flags);
	capture_mode(before);
	cuda_leave(entered);
	return rc;
}

static void cuda_dismiss(struct gpu *gpu, void *memory)
{
	bool entered = cuda_enter(gpu);
	CUstreamCaptureMode before = capture_mode(CU_STREAM_CAPTURE_MODE_RELAXED);

	DRIVER_END(gpu, cuMemHostUnregister, memory);
	capture_mode(before);
	cuda_leave(entered);
}

/* -------------------------------------------------------------------- addresses and their pages */

static CUmemAllocationProp page_properties(const struct cuda *cuda)
{
	return (CUmemAllocationProp){
		.type = CU_MEM_ALLOCATION_TYPE_PINNED,
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = cuda->device},
	};
}

static int cuda_reserve(struct gpu *gpu, size_t bytes, uint64_t *at)
{
	bool entered = cuda_enter(gpu);
	CUdeviceptr made = 0;
	int rc = DRIVER(gpu, cuMemAddressReserve, &made, bytes, 0, 0, 0);

	cuda_leave(entered);
	*at = made;
	return rc;
}

static void cuda_unreserve(struct gpu *gpu, uint64_t at, size_t bytes)
{
	bool entered = cuda_enter(gpu);

	DRIVER_END(gpu, cuMemAddressFree, at, bytes);
	cuda_leave(entered);
}

static int cuda_page_create(struct gpu *gpu, struct gpu_page *page)
{
	const CUmemAllocationProp properties = page_properties(cuda_of(gpu));
	bool entered = cuda_enter(gpu);
	CUmemGenericAllocationHandle made = 0;
	int rc = DRIVER(gpu, cuMemCreate, &made, page->bytes, &properties, 0);

	cuda_leave(entered);
	page->backing = made;
	return rc;
}

static void cuda_page_destroy(struct gpu *gpu, struct gpu_page *page)
{
	bool entered = cuda_enter(gpu);

	DRIVER_END(gpu, cuMemRelease, page->backing);
	cuda_leave(entered);
}

static int cuda_map(struct gpu *gpu, uint64_t at, struct gpu_page *page)
{
	const CUmemAccessDesc access = {
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = cuda_of(gpu)->device},
		.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
	};
	bool entered = cuda_enter(gpu);
	int rc = DRIVER(gpu, cuMemMap, at, page->bytes, 0, page->backing, 0);

	if (rc == 0) {
		rc = DRIVER(gpu, cuMemSetAccess, at, page->bytes, &access, 1);
		if (rc < 0)
			DRIVER_END(gpu, cuMemUnmap, at, page->bytes);
	}
	cuda_leave(entered);
	return rc;
}

static void cuda_unmap(struct gpu *gpu, uint64_t at, size_t bytes)
{
	bool entered = cuda_enter(gpu);

	DRIVER_END(gpu, cuMemUnmap, at, bytes);
	cuda_leave(entered);
}

/* ----------------------------------------------------------------------------- open and close */

/* Gives back what an open device, or one whose opening failed half-way, holds of the driver. */
static void cuda_close(struct gpu *gpu)
{
	struct cuda *cuda = cuda_of(gpu);
	bool entered = cuda_enter(gpu);

	for (size_t i = 0; i < cuda->module_count; i++)
		DRIVER_END(gpu, cuModuleUnload, cuda->modules[i]);
	cuda_leave(entered);
	DRIVER_END(gpu, cuDevicePrimaryCtxRelease, cuda->device);
	pthread_mutex_destroy(&cuda->functions_lock);
	memory_free(cuda->modules);
	memory_free(cuda);
}

static const struct gpu_calls cuda_calls = {
	.close = cuda_close,
	.alloc = cuda_alloc,
	.free = cuda_free,
	.pinned_alloc = cuda_pinned_alloc,
	.pinned_free = cuda_pinned_free,
	.enroll = cuda_enroll,
	.dismiss = cuda_dismiss,
	.reserve = cuda_reserve,
	.unreserve = cuda_unreserve,
	.page_create = cuda_page_create,
	.page_destroy = cuda_page_destroy,
	.map = cuda_map,
	.unmap = cuda_unmap,
	.stream_create = cuda_stream_create,
	.stream_adopt = cuda_stream_adopt,
	.stream_destroy = cuda_stream_destroy,
	.stream_sync = cuda_stream_sync,
	.stream_wait = cuda_stream_wait,
	.event_create = cuda_event_create,
	.event_destroy = cuda_event_destroy,
	.event_record = cuda_event_record,
	.event_done = cuda_event_done,
	.event_sync = cuda_event_sync,
	.event_ns = cuda_event_ns,
	.copy_in = cuda_copy_in,
	.copy_out = cuda_copy_out,
	.copy = cuda_copy,
	.copy_batch = cuda_copy_batch,
	.call = cuda_call,
	.fill = cuda_fill,
	.launch = cuda_launch,
};

/* Fills @info, and answers -ENOTSUP for a device that cannot map pages. */
static int info_read(struct cuda *cuda)
{
	struct gpu_info *info = &cuda->gpu.info;
	const CUmemAllocationProp properties = page_properties(cuda);
	int major = 0, minor = 0, processors = 0, shared = 0, pages = 0, read_only = 0, node = -1;
	const struct {
		CUdevice_attribute attribute;
		int *value;
	} wanted[] = {
		{CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, &major},
		{CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, &minor},
		{CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, &processors},
		{CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, &shared},
		{CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, &pages},
		{CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED, &read_only},
		{CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, &node},
	};
	int rc = DRIVER(NULL, cuDeviceGetName, info->name, sizeof(info->name), cuda->device);
	size_t bytes = 0;

	for (size_t i = 0; i < ARRAY_COUNT(wanted) && rc == 0; i++)
		rc = DRIVER(NULL, cuDeviceGetAttribute, wanted[i].value, wanted[i].attribute,
			cuda->device);
	if (rc == 0)
		rc = DRIVER(NULL, cuDeviceTotalMem, &bytes, cuda->device);
	if (rc == 0 && !pages) {
		log_error("gpu", "%s cannot map pages of device memory", info->name);
		rc = -ENOTSUP;
	}
	if (rc == 0)
		rc = DRIVER(NULL, cuMemGetAllocationGranularity, &info->page_bytes, &properties,
			CU_MEM_ALLOC_GRANULARITY_MINIMUM);
	info->memory_bytes = bytes;
	info->processors = (unsigned)processors;
	info->capability = (unsigned)(major * 10 + minor);
	info->shared_bytes_max = (size_t)shared;
	info->numa_node = node;
	cuda->registers_read_only = read_only;
	return rc;
}

static int modules_load(struct cuda *cuda)
{
	size_t count = 0;
	bool entered;
	int rc = 0;

	while (gpu_images[count].name)
		count++;
	cuda->modules = memory_calloc(count, sizeof(cuda->modules[0]));
	if (!cuda->modules)
		return -ENOMEM;
	entered = cuda_enter(&cuda->gpu);
	for (size_t i = 0; i < count && rc == 0; i++) {
		rc = DRIVER(NULL, cuModuleLoadData, &cuda->modules[i], gpu_images[i].bytes);
		if (rc == 0)
			cuda->module_count++;
		else if (rc == -ENOTSUP)
			log_error("gpu", "kernels/cuda/%s.cu holds no code for capability %u of %s",
				gpu_images[i].name, cuda->gpu.info.capability, cuda->gpu.info.name);
	}
	cuda_leave(entered);
	return rc;
}

int gpu_cuda_open(unsigned device, struct gpu **gpu)
{
	struct cuda *cuda;
	int rc = driver_open();

	if (rc < 0)
		return rc;
	if (device > INT_MAX)
		return -ENODEV;
	cuda = memory_zalloc(sizeof(*cuda));
	if (!cuda)
		return -ENOMEM;
	rc = DRIVER(NULL, cuDeviceGet, &cuda->device, (int)device);
	if (rc == 0)
		rc = info_read(cuda);
	if (rc == 0)
		rc = DRIVER(NULL, cuDevicePrimaryCtxRetain, &cuda->context, cuda->device);
	if (rc < 0) {
		memory_free(cuda);
		return rc;
	}
	pthread_mutex_init(&cuda->functions_lock, NULL);
	rc = modules_load(cuda);
	if (rc < 0) {
		cuda_close(&cuda->gpu);
		return rc;
	}
	cuda->gpu.call = &cuda_calls;
	*gpu = &cuda->gpu;
	return 0;
}
