/* SPDX-License-Identifier: Apache-2.0 */
/* The trace reader: any file is read whole or refused with a sentence. */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "tests/fuzz/fuzz.h"
#include "tools/skep/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	char error[TRACE_ERROR_BYTES];
	struct trace *trace;
	size_t blocks = 0;
	FILE *file;
	int status;

	if (bytes == 0)
		return 0; /* fmemopen refuses it; the tests know the empty file */
	file = fmemopen((void *)(uintptr_t)data, bytes, "r");
	SKEP_CHECK(file);
	status = trace_read(&trace, file, error);
	fclose(file);
	SKEP_CHECK(!trace == !!status && !error[0] == !status);
	if (status) {
		SKEP_CHECK(!strncmp(error, "line ", 5));
		return 0;
	}
	for (size_t i = 0; i < trace->request_count; i++) {
		SKEP_CHECK(trace->requests[i].first_block == blocks);
		blocks += trace->requests[i].block_count;
	}
	SKEP_CHECK(blocks == trace->block_count);
	for (size_t i = 0; i < blocks; i++)
		SKEP_CHECK(trace->blocks[i] < trace->node_count);
	trace_truncate(trace, trace->request_count / 2);
	trace_destroy(trace);
	return 0;
}
