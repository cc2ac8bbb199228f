/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libskep-gpu over a node inside this process: whatever call of the device fails, nothing is left
 * behind on the device or in the store, and what can be had afterwards is right; parts go where
 * they lie, through the ring, and through page-locked memory where the pool is not registered
 * (yet). What is malformed is refused. With the argument `driver` the device is one of CUDA, over
 * the libcuda of tests/kernels/fake_cuda.c. Processes, orders and bad bytes are in
 * tests/node/tensors_test.c.
 */
#include <dlfcn.h>
#include <sys/wait.h>

#include "base/memory.h"
#include "kernels/gather_args.h"
#include "tests/engine/gpu/tensors_unit.h"
#include "tests/kernels/fake_cuda.h"

static enum skep_gpu_kind kind = SKEP_GPU_HOST;
static fake_cuda_fail_nth *driver_fail_nth; /* or NULL: calls of gpu.h are failed */
static const uint32_t pages[BLOCKS] = {3, 0, 5, 1, 4, 2};

/* How parts pass between pool and tensors. */
enum road { WHERE_THEY_LIE, STAGED, DIRECT, ROADS };

static struct skep_gpu_stats stats_of(struct skep_gpu *gpu)
{
	struct skep_gpu_stats stats = {.struct_bytes = sizeof(stats)};

	REQUIRE_EQ(skep_gpu_stats(gpu, &stats), 0);
	return stats;
}

static struct skep_gpu *device_open(enum road road)
{
	struct skep_gpu_options options = {.struct_bytes = sizeof(options),
		.kind = kind,
		.ring_slots = road == WHERE_THEY_LIE ? 0 : 2,
		.ring_parts = 2,
		.flags = road == STAGED ? SKEP_GPU_UNREGISTERED : 0};
	uint64_t until_ns = clock_ns() + 10 * NS_PER_S;
	struct skep_gpu *gpu;

	REQUIRE_EQ(skep_gpu_open(session, &options, &gpu), 0);
	/* From then on the library's thread makes no call of the device. */
	while (road == DIRECT && !stats_of(gpu).chunks_registered) {
		REQUIRE(clock_ns() < until_ns);
		usleep(1000);
	}
	return gpu;
}

static int save_begin(
	struct skep_gpu_plan *plan, struct skep_chain *chain, struct skep_gpu_job **job)
{
	struct skep_gpu_save save = {.struct_bytes = sizeof(save),
		.chain = chain,
		.count = BLOCKS,
		.pages = {pages, BLOCKS, 0},
		.deadline_ns = skep_deadline_ms(1000)};

	return skep_gpu_save_begin(plan, &save, job);
}

static int load_begin(
	struct skep_gpu_plan *plan, const struct skep_ref *refs, struct skep_gpu_job **job)
{
	struct skep_gpu_load load = {.struct_bytes = sizeof(load),
		.refs = refs,
		.count = BLOCKS,
		.pages = {pages, BLOCKS, 0}};

	return skep_gpu_load_begin(plan, &load, job);
}

/* Begins and ends. Return: blocks that are good, or the first error. */
static int save(struct skep_gpu_plan *plan, struct skep_chain *chain)
{
	struct skep_gpu_job *job;
	int rc = save_begin(plan, chain, &job);

	return rc < 0 ? rc : skep_gpu_end(job, NULL, skep_deadline_ms(1000));
}

static int load(struct skep_gpu_plan *plan, const struct skep_ref *refs)
{
	struct skep_gpu_job *job;
	int rc = load_begin(plan, refs, &job);

	return rc <= 0 ? rc : skep_gpu_end(job, NULL, 0);
}

/*
 * From nothing to nothing with one call of the device failing: a plan over the keys, and one over
 * the copy; saved, matched, loaded. Return: 0, or -EIO where the failure came through.
 */
static int life(enum road road, uint64_t nth, uint32_t story)
{
	struct skep_gpu *gpu = device_open(road);
	struct skep_gpu_plan *from = NULL, *to = NULL;
	struct skep_chain *chain = chain_of(story);
	struct skep_ref refs[BLOCKS];
	uint64_t bases[LAYERS * 2];
	struct skep_gpu_tensors tensors = tensors_of(keys[0], bases);
	int rc, had;

	if (driver_fail_nth)
		driver_fail_nth(nth);
	else
		gpu_fail_nth(gpu->device, nth, -EIO);
	rc = skep_gpu_plan_create(gpu, space, &tensors, &from);
	if (!rc) {
		tensors = tensors_of(copy, bases);
		rc = skep_gpu_plan_create(gpu, space, &tensors, &to);
	}
	if (!rc) {
		rc = save(from, chain);
		/* All of it or nothing; what failed can be saved at once. */
		had = (int)match(chain, refs).matched;
		REQUIRE_EQ(had, rc < 0 ? 0 : BLOCKS);
		if (rc < 0)
			REQUIRE_EQ(save(from, chain), BLOCKS);
	}
	if (rc > 0) {
		REQUIRE_EQ(match(chain, refs).matched, BLOCKS);
		memset(copy, 0xa5, sizeof(copy));
		rc = load(to, refs);
		if (rc < 0)
			REQUIRE_EQ(load(to, refs), BLOCKS);
		REQUIRE_EQ(memcmp(copy, keys, sizeof(keys)), 0);
	}
	if (driver_fail_nth)
		driver_fail_nth(0);
	REQUIRE(!stats_of(gpu).parts_direct || road == DIRECT);
	REQUIRE(!stats_of(gpu).parts_staged || road == STAGED);
	skep_gpu_plan_destroy(from);
	skep_gpu_plan_destroy(to);
	device_close(gpu, stats_of(gpu).bytes_registered);
	skep_chain_destroy(chain);
	REQUIRE(rc == -EIO || rc == BLOCKS);
	return rc < 0 ? rc : 0;
}

static void each_failure_leaves_nothing(enum road road)
{
	static const char *const names[ROADS] = {"where they lie", "staged", "direct"};
	static uint32_t stories = 500;
	uint64_t nth = 1;

	while (life(road, nth, stories++) < 0)
		nth++;
	printf("%s: %llu calls failed in turn\n", names[road], (unsigned long long)nth - 1);
	REQUIRE(nth > 20);
}

/* -------------------------------------------------------------------------- registered or not */

/* A device whose registrar does nothing but at registrar_turn(), with plans over keys and copy. */
struct bench {
	struct skep_gpu *gpu;
	struct skep_gpu_plan *from, *to;
	struct skep_chain *chain;
	struct skep_ref refs[BLOCKS];
};

static void bench_open(struct bench *bench, uint32_t story)
{
	uint64_t bases[LAYERS * 2];
	struct skep_gpu_tensors tensors = tensors_of(keys[0], bases);

	bench->gpu = device_open(STAGED);
	REQUIRE_EQ(registrar_create(session, bench->gpu->device, false, &bench->gpu->registrar), 0);
	REQUIRE_EQ(skep_gpu_plan_create(bench->gpu, space, &tensors, &bench->from), 0);
	tensors = tensors_of(copy, bases);
	REQUIRE_EQ(skep_gpu_plan_create(bench->gpu, space, &tensors, &bench->to), 0);
	bench->chain = chain_of(story);
	memset(copy, 0xa5, sizeof(copy));
}

static void bench_close(struct bench *bench)
{
	skep_gpu_plan_destroy(bench->from);
	skep_gpu_plan_destroy(bench->to);
	skep_chain_destroy(bench->chain);
	device_close(bench->gpu, stats_of(bench->gpu).bytes_registered);
}

static void bench_match(struct bench *bench)
{
	REQUIRE_EQ(match(bench->chain, bench->refs).matched, BLOCKS);
}

static void require_loaded(void)
{
	REQUIRE_EQ(memcmp(copy, keys, sizeof(keys)), 0);
	memset(copy, 0xa5, sizeof(copy));
}

/* Jobs that began before and after it go each their own way, in one ring. */
static void a_chunk_is_registered_amid_jobs(void)
{
	struct skep_gpu_job *first, *second;
	struct skep_gpu_stats stats;
	struct bench bench;

	bench_open(&bench, 3001);
	REQUIRE_EQ(save_begin(bench.from, bench.chain, &first), BLOCKS);
	REQUIRE(registrar_turn(bench.gpu->registrar));
	REQUIRE_EQ(skep_gpu_end(first, NULL, skep_deadline_ms(1000)), BLOCKS);
	stats = stats_of(bench.gpu);
	REQUIRE_EQ(stats.parts_staged, BLOCKS);
	REQUIRE_EQ(stats.bytes_staged, BLOCKS * PART_BYTES);
	REQUIRE_EQ(stats.chunks_registered, 1);
	REQUIRE(stats.bytes_registered >= BLOCKS * PART_BYTES && !stats.parts_direct);
	bench_match(&bench);
	REQUIRE_EQ(load(bench.to, bench.refs), BLOCKS);
	require_loaded();
	REQUIRE_EQ(stats_of(bench.gpu).parts_direct, BLOCKS);

	/* Back to nothing registered: as a new device that has not come round to it. */
	registrar_destroy(bench.gpu->registrar);
	REQUIRE_EQ(registrar_create(session, bench.gpu->device, false, &bench.gpu->registrar), 0);
	REQUIRE_EQ(load_begin(bench.to, bench.refs, &first), BLOCKS);
	REQUIRE(registrar_turn(bench.gpu->registrar));
	REQUIRE_EQ(load_begin(bench.to, bench.refs, &second), BLOCKS);
	skep_gpu_abort(first);
	REQUIRE_EQ(skep_gpu_end(second, NULL, 0), BLOCKS);
	require_loaded();
	stats = stats_of(bench.gpu);
	REQUIRE_EQ(stats.parts_staged, 2 * BLOCKS);
	REQUIRE_EQ(stats.parts_direct, 2 * BLOCKS);
	bench_close(&bench);
}

/* It is told and not tried again; what lies in it is saved and loaded all the same. */
static void a_refused_chunk_is_staged(void)
{
	struct skep_gpu_stats stats;
	struct bench bench;
	uint64_t calls;

	bench_open(&bench, 3002);
	gpu_fail_nth(bench.gpu->device, 1, -ENOMEM);
	REQUIRE(registrar_turn(bench.gpu->registrar));
	calls = gpu_calls(bench.gpu->device);
	REQUIRE(!registrar_turn(bench.gpu->registrar));
	REQUIRE_EQ(gpu_calls(bench.gpu->device), calls);
	stats = stats_of(bench.gpu);
	REQUIRE_EQ(stats.chunks_refused, 1);
	REQUIRE_EQ(stats.refusal, -ENOMEM);
	REQUIRE(!stats.chunks_registered && !stats.chunks_waiting && !stats.bytes_registered);
	REQUIRE_EQ(save(bench.from, bench.chain), BLOCKS);
	bench_match(&bench);
	REQUIRE_EQ(load(bench.to, bench.refs), BLOCKS);
	require_loaded();
	stats = stats_of(bench.gpu);
	REQUIRE_EQ(stats.parts_staged, 2 * BLOCKS);
	REQUIRE_EQ(stats.parts_direct, 0);
	bench_close(&bench);
}

/* Without memory nothing is opened; without memory for its list the registrar does it later. */
static void memory_that_fails_is_had_later(void)
{
	struct skep_gpu_options options = {
		.struct_bytes = sizeof(options), .kind = kind, .ring_slots = 2};
	struct bench bench;
	struct skep_gpu *gpu;
	unsigned long nth = 1;
	int rc;

	do {
		memory_fail_after(nth, 0);
		rc = skep_gpu_open(session, &options, &gpu);
		memory_fail_after(0, 0);
		REQUIRE(rc == 0 || rc == -ENOMEM);
		nth++;
	} while (rc < 0);
	/* The thread may have found none either; it looks again. */
	for (unsigned i = 0; !stats_of(gpu).chunks_registered; i++) {
		REQUIRE(i < 5000);
		usleep(1000);
	}
	REQUIRE(nth > 4);
	skep_gpu_close(gpu);

	bench_open(&bench, 3003);
	for (nth = 1; nth <= 3; nth++) {
		memory_fail_after(nth, 0);
		registrar_turn(bench.gpu->registrar);
		memory_fail_after(0, 0);
	}
	REQUIRE_EQ(stats_of(bench.gpu).chunks_registered, 1);
	bench_close(&bench);
}

/* ----------------------------------------------------------------------------------- the caller */

/* What a child of fork() finds: everything says so, and nothing waits for threads it has not. */
static void child_finds_nothing(struct bench *bench, struct skep_gpu_job *job)
{
	struct skep_gpu_stats stats = {.struct_bytes = sizeof(stats)};
	uint64_t bases[LAYERS * 2];
	struct skep_gpu_tensors tensors = tensors_of(keys[0], bases);
	struct skep_gpu_plan *plan;
	struct skep_gpu_job *other;

	REQUIRE_EQ(skep_gpu_stats(bench->gpu, &stats), -EOWNERDEAD);
	REQUIRE_EQ(skep_gpu_plan_create(bench->gpu, space, &tensors, &plan), -EOWNERDEAD);
	REQUIRE_EQ(save_begin(bench->from, bench->chain, &other), -EOWNERDEAD);
	REQUIRE_EQ(load_begin(bench->to, bench->refs, &other), -EOWNERDEAD);
	REQUIRE_EQ(skep_gpu_done(job), -EOWNERDEAD);
	REQUIRE_EQ(skep_gpu_end(job, NULL, 0), -EOWNERDEAD);
	skep_gpu_abort(job);
	skep_gpu_plan_destroy(bench->to);
	skep_gpu_close(bench->gpu);
}

static void a_child_of_fork_touches_nothing(void)
{
	struct skep_gpu_job *job;
	struct bench bench;
	int status;
	pid_t child;

	bench_open(&bench, 3004);
	REQUIRE_EQ(save(bench.from, bench.chain), BLOCKS);
	bench_match(&bench);
	REQUIRE_EQ(load_begin(bench.to, bench.refs, &job), BLOCKS);
	fflush(NULL);
	child = fork();
	REQUIRE(child >= 0);
	if (!child) {
		alarm(20);
		child_finds_nothing(&bench, job);
		_exit(0);
	}
	REQUIRE_EQ(waitpid(child, &status, 0), child);
	REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	REQUIRE_EQ(skep_gpu_end(job, NULL, 0), BLOCKS);
	require_loaded();
	bench_close(&bench);
}

static void malformed_stats_are_refused(struct skep_gpu *gpu)
{
	struct skep_gpu_stats stats = {.struct_bytes = 4, .refusal = 77};
	struct skep_gpu_options options = {.struct_bytes = sizeof(options), .flags = 2};
	struct skep_gpu *other;

	REQUIRE_EQ(skep_gpu_stats(gpu, NULL), -EINVAL);
	REQUIRE_EQ(skep_gpu_stats(NULL, &stats), -EINVAL);
	REQUIRE_EQ(skep_gpu_stats(gpu, &stats), -EINVAL);
	/* A caller that knows less is told no more. */
	stats.struct_bytes = offsetof(struct skep_gpu_stats, refusal);
	REQUIRE_EQ(skep_gpu_stats(gpu, &stats), 0);
	REQUIRE_EQ(stats.refusal, 77);
	REQUIRE_EQ(stats.struct_bytes, offsetof(struct skep_gpu_stats, refusal));
	REQUIRE_EQ(skep_gpu_open(session, &options, &other), -EINVAL);
}

static void malformed_is_refused(void)
{
	static const uint32_t far[BLOCKS] = {0, 1, 2, BLOCKS, 3, 4};
	struct skep_gpu *gpu = device_open(WHERE_THEY_LIE);
	struct skep_chain *chain = chain_of(1);
	struct skep_gpu_job *job, *other;
	struct skep_gpu_plan *plan;
	struct skep_ref refs[BLOCKS];
	struct skep_part_layout part = {0};
	uint64_t bases[LAYERS * 2];
	struct skep_gpu_tensors tensors = tensors_of(keys[0], bases);
	struct skep_gpu_save wrong = {.struct_bytes = sizeof(wrong),
		.chain = chain,
		.count = BLOCKS,
		.pages = {far, BLOCKS, 0},
		.deadline_ns = skep_deadline_ms(1000)};

	malformed_stats_are_refused(gpu);
	REQUIRE_EQ(skep_gpu_plan_create(gpu, space, &tensors, &plan), 0);
	REQUIRE_EQ(skep_gpu_save_begin(plan, &wrong, &job), -EINVAL); /* a page too far */
	wrong.pages = (struct skep_gpu_pages){pages, BLOCKS - 1, 0};
	REQUIRE_EQ(skep_gpu_save_begin(plan, &wrong, &job), -EINVAL); /* a page too few */
	wrong.pages = (struct skep_gpu_pages){pages, BLOCKS, BLOCK_TOKENS};
	REQUIRE_EQ(skep_gpu_save_begin(plan, &wrong, &job), -EINVAL); /* a slot too far */
	REQUIRE_EQ(save(plan, chain), BLOCKS);
	REQUIRE_EQ(save(plan, chain), 0);

	/* As many jobs as were asked for, and no more. */
	REQUIRE_EQ(match(chain, refs).matched, BLOCKS);
	REQUIRE_EQ(load_begin(plan, refs, &job), BLOCKS);
	REQUIRE_EQ(load_begin(plan, refs, &other), BLOCKS);
	REQUIRE_EQ(load_begin(plan, refs, &(struct skep_gpu_job *){NULL}), -EAGAIN);
	skep_gpu_abort(job);
	REQUIRE_EQ(load_begin(plan, refs, &job), BLOCKS);
	REQUIRE_EQ(skep_gpu_end(job, NULL, 0), BLOCKS);
	/* The other is under way when the plan goes. */
	skep_gpu_plan_destroy(plan);

	tensors.heads = 2; /* parts twice as long as the space's */
	tensors.head_bytes = TOKEN_BYTES;
	REQUIRE_EQ(skep_gpu_part(&tensors, &part), 0);
	REQUIRE_EQ(part.bytes, 2 * PART_BYTES);
	REQUIRE_EQ(skep_gpu_plan_create(gpu, space, &tensors, &plan), 0);
	REQUIRE_EQ(load_begin(plan, refs, &job), -EINVAL);
	skep_chain_destroy(chain);
	chain = chain_of(2);
	REQUIRE_EQ(save_begin(plan, chain, &job), -EINVAL);
	skep_gpu_plan_destroy(plan);
	tensors.ranges = 7;
	REQUIRE_EQ(skep_gpu_plan_create(gpu, space, &tensors, &plan), -EINVAL);
	tensors.head_bytes = 1u << 30;
	REQUIRE_EQ(skep_gpu_part(&tensors, &part), -E2BIG);
	skep_chain_destroy(chain);
	device_close(gpu, stats_of(gpu).bytes_registered);
}

/* The same for the calls of the driver, of which one of gpu.h may make several. */
static void each_call_of_the_driver_fails(fake_cuda_fail_nth *fail_nth)
{
	driver_fail_nth = fail_nth;
	for (unsigned road = STAGED; road < ROADS; road++)
		each_failure_leaves_nothing((enum road)road);
}

/* A device of CUDA, whose kernels are what they stand for on this machine. */
static fake_cuda_fail_nth *driver_use(void)
{
	static char names[2][16][32];
	void *library = dlopen("libcuda.so.1", RTLD_NOW);
	fake_cuda_kernel *kernel;
	fake_cuda_fail_nth *fail_nth;

	REQUIRE(library && gather_variant_count <= 16);
	kernel = (fake_cuda_kernel *)dlsym(library, "kernel");
	REQUIRE(kernel);
	for (uint32_t i = 0; i < gather_variant_count; i++) {
		const char *name = gather_variants[i].name;

		snprintf(names[0][i], sizeof(names[0][i]), "gather_%s", name);
		snprintf(names[1][i], sizeof(names[1][i]), "scatter_%s", name);
		kernel(names[0][i], gather_host, sizeof(struct gather_args));
		kernel(names[1][i], scatter_host, sizeof(struct gather_args));
	}
	kind = SKEP_GPU_CUDA;
	fail_nth = (fake_cuda_fail_nth *)dlsym(library, "fail_nth");
	REQUIRE(fail_nth);
	return fail_nth;
}

int main(int argc, char **argv)
{
	fake_cuda_fail_nth *fail_nth = NULL;

	if (argc > 1 && !strcmp(argv[1], "driver"))
		fail_nth = driver_use();
	tensors_begin();
	malformed_is_refused();
	a_chunk_is_registered_amid_jobs();
	a_refused_chunk_is_staged();
	memory_that_fails_is_had_later();
	a_child_of_fork_touches_nothing();
	/* A GPU has always a ring. */
	for (unsigned road = kind == SKEP_GPU_CUDA ? STAGED : 0; road < ROADS; road++)
		each_failure_leaves_nothing((enum road)road);
	if (fail_nth)
		each_call_of_the_driver_fails(fail_nth);
	skep_close(session);
	return 0;
}
