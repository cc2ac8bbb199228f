# SPDX-License-Identifier: Apache-2.0
"""What makes the blocks of two engines interchangeable: the fields of a space.

A space is named by the model and a digest of all fields, so that engines that differ in one of
them never meet, and each finds its own.
"""
import hashlib
import json
import os
from typing import Any, Dict, List

from .orders import Layout, SpaceFields

_TEXT_MAX = 255
_WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
# Of a model's configuration: said by other fields, or about where and by whom it was written.
_LEFT_OUT = ("rope", "dtype", "_name_or_path", "transformers_version", "_commit_hash")


# Kinds of cache groups that are served, and how the layout's text calls them.
KINDS = {"FullAttentionSpec": "full", "MLAAttentionSpec": "mla", "SlidingWindowSpec": "window"}


class Refused(Exception):
    """A configuration that the connector does not serve; the text says why."""


def windowed(kv_config: Any) -> List[int]:
    """The cache groups whose pages vLLM takes back while a request runs, once they have left the
    window."""
    return [index for index, group in enumerate(kv_config.kv_cache_groups)
            if KINDS.get(type(group.kv_cache_spec).__name__) == "window"]


def require_served(config: Any, kv_config: Any) -> None:
    """Raises Refused where blocks are not simply the KV of so many tokens of each rank."""
    parallel = config.parallel_config
    specs = [group.kv_cache_spec for group in kv_config.kv_cache_groups]
    if not specs:
        raise Refused("no cache groups")
    for spec in specs:
        if type(spec).__name__ not in KINDS:
            raise Refused(f"a cache of {type(spec).__name__} (full attention and sliding windows "
                          "are served)")
    tokens = sorted({spec.block_size for spec in specs})
    if len(tokens) != 1:
        raise Refused(f"cache groups of blocks of {' and '.join(map(str, tokens))} tokens (equal "
                      "ones are served)")
    if getattr(getattr(config, "cache_config", None), "calculate_kv_scales", False):
        raise Refused("calculate_kv_scales: what the bytes stand for is known to one engine alone")
    for name in ("pipeline_parallel_size", "decode_context_parallel_size",
                 "prefill_context_parallel_size"):
        if getattr(parallel, name, 1) > 1:
            raise Refused(f"{name} above 1")


def _short(text: str) -> str:
    """Text that fits a field; a longer one by its digest."""
    if len(text.encode()) <= _TEXT_MAX:
        return text
    return text[:160] + " sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def _is_left_out(key: str) -> bool:
    return any(key.startswith(word) for word in _LEFT_OUT) or key.endswith("dtype")


def _model(config: Any) -> str:
    model = config.model_config
    place = model.model.rstrip("/")
    name = os.path.basename(place) if os.path.isdir(place) else f"{place}@{model.revision}"
    about = {key: value for key, value in model.hf_config.to_dict().items()
             if not _is_left_out(key)}
    about["quantization"] = model.quantization
    digest = hashlib.sha256(_canonical(about).encode()).hexdigest()[:32]
    return _short(f"{name} config:{digest}")


def _rope(config: Any) -> str:
    hf_config = getattr(config.model_config, "hf_text_config", config.model_config.hf_config)
    about = {key: value for key, value in hf_config.to_dict().items() if key.startswith("rope")}
    return _short(_canonical(about))


def _folder(config: Any) -> str:
    """Where the weights lie on this machine."""
    model = config.model_config
    if os.path.isdir(model.model):
        return model.model
    from huggingface_hub import snapshot_download

    return snapshot_download(model.model, revision=model.revision, local_files_only=True)


def _remembered() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "skep", "weights.json")


def _known(path: str) -> Dict[str, str]:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _remember(path: str, known: Dict[str, str]) -> None:
    """A file that cannot be kept costs reading the weights again."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(f"{path}.{os.getpid()}", "w", encoding="utf-8") as file:
            json.dump(known, file)
        os.replace(f"{path}.{os.getpid()}", path)
    except OSError:
        pass


def _file_digest(path: str, known: Dict[str, str]) -> str:
    """SHA-256 of a file, read once as long as it is not changed. In a Hugging Face cache the file
    is a link to one that is named by it."""
    blob = os.path.basename(os.path.realpath(path))
    if os.path.islink(path) and len(blob) == 64:
        return blob
    at = os.stat(path)
    key = f"{os.path.realpath(path)}:{at.st_ino}:{at.st_size}:{at.st_mtime_ns}:{at.st_ctime_ns}"
    if key not in known:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
        known[key] = digest.hexdigest()
    return known[key]


def weights_digest(folder: str) -> str:
    """A digest of all files of weights in a folder."""
    names: List[str] = sorted(name for name in os.listdir(folder)
                              if name.endswith(_WEIGHT_FILES))
    if not names:
        raise Refused(f"no weights in {folder}; say which they are with \"weights\"")
    memory = _remembered()
    known = _known(memory)
    before = len(known)
    total = hashlib.sha256()
    for name in names:
        total.update(f"{name}={_file_digest(os.path.join(folder, name), known)};".encode())
    if len(known) != before:
        _remember(memory, known)
    return "sha256:" + total.hexdigest()


def _engine(config: Any, ratio: int, groups: int) -> str:
    from vllm.v1.core import kv_cache_utils

    # The root of all block hashes: it stands for the seed.
    root = bytes(kv_cache_utils.NONE_HASH).hex()[:16]
    return (f"vllm hash={config.cache_config.prefix_caching_hash_algo} root={root} "
            f"hashes_per_block={ratio} groups={groups}")


def space_fields(config: Any, layouts: List[Layout], block_tokens: int, ratio: int,
                 settings: Dict[str, Any]) -> SpaceFields:
    """The space of an engine whose ranks found these layouts."""
    first = layouts[0]
    for layout in layouts:
        if layout.refusal:
            raise Refused(layout.refusal)
        if layout.text != first.text:
            raise Refused(f"ranks of different layouts: {first.text}; {layout.text}")
    weights = settings.get("weights") or weights_digest(_folder(config))
    # Whatever depends on the block's tokens or the ranks is said by block_tokens and ranks.
    texts = dict(model=_model(config), weights=_short(weights), rope=_rope(config),
                 layout=_short(first.text), engine=_short(_engine(config, ratio, first.groups)))
    parts = tuple((first.part_bytes, first.ranges, rank)
                  for rank in range(len(layouts) // first.copies))
    digest = hashlib.sha256(_canonical([texts, block_tokens, parts]).encode()).hexdigest()
    name = settings.get("space") or "vllm-" + texts["model"].split("@")[0].split(" ")[0]
    name = name.replace("/", "-")[:63 - 13] + "-" + digest[:12]
    return SpaceFields(name=name, block_tokens=block_tokens, ranks=len(parts), parts=parts,
                       **texts)
