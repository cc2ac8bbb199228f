# SPDX-License-Identifier: Apache-2.0
"""Memory across the border: buffers of Python as addresses, and the pool's bytes as buffers."""
import ctypes
import errno
import weakref
from array import array
from typing import Any, Dict, NamedTuple, Optional, Tuple

from .errors import Error

_ND, _FORMAT, _WRITABLE = 0x8, 0x4, 0x1
# Formats of buffers of integers that lie as this machine's do.
_INTEGERS = frozenset(order + code for order in (b"", b"@", b"=", b"<")
                      for code in (b"I", b"i", b"L", b"l", b"Q", b"q"))
# Where a bytes object has its bytes.
_BYTES_AT = bytes.__basicsize__ - 1


class Memory(NamedTuple):
    """Plain memory by its address: for who has no object that is a buffer. Nobody holds it."""

    address: int
    nbytes: int


class Pieces(NamedTuple):
    """Plain memory of many blocks by its addresses: address and length of each piece in turn, as
    an array of 64-bit words, with @each pieces a block."""

    words: array
    each: int


class _Buffer(ctypes.Structure):
    _fields_ = [("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t),
                ("itemsize", ctypes.c_ssize_t), ("readonly", ctypes.c_int),
                ("ndim", ctypes.c_int), ("format", ctypes.c_char_p),
                ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
                ("suboffsets", ctypes.c_void_p), ("internal", ctypes.c_void_p)]


_get = ctypes.pythonapi.PyObject_GetBuffer
_get.argtypes, _get.restype = (ctypes.py_object, ctypes.c_void_p, ctypes.c_int), ctypes.c_int
_release = ctypes.pythonapi.PyBuffer_Release
_release.argtypes, _release.restype = (ctypes.c_void_p,), None

_fresh = ctypes.pythonapi.PyBytes_FromStringAndSize
_fresh.argtypes, _fresh.restype = (ctypes.c_void_p, ctypes.c_ssize_t), ctypes.py_object


def fresh_bytes(nbytes: int) -> Tuple[bytes, int]:
    """Bytes that a call of the library fills before anybody looks, and their address."""
    # The empty one, and those of one byte, are everybody's.
    data = _fresh(None, nbytes) if nbytes > 1 else bytes(2)
    return data, id(data) + _BYTES_AT


def is_buffer(value: Any) -> bool:
    """One run of bytes, and not a sequence of such?"""
    return not isinstance(value, (list, tuple)) or isinstance(value, Memory)


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "data_ptr")


def _tensor_bytes(value: Any) -> int:
    """The length of a torch tensor of this process, which is no buffer to Python."""
    if value.device.type != "cpu" or not value.is_contiguous():
        raise BufferError("a tensor must be contiguous and lie in this process's memory")
    return value.numel() * value.element_size()


class Borrowed:
    """Buffers held for the time of one call: with Borrowed() as held: held.take(buffer)."""

    def __init__(self):
        self._held = []

    def __enter__(self) -> "Borrowed":
        return self

    def __exit__(self, *_):
        for view in self._held:
            _release(ctypes.byref(view))
        self._held.clear()

    def _view(self, value: Any, flags: int) -> _Buffer:
        view = _Buffer()
        _get(value, ctypes.byref(view), flags)
        self._held.append(view)
        return view

    def take(self, value: Any, writable: bool = False) -> Tuple[int, int]:
        """Address and length of a contiguous buffer, a tensor, or Memory."""
        if isinstance(value, Memory):
            return value
        if _is_tensor(value):
            return value.data_ptr(), _tensor_bytes(value)
        view = self._view(value, _ND | (_WRITABLE if writable else 0))
        return view.buf or 0, view.len

    def integers(self, value: Any, what: str) -> Tuple[int, int, int]:
        """Address, count and width (4 or 8) of integers: of a buffer, or of anything iterable."""
        if isinstance(value, (list, tuple, range)):
            return self._integers_of(value, what)
        if _is_tensor(value):
            nbytes, width = _tensor_bytes(value), value.element_size()
            if value.is_floating_point() or width not in (4, 8):
                raise TypeError(f"{what}: integers of 32 or 64 bits are wanted")
            return value.data_ptr(), nbytes // width, width
        view = self._view(value, _ND | _FORMAT)
        width = view.itemsize
        if view.format not in _INTEGERS or width not in (4, 8):
            raise TypeError(f"{what}: integers of 32 or 64 bits are wanted, not {view.format}")
        return view.buf or 0, view.len // width, width

    def _integers_of(self, values: Any, what: str) -> Tuple[int, int, int]:
        try:
            copied = array("I", values)
        except OverflowError:
            raise Error(-errno.ERANGE, what) from None
        return self.integers(copied, what)

    def narrow(self, value: Any, what: str) -> Tuple[int, int]:
        """Address and count of 32-bit integers; wider ones are copied."""
        address, count, width = self.integers(value, what)
        if width == 8:
            wide = array("Q", ctypes.string_at(address, count * 8))
            address, count, width = self._integers_of(wide, what)
        return address, count

    def keys(self, value: Any, key_bytes: int) -> Tuple[int, int, int]:
        """An engine's keys of one length: a sequence of bytes, or a buffer of keys of @key_bytes
        each. Their address, the bytes of each, how many."""
        if not is_buffer(value):
            key_bytes = len(value[0]) if value else 16
            if any(len(key) != key_bytes for key in value):
                raise ValueError("the keys of one call are of one length")
            value = b"".join(value)
        address, nbytes = self.take(value)
        if not key_bytes or nbytes % key_bytes:
            raise ValueError(f"{nbytes} bytes are no keys of {key_bytes} bytes")
        return address, key_bytes, nbytes // key_bytes

    def pieces(self, value: Any, count: int, writable: bool = False) -> Tuple[array, int]:
        """iovecs of @count blocks, each of as many pieces as the answer says.

        @value: one buffer, cut into equal shares; or a sequence of @count, each a buffer or a
        sequence of buffers.
        """
        if isinstance(value, Pieces):
            if len(value.words) != 2 * count * value.each:
                raise ValueError(f"{len(value.words) // 2} pieces for {count} blocks of "
                                 f"{value.each}")
            return value
        if is_buffer(value):
            return self._shares(value, count, writable), 1
        if len(value) != count:
            raise ValueError(f"{len(value)} buffers for {count} blocks")
        if all(is_buffer(block) for block in value):
            words = array("Q")
            for block in value:
                words.extend(self.take(block, writable))
            return words, 1
        blocks = [[block] if is_buffer(block) else block for block in value]
        most = max(len(block) for block in blocks)
        words = array("Q")
        for block in blocks:
            for piece in block:
                words.extend(self.take(piece, writable))
            words.extend((0, 0) * (most - len(block)))
        return words, max(most, 1)

    def _shares(self, value: Any, count: int, writable: bool) -> array:
        address, nbytes = self.take(value, writable)
        if count and nbytes % count:
            raise ValueError(f"{nbytes} bytes are no equal shares for {count} blocks")
        share = nbytes // count if count else 0
        words = array("Q", bytes(16 * count))
        words[0::2] = array("Q", range(address, address + share * count, share) if share
                            else [address] * count)
        words[1::2] = array("Q", [share]) * count
        return words


def address_of(words: array) -> int:
    return words.buffer_info()[0]


_WINDOWS = {}


def _window_type(nbytes: int):
    """An array of at least so many bytes; a power of two, so that there are few such types."""
    size = 1 << max(nbytes - 1, 1).bit_length()
    if size not in _WINDOWS:
        _WINDOWS[size] = ctypes.c_ubyte * size
    return _WINDOWS[size]


class Lender:
    """Lends memory that is not Python's as memoryviews, and knows while any of them is in use.

    What is lent keeps its owner alive: slices, arrays made of it and all.
    """

    def __init__(self, above: "Optional[Lender]" = None):
        """@above: a lender that is not idle either while this one is not."""
        self._lent: Dict[int, Any] = {}
        self._above = above

    def window(self, owner: Any, address: int, nbytes: int, writable: bool = False) -> memoryview:
        exporter = _window_type(nbytes).from_address(address)
        exporter.owner = owner
        self._lend(exporter)
        view = memoryview(exporter).cast("B")[:nbytes]
        return view if writable else view.toreadonly()

    def _lend(self, exporter: Any) -> None:
        lent, key = self._lent, id(exporter)
        lent[key] = weakref.ref(exporter, lambda _: lent.pop(key, None))
        if self._above is not None:
            self._above._lend(exporter)

    def require_idle(self, what: str) -> None:
        if self._lent:
            raise BufferError(f"{what}: views are still in use; drop them, and what was made of "
                              "them, first")
