/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEPD_METRICS_H
#define SKEP_TOOLS_SKEPD_METRICS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "store/node.h"

/*
 * What a node counts, as the metrics page shows it. Everything is printed from the tables of
 * store/counters.h and base/status.h and from REALM_GAUGE_TABLE, so that a new counter needs no
 * line here.
 */

/* Gauges of a realm: fields of struct realm_status. */
#define REALM_GAUGE_TABLE(X)                                                                       \
	X(dram_bytes, "size of the pool in bytes")                                                 \
	X(dram_ready_bytes, "bytes of the pool that are populated and offered")                    \
	X(dram_use_max, "quota of bytes in frames")                                                \
	X(dram_used_bytes, "bytes in frames, pending ones included")                               \
	X(dram_slab_bytes, "bytes of the pool that belong to slabs")                               \
	X(slots, "blocks that the index has room for")                                             \
	X(slots_used, "slots of the index in use")                                                 \
	X(record_bytes, "size of the heap for tokens, keys and sums in bytes")                     \
	X(record_used_bytes, "bytes of that heap in use")                                          \
	X(index_bytes, "memory of the index in bytes")                                             \
	X(blocks_present, "blocks that can be matched")                                            \
	X(blocks_pending, "blocks being written")                                                  \
	X(blocks_empty, "blocks without bytes, kept for their children")                           \
	X(blocks_removed, "removed blocks whose frames wait for a pin to end")                     \
	X(ssd_bytes, "size of the realm's share of the ssd tier in bytes")                         \
	X(ssd_live_bytes, "bytes of records that are live there")                                  \
	X(ssd_live_max, "most live bytes that it may hold")                                        \
	X(ssd_segments, "segments of the ssd that the realm holds")                                \
	X(ssd_segments_free, "segments that it may still take")                                    \
	X(ssd_put_bytes, "bytes of new records written to the ssd since the start")                \
	X(ssd_moved_bytes,                                                                         \
		"bytes moved on the ssd since the start, so that segments could be reused")        \
	X(ssd_table_bytes, "bytes of tables written to the ssd since the start")                   \
	X(blocks_ssd, "blocks that have a record on the ssd")                                      \
	X(blocks_unwritten, "blocks in DRAM whose record is not written yet")                      \
	X(loads_live, "loads under way")                                                           \
	X(blocks_hbm, "blocks in the GPU memory of sessions and nowhere else")                     \
	X(hbm_blocks, "blocks that sessions announced in their GPU memory")                        \
	X(hbm_max, "most blocks that they may announce")                                           \
	X(hbm_bytes, "bytes of the announced blocks")                                              \
	X(reservations, "parts reserved and not committed yet")                                    \
	X(waiters, "waits for pending blocks under way")                                           \
	X(pins, "pins held by sessions")                                                           \
	X(operator_pins, "blocks pinned by command")                                               \
	X(sessions, "sessions open")                                                               \
	X(spaces, "spaces open")

/* Numbers of the node's ssd tier: fields of struct node_ssd_status. X(name, counter, help). */
#define SSD_NUMBER_TABLE(X)                                                                        \
	X(devices, 0, "devices of the ssd tier")                                                   \
	X(devices_fenced, 0, "of these, fenced after repeated errors")                             \
	X(in_flight, 0, "transfers under way")                                                     \
	X(io_fallback, 0,                                                                          \
		"1 where io_uring was wanted and refused: plain reads and writes by threads")      \
	X(segment_bytes, 0, "size of a segment in bytes")                                          \
	X(segments, 0, "segments of all devices")                                                  \
	X(segments_free, 0, "segments that hold nothing")                                          \
	X(wear_bytes_per_day, 0, "bytes a day that may be written on average; 0: any amount")      \
	X(wear_left_bytes, 0, "bytes that may be written now of the wear budget")                  \
	X(wear_waits, 1, "times that a write waited for the wear budget")                          \
	X(unwritten_bytes, 0, "bytes of new files that are not written through yet")               \
	X(tables_damaged, 0, "tables that could not be read at the start")                         \
	X(moves_given_up, 1,                                                                       \
		"durable records that were moved, and were not durable until written again")       \
	X(manifest_rebuilt, 0, "1 where the manifest was lost and made anew from the tables")      \
	X(manifest_bytes, 0, "memory of the manifest's database in bytes")                         \
	X(manifest_rows_waiting, 0, "rows of the manifest not written yet")                        \
	X(manifest_errors, 1, "rows or batches that the manifest lost")                            \
	X(reads, 1, "reads of the devices")                                                        \
	X(writes, 1, "writes to the devices")                                                      \
	X(flushes, 1, "flushes of the devices")                                                    \
	X(read_bytes, 1, "bytes read from the devices")                                            \
	X(written_bytes, 1, "bytes written to the devices")                                        \
	X(errors, 1, "transfers that failed")

/* What a node holds, copied at one time: the node, then each of its realms. */
struct metrics_snapshot {
	struct node_status node;
	unsigned realm_count;
	struct realm_status *realms;
};

/*
 * Asks the keeper for everything (two seconds at most an answer). The caller frees with
 * metrics_drop(), also after an error. Return: 0, -ENOMEM, -ETIMEDOUT.
 */
int metrics_take(struct node *node, struct metrics_snapshot *out);
void metrics_drop(struct metrics_snapshot *snapshot);

/* Adds up gauges, counters, misses and latencies of all realms. @total needs no initial value. */
void metrics_total(const struct metrics_snapshot *snapshot, struct realm_status *total);

/* Tokens had over tokens asked: the one definition of hit ratio. 0 where nothing was asked. */
double metrics_hit_ratio(const struct realm_status *realm);

/* How much of the page is shown. */
enum metrics_scope {
	METRICS_TOTALS, /* sums over all realms, without their names */
	METRICS_REALMS, /* each realm by its label, and the node */
	METRICS_REALM,	/* the first realm of the snapshot alone, nothing of the node */
};

/* Writes Prometheus text (version 0.0.4). Allocates nothing of its own; any thread. */
void metrics_write(const struct metrics_snapshot *snapshot, enum metrics_scope scope, FILE *out);

#endif
