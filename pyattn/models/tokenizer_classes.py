"""The settings beside a tokenizer.json, and the tokenizers that classes of transformers make themselves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from pyattn.models.files import read_json

TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MAX_ADDED = 50_000  # tokens that settings may add, for each costs a comparison with all others

# Codes of mBART's languages; the first 25 are those of its first models, the others came with mBART-50.
LANGUAGES = [
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT", "ja_XX",
    "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN",
    "zh_CN", "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL", "hr_HR", "id_ID", "ka_GE", "km_KH", "mk_MK", "ml_IN",
    "mn_MN", "mr_IN", "pl_PL", "ps_AF", "pt_XX", "sv_SE", "sw_KE", "ta_IN", "te_IN", "th_TH", "tl_XX", "uk_UA",
    "ur_PK", "xh_ZA", "gl_ES", "sl_SI",
]  # fmt: skip

_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What clean_up_tokenization_spaces replaces in a decoded text, in this order.
CLEANED = {" .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'", " n't": "n't"}
CLEANED |= {f" '{end}": f"'{end}" for end in ("m", "s", "ve", "re")}
_MARK = "\N{LOWER ONE EIGHTH BLOCK}"

# The class that transformers gives a model whose directory names none; others take tokenizer.json as it stands.
_CLASS_OF_MODEL = {
    "albert": "Albert", "bart": "Roberta", "bert": "Bert", "camembert": "Camembert", "distilbert": "Bert",
    "electra": "Bert", "gemma3_text": "Gemma", "gpt2": "GPT2", "gte": "XLMRoberta", "mbart": "MBart", "mpnet": "MPNet",
    "nomic_bert": "Bert", "qwen2": "Qwen2", "qwen3": "Qwen2", "roberta": "Roberta", "t5": "T5", "whisper": "GPT2",
    "xlm-roberta": "XLMRoberta",
}  # fmt: skip
_AS_IT_STANDS = ("mistral", "modernbert")  # whatever class their directories name
_ALIASES = dict.fromkeys(("DistilBert", "Electra", "LayoutLM", "Lxmert", "MobileBert", "SqueezeBert"), "Bert")
_ALIASES |= dict.fromkeys(("Bart", "LED", "Longformer", "Mvp"), "Roberta") | {"Whisper": "GPT2"}

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
_REFUSED = frozenset(_NOT_MADE.split())


class Settings:
    """The settings beside a tokenizer.json, as transformers merges them from up to three files."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "tokenizer_config.json"
        self.values = values = read_json(self.file, dict, optional=True)
        for key in ("add_bos_token", "add_eos_token"):  # beside a tokenizer.json, whose post_processor adds tokens
            values.pop(key, None)
        self.name = values.get("tokenizer_class")
        if "additional_special_tokens" in values and not values.get("extra_special_tokens"):
            values["extra_special_tokens"] = values.pop("additional_special_tokens")
        self._extra_tokens()
        self.placed: dict[int, Any] = {}  # added tokens by their numbers
        self.is_legacy = "added_tokens_decoder" not in values
        if not self.is_legacy:
            decoder = self.checked("added_tokens_decoder", dict, "an object")
            try:
                self.placed = {int(number): token for number, token in decoder.items()}
            except ValueError as error:
                raise self.error("added_tokens_decoder", "an object whose keys are numbers") from error
        else:
            self._merge_special(directory / "special_tokens_map.json")
            self._merge_added(directory / "added_tokens.json")

    def _merge_special(self, file: Path) -> None:
        for key, value in read_json(file, dict, optional=True).items():
            if isinstance(value, dict) and key != "extra_special_tokens":
                value = value | {"__type": "AddedToken", "special": True}
            elif key == "extra_special_tokens" and isinstance(value, list):
                before = self._extra_tokens()
                value = [*before, *(token for token in value if token not in before)]
            self.values[key] = value
        self._extra_tokens(file)

    def _extra_tokens(self, file: Path | None = None) -> Any:
        """Special tokens without a name of their own, which the file may have: a list, or an object by names."""
        extra = self.values.get("extra_special_tokens") or []
        if not isinstance(extra, list | dict):
            raise self.error("extra_special_tokens", "a list of tokens", file)
        return extra

    def _merge_added(self, file: Path) -> None:
        named = {content_of(self.values[key]) for key in TOKEN_NAMES if self.values.get(key)}
        named |= {content_of(token) for token in self._extra_tokens()}
        for token, number in read_json(file, dict, optional=True).items():
            if type(number) is not int:
                raise ValueError(f"load: {file}: {token!r} must have a number, not {number!r}")
            self.placed[number] = {"content": token, "normalized": token not in named, "special": token in named}

    def error(self, key: str, wanted: str, file: Path | None = None) -> ValueError:
        return ValueError(f"load: {file or self.file}: {key} must be {wanted}, not {self.values.get(key)!r:.200}")

    def checked(self, key: str, needed: type, wanted: str, default: Any = None) -> Any:
        value = self.values.get(key, default)
        if type(value) is not needed:
            raise self.error(key, wanted)
        return value

    def flag(self, key: str, default: bool, null: bool | None = None) -> bool:
        """A boolean; null where the key may be null is the value that it has then."""
        if null is not None and self.values.get(key, default) is None:
            return null
        return bool(self.checked(key, bool, "true or false", default))

    def words(self, key: str) -> list[Any]:
        """A list of tokens; empty where it is absent or null."""
        value = self.values.get(key)
        if not isinstance(value or [], list):
            raise self.error(key, "a list of tokens")
        return list(value or [])


def content_of(token: Any) -> str:
    return str(token.get("content") if isinstance(token, dict) else token)


Parts: TypeAlias = tuple[Any, Any, Any]  # a normalizer, a pre-tokenizer and a decoder


def _additional(settings: Settings) -> list[Any]:
    return settings.words("additional_special_tokens")


@dataclass(frozen=True)
class TokenizerClass:
    """A class of transformers' tokenizers.

    Args:
        model: the type of its vocabulary; a tokenizer.json of another type is taken as it stands.
        parts: what it makes itself, of the library, the settings, and the rules of the file's sentencepiece model.
        named: its special tokens where the settings do not say them.
        model_options: attributes that it sets of the vocabulary's model.
        template: names of the tokens around a text, which is "", or what they are beside the settings and the
            tokenizer.json; None: as tokenizer.json has it.
        second: what follows in a pair, "$B" being its second text, with the types of tokens that are not 0.
        unknown: the token for unknown characters, a number or a special token's name; None: it is left.
        flags: how its special tokens are found in a text where the settings say only their names.
        extra: further special tokens.
        plain: whether special tokens are found in a text without the spaces around them, whatever the settings say.
    """

    model: str
    parts: Callable[[Any, Settings, Any], Parts]
    named: Mapping[str, str]
    model_options: Mapping[str, Any] = field(default_factory=dict)
    template: tuple[str, ...] | Callable[[Settings, Any], tuple[str, ...] | None] | None = None
    second: str = ""
    unknown: int | str | None = None
    flags: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    extra: Callable[[Settings], list[Any]] = _additional
    plain: bool = False

    def special_tokens(self, settings: Settings) -> dict[str, Any]:
        """Special tokens by name: those that all classes know, and what else ends in _token."""
        named = {**self.named, **{key: x for key, x in settings.values.items() if key in TOKEN_NAMES}}
        named = dict(sorted(named.items(), key=lambda item: item[0] not in TOKEN_NAMES))  # a class's own come last
        for key, x in settings.values.items():
            is_token = isinstance(x, str) or (isinstance(x, dict) and x.get("__type") == "AddedToken")
            if key.endswith("_token") and key not in TOKEN_NAMES and is_token:
                named[key] = x
        more = settings.values.get("extra_special_tokens")
        named |= more if isinstance(more, dict) else {}
        return {key: x for key, x in named.items() if x is not None}

    def extra_tokens(self, settings: Settings) -> list[Any]:
        is_list = not isinstance(settings.values.get("extra_special_tokens", {}), dict)
        return settings.words("extra_special_tokens") if is_list else self.extra(settings)


def _bert(t: Any, settings: Settings, rules: Any) -> Parts:
    accents = settings.values.get("strip_accents")
    normalizer = t.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", True),
        strip_accents=None if accents is None else settings.flag("strip_accents", True),
        lowercase=settings.flag("do_lower_case", True),
    )
    return normalizer, t.pre_tokenizers.BertPreTokenizer(), t.decoders.WordPiece(prefix="##")


def _bytes(t: Any, settings: Settings, rules: Any) -> Parts:
    words = t.pre_tokenizers.ByteLevel(add_prefix_space=settings.flag("add_prefix_space", False))
    return None, words, t.decoders.ByteLevel()


def _qwen2(t: Any, settings: Settings, rules: Any) -> Parts:
    prefix = settings.flag("add_prefix_space", False, null=False)
    words = t.pre_tokenizers.Split(t.Regex(_QWEN_WORDS), behavior="isolated", invert=False)
    bytes_ = t.pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)
    return t.normalizers.NFC(), t.pre_tokenizers.Sequence([words, bytes_]), t.decoders.ByteLevel()


def _from_bytes(t: Any, strips: bool = False) -> Any:
    """A decoder of marks and bytes."""
    steps = [t.decoders.Replace(_MARK, " "), t.decoders.ByteFallback(), t.decoders.Fuse()]
    return t.decoders.Sequence([*steps, t.decoders.Strip(content=" ", left=1)] if strips else steps)


def _gemma(t: Any, settings: Settings, rules: Any) -> Parts:
    words = t.pre_tokenizers.Split(" ", behavior="merged_with_previous", invert=False)
    return t.normalizers.Replace(" ", _MARK), words, _from_bytes(t)


def _llama(t: Any, settings: Settings, rules: Any, is_code: bool = False) -> Parts:
    prefix, legacy = settings.flag("add_prefix_space", True, null=True), settings.values.get("legacy", False)
    scheme = ("always" if legacy and not is_code else "first") if prefix else "never"
    words = t.pre_tokenizers.Metaspace(replacement=_MARK, prepend_scheme=scheme, split=False)
    return None, words, _from_bytes(t, strips=prefix or is_code)


def _pieces(t: Any, settings: Settings, normalizer: Any, scheme: str = "always") -> Parts:
    mark = {"replacement": _MARK, "prepend_scheme": scheme}
    words = t.pre_tokenizers.Sequence([t.pre_tokenizers.WhitespaceSplit(), t.pre_tokenizers.Metaspace(**mark)])
    return normalizer, words, t.decoders.Metaspace(**mark)


def _xlm_roberta(t: Any, settings: Settings, normalizer: Any) -> Parts:
    prefix = settings.flag("add_prefix_space", True, null=False)
    return _pieces(t, settings, normalizer, "always" if prefix else "never")


def _albert(t: Any, settings: Settings, rules: Any) -> Parts:
    steps = [t.normalizers.Replace("``", '"'), t.normalizers.Replace("''", '"')]
    if not settings.flag("keep_accents", False, null=False):
        steps += [t.normalizers.NFKD(), t.normalizers.StripAccents()]
    if settings.flag("do_lower_case", True, null=False):
        steps.append(t.normalizers.Lowercase())
    return _xlm_roberta(t, settings, t.normalizers.Sequence(steps if rules is None else [*steps, rules]))


def _mbart50(t: Any, settings: Settings, rules: Any) -> Parts:
    spaces = t.normalizers.Replace(t.Regex(" {2,}"), " ")
    mark = {"replacement": _MARK, "prepend_scheme": "always"}
    normalizer = t.normalizers.Sequence([spaces] if rules is None else [rules, spaces])
    return normalizer, t.pre_tokenizers.Metaspace(**mark), t.decoders.Metaspace(**mark)


def _t5_extra(settings: Settings) -> list[Any]:
    number = settings.checked("extra_ids", int, "an integer", 100)
    if number > MAX_ADDED:
        raise settings.error("extra_ids", f"{MAX_ADDED} at most")
    named = _additional(settings)
    own = sum("<extra_id_" in content_of(token) for token in named)
    if own and number > 0 and own != number:
        raise settings.error("additional_special_tokens", f"{number} of <extra_id_...>, as extra_ids says,")
    return named + ([] if own else [f"<extra_id_{i}>" for i in range(number)])


def _code_llama_extra(settings: Settings) -> list[Any]:
    filled = (settings.values.get(name, token) for name, token in _FILLED.items())
    return [*_additional(settings), *(token for token in filled if token is not None)]


def _camembert_extra(settings: Settings) -> list[Any]:
    if settings.values.get("additional_special_tokens") is None:
        return ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]
    return _additional(settings)


_BRACKETS = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
_ANGLES = dict(zip(TOKEN_NAMES, ("<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"), strict=True))
_BOS_EOS_UNK = {name: _ANGLES[name] for name in ("bos_token", "eos_token", "unk_token")}
_ENDS = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>")
_PLAIN_BPE = {"unk_token": None, "fuse_unk": False, "byte_fallback": False, "dropout": None, "ignore_merges": False}
_BYTES_BPE = _PLAIN_BPE | {"fuse_unk": True, "byte_fallback": True}
_WORDS = {"max_input_chars_per_word": 100, "continuing_subword_prefix": "##"}
_FILLED = {f"{name}_token": f"{_MARK}<{name[:3].upper()}>" for name in ("prefix", "middle", "suffix")}
_FILLED |= {"eot_token": f"{_MARK}<EOT>", "fill_token": "<FILL_ME>"}
_MASK = {"mask_token": {"lstrip": True}}  # with the space in front of it
_CLS_SEP, _BOS_EOS = ("cls_token", "", "sep_token"), ("bos_token", "", "eos_token")
_TYPED, _SEP, _EOS = "$B:1 sep_token:1", "sep_token $B sep_token", "eos_token $B eos_token"

NO_CLASS = TokenizerClass("", _pieces, {})  # whose tokenizer.json is taken as it stands
CLASSES = {
    "Albert": TokenizerClass(
        "Unigram", _albert, _ANGLES | {"bos_token": "[CLS]", "eos_token": "[SEP]", "sep_token": "[SEP]",
                                       "cls_token": "[CLS]", "mask_token": "[MASK]"},
        template=lambda settings, old: None if old.post_processor else _CLS_SEP, second=_TYPED, unknown=1,
    ),
    "Bert": TokenizerClass("WordPiece", _bert, _BRACKETS, _WORDS, _CLS_SEP, _TYPED, unknown="unk_token"),
    "Camembert": TokenizerClass(
        "Unigram", _xlm_roberta, _ANGLES, template=_BOS_EOS, second=_EOS, unknown="unk_token", flags=_MASK,
        extra=_camembert_extra,
    ),
    "CodeLlama": TokenizerClass(
        "BPE", partial(_llama, is_code=True), _BOS_EOS_UNK | _FILLED, _BYTES_BPE,
        lambda settings, old: ("",) if settings.values.get("bos_token", "") is None else ("bos_token", ""),
        extra=_code_llama_extra,
    ),
    "Gemma": TokenizerClass(
        "BPE", _gemma, {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "unk", "pad", "mask")}, _BYTES_BPE,
        unknown="unk_token",
    ),
    "GPT2": TokenizerClass("BPE", _bytes, _ENDS, _PLAIN_BPE),
    "Llama": TokenizerClass("BPE", _llama, _BOS_EOS_UNK, _BYTES_BPE),
    "MBart": TokenizerClass(
        "Unigram", lambda t, settings, rules: _pieces(t, settings, None), _ANGLES,
        template=("", "eos_token", "src_lang"), unknown=3, flags=_MASK,
        extra=lambda settings: [*LANGUAGES[:25], *_additional(settings)],
    ),
    "MBart50": TokenizerClass(
        "Unigram", _mbart50, {name: token for name, token in _ANGLES.items() if name != "bos_token"},
        template=("src_lang", "", "eos_token"), unknown=3, flags=_MASK,
        extra=lambda settings: [*_additional(settings), *LANGUAGES],
    ),
    "MPNet": TokenizerClass(
        "WordPiece", _bert, _ANGLES | {"unk_token": "[UNK]"}, _WORDS, _CLS_SEP, _SEP, unknown="unk_token", flags=_MASK
    ),
    "Qwen2": TokenizerClass(
        "BPE", _qwen2, dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"), _PLAIN_BPE, plain=True
    ),
    "Roberta": TokenizerClass("BPE", _bytes, _ANGLES, _PLAIN_BPE, _CLS_SEP, _SEP),
    "T5": TokenizerClass(
        "Unigram", _pieces, {name: _ANGLES[name] for name in ("eos_token", "unk_token", "pad_token")},
        template=("", "eos_token"), unknown=2, extra=_t5_extra,
    ),
    "XLMRoberta": TokenizerClass("Unigram", _xlm_roberta, _ANGLES, template=_BOS_EOS, second=_EOS, unknown=3),
}  # fmt: skip


def class_of(settings: Settings, config: dict[str, Any], content: bytes) -> TokenizerClass | None:
    """The class that AutoTokenizer takes; None: one that takes tokenizer.json as it stands."""
    if not settings.file.exists():
        return None
    model_type, name = str(config.get("model_type")), _class_name(settings, config)
    if model_type in _AS_IT_STANDS or (name == "Llama" and b'"ByteLevel"' in content):  # LlamaTokenizer is not for both
        return None
    if name in _REFUSED:
        raise ValueError(
            f"load: {settings.file}: tokenizer_class {settings.name or config.get('tokenizer_class')!r} is not "
            "supported; save the tokenizer as PreTrainedTokenizerFast"
        )
    return CLASSES.get(_ALIASES.get(name, name))


def gives_types(settings: Settings, config: dict[str, Any]) -> bool:
    """Whether a model is given the types of tokens: where the settings say so, else by the class."""
    if isinstance(names := settings.values.get("model_input_names"), list):
        return "token_type_ids" in names
    name = _class_name(settings, config)
    return name != "DistilBert" and _ALIASES.get(name, name) == "Bert"


def _class_name(settings: Settings, config: dict[str, Any]) -> str:
    """The name of the tokenizer's class, without its ending."""
    model_type, class_name = str(config.get("model_type")), settings.name or config.get("tokenizer_class")
    if class_name is not None and not isinstance(class_name, str):
        raise settings.error("tokenizer_class", "a name")
    if class_name is None or model_type == "qwen2":  # whose directories name wrong classes
        return _CLASS_OF_MODEL.get(model_type, "")
    return class_name.removesuffix("Fast").removesuffix("Tokenizer")
