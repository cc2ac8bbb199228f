/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_CHECK_H
#define SKEP_BASE_CHECK_H

/*
 * SKEP_CHECK is always on: states, bounds, generations. SKEP_ASSERT is on in debug builds. Both are
 * for what can only be false by a fault of our own; bad input and failing devices are handled.
 */
_Noreturn void check_failed(const char *file, int line, const char *expression);

#define SKEP_CHECK(expression)                                                                     \
	(__builtin_expect(!!(expression), 1) ? (void)0                                             \
					     : check_failed(__FILE__, __LINE__, #expression))

#ifdef NDEBUG
#define SKEP_ASSERT(expression) ((void)sizeof(!(expression)))
#else
#define SKEP_ASSERT(expression) SKEP_CHECK(expression)
#endif

#endif
