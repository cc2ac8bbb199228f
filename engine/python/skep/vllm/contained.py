# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in here costs misses, never the engine."""
import functools
import logging
from typing import Any, Callable

# Below vLLM's own logger, whose handlers show it.
log = logging.getLogger("vllm.skep")

_SHOWN_MAX = 8
_shown: dict = {}


def report(where: str) -> None:
    """Logs the exception being handled; the first few of each place in full."""
    times = _shown[where] = _shown.get(where, 0) + 1
    if times <= _SHOWN_MAX:
        log.exception("skep: %s failed and counts as a miss", where)


def contained(answer: Callable[[], Any] = lambda: None) -> Callable:
    """A method that answers answer() where it raises, and counts that."""
    def around(function: Callable) -> Callable:
        @functools.wraps(function)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return function(self, *args, **kwargs)
            except Exception:  # whatever it is, the engine goes on
                report(function.__qualname__)
                self.counts.add("exceptions", 1)
                return answer()
        return call
    return around
