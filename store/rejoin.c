/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A realm that was taken over finds its records on the ssd again. Unlike after a start (recover.c)
 * the index is there and says where each lies: a record that is found there, and is of that very
 * block and writing, is kept; any other is dead. A block whose record is not found is written
 * again, or is lost where it was nowhere else.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/memory.h"
#include "store/label.h"

#define LOAD(field) atomic_load_explicit(&(field), RELAXED)

/* Records of the realm by their address. */
struct rejoin {
	struct realm *realm;
	const struct ssd_found *found;
	uint32_t *heads, *next;
	uint32_t head_count;
};

static uint32_t *head_of(const struct rejoin *r, uint32_t at)
{
	return &r->heads[hash_range((uint32_t)mix64(at), r->head_count)];
}

static const struct ssd_found *found_at(const struct rejoin *r, uint32_t at)
{
	uint32_t number = *head_of(r, at);

	while (number != NONE32 && r->found[number].at != at)
		number = r->next[number];
	return number == NONE32 ? NULL : &r->found[number];
}

static int rejoin_begin(struct rejoin *r, int64_t count)
{
	r->head_count = (uint32_t)MIN_OF(2 * (uint64_t)count + 1, UINT32_MAX);
	r->heads = memory_calloc(r->head_count, sizeof(*r->heads));
	r->next = memory_calloc((size_t)count + 1, sizeof(*r->next));
	if (!r->heads || !r->next)
		return -ENOMEM;
	memset(r->heads, 0xff, r->head_count * sizeof(*r->heads));
	for (int64_t i = 0; i < count; i++) {
		uint32_t *head = head_of(r, r->found[i].at);

		if (r->found[i].log != r->realm->ssd.log)
			continue;
		r->next[i] = *head;
		*head = (uint32_t)i;
	}
	return 0;
}

static bool space_is(const struct space *space, const struct ssd_found *found)
{
	struct label_space label;

	return found && found->units == 1 && found->label_bytes == sizeof(label) &&
	       label_space_read(found->label, found->label_bytes, &label) == 0 &&
	       label.space_key == space->key && label.space_version == space->ssd_version;
}

static void spaces_rejoin(const struct rejoin *r)
{
	struct realm *realm = r->realm;

	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++) {
		struct space *space = &realm->spaces[i];
		const struct ssd_found *found;

		if (!space->used || space->ssd_at == SSD_NONE)
			continue;
		found = found_at(r, space->ssd_at);
		if (!space_is(space, found)) {
			space->ssd_at = SSD_NONE;
			continue;
		}
		realm->ssd.live_units += found->units;
		ssd_keep(realm->keeper->ssd, found);
	}
	/* Looked at by the next turn: some may have none, or an older one. */
	realm->ssd.spaces_unwritten = true;
}

static bool block_is(struct realm *realm, uint32_t slot, const struct ssd_found *found)
{
	const struct index_entry *entry = &realm->index.entries[slot];
	struct label_block label;

	return found && found->units == ssd_block_units(realm, slot) &&
	       label_block_read(found->label, found->label_bytes, &label) == 0 &&
	       label.head.id_low == LOAD(entry->id_low) &&
	       label.head.id_high == LOAD(entry->id_high) &&
	       label.head.incarnation == realm->ssd.origins[LOAD(entry->origin)] &&
	       label.parts[0].write == LOAD(index_part(&realm->index, slot, 0)->write);
}

int ssd_realm_rejoin(struct realm *realm, const struct ssd_found *found, int64_t count)
{
	struct rejoin r = {.realm = realm, .found = found};
	struct index *index = &realm->index;
	int status;

	if (!realm->ssd.log)
		return 0;
	status = rejoin_begin(&r, count);
	realm->ssd.blocks = realm->ssd.live_units = 0;
	if (status == 0)
		spaces_rejoin(&r);
	for (uint32_t slot = 0; status == 0 && slot < index->head->slot_count; slot++) {
		const struct ssd_found *record;

		if (!slot_on_ssd(realm, slot))
			continue;
		record = found_at(&r, index->ssd_at[slot]);
		if (!block_is(realm, slot, record)) {
			index->ssd_at[slot] = SSD_LOST;
			continue;
		}
		realm->ssd.blocks++;
		realm->ssd.live_units += record->units;
		ssd_keep(realm->keeper->ssd, record);
	}
	memory_free(r.heads);
	memory_free(r.next);
	return status;
}

void ssd_realm_rejoin_end(struct realm *realm)
{
	struct index *index = &realm->index;
	uint64_t again = 0, lost = 0;

	if (!realm->ssd.log)
		return;
	/* All marks go first: what is removed takes others along. */
	for (uint32_t slot = 0; slot < index->head->slot_count; slot++) {
		if (index->ssd_at[slot] != SSD_LOST)
			continue;
		index->ssd_at[slot] = SSD_NONE;
		if (index->slots[slot].flags & SLOT_IN_DRAM) {
			ssd_dirty(realm, slot);
			again++;
		} else {
			index->slots[slot].flags |= SLOT_LOST;
		}
	}
	for (uint32_t slot = 0; slot < index->head->slot_count; slot++) {
		if (!(index->slots[slot].flags & SLOT_LOST))
			continue;
		index->slots[slot].flags &= (uint8_t)~SLOT_LOST;
		if (index_state(realm, slot) != ENTRY_PRESENT)
			continue; /* went with the one above it */
		realm->counters[REALM_COUNTER_blocks_lost]++;
		lost += remove_subtree(realm, slot, SKEP_REASON_LOST);
	}
	log_info("ssd",
		"realm %s: %llu blocks are on the ssd as before; %llu are written again, %llu lost",
		realm->name, (unsigned long long)realm->ssd.blocks, (unsigned long long)again,
		(unsigned long long)lost);
}
