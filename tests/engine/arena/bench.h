/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_ARENA_BENCH_H
#define SKEP_TESTS_ARENA_BENCH_H

#include "engine/arena/arena.h"
#include "tests/base/unit.h"

/* Figures are gathered as rows and printed at the end, as a table or as JSON. */
enum { SAMPLES_MAX = 1 << 16 };

struct samples {
	uint32_t count;
	double values[SAMPLES_MAX];
};

struct bench {
	struct gpu *gpu;
	struct gpu_stream *stream;
	bool cuda;
	uint64_t random;
};

/* Empty; for one that is used at a time. */
struct samples *samples_new(void);
void samples_add(struct samples *samples, double value);
/* @share 0.5 is the median. */
double samples_at(struct samples *samples, double share);

/* One figure: the median of the samples, and what lies around it. */
void row(const char *section, const char *unit, struct samples *samples, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
void row_single(const char *section, const char *unit, double value, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
void rows_print(const struct bench *bench, bool json);

/* An arena of Llama-3-8B: 32 layers, 8 heads of 128 in 16 bits, blocks of 16 tokens. */
struct arena_options bench_llama(const struct bench *bench);
struct arena *bench_arena(const struct arena_options *options);
uint64_t bench_sync(const struct bench *bench); /* the time when all is done */

void bench_decode(struct bench *bench);
void bench_attach(struct bench *bench);
void bench_costs(struct bench *bench);

#endif
