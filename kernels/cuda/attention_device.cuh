/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_CUDA_ATTENTION_DEVICE_CUH
#define SKEP_KERNELS_CUDA_ATTENTION_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/attention_decode.h"

/*
 * The instructions that decode attention is made of (PTX ISA: mma, ldmatrix, movmatrix, cp.async),
 * all of sm_80. Fragments: in an 8x8 matrix of 16-bit elements
 * lane l holds row l / 4, columns 2 * (l % 4) and the next.
 */
__device__ static inline uint32_t shared_at(const void *pointer)
{
	return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ static inline void matrix_load(uint32_t (&to)[4], uint32_t at)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
		     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
		     : "r"(at)
		     : "memory");
}

__device__ static inline void matrix_load_transposed(uint32_t (&to)[4], uint32_t at)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
		     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
		     : "r"(at)
		     : "memory");
}

__device__ static inline uint32_t matrix_transpose(uint32_t fragment)
{
	uint32_t to;

	asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(to) : "r"(fragment));
	return to;
}

struct bf16 {
	__device__ static inline void multiply_add(
		float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
	{
		asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
			     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
			     : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
			     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
	}

	/* @low in the lower half. */
	__device__ static inline uint32_t pack(float low, float high)
	{
		uint32_t to;

		asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(to) : "f"(high), "f"(low));
		return to;
	}
};

struct fp16 {
	__device__ static inline void multiply_add(
		float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
	{
		asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
			     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
			     : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
			     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
	}

	__device__ static inline uint32_t pack(float low, float high)
	{
		uint32_t to;

		asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(to) : "f"(high), "f"(low));
		return to;
	}
};

/* 2 to the power of @x, within 2 units in the last place; 0 for minus infinity. */
__device__ static inline float power_of_two(float x)
{
	float y;

	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

/* NaN where either is. */
__device__ static inline float greater(float a, float b)
{
	float c;

	asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
	return c;
}

/* 16 bytes into shared memory, around L1; the line comes to L2 as a whole. */
__device__ static inline void copy_async_16(uint32_t to, uint64_t from)
{
	asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from)
		     : "memory");
}

__device__ static inline void cache_prefetch(uint64_t at)
{
	asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}

__device__ static inline void copy_async_commit(void)
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most @left of this thread's groups are still on their way. */
template <int left> __device__ static inline void copy_async_wait(void)
{
	asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

#endif
