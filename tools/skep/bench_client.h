/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_BENCH_CLIENT_H
#define SKEP_TOOLS_SKEP_BENCH_CLIENT_H

#include <pthread.h>
#include <stdatomic.h>

#include "tools/skep/bench.h"

/*
 * A client of `skep bench local`: a thread with a session and a share of the blocks. All clients do
 * the same step at a time, between barriers.
 *
 * Four passes a round, each over all of a client's share. PUT fills the frames of fresh chains from
 * the source, COPY copies them out to the destination; the pass after each is memcpy between the
 * same addresses, in the same order. (That writes frames that were committed: the same bytes once
 * more, in a pool that nobody else uses.)
 */
enum local_pass { PASS_PUT, PASS_PUT_MEMCPY, PASS_COPY, PASS_COPY_MEMCPY, PASS_COUNT };

/* Shared by the clients; constant while they run, but for the atomic field and what is said. */
struct local_run {
	const struct bench_options *options;
	const char *socket;
	unsigned char *source, *destination; /* each client has its share of them */
	uint64_t share;			     /* blocks of a client */
	uint32_t batch;			     /* blocks put at a time */
	pthread_mutex_t gate;		     /* held until all threads are there, or cannot be */
	bool cancelled;			     /* under the gate */
	pthread_barrier_t barrier;
	_Atomic int failure; /* the first status that ended a client */
	struct local_client *clients;
	struct samples speeds[PASS_COUNT]; /* GiB/s of all together; the first client's to write */
};

struct local_client {
	struct local_run *run;
	unsigned index;
	pthread_t thread;
	uint64_t pass_began_ns, pass_ended_ns; /* read by the first client between barriers */
	uint32_t *get_ns;		       /* options->gets of them */
	uint64_t wrong_blocks;		       /* whose bytes were not what was put */
};

/* The thread: waits at the gate, then does every step. @client: a struct local_client. */
void *local_client_thread(void *client);

#endif
