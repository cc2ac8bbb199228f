/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks in the GPU memory of engine processes (DESIGN section 7). A session announces what it has;
 * the keeper knows of it and no more: bytes, pages and matching are the session's own, and skepd
 * opens no GPU.
 *
 * A block that is nowhere else has a name all the same, in state ENTRY_HBM: it is found, proved by
 * tokens and parent as any other, and cannot be had. What is in no tier at all stays as ENTRY_EMPTY
 * while something below it has a holder. Neither state has a frame or a record. So below such a
 * name there are others of its kind alone: what has bytes here rests on bytes here.
 *
 * A block may leave DRAM while children of it are in hbm only if it is in hbm itself, so that a
 * chain that its holder goes on with has no gap (hbm_keeps()). A name keeps the record on the ssd
 * above it, as any child does.
 *
 * Who wants a block that others have in hbm alone asks by a load (LOAD_ASK). The keeper asks one
 * holder, which puts the block as it would any other; the load goes on when it is published. A
 * holder that declines, ends, never listens, or does not answer in time makes it a miss. Nothing is
 * queued for a holder: what it has yet to be asked are its own holds, on a list.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/memory.h"
#include "store/hbm_priv.h"
#include "store/put_priv.h"

#define LOAD(field) atomic_load_explicit(&(field), RELAXED)

int hbm_create(struct realm *realm)
{
	struct realm_hbm *hbm = &realm->hbm;
	uint32_t slots = realm->index.head->slot_count;

	/* Zeroed and not touched, so the system gives no memory before it is used. */
	hbm->max = MAX_OF(slots / 4, 1u);
	hbm->of_slot = memory_calloc(slots, sizeof(*hbm->of_slot));
	hbm->holds = memory_calloc(hbm->max, sizeof(*hbm->holds));
	return hbm->of_slot && hbm->holds ? 0 : -ENOMEM;
}

void hbm_destroy(struct realm *realm)
{
	memory_free(realm->hbm.of_slot);
	memory_free(realm->hbm.holds);
}

static uint64_t block_bytes(const struct realm *realm, uint32_t slot)
{
	const struct space *space = &realm->spaces[LOAD(realm->index.entries[slot].space)];
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < space->part_count; i++)
		bytes += space->part_bytes[i];
	return bytes;
}

/* ---------------------------------------------------------------------------------- holds */

static struct hbm_hold *hold_at(const struct realm *realm, uint32_t number)
{
	return number ? &realm->hbm.holds[number - 1] : NULL;
}

static struct hbm_hold *hold_of(
	const struct realm *realm, uint32_t slot, const struct session *session)
{
	struct hbm_hold *hold = hold_at(realm, realm->hbm.of_slot[slot]);

	while (hold && hold->session != session)
		hold = hold_at(realm, hold->next);
	return hold;
}

uint32_t hbm_holders(const struct realm *realm, uint32_t slot)
{
	uint32_t count = 0;

	for (const struct hbm_hold *hold = hold_at(realm, realm->hbm.of_slot[slot]); hold;
		hold = hold_at(realm, hold->next))
		count++;
	return count;
}

const struct session *hbm_holder(const struct realm *realm, uint32_t slot)
{
	return hold_at(realm, realm->hbm.of_slot[slot])->session;
}

int hbm_hold_make(struct session *session, uint32_t slot)
{
	struct realm *realm = session->realm;
	struct realm_hbm *hbm = &realm->hbm;
	uint32_t parent = index_parent(realm, slot), number;
	struct hbm_hold *hold;

	if (hold_of(realm, slot, session))
		return 0;
	if (hbm->count == hbm->max ||
		(parent != NONE32 && realm->index.slots[parent].hbm_children == UINT16_MAX))
		return -ENOSPC;
	number = hbm->free ? hbm->free : ++hbm->fresh;
	hold = hold_at(realm, number);
	if (hbm->free)
		hbm->free = hold->next;
	*hold = (struct hbm_hold){.session = session, .slot = slot, .next = hbm->of_slot[slot]};
	list_init(&hold->of_wanted);
	list_append(&session->hbm_holds, &hold->of_session);
	if (!hbm->of_slot[slot] && parent != NONE32)
		realm->index.slots[parent].hbm_children++;
	hbm->of_slot[slot] = number;
	hbm->count++;
	session->hbm_blocks++;
	session->hbm_bytes += block_bytes(realm, slot);
	if (hbm_state(index_state(realm, slot)))
		index_state_set(realm, slot, ENTRY_HBM);
	/* Its children keep it in DRAM no longer. */
	lru_dram_check(realm, slot);
	return 0;
}

/* The name stands as it stood: hbm_settle() looks what is left of it. */
static void hold_end(struct realm *realm, struct hbm_hold *hold)
{
	struct realm_hbm *hbm = &realm->hbm;
	uint32_t number = (uint32_t)(hold - hbm->holds) + 1, slot = hold->slot;
	uint32_t *link = &hbm->of_slot[slot], parent = index_parent(realm, slot);

	while (*link != number)
		link = &hold_at(realm, *link)->next;
	*link = hold->next;
	list_remove(&hold->of_session);
	list_remove(&hold->of_wanted);
	hold->session->hbm_blocks--;
	hold->session->hbm_bytes -= block_bytes(realm, slot);
	hold->session = NULL;
	hold->next = hbm->free;
	hbm->free = number;
	hbm->count--;
	if (hbm->of_slot[slot] || parent == NONE32)
		return;
	SKEP_CHECK(realm->index.slots[parent].hbm_children > 0);
	realm->index.slots[parent].hbm_children--;
	lru_dram_check(realm, parent);
}

bool hbm_stays(struct realm *realm, uint32_t slot)
{
	bool held = hbm_held(realm, slot);

	if (!held && realm->index.slots[slot].first_child == NONE32)
		return false;
	index_state_set(realm, slot, held ? ENTRY_HBM : ENTRY_EMPTY);
	return true;
}

void hbm_settle(struct realm *realm, uint32_t slot)
{
	while (hbm_state(index_state(realm, slot)) && !hbm_stays(realm, slot)) {
		uint32_t parent = index_parent(realm, slot);

		gone_add(realm, LOAD(realm->index.entries[slot].id_low), SKEP_REASON_EVICTED);
		index_name_hide(realm, slot);
		index_slot_free(realm, slot);
		realm->room_made = true; /* who waits may want the slot */
		if (parent == NONE32)
			return;
		slot = parent;
	}
	lru_leaf_check(realm, slot);
}

void hbm_block_end(struct realm *realm, uint32_t slot)
{
	while (hbm_held(realm, slot))
		hold_end(realm, hold_at(realm, realm->hbm.of_slot[slot]));
}

static void holds_end(struct session *session)
{
	struct realm *realm = session->realm;

	/* The last first: a chain goes from its leaf on. */
	while (!list_empty(&session->hbm_holds)) {
		struct hbm_hold *hold =
			list_item(session->hbm_holds.prev, struct hbm_hold, of_session);
		uint32_t slot = hold->slot;

		hold_end(realm, hold);
		hbm_settle(realm, slot);
	}
}

void hbm_session_gone(struct session *session)
{
	session->asks.op = 0;
	holds_end(session);
}

void hbm_mark(struct realm *realm, bool records, void (*mark)(struct realm *, uint32_t slot))
{
	uint32_t left = realm->hbm.count;

	for (uint32_t i = 0; left; i++) {
		const struct hbm_hold *hold = &realm->hbm.holds[i];
		uint32_t parent;

		if (!hold->session)
			continue;
		left--;
		parent = index_parent(realm, hold->slot);
		if (records)
			mark(realm, hold->slot);
		else if (parent != NONE32 && hbm_keeps(realm, parent))
			mark(realm, parent);
	}
}

/* ------------------------------------------------------------------------------- announcing */

/* Announces block @i below job->name.parent_*. Return: its slot, -ENOSPC, -EPROTO. */
static int64_t announce_block(struct reserving *job, uint32_t i, struct block_id parent_id)
{
	struct realm *realm = job->realm;
	struct reserve_block block;
	uint32_t parent = job->name.parent_slot;
	bool guarded = parent < realm->index.head->slot_count;
	int64_t slot;
	int status = naming_block(job, i, &block);

	if (status < 0)
		return status;
	job->name.id =
		id_make(job->space->secret, parent_id, &job->name.proof, realm->keeper->id_bits);
	slot = index_name_find(realm, &job->name);
	if (slot == NONE32) {
		if (realm->hbm.count == realm->hbm.max)
			return -ENOSPC;
		/* While room is made the parent must not be taken for a leaf. */
		if (guarded)
			realm->index.slots[parent].dram_children++;
		realm->guarded_slot = guarded ? parent : NONE32;
		slot = naming_make(job, job->message->count - i);
		realm->guarded_slot = NONE32;
		if (guarded)
			evict_child_left(realm, parent, 0);
		if (slot < 0)
			return -ENOSPC;
		index_state_set(realm, (uint32_t)slot, ENTRY_EMPTY);
	}
	status = hbm_hold_make(job->session, (uint32_t)slot);
	if (status < 0) {
		hbm_settle(realm, (uint32_t)slot);
		return status;
	}
	block.status = 0;
	block.slot = (uint32_t)slot;
	block.name_generation = LOAD(realm->index.entries[slot].name_generation);
	memcpy(&job->blocks[i], &block, sizeof(block));
	realm->counters[REALM_COUNTER_blocks_announced]++;
	return slot;
}

static int announce(struct session *session, const struct submission *message)
{
	static _Thread_local struct reserving job; /* 68 KiB, of the keeper's thread */
	struct block_id parent_id;
	uint32_t done = 0;
	int64_t slot = 0;
	int status;

	job.session = session;
	job.realm = session->realm;
	job.message = message;
	job.announces = true;
	status = naming_open(&job);
	if (status == 0)
		status = naming_parent(&job, &parent_id);
	if (status < 0)
		return status;
	for (; done < message->count; done++) {
		slot = announce_block(&job, done, parent_id);
		if (slot < 0)
			break;
		parent_id = naming_below(&job, (uint32_t)slot);
	}
	if (slot < 0)
		job.realm->counters[REALM_COUNTER_announces_refused] += message->count - done;
	return slot == -EPROTO || !done ? (int)slot : (int)done;
}

int hbm_announce(struct session *session, const struct submission *message)
{
	int status = announce(session, message);

	if (status == -EPROTO)
		return status;
	session_complete(session, message->queue, message->tag, status, 0);
	return 0;
}

/* ------------------------------------------------------------------------------ withdrawing */

/* The area of a message of ours, or NULL: it is not sound. */
static struct hbm_part *parts_of(const struct session *session, const struct submission *message)
{
	struct hbm_part *parts =
		page_end_scratch(&session->page, message->scratch_at, message->scratch_bytes);

	return message->count && message->count <= HBM_PARTS_MAX &&
			       message->count <= message->scratch_bytes / sizeof(*parts)
		       ? parts
		       : NULL;
}

bool hbm_asks_sound(const struct session *session, const struct submission *message)
{
	return message->op == SUBMIT_ASKS && parts_of(session, message) &&
	       message->queue < PAGE_QUEUES &&
	       (!message->queue || session->page.queue_fds[message->queue] >= 0);
}

static void hold_unwant(struct hbm_hold *hold)
{
	list_remove(&hold->of_wanted);
	hold->want_until_ns = hold->asked_until_ns = 0;
}

/* Return: 0, -ENOENT: the session has not announced it, or not any more. */
static int part_withdraw(
	struct session *session, const struct hbm_part *part, enum withdraw_kind kind)
{
	struct realm *realm = session->realm;
	struct hbm_hold *hold = NULL;

	if (part->slot < realm->index.head->slot_count && part->name_generation &&
		LOAD(realm->index.entries[part->slot].name_generation) == part->name_generation)
		hold = hold_of(realm, part->slot, session);
	if (!hold)
		return -ENOENT;
	if (kind == WITHDRAW_DECLINED) {
		realm->counters[REALM_COUNTER_hbm_declined] += hold->asked_until_ns != 0;
		hold_unwant(hold);
		hold->declined_ns = realm->keeper->now_ns;
		return 0;
	}
	hold_end(realm, hold);
	hbm_settle(realm, part->slot);
	return 0;
}

int hbm_withdraw(struct session *session, const struct submission *message)
{
	struct hbm_part *parts = parts_of(session, message);
	int32_t count = 0;

	if (!message->count && message->u.other.kind == WITHDRAW_GONE) {
		count = (int32_t)MIN_OF(session->hbm_blocks, (uint64_t)INT32_MAX);
		holds_end(session);
		session_complete(session, message->queue, message->tag, count, 0);
		return 0;
	}
	if (!parts || message->u.other.kind > WITHDRAW_DECLINED)
		return -EPROTO;
	for (uint32_t i = 0; i < message->count; i++) {
		struct hbm_part part;

		memcpy(&part, &parts[i], sizeof(part)); /* read once */
		part.status =
			part_withdraw(session, &part, (enum withdraw_kind)message->u.other.kind);
		memcpy(&parts[i], &part, sizeof(part));
		count += part.status == 0;
	}
	session_complete(session, message->queue, message->tag, count, 0);
	return 0;
}

/* ----------------------------------------------------------------------------------- asking */

/* Tells the session what is wanted of it, if it listens now. */
static void asks_tell(struct session *session)
{
	struct realm *realm = session->realm;
	struct submission message = session->asks;
	struct hbm_part *parts;
	uint32_t count = 0;

	if (!message.op || list_empty(&session->hbm_wanted))
		return;
	parts = parts_of(session, &message);
	while (count < message.count && !list_empty(&session->hbm_wanted)) {
		struct hbm_hold *hold =
			list_item(session->hbm_wanted.next, struct hbm_hold, of_wanted);
		struct hbm_part part = {.slot = hold->slot,
			.name_generation = LOAD(realm->index.entries[hold->slot].name_generation),
			.deadline_ns = hold->want_until_ns};

		hold_unwant(hold);
		/* Nobody waits any more, or it was put by itself. */
		if (part.deadline_ns <= realm->keeper->now_ns ||
			index_state(realm, hold->slot) != ENTRY_HBM)
			continue;
		hold->asked_until_ns = part.deadline_ns;
		memcpy(&parts[count++], &part, sizeof(part));
	}
	if (!count)
		return;
	realm->counters[REALM_COUNTER_hbm_asks] += count;
	session->asks.op = 0;
	session_complete(session, message.queue, message.tag, (int32_t)count, 0);
}

int hbm_asks(struct session *session, const struct submission *message)
{
	if (session->asks.op || !parts_of(session, message))
		return -EPROTO;
	session->asks = *message;
	session->hears_asks = true;
	asks_tell(session);
	return 0;
}

void hbm_asks_cancel(struct session *session, const struct submission *message)
{
	if (!session->asks.op || session->asks.tag != message->tag ||
		session->asks.queue != message->queue)
		return;
	session->asks.op = 0;
	session_complete(session, message->queue, message->tag, -ECANCELED, 0);
}

void hbm_pump(struct realm *realm)
{
	if (!realm->hbm.wanted)
		return;
	realm->hbm.wanted = false;
	list_each (node, &realm->sessions)
		asks_tell(list_item(node, struct session, of_realm));
}

/* Wants a block of one of its holders. Return: true: one was chosen now or before; @news where it
 * was now. */
static bool block_want(struct realm *realm, const struct load *load, uint32_t slot, bool *news)
{
	uint64_t now = realm->keeper->now_ns;

	for (struct hbm_hold *hold = hold_at(realm, realm->hbm.of_slot[slot]); hold;
		hold = hold_at(realm, hold->next)) {
		if (hold->session == load->session || !hold->session->hears_asks ||
			(hold->declined_ns && hold->declined_ns >= load->began_ns))
			continue;
		if (MAX_OF(hold->want_until_ns, hold->asked_until_ns) > now)
			return true;
		hold_unwant(hold);
		hold->want_until_ns = load->deadline_ns;
		list_append(&hold->session->hbm_wanted, &hold->of_wanted);
		*news = realm->hbm.wanted = true;
		return true;
	}
	return false;
}

/* Is somebody putting it who was asked to? */
static bool block_asked(const struct realm *realm, uint32_t slot)
{
	for (const struct hbm_hold *hold = hold_at(realm, realm->hbm.of_slot[slot]); hold;
		hold = hold_at(realm, hold->next))
		if (hold->asked_until_ns > realm->keeper->now_ns)
			return true;
	return false;
}

int hbm_await(struct realm *realm, struct load *load)
{
	uint32_t at = load->started, slot = load->blocks[at].slot;
	enum entry_state state = index_state(realm, slot);
	bool news = false;

	if (!load->asks)
		return -ENOENT;
	if (load->deadline_ns <= realm->keeper->now_ns)
		return -ETIMEDOUT;
	if (state == ENTRY_PENDING) {
		if (load->awaits != at + 1 && !block_asked(realm, slot))
			return -ENOENT;
		load->awaits = at + 1;
		return -EINPROGRESS;
	}
	if (state != ENTRY_HBM || !block_want(realm, load, slot, &news))
		return -ENOENT;
	load->awaits = at + 1;
	/* The rest of the run in one go with the first of it. */
	while (news && ++at < load->count) {
		const struct load_block *block = &load->blocks[at];
		bool more;

		if (block->slot >= realm->index.head->slot_count || !block->name_generation ||
			!load_block_stands(realm, block) ||
			index_state(realm, block->slot) != ENTRY_HBM ||
			!block_want(realm, load, block->slot, &more))
			break;
	}
	return -EINPROGRESS;
}

void hbm_rest(struct realm *realm)
{
	list_each (node, &realm->ssd.loads_live)
		list_item(node, struct load, link)->asks = false;
	load_pump(realm);
}
