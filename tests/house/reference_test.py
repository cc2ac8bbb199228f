#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/reference are what tools/reference.py makes of the public headers today.

    reference_test.py ROOT
"""
import os
import re
import subprocess
import sys

import source


def made(root, header):
    script = os.path.join(root, "tools", "reference.py")
    return subprocess.run((sys.executable, "-B", script, header), capture_output=True, text=True,
                          check=True).stdout


HEADERS = (("engine/include/skep/skep.h", "docs/reference/libskep.md"),
           ("engine/include/skep/skep_hash.h", "docs/reference/libskep-hash.md"),
           ("engine/include/skep/skep_hbm.h", "docs/reference/libskep-hbm.md"),
           ("engine/include/skep/skep_gpu.h", "docs/reference/libskep-gpu.md"))


def main(root):
    faults, entries = [], 0
    for header, page in HEADERS:
        now = made(root, os.path.join(root, header))
        entries += now.count("\n## ")
        # A declaration without its comment would be left out silently.
        for declared in re.findall(r"^SKEP_API[^(;]*?\b(skep_\w+)\(",
                                   source.code_only(source.read(root, header)), re.M):
            if f"## {declared}()" not in now:
                faults.append(f"{declared}() has no entry in the reference: does its comment "
                              "begin so?")
        if source.read(root, page) != now:
            faults.append(f"{page} is old: tools/reference.py {header} > {page}")
        if header.endswith("/skep.h") and ("## skep_match()" not in now or "## nothing()" in now):
            faults.append("the reference lacks skep_match(): the script reads no comments")
    source.finish("reference", entries, faults)


if __name__ == "__main__":
    main(sys.argv[1])
