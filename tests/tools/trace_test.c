/* SPDX-License-Identifier: Apache-2.0 */
/* A trace is read whole and right, or refused with line and cause. */
#include "tools/skep/trace.c"

#include "tests/base/unit.h"

#define HEAD "{\"timestamp\":0,\"input_length\":1,\"output_length\":2,\"hash_ids\":"

static int text_read(struct trace **trace, const char *text, size_t bytes, char *error)
{
	FILE *file = fmemopen((void *)(uintptr_t)text, bytes, "r");
	int status;

	REQUIRE(file);
	status = trace_read(trace, file, error);
	fclose(file);
	return status;
}

static struct trace *text_require(const char *text)
{
	char error[TRACE_ERROR_BYTES];
	struct trace *trace;

	if (text_read(&trace, text, strlen(text), error)) {
		fprintf(stderr, "refused: %s\n", error);
		exit(1);
	}
	REQUIRE(trace && !error[0]);
	return trace;
}

static void test_fields_and_shared_prefixes(void)
{
	struct trace *trace = text_require(
		"{\"timestamp\": 5, \"input_length\": 1500, \"output_length\": 7, \"hash_ids\": "
		"[10, 11, 12], \"other\": {\"a\": [1.5, null]}}\n"
		"\n \t\r\n"
		"{\"hash_ids\":[10,11,99],\"output_length\":1,\"input_length\":4,\"timestamp\":5}"
		"\r\n"
		"{\"timestamp\":9,\"input_length\":0,\"output_length\":0,\"hash_ids\":[]}\n"
		"{\"timestamp\":9,\"input_length\":3,\"output_length\":3,\"hash_ids\":[11,12]}");

	REQUIRE_EQ(trace->request_count, 4);
	REQUIRE_EQ(trace->block_count, 8);
	REQUIRE_EQ(trace->requests[0].timestamp_ms, 5);
	REQUIRE_EQ(trace->requests[0].input_tokens, 1500);
	REQUIRE_EQ(trace->requests[0].output_tokens, 7);
	REQUIRE_EQ(trace->requests[1].first_block, 3);
	REQUIRE_EQ(trace->requests[1].block_count, 3);
	REQUIRE_EQ(trace->requests[2].block_count, 0);
	REQUIRE_EQ(trace->requests[3].first_block, 6);
	/* Two requests share [10, 11]; ids 11 and 12 without 10 before them are other blocks. */
	REQUIRE_EQ(trace->node_count, 6);
	REQUIRE_EQ(trace->blocks[3], trace->blocks[0]);
	REQUIRE_EQ(trace->blocks[4], trace->blocks[1]);
	REQUIRE(trace->blocks[5] != trace->blocks[2]);
	REQUIRE(trace->blocks[6] != trace->blocks[1] && trace->blocks[7] != trace->blocks[2]);
	REQUIRE_EQ(trace->nodes[trace->blocks[5]].hash_id, 99);
	REQUIRE_EQ(trace->nodes[trace->blocks[5]].parent, trace->blocks[4]);
	REQUIRE_EQ(trace->nodes[trace->blocks[6]].parent, TRACE_NO_PARENT);
	trace_destroy(trace);
}

static void test_identity_is_the_whole_prefix(void)
{
	struct trace *one = text_require(HEAD "[1,2,3]}\n");
	struct trace *two = text_require(HEAD "[7,2,3]}\n" HEAD "[1,2,3]}\n" HEAD "[1,3]}\n");

	REQUIRE_EQ(two->node_count, 7);
	for (unsigned i = 0; i < 3; i++) {
		const uint64_t *here = one->nodes[one->blocks[i]].identity;

		REQUIRE(!memcmp(here, two->nodes[two->blocks[3 + i]].identity, 16));
		REQUIRE(memcmp(here, two->nodes[two->blocks[i]].identity, 16));
	}
	for (size_t a = 0; a < two->node_count; a++)
		for (size_t b = 0; b < a; b++)
			REQUIRE(memcmp(two->nodes[a].identity, two->nodes[b].identity, 16));
	trace_destroy(one);
	trace_destroy(two);
}

static void test_malformed_is_refused_with_line_and_cause(void)
{
	static const struct {
		const char *text, *error;
	} cases[] = {
		{" ", "line 2: the file ends without a request"},
		{"\n\n", "line 3: the file ends without a request"},
		{HEAD "[1]}\nnonsense\n", "line 2, column 8: invalid token near 'nonsense'"},
		{HEAD "[1]}\n" HEAD "[1}\n", "line 2, column 64: ']' expected near '}'"},
		{HEAD "[1]", "line 1, column 64: '}' expected near end of file"},
		{HEAD "[1]} 7\n", "line 1, column 67: end of file expected near '7'"},
		{HEAD "[1], \"timestamp\": 3}\n",
			"line 1, column 77: duplicate object key near '\"timestamp\"'"},
		{"[]\n", "line 1: not an object; it is an array"},
		{"7\n", "line 1: not an object; it is a whole number"},
		{"{}\n", "line 1: timestamp is missing"},
		{"{\"timestamp\":1}\n", "line 1: input_length is missing"},
		{"{\"timestamp\":1,\"input_length\":1}\n", "line 1: output_length is missing"},
		{"{\"timestamp\":1,\"input_length\":1,\"output_length\":1}\n",
			"line 1: hash_ids is missing"},
		{"{\"timestamp\":1.5}\n",
			"line 1: timestamp is not a whole number; it is a fraction"},
		{"{\"timestamp\":-1}\n",
			"line 1: timestamp is not a whole number; it is a negative number"},
		{"{\"timestamp\":\"1\"}\n",
			"line 1: timestamp is not a whole number; it is a string"},
		{"{\"timestamp\":1,\"input_length\":4294967296}\n",
			"line 1: input_length is 4294967296; the most is 4294967295"},
		{"{\"timestamp\":1,\"input_length\":1,\"output_length\":true}\n",
			"line 1: output_length is not a whole number; it is a truth value"},
		{HEAD "7}\n", "line 1: hash_ids is not an array; it is a whole number"},
		{HEAD "null}\n", "line 1: hash_ids is not an array; it is null"},
		{HEAD "[1]}\n\n" HEAD "[1,2,3,\"x\"]}\n",
			"line 3: hash_ids[3] is not a whole number; it is a string"},
		{HEAD "[1,-2]}\n",
			"line 1: hash_ids[1] is not a whole number; it is a negative number"},
		{HEAD "[1,[2]]}\n", "line 1: hash_ids[1] is not a whole number; it is an array"},
		{HEAD "[1e3]}\n", "line 1: hash_ids[0] is not a whole number; it is a fraction"},
		{HEAD "[99999999999999999999]}\n",
			"line 1, column 82: too big integer near '99999999999999999999'"},
		{"{\"timestamp\":9,\"input_length\":1,\"output_length\":1,\"hash_ids\":[1]}\n" HEAD
		 "[1]}\n",
			"line 2: timestamp 0 lies before the request above it"},
		{HEAD "[1]}\n{\"\xff\": 1}\n",
			"line 2, column 2: unable to decode byte 0xff near '\"'"},
	};

	for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
		char error[TRACE_ERROR_BYTES];
		struct trace *trace;

		REQUIRE_EQ(text_read(&trace, cases[i].text, strlen(cases[i].text), error), -EINVAL);
		REQUIRE(!trace);
		REQUIRE_TEXT(error, cases[i].error);
	}
}

/* A line of @bytes bytes that is right but for what its length says: blanks fill it up. */
static char *long_line(size_t bytes, const char *request)
{
	char *line = malloc(bytes + 2);

	REQUIRE(line);
	memset(line, ' ', bytes);
	memcpy(line, request, strlen(request));
	memcpy(line + bytes, "\n", 2);
	return line;
}

static void test_limits_hold(void)
{
	size_t ids = TRACE_REQUEST_BLOCKS_MAX + 1, head = strlen(HEAD);
	char error[TRACE_ERROR_BYTES];
	struct trace *trace;
	char *line = long_line(TRACE_LINE_BYTES_MAX, HEAD "[1]}");

	REQUIRE_EQ(text_read(&trace, line, TRACE_LINE_BYTES_MAX + 1, error), 0);
	trace_destroy(trace);
	free(line);
	line = long_line(TRACE_LINE_BYTES_MAX + 1, HEAD "[1]}");
	REQUIRE_EQ(text_read(&trace, line, TRACE_LINE_BYTES_MAX + 2, error), -E2BIG);
	REQUIRE_TEXT(error, "line 1: longer than 4194304 bytes");
	/* A file without any end of line does not fill memory. */
	memset(line, ' ', TRACE_LINE_BYTES_MAX + 2);
	REQUIRE_EQ(text_read(&trace, line, TRACE_LINE_BYTES_MAX + 2, error), -E2BIG);
	free(line);

	line = long_line(head + 1 + 2 * ids + 1, HEAD "[");
	for (size_t i = 0; i < ids; i++)
		memcpy(line + head + 1 + 2 * i, "1,", 2);
	memcpy(line + head + 2 * ids, "]}", 2);
	REQUIRE_EQ(text_read(&trace, line, head + 2 * ids + 2, error), -E2BIG);
	REQUIRE_TEXT(error, "line 1: hash_ids has 1048577 ids; the most is 1048576");
	memcpy(line + head + 2 * (ids - 1), "]}", 2);
	REQUIRE_EQ(text_read(&trace, line, head + 2 * ids, error), 0);
	REQUIRE_EQ(trace->node_count, TRACE_REQUEST_BLOCKS_MAX);
	trace_destroy(trace);
	free(line);
}

static void *json_take(size_t bytes)
{
	return memory_realloc(NULL, bytes);
}

static void test_every_failing_allocation_is_told(void)
{
	static const char text[] = HEAD "[1,2,3,4]}\n" HEAD "[1,2,5]}\n";
	unsigned long nth = 1;

	json_set_alloc_funcs(json_take, memory_free);
	for (;; nth++) {
		FILE *file = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
		char error[TRACE_ERROR_BYTES];
		struct trace *trace;
		int status;

		REQUIRE(file);
		memory_fail_after(nth, 0);
		status = trace_read(&trace, file, error);
		memory_fail_after(0, 0);
		fclose(file);
		if (status == 0) {
			trace_destroy(trace);
			break;
		}
		REQUIRE(!trace && error[0]);
		/* jansson says "bad token" where a string of its own had no memory. */
		REQUIRE(status == -ENOMEM || status == -EINVAL);
	}
	json_set_alloc_funcs(malloc, free);
	printf("%lu allocations failed in turn\n", nth - 1);
	REQUIRE(nth > 10);
}

static void test_first_requests_alone_are_a_trace(void)
{
	struct trace *trace = text_require(HEAD "[1,2]}\n" HEAD "[1,2,3]}\n" HEAD "[4]}\n");

	trace_truncate(trace, 9);
	REQUIRE_EQ(trace->request_count, 3);
	trace_truncate(trace, 2);
	REQUIRE_EQ(trace->request_count, 2);
	REQUIRE_EQ(trace->block_count, 5);
	REQUIRE_EQ(trace->node_count, 3);
	trace_truncate(trace, 0);
	REQUIRE_EQ(trace->block_count, 0);
	REQUIRE_EQ(trace->node_count, 0);
	trace_destroy(trace);
}

static void test_a_file_that_cannot_be_read_is_named(void)
{
	char error[TRACE_ERROR_BYTES];
	struct trace *trace;

	REQUIRE_EQ(trace_load(&trace, "/nowhere/at.all", error), -ENOENT);
	REQUIRE_TEXT(error, "/nowhere/at.all: No such file or directory");
	REQUIRE_EQ(trace_load(&trace, "/", error), -EISDIR);
	REQUIRE_TEXT(error, "/, line 1: Is a directory");
	REQUIRE(!trace);
}

static void test_tokens_tell_hash_ids_apart(uint64_t seed)
{
	static const uint64_t ids[] = {0, 1, 2, 511, 512, UINT64_MAX, 1ull << 63};
	uint32_t tokens[TRACE_BLOCK_TOKENS], again[TRACE_BLOCK_TOKENS];

	for (size_t a = 0; a < ARRAY_COUNT(ids) + 1000; a++) {
		uint64_t id = a < ARRAY_COUNT(ids) ? ids[a] : mix64(seed + a);
		unsigned equal = 0;

		trace_block_tokens(id, tokens);
		trace_block_tokens(id, again);
		REQUIRE(!memcmp(tokens, again, sizeof(tokens)));
		trace_block_tokens(id + 1, again);
		REQUIRE(memcmp(tokens, again, 4 * sizeof(tokens[0])));
		for (unsigned i = 0; i < TRACE_BLOCK_TOKENS; i++) {
			REQUIRE(tokens[i] < 65536);
			equal += tokens[i] == again[i];
		}
		REQUIRE(equal < 8);
	}
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);

	test_fields_and_shared_prefixes();
	test_identity_is_the_whole_prefix();
	test_malformed_is_refused_with_line_and_cause();
	test_limits_hold();
	test_every_failing_allocation_is_told();
	test_first_requests_alone_are_a_trace();
	test_a_file_that_cannot_be_read_is_named();
	test_tokens_tell_hash_ids_apart(seed);
	return 0;
}
