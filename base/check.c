/* SPDX-License-Identifier: Apache-2.0 */
#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>

void check_failed(const char *file, int line, const char *expression)
{
	fprintf(stderr, "skep: check failed at %s:%d: %s\n", file, line, expression);
	abort();
}
