"""The small DETR and its training with torch; examples/detection.py serves what this module exports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import pyattn
from examples.detection import CLASSES, NOTHING, Shape, blocks, standardized
from examples.detection_scenes import Scene, draw_scene
from examples.training import export, fit, step_seconds

STEPS, QUICK_STEPS = 2200, 8
BATCH = 32
DROPOUT, LEARNING_RATE = 0.0, 2e-3
STRETCH = 10  # steps of which the speed with pyattn and with torch alone is measured
NOTHING_WEIGHT = 0.2  # of the class loss of queries without a digit, which are most
CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT, TOKEN_WEIGHT = 4.0, 5.0, 2.0, 4.0

Answers = list[tuple[Tensor, Tensor]]  # logits (B, Q, CLASSES + 1) and boxes (B, Q, 4) of each decoder layer
Batch = list[Scene]


@dataclass(frozen=True)
class Trained:
    """torch's own answers to the test's pictures, and figures."""

    logits: NDArray[np.float32]
    boxes: NDArray[np.float32]
    figures: dict[str, Any]

    @property
    def duration(self) -> str:
        """The seconds of training, and what they would be without pyattn, by the times of single steps."""
        seconds, step = self.figures["seconds"], self.figures["step"]
        return f"{seconds:.0f} s ({seconds * step['torch'] / step['pyattn']:.0f} s)"


class Detector(nn.Module):
    """Of each query a class and a box: the middle and the size, as parts of the picture's side."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        channels = zip(shape.channels, (*shape.channels[1:], shape.width), shape.convolutions, strict=True)
        self.convolutions = nn.ModuleList(nn.Conv2d(inputs, outputs, *options) for inputs, outputs, options in channels)
        positions = pyattn.sinusoidal_grid_encoding(shape.grid, shape.grid, shape.width)
        self.register_buffer("positions", torch.from_numpy(positions.reshape(-1, shape.width)))
        rows = round(shape.queries**0.5)
        middles = (np.stack(np.meshgrid(*[np.arange(rows)] * 2), -1).reshape(-1, 2) + 0.5) / rows
        anchors = torch.from_numpy(np.concatenate([middles, np.full_like(middles, 0.3)], 1)).float()
        self.anchors = nn.Parameter(torch.logit(anchors))
        columns, lines = (middles * shape.grid).astype(int).T
        self.queries = nn.Parameter(torch.from_numpy(positions[lines, columns]).clone())
        sizes = (shape.width, shape.heads, shape.hidden, dropout, "gelu")
        layer = nn.TransformerEncoderLayer(*sizes, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(
            layer, shape.encoder_layers, nn.LayerNorm(shape.width), enable_nested_tensor=False
        )
        layer = nn.TransformerDecoderLayer(*sizes, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoder(layer, shape.decoder_layers, nn.LayerNorm(shape.width))
        self.classes = nn.Linear(shape.width, CLASSES + 1)
        self.token_classes = nn.Linear(shape.width, CLASSES + 1)  # for a loss of the encoder, not served
        self.box1 = nn.Linear(shape.width, shape.width)
        self.box2 = nn.Linear(shape.width, 4)
        nn.init.zeros_(self.box2.weight)
        nn.init.zeros_(self.box2.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Answers]:
        """The encoder's output, and the answers of each decoder layer."""
        for convolution in self.convolutions:
            x = nn.functional.gelu(convolution(x))
        memory = self.encoder(x.flatten(2).transpose(1, 2) + self.positions)
        hidden = self.queries.expand(len(x), -1, -1)
        answers = []
        for layer in self.decoder.layers:
            hidden = layer(hidden, memory)
            answer = self.decoder.norm(hidden)
            boxes = self.box2(nn.functional.gelu(self.box1(answer))) + self.anchors
            answers.append((self.classes(answer), boxes.sigmoid()))
        return memory, answers


def corners_of(boxes: Tensor) -> Tensor:
    middles, sizes = boxes.chunk(2, -1)
    return torch.cat([middles - sizes / 2, middles + sizes / 2], -1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Of corners (..., 4) that broadcast: Rezatofighi et al. 2019 (arXiv:1902.09630)."""

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(-1)

    inter = area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    union = area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - inter
    hull = area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    return inter / union - (hull - union) / hull


def batches(digits: NDArray[Any], classes: NDArray[Any], shape: Shape, seed: int) -> Iterator[Batch]:
    """New pictures of the training digits, without end."""
    rng = np.random.default_rng(seed)
    while True:
        yield [draw_scene(rng, digits, classes, shape.side) for _ in range(BATCH)]


def set_loss(logits: Tensor, boxes: Tensor, scenes: list[Scene], side: int) -> Tensor:
    """The loss of a batch's answers, matched one to one with the digits so that it is least."""
    classes = torch.from_numpy(np.concatenate([s.truth.classes for s in scenes]))
    truth = torch.from_numpy(np.concatenate([s.truth.corners for s in scenes])) / side
    wanted = torch.cat([(truth[:, :2] + truth[:, 2:]) / 2, truth[:, 2:] - truth[:, :2]], 1)
    counts = [len(s.truth.classes) for s in scenes]
    found = corners_of(boxes)
    owners = torch.repeat_interleave(torch.arange(len(scenes)), torch.tensor(counts))
    with torch.no_grad():  # (digits, queries): what it would cost to match them
        cost = -CLASS_WEIGHT * logits.softmax(-1)[owners, :, classes]
        cost = cost + L1_WEIGHT * (boxes[owners] - wanted[:, None]).abs().sum(-1)
        cost = cost - GIOU_WEIGHT * generalized_iou(found[owners], truth[:, None])
    queries = torch.from_numpy(np.concatenate([linear_sum_assignment(c)[1] for c in cost.split(counts)]))
    targets = torch.full(logits.shape[:2], NOTHING)
    targets[owners, queries] = classes
    weights = torch.ones(CLASSES + 1)
    weights[NOTHING] = NOTHING_WEIGHT
    class_loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), weights)
    l1 = (boxes[owners, queries] - wanted).abs().sum(-1).mean()
    giou = (1 - generalized_iou(found[owners, queries], truth)).mean()
    return CLASS_WEIGHT * class_loss + L1_WEIGHT * l1 + GIOU_WEIGHT * giou


def token_loss(logits: Tensor, scenes: list[Scene], shape: Shape) -> Tensor:
    """Of each token, in which digit's box its middle lies: it has the encoder learn digits before queries ask."""
    middles = (np.arange(shape.grid) + 0.5) * shape.side / shape.grid
    wanted = np.full((len(scenes), shape.grid, shape.grid), NOTHING)
    for targets, scene in zip(wanted, scenes, strict=True):
        for (left, top, right, bottom), digit in zip(scene.truth.corners, scene.truth.classes, strict=True):
            inside = ((middles > top) & (middles < bottom))[:, None] & (middles > left) & (middles < right)
            targets[inside] = digit
    return nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(wanted).flatten())


def train(
    digits: NDArray[Any],
    classes: NDArray[Any],
    test: NDArray[Any],
    shape: Shape,
    quick: bool,
    threads: int,
    path: Path,
) -> Trained:
    """Train on pictures of the digits, export to that path, and answer the test's pictures."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    model = Detector(shape, DROPOUT)

    def loss(model: nn.Module, scenes: Batch) -> Tensor:
        seen = torch.from_numpy(standardized(np.stack([s.picture for s in scenes])))
        memory, layers = model(seen)
        queries = torch.stack([set_loss(x, boxes, scenes, shape.side) for x, boxes in layers]).sum()
        return queries + TOKEN_WEIGHT * token_loss(model.token_classes(memory), scenes, shape)

    given = batches(digits, classes, shape, seed=0)
    steps = QUICK_STEPS if quick else STEPS
    seconds = fit(
        model,
        lambda: loss(model, next(given)),
        steps,
        learning_rate=LEARNING_RATE,
        warmup=min(100, steps // 4),
        weight_decay=1e-4,
    )
    speed = step_seconds(model, loss, list(islice(given, 2 if quick else STRETCH)))
    export(model, path)
    with torch.inference_mode():
        found = [model(torch.from_numpy(standardized(x)))[1][-1] for x in blocks(test)]
    logits, boxes = (torch.cat(x).numpy() for x in zip(*found, strict=True))
    return Trained(logits, boxes, {"steps": steps, "seconds": seconds, "step": speed})
