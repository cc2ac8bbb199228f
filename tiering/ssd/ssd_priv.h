/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TIERING_SSD_PRIV_H
#define SKEP_TIERING_SSD_PRIV_H

#include "base/list.h"
#include "tiering/ssd/format.h"
#include "tiering/ssd/ssd.h"

enum {
	SSD_SEGMENTS_MIN = 8,  /* of a log */
	SSD_RESERVE = 3,       /* free segments below which reclaim runs, plus 1 of 64 */
	SSD_RESERVE_MOVES = 2, /* of these: what ssd_put() leaves to ssd_move() */
	SSD_CLOSING_MAX = 4,
	SSD_RECLAIM_MAX = 2,
	SSD_MOVES_EARNED = 16, /* units that reclaim may move for each that is put or dropped */
	SSD_TRIES_MAX = 3,     /* of a table or an opening */
	SSD_WRITES_MAX = 128,
	SSD_READS_MAX = 128,
	SSD_MOVES_MAX = 8,
	SSD_MOVE_BYTES = 1 << 20,
	/* Under way, for each device. It keeps a device busy; more would only make what is waited
	 * for wait longer: reads, and the flushes and tables that let segments go on. */
	SSD_WRITE_BYTES_MAX = 16 << 20,
	SSD_SPLIT_MAX = 32, /* requests that a long record is cut in by its bytes */
	SSD_ENTRIES_MAX = 8192,
	SSD_LABELS_MIN = 512 << 10,
	SSD_LABELS_MAX = 4 << 20,
};

#define SSD_TABLE_BYTES_MAX ((uint64_t)SSD_TABLE_UNITS_MAX * SSD_UNIT_BYTES)

/*
 * The life of a segment. FREE → OPENING (its opening is being written) → OPEN → CLOSING (takes
 * nothing more; records or tables are under way) → CLOSED → FREE. UNKNOWN until ssd_recover_end().
 */
enum ssd_segment_state {
	SEGMENT_UNKNOWN,
	SEGMENT_FREE,
	SEGMENT_OPENING,
	SEGMENT_OPEN,
	SEGMENT_CLOSING,
	SEGMENT_CLOSED,
};

struct ssd_segment {
	struct ssd_log *log; /* NULL: free */
	uint64_t sequence;
	uint64_t sequence_before; /* the life whose ledger rows are not freed yet; 0: none */
	uint64_t entries_end;	  /* count of the log's entries after its last one */
	uint32_t live;		  /* units */
	uint32_t fill;		  /* units from its start that are taken */
	uint32_t table_begin;	  /* units; tables and opening lie from here on */
	uint32_t table_count;	  /* the opening too */
	uint32_t pending_bytes;	  /* of entries that are in no table yet */
	uint32_t unwritten;	  /* such entries */
	uint32_t reads;		  /* under way, moves from here not counted */
	uint32_t moves;		  /* from here, until durable at their new place */
	uint32_t moves_unsafe;	  /* of these: no table has their new place, and none will */
	uint32_t moving_units;	  /* from here, until their put's done() */
	uint32_t slot;		  /* of its device */
	uint32_t next_free;
	uint8_t device, state;
	bool lost;	 /* its device was fenced */
	bool unopened;	 /* its opening cannot be written: it takes nothing */
	bool broken;	 /* a table of it cannot be written: reclaimed first */
	bool reclaiming; /* the owner was asked */
	bool for_moves;	 /* opened out of the reserve */
};

struct ssd_device {
	uint32_t set_index, segments;
	uint32_t free_first, free_last, free_count;
	unsigned errors; /* in a row */
	bool fenced, lost_due;
	struct list unsent; /* transfers that the back end did not take yet */
};

/* One request, with what comes back to whom. */
struct ssd_transfer {
	struct ssd_request request; /* first */
	struct ssd *ssd;
	struct ssd_log *log; /* of writes */
	struct ssd_segment *segment;
	void (*finish)(struct ssd_transfer *transfer, int status);
	struct list link; /* of one: free, gathered (alone), held, unsent, failed */
	int failure;	  /* of those on the failed list */
	/* Writes: the entries whose bytes, or parts of them, are in it. */
	uint64_t entry_first;
	uint32_t entry_count;
	/* Reads: whole gets, or a part of one. */
	struct list gets;
	struct ssd_get *part_of;
};

/* A put whose label is in no table yet. They are kept in the order of their places. */
struct ssd_entry {
	struct ssd_put *put; /* NULL once told */
	uint64_t label_end;  /* in the ring of labels */
	uint32_t label_at, label_bytes;
	uint32_t segment, first, units;
	uint32_t from; /* segment that it was moved from, or SSD_NONE */
	uint32_t from_unit;
	bool from_dead; /* its old place was dropped; the ledger is told when this one is durable */
	uint32_t parts; /* requests under way */
	int32_t status;
	bool complete;
};

struct ssd_mover {
	struct ssd_transfer transfer; /* first */
	uint8_t *buffer;
	struct ssd_segment *from, *to;
	uint64_t entry;
	uint32_t from_unit, to_unit, units, moved;
	bool busy;
};

/* Payloads are flushed, the table is written, and flushed in its turn. Openings begin at WRITES. */
enum ssd_writer_stage { WRITER_SETTLES, WRITER_WRITES, WRITER_FLUSHES };

/* What is written for a log beside records: an opening, or a table. */
struct ssd_writer {
	struct ssd_transfer transfer; /* first */
	uint8_t *buffer;
	struct ssd_segment *segment; /* NULL: idle */
	uint64_t upto;		     /* tables: entries up to here are in it */
	uint64_t flush_complete;     /* log->complete when its flush was sent */
	uint32_t unit, units;	     /* where it is written */
	enum ssd_writer_stage stage;
	unsigned tries;
};

struct ssd_log {
	struct ssd *ssd;
	char name[SSD_NAME_MAX];
	struct tier_owner owner;
	uint64_t bytes;
	uint32_t quota, quota_now; /* segments; now: less what is fenced */
	uint32_t held;		   /* segments that are not lost */
	uint32_t closing;	   /* segments in CLOSING */
	uint32_t reclaims;	   /* segments with reclaiming */
	uint32_t broken;	   /* segments whose records cannot be made durable */
	uint32_t moves_unsafe;	   /* whose old places are kept until these records are safe */
	struct ssd_segment *open;
	struct ssd_segment *next; /* opened ahead, OPENING or OPEN; NULL: none. It is held. */
	struct ssd_transfer *gather;

	/* Entries are numbered from 0 for ever: retired ≤ complete ≤ put_count. */
	struct ssd_entry *entries;
	uint32_t entries_max;
	uint64_t retired, complete, put_count;
	/* Payloads of entries before it that lie on that device have been flushed. */
	uint64_t settled[SSD_DEVICES_MAX];
	/* Entries before table_upto are wanted in a table now; those before table_next then. */
	uint64_t table_upto, table_next;
	uint8_t *labels;
	uint32_t labels_bytes;
	uint64_t labels_begin, labels_end; /* as counts of bytes for ever */

	struct ssd_writer opening, table;
	void *memory;	     /* of both buffers */
	struct list waiting; /* transfers that wait for the opening */
	struct list syncs;
	struct ssd_entry *moved; /* whose put is being told */
	uint64_t dirty_ns;	 /* when the first of the unwritten entries was put, or before */
	bool dirty;
	bool waits_io, waits_space; /* the owner was refused */
	bool reclaim_due;	    /* something changed since no victim was found */
	uint64_t moves_earned;	    /* units that reclaim may move while no put waits for space */

	uint64_t live, put_bytes, moved_bytes, table_bytes, puts, puts_durable;
};

struct ssd_recovery; /* recover.c */

struct ssd {
	struct ssd_io *io;
	struct ssd_ledger ledger;
	bool has_ledger;
	uint64_t flush_ns, now_ns;
	unsigned errors_max, recover_threads;
	struct ssd_wear {
		uint64_t bytes_per_day; /* 0: no budget */
		int64_t left, left_max; /* bytes; what must be written makes it negative */
		uint64_t filled_ns, waits;
	} wear;

	struct ssd_set_id set;
	uint64_t segment_bytes;
	uint32_t segment_units, segment_count, segments_healthy;
	struct ssd_segment *segments;
	struct ssd_device devices[SSD_DEVICES_MAX];
	unsigned next_device; /* that opens a segment */
	uint64_t next_sequence;

	struct ssd_log *logs[SSD_LOGS_MAX];
	unsigned log_count;
	uint64_t bytes_asked;
	uint32_t quota_sum;

	struct ssd_transfer *transfers;
	struct list writes, reads; /* free ones */
	unsigned writes_free, reads_free;
	uint64_t write_bytes;	     /* of puts and moves under way */
	struct ssd_transfer *gather; /* of gets */
	struct ssd_mover movers[SSD_MOVES_MAX];
	void *move_memory;
	struct list failed; /* to be finished with an error */

	struct ssd_recovery *recovery;
	struct ssd_seen *seen; /* of a survey: each segment */
	bool survey;
	bool ready; /* ssd_recover_end() was called */
	bool settling, settle_again;
	bool io_freed, space_freed; /* since owners were told */
	unsigned in_flight;	    /* transfers between ssd_send() and finish() */
	uint64_t tables_damaged, read_errors, write_errors, moves_given_up;
};

/* ------------------------------------------------------------------------------ segment.c */

static inline uint32_t ssd_segment_index(const struct ssd *ssd, const struct ssd_segment *segment)
{
	return (uint32_t)(segment - ssd->segments);
}

/* Segment of an address of the owner's; its unit within. */
struct ssd_segment *ssd_segment_at(struct ssd_log *log, uint32_t at, uint32_t units);
uint64_t ssd_segment_offset(
	const struct ssd *ssd, const struct ssd_segment *segment, uint32_t unit);

/* Segments that the log may still take. */
uint32_t ssd_log_free(const struct ssd_log *log);
uint32_t ssd_log_reserve(uint32_t quota);

void ssd_free_push(struct ssd *ssd, struct ssd_segment *segment);

/* Room for @units and an entry of @entry_bytes in the open segment, or in a new one. 0, -EAGAIN,
 * -ENOSPC, -EROFS. */
int ssd_segment_find(struct ssd_log *log, uint32_t units, uint32_t entry_bytes, bool move);

/* The open segment takes nothing more. */
void ssd_segment_close(struct ssd_log *log);
/* The next one will not be used. */
void ssd_segment_next_drop(struct ssd_log *log);

/* Makes CLOSED of CLOSING, and FREE of CLOSED, where nothing holds it. No callback. */
void ssd_segment_check(struct ssd *ssd, struct ssd_segment *segment);

/* Old places that are kept go where all that had moved is safe elsewhere. No callback. */
void ssd_moves_settle(struct ssd_log *log);

/* The owner put or dropped so many units: reclaim has something to gain again. */
void ssd_reclaim_earn(struct ssd_log *log, uint32_t units);
void ssd_reclaim(struct ssd_log *log);
void ssd_reclaim_again(struct ssd *ssd);

/* Units that tables of so many bytes of entries may take at most, however they are cut. */
uint32_t ssd_table_room(uint64_t entry_bytes);

void ssd_fence(struct ssd *ssd, unsigned device);
void ssd_tell_lost(struct ssd *ssd);
void ssd_quotas_set(struct ssd *ssd);

/* ----------------------------------------------------------------------------- transfer.c */

void ssd_transfer_init(struct ssd *ssd, struct ssd_transfer *transfer);
struct ssd_transfer *ssd_write_take(struct ssd *ssd);
struct ssd_transfer *ssd_read_take(struct ssd *ssd);
void ssd_write_give(struct ssd *ssd, struct ssd_transfer *transfer);
void ssd_read_give(struct ssd *ssd, struct ssd_transfer *transfer);

/* Requests that some pieces need at most, and bytes of each but the last. */
uint32_t ssd_split_count(uint64_t bytes, uint32_t pieces);
uint64_t ssd_split_bytes(uint64_t bytes);

/* Where one stands in an array of pieces. */
struct ssd_cut {
	const struct iovec *pieces;
	uint32_t piece_count;
	uint64_t offset; /* in the first of them */
};

/* Takes up to @bytes_max from @cut into the request, as far as its pieces go. Return: bytes. */
uint64_t ssd_cut_take(struct ssd_cut *cut, struct ssd_request *request, uint64_t bytes_max);

/* finish() will be called, once, later. Payload of a segment that is OPENING waits for that. */
void ssd_send(struct ssd_transfer *transfer);
void ssd_held_release(struct ssd_log *log, int status);

/* Does all that can be done now. Callbacks run from here. */
void ssd_settle(struct ssd *ssd);

/* ----------------------------------------------------------------------- put.c and table.c */

static inline struct ssd_entry *ssd_entry_at(struct ssd_log *log, uint64_t number)
{
	return &log->entries[number % log->entries_max];
}

static inline uint32_t ssd_entry_bytes(uint32_t label_bytes)
{
	return (uint32_t)(sizeof(struct ssd_table_entry) + ((label_bytes + 7u) & ~7u));
}

bool ssd_entry_room(const struct ssd_log *log, uint32_t label_bytes);
/* In the open segment, where ssd_segment_find() found room. Return: its number. */
uint64_t ssd_entry_add(struct ssd_log *log, struct ssd_put *put);
/* All its parts have come back. Tells the put. */
void ssd_entry_complete(struct ssd_log *log, uint64_t number);

/* The record is dead for good: the ledger is told, of its older copies too. */
void ssd_tell_dead(struct ssd *ssd, struct ssd_segment *segment, uint32_t unit);

void ssd_gather_send(struct ssd_log *log);
void ssd_get_gather_send(struct ssd *ssd);

/* The opening of @segment, which is OPENING. */
void ssd_opening_begin(struct ssd_log *log, struct ssd_segment *segment);
void ssd_table_step(struct ssd_log *log);
void ssd_table_want(struct ssd_log *log, uint64_t upto);
void ssd_syncs_finish(struct ssd_log *log);

/* A buffer on a boundary of a unit inside memory that is a unit longer. */
static inline uint8_t *ssd_aligned(void *memory)
{
	return (uint8_t *)(((uintptr_t)memory + SSD_UNIT_BYTES - 1) &
			   ~(uintptr_t)(SSD_UNIT_BYTES - 1));
}

/* recover.c */
void ssd_recovery_free(struct ssd *ssd);

#endif
