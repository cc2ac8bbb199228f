/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_BENCH_SSD_H
#define SKEP_TOOLS_SKEP_BENCH_SSD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * What a device can do, as fio reads and writes it: the ceiling beside which the ssd tier is
 * measured. fio is a program of its own, started without a shell.
 */

struct fio_run {
	const char *path;    /* a file (made where it is not there) or a device */
	uint64_t file_bytes; /* of it that are used */
	uint64_t block_bytes;
	unsigned depth;	    /* requests under way */
	unsigned seconds;   /* 0: until each block was moved once */
	bool write;	    /* one behind the other, and flushed at the end; else read at random */
	const char *engine; /* NULL: io_uring */
};

struct fio_result {
	double gib_s, iops;
	uint64_t p50_ns, p99_ns; /* from submit to completion */
};

/*
 * Runs fio and waits for it. @why says cause and fix. Return: 0; -ENOENT (fio is not installed),
 * -EINTR (it was ended by a signal), -EIO (it failed: its first words are in @why), -EPROTO (it
 * answered something else), -ENOMEM, or what starting a process said.
 */
int fio_measure(const struct fio_run *run, struct fio_result *result, char *why, size_t why_bytes);

/* Is fio there? Return: 0, or what fio_measure() would answer, with @why. */
int fio_find(char *why, size_t why_bytes);

/* Reads what `fio --output-format=json` printed, lines before it passed over. Return: 0; -EIO: fio
 * tells of an error; -EPROTO. */
int fio_parse(const char *text, bool write, struct fio_result *result, char *why, size_t why_bytes);

#endif
