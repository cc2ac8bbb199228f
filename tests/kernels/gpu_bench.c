/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the calls of gpu.h cost on a device: pages, registration, copies, launches. Times are of
 * this machine's clock around the call and, where work is submitted, its end; copies are set beside
 * one plain copy of the same bytes between page-locked and device memory, in the same rounds.
 *
 *	gpu_bench [--json] [--host]
 *	gpu_bench --device	(which device: one line, exit 1 where there is none)
 *
 * On the host back end sizes are small: there it only shows that the program runs.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "kernels/pattern.h"
#include "tests/kernels/bench.h"
#ifdef BENCH_DRIVER
#include "kernels/gpu_cuda_priv.h"
#endif

#define MIB ((size_t)1 << 20)

static double us_since(uint64_t began_ns)
{
	return (double)(clock_ns() - began_ns) / 1e3;
}

/* ---------------------------------------------------------------------------- ranges and pages */

enum page_step { RESERVE, CREATE, MAP, UNMAP, UNMAP_RUN, DESTROY, UNRESERVE, PAGE_STEPS };

static const char *const page_words[PAGE_STEPS] = {"reserve (the whole range)", "create",
	"map and allow access", "unmap", "unmap, all by one call", "destroy",
	"give the range back"};

/* One round: @count pages of @bytes from nothing to nothing; µs a call. */
static void pages_round(struct bench *bench, size_t bytes, size_t count, double us[PAGE_STEPS])
{
	struct gpu_page *pages[64];
	struct gpu *gpu = bench->gpu;
	uint64_t at, began_ns = clock_ns();

	BENCH_TRY(gpu_reserve(gpu, 2 * count * bytes, &at));
	us[RESERVE] = us_since(began_ns);
	began_ns = clock_ns();
	for (size_t i = 0; i < count; i++)
		BENCH_TRY(gpu_page_create(gpu, bytes, &pages[i]));
	us[CREATE] = us_since(began_ns) / (double)count;
	began_ns = clock_ns();
	for (size_t i = 0; i < count; i++)
		BENCH_TRY(gpu_map(gpu, at + i * bytes, pages[i]));
	us[MAP] = us_since(began_ns) / (double)count;
	/* Each at a second place, all of which are unmapped by one call. */
	for (size_t i = 0; i < count; i++)
		BENCH_TRY(gpu_map(gpu, at + (count + i) * bytes, pages[i]));
	BENCH_TRY(gpu_fill(bench->stream, at, 0x5a, 2 * count * bytes));
	BENCH_TRY(gpu_stream_sync(bench->stream));
	began_ns = clock_ns();
	for (size_t i = 0; i < count; i++)
		gpu_unmap(gpu, at + i * bytes, bytes);
	us[UNMAP] = us_since(began_ns) / (double)count;
	began_ns = clock_ns();
	gpu_unmap(gpu, at + count * bytes, count * bytes);
	us[UNMAP_RUN] = us_since(began_ns) / (double)count;
	began_ns = clock_ns();
	for (size_t i = 0; i < count; i++)
		gpu_page_destroy(gpu, pages[i]);
	us[DESTROY] = us_since(began_ns) / (double)count;
	began_ns = clock_ns();
	gpu_unreserve(gpu, at, 2 * count * bytes);
	us[UNRESERVE] = us_since(began_ns);
}

static void measure_pages(struct bench *bench)
{
	static const size_t mib[] = {2, 4, 8, 16, 64, 256};
	size_t sizes = bench_on_host(bench) ? 1 : ARRAY_COUNT(mib);

	bench_group(bench, "pages: each");
	for (size_t s = 0; s < sizes; s++) {
		size_t bytes = mib[s] * MIB;
		/* Up to 2 GiB at a time. */
		size_t count = bench_on_host(bench) ? 2 : MIN_OF(32, 2048 / mib[s]);
		double us[PAGE_STEPS], all[PAGE_STEPS][BENCH_ROUNDS];

		pages_round(bench, bytes, count, us);
		for (size_t round = 0; round < BENCH_ROUNDS; round++) {
			pages_round(bench, bytes, count, us);
			for (size_t i = 0; i < PAGE_STEPS; i++)
				all[i][round] = us[i];
		}
		for (size_t i = 0; i < PAGE_STEPS; i++)
			us[i] = bench_median(all[i], BENCH_ROUNDS);
		for (size_t i = 0; i < PAGE_STEPS; i++)
			bench_row(bench, page_words[i],
				i == RESERVE || i == UNRESERVE ? 2 * count * bytes : bytes, us[i],
				"us", NAN);
		bench_row(bench, "memory had, create and map", bytes,
			(double)bytes / (us[CREATE] + us[MAP]) / 1e3, "GB/s", NAN);
	}
}

static void measure_alloc(struct bench *bench)
{
	static const size_t mib[] = {2, 64, 256, 1024};
	size_t sizes = bench_on_host(bench) ? 1 : ARRAY_COUNT(mib);

	bench_group(bench, "plain allocations");
	for (size_t s = 0; s < sizes; s++) {
		double had[BENCH_ROUNDS], gone[BENCH_ROUNDS];

		for (size_t round = 0; round < BENCH_ROUNDS; round++) {
			uint64_t at, began_ns = clock_ns();

			BENCH_TRY(gpu_alloc(bench->gpu, mib[s] * MIB, &at));
			had[round] = us_since(began_ns);
			began_ns = clock_ns();
			gpu_free(bench->gpu, at);
			gone[round] = us_since(began_ns);
		}
		bench_row(bench, "allocate", mib[s] * MIB, bench_median(had, BENCH_ROUNDS), "us",
			NAN);
		bench_row(bench, "free", mib[s] * MIB, bench_median(gone, BENCH_ROUNDS), "us", NAN);
	}
}

/* -------------------------------------------------------------------------------- registration */

enum backing { SMALL_PAGES, LARGE_PAGES, HUGETLB_PAGES, BACKINGS };

static const char *const backing_words[BACKINGS] = {
	"4 KiB pages (memory file)", "2 MiB pages (on advice)", "2 MiB pages (hugetlb)"};

/* Memory of this machine, written once, on pages of that kind; NULL where there are none. */
static unsigned char *memory_of(enum backing backing, size_t bytes)
{
	int flags = backing == SMALL_PAGES ? MAP_SHARED : MAP_PRIVATE, file = -1;
	void *at;

	if (backing == SMALL_PAGES) {
		file = memfd_create("chunk", MFD_CLOEXEC);
		if (file < 0 || ftruncate(file, (off_t)bytes) != 0)
			exit(1);
	} else {
		flags |= MAP_ANONYMOUS | (backing == HUGETLB_PAGES ? MAP_HUGETLB : 0);
	}
	at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, file, 0);
	if (file >= 0)
		close(file);
	if (at == MAP_FAILED)
		return NULL;
	/* Where advice is not followed, the row is that of small pages: it says so itself. */
	if (backing == LARGE_PAGES)
		madvise(at, bytes, MADV_HUGEPAGE);
	for (size_t i = 0; i < bytes / 8; i += 512 / 8)
		((uint64_t *)at)[i] = mix64(i);
	return at;
}

static void measure_register(struct bench *bench)
{
	static const size_t mib[] = {64, 256, 1024};
	size_t sizes = bench_on_host(bench) ? 1 : ARRAY_COUNT(mib);

	bench_group(bench, "page-locking memory that exists");
	for (enum backing backing = 0; backing < BACKINGS; backing++) {
		for (size_t s = 0; s < sizes; s++) {
			size_t bytes = bench_on_host(bench) ? 8 * MIB : mib[s] * MIB;
			unsigned char *memory = memory_of(backing, bytes);
			double in[BENCH_ROUNDS], out[BENCH_ROUNDS], ms;
			char what[80];

			if (!memory) {
				if (!bench->json)
					printf("  %s: this machine gives none\n",
						backing_words[backing]);
				break;
			}
			for (size_t round = 0; round < BENCH_ROUNDS; round++) {
				uint64_t began_ns = clock_ns();

				BENCH_TRY(gpu_register(bench->gpu, memory, bytes, false));
				in[round] = us_since(began_ns) / 1e3;
				began_ns = clock_ns();
				gpu_unregister(bench->gpu, memory);
				out[round] = us_since(began_ns) / 1e3;
			}
			munmap(memory, bytes);
			ms = bench_median(in, BENCH_ROUNDS);
			snprintf(what, sizeof(what), "register, %s", backing_words[backing]);
			bench_row(bench, what, bytes, ms, "ms", NAN);
			bench_row(
				bench, "  bandwidth", bytes, (double)bytes / ms / 1e6, "GB/s", NAN);
			bench_row(bench, "  unregister", bytes, bench_median(out, BENCH_ROUNDS),
				"ms", NAN);
		}
	}
}

/* -------------------------------------------------------------------------------------- copies */

/* How one total of bytes travels: from which memory, in pieces of what size, on how many streams in
 * turn, or all pieces by one call. */
struct travel {
	const char *what;
	unsigned char *memory;
	size_t piece_bytes; /* 0: all at once */
	size_t lanes;
	bool batch;
};

#define LANES_MAX  4
#define PIECES_MAX (256 * MIB / (16 << 10))

struct road {
	uint64_t device;
	size_t bytes;
	bool in;
	struct gpu_stream *lanes[LANES_MAX];
	uint64_t to[PIECES_MAX], from[PIECES_MAX];
	size_t piece_bytes[PIECES_MAX];
};

static void travel_pieces(const struct travel *travel, struct road *road, size_t piece)
{
	for (size_t at = 0; at < road->bytes; at += piece) {
		if (road->in)
			BENCH_TRY(gpu_copy_in(road->lanes[at / piece % travel->lanes],
				road->device + at, travel->memory + at, piece));
		else
			BENCH_TRY(gpu_copy_out(road->lanes[at / piece % travel->lanes],
				travel->memory + at, road->device + at, piece));
	}
}

static void travel_batch(const struct travel *travel, struct road *road, size_t piece)
{
	const struct gpu_batch batch = {.to = road->to,
		.from = road->from,
		.bytes = road->piece_bytes,
		.count = road->bytes / piece};

	for (size_t i = 0; i < batch.count; i++) {
		uint64_t device = road->device + i * piece;
		uint64_t memory = (uintptr_t)travel->memory + i * piece;

		road->to[i] = road->in ? device : memory;
		road->from[i] = road->in ? memory : device;
		road->piece_bytes[i] = piece;
	}
	BENCH_TRY(gpu_copy_batch(road->lanes[0], &batch));
}

/* GB/s of one journey, submission and end included. */
static double travel_once(const struct travel *travel, struct road *road)
{
	size_t piece = travel->piece_bytes ? MIN_OF(travel->piece_bytes, road->bytes) : road->bytes;
	uint64_t began_ns = clock_ns();

	if (travel->batch)
		travel_batch(travel, road, piece);
	else
		travel_pieces(travel, road, piece);
	for (size_t i = 0; i < travel->lanes; i++)
		BENCH_TRY(gpu_stream_sync(road->lanes[i]));
	return (double)road->bytes / (double)(clock_ns() - began_ns);
}

/* Whether the pattern @seed lies in device memory. */
static void require_pattern(struct bench *bench, uint64_t at, size_t bytes, uint64_t seed)
{
	struct pattern_found found = {.wrong_first = UINT64_MAX};
	uint64_t there;

	BENCH_TRY(gpu_alloc(bench->gpu, sizeof(found), &there));
	BENCH_TRY(gpu_copy_in(bench->stream, there, &found, sizeof(found)));
	BENCH_TRY(pattern_check(bench->gpu, bench->stream,
		&(struct pattern_check_args){
			.at = at, .words = bytes / 8, .seed = seed, .found = there}));
	BENCH_TRY(gpu_copy_out(bench->stream, &found, there, sizeof(found)));
	BENCH_TRY(gpu_stream_sync(bench->stream));
	gpu_free(bench->gpu, there);
	if (!found.wrong_count)
		return;
	fprintf(stderr, "%llu words of a copy are wrong, the first is number %llu\n",
		(unsigned long long)found.wrong_count, (unsigned long long)found.wrong_first);
	exit(1);
}

#define TRAVELS 14

/* One journey that is not timed: what arrives must be the pattern, in memory that was spoilt
 * before. */
static void travel_check(struct bench *bench, const struct travel *travel, struct road *road)
{
	const uint64_t *words = (const uint64_t *)travel->memory;

	if (road->in) {
		BENCH_TRY(gpu_fill(bench->stream, road->device, 0xa5, road->bytes));
		BENCH_TRY(gpu_stream_sync(bench->stream));
		travel_once(travel, road);
		require_pattern(bench, road->device, road->bytes, 1);
		return;
	}
	memset(travel->memory, 0xa5, road->bytes);
	travel_once(travel, road);
	for (size_t i = 0; i < road->bytes / 8; i++) {
		if (words[i] == pattern_word(1, i))
			continue;
		fprintf(stderr, "%s, out: word %zu is wrong\n", travel->what, i);
		exit(1);
	}
}

/* Device and memory hold the same pattern throughout. */
static void travel_all(
	struct bench *bench, const struct travel *travels, size_t count, struct road *road)
{
	double speed[TRAVELS][BENCH_ROUNDS], plain = 0;

	for (size_t i = 0; i < count; i++)
		travel_check(bench, &travels[i], road);
	for (size_t round = 0; round < BENCH_ROUNDS; round++)
		for (size_t i = 0; i < count; i++)
			speed[i][round] = travel_once(&travels[i], road);
	for (size_t i = 0; i < count; i++) {
		double gb_s = bench_median(speed[i], BENCH_ROUNDS);
		char what[80];

		plain = i ? plain : gb_s;
		snprintf(what, sizeof(what), "%s %s", road->in ? "in: " : "out:", travels[i].what);
		bench_row(bench, what,
			travels[i].piece_bytes ? travels[i].piece_bytes : road->bytes, gb_s, "GB/s",
			gb_s / plain);
	}
}

static void measure_travel(struct bench *bench)
{
	static struct road road;
	size_t bytes = (bench_on_host(bench) ? 2 : 256) * MIB;
	unsigned char *small = memory_of(SMALL_PAGES, bytes);
	unsigned char *large = memory_of(LARGE_PAGES, bytes);
	unsigned char *plain = memory_of(LARGE_PAGES, bytes);
	unsigned char *memories[4] = {NULL, small, large, plain};
	void *pinned;

	if (!small || !large || !plain)
		exit(1);
	BENCH_TRY(gpu_pinned_alloc(bench->gpu, bytes, &pinned));
	BENCH_TRY(gpu_register(bench->gpu, small, bytes, false));
	BENCH_TRY(gpu_register(bench->gpu, large, bytes, false));
	BENCH_TRY(gpu_alloc(bench->gpu, bytes, &road.device));
	road.bytes = bytes;
	for (size_t i = 0; i < LANES_MAX; i++)
		BENCH_TRY(gpu_stream_create(bench->gpu, &road.lanes[i]));
	memories[0] = pinned;
	for (size_t m = 0; m < 4; m++)
		for (size_t i = 0; i < bytes / 8; i++)
			((uint64_t *)memories[m])[i] = pattern_word(1, i);
	{
		const struct travel travels[TRAVELS] = {
			{"page-locked, one copy (the ceiling)", pinned, 0, 1, false},
			{"page-locked, a copy each 8 MiB", pinned, 8 * MIB, 1, false},
			{"page-locked, a copy each 2 MiB", pinned, 2 * MIB, 1, false},
			{"page-locked, 2 MiB on 2 streams", pinned, 2 * MIB, 2, false},
			{"page-locked, 2 MiB on 4 streams", pinned, 2 * MIB, 4, false},
			{"page-locked, 2 MiB in a batch", pinned, 2 * MIB, 1, true},
			{"page-locked, a copy each 64 KiB", pinned, 64 << 10, 1, false},
			{"page-locked, 64 KiB in a batch", pinned, 64 << 10, 1, true},
			{"page-locked, a copy each 16 KiB", pinned, 16 << 10, 1, false},
			{"page-locked, 16 KiB on 4 streams", pinned, 16 << 10, 4, false},
			{"page-locked, 16 KiB in a batch", pinned, 16 << 10, 1, true},
			{"registered, 4 KiB pages, one copy", small, 0, 1, false},
			{"registered, 2 MiB pages, one copy", large, 0, 1, false},
			{"not page-locked, one copy", plain, 0, 1, false},
		};

		bench_group(bench, "host to device and back; ratio to one page-locked copy");
		for (int in = 1; in >= 0; in--) {
			road.in = in;
			travel_all(bench, travels, TRAVELS, &road);
		}
	}
	for (size_t i = 0; i < LANES_MAX; i++)
		gpu_stream_destroy(road.lanes[i]);
	gpu_unregister(bench->gpu, small);
	gpu_unregister(bench->gpu, large);
	gpu_pinned_free(bench->gpu, pinned);
	gpu_free(bench->gpu, road.device);
	munmap(small, bytes);
	munmap(large, bytes);
	munmap(plain, bytes);
}

/* Device to device: bytes read and bytes written are counted, by the device's clock. */
static void measure_device_copy(struct bench *bench)
{
	static const size_t mib[] = {2, 16, 64, 256, 1024};
	size_t sizes = bench_on_host(bench) ? 1 : ARRAY_COUNT(mib);
	size_t most = mib[sizes - 1] * MIB;
	double speeds[ARRAY_COUNT(mib)], rounds[BENCH_ROUNDS];
	struct gpu_event *from, *to;
	uint64_t a, b;

	BENCH_TRY(gpu_alloc(bench->gpu, most, &a));
	BENCH_TRY(gpu_alloc(bench->gpu, most, &b));
	BENCH_TRY(gpu_event_create(bench->gpu, &from));
	BENCH_TRY(gpu_event_create(bench->gpu, &to));
	BENCH_TRY(pattern_fill(bench->gpu, bench->stream,
		&(struct pattern_fill_args){.at = a, .words = most / 8, .seed = 7}));
	for (size_t s = 0; s < sizes; s++) {
		size_t bytes = mib[s] * MIB, times = MAX_OF(1, 1024 * MIB / bytes / 4);

		if (bench_on_host(bench))
			times = 1;
		BENCH_TRY(gpu_copy(bench->stream, b, a, bytes));
		for (size_t round = 0; round < BENCH_ROUNDS; round++) {
			uint64_t ns;

			BENCH_TRY(gpu_event_record(from, bench->stream));
			for (size_t i = 0; i < times; i++)
				BENCH_TRY(gpu_copy(bench->stream, b, a, bytes));
			BENCH_TRY(gpu_event_record(to, bench->stream));
			BENCH_TRY(gpu_event_sync(to));
			BENCH_TRY(gpu_event_ns(from, to, &ns));
			rounds[round] = 2.0 * (double)(bytes * times) / (double)MAX_OF(ns, 1);
		}
		speeds[s] = bench_median(rounds, BENCH_ROUNDS);
	}
	require_pattern(bench, b, most, 7);
	bench_group(bench, "device to device, read and written; ratio to the largest");
	for (size_t s = 0; s < sizes; s++)
		bench_row(bench, "copy", mib[s] * MIB, speeds[s], "GB/s",
			speeds[s] / speeds[sizes - 1]);
	gpu_event_destroy(from);
	gpu_event_destroy(to);
	gpu_free(bench->gpu, a);
	gpu_free(bench->gpu, b);
}

/* ------------------------------------------------------------------------------------- launches */

#ifdef BENCH_DRIVER
/* The same launch by the driver's call alone, in a thread that has the context; µs each, or NAN. */
static double driver_launches(struct bench *bench, uint64_t at, uint64_t count)
{
	struct pattern_fill_args args = {.at = at, .words = 1};
	void *arguments[] = {&args};
	CUfunction function = NULL;
	CUcontext context;
	CUstream stream;
	CUresult result = CUDA_ERROR_NOT_FOUND;
	uint64_t began_ns;

	if (bench_on_host(bench))
		return NAN;
	driver.cuCtxPushCurrent(cuda_of(bench->gpu)->context);
	for (size_t i = 0; i < cuda_of(bench->gpu)->module_count && result; i++)
		result = driver.cuModuleGetFunction(
			&function, cuda_of(bench->gpu)->modules[i], "pattern_fill");
	if (!result)
		result = driver.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
	began_ns = clock_ns();
	for (uint64_t i = 0; i < count && !result; i++) {
		args.seed = i;
		result = driver.cuLaunchKernel(
			function, 1, 1, 1, 256, 1, 1, 0, stream, arguments, NULL);
	}
	began_ns = clock_ns() - began_ns;
	if (!result) {
		result = driver.cuStreamSynchronize(stream);
		driver.cuStreamDestroy(stream);
	}
	driver.cuCtxPopCurrent(&context);
	return result ? NAN : (double)began_ns / 1e3 / (double)count;
}
#else
static double driver_launches(struct bench *bench, uint64_t at, uint64_t count)
{
	(void)bench;
	(void)at;
	(void)count;
	return NAN;
}
#endif

static void measure_launches(struct bench *bench)
{
	const uint64_t launches = bench_on_host(bench) ? 100 : 1000;
	/* So few that no submission waits for the device. */
	const uint64_t few = launches / 5;
	double submitted[BENCH_ROUNDS], done[BENCH_ROUNDS], recorded[BENCH_ROUNDS];
	double plain[BENCH_ROUNDS];
	struct gpu_event *event;
	uint64_t at;

	BENCH_TRY(gpu_alloc(bench->gpu, 4096, &at));
	BENCH_TRY(gpu_event_create(bench->gpu, &event));
	for (size_t round = 0; round < BENCH_ROUNDS + 1; round++) {
		size_t place = round ? round - 1 : 0;
		uint64_t began_ns = clock_ns();

		for (uint64_t i = 0; i < launches; i++)
			BENCH_TRY(pattern_fill(bench->gpu, bench->stream,
				&(struct pattern_fill_args){.at = at, .words = 1, .seed = i}));
		BENCH_TRY(gpu_stream_sync(bench->stream));
		done[place] = us_since(began_ns) / (double)launches;
		began_ns = clock_ns();
		for (uint64_t i = 0; i < few; i++)
			BENCH_TRY(pattern_fill(bench->gpu, bench->stream,
				&(struct pattern_fill_args){.at = at, .words = 1, .seed = i}));
		submitted[place] = us_since(began_ns) / (double)few;
		BENCH_TRY(gpu_stream_sync(bench->stream));
		plain[place] = driver_launches(bench, at, few);
		BENCH_TRY(gpu_stream_sync(bench->stream));
		began_ns = clock_ns();
		for (uint64_t i = 0; i < launches; i++)
			BENCH_TRY(gpu_event_record(event, bench->stream));
		BENCH_TRY(gpu_stream_sync(bench->stream));
		recorded[place] = us_since(began_ns) / (double)launches;
	}
	require_pattern(bench, at, 8, few - 1);
	bench_group(bench, "launches in a row, one of them");
	submitted[0] = bench_median(submitted, BENCH_ROUNDS);
	plain[0] = bench_median(plain, BENCH_ROUNDS);
	bench_row(bench, "submit, the queue not full; over the driver's", 0, submitted[0], "us",
		submitted[0] / plain[0]);
	if (!isnan(plain[0]))
		bench_row(bench, "submit by the driver's own call", 0, plain[0], "us", NAN);
	bench_row(bench, "submit and done", 0, bench_median(done, BENCH_ROUNDS), "us", NAN);
	bench_row(bench, "record an event", 0, bench_median(recorded, BENCH_ROUNDS), "us", NAN);
	gpu_event_destroy(event);
	gpu_free(bench->gpu, at);
}

int main(int argc, char **argv)
{
	struct bench bench;

	if (!bench_begin(&bench, argc, argv)) {
		fprintf(stderr, "gpu_bench [--json] [--host] | --device\n");
		return 2;
	}
	measure_launches(&bench);
	measure_pages(&bench);
	measure_alloc(&bench);
	measure_register(&bench);
	measure_travel(&bench);
	measure_device_copy(&bench);
	bench_end(&bench);
	gpu_stream_destroy(bench.stream);
	gpu_close(bench.gpu);
	return 0;
}
