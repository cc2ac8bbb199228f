/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Removal by force: purge, quarantine, evict by command, a slab that changes its class. The subtree
 * goes with the block, leaves first; nothing is published again. Frames wait until no pin table
 * names the block or a removed block below it.
 */
#include <errno.h>
#include <string.h>

#include "store/hbm_priv.h"
#include "store/store_priv.h"

#define LOAD(field) atomic_load_explicit(&(field), RELAXED)

/* Hides one block without children from readers; frames that readers may hold wait. */
static void remove_one(struct realm *realm, uint32_t slot, enum skep_reason reason)
{
	struct index_entry *entry = &realm->index.entries[slot];
	struct slot *own = &realm->index.slots[slot];
	struct removed_list *list = &realm->removed;
	bool was_present = index_state(realm, slot) == ENTRY_PRESENT;

	gone_add(realm, LOAD(entry->id_low), reason);
	realm->counters[REALM_COUNTER_blocks_removed]++;
	lru_remove(realm, slot);
	if (own->flags & SLOT_DIRTY) {
		own->flags &= (uint8_t)~SLOT_DIRTY;
		ssd_settled(realm, slot);
	}
	if (slot_on_ssd(realm, slot))
		ssd_forget(realm, slot);
	hbm_block_end(realm, slot);
	if (own->pending != NONE32)
		put_pending_end(realm, slot, SKEP_STATUS_EPARENT);
	if (was_present) {
		own->old_generation = LOAD(entry->frame_generation);
		atomic_store_explicit(&entry->frame_generation, 0, RELAXED);
	}
	index_state_set(realm, slot, ENTRY_REMOVED);
	index_name_hide(realm, slot);
	own->lru_next = NONE32;
	if (list->count++)
		realm->index.slots[list->last].lru_next = slot;
	else
		list->first = slot;
	list->last = slot;
}

/* Hides a block and what is below it, leaves first. Return: how many. */
static uint64_t hide_subtree(struct realm *realm, uint32_t slot, enum skep_reason reason)
{
	struct slot *slots = realm->index.slots;
	uint32_t top = slot, at = slot, above = index_parent(realm, slot);
	uint64_t removed = 0;

	for (;;) {
		uint32_t parent;

		while (slots[at].first_child != NONE32)
			at = slots[at].first_child;
		parent = index_parent(realm, at);
		remove_one(realm, at, reason);
		removed++;
		if (at == top)
			break;
		at = parent;
	}
	if (above != NONE32)
		hbm_settle(realm, above);
	return removed;
}

uint64_t remove_subtree(struct realm *realm, uint32_t slot, enum skep_reason reason)
{
	uint64_t removed = hide_subtree(realm, slot, reason);

	remove_settle(realm);
	return removed;
}

uint64_t remove_space(struct realm *realm, uint32_t space, enum skep_reason reason)
{
	uint64_t removed = 0;

	while (realm->spaces[space].first_root != NONE32)
		removed += remove_subtree(realm, realm->spaces[space].first_root, reason);
	return removed;
}

bool remove_settle(struct realm *realm)
{
	struct removed_list *list = &realm->removed, still = {NONE32, NONE32, 0};
	struct slot *slots = realm->index.slots;
	uint32_t slot, next;

	if (!list->count)
		return false;
	/* Who reads the predecessor's index does not see that they are removed. */
	if (realm->unmoved)
		return true;
	/* Pairs with pin_store(), as in evict.c. */
	atomic_thread_fence(memory_order_seq_cst);
	pins_scan(realm);
	for (slot = list->first; slot != NONE32; slot = next) {
		struct slot *own = &slots[slot];

		next = own->lru_next;
		if (pins_marked(realm, slot) || own->dram_children ||
			own->flags & (SLOT_WRITING | SLOT_LOADING)) {
			own->lru_next = NONE32;
			if (still.count++)
				slots[still.last].lru_next = slot;
			else
				still.first = slot;
			still.last = slot;
			continue;
		}
		put_frames_free(realm, slot);
		own->old_generation = 0;
		if (own->flags & SLOT_IN_DRAM) {
			own->flags &= (uint8_t)~SLOT_IN_DRAM;
			evict_child_left(realm, index_parent(realm, slot), own->stamp_ns);
		}
		index_slot_free(realm, slot);
	}
	*list = still;
	return list->count != 0;
}

static bool part_stands(const struct realm *realm, const struct remove_part *part)
{
	return part->slot < realm->index.head->slot_count && part->name_generation &&
	       LOAD(realm->index.entries[part->slot].name_generation) == part->name_generation &&
	       index_state(realm, part->slot) != ENTRY_REMOVED;
}

int remove_submit(struct session *session, const struct submission *message)
{
	struct realm *realm = session->realm;
	struct remove_part *parts =
		page_end_scratch(&session->page, message->scratch_at, message->scratch_bytes);
	int32_t removed = 0;

	if (session->readonly) {
		session_complete(session, message->queue, message->tag, -EROFS, 0);
		return 0;
	}
	if (!parts || message->count > REMOVE_PARTS_MAX ||
		message->count > message->scratch_bytes / sizeof(*parts))
		return -EPROTO;
	for (uint32_t i = 0; i < message->count; i++) {
		struct remove_part part;

		memcpy(&part, &parts[i], sizeof(part)); /* read once */
		part.status = part_stands(realm, &part) ? 0 : -ENOENT;
		memcpy(&parts[i], &part, sizeof(part));
		if (part.status)
			continue;
		(void)hide_subtree(realm, part.slot, SKEP_REASON_REMOVED);
		removed++;
		/* Who waited for a block below was told, which may have ended this session. */
		if (session->stopped)
			return 0;
	}
	if (removed)
		remove_settle(realm);
	session_complete(session, message->queue, message->tag, removed, 0);
	return 0;
}
