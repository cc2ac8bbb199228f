/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <yaml.h>

#include "base/check.h"
#include "base/config/config_priv.h"
#include "base/memory.h"
#include "base/status.h"

/* The state of one reading: events of libyaml come in, nodes go out. */
struct reader {
	yaml_parser_t parser;
	struct config *config;
	struct config_error *error;
	const char *text;
	size_t text_bytes;
	struct config_node *open[CONFIG_DEPTH_MAX]; /* lists and mappings not yet closed */
	unsigned depth;
	char *key; /* read, its value not yet */
	struct config_place key_place;
	unsigned documents;
};

static struct config_place place_of(yaml_mark_t mark)
{
	return (struct config_place){
		.line = (unsigned)mark.line + 1,
		.column = (unsigned)mark.column + 1,
	};
}

#define reader_fail(reader, place, ...)                                                            \
	config_fail_at((reader)->error, (reader)->config->name, place, __VA_ARGS__)

static int reader_no_memory(struct reader *reader)
{
	struct config_place nowhere = {0};

	reader_fail(reader, nowhere, "out of memory");
	return -ENOMEM;
}

/* --- nodes ------------------------------------------------------------------------------------ */

/* Takes the pending key, if the open container is a mapping. */
static int node_add(struct reader *reader, enum config_shape shape, struct config_place place,
	struct config_node **made)
{
	struct config_node *parent = reader->depth ? reader->open[reader->depth - 1] : NULL;
	struct config *config = reader->config;
	struct config_node *node;

	if (config->count >= CONFIG_NODES_MAX)
		return reader_fail(reader, place,
			"more than %d values in one file; a file of settings should have far fewer",
			CONFIG_NODES_MAX);
	node = memory_zalloc(sizeof(*node));
	if (!node)
		return reader_no_memory(reader);
	node->allocated = config->allocated;
	config->allocated = node;
	config->count++;
	node->config = config;
	node->parent = parent;
	node->shape = shape;
	node->place = place;
	*made = node;
	if (!parent) {
		SKEP_CHECK(!config->root);
		config->root = node;
		return 0;
	}
	if (parent->shape == CONFIG_MAP) {
		SKEP_CHECK(reader->key);
		node->key = reader->key;
		node->key_place = reader->key_place;
		reader->key = NULL;
	} else if (parent->last) {
		node->index = parent->last->index + 1;
	}
	if (parent->last)
		parent->last->next = node;
	else
		parent->first = node;
	parent->last = node;
	return 0;
}

/* Whether the next value is the key of a pair. */
static bool key_is_next(const struct reader *reader)
{
	return reader->depth && reader->open[reader->depth - 1]->shape == CONFIG_MAP &&
	       !reader->key;
}

static int key_add(struct reader *reader, const char *text, struct config_place place)
{
	const struct config_node *mapping = reader->open[reader->depth - 1];
	const struct config_node *first = config_find(mapping, text);

	if (first)
		return reader_fail(reader, place,
			"key '%s' in %s stands already in line %u; keep one of the two",
			config_show(text).text, config_path(mapping).text, first->key_place.line);
	reader->key = memory_strdup(text);
	reader->key_place = place;
	return reader->key ? 0 : reader_no_memory(reader);
}

static int scalar_read(struct reader *reader, const yaml_event_t *event)
{
	const char *text = (const char *)event->data.scalar.value;
	struct config_place place = place_of(event->start_mark);
	struct config_node *node;
	int rc;

	if (strlen(text) != event->data.scalar.length)
		return reader_fail(
			reader, place, "a value has a zero byte in it; remove the \\0 or \\x00");
	if (key_is_next(reader))
		return key_add(reader, text, place);
	rc = node_add(reader, CONFIG_SCALAR, place, &node);
	if (rc)
		return rc;
	node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	node->text = memory_strdup(text);
	return node->text ? 0 : reader_no_memory(reader);
}

static int container_open(struct reader *reader, enum config_shape shape, struct config_place place)
{
	struct config_node *node = NULL;
	int rc;

	if (key_is_next(reader))
		return reader_fail(reader, place,
			"a list or mapping stands where a key should; keys are plain words");
	if (reader->depth == CONFIG_DEPTH_MAX)
		return reader_fail(reader, place,
			"more than %d lists and mappings inside one another; no option lies so "
			"deep",
			CONFIG_DEPTH_MAX);
	rc = node_add(reader, shape, place, &node);
	if (!rc)
		reader->open[reader->depth++] = node;
	return rc;
}

/* --- events ----------------------------------------------------------------------------------- */

/* Anchors, aliases and tags make a value mean something that does not stand where it is read. */
static int refuse_references(struct reader *reader, const yaml_event_t *event)
{
	const yaml_char_t *anchor = NULL, *tag = NULL;

	switch (event->type) {
	case YAML_ALIAS_EVENT:
		return reader_fail(reader, place_of(event->start_mark),
			"alias '*%s' is not taken; write the value out",
			config_show((const char *)event->data.alias.anchor).text);
	case YAML_SCALAR_EVENT:
		anchor = event->data.scalar.anchor;
		tag = event->data.scalar.tag;
		break;
	case YAML_SEQUENCE_START_EVENT:
		anchor = event->data.sequence_start.anchor;
		tag = event->data.sequence_start.tag;
		break;
	case YAML_MAPPING_START_EVENT:
		anchor = event->data.mapping_start.anchor;
		tag = event->data.mapping_start.tag;
		break;
	default:
		break;
	}
	if (anchor)
		return reader_fail(reader, place_of(event->start_mark),
			"anchor '&%s' is not taken; write the value out where it is used",
			config_show((const char *)anchor).text);
	if (tag)
		return reader_fail(reader, place_of(event->start_mark),
			"tag '%s' is not taken; remove it, each option knows its type",
			config_show((const char *)tag).text);
	return 0;
}

static int event_read(struct reader *reader, const yaml_event_t *event)
{
	int rc = refuse_references(reader, event);

	if (rc)
		return rc;
	switch (event->type) {
	case YAML_DOCUMENT_START_EVENT:
		if (reader->documents++)
			return reader_fail(reader, place_of(event->start_mark),
				"a second document begins here; remove the '---' or the rest");
		return 0;
	case YAML_SCALAR_EVENT:
		return scalar_read(reader, event);
	case YAML_MAPPING_START_EVENT:
		return container_open(reader, CONFIG_MAP, place_of(event->start_mark));
	case YAML_SEQUENCE_START_EVENT:
		return container_open(reader, CONFIG_LIST, place_of(event->start_mark));
	case YAML_MAPPING_END_EVENT:
	case YAML_SEQUENCE_END_EVENT:
		SKEP_CHECK(reader->depth && !reader->key);
		reader->depth--;
		return 0;
	default:
		return 0;
	}
}

/* Whether a tab stands at @place, or in the blanks right before it. */
static bool tab_at(const struct reader *reader, struct config_place place)
{
	const char *at = reader->text, *end = at + reader->text_bytes;

	for (unsigned line = 1; line < place.line && at; line++) {
		at = memchr(at, '\n', (size_t)(end - at));
		at = at ? at + 1 : NULL;
	}
	/* In the line's blanks bytes and characters are the same. */
	for (unsigned column = 1; at && at < end && column <= place.column; column++, at++) {
		if (*at == '\t')
			return true;
		if (*at != ' ')
			return false;
	}
	return false;
}

/* The line that holds byte @offset. */
static struct config_place place_of_byte(const struct reader *reader, size_t offset)
{
	struct config_place place = {1, 1};

	for (size_t i = 0; i < offset && i < reader->text_bytes; i++) {
		place.column++;
		if (reader->text[i] == '\n')
			place = (struct config_place){place.line + 1, 1};
	}
	return place;
}

/* What libyaml found wrong. */
static int parser_fail(struct reader *reader)
{
	const yaml_parser_t *parser = &reader->parser;
	struct config_place place = place_of(parser->problem_mark);
	const char *problem = parser->problem ? parser->problem : "not YAML";

	switch (parser->error) {
	case YAML_MEMORY_ERROR:
		return reader_no_memory(reader);
	case YAML_READER_ERROR:
		return reader_fail(reader, place_of_byte(reader, parser->problem_offset),
			"%s; the file must be UTF-8 text without control characters", problem);
	default:
		break;
	}
	if (tab_at(reader, place))
		return reader_fail(reader, place, "a tab in the indentation; use spaces");
	if (parser->context)
		return reader_fail(reader, place,
			"%s, %s that began in line %zu; check the indentation, the quotes and the "
			"blank after each ':'",
			problem, parser->context, parser->context_mark.line + 1);
	return reader_fail(reader, place,
		"%s; check the indentation, the quotes and the blank after each ':'", problem);
}

static int events_read(struct reader *reader)
{
	yaml_event_t event;
	bool more = true;
	int rc = 0;

	while (!rc && more) {
		if (!yaml_parser_parse(&reader->parser, &event))
			return parser_fail(reader);
		more = event.type != YAML_STREAM_END_EVENT;
		rc = event_read(reader, &event);
		yaml_event_delete(&event);
	}
	return rc;
}

/* An empty file, or one of comments alone, is an empty mapping. */
static int root_check(struct reader *reader)
{
	struct config_node *root = reader->config->root;
	struct config_place top = {1, 1};

	if (!root)
		return node_add(reader, CONFIG_MAP, top, &root);
	if (root->shape == CONFIG_SCALAR && root->plain && !*root->text)
		root->shape = CONFIG_MAP;
	if (root->shape != CONFIG_MAP)
		return reader_fail(reader, root->place,
			"the file must be a mapping, lines of 'key: value', not %s",
			root->shape == CONFIG_LIST ? "a list" : "a single value");
	return 0;
}

/* --- documents -------------------------------------------------------------------------------- */

static int no_memory(const char *name, struct config_error *error)
{
	struct config_place nowhere = {0};

	config_fail_at(error, name, nowhere, "out of memory");
	return -ENOMEM;
}

int config_read_memory(const char *name, const char *text, size_t text_bytes, struct config **made,
	struct config_error *error)
{
	struct reader reader = {.error = error, .text = text, .text_bytes = text_bytes};
	struct config_place nowhere = {0};
	int rc;

	if (text_bytes > CONFIG_FILE_BYTES_MAX) {
		config_fail_at(error, name, nowhere,
			"larger than %d bytes; a file of settings should be far smaller",
			CONFIG_FILE_BYTES_MAX);
		return -E2BIG;
	}
	reader.config = memory_zalloc(sizeof(*reader.config));
	if (!reader.config)
		return no_memory(name, error);
	reader.config->name = memory_strdup(name);
	if (!reader.config->name || !yaml_parser_initialize(&reader.parser)) {
		config_free(reader.config);
		return no_memory(name, error);
	}
	yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, text_bytes);
	yaml_parser_set_encoding(&reader.parser, YAML_UTF8_ENCODING);
	rc = events_read(&reader);
	yaml_parser_delete(&reader.parser);
	memory_free(reader.key);
	if (!rc)
		rc = root_check(&reader);
	if (rc) {
		config_free(reader.config);
		return rc;
	}
	*made = reader.config;
	return 0;
}

/* Reads up to @room bytes; returns how many or a negative errno. */
static ssize_t file_read(const char *path, char *text, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	size_t used = 0;
	ssize_t more = 1;

	if (fd < 0)
		return -errno;
	while (used < room && more) {
		more = read(fd, text + used, room - used);
		if (more < 0 && errno != EINTR) {
			more = -errno;
			close(fd);
			return more;
		}
		if (more > 0)
			used += (size_t)more;
	}
	close(fd);
	return (ssize_t)used;
}

int config_read_file(const char *path, struct config **config, struct config_error *error)
{
	struct config_place nowhere = {0};
	size_t room = CONFIG_FILE_BYTES_MAX + 1; /* the last byte shows that it is too large */
	char *text = memory_calloc(1, room);
	ssize_t bytes;
	int rc;

	if (!text)
		return no_memory(path, error);
	bytes = file_read(path, text, room);
	if (bytes < 0) {
		rc = (int)bytes;
		config_fail_at(error, path, nowhere, "cannot be read: %s", status_text(rc));
	} else {
		rc = config_read_memory(path, text, (size_t)bytes, config, error);
	}
	memory_free(text);
	return rc;
}

void config_free(struct config *config)
{
	struct config_node *node, *next;

	if (!config)
		return;
	for (node = config->allocated; node; node = next) {
		next = node->allocated;
		memory_free(node->text);
		memory_free(node->key);
		memory_free(node);
	}
	memory_free(config->name);
	memory_free(config);
}

const struct config_node *config_root(const struct config *config)
{
	return config->root;
}

const struct config_node *config_find(const struct config_node *mapping, const char *key)
{
	const struct config_node *node;

	SKEP_CHECK(mapping->shape == CONFIG_MAP);
	for (node = mapping->first; node && strcmp(node->key, key) != 0; node = node->next)
		;
	return node;
}

const char *config_text(const struct config_node *node)
{
	return node->text;
}

const struct config_node *config_next(
	const struct config_node *parent, const struct config_node *previous)
{
	return previous ? previous->next : parent->first;
}
