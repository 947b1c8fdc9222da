"""Records what transformers' models of every family compute, for tests/models/test_families.py.

Run with torch and transformers installed: python -m tests.data.record_families
"""

import json
import tempfile
import warnings
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "families"

_TEXT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}
_IMAGE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 20,
    "patch_size": 5,
}
_MODERN = {**_TEXT, "pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
_DISTIL = {"vocab_size": 40, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 40}

# case -> (task or "", the class's beginning, the configuration)
CASES = {
    "bert": ("", "Bert", _TEXT),
    "roberta": ("", "Roberta", {**_TEXT, "type_vocab_size": 1}),
    "xlm-roberta": ("", "XLMRoberta", {**_TEXT, "type_vocab_size": 1, "pad_token_id": 3}),
    "camembert": ("", "Camembert", {**_TEXT, "type_vocab_size": 1}),
    "distilbert": ("", "DistilBert", _DISTIL),
    "mpnet": ("", "MPNet", _TEXT),
    "albert": ("", "Albert", {**_TEXT, "embedding_size": 8}),
    "albert-groups": ("", "Albert", {**_TEXT, "embedding_size": 8, "num_hidden_layers": 6, "num_hidden_groups": 2}),
    "electra": ("", "Electra", {**_TEXT, "embedding_size": 8}),
    "electra-unprojected": ("", "Electra", {**_TEXT, "embedding_size": 16}),
    "modernbert": ("", "ModernBert", {**_MODERN, "local_attention": 8, "num_hidden_layers": 4}),
    "modernbert-biases": (
        "",
        "ModernBert",
        {**_MODERN, "local_attention": 6, "attention_bias": True, "mlp_bias": True, "norm_bias": True},
    ),
    "nomic": ("", "NomicBert", _TEXT),
    "vit": ("", "ViT", {**_IMAGE, "intermediate_size": 24}),
    "vit-unbiased": ("", "ViT", {**_IMAGE, "intermediate_size": 24, "qkv_bias": False}),
    "deit": ("", "DeiT", {**_IMAGE, "intermediate_size": 24}),
    "dinov2": ("", "Dinov2", _IMAGE),
    "dinov2-swiglu": ("", "Dinov2", {**_IMAGE, "use_swiglu_ffn": True}),
    "dinov2-registers": ("", "Dinov2WithRegisters", {**_IMAGE, "num_register_tokens": 3}),
}
for _family, _config in (
    ("Bert", _TEXT),
    ("Roberta", _TEXT),
    ("DistilBert", _DISTIL),
    ("MPNet", _TEXT),
    ("Albert", {**_TEXT, "embedding_size": 8}),
    ("Electra", {**_TEXT, "embedding_size": 8}),
    ("ModernBert", {**_MODERN, "classifier_pooling": "mean"}),
    ("NomicBert", _TEXT),
):
    for _task in ("sequence-classification", "token-classification", "question-answering", "masked-lm"):
        if (_family, _task) != ("NomicBert", "question-answering"):  # transformers has none
            CASES[f"{_family.lower()}-{_task}"] = (_task, _family, {**_config, "num_hidden_layers": 1})

LENGTHS = [23, 1, 0, 14]
SIDES = [(20, 20), (25, 32)]  # of images: the model's own, and one whose positions are interpolated

_CLASSES = {
    "": "Model",
    "sequence-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
    "masked-lm": "ForMaskedLM",
}


def classes_of(case):
    """transformers' classes of a case's configuration and of its model."""
    import transformers

    task, family, _ = CASES[case]
    return getattr(transformers, f"{family}Config"), getattr(transformers, family + _CLASSES[task])


def make(case, seed):
    """config.json's contents, tensors by their names in files, inputs and outputs of one case."""
    import torch
    from safetensors.numpy import load_file

    task, family, changes = CASES[case]
    labels = {"num_labels": 3} if task.endswith("classification") else {}
    of_config, of_model = classes_of(case)
    config = of_config(**changes, **labels, attn_implementation="eager")
    model = of_model(config).eval()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in dict.fromkeys(model.parameters()):
            centre = 1.0 if parameter.ndim == 1 and parameter.mean() == 1 else 0.0
            parameter.copy_(torch.from_numpy(rng.normal(centre, 0.25, tuple(parameter.shape))))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors = load_file(Path(folder) / "model.safetensors")
        values = json.loads((Path(folder) / "config.json").read_text())
    inputs, outputs = {}, {}
    with torch.inference_mode():
        if "image_size" in values:
            for i, sides in enumerate(SIDES):
                pixels = inputs[str(i)] = rng.standard_normal((2, 3, *sides), dtype=np.float32)
                resized = {} if family.startswith("Dino") else {"interpolate_pos_encoding": True}
                outputs[str(i)] = model(torch.from_numpy(pixels), **resized).last_hidden_state.numpy()
        else:
            ids = rng.integers(4, values["vocab_size"], (len(LENGTHS), max(LENGTHS)))
            inputs["ids"], inputs["lengths"] = ids, np.array(LENGTHS)
            for i, length in enumerate(LENGTHS):
                if not length:
                    continue
                result = model(torch.from_numpy(ids[i : i + 1, :length]))
                if task == "question-answering":
                    output = torch.stack([result.start_logits, result.end_logits], dim=-1)[0]
                else:
                    output = result.logits[0] if task else result.last_hidden_state[0]
                outputs[str(i)] = output.numpy()
    return values, tensors, inputs, outputs


def main():
    from safetensors.numpy import save_file

    warnings.filterwarnings("ignore")
    FOLDER.mkdir(exist_ok=True)
    for case in CASES:
        values, tensors, inputs, outputs = make(case, seed=0)
        stored = {
            f"{kind}.{name}": np.ascontiguousarray(x)
            for kind, parts in (("state", tensors), ("input", inputs), ("output", outputs))
            for name, x in parts.items()
        }
        save_file(stored, FOLDER / f"{case}.safetensors", {"config": json.dumps(values), "task": CASES[case][0]})
        print(case)


if __name__ == "__main__":
    main()
