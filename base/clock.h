/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_CLOCK_H
#define SKEP_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_US 1000ull
#define NS_PER_MS 1000000ull
#define NS_PER_S  1000000000ull

/* A deadline that never comes. */
#define CLOCK_NEVER UINT64_MAX

/* Nanoseconds of the monotonic clock; no system call (vDSO). Wall time is never used for decisions.
 */
static inline uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* now + span without wrapping: CLOCK_NEVER stays never. */
static inline uint64_t clock_after(uint64_t now_ns, uint64_t span_ns)
{
	return span_ns >= CLOCK_NEVER - now_ns ? CLOCK_NEVER : now_ns + span_ns;
}

#endif
