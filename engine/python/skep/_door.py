# SPDX-License-Identifier: Apache-2.0
"""What the doors to other caches share: keys, sessions a thread, faults said once."""
import hashlib
import logging
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Dict, Iterable, Optional

from .errors import EDOWN, Error, status_name, status_text
from .keyed import Keyed
from .session import Session
from .space import Part

KEY_BYTES = 32


def key_digest(key: str) -> bytes:
    """A key of any length as one of 32 bytes: BLAKE2b-256 of its UTF-8."""
    return hashlib.blake2b(key.encode(), digest_size=KEY_BYTES).digest()


class Faults:
    """Counts what went wrong by its name; says each kind once, until something goes well again."""

    def __init__(self, name: str):
        self.counts: Counter = Counter()
        self._logger = logging.getLogger(name)
        self._said = set()
        self._lock = threading.Lock()

    def note(self, status: int, what: str, times: int = 1) -> None:
        self.note_text(status_name(status), f"{what}: {status_text(status)}", times)

    def note_text(self, kind: str, said: str, times: int = 1) -> None:
        with self._lock:
            self.counts[kind] += times
            first = kind not in self._said
            self._said.add(kind)
        if first:
            self._logger.warning("%s [%s]; counted from now on, not said again", said, kind)

    def note_all(self, statuses: Iterable[int], what: str) -> None:
        for status, times in Counter(statuses).items():
            self.note(status, what, times)

    def well(self) -> None:
        if self._said:
            with self._lock:
                self._said.clear()


@dataclass(frozen=True)
class Where:
    """The daemon to open sessions with: None each = the usual."""

    where: Optional[str] = None
    realm: Optional[str] = None
    token: Optional[str] = None

    def session(self, name: str) -> Session:
        """Whether the daemon is there or not: the session connects by itself."""
        return Session(self.where, realm=self.realm, token=self.token, name=name, wait=False)


@dataclass(frozen=True)
class SpaceWant:
    """An opaque space of blocks of one part, with the texts of its fingerprint."""

    name: str
    bytes: int
    block_tokens: int
    texts: Dict[str, str] = field(default_factory=dict, hash=False)


class Lane:
    """A session and its spaces, of one thread at a time. All is opened when it is first used."""

    def __init__(self, where: Where, name: str):
        self._where = where
        self._name = name
        self._session: Optional[Session] = None
        self._spaces: Dict[str, Keyed] = {}

    def open(self, want: SpaceWant) -> Keyed:
        """skep.Error where the daemon is away or refuses."""
        keyed = self._spaces.get(want.name)
        if keyed is None:
            if self._session is None:
                self._session = self._where.session(self._name)
            keyed = Keyed(self._session.space(want.name, [Part(want.bytes)], want.block_tokens,
                                              opaque=True, **want.texts))
            self._spaces[want.name] = keyed
        return keyed

    def close(self) -> None:
        self._spaces.clear()
        session, self._session = self._session, None
        if session is not None:
            session.close()


def open_or_note(lane: Lane, want: SpaceWant, faults: Faults) -> Optional[Keyed]:
    """The space; None, and noted, where it cannot be had: everything misses then."""
    try:
        return lane.open(want)
    except Error as error:
        faults.note_text(error.name, str(error))
        return None


def refused_at_start(lane: Lane, want: SpaceWant) -> None:
    """Raises what is wrong with the configuration; a daemon that is away is nothing."""
    try:
        lane.open(want)
    except Error as error:
        if error.status != EDOWN:
            raise
