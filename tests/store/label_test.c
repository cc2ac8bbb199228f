/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Labels: what a page of docs/formats says is what is written; what was written is read back; what
 * is malformed is refused.
 *
 *	store_label_test docs/formats/label.md
 */
#include <errno.h>
#include <stddef.h>

#include "store/label.h"
#include "tests/store/play.h"

static const struct {
	const char *of, *name;
	size_t offset, bytes;
} fields[] = {
#define ROW(type, field)                                                                           \
	{                                                                                          \
#type, #field, offsetof(struct type, field), sizeof(((struct type *)0)->field)     \
	}
	ROW(label_head, kind),
	ROW(label_head, version),
	ROW(label_head, bytes),
	ROW(label_head, space_key),
	ROW(label_head, id_low),
	ROW(label_head, id_high),
	ROW(label_head, parent_low),
	ROW(label_head, parent_high),
	ROW(label_head, incarnation),
	ROW(label_head, parent_incarnation),
	ROW(label_head, parent_write),
	ROW(label_head, token_count),
	ROW(label_head, range_sums),
	ROW(label_head, parts),
	ROW(label_head, key_bytes),
	ROW(label_head, extra_bytes),
	ROW(label_head, reserved),
	ROW(label_part, bytes),
	ROW(label_part, write),
	ROW(label_part, root_low),
	ROW(label_part, root_high),
	ROW(label_space, kind),
	ROW(label_space, version),
	ROW(label_space, bytes),
	ROW(label_space, space_key),
	ROW(label_space, space_version),
	ROW(label_space, request),
};

static void the_page_says_what_is(const char *path)
{
	FILE *page = fopen(path, "r");
	char line[512], of[64] = "", name[64];
	unsigned row = 0;
	size_t offset, bytes;

	REQUIRE(page != NULL);
	while (fgets(line, sizeof(line), page)) {
		const char *at = strstr(line, "`struct ");

		if (!strncmp(line, "### ", 4) && at) {
			REQUIRE_EQ(sscanf(at, "`struct %63[a-z_]`, %zu bytes", of, &bytes), 2);
			REQUIRE_EQ(bytes, !strcmp(of, "label_head")   ? sizeof(struct label_head)
					  : !strcmp(of, "label_part") ? sizeof(struct label_part)
								      : sizeof(struct label_space));
		} else if (sscanf(line, "| %zu | %zu | %63[a-z_]", &offset, &bytes, name) == 3) {
			REQUIRE(row < ARRAY_COUNT(fields));
			REQUIRE_TEXT(of, fields[row].of);
			REQUIRE_TEXT(name, fields[row].name);
			REQUIRE_EQ(offset, fields[row].offset);
			REQUIRE_EQ(bytes, fields[row].bytes);
			row++;
		}
	}
	fclose(page);
	REQUIRE_EQ(row, ARRAY_COUNT(fields));
}

/* A label made by hand, with all that one can have. */
static uint32_t label_write(uint8_t *room, uint32_t tokens, uint32_t key, uint32_t extra)
{
	struct label_head head = {.kind = LABEL_BLOCK,
		.version = LABEL_VERSION,
		.token_count = tokens,
		.range_sums = 3,
		.parts = 2,
		.key_bytes = (uint16_t)key,
		.extra_bytes = (uint16_t)extra};

	head.bytes = (uint32_t)(sizeof(head) + 2 * sizeof(struct label_part) +
				align_up(tokens * 4ull, 8) + align_up(key + extra, 8) + 24);
	for (uint32_t i = sizeof(head); i < head.bytes; i++)
		room[i] = (uint8_t)mix64(i);
	memcpy(room, &head, sizeof(head));
	return head.bytes;
}

static void what_was_written_is_read(void)
{
	static _Alignas(8) uint8_t room[SSD_LABEL_MAX];
	uint32_t bytes = label_write(room, 5, 16, 7);
	struct label_block label;

	REQUIRE_EQ(label_block_read(room, bytes, &label), 0);
	REQUIRE_EQ(label.head.parts, 2);
	REQUIRE_EQ(label.proof.token_count, 5);
	REQUIRE_EQ((const uint8_t *)label.proof.tokens - room, 88 + 64);
	REQUIRE_EQ((const uint8_t *)label.proof.key - room, 88 + 64 + 24);
	REQUIRE_EQ((const uint8_t *)label.proof.extra - room, 88 + 64 + 24 + 16);
	REQUIRE_EQ((const uint8_t *)label.sums - room, 88 + 64 + 24 + 24);
	bytes = label_write(room, 4, 0, 0);
	REQUIRE_EQ(label_block_read(room, bytes, &label), 0);
	REQUIRE(!label.proof.key && !label.proof.extra);
}

/* Each length cut short, each byte of the head changed: refused, or read within its bounds. */
static void what_is_malformed_is_refused(uint64_t seed)
{
	static _Alignas(8) uint8_t room[SSD_LABEL_MAX];
	struct label_block label;
	struct label_space space;
	uint32_t bytes = label_write(room, 5, 16, 7), refused = 0;

	for (uint32_t cut = 0; cut < bytes; cut++)
		REQUIRE_EQ(label_block_read(room, cut, &label), -EBADMSG);
	for (uint32_t i = 0; i < 20000; i++) {
		uint8_t *copy = malloc(bytes); /* of the exact size: ASan sees what passes it */

		REQUIRE(copy != NULL);
		memcpy(copy, room, bytes);
		for (unsigned k = 0; k < 1 + i % 3; k++)
			copy[unit_random(&seed, sizeof(struct label_head))] =
				(uint8_t)unit_random(&seed, 256);
		if (label_block_read(copy, bytes, &label) < 0) {
			refused++;
		} else {
			const uint8_t *end = (const uint8_t *)(label.sums + label.head.range_sums);

			REQUIRE_EQ(end - copy, bytes);
		}
		REQUIRE_EQ(label_space_read(copy, bytes, &space), -EBADMSG);
		free(copy);
	}
	REQUIRE(refused > 1000);
}

int main(int argc, char **argv)
{
	REQUIRE(argc > 1);
	the_page_says_what_is(argv[1]);
	what_was_written_is_read();
	what_is_malformed_is_refused(unit_seed(argc - 1, argv + 1));
	return 0;
}
