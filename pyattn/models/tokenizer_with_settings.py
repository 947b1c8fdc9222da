"""tokenizer_config.json: what it, and the class that it names, make of the tokenizer in tokenizer.json.

Transformers takes of tokenizer.json what its class does not make itself: BertTokenizer, say, takes the vocabulary
alone, and makes the normalizer from `do_lower_case`. Here as there, a directory's settings win over tokenizer.json: a
text becomes the tokens that AutoTokenizer (transformers 5.24) makes of it. Where there is no tokenizer_config.json,
nothing is changed: tokenizer.json is then taken as it stands.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pyattn.models.files import read_json
from pyattn.models.tokenizer_classes import CLEANED, MAX_ADDED, NO_CLASS, Settings, TokenizerClass, class_of, content_of

_TOKEN_FIELDS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
_RARE = "\U0010fffd"  # for private use: no vocabulary has it

# Keys that would change the tokens in ways that are not supported, what they may be, and how that is called
_ACCEPTED: tuple[tuple[str, Any, str], ...] = (
    ("init_inputs", [], "empty: it is not supported"),
    ("fast_tokenizer_files", ["tokenizer.json"], '["tokenizer.json"]: versions of files are not supported'),
    ("fix_mistral_regex", False, "false: it is not supported; save the tokenizer with transformers 5"),
)


def with_settings(t: Any, tokenizer: Any, content: bytes, directory: Path) -> tuple[Any, str]:
    """The tokenizer of a tokenizer.json's content, as the settings in its directory have it, and which end is cut.

    t: the tokenizers library.
    """
    settings = Settings(directory)
    for key, accepted, wanted in _ACCEPTED:
        if (value := settings.values.get(key)) and value != accepted:
            raise settings.error(key, wanted)
    tokenizer_class = class_of(settings, read_json(directory / "config.json", dict, optional=True), content)
    side = settings.values.get("truncation_side", (tokenizer.truncation or {}).get("direction", "right").lower())
    if side not in ("left", "right"):
        raise settings.error("truncation_side", '"left" or "right"')
    if settings.is_legacy:  # else tokenizer_config.json has them all
        for number, token in tokenizer.get_added_tokens_decoder().items():
            settings.placed[number] = {name: getattr(token, name) for name in _TOKEN_FIELDS}
    if tokenizer_class is not None and type(tokenizer.model).__name__ == tokenizer_class.model:
        tokenizer = _rebuilt(t, tokenizer, content, settings, tokenizer_class)
    elif added := _tokens(t, settings, tokenizer.get_added_tokens_decoder().values(), NO_CLASS):
        tokenizer.add_tokens(added)
    tokenizer.encode_special_tokens = settings.flag("split_special_tokens", False, null=False)
    if settings.flag("clean_up_tokenization_spaces", False, null=False):
        _clean_up(t, tokenizer, settings)
    return tokenizer, side


def _tokens(t: Any, settings: Settings, found: Iterable[Any], tokenizer_class: TokenizerClass) -> list[Any]:
    """The tokens that transformers adds beside those that are found already, in its order.

    The first are those that files place; then special tokens by name, then others.
    """
    found = list(found)
    named, extra = tokenizer_class.special_tokens(settings), tokenizer_class.extra_tokens(settings)
    if len(settings.placed) + len(extra) > MAX_ADDED:
        raise ValueError(f"load: {settings.file}: at most {MAX_ADDED} added tokens are accepted")
    placed = [_token(t, settings, token, placed=True) for _, token in sorted(settings.placed.items())]
    identical = {repr(token) for token in found}
    added = [token for token in placed if repr(token) not in identical]
    contents = {token.content for token in (*found, *added)}
    for name, token in (*named.items(), *(("", token) for token in extra)):
        if content_of(token) not in contents:
            flags = tokenizer_class.flags.get(name) if isinstance(token, str) else None
            added.append(_token(t, settings, {"content": token, "special": True, **flags} if flags else token))
            contents.add(content_of(token))
    special = {content_of(token) for token in named.values()}
    for token in added:
        token.special = token.special or token.content in special
    return added


def _token(t: Any, settings: Settings, token: Any, placed: bool = False) -> Any:
    if isinstance(token, str) and not placed:
        return t.AddedToken(token, special=True)
    options = {key: token[key] for key in _TOKEN_FIELDS if key in token} if isinstance(token, dict) else {}
    try:
        return t.AddedToken(options.pop("content"), **options)
    except (TypeError, KeyError) as error:
        raise ValueError(f"load: {settings.file}: {token!r:.200} is not a special token ({error})") from error


def _rebuilt(t: Any, old: Any, content: bytes, settings: Settings, tokenizer_class: TokenizerClass) -> Any:
    """A tokenizer of the vocabulary of another, with the parts that its class makes."""
    named = tokenizer_class.special_tokens(settings)
    for key, value in tokenizer_class.model_options.items():
        setattr(old.model, key, value)
    tokenizer = t.Tokenizer(_with_unknown(t, old.model, content, tokenizer_class, named))
    steps = old.normalizer if isinstance(old.normalizer, t.normalizers.Sequence) else [old.normalizer]
    rules = next((step for step in steps if isinstance(step, t.normalizers.Precompiled)), None)  # of sentencepiece
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = tokenizer_class.parts(t, settings, rules)
    tokenizer.add_tokens(_tokens(t, settings, (), tokenizer_class))
    if tokenizer_class.plain:
        special = [*named.values(), *tokenizer_class.extra_tokens(settings)]
        tokenizer.add_tokens([t.AddedToken(content_of(x), special=True) for x in special])
    template = tokenizer_class.template
    around = template(settings, old) if callable(template) else template
    if around is not None:
        tokenizer.post_processor = _template(t, settings, tokenizer, around, tokenizer_class.second, named)
    else:
        tokenizer.post_processor = old.post_processor or t.processors.TemplateProcessing(single="$A")
    return tokenizer


def _template(
    t: Any, settings: Settings, tokenizer: Any, around: Iterable[str], second: str, named: Mapping[str, Any]
) -> Any:
    """A post-processor that sets tokens of such names around the text, and around the second one of a pair."""
    special = {}

    def piece(name: str, kind: str = "") -> str:
        if name.startswith("$"):
            return name + kind
        token = (settings.values.get(name) or "en_XX") if name == "src_lang" else named.get(name)
        if token is None or (number := tokenizer.token_to_id(content_of(token))) is None:
            raise ValueError(f"load: {settings.file}: {name} must be a token, not {token!r:.200}")
        special[content_of(token)] = number
        return content_of(token) + kind

    single = [piece(name or "$A") for name in around]
    pair = [piece(name, colon + kind) for name, colon, kind in (x.partition(":") for x in second.split())]
    pairs = {"pair": single + pair} if pair else {}
    return t.processors.TemplateProcessing(single=single, **pairs, special_tokens=list(special.items()))


def _with_unknown(t: Any, model: Any, content: bytes, tokenizer_class: TokenizerClass, named: Mapping[str, Any]) -> Any:
    """The model, with the token for unknown characters that its class takes."""
    if tokenizer_class.unknown is None:
        return model
    unknown = tokenizer_class.unknown
    if isinstance(unknown, str):
        token = content_of(named.get(unknown))
        if tokenizer_class.model != "Unigram":
            model.unk_token = token
            return model
        unknown = model.token_to_id(token) or 0
    try:
        if [token.id for token in model.tokenize(_RARE)] == [unknown]:
            return model
    except Exception:  # it has none: the library raises no other kind
        pass
    vocabulary = json.loads(content)["model"]["vocab"]
    return t.models.Unigram([tuple(piece) for piece in vocabulary], unk_id=unknown, byte_fallback=False)


def _clean_up(t: Any, tokenizer: Any, settings: Settings) -> None:
    """Lets decode take away spaces in front of punctuation; BPE's are left alone, as transformers does."""
    key = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    if type(tokenizer.model).__name__ == "BPE" and not settings.flag(key, False, null=False):
        return
    if tokenizer.decoder is None:
        raise settings.error("clean_up_tokenization_spaces", "false: tokenizer.json has no decoder")
    steps = [t.decoders.Replace(old, new) for old, new in CLEANED.items()]
    tokenizer.decoder = t.decoders.Sequence([tokenizer.decoder, t.decoders.Fuse(), *steps])
