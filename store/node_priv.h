/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_NODE_PRIV_H
#define SKEP_STORE_NODE_PRIV_H

/* The node's threads around the keeper: node.c runs them, node_link.c serves sessions' sockets,
 * node_ask.c answers other threads' questions, node_ssd.c owns the devices of the ssd tier. */

#include <pthread.h>

#include "base/loop/loop.h"
#include "base/loop/mailbox.h"
#include "base/loop/worker.h"
#include "store/store_priv.h"
#include "transport/local/server.h"

struct node {
	struct keeper *keeper;
	struct loop *loop;
	struct mailbox *mailbox; /* into the keeper's thread */
	struct workers *movers;
	struct local_server *server;
	struct ssd_io *disks;	   /* NULL: no ssd tier */
	struct ledger *ledger;	   /* NULL: no ssd tier, or no manifest */
	struct node_config config; /* realms: not kept, each realm has its own */
	uint64_t started_ns;
	uint64_t stop_until_ns; /* 0: no stop has begun */
	/* Pools grow on this thread; it alone calls dram_populate(). */
	pthread_t keeper_thread, memory_thread;
	pthread_t fill_thread; /* writes new files of the ssd tier through once */
	bool keeper_runs, memory_runs, fill_runs;
	_Atomic bool stopping;	  /* nothing new begins */
	_Atomic bool keeper_ends; /* set when nobody waits for the keeper any more */
	pthread_mutex_t memory_lock;
	pthread_cond_t memory_changed;
	unsigned pools_ready, pools_short; /* under memory_lock */
};

struct node_command {
	struct node *node;
	uint64_t link_id;
	bool operator_role;
	char realm[NODE_NAME_MAX];
	size_t bytes;
	char text[];
};

/* node_link.c */
int node_server_create(struct node *node);
bool node_realm_allows(const struct realm *realm, const struct local_peer *peer, const char *token);

/* node_ledger.c */
int node_ledger_open(struct node *node, const struct node_config *config,
	const struct ssd_ledger **out, char *why, size_t why_bytes);
/* The tables were read; @found records count as live. */
void node_ledger_recovered(struct node *node, uint64_t found);
/* keeper_outside.settle */
int node_ledger_settle(void *arg, struct manifest_done *done);
void node_ledger_status(const struct node *node, struct node_ssd_status *out);
void node_ledger_close(struct node *node);

/* node_ssd.c */
int node_ssd_create(
	struct node *node, const struct node_config *config, char *why, size_t why_bytes);
int node_ssd_recover(struct node *node, char *why, size_t why_bytes);
/* Starts what runs beside the keeper. Return: 0 or a negative errno. */
int node_ssd_start(struct node *node);
/* A pool is whole: transfers to and from it need no page look-ups any more. */
void node_ssd_register(struct node *node, const struct realm *realm);
/* Threads of ours take no signals: they are the program's. Return: 0 or a negative errno. */
int node_thread_start(pthread_t *thread, void *(*body)(void *), void *arg, const char *name);
void node_ssd_settle(struct node *node);
void node_ssd_destroy(struct node *node);
void node_ssd_status(struct node *node, struct node_ssd_status *out);

#endif
