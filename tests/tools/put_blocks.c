/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client for daemon_test.py: puts a chain of the tokens 0, 1, 2, … in a space.
 *
 *	put_blocks SOCKET SPACE BLOCKS
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/include/skep/skep.h"

enum { BLOCK_TOKENS = 16, BLOCKS_MAX = 64, BLOCK_BYTES = 8192 };

static int fail(const char *what, int status)
{
	fprintf(stderr, "%s: %s\n", what, skep_status_text(status));
	return 1;
}

static int put(struct skep *session, struct skep_chain *chain, uint32_t blocks)
{
	struct skep_reserve request = {
		.struct_bytes = sizeof(request),
		.chain = chain,
		.count = blocks,
		.deadline_ns = skep_deadline_ms(5000),
	};
	struct skep_frame frames[BLOCKS_MAX];
	int count = skep_reserve(session, &request, frames);

	if (count != (int)blocks)
		return fail("reserve", count);
	for (int i = 0; i < count; i++)
		memset(frames[i].bytes, i, BLOCK_BYTES);
	return skep_commit(session, frames, blocks, NULL) == count ? 0 : fail("commit", count);
}

int main(int argc, char **argv)
{
	struct skep_part_layout parts[2] = {{.bytes = BLOCK_BYTES, .ranges = 2}, {0}};
	struct skep_space_options options = {
		.struct_bytes = sizeof(options),
		.weights = "a=b c",
		.rope = "theta=1e4",
		.block_tokens = BLOCK_TOKENS,
		.part_count = 1,
		.parts = parts,
	};
	uint32_t blocks = argc == 4 ? (uint32_t)strtoul(argv[3], NULL, 10) : 0;
	struct skep *session;
	struct skep_space *space;
	struct skep_chain *chain;
	int status;

	if (blocks < 1 || blocks > BLOCKS_MAX)
		return 2;
	options.name = options.model = argv[2];
	status = skep_open(argv[1], NULL, &session);
	if (status)
		return fail("open", status);
	status = skep_space_open(session, &options, &space);
	if (!status)
		status = skep_chain_create(space, &chain);
	if (status)
		return fail("space", status);
	for (uint32_t token = 0; token < blocks * BLOCK_TOKENS; token++)
		if (skep_chain_append(chain, &token, 1) < 0)
			return fail("append", -1);
	status = put(session, chain, blocks);
	skep_chain_destroy(chain);
	skep_close(session);
	return status;
}
