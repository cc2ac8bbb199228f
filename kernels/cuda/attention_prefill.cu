/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prefill attention by mma.sync, for sm_80 and everything after it (attention_prefill.h). A block
 * holds a tile of queries and walks over the tokens they see; K and V of one step are loaded in
 * turn, each while the other is used, and two blocks share a processor, so that one's softmax runs
 * beside the other's products.
 *
 * A warp with 32 rows reads each fragment of K and V once for two products: with 16 rows shared
 * memory, not the tensor cores, sets the pace.
 */
#include "kernels/cuda/attention_prefill_tile.cuh"

namespace prefill
{

/* A thread's part of a block: @tiles of 16 rows a warp, @keys tokens a step. */
template <class T, int HEAD> struct tensor {
	using type = T;
	static constexpr int head = HEAD, warps = 4, tiles = 2, keys = 64;
	static constexpr int threads = warps * 32, rows = warps * tiles * 16;
	static constexpr int load_groups = keys / 16 / warps;

	uint32_t query_tile, key_tile, value_tile; /* in shared memory */
	int blocks[load_groups];		   /* of this warp's tokens in key_tile */
	float out[tiles][HEAD / 8][4];
	softmax sums[tiles][2];
};

/* Scores, and then weights, of one step as the tensor cores leave them (store_rows). */
template <class W> struct scores {
	float of[W::tiles][W::keys / 8][4];
};

template <class W> __device__ __forceinline__ void begin(W &work, uint32_t shared)
{
	work.query_tile = shared;
	work.key_tile = work.query_tile + W::rows * W::head * 2;
	work.value_tile = work.key_tile + W::keys * W::head * 2;
#pragma unroll
	for (int t = 0; t < W::tiles; t++) {
		work.sums[t][0] = work.sums[t][1] = {minus_infinity, 0.0f};
#pragma unroll
		for (int n = 0; n < W::head / 8; n++)
#pragma unroll
			for (int i = 0; i < 4; i++)
				work.out[t][n][i] = 0.0f;
	}
}

/* Of the warp's tile @t. */
template <class W> __device__ __forceinline__ int first_row(int t)
{
	return threadIdx.x / 32 * (W::tiles * 16) + t * 16;
}

/* Columns 16k to 16k + 16 of the warp's queries. */
template <class W>
__device__ __forceinline__ void load_query(const W &work, uint32_t (&to)[W::tiles][4], int k)
{
	int lane = threadIdx.x % 32;
	uint32_t at = tile_at<W::rows>(work.query_tile, first_row<W>(0) + lane % 16, lane / 16);

#pragma unroll
	for (int t = 0; t < W::tiles; t++)
		load_matrices(to[t], pair_at<W::rows>(at, k) + t * (16 * 128));
}

template <class W> __device__ __forceinline__ void score(const W &work, scores<W> &scores)
{
	int lane = threadIdx.x % 32;
	uint32_t at = tile_at<W::keys>(work.key_tile, lane % 8 + lane / 16 * 8, lane / 8 % 2);

#pragma unroll
	for (int t = 0; t < W::tiles; t++)
#pragma unroll
		for (int n = 0; n < W::keys / 8; n++)
#pragma unroll
			for (int i = 0; i < 4; i++)
				scores.of[t][n][i] = 0.0f;
#pragma unroll
	for (int k = 0; k < W::head / 16; k++) {
		uint32_t query[W::tiles][4];

		load_query(work, query, k);
#pragma unroll
		for (int n = 0; n < W::keys / 16; n++) {
			uint32_t key[4];

			load_matrices(key, pair_at<W::keys>(at, k) + n * (16 * 128));
#pragma unroll
			for (int t = 0; t < W::tiles; t++) {
				float(&of)[W::keys / 8][4] = scores.of[t];

				multiply<typename W::type>(of[2 * n], query[t], key[0], key[1]);
				multiply<typename W::type>(of[2 * n + 1], query[t], key[2], key[3]);
			}
		}
	}
}

/* Minus infinity for what a row does not see of the tokens from @first on. */
template <class W>
__device__ __forceinline__ void mask(const tile &tile, scores<W> &scores, int first)
{
	int lane = threadIdx.x % 32;

#pragma unroll
	for (int t = 0; t < W::tiles; t++) {
#pragma unroll
		for (int i = 0; i < 4; i++) {
			int row = first_row<W>(t) + lane / 4 + i / 2 * 8;
			int seen = row_limit(tile, row) - first - lane % 4 * 2 - i % 2;

#pragma unroll
			for (int n = 0; n < W::keys / 8; n++)
				if (n * 8 > seen)
					scores.of[t][n][i] = minus_infinity;
		}
	}
}

/* Scores become weights; what was gathered so far shrinks to the new maximum. */
template <class W> __device__ __forceinline__ void weigh(W &work, scores<W> &scores, float factor)
{
	float shrink[W::tiles][2];
	bool moved = false;

#pragma unroll
	for (int t = 0; t < W::tiles; t++) {
#pragma unroll
		for (int half = 0; half < 2; half++) {
			softmax_step<W::keys>(&scores.of[t][0][0], half, work.sums[t][half],
				shrink[t][half], factor);
			moved |= shrink[t][half] != 1.0f;
		}
	}
	/* In long contexts the maximum seldom moves. */
	if (!__any_sync(~0u, moved))
		return;
#pragma unroll
	for (int t = 0; t < W::tiles; t++)
#pragma unroll
		for (int n = 0; n < W::head / 8; n++)
#pragma unroll
			for (int i = 0; i < 4; i++)
				work.out[t][n][i] *= shrink[t][i / 2];
}

template <class W> __device__ __forceinline__ void gather(W &work, const scores<W> &weights)
{
	int lane = threadIdx.x % 32;
	uint32_t at = tile_at<W::keys>(work.value_tile, lane % 16, lane / 16);

#pragma unroll
	for (int k = 0; k < W::keys / 16; k++) {
		uint32_t weight[W::tiles][4];

#pragma unroll
		for (int t = 0; t < W::tiles; t++)
#pragma unroll
			for (int i = 0; i < 4; i++)
				weight[t][i] = pack<typename W::type>(
					weights.of[t][2 * k + i / 2][i % 2 * 2],
					weights.of[t][2 * k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
		for (int n = 0; n < W::head / 16; n++) {
			uint32_t value[4];

			load_matrices_transposed(value, pair_at<W::keys>(at, n) + k * (16 * 128));
#pragma unroll
			for (int t = 0; t < W::tiles; t++) {
				float(&out)[W::head / 8][4] = work.out[t];

				multiply<typename W::type>(
					out[2 * n], weight[t], value[0], value[1]);
				multiply<typename W::type>(
					out[2 * n + 1], weight[t], value[2], value[3]);
			}
		}
	}
}

/* One step: K of tokens @first on is on its way; at the end so is the next step's. */
template <class W>
__device__ __forceinline__ void step(
	W &work, const struct attention_prefill &prefill, const tile &tile, int first)
{
	scores<W> scores;

	copy_wait<0>(); /* K is here, and nobody reads V of the step before any more */
	__syncthreads();
	load_tokens<W::head, W::load_groups, W::warps>(
		prefill.kv, tile, prefill.kv.value_offset, first, work.blocks, work.value_tile);
	copy_commit();
	find_blocks<W::load_groups, W::warps>(
		prefill.kv, tile, first + W::keys, threadIdx.x / 32, work.blocks);
	score(work, scores);
	/* Row 0 sees least. */
	if (row_limit(tile, 0) < first + W::keys - 1)
		mask<W>(tile, scores, first);
	weigh(work, scores, prefill.scale * log2_e);
	copy_wait<0>(); /* V is here, and nobody reads K any more */
	__syncthreads();
	if (first + W::keys < tile.keys)
		load_tokens<W::head, W::load_groups, W::warps>(
			prefill.kv, tile, 0, first + W::keys, work.blocks, work.key_tile);
	copy_commit();
	gather(work, scores);
}

template <class W>
__device__ __forceinline__ void run(const struct attention_prefill_args &args, uint32_t shared)
{
	const struct attention_prefill &prefill = args.prefill;
	tile tile;
	W work;

	if (!tile_take<W::rows>(args, blockIdx.x, tile))
		return;
	begin(work, shared);
	load_queries<W::head, W::rows, W::threads>(prefill, tile, work.query_tile, threadIdx.x);
	find_blocks<W::load_groups, W::warps>(prefill.kv, tile, 0, threadIdx.x / 32, work.blocks);
	load_tokens<W::head, W::load_groups, W::warps>(
		prefill.kv, tile, 0, 0, work.blocks, work.key_tile);
	copy_commit();
	for (int first = 0; first < tile.keys; first += W::keys)
		step(work, prefill, tile, first);
	copy_wait<0>();
	__syncthreads(); /* the tile of queries becomes a staging of results */
#pragma unroll
	for (int t = 0; t < W::tiles; t++)
		store_rows<typename W::type, W::head, W::rows>(prefill, tile, &work.out[t][0][0],
			work.sums[t], first_row<W>(t), work.query_tile);
}

} /* namespace prefill */

/* Two blocks a processor: 255 registers are just enough. */
#define KERNEL(name, type, head)                                                                   \
	extern "C" __global__ void __launch_bounds__(128, 2)                                       \
		name(const __grid_constant__ struct attention_prefill_args args)                   \
	{                                                                                          \
		extern __shared__ __align__(1024) unsigned char shared[];                          \
                                                                                                   \
		prefill::run<prefill::tensor<prefill::type, head>>(                                \
			args, prefill::shared_at(shared));                                         \
	}

KERNEL(attention_prefill_tensor_bf16_64, bf16, 64)
KERNEL(attention_prefill_tensor_bf16_128, bf16, 128)
KERNEL(attention_prefill_tensor_fp16_64, fp16, 64)
KERNEL(attention_prefill_tensor_fp16_128, fp16, 128)
