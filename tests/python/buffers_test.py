# SPDX-License-Identifier: Apache-2.0
"""Tokens and bytes come in buffers of every kind, and what is none is refused."""
import ctypes
import errno
import mmap
import struct
import unittest
from array import array

import skep
from harness import BLOCK_TOKENS, PART_BYTES, WithDaemon, bytes_of

try:
    import numpy
except ImportError:
    numpy = None

NO_NUMPY = "numpy is not installed: its arrays are not tried"
TOKENS = list(range(70000, 70000 + 3 * BLOCK_TOKENS))


class FakeTensor:
    """As much of a torch tensor as the package asks of."""

    def __init__(self, data, width, kind="cpu", contiguous=True, floating=False):
        self._data, self._width, self._contiguous = array("B", bytes(data)), width, contiguous
        self._floating = floating
        self.device = type("device", (), {"type": kind})()

    def data_ptr(self):
        return self._data.buffer_info()[0]

    def element_size(self):
        return self._width

    def numel(self):
        return len(self._data) // self._width

    def is_contiguous(self):
        return self._contiguous

    def is_floating_point(self):
        return self._floating


class Tokens(WithDaemon):
    def same(self, tokens):
        expected = self.space.chain(TOKENS)
        chain = self.space.chain(tokens)
        self.assertEqual(len(chain), 3)
        self.assertEqual(chain.id(2), expected.id(2))

    def test_every_kind_of_tokens(self):
        for code in "IiLlQq":
            with self.subTest(code=code):
                words = array(code, TOKENS)
                self.same(words)
                self.same(memoryview(words))
                self.same(memoryview(words.tobytes()).cast(code))
                self.same(memoryview(words)[:])
        self.same(TOKENS)
        self.same(tuple(TOKENS))
        self.same(range(TOKENS[0], TOKENS[-1] + 1))
        self.same((ctypes.c_uint32 * len(TOKENS))(*TOKENS))
        self.same((ctypes.c_int64 * len(TOKENS))(*TOKENS))

    def test_tensors(self):
        self.same(FakeTensor(array("q", TOKENS), 8))
        self.same(FakeTensor(array("i", TOKENS), 4))
        data = array("q", TOKENS)
        for wrong, error in ((FakeTensor(data, 8, kind="cuda"), BufferError),
                             (FakeTensor(data, 8, contiguous=False), BufferError),
                             (FakeTensor(data, 2), TypeError),
                             (FakeTensor(data, 8, floating=True), TypeError)):
            self.assertRaises(error, self.space.chain, wrong)

    @unittest.skipIf(numpy is None, NO_NUMPY)
    def test_numpy_tokens(self):
        for kind in ("uint32", "int32", "uint64", "int64"):
            self.same(numpy.array(TOKENS, dtype=kind))
        readonly = numpy.array(TOKENS)
        readonly.flags.writeable = False
        self.same(readonly)
        self.same(numpy.array(TOKENS).reshape(3, BLOCK_TOKENS))
        self.assertRaises(ValueError, self.space.chain, numpy.array(TOKENS)[::2])
        for kind in ("int16", "float32", "float64"):
            self.assertRaises(TypeError, self.space.chain, numpy.array([1], dtype=kind))

    def test_pieces_are_the_whole(self):
        chain = self.space.chain()
        words = memoryview(array("q", TOKENS))
        for at in range(0, len(TOKENS), 7):
            chain.append(words[at:at + 7])
        self.assertEqual(chain.id(2), self.space.chain(TOKENS).id(2))
        chain.append(array("I"))
        chain.append([])
        self.assertEqual(len(chain), 3)
        chain.truncate(1)
        chain.extra(b"lora")
        chain.append(words[BLOCK_TOKENS:])
        self.assertNotEqual(chain.id(2), self.space.chain(TOKENS).id(2))

    def test_what_is_no_token_is_refused(self):
        chain = self.space.chain()
        for wrong in (b"bytes", bytearray(8), array("d", [1.0]), array("H", [1]), ["a"], [1.5],
                      object(), 7, memoryview(struct.pack(">i", 1))):
            self.assertRaises(TypeError, chain.append, wrong)
        for wrong in ([-1], [1 << 32], array("q", [-1]), array("Q", [1, 1 << 32])):
            with self.refused(-errno.ERANGE):
                chain.append(wrong)
        self.assertRaises(BufferError, chain.append, memoryview(array("I", TOKENS))[::2])
        self.assertEqual(chain.append(TOKENS), 3)
        self.assertEqual(chain.id(2), self.space.chain(TOKENS).id(2))


class Bytes(WithDaemon):
    def buffers(self, data):
        anonymous = mmap.mmap(-1, len(data))
        anonymous[:] = data
        yield data
        yield bytearray(data)
        yield memoryview(data)
        yield array("Q", data)
        yield (ctypes.c_ubyte * len(data)).from_buffer_copy(data)
        yield anonymous
        yield FakeTensor(data, 2, floating=True)
        held = array("B", data)
        yield skep.Memory(held.buffer_info()[0], len(held))
        if numpy is not None:
            yield numpy.frombuffer(data, dtype="float16").reshape(2, -1)

    def test_every_kind_of_bytes(self):
        data = bytes_of(9, 2)
        for i, buffer in enumerate(self.buffers(data)):
            chain = self.space.chain(range(i * 1000, i * 1000 + 2 * BLOCK_TOKENS))
            self.assertEqual(self.session.put(chain, buffer).statuses, [0, 0])
            with self.session.match(chain) as run:
                self.assertEqual(b"".join(run.views()), data)

    def test_every_kind_of_room(self):
        data = bytes_of(33, 2)
        chain = self.space.chain(range(33, 33 + 2 * BLOCK_TOKENS))
        self.session.put(chain, data)
        rooms = [bytearray(len(data)), array("I", bytes(len(data))), mmap.mmap(-1, len(data)),
                 (ctypes.c_ubyte * len(data))()]
        with self.session.match(chain) as run:
            for room in rooms:
                self.assertEqual(run.copy_into(self.space, room), [PART_BYTES] * 2)
                self.assertEqual(bytes(room), data)
            tensor = FakeTensor(bytes(len(data)), 2)
            run.copy_into(self.space, tensor)
            self.assertEqual(tensor._data.tobytes(), data)
            for wrong in (data, memoryview(data), 7, FakeTensor(data, 2, kind="cuda")):
                self.assertRaises((BufferError, TypeError), run.copy_into, self.space, wrong)

    @unittest.skipIf(numpy is None, NO_NUMPY)
    def test_numpy_over_views(self):
        data = bytes_of(44, 2)
        chain = self.space.chain(range(44, 44 + 2 * BLOCK_TOKENS))
        self.session.put(chain, numpy.frombuffer(data, dtype="uint8"))
        run = self.session.match(chain)
        words = numpy.frombuffer(run.views()[1], dtype="uint32")
        self.assertTrue((words == 45).all())
        self.assertFalse(words.flags.writeable)
        part = words[5:9].reshape(2, 2)
        del words
        self.assertRaises(BufferError, run.release)
        del part
        run.release()


if __name__ == "__main__":
    unittest.main()
