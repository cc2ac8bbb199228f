# SPDX-License-Identifier: Apache-2.0
"""Deadlines as the library takes them."""
import time
from typing import Optional

FOREVER = 2**64 - 1


def deadline(timeout: Optional[float]) -> int:
    """So many seconds from now; None: never; 0: at once."""
    if timeout is None:
        return FOREVER
    if timeout <= 0:
        return 0
    return min(time.monotonic_ns() + int(timeout * 1e9), FOREVER - 1)
