"""Small tokenizers of three kinds of vocabulary, as directories, and the settings that are tried beside each.

What their tokenizer.json says is not what transformers' classes say: it lower-cases, cuts the left end, and has a
template of its own. So it can be seen which of the two a class takes.
"""

import json

LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)]
WORDS = ["hello", "Hello", "world", "HELLO", "can", "not", "extra"]
SIGNS = [*"éöÉ中文fi.,?!'<>[]/_|", "é", *LETTERS, *(x.upper() for x in LETTERS)]
BRACKETS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ANGLES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>", "en_XX", "de_DE", "<extra_id_0>", "<ent>"]
MARK = "\N{LOWER ONE EIGHTH BLOCK}"
VOCAB_SIZE = 2**20  # of the model: all tokens pass
LONGEST = 7

# What is encoded, decoded, and cut to LONGEST tokens.
TEXTS = [
    "Hello wörld",
    "HELLO  É world , can n't !",
    "中文hello",
    "\ufb01nd",
    "hello <mask> [MASK]world</s> x",
    " Hello<ent>can <|endoftext|> a\nb",
    "de_DE hello <extra_id_0>hello <new> <img>",
    "\u2603",
    "",
]

# (model_type, tokenizer_class): the kind of its vocabulary. The first of each class is walked through all keys.
CLASSES = {
    ("bert", "BertTokenizer"): "WordPiece",
    ("mpnet", "MPNetTokenizer"): "WordPiece",
    ("roberta", "RobertaTokenizer"): "BPE",
    ("gpt2", "GPT2Tokenizer"): "BPE",
    ("qwen2", "Qwen2Tokenizer"): "BPE",
    ("llama", "LlamaTokenizer"): "Spaced",
    ("llama", "CodeLlamaTokenizer"): "Spaced",
    ("gemma3_text", "GemmaTokenizer"): "Byteless",
    ("xlm-roberta", "XLMRobertaTokenizer"): "Unigram",
    ("camembert", "CamembertTokenizer"): "Unigram",
    ("albert", "AlbertTokenizer"): "Unigram",
    ("t5", "T5Tokenizer"): "Unigram",
    ("mbart", "MBartTokenizer"): "Unigram",
    ("mbart", "MBart50Tokenizer"): "Unigram",
    ("bert", "PreTrainedTokenizerFast"): "WordPiece",
    ("t5", "PreTrainedTokenizerFast"): "Unigram",
    ("gpt2", "TokenizersBackend"): "BPE",
}
OTHER_CLASSES = {
    ("bert", None): "WordPiece",
    ("bert", "BertTokenizerFast"): "WordPiece",
    ("distilbert", "DistilBertTokenizer"): "WordPiece",
    ("distilbert", None): "WordPiece",
    ("electra", "ElectraTokenizerFast"): "WordPiece",
    ("bert", "LayoutLMTokenizerFast"): "WordPiece",
    ("bert", "LxmertTokenizer"): "WordPiece",
    ("bert", "MobileBertTokenizer"): "WordPiece",
    ("bert", "SqueezeBertTokenizerFast"): "WordPiece",
    ("roberta", "LEDTokenizer"): "BPE",
    ("roberta", "LongformerTokenizerFast"): "BPE",
    ("roberta", "MvpTokenizer"): "BPE",
    ("mpnet", None): "WordPiece",
    ("nomic_bert", "BertTokenizer"): "WordPiece",
    ("nomic_bert", None): "WordPiece",
    ("modernbert", "BertTokenizer"): "WordPiece",
    ("modernbert", "PreTrainedTokenizerFast"): "BPE",
    ("bert", "SomeTokenizer"): "WordPiece",
    ("roberta", None): "BPE",
    ("bart", "BartTokenizer"): "BPE",
    ("bart", "RobertaTokenizerFast"): "BPE",
    ("bart", None): "BPE",
    ("gpt2", None): "BPE",
    ("gpt2", "GPT2TokenizerFast"): "BPE",
    ("llama", "LlamaTokenizerFast"): "BPE",
    ("llama", "PreTrainedTokenizerFast"): "BPE",
    ("llama", None): "Spaced",
    ("mistral", "LlamaTokenizer"): "Spaced",
    ("mistral", None): "Spaced",
    ("qwen2", "PreTrainedTokenizerFast"): "BPE",
    ("qwen2", None): "BPE",
    ("qwen3", "Qwen2TokenizerFast"): "BPE",
    ("qwen3", "PreTrainedTokenizerFast"): "BPE",
    ("qwen3", None): "BPE",
    ("gemma3_text", "GemmaTokenizerFast"): "Spaced",
    ("gemma3_text", "PreTrainedTokenizerFast"): "Spaced",
    ("gemma3_text", None): "Spaced",
    ("albert", None): "Unigram",
    ("camembert", None): "Unigram",
    ("t5", "T5TokenizerFast"): "Unigram",
    ("mbart", None): "Unigram",
    ("mbart", "MBartTokenizerFast"): "Unigram",
    ("xlm-roberta", None): "Unigram",
    ("gte", None): "Unigram",
}

SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
ENT = {"content": "<ent>", "lstrip": True, "rstrip": True, "normalized": False, "single_word": False, "special": True}
ADDED = {"__type": "AddedToken", **ENT, "content": "<img>"}

# Values that are tried of each key; null is tried of all. "x.json" is a further file.
KEYS = {
    "do_lower_case": [False, True],
    "strip_accents": [True, False],
    "tokenize_chinese_chars": [False],
    "keep_accents": [True],
    "truncation_side": ["left", "right", "up"],
    "add_prefix_space": [True, False],
    "add_bos_token": [True],
    "add_eos_token": [True],
    "legacy": [True, False],
    "split_special_tokens": [True],
    "src_lang": ["de_DE", "fr_XX"],
    "tgt_lang": ["de_DE"],
    "model_max_length": [3],
    "max_length": [3],
    "max_len": [3],
    "stride": [1],
    "padding_side": ["left"],
    "pad_token_type_id": [1],
    "use_default_system_prompt": [True],
    "clean_up_tokenization_spaces": [True, False],
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": [True],
    "extra_special_tokens": [["<new>"], {"image_token": "<img>"}, []],
    "additional_special_tokens": [["<new>", "hello"], [ADDED], ["<extra_id_0>"]],
    "image_token": ["<img>"],
    "extra_ids": [0, 3],
    "added_tokens_decoder": [{"20": ENT}, {"7": {**ENT, "content": "<mask>"}, "999": {**ENT, "content": "<new>"}}],
    "errors": ["strict"],
    "trim_offsets": [False],
    "do_basic_tokenize": [False],
    "never_split": [["hello"]],
    "sp_model_kwargs": [{"enable_sampling": True}],
    "chat_template": ["{{ x }}"],
    "special_tokens_map.json": [
        {"mask_token": {"content": "<mask>", "lstrip": True}, "additional_special_tokens": ["<new>"]},
        {"unk_token": "hello"},
    ],
    "added_tokens.json": [{"<new>": 500}, {"hello": 3}],
} | {name: ["hello", "<new>"] for name in SPECIAL}


def cases():
    """(model_type, tokenizer_class, kind, settings): each key of each class alone, and pairs that belong together."""
    for (model_type, name), kind in (CLASSES | OTHER_CLASSES).items():
        yield model_type, name, kind, {}
        if (model_type, name) in CLASSES:
            for key, values in KEYS.items():
                for value in values if key.endswith(".json") else [None, *values]:  # type: ignore[attr-defined]
                    yield model_type, name, kind, {key: value}
            both = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
            yield model_type, name, kind, {"clean_up_tokenization_spaces": True, both: True}
            yield model_type, name, kind, {"do_lower_case": False, "strip_accents": True}
            yield model_type, name, kind, {"added_tokens_decoder": {}, "split_special_tokens": True}


def write_tokenizer(folder, model_type, name, kind, settings, charsmap):
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    if kind == "WordPiece":
        tokens = [*BRACKETS, *ANGLES, *WORDS, *dict.fromkeys(SIGNS), *(f"##{x}" for x in dict.fromkeys(SIGNS))]
        model = models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]")
        words, decoder, around = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(prefix="##"), ("[CLS]", "[SEP]")
    elif kind == "Unigram":
        pieces = [MARK, *(MARK + x for x in WORDS), *WORDS, *dict.fromkeys(SIGNS), "\ufb01", *BRACKETS]
        model = models.Unigram([(x, -float(i) / 9) for i, x in enumerate([*ANGLES, *pieces])], unk_id=3)
        mark = {"replacement": MARK, "prepend_scheme": "never"}
        words, decoder, around = pre_tokenizers.Metaspace(**mark), decoders.Metaspace(**mark), ("</s>", "<s>")
    else:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet()) if kind == "BPE" else [MARK, *dict.fromkeys(SIGNS)]
        space = "Ġ" if kind == "BPE" else MARK
        merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), (space, "hello"), (space, "w"), ("o", "r")]
        letters += [a + b for a, b in merges] + ([f"<0x{i:02X}>" for i in range(256)] if kind == "Spaced" else [])
        vocabulary = {token: i for i, token in enumerate([*ANGLES, *BRACKETS, *letters])}
        if kind == "BPE":
            model, decoder = models.BPE(vocabulary, merges), decoders.ByteLevel()
            words, around = pre_tokenizers.ByteLevel(add_prefix_space=True), ("</s>", "<s>")
        else:
            model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=False)
            mark = {"replacement": MARK, "prepend_scheme": "always", "split": True}
            words, decoder, around = pre_tokenizers.Metaspace(**mark), decoders.Metaspace(**mark), ("<s>", "</s>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Lowercase()
    if kind == "Unigram":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap), normalizers.Lowercase()])
    tokenizer.pre_tokenizer, tokenizer.decoder = words, decoder
    special = [(token, tokenizer.token_to_id(token)) for token in around]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{around[0]} $A {around[1]}", special_tokens=special
    )
    found = ["<mask>", "[MASK]", "</s>", "<ent>", "de_DE", "<|endoftext|>"]
    tokenizer.add_tokens([AddedToken(x, special=x != "<ent>") for x in found])
    tokenizer.enable_truncation(5, direction="left")
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {key: value for key, value in settings.items() if key.endswith(".json")}
    settings = {key: value for key, value in settings.items() if not key.endswith(".json")}
    for file, values in files.items():
        (folder / file).write_text(json.dumps(values))
    if name is not None:
        settings = {"tokenizer_class": name} | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
