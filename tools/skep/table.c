/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/table.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "tools/skep/commands.h"
#include "tools/text.h"

enum { COLUMNS_MAX = 24, CELL_BYTES = 512 };

struct table {
	const char *const *headings;
	unsigned columns;
	size_t widths[COLUMNS_MAX];
	char **cells;
	size_t count, room;
	bool failed;
};

/* Columns a text takes: one a character, whatever its bytes in UTF-8. */
static size_t width_of(const char *text)
{
	size_t width = 0;

	for (; *text; text++)
		width += ((unsigned char)*text & 0xc0) != 0x80;
	return width;
}

/* Overwrites what would steer a terminal. C1 controls come as two bytes in UTF-8: c2 80 to c2 9f.
 */
static void make_safe(char *text)
{
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c < 0x20 || c == 0x7f)
			*text = '?';
		else if (c == 0xc2 && (unsigned char)text[1] >= 0x80 &&
			 (unsigned char)text[1] < 0xa0)
			text[0] = text[1] = '?';
	}
}

void text_print_safe(const char *text, FILE *out)
{
	char line[CELL_BYTES];

	snprintf(line, sizeof(line), "%s", text);
	make_safe(line);
	fputs(line, out);
}

struct table *table_create(const char *const *headings, unsigned columns)
{
	struct table *table = memory_zalloc(sizeof(*table));

	SKEP_CHECK(columns > 0 && columns <= COLUMNS_MAX);
	if (!table)
		return NULL;
	table->headings = headings;
	table->columns = columns;
	for (unsigned i = 0; i < columns; i++)
		table->widths[i] = width_of(headings[i]) - (headings[i][0] == '<');
	return table;
}

void table_cell(struct table *table, const char *format, ...)
{
	char text[CELL_BYTES];
	size_t width;
	va_list list;

	if (!table || table->failed)
		return;
	va_start(list, format);
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
	make_safe(text);
	if (table->count == table->room) {
		size_t room = table->room ? table->room * 2 : 256;
		char **cells = memory_realloc(table->cells, room * sizeof(*cells));

		if (!cells) {
			table->failed = true;
			return;
		}
		table->cells = cells;
		table->room = room;
	}
	table->cells[table->count] = memory_strdup(text);
	if (!table->cells[table->count]) {
		table->failed = true;
		return;
	}
	width = width_of(text);
	if (width > table->widths[table->count % table->columns])
		table->widths[table->count % table->columns] = width;
	table->count++;
}

void table_bytes(struct table *table, unsigned long long bytes)
{
	char text[TEXT_SHORT_BYTES];

	text_bytes(text, bytes);
	table_cell(table, "%s", text);
}

void table_count(struct table *table, unsigned long long count)
{
	char text[TEXT_SHORT_BYTES];

	text_count(text, count);
	table_cell(table, "%s", text);
}

void table_span(struct table *table, unsigned long long ns)
{
	char text[TEXT_SHORT_BYTES];

	text_span(text, ns);
	table_cell(table, "%s", text);
}

/* One cell and the gap after it; the last of a row gets neither gap nor blanks. */
static void cell_print(const struct table *table, unsigned column, const char *text, FILE *out)
{
	bool left = table->headings[column][0] == '<', last = column + 1 == table->columns;
	int pad = (int)(table->widths[column] - width_of(text));

	if (!left)
		fprintf(out, "%*s", pad, "");
	fputs(text, out);
	if (last)
		fputc('\n', out);
	else
		fprintf(out, "%*s", (left ? pad : 0) + 2, "");
}

int table_print(struct table *table, FILE *out)
{
	int status = !table || table->failed ? -ENOMEM : 0;

	if (!table)
		return status;
	for (unsigned c = 0; c < table->columns; c++)
		cell_print(table, c, table->headings[c] + (table->headings[c][0] == '<'), out);
	for (size_t i = 0; i < table->count; i++)
		cell_print(table, (unsigned)(i % table->columns), table->cells[i], out);
	if (table->count % table->columns) /* a row that could not be finished */
		fputc('\n', out);
	for (size_t i = 0; i < table->count; i++)
		memory_free(table->cells[i]);
	memory_free(table->cells);
	memory_free(table);
	return status;
}

int table_end(struct table *table)
{
	if (table_print(table, stdout) == 0)
		return EXIT_OK;
	fputs("skep: out of memory: the table is not whole\n", stderr);
	return EXIT_DAEMON;
}
