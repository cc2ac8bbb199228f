/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A daemon that dies and comes back under open sessions: it is seen at once, calls miss, pointers
 * stay right, the old pool goes when its last pointer went, and every submit completes once.
 */
#include <poll.h>
#include <sys/stat.h>

#include "base/status.h"
#include "engine/client/client_priv.h"
#include "tests/engine/client_unit.h"
#include "tests/engine/fake.h"

static struct fake fake = {.secret = 3};

/* What the promise says, but for a machine that is busy with other tests: the best of some. */
#define DEATH_SEEN_NS (100 * NS_PER_MS)

/* ---------------------------------------------------------------------------- away, coming back */

static void session_without_a_daemon_misses_at_once(void)
{
	struct fake later = {.secret = 5};
	struct skep *session;
	struct skep_space *space;
	struct skep_queue *queue;
	struct skep_stats stats = {.struct_bytes = sizeof(stats)};
	struct skep_part_layout part = {.bytes = 4096};
	struct skep_space_options options = {.struct_bytes = sizeof(options),
		.name = "space",
		.block_tokens = 16,
		.part_count = 1,
		.parts = &part};
	struct skep_ref ref = {.incarnation = 1, .frame_generation = 1};
	struct skep_view view;
	struct skep_pin pin = {.cell = 1, .epoch = 1};
	uint64_t began = clock_ns();

	fake_start(&later);
	fake_end(&later);
	session = unit_open(later.path, SKEP_OPEN_NO_WAIT);
	REQUIRE_EQ(skep_attached(session), 0);
	REQUIRE_EQ(skep_space_open(session, &options, &space), SKEP_EDOWN);
	REQUIRE_EQ(skep_queue_create(session, &queue), SKEP_EDOWN);
	REQUIRE_EQ(skep_stats(session, skep_deadline_ms(5000), &stats), SKEP_EDOWN);
	REQUIRE_EQ(skep_view(session, &ref, 0, &view), -ESTALE);
	REQUIRE_EQ(skep_pin_refs(session, &ref, 1, &pin), 0);
	REQUIRE_EQ(skep_match(session, NULL, 0), 0);
	skep_release(session, &pin);
	REQUIRE(clock_ns() - began < NS_PER_S);
	/* It comes: the session finds it by itself. */
	fake_start(&later);
	unit_await_attached(session, 1);
	REQUIRE_EQ(skep_space_open(session, &options, &space), 0);
	skep_close(session);
	fake_end(&later);
}

static struct skep_match match_all(struct skep *session, struct skep_chain *chain)
{
	struct skep_match match = {
		.struct_bytes = sizeof(match), .chain = chain, .flags = SKEP_MATCH_PIN};

	REQUIRE_EQ(skep_match(session, &match, 1), 0);
	return match;
}

/* One life and death of the daemon under a session that holds a pin. */
static uint64_t death_and_return(struct skep *session, struct skep_chain *chain)
{
	struct skep_match match = match_all(session, chain), after;
	struct skep_ref ref = {.frame_generation = 2000};
	uint64_t began, seen, until;
	struct skep_view view;

	REQUIRE_EQ(match.matched, 1);
	ref.incarnation = fake.incarnation;
	REQUIRE_EQ(skep_view(session, &ref, 0, &view), 0);
	began = clock_ns();
	fake_kill(&fake);
	unit_await_attached(session, 0);
	seen = clock_ns() - began;
	after = match_all(session, chain);
	REQUIRE_EQ(after.matched, 0);
	REQUIRE_TEXT(skep_reason_text(after.reason), "daemon_down");
	/* What was pinned stays right, before and after the next daemon comes. */
	REQUIRE_EQ(skep_view(session, &ref, 0, &view), 0);
	REQUIRE_EQ(((const uint8_t *)view.bytes)[5], (uint8_t)mix64(chain->ids[0].low + 5));
	fake_start(&fake);
	unit_await_attached(session, 1);
	REQUIRE_EQ(((const uint8_t *)view.bytes)[5], (uint8_t)mix64(chain->ids[0].low + 5));
	REQUIRE_EQ(skep_view(session, &ref, 0, &view), 0);
	after = match_all(session, chain);
	REQUIRE_EQ(after.matched, 0);
	REQUIRE_TEXT(skep_reason_text(after.reason), "absent");
	fake_block(&fake, chain, 0, ENTRY_PRESENT, UNIT_PART_BYTES);
	after = match_all(session, chain);
	REQUIRE_EQ(after.matched, 1);
	skep_release(session, &after.pin);
	/* With the last pin the old pool goes. */
	usleep(200000);
	REQUIRE_EQ(skep_view(session, &ref, 0, &view), 0);
	skep_release(session, &match.pin);
	until = clock_ns() + 2 * NS_PER_S;
	while (skep_view(session, &ref, 0, &view) == 0) {
		REQUIRE(clock_ns() < until);
		usleep(5000);
	}
	return seen;
}

static void daemon_dies_and_comes_back(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct skep_space *space = unit_space(session, 0);
	struct skep_chain *chain = unit_chain(space, 1, 11);
	struct resources before;
	uint64_t best = UINT64_MAX;

	fake_block(&fake, chain, 0, ENTRY_PRESENT, UNIT_PART_BYTES);
	before = resources_settled("fake-");
	for (unsigned i = 0; i < 4; i++) {
		if (i == 2)
			fake.secret++; /* another secret: chains are hashed anew */
		best = MIN_OF(best, death_and_return(session, chain));
	}
	printf("death seen after %.1f ms\n", (double)best / 1e6);
	REQUIRE(best <= DEATH_SEEN_NS);
	resources_require(&before, "fake-");
	skep_close(session);
}

/* An engine that makes no call must not keep the old pool alive. */
static void old_pool_goes_without_a_call(void)
{
	struct resources now;
	struct skep *session = unit_open(fake.path, 0);
	uint64_t until;

	for (unsigned i = 0; i < 3; i++) {
		until = clock_ns() + 2 * NS_PER_S;
		fake_kill(&fake);
		do {
			REQUIRE(clock_ns() < until);
			usleep(5000);
			now = resources_now("fake-");
		} while (now.mappings);
		fake_start(&fake);
		/* It is attached again: its mappings beside the daemon's own. */
		until = clock_ns() + 5 * NS_PER_S;
		while (resources_now("fake-chunk").mappings < 2 * FAKE_CHUNKS) {
			REQUIRE(clock_ns() < until);
			usleep(5000);
		}
	}
	unit_await_attached(session, 1);
	skep_close(session);
}

/* The daemon that came back knows the space otherwise: misses, and calls that may fail say why. */
static void space_refused_on_return_is_a_miss(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct skep_space *space = unit_space(session, 0);
	struct skep_chain *chain = unit_chain(space, 1, 19);
	struct skep_frame frame;
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve), .chain = chain, .count = 1};
	struct skep_match match;
	uint64_t until;
	uint32_t block;

	fake_kill(&fake);
	unit_await_attached(session, 0);
	fake.refusing = true;
	fake_start(&fake);
	unit_await_attached(session, 1);
	fake_block(&fake, chain, 0, ENTRY_PRESENT, UNIT_PART_BYTES);
	match = match_all(session, chain);
	REQUIRE_EQ(match.matched, 0);
	REQUIRE_TEXT(skep_reason_text(match.reason), "absent");
	REQUIRE_EQ(skep_reserve(session, &reserve, &frame), SKEP_EDIFFERS);
	REQUIRE_EQ(skep_missing(session, chain, 0, 0, &block, 1), SKEP_EDOWN);
	fake.refusing = false;
	until = clock_ns() + 5 * NS_PER_S;
	while (!match.matched) {
		REQUIRE(clock_ns() < until);
		usleep(5000);
		match = match_all(session, chain);
	}
	skep_close(session);
}

static uint64_t file_bytes(int fd)
{
	struct stat file;

	REQUIRE_EQ(fstat(fd, &file), 0);
	return (uint64_t)file.st_blocks * 512;
}

/* Page tables are set up ahead where the daemon has populated, and not one page further: whoever
 * touches a page first pays for it. */
static void memory_is_touched_only_where_the_daemon_was(void)
{
	enum { HALF = FAKE_CHUNK_BYTES / 2 };
	struct skep *session;
	struct index_head *head;
	uint64_t until = clock_ns() + 5 * NS_PER_S;

	fake_kill(&fake);
	fake_start(&fake);
	head = (struct index_head *)(void *)fake.index;
	head->pool_ready_bytes = HALF;
	session = unit_open(fake.path, 0);
	while (file_bytes(fake.chunk_fds[0]) < HALF) {
		REQUIRE(clock_ns() < until);
		usleep(5000);
	}
	usleep(200000);
	REQUIRE_EQ(file_bytes(fake.chunk_fds[0]), HALF);
	REQUIRE_EQ(file_bytes(fake.chunk_fds[1]), 0);
	head->pool_ready_bytes = FAKE_CHUNK_BYTES + 4096;
	while (file_bytes(fake.chunk_fds[1]) < 4096) {
		REQUIRE(clock_ns() < until);
		usleep(5000);
	}
	usleep(200000);
	REQUIRE_EQ(file_bytes(fake.chunk_fds[0]), FAKE_CHUNK_BYTES);
	REQUIRE_EQ(file_bytes(fake.chunk_fds[1]), 4096);
	skep_close(session);
}

/* A frame being written into is a pointer as good as a pinned one. */
static void reserved_frames_hold_the_old_pool(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct skep_space *space = unit_space(session, 0);
	struct skep_chain *chain = unit_chain(space, 2, 12);
	struct skep_frame frames[2];
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve),
		.chain = chain,
		.count = 2,
		.deadline_ns = skep_deadline_ms(2000)};

	REQUIRE_EQ(skep_reserve(session, &reserve, frames), 2);
	fake_kill(&fake);
	unit_await_attached(session, 0);
	fake_start(&fake);
	unit_await_attached(session, 1);
	usleep(200000);
	memset(frames[0].bytes, 1, frames[0].length);
	memset(frames[1].bytes, 2, frames[1].length);
	REQUIRE_EQ(skep_commit(session, frames, 1, NULL), SKEP_EDOWN);
	REQUIRE_EQ(frames[0].status, SKEP_EDOWN);
	usleep(100000);
	memset(frames[1].bytes, 3, frames[1].length);
	REQUIRE_EQ(skep_abort(session, frames + 1, 1), 0);
	REQUIRE_EQ(fake.aborts, 0);
	skep_close(session);
}

/* ------------------------------------------------------------------------------------- waiting */

struct death {
	uint64_t at_ns;
	uint64_t done_ns;
};

static void *die_later(void *arg)
{
	struct death *death = arg;

	while (clock_ns() < death->at_ns)
		usleep(1000);
	death->done_ns = clock_ns();
	fake_kill(&fake);
	return NULL;
}

static void sleeper_wakes_when_the_daemon_dies(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct skep_space *space = unit_space(session, 0);
	struct skep_chain *chain = unit_chain(space, 1, 13);
	struct skep_wait wait = {
		.struct_bytes = sizeof(wait), .chain = chain, .deadline_ns = SKEP_FOREVER};
	uint64_t best = UINT64_MAX, woke;

	for (unsigned i = 0; i < 3; i++) {
		struct death death = {.at_ns = clock_ns() + 50 * NS_PER_MS};
		pthread_t thread;

		fake_block(&fake, chain, 0, ENTRY_PENDING, UNIT_PART_BYTES);
		REQUIRE_EQ(pthread_create(&thread, NULL, die_later, &death), 0);
		REQUIRE_EQ(skep_wait(session, &wait), SKEP_EDOWN);
		woke = clock_ns();
		REQUIRE_EQ(pthread_join(thread, NULL), 0);
		best = MIN_OF(best, woke - MIN_OF(death.done_ns, woke));
		REQUIRE_EQ(skep_wait(session, &wait), SKEP_EDOWN);
		fake_start(&fake);
		unit_await_attached(session, 1);
	}
	REQUIRE(best <= DEATH_SEEN_NS);
	skep_close(session);
}

static bool readable(int fd, int timeout_ms)
{
	struct pollfd one = {.fd = fd, .events = POLLIN};

	return poll(&one, 1, timeout_ms) == 1 && one.revents & POLLIN;
}

static void submit_wait(struct skep *session, struct skep_chain *chain, struct skep_queue *queue,
	uint64_t user, uint64_t deadline_ns)
{
	struct skep_wait wait = {.struct_bytes = sizeof(wait),
		.chain = chain,
		.queue = queue,
		.user = user,
		.deadline_ns = deadline_ns};

	REQUIRE_EQ(skep_wait(session, &wait), 0);
}

/* Every submit yields one event: by its answer, its deadline, or the daemon's death; the
 * descriptor stays the same over a reconnect. */
static void queues_complete_exactly_once(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct skep_space *space = unit_space(session, 0);
	struct skep_chain *chain = unit_chain(space, 1, 14);
	struct skep_event events[300];
	struct skep_queue *queue, *other;
	int fd;

	REQUIRE_EQ(skep_queue_create(session, &queue), 0);
	REQUIRE_EQ(skep_queue_create(session, &other), 0);
	fd = skep_queue_fd(queue);
	fake_block(&fake, chain, 0, ENTRY_PENDING, UNIT_PART_BYTES);
	REQUIRE(!readable(fd, 0));
	/* An answer. */
	fake.waits_end = true;
	submit_wait(session, chain, queue, 1, SKEP_FOREVER);
	REQUIRE(readable(fd, 2000));
	REQUIRE_EQ(skep_queue_take(queue, events, 300), 1);
	REQUIRE(events[0].user == 1 && events[0].status == 0);
	REQUIRE(!readable(fd, 0));
	/* A deadline that the daemon does not keep; what it says later is passed over. */
	fake.deaf = true;
	submit_wait(session, chain, queue, 2, skep_deadline_ms(150));
	REQUIRE_EQ(skep_queue_take(queue, events, 300), 0);
	REQUIRE(readable(fd, 2000));
	REQUIRE_EQ(skep_queue_take(queue, events, 300), 1);
	REQUIRE(events[0].user == 2 && events[0].status == -ETIMEDOUT);
	fake.deaf = false;
	REQUIRE(readable(fd, 2000));
	REQUIRE_EQ(skep_queue_take(queue, events, 300), 0);
	/* Death. */
	fake.waits_end = false;
	for (uint64_t i = 0; i < 256; i++)
		submit_wait(session, chain, queue, 100 + i, SKEP_FOREVER);
	REQUIRE_EQ(skep_wait(session, &(struct skep_wait){.struct_bytes = sizeof(struct skep_wait),
					      .chain = chain,
					      .queue = queue,
					      .deadline_ns = SKEP_FOREVER}),
		-EAGAIN);
	REQUIRE(!readable(fd, 50));
	fake_kill(&fake);
	REQUIRE(readable(fd, 2000));
	for (unsigned taken = 0; taken < 256; taken += 100) {
		unsigned wanted = MIN_OF(256 - taken, 100u);

		REQUIRE_EQ(skep_queue_take(queue, events, 100), wanted);
		for (unsigned i = 0; i < wanted; i++)
			REQUIRE_EQ(events[i].status, SKEP_EDOWN);
		REQUIRE_EQ(readable(fd, 0), taken + wanted < 256);
	}
	REQUIRE_EQ(skep_queue_take(queue, events, 300), 0);
	REQUIRE_EQ(skep_queue_take(other, events, 300), 0);
	/* Another daemon, the same queue. */
	fake_start(&fake);
	unit_await_attached(session, 1);
	fake_block(&fake, chain, 0, ENTRY_PENDING, UNIT_PART_BYTES);
	fake.waits_end = true;
	submit_wait(session, chain, queue, 7, SKEP_FOREVER);
	REQUIRE(readable(fd, 2000));
	REQUIRE_EQ(skep_queue_fd(queue), fd);
	REQUIRE_EQ(skep_queue_take(queue, events, 300), 1);
	REQUIRE(events[0].user == 7 && events[0].status == 0);
	fake.waits_end = false;
	skep_close(session);
}

static void queues_are_bounded_and_used_again(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct skep_space *space = unit_space(session, 0);
	struct skep_chain *chain = unit_chain(space, 1, 15);
	struct resources before;
	struct skep_queue *queues[8], *more;

	fake_block(&fake, chain, 0, ENTRY_PENDING, UNIT_PART_BYTES);
	for (unsigned i = 0; i < 8; i++)
		REQUIRE_EQ(skep_queue_create(session, &queues[i]), 0);
	REQUIRE_EQ(skep_queue_create(session, &more), -EMFILE);
	before = resources_now("fake-");
	for (unsigned round = 0; round < 20; round++) {
		/* Destroyed with something under way: its place is free when that is over. */
		submit_wait(session, chain, queues[3], 1, SKEP_FOREVER);
		skep_queue_destroy(queues[3]);
		while (skep_queue_create(session, &queues[3]) == -EMFILE)
			usleep(1000);
	}
	resources_require(&before, "fake-");
	skep_queue_destroy(NULL);
	REQUIRE_EQ(skep_queue_fd(NULL), -EINVAL);
	skep_close(session);
}

/* -------------------------------------------------------------------------------- many threads */

enum { WORKERS = 4, DEATHS = 12 };

static _Atomic bool workers_stop;

/* One engine thread: everything it asks either works or is a miss, whatever happens to the daemon.
 */
static void *worker(void *arg)
{
	struct skep *session = unit_open(fake.path, SKEP_OPEN_NO_WAIT);
	struct skep_space *space = NULL;
	struct skep_queue *queue;
	uint64_t rounds = 0, submitted = 0, completed = 0;
	struct skep_event events[64];

	unit_await_attached(session, 1);
	while (unit_space_open(session, 0, &space) < 0)
		usleep(1000);
	while (skep_queue_create(session, &queue) < 0)
		usleep(1000);
	while (!workers_stop || completed < submitted) {
		struct skep_chain *chain = unit_chain(space, 3, ++rounds);
		struct skep_match match = match_all(session, chain);
		struct skep_frame frames[3];
		struct skep_reserve reserve = {.struct_bytes = sizeof(reserve),
			.chain = chain,
			.count = 3,
			.deadline_ns = skep_deadline_ms(500)};
		struct skep_commit commit = {.struct_bytes = sizeof(commit),
			.queue = rounds % 2 ? queue : NULL,
			.deadline_ns = skep_deadline_ms(500)};
		int got = workers_stop ? 0 : skep_reserve(session, &reserve, frames);

		REQUIRE(got >= 0 || got == SKEP_EDOWN || got == -ETIMEDOUT);
		for (int i = 0; i < got; i++)
			memset(frames[i].bytes, i, frames[i].length);
		if (got > 0) {
			int done = skep_commit(session, frames, (unsigned)got, &commit);

			if (commit.queue && done > 0)
				submitted += (uint64_t)done;
			REQUIRE(done >= 0 || done == SKEP_EDOWN || done == -ETIMEDOUT ||
				done == -EAGAIN);
			skep_abort(session, frames, (unsigned)got);
		}
		got = skep_queue_take(queue, events, 64);
		REQUIRE(got >= 0);
		completed += (uint64_t)got;
		skep_release(session, &match.pin);
		skep_chain_destroy(chain);
	}
	REQUIRE_EQ(completed, submitted);
	*(uint64_t *)arg = rounds;
	skep_close(session);
	return NULL;
}

static void sessions_of_many_threads_live_through_deaths(uint64_t seed)
{
	pthread_t threads[WORKERS];
	uint64_t rounds[WORKERS], state = seed;

	for (unsigned i = 0; i < WORKERS; i++)
		REQUIRE_EQ(pthread_create(&threads[i], NULL, worker, &rounds[i]), 0);
	for (unsigned i = 0; i < DEATHS; i++) {
		usleep(1000 + unit_random(&state, 60000));
		fake_kill(&fake);
		usleep(unit_random(&state, 20000));
		fake_start(&fake);
	}
	usleep(100000);
	workers_stop = true;
	for (unsigned i = 0; i < WORKERS; i++) {
		REQUIRE_EQ(pthread_join(threads[i], NULL), 0);
		printf("worker %u: %llu rounds\n", i, (unsigned long long)rounds[i]);
	}
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);

	fake_start(&fake);
	session_without_a_daemon_misses_at_once();
	daemon_dies_and_comes_back();
	old_pool_goes_without_a_call();
	space_refused_on_return_is_a_miss();
	memory_is_touched_only_where_the_daemon_was();
	reserved_frames_hold_the_old_pool();
	sleeper_wakes_when_the_daemon_dies();
	queues_complete_exactly_once();
	queues_are_bounded_and_used_again();
	sessions_of_many_threads_live_through_deaths(seed);
	fake_end(&fake);
	return 0;
}
