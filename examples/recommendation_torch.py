"""SASRec and its training with torch; examples/recommendation.py serves what this module exports."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from examples.recommendation import History, Shape, padded
from examples.training import export, fit, step_seconds

BATCH, DROPOUT, LEARNING_RATE, WEIGHT_DECAY = 32, 0.2, 6e-3, 0.1

Batch = tuple[torch.Tensor, torch.Tensor]


class SASRec(nn.Module):
    """What is expected at every position; the row of ``items`` after the last item is that of padding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.items = nn.Embedding(shape.items + 1, shape.width)
        self.positions = nn.Embedding(shape.length, shape.width)
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=shape.width**-0.5)
        self.dropout = nn.Dropout(DROPOUT)
        layer = nn.TransformerEncoderLayer(
            shape.width, shape.heads, shape.hidden, DROPOUT, "gelu", batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(shape.width)
        self.encoder = nn.TransformerEncoder(layer, shape.layers, norm, enable_nested_tensor=False)
        self.register_buffer("ahead", nn.Transformer.generate_square_subsequent_mask(shape.length), persistent=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        embedded = self.dropout(self.items(rows) + self.positions.weight)
        return self.encoder(embedded, mask=self.ahead, is_causal=True)

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.dropout(hidden) @ self.items.weight[:-1].T


def batches(histories: Sequence[History], shape: Shape, seed: int) -> Iterator[Batch]:
    """What users have rated, and what they rated next: a window for each ``length`` films of a user, in each epoch.

    Films of the same second are in another order each time.
    """
    rng = np.random.default_rng(seed)
    windows = np.repeat(np.arange(len(histories)), [-(-len(films) // shape.length) for films, _ in histories])
    while True:
        order = rng.permutation(windows)
        for users in np.split(order, range(BATCH, len(order), BATCH)):
            found = []
            for films, times in (histories[user] for user in users):
                films = films[np.lexsort((rng.random(len(times)), times))]
                begin = rng.integers(max(0, len(films) - shape.length - 1) + 1)
                found.append(films[begin : begin + shape.length + 1])
            rows, _ = padded([films[:-1] for films in found], shape.length, shape.items)
            following, _ = padded([films[1:] for films in found], shape.length, -1)
            yield torch.from_numpy(rows), torch.from_numpy(following)


def loss(model: SASRec, batch: Batch) -> torch.Tensor:
    """The softmax cross entropy of what followed, over all items."""
    rows, following = batch
    known = following >= 0
    return nn.functional.cross_entropy(model.scores(model(rows)[known]), following[known])


def train(histories: Sequence[History], shape: Shape, steps: int, attention: str, path: Path) -> float:
    """Train a model, export it to ``path``, and return the seconds of its training."""
    torch.manual_seed(0)
    model, stream = SASRec(shape), batches(histories, shape, 0)
    seconds = fit(
        model,
        lambda: loss(model, next(stream)),
        steps,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        warmup=min(50, steps // 2),
        attention=attention,
        title=attention,
    )
    export(model, path)
    return seconds


def score(path: Path, shape: Shape, histories: Sequence[np.ndarray]) -> np.ndarray:
    """What torch's model says, to which what is served is held."""
    model = SASRec(shape).eval()
    model.load_state_dict(load_file(path))
    rows, lengths = padded(histories, shape.length, shape.items)
    with torch.no_grad():
        hidden = model(torch.from_numpy(rows))[np.arange(len(rows)), lengths - 1]
        return model.scores(hidden).numpy()


def seconds_of_a_step(histories: Sequence[History], shape: Shape, steps: int) -> dict[str, float]:
    return step_seconds(SASRec(shape), loss, list(itertools.islice(batches(histories, shape, 1), steps)))
