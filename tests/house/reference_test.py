#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""docs/reference/libskep.md is what tools/reference.py makes of the public header today.

    reference_test.py ROOT
"""
import os
import subprocess
import sys

import source


def made(root, header):
    script = os.path.join(root, "tools", "reference.py")
    return subprocess.run((sys.executable, "-B", script, header), capture_output=True, text=True,
                          check=True).stdout


def main(root):
    header = os.path.join(root, "engine/include/skep/skep.h")
    now = made(root, header)
    faults = []
    # A declaration without its comment would be left out silently.
    text = source.code_only(source.read(root, "engine/include/skep/skep.h"))
    for line in text.splitlines():
        if line.startswith("SKEP_API"):
            name = line.split("(")[0].split()[-1].lstrip("*")
            if f"## {name}()" not in now:
                faults.append(f"{name}() has no entry in the reference: does its comment begin so?")
    if "## skep_match()" not in now or "## nothing()" in now:
        faults.append("the reference lacks skep_match(): the script reads no comments")
    if source.read(root, "docs/reference/libskep.md") != now:
        faults.append("docs/reference/libskep.md is old: tools/reference.py "
                      "engine/include/skep/skep.h > docs/reference/libskep.md")
    source.finish("reference", now.count("\n## "), faults)


if __name__ == "__main__":
    main(sys.argv[1])
