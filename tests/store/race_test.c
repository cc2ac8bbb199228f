/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matches racing with eviction, removal, class changes and reuse: never wrong bytes.
 *
 * A keeper runs in its own thread over a pool far smaller than what is asked for. Clients probe,
 * pin, check every byte, hold, hand references to each other, put what is missing with plain stores
 * into their frames. With threads all of it lies in one mapping, so that a race of plain accesses
 * shows under TSan; with processes each client maps index and pool by itself, as engines do, and is
 * killed now and then.
 *
 *	store_race_test [threads | processes] [SECONDS [SEED]]
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "tests/store/play.h"
#include "tiering/dram/sum.h"

enum {
	CLIENTS = 3,
	SPACES = 2,
	DEPTH = 8,
	TOKENS = 4,
	CELLS = 3,
	REFS = 8,
};

/* Six slabs for frames of three sizes: they change hands all the time. */
#define POOL_BYTES (12u << 20)

static const struct sim_space kinds[SPACES] = {
	{.name = "small", .block_tokens = TOKENS, .part_count = 1, .bytes = {16384}, .ranges = {1}},
	{.name = "parts",
		.block_tokens = TOKENS,
		.part_count = 2,
		.bytes = {49152, 8192},
		.ranges = {3, 1}},
};

/* A run that somebody holds pinned or held: plain data that anybody may pin again. */
struct run {
	uint32_t space, count;
	struct probe_name names[DEPTH];
	struct block_id ids[DEPTH];
};

/* What clients see of each other, in memory that all of them share. */
struct shared {
	_Atomic bool stop;
	struct refs {
		_Atomic uint32_t version; /* odd while it is written */
		_Atomic uint64_t words[sizeof(struct run) / 8];
	} refs[REFS];
	_Atomic uint64_t had, put, lost, refs_had, matches;
};

struct chain {
	struct probe_chain probe;
	uint32_t tokens[DEPTH * TOKENS];
	struct block_id ids[DEPTH];
	uint32_t space;
};

/* A put under way; matching goes on meanwhile. */
struct put {
	enum { PUT_NONE, PUT_RESERVING, PUT_COMMITTING } stage;
	struct chain chain;
	uint32_t first, part;
	uint32_t answers_left;
	struct sim_written written[DEPTH];
};

struct client {
	struct sim_client sim;
	struct put put;
	struct index_view view;
	const uint8_t *pool;
	uint8_t *pool_writable;
	struct play_space spaces[SPACES];
	uint64_t random;
	uint32_t id_bits;
	struct run held[CELLS];
};

static struct sim sim;
static struct shared *shared;
static struct client clients[CLIENTS];

_Static_assert(sizeof(struct run) % 8 == 0, "handed over in words");

static uint32_t pick(struct client *client, uint32_t range)
{
	return unit_random(&client->random, range);
}

/* ---------------------------------------------------------------------------------- clients */

/* A random path in a narrow tree: chains share heads and come again. */
static void chain_make(struct client *client, struct chain *chain)
{
	struct block_id parent = {0, 0};
	uint32_t path = 0, length = 1 + pick(client, DEPTH);

	chain->space = pick(client, SPACES);
	chain->probe = (struct probe_chain){.ids = chain->ids,
		.tokens = chain->tokens,
		.block_tokens = TOKENS,
		.block_count = length,
		.space = client->spaces[chain->space].answer.space};
	for (uint32_t i = 0; i < length; i++) {
		struct id_input in;

		path = path * 3 + pick(client, i < 3 ? 3 : 2) + 1;
		for (uint32_t t = 0; t < TOKENS; t++)
			chain->tokens[i * TOKENS + t] = path * 7 + t;
		in = probe_input(&chain->probe, i);
		chain->ids[i] = parent = id_make(
			client->spaces[chain->space].answer.secret, parent, &in, client->id_bits);
	}
}

static void run_check(const struct client *client, const struct run *run)
{
	const struct sim_space *kind = &kinds[run->space];

	for (uint32_t i = 0; i < run->count; i++)
		for (uint32_t p = 0; p < kind->part_count; p++) {
			const struct index_part *part =
				probe_part(&client->view, run->names[i].slot, p);
			uint32_t frame;

			REQUIRE(part);
			frame = atomic_load_explicit(&part->frame, memory_order_relaxed);
			REQUIRE((uint64_t)frame * FRAME_GRANULE_BYTES + kind->bytes[p] <=
				POOL_BYTES);
			REQUIRE(payload_holds(client->pool + (uint64_t)frame * FRAME_GRANULE_BYTES,
				kind->bytes[p], run->ids[i], p));
		}
}

static void release(struct client *client, unsigned cell)
{
	struct run *held = &client->held[cell];

	if (!held->count)
		return;
	run_check(client, held); /* to the last moment */
	pin_clear(&sim_pins(&client->sim)[cell]);
	held->count = 0;
}

/* Offers the references of a pinned run to everybody. A writer who finds another one goes on. */
static void refs_give(struct client *client, const struct run *run)
{
	struct refs *refs = &shared->refs[pick(client, REFS)];
	uint32_t version = atomic_load(&refs->version);
	uint64_t words[sizeof(*run) / 8];

	if (version % 2 || !atomic_compare_exchange_strong(&refs->version, &version, version + 1))
		return;
	memcpy(words, run, sizeof(*run));
	for (unsigned i = 0; i < ARRAY_COUNT(words); i++)
		atomic_store_explicit(&refs->words[i], words[i], memory_order_relaxed);
	atomic_store(&refs->version, version + 2);
}

static bool refs_take(struct client *client, struct run *run)
{
	struct refs *refs = &shared->refs[pick(client, REFS)];
	uint32_t version = atomic_load(&refs->version);
	uint64_t words[sizeof(*run) / 8];

	for (unsigned i = 0; i < ARRAY_COUNT(words); i++)
		words[i] = atomic_load_explicit(&refs->words[i], memory_order_acquire);
	if (version % 2 || !version || atomic_load(&refs->version) != version)
		return false;
	memcpy(run, words, sizeof(*run));
	return run->count > 0;
}

static void touch(struct client *client, const struct chain *chain, const struct run *run)
{
	struct submission message = {.op = SUBMIT_TOUCH,
		.u.touch = {.asked = chain->probe.block_count,
			.matched = run->count,
			.reason = SKEP_REASON_ABSENT,
			.space = (uint16_t)chain->probe.space}};

	if (run->count) {
		message.slot = run->names[run->count - 1].slot;
		message.generation = run->names[run->count - 1].frame_generation;
	}
	sim_push(&client->sim, &message); /* one that finds the ring full is lost */
}

/* Asks for part put->part of what follows the first put->first blocks. */
static void put_begin(struct client *client)
{
	struct put *put = &client->put;
	struct sim_put ask = {.chain = &put->chain.probe,
		.first = put->first,
		.count = put->chain.probe.block_count - put->first,
		.part = put->part,
		.space_generation = client->spaces[put->chain.space].answer.generation,
		.deadline_ns = clock_ns() + (put->part ? 50 : pick(client, 3)) * NS_PER_MS};

	put->stage = sim_reserve(&client->sim, &ask) ? PUT_RESERVING : PUT_NONE;
}

/* Commits @count parts that were filled: with sums that say nothing, or by the mover. */
static void put_commit_parts(struct client *client, uint32_t count)
{
	struct put *put = &client->put;
	struct submission message = {.op = SUBMIT_COMMIT,
		.scratch_at = PAGE_SCRATCH_BYTES / 2,
		.count = count,
		.scratch_bytes = (uint32_t)(count * sizeof(struct commit_part)),
		.u.other.kind = COMMIT_SUMS_MOVER};
	struct commit_part *parts = sim_scratch(&client->sim, PAGE_SCRATCH_BYTES / 2);

	put->stage = PUT_COMMITTING;
	put->answers_left = 1;
	if (pick(client, 4)) {
		REQUIRE(sim_commit_blind(&client->sim, put->written, count));
		return;
	}
	for (uint32_t i = 0; i < count; i++)
		parts[i] = (struct commit_part){.slot = put->written[i].slot,
			.part = (uint16_t)put->written[i].part,
			.write = put->written[i].write};
	REQUIRE(sim_push(&client->sim, &message));
	put->answers_left = count;
}

/* The frames that were given are filled, and committed or given back. */
static void put_reserved(struct client *client, int32_t answered)
{
	const struct reserve_block *blocks = sim_scratch(&client->sim, 0);
	struct put *put = &client->put;
	const struct sim_space *kind = &kinds[put->chain.space];
	uint32_t count = 0;

	for (int32_t i = 0; i < answered; i++) {
		struct sim_written *written = &put->written[count];

		if (blocks[i].status)
			continue;
		*written = (struct sim_written){.id = put->chain.ids[put->first + (uint32_t)i],
			.slot = blocks[i].slot,
			.part = put->part,
			.ranges = kind->ranges[put->part],
			.write = blocks[i].write,
			.frame = blocks[i].frame,
			.bytes = blocks[i].bytes};
		REQUIRE(written->bytes == kind->bytes[put->part]);
		payload_fill(client->pool_writable + written->frame, written->bytes, written->id,
			put->part);
		count++;
	}
	put->stage = PUT_NONE;
	if (count && pick(client, 16) == 0)
		sim_abort(&client->sim, put->written, count);
	else if (count)
		put_commit_parts(client, count);
}

/* One step of the put under way, if its answer is there. */
static void put_step(struct client *client)
{
	struct put *put = &client->put;
	struct completion done;

	if (put->stage == PUT_NONE || !sim_take(&client->sim, 0, &done))
		return;
	if (put->stage == PUT_RESERVING) {
		put_reserved(client, done.status);
		return;
	}
	atomic_fetch_add(&shared->put, done.status >= 0);
	if (--put->answers_left)
		return;
	put->stage = PUT_NONE;
	if (++put->part < kinds[put->chain.space].part_count)
		put_begin(client);
}

static void match(struct client *client)
{
	unsigned cell = pick(client, CELLS);
	struct run *held = &client->held[cell];
	struct chain chain;
	uint32_t run;

	release(client, cell);
	chain_make(client, &chain);
	atomic_fetch_add_explicit(&shared->matches, 1, memory_order_relaxed);
	run = probe_run(&client->view, &chain.probe,
		(struct probe_want){0, chain.probe.block_count}, held->names, NULL);
	if (pick(client, 8) == 0)
		sched_yield(); /* what was probed may have left since */
	held->count = pin_run(&client->view, &sim_pins(&client->sim)[cell], held->names, run);
	held->space = chain.space;
	memcpy(held->ids, chain.ids, sizeof(chain.ids));
	atomic_fetch_add_explicit(&shared->lost, run - held->count, memory_order_relaxed);
	atomic_fetch_add_explicit(&shared->had, held->count, memory_order_relaxed);
	run_check(client, held);
	touch(client, &chain, held);
	if (held->count && pick(client, 4) == 0)
		refs_give(client, held);
	if (held->count == chain.probe.block_count || client->put.stage != PUT_NONE)
		return;
	client->put.chain = chain;
	client->put.chain.probe.ids = client->put.chain.ids;
	client->put.chain.probe.tokens = client->put.chain.tokens;
	client->put.first = held->count;
	client->put.part = 0;
	put_begin(client);
}

/* Pins what another one found, whether he still holds it or not. */
static void pin_references(struct client *client)
{
	unsigned cell = pick(client, CELLS);
	struct run *held = &client->held[cell];

	release(client, cell);
	if (!refs_take(client, held)) {
		held->count = 0;
		return;
	}
	held->count =
		pin_run(&client->view, &sim_pins(&client->sim)[cell], held->names, held->count);
	run_check(client, held);
	atomic_fetch_add_explicit(&shared->refs_had, held->count, memory_order_relaxed);
}

static void client_live(struct client *client)
{
	/* On few processors the keeper must come by, or nothing is put. This thread's alone. */
	setpriority(PRIO_PROCESS, 0, 10);
	while (!atomic_load_explicit(&shared->stop, memory_order_relaxed)) {
		if (pick(client, 5) == 0)
			pin_references(client);
		else
			match(client);
		put_step(client);
		if (client->put.stage != PUT_NONE && pick(client, 8) == 0)
			sched_yield();
	}
	for (unsigned cell = 0; cell < CELLS; cell++)
		release(client, cell);
}

static void *client_thread(void *arg)
{
	client_live(arg);
	return NULL;
}

/* ----------------------------------------------------------------------------------- mover */

/* Jobs on their way to the mover and back. */
static struct {
	pthread_mutex_t lock;
	struct sum_job *jobs[SIM_JOBS_MAX], *done[SIM_JOBS_MAX];
	unsigned job_count, done_count;
} mover = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int mover_take(void *arg, struct sum_job *job)
{
	(void)arg;
	pthread_mutex_lock(&mover.lock);
	mover.jobs[mover.job_count++] = job;
	pthread_mutex_unlock(&mover.lock);
	return 0;
}

static bool mover_work(void)
{
	struct sum_job *job = NULL;
	struct checksum_root root;
	struct part_sums part;

	pthread_mutex_lock(&mover.lock);
	if (mover.job_count)
		job = mover.jobs[--mover.job_count];
	pthread_mutex_unlock(&mover.lock);
	if (!job)
		return false;
	part = (struct part_sums){.bytes = job->in.bytes,
		.length = job->in.length,
		.range_count = job->in.ranges,
		.part = job->in.part,
		.id_low = job->in.id_low,
		.id_high = job->in.id_high,
		.incarnation = job->in.incarnation,
		.write = job->in.write};
	root = part_sums_make(&part, job->sums);
	job->root_low = root.low;
	job->root_high = root.high;
	pthread_mutex_lock(&mover.lock);
	mover.done[mover.done_count++] = job;
	pthread_mutex_unlock(&mover.lock);
	return true;
}

static void *mover_thread(void *arg)
{
	(void)arg;
	while (!atomic_load_explicit(&shared->stop, memory_order_relaxed))
		if (!mover_work())
			usleep(50);
	return NULL;
}

static void mover_collect(void)
{
	struct sum_job *done[SIM_JOBS_MAX];
	unsigned count;

	pthread_mutex_lock(&mover.lock);
	count = mover.done_count;
	memcpy(done, mover.done, count * sizeof(done[0]));
	mover.done_count = 0;
	pthread_mutex_unlock(&mover.lock);
	while (count)
		keeper_summed(sim.keeper, done[--count]);
}

/* ---------------------------------------------------------------------------------- keeper */

/* Takes something out by force: a block with all below it, or everything of a space. */
static void removal(uint64_t *random)
{
	struct realm *realm = sim.realm;
	uint32_t slot = unit_random(random, realm->index.head->slot_count);

	if (unit_random(random, 40) == 0)
		remove_space(realm, unit_random(random, SPACES), SKEP_REASON_REMOVED);
	else if (index_state(realm, slot) == ENTRY_PRESENT ||
		 index_state(realm, slot) == ENTRY_PENDING)
		remove_subtree(realm, slot, SKEP_REASON_CHECKSUM);
}

static void keeper_turn(uint64_t *random)
{
	unsigned work;

	sim.keeper->now_ns = clock_ns();
	mover_collect();
	work = keeper_round(sim.keeper, 4);
	if (unit_random(random, 16) == 0)
		keeper_tick(sim.keeper);
	if (work && unit_random(random, 40) == 0)
		removal(random);
	if (work && unit_random(random, 60) == 0)
		evict_blocks(sim.realm, 1 + unit_random(random, 40));
	if (!work)
		sched_yield();
}

static void world_open(uint64_t seed)
{
	struct sim_options options = {
		.dram_bytes = POOL_BYTES, .index_blocks = 1024, .age_limit_ns = 300 * NS_PER_MS};

	shared = mmap(
		NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	REQUIRE(shared != MAP_FAILED);
	REQUIRE_EQ(sim_create(&sim, &options), 0);
	sim.keeper->outside.sum = mover_take;
	for (unsigned i = 0; i < CLIENTS; i++) {
		struct client *client = &clients[i];
		void *page = mmap(NULL, page_bytes(), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);

		REQUIRE(page != MAP_FAILED);
		client->random = mix64(seed + i);
		client->id_bits = sim.keeper->id_bits;
		client->view = sim.realm->index.view;
		client->pool = client->pool_writable = dram_at(sim.realm->dram, 0);
		REQUIRE_EQ(sim_client_open_at(sim.realm, page, &client->sim), 0);
		for (unsigned k = 0; k < SPACES; k++)
			play_space_open(&client->sim, &kinds[k], &client->spaces[k]);
		atomic_store(&sim_page(&client->sim)->pins_used, CELLS);
	}
}

/* All sessions end; what was begun is finished; nothing may be left. */
static void world_close(void)
{
	const uint64_t *counters = sim.realm->counters;

	for (unsigned i = 0; i < CLIENTS; i++) {
		void *page = clients[i].sim.page;

		sim_client_close(&clients[i].sim, false);
		munmap(page, page_bytes());
	}
	while (mover_work())
		;
	mover_collect();
	while (mover_work())
		mover_collect();
	mover_collect();
	for (unsigned i = 0; i < 64; i++) {
		sim.keeper->now_ns += NS_PER_S;
		sim_run(&sim);
	}
	printf("%llu matches, %llu blocks had, %llu by references, %llu lost between probe and "
	       "pin, %llu parts put; %llu evicted, %llu withdrawn, %llu removed, %llu slabs "
	       "emptied\n",
		(unsigned long long)shared->matches, (unsigned long long)shared->had,
		(unsigned long long)shared->refs_had, (unsigned long long)shared->lost,
		(unsigned long long)shared->put,
		(unsigned long long)counters[REALM_COUNTER_blocks_evicted],
		(unsigned long long)counters[REALM_COUNTER_evictions_withdrawn],
		(unsigned long long)counters[REALM_COUNTER_blocks_removed],
		(unsigned long long)counters[REALM_COUNTER_slabs_emptied]);
	/* A race that nobody ran would prove nothing. */
	REQUIRE(shared->had > 200 && shared->put > 100 && shared->refs_had > 10);
	REQUIRE(counters[REALM_COUNTER_blocks_evicted] > 100);
	REQUIRE(counters[REALM_COUNTER_blocks_removed] > 0);
	REQUIRE_EQ(sim.cuts, 0);
	play_nothing_leaks(&sim, sim.realm);
	sim_destroy(&sim);
}

static void race_threads(uint64_t end_ns, uint64_t *random)
{
	pthread_t threads[CLIENTS + 1];

	REQUIRE_EQ(pthread_create(&threads[CLIENTS], NULL, mover_thread, NULL), 0);
	for (unsigned i = 0; i < CLIENTS; i++)
		REQUIRE_EQ(pthread_create(&threads[i], NULL, client_thread, &clients[i]), 0);
	while (clock_ns() < end_ns)
		keeper_turn(random);
	atomic_store(&shared->stop, true);
	for (unsigned i = 0; i <= CLIENTS; i++)
		REQUIRE_EQ(pthread_join(threads[i], NULL), 0);
}

/* ------------------------------------------------------------------------------- processes */

/* In a child: index read-only and pool in mappings of its own. */
_Noreturn static void client_process(struct client *client)
{
	struct realm *realm = sim.realm;
	uint64_t index_bytes = realm->index.file_bytes;
	void *index = mmap(NULL, index_bytes, PROT_READ, MAP_SHARED, realm->index.fd, 0);
	void *pool = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
		dram_chunk_fd(realm->dram, 0), 0);

	REQUIRE(index != MAP_FAILED && pool != MAP_FAILED);
	REQUIRE_EQ(index_view_open(&client->view, index, index_bytes), 0);
	client->sim.view = &client->view;
	client->pool = client->pool_writable = pool;
	client_live(client);
	_exit(0);
}

static pid_t client_start(unsigned i)
{
	pid_t child = fork();

	REQUIRE(child >= 0);
	if (child == 0)
		client_process(&clients[i]);
	return child;
}

/* A killed client's session ends when its process has ended; another takes its page. */
static void client_replace(unsigned i, pid_t *child, uint64_t *random)
{
	struct client *client = &clients[i];
	void *page = client->sim.page;
	int status;

	kill(*child, SIGKILL);
	REQUIRE(waitpid(*child, &status, 0) == *child);
	REQUIRE(WIFSIGNALED(status)); /* it had found nothing wrong until then */
	sim_client_close(&client->sim, false);
	memset(page, 0, page_scratch_at());
	memset(client->held, 0, sizeof(client->held));
	client->put.stage = PUT_NONE;
	client->random = mix64(*random + i);
	REQUIRE_EQ(sim_client_open_at(sim.realm, page, &client->sim), 0);
	for (unsigned k = 0; k < SPACES; k++)
		play_space_open(&client->sim, &kinds[k], &client->spaces[k]);
	atomic_store(&sim_page(&client->sim)->pins_used, CELLS);
	*child = client_start(i);
}

static void race_processes(uint64_t end_ns, uint64_t *random)
{
	pid_t children[CLIENTS];
	uint64_t next_kill = clock_ns() + 100 * NS_PER_MS, kills = 0;

	for (unsigned i = 0; i < CLIENTS; i++)
		children[i] = client_start(i);
	while (clock_ns() < end_ns) {
		keeper_turn(random);
		mover_work();
		if (clock_ns() > next_kill) {
			unsigned i = unit_random(random, CLIENTS);

			client_replace(i, &children[i], random);
			next_kill = clock_ns() + unit_random(random, 200) * NS_PER_MS;
			kills++;
		}
	}
	atomic_store(&shared->stop, true);
	for (unsigned i = 0; i < CLIENTS; i++) {
		int status;

		REQUIRE(waitpid(children[i], &status, 0) == children[i]);
		REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	printf("%llu clients killed\n", (unsigned long long)kills);
}

int main(int argc, char **argv)
{
	bool processes = argc > 1 && !strcmp(argv[1], "processes");
	uint64_t seconds = argc > 2 ? strtoull(argv[2], NULL, 0) : 5;
	uint64_t seed = unit_seed(argc > 3 ? argc - 2 : 1, argv + (argc > 3 ? 2 : 0));
	uint64_t random = mix64(seed);

	world_open(seed);
	if (processes)
		race_processes(clock_ns() + seconds * NS_PER_S, &random);
	else
		race_threads(clock_ns() + seconds * NS_PER_S, &random);
	world_close();
	return 0;
}
