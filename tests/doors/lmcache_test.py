#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""LMCache's own adapter of native connectors over skep.lmcache.Connector and a private daemon.

Chunks are stored, looked up, loaded and deleted, all bytes checked; wrong lengths fail alone; every
future completes when the daemon is killed, and nothing but misses comes of a daemon that is away.
"""
import errno
import os
import random
import select
import sys
import time
import unittest

import wheel

torch, api, registry, plugin, native, memory = wheel.modules(
    "torch", "lmcache.v1.distributed.api",
    "lmcache.v1.distributed.l2_adapters.factory",
    "lmcache.v1.distributed.l2_adapters.native_plugin_l2_adapter",
    "lmcache.v1.distributed.l2_adapters.native_connector_l2_adapter",
    "lmcache.v1.memory_management")

import harness  # noqa: E402
import skep  # noqa: E402
from skep._door import key_digest  # noqa: E402

torch.set_num_threads(1)
CHUNKS, BATCH = 1000, 50
CHUNK_BYTES, CHUNK_BYTES_MAX = 64 << 10, 128 << 10
TIMEOUT_MS = 4000
SLACK_S = 60  # of a machine that has other things to do; what waits without end is seen anyway


def key_of(number, **more):
    return api.ObjectKey(chunk_hash=random.Random(number).randbytes(32), model_name="org/model",
                         kv_rank=0x02000200, **more)


def chunk_of(number, nbytes=CHUNK_BYTES):
    """The bytes that a chunk is made of, other ones for each."""
    raw = torch.frombuffer(bytearray(random.Random(~number).randbytes(nbytes)), dtype=torch.uint8)
    return object_of(raw)


def room(nbytes=CHUNK_BYTES):
    return object_of(torch.zeros(nbytes, dtype=torch.uint8))


def object_of(raw):
    about = memory.MemoryObjMetadata(shape=raw.shape, dtype=torch.uint8, address=raw.data_ptr(),
                                     phy_size=raw.numel(), ref_count=1)
    return memory.TensorMemoryObj(raw, about, None)


def wrong(loaded, numbers):
    """Which of these chunks are not what they are made of."""
    return [number for number, each in zip(numbers, loaded)
            if not torch.equal(each.raw_data, chunk_of(number).raw_data)]


class Door(unittest.TestCase):
    flags = ("--dram", "256MiB")

    def setUp(self):
        self.daemon = harness.Daemon(*self.flags)
        self.addCleanup(self.daemon.end)
        self.adapter = self.made()

    def made(self):
        """As LMCache makes it of its configuration."""
        config = plugin.NativePluginL2AdapterConfig.from_dict({
            "module_path": "skep.lmcache", "class_name": "Connector",
            "adapter_params": {"where": self.daemon.socket, "chunk_bytes": CHUNK_BYTES_MAX,
                               "timeout_ms": TIMEOUT_MS},
            "max_capacity_gb": 1})
        adapter = registry.create_l2_adapter_from_registry(config)
        self.assertIsInstance(adapter, native.NativeConnectorL2Adapter)
        self.addCleanup(adapter.close)
        return adapter

    @property
    def faults(self):
        return self.adapter._client.faults.counts

    def result(self, fd, query, task):
        """Of a task, once the adapter says on that descriptor that there is something."""
        end = time.monotonic() + TIMEOUT_MS / 1000 + SLACK_S
        while (found := query(task)) is None:
            self.assertLess(time.monotonic(), end, "a task that does not end")
            select.select([fd], [], [], 0.05)
        return found

    def store(self, numbers, objects=None):
        objects = objects or [chunk_of(number) for number in numbers]  # held until it is done
        task = self.adapter.submit_store_task([key_of(number) for number in numbers], objects)
        done = {}

        def query(asked):
            done.update(self.adapter.pop_completed_store_tasks())
            return done.get(asked)
        return self.result(self.adapter.get_store_event_fd(), query, task)

    def bits(self, bitmap, count):
        return [bitmap.test(i) for i in range(count)]

    def lookup(self, numbers):
        keys = [key_of(number) for number in numbers]
        task = self.adapter.submit_lookup_and_lock_task(keys, {})
        found = self.result(self.adapter.get_lookup_and_lock_event_fd(),
                            self.adapter.query_lookup_and_lock_result, task)
        self.adapter.submit_unlock(keys)
        return self.bits(found, len(keys))

    def load(self, numbers, objects):
        task = self.adapter.submit_load_task([key_of(number) for number in numbers], objects)
        return self.bits(self.result(self.adapter.get_load_event_fd(),
                                     self.adapter.query_load_result, task), len(objects))

    def store_all(self, count):
        for first in range(0, count, BATCH):
            done = self.store(range(first, first + BATCH))
            self.assertTrue(done.is_successful())
            self.assertEqual(done.bytes_transferred(), BATCH * CHUNK_BYTES)

    def load_all(self, count):
        faulty = []
        for first in range(0, count, BATCH):
            numbers = range(first, first + BATCH)
            objects = [room() for _ in numbers]
            self.assertEqual(self.load(numbers, objects), [True] * BATCH)
            faulty += wrong(objects, numbers)
        return faulty


class Chunks(Door):
    def test_a_thousand_chunks_are_stored_looked_up_loaded_and_deleted(self):
        self.store_all(CHUNKS)
        self.assertEqual(self.adapter.get_usage().total_bytes_used, CHUNKS * CHUNK_BYTES)
        self.assertEqual(self.lookup(range(CHUNKS + 100)), [True] * CHUNKS + [False] * 100)
        self.assertEqual(self.load_all(CHUNKS), [])
        self.adapter.delete([key_of(number) for number in range(0, CHUNKS, 2)])
        self.assertEqual(self.lookup(range(CHUNKS)), [False, True] * (CHUNKS // 2))
        objects = [room(), room()]
        self.assertEqual(self.load([2, 3], objects), [False, True])
        self.assertEqual(wrong(objects[1:], [3]), [])
        self.assertFalse(objects[0].raw_data.any())
        self.adapter.delete([key_of(number) for number in range(CHUNKS)])
        self.assertEqual(self.lookup(range(CHUNKS)), [False] * CHUNKS)
        self.assertEqual(self.adapter.get_usage().total_bytes_used, 0)
        self.assertEqual(sum(self.faults.values()), 0)

    def test_a_chunk_changed_behind_the_checks_is_seen(self):
        self.store_all(BATCH)
        with skep.Session(self.daemon.socket) as session:
            keyed = skep.Keyed(session.space("lmcache", [skep.Part(CHUNK_BYTES_MAX)], 256,
                                             engine="lmcache", opaque=True))
            name = [key_digest(native._object_key_to_string(key_of(7)))]
            self.assertEqual(keyed.remove(name), [0])
            changed = bytearray(chunk_of(7).raw_data.numpy().tobytes())
            changed[1234] ^= 1
            self.assertEqual(keyed.put(name, [changed]), [0])
        self.assertEqual(self.load_all(BATCH), [7])

    def test_keys_that_differ_in_any_field_are_other_chunks(self):
        keys = [key_of(1), key_of(2), key_of(1, object_group_id=1), key_of(1, cache_salt="s"),
                key_of(1, cache_salt="t")]
        names = {key_digest(native._object_key_to_string(key)) for key in keys}
        self.assertEqual(len(names), len(keys))

    def test_a_wrong_length_fails_alone(self):
        objects = [chunk_of(0), chunk_of(1, CHUNK_BYTES_MAX + 4096), chunk_of(2)]
        self.assertFalse(self.store(range(3), objects).is_successful())
        self.assertEqual(self.lookup(range(3)), [True, False, True])
        self.assertEqual(self.faults, {"EMSGSIZE": 1})
        self.assertTrue(self.store(range(4)).is_successful())
        objects = [room(), room(CHUNK_BYTES - 64), room(CHUNK_BYTES + 64), room()]
        self.assertEqual(self.load(range(4), objects), [True, False, False, True])
        self.assertEqual(wrong([objects[0], objects[3]], [0, 3]), [])
        self.assertFalse(objects[1].raw_data.any() or objects[2].raw_data.any())
        self.assertEqual(self.faults, {"EMSGSIZE": 3})


class Away(Door):
    def test_every_future_completes_when_the_daemon_is_killed(self):
        self.store_all(200)
        numbers = range(200)
        keys = [key_of(number) for number in numbers]
        stores, loads, lookups = set(), set(), set()
        chunks, rooms = [chunk_of(i) for i in range(40)], [room() for _ in numbers]
        for turn in range(12):
            stores.add(self.adapter.submit_store_task(
                [key_of(1000 + 40 * turn + i) for i in range(40)], chunks))
            loads.add(self.adapter.submit_load_task(keys, rooms))
            lookups.add(self.adapter.submit_lookup_and_lock_task(keys, {}))
            if turn == 6:
                self.daemon.kill()
        end = time.monotonic() + TIMEOUT_MS / 1000 + SLACK_S
        while stores or loads or lookups:
            self.assertLess(time.monotonic(), end, f"{stores} {loads} {lookups} do not end")
            stores -= set(self.adapter.pop_completed_store_tasks())
            loads -= {task for task in loads if self.adapter.query_load_result(task) is not None}
            lookups -= {task for task in lookups
                        if self.adapter.query_lookup_and_lock_result(task) is not None}
            time.sleep(0.005)
        self.assertEqual(self.lookup([0, 1]), [False, False])
        self.assertFalse(self.store([5000]).is_successful())
        self.adapter.delete(keys[:3])
        self.assertGreater(self.faults["EDOWN"], 0)
        # Another daemon comes: the connector goes on by itself.
        self.daemon.start()
        harness.until(lambda: self.store([1, 2]).is_successful(), "a store after a restart")
        objects = [room(), room()]
        self.assertEqual(self.load([1, 2], objects), [True, True])
        self.assertEqual(wrong(objects, [1, 2]), [])

    def test_a_daemon_that_was_never_there_is_a_miss(self):
        self.daemon.kill()
        self.adapter = self.made()
        with self.assertLogs("skep.lmcache", "WARNING") as said:
            for _ in range(5):
                self.assertEqual(self.lookup(range(3)), [False] * 3)
                self.assertFalse(self.store(range(3)).is_successful())
        self.assertEqual(len(said.output), 1)

    def test_a_space_that_differs_is_refused_at_the_start(self):
        from skep.lmcache import Connector
        with self.assertRaises(skep.Error) as caught:
            Connector(where=self.daemon.socket, chunk_bytes=CHUNK_BYTES)
        self.assertEqual(caught.exception.status, skep.EDIFFERS)

    def test_a_child_of_fork_gets_misses(self):
        self.store_all(BATCH)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            client = self.adapter._client
            future = client.submit_batch_exists(["x"])
            said = client.drain_completions()
            right = said == [(future, False, skep.status_text(-errno.EOWNERDEAD), [False])]
            os.write(writer, b"\1" if right else b"\0")
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
        self.assertEqual(os.read(reader, 1), b"\1")
        os.close(reader)
        self.assertEqual(self.load_all(BATCH), [])


class Ssd(Door):
    flags = ("--dram", "16MiB", "--record-bytes", "64MiB", "--ssd", "{folder}/ssd:256MiB")

    def test_what_went_to_the_ssd_comes_back(self):
        self.store_all(500)  # twice what the pool holds
        self.assertEqual(self.lookup(range(500)), [True] * 500)
        self.assertEqual(self.load_all(500), [])
        self.adapter.delete([key_of(number) for number in range(500)])
        self.assertEqual(self.lookup(range(500)), [False] * 500)


class Import(unittest.TestCase):
    def test_the_package_imports_no_engine(self):
        from subprocess import check_output
        said = check_output([sys.executable, "-B", "-c", "import sys, skep, skep.lmcache; "
                             "print('torch' in sys.modules or 'lmcache' in sys.modules)"])
        self.assertEqual(said.strip(), b"False")


if __name__ == "__main__":
    unittest.main()
