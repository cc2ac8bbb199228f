/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lists that blocks leave a tier from. evict.c says what their order means.
 */
#include "base/bits.h"
#include "store/store_priv.h"

#define LOAD(field) atomic_load_explicit(&(field), RELAXED)

enum { ORDER_STEPS_MAX = 32 };

/* The list a block stands on: to be written; of its main frame's size; on the ssd alone. */
static struct lru_list *list_of(struct realm *realm, uint32_t slot)
{
	const struct slot *own = &realm->index.slots[slot];

	if (own->flags & SLOT_DIRTY)
		return &realm->ssd.dirty;
	return own->flags & SLOT_IN_DRAM ? &realm->lru[own->lru] : &realm->ssd.lru;
}

/* May the block stand on the list that it is evicted from? Not before it is written, and not while
 * it is, though the ssd has failed meanwhile. */
static bool evictable(const struct realm *realm, uint32_t slot)
{
	const struct index_entry *entry = &realm->index.entries[slot];
	uint8_t flags = realm->index.slots[slot].flags;

	if (flags & (SLOT_LOADING | SLOT_DIRTY | SLOT_VICTIM))
		return false;
	return slot_on_ssd(realm, slot) ||
	       !(flags & SLOT_WRITING || ssd_keeps(realm, LOAD(entry->space)));
}

/* Links @slot on the hot side of @below (NONE32: at the cold end). */
static void lru_link(struct realm *realm, uint32_t slot, uint32_t below)
{
	struct slot *slots = realm->index.slots, *own = &slots[slot];
	struct lru_list *list = list_of(realm, slot);

	SKEP_CHECK(!(own->flags & SLOT_ON_LRU));
	own->lru_prev = below;
	own->lru_next = below == NONE32 ? list->cold : slots[below].lru_next;
	if (own->lru_prev == NONE32)
		list->cold = slot;
	else
		slots[own->lru_prev].lru_next = slot;
	if (own->lru_next == NONE32)
		list->hot = slot;
	else
		slots[own->lru_next].lru_prev = slot;
	own->flags |= SLOT_ON_LRU;
	list->count++;
}

void lru_remove(struct realm *realm, uint32_t slot)
{
	struct slot *slots = realm->index.slots, *own = &slots[slot];
	struct lru_list *list = list_of(realm, slot);

	if (!(own->flags & SLOT_ON_LRU))
		return;
	if (own->lru_prev == NONE32)
		list->cold = own->lru_next;
	else
		slots[own->lru_prev].lru_next = own->lru_next;
	if (own->lru_next == NONE32)
		list->hot = own->lru_prev;
	else
		slots[own->lru_next].lru_prev = own->lru_prev;
	own->lru_next = own->lru_prev = NONE32;
	own->flags &= (uint8_t)~SLOT_ON_LRU;
	list->count--;
}

void lru_touch(struct realm *realm, uint32_t slot)
{
	realm->index.slots[slot].stamp_ns = realm->keeper->now_ns;
	if (!evictable(realm, slot))
		return;
	lru_remove(realm, slot);
	lru_link(realm, slot, list_of(realm, slot)->hot);
}

void lru_dirty(struct realm *realm, uint32_t slot)
{
	lru_remove(realm, slot);
	realm->index.slots[slot].flags |= SLOT_DIRTY;
	lru_link(realm, slot, realm->ssd.dirty.hot);
}

void lru_cool(struct realm *realm, uint32_t slot)
{
	struct lru_list *list = list_of(realm, slot);

	if (!evictable(realm, slot))
		return;
	lru_remove(realm, slot);
	if (list->cold != NONE32)
		realm->index.slots[slot].stamp_ns = realm->index.slots[list->cold].stamp_ns;
	lru_link(realm, slot, NONE32);
}

/* Its place is near the cold end (a parent whose child left) or near the hot end (written just now,
 * or out of DRAM); elsewhere only after a removal by force, and then the hot end does. */
void lru_link_ordered(struct realm *realm, uint32_t slot)
{
	struct slot *slots = realm->index.slots;
	struct lru_list *list = list_of(realm, slot);
	uint64_t stamp_ns = slots[slot].stamp_ns;
	uint32_t below = NONE32, at = list->cold;
	unsigned steps = 0;

	for (; at != NONE32 && slots[at].stamp_ns < stamp_ns && steps < ORDER_STEPS_MAX; steps++) {
		below = at;
		at = slots[at].lru_next;
	}
	if (steps == ORDER_STEPS_MAX) {
		below = list->hot;
		for (steps = 0; below != NONE32 && slots[below].stamp_ns > stamp_ns; steps++) {
			if (steps == ORDER_STEPS_MAX) {
				below = list->hot;
				break;
			}
			below = slots[below].lru_prev;
		}
	}
	lru_link(realm, slot, below);
}

void lru_leaf_check(struct realm *realm, uint32_t slot)
{
	const struct slot *own;

	if (slot == NONE32)
		return;
	own = &realm->index.slots[slot];
	if (index_state(realm, slot) == ENTRY_PRESENT && own->first_child == NONE32 &&
		!own->dram_children && !(own->flags & SLOT_ON_LRU) && evictable(realm, slot))
		lru_link_ordered(realm, slot);
}

void evict_child_left(struct realm *realm, uint32_t parent, uint64_t child_stamp_ns)
{
	struct slot *own;

	if (parent == NONE32)
		return;
	own = &realm->index.slots[parent];
	SKEP_CHECK(own->dram_children > 0);
	own->dram_children--;
	/* On the list it stands where its own stamp says; off it, it inherits from every child. */
	if (index_state(realm, parent) != ENTRY_PRESENT || own->flags & SLOT_ON_LRU)
		return;
	own->stamp_ns = MAX_OF(own->stamp_ns, child_stamp_ns);
	if (!(own->flags & SLOT_IN_DRAM))
		lru_leaf_check(realm, parent);
	else if (!own->dram_children && evictable(realm, parent))
		lru_link_ordered(realm, parent);
}

void lru_dram_check(struct realm *realm, uint32_t slot)
{
	const struct slot *own = &realm->index.slots[slot];

	if (index_state(realm, slot) == ENTRY_PRESENT && own->flags & SLOT_IN_DRAM &&
		!own->dram_children && !(own->flags & SLOT_ON_LRU) && evictable(realm, slot))
		lru_link_ordered(realm, slot);
}
