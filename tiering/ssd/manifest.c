/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/ssd/manifest.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <rocksdb/c.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/log.h"
#include "base/loop/worker.h"
#include "base/memory.h"
#include "base/status.h"
#include "tiering/ssd/manifest_priv.h"

/*
 * Batches lie in a ring of slots. The keeper gathers in slot committed % SLOTS and hands it to the
 * ledger thread, which writes one after the other and counts `written`; a message in the mailbox
 * has the keeper call the done() of what was written and count `reaped`. So a slot is the keeper's
 * before its commit and after its reaping, and the ledger's in between.
 *
 * After one failed write nothing is written any more: the manifest on the disk is what was
 * committed up to some batch, without a hole.
 */

enum {
	UNDER_WAY_MAX = 8,
	SLOTS = UNDER_WAY_MAX + 1,   /* and the one being gathered */
	QUEUE = 16,		     /* every batch, one measurement, the end of the thread */
	BATCH_KEPT_BYTES = 64 << 10, /* a larger batch gives its memory back */
	ROW_BYTES = 16,		     /* that a row takes in a batch beside key and value */
	OPEN_FILES = 64,
	INFO_LOG_BYTES = 1 << 20, /* of RocksDB's own log, twice */
	FULL_WAIT_US = 100,
};

#define MEMORY_STANDARD (16ull << 20)
#define MEMORY_LEAST	(4ull << 20) /* RocksDB's arenas have a least size */

struct batch {
	rocksdb_writebatch_t *rows;
	uint64_t count, bytes;
	bool durable;
	struct manifest_done *done;
	int status; /* the ledger's until `written` has passed it */
};

/*
 * What the message in the mailbox names: it may lie there longer than the manifest lives. At most
 * one is under way (`told`). It belongs to the message where the manifest has let go of it.
 */
struct bell {
	struct manifest *manifest; /* NULL: closed. The keeper's */
	atomic_bool told;
};

struct manifest {
	rocksdb_t *db;
	rocksdb_cache_t *cache;
	rocksdb_memory_consumers_t *consumers;
	rocksdb_writeoptions_t *lazy, *synced;
	struct workers *ledger;
	struct mailbox *mailbox;
	struct bell *bell;
	char *path;
	uint64_t waiting_bytes_max;

	/* The keeper's alone. */
	struct batch slots[SLOTS];
	uint64_t committed, reaped, waiting_bytes;

	/* Written by the ledger, read by the keeper: the slots before it are written. */
	_Atomic uint64_t written;
	/* Set by the keeper, read by the ledger: nobody empties the mailbox any more. */
	atomic_bool closing;
	int failed; /* the ledger's: status of the write that failed */

	/* Read by anyone. */
	_Atomic uint64_t rows_waiting, batches, errors, memory_bytes;
	atomic_bool measuring;
};

/* ------------------------------------------------------------------- what RocksDB's errors mean */

/* Its C face gives texts alone; the class stands at the start, errno's text further on. */
static int rocks_status(const char *text)
{
	static const struct {
		const char *part, *with;
		int status;
	} rows[] = {
		{"LOCK: ", "Resource temporarily unavailable", -EBUSY},
		{"lock hold by current process", "", -EBUSY},
		{"No space left on device", "", -ENOSPC},
		{"Disk quota exceeded", "", -ENOSPC},
		{"File too large", "", -ENOSPC},
		{"Permission denied", "", -EACCES},
		{"Operation not permitted", "", -EACCES},
		{"Read-only file system", "", -EACCES},
		{"Corruption: ", "", -EBADMSG},
		/* A file that others name is missing, or what they say makes no sense. */
		{"No such file or directory", "", -EBADMSG},
		{"Invalid argument: ", "", -EBADMSG},
		{"Not implemented: ", "", -EBADMSG},
		{"NotFound: ", "", -EBADMSG},
	};

	for (size_t i = 0; i < ARRAY_COUNT(rows); i++)
		if (strstr(text, rows[i].part) && strstr(text, rows[i].with))
			return rows[i].status;
	return -EIO;
}

/* Takes and frees @error. 0 where there is none; else its status, with its text in @text. */
static int rocks_take(char *error, char *text, size_t text_bytes)
{
	int status;

	if (!error)
		return 0;
	status = rocks_status(error);
	snprintf(text, text_bytes, "%s", error);
	rocksdb_free(error);
	for (; *text; text++)
		if (iscntrl((unsigned char)*text))
			*text = ' ';
	return status;
}

/* ------------------------------------------------------------------------------------- opening */

/* Where the reasons of an opening are told. */
struct why {
	const char *path;
	char *text;
	size_t bytes;
};

static int why_say(struct why *why, int status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static int why_say(struct why *why, int status, const char *format, ...)
{
	char cause[512];
	va_list list;

	va_start(list, format);
	vsnprintf(cause, sizeof(cause), format, list);
	va_end(list);
	snprintf(why->text, why->bytes, "manifest %s: %s", why->path, cause);
	return status;
}

/* Cause and fix of what an opening met; @detail: RocksDB's words or errno's. */
static int why_status(struct why *why, int status, const char *detail)
{
	switch (status) {
	case -EBUSY:
		return why_say(why, status,
			"another process has it: stop that daemon, or name another manifest");
	case -EBADMSG:
		return why_say(why, status,
			"damaged: skep fsck --rebuild makes it anew from the devices (%s)", detail);
	case -ENOSPC:
		return why_say(
			why, status, "its file system is full: make room there (%s)", detail);
	case -EACCES:
		return why_say(
			why, status, "not ours to write: chown it to skepd's user (%s)", detail);
	case -ENOENT:
		return why_say(why, status, "%s", detail);
	case -ENOTDIR:
		return why_say(why, status, "not a directory: name another path");
	case -ENOMEM:
		return why_say(why, status, "out of memory");
	default:
		return why_say(why, status, "%s: look at the disk below it", detail);
	}
}

/* What lies in the directory. */
struct folder {
	bool current, logs, tables, stepped, foreign;
};

static bool numbered(const char *name, const char *ending)
{
	size_t digits = strspn(name, "0123456789");

	return digits && !strcmp(name + digits, ending);
}

static void folder_entry(struct folder *folder, const char *name)
{
	static const char *const known[] = {"LOCK", "LOG", SEAL_NAME, "IDENTITY", "OPTIONS-",
		"MANIFEST-", "CURRENT", "lost", "archive", "."};

	if (!strcmp(name, "CURRENT"))
		folder->current = true;
	else if (numbered(name, ".log"))
		folder->logs = true;
	else if (numbered(name, ".sst"))
		folder->tables = true;
	else if (!numbered(name, ".dbtmp")) {
		bool ours = false;

		for (size_t i = 0; i < ARRAY_COUNT(known); i++)
			ours |= !strncmp(name, known[i], strlen(known[i]));
		folder->foreign |= !ours;
		/* The first one is written before anything else; later ones follow an opening. */
		folder->stepped |=
			!strncmp(name, "MANIFEST-", 9) && strcmp(name, "MANIFEST-000001") != 0;
	}
}

static int folder_look(struct why *why, bool read_only, struct folder *folder)
{
	struct dirent *entry;
	DIR *directory;

	*folder = (struct folder){0};
	if (!read_only && mkdir(why->path, 0700) && errno != EEXIST) {
		int status = errno == EROFS || errno == EPERM ? -EACCES : -errno;

		return why_status(why, status,
			status == -ENOENT ? "the directory above is not there: make it"
					  : status_text(status));
	}
	directory = opendir(why->path);
	if (!directory)
		return why_status(
			why, -errno, errno == ENOENT ? "it is not there" : status_text(-errno));
	while ((entry = readdir(directory)))
		folder_entry(folder, entry->d_name);
	closedir(directory);
	return 0;
}

/*
 * RocksDB takes a directory without CURRENT for a new one, and a missing log for an empty one:
 * rows would be gone without a word. A making that was cut short is begun again.
 */
static int folder_check(struct why *why, const struct folder *folder)
{
	if (!folder->current && (folder->logs || folder->tables || folder->stepped))
		return why_status(why, -EBADMSG, "the file CURRENT is missing");
	if (folder->current && folder->stepped && !folder->logs)
		return why_status(why, -EBADMSG, "the log of the last rows is missing");
	if (!folder->current && folder->foreign)
		return why_say(why, -ENOTEMPTY,
			"the directory holds other files: name one that is empty or new");
	return 0;
}

static int seal_check(struct why *why, bool read_only)
{
	int status = read_only ? seal_look(why->path) : seal_take(why->path);

	return status ? why_status(why, status,
				status == -EBADMSG ? "its files are not those of the last close"
						   : status_text(status))
		      : 0;
}

/* Reading alone, RocksDB takes no lock and looks at none. */
static int lock_look(struct why *why)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int status = 0, fd, folder = open(why->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (folder < 0)
		return why_status(why, -errno, status_text(-errno));
	fd = openat(folder, "LOCK", O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && !fcntl(fd, F_GETLK, &lock) && lock.l_type != F_UNLCK)
		status = why_status(why, -EBUSY, "");
	if (fd >= 0)
		close(fd);
	close(folder);
	return status;
}

/*
 * Memory: 3/8 for write buffers (three: one being filled, two being written), 3/8 for the cache,
 * which holds index blocks as well, 1/8 for batches, which may double as they grow.
 */
static rocksdb_options_t *options_make(rocksdb_cache_t *cache, uint64_t memory_bytes)
{
	rocksdb_block_based_table_options_t *tables = rocksdb_block_based_options_create();
	rocksdb_options_t *options = rocksdb_options_create();

	rocksdb_options_set_write_buffer_size(options, memory_bytes / 8);
	rocksdb_options_set_max_write_buffer_number(options, 3);
	rocksdb_options_set_max_write_buffer_size_to_maintain(options, 0);
	rocksdb_options_set_arena_block_size(options, memory_bytes / 64);
	rocksdb_options_set_target_file_size_base(options, 4 * memory_bytes);
	rocksdb_options_set_max_total_wal_size(options, memory_bytes);
	rocksdb_options_set_max_open_files(options, OPEN_FILES);
	rocksdb_options_set_table_cache_numshardbits(options, 2);
	rocksdb_options_set_writable_file_max_buffer_size(options, 256 << 10);
	rocksdb_options_set_max_background_jobs(options, 2);
	rocksdb_options_set_max_subcompactions(options, 1);
	rocksdb_options_set_compression(options, rocksdb_no_compression);
	rocksdb_options_set_paranoid_checks(options, 1);
	/* A crash may tear what was not synced: rows up to the tear count, in order. */
	rocksdb_options_set_wal_recovery_mode(options, rocksdb_point_in_time_recovery);
	rocksdb_options_set_max_manifest_file_size(options, 4 << 20);
	/* Its own log: warnings, and its settings at each start. */
	rocksdb_options_set_info_log_level(options, 2);
	rocksdb_options_set_max_log_file_size(options, INFO_LOG_BYTES);
	rocksdb_options_set_keep_log_file_num(options, 2);
	rocksdb_options_set_stats_dump_period_sec(options, 0);
	rocksdb_options_set_stats_persist_period_sec(options, 0);
	rocksdb_block_based_options_set_block_cache(tables, cache);
	rocksdb_block_based_options_set_cache_index_and_filter_blocks(tables, 1);
	rocksdb_options_set_block_based_table_factory(options, tables);
	rocksdb_block_based_options_destroy(tables);
	return options;
}

static int db_open(struct manifest *manifest, struct why *why,
	const struct manifest_options *wanted, uint64_t memory_bytes)
{
	char text[384] = "", *error = NULL;
	rocksdb_options_t *options;
	struct folder folder;
	sigset_t all, old;
	int status = folder_look(why, wanted->read_only, &folder);

	if (!status && !wanted->repair)
		status = seal_check(why, wanted->read_only);
	if (!status && wanted->read_only)
		status = lock_look(why);
	if (status)
		return status;
	options = options_make(manifest->cache, memory_bytes);
	/* RocksDB's threads inherit: signals are for the threads that wait for them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (wanted->repair && (folder.current || folder.logs || folder.tables || folder.stepped)) {
		rocksdb_repair_db(options, why->path, &error);
		status = rocks_take(error, text, sizeof(text));
		folder = (struct folder){.current = true, .logs = true};
		seal_drop(why->path);
	}
	if (status)
		status = why_status(why, status, text);
	else
		status = folder_check(why, &folder);
	if (!status && wanted->read_only && !folder.current)
		status = why_status(why, -ENOENT, "it was never made whole");
	if (!status) {
		error = NULL;
		rocksdb_options_set_create_if_missing(options, !folder.current);
		manifest->db = wanted->read_only
				       ? rocksdb_open_for_read_only(options, why->path, 0, &error)
				       : rocksdb_open(options, why->path, &error);
		status = rocks_take(error, text, sizeof(text));
		if (status)
			why_status(why, status, text);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	rocksdb_options_destroy(options);
	return status;
}

static void memory_measure(struct manifest *manifest)
{
	rocksdb_memory_usage_t *usage;
	char *error = NULL;

	usage = rocksdb_approximate_memory_usage_create(manifest->consumers, &error);
	if (error)
		rocksdb_free(error);
	if (!usage)
		return;
	atomic_store_explicit(&manifest->memory_bytes,
		rocksdb_approximate_memory_usage_get_mem_table_total(usage) +
			rocksdb_approximate_memory_usage_get_mem_table_readers_total(usage) +
			rocksdb_approximate_memory_usage_get_cache_total(usage),
		memory_order_relaxed);
	rocksdb_approximate_memory_usage_destroy(usage);
}

/* Everything that rests; what is NULL was not made. */
static void parts_free(struct manifest *manifest)
{
	for (int i = 0; i < SLOTS; i++)
		if (manifest->slots[i].rows)
			rocksdb_writebatch_destroy(manifest->slots[i].rows);
	if (manifest->consumers)
		rocksdb_memory_consumers_destroy(manifest->consumers);
	if (manifest->db)
		rocksdb_close(manifest->db);
	if (manifest->cache)
		rocksdb_cache_destroy(manifest->cache);
	if (manifest->lazy)
		rocksdb_writeoptions_destroy(manifest->lazy);
	if (manifest->synced)
		rocksdb_writeoptions_destroy(manifest->synced);
	memory_free(manifest->bell);
	memory_free(manifest->path);
	memory_free(manifest);
}

static int parts_make(
	struct manifest *manifest, struct why *why, const struct manifest_options *options)
{
	struct workers_options ledger = {
		.count = 1,
		.queue_capacity = QUEUE,
		.name = "ledger",
		.backend = LOOP_BACKEND_EPOLL,
	};
	uint64_t memory_bytes = options->memory_bytes ? options->memory_bytes : MEMORY_STANDARD;
	int status;

	memory_bytes = MAX_OF(memory_bytes, MEMORY_LEAST);
	manifest->waiting_bytes_max = memory_bytes / 8;
	manifest->cache = rocksdb_cache_create_lru(memory_bytes / 8 * 3);
	manifest->lazy = rocksdb_writeoptions_create();
	manifest->synced = rocksdb_writeoptions_create();
	rocksdb_writeoptions_set_sync(manifest->synced, 1);
	for (int i = 0; i < SLOTS; i++)
		manifest->slots[i].rows = rocksdb_writebatch_create();
	status = db_open(manifest, why, options, memory_bytes);
	if (status || options->read_only)
		return status;
	manifest->consumers = rocksdb_memory_consumers_create();
	rocksdb_memory_consumers_add_db(manifest->consumers, manifest->db);
	rocksdb_memory_consumers_add_cache(manifest->consumers, manifest->cache);
	memory_measure(manifest);
	status = workers_create(&ledger, &manifest->ledger);
	if (status)
		why_say(why, status, "no thread for it: %s", status_text(status));
	return status;
}

int manifest_open(
	const struct manifest_options *options, struct manifest **out, char *why, size_t why_bytes)
{
	struct why place = {options->path, why, why_bytes};
	struct manifest *manifest;
	int status;

	if (!options->path || !*options->path || (!options->mailbox && !options->read_only))
		return -EINVAL;
	manifest = memory_zalloc(sizeof(*manifest));
	if (!manifest)
		return why_status(&place, -ENOMEM, "");
	manifest->mailbox = options->mailbox;
	manifest->bell = memory_zalloc(sizeof(*manifest->bell));
	manifest->path = memory_strdup(options->path);
	if (!manifest->bell || !manifest->path) {
		parts_free(manifest);
		return why_status(&place, -ENOMEM, "");
	}
	manifest->bell->manifest = manifest;
	status = parts_make(manifest, &place, options);
	if (status) {
		parts_free(manifest);
		return status;
	}
	*out = manifest;
	return 0;
}

/* ------------------------------------------------------------------------------------- reading */

int manifest_each(struct manifest *manifest, const void *prefix, size_t prefix_bytes,
	manifest_visit *visit, void *arg)
{
	rocksdb_readoptions_t *options = rocksdb_readoptions_create();
	rocksdb_iterator_t *row;
	char text[384], *error = NULL;
	int status = 0, fault;

	/* Each row is read once: the cache is for what comes again. */
	rocksdb_readoptions_set_fill_cache(options, 0);
	row = rocksdb_create_iterator(manifest->db, options);
	rocksdb_iter_seek(row, prefix_bytes ? prefix : "", prefix_bytes);
	for (; !status && rocksdb_iter_valid(row); rocksdb_iter_next(row)) {
		size_t key_bytes, value_bytes;
		const char *key = rocksdb_iter_key(row, &key_bytes);
		const char *value = rocksdb_iter_value(row, &value_bytes);

		if (key_bytes < prefix_bytes || (prefix_bytes && memcmp(key, prefix, prefix_bytes)))
			break;
		status = visit(arg, key, key_bytes, value, value_bytes);
		status = MIN_OF(status, 0);
	}
	rocksdb_iter_get_error(row, &error);
	fault = rocks_take(error, text, sizeof(text));
	if (fault) {
		log_error("manifest", "rows cannot be read: %s", text);
		status = fault == -EBADMSG ? fault : -EIO;
	}
	rocksdb_iter_destroy(row);
	rocksdb_readoptions_destroy(options);
	return status;
}

/* ---------------------------------------------------------------------------------- the ledger */

static void batches_reap(struct manifest *manifest);

/* Runs on the keeper's thread. */
static void bell_answer(void *argument)
{
	struct bell *bell = *(struct bell **)argument;

	if (!bell->manifest) {
		memory_free(bell);
		return;
	}
	/* Before looking at `written`: what is written later rings again (bell_ring). */
	atomic_exchange_explicit(&bell->told, false, memory_order_acq_rel);
	batches_reap(bell->manifest);
}

/* The ledger: has the keeper look. A full mailbox empties by itself unless the keeper closes. */
static void bell_ring(struct manifest *manifest)
{
	struct bell *bell = manifest->bell;

	/* Pairs with bell_answer: who finds it set is sure of a look that comes after `written`. */
	if (atomic_exchange_explicit(&bell->told, true, memory_order_acq_rel))
		return;
	while (mailbox_post(manifest->mailbox, bell_answer, &bell, sizeof(bell))) {
		if (atomic_load_explicit(&manifest->closing, memory_order_acquire)) {
			atomic_store_explicit(&bell->told, false, memory_order_release);
			return;
		}
		usleep(FULL_WAIT_US);
	}
}

static int batch_write(struct manifest *manifest, const struct batch *batch)
{
	char text[384], *error = NULL;
	int status;

	if (batch->count)
		rocksdb_write(manifest->db, batch->durable ? manifest->synced : manifest->lazy,
			batch->rows, &error);
	else if (batch->durable)
		rocksdb_flush_wal(manifest->db, 1, &error);
	status = rocks_take(error, text, sizeof(text));
	if (!status)
		return 0;
	log_error("manifest",
		"cannot be written, and is not from here on; what is held stays, a restart forgets "
		"what died since: %s",
		text);
	return status;
}

struct ledger_job {
	struct manifest *manifest;
	uint64_t number; /* of the batch */
};

static void ledger_batch(void *argument)
{
	const struct ledger_job *job = argument;
	struct manifest *manifest = job->manifest;
	struct batch *batch = &manifest->slots[job->number % SLOTS];

	SKEP_CHECK(atomic_load_explicit(&manifest->written, memory_order_relaxed) == job->number);
	if (!manifest->failed)
		manifest->failed = batch_write(manifest, batch);
	batch->status = manifest->failed;
	if (batch->status)
		atomic_fetch_add_explicit(&manifest->errors, 1, memory_order_relaxed);
	else
		atomic_fetch_add_explicit(&manifest->batches, 1, memory_order_relaxed);
	memory_measure(manifest);
	/* Pairs with batches_reap: with it, the slot is the keeper's again. */
	atomic_store_explicit(&manifest->written, job->number + 1, memory_order_release);
	bell_ring(manifest);
}

static void ledger_measure(void *argument)
{
	struct manifest *manifest = ((struct ledger_job *)argument)->manifest;

	memory_measure(manifest);
	atomic_store_explicit(&manifest->measuring, false, memory_order_release);
}

/* --------------------------------------------------------------------------- the keeper's side */

static void batch_clear(struct batch *batch)
{
	if (batch->bytes > BATCH_KEPT_BYTES) {
		rocksdb_writebatch_destroy(batch->rows);
		batch->rows = rocksdb_writebatch_create();
	} else {
		rocksdb_writebatch_clear(batch->rows);
	}
	batch->count = batch->bytes = 0;
	batch->done = NULL;
	batch->durable = false;
}

/* Calls the done() of what was written. They may gather and commit. */
static void batches_reap(struct manifest *manifest)
{
	/* Pairs with ledger_batch. */
	while (manifest->reaped < atomic_load_explicit(&manifest->written, memory_order_acquire)) {
		struct batch *batch = &manifest->slots[manifest->reaped % SLOTS];
		struct manifest_done *done = batch->done;
		int status = batch->status;

		SKEP_CHECK(manifest->reaped < manifest->committed);
		atomic_fetch_sub_explicit(
			&manifest->rows_waiting, batch->count, memory_order_relaxed);
		SKEP_CHECK(manifest->waiting_bytes >= batch->bytes);
		manifest->waiting_bytes -= batch->bytes;
		batch_clear(batch);
		manifest->reaped++;
		if (done)
			done->done(done, status);
	}
}

/* A place for a row in the batch being gathered, or NULL: it is lost. */
static struct batch *row_begin(struct manifest *manifest, size_t row_bytes)
{
	struct batch *batch = &manifest->slots[manifest->committed % SLOTS];
	uint64_t bytes = row_bytes + ROW_BYTES;

	if (manifest->waiting_bytes + bytes > manifest->waiting_bytes_max || memory_should_fail()) {
		atomic_fetch_add_explicit(&manifest->errors, 1, memory_order_relaxed);
		return NULL;
	}
	manifest->waiting_bytes += bytes;
	batch->bytes += bytes;
	batch->count++;
	atomic_fetch_add_explicit(&manifest->rows_waiting, 1, memory_order_relaxed);
	return batch;
}

int manifest_put(struct manifest *manifest, const void *key, size_t key_bytes, const void *value,
	size_t value_bytes)
{
	struct batch *batch = row_begin(manifest, key_bytes + value_bytes);

	if (!batch)
		return -ENOMEM;
	rocksdb_writebatch_put(batch->rows, key, key_bytes, value, value_bytes);
	return 0;
}

int manifest_delete(struct manifest *manifest, const void *key, size_t key_bytes)
{
	struct batch *batch = row_begin(manifest, key_bytes);

	if (!batch)
		return -ENOMEM;
	rocksdb_writebatch_delete(batch->rows, key, key_bytes);
	return 0;
}

int manifest_delete_range(struct manifest *manifest, const void *from, const void *to, size_t bytes)
{
	struct batch *batch = row_begin(manifest, 2 * bytes);

	if (!batch)
		return -ENOMEM;
	rocksdb_writebatch_delete_range(batch->rows, from, bytes, to, bytes);
	return 0;
}

int manifest_commit(struct manifest *manifest, bool durable, struct manifest_done *done)
{
	struct batch *batch = &manifest->slots[manifest->committed % SLOTS];
	struct ledger_job job = {manifest, manifest->committed};

	/* The thread ends: whoever is told so by a done() commits nothing more. */
	if (atomic_load_explicit(&manifest->closing, memory_order_relaxed))
		return -ESHUTDOWN;
	if (manifest->committed - manifest->reaped >= UNDER_WAY_MAX)
		return -EAGAIN;
	batch->durable = durable;
	batch->done = done;
	/* The queue has room for all that can be under way. */
	SKEP_CHECK(workers_post(manifest->ledger, ledger_batch, &job, sizeof(job)) == 0);
	manifest->committed++;
	return 0;
}

void manifest_status_get(struct manifest *manifest, struct manifest_status *status)
{
	struct ledger_job job = {.manifest = manifest};

	status->memory_bytes = atomic_load_explicit(&manifest->memory_bytes, memory_order_relaxed);
	status->rows_waiting = atomic_load_explicit(&manifest->rows_waiting, memory_order_relaxed);
	status->batches = atomic_load_explicit(&manifest->batches, memory_order_relaxed);
	status->errors = atomic_load_explicit(&manifest->errors, memory_order_relaxed);
	/* RocksDB takes a lock to count: the ledger does it, for the next who asks. */
	if (!atomic_exchange_explicit(&manifest->measuring, true, memory_order_acquire) &&
		workers_post(manifest->ledger, ledger_measure, &job, sizeof(job)))
		atomic_store_explicit(&manifest->measuring, false, memory_order_relaxed);
}

void manifest_close(struct manifest *manifest)
{
	char text[384], *error = NULL;
	int status;

	if (!manifest || !manifest->ledger) { /* read alone: nothing was written */
		if (manifest)
			parts_free(manifest);
		return;
	}
	/* Pairs with bell_ring: what is done from here on is told below. */
	atomic_store_explicit(&manifest->closing, true, memory_order_release);
	workers_destroy(manifest->ledger);
	batches_reap(manifest);
	SKEP_CHECK(manifest->reaped == manifest->committed);
	if (!manifest->failed) {
		rocksdb_flush_wal(manifest->db, 1, &error);
		manifest->failed = rocks_take(error, text, sizeof(text));
		if (manifest->failed)
			log_error("manifest", "the last rows may not last: %s", text);
	}
	rocksdb_memory_consumers_destroy(manifest->consumers);
	rocksdb_close(manifest->db);
	manifest->consumers = NULL;
	manifest->db = NULL;
	status = manifest->failed ? 0 : seal_write(manifest->path);
	if (status)
		log_warn("manifest", "%s was not sealed: damage to it may not be seen: %s",
			manifest->path, status_text(status));
	/* A message that still lies in the mailbox frees it. */
	if (atomic_load_explicit(&manifest->bell->told, memory_order_acquire)) {
		manifest->bell->manifest = NULL;
		manifest->bell = NULL;
	}
	parts_free(manifest);
}
