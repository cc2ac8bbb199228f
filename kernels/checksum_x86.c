/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/checksum_priv.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

#include "base/hash.h"
#include "kernels/checksum.h"

/*
 * The leaf code of checksum_x86_leaf.h three times, for registers of 16, 32 and 64 bytes. Target
 * attributes rather than compiler flags, so that nothing else in this file (or inlined from a
 * header) is built for a processor that may not be there.
 */

/* How far ahead of the loads a copy around the cache asks for its source; measured on Zen 4. */
#define LEAF_AHEAD_BYTES 2048

/* What is done with a leaf; a constant wherever it is handed on, so no code asks for it. */
enum leaf_way { LEAF_SUM, LEAF_COPY, LEAF_BYPASS };

#define LEAF_INLINE static inline __attribute__((always_inline))

#define LEAF_NAME(name)		      name##_sse2
#define LEAF_TARGET		      __attribute__((target("sse2")))
#define VECTOR			      __m128i
#define VECTOR_LOAD(from)	      _mm_loadu_si128((const __m128i *)(from))
#define VECTOR_STORE(to, value)	      _mm_storeu_si128((__m128i *)(to), value)
#define VECTOR_STREAM(to, value)      _mm_stream_si128((__m128i *)(to), value)
#define VECTOR_XOR(a, b)	      _mm_xor_si128(a, b)
#define VECTOR_ADD(a, b)	      _mm_add_epi64(a, b)
#define VECTOR_MULTIPLY(a, b)	      _mm_mul_epu32(a, b)
#define VECTOR_SHIFT_RIGHT(value, by) _mm_srli_epi64(value, by)
#define VECTOR_SHIFT_LEFT(value, by)  _mm_slli_epi64(value, by)
#define VECTOR_SWAP(value)	      _mm_shuffle_epi32(value, _MM_SHUFFLE(1, 0, 3, 2))
#define VECTOR_FILL(word)	      _mm_set1_epi64x(word)
#include "kernels/checksum_x86_leaf.h"

#define LEAF_NAME(name)		      name##_avx2
#define LEAF_TARGET		      __attribute__((target("avx2")))
#define VECTOR			      __m256i
#define VECTOR_LOAD(from)	      _mm256_loadu_si256((const __m256i *)(from))
#define VECTOR_STORE(to, value)	      _mm256_storeu_si256((__m256i *)(to), value)
#define VECTOR_STREAM(to, value)      _mm256_stream_si256((__m256i *)(to), value)
#define VECTOR_XOR(a, b)	      _mm256_xor_si256(a, b)
#define VECTOR_ADD(a, b)	      _mm256_add_epi64(a, b)
#define VECTOR_MULTIPLY(a, b)	      _mm256_mul_epu32(a, b)
#define VECTOR_SHIFT_RIGHT(value, by) _mm256_srli_epi64(value, by)
#define VECTOR_SHIFT_LEFT(value, by)  _mm256_slli_epi64(value, by)
#define VECTOR_SWAP(value)	      _mm256_shuffle_epi32(value, _MM_SHUFFLE(1, 0, 3, 2))
#define VECTOR_FILL(word)	      _mm256_set1_epi64x(word)
#include "kernels/checksum_x86_leaf.h"

#define LEAF_NAME(name)		      name##_avx512
#define LEAF_TARGET		      __attribute__((target("avx512f")))
#define VECTOR			      __m512i
#define VECTOR_LOAD(from)	      _mm512_loadu_si512(from)
#define VECTOR_STORE(to, value)	      _mm512_storeu_si512(to, value)
#define VECTOR_STREAM(to, value)      _mm512_stream_si512((__m512i *)(to), value)
#define VECTOR_XOR(a, b)	      _mm512_xor_si512(a, b)
#define VECTOR_ADD(a, b)	      _mm512_add_epi64(a, b)
#define VECTOR_MULTIPLY(a, b)	      _mm512_mul_epu32(a, b)
#define VECTOR_SHIFT_RIGHT(value, by) _mm512_srli_epi64(value, by)
#define VECTOR_SHIFT_LEFT(value, by)  _mm512_slli_epi64(value, by)
#define VECTOR_SWAP(value)	      _mm512_shuffle_epi32(value, _MM_PERM_BADC)
#define VECTOR_FILL(word)	      _mm512_set1_epi64(word)
#include "kernels/checksum_x86_leaf.h"

static bool supported_sse2(void)
{
	return true;
}

/*
 * Has the processor what @leaf7 (EBX of CPUID leaf 7) names, and does the system save the registers
 * that @saved (XCR0) names? Asked here: not every compiler's run-time has __builtin_cpu_supports().
 */
static bool supported_wide(uint32_t leaf7, uint32_t saved)
{
	uint32_t eax, ebx, ecx, edx, saves;

	if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE))
		return false;
	__asm__ __volatile__("xgetbv" : "=a"(saves), "=d"(edx) : "c"(0));
	return (saves & saved) == saved && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) &&
	       ebx & leaf7;
}

static bool supported_avx2(void)
{
	return supported_wide(bit_AVX2, 0x06); /* xmm, ymm */
}

static bool supported_avx512(void)
{
	return supported_wide(bit_AVX512F, 0xe6); /* and masks, zmm in two halves */
}

#define VARIANT(which)                                                                             \
	const struct checksum_variant checksum_variant_##which = {                                 \
		.name = #which,                                                                    \
		.supported = supported_##which,                                                    \
		.sum = leaves_sum_##which,                                                         \
		.copy = leaves_copy_##which,                                                       \
		.bypass = leaves_bypass_##which,                                                   \
	}

VARIANT(sse2);
VARIANT(avx2);
VARIANT(avx512);

#endif
