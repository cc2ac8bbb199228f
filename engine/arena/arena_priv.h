/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_ENGINE_ARENA_PRIV_H
#define SKEP_ENGINE_ARENA_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "engine/arena/arena.h"

#define NONE UINT32_MAX

/*
 * One lock guards the books; it is never held over a call to the device that maps, creates or
 * waits. Such a call works on one sequence, which is `busy` meanwhile, or on a page that is on no
 * list. Fields say who may touch them: [owner] the owner thread alone; [lock] under the lock;
 * [lock, read] written under it, read by the owner without.
 */
enum { FENCES = 64 };

/*
 * A page is in one of four places: not created (handle NULL, on `blank`), unused (on `unused`),
 * waiting for its fence (on `fenced`), or held (refs > 0).
 */
struct page {
	struct gpu_page *handle;
	uint32_t refs;
	uint32_t next; /* of its list */
	uint64_t fence;
	uint64_t fill; /* scratch of arena_usage_get */
	uint8_t seen;  /* the same */
	bool used;     /* has been held before */
};

struct page_list {
	uint32_t head, tail, count;
};

enum sequence_state { SEQUENCE_FREE, SEQUENCE_OPEN, SEQUENCE_CLOSING };

/*
 * pages[0, filled) hold references; of these [0, mapped) stand in the range (ARENA_PAGED: all).
 * filled > mapped + 1 only after attach and fork. Pages from `keep` on have been dropped: they stay
 * as they are until `keep_fence` has passed, then they are taken away, and only then can pages be
 * placed there again. Pages from `lazy` on are shared and about to be written: they are copied
 * before they are mapped.
 */
struct arena_sequence {
	struct arena *arena;
	uint64_t base;
	uint32_t *pages;  /* [lock] */
	struct list node; /* [lock] in `todo` or `empty`, or alone */

	enum arena_form form;	   /* [owner] */
	uint32_t shared_to;	   /* [owner] pages from here on are held by this sequence alone */
	bool exchanged;		   /* [owner] a page of its tokens changed since the last extend */
	uint32_t asked;		   /* [owner] the want that was last posted */
	_Atomic uint32_t tokens;   /* [owner] written; read by arena_usage_get */
	enum sequence_state state; /* [lock] */
	bool busy;		   /* [lock] the mapper works on it, the lock let go */
	bool waiting;		   /* [lock] the owner waits for it */
	int failed;		   /* [lock] what stopped the mapper; cleared by the next call */
	uint32_t want;		   /* [lock] pages to have placed */
	uint32_t filled;	   /* [lock] */
	uint32_t lazy;		   /* [lock] */
	uint64_t keep_fence;	   /* [lock] */
	_Atomic uint32_t mapped;   /* [lock, read] */
	_Atomic uint32_t keep;	   /* [lock, read] NONE: nothing dropped. Cleared after `mapped` */
};

struct arena {
	/* Set by arena_create alone. */
	struct gpu *gpu;
	struct gpu_stream *stream;
	struct arena_options options;
	struct arena_geometry geometry;
	uint64_t ranges_at, ranges_bytes, window_at, window_bytes;
	struct gpu_event *events[FENCES];
	struct page *pages;
	uint32_t *sequence_pages;
	struct arena_sequence *sequences;
	pthread_t thread;
	bool threaded;

	pthread_mutex_t lock;
	pthread_cond_t work; /* the mapper has something to do */
	pthread_cond_t done; /* the mapper did something that somebody waits for */
	bool stop;
	bool idle;	   /* the mapper found nothing to do since it was last told to look */
	bool awaited;	   /* the owner waits for `done` */
	bool spare_failed; /* no further spare page until a page is taken or given */
	struct page_list blank, unused, fenced;
	struct list todo;  /* sequences with something to place or to take away */
	struct list empty; /* free sequences */
	uint32_t open, closing;
	uint32_t dropped; /* sequences whose `keep` is set */
	uint64_t fence_last, fence_passed;
	struct arena_counters counters;
};

/* pool.c; all but pool_close are called with the lock held, and hold it when they return. Those
 * with `lock let go` in their comment let it go in between. */
int pool_open(struct arena *arena);
void pool_close(struct arena *arena);

/* Takes a page for one holder: an unused one, else a new one (lock let go). -ENOMEM, -EAGAIN. */
int page_take(struct arena *arena, uint32_t *page);
void page_get(struct arena *arena, uint32_t page);
/* Gives up one reference; the last one's page is unused once @fence has passed. */
void page_put(struct arena *arena, uint32_t page, uint64_t fence);
/* Creates one unused page (lock let go). */
int page_create(struct arena *arena);
uint64_t page_at(const struct arena *arena, uint32_t page);
/* Copies @count pages side by side in the window, in the stream; does not wait. */
int page_copy(struct arena *arena, uint32_t to, uint32_t from, uint32_t count);

bool fence_passed(struct arena *arena, uint64_t fence);
/* A fence of the arena's own for all that was submitted so far (lock let go). */
int fence_take(struct arena *arena, uint64_t *fence);
/* Waits for it (lock let go). */
int fence_sync(struct arena *arena, uint64_t fence);
/* Looks which fences passed, and moves pages that waited for them to the unused ones. */
void fences_poll(struct arena *arena);

/* mapper.c; lock held, and let go in between unless said otherwise. */
/* Does one thing for one sequence, or creates a spare page; false where nothing can be done now. */
bool mapper_step(struct arena *arena);
/* There is something to do for the sequence; before all others if @urgent. Lock not let go. */
void mapper_queue(struct arena_sequence *sequence, bool urgent);
/* The mapper shall look again. Lock not let go. */
void mapper_wake(struct arena *arena);
/* Lets the mapper do something, or does it in its place, or waits for a fence. -EAGAIN where
 * there is nothing that could be done or waited for. */
int mapper_wait(struct arena *arena);
/* Whether something waits for a fence. Lock not let go. */
bool mapper_fenced(const struct arena *arena);
/* Returns when no device call is under way for the sequence. */
void mapper_leave(struct arena_sequence *sequence);
/* Called without the lock. */
int mapper_start(struct arena *arena);
void mapper_stop(struct arena *arena);

/* share.c: gives the sequence pages of its own in [from, to) (lock held, let go in between). */
int share_split(struct arena_sequence *sequence, uint32_t from, uint32_t to);

/* geometry.c */
uint32_t geometry_pages(const struct arena_geometry *geometry, uint32_t tokens);
/* The first page that a token written at @tokens touches. */
uint32_t geometry_written(const struct arena_geometry *geometry, uint32_t tokens);
/* Bytes of the first @tokens tokens that lie in page @index. */
uint64_t geometry_fill(const struct arena_geometry *geometry, uint32_t index, uint32_t tokens);

static inline struct arena_sequence *sequence_of(struct list *node)
{
	return list_item(node, struct arena_sequence, node);
}

static inline uint32_t sequence_mapped(const struct arena_sequence *sequence)
{
	return atomic_load_explicit(&sequence->mapped, memory_order_acquire);
}

static inline uint32_t sequence_keep(const struct arena_sequence *sequence)
{
	return atomic_load_explicit(&sequence->keep, memory_order_acquire);
}

static inline uint32_t sequence_tokens(const struct arena_sequence *sequence)
{
	return atomic_load_explicit(&sequence->tokens, memory_order_relaxed);
}

#endif
