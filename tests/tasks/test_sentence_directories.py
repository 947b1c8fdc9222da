"""Directories of sentence-transformers, old and new: each key of their files obeyed or refused, as recorded."""

import json
import re
import shutil

import numpy as np
import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

from safetensors.numpy import load_file, save_file

from pyattn.tasks.sentence import SentenceEncoder
from tests.support.sentence_cases import CASES, RECORD, TENSORS, TEXTS, write_case

pytestmark = pytest.mark.filterwarnings("ignore:encode.*texts:UserWarning")  # TEXTS has one that is cut

# What sentence-transformers reads, and pyattn does not: how the name of such a case begins -> what the message names.
REFUSED = {
    "pooling {'include_prompt': ": "include_prompt must be true or false",
    "pooling [{'word_embedding_dimension': 16, 'pooling_mode_cls_token': False, 'pooling_mode_max_tokens': False, "
    "'pooling_mode_mean_tokens': ": "pooling_mode_mean_tokens must be true or false",
    "settings prompts {'x': 1}": "prompts must be an object of strings",
    "settings similarity_fn_name 'maxsim'": "similarity_fn_name must be one of",
    "settings model_type ": "model_type None is not supported|this directory holds a (Cross|Sparse)Encoder; use",
    "first max_seq_length 0": "max_seq_length must be a positive integer",
    "first modality_config ": "modality_config must be",
    "first processing_kwargs {'text': ": "processing_kwargs: text: (add_special_tokens|truncation)",
    "first query_length 4": "query_length 4 is not supported; accepted: null",
    "first document_length 4": "document_length 4 is not supported; accepted: null",
    "first tokenizer_args {'truncation_side'": "processor_kwargs: truncation_side is not supported",
    "first config_args {'num_hidden_layers'": "config_kwargs: num_hidden_layers is not supported",
    "dense activation_function ": "activation_function .* is not supported; those that are: torch",
    "dense use_residual None": "use_residual must be true or false",
    "dense surplus 1": "surplus is not supported; the keys that are",
    "normalize module_": "module_(in|out)put_name must be",
}
# What sentence-transformers fails to read or to compute, though it has a plain meaning.
READ = {
    "pooling {'embedding_dimension': 'ABSENT'}",
    "settings prompts None",
    "first module_output_name 'ABSENT'",
    "first max_seq_length 1000000000000000000000000000000",
    "tokenizer 7.0",
}


@pytest.mark.parametrize("name", CASES)
def test_every_directory_gives_the_recorded_vectors_or_is_refused(tmp_path, name):
    case = CASES[name]
    write_case(tmp_path / "model", case)
    try:
        encoder = SentenceEncoder.from_pretrained(tmp_path / "model")
    except ValueError as error:
        assert str(error).startswith(f"load: {tmp_path / 'model'}")
        if case["answers"] is not None and any(answer is not None for answer in case["answers"]):
            [message] = [message for start, message in REFUSED.items() if name.startswith(start)]
            assert re.search(message, str(error))
        return
    assert case["answers"] is not None or name in READ
    for (method, options), answer in zip(case["calls"], case["answers"] or [], strict=False):
        vectors = getattr(encoder, method)(TEXTS, **options)
        if answer is None:
            assert name in READ
        else:
            np.testing.assert_allclose(vectors, TENSORS[f"answer/{answer}"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("start", REFUSED)
def test_no_case_is_said_to_be_refused_in_vain(tmp_path, start):
    for number, name in enumerate(name for name in CASES if name.startswith(start)):
        try:
            SentenceEncoder.from_pretrained(write_case(tmp_path / str(number), CASES[name]))
        except ValueError:
            return
    raise AssertionError(start)


def test_streams_take_the_same_options(tmp_path):
    encoder = SentenceEncoder.from_pretrained(write_case(tmp_path, CASES["many"]))
    for options in ({"prompt": "find the "}, {"prompt_name": "passage"}, {"truncate_dim": 3}, {"normalize": False}):
        vectors = encoder.encode(TEXTS, **options)
        np.testing.assert_array_equal(np.stack(list(encoder.encode_stream(TEXTS, **options))), vectors)
        assert vectors.shape[1] == 3 or abs(vectors - encoder.encode(TEXTS)).max() > 1e-3


def test_prompts_are_chosen_by_name(tmp_path):
    encoder = SentenceEncoder.from_pretrained(write_case(tmp_path, CASES["many"]))
    assert encoder.prompts == {"query": "query: ", "document": "", "passage": "passage: the "}
    assert encoder.default_prompt_name is None
    plain, query = encoder.encode(TEXTS), encoder.encode_query(TEXTS)
    np.testing.assert_array_equal(query, encoder.encode(TEXTS, prompt_name="query"))
    np.testing.assert_array_equal(encoder.encode_document(TEXTS), plain)
    np.testing.assert_array_equal(encoder.encode_query(TEXTS, prompt=""), plain)
    passage = encoder.encode_query(TEXTS, prompt_name="passage")
    assert min(abs(query - plain).max(), abs(passage - plain).max(), abs(passage - query).max()) > 1e-3
    del encoder.prompts["document"]
    np.testing.assert_array_equal(encoder.encode_document(TEXTS), passage)
    encoder.default_prompt_name = "query"
    np.testing.assert_array_equal(encoder.encode(TEXTS), query)
    np.testing.assert_array_equal(encoder.encode(TEXTS, prompt_name="passage", prompt="query: "), query)


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document", "encode_stream"])
def test_wrong_options_are_refused(tmp_path, method):
    encoder = SentenceEncoder.from_pretrained(write_case(tmp_path, CASES["many"]))
    encode = getattr(encoder, method)
    name = "encode_stream" if method == "encode_stream" else "encode"
    with pytest.raises(ValueError, match=f"^{name}: there is no prompt 'x'; the names are 'query', 'document', 'pas"):
        encode(TEXTS, prompt_name="x")
    for options in ({"prompt": 1}, {"prompt_name": b"query"}, {"normalize": "yes"}):
        with pytest.raises(TypeError, match=f"^{name}: {next(iter(options))} must be"):
            encode(TEXTS, **options)
    for cut, error in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match=f"^{name}: truncate_dim must be a positive integer"):
            encode(TEXTS, truncate_dim=cut)
    with pytest.raises(ValueError, match="^SentenceEncoder: truncate_dim must be a positive integer, not 0"):
        SentenceEncoder.from_pretrained(tmp_path, truncate_dim=0)


def test_a_default_prompt_that_is_gone_is_an_error(tmp_path):
    encoder = SentenceEncoder.from_pretrained(write_case(tmp_path, CASES["many"]))
    encoder.default_prompt_name = "passage"
    del encoder.prompts["passage"]
    with pytest.raises(ValueError, match="^encode: there is no prompt 'passage'"):
        encoder.encode(TEXTS)


def test_vectors_are_cut_behind_all_modules(tmp_path):
    """As sentence-transformers: they are no unit vectors then, unless normalize is True."""
    write_case(tmp_path, CASES["many"])
    whole = SentenceEncoder.from_pretrained(tmp_path)
    cut = SentenceEncoder.from_pretrained(tmp_path, truncate_dim=4)
    vectors = whole.encode(TEXTS)
    np.testing.assert_array_equal(cut.encode(TEXTS), vectors[:, :4])
    np.testing.assert_array_equal(cut.encode(TEXTS, truncate_dim=100), vectors)
    unit = vectors[:, :4] / np.linalg.norm(vectors[:, :4], axis=1, keepdims=True)
    np.testing.assert_allclose(cut.encode(TEXTS, normalize=True), unit, atol=1e-6)
    raw = whole.encode(TEXTS, normalize=False)
    assert (abs(np.linalg.norm(raw, axis=1) - 1) > 1e-3).all()
    np.testing.assert_array_equal(cut.encode(TEXTS, normalize=False), raw[:, :4])
    cut.truncate_dim = None
    np.testing.assert_array_equal(cut.encode(TEXTS), vectors)
    assert SentenceEncoder.from_pretrained(write_case(tmp_path / "5", CASES["tokens"])).truncate_dim == 5


def test_settings_are_kept(tmp_path):
    encoder = SentenceEncoder.from_pretrained(write_case(tmp_path, CASES["tokens"]))
    assert (encoder.similarity_fn_name, encoder.pooling) == ("dot", "weightedmean")
    many = SentenceEncoder.from_pretrained(write_case(tmp_path / "many", CASES["many"]))
    assert many.pooling == ("cls", "mean", "max")
    static = SentenceEncoder.from_pretrained(write_case(tmp_path / "static", CASES["static"]))
    assert (static.pooling, static.model, static.max_seq_length) == (None, None, 7)
    with pytest.raises(ValueError, match="^SentenceEncoder: a StaticEmbedding has no max_seq_length that may be set"):
        static.max_seq_length = 5


SAVED = ["mean", "many", "tokens", "static", "words", "plain"]
SAVED += ["llama", "mistral", "qwen2", "gpt2", "t5", "t5 with decoder"]


@pytest.mark.parametrize("name", SAVED)
def test_what_is_saved_gives_the_same_bits(tmp_path, name):
    encoder = SentenceEncoder.from_pretrained(write_case(tmp_path / "model", CASES[name]))
    encoder.save_pretrained(tmp_path / "saved")
    again = SentenceEncoder.from_pretrained(tmp_path / "saved")
    for method, options in CASES[name]["calls"]:
        vectors = getattr(again, method)(TEXTS, **options)
        np.testing.assert_array_equal(vectors, getattr(encoder, method)(TEXTS, **options))
    for key in ("max_seq_length", "prompts", "default_prompt_name", "truncate_dim", "similarity_fn_name", "pooling"):
        assert getattr(again, key) == getattr(encoder, key)


@pytest.mark.parametrize("name", ["mean", "many", "tokens", "static", "words"])
def test_what_is_saved_is_what_sentence_transformers_writes(tmp_path, name):
    encoder = SentenceEncoder.from_pretrained(write_case(tmp_path / "model", CASES[name]))
    encoder.save_pretrained(tmp_path / "saved")
    theirs = dict(RECORD["files"][name])
    if "tokenizer_config.json" in theirs:
        said = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
        for key in ("tokenizer_class", "model_input_names", "truncation_side"):
            del said[key]
        assert said.items() <= theirs["tokenizer_config.json"].items()
    written = {str(x.relative_to(tmp_path / "saved")) for x in (tmp_path / "saved").rglob("*") if x.is_file()}
    assert written == theirs.keys()
    for file, content in theirs.items():
        if file in ("config.json", "tokenizer.json", "tokenizer_config.json", "whitespacetokenizer_config.json"):
            continue
        if file.endswith(".safetensors"):
            tensors = load_file(tmp_path / "saved" / file)
            wanted = {key: TENSORS[stored] for key, stored in content.items()}
            wanted = {key: x for key, x in wanted.items() if not key.startswith("pooler.")}
            assert tensors.keys() == wanted.keys()
            for key, x in wanted.items():
                np.testing.assert_array_equal(tensors[key], x)
            continue
        values = json.loads((tmp_path / "saved" / file).read_text())
        if file == "config_sentence_transformers.json":
            del content["__version__"]
        assert values == content, file


def test_what_is_set_is_saved(tmp_path):
    encoder = SentenceEncoder.from_pretrained(write_case(tmp_path / "model", CASES["many"]))
    encoder.prompts["passage"], encoder.default_prompt_name = "dog ", "passage"
    encoder.max_seq_length, encoder.truncate_dim = 6, 7
    encoder.save_pretrained(tmp_path / "saved")
    again = SentenceEncoder.from_pretrained(tmp_path / "saved")
    assert (again.max_seq_length, again.truncate_dim, again.prompts["passage"]) == (6, 7, "dog ")
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))


def test_lower_case_is_saved(tmp_path):
    encoder = SentenceEncoder.from_pretrained(write_case(tmp_path / "model", CASES["first do_lower_case True"]))
    encoder.save_pretrained(tmp_path / "saved")
    again = SentenceEncoder.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(again.encode(["The DOG"]), encoder.encode(["the dog"]))


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("name", ["many", "llama", "gpt2", "t5"])
def test_weights_are_saved_as_they_are_held(tmp_path, name, dtype):
    encoder = SentenceEncoder.from_pretrained(write_case(tmp_path / "model", CASES[name]), dtype=dtype)
    assert dtype in encoder.model.weight_dtypes.values() or "bfloat16" in encoder.model.weight_dtypes.values()
    vectors = encoder.encode(TEXTS, normalize=True)
    exact = SentenceEncoder.from_pretrained(tmp_path / "model").encode(TEXTS, normalize=True)
    assert 1e-6 < abs(vectors - exact).max() < 0.2
    encoder.save_pretrained(tmp_path / "saved")
    again = SentenceEncoder.from_pretrained(tmp_path / "saved", dtype=dtype)
    np.testing.assert_array_equal(again.encode(TEXTS, normalize=True), vectors)


def test_fingerprints_differ_where_vectors_do(tmp_path):
    names = ["many", "mean", "tokens", "static", "words", "llama", "settings truncate_dim 3", "first max_seq_length 6"]
    names += ["settings prompts {'query': 'the '}", "settings default_prompt_name 'passage'", "no normalize"]
    names += ["dense activation_function 'torch.nn.ReLU'", "tokenizer 7", "residual off", "words lower", "static whole"]
    encoders = [SentenceEncoder.from_pretrained(write_case(tmp_path / str(i), CASES[x])) for i, x in enumerate(names)]
    assert len({encoder.fingerprint for encoder in encoders}) == len(names)
    copy = SentenceEncoder.from_pretrained(write_case(tmp_path / "copy", CASES["many"]))
    assert copy.fingerprint == encoders[0].fingerprint
    changes = [{"truncate_dim": 3}, {"default_prompt_name": "query"}, {"max_seq_length": 9}, {"prompts": {"query": ""}}]
    for change in changes:
        for key, value in change.items():  # type: ignore[attr-defined]
            setattr(copy, key, value)
        encoders.append(copy)
        assert copy.fingerprint not in {encoder.fingerprint for encoder in encoders[: len(names)]}
    dense = load_file(tmp_path / "0" / "2_Dense" / "model.safetensors")
    save_file({key: x * 2 for key, x in dense.items()}, tmp_path / "0" / "2_Dense" / "model.safetensors")
    assert SentenceEncoder.from_pretrained(tmp_path / "0").fingerprint != encoders[0].fingerprint


def test_fingerprints_know_shards(tmp_path):
    """Of any name."""
    write_case(tmp_path, CASES["mean"])
    whole = SentenceEncoder.from_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = {name: ("words.safetensors" if "word" in name else "others.safetensors") for name in tensors}
    for file in set(names.values()):
        save_file({name: x for name, x in tensors.items() if names[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    sharded = SentenceEncoder.from_pretrained(tmp_path)
    np.testing.assert_array_equal(sharded.encode(TEXTS), whole.encode(TEXTS))
    first = sharded.fingerprint
    save_file({name: x * 2 for name, x in tensors.items() if "word" in name}, tmp_path / "words.safetensors")
    assert SentenceEncoder.from_pretrained(tmp_path).fingerprint != first


def test_the_fingerprint_reads_the_files_once(tmp_path):
    encoder = SentenceEncoder.from_pretrained(write_case(tmp_path / "model", CASES["many"]))
    first = encoder.fingerprint
    shutil.rmtree(tmp_path / "model")
    assert encoder.fingerprint == first


def test_a_chat_template_is_named_where_it_would_be_used(tmp_path):
    """sentence-transformers uses it where there is no modules.json, and only there."""
    for number, (file, content) in enumerate(
        [("tokenizer_config.json", {"chat_template": "{{ messages }}"}), ("chat_template.jinja", None)]
    ):
        folder = write_case(tmp_path / str(number), CASES["llama"])
        if content is None:
            (folder / file).write_text("{{ messages }}")
        else:
            values = json.loads((folder / file).read_text())
            (folder / file).write_text(json.dumps(values | content))
        with pytest.raises(ValueError, match=f"^load: .*{file}: without a modules.json"):
            SentenceEncoder.from_pretrained(folder)
        with_modules = SentenceEncoder.from_pretrained(write_case(tmp_path / f"{number}m", CASES["mean"]))
        shutil.copy(folder / file, tmp_path / f"{number}m" / file)
        again = SentenceEncoder.from_pretrained(tmp_path / f"{number}m")
        np.testing.assert_array_equal(again.encode(["dog"]), with_modules.encode(["dog"]))


def test_the_pooling_of_instructors_leaves_out_the_prompt(tmp_path, monkeypatch):
    """sentence-transformers goes by the name: their files do not say it."""
    folder = write_case(tmp_path / "model", CASES["mean"])
    monkeypatch.setattr("pyattn.tasks.sentence.encoder.find_directory", lambda name: folder)
    plain = SentenceEncoder.from_pretrained("someone/else").encode(TEXTS, prompt="find the ")
    vectors = SentenceEncoder.from_pretrained("hkunlp/instructor-base").encode(TEXTS, prompt="find the ")
    assert abs(vectors - plain).max() > 1e-3
    left_out = write_case(tmp_path / "other", CASES["pooling {'pooling_mode': 'mean', 'include_prompt': False}"])
    monkeypatch.setattr("pyattn.tasks.sentence.encoder.find_directory", lambda name: left_out)
    wanted = SentenceEncoder.from_pretrained("someone/else").encode(TEXTS, prompt="find the ")
    np.testing.assert_array_equal(vectors, wanted)


def test_token_types_are_refused(tmp_path):
    write_case(tmp_path, CASES["mean"])
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(ValueError, match=r"^load: .*tokenizer\.json: token types other than 0 are not supported"):
        SentenceEncoder.from_pretrained(tmp_path)
    folder = write_case(tmp_path / "gpt2", CASES["gpt2"])
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"^load: .*tokenizer_config\.json: model_input_names: token_type_ids are not"):
        SentenceEncoder.from_pretrained(folder)


@pytest.mark.oracle
@pytest.mark.parametrize("name", [*SAVED, "first do_lower_case True", "old modules", "llama both ways"])
def test_sentence_transformers_reads_what_is_saved(tmp_path, name):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    encoder = SentenceEncoder.from_pretrained(write_case(tmp_path / "model", CASES[name]))
    encoder.save_pretrained(tmp_path / "saved")
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu", local_files_only=True)
    for method, options in CASES[name]["calls"]:
        said = {"normalize_embeddings" if key == "normalize" else key: value for key, value in options.items()}
        vectors = getattr(encoder, method)(TEXTS, **options)
        np.testing.assert_allclose(getattr(theirs, method)(TEXTS, **said), vectors, atol=2e-6, rtol=0)


def test_weights_that_are_pickled_are_named(tmp_path):
    for name, folder in (("many", "2_Dense"), ("static", ".")):
        write_case(tmp_path / name, CASES[name])
        (tmp_path / name / folder / "model.safetensors").rename(tmp_path / name / folder / "pytorch_model.bin")
        with pytest.raises(ValueError, match=r"^load: .*pytorch_model\.bin is .*; model\.safetensors is needed"):
            SentenceEncoder.from_pretrained(tmp_path / name)


@pytest.mark.parametrize("path", ["a/../..", "..\\x", "/etc", "C:\\x", "\\x", "x\0"])
def test_modules_stay_inside_the_directory(tmp_path, path):
    write_case(tmp_path, CASES["mean"])
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[1]["path"] = path
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=r"modules\.json: the path of a module must be inside the directory"):
        SentenceEncoder.from_pretrained(tmp_path)


def test_the_transformer_may_have_a_folder_of_its_own(tmp_path):
    """As in the first releases."""
    case = CASES["old modules"]
    encoder = SentenceEncoder.from_pretrained(write_case(tmp_path / "root", case))
    folder = write_case(tmp_path / "model", case)
    (folder / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(folder / "0_Transformer" / name)
    (folder / "sentence_bert_config.json").rename(folder / "0_Transformer" / "sentence_bert_config.json")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    moved = SentenceEncoder.from_pretrained(folder)
    assert (moved.max_seq_length, encoder.max_seq_length) == (7, 7)
    np.testing.assert_array_equal(moved.encode(TEXTS), encoder.encode(TEXTS))


def test_model2vec_tables_are_folded(tmp_path):
    """embeddings, a mapping of tokens to rows, and a weight for each token, as newer releases of model2vec save."""
    write_case(tmp_path / "plain", CASES["static"])
    file = tmp_path / "plain" / "model.safetensors"
    [table] = load_file(file).values()
    rng = np.random.default_rng(0)
    rows, weights = rng.permutation(len(table)), rng.uniform(0.5, 2, len(table))
    folder = shutil.copytree(tmp_path / "plain", tmp_path / "folded")
    save_file({"embedding.weight": (table[rows] * weights[:, None]).astype(np.float32)}, file)
    save_file({"embeddings": table, "mapping": rows, "weights": weights}, folder / "model.safetensors")
    plain, folded = SentenceEncoder.from_pretrained(tmp_path / "plain"), SentenceEncoder.from_pretrained(folder)
    np.testing.assert_allclose(folded.encode(TEXTS), plain.encode(TEXTS), atol=1e-6)
    folded.save_pretrained(tmp_path / "saved")
    saved = SentenceEncoder.from_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(saved.encode(TEXTS), plain.encode(TEXTS), atol=1e-6)
    for wrong in ({"mapping": rows + 1}, {"mapping": rows - 1}, {"mapping": weights}, {"weights": weights[1:]}):
        save_file({"embeddings": table, "mapping": rows, "weights": weights} | wrong, folder / "model.safetensors")
        with pytest.raises(ValueError, match=rf"^load: .*model\.safetensors: {next(iter(wrong))} must be"):
            SentenceEncoder.from_pretrained(folder)


def test_a_static_embedding_reads_tokenizer_json_alone(tmp_path):
    """As sentence-transformers: what stands beside it is for others."""
    write_case(tmp_path, CASES["static"])
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer["model"] |= {"type": "WordPiece", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    vectors = SentenceEncoder.from_pretrained(tmp_path).encode(TEXTS)
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "truncation_side": "left"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    np.testing.assert_array_equal(SentenceEncoder.from_pretrained(tmp_path).encode(TEXTS), vectors)


def test_tensors_of_modules_must_fit(tmp_path):
    for folder, key in (("2_Dense", "linear.weight"), ("5_LayerNorm", "norm.bias")):
        write_case(tmp_path / folder, CASES["many"])
        file = tmp_path / folder / folder / "model.safetensors"
        tensors = load_file(file)
        save_file(tensors | {key: tensors[key][1:].copy()}, file)
        with pytest.raises(ValueError, match=rf"^load: .*{folder}/model\.safetensors: {key} must be floats of shape"):
            SentenceEncoder.from_pretrained(tmp_path / folder)
        for others in ({"x": tensors[key]}, tensors | {"x": tensors[key]}):
            save_file(others, file)
            with pytest.raises(ValueError, match=rf"^load: .*{folder}/model\.safetensors has the tensors .*; needed: "):
                SentenceEncoder.from_pretrained(tmp_path / folder)


def test_tensors_of_others_are_passed_over_on_request(tmp_path):
    for name in ("mean", "llama", "t5"):
        write_case(tmp_path / name, CASES[name])
        vectors = SentenceEncoder.from_pretrained(tmp_path / name).encode(TEXTS)
        file = tmp_path / name / "model.safetensors"
        save_file(load_file(file) | {"linear.weight": np.ones((2, 2), np.float32)}, file)
        with pytest.raises(ValueError, match=r"^load: .*model\.safetensors: tensors that .* not have: linear\.weight"):
            SentenceEncoder.from_pretrained(tmp_path / name)
        encoder = SentenceEncoder.from_pretrained(tmp_path / name, strict=False)
        assert "linear.weight" in encoder.model.unused_tensors
        np.testing.assert_array_equal(encoder.encode(TEXTS), vectors)


def test_other_families_are_named(tmp_path):
    write_case(tmp_path, CASES["plain"])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bart"}))
    with pytest.raises(ValueError, match=r"^load: .*config.json: model_type must be one of .*'bert'.*'t5', not 'bart'"):
        SentenceEncoder.from_pretrained(tmp_path)
