/* SPDX-License-Identifier: Apache-2.0 */
#include "transport/local/server_page.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"

static struct page_head *page_of(const struct page_end *end)
{
	return (struct page_head *)(void *)end->base;
}

void page_end_init(struct page_end *end, void *memory)
{
	struct page_head *head = memory;

	memset(end, 0, sizeof(*end));
	end->base = memory;
	for (unsigned i = 0; i < PAGE_QUEUES; i++)
		end->queue_fds[i] = -1;
	head->magic = PAGE_MAGIC;
	head->version = PAGE_VERSION;
	head->bytes = page_bytes();
	head->submissions_at = page_submissions_at();
	head->completions_at = page_completions_at();
	head->pins_at = page_pins_at();
	head->scratch_at = page_scratch_at();
	head->scratch_bytes = PAGE_SCRATCH_BYTES;
	head->pin_count = PAGE_PINS;
}

bool page_end_waiting(const struct page_end *end)
{
	return atomic_load_explicit(&page_of(end)->submission_tail.value, memory_order_relaxed) !=
	       end->submission_head;
}

int page_end_take(struct page_end *end, struct submission *out)
{
	struct page_head *head = page_of(end);
	/* Acquire pairs with the client's release of the tail: the message is whole. */
	uint32_t tail = atomic_load_explicit(&head->submission_tail.value, memory_order_acquire);
	const uint8_t *ring = end->base + page_submissions_at();

	if (tail == end->submission_head)
		return 0;
	if (tail - end->submission_head > PAGE_SUBMISSIONS)
		return -EPROTO;
	memcpy(out, ring + (size_t)(end->submission_head % PAGE_SUBMISSIONS) * PAGE_MESSAGE_BYTES,
		sizeof(*out));
	end->submission_head++;
	/* Release: the slot was read before the client may write it again. */
	atomic_store_explicit(
		&head->submission_head.value, end->submission_head, memory_order_release);
	return 1;
}

void page_end_wake(const struct page_end *end, unsigned queue)
{
	uint64_t one = 1;

	SKEP_CHECK(queue && queue < PAGE_QUEUES);
	if (end->queue_fds[queue] >= 0 && write(end->queue_fds[queue], &one, sizeof(one)) < 0) {
		/* The counter is full: the descriptor is readable anyway. */
	}
}

int page_end_complete(struct page_end *end, unsigned queue, const struct completion *completion)
{
	struct page_head *head = page_of(end);
	uint32_t seen, tail;
	uint8_t *ring;

	SKEP_CHECK(queue < PAGE_QUEUES);
	tail = end->completion_tail[queue];
	/* Acquire pairs with the client's release: the slot was read before it is written again. */
	seen = atomic_load_explicit(&head->completion_head[queue].value, memory_order_acquire);
	if (tail - seen >= PAGE_COMPLETIONS)
		return -EPROTO;
	ring = end->base + page_completions_at() +
	       (size_t)queue * PAGE_COMPLETIONS * PAGE_MESSAGE_BYTES;
	memcpy(ring + (size_t)(tail % PAGE_COMPLETIONS) * PAGE_MESSAGE_BYTES, completion,
		sizeof(*completion));
	end->completion_tail[queue] = ++tail;
	atomic_store_explicit(&head->completion_tail[queue].value, tail, memory_order_release);
	if (queue) {
		page_end_wake(end, queue);
		return 0;
	}
	atomic_fetch_add_explicit(&head->completed, 1, memory_order_relaxed);
	/* Pairs with the client's fence between counting itself a waiter and looking at the ring
	 * once more: either it sees the completion or this sees the waiter. */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&head->waiters, memory_order_relaxed))
		syscall(SYS_futex, &head->completed, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	return 0;
}

void page_end_durable(const struct page_end *end, uint64_t durable_ns)
{
	struct page_head *head = (struct page_head *)(void *)end->base;

	/* Release pairs with the client's acquire: what is durable was so before. */
	atomic_store_explicit(&head->durable_ns, durable_ns, memory_order_release);
}

void *page_end_scratch(const struct page_end *end, uint32_t at, uint64_t bytes)
{
	if (at % 8 || at > PAGE_SCRATCH_BYTES || bytes > PAGE_SCRATCH_BYTES - at)
		return NULL;
	return end->base + page_scratch_at() + at;
}

uint32_t page_end_index(const struct page_end *end)
{
	/* Acquire pairs with the client's release: its pins by the index before are in the table.
	 */
	return atomic_load_explicit(&page_of(end)->index_number, memory_order_acquire);
}

const void *page_end_pins(const struct page_end *end, uint32_t *count)
{
	uint32_t used;

	*count = 0;
	if (!end->base) /* an operator's session has no page, and so no pins */
		return NULL;
	used = atomic_load_explicit(&page_of(end)->pins_used, memory_order_relaxed);
	*count = used < PAGE_PINS ? used : PAGE_PINS;
	return end->base + page_pins_at();
}

bool page_end_asleep(struct page_end *end)
{
	atomic_store_explicit(&page_of(end)->daemon_asleep, 1, memory_order_relaxed);
	/* Pairs with the client's fence between its push and its look at the flag. */
	atomic_thread_fence(memory_order_seq_cst);
	return page_end_waiting(end);
}

void page_end_awake(struct page_end *end)
{
	atomic_store_explicit(&page_of(end)->daemon_asleep, 0, memory_order_relaxed);
}
