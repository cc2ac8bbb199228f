# SPDX-License-Identifier: Apache-2.0
"""skep below LMCache: the connector of its native_plugin adapter.

    {"type": "native_plugin", "module_path": "skep.lmcache", "class_name": "Connector",
     "adapter_params": {"where": "/run/skep/skepd.sock"}}

Nothing of LMCache is imported. docs/engines/lmcache.md says how it is set up.
"""
import errno
import itertools
import os
import queue
import threading
import time
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

from ._door import Faults, Lane, SpaceWant, Where, key_digest, open_or_note, refused_at_start
from .errors import EDOWN, EPENDING, status_text

_GET, _SET, _EXISTS, _DELETE = "get", "set", "exists", "delete"
# What is no fault of anybody: of each operation, the statuses that come to a yes, and to a no.
_YES = {_GET: (0,), _SET: (0, -errno.EEXIST, EPENDING), _EXISTS: (1, 2),
        _DELETE: (0, -errno.ENOENT)}
_NO = {_GET: (-errno.ENOENT, EPENDING), _SET: (), _EXISTS: (-errno.ENOENT, EPENDING), _DELETE: ()}
_JOIN_S = 5.0

Completion = Tuple[int, bool, str, Optional[List[bool]]]


class _Job(NamedTuple):
    future: int
    op: str
    keys: List[str]
    views: Sequence[Any]
    deadline: float


class Connector:
    """Batches of chunks, each one call of libskep on a thread of ours.

    where, realm, token: the daemon, as of skep.Session. space: its name; connectors that share
    chunks name the same one. chunk_bytes: the most that a chunk can have. chunk_tokens: of a
    chunk, for what is counted in tokens. model, layout, engine: texts that must agree with whoever
    opened the space before; LMCache's own keys hold the model, rank, group and salt in any case.
    workers: threads for loads and stores, each with a session; one more looks up. timeout_ms:
    within which every future completes.
    """

    def __init__(self, where: Optional[str] = None, realm: Optional[str] = None,
                 token: Optional[str] = None, space: str = "lmcache",
                 chunk_bytes: int = 256 << 20, chunk_tokens: int = 256, model: str = "",
                 layout: str = "", engine: str = "lmcache", workers: int = 2,
                 timeout_ms: int = 10000):
        if workers < 1 or timeout_ms < 1:
            raise ValueError("workers and timeout_ms are at least 1")
        self.faults = Faults("skep.lmcache")
        self._want = SpaceWant(space, chunk_bytes, chunk_tokens,
                               {"model": model, "layout": layout, "engine": engine})
        self._where = Where(where, realm, token)
        self._timeout = timeout_ms / 1000
        self._pid = os.getpid()
        self._futures = itertools.count(1)
        self._lock = threading.Lock()
        self._done: List[Completion] = []
        self._closed = False
        first = Lane(self._where, "lmcache")
        refused_at_start(first, self._want)
        first.close()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._moves: queue.SimpleQueue = queue.SimpleQueue()
        self._lookups: queue.SimpleQueue = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, args=(jobs,), name="skep-lmcache", daemon=True)
            for jobs in [self._lookups] + [self._moves] * workers]
        for thread in self._threads:
            thread.start()

    # ---- what LMCache calls

    def event_fd(self) -> int:
        """Readable when there is a completion."""
        return self._fd

    def submit_batch_get(self, keys: List[str], views: Sequence[Any]) -> int:
        """Loads chunks into buffers, of each the bytes of the chunk and no other number."""
        return self._submit(_GET, keys, views)

    def submit_batch_set(self, keys: List[str], views: Sequence[Any]) -> int:
        """Stores chunks. What is there already, or being written, is passed over."""
        return self._submit(_SET, keys, views)

    def submit_batch_exists(self, keys: List[str]) -> int:
        """Which chunks can be had, from memory or the ssd."""
        return self._submit(_EXISTS, keys, ())

    def submit_batch_delete(self, keys: List[str]) -> int:
        """Takes chunks out of the store, for everybody. What is not there is deleted too."""
        return self._submit(_DELETE, keys, ())

    def drain_completions(self) -> List[Completion]:
        """(future, ok, error, of each chunk whether it went well), of each future once."""
        try:
            os.eventfd_read(self._fd)
        except OSError:
            pass
        with self._lock:
            done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Ends the threads and their sessions. What was not begun comes to nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if os.getpid() == self._pid:
            for jobs in [self._lookups] + [self._moves] * (len(self._threads) - 1):
                jobs.put(None)
            end = time.monotonic() + _JOIN_S
            for thread in self._threads:
                thread.join(max(end - time.monotonic(), 0))
        os.close(self._fd)

    # ---- how it is done

    def _submit(self, op: str, keys: List[str], views: Sequence[Any]) -> int:
        job = _Job(next(self._futures), op, list(keys), views, time.monotonic() + self._timeout)
        if self._closed or os.getpid() != self._pid:
            # The threads are not here: they are the parent's, or have ended.
            self._end(job, [-errno.EOWNERDEAD] * len(job.keys))
        else:
            (self._lookups if op == _EXISTS else self._moves).put(job)
        return job.future

    def _work(self, jobs: queue.SimpleQueue) -> None:
        lane = Lane(self._where, "lmcache")
        while True:
            job = jobs.get()
            if job is None or self._closed:
                break
            try:
                statuses = self._statuses(lane, job)
            except Exception as error:  # whatever it is, the future completes
                self.faults.note_text(type(error).__name__, f"{job.op}: {error}")
                self._complete(job, False, str(error), [False] * len(job.keys))
                continue
            self._end(job, statuses)
        lane.close()

    def _statuses(self, lane: Lane, job: _Job) -> List[int]:
        left = job.deadline - time.monotonic()
        keyed = open_or_note(lane, self._want, self.faults)
        if keyed is None or left <= 0:
            return [EDOWN if keyed is None else -errno.ETIMEDOUT] * len(job.keys)
        names = [key_digest(key) for key in job.keys]
        if job.op == _GET:
            return keyed.get(names, list(job.views), timeout=left)
        if job.op == _SET:
            return keyed.put(names, list(job.views), timeout=left)
        return keyed.find(names) if job.op == _EXISTS else keyed.remove(names, timeout=left)

    def _end(self, job: _Job, statuses: List[int]) -> None:
        yes, no = _YES[job.op], _NO[job.op]
        faults = [status for status in statuses if status not in yes and status not in no]
        if faults:
            self.faults.note_all(faults, job.op)
        elif statuses:
            self.faults.well()
        self._complete(job, not faults, status_text(faults[0]) if faults else "",
                       [status in yes for status in statuses])

    def _complete(self, job: _Job, ok: bool, error: str, each: List[bool]) -> None:
        with self._lock:
            self._done.append((job.future, ok, error, each))
            if not self._closed:
                os.eventfd_write(self._fd, 1)
