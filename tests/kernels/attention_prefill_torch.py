# SPDX-License-Identifier: Apache-2.0
"""What PyTorch gives on the shapes of attention_prefill_bench: flash attention, a bf16 product.

    attention_prefill_torch.py [--json] [--rounds N, default 9]

Medians of device time by CUDA events, taken in turn. Operations are counted causally.
"""
import argparse
import json
import statistics

QUERY_HEADS, KV_HEADS, HEAD_SIZE, MATRIX = 32, 8, 128, 8192
LENGTHS = [(2048, 2048), (8192, 8192), (16384, 16384), (8192, 12288)]


def operations(queries, context):
    pairs = queries * (context - queries) + queries * (queries + 1) / 2
    return 4 * HEAD_SIZE * QUERY_HEADS * pairs


def attention(torch, queries, context):
    """A call of the flash back end, or the reason why there is none."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.attention.bias import causal_lower_right
    from torch.nn.functional import scaled_dot_product_attention

    def tensor(heads, tokens):
        # [token][head][size] in memory, as attention_prefill_bench has it
        made = torch.randn(1, tokens, heads, HEAD_SIZE, device="cuda", dtype=torch.bfloat16)
        return made.transpose(1, 2)

    q, k, v = tensor(QUERY_HEADS, queries), tensor(KV_HEADS, context), tensor(KV_HEADS, context)
    if queries == context:
        mask = {"is_causal": True}
    else:
        mask = {"attn_mask": causal_lower_right(queries, context)}

    def call():
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return scaled_dot_product_attention(q, k, v, enable_gqa=True, **mask)

    try:
        call()
    except (RuntimeError, TypeError) as reason:
        # No grouped queries with this mask in this version: give it every head its own KV.
        print("grouped queries not taken (%s): KV repeated" % str(reason).split("\n")[0])
        repeat = QUERY_HEADS // KV_HEADS
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)

        def call():
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return scaled_dot_product_attention(q, k, v, **mask)
        call()
    return call


def timed(torch, call):
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("skip: no torch here")
        return
    if not torch.cuda.is_available():
        print("skip: no CUDA device here")
        return
    a, b = (torch.randn(MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    calls = {"matmul": lambda: torch.matmul(a, b)}
    for queries, context in LENGTHS:
        calls[queries, context] = attention(torch, queries, context)
    for call in calls.values():
        for _ in range(3):
            call()
    times = {name: [] for name in calls}
    for _ in range(options.rounds):
        for name, call in calls.items():
            timed(torch, call)
            times[name].append(timed(torch, call))
    product = 2 * MATRIX ** 3 / statistics.median(times.pop("matmul")) / 1e9
    rows = []
    for (queries, context), taken in times.items():
        ms = statistics.median(taken)
        rate = operations(queries, context) / ms / 1e9
        rows.append({"queries": queries, "context": context, "ms": round(ms, 4),
                     "tflops": round(rate, 1), "share": round(rate / product, 3)})
    if options.json:
        print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__,
                          "rounds": options.rounds, "matmul_bf16_tflops": round(product, 1),
                          "flash": rows}))
        return
    print("%s, torch %s, %d rounds; matmul bf16 %d^3: %.1f TFLOP/s"
          % (torch.cuda.get_device_name(), torch.__version__, options.rounds, MATRIX, product))
    print("%7s %7s %9s %8s %7s" % ("queries", "context", "ms", "TFLOP/s", "share"))
    for row in rows:
        print("%7d %7d %9.4f %8.1f %7.3f" % tuple(row.values()))


if __name__ == "__main__":
    main()
