# SPDX-License-Identifier: Apache-2.0
"""SkepConnector: vLLM's calls, given to the scheduler's half or the worker's."""
from typing import Any, Dict, Optional, Set, Tuple

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorRole,
    KVConnectorTransferResults,
    SupportsHMA,
)

from .contained import contained, log
from .identity import Refused, require_served
from .orders import Layout, Orders, Saved
from .scheduler import Scheduler
from .stats import Counts, SkepProm, SkepStats
from .worker import Worker


class SkepConnector(KVConnectorBase_V1, SupportsHMA):
    """Loads what the store has of a prompt, and saves what it lacks. A best-effort cache: whatever
    goes wrong is a miss."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any = None):
        super().__init__(vllm_config, role, kv_cache_config)
        self.counts = Counts()
        self._scheduler: Optional[Scheduler] = None
        self._worker: Optional[Worker] = None
        settings = vllm_config.kv_transfer_config.kv_connector_extra_config
        try:
            require_served(vllm_config, kv_cache_config)
            if role == KVConnectorRole.SCHEDULER:
                self._scheduler = Scheduler(vllm_config, kv_cache_config, settings, self.counts)
            else:
                self._worker = Worker(vllm_config, kv_cache_config, settings, self.counts)
        except Refused as refusal:
            log.warning("skep: not used: %s", refusal)

    @property
    def requires_kv_delivery(self) -> bool:
        return False

    # ---- in the worker

    @contained()
    def register_kv_caches(self, kv_caches: Dict[str, Any]) -> None:
        if self._worker is not None:
            self._worker.register(kv_caches)

    @contained(lambda: Layout(refusal="its tensors could not be looked at"))
    def get_handshake_metadata(self) -> Optional[Layout]:
        return self._worker.layout if self._worker is not None else None

    @contained()
    def handle_preemptions(self, kv_connector_metadata: Orders) -> None:
        if self._worker is not None:
            self._worker.preempt(kv_connector_metadata)

    @contained()
    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        if self._worker is not None and self.has_connector_metadata():
            self._worker.begin_loads(self._get_connector_metadata())

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any,
                      **kwargs: Any) -> None:
        pass

    @contained()
    def wait_for_save(self) -> None:
        if self._worker is not None and self.has_connector_metadata():
            self._worker.begin_saves(self._get_connector_metadata())

    @contained(KVConnectorTransferResults)
    def get_transfer_results(self, finished_req_ids: Set[str]) -> KVConnectorTransferResults:
        if self._worker is None:
            return KVConnectorTransferResults()
        orders = self._get_connector_metadata() if self.has_connector_metadata() else None
        return KVConnectorTransferResults(*self._worker.finished(finished_req_ids, orders))

    @contained(set)
    def get_block_ids_with_load_errors(self) -> Set[int]:
        return self._worker.failed() if self._worker is not None else set()

    @contained()
    def build_connector_worker_meta(self) -> Optional[Saved]:
        return self._worker.saved() if self._worker is not None else None

    # ---- in the scheduler

    @contained()
    def set_xfer_handshake_metadata_pp_aware(self, metadata: Dict[Tuple[int, int], Any]) -> None:
        if self._scheduler is not None:
            self._scheduler.begin([metadata[rank] for rank in sorted(metadata)])

    @contained()
    def bind_kv_cache_manager(self, kv_cache_manager: Any) -> None:
        if self._scheduler is not None:
            self._scheduler.bind(kv_cache_manager)

    @contained(lambda: (0, False))
    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int
                                   ) -> Tuple[Optional[int], bool]:
        if self._scheduler is None:
            return 0, False
        return self._scheduler.matched(request, num_computed_tokens)

    @contained()
    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int
                                 ) -> None:
        if self._scheduler is not None:
            self._scheduler.allotted(request, blocks, num_external_tokens)

    @contained(dict)
    def get_external_cache_hit_sources(self, request: Any, num_external_tokens: int
                                       ) -> Dict[Any, int]:
        from vllm.v1.metrics.cache_hit_source import CacheHitSource

        if self._scheduler is None:
            return {}
        dram, ssd = self._scheduler.sources(request, num_external_tokens)
        both = {CacheHitSource.HOST: dram, CacheHitSource.DISK: ssd}
        return {source: tokens for source, tokens in both.items() if tokens}

    @contained(Orders)
    def build_connector_meta(self, scheduler_output: Any) -> Orders:
        return self._scheduler.orders(scheduler_output) if self._scheduler else Orders()

    @contained()
    def update_connector_output(self, connector_output: Any) -> None:
        if self._scheduler is not None:
            self._scheduler.loaded(set(connector_output.finished_recving or ()),
                                   set(connector_output.invalid_block_ids or ()),
                                   set(connector_output.failed_recving or ()))
            if isinstance(connector_output.kv_connector_worker_meta, Saved):
                self._scheduler.saved(connector_output.kv_connector_worker_meta)

    @contained(lambda: False)
    def has_pending_block_frees(self) -> bool:
        return self._scheduler is not None and self._scheduler.holds_pages()

    @contained(lambda: False)
    def has_pending_push_work(self) -> bool:
        """Steps go on until the pages that are held are given back: only steps bring the news."""
        return self._scheduler is not None and self._scheduler.holds_pages()

    @contained(lambda: (False, None))
    def request_finished_all_groups(self, request: Any, block_ids: Any
                                    ) -> Tuple[bool, Optional[Dict[str, Any]]]:
        waits = self._scheduler.finished(request) if self._scheduler is not None else False
        return waits, None

    def request_finished(self, request: Any, block_ids: Any
                         ) -> Tuple[bool, Optional[Dict[str, Any]]]:
        return self.request_finished_all_groups(request, (block_ids,))

    @contained(lambda: False)
    def reset_cache(self) -> bool:
        return self._scheduler.reset() if self._scheduler is not None else True

    # ---- both

    def get_kv_connector_stats(self) -> Optional[SkepStats]:
        return self.counts.take()

    @classmethod
    def build_kv_connector_stats(cls, data: Optional[Dict[str, Any]] = None) -> SkepStats:
        return SkepStats(data=data or {})

    @classmethod
    def build_prom_metrics(cls, vllm_config: Any, metric_types: Any, labelnames: Any,
                           per_engine_labelvalues: Any) -> SkepProm:
        return SkepProm(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    @contained()
    def shutdown(self) -> None:
        for half in (self._scheduler, self._worker):
            if half is not None:
                half.close()
