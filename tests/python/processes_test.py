# SPDX-License-Identifier: Apache-2.0
"""The package over processes: references travel, a child of fork() has no session of its parent,
and a daemon that is killed costs misses."""
import errno
import gc
import multiprocessing
import os
import subprocess
import sys
import unittest

import skep
from harness import BLOCK_TOKENS, PART_BYTES, WithDaemon, bytes_of, space_of, until

BLOCKS = 6


def worker(socket, orders, answers):
    """Pins what it is sent and answers with the bytes; then says that it let go."""
    with skep.Session(socket, name="worker") as session:
        with session.pin(orders.get()) as run:
            answers.put((run.count, b"".join(run.views())))
            orders.get()
        answers.put(session.stats().pins)


class References(WithDaemon):
    def test_a_worker_reads_what_a_scheduler_matched(self):
        chain, data = self.put(100, BLOCKS)
        context = multiprocessing.get_context("spawn")
        orders, answers = context.Queue(), context.Queue()
        process = context.Process(target=worker, args=(self.daemon.socket, orders, answers))
        process.start()
        with self.session.match(chain) as run:
            orders.put(run.refs)
            count, had = answers.get(timeout=30)
        self.assertEqual((count, had), (BLOCKS, data))
        self.assertEqual(self.session.stats().pins, 1)
        orders.put(None)
        self.assertEqual(answers.get(timeout=30), 0)
        process.join(30)
        self.assertEqual(process.exitcode, 0)


def refusals(session, space, chain, run, queue):
    """What calls on handles of the parent come to, in a child of fork()."""
    calls = (lambda: session.match(chain), lambda: session.put(chain, bytes(PART_BYTES), count=1),
             session.stats, lambda: session.pin(run.refs), lambda: chain.append([1]),
             lambda: chain.truncate(0), lambda: space.chain(), lambda: space.purge(),
             queue.take, queue.fileno, lambda: session.attached, lambda: run.views(),
             lambda: session.missing(chain), lambda: session.queue())
    for call in calls:
        try:
            call()
        except skep.Error as error:
            yield error.status
        except ValueError:
            yield 0


class Fork(WithDaemon):
    def child(self, function):
        """The exit code of a child of fork() that runs a function."""
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(function())
            except BaseException:  # no test framework in the child
                sys.excepthook(*sys.exc_info())
                os._exit(99)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def test_a_child_is_refused_and_touches_nothing(self):
        chain, data = self.put(200, BLOCKS)
        run, queue = self.session.match(chain), self.session.queue()
        pinned = [run.views()[0]]

        def refused():
            statuses = list(refusals(self.session, self.space, chain, run, queue))
            if set(statuses) != {-errno.EOWNERDEAD}:
                print(statuses)
                return 1
            return 0

        def finalised():
            nonlocal chain, run, queue
            run.release()
            queue.close()
            chain.close()
            self.space.close()
            self.session.close()
            del chain, run, queue
            gc.collect()
            return 0

        def own():
            with skep.Session(self.daemon.socket) as session:
                mine = space_of(session).chain(range(200, 200 + BLOCKS * BLOCK_TOKENS))
                with session.match(mine) as found:
                    return 0 if b"".join(found.views()) == data else 1

        for function in (refused, finalised, own):
            self.assertEqual(self.child(function), 0, function.__name__)
        # The parent's went through it unharmed.
        until(lambda: self.session.stats().sessions == 1, "the child's session is gone")
        self.assertEqual(self.session.stats().pins, 1)
        self.assertEqual(b"".join(run.views()), data)
        pinned.clear()
        run.release()
        self.assertEqual(self.session.stats().pins, 0)


class Killed(WithDaemon):
    def setUp(self):
        # The daemon of the test before was killed, or was not.
        if self.daemon.process.poll() is not None:
            self.daemon.start()
        super().setUp()

    def test_a_killed_daemon_costs_misses(self):
        chain, data = self.put(300, BLOCKS)
        run = self.session.match(chain)
        views, queue = run.views(), self.session.queue()
        fd = queue.fileno()
        self.daemon.kill()
        until(lambda: not self.session.attached, "the end of the daemon is seen")
        miss = self.session.match(chain)
        self.assertEqual((miss.matched, miss.reason), (0, "daemon_down"))
        put = self.session.put(chain, data, timeout=0.01)
        self.assertEqual((put.count, put.status), (0, skep.EDOWN))
        self.assertEqual(self.session.reserve(chain).status, skep.EDOWN)
        self.assertEqual(self.session.load(chain).reason, "daemon_down")
        self.assertEqual(self.session.pin(run.refs).count, 0)
        self.assertEqual(self.session.wait(chain, 0, timeout=0.01), skep.EDOWN)
        self.assertEqual(self.session.hint(chain, 0, "done"), skep.EDOWN)
        for call in (self.session.stats, lambda: self.session.missing(chain),
                     lambda: self.session.explain(chain), self.space.purge, self.space.step):
            with self.refused(skep.EDOWN):
                call()
        # What was handed out stays right.
        self.assertEqual(b"".join(views), data)
        self.daemon.start()
        until(lambda: self.session.attached, "the session reconnects")
        self.assertEqual(b"".join(views), data)
        run.release()
        until(lambda: self.session.put(chain, data).count == BLOCKS, "the blocks are put again")
        self.assertEqual(self.session.match(chain).matched, BLOCKS)
        self.assertEqual(queue.fileno(), fd)

    def test_frames_of_a_killed_daemon(self):
        chain = self.space.chain(range(400, 400 + 2 * BLOCK_TOKENS))
        frames = self.session.reserve(chain)
        buffer = frames.buffer(0)
        self.daemon.kill()
        until(lambda: not self.session.attached, "the end of the daemon is seen")
        buffer[:] = bytes_of(0, 1)
        del buffer
        self.assertEqual(frames.commit(), [skep.EDOWN] * 2)
        self.assertEqual(frames.status, skep.EDOWN)

    def test_a_session_may_come_first(self):
        self.daemon.kill()
        with skep.Session(self.daemon.socket, wait=False) as session:
            self.assertFalse(session.attached)
            with self.refused(skep.EDOWN):
                space_of(session)
            self.daemon.start()
            until(lambda: session.attached, "the session connects")
            space_of(session)


class Exits(WithDaemon):
    def test_a_process_may_end_with_all_of_it_open(self):
        program = ("import skep, sys\n"
                   "session = skep.Session(sys.argv[1])\n"
                   "space = session.space('s', [skep.Part(4096)], 16)\n"
                   "chain = space.chain(range(32))\n"
                   "session.put(chain, bytes(8192))\n"
                   "run = session.match(chain)\n"
                   "views = list(run.views())\n"
                   "frames = session.reserve(space.chain(range(9, 25)))\n"
                   "queue = session.queue()\n")
        done = subprocess.run([sys.executable, "-B", "-X", "dev", "-c", program,
                               self.daemon.socket], capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        until(lambda: self.session.stats().sessions == 1, "its session is gone")
        self.assertEqual(self.session.stats().pins, 0)

    def test_it_needs_the_standard_library_alone(self):
        program = ("import skep, skep.aio, skep.tensors, sys\n"
                   "print(sorted({name.split('.')[0] for name in sys.modules}\n"
                   "             - set(sys.stdlib_module_names)))\n")
        done = subprocess.run([sys.executable, "-B", "-S", "-c", program], capture_output=True,
                              text=True, check=True)
        self.assertEqual(eval(done.stdout), ["__main__", "skep"]
                         if "__main__" in done.stdout else ["skep"])


if __name__ == "__main__":
    unittest.main()
