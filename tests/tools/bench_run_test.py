# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run through, small, and print every field that docs/benchmarks.md names.

    bench_run_test.py SKEP ROOT KIND …
"""
import json
import os
import re
import subprocess
import sys

SKEP, ROOT, *KINDS = sys.argv[1:]
RUNS = {
    "match": ["--blocks", "64", "--index-blocks", "4096", "--batch", "16", "--matches", "50"],
    "local": ["--block-bytes", "64KiB", "--walk-bytes", "8MiB", "--gets", "200", "--rounds", "3",
              "--clients", "2"],
    "ssd": ["--block-bytes", "256KiB", "--ssd-bytes", "128MiB", "--dram-bytes", "16MiB",
            "--rounds", "3", "--seconds", "1", "--loads", "20", "--sessions", "2",
            "--run-bytes", "2MiB"],
}


def fields_documented(kind):
    """The first column of the table in the section of this benchmark."""
    with open(os.path.join(ROOT, "docs/benchmarks.md"), encoding="utf-8") as file:
        section = file.read().split(f"## `skep bench {kind}`")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([a-z0-9_]+)`", row)]


def faults_of(kind, words):
    done = subprocess.run([SKEP, "bench", kind, *words, "--json"], capture_output=True, text=True,
                          check=False, timeout=300)
    if done.returncode:
        return [f"{kind}: exit {done.returncode}: {done.stderr}"]
    figures, names = json.loads(done.stdout), fields_documented(kind)
    faults = [f"{kind}: no field {name}" for name in names if name not in figures]
    faults += [f"{kind}: {name} is {value}" for name, value in figures.items()
               if not (value == 0 if name == "wrong_blocks" else value > 0)
               and name != "ceiling_distance"]
    if not figures.get("probed_us_min", 0) <= figures.get("probed_us_max", 0):
        faults.append(f"{kind}: the least probe took longer than the longest")
    if len(names) < 7:
        faults.append(f"{kind}: only {len(names)} fields are documented")
    return faults


def main():
    faults = [fault for kind in KINDS for fault in faults_of(kind, RUNS[kind])]
    for fault in faults:
        print(fault)
    sys.exit(1 if faults else 0)


main()
