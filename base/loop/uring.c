/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <sys/stat.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/loop/loop_priv.h"
#include "base/memory.h"

/*
 * A watch is one multishot poll request. The kernel runs a request on behalf of the thread that
 * submitted it and ends it after that thread has ended, and a loop may be set up by another thread
 * than runs it. So adding, changing and removing only note the slot; loop_run_once settles what was
 * noted, and whatever happened to a slot in between is one cancel and one new request at most.
 */

enum {
	ENTRIES = 256,	    /* requests made ready before the kernel is called */
	EVENTS_A_TURN = 64, /* as epoll.c */
};

/* A completion is told by bits 24–31 of its tag, which a slot number leaves free. */
enum {
	KIND_SHIFT = 24,
	KIND_MASK = 0xff,
	KIND_POLL = 0,
	KIND_CANCEL = 1,
};

struct uring_slot {
	uint64_t armed; /* tag of the request in the kernel */
	bool is_armed;
	bool noted;    /* in the list of slots to settle */
	uint32_t next; /* in it: number + 1; 0: the last */
};

struct completion {
	uint64_t tag;
	int result;
	uint32_t flags;
};

struct loop_state {
	struct io_uring ring;
	struct uring_slot *slots;
	uint32_t noted; /* number + 1; 0: none */
};

static int ring_open(struct io_uring *ring, uint32_t slots)
{
	struct io_uring_params params = {
		.flags =
			IORING_SETUP_CQSIZE | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		.cq_entries = 2 * (uint32_t)MAX_OF(ENTRIES, MIN_OF(slots, 16384u)),
	};
	/* RSRC_TAGS came with multishot poll (5.13), which no flag of its own tells. */
	unsigned needed = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_RSRC_TAGS;
	int rc = io_uring_queue_init_params(ENTRIES, ring, &params);

	if (rc == -EINVAL) { /* before 5.19: the kernel interrupts where it could wait */
		params = (struct io_uring_params){
			.flags = IORING_SETUP_CQSIZE,
			.cq_entries = params.cq_entries,
		};
		rc = io_uring_queue_init_params(ENTRIES, ring, &params);
	}
	if (rc)
		return rc;
	if ((params.features & needed) == needed)
		return 0;
	io_uring_queue_exit(ring);
	return -EOPNOTSUPP;
}

static int uring_backend_create(struct loop *loop)
{
	struct loop_state *state = memory_zalloc(sizeof(*state));
	int rc = -ENOMEM;

	if (!state)
		return -ENOMEM;
	state->slots = memory_calloc(loop->slots_count, sizeof(*state->slots));
	if (!state->slots)
		goto free_state;
	rc = ring_open(&state->ring, loop->slots_count);
	if (rc)
		goto free_state;
	loop->state = state;
	return 0;

free_state:
	memory_free(state->slots);
	memory_free(state);
	return rc;
}

static void uring_backend_destroy(struct loop *loop)
{
	io_uring_queue_exit(&loop->state->ring);
	memory_free(loop->state->slots);
	memory_free(loop->state);
}

static void slot_note(struct loop_state *state, uint32_t number)
{
	struct uring_slot *slot = &state->slots[number];

	if (slot->noted)
		return;
	slot->noted = true;
	slot->next = state->noted;
	state->noted = number + 1;
}

static int uring_backend_arm(struct loop *loop, uint32_t slot)
{
	struct stat file;

	/* As epoll answers; the request would tell only later, or call a file always ready. */
	if (fstat(loop->slots[slot].watch->fd, &file))
		return -errno;
	if (S_ISREG(file.st_mode) || S_ISDIR(file.st_mode))
		return -EPERM;
	slot_note(loop->state, slot);
	return 0;
}

static void uring_backend_disarm(struct loop *loop, uint32_t slot)
{
	slot_note(loop->state, slot);
}

/* Makes at most two requests, for which there is room. */
static void slot_settle(struct loop *loop, uint32_t number)
{
	struct uring_slot *slot = &loop->state->slots[number];
	const struct loop_watch *watch = loop->slots[number].watch;
	uint64_t tag = loop_tag(loop, number);
	unsigned mask = POLLRDHUP;
	struct io_uring_sqe *sqe;

	if (slot->is_armed && (!watch || slot->armed != tag)) {
		sqe = io_uring_get_sqe(&loop->state->ring);
		io_uring_prep_poll_remove(sqe, slot->armed);
		io_uring_sqe_set_data64(sqe, (uint64_t)KIND_CANCEL << KIND_SHIFT);
		slot->is_armed = false;
	}
	if (!watch || slot->is_armed)
		return;
	if (watch->events & LOOP_READABLE)
		mask |= POLLIN;
	if (watch->events & LOOP_WRITABLE)
		mask |= POLLOUT;
	sqe = io_uring_get_sqe(&loop->state->ring);
	io_uring_prep_poll_multishot(sqe, watch->fd, mask);
	io_uring_sqe_set_data64(sqe, tag);
	slot->armed = tag;
	slot->is_armed = true;
}

/* False where the kernel takes nothing now: it wants completions to be taken first. */
static bool settle(struct loop *loop)
{
	struct loop_state *state = loop->state;

	while (state->noted) {
		uint32_t number = state->noted - 1;

		if (io_uring_sq_space_left(&state->ring) < 2)
			io_uring_submit(&state->ring);
		if (io_uring_sq_space_left(&state->ring) < 2)
			return false;
		state->noted = state->slots[number].next;
		state->slots[number].noted = false;
		slot_settle(loop, number);
	}
	return true;
}

static int poll_done(struct loop *loop, const struct completion *done)
{
	uint64_t tag = done->tag;
	uint32_t number = (uint32_t)tag, told = 0;
	struct uring_slot *slot;

	SKEP_CHECK(number < loop->slots_count);
	slot = &loop->state->slots[number];
	if (!(done->flags & IORING_CQE_F_MORE) && slot->is_armed && slot->armed == tag) {
		/*
		 * The request has ended without our asking: completions had no room, or the thread
		 * that ran the loop before this one ended. Else it was a fault of the descriptor.
		 */
		slot->is_armed = false;
		if (done->result >= 0 || done->result == -ECANCELED)
			slot_note(loop->state, number);
	}
	if (done->result == -ECANCELED)
		return 0;
	if (done->result < 0)
		return loop_dispatch(loop, tag, LOOP_HANGUP);
	if (done->result & POLLIN)
		told |= LOOP_READABLE;
	if (done->result & POLLOUT)
		told |= LOOP_WRITABLE;
	if (done->result & (POLLHUP | POLLERR | POLLRDHUP))
		told |= LOOP_HANGUP;
	return loop_dispatch(loop, tag, told);
}

/* Hands the noted requests in and waits for a completion. 0 or a negative errno. */
static int uring_sleep(struct io_uring *ring, uint64_t span_ns)
{
	struct __kernel_timespec span = {
		.tv_sec = (long long)(span_ns / NS_PER_S),
		.tv_nsec = (long long)(span_ns % NS_PER_S),
	};
	struct io_uring_cqe *cqe;
	int rc = 0;

	if (span_ns == CLOCK_NEVER)
		rc = io_uring_submit_and_wait(ring, 1);
	else if (span_ns)
		rc = io_uring_submit_and_wait_timeout(ring, &cqe, 1, &span, NULL);
	else if (io_uring_sq_ready(ring))
		rc = io_uring_submit(ring);
	/* -EBUSY and -EAGAIN: completions wait to be taken, or memory is short; both pass. */
	if (rc == -ETIME || rc == -EINTR || rc == -EBUSY || rc == -EAGAIN)
		rc = 0;
	return MIN_OF(rc, 0);
}

static int uring_backend_wait(struct loop *loop, uint64_t span_ns)
{
	struct io_uring_cqe *ready[EVENTS_A_TURN];
	struct completion done[EVENTS_A_TURN];
	struct io_uring *ring = &loop->state->ring;
	int count = 0, rc;
	unsigned found;

	if (!settle(loop))
		span_ns = 0;
	rc = uring_sleep(ring, span_ns);
	if (rc)
		return rc;
	found = io_uring_peek_batch_cqe(ring, ready, EVENTS_A_TURN);
	for (unsigned i = 0; i < found; i++)
		done[i] = (struct completion){
			.tag = ready[i]->user_data,
			.result = ready[i]->res,
			.flags = ready[i]->flags,
		};
	io_uring_cq_advance(ring, found);
	for (unsigned i = 0; i < found; i++) {
		unsigned kind = done[i].tag >> KIND_SHIFT & KIND_MASK;

		SKEP_CHECK(kind == KIND_POLL || kind == KIND_CANCEL);
		if (kind == KIND_POLL)
			count += poll_done(loop, &done[i]);
	}
	return count;
}

const struct loop_ops loop_uring_ops = {
	.name = "io_uring",
	.create = uring_backend_create,
	.destroy = uring_backend_destroy,
	.arm = uring_backend_arm,
	.disarm = uring_backend_disarm,
	.wait = uring_backend_wait,
};
