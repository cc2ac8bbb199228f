/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/bench.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/config/units.h"
#include "base/memory.h"
#include "tools/skep/commands.h"
#include "tools/skep/link.h"
#include "tools/skep/table.h"

enum flag {
#define X(kinds, name, flag, argument, least, most, standard, help) FLAG_##name,
	BENCH_OPTION_TABLE(X)
#undef X
#define X(kinds, name, flag, argument, help) FLAG_##name,
		BENCH_TEXT_TABLE(X)
#undef X
			FLAG_COUNT
};

static const struct flag_row {
	enum bench_kind kinds;
	const char *flag, *argument, *help;
	size_t at; /* in struct bench_options */
	uint64_t least, most, standard;
} flag_rows[] = {
#define X(kinds, name, flag, argument, least, most, standard, help)                                \
	{kinds, flag, argument, help, offsetof(struct bench_options, name), least, most, standard},
	BENCH_OPTION_TABLE(X)
#undef X
#define X(kinds, name, flag, argument, help)                                                       \
	{kinds, flag, argument, help, offsetof(struct bench_options, name), 0, 0, 0},
		BENCH_TEXT_TABLE(X)
#undef X
};

int bench_complain(int status, const char *format, ...)
{
	va_list arguments;

	fputs("skep bench: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	return status;
}

/* ---------------------------------------------------------------------------------- options */

static bool row_is_size(const struct flag_row *row)
{
	return !strcmp(row->argument, "SIZE");
}

static bool row_is_text(const struct flag_row *row)
{
	return !strcmp(row->argument, "DIR");
}

static void row_print(const struct flag_row *row, FILE *out)
{
	char standard[64] = "";

	if (row_is_size(row))
		snprintf(standard, sizeof(standard), "; standard %s",
			size_format(row->standard).text);
	else if (row->argument[0] && !row_is_text(row))
		snprintf(standard, sizeof(standard), "; standard %" PRIu64, row->standard);
	fprintf(out, "  --%-13s %-5s %s%s\n", row->flag, row->argument, row->help, standard);
}

static void flags_print(enum bench_kind kinds, FILE *out)
{
	for (unsigned i = 0; i < FLAG_COUNT; i++)
		if (flag_rows[i].kinds == kinds)
			row_print(&flag_rows[i], out);
}

static void help_show(FILE *out)
{
	fputs("usage: skep bench match|local|ssd [OPTIONS]\n\n"
	      "Measures a private skepd beside what this machine itself can do, in turns.\n\n"
	      "match: chains picked at random in a large index, beside random loads over it\n",
		out);
	flags_print(BENCH_MATCH, out);
	fputs("\nlocal: blocks got, copied out and put, beside memcpy\n", out);
	flags_print(BENCH_LOCAL, out);
	fputs("\nssd: blocks put until they are durable, and loaded, beside fio on a second file\n",
		out);
	flags_print(BENCH_SSD, out);
	fputs("\nlocal and ssd:\n", out);
	flags_print(BENCH_LOCAL | BENCH_SSD, out);
	fputs("\nall:\n", out);
	flags_print(BENCH_ALL, out);
	fputs("\nEnds 0 where it was measured, 1 where a block had wrong bytes, 2 for wrong "
	      "words,\n"
	      "3 without a daemon, 5 where the run failed, 130 interrupted.\n",
		out);
}

static uint64_t *option_of(struct bench_options *options, const struct flag_row *row)
{
	return (uint64_t *)(void *)((char *)options + row->at);
}

/* Reads the argument of a flag; says what would be right where it is not. */
static int argument_take(
	struct bench_options *options, const struct flag_row *row, const char *text)
{
	uint64_t number;
	char *end;

	if (!row->argument[0]) {
		*option_of(options, row) = 1;
		return 0;
	}
	if (row_is_text(row)) {
		if (!text[0])
			return bench_complain(EXIT_USAGE, "--%s: wanted is a directory", row->flag);
		*(const char **)(void *)option_of(options, row) = text;
		return 0;
	}
	if (row_is_size(row)) {
		if (!size_parse(text, &number) && number >= row->least && number <= row->most)
			goto good;
		return bench_complain(EXIT_USAGE, "--%s %s: wanted is a size from %s to %s",
			row->flag, text, size_format(row->least).text, size_format(row->most).text);
	}
	errno = 0;
	number = strtoull(text, &end, 10);
	if (errno || text[0] < '0' || text[0] > '9' || *end || number < row->least ||
		number > row->most)
		return bench_complain(EXIT_USAGE,
			"--%s %s: wanted is a whole number from %" PRIu64 " to %" PRIu64, row->flag,
			text, row->least, row->most);
good:
	*option_of(options, row) = number;
	return 0;
}

int bench_options_read(struct bench_options *options, enum bench_kind kind, int argc, char **argv)
{
	struct option longs[FLAG_COUNT + 1] = {0};
	unsigned count = 0;

	*options = (struct bench_options){0};
	for (unsigned i = 0; i < FLAG_COUNT; i++) {
		if (!row_is_text(&flag_rows[i]))
			*option_of(options, &flag_rows[i]) = flag_rows[i].standard;
		if (flag_rows[i].kinds & kind)
			longs[count++] = (struct option){.name = flag_rows[i].flag,
				.has_arg =
					flag_rows[i].argument[0] ? required_argument : no_argument,
				.val = (int)i};
	}
	optind = 0; /* start anew: other words may have been read before */
	for (;;) {
		int flag = getopt_long(argc, argv, "", longs, NULL);

		if (flag < 0)
			break;
		/* getopt or the taker said why. */
		if (flag >= FLAG_COUNT || argument_take(options, &flag_rows[flag], optarg))
			return EXIT_USAGE;
	}
	if (optind < argc)
		return bench_complain(EXIT_USAGE, "%s: wanted are options alone", argv[optind]);
	return 0;
}

static _Atomic bool interrupted;

static void interrupt(int signal)
{
	(void)signal;
	atomic_store(&interrupted, true);
}

bool bench_interrupted(void)
{
	return atomic_load_explicit(&interrupted, memory_order_relaxed);
}

/* Runs one kind. An interrupt ends it soon, so that the daemon's directory does not stay. */
static int bench_run(enum bench_kind kind, const struct bench_options *options)
{
	struct sigaction on_signal = {.sa_handler = interrupt};
	int status = EXIT_USAGE;

	sigaction(SIGINT, &on_signal, NULL);
	sigaction(SIGTERM, &on_signal, NULL);
	if (kind == BENCH_MATCH)
		status = bench_match(options);
	else if (kind == BENCH_LOCAL)
		status = bench_local(options);
	else if (kind == BENCH_SSD)
		status = bench_ssd(options);
	return bench_interrupted() ? BENCH_EXIT_INTERRUPTED : status;
}

int bench_main(int argc, char **argv)
{
	struct bench_options options;
	enum bench_kind kind = 0;
	int at, status;

	/* Words that skep read before the kind stand before it (main.c). */
	for (at = 1; at < argc && !kind; at++)
		kind = !strcmp(argv[at], "match")   ? BENCH_MATCH
		       : !strcmp(argv[at], "local") ? BENCH_LOCAL
		       : !strcmp(argv[at], "ssd")   ? BENCH_SSD
						    : 0;
	if (kind) {
		for (; at < argc; at++)
			argv[at - 1] = argv[at];
		argc--;
	}
	status = bench_options_read(&options, kind ? kind : BENCH_ALL, argc, argv);
	if (status)
		return status;
	if (options.help || !kind) {
		help_show(options.help ? stdout : stderr);
		return options.help ? EXIT_OK : EXIT_USAGE;
	}
	return bench_run(kind, &options);
}

/* ----------------------------------------------------------------------------------- memory */

int bench_memory_check(uint64_t bytes)
{
	unsigned long long kib = 0;
	char line[128];
	FILE *file = fopen("/proc/meminfo", "re");

	if (!file)
		return bench_complain(EXIT_DAEMON, "/proc/meminfo: %s", strerror(errno));
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			break;
	fclose(file);
	if (bytes <= kib << 10)
		return 0;
	return bench_complain(EXIT_DAEMON,
		"this run needs %s of memory and %lluMiB are free; with smaller --index-blocks, "
		"--walk-bytes or --dram-bytes it needs less",
		size_format(align_up(bytes, 1 << 20)).text, kib >> 10);
}

void *bench_map(uint64_t bytes)
{
	void *base;

	if (memory_should_fail())
		return NULL;
	base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
		-1, 0);
	if (base == MAP_FAILED)
		return NULL;
	for (uint64_t at = 0; at < bytes; at += 4096)
		((volatile char *)base)[at] = 1;
	return base;
}

void bench_unmap(void *base, uint64_t bytes)
{
	if (base)
		munmap(base, bytes);
}

/* ---------------------------------------------------------------------------------- figures */

int samples_create(struct samples *samples, size_t room)
{
	*samples = (struct samples){.values = memory_calloc(room, sizeof(double)), .room = room};
	return samples->values ? 0 : -ENOMEM;
}

void samples_free(struct samples *samples)
{
	memory_free(samples->values);
	*samples = (struct samples){0};
}

void samples_add(struct samples *samples, double value)
{
	SKEP_CHECK(samples->count < samples->room);
	samples->values[samples->count++] = value;
}

static int order(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double samples_quantile(struct samples *samples, double share)
{
	size_t at = (size_t)(share * (double)samples->count);

	SKEP_CHECK(samples->count > 0 && share >= 0 && share <= 1);
	qsort(samples->values, samples->count, sizeof(double), order);
	return samples->values[MIN_OF(at, samples->count - 1)];
}

static bool whole(double value)
{
	return value >= 0 && value < 1e15 && value == (double)(long long)value;
}

static int figures_json(const struct figure *figures)
{
	json_t *json = json_object();
	char name[64];

	for (; figures->name[0]; figures++) {
		const struct samples *spread = figures->spread;

		json_object_set_new(json, figures->name,
			!spread && whole(figures->value) ? json_integer((json_int_t)figures->value)
							 : json_real(figures->value));
		if (!spread)
			continue;
		snprintf(name, sizeof(name), "%s_min", figures->sample);
		json_object_set_new(json, name, json_real(spread->values[0]));
		snprintf(name, sizeof(name), "%s_max", figures->sample);
		json_object_set_new(json, name, json_real(spread->values[spread->count - 1]));
	}
	return json_print(json);
}

/* Three digits that count, and all digits of what is whole. */
static void value_cell(struct table *table, double value)
{
	if (value >= 100 || whole(value))
		table_cell(table, "%.0f", value);
	else
		table_cell(table, "%.3g", value);
}

int figures_print(const struct figure *figures, bool json)
{
	static const char *const headings[] = {"<FIGURE", "VALUE", "LEAST", "MOST", "<WHAT"};
	struct table *table;

	if (json)
		return figures_json(figures);
	table = table_create(headings, ARRAY_COUNT(headings));
	if (!table)
		return bench_complain(EXIT_DAEMON, "out of memory");
	for (; figures->name[0]; figures++) {
		const struct samples *spread = figures->spread;

		table_cell(table, "%s", figures->name);
		value_cell(table, figures->value);
		if (spread) {
			value_cell(table, spread->values[0]);
			value_cell(table, spread->values[spread->count - 1]);
		} else {
			table_cell(table, "%s", "");
			table_cell(table, "%s", "");
		}
		table_cell(table, "%s", figures->meaning);
	}
	return table_end(table);
}
