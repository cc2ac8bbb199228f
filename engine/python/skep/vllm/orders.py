# SPDX-License-Identifier: Apache-2.0
"""What the scheduler's side tells the workers', step by step. Plain data: it is pickled."""
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Set, Tuple

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

# vLLM's number for "no page": what a cache group has dropped, or never needed.
NULL_PAGE = 0


@dataclass(frozen=True)
class SpaceFields:
    """Arguments of Session.space()."""

    name: str
    model: str
    weights: str
    rope: str
    layout: str
    engine: str
    block_tokens: int
    ranks: int
    parts: Tuple[Tuple[int, int, int], ...]

    def open(self, session):
        return session.space(
            self.name, self.parts, self.block_tokens, model=self.model, weights=self.weights,
            rope=self.rope, layout=self.layout, engine=self.engine, ranks=self.ranks,
            opaque=True)


@dataclass
class Layout(KVConnectorHandshakeMetadata):
    """What a worker found its tensors to be: bytes and ranges of its part, cache groups, and how
    many ranks have the same KV. refusal: why it cannot serve them, or empty."""

    text: str = ""
    part_bytes: int = 0
    ranges: int = 0
    groups: int = 0
    copies: int = 1
    refusal: str = ""


@dataclass
class LoadOrder:
    """Fill these pages of a request, a list a cache group (NO_PAGE: not wanted there); those beyond
    the references have failed already."""

    request: str
    pages: List[List[int]]
    refs: bytes = b""

    @property
    def blocks(self) -> int:
        return len(self.pages[0])


@dataclass
class SaveOrder:
    """Save a request's blocks from @first on; @pages are theirs, a list a cache group. @number
    rises from order to order.

    The worker's chain of the request has @at blocks; @keys and @tokens are of those after.
    """

    request: str
    at: int
    keys: bytes
    key_bytes: int
    tokens: bytes
    first: int
    pages: List[List[int]]
    number: int

    @property
    def blocks(self) -> int:
        return len(self.pages[0])


@dataclass
class Orders(KVConnectorMetadata):
    """One step's. preempted: their pages are about to be given to others; owed: finished requests
    whose pages wait for the workers' word that all is saved."""

    space: Optional[SpaceFields] = None
    loads: List[LoadOrder] = field(default_factory=list)
    saves: List[SaveOrder] = field(default_factory=list)
    preempted: Set[str] = field(default_factory=set)
    owed: Set[str] = field(default_factory=set)


@dataclass
class Saved(KVConnectorWorkerMetadata):
    """What the workers' side tells the scheduler's: of each part, the number of the last save that
    has ended. Nothing reads the pages of those up to it any more."""

    parts: Dict[int, int]

    def aggregate(self, other: "Saved") -> "Saved":
        self.parts.update(other.parts)
        return self
