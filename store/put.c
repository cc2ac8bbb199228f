/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting blocks (DESIGN section 5): reserve, commit, abort, and what becomes of blocks whose
 * writers never come back.
 *
 * The first reservation of any part makes the name, ENTRY_PENDING, with a pending record. Each
 * reservation holds one frame until its writer commits (the frame becomes the block's), aborts, or
 * ends; a reservation past the age limit is stale: its part may be reserved by another, its frame
 * waits for the late writer's word. When the last part is in and the parent is present the block is
 * published, and with it every descendant that was complete and waiting (SLOT_HELD).
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "store/store_priv.h"

#define LOAD(field)	    atomic_load_explicit(&(field), RELAXED)
#define STORE(field, value) atomic_store_explicit(&(field), (value), RELAXED)

/* ------------------------------------------------------------------------- reservations */

static uint32_t *reservation_head(struct realm *realm, uint64_t write)
{
	return &realm->reservation_heads[hash_range(
		(uint32_t)mix64(write), realm->reservation_max)];
}

static struct reservation *reservation_find(struct realm *realm, uint64_t write)
{
	uint32_t at = *reservation_head(realm, write);

	while (at != NONE32 && realm->reservations[at].write != write)
		at = realm->reservations[at].hash_next;
	return at == NONE32 ? NULL : &realm->reservations[at];
}

static struct reservation *reservation_make(struct realm *realm, struct session *session)
{
	uint32_t at = realm->reservation_free;
	struct reservation *r = &realm->reservations[at];
	uint32_t *head;

	SKEP_CHECK(at != NONE32);
	realm->reservation_free = r->next_free;
	realm->reservation_count++;
	memset(r, 0, sizeof(*r));
	r->realm = realm;
	r->session = session;
	r->write = realm_draw(realm);
	r->at_ns = realm->keeper->now_ns;
	r->state = RESERVATION_LIVE;
	head = reservation_head(realm, r->write);
	r->hash_next = *head;
	*head = at;
	list_init(&r->of_pending);
	list_append(&session->reservations, &r->of_session);
	list_append(&realm->reservation_age, &r->by_age);
	session->reservation_count++;
	return r;
}

static void reservation_free(struct realm *realm, struct reservation *r)
{
	uint32_t at = (uint32_t)(r - realm->reservations);
	uint32_t *link = reservation_head(realm, r->write);

	while (*link != at)
		link = &realm->reservations[*link].hash_next;
	*link = r->hash_next;
	if (r->session) {
		r->session->reservation_count--;
		r->session->reserved_bytes -= r->bytes;
	}
	list_remove(&r->of_session);
	list_remove(&r->of_pending);
	list_remove(&r->by_age);
	r->write = 0;
	r->state = RESERVATION_FREE;
	r->next_free = realm->reservation_free;
	realm->reservation_free = at;
	realm->reservation_count--;
}

/* Gives the frame back with the reservation. */
static void reservation_drop(struct realm *realm, struct reservation *r)
{
	dram_frame_put(realm->dram, r->class, r->frame);
	realm->room_made = true;
	reservation_free(realm, r);
}

/* The frame belongs to no block any more; it waits for its writer (or for the mover that reads it).
 */
static void reservation_part_from_block(
	struct realm *realm, struct reservation *r, uint8_t state, int verdict)
{
	slab_owner_set(dram_slab(realm->dram), r->frame, NONE32);
	list_remove(&r->of_pending);
	r->verdict = verdict;
	r->slot = NONE32;
	if (r->state == RESERVATION_SUMMING)
		return; /* sum_finish() settles it */
	list_remove(&r->by_age);
	r->state = state;
}

/* ----------------------------------------------------------------------- pending records */

static struct pending *pending_of(struct realm *realm, uint32_t slot)
{
	uint32_t at = realm->index.slots[slot].pending;

	return at == NONE32 ? NULL : &realm->pendings[at];
}

static void pending_make(struct realm *realm, uint32_t slot)
{
	uint32_t at = realm->pending_free;
	struct pending *pending = &realm->pendings[at];

	SKEP_CHECK(at != NONE32 && realm->index.slots[slot].pending == NONE32);
	realm->pending_free = pending->next_free;
	realm->pending_count++;
	list_init(&pending->reservations);
	list_init(&pending->waits);
	list_init(&pending->by_age);
	pending->slot = slot;
	pending->give_up_ns = CLOCK_NEVER;
	realm->index.slots[slot].pending = at;
}

static void pending_free(struct realm *realm, struct pending *pending)
{
	SKEP_CHECK(list_empty(&pending->reservations) && list_empty(&pending->waits));
	list_remove(&pending->by_age);
	realm->index.slots[pending->slot].pending = NONE32;
	pending->slot = NONE32;
	pending->next_free = realm->pending_free;
	realm->pending_free = (uint32_t)(pending - realm->pendings);
	realm->pending_count--;
}

static void pending_wake(struct realm *realm, struct pending *pending, int status)
{
	while (!list_empty(&pending->waits))
		wait_finish(realm, list_item(pending->waits.next, struct wait, of_pending), status);
}

void put_pending_end(struct realm *realm, uint32_t slot, int verdict)
{
	struct pending *pending = pending_of(realm, slot);

	SKEP_CHECK(pending != NULL);
	while (!list_empty(&pending->reservations))
		reservation_part_from_block(realm,
			list_item(pending->reservations.next, struct reservation, of_pending),
			RESERVATION_ORPHAN, verdict);
	pending_wake(realm, pending, SKEP_STATUS_EGIVENUP);
	pending_free(realm, pending);
}

/* ----------------------------------------------------------------------- giving a block up */

static void give_up_one(struct realm *realm, uint32_t slot)
{
	struct slot *own = &realm->index.slots[slot];
	uint32_t parent = index_parent(realm, slot);

	SKEP_CHECK(index_state(realm, slot) == ENTRY_PENDING);
	put_pending_end(realm, slot, SKEP_STATUS_EPARENT);
	put_frames_free(realm, slot);
	SKEP_CHECK(own->flags & SLOT_IN_DRAM);
	own->flags = 0;
	evict_child_left(realm, parent, own->stamp_ns);
	gone_add(realm, LOAD(realm->index.entries[slot].id_low), SKEP_REASON_GIVEN_UP);
	index_name_hide(realm, slot);
	index_slot_free(realm, slot);
	realm->counters[REALM_COUNTER_blocks_given_up]++;
}

/* The block and what was being put below it, leaves first: none of it was ever visible. */
static void give_up(struct realm *realm, uint32_t top)
{
	struct slot *slots = realm->index.slots;
	uint32_t at = top, parent;

	for (;;) {
		while (slots[at].first_child != NONE32)
			at = slots[at].first_child;
		parent = index_parent(realm, at);
		give_up_one(realm, at);
		if (at == top)
			return;
		at = parent;
	}
}

/* After a reservation left: if none is live, another writer gets a chance before the block goes. */
static void pending_settle(struct realm *realm, uint32_t slot)
{
	struct pending *pending = pending_of(realm, slot);
	struct slot *own = &realm->index.slots[slot];
	uint64_t now = realm->keeper->now_ns;
	bool awaited;

	if (!pending || !list_empty(&pending->reservations) || own->flags & SLOT_HELD)
		return;
	awaited = !list_empty(&pending->waits) || own->first_child != NONE32;
	pending_wake(realm, pending, SKEP_STATUS_EGIVENUP);
	if (!own->committed && !awaited) {
		give_up(realm, slot);
		return;
	}
	pending->give_up_ns = now + GIVE_UP_GRACE_NS;
	if (own->committed)
		pending->give_up_ns = clock_after(
			pending->last_ns, realm->config.age_limit_ns + GIVE_UP_GRACE_NS);
	list_remove(&pending->by_age);
	list_append(&realm->pending_idle, &pending->by_age);
}

/* -------------------------------------------------------------------------------- publish */

void put_frames_free(struct realm *realm, uint32_t slot)
{
	struct index *index = &realm->index;
	const struct space *space = &realm->spaces[LOAD(index->entries[slot].space)];
	uint32_t parts = LOAD(index->entries[slot].parts);
	struct slot *own = &index->slots[slot];

	for (uint32_t i = 0; i < parts; i++) {
		struct index_part *part;
		int class;

		if (!(own->committed & 1ull << i))
			continue;
		part = index_part(index, slot, i);
		class = space->opaque ? dram_class(realm->dram, LOAD(part->bytes))
				      : space->classes[i];
		SKEP_CHECK(class >= 0 && LOAD(part->frame) != FRAME_NONE);
		dram_frame_put(realm->dram, (unsigned)class,
			(uint64_t)LOAD(part->frame) * FRAME_GRANULE_BYTES);
		STORE(part->frame, FRAME_NONE);
		STORE(part->write, 0);
	}
	own->committed = 0;
	realm->room_made = true;
}

static void publish_one(struct realm *realm, uint32_t slot)
{
	struct index_entry *entry = &realm->index.entries[slot];
	struct pending *pending = pending_of(realm, slot);

	SKEP_CHECK(LOAD(entry->frame_generation) == 0);
	realm->index.slots[slot].flags &= (uint8_t)~SLOT_HELD;
	index_state_set(realm, slot, ENTRY_PRESENT);
	/* Release: part fields and sums are in place before the block can be had (probe.c). */
	atomic_store_explicit(&entry->frame_generation, realm_draw(realm), memory_order_release);
	lru_touch(realm, slot);
	pending_wake(realm, pending, 0);
	pending_free(realm, pending);
	realm->counters[REALM_COUNTER_blocks_published]++;
	realm->room_made = true;
}

/* Publishes a complete block whose parent is present, and what was waiting for it below. */
static void publish(struct realm *realm, uint32_t slot)
{
	struct slot *slots = realm->index.slots;
	uint32_t stack = slot;

	slots[slot].lru_next = NONE32; /* held blocks are on no list: the link makes a stack */
	while (stack != NONE32) {
		uint32_t at = stack;

		stack = slots[at].lru_next;
		slots[at].lru_next = NONE32;
		publish_one(realm, at);
		for (uint32_t child = slots[at].first_child; child != NONE32;
			child = slots[child].next_sibling) {
			if (!(slots[child].flags & SLOT_HELD))
				continue;
			slots[child].lru_next = stack;
			stack = child;
		}
	}
}

static bool parent_present(struct realm *realm, uint32_t slot)
{
	uint32_t parent = index_parent(realm, slot);

	return parent == NONE32 || index_state(realm, parent) == ENTRY_PRESENT;
}

/* A part's frame, root and sums are in the index: counts it in, completes the block if it is the
 * last one, and ends the reservation. */
static void part_committed(struct realm *realm, struct reservation *r)
{
	uint32_t slot = r->slot;
	struct slot *own = &realm->index.slots[slot];
	struct pending *pending = pending_of(realm, slot);
	uint32_t parts = LOAD(realm->index.entries[slot].parts);

	SKEP_CHECK(pending && !(own->committed & 1ull << r->part));
	own->committed |= 1ull << r->part;
	pending->last_ns = realm->keeper->now_ns;
	realm->counters[REALM_COUNTER_parts_committed]++;
	realm->counters[REALM_COUNTER_bytes_committed] += r->bytes;
	reservation_free(realm, r);
	if (own->committed != (parts == 64 ? UINT64_MAX : (1ull << parts) - 1)) {
		pending_settle(realm, slot);
		return;
	}
	if (parent_present(realm, slot))
		publish(realm, slot);
	else
		own->flags |= SLOT_HELD;
}

static void part_write(struct realm *realm, const struct reservation *r,
	const struct commit_part *how, const uint64_t *sums)
{
	struct index *index = &realm->index;
	const struct space *space = &realm->spaces[LOAD(index->entries[r->slot].space)];
	struct index_part *part = index_part(index, r->slot, r->part);
	uint32_t before = 0;
	_Atomic uint64_t *to;

	for (uint32_t i = 0; i < r->part; i++)
		before += space->part_ranges[i];
	to = index_sums(index, r->slot, before);
	for (uint32_t i = 0; i < space->part_ranges[r->part]; i++)
		STORE(to[i], sums[i]);
	STORE(part->bytes, (uint32_t)r->bytes);
	STORE(part->root_low, how->root_low);
	STORE(part->root_high, how->root_high);
	STORE(part->write, r->write);
	STORE(part->frame, (uint32_t)(r->frame / FRAME_GRANULE_BYTES));
}

/* -------------------------------------------------------------------------------- reserve */

/* One reservation request while it is worked on. */
struct reserving {
	struct session *session;
	struct realm *realm;
	const struct submission *message;
	struct space *space;
	uint32_t space_index, part, length;
	unsigned class;
	struct reserve_block *blocks;
	const uint8_t *area; /* start of tokens and keys: the blocks' own start */
	struct index_name name;
	uint8_t proof[INDEX_BLOCK_TOKENS_MAX * 4 + INDEX_KEY_BYTES_MAX + INDEX_EXTRA_BYTES_MAX];
};

/* A frame for the @rest blocks still to come, evicting what must go. */
static int64_t frame_take(struct reserving *job, uint32_t rest)
{
	struct realm *realm = job->realm;
	struct room_want want = {.class = job->class, .frames = rest};
	int64_t frame = dram_frame_get(realm->dram, job->class, NONE32);

	/* Each round frees something or ends; a class change may take more than one. */
	for (unsigned round = 0; frame < 0 && round < 4; round++) {
		uint64_t bytes = dram_frame_bytes(realm->dram, job->class);

		if (frame == -EDQUOT ? !evict_bytes(realm, bytes * rest) : !evict_for(realm, &want))
			break;
		frame = dram_frame_get(realm->dram, job->class, NONE32);
	}
	return frame;
}

/* Nothing that anybody holds or writes stands in the way: it will never fit. */
static bool hopeless(const struct realm *realm)
{
	struct dram_status status;

	dram_status_get(realm->dram, &status);
	return realm->reservation_count == 0 && realm->pins_seen == 0 && !realm->operator_pins &&
	       !realm->removed.count && status.ready_bytes == status.bytes;
}

/* Adds a reservation of the part to a block that stands pending. */
static void part_reserve(
	struct reserving *job, uint32_t slot, uint64_t frame, struct reserve_block *block)
{
	struct realm *realm = job->realm;
	struct pending *pending = pending_of(realm, slot);
	struct reservation *r = reservation_make(realm, job->session);

	r->slot = slot;
	r->part = (uint16_t)job->part;
	r->class = (uint8_t)job->class;
	r->frame = frame;
	r->bytes = job->length;
	job->session->reserved_bytes += r->bytes;
	slab_owner_set(dram_slab(realm->dram), frame, slot);
	list_append(&pending->reservations, &r->of_pending);
	pending->last_ns = realm->keeper->now_ns;
	pending->give_up_ns = CLOCK_NEVER;
	list_remove(&pending->by_age);
	realm->counters[REALM_COUNTER_parts_reserved]++;
	block->status = 0;
	block->write = r->write;
	block->frame = frame;
	block->bytes = r->bytes;
}

/* The part was reserved or committed by somebody. */
static int part_state(struct reserving *job, uint32_t slot)
{
	struct realm *realm = job->realm;
	struct pending *pending = pending_of(realm, slot);

	if (index_state(realm, slot) == ENTRY_PRESENT ||
		realm->index.slots[slot].committed & 1ull << job->part)
		return -EEXIST;
	SKEP_CHECK(pending != NULL);
	list_each (node, &pending->reservations)
		if (list_item(node, struct reservation, of_pending)->part == job->part)
			return SKEP_STATUS_EPENDING;
	return 0;
}

/* Reads one block of the request: every field once, bounds-checked, proof copied to memory of our
 * own before it is hashed. Return: 0 or -EPROTO. */
static int block_read(struct reserving *job, uint32_t i, struct reserve_block *block)
{
	uint64_t area_bytes = job->message->scratch_bytes, token_bytes, blob_bytes;
	struct id_input *proof = &job->name.proof;

	memcpy(block, &job->blocks[i], sizeof(*block));
	token_bytes = (uint64_t)block->token_count * 4;
	blob_bytes = (uint64_t)block->key_bytes + block->extra_bytes;
	if (block->token_count > job->space->block_tokens || block->token_at % 4 ||
		block->token_at > area_bytes || token_bytes > area_bytes - block->token_at ||
		block->blob_at > area_bytes || blob_bytes > area_bytes - block->blob_at ||
		block->extra_bytes > INDEX_EXTRA_BYTES_MAX)
		return -EPROTO;
	if (job->space->opaque ? block->key_bytes < 16 || block->key_bytes > INDEX_KEY_BYTES_MAX
			       : block->key_bytes || block->token_count != job->space->block_tokens)
		return -EPROTO;
	memcpy(job->proof, job->area + block->token_at, token_bytes);
	memcpy(job->proof + token_bytes, job->area + block->blob_at, blob_bytes);
	proof->tokens = (const uint32_t *)(const void *)job->proof;
	proof->token_count = block->token_count;
	proof->key = block->key_bytes ? job->proof + token_bytes : NULL;
	proof->key_bytes = block->key_bytes;
	proof->extra = block->extra_bytes ? job->proof + token_bytes + block->key_bytes : NULL;
	proof->extra_bytes = block->extra_bytes;
	return 0;
}

/* Makes the name and reserves its first part. Return: slot, or -EAGAIN: no room. */
static int64_t block_make(struct reserving *job, uint32_t rest, struct reserve_block *block)
{
	struct realm *realm = job->realm;
	int64_t frame, slot;
	uint32_t parent = job->name.parent_slot;

	frame = frame_take(job, rest);
	if (frame < 0)
		return -EAGAIN;
	slot = index_name_make(realm, &job->name);
	if (slot < 0 && evict_blocks(realm, MIN_OF(rest, 64)))
		slot = index_name_make(realm, &job->name);
	if (slot < 0) {
		dram_frame_put(realm->dram, job->class, (uint64_t)frame);
		return -EAGAIN;
	}
	pending_make(realm, (uint32_t)slot);
	realm->index.slots[slot].flags = SLOT_IN_DRAM;
	/* Opaque blocks of any length share the list of their space's longest part. */
	realm->index.slots[slot].lru = job->space->classes[0];
	if (parent < realm->index.head->slot_count)
		realm->index.slots[parent].dram_children++;
	part_reserve(job, (uint32_t)slot, (uint64_t)frame, block);
	return slot;
}

/* Handles block @i below job->name.parent_*. Return: its slot, -EAGAIN (no room), -EPROTO. */
static int64_t block_reserve(
	struct reserving *job, uint32_t i, uint32_t rest, struct block_id parent_id)
{
	struct realm *realm = job->realm;
	struct reserve_block block;
	uint32_t parent = job->name.parent_slot, slot;
	bool guarded = parent < realm->index.head->slot_count;
	int64_t result, frame;
	int status = block_read(job, i, &block);

	if (status < 0)
		return status;
	job->name.id =
		id_make(job->space->secret, parent_id, &job->name.proof, realm->keeper->id_bits);
	slot = index_name_find(realm, &job->name);
	result = slot;
	block.status = slot == NONE32 ? 0 : part_state(job, slot);
	if (block.status == 0) {
		if (realm->reservation_free == NONE32 || realm->pending_free == NONE32)
			return -EAGAIN;
		/* While room is made the parent must not be taken for a leaf. */
		if (guarded)
			realm->index.slots[parent].dram_children++;
		if (slot == NONE32) {
			result = block_make(job, rest, &block);
		} else if ((frame = frame_take(job, rest)) < 0) {
			result = -EAGAIN;
		} else {
			part_reserve(job, slot, (uint64_t)frame, &block);
		}
		if (guarded)
			evict_child_left(realm, parent, 0);
		if (result < 0)
			return result;
	} else {
		realm->counters[REALM_COUNTER_parts_existing]++;
	}
	block.slot = (uint32_t)result;
	block.name_generation = LOAD(realm->index.entries[result].name_generation);
	memcpy(&job->blocks[i], &block, sizeof(block));
	return result;
}

/* The parent of the first block. Return: 0 and its id, SKEP_STATUS_EPARENT. */
static int parent_check(struct reserving *job, struct block_id *id)
{
	const struct submission *message = job->message;
	struct index *index = &job->realm->index;
	struct index_entry *entry;

	*id = (struct block_id){0, 0};
	job->name.parent_slot = message->slot;
	job->name.parent_generation = message->generation;
	if (message->slot == SLOT_ROOT(job->space_index))
		return message->generation == job->space->generation ? 0 : SKEP_STATUS_EPARENT;
	if (message->slot >= index->head->slot_count)
		return SKEP_STATUS_EPARENT;
	entry = &index->entries[message->slot];
	if (LOAD(entry->name_generation) != message->generation || !message->generation ||
		LOAD(entry->space) != job->space_index)
		return SKEP_STATUS_EPARENT;
	if (index_state(job->realm, message->slot) != ENTRY_PRESENT &&
		index_state(job->realm, message->slot) != ENTRY_PENDING)
		return SKEP_STATUS_EPARENT;
	id->low = LOAD(entry->id_low);
	id->high = LOAD(entry->id_high);
	return 0;
}

/* Checks the request against the space. Return: 0, an answer (negative), or -EPROTO. */
static int reserving_open(struct reserving *job)
{
	const struct submission *m = job->message;
	struct realm *realm = job->realm;
	int class;

	job->space_index = m->u.reserve.space;
	job->part = m->u.reserve.part;
	job->blocks = page_end_scratch(&job->session->page, m->scratch_at, m->scratch_bytes);
	job->area = (const uint8_t *)job->blocks;
	if (!job->blocks || !m->count || m->count > m->scratch_bytes / sizeof(job->blocks[0]) ||
		job->space_index >= INDEX_SPACES_MAX)
		return -EPROTO;
	job->space = &realm->spaces[job->space_index];
	if (!job->space->used || m->u.reserve.space_generation != job->space->generation)
		return -ESTALE;
	if (job->part >= job->space->part_count)
		return -ERANGE;
	if (job->session->readonly)
		return -EROFS;
	job->length = (uint32_t)job->space->part_bytes[job->part];
	if (m->u.reserve.length && m->u.reserve.length != job->length) {
		if (!job->space->opaque || m->u.reserve.length > job->length ||
			m->u.reserve.length % job->space->part_ranges[job->part])
			return -EINVAL;
		job->length = m->u.reserve.length;
	}
	class = dram_class(realm->dram, job->length);
	if (class < 0)
		return -ENOSPC;
	job->class = (unsigned)class;
	realm->lru_of_class[class] |= 1ull << job->space->classes[0];
	job->name.space = job->space_index;
	job->name.parts = job->space->part_count;
	job->name.range_sums = job->space->ranges;
	return 0;
}

/* Return: blocks answered, or negative: -EAGAIN (no room for even one), … */
static int reserve_try(struct session *session, const struct submission *message)
{
	static struct reserving job; /* 68 KiB; the keeper is one thread */
	struct block_id parent_id;
	uint32_t done = 0;
	int64_t slot = 0;
	int status;

	job.session = session;
	job.realm = session->realm;
	job.message = message;
	status = reserving_open(&job);
	if (status == 0)
		status = parent_check(&job, &parent_id);
	if (status < 0)
		return status;
	for (; done < message->count; done++) {
		slot = block_reserve(&job, done, message->count - done, parent_id);
		if (slot < 0)
			break;
		job.name.parent_slot = (uint32_t)slot;
		job.name.parent_generation = LOAD(job.realm->index.entries[slot].name_generation);
		parent_id = job.name.id;
	}
	if (slot == -EPROTO)
		return -EPROTO;
	if (!done)
		return hopeless(job.realm) ? -ENOSPC : -EAGAIN;
	return (int)done;
}

/* Completes or keeps waiting. Return: 0 or -EPROTO. */
static int reserve_answer(struct session *session, const struct submission *message, int status)
{
	struct realm *realm = session->realm;

	if (status == -EPROTO)
		return status;
	if (status == SKEP_STATUS_EPARENT)
		realm->counters[REALM_COUNTER_orphans_refused] += message->count;
	else if (status < 0)
		realm->counters[REALM_COUNTER_puts_refused] += message->count;
	session_complete(session, message->queue, message->tag, status, 0);
	return 0;
}

int put_reserve(struct session *session, const struct submission *message)
{
	struct realm *realm = session->realm;
	uint64_t began = clock_ns();
	int status;

	if (session->blocked)
		return -EPROTO; /* one at a time */
	/* Who came first is served first, or a small request could starve a waiting one. */
	status = list_empty(&realm->blocked) ? reserve_try(session, message) : -EAGAIN;
	histogram_add(&realm->latencies[REALM_LATENCY_reserve], clock_ns() - began);
	if (status == -EAGAIN && message->deadline_ns > realm->keeper->now_ns) {
		session->blocked = true;
		session->blocked_on = *message;
		session->blocked_at_ns = realm->keeper->now_ns;
		list_append(&realm->blocked, &session->of_blocked);
		realm->counters[REALM_COUNTER_puts_waited]++;
		return 0;
	}
	return reserve_answer(session, message, status);
}

void put_retry_blocked(struct realm *realm)
{
	uint64_t now = realm->keeper->now_ns;
	bool stuck = false;

	realm->room_made = false;
	list_each_safe (node, &realm->blocked) {
		struct session *session = list_item(node, struct session, of_blocked);
		bool late = session->blocked_on.deadline_ns <= now;
		int status = -EAGAIN;

		/* The others stand behind the first that finds no room, but for their deadlines. */
		if (!stuck)
			status = reserve_try(session, &session->blocked_on);
		if (status == -EAGAIN && !late) {
			stuck = true;
			continue;
		}
		list_remove(&session->of_blocked);
		session->blocked = false;
		histogram_add(
			&realm->latencies[REALM_LATENCY_frame_wait], now - session->blocked_at_ns);
		if (reserve_answer(session, &session->blocked_on, status) == -EPROTO)
			realm->keeper->outside.cut(realm->keeper->outside.arg, session);
	}
}

/* --------------------------------------------------------------------------------- commit */

/* A reservation of this session by its write number, or what a late writer is told. */
static struct reservation *commit_find(
	struct session *session, const struct commit_part *part, int *verdict)
{
	struct realm *realm = session->realm;
	struct reservation *r = part->write ? reservation_find(realm, part->write) : NULL;

	*verdict = -ESTALE;
	if (!r || r->session != session || r->state == RESERVATION_SUMMING)
		return NULL;
	if (r->state == RESERVATION_LIVE) {
		if (r->slot != part->slot || r->part != part->part) {
			*verdict = -EINVAL;
			return NULL;
		}
		return r;
	}
	*verdict = r->verdict;
	realm->counters[REALM_COUNTER_parts_stale]++;
	reservation_drop(realm, r);
	return NULL;
}

/* The sums are made or will never be: commits or drops the part and tells its writer. */
static void sum_finish(struct realm *realm, struct reservation *r, const struct sum_job *job)
{
	struct session *session = r->session;
	uint32_t tag = r->sum_tag, index = r->sum_index;
	uint16_t queue = r->sum_queue;
	int status = 0;

	SKEP_CHECK(r->state == RESERVATION_SUMMING);
	if (r->slot == NONE32) { /* the block was given up or removed meanwhile */
		status = r->verdict;
		reservation_drop(realm, r);
	} else {
		struct commit_part how = {.root_low = job->root_low, .root_high = job->root_high};

		part_write(realm, r, &how, job->sums);
		part_committed(realm, r);
	}
	if (session)
		session_complete(session, queue, tag, status, index);
}

void put_sums_start(struct keeper *keeper)
{
	while (keeper->sum_free != NONE32 && !list_empty(&keeper->sum_waiting)) {
		struct reservation *r =
			list_item(keeper->sum_waiting.next, struct reservation, by_age);
		struct sum_job *job = &keeper->sum_jobs[keeper->sum_free];
		struct realm *realm = r->realm;
		const struct index_entry *entry;
		const struct space *space;

		if (r->slot == NONE32) {
			sum_finish(realm, r, NULL);
			continue;
		}
		entry = &realm->index.entries[r->slot];
		space = &realm->spaces[LOAD(entry->space)];
		job->realm = realm;
		job->write = r->write;
		job->in = (struct part_sums_input){.bytes = dram_at(realm->dram, r->frame),
			.length = r->bytes,
			.id_low = LOAD(entry->id_low),
			.id_high = LOAD(entry->id_high),
			.incarnation = keeper->incarnation,
			.write = r->write,
			.ranges = space->part_ranges[r->part],
			.part = r->part};
		if (keeper->outside.sum(keeper->outside.arg, job) < 0)
			return; /* the movers are full: the next that ends starts this one */
		keeper->sum_free = job->next_free;
		list_remove(&r->by_age);
	}
}

void put_summed(struct realm *realm, struct sum_job *job)
{
	struct reservation *r = reservation_find(realm, job->write);

	SKEP_CHECK(r != NULL);
	sum_finish(realm, r, job);
}

/* Leaves a part to the movers; its writer is answered when it is summed. */
static void sum_want(struct keeper *keeper, struct reservation *r, const struct submission *message,
	uint32_t index)
{
	r->state = RESERVATION_SUMMING;
	r->sum_tag = message->tag;
	r->sum_queue = message->queue;
	r->sum_index = index;
	list_remove(&r->by_age);
	list_append(&keeper->sum_waiting, &r->by_age);
}

/* Commits with sums given. Return: the part's status. */
static int commit_given(struct session *session, const struct commit_part *part,
	const uint64_t *sums, uint64_t sums_left)
{
	struct realm *realm = session->realm;
	struct reservation *r;
	const struct space *space;
	int verdict;

	r = commit_find(session, part, &verdict);
	if (!r)
		return verdict;
	space = &realm->spaces[LOAD(realm->index.entries[r->slot].space)];
	if (part->ranges != space->part_ranges[r->part] || part->ranges > sums_left)
		return -EINVAL;
	part_write(realm, r, part, sums);
	part_committed(realm, r);
	return 0;
}

int put_commit(struct session *session, const struct submission *message)
{
	struct realm *realm = session->realm;
	struct commit_part *parts =
		page_end_scratch(&session->page, message->scratch_at, message->scratch_bytes);
	uint64_t began = clock_ns(), words;
	const uint64_t *sums;
	int committed = 0;

	if (!parts || message->count > message->scratch_bytes / sizeof(*parts))
		return -EPROTO;
	sums = (const uint64_t *)(const void *)(parts + message->count);
	words = (message->scratch_bytes - message->count * sizeof(*parts)) / 8;
	for (uint32_t i = 0; i < message->count; i++) {
		struct commit_part part;
		int status;

		memcpy(&part, &parts[i], sizeof(part)); /* read once */
		if (message->u.other.kind == COMMIT_SUMS_MOVER) {
			struct reservation *r = commit_find(session, &part, &status);

			if (r)
				sum_want(realm->keeper, r, message, i);
			else
				session_complete(session, message->queue, message->tag, status, i);
			continue;
		}
		status = commit_given(session, &part, sums, words);
		if (part.ranges > words)
			words = 0;
		else
			words -= part.ranges, sums += part.ranges;
		parts[i].status = status;
		committed += status == 0;
	}
	if (message->u.other.kind == COMMIT_SUMS_MOVER)
		put_sums_start(realm->keeper);
	else
		session_complete(session, message->queue, message->tag, committed, 0);
	histogram_add(&realm->latencies[REALM_LATENCY_commit], clock_ns() - began);
	return 0;
}

/* The writer is gone or gives the part back: the frame is free, the block waits for another. */
static void reservation_abort(struct realm *realm, struct reservation *r)
{
	uint32_t slot = r->slot;
	bool live = r->state == RESERVATION_LIVE;

	reservation_drop(realm, r);
	realm->counters[REALM_COUNTER_parts_aborted]++;
	if (live)
		pending_settle(realm, slot);
}

int put_abort(struct session *session, const struct submission *message)
{
	const struct commit_part *parts =
		page_end_scratch(&session->page, message->scratch_at, message->scratch_bytes);

	if (!parts || message->count > message->scratch_bytes / sizeof(*parts))
		return -EPROTO;
	for (uint32_t i = 0; i < message->count; i++) {
		uint64_t write;
		struct reservation *r;

		memcpy(&write, &parts[i].write, sizeof(write));
		r = write ? reservation_find(session->realm, write) : NULL;
		if (r && r->session == session && r->state != RESERVATION_SUMMING)
			reservation_abort(session->realm, r);
	}
	return 0;
}

void put_session_gone(struct session *session)
{
	struct realm *realm = session->realm;

	if (session->blocked)
		list_remove(&session->of_blocked);
	session->blocked = false;
	/* Deepest first: a block without a writer below it goes at once, not after a grace. */
	while (!list_empty(&session->reservations)) {
		struct reservation *r =
			list_item(session->reservations.prev, struct reservation, of_session);

		if (r->state == RESERVATION_SUMMING) { /* its bytes are whole: let it finish */
			session->reservation_count--;
			session->reserved_bytes -= r->bytes;
			list_remove(&r->of_session);
			r->session = NULL;
			continue;
		}
		reservation_abort(realm, r);
	}
}

/* ---------------------------------------------------------------------------------- ages */

uint64_t put_tick(struct realm *realm)
{
	uint64_t now = realm->keeper->now_ns, next = CLOCK_NEVER, due;

	while (!list_empty(&realm->reservation_age)) {
		struct reservation *r =
			list_item(realm->reservation_age.next, struct reservation, by_age);
		uint32_t slot = r->slot;

		due = clock_after(r->at_ns, realm->config.age_limit_ns);
		if (due > now) {
			next = due;
			break;
		}
		reservation_part_from_block(realm, r, RESERVATION_STALE, -ESTALE);
		pending_settle(realm, slot);
	}
	list_each_safe (node, &realm->pending_idle) {
		struct pending *pending = list_item(node, struct pending, by_age);

		if (pending->give_up_ns > now) {
			next = MIN_OF(next, pending->give_up_ns);
			continue;
		}
		/* Giving up may end the next one too (a descendant): start again. */
		give_up(realm, pending->slot);
		return now;
	}
	return next;
}
