/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TIERING_SSD_SSD_H
#define SKEP_TIERING_SSD_SSD_H

/*
 * The SSD tier of a node: devices cut into segments, and one log a realm (a quota of segments).
 *
 * A record is some bytes and an opaque label. Records are written one behind the other into the
 * log's open segment, straight from the caller's memory; their labels are gathered in memory and
 * written as tables, which grow down from the segment's end as the payloads grow up (docs/formats/
 * ssd.md). A record can be read from the moment its put is done; it is *durable* once its table is
 * written and the device flushed.
 *
 * The log knows no order of use: the owner decides what is dropped (ssd_drop). When segments run
 * short the log chooses the one with the fewest live units and asks the owner (tier.h) to drop or
 * move what lives in it; it keeps a reserve of free segments so that puts do not wait for that.
 *
 * An address (`at`) is a number of units of 4 KiB, counted over all segments: segment =
 * at / units_per_segment. A record never crosses a segment.
 *
 * One thread (the keeper) calls everything here; nothing blocks but what says so; nothing allocates
 * after ssd_create(), ssd_log_open() and ssd_recover(). The owner, the ledger's dead() aside, and
 * every done() are called from completions, ssd_kick(), ssd_tick() and ssd_recover_end() alone,
 * never from inside ssd_put(), ssd_move(), ssd_get(), ssd_sync() or ssd_drop(); from a callback all
 * of these may be called.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/list.h"
#include "tiering/ssd/io.h"
#include "tiering/tier.h"

enum {
	SSD_LABEL_MAX = 16384,
	SSD_NAME_MAX = 64,
	SSD_LOGS_MAX = 64,
	SSD_MERGE_BYTES = 1 << 20, /* neighbouring records travel in one request up to this */
	SSD_GET_PIECES_MAX = 4096,
	SSD_RECOVER_THREADS_MAX = 8,
};

#define SSD_NONE UINT32_MAX

struct ssd;
struct ssd_log;

/* Remembers what tables cannot: records that died while their segment lives on. */
struct ssd_ledger {
	void *arg;
	/* The record that began at @unit of the segment with this sequence number is dead. */
	void (*dead)(void *arg, uint64_t sequence, uint32_t unit);
	/*
	 * The tables of that segment cannot be found any more: its rows may go. That is later than
	 * the death of its last record: when the segment's next life is on the device for good.
	 */
	void (*freed)(void *arg, uint64_t sequence);
	/* Asked during ssd_recover(). */
	bool (*is_dead)(void *arg, uint64_t sequence, uint32_t unit);
};

struct ssd_options {
	struct ssd_io *io;
	/* A power of two, 1 MiB to 1 GiB; 0 = chosen by the size. Devices that were stamped before
	 * keep theirs. */
	uint64_t segment_bytes;
	const struct ssd_ledger *ledger; /* may be NULL: every record of a table counts as live */
	uint64_t flush_ns;   /* a table is written at the latest so long after a put; 0 = 1 s */
	unsigned errors_max; /* failed transfers in a row until a device is fenced; 0 = 8 */
	/*
	 * The wear budget: what may be written on average, 0 = any amount. An hour's share can be
	 * saved up. Where it is spent ssd_put() answers -EAGAIN until some of it has come back;
	 * moves and tables are written all the same, and counted.
	 */
	uint64_t wear_bytes_per_day;
	/* That read tables at the start, ours and the caller's, 0 = 1; read_now() of @io is called
	 * by all of them at once. */
	unsigned recover_threads;
	/* For ssd_survey() alone: no device is stamped, nothing is ever written. */
	bool survey;
};

/*
 * Reads the devices' headers, or stamps new devices (blocks). @why says cause and fix in one line.
 * Return: 0; -EINVAL (a device is too small), -EMEDIUMTYPE (a header of an unknown version),
 * -ENOTEMPTY (something else is on a device; nothing is touched in either case), -EXDEV (devices
 * that do not belong together, or one is missing), -ENODATA (for a survey: they are new), -EIO,
 * -ENOMEM.
 */
int ssd_create(const struct ssd_options *options, struct ssd **out, char *why, size_t why_bytes);

/* Nothing may be under way (ssd_idle()). NULL is nothing. */
void ssd_destroy(struct ssd *ssd);

/*
 * Opens the log called @name with room for @bytes (segments and head-room included); before
 * ssd_recover(). @owner is copied. A log has 8 segments at least, and the last one takes what the
 * headers and the ends of devices leave. Return: 0, -ENOSPC (the devices are smaller than all logs
 * together, or too many logs), -ENOMEM, -EEXIST, -EINVAL (@name is empty or longer than
 * SSD_NAME_MAX - 1).
 */
int ssd_log_open(struct ssd *ssd, const char *name, uint64_t bytes, const struct tier_owner *owner,
	struct ssd_log **out);

/*
 * Live bytes that a log may hold so that segments can always be had (head-room and tables taken
 * off), and the reverse: the bytes of a log, alone on one device, that can hold @live_bytes. Each
 * further device may cost one more segment. A set of devices has less than 2^32 units (16 TiB);
 * what is beyond is not used.
 */
uint64_t ssd_live_max(const struct ssd_log *log);
uint64_t ssd_bytes_for(uint64_t live_bytes);

/* ------------------------------------------------------------------------------ recovery */

/* A record found in a table; pointers are good until ssd_recover_end(). */
struct ssd_found {
	struct ssd_log *log;
	uint32_t at, units;
	uint64_t sequence; /* of its segment: of two records with one label the higher is newer */
	const void *label;
	uint32_t label_bytes;
};

/*
 * Reads the tables of all segments (blocks). To be called once, on new devices too. @found is an
 * array of all records that were not called dead, in ascending order of sequence and of place. The
 * owner calls ssd_keep() for those it wants; what it does not keep is dead, and the ledger is told
 * in ssd_recover_end(). A damaged table loses its records and those of the tables after it in its
 * segment, and is counted. Return: count, -EIO (no device can be read), -ENOMEM.
 */
int64_t ssd_recover(struct ssd *ssd, const struct ssd_found **found);
void ssd_keep(struct ssd *ssd, const struct ssd_found *found);
/* Segments in which nothing was kept become free; the log may be used from now on. */
void ssd_recover_end(struct ssd *ssd);

/* ---------------------------------------------------------------------------------- survey */

/* A segment as it lies on its device. */
struct ssd_seen {
	uint64_t sequence; /* 0: it has no opening, so it is free */
	char log[SSD_NAME_MAX];
	uint32_t device, slot; /* device: which one of the set; slot: segment of the device */
	uint32_t tables, records;
	/* 0; -EBADMSG: the table that follows these is damaged, and what it and those behind it
	 * say is lost (with no opening: of all of them); -EIO: it cannot be read. */
	int status;
};

struct ssd_survey {
	uint8_t set[16]; /* the set's id, as in the headers */
	uint64_t segment_bytes;
	uint32_t segment_units, segment_count;
	const struct ssd_seen *segments;
	/* All records of all logs, in ascending order of sequence and of place; @log is NULL: the
	 * segment, at / segment_units, knows its name. */
	const struct ssd_found *found;
	int64_t count;
};

/*
 * What lies on the devices, for who looks at them without serving from them; of options.survey
 * alone, once; blocks. It does as ssd_recover() does, over all logs, and changes nothing. @out is
 * good until ssd_destroy(). Return: 0, -EIO (no device can be read), -ENOMEM.
 */
int ssd_survey(struct ssd *ssd, struct ssd_survey *out);

/* Bytes of a record that was found, or of a part of it; blocks. @to: whole units, aligned. Return:
 * 0 or a negative errno. */
int ssd_survey_read(struct ssd *ssd, uint32_t at, void *to, uint32_t units);

/* -------------------------------------------------------------------------------- records */

/* A record on its way in; the caller's memory until @done. */
struct ssd_put {
	const struct iovec *pieces; /* each a multiple of SSD_UNIT_BYTES, aligned to it */
	uint32_t piece_count;	    /* 1 to SSD_PIECES_MAX */
	const void *label;	    /* read during the call alone */
	uint32_t label_bytes;
	uint32_t at, units; /* out, at once */
	/* Once: 0, the bytes can be read from @at and the pieces used again; else a negative errno,
	 * and nothing was put (no ssd_drop()). */
	void (*done)(struct ssd_put *put, int status);
};

/*
 * Appends a record. The pieces themselves (not the array of them) stay the log's until @done.
 * Return: 0; -EAGAIN (too much is under way: room() tells), -ENOSPC (no free
 * segment: room() tells), -EFBIG (no segment holds it), -E2BIG (the label), -EROFS (fenced).
 */
int ssd_put(struct ssd_log *log, struct ssd_put *put);

/*
 * Moves a live record to the log's open segment, through a buffer of the tier; its bytes are not
 * looked at. @put->pieces is not used. The old place counts as live until the owner drops it, which
 * it does in @done; it is not written over before the new one is durable. As ssd_put(), and -EIO
 * where the record lies on a fenced device.
 */
int ssd_move(struct ssd_log *log, uint32_t from, uint32_t units, struct ssd_put *put);

/* The record at @at is dead. Reads of it that are under way still finish with its bytes. */
void ssd_drop(struct ssd_log *log, uint32_t at, uint32_t units);

/* Bytes on their way out; the caller's memory until @done. */
struct ssd_get {
	uint32_t at;	      /* first unit wanted: of a record, or inside it */
	uint32_t piece_count; /* 1 to SSD_GET_PIECES_MAX; each as those of a put */
	const struct iovec *pieces;
	/* On the I/O thread once the bytes are there; may be NULL. Return: 0, or negative for
	 * @done. */
	int (*check)(struct ssd_get *get);
	void (*done)(struct ssd_get *get, int status);
	/* The log's own. */
	struct list link;
	int32_t status;
	uint32_t parts;		 /* requests that have not come back (the log's thread) */
	_Atomic uint32_t unread; /* requests whose bytes have not come (I/O threads) */
};

/* Return: 0, -EAGAIN (too much is under way: room() tells), -EIO (its device is fenced). */
int ssd_get(struct ssd_log *log, struct ssd_get *get);

/* Sends what puts and gets have gathered (neighbours in one request). After each round. */
void ssd_kick(struct ssd *ssd);

/* ------------------------------------------------------------------------------ durability */

/*
 * Everything put before the call (done or under way) is durable, or is told why not: -EIO where
 * records that were put cannot be made durable. A put that failed was told by its own done().
 */
struct ssd_sync {
	void (*done)(struct ssd_sync *sync, int status);
	/* The log's own. */
	struct list link;
	uint64_t put_count;
	int32_t status;
};
void ssd_sync(struct ssd_log *log, struct ssd_sync *sync);

/* Ages: tables that are due, segments to be freed or reclaimed. Return: when it must run again. */
uint64_t ssd_tick(struct ssd *ssd, uint64_t now_ns);

/* Nothing is under way. Labels that wait for a table do not count: ssd_sync() before the end. */
bool ssd_idle(const struct ssd *ssd);

/* A device whose transfers fail is fenced: nothing more is written there, what is there is lost().
 * unfence: its segments are free again. */
bool ssd_device_fenced(const struct ssd *ssd, unsigned device);
int ssd_device_unfence(struct ssd *ssd, unsigned device);

/* -------------------------------------------------------------------------------- insight */

/* Are there too few free segments for reclaim to begin? After ssd_recover_end(): without a ledger
 * segments that had been free may come back with records in them. */
bool ssd_log_crowded(const struct ssd_log *log);

struct ssd_log_status {
	char name[SSD_NAME_MAX];
	uint64_t bytes, live_bytes, live_max;
	uint32_t segments, segments_free, segments_max; /* free: that it may still take */
	uint64_t put_bytes, moved_bytes, table_bytes;	/* written since the start */
	uint64_t puts, puts_durable;			/* records, since the start */
};
void ssd_log_status_get(const struct ssd_log *log, struct ssd_log_status *status);

struct ssd_status {
	uint64_t segment_bytes;
	uint32_t segments, segments_free;
	unsigned devices, devices_fenced;
	uint64_t tables_damaged; /* found by ssd_recover() */
	uint64_t read_errors, write_errors;
	uint64_t moves_given_up;  /* whose old place went before the new one was durable */
	uint64_t wear_left_bytes; /* that may be written now; without a budget 0 */
	uint64_t wear_waits;	  /* puts that were told to wait for it */
	unsigned in_flight;
};
void ssd_status_get(const struct ssd *ssd, struct ssd_status *status);

#endif
