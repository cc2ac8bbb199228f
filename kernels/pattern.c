/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/pattern.h"

#include <errno.h>

#include "base/bits.h"

static const struct gpu_kernel kernel_fill = {"pattern_fill", pattern_fill_reference};
static const struct gpu_kernel kernel_check = {"pattern_check", pattern_check_reference};

/* As many blocks as are at work at once: each walks the words in steps of the whole grid. */
static struct gpu_grid grid_for(const struct gpu *gpu, uint64_t words)
{
	uint64_t blocks = MIN_OF(divide_up(words, 256), gpu_info(gpu)->processors * 8ull);

	return (struct gpu_grid){.blocks = {(unsigned)blocks}, .threads = 256};
}

int pattern_fill(struct gpu *gpu, struct gpu_stream *stream, const struct pattern_fill_args *args)
{
	const struct gpu_grid grid = grid_for(gpu, args->words);

	if (args->at % sizeof(uint64_t))
		return -EINVAL;
	return gpu_launch(stream, &kernel_fill, &grid, args, sizeof(*args));
}

int pattern_check(struct gpu *gpu, struct gpu_stream *stream, const struct pattern_check_args *args)
{
	const struct gpu_grid grid = grid_for(gpu, args->words);

	if (args->at % sizeof(uint64_t) || args->found % sizeof(uint64_t))
		return -EINVAL;
	return gpu_launch(stream, &kernel_check, &grid, args, sizeof(*args));
}
