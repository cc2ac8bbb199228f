/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/thread.h"
#include "engine/client/client_priv.h"

/*
 * What the library has once in a process: the list of sessions and the watcher, one thread that
 * sees daemons die, reconnects, lets go of old pools and sets up page tables ahead. It runs while
 * there is a session.
 *
 * The watcher does one piece of work for one session at a time, without the library's lock, and
 * every wait in it looks after the sockets of all sessions (watch_ready()). A session that is
 * closed meanwhile is freed by the watcher when the piece is done.
 */

#define HELLO_NS       (2 * NS_PER_S)	/* for each answer of a daemon that comes back */
#define RETRY_FIRST_NS (10 * NS_PER_MS) /* doubled up to … */
#define RETRY_LAST_NS  (1 * NS_PER_S)
#define RETIRE_NS      (50 * NS_PER_MS)	 /* between looks whether an old pool can go */
#define PREPARE_NS     (100 * NS_PER_MS) /* between looks whether the daemon populated more */
#define REFRESH_NS     (100 * NS_PER_MS) /* between look-ups of a space that failed */
#define NEWS_NS	       (1 * NS_PER_MS)	 /* between looks while the session is in a call */
#define DEATH_NS       (50 * NS_PER_MS)	 /* between looks at the keepers' last words */

enum { POLL_KICK, POLL_OWN, POLL_SESSIONS };

struct watcher {
	struct local_wait wait; /* first: how it waits inside a piece of work */
	struct library *library;
	pthread_t thread;
	int kick_fd;
	/* Library lock. */
	bool stop;
	struct skep *working;
	/* The watcher's own. */
	unsigned poll_count;
	struct pollfd polls[POLL_SESSIONS + SESSIONS_MAX];
	const struct skep *polled[POLL_SESSIONS + SESSIONS_MAX];
};

struct library {
	_Atomic uint32_t *alive; /* on a page that is zeroed in a child of fork() */
	pthread_mutex_t lock;
	struct list sessions;
	unsigned session_count;
	struct watcher *watcher;
};

/* A child of fork() makes its own; what the parent's threads held locked is left alone. */
static _Atomic(struct library *) library_now;

/* ----------------------------------------------------------------------------------- library */

static int library_create(struct library **out)
{
	struct library *library = memory_zalloc(sizeof(*library));
	void *page;

	if (!library)
		return -ENOMEM;
	page = memory_should_fail() ? MAP_FAILED
				    : mmap(NULL, 4096, PROT_READ | PROT_WRITE,
					      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED) {
		memory_free(library);
		return -ENOMEM;
	}
	if (madvise(page, 4096, MADV_WIPEONFORK) < 0) {
		int status = -errno;

		munmap(page, 4096);
		memory_free(library);
		return status;
	}
	library->alive = page;
	atomic_store_explicit(library->alive, 1, memory_order_relaxed);
	pthread_mutex_init(&library->lock, NULL);
	list_init(&library->sessions);
	*out = library;
	return 0;
}

int library_get(struct library **out)
{
	/* Acquire pairs with the release of whoever made it. */
	struct library *seen = atomic_load_explicit(&library_now, memory_order_acquire),
		       *fresh = NULL;
	int status;

	if (seen && atomic_load_explicit(seen->alive, memory_order_relaxed)) {
		*out = seen;
		return 0;
	}
	status = library_create(&fresh);
	if (status < 0)
		return status;
	if (atomic_compare_exchange_strong_explicit(
		    &library_now, &seen, fresh, memory_order_acq_rel, memory_order_acquire)) {
		*out = fresh;
		return 0;
	}
	munmap(fresh->alive, 4096);
	pthread_mutex_destroy(&fresh->lock);
	memory_free(fresh);
	*out = seen;
	return 0;
}

const _Atomic uint32_t *library_alive(const struct library *library)
{
	return library->alive;
}

static void kick(int kick_fd)
{
	uint64_t one = 1;

	if (write(kick_fd, &one, sizeof(one)) < 0) {
		/* The counter is full: the descriptor is readable anyway. */
	}
}

void watcher_kick(const struct skep *session)
{
	kick(session->kick_fd);
}

/* ------------------------------------------------------------------------------------- death */

/* Library lock. The daemon of the session has gone: everybody who waits for it is told. */
static void session_down(struct skep *session)
{
	struct attachment *a = session->watched;
	uint64_t now = clock_ns(), one = 1;

	session->watched = NULL;
	session->news = false;
	/* Sequentially consistent: pairs with session_enter(). */
	atomic_store_explicit(&a->down, 1, memory_order_seq_cst);
	local_client_wake(&a->local);
	pthread_mutex_lock(&session->lock);
	for (unsigned i = 0; i < QUEUES_MAX; i++)
		if (session->queues[i] && !session->queues[i]->closed &&
			write(session->queues[i]->event_fd, &one, sizeof(one)) < 0) {
			/* The counter is full: the descriptor is readable anyway. */
		}
	pthread_mutex_unlock(&session->lock);
	session->retry_at_ns = now;
	session->retry_span_ns = RETRY_FIRST_NS;
	session->retire_at_ns = now;
	session->retiring = true;
}

static bool hung_up(int fd)
{
	struct pollfd one = {.fd = fd, .events = POLLRDHUP};

	return poll(&one, 1, 0) > 0;
}

/* Has the daemon that the session is attached to ended, whatever its socket says? */
static bool keeper_ended(struct skep *session)
{
	bool ended;

	/* The session's thread may be about to read another index. */
	pthread_mutex_lock(&session->lock);
	ended = last_word_spoken(&session->watched->index.head->keeper);
	pthread_mutex_unlock(&session->lock);
	return ended;
}

/* Library lock. Looks at last words and at what the last poll said. */
static void downs_find(struct watcher *w)
{
	list_each (node, &w->library->sessions) {
		struct skep *session = list_item(node, struct skep, link);
		unsigned i = session->poll_index;

		if (session->watched && keeper_ended(session))
			session_down(session);
		/* Sessions come and go while the watcher polls: the answer must be of this one, and
		 * its descriptor is asked once more. */
		if (!session->watched || i >= w->poll_count || w->polled[i] != session ||
			!w->polls[i].revents)
			continue;
		if (hung_up(session->watched->local.socket_fd))
			session_down(session);
		else if (w->polls[i].revents & POLLIN)
			session->news = true;
	}
}

/* Library lock. What to poll: the kick, a descriptor of the work in hand, all sessions. */
static void polls_fill(struct watcher *w, int fd, short events)
{
	w->polls[POLL_KICK] = (struct pollfd){.fd = w->kick_fd, .events = POLLIN};
	w->polls[POLL_OWN] = (struct pollfd){.fd = fd, .events = events};
	w->polled[POLL_KICK] = w->polled[POLL_OWN] = NULL;
	w->poll_count = POLL_SESSIONS;
	list_each (node, &w->library->sessions) {
		struct skep *session = list_item(node, struct skep, link);

		if (!session->watched)
			continue;
		session->poll_index = w->poll_count;
		w->polled[w->poll_count] = session;
		/* What has come is known until it is taken. */
		w->polls[w->poll_count++] = (struct pollfd){.fd = session->watched->local.socket_fd,
			.events = session->news ? POLLRDHUP : POLLRDHUP | POLLIN};
	}
}

/* Polls up to @until_ns, perhaps for less, and looks after deaths. Return: revents of @fd. No lock
 * is held. */
static short watch_poll(struct watcher *w, int fd, short events, uint64_t until_ns)
{
	uint64_t now = clock_ns(), left = until_ns > now ? until_ns - now : 0, count;
	struct timespec span;

	pthread_mutex_lock(&w->library->lock);
	polls_fill(w, fd, events);
	pthread_mutex_unlock(&w->library->lock);
	if (w->poll_count > POLL_SESSIONS)
		left = MIN_OF(left, DEATH_NS);
	span = (struct timespec){
		.tv_sec = (time_t)(left / NS_PER_S), .tv_nsec = (long)(left % NS_PER_S)};
	if (ppoll(w->polls, w->poll_count, &span, NULL) < 0)
		return 0; /* a signal: nothing was looked at */
	if (w->polls[POLL_KICK].revents && read(w->kick_fd, &count, sizeof(count)) < 0) {
		/* Somebody else's wake-up. */
	}
	pthread_mutex_lock(&w->library->lock);
	downs_find(w);
	pthread_mutex_unlock(&w->library->lock);
	return w->polls[POLL_OWN].revents;
}

/* How the watcher waits inside a piece of work; called off when its session is closed. */
static int watch_ready(const struct local_wait *wait, int fd, short events, uint64_t deadline_ns)
{
	struct watcher *w = (struct watcher *)(void *)(uintptr_t)wait;

	for (;;) {
		bool off;

		if (watch_poll(w, fd, events, deadline_ns))
			return 0;
		pthread_mutex_lock(&w->library->lock);
		off = w->stop || w->working->closed;
		pthread_mutex_unlock(&w->library->lock);
		if (off)
			return -ECANCELED;
		if (clock_ns() >= deadline_ns)
			return -ETIMEDOUT;
	}
}

/* --------------------------------------------------------------------------------- reconnect */

/* What a session's thread may change meanwhile is copied under its lock. */
static bool space_request(struct skep *session, unsigned index, struct wire_space_open *request)
{
	const struct skep_space *space;

	pthread_mutex_lock(&session->lock);
	space = session->spaces[index];
	if (space)
		*request = space->request;
	pthread_mutex_unlock(&session->lock);
	return space;
}

/* A space closed and another opened in its place meanwhile is not given the answer. */
static void space_offer(struct skep *session, unsigned index, const struct wire_space_open *request,
	const struct binding *binding)
{
	struct skep_space *space;

	pthread_mutex_lock(&session->lock);
	space = session->spaces[index];
	if (space && !memcmp(&space->request, request, sizeof(*request))) {
		space->offered = *binding;
		space->refresh_wanted = false;
	}
	pthread_mutex_unlock(&session->lock);
}

static int space_look_up(
	struct watcher *w, struct skep *session, struct attachment *a, unsigned index)
{
	struct wire_space_open request;
	struct binding binding;
	int status;

	if (!space_request(session, index, &request))
		return 0;
	status = space_ask(&(struct space_ask){.a = a,
				   .request = &request,
				   .wait = &w->wait,
				   .deadline_ns = clock_ns() + HELLO_NS},
		&binding);
	if (!status)
		space_offer(session, index, &request, &binding);
	explicit_bzero(&binding, sizeof(binding));
	return status;
}

/* The new daemon's eventfd joins the set that the application polls. */
static int queue_reopen(
	struct watcher *w, struct skep *session, struct attachment *a, unsigned index)
{
	struct epoll_event event = {.events = EPOLLIN};
	bool wanted;
	int fd, status;

	pthread_mutex_lock(&session->lock);
	wanted = session->queues[index] && !session->queues[index]->closed;
	pthread_mutex_unlock(&session->lock);
	if (!wanted)
		return 0;
	status = queue_fd_ask(a, index, &w->wait, clock_ns() + HELLO_NS, &fd);
	if (status < 0)
		return status;
	pthread_mutex_lock(&session->lock);
	if (session->queues[index] && !session->queues[index]->closed &&
		epoll_ctl(session->queues[index]->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		status = -errno;
	if (status)
		close(fd);
	else
		a->queue_fds[index] = fd;
	pthread_mutex_unlock(&session->lock);
	return status;
}

static int session_reconnect(struct watcher *w, struct skep *session, struct attachment **out)
{
	struct attach_input input = {.session = session,
		.wait = &w->wait,
		/* A full queue of connections is waited for by trying again. */
		.connect_deadline_ns = 0,
		.deadline_ns = clock_ns() + HELLO_NS,
		.epoch = ++session->epochs};
	struct attachment *fresh;
	int status = attachment_create(&input, &fresh);

	if (status < 0)
		return status;
	for (unsigned i = 0; !status && i < SPACES_MAX; i++)
		status = space_look_up(w, session, fresh, i);
	for (unsigned i = 0; !status && i < QUEUES_MAX; i++)
		status = queue_reopen(w, session, fresh, i);
	if (status < 0) {
		attachment_destroy(session, fresh);
		return status;
	}
	*out = fresh;
	return 0;
}

/* A piece of work: connects and hands the attachment to the session's thread. */
static void work_connect(struct watcher *w, struct skep *session)
{
	struct attachment *fresh = NULL, *unseen = NULL;
	int status = session_reconnect(w, session, &fresh);

	pthread_mutex_lock(&w->library->lock);
	if (status < 0) {
		session->retry_at_ns = clock_ns() + session->retry_span_ns;
		session->retry_span_ns = MIN_OF(2 * session->retry_span_ns, RETRY_LAST_NS);
	} else {
		pthread_mutex_lock(&session->lock);
		/* One that died before the session's thread had come round to it. */
		unseen = session->next;
		if (unseen && unseen->chunks_held) {
			list_append(&session->old, &unseen->link);
			unseen = NULL;
		}
		session->next = fresh;
		pthread_mutex_unlock(&session->lock);
		session->watched = fresh;
		session->prepare_at_ns = 0;
	}
	pthread_mutex_unlock(&w->library->lock);
	attachment_destroy(session, unseen);
}

/* -------------------------------------------------------------------------------- other work */

/* Looks up spaces whose binding does not stand any more. */
static void work_refresh(struct watcher *w, struct skep *session)
{
	struct attachment *a = session->watched;

	atomic_store_explicit(&session->refresh, 0, memory_order_relaxed);
	session->refresh_at_ns = clock_ns() + REFRESH_NS;
	for (unsigned i = 0; a && i < SPACES_MAX; i++) {
		bool wanted;

		pthread_mutex_lock(&session->lock);
		wanted = session->spaces[i] && session->spaces[i]->refresh_wanted;
		pthread_mutex_unlock(&session->lock);
		if (wanted && space_look_up(w, session, a, i) < 0)
			atomic_store_explicit(&session->refresh, 1, memory_order_relaxed);
	}
}

/*
 * An attachment of which nothing is held, taken out of the session, to be destroyed; of the current
 * one only what is behind it. NULL: none, and *@left says whether one may come.
 */
static struct attachment *retired_take(struct skep *session, bool *left)
{
	struct attachment *found = NULL;
	bool busy;

	pthread_mutex_lock(&session->lock);
	/* Sequentially consistent: pairs with session_enter(). Acquire: sees what was held. */
	busy = atomic_load_explicit(&session->busy, memory_order_seq_cst);
	*left = !list_empty(&session->old);
	/* One that died before the session's thread had come round to it. */
	if (session->next && atomic_load_explicit(&session->next->down, memory_order_relaxed)) {
		*left = true;
		if (!session->next->chunks_held) {
			found = session->next;
			session->next = NULL;
		}
	}
	list_each_safe (node, &session->old) {
		struct attachment *a = list_item(node, struct attachment, link);

		if (!found && !busy && !a->chunks_held &&
			!atomic_load_explicit(&a->holds, memory_order_relaxed)) {
			list_remove(&a->link);
			found = a;
			break;
		}
	}
	pthread_mutex_unlock(&session->lock);
	return found;
}

/* The same for the current one, which keeps its place until the session's thread moves on. */
static struct attachment *current_take(struct skep *session, bool *left)
{
	struct attachment *a;
	bool busy;

	pthread_mutex_lock(&session->lock);
	busy = atomic_load_explicit(&session->busy, memory_order_seq_cst);
	a = busy ? NULL : session->current;
	if (busy)
		*left = true;
	if (a && (!atomic_load_explicit(&a->down, memory_order_relaxed) || a->gone))
		a = NULL;
	if (a && (a->chunks_held || atomic_load_explicit(&a->holds, memory_order_relaxed))) {
		*left = true;
		a = NULL;
	}
	if (a)
		a->gone = true;
	pthread_mutex_unlock(&session->lock);
	return a;
}

/* Has the session read the index that the daemon told of: at once, if it is in no call; who waits
 * in one for an answer wakes and does it. Return: done. */
static bool index_move(struct skep *session, struct attachment *a)
{
	bool moved;

	pthread_mutex_lock(&session->lock);
	/* Sequentially consistent: pairs with session_enter(). */
	moved = session->next == a || !atomic_load_explicit(&session->busy, memory_order_seq_cst);
	if (moved && atomic_load_explicit(&a->moved, memory_order_relaxed))
		attachment_move(a);
	moved = !atomic_load_explicit(&a->moved, memory_order_relaxed);
	pthread_mutex_unlock(&session->lock);
	if (!moved)
		local_client_wake(&a->local);
	return moved;
}

/* The daemon said something, in answer to somebody's question or unasked. */
static void work_news(struct watcher *w, struct skep *session)
{
	struct attachment *a = session->watched;
	int status;

	(void)w;
	if (!a || pthread_mutex_trylock(&a->ask_lock)) {
		/* Who asks takes it; what is left behind it is looked at then. */
		session->news_at_ns = clock_ns() + NEWS_NS;
		return;
	}
	atomic_store_explicit(&a->told, 0, memory_order_relaxed);
	status = local_client_news(&a->local);
	if (!status && a->local.index_fd >= 0) {
		/* The session's thread might be about to take up the one before. */
		pthread_mutex_lock(&session->lock);
		atomic_store_explicit(&a->moved, 0, memory_order_seq_cst);
		status = attachment_move_prepare(a);
		if (!status)
			atomic_store_explicit(&a->moved, 1, memory_order_seq_cst);
		pthread_mutex_unlock(&session->lock);
		if (status < 0)
			local_client_shut(&a->local); /* it reconnects */
	}
	pthread_mutex_unlock(&a->ask_lock);
	session->news =
		atomic_load_explicit(&a->moved, memory_order_relaxed) && !index_move(session, a);
	session->news_at_ns = session->news ? clock_ns() + NEWS_NS : 0;
}

static void work_retire(struct watcher *w, struct skep *session)
{
	struct attachment *a;
	bool left;

	a = retired_take(session, &left);
	while (a) {
		attachment_destroy(session, a);
		(void)watch_poll(w, -1, 0, 0);
		a = retired_take(session, &left);
	}
	a = current_take(session, &left);
	if (a)
		attachment_unmap(session, a);
	pthread_mutex_lock(&w->library->lock);
	session->retiring = left;
	session->retire_at_ns = clock_ns() + RETIRE_NS;
	pthread_mutex_unlock(&w->library->lock);
}

static void work_prepare(struct watcher *w, struct skep *session)
{
	bool more = session->watched && attachment_prepare(session, session->watched);

	(void)w;
	session->prepare_at_ns = more ? 0
				 : session->watched && session->watched->prepared_bytes <
							       session->watched->pool_bytes
					 ? clock_ns() + PREPARE_NS
					 : CLOCK_NEVER;
}

/* The deadline of something on a queue has passed: its owner is woken and finds out. */
static void queues_wake(struct skep *session, uint64_t limit_ns)
{
	uint64_t one = 1;

	if (!atomic_compare_exchange_strong_explicit(&session->queue_limit_ns, &limit_ns,
		    CLOCK_NEVER, memory_order_relaxed, memory_order_relaxed))
		return;
	pthread_mutex_lock(&session->lock);
	for (unsigned i = 0; i < QUEUES_MAX; i++)
		if (session->queues[i] && !session->queues[i]->closed &&
			write(session->queues[i]->event_fd, &one, sizeof(one)) < 0) {
			/* The counter is full: the descriptor is readable anyway. */
		}
	pthread_mutex_unlock(&session->lock);
}

/* -------------------------------------------------------------------------------------- loop */

/* In the order of haste. */
enum work { WORK_NEWS, WORK_CONNECT, WORK_REFRESH, WORK_RETIRE, WORK_PREPARE, WORK_COUNT };

static uint64_t work_at(struct skep *session, enum work work)
{
	switch (work) {
	case WORK_NEWS:
		if (session->watched &&
			atomic_load_explicit(&session->watched->told, memory_order_acquire))
			session->news = true;
		return session->watched && session->news ? session->news_at_ns : CLOCK_NEVER;
	case WORK_CONNECT:
		return session->watched ? CLOCK_NEVER : session->retry_at_ns;
	case WORK_REFRESH:
		return session->watched &&
				       atomic_load_explicit(&session->refresh, memory_order_acquire)
			       ? session->refresh_at_ns
			       : CLOCK_NEVER;
	case WORK_RETIRE:
		if (atomic_exchange_explicit(&session->retire, 0, memory_order_relaxed))
			session->retiring = true;
		return session->retiring ? session->retire_at_ns : CLOCK_NEVER;
	default:
		return session->watched ? session->prepare_at_ns : CLOCK_NEVER;
	}
}

/* Library lock. What is due, the most hasty first; *until: when something will be. */
static struct skep *work_pick(struct watcher *w, enum work *work, uint64_t *until)
{
	uint64_t now = clock_ns();
	struct skep *found = NULL;

	*until = CLOCK_NEVER;
	*work = WORK_COUNT;
	list_each (node, &w->library->sessions) {
		struct skep *session = list_item(node, struct skep, link);
		uint64_t limit =
			atomic_load_explicit(&session->queue_limit_ns, memory_order_relaxed);

		if (limit <= now)
			queues_wake(session, limit);
		else
			*until = MIN_OF(*until, limit);
		for (unsigned i = 0; i < WORK_COUNT; i++) {
			uint64_t at = work_at(session, (enum work)i);

			if (at > now) {
				*until = MIN_OF(*until, at);
			} else if (i < *work) {
				*work = (enum work)i;
				found = session;
			}
		}
	}
	return found;
}

static void work_do(struct watcher *w, struct skep *session, enum work work)
{
	static void (*const works[])(struct watcher *, struct skep *) = {
		work_news, work_connect, work_refresh, work_retire, work_prepare};
	bool closed;

	works[work](w, session);
	pthread_mutex_lock(&w->library->lock);
	w->working = NULL;
	closed = session->closed;
	pthread_mutex_unlock(&w->library->lock);
	if (closed)
		session_free(session);
}

static void *watch_main(void *arg)
{
	struct watcher *w = arg;

	for (;;) {
		struct skep *session = NULL;
		uint64_t until = 0;
		enum work work;
		bool stop;

		pthread_mutex_lock(&w->library->lock);
		stop = w->stop;
		if (!stop)
			session = w->working = work_pick(w, &work, &until);
		pthread_mutex_unlock(&w->library->lock);
		if (stop)
			return NULL;
		if (session)
			work_do(w, session, work);
		/* Between pieces of work too: a death is seen at once. */
		(void)watch_poll(w, -1, 0, session ? 0 : until);
	}
}

/* --------------------------------------------------------------------------------- start, stop */

/* Library lock. */
static int watcher_start(struct library *library)
{
	struct watcher *w = memory_zalloc(sizeof(*w));
	int status;

	if (!w)
		return -ENOMEM;
	w->wait.ready = watch_ready;
	w->library = library;
	w->kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	status = w->kick_fd < 0 ? -errno : thread_start(&w->thread, watch_main, w, "skep-watch");
	if (status < 0) {
		if (w->kick_fd >= 0)
			close(w->kick_fd);
		memory_free(w);
		return status;
	}
	library->watcher = w;
	return 0;
}

int library_add(struct library *library, struct skep *session)
{
	int status = 0;

	pthread_mutex_lock(&library->lock);
	if (library->session_count == SESSIONS_MAX)
		status = -EUSERS;
	else if (!library->watcher)
		status = watcher_start(library);
	if (!status) {
		session->library = library;
		session->kick_fd = library->watcher->kick_fd;
		list_append(&library->sessions, &session->link);
		library->session_count++;
		kick(session->kick_fd);
	}
	pthread_mutex_unlock(&library->lock);
	return status;
}

void library_remove(struct skep *session)
{
	struct library *library = session->library;
	struct watcher *w, *last = NULL;
	bool in_work;

	pthread_mutex_lock(&library->lock);
	w = library->watcher;
	list_remove(&session->link);
	session->closed = true;
	in_work = w->working == session;
	if (--library->session_count == 0) {
		last = w;
		last->stop = true;
		library->watcher = NULL;
	}
	kick(w->kick_fd);
	pthread_mutex_unlock(&library->lock);
	if (!in_work)
		session_free(session);
	if (last) {
		pthread_join(last->thread, NULL);
		close(last->kick_fd);
		memory_free(last);
	}
}
