# SPDX-License-Identifier: Apache-2.0
"""A session of the Python package against a daemon: bytes go round, a batch is one call, misses are
results, what is wrong is named."""
import errno
import gc
import os
import pickle
import unittest
from array import array
from collections import Counter
from unittest import mock

import skep
from harness import BLOCK_TOKENS, PART_BYTES, WithDaemon, bytes_of, space_of
from skep import _library


class counted:
    """Counts the calls of the library meanwhile."""

    def __enter__(self):
        calls, self._stack = Counter(), []
        for name in _library._CALLS:
            patch = mock.patch.object(_library.lib, name, self._wrap(calls, name))
            patch.start()
            self._stack.append(patch)
        return calls

    @staticmethod
    def _wrap(calls, name):
        function = getattr(_library.lib, name)

        def call(*arguments):
            calls[name] += 1
            return function(*arguments)
        return call

    def __exit__(self, *_):
        for patch in self._stack:
            patch.stop()


class RoundTrip(WithDaemon):
    def test_bytes_come_back(self):
        chain, data = self.put(1000, 20)
        with self.session.match(chain) as run:
            self.assertEqual((run.matched, run.stored, run.reason), (20, 20, "none"))
            self.assertEqual(b"".join(run.views()), data)
            self.assertEqual(run.views()[7], data[7 * PART_BYTES:8 * PART_BYTES])
            out = bytearray(len(data))
            self.assertEqual(run.copy_into(self.space, out), [PART_BYTES] * 20)
            self.assertEqual(out, data)

    def test_ranges_are_copied_alone(self):
        chain, data = self.put(2000, 2)
        out = [bytearray(4096), bytearray(4096)]
        with self.session.match(chain) as run:
            run.copy_into(self.space, out, first_range=1, range_count=1)
        self.assertEqual(out[1], data[PART_BYTES + 4096:PART_BYTES + 8192])

    def test_pieces_make_up_blocks(self):
        data = bytes_of(3000, 3)
        view = memoryview(data)
        chain = self.space.chain(range(3000, 3000 + 3 * BLOCK_TOKENS))
        pieces = [[view[:5000], view[5000:PART_BYTES]], view[PART_BYTES:2 * PART_BYTES],
                  (view[2 * PART_BYTES:-1], view[-1:])]
        self.assertEqual(self.session.put(chain, pieces).statuses, [0, 0, 0])
        out = [bytearray(PART_BYTES), [bytearray(10), bytearray(PART_BYTES - 10)],
               bytearray(PART_BYTES)]
        with self.session.match(chain) as run:
            self.assertEqual(run.copy_into(self.space, out), [PART_BYTES] * 3)
        self.assertEqual(b"".join((out[0], *out[1], out[2])), data)

    def test_many_chains_in_one_match(self):
        first, _ = self.put(4000, 3)
        second = self.space.chain(range(4000, 4000 + 5 * BLOCK_TOKENS))
        other = self.space.chain(range(4900, 4900 + BLOCK_TOKENS))
        found = self.session.match_many([first, second, other], first=[1, 0, 0], count=[0, 2, 0])
        self.assertEqual([each.matched for each in found], [2, 2, 0])
        self.assertEqual([each.reason for each in found], ["none", "none", "absent"])
        self.assertEqual(found[0].refs[0], found[1].refs[1])
        counted_only = self.session.match(second, pin=False, refs=False)
        self.assertEqual((counted_only.matched, len(counted_only.refs)), (3, 0))
        self.assertIsNone(found[2].pin)
        for each in found:
            each.release()
        self.assertEqual(self.session.stats().pins, 0)

    def test_writers_write_themselves(self):
        chain = self.space.chain(range(5000, 5000 + 4 * BLOCK_TOKENS))
        frames = self.session.reserve(chain)
        self.assertEqual(frames.reserved(), [0, 1, 2, 3])
        for i in frames.reserved():
            frames.buffer(i)[:] = bytes([i]) * PART_BYTES
        kept = frames.buffer(0)
        self.assertRaises(BufferError, frames.commit)
        del kept
        self.assertEqual(frames.commit(), [0] * 4)
        self.assertEqual(frames.reserved(), [])
        with self.session.match(chain) as run:
            self.assertEqual([view[0] for view in run.views()], [0, 1, 2, 3])
        again = self.session.reserve(chain)
        self.assertEqual(again.statuses, [-errno.EEXIST] * 4)

    def test_sums_may_be_given(self):
        chain = self.space.chain(range(5500, 5500 + BLOCK_TOKENS))
        data = bytes_of(5500, 1)
        frames = self.session.reserve(chain)
        frames.buffer(0)[:] = data
        shares = [data[i * 4096:(i + 1) * 4096] for i in range(4)]
        self.assertRaises(ValueError, frames.commit, sums="given", given=array("Q", [1]))
        self.assertEqual(frames.commit(sums="given", given=skep.range_sums(shares)), [0])
        with self.session.match(chain) as run:
            self.assertEqual(run.copy_into(self.space, bytearray(PART_BYTES)), [PART_BYTES])

    def test_wrong_sums_are_a_miss(self):
        chain = self.space.chain(range(5700, 5700 + BLOCK_TOKENS))
        frames = self.session.reserve(chain)
        frames.commit(sums="given", given=array("Q", [1, 2, 3, 4]))
        refs = self.session.match(chain, pin=False).refs
        self.assertEqual(self.session.copy(self.space, refs, bytearray(PART_BYTES)),
                         [skep.ECHECKSUM])

    def test_aborted_frames_are_given_back(self):
        chain = self.space.chain(range(6000, 6000 + 2 * BLOCK_TOKENS))
        with self.session.reserve(chain) as frames:
            self.assertEqual(len(frames), 2)
        self.assertEqual(frames.statuses, [-errno.ECANCELED] * 2)
        dropped = self.session.reserve(chain)
        del dropped, frames
        gc.collect()
        self.session.stats()
        self.assertEqual(self.session.put(chain, bytes(2 * PART_BYTES)).statuses, [0, 0])


class OneCall(WithDaemon):
    def test_a_batch_is_one_call(self):
        blocks = 300
        tokens = array("I", range(blocks * BLOCK_TOKENS))
        data = bytes_of(1, blocks)
        out = bytearray(len(data))
        with counted() as calls:
            chain = self.space.chain(tokens)
            self.session.put(chain, data)
            run = self.session.match(chain)
            views = list(run.views())
            results = run.copy_into(self.space, out)
            del views
            run.release()
            self.session.pin(run.refs).release()
            self.session.missing(chain)
            keys = space_of(self.session, "keys", opaque=True).chain()
            keys.append_keys([i.to_bytes(16, "little") for i in range(blocks)])
        self.assertEqual(results, [PART_BYTES] * blocks)
        self.assertEqual(out, data)
        calls.pop("skep_status_text", None)
        self.assertEqual(calls.pop("skep_release"), 2)
        self.assertEqual(calls.pop("skep_chain_create"), 2)
        self.assertEqual(set(calls.values()), {1}, calls)


class Pins(WithDaemon):
    def test_views_hold_their_pin(self):
        chain, data = self.put(100, 4)
        run = self.session.match(chain)
        view = run.views()[2]
        part = view[10:20]
        del view
        self.assertRaises(BufferError, run.release)
        self.assertRaises(BufferError, run.__exit__)
        self.assertTrue(run.pin.held)
        self.assertEqual(part, data[2 * PART_BYTES + 10:2 * PART_BYTES + 20])
        self.assertTrue(part.readonly)
        # Even where everything else was dropped.
        del run
        gc.collect()
        self.assertEqual(self.session.stats().pins, 1)
        self.assertEqual(part, data[2 * PART_BYTES + 10:2 * PART_BYTES + 20])
        del part
        gc.collect()
        self.assertEqual(self.session.stats().pins, 0)

    def test_a_session_with_views_is_not_closed(self):
        chain, data = self.put(200, 2)
        with skep.Session(self.daemon.socket) as reader:
            its = space_of(reader).chain(range(200, 200 + 2 * BLOCK_TOKENS))
            kept = list(reader.match(its).views())
            self.assertRaises(BufferError, reader.close)
            self.assertEqual(b"".join(kept), data)
            del kept
            frames = reader.reserve(space_of(reader).chain(range(9, 9 + BLOCK_TOKENS)))
            kept = frames.buffer(0)[:1]
            self.assertRaises(BufferError, reader.close)
            del kept

    def test_a_ring_of_all_of_it_is_collected(self):
        self.put(1200, 2)
        with mock.patch("sys.unraisablehook") as complaints:
            ring = [skep.Session(self.daemon.socket)]
            chain = space_of(ring[0]).chain(range(1200, 1200 + 2 * BLOCK_TOKENS))
            ring += [ring[0].match(chain), ring]
            ring.append(list(ring[1].views()))
            ring[1].keeps = ring
            del ring, chain
            gc.collect()
        complaints.assert_not_called()
        self.assertEqual(self.session.stats().pins, 0)

    def test_views_end_with_the_pin(self):
        chain, _ = self.put(300, 2)
        run = self.session.match(chain)
        views = run.views()
        run.release()
        self.assertRaises(ValueError, views.__getitem__, 0)
        self.assertRaises(ValueError, run.views)
        self.assertRaises(IndexError, self.session.match(chain).views().__getitem__, 2)
        self.assertRaises(ValueError, self.session.match(chain, pin=False).views)

    def test_dropped_pins_are_released(self):
        chain, _ = self.put(500, 2)
        for _ in range(50):
            self.session.match(chain)
        gc.collect()
        self.assertEqual(self.session.stats().pins, 0)

    def test_references_are_plain_data(self):
        chain, _ = self.put(700, 6)
        with self.session.match(chain) as run:
            refs = run.refs
            self.assertEqual(pickle.loads(pickle.dumps(refs)), refs)
            self.assertEqual(skep.Refs(bytes(refs)), refs)
            self.assertEqual(refs[:2] + refs[2:], refs)
            self.assertEqual(len(refs[-1]), 1)
            with self.session.pin(refs[:3]) as pinned:
                self.assertEqual((pinned.count, pinned.reason), (3, "none"))
            # Not neighbours of one chain: good only so far.
            with self.session.pin(refs[0] + refs[2]) as pinned:
                self.assertEqual((pinned.count, pinned.reason), (1, "absent"))
        self.assertRaises(ValueError, skep.Refs, b"too short")
        self.assertRaises(IndexError, refs.__getitem__, 6)
        self.assertRaises(ValueError, refs.__getitem__, slice(0, 4, 2))


class Misses(WithDaemon):
    flags = ("--dram", "4MiB")

    def test_a_miss_is_a_result(self):
        chain = self.space.chain(range(10**6, 10**6 + BLOCK_TOKENS))
        with self.session.match(chain) as run:
            self.assertEqual((run.matched, run.reason, len(run.refs)), (0, "absent", 0))
            self.assertFalse(run)
        self.assertEqual(self.session.explain(chain).reason, "never_seen")
        self.assertEqual(self.session.missing(chain), [0])
        self.assertEqual(self.session.hint(chain, 0, "open"), -errno.ENOENT)
        self.assertEqual(self.session.wait(chain, 0), -errno.ENOENT)
        self.assertEqual(len(self.session.load(chain)), 0)
        self.assertEqual(len(self.session.get(chain)), 0)

    def test_a_chain_without_its_head_is_told(self):
        chain = self.space.chain(range(50, 50 + 4 * BLOCK_TOKENS))
        put = self.session.put(chain, bytes(2 * PART_BYTES), first=2)
        self.assertEqual((put.count, put.status, put.first_missing), (0, skep.EPARENT, 0))
        frames = self.session.reserve(chain, first=3)
        self.assertEqual((len(frames), frames.status), (0, skep.EPARENT))

    def test_a_full_store_is_told(self):
        pinned = []
        statuses = [0]
        for i in range(200):
            chain = self.space.chain(range(i * 1000, i * 1000 + 4 * BLOCK_TOKENS))
            statuses = self.session.put(chain, bytes(4 * PART_BYTES), timeout=0).statuses
            pinned.append(self.session.match(chain))
            if statuses[-1]:
                break
        self.assertEqual(statuses[-1], -errno.EAGAIN)
        frames = self.session.reserve(self.space.chain(range(9, 9 + BLOCK_TOKENS)), timeout=0.01)
        self.assertEqual(frames.status, -errno.EAGAIN)
        for run in pinned:
            run.release()
        self.assertEqual(self.session.put(chain, bytes(4 * PART_BYTES)).statuses[-1], 0)

    def test_one_of_many_fails_alone(self):
        chain = self.space.chain(range(77, 77 + 3 * BLOCK_TOKENS))
        self.session.put(chain, bytes_of(7, 3))
        refs = self.session.match(chain, pin=False).refs
        stale = skep.Refs(bytes(refs[1])[:8] + b"\x01" * 8 + bytes(refs[1])[16:])
        out = [bytearray(PART_BYTES), bytearray(PART_BYTES), bytearray(5)]
        self.assertEqual(self.session.copy(self.space, refs[0] + stale + refs[2], out),
                         [PART_BYTES, -errno.ESTALE, -errno.EMSGSIZE])

    def test_second_writers_are_told(self):
        chain = self.space.chain(range(88, 88 + BLOCK_TOKENS))
        frames = self.session.reserve(chain)
        self.assertEqual(self.session.put(chain, bytes(PART_BYTES)).statuses, [skep.EPENDING])
        self.assertEqual(self.session.match(chain).reason, "pending")
        self.assertEqual(self.session.wait(chain, 0, timeout=0.05), -errno.ETIMEDOUT)
        frames.abort()


class Spaces(WithDaemon):
    def test_the_field_that_differs_is_named(self):
        with self.refused(skep.EDIFFERS) as caught:
            self.session.space("space", [skep.Part(PART_BYTES, ranges=4)], 32, model="m")
        self.assertEqual(caught.exception.field, "block_tokens")
        self.assertIn("block_tokens", str(caught.exception))
        self.assertEqual(caught.exception.name, "EDIFFERS")
        with self.refused(-errno.EINVAL) as caught:
            self.session.space("other", [skep.Part(PART_BYTES, ranges=4), (10, 3)], 32)
        self.assertTrue(caught.exception.field.startswith("parts[1]"))
        self.assertRaises(ValueError, self.session.space, "a\0b", [skep.Part(1)], 16)

    def test_a_stepped_space_begins_anew(self):
        chain, data = self.put(1, 2)
        self.assertEqual(self.space.step(), 2)
        self.assertEqual(self.session.match(chain).matched, 0)
        self.assertEqual(self.session.put(chain, data).count, 2)
        self.assertEqual(self.space.purge(), 2)
        with self.refused(-errno.ENOTSUP):
            self.space.sync()
        self.assertEqual(self.session.match(chain).matched, 0)

    def test_keys_name_blocks(self):
        space = space_of(self.session, "keys", opaque=True)
        chain = space.chain()
        keys = [bytes([i]) * 32 for i in range(6)]
        self.assertEqual(chain.append_keys(keys[:3]), 3)
        self.assertEqual(chain.append_keys(b"".join(keys[3:]), key_bytes=32,
                                           tokens=array("q", range(3 * BLOCK_TOKENS))), 6)
        sizes = [PART_BYTES] * 4 + [400, 8]
        data = [bytes([i]) * size for i, size in enumerate(sizes)]
        self.assertEqual(self.session.put(chain, data).statuses, [0] * 6)
        with self.session.match(chain) as run:
            self.assertEqual([bytes(view) for view in run.views()], data)
        self.assertRaises(ValueError, chain.append_keys, [b"a" * 16, b"b" * 17])
        self.assertRaises(ValueError, chain.append_keys, b"a" * 33, key_bytes=32)
        self.assertRaises(ValueError, chain.append_keys, keys[:2], tokens=[1, 2, 3])
        with self.refused(-errno.EINVAL):
            chain.append_keys([b"a" * 15])
        self.assertEqual(chain.append_keys([]), 6)
        with self.refused(-errno.EINVAL):
            chain.append([1])

    def test_closed_is_closed(self):
        chain, _ = self.put(9, 1)
        self.space.close()
        self.assertRaises(ValueError, self.session.match, chain)
        self.assertRaises(ValueError, self.space.chain)
        chain.close()
        other = space_of(self.session)
        chain = other.chain([1] * BLOCK_TOKENS)
        self.session.close()
        self.assertRaises(ValueError, self.session.match, chain)
        self.assertRaises(ValueError, chain.append, [1])
        del chain, other
        gc.collect()

    def test_finalizers_go_in_any_order(self):
        for _ in range(20):
            ring = [space_of(self.session, "ring")]
            ring.append([ring[0].chain([1] * BLOCK_TOKENS) for _ in range(5)])
            ring.append(ring)
        del ring
        gc.collect()
        self.assertTrue(self.session.attached)


class Malformed(WithDaemon):
    def test_what_is_wrong_is_raised(self):
        chain, data = self.put(11, 2)
        with self.refused(-errno.EINVAL):
            self.session.match(chain, first=3)
        with self.refused(-errno.ERANGE):
            self.session.put(chain, bytes(PART_BYTES), first=2, count=1)
        with self.refused(-errno.ERANGE):
            self.session.put(chain, data, part=1)
        with self.refused(-errno.ERANGE):
            self.session.match(chain).views(part=1)
        with self.refused(-errno.ERANGE):
            chain.id(2)
        with self.refused(-errno.ENOENT):
            skep.Session(os.path.join(self.daemon.folder, "nobody"), timeout=0.05)
        with self.refused(-errno.EACCES):
            skep.Session(self.daemon.socket, realm="another", token="wrong")
        self.assertRaises(ValueError, self.session.put, chain, bytes(3), count=2)
        self.assertRaises(ValueError, self.session.put, chain, [data], count=2)
        self.assertEqual(self.session.put(chain, [b"short", b"short"]).statuses,
                         [-errno.EMSGSIZE] * 2)
        self.assertRaises(KeyError, self.session.hint, chain, 0, "never")
        self.assertRaises(ValueError, chain.truncate, -1)
        with self.session.match(chain) as run:
            self.assertRaises((BufferError, TypeError), run.copy_into, self.space, data)

    def test_readonly_sessions_only_read(self):
        chain, data = self.put(23, 2)
        with skep.Session(self.daemon.socket, readonly=True, name="reader") as reader:
            its = space_of(reader).chain(range(23, 23 + 2 * BLOCK_TOKENS))
            with reader.match(its) as run:
                self.assertEqual(b"".join(run.views()), data)
            with self.refused(-errno.EROFS):
                reader.put(its, data)
        self.assertEqual(self.session.match(chain).matched, 2)


if __name__ == "__main__":
    unittest.main()
