# SPDX-License-Identifier: Apache-2.0
"""What the connector counts, and how vLLM shows it."""
import threading
from typing import Any, Dict, Optional

from prometheus_client import Counter
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
    KVConnectorPromMetrics,
    KVConnectorStats,
)

# name: what it counts. Scheduler: requests and tokens; each worker: blocks of its own part.
COUNTERS = {
    "hit_tokens_dram": "Tokens promised to the scheduler that lay in DRAM",
    "hit_tokens_ssd": "Tokens promised to the scheduler that were brought in from SSD",
    "blocks_loaded": "Blocks loaded and verified, of each rank",
    "blocks_load_failed": "Blocks that could not be loaded and are computed anew, of each rank",
    "blocks_saved": "Blocks saved, of each rank",
    "blocks_save_failed": "Blocks that were not saved, of each rank",
    "exceptions": "Faults inside the connector, each of which cost a miss",
}


class Counts:
    """Counters of one process, added to by several threads."""

    def __init__(self):
        self._lock = threading.Lock()
        self._values: Dict[str, int] = {}

    def add(self, name: str, count: int) -> None:
        if count:
            with self._lock:
                self._values[name] = self._values.get(name, 0) + count

    def take(self) -> Optional["SkepStats"]:
        """What was counted since the last call; None: nothing."""
        with self._lock:
            values, self._values = self._values, {}
        return SkepStats(data=values) if values else None


class SkepStats(KVConnectorStats):
    """Sums by name."""

    def reset(self) -> None:
        self.data = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        for name, value in other.data.items():
            self.data[name] = self.data.get(name, 0) + value
        return self

    def reduce(self) -> Dict[str, Any]:
        return dict(self.data)

    def is_empty(self) -> bool:
        return not self.data


class SkepProm(KVConnectorPromMetrics):
    """The counters as vLLM's own metrics: vllm:skep_…"""

    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: Any, labelvalues: Any):
        super().__init__(vllm_config, metric_types, labelnames, labelvalues)
        counter_of = metric_types[Counter]
        self._counters = {
            name: {index: counter_of(name=f"vllm:skep_{name}", documentation=what,
                                     labelnames=labelnames).labels(*values)
                   for index, values in labelvalues.items()}
            for name, what in COUNTERS.items()}

    def observe(self, transfer_stats_data: Dict[str, Any], engine_idx: int = 0) -> None:
        for name, value in transfer_stats_data.items():
            if name in self._counters:
                self._counters[name][engine_idx].inc(value)
