/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_THREAD_H
#define SKEP_BASE_THREAD_H

#include <pthread.h>

/* Starts a thread called @name (at most 15 bytes), which takes none of the program's signals.
 * Return: 0, -EAGAIN (also where an allocation is made to fail), -EPERM. */
int thread_start(pthread_t *thread, void *(*body)(void *), void *arg, const char *name);

#endif
