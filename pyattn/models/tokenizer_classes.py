"""The tokenizers that classes of transformers make themselves, whatever tokenizer.json says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyattn.models.tokenizer_settings import TOKEN_NAMES, Settings, content_of

MAX_ADDED = 50_000  # tokens that settings may add, for each costs a comparison with all others

# Codes of mBART's languages; the first 25 are those of its first models, the others came with mBART-50.
LANGUAGES = [
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT", "ja_XX",
    "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN",
    "zh_CN", "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL", "hr_HR", "id_ID", "ka_GE", "km_KH", "mk_MK", "ml_IN",
    "mn_MN", "mr_IN", "pl_PL", "ps_AF", "pt_XX", "sv_SE", "sw_KE", "ta_IN", "te_IN", "th_TH", "tl_XX", "uk_UA",
    "ur_PK", "xh_ZA", "gl_ES", "sl_SI",
]  # fmt: skip

TOKEN_FIELDS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What clean_up_tokenization_spaces replaces in a decoded text, in this order.
CLEANED = {" .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'", " n't": "n't"}
CLEANED |= {f" '{end}": f"'{end}" for end in ("m", "s", "ve", "re")}
_MARK = "\N{LOWER ONE EIGHTH BLOCK}"
RARE = "\U0010fffd"  # for private use: no vocabulary has it

# The class that transformers gives a model whose directory names none; others take tokenizer.json as it stands.
CLASS_OF_MODEL = {
    "albert": "Albert",
    "bart": "Roberta",
    "bert": "Bert",
    "camembert": "Camembert",
    "distilbert": "Bert",
    "electra": "Bert",
    "gemma3_text": "Gemma",
    "gpt2": "GPT2",
    "mbart": "MBart",
    "mpnet": "MPNet",
    "nomic_bert": "Bert",
    "qwen2": "Qwen2",
    "qwen3": "Qwen2",
    "roberta": "Roberta",
    "t5": "T5",
    "whisper": "Whisper",
    "xlm-roberta": "XLMRoberta",
}
AS_IT_STANDS = ("mistral", "modernbert")  # whatever class their directories name
ALIASES = dict.fromkeys(("DistilBert", "Electra", "LayoutLM", "Lxmert", "MobileBert", "SqueezeBert"), "Bert")
ALIASES |= dict.fromkeys(("Bart", "LED", "Longformer", "Mvp"), "Roberta")

# Classes of transformers 5.24 that make parts of their own, which are not made here.
_NOT_MADE = (
    "Barthez Bartpho BertGeneration BertJapanese Bertweet BigBird BioGpt BlenderbotSmall Blenderbot ByT5 CLIP "
    "CTRL Canine Clvp CodeGen Cohere CpmAnt Cpm DPRContextEncoder DPRQuestionEncoder DPRReader Deberta DebertaV2 "
    "Dia Esm Esmc FSMT FastSpeech2Conformer Flaubert Funnel GPTNeoXJapanese GPTNeoX GPTSw3 Herbert Lasr "
    "LayoutLMv2 LayoutLMv3 LayoutXLM Luke M2M100 MLuke MarkupLM Mgpstr MyT5 Nllb Nougat OpenAIGPT PLBart Pegasus "
    "Perceiver Phobert ProphetNet Qwen3_5 Reformer RemBert RoCBert RoFormer SeamlessM4T Siglip2 Siglip "
    "Speech2Text SpeechT5 Splinter Tapas Tipsv2 Udop VideoPrism Vits Wav2Vec2CTC Wav2Vec2PhonemeCTC XGLM XLM "
    "XLNet ConvBert FNet"
)
REFUSED = frozenset(_NOT_MADE.split())


@dataclass(frozen=True)
class Parts:
    """What a class makes itself."""

    normalizer: Any
    pre_tokenizer: Any
    decoder: Any
    template: tuple[str, ...] | None = None  # of tokens around the text, by their names; None: as tokenizer.json has it


@dataclass(frozen=True)
class TokenizerClass:
    """A class of transformers' tokenizers.

    Args:
        model: the type of its vocabulary; a tokenizer.json of another type is taken as it stands.
        parts: what it makes of the settings; it gets the rules of the file's sentencepiece model as well.
        named: its special tokens where the settings do not say them.
        model_options: attributes that it sets of the vocabulary's model.
        unknown: the token for unknown characters, a number or a special token's name; None: it is left.
        flags: how its special tokens are found in a text where the settings say only their names.
        extra: further special tokens.
        plain: whether special tokens are found in a text without the spaces around them, whatever the settings say.
    """

    model: str
    parts: Callable[[Any, Settings, Any, Any], Parts]
    named: Mapping[str, str]
    model_options: Mapping[str, Any] = field(default_factory=dict)
    unknown: int | str | None = None
    flags: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    extra: Callable[[Settings], list[Any]] | None = None
    plain: bool = False


def _bert(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> Parts:
    accents = settings.values.get("strip_accents")
    normalizer = t.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", True),
        strip_accents=None if accents is None else settings.flag("strip_accents", True),
        lowercase=settings.flag("do_lower_case", True),
    )
    words, decoder = t.pre_tokenizers.BertPreTokenizer(), t.decoders.WordPiece(prefix="##")
    return Parts(normalizer, words, decoder, ("cls_token", "", "sep_token"))


def _bytes(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> Parts:
    words = t.pre_tokenizers.ByteLevel(add_prefix_space=settings.flag("add_prefix_space", False))
    return Parts(None, words, t.decoders.ByteLevel())


def _roberta(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> Parts:
    parts = _bytes(t, settings, rules, tokenizer)
    return Parts(parts.normalizer, parts.pre_tokenizer, parts.decoder, ("cls_token", "", "sep_token"))


def _qwen2(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> Parts:
    prefix = settings.flag("add_prefix_space", False, null=False)
    words = t.pre_tokenizers.Split(t.Regex(_QWEN_WORDS), behavior="isolated", invert=False)
    bytes_ = t.pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)
    return Parts(t.normalizers.NFC(), t.pre_tokenizers.Sequence([words, bytes_]), t.decoders.ByteLevel())


def _from_bytes(t: Any) -> list[Any]:
    """Steps that decode marks and bytes."""
    return [t.decoders.Replace(_MARK, " "), t.decoders.ByteFallback(), t.decoders.Fuse()]


def _gemma(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> Parts:
    words = t.pre_tokenizers.Split(" ", behavior="merged_with_previous", invert=False)
    return Parts(t.normalizers.Replace(" ", _MARK), words, t.decoders.Sequence(_from_bytes(t)))


def _llama(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> Parts:
    prefix = settings.flag("add_prefix_space", True, null=True)
    scheme = ("always" if settings.values.get("legacy", False) else "first") if prefix else "never"
    steps = _from_bytes(t) + ([t.decoders.Strip(content=" ", left=1)] if prefix else [])
    words = t.pre_tokenizers.Metaspace(replacement=_MARK, prepend_scheme=scheme, split=False)
    return Parts(None, words, t.decoders.Sequence(steps))


def _code_llama(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> Parts:
    scheme = "first" if settings.flag("add_prefix_space", True, null=True) else "never"
    steps = [*_from_bytes(t), t.decoders.Strip(content=" ", left=1)]
    template = ("",) if settings.values.get("bos_token", "") is None else ("bos_token", "")
    words = t.pre_tokenizers.Metaspace(replacement=_MARK, prepend_scheme=scheme, split=False)
    return Parts(None, words, t.decoders.Sequence(steps), template)


def _pieces(t: Any, scheme: str, template: tuple[str, ...] | None, normalizer: Any) -> Parts:
    mark = {"replacement": _MARK, "prepend_scheme": scheme}
    words = t.pre_tokenizers.Sequence([t.pre_tokenizers.WhitespaceSplit(), t.pre_tokenizers.Metaspace(**mark)])
    return Parts(normalizer, words, t.decoders.Metaspace(**mark), template)


def _scheme(settings: Settings) -> str:
    return "always" if settings.flag("add_prefix_space", True, null=False) else "never"


def _xlm_roberta(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> Parts:
    return _pieces(t, _scheme(settings), ("bos_token", "", "eos_token"), rules)


def _albert(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> Parts:
    steps = [t.normalizers.Replace("``", '"'), t.normalizers.Replace("''", '"')]
    if not settings.flag("keep_accents", False, null=False):
        steps += [t.normalizers.NFKD(), t.normalizers.StripAccents()]
    if settings.flag("do_lower_case", True, null=False):
        steps.append(t.normalizers.Lowercase())
    steps += [] if rules is None else [rules]
    template = None if tokenizer.post_processor else ("cls_token", "", "sep_token")
    return _pieces(t, _scheme(settings), template, t.normalizers.Sequence(steps))


def _t5(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> Parts:
    return _pieces(t, "always", ("", "eos_token"), rules)


def _mbart(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> Parts:
    return _pieces(t, "always", ("", "eos_token", "src_lang"), None)


def _mbart50(t: Any, settings: Settings, rules: Any, tokenizer: Any) -> Parts:
    steps = [] if rules is None else [rules]
    steps.append(t.normalizers.Replace(t.Regex(" {2,}"), " "))
    mark = {"replacement": _MARK, "prepend_scheme": "always"}
    words, decoder = t.pre_tokenizers.Metaspace(**mark), t.decoders.Metaspace(**mark)
    return Parts(t.normalizers.Sequence(steps), words, decoder, ("src_lang", "", "eos_token"))


def _t5_extra(settings: Settings) -> list[Any]:
    number = settings.checked("extra_ids", int, "an integer", 100)
    if number > MAX_ADDED:
        raise settings.error("extra_ids", f"{MAX_ADDED} at most")
    named = settings.words("additional_special_tokens")
    own = sum("<extra_id_" in content_of(token) for token in named)
    if own and number > 0 and own != number:
        raise settings.error("additional_special_tokens", f"{number} of <extra_id_...>, as extra_ids says,")
    return named + ([] if own else [f"<extra_id_{i}>" for i in range(number)])


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
_BYTES_BPE = _PLAIN_BPE | {"fuse_unk": True, "byte_fallback": True}
_WORDS = {"max_input_chars_per_word": 100, "continuing_subword_prefix": "##"}
_FILLED = {f"{name}_token": f"{_MARK}<{name[:3].upper()}>" for name in ("prefix", "middle", "suffix")}
_FILLED |= {"eot_token": f"{_MARK}<EOT>", "fill_token": "<FILL_ME>"}
_MASK = {"mask_token": {"lstrip": True}}  # with the space in front of it

CLASSES = {
    "Albert": TokenizerClass(
        "Unigram", _albert, _ANGLES | {"bos_token": "[CLS]", "eos_token": "[SEP]", "sep_token": "[SEP]",
                                       "cls_token": "[CLS]", "mask_token": "[MASK]"}, unknown=1
    ),
    "Bert": TokenizerClass("WordPiece", _bert, _BRACKETS, _WORDS, unknown="unk_token"),
    "Camembert": TokenizerClass(
        "Unigram", _xlm_roberta, _ANGLES, unknown="unk_token", extra=_camembert_extra,
        flags=_MASK,
    ),
    "CodeLlama": TokenizerClass(
        "BPE", _code_llama, {name: _ANGLES[name] for name in ("bos_token", "eos_token", "unk_token")} | _FILLED,
        _BYTES_BPE, extra=_code_llama_extra,
    ),
    "Gemma": TokenizerClass(
        "BPE", _gemma, {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "unk", "pad", "mask")}, _BYTES_BPE,
        unknown="unk_token",
    ),
    "GPT2": TokenizerClass("BPE", _bytes, _ENDS, _PLAIN_BPE),
    "Llama": TokenizerClass(
        "BPE", _llama, {name: _ANGLES[name] for name in ("bos_token", "eos_token", "unk_token")}, _BYTES_BPE
    ),
    "MBart": TokenizerClass("Unigram", _mbart, _ANGLES, unknown=3, flags=_MASK, extra=_mbart_extra),
    "MBart50": TokenizerClass(
        "Unigram", _mbart50, {name: token for name, token in _ANGLES.items() if name != "bos_token"},
        unknown=3, flags=_MASK, extra=_mbart50_extra,
    ),
    "MPNet": TokenizerClass(
        "WordPiece", _bert, _ANGLES | {"unk_token": "[UNK]"}, _WORDS, unknown="unk_token", flags=_MASK
    ),
    "Qwen2": TokenizerClass(
        "BPE", _qwen2, dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"), _PLAIN_BPE, plain=True
    ),
    "Roberta": TokenizerClass("BPE", _roberta, _ANGLES, _PLAIN_BPE),
    "T5": TokenizerClass(
        "Unigram", _t5, {name: _ANGLES[name] for name in ("eos_token", "unk_token", "pad_token")},
        unknown=2, extra=_t5_extra,
    ),
    "Whisper": TokenizerClass("BPE", _bytes, _ENDS, _PLAIN_BPE),
    "XLMRoberta": TokenizerClass("Unigram", _xlm_roberta, _ANGLES, unknown=3),
}  # fmt: skip
