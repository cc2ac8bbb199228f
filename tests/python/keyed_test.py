#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""skep.Keyed: keys that form no chain, many in one call, over memory and the ssd."""
import errno
import os
import signal
import threading
import time
import unittest
from array import array

import harness
import skep
from skep._memory import Pieces

KEYS = 300


def keys_of(first, count):
    return [(first + i).to_bytes(8, "little") * 4 for i in range(count)]


class WithKeys(harness.WithDaemon):
    def setUp(self):
        super().setUp()
        self.keyed = skep.Keyed(harness.space_of(self.session, "keys", opaque=True))


class Memory(WithKeys):
    def test_what_is_put_is_found_had_and_removed(self):
        keys, data = keys_of(0, KEYS), harness.bytes_of(0, KEYS)
        self.assertEqual(self.keyed.find(keys), [-errno.ENOENT] * KEYS)
        self.assertEqual(self.keyed.put(keys, data, timeout=30), [0] * KEYS)
        self.assertEqual(self.keyed.put(keys, data), [-errno.EEXIST] * KEYS)
        self.assertEqual(self.keyed.find(b"".join(keys), key_bytes=32), [1] * KEYS)
        place = bytearray(len(data))
        self.assertEqual(self.keyed.get(keys, place), [0] * KEYS)
        self.assertEqual(place, data)
        self.assertEqual(self.keyed.remove(keys[::2] + keys_of(1000, 1)),
                         [0] * (KEYS // 2) + [-errno.ENOENT])
        self.assertEqual(self.keyed.find(keys), [-errno.ENOENT, 1] * (KEYS // 2))

    def test_one_that_fails_does_so_alone(self):
        keys, part = keys_of(5000, 4), harness.PART_BYTES
        data = [bytes([i]) * part for i in range(4)]
        data[2] = bytes(part + 4096)
        self.assertEqual(self.keyed.put(keys, data), [0, 0, -errno.EMSGSIZE, 0])
        places = [bytearray(part), bytearray(part - 64), bytearray(part), bytearray(part)]
        self.assertEqual(self.keyed.get(keys, places), [0, -errno.EMSGSIZE, -errno.ENOENT, 0])
        self.assertEqual([place[:1] for place in places], [b"\0", b"\0", b"\0", b"\3"])

    def test_places_may_be_addresses(self):
        keys, part = keys_of(6000, 2), harness.PART_BYTES
        data = array("B", bytes(range(256)) * (2 * part // 256))
        at, half = data.buffer_info()[0], part // 2
        words = array("Q", [at + half, half, at, half, at + part, part, at, 0])
        self.assertEqual(self.keyed.put(keys, Pieces(words, 2)), [0, 0])
        place = bytearray(2 * part)
        self.assertEqual(self.keyed.get(keys, place), [0, 0])
        self.assertEqual(place[:half], data[half:part].tobytes())
        with self.assertRaises(ValueError):
            self.keyed.put(keys, Pieces(words, 3))

    def test_a_daemon_that_answers_late_costs_no_key(self):
        ended = threading.Event()

        def halt():
            while not ended.wait(0.05):
                os.kill(self.daemon.process.pid, signal.SIGSTOP)
                time.sleep(0.2)
                os.kill(self.daemon.process.pid, signal.SIGCONT)
        halting = threading.Thread(target=halt)
        halting.start()
        try:
            for turn in range(5):
                keys = keys_of(10000 * (turn + 1), KEYS)
                put = self.keyed.put(keys, harness.bytes_of(turn, KEYS), timeout=30)
                self.assertEqual(put, [0] * KEYS)
        finally:
            ended.set()
            halting.join()

    def test_what_is_wrong_is_raised(self):
        with self.assertRaises(ValueError):
            self.keyed.find([b"0" * 16, b"0" * 17])
        with self.refused(-errno.EINVAL):
            self.keyed.find([b"0" * 15])
        with self.refused(-errno.EINVAL):
            skep.Keyed(self.space).find(keys_of(0, 1))
        self.assertEqual(self.keyed.find([]), [])

    def test_a_daemon_that_is_away_is_a_status(self):
        keys, data = keys_of(0, 2), harness.bytes_of(0, 2)
        self.daemon.kill()
        harness.until(lambda: not self.session.attached, "the session sees it")
        for statuses in (self.keyed.find(keys), self.keyed.put(keys, data),
                         self.keyed.get(keys, bytearray(data)), self.keyed.remove(keys)):
            self.assertEqual(statuses, [skep.EDOWN] * 2)
        self.daemon.start()


class Ssd(WithKeys):
    flags = ("--dram", "2MiB", "--record-bytes", "64MiB", "--ssd", "{folder}/ssd:256MiB")

    def test_what_went_to_the_ssd_is_had_and_removed(self):
        keys, data = keys_of(0, KEYS), harness.bytes_of(0, KEYS)
        for first in range(0, KEYS, 50):
            some = data[first * harness.PART_BYTES:(first + 50) * harness.PART_BYTES]
            self.assertEqual(self.keyed.put(keys[first:first + 50], some, timeout=30), [0] * 50)
        found = self.keyed.find(keys)
        self.assertGreater(found.count(2), KEYS // 2)
        self.assertEqual(found.count(1) + found.count(2), KEYS)
        place = bytearray(len(data))
        self.assertEqual(self.keyed.get(keys, place, timeout=30), [0] * KEYS)
        self.assertEqual(place, data)
        self.assertEqual(self.keyed.remove(keys, timeout=30), [0] * KEYS)
        self.assertEqual(self.keyed.find(keys), [-errno.ENOENT] * KEYS)


if __name__ == "__main__":
    unittest.main()
