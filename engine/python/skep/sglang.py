# SPDX-License-Identifier: Apache-2.0
"""skep below SGLang's hierarchical cache: a storage back end, loaded as `dynamic`.

    --hicache-storage-backend dynamic --hicache-storage-backend-extra-config
      '{"backend_name": "skep", "module_path": "skep.sglang", "class_name": "SkepStorage",
        "interface_v1": 1}'

docs/engines/sglang.md says how it is set up.
"""
import errno
import os
import threading
import weakref
from typing import Any, Callable, Dict, List, Optional, Sequence

from sglang.srt.mem_cache.hicache_storage import (
    HiCacheStorage,
    HiCacheStorageConfig,
    HiCacheStorageExtraInfo,
    PoolHitPolicy,
    PoolName,
    PoolTransfer,
    PoolTransferResult,
)

from ._door import Faults, Lane, Where, open_or_note
from ._sglang_pool import Pool
from .errors import EPENDING

_CLOSE_S = 5.0
_STORED = (0, -errno.EEXIST, EPENDING)
_ABSENT = (-errno.ENOENT, EPENDING)


class SkepStorage(HiCacheStorage):
    """Pages of one rank, read and written where they lie in the host pools.

    Each batch of a pool is one call of libskep. Each thread that calls has a session of its own.
    No call raises: what cannot be had is a miss, and `faults.counts` says why. Of the extra
    config: where, realm, token (as of skep.Session), space (how names of spaces begin),
    timeout_ms (of a batch).
    """

    def __init__(self, storage_config: HiCacheStorageConfig, kwargs: Optional[dict] = None):
        del kwargs
        if storage_config.dcp_size > 1:
            raise NotImplementedError("skep: decode context parallelism is not supported")
        extra = storage_config.extra_config or {}
        self.faults = Faults("skep.sglang")
        self._config = storage_config
        self._v1 = bool(extra.get("interface_v1", 0))
        self._where = Where(extra.get("where"), extra.get("realm"), extra.get("token"))
        self._prefix = str(extra.get("space", "sglang"))
        self._timeout = int(extra.get("timeout_ms", 2000)) / 1000
        self._pools: Dict[str, Pool] = {}
        self._local = threading.local()
        self._lanes: weakref.WeakSet = weakref.WeakSet()
        self._closed = False

    # ---- pools

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        super().register_mem_pool_host(mem_pool_host)
        self._pools[PoolName.KV.value] = Pool(PoolName.KV.value, mem_pool_host, self._config,
                                              self._prefix, flat=not self._v1)

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        super().register_mem_host_pool_v2(host_pool, host_pool_name)
        name = str(host_pool_name)
        # That of the pages themselves is registered already.
        if name != PoolName.KV.value or name not in self._pools:
            self._pools[name] = Pool(name, host_pool, self._config, self._prefix)

    def _pool(self, name: Any) -> Optional[Pool]:
        pool = self._pools.get(str(name))
        if pool is None:
            self.faults.note_text("ENOPOOL", f"the pool {name} was never registered")
        return pool

    # ---- one call a batch

    def _lane(self) -> Lane:
        """Of this thread, and of this process: what the parent has is dead in a child of fork()."""
        local = self._local
        if getattr(local, "pid", None) != os.getpid():
            local.pid, local.lane, local.lock = os.getpid(), Lane(self._where, "sglang"), \
                threading.Lock()
            local.lane.lock = local.lock
            self._lanes.add(local.lane)
        return local.lane

    def _statuses(self, pool: Pool, what: str, call: Callable, count: int) -> Optional[List[int]]:
        """What @call answers for the pool's space; None where it cannot be asked."""
        lane = self._lane()
        with lane.lock:
            keyed = None if self._closed else open_or_note(lane, pool.want, self.faults)
            if keyed is None or not count:
                return None
            try:
                return call(keyed)
            except Exception as error:  # a miss, whatever it is
                self.faults.note_text(type(error).__name__, f"{what} of {pool.name}: {error}")
                return None

    def _answers(self, pool: Pool, what: str, call: Callable, count: int, yes: Sequence[int],
                 no: Sequence[int] = ()) -> List[bool]:
        statuses = self._statuses(pool, what, call, count)
        if statuses is None:
            return [False] * count
        faults = [status for status in statuses if status not in yes and status not in no]
        if faults:
            self.faults.note_all(faults, f"{what} of {pool.name}")
        else:
            self.faults.well()
        return [status in yes for status in statuses]

    def _find(self, pool: Pool, keys: Sequence[str]) -> List[bool]:
        if pool.logical:
            return [True] * len(keys)
        return self._answers(pool, "exists", lambda keyed: keyed.find(pool.names(keys)),
                             len(keys), (1, 2), _ABSENT)

    def _places(self, pool: Pool, keys: Sequence[str], host_indices: Any) -> bool:
        """Are there as many places as pages?"""
        if host_indices is not None and host_indices.numel() == len(keys) * pool.page_tokens:
            return True
        self.faults.note_text("EPLACES", f"{len(keys)} pages of {pool.name} without a place each")
        return False

    def _get(self, pool: Optional[Pool], keys: Sequence[str], host_indices: Any) -> List[bool]:
        if pool is None or not pool.logical and not self._places(pool, keys, host_indices):
            return [False] * len(keys)
        if pool.logical:
            return [True] * len(keys)

        def get(keyed: Any) -> List[int]:
            buffers = pool.room(host_indices)
            statuses = keyed.get(pool.names(keys), buffers, timeout=self._timeout)
            pool.filled(host_indices, buffers, statuses)
            return statuses
        return self._answers(pool, "get", get, len(keys), (0,), _ABSENT)

    def _set(self, pool: Optional[Pool], keys: Sequence[str], host_indices: Any) -> List[bool]:
        if pool is None or not pool.logical and not self._places(pool, keys, host_indices):
            return [False] * len(keys)
        if pool.logical or pool.shared and not self._config.is_storage_writer:
            return [True] * len(keys)  # one rank writes what all have alike
        return self._answers(
            pool, "set", lambda keyed: keyed.put(pool.names(keys), pool.pages(host_indices),
                                                 timeout=self._timeout), len(keys), _STORED)

    # ---- v1

    def batch_exists(self, keys: List[str],
                     extra_info: Optional[HiCacheStorageExtraInfo] = None) -> int:
        """Leading pages that can be had."""
        pool = self._pool(PoolName.KV)
        return _leading(self._find(pool, keys)) if pool else 0

    def batch_get_v1(self, keys: List[str], host_indices: Any,
                     extra_info: Optional[HiCacheStorageExtraInfo] = None) -> List[bool]:
        return self._get(self._pool(PoolName.KV), keys, host_indices)

    def batch_set_v1(self, keys: List[str], host_indices: Any,
                     extra_info: Optional[HiCacheStorageExtraInfo] = None) -> List[bool]:
        return self._set(self._pool(PoolName.KV), keys, host_indices)

    # ---- v2

    def batch_exists_v2(self, keys: List[str], pool_transfers: Optional[List[PoolTransfer]] = None,
                        extra_info: Optional[HiCacheStorageExtraInfo] = None
                        ) -> PoolTransferResult:
        kv_pages = self.batch_exists(keys, extra_info)
        hits: Dict[str, int] = {PoolName.KV: kv_pages} if kv_pages else {}
        restorable = list(range(1, kv_pages + 1))
        for transfer in pool_transfers or []:
            if not restorable:
                break
            pool = self._pool(transfer.name)
            if transfer.hit_policy == PoolHitPolicy.BLOCK_GROUPS:
                covered = self._group_pages(pool, transfer)
                if covered:
                    hits[transfer.name] = covered
                continue
            there = self._find(pool, keys[:kv_pages]) if pool else [False] * kv_pages
            ends = _restorable(there, transfer)
            if ends:
                hits[transfer.name] = max(ends)
            restorable = [end for end in restorable if end in ends]
        return PoolTransferResult(restorable[-1] if restorable else 0, hits, restorable)

    def _group_pages(self, pool: Optional[Pool], transfer: PoolTransfer) -> int:
        """Pages that the leading complete groups of keys cover."""
        each, keys = transfer.group_pages, transfer.keys or []
        if pool is None or each < 1:
            return 0
        return _leading(self._find(pool, keys)) // each * transfer.block_pages

    def batch_get_v2(self, transfers: List[PoolTransfer],
                     extra_info: Optional[HiCacheStorageExtraInfo] = None
                     ) -> Dict[str, List[bool]]:
        return {transfer.name: self._get(self._pool(transfer.name), transfer.keys or [],
                                         transfer.host_indices) for transfer in transfers}

    def batch_set_v2(self, transfers: List[PoolTransfer],
                     extra_info: Optional[HiCacheStorageExtraInfo] = None
                     ) -> Dict[str, List[bool]]:
        return {transfer.name: self._set(self._pool(transfer.name), transfer.keys or [],
                                         transfer.host_indices) for transfer in transfers}

    # ---- pages as flat tensors, where interface_v1 is not set

    def _flat_pool(self) -> Optional[Pool]:
        pool = self._pool(PoolName.KV)
        if pool is None or pool.flat:
            return pool
        self.faults.note_text("EINTERFACE", "pages as tensors are not for interface_v1")
        return None

    def batch_get(self, keys: List[str], target_locations: Optional[Any] = None,
                  target_sizes: Optional[Any] = None) -> List[Any]:
        pool = self._flat_pool()
        if pool is None or not target_locations or len(target_locations) != len(keys):
            return [None] * len(keys)
        had = self._answers(
            pool, "get", lambda keyed: keyed.get(pool.names(keys), list(target_locations),
                                                 timeout=self._timeout), len(keys), (0,), _ABSENT)
        return [place if good else None for good, place in zip(had, target_locations)]

    def batch_set(self, keys: List[str], values: Optional[Any] = None,
                  target_locations: Optional[Any] = None,
                  target_sizes: Optional[Any] = None) -> bool:
        pool = self._flat_pool()
        if pool is None or not values or len(values) != len(keys):
            return False
        if pool.shared and not self._config.is_storage_writer:
            return True
        return all(self._answers(
            pool, "set", lambda keyed: keyed.put(pool.names(keys), list(values),
                                                 timeout=self._timeout), len(keys), _STORED))

    def get(self, key: str, target_location: Optional[Any] = None,
            target_sizes: Optional[Any] = None) -> Any:
        return self.batch_get([key], [target_location])[0] if target_location is not None else None

    def set(self, key: str, value: Optional[Any] = None, target_location: Optional[Any] = None,
            target_sizes: Optional[Any] = None) -> bool:
        return value is not None and self.batch_set([key], [value])

    def exists(self, key: str) -> bool:
        return self.batch_exists([key]) == 1

    # ---- the rest

    def clear(self) -> bool:
        """Removes the pages of all pools, for every rank and engine that shares them."""
        done = True
        for pool in self._pools.values():
            if not pool.logical:
                done &= self._statuses(pool, "clear",
                                       lambda keyed: [keyed.space.purge()], 1) is not None
        return done

    def close(self) -> None:
        """Ends the sessions of all threads; one that is in a call is waited for."""
        self._closed = True
        for lane in list(self._lanes):
            if lane.lock.acquire(timeout=_CLOSE_S):
                lane.close()
                lane.lock.release()


def _leading(there: Sequence[bool]) -> int:
    return there.index(False) if False in there else len(there)


def _restorable(there: List[bool], transfer: PoolTransfer) -> set:
    """The lengths of a prefix that the pool has what it takes of: @there of each page."""
    if transfer.hit_policy == PoolHitPolicy.ALL_PAGES:
        return set(range(1, _leading(there) + 1))
    window = max(1, len(transfer.keys or ()))
    ends, run = set(), 0
    for end, page in enumerate(there, 1):
        run = run + 1 if page else 0
        if run >= min(window, end):
            ends.add(end)
    return ends
