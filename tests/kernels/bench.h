/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_KERNELS_BENCH_H
#define SKEP_TESTS_KERNELS_BENCH_H

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/gpu.h"

/*
 * What the device's measurements share: rounds and their median, and rows that are printed as a
 * table, or as one JSON object at the end (--json). Ends the program when a call fails.
 */
#define BENCH_ROUNDS 9

struct bench {
	struct gpu *gpu;
	struct gpu_stream *stream;
	bool json, began;
};

#define BENCH_TRY(call)                                                                            \
	do {                                                                                       \
		int rc_ = (call);                                                                  \
                                                                                                   \
		if (rc_ < 0) {                                                                     \
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call,              \
				strerror(-rc_));                                                   \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static inline int bench_order(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Sorts @values. */
static inline double bench_median(double *values, size_t count)
{
	qsort(values, count, sizeof(*values), bench_order);
	return values[count / 2];
}

/* A heading of the table; the group of the rows that follow. */
static inline void bench_group(struct bench *bench, const char *name)
{
	if (bench->json)
		printf("%s\n  {\"group\": \"%s\", \"rows\": [", bench->began ? "]}," : "[", name);
	else
		printf("\n%s\n", name);
	bench->began = false;
	fflush(stdout);
}

/* One row: what, of how many bytes, how much of which unit; @ratio to a ceiling, or NAN. */
static inline void bench_row(struct bench *bench, const char *what, size_t bytes, double value,
	const char *unit, double ratio)
{
	if (bench->json) {
		printf("%s\n    {\"what\": \"%s\", \"bytes\": %zu, \"value\": %.6g, \"unit\": "
		       "\"%s\"",
			bench->began ? "," : "", what, bytes, value, unit);
		if (!isnan(ratio))
			printf(", \"ratio\": %.4f", ratio);
		printf("}");
	} else {
		printf("  %-44s %9zu KiB %12.3f %-5s", what, bytes >> 10, value, unit);
		if (!isnan(ratio))
			printf(" %6.3f", ratio);
		printf("\n");
	}
	bench->began = true;
	fflush(stdout);
}

static inline void bench_end(const struct bench *bench)
{
	if (bench->json)
		printf("]}\n]\n");
}

/* Answers `--device` alone: one line about the CUDA device, exit 1 where there is none. */
static inline void bench_device(void)
{
	const struct gpu_info *info;
	struct gpu *gpu;

	if (gpu_open(GPU_CUDA, 0, &gpu) < 0)
		exit(1);
	info = gpu_info(gpu);
	printf("%s, %u multiprocessors, %.1f GiB\n", info->name, info->processors,
		(double)info->memory_bytes / (1ull << 30));
	gpu_close(gpu);
	exit(0);
}

/*
 * Reads --json and --host, opens the device (CUDA unless there is none, or --host) and a stream.
 * False for arguments that it does not know.
 */
static inline bool bench_begin(struct bench *bench, int argc, char **argv)
{
	bool host = false;

	*bench = (struct bench){0};
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--json"))
			bench->json = true;
		else if (!strcmp(argv[i], "--host"))
			host = true;
		else if (!strcmp(argv[i], "--device"))
			bench_device();
		else
			return false;
	}
	if (host || gpu_open(GPU_CUDA, 0, &bench->gpu) < 0)
		BENCH_TRY(gpu_open(GPU_HOST, 0, &bench->gpu));
	BENCH_TRY(gpu_stream_create(bench->gpu, &bench->stream));
	if (!bench->json)
		printf("device %s, %u processors, medians of %d\n", gpu_info(bench->gpu)->name,
			gpu_info(bench->gpu)->processors, BENCH_ROUNDS);
	return true;
}

static inline bool bench_on_host(const struct bench *bench)
{
	return gpu_info(bench->gpu)->back_end == GPU_HOST;
}

#endif
