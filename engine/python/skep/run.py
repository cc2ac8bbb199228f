# SPDX-License-Identifier: Apache-2.0
"""Runs of blocks that are there: references, pins, the bytes where they lie."""
import ctypes
import errno
from array import array
from typing import Any, Iterator, List, Optional, Union

from . import _structs as c
from ._library import lib
from ._memory import Lender, address_of
from .errors import EDOWN, check_passing, status_name

REF_BYTES = ctypes.sizeof(c.Ref)

# Words for what a call came to as a whole, beside those of reason_text().
_PASSED = {EDOWN: "daemon_down", -errno.EMFILE: "pins", -errno.ETIMEDOUT: "deadline",
           -errno.EAGAIN: "busy", -errno.ECANCELED: "cancelled"}


def passed_word(status: int) -> str:
    return _PASSED.get(status) or status_name(status)


class Refs:
    """References to blocks in the pool: plain data, which another process of the realm can pin.

    bytes(refs), pickle and Refs(data) carry them; slices are Refs.
    """

    __slots__ = ("data",)

    def __init__(self, data: Any = b""):
        self.data = bytes(data)
        if len(self.data) % REF_BYTES:
            raise ValueError(f"{len(self.data)} bytes are no references of {REF_BYTES} bytes")

    def __len__(self) -> int:
        return len(self.data) // REF_BYTES

    def __bytes__(self) -> bytes:
        return self.data

    def __getitem__(self, index: Union[int, slice]) -> "Refs":
        first, last, step = (index if isinstance(index, slice) else
                             slice(index, index + 1 or None)).indices(len(self))
        if step != 1:
            raise ValueError("references are taken in a run")
        if not isinstance(index, slice) and first >= last:
            raise IndexError(index)
        return Refs(self.data[first * REF_BYTES:last * REF_BYTES])

    def __add__(self, other: "Refs") -> "Refs":
        return Refs(self.data + other.data)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Refs) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.data)

    def __reduce__(self):
        return Refs, (self.data,)

    def __repr__(self) -> str:
        return f"<{len(self)} references>"


class Pin:
    """A counted promise that the bytes of a run stay put."""

    def __init__(self, session: Any, pin: c.Pin):
        self.session = session
        self._pin = pin
        self._lender = Lender(session.lender)

    @property
    def held(self) -> bool:
        return self._pin.cell != 0

    def release(self) -> None:
        """Ends the pin. BufferError while views of the run are in use."""
        if self.held and self.session.usable():
            self._lender.require_idle("pin")
            lib.skep_release(self.session.enter(), ctypes.byref(self._pin))
        self._pin.cell = 0

    def window(self, address: int, nbytes: int) -> memoryview:
        if not self.held or not self.session.usable():
            raise ValueError("the pin was released")
        return self._lender.window(self, address, nbytes)

    def __del__(self):
        # What was lent keeps the pin: whoever comes here has no views left.
        if self._pin.cell:
            self.session.drop(release_pin, self.session.handle, self._pin)


def release_pin(handle: int, pin: c.Pin) -> None:
    lib.skep_release(handle, ctypes.byref(pin))


class Views:
    """The bytes of one part of a run, block by block, where they lie: read-only memoryviews.

    Whatever is made of a view (a slice, an array) must be dropped before the pin is released.
    """

    def __init__(self, pin: Pin, words: array):
        self._pin = pin
        self._words = words
        starts = words[0::2]
        self._low = min(starts, default=0)
        self._bytes = max((start + length for start, length in zip(starts, words[1::2])),
                          default=0) - self._low

    def __len__(self) -> int:
        return len(self._words) // 2

    def _cut(self, window: memoryview, index: int) -> memoryview:
        at = self._words[2 * index] - self._low
        return window[at:at + self._words[2 * index + 1]]

    def __getitem__(self, index: int) -> memoryview:
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError("no such block in the run")
        return self._cut(self._pin.window(self._low, self._bytes), index)

    def __iter__(self) -> Iterator[memoryview]:
        window = self._pin.window(self._low, self._bytes) if len(self) else None
        for index in range(len(self)):
            yield self._cut(window, index)

    def address(self, index: int) -> int:
        """Where a block's bytes lie, for who copies by address; good while the pin is held."""
        return self._words[2 * index]


class Run:
    """Leading blocks that are there now. Release it, or use it in `with`.

    count: how many; reason: why it is not all that was asked for ("none": it is all); refs: of
    the blocks; pin: what holds them, or None.
    """

    def __init__(self, session: Any, count: int, reason: str, refs: Refs, pin: Optional[Pin]):
        self.session = session
        self.count = count
        self.reason = reason
        self.refs = refs
        self.pin = pin

    @classmethod
    def none(cls, session: Any, status: int) -> "Run":
        """No block, as the store cannot serve it now."""
        return cls(session, 0, passed_word(status), Refs(), None)

    def __len__(self) -> int:
        return self.count

    def __bool__(self) -> bool:
        return self.count > 0

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_) -> None:
        self.release()

    def release(self) -> None:
        """Ends the pin. BufferError while views of the run are in use."""
        if self.pin is not None:
            self.pin.release()

    def better(self, other: "Run") -> "Run":
        """The longer of two runs of one chain; the other is released."""
        longer, shorter = (other, self) if other.count >= self.count else (self, other)
        shorter.release()
        return longer

    def views(self, part: int = 0) -> Views:
        """A part of every block where it lies: no copy, no check of the bytes."""
        count = len(self.refs)
        words = array("Q", bytes(16 * count))
        if self.pin is None or not self.pin.held:
            raise ValueError("views are of a pinned run")
        if count:
            found = check_passing(
                lib.skep_views(self.session.enter(), part, self.refs.data, address_of(words),
                               count), "skep_views")
            del words[2 * max(found, 0):]
        return Views(self.pin, words)

    def copy_into(self, space: Any, buffers: Any, part: int = 0, **ranges: int) -> List[int]:
        """Session.copy() of this run."""
        return self.session.copy(space, self.refs, buffers, part, **ranges)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.count} blocks, then: {self.reason}>"


class Match(Run):
    """What a match found. matched: blocks that can be had now; stored: those that some tier holds,
    the matched ones among them: what lies behind waits on the ssd, and load() brings it."""

    def __init__(self, session: Any, matched: int, stored: int, reason: str, refs: Refs,
                 pin: Optional[Pin]):
        super().__init__(session, matched, reason, refs, pin)
        self.stored = stored

    @property
    def matched(self) -> int:
        return self.count
