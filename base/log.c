/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 1024 };

static const char *const level_words[] = {"error", "warn", "info", "debug"};

static _Atomic int level_now = LOG_LEVEL_WARN;
static bool json_lines;

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&level_now, (int)level, memory_order_relaxed);
}

enum log_level log_get_level(void)
{
	return (enum log_level)atomic_load_explicit(&level_now, memory_order_relaxed);
}

void log_set_json(bool json)
{
	json_lines = json;
}

int log_level_parse(const char *word)
{
	for (int i = 0; i <= LOG_LEVEL_DEBUG; i++)
		if (!strcmp(word, level_words[i]))
			return i;
	return -EINVAL;
}

/* Copies @text as the inside of a JSON string; cuts at @room. Returns the bytes written. */
static size_t json_escape(char *to, size_t room, const char *text)
{
	size_t used = 0;

	for (; *text && used + 7 < room; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\') {
			to[used++] = '\\';
			to[used++] = (char)c;
		} else if (c < 0x20) {
			used += (size_t)snprintf(to + used, room - used, "\\u%04x", c);
		} else {
			to[used++] = (char)c;
		}
	}
	to[used] = 0;
	return used;
}

void log_line(enum log_level level, const char *area, const char *format, ...)
{
	char text[LINE_MAX_BYTES], line[2 * LINE_MAX_BYTES], stamp[40];
	struct timespec now;
	struct tm utc;
	va_list list;
	int used, saved = errno;

	if ((int)level > (int)log_get_level())
		return;
	va_start(list, format);
	errno = saved; /* %m names the caller's errno */
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &utc);
	if (json_lines) {
		char escaped[LINE_MAX_BYTES + LINE_MAX_BYTES / 2];

		json_escape(escaped, sizeof(escaped), text);
		used = snprintf(line, sizeof(line),
			"{\"time\":\"%s.%03ldZ\",\"level\":\"%s\",\"area\":\"%s\",\"text\":\"%s\"}"
			"\n",
			stamp, now.tv_nsec / 1000000, level_words[level], area, escaped);
	} else {
		used = snprintf(line, sizeof(line), "%s.%03ldZ %-5s %s: %s\n", stamp,
			now.tv_nsec / 1000000, level_words[level], area, text);
	}
	if (used > (int)sizeof(line) - 1)
		used = (int)sizeof(line) - 1;
	if (write(STDERR_FILENO, line, (size_t)used) < 0) {
		/* Nowhere left to say it. */
	}
	errno = saved;
}
