/* SPDX-License-Identifier: Apache-2.0 */
#include "store/ledger.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tiering/ssd/manifest.h"

static const char made_key[] = "made";

/* "d", then sequence and unit with the high byte first, so that rows lie in that order. */
void ledger_key_write(uint8_t key[LEDGER_KEY_BYTES], struct ledger_row row)
{
	key[0] = 'd';
	for (unsigned i = 0; i < 8; i++)
		key[1 + i] = (uint8_t)(row.sequence >> (56 - 8 * i));
	for (unsigned i = 0; i < 4; i++)
		key[9 + i] = (uint8_t)(row.unit >> (24 - 8 * i));
}

int ledger_made_put(struct manifest *manifest)
{
	return manifest_put(manifest, made_key, sizeof(made_key) - 1, "", 0);
}

static int row_add(struct ledger_rows *rows, const uint8_t *bytes)
{
	struct ledger_row row = {0, 0};

	for (unsigned i = 0; i < 8; i++)
		row.sequence = row.sequence << 8 | bytes[1 + i];
	for (unsigned i = 0; i < 4; i++)
		row.unit = row.unit << 8 | bytes[9 + i];
	if (rows->count == rows->room) {
		size_t room = rows->room ? 2 * rows->room : 4096;
		struct ledger_row *grown = memory_realloc(rows->rows, room * sizeof(*rows->rows));

		if (!grown)
			return -ENOMEM;
		rows->rows = grown;
		rows->room = room;
	}
	rows->rows[rows->count++] = row;
	return 0;
}

static int row_take(
	void *arg, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
	struct ledger_rows *rows = arg;
	const uint8_t *bytes = key;

	(void)value;
	(void)value_bytes;
	if (key_bytes == LEDGER_KEY_BYTES && bytes[0] == 'd')
		return row_add(rows, bytes);
	if (key_bytes == sizeof(made_key) - 1 && !memcmp(key, made_key, key_bytes))
		rows->made = true;
	else
		rows->foreign++;
	return 0;
}

int ledger_rows_read(struct manifest *manifest, struct ledger_rows *out)
{
	*out = (struct ledger_rows){0};
	return manifest_each(manifest, NULL, 0, row_take, out);
}

void ledger_rows_free(struct ledger_rows *rows)
{
	memory_free(rows->rows);
	*rows = (struct ledger_rows){0};
}

static int row_compare(const void *a, const void *b)
{
	const struct ledger_row *one = a, *two = b;

	if (one->sequence != two->sequence)
		return one->sequence < two->sequence ? -1 : 1;
	return one->unit < two->unit ? -1 : one->unit > two->unit;
}

bool ledger_rows_have(const struct ledger_rows *rows, struct ledger_row row)
{
	return rows->count &&
	       bsearch(&row, rows->rows, rows->count, sizeof(rows->rows[0]), row_compare);
}
