# SPDX-License-Identifier: Apache-2.0
"""Sessions: everything begins with one."""
import ctypes
import struct
import time
from array import array
from collections import deque
from dataclasses import dataclass, fields
from typing import Any, Callable, List, Optional, Sequence

from . import _structs as c
from . import put as _put
from . import queue as _queue
from ._library import lib
from ._memory import Borrowed, Lender, address_of, fresh_bytes
from ._time import deadline
from .errors import Process, check, check_passing, raise_forked, reason_text
from .run import REF_BYTES, Match, Pin, Refs, Run, passed_word
from .space import Chain, Part, Space, text

_READONLY, _NO_WAIT = 1, 2
_PIN, _PEEK = 1, 2
_ANY_PART = 2**32 - 1
_HINTS = {"open": 1, "done": 2}
# struct skep_copy in one go: a copy a block is made for each call.
_COPY = struct.Struct("@nP24sIIIPI0n")


@dataclass(frozen=True)
class Stats:
    """What the realm holds and did since the daemon started; struct skep_stats says of what."""

    dram_bytes: int
    dram_bytes_used: int
    blocks: int
    blocks_pending: int
    tokens_asked: int
    tokens_had: int
    puts: int
    puts_refused: int
    evicted: int
    pins: int
    sessions: int
    checksum_failures: int


@dataclass(frozen=True)
class Explanation:
    """Why a chain is matched no further; struct skep_explanation says when each is set."""

    matched: int
    reason: str
    seconds_ago: float
    space: str
    field: str


class Session:
    """A session with the daemon beside this process. One thread at a time; open one a thread.

    where: path of the daemon's socket, "unix:PATH", or None = $SKEP_SOCKET, else the usual place.
    wait=False: return although no daemon is there yet; the session connects by itself.
    timeout: seconds, here as everywhere: None waits without end, 0 not at all.
    """

    def __init__(self, where: Optional[str] = None, *, realm: Optional[str] = None,
                 token: Optional[str] = None, readonly: bool = False, wait: bool = True,
                 name: Optional[str] = None, timeout: Optional[float] = 5.0):
        self.handle: Optional[int] = None
        self._process = Process.number
        self._dropped: deque = deque()
        self._closers: List[Callable] = []
        self.lender = Lender()
        options = c.made(
            c.OpenOptions, realm=text(realm), token=text(token), name=text(name),
            flags=(_READONLY if readonly else 0) | (0 if wait else _NO_WAIT),
            deadline_ns=deadline(timeout) or time.monotonic_ns())
        out = ctypes.c_void_p()
        check(lib.skep_open(text(where), ctypes.byref(options), ctypes.byref(out)),
              f"session with {where or 'the daemon'}")
        self.handle = out.value

    # ---- life

    def usable(self) -> bool:
        """Open, and of this process?"""
        return self.handle is not None and Process.number == self._process

    def enter(self) -> int:
        """The way into each call."""
        if self.handle is None:
            raise ValueError("the session is closed")
        if Process.number != self._process:
            raise_forked()
        while self._dropped:
            function, arguments = self._dropped.popleft()
            function(*arguments)
        return self.handle

    def drop(self, function: Callable, *arguments: Any) -> None:
        """From a finalizer, which may run in any thread: done by the next call of the session's
        own. In a child of fork(), and after the session, there is nothing to do."""
        if self.usable():
            self._dropped.append((function, arguments))

    def close_first(self, function: Callable) -> None:
        """What has a thread of its own over the session is closed before it, by @function."""
        self._closers.append(function)

    def closed(self, function: Callable) -> None:
        """That was done."""
        if function in self._closers:
            self._closers.remove(function)

    @property
    def attached(self) -> bool:
        """Is the daemon there now?"""
        return check(lib.skep_attached(self.enter()), "skep_attached") == 1

    def close(self) -> None:
        """Ends the session, its spaces, chains, queues and pins. BufferError while views of a run,
        or buffers of frames, are in use."""
        if self.usable():
            self.lender.require_idle("session")
        self._end()

    def _end(self) -> None:
        if self.usable():
            # What was dropped goes with the session.
            self._dropped.clear()
            while self._closers:
                self._closers.pop()()
            lib.skep_close(self.handle)
        self.handle = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __del__(self):
        # All that was made of it holds it: nothing of it is in use.
        if getattr(self, "handle", None) is not None:
            self._end()

    # ---- names

    def space(self, name: str, parts: Sequence[Part], block_tokens: int, **fields_: Any) -> Space:
        """Opens a space, making it if it is new: model, weights, rope, layout, engine (texts),
        ranks, groups, opaque. Where one of that name differs, Error.field says in what."""
        return Space(self, name, parts, block_tokens, **fields_)

    # ---- getting

    def match(self, chain: Chain, *, first: int = 0, count: int = 0, pin: bool = True,
              refs: bool = True) -> Match:
        """The longest run of a chain that can be had now; pin=False peeks: the references are
        hints, and nothing is counted. refs=False: how many is all that is asked for. A miss is a
        match of 0 blocks."""
        return self.match_many((chain,), first=first, count=count, pin=pin, refs=refs)[0]

    def match_many(self, chains: Sequence[Chain], *, first: Any = 0, count: Any = 0,
                   pin: bool = True, refs: bool = True) -> List[Match]:
        """match() of many chains in one call; first and count may be a sequence, one a chain."""
        handle, many = self.enter(), len(chains)
        firsts = [first] * many if isinstance(first, int) else first
        counts = [count] * many if isinstance(count, int) else count
        requests, rooms = (c.Match * many)(), []
        for i, (chain, request) in enumerate(zip(chains, requests)):
            rest = max(len(chain) - firsts[i], 0)
            room = 0 if not refs else min(counts[i], rest) if counts[i] else rest
            data, address = fresh_bytes(room * REF_BYTES)
            rooms.append(data)
            request.__init__(ctypes.sizeof(c.Match), chain.enter(), firsts[i], counts[i],
                             _PIN if pin else _PEEK, room, address)
        check(lib.skep_match(handle, ctypes.byref(requests), many), "skep_match")
        return [self._match(request, data) for request, data in zip(requests, rooms)]

    def _match(self, request: c.Match, refs: bytes) -> Match:
        pin = Pin(self, request.pin) if request.pin.cell else None
        return Match(self, request.matched, request.stored, reason_text(request.reason),
                     Refs(refs[:min(request.matched, request.refs_max) * REF_BYTES]), pin)

    def pin(self, refs: Refs) -> Run:
        """Pins references that another process of the realm matched: how many of them, from the
        first on, are good."""
        made = c.Pin()
        count = check_passing(lib.skep_pin_refs(self.enter(), refs.data, len(refs),
                                                ctypes.byref(made)), "skep_pin_refs")
        reason = "none" if count == len(refs) else "absent" if count >= 0 else passed_word(count)
        count = max(count, 0)
        return Run(self, count, reason, refs[:count], Pin(self, made) if made.cell else None)

    def get(self, chain: Chain, *, first: int = 0, count: int = 0,
            timeout: Optional[float] = 1.0) -> Run:
        """match(), and load() where more is stored than lies in memory."""
        found = self.match(chain, first=first, count=count)
        if found.stored == found.matched:
            return found
        loaded = self.load(chain, first=first, count=found.stored, timeout=timeout)
        return found.better(loaded)

    def load(self, chain: Chain, *, first: int = 0, count: int = 0,
             timeout: Optional[float] = 1.0) -> Run:
        """Brings what a match found on the ssd into memory, and pins the whole run. Waits; what
        is there by then is the answer. A realm without an ssd loads nothing: match first."""
        return _queue.load(self, chain, first, count, timeout)

    def load_begin(self, chain: Chain, queue: _queue.Queue, *, user: int = 0, first: int = 0,
                   count: int = 0, timeout: Optional[float] = 1.0,
                   step_ranges: int = 0) -> _queue.Load:
        """load() that completes on a queue, with @user; then Load.end() gives the run.
        step_ranges: bring so many ranges (layers) of all blocks at a time; Load.reach() tells
        how far it is, and Load.copy_into() gives ranges of blocks that are not whole."""
        return _queue.load_begin(self, chain, queue, user, first, count, timeout, step_ranges)

    def prefetch(self, chain: Chain, *, first: int = 0, count: int = 0,
                 timeout: Optional[float] = 10.0) -> _queue.Load:
        """A hint: begins to bring the run in, pins nothing."""
        return _queue.prefetch(self, chain, first, count, timeout)

    def copy(self, space: Space, refs: Refs, buffers: Any, part: int = 0, *, first_range: int = 0,
             range_count: int = 0) -> List[int]:
        """Copies a part of each block out and verifies it on the way, in one call. Of each the
        bytes copied, or the negative status of why not: ECHECKSUM, -ESTALE, -EMSGSIZE.

        buffers: one writable buffer for all, cut into equal shares; or one a block, each a buffer
        or a sequence of buffers.
        """
        handle, count = self.enter(), len(refs)
        results = array("q", bytes(8 * count))
        if not count:
            return []
        with Borrowed() as held:
            words, pieces = held.pieces(buffers, count, writable=True)
            copies = bytearray(_COPY.size * count)
            place, in_space = address_of(words), space.enter()
            for i in range(count):
                _COPY.pack_into(copies, i * _COPY.size, _COPY.size, in_space,
                                refs.data[i * REF_BYTES:(i + 1) * REF_BYTES], part, first_range,
                                range_count, place + i * pieces * 16, pieces)
            lent = ctypes.c_char.from_buffer(copies)
            check(lib.skep_copies(handle, ctypes.addressof(lent), address_of(results), count),
                  "skep_copies")
        for result in results:
            if result < 0:
                check_passing(result, "skep_copies")
        return results.tolist()

    # ---- putting

    def put(self, chain: Chain, buffers: Any, *, first: int = 0, count: Optional[int] = None,
            part: int = 0, timeout: Optional[float] = 1.0) -> _put.Put:
        """Puts a part of blocks [first, first + count) from memory, in one call. buffers as in
        copy(); count: where None, as many as buffers are given, or to the chain's end."""
        if count is None:
            count = len(buffers) if isinstance(buffers, list) else len(chain) - first
        return _put.put(self, chain, buffers, first, count, part, timeout)

    def reserve(self, chain: Chain, *, first: int = 0, count: Optional[int] = None, part: int = 0,
                length: int = 0, timeout: Optional[float] = 1.0) -> _put.Frames:
        """Frames of the pool, for who writes there himself; for a leading part of what is asked."""
        count = len(chain) - first if count is None else count
        return _put.reserve(self, chain, first, count, part, length, timeout)

    def missing(self, chain: Chain, *, first: int = 0, part: Optional[int] = None) -> List[int]:
        """The blocks that the store lacks and nobody is writing; part: those that lack it."""
        room = max(len(chain) - first, 1)
        blocks = array("I", bytes(4 * room))
        count = check(lib.skep_missing(self.enter(), chain.enter(), first,
                                       _ANY_PART if part is None else part, address_of(blocks),
                                       room), "skep_missing")
        return blocks[:count].tolist()

    def wait(self, chain: Chain, block: int, *, timeout: Optional[float] = 1.0,
             queue: Optional[_queue.Queue] = None, user: int = 0) -> int:
        """Waits for a block that another writer is writing: 0 it is there; EGIVENUP, -ENOENT,
        -ETIMEDOUT, EDOWN, -EAGAIN. With a queue: one event comes there, where 0."""
        request = c.made(c.Wait, chain=chain.enter(), block=block, user=user,
                         queue=queue.enter() if queue is not None else None,
                         deadline_ns=deadline(timeout))
        return check_passing(lib.skep_wait(self.enter(), ctypes.byref(request)), "skep_wait")

    # ---- hints and insight

    def hint(self, chain: Chain, block: int, kind: str) -> int:
        """What to expect of a chain up to a block: "open" it goes on, "done" it will not come
        back. 0, -ENOENT, -EAGAIN, EDOWN."""
        return check_passing(lib.skep_hint(self.enter(), chain.enter(), block, _HINTS[kind]),
                             "skep_hint")

    def explain(self, chain: Chain, *, timeout: Optional[float] = 1.0) -> Explanation:
        """Why is this chain matched no further?"""
        out = c.made(c.Explanation)
        check(lib.skep_explain(self.enter(), chain.enter(), deadline(timeout),
                               ctypes.byref(out)), "skep_explain")
        return Explanation(out.matched, reason_text(out.reason), out.seconds_ago,
                           out.space.decode(), out.field.decode())

    def stats(self, *, timeout: Optional[float] = 1.0) -> Stats:
        """The realm's counters."""
        out = c.made(c.Stats)
        check(lib.skep_stats(self.enter(), deadline(timeout), ctypes.byref(out)), "skep_stats")
        return Stats(*(getattr(out, field.name) for field in fields(Stats)))

    def durable(self, at_ns: int) -> bool:
        """Does all that could be had at time.monotonic_ns() == at_ns survive the daemon's end?
        Error with -ESTALE: the daemon of that moment has ended; EDOWN."""
        return check(lib.skep_durable(self.enter(), at_ns), "skep_durable") == 1

    def queue(self) -> _queue.Queue:
        """A queue of completions."""
        return _queue.Queue(self)
