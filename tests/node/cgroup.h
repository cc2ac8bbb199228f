/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_NODE_CGROUP_H
#define SKEP_TESTS_NODE_CGROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A memory cgroup below the test's own, version 1 or 2. */
struct cgroup {
	char path[256];
	int version;
};

/* Makes one with a limit. False: it cannot be had here, @why says why. Removed when the test ends.
 */
bool cgroup_make(struct cgroup *group, const char *name, uint64_t limit, const char **why);

/* Puts the calling process into the cgroup at @path. */
void cgroup_enter(const char *path);

/* Bytes charged now, and at most so far; processes that the kernel killed for want of memory. */
uint64_t cgroup_bytes(const struct cgroup *group);
uint64_t cgroup_bytes_max(const struct cgroup *group);
uint64_t cgroup_kills(const struct cgroup *group);

/* By harness.c, when every child has ended. */
void cgroup_remove_all(void);

#endif
