/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TIERING_DRAM_HEADROOM_H
#define SKEP_TIERING_DRAM_HEADROOM_H

#include <stdint.h>

/*
 * How many more bytes this process may take: the least of what its memory cgroup (v1 or v2), those
 * that it lies in, and the machine leave. Pages of a dead daemon that a client still maps stay
 * charged to the cgroup, so a restarted daemon sees them here and grows as they are let go. @limit
 * > 0 stands for the cgroup's limit where that is higher; where no cgroup can be read it bounds
 * what this process has in memory. Reads a few files: blocks shortly; any thread.
 */
uint64_t memory_headroom(uint64_t limit);

#endif
