# SPDX-License-Identifier: Apache-2.0
"""Blocks named by an engine's own keys that form no chain: each is a chain of one."""
import ctypes
from array import array
from typing import Any, List, Optional

from . import _structs as c
from ._library import lib
from ._memory import Borrowed, address_of
from ._time import deadline
from .errors import check_passing
from .space import Space

HERE, STORED = 1, 2


class Keyed:
    """Many keys a call, in any order; one that fails does so alone.

    Of a space that is opaque. keys: a sequence of bytes, all of one length (16 to 64), or a buffer
    of keys of @key_bytes each. Each call answers the status of each key.
    """

    def __init__(self, space: Space):
        self.space = space

    def find(self, keys: Any, *, key_bytes: int = 0) -> List[int]:
        """HERE, STORED (on the ssd), -ENOENT, EPENDING, EDOWN. Never waits."""
        return self._run("skep_keyed_find", keys, key_bytes)

    def get(self, keys: Any, buffers: Any, *, key_bytes: int = 0, part: int = 0,
            timeout: Optional[float] = 1.0) -> List[int]:
        """Copies blocks out and verifies them on the way: 0, -ENOENT, EPENDING, -EMSGSIZE (another
        length than its buffer's, which is as before), ECHECKSUM, …. buffers as in
        Session.copy()."""
        return self._run("skep_keyed_get", keys, key_bytes, buffers, part, timeout, True)

    def put(self, keys: Any, buffers: Any, *, key_bytes: int = 0, part: int = 0,
            timeout: Optional[float] = 1.0) -> List[int]:
        """Puts blocks from memory: 0, -EEXIST, EPENDING, -EMSGSIZE (no length of a part), …."""
        return self._run("skep_keyed_put", keys, key_bytes, buffers, part, timeout)

    def remove(self, keys: Any, *, key_bytes: int = 0,
               timeout: Optional[float] = 1.0) -> List[int]:
        """Takes blocks out by name: 0, or -ENOENT there was none."""
        return self._run("skep_keyed_remove", keys, key_bytes, None, 0, timeout)

    def _run(self, call: str, keys: Any, key_bytes: int, buffers: Any = None, part: int = 0,
             timeout: Optional[float] = 0, writable: bool = False) -> List[int]:
        with Borrowed() as held:
            address, key_bytes, count = held.keys(keys, key_bytes)
            statuses = array("i", bytes(4 * count))
            job = c.made(c.Keyed, space=self.space.enter(), keys=address, key_bytes=key_bytes,
                         count=count, part=part, statuses=address_of(statuses),
                         deadline_ns=deadline(timeout))
            if buffers is not None:
                words, job.pieces = held.pieces(buffers, count, writable)
                job.bytes = address_of(words)
            check_passing(getattr(lib, call)(ctypes.byref(job)), call)
        return statuses.tolist()
