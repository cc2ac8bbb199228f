/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/link.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include "store/read/layout.h"
#include "tools/skep/table.h"
#include "transport/local/client.h"

/* The daemon's worker waits for its keeper two seconds a question, and a command may ask many. */
#define ANSWER_SECONDS 20

struct link {
	const char *path;
	bool json;
	int fd;
	unsigned version;
};

/* --------------------------------------------------------------------------------- errors */

/* What each failure means and what to do; the first row of a status that fits the stage counts. */
enum stage { STAGE_CONNECT = 1, STAGE_HELLO = 2, STAGE_ASK = 4, STAGE_ANY = 7 };

static const struct trouble {
	unsigned stages;
	int status;
	enum skep_exit ends;
	const char *text, *fix; /* in the text "%s" is the socket */
} troubles[] = {
	{STAGE_CONNECT, -ENOENT, EXIT_UNREACHABLE, "no daemon at %s",
		"start skepd or give --socket"},
	{STAGE_CONNECT, -ECONNREFUSED, EXIT_UNREACHABLE, "no daemon at %s",
		"start skepd or give --socket"},
	{STAGE_CONNECT, -EACCES, EXIT_REFUSED, "%s may not be opened by this user",
		"join the group of the socket, or run as the daemon's user"},
	{STAGE_CONNECT, -EPROTOTYPE, EXIT_UNREACHABLE, "%s is not a socket of skepd",
		"give --socket"},
	{STAGE_CONNECT, -ENAMETOOLONG, EXIT_UNREACHABLE, "%s is too long for a socket's path",
		"give --socket"},
	{STAGE_HELLO, -EACCES, EXIT_REFUSED, "the daemon at %s refused realm or token",
		"give --realm and --token-file, or run as root or as the daemon's user"},
	{STAGE_HELLO, -EPERM, EXIT_REFUSED, "the daemon at %s refused realm or token",
		"give --realm and --token-file, or run as root or as the daemon's user"},
	{STAGE_HELLO, -ENOENT, EXIT_REFUSED, "the daemon at %s refused realm or token",
		"give --realm and --token-file, or run as root or as the daemon's user"},
	{STAGE_HELLO, -EUSERS, EXIT_REFUSED, "the daemon at %s has too many sessions",
		"end some (skep sessions shows them), or raise sessions_max"},
	{STAGE_ANY, SKEP_STATUS_EVERSION, EXIT_REFUSED, "the daemon at %s speaks another version",
		"use the skep that came with it"},
	{STAGE_ANY, SKEP_STATUS_EDOWN, EXIT_UNREACHABLE, "the daemon at %s went away",
		"look at its log, and try again"},
	{STAGE_ANY, -ETIMEDOUT, EXIT_UNREACHABLE, "the daemon at %s does not answer",
		"is it stopped, or is the machine overloaded?"},
	{STAGE_ANY, -EPROTO, EXIT_DAEMON, "what came from %s is no answer of skepd",
		"is it a socket of skepd? use the skep that came with it"},
	{STAGE_ANY, -ENOMEM, EXIT_DAEMON, "no memory to talk with %s", "free some"},
	{STAGE_ANY, -EMFILE, EXIT_DAEMON, "no descriptor left to talk with %s", "raise ulimit -n"},
};

/* Prints it, for people and with --json for programs. Return: how skep ends. */
static int link_error(const struct link *link, enum stage stage, int status)
{
	const char *fix = "";
	int ends = EXIT_DAEMON;
	char text[512];

	snprintf(text, sizeof(text), "%s: %s", link->path, status_text(status));
	for (unsigned i = 0; i < ARRAY_COUNT(troubles); i++) {
		const struct trouble *trouble = &troubles[i];
		const char *at = strstr(trouble->text, "%s");

		if (trouble->status != status || !(trouble->stages & stage))
			continue;
		snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - trouble->text), trouble->text,
			link->path, at + 2);
		fix = trouble->fix;
		ends = (int)trouble->ends;
		break;
	}
	if (link->json)
		json_print(json_pack("{s:s s:s}", "error", text, "code", status_name(status)));
	fprintf(stderr, "skep: %s%s%s\n", text, *fix ? ": " : "", fix);
	return ends;
}

/* ------------------------------------------------------------------------------ life cycle */

static int hello_say(struct link *link, const char *realm, const char *token)
{
	struct wire_hello hello = {
		.head = local_head(WIRE_HELLO, sizeof(hello)),
		.index_version = INDEX_LAYOUT_VERSION,
		.page_version = PAGE_VERSION,
		.flags = WIRE_HELLO_OPERATOR,
		.pid_hint = (uint32_t)getpid(),
		.name = "skep",
	};
	struct local_hello say = {link->fd, &hello, &local_wait_plain,
		clock_after(clock_ns(), ANSWER_SECONDS * NS_PER_S)};
	struct local_welcome welcome;
	int status;

	if (strlen(realm) >= sizeof(hello.realm) || strlen(token) >= sizeof(hello.token))
		return -EACCES; /* no realm and no token is that long */
	memcpy(hello.realm, realm, strlen(realm));
	memcpy(hello.token, token, strlen(token));
	status = local_hello(&say, &welcome);
	if (status)
		return status;
	link->version = welcome.answer.daemon_version;
	local_welcome_drop(&welcome);
	return 0;
}

int link_open(const struct arguments *arguments, struct link **out)
{
	const char *realm = arguments->option[OPTION_any_realm];
	struct link *link;
	char token[256];
	int status;

	if (!arguments_token(arguments, token))
		return EXIT_USAGE;
	link = memory_zalloc(sizeof(*link));
	if (!link) {
		fputs("skep: out of memory\n", stderr);
		return EXIT_DAEMON;
	}
	link->path = arguments_socket(arguments);
	link->json = arguments->option[OPTION_any_json] != NULL;
	link->fd = local_connect(link->path, clock_after(clock_ns(), ANSWER_SECONDS * NS_PER_S));
	if (link->fd < 0) {
		status = link_error(link, STAGE_CONNECT, link->fd);
	} else {
		status = hello_say(link, realm ? realm : "", token);
		if (status)
			status = link_error(link, STAGE_HELLO, status);
	}
	if (status)
		link_close(link);
	else
		*out = link;
	return status;
}

void link_close(struct link *link)
{
	if (!link)
		return;
	if (link->fd >= 0)
		close(link->fd);
	memory_free(link);
}

unsigned link_version(const struct link *link)
{
	return link->version;
}

/* -------------------------------------------------------------------------------- asking */

/* How skep ends where the daemon answered with an error; EXIT_OK where it did not. */
static int answer_status(const struct link *link, json_t *answer)
{
	static const struct {
		const char *code;
		int ends;
	} codes[] = {
		{"ENOENT", EXIT_NEGATIVE},
		{"ENODEV", EXIT_NEGATIVE},
		{"EINVAL", EXIT_USAGE},
		{"EOPNOTSUPP", EXIT_USAGE},
		{"EACCES", EXIT_REFUSED},
		{"EPERM", EXIT_REFUSED},
		{"ESHUTDOWN", EXIT_UNREACHABLE},
	};
	const char *error = json_string_value(json_object_get(answer, "error"));
	const char *code = json_string_value(json_object_get(answer, "code"));

	if (!error)
		return EXIT_OK;
	if (link->json)
		json_print(json_incref(answer));
	fputs("skep: ", stderr);
	text_print_safe(error, stderr);
	fputc('\n', stderr);
	for (unsigned i = 0; code && i < ARRAY_COUNT(codes); i++)
		if (!strcmp(code, codes[i].code))
			return codes[i].ends;
	return EXIT_DAEMON;
}

int link_ask(struct link *link, json_t *request, json_t **answer)
{
	char *question = request ? json_dumps(request, JSON_COMPACT) : NULL, *text;
	struct local_command command = {link->fd, question, &local_wait_plain,
		clock_after(clock_ns(), ANSWER_SECONDS * NS_PER_S)};
	size_t bytes;
	int status = question ? 0 : -ENOMEM;

	*answer = NULL;
	json_decref(request);
	if (!status)
		status = local_command(&command, &text, &bytes);
	memory_free(question);
	if (status)
		return link_error(link, STAGE_ASK, status);
	*answer = json_loadb(text, bytes, 0, NULL);
	memory_free(text);
	if (!json_is_object(*answer)) {
		json_decref(*answer);
		*answer = NULL;
		return link_error(link, STAGE_ASK, -EPROTO);
	}
	status = answer_status(link, *answer);
	if (status) {
		json_decref(*answer);
		*answer = NULL;
	}
	return status;
}

int link_ask_once(const struct arguments *arguments, json_t *request, json_t **answer)
{
	struct link *link;
	int status = link_open(arguments, &link);

	*answer = NULL;
	if (status) {
		json_decref(request);
		return status;
	}
	status = link_ask(link, request, answer);
	link_close(link);
	return status;
}

json_t *request_of(const struct arguments *arguments, const char *command)
{
	const char *realm = arguments->option[OPTION_any_realm];
	json_t *request = json_pack("{s:s}", "command", command);

	if (realm && json_object_set_new(request, "realm", json_string(realm))) {
		json_decref(request);
		return NULL;
	}
	return request;
}

int json_print(json_t *value)
{
	int status = value ? json_dumpf(value, stdout, JSON_COMPACT) : -1;

	json_decref(value);
	putchar('\n');
	return status || fflush(stdout) ? EXIT_DAEMON : EXIT_OK;
}
