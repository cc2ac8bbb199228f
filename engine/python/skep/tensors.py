# SPDX-License-Identifier: Apache-2.0
"""Between an engine's KV tensors and the store, over libskep-gpu.so.

A plan says once where the tensors lie; then blocks are saved from their pages and loaded into
them, many in one call. What a job moves belongs to it until end() or abort(): pages being saved
are not overwritten, pages being loaded are not read or given away.
"""
import ctypes
from array import array
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence

from . import _structs as c
from ._library import gpu
from ._memory import Borrowed, address_of
from ._time import deadline
from .errors import check, check_passing
from .run import Refs
from .space import Chain, Part, Space

# In pages to load into: these tokens are not wanted (they lie before a sliding window).
NO_PAGE = 0xFFFFFFFF
KINDS = {"host": 0, "cuda": 1}
ORDERS = {"layer": 0, "token": 1}
UNREGISTERED = 1  # enum skep_gpu_flag


@dataclass
class Tensors:
    """An engine's tensors and the parts that are made of them; struct skep_gpu_tensors says what
    each field is. bases: addresses, layer by layer, K before V; order: "layer" or "token" major.
    table_layers: where groups of layers have pages of their own, the layers of each, which follow
    each other; pages are then given table after table. part() needs no bases and strides."""

    layers: int
    block_tokens: int
    heads: int
    head_bytes: int
    kinds: int = 2
    order: str = "layer"
    ranges: int = 0
    page_tokens: int = 0
    page_count: int = 0
    bases: Sequence[int] = ()
    page_stride: int = 0
    token_stride: int = 0
    head_stride: int = 0
    blocks_max: int = 0
    jobs: int = 0
    table_layers: Sequence[int] = ()

    @property
    def tables(self) -> int:
        return len(self.table_layers) or 1

    def struct(self, bases: array, table_layers: array) -> c.GpuTensors:
        return c.made(
            c.GpuTensors, order=ORDERS[self.order], layers=self.layers, kinds=self.kinds,
            block_tokens=self.block_tokens, heads=self.heads, head_bytes=self.head_bytes,
            ranges=self.ranges, page_tokens=self.page_tokens, page_count=self.page_count,
            blocks_max=self.blocks_max, jobs=self.jobs,
            bases=address_of(bases) if len(bases) else None, page_stride=self.page_stride,
            token_stride=self.token_stride, head_stride=self.head_stride,
            table_layers=address_of(table_layers) if len(table_layers) else None,
            tables=len(table_layers))

    def part(self, rank: int = 0) -> Part:
        """What a part of these tensors is, for Session.space()."""
        layout = c.PartLayout()
        tensors = self.struct(array("Q"), array("I"))
        check(gpu().skep_gpu_part(ctypes.byref(tensors), ctypes.byref(layout)), "skep_gpu_part")
        return Part(layout.bytes, layout.ranges, rank)


class Device:
    """Where tensors lie: "host", this process's memory, or "cuda", GPU number @device.
    register: make the pool's memory known to a GPU, in the background."""

    def __init__(self, session: Any, kind: str = "host", *, device: int = 0, ring_slots: int = 0,
                 ring_parts: int = 0, register: bool = True):
        out = ctypes.c_void_p()
        options = c.made(c.GpuOptions, kind=KINDS[kind], device=device, ring_slots=ring_slots,
                         ring_parts=ring_parts, flags=0 if register else UNREGISTERED)
        check(gpu().skep_gpu_open(session.enter(), ctypes.byref(options), ctypes.byref(out)),
              f"device {kind}")
        self.session = session
        self.handle = out.value
        self._plans: List["Plan"] = []
        session.close_first(self.close)

    def plan(self, space: Space, tensors: Tensors) -> "Plan":
        """Makes ready to save and load; all memory that jobs need is taken here."""
        if len(tensors.bases) != tensors.layers * tensors.kinds:
            raise ValueError(f"{len(tensors.bases)} bases for {tensors.layers} layers of "
                             f"{tensors.kinds} tensors")
        if self.handle is None:
            raise ValueError("the device is closed")
        plan = Plan(self, space, tensors)
        self._plans.append(plan)
        return plan

    def stats(self) -> Dict[str, int]:
        """How parts pass between pool and device, as struct skep_gpu_stats names it."""
        self.session.enter()
        if self.handle is None:
            raise ValueError("the device is closed")
        stats = c.made(c.GpuStats)
        check(gpu().skep_gpu_stats(self.handle, ctypes.byref(stats)), "skep_gpu_stats")
        return {name: getattr(stats, name) for name, *_ in c.GpuStats._fields_[1:]}

    def close(self) -> None:
        """Closes its plans, and it. The session does it when it is closed."""
        for plan in self._plans:
            plan.close()
        self._plans.clear()
        handle, self.handle = self.handle, None
        if handle is not None and self.session.usable():
            gpu().skep_gpu_close(handle)
        self.session.closed(self.close)

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class Plan:
    """Where tensors lie, made ready. Made by Device.plan()."""

    def __init__(self, device: Device, space: Space, tensors: Tensors):
        out = ctypes.c_void_p()
        bases, table_layers = array("Q", tensors.bases), array("I", tensors.table_layers)
        check(gpu().skep_gpu_plan_create(
            device.handle, space.enter(), ctypes.byref(tensors.struct(bases, table_layers)),
            ctypes.byref(out)), "skep_gpu_plan_create")
        self.session = device.session
        self.space = space
        self._tables = tensors.tables
        self._handle = out.value
        self.jobs: set = set()

    def enter(self) -> int:
        self.session.enter()
        if self._handle is None:
            raise ValueError("the plan is closed")
        return self._handle

    def save(self, chain: Chain, pages: Any, *, first: int = 0, count: Optional[int] = None,
             part: int = 0, first_slot: int = 0, stream: int = 0,
             timeout: Optional[float] = 0) -> "Job":
        """Begins to save blocks. pages: numbers, a buffer or a list, in the order of the tokens (as
        many of each table, table after table); first_slot: in the first page, of the run's first
        token; stream: the engine's CUDA stream.

        The job is about a leading part of the blocks; where it is about none, job.status says why.
        """
        handle, job = self.enter(), ctypes.c_void_p()
        with Borrowed() as held:
            numbers, page_count = held.narrow(pages, "pages")
            request = c.made(
                c.GpuSave, chain=chain.enter(), first=first, part=part, stream=stream,
                count=len(chain) - first if count is None else count,
                pages=c.GpuPages(numbers, page_count // self._tables, first_slot),
                deadline_ns=deadline(timeout))
            result = check_passing(gpu().skep_gpu_save_begin(
                handle, ctypes.byref(request), ctypes.byref(job)), "skep_gpu_save_begin")
        return Job(self, job.value, result, request.first_missing)

    def load(self, refs: Refs, pages: Any, *, part: int = 0, first_slot: int = 0,
             stream: int = 0) -> "Job":
        """Pins blocks and begins to fill the tensors from them; arguments as for save()."""
        handle, job = self.enter(), ctypes.c_void_p()
        with Borrowed() as held:
            numbers, page_count = held.narrow(pages, "pages")
            data = ctypes.create_string_buffer(refs.data, max(len(refs.data), 1))
            request = c.made(
                c.GpuLoad, refs=ctypes.addressof(data), count=len(refs), part=part,
                pages=c.GpuPages(numbers, page_count // self._tables, first_slot), stream=stream)
            result = check_passing(gpu().skep_gpu_load_begin(
                handle, ctypes.byref(request), ctypes.byref(job)), "skep_gpu_load_begin")
        return Job(self, job.value, result, 0)

    def close(self) -> None:
        """Lets go of the plan; jobs still under way are aborted."""
        handle, self._handle = self._handle, None
        for job in self.jobs:
            job.forget()
        self.jobs.clear()
        if handle is not None and self.session.usable():
            gpu().skep_gpu_plan_destroy(handle)


class Job:
    """A save or a load under way. blocks: leading blocks it is about; status: why it is none."""

    def __init__(self, plan: Plan, handle: Optional[int], result: int, first_missing: int):
        self.blocks = max(result, 0)
        self.status = min(result, 0)
        self.first_missing = first_missing
        self._plan = plan
        self._handle = handle if result > 0 else None
        if self._handle is not None:
            # A job that nobody ends stays with its plan, since its pages are not free.
            plan.jobs.add(self)

    def forget(self) -> None:
        self._handle = None

    def done(self) -> bool:
        """Would end() find the bytes moved? Never waits."""
        if self._handle is None:
            return True
        self._plan.enter()
        return check(gpu().skep_gpu_done(self._handle), "skep_gpu_done") == 1

    def end(self, timeout: Optional[float] = 1.0) -> List[int]:
        """Waits for the job and ends it. The status of each block: 0 it is saved (loaded), else
        -EEXIST, EPENDING; ECHECKSUM, -ESTALE: its pages hold nothing of use."""
        if self._handle is None:
            return []
        self._plan.enter()
        statuses = array("i", bytes(4 * self.blocks))
        handle = self._leave()
        self.status = min(0, check_passing(gpu().skep_gpu_end(
            handle, address_of(statuses), deadline(timeout)), "skep_gpu_end"))
        return statuses.tolist()

    def abort(self) -> None:
        """Waits until nothing of the job touches the pages any more, and drops it."""
        if self._handle is not None:
            self._plan.enter()
            gpu().skep_gpu_abort(self._leave())

    def _leave(self) -> int:
        handle, self._handle = self._handle, None
        self._plan.jobs.discard(self)
        return handle
