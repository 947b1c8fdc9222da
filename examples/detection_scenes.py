"""Pictures of handwritten digits, how well boxes are found in them, and the baseline; for examples/detection.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZES = (12, 20)  # of a digit, in pixels
MOST = 5  # digits of a picture
INK, NOISE = 0.25, 0.1
OVERLAP = 0.1  # the largest IoU of two digits' boxes
THRESHOLDS = [0.5 + 0.05 * i for i in range(10)]  # of IoU
BRIGHT, SMALLEST = 0.25, 30  # of a component: its smoothed pixels, and how many; the best on training pictures

Array = NDArray[Any]


@dataclass(frozen=True)
class Boxes:
    """Boxes of a picture, true or found: (n, 4) left, top, right, bottom in pixels, their classes and scores."""

    corners: Array
    classes: Array
    scores: Array


@dataclass(frozen=True)
class Scene:
    picture: Array  # (side, side) float32
    truth: Boxes


@cache
def stretch(new: int, old: int) -> Array:
    """(new, old): the matrix of linear interpolation from old pixels in a row to new ones."""
    places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0, 1 - abs(places[:, None] - np.arange(old))).astype(np.float32)


def iou(a: Array, b: Array) -> Array:
    """(n, m): intersection over union of boxes (n, 4) and (m, 4).

    Example:
        >>> iou(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2], [2, 0, 4, 2]])).round(3).tolist()
        [[0.333, 0.0]]
    """
    shared = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    inter = shared.clip(0).prod(-1)
    areas = [(x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b)]
    shares: Array = inter / np.maximum(areas[0][:, None] + areas[1] - inter, 1e-9)
    return shares


def draw_scene(rng: np.random.Generator, digits: Array, classes: Array, side: int) -> Scene:
    """A picture of some of the digits (n, 8, 8), at random places."""
    picture = np.zeros((side, side), np.float32)
    corners: list[list[int]] = []
    found = []
    for _ in range(rng.integers(1, MOST + 1)):
        chosen = rng.integers(len(digits))
        height, width = rng.integers(SIZES[0], SIZES[1] + 1, 2)
        ink = stretch(height, 8) @ digits[chosen] @ stretch(width, 8).T
        rows, columns = (np.flatnonzero((ink > INK).any(axis)) for axis in (1, 0))
        for _ in range(20):  # tries to find room
            top, left = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
            box = [left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1]
            if not corners or iou(np.array([box]), np.array(corners)).max() <= OVERLAP:
                part = picture[top : top + height, left : left + width]
                np.maximum(part, ink * rng.uniform(0.5, 1), out=part)
                corners.append(box)
                found.append(classes[chosen])
                break
    picture += rng.normal(0, NOISE, picture.shape)
    return Scene(picture, Boxes(np.array(corners, np.float32), np.array(found), np.ones(len(found))))


def draw_scenes(seed: int, count: int, digits: Array, classes: Array, side: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [draw_scene(rng, digits, classes, side) for _ in range(count)]


def average_precision(scores: Array, hits: Array, positives: int) -> float:
    """The mean, over the recalls 0, .01 ... 1, of the best precision at that recall or a higher one, as COCO has it.

    Example:
        >>> round(average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 2), 3)
        0.835
    """
    hits = hits[np.argsort(-scores, kind="stable")]
    recall = np.cumsum(hits) / positives
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, np.linspace(0, 1, 101) - 1e-9)
    return float(np.append(best, 0)[places].mean())


def matched(found: Boxes, truth: Boxes, threshold: float) -> Array:
    """Which found boxes, best score first, meet a true one of their class that no better one has met."""
    overlaps = iou(found.corners, truth.corners)
    overlaps[found.classes[:, None] != truth.classes] = 0
    hits = np.zeros(len(found.scores), bool)
    for i in np.argsort(-found.scores, kind="stable"):
        best = overlaps[i].argmax()
        hits[i] = overlaps[i, best] >= threshold
        if hits[i]:
            overlaps[:, best] = 0
    return hits


def mean_average_precision(found: Sequence[Boxes], truth: Sequence[Boxes], thresholds: Sequence[float]) -> float:
    """The mean of average_precision over classes that are there, and over IoU thresholds."""
    classes, scores, there = (
        np.concatenate(x) for x in ([b.classes for b in found], [b.scores for b in found], [b.classes for b in truth])
    )
    values = []
    for threshold in thresholds:
        hits = np.concatenate([matched(f, t, threshold) for f, t in zip(found, truth, strict=True)])
        for k in np.unique(there):
            values.append(average_precision(scores[classes == k], hits[classes == k], int((there == k).sum())))
    return float(np.mean(values))


def touching(truth: Boxes) -> bool:
    """Whether boxes of the picture, one pixel larger on each side, meet."""
    larger = truth.corners + np.array([-1, -1, 1, 1])
    return bool((iou(larger, larger) > 0).sum() > len(larger))


class Components:
    """The baseline: connected components, each with a class by a support vector machine on crops of 8 x 8."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        from sklearn.calibration import CalibratedClassifierCV
        from sklearn.svm import SVC

        crops = np.concatenate([[self.crop(s.picture, box) for box in s.truth.corners] for s in scenes])
        classes = np.concatenate([s.truth.classes for s in scenes])
        self.classifier = CalibratedClassifierCV(SVC(C=10), ensemble=False).fit(crops, classes)

    @staticmethod
    def crop(picture: Array, box: Array) -> Array:
        """(64,) pixels of the box, stretched to 8 x 8 and to a largest one of 1."""
        left, top, right, bottom = np.round(box).astype(int)
        part = picture[top:bottom, left:right]
        rows, columns = (stretch(8, n) for n in part.shape)
        small = rows @ part @ columns.T
        crop: Array = (small / max(small.max(), 1e-3)).ravel()
        return crop

    def __call__(self, picture: Array) -> Boxes:
        from scipy import ndimage

        ink = ndimage.gaussian_filter(picture, 1.0) > BRIGHT
        labels, _ = ndimage.label(ink, np.ones((3, 3)))
        parts = [p for i, p in enumerate(ndimage.find_objects(labels), 1) if (labels[p] == i).sum() >= SMALLEST]
        if not parts:
            return Boxes(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
        corners = np.array([[x.start, y.start, x.stop, y.stop] for y, x in parts])
        shares = self.classifier.predict_proba([self.crop(picture, box) for box in corners])
        return Boxes(corners, self.classifier.classes_[shares.argmax(1)], shares.max(1))
