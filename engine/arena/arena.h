/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_ENGINE_ARENA_H
#define SKEP_ENGINE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/gpu.h"

/*
 * A KV arena: the KV of each sequence as one contiguous range of addresses, reserved for the
 * longest context and backed page by page as the sequence grows. Pages are counted: a cached prefix
 * is mapped into any number of sequences, forks share what they have in common, and a page that
 * others see is copied before it is written. All pages of the pool also stand side by side in one
 * *window*, so that paged kernels read the same memory by block tables.
 *
 * Threads. One thread, the owner, makes every call here but arena_usage_get, which any thread may
 * make. A background thread, the mapper, creates pages and maps them ahead of need, and takes away
 * what no work in flight uses any more. All memory of this machine is taken by arena_create.
 *
 * Streams. Copies of the arena go to the one stream given at the start. Work elsewhere that reads
 * or writes a sequence is ordered against that stream by the caller's events. *Fences* number what
 * was submitted to it: whoever lets go of memory says which fence its last use lies before.
 *
 * Aliases. One byte may be seen at several addresses (ranges, window). On a GPU what a launch
 * writes through one address is seen through another by later launches, not by the same one.
 *
 * Errors are those of gpu.h, and: -ENOMEM where the pool is full, -EAGAIN where it is full but a
 * fence will bring pages, -EFBIG past tokens_max. After an error the call may be made again: tokens
 * and bytes are as before; pages may already stand ready beyond them, and others may have left the
 * range until the next arena_extend or arena_sync puts them back.
 */

/*
 * The order inside a block of block_tokens tokens. Blocks follow each other without a gap.
 * ARENA_LAYER_FIRST: layer, K/V, token, head: one run a layer and block.
 * ARENA_TOKEN_FIRST: token, layer, K/V, head: a constant stride from token to token, whatever the
 * block, as unmodified attention kernels want it.
 */
enum arena_order { ARENA_LAYER_FIRST, ARENA_TOKEN_FIRST };

/*
 * ARENA_CONTIGUOUS: the sequence has a range of addresses. ARENA_PAGED: it has none, and is read by
 * block tables alone; nothing is ever mapped for it, so attaching and forking cost counts.
 */
enum arena_form { ARENA_CONTIGUOUS, ARENA_PAGED };

struct arena_shape {
	unsigned layers, heads; /* KV heads */
	uint32_t head_bytes;	/* one head of one token, K or V alone */
	unsigned block_tokens;
	enum arena_order order;
};

struct arena_options {
	struct gpu *gpu;
	struct gpu_stream *stream;
	struct arena_shape shape;
	/*
	 * A multiple of the device's page. 0: as many device pages as a block fills, if it fills
	 * them whole; else one. Blocks smaller than a page share one. Where neither size divides
	 * the other, blocks lie across page ends, and there is no paged form.
	 */
	size_t page_bytes;
	uint32_t pages_max;	/* of the pool */
	uint32_t sequences_max; /* open, or waiting for a fence */
	uint32_t tokens_max;	/* of a sequence */
	uint32_t ahead_tokens;	/* for which pages are kept ready behind each sequence's end */
	uint32_t spare_pages;	/* kept created and unused, while the pool has room */
	bool background; /* false: no mapper; what is needed is done by the call that needs it */
};

/* What follows from the options. Addresses: see arena_at. */
struct arena_geometry {
	uint64_t token_bytes, block_bytes, page_bytes;
	uint64_t range_bytes; /* addresses reserved for a sequence */
	uint32_t range_pages;
	uint32_t page_blocks; /* whole blocks a page; 0: blocks lie across pages, no paged form */
	uint32_t block_tokens;
	/* From one to the next; token_stride is within a block, and throughout if TOKEN_FIRST. */
	uint64_t layer_stride, value_stride /* K to V */, token_stride, head_stride;
};

#define ARENA_COUNTERS(X)                                                                          \
	X(pages_created, "pages taken from the device")                                            \
	X(pages_destroyed, "pages given back to the device")                                       \
	X(pages_recycled, "pages used again without being created")                                \
	X(maps_ahead, "pages mapped before anybody waited for them")                               \
	X(maps_in_time, "pages mapped while a call waited")                                        \
	X(maps_shared, "pages mapped into a sequence that others hold too")                        \
	X(unmaps, "pages taken out of a range")                                                    \
	X(waits, "calls that waited")                                                              \
	X(wait_ns, "time waited")                                                                  \
	X(wait_ns_max, "the longest wait")                                                         \
	X(cow_copies, "pages copied because others hold them too")                                 \
	X(cow_remaps, "of these, exchanged under a range in use")                                  \
	X(attach_copies, "pages copied by arena_attach_copy")                                      \
	X(failures, "calls to the device that failed")

struct arena_counters {
#define X(name, text) uint64_t name;
	ARENA_COUNTERS(X)
#undef X
};

struct arena_usage {
	uint32_t pages;	       /* created */
	uint32_t pages_free;   /* of these, used by nobody and ready */
	uint32_t pages_fenced; /* used by nobody, waiting for a fence */
	uint32_t pages_shared; /* with two or more holders */
	uint32_t pages_held;   /* by arena_hold or arena_take and no sequence */
	uint32_t sequences, sequences_closing;
	/*
	 * Of pages that open sequences hold, each counted once: their bytes, and the bytes of
	 * tokens in them. waste = 1 - token_bytes / mapped_bytes.
	 */
	uint64_t mapped_bytes, token_bytes;
	/* The same as if nothing were shared: what copies would take. */
	uint64_t unshared_bytes;
};

struct arena;
struct arena_sequence;

/* -EINVAL where the options contradict each other or pass 2^32 pages or 2^63 bytes. */
int arena_create(const struct arena_options *options, struct arena **arena);

/* All work of the stream is done. Sequences and pages still held go with it. NULL is allowed. */
void arena_destroy(struct arena *arena);

/* The geometry that options would give on a device with pages of @device_page_bytes. 0, -EINVAL. */
int arena_geometry_of(const struct arena_options *options, size_t device_page_bytes,
	struct arena_geometry *geometry);
const struct arena_geometry *arena_geometry(const struct arena *arena);

/* ------------------------------------------------------------------------------------ sequences */

/* An empty sequence. -ENOSPC: sequences_max are open; -EAGAIN: some of these wait for a fence. */
int arena_open(struct arena *arena, enum arena_form form, struct arena_sequence **sequence);

/*
 * The sequence ends. Its pages and addresses are used again after @fence (0: no work in flight uses
 * them). The handle is void at once.
 */
void arena_free(struct arena_sequence *sequence, uint64_t fence);

/* It will soon have so many tokens (a prompt that waits in the queue): mapped ahead; never
 * waits. */
void arena_expect(struct arena_sequence *sequence, uint32_t tokens);

/*
 * From now on it has @tokens (no fewer than before), all of them mapped, and the caller may submit
 * work that writes those added. Pages which others hold and that the added tokens touch are copied
 * first, in the stream. Waits if the mapper is behind, which is counted. 1: a page of tokens it
 * already had was exchanged since the last call, so block tables must be read again; else 0.
 * A range that work in flight may read keeps its addresses; exchanging a page under it waits for
 * the stream, which happens where a sequence was forked and all forks have their range mapped.
 */
int arena_extend(struct arena_sequence *sequence, uint32_t tokens);

/* Tokens from @tokens on are dropped; their pages are used again after @fence. */
void arena_truncate(struct arena_sequence *sequence, uint32_t tokens, uint64_t fence);

/*
 * A second sequence of the same tokens and form, sharing all pages. Full pages are mapped by the
 * mapper; the partial one is copied when either writes next. Errors of arena_open.
 */
int arena_fork(struct arena_sequence *sequence, struct arena_sequence **child);

/* Waits until all its tokens can be read. arena_extend includes it. */
int arena_sync(struct arena_sequence *sequence);

/* True where arena_extend to @tokens would not wait; else a scheduler may leave it out for a
 * step. */
bool arena_ready(struct arena_sequence *sequence, uint32_t tokens);

uint32_t arena_tokens(const struct arena_sequence *sequence);

/* The range's start; -> 0 where the form is ARENA_PAGED. */
uint64_t arena_base(const struct arena_sequence *sequence);

/*
 * Heads of K (@value 0) or V (1) of one token in one layer, in the range:
 * base + token / block_tokens * block_bytes + token % block_tokens * token_stride
 *	+ layer * layer_stride + value * value_stride
 */
uint64_t arena_at(
	const struct arena_sequence *sequence, uint32_t token, unsigned layer, unsigned value);

/*
 * The block table: entry i of the first @count blocks is the number n of a block in the window, at
 * arena_window() + n * block_bytes. -EINVAL past the pages it has, -ENOTSUP where page_blocks is 0.
 */
int arena_table(struct arena_sequence *sequence, uint32_t count, uint32_t *table);
uint64_t arena_window(const struct arena *arena);

/* ----------------------------------------------------------------------------- prefixes by page */

/*
 * References to the sequence's pages [@from, @from + @count), written to @pages: they stay as they
 * are until arena_release, whatever becomes of the sequence. The tokens in them are written, or
 * their writing has been submitted. -EINVAL past the pages of its tokens.
 */
int arena_hold(struct arena_sequence *sequence, uint32_t from, uint32_t count, uint32_t *pages);

/* One page of nobody's, for bytes that come from elsewhere (a block from DRAM). May wait. */
int arena_take(struct arena *arena, uint32_t *page);

/* Gives references back; the last one's page is used again after @fence. */
void arena_release(struct arena *arena, const uint32_t *pages, uint32_t count, uint64_t fence);

/* Where the page stands in the window. */
uint64_t arena_page_at(const struct arena *arena, uint32_t page);
uint32_t arena_page_holders(struct arena *arena, uint32_t page);

/*
 * Gives a sequence that is as arena_open made it @tokens tokens that lie in @pages, by reference;
 * the caller's own references stay his. @pages are exactly those that @tokens need. -EINVAL.
 */
int arena_attach(
	struct arena_sequence *sequence, const uint32_t *pages, uint32_t count, uint32_t tokens);

/* The same by copies in the stream: nothing is shared. */
int arena_attach_copy(
	struct arena_sequence *sequence, const uint32_t *pages, uint32_t count, uint32_t tokens);

/* Pages that @tokens tokens need. */
uint32_t arena_pages_of(const struct arena *arena, uint32_t tokens);

/* ----------------------------------------------------------------------------- fences, the pool */

/*
 * A number for all that was submitted to the stream so far; one a decode step is usual. -EAGAIN
 * where 64 are not passed yet.
 */
int arena_fence(struct arena *arena, uint64_t *fence);

/* Creates pages until @pages exist (or pages_max), so that the first requests find them. */
int arena_warm(struct arena *arena, uint32_t pages);

/* Gives unused pages back to the device until @pages exist; returns how many went. */
uint32_t arena_shrink(struct arena *arena, uint32_t pages);

/* Waits until the mapper has nothing to do that can be done now. For tests and benches. */
void arena_settle(struct arena *arena);

/* Any thread; walks all pages of all sequences, so not on the data path. */
void arena_usage_get(
	struct arena *arena, struct arena_usage *usage, struct arena_counters *counters);

#endif
