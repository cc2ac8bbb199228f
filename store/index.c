/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index of a realm: slots, buckets, records. Only names are made and dropped here; who lives
 * and who leaves is decided in reserve.c, pending.c, evict.c and remove.c. Orders of access:
 * store/read/layout.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/memory.h"
#include "store/hbm_priv.h"
#include "store/store_priv.h"

enum {
	RECORD_GRANULE = 16,
	RECORD_CLASSES_MAX = 256,
	RECORD_FINE_BYTES = 1024,
	POPULATE_SLOTS = 32768, /* at a time: 2 MiB of entries */
};

#define STORE(field, value) atomic_store_explicit(&(field), (value), RELAXED)
#define LOAD(field)	    atomic_load_explicit(&(field), RELAXED)

/* Where the arrays of an index lie in its file. */
struct index_sizes {
	uint64_t buckets_at, entries_at, parts_at, heap_at, heap_bytes, file_bytes;
	uint32_t slots;
};

static void index_sizes_make(struct index_sizes *sizes, const struct realm_config *config)
{
	uint64_t bytes = config->dram_bytes + config->ssd_bytes;
	uint64_t slots = config->index_blocks ? config->index_blocks : MAX_OF(bytes >> 15, 4096);

	sizes->slots = (uint32_t)MIN_OF(slots, 1u << 30);
	sizes->buckets_at = 4096;
	sizes->entries_at = align_up(sizes->buckets_at + 8ull * sizes->slots, 4096);
	sizes->parts_at = sizes->entries_at + 64ull * sizes->slots;
	sizes->heap_at = align_up(sizes->parts_at + 32ull * sizes->slots, 4096);
	sizes->heap_bytes =
		config->record_bytes ? config->record_bytes : bytes / 16 + (64ull << 20);
	sizes->heap_bytes = align_up(sizes->heap_bytes, RECORD_UNIT_BYTES);
	/* Record offsets are 32-bit numbers of 8-byte steps. */
	sizes->heap_bytes = MIN_OF(sizes->heap_bytes, 32ull << 30);
	sizes->file_bytes = sizes->heap_at + sizes->heap_bytes;
}

uint64_t index_file_bytes(const struct realm_config *config)
{
	struct index_sizes sizes;

	index_sizes_make(&sizes, config);
	return sizes.file_bytes;
}

/* The shared file: mapped for writing here first, then sealed against anybody else's writing. */
static int index_file_create(struct index *index, const char *name)
{
	char label[80];
	void *base;
	int status;

	snprintf(label, sizeof(label), "skep-%.40s-index", name);
	if (memory_should_fail())
		return -ENOMEM;
	index->fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (index->fd < 0)
		return -errno;
	if (ftruncate(index->fd, (off_t)index->file_bytes) < 0)
		return -errno;
	base = mmap(NULL, index->file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, index->fd, 0);
	if (base == MAP_FAILED)
		return -errno;
	index->base = base;
	status = memory_seclude(base, index->file_bytes);
	if (status < 0)
		return status;
	/* Fewer TLB misses in a probe where the system gives them on advice. */
	madvise(base, index->file_bytes, MADV_HUGEPAGE);
	if (fcntl(index->fd, F_ADD_SEALS,
		    F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0)
		return -errno;
	return 0;
}

static int index_arrays_create(struct index *index, uint32_t slots, bool ssd)
{
	struct slab_options records = {.space_bytes = index->head->heap_bytes,
		.unit_bytes = RECORD_UNIT_BYTES,
		.granule_bytes = RECORD_GRANULE,
		.classes_max = RECORD_CLASSES_MAX};
	int status;

	index->slots = memory_calloc(slots, sizeof(struct slot));
	index->scan_marks = memory_calloc(slots, sizeof(uint32_t));
	index->free_slots = memory_calloc(slots, sizeof(uint32_t));
	if (!index->slots || !index->scan_marks || !index->free_slots)
		return -ENOMEM;
	/* Handed out in ascending order, so that large pages take no more than is used. */
	memory_large_pages(index->slots, slots * sizeof(struct slot));
	for (uint32_t i = 0; i < slots; i++)
		index->free_slots[i] = slots - 1 - i;
	index->free_count = slots;
	if (ssd) {
		index->ssd_at = memory_calloc(slots, sizeof(uint32_t));
		if (!index->ssd_at)
			return -ENOMEM;
		for (uint32_t i = 0; i < slots; i++)
			index->ssd_at[i] = SSD_NONE;
	}
	for (uint32_t i = 0; i < slots; i++)
		STORE(index->buckets[i].word, (uint64_t)SLOT_NONE);
	status = slab_create(&records, &index->records);
	if (status == 0)
		slab_grow(index->records, index->head->heap_bytes);
	return status;
}

int index_create(struct index *index, const struct realm_config *config, const char *name,
	uint64_t incarnation, uint32_t id_bits)
{
	struct index_sizes sizes;
	struct index_head *head;
	int status;

	memset(index, 0, sizeof(*index));
	index->fd = -1;
	index_sizes_make(&sizes, config);
	index->file_bytes = sizes.file_bytes;
	status = index_file_create(index, name);
	if (status < 0)
		goto fail;
	head = index->head = (void *)index->base;
	*head = (struct index_head){.magic = INDEX_MAGIC,
		.version = INDEX_LAYOUT_VERSION,
		.head_bytes = sizeof(*head),
		.incarnation = incarnation,
		.file_bytes = sizes.file_bytes,
		.slot_count = sizes.slots,
		.bucket_count = sizes.slots,
		.buckets_at = sizes.buckets_at,
		.entries_at = sizes.entries_at,
		.parts_at = sizes.parts_at,
		.heap_at = sizes.heap_at,
		.heap_bytes = sizes.heap_bytes,
		.id_bits = id_bits};
	index->buckets = (void *)(index->base + sizes.buckets_at);
	index->entries = (void *)(index->base + sizes.entries_at);
	index->parts = (void *)(index->base + sizes.parts_at);
	index->heap = index->base + sizes.heap_at;
	status = index_view_open(&index->view, index->base, index->file_bytes);
	SKEP_CHECK(status == 0);
	status = index_arrays_create(index, sizes.slots, config->ssd_bytes != 0);
	if (status < 0)
		goto fail;
	index->memory_bytes =
		sizes.heap_at +
		sizes.slots * (sizeof(struct slot) + (index->ssd_at ? 3 : 2) * sizeof(uint32_t));
	return 0;

fail:
	index_destroy(index);
	return status;
}

void index_destroy(struct index *index)
{
	slab_destroy(index->records);
	memory_free(index->slots);
	memory_free(index->scan_marks);
	memory_free(index->free_slots);
	memory_free(index->ssd_at);
	if (index->base)
		munmap(index->base, index->file_bytes);
	if (index->fd >= 0)
		close(index->fd);
	memset(index, 0, sizeof(*index));
	index->fd = -1;
}

/* Pages of @count things of @each bytes from the one called @from on. */
static void array_populate(const void *array, uint64_t each, uint64_t from, uint64_t count)
{
#ifdef MADV_POPULATE_WRITE
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t begin = ((uintptr_t)array + from * each) & ~(page - 1);
	uintptr_t end = (uintptr_t)array + (from + count) * each;

	/* An older system does not know it, or a limit is reached: then it is touched later. */
	if (count)
		madvise((void *)begin, end - begin, MADV_POPULATE_WRITE);
#else
	(void)array, (void)each, (void)from, (void)count;
#endif
}

void index_populate(const struct index *index, uint32_t slots, uint64_t record_bytes)
{
	uint64_t heap_bytes = MIN_OF(record_bytes, index->head->heap_bytes);

	slots = MIN_OF(slots, index->head->slot_count);
	/* Side by side, as names take them: who makes the names is not far behind. */
	for (uint32_t from = 0; from < slots; from += POPULATE_SLOTS) {
		uint32_t count = MIN_OF(slots - from, (uint32_t)POPULATE_SLOTS);
		uint64_t heap = heap_bytes * from / slots;

		array_populate(index->entries, sizeof(struct index_entry), from, count);
		array_populate(index->slots, sizeof(struct slot), from, count);
		array_populate(index->heap, 1, heap, heap_bytes * (from + count) / slots - heap);
		array_populate(index->parts, sizeof(struct index_part), from, count);
	}
}

void index_empty(struct index *index)
{
	atomic_store_explicit(&index->head->emptied, 1, memory_order_release);
	atomic_thread_fence(memory_order_release);
	for (uint32_t i = 0; i < index->head->slot_count; i++)
		STORE(index->entries[i].frame_generation, 0);
	/* Pairs with pin_store(): whoever stored a pin before this reads generation 0, or is seen
	 * by the scans of the daemon that is told of it. */
	atomic_thread_fence(memory_order_seq_cst);
}

/* Sizes beyond 1 KiB are rounded to a 32nd, so that extra keys of any length make few classes. */
static uint64_t record_size_round(uint64_t bytes)
{
	if (bytes <= RECORD_FINE_BYTES)
		return align_up(bytes, RECORD_GRANULE);
	return align_up(bytes, 1ull << (63 - __builtin_clzll(bytes) - 5));
}

/* Class of a record size; few enough sizes exist that this search in slab.c is short. */
static int record_class(struct index *index, const struct record_shape *shape)
{
	unsigned class;
	int status = slab_class(index->records, record_size_round(record_bytes(shape)), &class);

	return status < 0 ? status : (int)class;
}

/* Copies into shared memory by relaxed words; pads with zeros to 8 bytes, as probe.c compares. */
static void shared_write(uint8_t *shared, const void *mine, uint32_t length)
{
	_Atomic uint64_t *words = (void *)shared;
	const uint8_t *bytes = mine;
	uint64_t word;
	uint32_t i = 0;

	for (; i + 8 <= length; i += 8) {
		memcpy(&word, bytes + i, 8);
		STORE(words[i / 8], word);
	}
	if (i < length) {
		word = 0;
		memcpy(&word, bytes + i, length - i);
		STORE(words[i / 8], word);
	}
}

static void record_write(
	uint8_t *record, const struct index_name *name, const struct record_shape *shape)
{
	const struct id_input *in = &name->proof;
	struct record_head *head = (void *)(record + record_head_at(shape));
	struct index_part *more = (void *)record;
	uint8_t *at = (uint8_t *)(head + 1), blob[INDEX_KEY_BYTES_MAX + INDEX_EXTRA_BYTES_MAX];

	for (uint32_t i = 0; i + 1 < shape->parts; i++) {
		STORE(more[i].frame, FRAME_NONE);
		STORE(more[i].bytes, 0);
		STORE(more[i].write, 0);
		STORE(more[i].root_low, 0);
		STORE(more[i].root_high, 0);
	}
	STORE(head->word, (uint64_t)in->token_count | (uint64_t)in->key_bytes << 32 |
				  (uint64_t)in->extra_bytes << 48);
	shared_write(at, in->tokens, in->token_count * 4);
	if (in->key_bytes + in->extra_bytes) {
		SKEP_CHECK(in->key_bytes + in->extra_bytes <= sizeof(blob));
		if (in->key_bytes)
			memcpy(blob, in->key, in->key_bytes);
		if (in->extra_bytes)
			memcpy(blob + in->key_bytes, in->extra, in->extra_bytes);
		shared_write(at + align_up((uint64_t)in->token_count * 4, 8), blob,
			in->key_bytes + in->extra_bytes);
	}
}

static struct index_bucket *bucket_of(struct index *index, uint64_t id_low)
{
	return &index->buckets[hash_range((uint32_t)id_low, index->head->bucket_count)];
}

/* Each change of a list steps the version in its word, so that readers who missed look again. */
static void bucket_set(struct index_bucket *bucket, uint32_t slot)
{
	uint64_t version = (LOAD(bucket->word) >> 32) + 1;

	/* Release: the entry is whole before it can be reached. */
	atomic_store_explicit(&bucket->word, version << 32 | slot, memory_order_release);
}

static void bucket_remove(struct index *index, uint32_t slot)
{
	struct index_entry *entry = &index->entries[slot];
	struct index_bucket *bucket = bucket_of(index, LOAD(entry->id_low));
	uint32_t first = (uint32_t)LOAD(bucket->word), at = first;
	uint32_t next = LOAD(entry->next_slot);

	if (at == slot) {
		bucket_set(bucket, next);
		return;
	}
	while (LOAD(index->entries[at].next_slot) != slot) {
		at = LOAD(index->entries[at].next_slot);
		SKEP_CHECK(at < index->head->slot_count);
	}
	STORE(index->entries[at].next_slot, next);
	bucket_set(bucket, first);
}

/* Links the new slot below its parent, or among its space's first blocks. */
static void child_link(struct realm *realm, uint32_t slot, const struct index_name *name)
{
	struct index *index = &realm->index;
	struct slot *own = &index->slots[slot];
	uint32_t *first = &realm->spaces[name->space].first_root;

	if (name->parent_slot < index->head->slot_count) {
		first = &index->slots[name->parent_slot].first_child;
		STORE(index->entries[name->parent_slot].child_slot, slot);
	}
	own->prev_sibling = NONE32;
	own->next_sibling = *first;
	if (*first != NONE32)
		index->slots[*first].prev_sibling = slot;
	*first = slot;
}

static void child_unlink(struct realm *realm, uint32_t slot)
{
	struct index *index = &realm->index;
	struct slot *own = &index->slots[slot];
	uint32_t parent = index_parent(realm, slot);
	uint32_t *first = &realm->spaces[LOAD(index->entries[slot].space)].first_root;

	if (parent != NONE32)
		first = &index->slots[parent].first_child;
	if (own->next_sibling != NONE32)
		index->slots[own->next_sibling].prev_sibling = own->prev_sibling;
	if (own->prev_sibling != NONE32)
		index->slots[own->prev_sibling].next_sibling = own->next_sibling;
	else
		*first = own->next_sibling;
	if (parent != NONE32 && LOAD(index->entries[parent].child_slot) == slot)
		STORE(index->entries[parent].child_slot, *first);
}

static struct record_shape name_shape(const struct index_name *name)
{
	return (struct record_shape){.parts = name->parts,
		.token_count = name->proof.token_count,
		.key_bytes = name->proof.key_bytes,
		.extra_bytes = name->proof.extra_bytes,
		.range_sums = name->range_sums};
}

int index_record_class(struct realm *realm, const struct index_name *name)
{
	struct record_shape shape = name_shape(name);
	int class = record_class(&realm->index, &shape);

	return class < 0 ? -ENOSPC : class;
}

int64_t index_name_make(struct realm *realm, const struct index_name *name)
{
	struct index *index = &realm->index;
	struct record_shape shape = name_shape(name);
	struct index_entry *entry;
	struct index_bucket *bucket;
	int64_t record;
	uint32_t slot;
	int class = record_class(index, &shape);

	if (class < 0)
		return -ENOSPC;
	if (!index->free_count)
		return -ENOSPC;
	record = slab_alloc(index->records, (unsigned)class);
	if (record < 0)
		return -ENOSPC;
	slot = index->free_slots[--index->free_count];
	entry = &index->entries[slot];
	SKEP_CHECK(LOAD(entry->name_generation) == 0 && LOAD(entry->frame_generation) == 0);

	slab_owner_set(index->records, (uint64_t)record, slot);
	memset(&index->slots[slot], 0, sizeof(struct slot));
	index->slots[slot].first_child = NONE32;
	index->slots[slot].lru_next = index->slots[slot].lru_prev = NONE32;
	index->slots[slot].pending = NONE32;
	record_write(index->heap + record, name, &shape);
	STORE(entry->id_low, name->id.low);
	STORE(entry->id_high, name->id.high);
	STORE(entry->parent_slot, name->parent_slot);
	STORE(entry->parent_generation, name->parent_generation);
	STORE(entry->child_slot, SLOT_NONE);
	STORE(entry->record, (uint32_t)(record / INDEX_RECORD_GRANULE));
	STORE(entry->space, (uint16_t)name->space);
	STORE(entry->parts, (uint8_t)name->parts);
	STORE(entry->state, ENTRY_PENDING);
	STORE(entry->origin, 0);
	STORE(index->parts[slot].frame, FRAME_NONE);
	STORE(index->parts[slot].bytes, 0);
	STORE(index->parts[slot].write, 0);
	/* Release pairs with the acquire of name_generation in probe.c. */
	atomic_store_explicit(&entry->name_generation, realm_draw(realm), memory_order_release);
	bucket = bucket_of(index, name->id.low);
	STORE(entry->next_slot, (uint32_t)LOAD(bucket->word));
	bucket_set(bucket, slot);
	child_link(realm, slot, name);
	realm->slot_count_by_state[ENTRY_FREE]--;
	realm->slot_count_by_state[ENTRY_PENDING]++;
	realm->spaces[name->space].blocks++;
	return slot;
}

void index_name_hide(struct realm *realm, uint32_t slot)
{
	struct index *index = &realm->index;
	struct index_entry *entry = &index->entries[slot];
	struct slot *own = &index->slots[slot];

	SKEP_CHECK(LOAD(entry->name_generation) != 0 && LOAD(entry->frame_generation) == 0);
	SKEP_CHECK(own->first_child == NONE32 && !(own->flags & SLOT_ON_LRU));
	SKEP_CHECK(own->pending == NONE32);
	bucket_remove(index, slot);
	child_unlink(realm, slot);
	STORE(entry->name_generation, 0);
	/* Pairs with the acquire fence at the end of slot_matches() in probe.c: who read a field or
	 * a record word written after this sees that the name is gone. */
	atomic_thread_fence(memory_order_release);
	realm->spaces[LOAD(entry->space)].blocks--;
	if (own->operator_pins)
		realm->operator_pins--;
	own->operator_pins = 0;
	own->holds = 0; /* of loads, which know the name by its generation */
}

void index_slot_free(struct realm *realm, uint32_t slot)
{
	struct index *index = &realm->index;
	struct index_entry *entry = &index->entries[slot];
	uint64_t at = (uint64_t)LOAD(entry->record) * INDEX_RECORD_GRANULE, word;
	struct record_shape shape = {.parts = LOAD(entry->parts)};
	const struct record_head *head;
	int class;

	SKEP_CHECK(LOAD(entry->name_generation) == 0);
	SKEP_CHECK(!(index->slots[slot].flags & (SLOT_IN_DRAM | SLOT_WRITING | SLOT_LOADING)) &&
		   index->slots[slot].dram_children == 0 && !slot_on_ssd(realm, slot) &&
		   index->slots[slot].hbm_children == 0 && !hbm_held(realm, slot));
	head = (const void *)(index->heap + at + record_head_at(&shape));
	word = LOAD(head->word);
	shape.token_count = (uint32_t)word;
	shape.key_bytes = (uint16_t)(word >> 32);
	shape.extra_bytes = (uint16_t)(word >> 48);
	shape.range_sums = realm->spaces[LOAD(entry->space)].ranges;
	class = record_class(index, &shape);
	SKEP_CHECK(class >= 0);
	slab_free(index->records, (unsigned)class, at);
	index_state_set(realm, slot, ENTRY_FREE);
	index->free_slots[index->free_count++] = slot;
}

uint32_t index_name_find(struct realm *realm, const struct index_name *name)
{
	struct probe_name parent = {
		.slot = name->parent_slot, .name_generation = name->parent_generation};
	struct probe_name found;

	return probe_find(&realm->index.view, &name->id, &parent, &name->proof, &found) ? found.slot
											: NONE32;
}

uint32_t index_id_find(struct realm *realm, struct block_id id, uint32_t after)
{
	struct index *index = &realm->index;
	uint32_t slot = after == NONE32 ? (uint32_t)LOAD(bucket_of(index, id.low)->word)
					: LOAD(index->entries[after].next_slot);

	for (; slot < index->head->slot_count; slot = LOAD(index->entries[slot].next_slot))
		if (LOAD(index->entries[slot].id_low) == id.low &&
			LOAD(index->entries[slot].id_high) == id.high)
			return slot;
	return NONE32;
}

struct index_part *index_part(struct index *index, uint32_t slot, uint32_t part)
{
	SKEP_CHECK(slot < index->head->slot_count && part < LOAD(index->entries[slot].parts));
	/* The view's pointer is const for readers; the keeper's own mapping is writable. */
	return (struct index_part *)(uintptr_t)probe_part(&index->view, slot, part);
}

_Atomic uint64_t *index_sums(struct index *index, uint32_t slot, uint32_t ranges_before)
{
	_Atomic uint64_t *sums =
		(_Atomic uint64_t *)(uintptr_t)probe_range_sums(&index->view, slot, ranges_before);

	SKEP_CHECK(sums != NULL);
	return sums;
}

void index_state_set(struct realm *realm, uint32_t slot, enum entry_state state)
{
	struct index_entry *entry = &realm->index.entries[slot];

	realm->slot_count_by_state[LOAD(entry->state)]--;
	realm->slot_count_by_state[state]++;
	STORE(entry->state, (uint8_t)state);
}
