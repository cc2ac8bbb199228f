/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEPD_CHECK_PRIV_H
#define SKEP_TOOLS_SKEPD_CHECK_PRIV_H

#include "tools/skepd/check.h"

/* What a check looks at. */
struct check_scene {
	const struct settings *settings;
	struct settings_memory memory;
	bool running;
	unsigned ssd;	  /* number of the one that is looked at */
	const char *root; /* before /proc and /sys: "", or a tree of a test */
};

/* Fills a result; @format is what was found. The advice is "" until check_advise(). */
void check_say(struct check_result *result, enum check_verdict verdict, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void check_advise(struct check_result *result, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Makes it worse, never better, and keeps the words of what was worst. */
void check_worsen(struct check_result *result, const struct check_result *other);

/* Reads a small file below the root as one zero-ended text. Return: bytes, or a negative errno. */
int check_read(const struct check_scene *scene, const char *path, char *text, size_t room);

#define X(name, help) void check_##name(const struct check_scene *, struct check_result *);
CHECK_TABLE(X)
CHECK_SSD_TABLE(X)
#undef X

#endif
