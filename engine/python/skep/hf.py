# SPDX-License-Identifier: Apache-2.0
"""Prefixes of transformers' DynamicCache, kept in skep and had again by another process.

    with skep.Session(wait=False) as session:
        with hf.PrefixCache(model, session, name="llama-3-8b", revision="a1b2c3") as prefixes:
            made = prefixes.generate(input_ids, max_new_tokens=64)
            print(made.tokens_had, "of", input_ids.shape[-1], "prompt tokens came from skep")

restore() and save() are the two halves, for who runs the model himself. A daemon that is away, a
block that was damaged, a deadline: all are misses, and the model computes what was missed. What
cannot be kept rightly (sliding windows, latent attention, more than one sequence, …) is refused by
name with Unsupported. docs/engines/transformers.md says more.
"""
import errno
import hashlib
import json
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any, List, Optional, Tuple

import torch
import transformers
from transformers.cache_utils import DynamicCache, DynamicLayer

from .errors import ECHECKSUM, EPARENT, EPENDING, PASSING, Error
from .put import range_sums
from .run import Match, Refs, Run, passed_word
from .session import Explanation, Session
from .space import Chain, Space
from .tensors import Device, Plan, Tensors

_TEXT_MAX = 255
_RANGE_BYTES_MIN = 4096
_JOB_BLOCKS = 1024
# What stands beside the tokens' own arithmetic, or has a field of its own in the space.
_NOT_ARITHMETIC = ("_name_or_path", "transformers_version", "dtype", "use_cache",
                   "rope_parameters", "rope_theta", "rope_scaling")
# Kinds of RoPE by which a token's keys depend on how long the sequence has become.
_ROPE_OF_LENGTH = ("dynamic", "longrope")
# Statuses of a block: in the store, or soon by another writer.
_IN = (0, -errno.EEXIST, EPENDING)
_MISSES = {ECHECKSUM: "checksum", -errno.ESTALE: "evicted"}


class Unsupported(ValueError):
    """A model, a cache or an input whose KV cannot be kept as blocks of one token sequence."""


@dataclass
class Restored:
    """What restore() found. cache: for the model, of @tokens tokens; blocks: that it was made of;
    reason: why it is not the whole prompt ("none": it is)."""

    cache: DynamicCache
    tokens: int
    blocks: int
    reason: str


@dataclass
class Saved:
    """What save() did. blocks: put now; reason: why not all that were missing ("none": all)."""

    blocks: int
    reason: str


@dataclass
class Generated:
    """What generate() made. output: of model.generate(); tokens_had: of the prompt, from skep;
    miss: why not all of it; saved: what was put afterwards."""

    output: Any
    tokens_had: int
    miss: str
    saved: Saved


@dataclass(frozen=True)
class Geometry:
    """What the tensors of each layer are: [1, heads, tokens, head_size] of dtype."""

    layers: int
    heads: int
    head_size: int
    dtype: torch.dtype

    @classmethod
    def of(cls, model: Any) -> "Geometry":
        config = model.config.get_text_config(decoder=True)
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(len(DynamicCache(config=model.config).layers), heads, size, model.dtype)

    def text(self) -> str:
        return (f"{_word(self.dtype)}, {self.layers} layers, {self.heads} KV heads of "
                f"{self.head_size}, order layer K/V token head")

    def tensors(self, block_tokens: int, **places: Any) -> Tensors:
        head_bytes = self.head_size * self.dtype.itemsize
        share = 2 * block_tokens * self.heads * head_bytes
        return Tensors(layers=self.layers, block_tokens=block_tokens, heads=self.heads,
                       head_bytes=head_bytes,
                       ranges=self.layers if share >= _RANGE_BYTES_MIN else 1, **places)

    def empty(self, tokens: int) -> List[Tuple[torch.Tensor, torch.Tensor]]:
        """Room for the keys and values of each layer."""
        shape = (1, self.heads, tokens, self.head_size)
        return [(torch.empty(shape, dtype=self.dtype), torch.empty(shape, dtype=self.dtype))
                for _ in range(self.layers)]

    def check(self, cache: Any) -> None:
        """Is it a cache of these tensors, of one sequence?"""
        if type(cache) is not DynamicCache:
            raise Unsupported(f"a cache of type {type(cache).__name__}")
        if len(cache.layers) != self.layers:
            raise Unsupported(f"a cache of {len(cache.layers)} layers, not {self.layers}")
        for index, layer in enumerate(cache.layers):
            _check_layer(index, layer)
            for tensor in (layer.keys, layer.values):
                self._check_tensor(index, tensor, cache.get_seq_length())

    def _check_tensor(self, index: int, tensor: Any, tokens: int) -> None:
        if tensor is None:
            raise Unsupported(f"layer {index} of the cache is empty")
        if tensor.shape[0] != 1:
            raise Unsupported(f"a batch of {tensor.shape[0]}: one sequence at a time")
        if tuple(tensor.shape) != (1, self.heads, tokens, self.head_size):
            raise Unsupported(f"layer {index} holds {tuple(tensor.shape)}, not "
                              f"{(1, self.heads, tokens, self.head_size)}")
        if tensor.dtype != self.dtype:
            raise Unsupported(f"layer {index} is kept in {_word(tensor.dtype)}, the model is "
                              f"{_word(self.dtype)}")
        if tensor.device.type != "cpu":
            raise Unsupported(f"device {tensor.device}: tensors of this process's memory alone")


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_layer(index: int, layer: Any) -> None:
    """Quantised, sliding, static, indexed and recurrent layers are classes of their own."""
    if type(layer) is not DynamicLayer:
        raise Unsupported(f"layer {index} of the cache is a {type(layer).__name__}: only layers "
                          "that keep keys and values of every token (DynamicLayer)")


def check_model(model: Any) -> None:
    """Raises Unsupported, naming what it is that cannot be kept."""
    config = model.config.get_text_config(decoder=True)
    if getattr(model.config, "is_encoder_decoder", False):
        raise Unsupported("an encoder-decoder model: its KV is not of the tokens alone")
    if getattr(config, "kv_lora_rank", None):
        raise Unsupported("multi-head latent attention (kv_lora_rank)")
    if getattr(config, "v_head_dim", None) not in (None, getattr(config, "head_dim", None)):
        raise Unsupported("values of another head size than keys (v_head_dim)")
    for index, layer in enumerate(DynamicCache(config=model.config).layers):
        _check_layer(index, layer)
    kind = _rope_of_length(getattr(config, "rope_parameters", None))
    if kind:
        raise Unsupported(f"RoPE of type {kind}: keys depend on the length of the sequence")
    for parameter in model.parameters():
        if parameter.device.type != "cpu":
            raise Unsupported(f"device {parameter.device}: models in this process's memory alone")


def _rope_of_length(parameters: Any) -> Optional[str]:
    """The first kind in RoPE parameters, which may be one set or one for each type of layer."""
    if not isinstance(parameters, dict):
        return None
    if parameters.get("rope_type") in _ROPE_OF_LENGTH:
        return parameters["rope_type"]
    return next(filter(None, map(_rope_of_length, parameters.values())), None)


def weights_digest(model: Any) -> str:
    """A digest of all weights: of name, shape, dtype and every byte of each tensor.

    The bytes by XXH3-64 (of their 4 KiB leaves), the list of them by SHA-256. It tells weights
    apart; it is no proof against someone who makes weights to collide.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        tensor = tensor.detach().contiguous()
        total = range_sums([tensor])[0] if tensor.numel() else 0
        digest.update(f"{name} {tuple(tensor.shape)} {_word(tensor.dtype)} {total:016x}\n".encode())
    return f"all bytes: {digest.hexdigest()}"


def _weights_mark(model: Any) -> tuple:
    """Changes when a tensor is written in place or exchanged, as far as torch counts writes."""
    return tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
                 for tensor in model.state_dict(keep_vars=True).values())


def _text(value: Any) -> str:
    """Canonical text of a part of a config; its digest where a space's field cannot hold it."""
    text = json.dumps(value, sort_keys=True, default=str)
    return text if len(text.encode()) <= _TEXT_MAX else _short(text, 64)


def _short(text: str, digits: int = 16) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def space_fields(model: Any, name: str, revision: str, weights: str) -> dict:
    """The texts of a space for this model: all by which its KV could differ from another's."""
    config = model.config.get_text_config(decoder=True)
    arithmetic = {key: value for key, value in config.to_dict().items()
                  if key not in _NOT_ARITHMETIC}
    version = ".".join(transformers.__version__.split(".")[:2])
    return {"model": f"{name} {revision}".strip(), "weights": weights,
            "rope": _text(getattr(config, "rope_parameters", None)),
            "layout": Geometry.of(model).text(),
            "engine": f"transformers {version}, {type(model).__name__}, config "
                      f"{_short(json.dumps(arithmetic, sort_keys=True, default=str))}"}


def tokens_of(tokens: Any) -> torch.Tensor:
    """One sequence of token ids as int64: a tensor [n] or [1, n], or a list of integers."""
    ids = torch.as_tensor(tokens)
    if ids.dim() == 2 and ids.shape[0] != 1:
        raise Unsupported(f"a batch of {ids.shape[0]}: one sequence at a time")
    if ids.dim() not in (1, 2) or ids.is_floating_point():
        raise Unsupported(f"tokens of shape {tuple(ids.shape)} and type {_word(ids.dtype)}")
    return ids.reshape(-1).to("cpu", torch.int64).contiguous()


class PrefixCache:
    """The KV of one model's prompts in skep. Of one thread, as its session is.

    name, revision: of the model; where None, what its config says. weights: a digest of the
    weights as text; where None, weights_digest(), taken again when torch has counted a write to
    them. timeout: seconds that one restore() or save() may wait for the store.
    """

    def __init__(self, model: Any, session: Session, *, name: Optional[str] = None,
                 revision: Optional[str] = None, weights: Optional[str] = None,
                 block_tokens: int = 16, timeout: float = 2.0):
        check_model(model)
        config = model.config
        self.model = model
        self.session = session
        self.block_tokens = block_tokens
        self.timeout = timeout
        self.geometry = Geometry.of(model)
        self._name = config._name_or_path or type(model).__name__ if name is None else name
        self._revision = getattr(config, "_commit_hash", None) if revision is None else revision
        self._watched = weights is None
        self._weights = weights or ""
        self._mark: Optional[tuple] = None
        self._space: Optional[Space] = None
        self._look_at_weights()
        self._device = Device(session, "host")

    def close(self) -> None:
        """Before the session is closed. The blocks stay."""
        self._device.close()
        self._drop_space()

    def __enter__(self) -> "PrefixCache":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # ---- names

    @property
    def space(self) -> Space:
        """The space of the model as it is now. Error where the daemon is away."""
        self._look_at_weights()
        if self._space is None:
            self._space = self._open_space()
        return self._space

    def _look_at_weights(self) -> None:
        """Weights that are others now have another space."""
        mark = _weights_mark(self.model) if self._watched else None
        if mark != self._mark:
            self._drop_space()
            self._weights = weights_digest(self.model)
            self._mark = mark

    def _open_space(self) -> Space:
        fields = space_fields(self.model, self._name, self._revision or "", self._weights)
        # Models that differ have spaces beside each other; explain tells in what they do.
        whole = json.dumps([fields, self.block_tokens], sort_keys=True)
        part = self.geometry.tensors(self.block_tokens).part()
        return self.session.space(f"transformers-{_short(whole)}", [part], self.block_tokens,
                                  **fields)

    def _drop_space(self) -> None:
        if self._space is not None:
            self._space.close()
        self._space = None

    def chain(self, tokens: Any) -> Chain:
        """The names of the whole blocks of these tokens, for the calls of the session."""
        return self.space.chain(tokens_of(tokens))

    def explain(self, tokens: Any) -> Explanation:
        """Why is this prompt had no further?"""
        return self.session.explain(self.chain(tokens), timeout=self.timeout)

    # ---- getting

    def restore(self, tokens: Any) -> Restored:
        """The longest stored prefix of a prompt as a DynamicCache, verified; what lies on the ssd
        is waited for until the timeout. At least one token is left for the model to compute."""
        ids = tokens_of(tokens)
        try:
            layers, blocks, reason = self._load(ids)
        except Error as error:
            if error.status not in PASSING:
                raise
            layers, blocks, reason = [], 0, passed_word(error.status)
        had = min(blocks * self.block_tokens, max(ids.numel() - 1, 0))
        cache = DynamicCache(config=self.model.config)
        for layer, (keys, values) in zip(cache.layers, layers if had else ()):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys[:, :, :had], values[:, :, :had]
        return Restored(cache, had, blocks, reason)

    def _load(self, ids: torch.Tensor) -> Tuple[list, int, str]:
        """Tensors of each layer, how many leading blocks of them are good, why not all are."""
        end = time.monotonic() + self.timeout
        chain = self.chain(ids)
        with self.session.get(chain, timeout=self.timeout) as run:
            if not run:
                return [], 0, run.reason
            layers = self.geometry.empty(run.count * self.block_tokens)
            with closing(self._plan(chain.space, layers, run.count)) as plan:
                blocks, reason = _fill(plan, run.refs, self.block_tokens, end)
            return layers, blocks, reason or self._why_short(run, chain, end)

    def _why_short(self, run: Run, chain: Chain, end: float) -> str:
        """Why a run is not the whole chain. A load that came short says no more than that what it
        wanted is absent; explain tells of what became of it."""
        loaded = not isinstance(run, Match)
        if run.count == len(chain) or not (loaded and run.reason == "absent"):
            return run.reason
        try:
            reason = self.session.explain(chain, timeout=self.timeout).reason
        except Error as error:
            return passed_word(error.status)
        if reason != "none":
            return reason
        return "absent" if _left(end) else "deadline"

    def _plan(self, space: Space, layers: list, blocks: int) -> Plan:
        keys = layers[0][0]
        size = keys.element_size()
        tensors = self.geometry.tensors(
            self.block_tokens, bases=[tensor.data_ptr() for pair in layers for tensor in pair],
            token_stride=keys.stride(2) * size, head_stride=keys.stride(1) * size,
            page_tokens=keys.shape[2], page_count=1, blocks_max=min(blocks, _JOB_BLOCKS), jobs=1)
        return Plan(self._device, space, tensors)

    # ---- putting

    def save(self, tokens: Any, cache: DynamicCache) -> Saved:
        """Puts the whole blocks of a cache that the store lacks. tokens: those that the cache was
        computed from, from the first on; more may follow."""
        self.geometry.check(cache)
        ids = tokens_of(tokens)[:cache.get_seq_length()]
        if ids.numel() < cache.get_seq_length():
            raise ValueError(f"{ids.numel()} tokens for a cache of {cache.get_seq_length()}")
        try:
            return self._put(ids, cache)
        except Error as error:
            if error.status not in PASSING:
                raise
            return Saved(0, passed_word(error.status))

    def _put(self, ids: torch.Tensor, cache: DynamicCache) -> Saved:
        end = time.monotonic() + self.timeout
        chain = self.chain(ids)
        missing = self.session.missing(chain)
        if not missing:
            return Saved(0, "none")
        layers = _alike([(layer.keys, layer.values) for layer in cache.layers])
        with closing(self._plan(chain.space, layers, len(chain))) as plan:
            return _drain(plan, chain, missing[0], end)

    # ---- both

    def generate(self, tokens: Any, **options: Any) -> Generated:
        """model.generate() of one prompt: restores what is stored, saves what is new of prompt and
        answer. options: as of model.generate()."""
        ids = tokens_of(tokens)
        _check_options(self.model, options)
        got = self.restore(ids)
        batch = ids.unsqueeze(0)
        # A mask of the whole prompt tells transformers to leave out what the cache holds.
        options["attention_mask"] = torch.ones_like(batch)
        output = self.model.generate(batch, past_key_values=got.cache, **options)
        sequence = output if isinstance(output, torch.Tensor) else output.sequences
        return Generated(output, got.tokens, got.reason, self.save(sequence, got.cache))


def _left(end: float) -> float:
    return max(end - time.monotonic(), 0.0)


def _fill(plan: Plan, refs: Refs, block_tokens: int, end: float) -> Tuple[int, str]:
    """Loads blocks into a plan's tensors, as many a job as it takes: how many leading ones are
    good, and why the next is not ("": all are)."""
    good = 0
    while good < len(refs):
        job = plan.load(refs[good:], [0], first_slot=good * block_tokens)
        statuses = job.end(_left(end))
        if not statuses:
            return good, passed_word(job.status) if job.status else "evicted"
        for status in statuses:
            if status:
                return good, _MISSES.get(status) or passed_word(status)
            good += 1
    return good, ""


def _drain(plan: Plan, chain: Chain, first: int, end: float) -> Saved:
    """Saves blocks from the first missing one on, as many a job as it takes."""
    put, again = 0, True
    while first < len(chain):
        job = plan.save(chain, [0], first=first, first_slot=first * chain.space.block_tokens,
                        timeout=_left(end))
        statuses = job.end(_left(end))
        put += statuses.count(0)
        if not statuses and job.status == EPARENT and again:
            # Evicted since it was looked for: the chain is put from there, once.
            first, again = job.first_missing, False
            continue
        failed = next((each for each in statuses if each not in _IN), 0) or job.status
        if failed or not statuses:
            return Saved(put, passed_word(failed))
        first += len(statuses)
    return Saved(put, "none")


def _alike(layers: list) -> list:
    """One plan has one set of strides, with each head's numbers beside each other."""
    strides = {tensor.stride()[1:] for pair in layers for tensor in pair}
    if len(strides) == 1 and next(iter(strides))[2] == 1:
        return layers
    return [(keys.contiguous(), values.contiguous()) for keys, values in layers]


def _check_options(model: Any, options: dict) -> None:
    """What would give KV that the tokens do not tell, or more than one sequence."""
    if "past_key_values" in options:
        raise Unsupported("past_key_values: generate() brings its own")
    for name, value in options.items():
        if not isinstance(value, torch.Tensor):
            continue
        if name != "attention_mask" or not bool((value == 1).all()):
            raise Unsupported(f"{name}: KV that depends on more than the tokens")
    settings = options.get("generation_config") or model.generation_config
    for name, usual in (("num_beams", 1), ("num_return_sequences", 1),
                        ("cache_implementation", None), ("use_cache", True),
                        ("prefill_chunk_size", None), ("assistant_model", None),
                        ("prompt_lookup_num_tokens", None)):
        value = options.get(name, getattr(settings, name, None))
        if value not in (usual, None):
            raise Unsupported(f"{name} of generate()")
