/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "kernels/gpu_host_priv.h"

/*
 * The device that every machine has. Its physical pages lie in one memory file, so that a page can
 * be mapped at several places and thousands of them cost no descriptor; a page is a range of the
 * file that no other page ever had (offsets only grow, a hole is punched where one is destroyed).
 * Streams are in gpu_host_stream.c.
 */

/* A multiple of every system's page, and small, so that tests can have many. */
#define PAGE_BYTES ((size_t)64 << 10)

/* What gpu_alloc aligns to, as the CUDA driver does. */
#define ALLOC_ALIGN ((size_t)256)

struct host {
	struct gpu gpu;
	int file;
	uint64_t file_bytes;   /* grows; under gpu.lock */
	_Atomic uint64_t used; /* bytes of allocations and pages, against gpu.info.memory_bytes */
};

static struct host *host_of(struct gpu *gpu)
{
	return (struct host *)gpu;
}

/* Takes @bytes of the device's memory, as a device would: it is full before this machine is. */
static int used_take(struct host *host, uint64_t bytes)
{
	uint64_t used = atomic_load_explicit(&host->used, memory_order_relaxed);

	do {
		if (bytes > host->gpu.info.memory_bytes - used)
			return -ENOMEM;
	} while (!atomic_compare_exchange_weak_explicit(
		&host->used, &used, used + bytes, memory_order_relaxed, memory_order_relaxed));
	return 0;
}

static void used_give(struct host *host, uint64_t bytes)
{
	atomic_fetch_sub_explicit(&host->used, bytes, memory_order_relaxed);
}

static void host_close(struct gpu *gpu)
{
	close(host_of(gpu)->file);
	memory_free(gpu);
}

/*
 * An allocation is one of this process, so that address sanitizers see it, with its size and true
 * beginning in front. It is filled with a pattern: device memory holds anything at first.
 */
struct alloc_head {
	void *memory;
	uint64_t bytes;
};

static int host_alloc(struct gpu *gpu, size_t bytes, uint64_t *at)
{
	const size_t room = sizeof(struct alloc_head) + ALLOC_ALIGN;
	struct alloc_head head = {.bytes = bytes};
	uintptr_t begin;
	int rc = bytes > SIZE_MAX - room ? -ENOMEM : used_take(host_of(gpu), bytes);

	if (rc < 0)
		return rc;
	head.memory = memory_zalloc(bytes + room);
	if (!head.memory) {
		used_give(host_of(gpu), bytes);
		return -ENOMEM;
	}
	begin = ((uintptr_t)head.memory + room) & ~(ALLOC_ALIGN - 1);
	memcpy((void *)(begin - sizeof(head)), &head, sizeof(head));
	memset((void *)begin, 0xa5, bytes);
	*at = begin;
	return 0;
}

static void host_free(struct gpu *gpu, uint64_t at)
{
	struct alloc_head head;

	memcpy(&head, (const void *)(uintptr_t)(at - sizeof(head)), sizeof(head));
	used_give(host_of(gpu), head.bytes);
	memory_free(head.memory);
}

static int host_pinned_alloc(struct gpu *gpu, size_t bytes, void **memory)
{
	void *made;

	(void)gpu;
	made = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (made == MAP_FAILED)
		return -ENOMEM;
	*memory = made;
	return 0;
}

static void host_pinned_free(struct gpu *gpu, void *memory, size_t bytes)
{
	(void)gpu;
	SKEP_CHECK(munmap(memory, bytes) == 0);
}

static int host_enroll(struct gpu *gpu, void *memory, size_t bytes, bool read_only)
{
	(void)gpu;
	(void)read_only;
	/* Writes nothing; fails where anything of the range is not mapped, as a driver does. */
	return msync(memory, bytes, MS_ASYNC) == 0 ? 0 : -EINVAL;
}

static void host_dismiss(struct gpu *gpu, void *memory)
{
	(void)gpu;
	(void)memory;
}

/* An address range whose beginning is a multiple of PAGE_BYTES: a longer one, cut. */
static int host_reserve(struct gpu *gpu, size_t bytes, uint64_t *at)
{
	uintptr_t begin, wanted;
	void *made;

	(void)gpu;
	made = mmap(NULL, bytes + PAGE_BYTES, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (made == MAP_FAILED)
		return -ENOMEM;
	begin = (uintptr_t)made;
	wanted = (begin + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
	if (wanted > begin)
		munmap(made, wanted - begin);
	if (begin + PAGE_BYTES > wanted)
		munmap((void *)(wanted + bytes), begin + PAGE_BYTES - wanted);
	*at = wanted;
	return 0;
}

static void host_unreserve(struct gpu *gpu, uint64_t at, size_t bytes)
{
	(void)gpu;
	SKEP_CHECK(munmap((void *)(uintptr_t)at, bytes) == 0);
}

static int host_page_create(struct gpu *gpu, struct gpu_page *page)
{
	struct host *host = host_of(gpu);
	int rc = used_take(host, page->bytes);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&gpu->lock);
	if (ftruncate(host->file, (off_t)(host->file_bytes + page->bytes)) != 0) {
		rc = -ENOMEM;
	} else {
		page->backing = host->file_bytes;
		host->file_bytes += page->bytes;
	}
	pthread_mutex_unlock(&gpu->lock);
	if (rc < 0)
		used_give(host, page->bytes);
	return rc;
}

static void host_page_destroy(struct gpu *gpu, struct gpu_page *page)
{
	struct host *host = host_of(gpu);

	if (fallocate(host->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)page->backing,
		    (off_t)page->bytes) != 0)
		log_error("gpu", "a page's memory does not go back to the system: %m");
	used_give(host, page->bytes);
}

static void host_unmap(struct gpu *gpu, uint64_t at, size_t bytes)
{
	void *there = (void *)(uintptr_t)at;

	if (mmap(there, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
		    -1, 0) == MAP_FAILED) {
		log_error("gpu", "a range cannot be unmapped: %m");
		atomic_store_explicit(&gpu->broken, true, memory_order_relaxed);
	}
}

static int host_map(struct gpu *gpu, uint64_t at, struct gpu_page *page)
{
	if (mmap((void *)(uintptr_t)at, page->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		    host_of(gpu)->file, (off_t)page->backing) != MAP_FAILED)
		return 0;
	/* ENOMEM here is a process with too many mappings (vm.max_map_count). */
	return errno == ENOMEM ? -ENOMEM : -EIO;
}

static const struct gpu_calls host_calls = {
	.close = host_close,
	.alloc = host_alloc,
	.free = host_free,
	.pinned_alloc = host_pinned_alloc,
	.pinned_free = host_pinned_free,
	.enroll = host_enroll,
	.dismiss = host_dismiss,
	.reserve = host_reserve,
	.unreserve = host_unreserve,
	.page_create = host_page_create,
	.page_destroy = host_page_destroy,
	.map = host_map,
	.unmap = host_unmap,
	.stream_create = host_stream_create,
	.stream_adopt = host_stream_adopt,
	.stream_destroy = host_stream_destroy,
	.stream_sync = host_stream_sync,
	.stream_wait = host_stream_wait,
	.event_create = host_event_create,
	.event_destroy = host_event_destroy,
	.event_record = host_event_record,
	.event_done = host_event_done,
	.event_sync = host_event_sync,
	.event_ns = host_event_ns,
	.copy_in = host_copy_in,
	.copy_out = host_copy_out,
	.copy = host_copy,
	.copy_batch = host_copy_batch,
	.call = host_call,
	.fill = host_fill,
	.launch = host_launch,
};

int gpu_host_open(unsigned device, struct gpu **gpu)
{
	long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
	struct host *host = memory_zalloc(sizeof(*host));

	(void)device;
	if (!host)
		return -ENOMEM;
	host->file = memory_should_fail() ? -1 : memfd_create("skep-gpu", MFD_CLOEXEC);
	if (host->file < 0 || pages <= 0 || page_bytes <= 0) {
		if (host->file >= 0)
			close(host->file);
		memory_free(host);
		return -ENOMEM;
	}
	host->gpu.call = &host_calls;
	host->gpu.info = (struct gpu_info){
		.name = "host",
		.page_bytes = PAGE_BYTES,
		.memory_bytes = (uint64_t)pages * (uint64_t)page_bytes,
		.processors = 1,
		.shared_bytes_max = SIZE_MAX,
		.numa_node = -1,
	};
	*gpu = &host->gpu;
	return 0;
}
