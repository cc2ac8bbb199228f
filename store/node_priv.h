/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_NODE_PRIV_H
#define SKEP_STORE_NODE_PRIV_H

/* The node's threads around the keeper: node.c runs them, node_link.c serves sessions' sockets,
 * node_ask.c answers other threads' questions, node_ssd.c owns the devices of the ssd tier. */

#include <pthread.h>

#include "base/last_words.h"
#include "base/loop/loop.h"
#include "base/loop/mailbox.h"
#include "base/loop/worker.h"
#include "base/thread.h"
#include "store/store_priv.h"
#include "transport/local/server.h"

/* Where the keeper stands while a successor builds; under the node's memory_lock. */
enum hand_rest {
	HAND_REST_NO,
	HAND_REST_STILL,  /* it waits */
	HAND_REST_BUSY,	  /* it could not come to rest, and serves on */
	HAND_REST_GONE,	  /* the successor serves */
	HAND_REST_CLOSED, /* … and all that it needs is closed here */
};

/* Giving its place to a successor (node_hand.c). */
struct node_handing {
	pthread_t thread;
	bool runs;	   /* keeper's thread: started, not joined */
	bool wanted;	   /* keeper's thread: it shall come to rest */
	_Atomic bool gone; /* a successor serves */
	/* Keeper's thread, while it comes to rest: logs of the ssd tier that are being synced; -1:
	 * not yet. */
	int syncing;
	_Atomic bool over; /* the thread is at its end */
	int fd;
	pid_t peer; /* 0: in another pid namespace */
	enum hand_rest rest;
};

/* Taking a predecessor's place (node_take.c). */
struct hand_parcel;
struct hand_head;
struct node_taking {
	int fd;			    /* -1: none */
	struct hand_parcel *parcel; /* NULL: this is no takeover */
	bool taken;		    /* GO has come */
	uint64_t began_ns;	    /* when it asked */
	bool runs;
	pthread_t thread;
};

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
	uint64_t ssd_set;	/* hash of the devices' and the manifest's paths; 0: none */
	_Atomic bool fill_ends; /* new files are not written through any further here */
	/* Pools grow on this thread; it alone calls dram_populate(). */
	pthread_t keeper_thread, memory_thread;
	pthread_t fill_thread;	      /* writes new files of the ssd tier through once */
	struct last_words last_words; /* of the keeper, one in each realm's index */
	bool keeper_runs, memory_runs, fill_runs;
	_Atomic bool stopping;	  /* nothing new begins */
	_Atomic bool keeper_ends; /* set when nobody waits for the keeper any more */
	pthread_mutex_t memory_lock;
	pthread_cond_t memory_changed;	   /* for handing.rest too */
	unsigned pools_ready, pools_short; /* under memory_lock */
	struct node_handing handing;
	struct node_taking taking;
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

/* node_hand.c: a process asks to take this one's place (link_owner.takeover). */
void node_hand_asked(
	void *arg, int fd, const struct local_peer *peer, const void *message, size_t bytes);
/* Keeper's thread: comes to rest and waits what becomes of it. Return: true: a successor serves,
 * and the keeper is to end. */
bool node_hand_rest(struct node *node);
/* Waits for the end of what is under way. */
void node_hand_end(struct node *node);
/* Frees all sessions without a word to any client: another process serves them. */
void node_sessions_forget(struct node *node);

/* node_take.c. Asks for the predecessor's state: what the keeper is made with. */
int node_take_ask(struct node *node, const struct node_config *config, struct hand_head *head,
	char *why, size_t why_bytes);
/* Builds realms and sessions from it and takes the place. */
int node_take_build(
	struct node *node, const struct node_config *config, char *why, size_t why_bytes);
/* Sends the sessions the new index; before the keeper runs. */
void node_take_tell(struct node *node);
/* Waits, on a thread of its own, until all read it. */
int node_take_start(struct node *node);
void node_take_end(struct node *node);

/* The chunks of a pool of this size. */
uint64_t node_chunk_bytes(const struct node_config *config, uint64_t pool_bytes);

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
void node_ssd_settle(struct node *node);
/* A hash of all paths, 0 where there are none. */
uint64_t node_ssd_set(const struct node_config *config);
/* Keeper's thread: closes the tier, which is idle; realms are left without. */
void node_ssd_leave(struct node *node);
/* A takeover's part: opens the tier under realms that know their records. */
int node_ssd_rejoin(
	struct node *node, const struct node_config *config, char *why, size_t why_bytes);
void node_ssd_destroy(struct node *node);
void node_ssd_status(struct node *node, struct node_ssd_status *out);

#endif
