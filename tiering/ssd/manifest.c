/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/ssd/manifest.h"

typedef int skep_manifest_not_empty;
