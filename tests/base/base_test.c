/* SPDX-License-Identifier: Apache-2.0 */
/* The small pieces that everything stands on: status, check, log, memory, lists, clock, bits. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>

#include "base/check.h"
#include "base/list.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/status.h"
#include "tests/base/unit.h"

/* --- status ----------------------------------------------------------------------------------- */

static void every_status_has_a_name_and_a_text(void)
{
	static const struct {
		int status;
		const char *name;
	} own[] = {
#define X(name, number, text) {SKEP_STATUS_##name, #name},
		SKEP_STATUS_TABLE(X)
#undef X
	};

	for (size_t i = 0; i < ARRAY_COUNT(own); i++) {
		REQUIRE_TEXT(status_name(own[i].status), own[i].name);
		REQUIRE(strlen(status_text(own[i].status)) > 10);
		REQUIRE(own[i].status < -4095); /* apart from every errno */
		REQUIRE(!strerrordesc_np(-own[i].status));
		for (size_t j = 0; j < i; j++)
			REQUIRE(own[j].status != own[i].status);
	}
	REQUIRE_TEXT(status_name(-ENOMEM), "ENOMEM");
	REQUIRE_TEXT(status_text(-ENOMEM), "Cannot allocate memory");
	REQUIRE_TEXT(status_name(0), "OK");
	REQUIRE_TEXT(status_name(-3999), "E?");
	REQUIRE_TEXT(status_text(-3999), "unknown error");
}

static void every_reason_has_its_word(void)
{
	for (unsigned i = 0; i < SKEP_REASON_COUNT; i++) {
		const char *word = reason_word(i);

		REQUIRE(*word && word[strspn(word, "abcdefghijklmnopqrstuvwxyz_")] == 0);
		REQUIRE(strcmp(word, "unknown") && *reason_text(i));
		for (unsigned j = 0; j < i; j++)
			REQUIRE(strcmp(word, reason_word(j)));
	}
	REQUIRE_TEXT(reason_word(SKEP_REASON_NEVER_SEEN), "never_seen");
	REQUIRE_TEXT(reason_word(SKEP_REASON_COUNT), "unknown");
	REQUIRE_TEXT(reason_text(UINT32_MAX), "unknown reason");
}

/* --- check ------------------------------------------------------------------------------------ */

static void check_false(void *context)
{
	int *count = context;

	SKEP_CHECK(++*count < 0);
}

static void check_true(void *context)
{
	int *count = context;

	SKEP_CHECK(++*count == 1); /* evaluated once */
	SKEP_CHECK(*count == 1);
	SKEP_ASSERT(*count == 1);
}

static void a_failed_check_aborts(void)
{
	int count = 0;

	REQUIRE(unit_aborts(check_false, &count));
	REQUIRE(!unit_aborts(check_true, &count));
}

/* --- log -------------------------------------------------------------------------------------- */

struct capture {
	int pipe[2], stderr_before;
};

static void capture_begin(struct capture *capture)
{
	capture->stderr_before = dup(STDERR_FILENO);
	REQUIRE(capture->stderr_before >= 0 && !pipe2(capture->pipe, O_NONBLOCK));
	REQUIRE(dup2(capture->pipe[1], STDERR_FILENO) == STDERR_FILENO);
	close(capture->pipe[1]);
}

/* What was written, in @text. */
static void capture_end(struct capture *capture, char *text, size_t room)
{
	ssize_t got = read(capture->pipe[0], text, room - 1);

	REQUIRE(dup2(capture->stderr_before, STDERR_FILENO) == STDERR_FILENO);
	close(capture->stderr_before);
	close(capture->pipe[0]);
	text[got > 0 ? got : 0] = 0;
}

/* "2024-01-31T12:34:56.789Z" at the start of @text. */
static bool is_stamp(const char *text)
{
	static const char shape[] = "dddd-dd-ddTdd:dd:dd.dddZ";

	for (size_t i = 0; i < sizeof(shape) - 1; i++)
		if (shape[i] == 'd' ? text[i] < '0' || text[i] > '9' : text[i] != shape[i])
			return false;
	return true;
}

static void log_lines_are_written_up_to_the_level(void)
{
	struct capture capture;
	char text[4096];

	REQUIRE_EQ(log_get_level(), LOG_LEVEL_WARN);
	capture_begin(&capture);
	log_info("test", "not written");
	log_debug("test", "not written");
	capture_end(&capture, text, sizeof(text));
	REQUIRE_TEXT(text, "");

	capture_begin(&capture);
	errno = ENOSPC;
	log_error("test", "%d of %s: %m", 3, "four");
	REQUIRE_EQ(errno, ENOSPC);
	capture_end(&capture, text, sizeof(text));
	REQUIRE(is_stamp(text));
	REQUIRE_TEXT(text + 24, " error test: 3 of four: No space left on device\n");

	log_set_level(LOG_LEVEL_DEBUG);
	capture_begin(&capture);
	log_debug("test", "now");
	capture_end(&capture, text, sizeof(text));
	REQUIRE_TEXT(text + 24, " debug test: now\n");
	log_set_level(LOG_LEVEL_WARN);
	REQUIRE_EQ(log_level_parse("info"), LOG_LEVEL_INFO);
	REQUIRE_EQ(log_level_parse("loud"), -EINVAL);
}

static void a_long_log_line_is_cut_and_still_ends(void)
{
	struct capture capture;
	char text[8192], filler[5000];

	memset(filler, 'x', sizeof(filler) - 1);
	filler[sizeof(filler) - 1] = 0;
	capture_begin(&capture);
	log_warn("test", "%s", filler);
	capture_end(&capture, text, sizeof(text));
	REQUIRE(strlen(text) > 1000 && strlen(text) < 2000);
	REQUIRE(strchr(text, '\n') == text + strlen(text) - 1);
}

/* Last of the log's: the JSON form stays on. */
static void json_lines_are_escaped(void)
{
	struct capture capture;
	char text[8192], filler[5000];

	log_set_json(true);
	capture_begin(&capture);
	log_warn("test", "a \"b\" \\ c\n\x01 \xc3\xa9");
	capture_end(&capture, text, sizeof(text));
	REQUIRE(!strncmp(text, "{\"time\":\"", 9) && is_stamp(text + 9));
	REQUIRE_TEXT(text + 33, "\",\"level\":\"warn\",\"area\":\"test\","
				"\"text\":\"a \\\"b\\\" \\\\ c\\u000a\\u0001 \xc3\xa9\"}\n");
	memset(filler, '\n', sizeof(filler) - 1);
	filler[sizeof(filler) - 1] = 0;
	capture_begin(&capture);
	log_warn("test", "%s", filler);
	capture_end(&capture, text, sizeof(text));
	REQUIRE(strlen(text) > 1000);
	REQUIRE_TEXT(text + strlen(text) - 9, "\\u000a\"}\n");
	log_set_json(false);
}

/* --- memory ----------------------------------------------------------------------------------- */

/* Bit i is set where the i-th of eight allocations failed. */
static unsigned failures(void)
{
	unsigned bits = 0;

	for (int i = 0; i < 8; i++) {
		void *memory = i % 2 ? memory_zalloc(16) : memory_calloc(2, 8);

		bits |= memory ? 0 : 1u << i;
		memory_free(memory);
	}
	return bits;
}

static void the_nth_allocation_fails(void)
{
	char *old, *more;

	REQUIRE_EQ(failures(), 0);
	for (unsigned nth = 1; nth <= 8; nth++) {
		memory_fail_after(nth, 0);
		REQUIRE_EQ(failures(), 1u << (nth - 1));
		REQUIRE_EQ(failures(), 0);
		memory_fail_after(nth, 1);
		REQUIRE_EQ(failures(), 0xffu & ~0u << (nth - 1));
		REQUIRE_EQ(failures(), 0xff);
		memory_fail_after(0, 0);
		REQUIRE_EQ(failures(), 0);
	}
	old = memory_strdup("old");
	REQUIRE_TEXT(old, "old");
	memory_fail_after(1, 0);
	errno = 0;
	REQUIRE(!memory_realloc(old, 100) && errno == ENOMEM);
	REQUIRE_TEXT(old, "old"); /* a failed one leaves the old block */
	memory_fail_after(1, 0);
	REQUIRE(!memory_strdup(old));
	memory_fail_after(1, 0);
	REQUIRE(memory_should_fail() && !memory_should_fail());
	more = memory_realloc(old, 100);
	REQUIRE_TEXT(more, "old");
	memory_free(more);
	memory_free(NULL);
#ifndef UNIT_SANITIZED /* they abort where malloc says no */
	REQUIRE(!memory_calloc(SIZE_MAX / 2, 4));
#endif
}

static void *count_failures(void *argument)
{
	int *count = argument;

	for (int i = 0; i < 10000; i++)
		*count += memory_should_fail();
	return NULL;
}

static void one_fails_however_many_threads_allocate(void)
{
	for (unsigned long round = 0; round < 100; round++) {
		pthread_t threads[4];
		int counts[4] = {0}, sum = 0;

		memory_fail_after(10000 + round, 0); /* when all of them are under way */
		for (int i = 0; i < 4; i++)
			REQUIRE_EQ(
				pthread_create(&threads[i], NULL, count_failures, &counts[i]), 0);
		for (int i = 0; i < 4; i++) {
			pthread_join(threads[i], NULL);
			sum += counts[i];
		}
		memory_fail_after(0, 0);
		REQUIRE_EQ(sum, 1);
	}
}

/* --- list, clock, bits ------------------------------------------------------------------------ */

struct item {
	int number;
	struct list link;
};

/* The items' numbers as digits. */
static int list_digits(const struct list *head)
{
	int digits = 0;

	list_each (node, head)
		digits = digits * 10 + list_item(node, struct item, link)->number;
	return digits;
}

static void lists_keep_their_order(void)
{
	struct list head, other;
	struct item items[5];

	list_init(&head);
	list_init(&other);
	REQUIRE(list_empty(&head));
	for (int i = 0; i < 5; i++) {
		items[i].number = i + 1;
		list_append(&head, &items[i].link);
	}
	REQUIRE_EQ(list_digits(&head), 12345);
	list_remove(&items[2].link);
	list_remove(&items[2].link); /* harmless */
	REQUIRE_EQ(list_digits(&head), 1245);
	list_add_before(&items[3].link, &items[2].link);
	REQUIRE_EQ(list_digits(&head), 12345);
	list_each_safe (node, &head) {
		if (list_item(node, struct item, link)->number % 2 == 0) {
			list_remove(node);
			list_append(&other, node);
		}
	}
	REQUIRE_EQ(list_digits(&head), 135);
	REQUIRE_EQ(list_digits(&other), 24);
	list_each_safe (node, &head)
		list_remove(node);
	REQUIRE(list_empty(&head));
}

static void numbers_do_not_wrap(void)
{
	uint64_t before = clock_ns();
	uint32_t counts[7] = {0};

	REQUIRE(clock_ns() >= before);
	REQUIRE(clock_after(5, 6) == 11);
	REQUIRE(clock_after(5, CLOCK_NEVER) == CLOCK_NEVER);
	REQUIRE(clock_after(5, CLOCK_NEVER - 5) == CLOCK_NEVER);
	REQUIRE(clock_after(5, CLOCK_NEVER - 6) == CLOCK_NEVER - 1);
	REQUIRE_EQ(align_up(0, 8), 0);
	REQUIRE_EQ(align_up(1, 8), 8);
	REQUIRE_EQ(align_up(8, 8), 8);
	REQUIRE(divide_up(UINT64_MAX, 2) == 1ull << 63);
	REQUIRE_EQ(divide_up(9, 3), 3);
	REQUIRE_EQ(divide_up(10, 3), 4);
	for (uint32_t i = 0; i < 70000; i++)
		counts[hash_range((uint32_t)mix64(i), 7)]++;
	for (int i = 0; i < 7; i++)
		REQUIRE(counts[i] > 9500 && counts[i] < 10500);
	REQUIRE_EQ(hash_range(UINT32_MAX, 7), 6);
}

int main(int argc, char **argv)
{
	unit_seed(argc, argv);
	every_status_has_a_name_and_a_text();
	every_reason_has_its_word();
	a_failed_check_aborts();
	log_lines_are_written_up_to_the_level();
	a_long_log_line_is_cut_and_still_ends();
	json_lines_are_escaped();
	the_nth_allocation_fails();
	one_fails_however_many_threads_allocate();
	lists_keep_their_order();
	numbers_do_not_wrap();
	return 0;
}
