/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skepd/page.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "base/bits.h"
#include "tools/text.h"

static void html_write(FILE *out, const char *text)
{
	for (; *text; text++)
		switch (*text) {
		case '<':
			fputs("&lt;", out);
			break;
		case '>':
			fputs("&gt;", out);
			break;
		case '&':
			fputs("&amp;", out);
			break;
		default:
			fputc(*text, out);
		}
}

static const char head[] =
	"<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
	"<meta http-equiv=\"refresh\" content=\"5\"><title>skep</title><style>"
	"body{font:15px sans-serif;margin:2em;color:#222}"
	"table{border-collapse:collapse;margin:1em 0}"
	"th,td{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}"
	"th:first-child,td:first-child{text-align:left}</style></head><body>\n<h1>skep</h1>\n";

/* Rows of the table: what it is called, where it stands, whether it is bytes. */
static const struct page_row {
	const char *title;
	size_t offset;
	bool bytes;
} rows[] = {
#define GAUGE(title, field, bytes)                                                                 \
	{                                                                                          \
		title, offsetof(struct realm_status, field), bytes                                 \
	}
#define COUNTER(title, name)                                                                       \
	{                                                                                          \
		title,                                                                             \
			offsetof(struct realm_status, counters) +                                  \
				REALM_COUNTER_##name * sizeof(uint64_t),                           \
			false                                                                      \
	}
	GAUGE("pool", dram_bytes, true),
	GAUGE("in use", dram_used_bytes, true),
	GAUGE("blocks", blocks_present, false),
	GAUGE("being written", blocks_pending, false),
	GAUGE("sessions", sessions, false),
	GAUGE("pins", pins, false),
	COUNTER("tokens asked", tokens_asked),
	COUNTER("tokens had", tokens_had),
	COUNTER("blocks evicted", blocks_evicted),
	COUNTER("puts refused", puts_refused),
	COUNTER("quarantined", blocks_quarantined),
#undef GAUGE
#undef COUNTER
};

static void cell_write(FILE *out, const char *text)
{
	fputs("<td>", out);
	html_write(out, text);
	fputs("</td>", out);
}

static void row_write(
	FILE *out, const struct page_row *row, const struct realm_status *realms, unsigned count)
{
	char text[TEXT_SHORT_BYTES];

	fprintf(out, "<tr><td>%s</td>", row->title);
	for (unsigned i = 0; i < count; i++) {
		uint64_t value;

		memcpy(&value, (const char *)&realms[i] + row->offset, sizeof(value));
		if (row->bytes)
			text_bytes(text, value);
		else
			text_count(text, value);
		cell_write(out, text);
	}
	fputs("</tr>\n", out);
}

static void table_write(FILE *out, const struct realm_status *realms, unsigned count, bool named)
{
	char text[TEXT_SHORT_BYTES];

	fputs("<table><tr><th></th>", out);
	for (unsigned i = 0; i < count; i++) {
		fputs("<th>", out);
		html_write(out, named ? realms[i].name : "all realms");
		fputs("</th>", out);
	}
	fputs("</tr>\n<tr><td>hit ratio</td>", out);
	for (unsigned i = 0; i < count; i++) {
		snprintf(text, sizeof(text), "%.4f", metrics_hit_ratio(&realms[i]));
		cell_write(out, text);
	}
	fputs("</tr>\n", out);
	for (unsigned r = 0; r < ARRAY_COUNT(rows); r++)
		row_write(out, &rows[r], realms, count);
	for (unsigned r = SKEP_REASON_NONE + 1; r < SKEP_REASON_COUNT; r++) {
		fputs("<tr><td>missed: ", out);
		html_write(out, reason_text(r));
		fputs("</td>", out);
		for (unsigned i = 0; i < count; i++) {
			text_count(text, realms[i].misses[r]);
			cell_write(out, text);
		}
		fputs("</tr>\n", out);
	}
	fputs("</table>\n", out);
}

void page_write(const struct metrics_snapshot *snapshot, enum metrics_scope scope, FILE *out)
{
	const struct node_status *node = &snapshot->node;
	uint64_t wall = node->counters[NODE_COUNTER_keeper_wall_ns];
	char uptime[TEXT_SHORT_BYTES];
	struct realm_status total;

	text_span(uptime, node->uptime_ns);
	fputs(head, out);
	fprintf(out,
		"<p>version " SKEP_VERSION ", up %s, loop %s%s, keeper busy %.1f %%. "
		"<a href=\"/metrics\">metrics</a> <a href=\"/healthz\">health</a></p>\n",
		uptime, node->loop_backend, node->loop_fallback ? " (io_uring was refused)" : "",
		wall ? 100.0 * (double)node->counters[NODE_COUNTER_keeper_busy_ns] / (double)wall
		     : 0.0);
	if (scope == METRICS_REALMS) {
		table_write(out, snapshot->realms, snapshot->realm_count, true);
	} else {
		metrics_total(snapshot, &total);
		table_write(out, &total, 1, false);
	}
	fputs("</body></html>\n", out);
}
