/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include <jansson.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/hash.h"
#include "base/memory.h"

/* --- the tree of prefixes ------------------------------------------------------------------- */

/* The keys are not an adversary's: a trace can only slow its own reader. */
static size_t node_slot(const struct trace *trace, uint64_t hash_id, uint32_t parent)
{
	return (size_t)mix64(hash_id ^ mix64(parent)) & (trace->table_slots - 1);
}

static int table_grow(struct trace *trace)
{
	size_t slots = trace->table_slots ? trace->table_slots * 2 : 1024;
	uint32_t *table = memory_calloc(slots, sizeof(*table));

	if (!table)
		return -ENOMEM;
	memory_free(trace->table);
	trace->table = table;
	trace->table_slots = slots;
	for (size_t node = 0; node < trace->node_count; node++) {
		size_t slot =
			node_slot(trace, trace->nodes[node].hash_id, trace->nodes[node].parent);

		while (table[slot])
			slot = (slot + 1) & (slots - 1);
		table[slot] = (uint32_t)node + 1;
	}
	return 0;
}

/* Makes room for @more items after @count; doubles, so that a trace costs linear time. */
static int room_make(void **items, size_t *room, size_t count, size_t more, size_t item_bytes)
{
	size_t wanted = *room ? *room : 1024;
	void *grown;

	if (count + more <= *room)
		return 0;
	while (wanted < count + more)
		wanted *= 2;
	grown = memory_realloc(*items, wanted * item_bytes);
	if (!grown)
		return -ENOMEM;
	*items = grown;
	*room = wanted;
	return 0;
}

static void node_init(
	struct trace *trace, struct trace_node *node, uint64_t hash_id, uint32_t parent)
{
	uint64_t hashed[3] = {0, 0, hash_id};
	XXH128_hash_t digest;

	if (parent != TRACE_NO_PARENT)
		memcpy(hashed, trace->nodes[parent].identity, 2 * sizeof(uint64_t));
	digest = XXH3_128bits(hashed, sizeof(hashed));
	*node = (struct trace_node){
		.identity = {digest.low64, digest.high64},
		.hash_id = hash_id,
		.parent = parent,
	};
}

/* Finds or makes the node (@parent, @hash_id). */
static int node_intern(struct trace *trace, uint64_t hash_id, uint32_t parent, uint32_t *found)
{
	size_t slot;
	int status;

	if (trace->node_count * 2 >= trace->table_slots) {
		status = table_grow(trace);
		if (status)
			return status;
	}
	slot = node_slot(trace, hash_id, parent);
	for (; trace->table[slot]; slot = (slot + 1) & (trace->table_slots - 1)) {
		const struct trace_node *node = &trace->nodes[trace->table[slot] - 1];

		if (node->hash_id == hash_id && node->parent == parent) {
			*found = trace->table[slot] - 1;
			return 0;
		}
	}
	status = room_make((void **)&trace->nodes, &trace->node_room, trace->node_count, 1,
		sizeof(*trace->nodes));
	if (status)
		return status;
	node_init(trace, &trace->nodes[trace->node_count], hash_id, parent);
	*found = (uint32_t)trace->node_count++;
	trace->table[slot] = *found + 1;
	return 0;
}

struct trace *trace_create(void)
{
	return memory_zalloc(sizeof(struct trace));
}

void trace_destroy(struct trace *trace)
{
	if (!trace)
		return;
	memory_free(trace->requests);
	memory_free(trace->blocks);
	memory_free(trace->nodes);
	memory_free(trace->table);
	memory_free(trace);
}

int trace_add(
	struct trace *trace, const struct trace_head *head, const uint64_t *hash_ids, size_t count)
{
	uint32_t parent = TRACE_NO_PARENT;
	int status;

	SKEP_CHECK(trace->request_count == 0 || trace->table || trace->node_count == 0);
	if (trace->request_count &&
		head->timestamp_ms < trace->requests[trace->request_count - 1].timestamp_ms)
		return -ERANGE;
	if (count > TRACE_REQUEST_BLOCKS_MAX || trace->request_count >= TRACE_REQUESTS_MAX ||
		count > TRACE_BLOCKS_MAX - trace->block_count)
		return -E2BIG;
	status = room_make((void **)&trace->requests, &trace->request_room, trace->request_count, 1,
		sizeof(*trace->requests));
	if (status)
		return status;
	status = room_make((void **)&trace->blocks, &trace->block_room, trace->block_count, count,
		sizeof(*trace->blocks));
	if (status)
		return status;
	for (size_t i = 0; i < count; i++) {
		status = node_intern(trace, hash_ids[i], parent, &parent);
		if (status)
			return status;
		trace->blocks[trace->block_count + i] = parent;
	}
	trace->requests[trace->request_count++] = (struct trace_request){
		.timestamp_ms = head->timestamp_ms,
		.first_block = trace->block_count,
		.block_count = (uint32_t)count,
		.input_tokens = head->input_tokens,
		.output_tokens = head->output_tokens,
	};
	trace->block_count += count;
	return 0;
}

void trace_truncate(struct trace *trace, size_t request_count)
{
	if (request_count >= trace->request_count)
		return;
	trace->block_count = trace->requests[request_count].first_block;
	trace->request_count = request_count;
	/* Nodes are numbered by first sight, so those of the kept requests come first. */
	trace->node_count = 0;
	for (size_t i = 0; i < trace->block_count; i++)
		trace->node_count = MAX_OF(trace->node_count, (size_t)trace->blocks[i] + 1);
	memory_free(trace->table);
	trace->table = NULL;
	trace->table_slots = 0;
}

void trace_block_tokens(uint64_t hash_id, uint32_t tokens[TRACE_BLOCK_TOKENS])
{
	for (unsigned i = 0; i < TRACE_BLOCK_TOKENS; i += 4) {
		/* mix64 is one to one, so the first word tells any two hash ids apart. */
		uint64_t word = mix64(hash_id + i * 0x9fb21c651e98df25u);

		tokens[i] = (uint32_t)word & 0xffff;
		tokens[i + 1] = (uint32_t)(word >> 16) & 0xffff;
		tokens[i + 2] = (uint32_t)(word >> 32) & 0xffff;
		tokens[i + 3] = (uint32_t)(word >> 48);
	}
}

/* --- lines ---------------------------------------------------------------------------------- */

/* A reader that never holds more than one line of the largest size. */
struct line_reader {
	FILE *file;
	char *buffer;
	size_t room, begin, end;
	size_t searched; /* bytes from begin that hold no end of line */
	bool ended;
};

struct line {
	const char *text; /* not terminated; good until the next line is asked for */
	size_t bytes;
};

static int reader_fill(struct line_reader *reader)
{
	size_t got;

	if (reader->begin) {
		memmove(reader->buffer, reader->buffer + reader->begin,
			reader->end - reader->begin);
		reader->end -= reader->begin;
		reader->begin = 0;
	}
	if (reader->end == reader->room) {
		size_t room = reader->room ? reader->room * 2 : 65536;
		char *grown;

		if (reader->room > TRACE_LINE_BYTES_MAX)
			return -E2BIG;
		grown = memory_realloc(reader->buffer, room);
		if (!grown)
			return -ENOMEM;
		reader->buffer = grown;
		reader->room = room;
	}
	errno = 0;
	got = fread(reader->buffer + reader->end, 1, reader->room - reader->end, reader->file);
	if (got == 0) {
		if (ferror(reader->file))
			return errno ? -errno : -EIO;
		reader->ended = true;
	}
	reader->end += got;
	return 0;
}

/* 1 with a line, 0 at the end of the file, -E2BIG for a line past the limit, or another error. */
static int reader_next(struct line_reader *reader, struct line *line)
{
	for (;;) {
		const char *from = reader->buffer + reader->begin;
		size_t held = reader->end - reader->begin;
		const char *stop = NULL;
		int status;

		if (held > reader->searched)
			stop = memchr(from + reader->searched, '\n', held - reader->searched);
		if (!stop && !reader->ended) {
			reader->searched = held;
			status = reader_fill(reader);
			if (status)
				return status;
			continue;
		}
		if (!stop && held == 0)
			return 0;
		line->text = from;
		line->bytes = stop ? (size_t)(stop - from) : held;
		reader->begin += line->bytes + (stop != NULL);
		reader->searched = 0;
		return line->bytes > TRACE_LINE_BYTES_MAX ? -E2BIG : 1;
	}
}

static bool line_blank(const struct line *line)
{
	for (size_t i = 0; i < line->bytes; i++)
		if (!strchr(" \t\r", line->text[i]) || line->text[i] == '\0')
			return false;
	return true;
}

/* --- requests ------------------------------------------------------------------------------- */

/* What one trace_read works with. */
struct parse {
	struct trace *trace;
	struct line_reader reader;
	uint64_t line_number;
	uint64_t *hash_ids;
	size_t hash_room;
	char *error;
};

/* Writes the sentence for the user; gives @status back, so that callers can return it. */
__attribute__((format(printf, 3, 4))) static int parse_refuse(
	struct parse *parse, int status, const char *format, ...)
{
	int used = snprintf(parse->error, TRACE_ERROR_BYTES, "line %" PRIu64, parse->line_number);
	va_list arguments;

	SKEP_CHECK(used > 0 && used < TRACE_ERROR_BYTES);
	va_start(arguments, format);
	vsnprintf(parse->error + used, TRACE_ERROR_BYTES - (size_t)used, format, arguments);
	va_end(arguments);
	return status;
}

static const char *json_word(const json_t *value)
{
	switch (json_typeof(value)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
		return json_integer_value(value) < 0 ? "a negative number" : "a whole number";
	case JSON_REAL:
		return "a fraction";
	case JSON_TRUE:
	case JSON_FALSE:
		return "a truth value";
	default:
		return "null";
	}
}

static int parse_whole(
	struct parse *parse, const json_t *object, const char *key, uint64_t max, uint64_t *number)
{
	const json_t *value = json_object_get(object, key);

	if (!value)
		return parse_refuse(parse, -EINVAL, ": %s is missing", key);
	if (!json_is_integer(value) || json_integer_value(value) < 0)
		return parse_refuse(parse, -EINVAL, ": %s is not a whole number; it is %s", key,
			json_word(value));
	*number = (uint64_t)json_integer_value(value);
	if (*number > max)
		return parse_refuse(parse, -EINVAL, ": %s is %" PRIu64 "; the most is %" PRIu64,
			key, *number, max);
	return 0;
}

static int parse_hash_ids(struct parse *parse, const json_t *object, size_t *count)
{
	const json_t *array = json_object_get(object, "hash_ids");
	const json_t *value;
	size_t i;
	int status;

	if (!array)
		return parse_refuse(parse, -EINVAL, ": hash_ids is missing");
	if (!json_is_array(array))
		return parse_refuse(
			parse, -EINVAL, ": hash_ids is not an array; it is %s", json_word(array));
	*count = json_array_size(array);
	if (*count > TRACE_REQUEST_BLOCKS_MAX)
		return parse_refuse(parse, -E2BIG, ": hash_ids has %zu ids; the most is %zu",
			*count, TRACE_REQUEST_BLOCKS_MAX);
	status = room_make(
		(void **)&parse->hash_ids, &parse->hash_room, 0, *count, sizeof(*parse->hash_ids));
	if (status)
		return parse_refuse(parse, status, ": no memory for %zu ids", *count);
	json_array_foreach(array, i, value)
	{
		if (!json_is_integer(value) || json_integer_value(value) < 0)
			return parse_refuse(parse, -EINVAL,
				": hash_ids[%zu] is not a whole number; it is %s", i,
				json_word(value));
		parse->hash_ids[i] = (uint64_t)json_integer_value(value);
	}
	return 0;
}

static int parse_request(struct parse *parse, const json_t *object)
{
	uint64_t timestamp_ms, input_tokens, output_tokens;
	size_t count = 0;
	int status;

	if (!json_is_object(object))
		return parse_refuse(parse, -EINVAL, ": not an object; it is %s", json_word(object));
	status = parse_whole(parse, object, "timestamp", INT64_MAX, &timestamp_ms);
	if (!status)
		status = parse_whole(parse, object, "input_length", UINT32_MAX, &input_tokens);
	if (!status)
		status = parse_whole(parse, object, "output_length", UINT32_MAX, &output_tokens);
	if (!status)
		status = parse_hash_ids(parse, object, &count);
	if (status)
		return status;
	status = trace_add(parse->trace,
		&(struct trace_head){.timestamp_ms = timestamp_ms,
			.input_tokens = (uint32_t)input_tokens,
			.output_tokens = (uint32_t)output_tokens},
		parse->hash_ids, count);
	switch (status) {
	case 0:
		return 0;
	case -ERANGE:
		return parse_refuse(parse, -EINVAL,
			": timestamp %" PRIu64 " lies before the request above it", timestamp_ms);
	case -E2BIG:
		return parse_refuse(parse, status, ": more than %zu requests or %zu blocks",
			TRACE_REQUESTS_MAX, TRACE_BLOCKS_MAX);
	default:
		return parse_refuse(parse, status, ": no memory");
	}
}

static int parse_line(struct parse *parse, const struct line *line)
{
	json_error_t cause;
	json_t *object;
	int status;

	object = json_loadb(
		line->text, line->bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &cause);
	if (!object) {
		if (json_error_code(&cause) == json_error_out_of_memory)
			return parse_refuse(parse, -ENOMEM, ": no memory");
		return parse_refuse(parse, -EINVAL, ", column %d: %s", cause.column, cause.text);
	}
	status = parse_request(parse, object);
	json_decref(object);
	return status;
}

static int parse_all(struct parse *parse)
{
	struct line line = {0};
	int status;

	for (;;) {
		parse->line_number++;
		status = reader_next(&parse->reader, &line);
		if (status == -E2BIG)
			return parse_refuse(
				parse, status, ": longer than %zu bytes", TRACE_LINE_BYTES_MAX);
		if (status < 0)
			return parse_refuse(parse, status, ": %s", strerror(-status));
		if (status == 0)
			break;
		if (line_blank(&line))
			continue;
		status = parse_line(parse, &line);
		if (status)
			return status;
	}
	if (parse->trace->request_count == 0)
		return parse_refuse(parse, -EINVAL, ": the file ends without a request");
	return 0;
}

int trace_read(struct trace **trace, FILE *file, char error[TRACE_ERROR_BYTES])
{
	struct parse parse = {.trace = trace_create(), .reader.file = file, .error = error};
	int status = -ENOMEM;

	*trace = NULL;
	error[0] = '\0';
	if (parse.trace)
		status = parse_all(&parse);
	else
		parse_refuse(&parse, status, ": no memory");
	memory_free(parse.reader.buffer);
	memory_free(parse.hash_ids);
	if (status)
		trace_destroy(parse.trace);
	else
		*trace = parse.trace;
	return status;
}

int trace_load(struct trace **trace, const char *path, char error[TRACE_ERROR_BYTES])
{
	FILE *file = fopen(path, "re");
	char cause[TRACE_ERROR_BYTES];
	int status;

	*trace = NULL;
	if (!file) {
		status = -errno;
		snprintf(error, TRACE_ERROR_BYTES, "%.200s: %s", path, strerror(-status));
		return status;
	}
	status = trace_read(trace, file, cause);
	fclose(file);
	/* A path too long to repeat is cut: the cause matters more. */
	if (status)
		snprintf(error, TRACE_ERROR_BYTES, "%.120s, %.190s", path, cause);
	return status;
}
