# SPDX-License-Identifier: Apache-2.0
"""What the engines' own code makes of prompts, for tests/engine/hash_test.c.

    vectors.py > tests/engine/hash_vectors.h     (again: ./dev doors says where its Python is)
    vectors.py --check tests/engine/hash_vectors.h

SGLang compiles its hash when it is first asked for (a C++ compiler, OpenSSL's headers); where it
cannot, --check leaves its rows out and says so.
"""
import contextlib
import os
import sys
from types import SimpleNamespace

EDGES = (0, 1, 23, 24, 255, 256, 65535, 65536, 2 ** 32 - 1)
MASK = 2 ** 64 - 1
SGLANG, LMCACHE = ("SKEP_HASH_SGLANG", "SKEP_HASH_SGLANG_PAIRS"), "SKEP_HASH_LMCACHE"

# name, kind, tokens of a block, tokens, and what is hashed beside them. `wide`: some need 64 bits.
CASES = (
    ("vllm, blocks of 16", "SKEP_HASH_VLLM", 16, 700, {}),
    ("vllm, blocks of 128", "SKEP_HASH_VLLM", 128, 700, {}),
    ("vllm, one token a block", "SKEP_HASH_VLLM", 1, 40, {}),
    ("vllm, a long prompt", "SKEP_HASH_VLLM", 16, 131072, {}),
    ("vllm, a block longer than any buffer", "SKEP_HASH_VLLM", 3000, 9100, {}),
    ("vllm, wide tokens", "SKEP_HASH_VLLM", 16, 400, {"wide": True}),
    ("vllm, PYTHONHASHSEED=0", "SKEP_HASH_VLLM", 16, 64, {"seed": "0"}),
    ("vllm, PYTHONHASHSEED is empty", "SKEP_HASH_VLLM", 16, 64, {"seed": ""}),
    ("vllm, a salt", "SKEP_HASH_VLLM", 16, 64, {"salt": "t1"}),
    ("vllm, an empty salt", "SKEP_HASH_VLLM", 16, 64, {"salt": ""}),
    ("vllm, a salt with a zero in it", "SKEP_HASH_VLLM", 16, 64, {"salt": "a\0b"}),
    ("vllm, a salt that is not ASCII", "SKEP_HASH_VLLM", 16, 64, {"salt": "Bücher \U0001f41d"}),
    ("vllm, a salt of 300 bytes", "SKEP_HASH_VLLM", 16, 64, {"salt": "s" * 300}),
    ("vllm, an adapter", "SKEP_HASH_VLLM", 16, 64, {"lora": ("sql", "/adapters/sql")}),
    ("vllm, an adapter without a path", "SKEP_HASH_VLLM", 16, 64, {"lora": ("sql", "")}),
    ("vllm, an adapter and a salt", "SKEP_HASH_VLLM", 16, 64,
     {"lora": ("sql", "/adapters/sql"), "salt": "t1"}),
    ("vllm, an image inside a block", "SKEP_HASH_VLLM", 16, 64, {"items": (("cat", 3, 5),)}),
    ("vllm, an image over four blocks", "SKEP_HASH_VLLM", 16, 128, {"items": (("cat", 20, 50),)}),
    ("vllm, an image that ends with a block", "SKEP_HASH_VLLM", 16, 64,
     {"items": (("cat", 16, 16),)}),
    ("vllm, images side by side, all at once", "SKEP_HASH_VLLM", 16, 400,
     {"items": (("a", 0, 8), ("b", 8, 9), ("c" * 64, 40, 300), ("a", 341, 3), ("d", 350, 1)),
      "lora": ("sql", "/adapters/sql"), "salt": "t1", "seed": "7"}),
    ("vllm, an image inside another", "SKEP_HASH_VLLM", 16, 200,
     {"items": (("film", 5, 100), ("sound", 20, 10), ("more", 90, 60))}),
    ("vllm, the last item ends before an earlier one", "SKEP_HASH_VLLM", 16, 200,
     {"items": (("film", 5, 100), ("sound", 20, 10))}),
    ("sglang, pages of 16", "SKEP_HASH_SGLANG", 16, 700, {}),
    ("sglang, pages of 128", "SKEP_HASH_SGLANG", 128, 700, {}),
    ("sglang, pages of one token", "SKEP_HASH_SGLANG", 1, 40, {}),
    ("sglang, a long prompt", "SKEP_HASH_SGLANG", 64, 131072, {}),
    ("sglang, wide tokens", "SKEP_HASH_SGLANG", 16, 400, {"wide": True}),
    ("sglang, a salt", "SKEP_HASH_SGLANG", 16, 64, {"salt": "t1"}),
    ("sglang, an empty salt", "SKEP_HASH_SGLANG", 16, 64, {"salt": ""}),
    ("sglang, an extra key", "SKEP_HASH_SGLANG", 16, 64, {"extra_key": "sql"}),
    ("sglang, both", "SKEP_HASH_SGLANG", 16, 64, {"extra_key": "sql", "salt": "Bücher"}),
    ("sglang, pairs", "SKEP_HASH_SGLANG_PAIRS", 16, 701, {}),
    ("sglang, pairs, the last token is missing", "SKEP_HASH_SGLANG_PAIRS", 16, 64, {}),
    ("sglang, pairs, wide tokens and a salt", "SKEP_HASH_SGLANG_PAIRS", 16, 400,
     {"wide": True, "salt": "t1"}),
    ("lmcache, chunks of 256", LMCACHE, 256, 5000, {}),
    ("lmcache, chunks of 16", LMCACHE, 16, 700, {}),
    ("lmcache, chunks of one token", LMCACHE, 1, 40, {}),
    ("lmcache, a long prompt", LMCACHE, 256, 131072, {}),
    ("lmcache, chunks of 10,000", LMCACHE, 10000, 30000, {}),
    ("lmcache in vllm, chunks of 256", "SKEP_HASH_LMCACHE_CBOR", 256, 5000, {}),
    ("lmcache in vllm, PYTHONHASHSEED=0", "SKEP_HASH_LMCACHE_CBOR", 16, 64, {"seed": "0"}),
    ("lmcache's server with sha256_cbor is vllm's", "SKEP_HASH_VLLM", 256, 2600,
     {"server": True}),
)
BLAKE3_LENGTHS = (0, 1, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 2048, 2049, 3072, 3073, 4096,
                  4097, 5120, 5121, 6144, 6145, 7168, 7169, 8192, 8193, 16384, 31744, 102400)


def mix64(x):
    """base/bits.h has the same."""
    x = (x + 0x9e3779b97f4a7c15) & MASK
    x = ((x ^ (x >> 30)) * 0xbf58476d1ce4e5b9) & MASK
    x = ((x ^ (x >> 27)) * 0x94d049bb133111eb) & MASK
    return x ^ (x >> 31)


def tokens_of(number, count, wide):
    """The tokens of case @number, as tests/engine/hash_test.c makes them too."""
    return [EDGES[i // 13 % len(EDGES)] if i % 13 == 0
            else mix64((number << 32) + i) >> (1 if wide and i // 64 % 2 else 32)
            for i in range(count)]


def seed_set(more):
    os.environ.pop("PYTHONHASHSEED", None)
    if "seed" in more:
        os.environ["PYTHONHASHSEED"] = more["seed"]


def vllm(_, block, tokens, more):
    from vllm.utils.hashing import sha256_cbor
    from vllm.v1.core import kv_cache_utils

    kv_cache_utils.init_none_hash(sha256_cbor)
    lora = more.get("lora")
    request = SimpleNamespace(
        block_hashes=[], num_tokens=len(tokens), all_token_ids=tokens, prompt_embeds=None,
        cache_salt=more.get("salt"),
        lora_request=SimpleNamespace(lora_name=lora[0], lora_path=lora[1]) if lora else None,
        mm_features=[SimpleNamespace(identifier=name,
                                     mm_position=SimpleNamespace(offset=at, length=count))
                     for name, at, count in more.get("items", ())])
    return kv_cache_utils.get_request_block_hasher(block, sha256_cbor)(request)


class Key:
    """What SGLang's hash asks of a radix key."""

    def __init__(self, tokens, pairs, more):
        self.token_ids, self.is_bigram = tokens, pairs
        self.extra_key, self.cache_salt = more.get("extra_key"), more.get("salt")

    def __len__(self):
        return len(self.token_ids) - self.is_bigram


def sglang(kind, block, tokens, more):
    from sglang.srt.mem_cache.utils import get_storage_hash_str

    pairs = kind.endswith("_PAIRS")
    blocks = (len(tokens) - pairs) // block
    # The engine names the rest of a prompt too; only whole pages are stored.
    key = Key(tokens[:blocks * block + pairs], pairs, more)
    return [bytes.fromhex(text) for text in get_storage_hash_str(key, page_size=block)]


def lmcache(kind, block, tokens, more):
    from lmcache.v1.multiprocess.token_hasher import TokenHasher

    algorithm = "blake3" if kind == LMCACHE else "sha256_cbor"
    return TokenHasher(block, algorithm).compute_chunk_hashes(tokens)


def lmcache_cbor(_, block, tokens, more):
    from lmcache.v1.config import LMCacheEngineConfig
    from lmcache.v1.token_database import ChunkedTokenDatabase

    config = LMCacheEngineConfig.from_defaults(chunk_size=block, save_unfull_chunk=False,
                                               pre_caching_hash_algorithm="sha256_cbor")
    rows = ChunkedTokenDatabase(config).process_tokens(tokens, make_key=False)
    # Its keys hold 8 bytes of a digest.
    return [row[2].to_bytes(8, "big") for row in rows]


def digests(kind, block, tokens, more):
    seed_set(more)
    if kind in SGLANG:
        return sglang(kind, block, tokens, more)
    if kind == LMCACHE or more.get("server"):
        return lmcache(kind, block, tokens, more)
    if kind == "SKEP_HASH_LMCACHE_CBOR":
        return lmcache_cbor(kind, block, tokens, more)
    return vllm(kind, block, tokens, more)


def quoted(text):
    """A C string of the UTF-8; octal, because hex escapes have no end."""
    return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03o}"
                         for b in text.encode()) + '"'


def field(name, text):
    parts = [quoted(text[i:i + 60]) for i in range(0, max(len(text), 1), 60)]
    return [f"\t\t.{name} = HASH_TEXT(" + ("\n\t\t\t" if len(parts) > 1 else "") +
            "\n\t\t\t".join(parts) + "),"]


def row(number, case):
    """The lines of one case, without the digests."""
    name, kind, block, count, more = case
    lines = [f"\t{{.name = {quoted(name)},", f"\t\t.kind = {kind},",
             f"\t\t.number = {number},", f"\t\t.block_tokens = {block},",
             f"\t\t.count = {count},"]
    if more.get("wide"):
        lines.append("\t\t.wide = true,")
    for key in ("seed", "salt", "extra_key"):
        if key in more:
            lines += field(key, more[key])
    if "lora" in more:
        lines += field("lora_name", more["lora"][0]) + field("lora_path", more["lora"][1])
    if "items" in more:
        lines.append("\t\t.items = {")
        for identifier, at, tokens in more["items"]:
            lines += ["\t\t\t{HASH_TEXT(", f"\t\t\t\t{quoted(identifier)}),",
                      f"\t\t\t\t{at}, {tokens}}},"]
        lines += ["\t\t},", f"\t\t.item_count = {len(more['items'])},"]
    return lines


HEAD = """/* SPDX-License-Identifier: Apache-2.0 */
/* Made by tests/doors/vectors.py, by the code of vLLM 0.32.0, SGLang 0.5.23, LMCache 0.5.6 and
 * blake3 1.0.11: not to be edited. The digests are those of the first and the last whole block. */
#ifndef SKEP_TESTS_ENGINE_HASH_VECTORS_H
#define SKEP_TESTS_ENGINE_HASH_VECTORS_H

/* clang-format off */
"""


def made(left_out):
    """The header's text; kinds whose engine cannot answer go to @left_out with the reason."""
    lines = [HEAD, "static const struct hash_case hash_cases[] = {"]
    for number, case in enumerate(CASES, 1):
        name, kind, block, count, more = case
        tokens = tokens_of(number, count, more.get("wide", False))
        lines += row(number, case)
        if kind in left_out:
            continue
        try:
            hashes = digests(kind, block, tokens, more)
        except RuntimeError as error:
            if kind not in SGLANG:
                raise
            left_out.update(dict.fromkeys(SGLANG, f"{error}: {error.__cause__}"))
            continue
        lines += [f"\t\t.blocks = {len(hashes)},", f'\t\t.first = "{hashes[0].hex()}",',
                  f'\t\t.last = "{hashes[-1].hex()}"}},']
    lines.append("};\n")
    lines += blake3_lines()
    lines += ["/* clang-format on */\n", "#endif"]
    return "\n".join(lines) + "\n"


def blake3_lines():
    import blake3

    lines = ["static const struct blake3_case blake3_cases[] = {"]
    for length in BLAKE3_LENGTHS:
        digest = blake3.blake3(bytes(i % 251 for i in range(length))).hexdigest()
        lines.append(f'\t{{{length}, "{digest}"}},')
    return lines + ["};\n"]


def cases_of(text):
    """{name: lines} of a header."""
    found, name = {}, ""
    for line in text.splitlines():
        if ".name = " in line:
            name = line
        found.setdefault(name, []).append(line)
        if line.endswith("},") and ".last" in line:
            name = ""
    return found


def check(path, now, left_out):
    """0 where the header says what the engines say."""
    with open(path, encoding="utf-8") as file:
        is_, must = cases_of(file.read()), cases_of(now)
    faults = 0
    for name in {**is_, **must}:
        if is_.get(name) == must.get(name):
            continue
        if any(f".kind = {kind}," in "\n".join(must.get(name, ())) for kind in left_out):
            continue
        faults += 1
        print(f"{path} is not what the engines make: {name.strip()}")
    for kind, reason in left_out.items():
        print(f"{kind} was left out: {reason}")
    print(f"vectors: {len(must) - 1} cases, {faults} faults")
    return 1 if faults else 0


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


def main():
    left_out = {}
    if len(sys.argv) == 3 and sys.argv[1] == "--check":
        with quiet():
            now = made(left_out)
        return check(sys.argv[2], now, left_out)
    with quiet():
        now = made(left_out)
    if left_out:
        print(left_out, file=sys.stderr)
        return 1
    sys.stdout.write(now)
    return 0


if __name__ == "__main__":
    sys.exit(main())
