/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_CONFIG_UNITS_H
#define SKEP_BASE_CONFIG_UNITS_H

#include <stdint.h>

/*
 * Byte sizes and spans of time as people write them, in files and on command lines: a number, with
 * or without a fraction, and a unit, with or without a blank between. Any thread; nothing
 * allocates.
 */

/* A printed size or span; size_format(n).text can stand in an argument list. */
struct unit_text {
	char text[32];
};

/*
 * "4096", "2GiB", "512 MiB", "1.5TiB": B, KiB, MiB, GiB, TiB, PiB. Units of 1000 (MB) are refused,
 * since half of those who write them mean 1024. 0; -EINVAL: not a size, or not a whole number of
 * bytes; -ERANGE: 2^64 or more. @bytes is written on success alone.
 */
int size_parse(const char *text, uint64_t *bytes);

/*
 * "30s", "250ms", "5m", "1.5h": ns, us, ms, s, m, h, d; "0" needs no unit. Results as size_parse,
 * in nanoseconds.
 */
int duration_parse(const char *text, uint64_t *ns);

/* The shortest whole number that the parser reads back as the same: 1536MiB, 90s. */
struct unit_text size_format(uint64_t bytes);
struct unit_text duration_format(uint64_t ns);

#endif
