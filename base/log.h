/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_LOG_H
#define SKEP_BASE_LOG_H

#include <stdbool.h>

/*
 * Log lines go to stderr, as text or as JSON, one write a line. Who first knows a cause logs it,
 * once; callers pass the status on. Libraries log nothing unless a sink was set.
 */
enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* The level up to which lines are written. Any thread; default WARN. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);

/* JSON lines in place of text. Call before other threads start. */
void log_set_json(bool json);

/* "error", "warn", "info", "debug" → level; -EINVAL for another word. */
int log_level_parse(const char *word);

/* @area: the folder or the part that speaks ("keeper", "local"). Any thread; never blocks on
 * memory. */
void log_line(enum log_level level, const char *area, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#define log_error(area, ...) log_line(LOG_LEVEL_ERROR, area, __VA_ARGS__)
#define log_warn(area, ...)  log_line(LOG_LEVEL_WARN, area, __VA_ARGS__)
#define log_info(area, ...)  log_line(LOG_LEVEL_INFO, area, __VA_ARGS__)
#define log_debug(area, ...)                                                                       \
	do {                                                                                       \
		if (log_get_level() >= LOG_LEVEL_DEBUG)                                            \
			log_line(LOG_LEVEL_DEBUG, area, __VA_ARGS__);                              \
	} while (0)

#endif
