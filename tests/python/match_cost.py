# SPDX-License-Identifier: Apache-2.0
"""What a match costs from Python, beside the same match in C.

    match_cost.py MATCH_COST [ROUNDS]    MATCH_COST: the program of match_cost.c

A chain of 2,048 blocks is emptied, appended (which hashes it), matched with a pin and all its
references, and released: 100 times in C, then 100 times in a form of Python, form after form, in
rounds. Prints the medians of the rounds' medians, and the median of what each Python was over the C
just before it: other work on the machine slows both. $SKEPD, $SKEP_LIBRARY and PYTHONPATH as
for the tests.
"""
import statistics
import subprocess
import sys
import time
from array import array

import skep
from harness import BLOCK_TOKENS, Daemon

try:
    import numpy
except ImportError:
    numpy = None

BLOCKS, TIMES, PART_BYTES = 2048, 100, 4096


def forms():
    tokens = range(BLOCKS * BLOCK_TOKENS)
    yield "array of 32 bits", array("I", tokens)
    yield "memoryview of 32 bits", memoryview(array("I", tokens))
    yield "array of 64 bits", array("q", tokens)
    if numpy is not None:
        yield "numpy int32", numpy.arange(len(tokens), dtype="int32")
        yield "numpy int64", numpy.arange(len(tokens), dtype="int64")
    yield "list", list(tokens)


def one_round(session, chain, tokens):
    spans = []
    for _ in range(TIMES):
        began = time.perf_counter_ns()
        chain.truncate(0)
        chain.append(tokens)
        run = session.match(chain)
        run.release()
        spans.append(time.perf_counter_ns() - began)
        assert run.matched == BLOCKS
    return statistics.median(spans)


def main():
    program, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 9
    daemon = Daemon("--dram", "32MiB")
    try:
        with skep.Session(daemon.socket) as session:
            space = session.space("cost", [skep.Part(PART_BYTES)], BLOCK_TOKENS)
            chain = space.chain(range(BLOCKS * BLOCK_TOKENS))
            assert session.put(chain, bytes(BLOCKS * PART_BYTES), timeout=10).count == BLOCKS
            figures = {name: [] for name, _ in forms()}
            for _ in range(rounds):
                for name, tokens in forms():
                    said = subprocess.run([program, daemon.socket, str(BLOCKS), str(TIMES)],
                                          check=True, capture_output=True, text=True)
                    figures[name].append((int(said.stdout), one_round(session, chain, tokens)))
    finally:
        daemon.end()
    print("| tokens in | Python | C beside it | ratio | least and most |")
    print("| --- | --- | --- | --- | --- |")
    for name, pairs in figures.items():
        ours, theirs = (statistics.median(column) / 1000 for column in zip(*pairs))
        ratios = sorted(python / c for c, python in pairs)
        print(f"| {name} | {theirs:.0f} µs | {ours:.0f} µs | {statistics.median(ratios):.2f} | "
              f"{ratios[0]:.2f} to {ratios[-1]:.2f} |")


main()
