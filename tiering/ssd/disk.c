/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/ssd/disk.h"

typedef int skep_disk_not_empty;
