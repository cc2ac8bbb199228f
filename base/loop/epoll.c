/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/loop/loop_priv.h"
#include "base/memory.h"

enum {
	EVENTS_A_TURN = 64,
	SPAN_MS_MAX = 1 << 30,
};

struct loop_state {
	int fd;
	bool whole_ms; /* epoll_pwait2 is refused: time is counted in milliseconds */
};

static int epoll_backend_create(struct loop *loop)
{
	int rc;

	loop->state = memory_zalloc(sizeof(*loop->state));
	if (!loop->state)
		return -ENOMEM;
	loop->state->fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->state->fd < 0) {
		rc = -errno;
		memory_free(loop->state);
		return rc;
	}
	return 0;
}

static void epoll_backend_destroy(struct loop *loop)
{
	close(loop->state->fd);
	memory_free(loop->state);
}

static int epoll_backend_arm(struct loop *loop, uint32_t slot)
{
	const struct loop_watch *watch = loop->slots[slot].watch;
	struct epoll_event event = {.events = EPOLLET | EPOLLRDHUP};
	int how = watch->slot ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

	if (watch->events & LOOP_READABLE)
		event.events |= EPOLLIN;
	if (watch->events & LOOP_WRITABLE)
		event.events |= EPOLLOUT;
	event.data.u64 = loop_tag(loop, slot);
	return epoll_ctl(loop->state->fd, how, watch->fd, &event) ? -errno : 0;
}

static void epoll_backend_disarm(struct loop *loop, uint32_t slot)
{
	int fd = loop->slots[slot].watch->fd;

	/* Fails where the owner closed the descriptor first, which loop_watch_remove forbids. */
	SKEP_CHECK(!epoll_ctl(loop->state->fd, EPOLL_CTL_DEL, fd, NULL));
}

static int epoll_sleep(struct loop_state *state, struct epoll_event *events, uint64_t span_ns)
{
	struct timespec span = {
		.tv_sec = (time_t)(span_ns / NS_PER_S),
		.tv_nsec = (long)(span_ns % NS_PER_S),
	};
	uint64_t ms;
	int count;

	if (!span_ns)
		return epoll_wait(state->fd, events, EVENTS_A_TURN, 0);
	if (span_ns == CLOCK_NEVER)
		return epoll_wait(state->fd, events, EVENTS_A_TURN, -1);
	if (!state->whole_ms) {
		count = epoll_pwait2(state->fd, events, EVENTS_A_TURN, &span, NULL);
		if (count >= 0 || (errno != ENOSYS && errno != EPERM))
			return count;
		state->whole_ms = true; /* an older kernel or profile */
	}
	ms = divide_up(span_ns, NS_PER_MS);
	return epoll_wait(state->fd, events, EVENTS_A_TURN, (int)MIN_OF(ms, SPAN_MS_MAX));
}

static int epoll_backend_wait(struct loop *loop, uint64_t span_ns)
{
	struct epoll_event events[EVENTS_A_TURN];
	int found = epoll_sleep(loop->state, events, span_ns), count = 0;

	if (found < 0)
		return errno == EINTR ? 0 : -errno;
	for (int i = 0; i < found; i++) {
		uint32_t told = 0;

		if (events[i].events & EPOLLIN)
			told |= LOOP_READABLE;
		if (events[i].events & EPOLLOUT)
			told |= LOOP_WRITABLE;
		if (events[i].events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP))
			told |= LOOP_HANGUP;
		count += loop_dispatch(loop, events[i].data.u64, told);
	}
	return count;
}

const struct loop_ops loop_epoll_ops = {
	.name = "epoll",
	.create = epoll_backend_create,
	.destroy = epoll_backend_destroy,
	.arm = epoll_backend_arm,
	.disarm = epoll_backend_disarm,
	.wait = epoll_backend_wait,
};
