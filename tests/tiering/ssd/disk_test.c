/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices: every transfer comes back once with its own bytes, by io_uring and by plain threads; one
 * owner a device; new files are written through without harm to what was written meanwhile.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include "tests/tiering/ssd/disks.h"

enum { SLOT_BYTES = 256 << 10, SLOTS = DEVICE_BYTES / SLOT_BYTES };

/* --- what a request has still to move --------------------------------------------------------- */

/* Any sequence of short answers moves each byte once, in its place, in units. */
static void short_transfers_are_gone_on_with(uint64_t *random)
{
	static char *const base = (char *)(1ull << 32); /* never touched */

	for (int round = 0; round < 2000; round++) {
		struct ssd_request request = {.op = SSD_OP_READ, .offset = 40960};
		uint64_t begins[SSD_PIECES_MAX + 1] = {0}, moved = 0;
		enum disk_next next = DISK_NEXT_MORE;

		request.piece_count = (uint16_t)(1 + unit_random(random, SSD_PIECES_MAX));
		for (unsigned i = 0; i < request.piece_count; i++) {
			uint64_t bytes = (1 + unit_random(random, 9)) * SSD_UNIT_BYTES;

			request.pieces[i] = (struct iovec){base + (i << 20), bytes};
			request.bytes += bytes;
			begins[i + 1] = request.bytes;
		}
		while (next == DISK_NEXT_MORE) {
			struct disk_rest rest;
			uint64_t there = moved, left = 0;
			unsigned share;

			disk_rest_find(&request, &rest);
			REQUIRE_EQ(rest.offset, 40960 + moved);
			for (unsigned i = 0; i < rest.count; i++) {
				unsigned piece =
					(unsigned)(((char *)rest.pieces[i].iov_base - base) >> 20);

				REQUIRE(begins[piece] <= there && there < begins[piece + 1]);
				REQUIRE((char *)rest.pieces[i].iov_base ==
					base + (piece << 20) + (there - begins[piece]));
				there += rest.pieces[i].iov_len;
				left += rest.pieces[i].iov_len;
				REQUIRE(there == begins[piece + 1]);
			}
			REQUIRE(left && (rest.count == 1 || there == request.bytes));
			share = SSD_UNIT_BYTES +
				unit_random(random, (uint32_t)(left - SSD_UNIT_BYTES) + 1);
			next = disk_rest_moved(&request, share);
			moved += share - share % SSD_UNIT_BYTES;
			REQUIRE_EQ(request.moved, moved);
			if (moved < request.bytes)
				REQUIRE_EQ(disk_rest_moved(&request, -EINTR), DISK_NEXT_MORE);
		}
		REQUIRE(next == DISK_NEXT_DONE && !request.status && moved == request.bytes);
	}
}

static void answers_of_the_kernel_are_told_apart(void)
{
	struct ssd_request request = {.op = SSD_OP_READ, .bytes = 8192, .began_ns = clock_ns()};

	REQUIRE_EQ(disk_rest_moved(&request, -EAGAIN), DISK_NEXT_LATER);
	REQUIRE_EQ(disk_rest_moved(&request, 0), DISK_NEXT_DONE);
	REQUIRE_EQ(request.status, -EIO);
	REQUIRE_EQ(disk_rest_moved(&request, 512), DISK_NEXT_DONE);
	REQUIRE_EQ(request.status, -EIO);
	REQUIRE_EQ(disk_rest_moved(&request, -ENOSPC), DISK_NEXT_DONE);
	REQUIRE_EQ(request.status, -ENOSPC);
	request.began_ns -= DISK_PATIENCE_NS;
	REQUIRE_EQ(disk_rest_moved(&request, -EAGAIN), DISK_NEXT_DONE);
	REQUIRE_EQ(request.status, -EIO);
	request.op = SSD_OP_FLUSH;
	REQUIRE_EQ(disk_rest_moved(&request, 0), DISK_NEXT_DONE);
	REQUIRE_EQ(request.status, 0);
}

/* --- random transfers ------------------------------------------------------------------------- */

/* One slot of a device; it has one transfer at a time, so what it holds is known. */
struct slot {
	uint64_t number, generation; /* 0: never written */
	bool busy;
};

struct mover {
	struct job job;
	struct slot *slot;
	char *memory; /* of SLOT_BYTES */
	pthread_t owner;
	_Atomic int checks;
};

static uint64_t word_of(const struct slot *slot, uint64_t offset)
{
	return slot->generation ? mix64(slot->number << 40 ^ slot->generation << 20 ^ offset) : 0;
}

static void mover_done(struct ssd_request *request, int status)
{
	struct mover *mover = list_item(request, struct mover, job.request);

	REQUIRE(pthread_equal(pthread_self(), mover->owner));
	REQUIRE_EQ(mover->checks, request->check != NULL);
	mover->slot->busy = false;
	job_done(request, status);
}

/* A word of each unit is compared, beginning with the unit's number in the slot. */
static int mover_check(struct ssd_request *request)
{
	struct mover *mover = list_item(request, struct mover, job.request);
	uint64_t unit = request->offset % SLOT_BYTES;

	REQUIRE(!pthread_equal(pthread_self(), mover->owner));
	mover->checks++;
	for (unsigned i = 0; i < request->piece_count; i++)
		for (uint64_t j = 0; j < request->pieces[i].iov_len; j += SSD_UNIT_BYTES) {
			const uint64_t *words = (void *)((char *)request->pieces[i].iov_base + j);

			REQUIRE(words[0] == word_of(mover->slot, unit));
			REQUIRE(words[511] == word_of(mover->slot, unit + 8));
			unit += SSD_UNIT_BYTES;
		}
	return 0;
}

/* Pieces in a random order of the mover's memory, so that a run of them is never one. */
static void pieces_choose(struct mover *mover, uint64_t bytes, uint64_t *random)
{
	struct ssd_request *request = &mover->job.request;
	unsigned count = unit_random(random, 2) ? 1 : 1 + unit_random(random, SSD_PIECES_MAX);
	uint64_t units = bytes / SSD_UNIT_BYTES, used = 0;

	count = (unsigned)MIN_OF(count, units);
	for (unsigned i = 0; i < count; i++) {
		uint64_t share = i + 1 < count ? MAX_OF(units / count, 1u)
					       : units - (count - 1) * MAX_OF(units / count, 1u);

		used += share;
		request->pieces[i] = (struct iovec){
			.iov_base = mover->memory + SLOT_BYTES - used * SSD_UNIT_BYTES,
			.iov_len = share * SSD_UNIT_BYTES,
		};
	}
	REQUIRE_EQ(used, units);
	request->piece_count = (uint16_t)count;
	request->bytes = bytes;
}

static void mover_fill(struct mover *mover)
{
	struct ssd_request *request = &mover->job.request;
	uint64_t unit = 0;

	for (unsigned i = 0; i < request->piece_count; i++)
		for (uint64_t j = 0; j < request->pieces[i].iov_len; j += SSD_UNIT_BYTES) {
			uint64_t *words = (void *)((char *)request->pieces[i].iov_base + j);

			words[0] = word_of(mover->slot, unit);
			words[511] = word_of(mover->slot, unit + 8);
			unit += SSD_UNIT_BYTES;
		}
}

/* A write of the whole slot or a read of a part of it. */
static void mover_set(struct mover *mover, struct slot *slot, bool write, uint64_t *random)
{
	struct ssd_request *request = &mover->job.request;
	uint64_t first = 0, units = SLOT_BYTES / SSD_UNIT_BYTES;

	*request = (struct ssd_request){
		.op = write ? SSD_OP_WRITE : SSD_OP_READ,
		.device = (uint8_t)(slot->number / SLOTS),
		.done = mover_done,
		.check = write ? NULL : mover_check,
	};
	if (!write) {
		first = unit_random(random, (uint32_t)units);
		units = 1 + unit_random(random, (uint32_t)(units - first));
	}
	request->offset = slot->number % SLOTS * SLOT_BYTES + first * SSD_UNIT_BYTES;
	pieces_choose(mover, units * SSD_UNIT_BYTES, random);
	mover->slot = slot;
	mover->job.done = 0;
	mover->owner = pthread_self();
	mover->checks = 0;
	if (write) {
		slot->generation++;
		mover_fill(mover);
	}
	slot->busy = true;
}

enum { MOVERS = 80 };

static struct slot slots[2 * SLOTS];
static struct mover movers[MOVERS];

static uint64_t transfers(struct ssd_io *io, unsigned count, uint64_t *random)
{
	unsigned under_way = 0, taken = 0;
	uint64_t refused = 0;

	for (unsigned i = 0; i < MOVERS; i++) {
		movers[i].job.left = &under_way;
		movers[i].job.done = 1;
	}
	while (taken < count || under_way) {
		struct mover *mover = &movers[unit_random(random, MOVERS)];
		struct slot *slot = &slots[unit_random(random, 2 * SLOTS)];
		int rc;

		if (taken == count || !mover->job.done || slot->busy) {
			disks_poll(io, taken == count || under_way == MOVERS ? CLOCK_NEVER : 0);
			continue;
		}
		REQUIRE_EQ(mover->job.done, 1);
		mover_set(mover, slot, unit_random(random, 3) == 0, random);
		under_way++;
		while ((rc = io->ops->submit(io, &mover->job.request)) == -EAGAIN) {
			refused++;
			disks_poll(io, CLOCK_NEVER);
		}
		REQUIRE_EQ(rc, 0);
		taken++;
	}
	for (unsigned i = 0; i < MOVERS; i++) {
		REQUIRE(movers[i].job.done == 1 && movers[i].job.status == 0);
		movers[i].job.left = NULL;
	}
	return refused;
}

static void transfers_come_back_right_and_once(uint64_t *random)
{
	unsigned count = 3000;
	struct ssd_io *io = disks_make(2, 32, NULL);
	char *memory = mmap(NULL, MOVERS * SLOT_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct disks_status status;
	int rc;

	REQUIRE(memory != MAP_FAILED);
	for (unsigned i = 0; i < MOVERS; i++)
		movers[i].memory = memory + (uint64_t)i * SLOT_BYTES;
	for (unsigned i = 0; i < 2 * SLOTS; i++)
		slots[i] = (struct slot){.number = i};
	printf("%llu refused at first\n", (unsigned long long)transfers(io, count, random));
	/* Half of the memory is registered, in two calls; more than that is refused. */
	rc = disks_register(io, memory, 20 * SLOT_BYTES);
	if (backend == LOOP_BACKEND_EPOLL)
		REQUIRE_EQ(rc, -ENOTSUP);
	else if (rc)
		printf("memory cannot be registered: %s\n", strerror(-rc));
	if (!rc) {
		REQUIRE_EQ(disks_register(io, memory + 30 * SLOT_BYTES, 20 * SLOT_BYTES), 0);
		REQUIRE_EQ(disks_register(io, memory + 49 * SLOT_BYTES, 2 * SLOT_BYTES), -EEXIST);
		REQUIRE_EQ(disks_register(io, memory + 100, 4096), -EINVAL);
		REQUIRE(disks_register(io, (void *)SSD_UNIT_BYTES, 4096) < 0); /* not mapped */
	}
	transfers(io, count, random);
	disks_status_get(io, &status);
	REQUIRE_EQ(status.uring, backend == LOOP_BACKEND_URING);
	REQUIRE_EQ(status.reads + status.writes, 2 * count);
	REQUIRE_EQ(status.read_ns.count, status.reads);
	REQUIRE_EQ(status.write_ns.count, status.writes);
	REQUIRE_EQ(status.written_bytes, status.writes * SLOT_BYTES);
	REQUIRE(status.read_bytes && !status.errors && !status.in_flight);
	disks_destroy(io);
	/* What was written is there for the next life. */
	io = disks_make(2, 32, NULL);
	for (unsigned i = 0; i < 2 * SLOTS; i++) {
		mover_set(&movers[0], &slots[i], false, random);
		REQUIRE_EQ(job_run(io, &movers[0].job), 0);
	}
	disks_destroy(io);
	munmap(memory, MOVERS * SLOT_BYTES);
}

/* --- bounds, verdicts and failures ------------------------------------------------------------ */

static void a_full_device_says_so_and_takes_again(void)
{
	enum { DEPTH = 4 };
	struct ssd_io *io = disks_make(2, DEPTH, NULL);
	char *memory = aligned(MIB);
	struct job jobs[DEPTH + 1], other;
	unsigned left = DEPTH;
	struct disks_status status;

	for (int round = 0; round < 50; round++) {
		for (unsigned i = 0; i <= DEPTH; i++) {
			job_set(&jobs[i], SSD_OP_READ, i * 4096, memory + i * 4096, 4096);
			jobs[i].left = &left;
			REQUIRE_EQ(io->ops->submit(io, &jobs[i].request), i < DEPTH ? 0 : -EAGAIN);
		}
		disks_status_get(io, &status);
		REQUIRE_EQ(status.in_flight, DEPTH);
		job_set(&other, SSD_OP_READ, 0, memory + MIB / 2, 4096);
		other.request.device = 1; /* the bound is each device's own */
		REQUIRE_EQ(job_run(io, &other), 0);
		while (left)
			disks_poll(io, CLOCK_NEVER);
		REQUIRE_EQ(jobs[DEPTH].done, 0);
		left = DEPTH;
	}
	REQUIRE_EQ(disks_poll(io, 0), 0);
	REQUIRE_EQ(disks_poll(io, NS_PER_MS), 0);
	free(memory);
	disks_destroy(io);
}

static int check_says(struct ssd_request *request)
{
	return request->offset ? -EBADMSG : 0;
}

static void verdicts_are_passed_on(void)
{
	struct ssd_io *io = disks_make(1, 0, NULL);
	char *memory = aligned(8192);
	struct disks_status status;
	struct job job;

	job_set(&job, SSD_OP_READ, 4096, memory, 4096);
	job.request.check = check_says;
	REQUIRE_EQ(job_run(io, &job), -EBADMSG);
	job_set(&job, SSD_OP_READ, 0, memory, 4096);
	job.request.check = check_says;
	REQUIRE_EQ(job_run(io, &job), 0);
	job_set(&job, SSD_OP_FLUSH, 0, NULL, 0);
	REQUIRE_EQ(job_run(io, &job), 0);
	disks_status_get(io, &status);
	REQUIRE(status.errors == 0 && status.reads == 2 && status.flushes == 1);
	free(memory);
	disks_destroy(io);
}

static void ranges_outside_are_refused(void)
{
	static const struct {
		uint64_t offset, bytes;
	} bad[] = {
		{DEVICE_BYTES, 4096},
		{DEVICE_BYTES - 4096, 8192},
		{UINT64_MAX - 4095, 8192},
		{0, 0},
		{512, 4096},
		{0, 512},
	};
	struct ssd_io *io = disks_make(1, 0, NULL);
	char *memory = aligned(8192);
	struct job job;

	for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
		for (int op = SSD_OP_READ; op <= SSD_OP_WRITE; op++) {
			job_set(&job, (enum ssd_op)op, bad[i].offset, memory, bad[i].bytes);
			REQUIRE_EQ(job_run(io, &job), -EINVAL);
		}
	REQUIRE_EQ(io->ops->read_now(io, 0, DEVICE_BYTES, memory, 4096), -EINVAL);
	job_set(&job, SSD_OP_READ, 0, memory + 8, 4096);
	REQUIRE_EQ(job_run(io, &job), -EINVAL);
	job_set(&job, SSD_OP_READ, 0, memory, 4096);
	job.request.device = 1;
	REQUIRE_EQ(job_run(io, &job), -EINVAL);
	job_set(&job, SSD_OP_READ, 0, memory, 4096);
	job.request.bytes = 8192; /* more than its pieces */
	REQUIRE_EQ(job_run(io, &job), -EINVAL);
	/* The file is cut behind our back: the device is shorter than it was. */
	REQUIRE_EQ(truncate(at("a"), MIB), 0);
	job_set(&job, SSD_OP_READ, MIB - 4096, memory, 8192);
	REQUIRE_EQ(job_run(io, &job), -EIO);
	REQUIRE_EQ(io->ops->read_now(io, 0, 2 * MIB, memory, 4096), -EIO);
	free(memory);
	disks_destroy(io);
}

static void blocking_forms_work_before_the_first_submit(void)
{
	struct ssd_io *io = disks_make(2, 0, NULL);
	char *memory = aligned(2 * MIB);

	memset(memory, 0x5a, MIB);
	REQUIRE_EQ(io->ops->write_now(io, 1, 3 * MIB, memory, MIB), 0);
	REQUIRE_EQ(io->ops->flush_now(io, 1), 0);
	REQUIRE_EQ(io->ops->read_now(io, 1, 3 * MIB, memory + MIB, MIB), 0);
	REQUIRE(!memcmp(memory, memory + MIB, MIB));
	free(memory);
	disks_destroy(io);
}

/* --- delivery --------------------------------------------------------------------------------- */

static void nothing(void *argument)
{
	(void)argument;
}

static void a_mailbox_delivers_on_its_loop(uint64_t *random)
{
	enum { JOBS = 48 };
	struct loop_options options = {.backend = backend};
	static struct job jobs[JOBS];
	char *memory = aligned(JOBS * 4096);
	struct mailbox *mailbox;
	struct loop *loop;
	struct ssd_io *io;
	unsigned left;

	REQUIRE_EQ(loop_create(&options, &loop), 0);
	REQUIRE_EQ(mailbox_create(loop, 2, &mailbox), 0);
	io = disks_make(1, 64, mailbox);
	for (int round = 0; round < 200; round++) {
		unsigned count = 1 + unit_random(random, JOBS), stuffed = unit_random(random, 3);

		left = count;
		while (stuffed--) /* the mailbox may be full when the requests arrive */
			mailbox_post(mailbox, nothing, NULL, 0);
		for (unsigned i = 0; i < count; i++) {
			job_set(&jobs[i], SSD_OP_READ, i * 4096, memory + i * 4096, 4096);
			jobs[i].left = &left;
			REQUIRE_EQ(io->ops->submit(io, &jobs[i].request), 0);
		}
		if (round % 16 == 0)
			usleep(3000);
		while (left)
			REQUIRE(loop_run_once(loop, CLOCK_NEVER) >= 0);
		for (unsigned i = 0; i < count; i++)
			REQUIRE(jobs[i].done == 1 && jobs[i].status == 0);
	}
	/* Ended with requests under way and a message that is run only afterwards. */
	for (unsigned i = 0; i < JOBS; i++) {
		job_set(&jobs[i], SSD_OP_READ, i * 4096, memory + i * 4096, 4096);
		REQUIRE_EQ(io->ops->submit(io, &jobs[i].request), 0);
	}
	disks_destroy(io);
	for (unsigned i = 0; i < JOBS; i++)
		REQUIRE(jobs[i].done == 1 && jobs[i].status == 0);
	/* The same with a mailbox that has no room. */
	io = disks_make(1, 64, mailbox);
	while (!mailbox_post(mailbox, nothing, NULL, 0))
		;
	job_set(&jobs[0], SSD_OP_READ, 0, memory, 4096);
	REQUIRE_EQ(io->ops->submit(io, &jobs[0].request), 0);
	disks_destroy(io);
	REQUIRE_EQ(jobs[0].done, 1);
	mailbox_destroy(mailbox);
	loop_destroy(loop);
	free(memory);
}

static struct ssd_io *submitted_to;
static int submit_rc = 1;

static void submit_again(struct ssd_request *request, int status)
{
	job_done(request, status);
	if (submit_rc > 0)
		submit_rc = submitted_to->ops->submit(submitted_to, request);
}

static void destroy_completes_what_is_under_way(void)
{
	enum { JOBS = 64 };
	static struct job jobs[JOBS];
	char *memory = aligned(JOBS * 65536ull);
	struct ssd_io *io = disks_make(1, JOBS, NULL);

	for (uint64_t i = 0; i < JOBS; i++) {
		job_set(&jobs[i], i % 2 ? SSD_OP_WRITE : SSD_OP_READ, i * 65536, memory + i * 65536,
			65536);
		REQUIRE_EQ(io->ops->submit(io, &jobs[i].request), 0);
	}
	jobs[0].request.done = submit_again;
	submitted_to = io;
	disks_destroy(io);
	for (unsigned i = 0; i < JOBS; i++)
		REQUIRE(jobs[i].done == 1 && jobs[i].status == 0);
	REQUIRE_EQ(submit_rc, -ESHUTDOWN);
	submit_rc = 1;
	free(memory);
}

/* A signal of the process goes to a thread that expects it. */
static _Atomic int signalled_elsewhere;
static pthread_t signal_thread;

static void on_signal(int number)
{
	(void)number;
	signalled_elsewhere += !pthread_equal(pthread_self(), signal_thread);
}

static void the_threads_take_no_signals(void)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, old;
	struct ssd_io *io = disks_make(1, 0, NULL);
	sigset_t usr1;

	signal_thread = pthread_self();
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigaction(SIGUSR1, &action, &old);
	pthread_sigmask(SIG_BLOCK, &usr1, NULL);
	kill(getpid(), SIGUSR1);
	usleep(2000);
	pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
	REQUIRE_EQ(signalled_elsewhere, 0);
	disks_destroy(io);
	sigaction(SIGUSR1, &old, NULL);
}

/* ---------------------------------------------------------------------------------------------- */

static void over_one_form(uint64_t *random)
{
	transfers_come_back_right_and_once(random);
	a_full_device_says_so_and_takes_again();
	verdicts_are_passed_on();
	blocking_forms_work_before_the_first_submit();
	a_mailbox_delivers_on_its_loop(random);
	destroy_completes_what_is_under_way();
	the_threads_take_no_signals();
	ranges_outside_are_refused();
	unlink(at("a"));
	unlink(at("b"));
}

int main(int argc, char **argv)
{
	uint64_t random = unit_seed(argc, argv);

	short_transfers_are_gone_on_with(&random);
	answers_of_the_kernel_are_told_apart();
	over_both_forms(over_one_form, &random);
	return 0;
}
