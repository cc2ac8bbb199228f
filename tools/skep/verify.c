/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "base/bits.h"
#include "base/clock.h"
#include "tools/skep/commands.h"
#include "tools/skep/json.h"
#include "tools/skep/link.h"
#include "tools/skep/progress.h"
#include "tools/text.h"

/* Commands about the ssd tier: verify, unfence. */

enum { STEP_BYTES = 16 << 20 };

struct scrub {
	struct progress progress;
	uint64_t unreadable;
};

/* Steps until the daemon says that all was looked at. */
static int scrub_run(const struct arguments *arguments, struct link *link, struct scrub *scrub)
{
	struct progress *progress = &scrub->progress;
	uint64_t cursor = 0;
	bool more = true;

	while (more) {
		json_t *request = request_of(arguments, "verify"), *answer;
		int status;

		json_object_set_new(request, "cursor", json_integer((json_int_t)cursor));
		json_object_set_new(request, "bytes", json_integer(STEP_BYTES));
		status = link_ask(link, request, &answer);
		if (status)
			return status;
		progress->blocks += json_number(answer, "blocks");
		progress->bytes += json_number(answer, "bytes");
		progress->bad += json_number(answer, "bad");
		scrub->unreadable += json_number(answer, "unreadable");
		more = json_is_integer(json_object_get(answer, "cursor"));
		cursor = json_number(answer, "cursor");
		progress->percent =
			more ? (unsigned)(100 * cursor / MAX_OF(json_number(answer, "slots"), 1u))
			     : 100;
		json_decref(answer);
		progress_show(progress);
		progress_pace(progress);
	}
	return EXIT_OK;
}

int command_verify(const struct arguments *arguments)
{
	struct scrub scrub = {.progress = {.began_ns = clock_ns(), .rate = RATE_STANDARD}};
	struct link *link;
	int status;

	if (arguments->words)
		return usage_error(arguments, "verify takes no words");
	if (!arguments_size(arguments, OPTION_verify_rate, (struct number_bounds){0, INT64_MAX},
		    &scrub.progress.rate))
		return EXIT_USAGE;
	status = link_open(arguments, &link);
	if (status)
		return status;
	status = scrub_run(arguments, link, &scrub);
	link_close(link);
	progress_end(&scrub.progress);
	if (status)
		return status;
	if (arguments->option[OPTION_any_json]) {
		status = json_print(json_pack("{s:I s:I s:I s:I}", "blocks",
			(json_int_t)scrub.progress.blocks, "bytes",
			(json_int_t)scrub.progress.bytes, "bad", (json_int_t)scrub.progress.bad,
			"unreadable", (json_int_t)scrub.unreadable));
	} else {
		char bytes[TEXT_SHORT_BYTES];

		text_bytes(bytes, scrub.progress.bytes);
		printf("%llu blocks, %s read from the ssd: %llu bad, %llu unreadable\n",
			(unsigned long long)scrub.progress.blocks, bytes,
			(unsigned long long)scrub.progress.bad,
			(unsigned long long)scrub.unreadable);
	}
	if (status == EXIT_OK && (scrub.progress.bad || scrub.unreadable))
		status = EXIT_NEGATIVE;
	return status;
}

int command_unfence(const struct arguments *arguments)
{
	json_t *request, *answer;
	unsigned device;
	char end;
	int status;

	if (arguments->words != 1 || sscanf(arguments->word[0], "%u%c", &device, &end) != 1)
		return usage_error(arguments,
			"unfence: say which device: its number in the order of --ssd, from 0");
	request = request_of(arguments, "unfence");
	json_object_set_new(request, "device", json_integer((json_int_t)device));
	status = link_ask_once(arguments, request, &answer);
	if (status)
		return status;
	if (arguments->option[OPTION_any_json])
		return json_print(answer);
	printf("device %u of the ssd tier is in use\n", device);
	json_decref(answer);
	return EXIT_OK;
}
