/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_READ_PIN_H
#define SKEP_STORE_READ_PIN_H

/*
 * The pin protocol (DESIGN section 5): hazard pointers across processes.
 *
 * Client: store (slot, frame generation) of the run's deepest block in a cell of its own table;
 * sequentially consistent fence; then read again, from the deepest block towards the root, the
 * frame generation of every block it will use. If one changed, the run is what lies before it and
 * is pinned anew. Keeper (store/evict.c): unpublish victims; fence; read the tables; publish again
 * what a cell names. Either the keeper sees the cell or the client sees frame generation 0: the two
 * fences pair.
 *
 * What reads 0 may only wait for that second look: index_head.evictions says whether it does.
 *
 * One cell protects a whole run because a block leaves DRAM only after its children there.
 */

#include "store/read/probe.h"

/* Writes the cell and fences. Context: the owner of the table. */
static inline void pin_store(struct pin_cell *cell, const struct probe_name *name)
{
	atomic_store_explicit(&cell->slot, name->slot, memory_order_relaxed);
	/* Release: a keeper that reads this generation (acquire, pin_read) reads this slot or a
	 * later one; a later one means that this pin was given up. */
	atomic_store_explicit(&cell->generation, name->frame_generation, memory_order_release);
	/* Pairs with the fence in evict.c between unpublishing and reading the tables. */
	atomic_thread_fence(memory_order_seq_cst);
}

/*
 * The frame generation of the block in @slot, once it is decided. While the keeper evicts, a block
 * that a pin brings back reads 0 for a moment; this waits the batch out (microseconds, or as long
 * as the keeper is not running; at most PIN_SETTLE_NS, then the daemon is as good as dead) and
 * gives the processor away meanwhile. Acquire: part fields read after it belong to it.
 */
#define PIN_SETTLE_NS (100 * 1000000ull)
uint64_t pin_generation(const struct index_view *view, uint32_t slot);

/* Ends the pin. Release: what was read through it was read before. */
static inline void pin_clear(struct pin_cell *cell)
{
	atomic_store_explicit(&cell->generation, 0, memory_order_release);
}

/*
 * Pins the leading part of a run that still stands: @names[0 … count) as probe_run() gave them.
 * Return: how many blocks are now protected by @cell; 0: the cell is free again.
 */
uint32_t pin_run(const struct index_view *view, struct pin_cell *cell,
	const struct probe_name *names, uint32_t count);

#endif
