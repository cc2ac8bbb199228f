/* SPDX-License-Identifier: Apache-2.0 */
#include <cuda.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/kernels/fake_cuda.h"

#define SHOWN __attribute__((visibility("default")))

/* The prototypes come from cuda.h; these of our own have none there. */
SHOWN fake_cuda_kernel kernel;
SHOWN fake_cuda_fail_nth fail_nth;
SHOWN fake_cuda_fail_end fail_end;
SHOWN fake_cuda_calls calls;
SHOWN fake_cuda_held held;

#define PAGE_BYTES   ((size_t)2 << 20)
#define SHARED_MAX   (64 << 10)
#define MAPPINGS_MAX 1024
#define KERNELS_MAX  32
#define RANGES_MAX   1024

static atomic_ulong call_count, fail_at;
static atomic_bool end_fails;
static atomic_long held_count;
static char the_context;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static CUdeviceptr mappings[MAPPINGS_MAX];
static size_t mapping_count;

/* Memory of the device, and of this machine where it is page-locked: what batches may name. */
static struct range {
	uintptr_t at;
	size_t bytes;
} ranges[RANGES_MAX];
static size_t range_count;

/* The leak checker of gcc 12 ends a program whose opened library has thread variables of another
 * model. */
#define OF_THREAD _Thread_local __attribute__((tls_model("initial-exec")))
static OF_THREAD CUcontext stack[4];
static OF_THREAD int depth;
static OF_THREAD CUstreamCaptureMode capture_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

void fail_nth(unsigned long nth)
{
	atomic_store(&fail_at, nth ? atomic_load(&call_count) + nth : 0);
}

void fail_end(void)
{
	atomic_store(&end_fails, true);
}

unsigned long calls(void)
{
	return atomic_load(&call_count);
}

long held(void)
{
	return atomic_load(&held_count);
}

/* A right program never gets here: the fake says why and ends it. */
#define RIGHT(expression)                                                                          \
	do {                                                                                       \
		if (!(expression)) {                                                               \
			fprintf(stderr, "libcuda: %s: %s does not hold\n", __func__, #expression); \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

#define WITH_CONTEXT() RIGHT(depth > 0 && stack[depth - 1] == (CUcontext)&the_context)

static bool fails(void)
{
	return atomic_fetch_add(&call_count, 1) + 1 == atomic_load(&fail_at);
}

/* At the head of every call that may fail. */
#define MAY_FAIL()                                                                                 \
	do {                                                                                       \
		if (fails())                                                                       \
			return CUDA_ERROR_UNKNOWN;                                                 \
	} while (0)

/* At the end of every call that ends a thing. */
static CUresult ended(void)
{
	atomic_fetch_sub(&held_count, 1);
	return atomic_exchange(&end_fails, false) ? CUDA_ERROR_UNKNOWN : CUDA_SUCCESS;
}

static CUresult had(void)
{
	atomic_fetch_add(&held_count, 1);
	return CUDA_SUCCESS;
}

/* --------------------------------------------------------------------------- device and context */

SHOWN CUresult cuInit(unsigned flags)
{
	(void)flags;
	return CUDA_SUCCESS;
}

SHOWN CUresult cuGetErrorName(CUresult error, const char **text)
{
	(void)error;
	*text = "CUDA_ERROR_FAKE";
	return CUDA_SUCCESS;
}

SHOWN CUresult cuGetErrorString(CUresult error, const char **text)
{
	(void)error;
	*text = "a failure that the test asked for";
	return CUDA_SUCCESS;
}

SHOWN CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
	MAY_FAIL();
	*device = 0;
	return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

SHOWN CUresult cuDeviceGetName(char *name, int bytes, CUdevice device)
{
	MAY_FAIL();
	(void)device;
	snprintf(name, (size_t)bytes, "a stand-in for libcuda");
	return CUDA_SUCCESS;
}

SHOWN CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
	MAY_FAIL();
	(void)device;
	switch (attribute) {
	case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
		*value = 9;
		break;
	case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
		*value = 0;
		break;
	case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
		*value = SHARED_MAX;
		break;
	case CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID:
		*value = 0;
		break;
	default:
		*value = 1;
	}
	return CUDA_SUCCESS;
}

SHOWN CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device)
{
	MAY_FAIL();
	(void)device;
	*bytes = (size_t)1 << 30;
	return CUDA_SUCCESS;
}

SHOWN CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
	MAY_FAIL();
	(void)device;
	*context = (CUcontext)&the_context;
	return had();
}

SHOWN CUresult cuDevicePrimaryCtxRelease(CUdevice device)
{
	(void)device;
	return ended();
}

SHOWN CUresult cuCtxGetCurrent(CUcontext *context)
{
	*context = depth ? stack[depth - 1] : NULL;
	return CUDA_SUCCESS;
}

SHOWN CUresult cuCtxPushCurrent(CUcontext context)
{
	RIGHT(depth < 4);
	stack[depth++] = context;
	return CUDA_SUCCESS;
}

SHOWN CUresult cuCtxPopCurrent(CUcontext *context)
{
	RIGHT(depth > 0);
	*context = stack[--depth];
	return CUDA_SUCCESS;
}

/* ------------------------------------------------------------------------------------- memory */

static CUresult range_had(uintptr_t at, size_t bytes)
{
	pthread_mutex_lock(&lock);
	RIGHT(range_count < RANGES_MAX);
	ranges[range_count++] = (struct range){at, bytes};
	pthread_mutex_unlock(&lock);
	return had();
}

static CUresult range_ended(uintptr_t at)
{
	size_t i = 0;

	pthread_mutex_lock(&lock);
	while (i < range_count && ranges[i].at != at)
		i++;
	RIGHT(i < range_count);
	ranges[i] = ranges[--range_count];
	pthread_mutex_unlock(&lock);
	return ended();
}

/* Whether a copy may name it: it lies whole in one of the ranges. */
static bool range_known(uintptr_t at, size_t bytes)
{
	bool known = false;

	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < range_count && !known; i++)
		known = at >= ranges[i].at && at - ranges[i].at <= ranges[i].bytes &&
			bytes <= ranges[i].bytes - (at - ranges[i].at);
	pthread_mutex_unlock(&lock);
	return known;
}

SHOWN CUresult cuMemAlloc(CUdeviceptr *at, size_t bytes)
{
	WITH_CONTEXT();
	MAY_FAIL();
	if (bytes > (size_t)1 << 30)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*at = (uintptr_t)aligned_alloc(256, (bytes + 255) & ~(size_t)255);
	return *at ? range_had(*at, bytes) : CUDA_ERROR_OUT_OF_MEMORY;
}

SHOWN CUresult cuMemFree(CUdeviceptr at)
{
	CUresult result = range_ended(at);

	WITH_CONTEXT();
	free((void *)(uintptr_t)at);
	return result;
}

SHOWN CUresult cuMemHostAlloc(void **memory, size_t bytes, unsigned flags)
{
	WITH_CONTEXT();
	MAY_FAIL();
	(void)flags;
	*memory = aligned_alloc(4096, (bytes + 4095) & ~(size_t)4095);
	return *memory ? range_had((uintptr_t)*memory, bytes) : CUDA_ERROR_OUT_OF_MEMORY;
}

SHOWN CUresult cuMemFreeHost(void *memory)
{
	CUresult result = range_ended((uintptr_t)memory);

	WITH_CONTEXT();
	free(memory);
	return result;
}

SHOWN CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
	CUstreamCaptureMode before = capture_mode;

	capture_mode = *mode;
	*mode = before;
	return CUDA_SUCCESS;
}

/* What may come while another thread captures a graph must not end the capture. */
#define APART() RIGHT(capture_mode == CU_STREAM_CAPTURE_MODE_RELAXED)

SHOWN CUresult cuMemHostRegister(void *memory, size_t bytes, unsigned flags)
{
	WITH_CONTEXT();
	APART();
	MAY_FAIL();
	(void)flags;
	if (msync(memory, bytes, MS_ASYNC) != 0)
		return CUDA_ERROR_INVALID_VALUE;
	return range_had((uintptr_t)memory, bytes);
}

SHOWN CUresult cuMemHostUnregister(void *memory)
{
	WITH_CONTEXT();
	APART();
	return range_ended((uintptr_t)memory);
}

SHOWN CUresult cuMemGetAllocationGranularity(
	size_t *bytes, const CUmemAllocationProp *prop, CUmemAllocationGranularity_flags option)
{
	MAY_FAIL();
	(void)option;
	RIGHT(prop->type == CU_MEM_ALLOCATION_TYPE_PINNED);
	*bytes = PAGE_BYTES;
	return CUDA_SUCCESS;
}

SHOWN CUresult cuMemAddressReserve(CUdeviceptr *at, size_t bytes, size_t alignment,
	CUdeviceptr address, unsigned long long flags)
{
	char *made;

	WITH_CONTEXT();
	MAY_FAIL();
	RIGHT(!alignment && !address && !flags && bytes % PAGE_BYTES == 0);
	made = mmap(NULL, bytes + PAGE_BYTES, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (made == MAP_FAILED)
		return CUDA_ERROR_OUT_OF_MEMORY;
	/* What lies before and behind the boundary is left to the end of the process. */
	*at = ((uintptr_t)made + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
	return had();
}

SHOWN CUresult cuMemAddressFree(CUdeviceptr at, size_t bytes)
{
	WITH_CONTEXT();
	RIGHT(munmap((void *)(uintptr_t)at, bytes) == 0);
	return ended();
}

SHOWN CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes,
	const CUmemAllocationProp *prop, unsigned long long flags)
{
	int file;

	WITH_CONTEXT();
	MAY_FAIL();
	RIGHT(!flags && prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE &&
		prop->location.id == 0);
	file = memfd_create("page", MFD_CLOEXEC);
	if (file < 0 || ftruncate(file, (off_t)bytes) != 0)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*handle = (CUmemGenericAllocationHandle)file;
	return had();
}

SHOWN CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
	RIGHT(close((int)handle) == 0);
	return ended();
}

/* As the driver has it: what is mapped can be reached only after cuMemSetAccess. */
SHOWN CUresult cuMemMap(CUdeviceptr at, size_t bytes, size_t offset,
	CUmemGenericAllocationHandle handle, unsigned long long flags)
{
	WITH_CONTEXT();
	MAY_FAIL();
	RIGHT(!offset && !flags && at % PAGE_BYTES == 0);
	RIGHT(mmap((void *)(uintptr_t)at, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, (int)handle,
		      0) != MAP_FAILED);
	pthread_mutex_lock(&lock);
	RIGHT(mapping_count < MAPPINGS_MAX);
	mappings[mapping_count++] = at;
	pthread_mutex_unlock(&lock);
	return had();
}

SHOWN CUresult cuMemSetAccess(
	CUdeviceptr at, size_t bytes, const CUmemAccessDesc *access, size_t count)
{
	WITH_CONTEXT();
	MAY_FAIL();
	RIGHT(count == 1 && access->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	RIGHT(mprotect((void *)(uintptr_t)at, bytes, PROT_READ | PROT_WRITE) == 0);
	return CUDA_SUCCESS;
}

/* One call may end several mappings that lie side by side. */
SHOWN CUresult cuMemUnmap(CUdeviceptr at, size_t bytes)
{
	long ended_here = 0;

	WITH_CONTEXT();
	RIGHT(mmap((void *)(uintptr_t)at, bytes, PROT_NONE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
		      0) != MAP_FAILED);
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < mapping_count;) {
		if (mappings[i] - at < bytes) {
			mappings[i] = mappings[--mapping_count];
			ended_here++;
		} else {
			i++;
		}
	}
	pthread_mutex_unlock(&lock);
	RIGHT(ended_here > 0);
	atomic_fetch_sub(&held_count, ended_here - 1);
	return ended();
}

/* --------------------------------------------------------------------------- streams and events */

SHOWN CUresult cuStreamCreate(CUstream *stream, unsigned flags)
{
	WITH_CONTEXT();
	MAY_FAIL();
	RIGHT(flags == CU_STREAM_NON_BLOCKING);
	*stream = calloc(1, 8);
	return had();
}

SHOWN CUresult cuStreamDestroy(CUstream stream)
{
	WITH_CONTEXT();
	RIGHT(stream);
	free(stream);
	return ended();
}

SHOWN CUresult cuStreamSynchronize(CUstream stream)
{
	WITH_CONTEXT();
	RIGHT(capture_mode == CU_STREAM_CAPTURE_MODE_GLOBAL);
	(void)stream;
	return CUDA_SUCCESS;
}

SHOWN CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags)
{
	WITH_CONTEXT();
	MAY_FAIL();
	(void)stream;
	RIGHT(event && !flags);
	return CUDA_SUCCESS;
}

SHOWN CUresult cuEventCreate(CUevent *event, unsigned flags)
{
	WITH_CONTEXT();
	MAY_FAIL();
	RIGHT(flags == CU_EVENT_DEFAULT);
	*event = calloc(1, sizeof(uint64_t));
	return had();
}

SHOWN CUresult cuEventDestroy(CUevent event)
{
	WITH_CONTEXT();
	free(event);
	return ended();
}

SHOWN CUresult cuEventRecord(CUevent event, CUstream stream)
{
	uint64_t now_ns = clock_ns();

	WITH_CONTEXT();
	MAY_FAIL();
	(void)stream;
	memcpy(event, &now_ns, sizeof(now_ns));
	return CUDA_SUCCESS;
}

SHOWN CUresult cuEventQuery(CUevent event)
{
	WITH_CONTEXT();
	MAY_FAIL();
	(void)event;
	return CUDA_SUCCESS;
}

SHOWN CUresult cuEventSynchronize(CUevent event)
{
	WITH_CONTEXT();
	MAY_FAIL();
	(void)event;
	return CUDA_SUCCESS;
}

SHOWN CUresult cuEventElapsedTime(float *ms, CUevent from, CUevent to)
{
	uint64_t begin_ns, end_ns;

	WITH_CONTEXT();
	MAY_FAIL();
	memcpy(&begin_ns, from, sizeof(begin_ns));
	memcpy(&end_ns, to, sizeof(end_ns));
	*ms = (float)((double)(end_ns - begin_ns) / 1e6);
	return CUDA_SUCCESS;
}

/* ------------------------------------------------------------------------- copies and launches */

SHOWN CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
	WITH_CONTEXT();
	MAY_FAIL();
	(void)stream;
	memcpy((void *)(uintptr_t)to, from, bytes);
	return CUDA_SUCCESS;
}

SHOWN CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
	WITH_CONTEXT();
	MAY_FAIL();
	(void)stream;
	memcpy(to, (const void *)(uintptr_t)from, bytes);
	return CUDA_SUCCESS;
}

SHOWN CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
	WITH_CONTEXT();
	MAY_FAIL();
	(void)stream;
	memmove((void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes);
	return CUDA_SUCCESS;
}

SHOWN CUresult cuMemcpyBatchAsync(CUdeviceptr *to, CUdeviceptr *from, size_t *bytes, size_t count,
	CUmemcpyAttributes *attributes, size_t *first, size_t attribute_count, CUstream stream)
{
	WITH_CONTEXT();
	MAY_FAIL();
	RIGHT(count && attribute_count == 1 && *first == 0);
	RIGHT(attributes->srcAccessOrder == CU_MEMCPY_SRC_ACCESS_ORDER_STREAM);
	if (!stream)
		return CUDA_ERROR_INVALID_VALUE;
	for (size_t i = 0; i < count; i++) {
		RIGHT(range_known(to[i], bytes[i]) && range_known(from[i], bytes[i]));
		memcpy((void *)(uintptr_t)to[i], (const void *)(uintptr_t)from[i], bytes[i]);
	}
	return CUDA_SUCCESS;
}

SHOWN CUresult cuLaunchHostFunc(CUstream stream, CUhostFn work, void *argument)
{
	CUcontext own;

	WITH_CONTEXT();
	MAY_FAIL();
	RIGHT(stream && work);
	/* As on a thread of the driver: whatever it calls of the driver finds no context. */
	own = stack[--depth];
	work(argument);
	stack[depth++] = own;
	return CUDA_SUCCESS;
}

SHOWN CUresult cuMemsetD8Async(CUdeviceptr at, unsigned char byte, size_t bytes, CUstream stream)
{
	WITH_CONTEXT();
	MAY_FAIL();
	(void)stream;
	memset((void *)(uintptr_t)at, byte, bytes);
	return CUDA_SUCCESS;
}

struct function {
	const char *name;
	void (*work)(const void *args);
	unsigned args_bytes;
	int shared_bytes;
};

static struct function functions[KERNELS_MAX];
static int function_count;

void kernel(const char *name, void (*work)(const void *), unsigned args_bytes)
{
	RIGHT(function_count < KERNELS_MAX);
	functions[function_count++] = (struct function){
		.name = name, .work = work, .args_bytes = args_bytes, .shared_bytes = 48 << 10};
}

SHOWN CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
	static const unsigned char fatbin[4] = {0x50, 0xed, 0x55, 0xba}; /* fatbinary_section.h */

	WITH_CONTEXT();
	MAY_FAIL();
	RIGHT(memcmp(image, fatbin, sizeof(fatbin)) == 0 && (uintptr_t)image % 8 == 0);
	*module = (CUmodule)(uintptr_t)image;
	return had();
}

SHOWN CUresult cuModuleUnload(CUmodule module)
{
	WITH_CONTEXT();
	RIGHT(module);
	return ended();
}

SHOWN CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
	WITH_CONTEXT();
	MAY_FAIL();
	RIGHT(module);
	for (int i = 0; i < function_count; i++) {
		*function = (CUfunction)&functions[i];
		if (!strcmp(functions[i].name, name))
			return CUDA_SUCCESS;
	}
	return CUDA_ERROR_NOT_FOUND;
}

SHOWN CUresult cuFuncGetParamInfo(CUfunction function, size_t index, size_t *offset, size_t *bytes)
{
	WITH_CONTEXT();
	MAY_FAIL();
	RIGHT(index == 0);
	*offset = 0;
	*bytes = ((struct function *)function)->args_bytes;
	return CUDA_SUCCESS;
}

SHOWN CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function)
{
	WITH_CONTEXT();
	MAY_FAIL();
	RIGHT(attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
	*value = ((struct function *)function)->shared_bytes;
	return CUDA_SUCCESS;
}

SHOWN CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value)
{
	WITH_CONTEXT();
	MAY_FAIL();
	RIGHT(attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES && value <= SHARED_MAX);
	((struct function *)function)->shared_bytes = value;
	return CUDA_SUCCESS;
}

SHOWN CUresult cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z,
	unsigned threads, unsigned threads_y, unsigned threads_z, unsigned shared_bytes,
	CUstream stream, void **args, void **more)
{
	WITH_CONTEXT();
	MAY_FAIL();
	(void)stream;
	RIGHT(x && y && z && threads && threads_y == 1 && threads_z == 1 && !more);
	RIGHT((int)shared_bytes <= ((struct function *)function)->shared_bytes);
	if (threads > 1024)
		return CUDA_ERROR_INVALID_VALUE;
	((struct function *)function)->work(args[0]);
	return CUDA_SUCCESS;
}
