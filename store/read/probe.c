/* SPDX-License-Identifier: Apache-2.0 */
#include "store/read/probe.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/status.h"
#include "store/read/pin.h"

/* How far ahead of a chain that lies slot after slot the next lines are asked for. */
enum { PREFETCH_SLOTS = 12, BUCKET_STEPS_MAX = 4096 };

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

/*
 * Compares @length bytes of shared memory (8-aligned, padded to 8) with the caller's. Relaxed
 * atomic words: the keeper may be writing a new record there, which the name generation then tells.
 */
static bool shared_equal(const uint8_t *shared, const void *mine, uint32_t length)
{
	const _Atomic uint64_t *words = (const void *)shared;
	const uint8_t *bytes = mine;
	uint64_t differs = 0, word;
	uint32_t i = 0;

	for (; i + 8 <= length; i += 8) {
		memcpy(&word, bytes + i, 8);
		differs |= word ^ LOAD(words[i / 8]);
	}
	if (i < length) {
		word = 0;
		memcpy(&word, bytes + i, length - i);
		/* The keeper writes the padding as zeros. */
		differs |= word ^ LOAD(words[i / 8]);
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

static bool record_equal(
	const struct index_view *view, const struct index_entry *entry, const struct id_input *in)
{
	struct record_shape shape = {.parts = LOAD(entry->parts),
		.token_count = in->token_count,
		.key_bytes = in->key_bytes,
		.extra_bytes = in->extra_bytes};
	uint64_t at = (uint64_t)LOAD(entry->record) * INDEX_RECORD_GRANULE;
	const struct record_head *head;
	const uint8_t *tokens;

	/* A torn read of a slot changing hands may say anything: stay inside the heap. */
	if (shape.parts < 1 || shape.parts > INDEX_PARTS_MAX ||
		at + record_sums_at(&shape) > view->head->heap_bytes)
		return false;
	head = (const void *)(view->heap + at + record_head_at(&shape));
	tokens = (const uint8_t *)(head + 1);
	if (LOAD(head->word) != ((uint64_t)in->token_count | (uint64_t)in->key_bytes << 32 |
					(uint64_t)in->extra_bytes << 48))
		return false;
	if (!shared_equal(tokens, in->tokens, in->token_count * 4))
		return false;
	if (in->key_bytes + in->extra_bytes == 0)
		return true;
	return shared_blob_equal(tokens + align_up((uint64_t)in->token_count * 4, 8), in);
}

/* Is the block in @slot the one that is looked for? Fills @name if so. */
static bool slot_matches(const struct index_view *view, uint32_t slot, const struct block_id *id,
	const struct probe_name *parent, const struct id_input *in, struct probe_name *name)
{
	const struct index_entry *entry = &view->entries[slot];
	uint64_t generation = atomic_load_explicit(&entry->name_generation, memory_order_acquire);

	if (!generation || LOAD(entry->id_low) != id->low || LOAD(entry->id_high) != id->high ||
		LOAD(entry->parent_slot) != parent->slot ||
		LOAD(entry->parent_generation) != parent->name_generation)
		return false;
	if (!record_equal(view, entry, in))
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

bool probe_find(const struct index_view *view, const struct block_id *id,
	const struct probe_name *parent, const struct id_input *in, struct probe_name *name)
{
	const struct index_bucket *bucket =
		&view->buckets[hash_range((uint32_t)id->low, view->head->bucket_count)];
	uint64_t word = atomic_load_explicit(&bucket->word, memory_order_acquire), again;

	for (;;) {
		uint32_t slot = (uint32_t)word;
		unsigned steps = 0;

		while (slot < view->head->slot_count && steps++ < BUCKET_STEPS_MAX) {
			if (slot_matches(view, slot, id, parent, in, name))
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

bool probe_block(const struct index_view *view, const struct probe_chain *chain, uint32_t i,
	const struct probe_name *parent, struct probe_name *name)
{
	struct id_input in = probe_input(chain, i);
	struct probe_name root;
	uint32_t child;

	if (!parent) {
		root = space_root(view, chain->space);
		if (!root.name_generation)
			return false;
		return probe_find(view, &chain->ids[i], &root, &in, name);
	}
	child = LOAD(view->entries[parent->slot].child_slot);
	if (child < view->head->slot_count) {
		if (child == parent->slot + 1 && child + PREFETCH_SLOTS < view->head->slot_count) {
			const struct index_entry *ahead = &view->entries[child + PREFETCH_SLOTS];

			/* A chain put at once lies slot after slot and record after record. */
			__builtin_prefetch(ahead);
			__builtin_prefetch(
				view->heap + (uint64_t)LOAD((ahead - PREFETCH_SLOTS / 2)->record) *
						     INDEX_RECORD_GRANULE);
		}
		if (slot_matches(view, child, &chain->ids[i], parent, &in, name))
			return true;
	}
	return probe_find(view, &chain->ids[i], parent, &in, name);
}

uint32_t probe_names(const struct index_view *view, const struct probe_chain *chain, uint32_t count,
	struct probe_name *names)
{
	uint32_t i;

	count = MIN_OF(count, chain->block_count);
	for (i = 0; i < count; i++)
		if (!probe_block(view, chain, i, i ? &names[i - 1] : NULL, &names[i]))
			break;
	return i;
}

uint32_t probe_run(const struct index_view *view, const struct probe_chain *chain,
	struct probe_want want, struct probe_name *names, uint32_t *missing)
{
	uint32_t end = MIN_OF((uint64_t)want.first + want.count, chain->block_count), i;

	if (missing)
		*missing = ENTRY_FREE;
	for (i = 0; i < end; i++) {
		if (!probe_block(view, chain, i, i ? &names[i - 1] : NULL, &names[i]))
			break;
		if (i >= want.first && !names[i].frame_generation) {
			if (missing)
				*missing = names[i].state;
			break;
		}
	}
	return i > want.first ? i - want.first : 0;
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
			const struct index_entry *entry = &view->entries[names[i].slot];

			if (atomic_load_explicit(&entry->frame_generation, memory_order_acquire) !=
				names[i].frame_generation)
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
