/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/memory.h"
#include "kernels/gpu_cuda_priv.h"

struct cuda_stream {
	struct gpu_stream stream;
	CUstream native;
	bool adopted;
};

struct cuda_event {
	struct gpu_event event;
	CUevent native;
};

static CUstream native_stream(const struct gpu_stream *stream)
{
	return ((const struct cuda_stream *)stream)->native;
}

static CUevent native_event(const struct gpu_event *event)
{
	return ((const struct cuda_event *)event)->native;
}

/* --------------------------------------------------------------------------- streams and events */

int cuda_stream_create(struct gpu *gpu, struct gpu_stream **stream)
{
	struct cuda_stream *made = memory_zalloc(sizeof(*made));
	bool entered;
	int rc;

	if (!made)
		return -ENOMEM;
	entered = cuda_enter(gpu);
	/* Not ordered with the engine's default stream: what has to wait, waits for an event. */
	rc = DRIVER(gpu, cuStreamCreate, &made->native, CU_STREAM_NON_BLOCKING);
	cuda_leave(entered);
	if (rc < 0) {
		memory_free(made);
		return rc;
	}
	*stream = &made->stream;
	return 0;
}

int cuda_stream_adopt(struct gpu *gpu, uintptr_t native, struct gpu_stream **stream)
{
	struct cuda_stream *made = memory_zalloc(sizeof(*made));

	(void)gpu;
	if (!made)
		return -ENOMEM;
	made->native = (CUstream)native;
	made->adopted = true;
	*stream = &made->stream;
	return 0;
}

void cuda_stream_destroy(struct gpu_stream *stream)
{
	struct cuda_stream *of = (struct cuda_stream *)stream;
	struct gpu *gpu = stream->gpu;
	bool entered = cuda_enter(gpu);

	/* An adopted stream may be gone already: nothing is asked of it. */
	if (!of->adopted) {
		DRIVER_END(gpu, cuStreamSynchronize, of->native);
		DRIVER_END(gpu, cuStreamDestroy, of->native);
	}
	cuda_leave(entered);
	memory_free(of);
}

int cuda_stream_sync(struct gpu_stream *stream)
{
	bool entered = cuda_enter(stream->gpu);
	int rc = DRIVER(stream->gpu, cuStreamSynchronize, native_stream(stream));

	cuda_leave(entered);
	return rc;
}

int cuda_stream_wait(struct gpu_stream *stream, struct gpu_event *event)
{
	bool entered = cuda_enter(stream->gpu);
	int rc = DRIVER(stream->gpu, cuStreamWaitEvent, native_stream(stream), native_event(event),
		CU_EVENT_WAIT_DEFAULT);

	cuda_leave(entered);
	return rc;
}

int cuda_event_create(struct gpu *gpu, struct gpu_event **event)
{
	struct cuda_event *made = memory_zalloc(sizeof(*made));
	bool entered;
	int rc;

	if (!made)
		return -ENOMEM;
	entered = cuda_enter(gpu);
	rc = DRIVER(gpu, cuEventCreate, &made->native, CU_EVENT_DEFAULT);
	cuda_leave(entered);
	if (rc < 0) {
		memory_free(made);
		return rc;
	}
	*event = &made->event;
	return 0;
}

void cuda_event_destroy(struct gpu_event *event)
{
	struct gpu *gpu = event->gpu;
	bool entered = cuda_enter(gpu);

	DRIVER_END(gpu, cuEventDestroy, native_event(event));
	cuda_leave(entered);
	memory_free(event);
}

int cuda_event_record(struct gpu_event *event, struct gpu_stream *stream)
{
	bool entered = cuda_enter(stream->gpu);
	int rc = DRIVER(stream->gpu, cuEventRecord, native_event(event), native_stream(stream));

	cuda_leave(entered);
	return rc;
}

int cuda_event_done(struct gpu_event *event)
{
	bool entered = cuda_enter(event->gpu);
	CUresult result = driver.cuEventQuery(native_event(event));
	int rc = 0;

	/* Not yet: an answer, which costs no look into the table of errors. */
	if (result != CUDA_ERROR_NOT_READY)
		rc = driver_status(event->gpu, result, "cuEventQuery");
	cuda_leave(entered);
	return result == CUDA_SUCCESS ? 1 : rc;
}

int cuda_event_sync(struct gpu_event *event)
{
	bool entered = cuda_enter(event->gpu);
	int rc = DRIVER(event->gpu, cuEventSynchronize, native_event(event));

	cuda_leave(entered);
	return rc;
}

int cuda_event_ns(struct gpu_event *from, struct gpu_event *to, uint64_t *ns)
{
	bool entered = cuda_enter(from->gpu);
	float ms = 0;
	int rc = DRIVER(from->gpu, cuEventElapsedTime, &ms, native_event(from), native_event(to));

	cuda_leave(entered);
	if (rc == 0)
		*ns = ms > 0 ? (uint64_t)((double)ms * 1e6) : 0;
	return rc;
}

/* --------------------------------------------------------------------------------------- copies */

int cuda_copy_in(struct gpu_stream *stream, uint64_t to, const void *from, size_t bytes)
{
	bool entered = cuda_enter(stream->gpu);
	int rc = DRIVER(stream->gpu, cuMemcpyHtoDAsync, to, from, bytes, native_stream(stream));

	cuda_leave(entered);
	return rc;
}

int cuda_copy_out(struct gpu_stream *stream, void *to, uint64_t from, size_t bytes)
{
	bool entered = cuda_enter(stream->gpu);
	int rc = DRIVER(stream->gpu, cuMemcpyDtoHAsync, to, from, bytes, native_stream(stream));

	cuda_leave(entered);
	return rc;
}

int cuda_copy(struct gpu_stream *stream, uint64_t to, uint64_t from, size_t bytes)
{
	bool entered = cuda_enter(stream->gpu);
	int rc = DRIVER(stream->gpu, cuMemcpyDtoDAsync, to, from, bytes, native_stream(stream));

	cuda_leave(entered);
	return rc;
}

/* The driver only reads the arrays, whatever its prototype says. */
int cuda_copy_batch(struct gpu_stream *stream, const struct gpu_batch *batch)
{
	CUmemcpyAttributes attributes = {.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM};
	size_t first = 0;
	bool entered = cuda_enter(stream->gpu);
	int rc;

	_Static_assert(sizeof(CUdeviceptr) == sizeof(uint64_t), "addresses are passed as they are");
	rc = DRIVER(stream->gpu, cuMemcpyBatchAsync, (CUdeviceptr *)(uintptr_t)batch->to,
		(CUdeviceptr *)(uintptr_t)batch->from, (size_t *)(uintptr_t)batch->bytes,
		batch->count, &attributes, &first, 1, native_stream(stream));
	cuda_leave(entered);
	return rc;
}

int cuda_call(struct gpu_stream *stream, void (*work)(void *argument), void *argument)
{
	bool entered = cuda_enter(stream->gpu);
	int rc = DRIVER(stream->gpu, cuLaunchHostFunc, native_stream(stream), work, argument);

	cuda_leave(entered);
	return rc;
}

int cuda_fill(struct gpu_stream *stream, uint64_t at, unsigned char byte, size_t bytes)
{
	bool entered = cuda_enter(stream->gpu);
	int rc = DRIVER(stream->gpu, cuMemsetD8Async, at, byte, bytes, native_stream(stream));

	cuda_leave(entered);
	return rc;
}

/* ------------------------------------------------------------------------------------- launches */

/* The place of @kernel: its own, or the free one where it belongs. NULL where the table is full. */
static struct cuda_function *function_place(struct cuda *cuda, const struct gpu_kernel *kernel)
{
	size_t at = mix64((uintptr_t)kernel) % CUDA_FUNCTIONS_MAX;

	for (size_t i = 0; i < CUDA_FUNCTIONS_MAX; i++) {
		struct cuda_function *place = &cuda->functions[(at + i) % CUDA_FUNCTIONS_MAX];
		/* Pairs with the release in function_find. */
		const struct gpu_kernel *there =
			atomic_load_explicit(&place->kernel, memory_order_acquire);

		if (there == kernel || !there)
			return place;
	}
	return NULL;
}

/* Asks the modules for @kernel and fills @place but for its name; with the context current. */
static int function_ask(
	struct cuda *cuda, const struct gpu_kernel *kernel, struct cuda_function *place)
{
	size_t offset;
	int rc = -ENOENT, shared = 0;

	for (size_t i = 0; i < cuda->module_count && rc == -ENOENT; i++)
		rc = DRIVER(&cuda->gpu, cuModuleGetFunction, &place->function, cuda->modules[i],
			kernel->name);
	if (rc == -ENOENT) {
		log_error("gpu", "no kernel of the name %s was built", kernel->name);
		return -ENOTSUP;
	}
	if (rc == 0)
		rc = DRIVER(&cuda->gpu, cuFuncGetParamInfo, place->function, 0, &offset,
			&place->args_bytes);
	if (rc == 0)
		rc = DRIVER(&cuda->gpu, cuFuncGetAttribute, &shared,
			CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, place->function);
	atomic_store_explicit(&place->shared_bytes, (unsigned)shared, memory_order_relaxed);
	return rc;
}

/* The function of @kernel, looked up once; with the context current. */
static int function_find(
	struct cuda *cuda, const struct gpu_kernel *kernel, struct cuda_function **found)
{
	struct cuda_function *place = function_place(cuda, kernel);
	int rc = 0;

	if (__builtin_expect(
		    place && atomic_load_explicit(&place->kernel, memory_order_acquire) == kernel,
		    1)) {
		*found = place;
		return 0;
	}
	pthread_mutex_lock(&cuda->functions_lock);
	place = function_place(cuda, kernel);
	if (!place)
		rc = -ENOMEM;
	else if (!atomic_load_explicit(&place->kernel, memory_order_relaxed))
		rc = function_ask(cuda, kernel, place);
	if (rc == 0) {
		/* Pairs with the acquire in function_place: the fields are complete. */
		atomic_store_explicit(&place->kernel, kernel, memory_order_release);
		*found = place;
	}
	pthread_mutex_unlock(&cuda->functions_lock);
	return rc;
}

/* Lets blocks of @function have @bytes of dynamic shared memory; with the context current. */
static int function_share(struct cuda *cuda, struct cuda_function *function, unsigned bytes)
{
	int rc = 0;

	pthread_mutex_lock(&cuda->functions_lock);
	if (bytes > atomic_load_explicit(&function->shared_bytes, memory_order_relaxed)) {
		rc = DRIVER(&cuda->gpu, cuFuncSetAttribute, function->function,
			CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)bytes);
		if (rc == 0)
			atomic_store_explicit(&function->shared_bytes, bytes, memory_order_release);
	}
	pthread_mutex_unlock(&cuda->functions_lock);
	return rc;
}

int cuda_launch(struct gpu_stream *stream, const struct gpu_kernel *kernel,
	const struct gpu_grid *grid, const void *args, size_t args_bytes)
{
	struct cuda *cuda = cuda_of(stream->gpu);
	bool entered = cuda_enter(stream->gpu);
	struct cuda_function *function;
	void *arguments[] = {(void *)(uintptr_t)args};
	int rc = function_find(cuda, kernel, &function);

	if (rc == 0 && function->args_bytes != args_bytes) {
		log_error("gpu", "%s takes %zu bytes of arguments, not %zu", kernel->name,
			function->args_bytes, args_bytes);
		rc = -EINVAL;
	}
	if (rc == 0 && grid->shared_bytes >
			       atomic_load_explicit(&function->shared_bytes, memory_order_acquire))
		rc = function_share(cuda, function, grid->shared_bytes);
	if (rc == 0)
		rc = DRIVER(stream->gpu, cuLaunchKernel, function->function,
			grid->blocks[0] ? grid->blocks[0] : 1,
			grid->blocks[1] ? grid->blocks[1] : 1,
			grid->blocks[2] ? grid->blocks[2] : 1, grid->threads, 1, 1,
			grid->shared_bytes, native_stream(stream), arguments, NULL);
	cuda_leave(entered);
	return rc;
}
