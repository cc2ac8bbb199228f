/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_PROGRESS_H
#define SKEP_TOOLS_SKEP_PROGRESS_H

#include <stdint.h>

/* A long reading of blocks, shown as a bar to who sits at a terminal, and held to a rate. */

#define RATE_STANDARD (256ull << 20)

struct progress {
	uint64_t began_ns, rate; /* rate: bytes a second; 0 = as fast as it goes */
	uint64_t blocks, bytes, bad;
	unsigned percent;
};

/* Nothing where standard error is no terminal. */
void progress_show(const struct progress *progress);
void progress_end(const struct progress *progress);

/* Sleeps until what was read is no more than the rate allows. */
void progress_pace(const struct progress *progress);

#endif
