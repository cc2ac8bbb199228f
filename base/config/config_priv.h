/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_CONFIG_CONFIG_PRIV_H
#define SKEP_BASE_CONFIG_CONFIG_PRIV_H

#include <stdarg.h>

#include "base/config/config.h"

enum config_shape { CONFIG_SCALAR, CONFIG_MAP, CONFIG_LIST };

/* Where something stands in the file, counted from 1. Line 0: nowhere. */
struct config_place {
	unsigned line, column;
};

struct config_node {
	const struct config *config;
	struct config_node *parent; /* NULL: the root */
	struct config_node *first, *last, *next;
	struct config_node *allocated; /* all nodes of the document, for config_free */
	enum config_shape shape;
	struct config_place place;
	bool plain;	/* a scalar without quotes */
	char *text;	/* of a scalar */
	char *key;	/* of a member of a mapping */
	uint32_t index; /* of an element of a list */
	struct config_place key_place;
};

struct config {
	char *name; /* of the file */
	struct config_node *root, *allocated;
	unsigned count;
};

/* A value or key as an error shows it: cut where it is long. */
struct config_shown {
	char text[64];
};

struct config_shown config_show(const char *text);

/* The way to a node: "realms[0].dram"; "the file" for the root. */
struct config_path {
	char text[256];
};

struct config_path config_path(const struct config_node *node);

/* Writes "NAME:LINE:COLUMN: …", all on one line, and returns -EINVAL. */
int config_fail_at(struct config_error *error, const char *name, struct config_place place,
	const char *format, ...) __attribute__((format(printf, 4, 5)));

int config_fail_list(struct config_error *error, const char *name, struct config_place place,
	const char *format, va_list list) __attribute__((format(printf, 4, 0)));

#endif
