/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/memory.h"
#include "tools/skep/json.h"
#include "tools/skep/link.h"
#include "tools/skep/payload.h"
#include "tools/skep/store.h"
#include "tools/text.h"

/*
 * `skep selftest`: goes the way of an engine's block once, in a space of its own, with bytes that
 * are a function of the block's name, and looks from the operator's side whether the daemon saw the
 * same. Blocks of another run have other tokens, so runs do not disturb each other.
 */

enum { BLOCK_TOKENS = 16, BLOCKS_MAX = 4096, WAIT_MS = 5000 };

struct selftest {
	const struct arguments *arguments;
	uint64_t blocks, bytes, seed;
	struct skep *session;
	struct skep_space *space;
	struct skep_chain *chain;
	struct skep_ref *refs;
	struct skep_frame *frames;
	uint8_t *copy;
	struct skep_pin pin;
	json_t *steps; /* of --json, or NULL */
	char wrong[256];
};

static int wrong(struct selftest *test, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static int wrong(struct selftest *test, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	vsnprintf(test->wrong, sizeof(test->wrong), format, list);
	va_end(list);
	return EXIT_DAEMON;
}

/* ------------------------------------------------------------------------------- the steps */

static int step_open(struct selftest *test)
{
	struct skep_part_layout part = {.bytes = test->bytes, .ranges = 1};
	struct skep_space_options options = {
		.struct_bytes = sizeof(options),
		.model = "selftest",
		.engine = "skep selftest",
		.block_tokens = BLOCK_TOKENS,
		.part_count = 1,
		.parts = &part,
	};
	uint32_t tokens[BLOCK_TOKENS];
	char name[64];
	int status;

	/* The size is part of what must agree, so it is part of the name. */
	snprintf(name, sizeof(name), "skep-selftest-%" PRIu64, test->bytes);
	options.name = name;
	status = store_open(test->arguments, NULL, 0, &test->session);
	if (status)
		return wrong(test, "no session"), status;
	status = skep_space_open(test->session, &options, &test->space);
	if (status)
		return wrong(test, "space %s: %s %s", name, skep_status_text(status),
			skep_space_field(test->session));
	status = skep_chain_create(test->space, &test->chain);
	for (uint64_t i = 0; i < test->blocks && status >= 0; i++) {
		for (unsigned t = 0; t < BLOCK_TOKENS; t++)
			tokens[t] = (uint32_t)mix64(test->seed + i * BLOCK_TOKENS + t);
		status = skep_chain_append(test->chain, tokens, BLOCK_TOKENS);
	}
	return status < 0 ? wrong(test, "no chain: %s", skep_status_text(status)) : EXIT_OK;
}

static struct payload payload_at(const struct selftest *test, uint64_t block)
{
	uint64_t id[2] = {0, 0};

	skep_chain_id(test->chain, (uint32_t)block, (uint8_t *)id);
	return payload_of(id, 0);
}

static int step_put(struct selftest *test)
{
	uint32_t done = 0;

	while (done < test->blocks) {
		struct skep_reserve reserve = {
			.struct_bytes = sizeof(reserve),
			.chain = test->chain,
			.first = done,
			.count = (uint32_t)test->blocks - done,
			.deadline_ns = skep_deadline_ms(WAIT_MS),
		};
		int count = skep_reserve(test->session, &reserve, test->frames);

		if (count <= 0)
			return wrong(test, "block %u cannot be reserved: %s", done,
				skep_status_text(count));
		for (int i = 0; i < count; i++) {
			if (test->frames[i].status)
				return wrong(test, "block %u cannot be reserved: %s",
					done + (unsigned)i,
					skep_status_text(test->frames[i].status));
			payload_fill(payload_at(test, done + (unsigned)i),
				(struct payload_range){0, test->bytes}, test->frames[i].bytes);
		}
		if (skep_commit(test->session, test->frames, (unsigned)count, NULL) != count)
			return wrong(test, "block %u cannot be committed: %s", done,
				skep_status_text(test->frames[0].status));
		done += (uint32_t)count;
	}
	return EXIT_OK;
}

/* Matches the chain; how many blocks were had, or a negative result. */
static int64_t match(struct selftest *test, uint32_t flags, uint32_t *reason)
{
	struct skep_match request = {
		.struct_bytes = sizeof(request),
		.chain = test->chain,
		.flags = flags,
		.refs = test->refs,
		.refs_max = (uint32_t)test->blocks,
	};
	int status = skep_match(test->session, &request, 1);

	if (flags & SKEP_MATCH_PIN)
		test->pin = request.pin;
	*reason = request.reason;
	return status < 0 ? status : (int64_t)request.matched;
}

static int step_match(struct selftest *test)
{
	uint32_t reason;
	int64_t matched = match(test, SKEP_MATCH_PIN, &reason);

	if (matched < 0)
		return wrong(test, "%s", skep_status_text((int)matched));
	if ((uint64_t)matched != test->blocks)
		return wrong(test, "%" PRIi64 " of %" PRIu64 " blocks match; the next one: %s",
			matched, test->blocks, skep_reason_text(reason));
	return EXIT_OK;
}

static int bytes_check(struct selftest *test, uint64_t block, const void *bytes, const char *how)
{
	size_t at = payload_check(
		payload_at(test, block), (struct payload_range){0, test->bytes}, bytes);

	if (at == PAYLOAD_RIGHT)
		return EXIT_OK;
	return wrong(test, "block %" PRIu64 ", %s: wrong byte at %zu", block, how, at);
}

static int step_get(struct selftest *test)
{
	for (uint64_t i = 0; i < test->blocks; i++) {
		struct skep_view view;
		int status = skep_view(test->session, &test->refs[i], 0, &view);

		if (status)
			return wrong(test, "block %" PRIu64 ": %s", i, skep_status_text(status));
		if (view.length != test->bytes)
			return wrong(
				test, "block %" PRIu64 " has %" PRIu64 " bytes", i, view.length);
		status = bytes_check(test, i, view.bytes, "in place");
		if (status)
			return status;
	}
	return EXIT_OK;
}

static int step_verify(struct selftest *test)
{
	for (uint64_t i = 0; i < test->blocks; i++) {
		struct iovec to = {test->copy, test->bytes};
		struct skep_copy copy = {
			.struct_bytes = sizeof(copy),
			.space = test->space,
			.ref = test->refs[i],
			.to = &to,
			.to_count = 1,
		};
		int64_t got = skep_copy(test->session, &copy);
		int status;

		if (got != (int64_t)test->bytes)
			return wrong(test, "block %" PRIu64 ": %s", i, skep_status_text((int)got));
		status = bytes_check(test, i, test->copy, "copied");
		if (status)
			return status;
	}
	return EXIT_OK;
}

/* Asks the daemon about the chain's first or last block, or to remove it. */
static int daemon_ask(struct selftest *test, const char *command, uint32_t block, json_t **answer)
{
	json_t *request = request_of(test->arguments, command);
	char text[TEXT_ID_BYTES];
	uint64_t id[2];
	int status;

	skep_chain_id(test->chain, block, (uint8_t *)id);
	text_id_write(text, id);
	json_object_set_new(request, "id", json_string(text));
	status = link_ask_once(test->arguments, request, answer);
	return status ? wrong(test, "%s %s", command, text) : EXIT_OK;
}

static int step_daemon(struct selftest *test)
{
	uint32_t last = (uint32_t)test->blocks - 1;
	const json_t *block;
	json_t *answer;
	int status = daemon_ask(test, "where", last, &answer);

	if (status)
		return status;
	block = json_object_get(answer, "block");
	if (strcmp(json_text(block, "state"), "present") || json_number(block, "depth") != last ||
		json_number(block, "bytes") != test->bytes || !json_number(block, "pins"))
		status = wrong(test,
			"the daemon says: %s, depth %" PRIu64 ", %" PRIu64 " bytes, %" PRIu64
			" pins",
			json_text(block, "state"), json_number(block, "depth"),
			json_number(block, "bytes"), json_number(block, "pins"));
	json_decref(answer);
	return status;
}

static int step_remove(struct selftest *test)
{
	json_t *answer;
	uint32_t reason;
	int64_t matched;
	int status;

	skep_release(test->session, &test->pin);
	status = daemon_ask(test, "evict", 0, &answer);
	if (status)
		return status;
	if (json_number(answer, "blocks") != test->blocks)
		status = wrong(test, "%" PRIu64 " of %" PRIu64 " blocks were removed",
			json_number(answer, "blocks"), test->blocks);
	json_decref(answer);
	if (status)
		return status;
	matched = match(test, SKEP_MATCH_PEEK, &reason);
	if (matched)
		return wrong(test, "%" PRIi64 " blocks match after removal", matched);
	return EXIT_OK;
}

static const struct step {
	const char *name;
	int (*run)(struct selftest *test);
} steps[] = {
	{"open", step_open},
	{"put", step_put},
	{"match", step_match},
	{"get", step_get},
	{"verify", step_verify},
	{"daemon", step_daemon},
	{"remove", step_remove},
};

/* ------------------------------------------------------------------------------- the whole */

static int steps_run(struct selftest *test)
{
	int status = EXIT_OK;

	for (unsigned i = 0; i < ARRAY_COUNT(steps) && !status; i++) {
		uint64_t began = clock_ns();
		char took[TEXT_SHORT_BYTES];

		status = steps[i].run(test);
		text_span(took, clock_ns() - began);
		if (test->steps)
			json_array_append_new(test->steps,
				json_pack("{s:s s:b s:f s:s}", "step", steps[i].name, "ok", !status,
					"ms", (double)(clock_ns() - began) / (double)NS_PER_MS,
					"wrong", test->wrong));
		else
			printf("%-6s  %-4s  %s\n", steps[i].name, status ? "FAIL" : "ok",
				status ? test->wrong : took);
	}
	return status;
}

int command_selftest(const struct arguments *arguments)
{
	struct selftest test = {.arguments = arguments, .blocks = 8, .bytes = 256 << 10};
	int status;

	if (arguments->words)
		return usage_error(arguments, "selftest takes no %s", arguments->word[0]);
	if (!arguments_number(arguments, OPTION_selftest_blocks,
		    (struct number_bounds){1, BLOCKS_MAX}, &test.blocks) ||
		!arguments_size(arguments, OPTION_selftest_bytes,
			(struct number_bounds){64, 1 << 30}, &test.bytes))
		return EXIT_USAGE;
	test.refs = memory_calloc(test.blocks, sizeof(*test.refs));
	test.frames = memory_calloc(test.blocks, sizeof(*test.frames));
	test.copy = memory_zalloc(test.bytes);
	if (arguments->option[OPTION_any_json])
		test.steps = json_array();
	if (!test.refs || !test.frames || !test.copy ||
		getrandom(&test.seed, sizeof(test.seed), 0) != sizeof(test.seed)) {
		fputs("skep: no memory for the selftest, or no random bytes\n", stderr);
		status = EXIT_DAEMON;
	} else {
		status = steps_run(&test);
	}
	skep_chain_destroy(test.chain);
	skep_close(test.session);
	memory_free(test.refs);
	memory_free(test.frames);
	memory_free(test.copy);
	if (test.steps && json_print(json_pack("{s:b s:o}", "ok", !status, "steps", test.steps)))
		status = EXIT_DAEMON;
	return status;
}
