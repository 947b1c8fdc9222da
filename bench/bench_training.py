"""Where the time of a training step of torch goes, beside its matrix products and attention, and what pyattn's take.

Each part is timed by itself, forward and backward, on the shapes of the step, as often as the step has it: what takes
5 % of a step and more outside products and attention is worth an operator of its own. Steps are on float32, two
layouts: torch's encoder with dropout, and a Llama.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tqdm import tqdm

from bench.peers import Peer
from bench.report import Options, environment, parse_options, table, write
from bench.timing import interleave, seconds

ROUNDS, QUICK_ROUNDS = 7, 2
BATCH, LENGTH, LAYERS = 16, 128, 6
WIDTH, HEADS, INNER, DROPOUT = 384, 12, 1536, 0.1


@dataclass(frozen=True)
class Part:
    """A function of tensors of such shapes, so many times in a step; ours: pyattn's in its place."""

    name: str
    count: int
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    ours: Callable[..., Any] | None = None


def learned(function: Callable[..., Any], shapes: tuple[tuple[int, ...], ...]) -> Callable[[], None]:
    """Forward and backward of a function of random tensors."""
    import torch

    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    grad = torch.ones_like(function(*inputs))

    def call() -> None:
        torch.autograd.grad(function(*inputs), inputs, grad)

    return call


def stepped(model: Any, loss: Callable[[], Any]) -> Callable[[], None]:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def encoder() -> tuple[Callable[[], None], list[Part]]:
    import torch

    import pyattn.torch

    functional = torch.nn.functional
    layer = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, DROPOUT, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
    x = torch.randn(BATCH, LENGTH, WIDTH)
    rows, wide, heads = (BATCH * LENGTH, WIDTH), (BATCH * LENGTH, INNER), (BATCH, HEADS, LENGTH, WIDTH // HEADS)
    attention = partial(functional.scaled_dot_product_attention, dropout_p=DROPOUT)
    own = partial(pyattn.torch.scaled_dot_product_attention, dropout_p=DROPOUT)
    drop, own_drop = partial(functional.dropout, p=DROPOUT), partial(pyattn.torch.dropout, p=DROPOUT)

    def activated(x: Any) -> Any:
        return drop(functional.relu(x))

    return stepped(model, lambda: model(x).square().mean()), [
        Part("products, in and out", LAYERS, functional.linear, (rows, (4 * WIDTH, WIDTH))),
        Part("products, feed forward", LAYERS, functional.linear, (rows, (INNER, WIDTH))),
        Part("the same back", LAYERS, functional.linear, (wide, (WIDTH, INNER))),
        Part("attention with dropout", LAYERS, attention, (heads,) * 3, own),
        Part("dropout of rows", 2 * LAYERS, drop, (rows,), own_drop),
        Part("activation and dropout", LAYERS, activated, (wide,), partial(own_drop, activation="relu")),
        Part("norms", 2 * LAYERS, partial(functional.layer_norm, normalized_shape=(WIDTH,)), (rows,)),
    ]


def llama() -> tuple[Callable[[], None], list[Part]]:
    import torch
    import transformers
    from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

    import pyattn.torch

    functional = torch.nn.functional
    config = transformers.LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        vocab_size=4096,
        attn_implementation="sdpa",
    )
    model = transformers.LlamaForCausalLM(config).train()
    ids = torch.randint(0, config.vocab_size, (BATCH, LENGTH))
    rows, wide, heads = (BATCH * LENGTH, WIDTH), (BATCH * LENGTH, INNER), (BATCH, HEADS, LENGTH, WIDTH // HEADS)
    cosines, sines = torch.randn(2, BATCH, LENGTH, WIDTH // HEADS)
    attention = partial(functional.scaled_dot_product_attention, is_causal=True)
    own = partial(pyattn.torch.scaled_dot_product_attention, is_causal=True)

    def rotated(query: Any, key: Any) -> Any:
        return torch.cat(apply_rotary_pos_emb(query, key, cosines, sines))

    def gated(gate: Any, x: Any) -> Any:
        return functional.silu(gate) * x

    return stepped(model, lambda: model(input_ids=ids, labels=ids, use_cache=False).loss), [
        Part("products, in and out", LAYERS, functional.linear, (rows, (4 * WIDTH, WIDTH))),
        Part("products, feed forward", 2 * LAYERS, functional.linear, (rows, (INNER, WIDTH))),
        Part("the same back", LAYERS, functional.linear, (wide, (WIDTH, INNER))),
        Part("products, words", 1, functional.linear, (rows, (config.vocab_size, WIDTH))),
        Part("attention, causal", LAYERS, attention, (heads,) * 3, own),
        Part("rotary positions", LAYERS, rotated, (heads, heads)),
        Part("norms", 2 * LAYERS + 1, LlamaRMSNorm(WIDTH), (rows,)),
        Part("gates", LAYERS, gated, (wide, wide)),
    ]


MODELS = {"encoder": encoder, "Llama": llama}


def shares(make: Callable[[], tuple[Callable[[], None], list[Part]]], quick: bool) -> dict[str, dict[str, float]]:
    """Of each part, the share of torch's step that torch and, where it has it, pyattn take."""
    step, parts = make()
    calls = {("step", "torch"): step}
    for part in parts:
        calls[part.name, "torch"] = learned(part.function, part.shapes)
        if part.ours is not None:
            calls[part.name, "pyattn"] = learned(part.ours, part.shapes)
    for call in calls.values():
        call()
    timed = {name: partial(seconds, call) for name, call in calls.items()}
    with tqdm(desc="training", unit="round", disable=None) as progress:
        found = interleave(timed, progress, rounds=QUICK_ROUNDS if quick else ROUNDS)
    whole = found["step", "torch"].best_s
    result: dict[str, dict[str, float]] = {}
    for part in parts:
        for whose in ("torch", "pyattn"):
            if timing := found.get((part.name, whose)):
                result.setdefault(part.name, {})[whose] = part.count * timing.best_s / whole
    return result


def run(options: Options) -> None:
    import torch

    torch.set_num_threads(options.threads)
    found = {name: shares(make, options.quick) for name, make in MODELS.items()}
    for name, parts in found.items():
        rows = [
            [part, *(f"{x[whose]:.1%}" if whose in x else "-" for whose in ("torch", "pyattn"))]
            for part, x in parts.items()
        ]
        print(table([f"{name}: part of torch's step", "torch's", "pyattn's"], rows), "\n")
    peers = [Peer(name, (name,), print) for name in ("torch", "transformers")]
    write(options, "training", {"environment": environment(options, peers), "results": found})


def main(argv: Sequence[str] | None = None) -> None:
    run(parse_options(__doc__, argv))


if __name__ == "__main__":
    main()
