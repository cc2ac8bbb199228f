# SPDX-License-Identifier: Apache-2.0
"""skep.tensors: blocks are saved from an engine's pages and loaded into others, many in one
call."""
import ctypes
import errno
import os
import unittest
from array import array

import skep
from harness import WithDaemon
from skep import tensors

LAYERS, BLOCKS, BLOCK_TOKENS, HEAD_BYTES = 3, 6, 16, 256
PAGE_BYTES = BLOCK_TOKENS * HEAD_BYTES
TENSOR_BYTES = BLOCKS * PAGE_BYTES
PAGES = [3, 0, 5, 1, 4, 2]


class Memory:
    """The tensors of an engine: K and V of each layer, one behind the other."""

    def __init__(self, data):
        self.bytes = bytearray(data)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.bytes))

    def tensors(self, **more):
        return tensors.Tensors(
            layers=LAYERS, block_tokens=BLOCK_TOKENS, heads=1, head_bytes=HEAD_BYTES,
            page_tokens=BLOCK_TOKENS, page_count=BLOCKS, page_stride=PAGE_BYTES,
            token_stride=HEAD_BYTES, head_stride=HEAD_BYTES,
            bases=[self.base + i * TENSOR_BYTES for i in range(2 * LAYERS)], **more)


class Tensors(WithDaemon):
    def setUp(self):
        super().setUp()
        self.ours = Memory(os.urandom(2 * LAYERS * TENSOR_BYTES))
        self.theirs = Memory(bytes(len(self.ours.bytes)))
        part = self.ours.tensors().part()
        self.assertEqual(part, skep.Part(2 * LAYERS * PAGE_BYTES, LAYERS))
        self.kv = self.session.space("kv", [part], BLOCK_TOKENS)
        self.device = tensors.Device(self.session)
        self.addCleanup(self.device.close)
        self.plan = self.device.plan(self.kv, self.ours.tensors())

    def chain(self, first):
        return self.kv.chain(range(first, first + BLOCKS * BLOCK_TOKENS))

    def test_pages_go_there_and_back(self):
        for first, pages in ((0, PAGES), (1000, array("I", PAGES)), (2000, array("q", PAGES))):
            chain = self.chain(first)
            job = self.plan.save(chain, pages, timeout=1)
            self.assertEqual((job.blocks, job.status), (BLOCKS, 0))
            job.done()
            self.assertEqual(job.end(), [0] * BLOCKS)
            self.assertEqual(self.plan.save(chain, pages).end(), [-errno.EEXIST] * BLOCKS)
        refs = self.session.match(chain, pin=False).refs
        into = self.device.plan(self.kv, self.theirs.tensors())
        self.assertEqual(into.load(refs, PAGES).end(), [0] * BLOCKS)
        self.assertEqual(self.theirs.bytes, self.ours.bytes)
        self.assertEqual(self.session.stats().pins, 0)

    def test_parts_pass_through_a_ring_and_are_counted(self):
        nothing = tensors.Device(self.session).stats()
        self.assertEqual(set(nothing.values()), {0})
        for register in (False, True):
            with tensors.Device(self.session, ring_slots=2, register=register) as device:
                chain = self.chain(8000 + register * 1000)
                device.plan(self.kv, self.ours.tensors()).save(chain, PAGES, timeout=1).end()
                refs = self.session.match(chain, pin=False).refs
                into = device.plan(self.kv, self.theirs.tensors())
                self.assertEqual(into.load(refs, PAGES).end(), [0] * BLOCKS)
                self.assertEqual(self.theirs.bytes, self.ours.bytes)
                stats = device.stats()
                self.assertEqual(stats["parts_staged"] + stats["parts_direct"], 2 * BLOCKS)
                self.assertTrue(register or not stats["parts_direct"])
                self.assertEqual(stats["chunks_refused"], 0)
            self.assertRaises(ValueError, device.stats)

    def test_a_session_closes_its_devices_first(self):
        for _ in range(20):
            with skep.Session(self.daemon.socket) as session:
                device = tensors.Device(session, ring_slots=2)
                space = session.space("kv", [self.ours.tensors().part()], BLOCK_TOKENS)
                device.plan(space, self.ours.tensors())
            self.assertIsNone(device.handle)
            device.close()

    def test_orders_are_spaces_of_their_own(self):
        ours = self.ours.tensors(order="token")
        self.assertEqual(ours.part(), skep.Part(2 * LAYERS * PAGE_BYTES, 1))
        space = self.session.space("token", [ours.part(rank=0)], BLOCK_TOKENS)
        chain = space.chain(range(BLOCKS * BLOCK_TOKENS))
        self.device.plan(space, ours).save(chain, PAGES, timeout=1).end()
        into = self.device.plan(space, self.theirs.tensors(order="token"))
        with self.session.match(chain) as run:
            self.assertEqual(into.load(run.refs, PAGES).end(), [0] * BLOCKS)
        self.assertEqual(self.theirs.bytes, self.ours.bytes)

    def test_tables_have_pages_of_their_own(self):
        first, rest = 1, LAYERS - 1
        ours = self.device.plan(self.kv, self.ours.tensors(table_layers=[first, rest]))
        chain, straight = self.chain(6000), list(range(BLOCKS))
        self.assertEqual(ours.save(chain, PAGES + straight, timeout=1).end(), [0] * BLOCKS)
        refs = self.session.match(chain, pin=False).refs
        into = self.device.plan(self.kv, self.theirs.tensors(table_layers=[first, rest]))
        none = [tensors.NO_PAGE] * 2
        self.assertEqual(into.load(refs, PAGES + none + straight[2:]).end(), [0] * BLOCKS)
        past = 2 * first * TENSOR_BYTES
        self.assertEqual(self.theirs.bytes[:past], self.ours.bytes[:past])
        for at in range(past, len(self.ours.bytes), TENSOR_BYTES):
            wanted = at + 2 * PAGE_BYTES
            self.assertEqual(self.theirs.bytes[at:wanted], bytes(2 * PAGE_BYTES))
            self.assertEqual(self.theirs.bytes[wanted:at + TENSOR_BYTES],
                             self.ours.bytes[wanted:at + TENSOR_BYTES])
        with self.refused(-errno.EINVAL):
            ours.save(chain, PAGES + none + straight[2:])
        with self.refused(-errno.EINVAL):
            self.device.plan(self.kv, self.ours.tensors(table_layers=[first, LAYERS]))

    def test_aborted_and_forgotten_jobs(self):
        chain = self.chain(4000)
        job = self.plan.save(chain, PAGES, timeout=1)
        job.abort()
        self.assertEqual(job.end(), [])
        job = self.plan.save(chain, PAGES, timeout=1)
        self.plan.close()
        self.assertEqual((job.end(), job.done()), ([], True))
        self.assertRaises(ValueError, self.plan.save, chain, PAGES)
        self.assertEqual(self.session.match(chain).matched, 0)

    def test_what_cannot_be_is_told(self):
        chain = self.chain(5000)
        job = self.plan.save(chain, PAGES[:3], first=3, timeout=0)
        self.assertEqual((job.blocks, job.status, job.first_missing), (0, skep.EPARENT, 0))
        gone = skep.Refs(b"\x01" * 24 * 2)
        self.assertEqual(self.plan.load(gone, PAGES[:2]).end(), [])
        with self.refused(-errno.EINVAL):
            self.plan.save(chain, [BLOCKS] * BLOCKS)
        with self.refused(-errno.EINVAL):
            self.plan.save(chain, PAGES[:2])
        self.assertRaises(TypeError, self.plan.save, chain, b"pages")
        self.assertRaises(ValueError, self.device.plan, self.kv, tensors.Tensors(
            layers=1, block_tokens=1, heads=1, head_bytes=1))
        with self.refused(-errno.EINVAL):
            tensors.Tensors(layers=0, block_tokens=1, heads=1, head_bytes=1).part()
        self.assertRaises(KeyError, tensors.Device, self.session, "elsewhere")


if __name__ == "__main__":
    unittest.main()
