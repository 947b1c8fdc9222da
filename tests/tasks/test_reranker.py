"""Rerankers against what CrossEncoder gave for small directories; what is refused; and that batches do not matter."""

import base64
import importlib.util
import json
import re
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

from safetensors.numpy import load_file, save_file

import pyattn
from pyattn.models.tokenizer import read_tokenizer
from pyattn.models.tokenizer_classes import Settings, gives_types
from pyattn.tasks.reranker import Reranker, scorers
from pyattn.tasks.reranker.prompt import PairPrompt
from tests.data.record_reranker import CLASSES, FOLDER, LONGEST, PROMPTED, SETTINGS, SHORT, TEXTS
from tests.support.rerankers import CASES, DOCUMENTS, PAIRS, RECORD, write
from tests.support.tiny_model import write_model
from tests.support.tiny_tokenizers import VOCAB_SIZE, write_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:Reranker.*are cut:UserWarning")

ONE = [name for name, case in CASES.items() if "rank" in case["answers"]]  # that give one score for a pair


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("rerankers")
    return {name: write(top / name, name) for name in CASES}


@pytest.fixture(scope="module")
def rerankers(folders):
    return {name: Reranker.from_pretrained(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_cross_encoder(folders, rerankers, name):
    reranker, answers = rerankers[name], CASES[name]["answers"]
    assert reranker.max_length == answers["length"]
    scores = reranker.predict(PAIRS)
    several = np.ndim(answers["scores"]) == 2
    assert scores.dtype == np.float32 and scores.shape == ((len(PAIRS), 3) if several else (len(PAIRS),))
    assert np.ptp(scores, axis=0).min() > 1e-3  # a score that is any other pair's would be seen
    near = {"atol": 1e-5, "rtol": 0}
    np.testing.assert_allclose(scores, answers["scores"], **near)
    np.testing.assert_allclose(reranker.predict(PAIRS, activation="identity"), answers["logits"], **near)
    short = Reranker.from_pretrained(folders[name], max_length=SHORT.get(name, 11))
    np.testing.assert_allclose(short.predict(PAIRS), answers["short"], **near)
    if name in PROMPTED:
        given = reranker.predict(PAIRS, prompt=PROMPTED[name])
        np.testing.assert_allclose(given, answers["prompted"], **near)
        assert abs(given - scores).max() > 1e-3
    assert abs(np.subtract(answers["short"], answers["scores"])).max() > 1e-3
    for one in (tuple(PAIRS[0]), list(PAIRS[0]), np.array(PAIRS[0])):
        given = reranker.predict(one)
        np.testing.assert_array_equal(given, scores[0])
        assert given.shape == scores.shape[1:] and given.dtype == np.float32
    np.testing.assert_array_equal(reranker.predict(np.array(PAIRS)), scores)
    np.testing.assert_array_equal(reranker.predict(map(tuple, PAIRS)), scores)


def test_several_labels(rerankers):
    reranker = rerankers["roberta"]
    answers = CASES["roberta"]["answers"]
    assert reranker.labels == ("LABEL_0", "LABEL_1", "LABEL_2") and reranker.activation == "identity"
    np.testing.assert_allclose(reranker.predict(PAIRS, apply_softmax=True), answers["softmax"], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"^Reranker.rank: the model gives 3 scores for a pair \(LABEL_0, LABEL_1"):
        reranker.rank("a", ["b"])


def test_no_pairs(rerankers):
    for nothing in ([], (), iter([]), np.empty((0, 2), str)):
        for name, shape in (("bert", (0,)), ("roberta", (0, 3))):
            scores = rerankers[name].predict(nothing)
            assert scores.shape == shape and scores.dtype == np.float32
    assert rerankers["bert"].rank("query", []) == []


@pytest.mark.parametrize("name", ONE)
def test_ranks_are_those_of_cross_encoder(rerankers, name):
    reranker, answers = rerankers[name], CASES[name]["answers"]
    for given, expected in (
        (reranker.rank("find the cat", DOCUMENTS, return_documents=True), answers["rank"]),
        (reranker.rank("find the cat", iter(DOCUMENTS), 2), answers["top"]),
    ):
        assert [x.keys() for x in given] == [x.keys() for x in expected]
        assert [(x["corpus_id"], x.get("text")) for x in given] == [(x["corpus_id"], x.get("text")) for x in expected]
        np.testing.assert_allclose([x["score"] for x in given], [x["score"] for x in expected], atol=1e-5, rtol=0)
        assert all(type(x["score"]) is float and type(x["corpus_id"]) is int for x in given)
    scores = reranker.predict([("find the cat", text) for text in DOCUMENTS])
    assert [x["score"] for x in reranker.rank("find the cat", DOCUMENTS)] == sorted(scores.tolist(), reverse=True)
    assert reranker.rank("find the cat", DOCUMENTS, top_k=0) == []
    assert len(reranker.rank("find the cat", DOCUMENTS, top_k=99)) == len(DOCUMENTS)


def test_equal_scores_keep_their_order(rerankers):
    documents = ["cat", "dog"] * 40
    ranked = [x["corpus_id"] for x in rerankers["bert"].rank("find", documents)]
    first = ranked[0] % 2
    assert ranked == [*range(first, 80, 2), *range(1 - first, 80, 2)]
    assert [x["corpus_id"] for x in rerankers["bert"].rank("find", documents, top_k=3)] == ranked[:3]


@pytest.mark.parametrize("name", CASES)
def test_batches_and_threads_do_not_matter(rerankers, name):
    """More pairs than are tokenized at once, of every length: bitwise the same."""
    rng = np.random.default_rng(0)
    words = ["cat", "dog", "root", "the", "?"]
    pairs = [tuple(" ".join(rng.choice(words, rng.integers(0, 14))) for _ in range(2)) for _ in range(300)]
    reranker = rerankers[name]
    scores = reranker.predict(pairs)
    for batch_tokens in (1, 37, 100_000):
        for threads in (1, 2):
            with pyattn.num_threads(threads):
                np.testing.assert_array_equal(reranker.predict(pairs, batch_tokens=batch_tokens), scores)
    for i in (0, 7, 127, 128, 299):
        np.testing.assert_array_equal(reranker.predict(pairs[i]), scores[i])
    np.testing.assert_array_equal(reranker.predict(pairs[::-1]), scores[::-1])
    softmax = reranker.predict(pairs, apply_softmax=True)
    np.testing.assert_array_equal(reranker.predict(pairs[40:47], apply_softmax=True), softmax[40:47])


def test_a_batch_holds_at_most_the_budget(folders, monkeypatch):
    reranker = Reranker.from_pretrained(folders["bert"])
    model, seen = reranker.model, []

    def spy(token_ids, cu_seqlens, types):
        seen.append(np.diff(cu_seqlens).tolist())
        assert len(token_ids) == len(types) == cu_seqlens[-1]
        return model(token_ids, cu_seqlens, types)

    monkeypatch.setattr(reranker._scorer, "model", spy)
    reranker.predict([("cat", "dog"), ("", ""), ("the cat sat on", "a mat"), ("cat", "")], batch_tokens=9)
    assert seen == [[9], [5, 4], [3]]


@pytest.mark.parametrize(("dtype", "near"), [("bfloat16", 0.05), ("int8", 0.1), ({"*": "bfloat16"}, 0.05)])
@pytest.mark.parametrize("name", CASES)
def test_lower_precision_is_near(folders, rerankers, name, dtype, near):
    exact = rerankers[name].predict(PAIRS, activation="identity")
    scores = Reranker.from_pretrained(folders[name], dtype=dtype).predict(PAIRS, activation="identity")
    assert 0 < abs(scores - exact).max() < near * abs(exact).max()


# --- what files say


IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
OLD = "sbert_ce_default_activation_function"


@pytest.mark.parametrize(
    ("base", "config", "activation"),
    [
        ("bert", {}, "sigmoid"),
        ("roberta", {}, "identity"),
        ("bert", {"sentence_transformers": {"activation_fn": IDENTITY}, OLD: SIGMOID}, "identity"),
        ("bert", {"sentence_transformers": {"activation_fn": None}, OLD: IDENTITY}, "sigmoid"),
        ("bert", {"sentence_transformers": {"version": "4.0"}, OLD: IDENTITY}, "identity"),
        ("bert", {OLD: None}, "sigmoid"),
        ("bert", {OLD: "torch.nn.Identity"}, "identity"),
        ("roberta", {OLD: "torch.nn.Sigmoid"}, "sigmoid"),
        ("saved", {OLD: SIGMOID}, "identity"),  # config_sentence_transformers.json has the first word
    ],
)
def test_the_activation_that_files_name(tmp_path, base, config, activation):
    reranker = Reranker.from_pretrained(write(tmp_path, base, config=config))
    assert reranker.activation == activation
    logits, scores = reranker.predict(PAIRS, activation="identity"), reranker.predict(PAIRS)
    expected = 1 / (1 + np.exp(-logits.astype(float))) if activation == "sigmoid" else logits
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_a_sigmoid_of_any_number():
    from pyattn.tasks.reranker.reranker import _sigmoid

    values = _sigmoid(np.array([-np.inf, -200, -90, 0, 90, np.inf], np.float32))
    np.testing.assert_allclose(values, [0, 0, 0, 0.5, 1, 1], atol=1e-37)
    assert values.dtype == np.float32


@pytest.mark.parametrize("place", ["new", "old", "saved"])
def test_other_activations_are_refused_by_name_and_not_imported(tmp_path, place):
    (tmp_path / "evil.py").write_text("raise SystemExit")
    config = {"sentence_transformers": {"activation_fn": "evil.Activation"}} if place == "new" else {}
    config |= {OLD: "evil.Activation"} if place == "old" else {}
    beside = {"config_sentence_transformers": {"activation_fn": "evil.Activation"}} if place == "saved" else {}
    folder = write(tmp_path / "model", "saved" if beside else "bert", config=config, **beside)
    with pytest.raises(ValueError, match=r"^load: .*activation.* must be one of .*, not 'evil.Activation'"):
        Reranker.from_pretrained(folder)
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    ("base", "files", "error"),
    [
        ("bert", {"config": {"architectures": ["BertModel"]}}, "holds a BertModel, not .*; use SentenceEncoder"),
        ("bert", {"config": {"architectures": ["BertForMaskedLM"]}}, "holds a BertForMaskedLM.*; use SentenceEncoder"),
        (
            "bert",
            {"config": {"architectures": ["BertForTokenClassification"]}},
            "a BertForTokenClassification, not .*n$",
        ),
        (
            "bert",
            {"config": {"architectures": ["BertForCausalLM"]}},
            "model_type must be one of .*'qwen3', not 'bert'",
        ),
        (
            "bert",
            {"config": {"architectures": None, "model_type": "llama"}},
            "model_type must be one of .* not 'llama'",
        ),
        ("bert", {"chat_template": {"x": 1}}, "chat_template.json: without a modules.json"),
        ("saved", {"config_sentence_transformers": {"default_prompt_name": "web"}}, "default_prompt_name .* not 'web'"),
        ("saved", {"config_sentence_transformers": {"prompts": ["web"]}}, "prompts must be an object of strings"),
        (
            "saved",
            {"config_sentence_transformers": {"model_type": "SentenceTransformer"}},
            "holds a SentenceTransformer; use SentenceEncoder",
        ),
        (
            "saved",
            {"config_sentence_transformers": {"model_type": "SparseEncoder"}},
            "holds a SparseEncoder; use SparseEncoder",
        ),
        (
            "saved",
            {"sentence_bert_config": {"transformer_task": "text-generation"}},
            "'text-generation' is not supported",
        ),
        (
            "saved",
            {"sentence_bert_config": {"processing_kwargs": {"text": {"truncation": "only_first"}}}},
            "truncation 'only_first' is not supported; accepted: True, 'longest_first'",
        ),
        ("bert", {"tokenizer_config": {"model_max_length": 2}}, "adds 3 tokens to a pair; its max_length is only 2"),
    ],
)
def test_other_directories_are_refused_by_name(tmp_path, base, files, error):
    folder = write(tmp_path / "model", base, **files)
    with pytest.raises(ValueError, match=rf"^load: .*{error}"):
        Reranker.from_pretrained(folder)


TRANSFORMER, LOGIT_SCORE = "base.modules.transformer.Transformer", "cross_encoder.modules.logit_score.LogitScore"
DENSE = "base.modules.dense.Dense"


@pytest.mark.parametrize(
    ("base", "kinds", "files", "error"),
    [
        ("saved", ["1_LogitScore", LOGIT_SCORE], {}, "model_type must be one of .*'qwen3', not 'bert'"),
        ("saved", ["1_Router", "base.modules.router.Router"], {}, "Router is not supported after the first"),
        ("modular", ["2_Dense", DENSE], {}, "this module reads sentence_embedding, which there is not"),
        ("modular", ["1_LogitScore", LOGIT_SCORE, "2_Dense", DENSE], {}, "LogitScore must be the only module"),
        ("modular", None, {"4_Dense/config": {"module_output_name": None}}, "no module makes scores; a Dense"),
        ("modular", None, {"1_Pooling/config": {"include_prompt": False}}, "include_prompt false is not supported"),
        ("modular", None, {"sentence_bert_config": {"transformer_task": "fill-mask"}}, "'fill-mask' is not supported"),
        ("qwen3-saved", None, {"1_LogitScore/config": {"true_token_id": None}}, "true_token_id must be the number of"),
        ("qwen3-saved", None, {"1_LogitScore/config": {"true_token_id": 261}}, "from 0 to 260, not 261"),
        ("qwen3-saved", None, {"1_LogitScore/config": {"module_input_name": "logits"}}, "'logits' is not supported"),
        ("qwen3-saved", None, {"1_LogitScore/config": {"temperature": 2}}, "temperature is not supported"),
        ("qwen3-saved", None, {"sentence_bert_config": {"modality_config": None}}, "modality_config must be .*message"),
        (
            "qwen3-saved",
            None,
            {"sentence_bert_config": {"processing_kwargs": {"chat_template": {"task": "query"}}}},
            "chat_template: task is not supported",
        ),
    ],
)
def test_modules_that_do_not_fit_are_named(tmp_path, base, kinds, files, error):
    if kinds:
        kinds = ["", TRANSFORMER, *kinds]
        files["modules"] = [
            {"path": path, "type": f"sentence_transformers.{kind}"}
            for path, kind in zip(kinds[::2], kinds[1::2], strict=True)
        ]
    with pytest.raises(ValueError, match=rf"^load: .*{error}"):
        Reranker.from_pretrained(write(tmp_path, base, **files))


def test_modules_that_make_scores_are_none_of_a_sentence_encoder(tmp_path):
    folder = write(tmp_path, "modular", config_sentence_transformers={"model_type": "SentenceTransformer"})
    with pytest.raises(ValueError, match=r"^load: .*a module makes scores of pairs; use Reranker"):
        pyattn.SentenceEncoder.from_pretrained(folder)


# --- models of language


def test_what_texts_of_a_query_begin_with_is_computed_once(folders, monkeypatch):
    """To the same bits as without."""
    reranker = Reranker.from_pretrained(folders["qwen3"])
    scorer, model = reranker._scorer, reranker.model
    pairs = [(query, text) for query in ("find the cat", "the root ?") for text in DOCUMENTS] + PAIRS
    scores = reranker.predict(pairs)
    begun = []
    begin = model.begin
    monkeypatch.setattr(model, "begin", lambda tokens: begun.append(len(tokens)) or begin(tokens))
    np.testing.assert_array_equal(reranker.predict(pairs), scores)
    # of three queries with several texts, and of those that are alone with theirs
    assert len(begun) == 4 and 40 < begun[3] < min(begun[:3])
    monkeypatch.setattr(scorers, "_shared", lambda sequences: 0)
    np.testing.assert_array_equal(reranker.predict(pairs), scores)
    for batch_tokens in (1, 100, 300):
        np.testing.assert_array_equal(reranker.predict(pairs, batch_tokens=batch_tokens), scores)
    ids = [pair.ids for pair in scorer.tokenize("predict", "", PAIRS[:3])[0]]
    for cut in (0, 1, 30, 65):  # wherever the beginning ends
        logits = [model(begin(tokens[:cut]), [tokens[cut:]])[0] for tokens in ids]
        assert [np.float32(x[0] - x[1]) for x in logits] == reranker.predict(PAIRS[:3], activation="identity").tolist()


def test_prompts_by_name(folders):
    reranker = Reranker.from_pretrained(folders["qwen3-saved"])
    expected = CASES["qwen3-saved"]["answers"]
    assert reranker.prompts == {"web": PROMPTED["qwen3-saved"]} and reranker.default_prompt_name is None
    near = {"atol": 1e-5, "rtol": 0}
    np.testing.assert_allclose(reranker.predict(PAIRS, prompt_name="web"), expected["prompted"], **near)
    reranker.default_prompt_name = "web"
    np.testing.assert_allclose(reranker.predict(PAIRS), expected["prompted"], **near)
    np.testing.assert_allclose(reranker.predict(PAIRS, prompt=""), expected["scores"], **near)
    for options, kind, error in (
        ({"prompt_name": "x"}, ValueError, "there is no prompt 'x'; the names are 'web'"),
        ({"prompt": 3}, TypeError, "prompt must be a str or None, not int"),
        ({"prompt_name": 3}, TypeError, "prompt_name must be a str or None, not int"),
    ):
        with pytest.raises(kind, match=f"^Reranker.rank: {error}"):
            reranker.rank("a", ["b"], **options)


PLACE = '{{{{ messages | selectattr("role", "eq", "{0}") | map(attribute="content") | first }}}}'
QUERY, DOCUMENT, SYSTEM = map(PLACE.format, ("query", "document", "system"))
OTHER = "{{ (messages|selectattr('role','==','document')|first).content }}"


@pytest.mark.parametrize(
    ("template", "text"),
    [  # texts as transformers' Jinja gives them
        (f"{QUERY} and {DOCUMENT}\n\n", "Q and D\n"),
        (f"a\r\n{OTHER}\n{QUERY}\r\n", "a\nD\nQ"),
        (f"{SYSTEM}: {QUERY}{DOCUMENT}", ": QD"),
        (f"  {{# note #}}  \n x {{{{-{QUERY[2:-2]}-}}}}  \n\n{DOCUMENT}", "  \n xQD"),
        (f" {{% set d = {OTHER[2:-2]} %}}\n\n  {{%- set q = {QUERY[2:-2]} -%}}\n y{{{{ d }}}}{{{{q}}}}", "y"),
        (f"  {{% set q = {QUERY[2:-2]} %}}\n  {{% set d = {DOCUMENT[2:-2]} %}} \n{{{{ d }}}} {{{{ q }}}}", None),
    ],
)
def test_templates_are_filled_as_jinja_does(template, text):
    filled = PairPrompt(template).fill("Q", "D")
    if text is not None and "Q" in text:
        assert filled == text
    jinja2 = pytest.importorskip("jinja2.sandbox")
    environment = jinja2.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    messages = [{"role": "query", "content": "Q"}, {"role": "document", "content": "D"}]
    assert filled == environment.from_string(template).render(messages=messages)


@pytest.mark.parametrize(
    ("template", "error"),
    [
        (QUERY, "no place for the document: it is none of a reranker; Reranker.from_pretrained"),
        ("plain", "no place for the query"),
        (QUERY + QUERY + DOCUMENT, "two places for the query; one is supported"),
        (QUERY + DOCUMENT + "{{ bos_token }}", "'{{ bos_token }}' is not supported in the template of a reranker"),
        (QUERY + DOCUMENT + "{% if messages %}x{% endif %}", "'{% if messages %}' is not supported"),
        (QUERY + DOCUMENT + "{% for x in messages %}", "is not supported"),
        (QUERY + DOCUMENT + "{% set messages = messages %}", "is not supported"),
        (QUERY + DOCUMENT + "{{ unfinished", "'{{ unfinished' is not supported"),
        (QUERY + PLACE.format("user"), "is not supported"),
        (
            QUERY + DOCUMENT + "{{ (messages | selectattr('role', 'eq', 'system') | first).content }}",
            "is not supported",
        ),
        (QUERY + DOCUMENT.replace("first", "last"), "is not supported"),
        (QUERY + DOCUMENT.replace("first", "first | upper"), "is not supported"),
        (QUERY + DOCUMENT + "{{ ().__class__ }}", "is not supported"),
    ],
)
def test_other_templates_are_refused(tmp_path, template, error):
    folder = write(tmp_path, "qwen3")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ValueError, match=rf"^load: .*chat_template.jinja: .*{re.escape(error)}"):
        Reranker.from_pretrained(folder)
    with pytest.raises(ValueError, match=rf"^load: Reranker: chat_template: .*{re.escape(error)}"):
        Reranker.from_pretrained(folder, chat_template=template)


def test_where_templates_stand(tmp_path, rerankers):
    folder = write(tmp_path, "qwen3")
    scores = rerankers["qwen3"].predict(PAIRS)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match=r"^load: .*qwen3? has no chat template|has no chat template, which says how"):
        Reranker.from_pretrained(folder)
    np.testing.assert_array_equal(Reranker.from_pretrained(folder, chat_template=template).predict(PAIRS), scores)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    for held in (template, [{"name": "default", "template": template}, {"name": "other", "template": "x"}]):
        file.write_text(json.dumps(settings | {"chat_template": held}))
        np.testing.assert_array_equal(Reranker.from_pretrained(folder).predict(PAIRS), scores)
    file.write_text(json.dumps(settings | {"chat_template": {"a": 1}}))
    with pytest.raises(ValueError, match=r"^load: .*tokenizer_config.json: chat_template must be a string, not dict"):
        Reranker.from_pretrained(folder)
    (folder / "additional_chat_templates").mkdir()
    with pytest.raises(ValueError, match=r"^load: .*several chat templates are not supported"):
        Reranker.from_pretrained(folder)
    with pytest.raises(TypeError, match=r"^Reranker: chat_template must be a str or None, not int"):
        Reranker.from_pretrained(folder, chat_template=3)
    with pytest.raises(ValueError, match=r"^Reranker: chat_template is for models of language"):
        Reranker.from_pretrained(write(tmp_path / "bert", "bert"), chat_template=template)
    plain = Reranker.from_pretrained(folder, chat_template=QUERY + DOCUMENT)
    with pytest.raises(ValueError, match=r"^Reranker.predict: the model's chat template has no place for a prompt"):
        plain.predict(PAIRS, prompt="Is it so?")


def test_tokens_to_ask_for_are_named(tmp_path):
    folder = write(tmp_path, "qwen3")
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"] = content["model"]["merges"][:2]
    del content["model"]["vocab"]["no"]
    file.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"^load: .*tokenizer.json: the token no must be the number of a token, not No"
    ):
        Reranker.from_pretrained(folder)


def test_a_prompt_of_too_many_tokens(tmp_path, folders):
    reranker = Reranker.from_pretrained(folders["qwen3"], max_length=20)
    scores = reranker.predict(PAIRS)  # nothing of a text is left
    assert np.isfinite(scores).all() and (scores == scores[0]).all()
    with pytest.raises(ValueError, match=r"^Reranker: max_length must be an integer from 1 to "):
        Reranker.from_pretrained(folders["qwen3"], max_length=0)


def test_sentence_encoders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^load: .*holds a SentenceTransformer; use SentenceEncoder"):
        Reranker.from_pretrained(write_model(tmp_path))


def test_missing_files_and_heads_are_named(tmp_path, folders):
    folder = write(tmp_path / "model", "bert")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json is missing"):
        Reranker.from_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: x for name, x in tensors.items() if "classifier" not in name}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="missing tensors of the head for sequence-classification: classifier"):
        Reranker.from_pretrained(folder)
    for length, error in ((33, ValueError), (2, ValueError), (True, TypeError), ("8", TypeError)):
        with pytest.raises((error, ValueError), match=r"^Reranker: max_length must be an integer from 3 to 32, not"):
            Reranker.from_pretrained(folders["bert"], max_length=length)


@pytest.mark.parametrize(("number", "kind"), list(enumerate(CLASSES)))
def test_pairs_are_tokenized_as_autotokenizer_does(tmp_path, number, kind):
    """Whatever class of tokenizer a directory names: special tokens, types, cuts at either end."""
    charsmap = base64.b64decode(json.loads((FOLDER / "tokenizers.json").read_text())["charsmap"])
    for i, settings in enumerate(SETTINGS):
        folder = tmp_path / str(i)
        folder.mkdir()
        write_tokenizer(folder, *kind, settings, charsmap)
        tokenizer = read_tokenizer(folder / "tokenizer.json", VOCAB_SIZE, LONGEST)
        with_types = gives_types(Settings(folder), {"model_type": kind[0]})
        found = [tokenizer.encode(*pair) for pair in TEXTS]
        given = [[x.ids, x.type_ids if with_types else None] for x in found]
        assert given == RECORD["classes"][number * len(SETTINGS) + i], settings


def test_a_post_processor_that_repeats_a_text_is_refused(tmp_path):
    folder = write(tmp_path, "modernbert")
    content = json.loads((folder / "tokenizer.json").read_text())
    pair = content["post_processor"]["pair"]
    pair.append(next(piece for piece in pair if "Sequence" in piece))
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"^load: .*tokenizer.json: its post_processor repeats the text"):
        Reranker.from_pretrained(folder)


def test_types_that_the_model_lacks(tmp_path):
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "token_type_ids"]}
    folder = write(tmp_path, "xlm-roberta", tokenizer_config=settings)
    assert np.isfinite(Reranker.from_pretrained(folder).predict(PAIRS)).all()  # all are of type 0
    content = json.loads((folder / "tokenizer.json").read_text())
    for piece in content["post_processor"]["pair"]:
        next(iter(piece.values()))["type_id"] = 1
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"^load: .*tokenizer.json gives the type 1; config.json has 1 of them"):
        Reranker.from_pretrained(folder)


def test_tokens_that_the_model_lacks(tmp_path):
    folder = write(tmp_path, "modernbert")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["mat"] = 99
    (folder / "tokenizer.json").write_text(json.dumps(content))
    reranker = Reranker.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"^Reranker.predict: .*tokenizer.json gives the token 99; config.json has"):
        reranker.predict([("a", "mat")])


def test_pairs_without_tokens(tmp_path):
    folder = write(tmp_path, "modernbert")
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}))
    reranker = Reranker.from_pretrained(folder)
    with pytest.raises(
        ValueError, match=r"^Reranker.predict: .*tokenizer.json makes no tokens of pairs\[130\]; one is"
    ):
        reranker.predict([("a", "mat")] * 130 + [("", "")])


# --- calls


PAIR = r"a pair of str, \(query, document\), not"


@pytest.mark.parametrize(
    ("pairs", "kind", "error"),
    [
        (None, TypeError, "pairs must be a list of pairs of str, .* or one pair, not None"),
        ("the cat", TypeError, "pairs must be a list of pairs of str, .* or one pair, not str"),
        (3, TypeError, "pairs must be .*, not int"),
        (["the cat"], ValueError, rf"pairs must be {PAIR} 1 text$"),
        (("a", "b", "c"), ValueError, rf"pairs must be {PAIR} 3 texts"),
        ([("a", "b"), ("c",)], ValueError, rf"pairs\[1\] must be {PAIR} 1 text$"),
        ([("a", "b"), ()], ValueError, rf"pairs\[1\] must be {PAIR} 0 texts"),
        ([("a", "b"), "ab"], TypeError, rf"pairs\[1\] must be {PAIR} str"),
        ([("a", "b"), None], TypeError, rf"pairs\[1\] must be {PAIR} NoneType"),
        (["a", None], TypeError, rf"pairs\[0\] must be {PAIR} str"),
        ([("a", 3)], TypeError, r"pairs\[0\] must be a pair of str, not of int"),
        ([(b"a", "b")], TypeError, r"pairs\[0\] must be a pair of str, not of bytes"),
    ],
)
def test_wrong_pairs_are_named(rerankers, pairs, kind, error):
    with pytest.raises(kind, match=rf"^Reranker.predict: {error}"):
        rerankers["bert"].predict(pairs)


@pytest.mark.parametrize(
    ("given", "kind", "error"),
    [
        ({"query": None}, TypeError, "query must be a str, not NoneType"),
        ({"query": ["a"]}, TypeError, "query must be a str, not list"),
        ({"documents": "a"}, TypeError, r"documents must be a list of str, not a single one: rank\(query, \[text\]\)"),
        ({"documents": None}, TypeError, "documents must be a list of str, not NoneType"),
        ({"documents": ["a", 3]}, TypeError, r"documents\[1\] must be a str, not int"),
        ({"top_k": -1}, ValueError, "top_k must be an integer, 0 or more, not -1"),
        ({"top_k": 1.5}, (TypeError, ValueError), "top_k must be an integer, 0 or more, not 1.5"),
        ({"return_documents": "yes"}, TypeError, "return_documents must be True or False"),
        ({"activation": "tanh"}, ValueError, "activation must be one of 'identity', 'sigmoid', not 'tanh'"),
        ({"batch_tokens": 0}, ValueError, "batch_tokens must be a positive integer"),
        ({"truncate": None}, TypeError, "truncate must be True or False"),
        (
            {"truncate": False, "documents": ["a", "the cat " * 20]},
            ValueError,
            r"documents\[1\] has more than 24 tokens",
        ),
    ],
)
def test_wrong_arguments_of_rank_are_named(rerankers, given, kind, error):
    with pytest.raises(kind, match=rf"^Reranker.rank: {error}"):
        rerankers["bert"].rank(**{"query": "a", "documents": ["b"], **given})


def test_wrong_arguments_are_named_before_any_work(rerankers, monkeypatch):
    reranker = rerankers["bert"]
    monkeypatch.setattr(reranker._scorer, "model", None)  # which would be called
    pairs = [["a", "b"]] * 300
    for options, error in (
        ({"activation": 1}, "activation must be one of"),
        ({"apply_softmax": 2}, "apply_softmax must be True or False"),
        ({"batch_tokens": "9"}, "batch_tokens must be a positive integer"),
    ):
        with pytest.raises((TypeError, ValueError), match=rf"^Reranker.predict: {error}"):
            reranker.predict(pairs, **options)
    with pytest.raises(TypeError, match=r"^Reranker.predict: pairs\[300\]"):
        reranker.predict([*pairs, 3])


@pytest.mark.filterwarnings("default")
def test_a_warning_says_once_that_pairs_are_cut(folders):
    reranker = Reranker.from_pretrained(folders["bert"])
    long = ("find", "the cat " * 20)
    with pytest.raises(
        ValueError, match=r"^Reranker.predict: pairs\[1\] has more than 24 tokens; truncate=True cuts it"
    ):
        reranker.predict([("a", "b"), long], truncate=False)
    with pytest.warns(UserWarning, match=r"^Reranker.predict: pairs\[1\] has more than 24 .* are cut \(said") as seen:
        reranker.predict([("a", "b"), long])
    assert seen[0].filename == __file__  # where predict is called
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reranker.predict([long])  # says no more


def test_a_bar_is_drawn_if_asked(rerankers, capsys):
    pytest.importorskip("tqdm")
    rerankers["bert"].predict(PAIRS, show_progress=True)
    assert re.search(r"scoring: 100%.* 10/10 .*pair", capsys.readouterr().err)
    rerankers["bert"].predict(PAIRS * 40)
    assert not capsys.readouterr().err


def test_lone_surrogates_are_scored(rerankers):
    scores = rerankers["bert"].predict([("a \ud800", "b"), ("a ?", "b")])
    assert scores[0] == scores[1]


@pytest.mark.oracle
@pytest.mark.parametrize("name", CASES)
def test_beside_cross_encoder(folders, rerankers, name):
    if importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip("sentence-transformers is not installed")
    from sentence_transformers import CrossEncoder

    rng = np.random.default_rng(1)
    words = ["cat", "dog", "root", "the", "?", "zz", "Find"]
    pairs = [tuple(" ".join(rng.choice(words, rng.integers(0, 30))) for _ in range(2)) for _ in range(60)]
    encoder = CrossEncoder(str(folders[name]))
    np.testing.assert_allclose(rerankers[name].predict(pairs), encoder.predict(pairs), atol=1e-5, rtol=0)
    if name in ONE:
        documents = [second for _, second in pairs]
        given, expected = rerankers[name].rank("the cat", documents), encoder.rank("the cat", documents)
        np.testing.assert_allclose([x["score"] for x in given], [x["score"] for x in expected], atol=1e-5, rtol=0)
