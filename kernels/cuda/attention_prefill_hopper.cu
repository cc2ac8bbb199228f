/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prefill attention by wgmma, for sm_90a (attention_prefill.h), after FlashAttention-3 (arXiv
 * 2407.08608). One group of four warps loads K and V into two stages each; two groups of 64 query
 * rows each compute, their queries in registers. In a group the products of one step run beside the
 * softmax of the step before. A block takes one piece of work after the other: the next one's first
 * tiles are loaded while the results of this one are written.
 *
 * The loader uses cp.async, not the bulk copies: KV lies in blocks by stride or table, where each
 * token's row has an address of its own. It never waits for its copies: they arrive at the stage's
 * barrier by themselves, and the fence between what cp.async writes and what wgmma reads is the
 * reader's, after the barrier.
 */
#include "kernels/cuda/attention_prefill_tile.cuh"

namespace prefill
{

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* Where things are in shared memory. */
template <class T, int HEAD> struct hopper {
	using type = T;
	static constexpr int head = HEAD;
	static constexpr int rows = 128, group_rows = 64, keys = 128, stages = 2;
	static constexpr int group = 128, consumers = 2 * group; /* threads */
	static constexpr int load_warps = group / 32, load_groups = keys / 16 / load_warps;
	static constexpr uint32_t stage_bytes = keys * HEAD * 2;

	uint32_t query_tile, result_tile, key_stages, value_stages;
	/*
	 * mbarriers, 8 bytes each, two for the queries and for each stage of K and of V: filled (by
	 * every thread of the loader), emptied (by a lane of each consuming warp).
	 */
	uint32_t barriers;
};

/* A consumer's own. Arrays are as the tensor cores leave them (store_rows). */
template <class W> struct consumer {
	int of_group; /* 0, 1 */
	int row;      /* of the tile, the first of this warp's 16 */
	float scores[W::keys / 2], out[W::head / 2];
	uint32_t weights[W::keys / 4];	   /* of the step before, as the tensor cores take them */
	uint32_t queries[W::head / 16][4]; /* the same */
	softmax sums[2];
	float shrink[2], factor;
};

/*
 * How far a block has come: pieces of work that had any tokens, and steps over all of them, which
 * number the uses of the stages. Loader and consumers count alike.
 */
struct progress {
	int pieces, steps;
};

enum of_what { QUERIES, KEYS, VALUES };

/* Use @n of the queries' tile, or of the stages. */
template <class W> __device__ __forceinline__ uint32_t filled(const W &work, of_what what, int n)
{
	return work.barriers +
	       (what == QUERIES ? 0 : 1 + (what - KEYS) * W::stages + n % W::stages) * 16;
}

template <class W> __device__ __forceinline__ uint32_t emptied(const W &work, of_what what, int n)
{
	return filled(work, what, n) + 8;
}

template <class W> __device__ __forceinline__ int uses(of_what what, int n)
{
	return what == QUERIES ? n : n / W::stages;
}

template <class W> __device__ __forceinline__ void wait_filled(const W &work, of_what what, int n)
{
	barrier_wait(filled(work, what, n), uses<W>(what, n) % 2);
	if (what != QUERIES) /* those are read by ldmatrix */
		fence_for_tensor_cores();
}

template <class W> __device__ __forceinline__ uint32_t stage(const W &work, of_what what, int n)
{
	return (what == KEYS ? work.key_stages : work.value_stages) +
	       n % W::stages * W::stage_bytes;
}

template <class W> __device__ __forceinline__ void begin(W &work, uint32_t shared)
{
	work.query_tile = shared;
	work.result_tile = work.query_tile + W::rows * W::head * 2;
	work.key_stages = work.result_tile + W::rows * W::head * 2;
	work.value_stages = work.key_stages + W::stages * W::stage_bytes;
	work.barriers = work.value_stages + W::stages * W::stage_bytes;
	if (threadIdx.x == 0) {
		for (int i = 0; i < 1 + 2 * W::stages; i++) {
			barrier_init(work.barriers + i * 16, W::group);
			barrier_init(work.barriers + i * 16 + 8, W::consumers / 32);
		}
	}
	__syncthreads();
}

/* Steps of the @n-th piece of work of this block; -1 where there is none any more. */
template <class W>
__device__ __forceinline__ int take(
	const struct attention_prefill_args &args, unsigned n, tile &tile)
{
	/* Forth and back, so that nobody always gets the longer of two neighbours. */
	unsigned work = n * gridDim.x + (n % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);

	tile.rows = 0;
	if (n * gridDim.x >= args.works)
		return -1;
	if (work >= args.works || !tile_take<W::rows>(args, work, tile))
		return 0;
	return (tile.keys + W::keys - 1) / W::keys;
}

/* ---------------------------------------------------------------------------------- the loader */

/* Use @n may begin: the first at once, each other when the one before has ended. */
template <class W> __device__ __forceinline__ void wait_emptied(const W &work, of_what what, int n)
{
	int before = uses<W>(what, n) - 1;

	if (before >= 0)
		barrier_wait(emptied(work, what, n), before % 2);
}

/* @first: of the tokens; @n: of the stage's uses. */
template <class W>
__device__ __forceinline__ void load_stage(const W &work, const struct attention_kv &kv,
	const tile &tile, of_what what, int first, const int (&blocks)[W::load_groups], int n)
{
	wait_emptied(work, what, n);
	load_tokens<W::head, W::load_groups, W::load_warps>(kv, tile,
		what == VALUES ? kv.value_offset : 0, first, blocks, stage(work, what, n));
	barrier_arrive_copied(filled(work, what, n));
}

/* In the order of need: Q, K 0, K 1, V 0, K 2, V 1, ... Blocks are looked up a step ahead. */
template <class W>
__device__ __forceinline__ void load_piece(const W &work, const struct attention_prefill &prefill,
	const tile &tile, struct progress at, int steps)
{
	const struct attention_kv &kv = prefill.kv;
	int warp = threadIdx.x / 32 % W::load_warps;
	int before[W::load_groups], now[W::load_groups], next[W::load_groups];

	find_blocks<W::load_groups, W::load_warps>(kv, tile, 0, warp, now);
	wait_emptied(work, QUERIES, at.pieces);
	load_queries<W::head, W::rows, W::group>(
		prefill, tile, work.query_tile, threadIdx.x % W::group);
	barrier_arrive_copied(filled(work, QUERIES, at.pieces));
	for (int step = 0; step <= steps; step++) {
		int first = step * W::keys, n = at.steps + step;

		find_blocks<W::load_groups, W::load_warps>(kv, tile, first + W::keys, warp, next);
		if (step < steps)
			load_stage(work, kv, tile, KEYS, first, now, n);
		if (step > 0)
			load_stage(work, kv, tile, VALUES, first - W::keys, before, n - 1);
#pragma unroll
		for (int g = 0; g < W::load_groups; g++) {
			before[g] = now[g];
			now[g] = next[g];
		}
	}
}

template <class W>
__device__ __forceinline__ void load(const W &work, const struct attention_prefill_args &args)
{
	progress at = {0, 0};
	tile tile;

	for (int n = 0, steps; (steps = take<W>(args, n, tile)) >= 0; n++) {
		if (steps == 0)
			continue;
		load_piece(work, args.prefill, tile, at, steps);
		at.pieces++;
		at.steps += steps;
	}
	copy_commit();
	copy_wait<0>(); /* nothing is on its way any more when the thread ends */
}

/* ------------------------------------------------------------------------------- the consumers */

/*
 * Descriptors of tiles in 128-byte swizzle (PTX manual, wgmma, matrix descriptor): the start, the
 * bytes between 64-column halves (looked at only where the outer dimension is contiguous), the
 * bytes between groups of eight 128-byte rows.
 */
__device__ __forceinline__ uint64_t descriptor(uint32_t at, uint32_t half_bytes)
{
	return static_cast<uint64_t>(1) << 62 | static_cast<uint64_t>(1024 >> 4) << 32 |
	       static_cast<uint64_t>(half_bytes >> 4) << 16 | (at & 0x3ffff) >> 4;
}

/* scores = queries x keys; each product takes columns 16k to 16k + 16 of both. */
template <class W> __device__ __forceinline__ void score(const W &work, consumer<W> &own, int n)
{
	uint32_t keys = stage(work, KEYS, n);

	wgmma_hold(own.scores);
	wgmma_fence();
#pragma unroll
	for (int k = 0; k < W::head / 16; k++)
		wgmma<typename W::type, false>(own.scores, own.queries[k],
			descriptor(keys + k / 4 * (W::keys * 128) + k % 4 * 32, 16), k != 0);
	wgmma_commit();
}

/* out += weights x values; each product takes tokens 16k to 16k + 16 of the step. */
template <class W> __device__ __forceinline__ void gather(const W &work, consumer<W> &own, int n)
{
	uint32_t values = stage(work, VALUES, n);

	wgmma_hold(own.out);
	wgmma_hold(own.weights);
	wgmma_fence();
#pragma unroll
	for (int k = 0; k < W::keys / 16; k++)
		wgmma<typename W::type, true>(own.out, own.weights + k * 4,
			descriptor(values + k * 2048, W::keys * 128), 1);
	wgmma_commit();
}

/* This warp has read a stage to its end. */
__device__ __forceinline__ void release(uint32_t barrier)
{
	if (threadIdx.x % 32 == 0)
		barrier_arrive(barrier);
}

/* Minus infinity for what this thread's rows do not see of the tokens from @first on. */
template <class W>
__device__ __forceinline__ void mask(const tile &tile, consumer<W> &own, int first)
{
	int lane = threadIdx.x % 32;

#pragma unroll
	for (int i = 0; i < 4; i++) {
		int row = own.row + lane / 4 + i / 2 * 8;
		int seen = row_limit(tile, row) - first - lane % 4 * 2 - i % 2;

#pragma unroll
		for (int n = 0; n < W::keys / 8; n++)
			if (n * 8 > seen)
				own.scores[n * 4 + i] = minus_infinity;
	}
}

/* The step's scores become weights, in place. */
template <class W>
__device__ __forceinline__ void weigh(const tile &tile, consumer<W> &own, int step)
{
	int first = step * W::keys;

	/* The group's first row sees least. */
	if (row_limit(tile, own.of_group * W::group_rows) < first + W::keys - 1)
		mask<W>(tile, own, first);
#pragma unroll
	for (int half = 0; half < 2; half++)
		softmax_step<W::keys>(
			own.scores, half, own.sums[half], own.shrink[half], own.factor);
}

template <class W> __device__ __forceinline__ void round_weights(consumer<W> &own)
{
#pragma unroll
	for (int i = 0; i < W::keys / 4; i++)
		own.weights[i] = pack<typename W::type>(own.scores[2 * i], own.scores[2 * i + 1]);
}

template <class W>
__device__ __forceinline__ void take_queries(const W &work, consumer<W> &own, int piece)
{
	int lane = threadIdx.x % 32;
	uint32_t at = tile_at<W::rows>(work.query_tile, own.row + lane % 16, lane / 16);

	wait_filled(work, QUERIES, piece);
#pragma unroll
	for (int k = 0; k < W::head / 16; k++)
		load_matrices(own.queries[k], pair_at<W::rows>(at, k));
	__syncwarp();
	release(emptied(work, QUERIES, piece));
}

template <class W>
__device__ __forceinline__ void first_step(
	const W &work, const tile &tile, consumer<W> &own, struct progress at)
{
	take_queries(work, own, at.pieces);
	wait_filled(work, KEYS, at.steps);
	score(work, own, at.steps);
	wgmma_wait<0>();
	wgmma_hold(own.scores);
	release(emptied(work, KEYS, at.steps));
	weigh(tile, own, 0);
	round_weights(own);
	wait_filled(work, VALUES, at.steps);
}

/* Scores of @step run with the values of the step before, whose weights and values are there. */
template <class W>
__device__ __forceinline__ void next_step(
	const W &work, const tile &tile, consumer<W> &own, struct progress at, int step)
{
	int n = at.steps + step;

	wait_filled(work, KEYS, n);
	score(work, own, n);
	gather(work, own, n - 1);
	wgmma_wait<1>();
	wgmma_hold(own.scores);
	release(emptied(work, KEYS, n));
	weigh(tile, own, step);
	/* Keeps the compiler from moving the softmax behind the products that run beside it. */
	wgmma_hold(own.scores);
	wait_filled(work, VALUES, n);
	wgmma_wait<0>();
	wgmma_hold(own.out);
	wgmma_hold(own.weights);
	release(emptied(work, VALUES, n - 1));
#pragma unroll
	for (int i = 0; i < W::head / 2; i++)
		own.out[i] *= own.shrink[i / 2 % 2];
	round_weights(own);
}

template <class W>
__device__ __forceinline__ void compute_piece(const W &work,
	const struct attention_prefill &prefill, const tile &tile, consumer<W> &own,
	struct progress at, int steps)
{
	own.sums[0] = own.sums[1] = {minus_infinity, 0.0f};
#pragma unroll
	for (int i = 0; i < W::head / 2; i++)
		own.out[i] = 0.0f;
	if (steps) {
		int last = at.steps + steps - 1;

		first_step(work, tile, own, at);
		for (int step = 1; step < steps; step++)
			next_step(work, tile, own, at, step);
		gather(work, own, last);
		wgmma_wait<0>();
		wgmma_hold(own.out);
		release(emptied(work, VALUES, last));
	}
	store_rows<typename W::type, W::head, W::rows>(
		prefill, tile, own.out, own.sums, own.row, work.result_tile);
}

template <class W>
__device__ __forceinline__ void compute(
	const W &work, const struct attention_prefill_args &args, int of_group)
{
	progress at = {0, 0};
	consumer<W> own;
	tile tile;

	own.of_group = of_group;
	own.row = of_group * W::group_rows + threadIdx.x / 32 % 4 * 16;
	own.factor = args.prefill.scale * log2_e;
	for (int n = 0, steps; (steps = take<W>(args, n, tile)) >= 0; n++) {
		if (tile.rows <= 0)
			continue;
		compute_piece(work, args.prefill, tile, own, at, steps);
		at.pieces += steps > 0;
		at.steps += steps;
	}
}

template <class W>
__device__ __forceinline__ void run(const struct attention_prefill_args &args, uint32_t shared)
{
	int group = threadIdx.x / W::group;
	W work;

	begin(work, shared);
	if (group == 0) {
		registers_give<56>();
		load(work, args);
	} else {
		registers_take<224>();
		compute(work, args, group - 1);
	}
}

#define RUN(type, head)                                                                            \
	extern __shared__ __align__(1024) unsigned char shared[];                                  \
                                                                                                   \
	prefill::run<prefill::hopper<prefill::type, head>>(args, prefill::shared_at(shared))

#else
#define RUN(type, head) __trap() /* attention_prefill() does not launch it here */
#endif

} /* namespace prefill */

#define KERNEL(name, type, head)                                                                   \
	extern "C" __global__ void __launch_bounds__(384, 1)                                       \
		name(const __grid_constant__ struct attention_prefill_args args)                   \
	{                                                                                          \
		RUN(type, head);                                                                   \
	}

KERNEL(attention_prefill_hopper_bf16_64, bf16, 64)
KERNEL(attention_prefill_hopper_bf16_128, bf16, 128)
KERNEL(attention_prefill_hopper_fp16_64, fp16, 64)
KERNEL(attention_prefill_hopper_fp16_128, fp16, 128)
