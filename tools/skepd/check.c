/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skepd/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "tools/skepd/check_priv.h"

static const char *const verdict_words[] = {"ok", "warn", "fail"};

struct check_row {
	const char *name;
	void (*run)(const struct check_scene *, struct check_result *);
};

#define X(name, help) {#name, check_##name},
static const struct check_row check_rows[] = {CHECK_TABLE(X)};
static const struct check_row ssd_rows[] = {CHECK_SSD_TABLE(X)};
#undef X

void check_say(struct check_result *result, enum check_verdict verdict, const char *format, ...)
{
	va_list list;

	result->verdict = verdict;
	result->advice[0] = 0;
	va_start(list, format);
	vsnprintf(result->found, sizeof(result->found), format, list);
	va_end(list);
}

void check_advise(struct check_result *result, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	vsnprintf(result->advice, sizeof(result->advice), format, list);
	va_end(list);
}

void check_worsen(struct check_result *result, const struct check_result *other)
{
	if (other->verdict > result->verdict)
		*result = *other;
}

int check_read(const struct check_scene *scene, const char *path, char *text, size_t room)
{
	char full[SETTINGS_TEXT_MAX];
	ssize_t got;
	int fd, status;

	if ((size_t)snprintf(full, sizeof(full), "%s%s", scene->root, path) >= sizeof(full))
		return -ENAMETOOLONG;
	fd = open(full, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	got = read(fd, text, room - 1);
	status = got < 0 ? -errno : (int)got;
	close(fd);
	text[got < 0 ? 0 : got] = 0;
	return status;
}

static enum check_verdict row_run(
	const struct check_row *row, const struct check_scene *scene, json_t *list)
{
	struct check_result result = {0};

	row->run(scene, &result);
	json_array_append_new(list,
		json_pack("{s:s s:s s:s% s:s%}", "name", row->name, "verdict",
			verdict_words[result.verdict], "found", result.found, strlen(result.found),
			"advice", result.advice, strlen(result.advice)));
	return result.verdict;
}

json_t *check_json(const struct settings *settings, bool running)
{
	struct check_scene scene = {
		.settings = settings,
		.memory = settings_memory(settings),
		.running = running,
		.root = "",
	};
	json_t *out = json_object(), *list = json_array();
	enum check_verdict worst = CHECK_OK, verdict;

	for (unsigned i = 0; i < ARRAY_COUNT(check_rows); i++) {
		verdict = row_run(&check_rows[i], &scene, list);
		worst = MAX_OF(worst, verdict);
	}
	for (; scene.ssd < settings->ssd.count; scene.ssd++)
		for (unsigned i = 0; i < ARRAY_COUNT(ssd_rows); i++) {
			verdict = row_run(&ssd_rows[i], &scene, list);
			worst = MAX_OF(worst, verdict);
		}
	json_object_set_new(out, "checks", list);
	json_object_set_new(out, "worst", json_string(verdict_words[worst]));
	return out;
}

void check_print(const json_t *checks, FILE *out)
{
	size_t i;
	json_t *row;

	json_array_foreach(json_object_get(checks, "checks"), i, row)
	{
		const char *advice = json_string_value(json_object_get(row, "advice"));

		fprintf(out, "%-4s  %-16s  %s\n",
			json_string_value(json_object_get(row, "verdict")),
			json_string_value(json_object_get(row, "name")),
			json_string_value(json_object_get(row, "found")));
		if (advice && *advice)
			fprintf(out, "%-4s  %-16s  -> %s\n", "", "", advice);
	}
}

int check_status(const json_t *checks)
{
	const char *worst = json_string_value(json_object_get(checks, "worst"));

	for (int i = 0; worst && i <= CHECK_FAIL; i++)
		if (!strcmp(worst, verdict_words[i]))
			return i;
	return CHECK_FAIL;
}
