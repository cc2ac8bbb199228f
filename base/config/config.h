/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_CONFIG_CONFIG_H
#define SKEP_BASE_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Reads a YAML file into a tree that remembers where everything stood, then fills structs from it
 *by tables. A small part of YAML is taken: one document of mappings, lists and plain or quoted
 *values; no anchors, aliases or tags. Every error is one line:
 *
 *	skepd.yaml:12:3: unknown key 'dramm' in realms[0]; did you mean 'dram'?
 *
 * Any thread; a document is not shared while it is read or freed. These functions allocate and
 *block on the file; they are for start and reload.
 */
struct config;
struct config_node;

enum {
	CONFIG_FILE_BYTES_MAX = 1 << 20,
	CONFIG_DEPTH_MAX = 16,	    /* mappings and lists inside one another */
	CONFIG_NODES_MAX = 1 << 13, /* values, lists and mappings of a file */
};

struct config_error {
	char text[640]; /* one line, without its end */
};

/*
 * Reads @path. 0; -EINVAL: the content, see @error; -E2BIG: too large; -ENOMEM; or what open and
 * read say. @error is filled at each failure.
 */
int config_read_file(const char *path, struct config **config, struct config_error *error);

/* The same from memory; @name stands for the file in errors. */
int config_read_memory(const char *name, const char *text, size_t text_bytes,
	struct config **config, struct config_error *error);

/* Frees the tree and every string that config_fill gave out of it. NULL is allowed. */
void config_free(struct config *config);

/* The outermost mapping; that of an empty file is empty. */
const struct config_node *config_root(const struct config *config);

/* The value of @key in a mapping; NULL: not there. */
const struct config_node *config_find(const struct config_node *mapping, const char *key);

/* The value after @previous in a list or mapping, the first after NULL; NULL: that was the last. */
const struct config_node *config_next(
	const struct config_node *parent, const struct config_node *previous);

/* The text of a value; NULL: a list or mapping. Belongs to the document. */
const char *config_text(const struct config_node *node);

/*
 * Writes an error that names file, line and column of @node and returns -EINVAL: for what only the
 * owner of an option can judge. Say the value, the cause and the fix.
 */
int config_fail(struct config_error *error, const struct config_node *node, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* --- tables ----------------------------------------------------------------------------------- */

/* What an option can hold, and how an error puts it. The types of the fields follow below. */
#define CONFIG_TYPE_TABLE(X)                                                                       \
	X(STRING, "text")                                                                          \
	X(BOOL, "true or false")                                                                   \
	X(INTEGER, "a whole number")                                                               \
	X(SIZE, "a byte size such as 4096 or 512MiB (B, KiB, MiB, GiB, TiB, PiB)")                 \
	X(DURATION, "a span of time such as 250ms or 30s (ns, us, ms, s, m, h, d)")                \
	X(MAPPING, "a mapping")                                                                    \
	X(MAPPINGS, "a list of mappings")                                                          \
	X(STRINGS, "a list of texts")

enum config_type {
#define X(name, words) CONFIG_##name,
	CONFIG_TYPE_TABLE(X)
#undef X
};

/* As default_text: the key must be there. */
extern const char config_required[];

struct config_option {
	const char *key;
	enum config_type type;
	size_t offset;		   /* of the field in the struct to fill */
	uint64_t minimum, maximum; /* INTEGER; SIZE in bytes; DURATION in ns; maximum 0: no bound */
	const char *default_text;  /* as it would stand in the file; NULL: 0, false or NULL */
	const char *help;	   /* one sentence */
};

struct config_table {
	const struct config_option *options;
	size_t count;
};

/*
 * One row of a table. The module that owns the options lists them once, as an X-macro, and makes
 * the fields, the rows and the documents of it:
 *
 *	#define REALM_OPTIONS(X)                                                             \
 *		X(name, "name", STRING, config_required, 0, 0, "Name of the realm.")          \
 *		X(dram_bytes, "dram", SIZE, "1GiB", 1 << 20, 0, "Memory for its blocks.")
 *
 *	struct realm_options {
 *	#define X(field, key, type, ...) CONFIG_FIELD_##type field;
 *		REALM_OPTIONS(X)
 *	#undef X
 *	};
 *
 *	static const struct config_option realm_options[] = {
 *	#define X(field, ...) CONFIG_OPTION(struct realm_options, field, __VA_ARGS__),
 *		REALM_OPTIONS(X)
 *	#undef X
 *	};
 */
#define CONFIG_FIELD_STRING   const char *
#define CONFIG_FIELD_BOOL     bool
#define CONFIG_FIELD_INTEGER  uint64_t
#define CONFIG_FIELD_SIZE     uint64_t
#define CONFIG_FIELD_DURATION uint64_t
#define CONFIG_FIELD_MAPPING  const struct config_node *
#define CONFIG_FIELD_MAPPINGS const struct config_node *
#define CONFIG_FIELD_STRINGS  const struct config_node *

/* Does not compile where the field's type is not the option's. */
#define CONFIG_OPTION(owner, field, key_, type_, default_, minimum_, maximum_, help_)              \
	{                                                                                          \
		.key = key_, .type = CONFIG_##type_,                                               \
		.offset = offsetof(owner, field) +                                                 \
			  0 * sizeof(char[__builtin_types_compatible_p(                            \
						  __typeof__(((owner *)NULL)->field),              \
						  CONFIG_FIELD_##type_)                            \
						  ? 1                                              \
						  : -1]),                                          \
		.minimum = minimum_, .maximum = maximum_, .default_text = default_, .help = help_, \
	}

/*
 * Fills @target (the struct that the offsets are of) from @mapping: each option from its key, else
 * from its default. Strings and nodes belong to the document and live as long; a MAPPING or
 * MAPPINGS is left to be filled by a table of its own, NULL where the key is not there. With
 * @mapping NULL all options get their defaults, required ones 0, false or NULL.
 *
 * 0; -EINVAL: unknown key, missing key, wrong type, out of range, see @error.
 */
int config_fill(const struct config_node *mapping, const struct config_table *table, void *target,
	struct config_error *error);

#endif
