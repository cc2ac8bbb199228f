/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_CUDA_ATTENTION_PREFILL_PTX_CUH
#define SKEP_KERNELS_CUDA_ATTENTION_PREFILL_PTX_CUH

#include <stdint.h>

/*
 * The instructions that prefill attention is made of, one function each; names and operand layouts
 * are those of the PTX manual (sections mma, ldmatrix, cp.async, mbarrier, wgmma). Addresses of
 * shared memory are 32-bit numbers in its window. Nothing here decides anything.
 */
namespace prefill
{

struct bf16 {
	static constexpr bool is_bf16 = true;
};

struct fp16 {
	static constexpr bool is_bf16 = false;
};

__device__ __forceinline__ uint32_t shared_at(const void *memory)
{
	return static_cast<uint32_t>(__cvta_generic_to_shared(memory));
}

/* 16 bytes from global to shared memory, past L1; zeros where @there is false. */
__device__ __forceinline__ void copy16(uint32_t to, uint64_t from, bool there)
{
	asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
		     "r"(there ? 16 : 0)
		     : "memory");
}

__device__ __forceinline__ void copy16(uint32_t to, uint64_t from)
{
	asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from)
		     : "memory");
}

__device__ __forceinline__ void copy_commit(void)
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most @LEFT of this thread's groups are under way. */
template <int LEFT> __device__ __forceinline__ void copy_wait(void)
{
	asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

__device__ __forceinline__ void store16(uint64_t to, uint4 value)
{
	asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(value.x),
		     "r"(value.y), "r"(value.z), "r"(value.w)
		     : "memory");
}

__device__ __forceinline__ void store_float(uint64_t to, float value)
{
	asm volatile("st.global.f32 [%0], %1;" ::"l"(to), "f"(value) : "memory");
}

__device__ __forceinline__ uint4 shared_load16(uint32_t at)
{
	uint4 value;

	asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
		     : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
		     : "r"(at)
		     : "memory");
	return value;
}

__device__ __forceinline__ void shared_store4(uint32_t at, uint32_t value)
{
	asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(value) : "memory");
}

/* Four 8x8 matrices of 16-bit values; lane 8i+j names row j of matrix i. */
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t at)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
		     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
		     : "r"(at)
		     : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], uint32_t at)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
		     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
		     : "r"(at)
		     : "memory");
}

/* sum (16x8) += a (16x16) b (16x8) */
template <class T>
__device__ __forceinline__ void multiply(
	float (&sum)[4], const uint32_t (&a)[4], uint32_t b_low, uint32_t b_high)
{
	if constexpr (T::is_bf16)
		asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3},"
			     " {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
			     : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
			     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
	else
		asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3},"
			     " {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
			     : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
			     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}

/* Two values rounded to nearest even, @low in the lower half. */
template <class T> __device__ __forceinline__ uint32_t pack(float low, float high)
{
	uint32_t packed;

	if constexpr (T::is_bf16)
		asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
	else
		asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
	return packed;
}

/* 2 to the power of @value, to 2 units in the last place; 0 for minus infinity. */
__device__ __forceinline__ float power2(float value)
{
	float power;

	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(value));
	return power;
}

__device__ __forceinline__ float logarithm2(float value)
{
	float logarithm;

	asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(logarithm) : "f"(value));
	return logarithm;
}

__device__ __forceinline__ void barrier_init(uint32_t at, uint32_t arrivals)
{
	asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t at)
{
	asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(at) : "memory");
}

/* Arrives when this thread's copies so far are done: one of the arrivals that are counted. */
__device__ __forceinline__ void barrier_arrive_copied(uint32_t at)
{
	asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(at) : "memory");
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* Waits for the end of the phase whose number has parity @parity. */
__device__ __forceinline__ void barrier_wait(uint32_t at, uint32_t parity)
{
	asm volatile("{\n"
		     ".reg .pred done;\n"
		     "again:\n"
		     "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
		     "@!done bra again;\n"
		     "}\n" ::"r"(at),
		     "r"(parity)
		     : "memory");
}

/*
 * What this thread knows to be written to shared memory by other means, wgmma sees from here on:
 * tensor cores read by another way (the PTX manual's async proxy).
 */
__device__ __forceinline__ void fence_for_tensor_cores(void)
{
	asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

template <int REGISTERS> __device__ __forceinline__ void registers_give(void)
{
	asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <int REGISTERS> __device__ __forceinline__ void registers_take(void)
{
	asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

__device__ __forceinline__ void wgmma_fence(void)
{
	asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit(void)
{
	asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int LEFT> __device__ __forceinline__ void wgmma_wait(void)
{
	asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

/* Keeps the compiler from moving what touches @values over this point: wgmma writes them late. */
template <int COUNT> __device__ __forceinline__ void wgmma_hold(float (&values)[COUNT])
{
#pragma unroll
	for (int i = 0; i < COUNT; i++)
		asm volatile("" : "+f"(values[i])::"memory");
}

template <int COUNT> __device__ __forceinline__ void wgmma_hold(uint32_t (&values)[COUNT])
{
#pragma unroll
	for (int i = 0; i < COUNT; i++)
		asm volatile("" : "+r"(values[i])::"memory");
}

/*
 * sum (64xN, spread over a warpgroup) = or += a (64x16) b (16xN). @add 0 overwrites. a comes from
 * registers, b from shared memory by its descriptor, its inner dimension contiguous or, OUTER, the
 * other one.
 */
#define SUMS(i)                                                                                    \
	"+f"(sum[i]), "+f"(sum[i + 1]), "+f"(sum[i + 2]), "+f"(sum[i + 3]), "+f"(sum[i + 4]),      \
		"+f"(sum[i + 5]), "+f"(sum[i + 6]), "+f"(sum[i + 7])

#define WGMMA_N64(type, transposed)                                                                \
	asm volatile("{\n"                                                                         \
		     ".reg .pred add;\n"                                                           \
		     "setp.ne.b32 add, %37, 0;\n"                                                  \
		     "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type "\n"              \
		     "{%0, %1, %2, %3, %4, %5, %6, %7,\n"                                          \
		     " %8, %9, %10, %11, %12, %13, %14, %15,\n"                                    \
		     " %16, %17, %18, %19, %20, %21, %22, %23,\n"                                  \
		     " %24, %25, %26, %27, %28, %29, %30, %31},\n"                                 \
		     "{%32, %33, %34, %35}, %36, add, 1, 1, " transposed ";\n"                     \
		     "}\n"                                                                         \
		     : SUMS(0), SUMS(8), SUMS(16), SUMS(24)                                        \
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add))

#define WGMMA_N128(type, transposed)                                                               \
	asm volatile(                                                                              \
		"{\n"                                                                              \
		".reg .pred add;\n"                                                                \
		"setp.ne.b32 add, %69, 0;\n"                                                       \
		"wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type "\n"                  \
		"{%0, %1, %2, %3, %4, %5, %6, %7,\n"                                               \
		" %8, %9, %10, %11, %12, %13, %14, %15,\n"                                         \
		" %16, %17, %18, %19, %20, %21, %22, %23,\n"                                       \
		" %24, %25, %26, %27, %28, %29, %30, %31,\n"                                       \
		" %32, %33, %34, %35, %36, %37, %38, %39,\n"                                       \
		" %40, %41, %42, %43, %44, %45, %46, %47,\n"                                       \
		" %48, %49, %50, %51, %52, %53, %54, %55,\n"                                       \
		" %56, %57, %58, %59, %60, %61, %62, %63},\n"                                      \
		"{%64, %65, %66, %67}, %68, add, 1, 1, " transposed ";\n"                          \
		"}\n"                                                                              \
		: SUMS(0), SUMS(8), SUMS(16), SUMS(24), SUMS(32), SUMS(40), SUMS(48), SUMS(56)     \
		: "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add))

template <class T, bool OUTER>
__device__ __forceinline__ void wgmma(float (&sum)[32], const uint32_t *a, uint64_t b, int add)
{
	if constexpr (T::is_bf16 && OUTER)
		WGMMA_N64("bf16", "1");
	else if constexpr (T::is_bf16)
		WGMMA_N64("bf16", "0");
	else if constexpr (OUTER)
		WGMMA_N64("f16", "1");
	else
		WGMMA_N64("f16", "0");
}

template <class T, bool OUTER>
__device__ __forceinline__ void wgmma(float (&sum)[64], const uint32_t *a, uint64_t b, int add)
{
	if constexpr (T::is_bf16 && OUTER)
		WGMMA_N128("bf16", "1");
	else if constexpr (T::is_bf16)
		WGMMA_N128("bf16", "0");
	else if constexpr (OUTER)
		WGMMA_N128("f16", "1");
	else
		WGMMA_N128("f16", "0");
}

#endif

} /* namespace prefill */

#endif
