/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TIERING_TIER_H
#define SKEP_TIERING_TIER_H

/*
 * What a tier asks of whoever decides (the store). A tier keeps bytes and an opaque label with each
 * record; it knows no names. All of these are called on the thread that owns the tier (the keeper).
 */

#include <stdint.h>

struct tier_owner {
	void *arg;
	/*
	 * Space is wanted back: for every live record of [at, at + units) the owner calls
	 * ssd_drop() or begins ssd_move(), now or later. Asked again while records stay that nobody
	 * moves. May be NULL: then nothing is reclaimed but what was dropped.
	 */
	void (*reclaim)(void *arg, uint32_t at, uint32_t units);
	/* The bytes of every record in [at, at + units) are lost (their device was fenced): the
	 * owner forgets them; it still calls ssd_drop() for each. */
	void (*lost)(void *arg, uint32_t at, uint32_t units);
	/* What was refused with -EAGAIN, -ENOSPC or -EROFS may succeed now. */
	void (*room)(void *arg);
};

#endif
