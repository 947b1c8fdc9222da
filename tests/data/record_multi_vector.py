"""Records what sentence-transformers' MultiVectorEncoder makes of directories, for tests/tasks/test_multi_vector.py.

Run with torch, transformers and sentence-transformers (6.2) installed: python -m tests.data.record_multi_vector

multi_vector.json has the files of small directories, multi_vector.safetensors their weights, in float16, and the
vectors of QUERIES and DOCUMENTS, one text after the other.
"""

import json
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.data.record_sparse import half

FOLDER = Path(__file__).parent
WORDS = ["the", "cat", "dog", "sat", "ran", "on", "a", "mat", "root", "find", "?", "!", ".", "[unused0]", "[unused1]"]
BRACKETS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "q", "d", "unused", "##0", "##1"]
QUERIES = ["find the cat", "", "the root ?", "the dog ran " * 12]
DOCUMENTS = ["the cat sat on a mat .", "", "the dog ran ! " * 12, "?!.", "find  THE root", "dog"]


def make(top):
    """Directories, name -> folder."""
    import torch
    import transformers
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    torch.manual_seed(0)
    words = {word: i for i, word in enumerate([*BRACKETS, *WORDS])}
    tokenizer = transformers.BertTokenizer(vocab=words, model_max_length=30)
    sizes = {"vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 20, "max_position_embeddings": 32, "pad_token_id": 0}
    model = transformers.BertModel(transformers.BertConfig(**sizes))
    half(model)
    base = top / "base"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    found = {}
    expansions = {
        "fixed": {"strategy": "fixed", "attend": False, "length": 10},
        "attends": {"strategy": "fixed", "attend": True, "length": 10},
        "min": {"strategy": "min", "attend": False, "length": 7, "token": "[PAD]"},
        "plain": None,
    }
    for name, expansion in expansions.items():
        lengths = {"query_length": 9, "document_length": 14} if name == "plain" else {"document_length": 20}
        dense = Dense(16, 8, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings")
        half(dense)
        tasks = ["query", "document"] if name == "min" else None
        modules = [
            Transformer(str(base), query_expansion=expansion, **lengths),
            dense,
            MultiVectorMask(skiplist_words=["?", "!", ".", ";"], skiplist_tasks=tasks),
            Normalize(module_input_name="token_embeddings"),
        ]
        prompts = None if name == "plain" else {"query": "find ", "document": "a "}
        encoder = MultiVectorEncoder(modules=modules, prompts=prompts)
        if name == "attends":
            encoder.similarity_fn_name = "meanmaxsim"
        found[name] = top / name
        encoder.save_pretrained(str(found[name]), create_model_card=False)
    return found | {"pylate": make_pylate(top, found["fixed"]), "stanford": make_stanford(top, base, found["fixed"])}


def make_pylate(top, native):
    """As PyLate before release 4 wrote it: a Transformer and a Dense, and settings beside the prompts."""
    folder = top / "pylate"
    shutil.copytree(native, folder)
    (dense,) = folder.glob("*_Dense")
    for other in [x for x in folder.glob("[0-9]*") if x != dense]:
        shutil.rmtree(other)
    config = {"in_features": 16, "out_features": 8, "bias": False}
    config["activation_function"] = "torch.nn.modules.linear.Identity"
    (dense / "config.json").write_text(json.dumps(config))
    kinds = {"": "sentence_transformers.models.Transformer", dense.name: "pylate.models.Dense.Dense"}
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(kinds.items())]
    (folder / "modules.json").write_text(json.dumps(modules))
    settings = {"model_type": "ColBERT", "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "MaxSim"}
    settings |= {"query_prefix": "[unused0]", "document_prefix": "[unused1]", "query_length": 9}
    settings |= {"document_length": 18, "attend_to_expansion_tokens": False, "skiplist_words": ["?", "."]}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 17, "do_lower_case": False}))
    return folder


def make_stanford(top, base, native):
    """A model of BERT with linear.weight beside it."""
    folder = top / "stanford"
    shutil.copytree(base, folder)
    tensors = {f"bert.{name}": x for name, x in load_file(base / "model.safetensors").items()}
    (dense,) = native.glob("*_Dense")
    save_file(tensors | load_file(dense / "model.safetensors"), folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["HF_ColBERT"]}
    (folder / "config.json").write_text(json.dumps(config))
    metadata = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 12, "doc_maxlen": 20}
    metadata |= {"mask_punctuation": True, "attend_to_mask_tokens": False}
    (folder / "artifact.metadata").write_text(json.dumps(metadata))
    return folder


def main():
    from sentence_transformers import MultiVectorEncoder

    warnings.filterwarnings("ignore")
    top = Path(tempfile.mkdtemp())
    cases, tensors = {}, {}
    for name, folder in make(top).items():
        encoder = MultiVectorEncoder(str(folder))
        files = {}
        for file in sorted(x for x in folder.rglob("*") if x.suffix in (".json", ".metadata")):
            files[str(file.relative_to(folder))] = json.loads(file.read_text())
        for file in folder.rglob("*.safetensors"):
            at = "" if file.parent == folder else f"{file.parent.name}/"
            if at or name in ("fixed", "stanford"):
                stored = load_file(file)
                tensors |= {f"weights/{name}/{at}{key}": x.astype("float16") for key, x in stored.items()}
        queries, documents = encoder.encode_query(QUERIES), encoder.encode_document(DOCUMENTS)
        scores = encoder.similarity(queries, documents).numpy().astype(float).round(6).tolist()
        for kind, vectors in (("queries", queries), ("documents", documents)):
            tensors[f"{kind}/{name}"] = np.concatenate([np.asarray(x, np.float32) for x in vectors])
        lengths = [list(map(len, queries)), list(map(len, documents))]
        cases[name] = {"files": files, "lengths": lengths, "scores": scores, "prompts": encoder.prompts}
    record = {"queries": QUERIES, "documents": DOCUMENTS, "cases": cases}
    (FOLDER / "multi_vector.json").write_text(json.dumps(record, separators=(",", ":")) + "\n")
    save_file(tensors, FOLDER / "multi_vector.safetensors")
    shutil.rmtree(top)


if __name__ == "__main__":
    main()
