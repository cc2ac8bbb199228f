/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_BASE_UNIT_H
#define SKEP_TESTS_BASE_UNIT_H

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"

/* Set under a sanitizer, whose own memory and time would be measured along. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNIT_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define UNIT_SANITIZED 1
#endif
#endif

/* The test ends at the first promise that does not hold. */
#define REQUIRE(expression)                                                                        \
	do {                                                                                       \
		if (!(expression)) {                                                               \
			fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__,           \
				#expression);                                                      \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

#define REQUIRE_EQ(is, wanted)                                                                     \
	do {                                                                                       \
		long long is_ = (long long)(is), wanted_ = (long long)(wanted);                    \
                                                                                                   \
		if (is_ != wanted_) {                                                              \
			fprintf(stderr, "%s:%d: %s is %lld, not %lld (%s)\n", __FILE__, __LINE__,  \
				#is, is_, wanted_, #wanted);                                       \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

#define REQUIRE_TEXT(is, wanted)                                                                   \
	do {                                                                                       \
		const char *is_ = (is), *wanted_ = (wanted);                                       \
                                                                                                   \
		if (strcmp(is_, wanted_)) {                                                        \
			fprintf(stderr, "%s:%d: %s is\n  \"%s\", not\n  \"%s\"\n", __FILE__,       \
				__LINE__, #is, is_, wanted_);                                      \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* What a run without a seed of its own takes: SKEP_SEED, where `clock` is a new one every time
 * (./dev campaign seeds), else always the same, so that what passed once passes again. */
static inline uint64_t unit_seed_standard(void)
{
	const char *wanted = getenv("SKEP_SEED");

	if (wanted && !strcmp(wanted, "clock"))
		return clock_ns() % 1000000;
	return wanted ? strtoull(wanted, NULL, 0) : 1;
}

/* The seed of this run: the first argument, else the standard. Printed, so that a run can be
 * repeated. */
static inline uint64_t unit_seed(int argc, char **argv)
{
	uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : unit_seed_standard();

	printf("seed %llu\n", (unsigned long long)seed);
	fflush(stdout);
	return seed;
}

/* The next number of a seeded sequence, evenly in [0, range). */
static inline uint32_t unit_random(uint64_t *state, uint32_t range)
{
	*state = mix64(*state);
	return hash_range((uint32_t)(*state >> 32), range);
}

/* Whether @act ends its process by SIGABRT, as a failed SKEP_CHECK does. */
static inline int unit_aborts(void (*act)(void *context), void *context)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		if (!freopen("/dev/null", "w", stderr))
			_exit(2);
		act(context);
		_exit(0);
	}
	REQUIRE(child > 0 && waitpid(child, &status, 0) == child);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

#endif
