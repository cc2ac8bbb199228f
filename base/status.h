/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_STATUS_H
#define SKEP_BASE_STATUS_H

/*
 * Results are 0 or a count, else a negative errno, plus the codes below, which lie outside the
 * range of errno. The public header (engine/include/skep/skep.h) spells the same numbers for users;
 * a static assertion in engine/client/session.c holds the two together.
 */
#define SKEP_STATUS_TABLE(X)                                                                       \
	X(EPARENT, 4096, "a block's parent is neither present nor pending")                        \
	X(EPENDING, 4097, "another writer is writing this block")                                  \
	X(EDIFFERS, 4098, "a space of that name exists and a field differs")                       \
	X(EVERSION, 4099, "the two sides speak different versions")                                \
	X(ECHECKSUM, 4100, "the bytes do not match their checksum")                                \
	X(EDOWN, 4101, "the daemon is away")                                                       \
	X(EGIVENUP, 4102, "the writer of a pending block gave up")

enum {
#define X(name, number, text) SKEP_STATUS_##name = -(number),
	SKEP_STATUS_TABLE(X)
#undef X
};

/*
 * Why a block was not had. One table for the library, the daemon's counters, the metrics page and
 * the documents. The order is the wire's and the index's: append only.
 */
#define SKEP_REASON_TABLE(X)                                                                       \
	X(NONE, "none", "nothing is missing")                                                      \
	X(NEVER_SEEN, "never_seen", "no block under this identity was ever put")                   \
	X(EVICTED, "evicted", "the block left every tier for want of room")                        \
	X(REMOVED, "removed", "the block was purged or evicted by command")                        \
	X(OTHER_SPACE, "other_space", "another space holds a block of the same tokens")            \
	X(CHECKSUM, "checksum", "the bytes did not match their checksum and were quarantined")     \
	X(PENDING, "pending", "the block is being written")                                        \
	X(GIVEN_UP, "given_up", "the writer never finished the block")                             \
	X(PEER_DOWN, "peer_down", "the node that holds the block is away")                         \
	X(DAEMON_DOWN, "daemon_down", "the daemon beside this engine is away")                     \
	X(DEADLINE, "deadline", "the answer did not come in time")                                 \
	X(NOT_REMEMBERED, "not_remembered", "the block may have been held; its record is gone")    \
	X(PINS, "pins", "the session has no free pin")                                             \
	X(ABSENT, "absent", "the index does not hold the block; explain tells more")               \
	X(LOST, "lost", "the device that held the block failed")                                   \
	X(HBM, "hbm", "the block lies in the GPU memory of another session alone")

enum skep_reason {
#define X(name, word, text) SKEP_REASON_##name,
	SKEP_REASON_TABLE(X)
#undef X
		SKEP_REASON_COUNT
};

/* The word of a reason ("never_seen"), or "unknown" past the table's end. Any thread. */
const char *reason_word(unsigned reason);

/* The sentence of a reason. Any thread. */
const char *reason_text(unsigned reason);

/* A static text for 0, a negative errno or a code of the table. Any thread. */
const char *status_text(int status);

/* "EPARENT", "ENOMEM", …; "E?" for what is unknown. Any thread. */
const char *status_name(int status);

#endif
