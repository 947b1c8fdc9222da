"""Marian's pieces as tokens: those of its library, by the numbers of vocab.json, as transformers has them."""

import io
import json

import pytest

import pyattn
from pyattn.models.marian_tokenizer import MarianTokenizer
from tests.support.tiny_generator import write_generator

sentencepiece = pytest.importorskip("sentencepiece")
pytest.importorskip("safetensors")

SOURCE = ["ab abc dab cad", "bad cab dad", "abba cd"]
TARGET = ["ef gef hag", "gaff hef feg", "egg he"]
TEXTS = [
    ">><<ab",
    ">>f\n<<ab",
    "ab cad",
    "  dab   abba ",
    "",
    "zx ab",
    ">>fr<< ab",
    "ab >>fr<<",
    "</s> ab",
    "äb\nab",
    "\0 ab",
]
TEXTS += ["ab </s> cad", "ab<pad>cad", " <unk> ab", "</s>>>fr<< ab</s>", ">>fr</s><<ab", "</s", "</s></s>"]


def trained(sentences):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 20), model_writer=model, vocab_size=14, hard_vocab_limit=False,
        bos_id=-1, eos_id=0, unk_id=1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_generator(tmp_path_factory.mktemp("marian") / "model", "marian")
    (folder / "tokenizer.json").unlink()
    pieces = ["</s>", "<unk>"]
    for name, sentences in (("source.spm", SOURCE), ("target.spm", TARGET)):
        (folder / name).write_bytes(trained(sentences))
        processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / name))
        pieces += [processor.id_to_piece(i) for i in range(2, processor.vocab_size())]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys([*pieces, ">>fr<<", "<pad>"]))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return folder


def test_tokens(folder):
    tokenizer = MarianTokenizer(folder, 40)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    ids = tokenizer.encode("ab cad").ids
    source = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    assert ids == [vocabulary[piece] for piece in source.encode("ab cad", out_type=str)] + [0]
    assert tokenizer.encode("zx").ids[-2:] == [1, 0]
    assert tokenizer.encode(">>fr<< ab").ids == [vocabulary[">>fr<<"], *tokenizer.encode("ab").ids]
    parted = [*ids[:-1], 0, *tokenizer.encode(">>fr<<ab").ids[:-1], vocabulary["<pad>"], 1, 0]
    assert tokenizer.encode("ab cad</s>>>fr<<ab<pad><unk>").ids == parted
    target = sentencepiece.SentencePieceProcessor(model_file=str(folder / "target.spm"))
    written = [vocabulary[piece] for piece in target.encode("ef gef", out_type=str)]
    assert tokenizer.decode([vocabulary["<pad>"], *written, 0, 39]) == "ef gef"
    assert tokenizer.decode([]) == ""


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:Recommended")
def test_as_transformers_has_them(folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.MarianTokenizer(
        *(str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")), source_lang="a", target_lang="b"
    )
    ours = MarianTokenizer(folder, 40)
    for text in TEXTS:
        assert ours.encode(text).ids == theirs(text)["input_ids"], text
    for ids in ([5, 9, 14, 20, 0], [0], [20, 1, 21], list(range(20))):
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True).replace(" ⁇ ", ""), ids


def test_a_translation(folder):
    generator = pyattn.TextGenerator.from_pretrained(folder)
    for text, written in zip(TEXTS, generator(TEXTS, max_new_tokens=6), strict=True):
        ids = generator.tokenizer.encode(text).ids
        (result,) = generator.model.generate(memory=generator.model.encode([ids]), max_new_tokens=6)
        assert written == generator.tokenizer.decode(result.tokens)
        (greedy,) = generator([text], max_new_tokens=6, num_beams=1)
        assert "".join(generator.stream(text, max_new_tokens=6)) == greedy


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("target.spm", None, FileNotFoundError, r"target\.spm is missing"),
        ("vocab.json", None, FileNotFoundError, r"vocab\.json is missing"),
        ("source.spm", b"", ValueError, r"source\.spm is not a model that the sentencepiece library reads"),
        ("vocab.json", b"[]", ValueError, r"vocab\.json"),
        ("vocab.json", b'{"a": 1}', ValueError, "lacks </s> and <unk>"),
        ("vocab.json", b'{"</s>": 0, "<unk>": 40}', ValueError, "numbers tokens otherwise than 0 to 39"),
        ("vocab.json", b'{"</s>": 0, "<unk>": true}', ValueError, "numbers tokens otherwise than 0 to 39"),
        ("vocab.json", b'{"</s>": 0, "<unk>": 0}', ValueError, "has a number twice"),
        ("source.spm", b"\x1a\x7f", ValueError, r"source\.spm is not a model that the sentencepiece library reads"),
        ("source.spm", b"\x1a\xff", ValueError, r"source\.spm is not a model of sentencepiece \(index out"),
        ("source.spm", b"\xff" * 20, ValueError, "a number has more than 64 bits"),
        ("source.spm", b"\x1a\x06\x12\x04\xff\0\0\0", ValueError, "its precompiled_charsmap is not whole"),
        ("source.spm", b"\x1b\x12", ValueError, r"source\.spm is not a model of sentencepiece \(a field has type 3"),
    ],
)
def test_directories_that_are_refused(folder, tmp_path, name, content, error, message):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=f"^load: .*{message}"):
        pyattn.TextGenerator.from_pretrained(tmp_path)


def test_rules_that_make_texts_long_are_refused(folder, tmp_path):
    """One rule, a to 200,000 times b: what a stranger's normalizer may not do."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    rules = b"\0\0\0\0" + b"b" * 200_000 + b"\0"
    inner = b"\x12" + varint(len(rules)) + rules
    for field in (b"\x1a", b"\x2a"):
        (tmp_path / "source.spm").write_bytes(trained(SOURCE) + field + varint(len(inner)) + inner)
        with pytest.raises(ValueError, match=r"^load: .*source\.spm: its normalizer .* 2e\+05 times as long"):
            pyattn.TextGenerator.from_pretrained(tmp_path)


def varint(number):
    return bytes([number & 127 | 128, number >> 7 & 127 | 128, number >> 14])


def copied(folder, tmp_path, **settings):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def test_languages(folder):
    generator = pyattn.TextGenerator.from_pretrained(folder)
    assert generator.languages == ["fr"]

    def called(text, **more):
        return generator([text], max_new_tokens=6, num_beams=1, **more)[0]

    def streamed(text, **more):
        return "".join(generator.stream(text, max_new_tokens=6, **more))

    for call in (called, streamed):
        for target in ("fr", ">>fr<<"):
            assert call("ab cad", target=target) == call(">>fr<< ab cad")
        with pytest.raises(ValueError, match="target must be one of fr, not 'xx'"):
            call("ab", target="xx")
        with pytest.raises(ValueError, match=r"source is 'fr', but .*source\.spm marks no text with its language"):
            call("ab", source="fr")


@pytest.mark.parametrize(
    "settings",
    [
        {"separate_vocabs": True},
        {"sp_model_kwargs": {"enable_sampling": True}},
        {"eos_token": "<end>"},
        {"unk_token": None},
        {"pad_token": {"__type": "AddedToken", "content": "x"}},
        {"added_tokens_decoder": {"3": {"content": "ab"}}},
        {"additional_special_tokens": ["ab"]},
        {"extra_special_tokens": ["ab"]},
    ],
    ids=str,
)
def test_settings_that_are_refused(folder, tmp_path, settings):
    [key] = settings
    with pytest.raises(ValueError, match=rf"^load: .*tokenizer_config\.json: {key} is .* not supported of Marian's"):
        pyattn.TextGenerator.from_pretrained(copied(folder, tmp_path, **settings))


def test_settings_that_are_obeyed(folder, tmp_path):
    told = {"eos_token": {"content": "</s>"}, "added_tokens_decoder": {"0": {"content": "</s>"}}, "source_lang": "de"}
    tokenizer = MarianTokenizer(copied(folder, tmp_path, **told), 40)
    assert tokenizer.encode("ab").ids == MarianTokenizer(folder, 40).encode("ab").ids and not tokenizer.unsettled
    cleaning = MarianTokenizer(copied(folder, tmp_path, clean_up_tokenization_spaces=True), 40)
    cleaning._target = type("Target", (), {"decode": staticmethod(lambda pieces: "do n't , x")})()
    assert cleaning.decode([5]) == "don't, x" and cleaning.unsettled == 3


def test_tokens_that_the_model_lacks_are_named_where_a_text_has_them(folder, tmp_path):
    vocabulary = json.loads((folder / "vocab.json").read_text()) | {">>xx<<": 40}
    (copied(folder, tmp_path) / "vocab.json").write_text(json.dumps(vocabulary))
    generator = pyattn.TextGenerator.from_pretrained(tmp_path)
    assert generator.languages == ["fr"] and len(generator(["ab"], max_new_tokens=2)) == 1
    with pytest.raises(ValueError, match=r"^TextGenerator: .*source\.spm gives the token 40; .* vocab_size 40"):
        generator([">>xx<< ab"])
