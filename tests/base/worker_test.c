/* SPDX-License-Identifier: Apache-2.0 */
/* Mailboxes and workers: every message runs exactly once, in its place, and none is forgotten. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/loop/mailbox.h"
#include "base/loop/worker.h"
#include "base/memory.h"
#include "tests/base/backend.h"

enum {
	PRODUCERS = 4,
	MESSAGES = 20000, /* a producer */
};

static enum loop_backend backend;

static struct loop *loop_make(void)
{
	struct loop_options options = {.backend = backend};
	struct loop *loop;

	REQUIRE_EQ(loop_create(&options, &loop), 0);
	return loop;
}

static struct mailbox *mailbox_make(struct loop *loop, uint32_t capacity)
{
	struct mailbox *mailbox;

	REQUIRE_EQ(mailbox_create(loop, capacity, &mailbox), 0);
	return mailbox;
}

/* --- what arrives, and in which order --------------------------------------------------------- */

struct inbox {
	struct mailbox *mailbox;
	pthread_t reader;
	uint64_t next[PRODUCERS]; /* not atomic: only the loop's thread touches it */
	uint64_t total;
};

/* The longest block that fits, so that each byte of it is checked. */
struct letter {
	struct inbox *inbox;
	uint64_t producer, number;
	unsigned char filler[MAILBOX_ARGUMENT_BYTES - 24];
};

_Static_assert(sizeof(struct letter) == MAILBOX_ARGUMENT_BYTES, "a letter fills the block");

static void letter_arrive(void *argument)
{
	struct letter *letter = argument;
	struct inbox *inbox = letter->inbox;

	REQUIRE(pthread_equal(pthread_self(), inbox->reader));
	REQUIRE_EQ(letter->number, inbox->next[letter->producer]);
	for (size_t i = 0; i < sizeof(letter->filler); i++)
		REQUIRE_EQ(letter->filler[i], (unsigned char)(letter->number * 7 + i));
	inbox->next[letter->producer]++;
	inbox->total++;
}

static int letter_post(struct inbox *inbox, uint64_t producer, uint64_t number)
{
	struct letter letter = {.inbox = inbox, .producer = producer, .number = number};

	for (size_t i = 0; i < sizeof(letter.filler); i++)
		letter.filler[i] = (unsigned char)(number * 7 + i);
	return mailbox_post(inbox->mailbox, letter_arrive, &letter, sizeof(letter));
}

struct producer {
	struct inbox *inbox;
	uint64_t number, random;
	uint64_t refused;
};

static void *produce(void *argument)
{
	struct producer *producer = argument;

	for (uint64_t i = 0; i < MESSAGES; i++) {
		int rc;

		while ((rc = letter_post(producer->inbox, producer->number, i)) == -EAGAIN) {
			producer->refused++;
			sched_yield();
		}
		REQUIRE_EQ(rc, 0);
		/* Now and then a pause, so that the loop falls asleep between messages. */
		if (unit_random(&producer->random, 500) == 0)
			usleep(unit_random(&producer->random, 300));
	}
	return NULL;
}

/* The loop sleeps without end: a lost wake-up shows as a test out of time. */
static void every_message_arrives_once_and_in_order(uint64_t *random)
{
	static const uint32_t capacities[] = {1, 2, 64, 4096};

	for (size_t c = 0; c < ARRAY_COUNT(capacities); c++) {
		struct loop *loop = loop_make();
		struct inbox inbox = {
			.mailbox = mailbox_make(loop, capacities[c]),
			.reader = pthread_self(),
		};
		struct producer producers[PRODUCERS];
		pthread_t threads[PRODUCERS];
		uint64_t refused = 0;

		for (uint64_t i = 0; i < PRODUCERS; i++) {
			*random = mix64(*random);
			producers[i] =
				(struct producer){.inbox = &inbox, .number = i, .random = *random};
			REQUIRE_EQ(pthread_create(&threads[i], NULL, produce, &producers[i]), 0);
		}
		while (inbox.total < PRODUCERS * MESSAGES)
			REQUIRE(loop_run_once(loop, CLOCK_NEVER) >= 0);
		for (int i = 0; i < PRODUCERS; i++) {
			pthread_join(threads[i], NULL);
			refused += producers[i].refused;
			REQUIRE_EQ(inbox.next[i], MESSAGES);
		}
		printf("room for %u: %llu of %d posts were refused at first\n", capacities[c],
			(unsigned long long)refused, PRODUCERS * MESSAGES);
		REQUIRE_EQ(loop_run_once(loop, 0), 0);
		REQUIRE_EQ(mailbox_waiting(inbox.mailbox), 0);
		mailbox_destroy(inbox.mailbox);
		loop_destroy(loop);
	}
}

static void a_full_mailbox_says_so_and_takes_nothing(void)
{
	struct loop *loop = loop_make();
	struct inbox inbox = {.mailbox = mailbox_make(loop, 5), .reader = pthread_self()};
	uint64_t number = 0;

	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 8; i++)
			REQUIRE_EQ(letter_post(&inbox, 0, number++), 0);
		REQUIRE_EQ(letter_post(&inbox, 0, number), -EAGAIN);
		REQUIRE_EQ(mailbox_waiting(inbox.mailbox), 8);
		REQUIRE_EQ(loop_run_once(loop, CLOCK_NEVER), 8);
		REQUIRE_EQ(inbox.total, number);
	}
	/* What is left at the end is run then. */
	REQUIRE_EQ(letter_post(&inbox, 0, number++), 0);
	mailbox_destroy(inbox.mailbox);
	REQUIRE_EQ(inbox.total, number);
	loop_destroy(loop);
}

struct chain {
	struct mailbox *mailbox;
	uint32_t *calls;
	const bool *ends;
};

static void chain_on(void *argument)
{
	struct chain *chain = argument;

	++*chain->calls;
	if (!*chain->ends)
		REQUIRE_EQ(mailbox_post(chain->mailbox, chain_on, chain, sizeof(*chain)), 0);
}

static void messages_that_post_messages_do_not_hold_the_loop_up(void)
{
	struct loop *loop = loop_make();
	struct mailbox *mailbox = mailbox_make(loop, 4);
	uint32_t calls = 0;
	bool ends = false;
	struct chain chain = {.mailbox = mailbox, .calls = &calls, .ends = &ends};

	REQUIRE_EQ(mailbox_post(mailbox, chain_on, &chain, sizeof(chain)), 0);
	for (uint32_t turn = 1; turn < 10; turn++) {
		REQUIRE_EQ(loop_run_once(loop, CLOCK_NEVER), 4);
		REQUIRE_EQ(calls, 4 * turn);
	}
	ends = true;
	mailbox_destroy(mailbox);
	REQUIRE_EQ(calls, 37);
	loop_destroy(loop);
}

/* --- run there and wait ----------------------------------------------------------------------- */

struct served {
	struct loop *loop;
	struct mailbox *mailbox;
	bool stop;
	uint64_t sum; /* the serving thread's own */
};

struct addition {
	struct served *served;
	uint64_t add, sum_after;
};

static void add_there(void *argument)
{
	struct addition *addition = argument;

	addition->served->sum += addition->add;
	addition->sum_after = addition->served->sum;
}

static void stop_there(void *argument)
{
	((struct served *)argument)->stop = true;
}

static void *serve(void *argument)
{
	struct served *served = argument;

	while (!served->stop)
		REQUIRE(loop_run_once(served->loop, CLOCK_NEVER) >= 0);
	return NULL;
}

static void *call_often(void *argument)
{
	struct served *served = argument;

	for (int i = 0; i < 2000; i++) {
		struct addition addition = {.served = served, .add = 1};
		int rc;

		while ((rc = mailbox_call(served->mailbox, add_there, &addition)) == -EAGAIN)
			sched_yield();
		REQUIRE_EQ(rc, 0);
		REQUIRE(addition.sum_after > 0);
	}
	return NULL;
}

static void a_call_returns_when_it_has_run(void)
{
	struct served served = {.loop = loop_make()};
	pthread_t server, callers[3];

	served.mailbox = mailbox_make(served.loop, 2);
	REQUIRE_EQ(pthread_create(&server, NULL, serve, &served), 0);
	for (size_t i = 0; i < ARRAY_COUNT(callers); i++)
		REQUIRE_EQ(pthread_create(&callers[i], NULL, call_often, &served), 0);
	for (size_t i = 0; i < ARRAY_COUNT(callers); i++)
		pthread_join(callers[i], NULL);
	while (mailbox_call(served.mailbox, stop_there, &served) == -EAGAIN)
		sched_yield();
	pthread_join(server, NULL);
	REQUIRE_EQ(served.sum, ARRAY_COUNT(callers) * 2000);
	mailbox_destroy(served.mailbox);
	loop_destroy(served.loop);
}

static void call_from_within(void *argument)
{
	struct served **served = argument;

	mailbox_call((*served)->mailbox, stop_there, *served);
}

static void call_itself(void *context)
{
	struct served *served = context;

	mailbox_post(served->mailbox, call_from_within, &served, sizeof(served));
	alarm(5); /* not SIGABRT: it would wait for itself */
	loop_run_once(served->loop, CLOCK_NEVER);
}

static void a_loop_that_would_wait_for_itself_aborts(void)
{
	struct served served = {.loop = loop_make()};

	served.mailbox = mailbox_make(served.loop, 2);
	REQUIRE(unit_aborts(call_itself, &served));
	mailbox_destroy(served.mailbox);
	loop_destroy(served.loop);
}

/* --- workers ---------------------------------------------------------------------------------- */

struct work {
	struct workers *workers;
	struct mailbox *answers;
	uint64_t *done; /* a count a job, written by the asking thread alone */
	uint64_t *total;
	uint64_t number;
	uint64_t result;
};

static void work_done(void *argument)
{
	struct work *work = argument;

	REQUIRE_EQ(work->result, mix64(work->number));
	work->done[work->number]++;
	++*work->total;
}

static void work_do(void *argument)
{
	struct work *work = argument;

	work->result = mix64(work->number);
	while (mailbox_post(work->answers, work_done, work, sizeof(*work)) == -EAGAIN)
		sched_yield();
}

static void every_job_is_done_once_and_answered(void)
{
	enum { JOBS = 30000 };
	struct workers_options options = {
		.count = 3,
		.queue_capacity = 16,
		.name = "mover",
		.backend = backend,
	};
	struct loop *loop = loop_make();
	struct mailbox *answers = mailbox_make(loop, 64);
	uint64_t *done = calloc(JOBS, sizeof(*done)), total = 0, refused = 0;
	struct work work = {.answers = answers, .done = done, .total = &total};

	REQUIRE_EQ(workers_create(&options, &work.workers), 0);
	for (work.number = 0; work.number < JOBS;) {
		int rc = workers_post(work.workers, work_do, &work, sizeof(work));

		REQUIRE(rc == 0 || rc == -EAGAIN);
		work.number += !rc;
		refused += rc != 0;
		if (rc)
			REQUIRE(loop_run_once(loop, 0) >= 0);
	}
	while (total < JOBS)
		REQUIRE(loop_run_once(loop, CLOCK_NEVER) >= 0);
	for (uint64_t i = 0; i < JOBS; i++)
		REQUIRE_EQ(done[i], 1);
	printf("%d jobs, refused %llu times for want of room\n", JOBS, (unsigned long long)refused);
	workers_destroy(work.workers);
	mailbox_destroy(answers);
	loop_destroy(loop);
	free(done);
}

struct slow {
	_Atomic uint32_t *done;
	_Atomic uint32_t *gate; /* NULL: none */
};

static void slow_do(void *argument)
{
	struct slow *slow = argument;

	while (slow->gate && !atomic_load(slow->gate))
		sched_yield();
	atomic_fetch_add(slow->done, 1);
}

static void destroy_waits_for_what_was_taken(void)
{
	struct workers_options options = {
		.count = 2,
		.queue_capacity = 64,
		.name = "mover",
		.backend = backend,
	};
	_Atomic uint32_t done = 0;
	struct slow slow = {.done = &done};
	struct workers *workers;

	REQUIRE_EQ(workers_create(&options, &workers), 0);
	for (int i = 0; i < 100; i++)
		REQUIRE_EQ(workers_post(workers, slow_do, &slow, sizeof(slow)), 0);
	workers_destroy(workers);
	REQUIRE_EQ(done, 100);
}

static void jobs_go_to_who_is_idle(void)
{
	struct workers_options options = {
		.count = 3,
		.queue_capacity = 4,
		.name = "mover",
		.backend = backend,
	};
	_Atomic uint32_t done = 0, gate = 0;
	int stuck = 0;
	struct slow held = {.done = &done, .gate = &gate}, free_one = {.done = &done};
	struct workers *workers;

	REQUIRE_EQ(workers_create(&options, &workers), 0);
	REQUIRE_EQ(workers_post(workers, slow_do, &held, sizeof(held)), 0);
	REQUIRE_EQ(workers_post(workers, slow_do, &held, sizeof(held)), 0);
	/*
	 * Two are held up at the gate: each of these should find the third, but for the odd one
	 * that comes while the third is still on its way back from the job before.
	 */
	for (int i = 0; i < 30; i++) {
		uint32_t before = atomic_load(&done);
		uint64_t patience_ns = clock_ns() + 100 * NS_PER_MS;

		REQUIRE_EQ(workers_post(workers, slow_do, &free_one, sizeof(free_one)), 0);
		while (atomic_load(&done) == before && clock_ns() < patience_ns)
			sched_yield();
		stuck += atomic_load(&done) == before;
		REQUIRE(stuck <= 3);
		usleep(200);
	}
	atomic_store(&gate, 1);
	workers_destroy(workers);
	REQUIRE_EQ(done, 32);
}

static void failed_creates_leave_nothing(void)
{
	struct workers_options options = {
		.count = 3,
		.queue_capacity = 4,
		.name = "mover",
		.backend = backend,
	};
	struct workers *workers = NULL;
	struct loop *loop = loop_make();
	struct mailbox *mailbox;
	unsigned long nth = 1;
	int rc;

	for (;; nth++) {
		memory_fail_after(nth, 0);
		rc = workers_create(&options, &workers);
		memory_fail_after(0, 0);
		if (!rc)
			break;
		REQUIRE(rc == -ENOMEM || rc == -EAGAIN);
		REQUIRE(!workers);
	}
	REQUIRE(nth > 18);
	workers_destroy(workers);
	workers_destroy(NULL);
	options.count = 0;
	REQUIRE_EQ(workers_create(&options, &workers), -EINVAL);
	for (nth = 1; nth <= 2; nth++) {
		memory_fail_after(nth, 0);
		REQUIRE_EQ(mailbox_create(loop, 4, &mailbox), -ENOMEM);
	}
	memory_fail_after(0, 0);
	REQUIRE_EQ(mailbox_create(loop, 0, &mailbox), -EINVAL);
	REQUIRE_EQ(mailbox_create(loop, UINT32_MAX, &mailbox), -EINVAL);
	mailbox_destroy(NULL);
	loop_destroy(loop);
}

int main(int argc, char **argv)
{
	uint64_t random;

	backend = backend_chosen(argc, argv);
	random = unit_seed(argc - 1, argv + 1);
	every_message_arrives_once_and_in_order(&random);
	a_full_mailbox_says_so_and_takes_nothing();
	a_call_returns_when_it_has_run();
	a_loop_that_would_wait_for_itself_aborts();
	every_job_is_done_once_and_answered();
	destroy_waits_for_what_was_taken();
	jobs_go_to_who_is_idle();
	failed_creates_leave_nothing();
	messages_that_post_messages_do_not_hold_the_loop_up();
	return 0;
}
