/* SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* newer than the headers of some C libraries */
#endif

static _Atomic long fail_countdown; /* 0: off; n: the n-th from now fails; -1: all fail */
static _Atomic int fail_forever;

void memory_fail_after(unsigned long nth, int forever)
{
	atomic_store(&fail_forever, forever);
	atomic_store(&fail_countdown, (long)nth);
}

int memory_should_fail(void)
{
	long left = atomic_load_explicit(&fail_countdown, memory_order_relaxed);

	/* In one step: of many threads the one that takes 1 fails, and none counts past 0. */
	while (left > 0) {
		long next = left == 1 && atomic_load(&fail_forever) ? -1 : left - 1;

		if (atomic_compare_exchange_weak(&fail_countdown, &left, next))
			return left == 1;
	}
	return left < 0;
}

void *memory_zalloc(size_t bytes)
{
	return memory_calloc(1, bytes);
}

void *memory_calloc(size_t count, size_t each_bytes)
{
	if (memory_should_fail()) {
		errno = ENOMEM;
		return NULL;
	}
	return calloc(count, each_bytes ? each_bytes : 1);
}

void *memory_realloc(void *old, size_t bytes)
{
	if (memory_should_fail()) {
		errno = ENOMEM;
		return NULL;
	}
	return realloc(old, bytes);
}

char *memory_strdup(const char *text)
{
	size_t bytes = strlen(text) + 1;
	char *copy = memory_calloc(1, bytes);

	return copy ? memcpy(copy, text, bytes) : NULL;
}

void memory_free(void *old)
{
	free(old);
}

void memory_large_pages(void *memory, size_t bytes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	uintptr_t begin = ((uintptr_t)memory + page - 1) / page * page;
	uintptr_t end = ((uintptr_t)memory + bytes) / page * page;

	if (begin < end)
		madvise((void *)begin, end - begin, MADV_HUGEPAGE);
}

int memory_collapse(void *memory, size_t bytes)
{
	return madvise(memory, bytes, MADV_COLLAPSE) < 0 ? -errno : 0;
}

int memory_seclude(void *memory, size_t bytes)
{
	if (madvise(memory, bytes, MADV_DONTFORK) < 0 || madvise(memory, bytes, MADV_DONTDUMP) < 0)
		return -errno;
	return 0;
}

void memory_trim(void)
{
#ifdef __GLIBC__
	malloc_trim(0);
#endif
}
