# SPDX-License-Identifier: Apache-2.0
"""skep for asyncio: what waits for the daemon is awaited, over the descriptor of a queue.

    async with skep.aio.Store(session) as store:
        run = await store.load(chain, timeout=0.5)

One loop, one thread, one Store a session. Calls that never wait (match, copy, missing, hint) stay
the session's own. What times out is a result here as there, and a task that is cancelled leaves
nothing behind.
"""
import asyncio
import errno
import itertools
import time
from typing import Any, Callable, Dict, List, Optional

from .errors import EPENDING, Error, check_passing
from .put import Frames, Put
from .queue import Event, Load
from .run import Run
from .session import Session

# A store that is full or has too much to do is asked again after so many seconds.
_AGAIN_S, _AGAIN_S_MAX = 0.001, 0.05


class _Pause:
    """Waits longer each time, up to the deadline."""

    def __init__(self, timeout: Optional[float]):
        self._end = None if timeout is None else time.monotonic() + timeout
        self._step = _AGAIN_S

    def left(self) -> Optional[float]:
        return None if self._end is None else max(self._end - time.monotonic(), 0)

    async def pass_by(self) -> bool:
        """False: the deadline has passed."""
        left = self.left()
        if left is not None and left <= 0:
            return False
        await asyncio.sleep(self._step if left is None else min(self._step, left))
        self._step = min(2 * self._step, _AGAIN_S_MAX)
        return True


class Store:
    """The waiting calls of a session, as coroutines."""

    def __init__(self, session: Session):
        self.session = session
        self._queue = session.queue()
        self._fd = self._queue.fileno()
        self._loop = asyncio.get_running_loop()
        self._users = itertools.count(1)
        self._waiting: Dict[int, Callable[[Event], None]] = {}
        self._loop.add_reader(self._fd, self._ready)

    async def __aenter__(self) -> "Store":
        return self

    async def __aexit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Drops the queue: what is still awaited is cancelled."""
        if self._queue is None:
            return
        self._loop.remove_reader(self._fd)
        self._queue.close()
        self._queue = None
        waiting, self._waiting = self._waiting, {}
        for got in waiting.values():
            got(Event(0, -errno.ECANCELED, 0))

    def _ready(self) -> None:
        for event in self._queue.take():
            got = self._waiting.get(event.user)
            if got is not None:
                got(event)

    async def _begin(self, begin: Callable[[int], Any], pause: _Pause) -> Any:
        """Submits, again where there is no room now."""
        while True:
            try:
                return begin(next(self._users))
            except Error as error:
                if error.status != -errno.EAGAIN or not await pause.pass_by():
                    raise

    def _one(self, user: int) -> "asyncio.Future[Event]":
        """The future of one event."""
        future = self._loop.create_future()

        def got(event: Event) -> None:
            self._waiting.pop(user, None)
            if event.status == -errno.ECANCELED and self._queue is None:
                future.cancel()
            elif not future.done():
                future.set_result(event)

        self._waiting[user] = got
        return future

    async def get(self, chain: Any, *, first: int = 0, count: int = 0,
                  timeout: Optional[float] = 1.0) -> Run:
        """Session.get()."""
        found = self.session.match(chain, first=first, count=count)
        if found.stored == found.matched:
            return found
        try:
            loaded = await self.load(chain, first=first, count=found.stored, timeout=timeout)
        except BaseException:
            found.release()
            raise
        return found.better(loaded)

    async def load(self, chain: Any, *, first: int = 0, count: int = 0,
                   timeout: Optional[float] = 1.0) -> Run:
        """Session.load(). Where not even room to begin came: a run of 0 blocks, "busy"."""
        pause, futures = _Pause(timeout), []

        def begin(user: int) -> Load:
            begun = self.session.load_begin(chain, self._queue, user=user, first=first,
                                            count=count, timeout=pause.left())
            futures.append(self._one(user))
            return begun

        try:
            begun = await self._begin(begin, pause)
        except Error as error:
            return Run.none(self.session, check_passing(error.status, error.what))
        try:
            await asyncio.shield(futures[0])
        except asyncio.CancelledError:
            self._abandon(begun, futures[0])
            raise
        return begun.end()

    def _abandon(self, begun: Load, future: "asyncio.Future[Event]") -> None:
        """Nobody waits for a load any more: what it brings is let go when its event comes."""
        if not future.cancelled():
            future.add_done_callback(lambda done: done.cancelled() or begun.end().release())
            begun.cancel()

    async def wait(self, chain: Any, block: int, *, timeout: Optional[float] = 1.0) -> int:
        """Session.wait()."""
        pause = _Pause(timeout)
        while True:
            user = next(self._users)
            status = self.session.wait(chain, block, timeout=pause.left(), queue=self._queue,
                                       user=user)
            if status == 0:
                return (await self._one(user)).status
            if status != -errno.EAGAIN or not await pause.pass_by():
                return status

    async def put(self, chain: Any, buffers: Any, *, first: int = 0, count: Optional[int] = None,
                  part: int = 0, timeout: Optional[float] = 1.0) -> Put:
        """Session.put(), a loop's turn between two tries while the store is full."""
        pause, stored, total = _Pause(timeout), set(), 0
        while True:
            put = self.session.put(chain, buffers, first=first, count=count, part=part, timeout=0)
            total += put.count
            stored.update(i for i, status in enumerate(put.statuses) if status == 0)
            if -errno.EAGAIN not in put.statuses or not await pause.pass_by():
                put.count = total
                put.statuses = [0 if i in stored else status
                                for i, status in enumerate(put.statuses)]
                return put

    async def commit(self, frames: Frames, *, sums: str = "mover", given: Any = None,
                     timeout: Optional[float] = 2.0) -> List[int]:
        """Frames.commit(); by default a mover of the daemon computes the sums."""
        statuses, user = frames.statuses, next(self._users)
        open_ = len(frames.reserved())
        done = self._loop.create_future()

        def got(event: Event) -> None:
            nonlocal open_
            if event.status == -errno.ECANCELED and self._queue is None:
                done.cancel()
                return
            statuses[event.block] = event.status
            open_ -= 1
            if not open_ and not done.done():
                done.set_result(None)
            if not open_:
                self._waiting.pop(user, None)

        frames.commit(sums=sums, given=given, queue=self._queue, user=user, timeout=timeout)
        if frames.status < 0 or not open_:
            return frames.statuses
        # Frames that were of another daemon ended at once, without an event.
        for i, status in enumerate(frames.statuses):
            if status != EPENDING and statuses[i] == 0:
                statuses[i] = status
                open_ -= 1
        self._waiting[user] = got
        if open_:
            await done
        return statuses
