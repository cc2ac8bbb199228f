/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/ssd/ssd.h"

typedef int skep_ssd_not_empty;
