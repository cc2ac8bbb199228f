/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The predecessor's half of a takeover (DESIGN section 5; the messages: server_hand.h). A thread
 * of its own talks to the successor. The keeper comes to rest first: no submission is taken any
 * more, sums that movers make are waited for; clients go on reading meanwhile. Until GO has been
 * sent every failure has the keeper go on where it stood. From then on this process holds nothing
 * but its mapping of the old indexes, so that it can empty them for clients that are slow to read
 * the new ones.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/memory.h"
#include "store/hand_priv.h"
#include "store/hbm_priv.h"
#include "transport/local/server_hand.h"

/* How long the keeper waits for movers and for operators' commands to end. */
#define REST_NS (2 * NS_PER_S)
/* How long a successor may build; clients' puts stand still meanwhile. */
#define BUILD_NS (20 * NS_PER_S)
/* How long the old indexes are kept for a successor that says nothing. */
#define HOLD_NS (60 * NS_PER_S)
#define TURN_NS (200 * NS_PER_US)

/* --------------------------------------------------------------------------- keeper's thread */

static bool keeper_rests(const struct node *node)
{
	const struct keeper *keeper = node->keeper;

	if (!keeper_sums_idle(keeper) || local_server_busy(node->server))
		return false;
	if (keeper->ssd && (node->handing.syncing || !ssd_idle(keeper->ssd)))
		return false;
	list_each (at, &keeper->sessions)
		if (list_item(at, const struct session, of_keeper)->commanding)
			return false;
	return true;
}

struct rest_sync {
	struct ssd_sync log;
	struct node *node;
};

static void rest_synced(struct ssd_sync *log, int status)
{
	struct rest_sync *sync = list_item(log, struct rest_sync, log);

	/* What is not durable the successor does not find, and writes again. */
	if (status < 0)
		log_warn("takeover", "a log of the ssd tier cannot be synced: %s",
			status_text(status));
	sync->node->handing.syncing--;
	memory_free(sync);
}

/* Transfers that were begun are finished, what waits for them is answered; none is begun. Then all
 * that has a record is made durable, so that the successor finds it. */
static void ssd_rests(struct node *node)
{
	struct keeper *keeper = node->keeper;
	bool idle = true;

	for (unsigned i = 0; i < keeper->realm_count; i++) {
		struct realm *realm = keeper->realms[i];

		/* The successor makes the next durable mark: it asks for all that is not written.
		 * Who waits for loads or for a sync of his own may need more transfers. */
		sync_mark_drop(realm);
		if (!list_empty(&realm->ssd.loads_live) || !list_empty(&realm->ssd.syncs_live)) {
			load_tick(realm);
			sync_tick(realm);
			sync_mark_drop(realm);
			ssd_pump(realm);
		}
		idle &= ssd_realm_idle(realm);
	}
	if (idle && node->handing.syncing < 0) {
		node->handing.syncing = 0;
		for (unsigned i = 0; i < keeper->realm_count; i++) {
			struct realm *realm = keeper->realms[i];
			struct rest_sync *sync =
				realm->ssd.log ? memory_zalloc(sizeof(*sync)) : NULL;

			if (!sync)
				continue;
			sync->node = node;
			sync->log.done = rest_synced;
			node->handing.syncing++;
			ssd_sync(realm->ssd.log, &sync->log);
		}
	}
	ssd_kick(keeper->ssd);
}

void node_sessions_forget(struct node *node)
{
	struct list *sessions = &node->keeper->sessions;

	while (!list_empty(sessions))
		session_drop(list_item(sessions->next, struct session, of_keeper));
}

/* Closes what the successor has now: its end must be the sessions' end. */
static void node_release(struct node *node)
{
	node_sessions_forget(node);
	local_server_borrow(node->server, true);
	local_server_destroy(node->server);
	node->server = NULL;
	loop_run_once(node->loop, 0); /* io_uring lets go of the sockets */
	node_ssd_leave(node);
	pthread_mutex_lock(&node->memory_lock);
	node->handing.rest = HAND_REST_CLOSED;
	pthread_cond_broadcast(&node->memory_changed);
	pthread_mutex_unlock(&node->memory_lock);
	while (!atomic_load_explicit(&node->keeper_ends, memory_order_relaxed))
		loop_run_once(node->loop, CLOCK_NEVER);
}

bool node_hand_rest(struct node *node)
{
	struct node_handing *hand = &node->handing;
	uint64_t until = clock_ns() + REST_NS, now = clock_ns();
	bool gone, again;

	for (unsigned i = 0; i < node->keeper->realm_count; i++)
		hbm_rest(node->keeper->realms[i]);
	/* Syncs of an earlier attempt end first. */
	again = hand->syncing > 0;
	if (!again)
		hand->syncing = -1;
	while (!keeper_rests(node) && now < until) {
		node->keeper->now_ns = now;
		if (again && hand->syncing == 0) {
			again = false;
			hand->syncing = -1;
		}
		if (node->keeper->ssd)
			ssd_rests(node);
		loop_run_once(node->loop, now + TURN_NS);
		now = clock_ns();
	}
	hand->wanted = false;
	pthread_mutex_lock(&node->memory_lock);
	hand->rest = !again && keeper_rests(node) ? HAND_REST_STILL : HAND_REST_BUSY;
	pthread_cond_broadcast(&node->memory_changed);
	while (hand->rest == HAND_REST_STILL)
		pthread_cond_wait(&node->memory_changed, &node->memory_lock);
	gone = hand->rest == HAND_REST_GONE;
	pthread_mutex_unlock(&node->memory_lock);
	if (gone)
		node_release(node);
	return gone;
}

static void rest_want_run(void *argument)
{
	struct node *node = argument;

	node->handing.wanted = true;
}

static void indexes_empty_run(void *argument)
{
	struct node *node = argument;

	for (unsigned i = 0; i < node->keeper->realm_count; i++)
		index_empty(&node->keeper->realms[i]->index);
}

/* ------------------------------------------------------------------------------ the talk */

/* Return: the keeper stands still. */
static bool rest_await(struct node *node)
{
	struct node_handing *hand = &node->handing;
	bool still;

	hand->rest = HAND_REST_NO;
	while (mailbox_call(node->mailbox, rest_want_run, node) < 0)
		usleep(1000);
	pthread_mutex_lock(&node->memory_lock);
	while (hand->rest == HAND_REST_NO)
		pthread_cond_wait(&node->memory_changed, &node->memory_lock);
	still = hand->rest == HAND_REST_STILL;
	pthread_mutex_unlock(&node->memory_lock);
	return still;
}

static void rest_end(struct node *node, enum hand_rest how)
{
	pthread_mutex_lock(&node->memory_lock);
	node->handing.rest = how;
	pthread_cond_broadcast(&node->memory_changed);
	pthread_mutex_unlock(&node->memory_lock);
}

static int parcel_send(struct node *node, const struct hand_parcel *parcel)
{
	struct hand_line line = {.fd = node->handing.fd,
		.deadline_ns = clock_ns() + BUILD_NS,
		.stop = &node->stopping};
	struct hand_message message = hand_message(HAND_STATE);
	int status;

	message.fd_count = parcel->fd_count;
	status = hand_send(&line, &message, &parcel->state_fd, 1);
	message.kind = HAND_FDS;
	for (uint32_t at = 0; status == 0 && at < parcel->fd_count;) {
		uint32_t count = MIN_OF(parcel->fd_count - at, (uint32_t)WIRE_FDS_MAX);

		status = hand_send(&line, &message, parcel->fds + at, count);
		at += count;
	}
	return status;
}

/* Everything up to the moment that decides. Return: 0: the successor is the daemon now. */
static int state_give(struct node *node, struct hand_parcel *parcel)
{
	struct hand_line line = {.fd = node->handing.fd, .stop = &node->stopping};
	struct hand_message message = hand_message(HAND_GO);
	int fds[WIRE_FDS_MAX], status;
	unsigned count;

	status = hand_pack(node, parcel);
	if (status < 0) {
		message = hand_refusal(status, "the state could not be packed");
		line.deadline_ns = clock_ns() + NS_PER_S;
		hand_send(&line, &message, NULL, 0);
		return status;
	}
	status = parcel_send(node, parcel);
	hand_parcel_drop(parcel);
	line.deadline_ns = clock_ns() + BUILD_NS;
	if (status == 0)
		status = hand_receive(&line, &message, fds, &count);
	if (status < 0) {
		log_warn("takeover", "the successor has not come up (%s): serving on",
			status_text(status));
		return status;
	}
	while (count)
		close(fds[--count]);
	if (message.kind != HAND_READY) {
		log_warn("takeover", "the successor gave up (%s): serving on", message.why);
		return -ECANCELED;
	}
	message = hand_message(HAND_GO);
	status = hand_send(&line, &message, NULL, 0);
	/* Who still reads the old index must not take our end for the daemon's. */
	if (status == 0)
		last_words_retract(&node->last_words);
	return status;
}

/* The successor can open what the keeper has closed by now. */
static void closed_tell(struct node *node)
{
	struct hand_line line = {.fd = node->handing.fd, .deadline_ns = clock_ns() + NS_PER_S};
	struct hand_message message = hand_message(HAND_CLOSED);

	pthread_mutex_lock(&node->memory_lock);
	while (node->handing.rest != HAND_REST_CLOSED)
		pthread_cond_wait(&node->memory_changed, &node->memory_lock);
	pthread_mutex_unlock(&node->memory_lock);
	hand_send(&line, &message, NULL, 0);
}

/* No thread but the keeper's uses the devices any more. */
static void fill_end(struct node *node)
{
	atomic_store(&node->fill_ends, true);
	if (node->fill_runs)
		pthread_join(node->fill_thread, NULL);
	node->fill_runs = false;
}

/* Holds the old indexes until nobody reads them, or nothing is found in them. */
static void indexes_hold(struct node *node)
{
	struct hand_line line = {.fd = node->handing.fd, .deadline_ns = clock_ns() + HOLD_NS};
	struct hand_message message;
	int fds[WIRE_FDS_MAX], status;
	unsigned count;

	status = hand_receive(&line, &message, fds, &count);
	while (count)
		close(fds[--count]);
	/* Where the successor has ended nobody gives a frame to anybody else, ever: what readers
	 * find is right until they see that it has ended. */
	if (status == 0 && message.kind != HAND_HIDE)
		return;
	if (status < 0 && status != -ETIMEDOUT)
		return;
	while (mailbox_call(node->mailbox, indexes_empty_run, node) < 0)
		usleep(1000);
	message = hand_message(HAND_HIDDEN);
	line.deadline_ns = clock_ns() + NS_PER_S;
	hand_send(&line, &message, NULL, 0);
}

static void *hand_main(void *arg)
{
	struct node *node = arg;
	struct node_handing *hand = &node->handing;
	struct hand_line line = {.fd = hand->fd, .deadline_ns = clock_ns() + NS_PER_S};
	struct hand_message refusal;
	struct hand_parcel parcel;
	uint64_t began;
	int status = hand_prepare(node, &parcel);

	began = clock_ns();
	if (status < 0 || !rest_await(node)) {
		log_warn("takeover", "%s: serving on",
			status < 0 ? status_text(status) : "the keeper did not come to rest");
		refusal = hand_refusal(-EBUSY, "the running daemon is busy: try again");
		hand_send(&line, &refusal, NULL, 0);
		hand_parcel_drop(&parcel);
	} else {
		status = state_give(node, &parcel);
		if (status == 0) {
			atomic_store(&hand->gone, true);
			fill_end(node);
		}
		rest_end(node, status == 0 ? HAND_REST_GONE : HAND_REST_NO);
		log_info("takeover", "the keeper stood still for %llu ms",
			(unsigned long long)((clock_ns() - began) / NS_PER_MS));
		if (status == 0) {
			closed_tell(node);
			if (node->config.handed)
				node->config.handed(node->config.handed_arg, hand->peer);
			indexes_hold(node);
		}
	}
	close(hand->fd);
	atomic_store(&hand->over, true);
	return NULL;
}

/* ----------------------------------------------------------------------------- the request */

static bool pools_stand(struct node *node)
{
	bool stand;

	pthread_mutex_lock(&node->memory_lock);
	stand = node->pools_ready == node->keeper->realm_count;
	pthread_mutex_unlock(&node->memory_lock);
	return stand;
}

/* Why not, or NULL. */
static const char *takeover_refusal(
	struct node *node, const struct local_peer *peer, const void *ask, size_t bytes)
{
	const struct hand_message *message = ask;

	if (peer->uid != geteuid())
		return "only a process of the daemon's own user may take its place";
	if (bytes != sizeof(*message) || message->kind != HAND_ASK ||
		message->version != HAND_VERSION || message->page_version != PAGE_VERSION ||
		message->index_version != INDEX_LAYOUT_VERSION)
		return "the running daemon hands over in another form: stop it cleanly, then start";
	/* Populated pools are registered with the devices by the thread that populates. */
	if (node->keeper->ssd && !pools_stand(node))
		return "the pools are not populated yet: try again";
	for (unsigned i = 0; i < node->keeper->realm_count; i++)
		if (node->keeper->realms[i]->unmoved)
			return "the last takeover is not settled yet: try again";
	if (atomic_load(&node->stopping))
		return "the running daemon is stopping";
	if (node->handing.runs)
		return "another takeover is under way";
	return NULL;
}

void node_hand_asked(
	void *arg, int fd, const struct local_peer *peer, const void *message, size_t bytes)
{
	struct node *node = arg;
	struct node_handing *hand = &node->handing;
	const char *why;
	int status = -EPERM;

	if (hand->runs && atomic_load(&hand->over)) {
		pthread_join(hand->thread, NULL);
		hand->runs = false;
	}
	why = takeover_refusal(node, peer, message, bytes);
	if (!why) {
		hand->fd = fd;
		hand->peer = peer->pid;
		atomic_store(&hand->over, false);
		status = thread_start(&hand->thread, hand_main, node, "skep-takeover");
		if (status == 0) {
			hand->runs = true;
			return;
		}
		why = "no thread for it can be had";
	}
	log_warn("takeover", "refused to pid %d of uid %u: %s", (int)peer->pid, (unsigned)peer->uid,
		why);
	{
		struct hand_message refusal = hand_refusal(status, why);
		/* Does not wait: the socket is fresh and has room. */
		struct hand_line line = {.fd = fd};

		hand_send(&line, &refusal, NULL, 0);
	}
	close(fd);
}

void node_hand_end(struct node *node)
{
	if (node->handing.runs)
		pthread_join(node->handing.thread, NULL);
	node->handing.runs = false;
}
