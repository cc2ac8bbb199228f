/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/store/ssd_model.h"

const struct sim_space model_kinds[MODEL_SPACES] = {
	{.name = "one", .block_tokens = 4, .part_count = 1, .bytes = {16384}, .ranges = {2}},
	{.name = "three",
		.block_tokens = 4,
		.part_count = 3,
		.bytes = {16384, 4096, 24576},
		.ranges = {1, 1, 3}},
	{.name = "large", .block_tokens = 4, .part_count = 1, .bytes = {81920}, .ranges = {16}},
};

void model_begin(struct model *model)
{
	memset(model, 0, sizeof(*model));
}

static void space_look(const struct realm *realm, unsigned kind, struct model_space *space)
{
	space->version = 0;
	space->at = SSD_NONE;
	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++)
		if (realm->spaces[i].used &&
			!strcmp(realm->spaces[i].name, model_kinds[kind].name)) {
			space->version = realm->spaces[i].version;
			space->at = realm->spaces[i].ssd_at;
		}
}

static struct model_name *name_of(struct model *model, struct block_id id)
{
	uint32_t at = (uint32_t)mix64(id.low ^ id.high) % MODEL_NAMES_MAX;

	while (model->names[at].id.low | model->names[at].id.high) {
		if (model->names[at].id.low == id.low && model->names[at].id.high == id.high)
			break;
		at = (at + 1) % MODEL_NAMES_MAX;
	}
	return &model->names[at];
}

void model_know(struct model *model, struct block_id id)
{
	struct model_name *name = name_of(model, id);

	if (name->id.low | name->id.high)
		return;
	REQUIRE(++model->count < MODEL_NAMES_MAX / 4 * 3);
	name->id = id;
}

static uint64_t left_counted(const struct realm *realm)
{
	return realm->counters[REALM_COUNTER_blocks_evicted] +
	       realm->counters[REALM_COUNTER_blocks_removed] +
	       realm->counters[REALM_COUNTER_blocks_given_up];
}

/* What a device took from what was durable, as counted. */
static uint64_t losses(const struct realm *realm)
{
	struct ssd_status ssd;

	ssd_status_get(realm->keeper->ssd, &ssd);
	return realm->counters[REALM_COUNTER_blocks_lost] + ssd.moves_given_up;
}

void model_fenced(struct model *model)
{
	model->excused_at = model->look;
	for (unsigned i = 0; i < MODEL_SPACES; i++)
		model->spaces[i].durable_version = 0;
	for (uint32_t i = 0; i < MODEL_NAMES_MAX; i++)
		model->names[i].durable = false;
}

/* A device that failed may have taken with it what was moved, or all whose space was. */
static void excuses_look(struct model *model, struct realm *realm)
{
	uint64_t lost = losses(realm);
	bool excused = lost != model->lost;

	model->lost = lost;
	for (unsigned i = 0; i < MODEL_SPACES; i++) {
		uint32_t before = model->spaces[i].at;

		space_look(realm, i, &model->spaces[i]);
		excused |= model->has_failed && model->spaces[i].at != before;
	}
	if (excused)
		model_fenced(model);
}

static void slot_look(struct model *model, struct realm *realm, uint32_t slot)
{
	const struct index_entry *entry = &realm->index.entries[slot];
	struct block_id id = {atomic_load(&entry->id_low), atomic_load(&entry->id_high)};
	struct model_name *name = name_of(model, id);
	uint64_t generation = atomic_load(&entry->name_generation);
	uint32_t at = realm->index.ssd_at[slot];

	REQUIRE(name->id.low == id.low && name->id.high == id.high);
	REQUIRE(name->seen != model->look); /* one slot a name */
	name->seen = model->look;
	if (name->generation != generation) {
		name->durable = false;
		name->since = 0;
	}
	name->generation = generation;
	if (!name->since && index_state(realm, slot) == ENTRY_PRESENT)
		name->since = model->look;
	/* It may stand again elsewhere, but it did not all the time. */
	if (at == SSD_NONE)
		name->durable = false;
	name->at = at;
}

/* Where a device took a block's record what stands below it cannot be found either. */
static void children_look(struct model *model, struct realm *realm)
{
	const struct index *index = &realm->index;

	for (uint32_t slot = 0; slot < index->head->slot_count; slot++) {
		uint32_t at = slot;
		bool durable = true;

		if (!atomic_load(&index->entries[slot].name_generation))
			continue;
		while (durable && at < index->head->slot_count) {
			const struct index_entry *entry = &index->entries[at];

			durable = name_of(model, (struct block_id){atomic_load(&entry->id_low),
							 atomic_load(&entry->id_high)})
					  ->durable;
			at = atomic_load(&entry->parent_slot);
		}
		if (!durable)
			name_of(model, (struct block_id){atomic_load(&index->entries[slot].id_low),
					       atomic_load(&index->entries[slot].id_high)})
				->durable = false;
	}
}

uint64_t model_look(struct model *model, struct realm *realm)
{
	uint64_t left = left_counted(realm), gone = 0;

	model->look++;
	excuses_look(model, realm);
	for (uint32_t slot = 0; slot < realm->index.head->slot_count; slot++)
		if (atomic_load(&realm->index.entries[slot].name_generation))
			slot_look(model, realm, slot);
	if (model->has_failed)
		children_look(model, realm);
	for (uint32_t i = 0; i < MODEL_NAMES_MAX; i++) {
		struct model_name *name = &model->names[i];

		if (!name->generation || name->seen == model->look)
			continue;
		gone++;
		name->generation = name->since = 0;
		name->durable = false;
	}
	REQUIRE(gone <= left - model->left);
	model->left = left;
	return model->look;
}

void model_durable(struct model *model, struct realm *realm, uint64_t look,
	const uint64_t versions[MODEL_SPACES])
{
	model_look(model, realm);
	/* Answered before a device was lost, heard of after it. */
	if (model->excused_at > look)
		return;
	for (uint32_t i = 0; i < MODEL_NAMES_MAX; i++) {
		struct model_name *name = &model->names[i];

		name->durable |= name->since && name->since <= look;
	}
	for (unsigned i = 0; i < MODEL_SPACES; i++)
		if (model->spaces[i].version == versions[i])
			model->spaces[i].durable_version = versions[i];
}

void model_restarted(struct model *model, struct realm *realm, bool ledger)
{
	uint64_t before = model->look++;
	bool excused = model->has_lied;

	/* The dead come back without a ledger, and with one where a table failed: then there may be
	 * too many names, or no room. */
	excused |= (!ledger || model->has_failed) && !realm->index.free_count;
	excused |= !ledger && realm->counters[REALM_COUNTER_blocks_removed];
	model->left = left_counted(realm);
	model->lost = losses(realm);
	for (unsigned i = 0; i < MODEL_SPACES; i++) {
		struct model_space *space = &model->spaces[i];

		/* Where nothing of it was durable the space is not known any more. */
		space_look(realm, i, space);
		if (!excused)
			REQUIRE(space->version >= space->durable_version);
	}
	for (uint32_t slot = 0; slot < realm->index.head->slot_count; slot++) {
		const struct index_entry *entry = &realm->index.entries[slot];
		struct model_name *name;
		bool stood;

		if (!atomic_load(&entry->name_generation))
			continue;
		REQUIRE_EQ(index_state(realm, slot), ENTRY_PRESENT);
		name = name_of(model, (struct block_id){atomic_load(&entry->id_low),
					      atomic_load(&entry->id_high)});
		REQUIRE(name->id.low | name->id.high);
		REQUIRE(name->seen <= before);
		stood = name->seen == before && name->since;
		if (ledger && !model->has_lied && !model->has_failed)
			REQUIRE(stood);
		name->seen = model->look;
		name->generation = atomic_load(&entry->name_generation);
		name->since = model->look;
		name->at = realm->index.ssd_at[slot];
		model->durables += name->durable;
	}
	for (uint32_t i = 0; i < MODEL_NAMES_MAX; i++) {
		struct model_name *name = &model->names[i];

		if (name->seen == model->look)
			continue;
		REQUIRE(!name->durable || excused);
		name->generation = name->since = 0;
		name->durable = false;
	}
}

void model_limits(const struct model *model, const struct realm *realm, bool ledger)
{
	uint64_t max = ssd_live_max(realm->ssd.log) / SSD_UNIT_BYTES, over = MODEL_SPACES;
	struct dram_status dram;

	dram_status_get(realm->dram, &dram);
	REQUIRE(dram.used_bytes <= dram.bytes);
	/* A record that is moved counts twice meanwhile. */
	list_each (node, &realm->ssd.jobs_busy) {
		const struct ssd_job *job = list_item(node, struct ssd_job, link);

		if (job->from != SSD_NONE)
			over += job->put.units;
	}
	/* Without a ledger the dead come back at a restart; a fence lowers the limit. */
	if (ledger && !model->has_failed)
		REQUIRE(realm->ssd.live_units <= max + over);
}
