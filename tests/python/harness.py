# SPDX-License-Identifier: Apache-2.0
"""What the tests of the Python package share: a private daemon, spaces, bytes.

$SKEPD, $SKEP_LIBRARY and PYTHONPATH are set by ctest. Each test class has a daemon of its own in a
folder of its own; its log is shown when it does not start.
"""
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
import unittest

import skep

SKEPD = os.environ["SKEPD"]
BLOCK_TOKENS = 16
PART_BYTES = 4 * 4096
WAIT_S = 30


class Daemon:
    """A private skepd."""

    def __init__(self, *flags):
        self.folder = tempfile.mkdtemp(prefix="skep-python-")
        self.socket = os.path.join(self.folder, "socket")
        self.flags = [flag.format(folder=self.folder) for flag in flags]
        self.process = None
        self.start()

    def start(self):
        words = [SKEPD, "--socket", self.socket, "--state-dir", self.folder, "--admin", "off",
                 "--private", "--parent-death", *(self.flags or ("--dram", "64MiB"))]
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self.process = subprocess.Popen(words + ["--ready-fd", str(writer)], stderr=log,
                                            pass_fds=[writer])
        os.close(writer)
        said = os.read(reader, 1)
        os.close(reader)
        if said != b"\0":
            with open(os.path.join(self.folder, "log"), encoding="utf-8") as log:
                raise RuntimeError(f"skepd did not start: {log.read()}")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        self.kill()
        shutil.rmtree(self.folder)


class WithDaemon(unittest.TestCase):
    """Tests of one daemon; each has a session of its own."""

    flags = ()

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(*cls.flags)
        cls.addClassCleanup(cls.daemon.end)

    def setUp(self):
        self.session = skep.Session(self.daemon.socket)
        self.addCleanup(self.session.close)
        self.space = space_of(self.session)

    def put(self, first, blocks):
        """A chain of tokens from @first on, and its bytes, put."""
        chain = self.space.chain(range(first, first + blocks * BLOCK_TOKENS))
        data = bytes_of(first, blocks)
        put = self.session.put(chain, data)
        self.assertEqual(put.statuses, [0] * blocks)
        return chain, data

    @contextlib.contextmanager
    def refused(self, status):
        """skep.Error with that status."""
        with self.assertRaises(skep.Error) as caught:
            yield caught
        self.assertEqual(caught.exception.status, status)


def space_of(session, name="space", **more):
    return session.space(name, [skep.Part(PART_BYTES, ranges=4)], BLOCK_TOKENS, model="m", **more)


def bytes_of(seed, blocks):
    """Bytes that differ from block to block."""
    return b"".join(((seed + i) % (1 << 32)).to_bytes(4, "little") * (PART_BYTES // 4)
                    for i in range(blocks))


def until(condition, what):
    end = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"never: {what}")
        time.sleep(0.005)
