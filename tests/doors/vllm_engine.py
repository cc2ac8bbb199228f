# SPDX-License-Identifier: Apache-2.0
"""vLLM on the CPU for tests: a small model of random weights, and engines in processes of their
own.

vLLM is imported once and each engine is a fork of that: an import takes longer than an engine.
"""
import contextlib
import json
import multiprocessing
import os
import random
import signal
import struct
import sys
import tempfile
import time
import traceback

# The tests of the package have the private daemon.
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "python"))

os.environ.update({
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
    "VLLM_HOST_IP": "127.0.0.1"})

try:
    import numpy
    import vllm
    import vllm.v1.engine.core
    from vllm.lora.request import LoRARequest
    from vllm.v1.executor import multiproc_executor
except ImportError as error:
    print(f"skipped: this Python has no vLLM ({error})")
    sys.exit(77)

VOCABULARY, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS = 512, 128, 256, 4, 4, 2
MLA_LATENT, MLA_ROPE, MLA_NOPE = 512, 64, 128
BLOCK_TOKENS = 128
START_S, ANSWER_S = 900, 900
# Of a connector, in each step.
CALLS = ("get_num_new_matched_tokens", "update_state_after_alloc", "build_connector_meta",
         "update_connector_output", "request_finished_all_groups", "handle_preemptions",
         "start_load_kv", "wait_for_save", "get_transfer_results",
         "get_block_ids_with_load_errors", "build_connector_worker_meta")


_folders = []


def scratch():
    """A folder that goes when the test does."""
    _folders.append(tempfile.TemporaryDirectory(prefix="skep-doors-"))
    return _folders[-1].name


# ---- the model

def _shapes(layers):
    kv = HIDDEN // HEADS * KV_HEADS
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(layers):
        at = f"model.layers.{layer}"
        yield f"{at}.self_attn.q_proj.weight", (HIDDEN, HIDDEN)
        yield f"{at}.self_attn.k_proj.weight", (kv, HIDDEN)
        yield f"{at}.self_attn.v_proj.weight", (kv, HIDDEN)
        yield f"{at}.self_attn.o_proj.weight", (HIDDEN, HIDDEN)
        yield f"{at}.mlp.gate_proj.weight", (INNER, HIDDEN)
        yield f"{at}.mlp.up_proj.weight", (INNER, HIDDEN)
        yield f"{at}.mlp.down_proj.weight", (HIDDEN, INNER)
        yield f"{at}.input_layernorm.weight", (HIDDEN,)
        yield f"{at}.post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def _write_tensors(path, tensors):
    """A safetensors file of 32-bit floats."""
    header, blobs, at = {}, [], 0
    for name, tensor in tensors:
        blobs.append(tensor.astype("<f4").tobytes())
        header[name] = {"dtype": "F32", "shape": list(tensor.shape),
                        "data_offsets": [at, at + len(blobs[-1])]}
        at += len(blobs[-1])
    said = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(said)) + said + b"".join(blobs))


def _mla_shapes():
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        yield f"{at}.self_attn.q_proj.weight", (HEADS * (MLA_NOPE + MLA_ROPE), HIDDEN)
        yield f"{at}.self_attn.kv_a_proj_with_mqa.weight", (MLA_LATENT + MLA_ROPE, HIDDEN)
        yield f"{at}.self_attn.kv_a_layernorm.weight", (MLA_LATENT,)
        yield f"{at}.self_attn.kv_b_proj.weight", (HEADS * 2 * MLA_NOPE, MLA_LATENT)
        yield f"{at}.self_attn.o_proj.weight", (HIDDEN, HEADS * MLA_NOPE)
        yield f"{at}.mlp.gate_proj.weight", (INNER, HIDDEN)
        yield f"{at}.mlp.up_proj.weight", (INNER, HIDDEN)
        yield f"{at}.mlp.down_proj.weight", (HIDDEN, INNER)
        yield f"{at}.input_layernorm.weight", (HIDDEN,)
        yield f"{at}.post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def _write_model(folder, shapes, changed, **more):
    """Seeded weights, wide enough that tokens vary; @changed is added to one of them."""
    draw = numpy.random.default_rng(7)
    tensors = [(name, numpy.ones(shape) if len(shape) == 1 else draw.normal(0, 0.25, shape))
               for name, shape in shapes]
    dict(tensors)["model.norm.weight"][0] += changed
    os.makedirs(folder)
    _write_tensors(os.path.join(folder, "model.safetensors"), tensors)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump({"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": INNER,
                   "num_attention_heads": HEADS, "max_position_embeddings": 2048,
                   "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False,
                   "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 2, **more}, file)
    return folder


def make_model(folder, rope_theta=10000.0, changed=0.0, window=None, kinds=""):
    """A Llama. kinds: of each layer, where not all attend to all: f for full attention, s for the
    last @window tokens alone."""
    more = {"num_hidden_layers": len(kinds) or LAYERS}
    if kinds:
        names = {"f": "full_attention", "s": "sliding_attention"}
        more.update(sliding_window=window, layer_types=[names[kind] for kind in kinds])
    return _write_model(
        folder, _shapes(more["num_hidden_layers"]), changed, architectures=["LlamaForCausalLM"],
        model_type="llama", num_key_value_heads=KV_HEADS,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta}, **more)


def make_mla_model(folder):
    """A model with latent attention, of the only size that vLLM's CPU kernels have."""
    return _write_model(
        folder, _mla_shapes(), 0.0, architectures=["DeepseekV2ForCausalLM"],
        model_type="deepseek_v2", num_hidden_layers=LAYERS, num_key_value_heads=HEADS,
        kv_lora_rank=MLA_LATENT, q_lora_rank=None, qk_rope_head_dim=MLA_ROPE,
        qk_nope_head_dim=MLA_NOPE, v_head_dim=MLA_NOPE, first_k_dense_replace=LAYERS,
        n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, n_group=1, topk_group=1,
        topk_method="greedy", moe_intermediate_size=INNER,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})


def make_lora(folder, rank=8):
    """An adapter that changes nothing: what differs is its name alone."""
    at = "base_model.model.model.layers.0.self_attn.q_proj"
    os.makedirs(folder)
    _write_tensors(os.path.join(folder, "adapter_model.safetensors"),
                   [(f"{at}.lora_A.weight", numpy.ones((rank, HIDDEN))),
                    (f"{at}.lora_B.weight", numpy.zeros((HIDDEN, rank)))])
    with open(os.path.join(folder, "adapter_config.json"), "w", encoding="utf-8") as file:
        json.dump({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank,
                   "target_modules": ["q_proj"], "bias": "none"}, file)
    return folder


def prompts_of(seed, count, shortest=300, longest=900):
    """Prompts of which half share a prefix with another."""
    draw = random.Random(seed)
    prompts = []
    for i in range(count):
        tokens = draw.randrange(shortest, longest + 1)
        shared = draw.choice(prompts)[:draw.randrange(tokens)] if i % 2 else []
        prompts.append(shared + [draw.randrange(3, VOCABULARY)
                                 for _ in range(tokens - len(shared))])
    return prompts


# ---- an engine, in its own process

class Served:
    """The engine's side: what the test asks for."""

    def __init__(self, options):
        self.llm = vllm.LLM(**options)
        self.engine = self.llm.llm_engine
        self.core = self.engine.engine_core.engine_core
        self.requests = 0
        self.longest_step = self.longest_call = 0.0
        for half in self.halves():
            for name in filter(lambda each: hasattr(half, each), CALLS):
                self._time(half, name)

    @property
    def connector(self):
        return self.core.scheduler.connector

    def generate(self, prompts, max_tokens=32, salt=None, lora=None, abort_at=None):
        """[(tokens, tokens that were cached, reason)] of each. lora: (name, number, folder);
        abort_at: all of them are aborted after so many steps."""
        params = vllm.SamplingParams(temperature=0, max_tokens=max_tokens, detokenize=False,
                                     ignore_eos=True)
        names = []
        for prompt in prompts:
            names.append(f"r{self.requests}")
            self.requests += 1
            given = {"prompt_token_ids": prompt}
            if salt:
                given["cache_salt"] = salt
            self.engine.add_request(names[-1], given, params,
                                    lora_request=LoRARequest(*lora) if lora else None)
        answers, steps, self.longest_step, self.longest_call = {}, 0, 0.0, 0.0
        while self.engine.has_unfinished_requests():
            if abort_at is not None and steps == abort_at:
                self.engine.abort_request(names)
            began = time.monotonic()
            for output in self.engine.step():
                if output.finished:
                    answers[output.request_id] = output
            self.longest_step = max(self.longest_step, time.monotonic() - began)
            steps += 1
        while self.core.scheduler.has_requests():
            self.engine.step()
        return [self._answer(answers.get(name)) for name in names]

    @staticmethod
    def _answer(output):
        if output is None:
            return None
        return (list(output.outputs[0].token_ids), output.num_cached_tokens,
                output.outputs[0].finish_reason)

    def settle(self, seconds=20):
        """Until all that is being saved is saved."""
        end = time.monotonic() + seconds
        worker = self.connector_worker()
        while worker is not None and worker._saver._under_way and time.monotonic() < end:
            time.sleep(0.01)

    def halves(self):
        """The connector in the scheduler and, where it is in this process, in the worker."""
        from vllm.distributed.kv_transfer import get_kv_transfer_group, has_kv_transfer_group

        worker = [get_kv_transfer_group()] if has_kv_transfer_group() else []
        return [self.connector, *worker] if self.connector is not None else []

    def _time(self, half, name):
        true_call = getattr(half, name)

        def call(*arguments, **more):
            began = time.monotonic()
            try:
                return true_call(*arguments, **more)
            finally:
                self.longest_call = max(self.longest_call, time.monotonic() - began)

        setattr(half, name, call)

    def connector_worker(self):
        """The worker's half, where it is in this process."""
        halves = self.halves()
        return halves[1]._worker if len(halves) > 1 else None

    def connect(self, seconds=60):
        """Until both halves have the space."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.connector._scheduler._is_open():
                return True
            time.sleep(0.05)
        return False

    def longest(self):
        """Seconds of the longest step of the last generate(), and of a call of the connector."""
        return self.longest_step, self.longest_call

    def forget(self):
        """vLLM's own prefix cache is emptied."""
        return self.llm.reset_prefix_cache()

    def run(self, function, *arguments):
        return function(self, *arguments)


def _serve(pipe, options, prepare):
    # On the CPU vLLM would have its workers import everything anew.
    multiproc_executor.get_mp_context = lambda: multiprocessing.get_context("fork")
    try:
        if prepare is not None:
            prepare()
        served = Served(options)
        pipe.send((True, None))
    except Exception:
        pipe.send((False, traceback.format_exc()))
        return
    while (asked := pipe.recv()) is not None:
        name, arguments, more = asked
        try:
            pipe.send((True, getattr(served, name)(*arguments, **more)))
        except Exception:
            pipe.send((False, traceback.format_exc()))
    if served.connector is not None:
        served.core.shutdown()
    pipe.send((True, None))


def children_of(pid):
    """Processes that it has begun."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as children:
            found += map(int, children.read().split())
    return found


class Engine:
    """The test's side. socket: of the daemon; None: an engine without a store. prepare: called in
    the engine's process before all else."""

    def __init__(self, model, socket=None, prepare=None, settings=None, connector=None,
                 **options):
        said = dict(model=model, skip_tokenizer_init=True, enforce_eager=True, dtype="float32",
                    enable_prefix_caching=False, max_model_len=1024, max_num_seqs=8, seed=0,
                    num_gpu_blocks_override=128, prefix_caching_hash_algo="sha256_cbor",
                    disable_log_stats=True)
        said.update(options)
        if socket is not None:
            connector = {"kv_connector": "SkepConnector", "kv_connector_module_path": "skep.vllm",
                         "kv_load_failure_policy": "recompute",
                         "kv_connector_extra_config": {"socket": socket, **(settings or {})}}
        if connector is not None:
            said["kv_transfer_config"] = vllm.config.KVTransferConfig(kv_role="kv_both",
                                                                      **connector)
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, said, prepare))
        self.process.start()
        theirs.close()
        try:
            self._answer(START_S)
            if socket is not None and os.path.exists(socket) and not self.connect():
                raise RuntimeError("the engine does not find the daemon")
        except BaseException:
            self.kill()
            raise

    def _answer(self, seconds):
        if not self._pipe.poll(seconds):
            raise RuntimeError("the engine does not answer")
        good, answer = self._pipe.recv()
        if not good:
            raise RuntimeError(answer)
        return answer

    def __getattr__(self, name):
        def ask(*arguments, **more):
            self._pipe.send((name, arguments, more))
            return self._answer(ANSWER_S)
        return ask

    def kill(self):
        """Ends it and its workers, whatever they do."""
        for child in children_of(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.process.kill()
        self.process.join()

    def close(self):
        with contextlib.suppress(EOFError, OSError, RuntimeError):
            self._pipe.send(None)
            self._answer(60)
        self.process.join(30)
        if self.process.is_alive():
            self.kill()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def tokens_of(answers):
    return [answer and answer[0] for answer in answers]


def cached_of(answers):
    return [answer and answer[1] for answer in answers]


# ---- what is done behind the checks

def zero_loads(served):
    """From now on what was loaded and verified is zeroed in the first layer of each group."""
    from skep.tensors import NO_PAGE
    from skep.vllm import worker as half

    ours = served.connector_worker()
    true_load, caches = half.load, ours.caches

    def load(plan, order, part, stream):
        failed = true_load(plan, order, part, stream)
        for layers, pages in zip(caches, order.pages):
            layers[0][[page for page in pages if page != NO_PAGE]] = 0
        return failed

    half.load = load


def count(served):
    """From now on what the connector counts is summed up, for counted()."""
    served.sums = {}
    for half in served.halves():
        def add(name, number, true_add=half.counts.add):
            served.sums[name] = served.sums.get(name, 0) + number
            true_add(name, number)
        half.counts.add = add


def counted(served):
    return served.sums


def when_attached(served, prompts, seconds=60):
    """generate(), once the scheduler's session has found the daemon again."""
    end = time.monotonic() + seconds
    while not served.connector._scheduler._session.attached and time.monotonic() < end:
        time.sleep(0.05)
    return served.generate(prompts)


def when_away(served, prompts, seconds=60):
    """generate(), once the scheduler's session has found the daemon gone."""
    end = time.monotonic() + seconds
    while served.connector._scheduler._session.attached and time.monotonic() < end:
        time.sleep(0.05)
    return served.generate(prompts)


def metrics(served):
    """vLLM's counters that begin as ours do."""
    return {each.name: each.value for each in served.llm.get_metrics()
            if each.name.startswith("vllm:skep_")}
