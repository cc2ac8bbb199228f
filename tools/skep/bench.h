/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_BENCH_H
#define SKEP_TOOLS_SKEP_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * `skep bench`: figures beside what the machine itself can do, measured in the same run, in turns.
 * It always starts a skepd of its own: figures of a daemon that serves others mean nothing, and
 * others would feel it.
 *
 * X(kinds, name, flag, argument, least, most, standard, help): a number or, where the argument is
 * SIZE, bytes; "" is no argument. Kinds: which of them take it.
 */
#define BENCH_OPTION_TABLE(X)                                                                      \
	X(BENCH_MATCH, blocks, "blocks", "N", 1, 1u << 16, 2048, "blocks of a chain")              \
	X(BENCH_MATCH, block_tokens, "block-tokens", "N", 1, 4096, 16, "tokens of a block")        \
	X(BENCH_MATCH, index_blocks, "index-blocks", "N", 1, 1u << 26, 1000000,                    \
		"blocks the index holds, at least")                                                \
	X(BENCH_MATCH, interleaved, "interleaved", "N", 1, 64, 8,                                  \
		"conversations that are put at a time, a batch of each in turn")                   \
	X(BENCH_MATCH, batch, "batch", "N", 1, 1u << 16, 256, "blocks of such a batch")            \
	X(BENCH_MATCH, turnover, "turnover", "N", 0, 1000, 25,                                     \
		"percent of the index that were evicted and put anew before")                      \
	X(BENCH_MATCH, matches, "matches", "N", 10, 1u << 24, 4000, "matches measured")            \
	X(BENCH_LOCAL | BENCH_SSD, block_bytes, "block-bytes", "SIZE", 4096, 1u << 30, 2u << 20,   \
		"bytes of a block")                                                                \
	X(BENCH_LOCAL, clients, "clients", "K", 1, 64, 1,                                          \
		"client threads, each with its own session and its share of the blocks")           \
	X(BENCH_LOCAL, walk_bytes, "walk-bytes", "SIZE", 1u << 20, 1ull << 40, 1u << 30,           \
		"bytes of the pool; source and destination are as large")                          \
	X(BENCH_LOCAL, put_bytes, "put-bytes", "SIZE", 4096, 1u << 30, 64u << 20,                  \
		"a put reserves and commits so many bytes at a time, 1 to 64 blocks")              \
	X(BENCH_LOCAL, gets, "gets", "N", 10, 1u << 24, 200000, "gets measured, of each client")   \
	X(BENCH_LOCAL | BENCH_SSD, rounds, "rounds", "N", 3, 999, 9,                               \
		"rounds of the passes measured")                                                   \
	X(BENCH_SSD, ssd_bytes, "ssd-bytes", "SIZE", 64u << 20, 1ull << 43, 4ull << 30,            \
		"bytes of the tier's file, and of fio's beside it")                                \
	X(BENCH_SSD, dram_bytes, "dram-bytes", "SIZE", 4u << 20, 1ull << 40, 256u << 20,           \
		"bytes of the pool")                                                               \
	X(BENCH_SSD, sessions, "sessions", "K", 1, 16, 4,                                          \
		"threads that load, each with its own session; one puts")                          \
	X(BENCH_SSD, run_bytes, "run-bytes", "SIZE", 4096, 1u << 30, 8u << 20,                     \
		"each loads so many bytes at a time, one block at least")                          \
	X(BENCH_SSD, seconds, "seconds", "N", 1, 60, 1, "that a pass lasts, about")                \
	X(BENCH_SSD, loads, "loads", "N", 10, 1u << 20, 500, "blocks loaded one by one")           \
	X(BENCH_ALL, seed, "seed", "N", 0, UINT64_MAX, 1, "of tokens, payload and choices")        \
	X(BENCH_ALL, json, "json", "", 0, 0, 0, "print one JSON object")                           \
	X(BENCH_ALL, help, "help", "", 0, 0, 0, "print this text")

/* The same of words. */
#define BENCH_TEXT_TABLE(X)                                                                        \
	X(BENCH_SSD, ssd_path, "ssd-path", "DIR",                                                  \
		"on the disk to be measured; standard: the current directory")

enum bench_kind { BENCH_MATCH = 1, BENCH_LOCAL = 2, BENCH_SSD = 4, BENCH_ALL = 7 };

struct bench_options {
#define X(kinds, name, flag, argument, least, most, standard, help) uint64_t name;
	BENCH_OPTION_TABLE(X)
#undef X
#define X(kinds, name, flag, argument, help) const char *name; /* of the words; NULL: not given */
	BENCH_TEXT_TABLE(X)
#undef X
};

/*
 * Reads the words after the kind; @argv[0] is passed over. Says on stderr what is wrong.
 * Return: 0 or EXIT_USAGE.
 */
int bench_options_read(struct bench_options *options, enum bench_kind kind, int argc, char **argv);

/* The kinds. Return: how skep ends (commands.h). */
int bench_match(const struct bench_options *options);
int bench_local(const struct bench_options *options);
int bench_ssd(const struct bench_options *options);

/* How it ends when it was interrupted. */
#define BENCH_EXIT_INTERRUPTED 130

/* Has the user or the system asked to end? From bench_main() on; any thread. */
bool bench_interrupted(void);

/* Prints one line of complaint. Return: @status, so that callers can return it. */
int bench_complain(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * Is there memory for a run that needs @bytes? Complains if not: a machine that swaps or kills
 * measures nothing. Return: 0 or EXIT_DAEMON.
 */
int bench_memory_check(uint64_t bytes);

/* An anonymous mapping, every page touched; NULL: no memory. bench_unmap() takes NULL too. */
void *bench_map(uint64_t bytes);
void bench_unmap(void *base, uint64_t bytes);

/* ---------------------------------------------------------------------------------- figures */

/* Figures of one kind as they were read. */
struct samples {
	double *values;
	size_t count, room;
};

/* Return: 0, -ENOMEM. samples_free() leaves none. */
int samples_create(struct samples *samples, size_t room);
void samples_free(struct samples *samples);

/* There is room for it. */
void samples_add(struct samples *samples, double value);

/* The value that @share (0 to 1) of the samples do not exceed; sorts them. There is at least one.
 */
double samples_quantile(struct samples *samples, double share);

/* A line of a report: a figure and, where it comes from samples, between which these lay. */
struct figure {
	const char *name; /* of the JSON field; "" ends a list */
	double value;
	const char *meaning;
	const char *sample;	      /* what the samples are called: SAMPLE_min, SAMPLE_max */
	const struct samples *spread; /* sorted; NULL: none */
};

/* One without samples. */
#define FIGURE(name, value, meaning)                                                               \
	{                                                                                          \
		name, value, meaning, NULL, NULL                                                   \
	}

/* Prints a report. Return: EXIT_OK or EXIT_DAEMON. */
int figures_print(const struct figure *figures, bool json);

#endif
