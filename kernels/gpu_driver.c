/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/gpu_driver_priv.h"

#include <dlfcn.h>
#include <errno.h>

#include "base/bits.h"
#include "base/log.h"

/*
 * The CUDA driver: opened at run time, its calls in a table, its errors translated here and nowhere
 * else. What is not in the table of errors is -EIO.
 */
struct driver driver;

/* fatal: the context is lost with it; quiet: an answer that a right program may get. */
#define ERROR_TABLE(X)                                                                             \
	X(CUDA_ERROR_OUT_OF_MEMORY, -ENOMEM, QUIET)                                                \
	X(CUDA_ERROR_INVALID_VALUE, -EINVAL, LOUD)                                                 \
	X(CUDA_ERROR_INVALID_HANDLE, -EINVAL, LOUD)                                                \
	X(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, -EINVAL, LOUD)                                       \
	X(CUDA_ERROR_NO_DEVICE, -ENODEV, QUIET)                                                    \
	X(CUDA_ERROR_INVALID_DEVICE, -ENODEV, QUIET)                                               \
	X(CUDA_ERROR_NOT_READY, -EAGAIN, QUIET)                                                    \
	X(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, -EEXIST, QUIET)                               \
	X(CUDA_ERROR_NOT_FOUND, -ENOENT, QUIET)                                                    \
	X(CUDA_ERROR_NOT_SUPPORTED, -ENOTSUP, QUIET)                                               \
	X(CUDA_ERROR_NO_BINARY_FOR_GPU, -ENOTSUP, LOUD)                                            \
	X(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, -ENODEV, LOUD)                                        \
	X(CUDA_ERROR_SYSTEM_NOT_READY, -ENODEV, LOUD)                                              \
	X(CUDA_ERROR_DEVICE_UNAVAILABLE, -ENODEV, LOUD)                                            \
	X(CUDA_ERROR_ILLEGAL_ADDRESS, -EIO, FATAL)                                                 \
	X(CUDA_ERROR_MISALIGNED_ADDRESS, -EIO, FATAL)                                              \
	X(CUDA_ERROR_INVALID_ADDRESS_SPACE, -EIO, FATAL)                                           \
	X(CUDA_ERROR_INVALID_PC, -EIO, FATAL)                                                      \
	X(CUDA_ERROR_ILLEGAL_INSTRUCTION, -EIO, FATAL)                                             \
	X(CUDA_ERROR_HARDWARE_STACK_ERROR, -EIO, FATAL)                                            \
	X(CUDA_ERROR_ASSERT, -EIO, FATAL)                                                          \
	X(CUDA_ERROR_LAUNCH_FAILED, -EIO, FATAL)                                                   \
	X(CUDA_ERROR_LAUNCH_TIMEOUT, -EIO, FATAL)                                                  \
	X(CUDA_ERROR_ECC_UNCORRECTABLE, -EIO, FATAL)                                               \
	X(CUDA_ERROR_NVLINK_UNCORRECTABLE, -EIO, FATAL)                                            \
	X(CUDA_ERROR_CONTEXT_IS_DESTROYED, -EIO, FATAL)                                            \
	X(CUDA_ERROR_DEINITIALIZED, -EIO, FATAL)

enum error_class { QUIET, LOUD, FATAL };

static const struct error_row {
	CUresult result;
	int status;
	enum error_class class;
} error_rows[] = {
#define X(result, status, class) {result, status, class},
	ERROR_TABLE(X)
#undef X
};

static void error_log(enum log_level level, CUresult result, const char *call)
{
	const char *name = NULL, *text = NULL;

	driver.cuGetErrorName(result, &name);
	driver.cuGetErrorString(result, &text);
	log_line(level, "gpu", "%s: %s (%s)", call, text ? text : "an error without a text",
		name ? name : "?");
}

/* Marks the device and answers whether it was broken already. */
static bool breaks(struct gpu *gpu)
{
	return gpu && atomic_exchange_explicit(&gpu->broken, true, memory_order_relaxed);
}

static int error_status(struct gpu *gpu, CUresult result, const char *call)
{
	struct error_row row = {.result = result, .status = -EIO, .class = LOUD};
	bool known = gpu && gpu_broken(gpu);

	for (size_t i = 0; i < ARRAY_COUNT(error_rows); i++)
		if (error_rows[i].result == result)
			row = error_rows[i];
	if (row.class == FATAL)
		known = breaks(gpu) || known;
	if (!known)
		error_log(row.class == QUIET ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR, result, call);
	return row.status;
}

int driver_status(struct gpu *gpu, CUresult result, const char *call)
{
	return __builtin_expect(result == CUDA_SUCCESS, 1) ? 0 : error_status(gpu, result, call);
}

void driver_ended(struct gpu *gpu, CUresult result, const char *call)
{
	if (result != CUDA_SUCCESS && !breaks(gpu))
		error_log(LOG_LEVEL_ERROR, result, call);
}

#define TEXT_OF(name)	    #name
#define EXPANDED_TEXT(name) TEXT_OF(name)

static int driver_status_open;

static void driver_open_once(void)
{
	void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);

	if (!library) {
		log_debug("gpu", "no CUDA driver: %s", dlerror());
		driver_status_open = -ENODEV;
		return;
	}
#define X(name)                                                                                    \
	driver.name = (__typeof__(driver.name))dlsym(library, EXPANDED_TEXT(name));                \
	if (!driver.name) {                                                                        \
		log_error("gpu", "the CUDA driver is too old: it has no " EXPANDED_TEXT(name));    \
		driver_status_open = -ENOTSUP;                                                     \
		return;                                                                            \
	}
	DRIVER_TABLE(X)
#undef X
	driver_status_open = driver_status(NULL, driver.cuInit(0), "cuInit");
}

int driver_open(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	/* The library stays open: threads of the driver may run in it until the process ends. */
	pthread_once(&once, driver_open_once);
	return driver_status_open;
}
