"""What the trained examples share on torch's side: the loop, its speed with and without pyattn, and the export."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file
from tqdm import tqdm

import pyattn.torch

Batch = TypeVar("Batch")


def fit(
    model: torch.nn.Module,
    loss: Callable[[], torch.Tensor],
    steps: int,
    *,
    learning_rate: float,
    warmup: int = 0,
    weight_decay: float = 0.01,
    clip: float = 1.0,
    attention: str = "pyattn",
    title: str = "training",
) -> float:
    """Take that many steps of AdamW on what ``loss`` returns, a batch's at each call; the seconds that they took.

    The learning rate rises to its value over ``warmup`` steps and falls to 0 along half a cosine. Gradients are clipped
    to the norm ``clip``. ``attention`` says who computes it: "pyattn" serves torch's own function, "torch" leaves it.
    """
    if attention not in ("pyattn", "torch"):
        raise ValueError(f'fit: attention must be "pyattn" or "torch", not {attention!r}')
    parameters = [x for x in model.parameters() if x.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    half_cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warmup))
    schedulers: list[torch.optim.lr_scheduler.LRScheduler] = [half_cosine]
    if warmup:
        schedulers.insert(0, torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup))
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, schedulers, [warmup] * (len(schedulers) - 1))
    model.train()
    begin = time.perf_counter()
    with pyattn.torch.enabled() if attention == "pyattn" else nullcontext():
        for _ in (progress := tqdm(range(steps), desc=title, unit="step", disable=None)):
            value = loss()
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
            schedule.step()
            progress.set_postfix_str(f"loss {value.item():.3f}", refresh=False)
    model.eval()
    return time.perf_counter() - begin


def step_seconds(
    model: torch.nn.Module,
    loss: Callable[[torch.nn.Module, Batch], torch.Tensor],
    batches: Sequence[Batch],
    turns: int = 3,
) -> dict[str, float]:
    """Seconds of a training step with attention of "pyattn" and of "torch": a copy of the model takes both in turn.

    Each turn takes a step on every batch; one more turn, which does not count, warms up.
    """
    trial = copy.deepcopy(model)
    spent = {"pyattn": 0.0, "torch": 0.0}
    for turn in range(1 + turns):
        for attention in spent:
            values = (loss(trial, batch) for batch in batches)
            title = f"speed, {attention}"
            seconds = fit(
                trial, partial(next, values), len(batches), learning_rate=1e-5, attention=attention, title=title
            )
            spent[attention] += seconds if turn else 0
    return {attention: seconds / turns / len(batches) for attention, seconds in spent.items()}


def export(model: torch.nn.Module, path: Path) -> None:
    """The model's parameters and buffers as safetensors."""
    save_file({name: x.contiguous() for name, x in model.state_dict().items()}, path)
