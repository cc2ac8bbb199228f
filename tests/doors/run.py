# SPDX-License-Identifier: Apache-2.0
"""Runs a test in the Python that $SKEP_DOORS_PYTHON names, or says why there is none.

    run.py TEST [ARGUMENTS…]

That Python is of an environment that `./dev doors` makes, outside the tree. It is used offline.
"""
import os
import shutil
import sys

SKIPPED = 77


def main():
    named = os.environ.get("SKEP_DOORS_PYTHON", "")
    python = shutil.which(named)
    if python is None:
        reason = os.environ.get("SKEP_DOORS_REASON", f"SKEP_DOORS_PYTHON is '{named}'")
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
    return os.execv(python, [python, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
