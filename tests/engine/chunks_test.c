/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chunks of the pool as who registers them sees them: they come as the pool grows and with
 * every new daemon, stay mapped while they are held, and are told to be leaving when nothing else
 * is.
 */
#include "base/status.h"
#include "engine/client/client_priv.h"
#include "tests/engine/client_unit.h"
#include "tests/engine/fake.h"

enum { CHUNKS_MAX = 8 };

static struct fake fake = {.secret = 3};

/* Chunks in that state, the first of them in *@first. */
static unsigned chunks_in(
	struct skep *session, enum skep_chunk_state state, struct skep_chunk *first)
{
	struct skep_chunk chunks[CHUNKS_MAX];
	int count = skep_chunks(session, chunks, CHUNKS_MAX);
	unsigned found = 0;

	REQUIRE(count >= 0 && count <= CHUNKS_MAX);
	for (int i = 0; i < count; i++)
		if (chunks[i].state == (uint32_t)state && found++ == 0 && first)
			*first = chunks[i];
	return found;
}

static void await_chunks(struct skep *session, enum skep_chunk_state state, unsigned count)
{
	uint64_t until = clock_ns() + 5 * NS_PER_S;

	while (chunks_in(session, state, NULL) != count) {
		REQUIRE(clock_ns() < until);
		usleep(1000);
	}
}

/* Still mapped, with what the daemon wrote. */
static void require_there(const struct skep_chunk *chunk)
{
	REQUIRE_EQ(((const unsigned char *)chunk->memory)[chunk->bytes - 1], 0x77);
}

static void mark(const struct skep_chunk *chunk)
{
	((unsigned char *)chunk->memory)[chunk->bytes - 1] = 0x77;
}

static void they_come_as_the_pool_grows(void)
{
	struct index_head *head = (struct index_head *)(void *)fake.index;
	struct skep *session, *reader;
	struct skep_chunk chunks[CHUNKS_MAX] = {0};

	atomic_store(&head->pool_ready_bytes, 4096);
	session = unit_open(fake.path, 0);
	REQUIRE_EQ(skep_chunks(session, NULL, 0), 0);
	REQUIRE_EQ(skep_chunk_hold(session, 1ull << 32), -ENOENT);
	/* A chunk of which a page is missing is not told. */
	atomic_store(&head->pool_ready_bytes, 2 * FAKE_CHUNK_BYTES - 4096);
	REQUIRE_EQ(skep_chunks(session, chunks, CHUNKS_MAX), 1);
	REQUIRE_EQ(skep_chunk_hold(session, chunks[0].id + 1), -ENOENT);
	atomic_store(&head->pool_ready_bytes, 2 * FAKE_CHUNK_BYTES);
	REQUIRE_EQ(skep_chunks(session, chunks, CHUNKS_MAX), FAKE_CHUNKS);
	REQUIRE_EQ(chunks[0].bytes, FAKE_CHUNK_BYTES);
	REQUIRE((unsigned char *)chunks[1].memory ==
		(unsigned char *)chunks[0].memory + FAKE_CHUNK_BYTES);
	REQUIRE(chunks[0].id && chunks[1].id && chunks[0].id != chunks[1].id);
	REQUIRE(!chunks[0].readonly && chunks[0].state == SKEP_CHUNK_LIVE);
	/* What there is no room for is counted. */
	memset(chunks, 0, sizeof(chunks));
	REQUIRE_EQ(skep_chunks(session, chunks, 1), FAKE_CHUNKS);
	REQUIRE(chunks[0].id && !chunks[1].id);
	REQUIRE_EQ(skep_chunks(session, NULL, 0), FAKE_CHUNKS);
	/* Whatever a daemon says: one that is held can be let go. */
	REQUIRE_EQ(skep_chunk_hold(session, chunks[0].id), 0);
	atomic_store(&head->pool_ready_bytes, 0);
	REQUIRE_EQ(skep_chunks(session, NULL, 0), FAKE_CHUNKS);
	REQUIRE_EQ(skep_chunk_release(session, chunks[0].id), 0);
	atomic_store(&head->pool_ready_bytes, 2 * FAKE_CHUNK_BYTES);
	reader = unit_open(fake.path, SKEP_OPEN_READONLY);
	REQUIRE_EQ(chunks_in(reader, SKEP_CHUNK_LIVE, &chunks[0]), FAKE_CHUNKS);
	REQUIRE_EQ(chunks[0].readonly, 1);
	skep_close(reader);
	skep_close(session);
}

static void what_is_malformed_is_refused(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct skep_chunk chunk;

	REQUIRE_EQ(skep_chunks(NULL, NULL, 0), -EINVAL);
	REQUIRE_EQ(skep_chunks(session, NULL, 1), -EINVAL);
	REQUIRE_EQ(skep_chunk_hold(session, 0), -EINVAL);
	REQUIRE_EQ(skep_chunk_release(session, 0), -EINVAL);
	REQUIRE_EQ(skep_chunks(session, &chunk, 1), FAKE_CHUNKS);
	REQUIRE_EQ(skep_chunk_hold(session, chunk.id + FAKE_CHUNKS), -ENOENT);
	REQUIRE_EQ(skep_chunk_hold(session, chunk.id + (1ull << 32)), -ENOENT);
	REQUIRE_EQ(skep_chunk_release(session, chunk.id), -ENOENT);
	/* As often as it was held, and no more. */
	REQUIRE_EQ(skep_chunk_hold(session, chunk.id), 0);
	REQUIRE_EQ(skep_chunk_hold(session, chunk.id), 0);
	REQUIRE_EQ(skep_chunk_release(session, chunk.id), 0);
	REQUIRE_EQ(skep_chunk_release(session, chunk.id), 0);
	REQUIRE_EQ(skep_chunk_release(session, chunk.id), -ENOENT);
	/* One that is still held goes with the session. */
	REQUIRE_EQ(skep_chunk_hold(session, chunk.id), 0);
	skep_close(session);
}

/* A call that waits for an answer which does not come. */
static void *waiter_main(void *argument)
{
	struct skep_stats stats = {.struct_bytes = sizeof(stats)};

	REQUIRE(skep_stats(argument, skep_deadline_ms(500), &stats) < 0);
	return NULL;
}

/* While a pin is held an old chunk is old; without one it is leaving; held, it stays. */
static void an_old_chunk_stays_until_it_is_let_go(void)
{
	struct resources before, now;
	struct skep *session = unit_open(fake.path, 0);
	struct skep_chain *chain = unit_chain(unit_space(session, 0), 1, 23);
	struct skep_match match = {
		.struct_bytes = sizeof(match), .chain = chain, .flags = SKEP_MATCH_PIN};
	struct skep_chunk held, other;
	pthread_t waiter;
	uint64_t until;

	fake_block(&fake, chain, 0, ENTRY_PRESENT, UNIT_PART_BYTES);
	REQUIRE_EQ(skep_match(session, &match, 1), 0);
	REQUIRE_EQ(match.matched, 1);
	before = resources_settled("fake-");
	REQUIRE_EQ(chunks_in(session, SKEP_CHUNK_LIVE, &held), FAKE_CHUNKS);
	mark(&held);
	REQUIRE_EQ(skep_chunk_hold(session, held.id), 0);
	fake_kill(&fake);
	await_chunks(session, SKEP_CHUNK_OLD, FAKE_CHUNKS);
	fake_start(&fake);
	/* The new pool's are told before the session makes a call. */
	await_chunks(session, SKEP_CHUNK_LIVE, FAKE_CHUNKS);
	unit_await_attached(session, 1);
	REQUIRE_EQ(chunks_in(session, SKEP_CHUNK_OLD, &other), FAKE_CHUNKS);
	REQUIRE_EQ(other.id, held.id);
	REQUIRE_EQ(chunks_in(session, SKEP_CHUNK_LIVE, &other), FAKE_CHUNKS);
	REQUIRE(other.id > held.id + FAKE_CHUNKS);
	/* One that is old may still be held; one that leaves may not. */
	REQUIRE_EQ(skep_chunk_hold(session, held.id + 1), 0);
	REQUIRE_EQ(skep_chunk_release(session, held.id + 1), 0);
	skep_release(session, &match.pin);
	/* It leaves also while the session's thread is in a call. */
	fake.mute = true;
	REQUIRE_EQ(pthread_create(&waiter, NULL, waiter_main, session), 0);
	while (!atomic_load(&session->busy))
		usleep(1000);
	REQUIRE_EQ(chunks_in(session, SKEP_CHUNK_LEAVING, NULL), FAKE_CHUNKS);
	REQUIRE_EQ(chunks_in(session, SKEP_CHUNK_LIVE, NULL), FAKE_CHUNKS);
	REQUIRE(atomic_load(&session->busy));
	REQUIRE_EQ(pthread_join(waiter, NULL), 0);
	fake.mute = false;
	REQUIRE_EQ(chunks_in(session, SKEP_CHUNK_LEAVING, NULL), FAKE_CHUNKS);
	REQUIRE_EQ(skep_chunk_hold(session, held.id + 1), -ENOENT);
	usleep(300000);
	require_there(&held);
	REQUIRE_EQ(skep_chunk_release(session, held.id), 0);
	until = clock_ns() + 2 * NS_PER_S;
	do {
		REQUIRE(clock_ns() < until);
		usleep(5000);
		now = resources_now("fake-");
	} while (now.mappings != before.mappings);
	REQUIRE_EQ(chunks_in(session, SKEP_CHUNK_LEAVING, NULL), 0);
	REQUIRE_EQ(skep_chunk_release(session, held.id), -ENOENT);
	skep_close(session);
}

/* Daemons that come and go while the session makes no call: what is held of each stays. */
static void every_daemons_chunk_stays_without_a_call(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct skep_chunk held[3];

	for (unsigned i = 0; i < 3; i++) {
		await_chunks(session, SKEP_CHUNK_LIVE, FAKE_CHUNKS);
		REQUIRE_EQ(chunks_in(session, SKEP_CHUNK_LIVE, &held[i]), FAKE_CHUNKS);
		mark(&held[i]);
		REQUIRE_EQ(skep_chunk_hold(session, held[i].id), 0);
		fake_kill(&fake);
		await_chunks(session, SKEP_CHUNK_LEAVING, (i + 1) * FAKE_CHUNKS);
		fake_start(&fake);
	}
	await_chunks(session, SKEP_CHUNK_LIVE, FAKE_CHUNKS);
	usleep(200000);
	for (unsigned i = 0; i < 3; i++) {
		require_there(&held[i]);
		REQUIRE_EQ(skep_chunk_release(session, held[i].id), 0);
		await_chunks(session, SKEP_CHUNK_LEAVING, (2 - i) * FAKE_CHUNKS);
	}
	/* Ours and the daemon's own. */
	REQUIRE_EQ(resources_settled("fake-chunk").mappings, 2 * FAKE_CHUNKS);
	unit_await_attached(session, 1);
	skep_close(session);
}

/* A thread that asks, holds and lets go beside the session's, while daemons die. */
struct asker {
	struct skep *session;
	_Atomic bool stop;
	uint64_t seen;
};

static void *asker_main(void *argument)
{
	struct asker *asker = argument;

	while (!asker->stop) {
		struct skep_chunk chunks[CHUNKS_MAX];
		int count = skep_chunks(asker->session, chunks, CHUNKS_MAX);

		for (int i = 0; i < MIN_OF(count, CHUNKS_MAX); i++) {
			if (skep_chunk_hold(asker->session, chunks[i].id))
				continue;
			asker->seen += ((volatile unsigned char *)chunks[i].memory)[64] == 0;
			REQUIRE_EQ(skep_chunk_release(asker->session, chunks[i].id), 0);
		}
	}
	return NULL;
}

static void another_thread_asks(void)
{
	struct asker asker = {.session = unit_open(fake.path, 0)};
	struct skep_chain *chain = unit_chain(unit_space(asker.session, 0), 1, 29);
	struct skep_match match = {
		.struct_bytes = sizeof(match), .chain = chain, .flags = SKEP_MATCH_PIN};
	pthread_t thread;

	REQUIRE_EQ(pthread_create(&thread, NULL, asker_main, &asker), 0);
	for (unsigned i = 0; i < 3; i++) {
		fake_block(&fake, chain, 0, ENTRY_PRESENT, UNIT_PART_BYTES);
		for (unsigned j = 0; j < 200; j++) {
			REQUIRE_EQ(skep_match(asker.session, &match, 1), 0);
			if (match.matched)
				skep_release(asker.session, &match.pin);
			usleep(100);
		}
		fake_kill(&fake);
		unit_await_attached(asker.session, 0);
		fake_start(&fake);
		unit_await_attached(asker.session, 1);
	}
	asker.stop = true;
	REQUIRE_EQ(pthread_join(thread, NULL), 0);
	REQUIRE(asker.seen > 0);
	skep_close(asker.session);
}

int main(void)
{
	fake_start(&fake);
	they_come_as_the_pool_grows();
	what_is_malformed_is_refused();
	an_old_chunk_stays_until_it_is_let_go();
	every_daemons_chunk_stays_without_a_call();
	another_thread_asks();
	fake_end(&fake);
	return 0;
}
