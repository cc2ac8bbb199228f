/* SPDX-License-Identifier: Apache-2.0 */
/* Physical pages, each created once, mapped in the window, counted and used again; and fences. */
#include <errno.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/memory.h"
#include "engine/arena/arena_priv.h"

static void list_push(struct arena *arena, struct page_list *list, uint32_t page)
{
	arena->pages[page].next = list->head;
	list->head = page;
	if (!list->count++)
		list->tail = page;
}

static void list_add_last(struct arena *arena, struct page_list *list, uint32_t page)
{
	arena->pages[page].next = NONE;
	if (list->count++)
		arena->pages[list->tail].next = page;
	else
		list->head = page;
	list->tail = page;
}

static uint32_t list_pop(struct arena *arena, struct page_list *list)
{
	uint32_t page = list->head;

	SKEP_CHECK(list->count > 0);
	list->head = arena->pages[page].next;
	list->count--;
	return page;
}

int pool_open(struct arena *arena)
{
	const struct arena_options *options = &arena->options;
	int status;

	for (uint32_t i = options->pages_max; i-- > 0;)
		list_push(arena, &arena->blank, i);
	for (unsigned i = 0; i < FENCES; i++) {
		status = gpu_event_create(arena->gpu, &arena->events[i]);
		if (status)
			return status;
	}
	arena->window_bytes = options->pages_max * arena->geometry.page_bytes;
	status = gpu_reserve(arena->gpu, arena->window_bytes, &arena->window_at);
	if (status)
		arena->window_bytes = 0;
	return status;
}

/* Back to the device. The page is on no list; it becomes blank. */
static void page_destroy(struct arena *arena, uint32_t page)
{
	struct page *p = &arena->pages[page];

	gpu_unmap(arena->gpu, page_at(arena, page), arena->geometry.page_bytes);
	gpu_page_destroy(arena->gpu, p->handle);
	p->handle = NULL;
	p->used = false;
	list_push(arena, &arena->blank, page);
	arena->counters.pages_destroyed++;
}

/* What pool_open took, however far it came. Mapped nowhere but in the window. */
void pool_close(struct arena *arena)
{
	for (uint32_t i = 0; arena->pages && i < arena->options.pages_max; i++)
		if (arena->pages[i].handle)
			page_destroy(arena, i);
	if (arena->window_bytes)
		gpu_unreserve(arena->gpu, arena->window_at, arena->window_bytes);
	for (unsigned i = 0; i < FENCES; i++)
		if (arena->events[i])
			gpu_event_destroy(arena->events[i]);
}

uint64_t page_at(const struct arena *arena, uint32_t page)
{
	return arena->window_at + page * arena->geometry.page_bytes;
}

int page_create(struct arena *arena)
{
	uint32_t page;
	struct gpu_page *handle;
	int status;

	if (!arena->blank.count)
		return -ENOMEM;
	page = list_pop(arena, &arena->blank);
	pthread_mutex_unlock(&arena->lock);
	status = gpu_page_create(arena->gpu, arena->geometry.page_bytes, &handle);
	if (!status) {
		status = gpu_map(arena->gpu, page_at(arena, page), handle);
		if (status)
			gpu_page_destroy(arena->gpu, handle);
	}
	pthread_mutex_lock(&arena->lock);
	if (status) {
		arena->counters.failures++;
		list_push(arena, &arena->blank, page);
		return status;
	}
	arena->pages[page].handle = handle;
	arena->counters.pages_created++;
	/* New ones last, in the order of the window: what was used lately is taken first. */
	list_add_last(arena, &arena->unused, page);
	return 0;
}

int page_take(struct arena *arena, uint32_t *page)
{
	struct page *p;
	int status;

	if (!arena->unused.count)
		fences_poll(arena);
	/* Another thread may take the page that was just made. */
	while (!arena->unused.count) {
		if (!arena->blank.count)
			return mapper_fenced(arena) ? -EAGAIN : -ENOMEM;
		status = page_create(arena);
		if (status)
			return status;
	}
	*page = list_pop(arena, &arena->unused);
	p = &arena->pages[*page];
	SKEP_CHECK(p->refs == 0 && p->handle);
	arena->counters.pages_recycled += p->used;
	p->refs = 1;
	p->used = true;
	arena->spare_failed = false;
	return 0;
}

void page_get(struct arena *arena, uint32_t page)
{
	SKEP_CHECK(page < arena->options.pages_max && arena->pages[page].refs > 0 &&
		   arena->pages[page].refs < NONE);
	arena->pages[page].refs++;
}

void page_put(struct arena *arena, uint32_t page, uint64_t fence)
{
	struct page *p;

	SKEP_CHECK(page < arena->options.pages_max && arena->pages[page].refs > 0);
	p = &arena->pages[page];
	p->fence = MAX_OF(p->fence, fence);
	if (--p->refs)
		return;
	arena->spare_failed = false;
	if (p->fence <= arena->fence_passed)
		list_push(arena, &arena->unused, page);
	else
		list_add_last(arena, &arena->fenced, page);
}

int page_copy(struct arena *arena, uint32_t to, uint32_t from, uint32_t count)
{
	int status = gpu_copy(arena->stream, page_at(arena, to), page_at(arena, from),
		count * arena->geometry.page_bytes);

	arena->counters.failures += status != 0;
	return status;
}

/* --------------------------------------------------------------------------------------- fences */

bool fence_passed(struct arena *arena, uint64_t fence)
{
	if (fence > arena->fence_passed)
		fences_poll(arena);
	return fence <= arena->fence_passed;
}

void fences_poll(struct arena *arena)
{
	while (arena->fence_passed < arena->fence_last) {
		int done = gpu_event_done(arena->events[(arena->fence_passed + 1) % FENCES]);

		/* A device that fails says nothing about the work: it may still run. */
		if (done < 0)
			arena->counters.failures++;
		if (done <= 0)
			break;
		arena->fence_passed++;
	}
	while (arena->fenced.count && arena->pages[arena->fenced.head].fence <= arena->fence_passed)
		list_push(arena, &arena->unused, list_pop(arena, &arena->fenced));
}

static int fence_record(struct arena *arena, uint64_t *fence)
{
	int status;

	if (arena->fence_last - arena->fence_passed == FENCES)
		fences_poll(arena);
	if (arena->fence_last - arena->fence_passed == FENCES)
		return -EAGAIN;
	status = gpu_event_record(arena->events[(arena->fence_last + 1) % FENCES], arena->stream);
	if (status)
		arena->counters.failures++;
	else
		*fence = ++arena->fence_last;
	return status;
}

int arena_fence(struct arena *arena, uint64_t *fence)
{
	int status;

	pthread_mutex_lock(&arena->lock);
	status = fence_record(arena, fence);
	pthread_mutex_unlock(&arena->lock);
	return status;
}

int fence_sync(struct arena *arena, uint64_t fence)
{
	int status;

	if (fence_passed(arena, fence))
		return 0;
	/* The owner alone takes fences, and waits here: the event is not recorded anew. */
	pthread_mutex_unlock(&arena->lock);
	status = gpu_event_sync(arena->events[fence % FENCES]);
	pthread_mutex_lock(&arena->lock);
	if (!status)
		arena->fence_passed = MAX_OF(arena->fence_passed, fence);
	else
		arena->counters.failures++;
	return status;
}

int fence_take(struct arena *arena, uint64_t *fence)
{
	int status = fence_record(arena, fence);

	if (status != -EAGAIN)
		return status;
	status = fence_sync(arena, arena->fence_passed + 1);
	return status ? status : fence_record(arena, fence);
}

/* ----------------------------------------------------------------------------- the caller's own */

int arena_take(struct arena *arena, uint32_t *page)
{
	int status;

	pthread_mutex_lock(&arena->lock);
	status = page_take(arena, page);
	pthread_mutex_unlock(&arena->lock);
	return status;
}

void arena_release(struct arena *arena, const uint32_t *pages, uint32_t count, uint64_t fence)
{
	pthread_mutex_lock(&arena->lock);
	SKEP_CHECK(fence <= arena->fence_last);
	for (uint32_t i = 0; i < count; i++)
		page_put(arena, pages[i], fence);
	mapper_wake(arena);
	pthread_mutex_unlock(&arena->lock);
}

uint64_t arena_page_at(const struct arena *arena, uint32_t page)
{
	SKEP_CHECK(page < arena->options.pages_max);
	return page_at(arena, page);
}

uint32_t arena_page_holders(struct arena *arena, uint32_t page)
{
	uint32_t refs;

	SKEP_CHECK(page < arena->options.pages_max);
	pthread_mutex_lock(&arena->lock);
	refs = arena->pages[page].refs;
	pthread_mutex_unlock(&arena->lock);
	return refs;
}

uint64_t arena_window(const struct arena *arena)
{
	return arena->window_at;
}

int arena_warm(struct arena *arena, uint32_t pages)
{
	int status = 0;

	pthread_mutex_lock(&arena->lock);
	while (!status && arena->blank.count &&
		arena->options.pages_max - arena->blank.count < pages)
		status = page_create(arena);
	pthread_mutex_unlock(&arena->lock);
	return status;
}

uint32_t arena_shrink(struct arena *arena, uint32_t pages)
{
	uint32_t gone = 0, page;

	pthread_mutex_lock(&arena->lock);
	fences_poll(arena);
	while (arena->unused.count && arena->options.pages_max - arena->blank.count > pages) {
		struct gpu_page *handle;

		/* On no list while the device works, so nobody else can take it. */
		page = list_pop(arena, &arena->unused);
		handle = arena->pages[page].handle;
		arena->pages[page].handle = NULL;
		arena->pages[page].used = false;
		arena->counters.pages_destroyed++;
		pthread_mutex_unlock(&arena->lock);
		gpu_unmap(arena->gpu, page_at(arena, page), arena->geometry.page_bytes);
		gpu_page_destroy(arena->gpu, handle);
		pthread_mutex_lock(&arena->lock);
		list_push(arena, &arena->blank, page);
		gone++;
	}
	pthread_mutex_unlock(&arena->lock);
	return gone;
}
