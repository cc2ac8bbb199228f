/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a fuzz target without libFuzzer, so that every preset and compiler runs the seeds: each file
 * of the folder whole, then cut short at every length, then with single bytes turned over.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"
#include "tests/fuzz/fuzz.h"

#define SEED_BYTES_MAX 65536
#define CUTS_MAX       4096
#define FLIPS	       4096
#define FLIPS_NS       (10 * NS_PER_S)

/* A copy of exactly @bytes bytes, so that a sanitizer sees a read behind its end. */
static void input_run(const uint8_t *data, size_t bytes)
{
	uint8_t *exact = malloc(bytes ? bytes : 1);

	if (!exact) {
		fprintf(stderr, "out of memory\n");
		exit(1);
	}
	if (bytes)
		memcpy(exact, data, bytes);
	LLVMFuzzerTestOneInput(exact, bytes);
	free(exact);
}

static void seed_run(uint8_t *data, size_t bytes)
{
	size_t step = bytes / CUTS_MAX + 1;
	uint64_t random = bytes, until_ns;

	input_run(data, bytes);
	for (size_t cut = 0; cut < bytes; cut += step)
		input_run(data, cut);
	/* Some inputs take milliseconds: of these as many as there is time for. */
	until_ns = clock_ns() + FLIPS_NS;
	for (size_t flip = 0; bytes && flip < FLIPS && clock_ns() < until_ns; flip++) {
		uint8_t *at, old;

		random = mix64(random);
		at = data + random % bytes;
		old = *at;
		*at = (uint8_t)(random >> 32);
		input_run(data, bytes);
		*at = old;
	}
}

static int file_run(const char *folder, const char *name)
{
	static uint8_t data[SEED_BYTES_MAX];
	char path[4096];
	size_t bytes;
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	file = fopen(path, "rb");
	if (!file) {
		perror(path);
		return -1;
	}
	bytes = fread(data, 1, sizeof(data), file);
	if (ferror(file) || (bytes == sizeof(data) && fgetc(file) != EOF)) {
		fprintf(stderr, "%s: not readable, or longer than %d bytes\n", path,
			SEED_BYTES_MAX);
		fclose(file);
		return -1;
	}
	fclose(file);
	printf("%s: %zu bytes\n", name, bytes);
	fflush(stdout);
	seed_run(data, bytes);
	return 0;
}

int main(int argc, char **argv)
{
	struct dirent *entry;
	int seeds = 0;
	DIR *folder;

	if (argc != 2) {
		fprintf(stderr, "usage: %s FOLDER-OF-SEEDS\n", argv[0]);
		return 2;
	}
	folder = opendir(argv[1]);
	if (!folder) {
		perror(argv[1]);
		return 1;
	}
	while ((entry = readdir(folder))) {
		if (entry->d_name[0] == '.')
			continue;
		if (file_run(argv[1], entry->d_name) < 0)
			return 1;
		seeds++;
	}
	closedir(folder);
	if (!seeds) {
		fprintf(stderr, "%s: no seed in it\n", argv[1]);
		return 1;
	}
	return 0;
}
