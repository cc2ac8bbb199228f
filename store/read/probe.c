/* SPDX-License-Identifier: Apache-2.0 */
#include "store/read/probe.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/read/pin.h"

enum { BUCKET_STEPS_MAX = 4096 };

#define LOAD(field) atomic_load_explicit(&(field), memory_order_relaxed)

static bool area_fits(uint64_t at, uint64_t each, uint64_t count, uint64_t file_bytes)
{
	return at % 64 == 0 && at <= file_bytes && count <= (file_bytes - at) / each;
}

int index_view_open(struct index_view *view, const void *base, uint64_t file_bytes)
{
	const struct index_head *head = base;
	const uint8_t *bytes = base;

	if (file_bytes < sizeof(*head) || head->magic != INDEX_MAGIC)
		return -EINVAL;
	if (head->version != INDEX_LAYOUT_VERSION || head->head_bytes != sizeof(*head))
		return SKEP_STATUS_EVERSION;
	if (head->file_bytes > file_bytes || !head->slot_count || !head->bucket_count ||
		head->id_bits < 1 || head->id_bits > 128 ||
		!area_fits(head->buckets_at, sizeof(struct index_bucket), head->bucket_count,
			file_bytes) ||
		!area_fits(head->entries_at, sizeof(struct index_entry), head->slot_count,
			file_bytes) ||
		!area_fits(
			head->parts_at, sizeof(struct index_part), head->slot_count, file_bytes) ||
		!area_fits(head->heap_at, 1, head->heap_bytes, file_bytes))
		return -EINVAL;
	view->head = head;
	view->buckets = (const void *)(bytes + head->buckets_at);
	view->entries = (const void *)(bytes + head->entries_at);
	view->parts = (const void *)(bytes + head->parts_at);
	view->heap = bytes + head->heap_at;
	return 0;
}

struct id_input probe_input(const struct probe_chain *chain, uint32_t i)
{
	struct id_input in = {0};

	if (!chain->extras) {
		in.tokens = chain->tokens + (size_t)i * chain->block_tokens;
		in.token_count = chain->block_tokens;
		return in;
	}

	const struct probe_extra *extra = &chain->extras[i];

	in.tokens = chain->tokens + extra->token_at;
	in.token_count = extra->token_count;
	in.key = extra->key_bytes ? chain->blob + extra->blob_at : NULL;
	in.key_bytes = extra->key_bytes;
	in.extra = extra->extra_bytes ? chain->blob + extra->blob_at + extra->key_bytes : NULL;
	in.extra_bytes = extra->extra_bytes;
	return in;
}

uint32_t record_head_at(const struct record_shape *shape)
{
	return (shape->parts - 1) * (uint32_t)sizeof(struct index_part);
}

uint32_t record_sums_at(const struct record_shape *shape)
{
	return record_head_at(shape) + (uint32_t)sizeof(struct record_head) +
	       (uint32_t)align_up((uint64_t)shape->token_count * 4, 8) +
	       (uint32_t)align_up((uint64_t)shape->key_bytes + shape->extra_bytes, 8);
}

uint32_t record_bytes(const struct record_shape *shape)
{
	return record_sums_at(shape) + shape->range_sums * 8;
}

static inline uint64_t word_of(const uint8_t *bytes)
{
	uint64_t word;

	memcpy(&word, bytes, sizeof(word));
	return word;
}

/*
 * Compares @length bytes of shared memory (8-aligned, padded to 8) with the caller's. Relaxed
 * atomic words: the keeper may be writing a new record there, which the name generation then tells.
 */
static inline bool shared_equal(const uint8_t *shared, const void *mine, uint32_t length)
{
	const _Atomic uint64_t *words = (const void *)shared;
	const uint8_t *bytes = mine, *end = bytes + length;
	uint64_t differs = 0, word = 0;

	/* Four at a time: the tokens of most blocks are a few of them. */
	for (; end - bytes >= 32; bytes += 32, words += 4)
		differs |= (word_of(bytes) ^ LOAD(words[0])) |
			   (word_of(bytes + 8) ^ LOAD(words[1])) |
			   (word_of(bytes + 16) ^ LOAD(words[2])) |
			   (word_of(bytes + 24) ^ LOAD(words[3]));
	for (; end - bytes >= 8; bytes += 8, words++)
		differs |= word_of(bytes) ^ LOAD(words[0]);
	if (bytes < end) {
		memcpy(&word, bytes, (size_t)(end - bytes));
		/* The keeper writes the padding as zeros. */
		differs |= word ^ LOAD(words[0]);
	}
	return !differs;
}

/* Key and extra keys stand one after the other, unaligned: compare through a copy. */
static bool shared_blob_equal(const uint8_t *shared, const struct id_input *in)
{
	uint8_t mine[INDEX_KEY_BYTES_MAX + INDEX_EXTRA_BYTES_MAX];

	if (in->key_bytes + in->extra_bytes > sizeof(mine))
		return false;
	if (in->key_bytes)
		memcpy(mine, in->key, in->key_bytes);
	if (in->extra_bytes)
		memcpy(mine + in->key_bytes, in->extra, in->extra_bytes);
	return shared_equal(shared, mine, in->key_bytes + in->extra_bytes);
}

/* What proves a block: its tokens and, where it has any, its key and extra keys. */
struct proof {
	const uint32_t *tokens;
	uint32_t token_count;
	const struct id_input *more; /* NULL: tokens alone */
};

static inline bool record_equal(
	const struct index_view *view, const struct index_entry *entry, struct proof proof)
{
	struct record_shape shape = {.parts = LOAD(entry->parts),
		.token_count = proof.token_count,
		.key_bytes = proof.more ? proof.more->key_bytes : 0,
		.extra_bytes = proof.more ? proof.more->extra_bytes : 0};
	uint64_t at = (uint64_t)LOAD(entry->record) * INDEX_RECORD_GRANULE;
	const struct record_head *head;
	const uint8_t *tokens;

	/* A torn read of a slot changing hands may say anything: stay inside the heap. */
	if (shape.parts < 1 || shape.parts > INDEX_PARTS_MAX ||
		at + record_sums_at(&shape) > view->head->heap_bytes)
		return false;
	head = (const void *)(view->heap + at + record_head_at(&shape));
	tokens = (const uint8_t *)(head + 1);
	if (LOAD(head->word) != ((uint64_t)shape.token_count | (uint64_t)shape.key_bytes << 32 |
					(uint64_t)shape.extra_bytes << 48))
		return false;
	if (!shared_equal(tokens, proof.tokens, shape.token_count * 4))
		return false;
	return !proof.more ||
	       shared_blob_equal(tokens + align_up((uint64_t)shape.token_count * 4, 8), proof.more);
}

/* Is the block in @slot the one that is looked for? Fills @name if so. */
static inline bool slot_matches(const struct index_view *view, uint32_t slot,
	const struct block_id *id, const struct probe_name *parent, struct proof proof,
	struct probe_name *name)
{
	const struct index_entry *entry = &view->entries[slot];
	uint64_t generation = atomic_load_explicit(&entry->name_generation, memory_order_acquire);
	uint64_t differs = (LOAD(entry->id_low) ^ id->low) | (LOAD(entry->id_high) ^ id->high) |
			   (LOAD(entry->parent_slot) ^ parent->slot) |
			   (LOAD(entry->parent_generation) ^ parent->name_generation);

	if (!generation || differs || !record_equal(view, entry, proof))
		return false;
	name->slot = slot;
	name->name_generation = generation;
	name->state = LOAD(entry->state);
	/* Acquire: part fields read after this belong to this generation (keeper: release). */
	name->frame_generation =
		atomic_load_explicit(&entry->frame_generation, memory_order_acquire);
	/* Pairs with the release fence after name_generation = 0 in index.c: had the slot changed
	 * hands before one of the reads above, this load sees it. */
	atomic_thread_fence(memory_order_acquire);
	return LOAD(entry->name_generation) == generation;
}

static const struct index_bucket *bucket_of(const struct index_view *view, uint64_t id_low)
{
	return &view->buckets[hash_range((uint32_t)id_low, view->head->bucket_count)];
}

bool probe_find(const struct index_view *view, const struct block_id *id,
	const struct probe_name *parent, const struct id_input *in, struct probe_name *name)
{
	const struct index_bucket *bucket = bucket_of(view, id->low);
	struct proof proof = {in->tokens, in->token_count, in};
	uint64_t word = atomic_load_explicit(&bucket->word, memory_order_acquire), again;

	for (;;) {
		uint32_t slot = (uint32_t)word;
		unsigned steps = 0;

		/* Who finds a block wants its parts: this line need not wait for the entry's. */
		if (slot < view->head->slot_count)
			__builtin_prefetch(&view->parts[slot]);
		while (slot < view->head->slot_count && steps++ < BUCKET_STEPS_MAX) {
			if (slot_matches(view, slot, id, parent, proof, name))
				return true;
			slot = LOAD(view->entries[slot].next_slot);
		}
		/* Nothing: unless the list changed under us, nothing stands. */
		atomic_thread_fence(memory_order_acquire);
		again = atomic_load_explicit(&bucket->word, memory_order_acquire);
		if (again == word)
			return false;
		word = again;
	}
}

static struct probe_name space_root(const struct index_view *view, uint32_t space)
{
	struct probe_name root = {.slot = SLOT_ROOT(space)};

	if (space < INDEX_SPACES_MAX)
		root.name_generation = atomic_load_explicit(
			&view->head->spaces[space].generation, memory_order_acquire);
	return root;
}

/* ------------------------------------------------------------------------------------- walks */

/*
 * How many blocks ahead of a walk lines are asked for. What was put at once lies slot after slot
 * and record after record: the next places are guessed. Where blocks were put by twos and threes
 * beside those of other chains, guesses are wrong again and again; then the buckets tell the
 * places. That is a line more a block, and so that nothing is waited for, a longer way ahead.
 */
enum {
	AHEAD_RECORDS = 8,
	AHEAD_ENTRIES = 16,
	AHEAD_HEADS = 24,
	AHEAD_BUCKETS = 32, /* a power of two */
	/* A wrong guess weighs so much, and a block less with each block … */
	JUMP_WEIGHT = 16,
	/* … and with so much together the buckets are asked, for so many blocks. */
	SCATTERED_WEIGHT = 40,
	SCATTERED_BLOCKS = 32,
};

struct walk {
	uint32_t end;		  /* no block from here on is looked for */
	uint32_t jumped_at;	  /* the last block that was not where it was guessed */
	uint32_t weight;	  /* of wrong guesses, at that block */
	uint32_t scattered_until; /* the buckets are asked before this block */
	uint32_t buckets, heads, entries, records; /* asked for so far, while scattered */
	uint32_t slots[AHEAD_BUCKETS]; /* as the buckets say, of block i at i % AHEAD_BUCKETS */
};

/* A record's head and first tokens; of short ones it is all that is looked at. */
static void prefetch_record(const struct index_view *view, uint32_t slot)
{
	const uint8_t *record =
		view->heap + (uint64_t)LOAD(view->entries[slot].record) * INDEX_RECORD_GRANULE;

	__builtin_prefetch(record);
	__builtin_prefetch(record + 64);
}

/* The walk is at block @i: asks for those after it where the buckets say they are. */
static __attribute__((noinline)) void ahead_by_buckets(const struct index_view *view,
	const struct probe_chain *chain, struct walk *walk, uint32_t i)
{
	uint32_t slot_count = view->head->slot_count, *slot;

	for (; walk->buckets < MIN_OF(i + AHEAD_BUCKETS, walk->end); walk->buckets++)
		__builtin_prefetch(bucket_of(view, chain->ids[walk->buckets].low));
	for (; walk->heads < MIN_OF(i + AHEAD_HEADS, walk->end); walk->heads++) {
		slot = &walk->slots[walk->heads % AHEAD_BUCKETS];
		*slot = (uint32_t)LOAD(bucket_of(view, chain->ids[walk->heads].low)->word);
		if (*slot < slot_count)
			__builtin_prefetch(&view->entries[*slot]);
	}
	for (; walk->entries < MIN_OF(i + AHEAD_ENTRIES, walk->end); walk->entries++) {
		slot = &walk->slots[walk->entries % AHEAD_BUCKETS];
		if (*slot >= slot_count ||
			LOAD(view->entries[*slot].id_low) == chain->ids[walk->entries].low)
			continue;
		/* Another block of the bucket came first. */
		*slot = LOAD(view->entries[*slot].next_slot);
		if (*slot < slot_count)
			__builtin_prefetch(&view->entries[*slot]);
	}
	for (; walk->records < MIN_OF(i + AHEAD_RECORDS, walk->end); walk->records++) {
		slot = &walk->slots[walk->records % AHEAD_BUCKETS];
		if (*slot < slot_count)
			prefetch_record(view, *slot);
	}
}

static void prefetch_entries(const struct index_view *view, uint32_t slot, uint32_t count)
{
	for (uint32_t k = 0; k < count && slot + k < view->head->slot_count; k++)
		__builtin_prefetch(&view->entries[slot + k]);
}

/*
 * Some blocks further on the run ends where the walk is heading: asks for its continuation at
 * @slot, so that its entries are there when the walk is.
 */
static __attribute__((noinline)) void run_ends(const struct index_view *view, uint32_t slot)
{
	if (slot < view->head->slot_count)
		prefetch_entries(view, slot, AHEAD_RECORDS + 1);
}

/* Block @i is thought to be in @slot, and was guessed to be elsewhere. */
static __attribute__((noinline)) void walk_jump(
	const struct index_view *view, struct walk *walk, uint32_t i, uint32_t slot)
{
	uint32_t passed = i - walk->jumped_at;

	walk->jumped_at = i;
	walk->weight -= MIN_OF(walk->weight, passed);
	walk->weight = MIN_OF(walk->weight + JUMP_WEIGHT, 2u * SCATTERED_WEIGHT);
	if (walk->weight >= SCATTERED_WEIGHT) {
		if (i >= walk->scattered_until)
			walk->buckets = walk->heads = walk->entries = walk->records = i + 1;
		walk->scattered_until = i + SCATTERED_BLOCKS;
		return;
	}
	prefetch_entries(view, slot, AHEAD_ENTRIES);
	for (uint32_t k = 0; k < AHEAD_RECORDS && slot + k < view->head->slot_count; k++)
		prefetch_record(view, slot + k);
}

/*
 * Asks for what lies after block @i, which is thought to be in @slot; the one before it is in
 * @before.
 */
static inline void walk_ahead(const struct index_view *view, const struct probe_chain *chain,
	struct walk *walk, uint32_t i, uint32_t before, uint32_t slot)
{
	if (__builtin_expect(slot != before + 1, 0))
		walk_jump(view, walk, i, slot);
	if (__builtin_expect(i < walk->scattered_until, 0)) {
		ahead_by_buckets(view, chain, walk, i);
	} else if (slot + AHEAD_ENTRIES < view->head->slot_count) {
		uint32_t far = slot + AHEAD_RECORDS;
		uint32_t next = LOAD(view->entries[far].child_slot);

		__builtin_prefetch(&view->entries[slot + AHEAD_ENTRIES]);
		prefetch_record(view, far);
		if (__builtin_expect(next != far + 1, 0))
			run_ends(view, next);
	}
}

/* Seldom, and out of line for the sake of what is not seldom. */
static __attribute__((noinline)) bool walk_bucket(const struct index_view *view,
	const struct probe_chain *chain, uint32_t i, const struct probe_name *parent,
	struct probe_name *name)
{
	struct id_input in = probe_input(chain, i);

	return probe_find(view, &chain->ids[i], parent, &in, name);
}

/*
 * Finds block @i below @parent (its name, or the space's root), first by the parent's child hint,
 * else by its bucket. Id, parent and proof (tokens, key, extra keys) are compared: the answer is
 * exact by induction.
 */
static inline bool walk_block(const struct index_view *view, const struct probe_chain *chain,
	struct walk *walk, uint32_t i, const struct probe_name *parent, struct proof proof,
	struct probe_name *name)
{
	uint32_t child;

	if (parent->slot >= view->head->slot_count) /* a root */
		return walk_bucket(view, chain, i, parent, name);
	child = LOAD(view->entries[parent->slot].child_slot);
	if (child < view->head->slot_count) {
		walk_ahead(view, chain, walk, i, parent->slot, child);
		if (slot_matches(view, child, &chain->ids[i], parent, proof, name))
			return true;
	}
	return walk_bucket(view, chain, i, parent, name);
}

/* Blocks before @first need a name, those from there up to @end must be in DRAM. */
struct walk_bounds {
	uint32_t first, end;
};

/* Walks from block 0. Return: how many blocks stand; @missing is the state of the next one. */
static inline __attribute__((always_inline)) uint32_t walk_run(const struct index_view *view,
	const struct probe_chain *chain, struct walk_bounds bounds, struct probe_name *names,
	uint32_t *missing, bool plain)
{
	/* A copy: stores to @names could otherwise be stores to the view, as far as it is known. */
	const struct index_view here = *view;
	struct walk walk = {.end = bounds.end};
	const struct probe_name root = space_root(view, chain->space), *parent = &root;
	uint32_t i;

	*missing = ENTRY_FREE;
	if (!root.name_generation)
		return 0;
	for (i = 0; i < bounds.end; i++) {
		struct id_input in;
		struct proof proof = {.token_count = chain->block_tokens};

		if (plain) {
			proof.tokens = chain->tokens + (size_t)i * chain->block_tokens;
		} else {
			in = probe_input(chain, i);
			proof = (struct proof){in.tokens, in.token_count, &in};
		}
		if (!walk_block(&here, chain, &walk, i, parent, proof, &names[i]))
			break;
		parent = &names[i];
		if (i >= bounds.first && !parent->frame_generation) {
			*missing = parent->state;
			break;
		}
	}
	return i;
}

static uint32_t walk_any(const struct index_view *view, const struct probe_chain *chain,
	struct walk_bounds bounds, struct probe_name *names, uint32_t *missing)
{
	/* Twice in the program, so that blocks without extra keys are not asked for them. */
	return chain->extras ? walk_run(view, chain, bounds, names, missing, false)
			     : walk_run(view, chain, bounds, names, missing, true);
}

uint32_t probe_names(const struct index_view *view, const struct probe_chain *chain, uint32_t count,
	struct probe_name *names)
{
	uint32_t end = MIN_OF(count, chain->block_count), missing;

	return walk_any(
		view, chain, (struct walk_bounds){.first = end, .end = end}, names, &missing);
}

uint32_t probe_run(const struct index_view *view, const struct probe_chain *chain,
	struct probe_want want, struct probe_name *names, uint32_t *missing)
{
	struct walk_bounds bounds = {.first = want.first,
		.end = (uint32_t)MIN_OF((uint64_t)want.first + want.count, chain->block_count)};
	uint32_t state, stand = walk_any(view, chain, bounds, names, &state);

	if (missing)
		*missing = state;
	return stand > want.first ? stand - want.first : 0;
}

/* -------------------------------------------------------------------------------------- pins */

static uint64_t generation_of(const struct index_entry *entry)
{
	return atomic_load_explicit(&entry->frame_generation, memory_order_acquire);
}

/* Return: whether the batch under way, if there is one, was seen to end. */
static bool batch_wait(const struct index_view *view)
{
	/* Acquire: a generation of 0 was stored after the word became odd (evict.c), so whoever
	 * has read it reads that value here or a later one. */
	uint64_t batch = atomic_load_explicit(&view->head->evictions, memory_order_acquire);
	uint64_t until = 0;

	if (!(batch & 1))
		return true;
	while (atomic_load_explicit(&view->head->evictions, memory_order_acquire) == batch) {
		if (!until)
			until = clock_ns() + PIN_SETTLE_NS;
		else if (clock_ns() > until)
			return false;
		sched_yield();
	}
	return true;
}

uint64_t pin_generation(const struct index_view *view, uint32_t slot)
{
	const struct index_entry *entry = &view->entries[slot];
	uint64_t generation = generation_of(entry);

	if (generation || LOAD(entry->state) != ENTRY_PRESENT || !batch_wait(view))
		return generation;
	/* What the batch decided. Whoever asks holds a pin, stored before: no later batch takes
	 * the block without seeing it. */
	return generation_of(entry);
}

uint32_t pin_run(const struct index_view *view, struct pin_cell *cell,
	const struct probe_name *names, uint32_t count)
{
	/* A reference without a generation names no block; a cell with 0 would protect nothing. */
	for (uint32_t i = 0; i < count; i++)
		if (!names[i].frame_generation)
			count = i;
	while (count) {
		uint32_t good = count;

		pin_store(cell, &names[count - 1]);
		for (uint32_t i = count; i-- > 0;) {
			if (pin_generation(view, names[i].slot) != names[i].frame_generation)
				good = i;
		}
		if (good == count)
			return count;
		count = good;
	}
	pin_clear(cell);
	return 0;
}

const struct index_part *probe_part(const struct index_view *view, uint32_t slot, uint32_t part)
{
	const struct index_entry *entry;
	uint64_t at;

	if (slot >= view->head->slot_count)
		return NULL;
	entry = &view->entries[slot];
	if (part >= LOAD(entry->parts))
		return NULL;
	if (part == 0)
		return &view->parts[slot];
	at = (uint64_t)LOAD(entry->record) * INDEX_RECORD_GRANULE;
	if (at + (uint64_t)part * sizeof(struct index_part) > view->head->heap_bytes)
		return NULL;
	return (const struct index_part *)(const void *)(view->heap + at) + (part - 1);
}

const _Atomic uint64_t *probe_range_sums(
	const struct index_view *view, uint32_t slot, uint32_t ranges_before)
{
	struct record_shape shape = {0};
	const struct record_head *head;
	uint64_t at, word;

	if (slot >= view->head->slot_count)
		return NULL;
	shape.parts = LOAD(view->entries[slot].parts);
	at = (uint64_t)LOAD(view->entries[slot].record) * INDEX_RECORD_GRANULE;
	if (shape.parts < 1 || shape.parts > INDEX_PARTS_MAX ||
		at + record_head_at(&shape) + sizeof(*head) > view->head->heap_bytes)
		return NULL;
	head = (const void *)(view->heap + at + record_head_at(&shape));
	word = LOAD(head->word);
	shape.token_count = (uint32_t)word;
	shape.key_bytes = (uint16_t)(word >> 32);
	shape.extra_bytes = (uint16_t)(word >> 48);
	at += record_sums_at(&shape) + (uint64_t)ranges_before * 8;
	/* The daemon wrote these; a torn read of a slot changing hands must not lead outside. */
	if (shape.token_count > INDEX_BLOCK_TOKENS_MAX || at + 8 > view->head->heap_bytes)
		return NULL;
	return (const _Atomic uint64_t *)(const void *)(view->heap + at);
}
