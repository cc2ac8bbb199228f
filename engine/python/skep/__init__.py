# SPDX-License-Identifier: Apache-2.0
"""skep keeps the KV blocks of prompt prefixes and hands them back.

    with skep.Session() as session:
        space = session.space("llama", [skep.Part(65536, ranges=32)], 16, model="…")
        chain = space.chain(tokens)
        with session.match(chain) as run:
            run.copy_into(space, buffers[:run.matched])
        session.put(chain, buffers[run.matched:], first=run.matched)

Results of the data path are results: a miss, a full store and an absent daemon raise nothing.
What the caller did wrong raises skep.Error (with .status), TypeError or ValueError.
"""
from . import _library, aio
from ._memory import Memory
from .errors import (
    ECHECKSUM,
    EDIFFERS,
    EDOWN,
    EGIVENUP,
    EPARENT,
    EPENDING,
    EVERSION,
    Error,
    status_name,
    status_text,
)
from .keyed import Keyed
from .put import Frames, Put, range_sums
from .queue import Event, Load, Queue
from .run import Match, Pin, Refs, Run, Views
from .session import Explanation, Session, Stats
from .space import Chain, Part, Space

__version__ = _library.lib.skep_version().decode()

__all__ = [
    "Chain", "ECHECKSUM", "EDIFFERS", "EDOWN", "EGIVENUP", "EPARENT", "EPENDING", "EVERSION",
    "Error", "Event", "Explanation", "Frames", "Keyed", "Load", "Match", "Memory", "Part", "Pin",
    "Put", "Queue", "Refs", "Run", "Session", "Space", "Stats", "Views", "range_sums",
    "status_name", "status_text",
]
