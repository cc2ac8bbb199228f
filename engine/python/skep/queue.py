# SPDX-License-Identifier: Apache-2.0
"""Queues of completions, and loads, which may complete on one."""
import ctypes
import errno
from typing import Any, List, NamedTuple, Optional

from . import _structs as c
from ._library import lib
from ._memory import Borrowed, address_of, fresh_bytes
from ._time import deadline
from .errors import Error, check, check_passing, reason_text
from .run import REF_BYTES, Pin, Refs, Run, passed_word

EVENTS_MAX = 256
_PREFETCH = 1


class Event(NamedTuple):
    """One completion: user as it was given, status 0 or negative, block as the call says."""

    user: int
    status: int
    block: int


class Queue:
    """A queue of completions with a descriptor to poll (fileno()). Made by Session.queue()."""

    def __init__(self, session: Any):
        out = ctypes.c_void_p()
        check(lib.skep_queue_create(session.enter(), ctypes.byref(out)), "skep_queue_create")
        self.session = session
        self._handle = out.value
        self._events = (c.Event * EVENTS_MAX)()
        # Loads under way: their room for references must stay.
        self.loads = {}

    def enter(self) -> int:
        self.session.enter()
        if self._handle is None:
            raise ValueError("the queue is closed")
        return self._handle

    def fileno(self) -> int:
        """Readable when there is an event. Do not read from it; the queue owns it."""
        return check(lib.skep_queue_fd(self.enter()), "skep_queue_fd")

    def take(self, most: int = EVENTS_MAX) -> List[Event]:
        """The events that are there; never waits."""
        count = check(lib.skep_queue_take(self.enter(), ctypes.byref(self._events),
                                          min(most, EVENTS_MAX)), "skep_queue_take")
        return [Event(event.user, event.status, event.block) for event in self._events[:count]]

    def close(self) -> None:
        """Drops the queue; events not taken are lost, what their loads brought is let go."""
        handle, self._handle = self._handle, None
        self.loads.clear()
        if handle is not None and self.session.usable():
            lib.skep_queue_destroy(handle)

    def __enter__(self) -> "Queue":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __del__(self):
        if getattr(self, "_handle", None) is not None:
            self.session.drop(lib.skep_queue_destroy, self._handle)


class Load:
    """A load on its way (or a prefetch). Made by Session.load_begin() and prefetch()."""

    def __init__(self, session: Any, request: c.Load, refs: bytes, queue: Optional[Queue]):
        self.session = session
        self._request = request
        self._refs = refs
        self._queue = queue

    def end(self) -> Run:
        """The run, once the event has come; exactly once. Before that: Error with -EAGAIN."""
        status = self._end()
        if status == -errno.EAGAIN:
            # The answer of a store with too many loads, if the load has ended by it.
            again = self._end()
            status = status if again == -errno.ENOENT else again
            if again == -errno.EAGAIN:
                raise Error(status, "a load whose event has not come")
        if self._queue is not None:
            self._queue.loads.pop(self._request.handle, None)
        return _loaded(self.session, self._request, self._refs, status)

    def _end(self) -> int:
        return lib.skep_load_end(self.session.enter(), ctypes.byref(self._request))

    def reach(self, ranges: int) -> int:
        """In steps: leading blocks of which the first @ranges ranges (layers) are there."""
        return check_passing(lib.skep_load_reach(self.session.enter(), self._request.handle,
                                                 ranges), "skep_load_reach")

    def copy_into(self, space: Any, buffers: Any, blocks: int, part: int = 0, *,
                  first_range: int = 0, range_count: int = 0) -> int:
        """In steps: ranges of the leading @blocks, copied and verified before these are whole.
        How many were copied, or a negative status: -EAGAIN the first is not there yet, -ESTALE it
        was removed. buffers as of Session.copy()."""
        with Borrowed() as held:
            words, pieces = held.pieces(buffers, blocks, writable=True)
            copy = c.made(c.LoadCopy, space=space.enter(), handle=self._request.handle,
                          count=blocks, part=part, first_range=first_range,
                          range_count=range_count, to=address_of(words), pieces=pieces)
            return check_passing(lib.skep_load_copy(self.session.enter(), ctypes.byref(copy)),
                                 "skep_load_copy")

    def cancel(self) -> None:
        """Asks for no more of it. The event of a load comes at once; then end() as ever."""
        check_passing(lib.skep_load_cancel(self.session.enter(), self._request.handle),
                      "skep_load_cancel")


def _request(chain: Any, first: int, count: int, timeout: Optional[float]) -> tuple:
    room = max(min(count or len(chain), len(chain) - first), 0)
    refs, address = fresh_bytes(room * REF_BYTES)
    request = c.made(c.Load, chain=chain.enter(), first=first, count=count, refs=address,
                     refs_max=room, deadline_ns=deadline(timeout))
    return request, refs


def _loaded(session: Any, request: c.Load, refs: bytes, status: int) -> Run:
    check_passing(status, "skep_load")
    count = request.loaded if status >= 0 else 0
    reason = reason_text(request.reason) if status >= 0 else passed_word(status)
    pin = Pin(session, request.pin) if request.pin.cell else None
    return Run(session, count, reason, Refs(refs[:count * REF_BYTES]), pin)


def load(session: Any, chain: Any, first: int, count: int, timeout: Optional[float]) -> Run:
    """Session.load()."""
    request, refs = _request(chain, first, count, timeout)
    status = lib.skep_load(session.enter(), ctypes.byref(request))
    return _loaded(session, request, refs, status)


def load_begin(session: Any, chain: Any, queue: Queue, user: int, first: int, count: int,
               timeout: Optional[float], step_ranges: int = 0) -> Load:
    """Session.load_begin()."""
    request, refs = _request(chain, first, count, timeout)
    request.queue, request.user, request.step_ranges = queue.enter(), user, step_ranges
    check(lib.skep_load(session.enter(), ctypes.byref(request)), "skep_load")
    begun = Load(session, request, refs, queue)
    queue.loads[request.handle] = begun
    return begun


def prefetch(session: Any, chain: Any, first: int, count: int, timeout: Optional[float]) -> Load:
    """Session.prefetch()."""
    request, refs = _request(chain, first, count, timeout)
    request.flags = _PREFETCH
    check_passing(lib.skep_load(session.enter(), ctypes.byref(request)), "skep_load")
    return Load(session, request, refs, None)
