/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_TRACE_H
#define SKEP_TOOLS_SKEP_TRACE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/*
 * A trace of requests in memory, read from a file (trace_read) or made by workload.h.
 *
 * The file has one JSON object a line: `timestamp` (ms from the start), `input_length` and
 * `output_length` (tokens), `hash_ids` (one whole number for each 512-token block of the prompt,
 * chained: equal ids mean equal prefixes). Other fields are ignored. Every id counts as one whole
 * block, also the last of a prompt, which may be partial in truth.
 *
 * Blocks are kept as *nodes* of the tree of prefixes: a node is (parent node, hash id), numbered
 * from 0 in the order of first sight. So what a simulation calls the same block is what a store
 * that chains its hashes calls the same block, even for a trace whose ids are not chained.
 */

#define TRACE_BLOCK_TOKENS 512
#define TRACE_NO_PARENT	   UINT32_MAX
#define TRACE_ERROR_BYTES  320

/* What one file may hold; more is refused by name. */
#define TRACE_LINE_BYTES_MAX	 ((size_t)4 << 20)
#define TRACE_REQUEST_BLOCKS_MAX ((size_t)1 << 20)
#define TRACE_REQUESTS_MAX	 ((size_t)16 << 20)
#define TRACE_BLOCKS_MAX	 ((size_t)256 << 20)

struct trace_request {
	uint64_t timestamp_ms;
	uint64_t first_block; /* index in trace.blocks */
	uint32_t block_count; /* 0 for a prompt without a block */
	uint32_t input_tokens;
	uint32_t output_tokens;
};

/* One block of the tree of prefixes. */
struct trace_node {
	uint64_t
		identity[2]; /* digest of all hash ids from the root to here; same in every trace */
	uint64_t hash_id;
	uint32_t parent; /* node, or TRACE_NO_PARENT */
};

/*
 * Timestamps do not fall from one request to the next. Readers use the first part from any thread;
 * the rest belongs to trace.c. Nothing changes a trace while it is shared.
 */
struct trace {
	struct trace_request *requests;
	size_t request_count;
	uint32_t *blocks; /* nodes, request after request, root first */
	size_t block_count;
	struct trace_node *nodes;
	size_t node_count;

	size_t request_room, block_room, node_room;
	uint32_t *table; /* open addressing, node + 1, 0 is free */
	size_t table_slots;
};

/* What a request is besides its blocks. */
struct trace_head {
	uint64_t timestamp_ms;
	uint32_t input_tokens;
	uint32_t output_tokens;
};

/* An empty trace, or NULL for want of memory. */
struct trace *trace_create(void);

/* Frees @trace and all it holds; NULL is allowed. */
void trace_destroy(struct trace *trace);

/*
 * Appends one request of @count blocks named by @hash_ids, root first.
 * 0; -ERANGE: the timestamp falls; -E2BIG: past one of the limits above; -ENOMEM. After -ENOMEM or
 * -E2BIG the trace is only good for trace_destroy.
 */
int trace_add(
	struct trace *trace, const struct trace_head *head, const uint64_t *hash_ids, size_t count);

/*
 * Keeps the first @request_count requests (all when there are fewer) and their nodes. The tree's
 * look-up table is dropped: nothing can be added any more.
 */
void trace_truncate(struct trace *trace, size_t request_count);

/*
 * Reads a whole file, from where @file stands to its end, in one pass.
 * @trace: set to the trace (the caller destroys it) on 0, to NULL otherwise.
 * @error: for every failure a sentence that names line, place and cause.
 * 0; -EINVAL: malformed; -E2BIG: past a limit; -ENOMEM; or the errno of reading.
 */
int trace_read(struct trace **trace, FILE *file, char error[TRACE_ERROR_BYTES]);

/* trace_read of the file at @path; @error then begins with the path. */
int trace_load(struct trace **trace, const char *path, char error[TRACE_ERROR_BYTES]);

/*
 * The token ids of one block: a function of its hash id alone, all below 65,536. Two hash ids never
 * have the same tokens: the first four tokens are the mixed id itself.
 */
void trace_block_tokens(uint64_t hash_id, uint32_t tokens[TRACE_BLOCK_TOKENS]);

#endif
