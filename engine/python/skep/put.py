# SPDX-License-Identifier: Apache-2.0
"""Putting blocks: from buffers in one call, or by writing into reserved frames."""
import ctypes
from array import array
from typing import Any, List, Optional, Sequence

from . import _structs as c
from ._library import lib
from ._memory import Borrowed, Lender, address_of
from ._time import deadline
from .errors import check_passing

SUMS = {"here": 0, "given": 1, "mover": 2}


class Put:
    """How a put went. count: blocks put; statuses: of each block: 0 put, -EEXIST there already,
    EPENDING another writer writes it, else why not; status: 0, or why nothing was put or had;
    first_missing: where a status is EPARENT, the block from which the chain must be put."""

    __slots__ = ("count", "status", "statuses", "first_missing")

    def __init__(self, result: int, statuses: List[int], first_missing: int):
        self.count = max(result, 0)
        self.status = min(result, 0)
        self.statuses = statuses
        self.first_missing = first_missing

    def __repr__(self) -> str:
        return f"<put {self.count} of {len(self.statuses)} blocks>"


def put(session: Any, chain: Any, buffers: Any, first: int, count: int, part: int,
        timeout: Optional[float]) -> Put:
    """Session.put()."""
    statuses = array("i", bytes(4 * count))
    with Borrowed() as held:
        words, pieces = held.pieces(buffers, count)
        request = c.made(
            c.Put, chain=chain.enter(), first=first, count=count, part=part, pieces=pieces,
            from_=address_of(words), statuses=address_of(statuses),
            deadline_ns=deadline(timeout))
        result = check_passing(lib.skep_put(session.enter(), ctypes.byref(request)), "skep_put")
    return Put(result, statuses.tolist(), request.first_missing)


class Frames:
    """Reserved frames, to be written and then committed or aborted. Made by Session.reserve().

    len() of them are answered, each with its status: 0 reserved, -EEXIST, EPENDING; status is why
    none is (EPARENT: first_missing says from where the chain must be put).
    """

    def __init__(self, session: Any, room: Any, result: int, first_missing: int):
        self.session = session
        self._frames = room
        self._lender = Lender(session.lender)
        self.status = min(result, 0)
        self.count = max(result, 0)
        self.first_missing = first_missing

    def __len__(self) -> int:
        return self.count

    @property
    def statuses(self) -> List[int]:
        return [self._frames[i].status for i in range(self.count)]

    @property
    def blocks(self) -> List[int]:
        """Index in the chain of each."""
        return [self._frames[i].block for i in range(self.count)]

    def reserved(self) -> List[int]:
        """Indices of the frames that are to be written."""
        return [i for i in range(self.count) if self._open(i)]

    def _open(self, index: int) -> bool:
        return self._frames[index].status == 0 and bool(self._frames[index].bytes)

    def buffer(self, index: int) -> memoryview:
        """Where to write a frame. It must be dropped before the commit."""
        if not 0 <= index < self.count or not self._open(index):
            raise ValueError("that frame is not reserved")
        frame = self._frames[index]
        return self._lender.window(self, frame.bytes, frame.length, writable=True)

    def address(self, index: int) -> int:
        return self._frames[index].bytes or 0

    def commit(self, *, sums: str = "here", given: Any = None, queue: Any = None, user: int = 0,
               timeout: Optional[float] = 2.0) -> List[int]:
        """The bytes are in place: makes the blocks visible. The status of each frame.

        sums: who computes the checksums: "here", "given" (a buffer of 64-bit range sums, of each
        frame in turn), "mover" (a thread of the daemon). With a queue one event a reserved frame
        comes there with @user, its index as block; statuses are EPENDING then.
        """
        self._lender.require_idle("frames")
        handle = self.session.enter()
        with Borrowed() as held:
            how = c.made(c.Commit, sums=SUMS[sums], user=user, deadline_ns=deadline(timeout),
                         queue=queue.enter() if queue is not None else None)
            if given is not None:
                how.given, nbytes = held.take(given)
                ranges = sum(self._frames[i].ranges for i in range(self.count))
                if nbytes != 8 * ranges:
                    raise ValueError(f"{nbytes} bytes of sums, {8 * ranges} are wanted")
            self.status = min(0, check_passing(lib.skep_commit(
                handle, ctypes.byref(self._frames), self.count, ctypes.byref(how)),
                "skep_commit"))
        return self.statuses

    def abort(self) -> None:
        """Gives reserved frames back unwritten."""
        self._lender.require_idle("frames")
        check_passing(lib.skep_abort(self.session.enter(), ctypes.byref(self._frames),
                                     self.count), "skep_abort")

    def __enter__(self) -> "Frames":
        return self

    def __exit__(self, *_) -> None:
        if self.session.usable():
            self.abort()

    def __del__(self):
        if getattr(self, "count", 0):
            self.session.drop(abort_frames, self.session.handle, self._frames, self.count)


def abort_frames(handle: int, frames: Any, count: int) -> None:
    lib.skep_abort(handle, ctypes.byref(frames), count)


def reserve(session: Any, chain: Any, first: int, count: int, part: int, length: int,
            timeout: Optional[float]) -> Frames:
    """Session.reserve()."""
    room = (c.Frame * count)()
    request = c.made(c.Reserve, chain=chain.enter(), first=first, count=count, part=part,
                     length=length, deadline_ns=deadline(timeout))
    result = check_passing(lib.skep_reserve(
        session.enter(), ctypes.byref(request), ctypes.byref(room)), "skep_reserve")
    return Frames(session, room, result, request.first_missing)


def range_sums(buffers: Sequence[Any]) -> array:
    """The range sum of each buffer, for commit(sums="given")."""
    with Borrowed() as held:
        return array("Q", [lib.skep_range_sum(*held.take(each)) for each in buffers])
