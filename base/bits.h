/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_BITS_H
#define SKEP_BASE_BITS_H

#include <stddef.h>
#include <stdint.h>

#define ARRAY_COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define MIN_OF(a, b) ((a) < (b) ? (a) : (b))
#define MAX_OF(a, b) ((a) > (b) ? (a) : (b))

/* Rounds up to a multiple of a power of two; the caller has bounded @value. */
static inline uint64_t align_up(uint64_t value, uint64_t power)
{
	return (value + power - 1) & ~(power - 1);
}

static inline uint64_t divide_up(uint64_t value, uint64_t by)
{
	return value / by + (value % by != 0);
}

/* Tells the processor that this is a waiting loop. */
static inline void cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ __volatile__("yield");
#endif
}

/* Maps a hash evenly on [0, range) without a division (Lemire's multiply-shift). */
static inline uint32_t hash_range(uint32_t hash, uint32_t range)
{
	return (uint32_t)(((uint64_t)hash * range) >> 32);
}

/* One step of splitmix64: seeds and cheap mixing; never for identities. */
static inline uint64_t mix64(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

#endif
