/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TRANSPORT_LOCAL_PAGE_H
#define SKEP_TRANSPORT_LOCAL_PAGE_H

/*
 * The session page: memory shared by one client session and the daemon (docs/formats/session.md).
 *
 *	head | submission ring | completion rings | pin table | scratch
 *
 * The client produces submissions and consumes completions; the keeper does the reverse. Both write
 * here, so the daemon reads whatever the client writes once, bounds-checks it, and keeps its own
 * indices in private memory: a client that scribbles harms its own realm alone. The pin table is
 * opaque here (store/read/pin.h); the scratch is laid out by the client and named in submissions by
 * offset.
 *
 * Waking. Daemon asleep: before it sleeps it sets `daemon_asleep`, fences, looks at the ring once
 * more; the client pushes, fences, and writes the daemon's eventfd if the flag is set. Client
 *asleep: the same with `waiters` and a futex on `completed`, and an eventfd for queues 1 and up.
 * Touches do not wake (page_push with PAGE_QUIET) unless the ring is half full.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
	PAGE_VERSION = 1,
	PAGE_SUBMISSIONS = 512, /* powers of two */
	PAGE_COMPLETIONS = 256, /* of each queue */
	PAGE_QUEUES = 9,	/* 0 for calls that wait, 8 of the user */
	PAGE_PINS = 4096,
	PAGE_PIN_BYTES = 16,
	PAGE_SCRATCH_BYTES = 2 << 20,
	PAGE_MESSAGE_BYTES = 64,
};

#define PAGE_MAGIC 0x656761506e706b53ull /* "SkpnPage" */

/* One end of a ring, on a line of its own. */
struct page_cursor {
	_Atomic uint32_t value;
	uint32_t pad[15];
};

struct page_head {
	uint64_t magic;
	uint32_t version;
	uint32_t bytes; /* of the whole page */
	uint32_t submissions_at, completions_at, pins_at, scratch_at;
	uint32_t scratch_bytes;
	uint32_t pin_count;
	/* Daemon writes (release): all that could be had before this moment (CLOCK_MONOTONIC) is
	 * durable; 0 = nothing is known to be. */
	_Atomic uint64_t durable_ns;
	uint8_t pad[8];
	/* Daemon writes: 1 = asleep, wake it. Client reads after its push (both fence). */
	_Atomic uint32_t daemon_asleep;
	uint32_t pad_asleep[15];
	/* Client writes: how many threads sleep on `completed`; daemon reads after its push. */
	_Atomic uint32_t waiters;
	uint32_t pad_waiters[15];
	/* Futex word: moves with each completion on queue 0 that a waiter is told of. */
	_Atomic uint32_t completed;
	uint32_t pad_completed[15];
	/* Client writes: pin cells at and beyond this index were never used. */
	_Atomic uint32_t pins_used;
	/* Client writes: the wire_index.number of the index that it reads; 0: that of hello. */
	_Atomic uint32_t index_number;
	uint32_t pad_pins[14];
	struct page_cursor submission_head;		 /* daemon */
	struct page_cursor submission_tail;		 /* client */
	struct page_cursor completion_head[PAGE_QUEUES]; /* client */
	struct page_cursor completion_tail[PAGE_QUEUES]; /* daemon */
};

/* What a submission asks for. The order is the wire's: append only. */
enum submission_op {
	SUBMIT_TOUCH = 1,  /* a match record */
	SUBMIT_RESERVE,	   /* frames for parts of blocks; details in the scratch */
	SUBMIT_COMMIT,	   /* parts are written; details in the scratch */
	SUBMIT_ABORT,	   /* reserved parts given back; details in the scratch */
	SUBMIT_WAIT,	   /* tell when a pending block is present */
	SUBMIT_CANCEL,	   /* end a wait (-ECANCELED) or a load (what is there): answered at once */
	SUBMIT_HINT,	   /* soft weight of a chain */
	SUBMIT_QUARANTINE, /* a copy found wrong bytes */
	SUBMIT_EXPLAIN,	   /* why a chain is matched no further; details in the scratch */
	SUBMIT_LOAD,	   /* have a run in DRAM, pinned; details in the scratch */
	SUBMIT_SYNC,	   /* tell when all that was published before is durable */
	SUBMIT_REMOVE,	   /* take blocks out, and what is below them; details in the scratch */
	SUBMIT_ANNOUNCE,   /* these lie in the session's GPU memory; details in the scratch */
	SUBMIT_WITHDRAW,   /* they do not any more, or will not be put; details in the scratch */
	SUBMIT_ASKS,	   /* tell which of them others want; details in the scratch */
};

/*
 * A submission. @queue and @tag come back with its completion. Which fields an op uses is said at
 * its comment; the others are 0.
 */
struct submission {
	uint16_t op;
	uint16_t queue;
	uint32_t tag;
	uint32_t scratch_at; /* offset in the scratch, a multiple of 8 */
	uint32_t scratch_bytes;
	uint32_t slot; /* TOUCH, WAIT, HINT, QUARANTINE: the block; RESERVE, ANNOUNCE: the parent */
	uint32_t count; /* TOUCH: blocks had from the session's own GPU memory */
	/* Of @slot: frame generation (TOUCH without @stored, QUARANTINE) or name generation. */
	uint64_t generation;
	uint64_t deadline_ns; /* CLOCK_MONOTONIC; RESERVE, COMMIT, WAIT, LOAD, SYNC */
	union {
		struct {
			uint32_t asked, matched; /* blocks, from the first wanted on */
			uint16_t reason;	 /* enum skep_reason as the client sees it */
			uint16_t space;
			uint32_t stored;      /* blocks behind @matched that wait on the ssd */
			uint64_t missing_low; /* id of the first block not had (low word), 0 none */
		} touch;
		struct {
			uint16_t space;
			uint16_t part;
			uint32_t length; /* bytes of the part; 0 = the layout's */
			uint64_t space_generation;
			uint64_t reserved;
		} reserve;
		struct {
			/* HINT: enum skep_hint_kind; COMMIT: enum commit_sums; LOAD: a pin cell;
			 * WITHDRAW: enum withdraw_kind */
			uint32_t kind;
			uint32_t part;	/* QUARANTINE; LOAD: ranges of a step, 0 = whole blocks */
			uint64_t flags; /* LOAD: enum load_flag */
			uint64_t reserved;
		} other;
	} u;
};

struct completion {
	uint32_t tag;
	int32_t status; /* 0 or a count, else negative */
	uint32_t value; /* by op */
	uint32_t reserved;
	uint64_t more[6];
};

_Static_assert(sizeof(struct submission) == PAGE_MESSAGE_BYTES, "one line a message");
_Static_assert(sizeof(struct completion) == PAGE_MESSAGE_BYTES, "one line a message");

/*
 * SUBMIT_RESERVE, in the scratch: @count of struct reserve_block, then their tokens, keys and extra
 * keys (offsets count from the start of this area); the keeper copies them. The blocks are a chain:
 * the first one's parent is (@slot, @generation) or the space's root (SLOT_ROOT), each next one's
 * is the one before. The keeper makes the ids itself. It answers in the same place, in the first
 * bytes of each struct, with one completion: status = leading count answered, or negative.
 */
struct reserve_block {
	uint32_t token_at, token_count; /* in: bytes from the area's start, 4-aligned; tokens */
	uint32_t blob_at;		/* in: key then extra keys */
	uint16_t key_bytes, extra_bytes;
	/* out */
	int32_t status; /* 0 reserved, -EEXIST, SKEP_EPENDING */
	uint32_t slot;
	uint64_t name_generation;
	uint64_t write; /* number of the write generation */
	uint64_t frame; /* byte offset in the pool */
	uint64_t bytes; /* length to write */
};

/*
 * SUBMIT_COMMIT, SUBMIT_ABORT: @count of these, then (COMMIT with given sums) the range sums of
 * each in turn. u.other.kind says whether the sums are given or a mover makes them. Given: the
 * status of each is answered in place, with one completion for all (status = parts committed). By a
 * mover: one completion for each of the @count parts, in any order, on whatever queue was asked:
 * @value = its index, @status how it went; nothing is answered in place. ABORT is not answered.
 */
struct commit_part {
	uint32_t slot;
	uint16_t part;
	uint16_t ranges; /* range sums that follow for this one */
	uint64_t write;
	uint64_t root_low, root_high; /* with given sums */
	int32_t status;		      /* out */
	uint32_t reserved;
};

enum commit_sums { COMMIT_SUMS_GIVEN = 0, COMMIT_SUMS_MOVER = 1 };

/*
 * SUBMIT_LOAD: @count of these, a run of one chain, parent before child. Those that are not in DRAM
 * are brought there. One completion: status = the leading count that is in DRAM, named by the pin
 * cell given in @u.other.kind (its owner must not touch the cell meanwhile), else negative and the
 * cell is free. Cell 0 is none: nothing is pinned. Where @u.other.part is not 0 blocks come that
 * many ranges at a time; @ranges says meanwhile how many are there, and the queue's eventfd is
 * written.
 */
struct load_part {
	uint32_t slot;
	_Atomic uint32_t ranges; /* out, in steps: leading ranges of all parts */
	uint64_t name_generation;
};

/*
 * SUBMIT_REMOVE: @count of these, at most REMOVE_PARTS_MAX. Each is answered in place, with one
 * completion for all: status = how many of them were there and are removed.
 */
struct remove_part {
	uint32_t slot;
	int32_t status; /* out: 0 removed, -ENOENT */
	uint64_t name_generation;
};

enum { REMOVE_PARTS_MAX = 1024 };

/* LOAD_ASK: blocks that lie in another session's GPU memory alone are asked of it, and waited for.
 */
enum load_flag { LOAD_ASK = 1 };

/*
 * SUBMIT_ANNOUNCE: as SUBMIT_RESERVE, without a part: the same structs and order, one completion
 * with the leading count answered. Each block is answered with 0, its slot and name generation; it
 * stands in the index from then on, and only this session has it there. Ended by SUBMIT_WITHDRAW,
 * by removal of the block, and with the session.
 *
 * SUBMIT_WITHDRAW: @count of these, at most HBM_PARTS_MAX; 0 = all of the session. Each is answered
 * in place, with one completion for all: status = how many of them the session had announced.
 *
 * SUBMIT_ASKS: room for @count of these, at most HBM_PARTS_MAX. One completion, when others want
 * blocks that this session alone has: status = how many. The session puts them, or withdraws or
 * declines; who waits for one waits until @deadline_ns and no longer. A session has one of these
 * under way; SUBMIT_CANCEL ends it.
 */
struct hbm_part {
	uint32_t slot;
	int32_t status; /* WITHDRAW, out: 0, -ENOENT: it was not announced, or is not any more */
	uint64_t name_generation;
	uint64_t deadline_ns; /* ASKS, out */
};

enum { HBM_PARTS_MAX = 1024 };

/* What a session says of blocks that it announced. */
enum withdraw_kind {
	WITHDRAW_GONE = 0,     /* it has them no longer */
	WITHDRAW_DECLINED = 1, /* it has them, and will not put them for those who ask now */
};

/* SUBMIT_EXPLAIN, in: like RESERVE for the first block that was not had (@slot, @generation = its
 * parent), and for a first block too; out: this struct in place. */
struct explain_answer {
	uint32_t reason;
	uint32_t reserved;
	uint64_t ago_ns;
	char space[64];
	char field[64];
};

_Static_assert(sizeof(struct reserve_block) == 56, "docs/formats/session.md");
_Static_assert(sizeof(struct commit_part) == 40, "docs/formats/session.md");
_Static_assert(sizeof(struct load_part) == 16, "docs/formats/session.md");
_Static_assert(sizeof(struct remove_part) == 16, "docs/formats/session.md");
_Static_assert(sizeof(struct hbm_part) == 24, "docs/formats/session.md");

/* Offsets of a page as this version lays it out. */
static inline uint32_t page_submissions_at(void)
{
	return (uint32_t)((sizeof(struct page_head) + 63) & ~63u);
}
static inline uint32_t page_completions_at(void)
{
	return page_submissions_at() + PAGE_SUBMISSIONS * PAGE_MESSAGE_BYTES;
}
static inline uint32_t page_pins_at(void)
{
	return page_completions_at() + PAGE_QUEUES * PAGE_COMPLETIONS * PAGE_MESSAGE_BYTES;
}
static inline uint32_t page_scratch_at(void)
{
	return (page_pins_at() + PAGE_PINS * PAGE_PIN_BYTES + 4095) & ~4095u;
}
static inline uint32_t page_bytes(void)
{
	return page_scratch_at() + PAGE_SCRATCH_BYTES;
}

#endif
