/* SPDX-License-Identifier: Apache-2.0 */
#include "base/last_words.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"
#include "base/memory.h"

/*
 * The kernel walks a list in the thread's memory and finds each futex at one distance from its
 * node. The nodes are nobody else's business, the words lie in files of others; so there is a page
 * for each node and, in the same order behind them, one for each word: a second mapping of its
 * page.
 */
enum { PAGE_BYTES = 4096, HEAD_AT = 64 };

static struct robust_list *node_of(const struct last_words *words, uint32_t i)
{
	return (struct robust_list *)(void *)(words->base + (size_t)i * PAGE_BYTES);
}

static uint8_t *page_of(const struct last_words *words, uint32_t i)
{
	return words->base + ((size_t)words->max + i) * PAGE_BYTES;
}

static _Atomic uint32_t *word_of(const struct last_words *words, uint32_t i)
{
	return (_Atomic uint32_t *)(void *)(page_of(words, i) + words->place);
}

int last_words_create(struct last_words *words, uint32_t max, size_t place)
{
	void *base;

	SKEP_CHECK(max && place % sizeof(uint32_t) == 0 && place < PAGE_BYTES);
	*words = (struct last_words){.place = place, .max = max};
	base = memory_should_fail()
		       ? MAP_FAILED
		       : mmap(NULL, 2 * (size_t)max * PAGE_BYTES, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return -ENOMEM;
	words->base = base;
	return 0;
}

int last_words_add(struct last_words *words, void *page)
{
	SKEP_CHECK(words->count < words->max && (uintptr_t)page % PAGE_BYTES == 0);
	/* Of a length of 0: a second mapping of what is shared there. */
	if (memory_should_fail() || mremap(page, 0, PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED,
					    page_of(words, words->count)) == MAP_FAILED)
		return -ENOMEM;
	words->count++;
	return 0;
}

int last_words_begin(struct last_words *words)
{
	struct robust_list_head *head = (void *)(words->base + HEAD_AT);
	uint32_t thread = (uint32_t)syscall(SYS_gettid);

	*head = (struct robust_list_head){.list.next = &head->list,
		.futex_offset = (long)((size_t)words->max * PAGE_BYTES + words->place)};
	for (uint32_t i = 0; i < words->count; i++) {
		node_of(words, i)->next = head->list.next;
		head->list.next = node_of(words, i);
		atomic_store_explicit(word_of(words, i), thread, memory_order_relaxed);
	}
	return syscall(SYS_set_robust_list, head, sizeof(*head)) ? -errno : 0;
}

void last_words_retract(struct last_words *words)
{
	for (uint32_t i = 0; i < words->count; i++)
		atomic_store_explicit(word_of(words, i), 0, memory_order_relaxed);
}

void last_words_destroy(struct last_words *words)
{
	if (words->base)
		munmap(words->base, 2 * (size_t)words->max * PAGE_BYTES);
	*words = (struct last_words){0};
}
