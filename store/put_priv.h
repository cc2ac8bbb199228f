/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_PUT_PRIV_H
#define SKEP_STORE_PUT_PRIV_H

/* What reserve.c and commit.c ask of pending.c, which owns reservations and pending records; what
 * reserve.c knows of requests that name blocks. */

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

/* A request that names blocks, while it is worked on: SUBMIT_RESERVE, SUBMIT_ANNOUNCE. */
struct reserving {
	struct session *session;
	struct realm *realm;
	const struct submission *message;
	struct space *space;
	bool announces;
	/* Of a reservation: */
	bool shed; /* its deadline has come: rather lose what is unwritten than refuse it */
	uint32_t part, length;
	unsigned class;
	/* Of both: */
	uint32_t space_index;
	struct reserve_block *blocks;
	const uint8_t *area; /* start of tokens and keys: the blocks' own start */
	struct index_name name;
	uint8_t proof[INDEX_BLOCK_TOKENS_MAX * 4 + INDEX_KEY_BYTES_MAX + INDEX_EXTRA_BYTES_MAX];
};

/* Finds the area and the space; session, realm and message are set. Return: 0, an answer
 * (negative), or -EPROTO. */
int naming_open(struct reserving *job);
/* The parent of the first block. Return: 0 and its id, SKEP_STATUS_EPARENT. */
int naming_parent(struct reserving *job, struct block_id *id);
/* The next block is below this one, which was named last. Return: its id. */
struct block_id naming_below(struct reserving *job, uint32_t slot);
/* Reads one block of the request: every field once, bounds-checked, proof copied to memory of our
 * own before it is hashed. Return: 0 or -EPROTO. */
int naming_block(struct reserving *job, uint32_t i, struct reserve_block *block);
/* Makes the name, evicting others for a slot or for memory of its record. Return: slot, -ENOSPC. */
int64_t naming_make(struct reserving *job, uint32_t rest);

#endif
