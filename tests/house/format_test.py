# SPDX-License-Identifier: Apache-2.0
"""clang-format would change nothing.

    format_test.py ROOT

Skips (77) where clang-format is missing or of another release: releases lay out differently.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

import source

RELEASE = 14
SKIP = 77


def changed(style, root, paths):
    """What clang-format says it would change: one line a place."""
    command = ["clang-format", f"--style=file:{style}", "--dry-run", "--ferror-limit=3", *paths]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if "warning:" in line or "error:" in line]
    if done.returncode and not lines:
        lines = [done.stderr.strip()]
    return lines


def main():
    root = os.path.abspath(sys.argv[1])
    if not shutil.which("clang-format"):
        print("skipped: clang-format is not installed")
        sys.exit(SKIP)
    version = subprocess.run(["clang-format", "--version"], capture_output=True, text=True,
                             check=True).stdout
    if not re.search(rf"version {RELEASE}\.", version):
        print(f"skipped: the layout is that of clang-format {RELEASE}, this is {version.strip()}")
        sys.exit(SKIP)
    style = os.path.join(root, ".clang-format")
    with tempfile.TemporaryDirectory() as planted:
        source.write_tree(planted, {"planted.c": "int  a ;\n", "kept.c": "int a;\n"})
        assert changed(style, planted, ["planted.c"]), "a planted fault was not found"
        assert not changed(style, planted, ["kept.c"]), "a good file was refused"
    paths = source.files(root, (".c", ".h", ".cu", ".cuh"))
    faults = changed(style, root, paths)
    source.finish("format (./dev format mends it)", f"{len(paths)} files", faults)


main()
