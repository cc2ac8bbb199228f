# SPDX-License-Identifier: Apache-2.0
"""SkepConnector: tokens are the same without a store, cold, warm, after an engine's restart and
after a daemon's; and they are not where the KV is wrong."""
import os
import sys

import vllm_engine as door
from vllm_engine import Engine, cached_of, tokens_of

import skep
from harness import Daemon

SEED = int(os.environ.get("SKEP_SEED", "20261127"))
PROMPTS = 24
FLAGS = ("--dram", "256MiB", "--ssd", "{folder}/ssd:1GiB")


def whole_tokens(prompt):
    """What can be had of a prompt: its whole blocks, but not its last token."""
    whole = len(prompt) // door.BLOCK_TOKENS * door.BLOCK_TOKENS
    return min(whole, len(prompt) - 1)


def require(condition, what, *more):
    if not condition:
        sys.exit(f"FAILED: {what} {more}")
    print(f"ok: {what}", *more, flush=True)


def make_durable(daemon):
    with skep.Session(daemon.socket) as session:
        space = session.space("probe", [skep.Part(4096)], 16)
        space.sync(timeout=60)


def main():
    print(f"seed {SEED}", flush=True)
    prompts = door.prompts_of(SEED, PROMPTS) + door.prompts_of(SEED + 1, 2, 700, 700)
    prompts.append(prompts[-1][:5 * door.BLOCK_TOKENS])
    folder = door.scratch()
    model = door.make_model(os.path.join(folder, "model"))

    with Engine(model) as engine:
        expected = tokens_of(engine.generate(prompts))
    require(len({tuple(tokens) for tokens in expected}) >= PROMPTS, "prompts answer differently")

    daemon = Daemon(*FLAGS)
    with Engine(model, daemon.socket) as engine:
        require(tokens_of(engine.generate(prompts)) == expected, "tokens cold")
        engine.settle()
        answers = engine.generate(prompts)
        require(tokens_of(answers) == expected, "tokens warm")
        require(cached_of(answers) == [whole_tokens(prompt) for prompt in prompts],
                "all that can be had is cached", cached_of(answers))
        require(whole_tokens(prompts[-2]) == 640, "640 of 700 tokens")
        require(whole_tokens(prompts[-1]) == 639, "one token fewer of a whole prompt")

    with Engine(model, daemon.socket, disable_log_stats=False) as engine:
        answers = engine.generate(prompts)
        require(tokens_of(answers) == expected, "tokens after an engine's restart")
        metrics = engine.run(door.metrics)
        require(metrics.get("vllm:skep_hit_tokens_dram") == sum(cached_of(answers)),
                "vLLM's own metrics say where hits came from", metrics)
        require(cached_of(answers) == [whole_tokens(prompt) for prompt in prompts],
                "cached after an engine's restart")
        make_durable(daemon)
        daemon.kill()
        answers = engine.run(door.when_away, prompts[:3])
        require(tokens_of(answers) == expected[:3], "tokens without a daemon")
        require(cached_of(answers) == [0] * 3, "nothing is cached without a daemon")
        daemon.start()
        engine.run(door.count)
        answers = engine.run(door.when_attached, prompts)
        require(tokens_of(answers) == expected, "tokens after a daemon's restart")
        counted = engine.run(door.counted)
        require(counted.get("hit_tokens_ssd", 0) > 0 and not counted.get("exceptions"),
                "cached after a daemon's restart", cached_of(answers), counted)
        engine.run(door.zero_loads)
        answers = engine.generate(prompts)
        same = sum(a == b for a, b in zip(tokens_of(answers), expected))
        with skep.Session(daemon.socket) as session:
            require(session.stats().pins == 0, "no pin is left")
        # Prompts shorter than a block have nothing to zero; these have none shorter.
        require(same <= len(prompts) // 10, "KV zeroed behind the checks gives other tokens",
                f"{len(prompts) - same} of {len(prompts)} differ")
    daemon.end()


if __name__ == "__main__":
    main()
