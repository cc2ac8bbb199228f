/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks that are being written (DESIGN section 5), and what becomes of those whose writers never
 * come back.
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
#include "store/hbm_priv.h"
#include "store/put_priv.h"

#define LOAD(field)	    atomic_load_explicit(&(field), RELAXED)
#define STORE(field, value) atomic_store_explicit(&(field), (value), RELAXED)

/* ------------------------------------------------------------------------- reservations */

static uint32_t *reservation_head(struct realm *realm, uint64_t write)
{
	return &realm->reservation_heads[hash_range(
		(uint32_t)mix64(write), realm->reservation_max)];
}

struct reservation *reservation_find(struct realm *realm, uint64_t write)
{
	uint32_t at = *reservation_head(realm, write);

	while (at != NONE32 && realm->reservations[at].write != write)
		at = realm->reservations[at].hash_next;
	return at == NONE32 ? NULL : &realm->reservations[at];
}

struct reservation *reservation_make(struct realm *realm, struct session *session)
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
void reservation_drop(struct realm *realm, struct reservation *r)
{
	dram_frame_put(realm->dram, r->class, r->frame);
	realm->room_made = true;
	reservation_free(realm, r);
}

/* Nobody writes the part of a pending block any more; pairs with part_reserve(). */
static void part_unclaim(struct realm *realm, const struct reservation *r)
{
	STORE(index_part(&realm->index, r->slot, r->part)->write, 0);
}

/* The frame belongs to no block any more; it waits for its writer (or for the mover that reads it).
 */
static void reservation_part_from_block(
	struct realm *realm, struct reservation *r, uint8_t state, int verdict)
{
	part_unclaim(realm, r);
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

struct pending *pending_of(struct realm *realm, uint32_t slot)
{
	uint32_t at = realm->index.slots[slot].pending;

	return at == NONE32 ? NULL : &realm->pendings[at];
}

void pending_make(struct realm *realm, uint32_t slot)
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
	realm->counters[REALM_COUNTER_blocks_given_up]++;
	if (hbm_stays(realm, slot))
		return;
	gone_add(realm, LOAD(realm->index.entries[slot].id_low), SKEP_REASON_GIVEN_UP);
	index_name_hide(realm, slot);
	index_slot_free(realm, slot);
	lru_leaf_check(realm, parent);
}

/* A child that is being put. Others below a pending block are in GPU memory alone. */
static uint32_t pending_child(const struct realm *realm, uint32_t slot)
{
	uint32_t child = realm->index.slots[slot].first_child;

	while (child != NONE32 && index_state(realm, child) != ENTRY_PENDING)
		child = realm->index.slots[child].next_sibling;
	return child;
}

/* The block and what was being put below it, leaves first: none of it was ever visible. */
static void give_up(struct realm *realm, uint32_t top)
{
	uint32_t at = top, parent, child;

	for (;;) {
		while ((child = pending_child(realm, at)) != NONE32)
			at = child;
		parent = index_parent(realm, at);
		give_up_one(realm, at);
		if (at == top)
			return;
		at = parent;
	}
}

/* No reservation of the block is live: until when another writer may reserve what is missing. */
static void pending_idle(struct realm *realm, struct pending *pending, uint64_t give_up_ns)
{
	pending->give_up_ns = give_up_ns;
	list_remove(&pending->by_age);
	list_append(&realm->pending_idle, &pending->by_age);
}

/* Committed parts wait for the others until the age limit has passed since the last activity. */
static void pending_await_parts(struct realm *realm, struct pending *pending)
{
	pending_idle(realm, pending,
		clock_after(pending->last_ns, realm->config.age_limit_ns + GIVE_UP_GRACE_NS));
}

/* A reservation ended without a commit: whoever waits is told, and if none is live, another writer
 * gets a chance before the block goes. */
static void pending_settle(struct realm *realm, uint32_t slot)
{
	struct pending *pending = pending_of(realm, slot);
	struct slot *own = &realm->index.slots[slot];
	bool awaited;

	if (!pending || !list_empty(&pending->reservations) || own->flags & SLOT_HELD)
		return;
	awaited = !list_empty(&pending->waits) || own->first_child != NONE32;
	pending_wake(realm, pending, SKEP_STATUS_EGIVENUP);
	if (own->committed)
		pending_await_parts(realm, pending);
	else if (awaited)
		pending_idle(realm, pending, realm->keeper->now_ns + GIVE_UP_GRACE_NS);
	else
		give_up(realm, slot);
}

/* -------------------------------------------------------------------------------- publish */

unsigned put_part_class(struct realm *realm, uint32_t slot, uint32_t part)
{
	struct index *index = &realm->index;
	const struct space *space = &realm->spaces[LOAD(index->entries[slot].space)];
	int class = space->classes[part];

	if (space->opaque)
		class = dram_class(realm->dram, LOAD(index_part(index, slot, part)->bytes));
	SKEP_CHECK(class >= 0);
	return (unsigned)class;
}

void put_frames_free(struct realm *realm, uint32_t slot)
{
	struct index *index = &realm->index;
	uint32_t parts = LOAD(index->entries[slot].parts);
	struct slot *own = &index->slots[slot];

	for (uint32_t i = 0; i < parts; i++) {
		struct index_part *part;

		if (!(own->committed & 1ull << i))
			continue;
		part = index_part(index, slot, i);
		SKEP_CHECK(LOAD(part->frame) != FRAME_NONE);
		dram_frame_put(realm->dram, put_part_class(realm, slot, i),
			(uint64_t)LOAD(part->frame) * FRAME_GRANULE_BYTES);
		STORE(part->frame, FRAME_NONE);
		if (!slot_on_ssd(realm, slot)) /* else it goes with the record */
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
	if (ssd_keeps(realm, LOAD(entry->space)))
		ssd_dirty(realm, slot);
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
void part_committed(struct realm *realm, struct reservation *r)
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
		if (list_empty(&pending->reservations))
			pending_await_parts(realm, pending);
		return;
	}
	if (parent_present(realm, slot))
		publish(realm, slot);
	else
		own->flags |= SLOT_HELD;
}

/* The writer is gone or gives the part back: the frame is free, the block waits for another. */
void reservation_abort(struct realm *realm, struct reservation *r)
{
	uint32_t slot = r->slot;
	bool live = r->state == RESERVATION_LIVE;

	if (live)
		part_unclaim(realm, r);
	reservation_drop(realm, r);
	realm->counters[REALM_COUNTER_parts_aborted]++;
	if (live)
		pending_settle(realm, slot);
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
