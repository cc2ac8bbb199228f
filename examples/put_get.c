/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The least an engine does: put the blocks of a prompt, find them again, read them.
 *
 *	put_get        the daemon is where $SKEP_SOCKET says
 */
#include <skep/skep.h>
#include <stdio.h>
#include <string.h>

enum { BLOCK_TOKENS = 16, BLOCKS = 4, BLOCK_BYTES = 64 * 1024 };

static int failed(const char *what, int64_t status)
{
	fprintf(stderr, "%s: %s\n", what, skep_status_text((int)status));
	return 1;
}

/* Stands for the KV that the GPU computed for a block. */
static void compute(void *bytes, uint64_t length, uint32_t block)
{
	memset(bytes, 'a' + (int)block, length);
}

/* Puts blocks of the chain from @first on. Return: 0 or 1. */
static int put(struct skep *session, struct skep_chain *chain, uint32_t first)
{
	struct skep_frame frames[BLOCKS];
	struct skep_reserve request = {
		.struct_bytes = sizeof(request),
		.chain = chain,
		.first = first,
		.count = BLOCKS - first,
		.deadline_ns = skep_deadline_ms(1000),
	};
	int count = skep_reserve(session, &request, frames);

	if (count < 0)
		return failed("reserve", count);
	for (int i = 0; i < count; i++)
		if (frames[i].status == 0)
			compute(frames[i].bytes, frames[i].length, frames[i].block);
	count = skep_commit(session, frames, (unsigned)count, NULL);
	if (count < 0)
		return failed("commit", count);
	printf("put %d blocks\n", count);
	return 0;
}

/* Matches the chain and reads what is there. Return: blocks had, or -1. */
static int get(struct skep *session, struct skep_chain *chain)
{
	struct skep_ref refs[BLOCKS];
	struct skep_match match = {
		.struct_bytes = sizeof(match),
		.chain = chain,
		.flags = SKEP_MATCH_PIN,
		.refs = refs,
		.refs_max = BLOCKS,
	};
	int status = skep_match(session, &match, 1);

	if (status < 0) {
		failed("match", status);
		return -1;
	}
	printf("had %u blocks of %d", match.matched, BLOCKS);
	if (match.reason)
		printf(", the next one not: %s", skep_reason_text(match.reason));
	printf("\n");
	for (uint32_t i = 0; i < match.matched; i++) {
		struct skep_view view;

		/* The bytes where they lie, no copy; they stay until the release. */
		if (skep_view(session, &refs[i], 0, &view) == 0)
			printf("block %u: %.8s…\n", i, (const char *)view.bytes);
	}
	skep_release(session, &match.pin);
	return (int)match.matched;
}

static int work(struct skep *session, struct skep_space *space)
{
	uint32_t tokens[BLOCKS * BLOCK_TOKENS];
	struct skep_chain *chain;
	int status = skep_chain_create(space, &chain), had;

	if (status < 0)
		return failed("chain", status);
	for (uint32_t i = 0; i < BLOCKS * BLOCK_TOKENS; i++)
		tokens[i] = 1000 + i;
	status = skep_chain_append(chain, tokens, BLOCKS * BLOCK_TOKENS);
	if (status < 0)
		return failed("append", status);
	had = get(session, chain);
	if (had >= 0 && had < BLOCKS && put(session, chain, (uint32_t)had) == 0)
		had = get(session, chain);
	skep_chain_destroy(chain);
	return had == BLOCKS ? 0 : 1;
}

int main(void)
{
	struct skep_part_layout part = {.bytes = BLOCK_BYTES};
	struct skep_space_options options = {
		.struct_bytes = sizeof(options),
		.name = "example",
		.model = "a model and its revision",
		.weights = "digest of its weights",
		.block_tokens = BLOCK_TOKENS,
		.part_count = 1,
		.parts = &part,
	};
	struct skep_space *space;
	struct skep *session;
	int status = skep_open(NULL, NULL, &session);

	if (status < 0)
		return failed("open", status);
	status = skep_space_open(session, &options, &space);
	if (status < 0) {
		fprintf(stderr, "field %s\n", skep_space_field(session));
		failed("space", status);
	} else {
		status = work(session, space);
	}
	skep_close(session);
	return status ? 1 : 0;
}
