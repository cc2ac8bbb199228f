/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who leaves DRAM: by chain, least recently used (DESIGN section 7).
 *
 * A list holds blocks in the order of their stamps. Only the deepest block of a match is stamped,
 * so inner blocks drift to the cold end; there they are taken off the list, and when their last
 * child leaves they come back at the cold end with the child's stamp. That is the order of an LRU
 * list touched deepest first, at one update a match.
 *
 * A batch: choose leaves that no pin names; unpublish them all; fence; read the pin tables again;
 * from the leaves on, publish again what is named after all or has a child published again; free
 * the rest (pin.h has the client's side).
 */
#include <string.h>

#include "base/bits.h"
#include "store/hbm_priv.h"
#include "store/store_priv.h"

#define LOAD(field) atomic_load_explicit(&(field), RELAXED)

/* A list that is this much older than another gives up a slab to it, when it is asked for one. */
enum {
	AGE_RATIO_TO_STEAL = 3,
	EVICTIONS_BETWEEN_STEALS = 128,
	STEAL_STEPS_MAX = 1 << 20, /* some milliseconds */
};

/* A block without a record goes whole, so no child may be left on the ssd. (A name in the GPU
 * memory of sessions needs no bytes above it.) */
static bool child_stays(const struct realm *realm, uint32_t slot)
{
	const struct slot *slots = realm->index.slots;

	if (!realm->ssd.log || slot_on_ssd(realm, slot))
		return false;
	for (uint32_t child = slots[slot].first_child; child != NONE32;
		child = slots[child].next_sibling)
		if (!(slots[child].flags & SLOT_VICTIM) && !hbm_state(index_state(realm, child)))
			return true;
	return false;
}

/* Rests something on it that does not go with it? */
static bool rested_on(const struct realm *realm, uint32_t slot)
{
	return realm->index.slots[slot].dram_children || child_stays(realm, slot) ||
	       hbm_keeps(realm, slot);
}

/* ----------------------------------------------------------------------------------- pins */

/* Marks a block that must stay, and with @chain all that its chain rests on. */
static void stay_mark(struct realm *realm, uint32_t slot, bool chain)
{
	uint32_t *marks = realm->index.scan_marks;

	do {
		if (chain && marks[slot] == realm->scan)
			return; /* and so is everything above it */
		marks[slot] = realm->scan;
		slot = index_parent(realm, slot);
	} while (chain && slot != NONE32);
}

static void pins_scan_session(struct realm *realm, const struct session *session, bool chain)
{
	struct index *index = &realm->index;
	uint32_t count;
	const struct pin_cell *cells = page_end_pins(&session->page, &count);

	for (uint32_t i = 0; i < count; i++) {
		/* Acquire pairs with pin_store(): the slot read next is this pin's or a later
		 * one's, and then this pin was given up. */
		uint64_t generation =
			atomic_load_explicit(&cells[i].generation, memory_order_acquire);
		uint32_t slot;

		if (!generation)
			continue;
		realm->pins_seen++;
		slot = LOAD(cells[i].slot);
		if (slot < index->head->slot_count &&
			(LOAD(index->entries[slot].frame_generation) == generation ||
				index->slots[slot].old_generation == generation))
			stay_mark(realm, slot, chain);
	}
}

static void pins_scan_all(struct realm *realm, bool chain)
{
	if (++realm->scan == 0) { /* after 2^32 scans: no mark may look fresh */
		memset(realm->index.scan_marks, 0,
			(size_t)realm->index.head->slot_count * sizeof(uint32_t));
		realm->scan = 1;
	}
	realm->pins_seen = 0;
	list_each (node, &realm->sessions)
		pins_scan_session(realm, list_item(node, struct session, of_realm), chain);
}

void pins_scan(struct realm *realm)
{
	pins_scan_all(realm, false);
}

/* What is not written yet, or is on its way, and what loads need. */
static void transfers_mark(struct realm *realm)
{
	struct slot *slots = realm->index.slots;

	for (uint32_t slot = realm->ssd.dirty.cold; slot != NONE32; slot = slots[slot].lru_next)
		stay_mark(realm, slot, true);
	list_each (node, &realm->ssd.jobs_busy) {
		const struct ssd_job *job = list_item(node, struct ssd_job, link);

		if (!job->of_space)
			stay_mark(realm, job->slot, true);
	}
	list_each (node, &realm->ssd.loads_live) {
		const struct load *load = list_item(node, struct load, link);

		for (uint32_t i = 0; i < load->started; i++)
			if (slots[load->blocks[i].slot].holds)
				stay_mark(realm, load->blocks[i].slot, true);
	}
}

static void chain_mark(struct realm *realm, uint32_t slot)
{
	stay_mark(realm, slot, true);
}

/*
 * Marks whatever an inner block may not be taken from under: pins of all kinds, blocks being put,
 * removed ones whose frames wait, the parent of the block that room is made for. What is not marked
 * is present, and so is everything below it.
 */
static void chains_scan(struct realm *realm, bool records)
{
	struct slot *slots = realm->index.slots;
	uint64_t left;

	pins_scan_all(realm, true);
	left = realm->operator_pins;
	for (uint32_t slot = 0; left; slot++)
		if (slots[slot].operator_pins) {
			stay_mark(realm, slot, true);
			left--;
		}
	left = realm->pending_count;
	for (uint32_t i = 0; left; i++)
		if (realm->pendings[i].slot != NONE32) {
			stay_mark(realm, realm->pendings[i].slot, true);
			left--;
		}
	for (uint32_t slot = realm->removed.first; slot != NONE32; slot = slots[slot].lru_next)
		stay_mark(realm, slot, true);
	transfers_mark(realm);
	hbm_mark(realm, records, chain_mark);
	if (realm->guarded_slot != NONE32)
		stay_mark(realm, realm->guarded_slot, true);
}

/* -------------------------------------------------------------------------------- a batch */

struct batch {
	uint32_t slots[EVICT_BATCH_MAX];
	unsigned count;
};

/* The coldest leaf of a list that may go; pinned ones are in use, so they move to the hot end. */
static uint32_t victim_pick(struct realm *realm, struct lru_list *list)
{
	uint64_t left = list->count;
	uint32_t slot;

	while ((slot = list->cold) != NONE32 && left--) {
		if (rested_on(realm, slot))
			lru_remove(realm, slot);
		else if (pins_marked(realm, slot))
			lru_touch(realm, slot);
		else
			return slot;
	}
	return NONE32;
}

/* Readers that see a block vanish look here: odd, and it may come back. */
static void evictions_step(struct realm *realm)
{
	_Atomic uint64_t *word = &realm->index.head->evictions;

	atomic_store_explicit(word, LOAD(*word) + 1, memory_order_release);
}

/* Unpublishes and counts the block as gone at its parent, which may be the next victim. */
static void victim_take(struct realm *realm, struct batch *batch, uint32_t slot)
{
	struct index_entry *entry = &realm->index.entries[slot];
	struct slot *own = &realm->index.slots[slot];

	SKEP_CHECK(index_state(realm, slot) == ENTRY_PRESENT && own->dram_children == 0);
	SKEP_CHECK(own->flags & SLOT_IN_DRAM && !(own->flags & SLOT_LOADING));
	SKEP_CHECK(batch->count < EVICT_BATCH_MAX);
	if (!batch->count) {
		evictions_step(realm);
		/* Whoever reads a generation of 0 with acquire reads an odd word after it. */
		atomic_thread_fence(memory_order_release);
	}
	lru_remove(realm, slot);
	own->old_generation = LOAD(entry->frame_generation);
	own->flags |= SLOT_VICTIM;
	atomic_store_explicit(&entry->frame_generation, 0, RELAXED);
	batch->slots[batch->count++] = slot;
	evict_child_left(realm, index_parent(realm, slot), own->stamp_ns);
}

/* A pin came in between: the block stands again under its old frame generation. */
static void victim_restore(struct realm *realm, uint32_t slot)
{
	struct slot *own = &realm->index.slots[slot];
	uint32_t parent = index_parent(realm, slot);

	atomic_store_explicit(&realm->index.entries[slot].frame_generation, own->old_generation,
		memory_order_release);
	own->old_generation = 0;
	if (parent != NONE32)
		realm->index.slots[parent].dram_children++;
	lru_touch(realm, slot);
	if (own->flags & SLOT_DIRTY) /* it was to be shed */
		lru_dirty(realm, slot);
	realm->counters[REALM_COUNTER_evictions_withdrawn]++;
}

static void victim_free(struct realm *realm, uint32_t slot)
{
	struct index_entry *entry = &realm->index.entries[slot];
	struct slot *own = &realm->index.slots[slot];
	uint32_t parent = index_parent(realm, slot);

	put_frames_free(realm, slot);
	own->old_generation = 0;
	own->flags &= (uint8_t)~SLOT_IN_DRAM;
	if (slot_on_ssd(realm, slot)) {
		realm->counters[REALM_COUNTER_blocks_demoted]++;
		lru_leaf_check(realm, slot);
		return;
	}
	if (own->flags & SLOT_DIRTY)
		ssd_settled(realm, slot);
	own->flags &= (uint8_t)~SLOT_DIRTY;
	realm->counters[REALM_COUNTER_blocks_evicted]++;
	if (hbm_stays(realm, slot))
		return;
	gone_add(realm, LOAD(entry->id_low), SKEP_REASON_EVICTED);
	index_name_hide(realm, slot);
	index_slot_free(realm, slot);
	lru_leaf_check(realm, parent);
}

/* Return: blocks freed. */
static unsigned batch_finish(struct realm *realm, struct batch *batch)
{
	unsigned freed = 0;

	if (!batch->count)
		return 0;
	/* Pairs with pin_store(): whoever stored a pin before this reads generation 0, or is seen
	 * by the scan. */
	atomic_thread_fence(memory_order_seq_cst);
	pins_scan(realm);
	/* The order of choice is leaves first, so a child is settled before its parent. */
	for (unsigned i = 0; i < batch->count; i++) {
		uint32_t slot = batch->slots[i];

		realm->index.slots[slot].flags &= (uint8_t)~SLOT_VICTIM;
		if (pins_marked(realm, slot) || realm->index.slots[slot].dram_children) {
			victim_restore(realm, slot);
			continue;
		}
		victim_free(realm, slot);
		freed++;
	}
	evictions_step(realm);
	return freed;
}

/* The list, of those in @mask, whose cold end is the oldest; NULL if all are empty. */
static struct lru_list *coldest_list(struct realm *realm, uint64_t mask)
{
	struct lru_list *best = NULL;
	uint64_t best_stamp = UINT64_MAX;

	for (; mask; mask &= mask - 1) {
		struct lru_list *list = &realm->lru[__builtin_ctzll(mask)];

		if (list->cold == NONE32)
			continue;
		if (!best || realm->index.slots[list->cold].stamp_ns < best_stamp) {
			best = list;
			best_stamp = realm->index.slots[list->cold].stamp_ns;
		}
	}
	return best;
}

/* What a batch is chosen for: frames of a class, bytes, or blocks; it ends when one is enough. */
struct goal {
	uint64_t lists;	 /* mask of lists to choose from */
	unsigned class;	 /* of @frames */
	uint64_t frames; /* 0: not asked */
	uint64_t bytes;	 /* 0: not asked */
	unsigned blocks;
};

static uint64_t block_frames(struct realm *realm, uint32_t slot, unsigned class)
{
	uint32_t parts = LOAD(realm->index.entries[slot].parts);
	uint64_t frames = 0;

	for (uint32_t i = 0; i < parts; i++)
		frames += put_part_class(realm, slot, i) == class;
	return frames;
}

static uint64_t block_bytes(struct realm *realm, uint32_t slot)
{
	struct index *index = &realm->index;
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < LOAD(index->entries[slot].parts); i++)
		bytes += align_up(LOAD(index_part(index, slot, i)->bytes), DRAM_FRAME_GRANULE);
	return bytes;
}

/* One batch towards the goal, which is lessened by what was freed. Return: blocks freed. */
static unsigned batch_run(struct realm *realm, struct goal *goal)
{
	struct batch batch = {.count = 0};
	uint64_t frames = 0, bytes = 0;
	unsigned freed;

	pins_scan(realm);
	while (batch.count < MIN_OF(goal->blocks, EVICT_BATCH_MAX)) {
		struct lru_list *list = coldest_list(realm, goal->lists);
		uint32_t slot = list ? victim_pick(realm, list) : NONE32;

		if (slot == NONE32) {
			/* All that is left on this list is in use: look at the others. */
			if (list && (goal->lists &= ~(1ull << (list - realm->lru))))
				continue;
			break;
		}
		if (goal->frames)
			frames += block_frames(realm, slot, goal->class);
		bytes += block_bytes(realm, slot);
		victim_take(realm, &batch, slot);
		if ((goal->frames && frames >= goal->frames) ||
			(goal->bytes && bytes >= goal->bytes))
			break;
	}
	freed = batch_finish(realm, &batch);
	goal->blocks -= freed;
	if (freed == batch.count) {
		goal->frames -= MIN_OF(goal->frames, frames);
		goal->bytes -= MIN_OF(goal->bytes, bytes);
	}
	return freed;
}

/* ----------------------------------------------------------------- changing a slab's class */

/* Looking for the slabs whose loss costs least. */
struct steal {
	struct realm *realm;
	struct slab *slab;   /* of frames, or of records; the owners are slots in both */
	unsigned class;	     /* that wants a slab */
	uint64_t free_ns;    /* what was used before then is no loss */
	uint64_t steps_left; /* down chains */
	uint64_t cost;	     /* of the slab that is looked at */
	uint32_t below;	     /* the child that @below_ns was found through */
	uint64_t below_ns;
};

/*
 * When a block was of use: an inner one is when the chain through its last named child was. A chain
 * put at once lies frame after frame, so one walk down serves all of its blocks.
 */
static uint64_t use_ns(struct steal *steal, uint32_t slot)
{
	const struct slot *slots = steal->realm->index.slots;
	uint32_t at = slot;

	if (slot != steal->below) {
		for (; slots[at].first_child != NONE32 && steal->steps_left; steal->steps_left--)
			at = slots[at].first_child;
		steal->below_ns = slots[at].stamp_ns;
	}
	steal->below = slots[slot].first_child;
	return MAX_OF(slots[slot].stamp_ns, steal->below_ns);
}

static void slab_look_at(void *context, uint64_t offset, uint32_t owner)
{
	struct steal *steal = context;
	struct realm *realm = steal->realm;
	uint64_t ns, younger_ms, children;

	(void)offset;
	if (steal->cost == SLAB_NEVER)
		return;
	if (owner == NONE32 || index_state(realm, owner) != ENTRY_PRESENT ||
		pins_marked(realm, owner)) {
		steal->cost = SLAB_NEVER;
		return;
	}
	ns = use_ns(steal, owner);
	/* Of slabs that are no loss the emptiest goes: so the holes between slabs are closed. */
	younger_ms = (ns - MIN_OF(ns, steal->free_ns)) >> 20;
	children = realm->index.slots[owner].dram_children;
	steal->cost += (1 + younger_ms) * MAX_OF(children, 1);
}

static uint64_t slab_steal_cost(void *context, uint32_t index)
{
	struct steal *steal = context;

	if (slab_info(steal->slab, index).class == steal->class)
		return SLAB_NEVER;
	steal->cost = 0;
	steal->below = NONE32;
	slab_each_in(steal->slab, index, slab_look_at, steal);
	return steal->cost;
}

static uint32_t leaf_below(const struct realm *realm, uint32_t slot)
{
	const struct slot *slots = realm->index.slots;

	while (slots[slot].first_child != NONE32)
		slot = slots[slot].first_child;
	return slot;
}

/* The next of a subtree, children before their parents. */
static uint32_t subtree_next(const struct realm *realm, uint32_t at)
{
	uint32_t sibling = realm->index.slots[at].next_sibling;

	return sibling != NONE32 ? leaf_below(realm, sibling) : index_parent(realm, at);
}

/* Takes a block and all that is below it out of DRAM, leaves first; all of it must be present.
 * Return: false: a pin came in between, and what it holds stands again; or a block without a record
 * stands above one that stays on the ssd. */
static bool subtree_evict(struct realm *realm, uint32_t top)
{
	const struct slot *slots = realm->index.slots;
	struct batch batch;
	bool whole = false, stays = false;

	while (!whole) {
		uint32_t at = leaf_below(realm, top);

		/* Names that stay on the ssd are met again in the next batch, and passed over. */
		for (batch.count = 0; batch.count < EVICT_BATCH_MAX; at = subtree_next(realm, at)) {
			if (slots[at].flags & SLOT_IN_DRAM) {
				if ((stays = child_stays(realm, at) || hbm_keeps(realm, at)))
					break;
				victim_take(realm, &batch, at);
			}
			if ((whole = at == top))
				break;
		}
		if (batch_finish(realm, &batch) != batch.count || stays)
			return false;
	}
	return true;
}

/* Takes a block and all that is below it out of every tier. */
static bool subtree_drop(struct realm *realm, uint32_t top)
{
	uint64_t name = LOAD(realm->index.entries[top].name_generation);
	uint32_t at, next;

	if (!subtree_evict(realm, top))
		return false;
	if (LOAD(realm->index.entries[top].name_generation) != name)
		return true; /* without a record they went with their frames */
	for (at = leaf_below(realm, top);; at = next) {
		next = at == top ? NONE32 : subtree_next(realm, at);
		ssd_leaf_drop(realm, at);
		if (next == NONE32)
			return true;
	}
}

static void slab_owner_note(void *context, uint64_t offset, uint32_t owner)
{
	(void)offset;
	*(uint32_t *)context = owner;
}

/* Empties the cheapest slabs of other classes that make room for one of @class in @slab; blocks of
 * @lists use that class already. */
static bool slab_steal(struct realm *realm, struct slab *slab, unsigned class, uint64_t lists)
{
	struct lru_list *coldest = coldest_list(realm, lists);
	struct steal steal = {
		.realm = realm, .slab = slab, .class = class, .steps_left = STEAL_STEPS_MAX};
	struct slab_window window;
	int64_t index;

	if (!coldest)
		coldest = coldest_list(realm, UINT64_MAX);
	if (coldest)
		steal.free_ns = realm->index.slots[coldest->cold].stamp_ns;
	chains_scan(realm, slab == realm->index.records);
	if (slab_window(slab, class, slab_steal_cost, &steal, &window) < 0)
		return false;
	while ((index = slab_in_window(slab, &window)) >= 0) {
		uint32_t owner = NONE32;

		slab_each_in(slab, (uint32_t)index, slab_owner_note, &owner);
		if (slab == realm->index.records ? !subtree_drop(realm, owner)
						 : !subtree_evict(realm, owner))
			return false;
	}
	return true;
}

/*
 * Gate of every call below: a victim is taken from readers by its entry, and readers of the
 * predecessor's index would not see it.
 */
static bool frames_stay(const struct realm *realm)
{
	return realm->unmoved;
}

bool evict_slabs_for(struct realm *realm, unsigned class)
{
	bool stolen = !frames_stay(realm) &&
		      slab_steal(realm, dram_slab(realm->dram), class, realm->lru_of_class[class]);

	realm->next_steal =
		realm->counters[REALM_COUNTER_blocks_evicted] + EVICTIONS_BETWEEN_STEALS;
	realm->counters[REALM_COUNTER_slabs_emptied] += stolen;
	return stolen;
}

/* Is another class so much colder that it should give a slab to this one? */
static bool steal_is_due(struct realm *realm, uint64_t lists)
{
	struct lru_list *mine = coldest_list(realm, lists);
	struct lru_list *other = coldest_list(realm, ~lists);
	uint64_t now = realm->keeper->now_ns, age, other_age;

	if (!other)
		return false;
	if (!mine)
		return true;
	age = now - realm->index.slots[mine->cold].stamp_ns;
	other_age = now - realm->index.slots[other->cold].stamp_ns;
	return other_age / AGE_RATIO_TO_STEAL > age &&
	       realm->counters[REALM_COUNTER_blocks_evicted] >= realm->next_steal;
}

/* ------------------------------------------------------------------------------- the calls */

unsigned evict_for(struct realm *realm, const struct room_want *want)
{
	uint64_t lists = realm->lru_of_class[want->class];
	struct goal goal = {.lists = lists,
		.class = want->class,
		.frames = want->frames,
		.blocks = MIN_OF(want->frames, EVICT_BATCH_MAX)};
	uint64_t began = clock_ns();
	unsigned freed = 0;

	if (frames_stay(realm))
		return 0;
	if (steal_is_due(realm, lists) && evict_slabs_for(realm, want->class))
		return 1;
	while (goal.frames && goal.blocks) {
		unsigned now = batch_run(realm, &goal);

		if (!now)
			break;
		freed += now;
	}
	if (!freed && evict_slabs_for(realm, want->class))
		freed = 1;
	histogram_add(&realm->latencies[REALM_LATENCY_evict], clock_ns() - began);
	return freed;
}

uint64_t evict_bytes(struct realm *realm, uint64_t bytes)
{
	struct goal goal = {.lists = UINT64_MAX, .bytes = bytes, .blocks = UINT32_MAX};

	while (!frames_stay(realm) && goal.bytes && goal.lists && batch_run(realm, &goal))
		;
	return bytes - goal.bytes;
}

unsigned evict_blocks(struct realm *realm, unsigned blocks)
{
	struct goal goal = {.lists = UINT64_MAX, .blocks = blocks};
	uint32_t before = realm->index.free_count;

	if (frames_stay(realm))
		return 0;
	/* What is on the ssd alone is colder than what is in DRAM; where there is none of it,
	 * leaves of DRAM become so first, or leave at once where they have no record. Names that a
	 * session has in its GPU memory stay. */
	do {
		ssd_leaves_drop(realm, blocks - (realm->index.free_count - before));
		goal.blocks = blocks - (realm->index.free_count - before);
	} while (goal.blocks && goal.lists && batch_run(realm, &goal));
	return realm->index.free_count - before;
}

bool evict_shed(struct realm *realm)
{
	const struct slot *slots = realm->index.slots;
	struct batch batch = {.count = 0};
	uint32_t slot;

	if (frames_stay(realm))
		return false;
	pins_scan(realm);
	for (slot = realm->ssd.dirty.cold; slot != NONE32; slot = slots[slot].lru_next)
		if (!rested_on(realm, slot) && !(slots[slot].flags & SLOT_WRITING) &&
			!pins_marked(realm, slot))
			break;
	if (slot == NONE32)
		return false;
	victim_take(realm, &batch, slot);
	if (!batch_finish(realm, &batch))
		return false;
	realm->counters[REALM_COUNTER_blocks_shed]++;
	return true;
}

/* Empties slabs of records: their blocks leave every tier. */
bool evict_for_record(struct realm *realm, unsigned class)
{
	return !frames_stay(realm) && slab_steal(realm, realm->index.records, class, UINT64_MAX);
}
