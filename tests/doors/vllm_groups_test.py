# SPDX-License-Identifier: Apache-2.0
"""SkepConnector where vLLM pages groups of layers apart: full attention beside sliding windows,
sliding windows alone; and latent attention, of which all ranks have the same. Tokens are the same
without a store, cold, warm and after an engine's restart, while pages leave the windows and are
reused; they are not where the KV is wrong, or where nothing holds pages that are being saved."""
import ctypes
import os
import sys
import time
from types import SimpleNamespace

import vllm_engine as door
from vllm_engine import Engine, cached_of, tokens_of

import skep
from doors import Daemon
from vllm_faults_test import count_preemptions, preemptions
from vllm_identity_test import explained, space_name
from vllm_ranks_test import zero_loads
from vllm_tokens_test import require

SEED = int(os.environ.get("SKEP_SEED", "20261127"))
PROMPTS, BLOCK_TOKENS, WINDOW = 14, 32, 100
# Chunks longer than the window, so that pages leave it at once; and little more pages than the
# longest prompt needs, so that they are soon another's.
TIGHT = {"block_size": BLOCK_TOKENS, "max_num_batched_tokens": 256, "num_gpu_blocks_override": 120}


def whole_tokens(prompt, block_tokens=BLOCK_TOKENS):
    return min(len(prompt) // block_tokens * block_tokens, len(prompt) - 1)


# ---- in the engine's process

def groups(served):
    """Kind and window of each cache group."""
    specs = [group.kv_cache_spec for group in served.core.scheduler.kv_cache_config.kv_cache_groups]
    return [(type(spec).__name__, getattr(spec, "sliding_window", None)) for spec in specs]


def slow_saves():
    """A save begins to read its pages some steps after they were computed."""
    from skep.vllm import mover

    true_save = mover.Saver._save

    def save(self, order, stream, until):
        time.sleep(0.1)
        return true_save(self, order, stream, until + 60)

    mover.Saver._save = save


def slow_saves_unheld():
    from skep.vllm.scheduler import Scheduler

    slow_saves()
    Scheduler._hold = lambda self, pages: None


def held_pages(served):
    return len(served.connector._scheduler._held), served.core.scheduler.kv_cache_manager.usage


def parts(served):
    return served.connector._scheduler._fields.parts


def compare_loads(path):
    """Of each load a line: whether this rank saves, blocks, and how many of these are bit by bit
    what the rank had computed at such a place."""
    import torch
    from skep.vllm import worker as half

    true_saves, true_load, computed, ranks = half.Worker.begin_saves, half.load, {}, []

    def begin_saves(self, orders):
        ranks[:] = [self]
        for order in orders.saves:
            for block, page in enumerate(order.pages[0], order.first):
                computed.setdefault(block, []).append(
                    [layer[page].clone() for layer in self.caches[0]])
        true_saves(self, orders)

    def load(plan, order, part, stream):
        failed = true_load(plan, order, part, stream)
        layers = ranks[0].caches[0]
        same = sum(any(all(torch.equal(layer[page], other) for layer, other in zip(layers, others))
                       for others in computed[block])
                   for block, page in enumerate(order.pages[0]))
        with open(path, "a", encoding="ascii") as file:
            file.write(f"{int(ranks[0]._saves)} {order.blocks} {same}\n")
        return failed

    half.Worker.begin_saves, half.load = begin_saves, load


def attached(served):
    halves = [served.connector._scheduler._session, served.connector_worker()._mover._session]
    end = time.monotonic() + 60
    while not all(half.attached for half in halves) and time.monotonic() < end:
        time.sleep(0.05)


def fail_loads(served):
    """Of each load from now on one block has not come, and what stands in its pages is wrong."""
    from skep.tensors import NO_PAGE
    from skep.vllm import worker as half

    caches, true_load = served.connector_worker().caches, half.load

    def load(plan, order, part, stream):
        failed, block = true_load(plan, order, part, stream), order.blocks - 1
        for layers, pages in zip(caches, order.pages):
            for layer in layers if pages[block] != NO_PAGE else ():
                layer[pages[block]] = 7
        return failed + [block]

    half.load = load


def flip(served, prompts):
    """A byte of the first block of each is turned over in the pool, where the full attention has
    it: behind the checks."""
    half = served.connector._scheduler
    manager = served.core.scheduler.kv_cache_config.kv_cache_groups
    full = [type(group.kv_cache_spec).__name__ for group in manager].index("FullAttentionSpec")
    layers = [len(group.layer_names) for group in manager]
    part = half._fields.parts[0]
    at = part[0] // sum(layers) * sum(layers[:full]) + 11
    with skep.Session(half._settings["socket"]) as session:
        space = half._fields.open(session)
        for prompt in prompts:
            chain = space.chain()
            chain.append_keys([first_key(served, prompt)],
                              tokens=prompt[:served.core.scheduler.block_size])
            with session.match(chain) as run:
                place = run.views().address(0) + at
                ctypes.memset(place, ctypes.c_ubyte.from_address(place).value ^ 4, 1)


def first_key(served, prompt):
    from vllm.v1.core.kv_cache_utils import hash_block_tokens
    from vllm.utils.hashing import get_hash_fn_by_name

    name = served.llm.llm_engine.vllm_config.cache_config.prefix_caching_hash_algo
    return bytes(hash_block_tokens(get_hash_fn_by_name(name), None,
                                   prompt[:served.core.scheduler.block_size]))


# ---- what needs no engine

def kv_config(*groups, copies=1):
    """Stand-ins for cache groups: (kind, block tokens, window, layers) of each."""
    found = []
    for number, (kind, tokens, window, layers) in enumerate(groups):
        spec = type(kind, (), {"block_size": tokens, "sliding_window": window, "num_kv_heads": 2,
                               "head_size": 32})()
        found.append(SimpleNamespace(kv_cache_spec=spec, layer_names=[
            f"layer {number}.{layer}" for layer in range(layers)]))
    return SimpleNamespace(kv_cache_groups=found, kv_tp_replicas=copies)


def looked_at(config, channels=64, ranks=2, other=None):
    """The layout of tensors that such groups have; @other: this layer has a head more."""
    import torch
    from skep.vllm.worker import caches_of, look

    names = [name for group in config.kv_cache_groups for name in group.layer_names]
    caches = {name: torch.zeros(4, 2 + (name == other), 16, channels) for name in names}
    return look(caches_of(caches, config.kv_cache_groups), config, ranks, "auto")


def refusal(call, *arguments, **more):
    from skep.vllm.identity import Refused

    try:
        call(*arguments, **more)
    except Refused as refused:
        return str(refused)
    return "served"


def layouts():
    """What is served and what is not; and what tells spaces apart."""
    from skep.vllm.identity import require_served

    full, window = ("FullAttentionSpec", 16, None, 2), ("SlidingWindowSpec", 16, 100, 4)
    nothing = SimpleNamespace(parallel_config=SimpleNamespace())
    for groups_of, said in (((full, window, window), "served"), ((window,), "served"),
                            ((full, ("MambaSpec", 16, None, 1)), "a cache of MambaSpec"),
                            ((("SlidingWindowMLASpec", 16, 9, 1),), "a cache of SlidingWindowMLA"),
                            ((full, ("SlidingWindowSpec", 32, 100, 4)), "16 and 32 tokens")):
        found = refusal(require_served, nothing, kv_config(*groups_of))
        require(said in found, "groups", found)
    both = kv_config(full, window)
    require("layers of different shapes" in refusal(looked_at, both, other="layer 1.3"),
            "layers of one shape")
    layout = looked_at(both)
    require((layout.groups, layout.ranges, layout.part_bytes) == (2, 6, 6 * 8192), "a part of all",
            layout)
    texts = {looked_at(each).text for each in (
        both, kv_config(window, full), kv_config(full, ("SlidingWindowSpec", 16, 101, 4)),
        kv_config(full, window[:3] + (2,), window[:3] + (2,)), kv_config(window),
        kv_config(full), kv_config(full, copies=2))}
    require(len(texts) == 7, "texts of their own", texts)
    small = kv_config(("FullAttentionSpec", 16, None, 4), window)
    require(looked_at(small, channels=32).ranges == 8, "a page of 4 KiB is a range")
    require(looked_at(small, channels=16).ranges == 4, "so are two of 2 KiB")
    small.kv_cache_groups[0].layer_names.pop()
    require("whose pages have 2048 bytes" in refusal(looked_at, small, channels=16),
            "but not of different groups")


# ---- the test

class Model:
    """A model and what it says without a store."""

    def __init__(self, path, prompts, expected_groups, max_tokens=32, in_turn=False, **options):
        self.path = path
        self.prompts = prompts
        self.options = options
        self.max_tokens = max_tokens
        self.in_turn = in_turn
        self.groups = expected_groups
        with Engine(path, **options) as engine:
            found = engine.run(groups)
            require(found == expected_groups, "vLLM has these cache groups", found)
            self.expected = tokens_of(self.generate(engine))
        require(len({tuple(tokens) for tokens in self.expected}) == len(prompts),
                "prompts answer differently")

    def engine(self, daemon, **more):
        return Engine(self.path, daemon.socket, **{**self.options, **more})

    def generate(self, engine):
        batches = [[prompt] for prompt in self.prompts] if self.in_turn else [self.prompts]
        return [answer for batch in batches
                for answer in engine.generate(batch, max_tokens=self.max_tokens)]

    def same(self, engine, what):
        answers = self.generate(engine)
        require(tokens_of(answers) == self.expected, f"tokens {what}")
        return cached_of(answers)

    def differ(self, engine):
        return sum(a != b for a, b in zip(tokens_of(self.generate(engine)), self.expected))


def there_and_back(model, daemon, block_tokens=BLOCK_TOKENS):
    """Cold, warm, after a restart."""
    every = [whole_tokens(prompt, block_tokens) for prompt in model.prompts]
    with model.engine(daemon) as engine:
        model.same(engine, "cold")
        engine.settle()
        require(engine.run(held_pages) == (0, 0.0), "no page is held when all is saved")
        cached = model.same(engine, "warm")
        require(cached == every, "all that can be had is cached", sum(cached))
    with model.engine(daemon) as engine:
        require(model.same(engine, "after an engine's restart") == every,
                "cached after an engine's restart")
    with model.engine(daemon) as engine:
        engine.run(door.zero_loads)
        different = model.differ(engine)
        require(different > len(model.prompts) * 9 // 10,
                "KV zeroed behind the checks gives other tokens",
                f"{different} of {len(model.prompts)} differ")
    with skep.Session(daemon.socket) as session:
        require(session.stats().pins == 0, "no pin is left")


def stray_byte(model, daemon):
    with model.engine(daemon) as engine:
        before = daemon.misses()["checksum"]
        engine.run(door.count)
        engine.run(flip, model.prompts[:1])
        cached = model.same(engine, "with a stray byte in the pool")
        counted = engine.run(door.counted)
        require(counted.get("blocks_load_failed") and not counted.get("exceptions"),
                "the load failed", counted)
        model.same(engine, "after it")
        require(daemon.misses()["checksum"] > before, "a miss of reason checksum", cached)


def failed_loads(model, daemon):
    """A load that fails in part is computed anew as a whole: vLLM has no pages for what lies before
    its windows, and could not go on from the middle."""
    with model.engine(daemon) as engine:
        engine.run(door.count)
        engine.run(fail_loads)
        model.same(engine, "where each load fails in part")
        counted = engine.run(door.counted)
        require(counted["blocks_load_failed"] >= len(model.prompts) and
                not counted.get("exceptions"), "loads failed", counted)


def beside_own_cache(model):
    """vLLM's own prefix cache has no pages before a window either: such blocks are not saved."""
    daemon = Daemon("--dram", "512MiB")
    more = {"enable_prefix_caching": True, "num_gpu_blocks_override": 1200}
    with model.engine(daemon, **more) as engine:
        engine.run(door.count)
        model.same(engine, "cold, beside vLLM's own cache")
        engine.settle()
        daemon.kill()
        daemon.start()
        engine.run(attached)
        require(sum(model.same(engine, "from vLLM's own cache")) > 0, "it is warm")
        engine.settle()
        require(engine.forget(), "vLLM's own cache is emptied")
        model.same(engine, "from what could be saved from it")
        engine.settle()
        require(engine.forget(), "vLLM's own cache is emptied")
        require(sum(model.same(engine, "from what was computed anew")) > 0, "and saved")
        require(not engine.run(door.counted).get("exceptions"), "no exceptions")
    daemon.end()


def preempted(model):
    """Requests push each other out, while their blocks are being saved and loaded."""
    daemon = Daemon("--dram", "512MiB")
    with model.engine(daemon) as engine:
        engine.run(count_preemptions)
        for what in ("cold", "warm"):
            model.same(engine, f"{what}, with preemptions")
        require(engine.run(preemptions) > 0, "requests were preempted", engine.run(preemptions))
        engine.settle()
        require(engine.run(held_pages) == (0, 0.0), "no page is held")
    with model.engine(daemon, num_gpu_blocks_override=1000) as engine:
        cached = model.same(engine, "from what was saved then")
        require(sum(cached) > 0, "and was saved", sum(cached))
    daemon.end()


def of_two_ranks(model):
    """Groups on ranks that each have their share."""
    daemon = Daemon("--dram", "512MiB")
    every = [whole_tokens(prompt) for prompt in model.prompts]
    with model.engine(daemon) as engine:
        model.same(engine, "cold, of two ranks")
        require(engine.run(held_pages) == (0, 0.0), "no page is held when all is saved")
        require(model.same(engine, "warm, of two ranks") == every, "all is cached")
    with model.engine(daemon) as engine:
        require(model.same(engine, "after a restart, of two ranks") == every, "all is cached")
    with model.engine(daemon, prepare=zero_loads) as engine:
        different = model.differ(engine)
        require(different > len(model.prompts) * 9 // 10, "zeroed KV gives other tokens",
                f"{different} of {len(model.prompts)} differ")
    daemon.end()


def one_for_all_ranks(folder):
    """Latent attention: both ranks have the same KV, so one saves it, and what either loads is what
    it had computed itself.

    vLLM's kernels for it on the CPU say something else of a token that is computed behind cached
    ones than of one among others: so prompts are cached but for their last token, and tokens are
    compared with those of the first time that they were.
    """
    prompts = door.prompts_of(SEED, 10, 321, 321)[::2]
    model = Model(door.make_mla_model(os.path.join(folder, "latent")), prompts,
                  [("MLAAttentionSpec", None)], in_turn=True, tensor_parallel_size=2)
    daemon, seen = Daemon("--dram", "512MiB"), os.path.join(folder, "seen")
    with model.engine(daemon, prepare=lambda: compare_loads(seen)) as engine:
        model.same(engine, "cold, of latent attention")
        require(len(engine.run(parts)) == 1, "a block has one part")
        answers = model.generate(engine)
        require(cached_of(answers) == [320] * len(prompts), "all but a token is cached")
        model.expected = tokens_of(answers)
    with open(seen, encoding="ascii") as file:
        found = sorted(line.split() for line in file)
    require(found == [[saves, "20", "20"] for saves in ("0", "1") for _ in prompts],
            "each rank loads what it had computed, and one of them had saved it", found)
    with model.engine(daemon) as engine:
        require(model.same(engine, "after a restart") == [320] * len(prompts), "all is cached")
    with model.engine(daemon, prepare=zero_loads) as engine:
        different = model.differ(engine)
        require(different == len(prompts), "zeroed KV gives other tokens")
    daemon.end()


def grouped_otherwise(model, daemon):
    """Where vLLM puts all layers in one group, a block's bytes are others."""
    with model.engine(daemon) as engine:
        ours = engine.run(space_name)
    with model.engine(daemon, disable_hybrid_kv_cache_manager=True) as engine:
        require(len(engine.run(groups)) == 1, "one group for all layers")
        space = engine.run(space_name)
        why = explained(daemon, space, model.prompts[0])
        require((why["reason"], why["space"], why["field"]) == ("other_space", ours, "layout"),
                "explain names the layout", why)
        answers = engine.generate(model.prompts[:1])
        require(cached_of(answers) == [0] and tokens_of(answers) == model.expected[:1],
                "0 cached tokens where groups are others")


def held_while_saved(model):
    """Saves that lag behind: what they read is not given to others meanwhile."""
    for prepare, what in ((slow_saves, "held"), (slow_saves_unheld, "not held")):
        daemon = Daemon("--dram", "512MiB")
        with model.engine(daemon, prepare=prepare) as engine:
            different = model.differ(engine)
            engine.settle()
        with model.engine(daemon) as engine:
            different += model.differ(engine)
            cached = sum(cached_of(engine.generate(model.prompts)))
            require(cached > 0 and (different > 0) == (prepare is slow_saves_unheld),
                    f"what was saved late of pages that were {what}",
                    f"{different} of {2 * len(model.prompts)} differ, {cached} tokens cached")
        daemon.end()


def main():
    print(f"seed {SEED}", flush=True)
    layouts()
    prompts = door.prompts_of(SEED, PROMPTS, 300, 900)
    folder = door.scratch()
    both = Model(door.make_model(os.path.join(folder, "both"), window=WINDOW, kinds="ssfssf"),
                 prompts, [("SlidingWindowSpec", WINDOW)] * 2 + [("FullAttentionSpec", None)],
                 **TIGHT)
    daemon = Daemon("--dram", "512MiB")
    there_and_back(both, daemon)
    grouped_otherwise(both, daemon)
    failed_loads(both, daemon)
    stray_byte(both, daemon)
    daemon.end()
    held_while_saved(both)
    beside_own_cache(both)
    preempted(Model(both.path, prompts[:8], both.groups, max_tokens=200,
                    **{**TIGHT, "num_gpu_blocks_override": 90}))

    alone = Model(door.make_model(os.path.join(folder, "alone"), window=WINDOW, kinds="ssss"),
                  prompts, [("SlidingWindowSpec", WINDOW)], **TIGHT)
    daemon = Daemon("--dram", "512MiB")
    there_and_back(alone, daemon)
    failed_loads(alone, daemon)
    daemon.end()

    of_two_ranks(Model(both.path, prompts[:6], both.groups, tensor_parallel_size=2, **TIGHT))
    one_for_all_ranks(folder)


if __name__ == "__main__":
    main()
