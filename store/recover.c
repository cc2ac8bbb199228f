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
#include "store/label.h"

#define STORE(field, value) atomic_store_explicit(&(field), (value), RELAXED)
#define LOAD(field)	    atomic_load_explicit(&(field), RELAXED)

enum candidate_state { CANDIDATE_NEW, CANDIDATE_IN, CANDIDATE_OUT };

/* A record that may become a block. */
struct candidate {
	uint64_t key;	/* of what names it: see key_of() */
	uint32_t found; /* index */
	uint32_t next;	/* of its hash chain */
	uint32_t child; /* while its ancestors are looked for: where we came from */
	uint32_t slot;
	uint8_t space, state;
};

struct recovery {
	struct realm *realm;
	const struct ssd_found *found;
	struct candidate *candidates; /* in the order of the log */
	uint32_t *heads;
	uint32_t count, head_count;
	uint64_t recovered, dropped;
};

/* ------------------------------------------------------------------------------------ spaces */

/* The newest record of each name makes the space; older ones are dead. */
static void spaces_recover(struct realm *realm, const struct ssd_found *found, int64_t count)
{
	struct label_space label, best;
	int64_t best_at = -1;

	/* One name a pass: there are 64 at most, and few records of spaces. */
	for (unsigned made = 0; made < INDEX_SPACES_MAX; made++) {
		best_at = -1;
		for (int64_t i = 0; i < count; i++) {
			bool known = false;

			if (found[i].log != realm->ssd.log ||
				found[i].label_bytes != sizeof(label) ||
				label_space_read(found[i].label, found[i].label_bytes, &label) < 0)
				continue;
			for (unsigned k = 0; k < INDEX_SPACES_MAX && !known; k++)
				known = realm->spaces[k].used &&
					!strncmp(realm->spaces[k].name, label.request.name,
						sizeof(realm->spaces[k].name));
			if (known || (best_at >= 0 && strncmp(best.request.name, label.request.name,
							      sizeof(best.request.name))))
				continue;
			if (best_at < 0 || label.space_version >= best.space_version) {
				best = label;
				best_at = i;
			}
		}
		if (best_at < 0)
			return;
		int place = space_restore(realm, &best.request, best.space_version);

		if (place < 0) {
			log_warn("ssd", "realm %s: a space found on the ssd cannot be opened: %s",
				realm->name, status_text(place));
			return;
		}
		realm->spaces[place].ssd_at = found[best_at].at;
		realm->spaces[place].ssd_version = best.space_version;
		realm->ssd.live_units += found[best_at].units;
		ssd_keep(realm->keeper->ssd, &found[best_at]);
	}
}

static int space_of_key(const struct realm *realm, uint64_t key)
{
	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++)
		if (realm->spaces[i].used && realm->spaces[i].key == key)
			return (int)i;
	return -ENOENT;
}

/* ---------------------------------------------------------------------------------- records */

/* A record is known by the write generation of its first part. There are a million labels or more,
 * so that each is looked at as seldom as can be: what is compared lies in the candidates. */
static uint64_t key_of(uint64_t incarnation, uint64_t write)
{
	return mix64(incarnation ^ mix64(write));
}

static uint32_t *head_of(struct recovery *r, uint64_t key)
{
	return &r->heads[hash_range((uint32_t)key, r->head_count)];
}

/* Only what was read by label_block_read() is a candidate. */
static bool label_is(const struct ssd_found *found, uint64_t incarnation, uint64_t write)
{
	const struct label_head *head = found->label;
	const struct label_part *parts = (const void *)(head + 1);

	return head->incarnation == incarnation && parts[0].write == write;
}

static uint32_t candidate_find(struct recovery *r, uint64_t incarnation, uint64_t write)
{
	uint64_t key = key_of(incarnation, write);
	uint32_t at = *head_of(r, key);

	while (at != NONE32 &&
		(r->candidates[at].key != key ||
			!label_is(&r->found[r->candidates[at].found], incarnation, write)))
		at = r->candidates[at].next;
	return at;
}

static void candidate_add(struct recovery *r, uint32_t number)
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
	r->candidates[r->count++] =
		(struct candidate){.key = key_of(label.head.incarnation, label.parts[0].write),
			.found = number,
			.next = NONE32,
			.slot = NONE32,
			.space = (uint8_t)space};
}

enum { AHEAD = 16 }; /* heads lie all over memory: they are asked for so much before */

/* Makes all candidates known. */
static void candidates_link(struct recovery *r)
{
	for (uint32_t i = 0; i < r->count; i++) {
		struct candidate *candidate = &r->candidates[i];
		const struct label_head *label = r->found[candidate->found].label;
		const struct label_part *parts = (const void *)(label + 1);
		uint32_t *head = head_of(r, candidate->key), same = NONE32;

		if (i + AHEAD < r->count)
			__builtin_prefetch(head_of(r, candidate[AHEAD].key));
		if (*head != NONE32)
			same = candidate_find(r, label->incarnation, parts[0].write);
		if (same == NONE32) {
			candidate->next = *head;
			*head = i;
			continue;
		}
		/* Moved, and both places were found: the later one counts (they come in this
		 * order). */
		r->candidates[same].found = candidate->found;
		candidate->state = CANDIDATE_OUT;
	}
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
static bool block_make(struct recovery *r, struct candidate *candidate, uint32_t parent)
{
	struct realm *realm = r->realm;
	struct index *index = &realm->index;
	struct space *space = &realm->spaces[candidate->space];
	struct block_id above = {0, 0};
	struct index_name name = {.parent_slot = SLOT_ROOT(candidate->space),
		.parent_generation = space->generation,
		.space = candidate->space,
		.parts = space->part_count,
		.range_sums = space->ranges};
	const struct ssd_found *found = &r->found[candidate->found];
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
	candidate->slot = (uint32_t)slot;
	ssd_keep(realm->keeper->ssd, found);
	return true;
}

/* What chain_make() will ask for: the way to the parent, and where the block's own name goes. */
static void chain_prefetch(struct recovery *r, uint32_t at)
{
	const struct index *index = &r->realm->index;
	const struct label_head *label;
	uint32_t parent;

	if (at >= AHEAD) { /* the newest come first */
		label = r->found[r->candidates[at - AHEAD].found].label;
		__builtin_prefetch(
			head_of(r, key_of(label->parent_incarnation, label->parent_write)));
		__builtin_prefetch(&index->buckets[hash_range(
			(uint32_t)label->id_low, index->head->bucket_count)]);
	}
	if (at >= AHEAD / 2) {
		label = r->found[r->candidates[at - AHEAD / 2].found].label;
		parent = *head_of(r, key_of(label->parent_incarnation, label->parent_write));
		if (parent != NONE32)
			__builtin_prefetch(&r->candidates[parent]);
	}
}

/* Makes a block and whatever is above it, from the top. */
static void chain_make(struct recovery *r, uint32_t at)
{
	const struct label_head *label;
	uint32_t parent = NONE32, child = NONE32;
	bool broken = false;

	/* Up to a block that stands, a first block, or one that is not to be had. */
	for (;;) {
		struct candidate *candidate = &r->candidates[at];

		if (candidate->state != CANDIDATE_NEW) {
			broken = candidate->state == CANDIDATE_OUT;
			parent = candidate->slot;
			break;
		}
		candidate->child = child;
		candidate->state = CANDIDATE_OUT; /* until it is made; ends a circle as well */
		child = at;
		label = r->found[candidate->found].label;
		if (!label->parent_write)
			break;
		at = candidate_find(r, label->parent_incarnation, label->parent_write);
		if (at == NONE32) {
			broken = true;
			break;
		}
	}
	for (; child != NONE32; child = r->candidates[child].child) {
		struct candidate *candidate = &r->candidates[child];

		if (!broken && block_make(r, candidate, parent)) {
			candidate->state = CANDIDATE_IN;
			parent = candidate->slot;
			r->recovered++;
		} else {
			broken = true;
			r->dropped++;
		}
	}
}

int ssd_realm_recover(struct realm *realm, const struct ssd_found *found, int64_t count)
{
	struct recovery r = {.realm = realm, .found = found};
	uint64_t stamp = realm->keeper->now_ns - MIN_OF(realm->keeper->now_ns, (uint64_t)count);

	if (!realm->ssd.log || !count)
		return 0;
	spaces_recover(realm, found, count);
	r.head_count = (uint32_t)MIN_OF(2 * (uint64_t)count, UINT32_MAX);
	r.candidates = memory_calloc((size_t)count, sizeof(*r.candidates));
	r.heads = memory_calloc(r.head_count, sizeof(*r.heads));
	if (!r.candidates || !r.heads) {
		memory_free(r.candidates);
		memory_free(r.heads);
		return -ENOMEM;
	}
	memory_large_pages(r.candidates, (size_t)count * sizeof(*r.candidates));
	memory_large_pages(r.heads, r.head_count * sizeof(*r.heads));
	memset(r.heads, 0xff, r.head_count * sizeof(*r.heads));
	for (int64_t i = 0; i < count; i++)
		if (found[i].log == realm->ssd.log)
			candidate_add(&r, (uint32_t)i);
	candidates_link(&r);
	/* The newest first: of a block that left and was put again both lives may be found, and
	 * all that is below the earlier one left with it. */
	for (uint32_t i = r.count; i-- > 0;) {
		chain_prefetch(&r, i);
		chain_make(&r, i);
	}
	/* The order of the log stands for the order of use: what was written last was used last. */
	for (uint32_t i = 0; i < r.count; i++)
		if (r.candidates[i].slot != NONE32) {
			realm->index.slots[r.candidates[i].slot].stamp_ns = stamp + i;
			lru_leaf_check(realm, r.candidates[i].slot);
		}
	realm->counters[REALM_COUNTER_blocks_recovered] += r.recovered;
	log_info("ssd", "realm %s: %llu blocks found, %llu records dropped", realm->name,
		(unsigned long long)r.recovered, (unsigned long long)r.dropped);
	memory_free(r.candidates);
	memory_free(r.heads);
	return 0;
}
