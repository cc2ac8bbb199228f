/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bits.h"
#include "kernels/pattern.h"

uint64_t pattern_word(uint64_t seed, uint64_t number)
{
	return mix64(seed ^ number);
}

void pattern_fill_reference(const void *args)
{
	const struct pattern_fill_args *fill = args;
	uint64_t *words = (uint64_t *)(uintptr_t)fill->at;

	for (uint64_t i = 0; i < fill->words; i++)
		words[i] = pattern_word(fill->seed, fill->first + i);
}

void pattern_check_reference(const void *args)
{
	const struct pattern_check_args *check = args;
	const uint64_t *words = (const uint64_t *)(uintptr_t)check->at;
	struct pattern_found *found = (struct pattern_found *)(uintptr_t)check->found;

	for (uint64_t i = 0; i < check->words; i++) {
		if (words[i] == pattern_word(check->seed, check->first + i))
			continue;
		found->wrong_count++;
		found->wrong_first = MIN_OF(found->wrong_first, check->first + i);
	}
}
