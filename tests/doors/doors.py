# SPDX-License-Identifier: Apache-2.0
"""What the tests share that need an inference engine: whose Python runs them, and how it is quiet.

    doors.py SCRIPT [ARGUMENTS…]    runs it by the Python that SKEP_DOORS_PYTHON names, or skips

That Python is of an environment that `./dev doors` makes, outside the tree. It is used offline.
"""
import contextlib
import os
import sys

SKIPPED = 77


@contextlib.contextmanager
def quiet():
    """What the engines say goes to stderr, also from below Python."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def main():
    python = os.environ.get("SKEP_DOORS_PYTHON", "")
    if not os.access(python, os.X_OK):
        reason = os.environ.get("SKEP_DOORS_REASON", f"SKEP_DOORS_PYTHON is '{python}'")
        print(f"skip: no engines to ask: {reason} (./dev doors installs them)")
        return SKIPPED
    # What is compiled on first use stays in the environment (without its bytecode each run compiles
    # the engines' 10,000 modules anew), and nothing is asked for by net.
    home = os.path.dirname(os.path.dirname(os.path.abspath(python)))
    os.environ.update({"TORCH_EXTENSIONS_DIR": os.path.join(home, "extensions"),
                       "PYTHONPYCACHEPREFIX": os.path.join(home, "pycache"),
                       "HF_HUB_OFFLINE": "1", "LMCACHE_TRACK_USAGE": "false",
                       "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"})
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.execv(python, [python, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
