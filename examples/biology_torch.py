"""The classifier of DNA windows and its training with torch; examples/biology.py serves what this module exports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from examples.biology import Shape, contexts
from examples.biology_data import Data, cut
from examples.training import export, fit, step_seconds

STEPS, QUICK_STEPS = 2000, 40
BATCH = 64
DROPOUT, LEARNING_RATE, WEIGHT_DECAY = 0.2, 1e-3, 0.05
STRETCH = 30  # steps of which the speed with pyattn and with torch alone is measured

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Trained:
    """torch's own logits of the test's windows, and figures."""

    logits: NDArray[np.float32]
    figures: dict[str, Any]

    @property
    def duration(self) -> str:
        """The seconds of training, and what they would be without pyattn, by the times of single steps."""
        seconds, step = self.figures["seconds"], self.figures["step"]
        return f"{seconds:.0f} s ({seconds * step['torch'] / step['pyattn']:.0f} s)"


class Classifier(nn.Module):
    """Logits of the classes, from a token in front of the window's."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Linear(shape.context * 4, shape.width)
        self.token = nn.Parameter(torch.randn(shape.width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1 + shape.length, shape.width) * 0.02)
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(
            shape.width, shape.heads, shape.hidden, dropout, "gelu", batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(shape.width)
        self.encoder = nn.TransformerEncoder(layer, shape.layers, norm, enable_nested_tensor=False)
        self.head = nn.Linear(shape.width, 3)

    def forward(self, seen: Tensor) -> Tensor:
        places = self.embed(seen)
        tokens = torch.cat([self.token.expand(len(seen), 1, -1), places], dim=1) + self.positions
        hidden: Tensor = self.encoder(self.dropout(tokens))
        logits: Tensor = self.head(hidden[:, 0])
        return logits


def batches(data: Data, shape: Shape, seed: int) -> Iterator[Batch]:
    """Random pieces, cut at random, without end."""
    rng = np.random.default_rng(seed)
    spare = data.pieces.shape[1] - shape.length
    while True:
        rows = rng.integers(len(data.pieces), size=BATCH)
        windows = cut(data.pieces[rows], rng.integers(spare + 1, size=BATCH), shape.length)
        yield torch.from_numpy(contexts(windows, shape.context)), torch.from_numpy(data.classes[rows])


def loss(model: nn.Module, batch: Batch) -> Tensor:
    seen, classes = batch
    return nn.functional.cross_entropy(model(seen), classes)


def train(data: Data, shape: Shape, quick: bool, threads: int, path: Path) -> Trained:
    """Train, and export to that path."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    model = Classifier(shape, DROPOUT)
    steps = QUICK_STEPS if quick else STEPS
    given = batches(data, shape, seed=0)
    seconds = fit(
        model,
        lambda: loss(model, next(given)),
        steps,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        warmup=steps // 20,
    )
    speed = step_seconds(model, loss, list(islice(given, 3 if quick else STRETCH)))
    export(model, path)
    with torch.inference_mode():
        logits = model(torch.from_numpy(contexts(data.windows, shape.context))).numpy()
    return Trained(logits, {"steps": steps, "seconds": seconds, "step": speed})
