/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_HAND_PRIV_H
#define SKEP_STORE_HAND_PRIV_H

/*
 * A node's whole state on its way from one daemon to its successor: a memory file of sections
 * (docs/formats/takeover.md) and an inventory of descriptors. Written by hand_out.c while the
 * keeper stands still, read by hand_in.c in the other process, which believes nothing unchecked.
 * Sections that are arrays of the keeper's own structs travel as they lie in memory: HAND_VERSION
 * (transport/local/server_hand.h) and the sizes in the head say that both sides mean the same.
 */

#include "store/node_priv.h"

#define HAND_MAGIC 0x646e61486e706b53ull /* "SkpnHand" */

enum hand_section_kind {
	HAND_HEAD = 1,
	HAND_INVENTORY, /* struct hand_fd, in the order of the descriptors */
	HAND_LISTENERS,
	HAND_LINKS,
	/* Of each realm in turn: */
	HAND_REALM,
	HAND_SPACES,
	HAND_SLOTS,
	HAND_FREE_SLOTS,
	HAND_GONE,
	HAND_GONE_HEADS,
	HAND_CLASSES, /* bytes of an object, of frames; then of records, as all up to OWNERS */
	HAND_SLABS,
	HAND_NUMBERS,
	HAND_OWNERS,
	HAND_PENDINGS,
	HAND_RESERVATIONS,
	HAND_WAITS,
	HAND_BLOCKED, /* numbers of links, in the order they wait */
	HAND_SSD_AT,  /* where each slot's record lies; empty without an ssd, as the next */
	HAND_ORIGINS, /* incarnations by entry.origin */
	HAND_HBM,     /* what sessions have announced in their GPU memory */
	HAND_END,
};

struct hand_section {
	uint32_t kind, each_bytes;
	uint64_t count;
	/* then count * each_bytes, padded to 8 */
};

struct hand_head {
	uint64_t magic;
	uint32_t version;
	uint32_t shape; /* hand_shape() */
	uint64_t incarnation;
	uint32_t number; /* of takeovers before this one */
	uint32_t id_bits;
	uint32_t realm_count;
	uint32_t reserved;
	uint64_t ssd_set; /* node_ssd_set(); 0: no ssd tier */
};

enum hand_fd_kind {
	HAND_FD_LISTENER, /* owner: which */
	HAND_FD_INDEX,	  /* owner: realm */
	HAND_FD_CHUNK,	  /* owner: realm; index: which */
	HAND_FD_SOCKET,	  /* owner: link, as those that follow */
	HAND_FD_PROCESS,
	HAND_FD_PAGE,
	HAND_FD_KICK,
	HAND_FD_QUEUE, /* index: which */
};

struct hand_fd {
	uint32_t kind, owner, index;
};

struct hand_listener {
	char path[NODE_PATH_MAX], realm[NODE_NAME_MAX];
};

/* A connection and the session behind it. */
struct hand_link {
	uint64_t session_id, blocked_at_ns, opened_ns, submission_count, spaces;
	struct submission blocked_on, asks;
	uint32_t realm; /* NONE32: no session yet */
	int32_t peer_pid, pid;
	uint32_t peer_uid, peer_gid, uid;
	uint32_t submission_head, completion_tail[PAGE_QUEUES];
	uint8_t bye, readonly, said_bye, stopped, hears_asks;
	char bound_realm[NODE_NAME_MAX], name[NODE_NAME_MAX];
};

struct hand_realm {
	char name[NODE_NAME_MAX];
	uint64_t secret_low, secret_high; /* hash of it */
	uint64_t dram_bytes, chunk_bytes, ready_bytes, chunk_count;
	uint64_t index_file_bytes, heap_bytes, slot_count;
	uint64_t generation, next_session;
	struct lru_list lru[LRU_LISTS_MAX];
	uint64_t lru_of_class[DRAM_CLASSES_MAX];
	struct removed_list removed;
	uint64_t next_steal, operator_pins;
	uint64_t slot_count_by_state[ENTRY_STATES];
	uint32_t gone_at;
	uint16_t epoch, epoch_oldest;
	struct lru_list ssd_lru, ssd_dirty;
	uint64_t unwritten[SYNC_EPOCHS];
	uint64_t dirtied, marked, marked_ns; /* of the durable mark */
	uint64_t counters[REALM_COUNTER_COUNT];
	uint64_t misses[SKEP_REASON_COUNT];
	struct histogram latencies[REALM_LATENCY_COUNT];
};

struct hand_slab {
	uint32_t index, class, count;
};

struct hand_pending {
	uint64_t last_ns, give_up_ns;
	uint32_t slot;
	uint32_t idle; /* on the list of those that nobody writes */
};

struct hand_reservation {
	uint64_t write, frame, at_ns, bytes;
	uint32_t slot, link;
	uint16_t part;
	uint8_t state, class;
	int32_t verdict;
};

struct hand_wait {
	uint64_t deadline_ns;
	uint32_t slot, link, tag;
	uint32_t queue;
};

struct hand_hbm {
	uint32_t slot, link;
};

/* Sections of a realm, found in the mapped file with their counts checked against each other. */
struct slab_sections {
	const uint64_t *classes;
	const struct hand_slab *slabs;
	const uint32_t *numbers, *owners;
	uint64_t class_count, slab_count, object_count;
};

struct realm_sections {
	const struct hand_realm *image;
	const struct space *spaces;
	const struct slot *slots;
	const uint32_t *free_slots, *gone_heads, *blocked, *ssd_at;
	const uint64_t *origins;
	const struct gone *gone;
	struct slab_sections frames, records;
	const struct hand_pending *pendings;
	const struct hand_reservation *reservations;
	const struct hand_wait *waits;
	const struct hand_hbm *hbm;
	uint64_t free_count, pending_count, reservation_count, wait_count, blocked_count;
	uint64_t ssd_at_count, origin_count, hbm_count;
	struct realm *realm;
};

/* Of the sizes of all structs that travel as they are. */
uint32_t hand_shape(void);

/* What goes: the memory file and the descriptors behind it, which stay their owners'. */
struct hand_parcel {
	int state_fd;
	int *fds;
	uint32_t fd_count;
};
/* Makes the file and gives it memory for about what will come, while the keeper still runs: then it
 * stands still for less. Return: 0, -ENOMEM, …. */
int hand_prepare(const struct node *node, struct hand_parcel *out);
/* Packs; the keeper stands still. On error @parcel is dropped. Return: 0, -ENOMEM, …. */
int hand_pack(struct node *node, struct hand_parcel *parcel);
void hand_parcel_drop(struct hand_parcel *parcel);

/*
 * Builds realms, sessions and sockets of a node that has a keeper (its incarnation set from the
 * head) and a server. Takes the descriptors that it uses out of @parcel (-1), and only these.
 * Return: 0; negative with @why.
 */
struct hand_arrival {
	struct node *node;
	const struct node_config *config;
	struct hand_parcel *parcel;
	char *why;
	size_t why_bytes;
};
int hand_head_read(const struct hand_parcel *parcel, struct hand_head *out);
int hand_unpack(const struct hand_arrival *arrival);

/* Sessions that were restored, by the number of their link; NULL: none. */
struct hand_sessions {
	struct session **of_link;
	uint64_t count;
};
/* Fills from->realm, which was made and has its sessions. Return: 0; -EPROTO: what was packed is
 * not sound; -ENOMEM, …. */
int hand_realm_fill(
	const struct realm_sections *from, const struct hand_sessions *sessions, int index_fd);

#endif
