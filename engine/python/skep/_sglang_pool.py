# SPDX-License-Identifier: Apache-2.0
"""A host pool of SGLang as blocks of a space: names, places of pages, the space's fingerprint."""
import hashlib
import struct
from array import array
from typing import Any, List, Sequence

from ._door import SpaceWant, key_digest
from ._memory import Pieces

_TEXT_MAX = 255
_ANY_RANK = 0xffff
# Pools that are cut by rank also where the pages of the model are not.
_BY_RANK = ("mamba",)
_DRAFTS = ("draft",)
_REPLICATED_KINDS = ("MLA", "DeepSeekV4")


def raw_key(key: str) -> bytes:
    """SGLang's key of a page is the hex of 32 bytes; any other one is hashed to 32."""
    if len(key) == 64:
        try:
            raw = bytes.fromhex(key)
        except ValueError:
            raw = b""
        if raw.hex() == key:
            return raw
    return key_digest(key)


def _text(value: Any) -> str:
    text = str(value or "")
    return text if len(text.encode()) <= _TEXT_MAX else key_digest(text).hex()


class Pool:
    """Pages of a host pool: as pieces where they lie, or flat, copied by the pool's own calls.

    Flat are the pages that the engine hands over as tensors, and those of a pool that tells no
    addresses. logical: a pool that has indices alone, no bytes. shared: every rank of tensor
    parallelism has the same bytes, and one writes them.
    """

    def __init__(self, name: str, host: Any, config: Any, prefix: str, flat: bool = False):
        self.name = name
        self.host = host
        self.page_tokens = getattr(host, "page_size", 1) or 1
        self.logical = getattr(host, "kv_buffer", host) is None
        self.shared = config.is_mla_model and self._replicated()
        self.flat = flat
        self.each, self.bytes = (1, 0) if self.logical else self._shape()
        rank = _ANY_RANK if self.shared else config.tp_rank
        self._tail = struct.pack("<HHI", rank, config.attn_cp_rank, 0)
        self.want = self._want(config, prefix)

    def _replicated(self) -> bool:
        kinds = " ".join(kind.__name__ for kind in type(self.host).__mro__)
        if self.name in _BY_RANK:
            return False
        return not self.name.startswith(_DRAFTS) or any(kind in kinds
                                                        for kind in _REPLICATED_KINDS)

    def _shape(self) -> tuple:
        """Pieces and bytes of a page."""
        if not self.flat:
            try:
                _, sizes = self.host.get_page_buffer_meta(_first_page(self.page_tokens))
                return len(sizes), sum(sizes)
            except (AttributeError, NotImplementedError, ValueError):
                self.flat = True
        page = self.host.get_dummy_flat_data_page()
        return 1, page.numel() * page.element_size()

    def _want(self, config: Any, prefix: str) -> SpaceWant:
        kind = "flat" if self.flat else f"{self.each} pieces"
        ranks = "any" if self.shared else config.tp_size
        texts = {
            "model": _text(config.model_name),
            "layout": _text(f"{getattr(self.host, 'layout', '')} "
                            f"{getattr(self.host, 'dtype', '')} {kind} of {self.bytes} bytes"),
            "engine": _text(f"sglang {self.name} tp {ranks} pp {config.pp_rank}/{config.pp_size} "
                            f"cp {config.attn_cp_size} page {self.page_tokens}")}
        digest = hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest()[:16]
        # The longest name of a space is 63.
        return SpaceWant(f"{prefix[:16]}.{self.name[:28]}.{digest}", max(self.bytes, 1),
                         self.page_tokens, texts)

    def names(self, keys: Sequence[str]) -> List[bytes]:
        return [raw_key(key) + self._tail for key in keys]

    def _pieces(self, host_indices: Any) -> Pieces:
        addresses, sizes = self.host.get_page_buffer_meta(host_indices)
        words = array("Q", bytes(16 * len(addresses)))
        words[0::2] = array("Q", addresses)
        words[1::2] = array("Q", sizes)
        return Pieces(words, self.each)

    def _firsts(self, host_indices: Any) -> List[int]:
        return host_indices[::self.page_tokens].tolist()

    def pages(self, host_indices: Any) -> Any:
        """The pages that stand there, to be put."""
        if not self.flat:
            return self._pieces(host_indices)
        return [self.host.get_data_page(index, flat=True).contiguous()
                for index in self._firsts(host_indices)]

    def room(self, host_indices: Any) -> Any:
        """Where pages are to be copied; filled() ends it."""
        if not self.flat:
            return self._pieces(host_indices)
        return [self.host.get_dummy_flat_data_page() for _ in self._firsts(host_indices)]

    def filled(self, host_indices: Any, room: Any, statuses: Sequence[int]) -> None:
        if self.flat:
            for index, page, status in zip(self._firsts(host_indices), room, statuses):
                if status == 0:
                    self.host.set_from_flat_data_page(index, page)


def _first_page(tokens: int) -> Any:
    import torch  # the engine's; a pool reads indices of its kind
    return torch.arange(tokens)
