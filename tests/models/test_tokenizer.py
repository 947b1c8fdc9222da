"""Tokenizers of strangers: refused with the file's name before they cost more than their size, or when they fail."""

import json

import pytest

from pyattn import SentenceEncoder
from pyattn.models.tokenizer import errors_of_library
from tests.support import mutations
from tests.support.mutations import SEP, TEXT, charsmap, replacement, template
from tests.support.tiny_model import write_model

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")

BYTES, METASPACE, UNKNOWN = mutations.BYTES, mutations.PRE_TOKENIZERS[5], {"SpecialToken": {"id": "[X]", "type_id": 0}}
UNIGRAM = {"type": "Unigram", "unk_id": None, "byte_fallback": False, "vocab": [["the", -1]]}
DOUBLING = {"type": "Sequence", "normalizers": [replacement("a", "aa")] * 64}
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
SPACES = replacement(" {2,}", "▁", "Regex")


def precompiled(size, rest):
    return {"type": "Precompiled", "precompiled_charsmap": charsmap(size, rest)}


def encoder(folder, **parts):
    write_model(folder)
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | parts))
    return SentenceEncoder.from_pretrained(folder)


def sequence(name, *steps):
    return {"type": "Sequence", name: list(steps)}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"normalizer": DOUBLING}, r"could make a text 1\.84e\+19 times as long; at most 100000 is accepted"),
        ({"normalizer": sequence("normalizers", DOUBLING, {"type": "Lowercase"})}, "times as long"),
        ({"normalizer": sequence("normalizers", *[{"type": "ByteLevel"}] * 40)}, "times as long"),
        ({"normalizer": replacement("", "x" * 10**6)}, "could make a text 1e\\+06 times"),
        ({"normalizer": replacement("a*", "x" * 10**6, "Regex")}, "could make a text 1e\\+06 times"),
        ({"normalizer": precompiled(1024, bytes(1024) + b"x" * 10**6 + b"\0")}, "could make a text 1e\\+06 times"),
        ({"pre_tokenizer": sequence("pretokenizers", *[BYTES] * 40)}, "times as long"),
        ({"normalizer": replacement("a", "a" * 1000), "pre_tokenizer": replacement("b", "b")}, "is not a tokenizer"),
        (
            {"normalizer": precompiled(2**32 - 8, b"abcd")},
            "has no normalizer that is accepted .*its precompiled_charsmap is not whole",
        ),
        (
            {"normalizer": precompiled(1024, b"abcd")},
            "has no normalizer that is accepted .*its precompiled_charsmap is not whole",
        ),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}, "is not a tokenizer that"),  # a panic
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "a"}}, "has no normalizer that is accepted"),
        ({"normalizer": [{"String": "a"}, "aa"]}, "has no normalizer that is accepted"),
        ({"normalizer": sequence("normalizers", "Lowercase")}, "has no normalizer that is accepted"),
        ({"normalizer": replacement("a", 1)}, "has no normalizer that is accepted"),
        ({"normalizer": replacement("(", "", "Regex")}, "is not a tokenizer that"),
        ({"post_processor": template(TEXT, TEXT)}, "its post_processor repeats the text"),
        ({"post_processor": sequence("processors", BYTES, template(TEXT, TEXT))}, "its post_processor repeats"),
        ({"post_processor": template(TEXT, SEP, ids=range(13))}, "adds 13 tokens to a text; max_seq_length is only 12"),
        (
            {"post_processor": template(TEXT, UNKNOWN)},
            "is not a tokenizer that the tokenizers library reads",
        ),  # a panic
        ({"post_processor": template(TEXT, SEP, ids=[48])}, "gives the token 48; config.json has vocab_size 48"),
        ({"post_processor": template(TEXT, SEP, ids=[2**32 - 1])}, "gives the token 4294967295; config.json has"),
        ({"model": {**mutations.BPE, "merges": [["a", "b"]]}}, "is not a tokenizer that"),
    ],
)
def test_a_tokenizer_that_is_refused(parts, message, tmp_path):
    with pytest.raises(ValueError, match=rf"^load: .*tokenizer\.json:? .*{message}"):
        encoder(tmp_path, **parts)


def test_a_normalizer_that_hides_is_found(tmp_path):
    write_model(tmp_path)
    file = tmp_path / "tokenizer.json"
    sound = file.read_text()
    grown = json.dumps(json.loads(sound) | {"normalizer": DOUBLING})
    for text, message in (
        (grown.replace('"normalizer"', '"norm\\u0061lizer"').replace("Replace", "Re\\u0070lace"), "times as long"),
        (grown[:-1] + ', "normalizer": null}', "times as long"),
        (grown[:-1] + ', "norm\\u0061lizer": null}', "a key stands twice in an object"),
        (
            grown.replace('"type": "Replace"', '"type": "Lowercase", "type": "Replace"'),
            "a key stands twice in an object",
        ),
        (sound[:-1] + "[", "is not a tokenizer that"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=rf"^load: .*tokenizer\.json:? .*{message}"):
            SentenceEncoder.from_pretrained(tmp_path)


def test_escapes_and_a_word_like_the_key_are_accepted(tmp_path):
    write_model(tmp_path)
    file = tmp_path / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["vocab"] |= {"normalizer": 45}
    file.write_text(json.dumps(tokenizer).replace('"cat"', '"c\\u0061t"'))
    encoder = SentenceEncoder.from_pretrained(tmp_path)
    assert encoder._first.tokenizer.encode("cat normalizer").ids == [2, 5, 45, 3]


def test_added_tokens_are_not_normalized_without_end(tmp_path):
    with pytest.raises(ValueError, match="times as long"):
        encoder(tmp_path, normalizer=DOUBLING, added_tokens=[{"id": 5, "content": "cat", **ADDED}])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"model": UNIGRAM}, "is not a tokenizer that the tokenizers library reads .*unk_id"),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "is not a tokenizer that"),
        ({"normalizer": replacement("(a+)+$", "", "Regex")}, "is not a tokenizer that the tokenizers library reads"),
        (
            {"added_tokens": [{"id": 45 + i, "content": x, **ADDED} for i, x in enumerate(("x1", "x2", "x3", "ab"))]},
            "gives the token 48; config.json has vocab_size 48",
        ),
    ],
)
def test_a_tokenizer_that_fails_at_a_text_is_named(parts, message, tmp_path):
    with pytest.raises(ValueError, match=rf"^encode: .*tokenizer\.json {message}"):
        encoder(tmp_path, **parts).encode(["b", "the " + "a" * 36 + "b"])


@pytest.mark.parametrize(
    "parts",
    [
        {
            "normalizer": sequence(
                "normalizers", {"type": "NFC"}, replacement("\\s+", " ", "Regex"), {"type": "Lowercase"}
            )
        },
        {
            "normalizer": sequence(
                "normalizers",
                replacement("``", '"'),
                {"type": "NFKD"},
                {"type": "StripAccents"},
                {"type": "Lowercase"},
                precompiled(1024, bytes(1024) + "صلى الله عليه وسلم".encode() + b"\0"),
                SPACES,
            ),
            "pre_tokenizer": METASPACE,
        },
        {"normalizer": sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, replacement(" ", "▁"))},
        {"pre_tokenizer": sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, BYTES)},
        {"post_processor": sequence("processors", BYTES, template(TEXT, SEP))},
    ],
)
def test_steps_as_published_tokenizers_have_them(parts, tmp_path):
    assert encoder(tmp_path, **parts).encode(["the cat"]).shape == (1, 24)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
def test_what_is_not_the_file_s_fault_is_left_alone(error, tmp_path):
    with pytest.raises(error), errors_of_library("load", tmp_path):
        raise error
