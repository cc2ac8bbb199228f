/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_ENGINE_CLIENT_PUT_PRIV_H
#define SKEP_ENGINE_CLIENT_PUT_PRIV_H

/* Putting blocks whose bytes lie in memory, however their frames are got. */

#include <stdbool.h>

#include "skep/skep.h"

struct wire_part;

/* A put as it is worked off, over the calls that the application could make itself. */
struct storing {
	struct skep *session;
	struct skep_put *put;
	/* Frames for the @request->count blocks that storing_place() names from @done on. Return:
	 * as skep_reserve(). */
	int (*reserve)(
		struct storing *job, struct skep_reserve *request, struct skep_frame *frames);
	bool backwards; /* from the last block to the first */
	uint32_t pieces;
	const struct wire_part *layout;
	uint32_t done; /* blocks with a status */
	int stored;
	bool passed; /* some were there, or being written */
};

/* The index in put->from and put->statuses of the block that is worked off as number @i. */
static inline uint32_t storing_place(const struct storing *job, uint32_t i)
{
	return job->backwards ? job->put->count - 1 - i : i;
}

/* Puts them all. @job: session, put (checked), reserve and backwards are set. Return: as
 * skep_put(). */
int storing_run(struct storing *job);

#endif
