/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_NODE_H
#define SKEP_STORE_NODE_H

/*
 * A node: keeper, movers, realms and their pools. skepd runs one; libskep-node.so runs one inside
 * its process. Calls below may come from any thread but the keeper's; those marked "asks the
 * keeper" wait for it (a busy keeper answers within milliseconds).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/histogram.h"
#include "base/status.h"
#include "store/counters.h"

enum {
	NODE_REALMS_MAX = 64,
	NODE_NAME_MAX = 64,
	NODE_PATH_MAX = 108, /* of a unix socket */
	NODE_TOKENS_MAX = 8,
	NODE_UIDS_MAX = 16,
	NODE_SECRET_MAX = 4096,
	NODE_SSDS_MAX = 16,
};

struct node;

/* A file or block device of the ssd tier. */
struct node_ssd {
	char path[4096];
	uint64_t bytes; /* 0: the whole block device */
};

struct realm_config {
	char name[NODE_NAME_MAX];
	/* Secret that keys the ids: the bytes, read from a file by the caller; at least 16. */
	uint8_t secret[NODE_SECRET_MAX];
	uint32_t secret_bytes;
	uint64_t dram_bytes;   /* size of the pool; fixed while the node runs */
	uint64_t dram_use_max; /* quota of bytes in frames; 0 = dram_bytes. Can be reloaded */
	uint64_t ssd_bytes;    /* of the ssd tier, head-room included; 0 = none */
	uint32_t index_blocks; /* slots; 0 = (dram + ssd bytes) / 32 KiB, at least 4,096 */
	uint64_t record_bytes; /* heap for tokens, keys, sums; 0 = a sixteenth of dram + ssd, +
				* 64 MiB */
	uint32_t sessions_max; /* 0 = 256. Can be reloaded */
	uint64_t age_limit_ns; /* of a reservation; 0 = 30 s. Can be reloaded */
	char socket_path[NODE_PATH_MAX]; /* a socket that stands for this realm, or "" */
	/* Who may open a session on the common socket; none of either: everybody who reaches it. */
	char tokens[NODE_TOKENS_MAX][NODE_NAME_MAX * 4]; /* Can be reloaded */
	uint32_t token_count;
	uid_t uids[NODE_UIDS_MAX];
	uint32_t uid_count;
};

/* An operator's or realm's JSON request that came in on a socket (WIRE_COMMAND). */
struct node_command;

struct node_config {
	char socket_path[NODE_PATH_MAX]; /* common socket; "" = none (embedded) */
	mode_t socket_mode;		 /* 0 = 0660 */
	uint64_t chunk_bytes;		 /* 0 = 1 GiB or less, so that a pool has at least 8 */
	uint64_t memory_max;		 /* of all pools together with what clients of dead daemons
					  * still hold in this cgroup; 0 = the cgroup's limit */
	unsigned movers;		 /* 0 = 1 */
	uint64_t spin_ns;		 /* how long the keeper polls after work; 0 = 50 us */
	unsigned loop_backend;		 /* enum loop_backend of base/loop */
	uint32_t id_bits;		 /* 0 = 128; fewer only in the collision test */
	bool private_to_uid;		 /* only sessions of the daemon's own uid (replay) */
	struct realm_config *realms;	 /* read during the call alone */
	unsigned realm_count;		 /* 1 to NODE_REALMS_MAX */
	const struct node_ssd *ssds;	 /* read during the call alone, as the path below */
	unsigned ssd_count;		 /* 0 = no ssd tier; up to NODE_SSDS_MAX */
	const char *manifest_path;	 /* a directory; NULL = the first path + ".manifest" */
	uint64_t manifest_bytes;	 /* of memory for it; 0 = 16 MiB */
	uint64_t ssd_wear_bytes_per_day; /* that may be written on average; 0 = any amount */
	uint64_t stop_ns; /* how long a stop may write what is not yet on an ssd; 0 = 5 s */
	/*
	 * Takes a command; called on the keeper's thread, must not block: hands it to another
	 * thread, which answers with node_command_answer(), exactly once. Return: 0, or negative:
	 * not taken, the node refuses it with that status. NULL: refused. A session has one under
	 * way at most.
	 */
	int (*command)(void *arg, struct node_command *command);
	void *command_arg;
	/* Take the place of the daemon that answers on socket_path: its sessions, memory and index
	 * go on here. Sizes, secrets and sockets of the realms must be the same. */
	bool takeover;
	/* A successor has taken this node's place: it is to be destroyed. On a thread of the node's
	 * own; must not wait for the node. May be NULL. */
	void (*handed)(void *arg, pid_t successor);
	void *handed_arg;
};

/*
 * Builds pools, index files and sockets. On error @why (room for @why_bytes) says the cause and the
 * fix in one line. Return: 0; -EADDRINUSE (another daemon listens on the socket), -ENOMEM,
 * -EINVAL, -EMFILE, …. With takeover also -ENOENT, -ECONNREFUSED (no daemon is there), -EPERM,
 * -EBUSY (it refuses); on any error the other daemon serves on, unless it ended by itself.
 */
int node_create(const struct node_config *config, struct node **out, char *why, size_t why_bytes);

/* Starts keeper and movers. Return: 0 or a negative errno. */
int node_start(struct node *node);

/*
 * Waits until every pool is populated or memory for it is held elsewhere (node_status tells), so
 * that a measurement does not begin on half a pool. Return: 0, -EAGAIN (held elsewhere),
 * -ETIMEDOUT.
 */
int node_wait_ready(struct node *node, uint64_t deadline_ns);

/* What the ssd tier holds at a stop: blocks that are durable, which the next start finds, and those
 * that were in DRAM alone when the time was up (some of them may be found as well). */
struct node_kept {
	uint64_t blocks, blocks_left;
};

/*
 * The first half of a stop: writes what is not yet on the ssd, for at most stop_ns of the
 * configuration, makes it durable and says what came of it; blocks. Clients are served meanwhile.
 * node_destroy() does it where it was not done.
 */
void node_keep(struct node *node, struct node_kept *out);

/* Stops accepting, ends sessions, stops the threads, frees everything. NULL is nothing. */
void node_destroy(struct node *node);

/* Takes over what can be reloaded (marked above; log level is the caller's). Asks the keeper.
 * Return: 0; -EINVAL with @why: which setting cannot change while the node runs. */
int node_reload(struct node *node, const struct node_config *config, char *why, size_t why_bytes);

/* A connected session socket for a client in this process (embedded). Return: fd or negative. */
int node_connect(struct node *node);

/* ------------------------------------------------------------------------------- commands */

/* The JSON text as it came (not zero-ended); valid until answered. */
const char *node_command_text(const struct node_command *command, size_t *bytes);

/* May this session see everything (daemon's uid or root)? Else only the realm @realm. */
bool node_command_operator(const struct node_command *command, const char **realm);

/* Answers and frees. @text is copied. Any thread but the keeper's. */
void node_command_answer(struct node_command *command, const char *text, size_t bytes);

/* ------------------------------------------------------------------------------- insight */

struct node_status {
	uint64_t incarnation;
	uint32_t takeovers; /* how often it was another process before, without a stop */
	uint64_t uptime_ns;
	uint64_t counters[NODE_COUNTER_COUNT];
	const char *loop_backend; /* "io_uring" or "epoll" */
	bool loop_fallback;	  /* io_uring was wanted and refused */
	unsigned movers;
	unsigned realm_count;
	unsigned session_count;
	struct node_ssd_status {
		bool uring;	 /* else plain reads and writes by a few threads … */
		int uring_error; /* … for this reason; 0: that was asked for */
		uint64_t devices, devices_fenced, in_flight, io_fallback;
		uint64_t segment_bytes, segments, segments_free, tables_damaged;
		uint64_t
			moves_given_up; /* durable records that were moved, and are not meanwhile */
		/* The budget, what of it may be written now, puts that waited for it. */
		uint64_t wear_bytes_per_day, wear_left_bytes, wear_waits;
		uint64_t unwritten_bytes; /* of new files: not written through yet, so slower */
		bool manifest;		  /* it is there; false: built without RocksDB */
		/* 1: it was lost, and all records of the tables counted as live. */
		uint64_t manifest_rebuilt;
		uint64_t manifest_bytes, manifest_rows_waiting, manifest_errors;
		uint64_t reads, writes, flushes, read_bytes, written_bytes, errors;
		struct histogram read_ns, write_ns;
	} ssd;				       /* devices 0: none */
	uint64_t pool_bytes, pool_ready_bytes; /* ready < pool: memory is held elsewhere, growing */
};

struct realm_status {
	char name[NODE_NAME_MAX];
	uint64_t dram_bytes, dram_ready_bytes, dram_use_max, dram_used_bytes, dram_slab_bytes;
	uint64_t slots, slots_used;
	uint64_t record_bytes, record_used_bytes;
	uint64_t index_bytes; /* memory of the index: shared, private, lists */
	uint64_t blocks_present, blocks_pending, blocks_empty, blocks_removed;
	uint64_t ssd_bytes, ssd_live_bytes, ssd_live_max, ssd_segments, ssd_segments_free;
	uint64_t ssd_put_bytes, ssd_moved_bytes, ssd_table_bytes;
	uint64_t blocks_ssd, blocks_unwritten, loads_live;
	uint64_t blocks_hbm;	      /* in GPU memory of sessions and nowhere else here */
	uint64_t hbm_blocks, hbm_max; /* announced, of each session; and the limit of that */
	uint64_t hbm_bytes;
	uint64_t reservations, waiters, pins, operator_pins;
	uint64_t sessions, spaces;
	uint64_t counters[REALM_COUNTER_COUNT];
	uint64_t misses[SKEP_REASON_COUNT]; /* blocks not had, by reason */
	struct histogram latencies[REALM_LATENCY_COUNT];
};

struct space_status {
	char realm[NODE_NAME_MAX];
	char name[NODE_NAME_MAX];
	uint64_t version, generation;
	uint32_t block_tokens, part_count, opaque;
	uint64_t block_bytes; /* of all parts */
	uint64_t blocks;
	char fingerprint[4096]; /* canonical text, one field a line */
};

struct session_status {
	char realm[NODE_NAME_MAX];
	char name[NODE_NAME_MAX];
	uint64_t session;
	pid_t pid; /* 0: not known (another pid namespace) */
	uid_t uid;
	uint64_t age_ns;
	uint64_t pins, reservations, reserved_bytes, submissions;
	uint64_t hbm_blocks, hbm_bytes; /* that it announced in GPU memory of its own */
	bool dying;			/* its socket is closed, its process still runs */
};

struct block_status {
	char realm[NODE_NAME_MAX];
	char space[NODE_NAME_MAX];
	uint64_t id_low, id_high, parent_low, parent_high;
	bool root;
	uint8_t state; /* enum entry_state (store/read/layout.h) */
	bool in_dram, on_ssd;
	uint32_t hbm_holders; /* sessions that announced it */
	uint64_t hbm_session; /* one of them */
	uint32_t slot, children, parts, depth;
	uint64_t bytes, idle_ns, frame_generation;
	uint32_t pins;		/* cells that name exactly this block */
	uint32_t operator_pins; /* by command */
	uint32_t token_count;
	uint32_t tokens[8]; /* the first ones */
};

/* All of these ask the keeper. 0 or a count; -ENOENT for an unknown realm, space or block. */
int node_status(struct node *node, struct node_status *out);
int node_realm(struct node *node, unsigned index, struct realm_status *out);
int node_sessions(struct node *node, const char *realm, struct session_status *out, unsigned max);
int node_spaces(struct node *node, const char *realm, struct space_status *out, unsigned max);

/* A page of blocks: slots from @*cursor on; @*cursor moves, UINT32_MAX at the end. */
struct block_query {
	const char *realm;
	const char *space;     /* NULL: all */
	const uint64_t *below; /* {low, high}: only children of this block; NULL: all */
	bool roots_only;
	uint32_t cursor;
};
int node_blocks(
	struct node *node, struct block_query *query, struct block_status *out, unsigned max);

/* The block whose id is {low, high}. */
struct block_name {
	const char *realm;
	uint64_t id_low, id_high;
};
int node_block(struct node *node, const struct block_name *name, struct block_status *out);

/* An operator's pin holds a block (and so its ancestors) in DRAM until it is taken back. */
int node_pin(struct node *node, const struct block_name *name, bool pin);

/* Removes a block and everything below it; count of blocks removed. */
int64_t node_evict(struct node *node, const struct block_name *name);

/* Evicts the coldest blocks of a realm until @bytes are free; bytes freed. */
int64_t node_evict_coldest(struct node *node, const char *realm, uint64_t bytes);

/*
 * Reads blocks from the ssd and verifies them where they lie, DRAM passed over: those in slots from
 * @cursor on, until @bytes_max of them are read (64 MiB and 64 blocks at most). What does not
 * verify is written again from DRAM or quarantined. Waits for the reads. Return: 0; -ENOENT (no
 * such realm, or it has no ssd), -ENOMEM, -ETIMEDOUT, -EIO (its device is fenced).
 */
struct node_verify {
	const char *realm;
	uint64_t bytes_max;
	uint32_t cursor;	  /* moves; UINT32_MAX: all were looked at */
	uint32_t slots;		  /* out: of the index, so that progress can be shown */
	uint64_t blocks, bytes;	  /* out: read in this step */
	uint64_t bad, unreadable; /* out: of these */
};
int node_verify(struct node *node, struct node_verify *verify);

/* Takes a fenced device of the ssd tier into use again. Return: 0 (also where it is not fenced),
 * -ENODEV. */
int node_unfence(struct node *node, unsigned device);

/* Removes all blocks of a space (NULL: of all spaces of the realm); count. */
int64_t node_purge(struct node *node, const char *realm, const char *space);

#endif
