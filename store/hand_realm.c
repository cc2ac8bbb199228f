/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fills a realm that was made over its predecessor's memory with what that one knew of it;
 * hand_in.c takes the rest apart. Every number that is followed later is looked at first.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/bits.h"
#include "base/memory.h"
#include "store/hand_priv.h"
#include "store/hbm_priv.h"
#include "store/put_priv.h"

#define LOAD(field) atomic_load_explicit(&(field), RELAXED)

static bool slot_or_none(const struct realm *realm, uint32_t slot)
{
	return slot == NONE32 || slot < realm->index.head->slot_count;
}

static int slabs_fill(struct realm *realm, struct slab *slab, const struct slab_sections *from)
{
	bool frames = slab == dram_slab(realm->dram);
	uint64_t at = 0;
	unsigned class;

	for (uint64_t i = 0; i < from->class_count; i++)
		if (slab_class(slab, from->classes[i], &class) < 0 || class != i)
			return -EPROTO;
	for (uint64_t i = 0; i < from->object_count; i++)
		if (!slot_or_none(realm, from->owners[i]))
			return -EPROTO;
	for (uint64_t i = 0; i < from->slab_count; i++) {
		struct slab_image image = {.index = from->slabs[i].index,
			.class = from->slabs[i].class,
			.count = from->slabs[i].count,
			.numbers = from->numbers + at,
			.owners = from->owners + at};

		if ((frames ? dram_frames_restore(realm->dram, &image)
			    : slab_restore(slab, &image)) < 0)
			return -EPROTO;
		at += image.count;
	}
	return 0;
}

/* Copies the old index into this daemon's file; of the heap what is in use. */
static int index_copy(struct realm *realm, int fd, const struct slab_sections *records)
{
	struct index *index = &realm->index;
	struct index_head *head = index->head;
	const struct index_head *old;
	struct index_view view;
	struct stat file;
	uint8_t *base;
	int status = 0;

	if (fd < 0 || fstat(fd, &file) < 0 || (uint64_t)file.st_size != index->file_bytes)
		return -EPROTO;
	base = mmap(NULL, index->file_bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		return -errno;
	old = (const void *)base;
	if (index_view_open(&view, base, index->file_bytes) < 0 ||
		old->incarnation != head->incarnation || old->slot_count != head->slot_count ||
		old->heap_at != head->heap_at || old->buckets_at != head->buckets_at ||
		old->heap_bytes != head->heap_bytes || old->id_bits != head->id_bits) {
		status = -EPROTO;
	} else {
		for (unsigned i = 0; i < INDEX_SPACES_MAX; i++)
			atomic_store_explicit(&head->spaces[i].generation,
				LOAD(old->spaces[i].generation), RELAXED);
		atomic_store_explicit(
			&head->pool_ready_bytes, LOAD(old->pool_ready_bytes), RELAXED);
		memcpy(index->base + head->buckets_at, base + head->buckets_at,
			head->heap_at - head->buckets_at);
	}
	for (uint64_t i = 0; status == 0 && i < records->slab_count; i++) {
		struct slab_info info = slab_info(index->records, records->slabs[i].index);

		memcpy(index->heap + info.offset, base + head->heap_at + info.offset, info.bytes);
	}
	munmap(base, index->file_bytes);
	return status;
}

/* Every number in it that is followed later lies within its array. */
static bool slot_sound(const struct realm *realm, uint32_t slot)
{
	const struct index_entry *entry = &realm->index.entries[slot];
	const struct slot *own = &realm->index.slots[slot];
	uint64_t record = (uint64_t)LOAD(entry->record) * INDEX_RECORD_GRANULE;
	uint32_t parent = LOAD(entry->parent_slot);

	if (LOAD(entry->state) == ENTRY_FREE)
		return true;
	return LOAD(entry->state) < ENTRY_STATES && LOAD(entry->parts) >= 1 &&
	       LOAD(entry->parts) <= INDEX_PARTS_MAX && LOAD(entry->space) < INDEX_SPACES_MAX &&
	       realm->spaces[LOAD(entry->space)].used &&
	       slab_of(realm->index.records, record) >= 0 &&
	       (parent < realm->index.head->slot_count || parent >= SLOT_ROOT(0)) &&
	       slot_or_none(realm, LOAD(entry->next_slot)) &&
	       slot_or_none(realm, own->first_child) && slot_or_none(realm, own->next_sibling) &&
	       slot_or_none(realm, own->prev_sibling) && slot_or_none(realm, own->lru_next) &&
	       slot_or_none(realm, own->lru_prev) && own->lru < LRU_LISTS_MAX &&
	       LOAD(entry->origin) < MAX_OF(realm->ssd.origin_count, 1u) &&
	       !(own->flags & (SLOT_VICTIM | SLOT_WRITING | SLOT_LOADING | SLOT_LOST)) &&
	       (realm->index.ssd_at || !(own->flags & SLOT_DIRTY));
}

static bool slots_sound(struct realm *realm, const struct realm_sections *from)
{
	struct index *index = &realm->index;
	uint64_t counts[ENTRY_STATES] = {0};
	bool sound = true;

	for (uint32_t i = 0; i < index->head->slot_count && sound; i++) {
		uint8_t state = LOAD(index->entries[i].state);

		sound = state < ENTRY_STATES && slot_sound(realm, i) &&
			slot_or_none(realm, (uint32_t)LOAD(index->buckets[i].word));
		if (sound)
			counts[state]++;
		index->slots[i].pending = NONE32;
	}
	for (uint64_t i = 0; i < from->free_count && sound; i++)
		sound = from->free_slots[i] < index->head->slot_count &&
			LOAD(index->entries[from->free_slots[i]].state) == ENTRY_FREE;
	return sound && counts[ENTRY_FREE] == from->free_count &&
	       counts[ENTRY_PENDING] == from->pending_count &&
	       !memcmp(counts, from->image->slot_count_by_state, sizeof(counts));
}

/* What is counted in one place is what lies in the others. */
static bool counts_sound(const struct realm *realm)
{
	const struct index *index = &realm->index;
	uint32_t *children = index->scan_marks, slots = index->head->slot_count;
	uint64_t blocks[INDEX_SPACES_MAX] = {0}, pins = 0;
	bool sound = true;

	for (uint32_t i = 0; i < slots; i++) {
		const struct index_entry *entry = &index->entries[i];
		uint32_t parent = index_parent(realm, i);

		if (LOAD(entry->state) == ENTRY_FREE)
			continue;
		if (parent != NONE32 && index->slots[i].flags & SLOT_IN_DRAM)
			children[parent]++;
		blocks[LOAD(entry->space)] += LOAD(entry->name_generation) != 0;
		pins += index->slots[i].operator_pins != 0;
	}
	for (uint32_t i = 0; i < slots; i++)
		sound &= LOAD(index->entries[i].state) == ENTRY_FREE ||
			 index->slots[i].dram_children == children[i];
	memset(children, 0, slots * sizeof(*children));
	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++) {
		const struct space *space = &realm->spaces[i];
		uint32_t open = 0;

		list_each (node, &realm->sessions)
			open += list_item(node, const struct session, of_realm)->spaces >> i & 1;
		sound &= !open || space->used;
		sound &= !space->used ||
			 (space->blocks == blocks[i] && space->open_sessions == open);
	}
	return sound && pins == realm->operator_pins;
}

static bool lists_sound(const struct realm *realm, const struct realm_sections *from)
{
	const struct hand_realm *image = from->image;
	uint64_t unwritten = 0;
	bool sound = slot_or_none(realm, image->removed.first) &&
		     slot_or_none(realm, image->ssd_lru.hot) &&
		     slot_or_none(realm, image->ssd_lru.cold) &&
		     slot_or_none(realm, image->ssd_dirty.hot) &&
		     slot_or_none(realm, image->ssd_dirty.cold) &&
		     slot_or_none(realm, image->removed.last) &&
		     (image->removed.count != 0) == (image->removed.first != NONE32);

	for (unsigned i = 0; i < SYNC_EPOCHS; i++)
		unwritten += image->unwritten[i];
	sound = sound && unwritten == image->ssd_dirty.count;
	for (unsigned i = 0; i < LRU_LISTS_MAX && sound; i++)
		sound = slot_or_none(realm, image->lru[i].hot) &&
			slot_or_none(realm, image->lru[i].cold);
	for (unsigned i = 0; i < INDEX_SPACES_MAX && sound; i++) {
		const struct space *space = &from->spaces[i];

		sound = slot_or_none(realm, space->first_root) &&
			!space->name[sizeof(space->name) - 1] &&
			!space->fingerprint[sizeof(space->fingerprint) - 1] &&
			space->part_count <= INDEX_PARTS_MAX;
		for (unsigned part = 0; sound && space->used && part < space->part_count; part++)
			sound = space->opaque || space->classes[part] < from->frames.class_count;
	}
	for (uint32_t i = 0; i < realm->gone.size && sound; i++)
		sound = (from->gone_heads[i] == NONE32 || from->gone_heads[i] < realm->gone.size) &&
			(!from->gone[i].reason || from->gone[i].next == NONE32 ||
				from->gone[i].next < realm->gone.size);
	return sound;
}

/* --------------------------------------------------------------------- blocks being put */

static struct session *session_of(
	const struct hand_sessions *sessions, const struct realm *realm, uint32_t link)
{
	struct session *session = link < sessions->count ? sessions->of_link[link] : NULL;

	return session && session->realm == realm ? session : NULL;
}

static bool pending_restore(struct realm *realm, const struct hand_pending *from)
{
	struct pending *pending;

	if (from->slot >= realm->index.head->slot_count || realm->pending_free == NONE32 ||
		index_state(realm, from->slot) != ENTRY_PENDING || pending_of(realm, from->slot))
		return false;
	pending_make(realm, from->slot);
	pending = pending_of(realm, from->slot);
	pending->last_ns = from->last_ns;
	pending->give_up_ns = from->give_up_ns;
	if (from->idle)
		list_append(&realm->pending_idle, &pending->by_age);
	return true;
}

static bool reservation_sound(const struct realm *realm, const struct hand_reservation *from)
{
	const struct slab *slab = dram_slab(realm->dram);
	int64_t run = slab_of(slab, from->frame);
	bool live = from->state == RESERVATION_LIVE;

	if (!from->write || run < 0 || slab_info(slab, (uint32_t)run).class != from->class ||
		realm->reservation_free == NONE32)
		return false;
	if (!live)
		return from->slot == NONE32 &&
		       (from->state == RESERVATION_STALE || from->state == RESERVATION_ORPHAN);
	return from->slot < realm->index.head->slot_count &&
	       realm->index.slots[from->slot].pending != NONE32 &&
	       from->part < LOAD(realm->index.entries[from->slot].parts);
}

static bool reservation_restore(const struct hand_sessions *sessions, struct realm *realm,
	const struct hand_reservation *from)
{
	struct session *session = session_of(sessions, realm, from->link);
	uint64_t generation = realm->generation;
	struct reservation *r;

	if (!session || !reservation_sound(realm, from))
		return false;
	/* It is drawn under the number that it had. */
	realm->generation = from->write - 1;
	r = reservation_make(realm, session);
	realm->generation = generation;
	SKEP_CHECK(r->write == from->write);
	r->at_ns = from->at_ns;
	r->frame = from->frame;
	r->bytes = from->bytes;
	r->slot = from->slot;
	r->part = from->part;
	r->class = from->class;
	r->state = from->state;
	r->verdict = from->verdict;
	session->reserved_bytes += r->bytes;
	if (r->state == RESERVATION_LIVE)
		list_append(&pending_of(realm, r->slot)->reservations, &r->of_pending);
	else
		list_remove(&r->by_age);
	return true;
}

static bool wait_restore(
	const struct hand_sessions *sessions, struct realm *realm, const struct hand_wait *from)
{
	struct session *session = session_of(sessions, realm, from->link);

	if (!session || session->stopped || from->slot >= realm->index.head->slot_count ||
		realm->index.slots[from->slot].pending == NONE32 || from->queue >= PAGE_QUEUES)
		return false;
	return wait_add(session, &(struct submission){.slot = from->slot,
					 .deadline_ns = from->deadline_ns,
					 .tag = from->tag,
					 .queue = (uint16_t)from->queue}) == 0;
}

static bool puts_fill(const struct hand_sessions *sessions, const struct realm_sections *from)
{
	struct realm *realm = from->realm;
	bool sound = true;

	for (uint64_t i = 0; i < from->pending_count && sound; i++)
		sound = pending_restore(realm, &from->pendings[i]);
	for (uint64_t i = 0; i < from->reservation_count && sound; i++)
		sound = reservation_restore(sessions, realm, &from->reservations[i]);
	for (uint64_t i = 0; i < from->wait_count && sound; i++)
		sound = wait_restore(sessions, realm, &from->waits[i]);
	for (uint64_t i = 0; i < from->blocked_count && sound; i++) {
		struct session *session = session_of(sessions, realm, from->blocked[i]);

		sound = session && !session->blocked && !session->stopped;
		if (sound) {
			session->blocked = true;
			list_append(&realm->blocked, &session->of_blocked);
		}
	}
	return sound;
}

/* What sessions have in GPU memory, and the counts at the blocks above it. */
static bool hbm_fill(const struct hand_sessions *sessions, const struct realm_sections *from)
{
	struct realm *realm = from->realm;
	const struct index *index = &realm->index;
	bool sound = true;

	for (uint32_t i = 0; i < index->head->slot_count; i++)
		index->slots[i].hbm_children = 0;
	for (uint64_t i = 0; i < from->hbm_count && sound; i++) {
		struct session *session = session_of(sessions, realm, from->hbm[i].link);
		uint32_t slot = from->hbm[i].slot, state = ENTRY_FREE;

		if (slot < index->head->slot_count)
			state = index_state(realm, slot);
		sound = session && !session->stopped &&
			(state == ENTRY_HBM || state == ENTRY_PENDING || state == ENTRY_PRESENT) &&
			hbm_hold_make(session, slot) == 0;
	}
	for (uint32_t i = 0; i < index->head->slot_count && sound; i++) {
		enum entry_state state = index_state(realm, i);

		if (state == ENTRY_FREE)
			continue;
		sound = index->slots[i].hbm_children == from->slots[i].hbm_children &&
			(state != ENTRY_HBM || hbm_held(realm, i)) &&
			(state != ENTRY_EMPTY || index->slots[i].first_child != NONE32) &&
			(!hbm_state(state) || !index->slots[i].flags);
	}
	return sound && realm->hbm.count == from->hbm_count;
}

/* The realm's half of the ssd tier; the tier is opened once the predecessor has closed it. */
static bool ssd_fill(struct realm *realm, const struct realm_sections *from)
{
	const struct hand_realm *image = from->image;
	struct realm_ssd *ssd = &realm->ssd;

	if (!realm->index.ssd_at != !from->ssd_at_count)
		return false;
	if (!from->origin_count)
		return !image->ssd_lru.count && !image->ssd_dirty.count;
	memcpy(realm->index.ssd_at, from->ssd_at, from->ssd_at_count * sizeof(uint32_t));
	ssd->origins = memory_calloc(from->origin_count, sizeof(*ssd->origins));
	if (!ssd->origins)
		return false;
	memcpy(ssd->origins, from->origins, from->origin_count * sizeof(*ssd->origins));
	ssd->origin_count = (uint32_t)from->origin_count;
	ssd->lru = image->ssd_lru;
	ssd->dirty = image->ssd_dirty;
	ssd->epoch = image->epoch;
	ssd->epoch_oldest = image->epoch_oldest;
	memcpy(ssd->unwritten, image->unwritten, sizeof(ssd->unwritten));
	ssd->dirtied = image->dirtied;
	ssd->marked = image->marked;
	ssd->marked_ns = image->marked_ns;
	return true;
}

int hand_realm_fill(
	const struct realm_sections *from, const struct hand_sessions *sessions, int index_fd)
{
	const struct hand_realm *image = from->image;
	struct realm *realm = from->realm;
	struct index *index = &realm->index;
	int status;

	if (image->slot_count != index->head->slot_count || !lists_sound(realm, from))
		return -EPROTO;
	memcpy(realm->spaces, from->spaces, sizeof(realm->spaces));
	memcpy(index->slots, from->slots, image->slot_count * sizeof(*index->slots));
	memcpy(index->free_slots, from->free_slots, from->free_count * sizeof(uint32_t));
	index->free_count = (uint32_t)from->free_count;
	memcpy(realm->gone.ring, from->gone, realm->gone.size * sizeof(*from->gone));
	memcpy(realm->gone.heads, from->gone_heads, realm->gone.size * sizeof(uint32_t));
	realm->gone.at = image->gone_at % realm->gone.size;
	memcpy(realm->lru, image->lru, sizeof(realm->lru));
	memcpy(realm->lru_of_class, image->lru_of_class, sizeof(realm->lru_of_class));
	memcpy(realm->slot_count_by_state, image->slot_count_by_state,
		sizeof(realm->slot_count_by_state));
	realm->generation = image->generation;
	realm->next_session = image->next_session;
	realm->removed = image->removed;
	realm->next_steal = image->next_steal;
	realm->operator_pins = image->operator_pins;
	if (slabs_fill(realm, dram_slab(realm->dram), &from->frames) < 0 ||
		slabs_fill(realm, index->records, &from->records) < 0)
		return -EPROTO;
	status = index_copy(realm, index_fd, &from->records);
	if (status < 0)
		return status;
	if (!ssd_fill(realm, from) || !slots_sound(realm, from) || !counts_sound(realm) ||
		!puts_fill(sessions, from) || !hbm_fill(sessions, from))
		return -EPROTO;
	memcpy(realm->counters, image->counters, sizeof(realm->counters));
	memcpy(realm->misses, image->misses, sizeof(realm->misses));
	memcpy(realm->latencies, image->latencies, sizeof(realm->latencies));
	return 0;
}
