/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_TOOLS_PUBLISHED_H
#define SKEP_TESTS_TOOLS_PUBLISHED_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/*
 * Where the published conversation trace lies: $SKEP_TRACE, else beside the source tree. It is data
 * of others and not part of the tree. NULL, after saying so, where there is none.
 */
static inline const char *published_path(void)
{
	const char *path = getenv("SKEP_TRACE");

	if (!path)
		path = SKEP_SOURCE_DIR "/../shared/traces/conversation_trace.jsonl";
	if (access(path, R_OK) == 0)
		return path;
	printf("skipped: no trace at %s; set SKEP_TRACE to the file\n", path);
	return NULL;
}

#endif
