/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/pattern.h"

/* pattern_word of pattern_reference.c: one step of splitmix64. */
static __device__ uint64_t word(uint64_t seed, uint64_t number)
{
	uint64_t x = (seed ^ number) + 0x9e3779b97f4a7c15u;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

extern "C" __global__ void pattern_fill(const __grid_constant__ struct pattern_fill_args args)
{
	uint64_t *words = reinterpret_cast<uint64_t *>(args.at);
	uint64_t step = static_cast<uint64_t>(gridDim.x) * blockDim.x;

	for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
		i < args.words; i += step)
		words[i] = word(args.seed, args.first + i);
}

extern "C" __global__ void pattern_check(const __grid_constant__ struct pattern_check_args args)
{
	const uint64_t *words = reinterpret_cast<const uint64_t *>(args.at);
	uint64_t step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
	/* The device's own word for 64 bits in atomics is this one, whatever uint64_t is. */
	auto *found = reinterpret_cast<unsigned long long *>(args.found);

	for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
		i < args.words; i += step) {
		if (words[i] == word(args.seed, args.first + i))
			continue;
		atomicAdd(&found[0], 1ull);
		atomicMin(&found[1], static_cast<unsigned long long>(args.first + i));
	}
}
