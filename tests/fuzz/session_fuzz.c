/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session page in the hands of a client that writes what it likes there: messages, scratch, pin
 * table, cursors, at any moment between two turns of the keeper. Whatever it does, the keeper goes
 * on, a client of another realm finds its blocks as they were, one of the same realm keeps the
 * bytes it pinned, and when the client has ended nothing of it is left.
 *
 * The input is a list of acts: one byte says which, what follows is its argument; missing bytes
 * count as 0. Where the first byte is 128 or more the realms have an ssd.
 */
#include "tests/fuzz/fuzz.h"
#include "tests/store/play.h"

enum act {
	ACT_MESSAGE, /* 64 bytes: a submission as it is */
	ACT_SCRATCH, /* offset (3), length (1), bytes */
	ACT_PIN,     /* cell (1), slot (4), generation (1: 0, of that slot, or 8 bytes more) */
	ACT_CURSOR,  /* which (1), value (4) */
	ACT_TURN,    /* the keeper's: milliseconds (1) */
	ACT_RESERVE, /* a sound request: space (1), path (4), count (1), part (1) */
	ACT_COMMIT,  /* of what was reserved: how (1) */
	ACT_TAKE,    /* takes completions, so that their ring does not fill */
	ACT_SUMS,    /* the mover does some work: jobs (1) */
	ACT_NAMED,   /* a submission (64) whose slot and generation are of a living block (1) */
	ACT_STOP,    /* its socket closes */
	ACT_DEVICE,  /* the ssd does some transfers: requests (1) */
	ACT_LOAD,    /* a sound request: space (1), path (4), count (1), cell (1) */
	ACT_COUNT,
};

enum { RESERVED_MAX = 16, SPACES = 3, SSD_BYTES = 8 << 20 };

static const struct sim_space kinds[SPACES] = {
	{.name = "one", .block_tokens = 4, .part_count = 1, .bytes = {4096}, .ranges = {1}},
	{.name = "two",
		.block_tokens = 4,
		.part_count = 2,
		.bytes = {8192, 4096},
		.ranges = {2, 1}},
	{.name = "keys",
		.block_tokens = 4,
		.part_count = 1,
		.bytes = {16384},
		.ranges = {1},
		.opaque = true},
};

static struct {
	const uint8_t *at;
	size_t left;
	struct sim sim;
	struct sim_client fiend, friend, stranger; /* the last is of another realm */
	struct play_space spaces[SPACES], friends, strangers;
	struct play_chain chain, held;
	struct play_match match;
	struct sim_written written[RESERVED_MAX];
	uint32_t written_count;
} fuzz;

static void input_take(void *to, size_t bytes)
{
	size_t have = MIN_OF(bytes, fuzz.left);

	memset(to, 0, bytes);
	memcpy(to, fuzz.at, have);
	fuzz.at += have;
	fuzz.left -= have;
}

static uint32_t input_number(size_t bytes)
{
	uint32_t number = 0;

	input_take(&number, bytes);
	return number;
}

/* The next message as it is, whatever stands in it. */
static void push_raw(const struct submission *message)
{
	struct page_head *head = sim_page(&fuzz.fiend);
	struct sim_client *client = &fuzz.fiend;

	memcpy(client->page + page_submissions_at() +
			(size_t)(client->tail % PAGE_SUBMISSIONS) * PAGE_MESSAGE_BYTES,
		message, sizeof(*message));
	atomic_store(&head->submission_tail.value, ++client->tail);
}

static void act_message(void)
{
	struct submission message;

	input_take(&message, sizeof(message));
	push_raw(&message);
}

/* A message about a block that stands: else nearly all would be about none. */
static void act_named(void)
{
	struct realm *realm = fuzz.sim.realm;
	uint32_t slot = input_number(1) % realm->index.head->slot_count;
	struct submission message;

	input_take(&message, sizeof(message));
	message.op = message.op % (SUBMIT_ASKS + 1);
	message.queue = 0;
	message.slot = slot;
	message.generation = message.op == SUBMIT_TOUCH || message.op == SUBMIT_QUARANTINE
				     ? atomic_load(&realm->index.entries[slot].frame_generation)
				     : atomic_load(&realm->index.entries[slot].name_generation);
	if (message.op == SUBMIT_WITHDRAW) {
		struct hbm_part part = {.slot = slot, .name_generation = message.generation};

		memcpy(sim_scratch(&fuzz.fiend, 0), &part, sizeof(part));
		message.scratch_at = 0;
		message.scratch_bytes = sizeof(part);
		message.count = 1;
		message.u.other.kind %= 2;
	}
	push_raw(&message);
}

static void act_scratch(void)
{
	uint32_t at = input_number(3) % PAGE_SCRATCH_BYTES, bytes = input_number(1);

	input_take(sim_scratch(&fuzz.fiend, at), MIN_OF(bytes, PAGE_SCRATCH_BYTES - at));
}

static void act_pin(void)
{
	struct pin_cell *cell = &sim_pins(&fuzz.fiend)[input_number(1)];
	uint32_t slot = input_number(4), how = input_number(1);
	uint64_t generation = 0;

	if (how == 1 && slot < fuzz.sim.realm->index.head->slot_count)
		generation = atomic_load(&fuzz.sim.realm->index.entries[slot].frame_generation);
	else if (how > 1)
		input_take(&generation, sizeof(generation));
	atomic_store(&cell->slot, slot);
	atomic_store(&cell->generation, generation);
}

static void act_cursor(void)
{
	struct page_head *head = sim_page(&fuzz.fiend);
	uint32_t which = input_number(1), value = input_number(4);

	switch (which % 8) {
	case 0:
		atomic_store(&head->submission_tail.value, value);
		break;
	case 1:
		atomic_store(&head->submission_head.value, value);
		break;
	case 2:
		atomic_store(&head->completion_head[which / 8 % PAGE_QUEUES].value, value);
		break;
	case 3:
		atomic_store(&head->completion_tail[which / 8 % PAGE_QUEUES].value, value);
		break;
	case 4:
		atomic_store(&head->pins_used, value);
		break;
	case 5:
		atomic_store(&head->waiters, value);
		break;
	case 6:
		/* What the daemon wrote there once it never reads again. */
		head->scratch_at = head->pins_at = value;
		head->magic = value;
		break;
	default:
		atomic_store(&head->daemon_asleep, value);
	}
}

/* Answers to the last sound reservation, as far as they look sound. */
static void completions_take(void)
{
	const struct reserve_block *blocks = sim_scratch(&fuzz.fiend, 0);
	struct completion done;

	for (unsigned i = 0; i < PAGE_COMPLETIONS && sim_take(&fuzz.fiend, 0, &done); i++)
		for (int32_t b = 0; b < done.status && b < RESERVED_MAX; b++)
			if (blocks[b].status == 0 && blocks[b].write &&
				fuzz.written_count < RESERVED_MAX)
				fuzz.written[fuzz.written_count++] =
					(struct sim_written){.slot = blocks[b].slot,
						.ranges = 1,
						.write = blocks[b].write};
}

static void act_reserve(void)
{
	struct play_space *space = &fuzz.spaces[input_number(1) % SPACES];
	uint32_t path[8], seed = input_number(4), count = 1 + input_number(1) % 8;
	struct sim_put put = {.chain = &fuzz.chain.probe,
		.count = count,
		.part = input_number(1),
		.space_generation = space->answer.generation,
		.deadline_ns = fuzz.sim.keeper->now_ns + seed % 3 * NS_PER_MS};

	for (uint32_t i = 0; i < count; i++)
		path[i] = seed >> (4 * i) & 15;
	play_chain_make(&fuzz.chain, &fuzz.sim, space, path, count);
	if (put.part & 128) { /* it has them in GPU memory, or says so */
		sim_announce(&fuzz.fiend, &put);
		return;
	}
	put.part %= space->kind->part_count;
	sim_reserve(&fuzz.fiend, &put);
}

static void act_commit(void)
{
	uint32_t how = input_number(1), count = MIN_OF(fuzz.written_count, 1 + how % 4);
	struct commit_part *parts = sim_scratch(&fuzz.fiend, PAGE_SCRATCH_BYTES / 2);
	struct submission message = {.op = how & 64 ? SUBMIT_ABORT : SUBMIT_COMMIT,
		.scratch_at = PAGE_SCRATCH_BYTES / 2,
		.count = count,
		.scratch_bytes = (uint32_t)(count * (sizeof(*parts) + 16)),
		.u.other.kind = how >> 7};

	for (uint32_t i = 0; i < count; i++) {
		const struct sim_written *written = &fuzz.written[--fuzz.written_count];

		parts[i] = (struct commit_part){.slot = written->slot,
			.part = (uint16_t)(how >> 4 & 1),
			.ranges = (uint16_t)(1 + (how >> 5 & 1)),
			.write = written->write};
	}
	push_raw(&message);
}

/* A run of names, as far as there are any, from whatever tier. */
static void act_load(void)
{
	struct play_space *space = &fuzz.spaces[input_number(1) % SPACES];
	uint32_t path[8], seed = input_number(4), count = 1 + input_number(1) % 8, named;
	struct load_part *parts = sim_scratch(&fuzz.fiend, 0);
	struct submission message = {.op = SUBMIT_LOAD,
		.queue = 0,
		.deadline_ns = fuzz.sim.keeper->now_ns + seed % 5 * NS_PER_MS,
		.u.other.kind = input_number(1),
		.u.other.flags = seed >> 31};
	struct probe_name names[8];

	for (uint32_t i = 0; i < count; i++)
		path[i] = seed >> (4 * i) & 15;
	play_chain_make(&fuzz.chain, &fuzz.sim, space, path, count);
	named = probe_names(&fuzz.sim.realm->index.view, &fuzz.chain.probe, count, names);
	memset(parts, 0, count * sizeof(*parts));
	for (uint32_t i = 0; i < named; i++)
		parts[i] = (struct load_part){
			.slot = names[i].slot, .name_generation = names[i].name_generation};
	message.count = count;
	message.scratch_bytes = (uint32_t)(count * sizeof(*parts));
	atomic_store(&sim_page(&fuzz.fiend)->pins_used, PAGE_PINS);
	sim_push(&fuzz.fiend, &message);
}

static void act(void)
{
	switch (input_number(1) % ACT_COUNT) {
	case ACT_MESSAGE:
		act_message();
		break;
	case ACT_SCRATCH:
		act_scratch();
		break;
	case ACT_PIN:
		act_pin();
		break;
	case ACT_CURSOR:
		act_cursor();
		break;
	case ACT_TURN:
		fuzz.sim.keeper->now_ns += input_number(1) * NS_PER_MS;
		keeper_round(fuzz.sim.keeper, 16);
		keeper_tick(fuzz.sim.keeper);
		break;
	case ACT_RESERVE:
		act_reserve();
		break;
	case ACT_COMMIT:
		act_commit();
		break;
	case ACT_TAKE:
		completions_take();
		break;
	case ACT_SUMS:
		sim_sums_run(&fuzz.sim, input_number(1));
		break;
	case ACT_NAMED:
		act_named();
		break;
	case ACT_DEVICE:
		sim_devices_run(&fuzz.sim, 1 + input_number(1));
		break;
	case ACT_LOAD:
		act_load();
		break;
	default:
		session_stop(fuzz.fiend.session);
	}
}

/* What must hold for the others at any time. */
static void others_check(void)
{
	static struct play_match match;

	SKEP_CHECK(!fuzz.friend.session->stopped && !fuzz.stranger.session->stopped);
	SKEP_CHECK(play_match_holds(&fuzz.friend, &fuzz.held, &fuzz.match));
	play_chain_make(&fuzz.chain, &fuzz.sim, &fuzz.strangers, (const uint32_t[]){1, 2, 3}, 3);
	play_match_pin(&fuzz.stranger, &fuzz.chain, 0, &match);
	SKEP_CHECK(match.count == 3);
	pin_clear(&sim_pins(&fuzz.stranger)[0]);
	SKEP_CHECK(fuzz.sim.realms[1]->counters[REALM_COUNTER_blocks_evicted] == 0 &&
		   fuzz.sim.realms[1]->counters[REALM_COUNTER_blocks_removed] == 0);
}

/* Fresh pages cost more than all the rest: these are zeroed as far as anybody reads what he has not
 * written. */
static void page_open(unsigned realm, struct sim_client *client)
{
	static _Alignas(4096) uint8_t pages[3][5 << 19];
	uint8_t *page = pages[client == &fuzz.fiend ? 0 : client == &fuzz.friend ? 1 : 2];

	REQUIRE(page_bytes() <= sizeof(pages[0]));
	memset(page, 0, page_scratch_at() + 4096);
	memset(page + page_scratch_at() + PAGE_SCRATCH_BYTES / 2, 0, 4096);
	REQUIRE_EQ(sim_client_open_at(fuzz.sim.realms[realm], page, client), 0);
}

static void world_open(bool ssd)
{
	struct sim_options options = {.dram_bytes = 2 << 20,
		/* With an ssd what is loaded must have left DRAM before. */
		.use_max = (ssd ? 12 : 24) * 4096,
		.index_blocks = ssd ? 36 : 24,
		.record_bytes = 256 << 10,
		.age_limit_ns = 50 * NS_PER_MS,
		.realms = 2,
		.movers = true,
		.ssd = {.bytes = ssd ? SSD_BYTES : 0}};

	REQUIRE_EQ(sim_create(&fuzz.sim, &options), 0);
	page_open(0, &fuzz.fiend);
	page_open(0, &fuzz.friend);
	page_open(1, &fuzz.stranger);
	for (unsigned i = 0; i < SPACES; i++)
		play_space_open(&fuzz.fiend, &kinds[i], &fuzz.spaces[i]);
	play_space_open(&fuzz.friend, &kinds[0], &fuzz.friends);
	play_space_open(&fuzz.stranger, &kinds[0], &fuzz.strangers);
	play_chain_make(&fuzz.chain, &fuzz.sim, &fuzz.strangers, (const uint32_t[]){1, 2, 3}, 3);
	play_put_blocks(&fuzz.sim, &fuzz.stranger, &fuzz.chain, (struct probe_want){0, 3});
	play_chain_make(&fuzz.held, &fuzz.sim, &fuzz.friends, (const uint32_t[]){1, 2, 3}, 3);
	play_put_blocks(&fuzz.sim, &fuzz.friend, &fuzz.held, (struct probe_want){0, 3});
	play_match_pin(&fuzz.friend, &fuzz.held, 0, &fuzz.match);
	sim_run(&fuzz.sim);
	SKEP_CHECK(fuzz.match.count == 3);
	fuzz.written_count = 0;
}

static void world_close(void)
{
	others_check();
	sim_client_close(&fuzz.fiend, false);
	others_check();
	sim_sums_run(&fuzz.sim, SIM_JOBS_MAX);
	sim_sums_run(&fuzz.sim, SIM_JOBS_MAX);
	sim_client_close(&fuzz.friend, true);
	sim_client_close(&fuzz.stranger, true);
	for (unsigned i = 0; i < 8; i++) {
		fuzz.sim.keeper->now_ns += NS_PER_S;
		sim_run(&fuzz.sim);
	}
	play_nothing_leaks(&fuzz.sim, fuzz.sim.realms[0]);
	play_nothing_leaks(&fuzz.sim, fuzz.sim.realms[1]);
	sim_destroy(&fuzz.sim);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	fuzz.at = data;
	fuzz.left = bytes;
	world_open(bytes && data[0] >= 128);
	while (fuzz.left)
		act();
	sim_run(&fuzz.sim);
	world_close();
	return 0;
}
