"""PatchTST and its training with torch; examples/forecasting.py and anomalies.py serve what this module exports."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.torch import load_file
from torch import nn

from examples.forecasting import Shape
from examples.forecasting_series import DAY, normalized
from examples.training import export, fit, step_seconds

BATCH, DROPOUT, LEARNING_RATE, WEIGHT_DECAY = 64, 0.3, 2e-3, 0.1
Batch = tuple[torch.Tensor, torch.Tensor]


class PatchTST(nn.Module):
    """What follows a normalized window, in its units.

    No norm ends the encoder, so that a linear path leads from the hours to the forecast, beside what the layers add.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Linear(shape.patch, shape.width)
        self.positions = nn.Parameter(0.02 * torch.randn(shape.tokens, shape.width))
        layer = nn.TransformerEncoderLayer(
            shape.width, shape.heads, shape.hidden, DROPOUT, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, shape.layers, enable_nested_tensor=False)
        self.head = nn.Linear(shape.tokens * shape.width, shape.horizon)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        patches = windows.unfold(-1, self.shape.patch, self.shape.stride)
        hidden = self.encoder(self.embedding(patches) + self.positions)
        return self.head(hidden.flatten(-2))


def batches(series: Sequence[np.ndarray], shape: Shape, every: int, seed: int) -> Iterator[Batch]:
    """Windows and what follows them, in the units of the windows: one at each ``every`` hours, back from the ends."""
    span = shape.context + shape.horizon
    windows = np.concatenate([sliding_window_view(x, span)[(len(x) - span) % every :: every] for x in series])
    inputs, mean, deviation = normalized(windows[:, : shape.context])
    wanted = (windows[:, shape.context :] - mean) / deviation
    both = [torch.from_numpy(x.astype(np.float32)) for x in (inputs, wanted)]
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(windows))
        for chosen in np.split(order, range(BATCH, len(order), BATCH)):
            yield both[0][chosen], both[1][chosen]


def loss(model: PatchTST, batch: Batch) -> torch.Tensor:
    """The mean absolute error."""
    windows, wanted = batch
    return nn.functional.l1_loss(model(windows), wanted)


def train(series: Sequence[np.ndarray], shape: Shape, every: int, steps: int, path: Path) -> float:
    """Train a model, export it to ``path``, and return the seconds of its training."""
    torch.manual_seed(0)
    model, stream = PatchTST(shape), batches(series, shape, every, 0)
    seconds = fit(
        model,
        lambda: loss(model, next(stream)),
        steps,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        warmup=min(50, steps // 2),
    )
    export(model, path)
    return seconds


def forecast(path: Path, shape: Shape, series: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """What torch's model forecasts, to which what is served is held."""
    model = PatchTST(shape).eval()
    model.load_state_dict(load_file(path))
    inputs, mean, deviation = normalized(sliding_window_view(series, shape.context)[origins - shape.context])
    with torch.no_grad():
        return model(torch.from_numpy(inputs.astype(np.float32))).numpy() * deviation + mean


def seconds_of_a_step(series: Sequence[np.ndarray], shape: Shape, steps: int) -> dict[str, float]:
    return step_seconds(PatchTST(shape), loss, list(itertools.islice(batches(series, shape, DAY, 1), steps)))
