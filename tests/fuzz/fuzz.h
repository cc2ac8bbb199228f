/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_FUZZ_FUZZ_H
#define SKEP_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/*
 * What each NAME_fuzz.c defines: hands @bytes bytes at @data to one parser, as a peer would.
 * Returns 0; a fault shows as a crash, a sanitizer's report or a failed SKEP_CHECK. Never keeps
 * state from one call to the next, so that an input alone repeats what it found.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#endif
