/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads from the ssd that nobody stands and waits for: every one that was submitted with a queue
 * completes exactly once and in time, whether its blocks come, it is cancelled, its queue goes or
 * the daemon dies; a prefetch brings blocks and holds nothing.
 *
 *	load_test [STORIES] [--seed N]
 */
#include <errno.h>
#include <poll.h>

#include "tests/node/user.h"

enum {
	DRAM_BYTES = 16 << 20,
	PART_BYTES = 64 << 10,
	RANGES = 8,
	BLOCKS = 8,
	STORIES = 80, /* two and a half times the pool */
	FLIGHT = 12,  /* loads at a time */
	ROUNDS = 8,
	MARKED = 500, /* stories */
};

#define SSD_BYTES (192ull << 20)

static const struct shape shape = {.space = "load",
	.block_tokens = 16,
	.parts = 1,
	.ranges = RANGES,
	.part_bytes = PART_BYTES};

/* The client is a process of its own: the daemon is forked by one that has no other thread. */
enum { TOLD_KILL = 1, TOLD_START };

static void parent_does(int line, unsigned what)
{
	note_tell(line, (struct note){.what = what});
	REQUIRE_EQ(note_hear(line).what, what);
}

static void put_all(struct user *user)
{
	for (uint64_t i = 0; i < harness_count; i++) {
		struct story story = story_open(user, i, BLOCKS);
		struct putting what = {.count = BLOCKS, .deadline_ns = skep_deadline_ms(20000)};

		REQUIRE_EQ(story_put(user, &story, &what).status, 0);
		story_close(&story);
	}
	REQUIRE_EQ(skep_sync(user->space, skep_deadline_ms(20000)), 0);
}

/* --------------------------------------------------------------------------------- in flight */

struct flight {
	struct story story;
	struct skep_load load;
	struct skep_ref refs[BLOCKS];
	bool submitted, event;
	int status;
};

static uint32_t step_ranges; /* of the loads that are submitted */

static int submit(
	struct user *user, struct skep_queue *queue, struct flight *flight, uint64_t number)
{
	int status;

	*flight = (struct flight){.story = story_open(user, number, BLOCKS)};
	flight->load = (struct skep_load){.struct_bytes = sizeof(flight->load),
		.chain = flight->story.chain,
		.refs = flight->refs,
		.refs_max = BLOCKS,
		.queue = queue,
		.user = (uint64_t)(uintptr_t)flight,
		.step_ranges = step_ranges,
		.deadline_ns = skep_deadline_ms(5000 * harness_slower())};
	status = skep_load(user->session, &flight->load);
	flight->submitted = status == 0;
	REQUIRE(!flight->submitted || flight->load.handle);
	REQUIRE_EQ(flight->load.loaded, 0);
	return status;
}

/* Takes events until each load of @flights that was submitted has had its own. */
static void land(struct skep_queue *queue, struct flight *flights, unsigned count)
{
	struct pollfd ready = {.fd = skep_queue_fd(queue), .events = POLLIN};
	unsigned left = 0;

	for (unsigned i = 0; i < count; i++)
		left += flights[i].submitted;
	while (left) {
		struct skep_event events[FLIGHT];
		int taken;

		REQUIRE(poll(&ready, 1, 10000 * (int)harness_slower()) == 1);
		taken = skep_queue_take(queue, events, FLIGHT);
		REQUIRE(taken >= 0 && (unsigned)taken <= left);
		left -= (unsigned)taken;
		for (int i = 0; i < taken; i++) {
			struct flight *flight = (struct flight *)(uintptr_t)events[i].user;

			REQUIRE(flight >= flights && flight < flights + count);
			REQUIRE(flight->submitted && !flight->event);
			flight->event = true;
			flight->status = events[i].status;
		}
	}
	/* Readable it may still be: the daemon writes the descriptor after the ring. */
	REQUIRE_EQ(skep_queue_take(queue, &(struct skep_event){0}, 1), 0);
}

/* Return: blocks had. Every byte is looked at. */
static uint32_t unload(struct user *user, struct flight *flight)
{
	int status = skep_load_end(user->session, &flight->load);
	uint32_t loaded = flight->load.loaded;

	REQUIRE(flight->event == flight->submitted);
	/* Why it is not all that was asked for is said. */
	REQUIRE_EQ(loaded == BLOCKS, flight->load.reason == SKEP_REASON_NONE);
	if (status == 0) {
		story_check(user, &flight->story, flight->refs, 0, loaded);
		REQUIRE_EQ(loaded > 0, flight->load.pin.cell > 0);
	} else {
		REQUIRE_EQ(loaded, 0);
	}
	skep_release(user->session, &flight->load.pin);
	/* It has ended. */
	REQUIRE(skep_load_end(user->session, &flight->load) < 0);
	story_close(&flight->story);
	return loaded;
}

static void loads_complete_once(struct user *user, struct skep_queue *queue)
{
	struct flight flights[FLIGHT];
	uint64_t number = 0;

	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < FLIGHT; i++, number++)
			REQUIRE_EQ(submit(user, queue, &flights[i], number % harness_count), 0);
		land(queue, flights, FLIGHT);
		for (unsigned i = 0; i < FLIGHT; i++) {
			REQUIRE_EQ(flights[i].status, 0);
			REQUIRE_EQ(unload(user, &flights[i]), BLOCKS);
		}
	}
	user_wait_idle(user);
}

/* Ranges [first, end) of every block of the run that has them. Return: blocks. */
static uint32_t ranges_copy(
	struct user *user, const struct flight *flight, uint32_t first, uint32_t end)
{
	static uint8_t bytes[BLOCKS][PART_BYTES];
	const size_t share = PART_BYTES / RANGES;
	struct payload_range range = {first * share, (end - first) * share};
	struct iovec to[BLOCKS];
	int blocks = skep_load_reach(user->session, flight->load.handle, end);
	struct skep_load_copy copy = {.struct_bytes = sizeof(copy),
		.space = user->space,
		.handle = flight->load.handle,
		.count = (uint32_t)blocks,
		.first_range = first,
		.range_count = end - first,
		.to = to};

	REQUIRE(blocks >= 0 && blocks <= BLOCKS);
	memset(bytes, 0, sizeof(bytes));
	for (uint32_t i = 0; i < BLOCKS; i++)
		to[i] = (struct iovec){bytes[i], range.bytes};
	if (blocks)
		REQUIRE_EQ(skep_load_copy(user->session, &copy), blocks);
	for (uint32_t i = 0; i < (uint32_t)blocks; i++)
		REQUIRE(payload_check(story_payload(&flight->story, i, 0), range, bytes[i]) ==
			PAYLOAD_RIGHT);
	return (uint32_t)blocks;
}

/* Layer by layer: what is told to be there can be copied, before the load has ended and after. */
static void steps_are_told_and_can_be_copied(struct user *user, struct skep_queue *queue)
{
	struct flight flight;
	uint32_t early = 0;

	for (uint64_t number = 0; number < harness_count; number++) {
		uint32_t had[RANGES] = {0};

		step_ranges = 2;
		REQUIRE_EQ(submit(user, queue, &flight, number), 0);
		while (had[RANGES - 1] < BLOCKS) {
			uint32_t end = 0;

			/* The first step that is not there whole. */
			while (had[end] == BLOCKS)
				end++;
			early += had[RANGES - 1] < BLOCKS && had[end] > 0;
			for (uint32_t i = end; i < RANGES; i++) {
				uint32_t blocks = ranges_copy(user, &flight, i / 2 * 2, i + 1);

				REQUIRE(blocks >= had[i]);
				had[i] = blocks;
			}
		}
		land(queue, &flight, 1);
		REQUIRE_EQ(ranges_copy(user, &flight, 0, RANGES), BLOCKS);
		REQUIRE_EQ(unload(user, &flight), BLOCKS);
		REQUIRE_EQ(skep_load_reach(user->session, flight.load.handle, 1), -ENOENT);
	}
	step_ranges = 0;
	printf("%u times a block was seen that had some of its ranges\n", early);
}

static void results_wait_for_the_event(struct user *user, struct skep_queue *queue)
{
	struct flight flight;
	struct skep_load none = {.struct_bytes = sizeof(none)};
	int status;

	REQUIRE_EQ(skep_load_end(user->session, &none), -ENOENT);
	REQUIRE_EQ(submit(user, queue, &flight, 0), 0);
	do
		status = skep_load_end(user->session, &flight.load);
	while (status == -EAGAIN);
	REQUIRE_EQ(status, 0);
	REQUIRE_EQ(flight.load.loaded, BLOCKS);
	skep_release(user->session, &flight.load.pin);
	land(queue, &flight, 1); /* the event comes all the same */
	story_close(&flight.story);
}

static void cancelled_loads_end_at_once(struct user *user, struct skep_queue *queue)
{
	struct flight flights[FLIGHT];
	uint32_t had = 0;

	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < FLIGHT; i++)
			REQUIRE_EQ(submit(user, queue, &flights[i],
					   (round * FLIGHT + i) % harness_count),
				0);
		for (unsigned i = 0; i < FLIGHT; i++)
			REQUIRE_EQ(skep_load_cancel(user->session, flights[i].load.handle), 0);
		land(queue, flights, FLIGHT);
		for (unsigned i = 0; i < FLIGHT; i++) {
			REQUIRE(flights[i].status == 0 || flights[i].status == -ECANCELED);
			had += unload(user, &flights[i]);
			REQUIRE_EQ(skep_load_cancel(user->session, flights[i].load.handle), 0);
		}
	}
	printf("cancelled: %u of %u blocks were had\n", had, ROUNDS * FLIGHT * BLOCKS);
	REQUIRE(had < ROUNDS * FLIGHT * BLOCKS);
	user_wait_idle(user);
}

static void a_deadline_that_has_passed(struct user *user, struct skep_queue *queue)
{
	struct flight flight = {.story = story_open(user, harness_count / 2, BLOCKS)};

	flight.load = (struct skep_load){.struct_bytes = sizeof(flight.load),
		.chain = flight.story.chain,
		.refs = flight.refs,
		.refs_max = BLOCKS,
		.queue = queue,
		.user = (uint64_t)(uintptr_t)&flight,
		.deadline_ns = 1};
	REQUIRE_EQ(skep_load(user->session, &flight.load), 0);
	flight.submitted = true;
	land(queue, &flight, 1);
	REQUIRE(flight.status == 0 || flight.status == -ETIMEDOUT);
	unload(user, &flight);
	user_wait_idle(user);
}

static uint32_t in_dram(struct user *user, const struct story *story)
{
	struct skep_ref refs[USER_BLOCKS_MAX];

	return story_match(user, story, SKEP_MATCH_PEEK, refs).matched;
}

static void a_prefetch_holds_nothing(struct user *user)
{
	uint64_t until = clock_ns() + 10 * NS_PER_S * harness_slower();
	unsigned brought = 0;

	for (uint64_t i = 0; i < harness_count / 4; i++) {
		struct story story = story_open(user, i, BLOCKS);
		struct skep_load load = {.struct_bytes = sizeof(load),
			.chain = story.chain,
			.flags = SKEP_LOAD_PREFETCH,
			.deadline_ns = skep_deadline_ms(5000 * harness_slower())};

		if (in_dram(user, &story) < BLOCKS) {
			REQUIRE_EQ(skep_load(user->session, &load), 0);
			REQUIRE(load.handle && !load.pin.cell);
			while (in_dram(user, &story) < BLOCKS) {
				REQUIRE(clock_ns() < until);
				usleep(200);
			}
			brought++;
		}
		REQUIRE_EQ(skep_load_cancel(user->session, load.handle), 0);
		story_close(&story);
	}
	REQUIRE(brought > 0);
	REQUIRE_EQ(user_stats(user).pins, 0);
}

static void a_queue_goes_with_its_loads(struct user *user)
{
	struct flight flights[FLIGHT];

	for (unsigned round = 0; round < ROUNDS; round++) {
		struct skep_queue *queue;

		REQUIRE_EQ(skep_queue_create(user->session, &queue), 0);
		for (unsigned i = 0; i < FLIGHT; i++)
			REQUIRE_EQ(submit(user, queue, &flights[i],
					   (round * FLIGHT + i) % harness_count),
				0);
		if (round % 2)
			usleep(2000); /* some are there, and nobody has asked for them */
		skep_queue_destroy(queue);
		for (unsigned i = 0; i < FLIGHT; i++)
			story_close(&flights[i].story);
	}
	user_wait_idle(user);
}

static void what_makes_no_sense_is_refused(struct user *user, struct skep_queue *queue)
{
	struct story story = story_open(user, 0, BLOCKS);
	struct story nobody = story_open(user, 1000000, BLOCKS);
	struct skep_load load = {.struct_bytes = sizeof(load), .chain = story.chain, .flags = 4};

	REQUIRE_EQ(skep_load(user->session, &load), -EINVAL);
	load.flags = SKEP_LOAD_PREFETCH;
	load.queue = queue; /* a prefetch has no event */
	REQUIRE_EQ(skep_load(user->session, &load), -EINVAL);
	load.flags = 0;
	load.chain = nobody.chain;
	REQUIRE_EQ(skep_load(user->session, &load), -ENOENT);
	load = (struct skep_load){
		.struct_bytes = sizeof(load), .chain = story.chain, .step_ranges = 1};
	REQUIRE_EQ(skep_load(user->session, &load), -EINVAL); /* steps are told on a queue */
	REQUIRE_EQ(skep_load_reach(user->session, 0, 1), -ENOENT);
	REQUIRE_EQ(skep_load_cancel(user->session, 0), 0);
	REQUIRE_EQ(skep_load_cancel(user->session, UINT64_MAX), 0);
	story_close(&story);
	story_close(&nobody);
}

/* Nobody syncs: the daemon says by itself what is durable, and means it. */
static uint64_t durable_by_itself(struct user *user)
{
	uint64_t until = clock_ns() + 10 * NS_PER_S * harness_slower(), at;

	for (uint64_t i = 0; i < 8; i++) {
		struct story story = story_open(user, MARKED + i, BLOCKS);

		story_put_all(user, &story);
		story_close(&story);
	}
	at = clock_ns();
	while (skep_durable(user->session, at) == 0) {
		REQUIRE(clock_ns() < until);
		usleep(1000);
	}
	REQUIRE_EQ(skep_durable(user->session, at), 1);
	REQUIRE_EQ(skep_durable(user->session, SKEP_FOREVER), 0);
	return at;
}

static void the_mark_holds(struct user *user, int line, uint64_t at)
{
	uint64_t until = clock_ns() + 10 * NS_PER_S * harness_slower();

	parent_does(line, TOLD_START);
	while (!skep_attached(user->session)) {
		REQUIRE(clock_ns() < until);
		usleep(1000);
	}
	REQUIRE_EQ(skep_durable(user->session, at), -ESTALE);
	for (uint64_t i = 0; i < 8; i++) {
		struct story story = story_open(user, MARKED + i, BLOCKS);

		while (story_load(user, &story) < BLOCKS) /* the space is looked up again */
			REQUIRE(clock_ns() < until);
		story_close(&story);
	}
	/* With nothing new to write it goes on all the same. */
	at = clock_ns();
	while (skep_durable(user->session, at) == 0)
		REQUIRE(clock_ns() < until);
	REQUIRE_EQ(skep_durable(user->session, at), 1);
}

static void the_daemon_dies(struct user *user, int line, struct skep_queue *queue)
{
	struct flight flights[FLIGHT];

	for (unsigned i = 0; i < FLIGHT; i++)
		REQUIRE_EQ(submit(user, queue, &flights[i], i), 0);
	parent_does(line, TOLD_KILL);
	land(queue, flights, FLIGHT);
	for (unsigned i = 0; i < FLIGHT; i++) {
		REQUIRE(flights[i].status == 0 || flights[i].status == SKEP_EDOWN);
		unload(user, &flights[i]);
	}
}

static void client(int line, const void *socket)
{
	struct skep_queue *queue;
	struct user user;
	uint64_t at;

	user_open(&user, socket, &shape);
	REQUIRE_EQ(skep_queue_create(user.session, &queue), 0);
	put_all(&user);
	what_makes_no_sense_is_refused(&user, queue);
	loads_complete_once(&user, queue);
	steps_are_told_and_can_be_copied(&user, queue);
	step_ranges = 3;
	loads_complete_once(&user, queue);
	cancelled_loads_end_at_once(&user, queue);
	a_queue_goes_with_its_loads(&user);
	step_ranges = 0;
	results_wait_for_the_event(&user, queue);
	cancelled_loads_end_at_once(&user, queue);
	a_deadline_that_has_passed(&user, queue);
	a_prefetch_holds_nothing(&user);
	a_queue_goes_with_its_loads(&user);
	loads_complete_once(&user, queue);
	at = durable_by_itself(&user);
	the_daemon_dies(&user, line, queue);
	the_mark_holds(&user, line, at);
	skep_queue_destroy(queue);
	user_close(&user);
}

int main(int argc, char **argv)
{
	struct daemon keeper;
	struct child child;

	harness_begin(&(struct harness_options){
		.argc = argc, .argv = argv, .seconds = 30, .count = STORIES});
	daemon_init(&keeper, (struct daemon_size){.dram_bytes = DRAM_BYTES, .blocks = 8192});
	keeper.realms[0].ssd_bytes = SSD_BYTES;
	daemon_ssd_add(&keeper, "ssd", SSD_BYTES + (16 << 20));
	daemon_start(&keeper);
	child_start(&child, "the client", client, keeper.config.socket_path);
	REQUIRE_EQ(note_hear(child.line).what, TOLD_KILL);
	daemon_kill(&keeper);
	note_tell(child.line, (struct note){.what = TOLD_KILL});
	REQUIRE_EQ(note_hear(child.line).what, TOLD_START);
	daemon_start(&keeper);
	note_tell(child.line, (struct note){.what = TOLD_START});
	child_finish(&child);
	daemon_stop(&keeper);
	return 0;
}
