/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/config/config_priv.h"
#include "base/config/units.h"

enum { WORD_MAX = 40 }; /* longer keys are not compared for likeness */

const char config_required[] = "required";

static const char *const type_words[] = {
#define X(name, words) words,
	CONFIG_TYPE_TABLE(X)
#undef X
};

/* --- unknown keys ----------------------------------------------------------------------------- */

/* Insertions, deletions and replacements that lead from one word to the other. */
static unsigned edit_distance(const char *from, const char *to)
{
	unsigned row[WORD_MAX + 1];
	size_t to_length = strlen(to);

	if (strlen(from) > WORD_MAX || to_length > WORD_MAX)
		return WORD_MAX;
	for (unsigned i = 0; i <= to_length; i++)
		row[i] = i;
	for (unsigned i = 0; from[i]; i++) {
		unsigned diagonal = row[0];

		row[0] = i + 1;
		for (unsigned j = 0; j < to_length; j++) {
			unsigned replaced = diagonal + (from[i] != to[j]);

			diagonal = row[j + 1];
			row[j + 1] = MIN_OF(replaced, MIN_OF(row[j], diagonal) + 1);
		}
	}
	return row[to_length];
}

/* The key of the table that was most likely meant; NULL: none is near. */
static const char *key_meant(const struct config_table *table, const char *key)
{
	unsigned nearest = MIN_OF(3u, (unsigned)strlen(key) / 2 + 1);
	const char *meant = NULL;

	for (size_t i = 0; i < table->count; i++) {
		unsigned distance = edit_distance(key, table->options[i].key);

		if (distance < nearest) {
			nearest = distance;
			meant = table->options[i].key;
		}
	}
	return meant;
}

static int key_fail(struct config_error *error, const struct config_table *table,
	const struct config_node *node)
{
	struct config_shown key = config_show(node->key);
	struct config_path path = config_path(node->parent);
	const char *meant = key_meant(table, node->key);
	char known[256] = "";
	size_t used = 0;

	if (meant)
		return config_fail_at(error, node->config->name, node->key_place,
			"unknown key '%s' in %s; did you mean '%s'?", key.text, path.text, meant);
	for (size_t i = 0; i < table->count && used < sizeof(known); i++)
		used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", i ? ", " : "",
			table->options[i].key);
	return config_fail_at(error, node->config->name, node->key_place,
		"unknown key '%s' in %s; known there: %s%s", key.text, path.text, known,
		used < sizeof(known) ? "" : "...");
}

static const struct config_option *option_find(const struct config_table *table, const char *key)
{
	for (size_t i = 0; i < table->count; i++)
		if (!strcmp(table->options[i].key, key))
			return &table->options[i];
	return NULL;
}

/* --- values ----------------------------------------------------------------------------------- */

static int integer_parse(const char *text, uint64_t *value)
{
	uint64_t sum = 0;

	/* A leading zero means eight to some and ten to others. */
	if (!*text || (text[0] == '0' && text[1]))
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -EINVAL;
		if (__builtin_mul_overflow(sum, 10, &sum) ||
			__builtin_add_overflow(sum, (uint64_t)(*text - '0'), &sum))
			return -ERANGE;
	}
	*value = sum;
	return 0;
}

/* A number, size or span. 0, -EINVAL: not one, -ERANGE: past 64 bits. */
static int amount_parse(enum config_type type, const char *text, uint64_t *value)
{
	switch (type) {
	case CONFIG_INTEGER:
		return integer_parse(text, value);
	case CONFIG_SIZE:
		return size_parse(text, value);
	case CONFIG_DURATION:
		return duration_parse(text, value);
	default:
		SKEP_CHECK(!"an amount");
		return -EINVAL;
	}
}

static struct unit_text amount_format(enum config_type type, uint64_t value)
{
	struct unit_text text;

	if (type == CONFIG_SIZE)
		return size_format(value);
	if (type == CONFIG_DURATION)
		return duration_format(value);
	snprintf(text.text, sizeof(text.text), "%" PRIu64, value);
	return text;
}

static int type_fail(struct config_error *error, const struct config_option *option,
	const struct config_node *node)
{
	struct config_path path = config_path(node);
	struct config_shown text = config_show(node->text ? node->text : "");
	const char *type = type_words[option->type];
	bool quoted = node->shape == CONFIG_SCALAR && !node->plain;

	if (node->shape != CONFIG_SCALAR)
		return config_fail(error, node, "'%s' must be %s, not %s", path.text, type,
			node->shape == CONFIG_MAP ? "a mapping" : "a list");
	if (node->plain && !*node->text)
		return config_fail(error, node,
			"'%s' has no value; write %s, or remove the line for the default",
			path.text, type);
	if (quoted && (option->type == CONFIG_BOOL || option->type == CONFIG_INTEGER))
		return config_fail(error, node, "'%s' must be %s, not \"%s\"; remove the quotes",
			path.text, type, text.text);
	return config_fail(error, node, "'%s' must be %s, not '%s'", path.text, type, text.text);
}

static int range_fail(struct config_error *error, const struct config_option *option,
	const struct config_node *node)
{
	struct config_path path = config_path(node);
	struct config_shown text = config_show(node->text);
	uint64_t most = option->maximum ? option->maximum : UINT64_MAX;

	return config_fail(error, node, "'%s' is %s; it must be between %s and %s", path.text,
		text.text, amount_format(option->type, option->minimum).text,
		amount_format(option->type, most).text);
}

static bool in_range(const struct config_option *option, uint64_t value)
{
	return value >= option->minimum && (!option->maximum || value <= option->maximum);
}

static int amount_read(struct config_error *error, const struct config_option *option,
	const struct config_node *node, uint64_t *value)
{
	bool quoted = !node->plain;
	uint64_t negated;
	int rc;

	if (quoted && option->type == CONFIG_INTEGER)
		return type_fail(error, option, node);
	rc = amount_parse(option->type, node->text, value);
	/* Below zero is a number too, only never in range. */
	if (rc == -EINVAL && node->text[0] == '-' &&
		amount_parse(option->type, node->text + 1, &negated) != -EINVAL)
		rc = -ERANGE;
	if (rc == -EINVAL)
		return type_fail(error, option, node);
	if (rc || !in_range(option, *value))
		return range_fail(error, option, node);
	return 0;
}

static int bool_parse(const char *text, bool *value)
{
	*value = !strcmp(text, "true");
	return *value || !strcmp(text, "false") ? 0 : -EINVAL;
}

static int mappings_check(struct config_error *error, const struct config_option *option,
	const struct config_node *node)
{
	const struct config_node *each = NULL;

	if (node->shape != CONFIG_LIST)
		return type_fail(error, option, node);
	while ((each = config_next(node, each)))
		if (each->shape != CONFIG_MAP)
			return config_fail(error, each,
				"'%s' must be a mapping, lines of 'key: value' behind the '-'",
				config_path(each).text);
	return 0;
}

static int strings_check(struct config_error *error, const struct config_option *option,
	const struct config_node *node)
{
	const struct config_node *each = NULL;

	if (node->shape != CONFIG_LIST)
		return type_fail(error, option, node);
	while ((each = config_next(node, each)))
		if (each->shape != CONFIG_SCALAR || (each->plain && !*each->text))
			return config_fail(
				error, each, "'%s' must be text", config_path(each).text);
	return 0;
}

/* --- filling ---------------------------------------------------------------------------------- */

static int value_read(struct config_error *error, const struct config_option *option,
	const struct config_node *node, void *field)
{
	bool empty = node->shape == CONFIG_SCALAR && node->plain && !*node->text;

	if (option->type == CONFIG_MAPPINGS) {
		*(const struct config_node **)field = node;
		return mappings_check(error, option, node);
	}
	if (option->type == CONFIG_STRINGS) {
		*(const struct config_node **)field = node;
		return strings_check(error, option, node);
	}
	if (option->type == CONFIG_MAPPING) {
		*(const struct config_node **)field = node;
		return node->shape == CONFIG_MAP ? 0 : type_fail(error, option, node);
	}
	if (node->shape != CONFIG_SCALAR || empty)
		return type_fail(error, option, node);
	if (option->type == CONFIG_STRING) {
		*(const char **)field = node->text;
		return 0;
	}
	if (option->type == CONFIG_BOOL)
		return node->plain && !bool_parse(node->text, field)
			       ? 0
			       : type_fail(error, option, node);
	return amount_read(error, option, node, field);
}

/* A default that does not parse, or lies out of its own range, is a fault of the table. */
static void default_set(const struct config_option *option, void *field)
{
	const char *text = option->default_text;
	uint64_t amount = 0;
	bool truth = false;

	if (text == config_required)
		text = NULL;
	switch (option->type) {
	case CONFIG_STRING:
		*(const char **)field = text;
		return;
	case CONFIG_BOOL:
		SKEP_CHECK(!text || !bool_parse(text, &truth));
		*(bool *)field = truth;
		return;
	case CONFIG_MAPPING:
	case CONFIG_MAPPINGS:
	case CONFIG_STRINGS:
		SKEP_CHECK(!text);
		*(const struct config_node **)field = NULL;
		return;
	default:
		SKEP_CHECK(!text || (!amount_parse(option->type, text, &amount) &&
					    in_range(option, amount)));
		*(uint64_t *)field = amount;
	}
}

int config_fill(const struct config_node *mapping, const struct config_table *table, void *target,
	struct config_error *error)
{
	const struct config_node *node = NULL;
	int rc = 0;

	SKEP_CHECK(!mapping || mapping->shape == CONFIG_MAP);
	for (size_t i = 0; i < table->count; i++)
		default_set(&table->options[i], (char *)target + table->options[i].offset);
	if (!mapping)
		return 0;
	while (!rc && (node = config_next(mapping, node))) {
		const struct config_option *option = option_find(table, node->key);

		if (!option)
			return key_fail(error, table, node);
		rc = value_read(error, option, node, (char *)target + option->offset);
	}
	for (size_t i = 0; i < table->count && !rc; i++) {
		const struct config_option *option = &table->options[i];

		if (option->default_text == config_required && !config_find(mapping, option->key))
			rc = config_fail(error, mapping, "key '%s' is missing in %s; add '%s: ...'",
				option->key, config_path(mapping).text, option->key);
	}
	return rc;
}
