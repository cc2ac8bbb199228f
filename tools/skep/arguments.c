/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/config/units.h"
#include "tools/skep/commands.h"
#ifdef SKEP_TOOL_BENCH
#include "tools/skep/bench.h"
#endif
#ifdef SKEP_TOOL_REPLAY
#include "tools/skep/replay.h"
#endif

#define SOCKET_STANDARD "/run/skep/skepd.sock"

struct option_row {
	const char *command, *name, *argument, *help;
};

static const struct option_row options[] = {
#define X(command, name, argument, help) {#command, #name, argument, help},
	SKEP_OPTION_TABLE(X)
#undef X
};

struct command_row {
	const char *name, *usage, *summary;
	bool program; /* reads its own arguments */
};

static const struct command_row commands[] = {
#define X(name, usage, summary) {#name, usage, summary, false},
	SKEP_COMMAND_TABLE(X)
#undef X
#define X(name, usage, summary) {#name, usage, summary, true},
		SKEP_PROGRAM_TABLE(X)
#undef X
};

static const struct command_row *command_find(const char *name)
{
	for (unsigned i = 0; i < ARRAY_COUNT(commands); i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
}

/* Does a row's name, token_file, stand for what was typed, token-file? */
static bool name_matches(const char *name, const char *typed, size_t length)
{
	if (strlen(name) != length)
		return false;
	for (size_t i = 0; i < length; i++)
		if (typed[i] != (name[i] == '_' ? '-' : name[i]))
			return false;
	return true;
}

/* The option of @command called so, or -1. */
static int option_find(const char *command, const char *typed, size_t length)
{
	for (unsigned i = 0; i < OPTION_COUNT; i++)
		if ((!strcmp(options[i].command, "any") || !strcmp(options[i].command, command)) &&
			name_matches(options[i].name, typed, length))
			return (int)i;
	return -1;
}

int usage_error(const struct arguments *arguments, const char *format, ...)
{
	va_list list;

	fputs("skep: ", stderr);
	va_start(list, format);
	vfprintf(stderr, format, list);
	va_end(list);
	fprintf(stderr, "\nskep help%s%s says more\n", *arguments->command ? " " : "",
		arguments->command);
	return EXIT_USAGE;
}

/* Reads the option at argv[*at], and its argument. */
static int option_read(int argc, char **argv, int *at, struct arguments *out)
{
	const char *typed = argv[*at] + 2, *equals = strchr(typed, '=');
	size_t length = equals ? (size_t)(equals - typed) : strlen(typed);
	int found = option_find(out->command, typed, length);

	if (found < 0)
		return usage_error(out, "%s%sthere is no option --%.*s", out->command,
			*out->command ? ": " : "", (int)length, typed);
	if (!*options[found].argument) {
		if (equals)
			return usage_error(out, "--%.*s takes no argument", (int)length, typed);
		out->option[found] = "";
		return 0;
	}
	if (equals) {
		out->option[found] = equals + 1;
	} else {
		if (*at + 1 >= argc)
			return usage_error(out, "--%.*s needs an argument: %s", (int)length, typed,
				options[found].argument);
		out->option[found] = argv[++*at];
	}
	return 0;
}

int arguments_read(int argc, char **argv, struct arguments *out)
{
	bool options_end = false;

	memset(out, 0, sizeof(*out));
	out->command = "";
	for (int i = 1; i < argc; i++) {
		const struct command_row *command;
		int status;

		if (!options_end && !strcmp(argv[i], "-h")) {
			out->option[OPTION_any_help] = "";
		} else if (!options_end && !strcmp(argv[i], "--")) {
			options_end = true;
		} else if (!options_end && !strcmp(argv[i], "--version") && !*out->command) {
			out->command = "version";
		} else if (!options_end && !strncmp(argv[i], "--", 2)) {
			status = option_read(argc, argv, &i, out);
			if (status)
				return status;
		} else if (!*out->command) {
			command = command_find(argv[i]);
			if (!command)
				return usage_error(out, "no command is called %s", argv[i]);
			out->command = command->name;
			if (command->program) {
				out->rest = i;
				return 0;
			}
		} else if (out->words == ARGUMENTS_MAX) {
			return usage_error(out, "%s: too many words", out->command);
		} else {
			out->word[out->words++] = argv[i];
		}
	}
	return 0;
}

const char *arguments_socket(const struct arguments *arguments)
{
	const char *from = arguments->option[OPTION_any_socket];

	if (!from)
		from = getenv("SKEP_SOCKET");
	if (!from || !*from)
		return SOCKET_STANDARD;
	return strncmp(from, "unix:", 5) ? from : from + 5;
}

bool arguments_number(const struct arguments *arguments, enum skep_option option,
	struct number_bounds bounds, uint64_t *out)
{
	const char *text = arguments->option[option];
	unsigned long long value;
	char *end;

	if (!text)
		return true;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || value < bounds.least ||
		value > bounds.most) {
		usage_error(arguments, "--%s: %s is no whole number from %" PRIu64 " to %" PRIu64,
			options[option].name, text, bounds.least, bounds.most);
		return false;
	}
	*out = value;
	return true;
}

bool arguments_size(const struct arguments *arguments, enum skep_option option,
	struct number_bounds bounds, uint64_t *out)
{
	const char *text = arguments->option[option];
	uint64_t value;

	if (!text)
		return true;
	if (size_parse(text, &value) || value < bounds.least || value > bounds.most) {
		usage_error(arguments,
			"--%s: %s is no size from %" PRIu64 " to %" PRIu64
			" bytes: write 4096, 64KiB, 2GiB",
			options[option].name, text, bounds.least, bounds.most);
		return false;
	}
	*out = value;
	return true;
}

bool arguments_token(const struct arguments *arguments, char token[256])
{
	const char *path = arguments->option[OPTION_any_token_file];
	FILE *file;
	bool read;

	*token = 0;
	if (!path)
		return true;
	file = fopen(path, "re");
	read = file && fgets(token, 256, file);
	if (read)
		token[strcspn(token, "\r\n")] = 0;
	else
		fprintf(stderr, "skep: token file %s: %s\n", path,
			file ? "it is empty" : strerror(errno));
	if (file)
		fclose(file);
	return read;
}

/* -------------------------------------------------------------------------------- help */

/* Prints "  --token-file FILE" and, from a fixed column on, what it does. */
static void option_print(const struct option_row *row)
{
	char flag[64];
	size_t length = 0;

	for (const char *c = row->name; *c && length + 1 < sizeof(flag); c++)
		flag[length++] = *c == '_' ? '-' : *c;
	flag[length] = 0;
	if (*row->argument)
		snprintf(flag + length, sizeof(flag) - length, " %s", row->argument);
	printf("  --%-18s %s\n", flag, row->help);
}

static void options_print(const char *command)
{
	for (unsigned i = 0; i < OPTION_COUNT; i++)
		if (!strcmp(options[i].command, command))
			option_print(&options[i]);
}

static int help_all(void)
{
	printf("usage: skep [OPTION]... COMMAND [ARGUMENT]...\n\nCommands:\n");
	for (unsigned i = 0; i < ARRAY_COUNT(commands); i++)
		printf("  %-11s %s\n", commands[i].name, commands[i].summary);
	printf("\nOptions of every command:\n");
	options_print("any");
	printf("\nskep help COMMAND says what a command takes; skep(1) says the rest.\n"
	       "Exit status: 0 done, 1 the answer is no, 2 wrong words, 3 no daemon, 4 refused, "
	       "5 the daemon failed.\n");
	return EXIT_OK;
}

int help_print(const char *name)
{
	const struct command_row *command;

	if (!*name)
		return help_all();
	command = command_find(name);
	if (!command) {
		fprintf(stderr, "skep: no command is called %s\nskep help lists them\n", name);
		return EXIT_USAGE;
	}
	printf("usage: skep %s%s%s\n\n%s\n\n", name, *command->usage ? " " : "", command->usage,
		command->summary);
	if (command->program)
		return EXIT_OK;
	printf("Options:\n");
	options_print(name);
	options_print("any");
	return EXIT_OK;
}

/* -------------------------------------------------------------------------- completion */

/* What may follow a command besides options, as words; "" for nothing a shell could know. */
static const struct {
	const char *command, *words;
} follow[] = {
	{"show", "blocks roots pins counters misses latencies"},
	{"completion", "bash zsh fish"},
	{"bench", "match local ssd"},
};

static const char *words_after(const char *command)
{
	for (unsigned i = 0; i < ARRAY_COUNT(follow); i++)
		if (!strcmp(follow[i].command, command))
			return follow[i].words;
	return "";
}

/* Flags of those that read their own, from their own tables, where this build has them. */
static void program_flags_print(const char *program)
{
#ifdef SKEP_TOOL_REPLAY
	if (!strcmp(program, "replay")) {
#define X(name, flag, ...) printf(" --" flag);
		REPLAY_OPTION_TABLE(X)
#undef X
	}
#endif
#ifdef SKEP_TOOL_BENCH
	if (!strcmp(program, "bench")) {
#define X(kind, name, flag, ...) printf(" --" flag);
		BENCH_OPTION_TABLE(X)
		BENCH_TEXT_TABLE(X)
#undef X
	}
#endif
	(void)program;
}

static void flags_print(const char *command)
{
	for (unsigned i = 0; i < OPTION_COUNT; i++) {
		if (strcmp(options[i].command, command))
			continue;
		printf(" --");
		for (const char *c = options[i].name; *c; c++)
			putchar(*c == '_' ? '-' : *c);
	}
}

static void completion_bash(void)
{
	printf("# SPDX-License-Identifier: Apache-2.0\n"
	       "# Completion of skep for bash, as `skep completion bash` prints it.\n\n"
	       "_skep()\n{\n"
	       "\tlocal current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}\n"
	       "\tlocal command='' words='' i\n\n"
	       "\tcase $before in\n"
	       "\t--socket | --token-file | --tokens)\n"
	       "\t\tmapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n"
	       "\t\treturn\n\t\t;;\n\tesac\n"
	       "\tfor ((i = 1; i < COMP_CWORD; i++)); do\n"
	       "\t\tcase ${COMP_WORDS[i]} in\n"
	       "\t\t--socket | --realm | --token-file) ((i++)) ;;\n"
	       "\t\t-*) ;;\n"
	       "\t\t*)\n\t\t\tcommand=${COMP_WORDS[i]}\n\t\t\tbreak\n\t\t\t;;\n"
	       "\t\tesac\n\tdone\n"
	       "\tcase $command in\n\t\"\") words=\"");
	for (unsigned i = 0; i < ARRAY_COUNT(commands); i++)
		printf("%s%s", i ? " " : "", commands[i].name);
	printf(" --version\" ;;\n\thelp) words=\"");
	for (unsigned i = 0; i < ARRAY_COUNT(commands); i++)
		printf("%s%s", i ? " " : "", commands[i].name);
	printf("\" ;;\n");
	for (unsigned i = 0; i < ARRAY_COUNT(commands); i++) {
		if (!strcmp(commands[i].name, "help"))
			continue;
		printf("\t%s) words=\"%s", commands[i].name, words_after(commands[i].name));
		if (commands[i].program)
			program_flags_print(commands[i].name);
		else
			flags_print(commands[i].name);
		printf("\" ;;\n");
	}
	printf("\tesac\n\t[[ $command == replay || $command == bench ]] || words+=\"");
	flags_print("any");
	printf("\"\n\tmapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")\n"
	       "\tif [[ $command == replay && $current != -* ]]; then\n"
	       "\t\tmapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n\tfi\n"
	       "}\ncomplete -o filenames -F _skep skep\n");
}

static void completion_zsh(void)
{
	/* zsh reads bash's scripts through its own shim: one script to keep right. */
	printf("#compdef skep\nautoload -U +X bashcompinit && bashcompinit\n");
	completion_bash();
}

static void completion_fish(void)
{
	printf("# SPDX-License-Identifier: Apache-2.0\n"
	       "# Completion of skep for fish, as `skep completion fish` prints it.\n");
	for (unsigned i = 0; i < ARRAY_COUNT(commands); i++)
		printf("complete -c skep -f -n __fish_use_subcommand -a %s -d '%s'\n",
			commands[i].name, commands[i].summary);
	for (unsigned i = 0; i < ARRAY_COUNT(follow); i++)
		printf("complete -c skep -f -n '__fish_seen_subcommand_from %s' -a '%s'\n",
			follow[i].command, follow[i].words);
	for (unsigned i = 0; i < OPTION_COUNT; i++) {
		bool any = !strcmp(options[i].command, "any");

		printf("complete -c skep -l ");
		for (const char *c = options[i].name; *c; c++)
			putchar(*c == '_' ? '-' : *c);
		if (!any)
			printf(" -n '__fish_seen_subcommand_from %s'", options[i].command);
		printf("%s -d \"%s\"\n", *options[i].argument ? " -r" : "", options[i].help);
	}
}

int command_completion(const struct arguments *arguments)
{
	const char *shell = arguments->words ? arguments->word[0] : "";

	if (!strcmp(shell, "bash"))
		completion_bash();
	else if (!strcmp(shell, "zsh"))
		completion_zsh();
	else if (!strcmp(shell, "fish"))
		completion_fish();
	else
		return usage_error(arguments, "completion: say for which shell: bash, zsh or fish");
	return EXIT_OK;
}
