/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_STORE_SIM_H
#define SKEP_TESTS_STORE_SIM_H

/*
 * A keeper with sessions, driven in one thread: no sockets, no clocks, no threads. Clients use the
 * real session pages, the real probe and the real pin protocol, step by step, so that a test can
 * put the keeper between any two steps.
 */

#include "store/store_priv.h"
#include "tests/tiering/ssd/memory_device.h"

/* The ssd tier, on devices in memory. */
struct sim_ssd_options {
	uint64_t bytes;		/* of each realm's log; 0: no ssd */
	uint64_t segment_bytes; /* 0 = 1 MiB */
	unsigned devices;	/* 0 = 1; together they hold what the logs ask for */
	unsigned depth, errors_max;
	uint64_t seed;
	bool ledger; /* what died is remembered over restarts, as a manifest does */
};

struct sim_options {
	uint64_t dram_bytes, use_max;
	uint32_t index_blocks;
	uint64_t record_bytes; /* 0 = 4 MiB */
	uint32_t sessions_max;
	uint64_t age_limit_ns;
	uint32_t id_bits;
	unsigned realms; /* 0 = 1; named "r0", "r1", … */
	bool movers;	 /* takes sum jobs; sim_sums_run() does them */
	char secret;	 /* the realms' secrets begin with '0' + it + the realm's number */
	struct sim_ssd_options ssd;
};

enum { SIM_REALMS_MAX = 4, SIM_JOBS_MAX = 256 };

/* A record that died while its segment lives on. */
struct sim_dead {
	uint64_t sequence;
	uint32_t unit;
};

struct sim {
	struct sim_options options;
	struct keeper *keeper;
	struct realm *realm; /* the first */
	struct realm *realms[SIM_REALMS_MAX];
	bool movers;
	struct sum_job *jobs[SIM_JOBS_MAX]; /* taken and not done yet */
	unsigned job_count;
	unsigned cuts; /* sessions the keeper ended */
	uint64_t incarnation;
	struct memory_devices *devices; /* NULL: no ssd */
	struct sim_dead *dead;
	size_t dead_count, dead_room;
	bool off; /* the power is: nothing is remembered */
};

struct sim_client {
	struct session *session;
	const struct index_view *view; /* the realm's, or a mapping of the client's own */
	uint8_t *page;
	bool page_given;	    /* by the caller, who frees it */
	uint32_t tail;		    /* of submissions */
	uint32_t seen[PAGE_QUEUES]; /* of completions */
	uint32_t next_tag;
};

int sim_create(struct sim *sim, const struct sim_options *options);
void sim_destroy(struct sim *sim);

/* A session of @realm; its page is this client's until sim_client_close(). */
int sim_client_open(struct sim *sim, struct realm *realm, struct sim_client *client);
/* The same in memory of the caller's (page_bytes() of it, zeroed), which processes may share. */
int sim_client_open_at(struct realm *realm, void *memory, struct sim_client *client);
/* Process end: everything it held is given back. */
void sim_client_close(struct sim_client *client, bool bye);

struct page_head *sim_page(const struct sim_client *client);
struct pin_cell *sim_pins(const struct sim_client *client);
void *sim_scratch(const struct sim_client *client, uint32_t at);

/* Pushes a message with the next tag. Return: its tag; 0: the ring is full. */
uint32_t sim_push(struct sim_client *client, struct submission *message);
/* Takes the next completion of a queue. Return: false, none. */
bool sim_take(struct sim_client *client, unsigned queue, struct completion *out);

/*
 * The keeper ends and is made anew on the same devices, with what is found there. Nothing is said
 * to clients: their sessions are gone, sim_client_forget() is all that is left to do with them.
 * @cut: by a power cut, requests under way included (memory_devices_power_cut()); else what the
 * devices were told is done. Faults of the devices end. Return: 0 or negative, as sim_create().
 */
int sim_restart(struct sim *sim, bool cut);
void sim_client_forget(struct sim_client *client);

/* Runs up to @most requests of the devices, in the order their seed draws. Return: how many ran. */
unsigned sim_devices_run(struct sim *sim, unsigned most);

/* Keeper and devices by turns until nothing is under way; time stands still. */
void sim_settle(struct sim *sim);

/* Lets the keeper run until nothing is left to take, then once through its ages. */
void sim_run(struct sim *sim);

/* The mover's work: sums the oldest @count jobs and hands them back. */
void sim_sums_run(struct sim *sim, unsigned count);

/* Opens a space of @parts parts of @bytes[i] each, named by @tokens tokens a block. */
struct sim_space {
	const char *name;
	uint32_t block_tokens, part_count;
	uint64_t bytes[INDEX_PARTS_MAX];
	uint32_t ranges[INDEX_PARTS_MAX];
	bool opaque;
};
int sim_space_open(
	struct sim_client *client, const struct sim_space *space, struct wire_space_answer *answer);

/*
 * Asks for part @part of blocks [first, first + count) of a chain whose earlier names stand; fills
 * the scratch at 0. Push it, run the keeper, then read the answers with sim_scratch(client, 0).
 */
struct sim_put {
	const struct probe_chain *chain;
	uint32_t first, count, part;
	uint32_t length; /* of the part; 0 = the layout's */
	uint64_t space_generation;
	uint64_t deadline_ns;
};
uint32_t sim_reserve(struct sim_client *client, const struct sim_put *put);
/* Says that they lie in the client's own GPU memory; answered as a reservation is. */
uint32_t sim_announce(struct sim_client *client, const struct sim_put *put);

/* A part that was reserved, as its writer remembers it. */
struct sim_written {
	struct block_id id;
	uint32_t slot, part, ranges;
	uint64_t write, frame, bytes;
};

/* Commits with true sums over the frames. Uses the second half of the scratch. */
uint32_t sim_commit(struct sim_client *client, const struct sim_written *parts, uint32_t count);
/* The same with sums that say nothing: the keeper does not check them, and no frame is touched. */
uint32_t sim_commit_blind(
	struct sim_client *client, const struct sim_written *parts, uint32_t count);
uint32_t sim_abort(struct sim_client *client, const struct sim_written *parts, uint32_t count);

#endif
