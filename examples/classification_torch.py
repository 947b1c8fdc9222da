"""The fine-tuning of examples.classification, with transformers and torch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from examples.training import fit, step_seconds

LEARNING_RATE = 1.5e-4

Batch: TypeAlias = tuple[dict[str, Tensor], Tensor]  # a model's arguments, and the topics


@dataclass(frozen=True)
class Tuned:
    """What training took, a step of it by who computes attention, and what torch makes of the texts asked."""

    steps: int
    seconds: float
    step_seconds: dict[str, float]
    logits: NDArray[np.float32]
    test_seconds: float


def padded(ids: Sequence[NDArray[np.int64]]) -> dict[str, Tensor]:
    lengths = np.array([len(x) for x in ids])
    live = np.arange(lengths.max()) < lengths[:, None]
    tokens = np.zeros(live.shape, np.int64)
    tokens[live] = np.concatenate(ids)
    return {"input_ids": torch.from_numpy(tokens), "attention_mask": torch.from_numpy(live.astype(np.int64))}


def batches(ids: Sequence[NDArray[np.int64]], labels: NDArray[np.int64], size: int) -> Iterator[Batch]:
    """Texts of about one length together, drawn at random, without an end: a topic as often as the root of its number.

    Were all texts drawn alike, hundreds of steps would hardly see the rarest topic, 41 texts of 5,485.
    """
    rng = np.random.default_rng(0)
    lengths, counts = np.array([len(x) for x in ids]), np.bincount(labels)
    shares = 1 / np.sqrt(counts[labels])
    while True:
        drawn = rng.choice(len(ids), len(ids), p=shares / shares.sum())
        drawn = drawn[np.argsort(lengths[drawn], kind="stable")]
        for i in rng.permutation(range(0, len(drawn), size)):
            rows = drawn[i : i + size]
            yield padded([ids[row] for row in rows]), torch.from_numpy(labels[rows])


def loss(model: torch.nn.Module, batch: Batch) -> Tensor:
    arguments, labels = batch
    value: Tensor = model(**arguments, labels=labels).loss
    return value


def train(
    ids: Sequence[NDArray[np.int64]],
    labels: NDArray[np.int64],
    topics: Sequence[str],
    asked: Sequence[NDArray[np.int64]],
    asked_at_once: int,
    directory: Path,
    out: Path,
    *,
    batch: int,
    stretch: int,
    threads: int,
) -> Tuned:
    """Fine-tune a directory's model on as many texts as there are, write it to another, and let it judge those asked.

    ``stretch``: of how many steps the speed with pyattn and with torch alone is measured.
    """
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    model = transformers.BertForSequenceClassification.from_pretrained(
        directory, id2label=dict(enumerate(topics)), label2id={x: i for i, x in enumerate(topics)}
    )
    stream = batches(ids, labels, batch)
    steps = -(-len(ids) // batch)
    seconds = fit(model, lambda: loss(model, next(stream)), steps, learning_rate=LEARNING_RATE, warmup=steps // 10)
    model.save_pretrained(out)
    (out / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())

    parts = [padded(asked[i : i + asked_at_once]) for i in range(0, len(asked), asked_at_once)]
    with torch.inference_mode():
        model(**parts[0])
        begin = time.perf_counter()
        logits = torch.cat([model(**part).logits for part in parts])
        test_seconds = time.perf_counter() - begin
    speeds = step_seconds(model, loss, [next(stream) for _ in range(stretch)], turns=2)
    return Tuned(steps, seconds, speeds, logits.numpy(), test_seconds)
