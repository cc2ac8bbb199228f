/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_STORE_PRIV_H
#define SKEP_STORE_STORE_PRIV_H

/*
 * What the keeper owns. Everything here is touched by the keeper's thread alone, but for the shared
 * index (store/read/layout.h) and the session pages (transport/local/page.h), which clients read
 * and write. Nothing in this file knows of sockets, threads or the wall clock: keeper_now() is set
 * from outside, so that a simulation can drive all of it in one thread from a seed.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/histogram.h"
#include "base/list.h"
#include "base/slab.h"
#include "base/status.h"
#include "store/counters.h"
#include "store/node.h"
#include "store/read/id.h"
#include "store/read/layout.h"
#include "store/read/pin.h"
#include "store/read/probe.h"
#include "tiering/dram/dram.h"
#include "tiering/dram/sum.h"
#include "tiering/ssd/manifest.h"
#include "tiering/ssd/ssd.h"
#include "transport/local/page.h"
#include "transport/local/server_page.h"
#include "transport/local/wire.h"

enum {
	EVICT_BATCH_MAX = 512,
	RESERVATIONS_MAX = 1 << 16,
	WAITS_MAX = 4096, /* of a realm */
	SUM_JOBS_MAX = 32,
	SSD_JOBS_MAX = 512,	/* of a realm */
	SYNCS_MAX = 64,		/* of a realm */
	SYNC_EPOCHS = 256,	/* a power of two above SYNCS_MAX */
	LOADS_MAX = 32,		/* of a realm */
	LOAD_BLOCKS_MAX = 4096, /* of one request */
	RECORD_UNIT_BYTES = 256 << 10,
	LRU_LISTS_MAX = DRAM_CLASSES_MAX,
	FINGERPRINT_BYTES = 4096,
	INDEX_NONE = -1,
};

#define NONE32 UINT32_MAX

/* How long a block whose last writer vanished waits for another one before it is given up. */
#define GIVE_UP_GRACE_NS (250 * NS_PER_MS)

enum slot_flag {
	SLOT_ON_LRU = 1,
	SLOT_VICTIM = 2,   /* unpublished by the batch under way */
	SLOT_HELD = 4,	   /* complete, but the parent is not present yet */
	SLOT_IN_DRAM = 8,  /* holds frames: counted in its parent's dram_children */
	SLOT_DIRTY = 16,   /* to be written to the ssd: on the list of those, not on an LRU list */
	SLOT_WRITING = 32, /* a record of it is on its way: first write, or a move */
	SLOT_LOADING = 64, /* its frames are being filled from the ssd */
	SLOT_LOST = 128,   /* found nowhere by a successor; within ssd_realm_rejoin_end() alone */
};

/* In index.ssd_at within the same: its record was not found. */
#define SSD_LOST (SSD_NONE - 1)

/* The keeper's own half of a slot: 64 bytes. */
struct slot {
	uint64_t stamp_ns;	 /* last touch; orders the LRU list */
	uint64_t committed;	 /* mask of parts */
	uint64_t old_generation; /* frame generation while SLOT_VICTIM or ENTRY_REMOVED */
	uint32_t first_child, next_sibling, prev_sibling;
	uint32_t lru_next, lru_prev; /* towards the hot, the cold end; stack link while held */
	/* Children that hold frames in dram or faster. Children in ssd or faster are all that have
	 * a name: first_child tells, so they are not counted. */
	uint32_t dram_children;
	uint32_t holds;	       /* loads under way that need it in DRAM */
	uint16_t hbm_children; /* children that some session has announced (hbm.c) */
	uint16_t epoch;	       /* of the write that is wanted or under way: see struct sync */
	uint32_t pending;      /* index in realm.pendings while ENTRY_PENDING */
	uint16_t operator_pins;
	uint8_t flags; /* enum slot_flag */
	uint8_t lru;   /* which list */
};

_Static_assert(sizeof(struct slot) == 64, "192 bytes a block hold entry, part, slot and links");

/* The index of a realm: shared arrays, their private halves, slot and record allocation. */
struct index {
	struct index_view view; /* const pointers into base */
	uint8_t *base;
	int fd; /* to be sent to clients; sealed against their writing */
	uint64_t file_bytes, memory_bytes;
	struct index_head *head;
	struct index_entry *entries;
	struct index_part *parts;
	struct index_bucket *buckets;
	uint8_t *heap;
	struct slot *slots;
	uint32_t *scan_marks; /* of pin scans: marked when equal to the scan's number */
	uint32_t *ssd_at;     /* address of each block's record, or SSD_NONE; NULL: no ssd */
	uint32_t *free_slots; /* stack */
	uint32_t free_count;
	struct slab *records;
};

enum reservation_state {
	RESERVATION_FREE,
	RESERVATION_LIVE,
	RESERVATION_SUMMING, /* a mover reads the frame */
	RESERVATION_STALE,   /* too old: the frame waits for its writer's word (-ESTALE) */
	RESERVATION_ORPHAN,  /* the block was given up or removed: SKEP_EPARENT or -ESTALE */
};

/* A part of a block given to a writer. */
struct reservation {
	struct list of_session, of_pending;
	struct list
		by_age; /* realm.reservation_age, or keeper.sum_waiting before a mover takes it */
	struct realm *realm;
	struct session *session; /* NULL once the session is gone (a mover still sums) */
	uint64_t write;		 /* number of the write generation; 0: free */
	uint64_t frame;
	uint64_t at_ns;
	uint64_t bytes;
	uint32_t slot, hash_next, next_free;
	uint32_t sum_tag, sum_index; /* whom to answer when a mover has summed it */
	uint16_t part, sum_queue;
	uint8_t state, class;
	int32_t verdict; /* what a late commit is told */
};

/* A block that is being written. */
struct pending {
	struct list reservations; /* live or summing */
	struct list waits;
	struct list by_age;  /* realm.pending_age, oldest activity first */
	uint64_t last_ns;    /* last reserve or commit */
	uint64_t give_up_ns; /* CLOCK_NEVER while some reservation is live */
	uint32_t slot, next_free;
};

/* A session that waits for a pending block. */
struct wait {
	struct list of_session, of_pending;
	struct session *session;
	uint64_t deadline_ns;
	uint32_t slot, tag, next_free;
	uint16_t queue;
	bool used;
};

/* A commit whose sums a mover makes. */
struct sum_job {
	struct realm *realm;
	uint64_t write; /* names the reservation */
	uint32_t next_free;
	uint64_t root_low, root_high;
	struct part_sums_input {
		const void *bytes;
		uint64_t length, id_low, id_high, incarnation, write;
		uint32_t ranges, part;
	} in;
	uint64_t sums[1024]; /* SKEP_RANGES_MAX */
};

struct space {
	bool used;
	char name[NODE_NAME_MAX];
	char fingerprint[FINGERPRINT_BYTES];
	uint64_t version, generation;
	uint64_t made; /* generation it had first */
	uint64_t key;  /* names it on the ssd: of name, fingerprint and version; no secret */
	uint8_t secret[ID_SECRET_BYTES];
	uint32_t block_tokens, part_count;
	bool opaque;
	bool unkept;	      /* its blocks do not fit the ssd: label or bytes too large */
	bool ssd_writing;     /* its own record is on its way */
	uint32_t ssd_at;      /* of that record, or SSD_NONE */
	uint64_t ssd_version; /* that the record tells */
	struct wire_space_open request;
	uint8_t classes[INDEX_PARTS_MAX]; /* of each part; opaque: of the longest */
	uint64_t part_bytes[INDEX_PARTS_MAX];
	uint32_t part_ranges[INDEX_PARTS_MAX];
	uint32_t ranges;     /* of all parts */
	uint32_t first_root; /* list of the space's first blocks, by next_sibling */
	uint64_t blocks;     /* names, whatever their state */
	uint32_t open_sessions;
};

/* One record of the list of what left. */
struct gone {
	uint64_t id_low;
	uint32_t next; /* of the hash chain */
	uint32_t at_s; /* seconds of the monotonic clock */
	uint8_t reason;
};

struct gone_list {
	struct gone *ring;
	uint32_t *heads;
	uint32_t size, at;
};

/* Blocks taken out by force whose frames wait for pins, and whatever waits below them. */
struct removed_list {
	uint32_t first, last; /* slots linked by lru_next; leaves first */
	uint64_t count;
};

struct lru_list {
	uint32_t hot, cold; /* ends */
	uint64_t count;
};

/* A transfer between the frames of one block and the ssd. The slot is not freed meanwhile: it has
 * SLOT_WRITING or SLOT_LOADING. */
struct ssd_job {
	struct list link; /* ssd.jobs_free or ssd.jobs_busy */
	struct realm *realm;
	uint32_t slot;
	union {
		struct ssd_put put;
		struct ssd_get get;
	};
	bool of_space; /* @slot is a space, whose record is written */
	uint64_t space_made, space_version;
	uint32_t from; /* of a move: where the record lies until then; else SSD_NONE */
	struct iovec pieces[INDEX_PARTS_MAX];
	/* Read by an I/O thread: what the parts must be. */
	uint32_t part_count;
	struct part_expected {
		struct part_sums sums;
		struct checksum_root root;
	} parts[INDEX_PARTS_MAX];
	/* Of a step, which is about parts[0] alone: whose (NULL: nobody's any more), and which
	 * ranges it brings. */
	bool is_step;
	struct load *load;
	uint32_t load_at, range_first, range_end;
	const _Atomic uint64_t *range_sums; /* as the index has them, of the whole part */
};

/* A block as a session names it, and how far it is where the load brings it step by step. */
struct load_block {
	uint64_t name_generation;
	uint32_t slot;
	int32_t bad;   /* why it ends, when nothing of it is under way any more; or 0 */
	uint16_t step; /* that is being read */
	uint8_t sent;  /* parts of it that were asked for */
	uint8_t gets;  /* of these, under way */
	bool steps;    /* it has not ended */
	bool mine;     /* read by this load, whole or in steps; else it was there, or on its way */
};

/* A session's request to have a run of a chain in DRAM, pinned (SUBMIT_LOAD). */
struct load {
	struct list link; /* ssd.loads_free or ssd.loads_live */
	struct session *session;
	uint64_t deadline_ns, began_ns;
	uint64_t bytes;	 /* of frames it asked for */
	bool asks;	 /* sessions for blocks that lie in their GPU memory alone */
	uint32_t awaits; /* the block after @started, of which a session was asked; or 0 */
	uint32_t tag, cell;
	uint16_t queue;
	int32_t stop;		   /* why it goes no further than @started, or 0 */
	uint32_t count;		   /* asked */
	uint32_t started;	   /* held: in DRAM or on their way there */
	uint32_t ready;		   /* of these, the leading ones that are in DRAM */
	struct load_block *blocks; /* room for LOAD_BLOCKS_MAX */
	/* Ranges of a step, 0: blocks come whole; where the session reads how many are there. */
	uint32_t step_ranges;
	struct load_part *told;
	bool told_more; /* since the session was woken */
};

/* A session that waits until all that was published before is durable (SUBMIT_SYNC). */
struct sync {
	struct list link; /* ssd.syncs_free or ssd.syncs_live */
	struct realm *realm;
	struct session *session; /* NULL: gone, but the log still knows of it */
	uint64_t deadline_ns;
	uint64_t mark_ns; /* of the realm's own sync: what it will tell sessions; else 0 */
	uint64_t dirtied; /* … and ssd.dirtied at its beginning */
	struct ssd_sync log;
	uint32_t tag;
	uint16_t queue;
	uint16_t epoch;
	enum sync_stage {
		SYNC_WRITING, /* blocks of its epoch or before are not written yet */
		SYNC_LOG,     /* the log makes tables durable */
		SYNC_WAITING, /* the ledger takes no more now */
		SYNC_LEDGER,  /* the ledger makes its rows durable */
	} stage;
	struct manifest_done ledger;
};

/* A realm's share of the ssd tier (ssd.c, load.c, recover.c). */
struct realm_ssd {
	struct ssd_log *log; /* NULL: none */
	struct tier_owner owner;
	struct lru_list lru;   /* blocks that are there alone; leaves are what leaves */
	struct lru_list dirty; /* in DRAM alone, to be written; oldest at the cold end */
	struct ssd_job *jobs;
	struct list jobs_free, jobs_busy;
	struct load *loads;
	struct load_block *load_blocks;
	struct list loads_free, loads_live;
	struct sync *syncs;
	struct list syncs_free, syncs_live; /* in the order of their epochs */
	/*
	 * Blocks that are not written yet, by the epoch they were published in; each sync ends one.
	 * Of the epochs before @epoch_oldest all are written.
	 */
	uint64_t unwritten[SYNC_EPOCHS];
	uint16_t epoch, epoch_oldest;
	/*
	 * The durable mark: a sync of the realm itself, when something was published since the
	 * last one, at most every MARK_NS. @dirtied counts blocks that were to be written.
	 */
	struct sync mark;
	bool mark_live;
	uint64_t dirtied, marked, marked_ns, mark_next_ns;
	uint32_t segment_units; /* no record is as large */
	uint64_t blocks;	/* that have a record */
	uint64_t live_units;	/* of these records and of those on their way */
	uint64_t *origins;	/* incarnations by entry.origin; [0] is this one */
	uint32_t origin_count;
	bool spaces_unwritten; /* some space may have no record */
	bool stuck;	       /* the log refused a put; room() tells when to go on */
	bool down;	       /* every device is fenced: DRAM alone serves */
};

/* A session has a block in its GPU memory (hbm.c). */
struct hbm_hold {
	struct list of_session;
	struct list of_wanted; /* session.hbm_wanted: it has yet to be asked */
	struct session *session;
	uint64_t want_until_ns;	 /* somebody waits for it until then */
	uint64_t asked_until_ns; /* the session was asked, and has until then */
	uint64_t declined_ns;	 /* it would not put it for who asked before then */
	uint32_t slot;
	uint32_t next; /* of the slot's, or free: number + 1; 0: none */
};

/* What sessions have in GPU memory of their own. */
struct realm_hbm {
	struct hbm_hold *holds;
	uint32_t *of_slot; /* first hold of each slot: number + 1; 0: none */
	uint32_t max;	   /* a quarter of the slots: names in hbm alone cannot be evicted */
	uint32_t count, fresh, free; /* fresh: those from here on were never used */
	bool wanted;		     /* some session has yet to be asked */
};

struct realm {
	struct keeper *keeper;
	uint64_t generation; /* the one counter */
	uint64_t next_session;
	char name[NODE_NAME_MAX];
	struct realm_config config;
	struct index index;
	struct dram *dram;
	struct realm_ssd ssd;
	struct realm_hbm hbm;
	struct space spaces[INDEX_SPACES_MAX];
	struct lru_list lru[LRU_LISTS_MAX];
	uint64_t lru_of_class[DRAM_CLASSES_MAX]; /* lists that hold blocks with a part of the class
						  */
	struct list sessions;
	unsigned session_count;
	struct reservation *reservations;
	uint32_t *reservation_heads; /* hash by write number */
	uint32_t reservation_max, reservation_free, reservation_count;
	struct list reservation_age;
	struct pending *pendings;
	uint32_t pending_free, pending_count;
	struct list pending_age, pending_idle;
	struct wait *waits;
	uint32_t wait_free, wait_count;
	uint64_t wait_next_ns; /* no deadline falls before this */
	struct list blocked;   /* sessions whose reservation waits for a frame */
	struct gone_list gone;
	struct removed_list removed;
	uint32_t guarded_slot; /* parent of the block that room is made for, or NONE32 */
	uint64_t next_steal;   /* count of evictions from which a colder class may lose a slab */
	uint32_t scan;	       /* number of the last pin scan */
	uint64_t pins_seen;    /* cells in use at the last scan */
	uint64_t slot_count_by_state[ENTRY_STATES];
	uint64_t operator_pins;
	uint64_t counters[REALM_COUNTER_COUNT];
	uint64_t misses[SKEP_REASON_COUNT];
	struct histogram latencies[REALM_LATENCY_COUNT];
	bool room_made; /* a frame was freed since the blocked were last tried */
	/* Sessions that may read the index of the daemon before, where nothing can be unpublished
	 * any more: while there are some, no frame that was published is freed. */
	unsigned unmoved;
};

struct session {
	struct list of_realm, of_keeper, of_blocked;
	struct realm *realm;
	struct page_end page;
	uint64_t id;
	char name[NODE_NAME_MAX];
	pid_t pid;
	uid_t uid;
	bool readonly, operator_role, said_bye;
	bool commanding; /* a command is under way */
	bool stopped;	 /* socket closed or broken: no message is taken; pins still count */
	bool blocked;
	struct submission blocked_on;
	uint64_t blocked_at_ns, opened_ns;
	struct list reservations, waits;
	uint64_t reservation_count, reserved_bytes, submission_count;
	uint64_t spaces; /* mask of spaces it opened */
	struct list hbm_holds, hbm_wanted;
	uint64_t hbm_blocks, hbm_bytes;
	struct submission asks; /* SUBMIT_ASKS under way; op 0: none */
	bool hears_asks;	/* it has posted some */
	void *link;		/* the transport's half */
	uint32_t number;	/* while everything is packed for a successor */
	bool unmoved;		/* taken over, and it may still read the predecessor's index */
};

/* What the keeper asks of the outside; a simulation gives its own. */
struct keeper_outside {
	void *arg;
	/* Hand a sum job to a mover, which calls keeper_summed() back on the keeper's thread.
	 * Return: 0 or -EAGAIN. */
	int (*sum)(void *arg, struct sum_job *job);
	/* Make durable what the ssd's ledger was told: @done comes once on the keeper's thread, or
	 * from within. NULL: there is none. Return: 0 or -EAGAIN. */
	int (*settle)(void *arg, struct manifest_done *done);
	/* End a session's socket: it broke the protocol. */
	void (*cut)(void *arg, struct session *session);
};

struct keeper {
	uint64_t now_ns;
	uint64_t incarnation;
	struct realm *realms[NODE_REALMS_MAX];
	unsigned realm_count;
	struct list sessions;
	unsigned session_count;
	struct keeper_outside outside;
	struct sum_job *sum_jobs;
	uint32_t sum_free;
	struct list sum_waiting; /* reservations whose sums no mover has begun */
	struct ssd *ssd;	 /* NULL: none; the node's */
	uint64_t counters[NODE_COUNTER_COUNT];
	uint32_t id_bits;
	uint32_t takeovers; /* how often the daemon was another one before, without a stop */
};

#define RELAXED memory_order_relaxed

/* The next generation. A counter a realm: one for all would tell a realm what its neighbours do. */
static inline uint64_t realm_draw(struct realm *realm)
{
	return ++realm->generation;
}

/* keeper.c: the whole of it ------------------------------------------------------------------ */

int keeper_create(uint64_t incarnation, uint32_t id_bits, const struct keeper_outside *outside,
	struct keeper **out);
void keeper_destroy(struct keeper *keeper);
/* Takes at most @budget messages of each session. Return: messages taken. */
unsigned keeper_round(struct keeper *keeper, unsigned budget);
/* Takes what one session's ring holds now. */
void keeper_session_drain(struct session *session);
/* Ages, deadlines, removed blocks, blocked reservations. Return: when it must run again. */
uint64_t keeper_tick(struct keeper *keeper);
/* A mover has finished @job. */
void keeper_summed(struct keeper *keeper, struct sum_job *job);
struct realm *keeper_realm(struct keeper *keeper, const char *name);
/* No mover has work of it. */
bool keeper_sums_idle(const struct keeper *keeper);
/* Sessions that were taken over read the new index by now: those that say so, or all. Return: how
 * many do not. */
unsigned keeper_moved(struct keeper *keeper, bool all);

/* realm.c */
/* The pool's memory: to be made, or files that another daemon made (see dram_options). */
struct realm_memory {
	uint64_t chunk_bytes, ready_bytes;
	const int *chunk_fds;
};
int realm_create(struct keeper *keeper, const struct realm_config *config,
	const struct realm_memory *memory, struct realm **out);
void realm_destroy(struct realm *realm);
void realm_ready(struct realm *realm, uint64_t bytes);

/* session.c */
int session_create(struct realm *realm, const struct page_end *page, struct session **out);
/* Without limits, number or count: one that was there before. NULL: no memory. */
struct session *session_add(struct realm *realm, const struct page_end *page);
/* Its socket is closed: nothing more is taken from it; pins and reservations stay. */
void session_stop(struct session *session);
/* Its process has ended (or it said goodbye): everything it held is given back; freed. */
void session_end(struct session *session);
/* Freed as it stands, for who never runs this realm (again): another process has the session, and
 * what its end means is said there. Reservations and waits keep pointing at it. */
void session_drop(struct session *session);
/* Takes one message. Return: 0, or -EPROTO: the session must be cut. */
int session_submit(struct session *session, const struct submission *message);
void session_complete(
	struct session *session, uint16_t queue, uint32_t tag, int32_t status, uint32_t value);
/* Something of what it can read in its page has changed. */
void session_wake(struct session *session, uint16_t queue);
uint64_t session_pins(const struct session *session);

/* index.c */
int index_create(struct index *index, const struct realm_config *config, const char *name,
	uint64_t incarnation, uint32_t id_bits);
void index_destroy(struct index *index);
/* Has the system give the memory that the next @slots names with @record_bytes of records in all
 * will take, while they are made. Any thread; nothing is written. */
void index_populate(const struct index *index, uint32_t slots, uint64_t record_bytes);
/* How large its file is under this configuration. */
uint64_t index_file_bytes(const struct realm_config *config);
/* Nothing is had from DRAM by this file any more: for who still reads it (a successor serves). */
void index_empty(struct index *index);
/* Everything that names a block to be made. */
struct index_name {
	struct block_id id;
	uint32_t parent_slot;
	uint64_t parent_generation;
	uint32_t space;
	uint32_t parts;
	uint32_t range_sums;
	struct id_input proof; /* copied; read once: it may be memory that a client writes */
};
/* Makes a name in state ENTRY_PENDING. Return: slot, or -ENOSPC (slots or heap are full). */
int64_t index_name_make(struct realm *realm, const struct index_name *name);
/* The class of its record in index.records, or -ENOSPC (no heap holds it, or too many sizes). */
int index_record_class(struct realm *realm, const struct index_name *name);
/* Nobody finds the block by name any more; its children must be gone. The slot stays taken. */
void index_name_hide(struct realm *realm, uint32_t slot);
/* The slot of a hidden name may be used again; its frames must be free. */
void index_slot_free(struct realm *realm, uint32_t slot);
/* Finds a block by id, parent and proof. Return: slot or NONE32. */
uint32_t index_name_find(struct realm *realm, const struct index_name *name);
/* Any block with this id, whatever its proof: for operators. */
uint32_t index_id_find(struct realm *realm, struct block_id id, uint32_t after);
struct index_part *index_part(struct index *index, uint32_t slot, uint32_t part);
_Atomic uint64_t *index_sums(struct index *index, uint32_t slot, uint32_t ranges_before);
void index_state_set(struct realm *realm, uint32_t slot, enum entry_state state);
static inline enum entry_state index_state(const struct realm *realm, uint32_t slot)
{
	return (enum entry_state)atomic_load_explicit(&realm->index.entries[slot].state, RELAXED);
}
static inline uint32_t index_parent(const struct realm *realm, uint32_t slot)
{
	uint32_t parent = atomic_load_explicit(&realm->index.entries[slot].parent_slot, RELAXED);

	return parent < realm->index.head->slot_count ? parent : NONE32;
}

/* evict.c */
void lru_touch(struct realm *realm, uint32_t slot);
void lru_cool(struct realm *realm, uint32_t slot);
void lru_remove(struct realm *realm, uint32_t slot);
/* Marks every slot that a cell names; counts cells. */
void pins_scan(struct realm *realm);
static inline bool pins_marked(const struct realm *realm, uint32_t slot)
{
	return realm->index.scan_marks[slot] == realm->scan ||
	       realm->index.slots[slot].operator_pins || realm->index.slots[slot].holds;
}
/* Is the block's record on the ssd? */
static inline bool slot_on_ssd(const struct realm *realm, uint32_t slot)
{
	return realm->index.ssd_at && realm->index.ssd_at[slot] != SSD_NONE;
}
/* Puts a block among those of its age: of its frame size, or of the ssd where it has no frame. */
void lru_link_ordered(struct realm *realm, uint32_t slot);
/* At the end of the blocks that wait to be written. */
void lru_dirty(struct realm *realm, uint32_t slot);
/* The block has lost a child: without any, and without a frame, it may leave the ssd. */
void lru_leaf_check(struct realm *realm, uint32_t slot);
/* What is needed of a class. */
struct room_want {
	unsigned class;
	uint32_t frames;
};
/* Makes room by evicting the coldest leaves. Return: blocks evicted. */
unsigned evict_for(struct realm *realm, const struct room_want *want);
/* Empties slabs of other classes until one of @class has room. Return: done. */
bool evict_slabs_for(struct realm *realm, unsigned class);
/* Evicts the coldest leaves whatever their class until @bytes of frames are free. */
uint64_t evict_bytes(struct realm *realm, uint64_t bytes);
/* The block's last child in hbm was let go, or it is in hbm itself now: it may leave DRAM. */
void lru_dram_check(struct realm *realm, uint32_t slot);
/* Frees slots (or record memory) by evicting @blocks of the coldest leaves from every tier. */
unsigned evict_blocks(struct realm *realm, unsigned blocks);
/* Nothing written is left to evict and a put is late: the coldest unwritten leaf goes. */
bool evict_shed(struct realm *realm);
/* Makes room for a record of @class where only records of other sizes are left. */
bool evict_for_record(struct realm *realm, unsigned class);
/* A child's frames are free: counts it at the parent, which may now be a leaf. */
void evict_child_left(struct realm *realm, uint32_t parent, uint64_t child_stamp_ns);

/* pending.c, reserve.c, commit.c */
int put_reserve(struct session *session, const struct submission *message);
void put_retry_blocked(struct realm *realm);
int put_commit(struct session *session, const struct submission *message);
int put_abort(struct session *session, const struct submission *message);
void put_session_gone(struct session *session);
uint64_t put_tick(struct realm *realm);
void put_summed(struct realm *realm, struct sum_job *job);
/* Hands waiting sums to movers, as many as they take. */
void put_sums_start(struct keeper *keeper);
/* The class of a committed part's frame. */
unsigned put_part_class(struct realm *realm, uint32_t slot, uint32_t part);
/* Frees the frames of all committed parts. */
void put_frames_free(struct realm *realm, uint32_t slot);
/* Ends a pending block's record: reservations become orphans with @verdict, waiters get it. */
void put_pending_end(struct realm *realm, uint32_t slot, int verdict);

/* A frame of @class for the @rest blocks still to come, evicting what must go; with @shed also
 * what is not written yet. Return: offset, or negative: there is none. */
int64_t frame_take(struct realm *realm, unsigned class, uint32_t rest, bool shed);

/* ssd.c: to the ssd and out of it */
int ssd_realm_create(struct realm *realm);
/* For a realm that was taken over, once the tier is there: lists and origins stay as they are. */
int ssd_realm_reopen(struct realm *realm);
/* The tier is closed under the realm, which a successor serves. */
void ssd_realm_leave(struct realm *realm);
/* Nothing is under way between the realm and the tier, and nobody waits for it to be. */
bool ssd_realm_idle(const struct realm *realm);
void ssd_realm_destroy(struct realm *realm);
/* A block was published, or its record was lost: it is to be written. */
void ssd_dirty(struct realm *realm, uint32_t slot);
/* It is written, or never will be. */
void ssd_settled(struct realm *realm, uint32_t slot);
void ssd_status_fill(struct realm *realm, struct realm_status *out);
/* sync.c */
void syncs_pump(struct realm *realm);
/* The realm's own sync is not gone on with, unless it is with the log or the ledger by now. */
void sync_mark_drop(struct realm *realm);
int sync_submit(struct session *session, const struct submission *message);
void sync_session_gone(struct session *session);
uint64_t sync_tick(struct realm *realm);
/* Begins writes and goes on with loads; realms without an ssd have these as well. After each
 * round. */
void ssd_pump(struct realm *realm);
/* The space's own record is dead; another is written. */
void space_record_drop(struct realm *realm, uint32_t space);
static inline bool space_written(const struct space *space)
{
	return space->ssd_at != SSD_NONE && space->ssd_version == space->version;
}
/* Takes in what the log's tables hold (recover.c); before any session. */
int ssd_realm_recover(struct realm *realm, const struct ssd_found *found, int64_t count);
/* After ssd_recover_end(): evicts what leaves no room to go on, where that can be. */
void ssd_realm_fit(struct realm *realm);
/* The same where the realm was taken over: its blocks know their records (rejoin.c). The second
 * part, when the log may be used, deals with what was not found. */
int ssd_realm_rejoin(struct realm *realm, const struct ssd_found *found, int64_t count);
void ssd_realm_rejoin_end(struct realm *realm);
/* The record at @at, if it is still the block's, does not hold what it must: a block that is in
 * DRAM is written again, another is quarantined with all below it. */
void ssd_record_bad(struct realm *realm, uint32_t slot, uint32_t at);
/* The block's record is dead. */
void ssd_forget(struct realm *realm, uint32_t slot);
/* Takes a leaf that is on the ssd alone out of the index. */
void ssd_leaf_drop(struct realm *realm, uint32_t slot);
/* Drops up to @count of the coldest leaves that are on the ssd alone. Return: how many. */
unsigned ssd_leaves_drop(struct realm *realm, unsigned count);
uint32_t ssd_block_units(struct realm *realm, uint32_t slot);
/* NULL: all are under way. */
struct ssd_job *ssd_job_take(struct realm *realm, uint32_t slot);
void ssd_job_give(struct ssd_job *job);
/* Are blocks of this space written to the ssd? */
static inline bool ssd_keeps(const struct realm *realm, uint32_t space)
{
	return realm->ssd.log && !realm->ssd.down && !realm->spaces[space].unkept;
}

/* label.c: what goes with a block to the ssd. Return: bytes, or -E2BIG. */
int label_make(struct realm *realm, uint32_t slot, void *out);

/* load.c: from the ssd, and out of other sessions' GPU memory, into frames */
int loads_create(struct realm *realm);
void loads_destroy(struct realm *realm);
/* Makes pieces and what they must hold; @into: memory for all parts, NULL: the block's frames. */
void load_expect(struct realm *realm, uint32_t slot, uint8_t *into, struct ssd_job *job);
struct part_expected load_expect_part(
	struct realm *realm, uint32_t slot, uint32_t number, void *into);
/* Do the parts of a job's get hold what they must? On an I/O thread. */
int load_check(struct ssd_get *get);
/* Ends a load now, with what is there. */
int load_cancel(struct session *session, const struct submission *message);
int load_submit(struct session *session, const struct submission *message);
void load_session_gone(struct session *session);
void load_pump(struct realm *realm);
uint64_t load_tick(struct realm *realm);
bool load_block_stands(const struct realm *realm, const struct load_block *block);
/* Reading it has ended so: publishes it, or gives its frames back. */
void load_block_end(struct realm *realm, uint32_t slot, int status);

/* load_step.c: a few ranges of each block at a time */
/* Has the block, whose frames are taken, more than one step? */
bool load_has_steps(const struct realm *realm, const struct load *load, uint32_t slot);
/* Asks for what can be asked for now, in the order of the ranges. */
void load_steps_send(struct realm *realm, struct load *load);
/* Nobody waits for it any more: gives back the frames of what is not whole. */
void load_steps_drop(struct realm *realm, struct load *load);
/* The first @ranges of block @at are there, and verified: the session may copy them. */
void load_tell(struct load *load, uint32_t at, uint32_t ranges);

/* wait.c */
int wait_submit(struct session *session, const struct submission *message);
/* Waits for a pending block. Return: 0, -EAGAIN: too many wait. */
int wait_add(struct session *session, const struct submission *message);
int wait_cancel(struct session *session, const struct submission *message);
void wait_finish(struct realm *realm, struct wait *wait, int status);
void wait_session_gone(struct session *session);
uint64_t wait_tick(struct realm *realm);

/* remove.c */
/* Takes a block and everything below it out by force. Return: blocks. */
uint64_t remove_subtree(struct realm *realm, uint32_t slot, enum skep_reason reason);
uint64_t remove_space(struct realm *realm, uint32_t space, enum skep_reason reason);
/* Frees removed blocks that no table names any more. Return: true if some still wait. */
bool remove_settle(struct realm *realm);
/* SUBMIT_REMOVE. Return: 0, -EPROTO. */
int remove_submit(struct session *session, const struct submission *message);

/* space.c */
int space_open(struct session *session, const struct wire_space_open *request,
	struct wire_space_answer *answer);
/* A space found on the ssd. Return: its place or negative. */
int space_restore(struct realm *realm, const struct wire_space_open *request, uint64_t version);
int64_t space_step(struct realm *realm, uint32_t space);
/* The first field in which two fingerprints differ; "" if none. */
void space_difference(const char *a, const char *b, char field[WIRE_NAME_MAX]);
void space_session_gone(struct session *session);

/* gone.c: why a block is not here */
int gone_create(struct gone_list *list, uint32_t size);
void gone_destroy(struct gone_list *list);
void gone_add(struct realm *realm, uint64_t id_low, enum skep_reason reason);
enum skep_reason gone_find(const struct realm *realm, uint64_t id_low, uint64_t *ago_ns);

/* insight.c */
int explain_submit(struct session *session, const struct submission *message);
void realm_status_fill(struct realm *realm, struct realm_status *out);
void block_status_fill(struct realm *realm, uint32_t slot, struct block_status *out);

#endif
