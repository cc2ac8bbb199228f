/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TRANSPORT_LOCAL_WIRE_H
#define SKEP_TRANSPORT_LOCAL_WIRE_H

/*
 * Messages on a session's socket (unix, SOCK_SEQPACKET; docs/formats/session.md). One request at a
 * time, one answer each; descriptors travel with answers only, the daemon takes none. Everything
 * that is frequent goes through the session page instead (page.h). Integers are of the host.
 */

#include <stdint.h>

enum {
	WIRE_VERSION = 1,
	WIRE_MESSAGE_MAX = 16384,
	WIRE_TEXT_MAX = 256, /* with the end zero */
	WIRE_NAME_MAX = 64,
	WIRE_SECRET_BYTES = 192,
	WIRE_PARTS_MAX = 64,
	WIRE_FDS_MAX = 200, /* of one message */
};

#define WIRE_MAGIC 0x70656b53u /* "Skep" */

enum wire_op {
	WIRE_HELLO = 1,	  /* first message of a session */
	WIRE_SPACE_OPEN,  /* open or make a space */
	WIRE_SPACE_PURGE, /* remove its blocks */
	WIRE_SPACE_STEP,  /* step its version */
	WIRE_QUEUE,	  /* an eventfd for a completion queue */
	WIRE_STATS,	  /* the realm's counters */
	WIRE_BYE,	  /* the client has let go of everything */
	WIRE_COMMAND,	  /* an operator's request: JSON in, JSON out (tools) */
	WIRE_CHUNKS,	  /* daemon: more descriptors of chunks, after HELLO's answer */
	WIRE_INDEX,	  /* daemon, unasked: the realm's index lies in another file now */
	WIRE_TAKEOVER,	  /* between two daemons (server_hand.h); first message of a connection */
};

struct wire_head {
	uint32_t magic;
	uint16_t version;
	uint16_t op;
	uint32_t bytes; /* of the whole message */
	int32_t status; /* answers: 0 or negative */
};

enum wire_hello_flag { WIRE_HELLO_READONLY = 1, WIRE_HELLO_OPERATOR = 2 };

struct wire_hello {
	struct wire_head head;
	uint32_t index_version; /* layout the client can read */
	uint32_t page_version;
	uint32_t flags;
	uint32_t pid_hint; /* as the client sees itself; shown, never trusted */
	char realm[WIRE_NAME_MAX];
	char token[WIRE_TEXT_MAX];
	char name[WIRE_NAME_MAX];
};

/*
 * Answer, with descriptors in this order: session page (shared), index (to be mapped read-only),
 * wake-up eventfd of the daemon, then chunks; further chunks follow in WIRE_CHUNKS messages (a bare
 * head) until chunk_count descriptors were sent. An operator's session gets no descriptors.
 */
struct wire_hello_answer {
	struct wire_head head;
	uint64_t incarnation;
	uint64_t session;
	uint64_t page_bytes;
	uint64_t index_bytes;
	uint64_t pool_bytes;
	uint64_t chunk_bytes; /* of each but perhaps the last */
	uint32_t chunk_count;
	uint32_t daemon_version; /* major << 16 | minor << 8 | patch */
	char realm[WIRE_NAME_MAX];
};

struct wire_part {
	uint64_t bytes;
	uint32_t ranges;
	uint16_t rank;
	uint16_t group;
};

struct wire_space_open {
	struct wire_head head;
	char name[WIRE_NAME_MAX];
	char model[WIRE_TEXT_MAX];
	char weights[WIRE_TEXT_MAX];
	char rope[WIRE_TEXT_MAX];
	char layout[WIRE_TEXT_MAX];
	char engine[WIRE_TEXT_MAX];
	uint32_t block_tokens;
	uint32_t ranks;
	uint32_t groups;
	uint32_t part_count;
	uint32_t flags;
	uint32_t reserved;
	struct wire_part parts[WIRE_PARTS_MAX];
};

struct wire_space_answer {
	struct wire_head head;
	uint32_t space;
	uint32_t reserved;
	uint64_t generation; /* index_head.spaces[space] as long as the version stands */
	uint64_t version;
	uint8_t secret[WIRE_SECRET_BYTES];
	char field[WIRE_NAME_MAX]; /* with a refusal: which field */
};

/* SPACE_PURGE, SPACE_STEP, QUEUE */
struct wire_number {
	struct wire_head head;
	uint64_t number; /* in: space or queue; out: blocks removed, new version */
};

struct wire_stats {
	struct wire_head head;
	uint64_t dram_bytes, dram_bytes_used;
	uint64_t blocks, blocks_pending;
	uint64_t tokens_asked, tokens_had;
	uint64_t puts, puts_refused;
	uint64_t evicted, pins, sessions, checksum_failures;
};

/*
 * INDEX: sent once to each session after another daemon took this one's place, with the descriptor
 * of the new file (mapped read-only, as the first). Slots, generations and frames are those of the
 * old one; the client says that it reads the new one by storing @number in its page.
 */
struct wire_index {
	struct wire_head head;
	uint64_t incarnation; /* as before */
	uint64_t index_bytes;
	uint32_t number;
	uint32_t reserved;
};

/* COMMAND: a head, then JSON text. The answer comes in pieces, each a wire_piece, until `last`. */
struct wire_piece {
	struct wire_head head;
	uint32_t last;
	uint32_t text_bytes;
	char text[];
};

_Static_assert(sizeof(struct wire_space_open) < WIRE_MESSAGE_MAX, "one packet");

#endif
