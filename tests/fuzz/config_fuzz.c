/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration reader over any bytes: it takes them or says why not in one line that names the
 * file, and what it took can be walked and filled from.
 */
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/config/config.h"
#include "base/config/units.h"
#include "tests/fuzz/fuzz.h"

/* Short keys, so that they are found soon. */
#define FUZZ_OPTIONS(X)                                                                            \
	X(text, "a", STRING, "x", 0, 0, "Text.")                                                   \
	X(truth, "b", BOOL, "false", 0, 0, "Truth.")                                               \
	X(number, "c", INTEGER, "1", 1, 99, "A number.")                                           \
	X(bytes, "d", SIZE, NULL, 0, 0, "A size.")                                                 \
	X(ns, "e", DURATION, NULL, 0, 0, "A span.")                                                \
	X(inner, "f", MAPPING, NULL, 0, 0, "More of the same.")                                    \
	X(list, "g", MAPPINGS, NULL, 0, 0, "Many of the same.")                                    \
	X(texts, "h", STRINGS, NULL, 0, 0, "Many texts.")

struct fuzz_options {
#define X(field, key, type, ...) CONFIG_FIELD_##type field;
	FUZZ_OPTIONS(X)
#undef X
};

static const struct config_option rows[] = {
#define X(field, ...) CONFIG_OPTION(struct fuzz_options, field, __VA_ARGS__),
	FUZZ_OPTIONS(X)
#undef X
};

static const struct config_table table = {rows, ARRAY_COUNT(rows)};

static void said_in_one_line(const struct config_error *error)
{
	SKEP_CHECK(!strncmp(error->text, "fuzz:", 5));
	SKEP_CHECK(memchr(error->text, 0, sizeof(error->text)));
	SKEP_CHECK(!strpbrk(error->text, "\n\r\t"));
}

/* What the formats print is read back as the same. */
static void amounts_return(const struct fuzz_options *options)
{
	uint64_t again;

	SKEP_CHECK(options->number >= 1 && options->number <= 99);
	SKEP_CHECK(
		!size_parse(size_format(options->bytes).text, &again) && again == options->bytes);
	SKEP_CHECK(
		!duration_parse(duration_format(options->ns).text, &again) && again == options->ns);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	const struct config_node *mapping, *each = NULL;
	struct config_error error = {.text = ""};
	struct fuzz_options options, inner;
	struct config *config;

	if (config_read_memory("fuzz", (const char *)data, bytes, &config, &error)) {
		said_in_one_line(&error);
		return 0;
	}
	mapping = config_root(config);
	for (int depth = 0; mapping && depth <= CONFIG_DEPTH_MAX; depth++) {
		if (config_fill(mapping, &table, &options, &error)) {
			said_in_one_line(&error);
			break;
		}
		amounts_return(&options);
		SKEP_CHECK(strlen(options.text) <= bytes + 1);
		while (options.list && (each = config_next(options.list, each)))
			if (config_fill(each, &table, &inner, &error))
				said_in_one_line(&error);
		while (options.texts && (each = config_next(options.texts, each)))
			SKEP_CHECK(strlen(config_text(each)) <= bytes);
		mapping = options.inner;
	}
	config_free(config);
	return 0;
}
