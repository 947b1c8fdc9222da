"""Anomalies are what a forecaster errs by: the patch Transformer of examples/forecasting.py on two labelled series.

One model for each series learns what follows in a first part without anomalies; each point after it is scored by the
mean absolute error of all forecasts of it, from up to 16 steps before. Beside it: how many deviations a point is from
the mean of the points before it, and how far windows are from the most similar one of the first part (the discords of
Keogh et al. 2005). Data: the packages aeon (number 135 of the KDD 2021 competition) and sktime (mitdb), read as text.
The series are real; the anomaly of the first, a burst of noise, looks as if put in by hand, that of the second is a
heart's own.

    python -m examples.anomalies [--quick]     # also writes anomalies.png

Full run:

| series | score | area under ROC | average precision | highest score at the anomaly |
| --- | --- | --- | --- | --- |
| blood pressure | z-score of the points before | 0.120 | 0.001 | no |
| blood pressure | distance to the nearest window | 0.997 | 0.335 | yes |
| blood pressure | error of PatchTST | 0.914 | 0.064 | yes |
| electrocardiogram | z-score of the points before | 0.665 | 0.111 | no |
| electrocardiogram | distance to the nearest window | 0.774 | 0.386 | yes |
| electrocardiogram | error of PatchTST | 0.713 | 0.147 | yes |

The forecaster's highest error is at the anomaly in both, which the z-score's is not. But how far a window is from the
most similar one of the past needs no training and is better in both: of the electrocardiogram, forecasts err at every
beat's peak nearly as much as at the odd beat. Two series are an impression, not a comparison.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.metrics import average_precision_score, roc_auc_score

from examples.forecasting import Forecaster, Shape
from examples.packages import package_files
from examples.report import Options, Table, finish, parse_options
from examples.serving import check_agreement, without_torch

SHAPE = Shape(context=384, horizon=16, patch=16, stride=8, width=32, heads=4, layers=2, hidden=64)
STEPS, QUICK_STEPS = 1000, 4
QUICK_END = 2000  # of the scored points
WINDOW = 64  # of discords
NEAR = 100  # steps from the labels at which the competition's rule takes the highest score for a find


@dataclass(frozen=True)
class Labelled:
    """A series whose last two columns are the values and the labels; training takes the points before ``normal``."""

    name: str
    package: str
    file: str
    normal: int


SERIES = (
    Labelled(
        "blood pressure",
        "aeon==1.6.0",
        "aeon/datasets/data/KDD-TSAD_135/135_UCR_Anomaly_InternalBleeding16_TEST.csv",
        normal=1200,
    ),
    Labelled("electrocardiogram", "sktime==1.2.0", "sktime/datasets/data/mitdb/mitdb.csv", normal=3000),
)


def read_labelled(source: Labelled) -> tuple[np.ndarray, np.ndarray]:
    """Values, and whether they are anomalous."""
    path = package_files(source.package) / source.file
    values, labels = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)[:, -2:].T
    if labels[: source.normal].any():
        raise ValueError(f"read_labelled: {source.name} has anomalies in its first {source.normal} points")
    return values, labels.astype(bool)


def spread(scores: np.ndarray, length: int) -> np.ndarray:
    """The mean at each of ``length`` points of what windows say about it; ``scores`` (windows, width), one step apart.

    Example:
        >>> spread(np.array([[1.0, 2.0], [4.0, 6.0]]), 3).tolist()
        [1.0, 3.0, 6.0]
    """
    total, count = np.zeros(length), np.zeros(length)
    for place in range(scores.shape[1]):
        total[place : place + len(scores)] += scores[:, place]
        count[place : place + len(scores)] += 1
    return total / count


def deviations(values: np.ndarray, normal: int) -> np.ndarray:
    """How many deviations of the points before it a point from ``normal`` on is from their mean."""
    before = sliding_window_view(values, SHAPE.context)[normal - SHAPE.context : -1]
    return np.abs(values[normal:] - before.mean(-1)) / before.std(-1)


def discords(values: np.ndarray, normal: int) -> np.ndarray:
    """How far windows of the points from ``normal`` on, each with mean 0 and norm 1, are from the nearest before it."""
    windows = sliding_window_view(values, WINDOW)
    windows = windows - windows.mean(-1, keepdims=True)
    windows /= np.linalg.norm(windows, axis=-1, keepdims=True)
    likest = (windows[normal:] @ windows[: normal - WINDOW + 1].T).max(-1)
    return spread(np.repeat(np.sqrt(np.maximum(2 - 2 * likest, 0))[:, None], WINDOW, 1), len(values) - normal)


def served(path: Path, values: np.ndarray, normal: int) -> np.ndarray:
    """Forecasts from each point from ``normal`` on, (origins, horizon)."""
    return Forecaster(path, SHAPE)(values, np.arange(normal, len(values) - SHAPE.horizon + 1))


def errors(forecasts: np.ndarray, values: np.ndarray, normal: int) -> np.ndarray:
    """The mean absolute error of all forecasts of a point, for each from ``normal`` on."""
    return spread(np.abs(forecasts - sliding_window_view(values[normal:], SHAPE.horizon)), len(values) - normal)


def judge(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Areas under the curves of ROC and of precision and recall, and whether the highest score is near an anomaly."""
    near = np.convolve(labels, np.ones(2 * NEAR + 1), "same") > 0
    return {
        "roc_auc": float(roc_auc_score(labels, scores)),
        "average_precision": float(average_precision_score(labels, scores)),
        "found": bool(near[scores.argmax()]),
    }


def draw(path: Path, scored: dict[str, dict[str, np.ndarray]]) -> None:
    """Values and scores of each series, which is ``scored`` by the names of rows; the labelled points are marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [name for name in next(iter(scored.values())) if name != "labels"]
    figure, panels = pyplot.subplots(
        len(rows), len(scored), figsize=(12, 8), dpi=80, sharex="col", squeeze=False, layout="constrained"
    )
    for column, (series, lines) in zip(panels.T, scored.items(), strict=True):
        column[0].set_title(series, loc="left", fontsize=11)
        begin, *_, end = np.flatnonzero(lines["labels"])
        for axes, name in zip(column, rows, strict=True):
            axes.axvspan(begin, end, color="#D55E00", alpha=0.5)
            axes.plot(lines[name], color="0.4" if name == "values" else "#0072B2", linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
    for axes, name in zip(panels[:, 0], rows, strict=True):
        axes.set_ylabel(name, fontsize=8)
    figure.savefig(path)
    pyplot.close(figure)


def run(options: Options) -> tuple[Table, dict[str, Any]]:
    import torch

    from examples import forecasting_torch as torch_side

    torch.set_num_threads(options.threads)
    judged: dict[str, dict[str, dict[str, float]]] = {}
    scored: dict[str, dict[str, np.ndarray]] = {}
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for source in SERIES[: 1 if options.quick else None]:
            values, labels = read_labelled(source)
            path = Path(folder) / f"{source.name}.safetensors"
            steps = QUICK_STEPS if options.quick else STEPS
            seconds[source.name] = torch_side.train([values[: source.normal]], SHAPE, 1, steps, path)
            forecasts = without_torch(served, path, values, source.normal, threads=options.threads)
            few = np.arange(source.normal, source.normal + 100)
            check_agreement(forecasts[:100], torch_side.forecast(path, SHAPE, values, few))
            scores = {
                "z-score of the points before": deviations(values, source.normal),
                "distance to the nearest window": discords(values, source.normal),
                "error of PatchTST": errors(forecasts, values, source.normal),
            }
            scored[source.name] = {"labels": labels[source.normal :], "values": values[source.normal :], **scores}
            judged[source.name] = {name: judge(x, labels[source.normal :]) for name, x in scores.items()}
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        draw(options.out / "anomalies.png", scored)
    rows = [
        [series, name, f"{x['roc_auc']:.3f}", f"{x['average_precision']:.3f}", "yes" if x["found"] else "no"]
        for series, methods in judged.items()
        for name, x in methods.items()
    ]
    print("Seconds of training:", {name: round(x) for name, x in seconds.items()})
    table = Table(["series", "score", "area under ROC", "average precision", "highest score at the anomaly"], rows)
    return table, {"shape": asdict(SHAPE), "judged": judged, "training_seconds": seconds}


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    finish("anomalies", options, *run(options))


if __name__ == "__main__":
    main()
