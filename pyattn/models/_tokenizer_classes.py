"""tokenizer_config.json: what it, and the class that it names, make of the tokenizer in tokenizer.json.

Transformers takes of tokenizer.json what its class does not make itself: BertTokenizer, say, takes the vocabulary
alone, and makes the normalizer from `do_lower_case`. Here as there, a directory's settings win over tokenizer.json: a
text becomes the tokens that AutoTokenizer (transformers 5.24) makes of it. Where there is no tokenizer_config.json,
nothing is told: tokenizer.json is then taken as it stands.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyattn._extras import import_extra
from pyattn.models._files import read_json
from pyattn.models._tokenizer_settings import TOKEN_NAMES, Settings, content_of

MOST_ADDED = 50_000  # tokens that settings may add, for each costs a comparison with all others

# Codes of mBART's languages; the first 25 are those of its first models, the others came with mBART-50.
LANGUAGES = [
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT", "ja_XX",
    "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN",
    "zh_CN", "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL", "hr_HR", "id_ID", "ka_GE", "km_KH", "mk_MK", "ml_IN",
    "mn_MN", "mr_IN", "pl_PL", "ps_AF", "pt_XX", "sv_SE", "sw_KE", "ta_IN", "te_IN", "th_TH", "tl_XX", "uk_UA",
    "ur_PK", "xh_ZA", "gl_ES", "sl_SI",
]  # fmt: skip

_TOKEN = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What clean_up_tokenization_spaces replaces in a decoded text, in this order.
CLEANED = {" .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'", " n't": "n't"}
CLEANED |= {f" '{end}": f"'{end}" for end in ("m", "s", "ve", "re")}
_MARK = "\N{LOWER ONE EIGHTH BLOCK}"
_RARE = "\U0010fffd"  # for private use: no vocabulary has it

# The class that transformers gives a model whose directory names none; others take tokenizer.json as it stands.
_OF_MODELS = {
    "albert": "Albert",
    "bart": "Roberta",
    "bert": "Bert",
    "camembert": "Camembert",
    "distilbert": "Bert",
    "electra": "Bert",
    "gpt2": "GPT2",
    "mbart": "MBart",
    "mpnet": "MPNet",
    "nomic_bert": "Bert",
    "qwen2": "Qwen2",
    "roberta": "Roberta",
    "t5": "T5",
    "whisper": "Whisper",
    "xlm-roberta": "XLMRoberta",
}
_AS_IT_STANDS = ("mistral", "modernbert")  # whatever class their directories name
_ALIASES = dict.fromkeys(("DistilBert", "Electra", "LayoutLM", "Lxmert", "MobileBert", "SqueezeBert"), "Bert")
_ALIASES |= dict.fromkeys(("Bart", "LED", "Longformer", "Mvp"), "Roberta")

# Classes of transformers 5.24 that make parts of their own, which are not made here.
_NOT_MADE = (
    "Barthez Bartpho BertGeneration BertJapanese Bertweet BigBird BioGpt BlenderbotSmall Blenderbot ByT5 CLIP "
    "CTRL Canine Clvp CodeGen Cohere CpmAnt Cpm DPRContextEncoder DPRQuestionEncoder DPRReader Deberta DebertaV2 "
    "Dia Esm Esmc FSMT FastSpeech2Conformer Flaubert Funnel GPTNeoXJapanese GPTNeoX GPTSw3 Gemma Herbert Lasr "
    "LayoutLMv2 LayoutLMv3 LayoutXLM Luke M2M100 MLuke MarkupLM Mgpstr MyT5 Nllb Nougat OpenAIGPT PLBart Pegasus "
    "Perceiver Phobert ProphetNet Qwen3_5 Reformer RemBert RoCBert RoFormer SeamlessM4T Siglip2 Siglip "
    "Speech2Text SpeechT5 Splinter Tapas Tipsv2 Udop VideoPrism Vits Wav2Vec2CTC Wav2Vec2PhonemeCTC XGLM XLM "
    "XLNet ConvBert FNet"
)
_REFUSED = frozenset(_NOT_MADE.split())


@dataclass(frozen=True)
class _Parts:
    """What a class makes itself."""

    normalizer: Any
    pre_tokenizer: Any
    decoder: Any
    template: tuple[str, ...] | None = None  # of tokens around the text, by their names; None: as tokenizer.json has it


@dataclass(frozen=True)
class _Class:
    """A class of transformers' tokenizers.

    Args:
        model: the kind of its vocabulary; a tokenizer.json of another kind is taken as it stands.
        parts: what it makes of the settings; it is given the rules of the file's sentencepiece model as well.
        named: its special tokens where the settings do not say them.
        model_options: attributes that it sets of the vocabulary's model.
        unknown: the number of the token for unknown characters, by its name if it is a str.
        flags: how its special tokens are found in a text where the settings say only their names.
        extra: further special tokens.
        plain: whether special tokens are found in a text without the spaces around them, whatever the settings say.
    """

    model: str
    parts: Callable[[Any, Settings, Any, Any], _Parts]
    named: Mapping[str, str]
    model_options: Mapping[str, Any] = field(default_factory=dict)
    unknown: int | str | None = None
    flags: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    extra: Callable[[Settings], list[Any]] | None = None
    plain: bool = False


def _bert(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> _Parts:
    accents = settings.values.get("strip_accents")
    normalizer = t.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", True),
        strip_accents=None if accents is None else settings.flag("strip_accents", True),
        lowercase=settings.flag("do_lower_case", True),
    )
    words, decoder = t.pre_tokenizers.BertPreTokenizer(), t.decoders.WordPiece(prefix="##")
    return _Parts(normalizer, words, decoder, ("cls_token", "", "sep_token"))


def _bytes(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> _Parts:
    words = t.pre_tokenizers.ByteLevel(add_prefix_space=settings.flag("add_prefix_space", False))
    return _Parts(None, words, t.decoders.ByteLevel())


def _roberta(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> _Parts:
    parts = _bytes(t, settings, rules, tokenizer)
    return _Parts(parts.normalizer, parts.pre_tokenizer, parts.decoder, ("cls_token", "", "sep_token"))


def _qwen2(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> _Parts:
    prefix = settings.flag("add_prefix_space", False, null=False)
    words = t.pre_tokenizers.Split(t.Regex(_QWEN_WORDS), behavior="isolated", invert=False)
    bytes_ = t.pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)
    return _Parts(t.normalizers.NFC(), t.pre_tokenizers.Sequence([words, bytes_]), t.decoders.ByteLevel())


def _llama(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> _Parts:
    prefix = settings.flag("add_prefix_space", True, null=True)
    scheme = ("always" if settings.values.get("legacy", False) else "first") if prefix else "never"
    steps = [t.decoders.Replace(_MARK, " "), t.decoders.ByteFallback(), t.decoders.Fuse()]
    steps += [t.decoders.Strip(content=" ", left=1)] if prefix else []
    words = t.pre_tokenizers.Metaspace(replacement=_MARK, prepend_scheme=scheme, split=False)
    return _Parts(None, words, t.decoders.Sequence(steps))


def _code_llama(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> _Parts:
    scheme = "first" if settings.flag("add_prefix_space", True, null=True) else "never"
    steps = [t.decoders.Replace(_MARK, " "), t.decoders.ByteFallback(), t.decoders.Fuse()]
    steps.append(t.decoders.Strip(content=" ", left=1))
    template = ("",) if settings.values.get("bos_token", "") is None else ("bos_token", "")
    words = t.pre_tokenizers.Metaspace(replacement=_MARK, prepend_scheme=scheme, split=False)
    return _Parts(None, words, t.decoders.Sequence(steps), template)


def _pieces(t: Any, scheme: str, template: tuple[str, ...] | None, normalizer: Any) -> _Parts:
    mark = {"replacement": _MARK, "prepend_scheme": scheme}
    words = t.pre_tokenizers.Sequence([t.pre_tokenizers.WhitespaceSplit(), t.pre_tokenizers.Metaspace(**mark)])
    return _Parts(normalizer, words, t.decoders.Metaspace(**mark), template)


def _scheme(settings: Settings) -> str:
    return "always" if settings.flag("add_prefix_space", True, null=False) else "never"


def _xlm_roberta(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> _Parts:
    return _pieces(t, _scheme(settings), ("bos_token", "", "eos_token"), rules)


def _albert(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> _Parts:
    steps = [t.normalizers.Replace("``", '"'), t.normalizers.Replace("''", '"')]
    if not settings.flag("keep_accents", False, null=False):
        steps += [t.normalizers.NFKD(), t.normalizers.StripAccents()]
    if settings.flag("do_lower_case", True, null=False):
        steps.append(t.normalizers.Lowercase())
    steps += [] if rules is None else [rules]
    template = None if tokenizer.post_processor else ("cls_token", "", "sep_token")
    return _pieces(t, _scheme(settings), template, t.normalizers.Sequence(steps))


def _t5(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> _Parts:
    return _pieces(t, "always", ("", "eos_token"), rules)


def _mbart(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> _Parts:
    return _pieces(t, "always", ("", "eos_token", "src_lang"), None)


def _mbart50(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> _Parts:
    steps = [] if rules is None else [rules]
    steps.append(t.normalizers.Replace(t.Regex(" {2,}"), " "))
    mark = {"replacement": _MARK, "prepend_scheme": "always"}
    words, decoder = t.pre_tokenizers.Metaspace(**mark), t.decoders.Metaspace(**mark)
    return _Parts(t.normalizers.Sequence(steps), words, decoder, ("src_lang", "", "eos_token"))


def _t5_extra(settings: Settings) -> list[Any]:
    number = settings.checked("extra_ids", int, "an integer", 100)
    if number > MOST_ADDED:
        raise settings.error("extra_ids", f"{MOST_ADDED} at most")
    given = settings.words("additional_special_tokens")
    own = sum("<extra_id_" in content_of(token) for token in given)
    if own and number > 0 and own != number:
        raise settings.error("additional_special_tokens", f"{number} of <extra_id_...>, as extra_ids says,")
    return given + ([] if own else [f"<extra_id_{i}>" for i in range(number)])


def _code_llama_extra(settings: Settings) -> list[Any]:
    filled = (settings.values.get(name, token) for name, token in _FILLED.items())
    return [*settings.words("additional_special_tokens"), *(token for token in filled if token is not None)]


def _camembert_extra(settings: Settings) -> list[Any]:
    if settings.values.get("additional_special_tokens") is None:
        return ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]
    return settings.words("additional_special_tokens")


def _mbart_extra(settings: Settings) -> list[Any]:
    return [*LANGUAGES[:25], *settings.words("additional_special_tokens")]


def _mbart50_extra(settings: Settings) -> list[Any]:
    return [*settings.words("additional_special_tokens"), *LANGUAGES]


_BRACKETS = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
_ANGLES = dict(zip(TOKEN_NAMES, ("<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"), strict=True))
_ENDS = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>")
_PLAIN_BPE = {"unk_token": None, "fuse_unk": False, "byte_fallback": False, "dropout": None, "ignore_merges": False}
_WORDS = {"max_input_chars_per_word": 100, "continuing_subword_prefix": "##"}
_FILLED = {f"{name}_token": f"{_MARK}<{name[:3].upper()}>" for name in ("prefix", "middle", "suffix")}
_FILLED |= {"eot_token": f"{_MARK}<EOT>", "fill_token": "<FILL_ME>"}
_MASK = {"mask_token": {"lstrip": True}}  # with the space in front of it

_CLASSES = {
    "Albert": _Class(
        "Unigram", _albert, _ANGLES | {"bos_token": "[CLS]", "eos_token": "[SEP]", "sep_token": "[SEP]",
                                       "cls_token": "[CLS]", "mask_token": "[MASK]"}, unknown=1
    ),
    "Bert": _Class("WordPiece", _bert, _BRACKETS, _WORDS),
    "Camembert": _Class(
        "Unigram", _xlm_roberta, _ANGLES, unknown="unk_token", extra=_camembert_extra,
        flags=_MASK,
    ),
    "CodeLlama": _Class(
        "BPE", _code_llama, {name: _ANGLES[name] for name in ("bos_token", "eos_token", "unk_token")} | _FILLED,
        _PLAIN_BPE | {"fuse_unk": True, "byte_fallback": True}, extra=_code_llama_extra,
    ),
    "GPT2": _Class("BPE", _bytes, _ENDS, _PLAIN_BPE),
    "Llama": _Class(
        "BPE", _llama, {name: _ANGLES[name] for name in ("bos_token", "eos_token", "unk_token")},
        _PLAIN_BPE | {"fuse_unk": True, "byte_fallback": True},
    ),
    "MBart": _Class("Unigram", _mbart, _ANGLES, unknown=3, flags=_MASK, extra=_mbart_extra),
    "MBart50": _Class(
        "Unigram", _mbart50, {name: token for name, token in _ANGLES.items() if name != "bos_token"},
        unknown=3, flags=_MASK, extra=_mbart50_extra,
    ),
    "MPNet": _Class(
        "WordPiece", _bert, _ANGLES | {"unk_token": "[UNK]"}, _WORDS, flags=_MASK
    ),
    "Qwen2": _Class(
        "BPE", _qwen2, dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"), _PLAIN_BPE, plain=True
    ),
    "Roberta": _Class("BPE", _roberta, _ANGLES, _PLAIN_BPE),
    "T5": _Class(
        "Unigram", _t5, {name: _ANGLES[name] for name in ("eos_token", "unk_token", "pad_token")},
        unknown=2, extra=_t5_extra,
    ),
    "Whisper": _Class("BPE", _bytes, _ENDS, _PLAIN_BPE),
    "XLMRoberta": _Class("Unigram", _xlm_roberta, _ANGLES, unknown=3),
}  # fmt: skip


def with_settings(tokenizer: Any, content: bytes, directory: Path) -> tuple[Any, str]:
    """The tokenizer of a tokenizer.json's content, as the settings in its directory have it, and which end is cut."""
    t = import_extra("tokenizers", f"load: reading {directory}")
    settings = Settings(directory)
    _refuse_others(settings)
    config = directory / "config.json"
    made = _class_of(settings, read_json(config, dict) if config.exists() else {}, content)
    side = settings.values.get("truncation_side", (tokenizer.truncation or {}).get("direction", "right").lower())
    if side not in ("left", "right"):
        raise settings.error("truncation_side", '"left" or "right"')
    if settings.is_legacy:  # else tokenizer_config.json has them all
        for number, token in tokenizer.get_added_tokens_decoder().items():
            settings.placed[number] = {name: getattr(token, name) for name in _TOKEN}
    if made is not None and type(tokenizer.model).__name__ == made.model:
        tokenizer = _rebuilt(t, tokenizer, content, settings, made)
    elif added := _tokens(t, settings, tokenizer.get_added_tokens_decoder().values(), None):
        tokenizer.add_tokens(added)
    tokenizer.encode_special_tokens = settings.flag("split_special_tokens", False, null=False)
    if settings.flag("clean_up_tokenization_spaces", False, null=False):
        _clean_up(t, tokenizer, settings)
    return tokenizer, side


def _refuse_others(settings: Settings) -> None:
    """Refuses what would change the tokens in ways that are not supported."""
    if settings.values.get("init_inputs"):
        raise settings.error("init_inputs", "empty: it is not supported")
    files = settings.values.get("fast_tokenizer_files") or ["tokenizer.json"]
    if files != ["tokenizer.json"]:
        raise settings.error("fast_tokenizer_files", '["tokenizer.json"]: versions of files are not supported')
    if settings.values.get("fix_mistral_regex"):
        raise settings.error("fix_mistral_regex", "false: it is not supported; save the tokenizer with transformers 5")


def _class_of(settings: Settings, config: dict[str, Any], content: bytes) -> _Class | None:
    """The class that AutoTokenizer takes; None: one that takes tokenizer.json as it stands."""
    if not settings.file.exists():
        return None
    model_type, told = str(config.get("model_type")), settings.name or config.get("tokenizer_class")
    if told is not None and not isinstance(told, str):
        raise settings.error("tokenizer_class", "a name")
    name = (told or "").removesuffix("Fast").removesuffix("Tokenizer")
    if told is None or model_type == "qwen2":  # whose directories name wrong classes
        name = _OF_MODELS.get(model_type, "")
    if model_type in _AS_IT_STANDS or (name == "Llama" and b'"ByteLevel"' in content):  # LlamaTokenizer is not for both
        return None
    if name in _REFUSED:
        raise ValueError(
            f"load: {settings.file}: tokenizer_class {told!r} is not supported; save the tokenizer as "
            "PreTrainedTokenizerFast"
        )
    return _CLASSES.get(_ALIASES.get(name, name))


def _tokens(t: Any, settings: Settings, found: Iterable[Any], made: _Class | None) -> list[Any]:
    """The tokens that transformers adds beside those that are found already, in its order.

    The first are those that files place; then special tokens by name, then others.
    """
    present = {token.content: token for token in found}
    identical = {repr(token) for token in present.values()}
    named, extra = _named(settings, made), _extra(settings, made)
    if len(settings.placed) + len(extra) > MOST_ADDED:
        raise ValueError(f"load: {settings.file}: at most {MOST_ADDED} added tokens are accepted")
    added, contents = [], set(present)
    for _, token in sorted(settings.placed.items()):
        if repr(_token(t, settings, token, placed=True)) not in identical:
            added.append(_token(t, settings, token, placed=True))
    contents |= {token.content for token in added}
    for name, token in named.items():
        if token is not None and content_of(token) not in contents:
            flags = made.flags.get(name, {}) if made is not None and isinstance(token, str) else {}
            added.append(_token(t, settings, {"content": token, "special": True, **flags} if flags else token))
            contents.add(content_of(token))
    for token in extra:
        if content_of(token) not in contents:
            added.append(_token(t, settings, token))
            contents.add(content_of(token))
    special = {content_of(token) for token in named.values() if token is not None}
    for token in added:
        token.special = token.special or token.content in special
    return added


def _named(settings: Settings, made: _Class | None) -> dict[str, Any]:
    """Special tokens by name: those that all classes know, and what else ends in _token."""
    named = {} if made is None else dict(made.named)
    named |= {key: value for key, value in settings.values.items() if key in TOKEN_NAMES}
    named = dict(sorted(named.items(), key=lambda item: item[0] not in TOKEN_NAMES))  # a class's own come last
    others = {
        key: x
        for key, x in settings.values.items()
        if key.endswith("_token") and key not in TOKEN_NAMES and (isinstance(x, str) or _is_token(x))
    }
    more = settings.values.get("extra_special_tokens")
    return named | others | (more if isinstance(more, dict) else {})


def _extra(settings: Settings, made: _Class | None) -> list[Any]:
    given = settings.values.get("extra_special_tokens")
    if isinstance(given, dict):
        given = None
    elif "extra_special_tokens" in settings.values:
        return settings.words("extra_special_tokens")
    if made is not None and made.extra is not None:
        return made.extra(settings)
    return settings.words("additional_special_tokens")


def _is_token(value: Any) -> bool:
    return isinstance(value, dict) and value.get("__type") == "AddedToken"


def _token(t: Any, settings: Settings, token: Any, placed: bool = False) -> Any:
    if isinstance(token, str) and not placed:
        return t.AddedToken(token, special=True)
    options = {key: token[key] for key in _TOKEN if key in token} if isinstance(token, dict) else {}
    try:
        return t.AddedToken(options.pop("content"), **options)
    except (TypeError, KeyError) as error:
        raise ValueError(f"load: {settings.file}: {token!r:.200} is not a special token ({error})") from error


def _rebuilt(t: Any, old: Any, content: bytes, settings: Settings, made: _Class) -> Any:
    """A tokenizer of the vocabulary of another, with the parts that its class makes."""
    named = _named(settings, made)
    for key, value in made.model_options.items():
        setattr(old.model, key, value)
    if made.model == "WordPiece":
        old.model.unk_token = content_of(named["unk_token"])
    tokenizer = t.Tokenizer(_with_unknown(t, old.model, content, made, named))
    parts = made.parts(t, settings, _rules(t, old.normalizer), old)
    tokenizer.normalizer, tokenizer.pre_tokenizer = parts.normalizer, parts.pre_tokenizer
    tokenizer.decoder = parts.decoder
    tokenizer.add_tokens(_tokens(t, settings, (), made))
    if made.plain:
        special = [*named.values(), *_extra(settings, made)]
        tokenizer.add_tokens([t.AddedToken(content_of(x), special=True) for x in special if x is not None])
    if parts.template is None:
        tokenizer.post_processor = old.post_processor or t.processors.TemplateProcessing(single="$A")
    else:
        around = [_around(settings, tokenizer, name, named) if name else "$A" for name in parts.template]
        tokenizer.post_processor = template_of(t, tokenizer, around)
    return tokenizer


def _around(settings: Settings, tokenizer: Any, name: str, named: Mapping[str, Any]) -> str:
    token = (settings.values.get(name) or "en_XX") if name == "src_lang" else named.get(name)
    if token is None or tokenizer.token_to_id(content_of(token)) is None:
        raise ValueError(f"load: {settings.file}: {name} must be a token, not {token!r:.200}")
    return content_of(token)


def template_of(t: Any, tokenizer: Any, around: list[str]) -> Any:
    """A post-processor that sets tokens around the text, which is $A."""
    special = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(around) if token != "$A"]
    return t.processors.TemplateProcessing(single=around, special_tokens=special)


def _with_unknown(t: Any, model: Any, content: bytes, made: _Class, named: Mapping[str, Any]) -> Any:
    """The model, with the token for unknown characters that its class takes."""
    if made.unknown is None:
        return model
    unknown = made.unknown
    if isinstance(unknown, str):
        unknown = model.token_to_id(content_of(named[unknown])) or 0
    try:
        if [token.id for token in model.tokenize(_RARE)] == [unknown]:
            return model
    except Exception:  # it has none: the library raises no other kind
        pass
    vocabulary = json.loads(content)["model"]["vocab"]
    return t.models.Unigram([tuple(piece) for piece in vocabulary], unk_id=unknown, byte_fallback=False)


def _rules(t: Any, normalizer: Any) -> Any:
    """The rules of sentencepiece among a normalizer's steps; None if there are none."""
    if normalizer is None:
        return None
    steps = list(normalizer) if isinstance(normalizer, t.normalizers.Sequence) else [normalizer]
    return next((step for step in steps if isinstance(step, t.normalizers.Precompiled)), None)


def _clean_up(t: Any, tokenizer: Any, settings: Settings) -> None:
    """Lets decode take away spaces in front of punctuation; BPE's are left alone, as transformers does."""
    key = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    if type(tokenizer.model).__name__ == "BPE" and not settings.flag(key, False, null=False):
        return
    if tokenizer.decoder is None:
        raise settings.error("clean_up_tokenization_spaces", "false: tokenizer.json has no decoder")
    steps = [t.decoders.Replace(old, new) for old, new in CLEANED.items()]
    tokenizer.decoder = t.decoders.Sequence([tokenizer.decoder, t.decoders.Fuse(), *steps])
