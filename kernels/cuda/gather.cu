/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tensors to parts, parts to tensors, and sums of parts (kernels/gather.h).
 *
 * The unit of work is a leaf of the part: 4 KiB in a row on this side, pieces on the other. LANES
 * threads of a warp walk over it in steps of LANES × 16 bytes: eight loads in flight a thread, then
 * the stores, then the sum out of the registers, so each byte is read once and written once. A
 * block of threads has a chunk of leaves. Where a chunk holds whole ranges, it ends with their
 * sums; where a range is longer, leaf sums meet in memory and the last chunk to arrive sums them.
 */
#include <stdint.h>

#include "kernels/cuda/xxh3.cuh"
#include "kernels/gather_args.h"

#define LEAF_BYTES   4096u
#define VECTOR_BYTES 16u

static __device__ inline uint32_t divide(struct gather_divisor divisor, uint32_t value)
{
	return (__umulhi(value, divisor.multiplier) + value) >> divisor.shift;
}

/* The address in the tensors of byte @at of the part of @block. */
static __device__ inline uint64_t tensor_at(
	const struct gather_work &work, const struct gather_block &block, uint32_t at)
{
	const struct gather_plan &plan = work.plan;
	uint32_t run = divide(plan.by_run, at), byte = at - run * plan.run_bytes;
	uint32_t row = run, head = 0, outer, inner, plane, slot, page;
	uint64_t base, number;

	if (plan.runs > 1) {
		row = divide(plan.by_runs, run);
		head = run - row * plan.runs;
	}
	outer = divide(plan.by_inner, row);
	inner = row - outer * plan.by_inner.by;
	plane = plan.layout.order == GATHER_LAYER_MAJOR ? outer : inner;
	slot = plan.layout.order == GATHER_LAYER_MAJOR ? inner : outer;
	slot += block.first_slot;
	page = divide(plan.by_page, slot);
	slot -= page * plan.page_tokens;
	base = __ldg((const unsigned long long *)work.bases + plane);
	number = __ldg((const uint32_t *)work.pages + block.first_page + page);
	return base + number * plan.page_stride + slot * plan.token_stride +
	       head * plan.head_stride + byte;
}

template <int WIDTH> struct piece;
template <> struct piece<4> {
	typedef uint32_t type;
};
template <> struct piece<1> {
	typedef uint8_t type;
};

/*
 * Tensors and parts are read and written past the first-level cache (_cg): nothing is looked at
 * twice. That also says that they are global memory, which a number does not.
 *
 * Sixteen bytes, or the first @valid of them, whose pieces of WIDTH bytes lie at @address(offset).
 * What is not valid is 0.
 */
template <int WIDTH, typename ADDRESS>
static __device__ inline ulonglong2 vector_load(ADDRESS address, uint32_t valid)
{
	ulonglong2 vector = {0, 0};

	if constexpr (WIDTH == 16) {
		vector = __ldcg((const ulonglong2 *)address(0));
	} else {
#pragma unroll
		for (uint32_t i = 0; i < VECTOR_BYTES; i += WIDTH) {
			uint64_t value;

			if (i >= valid)
				break;
			value = __ldcg((const typename piece<WIDTH>::type *)address(i));
			if (i < 8)
				vector.x |= value << 8 * i;
			else
				vector.y |= value << 8 * (i - 8);
		}
	}
	return vector;
}

template <int WIDTH, typename ADDRESS>
static __device__ inline void vector_store(ulonglong2 vector, ADDRESS address, uint32_t valid)
{
	if constexpr (WIDTH == 16) {
		__stcg((ulonglong2 *)address(0), vector);
	} else {
#pragma unroll
		for (uint32_t i = 0; i < VECTOR_BYTES; i += WIDTH) {
			if (i >= valid)
				break;
			__stcg((typename piece<WIDTH>::type *)address(i),
				(typename piece<WIDTH>::type)(
					(i < 8 ? vector.x : vector.y) >> 8 * (i % 8)));
		}
	}
}

/* A leaf: where in the part it lies, and how much of it there is; 0 bytes where there is none. */
struct leaf {
	uint32_t at, bytes;
};

/* A leaf that the registers can sum: whole stripes, and more than the short forms are for. */
static __device__ inline bool leaf_flows(uint32_t bytes)
{
	return bytes % XXH3_STRIPE_BYTES == 0 && bytes > XXH3_SHORT_MAX;
}

template <int LANES_, int WIDTH_, int WAY_, bool SUMS_, bool STEP_, int THREADS_> struct form {
	enum {
		LANES = LANES_,
		WIDTH = WIDTH_,
		WAY = WAY_,
		THREADS = THREADS_,
		STEP_BYTES = LANES * VECTOR_BYTES,
		STEPS = LEAF_BYTES / STEP_BYTES,
		STEPPED = (STEPS + LANES - 1) / LANES, /* addresses of steps that a thread keeps */
		/* Loads in flight a thread: whole blocks of the sum. Odd widths stay small. */
		BATCH = WIDTH == 16 ? 8 : 2,
		UNROLL = WIDTH == 16 ? STEPS / BATCH : 1,
	};
	static constexpr bool SUMS = SUMS_, STEP = STEP_ && WAY != GATHER_SUM;
};

/* What a thread keeps while it works on one block. */
template <typename FORM> struct mover {
	const struct gather_work &work;
	struct gather_block block;
	xxh3_flow<FORM::LANES> flow;

	__device__ mover(const struct gather_work &its_work, uint32_t index) : work(its_work)
	{
		block = ((const struct gather_block *)work.blocks)[index];
		if (FORM::SUMS)
			flow.init();
	}

	/*
	 * Moves a leaf; returns its sum where it flows. FULL: every group of the warp has 4 KiB.
	 */
	template <bool FULL> __device__ uint64_t move(struct leaf leaf)
	{
		const uint32_t bytes = FULL ? LEAF_BYTES : leaf.bytes;
		const uint32_t lane = threadIdx.x % FORM::LANES;
		const bool flows = FULL || leaf_flows(bytes);
		uint64_t own[FORM::STEPPED];

		if (FORM::STEP) {
#pragma unroll
			for (uint32_t i = 0; i < FORM::STEPPED; i++) {
				uint32_t at = (i * FORM::LANES + lane) * FORM::STEP_BYTES;

				own[i] = at < bytes ? tensor_at(work, block, leaf.at + at) : 0;
			}
		}
		if (FORM::SUMS)
			flow.begin();
#pragma unroll(FORM::UNROLL)
		for (uint32_t first = 0; first < FORM::STEPS; first += FORM::BATCH) {
			ulonglong2 data[FORM::BATCH];
			uint64_t to[FORM::BATCH];

#pragma unroll
			for (uint32_t i = 0; i < FORM::BATCH; i++) {
				uint32_t step = first + i;
				uint32_t at = step * FORM::STEP_BYTES + lane * VECTOR_BYTES;
				uint64_t stepped = 0;

				if (FORM::STEP)
					stepped =
						__shfl_sync(WARP_ALL,
							(unsigned long long)own[step / FORM::LANES],
							step % FORM::LANES, FORM::LANES) +
						lane * VECTOR_BYTES;
				data[i] = {0, 0};
				to[i] = stepped;
				if (at < bytes)
					data[i] = load(leaf.at + at, stepped, bytes - at);
			}
#pragma unroll
			for (uint32_t i = 0; i < FORM::BATCH; i++) {
				uint32_t step = first + i;
				uint32_t at = step * FORM::STEP_BYTES + lane * VECTOR_BYTES;

				if (at < bytes)
					store(data[i], leaf.at + at, to[i], bytes - at);
			}
			if (FORM::SUMS)
				add<FULL>(data, first, bytes, flows);
		}
		return FORM::SUMS ? flow.end(bytes) : 0;
	}

	template <bool FULL>
	__device__ void add(const ulonglong2 *data, uint32_t first, uint32_t bytes, bool flows)
	{
		const uint32_t lane = threadIdx.x % FORM::LANES;

#pragma unroll
		for (uint32_t i = 0; i < FORM::BATCH; i++) {
			uint32_t step = first + i;
			uint32_t at = step * FORM::STEP_BYTES + lane * VECTOR_BYTES;
			uint32_t end = (step + 1) * FORM::STEP_BYTES;
			bool last = FULL ? step == FORM::STEPS - 1 && lane >= FORM::LANES - 4
					 : at / XXH3_STRIPE_BYTES * XXH3_STRIPE_BYTES +
							    XXH3_STRIPE_BYTES ==
						    bytes;

			if (FULL || (flows && at < bytes))
				flow.add(i % xxh3_flow<FORM::LANES>::STEPS, data[i].x, data[i].y,
					last);
			if (end % XXH3_BLOCK_BYTES == 0)
				flow.block_end(flows && end < bytes);
		}
	}

	__device__ ulonglong2 load(uint32_t at, uint64_t stepped, uint32_t valid)
	{
		if (FORM::WAY != GATHER_IN)
			return vector_load<FORM::WIDTH>(
				[&](uint32_t i) { return block.part + at + i; }, valid);
		return vector_load<FORM::WIDTH>(
			[&](uint32_t i) {
				return FORM::STEP ? stepped : tensor_at(work, block, at + i);
			},
			valid);
	}

	__device__ void store(ulonglong2 data, uint32_t at, uint64_t stepped, uint32_t valid)
	{
		if (FORM::WAY == GATHER_IN)
			vector_store<FORM::WIDTH>(
				data, [&](uint32_t i) { return block.part + at + i; }, valid);
		if (FORM::WAY == GATHER_OUT)
			vector_store<FORM::WIDTH>(
				data,
				[&](uint32_t i) {
					return FORM::STEP ? stepped
							  : tensor_at(work, block, at + i);
				},
				valid);
	}

	/* Moves one leaf a group of LANES; every thread of a group gets its sum. */
	__device__ uint64_t leaves(struct leaf leaf)
	{
		uint64_t sum;

		if (__all_sync(WARP_ALL, leaf.bytes == LEAF_BYTES))
			return move<true>(leaf);
		sum = move<false>(leaf);
		if (!FORM::SUMS)
			return 0;
		/* What is odd is summed where it lies in the part, by the whole warp. */
		__syncwarp();
		for (uint32_t i = 0; i < 32; i += FORM::LANES) {
			uint32_t at = __shfl_sync(WARP_ALL, leaf.at, i);
			uint32_t bytes = __shfl_sync(WARP_ALL, leaf.bytes, i);
			struct xxh3_bytes input = {(const unsigned char *)block.part + at};
			uint64_t odd;

			if (!bytes || leaf_flows(bytes))
				continue;
			odd = xxh3_warp(input, bytes);
			if (threadIdx.x % 32 / FORM::LANES == i / FORM::LANES)
				sum = odd;
		}
		return sum;
	}
};

/* What a block of threads works on. */
struct chunk {
	uint32_t block, range, ranges, first_leaf, leaves;
};

static __device__ inline struct chunk chunk_of(const struct gather_args &args, uint32_t index)
{
	const struct gather_work &work = args.work;
	struct chunk chunk;
	uint32_t piece;

	chunk.block = divide(args.by_part_chunks, index);
	piece = index - chunk.block * args.part_chunks;
	if (args.chunk_ranges) {
		chunk.range = piece * args.chunk_ranges;
		chunk.ranges = min(args.chunk_ranges, work.range_count - chunk.range);
		chunk.first_leaf = 0;
		chunk.leaves = chunk.ranges * work.plan.range_leaves;
	} else {
		chunk.range = divide(args.by_range_chunks, piece);
		chunk.ranges = 1;
		chunk.first_leaf = (piece - chunk.range * args.range_chunks) * args.chunk_leaves;
		chunk.leaves = min(args.chunk_leaves, work.plan.range_leaves - chunk.first_leaf);
	}
	chunk.range += work.range_first;
	return chunk;
}

/* One thread has the sum of a range. */
template <int WAY>
static __device__ inline void range_done(
	const struct gather_work &work, uint32_t block, uint32_t range, uint64_t sum)
{
	uint64_t index = (uint64_t)block * work.plan.layout.ranges + range;

	if (work.sums)
		((uint64_t *)work.sums)[index] = sum;
	if (WAY != GATHER_IN && work.expected)
		((uint8_t *)work.failed)[index] = ((const uint64_t *)work.expected)[index] != sum;
}

/*
 * A piece of a range is done: by the first warp. The last of the pieces to arrive has them all: a
 * fence stands between its leaf sums and the count on the writing side, and between the count and
 * the reading on the other, which reads in L2.
 */
template <int WAY>
static __device__ void piece_done(
	const struct gather_args &args, const struct chunk &chunk, const uint64_t *sums)
{
	const struct gather_work &work = args.work;
	uint32_t leaves = work.plan.range_leaves, thread = threadIdx.x, arrived = 0;
	uint64_t *record =
		(uint64_t *)work.scratch +
		((uint64_t)chunk.block * work.plan.layout.ranges + chunk.range) * (1 + leaves);
	uint64_t sum;

	for (uint32_t i = thread; i < chunk.leaves; i += 32)
		record[1 + chunk.first_leaf + i] = sums[i];
	__threadfence();
	__syncwarp();
	if (thread == 0)
		arrived = atomicAdd((uint32_t *)record, 1u) + 1;
	arrived = __shfl_sync(WARP_ALL, arrived, 0);
	if (arrived != args.range_chunks)
		return;
	__threadfence();
	sum = xxh3_warp(xxh3_words{record + 1, true}, leaves * 8);
	if (thread == 0) {
		*(uint32_t *)record = 0;
		range_done<WAY>(work, chunk.block, chunk.range, sum);
	}
}

template <typename FORM> static __device__ void chunk_work(const struct gather_args &args)
{
	__shared__ uint64_t sums[GATHER_CHUNK_LEAVES_MAX];
	const struct gather_plan &plan = args.work.plan;
	const struct chunk chunk = chunk_of(args, blockIdx.x);
	const uint32_t warp = threadIdx.x / 32, groups = 32 / FORM::LANES;
	mover<FORM> mover(args.work, chunk.block);

	for (uint32_t first = warp * groups; first < chunk.leaves;
		first += FORM::THREADS / FORM::LANES) {
		uint32_t index = first + threadIdx.x % 32 / FORM::LANES;
		uint32_t range = 0, in_range = index + chunk.first_leaf, at;
		struct leaf leaf = {0, 0};
		uint64_t sum;

		if (args.chunk_ranges) {
			range = divide(args.by_range_leaves, index);
			in_range = index - range * plan.range_leaves;
		}
		if (index < chunk.leaves) {
			at = in_range * LEAF_BYTES;
			leaf.at = (chunk.range + range) * plan.range_bytes + at;
			leaf.bytes = min(LEAF_BYTES, plan.range_bytes - at);
		}
		sum = mover.leaves(leaf);
		if (FORM::SUMS && index < chunk.leaves && threadIdx.x % FORM::LANES == 0)
			sums[index] = sum;
	}
	if (!FORM::SUMS)
		return;
	__syncthreads();
	if (!args.chunk_ranges) {
		if (warp == 0)
			piece_done<FORM::WAY>(args, chunk, sums);
		return;
	}
	for (uint32_t range = warp; range < chunk.ranges; range += FORM::THREADS / 32) {
		uint64_t sum = xxh3_warp(
			xxh3_words{sums + range * plan.range_leaves, false}, plan.range_leaves * 8);

		if (threadIdx.x % 32 == 0)
			range_done<FORM::WAY>(args.work, chunk.block, chunk.range + range, sum);
	}
}

#define KERNEL(prefix, name, lanes, width, way, sums, step, threads, blocks)                       \
	extern "C" __global__ void __launch_bounds__(threads, blocks)                              \
		prefix##name(const __grid_constant__ struct gather_args args)                      \
	{                                                                                          \
		chunk_work<form<lanes, width, way, sums, step, threads>>(args);                    \
	}
#define VARIANT(name, lanes, width, step, threads, blocks)                                         \
	KERNEL(gather_, name, lanes, width, GATHER_IN, true, step, threads, blocks)                \
	KERNEL(gather_plain_, name, lanes, width, GATHER_IN, false, step, threads, blocks)         \
	KERNEL(scatter_, name, lanes, width, GATHER_OUT, true, step, threads, blocks)              \
	KERNEL(scatter_plain_, name, lanes, width, GATHER_OUT, false, step, threads, blocks)       \
	KERNEL(sum_, name, lanes, width, GATHER_SUM, true, step, threads, blocks)

GATHER_VARIANTS(VARIANT)
