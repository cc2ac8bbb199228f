/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_BASE_BACKEND_H
#define SKEP_TESTS_BASE_BACKEND_H

#include "base/loop/loop.h"
#include "base/status.h"
#include "tests/base/unit.h"

/* The back end named by the first argument; skips the test where io_uring cannot be had here. */
static inline enum loop_backend backend_chosen(int argc, char **argv)
{
	struct loop_options options = {.backend = LOOP_BACKEND_URING};
	struct loop *loop;
	int rc;

	REQUIRE(argc > 1);
	if (!strcmp(argv[1], "epoll"))
		return LOOP_BACKEND_EPOLL;
	REQUIRE_TEXT(argv[1], "uring");
	rc = loop_create(&options, &loop);
	if (rc) {
		printf("skipped: io_uring cannot be had: %s\n", status_text(rc));
		exit(77);
	}
	loop_destroy(loop);
	return LOOP_BACKEND_URING;
}

#endif
