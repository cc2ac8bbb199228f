# SPDX-License-Identifier: Apache-2.0
"""Threads that move blocks between a worker's tensors and the store.

A mover has a session of its own, since a session is one thread's. One mover loads and one saves,
so that a load, which never asks the daemon, waits for no answer of it.
"""
import errno
import queue
import threading
import time
from array import array
from typing import Any, Callable, Dict, List, Optional, Set

import skep
from skep import tensors as skep_tensors

from .contained import log, report
from .orders import LoadOrder, SaveOrder, SpaceFields
from .stats import Counts

_RETRY_S = 1.0
_END = None
# It is there, or another writer is about to have it there.
_IN_STORE = (0, -errno.EEXIST, skep.EPENDING)


class Jobs(threading.Thread):
    """A thread that runs what is pushed, in order."""

    def __init__(self, name: str, counts: Counts):
        super().__init__(name=name, daemon=True)
        self.counts = counts
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()

    def push(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)

    def stop(self, timeout: float, last: Callable[[], None]) -> None:
        """After what was pushed, and last of all what is to be done in that thread."""
        self._jobs.put(last)
        self._jobs.put(_END)
        self.join(timeout)

    def run(self) -> None:
        while (job := self._jobs.get()) is not _END:
            try:
                job()
            except Exception:  # a job says itself what it came to; the thread goes on
                report(self.name)
                self.counts.add("exceptions", 1)


class Mover(Jobs):
    """One thread, one session, one plan."""

    def __init__(self, name: str, settings: Dict[str, Any], counts: Counts):
        super().__init__(f"skep-{name}", counts)
        self.plan: Optional[skep_tensors.Plan] = None
        self._settings = settings
        self._session: Optional[skep.Session] = None
        self._device: Optional[skep_tensors.Device] = None
        self._retry_at = 0.0

    # ---- of the thread itself

    def rest(self) -> None:
        """The store cannot serve now: ask no more for a moment."""
        self._retry_at = time.monotonic() + _RETRY_S

    def open(self, fields: SpaceFields, tensors: skep_tensors.Tensors, kind: str,
             device: int) -> bool:
        """Is the plan there? Tries to make it, at most once a second."""
        if self.plan is not None:
            return True
        if time.monotonic() < self._retry_at:
            return False
        self.rest()
        if self._session is None:
            self._session = open_session(self._settings)
        if not self._session.attached:
            return False
        try:
            space = fields.open(self._session)
        except skep.Error as error:
            log.warning("skep: space %s: %s", fields.name, error)
            return False
        if self._device is None:
            self._device = skep_tensors.Device(self._session, kind, device=device)
        self.plan = self._device.plan(space, tensors)
        self._retry_at = 0.0
        return True

    @property
    def resting(self) -> bool:
        return time.monotonic() < self._retry_at

    def close(self) -> None:
        self.plan = None
        if self._device is not None:
            self._device.close()
        if self._session is not None:
            self._session.close()


def open_session(settings: Dict[str, Any]) -> skep.Session:
    """A session that connects by itself when a daemon is there."""
    return skep.Session(settings.get("socket"), realm=settings.get("realm"),
                        token=settings.get("token"), wait=False, name="vllm")


def _pages(tables: List[List[int]], first: int, past: int) -> List[int]:
    """Those of some blocks, table after table."""
    if len(tables) == 1:
        return tables[0][first:past]
    return [page for pages in tables for page in pages[first:past]]


def load(plan: skep_tensors.Plan, order: LoadOrder, part: int, stream: int) -> List[int]:
    """Fills the pages of an order. Which of its blocks failed."""
    refs, at, failed = skep.Refs(order.refs), 0, []
    while at < len(refs):
        job = plan.load(refs[at:], _pages(order.pages, at, len(refs)), part=part, stream=stream)
        statuses = job.end()
        if not statuses:
            break
        failed += [at + i for i, status in enumerate(statuses) if status]
        at += len(statuses)
    return failed + list(range(at, order.blocks))


class Saver:
    """The saves of a worker: chains of its requests, and which of them are under way."""

    def __init__(self, mover: Mover, part: int, timeout: float):
        self._mover = mover
        self._part = part
        self._timeout = timeout
        self._chains: Dict[str, skep.Chain] = {}
        self._changed = threading.Condition()
        self._under_way: Dict[str, int] = {}
        self._cancelled: Set[str] = set()
        # The number of the last save that has ended, and of the last one that was told of.
        self._ended = self._told = 0

    # ---- of the worker's thread

    def push(self, order: SaveOrder, opened: Callable[[], bool], stream: int) -> None:
        with self._changed:
            self._under_way[order.request] = self._under_way.get(order.request, 0) + 1
        until = time.monotonic() + self._timeout
        self._mover.push(lambda: self._run(order, opened, stream, until))

    def is_idle(self, request: str) -> bool:
        with self._changed:
            return request not in self._under_way

    def ended(self) -> Optional[int]:
        """The number of the last save that has ended, where it is news."""
        with self._changed:
            news = self._ended if self._ended != self._told else None
            self._told = self._ended
        return news

    def cancel(self, requests: Set[str]) -> None:
        """Their pages are about to be overwritten: returns when nothing reads them."""
        with self._changed:
            self._cancelled |= requests
            while any(request in self._under_way for request in requests):
                self._changed.wait()
            self._cancelled -= requests

    def forget(self, requests: Set[str]) -> None:
        self._mover.push(lambda: [self._chains.pop(each, None) for each in requests])

    # ---- of the mover

    def _run(self, order: SaveOrder, opened: Callable[[], bool], stream: int,
             until: float) -> None:
        saved, wanted = 0, order.blocks
        try:
            if opened() and self._extend(order):
                saved = self._save(order, stream, until)
        finally:
            self._mover.counts.add("blocks_saved", saved)
            self._mover.counts.add("blocks_save_failed", wanted - saved)
            with self._changed:
                left = self._under_way[order.request] - 1
                if left:
                    self._under_way[order.request] = left
                else:
                    del self._under_way[order.request]
                self._ended = order.number
                self._changed.notify_all()

    def _extend(self, order: SaveOrder) -> bool:
        """The chain of the request with the order's keys; False: it misses some before."""
        chain = self._chains.get(order.request)
        if chain is None:
            chain = self._chains[order.request] = self._mover.plan.space.chain()
        if len(chain) < order.at:
            return False
        chain.truncate(order.at)
        chain.append_keys(order.keys, key_bytes=order.key_bytes,
                          tokens=array("I", order.tokens))
        return True

    def _save(self, order: SaveOrder, stream: int, until: float) -> int:
        """How many of the blocks are in the store, or being put there by another."""
        chain, at, saved = self._chains[order.request], 0, 0
        while at < order.blocks:
            left = until - time.monotonic()
            if left <= 0 or self._mover.resting or order.request in self._cancelled:
                break
            job = self._mover.plan.save(
                chain, _pages(order.pages, at, order.blocks), first=order.first + at,
                count=order.blocks - at, part=self._part, stream=stream,
                timeout=min(left, 0.1))
            statuses = job.end(timeout=left)
            if job.status in (skep.EDOWN, -errno.ETIMEDOUT):
                self._mover.rest()
            if not statuses:
                break
            saved += sum(status in _IN_STORE for status in statuses)
            at += len(statuses)
        return saved
