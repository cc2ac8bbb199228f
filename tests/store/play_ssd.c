/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bits.h"
#include "store/hbm_priv.h"
#include "tests/store/play.h"

uint32_t play_load(
	struct sim_client *client, const struct play_chain *chain, const struct play_load *load)
{
	static struct probe_name names[PLAY_BLOCKS_MAX];
	uint32_t used = atomic_load(&sim_page(client)->pins_used), tag;
	uint32_t named = probe_names(&client->session->realm->index.view, &chain->probe,
		MIN_OF(load->first + load->count, PLAY_BLOCKS_MAX), names);
	struct load_part *parts = sim_scratch(client, 0);
	struct submission message = {.op = SUBMIT_LOAD,
		.count = load->count,
		.scratch_bytes = (uint32_t)(load->count * sizeof(*parts)),
		.deadline_ns = load->deadline_ns,
		.u.other.kind = load->cell,
		.u.other.flags = load->asks ? LOAD_ASK : 0};

	atomic_store(&sim_page(client)->pins_used, MAX_OF(used, load->cell + 1));
	memset(parts, 0, load->count * sizeof(*parts));
	for (uint32_t i = 0; i < load->count && load->first + i < named; i++) {
		parts[i].slot = names[load->first + i].slot;
		parts[i].name_generation = names[load->first + i].name_generation;
	}
	tag = sim_push(client, &message);
	REQUIRE(tag != 0);
	return tag;
}

void play_loaded_holds(const struct sim_client *client, const struct play_chain *chain,
	const struct play_load *load)
{
	static struct probe_name names[PLAY_BLOCKS_MAX];
	const struct realm *realm = client->session->realm;
	const struct pin_cell *cell = &sim_pins(client)[load->cell];
	uint32_t end = load->first + load->count;

	REQUIRE(load->count > 0);
	REQUIRE(probe_names(&realm->index.view, &chain->probe, end, names) == end);
	REQUIRE_EQ(atomic_load(&cell->slot), names[end - 1].slot);
	REQUIRE_EQ(atomic_load(&cell->generation), names[end - 1].frame_generation);
	for (uint32_t i = load->first; i < end; i++)
		for (uint32_t p = 0; p < chain->space->kind->part_count; p++) {
			const struct index_part *part =
				probe_part(&realm->index.view, names[i].slot, p);
			uint32_t frame = atomic_load(&part->frame);

			REQUIRE(names[i].frame_generation != 0 && frame != FRAME_NONE);
			REQUIRE(payload_holds(
				dram_at(realm->dram, (uint64_t)frame * FRAME_GRANULE_BYTES),
				atomic_load(&part->bytes) & ~7u, chain->ids[i], p));
		}
}

int32_t play_load_now(
	struct play *play, unsigned client, const struct play_chain *chain, uint32_t count)
{
	struct play_load load = {.count = count, .cell = 1, .deadline_ns = CLOCK_NEVER};
	struct completion done;

	play_load(&play->clients[client], chain, &load);
	sim_settle(&play->sim);
	done = play_take(play, client);
	if (done.status <= 0)
		return done.status;
	load.count = (uint32_t)done.status;
	REQUIRE(load.count <= count);
	play_loaded_holds(&play->clients[client], chain, &load);
	pin_clear(&sim_pins(&play->clients[client])[load.cell]);
	return done.status;
}

uint32_t play_sync(struct sim_client *client, uint64_t deadline_ns)
{
	struct submission message = {.op = SUBMIT_SYNC, .deadline_ns = deadline_ns};
	uint32_t tag = sim_push(client, &message);

	REQUIRE(tag != 0);
	return tag;
}

static bool name_of(const struct sim_client *client, const struct play_chain *chain, uint32_t i,
	struct probe_name *name)
{
	static struct probe_name names[PLAY_BLOCKS_MAX];
	uint32_t named = probe_names(
		&client->session->realm->index.view, &chain->probe, PLAY_BLOCKS_MAX, names);

	if (named <= i)
		return false;
	*name = names[i];
	return true;
}

enum play_at play_where(const struct sim_client *client, const struct play_chain *chain, uint32_t i)
{
	struct probe_name name;

	if (!name_of(client, chain, i, &name))
		return PLAY_NOWHERE;
	if (name.state == ENTRY_HBM || name.state == ENTRY_EMPTY)
		return name.state == ENTRY_HBM ? PLAY_HBM : PLAY_EMPTY;
	if (name.state != ENTRY_PRESENT)
		return PLAY_PENDING;
	return name.frame_generation ? PLAY_DRAM : PLAY_SSD;
}

uint32_t play_slot(const struct sim_client *client, const struct play_chain *chain, uint32_t i)
{
	struct probe_name name;

	REQUIRE(name_of(client, chain, i, &name));
	return name.slot;
}

/* ------------------------------------------------------------------------------- the books */

struct books {
	uint64_t blocks, live_units, live_names, on_list, holds, unwritten[SYNC_EPOCHS];
};

static void list_count(const struct realm *realm, const struct lru_list *list, struct books *books)
{
	const struct slot *slots = realm->index.slots;
	uint64_t count = 0;

	for (uint32_t slot = list->cold; slot != NONE32; slot = slots[slot].lru_next, count++) {
		REQUIRE(slots[slot].flags & SLOT_ON_LRU);
		REQUIRE_EQ(index_state(realm, slot), ENTRY_PRESENT);
		REQUIRE(slots[slot].lru_next == NONE32 ||
			slots[slots[slot].lru_next].lru_prev == slot);
	}
	REQUIRE_EQ(count, list->count);
	books->on_list += count;
}

static void children_count(struct realm *realm, uint32_t slot)
{
	const struct slot *slots = realm->index.slots, *own = &slots[slot];
	uint32_t in_dram = 0, in_hbm = 0;

	for (uint32_t child = own->first_child; child != NONE32;
		child = slots[child].next_sibling) {
		REQUIRE_EQ(index_parent(realm, child), slot);
		in_dram += (slots[child].flags & SLOT_IN_DRAM) != 0;
		in_hbm += hbm_held(realm, child);
	}
	/* Removed children count until their frames are free. */
	for (uint32_t at = realm->removed.first; at != NONE32; at = slots[at].lru_next)
		in_dram += index_parent(realm, at) == slot && slots[at].flags & SLOT_IN_DRAM;
	REQUIRE_EQ(own->dram_children, in_dram);
	REQUIRE_EQ(own->hbm_children, in_hbm);
}

/* Has it a child whose bytes are here, or on their way? */
static bool child_has_bytes(const struct realm *realm, uint32_t slot)
{
	const struct slot *slots = realm->index.slots;
	uint32_t child = slots[slot].first_child;

	while (child != NONE32 && hbm_state(index_state(realm, child)))
		child = slots[child].next_sibling;
	return child != NONE32;
}

/* A block that nothing rests on can be found by whoever makes room. */
static void leaf_check(struct realm *realm, uint32_t slot)
{
	const struct slot *own = &realm->index.slots[slot];
	uint32_t space = atomic_load(&realm->index.entries[slot].space);

	if (own->flags & SLOT_DIRTY)
		REQUIRE(own->flags & SLOT_ON_LRU && own->flags & SLOT_IN_DRAM);
	if (own->flags & (SLOT_DIRTY | SLOT_LOADING) || own->dram_children)
		return;
	if (own->flags & SLOT_IN_DRAM ? child_has_bytes(realm, slot) || hbm_keeps(realm, slot)
				      : own->first_child != NONE32)
		return;
	if (own->flags & SLOT_WRITING && !slot_on_ssd(realm, slot))
		return; /* it gets its place when that is done */
	if (!slot_on_ssd(realm, slot) && ssd_keeps(realm, space) && own->flags & SLOT_ON_LRU)
		return;
	REQUIRE(own->flags & SLOT_ON_LRU);
}

/* What sessions have of it, and what its name may rest on. */
static void hbm_count(struct realm *realm, uint32_t slot, struct books *books)
{
	const struct slot *own = &realm->index.slots[slot];
	enum entry_state state = index_state(realm, slot);
	uint32_t parent = index_parent(realm, slot), number = realm->hbm.of_slot[slot];

	REQUIRE(!number || state != ENTRY_REMOVED);
	REQUIRE(state != ENTRY_HBM || number);
	REQUIRE(state != ENTRY_EMPTY || (!number && own->first_child != NONE32));
	REQUIRE(!hbm_state(state) || (!own->flags && !own->committed));
	if (parent != NONE32 && hbm_state(index_state(realm, parent)))
		REQUIRE(hbm_state(state) || state == ENTRY_REMOVED);
	for (; number; number = realm->hbm.holds[number - 1].next, books->holds++)
		REQUIRE_EQ(realm->hbm.holds[number - 1].slot, slot);
}

/* Each session's own count, and none beyond the limit. */
static void hbm_sessions_count(const struct realm *realm, const struct books *books)
{
	uint64_t holds = 0;

	list_each (of_realm, &realm->sessions) {
		const struct session *session = list_item(of_realm, const struct session, of_realm);
		uint64_t own = 0;

		list_each (node, &session->hbm_holds)
			own += list_item(node, const struct hbm_hold, of_session)->session ==
			       session;
		REQUIRE_EQ(session->hbm_blocks, own);
		REQUIRE((session->hbm_bytes != 0) == (own != 0));
		REQUIRE(!session->stopped || !own);
		holds += own;
	}
	REQUIRE_EQ(holds, books->holds);
	REQUIRE_EQ(holds, realm->hbm.count);
	REQUIRE(realm->hbm.count <= realm->hbm.max);
}

static void slot_count(struct realm *realm, uint32_t slot, struct books *books)
{
	const struct slot *own = &realm->index.slots[slot];
	enum entry_state state = index_state(realm, slot);
	bool framed = atomic_load(&realm->index.entries[slot].frame_generation) != 0;

	if (state == ENTRY_FREE) {
		REQUIRE(!slot_on_ssd(realm, slot));
		return;
	}
	books->live_names++;
	hbm_count(realm, slot, books);
	REQUIRE(!(own->flags & SLOT_VICTIM));
	children_count(realm, slot);
	if (slot_on_ssd(realm, slot)) {
		books->blocks++;
		books->live_units += ssd_block_units(realm, slot);
		REQUIRE(!(own->flags & SLOT_DIRTY));
	}
	if (state != ENTRY_PRESENT)
		return;
	/* Its bytes are somewhere, and its parent's too. */
	REQUIRE(own->flags & SLOT_IN_DRAM || slot_on_ssd(realm, slot));
	REQUIRE_EQ(framed, own->flags & SLOT_IN_DRAM && !(own->flags & SLOT_LOADING));
	if (index_parent(realm, slot) != NONE32)
		REQUIRE_EQ(index_state(realm, index_parent(realm, slot)), ENTRY_PRESENT);
	leaf_check(realm, slot);
}

static void jobs_count(struct realm *realm, struct books *books)
{
	const struct slot *slots = realm->index.slots;

	list_each (node, &realm->ssd.jobs_busy) {
		const struct ssd_job *job = list_item(node, struct ssd_job, link);

		if (job->of_space) {
			books->live_units += job->put.units;
			continue;
		}
		REQUIRE(index_state(realm, job->slot) != ENTRY_FREE);
		if (job->from == SSD_NONE && slots[job->slot].flags & SLOT_LOADING)
			continue;
		REQUIRE(slots[job->slot].flags & SLOT_WRITING);
		books->live_units += job->put.units;
		if (job->from == SSD_NONE)
			books->unwritten[slots[job->slot].epoch % SYNC_EPOCHS]++;
	}
}

static void holds_count(struct realm *realm)
{
	const struct index *index = &realm->index;
	uint64_t held = 0, holds = 0;

	list_each (node, &realm->ssd.loads_live) {
		const struct load *load = list_item(node, struct load, link);

		for (uint32_t i = 0; i < load->started; i++)
			held += atomic_load(
					&index->entries[load->blocks[i].slot].name_generation) ==
				load->blocks[i].name_generation;
	}
	for (uint32_t slot = 0; slot < index->head->slot_count; slot++)
		if (index_state(realm, slot) != ENTRY_FREE)
			holds += index->slots[slot].holds;
	REQUIRE_EQ(holds, held);
}

void play_books_agree(struct realm *realm)
{
	struct books books = {0};
	struct slab_stats records;

	for (uint32_t slot = 0; slot < realm->index.head->slot_count; slot++)
		slot_count(realm, slot, &books);
	slab_stats_get(realm->index.records, &records);
	REQUIRE_EQ(records.live, books.live_names);
	hbm_sessions_count(realm, &books);
	for (unsigned i = 0; i < LRU_LISTS_MAX; i++)
		list_count(realm, &realm->lru[i], &books);
	if (!realm->ssd.log)
		return;
	list_count(realm, &realm->ssd.lru, &books);
	for (uint32_t slot = realm->ssd.dirty.cold; slot != NONE32;
		slot = realm->index.slots[slot].lru_next) {
		REQUIRE(realm->index.slots[slot].flags & SLOT_DIRTY);
		books.unwritten[realm->index.slots[slot].epoch % SYNC_EPOCHS]++;
	}
	list_count(realm, &realm->ssd.dirty, &books);
	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++)
		books.live_units += realm->spaces[i].ssd_at != SSD_NONE;
	jobs_count(realm, &books);
	holds_count(realm);
	REQUIRE_EQ(realm->ssd.blocks, books.blocks);
	REQUIRE_EQ(realm->ssd.live_units, books.live_units);
	for (unsigned i = 0; i < SYNC_EPOCHS; i++)
		REQUIRE_EQ(realm->ssd.unwritten[i], books.unwritten[i]);
	{
		struct ssd_log_status log;

		ssd_log_status_get(realm->ssd.log, &log);
		REQUIRE_EQ(log.live_bytes, realm->ssd.live_units * SSD_UNIT_BYTES);
	}
}

/* Not answered yet: afterwards the frames of what is not pinned may be anybody's. */
static bool load_lives(const struct sim_client *client, uint32_t tag)
{
	list_each (node, &client->session->realm->ssd.loads_live) {
		const struct load *load = list_item(node, struct load, link);

		if (load->session == client->session && load->tag == tag)
			return true;
	}
	return false;
}

uint64_t play_told_check(const struct sim_client *client, uint32_t tag,
	const struct load_part *parts, const struct probe_name *names,
	const struct play_chain *chain, uint32_t *told, uint32_t count)
{
	struct realm *realm = client->session->realm;
	uint64_t more = 0;

	if (!load_lives(client, tag))
		return 0;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t slot = names[i].slot, ranges = atomic_load(&parts[i].ranges);

		REQUIRE(ranges >= told[i] || !ranges); /* or it could not be read on */
		more += ranges > told[i];
		told[i] = ranges;
		/* Unless it was removed by force, or given back by whoever could not read on. */
		if (ranges &&
			atomic_load(&realm->index.entries[slot].name_generation) ==
				names[i].name_generation &&
			realm->index.slots[slot].flags & SLOT_IN_DRAM)
			play_block_check(realm, slot, chain->space->kind, chain->ids[i], ranges);
	}
	return more;
}
