# SPDX-License-Identifier: Apache-2.0
"""Blocks of another identity are never had: another salt, dtype, RoPE, block size, rank count, or
one changed weight. `skep explain` names the field in which the spaces differ."""
import json
import os
import subprocess
import sys

import vllm_engine as door
from vllm_engine import Engine, cached_of, tokens_of

from harness import Daemon

SEED = int(os.environ.get("SKEP_SEED", "20261127"))

# What differs: (options of the engine, of the model, the field that explain names).
OTHERS = {
    "dtype": ({"dtype": "bfloat16"}, {}, "layout"),
    "RoPE theta": ({}, {"rope_theta": 20000.0}, "rope"),
    "block size": ({"block_size": 64}, {}, "block_tokens"),
    "weights": ({}, {"changed": 0.001}, "weights"),
    "rank count": ({"tensor_parallel_size": 2}, {}, "ranks"),
}


def require(condition, what, *more):
    if not condition:
        sys.exit(f"FAILED: {what} {more}")
    print(f"ok: {what}", *more, flush=True)


def space_name(served):
    return served.connector._scheduler._fields.name


def explained(daemon, space, prompt):
    """What `skep explain` says of a prompt."""
    done = subprocess.run(
        [os.environ["SKEP"], "explain", "--socket", daemon.socket, "--space", space, "--json",
         "--token-ids", " ".join(map(str, prompt))], stdout=subprocess.PIPE, check=False)
    return json.loads(done.stdout)


def salts(engine, prompts, expected):
    for salt in ("a", "b"):
        answers = engine.generate(prompts, salt=salt)
        require(tokens_of(answers) == expected, f"tokens with salt {salt}")
        require(cached_of(answers) == [0] * len(prompts), f"0 cached tokens with salt {salt}")
        engine.settle()
    require(sum(cached_of(engine.generate(prompts, salt="a"))) > 0, "a salt finds its own")


def loras(model, folder, daemon, prompts, expected):
    """Adapters that change nothing: what one computed is still not another's."""
    adapters = [(name, number, door.make_lora(os.path.join(folder, name)))
                for number, name in enumerate(("a", "b"), 1)]
    with Engine(model, daemon.socket, enable_lora=True, max_lora_rank=8) as engine:
        for adapter in adapters:
            answers = engine.generate(prompts, lora=adapter)
            require(tokens_of(answers) == expected, f"tokens with LoRA {adapter[0]}")
            require(cached_of(answers) == [0] * len(prompts),
                    f"0 cached tokens with LoRA {adapter[0]}")
            engine.settle()
        require(sum(cached_of(engine.generate(prompts, lora=adapters[0]))) > 0,
                "a LoRA finds its own")


def main():
    print(f"seed {SEED}", flush=True)
    prompts = door.prompts_of(SEED, 2, 500, 700)
    # Each starts otherwise, so that no block of one is the other's.
    prompts[1] = list(reversed(prompts[1]))
    folder = door.scratch()
    model = door.make_model(os.path.join(folder, "model"))
    daemon = Daemon("--dram", "256MiB")
    with Engine(model, daemon.socket) as engine:
        expected = tokens_of(engine.generate(prompts))
        engine.settle()
        require(sum(cached_of(engine.generate(prompts))) > 0, "the store has the prompts")
        salts(engine, prompts, expected)
        ours = engine.run(space_name)
    loras(model, folder, daemon, prompts, expected)
    for what, (options, changes, field) in OTHERS.items():
        other = model
        if changes:
            # Of the same name, elsewhere.
            other = door.make_model(os.path.join(folder, what, "model"), **changes)
        with Engine(other, daemon.socket, **options) as engine:
            space = engine.run(space_name)
            require(space != ours, f"a space of its own: {what}")
            why = explained(daemon, space, prompts[0])
            require((why["reason"], why["space"], why["field"]) == ("other_space", ours, field),
                    f"explain names {field}: {what}")
            require(cached_of(engine.generate(prompts, max_tokens=2)) == [0, 0],
                    f"0 cached tokens: {what}")
            daemon_forget(daemon, space)
    daemon.end()


def daemon_forget(daemon, space):
    """Its blocks go, so that explain names the first engine's space to the next one."""
    subprocess.run([os.environ["SKEP"], "purge", "--socket", daemon.socket, "--space", space,
                    "--yes"], stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
