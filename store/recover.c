/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tables of the ssd hold becomes the index again, before any session comes. A block stands
 * only below the very parent it was put below, named by its write generation, and only if its id
 * follows from its parent's, its tokens and keys under this realm's secret: what was proved when it
 * was put is proved again. Everything else that a table names is dead space.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/memory.h"
#include "store/chains.h"

#define STORE(field, value) atomic_store_explicit(&(field), (value), RELAXED)
#define LOAD(field)	    atomic_load_explicit(&(field), RELAXED)

struct recovery {
	struct realm *realm;
	const struct ssd_found *found;
	struct chains chains;
	uint64_t recovered, dropped;
};

/* ------------------------------------------------------------------------------------ spaces */

/* The newest record of each name makes the space; older ones are dead. Return: 0 or -ENOMEM. */
static int spaces_recover(struct realm *realm, const struct ssd_found *found, int64_t count)
{
	struct chains_space *spaces = memory_calloc(INDEX_SPACES_MAX, sizeof(*spaces));
	unsigned have;

	if (!spaces)
		return -ENOMEM;
	have = chains_spaces(found, count, realm->ssd.log, spaces);
	for (unsigned i = 0; i < have; i++) {
		const struct label_space *label = &spaces[i].label;
		const struct ssd_found *record = &found[spaces[i].found];
		int place = space_restore(realm, &label->request, label->space_version);

		if (place < 0) {
			log_warn("ssd", "realm %s: a space found on the ssd cannot be opened: %s",
				realm->name, status_text(place));
			continue;
		}
		realm->spaces[place].ssd_at = record->at;
		realm->spaces[place].ssd_version = label->space_version;
		realm->ssd.live_units += record->units;
		ssd_keep(realm->keeper->ssd, record);
	}
	memory_free(spaces);
	return 0;
}

static int space_of_key(const struct realm *realm, uint64_t key)
{
	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++)
		if (realm->spaces[i].used && realm->spaces[i].key == key)
			return (int)i;
	return -ENOENT;
}

/* ---------------------------------------------------------------------------------- records */

/* Labels and names lie all over memory: they are asked for so many blocks before. */
enum {
	RECORDS_AHEAD = 32,
	LABELS_AHEAD = 16,
	BUCKETS_AHEAD = 8,
	ENTRIES_AHEAD = 4,
	LABELS_AHEAD_BYTES = 320,
};

/* A record that may become a block. */
static void record_add(struct recovery *r, uint32_t number)
{
	struct realm *realm = r->realm;
	const struct ssd_found *found = &r->found[number];
	struct label_block label;
	int space;

	if (label_block_read(found->label, found->label_bytes, &label) < 0)
		return;
	space = space_of_key(realm, label.head.space_key);
	if (space < 0 || label.head.parts != realm->spaces[space].part_count ||
		label.head.range_sums != realm->spaces[space].ranges) {
		r->dropped++;
		return;
	}
	chains_add(&r->chains, number, (uint8_t)space);
}

/* The place of an incarnation in the realm's list, or negative: there are too many. */
static int origin_of(struct realm *realm, uint64_t incarnation)
{
	uint32_t last = realm->ssd.origin_count - 1;

	/* Neighbours in the log are mostly of one incarnation. */
	for (uint32_t i = 0; i < realm->ssd.origin_count; i++)
		if (realm->ssd.origins[last - i] == incarnation)
			return (int)(last - i);
	if (realm->ssd.origin_count > UINT16_MAX)
		return -ENOSPC;
	realm->ssd.origins[realm->ssd.origin_count] = incarnation;
	return (int)realm->ssd.origin_count++;
}

static bool parts_sound(
	struct realm *realm, const struct space *space, const struct label_block *label)
{
	for (uint32_t i = 0; i < label->head.parts; i++)
		if (!label->parts[i].write || !label->parts[i].bytes ||
			label->parts[i].bytes > space->part_bytes[i] ||
			(!space->opaque && label->parts[i].bytes != space->part_bytes[i]) ||
			dram_class(realm->dram, label->parts[i].bytes) < 0)
			return false;
	return true;
}

/* Makes the block below @parent (NONE32: a first one). Return: false: it is not what it says. */
static bool block_make(struct recovery *r, struct chains_record *record, uint32_t parent)
{
	struct realm *realm = r->realm;
	struct index *index = &realm->index;
	struct space *space = &realm->spaces[record->space];
	struct block_id above = {0, 0};
	struct index_name name = {.parent_slot = SLOT_ROOT(record->space),
		.parent_generation = space->generation,
		.space = record->space,
		.parts = space->part_count,
		.range_sums = space->ranges};
	const struct ssd_found *found = &r->found[record->found];
	struct label_block label;
	int origin;
	int64_t slot;

	label_block_read(found->label, found->label_bytes, &label);
	name.proof = label.proof;
	if (parent != NONE32) {
		above.low = LOAD(index->entries[parent].id_low);
		above.high = LOAD(index->entries[parent].id_high);
		name.parent_slot = parent;
		name.parent_generation = LOAD(index->entries[parent].name_generation);
	}
	name.id = id_make(space->secret, above, &name.proof, realm->keeper->id_bits);
	if (name.id.low != label.head.id_low || name.id.high != label.head.id_high ||
		above.low != label.head.parent_low || above.high != label.head.parent_high ||
		!parts_sound(realm, space, &label) || index_name_find(realm, &name) != NONE32)
		return false;
	origin = origin_of(realm, label.head.incarnation);
	if (origin < 0)
		return false;
	slot = index_name_make(realm, &name);
	if (slot < 0)
		return false;
	for (uint32_t i = 0; i < label.head.parts; i++) {
		struct index_part *part = index_part(index, (uint32_t)slot, i);

		STORE(part->bytes, (uint32_t)label.parts[i].bytes);
		STORE(part->write, label.parts[i].write);
		STORE(part->root_low, label.parts[i].root_low);
		STORE(part->root_high, label.parts[i].root_high);
	}
	if (found->units != ssd_block_units(realm, (uint32_t)slot)) {
		index_name_hide(realm, (uint32_t)slot);
		index_slot_free(realm, (uint32_t)slot);
		return false;
	}
	for (uint32_t i = 0; i < label.head.range_sums; i++)
		STORE(index_sums(index, (uint32_t)slot, 0)[i], label.sums[i]);
	STORE(index->entries[slot].origin, (uint16_t)origin);
	index_state_set(realm, (uint32_t)slot, ENTRY_PRESENT);
	index->slots[slot].lru = (uint8_t)dram_class(realm->dram, label.parts[0].bytes);
	index->ssd_at[slot] = found->at;
	realm->ssd.blocks++;
	realm->ssd.live_units += found->units;
	record->slot = (uint32_t)slot;
	ssd_keep(realm->keeper->ssd, found);
	return true;
}

/* Only what was read by label_block_read() is in a chain. */
static const struct index_bucket *bucket_for(
	const struct index *index, const struct ssd_found *found)
{
	const struct label_head *label = found->label;

	return &index->buckets[hash_range((uint32_t)label->id_low, index->head->bucket_count)];
}

/* What making the blocks will ask for: labels, and where names go. */
static void blocks_prefetch(struct recovery *r, uint32_t i)
{
	const struct index *index = &r->realm->index;
	const struct chains *chains = &r->chains;
	const struct ssd_found *found;
	const struct index_bucket *bucket;
	uint32_t slot;

	if (i + RECORDS_AHEAD < chains->order_count)
		__builtin_prefetch(
			&r->found[chains->records[chains->order[i + RECORDS_AHEAD]].found]);
	if (i + LABELS_AHEAD < chains->order_count) {
		found = &r->found[chains->records[chains->order[i + LABELS_AHEAD]].found];
		for (uint32_t at = 0; at < MIN_OF(found->label_bytes, LABELS_AHEAD_BYTES); at += 64)
			__builtin_prefetch((const uint8_t *)found->label + at);
	}
	if (i + BUCKETS_AHEAD < chains->order_count) {
		found = &r->found[chains->records[chains->order[i + BUCKETS_AHEAD]].found];
		bucket = bucket_for(index, found);
		__builtin_prefetch(bucket, 1);
	}
	if (i + ENTRIES_AHEAD < chains->order_count) {
		found = &r->found[chains->records[chains->order[i + ENTRIES_AHEAD]].found];
		slot = (uint32_t)LOAD(bucket_for(index, found)->word);
		if (slot < index->head->slot_count)
			__builtin_prefetch(&index->entries[slot]);
	}
}

/* Each block after its parent. */
static void blocks_make(struct recovery *r)
{
	struct chains *chains = &r->chains;

	for (uint32_t i = 0; i < chains->order_count; i++) {
		struct chains_record *record = &chains->records[chains->order[i]];
		uint32_t parent = record->parent;
		bool stands =
			parent == CHAINS_ROOT ||
			(parent < chains->count && chains->records[parent].state == CHAINS_IN);

		blocks_prefetch(r, i);
		if (stands &&
			block_make(r, record,
				parent == CHAINS_ROOT ? NONE32 : chains->records[parent].slot)) {
			record->state = CHAINS_IN;
			r->recovered++;
		} else {
			record->state = CHAINS_OUT;
			r->dropped++;
		}
	}
}

int ssd_realm_recover(struct realm *realm, const struct ssd_found *found, int64_t count)
{
	struct recovery r = {.realm = realm, .found = found};
	uint64_t stamp = realm->keeper->now_ns - MIN_OF(realm->keeper->now_ns, (uint64_t)count);
	int status;

	if (!realm->ssd.log || !count)
		return 0;
	status = spaces_recover(realm, found, count);
	if (status == 0)
		status = chains_create(&r.chains, found, count);
	if (status < 0)
		return status;
	for (int64_t i = 0; i < count; i++)
		if (found[i].log == realm->ssd.log)
			record_add(&r, (uint32_t)i);
	chains_link(&r.chains);
	blocks_make(&r);
	/* The order of the log stands for the order of use: what was written last was used last. */
	for (uint32_t i = 0; i < r.chains.count; i++)
		if (r.chains.records[i].state == CHAINS_IN) {
			realm->index.slots[r.chains.records[i].slot].stamp_ns = stamp + i;
			lru_leaf_check(realm, r.chains.records[i].slot);
		}
	realm->counters[REALM_COUNTER_blocks_recovered] += r.recovered;
	log_info("ssd", "realm %s: %llu blocks found, %llu records dropped", realm->name,
		(unsigned long long)r.recovered, (unsigned long long)r.dropped);
	chains_destroy(&r.chains);
	return 0;
}

/* ------------------------------------------------------------------------- without a ledger */

/* Units of blocks in each segment; NULL: no memory. Where the record of a space is: UINT32_MAX. */
static uint32_t *segment_units_live(const struct realm *realm, uint32_t segments)
{
	uint32_t each = realm->ssd.segment_units;
	uint32_t *live = memory_calloc(segments, sizeof(*live));

	for (uint32_t slot = 0; live && slot < realm->index.head->slot_count; slot++)
		if (slot_on_ssd(realm, slot))
			live[realm->index.ssd_at[slot] / each] +=
				ssd_block_units((struct realm *)(uintptr_t)realm, slot);
	for (unsigned i = 0; live && i < INDEX_SPACES_MAX; i++)
		if (realm->spaces[i].used && realm->spaces[i].ssd_at != SSD_NONE)
			live[realm->spaces[i].ssd_at / each] = UINT32_MAX;
	return live;
}

/* Removes the blocks of the segment that has the fewest. Return: blocks; 0: there is none. */
static uint64_t segment_clear(struct realm *realm, uint32_t segments)
{
	uint32_t each = realm->ssd.segment_units, best = NONE32;
	uint32_t *live = segment_units_live(realm, segments);
	uint64_t removed = 0;

	for (uint32_t i = 0; live && i < segments; i++)
		if (live[i] && live[i] != UINT32_MAX && (best == NONE32 || live[i] < live[best]))
			best = i;
	memory_free(live);
	for (uint32_t slot = 0; best != NONE32 && slot < realm->index.head->slot_count; slot++)
		if (slot_on_ssd(realm, slot) && realm->index.ssd_at[slot] / each == best)
			removed += remove_subtree(realm, slot, SKEP_REASON_EVICTED);
	return removed;
}

void ssd_realm_fit(struct realm *realm)
{
	struct ssd_status ssd;
	uint64_t removed = 0, more = 1;

	if (!realm->ssd.log)
		return;
	ssd_status_get(realm->keeper->ssd, &ssd);
	while (more && ssd_log_crowded(realm->ssd.log))
		removed += more = segment_clear(realm, ssd.segments);
	if (removed)
		log_warn("ssd",
			"realm %s: %llu blocks are evicted: without a manifest dead ones came "
			"back, and left no room",
			realm->name, (unsigned long long)removed);
}
