/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/status.h"
#include "engine/client/client_priv.h"

/*
 * Queues of completions. Each event has a cell from submit until it was taken, so there is always
 * room for it, here and in the ring of the page. Only the session's thread touches cells; the
 * watcher makes the descriptor readable when the daemon died or a deadline has passed, and the next
 * skep_queue_take() finds out what that means.
 *
 * The descriptor that the application polls is an epoll set: it holds an eventfd of ours and the
 * daemon's, which changes with each daemon. So the application's descriptor stays the same over a
 * reconnect and no thread stands between the daemon and the application.
 */

static void queue_signal(const struct skep_queue *queue)
{
	uint64_t one = 1;

	if (write(queue->event_fd, &one, sizeof(one)) < 0) {
		/* The counter is full: the descriptor is readable anyway. */
	}
}

static void cell_set(struct skep_queue *queue, struct cell *cell, enum cell_state state)
{
	SKEP_CHECK(queue->counts[cell->state]);
	queue->counts[cell->state]--;
	queue->counts[state]++;
	cell->state = (uint8_t)state;
}

/* A completion's cell is near the place its tag points to: cells are taken from there on. */
static unsigned cell_home(uint32_t tag, uint32_t value)
{
	return (tag + value) % QUEUE_EVENTS_MAX;
}

static struct cell *cell_take(struct skep_queue *queue, const struct event_want *want)
{
	unsigned at = cell_home(want->tag, want->value);
	struct cell *cell = &queue->cells[at];

	SKEP_CHECK(queue_room(queue));
	while (cell->state != CELL_FREE)
		cell = &queue->cells[at = (at + 1) % QUEUE_EVENTS_MAX];
	cell->tag = want->tag;
	cell->value = want->value;
	cell->block = want->block;
	cell->user = want->user;
	cell->limit_ns = want->limit_ns;
	return cell;
}

/* The cell that waits for (tag, value), pending or late; NULL: none. */
static struct cell *cell_find(struct skep_queue *queue, uint32_t tag, uint32_t value)
{
	unsigned home = cell_home(tag, value);

	for (unsigned i = 0; i < QUEUE_EVENTS_MAX; i++) {
		struct cell *cell = &queue->cells[(home + i) % QUEUE_EVENTS_MAX];

		if ((cell->state == CELL_PENDING || cell->state == CELL_LATE) && cell->tag == tag &&
			cell->value == value)
			return cell;
	}
	return NULL;
}

static void cell_complete(struct skep_queue *queue, struct cell *cell, int status)
{
	if (!cell)
		return;
	cell->status = MIN_OF(status, 0);
	cell_set(queue, cell, cell->state == CELL_LATE ? CELL_FREE : CELL_READY);
}

/* The watcher looks at the earliest deadline of all queues. */
static void session_limit(struct skep *session, bool kick)
{
	uint64_t earliest = CLOCK_NEVER, before;

	for (unsigned i = 0; i < QUEUES_MAX; i++)
		if (session->queues[i])
			earliest = MIN_OF(earliest, session->queues[i]->limit_ns);
	before = atomic_exchange_explicit(&session->queue_limit_ns, earliest, memory_order_relaxed);
	if (kick && earliest < before)
		watcher_kick(session);
}

void queue_expect(struct skep_queue *queue, const struct event_want *want)
{
	cell_set(queue, cell_take(queue, want), CELL_PENDING);
	if (want->limit_ns < queue->limit_ns) {
		queue->limit_ns = want->limit_ns;
		session_limit(queue->session, true);
	}
}

void queue_give(struct skep_queue *queue, const struct event_want *want, int status)
{
	struct cell *cell = cell_take(queue, want);

	cell->status = status;
	cell_set(queue, cell, CELL_READY);
	queue_signal(queue);
}

/* --------------------------------------------------------------------------------- completions */

/* One completion for all parts of a commit; what became of each stands in the area. */
static void commit_done(struct skep_queue *queue, struct attachment *a, struct call *call,
	const struct completion *completion)
{
	const uint8_t *area = call_area(a, call);

	for (uint32_t i = 0; i < call->count; i++) {
		struct commit_part part = {.status = completion->status};

		if (completion->status >= 0)
			memcpy(&part, area + i * sizeof(part), sizeof(part));
		cell_complete(queue, cell_find(queue, call->tag, i), part.status);
	}
	call_close(call);
}

static void queue_drain(struct skep_queue *queue)
{
	struct attachment *a = queue->session->current;
	struct completion completion;
	struct call *call;
	int got;

	while ((got = local_client_take(&a->local, queue->index + 1, &completion)) > 0) {
		call = call_find(a, completion.tag);
		if (call && call->statuses_in_place) {
			commit_done(queue, a, call, &completion);
			continue;
		}
		if (call && call->op == SUBMIT_LOAD) {
			cell_complete(queue, cell_find(queue, call->tag, 0), completion.status);
			load_done(a, call, completion.status);
			continue;
		}
		if (call && call->op == SUBMIT_ASKS) {
			cell_complete(queue, cell_find(queue, call->tag, 0), completion.status);
			asks_done(call, completion.status);
			continue;
		}
		/* A wait, or one part of a commit that a mover sums. */
		cell_complete(queue, cell_find(queue, completion.tag, call ? completion.value : 0),
			completion.status);
		if (call && --call->remaining == 0)
			call_close(call);
	}
	if (got < 0)
		call_nonsense(queue->session);
}

bool queue_awaits(struct skep_queue *queue, uint32_t tag)
{
	struct cell *cell = queue ? cell_find(queue, tag, 0) : NULL;

	return cell && cell->state == CELL_PENDING;
}

void queues_drain(struct skep *session)
{
	for (unsigned i = 0; i < QUEUES_MAX; i++)
		if (session->queues[i])
			queue_drain(session->queues[i]);
}

void queues_fail(struct skep *session)
{
	for (unsigned i = 0; i < QUEUES_MAX; i++) {
		struct skep_queue *queue = session->queues[i];

		if (!queue || !(queue->counts[CELL_PENDING] + queue->counts[CELL_LATE]))
			continue;
		for (unsigned at = 0; at < QUEUE_EVENTS_MAX; at++)
			if (queue->cells[at].state == CELL_PENDING ||
				queue->cells[at].state == CELL_LATE)
				cell_complete(queue, &queue->cells[at], SKEP_STATUS_EDOWN);
		queue->limit_ns = CLOCK_NEVER;
		queue_signal(queue);
	}
}

/* ------------------------------------------------------------------------------ create, destroy */

/* The daemon's eventfd, asked for once a queue number, put into the application's set. */
static int queue_ask(struct skep *session, const struct skep_queue *queue)
{
	struct epoll_event event = {.events = EPOLLIN};
	struct attachment *a = session->current;
	int fd = a->queue_fds[queue->index], status;

	if (fd < 0) {
		status =
			queue_fd_ask(a, queue->index, &local_wait_plain, clock_ns() + CALL_NS, &fd);
		if (status < 0)
			return status;
		pthread_mutex_lock(&session->lock);
		a->queue_fds[queue->index] = fd;
		pthread_mutex_unlock(&session->lock);
	}
	return epoll_ctl(queue->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int queue_fd_ask(struct attachment *a, unsigned index, const struct local_wait *wait,
	uint64_t deadline_ns, int *fd)
{
	struct wire_number request = {0}, answer = {0};
	int status;

	request.head = local_head(WIRE_QUEUE, sizeof(request));
	request.number = index + 1;
	status = attachment_ask(a, &(struct local_ask){.request = &request.head,
					   .answer = &answer.head,
					   .answer_bytes = sizeof(answer),
					   .fd = fd,
					   .wait = wait,
					   .deadline_ns = deadline_ns});
	/* An answer that is lost takes the descriptor along, and there is no second one: only a new
	 * connection helps. */
	if (status == -ETIMEDOUT || status == -EMFILE)
		local_client_shut(&a->local);
	return status == -EPROTO ? SKEP_STATUS_EDOWN : status;
}

static int queue_fds(struct skep_queue *queue)
{
	struct epoll_event event = {.events = EPOLLIN};

	queue->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (queue->event_fd < 0)
		return -errno;
	queue->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (queue->epoll_fd < 0 ||
		epoll_ctl(queue->epoll_fd, EPOLL_CTL_ADD, queue->event_fd, &event) < 0)
		return -errno;
	return 0;
}

void queue_free(struct skep_queue *queue)
{
	if (queue->epoll_fd >= 0)
		close(queue->epoll_fd);
	if (queue->event_fd >= 0)
		close(queue->event_fd);
	memory_free(queue);
}

/* Waits that nobody wants any more need not run to their deadlines. */
static void queue_cancel(struct skep *session, const struct skep_queue *queue)
{
	for (unsigned i = 0; i < QUEUE_EVENTS_MAX; i++) {
		const struct cell *cell = &queue->cells[i];
		struct submission cancel = {.op = SUBMIT_CANCEL,
			.queue = (uint16_t)(queue->index + 1),
			.tag = cell->tag};

		if (cell->state == CELL_PENDING && !call_find(session->current, cell->tag))
			local_client_push(&session->current->local, &cancel, LOCAL_PUSH_WAKE);
	}
}

static bool queue_busy(const struct skep_queue *queue)
{
	return queue->counts[CELL_PENDING] || queue->counts[CELL_LATE];
}

/*
 * A queue that was destroyed with completions to come keeps its place until they came, so that they
 * find room in the ring and are not taken for those of the next queue there.
 */
void queues_reap(struct skep *session)
{
	for (unsigned i = 0; i < QUEUES_MAX; i++) {
		struct skep_queue *queue = session->queues[i];

		if (!queue || !queue->closed)
			continue;
		if (!session->current->gone)
			queue_drain(queue);
		if (queue_busy(queue))
			continue;
		pthread_mutex_lock(&session->lock);
		session->queues[i] = NULL;
		pthread_mutex_unlock(&session->lock);
		queue_free(queue);
	}
}

static int queue_create(struct skep *session, struct skep_queue **out)
{
	struct skep_queue *queue;
	unsigned index = 0;
	int status;

	if (session_away(session))
		return SKEP_STATUS_EDOWN;
	queues_reap(session);
	while (index < QUEUES_MAX && session->queues[index])
		index++;
	if (index == QUEUES_MAX)
		return -EMFILE;
	queue = memory_zalloc(sizeof(*queue));
	if (!queue)
		return -ENOMEM;
	queue->session = session;
	queue->index = index;
	queue->limit_ns = CLOCK_NEVER;
	queue->counts[CELL_FREE] = QUEUE_EVENTS_MAX;
	queue->epoll_fd = queue->event_fd = -1;
	status = queue_fds(queue);
	if (!status)
		status = queue_ask(session, queue);
	if (status < 0) {
		queue_free(queue);
		return status;
	}
	pthread_mutex_lock(&session->lock);
	session->queues[index] = queue;
	pthread_mutex_unlock(&session->lock);
	*out = queue;
	return 0;
}

int skep_queue_create(struct skep *session, struct skep_queue **out)
{
	int status = session_enter(session);

	if (status)
		return status;
	status = out ? queue_create(session, out) : -EINVAL;
	session_exit(session);
	return status;
}

void skep_queue_destroy(struct skep_queue *queue)
{
	struct skep *session = queue ? queue->session : NULL;

	if (session_enter(session))
		return;
	if (!session_away(session)) {
		hbm_queue_gone(session, queue);
		loads_forget(session, (uint16_t)(queue->index + 1));
		queue_cancel(session, queue);
	}
	pthread_mutex_lock(&session->lock);
	close(queue->epoll_fd);
	queue->epoll_fd = -1;
	queue->closed = true;
	pthread_mutex_unlock(&session->lock);
	queue->limit_ns = CLOCK_NEVER;
	session_limit(session, false);
	queues_reap(session);
	session_exit(session);
}

int skep_queue_fd(const struct skep_queue *queue)
{
	if (!queue)
		return -EINVAL;
	return session_forked(queue->session) ? -EOWNERDEAD : queue->epoll_fd;
}

/* --------------------------------------------------------------------------------------- take */

static void queue_reset(const struct skep_queue *queue)
{
	const struct attachment *a = queue->session->current;
	int daemon_fd = a->gone ? -1 : a->queue_fds[queue->index];
	uint64_t count;

	/* Before the ring is read: what comes afterwards makes it readable again. */
	if (read(queue->event_fd, &count, sizeof(count)) < 0) {
		/* Nothing was signalled. */
	}
	if (daemon_fd >= 0 && read(daemon_fd, &count, sizeof(count)) < 0) {
		/* Nor here. */
	}
}

/*
 * Events that are there, and those whose deadline has passed without an answer. The cell of one of
 * these stays taken until the answer comes, which is then passed over.
 */
static unsigned queue_emit(struct skep_queue *queue, struct skep_event *events, unsigned events_max)
{
	uint64_t now = clock_ns(), earliest = CLOCK_NEVER;
	bool left = false;
	unsigned count = 0;

	for (unsigned i = 0; i < QUEUE_EVENTS_MAX; i++) {
		struct cell *cell = &queue->cells[i];
		bool expired = cell->state == CELL_PENDING && cell->limit_ns <= now;

		if (cell->state == CELL_PENDING && !expired)
			earliest = MIN_OF(earliest, cell->limit_ns);
		if (cell->state != CELL_READY && !expired)
			continue;
		if (count == events_max) {
			left = true;
			continue;
		}
		events[count++] = (struct skep_event){.user = cell->user,
			.status = expired ? -ETIMEDOUT : cell->status,
			.block = cell->block};
		cell_set(queue, cell, expired ? CELL_LATE : CELL_FREE);
	}
	queue->limit_ns = earliest;
	session_limit(queue->session, true);
	if (left)
		queue_signal(queue);
	return count;
}

int skep_queue_take(struct skep_queue *queue, struct skep_event *events, unsigned events_max)
{
	struct skep *session = queue ? queue->session : NULL;
	int status = session_enter(session);

	if (status)
		return status;
	if (!events && events_max) {
		session_exit(session);
		return -EINVAL;
	}
	queue_reset(queue);
	if (!session_away(session))
		queue_drain(queue);
	status = (int)queue_emit(queue, events, MIN_OF(events_max, (unsigned)QUEUE_EVENTS_MAX));
	session_exit(session);
	return status;
}
