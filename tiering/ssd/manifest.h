/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TIERING_SSD_MANIFEST_H
#define SKEP_TIERING_SSD_MANIFEST_H

/*
 * The manifest: a small RocksDB beside the devices that remembers what tables cannot: records that
 * died, spaces and their versions. Rows are opaque here. The keeper gathers rows in a batch; one
 * ledger thread writes batches in order, so that the keeper never waits for RocksDB.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop/mailbox.h"

struct manifest;

struct manifest_options {
	const char *path;	 /* a directory; made where it is not there */
	uint64_t memory_bytes;	 /* cache, write buffers, waiting rows; 0 = 16 MiB; at least 4 */
	struct mailbox *mailbox; /* done() of batches is called on its loop's thread */
	bool repair;		 /* RocksDB's own repair before the opening */
	/* For manifest_each() alone: no file of it is made or changed, its seal stays, and there
	 * need be no mailbox. */
	bool read_only;
};

/* Opens or makes it; blocks. @why names cause and fix. Return: 0; -EBUSY (another process has it),
 * -EIO, -EBADMSG (damaged: repair, or rebuild from tables), -ENOSPC, -EACCES, -ENOTSUP (built
 * without RocksDB), -ENOMEM, -EAGAIN (no thread to be had); of the path: -ENOENT (the directory
 * above it is not there, or with read_only the manifest), -ENOTDIR, -ENOTEMPTY (it holds other
 * files). */
int manifest_open(
	const struct manifest_options *options, struct manifest **out, char *why, size_t why_bytes);

/*
 * Writes what was committed, syncs it, closes; blocks. Every done() not yet called is called from
 * within; gathered rows that were not committed are dropped. The mailbox's thread, or any after
 * that ended; the mailbox outlives the manifest. NULL is nothing.
 */
void manifest_close(struct manifest *manifest);

/* The rows whose key begins with @prefix, in the order of keys; at the start, before any commit;
 * blocks. @visit: 0 goes on, negative ends. Return: 0, what visit said, -EIO, -EBADMSG. */
typedef int manifest_visit(
	void *arg, const void *key, size_t key_bytes, const void *value, size_t value_bytes);
int manifest_each(struct manifest *manifest, const void *prefix, size_t prefix_bytes,
	manifest_visit *visit, void *arg);

/* Rows of the batch now being gathered; the keeper's thread, which is the mailbox's. Return: 0,
 * -ENOMEM (no memory, or an eighth of memory_bytes waits already: the row is lost and counted as an
 * error; the batch goes on). */
int manifest_put(struct manifest *manifest, const void *key, size_t key_bytes, const void *value,
	size_t value_bytes);
int manifest_delete(struct manifest *manifest, const void *key, size_t key_bytes);
/* All rows from @from on, before @to. */
int manifest_delete_range(
	struct manifest *manifest, const void *from, const void *to, size_t bytes);

/*
 * Hands the gathered rows to the ledger thread. @done (may be NULL) comes once on the mailbox's
 * thread when they, and all before them, are written; with @durable also synced to the disk.
 * Once a batch could not be written no later one is, and all of them are told the same status. So a
 * process that ends leaves what was committed up to some batch, and a machine that loses its power
 * all up to the last durable commit; of what came after that one, any rows may be missing.
 * Return: 0; -EAGAIN: too many batches are under way, the rows stay gathered, ask again;
 * -ESHUTDOWN: from a done() within manifest_close().
 */
struct manifest_done {
	void (*done)(struct manifest_done *done, int status);
};
int manifest_commit(struct manifest *manifest, bool durable, struct manifest_done *done);

struct manifest_status {
	uint64_t memory_bytes; /* RocksDB's own, as it counts it: write buffers, cache, readers */
	uint64_t rows_waiting; /* gathered or under way */
	uint64_t batches;      /* written */
	uint64_t errors;       /* batches not written, and rows lost */
};
/* Any thread; never blocks. The memory is that of the last batch or the last asking. */
void manifest_status_get(struct manifest *manifest, struct manifest_status *status);

#endif
