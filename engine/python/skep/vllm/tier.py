# SPDX-License-Identifier: Apache-2.0
"""SkepTier: the store as a secondary tier of vLLM's own offloading.

vLLM keeps a pool of rows in this process's memory; a job copies rows to the store or fills them
from it. Each row is a block of its own there, named by the engine's key, so that rows may come and
go in any order. Looking up never waits; jobs are run by a thread with a session of its own.
"""
import ctypes
import errno
import hashlib
import json
import threading
import time
from typing import Any, ClassVar, Dict, Iterable, List, NamedTuple, Optional, Sequence

from vllm.v1.kv_offload.base import (
    LookupResult,
    Medium,
    ReqContext,
    RequestOffloadingContext,
)
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob

import skep

from .contained import contained, log, report
from .mover import Jobs, open_session
from .stats import Counts

_DRAIN_S = 60.0
_RETRY_S = 1.0


class TierFields(NamedTuple):
    """The space of a pool's rows."""

    name: str
    row_bytes: int
    about: Dict[str, str]

    def open(self, session: skep.Session) -> skep.Space:
        return session.space(self.name, [skep.Part(self.row_bytes)], 1, opaque=True,
                             **self.about)


def _text(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text if len(text) <= 255 else f"{text[:160]} sha256:{digest}"


def tier_fields(spec: Any, row_bytes: int, weights: str, rope: str,
                space: Optional[str]) -> TierFields:
    """Whatever vLLM says of the pool, and what it does not: weights and RoPE."""
    from vllm.v1.core import kv_cache_utils

    config, parallel = spec.config, spec.config.parallel
    about = {
        "model": _text(config.model.name), "weights": weights, "rope": rope,
        "layout": _text({
            "dtype": config.model.dtype, "kv_layout": config.kv_cache_layout,
            "canonical": config.canonical_layout, "replicated": config.replicated_layout,
            "bytes": config.worker_kv_bytes_per_block,
            "groups": [[group.tokens_per_block, list(group.layer_names)]
                       for group in config.groups]}),
        "engine": _text({
            "engine": "vllm-offload", "seed": kv_cache_utils.get_none_hash_seed(),
            "tokens_per_hash": config.cache.tokens_per_hash,
            "blocks_per_chunk": config.cache.blocks_per_chunk,
            "sizes": [parallel.tp_size, parallel.pp_size, parallel.pcp_size,
                      parallel.dcp_size]})}
    digest = hashlib.sha256(_text([about, row_bytes]).encode()).hexdigest()
    name = (space or "vllm-tier").replace("/", "-")[:63 - 13]
    return TierFields(f"{name}-{digest[:12]}", row_bytes, about)


class Rows:
    """The pool: where each row lies."""

    def __init__(self, view: memoryview):
        if view.ndim != 2 or view.strides[1] != view.itemsize:
            raise ValueError(f"a pool of shape {view.shape} and strides {view.strides}")
        self.count = view.shape[0]
        self.bytes = view.shape[1] * view.itemsize
        self._stride = view.strides[0]
        # ctypes takes no view of two dimensions; its first byte is enough.
        self._view = view
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(view.cast("B")))

    def memory(self, rows: Iterable[int]) -> List[skep.Memory]:
        found = []
        for row in rows:
            if not 0 <= row < self.count:
                raise ValueError(f"row {row} of a pool of {self.count}")
            found.append(skep.Memory(self._base + int(row) * self._stride, self.bytes))
        return found


class SkepTier(SecondaryTierManager):
    """settings: socket, realm, token; weights and rope: texts that tell this model from others of
    its name; space: how the space is called; timeout_ms: how long a job may take."""

    medium: ClassVar[Medium] = Medium.CPU

    def __init__(self, offloading_spec: Any, primary_kv_view: memoryview, tier_type: str,
                 backpressure_detector: Any = None, *, weights: str = "", rope: str = "",
                 space: Optional[str] = None, timeout_ms: int = 2000, locality: Any = None,
                 **settings: Any):
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        self.counts = Counts()
        self._rows = Rows(primary_kv_view)
        self._fields = lambda: tier_fields(offloading_spec, self._rows.bytes, weights, rope,
                                           space)
        self._timeout = timeout_ms / 1000
        self._changed = threading.Condition()
        self._under_way = 0
        self._results: List[JobResult] = []
        self._lookups = _Opened(settings, self._fields)
        self._stores = _Opened(settings, self._fields)
        self._probe: Optional[skep.Chain] = None
        self._ask_at = 0.0
        self._jobs = Jobs(f"skep-{tier_type}", self.counts)
        self._jobs.start()
        self._ask()

    # ---- looking up

    @contained(lambda: LookupResult.MISS)
    def lookup(self, key: bytes, req_context: ReqContext) -> LookupResult:
        if self._lookups.space is None:
            self._ask()
            return LookupResult.MISS
        if self._probe is None:
            self._probe = self._lookups.space.chain()
        self._probe.truncate(0)
        self._probe.append_keys([key])
        found = self._lookups.session.match(self._probe, pin=False, refs=False)
        return LookupResult.HIT if found.stored else LookupResult.MISS

    def _ask(self) -> None:
        """Has the space opened where that may wait."""
        if time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + _RETRY_S
            self._jobs.push(self._lookups.ready)

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        return RequestOffloadingContext()

    # ---- jobs

    def submit_store(self, job_metadata: TransferJob) -> None:
        self._submit(job_metadata, self._store)

    def submit_load(self, job_metadata: TransferJob) -> None:
        self._submit(job_metadata, self._load)

    def _submit(self, job: TransferJob, move: Any) -> None:
        with self._changed:
            self._under_way += 1
        keys, rows = list(job.keys), [int(row) for row in job.chunk_ids]
        self._jobs.push(lambda: self._run(job.job_id, keys, rows, move))

    def _run(self, number: int, keys: List[bytes], rows: List[int], move: Any) -> None:
        began, good = time.monotonic(), []
        try:
            if len(keys) != len(rows):
                raise ValueError(f"{len(keys)} keys and {len(rows)} rows")
            memory = self._rows.memory(rows)
            if self._stores.ready():
                good = move(keys, memory, began + self._timeout)
        except Exception:  # the job has failed, and says so
            report("a job of the tier")
            self.counts.add("exceptions", 1)
            good = []
        whole = len(good) == len(keys)
        result = JobResult(number, whole, None if whole else good,
                           time.monotonic() - began, len(good) * self._rows.bytes)
        with self._changed:
            self._results.append(result)
            self._under_way -= 1
            self._changed.notify_all()

    def _chains(self, keys: Sequence[bytes]) -> List[skep.Chain]:
        chains = []
        for key in keys:
            chain = self._stores.space.chain()
            chain.append_keys([key])
            chains.append(chain)
        return chains

    def _store(self, keys: List[bytes], memory: List[skep.Memory], until: float) -> List[bytes]:
        """Puts rows; what is there already is passed over. The keys that the store has now."""
        good = []
        for key, chain, row in zip(keys, self._chains(keys), memory):
            left = until - time.monotonic()
            if left <= 0:
                break
            put = self._stores.session.put(chain, [row], timeout=min(left, 0.5))
            if put.statuses == [0] or put.statuses[0] in (-errno.EEXIST, skep.EPENDING):
                good.append(key)
            if put.status in (skep.EDOWN, -errno.ETIMEDOUT):
                break
        return good

    def _load(self, keys: List[bytes], memory: List[skep.Memory], until: float) -> List[bytes]:
        """Fills rows from what lies in DRAM, in one call, and then what the ssd has."""
        session, chains = self._stores.session, self._chains(keys)
        found = session.match_many(chains, pin=False)
        near = [i for i, match in enumerate(found) if match.matched]
        refs = skep.Refs(b"".join(bytes(found[i].refs) for i in near))
        copied = session.copy(self._stores.space, refs, [memory[i] for i in near])
        good = {i for i, size in zip(near, copied) if size == self._rows.bytes}
        for i, match in enumerate(found):
            left = until - time.monotonic()
            if i in good or not match.stored or left <= 0:
                continue
            with session.load(chains[i], timeout=left) as run:
                if run and run.copy_into(self._stores.space, [memory[i]]) == [
                        self._rows.bytes]:
                    good.add(i)
        return [keys[i] for i in sorted(good)]

    def get_finished_jobs(self) -> Iterable[JobResult]:
        with self._changed:
            results, self._results = self._results, []
        return results

    def has_pending_work(self) -> bool:
        with self._changed:
            return self._under_way > 0 or bool(self._results)

    def drain_jobs(self) -> None:
        """Each job ends by its deadline, so this does."""
        with self._changed:
            while self._under_way and self._changed.wait(_DRAIN_S):
                pass

    def shutdown(self) -> None:
        self.drain_jobs()
        self._jobs.stop(_DRAIN_S, self._stores.close)
        self._probe = None
        self._lookups.close()


class _Opened:
    """A session and the space, tried for at most once a second, in the thread of the jobs."""

    def __init__(self, settings: Dict[str, Any], fields: Any):
        self._settings = settings
        self._fields = fields
        self._retry_at = 0.0
        self.session: Optional[skep.Session] = None
        self.space: Optional[skep.Space] = None

    def ready(self) -> bool:
        if self.space is not None:
            return True
        if time.monotonic() < self._retry_at:
            return False
        self._retry_at = time.monotonic() + _RETRY_S
        if self.session is None:
            self.session = open_session(self._settings)
        if self.session.attached:
            try:
                self.space = self._fields().open(self.session)
            except skep.Error as error:
                log.warning("skep: the space of the tier: %s", error)
        return self.space is not None

    def close(self) -> None:
        if self.session is not None:
            self.session.close()
        self.session = self.space = None
