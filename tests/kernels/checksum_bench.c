/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a copy that verifies costs beside a plain memcpy. One process, one thread; source and
 * destination are both walked from end to end, so that neither lies in the cache; memcpy and the
 * variants take turns, the medians are compared. "out" copies from frames (a memory file, as the
 * daemon's chunks are) to memory of the process and compares the sum with the one stored beside the
 * frame; "put" copies the other way and stores the sum.
 *
 * checksum_bench [walk MiB, default 1024] [rounds, default 9] [block KiB …, default 512 2048 16384]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "kernels/checksum.h"
#include "kernels/checksum_priv.h"

#define ROUNDS_MAX   99
#define VARIANTS_MAX 8

struct walk {
	unsigned char *frames, *memory;
	uint64_t *sums;
	size_t bytes, block_bytes, rounds;
};

enum direction { OUT, PUT };

/* One pass over all blocks; @variant NULL is memcpy. Returns the sums that did not match. */
static size_t pass(
	const struct walk *walk, enum direction way, const struct checksum_variant *variant)
{
	size_t wrong = 0, block = 0;

	if (variant)
		checksum_variant_use(variant);
	for (size_t at = 0; at + walk->block_bytes <= walk->bytes; at += walk->block_bytes) {
		unsigned char *to = (way == OUT ? walk->memory : walk->frames) + at;
		unsigned char *from = (way == OUT ? walk->frames : walk->memory) + at;

		if (!variant)
			memcpy(to, from, walk->block_bytes);
		else if (way == OUT)
			wrong += checksum_copy(to, from, walk->block_bytes) != walk->sums[block];
		else
			walk->sums[block] = checksum_copy(to, from, walk->block_bytes);
		block++;
	}
	return wrong;
}

static int order(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
	qsort(values, count, sizeof(*values), order);
	return values[count / 2];
}

/* Prints one line a variant; returns the sums that did not match. */
static size_t measure(const struct walk *walk, enum direction way)
{
	static double speeds[VARIANTS_MAX][ROUNDS_MAX];
	const struct checksum_variant *variants[VARIANTS_MAX] = {NULL};
	size_t count = 1, wrong = 0;
	size_t bytes = walk->bytes / walk->block_bytes * walk->block_bytes;
	double plain = 0;

	for (size_t i = 0; checksum_variants[i] && count < VARIANTS_MAX; i++)
		if (checksum_variants[i]->supported())
			variants[count++] = checksum_variants[i];
	for (size_t round = 0; round < walk->rounds; round++) {
		for (size_t i = 0; i < count; i++) {
			uint64_t start_ns = clock_ns();

			wrong += pass(walk, way, variants[i]);
			speeds[i][round] = (double)bytes / (double)(clock_ns() - start_ns);
		}
	}
	for (size_t i = 0; i < count; i++) {
		double speed = median(speeds[i], walk->rounds);

		if (i == 0)
			plain = speed;
		printf("%6zu KiB  %s  %-7s %6.2f GB/s (%5.2f to %5.2f)  %.2f of memcpy\n",
			walk->block_bytes >> 10, way == OUT ? "out" : "put",
			variants[i] ? variants[i]->name : "memcpy", speed, speeds[i][0],
			speeds[i][walk->rounds - 1], speed / plain);
	}
	return wrong;
}

static void *map(size_t bytes, int file)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, file, 0);

	if (at == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return at;
}

static void walk_open(struct walk *walk)
{
	int file = memfd_create("frames", MFD_CLOEXEC);

	if (file < 0 || ftruncate(file, (off_t)walk->bytes) != 0) {
		perror("memfd");
		exit(1);
	}
	walk->frames = map(walk->bytes, file);
	walk->memory = map(walk->bytes, -1);
	walk->sums = map(walk->bytes / CHECKSUM_LEAF_BYTES * sizeof(uint64_t), -1);
	close(file);
	for (size_t at = 0; at < walk->bytes; at += 8) {
		uint64_t word = mix64(at);

		memcpy(walk->frames + at, &word, 8);
		memcpy(walk->memory + at, &word, 8);
	}
}

int main(int argc, char **argv)
{
	static const size_t usual_kib[] = {512, 2048, 16384};
	struct walk walk = {.bytes = 1024ul << 20, .rounds = 9};
	size_t sizes = argc > 3 ? (size_t)argc - 3 : ARRAY_COUNT(usual_kib), wrong = 0;

	if (argc > 1)
		walk.bytes = strtoul(argv[1], NULL, 0) << 20;
	if (argc > 2)
		walk.rounds = strtoul(argv[2], NULL, 0);
	if (!walk.bytes || !walk.rounds || walk.rounds > ROUNDS_MAX) {
		fprintf(stderr, "checksum_bench [walk MiB] [rounds, up to %d] [block KiB …]\n",
			ROUNDS_MAX);
		return 2;
	}
	walk_open(&walk);
	printf("variant %s, %zu MiB each side, %zu rounds\n", kernels_variant_name(),
		walk.bytes >> 20, walk.rounds);
	for (size_t i = 0; i < sizes; i++) {
		walk.block_bytes = (argc > 3 ? strtoul(argv[3 + i], NULL, 0) : usual_kib[i]) << 10;
		if (!walk.block_bytes || walk.block_bytes > walk.bytes) {
			fprintf(stderr, "blocks are 4 KiB or more and no longer than the walk\n");
			return 2;
		}
		wrong += measure(&walk, PUT);
		wrong += measure(&walk, OUT);
	}
	printf("%zu sums did not match\n", wrong);
	return wrong != 0;
}
