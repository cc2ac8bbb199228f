#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""SGLang's factory makes skep.sglang.SkepStorage, and its answers are those of a plain model.

Host pools are stand-ins of the layouts page_first and layer_first; three of them go through seeded
cases of v1 and v2 against a dictionary.

    sglang_test.py [CASES]
"""
import random
import sys
import threading
import unittest

import wheel

torch, hicache, factory = wheel.modules(
    "torch", "sglang.srt.mem_cache.hicache_storage",
    "sglang.srt.mem_cache.storage.backend_factory")

import harness  # noqa: E402
import skep  # noqa: E402
from skep._sglang_pool import raw_key  # noqa: E402

torch.set_num_threads(1)
CASES = 1000
SEED = 5
PAGES = 24  # of a host pool
KV, INDEXER, MAMBA = (hicache.PoolName.KV, hicache.PoolName.INDEXER, hicache.PoolName.MAMBA)
ALL, TRAILING = hicache.PoolHitPolicy.ALL_PAGES, hicache.PoolHitPolicy.TRAILING_PAGES


class Host:
    """Pages of a pool in this process's memory, as SGLang's own host pools lay them out."""

    def __init__(self, layout, *, layers=3, page_size=4, row=6, kinds=2, addresses=True):
        self.layout, self.layers, self.page_size, self.kinds = layout, layers, page_size, kinds
        self.dtype, self.row = torch.float16, row
        self.size = PAGES * page_size
        rows = (layers, self.size) if layout == "layer_first" else (self.size, layers)
        self.kv_buffer = torch.zeros((kinds, *rows, row), dtype=self.dtype)
        if not addresses:
            self.get_page_buffer_meta = None

    def get_page_buffer_meta(self, indices):
        base, row = self.kv_buffer.data_ptr(), self.row * 2
        kind = self.size * self.layers * row
        pointers, sizes = [], []
        for first in indices.tolist()[::self.page_size]:
            if self.layout == "layer_first":
                places = [base + k * kind + (layer * self.size + first) * row
                          for layer in range(self.layers) for k in range(self.kinds)]
            else:
                places = [base + k * kind + first * self.layers * row for k in range(self.kinds)]
            pointers += places
            sizes += [kind // PAGES // (self.layers if self.layout == "layer_first" else 1)
                      ] * len(places)
        return pointers, sizes

    def view(self, first):
        end = first + self.page_size
        return (self.kv_buffer[:, :, first:end] if self.layout == "layer_first" else
                self.kv_buffer[:, first:end])

    def get_data_page(self, index, flat=True):
        return self.view(index).flatten()

    def get_dummy_flat_data_page(self):
        return torch.zeros_like(self.view(0)).flatten()

    def set_from_flat_data_page(self, index, page):
        self.view(index)[:] = page.reshape(self.view(index).shape)

    # For the test alone.

    def page(self, number):
        return self.view(number * self.page_size).contiguous().view(torch.int16).flatten().tolist()

    def fill(self, number, what):
        page = self.view(number * self.page_size)
        words = random.Random(what).choices(range(30000), k=page.numel())
        page[:] = torch.tensor(words, dtype=torch.int16).view(self.dtype).reshape(page.shape)

    def indices(self, numbers):
        return torch.tensor([number * self.page_size + i for number in numbers
                             for i in range(self.page_size)], dtype=torch.int64)


class NoAddresses(Host):
    """Of a pool that moves whole pages alone."""

    def get_page_buffer_meta(self, indices):
        raise NotImplementedError


def config_of(socket, **more):
    extra = {"backend_name": "skep", "module_path": "skep.sglang", "class_name": "SkepStorage",
             "interface_v1": more.pop("interface_v1", 1), "where": socket}
    base = {"tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1, "attn_cp_rank": 0,
            "attn_cp_size": 1, "is_mla_model": False, "enable_storage_metrics": False,
            "is_page_first_layout": True, "model_name": "org/model", "extra_config": extra}
    return hicache.HiCacheStorageConfig(**{**base, **more})


def key_of(number, branch=0):
    return random.Random(number * 100 + branch).randbytes(32).hex()


class Door(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = harness.Daemon("--dram", "64MiB")
        cls.addClassCleanup(cls.daemon.end)

    def made(self, host, more_pools=None, **config):
        """As SGLang's controller makes it."""
        storage = factory.StorageBackendFactory.create_backend(
            "dynamic", config_of(self.daemon.socket, **config), host)
        self.assertEqual(type(storage).__name__, "SkepStorage")
        self.addCleanup(storage.close)
        storage.register_mem_pool_host(host)
        for name, pool in (more_pools or {}).items():
            storage.register_mem_host_pool_v2(pool, name)
        storage.on_host_pools_registered()
        return storage


class Model:
    """What a storage must answer: a dictionary of pages."""

    def __init__(self, hosts):
        self.hosts, self.stored = hosts, {}

    def exists(self, keys):
        return next((i for i, key in enumerate(keys) if (KV, key) not in self.stored), len(keys))

    def exists_v2(self, keys, transfers):
        """By the definition: each prefix length is tried for each pool."""
        pages = self.exists(keys)
        hits, lengths = ({KV: pages} if pages else {}), list(range(1, pages + 1))
        for transfer in transfers:
            if not lengths:
                break
            good = [length for length in range(1, pages + 1) if all(
                (transfer.name, key) in self.stored for key in self.needed(keys, length, transfer))]
            if good:
                hits[transfer.name] = good[-1]
            lengths = [length for length in lengths if length in good]
        return hicache.PoolTransferResult(lengths[-1] if lengths else 0, hits, lengths)

    def needed(self, keys, length, transfer):
        if transfer.hit_policy == ALL:
            return keys[:length]
        return keys[max(0, length - max(1, len(transfer.keys or []))):length]

    def set(self, name, keys, numbers):
        for key, number in zip(keys, numbers):
            self.stored.setdefault((name, key), self.hosts[name].page(number))
        return [True] * len(keys)

    def get(self, name, keys, numbers):
        """Answers, and what the pages hold afterwards."""
        host = self.hosts[name]
        had = [(name, key) in self.stored for key in keys]
        pages = [self.stored.get((name, key), host.page(number))
                 for key, number in zip(keys, numbers)]
        return had, pages


class Case:
    """One random call, of the storage and of the model."""

    def __init__(self, storage, model, draw):
        self.storage, self.model, self.draw = storage, model, draw

    def keys(self):
        """A run of a chain that may leave the trunk for a branch."""
        first, count = self.draw.randrange(20), self.draw.randint(1, 12)
        turn = self.draw.randrange(first, first + 20)
        branch = self.draw.randrange(3)
        return [key_of(n, branch if n >= turn else 0) for n in range(first, first + count)]

    def transfer(self, name, keys, policy):
        numbers = self.draw.sample(range(PAGES), len(keys))
        host = self.model.hosts[name]
        for number in numbers:
            host.fill(number, self.draw.randrange(1 << 30))
        return hicache.PoolTransfer(name=name, keys=keys, hit_policy=policy,
                                    host_indices=host.indices(numbers)), numbers

    def transfers(self):
        keys = self.keys()
        tail = keys[-self.draw.randint(1, 3):]
        some = [(INDEXER, keys, ALL), (MAMBA, tail, TRAILING)]
        self.draw.shuffle(some)
        return keys, [self.transfer(*each) for each in some[:self.draw.randint(1, 2)]]

    def faults(self):
        """Where storage and model differ, as text; "" they do not."""
        return getattr(self, self.draw.choice(
            ("exists", "exists_v2", "set_v1", "set_v2", "get_v1", "get_v2")))()

    def exists(self):
        keys = self.keys()
        return differs("exists", self.storage.batch_exists(keys), self.model.exists(keys))

    def exists_v2(self):
        keys, made = self.transfers()
        transfers = [transfer for transfer, _ in made]
        return differs("exists_v2", self.storage.batch_exists_v2(keys, transfers),
                       self.model.exists_v2(keys, transfers))

    def set_v1(self):
        keys = self.keys()
        transfer, numbers = self.transfer(KV, keys, ALL)
        return differs("set_v1", self.storage.batch_set_v1(keys, transfer.host_indices),
                       self.model.set(KV, keys, numbers))

    def set_v2(self):
        _, made = self.transfers()
        said = self.storage.batch_set_v2([transfer for transfer, _ in made])
        return differs("set_v2", said, {transfer.name: self.model.set(
            transfer.name, transfer.keys, numbers) for transfer, numbers in made})

    def get_v1(self):
        keys = self.keys()
        transfer, numbers = self.transfer(KV, keys, ALL)
        had, pages = self.model.get(KV, keys, numbers)
        said = self.storage.batch_get_v1(keys, transfer.host_indices)
        return differs("get_v1", said, had) or self.bytes(KV, numbers, pages)

    def get_v2(self):
        _, made = self.transfers()
        right = {transfer.name: self.model.get(transfer.name, transfer.keys, numbers)
                 for transfer, numbers in made}
        said = self.storage.batch_get_v2([transfer for transfer, _ in made])
        return differs("get_v2", said, {name: had for name, (had, _) in right.items()}) or "".join(
            self.bytes(transfer.name, numbers, right[transfer.name][1])
            for transfer, numbers in made)

    def bytes(self, name, numbers, pages):
        wrong = [number for number, page in zip(numbers, pages)
                 if self.model.hosts[name].page(number) != page]
        return f"pages {wrong} of {name} hold other bytes" if wrong else ""


def differs(what, said, right):
    return "" if said == right else f"{what}: {said} instead of {right}"


class Cases(Door):
    def three_pools(self, layout, kind=Host):
        return {KV: Host(layout), INDEXER: Host(layout, kinds=1, row=10, layers=2),
                MAMBA: kind(layout, kinds=1, row=14, layers=5)}

    def run_cases(self, hosts, cases, seed, **config):
        storage = self.made(hosts[KV], {name: host for name, host in hosts.items() if name != KV},
                            model_name=f"model {seed}", **config)
        model, draw = Model(hosts), random.Random(seed)
        for case in range(cases):
            fault = Case(storage, model, draw).faults()
            if fault:
                return f"case {case} of seed {seed}: {fault}"
        self.assertEqual(dict(storage.faults.counts), {})
        self.assertGreater(len({name for name, _ in model.stored}), 2)
        return ""

    def test_answers_are_those_of_the_model_page_first(self):
        self.assertEqual(self.run_cases(self.three_pools("page_first"), CASES, SEED), "")

    def test_answers_are_those_of_the_model_layer_first(self):
        self.assertEqual(self.run_cases(self.three_pools("layer_first"), CASES, SEED + 1), "")

    def test_a_pool_without_addresses_is_moved_page_by_page(self):
        self.assertEqual(self.run_cases(self.three_pools("layer_first", NoAddresses), CASES // 4,
                                        SEED + 2), "")

    def test_pages_as_tensors_where_v1_is_not_set(self):
        self.assertEqual(self.run_cases(self.three_pools("layer_first"), CASES // 4, SEED + 3,
                                        interface_v1=0), "")

    def test_a_page_changed_behind_the_checks_is_seen(self):
        hosts = self.three_pools("page_first")
        storage = self.made(hosts[KV], model_name="changed")
        model = Model(hosts)
        case = Case(storage, model, random.Random(SEED))
        keys = [key_of(n) for n in range(8)]
        case.keys = lambda: keys
        self.assertEqual(case.set_v1(), "")
        self.assertEqual(case.get_v1(), "")
        pool = storage._pools["kv"]
        with skep.Session(self.daemon.socket) as session:
            keyed = skep.Keyed(session.space(
                pool.want.name, [skep.Part(pool.want.bytes)], pool.want.block_tokens, opaque=True,
                **pool.want.texts))
            name = pool.names([keys[3]])
            page = bytearray(pool.want.bytes)
            self.assertEqual(keyed.get(name, [page]), [0])
            page[0] ^= 1
            self.assertEqual(keyed.remove(name), [0])
            self.assertEqual(keyed.put(name, [page]), [0])
        self.assertIn("hold other bytes", case.get_v1())


class Interface(Door):
    def test_pages_are_given_as_tensors(self):
        host = Host("layer_first")
        storage = self.made(host, model_name="tensors", interface_v1=0)
        for number in range(4):
            host.fill(number, number)
        keys = [key_of(n) for n in range(4)]
        pages = [host.get_data_page(n * host.page_size) for n in range(4)]
        self.assertTrue(storage.batch_set(keys[:3], pages[:3]))
        self.assertTrue(storage.set(keys[3], pages[3]))
        self.assertEqual(storage.batch_exists(keys + [key_of(9)]), 4)
        self.assertTrue(storage.exists(keys[0]))
        self.assertFalse(storage.exists(key_of(9)))
        places = [host.get_dummy_flat_data_page() for _ in range(5)]
        had = storage.batch_get(keys + [key_of(9)], places)
        self.assertIsNone(had[4])
        for page, got in zip(pages, had):
            self.assertTrue(torch.equal(page.view(torch.int16), got.view(torch.int16)))
        self.assertIsNone(storage.get(key_of(9), places[0]))
        # A place of another length fails alone.
        places[1] = places[1][:-1].clone()
        self.assertEqual([got is not None for got in storage.batch_get(keys, places[:4])],
                         [True, False, True, True])
        self.assertEqual(dict(storage.faults.counts), {"EMSGSIZE": 1})
        self.assertTrue(storage.clear())
        self.assertEqual(storage.batch_exists(keys), 0)

    def test_places_that_are_not_as_many_as_pages_fail_alone(self):
        hosts = {KV: Host("page_first"), INDEXER: Host("page_first", kinds=1)}
        storage = self.made(hosts[KV], {INDEXER: hosts[INDEXER]}, model_name="places")
        keys = [key_of(n) for n in range(3)]
        short = hicache.PoolTransfer(name=INDEXER, keys=keys,
                                     host_indices=hosts[INDEXER].indices([0, 1]))
        whole = hicache.PoolTransfer(name=KV, keys=keys, host_indices=hosts[KV].indices([0, 1, 2]))
        none = hicache.PoolTransfer(name=MAMBA, keys=keys, host_indices=hosts[KV].indices([0]))
        self.assertEqual(storage.batch_set_v2([short, whole, none]),
                         {INDEXER: [False] * 3, KV: [True] * 3, MAMBA: [False] * 3})

    def test_block_groups_give_a_verdict_of_their_own(self):
        hosts = {KV: Host("page_first"), "blocks": Host("page_first", kinds=1)}
        storage = self.made(hosts[KV], {"blocks": hosts["blocks"]}, model_name="groups")
        keys, groups = [key_of(n) for n in range(8)], [key_of(n, 1) for n in range(8)]
        storage.batch_set_v1(keys, hosts[KV].indices(range(8)))
        transfer = hicache.PoolTransfer(
            name="blocks", keys=groups[:5], host_indices=hosts["blocks"].indices(range(5)))
        self.assertEqual(storage.batch_set_v2([transfer]), {"blocks": [True] * 5})
        asked = hicache.PoolTransfer(name="blocks", keys=groups, block_pages=4, group_pages=2,
                                     hit_policy=hicache.PoolHitPolicy.BLOCK_GROUPS)
        said = storage.batch_exists_v2(keys, [asked])
        self.assertEqual((said.kv_hit_pages, said.extra_pool_hit_pages), (8, {KV: 8, "blocks": 8}))

    def test_of_mla_one_rank_writes_what_all_read(self):
        hosts = [{KV: Host("page_first", kinds=1), MAMBA: Host("page_first", kinds=1, row=4)}
                 for _ in range(2)]
        ranks = [self.made(hosts[rank][KV], {MAMBA: hosts[rank][MAMBA]}, model_name="mla",
                           is_mla_model=True, tp_rank=rank, tp_size=2) for rank in range(2)]
        keys, places = [key_of(n) for n in range(4)], hosts[0][KV].indices(range(4))
        for number in range(4):
            for rank in range(2):
                hosts[rank][KV].fill(number, number)
                hosts[rank][MAMBA].fill(number, 100 * rank + number)
        self.assertEqual(ranks[1].batch_set_v1(keys, places), [True] * 4)
        self.assertEqual(ranks[0].batch_exists(keys), 0)
        self.assertEqual(ranks[0].batch_set_v1(keys, places), [True] * 4)
        self.assertEqual(ranks[1].batch_exists(keys), 4)
        right = hosts[1][KV].page(2)
        hosts[1][KV].fill(2, 77)
        self.assertEqual(ranks[1].batch_get_v1(keys, places), [True] * 4)
        self.assertEqual(hosts[1][KV].page(2), right)
        # The state of Mamba layers is cut by rank: each has its own.
        for rank in range(2):
            self.assertEqual(ranks[rank].batch_set_v2([hicache.PoolTransfer(
                name=MAMBA, keys=keys, host_indices=places)]), {MAMBA: [True] * 4})
        right = hosts[1][MAMBA].page(3)
        hosts[1][MAMBA].fill(3, 5)
        ranks[1].batch_get_v2([hicache.PoolTransfer(name=MAMBA, keys=keys, host_indices=places)])
        self.assertEqual(hosts[1][MAMBA].page(3), right)

    def test_ranks_models_and_layouts_do_not_meet(self):
        host, places = Host("page_first"), Host("page_first").indices([0])
        first = self.made(host, model_name="one", tp_size=2)
        self.assertEqual(first.batch_set_v1([key_of(1)], places), [True])
        for other in (self.made(host, model_name="one", tp_size=2, tp_rank=1),
                      self.made(host, model_name="two", tp_size=2),
                      self.made(host, model_name="one", tp_size=4),
                      self.made(host, model_name="one", tp_size=2, pp_size=2),
                      self.made(Host("layer_first"), model_name="one", tp_size=2),
                      self.made(Host("page_first", row=7), model_name="one", tp_size=2)):
            self.assertEqual(other.batch_exists([key_of(1)]), 0)
        self.assertEqual(self.made(host, model_name="one", tp_size=2).batch_exists([key_of(1)]), 1)

    def test_keys_are_taken_as_they_are_or_hashed(self):
        self.assertEqual(raw_key(key_of(1)).hex(), key_of(1))
        odd = ["", "ab", key_of(1).upper(), key_of(1)[:-1], key_of(1) + "0",
               " " + key_of(1)[1:], key_of(1) + "_L0-3"]
        raws = {raw_key(key) for key in odd}
        self.assertEqual(len(raws), len(odd))
        self.assertEqual({len(raw) for raw in raws}, {32})
        self.assertNotIn(bytes.fromhex(key_of(1)), raws)

    def test_threads_have_sessions_of_their_own(self):
        host = Host("page_first")
        storage = self.made(host, model_name="threads")
        wrong = []

        def work(number):
            for turn in range(50):
                keys = [key_of(n, 3 + number) for n in range(turn, turn + 3)]
                places = host.indices(range(3 * number, 3 * number + 3))
                if not all(storage.batch_set_v1(keys, places)) or storage.batch_exists(keys) != 3:
                    wrong.append(number)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((wrong, dict(storage.faults.counts)), ([], {}))

    def test_mixed_context_parallelism_is_refused(self):
        with self.assertRaises(NotImplementedError):
            self.made(Host("page_first"), is_mla_model=True, tp_size=2, dcp_size=2,
                      logical_page_size=4)


class Away(unittest.TestCase):
    def test_a_daemon_that_is_away_is_a_miss(self):
        daemon = harness.Daemon("--dram", "64MiB")
        self.addCleanup(daemon.end)
        host, keys = Host("page_first"), [key_of(n) for n in range(4)]
        places = host.indices(range(4))
        storage = factory.StorageBackendFactory.create_backend(
            "dynamic", config_of(daemon.socket), host)
        storage.register_mem_pool_host(host)
        self.assertEqual(storage.batch_set_v1(keys, places), [True] * 4)
        daemon.kill()
        harness.until(lambda: storage.batch_exists(keys) == 0, "a miss")
        with self.assertLogs("skep.sglang", "WARNING") as said:
            storage.faults.well()
            for _ in range(3):
                self.assertEqual(storage.batch_get_v1(keys, places), [False] * 4)
                self.assertEqual(storage.batch_set_v1(keys, places), [False] * 4)
                self.assertEqual(storage.batch_exists_v2(keys).kv_hit_pages, 0)
            self.assertFalse(storage.clear() and storage.batch_exists(keys))
        self.assertLessEqual(len(said.output), 3)
        self.assertGreater(storage.faults.counts["EDOWN"], 0)
        daemon.start()
        harness.until(lambda: all(storage.batch_set_v1(keys, places)), "a store after a restart")
        self.assertEqual(storage.batch_exists(keys), 4)
        storage.close()
        self.assertEqual(storage.batch_exists(keys), 0)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].isdigit():
        CASES = int(sys.argv.pop(1))
    print(f"seed {SEED}, {CASES} cases a layout")
    unittest.main()
