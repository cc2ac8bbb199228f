/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/skep/commands.h"
#include "tools/skep/json.h"
#include "tools/skep/link.h"
#include "tools/text.h"

/* Commands that change something: pin, unpin, evict, purge. */

static int pin_or_unpin(const struct arguments *arguments)
{
	json_t *request, *answer;
	int status;

	if (arguments->words != 1)
		return usage_error(arguments, "%s: say which block: its id, %d hex digits",
			arguments->command, TEXT_ID_BYTES - 1);
	request = request_of(arguments, arguments->command);
	json_object_set_new(request, "id", json_string(arguments->word[0]));
	status = link_ask_once(arguments, request, &answer);
	if (status)
		return status;
	if (arguments->option[OPTION_any_json])
		return json_print(answer);
	printf("%s %s in realm %s\n",
		json_is_true(json_object_get(answer, "pinned")) ? "pinned" : "unpinned",
		json_text(answer, "id"), json_text(answer, "realm"));
	json_decref(answer);
	return EXIT_OK;
}

int command_pin(const struct arguments *arguments)
{
	return pin_or_unpin(arguments);
}

int command_unpin(const struct arguments *arguments)
{
	return pin_or_unpin(arguments);
}

int command_evict(const struct arguments *arguments)
{
	const char *block = arguments->option[OPTION_evict_block];
	json_t *request, *answer;
	uint64_t bytes = 0;
	int status;

	if (arguments->words || !block == !arguments->option[OPTION_evict_bytes])
		return usage_error(arguments, "evict: say --block ID or --bytes SIZE");
	if (!arguments_size(
		    arguments, OPTION_evict_bytes, (struct number_bounds){1, INT64_MAX}, &bytes))
		return EXIT_USAGE;
	request = request_of(arguments, "evict");
	if (block)
		json_object_set_new(request, "id", json_string(block));
	else
		json_object_set_new(request, "bytes", json_integer((json_int_t)bytes));
	status = link_ask_once(arguments, request, &answer);
	if (status)
		return status;
	if (arguments->option[OPTION_any_json])
		return json_print(answer);
	if (block) {
		printf("%llu blocks were removed from realm %s\n",
			(unsigned long long)json_number(answer, "blocks"),
			json_text(answer, "realm"));
	} else {
		char freed[TEXT_SHORT_BYTES];

		text_bytes(freed, json_number(answer, "bytes"));
		printf("%s were freed in realm %s\n", freed, json_text(answer, "realm"));
	}
	json_decref(answer);
	return EXIT_OK;
}

/* Asks a person; without one, --yes is needed. */
static int purge_confirm(const struct arguments *arguments, const char *space)
{
	const char *realm = arguments->option[OPTION_any_realm];
	char line[16] = "";

	if (arguments->option[OPTION_purge_yes])
		return EXIT_OK;
	if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
		return usage_error(
			arguments, "purge: say --yes: what is removed does not come back");
	fprintf(stderr, "Remove every block of %s%s in realm %s? [y/N] ", space ? "space " : "",
		space ? space : "all spaces", realm ? realm : "(the only one)");
	if (!fgets(line, sizeof(line), stdin) || (line[0] != 'y' && line[0] != 'Y')) {
		fputs("nothing was removed\n", stderr);
		return EXIT_NEGATIVE;
	}
	return EXIT_OK;
}

int command_purge(const struct arguments *arguments)
{
	const char *space = arguments->option[OPTION_purge_space];
	bool all = arguments->option[OPTION_purge_all] != NULL;
	json_t *request, *answer;
	int status;

	if (arguments->words || !space == !all)
		return usage_error(arguments, "purge: say --space NAME or --all");
	status = purge_confirm(arguments, space);
	if (status)
		return status;
	request = request_of(arguments, "purge");
	if (space)
		json_object_set_new(request, "space", json_string(space));
	else
		json_object_set_new(request, "all", json_true());
	status = link_ask_once(arguments, request, &answer);
	if (status)
		return status;
	if (arguments->option[OPTION_any_json])
		return json_print(answer);
	printf("%llu blocks were removed from realm %s\n",
		(unsigned long long)json_number(answer, "blocks"), json_text(answer, "realm"));
	json_decref(answer);
	return EXIT_OK;
}
