"""A decoder alone: a GPT-2 of random weights (12 layers of 768), one prompt of 512 tokens, then steps of one token; and
steps after 8,192 tokens, where the cache is larger than the weights.

Prefill is judged by the machine's multiply-add peak, a step by the memory it reads: all weights and the cache. torch
runs transformers' model with its cache. Logits are checked against torch's before anything is timed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from bench.apart import AllApart, Calls
from bench.models import (
    BYTES_IN_CACHE,
    JUDGED,
    OURS,
    Key,
    described,
    encoder_work,
    judged,
    judged_cells,
    start,
    timings,
)
from bench.peers import Peer, installed, limit_threads
from bench.report import Options, environment, parse_options, table, write
from bench.roofline import Gauge, Work, peaks_line
from bench.runtimes import transformers_model

CONFIG: dict[str, Any] = {
    "model_type": "gpt2",
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_positions": 8448,
    "vocab_size": 50257,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
}
PROMPT, LONG, STEPS = 512, 8192, 16
ROUNDS, QUICK_ROUNDS = 5, 2
# Error of the logits, root mean square, relative to their spread.
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2, "int8": 6e-2}

# What a contender gives: begin(past) -> a state with so many tokens, and their last logits (vocabulary,); and
# steps(state, past), which feeds STEPS tokens behind these -> the last logits.
Prepared = tuple[Callable[[int], Any], Callable[[Any, int], np.ndarray]]
CACHE = " + cache of "  # between the precision of weights and that of keys and values, if that is another
PREFILL = f"prompt of {PROMPT}"
PAST = {f"{STEPS} steps": PROMPT, f"{STEPS} steps after {LONG}": LONG}
PARTS = (PREFILL, *PAST)


def tokens() -> np.ndarray:
    return np.random.default_rng(1).integers(0, CONFIG["vocab_size"], LONG + STEPS)


def write_model(folder: Path) -> None:
    from safetensors.numpy import save_file

    config = CONFIG
    rng, width = np.random.default_rng(0), config["n_embd"]
    shapes = {"wte.weight": (config["vocab_size"], width), "wpe.weight": (config["n_positions"], width)}
    for i in range(config["n_layer"]):
        for name, (inputs, outputs) in {
            "attn.c_attn": (width, 3 * width),
            "attn.c_proj": (width, width),
            "mlp.c_fc": (width, 4 * width),
            "mlp.c_proj": (4 * width, width),
        }.items():
            shapes |= {f"h.{i}.{name}.weight": (inputs, outputs), f"h.{i}.{name}.bias": (outputs,)}
    tensors = {name: rng.standard_normal(shape, dtype=np.float32) * 0.04 for name, shape in shapes.items()}
    for norm in [f"h.{i}.ln_{j}" for i in range(config["n_layer"]) for j in (1, 2)] + ["ln_f"]:
        tensors |= {f"{norm}.weight": np.ones(width, np.float32), f"{norm}.bias": np.zeros(width, np.float32)}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _pyattn(model: Path, threads: int, precision: str) -> Prepared:
    import pyattn

    weights, _, cache_dtype = precision.partition(CACHE)
    gpt, ids = pyattn.models.load(model, dtype=weights), tokens()
    gpt.cache_dtype = cache_dtype or None

    def begin(past: int) -> Any:
        continuation = gpt.start(batch_size=1, capacity=past + STEPS)
        return continuation, continuation.step(ids[None, :past])[0]

    def steps(continuation: Any, past: int) -> np.ndarray:
        for held in continuation._state._caches:
            held.truncate([past])
        for token in ids[past : past + STEPS]:
            logits = continuation.step(token[None, None])
        return logits[0]

    return begin, steps


def _torch(model: Path, threads: int, precision: str) -> Prepared:
    import torch

    gpt = transformers_model("GPT2LMHeadModel", model, threads, precision)
    ids = torch.from_numpy(tokens())[None]

    def begin(past: int) -> Any:
        with torch.inference_mode():
            out = gpt(ids[:, :past], use_cache=True, logits_to_keep=1)
        return out.past_key_values, out.logits[0, -1].float().numpy()

    def steps(cache: Any, past: int) -> np.ndarray:
        if (more := cache.get_seq_length() - past) > 0:
            cache.crop(-more)
        with torch.inference_mode():
            for i in range(past, past + STEPS):
                out = gpt(ids[:, i : i + 1], past_key_values=cache, use_cache=True)
        return out.logits[0, -1].float().numpy()

    return begin, steps


PEERS = {
    Peer("torch", ("torch", "transformers"), _torch): ("float32", "bfloat16"),
    Peer(OURS, ("pyattn",), _pyattn): ("float32", "bfloat16", "int8", f"bfloat16{CACHE}int8", f"int8{CACHE}int8"),
}


def work(part: str, precision: str) -> Work | list[Work]:
    """Of the prompt, whose last token alone has logits; of steps, which each read all weights and the cache."""
    precision, _, cache_dtype = precision.partition(CACHE)
    width, layers, heads = CONFIG["n_embd"], CONFIG["n_layer"], CONFIG["n_head"]
    logits = width * CONFIG["vocab_size"]
    if part == PREFILL:
        return encoder_work(PROMPT, PROMPT * (PROMPT + 1) / 2, width, layers, precision, 2.0 * logits, logits)
    keys = PAST[part] + STEPS / 2
    step = encoder_work(1, keys, width, layers, precision, 2.0 * logits, logits)
    row = width + 4 * heads if cache_dtype else width * BYTES_IN_CACHE[precision]  # int8 has a scale for each head
    return [replace(step, read_bytes=step.read_bytes + 2.0 * layers * keys * row)] * STEPS


def calls(
    parts: Sequence[str], prepare: Callable[[Path, int, str], Prepared], model: Path, threads: int, precision: str
) -> Calls:
    """A contender's: the prompt, and for each past that is asked for, steps behind it."""
    begin, steps = prepare(model, threads, precision)
    begun = {past: cache(lambda past=past: begin(past)[0]) for past in PAST.values()}
    after = {part: lambda past=past: steps(begun[past](), past) for part, past in PAST.items()}
    made: dict[str, Callable[[], Any]] = {PREFILL: lambda: begin(PROMPT)[1], **after}
    return {part: made[part] for part in parts}


def run(options: Options) -> None:
    limit_threads(options.threads)
    peers = installed(list(PEERS))
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    parts = PARTS[:2] if options.quick else PARTS
    gauge = Gauge(options.threads)
    with tempfile.TemporaryDirectory() as folder, AllApart() as contenders:
        write_model(Path(folder))
        start(contenders, {peer: PEERS[peer] for peer in peers}, partial(calls, parts), Path(folder), options.threads)
        errors = check(contenders, parts)
        timed = timings(contenders, parts, rounds, "generate")
    peaks = gauge.peaks()
    judgements, rows = judged(timed, work, peaks)
    results = described({key: {"error": errors[key], "calls": call} for key, call in judgements.items()})
    print(generate_table(results, parts))
    print(peaks_line(peaks))
    found = {"environment": environment(options, peers), "peaks": peaks, "contenders": results, "rows": rows}
    write(options, "generate", found)


def check(contenders: AllApart, parts: Sequence[str]) -> dict[Key, float]:
    """The error of each one's logits, relative to their spread, beside torch's or else our own of float32."""
    truth_of = next(key for key in (("torch", "float32"), (OURS, "float32")) if key in contenders)
    truth = [contenders[truth_of].result(part) for part in parts]
    errors = {}
    for key, contender in contenders.items():
        logits = [contender.result(part) for part in parts]
        errors[key] = max(float(np.sqrt(np.mean((x - y) ** 2)) / y.std()) for x, y in zip(logits, truth, strict=True))
        if not errors[key] <= (TOLERANCE["int8"] if CACHE in key[1] else TOLERANCE[key[1]]):
            raise SystemExit(f"{' '.join(key)} gave wrong logits: off by {errors[key]:.1e} of their spread")
    return errors


def generate_table(results: dict[str, Any], parts: Sequence[str]) -> str:
    rows = []
    for label, x in results.items():
        times = [f"{x['calls'][part]['best_s'] * 1e3:.1f}" for part in parts]
        cells = [[time, *judged_cells(x["calls"], part)] for time, part in zip(times, parts, strict=True)]
        rows.append([label, *chain.from_iterable(cells), f"{x['error']:.0e}"])
    titles = [[f"{part}, ms", *JUDGED] for part in parts]
    return table(["", *chain.from_iterable(titles), "error"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    run(parse_options(__doc__, argv))


if __name__ == "__main__":
    main()
