/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_LAST_WORDS_H
#define SKEP_BASE_LAST_WORDS_H

/*
 * The last words of a thread: words in shared memory that the kernel marks when the thread ends,
 * however it ends. Of a killed process it does so first; its memory is taken apart next, which
 * takes a second for a few GiB of small pages, and its sockets are closed after that. So who
 * watches a word learns of a death at once, who watches a socket a second later.
 *
 * The words are robust futexes of the kernel (set_robust_list(2)), which nobody waits for.
 */

#include <linux/futex.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Has the thread ended? Any process; false as long as the word was given to no thread. */
static inline bool last_word_spoken(const _Atomic uint32_t *word)
{
	return atomic_load_explicit(word, memory_order_relaxed) & FUTEX_OWNER_DIED;
}

struct last_words {
	uint8_t *base; /* NULL: none */
	size_t place;  /* of each word in its page */
	uint32_t count, max;
};

/* Room for @max words, each @place bytes into a page. Return: 0, -ENOMEM. */
int last_words_create(struct last_words *words, uint32_t max, size_t place);

/* A word in this page of shared memory, which is mapped here for writing. It is mapped once more,
 * so the page's mapping may go earlier. Return: 0 or a negative errno. */
int last_words_add(struct last_words *words, void *page);

/* In the thread that they are of. Return: 0 or a negative errno: nothing will be told. */
int last_words_begin(struct last_words *words);

/* The thread's end is of no interest any more: nothing is marked. Any thread. */
void last_words_retract(struct last_words *words);

/* After the thread's end. Of none nothing is done. */
void last_words_destroy(struct last_words *words);

#endif
