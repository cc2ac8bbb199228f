/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions: opening against a daemon that is not there, says nonsense, dies or comes back; nothing
 * leaks, nobody waits longer than he said, and every submit completes once.
 */
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include "base/memory.h"
#include "base/status.h"
#include "engine/client/client_priv.h"
#include "tests/engine/client_unit.h"
#include "tests/engine/fake.h"

static struct fake fake = {.secret = 3};

/* What the promise says, but for a machine that is busy with other tests: the best of some. */
#define DEATH_SEEN_NS (100 * NS_PER_MS)

/* ---------------------------------------------------------------------------------- opening */

static int open_status(const char *where, uint32_t flags, uint64_t deadline_ns)
{
	struct skep_open_options options = {
		.struct_bytes = sizeof(options), .flags = flags, .deadline_ns = deadline_ns};
	struct skep *session = NULL;
	int status = skep_open(where, &options, &session);

	REQUIRE_EQ(status == 0, session != NULL);
	skep_close(session);
	return status;
}

static void opening_without_a_daemon_says_so(void)
{
	char long_path[200];

	memset(long_path, 'a', sizeof(long_path));
	long_path[sizeof(long_path) - 1] = 0;
	REQUIRE_EQ(open_status("/tmp/skep-nobody-here.sock", 0, 0), -ENOENT);
	REQUIRE_EQ(open_status("unix:/tmp/skep-nobody-here.sock", 0, 0), -ENOENT);
	REQUIRE_EQ(open_status(long_path, 0, 0), -ENAMETOOLONG);
	REQUIRE_EQ(open_status("embedded:dram=1GiB", 0, 0), -ENOTSUP);
	REQUIRE_EQ(open_status("/tmp/skep-nobody-here.sock", 4, 0), -EINVAL);
	REQUIRE_EQ(open_status("/tmp/skep-nobody-here.sock", SKEP_OPEN_NO_WAIT, 0), 0);
	REQUIRE_EQ(setenv("SKEP_SOCKET", "/tmp/skep-nobody-here.sock", 1), 0);
	REQUIRE_EQ(open_status(NULL, 0, 0), -ENOENT);
	REQUIRE_EQ(skep_open(NULL, NULL, NULL), -EINVAL);
	skep_close(NULL);
}

static void options_are_read_by_their_size(void)
{
	struct {
		struct skep_open_options options;
		uint64_t unknown;
	} later = {.options = {.struct_bytes = sizeof(later), .flags = SKEP_OPEN_NO_WAIT}};
	struct skep *session = NULL;

	REQUIRE_EQ(skep_open(fake.path, &later.options, &session), 0);
	skep_close(session);
	later.unknown = 1; /* says something that this library does not know */
	REQUIRE_EQ(skep_open(fake.path, &later.options, &session), -E2BIG);
	later.options.struct_bytes = sizeof(later.options) - 1;
	REQUIRE_EQ(skep_open(fake.path, &later.options, &session), -EINVAL);
}

static void wrong_answers_are_refused_by_name(void)
{
	static const int wanted[] = {
#define X(name, status) status,
		FAKE_FAULT_TABLE(X)
#undef X
	};
	struct resources before;

	REQUIRE_EQ(open_status(fake.path, 0, 0), 0);
	usleep(20000);
	before = resources_now("fake-");
	for (int fault = 1; fault < FAKE_FAULT_COUNT; fault++) {
		fake.fault = fault;
		printf("fault %d\n", fault);
		REQUIRE_EQ(
			open_status(fake.path, 0, fault == FAKE_SILENT ? skep_deadline_ms(50) : 0),
			wanted[fault]);
		usleep(20000); /* the daemon sees that we hung up */
		resources_require(&before, "fake-");
	}
	fake.fault = FAKE_NONE;
	REQUIRE_EQ(open_status(fake.path, 0, 0), 0);
	usleep(20000);
	resources_require(&before, "fake-");
}

/* Descriptors run out at each place in turn. */
static void few_descriptors_are_an_error_and_no_leak(void)
{
	struct resources before;
	struct rlimit limit, small;
	bool opened = false;

	usleep(20000);
	before = resources_now("fake-");
	REQUIRE_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
	/* The daemon needs some too: it is of this process. So all but the first few are taken. */
	for (unsigned room = 0; !opened; room++) {
		unsigned top = 0;
		int status;

		for (int fd = 0; fd < 1024; fd++)
			if (fcntl(fd, F_GETFD) >= 0)
				top = (unsigned)fd;
		small = limit;
		small.rlim_cur = top + 1 + room;
		REQUIRE_EQ(setrlimit(RLIMIT_NOFILE, &small), 0);
		status = open_status(fake.path, 0, skep_deadline_ms(100));
		REQUIRE_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
		opened = status == 0;
		REQUIRE(room < 64);
		if (!opened)
			REQUIRE(status == -EMFILE || status == -ETIMEDOUT || status == SKEP_EDOWN ||
				status == -EPROTO);
		usleep(20000);
		resources_require(&before, "fake-");
	}
}

static void space_options_are_checked_by_name(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct skep_part_layout parts[2] = {{.bytes = 8192, .ranges = 2}, {.bytes = 4096}};
	struct skep_space_options good = {.struct_bytes = sizeof(good),
		.name = "space",
		.block_tokens = 16,
		.part_count = 2,
		.parts = parts};
	struct skep_space_options bad;
	struct skep_space *space;
	char long_text[300];

	memset(long_text, 'm', sizeof(long_text));
	long_text[sizeof(long_text) - 1] = 0;
#define REFUSED(change, status, field)                                                             \
	do {                                                                                       \
		bad = good;                                                                        \
		change;                                                                            \
		REQUIRE_EQ(skep_space_open(session, &bad, &space), status);                        \
		REQUIRE_TEXT(skep_space_field(session), field);                                    \
	} while (0)
	REFUSED(bad.name = NULL, -EINVAL, "name");
	REFUSED(bad.name = "", -EINVAL, "name");
	REFUSED(bad.name = long_text, -EINVAL, "name");
	REFUSED(bad.model = long_text, -EINVAL, "model");
	REFUSED(bad.engine = long_text, -EINVAL, "engine");
	REFUSED(bad.block_tokens = 0, -EINVAL, "block_tokens");
	REFUSED(bad.block_tokens = 16385, -EINVAL, "block_tokens");
	REFUSED(bad.groups = 2, -ENOTSUP, "groups");
	REFUSED(bad.part_count = 0, -EINVAL, "part_count");
	REFUSED(bad.part_count = 65, -EINVAL, "part_count");
	REFUSED(bad.parts = NULL, -EINVAL, "parts");
	REFUSED(bad.flags = 2, -EINVAL, "flags");
	REFUSED(parts[1].bytes = 0, -EINVAL, "parts[1].bytes");
	parts[1].bytes = 4096;
	REFUSED(parts[1].ranges = 2, -EINVAL, "parts[1].ranges");
	parts[1].ranges = 3;
	REFUSED((void)0, -EINVAL, "parts[1].ranges");
	parts[1].ranges = 0;
	REFUSED(parts[1].rank = 1, -EINVAL, "parts[1].rank");
	parts[1].rank = 0;
	REFUSED(parts[0].group = 1, -EINVAL, "parts[0].group");
	parts[0].group = 0;
	REFUSED(bad.name = "differs", SKEP_EDIFFERS, "model");
#undef REFUSED
	REQUIRE_EQ(skep_space_open(session, NULL, &space), -EINVAL);
	REQUIRE_EQ(skep_space_open(session, &good, &space), 0);
	REQUIRE_TEXT(skep_space_field(session), "");
	skep_space_close(space);
	for (unsigned i = 0; i < 64; i++)
		REQUIRE_EQ(skep_space_open(session, &good, &space), 0);
	REQUIRE_EQ(skep_space_open(session, &good, &space), -ENOSPC);
	skep_space_close(space);
	REQUIRE_EQ(skep_space_open(session, &good, &space), 0);
	REQUIRE_EQ(skep_space_purge(space, skep_deadline_ms(1000)), 7);
	skep_close(session);
}

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
	usleep(50000);
	before = resources_now("fake-");
	for (unsigned i = 0; i < 4; i++) {
		if (i == 2)
			fake.secret++; /* another secret: chains are hashed anew */
		best = MIN_OF(best, death_and_return(session, chain));
	}
	printf("death seen after %.1f ms\n", (double)best / 1e6);
	REQUIRE(best <= DEATH_SEEN_NS);
	usleep(200000);
	resources_require(&before, "fake-");
	skep_close(session);
}

/* An engine that makes no call must not keep the old pool alive. */
static void old_pool_goes_without_a_call(void)
{
	struct resources before = resources_now("fake-"), now;
	struct skep *session = unit_open(fake.path, 0);
	uint64_t until = clock_ns() + 2 * NS_PER_S;

	fake_kill(&fake);
	do {
		REQUIRE(clock_ns() < until);
		usleep(5000);
		now = resources_now("fake-");
	} while (now.mappings);
	(void)before;
	fake_start(&fake);
	unit_await_attached(session, 1);
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

/* The daemon is there and says nothing: calls end by their deadlines, late answers do no harm. */
static void silent_daemon_costs_no_more_than_the_deadline(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct skep_space *space = unit_space(session, 0);
	struct skep_chain *chain = unit_chain(space, 4, 16);
	struct skep_frame frames[4];
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve), .chain = chain, .count = 4};
	struct skep_stats stats = {.struct_bytes = sizeof(stats)};
	uint64_t began = clock_ns();
	unsigned aborts = fake.aborts;

	fake.deaf = fake.mute = true;
	usleep(20000);
	REQUIRE_EQ(skep_reserve(session, &reserve, frames), -ETIMEDOUT);
	REQUIRE_EQ(skep_reserve(session, &reserve, frames), -ETIMEDOUT);
	REQUIRE_EQ(skep_stats(session, skep_deadline_ms(150), &stats), -ETIMEDOUT);
	REQUIRE(clock_ns() - began < 5 * NS_PER_S);
	fake.deaf = fake.mute = false;
	/* What was answered too late is given back, and the next answer is not the last one's. */
	reserve.deadline_ns = skep_deadline_ms(2000);
	REQUIRE_EQ(skep_reserve(session, &reserve, frames), 4);
	fake_await(&fake.aborts, aborts + 1);
	REQUIRE_EQ(fake_last(&fake, &fake.last_abort).count, 4);
	REQUIRE_EQ(skep_space_purge(space, skep_deadline_ms(2000)), 7);
	REQUIRE_EQ(skep_stats(session, skep_deadline_ms(2000), &stats), 0);
	REQUIRE_EQ(skep_abort(session, frames, 4), 0);
	fake_await(&fake.aborts, aborts + 2);
	skep_close(session);
}

/* ---------------------------------------------------------------------------------------- put */

static void frames_go_through_all_ways_of_commit(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct skep_space *space = unit_space(session, 0);
	struct skep_chain *chain = unit_chain(space, 40, 17);
	struct skep_frame frames[40];
	struct skep_event events[64];
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve),
		.chain = chain,
		.count = 40,
		.deadline_ns = skep_deadline_ms(5000)};
	struct skep_commit commit = {.struct_bytes = sizeof(commit), .deadline_ns = SKEP_FOREVER};
	uint64_t sums[40] = {0};
	unsigned seen = 0;

	REQUIRE_EQ(skep_queue_create(session, &commit.queue), 0);
	for (uint32_t way = 0; way < 6; way++) {
		struct skep_queue *queue = commit.queue;

		REQUIRE_EQ(skep_reserve(session, &reserve, frames), 40);
		for (unsigned i = 0; i < 40; i++) {
			REQUIRE_EQ(frames[i].block, i);
			memset(frames[i].bytes, (int)i, frames[i].length);
			sums[i] = skep_range_sum(frames[i].bytes, frames[i].length);
		}
		commit.sums = way % 3;
		commit.given = sums;
		commit.queue = way < 3 ? NULL : queue;
		REQUIRE_EQ(skep_commit(session, frames, 40, &commit), 40);
		commit.queue = queue;
		for (unsigned i = 0; i < 40; i++)
			REQUIRE_EQ(frames[i].status, way < 3 ? 0 : SKEP_EPENDING);
		/* A frame is committed once. */
		REQUIRE_EQ(skep_commit(session, frames, 40, NULL), 0);
		REQUIRE_EQ(skep_abort(session, frames, 40), 0);
		seen = 0;
		while (way >= 3 && seen < 40) {
			REQUIRE(readable(skep_queue_fd(queue), 2000));
			int got = skep_queue_take(queue, events, 64);

			for (int i = 0; i < got; i++)
				REQUIRE(events[i].status == 0 && events[i].block < 40);
			seen += (unsigned)got;
		}
	}
	REQUIRE_EQ(session->current->holds, 0);
	commit.sums = 3;
	REQUIRE_EQ(skep_commit(session, frames, 1, &commit), -EINVAL);
	commit.sums = SKEP_SUMS_GIVEN;
	commit.given = NULL;
	REQUIRE_EQ(skep_commit(session, frames, 1, &commit), -EINVAL);
	skep_close(session);
}

static void reserve_checks_what_it_is_asked(void)
{
	struct skep *session = unit_open(fake.path, 0), *reader;
	struct skep_space *space = unit_space(session, 0), *opaque = unit_space(session, 1);
	struct skep_chain *chain = unit_chain(space, 4, 18), *keys;
	struct skep_frame frames[8];
	struct skep_reserve good = {.struct_bytes = sizeof(good), .chain = chain, .count = 4},
			    bad = good;

	bad.count = 5;
	REQUIRE_EQ(skep_reserve(session, &bad, frames), -ERANGE);
	bad = good;
	bad.first = 5;
	REQUIRE_EQ(skep_reserve(session, &bad, frames), -ERANGE);
	bad = good;
	bad.part = 1;
	REQUIRE_EQ(skep_reserve(session, &bad, frames), -ERANGE);
	bad = good;
	bad.count = 0;
	REQUIRE_EQ(skep_reserve(session, &bad, frames), -EINVAL);
	bad = good;
	bad.length = 100;
	REQUIRE_EQ(skep_reserve(session, &bad, frames), -EINVAL);
	bad = good;
	bad.struct_bytes = 0;
	REQUIRE_EQ(skep_reserve(session, &bad, frames), -EINVAL);
	REQUIRE_EQ(skep_reserve(session, &good, NULL), -EINVAL);
	REQUIRE_EQ(skep_reserve(session, NULL, frames), -EINVAL);
	/* The block before it is not there: where to begin is named. */
	bad = good;
	bad.first = 2;
	bad.count = 1;
	REQUIRE_EQ(skep_reserve(session, &bad, frames), SKEP_EPARENT);
	REQUIRE_EQ(bad.first_missing, 0);
	REQUIRE_EQ(skep_chain_create(opaque, &keys), 0);
	REQUIRE_EQ(skep_chain_append_key(keys, "sixteen bytes...", 16, NULL, 0), 1);
	bad = (struct skep_reserve){.struct_bytes = sizeof(bad),
		.chain = keys,
		.count = 1,
		.length = UNIT_PART_BYTES + 1};
	REQUIRE_EQ(skep_reserve(session, &bad, frames), -EINVAL);
	bad.length = 100;
	REQUIRE_EQ(skep_reserve(session, &bad, frames), 1);
	REQUIRE_EQ(skep_abort(session, frames, 1), 0);
	reader = unit_open(fake.path, SKEP_OPEN_READONLY);
	good.chain = unit_chain(unit_space(reader, 0), 4, 18);
	REQUIRE_EQ(skep_reserve(reader, &good, frames), -EROFS);
	skep_close(reader);
	skep_close(session);
}

/* -------------------------------------------------------------------------- fork, threads, memory
 */

static int in_child(struct skep *session, struct skep_space *space, struct skep_chain *chain,
	struct skep_queue *queue)
{
	struct skep_match match = {
		.struct_bytes = sizeof(match), .chain = chain, .flags = SKEP_MATCH_PIN};
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve), .chain = chain, .count = 1};
	struct skep_wait wait = {.struct_bytes = sizeof(wait), .chain = chain};
	struct skep_stats stats = {.struct_bytes = sizeof(stats)};
	struct skep_explanation why = {.struct_bytes = sizeof(why)};
	struct skep_copy copy = {.struct_bytes = sizeof(copy), .space = space};
	struct skep_space_options options = {.struct_bytes = sizeof(options)};
	struct skep_pin pin = {.cell = 1, .epoch = 1};
	struct skep_ref ref = {0};
	struct skep_view view;
	struct skep_frame frame = {0};
	struct skep_event event;
	struct skep_space *new_space;
	struct skep_chain *new_chain;
	struct skep_queue *new_queue;
	struct skep *own;
	uint32_t token = 1, block;
	uint8_t id[16];

#define DEAD(call)                                                                                 \
	do {                                                                                       \
		if ((call) != -EOWNERDEAD)                                                         \
			return __LINE__;                                                           \
	} while (0)
	DEAD(skep_attached(session));
	DEAD(skep_match(session, &match, 1));
	DEAD(skep_pin_refs(session, &ref, 1, &pin));
	DEAD(skep_view(session, &ref, 0, &view));
	DEAD(skep_copy(session, &copy));
	DEAD(skep_reserve(session, &reserve, &frame));
	DEAD(skep_commit(session, &frame, 1, NULL));
	DEAD(skep_abort(session, &frame, 1));
	DEAD(skep_missing(session, chain, 0, 0, &block, 1));
	DEAD(skep_wait(session, &wait));
	DEAD(skep_hint(session, chain, 0, 1));
	DEAD(skep_explain(session, chain, 0, &why));
	DEAD(skep_stats(session, 0, &stats));
	DEAD(skep_space_open(session, &options, &new_space));
	DEAD(skep_space_purge(space, 0));
	DEAD(skep_space_step(space, 0));
	DEAD(skep_chain_create(space, &new_chain));
	DEAD(skep_chain_append(chain, &token, 1));
	DEAD(skep_chain_extra(chain, "a", 1));
	DEAD(skep_chain_id(chain, 0, id));
	DEAD(skep_queue_create(session, &new_queue));
	DEAD(skep_queue_fd(queue));
	DEAD(skep_queue_take(queue, &event, 1));
#undef DEAD
	if (skep_chain_blocks(chain) != 0)
		return __LINE__;
	skep_release(session, &pin);
	skep_chain_truncate(chain, 0);
	skep_chain_destroy(chain);
	skep_queue_destroy(queue);
	skep_space_close(space);
	skep_close(session);
#if defined(__SANITIZE_THREAD__)
	puts("TSan takes no threads in a child of fork(): a session of its own is not tried");
	return 0;
#endif
	/* A session of its own works. */
	if (skep_open(fake.path, NULL, &own) || skep_attached(own) != 1)
		return __LINE__;
	match.chain = unit_chain(unit_space(own, 0), 1, 20);
	if (skep_match(own, &match, 1) || match.matched != 1)
		return __LINE__;
	skep_release(own, &match.pin);
	skep_close(own);
	return 0;
}

static void child_of_fork_touches_nothing(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct skep_space *space = unit_space(session, 0);
	struct skep_chain *chain = unit_chain(space, 1, 20);
	struct skep_queue *queue;
	struct skep_match match;
	int status;
	pid_t child;

	fake_block(&fake, chain, 0, ENTRY_PRESENT, UNIT_PART_BYTES);
	REQUIRE_EQ(skep_queue_create(session, &queue), 0);
	match = match_all(session, chain);
	REQUIRE_EQ(match.matched, 1);
	child = fork();
	if (child == 0) {
		int line = in_child(session, space, chain, queue);

		if (line)
			fprintf(stderr, "in the child: line %d\n", line);
		_exit(line != 0);
	}
	REQUIRE(child > 0 && waitpid(child, &status, 0) == child);
	REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	/* The parent's pin stands as it stood. */
	REQUIRE(session->current->pins[match.pin.cell].generation >= 2000);
	skep_release(session, &match.pin);
	skep_close(session);
}

static void second_thread_in_a_session_is_told(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct skep_stats stats = {.struct_bytes = sizeof(stats)};

	atomic_store(&session->busy, 1); /* as if another thread were inside */
	REQUIRE_EQ(skep_stats(session, 0, &stats), -EBUSY);
	REQUIRE_EQ(skep_match(session, NULL, 0), -EBUSY);
	atomic_store(&session->busy, 0);
	skep_close(session);
}

/* A count is no error. */
static int failing(int status)
{
	return status < 0 ? status : 0;
}

/* One of everything; the first error ends it. */
static int use_everything(void)
{
	struct skep_part_layout part = {.bytes = 4096};
	struct skep_space_options options = {.struct_bytes = sizeof(options),
		.name = "space",
		.block_tokens = 16,
		.part_count = 1,
		.parts = &part};
	struct skep_space_options opaque = options;
	uint32_t tokens[1000] = {0};
	struct skep_space *space;
	struct skep_chain *chain, *keys;
	struct skep_queue *queue;
	struct skep_ref refs[4] = {0};
	struct skep_pin pin;
	struct skep *session;
	int status = skep_open(fake.path, NULL, &session);

	if (status)
		return status;
	opaque.name = "opaque";
	opaque.flags = SKEP_SPACE_OPAQUE;
	status = skep_space_open(session, &options, &space);
	if (!status)
		status = skep_chain_create(space, &chain);
	if (!status)
		status = failing(skep_chain_append(chain, tokens, 500));
	if (!status)
		status = skep_chain_extra(chain, "extra", 5);
	if (!status)
		status = failing(skep_chain_append(chain, tokens, 1000));
	if (!status)
		status = failing(skep_chain_append(chain, tokens, 1000));
	if (!status)
		status = skep_space_open(session, &opaque, &space);
	if (!status)
		status = skep_chain_create(space, &keys);
	if (!status)
		status = failing(skep_chain_append_key(keys, tokens, 64, tokens, 16));
	if (!status)
		status = skep_queue_create(session, &queue);
	if (!status)
		status = skep_pin_refs(session, refs, 4, &pin);
	skep_close(session);
	return status;
}

static void every_allocation_may_fail(void)
{
	struct resources before;
	unsigned failed = 0;

	REQUIRE_EQ(use_everything(), 0);
	usleep(20000);
	before = resources_now("fake-");
	for (unsigned long nth = 1;; nth++) {
		int status;

		memory_fail_after(nth, 0);
		status = use_everything();
		memory_fail_after(0, 0);
		if (status == 0)
			break;
		REQUIRE_EQ(status == -EAGAIN ? -ENOMEM : status, -ENOMEM);
		failed++;
		usleep(10000);
		resources_require(&before, "fake-");
	}
	printf("%u allocations failed in turn\n", failed);
	REQUIRE(failed > 20);
}

int main(int argc, char **argv)
{
	unit_seed(argc, argv);
	fake_start(&fake);
	opening_without_a_daemon_says_so();
	options_are_read_by_their_size();
	wrong_answers_are_refused_by_name();
	few_descriptors_are_an_error_and_no_leak();
	space_options_are_checked_by_name();
	session_without_a_daemon_misses_at_once();
	daemon_dies_and_comes_back();
	old_pool_goes_without_a_call();
	reserved_frames_hold_the_old_pool();
	sleeper_wakes_when_the_daemon_dies();
	queues_complete_exactly_once();
	queues_are_bounded_and_used_again();
	silent_daemon_costs_no_more_than_the_deadline();
	frames_go_through_all_ways_of_commit();
	reserve_checks_what_it_is_asked();
	child_of_fork_touches_nothing();
	second_thread_in_a_session_is_told();
	every_allocation_may_fail();
	fake_end(&fake);
	return 0;
}
