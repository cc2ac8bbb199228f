/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/bits.h"
#include "base/memory.h"
#include "tools/skep/commands.h"
#include "tools/skep/link.h"

/* `skep`: reads the command line and runs one command of the table. */

static const struct {
	const char *name;
	int (*run)(const struct arguments *arguments);
} commands[] = {
#define X(name, usage, summary) {#name, command_##name},
	SKEP_COMMAND_TABLE(X)
#undef X
};

/* Those that this build has (tools/skep/CMakeLists.txt). */
static const struct {
	const char *name;
	int (*main)(int argc, char **argv);
} programs[] = {
#ifdef SKEP_TOOL_REPLAY
	{"replay", replay_main},
#endif
#ifdef SKEP_TOOL_BENCH
	{"bench", bench_main},
#endif
	{"doctor", doctor_main},
	{NULL, NULL},
};

static int program_call(const char *name, int argc, char **argv)
{
	for (unsigned i = 0; programs[i].name; i++)
		if (!strcmp(programs[i].name, name))
			return programs[i].main(argc, argv);
	fprintf(stderr, "skep: %s is not in this build\n", name);
	return EXIT_USAGE;
}

/*
 * Runs a program of SKEP_PROGRAM_TABLE. Options that stood before its name go with it, so that
 * `skep --json replay` is `skep replay --json`.
 */
static int program_run(const struct arguments *arguments, int argc, char **argv)
{
	const char *socket = arguments->option[OPTION_any_socket];
	char **words = memory_calloc((size_t)(argc - arguments->rest) + 5, sizeof(*words));
	int count = 0, status;

	if (!words) {
		fputs("skep: out of memory\n", stderr);
		return EXIT_DAEMON;
	}
	words[count++] = argv[arguments->rest];
	if (socket) {
		words[count++] = "--socket";
		words[count++] = (char *)(uintptr_t)socket; /* lies in argv, which may be written */
	}
	if (arguments->option[OPTION_any_json])
		words[count++] = "--json";
	if (arguments->option[OPTION_any_help])
		words[count++] = "--help";
	for (int i = arguments->rest + 1; i < argc; i++)
		words[count++] = argv[i];
	status = program_call(words[0], count, words);
	memory_free(words);
	return status;
}

int command_help(const struct arguments *arguments)
{
	const char *name = arguments->words ? arguments->word[0] : "";

	/* Those that read their own arguments tell them, too. */
	for (unsigned i = 0; programs[i].name; i++)
		if (!strcmp(programs[i].name, name)) {
			char *words[] = {(char *)(uintptr_t)name, "--help", NULL};

			return programs[i].main(2, words);
		}
	return help_print(name);
}

int command_version(const struct arguments *arguments)
{
	bool json = arguments->option[OPTION_any_json] != NULL;
	struct link *link;
	unsigned daemon;
	int status;

	if (!json) {
		printf("skep " SKEP_VERSION "\n");
		fflush(stdout);
	}
	/* A version is asked for where no daemon runs, too. */
	if (access(arguments_socket(arguments), F_OK)) {
		return json ? json_print(json_pack("{s:s s:n}", "skep", SKEP_VERSION, "skepd"))
			    : EXIT_OK;
	}
	status = link_open(arguments, &link);
	if (status)
		return status;
	daemon = link_version(link);
	link_close(link);
	if (json)
		return json_print(json_pack("{s:s s:o}", "skep", SKEP_VERSION, "skepd",
			json_sprintf("%u.%u.%u", daemon >> 16, daemon >> 8 & 255, daemon & 255)));
	printf("skepd %u.%u.%u at %s\n", daemon >> 16, daemon >> 8 & 255, daemon & 255,
		arguments_socket(arguments));
	return EXIT_OK;
}

static int command_run(const struct arguments *arguments)
{
	for (unsigned i = 0; i < ARRAY_COUNT(commands); i++)
		if (!strcmp(commands[i].name, arguments->command))
			return commands[i].run(arguments);
	help_print("");
	return EXIT_USAGE;
}

int main(int argc, char **argv)
{
	struct arguments arguments;
	int status;

	json_set_alloc_funcs(memory_zalloc, memory_free);
	status = arguments_read(argc, argv, &arguments);
	if (status)
		return status;
	if (arguments.rest)
		return program_run(&arguments, argc, argv);
	if (arguments.option[OPTION_any_help])
		return help_print(arguments.command);
	return command_run(&arguments);
}
