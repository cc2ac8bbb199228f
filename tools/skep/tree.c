/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/memory.h"
#include "tools/skep/commands.h"
#include "tools/skep/json.h"
#include "tools/skep/link.h"
#include "tools/skep/table.h"
#include "tools/text.h"

/*
 * `skep tree`: chains as a tree. A stretch of blocks with one child each is one line, so that what
 * is shown are the forks. Blocks are read page by page and joined here by their ids: the daemon is
 * asked nothing it would have to search for.
 */

enum { PAGE_BLOCKS = 1000, NONE = -1 };

struct branch {
	uint64_t id[2], parent[2], bytes;
	const json_t *block;
	long above, first, next; /* indices of branches: parent, first child, next sibling */
	bool root;
};

struct forest {
	json_t *pages; /* of arrays of blocks: what branches point into */
	struct branch *branches;
	size_t count, limit;
	bool cut; /* there were more than the limit */
};

/* ------------------------------------------------------------------------------- reading */

static int pages_read(
	const struct arguments *arguments, struct link *link, const char *realm, struct forest *to)
{
	const char *space = arguments->option[OPTION_tree_space];
	json_t *cursor = json_integer(0);
	int status = EXIT_OK;

	to->pages = json_array();
	while (!status && json_is_integer(cursor) && !to->cut) {
		json_t *request = json_pack("{s:s s:s s:O s:i}", "command", "blocks", "realm",
			realm, "cursor", cursor, "limit", (int)PAGE_BLOCKS);
		json_t *answer, *page;

		if (space)
			json_object_set_new(request, "space", json_string(space));
		status = link_ask(link, request, &answer);
		if (status)
			break;
		page = json_object_get(answer, "blocks");
		to->count += json_array_size(page);
		json_array_append(to->pages, page);
		json_decref(cursor);
		cursor = json_incref(json_object_get(answer, "cursor"));
		to->cut = to->count > to->limit;
		json_decref(answer);
	}
	json_decref(cursor);
	return status;
}

static int branch_compare(const void *one, const void *other)
{
	return memcmp(((const struct branch *)one)->id, ((const struct branch *)other)->id,
		sizeof(((struct branch *)NULL)->id));
}

static void branch_fill(struct branch *branch, const json_t *block)
{
	const char *parent = json_text(block, "parent");

	branch->block = block;
	branch->bytes = json_number(block, "bytes");
	branch->above = branch->first = branch->next = NONE;
	branch->root = !*parent;
	/* An id that does not read leaves a branch that stands alone. */
	text_id_read(json_text(block, "id"), branch->id);
	if (!branch->root)
		text_id_read(parent, branch->parent);
}

/* Makes branches of the blocks and joins each to its parent. */
static int forest_join(struct forest *forest)
{
	json_t *page, *block;
	size_t i, k, at = 0;

	forest->branches = memory_calloc(forest->count + 1, sizeof(*forest->branches));
	if (!forest->branches)
		return EXIT_DAEMON;
	json_array_foreach(forest->pages, i, page) json_array_foreach(page, k, block)
		branch_fill(&forest->branches[at++], block);
	qsort(forest->branches, forest->count, sizeof(*forest->branches), branch_compare);
	for (i = 0; i < forest->count; i++) {
		struct branch *branch = &forest->branches[i], *above, key;

		memcpy(key.id, branch->parent, sizeof(key.id));
		above = branch->root ? NULL
				     : bsearch(&key, forest->branches, forest->count, sizeof(key),
					       branch_compare);
		if (!above)
			continue;
		branch->above = above - forest->branches;
		branch->next = above->first;
		above->first = (long)i;
	}
	return EXIT_OK;
}

/* ------------------------------------------------------------------------------ printing */

/* A stretch: from its first block to the last before a fork or an end. */
struct stretch {
	long first, last;
	size_t blocks;
	uint64_t bytes;
};

static struct stretch stretch_of(const struct forest *forest, long first)
{
	struct stretch stretch = {.first = first, .last = first};

	for (;;) {
		const struct branch *branch = &forest->branches[stretch.last];

		stretch.blocks++;
		stretch.bytes += branch->bytes;
		if (branch->first == NONE || forest->branches[branch->first].next != NONE)
			return stretch;
		stretch.last = branch->first;
	}
}

static void stretch_print(
	const struct forest *forest, const struct stretch *stretch, unsigned depth)
{
	const json_t *first = forest->branches[stretch->first].block;
	const json_t *last = forest->branches[stretch->last].block, *token;
	char bytes[TEXT_SHORT_BYTES], idle[TEXT_SHORT_BYTES];
	size_t i;

	text_bytes(bytes, stretch->bytes);
	text_span(idle, json_number(last, "idle_ns"));
	printf("%*s%.12s  %zu block%s  %s  idle %s", (int)depth * 2, "", json_text(first, "id"),
		stretch->blocks, stretch->blocks == 1 ? "" : "s", bytes, idle);
	if (strcmp(json_text(last, "state"), "present"))
		printf("  %s", json_text(last, "state"));
	if (json_number(last, "pins") || json_number(last, "operator_pins"))
		printf("  pinned");
	printf("  [");
	json_array_foreach(json_object_get(first, "tokens"), i, token)
		printf("%s%lld", i ? " " : "", (long long)json_integer_value(token));
	printf("]\n");
}

/* Where a walk stands: the next sibling to show at each depth. */
enum { DEPTH_MAX = 64 };

/* Prints the tree below @root without recursion; forks deeper than @depth_max are counted. */
static void tree_print(const struct forest *forest, long root, unsigned depth_max)
{
	long waiting[DEPTH_MAX + 1];
	unsigned depth = 0;

	waiting[0] = root;
	for (;;) {
		struct stretch stretch;
		long at = waiting[depth];

		if (at == NONE) {
			if (depth == 0)
				return;
			depth--;
			continue;
		}
		waiting[depth] = depth ? forest->branches[at].next : NONE;
		stretch = stretch_of(forest, at);
		stretch_print(forest, &stretch, depth);
		if (forest->branches[stretch.last].first == NONE)
			continue;
		if (depth + 1 > depth_max)
			printf("%*s... deeper forks: --depth shows more\n", (int)(depth + 1) * 2,
				"");
		else
			waiting[++depth] = forest->branches[stretch.last].first;
	}
}

static void forest_print(const struct forest *forest, const char *realm, unsigned depth_max)
{
	const char *space = "";
	bool shown;

	/* Space after space; there are few, so each is found by a walk over all roots. */
	do {
		const char *next = NULL;

		shown = false;
		for (size_t i = 0; i < forest->count; i++) {
			const char *name = json_text(forest->branches[i].block, "space");

			if (strcmp(name, space) > 0 && (!next || strcmp(name, next) < 0))
				next = name;
		}
		if (!next)
			break;
		space = next;
		shown = true;
		printf("%s / ", realm);
		text_print_safe(space, stdout);
		printf("\n");
		for (size_t i = 0; i < forest->count; i++)
			if (forest->branches[i].above == NONE &&
				!strcmp(json_text(forest->branches[i].block, "space"), space))
				tree_print(forest, (long)i, depth_max);
	} while (shown);
	if (forest->cut)
		printf("(the first %zu blocks; --limit reads more)\n", forest->count);
}

/* The blocks of a realm as JSON, parents named by id: programs join them themselves. */
static json_t *forest_json(const struct forest *forest, const char *realm)
{
	json_t *blocks = json_array(), *page;
	size_t i;

	json_array_foreach(forest->pages, i, page) json_array_extend(blocks, page);
	return json_pack("{s:s s:o s:b}", "realm", realm, "blocks", blocks, "cut", forest->cut);
}

static int tree_realm(const struct arguments *arguments, struct link *link, const char *realm,
	struct forest *forest, json_t *out)
{
	uint64_t depth = 8, limit = 20000;
	int status;

	if (!arguments_number(
		    arguments, OPTION_tree_depth, (struct number_bounds){0, DEPTH_MAX}, &depth) ||
		!arguments_number(
			arguments, OPTION_tree_limit, (struct number_bounds){1, 100000000}, &limit))
		return EXIT_USAGE;
	forest->limit = limit;
	status = pages_read(arguments, link, realm, forest);
	if (status)
		return status;
	if (out) {
		json_array_append_new(out, forest_json(forest, realm));
		return EXIT_OK;
	}
	status = forest_join(forest);
	if (!status)
		forest_print(forest, realm, (unsigned)depth);
	else
		fputs("skep: out of memory: --limit reads less\n", stderr);
	return status;
}

int command_tree(const struct arguments *arguments)
{
	json_t *answer, *realm, *out = NULL;
	struct link *link;
	size_t i;
	int status;

	if (arguments->words)
		return usage_error(arguments, "tree takes no %s", arguments->word[0]);
	status = link_open(arguments, &link);
	if (status)
		return status;
	status = link_ask(link, request_of(arguments, "realms"), &answer);
	if (arguments->option[OPTION_any_json])
		out = json_array();
	if (!status)
		json_array_foreach(json_object_get(answer, "realms"), i, realm)
		{
			struct forest forest = {0};

			status =
				tree_realm(arguments, link, json_text(realm, "name"), &forest, out);
			memory_free(forest.branches);
			json_decref(forest.pages);
			/* A realm without a space of that name is no reason to end. */
			if (status == EXIT_NEGATIVE &&
				json_array_size(json_object_get(answer, "realms")) > 1)
				status = EXIT_OK;
			if (status)
				break;
		}
	json_decref(answer);
	link_close(link);
	if (out && !status)
		return json_print(out);
	json_decref(out);
	return status;
}
