# SPDX-License-Identifier: Apache-2.0
"""What torch makes of decode attention, beside attention_bench: same shapes, same bytes.

    attention_torch.py [--quick]

scaled_dot_product_attention (enable_gqa) reads K and V as strided views of one allocation with the
arena's token stride, as an engine would hand them over; dense tensors stand beside them, and
flex_attention where it compiles, dense and with its paged block mask. Each launch reads another
layer and a copy passes between any two; medians. Says skip where there is no torch or no GPU.
"""
import statistics
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("skip: there is no torch")
    sys.exit(0)
if not torch.cuda.is_available():
    print("skip: torch sees no GPU")
    sys.exit(0)

SAMPLES, WARM_UPS, CONTEXT, HEAD = 9, 3, 16384, 128
COPY_BYTES = 1 << 30
MODELS = [("Llama-3-8B", 32, 8, 32), ("Yi-6B", 32, 4, 32), ("Yi-34B", 56, 8, 60)]
BATCHES = [1, 4, 8, 16, 32]
DEADLINE = time.monotonic() + 15  # seconds; what would begin later is left out, and said so


def pool_make():
    """As much random bf16 as fits, in whole GiB."""
    share = int(torch.cuda.mem_get_info()[0] * 0.84) >> 30
    elements = min(share, 64) << 29
    pool = torch.empty(elements, dtype=torch.bfloat16, device="cuda")
    pool[: 1 << 25].normal_()
    done = 1 << 25
    while done < elements:
        more = min(done, elements - done)
        pool[done : done + more] = pool[:more]
        done += more
    return pool


def measure(pool, run, layers, kv_bytes):
    """Copy and run in turn: (microseconds, TB/s, TB/s of the copy)."""
    half = COPY_BYTES // 2
    times, copies = [], []
    for n in range(-WARM_UPS, SAMPLES):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        events[0].record()
        pool[half : 2 * half].copy_(pool[:half])
        events[1].record()
        run(2 * (n + WARM_UPS) % layers)  # what the copy left to be written back is gone then
        events[2].record()
        run((2 * (n + WARM_UPS) + 1) % layers)
        events[3].record()
        torch.cuda.synchronize()
        if n >= 0:
            copies.append(events[0].elapsed_time(events[1]) * 1e3)
            times.append(events[2].elapsed_time(events[3]) * 1e3)
    us, copy_us = statistics.median(times), statistics.median(copies)
    return us, kv_bytes / us / 1e6, 2 * COPY_BYTES / copy_us / 1e6


def report(model, what, batch, layers, figures):
    us, rate, copy = figures
    print(
        f"{model:11} {what:34} {batch:2} x {CONTEXT} {layers:2} layers {us:9.1f} us "
        f"{rate:6.3f} TB/s  copy {copy:6.3f}  {rate / copy:.3f}",
        flush=True,
    )


def attempt(model, what, batch, layers, kv_bytes, pool, run):
    if time.monotonic() > DEADLINE:
        print(f"{model:11} {what:34} {batch:2}: left out, the time is up")
        return
    try:
        report(model, what, batch, layers, measure(pool, run, layers, kv_bytes))
    except Exception as error:  # whatever torch refuses is a result of this table
        text = str(error).split("\n")[0][:90]
        print(f"{model:11} {what:34} {batch:2}: {type(error).__name__}: {text}", flush=True)


def views(pool, batch, kv_heads, layers, layer):
    """K and V of one layer in token-major order: [batch][kv_heads][CONTEXT][HEAD]."""
    row = kv_heads * HEAD
    token = layers * 2 * row
    strides = (CONTEXT * token, HEAD, token, 1)
    size = (batch, kv_heads, CONTEXT, HEAD)
    at = layer * 2 * row
    return (torch.as_strided(pool, size, strides, at),
            torch.as_strided(pool, size, strides, at + row))


def dense(pool, batch, kv_heads, layers, layer):
    """K and V of one layer as two dense tensors of the same size."""
    size = (batch, kv_heads, CONTEXT, HEAD)
    count = batch * kv_heads * CONTEXT * HEAD
    at = layer * 2 * count
    return pool[at : at + count].view(size), pool[at + count : at + 2 * count].view(size)


def sdpa_rows(pool, model, query_heads, kv_heads, layers, batch, kv_bytes):
    query = torch.randn(batch, query_heads, 1, HEAD, dtype=torch.bfloat16, device="cuda")
    for name, make in (("sdpa, token-major views", views), ("sdpa, dense", dense)):

        def run(layer, make=make):
            keys, values = make(pool, batch, kv_heads, layers, layer)
            return F.scaled_dot_product_attention(query, keys, values, enable_gqa=True)

        attempt(model, name, batch, layers, kv_bytes, pool, run)


def flex_rows(pool, model, query_heads, kv_heads, layers, batch, kv_bytes):
    """flex_attention over dense tensors, and over a pool of pages by its block mask."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    query = torch.randn(batch, query_heads, 1, HEAD, dtype=torch.bfloat16, device="cuda")
    flex = torch.compile(flex_attention, dynamic=False)

    def run(layer):
        keys, values = dense(pool, batch, kv_heads, layers, layer)
        return flex(query, keys, values, enable_gqa=True)

    attempt(model, "flex_attention, dense", batch, layers, kv_bytes, pool, run)
    try:
        from torch.nn.attention.experimental._paged_attention import PagedAttention
    except ImportError as error:
        print(f"{model:11} flex_attention, paged: {error}")
        return
    page = 128
    try:
        pages = batch * CONTEXT // page
        paged = PagedAttention(pages, page, batch, device="cuda")
        for sequence in range(batch):
            paged.reserve(torch.tensor(sequence, device="cuda"),
                          torch.tensor(CONTEXT, device="cuda"))
        mask = create_block_mask(lambda b, h, q, kv: kv >= 0, batch, 1, 1, CONTEXT,
                                 device="cuda", BLOCK_SIZE=(page, page))
        mask = paged.convert_logical_block_mask(mask)
    except Exception as error:
        text = str(error).split("\n")[0][:90]
        print(f"{model:11} flex_attention, paged: {type(error).__name__}: {text}")
        return

    def run_paged(layer):
        count = batch * kv_heads * CONTEXT * HEAD
        at = layer * 2 * count
        size = (1, kv_heads, pages * page, HEAD)
        return flex(query, pool[at : at + count].view(size),
                    pool[at + count : at + 2 * count].view(size), block_mask=mask,
                    enable_gqa=True)

    attempt(model, "flex_attention, paged 128", batch, layers, kv_bytes, pool, run_paged)


def main():
    quick = "--quick" in sys.argv[1:]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; median of {SAMPLES}")
    pool = pool_make()
    for model, query_heads, kv_heads, model_layers in MODELS[:1] if quick else MODELS:
        for batch in BATCHES[-1:] if quick else BATCHES:
            kv_bytes = batch * CONTEXT * kv_heads * HEAD * 4
            layers = min(model_layers, pool.numel() * 2 // kv_bytes)
            sdpa_rows(pool, model, query_heads, kv_heads, layers, batch, kv_bytes)
    # Compiling takes seconds a shape: one model, one batch.
    model, query_heads, kv_heads, model_layers = MODELS[0]
    kv_bytes = 16 * CONTEXT * kv_heads * HEAD * 4
    layers = min(model_layers, pool.numel() * 2 // kv_bytes)
    try:
        flex_rows(pool, model, query_heads, kv_heads, layers, 16, kv_bytes)
    except Exception as error:
        print(f"flex_attention: {type(error).__name__}: {str(error)[:90]}")


if __name__ == "__main__":
    main()
