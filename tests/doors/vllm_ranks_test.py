# SPDX-License-Identifier: Apache-2.0
"""SkepConnector with two ranks: tokens are the same, a rank that dies between its reserve and its
commit leaves no half block, and vLLM's own ExampleConnector answers otherwise warm than cold."""
import contextlib
import os
import signal
import sys

import vllm_engine as door
from vllm_engine import Engine, cached_of, tokens_of

import skep
from harness import Daemon
from vllm_tokens_test import make_durable, require, whole_tokens

SEED = int(os.environ.get("SKEP_SEED", "20261127"))
PROMPTS = 20
FLAGS = ("--dram", "256MiB", "--ssd", "{folder}/ssd:1GiB")
RANKS = {"tensor_parallel_size": 2}


# ---- run in the engine's process before it is one, and so in its workers

def zero_loads():
    """What was loaded and verified is zeroed in the first layer of each cache group."""
    from skep.tensors import NO_PAGE
    from skep.vllm import worker as half

    true_load, true_register, caches = half.load, half.Worker.register, []

    def register(self, given):
        true_register(self, given)
        caches.extend(self.caches)

    def load(plan, order, part, stream):
        failed = true_load(plan, order, part, stream)
        for layers, pages in zip(caches, order.pages):
            layers[0][[page for page in pages if page != NO_PAGE]] = 0
        return failed

    half.load, half.Worker.register = load, register


def die_in_a_save():
    """The second rank dies when its frames are reserved and half written."""
    from skep.vllm import mover

    true_save = mover.Saver._save

    def save(self, order, stream, until):
        if self._part == 0:
            return true_save(self, order, stream, until)
        frames = self._mover._session.reserve(
            self._chains[order.request], first=order.first, count=order.blocks, part=1)
        for i in frames.reserved():
            room = frames.buffer(i)
            room[:len(room) // 2] = bytes(len(room) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    mover.Saver._save = save


# ---- the test

def same_tokens(model, daemon, prompts, expected):
    every = [whole_tokens(prompt) for prompt in prompts]
    with Engine(model, daemon.socket, **RANKS) as engine:
        require(tokens_of(engine.generate(prompts)) == expected, "tokens cold")
        answers = engine.generate(prompts)
        require(tokens_of(answers) == expected, "tokens warm")
        require(cached_of(answers) == every, "all that can be had is cached", sum(every))
    with Engine(model, daemon.socket, **RANKS) as engine:
        answers = engine.generate(prompts)
        require(tokens_of(answers) == expected, "tokens after an engine's restart")
        require(cached_of(answers) == every, "cached after an engine's restart")
        make_durable(daemon)
        daemon.kill()
        daemon.start()
        answers = engine.run(door.when_attached, prompts)
        require(tokens_of(answers) == expected, "tokens after a daemon's restart")
        require(sum(cached_of(answers)) > 0, "cached after a daemon's restart",
                sum(cached_of(answers)))
    with Engine(model, daemon.socket, prepare=zero_loads, **RANKS) as engine:
        answers = tokens_of(engine.generate(prompts))
        differ = sum(a != b for a, b in zip(answers, expected))
        require(differ > len(prompts) * 9 // 10, "KV zeroed behind the checks gives other tokens",
                f"{differ} of {len(prompts)} differ")


def no_half_block(model, prompts, expected):
    daemon = Daemon("--dram", "256MiB")
    engine = Engine(model, daemon.socket, prepare=die_in_a_save, **RANKS)
    with contextlib.suppress(RuntimeError, EOFError):
        engine.generate(prompts)
    engine.kill()
    with skep.Session(daemon.socket) as session:
        stats = session.stats()
        require(stats.blocks == 0 and stats.puts > 0,
                "of a rank that died no block is left that could be matched", stats)
    with Engine(model, daemon.socket, **RANKS) as engine:
        answers = engine.generate(prompts)
        require(tokens_of(answers) == expected, "tokens after a rank died")
        require(cached_of(answers)[0] == 0, "no half block is matched")
        answers = engine.generate(prompts)
        require(tokens_of(answers) == expected and cached_of(answers)[0] > 0,
                "the blocks are put anew", cached_of(answers))
        with skep.Session(daemon.socket) as session:
            require(session.stats().pins == 0, "no pin is left")
    daemon.end()


def example_beside(model, folder, prompts, expected):
    """What the tests above would see of a store that does not tell ranks apart."""
    with Engine(model, connector={
            "kv_connector": "ExampleConnector",
            "kv_connector_extra_config": {"shared_storage_path": folder}}, **RANKS) as engine:
        cold = tokens_of(engine.generate(prompts))
        warm = tokens_of(engine.generate(prompts))
    require(cold == expected, "vLLM's ExampleConnector: tokens cold")
    differ = sum(a != b for a, b in zip(cold, warm))
    require(differ > 0, "vLLM's ExampleConnector answers otherwise warm than cold",
            f"{differ} of {len(prompts)} differ")


def main():
    print(f"seed {SEED}", flush=True)
    prompts = door.prompts_of(SEED, PROMPTS)
    folder = door.scratch()
    model = door.make_model(os.path.join(folder, "model"))
    with Engine(model, **RANKS) as engine:
        expected = tokens_of(engine.generate(prompts))
    require(len({tuple(tokens) for tokens in expected}) >= PROMPTS - 2,
            "prompts answer differently")
    daemon = Daemon(*FLAGS)
    same_tokens(model, daemon, prompts, expected)
    daemon.end()
    no_half_block(model, prompts[:4], expected[:4])
    example_beside(model, os.path.join(folder, "example"), prompts[:4], expected[:4])


if __name__ == "__main__":
    sys.exit(main())
