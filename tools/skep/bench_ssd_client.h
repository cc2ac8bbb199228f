/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_BENCH_SSD_CLIENT_H
#define SKEP_TOOLS_SKEP_BENCH_SSD_CLIENT_H

#include <pthread.h>
#include <stdatomic.h>

#include "tools/skep/bench.h"

/*
 * The clients of `skep bench ssd`: sessions with a private daemon, in passes that the caller begins
 * and waits for. A *run* is a chain of its own, put at once and loaded at once. The blocks of a
 * pass of puts have names that none before it had.
 */
struct ssd_run {
	const struct bench_options *options;
	const char *socket;
	unsigned char *source;	/* one block and some pages: block n begins at one of them */
	uint32_t run_blocks;	/* of a run */
	uint32_t runs_max;	/* that a pass puts */
	uint64_t names;		/* makes those of a pass of puts fresh */
	uint32_t runs;		/* that this pass has put */
	uint32_t *order;	/* of loading: numbers of runs, @runs of them */
	_Atomic uint32_t next;	/* place in it from which is loaded next; counts on for ever */
	uint64_t until_ns;	/* the end of a pass */
	struct samples *single; /* µs of loads of one block */
	uint64_t wrong_blocks;	/* of all passes that ended: whose bytes were not what was put */
	struct ssd_client *clients;
};

struct ssd_client {
	struct ssd_run *run;
	struct skep *session;
	struct skep_space *space;
	struct skep_chain *chain;
	struct skep_ref *refs;	     /* of a run */
	struct skep_frame *reserved; /* of a run */
	uint64_t *sums;		     /* of a run */
	/* Of the last pass. */
	pthread_t thread;
	int (*pass)(struct ssd_client *client);
	int status;
	uint64_t bytes, ended_ns;
	uint64_t wrong_blocks;
};

/* What a pass moved and how long it took, from its beginning to its last client's end. */
struct ssd_pass {
	uint64_t bytes, ns;
};

/* Sessions of all clients. Complains. Return: 0 or how the command ends; ssd_clients_close() both
 * ways. */
int ssd_clients_open(struct ssd_run *run);
void ssd_clients_close(struct ssd_run *run);

/*
 * PUT: the first client puts fresh runs until the time is over or runs_max are there, and syncs.
 * LOAD: all of them load runs that lie on the ssd alone until the time is over.
 * SINGLE: the first one loads blocks that lie on the ssd alone, one at a time.
 * PURGE: the first one removes all. Complains. Return: 0 or how the command ends.
 */
enum ssd_pass_kind { SSD_PASS_PUT, SSD_PASS_LOAD, SSD_PASS_SINGLE, SSD_PASS_PURGE };
int ssd_pass_run(struct ssd_run *run, enum ssd_pass_kind kind, struct ssd_pass *pass);

#endif
