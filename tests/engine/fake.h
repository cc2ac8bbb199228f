/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_ENGINE_FAKE_H
#define SKEP_TESTS_ENGINE_FAKE_H

/*
 * A daemon made of one thread and memory files, for tests of the client: it serves hello and the
 * rare requests, answers submissions in the simplest way that is well-formed, can be told to give
 * one kind of wrong answer, and can die. Blocks are written into its index by the test.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "store/read/layout.h"
#include "transport/local/page.h"
#include "transport/local/server_page.h"
#include "transport/local/wire.h"

enum {
	FAKE_SLOTS = 64,
	FAKE_CHUNKS = 2,
	FAKE_CHUNK_BYTES = 1 << 20,
	FAKE_HEAP_BYTES = 1 << 16,
	FAKE_CLIENTS_MAX = 16,
	FAKE_FDS_MAX = 3 + FAKE_CHUNKS,
};

/* What is wrong with the answer to hello: name, and the status skep_open() must give. */
#define FAKE_FAULT_TABLE(X)                                                                        \
	X(NONE, 0)                                                                                 \
	X(SHORT, -EPROTO)                                                                          \
	X(LONG, -EPROTO)                                                                           \
	X(MAGIC, -EPROTO)                                                                          \
	X(VERSION, SKEP_EVERSION)                                                                  \
	X(OP, -EPROTO)                                                                             \
	X(STATUS_POSITIVE, -EPROTO)                                                                \
	X(LENGTH, -EPROTO)                                                                         \
	X(NO_FDS, -EPROTO)                                                                         \
	X(FEW_FDS, -EPROTO)                                                                        \
	X(MANY_FDS, -EPROTO)                                                                       \
	X(CHUNKS_OP, -EPROTO)                                                                      \
	X(CHUNKS_EMPTY, -EPROTO)                                                                   \
	X(CHUNKS_SMALL, -EPROTO)                                                                   \
	X(CHUNKS_NONE, -EPROTO)                                                                    \
	X(CHUNKS_MANY, -EPROTO)                                                                    \
	X(CHUNK_ODD, -EPROTO)                                                                      \
	X(POOL_LONG, -EPROTO)                                                                      \
	X(PAGE_SMALL, -EPROTO)                                                                     \
	X(PAGE_MAGIC_WRONG, -EPROTO)                                                               \
	X(INDEX_SMALL, -EPROTO)                                                                    \
	X(INDEX_MAGIC_WRONG, -EPROTO)                                                              \
	X(INDEX_VERSION, SKEP_EVERSION)                                                            \
	X(INDEX_OFFSET, -EPROTO)                                                                   \
	X(INCARNATION, -EPROTO)                                                                    \
	X(REFUSED, -EACCES)                                                                        \
	X(HANGUP, SKEP_EDOWN)                                                                      \
	X(CHUNKS_HANGUP, SKEP_EDOWN)                                                               \
	X(SILENT, -ETIMEDOUT)

enum fake_fault {
#define X(name, status) FAKE_##name,
	FAKE_FAULT_TABLE(X)
#undef X
		FAKE_FAULT_COUNT
};

struct fake_client {
	int fd; /* -1: free */
	bool greeted;
	void *page_memory;
	int page_fd;
	struct page_end page;
};

struct fake {
	char path[108];
	uint64_t incarnation;
	uint64_t generation;	      /* of the one space */
	uint64_t writes;	      /* the last write generation */
	_Atomic int32_t sync_failure; /* what a sync is answered; 0: there is no ssd */
	uint8_t secret;		      /* what its secret is filled with */
	int listen_fd, index_fd, chunk_fds[FAKE_CHUNKS];
	uint8_t *index;
	uint64_t index_bytes;
	uint8_t *pool;
	uint32_t slots_used, heap_used;
	struct fake_client clients[FAKE_CLIENTS_MAX];
	pthread_t thread;
	_Atomic int fault; /* enum fake_fault */
	_Atomic bool stop;
	_Atomic bool deaf;	/* leaves submissions in the ring */
	_Atomic bool mute;	/* leaves requests in the socket */
	_Atomic bool refusing;	/* every space is refused */
	_Atomic bool waits_end; /* SUBMIT_WAIT is answered at once */
	/* What came. */
	_Atomic unsigned passes; /* through all rings and sockets */
	_Atomic unsigned hellos, touches, reserves, commits, aborts, quarantines, hints, spaces;
	pthread_mutex_t lock; /* of the two below: the ring lies in two mappings */
	struct submission last_touch, last_abort;
};

struct submission fake_last(struct fake *fake, const struct submission *which);

/* Starts on a fresh path, or on the path it had before with a new incarnation and empty files. */
void fake_start(struct fake *fake);

/* Dies as by kill -9: descriptors are closed, nobody is told, the socket's file stays. */
void fake_kill(struct fake *fake);

/* Dies and takes its socket's file away. */
void fake_end(struct fake *fake);

struct skep_chain;
/* Writes block @i of the chain into the index below the block before it, in its state, with a frame
 * of @bytes bytes and right sums. Blocks of a chain lie slot after slot. Return: its slot. */
uint32_t fake_block(struct fake *fake, struct skep_chain *chain, uint32_t i, enum entry_state state,
	uint32_t bytes);

static inline struct index_entry *fake_entries(struct fake *fake)
{
	const struct index_head *head = (const void *)fake->index;

	return (struct index_entry *)(void *)(fake->index + head->entries_at);
}

/* Returns when all that was submitted before the call has been taken (and counted). */
void fake_settle(struct fake *fake);

/* Waits until *@count is at least @wanted; fails the test after five seconds. */
#define fake_await(count, wanted) fake_await_at(__FILE__, __LINE__, count, wanted)
void fake_await_at(const char *file, int line, _Atomic unsigned *count, unsigned wanted);

#endif
