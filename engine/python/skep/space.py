# SPDX-License-Identifier: Apache-2.0
"""Spaces, and chains: what names blocks."""
import ctypes
from typing import Any, NamedTuple, Optional, Sequence

from . import _structs as c
from ._library import lib
from ._memory import Borrowed
from ._time import deadline
from .errors import Error, check

_CHAIN = "skep_chain_append"


class Part(NamedTuple):
    """One part of a block: its bytes, into how many ranges they are cut, who writes it."""

    bytes: int
    ranges: int = 1
    rank: int = 0
    group: int = 0


def text(value: Optional[str]) -> Optional[bytes]:
    """Text for C."""
    if value is None:
        return None
    encoded = value.encode()
    if b"\0" in encoded:
        raise ValueError("a text with a NUL in it")
    return encoded


class Space:
    """What makes the blocks of two engines interchangeable. Made by Session.space()."""

    def __init__(self, session: "Any", name: str, parts: Sequence[Part], block_tokens: int,
                 *, model: str = "", weights: str = "", rope: str = "", layout: str = "",
                 engine: str = "", ranks: int = 0, groups: int = 0, opaque: bool = False):
        handle = session.enter()
        self.session = session
        self.name = name
        self.parts = tuple(Part(*part) for part in parts)
        self.block_tokens = block_tokens
        self.opaque = opaque
        layouts = (c.PartLayout * len(self.parts))(*self.parts)
        options = c.made(
            c.SpaceOptions, name=text(name), model=text(model), weights=text(weights),
            rope=text(rope), layout=text(layout), engine=text(engine),
            block_tokens=block_tokens, ranks=ranks, groups=groups, part_count=len(self.parts),
            parts=ctypes.addressof(layouts), flags=1 if opaque else 0)
        out = ctypes.c_void_p()
        status = lib.skep_space_open(handle, ctypes.byref(options), ctypes.byref(out))
        if status < 0:
            field = lib.skep_space_field(handle).decode()
            raise Error(status, f"space {name!r}", field)
        self._handle = out.value
        # Chains that C has of this space; they go before it.
        self.chains = set()

    def enter(self) -> int:
        self.session.enter()
        if self._handle is None:
            raise ValueError("the space is closed")
        return self._handle

    def chain(self, tokens: Any = None) -> "Chain":
        """A chain, of these tokens where they are given."""
        chain = Chain(self)
        if tokens is not None:
            chain.append(tokens)
        return chain

    def purge(self, timeout: Optional[float] = 10.0) -> int:
        """Removes every block of the space. How many they were."""
        return check(lib.skep_space_purge(self.enter(), deadline(timeout)), "purge")

    def step(self, timeout: Optional[float] = 10.0) -> int:
        """The weights changed in place: no older block is matched again. The new version."""
        return check(lib.skep_space_step(self.enter(), deadline(timeout)), "step")

    def sync(self, timeout: Optional[float] = 10.0) -> None:
        """Waits until all that was put before is durable."""
        check(lib.skep_sync(self.enter(), deadline(timeout)), "sync")

    def close(self) -> None:
        """Lets go of the space and its chains; the blocks stay."""
        handle, self._handle = self._handle, None
        if handle is not None and self.session.usable():
            destroy_space(self.chains, handle)

    def __del__(self):
        if getattr(self, "_handle", None) is not None:
            self.session.drop(destroy_space, self.chains, self._handle)


def destroy_space(chains: set, handle: int) -> None:
    """A finalizer may run before those of its chains."""
    while chains:
        lib.skep_chain_destroy(chains.pop())
    lib.skep_space_close(handle)


def destroy_chain(chains: set, handle: int) -> None:
    if handle in chains:
        chains.remove(handle)
        lib.skep_chain_destroy(handle)


class Chain:
    """The names of the blocks of one token sequence, in order. len() is its whole blocks."""

    def __init__(self, space: Space):
        out = ctypes.c_void_p()
        check(lib.skep_chain_create(space.enter(), ctypes.byref(out)), "skep_chain_create")
        self.space = space
        self._handle = out.value
        self._blocks = 0
        space.chains.add(self._handle)

    def enter(self) -> int:
        self.space.enter()
        if self._handle is None:
            raise ValueError("the chain is closed")
        return self._handle

    def __len__(self) -> int:
        return self._blocks

    def append(self, tokens: Any) -> int:
        """Appends tokens: a contiguous buffer of integers of 32 or 64 bits, or a list. The whole
        blocks so far."""
        handle = self.enter()
        with Borrowed() as held:
            address, count, width = held.integers(tokens, "tokens")
            call = lib.skep_chain_append if width == 4 else lib.skep_chain_append64
            self._blocks = check(call(handle, address, count), _CHAIN)
        return self._blocks

    def extra(self, key: Any) -> None:
        """Binds extra keys (LoRA, image digests, salt) to the block now being filled."""
        handle = self.enter()
        with Borrowed() as held:
            check(lib.skep_chain_extra(handle, *held.take(key)), "skep_chain_extra")

    def append_keys(self, keys: Any, *, key_bytes: int = 0, tokens: Any = None) -> int:
        """Appends blocks by the engine's own keys: a sequence of bytes, all of one length, or a
        buffer of keys of @key_bytes each. @tokens: of all these blocks, kept beside them."""
        handle = self.enter()
        with Borrowed() as held:
            address, key_bytes, count = held.keys(keys, key_bytes)
            run = c.made(c.Keys, keys=address, key_bytes=key_bytes, count=count)
            if run.count and tokens is not None:
                run.tokens, count = held.narrow(tokens, "tokens")
                if count % run.count:
                    raise ValueError(f"{count} tokens are no equal shares of {run.count} blocks")
                run.token_count = count // run.count
            if run.count:
                self._blocks = check(
                    lib.skep_chain_append_keys(handle, ctypes.byref(run)), _CHAIN)
        return self._blocks

    def truncate(self, blocks: int) -> None:
        """Cuts the chain back to its first blocks, for use by another prompt."""
        if blocks < 0:
            raise ValueError("a negative number of blocks")
        lib.skep_chain_truncate(self.enter(), min(blocks, self._blocks))
        self._blocks = min(blocks, self._blocks)

    def id(self, block: int) -> bytes:
        """The 16 bytes of a block's id."""
        out = ctypes.create_string_buffer(16)
        check(lib.skep_chain_id(self.enter(), block, out), "skep_chain_id")
        return out.raw

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None and self.space.session.usable():
            destroy_chain(self.space.chains, handle)

    def __del__(self):
        if getattr(self, "_handle", None) is not None:
            self.space.session.drop(destroy_chain, self.space.chains, self._handle)
