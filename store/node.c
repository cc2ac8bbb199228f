/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node's threads. The keeper's turns rings, sockets and ages; one thread populates the pools; the
 * movers sum. The keeper polls for a while after work and then sleeps in its loop; sessions are
 * told so by a flag in their page, and wake it by an eventfd.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/last_words.h"
#include "base/log.h"
#include "base/memory.h"
#include "store/hand_priv.h"
#include "tiering/dram/sum.h"

enum {
	ROUND_BUDGET = 64,
	WATCHES_MAX = 16384,
	TIMERS_MAX = 4096,
	MAILBOX_MESSAGES = 1024,
	MOVER_JOBS = 256,
};

#define SPIN_DEFAULT_NS	  (50 * NS_PER_US)
#define SOCKET_LOOK_NS	  (200 * NS_PER_US) /* a busy keeper looks at its sockets so often */
#define TOUCH_DRAIN_NS	  (20 * NS_PER_MS)  /* touches do not wake; they wait so long at most */
#define MEMORY_RETRY_NS	  (500 * NS_PER_MS)
#define CHUNK_DEFAULT_MAX (1ull << 30)

/* ------------------------------------------------------------------------------- the keeper */

/* Tells every session that it must wake us from now on. Return: somebody just pushed. */
static bool sessions_asleep(struct keeper *keeper)
{
	bool waiting = false;

	list_each (node, &keeper->sessions) {
		struct session *session = list_item(node, struct session, of_keeper);

		/* What an unmoved one says waits for its move, which the tick looks for. */
		if (!session->stopped && !session->operator_role)
			waiting |= page_end_asleep(&session->page) && !session->unmoved;
	}
	return waiting;
}

static void sessions_awake(struct keeper *keeper)
{
	list_each (node, &keeper->sessions) {
		struct session *session = list_item(node, struct session, of_keeper);

		if (!session->stopped && !session->operator_role)
			page_end_awake(&session->page);
	}
}

static void keeper_sleep(struct node *node, uint64_t next_tick_ns)
{
	struct keeper *keeper = node->keeper;
	uint64_t until = next_tick_ns;

	if (keeper->session_count)
		until = MIN_OF(until, keeper->now_ns + TOUCH_DRAIN_NS);
	/* The turn without sleep that came before may have taken the wake-up that means the end;
	 * whoever takes it sees `keeper_ends`, which was set before (loop_wake). */
	if (atomic_load_explicit(&node->keeper_ends, memory_order_relaxed))
		return;
	if (!sessions_asleep(keeper)) {
		loop_run_once(node->loop, until);
		keeper->counters[NODE_COUNTER_wakes]++;
	}
	sessions_awake(keeper);
}

static void *keeper_main(void *arg)
{
	struct node *node = arg;
	struct keeper *keeper = node->keeper;
	uint64_t spin_ns = node->config.spin_ns ? node->config.spin_ns : SPIN_DEFAULT_NS;
	uint64_t next_tick = 0, last_work = clock_ns(), looked = 0, after;
	int status = last_words_begin(&node->last_words);

	if (status < 0)
		log_warn("node", "clients will be late to learn of a death of this daemon: %s",
			status_text(status));
	while (!atomic_load_explicit(&node->keeper_ends, memory_order_relaxed)) {
		unsigned work;

		if (node->handing.wanted && node_hand_rest(node))
			return NULL;
		keeper->now_ns = clock_ns();
		work = keeper_round(keeper, ROUND_BUDGET);
		if (mailbox_waiting(node->mailbox) || keeper->now_ns - looked >= SOCKET_LOOK_NS) {
			int calls = loop_run_once(node->loop, 0);

			work += calls > 0 ? (unsigned)calls : 0;
			looked = keeper->now_ns;
		}
		if (work || keeper->now_ns >= next_tick)
			next_tick = keeper_tick(keeper);
		after = clock_ns();
		keeper->counters[NODE_COUNTER_keeper_wall_ns] = after - node->started_ns;
		if (work) {
			keeper->counters[NODE_COUNTER_keeper_busy_ns] += after - keeper->now_ns;
			last_work = after;
		} else if (after - last_work > spin_ns) {
			keeper->now_ns = after;
			keeper_sleep(node, next_tick);
			looked = next_tick = 0; /* what woke it may have changed what is due */
		} else {
			cpu_relax();
		}
	}
	node_ssd_settle(node);
	return NULL;
}

/* -------------------------------------------------------------------------------- movers */

static void sum_done(void *argument)
{
	struct sum_job *job;

	memcpy(&job, argument, sizeof(job));
	keeper_summed(job->realm->keeper, job);
}

struct sum_post {
	struct node *node;
	struct sum_job *job;
};

static void sum_run(void *argument)
{
	struct sum_post *post = argument;
	struct sum_job *job = post->job;
	struct part_sums part = {.bytes = job->in.bytes,
		.length = job->in.length,
		.range_count = job->in.ranges,
		.part = job->in.part,
		.id_low = job->in.id_low,
		.id_high = job->in.id_high,
		.incarnation = job->in.incarnation,
		.write = job->in.write};
	struct checksum_root root = part_sums_make(&part, job->sums);

	job->root_low = root.low;
	job->root_high = root.high;
	/* The mailbox is larger than all jobs together; others may fill it for a moment. */
	while (mailbox_post(post->node->mailbox, sum_done, &job, sizeof(job)) == -EAGAIN)
		usleep(100);
}

static int keeper_outside_sum(void *arg, struct sum_job *job)
{
	struct node *node = arg;
	struct sum_post post = {node, job};

	return workers_post(node->movers, sum_run, &post, sizeof(post));
}

static void keeper_outside_cut(void *arg, struct session *session)
{
	(void)arg;
	log_warn("keeper", "session %llu (%s, pid %d) broke the protocol and is ended",
		(unsigned long long)session->id, session->name, (int)session->pid);
	session_stop(session);
	local_link_cut(session->link);
}

/* -------------------------------------------------------------------------------- memory */

struct ready_post {
	struct realm *realm;
	uint64_t bytes;
};

static void ready_run(void *argument)
{
	struct ready_post *post = argument;

	realm_ready(post->realm, post->bytes);
}

/* Waits on the condition for @ns, or until the node stops. */
static void memory_wait(struct node *node, uint64_t ns)
{
	uint64_t until = clock_ns() + ns;
	struct timespec at = {(time_t)(until / NS_PER_S), (long)(until % NS_PER_S)};

	pthread_mutex_lock(&node->memory_lock);
	if (!atomic_load(&node->stopping))
		pthread_cond_timedwait(&node->memory_changed, &node->memory_lock, &at);
	pthread_mutex_unlock(&node->memory_lock);
}

static void pools_note(struct node *node, unsigned ready, unsigned short_of_memory)
{
	pthread_mutex_lock(&node->memory_lock);
	node->pools_ready = ready;
	node->pools_short = short_of_memory;
	pthread_cond_broadcast(&node->memory_changed);
	pthread_mutex_unlock(&node->memory_lock);
}

/* Populates pool after pool; what the memory limit does not leave room for now is tried again. */
static void *memory_main(void *arg)
{
	struct node *node = arg;
	unsigned ready, lacking;
	bool told = false;

	do {
		ready = lacking = 0;
		for (unsigned i = 0; i < node->keeper->realm_count; i++) {
			struct realm *realm = node->keeper->realms[i];
			int64_t bytes = 0, before = -1;

			while (!atomic_load(&node->stopping) && bytes >= 0 && bytes != before) {
				before = bytes;
				bytes = dram_populate(realm->dram, node->config.memory_max);
				if (bytes > 0 && bytes != before) {
					struct ready_post post = {realm, (uint64_t)bytes};

					mailbox_call(node->mailbox, ready_run, &post);
				}
			}
			if (bytes == (int64_t)dram_bytes(realm->dram)) {
				node_ssd_register(node, realm);
				ready++;
			}
			lacking += bytes < 0;
		}
		pools_note(node, ready, lacking);
		if (lacking && !told)
			log_warn("dram",
				"%u of %u pools are smaller than configured: the memory limit "
				"leaves no room now; they grow as memory is let go",
				lacking, node->keeper->realm_count);
		told = lacking;
		if (lacking)
			memory_wait(node, MEMORY_RETRY_NS);
	} while (lacking && !atomic_load(&node->stopping));
	return NULL;
}

int node_wait_ready(struct node *node, uint64_t deadline_ns)
{
	struct timespec at = {(time_t)(deadline_ns / NS_PER_S), (long)(deadline_ns % NS_PER_S)};
	int status = 0;

	pthread_mutex_lock(&node->memory_lock);
	while (status == 0 && node->pools_ready + node->pools_short < node->keeper->realm_count)
		status = pthread_cond_timedwait(&node->memory_changed, &node->memory_lock, &at);
	if (status == 0 && node->pools_short)
		status = EAGAIN;
	pthread_mutex_unlock(&node->memory_lock);
	return -status;
}

/* --------------------------------------------------------------------------------- create */

uint64_t node_chunk_bytes(const struct node_config *config, uint64_t pool_bytes)
{
	uint64_t chunk = config->chunk_bytes;

	if (!chunk)
		chunk = MAX_OF(align_up(pool_bytes / 8, DRAM_UNIT_BYTES), 64ull << 20);
	return MIN_OF(chunk, CHUNK_DEFAULT_MAX);
}

static int realm_config_check(const struct realm_config *realm, char *why, size_t why_bytes)
{
	if (!realm->name[0] || strlen(realm->name) >= NODE_NAME_MAX)
		snprintf(why, why_bytes, "a realm has no name: give each one");
	else if (realm->secret_bytes < 16)
		snprintf(why, why_bytes,
			"realm %s: its secret has %u bytes; at least 16 are needed", realm->name,
			realm->secret_bytes);
	else if (realm->dram_bytes < DRAM_UNIT_BYTES)
		snprintf(why, why_bytes, "realm %s: dram of %llu bytes; at least 2 MiB are needed",
			realm->name, (unsigned long long)realm->dram_bytes);
	else
		return 0;
	return -EINVAL;
}

static int realms_create(
	struct node *node, const struct node_config *config, char *why, size_t why_bytes)
{
	if (!config->realm_count || config->realm_count > NODE_REALMS_MAX) {
		snprintf(why, why_bytes, "%u realms: 1 to %d can be served", config->realm_count,
			NODE_REALMS_MAX);
		return -EINVAL;
	}
	for (unsigned i = 0; i < config->realm_count; i++) {
		const struct realm_config *realm = &config->realms[i];
		struct realm *made;
		int status = realm_config_check(realm, why, why_bytes);

		if (status < 0)
			return status;
		if (keeper_realm(node->keeper, realm->name)) {
			snprintf(why, why_bytes, "realm %s is configured twice", realm->name);
			return -EINVAL;
		}
		status = realm_create(node->keeper, realm,
			&(struct realm_memory){
				.chunk_bytes = node_chunk_bytes(config, realm->dram_bytes)},
			&made);
		if (status < 0) {
			snprintf(why, why_bytes,
				"realm %s: cannot make its pool of %llu bytes and its index: %s",
				realm->name, (unsigned long long)realm->dram_bytes,
				status_text(status));
			return status;
		}
	}
	return 0;
}

static int sockets_listen(
	struct node *node, const struct node_config *config, char *why, size_t why_bytes)
{
	mode_t mode = config->socket_mode ? config->socket_mode : 0660;

	for (unsigned i = 0; i <= config->realm_count; i++) {
		bool common = i == config->realm_count;
		const char *path = common ? config->socket_path : config->realms[i].socket_path;
		int status;

		if (!path[0])
			continue;
		status = local_server_listen(
			node->server, path, mode, common ? "" : config->realms[i].name);
		if (status == -EADDRINUSE) {
			snprintf(why, why_bytes,
				"another daemon answers on %s: stop it, or give another socket",
				path);
			return status;
		}
		if (status < 0) {
			snprintf(why, why_bytes, "cannot listen on %s: %s", path,
				status_text(status));
			return status;
		}
	}
	return 0;
}

static int threads_prepare(struct node *node, const struct node_config *config)
{
	struct loop_options loop = {.backend = (enum loop_backend)config->loop_backend,
		.watches_max = WATCHES_MAX,
		.timers_max = TIMERS_MAX};
	struct workers_options movers = {.count = config->movers ? config->movers : 1,
		.queue_capacity = MOVER_JOBS,
		.name = "skep-mover",
		.backend = (enum loop_backend)config->loop_backend};
	int status = loop_create(&loop, &node->loop);

	if (status == 0)
		status = mailbox_create(node->loop, MAILBOX_MESSAGES, &node->mailbox);
	if (status == 0)
		status = workers_create(&movers, &node->movers);
	if (status == 0)
		status = node_server_create(node);
	return status;
}

int node_create(const struct node_config *config, struct node **out, char *why, size_t why_bytes)
{
	struct keeper_outside outside = {
		.sum = keeper_outside_sum, .cut = keeper_outside_cut, .settle = node_ledger_settle};
	struct node *node = memory_zalloc(sizeof(*node));
	struct hand_head head = {.id_bits = config->id_bits};
	pthread_condattr_t clock;
	int status = -ENOMEM;

	snprintf(why, why_bytes, "out of memory");
	if (!node)
		return -ENOMEM;
	node->config = *config;
	node->config.realms = NULL;
	node->config.ssds = NULL;
	node->ssd_set = node_ssd_set(config);
	pthread_mutex_init(&node->memory_lock, NULL);
	pthread_condattr_init(&clock);
	pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
	pthread_cond_init(&node->memory_changed, &clock);
	pthread_condattr_destroy(&clock);
	node->taking.fd = -1;
	if (getrandom(&head.incarnation, sizeof(head.incarnation), 0) != sizeof(head.incarnation))
		goto fail;
	head.incarnation |= 1;
	if (config->takeover) {
		status = node_take_ask(node, config, &head, why, why_bytes);
		if (status < 0)
			goto fail;
	}
	outside.arg = node;
	status = keeper_create(head.incarnation, head.id_bits, &outside, &node->keeper);
	if (status < 0)
		goto fail;
	node->keeper->takeovers = head.number + config->takeover;
	status = threads_prepare(node, config);
	if (status < 0) {
		snprintf(why, why_bytes, "cannot make the event loop or its threads: %s",
			status_text(status));
		goto fail;
	}
	if (config->takeover) {
		status = node_take_build(node, config, why, why_bytes);
		if (status < 0)
			goto fail;
		*out = node;
		return 0;
	}
	status = node_ssd_create(node, config, why, why_bytes);
	if (status < 0)
		goto fail;
	status = realms_create(node, config, why, why_bytes);
	if (status < 0)
		goto fail;
	status = node_ssd_recover(node, why, why_bytes);
	if (status < 0)
		goto fail;
	status = sockets_listen(node, config, why, why_bytes);
	if (status < 0)
		goto fail;
	*out = node;
	return 0;

fail:
	node_destroy(node);
	return status;
}

static int last_words_prepare(struct node *node)
{
	const struct keeper *keeper = node->keeper;
	int status = last_words_create(
		&node->last_words, keeper->realm_count, offsetof(struct index_head, keeper));

	for (unsigned i = 0; !status && i < keeper->realm_count; i++)
		status = last_words_add(&node->last_words, keeper->realms[i]->index.head);
	return status;
}

int node_start(struct node *node)
{
	int status = last_words_prepare(node);

	if (status < 0)
		return status;
	node->started_ns = clock_ns();
	if (node->taking.parcel)
		node_take_tell(node);
	status = thread_start(&node->keeper_thread, keeper_main, node, "skep-keeper");
	if (status < 0)
		return status;
	node->keeper_runs = true;
	if (node->taking.parcel) {
		status = node_take_start(node);
		if (status < 0)
			return status;
	}
	status = thread_start(&node->memory_thread, memory_main, node, "skep-memory");
	if (status < 0)
		return status;
	node->memory_runs = true;
	return node_ssd_start(node);
}

void node_destroy(struct node *node)
{
	struct node_kept kept;

	if (!node)
		return;
	pthread_mutex_lock(&node->memory_lock);
	atomic_store(&node->stopping, true);
	pthread_cond_broadcast(&node->memory_changed);
	pthread_mutex_unlock(&node->memory_lock);
	node_hand_end(node);
	node_take_end(node);
	/* The memory thread may be waiting for the keeper, which runs until it has ended. */
	if (node->memory_runs)
		pthread_join(node->memory_thread, NULL);
	if (node->fill_runs)
		pthread_join(node->fill_thread, NULL);
	node_keep(node, &kept);
	atomic_store(&node->keeper_ends, true);
	if (node->keeper_runs) {
		loop_wake(node->loop);
		pthread_join(node->keeper_thread, NULL);
	}
	last_words_destroy(&node->last_words);
	node_ssd_destroy(node);
	workers_destroy(node->movers);
	mailbox_destroy(node->mailbox);
	keeper_destroy(node->keeper);
	local_server_destroy(node->server);
	loop_destroy(node->loop);
	pthread_cond_destroy(&node->memory_changed);
	pthread_mutex_destroy(&node->memory_lock);
	memory_free(node);
}

struct adopt {
	struct node *node;
	int fd, status;
};

static void adopt_run(void *argument)
{
	struct adopt *adopt = argument;

	if (adopt->node->server)
		adopt->status = local_server_adopt(adopt->node->server, adopt->fd);
	else
		close(adopt->fd);
}

int node_connect(struct node *node)
{
	int ends[2];
	struct adopt adopt = {.node = node, .status = SKEP_STATUS_EDOWN};

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
		return -errno;
	adopt.fd = ends[1];
	if (mailbox_call(node->mailbox, adopt_run, &adopt) < 0) {
		close(ends[1]);
		adopt.status = -EAGAIN;
	}
	if (adopt.status < 0) {
		close(ends[0]);
		return adopt.status;
	}
	return ends[0];
}
