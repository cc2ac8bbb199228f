/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_CUDA_ATTENTION_PREFILL_TILE_CUH
#define SKEP_KERNELS_CUDA_ATTENTION_PREFILL_TILE_CUH

#include "kernels/attention_prefill_args.h"
#include "kernels/cuda/attention_prefill_ptx.cuh"

/* What the prefill kernels have in common: a block's share of the work, tiles, results. */
namespace prefill
{

constexpr float minus_infinity = -__builtin_huge_valf();
constexpr float log2_e = 1.44269504f, ln_2 = 0.693147181f;

/* A piece of the work: some query rows of one head of one sequence. Counts are of tokens. */
struct tile {
	int head, kv_head;
	int row;	/* of the sequence's query tokens, the first here */
	int rows;	/* from there on, as many as the sequence has, at most those of a tile */
	int token;	/* number in the batch of the first row's query token */
	int context;	/* tokens of the sequence */
	int shift;	/* row r (from row 0 of the tile) sees tokens up to shift + r */
	int keys;	/* tokens that any row sees */
	uint64_t start; /* where block 0 of this head's K begins */
	const int32_t *table; /* or null: blocks follow one another */
};

/*
 * Piece @work of all the work, in the order in which it is taken up, which decides what runs
 * together: a sequence before the next; in it the last rows first, which see most, so that what is
 * short at the end fills up the processors that become free; heads side by side, as those of a
 * group read the same K and V. False where the sequence has no such rows.
 */
template <int ROWS>
__device__ __forceinline__ bool tile_take(
	const struct attention_prefill_args &args, unsigned work, tile &tile)
{
	const struct attention_prefill &prefill = args.prefill;
	const struct attention_kv &kv = prefill.kv;
	unsigned heads = prefill.shape.query_heads;
	unsigned sequence = work / (heads * args.tiles), rest = work % (heads * args.tiles);
	const int32_t *starts = reinterpret_cast<const int32_t *>(prefill.starts) + sequence;
	int queries = starts[1] - starts[0];

	tile.head = rest % heads;
	tile.kv_head = tile.head / (heads / prefill.shape.kv_heads);
	tile.row = (args.tiles - 1 - rest / heads) * ROWS;
	tile.rows = min(queries - tile.row, ROWS);
	if (tile.rows <= 0)
		return false;
	tile.token = starts[0] + tile.row;
	tile.context = reinterpret_cast<const int32_t *>(prefill.lengths)[sequence];
	tile.shift = prefill.whole ? tile.context : tile.context - queries + tile.row;
	tile.keys = max(min(tile.context, tile.shift + tile.rows), 0);
	tile.table = nullptr;
	tile.start = kv.base;
	if (kv.table)
		tile.table = reinterpret_cast<const int32_t *>(kv.table) +
			     static_cast<uint64_t>(sequence) * kv.table_stride;
	else
		tile.start += reinterpret_cast<const uint64_t *>(kv.bases)[sequence];
	tile.start += tile.kv_head * kv.head_stride;
	return true;
}

/* The last token that row @row of the tile sees: -1 where there is none. */
__device__ __forceinline__ int row_limit(const tile &tile, int row)
{
	return min(tile.shift + row, tile.context - 1);
}

/*
 * A tile of 16-bit elements in shared memory: ROWS rows of 64 elements (128 bytes), then the same
 * rows' next 64. Where in its row a piece of 16 bytes stands is turned by the row's number, so that
 * eight rows' pieces of one column lie in different banks. That is the order that wgmma calls the
 * 128-byte swizzle; it needs the tile to begin at a multiple of 1024.
 */
template <int ROWS> __device__ __forceinline__ uint32_t tile_at(uint32_t begin, int row, int piece)
{
	return begin + (piece >> 3) * (ROWS * 128) + row * 128 + (((piece ^ row) & 7) << 4);
}

/*
 * The same for pieces 2 @pair and 2 @pair + 1 of a row, from @first, where the first of all pieces
 * that this lane reads stands: what differs between pairs is known to the compiler, and a lane
 * needs one address for all of a tile.
 */
template <int ROWS> __device__ __forceinline__ uint32_t pair_at(uint32_t first, int pair)
{
	return (first ^ (pair % 4 << 5)) + pair / 4 * (ROWS * 128);
}

template <int HEAD, int ROWS, int THREADS>
__device__ __forceinline__ void load_queries(
	const struct attention_prefill &prefill, const tile &tile, uint32_t to, int thread)
{
	constexpr int pieces = HEAD / 8, step = THREADS / pieces;
	int piece = thread % pieces;
	uint64_t from = prefill.query + tile.token * prefill.query_stride + tile.head * (HEAD * 2) +
			piece * 16;

#pragma unroll
	for (int i = 0; i < ROWS / step; i++) {
		int row = thread / pieces + i * step;
		bool there = row < tile.rows;

		copy16(tile_at<ROWS>(to, row, piece),
			there ? from + row * prefill.query_stride : prefill.query, there);
	}
}

/*
 * A tile of ROWS tokens is loaded in groups of 16, which lie in one block each: a block holds 16 at
 * least, a power of two, and tiles begin at multiples of 16. Each of WARPS warps has GROUPS.
 */
template <int GROUPS, int WARPS>
__device__ __forceinline__ void find_blocks(
	const struct attention_kv &kv, const tile &tile, int first, int warp, int (&blocks)[GROUPS])
{
#pragma unroll
	for (int g = 0; g < GROUPS; g++) {
		int token = first + (g * WARPS + warp) * 16;

		blocks[g] = token >> (__ffs(kv.block_tokens) - 1);
		if (tile.table)
			blocks[g] = token < tile.context ? __ldg(tile.table + blocks[g]) : 0;
	}
}

/*
 * Tokens @first to @first + ROWS of the context, zeros behind its end: what is there may be no
 * number, and nothing times that is not nothing. @offset is 0 for K, else that of V.
 */
template <int HEAD, int GROUPS, int WARPS>
__device__ __forceinline__ void load_tokens(const struct attention_kv &kv, const tile &tile,
	int64_t offset, int first, const int (&blocks)[GROUPS], uint32_t to)
{
	constexpr int pieces = HEAD / 8, step = 32 / pieces; /* rows at a time */
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % WARPS;
	int piece = lane % pieces, own = lane / pieces;

#pragma unroll
	for (int g = 0; g < GROUPS; g++) {
		int row = (g * WARPS + warp) * 16, token = first + row;
		uint64_t from = tile.start + offset + blocks[g] * kv.block_stride +
				((token & (kv.block_tokens - 1)) + own) * kv.token_stride +
				piece * 16;
		uint32_t at = tile_at<GROUPS * WARPS * 16>(to, row + own, piece);

		if (token + 16 <= tile.context) {
#pragma unroll
			for (int i = 0; i < 16; i += step) {
				copy16((at ^ (i % 8 << 4)) + i * 128, from);
				from += step * kv.token_stride;
			}
			continue;
		}
#pragma unroll
		for (int i = 0; i < 16; i += step) {
			bool there = token + own + i < tile.context;

			copy16((at ^ (i % 8 << 4)) + i * 128, there ? from : tile.start, there);
			from += step * kv.token_stride;
		}
	}
}

/* Running maximum and sum of one row; a thread's sum is over its own columns until the end. */
struct softmax {
	float top, sum;
};

/*
 * One row's scores (of q.k) of a step become weights: 2^(factor (score - top)). They stand in
 * @scores as the tensor cores leave them (store_rows), the row's being those of @half. What was
 * gathered before is to be multiplied by @shrink.
 */
template <int KEYS>
__device__ __forceinline__ void softmax_step(
	float *scores, int half, softmax &row, float &shrink, float factor)
{
	float top = minus_infinity, sum = 0.0f, base;

#pragma unroll
	for (int n = 0; n < KEYS / 8; n++)
		top = fmaxf(top, fmaxf(scores[n * 4 + half * 2], scores[n * 4 + half * 2 + 1]));
	/* The four lanes of a row hold its columns by twos. */
	top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
	top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
	top = fmaxf(top, row.top);
	base = top == minus_infinity ? 0.0f : top * factor;
	shrink = power2(row.top * factor - base);
	row.top = top;
#pragma unroll
	for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
		for (int i = n * 4 + half * 2; i < n * 4 + half * 2 + 2; i++) {
			scores[i] = power2(scores[i] * factor - base);
			sum += scores[i];
		}
	}
	row.sum = row.sum * shrink + sum;
}

/* The whole sum, by which values are divided; 1 where the row saw nothing. Also its lse. */
__device__ __forceinline__ float softmax_end(const softmax &row, float scale, float &lse)
{
	float sum = row.sum;

	sum += __shfl_xor_sync(~0u, sum, 1);
	sum += __shfl_xor_sync(~0u, sum, 2);
	if (row.top == minus_infinity) {
		lse = minus_infinity;
		return 1.0f;
	}
	lse = row.top * scale + logarithm2(sum) * ln_2;
	return sum;
}

/*
 * Results of one warp's 16 rows from @row of the tile on. @out holds, as tensor cores leave them,
 * columns 8n + 2 (lane % 4) and the next of row lane / 4 in out[n][0] and [1], of row lane / 4 + 8
 * in [2] and [3]. @staging is a tile of ROWS rows in shared memory; nobody else uses these of it.
 */
template <class T, int HEAD, int ROWS>
__device__ __forceinline__ void store_rows(const struct attention_prefill &prefill,
	const tile &tile, const float *out, const softmax (&rows)[2], int row, uint32_t staging)
{
	int lane = threadIdx.x % 32, pair = lane % 4;
	uint64_t heads = prefill.shape.query_heads;

	__syncwarp(); /* what stood there before is read */
#pragma unroll
	for (int half = 0; half < 2; half++) {
		int own = row + lane / 4 + half * 8;
		float lse, factor = 1.0f / softmax_end(rows[half], prefill.scale, lse);
		bool there = own < tile.rows;
		uint64_t place = (tile.token + own) * heads + tile.head;

		if (there && prefill.part.lse && pair == 0)
			store_float(prefill.part.lse + place * 4, lse);
#pragma unroll
		for (int n = 0; n < HEAD / 8; n++) {
			float low = out[n * 4 + half * 2] * factor;
			float high = out[n * 4 + half * 2 + 1] * factor;

			shared_store4(
				tile_at<ROWS>(staging, own, n) + pair * 4, pack<T>(low, high));
			if (there && prefill.part.values) {
				uint64_t to = prefill.part.values + place * (HEAD * 4) + n * 32 +
					      pair * 8;

				store_float(to, low);
				store_float(to + 4, high);
			}
		}
	}
	if (!prefill.output)
		return;
	__syncwarp();
#pragma unroll
	for (int i = lane; i < 16 * (HEAD / 8); i += 32) {
		int own = row + i / (HEAD / 8), piece = i % (HEAD / 8);

		if (own < tile.rows)
			store16(prefill.output + (tile.token + own) * prefill.output_stride +
					tile.head * (HEAD * 2) + piece * 16,
				shared_load16(tile_at<ROWS>(staging, own, piece)));
	}
}

} /* namespace prefill */

#endif
