# SPDX-License-Identifier: Apache-2.0
"""The connector's half in vLLM's scheduler: what is there, what to load, what to save."""
import threading
import time
from array import array
from collections import deque
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Set, Tuple

from vllm.v1.core import kv_cache_utils

import skep
from skep.tensors import NO_PAGE

from .contained import log, report
from .identity import Refused, require_served, space_fields, windowed
from .mover import open_session
from .orders import NULL_PAGE, Layout, LoadOrder, Orders, Saved, SaveOrder, SpaceFields
from .stats import Counts

_RETRY_S = 0.5


class Opener(threading.Thread):
    """Makes the space's fields and opens it, where that may take its time; then `found` is set
    and the session is the scheduler's."""

    def __init__(self, config: Any, layouts: List[Layout], sizes: Tuple[int, int],
                 settings: Dict[str, Any]):
        super().__init__(name="skep-open", daemon=True)
        self.found: Optional[Tuple[skep.Session, skep.Space, SpaceFields]] = None
        self._config = config
        self._layouts = layouts
        self._sizes = sizes
        self._settings = settings
        self._ended = threading.Event()

    def stop(self) -> None:
        self._ended.set()

    def _await_hashes(self) -> None:
        """vLLM chooses the root of its hashes after it has asked the workers for their layouts."""
        while not hasattr(kv_cache_utils, "NONE_HASH") and not self._ended.is_set():
            self._ended.wait(0.02)

    def run(self) -> None:
        try:
            self._await_hashes()
            fields = space_fields(self._config, self._layouts, *self._sizes, self._settings)
            session = open_session(self._settings)
            while not self._ended.is_set() and self.found is None:
                self._try(session, fields)
                self._ended.wait(0 if self.found else _RETRY_S)
        except Refused as refusal:
            log.warning("skep: not used: %s", refusal)
        except Exception:
            report("opening the space")

    def _try(self, session: skep.Session, fields: SpaceFields) -> None:
        try:
            if session.attached:
                space = fields.open(session)
                log.info("skep: space %s of blocks of %d tokens", fields.name,
                         fields.block_tokens)
                self.found = (session, space, fields)
        except skep.Error as error:
            log.warning("skep: space %s: %s", fields.name, error)


class Tracked:
    """A request of the engine."""

    def __init__(self, request: Any):
        self.request = request
        self.chain: Optional[skep.Chain] = None
        # Keys and tokens of the chain's blocks; the workers have those of `sent` of them.
        self.keys = bytearray()
        self.tokens = array("I")
        self.last_key = b""
        self.sent = 0
        # Blocks that were saved, or looked at.
        self.saved = 0
        self.ever_saved = False
        # The last save that went out: up to which block, and its number.
        self.ordered = self.number = 0
        # Of the last question: the first block promised; where some were brought in from the
        # ssd, how many lay in DRAM before.
        self.first = 0
        self.bringing: Optional[Bringing] = None
        self.brought: Optional[skep.Run] = None
        self.hold_until = 0.0
        self.resident = 0
        self.failed = False


    def restart(self) -> None:
        """Its chain begins anew."""
        self.chain.truncate(0)
        self.keys.clear()
        del self.tokens[:]
        self.sent = self.saved = self.ordered = 0


class Bringing:
    """Blocks on their way from the ssd."""

    def __init__(self, load: Any, user: int):
        self.load = load
        self.user = user


class Loading(NamedTuple):
    """A load that the workers were told of; the run is held until they are done."""

    order: LoadOrder
    run: skep.Run
    ssd_tokens: int


class Held(NamedTuple):
    """Pages of a save, of which vLLM may take back its own share while they are read."""

    number: int
    blocks: List[Any]


class Scheduler:
    """settings: of kv_connector_extra_config."""

    def __init__(self, config: Any, kv_config: Any, settings: Dict[str, Any], counts: Counts):
        self._config = config
        self._settings = settings
        self._counts = counts
        self._timeout = float(settings.get("load_timeout_ms", 1000)) / 1000
        require_served(config, kv_config)
        self._block_tokens = kv_config.kv_cache_groups[0].kv_cache_spec.block_size
        self._windowed = windowed(kv_config)
        self._ratio = 1
        self._opener: Optional[Opener] = None
        self._session: Optional[skep.Session] = None
        self._space: Optional[skep.Space] = None
        self._queue: Optional[skep.Queue] = None
        self._fields: Optional[SpaceFields] = None
        self._requests: Dict[str, Tracked] = {}
        self._users = 0
        self._events: Set[int] = set()
        self._abandoned: Dict[int, Bringing] = {}
        self._loads: List[LoadOrder] = []
        self._loading: Dict[str, Loading] = {}
        # Requests that hold pages for a load and have not run since, and such as lost theirs when
        # it failed.
        self._coming: Set[str] = set()
        self._retrying: Set[str] = set()
        self._owed: Set[str] = set()
        self._manager: Any = None
        self._number = 0
        self._held: Deque[Held] = deque()
        # Of each part the number of the last save that has ended, and the least of these.
        self._ended: Dict[int, int] = {}
        self._all_ended = 0

    def bind(self, manager: Any) -> None:
        self._manager = manager
        self._ratio = self._block_tokens // manager.block_pool.hash_block_size

    def begin(self, layouts: List[Layout]) -> None:
        self._opener = Opener(self._config, layouts, (self._block_tokens, self._ratio),
                              self._settings)
        self._opener.start()

    def _is_open(self) -> bool:
        if self._session is None and self._opener is not None and self._opener.found:
            self._session, self._space, self._fields = self._opener.found
        return self._session is not None

    # ---- requests

    def _track(self, request: Any) -> Tracked:
        tracked = self._requests.get(request.request_id)
        if tracked is None:
            tracked = self._requests[request.request_id] = Tracked(request)
        return tracked

    def _extend(self, tracked: Tracked) -> int:
        """The request's chain with all blocks that vLLM has hashed; how many."""
        if tracked.chain is None:
            tracked.chain = self._space.chain()
        hashes = tracked.request.block_hashes
        have, count = len(tracked.chain), len(hashes) // self._ratio
        if have > count or have and hashes[have * self._ratio - 1] != tracked.last_key:
            # The request was given another prompt.
            tracked.restart()
            have = 0
        if count > have:
            # The hash of a block's last share covers the whole of it and all before.
            new = hashes[(have + 1) * self._ratio - 1:count * self._ratio:self._ratio]
            keys = b"".join(new)
            tokens = array("I", tracked.request.all_token_ids[
                have * self._block_tokens:count * self._block_tokens])
            tracked.chain.append_keys(keys, key_bytes=len(new[0]), tokens=tokens)
            tracked.keys += keys
            tracked.last_key = new[-1]
            tracked.tokens += tokens
        return count

    # ---- matching

    def matched(self, request: Any, computed: int) -> Tuple[Optional[int], bool]:
        """get_num_new_matched_tokens()."""
        tracked = self._track(request)
        if tracked.failed:
            return self._retried(request.request_id), False
        if not self._is_open():
            return 0, False
        first = computed // self._block_tokens
        if self._extend(tracked) <= first:
            return 0, False
        if tracked.bringing is not None and not self._has_come(tracked):
            return None, False
        if tracked.brought is not None and time.monotonic() > tracked.hold_until:
            tracked.brought.release()
        found = self._session.match(tracked.chain, first=first, pin=False, refs=False)
        if found.stored > found.matched and tracked.brought is None:
            if self._bring(tracked, first, found.stored, found.matched):
                return None, False
        # All of a prompt is never had: its last token is computed, to sample the next from.
        had = min((first + found.matched) * self._block_tokens, request.num_tokens - 1)
        if had <= computed:
            return 0, False
        if self._retrying:
            return None, False
        tracked.first = first
        return had - computed, True

    def _retried(self, request: str) -> Optional[int]:
        """The answer to a request whose load has failed. vLLM has taken its pages away, turns to it
        before those that came later, and looks no further where too few pages are free. But these
        may hold the pages, loaded and waiting for their turn, and nothing would ever run: so they
        go first, and no others get between."""
        self._coming.discard(request)
        self._retrying.add(request)
        return None if self._coming else 0

    def _bring(self, tracked: Tracked, first: int, count: int, resident: int) -> bool:
        """Begins to bring blocks in from the ssd; their event comes by the deadline."""
        if self._queue is None:
            self._queue = self._session.queue()
        self._users += 1
        try:
            load = self._session.load_begin(tracked.chain, self._queue, user=self._users,
                                            first=first, count=count, timeout=self._timeout)
        except skep.Error:
            tracked.brought = skep.Run.none(self._session, skep.EDOWN)
            return False
        tracked.bringing = Bringing(load, self._users)
        tracked.resident = resident
        return True

    def _take_events(self) -> None:
        if self._queue is not None:
            self._events.update(event.user for event in self._queue.take())
        for user in self._events & self._abandoned.keys():
            self._events.discard(user)
            self._abandoned.pop(user).load.end().release()

    def _has_come(self, tracked: Tracked) -> bool:
        self._take_events()
        bringing = tracked.bringing
        if bringing.user not in self._events:
            return False
        self._events.discard(bringing.user)
        tracked.bringing = None
        # Held until the request's pages are allotted, so that the blocks stay where they are; but
        # no longer than they took at most.
        tracked.brought = skep.Run.none(self._session, skep.EDOWN)
        tracked.brought = bringing.load.end()
        tracked.hold_until = time.monotonic() + self._timeout
        return True

    def sources(self, request: Any, count: int) -> Tuple[int, int]:
        """How many of the promised tokens came from DRAM, and how many from the ssd."""
        loading = self._loading.get(request.request_id)
        ssd = min(loading.ssd_tokens, count) if loading else 0
        return count - ssd, ssd

    # ---- loading

    def allotted(self, request: Any, blocks: Any, tokens: int) -> None:
        """update_state_after_alloc()."""
        tracked = self._track(request)
        if tokens <= 0:
            return
        first = tracked.first
        past = -(-(first * self._block_tokens + tokens) // self._block_tokens)
        pages = [list(group[first:past]) for group in blocks.get_block_ids()]
        for group in self._windowed:
            pages[group] = [NO_PAGE if page == NULL_PAGE else page for page in pages[group]]
        order = LoadOrder(request.request_id, pages)
        # From here on the order goes out: what cannot be pinned now is a load that failed.
        self._loads.append(order)
        self._coming.add(request.request_id)
        try:
            run = self._session.match(tracked.chain, first=first, count=past - first)
            order.refs = bytes(run.refs)
            # What is matched has all before it in the store as well.
            tracked.saved = max(tracked.saved, first + run.matched)
            ssd = 0
            if tracked.brought is not None:
                ssd = max(tracked.brought.count - tracked.resident, 0) * self._block_tokens
            self._loading[request.request_id] = Loading(order, run, min(ssd, tokens))
            self._counts.add("hit_tokens_ssd", min(ssd, tokens))
            self._counts.add("hit_tokens_dram", max(tokens - ssd, 0))
        except Exception:
            tracked.failed = True
            raise
        finally:
            self._let_go(tracked)

    def _let_go(self, tracked: Tracked) -> None:
        if tracked.brought is not None:
            tracked.brought.release()
        if tracked.bringing is not None:
            tracked.bringing.load.cancel()
            self._abandoned[tracked.bringing.user] = tracked.bringing
            tracked.bringing = None

    def loaded(self, finished: Set[str], invalid: Set[int], failed: Set[str]) -> None:
        """update_connector_output(): loads that have ended, and pages or whole requests whose load
        has failed."""
        for request, loading in self._loading.items():
            tracked = self._requests.get(request)
            if tracked is not None and (request in failed or not invalid.isdisjoint(
                    loading.order.pages[0])):
                # It is not asked for again: what failed once may fail for ever. It may be saved.
                tracked.failed = True
                tracked.saved = 0
        for request in finished:
            loading = self._loading.pop(request, None)
            if loading is not None:
                loading.run.release()

    # ---- saving

    def orders(self, output: Any) -> Orders:
        """build_connector_meta(). The loads go out whatever comes after."""
        orders = Orders(loads=self._loads, owed=self._owed,
                        preempted=set(output.preempted_req_ids or ()))
        self._loads, self._owed = [], set()
        for waiting in (self._coming, self._retrying):
            waiting -= {each for each in waiting if each in output.num_scheduled_tokens}
        for request in orders.preempted:
            if request in self._requests:
                # Of its saves some were given up, and its pages go.
                self._requests[request].saved = 0
        try:
            if self._is_open():
                orders.space = self._fields
                self._take_events()
                for request, tokens in output.num_scheduled_tokens.items():
                    self._save(orders, request, tokens)
        except Exception:  # what is not saved is a miss later
            report("what is to be saved")
            self._counts.add("exceptions", 1)
        return orders

    def _save(self, orders: Orders, request: str, scheduled: int) -> None:
        tracked = self._requests.get(request)
        if tracked is None:
            return
        whole = (tracked.request.num_computed_tokens + scheduled) // self._block_tokens
        if whole <= tracked.saved:
            return
        try:
            whole = min(whole, self._extend(tracked))
            if whole > tracked.saved:
                tracked.saved = whole
                self._save_missing(orders, tracked, whole)
        except skep.Error as error:
            if error.status != skep.EDOWN:
                raise

    def _save_missing(self, orders: Orders, tracked: Tracked, whole: int) -> None:
        """From the first block that the store lacks on, whoever computed it."""
        missing = self._session.missing(tracked.chain)
        if not missing:
            return
        request, first = tracked.request.request_id, missing[0]
        if self._windowed and tracked.number > self._all_ended:
            # What is on its way is not missing; its pages may have left the window by now.
            first = max(first, tracked.ordered)
        if first >= whole:
            return
        pages = [group[first:whole] for group in self._manager.get_block_ids(request)]
        if any(len(group) < whole - first for group in pages):
            return
        if any(NULL_PAGE in pages[group] for group in self._windowed):
            # The window has passed: nobody has them all any more, nor can what follows be put.
            return
        width = len(tracked.keys) // len(tracked.chain)
        at, size = tracked.sent, self._block_tokens
        self._number += 1
        self._hold(pages)
        orders.saves.append(SaveOrder(
            request, at, bytes(tracked.keys[at * width:whole * width]), width,
            tracked.tokens[at * size:whole * size].tobytes(), first, pages, self._number))
        tracked.sent = max(whole, at)
        tracked.ever_saved = True
        tracked.ordered, tracked.number = whole, self._number

    def _hold(self, pages: List[List[int]]) -> None:
        """vLLM takes back pages that leave a window while the request runs, and gives them to
        others: a share of our own keeps them as they are until the save has ended."""
        if self._windowed:
            pool = self._manager.block_pool
            blocks = [pool.blocks[page] for group in self._windowed for page in pages[group]]
            pool.touch(blocks)
            self._held.append(Held(self._number, blocks))

    def saved(self, news: Saved) -> None:
        """Saves that have ended, of some parts: pages whose all have are given back."""
        self._ended.update(news.parts)
        if len(self._ended) == len(self._fields.parts):
            self._all_ended = min(self._ended.values())
        while self._held and self._held[0].number <= self._all_ended:
            self._manager.block_pool.free_blocks(reversed(self._held.popleft().blocks))

    def holds_pages(self) -> bool:
        return bool(self._held)

    def finished(self, request: Any) -> bool:
        """request_finished(): do its pages wait for the workers?"""
        tracked = self._requests.pop(request.request_id, None)
        self._coming.discard(request.request_id)
        self._retrying.discard(request.request_id)
        if tracked is None:
            return False
        self._let_go(tracked)
        # Pages of a load under way wait anyway, and are given free once.
        waits = tracked.ever_saved and request.request_id not in self._loading
        if waits:
            self._owed.add(request.request_id)
        return waits

    # ---- the end

    def reset(self) -> bool:
        """reset_cache(): removes the space's blocks."""
        if not self._is_open():
            return False
        self._space.purge(timeout=self._timeout)
        return True

    def close(self) -> None:
        if self._opener is not None:
            self._opener.stop()
        if self._is_open():
            self._session.close()
            self._session = None
            self._opener = None
