"""The Transformer of examples.names in torch, and its training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import pyattn
from examples.training import export, fit, step_seconds

BATCH = 128
Batch: TypeAlias = tuple[Tensor, Tensor, Tensor]  # sources, what a target begins with, and what is to follow

LEARNING_RATE, WARMUP = 2e-3, 100
DROPOUT, SMOOTHING = 0.1, 0.1
STRETCH = 15  # steps of which the speed with pyattn and with torch alone is measured


@dataclass(frozen=True)
class Training:
    """What training took, and a step of it with pyattn's attention and with torch's own."""

    steps: int
    seconds: float
    step_seconds: dict[str, float]


class Translator(nn.Module):
    """torch's Transformer on scaled embeddings and sinusoidal positions; logits are products with target embeddings."""

    def __init__(self, sources: int, targets: int, longest: int, sizes: tuple[int, int, int, int]) -> None:
        super().__init__()
        width, heads, layers, feedforward = sizes
        options = {"norm_first": True, "batch_first": True}
        self.transformer = nn.Transformer(width, heads, layers, layers, feedforward, DROPOUT, **options)
        self.source, self.target = nn.Embedding(sources, width), nn.Embedding(targets, width)
        for table in (self.source, self.target):
            nn.init.normal_(table.weight, std=width**-0.5)
        self.dropout = nn.Dropout(DROPOUT)
        positions = torch.from_numpy(pyattn.sinusoidal_encoding(longest + 1, width))
        self.register_buffer("positions", positions, persistent=False)
        later = torch.ones(longest + 1, longest + 1, dtype=torch.bool).triu(1)
        self.register_buffer("later", later, persistent=False)

    def embedded(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        return self.dropout(table(tokens) * table.embedding_dim**0.5 + self.positions[: tokens.shape[1]])

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """The logits of what follows each of the target's tokens; sources (B, S) have no padding."""
        x, y = self.embedded(self.source, source), self.embedded(self.target, target)
        later = self.later[: y.shape[1], : y.shape[1]]
        return self.transformer(x, y, tgt_mask=later, tgt_is_causal=True) @ self.target.weight.T


def batches(pairs: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], rng: np.random.Generator) -> Iterator[Batch]:
    """Sources of one length, targets of about one, and what is to follow these, -100 for padding; without an end."""
    lengths = np.array([(len(x), len(y)) for x, y in pairs])
    while True:
        order = rng.permutation(len(lengths))
        order = order[np.lexsort((lengths[order, 1], lengths[order, 0]))]
        of_one_length = np.split(order, np.flatnonzero(np.diff(lengths[order, 0])) + 1)
        chosen = [rows[i : i + BATCH] for rows in of_one_length for i in range(0, len(rows), BATCH)]
        for i in rng.permutation(len(chosen)):
            rows = chosen[i]
            whole = np.full((len(rows), int(lengths[rows, 1].max())), -100)
            for line, row in zip(whole, rows, strict=True):
                line[: lengths[row, 1]] = pairs[row][1]
            given = np.maximum(whole[:, :-1], 0)
            source = np.stack([pairs[row][0] for row in rows])
            yield torch.from_numpy(source), torch.from_numpy(given), torch.from_numpy(whole[:, 1:].copy())


def train(
    pairs: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    vocabularies: tuple[int, int],
    longest: int,
    sizes: tuple[int, int, int, int],
    path: Path,
    *,
    steps: int,
    threads: int,
) -> tuple[Training, Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]]:
    """Train on pairs of token ids, targets with the boundary at both ends, and write the parameters.

    Also returned is the trained model: the logits (L, targets) of a source and a target.
    """
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    model = Translator(*vocabularies, longest, sizes)
    stream = batches(pairs, np.random.default_rng(0))

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        source, given, wanted = batch
        logits = module(source, given).flatten(0, 1)
        return nn.functional.cross_entropy(logits, wanted.flatten(), label_smoothing=SMOOTHING)

    warmup = min(WARMUP, steps // 4)
    seconds = fit(model, lambda: loss(model, next(stream)), steps, learning_rate=LEARNING_RATE, warmup=warmup)
    export(model, path)
    speeds = step_seconds(model, loss, [next(stream) for _ in range(min(steps, STRETCH))])

    def logits(source: NDArray[np.int64], target: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.no_grad():
            out: NDArray[np.float32] = model(*(torch.from_numpy(x)[None] for x in (source, target)))[0].numpy()
        return out

    return Training(steps, seconds, speeds), logits
