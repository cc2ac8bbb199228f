/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The byte tables of docs/formats/session.md are those of wire.h and page.h.
 *
 *	format_test docs/formats/session.md
 *
 * Each table stands under a heading that ends with the struct's name in backticks and its size; its
 * rows are | offset | bytes | field | … |. All fields must be there, in order, and nothing else.
 */
#include <stddef.h>

#include "tests/base/unit.h"
#include "transport/local/page.h"
#include "transport/local/wire.h"

struct field {
	const char *of, *name;
	size_t offset, bytes;
};

#define ROW(type, field)                                                                           \
	{                                                                                          \
#type, #field, offsetof(struct type, field), sizeof(((struct type *)0)->field)     \
	}

static const struct field fields[] = {
	ROW(wire_head, magic),
	ROW(wire_head, version),
	ROW(wire_head, op),
	ROW(wire_head, bytes),
	ROW(wire_head, status),
	ROW(wire_hello, head),
	ROW(wire_hello, index_version),
	ROW(wire_hello, page_version),
	ROW(wire_hello, flags),
	ROW(wire_hello, pid_hint),
	ROW(wire_hello, realm),
	ROW(wire_hello, token),
	ROW(wire_hello, name),
	ROW(wire_hello_answer, head),
	ROW(wire_hello_answer, incarnation),
	ROW(wire_hello_answer, session),
	ROW(wire_hello_answer, page_bytes),
	ROW(wire_hello_answer, index_bytes),
	ROW(wire_hello_answer, pool_bytes),
	ROW(wire_hello_answer, chunk_bytes),
	ROW(wire_hello_answer, chunk_count),
	ROW(wire_hello_answer, daemon_version),
	ROW(wire_hello_answer, realm),
	ROW(wire_part, bytes),
	ROW(wire_part, ranges),
	ROW(wire_part, rank),
	ROW(wire_part, group),
	ROW(wire_space_open, head),
	ROW(wire_space_open, name),
	ROW(wire_space_open, model),
	ROW(wire_space_open, weights),
	ROW(wire_space_open, rope),
	ROW(wire_space_open, layout),
	ROW(wire_space_open, engine),
	ROW(wire_space_open, block_tokens),
	ROW(wire_space_open, ranks),
	ROW(wire_space_open, groups),
	ROW(wire_space_open, part_count),
	ROW(wire_space_open, flags),
	ROW(wire_space_open, reserved),
	ROW(wire_space_open, parts),
	ROW(wire_space_answer, head),
	ROW(wire_space_answer, space),
	ROW(wire_space_answer, reserved),
	ROW(wire_space_answer, generation),
	ROW(wire_space_answer, version),
	ROW(wire_space_answer, secret),
	ROW(wire_space_answer, field),
	ROW(wire_number, head),
	ROW(wire_number, number),
	ROW(wire_stats, head),
	ROW(wire_stats, dram_bytes),
	ROW(wire_stats, dram_bytes_used),
	ROW(wire_stats, blocks),
	ROW(wire_stats, blocks_pending),
	ROW(wire_stats, tokens_asked),
	ROW(wire_stats, tokens_had),
	ROW(wire_stats, puts),
	ROW(wire_stats, puts_refused),
	ROW(wire_stats, evicted),
	ROW(wire_stats, pins),
	ROW(wire_stats, sessions),
	ROW(wire_stats, checksum_failures),
	ROW(wire_index, head),
	ROW(wire_index, incarnation),
	ROW(wire_index, index_bytes),
	ROW(wire_index, number),
	ROW(wire_index, reserved),
	ROW(wire_piece, head),
	ROW(wire_piece, last),
	ROW(wire_piece, text_bytes),
	ROW(page_head, magic),
	ROW(page_head, version),
	ROW(page_head, bytes),
	ROW(page_head, submissions_at),
	ROW(page_head, completions_at),
	ROW(page_head, pins_at),
	ROW(page_head, scratch_at),
	ROW(page_head, scratch_bytes),
	ROW(page_head, pin_count),
	ROW(page_head, durable_ns),
	ROW(page_head, daemon_asleep),
	ROW(page_head, waiters),
	ROW(page_head, completed),
	ROW(page_head, pins_used),
	ROW(page_head, index_number),
	ROW(page_head, submission_head),
	ROW(page_head, submission_tail),
	ROW(page_head, completion_head),
	ROW(page_head, completion_tail),
	ROW(submission, op),
	ROW(submission, queue),
	ROW(submission, tag),
	ROW(submission, scratch_at),
	ROW(submission, scratch_bytes),
	ROW(submission, slot),
	ROW(submission, count),
	ROW(submission, generation),
	ROW(submission, deadline_ns),
	ROW(submission, u.touch.asked),
	ROW(submission, u.touch.matched),
	ROW(submission, u.touch.reason),
	ROW(submission, u.touch.space),
	ROW(submission, u.touch.stored),
	ROW(submission, u.touch.missing_low),
	ROW(submission, u.reserve.space),
	ROW(submission, u.reserve.part),
	ROW(submission, u.reserve.length),
	ROW(submission, u.reserve.space_generation),
	ROW(submission, u.reserve.reserved),
	ROW(submission, u.other.kind),
	ROW(submission, u.other.part),
	ROW(submission, u.other.flags),
	ROW(submission, u.other.reserved),
	ROW(completion, tag),
	ROW(completion, status),
	ROW(completion, value),
	ROW(completion, reserved),
	ROW(completion, more),
	ROW(reserve_block, token_at),
	ROW(reserve_block, token_count),
	ROW(reserve_block, blob_at),
	ROW(reserve_block, key_bytes),
	ROW(reserve_block, extra_bytes),
	ROW(reserve_block, status),
	ROW(reserve_block, slot),
	ROW(reserve_block, name_generation),
	ROW(reserve_block, write),
	ROW(reserve_block, frame),
	ROW(reserve_block, bytes),
	ROW(commit_part, slot),
	ROW(commit_part, part),
	ROW(commit_part, ranges),
	ROW(commit_part, write),
	ROW(commit_part, root_low),
	ROW(commit_part, root_high),
	ROW(commit_part, status),
	ROW(commit_part, reserved),
	ROW(load_part, slot),
	ROW(load_part, ranges),
	ROW(load_part, name_generation),
	ROW(remove_part, slot),
	ROW(remove_part, status),
	ROW(remove_part, name_generation),
	ROW(hbm_part, slot),
	ROW(hbm_part, status),
	ROW(hbm_part, name_generation),
	ROW(hbm_part, deadline_ns),
	ROW(explain_answer, reason),
	ROW(explain_answer, reserved),
	ROW(explain_answer, ago_ns),
	ROW(explain_answer, space),
	ROW(explain_answer, field),
};

#define SIZE(type)                                                                                 \
	{                                                                                          \
#type, sizeof(struct type)                                                         \
	}

static const struct {
	const char *name;
	size_t bytes;
} sizes[] = {
	SIZE(wire_head),
	SIZE(wire_hello),
	SIZE(wire_hello_answer),
	SIZE(wire_part),
	SIZE(wire_space_open),
	SIZE(wire_space_answer),
	SIZE(wire_number),
	SIZE(wire_stats),
	SIZE(wire_index),
	SIZE(wire_piece),
	SIZE(page_head),
	SIZE(submission),
	SIZE(completion),
	SIZE(reserve_block),
	SIZE(commit_part),
	SIZE(load_part),
	SIZE(remove_part),
	SIZE(hbm_part),
	SIZE(explain_answer),
};

/* "### … `struct name`, 16 bytes": which struct's table follows; NULL: another heading. */
static const char *heading_of(const char *line)
{
	char name[64];
	size_t bytes;
	const char *at = strstr(line, "`struct ");

	if (strncmp(line, "### ", 4) || !at)
		return NULL;
	REQUIRE_EQ(sscanf(at, "`struct %63[a-z_]`, %zu bytes", name, &bytes), 2);
	for (unsigned i = 0; i < ARRAY_COUNT(sizes); i++)
		if (!strcmp(sizes[i].name, name)) {
			REQUIRE_EQ(bytes, sizes[i].bytes);
			return sizes[i].name;
		}
	fprintf(stderr, "%s is not known here\n", name);
	exit(1);
}

static void row_check(const char *of, const char *line, unsigned row)
{
	char name[64];
	size_t offset, bytes;

	REQUIRE_EQ(sscanf(line, "| %zu | %zu | %63[a-z_.]", &offset, &bytes, name), 3);
	REQUIRE(row < ARRAY_COUNT(fields));
	if (strcmp(fields[row].of, of) || strcmp(fields[row].name, name)) {
		fprintf(stderr, "%s.%s stands where %s.%s belongs\n", of, name, fields[row].of,
			fields[row].name);
		exit(1);
	}
	if (fields[row].offset != offset || fields[row].bytes != bytes) {
		fprintf(stderr, "%s.%s: %zu bytes at %zu\n", of, name, fields[row].bytes,
			fields[row].offset);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	FILE *page = argc > 1 ? fopen(argv[1], "r") : NULL;
	const char *of = NULL;
	unsigned rows = 0, tables = 0;
	char line[512];

	REQUIRE(page != NULL);
	while (fgets(line, sizeof(line), page)) {
		size_t offset, bytes;

		if (line[0] == '#') {
			of = heading_of(line);
			tables += of != NULL;
		} else if (of && sscanf(line, "| %zu | %zu |", &offset, &bytes) == 2) {
			row_check(of, line, rows++);
		}
	}
	fclose(page);
	REQUIRE_EQ(tables, ARRAY_COUNT(sizes));
	REQUIRE_EQ(rows, ARRAY_COUNT(fields));
	/* Where the areas of the page lie is said in words. */
	REQUIRE_EQ(page_submissions_at(), 1600);
	REQUIRE_EQ(page_completions_at(), 34368);
	REQUIRE_EQ(page_pins_at(), 181824);
	REQUIRE_EQ(page_scratch_at(), 249856);
	REQUIRE_EQ(page_bytes(), 2347008);
	printf("%u tables, %u fields\n", tables, rows);
	return 0;
}
