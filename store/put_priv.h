/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_PUT_PRIV_H
#define SKEP_STORE_PUT_PRIV_H

/* What reserve.c and commit.c ask of pending.c, which owns reservations and pending records. */

#include "store/store_priv.h"

/* A live, summing, stale or orphaned reservation by its write number, or NULL. */
struct reservation *reservation_find(struct realm *realm, uint64_t write);

/* Draws a write generation; realm.reservation_free must not be empty. */
struct reservation *reservation_make(struct realm *realm, struct session *session);

/* Gives the frame back with the reservation. */
void reservation_drop(struct realm *realm, struct reservation *r);

/* The writer is gone or gives the part back: the frame is free, the block waits for another. */
void reservation_abort(struct realm *realm, struct reservation *r);

struct pending *pending_of(struct realm *realm, uint32_t slot);
void pending_make(struct realm *realm, uint32_t slot);

/*
 * A part's frame, root and sums are in the index: counts it in, completes the block if it is the
 * last one, and ends the reservation.
 */
void part_committed(struct realm *realm, struct reservation *r);

#endif
