/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_ENGINE_GPU_REGISTRAR_PRIV_H
#define SKEP_ENGINE_GPU_REGISTRAR_PRIV_H

#include <skep/skep.h>
#include <stdbool.h>

#include "kernels/gpu.h"

/*
 * Makes the chunks of a session's pool page-locked, one at a time, on a thread of its own: those of
 * the device's NUMA node first. What the device refuses is remembered and not tried again. A chunk
 * is held while it is registered, so the library tells when it should go; it does so only when no
 * pin and no reserved frame is left, so nothing that a job moves lies in a chunk that is leaving.
 */
struct registrar;

struct registrar_counts {
	uint32_t registered, waiting, refused;
	uint64_t registered_bytes;
	int32_t refusal; /* what the device said last, or 0 */
};

/* @start: with its thread; a test works it off itself by registrar_turn(). */
int registrar_create(struct skep *session, struct gpu *device, bool start, struct registrar **out);

/* Ends the thread; nothing is registered or held any more. No job is under way. NULL is nothing. */
void registrar_destroy(struct registrar *registrar);

/* One look at what came and what leaves, and one chunk registered. Return: there are more. */
bool registrar_turn(struct registrar *registrar);

/*
 * For each of @count pieces of @bytes at @places, all in memory that is pinned or reserved now: the
 * number, from 1, of the registered chunk in which it lies whole, or 0. Numbers are not used again;
 * what is said holds until the pins and reservations end. Any thread.
 */
struct registrar_pieces {
	uint8_t *const *places;
	size_t bytes;
	uint32_t count;
};
void registrar_find(
	struct registrar *registrar, const struct registrar_pieces *pieces, uint32_t *numbers);

void registrar_counts(struct registrar *registrar, struct registrar_counts *counts);

#endif
