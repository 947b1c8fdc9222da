"""Marian's pieces as tokens: those of its library, by the numbers of vocab.json, as transformers has them."""

import io
import json

import pytest
from tiny_generator import write_generator

import pyattn
from pyattn.models._sentencepiece import MarianTokenizer

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
TEXTS += [">><<ab", ">>f\n<<ab"]


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
    target = sentencepiece.SentencePieceProcessor(model_file=str(folder / "target.spm"))
    written = [vocabulary[piece] for piece in target.encode("ef gef", out_type=str)]
    assert tokenizer.decode([vocabulary["<pad>"], *written, 0, 39]) == "ef gef"
    assert tokenizer.decode([]) == ""


@pytest.mark.filterwarnings("ignore:Recommended")
def test_as_transformers_has_them(folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.MarianTokenizer(
        *(str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")), source_lang="a", target_lang="b"
    )
    ours = MarianTokenizer(folder, 40)
    for text in TEXTS:
        if "</s>" not in text:  # which they take for the end, wherever it stands
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
