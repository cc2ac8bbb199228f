/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/gpu.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "kernels/gpu_priv.h"

/*
 * What both back ends share: arguments, the injection of failures, and the books. The books know
 * sizes of what is given back by its address alone, and which page lies where in a reserved range,
 * so that a wrong call is refused here, in the same words on every machine, before a back end can
 * map over what is in use.
 */
enum held_kind { HELD_ALLOCATED, HELD_PINNED, HELD_REGISTERED };

struct held {
	struct list link;
	uint64_t at;
	size_t bytes;
};

/* @units has an entry for each page_bytes of the range: NULL where nothing is mapped, the page
 * where a mapping begins, and &mapping_goes_on behind that. */
struct reservation {
	struct list link;
	uint64_t at;
	size_t bytes;
	struct gpu_page *units[];
};

static struct gpu_page mapping_goes_on;

int gpu_open(enum gpu_back_end back_end, unsigned device, struct gpu **gpu)
{
	struct gpu *opened;
	int rc;

	if (back_end != GPU_HOST && back_end != GPU_CUDA)
		return -EINVAL;
	rc = back_end == GPU_HOST ? gpu_host_open(device, &opened) : gpu_cuda_open(device, &opened);
	if (rc < 0)
		return rc;
	opened->info.back_end = back_end;
	SKEP_CHECK(opened->info.page_bytes && opened->call);
	pthread_mutex_init(&opened->lock, NULL);
	for (unsigned i = 0; i < sizeof(opened->held) / sizeof(opened->held[0]); i++)
		list_init(&opened->held[i]);
	list_init(&opened->reserved);
	*gpu = opened;
	return 0;
}

void gpu_close(struct gpu *gpu)
{
	static const struct gpu_usage nothing;

	SKEP_CHECK(memcmp(&gpu->usage, &nothing, sizeof(nothing)) == 0);
	pthread_mutex_destroy(&gpu->lock);
	gpu->call->close(gpu);
}

const struct gpu_info *gpu_info(const struct gpu *gpu)
{
	return &gpu->info;
}

void gpu_usage(const struct gpu *gpu, struct gpu_usage *usage)
{
	struct gpu *locked = (struct gpu *)(uintptr_t)gpu; /* only its lock changes */

	pthread_mutex_lock(&locked->lock);
	*usage = gpu->usage;
	pthread_mutex_unlock(&locked->lock);
}

bool gpu_broken(const struct gpu *gpu)
{
	return atomic_load_explicit(&gpu->broken, memory_order_relaxed);
}

/* ---------------------------------------------------------------------------------- injection */

void gpu_fail_nth(struct gpu *gpu, uint64_t nth, int status)
{
	uint64_t at = nth ? atomic_load(&gpu->calls) + nth : 0;

	SKEP_CHECK(!nth || status < 0);
	atomic_store(&gpu->fail_status, status);
	atomic_store(&gpu->fail_at, at);
}

uint64_t gpu_calls(const struct gpu *gpu)
{
	return atomic_load(&gpu->calls);
}

/* Counts a call that can fail, and answers what this one shall fail with, else 0. */
static int injected(struct gpu *gpu)
{
	uint64_t number = atomic_fetch_add_explicit(&gpu->calls, 1, memory_order_relaxed) + 1;

	if (__builtin_expect(
		    number != atomic_load_explicit(&gpu->fail_at, memory_order_relaxed), 1))
		return 0;
	return atomic_load(&gpu->fail_status);
}

/* -------------------------------------------------------------------------------------- books */

static uint64_t *held_bytes(struct gpu *gpu, enum held_kind kind)
{
	switch (kind) {
	case HELD_ALLOCATED:
		return &gpu->usage.allocated_bytes;
	case HELD_PINNED:
		return &gpu->usage.pinned_bytes;
	default:
		return &gpu->usage.registered_bytes;
	}
}

static void hold(struct gpu *gpu, enum held_kind kind, struct held *held)
{
	pthread_mutex_lock(&gpu->lock);
	/* In front: what was taken last is often given back first. */
	list_add_before(gpu->held[kind].next, &held->link);
	*held_bytes(gpu, kind) += held->bytes;
	pthread_mutex_unlock(&gpu->lock);
}

/* The record of what begins at @at. Giving back what is not held is a fault of the caller. Under
 * the lock. */
static struct held *held_at(struct gpu *gpu, enum held_kind kind, uint64_t at)
{
	list_each (link, &gpu->held[kind]) {
		struct held *held = list_item(link, struct held, link);

		if (held->at == at)
			return held;
	}
	SKEP_CHECK(!"held");
	return NULL;
}

/* Takes that record out of the books. */
static struct held *let_go(struct gpu *gpu, enum held_kind kind, uint64_t at)
{
	struct held *found;

	pthread_mutex_lock(&gpu->lock);
	found = held_at(gpu, kind, at);
	list_remove(&found->link);
	*held_bytes(gpu, kind) -= found->bytes;
	pthread_mutex_unlock(&gpu->lock);
	return found;
}

/* Whether [at, at + bytes) meets, or (@whole) lies inside, something held. Under the lock. */
static bool held_near(struct gpu *gpu, enum held_kind kind, uint64_t at, size_t bytes, bool whole)
{
	list_each (link, &gpu->held[kind]) {
		const struct held *held = list_item(link, struct held, link);
		uint64_t end = held->at + held->bytes;

		if (whole ? at >= held->at && at + bytes <= end : at < end && held->at < at + bytes)
			return true;
	}
	return false;
}

bool gpu_pinned_whole(struct gpu *gpu, const void *memory, size_t bytes)
{
	uint64_t at = (uintptr_t)memory;
	bool found;

	pthread_mutex_lock(&gpu->lock);
	found = held_near(gpu, HELD_PINNED, at, bytes, true) ||
		held_near(gpu, HELD_REGISTERED, at, bytes, true);
	pthread_mutex_unlock(&gpu->lock);
	return found;
}

/* ------------------------------------------------------------------------------------- memory */

int gpu_alloc(struct gpu *gpu, size_t bytes, uint64_t *at)
{
	int rc = injected(gpu);
	struct held *held;

	if (rc < 0 || !bytes)
		return rc < 0 ? rc : -EINVAL;
	held = memory_zalloc(sizeof(*held));
	if (!held)
		return -ENOMEM;
	rc = gpu->call->alloc(gpu, bytes, &held->at);
	if (rc < 0) {
		memory_free(held);
		return rc;
	}
	held->bytes = bytes;
	*at = held->at;
	hold(gpu, HELD_ALLOCATED, held);
	return 0;
}

void gpu_free(struct gpu *gpu, uint64_t at)
{
	struct held *held = let_go(gpu, HELD_ALLOCATED, at);

	gpu->call->free(gpu, at);
	memory_free(held);
}

int gpu_pinned_alloc(struct gpu *gpu, size_t bytes, void **memory)
{
	int rc = injected(gpu);
	struct held *held;

	if (rc < 0 || !bytes)
		return rc < 0 ? rc : -EINVAL;
	held = memory_zalloc(sizeof(*held));
	if (!held)
		return -ENOMEM;
	rc = gpu->call->pinned_alloc(gpu, bytes, memory);
	if (rc < 0) {
		memory_free(held);
		return rc;
	}
	held->bytes = bytes;
	held->at = (uintptr_t)*memory;
	hold(gpu, HELD_PINNED, held);
	return 0;
}

void gpu_pinned_free(struct gpu *gpu, void *memory)
{
	struct held *held = let_go(gpu, HELD_PINNED, (uintptr_t)memory);

	gpu->call->pinned_free(gpu, memory, held->bytes);
	memory_free(held);
}

/*
 * The record goes into the books before the driver is asked, so that of two threads that register
 * the same memory one is refused here.
 */
int gpu_register(struct gpu *gpu, void *memory, size_t bytes, bool read_only)
{
	uint64_t at = (uintptr_t)memory;
	int rc = injected(gpu);
	struct held *held;

	if (rc < 0)
		return rc;
	if (!memory || !bytes || at % 4096 || bytes % 4096)
		return -EINVAL;
	held = memory_zalloc(sizeof(*held));
	if (!held)
		return -ENOMEM;
	held->at = at;
	held->bytes = bytes;
	pthread_mutex_lock(&gpu->lock);
	if (held_near(gpu, HELD_REGISTERED, at, bytes, false) ||
		held_near(gpu, HELD_PINNED, at, bytes, false))
		rc = -EEXIST;
	else
		list_append(&gpu->held[HELD_REGISTERED], &held->link);
	pthread_mutex_unlock(&gpu->lock);
	if (rc < 0) {
		memory_free(held);
		return rc;
	}
	rc = gpu->call->enroll(gpu, memory, bytes, read_only);
	pthread_mutex_lock(&gpu->lock);
	if (rc < 0)
		list_remove(&held->link);
	else
		gpu->usage.registered_bytes += bytes;
	pthread_mutex_unlock(&gpu->lock);
	if (rc < 0)
		memory_free(held);
	return rc < 0 ? rc : 0;
}

void gpu_unregister(struct gpu *gpu, void *memory)
{
	uint64_t at = (uintptr_t)memory;

	pthread_mutex_lock(&gpu->lock);
	held_at(gpu, HELD_REGISTERED, at);
	pthread_mutex_unlock(&gpu->lock);
	/* The books last: until the driver has let go, they refuse to register the memory again. */
	gpu->call->dismiss(gpu, memory);
	memory_free(let_go(gpu, HELD_REGISTERED, at));
}

/* ------------------------------------------------------------------ addresses and their pages */

/* The reservation that holds the range whole, or NULL. Under the lock. */
static struct reservation *reservation_of(struct gpu *gpu, uint64_t at, size_t bytes)
{
	list_each (link, &gpu->reserved) {
		struct reservation *each = list_item(link, struct reservation, link);

		if (at >= each->at && at - each->at < each->bytes &&
			bytes <= each->bytes - (at - each->at))
			return each;
	}
	return NULL;
}

int gpu_reserve(struct gpu *gpu, size_t bytes, uint64_t *at)
{
	size_t units = bytes / gpu->info.page_bytes;
	struct reservation *made;
	int rc = injected(gpu);

	if (rc < 0)
		return rc;
	if (!bytes || bytes % gpu->info.page_bytes || bytes > INT64_MAX)
		return -EINVAL;
	made = memory_zalloc(sizeof(*made) + units * sizeof(made->units[0]));
	if (!made)
		return -ENOMEM;
	rc = gpu->call->reserve(gpu, bytes, &made->at);
	if (rc < 0) {
		memory_free(made);
		return rc;
	}
	made->bytes = bytes;
	*at = made->at;
	pthread_mutex_lock(&gpu->lock);
	list_append(&gpu->reserved, &made->link);
	gpu->usage.reserved_bytes += bytes;
	pthread_mutex_unlock(&gpu->lock);
	return 0;
}

void gpu_unreserve(struct gpu *gpu, uint64_t at, size_t bytes)
{
	struct reservation *gone;

	pthread_mutex_lock(&gpu->lock);
	gone = reservation_of(gpu, at, bytes);
	SKEP_CHECK(gone && gone->at == at && gone->bytes == bytes);
	for (size_t i = 0; i < bytes / gpu->info.page_bytes; i++)
		SKEP_CHECK(!gone->units[i]);
	list_remove(&gone->link);
	gpu->usage.reserved_bytes -= bytes;
	pthread_mutex_unlock(&gpu->lock);
	gpu->call->unreserve(gpu, at, bytes);
	memory_free(gone);
}

int gpu_page_create(struct gpu *gpu, size_t bytes, struct gpu_page **page)
{
	int rc = injected(gpu);
	struct gpu_page *made;

	if (rc < 0)
		return rc;
	if (!bytes || bytes % gpu->info.page_bytes)
		return -EINVAL;
	made = memory_zalloc(sizeof(*made));
	if (!made)
		return -ENOMEM;
	made->bytes = bytes;
	rc = gpu->call->page_create(gpu, made);
	if (rc < 0) {
		memory_free(made);
		return rc;
	}
	pthread_mutex_lock(&gpu->lock);
	gpu->usage.page_bytes += bytes;
	pthread_mutex_unlock(&gpu->lock);
	*page = made;
	return 0;
}

void gpu_page_destroy(struct gpu *gpu, struct gpu_page *page)
{
	pthread_mutex_lock(&gpu->lock);
	SKEP_CHECK(!page->maps);
	gpu->usage.page_bytes -= page->bytes;
	pthread_mutex_unlock(&gpu->lock);
	gpu->call->page_destroy(gpu, page);
	memory_free(page);
}

/* Writes the range of @page down as mapped; -EINVAL where it does not fit. Under the lock. */
static int units_take(struct gpu *gpu, uint64_t at, struct gpu_page *page)
{
	struct reservation *there = reservation_of(gpu, at, page->bytes);
	size_t first, count = page->bytes / gpu->info.page_bytes;

	if (!there || (at - there->at) % gpu->info.page_bytes)
		return -EINVAL;
	first = (at - there->at) / gpu->info.page_bytes;
	for (size_t i = 0; i < count; i++)
		if (there->units[first + i])
			return -EINVAL;
	for (size_t i = 0; i < count; i++)
		there->units[first + i] = i ? &mapping_goes_on : page;
	page->maps++;
	gpu->usage.mapped_bytes += page->bytes;
	return 0;
}

/* Whether the range is made of whole mappings. Under the lock. */
static bool units_whole(
	const struct gpu *gpu, const struct reservation *there, uint64_t at, size_t bytes)
{
	size_t unit = gpu->info.page_bytes, first, count = bytes / unit;

	if (!there || !bytes || bytes % unit || (at - there->at) % unit)
		return false;
	first = (at - there->at) / unit;
	for (size_t i = 0; i < count; i++)
		if (!there->units[first + i])
			return false;
	return there->units[first] != &mapping_goes_on &&
	       ((first + count) * unit == there->bytes ||
		       there->units[first + count] != &mapping_goes_on);
}

static void units_give(struct gpu *gpu, uint64_t at, size_t bytes)
{
	struct reservation *there = reservation_of(gpu, at, bytes);
	size_t first;

	SKEP_CHECK(units_whole(gpu, there, at, bytes));
	first = (at - there->at) / gpu->info.page_bytes;
	for (size_t i = 0; i < bytes / gpu->info.page_bytes; i++) {
		if (there->units[first + i] != &mapping_goes_on)
			there->units[first + i]->maps--;
		there->units[first + i] = NULL;
	}
	gpu->usage.mapped_bytes -= bytes;
}

int gpu_map(struct gpu *gpu, uint64_t at, struct gpu_page *page)
{
	int rc = injected(gpu);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&gpu->lock);
	rc = units_take(gpu, at, page);
	pthread_mutex_unlock(&gpu->lock);
	if (rc < 0)
		return rc;
	rc = gpu->call->map(gpu, at, page);
	if (rc < 0) {
		pthread_mutex_lock(&gpu->lock);
		units_give(gpu, at, page->bytes);
		pthread_mutex_unlock(&gpu->lock);
	}
	return rc;
}

void gpu_unmap(struct gpu *gpu, uint64_t at, size_t bytes)
{
	bool whole;

	pthread_mutex_lock(&gpu->lock);
	whole = units_whole(gpu, reservation_of(gpu, at, bytes), at, bytes);
	pthread_mutex_unlock(&gpu->lock);
	SKEP_CHECK(whole);
	/* The books last: until the range is free, nothing can be mapped there. */
	gpu->call->unmap(gpu, at, bytes);
	pthread_mutex_lock(&gpu->lock);
	units_give(gpu, at, bytes);
	pthread_mutex_unlock(&gpu->lock);
}

/* --------------------------------------------------------------------------- streams and events */

static void stream_begins(struct gpu *gpu, struct gpu_stream *stream)
{
	stream->gpu = gpu;
	pthread_mutex_lock(&gpu->lock);
	gpu->usage.streams++;
	pthread_mutex_unlock(&gpu->lock);
}

int gpu_stream_create(struct gpu *gpu, struct gpu_stream **stream)
{
	int rc = injected(gpu);

	if (rc == 0)
		rc = gpu->call->stream_create(gpu, stream);
	if (rc == 0)
		stream_begins(gpu, *stream);
	return rc;
}

int gpu_stream_adopt(struct gpu *gpu, uintptr_t native, struct gpu_stream **stream)
{
	int rc = injected(gpu);

	if (rc == 0)
		rc = gpu->call->stream_adopt(gpu, native, stream);
	if (rc == 0)
		stream_begins(gpu, *stream);
	return rc;
}

void gpu_stream_destroy(struct gpu_stream *stream)
{
	struct gpu *gpu = stream->gpu;

	gpu->call->stream_destroy(stream);
	pthread_mutex_lock(&gpu->lock);
	gpu->usage.streams--;
	pthread_mutex_unlock(&gpu->lock);
}

int gpu_stream_sync(struct gpu_stream *stream)
{
	int rc = injected(stream->gpu);

	return rc < 0 ? rc : stream->gpu->call->stream_sync(stream);
}

int gpu_stream_wait(struct gpu_stream *stream, struct gpu_event *event)
{
	int rc = injected(stream->gpu);

	if (rc < 0)
		return rc;
	if (stream->gpu != event->gpu)
		return -EINVAL;
	/* Pairs with gpu_event_record: who was told of the event sees that it was recorded. */
	if (!atomic_load_explicit(&event->recorded, memory_order_acquire))
		return 0;
	return stream->gpu->call->stream_wait(stream, event);
}

int gpu_event_create(struct gpu *gpu, struct gpu_event **event)
{
	int rc = injected(gpu);

	if (rc == 0)
		rc = gpu->call->event_create(gpu, event);
	if (rc < 0)
		return rc;
	(*event)->gpu = gpu;
	pthread_mutex_lock(&gpu->lock);
	gpu->usage.events++;
	pthread_mutex_unlock(&gpu->lock);
	return 0;
}

void gpu_event_destroy(struct gpu_event *event)
{
	struct gpu *gpu = event->gpu;

	gpu->call->event_destroy(event);
	pthread_mutex_lock(&gpu->lock);
	gpu->usage.events--;
	pthread_mutex_unlock(&gpu->lock);
}

int gpu_event_record(struct gpu_event *event, struct gpu_stream *stream)
{
	int rc = injected(stream->gpu);

	if (rc < 0)
		return rc;
	if (stream->gpu != event->gpu)
		return -EINVAL;
	rc = stream->gpu->call->event_record(event, stream);
	if (rc == 0)
		atomic_store_explicit(&event->recorded, true, memory_order_release);
	return rc;
}

int gpu_event_done(struct gpu_event *event)
{
	int rc = injected(event->gpu);

	if (rc < 0)
		return rc;
	if (!atomic_load_explicit(&event->recorded, memory_order_acquire))
		return 1;
	return event->gpu->call->event_done(event);
}

int gpu_event_sync(struct gpu_event *event)
{
	int rc = injected(event->gpu);

	if (rc < 0)
		return rc;
	if (!atomic_load_explicit(&event->recorded, memory_order_acquire))
		return 0;
	return event->gpu->call->event_sync(event);
}

int gpu_event_ns(struct gpu_event *from, struct gpu_event *to, uint64_t *ns)
{
	int rc = injected(from->gpu);

	if (rc < 0)
		return rc;
	if (from->gpu != to->gpu || !atomic_load_explicit(&from->recorded, memory_order_acquire) ||
		!atomic_load_explicit(&to->recorded, memory_order_acquire))
		return -EINVAL;
	return from->gpu->call->event_ns(from, to, ns);
}

/* ------------------------------------------------------------------------- copies and launches */

int gpu_copy_in(struct gpu_stream *stream, uint64_t to, const void *from, size_t bytes)
{
	int rc = injected(stream->gpu);

	return rc < 0 || !bytes ? rc : stream->gpu->call->copy_in(stream, to, from, bytes);
}

int gpu_copy_out(struct gpu_stream *stream, void *to, uint64_t from, size_t bytes)
{
	int rc = injected(stream->gpu);

	return rc < 0 || !bytes ? rc : stream->gpu->call->copy_out(stream, to, from, bytes);
}

int gpu_copy(struct gpu_stream *stream, uint64_t to, uint64_t from, size_t bytes)
{
	int rc = injected(stream->gpu);

	return rc < 0 || !bytes ? rc : stream->gpu->call->copy(stream, to, from, bytes);
}

int gpu_copy_batch(struct gpu_stream *stream, const struct gpu_batch *batch)
{
	int rc = injected(stream->gpu);

	return rc < 0 || !batch->count ? rc : stream->gpu->call->copy_batch(stream, batch);
}

int gpu_call(struct gpu_stream *stream, void (*work)(void *argument), void *argument)
{
	int rc = injected(stream->gpu);

	return rc < 0 ? rc : stream->gpu->call->call(stream, work, argument);
}

int gpu_fill(struct gpu_stream *stream, uint64_t at, unsigned char byte, size_t bytes)
{
	int rc = injected(stream->gpu);

	return rc < 0 || !bytes ? rc : stream->gpu->call->fill(stream, at, byte, bytes);
}

int gpu_launch(struct gpu_stream *stream, const struct gpu_kernel *kernel,
	const struct gpu_grid *grid, const void *args, size_t args_bytes)
{
	int rc = injected(stream->gpu);

	if (rc < 0)
		return rc;
	if (!grid->threads || !args || !args_bytes || args_bytes > GPU_ARGS_BYTES_MAX ||
		grid->shared_bytes > stream->gpu->info.shared_bytes_max)
		return -EINVAL;
	return stream->gpu->call->launch(stream, kernel, grid, args, args_bytes);
}
