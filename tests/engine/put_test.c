/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reserving and committing: what is asked is checked, every way of commit ends each frame once, and
 * a daemon that says nothing costs no more than the deadline.
 */
#include <poll.h>

#include "base/status.h"
#include "engine/client/client_priv.h"
#include "tests/engine/client_unit.h"
#include "tests/engine/fake.h"

static struct fake fake = {.secret = 4};

static bool readable(int fd, int timeout_ms)
{
	struct pollfd one = {.fd = fd, .events = POLLIN};

	return poll(&one, 1, timeout_ms) == 1 && one.revents & POLLIN;
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

/* Each call of a put ends by the deadline; what was reserved is given back or was the daemon's. */
static void put_survives_the_daemon(void)
{
	static uint8_t bytes[UNIT_PART_BYTES];
	struct skep *session = unit_open(fake.path, 0);
	struct skep_chain *chain = unit_chain(unit_space(session, 0), 4, 19);
	struct iovec from[4];
	int32_t statuses[4];
	struct skep_put put = {.struct_bytes = sizeof(put),
		.chain = chain,
		.count = 4,
		.from = from,
		.statuses = statuses,
		.deadline_ns = skep_deadline_ms(2000)};

	for (unsigned i = 0; i < 4; i++)
		from[i] = (struct iovec){.iov_base = bytes, .iov_len = sizeof(bytes)};
	REQUIRE_EQ(skep_put(session, &put), 4);
	REQUIRE_EQ(session->current->holds, 0);
	fake.deaf = true;
	put.deadline_ns = 0;
	REQUIRE_EQ(skep_put(session, &put), -ETIMEDOUT);
	fake.deaf = false;
	fake_kill(&fake);
	unit_await_attached(session, 0);
	memset(statuses, 1, sizeof(statuses));
	put.deadline_ns = skep_deadline_ms(50);
	REQUIRE_EQ(skep_put(session, &put), SKEP_EDOWN);
	for (unsigned i = 0; i < 4; i++)
		REQUIRE_EQ(statuses[i], SKEP_EDOWN);
	fake_start(&fake);
	unit_await_attached(session, 1);
	put.deadline_ns = skep_deadline_ms(2000);
	REQUIRE_EQ(skep_put(session, &put), 4);
	skep_close(session);
}

int main(int argc, char **argv)
{
	unit_seed(argc, argv);
	fake_start(&fake);
	silent_daemon_costs_no_more_than_the_deadline();
	frames_go_through_all_ways_of_commit();
	reserve_checks_what_it_is_asked();
	put_survives_the_daemon();
	fake_end(&fake);
	return 0;
}
