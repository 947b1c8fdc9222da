"""Records what transformers' models of every family compute, for tests/models/test_families.py.

Run with torch and transformers installed: python -m tests.data.record_families [CASE ...]
Those that transformers lacks are in remote_models.py.
"""

import json
import sys
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
_GTE = {**_TEXT, "num_hidden_layers": 2}
_NTK = {"rope_theta": 500.0, "rope_scaling": {"type": "ntk", "factor": 8.0}}
_JINA = {**_GTE, "position_embedding_type": "alibi", "feed_forward_type": "geglu"}
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
    "gte": ("", "Gte", _GTE),
    "new": ("", "New", {**_GTE, **_NTK}),
    "new-unusual": (
        "",
        "New",
        {
            **_GTE,
            "type_vocab_size": 0,
            "position_embedding_type": "absolute",
            "layer_norm_type": "rms_norm",
            "pack_qkv": False,
        },
    ),
    "jina": ("", "JinaBert", {**_JINA, "hidden_size": 24, "num_attention_heads": 3}),
    "jina-reglu": ("", "JinaBert", {**_JINA, "feed_forward_type": "reglu"}),
    "jina-ungated": ("", "JinaBert", {**_JINA, "feed_forward_type": "original"}),
    "vit": ("", "ViT", {**_IMAGE, "intermediate_size": 24}),
    "vit-unbiased": ("", "ViT", {**_IMAGE, "intermediate_size": 24, "qkv_bias": False}),
    "deit": ("", "DeiT", {**_IMAGE, "intermediate_size": 24}),
    "dinov2": ("", "Dinov2", _IMAGE),
    "dinov2-swiglu": ("", "Dinov2", {**_IMAGE, "use_swiglu_ffn": True}),
    "dinov2-registers": ("", "Dinov2WithRegisters", {**_IMAGE, "num_register_tokens": 3}),
}
# Heads that there are none of
_LACKING = {
    "NomicBert": ("question-answering",),
    "Gte": ("question-answering",),
    "JinaBert": ("question-answering", "token-classification"),
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
    ("Gte", _GTE),
    ("New", _GTE),
    ("JinaBert", _JINA),
):
    for _task in ("sequence-classification", "token-classification", "question-answering", "masked-lm"):
        if _task not in _LACKING.get(_family, ()):
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
    """transformers' classes of a case's configuration and of its model, or those in remote_models.py."""
    import transformers

    from tests.data import remote_models

    task, family, _ = CASES[case]
    library = remote_models if is_remote(case) else transformers
    return getattr(library, f"{family}Config"), getattr(library, family + _CLASSES[task])


def is_remote(case):
    """Whether transformers has not the code of a case's model."""
    return CASES[case][1] in ("New", "JinaBert")


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


def differs_from_gte(values, tensors, inputs, outputs):
    """By how much outputs of remote_models' New differ from those of transformers' Gte with the same tensors.

    Gte has no NTK scaling: its authors note that it is linear scaling of another base.
    """
    import torch
    import transformers
    from safetensors.numpy import save_file

    rope = {"rope_theta": values["rope_theta"], "rope_type": "default"}
    if values["rope_scaling"]:
        factor, width = values["rope_scaling"]["factor"], values["hidden_size"] // values["num_attention_heads"]
        rope = {"rope_theta": values["rope_theta"] * factor, "rope_type": "linear", "factor": factor ** (2 / width)}
    values = {key: x for key, x in values.items() if not key.startswith("rope_")}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps({**values, "model_type": "gte", "rope_parameters": rope}))
        save_file(tensors, Path(folder) / "model.safetensors", {"format": "pt"})
        model = transformers.GteModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        theirs = {i: model(torch.from_numpy(inputs["ids"][int(i)][None, : len(x)])) for i, x in outputs.items()}
    return max(abs(theirs[i].last_hidden_state[0].numpy() - x).max() for i, x in outputs.items())


def main():
    from safetensors.numpy import save_file

    warnings.filterwarnings("ignore")
    FOLDER.mkdir(exist_ok=True)
    for case in CASES:
        if sys.argv[1:] and case not in sys.argv[1:]:
            continue
        values, tensors, inputs, outputs = make(case, seed=0)
        if case == "new":
            assert differs_from_gte(values, tensors, inputs, outputs) < 5e-6
        stored = {
            f"{kind}.{name}": np.ascontiguousarray(x)
            for kind, parts in (("state", tensors), ("input", inputs), ("output", outputs))
            for name, x in parts.items()
        }
        save_file(stored, FOLDER / f"{case}.safetensors", {"config": json.dumps(values), "task": CASES[case][0]})
        print(case)


if __name__ == "__main__":
    main()
