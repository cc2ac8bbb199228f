/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_HASH_H
#define SKEP_BASE_HASH_H

#ifdef SKEP_HASH_PLAIN
#include "base/hash_plain.h"
#else
/* xxHash compiled in, so that no library of ours carries a symbol or a dependency of it. */
#define XXH_INLINE_ALL
#include <xxhash.h>
#endif

#endif
