/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "transport/local/client.h"

enum { SPIN_LOOKS = 64 };

/* The daemon's cursor. Acquire: it read what it has passed before we write there again (pairs with
 * its release after it copied a submission out). */
static uint32_t head_now(struct local_client *client)
{
	client->submission_head =
		atomic_load_explicit(&client->page->submission_head.value, memory_order_acquire);
	return client->submission_head;
}

static void daemon_kick(const struct local_client *client)
{
	uint64_t one = 1;

	/* Pairs with the daemon's fence between setting its flag and its last look at the ring:
	 * either it sees our tail or we see its flag. */
	atomic_thread_fence(memory_order_seq_cst);
	if (!atomic_load_explicit(&client->page->daemon_asleep, memory_order_relaxed))
		return;
	if (write(client->wake_fd, &one, sizeof(one)) < 0) {
		/* The counter is full: the descriptor is readable anyway. */
	}
}

int64_t local_client_push(
	struct local_client *client, const struct submission *submission, enum local_push push)
{
	uint32_t tail = client->submission_tail, used = tail - client->submission_head;

	/* The daemon's cursor lies on a line that it writes: read only when it may matter. */
	if (used > PAGE_SUBMISSIONS / 2)
		used = tail - head_now(client);
	if (used >= PAGE_SUBMISSIONS) {
		if (push == LOCAL_PUSH_QUIET)
			client->touches_dropped++;
		daemon_kick(client);
		return -EAGAIN;
	}
	memcpy(&client->submissions[tail % PAGE_SUBMISSIONS], submission, sizeof(*submission));
	client->submission_tail = tail + 1;
	/* Release pairs with the daemon's acquire of the tail: the message, and what it names in
	 * the scratch and in frames, is whole. */
	atomic_store_explicit(&client->page->submission_tail.value, client->submission_tail,
		memory_order_release);
	if (push == LOCAL_PUSH_WAKE || used > PAGE_SUBMISSIONS / 2)
		daemon_kick(client);
	return tail;
}

bool local_client_handled(struct local_client *client, int64_t position)
{
	uint32_t passed = head_now(client) - (uint32_t)position;

	/* 0: not taken, 1: taken and maybe in work; more: done. A position far behind wraps. */
	return passed > 1 && passed <= UINT32_MAX / 2;
}

int local_client_take(struct local_client *client, unsigned queue, struct completion *out)
{
	struct page_head *page = client->page;
	uint32_t head = client->completion_head[queue];
	/* Acquire pairs with the daemon's release of its tail: the completion, and what it answered
	 * in the scratch, is whole. */
	uint32_t tail =
		atomic_load_explicit(&page->completion_tail[queue].value, memory_order_acquire);

	if (tail == head)
		return 0;
	if (tail - head > PAGE_COMPLETIONS)
		return -EPROTO;
	memcpy(out, &client->completions[queue * PAGE_COMPLETIONS + head % PAGE_COMPLETIONS],
		sizeof(*out));
	client->completion_head[queue] = ++head;
	/* Release: the slot was read before the daemon may write it again. */
	atomic_store_explicit(&page->completion_head[queue].value, head, memory_order_release);
	return 1;
}

static bool completion_waits(const struct local_client *client)
{
	return atomic_load_explicit(&client->page->completion_tail[0].value,
		       memory_order_relaxed) != client->completion_head[0];
}

static bool over(const struct local_client *client, const _Atomic uint32_t *down)
{
	return completion_waits(client) || atomic_load_explicit(down, memory_order_acquire);
}

int local_client_sleep(
	struct local_client *client, const _Atomic uint32_t *down, uint64_t deadline_ns)
{
	struct page_head *page = client->page;
	struct timespec until = {.tv_sec = (time_t)(deadline_ns / NS_PER_S),
		.tv_nsec = (long)(deadline_ns % NS_PER_S)};
	uint64_t spin_end = clock_after(clock_ns(), client->spin_ns);
	uint32_t seen;
	bool found;

	do {
		for (unsigned i = 0; i < SPIN_LOOKS; i++) {
			if (over(client, down))
				return 0;
			cpu_relax();
		}
	} while (clock_ns() < spin_end);
	seen = atomic_load_explicit(&page->completed, memory_order_acquire);
	atomic_fetch_add_explicit(&page->waiters, 1, memory_order_relaxed);
	/* Pairs with the daemon's fence between its completion and its look at `waiters`: either it
	 * sees us and moves `completed`, or we see the completion. */
	atomic_thread_fence(memory_order_seq_cst);
	found = over(client, down);
	if (!found)
		syscall(SYS_futex, &page->completed, FUTEX_WAIT_BITSET, seen,
			deadline_ns == CLOCK_NEVER ? NULL : &until, NULL, FUTEX_BITSET_MATCH_ANY);
	atomic_fetch_sub_explicit(&page->waiters, 1, memory_order_relaxed);
	if (found || over(client, down) || clock_ns() < deadline_ns)
		return 0;
	return -ETIMEDOUT;
}

void local_client_wake(const struct local_client *client)
{
	/* Whoever read `completed` before this and *down as 0 finds it changed. */
	atomic_fetch_add_explicit(&client->page->completed, 1, memory_order_release);
	syscall(SYS_futex, &client->page->completed, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}
