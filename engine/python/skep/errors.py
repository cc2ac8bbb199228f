# SPDX-License-Identifier: Apache-2.0
"""Results that are no counts: negative errno, or one of the codes of skep.h."""
import errno
import functools
import os

from ._library import lib

EPARENT = -4096
EPENDING = -4097
EDIFFERS = -4098
EVERSION = -4099
ECHECKSUM = -4100
EDOWN = -4101
EGIVENUP = -4102

_NAMES = {EPARENT: "EPARENT", EPENDING: "EPENDING", EDIFFERS: "EDIFFERS", EVERSION: "EVERSION",
          ECHECKSUM: "ECHECKSUM", EDOWN: "EDOWN", EGIVENUP: "EGIVENUP"}

# What a call of the data path comes to when the store cannot serve it now: results, not faults of
# the caller.
PASSING = frozenset((-errno.EAGAIN, -errno.EMFILE, -errno.ETIMEDOUT, -errno.ENOSPC, -errno.ENOENT,
                     -errno.ESTALE, -errno.EEXIST, -errno.EMSGSIZE, -errno.ECANCELED, EPARENT,
                     EPENDING, ECHECKSUM, EDOWN, EGIVENUP))


def status_name(status: int) -> str:
    """The short name of a negative result: "EDOWN", "EAGAIN"."""
    return _NAMES.get(status) or errno.errorcode.get(-status, str(status))


def status_text(status: int) -> str:
    """A negative result as one sentence, in the library's words."""
    return lib.skep_status_text(status).decode()


@functools.lru_cache(maxsize=None)
def reason_text(reason: int) -> str:
    """The word for a reason of a miss."""
    return lib.skep_reason_text(reason).decode()


class Error(Exception):
    """A call that failed. `status` is the negative result; `field` names what was refused."""

    def __init__(self, status: int, what: str = "", field: str = ""):
        super().__init__(status, what, field)
        self.status = status
        self.what = what
        self.field = field

    @property
    def name(self) -> str:
        return status_name(self.status)

    def __str__(self):
        about = f"{self.what}: " if self.what else ""
        field = f" (field {self.field})" if self.field else ""
        return f"{about}{status_text(self.status)}{field} [{self.name}]"


def check(result: int, what: str) -> int:
    """The result of a call, where it is one; else the exception."""
    if result < 0:
        raise Error(result, what)
    return result


def check_passing(result: int, what: str) -> int:
    """The same for calls of the data path: what passes comes back, what is wrong is raised."""
    if result < 0 and result not in PASSING:
        raise Error(result, what)
    return result


class Process:
    """Which process this is: stepped in each child of fork(). Where something forks behind Python's
    back, the library itself still answers -EOWNERDEAD, and touches nothing."""

    number = 0

    @classmethod
    def step(cls) -> None:
        cls.number += 1


os.register_at_fork(after_in_child=Process.step)


def raise_forked() -> None:
    raise Error(-errno.EOWNERDEAD, "a session of the parent process, used after fork()")
