/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_HISTOGRAM_H
#define SKEP_BASE_HISTOGRAM_H

#include <stdint.h>

/*
 * Log-linear counts of 64-bit values: eight steps a power of two (12 % wide), no allocation, plain
 * data that may be copied and added. One thread writes; copies are read by others.
 */
enum { HISTOGRAM_STEPS = 8, HISTOGRAM_CELLS = 62 * HISTOGRAM_STEPS };

struct histogram {
	uint64_t count, sum, max;
	uint64_t cells[HISTOGRAM_CELLS];
};

static inline unsigned histogram_cell(uint64_t value)
{
	unsigned power;

	if (value < HISTOGRAM_STEPS)
		return (unsigned)value;
	power = 63u - (unsigned)__builtin_clzll(value); /* at least 3 */
	return (power - 2) * HISTOGRAM_STEPS + (unsigned)((value >> (power - 3)) & 7);
}

/* The smallest value that does not fall into @cell or below. */
static inline uint64_t histogram_bound(unsigned cell)
{
	unsigned power = cell / HISTOGRAM_STEPS + 2;

	if (cell < HISTOGRAM_STEPS)
		return cell + 1;
	return (1ull << power) + ((uint64_t)(cell % HISTOGRAM_STEPS + 1) << (power - 3));
}

static inline void histogram_add(struct histogram *h, uint64_t value)
{
	h->cells[histogram_cell(value)]++;
	h->count++;
	h->sum += value;
	if (value > h->max)
		h->max = value;
}

static inline void histogram_merge(struct histogram *to, const struct histogram *from)
{
	for (unsigned i = 0; i < HISTOGRAM_CELLS; i++)
		to->cells[i] += from->cells[i];
	to->count += from->count;
	to->sum += from->sum;
	if (from->max > to->max)
		to->max = from->max;
}

/* The value below which @share (0 to 1) of the counts lie, interpolated in its cell; 0 if empty. */
static inline double histogram_quantile(const struct histogram *h, double share)
{
	double want = share * (double)h->count, seen = 0;

	for (unsigned i = 0; i < HISTOGRAM_CELLS; i++) {
		double low = i ? (double)histogram_bound(i - 1) : 0;
		double here = (double)h->cells[i];

		if (here > 0 && seen + here >= want) {
			double at = low + ((double)histogram_bound(i) - low) * (want - seen) / here;

			return at < (double)h->max ? at : (double)h->max;
		}
		seen += here;
	}
	return (double)h->max;
}

#endif
