# SPDX-License-Identifier: Apache-2.0
"""What the tests and the demo of the doors share: a private daemon, a tiny model.

$SKEPD, $SKEP, $SKEP_LIBRARY and PYTHONPATH are set by ctest and by `./dev demo`.
"""
import ctypes
import importlib.util
import json
import os
import subprocess
import sys
import time

import harness

# One thread: sums of several may differ in their last bits from run to run. Nothing is fetched.
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

BLOCK_TOKENS = 16
SEED = 20


def need(*modules):
    """Skips the test where the environment lacks one of them."""
    missing = [name for name in modules if not importlib.util.find_spec(name)]
    if missing:
        print(f"skipped: {sys.executable} has no {', '.join(missing)}")
        sys.exit(77)


class Daemon(harness.Daemon):
    """A private skepd in a folder of its own, which goes with it."""

    def misses(self):
        """Blocks missed so far, by reason, as `skep status` tells them."""
        done = subprocess.run([os.environ["SKEP"], "status", "--socket", self.socket, "--json"],
                              stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)["realms"][0]["misses"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def tiny_llama(dtype=None, **more):
    """A Llama of random weights, the same in every process. With weights this far apart greedy
    decoding says something else after each prompt; with the usual 0.02 it repeats one token, and
    a comparison of tokens would pass with any KV."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    settings = {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 704,
                "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4,
                "max_position_embeddings": 2048, "initializer_range": 0.25,
                "bos_token_id": None, "eos_token_id": None, **more}
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    return LlamaForCausalLM(LlamaConfig(**settings)).to(dtype or torch.float32).eval()


def prompt_of(tokens, seed=SEED, vocabulary=4096):
    """Random tokens, the same in every process."""
    import torch
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (tokens,), generator=generator)


def greedy(model, ids, cache, count, had=0):
    """Tokens by greedy decoding from a cache that holds the first @had of @ids; the seconds until
    the first of them."""
    import torch
    began, first, tokens, step = time.monotonic(), 0.0, [], ids[had:].unsqueeze(0)
    with torch.no_grad():
        for _ in range(count):
            logits = model(step, past_key_values=cache, use_cache=True).logits[0, -1]
            tokens.append(int(logits.argmax()))
            first = first or time.monotonic() - began
            step = torch.tensor([[tokens[-1]]])
    return tokens, first


def flip_byte(session, chain, block, offset):
    """A stray write: turns a byte over where a block lies in the pool, which every process that
    writes to the store has mapped. No call of the library is told."""
    with session.match(chain) as run:
        address = run.views().address(block) + offset
        ctypes.c_ubyte.from_address(address).value ^= 0x10
