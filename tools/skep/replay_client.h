/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_REPLAY_CLIENT_H
#define SKEP_TOOLS_SKEP_REPLAY_CLIENT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/histogram.h"
#include "tools/skep/trace.h"

/* What one client counts; owned by its thread until that ends, then added up. */
struct replay_tally {
	uint64_t requests;
	uint64_t blocks;	  /* asked for */
	uint64_t hit_blocks;	  /* had, from whatever tier */
	uint64_t ssd_blocks;	  /* of these, loaded from the ssd */
	uint64_t lost_blocks;	  /* acknowledged, and missed later for no good reason */
	uint64_t wrong_blocks;	  /* got, with a byte that was not what was put */
	uint64_t failed_gets;	  /* matched and not delivered */
	uint64_t put_blocks;	  /* written and committed */
	uint64_t existing_blocks; /* not written: there already, or being written by another */
	uint64_t refused_puts;	  /* neither */
	int last_refusal;	  /* the status of the last one */
	/* Nanoseconds a request: chain made and hashed, match, hits read and checked, rest put. */
	struct histogram hash_ns, match_ns, get_ns, put_ns;
	uint64_t ended_ns; /* when the client had nothing left to do */
};

void replay_tally_add(struct replay_tally *to, const struct replay_tally *from);

/*
 * One replay, shared by its clients. Set before they start and then constant, but for what the lock
 * guards and the atomic fields.
 */
struct replay_run {
	const struct trace *trace;
	const char *socket;
	uint64_t payload_bytes;
	uint64_t put_wait_ns; /* how long a put waits for a frame; CLOCK_NEVER: without end */
	double speed;	      /* 0: as fast as it goes */
	/* With an ssd tier: which nodes of the trace were put and acknowledged; else NULL. */
	_Atomic uint8_t *acknowledged;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* of the next three */
	unsigned opened;	/* clients whose session is open, or has failed to */
	unsigned ended;
	bool go;
	uint64_t began_ns;     /* set before go */
	_Atomic size_t cursor; /* request that the next free client takes */
	_Atomic uint64_t done; /* requests finished */
	_Atomic uint64_t done_blocks;
	_Atomic bool stop;   /* end after the request under way */
	_Atomic int failure; /* first status that ended a client early */
};

/* One client: a thread of its own. */
struct replay_client {
	struct replay_run *run;
	struct replay_tally tally;
	pthread_t thread;
};

/*
 * The thread: opens a session, waits for run->go, takes requests until there is none, the daemon is
 * gone or run->stop is set, closes. @client: a struct replay_client. Returns NULL.
 */
void *replay_client_thread(void *client);

#endif
