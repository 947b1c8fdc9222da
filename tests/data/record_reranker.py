"""Records what sentence-transformers' CrossEncoder makes of directories, for tests/tasks/test_reranker.py.

Run with torch, transformers and sentence-transformers installed: python -m tests.data.record_reranker

reranker.json has the files of small directories, the scores that CrossEncoder gave for PAIRS, and the tokens that
AutoTokenizer made of pairs; reranker.safetensors has the weights, in float16.
"""

import json
import shutil
import tempfile
import warnings
from pathlib import Path

from safetensors.numpy import load_file, save_file

FOLDER = Path(__file__).parent
WORDS = ["the", "cat", "dog", "sat", "ran", "on", "a", "mat", "root", "find", "?", "!"]
BRACKETS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MARK = "\N{LOWER ONE EIGHTH BLOCK}"
PAIRS = [
    ("find the cat", "the cat sat on a mat"),
    ("find the cat", "the dog ran " * 12),  # the second is cut
    ("the root ! " * 9, "a dog"),  # the first
    ("the cat on a mat ? " * 4, "find the root " * 5),  # both
    ("", "dog"),
    (" Find  THE root?", ""),
    ("", ""),
    ("dog", "cat"),
    ("the dog [SEP] </s> ran", "zzz\ncat"),
    ("find the cat", "a mat"),
]
DOCUMENTS = ["the cat sat on a mat", "the dog ran " * 12, "", "a mat", "the root", "dog"]
# (model_type, tokenizer_class), whose pairs are recorded: those of families that classify, and others' templates
CLASSES = [
    ("bert", "BertTokenizer", "WordPiece"),
    ("bert", None, "WordPiece"),
    ("bert", "DistilBertTokenizer", "WordPiece"),
    ("bert", "PreTrainedTokenizerFast", "WordPiece"),
    ("electra", "ElectraTokenizerFast", "WordPiece"),
    ("nomic_bert", None, "WordPiece"),
    ("mpnet", "MPNetTokenizer", "WordPiece"),
    ("modernbert", "PreTrainedTokenizerFast", "BPE"),
    ("roberta", "RobertaTokenizer", "BPE"),
    ("xlm-roberta", "XLMRobertaTokenizer", "Unigram"),
    ("camembert", "CamembertTokenizer", "Unigram"),
    ("albert", "AlbertTokenizer", "Unigram"),
]
_PICK = '{{%- set {0} = messages | selectattr("role", "eq", "{1}") | map(attribute="content") | first'
TEMPLATE = (  # as Qwen3-Reranker's, with fewer words
    _PICK.format("instruction", "system")
    + ' | default("Judge the search") -%}\n'
    + _PICK.format("query_text", "query")
    + " -%}\n"
    + _PICK.format("document_text", "document")
    + " -%}\n<|im_start|>system\nSay yes or no.<|im_end|>\n<|im_start|>user\n<I>: {{ instruction }}\n"
    + "<Q>: {{ query_text }}\n<D>: {{ document_text }}<|im_end|>\n<|im_start|>assistant\n\n\n"
)
WEIGHTS = {"saved": "bert", "modular": "bert", "qwen3-saved": "qwen3-untied"}  # of directories that have another's
SHORT = dict.fromkeys(("qwen3", "qwen3-untied", "qwen3-saved"), 90)  # a length at which pairs are cut; else 11
PROMPTED = {"modular": "find ", "qwen3": "Is it so?", "qwen3-saved": "Find it."}  # prompts
SETTINGS = [{}, {"model_input_names": ["input_ids", "token_type_ids"]}, {"model_input_names": ["input_ids"]}]
SETTINGS += [{"truncation_side": "left"}]
TEXTS = [("Hello world", "can"), ("", "hello"), ("HELLO é, world can't", "hello hello"), ("can", "hello world, can't!")]
LONGEST = 9


def make_bases(top):
    """Directories as today's libraries write them, name -> folder."""
    import torch
    import transformers
    from sentence_transformers import CrossEncoder
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
    sizes["pad_token_id"] = 0
    words = {word: i for i, word in enumerate([*BRACKETS, *WORDS])}
    plain = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    plain.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {f"{name[1:-1].lower()}_token": name for name in BRACKETS}
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *(MARK + word for word in WORDS), MARK, *WORDS, "<mask>"]
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet())[:100], "Ġ"]
    bytes_ = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters])}
    tokenizers = {
        "bert": transformers.BertTokenizer(vocab=words, model_max_length=24),
        "modernbert": transformers.PreTrainedTokenizerFast(tokenizer_object=plain, model_max_length=20, **named),
        "xlm-roberta": transformers.XLMRobertaTokenizer(
            vocab=[(x, -float(i) / 9) for i, x in enumerate(pieces)], model_max_length=30
        ),
        "roberta": transformers.RobertaTokenizer(vocab=bytes_, merges=[], model_max_length=30),
    }
    longer = {"vocab_size": len(pieces), "pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 32}
    tokens = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    configs = {
        "bert": transformers.BertConfig(vocab_size=len(words), max_position_embeddings=32, num_labels=1, **sizes),
        "modernbert": transformers.ModernBertConfig(
            vocab_size=len(words),
            max_position_embeddings=32,
            num_labels=1,
            local_attention=8,
            classifier_pooling="mean",
            **sizes,
            **tokens,
        ),
        "xlm-roberta": transformers.XLMRobertaConfig(num_labels=1, **(sizes | longer)),
        "roberta": transformers.RobertaConfig(num_labels=3, **(sizes | longer | {"vocab_size": len(bytes_)})),
    }
    configs["modernbert"].sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
    configs["xlm-roberta"].sbert_ce_default_activation_function = "torch.nn.modules.activation.Sigmoid"
    bases = {name: top / name for name in configs}
    for name, config in configs.items():
        model = transformers.AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                centre = float(parameter.ndim == 1 and parameter.mean() == 1)  # of norms
                parameter.copy_((centre + torch.randn_like(parameter) * 0.4).half())  # so that files are small
        model.save_pretrained(bases[name])
        tokenizers[name].save_pretrained(bases[name])
    bases["saved"] = top / "saved"  # with a modules.json
    encoder = CrossEncoder(str(bases["bert"]), max_length=16, activation_fn=torch.nn.Identity())
    encoder.save(str(bases["saved"]), create_model_card=False)
    return bases | make_modular(top, bases["bert"]) | make_prompted(top)


def make_modular(top, base):
    """An encoder, and modules that make scores."""
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    torch.manual_seed(1)
    modules = [
        Transformer(str(base), max_seq_length=20),
        Pooling(16, pooling_mode="cls"),
        Dense(16, 12, activation_function=torch.nn.GELU()),
        LayerNorm(12),
        Dense(12, 1, activation_function=torch.nn.Identity(), module_output_name="scores"),
    ]
    for module in modules[1:]:
        for parameter in module.parameters():
            parameter.data.copy_((torch.randn_like(parameter) * 0.4 + (parameter.ndim == 1)).half())
    folder = top / "modular"
    encoder = CrossEncoder(modules=modules, prompts={"web": "find ", "none": ""})
    encoder.save(str(folder), create_model_card=False)
    return {"modular": folder}


def make_prompted(top):
    """Models of language: without a modules.json, tied and not, and with a LogitScore of one token."""
    import torch
    import transformers
    from sentence_transformers import CrossEncoder
    from tokenizers import pre_tokenizers

    torch.manual_seed(2)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*letters, "ye", "yes", "no", "<|im_start|>", "<|im_end|>"])}
    tokenizer = transformers.Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[("y", "e"), ("ye", "s"), ("n", "o")],
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token=None,
        model_max_length=180,
        padding_side="left",
    )
    tokenizer.chat_template = TEMPLATE
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"head_dim": 8, "intermediate_size": 20, "max_position_embeddings": 512, "vocab_size": len(vocabulary)}
    bases = {}
    for name, tied in (("qwen3", True), ("qwen3-untied", False)):
        config = transformers.Qwen3Config(tie_word_embeddings=tied, pad_token_id=len(vocabulary) - 1, **sizes)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                centre = float(parameter.ndim == 1)  # of norms
                parameter.copy_((centre + torch.randn_like(parameter) * 0.4).half())
        bases[name] = top / name
        model.save_pretrained(bases[name])
        tokenizer.save_pretrained(bases[name])
    bases["qwen3-saved"] = top / "qwen3-saved"
    encoder = CrossEncoder(str(bases["qwen3-untied"]), prompts={"web": "Find it."}, activation_fn=torch.nn.Identity())
    encoder[1].false_token_id = None
    encoder.save(str(bases["qwen3-saved"]), create_model_card=False)
    return bases


def answers(folder):
    """What CrossEncoder gives for PAIRS and DOCUMENTS."""
    import torch
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(str(folder))
    given = {
        "scores": encoder.predict(PAIRS),
        "logits": encoder.predict(PAIRS, activation_fn=torch.nn.Identity()),
        "one": encoder.predict(PAIRS[0]),
        "short": CrossEncoder(str(folder), max_length=SHORT.get(folder.name, 11)).predict(PAIRS),
    }
    if encoder.num_labels > 1:
        given["softmax"] = encoder.predict(PAIRS, apply_softmax=True)
    if folder.name in PROMPTED:
        given["prompted"] = encoder.predict(PAIRS, prompt=PROMPTED[folder.name])
    values = {name: x.astype(float).round(7).tolist() for name, x in given.items()}
    if encoder.num_labels == 1:
        values["rank"] = encoder.rank("find the cat", DOCUMENTS, return_documents=True)
        values["top"] = encoder.rank("find the cat", DOCUMENTS, top_k=2)
    return values | {"length": encoder.max_seq_length}


def pairs_of_classes(top):
    """The tokens of pairs, and their types where the tokenizer gives them, for each of CLASSES and SETTINGS."""
    import base64

    from transformers import AutoTokenizer

    from tests.support.tiny_tokenizers import write_tokenizer

    charsmap = base64.b64decode(json.loads((FOLDER / "tokenizers.json").read_text())["charsmap"])
    found = []
    for kind in CLASSES:
        for settings in SETTINGS:
            folder = Path(tempfile.mkdtemp(dir=top))
            write_tokenizer(folder, *kind, settings, charsmap)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            given = [tokenizer(*pair, truncation="longest_first", max_length=LONGEST) for pair in TEXTS]
            found.append([[x["input_ids"], x.get("token_type_ids")] for x in given])
    return found


def main():
    warnings.filterwarnings("ignore")
    top = Path(tempfile.mkdtemp())
    cases, tensors = {}, {}
    for name, folder in make_bases(top).items():
        files = {}
        for file in sorted(x for x in folder.rglob("*") if x.is_file()):
            path = str(file.relative_to(folder))
            if file.suffix == ".json":
                files[path] = json.loads(file.read_text())
            elif file.suffix == ".jinja":
                files[path] = file.read_text()
            elif name not in WEIGHTS or file.parent != folder:  # else those of another
                at = "" if file.parent == folder else f"{file.parent.name}/"
                tensors |= {f"{name}/{at}{key}": x.astype("float16") for key, x in load_file(file).items()}
        cases[name] = {"weights": WEIGHTS.get(name, name), "files": files, "answers": answers(folder)}
    record = {"pairs": PAIRS, "documents": DOCUMENTS, "cases": cases, "classes": pairs_of_classes(top)}
    (FOLDER / "reranker.json").write_text(json.dumps(record, separators=(",", ":")) + "\n")
    save_file(tensors, FOLDER / "reranker.safetensors")
    shutil.rmtree(top)


if __name__ == "__main__":
    main()
