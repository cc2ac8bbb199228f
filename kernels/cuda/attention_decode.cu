/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decode attention: one query token a sequence over all of its KV. It is bound by reading KV, so
 * the work is arranged around that: every byte is read once, straight into shared memory, tiles
 * ahead; and every warp runs its own pipeline and waits for no other.
 *
 * A warp takes 16 tokens at a time. Scores are computed transposed, S^T = K Q^T, with the tokens as
 * the 16 rows of the matrix instruction and the queries of the group as its 8 columns: nothing is
 * padded but the group itself. S^T comes out as columns of queries; one transposition in registers
 * makes the weights the operand of O^T += V^T P^T. The softmax is the online one (Milakov and
 * Gimelshein, arXiv 1805.02867), over a range of the context (flash decoding); how ranges are cut
 * and where parts go is told in attention_decode.h.
 */
#include "kernels/cuda/attention_device.cuh"

#define WARP	  32
#define LOG2_E	  1.44269504f
#define NATURAL_2 0.69314718f
#define ALL_LANES 0xffffffffu

/* ---------------------------------------------------------------------- where a block begins */

/* Called by all lanes with the same arguments; @n goes up by at most one a call. */
struct contiguous {
	uint64_t base;

	/* While it is not yet known which sequence: one of many loads that follow each other. */
	__device__ static void prefetch(const attention_kv &kv, uint32_t sequences)
	{
		if (threadIdx.x % WARP < sequences)
			cache_prefetch(kv.bases + threadIdx.x % WARP * sizeof(uint64_t));
	}

	__device__ void open(const attention_kv &kv, uint32_t sequence, uint32_t, uint32_t)
	{
		base = kv.base + reinterpret_cast<const uint64_t *>(kv.bases)[sequence];
	}

	__device__ uint64_t block(const attention_kv &kv, uint32_t n)
	{
		return base + n * kv.block_stride;
	}
};

/* Each lane keeps one of 32 entries of the table, and one of the next 32. */
struct paged {
	const int32_t *row;
	uint32_t blocks, window;
	int32_t entry, following;

	__device__ static void prefetch(const attention_kv &, uint32_t)
	{
	}

	__device__ int32_t read(uint32_t n) const
	{
		return n < blocks ? row[n] : 0;
	}

	__device__ void open(const attention_kv &kv, uint32_t sequence, uint32_t first,
		uint32_t blocks_of_sequence)
	{
		row = reinterpret_cast<const int32_t *>(kv.table) +
		      static_cast<uint64_t>(sequence) * kv.table_stride;
		blocks = blocks_of_sequence;
		window = first / WARP;
		entry = read(window * WARP + threadIdx.x % WARP);
		following = read((window + 1) * WARP + threadIdx.x % WARP);
	}

	__device__ uint64_t block(const attention_kv &kv, uint32_t n)
	{
		if (n / WARP != window) {
			window++;
			entry = following;
			following = read((window + 1) * WARP + threadIdx.x % WARP);
		}
		return kv.base + __shfl_sync(ALL_LANES, entry, n % WARP) * kv.block_stride;
	}
};

/* ------------------------------------------------------------------- tiles into shared memory */

struct tile_source {
	uint64_t keys; /* token 0 of the tile */
	int64_t value_offset;
	int32_t token_stride;
	uint32_t valid; /* tokens, 1 to 16 */
};

/*
 * A warp's ring of tiles, each 16 rows of K and then 16 of V. start() fetches one tile, 16 bytes a
 * thread, idle() stands for it where there is none left; wait() gives the oldest. Rows have no
 * padding; the 16-byte pieces of row r are exchanged by exclusive or with r mod 8, so that both the
 * copies and the 8 rows of a matrix touch all banks.
 *
 * A row behind the end of the context is filled with the last row before it: its weight is 0, and 0
 * times what lies in foreign or unwritten memory need not be 0.
 */
template <int head_size> struct tile_ring {
	static constexpr uint32_t row_bytes = 2 * head_size;
	static constexpr uint32_t pieces = row_bytes / 16;
	static constexpr uint32_t rows = WARP / pieces; /* that one instruction of a warp fills */
	static constexpr uint32_t stage_bytes = 2 * ATTENTION_TILE * row_bytes;
	uint32_t memory, next, oldest;

	__device__ void create(uint32_t shared)
	{
		memory = shared + threadIdx.x / WARP * (ATTENTION_STAGES * stage_bytes);
		next = oldest = 0;
	}

	__device__ void start(const tile_source &tile)
	{
		uint32_t lane = threadIdx.x % WARP, piece = lane % pieces, row = lane / pieces;
		uint32_t to = memory + next * stage_bytes + row * row_bytes + ((piece ^ row) << 4);

#pragma unroll
		for (uint32_t n = 0; n < ATTENTION_TILE; n += rows) {
			int32_t token = static_cast<int32_t>(min(row + n, tile.valid - 1));
			uint64_t from = tile.keys + piece * 16 +
					static_cast<int64_t>(token) * tile.token_stride;
			uint32_t at = (to ^ (n % 8 << 4)) + n * row_bytes;

			copy_async_16(at, from);
			copy_async_16(at + stage_bytes / 2, from + tile.value_offset);
		}
		copy_async_commit();
		next = next + 1 == ATTENTION_STAGES ? 0 : next + 1;
	}

	/* Groups are counted, so an empty one stands for a tile. */
	__device__ void idle(void)
	{
		copy_async_commit();
	}

	__device__ uint32_t wait(void)
	{
		uint32_t at = memory + oldest * stage_bytes;

		copy_async_wait<ATTENTION_STAGES - 2>();
		__syncwarp(); /* other lanes' copies; and all have left the tile before */
		oldest = oldest + 1 == ATTENTION_STAGES ? 0 : oldest + 1;
		return at;
	}

	/* Where a lane finds @row, upper or lower half (@half) of 16 columns; those of step @n. */
	__device__ uint32_t lane_at(uint32_t tile, uint32_t row, uint32_t half) const
	{
		return tile + row * row_bytes + ((half ^ row % 8) << 4);
	}

	__device__ static uint32_t step(uint32_t at, uint32_t n)
	{
		return at ^ (n << 5);
	}
};

/* --------------------------------------------------------------------------------- arithmetic */

/*
 * A lane's share of one head: fragments of Q^T, of O^T (not yet divided), and of two queries, 2 *
 * (lane % 4) and the next, the greatest score so far (times log2 e) and the sum of weights over
 * this lane's tokens.
 */
template <int head_size> struct head_state {
	uint32_t query[head_size / 16][2];
	float sum[head_size / 16][4];
	float top[2], total[2];

	/* @queries of the group are there, the others are zero. */
	__device__ void create(uint64_t at, uint32_t queries)
	{
		uint32_t lane = threadIdx.x % WARP;
		const uint32_t *row = reinterpret_cast<const uint32_t *>(at) +
				      lane / 4 * (head_size / 2) + lane % 4;
		bool there = lane / 4 < queries;

#pragma unroll
		for (int n = 0; n < head_size / 16; n++) {
			query[n][0] = there ? row[n * 8] : 0;
			query[n][1] = there ? row[n * 8 + 4] : 0;
			sum[n][0] = sum[n][1] = sum[n][2] = sum[n][3] = 0;
		}
		top[0] = top[1] = -INFINITY;
		total[0] = total[1] = 0;
	}
};

/* The same over the 8 lanes that hold one column. */
__device__ static inline float column_greatest(float x)
{
	for (int distance = 4; distance < WARP; distance *= 2)
		x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, distance));
	return x;
}

__device__ static inline float column_total(float x)
{
	for (int distance = 4; distance < WARP; distance *= 2)
		x += __shfl_xor_sync(ALL_LANES, x, distance);
	return x;
}

/* Takes in the @valid tokens of the tile at @tile in shared memory. @scale is times log2 e. */
template <class Element, int head_size>
__device__ static inline void absorb(head_state<head_size> &state, const tile_ring<head_size> &ring,
	uint32_t tile, uint32_t valid, float scale)
{
	uint32_t lane = threadIdx.x % WARP;
	uint32_t keys = ring.lane_at(tile, lane % 16, lane / 16);
	uint32_t values =
		ring.lane_at(tile, ATTENTION_TILE + lane % 8 + lane / 16 * 8, lane / 8 % 2);
	float even[4] = {}, odd[4] = {}, weight[4];
	uint32_t weights[2];

#pragma unroll
	for (int n = 0; n < head_size / 16; n++) {
		uint32_t key[4];

		matrix_load(key, ring.step(keys, n));
		Element::multiply_add(
			n % 2 ? odd : even, key, state.query[n][0], state.query[n][1]);
	}
#pragma unroll
	for (int n = 0; n < 4; n++) {
		weight[n] = (even[n] + odd[n]) * scale;
		if (lane / 4 + n / 2 * 8 >= valid)
			weight[n] = -INFINITY;
	}
#pragma unroll
	for (int n = 0; n < 2; n++) {
		float top = fmaxf(state.top[n], column_greatest(fmaxf(weight[n], weight[2 + n])));
		float from = top == -INFINITY ? 0 : top; /* no score is finite: all weights 0 */
		float shrink = power_of_two(state.top[n] - from);

		weight[n] = power_of_two(weight[n] - from);
		weight[2 + n] = power_of_two(weight[2 + n] - from);
		state.top[n] = top;
		state.total[n] = state.total[n] * shrink + weight[n] + weight[2 + n];
#pragma unroll
		for (int m = 0; m < head_size / 16; m++) {
			state.sum[m][n] *= shrink;
			state.sum[m][2 + n] *= shrink;
		}
	}
	weights[0] = matrix_transpose(Element::pack(weight[0], weight[1]));
	weights[1] = matrix_transpose(Element::pack(weight[2], weight[3]));
#pragma unroll
	for (int n = 0; n < head_size / 16; n++) {
		uint32_t value[4];

		matrix_load_transposed(value, ring.step(values, n));
		Element::multiply_add(state.sum[n], value, weights[0], weights[1]);
	}
}

/* Writes the part of @queries query heads, whose first row is row @row of the slots. */
template <int head_size>
__device__ static inline void part_write(const head_state<head_size> &state,
	const attention_part &slots, uint64_t row, uint32_t queries)
{
	uint32_t lane = threadIdx.x % WARP;

#pragma unroll
	for (int n = 0; n < 2; n++) {
		uint32_t query = lane % 4 * 2 + n;
		float total = column_total(state.total[n]);
		float share = total == 0 ? 0 : 1 / total;
		float *values = reinterpret_cast<float *>(slots.values) +
				(row + query) * head_size + lane / 4;

		if (query >= queries)
			continue;
#pragma unroll
		for (int m = 0; m < head_size / 16; m++) {
			values[m * 16] = state.sum[m][n] * share;
			values[m * 16 + 8] = state.sum[m][2 + n] * share;
		}
		if (lane < 4)
			reinterpret_cast<float *>(slots.lse)[row + query] =
				total == 0 ? -INFINITY : state.top[n] * NATURAL_2 + logf(total);
	}
}

/* -------------------------------------------------------------------------------- decode */

/* Tiles [first, last) of one sequence; the context has @length tokens. */
struct stretch {
	uint32_t sequence, first, last, length;
};

template <int head_size, class View>
__device__ static inline void tile_start(tile_ring<head_size> &ring, View &view,
	const attention_decode_args &args, const stretch &of, uint32_t tile, uint64_t head_offset)
{
	uint32_t token = tile * ATTENTION_TILE;
	uint32_t shift = __ffs(args.kv.block_tokens) - 1;
	tile_source source;

	if (tile >= of.last) {
		ring.idle();
		return;
	}
	source.keys =
		view.block(args.kv, token >> shift) + head_offset +
		static_cast<int64_t>(token & (args.kv.block_tokens - 1)) * args.kv.token_stride;
	source.value_offset = args.kv.value_offset;
	source.token_stride = static_cast<int32_t>(args.kv.token_stride);
	source.valid = min(of.length - token, ATTENTION_TILE);
	ring.start(source);
}

template <class Element, int head_size, class View>
__device__ static inline void stretch_attend(tile_ring<head_size> &ring,
	const attention_decode_args &args, const stretch &of, uint32_t head, uint64_t slot)
{
	uint32_t kv_head = head / args.slices, slice = head % args.slices;
	uint32_t group = args.query_heads / args.kv_heads;
	uint32_t query = kv_head * group + slice * ATTENTION_GROUP;
	uint32_t queries = min(group - slice * ATTENTION_GROUP, ATTENTION_GROUP);
	uint64_t head_offset = kv_head * args.kv.head_stride;
	head_state<head_size> state;
	View view;

	view.open(args.kv, of.sequence, of.first * ATTENTION_TILE / args.kv.block_tokens,
		(of.length + args.kv.block_tokens - 1) / args.kv.block_tokens);
	for (uint32_t n = 0; n < ATTENTION_STAGES - 1; n++)
		tile_start(ring, view, args, of, of.first + n, head_offset);
	state.create(args.query + of.sequence * args.query_stride +
			     static_cast<uint64_t>(query) * head_size * 2,
		queries);
	for (uint32_t tile = of.first; tile < of.last; tile++) {
		uint32_t at = ring.wait();

		tile_start(ring, view, args, of, tile + ATTENTION_STAGES - 1, head_offset);
		absorb<Element, head_size>(
			state, ring, at, of.length - tile * ATTENTION_TILE, args.scale * LOG2_E);
	}
	part_write(state, args.slots, slot * args.query_heads + query, queries);
}

/* The tiles of sequence n for lane n % 32, 0 behind the last sequence. */
__device__ static inline uint64_t tiles_of(const int32_t *lengths, uint32_t sequences, uint32_t n)
{
	return n < sequences ? attention_tiles(lengths[n]) : 0;
}

/* The line of tiles: its length, and a sequence on it with the tile at which it begins. */
struct line {
	uint64_t tiles, begin;
	uint32_t sequence;
};

__device__ static inline uint64_t line_tiles(const int32_t *lengths, uint32_t sequences)
{
	uint64_t tiles = 0;

	for (uint32_t n = threadIdx.x % WARP; n < sequences; n += WARP)
		tiles += tiles_of(lengths, sequences, n);
	for (int distance = 1; distance < WARP; distance *= 2)
		tiles += __shfl_xor_sync(ALL_LANES, tiles, distance);
	return tiles;
}

/* @tile lies on the line. */
__device__ static inline void line_find(
	line &line, const int32_t *lengths, uint32_t sequences, uint64_t tile)
{
	uint32_t lane = threadIdx.x % WARP;
	uint64_t begin = 0;

	for (uint32_t n = 0;; n += WARP) {
		uint64_t mine = tiles_of(lengths, sequences, n + lane), end = mine;
		unsigned behind;

		for (int distance = 1; distance < WARP; distance *= 2) {
			uint64_t before = __shfl_up_sync(ALL_LANES, end, distance);

			end += lane >= distance ? before : 0;
		}
		behind = __ballot_sync(ALL_LANES, begin + end > tile);
		if (behind || n + WARP >= sequences) {
			int found = behind ? __ffs(behind) - 1 : 0;

			line.sequence = n + found;
			line.begin = begin + __shfl_sync(ALL_LANES, end - mine, found);
			return;
		}
		begin += __shfl_sync(ALL_LANES, end, WARP - 1);
	}
}

template <class Element, int head_size, class View>
__device__ static inline void decode(const attention_decode_args &args)
{
	extern __shared__ __align__(1024) unsigned char memory[];
	uint32_t warp = threadIdx.x / WARP, ranges;
	uint32_t head = blockIdx.x * args.block_heads + warp % args.block_heads;
	uint32_t range = blockIdx.y * args.ways + warp / args.block_heads;
	const int32_t *lengths = reinterpret_cast<const int32_t *>(args.lengths);
	tile_ring<head_size> ring;
	uint64_t tile, end;
	line line;

	if (warp >= args.block_heads * args.ways || head >= args.kv_heads * args.slices)
		return;
	View::prefetch(args.kv, args.sequences);
	line.tiles = line_tiles(lengths, args.sequences);
	ranges = attention_ranges(line.tiles, args.ranges);
	if (range >= ranges)
		return;
	tile = attention_range_begin(line.tiles, ranges, range);
	end = attention_range_begin(line.tiles, ranges, range + 1);
	line_find(line, lengths, args.sequences, tile);
	ring.create(shared_at(memory));
	while (tile < end) {
		uint32_t length = static_cast<uint32_t>(lengths[line.sequence]);
		uint64_t next = line.begin + attention_tiles(static_cast<int32_t>(length));
		stretch of = {line.sequence, static_cast<uint32_t>(tile - line.begin),
			static_cast<uint32_t>(min(next, end) - line.begin), length};

		if (tile < next) {
			stretch_attend<Element, head_size, View>(
				ring, args, of, head, range + line.sequence);
			tile = min(next, end);
		}
		line.begin = next;
		line.sequence++;
	}
}

#define DECODE_KERNEL(element, head_size, view)                                                    \
	extern "C" __global__ void __launch_bounds__(ATTENTION_WARPS *WARP)                        \
		attention_decode_##element##_##head_size##_##view(                                 \
			const __grid_constant__ attention_decode_args args)                        \
	{                                                                                          \
		decode<element, head_size, view>(args);                                            \
	}

DECODE_KERNEL(bf16, 128, contiguous)
DECODE_KERNEL(bf16, 128, paged)
DECODE_KERNEL(bf16, 64, contiguous)
DECODE_KERNEL(bf16, 64, paged)
DECODE_KERNEL(fp16, 128, contiguous)
DECODE_KERNEL(fp16, 128, paged)
DECODE_KERNEL(fp16, 64, contiguous)
DECODE_KERNEL(fp16, 64, paged)

/* --------------------------------------------------------------------------------- merge */

#define MERGE_BATCH 8 /* parts that a warp asks for at once */

/* The parts of one row, by number: of a sequence's ranges, or of the caller's list. */
struct slots_of_row {
	attention_part slots;
	uint64_t row, step;
	uint32_t head_size;

	__device__ const float *values(uint32_t n) const
	{
		return reinterpret_cast<const float *>(slots.values) + (row + n * step) * head_size;
	}

	__device__ float lse(uint32_t n) const
	{
		return reinterpret_cast<const float *>(slots.lse)[row + n * step];
	}
};

struct parts_of_row {
	const attention_part *parts;
	uint64_t row;
	uint32_t head_size;

	__device__ const float *values(uint32_t n) const
	{
		return reinterpret_cast<const float *>(parts[n].values) + row * head_size;
	}

	__device__ float lse(uint32_t n) const
	{
		return reinterpret_cast<const float *>(parts[n].lse)[row];
	}
};

/* Where one row of the result goes; 0 where it is not wanted. */
struct row_target {
	uint64_t output, values, lse;
	uint32_t head_size, dtype;
};

__device__ static inline void row_write(const row_target &to, uint32_t column, float4 row)
{
	if (to.values)
		reinterpret_cast<float4 *>(to.values)[column / 4] = row;
	if (to.output) {
		bool wide = to.dtype == ATTENTION_BF16;
		uint2 packed = {wide ? bf16::pack(row.x, row.y) : fp16::pack(row.x, row.y),
			wide ? bf16::pack(row.z, row.w) : fp16::pack(row.z, row.w)};

		reinterpret_cast<uint2 *>(to.output)[column / 4] = packed;
	}
}

/* A sum of values by weights relative to exp(top), and the sum of those weights. */
struct weighted {
	float top, total;
	float4 sum;

	__device__ void add(const weighted &more)
	{
		float greatest = greater(top, more.top);
		float from = greatest == -INFINITY ? 0 : greatest;
		float own = expf(top - from), others = expf(more.top - from);

		total = total * own + more.total * others;
		sum.x = sum.x * own + more.sum.x * others;
		sum.y = sum.y * own + more.sum.y * others;
		sum.z = sum.z * own + more.sum.z * others;
		sum.w = sum.w * own + more.sum.w * others;
		top = greatest;
	}
};

/* A block a row: its warps share the parts, its lanes the columns, four each. */
template <class Parts>
__device__ static inline void merge(const Parts &parts, uint32_t count, const row_target &to)
{
	__shared__ weighted of_warps[ATTENTION_MERGE_WARPS][WARP];
	uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, column = lane * 4;
	uint32_t warps = blockDim.x / WARP;
	weighted all = {-INFINITY, 0, {}};
	float share;

	for (uint32_t first = warp; first < count; first += MERGE_BATCH * warps) {
		weighted batch[MERGE_BATCH];

#pragma unroll
		for (uint32_t n = 0; n < MERGE_BATCH; n++) {
			uint32_t part = first + n * warps;

			batch[n] = {-INFINITY, 1, {}};
			if (part < count) {
				batch[n].top = parts.lse(part);
				if (column < to.head_size)
					batch[n].sum = reinterpret_cast<const float4 *>(
						parts.values(part))[lane];
			}
		}
#pragma unroll
		for (uint32_t n = 0; n < MERGE_BATCH; n++)
			all.add(batch[n]);
	}
	of_warps[warp][lane] = all;
	__syncthreads();
	if (warp || column >= to.head_size)
		return;
	for (uint32_t n = 1; n < warps; n++)
		all.add(of_warps[n][lane]);
	share = all.total == 0 ? 0 : 1 / all.total;
	row_write(to, column,
		{all.sum.x * share, all.sum.y * share, all.sum.z * share, all.sum.w * share});
	if (lane == 0 && to.lse)
		*reinterpret_cast<float *>(to.lse) =
			all.total == 0 ? -INFINITY : all.top + logf(all.total);
}

template <class Args> __device__ static inline row_target row_target_of(const Args &args)
{
	uint32_t head = blockIdx.x, sequence = blockIdx.y;
	uint64_t row = static_cast<uint64_t>(sequence) * args.query_heads + head;
	row_target to = {0, 0, 0, args.head_size, args.dtype};

	if (args.output)
		to.output = args.output + sequence * args.output_stride +
			    static_cast<uint64_t>(head) * args.head_size * 2;
	if (args.part.values) {
		to.values = args.part.values + row * args.head_size * sizeof(float);
		to.lse = args.part.lse + row * sizeof(float);
	}
	return to;
}

extern "C" __global__ void __launch_bounds__(ATTENTION_MERGE_WARPS *WARP)
	attention_gather(const __grid_constant__ attention_gather_args args)
{
	const int32_t *lengths = reinterpret_cast<const int32_t *>(args.lengths);
	uint32_t sequence = blockIdx.y, count = 0;
	uint64_t tiles = line_tiles(lengths, args.sequences), begin = 0, own;
	uint32_t ranges = attention_ranges(tiles, args.ranges);
	slots_of_row parts = {args.slots, 0, args.query_heads, args.head_size};

	own = attention_tiles(lengths[sequence]);
	for (uint32_t n = threadIdx.x % WARP; n < sequence; n += WARP)
		begin += tiles_of(lengths, args.sequences, n);
	for (int distance = 1; distance < WARP; distance *= 2)
		begin += __shfl_xor_sync(ALL_LANES, begin, distance);
	if (own) {
		uint32_t first = attention_range_of(tiles, ranges, begin);

		count = attention_range_of(tiles, ranges, begin + own - 1) - first + 1;
		parts.row = static_cast<uint64_t>(first + sequence) * args.query_heads + blockIdx.x;
	}
	merge(parts, count, row_target_of(args));
}

extern "C" __global__ void __launch_bounds__(ATTENTION_MERGE_WARPS *WARP)
	attention_merge(const __grid_constant__ attention_merge_args args)
{
	parts_of_row parts = {args.parts,
		static_cast<uint64_t>(blockIdx.y) * args.query_heads + blockIdx.x, args.head_size};

	merge(parts, args.count, row_target_of(args));
}
