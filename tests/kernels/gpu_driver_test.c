/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CUDA back end over a libcuda of this machine's memory, which fails as it is told: what no
 * driver can be made to do.
 */
#include <dlfcn.h>
#include <sys/mman.h>

#include "base/memory.h"
#include "kernels/pattern.h"
#include "tests/kernels/device.h"
#include "tests/kernels/fake_cuda.h"
#include "tests/kernels/gpu_test.h"

static struct {
	fake_cuda_kernel *kernel;
	fake_cuda_fail_nth *fail_nth;
	fake_cuda_fail_end *fail_end;
	fake_cuda_calls *calls;
	fake_cuda_held *held;
	int (*current)(void **context);
	int (*push)(void *context);
	int (*pop)(void **context);
} fake;

static void fake_open(void)
{
	void *library = dlopen("libcuda.so.1", RTLD_NOW);

	REQUIRE(library);
	fake.kernel = (fake_cuda_kernel *)dlsym(library, "kernel");
	fake.fail_nth = (fake_cuda_fail_nth *)dlsym(library, "fail_nth");
	fake.fail_end = (fake_cuda_fail_end *)dlsym(library, "fail_end");
	fake.calls = (fake_cuda_calls *)dlsym(library, "calls");
	fake.held = (fake_cuda_held *)dlsym(library, "held");
	fake.current = (int (*)(void **))dlsym(library, "cuCtxGetCurrent");
	fake.push = (int (*)(void *))dlsym(library, "cuCtxPushCurrent_v2");
	fake.pop = (int (*)(void **))dlsym(library, "cuCtxPopCurrent_v2");
	REQUIRE(fake.kernel && fake.fail_nth && fake.fail_end && fake.calls && fake.held);
	REQUIRE(fake.current && fake.push && fake.pop);
	fake.kernel("pattern_fill", pattern_fill_reference, sizeof(struct pattern_fill_args));
	fake.kernel("pattern_check", pattern_check_reference, sizeof(struct pattern_check_args));
}

static void an_open_that_fails_leaves_nothing(void)
{
	unsigned long calls = fake.calls(), nth;
	struct gpu *gpu;

	REQUIRE_EQ(gpu_open(GPU_CUDA, 0, &gpu), 0);
	device_close(gpu);
	calls = fake.calls() - calls;
	REQUIRE(calls >= 10);
	for (nth = 1; nth <= calls; nth++) {
		fake.fail_nth(nth);
		REQUIRE_EQ(gpu_open(GPU_CUDA, 0, &gpu), -EIO);
		REQUIRE_EQ(fake.held(), 0);
	}
	fake.fail_nth(0);
	for (nth = 1;; nth++) {
		int rc;

		memory_fail_after(nth, 0);
		rc = gpu_open(GPU_CUDA, 0, &gpu);
		memory_fail_after(0, 0);
		if (rc == 0)
			break;
		REQUIRE_EQ(rc, -ENOMEM);
		REQUIRE_EQ(fake.held(), 0);
	}
	REQUIRE(nth > 1);
	device_close(gpu);
	REQUIRE_EQ(fake.held(), 0);
	REQUIRE_EQ(gpu_open(GPU_CUDA, 1, &gpu), -ENODEV);
	printf("%lu calls of an open failed in turn\n", calls);
}

/* Each call that the driver may refuse, refused: told, and nothing is left. */
static void a_driver_that_fails_leaves_nothing(void *chunk)
{
	unsigned long calls, nth;
	struct gpu *gpu;
	long held;

	REQUIRE_EQ(gpu_open(GPU_CUDA, 0, &gpu), 0);
	held = fake.held();
	calls = fake.calls();
	REQUIRE_EQ(gpu_live(gpu, chunk), 0);
	calls = fake.calls() - calls;
	REQUIRE(calls >= 20);
	REQUIRE_EQ(fake.held(), held);
	for (nth = 1; nth <= calls; nth++) {
		int rc;

		/* A new device each time: what was looked up once is not asked for again. */
		device_close(gpu);
		REQUIRE_EQ(gpu_open(GPU_CUDA, 0, &gpu), 0);
		fake.fail_nth(nth);
		rc = gpu_live(gpu, chunk);
		REQUIRE_EQ(rc, -EIO);
		REQUIRE_EQ(fake.held(), held);
		REQUIRE(!gpu_broken(gpu));
	}
	fake.fail_nth(0);
	REQUIRE_EQ(gpu_live(gpu, chunk), 0);
	device_close(gpu);
	printf("%lu calls of a life failed in turn\n", calls);
}

/* A driver that refuses to take a thing back is a broken one. */
static void a_refused_end_breaks_the_device(void)
{
	struct gpu *gpu;
	uint64_t at;

	REQUIRE_EQ(gpu_open(GPU_CUDA, 0, &gpu), 0);
	REQUIRE_EQ(gpu_alloc(gpu, 4096, &at), 0);
	REQUIRE(!gpu_broken(gpu));
	fake.fail_end();
	gpu_free(gpu, at);
	REQUIRE(gpu_broken(gpu));
	device_close(gpu);
	REQUIRE_EQ(fake.held(), 0);
}

/* An engine's thread has a context of its own, or none, before and after. */
static void a_thread_keeps_its_context(void *chunk)
{
	static char other;
	struct gpu *gpu;
	void *now;

	fake.current(&now);
	REQUIRE(!now);
	REQUIRE_EQ(gpu_open(GPU_CUDA, 0, &gpu), 0);
	REQUIRE_EQ(gpu_live(gpu, chunk), 0);
	fake.current(&now);
	REQUIRE(!now);
	fake.push(&other);
	REQUIRE_EQ(gpu_live(gpu, chunk), 0);
	device_close(gpu);
	fake.pop(&now);
	REQUIRE(now == &other);
}

int gpu_driver(void)
{
	struct gpu *gpu;
	void *chunk = mmap(
		NULL, GPU_LIVE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	REQUIRE(chunk != MAP_FAILED);
	fake_open();
	an_open_that_fails_leaves_nothing();
	a_driver_that_fails_leaves_nothing(chunk);
	a_refused_end_breaks_the_device();
	a_thread_keeps_its_context(chunk);
	REQUIRE_EQ(gpu_open(GPU_CUDA, 0, &gpu), 0);
	gpu_everything(gpu);
	device_close(gpu);
	REQUIRE_EQ(fake.held(), 0);
	munmap(chunk, GPU_LIVE_BYTES);
	return 0;
}
