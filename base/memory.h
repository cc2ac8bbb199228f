/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_MEMORY_H
#define SKEP_BASE_MEMORY_H

#include <stddef.h>

/*
 * Every allocation of skep goes through these, so that tests can make the n-th one fail
 * (memory_fail_after). They never abort; the caller handles NULL.
 */
void *memory_zalloc(size_t bytes);
void *memory_calloc(size_t count, size_t each_bytes);
void *memory_realloc(void *old, size_t bytes);
char *memory_strdup(const char *text);
void memory_free(void *old);

/* Large arrays that are soon filled cost fewer page faults so: pages of 2 MiB where the system
 * gives them on advice. */
void memory_large_pages(void *memory, size_t bytes);

/*
 * Makes pages of 2 MiB now, of private or shared memory, where each of them has one page already;
 * the system's standard does not matter, unless it is "deny". Without bytes: can this kernel do it
 * (Linux 6.1)? Blocks. Return: 0 or a negative errno, and some of it may be done.
 */
int memory_collapse(void *memory, size_t bytes);

/*
 * A mapping of what is cached: it is not inherited by a child of fork(), and left out of core
 * files, which would be as large, hold what others cached, and delay the end of a process that
 * crashed. Return: 0 or a negative errno.
 */
int memory_seclude(void *memory, size_t bytes);

/* Gives back to the system what the allocator keeps of memory that was freed: after a start. */
void memory_trim(void);

/*
 * From now on the @nth allocation (1 = the next) fails, and, when @forever, each one after it too;
 * 0 ends the injection. For tests; any thread.
 */
void memory_fail_after(unsigned long nth, int forever);

/* True where an allocation-like call outside malloc (mmap, memfd) shall fail by injection too. */
int memory_should_fail(void);

#endif
