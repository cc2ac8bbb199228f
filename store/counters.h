/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_COUNTERS_H
#define SKEP_STORE_COUNTERS_H

/*
 * What the keeper counts, one table: name, help. Metrics page, `skep status`, `skep top` and the
 * documents print from it. All of a realm count only what that realm did.
 */
#define REALM_COUNTER_TABLE(X)                                                                     \
	X(matches, "matches counted (peeks are not)")                                              \
	X(blocks_asked, "blocks asked for in matches")                                             \
	X(blocks_had, "blocks had in matches")                                                     \
	X(tokens_asked, "tokens asked for in matches")                                             \
	X(tokens_had, "tokens had in matches")                                                     \
	X(parts_reserved, "parts reserved")                                                        \
	X(parts_committed, "parts committed")                                                      \
	X(parts_aborted, "parts given back unwritten")                                             \
	X(parts_stale, "late commits told -ESTALE")                                                \
	X(parts_existing, "parts asked for that were there or being written")                      \
	X(puts_refused, "parts refused: everything pinned or pending")                             \
	X(puts_waited, "reservations that waited for a frame")                                     \
	X(orphans_refused, "blocks refused because their parent was missing")                      \
	X(blocks_published, "blocks made visible")                                                 \
	X(blocks_evicted, "blocks evicted for want of room")                                       \
	X(blocks_removed, "blocks removed by command")                                             \
	X(blocks_given_up, "pending blocks whose writer gave up")                                  \
	X(blocks_quarantined, "blocks removed for a wrong checksum")                               \
	X(bytes_committed, "bytes committed")                                                      \
	X(blocks_written, "blocks written to the ssd")                                             \
	X(blocks_demoted, "blocks that left DRAM and stay on the ssd")                             \
	X(blocks_promoted, "blocks loaded from the ssd into DRAM")                                 \
	X(blocks_shed, "blocks evicted before they were written: no room and no time")             \
	X(blocks_moved, "blocks moved on the ssd so that a segment could be reused")               \
	X(blocks_recovered, "blocks found on the ssd at the start")                                \
	X(blocks_lost, "blocks whose record was lost with a device")                               \
	X(blocks_had_ssd, "blocks had in matches from the ssd")                                    \
	X(blocks_had_hbm, "blocks that sessions had from GPU memory of their own")                 \
	X(blocks_announced, "blocks announced in the GPU memory of a session")                     \
	X(announces_refused, "blocks not announced: too many are, or no slot is free")             \
	X(hbm_asks, "blocks that sessions were asked to put out of their GPU memory")              \
	X(hbm_declined, "blocks that a session was asked for and would not put")                   \
	X(loads, "runs asked to be loaded from the ssd")                                           \
	X(loads_short, "loads that brought less than was asked")                                   \
	X(ssd_write_errors, "records that could not be written to the ssd")                        \
	X(ssd_read_errors, "blocks that could not be read from the ssd")                           \
	X(evictions_withdrawn, "victims published again because a pin came in between")            \
	X(slabs_emptied, "slabs emptied to change their frame size")                               \
	X(waits, "waits for a pending block")                                                      \
	X(touches_late, "match records whose block had left before they were read")                \
	X(sessions_opened, "sessions opened")                                                      \
	X(sessions_broken, "sessions ended for a malformed message")                               \
	X(sessions_died, "sessions whose process ended without a goodbye")

#define NODE_COUNTER_TABLE(X)                                                                      \
	X(hellos_refused, "sessions refused: realm, token, version or limits")                     \
	X(submissions, "messages taken from session rings")                                        \
	X(wakes, "times the keeper was woken from sleep")                                          \
	X(keeper_busy_ns, "nanoseconds in which the keeper handled work")                          \
	X(keeper_wall_ns, "nanoseconds since the keeper started")

enum realm_counter {
#define X(name, help) REALM_COUNTER_##name,
	REALM_COUNTER_TABLE(X)
#undef X
		REALM_COUNTER_COUNT
};

enum node_counter {
#define X(name, help) NODE_COUNTER_##name,
	NODE_COUNTER_TABLE(X)
#undef X
		NODE_COUNTER_COUNT
};

/* Latencies the keeper measures, in nanoseconds, of each realm. */
#define REALM_LATENCY_TABLE(X)                                                                     \
	X(reserve, "handling of a reservation, waiting excluded")                                  \
	X(commit, "handling of a commit")                                                          \
	X(frame_wait, "waiting of a reservation for a frame")                                      \
	X(evict, "one batch of evictions")                                                         \
	X(load, "a load, from its request to its answer")

enum realm_latency {
#define X(name, help) REALM_LATENCY_##name,
	REALM_LATENCY_TABLE(X)
#undef X
		REALM_LATENCY_COUNT
};

#endif
