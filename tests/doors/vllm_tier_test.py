# SPDX-License-Identifier: Apache-2.0
"""SkepTier through its whole interface: seeded jobs, several under way, rows that fail and rows
that do not, a daemon that dies. A model of the pool says after each drain what every byte is."""
import ctypes
import os
import random
import sys
import time

import vllm_engine  # noqa: F401  (says why where there is no vLLM)
import numpy
from vllm.v1.core import kv_cache_utils
from vllm.v1.kv_offload.base import LookupResult, ReqContext, make_offload_key
from vllm.v1.kv_offload.config import (
    OffloadingCacheConfig,
    OffloadingConfig,
    OffloadingGroupConfig,
    OffloadingModelConfig,
    OffloadingParallelConfig,
)
from vllm.v1.kv_offload.tiering.base import TransferJob
from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory

import skep
from harness import Daemon, until
from skep.vllm.tier import tier_fields

ROWS, ROW_BYTES, GUARD = 48, 24 * 1024, 8192
KEYS, STEPS = 160, 400
SEED = int(os.environ.get("SKEP_SEED", "20261127"))
CONTEXT = ReqContext(req_id="r")


class Spec:
    """What of an OffloadingSpec a tier looks at."""

    def __init__(self, dtype="bfloat16"):
        self.config = OffloadingConfig(
            groups=(OffloadingGroupConfig(16, ("a", "b"), 0),), worker_kv_bytes_per_block=ROW_BYTES,
            enable_kv_cache_events=False, extra_config={}, engine_id="e",
            model=OffloadingModelConfig("m", dtype), cache=OffloadingCacheConfig(16, 1),
            parallel=OffloadingParallelConfig(0, 1, 1, 1, 1, 1, 0, 1, None, True))


class Pool:
    """The engine's rows between two guards, and what each byte must be."""

    def __init__(self, draw):
        self.draw = draw
        self.whole = numpy.zeros(2 * GUARD + ROWS * ROW_BYTES, dtype=numpy.uint8)
        self.whole[:] = numpy.frombuffer(draw.randbytes(len(self.whole)), dtype=numpy.uint8)
        self.expected = self.whole.copy()
        self.view = self.whole[GUARD:GUARD + ROWS * ROW_BYTES].reshape(ROWS, ROW_BYTES)

    def rows(self, of):
        return of[GUARD:GUARD + ROWS * ROW_BYTES].reshape(ROWS, ROW_BYTES)

    def fill(self, row, data):
        self.rows(self.whole)[row] = self.rows(self.expected)[row] = numpy.frombuffer(
            data, dtype=numpy.uint8)

    def forget(self, row):
        """A row whose load failed: of no use, whatever it holds."""
        self.rows(self.expected)[row] = self.rows(self.whole)[row]

    def require_same(self, what):
        if not numpy.array_equal(self.whole, self.expected):
            wrong = numpy.flatnonzero(self.whole != self.expected)
            sys.exit(f"FAILED: {what}: {len(wrong)} wrong bytes from {wrong[0] - GUARD} on")


class Run:
    """Seeded jobs against a tier."""

    def __init__(self, daemon):
        self.draw = random.Random(SEED)
        self.pool = Pool(self.draw)
        self.daemon = daemon
        self.tier = SecondaryTierFactory.create_secondary_tier(
            {"type": "SkepTier", "module_path": "skep.vllm", "socket": daemon.socket,
             "weights": "w"}, memoryview(self.pool.view), Spec())
        self.keys = [make_offload_key(self.draw.randbytes(32), 0) for _ in range(KEYS)]
        self.data = {key: self.draw.randbytes(ROW_BYTES) for key in self.keys}
        self.stored = set()
        self.jobs = {}
        self.free = list(range(ROWS))
        self.number = 0
        self.counts = dict.fromkeys(("stores", "loads", "partial", "failed", "hits"), 0)

    def begin(self, is_load):
        count = min(len(self.free), self.draw.randrange(1, 9))
        self.draw.shuffle(self.free)
        rows, self.free = self.free[:count], self.free[count:]
        keys = self.draw.sample(self.keys, count)
        if not is_load:
            for key, row in zip(keys, rows):
                self.pool.fill(row, self.data[key])
        job = TransferJob(self.number, keys, numpy.array(rows, dtype=numpy.int64), is_load,
                          CONTEXT)
        self.jobs[self.number] = (keys, rows, is_load)
        self.number += 1
        (self.tier.submit_load if is_load else self.tier.submit_store)(job)

    def end(self, drained):
        for result in self.tier.get_finished_jobs():
            keys, rows, is_load = self.jobs.pop(result.job_id)
            good = set(keys if result.success else result.successful_keys or ())
            self.counts["loads" if is_load else "stores"] += 1
            self.counts["partial"] += 0 < len(good) < len(keys)
            self.counts["failed"] += not good
            self.require(good <= set(keys) and (result.success == (len(good) == len(keys))),
                         "a result tells the truth about its job")
            for key, row in zip(keys, rows):
                if not is_load:
                    self.stored |= {key} & good
                elif key in good:
                    self.require(key in self.stored or not drained, "only what was put is loaded")
                    self.pool.rows(self.pool.expected)[row] = numpy.frombuffer(
                        self.data[key], dtype=numpy.uint8)
                else:
                    self.pool.forget(row)
            self.free += rows
        if drained:
            self.require(not self.jobs and not self.tier.has_pending_work(),
                         "after a drain every job has its result")

    @staticmethod
    def require(condition, what):
        if not condition:
            sys.exit(f"FAILED: {what}")

    def drain(self, what):
        self.tier.drain_jobs()
        self.end(drained=True)
        self.pool.require_same(what)

    def steps(self, count):
        for step in range(count):
            self.begin(is_load=self.draw.random() < 0.5)
            if not self.free or self.draw.random() < 0.15:
                self.drain(f"step {step}")
            elif self.draw.random() < 0.3:
                self.end(drained=False)
            key = self.draw.choice(self.keys)
            if self.tier.lookup(key, CONTEXT) is LookupResult.HIT:
                self.counts["hits"] += 1
        self.drain("the last step")

    def connected(self):
        """Until a lookup hits: the tier has found the daemon."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            self.begin(is_load=False)
            self.drain("a probe")
            if any(self.tier.lookup(key, CONTEXT) is LookupResult.HIT for key in self.keys):
                return
            time.sleep(0.1)
        sys.exit("FAILED: the tier does not find the daemon")


def corrupt(daemon, key):
    """A byte of a stored row is changed behind the checks; False: the row is not there."""
    with skep.Session(daemon.socket) as session:
        space = tier_fields(Spec(), ROW_BYTES, "w", "", None).open(session)
        chain = space.chain()
        chain.append_keys([key])
        with session.match(chain) as run:
            if not run:
                return False
            place = run.views().address(0) + 5000
            ctypes.memset(place, ctypes.c_ubyte.from_address(place).value ^ 1, 1)
            return True


def corrupted_row(run):
    """It fails alone, and nothing of it is said to be good."""
    keys = [key for key in run.keys if run.tier.lookup(key, CONTEXT) is LookupResult.HIT][:4]
    Run.require(len(keys) == 4 and corrupt(run.daemon, keys[1]), "there are rows to corrupt")
    rows, run.free = run.free[:4], run.free[4:]
    run.jobs[run.number] = (keys, rows, True)
    run.tier.submit_load(TransferJob(run.number, keys, numpy.array(rows), True, CONTEXT))
    run.number += 1
    run.tier.drain_jobs()
    with run.tier._changed:
        result = run.tier._results[0]
    Run.require(list(result.successful_keys) == keys[:1] + keys[2:], "a corrupted row fails alone")
    run.stored.discard(keys[1])
    run.drain("a corrupted row")


def main():
    print(f"seed {SEED}", flush=True)
    kv_cache_utils.NONE_HASH = b"\0" * 32
    # Room for about half of the keys, so that rows leave.
    daemon = Daemon("--dram-blocks-of", f"{ROW_BYTES}:96")
    run = Run(daemon)
    run.connected()
    run.steps(STEPS)
    before = dict(run.counts)
    Run.require(all(before.values()), "stores, loads, partial and whole failures, and hits")
    corrupted_row(run)

    daemon.kill()
    run.stored.clear()
    run.begin(is_load=False)
    run.begin(is_load=True)
    began = time.monotonic()
    run.drain("a daemon that is away")
    Run.require(time.monotonic() - began < 10, "a drain ends although the daemon is away")
    # The library notices a death within a tenth of a second; what it held is right until then.
    until(lambda: run.tier.lookup(run.keys[0], CONTEXT) is LookupResult.MISS, "then all is a miss")
    daemon.start()
    run.connected()
    run.steps(50)

    began = time.perf_counter()
    for _ in range(1000):
        run.tier.lookup(run.keys[0], CONTEXT)
    lookup_us = (time.perf_counter() - began) * 1000
    run.tier.shutdown()
    with skep.Session(daemon.socket) as session:
        Run.require(session.stats().pins == 0, "no pin is left")
    daemon.end()
    print(f"ok: {run.counts}, a lookup takes {lookup_us:.1f} us")


if __name__ == "__main__":
    main()
