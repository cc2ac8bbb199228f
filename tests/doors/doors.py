# SPDX-License-Identifier: Apache-2.0
"""What the tests and the demo of the doors share: a private daemon, a tiny model, quiet.

$SKEPD, $SKEP, $SKEP_LIBRARY and PYTHONPATH are set by ctest and by `./dev demo`.
"""
import contextlib
import ctypes
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

# One thread: sums of several may differ in their last bits from run to run. Nothing is fetched.
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

BLOCK_TOKENS = 16
SEED = 20


@contextlib.contextmanager
def quiet():
    """What the engines say goes to stderr, also from below Python."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def need(*modules):
    """Skips the test where the environment lacks one of them."""
    missing = [name for name in modules if not importlib.util.find_spec(name)]
    if missing:
        print(f"skipped: {sys.executable} has no {', '.join(missing)}")
        sys.exit(77)


class Daemon:
    """A private skepd in a folder of its own, which goes with it."""

    def __init__(self, *flags):
        self.folder = tempfile.mkdtemp(prefix="skep-doors-")
        self.socket = os.path.join(self.folder, "socket")
        self.flags = [flag.format(folder=self.folder) for flag in flags]
        self.process = None
        self.start()

    def start(self):
        words = [os.environ["SKEPD"], "--socket", self.socket, "--state-dir", self.folder,
                 "--admin", "off", "--private", "--parent-death",
                 *(self.flags or ("--dram", "64MiB"))]
        reader, writer = os.pipe()
        log_path = os.path.join(self.folder, "log")
        with open(log_path, "ab") as log:
            self.process = subprocess.Popen(words + ["--ready-fd", str(writer)], stderr=log,
                                            pass_fds=[writer])
        os.close(writer)
        said = os.read(reader, 1)
        os.close(reader)
        if said != b"\0":
            with open(log_path, encoding="utf-8") as log:
                raise RuntimeError(f"skepd did not start: {log.read()}")

    def misses(self):
        """Blocks missed so far, by reason, as `skep status` tells them."""
        done = subprocess.run([os.environ["SKEP"], "status", "--socket", self.socket, "--json"],
                              stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)["realms"][0]["misses"]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        self.kill()
        shutil.rmtree(self.folder)

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
