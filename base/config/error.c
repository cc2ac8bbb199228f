/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/config/config_priv.h"

struct config_shown config_show(const char *text)
{
	static const char cut[] = "...";
	struct config_shown shown;
	size_t used = 0, room = sizeof(shown.text) - sizeof(cut);

	while (*text && used < room)
		shown.text[used++] = *text++;
	if (*text) {
		/* Not in the middle of a character: its further bytes are 10xxxxxx. */
		while (used && ((unsigned char)*text & 0xc0) == 0x80) {
			text--;
			used--;
		}
		memcpy(shown.text + used, cut, sizeof(cut) - 1);
		used += sizeof(cut) - 1;
	}
	shown.text[used] = 0;
	return shown;
}

struct config_path config_path(const struct config_node *node)
{
	const struct config_node *way[CONFIG_DEPTH_MAX + 1];
	struct config_path path = {.text = "the file"};
	size_t depth = 0, used = 0;

	for (; node->parent; node = node->parent)
		way[depth++] = node;
	while (depth--) {
		struct config_shown key = config_show(way[depth]->key ? way[depth]->key : "");
		int more;

		if (way[depth]->key)
			more = snprintf(path.text + used, sizeof(path.text) - used, "%s%s",
				used ? "." : "", key.text);
		else
			more = snprintf(path.text + used, sizeof(path.text) - used, "[%u]",
				way[depth]->index);
		used = MIN_OF(used + (size_t)more, sizeof(path.text) - 1);
	}
	return path;
}

int config_fail_list(struct config_error *error, const char *name, struct config_place place,
	const char *format, va_list list)
{
	size_t used;

	if (place.line)
		snprintf(error->text, sizeof(error->text), "%.255s:%u:%u: ", name, place.line,
			place.column);
	else
		snprintf(error->text, sizeof(error->text), "%.255s: ", name);
	used = strlen(error->text);
	vsnprintf(error->text + used, sizeof(error->text) - used, format, list);
	/* One line, whatever the file is called. */
	for (char *at = error->text; *at; at++)
		if ((unsigned char)*at < 0x20 || *at == 0x7f)
			*at = '?';
	return -EINVAL;
}

int config_fail_at(struct config_error *error, const char *name, struct config_place place,
	const char *format, ...)
{
	va_list list;

	va_start(list, format);
	config_fail_list(error, name, place, format, list);
	va_end(list);
	return -EINVAL;
}

int config_fail(struct config_error *error, const struct config_node *node, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	config_fail_list(error, node->config->name, node->place, format, list);
	va_end(list);
	return -EINVAL;
}
