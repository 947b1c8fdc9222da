"""Records what sentence-transformers makes of directories, for tests/tasks/test_sentence_directories.py.

Run with torch, transformers and sentence-transformers installed: python -m tests.data.record_sentence

sentence.json has the files of small directories, changes of them, and calls; sentence.safetensors their weights, by the
names that files of weights have there for their tensors, and what sentence-transformers gave, by number. A call that
failed has no number; a directory that was not read has no answers at all.
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
TEXTS = ["the cat sat on a mat", "", "Find the root: query!", "dog", "passage: " + "the dog ran " * 9]
WORDS = ["the", "cat", "dog", "sat", "ran", "on", "a", "mat", "root", "find", "query", "passage", ":", "!", "##s"]
BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
DENSE = "torch.nn.modules.activation."


def make_bases(top):
    """Directories as today's libraries write them, name -> folder."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.base.modules import Transformer as Model
    from sentence_transformers.sentence_transformer import modules as st
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(0)
    plain = {"bert": plain_bert(top / "plain-bert", transformers)}
    sizes = {"vocab_size": len(BERT_WORDS), "hidden_size": 16, "num_attention_heads": 2, "initializer_range": 0.4}
    sizes |= {"num_hidden_layers": 1, "intermediate_size": 20, "max_position_embeddings": 32}
    near = {"num_hidden_layers": 2, "sliding_window": 4, "num_key_value_heads": 1}
    gpt2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "n_inner": 20, "bos_token_id": 0}
    kinds = {
        "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig(**sizes, num_key_value_heads=1)),
        "mistral": (transformers.MistralForCausalLM, transformers.MistralConfig(**(sizes | near))),
        "qwen2": (
            transformers.Qwen2Model,
            transformers.Qwen2Config(**(sizes | {"vocab_size": 32}), num_key_value_heads=2),
        ),
        "gpt2": (
            transformers.GPT2LMHeadModel,
            transformers.GPT2Config(vocab_size=20, initializer_range=0.4, eos_token_id=0, **gpt2),
        ),
        "t5 with decoder": (
            transformers.T5ForConditionalGeneration,
            transformers.T5Config(
                vocab_size=20,
                d_model=16,
                d_kv=8,
                d_ff=20,
                num_layers=1,
                num_heads=2,
                relative_attention_num_buckets=8,
                feed_forward_proj="gated-gelu",
            ),
        ),
        "t5": (
            transformers.T5EncoderModel,
            transformers.T5Config(
                vocab_size=20, d_model=16, d_kv=8, d_ff=20, num_layers=1, num_heads=2, relative_attention_num_buckets=8
            ),
        ),
    }
    for name, (model, config) in kinds.items():
        plain[name] = top / f"plain-{name}"
        made = model(config)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.4)
        made.save_pretrained(plain[name])
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(BERT_WORDS)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A [SEP]" if name.startswith("t5") else "[CLS] $A", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        fast = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", eos_token="[SEP]", model_max_length=24
        )
        if name == "qwen2":  # transformers makes its pre-tokenizer anew
            letters = ["[PAD]", "[SEP]", *sorted(set("".join(TEXTS)) - {" "}), "\u0120"]
            tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
            fast = transformers.Qwen2Tokenizer(
                vocab=tokenizer.get_vocab(), merges=[], pad_token="[PAD]", eos_token="[SEP]", unk_token=None
            )
            fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
                single="$A [SEP]", special_tokens=[("[SEP]", 1)]
            )
        fast.save_pretrained(plain[name])

    bases = {name: folder for name, folder in plain.items() if name != "bert"}

    def save(name, *modules, **settings):
        bases[name] = top / name
        SentenceTransformer(modules=list(modules), **settings).save(str(bases[name]), create_model_card=False)

    def bert():
        return Model(str(plain["bert"]))

    bases["plain"] = plain["bert"]
    save("mean", bert(), st.Pooling(16))
    prompts = {"query": "query: ", "passage": "passage: the "}
    dense = [Dense(48, 12, activation_function=torch.nn.GELU()), Dense(12, 12, bias=False, use_residual=True)]
    poolings = st.Pooling(16, ("cls", "mean", "max"), include_prompt=False)
    save("many", bert(), poolings, *dense, st.Dropout(0.5), st.LayerNorm(12), Normalize(), prompts=prompts)
    tokens = Dense(16, 8, module_input_name="token_embeddings"), Normalize(module_input_name="token_embeddings")
    save("tokens", bert(), *tokens, st.Pooling(8, "weightedmean"), truncate_dim=5, similarity_fn_name="dot")
    words = {word: i for i, word in enumerate(BERT_WORDS)}
    static = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    static.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    static.post_processor = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 3)])
    static.enable_truncation(7)
    save("static", st.StaticEmbedding(static, embedding_dim=8), Normalize(), prompts=prompts)
    table = np.random.default_rng(0).standard_normal((len(WORDS), 8)).astype(np.float32)
    table = st.WordEmbeddings(WhitespaceTokenizer(WORDS, {"on", "a"}, do_lower_case=False), table, max_seq_length=8)
    save("words", table, st.Pooling(8, ("mean", "weightedmean")), Dense(16, 4))
    return bases


def plain_bert(folder, transformers):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
    config = transformers.BertConfig(
        vocab_size=len(BERT_WORDS), max_position_embeddings=32, initializer_range=0.4, **sizes
    )
    transformers.BertModel(config).save_pretrained(folder)
    vocabulary = {word: i for i, word in enumerate(BERT_WORDS)}
    transformers.BertTokenizer(vocab=vocabulary, do_lower_case=False, model_max_length=24).save_pretrained(folder)
    return folder


def calls():
    """What is asked of a base: method, options."""
    prompts = [("encode", {}), ("encode_query", {}), ("encode_document", {}), ("encode", {"prompt": "find the "})]
    return [*prompts, ("encode", {"truncate_dim": 3}), ("encode", {"normalize": True, "truncate_dim": 3})]


OLD = {"word_embedding_dimension": 16, "pooling_mode_cls_token": False, "pooling_mode_max_tokens": False}
POOLING, SETTINGS, FIRST = "1_Pooling/config.json", "config_sentence_transformers.json", "sentence_bert_config.json"
CONFIG, TOKENIZER = "config.json", "tokenizer_config.json"
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
ACTIVATIONS = ("ELU", "GELU", "Hardtanh", "LeakyReLU", "Mish", "ReLU", "ReLU6", "SiLU", "Sigmoid", "Softplus")


def changes():
    """name -> base, changes of its files: None, not there; a dict, of its keys, or without them; a list, all of it."""
    new, old = [], []
    for mode in MODES:
        for include in (True, False):
            new.append({"pooling_mode": mode, "include_prompt": include})
    new += [{"pooling_mode": ["lasttoken", "mean", "mean"]}, {"pooling_mode": ["cls"]}, {"pooling_mode": []}]
    new += [{"pooling_mode": value} for value in ("ABSENT", None, "Mean", 1, "weightedmean_tokens", ["cls", "sum"])]
    new += [{"include_prompt": value} for value in ("ABSENT", None, 0, "no")]
    new += [{"embedding_dimension": value} for value in ("ABSENT", 7)] + [{"surplus": 1}]
    for keys in (
        {},
        {"pooling_mode_mean_tokens": True},
        {"pooling_mode_cls_token": True},
        {"pooling_mode_mean_sqrt_len_tokens": True, "pooling_mode_max_tokens": True},
        {"pooling_mode_lasttoken": True, "pooling_mode_weightedmean_tokens": True, "pooling_mode_mean_tokens": True},
        {"pooling_mode_max_tokens": True, "include_prompt": False},
        {"pooling_mode_mean_tokens": True, "pooling_mode": "cls"},
        {"pooling_mode_mean_tokens": None},
        {"pooling_mode_mean_tokens": 1},
    ):
        old.append([OLD | keys])
    found = {f"pooling {value}": ("mean", {POOLING: value}) for value in [*new, *old]}

    names = [f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Normalize")]
    listed = [
        {"idx": i, "name": str(i), "path": p, "type": t}
        for i, (p, t) in enumerate(zip(("", "1_Pooling", "2_Normalize"), names, strict=True))
    ]
    found["old modules"] = ("mean", {"modules.json": [listed], FIRST: [{"max_seq_length": 7, "do_lower_case": False}]})
    found["module of others"] = ("mean", {"modules.json": [[*listed[:1], {**listed[1], "type": "custom.Pooling"}]]})
    found["normalize, pooling"] = ("mean", {"modules.json": [[listed[0], listed[2], listed[1]]]})
    found["pooling twice"] = ("mean", {"modules.json": [[*listed, {**listed[1], "idx": 3, "name": "3"}]]})
    found["same names"] = (
        "mean",
        {"modules.json": [[listed[0], {**listed[1], "name": "1"}, {**listed[2], "name": "1"}]]},
    )
    found["no pooling"] = ("mean", {"modules.json": [listed[:1]]})

    values = {
        "prompts": [
            "ABSENT",
            None,
            {},
            {"query": "the "},
            {"passage": "the cat "},
            {"document": "a ", "query": None},
            {"x": 1},
        ],
        "default_prompt_name": ["ABSENT", None, "query", "passage", "document", "nobody", 1],
        "similarity_fn_name": ["ABSENT", None, "dot", "euclidean", "manhattan", "maxsim"],
        "truncate_dim": ["ABSENT", None, 3, 100, "3"],
        "model_type": ["ABSENT", None, "SparseEncoder", "CrossEncoder"],
        "__version__": ["ABSENT"],
        "surplus": [1],
    }
    for key, options in values.items():
        found |= {f"settings {key} {x!r}": ("many", {SETTINGS: {key: x}}) for x in options}  # type: ignore[attr-defined]
    found["no settings"] = ("many", {SETTINGS: None})

    values = {
        "max_seq_length": ["ABSENT", None, 6, 30, 10**30, "6", 0],
        "do_lower_case": ["ABSENT", None, True, False],
        "transformer_task": ["ABSENT", "fill-mask", "text-generation"],
        "modality_config": [
            "ABSENT",
            {"text": {"method": "forward", "method_output_name": "pooler_output"}},
            {"message": {"method": "forward", "method_output_name": "last_hidden_state", "format": "flat"}},
        ],
        "module_output_name": ["ABSENT", "sentence_embedding"],
        "unpad_inputs": [None, True, False],
        "processing_kwargs": [
            None,
            {},
            {"text": {"max_length": 5}},
            {"text": {"truncation": True, "padding": "longest"}},
            {"text": {"add_special_tokens": False}},
            {"text": {"truncation": False}},
            {"common": {"return_tensors": "pt"}},
            {"chat_template": {"add_generation_prompt": True}},
            {"image": {"do_resize": False}},
        ],
        "query_length": [None, 4],
        "document_length": [4],
        "query_expansion": [None],
        "tokenizer_args": [{}, {"model_max_length": 5}, {"truncation_side": "left"}, {"use_fast": True}],
        "processor_kwargs": [{"model_max_length": 5}],
        "model_args": [{}, {"torch_dtype": "float32"}, {"attn_implementation": "eager"}, {"num_hidden_layers": 0}],
        "config_args": [{}, {"num_hidden_layers": 0}, {"use_cache": True}],
        "surplus": [1],
    }
    for key, options in values.items():
        found |= {f"first {key} {x!r}": ("mean", {FIRST: {key: x}}) for x in options}  # type: ignore[attr-defined]
    for kind in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"):
        name = f"sentence_{kind}_config.json"
        found[name] = ("mean", {FIRST: None, name: [{"max_seq_length": 6, "do_lower_case": True}]})
    found["two files of settings"] = ("mean", {FIRST: [{}], "sentence_roberta_config.json": [{"max_seq_length": 6}]})
    found["second file not read"] = ("mean", {"sentence_roberta_config.json": [{"max_seq_length": 6}]})
    found["no file of settings"] = ("mean", {FIRST: None})
    for length in ("ABSENT", None, 7, 100, 10**30, 1e30, 7.0, "7"):
        found[f"tokenizer {length!r}"] = ("mean", {TOKENIZER: {"model_max_length": length}})
    found["tokenizer max_len"] = ("mean", {TOKENIZER: {"model_max_length": "ABSENT", "max_len": 7}})
    found["both lengths"] = ("mean", {TOKENIZER: {"model_max_length": 7}, FIRST: {"max_seq_length": 9}})

    values = {
        "activation_function": ["ABSENT", None, "torch.nn.modules.linear.Identity", "torch.nn.Tanh", "torch.nn.ReLU"]
        + [
            "torch.tanh",
            "custom.Tanh",
            "transformers.activations.GELUActivation",
            "torch.nn.modules.activation.Softmin",
        ]
        + [f"{DENSE}{name}" for name in (*ACTIVATIONS, "Softsign", "Tanh")],
        "bias": ["ABSENT", None, False],
        "in_features": ["ABSENT", 47],
        "out_features": ["ABSENT", 11],
        "module_input_name": ["ABSENT", None, "token_embeddings", "other"],
        "module_output_name": ["ABSENT", None, "token_embeddings", "other"],
        "use_residual": ["ABSENT", None, True],
        "surplus": [1],
    }
    for key, options in values.items():
        found |= {f"dense {key} {x!r}": ("many", {"2_Dense/config.json": {key: x}}) for x in options}  # type: ignore[attr-defined]
    found["residual off"] = ("many", {"3_Dense/config.json": {"use_residual": False}})
    found |= {f"norm {x!r}": ("many", {"5_LayerNorm/config.json": {"dimension": x}}) for x in ("ABSENT", 11)}
    for key in ("module_input_name", "module_output_name"):
        for x in ("ABSENT", None, "token_embeddings", "other"):
            found[f"normalize {key} {x!r}"] = ("many", {"6_Normalize/config.json": {key: x}})
    found["no normalize"] = ("many", {"6_Normalize/config.json": None})
    found["no dropout"] = ("many", {"4_Dropout/config.json": {"dropout": "ABSENT"}})

    for length in ("ABSENT", None, 3, "3"):
        found[f"words max_seq_length {length!r}"] = ("words", {"wordembedding_config.json": {"max_seq_length": length}})
    lower = {"do_lower_case": True, "stop_words": ["the"]}
    found["words lower"] = ("words", {"whitespacetokenizer_config.json": lower})
    twice = {"vocab": [*WORDS[:-2], "", "the"]}
    found["words twice"] = ("words", {"whitespacetokenizer_config.json": twice})
    found["words of phrases"] = (
        "words",
        {"wordembedding_config.json": {"tokenizer_class": "sentence_transformers.models.tokenizer.PhraseTokenizer"}},
    )
    for architectures in ("ABSENT", None, [], ["BertModel"], ["BertForCausalLM"]):
        found[f"plain architectures {architectures!r}"] = ("plain", {CONFIG: {"architectures": architectures}})
    found["plain settings"] = ("plain", {SETTINGS: [{"default_prompt_name": "query", "prompts": {"query": "the "}}]})
    found["plain length"] = ("plain", {FIRST: [{"max_seq_length": 5}]})
    for name in ("llama", "qwen2", "gpt2"):
        found[f"{name} both ways"] = (name, {CONFIG: {"is_causal": False}})
        found[f"{name} named"] = (name, {CONFIG: {"architectures": [f"{name.title()}ForCausalLM"]}})
    for name in ("llama", "qwen2", "plain"):
        for mode in ("lasttoken", "weightedmean"):
            pooling = [{"embedding_dimension": 16, "pooling_mode": mode, "include_prompt": False}]
            found[f"prompt {name} {mode}"] = (name, {"modules.json": [listed[:2]], POOLING: pooling})
    found["static cut from the left"] = ("static", {"tokenizer.json": {"truncation": truncation("Left", 5)}})
    found["static whole"] = ("static", {"tokenizer.json": {"truncation": None}})
    return found


def truncation(direction, length):
    return {"direction": direction, "max_length": length, "strategy": "LongestFirst", "stride": 0}


def changed(folder, other, differences):
    """A directory with changes, beside."""
    shutil.copytree(folder, other)
    for name, change in differences.items():
        file = other / name
        if change is None:
            file.unlink()
            continue
        value = change[0] if isinstance(change, list) else json.loads(file.read_text()) | change
        if isinstance(change, dict):
            value = {key: x for key, x in value.items() if x != "ABSENT"}
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(value))
    return other


def answers(folder, asked):
    """What sentence-transformers gives for each call, and its length; None for what it refuses."""
    from sentence_transformers import SentenceTransformer

    given = []
    try:
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    except Exception:
        return None
    for method, options in asked:
        options = dict(options)
        normalize = options.pop("normalize", False)
        try:
            vectors = getattr(model, method)(TEXTS, normalize_embeddings=normalize, batch_size=2, **options)
            given.append(vectors if np.isfinite(vectors).all() else None)
        except Exception:
            given.append(None)
    return given


def main():
    import torch
    import transformers

    logging.disable()
    warnings.simplefilter("ignore")
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    top = Path(tempfile.mkdtemp())
    bases = make_bases(top)
    tensors, unique, files, cases = {}, [], {}, {}

    def number(vectors):
        if vectors is None:
            return None
        for i, other in enumerate(unique):
            if other.shape == vectors.shape and abs(other - vectors).max() < 1e-6:
                return i
        unique.append(vectors)
        return len(unique) - 1

    def stored(name, tensor):
        """The name of a tensor, or of one that is the same."""
        for other, x in tensors.items():
            if x.shape == tensor.shape and (x == tensor).all():
                return other
        while name in tensors:
            name += "'"
        tensors[name] = tensor
        return name

    for name, folder in bases.items():
        files[name] = {}
        for file in sorted(x for x in folder.rglob("*") if x.is_file()):
            path = str(file.relative_to(folder))
            if file.suffix == ".json":
                files[name][path] = json.loads(file.read_text())
            elif file.suffix == ".safetensors":
                files[name][path] = {key: stored(f"{name}/{key}", x) for key, x in load_file(file).items()}
        asked = calls()
        cases[name] = {"base": name, "changes": {}, "calls": list(map(list, asked))}
        cases[name]["answers"] = list(map(number, answers(folder, asked)))
    for i, (name, (base, differences)) in enumerate(changes().items()):
        asked = [("encode", {}), ("encode_query", {}), ("encode_document", {})]
        asked += [("encode", {"prompt": "find the "})] * ("pooling" in name or "first" in name)
        if name.startswith("prompt "):
            asked += [("encode", {"prompt": x}) for x in ("  ", "find [SEP]", "find zzz", "[MASK]", "the", "cat: ")]
        folder = changed(bases[base], top / f"changed{i}", differences)
        given = answers(folder, asked)
        cases[name] = {"base": base, "changes": differences, "calls": list(map(list, asked))}
        cases[name]["answers"] = None if given is None else list(map(number, given))
    tensors |= {f"answer/{i}": np.ascontiguousarray(vectors) for i, vectors in enumerate(unique)}
    record = {"texts": TEXTS, "files": files, "cases": cases}
    (FOLDER / "sentence.json").write_text(json.dumps(record, indent=None, separators=(",", ":")) + "\n")
    save_file(tensors, FOLDER / "sentence.safetensors")
    shutil.rmtree(top)
    print(len(cases), "cases,", len(unique), "answers;", sum(x["answers"] is None for x in cases.values()), "refused")


if __name__ == "__main__":
    main()
