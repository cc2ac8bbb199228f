/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEPD_PAGE_H
#define SKEP_TOOLS_SKEPD_PAGE_H

#include "tools/skepd/metrics.h"

/* The page for people, as HTML without scripts. With METRICS_REALMS each realm has its column. */
void page_write(const struct metrics_snapshot *snapshot, enum metrics_scope scope, FILE *out);

#endif
