/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_ATTENTION_PREFILL_H
#define SKEP_KERNELS_ATTENTION_PREFILL_H

#include "kernels/attention.h"

/*
 * Prefill: many query tokens a sequence, the last of a context whose KV is all there already: that
 * of a prefix which came out of the cache, and that of the query tokens themselves. One fused
 * kernel over tiles with a running softmax (FlashAttention, arXiv 2205.14135 and 2307.08691).
 *
 * The batch is ragged: query tokens of sequence s are numbers starts[s] up to but not starts[s + 1]
 * of the batch. @starts is int32_t[shape.sequences + 1], @lengths is int32_t[shape.sequences], the
 * tokens of each context, both in device memory, so that a captured graph replays while they
 * change. @queries_max is no less than the query tokens of any sequence: it sizes the grid, and
 * what is behind it is not computed.
 *
 * Query token i of q in a context of n tokens attends to tokens 0 up to and including n - q + i
 * (causal; the mask is shifted by the prefix), or, with @whole, to all n: what is wanted of a part
 * of the context that lies wholly before the queries. A row with nothing to attend to (n < q, or
 * n = 0) gives zeros, and minus infinity.
 *
 * @query is [tokens][query_heads][head_size], tokens @query_stride bytes apart, heads dense; so is
 * @output, of the same type. @part takes values (float[tokens][query_heads][head_size]) and lse
 * (float[tokens][query_heads]) for attention_merge(), whose sequences are tokens here. Each of
 * output, part.values and part.lse may be 0 and is left out then, but not all. Addresses and
 * strides are multiples of 16 bytes (lse, starts, lengths: of 4).
 */
struct attention_prefill {
	struct attention_shape shape;
	struct attention_kv kv;
	uint64_t query, query_stride;
	uint64_t starts, lengths;
	uint32_t queries_max;
	uint32_t whole;
	uint64_t output, output_stride;
	struct attention_part part;
	float scale; /* of q.k before the softmax, above 0: usually 1 / sqrt(head_size) */
};

/*
 * Submits it to @stream, a stream of @gpu. -EINVAL for what the above does not allow, -ENOTSUP for
 * a device below sm_80, else what gpu_launch() says. Does not block or allocate.
 */
int attention_prefill(
	struct gpu *gpu, struct gpu_stream *stream, const struct attention_prefill *prefill);

#endif
