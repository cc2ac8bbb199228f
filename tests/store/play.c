/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/store/play.h"

#include "base/bits.h"

void play_space_open(
	struct sim_client *client, const struct sim_space *kind, struct play_space *space)
{
	space->kind = kind;
	REQUIRE_EQ(sim_space_open(client, kind, &space->answer), 0);
}

void play_chain_make(struct play_chain *chain, const struct sim *sim,
	const struct play_space *space, const uint32_t *path, uint32_t count)
{
	uint32_t tokens = space->kind->block_tokens;
	struct block_id parent = {0, 0};

	REQUIRE(count <= PLAY_BLOCKS_MAX && tokens <= PLAY_TOKENS_MAX);
	chain->space = space;
	chain->probe = (struct probe_chain){.ids = chain->ids,
		.tokens = chain->tokens,
		.block_tokens = tokens,
		.block_count = count,
		.space = space->answer.space};
	for (uint32_t i = 0; i < count; i++) {
		struct id_input in;

		for (uint32_t t = 0; t < tokens; t++)
			chain->tokens[i * tokens + t] = path[i] * 64 + t;
		in = probe_input(&chain->probe, i);
		chain->ids[i] = id_make(space->answer.secret, parent, &in, sim->keeper->id_bits);
		parent = chain->ids[i];
	}
}

/* ------------------------------------------------------------------------------- putting */

bool play_reserve_answered(struct sim_client *client, const struct play_put *put,
	struct play_reserved *reserved, int32_t *status)
{
	const struct reserve_block *blocks = sim_scratch(client, 0);
	const struct sim_space *kind = put->chain->space->kind;
	struct completion done;

	if (!sim_take(client, 0, &done))
		return false;
	*status = done.status;
	reserved->count = 0;
	for (int32_t i = 0; i < done.status; i++) {
		reserved->status[i] = blocks[i].status;
		if (blocks[i].status)
			continue;
		reserved->written[reserved->count++] =
			(struct sim_written){.id = put->chain->ids[put->first + (uint32_t)i],
				.slot = blocks[i].slot,
				.part = put->part,
				.ranges = kind->ranges[put->part] ? kind->ranges[put->part] : 1,
				.write = blocks[i].write,
				.frame = blocks[i].frame,
				.bytes = blocks[i].bytes};
	}
	return true;
}

int32_t play_reserve(struct sim *sim, struct sim_client *client, const struct play_put *put,
	struct play_reserved *reserved)
{
	struct sim_put ask = {.chain = &put->chain->probe,
		.first = put->first,
		.count = put->count,
		.part = put->part,
		.length = put->length,
		.space_generation = put->chain->space->answer.generation,
		.deadline_ns = put->deadline_ns};
	int32_t status;

	REQUIRE(sim_reserve(client, &ask));
	sim_run(sim);
	if (play_reserve_answered(client, put, reserved, &status))
		return status;
	reserved->count = UINT32_MAX;
	return PLAY_BLOCKED;
}

void play_fill(const struct realm *realm, const struct sim_written *written, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		payload_fill(dram_at(realm->dram, written[i].frame), written[i].bytes & ~7ull,
			written[i].id, written[i].part);
}

int32_t play_commit(struct sim *sim, struct sim_client *client, const struct sim_written *written,
	uint32_t count)
{
	struct completion done;

	REQUIRE(sim_commit(client, written, count));
	sim_run(sim);
	REQUIRE(sim_take(client, 0, &done));
	return done.status;
}

int32_t play_commit_status(const struct sim_client *client, uint32_t i)
{
	const struct commit_part *parts = sim_scratch(client, PAGE_SCRATCH_BYTES / 2);

	return parts[i].status;
}

uint32_t play_put_blocks(struct sim *sim, struct sim_client *client, struct play_chain *chain,
	struct probe_want want)
{
	struct play_put put = {.chain = chain, .first = want.first, .count = want.count};
	static struct play_reserved reserved;
	uint32_t blocks = want.count;

	for (; put.part < chain->space->kind->part_count && put.count; put.part++) {
		int32_t answered = play_reserve(sim, client, &put, &reserved);

		REQUIRE(reserved.count != UINT32_MAX);
		if (answered < 0)
			return 0;
		put.count = blocks = (uint32_t)answered;
		play_fill(client->session->realm, reserved.written, reserved.count);
		REQUIRE_EQ(
			play_commit(sim, client, reserved.written, reserved.count), reserved.count);
	}
	return blocks;
}

/* ------------------------------------------------------------------------------- matching */

bool play_match_holds(const struct sim_client *client, const struct play_chain *chain,
	const struct play_match *match)
{
	const struct realm *realm = client->session->realm;

	for (uint32_t i = 0; i < match->count; i++)
		for (uint32_t p = 0; p < chain->space->kind->part_count; p++) {
			const struct index_part *part =
				probe_part(&realm->index.view, match->names[i].slot, p);
			uint32_t frame;

			if (!part)
				return false;
			frame = atomic_load(&part->frame);
			if (frame == FRAME_NONE ||
				!payload_holds(
					dram_at(realm->dram, (uint64_t)frame * FRAME_GRANULE_BYTES),
					atomic_load(&part->bytes) & ~7u, chain->ids[i], p))
				return false;
		}
	return true;
}

void play_match_pin(struct sim_client *client, const struct play_chain *chain, unsigned cell,
	struct play_match *match)
{
	const struct index_view *view = &client->session->realm->index.view;
	uint32_t asked = chain->probe.block_count;
	struct submission message = {
		.op = SUBMIT_TOUCH,
		.u.touch = {.asked = asked,
			.reason = SKEP_REASON_ABSENT,
			.space = (uint16_t)chain->probe.space},
	};
	uint32_t used = atomic_load(&sim_page(client)->pins_used);

	atomic_store(&sim_page(client)->pins_used, MAX_OF(used, cell + 1));
	match->count =
		probe_run(view, &chain->probe, (struct probe_want){0, asked}, match->names, NULL);
	match->count = pin_run(view, &sim_pins(client)[cell], match->names, match->count);
	REQUIRE(play_match_holds(client, chain, match));
	message.u.touch.matched = match->count;
	if (match->count) {
		message.slot = match->names[match->count - 1].slot;
		message.generation = match->names[match->count - 1].frame_generation;
	}
	if (match->count < asked)
		message.u.touch.missing_low = chain->ids[match->count].low;
	REQUIRE(sim_push(client, &message));
}

uint32_t play_named(const struct sim_client *client, const struct play_chain *chain)
{
	static struct probe_name names[PLAY_BLOCKS_MAX];

	return probe_names(
		&client->session->realm->index.view, &chain->probe, PLAY_BLOCKS_MAX, names);
}

uint32_t play_present(const struct sim_client *client, const struct play_chain *chain)
{
	static struct probe_name names[PLAY_BLOCKS_MAX];

	return probe_run(&client->session->realm->index.view, &chain->probe,
		(struct probe_want){0, PLAY_BLOCKS_MAX}, names, NULL);
}

void play_block_check(struct realm *realm, uint32_t slot, const struct sim_space *kind,
	struct block_id id, uint32_t ranges)
{
	for (uint32_t p = 0; p < kind->part_count; p++) {
		const struct index_part *part = probe_part(&realm->index.view, slot, p);
		uint64_t share = kind->bytes[p] / kind->ranges[p];
		uint64_t bytes = share * MIN_OF(ranges, kind->ranges[p]);

		REQUIRE(part != NULL && atomic_load(&part->frame) != FRAME_NONE);
		REQUIRE_EQ(atomic_load(&part->bytes), kind->bytes[p]);
		REQUIRE(payload_holds(dram_at(realm->dram, (uint64_t)atomic_load(&part->frame) *
								   FRAME_GRANULE_BYTES),
			bytes, id, p));
	}
}

/* Its blocks are gone: what lives on the ssd are the records of spaces. */
static void ssd_leaks_none(const struct realm *realm)
{
	uint64_t spaces = 0;

	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++)
		spaces += realm->spaces[i].ssd_at != SSD_NONE;
	REQUIRE_EQ(realm->ssd.blocks, 0);
	REQUIRE_EQ(realm->ssd.live_units, spaces);
	REQUIRE(list_empty(&realm->ssd.jobs_busy));
	REQUIRE(list_empty(&realm->ssd.loads_live));
	REQUIRE(list_empty(&realm->ssd.syncs_live));
	for (unsigned i = 0; i < SYNC_EPOCHS; i++)
		REQUIRE_EQ(realm->ssd.unwritten[i], 0);
}

void play_nothing_leaks(struct sim *sim, struct realm *realm)
{
	struct dram_status dram;
	struct slab_stats records;

	REQUIRE_EQ(realm->reservation_count, 0);
	REQUIRE_EQ(realm->pending_count, 0);
	REQUIRE_EQ(realm->wait_count, 0);
	REQUIRE_EQ(realm->slot_count_by_state[ENTRY_PENDING], 0);
	sim_settle(sim);
	/* What is just being moved cannot go. */
	for (unsigned i = 0; i < (realm->ssd.log ? 4 : 1); i++) {
		evict_blocks(realm, UINT32_MAX);
		sim_settle(sim);
	}
	play_books_agree(realm);
	if (realm->ssd.log)
		ssd_leaks_none(realm);
	dram_status_get(realm->dram, &dram);
	slab_stats_get(realm->index.records, &records);
	REQUIRE_EQ(realm->slot_count_by_state[ENTRY_REMOVED], 0);
	REQUIRE_EQ(realm->slot_count_by_state[ENTRY_PRESENT], 0);
	REQUIRE_EQ(realm->hbm.count, 0);
	REQUIRE_EQ(realm->slot_count_by_state[ENTRY_FREE], realm->index.head->slot_count);
	REQUIRE_EQ(dram.used_bytes, 0);
	REQUIRE_EQ(records.live, 0);
	REQUIRE_EQ(realm->index.free_count, realm->index.head->slot_count);
	REQUIRE_EQ(realm->removed.count, 0);
	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++)
		REQUIRE_EQ(realm->spaces[i].blocks, 0);
}

/* ------------------------------------------------------------------------------- a stage */

void play_open(struct play *play, const struct sim_options *options, const struct sim_space *kind,
	unsigned clients)
{
	memset(play, 0, sizeof(*play));
	REQUIRE_EQ(sim_create(&play->sim, options), 0);
	play->realm = play->sim.realm;
	play->client_count = clients;
	for (unsigned i = 0; i < clients; i++) {
		REQUIRE_EQ(sim_client_open(&play->sim, play->realm, &play->clients[i]), 0);
		play_space_open(&play->clients[i], kind, &play->space);
	}
}

void play_restart(struct play *play, bool cut)
{
	bool open[PLAY_CLIENTS_MAX];

	for (unsigned i = 0; i < play->client_count; i++)
		open[i] = play->clients[i].session != NULL;
	REQUIRE_EQ(sim_restart(&play->sim, cut), 0);
	play->realm = play->sim.realm;
	for (unsigned i = 0; i < play->client_count; i++) {
		if (!open[i])
			continue;
		sim_client_forget(&play->clients[i]);
		REQUIRE_EQ(sim_client_open(&play->sim, play->realm, &play->clients[i]), 0);
		play_space_open(&play->clients[i], play->space.kind, &play->space);
	}
}

void play_client_end(struct play *play, unsigned client, bool bye)
{
	sim_client_close(&play->clients[client], bye);
	sim_run(&play->sim);
}

void play_close(struct play *play)
{
	for (unsigned i = 0; i < play->client_count; i++)
		if (play->clients[i].session)
			play_client_end(play, i, true);
	sim_settle(&play->sim);
	play_later(play, 3600 * NS_PER_S);
	play_nothing_leaks(&play->sim, play->realm);
	REQUIRE_EQ(play->realm->session_count, 0);
	REQUIRE_EQ(play->sim.job_count, 0);
	sim_destroy(&play->sim);
}

void play_later(struct play *play, uint64_t ns)
{
	uint64_t next;

	play->sim.keeper->now_ns += ns;
	do {
		sim_run(&play->sim);
		next = keeper_tick(play->sim.keeper);
	} while (next <= play->sim.keeper->now_ns);
}

void play_chain(struct play *play, struct play_chain *chain, const uint32_t *path)
{
	uint32_t count = 0;

	while (path[count])
		count++;
	play_chain_make(chain, &play->sim, &play->space, path, count);
}

struct completion play_take(struct play *play, unsigned client)
{
	struct completion done;

	REQUIRE(sim_take(&play->clients[client], 0, &done));
	return done;
}

void play_take_none(struct play *play, unsigned client)
{
	struct completion done;

	REQUIRE(!sim_take(&play->clients[client], 0, &done));
}

uint64_t play_counter(const struct play *play, enum realm_counter counter)
{
	return play->realm->counters[counter];
}

uint64_t play_used_bytes(const struct play *play)
{
	struct dram_status dram;

	dram_status_get(play->realm->dram, &dram);
	return dram.used_bytes;
}
