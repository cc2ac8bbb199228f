# SPDX-License-Identifier: Apache-2.0
"""skep.hf: the same tokens with the store and without it, whatever becomes of the store.

$SKEPD, $SKEP, $SKEP_LIBRARY and PYTHONPATH are set by ctest.
"""
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
import unittest

import doors

doors.need("torch", "transformers")

import torch  # noqa: E402
from transformers import (  # noqa: E402
    DeepseekV3Config,
    DynamicCache,
    LlamaConfig,
    MistralConfig,
    Qwen3NextConfig,
    StaticCache,
    T5Config,
)
from transformers.cache_utils import QuantoQuantizedLayer  # noqa: E402

import skep  # noqa: E402
from skep import hf  # noqa: E402

SMALL = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2}
ANSWER = 24
GREEDY = {"max_new_tokens": ANSWER, "do_sample": False}
WAIT_S = 60


def small(**more):
    return doors.tiny_llama(**{**SMALL, **more})


def prompt_of(tokens, seed):
    return doors.prompt_of(tokens, seed, SMALL["vocab_size"])


def answer_of(output, prompt):
    return output[0, len(prompt):].tolist()


def until(condition, what):
    end = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"never: {what}")
        time.sleep(0.01)


class Door(unittest.TestCase):
    """Tests of one daemon and one model; each has a session and prompts of its own."""

    flags = ()

    @classmethod
    def setUpClass(cls):
        cls.model = small()
        cls.daemon = doors.Daemon(*cls.flags)
        cls.addClassCleanup(cls.daemon.end)

    def setUp(self):
        self.session = self.session_at(self.daemon.socket)
        self.prefixes = self.opened()

    def session_at(self, where):
        session = skep.Session(where, wait=False, timeout=WAIT_S)
        self.addCleanup(session.close)
        return session

    def opened(self, model=None, session=None, **more):
        return hf.PrefixCache(model or self.model, session or self.session,
                              **{"name": "small", "timeout": WAIT_S, **more})

    def bare(self, prompt):
        """The answer without skep."""
        return answer_of(self.model.generate(prompt[None], **GREEDY), prompt)

    def generates(self, prompt, had, miss, prefixes=None):
        """The answer with skep is the same; so much came from it. What was saved afterwards."""
        made = (prefixes or self.prefixes).generate(prompt, **GREEDY)
        self.assertEqual((made.tokens_had, made.miss), (had, miss))
        self.assertEqual(answer_of(made.output, prompt), self.bare(prompt))
        return made.saved

    def computed(self, prompt):
        """A cache of the whole prompt, computed."""
        cache = DynamicCache(config=self.model.config)
        with torch.no_grad():
            self.model(prompt[None], past_key_values=cache)
        return cache

    def assertSameCache(self, cache, right, tokens):
        self.assertEqual(cache.get_seq_length(), tokens)
        for mine, other in zip(cache.layers, right.layers):
            for a, b in ((mine.keys, other.keys), (mine.values, other.values)):
                self.assertTrue(torch.equal(a, b[:, :, :tokens]))


class Prefixes(Door):
    def test_a_prompt_is_had_again_up_to_its_last_whole_block(self):
        prompt = prompt_of(100, 1)
        self.assertGreater(len(set(self.bare(prompt))), ANSWER // 2)
        # Of prompt and answer, but the last token, which was never computed.
        saved = self.generates(prompt, 0, "absent")
        self.assertEqual((saved.blocks, saved.reason), ((100 + ANSWER - 1) // 16, "none"))
        self.assertEqual(self.generates(prompt, 96, "none").blocks, 0)

    def test_another_session_has_the_same_bytes(self):
        prompt = prompt_of(77, 2)
        right = self.computed(prompt)
        self.assertEqual(self.prefixes.save(prompt, right).blocks, 4)
        other = self.opened(small(), self.session_at(self.daemon.socket))
        self.assertSameCache(other.restore(prompt).cache, right, 64)

    def test_prompts_share_what_they_begin_with(self):
        first = prompt_of(100, 3)
        second = torch.cat((first[:60], prompt_of(33, 4)))
        self.generates(first, 0, "absent")
        self.generates(second, 48, "absent")
        self.generates(second, 80, "none")
        self.generates(first[:50], 48, "none")

    def test_a_conversation_goes_on_from_its_own_answer(self):
        prompt = prompt_of(40, 5)
        said = self.prefixes.generate(prompt, **GREEDY).output[0]
        self.generates(torch.cat((said, prompt_of(9, 6))), 48, "absent")

    def test_of_a_prompt_that_is_there_whole_one_token_is_computed(self):
        prompt = prompt_of(64, 7)
        self.generates(prompt, 0, "absent")
        got = self.prefixes.restore(prompt)
        self.assertEqual((got.tokens, got.blocks, got.reason), (63, 4, "none"))
        self.generates(prompt, 63, "none")

    def test_prompts_shorter_than_a_block_keep_nothing(self):
        for tokens in (1, 15):
            prompt = prompt_of(tokens, 8)
            got = self.prefixes.restore(prompt)
            self.assertEqual((got.tokens, got.reason), (0, "none"))
            self.assertEqual(self.prefixes.save(prompt, self.computed(prompt)).blocks, 0)

    def test_tensors_of_any_strides_and_types_come_back_bit_for_bit(self):
        for dtype in (torch.bfloat16, torch.float16, torch.float64):
            model = types.SimpleNamespace(config=self.model.config, dtype=dtype,
                                          parameters=lambda: iter(()))
            prefixes, tokens = self.opened(model, weights="none"), prompt_of(50, 9)
            cache = DynamicCache(config=model.config)
            for index in range(2):
                shape = (1, 50, 2, 32) if index else (1, 2, 50, 32)
                keys, values = torch.randn((2, *shape)).to(dtype)
                cache.update(keys, values, index) if not index else cache.update(
                    keys.transpose(1, 2), values.transpose(1, 2), index)
            cache.layers[1].keys = cache.layers[1].keys.transpose(1, 2).contiguous().transpose(1, 2)
            self.assertEqual(prefixes.save(tokens, cache).blocks, 3)
            self.assertSameCache(prefixes.restore(tokens).cache, cache, 48)

    def test_many_blocks_take_several_jobs(self):
        prompt, usual = prompt_of(131, 10), hf._JOB_BLOCKS
        hf._JOB_BLOCKS = 3
        try:
            right = self.computed(prompt)
            self.assertEqual(self.prefixes.save(prompt, right).blocks, 8)
            self.assertSameCache(self.prefixes.restore(prompt).cache, right, 128)
        finally:
            hf._JOB_BLOCKS = usual

    def test_a_head_that_left_meanwhile_is_put_again(self):
        prompt = prompt_of(64, 11)
        self.generates(prompt, 0, "absent")
        got = self.prefixes.restore(prompt)
        self.prefixes.space.purge()
        self.assertEqual(self.prefixes.save(prompt, got.cache).blocks, 3)
        # So it is where the head leaves between the look and the put.
        self.prefixes.space.purge()
        chain, cache = self.prefixes.chain(prompt), self.computed(prompt)
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        plan = self.prefixes._plan(chain.space, layers, 4)
        self.assertEqual(hf._drain(plan, chain, 2, time.monotonic() + WAIT_S),
                         hf.Saved(4, "none"))
        plan.close()

    def test_a_list_of_tokens_will_do(self):
        prompt = prompt_of(33, 12)
        self.generates(prompt, 0, "absent")
        self.assertEqual(self.prefixes.restore(prompt.tolist()).tokens, 32)
        with self.assertRaisesRegex(ValueError, "33 tokens for a cache of 34"):
            self.prefixes.save(prompt, self.computed(prompt_of(34, 12)))


class WrongBytes(Door):
    def test_a_damaged_block_is_a_miss_and_the_tokens_stay_right(self):
        prompt = prompt_of(100, 20)
        self.generates(prompt, 0, "absent")
        before = self.session.stats().checksum_failures, self.daemon.misses()["checksum"]
        doors.flip_byte(self.session, self.prefixes.chain(prompt), 3, 1234)
        saved = self.generates(prompt, 48, "checksum")
        self.assertEqual(saved.blocks, 7 - 3)
        after = self.session.stats().checksum_failures, self.daemon.misses()["checksum"]
        self.assertEqual(after, (before[0] + 1, before[1] + 1))
        self.generates(prompt, 96, "none")

    def test_negative_control_wrong_kv_gives_other_tokens(self):
        """What the checks keep away, put under a right checksum: the comparison can fail."""
        prompt = prompt_of(100, 21)
        cache = self.computed(prompt)
        cache.layers[0].keys[:, :, :40] = 0
        cache.layers[0].values[:, :, :40] = 0
        self.assertEqual(self.prefixes.save(prompt, cache).blocks, 6)
        made = self.prefixes.generate(prompt, **GREEDY)
        self.assertEqual(made.tokens_had, 96)
        self.assertNotEqual(answer_of(made.output, prompt), self.bare(prompt))


class OtherModels(Door):
    def setUp(self):
        super().setUp()
        self.prompt = prompt_of(64, 30)
        self.generates(self.prompt, 63 if self.prefixes.restore(self.prompt).tokens else 0,
                       self.prefixes.restore(self.prompt).reason)

    def differs(self, prefixes, field):
        """Nothing is had, and the store says in what field the spaces differ."""
        self.assertEqual(prefixes.restore(self.prompt).tokens, 0)
        why = prefixes.explain(self.prompt)
        self.assertEqual((why.matched, why.reason, why.field), (0, "other_space", field))
        self.assertEqual(self.prefixes.restore(self.prompt).tokens, 63)

    def test_another_dtype(self):
        # Weights of another dtype are other weights; where the caller names them, KV still is
        # of another layout.
        self.differs(self.opened(small(dtype=torch.bfloat16)), "weights")

    def test_another_dtype_of_weights_that_the_caller_named(self):
        self.prompt = prompt_of(64, 31)
        self.prefixes = self.opened(weights="named")
        self.generates(self.prompt, 0, "absent")
        self.differs(self.opened(small(dtype=torch.bfloat16), weights="named"), "layout")

    def test_another_rope_theta(self):
        rope = {"rope_type": "default", "rope_theta": 20000.0}
        self.differs(self.opened(small(rope_parameters=rope)), "rope")

    def test_another_block_size(self):
        self.differs(self.opened(block_tokens=32), "block_tokens")

    def test_one_changed_weight(self):
        model = small()
        with torch.no_grad():
            model.model.layers[1].mlp.down_proj.weight[3, 5] += 1e-6
        self.differs(self.opened(model), "weights")

    def test_a_weight_that_changes_under_way(self):
        model = small()
        prefixes = self.opened(model)
        self.assertEqual(prefixes.restore(self.prompt).tokens, 63)
        weight = model.lm_head.weight
        kept = weight.detach()[0, 0].clone()
        with torch.no_grad():
            weight[0, 0] = 7
        self.differs(prefixes, "weights")
        with torch.no_grad():
            weight[0, 0] = kept
        self.assertEqual(prefixes.restore(self.prompt).tokens, 63)

    def test_another_revision_or_arithmetic(self):
        self.differs(self.opened(revision="2"), "model")
        self.differs(self.opened(small(rms_norm_eps=1e-5)), "engine")


class DaemonAway(Door):
    def test_absent_from_the_beginning(self):
        prompt = prompt_of(70, 40)
        with tempfile.TemporaryDirectory() as folder:
            absent = self.session_at(os.path.join(folder, "socket"))
            prefixes = self.opened(session=absent)
            saved = self.generates(prompt, 0, "daemon_down", prefixes)
            self.assertEqual((saved.blocks, saved.reason), (0, "daemon_down"))

    def test_killed_in_the_middle_of_a_prefill_and_started_again(self):
        daemon = doors.Daemon()
        self.addCleanup(daemon.end)
        session, prompt = self.session_at(daemon.socket), prompt_of(70, 41)
        prefixes = self.opened(session=session)
        self.generates(prompt, 0, "absent", prefixes)
        right, longer = self.bare(prompt), torch.cat((prompt, prompt_of(30, 42)))
        hook = self.model.model.layers[0].register_forward_hook(lambda *_: daemon.kill())
        made = prefixes.generate(longer, **GREEDY)
        hook.remove()
        self.assertEqual(made.tokens_had, 64)
        self.assertEqual(answer_of(made.output, longer), self.bare(longer))
        self.assertEqual((made.saved.blocks, made.saved.reason), (0, "daemon_down"))
        again = prefixes.generate(prompt, **GREEDY)
        self.assertEqual((again.tokens_had, again.miss), (0, "daemon_down"))
        self.assertEqual(answer_of(again.output, prompt), right)
        daemon.start()
        until(lambda: session.attached, "the session connects again")
        until(lambda: prefixes.restore(prompt).reason != "daemon_down", "the space is there again")
        self.assertGreater(self.generates(prompt, 0, "absent", prefixes).blocks, 0)
        self.generates(prompt, 64, "none", prefixes)


    def test_killed_at_any_moment(self):
        daemon = doors.Daemon()
        self.addCleanup(daemon.end)
        prefixes = self.opened(session=self.session_at(daemon.socket), timeout=2)
        prompts = [prompt_of(200, 43 + i) for i in range(4)]
        right = [self.bare(prompt) for prompt in prompts]
        for delay in (0, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1):
            until(lambda: prefixes.session.attached, "the session connects again")
            prefixes.generate(prompts[0], **GREEDY)
            killer = threading.Timer(delay, daemon.process.kill)
            killer.start()
            for prompt, answer in zip(prompts, right):
                made = prefixes.generate(prompt, **GREEDY)
                self.assertEqual(answer_of(made.output, prompt), answer, f"after {delay} s")
            killer.join()
            daemon.kill()
            daemon.start()

    def test_stopped_it_costs_the_timeout_and_no_more(self):
        daemon = doors.Daemon()
        self.addCleanup(daemon.end)
        session, prompt = self.session_at(daemon.socket), prompt_of(64, 48)
        prefixes = self.opened(session=session, timeout=0.5)
        self.generates(prompt, 0, "absent", prefixes)
        daemon.process.send_signal(signal.SIGSTOP)
        longer = torch.cat((prompt, prompt_of(40, 49)))
        got = prefixes.restore(longer)
        self.assertEqual(got.tokens, 64)
        cache, began = self.computed(longer), time.monotonic()
        saved = prefixes.save(longer, cache)
        self.assertEqual(saved.blocks, 0)
        self.assertIn(saved.reason, ("deadline", "daemon_down", "busy"))
        self.assertLess(time.monotonic() - began, 20)
        daemon.process.send_signal(signal.SIGCONT)


class OnSsd(Door):
    flags = ("--dram", "64MiB", "--ssd", "{folder}/ssd:256MiB")

    def restarted(self, prompt):
        """The prompt's KV on the ssd alone."""
        self.generates(prompt, 0, "absent")
        self.prefixes.space.sync(timeout=WAIT_S)
        self.daemon.kill()
        self.daemon.start()
        self.setUp()

    def test_what_is_on_the_ssd_is_loaded(self):
        prompt = prompt_of(100, 50)
        self.restarted(prompt)
        found = self.session.match(self.prefixes.chain(prompt))
        self.assertEqual((found.matched, found.stored), (0, 6))
        found.release()
        self.generates(prompt, 96, "none")

    def test_past_the_deadline_it_is_a_miss(self):
        prompt = prompt_of(100, 51)
        self.restarted(prompt)
        hasty = self.opened(timeout=0)
        made = hasty.generate(prompt, **GREEDY)
        self.assertEqual((made.tokens_had, made.miss), (0, "deadline"))
        self.assertEqual(answer_of(made.output, prompt), self.bare(prompt))

    def test_a_damaged_file_is_a_miss(self):
        prompt = prompt_of(100, 52)
        keys = self.computed(prompt).layers[1].keys[0, 0, 32]
        self.restarted(prompt)
        path = os.path.join(self.daemon.folder, "ssd")
        with open(path, "r+b") as file:
            at = file.read().find(ctypes.string_at(keys.data_ptr(), keys.nbytes))
            self.assertGreater(at, 0)
            file.seek(at)
            first = file.read(1)[0]
            file.seek(at)
            file.write(bytes([first ^ 1]))
        self.generates(prompt, 32, "checksum")


class Refused(Door):
    def model_of(self, config):
        return types.SimpleNamespace(config=config, parameters=lambda: iter(()))

    def refused(self, text):
        return self.assertRaisesRegex(hf.Unsupported, text)

    def test_models(self):
        long = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 64,
                "long_factor": [2.0] * 64, "original_max_position_embeddings": 1024}
        for config, text in (
                (MistralConfig(sliding_window=64), "DynamicSlidingWindowLayer"),
                (Qwen3NextConfig(), "LinearAttention"),
                (DeepseekV3Config(), "latent attention"),
                (T5Config(), "encoder-decoder"),
                (LlamaConfig(rope_parameters=long), "longrope"),
                (LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4,
                                              "factor": 2.0}), "dynamic")):
            with self.subTest(text), self.refused(text):
                hf.check_model(self.model_of(config))

    def test_a_device_that_is_not_this_processes_memory(self):
        with self.refused("device meta"):
            self.opened(small().to("meta"))

    def test_more_than_one_sequence(self):
        pair = torch.stack((prompt_of(32, 60), prompt_of(32, 61)))
        for call in (self.prefixes.restore, self.prefixes.generate):
            with self.refused("a batch of 2"):
                call(pair)
        cache = DynamicCache(config=self.model.config)
        with torch.no_grad():
            self.model(pair, past_key_values=cache)
        with self.refused("a batch of 2"):
            self.prefixes.save(pair[0], cache)

    def test_caches(self):
        prompt = prompt_of(32, 62)
        static = StaticCache(config=self.model.config, max_cache_len=64)
        with self.refused("StaticCache"):
            self.prefixes.save(prompt, static)
        cache = self.computed(prompt)
        cache.layers[1] = object.__new__(QuantoQuantizedLayer)
        with self.refused("layer 1 of the cache is a QuantoQuantizedLayer"):
            self.prefixes.save(prompt, cache)
        cache = self.computed(prompt)
        cache.layers[1].values = cache.layers[1].values.half()
        with self.refused("layer 1 is kept in float16"):
            self.prefixes.save(prompt, cache)
        with self.refused("layer 0 of the cache is empty"):
            self.prefixes.save(prompt, DynamicCache(config=self.model.config))

    def test_options(self):
        prompt = prompt_of(32, 63)
        mask = torch.ones((1, 32), dtype=torch.long)
        mask[0, :4] = 0
        for option, value in (("num_beams", 2), ("cache_implementation", "quantized"),
                              ("use_cache", False), ("num_return_sequences", 2),
                              ("attention_mask", mask), ("pixel_values", torch.zeros(1)),
                              ("past_key_values", None), ("prefill_chunk_size", 16),
                              ("assistant_model", self.model), ("prompt_lookup_num_tokens", 3)):
            with self.subTest(option), self.refused(option):
                self.prefixes.generate(prompt, **{option: value})


class Package(unittest.TestCase):
    def test_skep_alone_imports_no_torch(self):
        subprocess.run([sys.executable, "-B", "-c",
                        "import skep, sys; assert 'torch' not in sys.modules"], check=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
