/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_READ_LAYOUT_H
#define SKEP_STORE_READ_LAYOUT_H

/*
 * The index of one realm as it lies in shared memory. The keeper writes it; clients map it
 * read-only and probe it without asking anybody. Position-independent: offsets and slots, never
 * pointers. docs/formats/index.md has the byte table; a change of anything here steps
 * INDEX_LAYOUT_VERSION. Offsets are tests (tests/store/layout_test.c).
 *
 *	head | buckets | entries | parts | record heap
 *
 * A slot is one block: entries[slot] and parts[slot], plus a record in the heap that holds what
 * proves the block (tokens, extra keys), its further parts and the range sums.
 *
 * Order of access. Keeper, new name: name_generation = 0, release fence, fields, then
 * name_generation = g with release. Reader: load name_generation with acquire, fields relaxed,
 * acquire fence, load name_generation again: equal and not 0 = the fields belong together. The same
 * holds for record memory, which is reused only after the name was dropped.
 * frame_generation is 0 while the block cannot be had from DRAM; part fields are stored before it
 * is set (release) and are stable while it keeps its value and a pin names it (pin.h).
 */

#include <stdatomic.h>
#include <stdint.h>

enum {
	INDEX_LAYOUT_VERSION = 4,
	INDEX_SPACES_MAX = 64,	  /* spaces a realm can hold */
	INDEX_PARTS_MAX = 64,	  /* parts of a block */
	INDEX_RECORD_GRANULE = 8, /* record offsets and sizes are multiples of this */
	INDEX_EXTRA_BYTES_MAX = 1024,
	INDEX_KEY_BYTES_MAX = 64,
	INDEX_BLOCK_TOKENS_MAX = 16384,
	FRAME_GRANULE_BYTES = 4096, /* frame addresses are counted in this unit */
	LEAF_NONE = 0,
};

#define INDEX_MAGIC  0x7865646e49706b53ull /* "SkpIndex" */
#define SLOT_NONE    UINT32_MAX
#define FRAME_NONE   UINT32_MAX
#define SLOT_ROOT(s) (0xffff0000u | (s)) /* the "parent slot" of a first block of space s */

/* State of an entry, for readers. Only `present` blocks have a frame generation. */
enum entry_state {
	ENTRY_FREE = 0,
	ENTRY_PENDING = 1, /* some part is not committed, or the parent is not present yet */
	ENTRY_PRESENT = 2, /* every part can be had from DRAM */
	ENTRY_EMPTY = 3,   /* no bytes anywhere; kept because it has children */
	ENTRY_REMOVED = 4, /* taken out by force; its frames wait for the last pin */
	ENTRY_HBM = 5,	   /* in the GPU memory of sessions that announced it, and nowhere here */
	ENTRY_STATES = 6,
};

/* 64 bytes, one line. All fields are relaxed atomics unless the top of the file says more. */
struct index_entry {
	_Atomic uint64_t name_generation;  /* 0: no name */
	_Atomic uint64_t frame_generation; /* 0: not in DRAM */
	_Atomic uint64_t id_low, id_high;
	_Atomic uint64_t
		parent_generation;    /* name generation of the parent; of the space for a root */
	_Atomic uint32_t parent_slot; /* or SLOT_ROOT(space) */
	_Atomic uint32_t child_slot;  /* a hint: the child named last, or SLOT_NONE */
	_Atomic uint32_t next_slot;   /* next of the bucket, or SLOT_NONE */
	_Atomic uint32_t record;      /* offset in the heap / INDEX_RECORD_GRANULE */
	_Atomic uint16_t space;
	_Atomic uint8_t parts;	 /* how many parts the block has */
	_Atomic uint8_t state;	 /* enum entry_state */
	_Atomic uint16_t origin; /* incarnation of the writers: 0 = this one; others with the ssd */
	uint16_t reserved;
};

/* One part of a block: 32 bytes; part 0 in parts[slot], the others at the record's start. */
struct index_part {
	_Atomic uint32_t frame; /* pool offset / FRAME_GRANULE_BYTES, or FRAME_NONE */
	_Atomic uint32_t bytes;
	_Atomic uint64_t write; /* number of the write generation; 0 while nobody writes it */
	_Atomic uint64_t root_low, root_high;
};

/* Head of a bucket's list. The version moves at each change of the list: a reader that found
 * nothing reads the word again and, if it moved, looks again. */
struct index_bucket {
	_Atomic uint64_t word; /* version << 32 | slot */
};

/*
 * Record, at entry.record:
 *	struct index_part more[parts - 1];
 *	struct record_head;
 *	uint32_t tokens[token_count];			padded to 8
 *	uint8_t key[key_bytes], extra[extra_bytes];	together padded to 8
 *	uint64_t range_sums[sum over parts of their ranges];
 */
struct record_head {
	_Atomic uint64_t word; /* token_count | key_bytes << 32 | extra_bytes << 48 */
};

/* What a client must know of a space to name and prove its blocks; changes by a version step. */
struct index_space {
	_Atomic uint64_t generation; /* 0: no space here; drawn anew at each version step */
};

/* The first page of the index file. Written once before it is offered, but for the marked fields.
 */
struct index_head {
	uint64_t magic;
	uint32_t version;
	uint32_t head_bytes;
	uint64_t incarnation;
	uint64_t file_bytes;
	uint32_t slot_count;
	uint32_t bucket_count;
	uint64_t buckets_at, entries_at, parts_at, heap_at; /* byte offsets in the file */
	uint64_t heap_bytes;
	uint64_t pool_bytes;  /* of all chunks */
	uint64_t chunk_bytes; /* of each chunk but perhaps the last */
	uint32_t chunk_count;
	uint32_t id_bits; /* bits of an id that count: 128, fewer only under the collision test */
	struct index_space spaces[INDEX_SPACES_MAX];
	/* Bytes from the pool's start that the daemon has populated; grows. Keeper, release. */
	_Atomic uint64_t pool_ready_bytes;
	/* Odd while the keeper has unpublished victims that a pin may still bring back. Steps by 1.
	 */
	_Atomic uint64_t evictions;
	/* Not 0: another daemon serves, from another file, and nothing is found here any more.
	 * Keeper, release, before it takes the first block out. */
	_Atomic uint32_t emptied;
	/* The keeper's last word (base/last_words.h): who reads it knows of the daemon's death
	 * before the sockets tell. */
	_Atomic uint32_t keeper;
};

_Static_assert(sizeof(struct index_entry) == 64, "an entry is one cache line");
_Static_assert(sizeof(struct index_part) == 32, "two parts a cache line");
_Static_assert(sizeof(struct index_head) <= 4096, "the head is one page");

/* One cell of a session's pin table (pin.h). The client writes it, the keeper reads it. */
struct pin_cell {
	_Atomic uint64_t generation; /* frame generation of the deepest block; 0: free */
	_Atomic uint32_t slot;
	uint32_t reserved;
};

_Static_assert(sizeof(struct pin_cell) == 16, "pin cells are 16 bytes");

#endif
