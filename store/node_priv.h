/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_NODE_PRIV_H
#define SKEP_STORE_NODE_PRIV_H

/* The node's threads around the keeper: node.c runs them, node_link.c serves sessions' sockets,
 * node_ask.c answers other threads' questions. */

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
	struct node_config config; /* realms: not kept, each realm has its own */
	uint64_t started_ns;
	/* Pools grow on this thread; it alone calls dram_populate(). */
	pthread_t keeper_thread, memory_thread;
	bool keeper_runs, memory_runs;
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

#endif
