/* SPDX-License-Identifier: Apache-2.0 */
/* Ids, quantities, tables, token lists and command lines read and print as they should. */
#include "tools/skep/arguments.c"
#include "tools/skep/table.c"
#include "tools/skep/tokens.c"
#include "tools/text.c"

#include "tests/base/unit.h"

static void ids_go_both_ways(uint64_t seed)
{
	char text[TEXT_ID_BYTES];
	uint64_t id[2] = {1, 2}, back[2];

	text_id_write(text, id);
	/* The bytes in their order, low word first, as skep_chain_id() gives them. */
	REQUIRE_TEXT(text, "01000000000000000200000000000000");
	for (unsigned i = 0; i < 1000; i++) {
		id[0] = seed = mix64(seed);
		id[1] = seed = mix64(seed);
		text_id_write(text, id);
		REQUIRE(text_id_read(text, back) && back[0] == id[0] && back[1] == id[1]);
	}
	REQUIRE(text_id_read("ABCDEFabcdef00000000000000000000", back));
	REQUIRE(!text_id_read("", back));
	REQUIRE(!text_id_read("0100000000000000020000000000000", back));
	REQUIRE(!text_id_read("010000000000000002000000000000000", back));
	REQUIRE(!text_id_read("0g000000000000000200000000000000", back));
}

static void quantities_are_short(void)
{
	static const struct {
		uint64_t value;
		const char *bytes, *span, *count;
	} rows[] = {{0, "0 B", "0 ns", "0"}, {999, "999 B", "999 ns", "999"},
		{1023, "1023 B", "1.02 us", "1,023"}, {1024, "1.00 KiB", "1.02 us", "1,024"},
		{1536, "1.50 KiB", "1.54 us", "1,536"},
		{10 << 20, "10.0 MiB", "10.5 ms", "10,485,760"},
		{90 * NS_PER_S, "83.8 GiB", "1 min 30 s", "90,000,000,000"},
		{7200 * NS_PER_S, "6.55 TiB", "2 h 0 min", "7,200,000,000,000"},
		{UINT64_MAX, "16.0 EiB", "never", "18,446,744,073,709,551,615"}};
	char text[TEXT_SHORT_BYTES];

	for (unsigned i = 0; i < ARRAY_COUNT(rows); i++) {
		text_bytes(text, rows[i].value);
		REQUIRE_TEXT(text, rows[i].bytes);
		text_span(text, rows[i].value);
		REQUIRE_TEXT(text, rows[i].span);
		text_count(text, rows[i].value);
		REQUIRE_TEXT(text, rows[i].count);
	}
}

static void tables_align_and_are_safe(void)
{
	static const char *const headings[] = {"<NAME", "COUNT", "<LAST"};
	struct table *table = table_create(headings, 3);
	char *text = NULL;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);

	table_cell(table, "%s", "a");
	table_count(table, 12345);
	table_cell(table, "x");
	table_cell(table, "%s", "l\xc3\xa4nger"); /* six characters */
	table_count(table, 1);
	table_cell(table, "%s", "\x1b[31m\xc2\x9b"); /* a terminal's commands, short and long */
	REQUIRE_EQ(table_print(table, out), 0);
	fclose(out);
	REQUIRE_TEXT(text, "NAME     COUNT  LAST\n"
			   "a       12,345  x\n"
			   "l\xc3\xa4nger       1  ?[31m??\n");
	free(text);
	for (unsigned long nth = 1; nth < 6; nth++) {
		memory_fail_after(nth, 0);
		table = table_create(headings, 3);
		for (unsigned i = 0; i < 3; i++)
			table_cell(table, "cell");
		memory_fail_after(0, 0);
		out = open_memstream(&text, &bytes);
		REQUIRE_EQ(table_print(table, out), nth <= 5 ? -ENOMEM : 0);
		fclose(out);
		free(text);
	}
}

static int tokens_of(const char *text, struct tokens *tokens, char *why)
{
	FILE *file = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
	int status;

	REQUIRE(file);
	memset(tokens, 0, sizeof(*tokens));
	status = tokens_read(file, tokens, why);
	fclose(file);
	return status;
}

static void token_lists_are_read(void)
{
	struct tokens tokens;
	char why[TOKENS_WHY_MAX];

	REQUIRE_EQ(tokens_of("[1, 2,3]\n 4294967295\n", &tokens, why), 0);
	REQUIRE_EQ(tokens.count, 4);
	REQUIRE_EQ(tokens.ids[3], UINT32_MAX);
	tokens_drop(&tokens);
	REQUIRE_EQ(tokens_of("1\n2\n4294967296\n", &tokens, why), -EINVAL);
	REQUIRE_TEXT(why, ":3: a token id has at most 32 bits");
	tokens_drop(&tokens);
	REQUIRE_EQ(tokens_of("1\n-2", &tokens, why), -EINVAL);
	REQUIRE_TEXT(why, ":2: '-' is no part of a token id");
	tokens_drop(&tokens);
	REQUIRE_EQ(tokens_of("18446744073709551617", &tokens, why), -EINVAL);
	tokens_drop(&tokens);
	memory_fail_after(1, 0);
	REQUIRE_EQ(tokens_of("1", &tokens, why), -ENOMEM);
	memory_fail_after(0, 0);
	tokens_drop(&tokens);
}

static int line_of(const char *line, struct arguments *out)
{
	static char text[512];
	char *rest = text, *argv[40] = {"skep"}, *word;
	int argc = 1;

	snprintf(text, sizeof(text), "%s", line);
	while ((word = strsep(&rest, " ")))
		argv[argc++] = word;
	return arguments_read(argc, argv, out);
}

static void command_lines_are_read(void)
{
	struct arguments arguments;
	uint64_t number = 5;

	REQUIRE_EQ(line_of("--json show blocks --space=x --limit 7", &arguments), 0);
	REQUIRE_TEXT(arguments.command, "show");
	REQUIRE_TEXT(arguments.word[0], "blocks");
	REQUIRE_TEXT(arguments.option[OPTION_show_space], "x");
	REQUIRE(arguments.option[OPTION_any_json] && !arguments.option[OPTION_any_realm]);
	REQUIRE(arguments_number(
		&arguments, OPTION_show_limit, (struct number_bounds){1, 9}, &number));
	REQUIRE_EQ(number, 7);
	REQUIRE(!arguments_number(
		&arguments, OPTION_show_limit, (struct number_bounds){8, 9}, &number));
	REQUIRE_EQ(line_of("evict --bytes 2GiB", &arguments), 0);
	REQUIRE(arguments_size(
		&arguments, OPTION_evict_bytes, (struct number_bounds){1, UINT64_MAX}, &number));
	REQUIRE_EQ(number, 2ull << 30);
	REQUIRE_EQ(line_of("explain --tokens - --token-file t", &arguments), 0);
	REQUIRE_TEXT(arguments.option[OPTION_explain_tokens], "-");
	/* An option belongs to its command. */
	REQUIRE_EQ(line_of("status --limit 7", &arguments), EXIT_USAGE);
	REQUIRE_EQ(line_of("--limit 7 show", &arguments), EXIT_USAGE);
	REQUIRE_EQ(line_of("dance", &arguments), EXIT_USAGE);
	REQUIRE_EQ(line_of("show --limit", &arguments), EXIT_USAGE);
	REQUIRE_EQ(line_of("show --json=1", &arguments), EXIT_USAGE);
	REQUIRE_EQ(line_of("show 1 2 3 4 5 6 7 8 9", &arguments), EXIT_USAGE);
	/* What follows a program is its own. */
	REQUIRE_EQ(line_of("--json replay --nonsense x", &arguments), 0);
	REQUIRE_TEXT(arguments.command, "replay");
	REQUIRE_EQ(arguments.rest, 2);
	setenv("SKEP_SOCKET", "unix:/tmp/x", 1);
	REQUIRE_TEXT(arguments_socket(&arguments), "/tmp/x");
	unsetenv("SKEP_SOCKET");
	REQUIRE_TEXT(arguments_socket(&arguments), SOCKET_STANDARD);
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);

	ids_go_both_ways(seed);
	quantities_are_short();
	tables_align_and_are_safe();
	token_lists_are_read();
	command_lines_are_read();
	return 0;
}
