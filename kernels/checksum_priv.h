/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_CHECKSUM_PRIV_H
#define SKEP_KERNELS_CHECKSUM_PRIV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHECKSUM_BYPASS_ALIGN 64

/* @count whole leaves, and where their copy goes, if there is one. */
struct leaf_run {
	const unsigned char *from;
	unsigned char *to;
	size_t count;
};

/* Works on a run and writes its leaf sums, numbers of this host, to @sums. */
typedef void leaves_work(const struct leaf_run *run, uint64_t *sums);

/*
 * One set of leaf code; all give the same sums. @sum does not look at the run's @to. @bypass wants
 * @to on a CHECKSUM_BYPASS_ALIGN boundary and ends with a store fence; a variant that has no such
 * stores leaves it NULL.
 */
struct checksum_variant {
	const char *name;
	bool (*supported)(void);
	leaves_work *sum, *copy, *bypass;
};

#if defined(__x86_64__)
extern const struct checksum_variant checksum_variant_sse2;
extern const struct checksum_variant checksum_variant_avx2;
extern const struct checksum_variant checksum_variant_avx512;
#endif

/* All that were compiled, best first; ends with NULL. */
extern const struct checksum_variant *const checksum_variants[];

/* Makes @variant, which must be supported, the one that runs. For tests and measurements. */
void checksum_variant_use(const struct checksum_variant *variant);

#endif
