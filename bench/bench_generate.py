"""A decoder alone: a GPT-2 of random weights (12 layers of 768), one prompt of 512 tokens, then steps of one token.

Prefill is judged by the machine's multiply-add peak, a step by the memory it reads: all weights and the cache. torch
runs transformers' model with its cache. Logits are checked against torch's before anything is timed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
    "n_positions": 1024,
    "vocab_size": 50257,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
}
PROMPT, STEPS = 512, 16
ROUNDS, QUICK_ROUNDS = 5, 2
# Error of the logits, root mean square, relative to their spread.
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2, "int8": 6e-2}

# What a contender gives: prefill() -> logits (vocabulary,); then steps(), which feeds STEPS tokens -> the last logits.
Pair = tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]
PARTS = (f"prompt of {PROMPT}", f"{STEPS} steps")


def tokens() -> np.ndarray:
    return np.random.default_rng(1).integers(0, CONFIG["vocab_size"], PROMPT + STEPS)


def write_model(folder: Path, config: Mapping[str, Any] = CONFIG) -> None:
    from safetensors.numpy import save_file

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


def _pyattn(model: Path, threads: int, precision: str) -> Pair:
    import pyattn

    gpt, ids = pyattn.models.load(model, dtype=precision), tokens()
    state = []

    def prefill() -> np.ndarray:
        state[:] = [gpt.start(batch_size=1, capacity=PROMPT + STEPS)]
        return state[0].step(ids[None, :PROMPT])[0]

    def steps() -> np.ndarray:
        continuation = state[0]
        for cache in continuation._state._caches:
            cache.truncate([PROMPT])
        for token in ids[PROMPT:]:
            logits = continuation.step(token[None, None])
        return logits[0]

    return prefill, steps


def _torch(model: Path, threads: int, precision: str) -> Pair:
    import torch

    gpt = transformers_model("GPT2LMHeadModel", model, threads, precision)
    ids = torch.from_numpy(tokens())[None]
    state: list[Any] = []

    def prefill() -> np.ndarray:
        with torch.inference_mode():
            out = gpt(ids[:, :PROMPT], use_cache=True, logits_to_keep=1)
        state[:] = [out.past_key_values]
        return out.logits[0, -1].float().numpy()

    def steps() -> np.ndarray:
        cache = state[0]
        if (more := cache.get_seq_length() - PROMPT) > 0:
            cache.crop(-more)
        with torch.inference_mode():
            for i in range(PROMPT, PROMPT + STEPS):
                out = gpt(ids[:, i : i + 1], past_key_values=cache, use_cache=True)
        return out.logits[0, -1].float().numpy()

    return prefill, steps


PEERS = {
    Peer("torch", ("torch", "transformers"), _torch): ("float32", "bfloat16"),
    Peer(OURS, ("pyattn",), _pyattn): ("float32", "bfloat16", "int8"),
}


def work(part: str, precision: str) -> Work | list[Work]:
    """Of the prompt, whose last token alone has logits; of steps, which each read all weights and the cache."""
    width, layers = CONFIG["n_embd"], CONFIG["n_layer"]
    logits = width * CONFIG["vocab_size"]
    tokens, pairs = (PROMPT, PROMPT * (PROMPT + 1) / 2) if part == PARTS[0] else (1, PROMPT + STEPS / 2)
    once = encoder_work(tokens, pairs, width, layers, precision, 2.0 * logits, logits)
    if part == PARTS[0]:
        return once
    cache = 2.0 * layers * width * pairs * BYTES_IN_CACHE[precision]
    return [replace(once, read_bytes=once.read_bytes + cache)] * STEPS


def calls(prepare: Callable[[Path, int, str], Pair], model: Path, threads: int, precision: str) -> Calls:
    """A contender's, by name."""
    return dict(zip(PARTS, prepare(model, threads, precision), strict=True))


def run(options: Options) -> None:
    limit_threads(options.threads)
    peers = installed(list(PEERS))
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    gauge = Gauge(options.threads)
    with tempfile.TemporaryDirectory() as folder, AllApart() as contenders:
        write_model(Path(folder))
        start(contenders, {peer: PEERS[peer] for peer in peers}, calls, Path(folder), options.threads)
        errors = check(contenders)
        timed = timings(contenders, PARTS, rounds, "generate")
    peaks = gauge.peaks()
    judgements, rows = judged(timed, work, peaks)
    results = described({key: {"error": errors[key], "calls": call} for key, call in judgements.items()})
    print(generate_table(results))
    print(peaks_line(peaks))
    found = {"environment": environment(options, peers), "peaks": peaks, "contenders": results, "rows": rows}
    write(options, "generate", found)


def check(contenders: AllApart) -> dict[Key, float]:
    """The error of each one's logits, relative to their spread, beside torch's or else our own of float32."""
    truth_of = next(key for key in (("torch", "float32"), (OURS, "float32")) if key in contenders)
    truth = [contenders[truth_of].result(part) for part in PARTS]
    errors = {}
    for key, contender in contenders.items():
        logits = [contender.result(part) for part in PARTS]
        errors[key] = max(float(np.sqrt(np.mean((x - y) ** 2)) / y.std()) for x, y in zip(logits, truth, strict=True))
        if not errors[key] <= TOLERANCE[key[1]]:
            raise SystemExit(f"{' '.join(key)} gave wrong logits: off by {errors[key]:.1e} of their spread")
    return errors


def generate_table(results: dict[str, Any]) -> str:
    rows = []
    for label, x in results.items():
        prefill, steps = (x["calls"][part] for part in PARTS)
        row = [label, f"{prefill['best_s'] * 1e3:.0f}", *judged_cells(x["calls"], PARTS[0])]
        row += [f"{steps['best_s'] / STEPS * 1e3:.2f}", *judged_cells(x["calls"], PARTS[1])]
        rows.append([*row, f"{x['error']:.0e}"])
    return table(["", "512 tokens, ms", *JUDGED, "a step, ms", *JUDGED, "error"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    run(parse_options(__doc__, argv))


if __name__ == "__main__":
    main()
