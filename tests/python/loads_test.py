# SPDX-License-Identifier: Apache-2.0
"""What lies on the ssd is loaded: waiting, through a queue, through asyncio, ahead of need; what
else completes on a queue does so there."""
import asyncio
import errno
import select
import time
import unittest

import skep
from harness import BLOCK_TOKENS, PART_BYTES, WAIT_S, WithDaemon, bytes_of, space_of, until
from skep import aio

BLOCKS, STORIES, RANGES = 16, 60, 4


class WithSsd(WithDaemon):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with skep.Session(cls.daemon.socket) as session:
            space = space_of(session)
            for story in range(STORIES):
                put = session.put(cls.chain_of(space, story), bytes_of(story, BLOCKS), timeout=10)
                assert put.statuses == [0] * BLOCKS, put.statuses
            space.sync()
        # The first stories left the pool.
        cls.story = 0

    flags = ("--dram", "4MiB", "--ssd", "{folder}/ssd:192MiB")

    @staticmethod
    def chain_of(space, story):
        return space.chain(range(story * 10000, story * 10000 + BLOCKS * BLOCK_TOKENS))

    def next_story(self):
        """A story that lies on the ssd alone, and its chain."""
        story = type(self).story
        type(self).story += 1
        chain = self.chain_of(self.space, story)
        found = self.session.match(chain)
        self.assertEqual((found.matched, found.stored), (0, BLOCKS))
        return story, chain

    def right(self, run, story):
        with run:
            self.assertEqual((run.count, run.reason), (BLOCKS, "none"))
            self.assertEqual(b"".join(run.views()), bytes_of(story, BLOCKS))

    def event(self, queue):
        """The next event, awaited at the descriptor."""
        self.assertTrue(select.select([queue], [], [], WAIT_S)[0])
        [event] = queue.take()
        return event


class Loads(WithSsd):
    def test_waiting(self):
        story, chain = self.next_story()
        self.right(self.session.load(chain, timeout=10), story)
        story, chain = self.next_story()
        self.right(self.session.get(chain, timeout=10), story)
        self.right(self.session.get(chain, timeout=10), story)

    def test_through_a_queue(self):
        story, chain = self.next_story()
        with self.session.queue() as queue:
            load = self.session.load_begin(chain, queue, user=7, timeout=10)
            self.assertEqual(self.event(queue), (7, 0, 0))
            self.right(load.end(), story)
            self.assertEqual(queue.loads, {})
            with self.refused(-errno.ENOENT) as caught:
                skep.errors.check(load._end(), "again")
            self.assertEqual(caught.exception.name, "ENOENT")

    def test_in_steps(self):
        story, chain = self.next_story()
        layer = PART_BYTES // RANGES
        wanted, got = bytes_of(story, BLOCKS), bytearray(BLOCKS * layer)
        with self.session.queue() as queue:
            load = self.session.load_begin(chain, queue, timeout=10, step_ranges=1)
            for i in range(RANGES):
                until(lambda: load.reach(i + 1) == BLOCKS, f"range {i}")
                self.assertEqual(
                    load.copy_into(self.space, got, BLOCKS, first_range=i, range_count=1), BLOCKS)
                for block in range(BLOCKS):
                    at = block * PART_BYTES + i * layer
                    self.assertEqual(got[block * layer:(block + 1) * layer],
                                     wanted[at:at + layer])
            until(queue.take, "the event")
            self.right(load.end(), story)
            self.assertEqual(load.reach(1), -errno.ENOENT)

    def test_cancelled(self):
        _, chain = self.next_story()
        with self.session.queue() as queue:
            load = self.session.load_begin(chain, queue, user=8, timeout=10)
            load.cancel()
            self.assertEqual(self.event(queue).user, 8)
            run = load.end()
            self.assertLessEqual(run.count, BLOCKS)
            run.release()
        self.assertEqual(self.session.stats().pins, 0)

    def test_a_dropped_queue_lets_go(self):
        _, chain = self.next_story()
        queue = self.session.queue()
        self.session.load_begin(chain, queue, timeout=10)
        queue.close()
        self.assertRaises(ValueError, queue.take)
        until(lambda: self.session.stats().pins == 0, "its load is let go")

    def test_ahead_of_need(self):
        story, chain = self.next_story()
        self.session.prefetch(chain)
        until(lambda: self.session.match(chain, pin=False).matched == BLOCKS, "it is brought in")
        self.right(self.session.match(chain), story)

    def test_durable(self):
        chain, _ = self.put(10**7, 1)
        acknowledged = time.monotonic_ns()
        until(lambda: self.session.durable(acknowledged), "what was put is durable")
        self.assertEqual(self.session.match(chain).matched, 1)


class Queues(WithDaemon):
    def test_commits_and_waits_complete_there(self):
        chain = self.space.chain(range(3 * BLOCK_TOKENS))
        with self.session.queue() as queue:
            frames = self.session.reserve(chain)
            self.assertEqual(self.session.wait(chain, 2, queue=queue, user=1, timeout=10), 0)
            self.assertEqual(frames.commit(sums="mover", queue=queue, user=2),
                             [skep.EPENDING] * 3)
            events = []
            while len(events) < 4:
                self.assertTrue(select.select([queue], [], [], WAIT_S)[0])
                events += queue.take()
            self.assertEqual(sorted(events), [(1, 0, 2), (2, 0, 0), (2, 0, 1), (2, 0, 2)])
            self.assertEqual(queue.take(), [])
        other = [self.session.queue() for _ in range(8)]
        with self.refused(-errno.EMFILE):
            self.session.queue()
        del other


class Async(WithSsd):
    def run_in_loop(self, body):
        async def inside():
            async with aio.Store(self.session) as store:
                return await body(store)
        return asyncio.run(asyncio.wait_for(inside(), WAIT_S))

    def test_loads_side_by_side(self):
        stories = [self.next_story() for _ in range(6)]

        async def body(store):
            return await asyncio.gather(*(store.load(chain, timeout=10) for _, chain in stories))

        runs = self.run_in_loop(body)
        # The pool has no room for all of them pinned at once: what is there is right.
        for (story, _), run in zip(stories, runs):
            with run:
                self.assertEqual(b"".join(run.views()),
                                 bytes_of(story, BLOCKS)[:run.count * PART_BYTES])
        self.assertTrue(any(run.count == BLOCKS for run in runs))

    def test_get(self):
        story, chain = self.next_story()
        self.right(self.run_in_loop(lambda store: store.get(chain, timeout=10)), story)
        self.right(self.run_in_loop(lambda store: store.get(chain, timeout=10)), story)

    def test_a_cancelled_task_leaves_nothing(self):
        _, chain = self.next_story()

        async def body(store):
            task = asyncio.ensure_future(store.load(chain, timeout=10))
            await asyncio.sleep(0)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            for _ in range(100):
                await asyncio.sleep(0.01)
                if not store._queue.loads:
                    return True

        self.assertTrue(self.run_in_loop(body))
        self.assertEqual(self.session.stats().pins, 0)

    def test_one_writes_another_waits(self):
        first = 10**8
        chain = self.space.chain(range(first, first + 2 * BLOCK_TOKENS))

        async def body(store):
            frames = self.session.reserve(chain)
            waiting = asyncio.ensure_future(store.wait(chain, 1, timeout=10))
            for i in frames.reserved():
                frames.buffer(i)[:] = bytes_of(first + i, 1)
            return await store.commit(frames), await waiting, await store.wait(chain, 1)

        self.assertEqual(self.run_in_loop(body), ([0, 0], 0, 0))
        with self.session.match(chain) as run:
            self.assertEqual(run.copy_into(self.space, bytearray(2 * PART_BYTES)),
                             [PART_BYTES] * 2)

    def test_a_put_waits_its_turn(self):
        first = 2 * 10**8
        blocks = 100
        chain = self.space.chain(range(first, first + blocks * BLOCK_TOKENS))
        data, turns = bytes_of(first, blocks), []

        async def body(store):
            async def others():
                while True:
                    turns.append(time.monotonic())
                    await asyncio.sleep(0.001)
            task = asyncio.ensure_future(others())
            put = await store.put(chain, data, timeout=10)
            task.cancel()
            return put

        put = self.run_in_loop(body)
        self.assertEqual((put.count, put.statuses), (blocks, [0] * blocks))
        none = self.space.chain(range(first + 1, first + 1 + 2 * BLOCK_TOKENS))

        async def orphan(store):
            return await store.put(none, bytes(PART_BYTES), first=1, count=1, timeout=0)

        self.assertEqual(self.run_in_loop(orphan).statuses, [skep.EPARENT])

    def test_a_closed_store_cancels(self):
        chain = self.space.chain(range(3 * 10**8, 3 * 10**8 + BLOCK_TOKENS))

        async def body():
            frames = self.session.reserve(chain)
            store = aio.Store(self.session)
            waiting = asyncio.ensure_future(store.wait(chain, 0, timeout=10))
            await asyncio.sleep(0.01)
            store.close()
            store.close()
            with self.assertRaises(asyncio.CancelledError):
                await waiting
            frames.abort()

        asyncio.run(body())


if __name__ == "__main__":
    unittest.main()
