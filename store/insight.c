/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the keeper can say of itself: why a block is not here, what a realm holds, what a block is.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "store/hbm_priv.h"
#include "store/store_priv.h"

#define LOAD(field) atomic_load_explicit(&(field), RELAXED)

/* ------------------------------------------------------------------------------- explain */

/* Roots of one space that are looked at: the keeper has other work. */
#define EXPLAIN_ROOTS_MAX 4096

/* Are the tokens beside an opaque block these, as far as both go? */
static bool tokens_alike(const struct realm *realm, uint32_t slot, const struct id_input *proof)
{
	const struct index_entry *entry = &realm->index.entries[slot];
	struct record_shape shape = {.parts = LOAD(entry->parts)};
	const struct record_head *head =
		(const void *)(realm->index.view.heap +
			       (uint64_t)LOAD(entry->record) * INDEX_RECORD_GRANULE +
			       record_head_at(&shape));
	uint32_t count = (uint32_t)LOAD(head->word);

	if (count > proof->token_count)
		count = proof->token_count;
	return count && !memcmp(head + 1, proof->tokens, (size_t)count * 4);
}

/* Does an opaque space hold a first block of these tokens? Its key may well be another one. */
static bool opaque_holds(
	const struct realm *realm, const struct space *space, const struct id_input *proof)
{
	uint32_t slot = space->first_root;

	for (uint32_t i = 0; slot != NONE32 && i < EXPLAIN_ROOTS_MAX; i++) {
		if (tokens_alike(realm, slot, proof))
			return true;
		slot = realm->index.slots[slot].next_sibling;
	}
	return false;
}

/* Does a space named by tokens hold a first block of these, or of the head of them? */
static bool space_holds(struct realm *realm, uint32_t at, const struct id_input *proof)
{
	const struct space *space = &realm->spaces[at];
	struct index_name name = {.parent_slot = SLOT_ROOT(at),
		.parent_generation = space->generation,
		.space = at,
		.proof = *proof};
	struct block_id none = {0, 0};

	if (space->block_tokens > proof->token_count)
		return false;
	name.proof.token_count = space->block_tokens;
	name.id = id_make(space->secret, none, &name.proof, realm->keeper->id_bits);
	return index_name_find(realm, &name) != NONE32;
}

/* Does another space of the kind hold a first block of the same tokens? Fills the answer. */
static bool explain_other_space(struct realm *realm, uint32_t asked, const struct id_input *proof,
	struct explain_answer *answer)
{
	bool opaque = realm->spaces[asked].opaque;

	for (uint32_t i = 0; i < INDEX_SPACES_MAX && proof->token_count; i++) {
		const struct space *space = &realm->spaces[i];

		if (!space->used || i == asked || space->opaque != opaque)
			continue;
		if (!(opaque ? opaque_holds(realm, space, proof) : space_holds(realm, i, proof)))
			continue;
		answer->reason = SKEP_REASON_OTHER_SPACE;
		snprintf(answer->space, sizeof(answer->space), "%s", space->name);
		space_difference(
			realm->spaces[asked].fingerprint, space->fingerprint, answer->field);
		return true;
	}
	return false;
}

/* The block's tokens and keys out of the scratch, bounds-checked, into memory of our own. */
static int explain_read(const struct session *session, const struct submission *message,
	struct id_input *proof, uint8_t *copy)
{
	const uint8_t *area =
		page_end_scratch(&session->page, message->scratch_at, message->scratch_bytes);
	uint64_t bytes = message->scratch_bytes, token_bytes, blob_bytes;
	struct reserve_block block;

	if (!area || bytes < sizeof(block) || bytes < sizeof(struct explain_answer))
		return -EPROTO;
	memcpy(&block, area, sizeof(block));
	token_bytes = (uint64_t)block.token_count * 4;
	blob_bytes = (uint64_t)block.key_bytes + block.extra_bytes;
	if (block.token_count > INDEX_BLOCK_TOKENS_MAX || block.key_bytes > INDEX_KEY_BYTES_MAX ||
		block.extra_bytes > INDEX_EXTRA_BYTES_MAX || block.token_at > bytes ||
		token_bytes > bytes - block.token_at || block.blob_at > bytes ||
		blob_bytes > bytes - block.blob_at)
		return -EPROTO;
	memcpy(copy, area + block.token_at, token_bytes);
	memcpy(copy + token_bytes, area + block.blob_at, blob_bytes);
	*proof = (struct id_input){.tokens = (const uint32_t *)(const void *)copy,
		.token_count = block.token_count,
		.key = block.key_bytes ? copy + token_bytes : NULL,
		.key_bytes = block.key_bytes,
		.extra = block.extra_bytes ? copy + token_bytes + block.key_bytes : NULL,
		.extra_bytes = block.extra_bytes};
	return 0;
}

/* Why a block that has a name is not had. */
static void explain_named(struct realm *realm, uint32_t slot, struct explain_answer *answer)
{
	const struct session *holder;

	switch (index_state(realm, slot)) {
	case ENTRY_PRESENT:
		answer->reason = SKEP_REASON_NONE;
		break;
	case ENTRY_HBM:
		holder = hbm_holder(realm, slot);
		answer->reason = SKEP_REASON_HBM;
		snprintf(answer->space, sizeof(answer->space), "%s", holder->name);
		snprintf(answer->field, sizeof(answer->field), "%llu",
			(unsigned long long)holder->id);
		break;
	default:
		answer->reason = SKEP_REASON_PENDING;
	}
}

int explain_submit(struct session *session, const struct submission *message)
{
	/* Of the keeper's thread: a process may have several nodes. */
	static _Thread_local _Alignas(8) uint8_t
		copy[INDEX_BLOCK_TOKENS_MAX * 4 + INDEX_KEY_BYTES_MAX + INDEX_EXTRA_BYTES_MAX];
	struct realm *realm = session->realm;
	uint32_t space = message->u.reserve.space, slot;
	struct explain_answer answer = {.reason = SKEP_REASON_NEVER_SEEN};
	struct block_id parent = {0, 0};
	struct index_name name = {.parent_slot = message->slot,
		.parent_generation = message->generation,
		.space = space};
	int status = explain_read(session, message, &name.proof, copy);

	if (status < 0 || space >= INDEX_SPACES_MAX)
		return -EPROTO;
	if (!realm->spaces[space].used) {
		session_complete(session, message->queue, message->tag, -ENOENT, 0);
		return 0;
	}
	if (message->slot < realm->index.head->slot_count) {
		parent.low = LOAD(realm->index.entries[message->slot].id_low);
		parent.high = LOAD(realm->index.entries[message->slot].id_high);
	}
	name.id = id_make(realm->spaces[space].secret, parent, &name.proof, realm->keeper->id_bits);
	slot = index_name_find(realm, &name);
	if (slot != NONE32 && index_state(realm, slot) != ENTRY_EMPTY) {
		explain_named(realm, slot, &answer);
	} else {
		answer.reason = gone_find(realm, name.id.low, &answer.ago_ns);
		if (answer.reason == SKEP_REASON_NEVER_SEEN &&
			message->slot >= realm->index.head->slot_count)
			explain_other_space(realm, space, &name.proof, &answer);
	}
	memcpy(page_end_scratch(&session->page, message->scratch_at, sizeof(answer)), &answer,
		sizeof(answer));
	session_complete(session, message->queue, message->tag, 0, 0);
	return 0;
}

/* --------------------------------------------------------------------------------- status */

void realm_status_fill(struct realm *realm, struct realm_status *out)
{
	struct dram_status dram;
	struct slab_stats records;

	memset(out, 0, sizeof(*out));
	dram_status_get(realm->dram, &dram);
	slab_stats_get(realm->index.records, &records);
	snprintf(out->name, sizeof(out->name), "%s", realm->name);
	out->dram_bytes = dram.bytes;
	out->dram_ready_bytes = dram.ready_bytes;
	out->dram_use_max = dram.use_max;
	out->dram_used_bytes = dram.used_bytes;
	out->dram_slab_bytes = dram.slab_bytes;
	out->slots = realm->index.head->slot_count;
	out->slots_used = out->slots - realm->index.free_count;
	out->record_bytes = records.space_bytes;
	out->record_used_bytes = records.live_bytes;
	out->index_bytes = realm->index.memory_bytes;
	out->blocks_present = realm->slot_count_by_state[ENTRY_PRESENT];
	out->blocks_pending = realm->slot_count_by_state[ENTRY_PENDING];
	out->blocks_hbm = realm->slot_count_by_state[ENTRY_HBM];
	out->hbm_blocks = realm->hbm.count;
	out->hbm_max = realm->hbm.max;
	out->blocks_empty = realm->slot_count_by_state[ENTRY_EMPTY];
	out->blocks_removed = realm->slot_count_by_state[ENTRY_REMOVED];
	ssd_status_fill(realm, out);
	list_each (node, &realm->ssd.loads_live)
		out->loads_live++;
	out->reservations = realm->reservation_count;
	out->waiters = realm->wait_count;
	out->operator_pins = realm->operator_pins;
	out->sessions = realm->session_count;
	list_each (node, &realm->sessions) {
		const struct session *session = list_item(node, const struct session, of_realm);

		out->pins += session_pins(session);
		out->hbm_bytes += session->hbm_bytes;
	}
	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++)
		out->spaces += realm->spaces[i].used;
	memcpy(out->counters, realm->counters, sizeof(out->counters));
	memcpy(out->misses, realm->misses, sizeof(out->misses));
	memcpy(out->latencies, realm->latencies, sizeof(out->latencies));
}

static uint32_t block_cells(const struct realm *realm, uint32_t slot)
{
	uint64_t generation = LOAD(realm->index.entries[slot].frame_generation);
	uint32_t pins = 0;

	list_each (node, &realm->sessions) {
		uint32_t count;
		const struct pin_cell *cells =
			page_end_pins(&list_item(node, struct session, of_realm)->page, &count);

		for (uint32_t i = 0; generation && i < count; i++)
			pins += LOAD(cells[i].generation) == generation;
	}
	return pins;
}

void block_status_fill(struct realm *realm, uint32_t slot, struct block_status *out)
{
	struct index *index = &realm->index;
	const struct index_entry *entry = &index->entries[slot];
	const struct slot *own = &index->slots[slot];
	uint32_t parent = index_parent(realm, slot);
	uint64_t at = (uint64_t)LOAD(entry->record) * INDEX_RECORD_GRANULE;
	struct record_shape shape = {.parts = LOAD(entry->parts)};
	const struct record_head *head = (const void *)(index->heap + at + record_head_at(&shape));
	const _Atomic uint32_t *tokens = (const void *)(head + 1);

	memset(out, 0, sizeof(*out));
	snprintf(out->realm, sizeof(out->realm), "%s", realm->name);
	snprintf(out->space, sizeof(out->space), "%s", realm->spaces[LOAD(entry->space)].name);
	out->id_low = LOAD(entry->id_low);
	out->id_high = LOAD(entry->id_high);
	out->root = parent == NONE32;
	if (!out->root) {
		out->parent_low = LOAD(index->entries[parent].id_low);
		out->parent_high = LOAD(index->entries[parent].id_high);
	}
	out->state = (uint8_t)index_state(realm, slot);
	out->in_dram = LOAD(entry->frame_generation) != 0;
	out->on_ssd = slot_on_ssd(realm, slot);
	out->hbm_holders = hbm_holders(realm, slot);
	if (out->hbm_holders)
		out->hbm_session = hbm_holder(realm, slot)->id;
	out->slot = slot;
	out->parts = shape.parts;
	out->frame_generation = LOAD(entry->frame_generation);
	out->pins = block_cells(realm, slot);
	out->operator_pins = own->operator_pins;
	out->idle_ns = realm->keeper->now_ns - MIN_OF(own->stamp_ns, realm->keeper->now_ns);
	out->token_count = (uint32_t)LOAD(head->word);
	for (uint32_t i = 0; i < MIN_OF(out->token_count, ARRAY_COUNT(out->tokens)); i++)
		out->tokens[i] = LOAD(tokens[i]);
	for (uint32_t i = 0; i < shape.parts; i++)
		out->bytes += LOAD(index_part(index, slot, i)->bytes);
	for (uint32_t child = own->first_child; child != NONE32;
		child = index->slots[child].next_sibling)
		out->children++;
	for (uint32_t up = parent; up != NONE32; up = index_parent(realm, up))
		out->depth++;
}
