# SPDX-License-Identifier: Apache-2.0
"""The connector's half in a worker: its tensors, and what is moved between them and the store."""
import hashlib
import json
import threading
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

import torch

from skep.tensors import Tensors

from .contained import log, report
from .identity import KINDS, Refused, windowed
from .mover import Mover, Saver, load
from .orders import Layout, LoadOrder, Orders, Saved, SpaceFields
from .stats import Counts

_STOP_S = 1.0
# A range of the store is no shorter.
_RANGE_BYTES_MIN = 4096
_DIMENSIONS = ("head", "token", "channel")


def _dense_order(tensor: Any) -> str:
    """In which order the dimensions of a page follow each other, where a page is one run of
    bytes."""
    order = sorted(range(1, tensor.dim()), key=lambda i: (-tensor.stride(i), tensor.shape[i]))
    expected = 1
    for i in reversed(order):
        if tensor.shape[i] != 1 and tensor.stride(i) != expected:
            raise Refused(f"pages of strides {tuple(tensor.stride())}")
        expected *= tensor.shape[i]
    if tensor.stride(0) < expected:
        raise Refused("pages that overlap")
    return ",".join(_DIMENSIONS[i - 1] for i in order)


def _arithmetic(device: str) -> str:
    """Whatever else decides how the bytes of a page are to be read."""
    if device != "cpu":
        return device
    return f"cpu amx={int(torch.cpu._is_amx_tile_supported())}"


def _group_text(group: Any) -> str:
    spec = group.kv_cache_spec
    return f"{KINDS[type(spec).__name__]}{getattr(spec, 'sliding_window', None) or ''}"


def _groups_text(kv_config: Any, caches: List[List[Any]]) -> str:
    """The cache groups and their layers, in the order in which the part has them; nothing for one
    group of full attention, which has them all."""
    groups = kv_config.kv_cache_groups
    if len(groups) == 1 and not windowed(kv_config):
        return ""
    names = hashlib.sha256(json.dumps([group.layer_names for group in groups]).encode())
    said = "+".join(f"{_group_text(group)}x{len(layers)}"
                    for group, layers in zip(groups, caches))
    return f"groups={said}:{names.hexdigest()[:8]} "


def caches_of(caches: Dict[str, Any], groups: List[Any]) -> List[List[Any]]:
    """The tensors of each cache group; layers that share one have it once. Raises Refused."""
    found = []
    for group in groups:
        missing = [name for name in group.layer_names if name not in caches]
        if missing:
            raise Refused(f"no tensor of layer {missing[0]}")
        tensors = {caches[name].data_ptr(): caches[name] for name in group.layer_names}
        found.append(list(tensors.values()))
    return found


def _ranges(page_bytes: int, layers: List[int]) -> int:
    """Into how many ranges a part is cut: a layer each, or so many together that no range is
    shorter than the store has them. None spans two groups."""
    together = next((count for count in range(1, min(layers) + 1)
                     if not any(each % count for each in layers)
                     and count * page_bytes >= _RANGE_BYTES_MIN), None)
    if together is not None:
        return sum(layers) // together
    if len(layers) > 1:
        raise Refused(f"cache groups of {layers} layers whose pages have {page_bytes} bytes")
    return 1


def look(caches: List[List[Any]], kv_config: Any, ranks: int, kv_dtype: str) -> Layout:
    """What the tensors are. Raises Refused."""
    groups = kv_config.kv_cache_groups
    spec, copies = groups[0].kv_cache_spec, getattr(kv_config, "kv_tp_replicas", 1)
    tensors = [tensor for layers in caches for tensor in layers]
    first = tensors[0]
    for tensor in tensors:
        if tensor.dim() != 4 or tensor.shape[2] != spec.block_size:
            raise Refused(f"a cache of shape {tuple(tensor.shape)}")
        if (tensor.shape, tensor.stride(), tensor.dtype) != (
                first.shape, first.stride(), first.dtype):
            raise Refused("layers of different shapes")
    order = _dense_order(first)
    page_bytes = first[0].numel() * first.element_size()
    text = (f"{str(first.dtype).split('.')[-1]} kv={kv_dtype} layers={len(tensors)} "
            f"{_groups_text(kv_config, caches)}heads={spec.num_kv_heads * (ranks // copies)} "
            f"head_size={spec.head_size} channels={first.shape[3]} "
            f"{f'on_ranks={ranks} ' if copies > 1 else ''}"
            f"order=layer,{order} {_arithmetic(first.device.type)}")
    return Layout(text, page_bytes * len(tensors),
                  _ranges(page_bytes, [len(layers) for layers in caches]), len(groups), copies)


def tensors_of(caches: List[List[Any]], layout: Layout, tokens: int) -> Tensors:
    """The same for a plan: of each page the bytes as they lie, in as many shares as tokens."""
    tensors = [tensor for layers in caches for tensor in layers]
    share = layout.part_bytes // len(tensors) // tokens
    return Tensors(
        layers=len(tensors), kinds=1, block_tokens=tokens, heads=1, head_bytes=share,
        ranges=layout.ranges, page_tokens=tokens, page_count=tensors[0].shape[0],
        page_stride=tensors[0].stride(0) * tensors[0].element_size(),
        token_stride=share, head_stride=share,
        bases=[tensor.data_ptr() for tensor in tensors],
        table_layers=[len(layers) for layers in caches] if len(caches) > 1 else ())


class Ended(NamedTuple):
    """Requests whose saves have ended, whose loads have, and of these such as failed as a whole."""

    sent: Set[str]
    received: Set[str]
    failed: Set[str]


class Worker:
    """One rank's half."""

    def __init__(self, config: Any, kv_config: Any, settings: Dict[str, Any], counts: Counts):
        from vllm.distributed.parallel_state import get_tensor_model_parallel_rank

        self._config = config
        self._kv_config = kv_config
        # Where ranks have the same KV, the first of them saves it and all load it.
        copies = getattr(kv_config, "kv_tp_replicas", 1)
        rank = get_tensor_model_parallel_rank()
        self._part, self._saves = rank // copies, rank % copies == 0
        # Where vLLM could not tell blocks by the numbers of their pages, loads fail as a whole.
        self._fails_whole = len(kv_config.kv_cache_groups) > 1 or bool(windowed(kv_config))
        self._counts = counts
        # The tensors themselves, which stay as long as their addresses are used.
        self.caches: List[List[Any]] = []
        self._tensors: Optional[Tensors] = None
        self._device: Tuple[str, int] = ("host", 0)
        self.layout: Optional[Layout] = None
        self._loader = Mover("load", settings, counts)
        self._mover = Mover("save", settings, counts)
        self._saver = Saver(self._mover, self._part,
                            float(settings.get("save_timeout_ms", 2000)) / 1000)
        self._lock = threading.Lock()
        self._received: Set[str] = set()
        self._failed: Set[int] = set()
        self._failed_requests: Set[str] = set()
        self._owed: Set[str] = set()
        self._space: Optional[SpaceFields] = None

    def register(self, caches: Dict[str, Any]) -> None:
        groups = self._kv_config.kv_cache_groups
        try:
            self.caches = caches_of(caches, groups)
            self.layout = look(self.caches, self._kv_config,
                               self._config.parallel_config.tensor_parallel_size,
                               self._config.cache_config.cache_dtype)
            device = self.caches[0][0].device
            if device.type == "cuda":
                self._device = ("cuda", device.index or 0)
            elif device.type != "cpu":
                raise Refused(f"tensors on {device.type}")
            self._tensors = tensors_of(self.caches, self.layout,
                                       groups[0].kv_cache_spec.block_size)
        except Refused as refusal:
            log.warning("skep: not used: %s", refusal)
            self.layout = Layout(refusal=str(refusal))
        self._loader.start()
        self._mover.start()

    def _stream(self) -> int:
        if self._device[0] == "cuda":
            return torch.cuda.current_stream().cuda_stream
        return 0

    def _opened(self, mover: Mover) -> bool:
        return self._space is not None and self._tensors is not None and mover.open(
            self._space, self._tensors, *self._device)

    # ---- a step

    def preempt(self, orders: Orders) -> None:
        """Before pages are overwritten."""
        if orders.preempted:
            self._saver.cancel(orders.preempted)

    def begin_loads(self, orders: Orders) -> None:
        if orders.space is not None and self._space is None:
            self._space = orders.space
            for mover in (self._loader, self._mover):
                mover.push(lambda mover=mover: self._opened(mover))
        stream = self._stream() if orders.loads else 0
        for order in orders.loads:
            self._loader.push(lambda order=order: self._load(order, stream))

    def _load(self, order: LoadOrder, stream: int) -> None:
        failed = list(range(order.blocks))
        try:
            if order.refs and self._opened(self._loader):
                failed = load(self._loader.plan, order, self._part, stream)
        except Exception:  # its pages have failed
            report("a load")
            self._counts.add("exceptions", 1)
        self._counts.add("blocks_load_failed", len(failed))
        self._counts.add("blocks_loaded", order.blocks - len(failed))
        with self._lock:
            if not self._fails_whole:
                self._failed.update(order.pages[0][block] for block in failed)
            elif failed:
                self._failed_requests.add(order.request)
            self._received.add(order.request)

    def begin_saves(self, orders: Orders) -> None:
        if not orders.saves or not self._saves:
            return
        stream = self._stream()
        for order in orders.saves:
            self._saver.push(order, lambda: self._opened(self._mover), stream)

    def finished(self, requests: Set[str], orders: Optional[Orders]) -> Ended:
        """get_transfer_results()."""
        if orders is not None:
            self._owed |= orders.owed
        if requests:
            self._saver.forget(set(requests))
        sent = {request for request in self._owed if self._saver.is_idle(request)}
        self._owed -= sent
        with self._lock:
            received, self._received = self._received, set()
            failed, self._failed_requests = self._failed_requests, set()
        return Ended(sent, received, failed)

    def saved(self) -> Optional[Saved]:
        """build_connector_worker_meta(): how far the saves have come, where it is news."""
        number = self._saver.ended()
        return Saved({self._part: number}) if number is not None else None

    def failed(self) -> Set[int]:
        with self._lock:
            failed, self._failed = self._failed, set()
        return failed

    def close(self) -> None:
        for mover in (self._loader, self._mover):
            if mover.is_alive():
                mover.stop(_STOP_S, mover.close)
