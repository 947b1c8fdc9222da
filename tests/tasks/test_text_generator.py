"""Texts from texts: what the model writes of the tokens, in any batches; streamed; and what is refused."""

import pytest

import bench.torch_families  # noqa: F401  # which makes "latex-ocr" a family
import pyattn
from pyattn.generation import GenerationOptions
from tests.support.tiny_generator import write_generator

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

CASES = ("bart", "gpt2")
TEXTS = ["w7 w9 w30", "w12", "w4 w4 w5 w20 w38 w6", "w33 w8"]


@pytest.fixture(scope="module", params=CASES)
def generator(request, tmp_path_factory):
    return pyattn.TextGenerator.from_pretrained(write_generator(tmp_path_factory.mktemp("model"), request.param))


def written_alone(generator, text, **options):
    """By the model itself, without what the class does."""
    ids = [int(word[1:]) for word in text.split()]
    if generator.model.encoder is None:
        (result,) = generator.model.generate([ids], **options)
    else:
        (result,) = generator.model.generate(memory=generator.model.encode([[*ids, 2]]), **options)
    return " ".join(f"w{token}" for token in result.tokens.tolist() if token > 2 and token not in stops(generator))


def stops(generator):
    return generator.model.options.stop_tokens


@pytest.mark.parametrize("options", [{"max_new_tokens": 9, "num_beams": 3}, {"max_length": 12, "num_beams": 1}])
def test_writes_what_the_model_writes(generator, options):
    results = generator(TEXTS, **options)
    assert [x.strip() for x in results] == [written_alone(generator, text, **options) for text in TEXTS]


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 3, "num_beams": 1}])
def test_a_text_does_not_depend_on_its_batch(generator, options):
    expected = generator(TEXTS, batch_size=1, **options)
    for size in (2, 16):
        assert generator(TEXTS, batch_size=size, **options) == expected
    assert generator(TEXTS[:2], **options) == expected[:2]
    assert generator([], **options) == []


def test_seeds(generator):
    options = {"do_sample": True, "num_beams": 1, "max_new_tokens": 8}
    assert generator(TEXTS, seed=1, **options) != generator(TEXTS, seed=2, **options)
    same = generator([TEXTS[0]] * 4, seed=1, **options)
    assert len(set(same)) > 1  # each text has a stream of its own
    chosen = generator([TEXTS[0]] * 3, seed=[5, 6, 5], batch_size=2, **options)
    assert chosen[0] == chosen[2] != chosen[1]
    with pytest.raises(ValueError, match="^TextGenerator: there are 4 texts, but 2 seeds"):
        generator(TEXTS, seed=[1, 2], **options)


def test_options_are_checked_once_for_each_length_limit(generator, monkeypatch):
    checked, check = [], GenerationOptions.__post_init__
    options = GenerationOptions(max_new_tokens=4, do_sample=True, seed=3)
    monkeypatch.setattr(GenerationOptions, "__post_init__", lambda self: checked.append(self) or check(self))
    generator(["w7 w9", "w12", "w30 w3"], options, batch_size=1)
    assert not checked
    generator(["w7 w9", "w12", "w30"], options, batch_size=1, temperature=2.0)
    assert len(checked) == 1
    list(generator.stream("w7", options))
    assert len(checked) == 2  # without beams


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 3}])
def test_streams_what_a_call_gives(generator, options):
    most = 0
    for text in TEXTS:
        pieces = list(generator.stream(text, max_new_tokens=12, **options))
        most = max(most, len(pieces))
        assert "" not in pieces
        assert "".join(pieces) == generator([text], max_new_tokens=12, num_beams=1, **options)[0]
    assert most > 1


def test_streams_whole_characters(tmp_path):
    """Bytes of a character are held back until it is whole; those of none come at the end."""
    from tokenizers import Tokenizer, decoders, models

    vocabulary = {"a": 3, "Ã": 4, "¤": 5, "Ġb": 6}  # the bytes of "ä" as byte-level tokenizers spell them
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.decoder = decoders.ByteLevel()
    generator = pyattn.TextGenerator.from_pretrained(write_generator(tmp_path, "gpt2"))
    generator.tokenizer = tokenizer

    def streamed(tokens):
        generator.model.stream = lambda prompts, options: ((0, token) for token in tokens)
        return list(generator.stream("a", max_new_tokens=5))

    assert streamed([3, 4, 5, 6]) == ["a", "ä", " b"]
    assert streamed([3, 4]) == ["a", "\N{REPLACEMENT CHARACTER}"]


def test_how_long_texts_get(tmp_path):
    """256 tokens where nothing is said, or what the model has positions for; that of a text is its own."""
    told = {"suppress_tokens": [0, 1, 2]}
    folder = write_generator(tmp_path, "llama-dynamic", generation=told, max_position_embeddings=270)
    generator = pyattn.TextGenerator.from_pretrained(folder)
    long = " ".join(["w9"] * 40)
    results = generator(["w9 w4", long, "w5"])
    assert [len(x.split()) for x in results] == [256, 230, 256]
    assert generator([long]) == results[1:2]
    assert len(generator(["w9"], max_new_tokens=3)[0].split()) == 3


def test_dtypes(tmp_path):
    for dtype in ("bfloat16", "int8"):
        generator = pyattn.TextGenerator.from_pretrained(write_generator(tmp_path, "bart"), dtype=dtype)
        assert set(generator.model.weight_dtypes.values()) == {dtype}
        assert len(generator(TEXTS)) == len(TEXTS)


def test_progress(generator, capsys):
    generator(TEXTS, show_progress=True, max_new_tokens=2)
    assert "writing" in capsys.readouterr().err
    generator(TEXTS, show_progress=False, max_new_tokens=2)
    generator(TEXTS, max_new_tokens=2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda g: g("w7"), TypeError, "texts must be a list of str, not a single one"),
        (lambda g: g(3), TypeError, "texts must be a list of str, not int"),
        (lambda g: g(["w7", 3]), TypeError, r"texts\[1\] must be a str, not int"),
        (lambda g: g(["w7"], beams=3), TypeError, "there is no option 'beams'"),
        (lambda g: g(["w7"], {"num_beams": 3}), TypeError, "options must be GenerationOptions or None, not dict"),
        (lambda g: g(["w7"], batch_size=0), ValueError, "batch_size must be a positive integer, not 0"),
        (lambda g: g(["w7"], num_beams=2, num_return_sequences=2), ValueError, "num_return_sequences must be 1, not 2"),
        (lambda g: g(["w7", "w8 " * 40]), ValueError, r"texts\[1\] has 4[01] tokens; the model takes from 1 to"),
        (lambda g: g.stream(3), TypeError, r"must be a str, not int"),
        (lambda g: g.stream("w7", num_beams=2), ValueError, "one result for each prompt, without beams"),
        (lambda g: g.stream("w8 " * 40), ValueError, "text has 4[01] tokens; the model takes from 1 to"),
    ],
)
def test_calls_that_are_refused(generator, call, error, message):
    with pytest.raises(error, match=message):
        call(generator)


def test_a_text_without_tokens_is_refused(tmp_path):
    generator = pyattn.TextGenerator.from_pretrained(write_generator(tmp_path, "llama"))
    with pytest.raises(ValueError, match=r"^TextGenerator: texts\[1\] has 0 tokens"):
        generator(["w3", " "])
    assert generator(["\udcff"])  # what is no text is an unknown word


def test_directories_that_are_refused(tmp_path):
    load = pyattn.TextGenerator.from_pretrained
    folder = write_generator(tmp_path / "a", "marian")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"^load: .*tokenizer\.json is missing; a model directory holds"):
        load(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer that the tokenizers library reads"):
        load(folder)
    with pytest.raises(ValueError, match="whisper reads frames, not text; SpeechRecognizer takes it"):
        load(write_generator(tmp_path / "b", "whisper"))
    with pytest.raises(ValueError, match="latex-ocr reads patches, not text$"):
        load(write_generator(tmp_path / "c", "latex-ocr"))
    with pytest.raises(ValueError, match="model_type must be one of"):
        load(write_generator(tmp_path / "d", "bart", model_type="bert"))


def test_a_model_that_fails_while_it_streams_is_not_the_tokenizer_s_fault(tmp_path):
    generator = pyattn.TextGenerator.from_pretrained(write_generator(tmp_path, "llama"))

    def chosen(prompts, options):
        yield 0, 9
        raise ValueError("the model is at fault")

    generator.model.stream = chosen
    with pytest.raises(ValueError, match="^the model is at fault"):
        list(generator.stream("w7"))


def test_bytes_behind_a_prompt_that_ends_with_bytes(tmp_path):
    """Two bytes of a character are two marks, in a stream and in a call, whatever the prompt ends with."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    smile, lost = "\N{SLIGHTLY SMILING FACE}", "\N{REPLACEMENT CHARACTER}"
    names = ["▁the", *(f"<0x{i:02X}>" for i in smile.encode()), "▁"]
    model = models.BPE({name: i + 3 for i, name in enumerate(names)}, [], byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    generator = pyattn.TextGenerator.from_pretrained(write_generator(tmp_path, "llama"))
    generator.tokenizer = tokenizer
    assert tokenizer.encode(smile).ids == [8, 4, 5, 6, 7]
    others = [i for i in range(40) if i not in (4, 5)]
    generator.model.options = GenerationOptions(max_new_tokens=2, suppress_tokens=others)
    assert generator([smile]) == [lost * 2]
    assert list(generator.stream(smile)) == [lost * 2]


def write_mbart(folder, template):
    """A model of three languages, whose tokens are w30, w31 and w32 otherwise."""
    from tokenizers import Tokenizer, processors

    write_generator(folder, "mbart")
    text = (folder / "tokenizer.json").read_text()
    for word, code in (("w30", "de_DE"), ("w31", "en_XX"), ("w32", "fr_XX")):
        text = text.replace(f'"{word}"', f'"{code}"')
    tokenizer = Tokenizer.from_str(text)
    tokenizer.add_special_tokens(["de_DE", "en_XX", "fr_XX"])
    special = [("<2>", 2), ("en_XX", 31)]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("template", ["$A <2> en_XX", "en_XX $A <2>"])
def test_languages_of_mbart(template, tmp_path):
    generator = pyattn.TextGenerator.from_pretrained(write_mbart(tmp_path, template))
    assert generator.languages == ["de_DE", "en_XX", "fr_XX"]

    def written(source, **options):
        ids = [7, 9, 2, source] if template.startswith("$A") else [source, 7, 9, 2]
        memory = generator.model.encode([ids])
        [result] = generator.model.generate(memory=memory, max_new_tokens=6, num_beams=1, **options)
        return generator.tokenizer.decode(result.tokens.tolist())

    options = {"max_new_tokens": 6, "num_beams": 1}
    results = [generator(["w7 w9"], source=code, target="fr_XX", **options) for code in ("de_DE", "en_XX")]
    assert results == [[written(source, forced_bos_token_id=32)] for source in (30, 31)]
    assert len({*map(str, results)}) == 2
    assert "".join(generator.stream("w7 w9", source="de_DE", target="fr_XX", **options)) == results[0][0]
    assert generator(["w7 w9"], **options) == [written(31)]  # and 33 first, as the directory says
    assert "".join(generator.stream("w7 w9", source="de_DE", **options)) == written(30)


def test_languages_that_are_refused(tmp_path):
    generator = pyattn.TextGenerator.from_pretrained(write_mbart(tmp_path, "$A <2> en_XX"))
    for call, text in ((generator, ["w7"]), (generator.stream, "w7")):
        for error, message, given in (
            (ValueError, "source must be one of de_DE, en_XX, fr_XX, not 'xx_XX'", {"source": "xx_XX"}),
            (ValueError, "target must be one of de_DE, en_XX, fr_XX, not 'German'", {"target": "German"}),
            (TypeError, "source must be a language's code, not int", {"source": 3}),
            (ValueError, "forced_bos.* and target='de_DE' exclude", {"target": "de_DE", "forced_bos_token_id": 5}),
        ):
            with pytest.raises(error, match=f"^TextGenerator.*: {message}"):
                call(text, **given)


def test_a_language_of_the_text_where_none_is_marked(tmp_path):
    generator = pyattn.TextGenerator.from_pretrained(write_mbart(tmp_path, "$A <2>"))
    with pytest.raises(ValueError, match=r"source is 'de_DE', but .*tokenizer\.json marks no text with its language"):
        generator(["w7"], source="de_DE")


def test_models_without_languages_refuse_them(generator):
    assert generator.languages == []
    for name in ("source", "target"):
        with pytest.raises(ValueError, match=rf"^TextGenerator: {name} is 'de_DE', but .* has no tokens for languages"):
            generator(["w7"], **{name: "de_DE"})


def test_tokens_that_the_model_lacks_are_named(tmp_path):
    from tokenizers import Tokenizer

    folder = write_generator(tmp_path, "llama")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["one_more"])
    tokenizer.save(str(folder / "tokenizer.json"))
    generator = pyattn.TextGenerator.from_pretrained(folder)
    assert len(generator(["w7"], max_new_tokens=2)) == 1
    for call in (lambda: generator(["w7", "w8 one_more"]), lambda: generator.stream("one_more")):
        with pytest.raises(ValueError, match=r"^TextGenerator.*tokenizer\.json gives the token 40; .*vocab_size 40"):
            call()
