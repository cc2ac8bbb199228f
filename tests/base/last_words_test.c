/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a thread leaves in shared memory when it ends, by itself or with its process; other
 * processes see it while the process's own memory is still being taken apart.
 */
#include "base/last_words.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "base/memory.h"
#include "tests/base/unit.h"

enum { WORDS = 3, PLACE = 636, PAGE = 4096 };

static uint8_t *pages[WORDS];
static struct last_words words;

static _Atomic uint32_t *word(unsigned i)
{
	return (_Atomic uint32_t *)(void *)(pages[i] + PLACE);
}

static void pages_make(void)
{
	for (unsigned i = 0; i < WORDS; i++) {
		pages[i] =
			mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		REQUIRE(pages[i] != MAP_FAILED);
	}
	REQUIRE_EQ(last_words_create(&words, WORDS, PLACE), 0);
	for (unsigned i = 0; i < WORDS; i++)
		REQUIRE_EQ(last_words_add(&words, pages[i]), 0);
}

static void pages_end(void)
{
	last_words_destroy(&words);
	for (unsigned i = 0; i < WORDS; i++)
		munmap(pages[i], PAGE);
}

static void *speaker(void *arg)
{
	REQUIRE_EQ(last_words_begin(&words), 0);
	for (unsigned i = 0; i < WORDS; i++)
		REQUIRE(*word(i) && !last_word_spoken(word(i)));
	if (arg)
		last_words_retract(&words);
	return NULL;
}

static void a_thread_that_ends(bool retracts)
{
	pthread_t thread;

	pages_make();
	for (unsigned i = 0; i < WORDS; i++)
		REQUIRE(!last_word_spoken(word(i)));
	REQUIRE_EQ(pthread_create(&thread, NULL, speaker, retracts ? &words : NULL), 0);
	pthread_join(thread, NULL);
	for (unsigned i = 0; i < WORDS; i++)
		REQUIRE_EQ(last_word_spoken(word(i)), !retracts);
	pages_end();
}

/* The child's main thread is the one; it is killed in its sleep. */
static void a_process_that_is_killed(void)
{
	int status;
	pid_t child;

	pages_make();
	child = fork();
	REQUIRE(child >= 0);
	if (child == 0) {
		if (last_words_begin(&words))
			_exit(1);
		for (;;)
			pause();
	}
	while (!*word(0) || !*word(WORDS - 1))
		usleep(1000);
	REQUIRE(!last_word_spoken(word(0)));
	kill(child, SIGKILL);
	REQUIRE_EQ(waitpid(child, &status, 0), child);
	REQUIRE(WIFSIGNALED(status));
	for (unsigned i = 0; i < WORDS; i++)
		REQUIRE(last_word_spoken(word(i)));
	pages_end();
}

static void no_memory(void)
{
	pages_make();
	last_words_destroy(&words);
	memory_fail_after(1, 0);
	REQUIRE_EQ(last_words_create(&words, WORDS, PLACE), -ENOMEM);
	memory_fail_after(2, 0);
	REQUIRE_EQ(last_words_create(&words, WORDS, PLACE), 0);
	REQUIRE_EQ(last_words_add(&words, pages[0]), -ENOMEM);
	memory_fail_after(0, 0);
	pages_end();
}

int main(void)
{
	a_thread_that_ends(false);
	a_thread_that_ends(true);
	a_process_that_is_killed();
	no_memory();
	return 0;
}
