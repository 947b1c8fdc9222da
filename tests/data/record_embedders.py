"""Records what sentence-transformers makes of directories as embedders have them today: tests/tasks/test_embedders.py.

Run with torch, transformers and sentence-transformers installed: python -m tests.data.record_embedders

embedders.json has the files of small random models in the layouts of Qwen3-Embedding-0.6B, embeddinggemma-300m,
gte-multilingual-base, snowflake-arctic-embed-m-v2.0 and jina-embeddings-v2, with the keys that these files have, and
calls; embedders.safetensors the weights, by directory and name, and sentence-transformers' answers, by number; the same
of rerankers. The code of those that transformers does not have is remote_models.py.
"""

import json
import logging
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

FOLDER = Path(__file__).parent
TEXTS = ["the cat sat on a mat", "", "Find the root: query!", "dog", "passage: " + "the dog ran " * 9, "Ünïted 東京 🙂"]
_SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
_DECODER = {**_SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "attention_dropout": 0.0}
_ENCODER = {
    **_SIZES,
    "num_attention_heads": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": None,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
}
_KINDS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")

_INSTRUCT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
_SEARCH, _SAME = "task: search result | query: ", "task: sentence similarity | query: "
_PROMPTS_OF_GEMMA = {"query": _SEARCH, "document": "title: none | text: ", "Clustering": "task: clustering | query: "}
_PROMPTS_OF_GEMMA |= {"Retrieval-query": _SEARCH, "Retrieval-document": "title: none | text: ", "STS": _SAME}

CONFIGS = {
    "qwen3": {
        **_DECODER,
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "model_type": "qwen3",
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.3",
        "use_cache": True,
        "use_sliding_window": False,
    },
    "gemma": {
        **_DECODER,
        "num_hidden_layers": 3,
        "_sliding_window_pattern": 6,
        "architectures": ["Gemma3TextModel"],
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "bos_token_id": 2,
        "dtype": "float32",
        "eos_token_id": 1,
        "final_logit_softcapping": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "initializer_range": 0.02,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "max_position_embeddings": 2048,
        "model_type": "gemma3_text",
        "pad_token_id": 0,
        "query_pre_attn_scalar": 8,
        "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": 8,
        "transformers_version": "4.57.0.dev0",
        "use_bidirectional_attention": True,
        "use_cache": True,
    },
    "gte": {
        **_ENCODER,
        "architectures": ["NewModel"],
        "auto_map": {"AutoConfig": "code.NewConfig", "AutoModel": "code.NewModel"},
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "layer_norm_type": "layer_norm",
        "logn_attention_clip1": False,
        "logn_attention_scale": False,
        "max_position_embeddings": 8192,
        "model_type": "new",
        "pack_qkv": True,
        "pad_token_id": 1,
        "position_embedding_type": "rope",
        "rope_scaling": {"factor": 8.0, "type": "ntk"},
        "rope_theta": 20000,
        "torch_dtype": "float16",
        "transformers_version": "4.39.1",
        "type_vocab_size": 1,
        "unpad_inputs": False,
        "use_memory_efficient_attention": False,
    },
    "jina": {
        **_ENCODER,
        "num_attention_heads": 2,
        "architectures": ["JinaBertModel"],
        "attn_implementation": None,
        "auto_map": {"AutoConfig": "code.JinaBertConfig", "AutoModel": "code.JinaBertModel"},
        "emb_pooler": "mean",
        "feed_forward_type": "geglu",
        "gradient_checkpointing": False,
        "max_position_embeddings": 8192,
        "model_max_length": 8192,
        "model_type": "bert",
        "pad_token_id": 0,
        "position_embedding_type": "alibi",
        "torch_dtype": "float16",
        "transformers_version": "4.31.0",
        "type_vocab_size": 2,
        "use_cache": True,
    },
}
_ARCTIC = {"AutoConfig": "code.NewConfig", "AutoModel": "code.NewModel"}
CONFIGS["arctic"] = {**CONFIGS["gte"], "architectures": ["GteModel"], "model_type": "gte", "auto_map": _ARCTIC}
CONFIGS["arctic"] |= {"rope_scaling": None, "rope_theta": 160000, "torch_dtype": "float32"}

# name -> modules behind the Transformer, sentence_bert_config.json, config_sentence_transformers.json
LAYOUTS = {
    "qwen3": (["lasttoken", "Normalize"], None, {"prompts": {"query": _INSTRUCT, "document": ""}}),
    "gemma": (
        ["mean_tokens", (16, 40), (40, 16), "Normalize"],
        {"max_seq_length": 2048, "do_lower_case": False},
        {"model_type": "SentenceTransformer", "prompts": _PROMPTS_OF_GEMMA},
    ),
    "gte": (["cls_token", "Normalize"], {"max_seq_length": 8192, "do_lower_case": False}, {"prompts": {}}),
    "arctic": (
        ["cls_token", "Normalize"],
        {"max_seq_length": 8192, "do_lower_case": False},
        {"prompts": {"query": "query: "}},
    ),
    "jina": (
        ["mean_tokens"],
        {"max_seq_length": 8192, "do_lower_case": False, "model_args": {"trust_remote_code": True}},
        None,
    ),
}


# Rerankers, of which embedder's tokenizer: config.json has what a model for sequence classification adds
RERANKERS = {"gte-reranker": "gte", "jina-reranker": "jina"}
for _name, _of in RERANKERS.items():
    _class = CONFIGS[_of]["architectures"][0].replace("Model", "ForSequenceClassification")
    _code = {**CONFIGS[_of]["auto_map"], "AutoModelForSequenceClassification": f"code.{_class}"}
    _labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    CONFIGS[_name] = {**CONFIGS[_of], "architectures": [_class], "auto_map": _code, **_labels}


def calls(name):
    """What is asked of a directory: method, options."""
    asked = [("encode", {}), ("encode_query", {}), ("encode_document", {}), ("encode", {"truncate_dim": 8})]
    if name == "gemma":
        asked += [("encode", {"prompt_name": "STS"}), ("encode", {"prompt_name": "Retrieval-document"})]
    return [*asked, ("encode", {"prompt": "Instruct: find\nQuery:", "truncate_dim": 8, "normalize": True})]


def write_tokenizers(top):
    """The tokenizers' files, and how many tokens there are: name -> (folder, number)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    def finish(name, tokenizer, special, single, config):
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
        numbers = [(token, tokenizer.token_to_id(token)) for token in special]
        around = processors.TemplateProcessing(single=single, special_tokens=numbers)
        byte_level = processors.ByteLevel(trim_offsets=False)
        tokenizer.post_processor = processors.Sequence([byte_level, around]) if name == "qwen3" else around
        (top / name).mkdir()
        tokenizer.save(str(top / name / "tokenizer.json"))
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
        config["added_tokens_decoder"] = {str(i): {"content": token, **flags} for token, i in numbers}
        (top / name / "tokenizer_config.json").write_text(json.dumps(config))

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("q", "u"), ("Ġ", "d"), ("o", "g"), ("Ġd", "og")]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = [*special[:1], *letters, *(a + b for a, b in merges)]
    qwen = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges))
    qwen.normalizer, qwen.decoder = normalizers.NFC(), decoders.ByteLevel()
    qwen.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "additional_special_tokens": special[1:],
        "bos_token": None,
        "chat_template": "{%- for message in messages %}{{ message.content }}{%- endfor %}",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    finish("qwen3", qwen, special, "$A <|endoftext|>", config)

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    marks = sorted(set("".join(TEXTS) + _INSTRUCT + _SAME + "".join(_PROMPTS_OF_GEMMA.values())) - {" ", "東"})
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("o", "g"), ("d", "og"), ("▁", "dog")]
    vocabulary = [*special, *(f"<0x{i:02X}>" for i in range(256)), "▁", *marks, *(a + b for a, b in merges)]
    gemma = Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(vocabulary)},
            merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    gemma.normalizer = normalizers.Replace(" ", "▁")
    gemma.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    gemma.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    config = {
        "add_bos_token": True,
        "add_eos_token": True,
        "bos_token": "<bos>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<eos>",
        "extra_special_tokens": {},
        "mask_token": "<mask>",
        "model_max_length": 2048,
        "pad_token": "<pad>",
        "padding_side": "right",
        "sp_model_kwargs": None,
        "spaces_between_special_tokens": False,
        "tokenizer_class": "GemmaTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }
    finish("gemma", gemma, special, "<bos> $A <eos>", config)

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = [
        *special[:4],
        "▁",
        *(f"▁{x}" for x in ("the", "dog", "cat", "query", "on")),
        "og",
        "the",
        *marks,
        "<mask>",
    ]
    xlm = Tokenizer(models.Unigram([(x, -float(i) / 9) for i, x in enumerate(pieces)], unk_id=3))
    xlm.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    config = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), special, strict=False))
    config |= {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>", "clean_up_tokenization_spaces": True}
    config |= {"model_max_length": 32768, "tokenizer_class": "XLMRobertaTokenizer"}
    for name in ("gte", "arctic"):
        finish(name, xlm, special, "<s> $A </s>", dict(config))

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    signs = sorted(set("".join(TEXTS).lower()) - set(" ïü"))
    pieces = [*special, "the", "dog", "cat", "query", *signs, *(f"##{x}" for x in signs)]
    bert = Tokenizer(models.WordPiece({token: i for i, token in enumerate(pieces)}, unk_token="[UNK]"))
    bert.normalizer, bert.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    config = {f"{x[1:-1].lower()}_token": x for x in special} | {"do_lower_case": True, "model_max_length": 8192}
    config |= {"strip_accents": None, "tokenize_chinese_chars": True, "tokenizer_class": "BertTokenizer"}
    finish("jina", bert, special, "[CLS] $A [SEP]", config)
    return {name: Tokenizer.from_file(str(top / name / "tokenizer.json")).get_vocab_size() for name in LAYOUTS}


def write_model(name, folder, words):
    """config.json and model.safetensors, of random weights."""
    import torch
    import transformers

    from tests.data import remote_models

    config = CONFIGS[name] | {"vocab_size": words}
    values = {key: value for key, value in config.items() if key not in ("auto_map", "model_type", "torch_dtype")}
    classes = {"qwen3": transformers.Qwen3Model, "gemma": transformers.Gemma3TextModel}
    classes |= {"jina": remote_models.JinaBertModel, "gte-reranker": remote_models.NewForSequenceClassification}
    classes["jina-reranker"] = remote_models.JinaBertForSequenceClassification
    model_class = classes.get(name, remote_models.NewModel)
    model = model_class(model_class.config_class(**values))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                torch.randn_like(parameter) * 0.4 + (parameter.ndim == 1 and "emma" not in str(model_class))
            )
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))


def write_modules(name, folder):
    import torch

    modules, first, settings = LAYOUTS[name]
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for number, module in enumerate(modules, 1):
        kind = "Dense" if isinstance(module, tuple) else "Normalize" if module == "Normalize" else "Pooling"
        path = f"{number}_{kind}"
        listed.append(
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        )
        (folder / path).mkdir()
        if kind == "Pooling":
            values = {f"pooling_mode_{x}": x == module for x in _KINDS}
            values = {"word_embedding_dimension": 16, **values, "include_prompt": True}
        elif kind == "Dense":
            inputs, outputs = module
            values = {"in_features": inputs, "out_features": outputs, "bias": False}
            values["activation_function"] = "torch.nn.modules.linear.Identity"
            weight = torch.randn(outputs, inputs).numpy() * np.float32(0.2)
            save_file({"linear.weight": weight}, folder / path / "model.safetensors", {"format": "pt"})
        else:
            continue
        (folder / path / "config.json").write_text(json.dumps(values))
    (folder / "modules.json").write_text(json.dumps(listed))
    if first is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps(first))
    if settings is not None:
        versions = {"sentence_transformers": "5.1.0", "transformers": "4.57.0.dev0", "pytorch": "2.8.0"}
        settings = {"__version__": versions, "default_prompt_name": None, "similarity_fn_name": "cosine", **settings}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))


def scores(folder):
    from sentence_transformers import CrossEncoder

    options = {"trust_remote_code": True, "model_kwargs": {"dtype": "float32"}}
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True, **options)
    return model.predict([(TEXTS[2], text) for text in TEXTS if text], batch_size=2)


def answers(name, folder):
    from sentence_transformers import SentenceTransformer

    options = {"trust_remote_code": "auto_map" in CONFIGS[name], "model_kwargs": {"dtype": "float32"}}
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, **options)
    for method, given in calls(name):
        given = {("normalize_embeddings" if key == "normalize" else key): value for key, value in given.items()}
        yield getattr(model, method)(TEXTS, batch_size=3, **given)


def main():
    import torch

    logging.disable()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    top = Path(tempfile.mkdtemp())
    tensors, files, cases = {}, {}, {}
    words = write_tokenizers(top)
    for name in [*LAYOUTS, *RERANKERS]:
        folder = top / name
        if name in RERANKERS:
            shutil.copytree(
                top / RERANKERS[name], folder, ignore=lambda _, names: {x for x in names if "tokenizer" not in x}
            )
            write_model(name, folder, words[RERANKERS[name]])
        else:
            write_model(name, folder, words[name])
            write_modules(name, folder)
        files[name] = {}
        for file in sorted(x for x in folder.rglob("*") if x.is_file()):
            path = str(file.relative_to(folder))
            if file.suffix == ".json":
                files[name][path] = json.loads(file.read_text())
            elif file.suffix == ".safetensors":
                given = load_file(file)
                tensors |= {f"{name}/{path}/{key}": x for key, x in given.items()}
                files[name][path] = {key: f"{name}/{path}/{key}" for key in given}
        (folder / "code.py").write_text("from tests.data.remote_models import *\n")
        if name in RERANKERS:
            tensors[f"answer/{name}"] = scores(folder)
        else:
            asked = list(map(list, calls(name)))
            cases[name] = {"calls": asked, "answers": [f"{name} {i}" for i in range(len(asked))]}
            tensors |= {f"answer/{name} {i}": np.ascontiguousarray(x) for i, x in enumerate(answers(name, folder))}
        print(name)
    record = {"texts": TEXTS, "files": files, "cases": cases, "rerankers": [*RERANKERS]}
    (FOLDER / "embedders.json").write_text(json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n")
    save_file(tensors, FOLDER / "embedders.safetensors")
    shutil.rmtree(top)


if __name__ == "__main__":
    main()
