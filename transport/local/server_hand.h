/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TRANSPORT_LOCAL_SERVER_HAND_H
#define SKEP_TRANSPORT_LOCAL_SERVER_HAND_H

/*
 * What two daemons say to each other when one takes the other's place, on a connection to the
 * common socket (docs/formats/takeover.md). The successor asks; the predecessor, its keeper at
 * rest, sends state and descriptors; the successor builds everything from them and says so; GO is
 * the moment it becomes the daemon. Before that either may say no, or end, and the predecessor
 * serves on. Afterwards the predecessor holds the old indexes alone, until no client reads them or
 * until it has emptied them.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "transport/local/wire.h"

enum {
	/* Steps with every change of what is handed over, structs of store_priv.h included: two
	 * daemons of different numbers part by a clean stop. */
	HAND_VERSION = 2,
};

enum hand_kind {
	HAND_ASK = 1, /* successor: first message; versions */
	HAND_STATE,   /* predecessor: the state's memory file; fd_count more descriptors follow */
	HAND_FDS,     /* predecessor: some of these, in the order of the state's inventory */
	HAND_READY,   /* successor: everything is built */
	HAND_GO,      /* predecessor: it is yours */
	HAND_CLOSED,  /* predecessor: sockets and devices are closed here */
	HAND_HIDE,    /* successor: some client may still read an old index: empty them */
	HAND_HIDDEN,  /* predecessor: nothing is found in them any more */
	HAND_DONE,    /* successor: nobody reads them */
	HAND_REFUSE,  /* either, before GO: no, and why */
};

struct hand_message {
	struct wire_head head; /* op: WIRE_TAKEOVER; status with REFUSE */
	uint32_t kind;
	uint32_t version, page_version, index_version; /* ASK */
	uint32_t fd_count;
	uint32_t reserved;
	char why[WIRE_TEXT_MAX];
};

/* A message without the particulars of its kind. */
struct hand_message hand_message(enum hand_kind kind);
/* … of REFUSE. */
struct hand_message hand_refusal(int status, const char *why);

/*
 * Sends or receives one message with descriptors; waits up to @deadline_ns, or until *@stop is set
 * (may be NULL). hand_receive(): @fds has room for WIRE_FDS_MAX; they are the caller's on success.
 * Return: 0; -ETIMEDOUT, -ECANCELED, SKEP_STATUS_EDOWN (the other end is gone), -EPROTO, -EMFILE.
 */
struct hand_line {
	int fd;
	uint64_t deadline_ns;
	const _Atomic bool *stop;
};
int hand_send(const struct hand_line *line, const struct hand_message *message, const int *fds,
	unsigned count);
int hand_receive(
	const struct hand_line *line, struct hand_message *message, int *fds, unsigned *count);

#endif
