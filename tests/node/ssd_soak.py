#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Replays in a loop against one skepd whose pool and ssd are far too small for them.

    ssd_soak.py BIN_FOLDER [MINUTES]

Nothing may be wrong or refused, and resident memory, descriptors and the p99 of a get stay flat:
the median of the run's last quarter is at most 5 % above that of its second one (in the first,
arrays fill). In runs of less than half an hour the p99 is only printed: what else the machine does
outweighs it.
"""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

BLOCK_BYTES = 65536
DRAM_BLOCKS = 2000
SSD_BYTES = 1 << 30  # about 13,000 blocks; a turn of all seeds puts four times as many
SEEDS = 8
REQUESTS = 300
FLAT = 1.05
P99_MINUTES = 30


def daemon_start(folder, socket, binaries):
    ready, end = os.pipe()
    daemon = subprocess.Popen(
        [os.path.join(binaries, "skepd"), "--socket", socket, "--state-dir", folder,
         "--admin", "off", "--private", "--volatile-secret", "--parent-death",
         "--ready-fd", str(end), "--log-level", "warn",
         "--dram-blocks-of", f"{BLOCK_BYTES}:{DRAM_BLOCKS}", "--index-blocks", "24000",
         "--record-bytes", "64MiB", "--ssd", f"{folder}/ssd:{SSD_BYTES}"], pass_fds=[end])
    os.close(end)
    if os.read(ready, 1) == b"":
        sys.exit("skepd did not start")
    os.close(ready)
    return daemon


def replay(socket, binaries, seed):
    done = subprocess.run(
        [os.path.join(binaries, "skep"), "replay", "--socket", socket, "--json", "--clients", "2",
         "--payload-bytes", str(BLOCK_BYTES), "--requests", str(REQUESTS), "--seed", str(seed)],
        stdout=subprocess.PIPE, check=True)
    said = json.loads(done.stdout)
    for field in ("wrong_blocks", "refused_puts", "failed_gets"):
        if said[field]:
            sys.exit(f"a replay of seed {seed} counts {said[field]} {field}")
    return said


def descriptors(daemon):
    # A client's own go a moment after it has ended.
    time.sleep(0.2)
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def sample(daemon, said):
    with open(f"/proc/{daemon.pid}/statm", encoding="ascii") as statm:
        pages = int(statm.read().split()[1])
    return {"resident MiB": pages * os.sysconf("SC_PAGESIZE") / (1 << 20),
            "descriptors": descriptors(daemon),
            "get p99 us": said["get_us"]["p99"]}


def flat(samples, minutes):
    quarter = len(samples) // 4
    if not quarter:
        sys.exit("too few replays to say anything: give it more minutes")
    result = True
    for what in samples[0]:
        second = statistics.median(s[what] for s in samples[quarter:2 * quarter])
        last = statistics.median(s[what] for s in samples[-quarter:])
        judged = minutes >= P99_MINUTES or "p99" not in what
        print(f"{what}: {second:.1f} in the second quarter, {last:.1f} in the last "
              f"({100 * last / second - 100:+.1f} %){'' if judged else ', not judged'}")
        result = result and (not judged or last <= FLAT * second)
    return result


def main():
    binaries = sys.argv[1]
    minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 60
    if shutil.disk_usage(".").free < 2 * SSD_BYTES:
        print("skipped: less than 2 GiB are free here")
        return 77
    with tempfile.TemporaryDirectory(prefix="soak-", dir=os.getcwd()) as folder:
        socket = os.path.join(folder, "socket")
        daemon = daemon_start(folder, socket, binaries)
        samples = []
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end:
            samples.append(sample(daemon, replay(socket, binaries, 1 + len(samples) % SEEDS)))
        good = flat(samples, minutes)
        daemon.terminate()
        status = daemon.wait(timeout=30)
    print(f"{len(samples)} replays in {minutes:.0f} minutes")
    if status:
        sys.exit(f"skepd ended with {status}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
