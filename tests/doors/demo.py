#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`./dev demo`: the KV of a prompt outlives its process, and never comes back wrong.

    demo.py [--json]

One process computes a prompt, answers it, saves the KV and ends. Another has the prompt's tokens
from skep and must give the same answer. Then a stored byte is damaged behind skep's back, and the
answer must still be the same. Ends with 1 where anything is otherwise.
"""
import json
import os
import subprocess
import sys
import time

import doors

PROMPT, ANSWER, HAD_MIN = 512, 64, 480
DAMAGED_BLOCK, DAMAGED_OFFSET = 17, 5000


def opened(socket):
    """The model's prefixes in the daemon."""
    import skep
    from skep import hf
    return hf.PrefixCache(doors.tiny_llama(), skep.Session(socket), name="tiny-llama",
                          block_tokens=doors.BLOCK_TOKENS)


def answer(prefixes, prompt):
    """One prompt with skep: restores, computes the rest, answers, saves."""
    began = time.monotonic()
    got = prefixes.restore(prompt)
    restored = time.monotonic() - began
    tokens, first = doors.greedy(prefixes.model, prompt, got.cache, ANSWER, got.tokens)
    began = time.monotonic()
    saved = prefixes.save(list(prompt) + tokens, got.cache)
    return {"process": os.getpid(), "had": got.tokens, "reason": got.reason, "tokens": tokens,
            "restore_s": restored, "prefill_s": first, "saved": saved.blocks,
            "save_s": time.monotonic() - began}


def role_first(socket):
    """Without a cache, then with an empty one."""
    from transformers import DynamicCache
    prefixes, prompt = opened(socket), doors.prompt_of(PROMPT)
    doors.greedy(prefixes.model, prompt, DynamicCache(), 1)  # the first run pays for set-up
    tokens, first = doors.greedy(prefixes.model, prompt, DynamicCache(), ANSWER)
    return {"bare": {"tokens": tokens, "prefill_s": first}, "saved": answer(prefixes, prompt)}


def role_second(socket):
    """From what the first process left; then with a byte of it damaged; then once more."""
    prefixes, prompt = opened(socket), doors.prompt_of(PROMPT)
    doors.greedy(prefixes.model, prompt, prefixes.restore(prompt[:1]).cache, 1)
    whole = answer(prefixes, prompt)
    doors.flip_byte(prefixes.session, prefixes.chain(prompt), DAMAGED_BLOCK, DAMAGED_OFFSET)
    return {"whole": whole, "damaged": answer(prefixes, prompt),
            "healed": answer(prefixes, prompt)}


def process(role, socket):
    """A process of its own, from start to end."""
    done = subprocess.run([sys.executable, "-B", __file__, role, socket], stdout=subprocess.PIPE,
                          check=False)
    if done.returncode:
        sys.exit(f"demo: the process '{role}' failed; its words stand above")
    return json.loads(done.stdout)


def run():
    """Both processes; what they said, and how many blocks were missed for their checksum."""
    with doors.Daemon() as daemon:
        said = process("first", daemon.socket)
        said["checksum_misses_before"] = daemon.misses()["checksum"]
        said.update(process("second", daemon.socket))
        said["checksum_misses"] = daemon.misses()["checksum"]
    return said


def faults(said):
    """What is not as it was promised."""
    right = said["bare"]["tokens"]
    found = [f"{name}: other tokens than without a cache"
             for name in ("saved", "whole", "damaged", "healed") if said[name]["tokens"] != right]
    if len(set(right)) < ANSWER // 2:
        found.append("the model repeats itself: equal tokens would prove nothing")
    if said["whole"]["had"] < HAD_MIN:
        found.append(f"only {said['whole']['had']} tokens came from skep, {HAD_MIN} are promised")
    if said["damaged"]["had"] != DAMAGED_BLOCK * doors.BLOCK_TOKENS:
        found.append(f"{said['damaged']['had']} tokens came from skep beside a damaged block")
    if said["damaged"]["reason"] != "checksum":
        found.append(f"the damaged block was missed for '{said['damaged']['reason']}'")
    counted = said["checksum_misses"] - said["checksum_misses_before"]
    if counted != 1:
        found.append(f"{counted} misses of reason checksum were counted, not one")
    if said["healed"]["had"] != said["whole"]["had"]:
        found.append("the damaged block was not put again")
    return found


def ms(seconds):
    return f"{1e3 * seconds:.1f} ms"


def waited(one):
    """Until the first token."""
    return one["restore_s"] + one["prefill_s"]


def report(said):
    bare, saved, whole = said["bare"], said["saved"], said["whole"]
    damaged, healed = said["damaged"], said["healed"]
    rows = (
        ("without a cache", f"first token after {ms(bare['prefill_s'])}"),
        (f"process {saved['process']}", f"computes the prompt, saves {saved['saved']} blocks in "
                                        f"{ms(saved['save_s'])}, answers and ends"),
        (f"process {whole['process']}",
         f"{whole['had']} of {PROMPT} prompt tokens come from skep"),
        ("", f"first token after {ms(waited(whole))}, {ms(whole['restore_s'])} of it to restore: "
             f"{bare['prefill_s'] / waited(whole):.1f} times as fast"),
        ("a byte is flipped",
         f"in block {DAMAGED_BLOCK}, where it lies in the pool: a plain write"),
        ("", "through a client's mapping, of which skep is not told"),
        ("the same prompt", f"{damaged['had']} tokens come from skep, then a miss, reason: "
                            f"{damaged['reason']}"),
        ("", f"misses of that reason counted by skepd: {said['checksum_misses']}"),
        ("", f"first token after {ms(waited(damaged))}; {damaged['saved']} blocks put again"),
        ("once more", f"{healed['had']} tokens come from skep"),
    )
    print("\na Llama of random weights (4 layers, fp32, one thread), "
          f"a prompt of {PROMPT} tokens, {ANSWER} more:\n")
    for what, text in rows:
        print(f"  {what:<20}{text}")
    if not said["faults"]:
        print(f"\nthe {ANSWER} tokens are the same in all five runs")


def main():
    if len(sys.argv) == 3:
        print(json.dumps({"first": role_first, "second": role_second}[sys.argv[1]](sys.argv[2])))
        return
    said = run()
    said["faults"] = faults(said)
    if sys.argv[1:] == ["--json"]:
        print(json.dumps(said))
    else:
        report(said)
    for fault in said["faults"]:
        print(f"demo: {fault}", file=sys.stderr)
    sys.exit(1 if said["faults"] else 0)


if __name__ == "__main__":
    main()
