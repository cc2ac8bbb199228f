/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chunks become page-locked one by one, the near ones first, as pools come, grow and go: what goes
 * is let go of before the library unmaps it, and in time; a device that refuses is not asked twice.
 */
#include "engine/gpu/registrar.c"
#include "tests/engine/client_unit.h"
#include "tests/engine/fake.h"

static struct fake fake = {.secret = 3};
static struct gpu *device;

static struct registrar_counts counts_of(struct registrar *registrar)
{
	struct registrar_counts counts;

	registrar_counts(registrar, &counts);
	return counts;
}

static uint64_t registered_bytes(void)
{
	struct gpu_usage usage;

	gpu_usage(device, &usage);
	return usage.registered_bytes;
}

static uint32_t number_of(struct registrar *registrar, uint8_t *place, size_t bytes)
{
	const struct registrar_pieces pieces = {.places = &place, .bytes = bytes, .count = 1};
	uint32_t number;

	registrar_find(registrar, &pieces, &number);
	return number;
}

static struct registrar *registrar_open(struct skep *session, bool start)
{
	struct registrar *registrar;

	REQUIRE_EQ(registrar_create(session, device, start, &registrar), 0);
	return registrar;
}

/* One a turn, and each is found from its own first byte to its last. */
static void they_are_registered_one_a_turn(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct registrar *registrar = registrar_open(session, false);
	struct skep_chunk chunks[FAKE_CHUNKS];
	uint8_t *memory;

	REQUIRE_EQ(skep_chunks(session, chunks, FAKE_CHUNKS), FAKE_CHUNKS);
	memory = chunks[0].memory;
	REQUIRE(registrar_turn(registrar));
	REQUIRE_EQ(counts_of(registrar).registered, 1);
	REQUIRE_EQ(counts_of(registrar).waiting, 1);
	REQUIRE_EQ(registered_bytes(), FAKE_CHUNK_BYTES);
	REQUIRE_EQ(number_of(registrar, memory, FAKE_CHUNK_BYTES), 1);
	REQUIRE_EQ(number_of(registrar, memory + FAKE_CHUNK_BYTES, 1), 0);
	REQUIRE_EQ(number_of(registrar, memory - 1, 1), 0);
	REQUIRE(registrar_turn(registrar));
	REQUIRE(!registrar_turn(registrar));
	REQUIRE_EQ(counts_of(registrar).registered_bytes, 2 * FAKE_CHUNK_BYTES);
	REQUIRE_EQ(number_of(registrar, memory + FAKE_CHUNK_BYTES - 1, 1), 1);
	REQUIRE_EQ(number_of(registrar, memory + FAKE_CHUNK_BYTES, 4096), 2);
	/* What reaches from one into the next lies in neither. */
	REQUIRE_EQ(number_of(registrar, memory + FAKE_CHUNK_BYTES - 1, 2), 0);
	REQUIRE_EQ(number_of(registrar, memory + 2 * FAKE_CHUNK_BYTES - 1, 2), 0);
	REQUIRE_EQ(number_of(registrar, memory + 2 * FAKE_CHUNK_BYTES, 1), 0);
	registrar_destroy(registrar);
	REQUIRE_EQ(registered_bytes(), 0);
	REQUIRE_EQ(skep_chunk_release(session, chunks[0].id), -ENOENT);
	skep_close(session);
}

static void the_near_ones_come_first(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct registrar *registrar = registrar_open(session, false);
	struct chunk *far, *near;

	REQUIRE_EQ(told_ask(registrar), FAKE_CHUNKS);
	table_renew(registrar, FAKE_CHUNKS);
	REQUIRE_EQ(registrar->table.count, FAKE_CHUNKS);
	far = &registrar->table.chunks[0];
	near = &registrar->table.chunks[1];
	REQUIRE(chunk_pick(registrar) == far); /* of equal ones the first */
	far->distance = 20;
	near->distance = 10;
	REQUIRE(chunk_pick(registrar) == near);
	REQUIRE(registrar_turn(registrar));
	REQUIRE_EQ(registrar->table.chunks[1].number, 1);
	REQUIRE(registrar_turn(registrar));
	REQUIRE_EQ(registrar->table.chunks[0].number, 2);
	registrar_destroy(registrar);
	skep_close(session);
}

/* The node of a page that is there, where the system answers; its own node is the nearest. */
static void distances_are_the_systems(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct registrar *registrar = registrar_open(session, false);
	static unsigned char page[8192];

	page[4096] = 1;
	distances_read(registrar, 0);
	REQUIRE_EQ(registrar->distances[0], 0);
	for (unsigned i = 1; i < NODES_MAX; i++)
		REQUIRE(registrar->distances[i] > 0);
	if (distance_of(registrar, &page[4096]) == UINT_MAX)
		printf("this system tells no nodes\n");
	REQUIRE_EQ(distance_of(registrar, NULL), UINT_MAX);
	distances_read(registrar, -1);
	REQUIRE_EQ(registrar->distances[0], registrar->distances[1]);
	registrar_destroy(registrar);
	skep_close(session);
}

static void a_refusal_is_remembered(bool readonly)
{
	struct skep *session = unit_open(fake.path, readonly ? SKEP_OPEN_READONLY : 0);
	struct registrar *registrar = registrar_open(session, false);
	struct skep_chunk chunk;
	uint64_t calls;

	REQUIRE_EQ(skep_chunks(session, &chunk, 1), FAKE_CHUNKS);
	gpu_fail_nth(device, 1, -ENOTSUP);
	REQUIRE(registrar_turn(registrar));
	REQUIRE_EQ(skep_chunk_release(session, chunk.id), -ENOENT); /* not held any more */
	REQUIRE(registrar_turn(registrar));
	calls = gpu_calls(device);
	REQUIRE(!registrar_turn(registrar));
	REQUIRE_EQ(gpu_calls(device), calls);
	REQUIRE_EQ(counts_of(registrar).refused, 1);
	REQUIRE_EQ(counts_of(registrar).registered, 1);
	REQUIRE_EQ(counts_of(registrar).refusal, -ENOTSUP);
	REQUIRE_EQ(number_of(registrar, chunk.memory, 1), 0);
	registrar_destroy(registrar);
	REQUIRE_EQ(registered_bytes(), 0);
	skep_close(session);
}

static void a_pool_grows(void)
{
	struct index_head *head = (struct index_head *)(void *)fake.index;
	struct skep *session = unit_open(fake.path, 0);
	struct registrar *registrar = registrar_open(session, false);

	atomic_store(&head->pool_ready_bytes, FAKE_CHUNK_BYTES + 4096);
	REQUIRE(registrar_turn(registrar));
	REQUIRE(!registrar_turn(registrar));
	REQUIRE_EQ(counts_of(registrar).registered, 1);
	atomic_store(&head->pool_ready_bytes, 2 * FAKE_CHUNK_BYTES);
	REQUIRE(registrar_turn(registrar));
	REQUIRE_EQ(counts_of(registrar).registered, 2);
	registrar_destroy(registrar);
	skep_close(session);
}

/* With its thread, and a session that makes no call: each daemon's chunks come, and go in time. */
static void daemons_come_and_go(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct registrar *registrar = registrar_open(session, true);
	uint64_t until;

	for (unsigned i = 0; i < 3; i++) {
		until = clock_ns() + 5 * NS_PER_S;
		while (counts_of(registrar).registered != FAKE_CHUNKS) {
			REQUIRE(clock_ns() < until);
			usleep(1000);
		}
		fake_kill(&fake);
		until = clock_ns() + 2 * NS_PER_S;
		while (resources_now("fake-").mappings || registered_bytes()) {
			REQUIRE(clock_ns() < until);
			usleep(1000);
		}
		fake_start(&fake);
	}
	registrar_destroy(registrar);
	skep_close(session);
}

/* What waits when its daemon dies is not registered any more. */
static void a_chunk_that_waits_is_given_up(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct skep_chain *chain = unit_chain(unit_space(session, 0), 1, 31);
	struct skep_match match = {
		.struct_bytes = sizeof(match), .chain = chain, .flags = SKEP_MATCH_PIN};
	struct registrar *registrar = registrar_open(session, false);
	struct skep_chunk chunks[FAKE_CHUNKS];

	fake_block(&fake, chain, 0, ENTRY_PRESENT, UNIT_PART_BYTES);
	REQUIRE_EQ(skep_match(session, &match, 1), 0);
	REQUIRE_EQ(match.matched, 1);
	REQUIRE_EQ(skep_chunks(session, chunks, FAKE_CHUNKS), FAKE_CHUNKS);
	REQUIRE(registrar_turn(registrar));
	fake_kill(&fake);
	unit_await_attached(session, 0);
	/* The pin keeps the other where it is, registered. */
	REQUIRE(!registrar_turn(registrar));
	REQUIRE_EQ(counts_of(registrar).registered, 1);
	REQUIRE_EQ(counts_of(registrar).waiting, 0);
	REQUIRE_EQ(skep_chunk_release(session, chunks[1].id), -ENOENT);
	REQUIRE_EQ(number_of(registrar, chunks[0].memory, FAKE_CHUNK_BYTES), 1);
	skep_release(session, &match.pin);
	REQUIRE(!registrar_turn(registrar));
	REQUIRE_EQ(number_of(registrar, chunks[0].memory, FAKE_CHUNK_BYTES), 0);
	REQUIRE_EQ(counts_of(registrar).registered, 0);
	REQUIRE_EQ(registered_bytes(), 0);
	registrar_destroy(registrar);
	fake_start(&fake);
	skep_close(session);
}

int main(void)
{
	REQUIRE_EQ(gpu_open(GPU_HOST, 0, &device), 0);
	fake_start(&fake);
	they_are_registered_one_a_turn();
	the_near_ones_come_first();
	distances_are_the_systems();
	a_refusal_is_remembered(false);
	a_refusal_is_remembered(true);
	a_pool_grows();
	daemons_come_and_go();
	a_chunk_that_waits_is_given_up();
	fake_end(&fake);
	gpu_close(device);
	return 0;
}
