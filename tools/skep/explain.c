/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/memory.h"
#include "tools/skep/json.h"
#include "tools/skep/link.h"
#include "tools/skep/store.h"
#include "tools/skep/table.h"
#include "tools/skep/tokens.h"
#include "tools/text.h"

/*
 * `skep explain`: how far a prompt matches and why no further. It opens the space as an engine
 * would, from the fingerprint the daemon tells, hashes the tokens and asks.
 */

static int tokens_open(const struct arguments *arguments, struct tokens *tokens)
{
	const char *list = arguments->option[OPTION_explain_token_ids];
	const char *path = arguments->option[OPTION_explain_tokens];
	char why[TOKENS_WHY_MAX];
	FILE *file;
	int status;

	if (list) {
		path = "--token-ids";
		file = *list ? fmemopen((void *)(uintptr_t)list, strlen(list), "r") : NULL;
	} else {
		file = strcmp(path, "-") ? fopen(path, "re") : stdin;
	}
	if (!file) {
		fprintf(stderr, "skep: %s: %s\n", path, list ? "no ids" : strerror(errno));
		return EXIT_USAGE;
	}
	status = tokens_read(file, tokens, why);
	if (status)
		fprintf(stderr, "skep: %s%s\n", path, why);
	if (file != stdin)
		fclose(file);
	return status == -ENOMEM ? EXIT_DAEMON : status ? EXIT_USAGE : EXIT_OK;
}

/* --------------------------------------------------------------------------------- space */

/* What a fingerprint says, for skep_space_open(); texts point into a copy of it. */
struct space_form {
	char text[4096];
	struct skep_space_options options;
	struct skep_part_layout parts[SKEP_PARTS_MAX];
};

static uint32_t number_of(const char *text)
{
	return (uint32_t)strtoul(text, NULL, 10);
}

/* "parts[3]=1048576/32/0": bytes, ranges, rank. */
static void part_take(struct space_form *form, const char *key, const char *value)
{
	unsigned long index = strtoul(key + strlen("parts["), NULL, 10);
	struct skep_part_layout *part = &form->parts[index % SKEP_PARTS_MAX];
	char *end;

	part->bytes = strtoull(value, &end, 10);
	if (*end == '/')
		part->ranges = (uint32_t)strtoul(end + 1, &end, 10);
	if (*end == '/')
		part->rank = (uint16_t)strtoul(end + 1, &end, 10);
}

/* Reads the fingerprint, a field a line. A field this tool does not know makes the space differ,
 * which the daemon then says by name. */
static void form_read(struct space_form *form, const char *name, const char *fingerprint)
{
	struct skep_space_options *options = &form->options;
	const struct {
		const char *key;
		const char **to;
	} texts[] = {{"model", &options->model}, {"weights", &options->weights},
		{"rope", &options->rope}, {"layout", &options->layout},
		{"engine", &options->engine}};
	char *rest = form->text, *line;

	memset(form, 0, sizeof(*form));
	options->struct_bytes = sizeof(*options);
	options->name = name;
	options->parts = form->parts;
	snprintf(form->text, sizeof(form->text), "%s", fingerprint);
	while ((line = strsep(&rest, "\n"))) {
		char *value = strchr(line, '=');

		if (!value)
			continue;
		*value++ = 0;
		for (unsigned i = 0; i < ARRAY_COUNT(texts); i++)
			if (!strcmp(line, texts[i].key))
				*texts[i].to = value;
		if (!strcmp(line, "block_tokens"))
			options->block_tokens = number_of(value);
		else if (!strcmp(line, "ranks"))
			options->ranks = number_of(value);
		else if (!strcmp(line, "part_count"))
			options->part_count = number_of(value);
		else if (!strncmp(line, "parts[", 6))
			part_take(form, line, value);
	}
}

/* Finds the space in the daemon's list. @realm gets the realm it lies in. */
static int space_find(const struct arguments *arguments, struct space_form *form, char realm[64],
	uint32_t *block_tokens)
{
	const char *name = arguments->option[OPTION_explain_space];
	const json_t *found = NULL;
	json_t *answer, *space;
	unsigned count = 0;
	size_t i;
	int status = link_ask_once(arguments, request_of(arguments, "spaces"), &answer);

	if (status)
		return status;
	json_array_foreach(json_object_get(answer, "spaces"), i,
		space) if (!strcmp(json_text(space, "name"), name))
	{
		found = space;
		count++;
	}
	if (count > 1) {
		status = usage_error(arguments,
			"explain: %u realms have a space called %s: say --realm", count, name);
	} else if (!found) {
		fprintf(stderr, "skep: no space is called %s: skep spaces lists them\n", name);
		status = EXIT_NEGATIVE;
	} else {
		form_read(form, name, json_text(found, "fingerprint"));
		if (json_is_true(json_object_get(found, "opaque")))
			form->options.flags |= SKEP_SPACE_OPAQUE;
		snprintf(realm, 64, "%s", json_text(found, "realm"));
		*block_tokens = form->options.block_tokens;
	}
	json_decref(answer);
	return status;
}

/* -------------------------------------------------------------------------------- answer */

struct answer {
	struct skep_explanation why;
	uint32_t blocks, block_tokens;
	bool keyed; /* the space's own blocks are named by an engine's keys */
	size_t tokens;
	char last[TEXT_ID_BYTES], missing[TEXT_ID_BYTES]; /* "" none */
};

static void id_text(const struct skep_chain *chain, uint32_t block, char text[TEXT_ID_BYTES])
{
	uint64_t id[2];

	*text = 0;
	if (skep_chain_id(chain, block, (uint8_t *)id) == 0)
		text_id_write(text, id);
}

/* In a space of keys the tokens stand beside a key that no engine has: its own blocks are not found
 * by them, but another space's are. */
static int chain_fill(struct skep_chain *chain, const struct tokens *tokens,
	const struct skep_space_options *options)
{
	static const uint8_t nobody[16];
	size_t count = tokens->count;

	if (!(options->flags & SKEP_SPACE_OPAQUE))
		return skep_chain_append(chain, tokens->ids, count);
	if (count > options->block_tokens)
		count = options->block_tokens;
	return skep_chain_append_key(chain, nobody, sizeof(nobody), tokens->ids, count);
}

static int ask(struct skep *session, const struct tokens *tokens,
	const struct skep_space_options *options, struct answer *answer)
{
	struct skep_space *space;
	struct skep_chain *chain;
	int status = skep_space_open(session, options, &space);

	if (status) {
		if (*skep_space_field(session))
			fprintf(stderr, "skep: space %s: field %s\n", options->name,
				skep_space_field(session));
		return store_error("the space cannot be opened", status);
	}
	status = skep_chain_create(space, &chain);
	if (status)
		return store_error("no chain", status);
	status = chain_fill(chain, tokens, options);
	if (status >= 0) {
		answer->keyed = options->flags & SKEP_SPACE_OPAQUE;
		answer->blocks = (uint32_t)status;
		answer->why.struct_bytes = sizeof(answer->why);
		status = skep_explain(session, chain, skep_deadline_ms(2000), &answer->why);
	}
	if (status < 0) {
		status = store_error("the daemon did not explain", status);
	} else {
		if (answer->why.matched)
			id_text(chain, answer->why.matched - 1, answer->last);
		if (answer->why.matched < answer->blocks)
			id_text(chain, answer->why.matched, answer->missing);
		status = EXIT_OK;
	}
	skep_chain_destroy(chain);
	skep_space_close(space);
	return status;
}

static int answer_json(const struct answer *answer)
{
	const struct skep_explanation *why = &answer->why;

	return json_print(json_pack("{s:I s:I s:I s:I s:s s:f s:s s:s s:s s:s}", "tokens",
		(json_int_t)answer->tokens, "block_tokens", (json_int_t)answer->block_tokens,
		"blocks", (json_int_t)answer->blocks, "matched", (json_int_t)why->matched, "reason",
		skep_reason_text(why->reason), "seconds_ago", why->seconds_ago, "space", why->space,
		"field", why->field, "last_id", answer->last, "missing_id", answer->missing));
}

static void answer_print(const struct answer *answer)
{
	const struct skep_explanation *why = &answer->why;
	size_t whole = (size_t)answer->blocks * answer->block_tokens;

	if (answer->keyed)
		printf("blocks of this space are named by an engine's keys: only others are "
		       "asked\n");
	printf("%u of %u blocks match: %llu of %zu tokens", why->matched, answer->blocks,
		(unsigned long long)why->matched * answer->block_tokens, answer->tokens);
	if (answer->tokens > whole)
		printf(" (the last %zu fill no block)", answer->tokens - whole);
	printf("\n");
	if (*answer->last)
		printf("last block had     %s\n", answer->last);
	if (why->matched == answer->blocks)
		return;
	printf("first block missed %s\nreason             %s", answer->missing,
		skep_reason_text(why->reason));
	if (why->seconds_ago > 0) {
		char ago[TEXT_SHORT_BYTES];

		text_span(ago, (uint64_t)(why->seconds_ago * (double)NS_PER_S));
		printf(", %s ago", ago);
	}
	if (*why->space && !strcmp(skep_reason_text(why->reason), "hbm")) {
		printf(" of session %s (", why->field);
		text_print_safe(why->space, stdout);
		printf("): a load that asks brings it");
	} else if (*why->space) {
		printf(", space ");
		text_print_safe(why->space, stdout);
		printf(" holds these tokens and differs in %s", why->field);
	}
	printf("\n");
}

int command_explain(const struct arguments *arguments)
{
	static struct space_form form;
	struct tokens tokens = {0};
	struct answer answer = {0};
	struct skep *session = NULL;
	char realm[64];
	int status;

	if (arguments->words || !arguments->option[OPTION_explain_space] ||
		!arguments->option[OPTION_explain_tokens] ==
			!arguments->option[OPTION_explain_token_ids])
		return usage_error(arguments,
			"explain: say --space NAME and --tokens FILE or --token-ids LIST");
	status = tokens_open(arguments, &tokens);
	answer.tokens = tokens.count;
	if (!status)
		status = space_find(arguments, &form, realm, &answer.block_tokens);
	if (!status)
		status = store_open(arguments, realm, SKEP_OPEN_READONLY, &session);
	if (!status) {
		status = ask(session, &tokens, &form.options, &answer);
		skep_close(session);
	}
	tokens_drop(&tokens);
	if (status)
		return status;
	if (arguments->option[OPTION_any_json])
		status = answer_json(&answer);
	else
		answer_print(&answer);
	return status ? status : answer.why.matched < answer.blocks ? EXIT_NEGATIVE : EXIT_OK;
}
