/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every call of gpu.h over both back ends: what it does, what it refuses, and that a failure of any
 * call leaves nothing behind. `gpu_test [seed]`; `gpu_test fault`: what a faulting kernel leaves of
 * the device (a process of its own, since its context is lost); `gpu_test driver`:
 * gpu_driver_test.c.
 */
#include <pthread.h>
#include <sys/mman.h>

#include "base/memory.h"
#include "kernels/pattern.h"
#include "tests/kernels/device.h"
#include "tests/kernels/gpu_test.h"

static uint64_t seed;

/* Counts the words at @at that are not the pattern of @pattern. */
static struct pattern_found compare(
	struct gpu *gpu, struct gpu_stream *stream, uint64_t at, uint64_t words, uint64_t pattern)
{
	struct pattern_found found = {.wrong_first = UINT64_MAX};
	uint64_t there;

	REQUIRE_EQ(gpu_alloc(gpu, sizeof(found), &there), 0);
	REQUIRE_EQ(gpu_copy_in(stream, there, &found, sizeof(found)), 0);
	REQUIRE_EQ(pattern_check(gpu, stream,
			   &(struct pattern_check_args){
				   .at = at, .words = words, .seed = pattern, .found = there}),
		0);
	REQUIRE_EQ(gpu_copy_out(stream, &found, there, sizeof(found)), 0);
	REQUIRE_EQ(gpu_stream_sync(stream), 0);
	gpu_free(gpu, there);
	return found;
}

/* The words at @at are the pattern of @pattern. */
static void require_words(
	struct gpu *gpu, struct gpu_stream *stream, uint64_t at, uint64_t words, uint64_t pattern)
{
	struct pattern_found found = compare(gpu, stream, at, words, pattern);

	if (!found.wrong_count)
		return;
	fprintf(stderr, "%s: %llu of %llu words are wrong, the first is number %llu\n",
		gpu_info(gpu)->name, (unsigned long long)found.wrong_count,
		(unsigned long long)words, (unsigned long long)found.wrong_first);
	exit(1);
}

static void write_words(
	struct gpu *gpu, struct gpu_stream *stream, uint64_t at, uint64_t words, uint64_t pattern)
{
	REQUIRE_EQ(pattern_fill(gpu, stream,
			   &(struct pattern_fill_args){.at = at, .words = words, .seed = pattern}),
		0);
}

static void info_is_complete(struct gpu *gpu)
{
	const struct gpu_info *info = gpu_info(gpu);

	REQUIRE(info->name[0] && info->page_bytes && info->memory_bytes && info->processors);
	REQUIRE_EQ(info->page_bytes & (info->page_bytes - 1), 0);
	REQUIRE(info->shared_bytes_max >= 48u << 10);
	REQUIRE((info->capability != 0) == (info->back_end == GPU_CUDA));
	REQUIRE(info->numa_node >= -1);
	REQUIRE(!gpu_broken(gpu));
}

/* -------------------------------------------------------------------------------------- pages */

static void one_page_shows_at_every_place(struct gpu *gpu)
{
	size_t unit = gpu_info(gpu)->page_bytes, words = unit / 8;
	struct gpu_page *a, *b;
	struct gpu_stream *stream;
	struct gpu_usage usage;
	uint64_t at, other;

	REQUIRE_EQ(gpu_stream_create(gpu, &stream), 0);
	REQUIRE_EQ(gpu_reserve(gpu, 4 * unit, &at), 0);
	REQUIRE_EQ(gpu_reserve(gpu, 4 * unit, &other), 0);
	REQUIRE(at % unit == 0 && other % unit == 0);
	REQUIRE_EQ(gpu_page_create(gpu, unit, &a), 0);
	REQUIRE_EQ(gpu_page_create(gpu, 2 * unit, &b), 0);
	REQUIRE_EQ(gpu_map(gpu, at, a), 0);
	REQUIRE_EQ(gpu_map(gpu, at + unit, b), 0);
	REQUIRE_EQ(gpu_map(gpu, at + 3 * unit, a), 0);
	REQUIRE_EQ(gpu_map(gpu, other + 2 * unit, b), 0);
	gpu_usage(gpu, &usage);
	REQUIRE_EQ(usage.mapped_bytes, 6 * unit);
	REQUIRE_EQ(usage.page_bytes, 3 * unit);
	REQUIRE_EQ(usage.reserved_bytes, 8 * unit);

	write_words(gpu, stream, at, words, seed);
	write_words(gpu, stream, at + unit, 2 * words, seed + 1);
	require_words(gpu, stream, at + 3 * unit, words, seed);
	require_words(gpu, stream, other + 2 * unit, 2 * words, seed + 1);
	write_words(gpu, stream, at + 3 * unit, words, seed + 2);
	require_words(gpu, stream, at, words, seed + 2);
	REQUIRE_EQ(compare(gpu, stream, at, words, seed).wrong_count, words);

	/* The bytes belong to the page, not to the place. */
	gpu_unmap(gpu, at, 4 * unit);
	REQUIRE_EQ(gpu_map(gpu, other, a), 0);
	REQUIRE_EQ(gpu_map(gpu, at, b), 0);
	require_words(gpu, stream, other, words, seed + 2);
	require_words(gpu, stream, at, 2 * words, seed + 1);
	gpu_unmap(gpu, other, unit);
	gpu_unmap(gpu, at, 2 * unit);
	gpu_unmap(gpu, other + 2 * unit, 2 * unit);
	gpu_page_destroy(gpu, a);
	gpu_page_destroy(gpu, b);
	gpu_unreserve(gpu, at, 4 * unit);
	gpu_unreserve(gpu, other, 4 * unit);
	gpu_stream_destroy(stream);
}

static void a_place_that_is_taken_is_refused(struct gpu *gpu)
{
	size_t unit = gpu_info(gpu)->page_bytes;
	struct gpu_page *one, *two;
	struct gpu_usage usage;
	uint64_t at;

	REQUIRE_EQ(gpu_reserve(gpu, 3 * unit, &at), 0);
	REQUIRE_EQ(gpu_page_create(gpu, unit, &one), 0);
	REQUIRE_EQ(gpu_page_create(gpu, 2 * unit, &two), 0);
	REQUIRE_EQ(gpu_map(gpu, at + unit, one), 0);
	REQUIRE_EQ(gpu_map(gpu, at + unit, one), -EINVAL);
	REQUIRE_EQ(gpu_map(gpu, at, two), -EINVAL);
	REQUIRE_EQ(gpu_map(gpu, at + unit, two), -EINVAL);
	REQUIRE_EQ(gpu_map(gpu, at + 2 * unit, two), -EINVAL); /* reaches past the end */
	REQUIRE_EQ(gpu_map(gpu, at + unit / 2, one), -EINVAL);
	REQUIRE_EQ(gpu_map(gpu, at + 3 * unit, one), -EINVAL);
	REQUIRE_EQ(gpu_map(gpu, at - unit, one), -EINVAL);
	gpu_usage(gpu, &usage);
	REQUIRE_EQ(usage.mapped_bytes, unit);
	gpu_unmap(gpu, at + unit, unit);
	REQUIRE_EQ(gpu_map(gpu, at + unit, two), 0);
	gpu_unmap(gpu, at + unit, 2 * unit);
	gpu_page_destroy(gpu, one);
	gpu_page_destroy(gpu, two);
	gpu_unreserve(gpu, at, 3 * unit);
}

/* ----------------------------------------------------------------- faults of our own: the books */

static void unmap_half_of_a_page(void *context)
{
	struct gpu *gpu;
	struct gpu_page *page;
	uint64_t at;
	size_t unit;

	(void)context;
	if (gpu_open(GPU_HOST, 0, &gpu) < 0)
		return;
	unit = gpu_info(gpu)->page_bytes;
	if (gpu_reserve(gpu, 2 * unit, &at) < 0 || gpu_page_create(gpu, 2 * unit, &page) < 0 ||
		gpu_map(gpu, at, page) < 0)
		return;
	gpu_unmap(gpu, at, unit);
}

static void destroy_a_mapped_page(void *context)
{
	struct gpu *gpu;
	struct gpu_page *page;
	uint64_t at;
	size_t unit;

	(void)context;
	if (gpu_open(GPU_HOST, 0, &gpu) < 0)
		return;
	unit = gpu_info(gpu)->page_bytes;
	if (gpu_reserve(gpu, unit, &at) < 0 || gpu_page_create(gpu, unit, &page) < 0 ||
		gpu_map(gpu, at, page) < 0)
		return;
	gpu_page_destroy(gpu, page);
}

static void free_twice(void *context)
{
	struct gpu *gpu;
	uint64_t at;

	(void)context;
	if (gpu_open(GPU_HOST, 0, &gpu) < 0 || gpu_alloc(gpu, 4096, &at) < 0)
		return;
	gpu_free(gpu, at);
	gpu_free(gpu, at);
}

static void close_with_a_rest(void *context)
{
	struct gpu *gpu;
	uint64_t at;

	(void)context;
	if (gpu_open(GPU_HOST, 0, &gpu) < 0 || gpu_alloc(gpu, 4096, &at) < 0)
		return;
	gpu_close(gpu);
}

static void faults_of_the_caller_abort(void)
{
	REQUIRE(unit_aborts(unmap_half_of_a_page, NULL));
	REQUIRE(unit_aborts(destroy_a_mapped_page, NULL));
	REQUIRE(unit_aborts(free_twice, NULL));
	REQUIRE(unit_aborts(close_with_a_rest, NULL));
}

/* ------------------------------------------------------------------------------ streams, events */

/* Two streams hand one buffer to and fro: without the events some round would see another's. */
static void events_order_streams(struct gpu *gpu)
{
	enum { WORDS = 1 << 17, ROUNDS = 40 };
	struct gpu_stream *writer, *reader;
	struct gpu_event *written, *read;
	uint64_t buffer, copies;

	REQUIRE_EQ(gpu_stream_create(gpu, &writer), 0);
	REQUIRE_EQ(gpu_stream_create(gpu, &reader), 0);
	REQUIRE_EQ(gpu_event_create(gpu, &written), 0);
	REQUIRE_EQ(gpu_event_create(gpu, &read), 0);
	REQUIRE_EQ(gpu_alloc(gpu, WORDS * 8, &buffer), 0);
	REQUIRE_EQ(gpu_alloc(gpu, (size_t)ROUNDS * WORDS * 8, &copies), 0);
	for (uint64_t i = 0; i < ROUNDS; i++) {
		write_words(gpu, writer, buffer, WORDS, seed + i);
		REQUIRE_EQ(gpu_event_record(written, writer), 0);
		REQUIRE_EQ(gpu_stream_wait(reader, written), 0);
		REQUIRE_EQ(gpu_copy(reader, copies + i * WORDS * 8, buffer, WORDS * 8), 0);
		REQUIRE_EQ(gpu_event_record(read, reader), 0);
		REQUIRE_EQ(gpu_stream_wait(writer, read), 0);
	}
	REQUIRE_EQ(gpu_event_sync(read), 0);
	REQUIRE_EQ(gpu_event_done(read), 1);
	for (uint64_t i = 0; i < ROUNDS; i++)
		require_words(gpu, reader, copies + i * WORDS * 8, WORDS, seed + i);
	gpu_event_destroy(written);
	gpu_event_destroy(read);
	gpu_stream_destroy(writer);
	gpu_stream_destroy(reader);
	gpu_free(gpu, buffer);
	gpu_free(gpu, copies);
}

static void events_measure(struct gpu *gpu)
{
	enum { WORDS = 1 << 20 };
	struct gpu_stream *stream;
	struct gpu_event *from, *to;
	uint64_t at, ns = 0, began_ns, took_ns;

	REQUIRE_EQ(gpu_stream_create(gpu, &stream), 0);
	REQUIRE_EQ(gpu_event_create(gpu, &from), 0);
	REQUIRE_EQ(gpu_event_create(gpu, &to), 0);
	REQUIRE_EQ(gpu_alloc(gpu, WORDS * 8, &at), 0);
	REQUIRE_EQ(gpu_event_done(from), 1);
	REQUIRE_EQ(gpu_event_sync(from), 0);
	REQUIRE_EQ(gpu_stream_wait(stream, from), 0);
	REQUIRE_EQ(gpu_event_ns(from, to, &ns), -EINVAL);
	began_ns = clock_ns();
	REQUIRE_EQ(gpu_event_record(from, stream), 0);
	write_words(gpu, stream, at, WORDS, seed);
	REQUIRE_EQ(gpu_event_record(to, stream), 0);
	REQUIRE_EQ(gpu_event_sync(to), 0);
	took_ns = clock_ns() - began_ns;
	REQUIRE_EQ(gpu_event_done(from), 1);
	REQUIRE_EQ(gpu_event_ns(from, to, &ns), 0);
	/* The device's clock is not this machine's: a tenth of a millisecond is granted. */
	REQUIRE(ns > 0 && ns <= took_ns + 100000);
	/* An event may go while its record is still ahead. */
	for (int i = 0; i < 20; i++)
		write_words(gpu, stream, at, WORDS, seed + 1);
	REQUIRE_EQ(gpu_event_record(to, stream), 0);
	gpu_event_destroy(to);
	gpu_event_destroy(from);
	require_words(gpu, stream, at, WORDS, seed + 1);
	gpu_stream_destroy(stream);
	gpu_free(gpu, at);
}

/* More than any ring holds, without a wait between; then the end of the stream waits for all. */
static void a_long_queue_is_done_in_order(struct gpu *gpu)
{
	enum { COUNT = 3000 };
	struct gpu_stream *stream;
	unsigned char last = 0;
	void *pinned;
	uint64_t at;

	REQUIRE_EQ(gpu_stream_create(gpu, &stream), 0);
	REQUIRE_EQ(gpu_alloc(gpu, 4096, &at), 0);
	REQUIRE_EQ(gpu_pinned_alloc(gpu, 4096, &pinned), 0);
	for (unsigned i = 0; i < COUNT; i++)
		REQUIRE_EQ(gpu_fill(stream, at, (unsigned char)(i % 251), 4096), 0);
	REQUIRE_EQ(gpu_copy_out(stream, pinned, at, 4096), 0);
	gpu_stream_destroy(stream);
	memcpy(&last, (char *)pinned + 4095, 1);
	REQUIRE_EQ(last, (COUNT - 1) % 251);
	gpu_pinned_free(gpu, pinned);
	gpu_free(gpu, at);
}

static void streams_are_adopted_where_there_are_any(struct gpu *gpu)
{
	unsigned char byte = 0;
	struct gpu_stream *stream;
	uint64_t at;
	int rc = gpu_stream_adopt(gpu, 0, &stream);

	if (gpu_info(gpu)->back_end == GPU_HOST) {
		REQUIRE_EQ(rc, -ENOTSUP);
		return;
	}
	REQUIRE_EQ(rc, 0);
	REQUIRE_EQ(gpu_alloc(gpu, 4096, &at), 0);
	REQUIRE_EQ(gpu_fill(stream, at, 0x77, 4096), 0);
	REQUIRE_EQ(gpu_copy_out(stream, &byte, at + 99, 1), 0);
	REQUIRE_EQ(gpu_stream_sync(stream), 0);
	REQUIRE_EQ(byte, 0x77);
	gpu_stream_destroy(stream);
	REQUIRE_EQ(gpu_stream_adopt(gpu, 0, &stream), 0); /* theirs is still there */
	REQUIRE_EQ(gpu_fill(stream, at, 0x78, 4096), 0);
	REQUIRE_EQ(gpu_stream_sync(stream), 0);
	gpu_stream_destroy(stream);
	gpu_free(gpu, at);
}

static void launches_are_checked(struct gpu *gpu)
{
	static const struct gpu_kernel nobody = {"a_kernel_that_nobody_wrote", NULL};
	static const struct gpu_kernel fill = {"pattern_fill", pattern_fill_reference};
	struct pattern_fill_args args = {.words = 1};
	struct gpu_grid grid = {.threads = 32};
	struct gpu_stream *stream;
	char large[4104] = {0};

	REQUIRE_EQ(gpu_stream_create(gpu, &stream), 0);
	REQUIRE_EQ(gpu_alloc(gpu, 64, &args.at), 0);
	REQUIRE_EQ(gpu_launch(stream, &nobody, &grid, &args, sizeof(args)), -ENOTSUP);
	REQUIRE_EQ(gpu_launch(stream, &fill, &grid, large, sizeof(large)), -EINVAL);
	REQUIRE_EQ(gpu_launch(stream, &fill, &grid, &args, 0), -EINVAL);
	REQUIRE_EQ(gpu_launch(stream, &fill, &(struct gpu_grid){0}, &args, sizeof(args)), -EINVAL);
	if (gpu_info(gpu)->back_end == GPU_CUDA) {
		grid.shared_bytes = (unsigned)gpu_info(gpu)->shared_bytes_max + 1;
		REQUIRE_EQ(gpu_launch(stream, &fill, &grid, &args, sizeof(args)), -EINVAL);
		REQUIRE_EQ(gpu_launch(stream, &fill, &(struct gpu_grid){.threads = 4096}, &args,
				   sizeof(args)),
			-EINVAL);
		grid.shared_bytes = 0;
		REQUIRE_EQ(gpu_launch(stream, &fill, &grid, &args, sizeof(args) - 8), -EINVAL);
		grid.shared_bytes = (unsigned)gpu_info(gpu)->shared_bytes_max;
	}
	REQUIRE_EQ(gpu_launch(stream, &fill, &grid, &args, sizeof(args)), 0);
	require_words(gpu, stream, args.at, 1, 0);
	REQUIRE(!gpu_broken(gpu));
	gpu_free(gpu, args.at);
	gpu_stream_destroy(stream);
}

/* -------------------------------------------------------------------------------------- threads */

struct worker {
	struct gpu *gpu;
	uint64_t pattern;
	pthread_t thread;
};

/* Everything at once from a thread that the device never saw before. */
static void *worker_main(void *argument)
{
	struct worker *worker = argument;
	struct gpu *gpu = worker->gpu;
	size_t unit = gpu_info(gpu)->page_bytes;
	struct gpu_stream *stream;
	uint64_t range;

	REQUIRE_EQ(gpu_stream_create(gpu, &stream), 0);
	REQUIRE_EQ(gpu_reserve(gpu, 4 * unit, &range), 0);
	for (uint64_t i = 0; i < 12; i++) {
		struct gpu_page *page;
		uint64_t at = range + i % 4 * unit;

		REQUIRE_EQ(gpu_page_create(gpu, unit, &page), 0);
		REQUIRE_EQ(gpu_map(gpu, at, page), 0);
		write_words(gpu, stream, at, unit / 8, worker->pattern + i);
		require_words(gpu, stream, at, unit / 8, worker->pattern + i);
		gpu_unmap(gpu, at, unit);
		gpu_page_destroy(gpu, page);
	}
	gpu_unreserve(gpu, range, 4 * unit);
	gpu_stream_destroy(stream);
	return NULL;
}

static void any_thread_may_call(struct gpu *gpu)
{
	struct worker workers[4];

	for (unsigned i = 0; i < 4; i++) {
		workers[i] = (struct worker){.gpu = gpu, .pattern = seed + 1000 * i};
		REQUIRE(pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]) == 0);
	}
	for (unsigned i = 0; i < 4; i++)
		REQUIRE(pthread_join(workers[i].thread, NULL) == 0);
}

/* ------------------------------------------------------------------------------------ failures */

/* One of each thing; what is 0 or NULL was not had. */
struct life {
	struct gpu *gpu;
	uint64_t memory, range, mapped[2];
	void *pinned, *chunk, *registered;
	struct gpu_page *page;
	struct gpu_stream *first, *second;
	struct gpu_event *from, *to;
	bool called;
};

static int life_take(struct life *life)
{
	size_t unit = gpu_info(life->gpu)->page_bytes;
	int rc = gpu_alloc(life->gpu, unit, &life->memory);

	if (rc == 0)
		rc = gpu_pinned_alloc(life->gpu, GPU_LIVE_BYTES, &life->pinned);
	if (rc == 0) {
		rc = gpu_register(life->gpu, life->chunk, GPU_LIVE_BYTES, false);
		life->registered = rc < 0 ? NULL : life->chunk;
	}
	if (rc == 0)
		rc = gpu_reserve(life->gpu, 5 * unit, &life->range);
	if (rc == 0)
		rc = gpu_page_create(life->gpu, unit, &life->page);
	for (unsigned i = 0; i < 2 && rc == 0; i++) {
		rc = gpu_map(life->gpu, life->range + i * unit, life->page);
		if (rc == 0)
			life->mapped[i] = life->range + i * unit;
	}
	if (rc == 0)
		rc = gpu_stream_create(life->gpu, &life->first);
	if (rc == 0)
		rc = gpu_stream_create(life->gpu, &life->second);
	if (rc == 0)
		rc = gpu_event_create(life->gpu, &life->from);
	if (rc == 0)
		rc = gpu_event_create(life->gpu, &life->to);
	return rc;
}

static void life_called(void *argument)
{
	*(bool *)argument = true;
}

static int life_work(struct life *life)
{
	struct pattern_fill_args args = {
		.at = life->mapped[0], .words = GPU_LIVE_BYTES / 8, .seed = seed};
	const uint64_t from = (uintptr_t)life->registered, to = (uintptr_t)life->pinned;
	const size_t bytes = GPU_LIVE_BYTES;
	const struct gpu_batch batch = {.to = &to, .from = &from, .bytes = &bytes, .count = 1};
	uint64_t ns;
	int rc = gpu_event_record(life->from, life->first);

	if (rc == 0)
		rc = gpu_fill(life->first, life->memory, 1, GPU_LIVE_BYTES);
	if (rc == 0)
		rc = gpu_copy_in(life->first, life->memory, life->pinned, GPU_LIVE_BYTES);
	if (rc == 0)
		rc = pattern_fill(life->gpu, life->first, &args);
	if (rc == 0)
		rc = gpu_event_record(life->to, life->first);
	if (rc == 0)
		rc = gpu_stream_wait(life->second, life->to);
	if (rc == 0)
		rc = gpu_copy(life->second, life->memory, life->mapped[1], GPU_LIVE_BYTES);
	if (rc == 0)
		rc = gpu_copy_out(life->second, life->registered, life->memory, GPU_LIVE_BYTES);
	if (rc == 0)
		rc = gpu_copy_batch(life->second, &batch);
	if (rc == 0)
		rc = gpu_call(life->second, life_called, &life->called);
	if (rc == 0)
		rc = gpu_event_sync(life->to);
	if (rc == 0)
		rc = gpu_event_done(life->to);
	if (rc >= 0)
		rc = gpu_event_ns(life->from, life->to, &ns);
	return rc < 0 ? rc : gpu_stream_sync(life->second);
}

static void life_give(struct life *life)
{
	size_t unit = gpu_info(life->gpu)->page_bytes;

	if (life->second)
		gpu_stream_destroy(life->second);
	if (life->first)
		gpu_stream_destroy(life->first);
	if (life->from)
		gpu_event_destroy(life->from);
	if (life->to)
		gpu_event_destroy(life->to);
	for (unsigned i = 0; i < 2; i++)
		if (life->mapped[i])
			gpu_unmap(life->gpu, life->mapped[i], unit);
	if (life->page)
		gpu_page_destroy(life->gpu, life->page);
	if (life->range)
		gpu_unreserve(life->gpu, life->range, 5 * unit);
	if (life->registered)
		gpu_unregister(life->gpu, life->registered);
	if (life->pinned)
		gpu_pinned_free(life->gpu, life->pinned);
	if (life->memory)
		gpu_free(life->gpu, life->memory);
}

int gpu_live(struct gpu *gpu, void *chunk)
{
	struct life life = {.gpu = gpu, .chunk = chunk};
	struct gpu_usage usage;
	int rc = life_take(&life);

	if (rc == 0) {
		memset(life.pinned, 0x42, GPU_LIVE_BYTES);
		rc = life_work(&life);
	}
	REQUIRE(rc < 0 || life.called);
	if (rc == 0)
		for (size_t i = 0; i < GPU_LIVE_BYTES / 8; i++)
			REQUIRE(((uint64_t *)chunk)[i] == pattern_word(seed, i));
	life_give(&life);
	gpu_usage(gpu, &usage);
	REQUIRE(memcmp(&usage, &(struct gpu_usage){0}, sizeof(usage)) == 0);
	return rc;
}

static void a_failure_at_any_call_leaves_nothing(struct gpu *gpu)
{
	void *chunk = mmap(
		NULL, GPU_LIVE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t calls = gpu_calls(gpu), nth;

	REQUIRE(chunk != MAP_FAILED);
	REQUIRE_EQ(gpu_live(gpu, chunk), 0);
	calls = gpu_calls(gpu) - calls;
	REQUIRE(calls >= 20);
	for (nth = 1; nth <= calls; nth++) {
		gpu_fail_nth(gpu, nth, -EREMOTEIO); /* no back end says this by itself */
		REQUIRE_EQ(gpu_live(gpu, chunk), -EREMOTEIO);
	}
	gpu_fail_nth(gpu, 1, -ENOMEM);
	gpu_fail_nth(gpu, 0, 0);
	REQUIRE_EQ(gpu_live(gpu, chunk), 0);
	/* So does a failure of any allocation of our own. */
	for (nth = 1;; nth++) {
		int rc;

		memory_fail_after(nth, 0);
		rc = gpu_live(gpu, chunk);
		memory_fail_after(0, 0);
		if (rc == 0)
			break;
		REQUIRE_EQ(rc, -ENOMEM);
	}
	REQUIRE(nth > 8);
	printf("%s: %llu calls and %llu allocations failed in turn\n", gpu_info(gpu)->name,
		(unsigned long long)calls, (unsigned long long)nth - 1);
	munmap(chunk, GPU_LIVE_BYTES);
}

static void an_open_that_fails_leaves_nothing(void)
{
	struct gpu *gpu;
	int rc = gpu_open(GPU_CUDA, 4096, &gpu);

	REQUIRE(rc == -ENODEV || rc == -ENOTSUP);
	for (unsigned long nth = 1; nth < 10; nth++) {
		memory_fail_after(nth, 0);
		rc = gpu_open(GPU_HOST, 0, &gpu);
		memory_fail_after(0, 0);
		if (rc == 0)
			device_close(gpu);
		else
			REQUIRE_EQ(rc, -ENOMEM);
		REQUIRE(rc == 0 || nth < 9);
	}
}

/* A kernel that writes where nothing is: told at the next sync, and never forgotten. */
static int fault(void)
{
	struct gpu_stream *stream;
	struct gpu *gpu;
	uint64_t at, range;
	int rc = gpu_open(GPU_CUDA, 0, &gpu);

	if (rc == -ENODEV || rc == -ENOTSUP) {
		printf("skip: no CUDA device\n");
		return 77;
	}
	REQUIRE_EQ(rc, 0);
	REQUIRE_EQ(gpu_stream_create(gpu, &stream), 0);
	REQUIRE_EQ(gpu_reserve(gpu, gpu_info(gpu)->page_bytes, &range), 0);
	REQUIRE_EQ(gpu_alloc(gpu, 4096, &at), 0);
	write_words(gpu, stream, range, 64, seed); /* reserved, nothing mapped */
	REQUIRE_EQ(gpu_stream_sync(stream), -EIO);
	REQUIRE(gpu_broken(gpu));
	REQUIRE(gpu_fill(stream, at, 0, 4096) < 0);
	gpu_free(gpu, at);
	gpu_unreserve(gpu, range, gpu_info(gpu)->page_bytes);
	gpu_stream_destroy(stream);
	device_close(gpu);
	return 0;
}

void gpu_everything(struct gpu *gpu)
{
	info_is_complete(gpu);
	gpu_memory(gpu, seed);
	one_page_shows_at_every_place(gpu);
	a_place_that_is_taken_is_refused(gpu);
	events_order_streams(gpu);
	events_measure(gpu);
	a_long_queue_is_done_in_order(gpu);
	streams_are_adopted_where_there_are_any(gpu);
	launches_are_checked(gpu);
	any_thread_may_call(gpu);
	a_failure_at_any_call_leaves_nothing(gpu);
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "fault"))
		return fault();
	if (argc > 1 && !strcmp(argv[1], "driver"))
		return gpu_driver();
	seed = unit_seed(argc, argv);
	faults_of_the_caller_abort(); /* forks: before a driver is opened */
	an_open_that_fails_leaves_nothing();
	device_each(gpu_everything);
	return 0;
}
