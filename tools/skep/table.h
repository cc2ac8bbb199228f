/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_TABLE_H
#define SKEP_TOOLS_SKEP_TABLE_H

#include <stdio.h>

/*
 * Tables for people: columns as wide as their widest cell. A heading that begins with '<' is of a
 * column that is aligned to the left; numbers stand to the right. Control characters in cells are
 * shown as '?': names come from clients and must not steer a terminal.
 */
struct table;

/* @headings, @columns of them, must outlive the table. NULL: no memory. */
struct table *table_create(const char *const *headings, unsigned columns);

/* Adds the next cell, row after row. Want of memory is kept for table_print(). */
void table_cell(struct table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Quantities as tools/text.h writes them. */
void table_bytes(struct table *table, unsigned long long bytes);
void table_count(struct table *table, unsigned long long count);
void table_span(struct table *table, unsigned long long ns);

/* Prints and frees. Return: 0, or -ENOMEM (then it is incomplete). */
int table_print(struct table *table, FILE *out);

/* The same to standard output, with a word on want of memory. Return: EXIT_OK or EXIT_DAEMON. */
int table_end(struct table *table);

/* Writes @text with control characters as '?'. */
void text_print_safe(const char *text, FILE *out);

#endif
