# SPDX-License-Identifier: Apache-2.0
"""The connector's half in a worker: its tensors, and what is moved between them and the store."""
import threading
from typing import Any, Dict, List, Optional, Set, Tuple

import torch

from skep.tensors import Tensors

from .contained import log, report
from .identity import Refused
from .mover import Mover, Saver, load
from .orders import Layout, LoadOrder, Orders, SaveOrder, SpaceFields
from .stats import Counts

_STOP_S = 1.0
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


def look(caches: Dict[str, Any], spec: Any, tokens: int, ranks: int, kv_dtype: str) -> Layout:
    """What the tensors are. Raises Refused."""
    tensors = list(caches.values())
    first = tensors[0]
    for tensor in tensors:
        if tensor.dim() != 4 or tensor.shape[2] != tokens:
            raise Refused(f"a cache of shape {tuple(tensor.shape)}")
        if (tensor.shape, tensor.stride(), tensor.dtype) != (
                first.shape, first.stride(), first.dtype):
            raise Refused("layers of different shapes")
    order = _dense_order(first)
    page_bytes = first[0].numel() * first.element_size()
    text = (f"{str(first.dtype).split('.')[-1]} kv={kv_dtype} layers={len(tensors)} "
            f"heads={spec.num_kv_heads * ranks} head_size={spec.head_size} "
            f"channels={first.shape[3]} order=layer,{order} {_arithmetic(first.device.type)}")
    return Layout(text, page_bytes, len(tensors))


def tensors_of(caches: Dict[str, Any], tokens: int) -> Tensors:
    """The same for a plan: of each page the bytes as they lie, in as many shares as tokens."""
    first = next(iter(caches.values()))
    page_bytes = first[0].numel() * first.element_size()
    share = page_bytes // tokens
    return Tensors(
        layers=len(caches), kinds=1, block_tokens=tokens, heads=1, head_bytes=share,
        ranges=len(caches) if page_bytes >= 4096 else 1, page_tokens=tokens,
        page_count=first.shape[0], page_stride=first.stride(0) * first.element_size(),
        token_stride=share, head_stride=share,
        bases=[tensor.data_ptr() for tensor in caches.values()])


class Worker:
    """One rank's half."""

    def __init__(self, config: Any, kv_config: Any, settings: Dict[str, Any], counts: Counts):
        from vllm.distributed.parallel_state import get_tensor_model_parallel_rank

        self._config = config
        self._spec = kv_config.kv_cache_groups[0].kv_cache_spec
        self._rank = get_tensor_model_parallel_rank()
        self._counts = counts
        # The tensors themselves, which stay as long as their addresses are used.
        self.caches: List[Any] = []
        self._tensors: Optional[Tensors] = None
        self._device: Tuple[str, int] = ("host", 0)
        self.layout: Optional[Layout] = None
        self._loader = Mover("load", settings, counts)
        self._mover = Mover("save", settings, counts)
        self._saver = Saver(self._mover, self._rank,
                            float(settings.get("save_timeout_ms", 2000)) / 1000)
        self._lock = threading.Lock()
        self._received: Set[str] = set()
        self._failed: Set[int] = set()
        self._owed: Set[str] = set()
        self._space: Optional[SpaceFields] = None

    def register(self, caches: Dict[str, Any]) -> None:
        tokens = self._spec.block_size
        try:
            self.layout = look(caches, self._spec, tokens,
                               self._config.parallel_config.tensor_parallel_size,
                               self._config.cache_config.cache_dtype)
            device = next(iter(caches.values())).device
            if device.type == "cuda":
                self._device = ("cuda", device.index or 0)
            elif device.type != "cpu":
                raise Refused(f"tensors on {device.type}")
            self.caches = list(caches.values())
            self._tensors = tensors_of(caches, tokens)
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
        failed: List[int] = order.pages
        try:
            if order.refs and self._opened(self._loader):
                failed = load(self._loader.plan, order, self._rank, stream)
        except Exception:  # its pages have failed
            report("a load")
            self._counts.add("exceptions", 1)
        self._counts.add("blocks_load_failed", len(failed))
        self._counts.add("blocks_loaded", len(order.pages) - len(failed))
        with self._lock:
            self._failed.update(failed)
            self._received.add(order.request)

    def begin_saves(self, orders: Orders) -> None:
        stream = self._stream() if orders.saves else 0
        for order in orders.saves:
            self._saver.push(order, lambda: self._opened(self._mover), stream)

    def finished(self, requests: Set[str], orders: Optional[Orders]) -> Tuple[Set[str], Set[str]]:
        """get_finished(): requests whose saves have ended, and whose loads have."""
        if orders is not None:
            self._owed |= orders.owed
        if requests:
            self._saver.forget(set(requests))
        sent = {request for request in self._owed if self._saver.is_idle(request)}
        self._owed -= sent
        with self._lock:
            received, self._received = self._received, set()
        return sent, received

    def failed(self) -> Set[int]:
        with self._lock:
            failed, self._failed = self._failed, set()
        return failed

    def close(self) -> None:
        for mover in (self._loader, self._mover):
            if mover.is_alive():
                mover.stop(_STOP_S, mover.close)
