/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/store.h"

#include <errno.h>
#include <stdio.h>

int store_error(const char *what, int status)
{
	fprintf(stderr, "skep: %s: %s\n", what, skep_status_text(status));
	switch (status) {
	case -ENOENT:
	case -ECONNREFUSED:
	case -ETIMEDOUT:
	case SKEP_EDOWN:
		return EXIT_UNREACHABLE;
	case -EACCES:
	case -EPERM:
	case -EUSERS:
	case SKEP_EVERSION:
	case SKEP_EDIFFERS:
		return EXIT_REFUSED;
	default:
		return EXIT_DAEMON;
	}
}

int store_open(
	const struct arguments *arguments, const char *realm, uint32_t flags, struct skep **session)
{
	const char *where = arguments_socket(arguments);
	struct skep_open_options options = {
		.struct_bytes = sizeof(options),
		.realm = realm ? realm : arguments->option[OPTION_any_realm],
		.flags = flags,
		.name = "skep",
	};
	char token[256];
	int status;

	if (!arguments_token(arguments, token))
		return EXIT_USAGE;
	options.token = *token ? token : NULL;
	status = skep_open(where, &options, session);
	if (status == -ENOENT || status == -ECONNREFUSED) {
		fprintf(stderr, "skep: no daemon at %s: start skepd or give --socket\n", where);
		return EXIT_UNREACHABLE;
	}
	if (status == -EACCES) {
		fprintf(stderr,
			"skep: the daemon at %s refused realm or token: give --realm and "
			"--token-file\n",
			where);
		return EXIT_REFUSED;
	}
	return status ? store_error(where, status) : EXIT_OK;
}
