#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""GiB/s of LMCache's adapters over skep and over files, alternating in one run.

    lmcache_bench.py [--chunk-bytes N] [--chunks N] [--rounds N] [--folder PATH]

Each round stores fresh chunks, loads them and deletes them through each adapter in turn, in batches
of 16 that are all under way at once, and copies as many bytes on one thread of this process. The
folder of the files lies in memory, as skepd's pool does. Medians; all bytes of the last round are
checked.
"""
import argparse
import json
import os
import select
import shutil
import statistics
import tempfile
import time

import wheel

torch, api, registry, configs, memory = wheel.modules(
    "torch", "lmcache.v1.distributed.api", "lmcache.v1.distributed.l2_adapters.factory",
    "lmcache.v1.distributed.l2_adapters.config", "lmcache.v1.memory_management")

import harness  # noqa: E402

torch.set_num_threads(1)
BATCH = 16


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunk-bytes", type=int, default=2 << 20)
    parser.add_argument("--chunks", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", default="/dev/shm")
    return parser.parse_args()


def objects_of(whole, count):
    return [memory.TensorMemoryObj(raw, memory.MemoryObjMetadata(
        shape=raw.shape, dtype=torch.uint8, address=raw.data_ptr(), phy_size=raw.numel(),
        ref_count=1), None) for raw in whole.chunk(count)]


def adapter_of(spec):
    config = configs.get_l2_adapter_config_class(spec["type"]).from_dict(spec)
    return registry.create_l2_adapter_from_registry(config)


def finish(tasks, fd, done):
    """Waits until all of these tasks have ended well."""
    while tasks:
        select.select([fd], [], [], 0.05)
        try:
            os.eventfd_read(fd)
        except OSError:
            pass
        tasks = done(tasks)


def store(adapter, keys, objects):
    def done(tasks):
        ended = adapter.pop_completed_store_tasks()
        assert all(result.is_successful() for result in ended.values())
        return tasks - set(ended)
    finish({adapter.submit_store_task(keys[i:i + BATCH], objects[i:i + BATCH])
            for i in range(0, len(keys), BATCH)}, adapter.get_store_event_fd(), done)


def load(adapter, keys, objects):
    def done(tasks):
        results = {task: adapter.query_load_result(task) for task in tasks}
        assert all(bits.popcount() == BATCH for bits in results.values() if bits is not None)
        return {task for task, bits in results.items() if bits is None}
    finish({adapter.submit_load_task(keys[i:i + BATCH], objects[i:i + BATCH])
            for i in range(0, len(keys), BATCH)}, adapter.get_load_event_fd(), done)


def seconds(call, *passed):
    begin = time.perf_counter()
    call(*passed)
    return time.perf_counter() - begin


def main():
    asked = arguments()
    total = asked.chunk_bytes * asked.chunks
    source = torch.randint(0, 256, (total,), dtype=torch.uint8)
    target = torch.zeros_like(source)
    chunks, places = objects_of(source, asked.chunks), objects_of(target, asked.chunks)
    folder = tempfile.mkdtemp(prefix="skep-bench-", dir=asked.folder)
    daemon = harness.Daemon("--dram", str(2 * total + (64 << 20)))
    specs = {"skep": {"type": "native_plugin", "module_path": "skep.lmcache",
                      "class_name": "Connector", "adapter_params": {
                          "where": daemon.socket, "chunk_bytes": asked.chunk_bytes}},
             "fs": {"type": "fs", "base_path": f"{folder}/fs"},
             "fs_native": {"type": "fs_native", "base_path": f"{folder}/native",
                           "num_workers": 2}}
    read = {name: {"store": [], "load": []} for name in specs}
    read["copy"] = {"store": [], "load": []}
    try:
        adapters = {name: adapter_of(spec) for name, spec in specs.items()}
        for turn in range(asked.rounds + 1):
            keys = [api.ObjectKey(chunk_hash=os.urandom(32), model_name="m", kv_rank=0)
                    for _ in range(asked.chunks)]
            for name, adapter in adapters.items():
                target.zero_()
                times = {"store": seconds(store, adapter, keys, chunks),
                         "load": seconds(load, adapter, keys, places)}
                assert turn < asked.rounds or torch.equal(source, target), name
                adapter.delete(keys)
                note(read[name], times, turn)
            copied = seconds(target.copy_, source)
            note(read["copy"], {"store": copied, "load": copied}, turn)
        for adapter in adapters.values():
            adapter.close()
    finally:
        daemon.end()
        shutil.rmtree(folder)
    print(json.dumps({"chunk_bytes": asked.chunk_bytes, "chunks": asked.chunks,
                      "rounds": asked.rounds, "gib_per_s": {
                          name: {what: round(total / 2**30 / statistics.median(times), 2)
                                 for what, times in figures.items()}
                          for name, figures in read.items()}}))


def note(figures, times, turn):
    """The first round touches every page, and counts for nothing."""
    if turn:
        for what, value in times.items():
            figures[what].append(value)


if __name__ == "__main__":
    main()
